//! Reading a `relay.toml`: every problem at once, each with its line and what to do about it.
//!
//! Unknown names are problems, so that a typo in a limit cannot leave it off.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::ops::{Range, RangeInclusive};
use core::str::FromStr;
use core::time::Duration;
use std::path::Path;

use ipnet::IpNet;
use junto_smp::address::{DEFAULT_PORT, HOSTS_MAX, Host};
use junto_smp::blocking::{Blocking, BlockingReason, ClientNotice};
use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};
use zeroize::Zeroizing;

use super::{Blocked, Limits, Monitor, Observe, Password, Rate, RelayConfig, Storage, Timeouts};
use crate::proxy::{FORWARDS_MAX, ProxyConfig, ProxyLimits, ProxyTimeouts, SocksMode};

/// Most problems that are reported: a file that is no `relay.toml` at all has one in every line.
const PROBLEMS_MAX: usize = 50;

/// One thing that is wrong with a `relay.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, counted from 1; `None` if something is missing.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: Box<str>,
    /// What to do about it.
    pub remedy: Box<str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}

/// Everything that is wrong with a `relay.toml`: at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(Vec<Problem>);

impl ConfigError {
    /// The problems, in the order of the file as far as they have a line.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Reads the text of a `relay.toml`.
pub(super) fn read(text: &str, dir: &Path) -> Result<RelayConfig, ConfigError> {
    let mut problems = Problems {
        text,
        found: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().replace('\n', ", ");
        problems.add(error.span(), message, "correct the syntax (TOML)".into());
    }
    // What follows from broken syntax would only confuse.
    let config = if problems.found.is_empty() {
        let mut root = Section::new("", table.get_ref(), &mut problems);
        let config = root_section(&mut root, dir);
        root.end();
        Some(config)
    } else {
        None
    };
    match config {
        Some(config) if problems.found.is_empty() => Ok(config),
        _ => {
            let mut found = problems.found;
            found.sort_by_key(|problem| problem.line.unwrap_or(0));
            Err(ConfigError(found))
        }
    }
}

fn root_section(root: &mut Section<'_, '_>, dir: &Path) -> RelayConfig {
    let hosts = hosts(root);
    let port = root.number("port", u64::from(DEFAULT_PORT), 0..=u64::from(u16::MAX));
    let port = u16::try_from(port).unwrap_or(DEFAULT_PORT);
    let bind = root
        .parsed("bind", "an IP address, for example \"::\" or \"127.0.0.1\"")
        .unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let password = root.password("write one, or remove the line: then everybody may create queues");
    let (limits, exempt_sources) = limits(&mut root.section("limits"));
    let (proxy, proxy_password) = proxy(&mut root.section("proxy"));
    let observe = observe(&mut root.section("observe"));
    RelayConfig {
        hosts,
        bind: SocketAddr::new(bind, port),
        password,
        storage: storage(&mut root.section("storage"), dir),
        limits,
        exempt_sources: exempt_sources.unwrap_or_else(super::loopback),
        timeouts: timeouts(&mut root.section("timeouts")),
        blocked: blocked(&mut root.section("blocked")),
        monitor: monitor(&mut root.section("monitor"), dir),
        log: {
            let mut log = root.section("log");
            let level = log.parsed("level", "\"error\", \"warn\", \"info\" or \"debug\"");
            log.end();
            level.unwrap_or_default()
        },
        proxy,
        proxy_password,
        observe,
    }
}

fn hosts(root: &mut Section<'_, '_>) -> Vec<Host> {
    let expected =
        "1 to 8 names by which clients reach this relay, for example [\"relay.example.org\"]";
    let hosts: Vec<Host> = match root.list("hosts", expected) {
        Some(hosts) => hosts,
        None if root.has("hosts") => return Vec::new(), // reported
        None => {
            let remedy = format!("write hosts = {expected}");
            root.problems
                .add(None, "`hosts` is missing".to_owned(), remedy);
            return Vec::new();
        }
    };
    if !(1..=HOSTS_MAX).contains(&hosts.len()) {
        let span = root.span("hosts");
        let message = format!("has {} names", hosts.len());
        root.wrong(span, "hosts", &message, format!("write {expected}"));
    }
    hosts
}

fn blocked(section: &mut Section<'_, '_>) -> Vec<Blocked> {
    const DAY_S: u64 = 86_400;
    let days = section.number("notice_days", 0, 0..=3_650);
    let notice = (days > 0).then(|| ClientNotice {
        ttl_seconds: Some(days * DAY_S),
    });
    let mut blocked: Vec<(&str, Blocked)> = Vec::new();
    for (name, reason) in [
        ("spam", Some(BlockingReason::Spam)),
        ("content", Some(BlockingReason::Content)),
        ("lifted", None),
    ] {
        let expected = "ids of queues or links as in a link, 32 letters each";
        let queues = section.spanned_list(name, expected).unwrap_or_default();
        let blocking = reason.map(|reason| Blocking { reason, notice });
        for (span, queue) in queues {
            // Each of the lists would undo the other, whenever they are read.
            let other = blocked.iter().find(|(_, b)| b.queue == queue);
            if let Some((other, _)) = other.filter(|(other, _)| *other != name) {
                let message = format!("contains an id that `blocked.{other}` has as well");
                section.wrong(span, name, &message, "leave it in one of them".to_owned());
            }
            blocked.push((name, Blocked { queue, blocking }));
        }
    }
    section.end();
    blocked.into_iter().map(|(_, blocked)| blocked).collect()
}

fn storage(section: &mut Section<'_, '_>, dir: &Path) -> Storage {
    let journal = section.text("journal").map(|(_, text)| text);
    let sync = section.flag("sync", true);
    let mode = section.text("mode");
    let storage = match mode.as_ref().map(|(_, text)| text.as_str()) {
        None | Some("journal") => Storage::Journal {
            dir: dir.join(journal.unwrap_or_else(|| "journal".to_owned())),
            sync,
        },
        Some("memory") => Storage::Memory,
        Some(other) => {
            let message = format!("is {other:?}");
            let remedy = "write \"journal\" or \"memory\"".to_owned();
            section.wrong(
                mode.map(|(span, _)| span).unwrap_or_default(),
                "mode",
                &message,
                remedy,
            );
            Storage::Memory
        }
    };
    section.end();
    storage
}

fn limits(section: &mut Section<'_, '_>) -> (Limits, Option<Vec<IpNet>>) {
    const BILLION: u64 = 1_000_000_000;
    let d = Limits::default();
    let mut daily = |name, default| {
        let number = section.number(name, u64::from(default), 1..=BILLION);
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    let queues_per_day_per_source = daily("queues_per_day_per_source", d.queues_per_day_per_source);
    let services_per_day_per_source =
        daily("services_per_day_per_source", d.services_per_day_per_source);
    let mut size = |name, default, max| section.size(name, default, 1..=max);
    let limits = Limits {
        queues_per_day_per_source,
        services_per_day_per_source,
        connections: size("connections", d.connections, BILLION),
        connections_per_source: size("connections_per_source", d.connections_per_source, BILLION),
        handshakes: size("handshakes", d.handshakes, 1 << 16),
        queues: size("queues", d.queues, BILLION),
        queues_per_connection: size("queues_per_connection", d.queues_per_connection, BILLION),
        message_bytes: size("message_mib", d.message_bytes >> 20, 1 << 20) << 20,
        messages_per_queue: size("messages_per_queue", d.messages_per_queue, 1 << 16),
        subscriptions: size("subscriptions_per_connection", d.subscriptions, BILLION),
        services: size("services", d.services, BILLION),
        queues_per_service: size("queues_per_service", d.queues_per_service, BILLION),
        commands_per_block: size("commands_per_block", d.commands_per_block, 255),
        outgoing_bytes: size(
            "outgoing_kib_per_connection",
            d.outgoing_bytes >> 10,
            1 << 20,
        ) << 10,
        handshakes_per_second: section.rate("handshakes_per_second", d.handshakes_per_second),
        handshakes_per_second_per_source: section.rate(
            "handshakes_per_second_per_source",
            d.handshakes_per_second_per_source,
        ),
        queues_per_second_per_source: section.rate(
            "queues_per_second_per_source",
            d.queues_per_second_per_source,
        ),
        services_per_second_per_source: section.rate(
            "services_per_second_per_source",
            d.services_per_second_per_source,
        ),
        blocks_per_second_per_connection: section.rate(
            "blocks_per_second_per_connection",
            d.blocks_per_second_per_connection,
        ),
    };
    let expected = "networks, for example [\"127.0.0.0/8\", \"::1/128\"]";
    let exempt_sources = section.list("exempt_sources", expected);
    section.end();
    (limits, exempt_sources)
}

fn timeouts(section: &mut Section<'_, '_>) -> Timeouts {
    const YEAR_S: u64 = 366 * DAY_S;
    const DAY_S: u64 = 86_400;
    let d = Timeouts::default();
    let mut seconds = |name, default: Duration| {
        Duration::from_secs(section.number(name, default.as_secs(), 1..=YEAR_S))
    };
    let mut timeouts = Timeouts {
        handshake: seconds("handshake_s", d.handshake),
        idle: seconds("idle_s", d.idle),
        send: seconds("send_s", d.send),
        sweep: d.sweep,
        drain: seconds("drain_s", d.drain),
        message: Duration::from_secs(
            DAY_S * section.number("message_days", d.message.as_secs() / DAY_S, 1..=3_650),
        ),
        unused_queue_days: d.unused_queue_days,
    };
    // More than once a day: a day without a sweep is one on which the relay did not run.
    let sweep = section.number("sweep_s", d.sweep.as_secs(), 1..=DAY_S / 2);
    timeouts.sweep = Duration::from_secs(sweep);
    let days = section.number("unused_queue_days", 0, 0..=36_500);
    timeouts.unused_queue_days = u32::try_from(days).ok().filter(|days| *days > 0);
    section.end();
    timeouts
}

fn monitor(section: &mut Section<'_, '_>, dir: &Path) -> Monitor {
    let listen = section.parsed(
        "listen",
        "an address with a port, for example \"127.0.0.1:9223\"",
    );
    let statistics = section.text("statistics").map(|(_, name)| dir.join(name));
    section.end();
    Monitor { listen, statistics }
}

fn observe(section: &mut Section<'_, '_>) -> Observe {
    let d = Observe::default();
    let observe = Observe {
        enabled: section.flag("enabled", d.enabled),
        connections: section.size("connections", d.connections, 1..=1 << 20),
        connections_per_source: section.size(
            "connections_per_source",
            d.connections_per_source,
            1..=1 << 20,
        ),
    };
    section.end();
    observe
}

fn proxy(section: &mut Section<'_, '_>) -> (ProxyConfig, Option<Password>) {
    let default = ProxyConfig::default();
    let enabled = section.flag("enabled", default.enabled);
    let password =
        section.password("write one, or remove the line: then the one for creating queues holds");
    let allow_private = section.flag("allow_private", default.allow_private);
    let allow_own = section.flag("allow_own", default.allow_own);
    let expected = "networks, for example [\"198.51.100.0/24\", \"2001:db8:64::/96\"]";
    let refuse = section.list("refuse", expected).unwrap_or_default();
    let expected = "the host and port of a SOCKS5 server, for example \"127.0.0.1:9050\"";
    let socks = section.parsed("socks", expected);
    let socks_mode = section
        .parsed("socks_mode", "\"onion\" or \"always\"")
        .unwrap_or_default();
    if socks_mode == SocksMode::Always && !section.has("socks") {
        let span = section.span("socks_mode");
        let remedy = format!("write socks = {expected}");
        section.wrong(span, "socks", "is missing", remedy);
    }
    let (l, t) = (default.limits, default.timeouts);
    let mut size = |name, default, max| section.size(name, default, 1..=max);
    let limits = ProxyLimits {
        destinations: size("destinations", l.destinations, 1 << 16),
        connecting: size("connecting", l.connecting, 256),
        connecting_per_client: size("connecting_per_client", l.connecting_per_client, 256),
        connecting_per_source: size("connecting_per_source", l.connecting_per_source, 256),
        destinations_per_source: size(
            "destinations_per_source",
            l.destinations_per_source,
            1 << 16,
        ),
        forwards: size("forwards", l.forwards, 1 << 20),
        forwards_per_destination: size(
            "forwards_per_destination",
            l.forwards_per_destination,
            FORWARDS_MAX as u64,
        ),
        forwards_per_client: size("forwards_per_client", l.forwards_per_client, 1 << 16),
        forwards_per_source: size("forwards_per_source", l.forwards_per_source, 1 << 20),
        failures_per_second_per_source: section.rate(
            "failures_per_second_per_source",
            l.failures_per_second_per_source,
        ),
    };
    let mut seconds = |name, default: Duration| {
        Duration::from_secs(section.number(name, default.as_secs(), 1..=86_400))
    };
    let timeouts = ProxyTimeouts {
        connect: seconds("connect_s", t.connect),
        answer: seconds("answer_s", t.answer),
        idle: seconds("idle_s", t.idle),
        retry: seconds("retry_s", t.retry),
        retry_max: seconds("retry_max_s", t.retry_max),
    };
    section.end();
    let config = ProxyConfig {
        enabled,
        allow_private,
        allow_own,
        refuse,
        socks,
        socks_mode,
        limits,
        timeouts,
    };
    (config, password)
}

/// What was found so far.
struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
}

impl Problems<'_> {
    fn add(&mut self, span: Option<Range<usize>>, message: String, remedy: String) {
        if self.found.len() < PROBLEMS_MAX {
            let line = span.map(|span| {
                let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
                1 + before.iter().filter(|byte| **byte == b'\n').count()
            });
            self.found.push(Problem {
                line,
                message: message.into(),
                remedy: remedy.into(),
            });
        }
    }
}

