//! Settings of a relay: what an operator may choose, with safe defaults.

mod read;

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;
use core::time::Duration;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use junto_smp::address::{AddressError, Host};
use junto_smp::blocking::Blocking;
use junto_smp::id::ID_BYTES;
use junto_smp::queue;
use zeroize::Zeroizing;

pub use read::{ConfigError, Problem};

use crate::proxy::{ProxyConfig, ProxyLimits};

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
    /// Networks whose addresses many clients share, such as the relay's own machine, to which an
    /// onion service forwards: the limits for one source do not hold for them.
    pub exempt_sources: Vec<IpNet>,
    /// Queues to block or unblock. Those that are not listed stay as they are.
    pub blocked: Vec<Blocked>,
    /// What the operator can watch.
    pub monitor: Monitor,
    /// What is logged.
    pub log: Level,
    /// Passing commands on to other relays.
    pub proxy: ProxyConfig,
    /// Who may use the proxy. Absent: those who may create queues.
    pub proxy_password: Option<Password>,
    /// Telling clients their addresses as they are seen here, over UDP.
    pub observe: Observe,
}

impl RelayConfig {
    /// A relay in memory on `bind`, for tests and embedding, reached as `host`. It has no limits of
    /// rate: whoever embeds a relay is among its own clients.
    ///
    /// # Errors
    /// [`AddressError::Host`].
    pub fn in_memory(host: &str, bind: SocketAddr) -> Result<Self, AddressError> {
        Ok(Self {
            hosts: vec![host.parse()?],
            bind,
            password: None,
            limits: Limits {
                handshakes_per_second: Rate::UNLIMITED,
                handshakes_per_second_per_source: Rate::UNLIMITED,
                queues_per_second_per_source: Rate::UNLIMITED,
                queues_per_day_per_source: u32::MAX,
                services_per_second_per_source: Rate::UNLIMITED,
                services_per_day_per_source: u32::MAX,
                blocks_per_second_per_connection: Rate::UNLIMITED,
                queues_per_connection: usize::MAX,
                ..Limits::default()
            },
            timeouts: Timeouts::default(),
            storage: Storage::Memory,
            exempt_sources: loopback(),
            blocked: Vec::new(),
            monitor: Monitor::default(),
            log: Level::default(),
            proxy: ProxyConfig {
                limits: ProxyLimits {
                    failures_per_second_per_source: Rate::UNLIMITED,
                    ..ProxyLimits::default()
                },
                ..ProxyConfig::default()
            },
            proxy_password: None,
            observe: Observe::default(),
        })
    }

    /// Reads the text of a `relay.toml`. Relative paths are relative to `dir`.
    ///
    /// # Errors
    /// [`ConfigError`]: everything that is wrong, with lines and remedies.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, ConfigError> {
        read::read(text, dir)
    }
}

/// This machine: where an onion service or a proxy in front of the relay connects from.
fn loopback() -> Vec<IpNet> {
    [
        IpAddr::from([127, 0, 0, 0]),
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
    ]
    .into_iter()
    .zip([8, 128])
    .filter_map(|(address, bits)| IpNet::new(address, bits).ok())
    .collect()
}

/// What becomes of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Which.
    pub queue: QueueName,
    /// Why nobody may use it, and whether their users should be told; `None`: it is blocked no more.
    pub blocking: Option<Blocking>,
}

/// Any name of a queue: its recipient's, a sender's, a short link's. In text as in links, base64url.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct QueueName(pub [u8; ID_BYTES]);

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueName(..)")
    }
}

/// The text is not the name of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a queue is named by 32 letters of base64url, as in a link")]
pub struct QueueNameError;

impl FromStr for QueueName {
    type Err = QueueNameError;

    fn from_str(text: &str) -> Result<Self, QueueNameError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| QueueNameError)?;
        bytes.try_into().map(Self).map_err(|_| QueueNameError)
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

/// How often something may happen: `burst` times at once, and `per_second` in the long run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// After a rest.
    pub burst: u32,
}

impl Rate {
    /// Never in the way.
    pub const UNLIMITED: Self = Self {
        per_second: u32::MAX,
        burst: u32::MAX,
    };
    /// What may come at once, in seconds of the rate: clients that wake up have much to say.
    const BURST_S: u32 = 10;

