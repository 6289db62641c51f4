//! `cargo bench -p junto-agent`: the figures of `junto_agent::bench`.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench")]

fn main() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let report =
        junto_agent::bench::run(junto_agent::bench::BenchOptions::default(), folder.path());
    println!("{:#?}", report.unwrap());
}
