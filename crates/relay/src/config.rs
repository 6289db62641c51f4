//! Settings of a relay: what an operator may choose, with safe defaults.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::path::{Path, PathBuf};

use junto_smp::address::{AddressError, DEFAULT_PORT, Host};
use junto_smp::queue;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Everything that a relay needs to know, except who it is.
#[derive(Debug)]
pub struct RelayConfig {
    /// Names under which clients reach the relay; they become part of its address.
    pub hosts: Vec<Host>,
    /// Where to listen. Port 0 takes any free port.
    pub bind: SocketAddr,
    /// Who may create queues: everybody, or those who know this.
    pub password: Option<Password>,
    /// Bounds of everything.
    pub limits: Limits,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// Where queues and messages live.
    pub storage: Storage,
}

impl RelayConfig {
    /// A relay in memory on `bind`, for tests and embedding, reached as `host`.
    ///
    /// # Errors
    /// [`AddressError::Host`].
    pub fn in_memory(host: &str, bind: SocketAddr) -> Result<Self, AddressError> {
        Ok(Self {
            hosts: vec![host.parse()?],
            bind,
            password: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            storage: Storage::Memory,
        })
    }

    /// Reads the text of a `relay.toml`. Relative paths are relative to `dir`.
    ///
    /// # Errors
    /// [`ConfigError`], which names line and field.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Syntax {
            message: Box::from(error.to_string()),
        })?;
        file.into_config(dir)
    }
}

/// A password, compared in constant time and never printed.
pub struct Password(Zeroizing<Box<[u8]>>);

impl Password {
    /// Takes a password; empty ones are refused, since a client cannot send them.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(Zeroizing::new(Box::from(text.as_bytes()))))
    }

    /// Whether `given` is the password.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(&**self.0, given).into()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Bounds. What one connection, one queue and all together may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, at most 40 KiB each while idle. Further ones are closed at once.
    pub connections: usize,
    /// Connections in their handshake, about 1 ms of CPU each. Further ones wait in the listener's
    /// backlog.
    pub handshakes: usize,
    /// Queues, below 1 KiB each while empty. Then `NEW` is refused with `QUOTA`.
    pub queues: usize,
    /// Bytes of all waiting messages. Then `SEND` is refused with `QUOTA`.
    pub message_bytes: usize,
    /// Messages in one queue; 16 KiB each.
    pub messages_per_queue: usize,
    /// Queues that one connection may subscribe to, about 100 bytes each. Then `SUB` is refused
    /// with `QUOTA`.
    pub subscriptions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            handshakes: 128,
            queues: 1_000_000,
            message_bytes: 1 << 30,
            messages_per_queue: queue::Limits::default().messages,
            subscriptions: 50_000,
        }
    }
}

/// Waiting times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the TCP connection to the end of the SMP handshake.
    pub handshake: Duration,
    /// Without a block from the client. Clients ping every 10 minutes if they are subscribed.
    pub idle: Duration,
    /// Without progress in sending while something waits to be sent: a slow or dead reader.
    pub send: Duration,
    /// After which a waiting message is dropped.
    pub message: Duration,
    /// Between two searches for expired messages.
    pub sweep: Duration,
    /// For connections to finish what they are sending, at shutdown.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(30),
            idle: Duration::from_secs(6 * 60 * 60),
            send: Duration::from_secs(60),
            message: Duration::from_secs(queue::Limits::default().retention_seconds),
            sweep: Duration::from_secs(10 * 60),
            drain: Duration::from_secs(5),
        }
    }
}

/// Where queues and messages live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory: a restart forgets everything.
    Memory,
    /// In memory and in a journal, from which a restart continues.
    Journal {
        /// Folder of the journal.
        dir: PathBuf,
        /// Whether an answer waits until the disk has it (survives power failure), or only until
        /// the system has it (survives the end of the process).
        sync: bool,
    },
}

/// What is wrong with a `relay.toml`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not TOML, or with unknown or wrongly typed fields.
    #[error("{message}")]
    Syntax {
        /// Line, column and reason.
        message: Box<str>,
    },
    /// A host name is none.
    #[error("`hosts`: {0}")]
    Host(AddressError),
    /// A number is out of its range.
    #[error("`{field}` must be {range}")]
    Range {
        /// Which field.
        field: &'static str,
        /// What is allowed.
        range: &'static str,
    },
}