/// One table of the file.
struct Section<'p, 't> {
    /// What stands before its names in messages: nothing, or "limits.".
    prefix: String,
    /// None if the file does not have it.
    table: Option<&'t DeTable<'t>>,
    problems: &'p mut Problems<'t>,
    /// Names that were asked for.
    known: Vec<&'static str>,
}

impl<'p, 't> Section<'p, 't> {
    fn new(name: &str, table: &'t DeTable<'t>, problems: &'p mut Problems<'t>) -> Self {
        Self {
            prefix: name.to_owned(),
            table: Some(table),
            problems,
            known: Vec::new(),
        }
    }

    /// The table `name` in this one.
    fn section(&mut self, name: &'static str) -> Section<'_, 't> {
        let table = self.value(name).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let message = format!("is a {}", other.type_str());
                self.wrong(
                    value.span(),
                    name,
                    &message,
                    format!("begin a section: [{name}]"),
                );
                None
            }
        });
        Section {
            prefix: format!("{name}."),
            table,
            problems: self.problems,
            known: Vec::new(),
        }
    }

    fn known(&mut self, name: &'static str) {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
    }

    fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(name))
    }

    fn value(&mut self, name: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known(name);
        self.table?.get(name)
    }

    fn span(&mut self, name: &'static str) -> Range<usize> {
        self.value(name).map(Spanned::span).unwrap_or_default()
    }

    fn wrong(&mut self, span: Range<usize>, name: &str, message: &str, remedy: String) {
        let message = format!("`{}{name}` {message}", self.prefix);
        self.problems.add(Some(span), message, remedy);
    }

    fn size(&mut self, name: &'static str, default: usize, range: RangeInclusive<u64>) -> usize {
        let default = u64::try_from(default).unwrap_or(u64::MAX);
        usize::try_from(self.number(name, default, range)).unwrap_or(usize::MAX)
    }

    fn rate(&mut self, name: &'static str, default: Rate) -> Rate {
        let number = self.number(name, u64::from(default.per_second), 1..=1_000_000_000);
        Rate::per_second(u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn number(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(name) else {
            return default;
        };
        let number = match value.get_ref() {
            DeValue::Integer(integer) => whole(integer),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => number,
            _ => {
                let message = format!("is {}", shown(value.get_ref()));
                let remedy = format!("write a number from {} to {}", range.start(), range.end());
                self.wrong(value.span(), name, &message, remedy);
                default
            }
        }
    }

    fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.value(name) else {
            return default;
        };
        value.get_ref().as_bool().unwrap_or_else(|| {
            let message = format!("is {}", shown(value.get_ref()));
            self.wrong(
                value.span(),
                name,
                &message,
                "write true or false".to_owned(),
            );
            default
        })
    }

    fn text(&mut self, name: &'static str) -> Option<(Range<usize>, String)> {
        let value = self.value(name)?;
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            let message = format!("is a {}", value.get_ref().type_str());
            self.wrong(
                value.span(),
                name,
                &message,
                "write a text in \"quotes\"".to_owned(),
            );
        }
        Some((value.span(), text?))
    }

    /// A password, which is in no message.
    fn password(&mut self, remedy: &str) -> Option<Password> {
        let (span, text) = self.text("password")?;
        let password = Password::new(&Zeroizing::new(text));
        if password.is_none() {
            self.wrong(span, "password", "is empty", remedy.to_owned());
        }
        password
    }

    /// A text that means something.
    fn parsed<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Option<T> {
        let (span, text) = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(
                span,
                name,
                &format!("is {text:?}"),
                format!("write {expected}"),
            );
        }
        parsed
    }

    /// A list of texts that mean something; those that do not are reported and left out.
    fn list<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Option<Vec<T>> {
        let items = self.spanned_list(name, expected)?;
        Some(items.into_iter().map(|(_, item)| item).collect())
    }

    /// As above, with where each of them stands.
    fn spanned_list<T: FromStr>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Option<Vec<(Range<usize>, T)>> {
        let value = self.value(name)?;
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("is {}", shown(value.get_ref()));
            self.wrong(value.span(), name, &message, format!("write {expected}"));
            return None;
        };
        let mut items = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_str().and_then(|text| text.parse().ok()) {
                Some(parsed) => items.push((item.span(), parsed)),
                None => {
                    let message = format!("contains {}", shown(item.get_ref()));
                    self.wrong(item.span(), name, &message, format!("write {expected}"));
                }
            }
        }
        Some(items)
    }

    /// Whatever nobody asked for is a mistake.
    fn end(&mut self) {
        let unknown: Vec<(Range<usize>, String)> = self
            .table
            .into_iter()
            .flatten()
            .filter(|(name, _)| !self.known.iter().any(|known| *known == name.get_ref()))
            .map(|(name, _)| (name.span(), DeString::clone(name.get_ref()).into_owned()))
            .collect();
        let remedy = format!("remove it, or write one of: {}", self.known.join(", "));
        for (span, name) in unknown {
            self.wrong(span, &name, "is unknown here", remedy.clone());
        }
    }
}

fn whole(integer: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A value in a message. Only of settings that are no secret.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => format!("a {}", other.type_str()),
    }
}
