//! `junto relay`: make, run and ask a relay.

use std::path::Path;
use std::time::Instant;

use junto_agent::client::{ClientError, ClientOptions, RelayClient};
use junto_relay::{FolderError, Relay, RelayConfig, RelayError, init_dir, load_dir};
use junto_smp::address::ServerAddress;
use junto_tls::ClientTls;
use serde_json::json;

use crate::args::RelayCommand;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Runs one of the commands.
pub(crate) async fn run(command: RelayCommand, output: Output) -> Result<(), Failure> {
    match command {
        RelayCommand::Init { dir, host, port } => init(&dir, &host, port, output),
        RelayCommand::Start { dir } => start(&dir, output).await,
        RelayCommand::Status {
            address: Some(address),
            ..
        } => status(&address, output).await,
        RelayCommand::Status { address: None, dir } => {
            let dir =
                dir.ok_or_else(|| Failure::usage("name a relay, by its address or with `--dir`"))?;
            status(&address_of(&dir)?, output).await
        }
    }
}

fn folder_failure(error: FolderError) -> Failure {
    match &error {
        FolderError::Exists { .. } => Failure::usage(&error)
            .help("start it with `junto relay start --dir DIR`, or name another folder"),
        FolderError::Config { .. } => {
            Failure::usage(&error).help("correct the file and start again")
        }
        _ => Failure::failed(&error),
    }
}

fn init(dir: &Path, host: &str, port: u16, output: Output) -> Result<(), Failure> {
    let address = init_dir(dir, host, port).map_err(folder_failure)?;
    let address = address.to_string();
    let report = json!({ "address": address, "dir": dir });
    output.result(&report, || {
        let dir = dir.display();
        format!(
            "{address}\n\nThat is the address for its users. Settings: {dir}/relay.toml\n\
             Keep a copy of the offline certificate's key in a safe place; without it the address dies with the disk.\n\
             Start it with: junto relay start --dir {dir}"
        )
    })
}

fn address_of(dir: &Path) -> Result<String, Failure> {
    let (config, identity) = load_dir(dir).map_err(folder_failure)?;
    let port = config.bind.port();
    let RelayConfig { hosts, .. } = config;
    junto_relay::address(&identity, hosts, port)
        .map(|address| address.to_string())
        .map_err(folder_failure)
}

async fn start(dir: &Path, output: Output) -> Result<(), Failure> {
    let (config, identity) = load_dir(dir).map_err(folder_failure)?;
    let mut relay = Relay::start(config, identity)
        .await
        .map_err(relay_failure)?;
    let address = relay.address().to_string();
    output.result(&json!({ "address": address }), || address.clone())?;
    output.say(format_args!(
        "listening on {}; end with Ctrl-C",
        relay.local_addr()
    ));
    tokio::select! {
        ended = relay.ended() => return ended.map_err(relay_failure),
        asked = asked_to_end() => asked?,
    }
    output.say("ending: letting connections finish");
    relay.shutdown().await.map_err(relay_failure)
}

fn relay_failure(error: RelayError) -> Failure {
    let failure = Failure::failed(&error);
    match error {
        RelayError::Listen { .. } => failure.help(
            "is another relay running? otherwise choose another `bind` or `port` in relay.toml",
        ),
        RelayError::StoreFailed => {
            failure.help("make room on the disk and start again: whatever was confirmed is safe")
        }
        _ => failure,
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn asked_to_end() -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format_args!("cannot wait for signals: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.map_err(cannot),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(cannot)
}

async fn status(text: &str, output: Output) -> Result<(), Failure> {
    let address: ServerAddress = text.parse().map_err(|error| {
        Failure::usage(format_args!("`{text}` is no relay address: {error}"))
            .help("it looks like smp://FINGERPRINT@host[:port]; `junto relay init` prints it")
    })?;
    let started = Instant::now();
    let tls = ClientTls::new().map_err(|error| Failure::failed(format_args!("TLS: {error}")))?;
    let (client, _notices) = RelayClient::connect(&tls, &address, &ClientOptions::default())
        .await
        .map_err(client_failure)?;
    let connect_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let version = client.version().number();
    client.close().await;
    let report =
        json!({ "address": text, "up": true, "version": version, "connect_ms": connect_ms });
    output.result(&report, || {
        format!("up: speaks SMP version {version}, connected in {connect_ms} ms")
    })
}

/// What an error of a connection to a relay means for the exit code.
fn client_failure(error: ClientError) -> Failure {
    match &error {
        ClientError::Network(_) | ClientError::Timeout => Failure::new(Exit::Unreachable, &error)
            .help("check the host and the port, and that the relay runs"),
        ClientError::Identity => {
            Failure::refused(&error).help("another server answers at that place: do not use it")
        }
        _ => Failure::failed(&error),
    }
}