    /// This many in the long run, and ten times as many after a rest.
    #[must_use]
    pub const fn per_second(per_second: u32) -> Self {
        Self {
            per_second,
            burst: per_second.saturating_mul(Self::BURST_S),
        }
    }
}

/// Bounds. What one connection, one queue, one source and all together may take. A *source* is an
/// IPv4 address or an IPv6 network of 64 bits, which is what one customer usually has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, at most 40 KiB each while idle. Further ones are closed at once.
    pub connections: usize,
    /// Open connections from one source. Further ones are closed at once.
    pub connections_per_source: usize,
    /// Connections in their handshake, about 1 ms of CPU each. For further ones the oldest is
    /// given up.
    pub handshakes: usize,
    /// Handshakes begun, all together. Further ones wait in the listener's backlog.
    pub handshakes_per_second: Rate,
    /// Handshakes begun from one source. Further ones are closed at once.
    pub handshakes_per_second_per_source: Rate,
    /// Queues, below 1 KiB each while empty. Then `NEW` is refused with `QUOTA`.
    pub queues: usize,
    /// Queues that one connection may create in its life. Then `NEW` is refused with `QUOTA`.
    pub queues_per_connection: usize,
    /// Queues created from one source. Then `NEW` is refused with `QUOTA`.
    pub queues_per_second_per_source: Rate,
    /// Queues created from one source in the long run: so many at once after a day of rest, and then
    /// one whenever its part of a day has passed. Networks of 48 bits (IPv6) have 16 times as many
    /// together. Then `NEW` is refused with `QUOTA`. Forgotten at a restart.
    pub queues_per_day_per_source: u32,
    /// Bytes of all waiting messages. Then `SEND` is refused with `QUOTA`.
    pub message_bytes: usize,
    /// Messages in one queue; 16 KiB each.
    pub messages_per_queue: usize,
    /// Queues that one connection may subscribe to, about 100 bytes each. Then `SUB` is refused
    /// with `QUOTA`.
    pub subscriptions: usize,
    /// Services, about 1 KiB each, that have a queue or a connection. A client that wants to be one
    /// more is refused with `BAD_SERVICE`.
    pub services: usize,
    /// Services from one source that are new here. Further ones are refused likewise.
    pub services_per_second_per_source: Rate,
    /// Services from one source that are new here and stay, in the long run, as
    /// `queues_per_day_per_source`; networks of 48 bits (IPv6) have no more than one source. Further
    /// ones are refused likewise.
    pub services_per_day_per_source: u32,
    /// Queues of one service, about 40 bytes each, and 200 bytes each while their news wait for a
    /// slow service. Then `NEW`, `SUB` and `NSUB` of the service are refused with `QUOTA`.
    pub queues_per_service: usize,
    /// Blocks from one connection, 16 KiB each. Further ones wait: the relay does not read on.
    pub blocks_per_second_per_connection: Rate,
    /// Commands in one block, up to 0.1 ms of CPU each. A block with more is refused with `BLOCK`
    /// as a whole; the protocol itself allows 255.
    pub commands_per_block: usize,
    /// Bytes of messages that wait to be sent over one connection. From then on the relay does not
    /// read on; what one block asked for may exceed it.
    pub outgoing_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_source: 500,
            handshakes: 128,
            handshakes_per_second: Rate::per_second(500),
            handshakes_per_second_per_source: Rate::per_second(20),
            queues: 1_000_000,
            queues_per_connection: 10_000,
            queues_per_second_per_source: Rate::per_second(50),
            queues_per_day_per_source: 5_000,
            message_bytes: 1 << 30,
            messages_per_queue: queue::Limits::default().messages,
            subscriptions: 50_000,
            services: 1_000,
            services_per_second_per_source: Rate::per_second(1),
            services_per_day_per_source: 4,
            queues_per_service: 200_000,
            blocks_per_second_per_connection: Rate::per_second(4_000),
            commands_per_block: 255,
            outgoing_bytes: 1 << 20,
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
    /// Days without any use after which a queue that never got its sender's key is dropped. `None`:
    /// never, as with the reference server.
    pub unused_queue_days: Option<u32>,
    /// Between two searches for expired messages and unused queues.
    /// At most half a day: a day without one is taken for one on which the relay did not run.
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
            unused_queue_days: queue::Limits::default().unused_days,
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

