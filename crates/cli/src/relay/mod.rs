//! `junto relay`: make, run, keep and ask a relay.

pub(crate) mod login;
mod upkeep;

use std::path::Path;
use std::time::{Duration, Instant};

use junto_agent::client::{ClientError, ClientOptions, RelayClient, SocksServer};
use junto_relay::{FolderError, Relay, RelayConfig, RelayError, RunningRelay, init_dir, load_dir};
use junto_smp::address::ServerAddress;
use junto_tls::ClientTls;
use serde_json::json;

use crate::args::{Global, RelayCommand};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::profile::ProfileConfig;
use crate::way;

/// A relay that has not answered after so long is looked at.
const SLOW: Duration = Duration::from_secs(2);

/// Runs one of the commands.
pub(crate) async fn run(
    command: RelayCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    // The profile is not opened for this.
    let socks = way::socks(global, &ProfileConfig::default())?;
    match command {
        RelayCommand::Init { dir, host, port } => init(&dir, &host, port, output),
        RelayCommand::Start { dir } => start(&dir, output).await,
        RelayCommand::Check { dir } => upkeep::look(&dir, output),
        RelayCommand::Export { dir, file } => upkeep::export(&dir, &file, output),
        RelayCommand::Import(arguments) => upkeep::import(&arguments, output),
        RelayCommand::RotateCertificate { dir, ca } => upkeep::rotate(&dir, ca.as_deref(), output),
        RelayCommand::Login {
            address,
            password_file,
            forget,
        } => login::run(&address, password_file.as_deref(), forget, global, output),
        RelayCommand::Status {
            address: Some(address),
            ..
        } => status(&address, socks, output).await,
        RelayCommand::Status { address: None, dir } => {
            let dir =
                dir.ok_or_else(|| Failure::usage("name a relay, by its address or with `--dir`"))?;
            status(&address_of(&dir)?, socks, output).await
        }
    }
}

fn folder_failure(error: FolderError) -> Failure {
    match &error {
        FolderError::Exists { .. } => Failure::usage(&error)
            .help("start it with `junto relay start --dir DIR`, or name another folder"),
        FolderError::Config { .. } => Failure::usage(&error)
            .help("correct the file; `junto relay check` tells when it is right"),
        FolderError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::failed(&error)
                .help("`--dir` names the folder of a relay; `junto relay init` makes one")
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
    crate::log::level(config.log.name());
    let mut relay = Relay::start(config, identity)
        .await
        .map_err(relay_failure)?;
    let mut signals = Signals::new()?;
    let address = relay.address().to_string();
    let monitor = relay.monitor_addr();
    let report = json!({ "address": address, "monitor": monitor });
    output.result(&report, || address.clone())?;
    output.say(format_args!(
        "listening on {}; end with Ctrl-C",
        relay.local_addr()
    ));
    if let Some(monitor) = monitor {
        output.say(format_args!("metrics and health on http://{monitor}"));
    }
    loop {
        let signal = tokio::select! {
            ended = relay.ended() => return ended.map_err(relay_failure),
            signal = signals.next() => signal,
        };
        match signal {
            Signal::End => break,
            Signal::Reload => reload(&relay, dir, output),
        }
    }
    output.say("ending: letting connections finish");
    relay.shutdown().await.map_err(relay_failure)
}

/// Reads settings and certificate again. With a mistake in them, the relay goes on as it was.
fn reload(relay: &RunningRelay, dir: &Path, output: Output) {
    let taken = load_dir(dir)
        .map_err(folder_failure)
        .and_then(|(config, identity)| {
            let level = config.log;
            let reloaded = relay.reload(config, &identity).map_err(relay_failure)?;
            crate::log::level(level.name());
            Ok(reloaded)
        });
    match taken {
        Ok(reloaded) => {
            output.say("reloaded");
            if reloaded.certificate {
                output.say("reloaded: a new certificate is shown");
            }
            for name in reloaded.waiting {
                output.say(format_args!(
                    "reloaded, but `{name}` waits for the next start"
                ));
            }
        }
        // A person must see it, also with `--quiet`.
        Err(failure) => tracing::error!("not reloaded, goes on as before: {}", failure.message),
    }
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

/// What somebody wants of a running relay.
enum Signal {
    /// Ctrl-C or SIGTERM.
    End,
    /// SIGHUP.
    Reload,
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::failed(format_args!("cannot wait for signals: {error}")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            // A reload that was asked for before the end is not lost.
            biased;
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::End,
            Err(_) => core::future::pending().await,
        }
    }
}

/// A relay's address as a user gives it.
pub(crate) fn parse_address(text: &str) -> Result<ServerAddress, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format_args!("`{text}` is no relay address: {error}"))
            .help("it looks like smp://FINGERPRINT@host[:port]; `junto relay init` prints it")
    })
}

/// A connection to a relay.
async fn connect(
    address: &ServerAddress,
    socks: Option<SocksServer>,
) -> Result<RelayClient, Failure> {
    let tls = ClientTls::new().map_err(|error| Failure::failed(format_args!("TLS: {error}")))?;
    let options = ClientOptions {
        socks,
        ..ClientOptions::default()
    };
    let connected = RelayClient::connect(&tls, address, &options, None).await;
    let (client, _notices) = connected.map_err(client_failure)?;
    Ok(client)
}

/// Why it is in vain to wait for a relay: it refuses, or somebody else answers in its place. Never returns otherwise.
pub(crate) async fn in_vain(address: &ServerAddress, socks: Option<SocksServer>) -> Failure {
    // One that is as it should be has answered by then.
    tokio::time::sleep(SLOW).await;
    match connect(address, socks).await {
        Err(failure) if failure.exit == Exit::Refused => failure,
        Err(_) | Ok(_) => core::future::pending().await,
    }
}

async fn status(text: &str, socks: Option<SocksServer>, output: Output) -> Result<(), Failure> {
    let address = parse_address(text)?;
    let started = Instant::now();
    let client = connect(&address, socks).await?;
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
pub(crate) fn client_failure(error: ClientError) -> Failure {
    match &error {
        ClientError::Network(_) | ClientError::Timeout => Failure::new(Exit::Unreachable, &error)
            .help("check the host and the port, and that the relay runs"),
        ClientError::Identity => Failure::refused(&error).help(
            "do not use it; if the relay was set up anew, ask its operator for the new address",
        ),
        ClientError::OnionOnly => {
            Failure::refused(&error).help("with Tor running, add `--socks 127.0.0.1:9050`")
        }
        _ => Failure::failed(&error),
    }
}