/// The file. Every field but the host has a default; unknown fields are errors, so that a typo in a
/// limit cannot leave it off.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    hosts: Vec<String>,
    #[serde(default = "default_port")]
    port: u16,
    #[serde(default = "default_bind")]
    bind: IpAddr,
    password: Option<String>,
    #[serde(default)]
    storage: StorageFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    timeouts: TimeoutsFile,
}

const fn default_port() -> u16 {
    DEFAULT_PORT
}

const fn default_bind() -> IpAddr {
    IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StorageFile {
    mode: StorageMode,
    journal: Option<PathBuf>,
    sync: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum StorageMode {
    #[default]
    Journal,
    Memory,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LimitsFile {
    connections: Option<usize>,
    handshakes: Option<usize>,
    queues: Option<usize>,
    message_mib: Option<usize>,
    messages_per_queue: Option<usize>,
    subscriptions_per_connection: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TimeoutsFile {
    handshake_s: Option<u64>,
    idle_s: Option<u64>,
    send_s: Option<u64>,
    message_days: Option<u64>,
    sweep_s: Option<u64>,
    drain_s: Option<u64>,
}

impl File {
    fn into_config(self, dir: &Path) -> Result<RelayConfig, ConfigError> {
        let hosts: Vec<Host> = self
            .hosts
            .iter()
            .map(|host| host.parse())
            .collect::<Result<_, _>>()
            .map_err(ConfigError::Host)?;
        if !(1..=junto_smp::address::HOSTS_MAX).contains(&hosts.len()) {
            return Err(ConfigError::Range {
                field: "hosts",
                range: "1 to 8 names",
            });
        }
        let password = match self.password {
            None => None,
            Some(text) => Some(
                Password::new(&Zeroizing::new(text)).ok_or(ConfigError::Range {
                    field: "password",
                    range: "absent or not empty",
                })?,
            ),
        };
        let storage = match self.storage.mode {
            StorageMode::Memory => Storage::Memory,
            StorageMode::Journal => Storage::Journal {
                dir: dir.join(self.storage.journal.unwrap_or_else(|| "journal".into())),
                sync: self.storage.sync.unwrap_or(true),
            },
        };
        Ok(RelayConfig {
            hosts,
            bind: SocketAddr::new(self.bind, self.port),
            password,
            limits: self.limits.into_limits()?,
            timeouts: self.timeouts.into_timeouts()?,
            storage,
        })
    }
}

/// `given`, or the default; refused if below 1 or above `max`.
fn within<T: PartialOrd + From<u8>>(
    field: &'static str,
    range: &'static str,
    given: Option<T>,
    default: T,
    max: T,
) -> Result<T, ConfigError> {
    let value = given.unwrap_or(default);
    if value < T::from(1) || value > max {
        return Err(ConfigError::Range { field, range });
    }
    Ok(value)
}

impl LimitsFile {
    fn into_limits(self) -> Result<Limits, ConfigError> {
        const BILLION: usize = 1_000_000_000;
        let d = Limits::default();
        let count = "1 to 1000000000";
        let mib = within(
            "limits.message_mib",
            "1 to 1048576",
            self.message_mib,
            d.message_bytes >> 20,
            1 << 20,
        )?;
        Ok(Limits {
            connections: within(
                "limits.connections",
                count,
                self.connections,
                d.connections,
                BILLION,
            )?,
            handshakes: within(
                "limits.handshakes",
                "1 to 65536",
                self.handshakes,
                d.handshakes,
                1 << 16,
            )?,
            queues: within("limits.queues", count, self.queues, d.queues, BILLION)?,
            message_bytes: mib << 20,
            messages_per_queue: within(
                "limits.messages_per_queue",
                "1 to 65536",
                self.messages_per_queue,
                d.messages_per_queue,
                1 << 16,
            )?,
            subscriptions: within(
                "limits.subscriptions_per_connection",
                count,
                self.subscriptions_per_connection,
                d.subscriptions,
                BILLION,
            )?,
        })
    }
}

impl TimeoutsFile {
    fn into_timeouts(self) -> Result<Timeouts, ConfigError> {
        const YEAR_S: u64 = 366 * 24 * 60 * 60;
        let d = Timeouts::default();
        let seconds = |field, given, default: Duration| {
            within(
                field,
                "1 to 31622400 seconds",
                given,
                default.as_secs(),
                YEAR_S,
            )
            .map(Duration::from_secs)
        };
        let default_days = d.message.as_secs() / 86_400;
        let days = within(
            "timeouts.message_days",
            "1 to 3650",
            self.message_days,
            default_days,
            3_650,
        )?;
        Ok(Timeouts {
            handshake: seconds("timeouts.handshake_s", self.handshake_s, d.handshake)?,
            idle: seconds("timeouts.idle_s", self.idle_s, d.idle)?,
            send: seconds("timeouts.send_s", self.send_s, d.send)?,
            message: Duration::from_secs(days * 86_400),
            sweep: seconds("timeouts.sweep_s", self.sweep_s, d.sweep)?,
            drain: seconds("timeouts.drain_s", self.drain_s, d.drain)?,
        })
    }
}

/// The text of a new `relay.toml`, in which every default is written out as a comment.
#[must_use]
pub(crate) fn template(host: &Host, port: u16) -> String {
    // A relay that is reached over loopback has no business on other interfaces.
    let loopback = host
        .as_str()
        .parse::<IpAddr>()
        .ok()
        .filter(IpAddr::is_loopback);
    let bind = match loopback {
        Some(address) => format!("bind = \"{address}\""),
        None => "# bind = \"::\"".to_owned(),
    };
    format!(
        r#"# Settings of this relay. Lines that start with # show the defaults.
# The identity of the relay is in ca.crt; keep ca.key somewhere offline.

# Names under which clients reach it, at most 8. They are part of its address.
hosts = ["{host}"]
port = {port}
# Where to listen: "::" is every interface, IPv6 and IPv4.
{bind}

# Clients need this to create queues. Absent: everybody may.
# password = "..."

[storage]
# "journal": queues and messages survive a restart. "memory": they do not.
# mode = "journal"
# Folder of the journal, relative to this file.
# journal = "journal"
# true: an answer waits for the disk. false: it waits for the system only, which is faster and
# loses the last moments if the machine (not just the relay) stops.
# sync = true

[limits]
# Open connections (up to 40 KiB of memory each), and how many may be in their handshake.
# connections = 10000
# handshakes = 128
# Queues (1 KiB of memory each), and memory for all waiting messages.
# queues = 1000000
# message_mib = 1024
# Waiting messages in one queue (16 KiB each).
# messages_per_queue = 128
# subscriptions_per_connection = 50000

[timeouts]
# handshake_s = 30
# A client that sends nothing for this long is closed.
# idle_s = 21600
# A client that takes nothing of what waits for it for this long is closed.
# send_s = 60
# Messages that nobody fetched are dropped after this time, searched for every `sweep_s`.
# message_days = 21
# sweep_s = 600
# At shutdown, time for connections to finish sending.
# drain_s = 5
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RelayConfig, ConfigError> {
        RelayConfig::parse(text, Path::new("/relay"))
    }

    #[test]
    fn the_template_shows_the_defaults() {
        let host = "relay.example".parse().unwrap();
        let text = template(&host, 5223);
        let plain = parse(&text).unwrap();
        // With every comment that looks like a setting switched on, nothing changes.
        let active: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.starts_with("password") => rest,
                Some(_) | None => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_ne!(text, active);
        let full = parse(&active).unwrap();
        assert_eq!(format!("{plain:?}"), format!("{full:?}"));
        assert_eq!(plain.limits, Limits::default());
        assert_eq!(plain.timeouts, Timeouts::default());
        let dir = PathBuf::from("/relay/journal");
        assert_eq!(plain.storage, Storage::Journal { dir, sync: true });
        assert_eq!(plain.bind.to_string(), "[::]:5223");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "hosts"),
            ("hosts = []", "hosts"),
            ("hosts = [\"a b\"]", "hosts"),
            ("hosts = [\"a\"]\nprot = 1", "prot"),
            ("hosts = [\"a\"]\nport = 70000", "port"),
            ("hosts = [\"a\"]\npassword = \"\"", "password"),
            (
                "hosts = [\"a\"]\n[limits]\nconnections = 0",
                "limits.connections",
            ),
            ("hosts = [\"a\"]\n[limits]\nconnection = 5", "connection"),
            (
                "hosts = [\"a\"]\n[timeouts]\nmessage_days = 0",
                "timeouts.message_days",
            ),
            ("hosts = [\"a\"]\n[storage]\nmode = \"sql\"", "mode"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn passwords_are_compared_whole_and_not_printed() {
        let config = parse("hosts = [\"a\"]\npassword = \"secret\"").unwrap();
        let password = config.password.as_ref().unwrap();
        assert!(password.matches(b"secret"));
        assert!(!password.matches(b"secre"));
        assert!(!password.matches(b""));
        assert!(!format!("{config:?}").contains("secret"));
        assert!(Password::new("").is_none());
    }
}
