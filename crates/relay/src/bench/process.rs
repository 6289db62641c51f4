//! The processes that are measured.

use core::time::Duration;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use junto_smp::address::ServerAddress;
use junto_tls::ServerIdentity;
use rustls::pki_types::UnixTime;

use super::{BenchError, BenchOptions, floor};
use crate::config::{RelayConfig, Storage};
use crate::folder::{self, generator};
use crate::relay::Relay;

/// What the started process reads from its environment: kind, threads, and folder of the journal.
const VARIABLE: &str = "JUNTO_BENCH_CHILD";

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Relay,
    Floor,
}

/// The number of a process on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched(pub(super) u32);

impl Watched {
    /// CPU time of all its threads so far, in steps of 10 ms; threads that have ended count as well.
    pub(super) fn cpu(self) -> Result<Duration, BenchError> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0));
        let stat = stat.map_err(BenchError::Process)?;
        // The second field is a name in parentheses, with whatever in it. User and system time are the
        // 14th and 15th, in hundredths of a second on every kernel that is not for an Alpha.
        let ticks = stat.rsplit_once(')').and_then(|(_, rest)| {
            let mut fields = rest.split_whitespace().skip(11);
            let (user, system): (u64, u64) =
                (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            Some(user + system)
        });
        ticks
            .map(|ticks| Duration::from_millis(ticks * 10))
            .ok_or_else(|| BenchError::Process(io::ErrorKind::InvalidData.into()))
    }

    /// Its resident memory.
    pub(super) fn resident_bytes(self) -> Result<u64, BenchError> {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.0)).map_err(BenchError::Process)?;
        let kib: Option<u64> = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| BenchError::Process(io::ErrorKind::InvalidData.into()))
    }

    /// Bytes by which its resident memory has grown.
    pub(super) fn grown_since(self, bytes: u64) -> Result<f64, BenchError> {
        Ok(self.resident_bytes()?.saturating_sub(bytes) as f64)
    }
}

/// A running process; ends when dropped.
pub(super) struct Process {
    pub(super) address: ServerAddress,
    child: Child,
    journal: Option<PathBuf>,
}

impl Process {
    pub(super) async fn start(kind: Kind, options: &BenchOptions) -> Result<Self, BenchError> {
        let options = *options;
        let start = move || Self::start_blocking(kind, &options);
        let started = tokio::task::spawn_blocking(start).await;
        started
            .map_err(|_| BenchError::Defect)?
            .map_err(BenchError::Process)
    }

    fn start_blocking(kind: Kind, options: &BenchOptions) -> io::Result<Self> {
        let journal = options.journal.map(|_| Self::temporary());
        let storage = match (&journal, options.journal) {
            (Some(dir), Some(sync)) => format!("{sync} {}", dir.display()),
            _ => "memory".to_owned(),
        };
        let name = match kind {
            Kind::Relay => "relay",
            Kind::Floor => "floor",
        };
        let mut child = Command::new(std::env::current_exe()?)
            .env(VARIABLE, format!("{name} {} {storage}", options.threads))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        let process = |address| Self {
            address,
            child,
            journal,
        };
        match address {
            Ok(address) => Ok(process(address)),
            Err(_) => Err(io::Error::other(
                "the program does not start the measured process",
            )),
        }
    }

    /// A path that nobody else uses.
    pub(super) fn temporary() -> PathBuf {
        let unique = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        std::env::temp_dir().join(format!("junto-bench-{}-{unique}", std::process::id()))
    }

    /// CPU time of all its threads so far, to the nanosecond: our relay's live as long as it does.
    pub(super) fn cpu(&self) -> Result<Duration, BenchError> {
        self.read_cpu().map_err(BenchError::Process)
    }

    fn read_cpu(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // The first number: time on a CPU, kernel time included.
            let text = match fs::read_to_string(task?.path().join("schedstat")) {
                Ok(text) => text,
                Err(_) => continue, // A thread that has just ended.
            };
            let time: u64 = text
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .ok_or(io::ErrorKind::InvalidData)?;
            nanoseconds += time;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory.
    pub(super) fn resident_bytes(&self) -> Result<u64, BenchError> {
        Watched(self.child.id()).resident_bytes()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(dir) = &self.journal {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Becomes the measured process if this program was started as one, and then never returns.
/// Otherwise does nothing. To be called first in `main`.
pub fn child() {
    let Ok(told) = std::env::var(VARIABLE) else {
        return;
    };
    let code = match run(&told) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    std::process::exit(code);
}

fn run(told: &str) -> io::Result<()> {
    let mut words = told.splitn(3, ' ');
    let (Some(kind), Some(threads), Some(storage)) = (words.next(), words.next(), words.next())
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let threads: usize = threads.parse().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()?;
    let identity = identity()?;
    let _running = match kind {
        "relay" => {
            let relay = runtime.block_on(start_relay(storage, identity))?;
            say(&relay.address())?;
            Some(relay)
        }
        "floor" => {
            let (address, task) = runtime.block_on(floor::serve(identity))?;
            say(&address)?;
            drop(task);
            None
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    // Until the parent is gone.
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

async fn start_relay(
    storage: &str,
    identity: ServerIdentity,
) -> io::Result<crate::relay::RunningRelay> {
    let bind = core::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = RelayConfig::in_memory("127.0.0.1", bind).map_err(io::Error::other)?;
    // The longest curves and what warms them up.
    config.limits.connections = 20_000;
    config.limits.queues = 2_000_000;
    config.limits.handshakes = 1_000;
    // A proxy's destination is here as well.
    config.proxy.allow_private = true;
    config.proxy.allow_own = true;
    // All of its clients come from one address that limits by source do not hold for.
    config.proxy.limits.forwards_per_destination = crate::proxy::FORWARDS_MAX;
    if let Some((sync, dir)) = storage.split_once(' ') {
        config.storage = Storage::Journal {
            dir: dir.into(),
            sync: sync == "true",
        };
    }
    Relay::start(config, identity)
        .await
        .map_err(io::Error::other)
}

fn identity() -> io::Result<ServerIdentity> {
    let mut rng = generator().map_err(io::Error::other)?;
    ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).map_err(io::Error::other)
}

fn say(address: &ServerAddress) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// The address of a server on loopback.
pub(super) fn loopback(identity: &ServerIdentity, port: u16) -> io::Result<ServerAddress> {
    let host = "127.0.0.1".parse().map_err(io::Error::other)?;
    folder::address(identity, vec![host], port).map_err(io::Error::other)
}
