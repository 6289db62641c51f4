//! `junto vault`: a profile under a PIN with several realms, and the realms.

mod client;
mod floor;
mod flow;
mod frontend;
mod guess;
mod moving;
mod process;
mod realm;
mod replica;
mod sealed;
mod set;
mod status;
mod store;

use crate::args::{Global, RealmCommand, VaultCommand};
use crate::failure::Failure;
use crate::output::Output;

/// Switches core files and debuggers off and keeps this process's memory from being swapped; says what it could not.
#[cfg(target_os = "linux")]
fn keep_in_memory() -> Vec<String> {
    let short = junto_realm::memory::keep();
    short.iter().map(|it| it.advice().to_owned()).collect()
}

#[cfg(not(target_os = "linux"))]
fn keep_in_memory() -> Vec<String> {
    vec!["on this system what is kept in memory may be written to a disk".to_owned()]
}

/// Runs one of the commands.
pub(crate) async fn run(
    command: VaultCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    match command {
        VaultCommand::Backup(arguments) => client::backup(arguments, global, output).await,
        VaultCommand::Restore(arguments) => client::restore(arguments, global, output).await,
        VaultCommand::Delete(reach) => client::delete(&reach, output).await,
        VaultCommand::Status(reach) => status::status(&reach, output).await,
        VaultCommand::Tenant { out, name } => set::make_tenant(&out, &name, output),
        VaultCommand::Set {
            out,
            threshold,
            tenant,
            policy,
            realms,
        } => set::make(&out, threshold, &tenant, policy.as_deref(), &realms, output),
        VaultCommand::Realm(command) => Box::pin(of_realms(command, output)).await,
    }
}

/// Runs one of the commands on realms.
async fn of_realms(command: RealmCommand, output: Output) -> Result<(), Failure> {
    match command {
        RealmCommand::Init {
            dir,
            host,
            port,
            replicas,
            rollbacks,
            frontends,
            tenant,
            group_of,
        } => {
            let settings = match &group_of {
                Some(first) => realm::Settings::group_of(first, host, port, replicas, rollbacks)?,
                None => realm::Settings::new(host, port, replicas, rollbacks, &tenant)?,
            };
            let settings = settings.with_frontends(frontends)?;
            realm::init(&dir, &settings, group_of.as_deref(), output)
        }
        RealmCommand::Move {
            from,
            to,
            percent,
            take_back,
            timeout,
        } => {
            let wanted = moving::Wanted {
                from,
                to,
                percent,
                take_back,
                patience: std::time::Duration::from_secs(timeout),
            };
            Box::pin(moving::run(wanted, output)).await
        }
        RealmCommand::Start { dir } => realm::start(&dir, output).await,
        RealmCommand::Try {
            dir,
            replicas,
            frontends,
        } => realm::try_out(&dir, replicas, frontends, output).await,
        RealmCommand::Frontend { dir, port } => frontend::alone(&dir, port, output).await,
        RealmCommand::Door { listen } => frontend::run(&listen).await,
        RealmCommand::Replica { listen } => replica::run(&listen).await,
    }
}
