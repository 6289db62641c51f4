//! The `junto` command: [`main`] is the binary, [`Embedded`] is what bindings of other languages stand on.

mod args;
mod bench;
mod bls;
mod code;
mod contact;
#[cfg(unix)]
mod daemon;
mod demo;
mod device;
mod embed;
mod failure;
mod file;
mod input;
mod lan;
mod lobby;
mod log;
mod open;
mod output;
mod parties;
mod profile;
mod relay;
mod run;
mod session;
mod slip;
mod talk;
mod vault;
mod way;

use std::process::ExitCode;

pub use crate::embed::{Embedded, NewSession};
pub use crate::failure::{Exit, Failure};

use crate::args::{Cli, Command, ContactCommand, DeviceCommand};
use crate::failure::Context;
use crate::output::Output;

/// The operating system's random generator.
fn random() -> impl rand_core::CryptoRng {
    rand_core::UnwrapErr(getrandom::SysRng)
}

/// What the binary does: everything a person types.
#[must_use]
pub fn main() -> ExitCode {
    // `junto bench relay` starts this program again as the server that it measures.
    junto_relay::bench::child();
    // `junto run` starts this program again to become the one that it runs.
    run::tethered();
    let cli = match slip::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let output = cli.global.output();
    log::start(cli.global.verbose);
    match run(cli, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(output.failure(&failure) as u8),
    }
}

fn run(cli: Cli, output: Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
    runtime.block_on(dispatch(cli, output))
}

async fn dispatch(cli: Cli, output: Output) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Demo(arguments) => demo::run(arguments, output).await,
        Command::Relay(command) => relay::run(command, global, output).await,
        Command::Profile(command) => profile::run(command, global, output),
        Command::Session(command) => session::run(command, global, output).await,
        Command::Bls(command) => bls::run(command, global, output).await,
        Command::Connect(arguments) => contact::connect(arguments, global, output).await,
        Command::Contact { command } => {
            let command = command.unwrap_or(ContactCommand::List);
            contact::run(command, global, output).await
        }
        Command::Device { command } => {
            let command = command.unwrap_or(DeviceCommand::List);
            device::run(command, global, output).await
        }
        Command::File(command) => file::run(command, global, output).await,
        Command::Run(arguments) => run::run(arguments, global, output).await,
        Command::Send(arguments) => talk::send(arguments, global, output).await,
        Command::Recv(arguments) => talk::recv(arguments, global, output).await,
        Command::Chat(arguments) => talk::chat(arguments, global, output).await,
        #[cfg(unix)]
        Command::Daemon => daemon::run(global, output).await,
        Command::Vault(command) => vault::run(command, global, output).await,
        Command::Bench(command) => bench::run(command, output).await,
    }
}