/// Telling clients their addresses as they are seen here, for direct paths between them: QUIC at the
/// UDP port of the same number. Off unless chosen, since it is another port that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observe {
    /// Whether to listen there at all.
    pub enabled: bool,
    /// Clients at a time, some 30 KiB each. Further ones are refused.
    pub connections: usize,
    /// Clients at a time from one source. Further ones are refused.
    pub connections_per_source: usize,
}

impl Default for Observe {
    fn default() -> Self {
        Self {
            enabled: false,
            connections: 2_000,
            connections_per_source: 100,
        }
    }
}

/// What the operator can watch. Off unless chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Monitor {
    /// Where metrics and health are served, over plain HTTP.
    pub listen: Option<SocketAddr>,
    /// The file to which totals are appended every day.
    pub statistics: Option<PathBuf>,
}

/// What is logged: events of this importance and above. None of them names a client, an address of
/// one, or a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// What needs somebody soon.
    Error,
    /// What may need somebody.
    #[default]
    Warn,
    /// Start, end, changes of settings.
    Info,
    /// Also how connections end.
    Debug,
}

impl Level {
    /// Its name in `relay.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A word that is no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no level of logging")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or(UnknownLevel)
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
    include_str!("template.toml")
        .replace("{host}", host.as_str())
        .replace("{port}", &port.to_string())
        .replace("{bind}", &bind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use junto_smp::blocking::{BlockingReason, ClientNotice};

    fn parse(text: &str) -> Result<RelayConfig, ConfigError> {
        RelayConfig::parse(text, Path::new("/relay"))
    }

    #[test]
    fn the_template_shows_the_defaults() {
        let host = "relay.example".parse().unwrap();
        let text = template(&host, 5223);
        let plain = parse(&text).unwrap();
        // What these would switch on is off by default.
        let off = ["password", "listen", "statistics", "socks = "];
        // With every comment that looks like a setting switched on, nothing changes.
        let active: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !off.iter().any(|o| rest.starts_with(o)) => {
                    rest
                }
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
        assert_eq!(plain.monitor, Monitor::default());
    }

    #[test]
    fn the_sample_is_the_template() {
        let host = "relay.example.org".parse().unwrap();
        let sample = include_str!("../../../../packaging/relay.toml");
        assert_eq!(sample, template(&host, 5223));
    }

    #[test]
    fn all_mistakes_are_named_with_line_and_remedy() {
        let text = "hosts = [\"relay.example\", \"a b\"]\nport = 70000\nprot = 1\npassword = \"\"\n\
            [limits]\nconnections = 0\nqueues = \"many\"\nexempt_sources = [\"10/8\"]\n\
            [storage]\nsync = 1\n[monitor]\nlisten = \"9223\"\n[log]\nlevel = \"loud\"\n";
        let error = parse(text).unwrap_err();
        let lines: Vec<_> = error.problems().iter().map(|p| p.line.unwrap()).collect();
        assert_eq!(lines, [1, 2, 3, 4, 6, 7, 8, 10, 12, 14], "{error}");
        assert!(error.problems().iter().all(|p| !p.remedy.is_empty()));
        assert_eq!(
            error.problems()[2].to_string(),
            "line 3: `prot` is unknown here; remove it, or write one of: \
             hosts, port, bind, password, limits, proxy, observe, storage, timeouts, blocked, monitor, log"
        );
        assert_eq!(
            error.problems()[5].to_string(),
            "line 7: `limits.queues` is \"many\"; write a number from 1 to 1000000000"
        );
    }

    #[test]
    fn broken_syntax_is_named_with_its_line() {
        let error = parse("hosts = [\"a\"]\n[limits\nqueues = = 3\n").unwrap_err();
        assert_eq!(error.problems()[0].line, Some(2), "{error}");
        let error = parse("port = 1\nport = 2\nhosts = [\"a\"]").unwrap_err();
        assert_eq!(error.problems()[0].line, Some(2), "{error}");
    }

    #[test]
    fn a_password_is_in_no_message() {
        let error = parse("password = [\"hunter2\"]").unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
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
            ("hosts = [\"a\"]\n[proxy]\nforwards = 0", "proxy.forwards"),
            ("hosts = [\"a\"]\n[proxy]\nprivate = true", "proxy.private"),
            (
                "hosts = [\"a\"]\n[proxy]\npassword = \"\"",
                "proxy.password",
            ),
            ("hosts = [\"a\"]\n[proxy]\nsocks = \"9050\"", "proxy.socks"),
            (
                "hosts = [\"a\"]\n[proxy]\nsocks_mode = \"always\"",
                "proxy.socks",
            ),
            (
                "hosts = [\"a\"]\n[proxy]\nforwards_per_destination = 513",
                "513",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_proxy_is_on_and_stays_out_of_private_networks() {
        let config = parse("hosts = [\"a\"]").unwrap();
        assert_eq!(config.proxy, ProxyConfig::default());
        assert!(config.proxy.enabled && !config.proxy.allow_private);
        let text = "hosts = [\"a\"]\n[proxy]\nsocks = \"tor:9050\"\nsocks_mode = \"always\"\n\
            enabled = false\nallow_private = true\npassword = \"p\"\nanswer_s = 3";
        let config = parse(text).unwrap();
        assert_eq!(config.proxy.socks.unwrap().port, 9050);
        assert!(!config.proxy.enabled && config.proxy.allow_private);
        assert!(config.proxy_password.unwrap().matches(b"p"));
        assert_eq!(config.proxy.timeouts.answer, Duration::from_secs(3));
    }

    #[test]
    fn addresses_are_told_by_new_relays_and_not_by_those_that_do_not_say_so() {
        assert!(!parse("hosts = [\"a\"]").unwrap().observe.enabled);
        let new = parse(&template(&"a".parse().unwrap(), 5223)).unwrap();
        let enabled = Observe {
            enabled: true,
            ..Observe::default()
        };
        assert_eq!(new.observe, enabled);
        let error = parse("hosts = [\"a\"]\n[observe]\nconnections = 0").unwrap_err();
        assert!(error.to_string().contains("observe.connections"), "{error}");
    }

    #[test]
    fn blocked_queues_are_named_as_in_links() {
        let name = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
        let lifted = "OTEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
        let text = format!(
            "hosts = [\"a\"]\n[blocked]\nspam = [\"{name}\"]\nlifted = [\"{lifted}\"]\nnotice_days = 2"
        );
        let blocked = parse(&text).unwrap().blocked;
        let queue = QueueName(*b"0123456789abcdef01234567");
        let lifted = QueueName(*b"9123456789abcdef01234567");
        let blocking = Blocking {
            reason: BlockingReason::Spam,
            notice: Some(ClientNotice {
                ttl_seconds: Some(172_800),
            }),
        };
        assert_eq!(
            blocked,
            [(queue, Some(blocking)), (lifted, None)]
                .map(|(queue, blocking)| Blocked { queue, blocking })
        );
        assert!(!format!("{blocked:?}").contains("48"));
        for wrong in [
            "",
            "short",
            "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3OA",
            "+DEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
        ] {
            let text = format!("hosts = [\"a\"]\n[blocked]\ncontent = [\"{wrong}\"]");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("blocked.content"), "{error}");
        }
    }

    #[test]
    fn an_id_in_two_lists_is_a_problem_where_it_stands_again() {
        let name = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
        let lists = |first: &str, second: &str| {
            let text = format!(
                "hosts = [\"a\"]\n[blocked]\n{first} = [\"{name}\"]\n{second} = [\n\"{name}\"]"
            );
            parse(&text)
        };
        for (first, second) in [
            ("spam", "lifted"),
            ("spam", "content"),
            ("content", "lifted"),
        ] {
            let error = lists(first, second).unwrap_err();
            let [problem] = error.problems() else {
                panic!("{error}");
            };
            assert_eq!(problem.line, Some(5));
            let text = problem.to_string();
            assert!(text.contains(&format!("`blocked.{first}`")), "{text}");
            assert!(text.contains(&format!("`blocked.{second}`")), "{text}");
        }
        // Twice in one list changes nothing.
        let text = format!("hosts = [\"a\"]\n[blocked]\nspam = [\"{name}\", \"{name}\"]");
        assert!(parse(&text).is_ok());
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
