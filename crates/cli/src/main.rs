//! The junto binary: everything a person types.

fn main() -> std::process::ExitCode {
    junto_cli::main()
}
