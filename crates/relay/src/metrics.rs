//! What the relay counts about itself.
//!
//! Every number is about all users together. The only labels are words from this file: no metric has
//! one per queue, address, client or key, and none may get one.

use core::time::Duration;

use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::queue::{Answer, Change};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::connection::Ended;
use crate::store::{Body, Store};

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// As many as all may have are open.
    Total,
    /// As many as one source may have are open.
    Source,
    /// Its source begins handshakes too fast.
    Rate,
}

impl Turned {
    const fn reason(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Source => "source",
            Self::Rate => "rate",
        }
    }
}

/// Which limit of the proxy a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// That of all clients.
    Total,
    /// That of the destination.
    Destination,
    /// That of its source.
    Source,
    /// That of its source for attempts that fail.
    Rate,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// What the proxy counts.
#[derive(Clone, Default)]
pub(crate) struct ProxyMetrics {
    pub(crate) destinations: Gauge,
    pub(crate) connected: Counter,
    pub(crate) failed: Counter,
    pub(crate) passed_on: Counter,
    pub(crate) refused: Counter,
    beyond: Family<Why, Counter>,
}

impl ProxyMetrics {
    pub(crate) fn beyond(&self, limit: Beyond) {
        let reason = match limit {
            Beyond::Total => "total",
            Beyond::Destination => "destination",
            Beyond::Source => "source",
            Beyond::Rate => "rate",
        };
        self.beyond.get_or_create(&Why { reason }).inc();
    }
}

/// All counters, gauges and histograms.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) open: Gauge,
    pub(crate) handshaking: Gauge,
    pub(crate) accepted: Counter,
    refused: Family<Why, Counter>,
    refused_sum: Counter,
    ended: Family<Why, Counter>,
    pub(crate) shed: Counter,
    handshake_seconds: Histogram,
    pub(crate) blocks_received: Counter,
    pub(crate) blocks_sent: Counter,
    pub(crate) blocks_delayed: Counter,
    block_seconds: Histogram,
    queues_created: Counter,
    queues_secured: Counter,
    queues_deleted: Counter,
    queues_expired: Counter,
    subscribed: Counter,
    pub(crate) service_subscribed: Counter,
    pub(crate) service_drifts: Counter,
    verifications: Counter,
    pub(crate) messages_received: Counter,
    messages_acknowledged: Counter,
    messages_expired: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) proxy: ProxyMetrics,
    pub(crate) observed: Counter,
    pub(crate) observers: Gauge,
    observers_refused: Family<Why, Counter>,
    errors: Family<Why, Counter>,
    queues: Gauge,
    services: Gauge,
    message_bytes: Gauge,
    resident_bytes: Gauge,
    open_files: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut all = Registry::with_prefix("junto_relay");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        all.register("build", "Version of this relay", Info::new(version));
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            all.register(name, help, counter.clone());
            counter
        };
        let accepted = counter("connections_accepted", "Connections taken");
        let shed = counter(
            "connections_shed",
            "Connections closed because they were slow, silent or stuck in their handshake",
        );
        let blocks_received = counter("blocks_received", "Blocks of 16 KiB from clients");
        let blocks_sent = counter("blocks_sent", "Blocks of 16 KiB to clients");
        let blocks_delayed = counter(
            "blocks_delayed",
            "Times that a connection was not read because it sends faster than it may",
        );
        let queues_created = counter("queues_created", "Queues created");
        let queues_secured = counter("queues_secured", "Queues that got their sender's key");
        let queues_deleted = counter("queues_deleted", "Queues deleted");
        let queues_expired = counter("queues_expired", "Queues dropped that nobody used");
        let subscribed = counter("subscriptions", "Subscriptions begun");
        let service_subscribed = counter(
            "service_subscriptions",
            "Subscriptions of services to all of their queues",
        );
        let service_drifts = counter(
            "service_drifts",
            "Those among them that expected other queues than the relay has",
        );
        let verifications = counter(
            "verifications",
            "Signatures and authenticators of commands verified",
        );
        let messages_received = counter("messages_received", "Messages that senders got OK for");
        let messages_acknowledged = counter(
            "messages_acknowledged",
            "Messages that recipients acknowledged",
        );
        let messages_expired = counter("messages_expired", "Messages that nobody fetched in time");
        let forwarded = counter("forwarded_commands", "Commands that came through proxies");
        let observed = counter("observed", "Clients that were told their address");
        let proxy = ProxyMetrics {
            destinations: Gauge::default(),
            connected: counter("proxy_connections", "Connections made to other relays"),
            failed: counter(
                "proxy_connections_failed",
                "Connections to other relays that could not be made",
            ),
            passed_on: counter(
                "proxy_commands",
                "Commands passed on to other relays and answered",
            ),
            refused: counter(
                "proxy_commands_failed",
                "Commands that could not be passed on to other relays, or were not answered",
            ),
            beyond: Family::default(),
        };
        all.register(
            "proxy_refused",
            "Requests to the proxy beyond its limits, by limit",
            proxy.beyond.clone(),
        );
        all.register(
            "proxy_destinations",
            "Open connections to other relays",
            proxy.destinations.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            all.register(name, help, gauge.clone());
            gauge
        };
        let open = gauge("connections", "Open connections");
        let handshaking = gauge("handshakes", "Connections in their handshake");
        let observers = gauge(
            "observers",
            "Open connections that tell clients their address",
        );
        let queues = gauge("queues", "Queues");
        let services = gauge("services", "Services with a queue or a connection");
        let message_bytes = gauge("message_bytes", "Memory of waiting messages");
        let resident_bytes = gauge("resident_memory_bytes", "Memory of the process");
        let open_files = gauge("open_files", "File descriptors of the process");
        let mut family = |name: &str, help: &str| {
            let family = Family::<Why, Counter>::default();
            all.register(name, help, family.clone());
            family
        };
        let refused = family("connections_refused", "Connections not taken, by reason");
        let ended = family("connections_ended", "Connections ended, by reason");
        let observers_refused = family(
            "observers_refused",
            "Clients not told their address, by reason",
        );
        let errors = family("errors", "Commands and blocks refused, by error");
        // From 64 µs to 2 s, and from 16 µs to 65 ms.
        let mut seconds = |name: &str, help: &str, first: f64, count: u16| {
            let histogram = Histogram::new(exponential_buckets(first, 2.0, count));
            all.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let handshake_seconds = seconds("handshake", "From TCP to the end of the hello", 64e-6, 16);
        let block_seconds = seconds("block", "Work on the commands of one block", 16e-6, 13);
        Self {
            registry: all,
            open,
            handshaking,
            accepted,
            refused,
            refused_sum: Counter::default(),
            ended,
            shed,
            handshake_seconds,
            blocks_received,
            blocks_sent,
            blocks_delayed,
            block_seconds,
            queues_created,
            queues_secured,
            queues_deleted,
            queues_expired,
            subscribed,
            service_subscribed,
            service_drifts,
            verifications,
            messages_received,
            messages_acknowledged,
            messages_expired,
            forwarded,
            proxy,
            observed,
            observers,
            observers_refused,
            errors,
            queues,
            services,
            message_bytes,
            resident_bytes,
            open_files,
        }
    }

    pub(crate) fn turned_away(&self, why: Turned) {
        let reason = why.reason();
        self.refused.get_or_create(&Why { reason }).inc();
        self.refused_sum.inc();
    }

    pub(crate) fn observer_turned_away(&self, why: Turned) {
        let reason = why.reason();
        self.observers_refused.get_or_create(&Why { reason }).inc();
    }

    pub(crate) fn ended(&self, ended: Ended) {
        let reason = match ended {
            Ended::Peer => "peer",
            Ended::Handshake => "handshake",
            Ended::SlowReader => "slow_reader",
            Ended::Idle => "idle",
            Ended::Block => "bad_block",
            Ended::Shutdown => "shutdown",
            Ended::Relay => "relay",
        };
        self.ended.get_or_create(&Why { reason }).inc();
        if matches!(ended, Ended::Handshake | Ended::SlowReader | Ended::Idle) {
            self.shed.inc();
        }
    }

    pub(crate) fn handshake_done(&self, took: Duration) {
        self.handshake_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn block_done(&self, took: Duration) {
        self.block_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn verified(&self, count: u64) {
        self.verifications.inc_by(count);
    }

    pub(crate) fn queue_created(&self) {
        self.queues_created.inc();
    }

    pub(crate) fn expired(&self, messages: usize) {
        self.messages_expired
            .inc_by(u64::try_from(messages).unwrap_or(0));
    }

    pub(crate) fn queues_expired(&self, queues: usize) {
        self.queues_expired
            .inc_by(u64::try_from(queues).unwrap_or(0));
    }

    pub(crate) fn refused(&self, code: &ErrorCode) {
        let reason = match code {
            ErrorCode::Auth => "auth",
            ErrorCode::Quota => "quota",
            ErrorCode::Block => "bad_block",
            ErrorCode::NoMessage => "no_message",
            ErrorCode::LargeMessage => "large_message",
            ErrorCode::Blocked(_) => "blocked_queue",
            _ => "other",
        };
        self.errors.get_or_create(&Why { reason }).inc();
    }

    pub(crate) fn carried_out(
        &self,
        command: &Command<'_>,
        change: Option<&Change>,
        answer: &Answer<Body>,
    ) {
        if matches!(answer, Answer::Error(_)) {
            return;
        }
        match change {
            Some(Change::Secured) => _ = self.queues_secured.inc(),
            Some(Change::Deleted) => _ = self.queues_deleted.inc(),
            _ => {}
        }
        match command {
            Command::Send { .. } => _ = self.messages_received.inc(),
            Command::Ack(_) => _ = self.messages_acknowledged.inc(),
            Command::Sub => _ = self.subscribed.inc(),
            _ => {}
        }
    }

    /// The numbers of now.
    pub(crate) fn stats(&self, store: &dyn Store) -> Stats {
        Stats {
            connections: usize::try_from(self.open.get()).unwrap_or(0),
            queues: store.queues(),
            message_bytes: store.memory().used_bytes(),
            connections_total: self.accepted.get(),
            connections_refused: self.refused_sum.get(),
            connections_shed: self.shed.get(),
            blocks_received: self.blocks_received.get(),
            blocks_sent: self.blocks_sent.get(),
            queues_created: self.queues_created.get(),
            queues_deleted: self.queues_deleted.get(),
            queues_expired: self.queues_expired.get(),
            messages_received: self.messages_received.get(),
            messages_acknowledged: self.messages_acknowledged.get(),
            messages_expired: self.messages_expired.get(),
            verifications: self.verifications.get(),
            forwarded_received: self.forwarded.get(),
            proxy_destinations: usize::try_from(self.proxy.destinations.get()).unwrap_or(0),
            proxy_connected: self.proxy.connected.get(),
            proxy_failed: self.proxy.failed.get(),
            proxy_passed_on: self.proxy.passed_on.get(),
            proxy_refused: self.proxy.refused.get(),
        }
    }

    /// Everything, as OpenMetrics text.
    pub(crate) fn text(&self, store: &dyn Store) -> Result<String, core::fmt::Error> {
        let set = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.queues, store.queues());
        set(&self.services, store.services().count());
        set(&self.message_bytes, store.memory().used_bytes());
        set(&self.resident_bytes, resident_bytes().unwrap_or(0));
        set(&self.open_files, open_files().unwrap_or(0));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Memory of this process, where the system tells it as Linux does.
fn resident_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Numbers about a running relay. None of them is about one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Open connections, those in their handshake included.
    pub connections: usize,
    /// Queues.
    pub queues: usize,
    /// Memory of waiting messages.
    pub message_bytes: usize,
    /// Connections taken since the start.
    pub connections_total: u64,
    /// Connections refused because there were too many, or too fast.
    pub connections_refused: u64,
    /// Connections closed because they were slow, silent or stuck in their handshake.
    pub connections_shed: u64,
    /// Blocks from clients.
    pub blocks_received: u64,
    /// Blocks to clients.
    pub blocks_sent: u64,
    /// Queues created since the start.
    pub queues_created: u64,
    /// Queues deleted since the start.
    pub queues_deleted: u64,
    /// Queues dropped that nobody used for too long.
    pub queues_expired: u64,
    /// Messages that senders got OK for.
    pub messages_received: u64,
    /// Messages that recipients acknowledged.
    pub messages_acknowledged: u64,
    /// Messages that nobody fetched in time.
    pub messages_expired: u64,
    /// Signatures and authenticators of commands verified.
    pub verifications: u64,
    /// Commands that came through proxies.
    pub forwarded_received: u64,
    /// Open connections to other relays.
    pub proxy_destinations: usize,
    /// Connections made to other relays.
    pub proxy_connected: u64,
    /// Connections to other relays that could not be made.
    pub proxy_failed: u64,
    /// Commands passed on to other relays and answered.
    pub proxy_passed_on: u64,
    /// Commands that could not be passed on, or were not answered.
    pub proxy_refused: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, MemoryStore};

    /// Every name and every label that there is. Whoever adds one decides here that it cannot link
    /// users: no label may have a value per queue, address, client or key.
    #[test]
    fn names_and_labels_are_these() {
        let metrics = Metrics::new();
        metrics.turned_away(Turned::Source);
        metrics.observer_turned_away(Turned::Total);
        metrics.ended(Ended::Peer);
        metrics.refused(&ErrorCode::Auth);
        metrics.proxy.beyond(Beyond::Source);
        let store = MemoryStore::new(1, Memory::new(1));
        let text = metrics.text(&store).unwrap();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE junto_relay_"))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "build",
                "connections_accepted",
                "connections_shed",
                "blocks_received",
                "blocks_sent",
                "blocks_delayed",
                "queues_created",
                "queues_secured",
                "queues_deleted",
                "queues_expired",
                "subscriptions",
                "service_subscriptions",
                "service_drifts",
                "verifications",
                "messages_received",
                "messages_acknowledged",
                "messages_expired",
                "forwarded_commands",
                "observed",
                "proxy_connections",
                "proxy_connections_failed",
                "proxy_commands",
                "proxy_commands_failed",
                "proxy_refused",
                "proxy_destinations",
                "connections",
                "handshakes",
                "observers",
                "queues",
                "services",
                "message_bytes",
                "resident_memory_bytes",
                "open_files",
                "connections_refused",
                "connections_ended",
                "observers_refused",
                "errors",
                "handshake_seconds",
                "block_seconds",
            ]
        );
        let labels: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.split_once('{')?.1.split_once('}')?.0))
            .filter(|label| !label.starts_with("le="))
            .collect();
        let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            labels,
            [
                &version,
                "reason=\"source\"",
                "reason=\"source\"",
                "reason=\"peer\"",
                "reason=\"total\"",
                "reason=\"auth\""
            ]
        );
    }
    /// The guide names every metric, and every word that its label can have.
    #[test]
    fn the_guide_lists_what_there_is() {
        let metrics = Metrics::new();
        for why in [Turned::Total, Turned::Source, Turned::Rate] {
            metrics.turned_away(why);
            metrics.observer_turned_away(why);
        }
        for ended in [
            Ended::Peer,
            Ended::Handshake,
            Ended::SlowReader,
            Ended::Idle,
            Ended::Block,
            Ended::Shutdown,
            Ended::Relay,
        ] {
            metrics.ended(ended);
        }
        for code in [
            ErrorCode::Auth,
            ErrorCode::Quota,
            ErrorCode::Block,
            ErrorCode::NoMessage,
            ErrorCode::LargeMessage,
            ErrorCode::Blocked(junto_smp::blocking::Blocking {
                reason: junto_smp::blocking::BlockingReason::Spam,
                notice: None,
            }),
            ErrorCode::Crypto,
        ] {
            metrics.refused(&code);
        }
        for limit in [
            Beyond::Total,
            Beyond::Destination,
            Beyond::Source,
            Beyond::Rate,
        ] {
            metrics.proxy.beyond(limit);
        }
        let store = MemoryStore::new(1, Memory::new(1));
        let text = metrics.text(&store).unwrap();
        let mut kinds = std::collections::BTreeMap::new();
        let mut reasons = std::collections::BTreeMap::<_, Vec<_>>::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE junto_relay_") {
                let (name, kind) = kind.split_once(' ').unwrap();
                kinds.insert(name.to_owned(), kind.to_owned());
            } else if let Some((name, rest)) = line.split_once("{reason=\"") {
                let name = name.strip_prefix("junto_relay_").unwrap();
                let (reason, _) = rest.split_once('"').unwrap();
                reasons.entry(name).or_default().push(reason);
            }
        }
        let guide = include_str!("../../../docs/operating/relay.md");
        let (_, guide) = guide.split_once("| metric | says |").unwrap();
        let (guide, _) = guide.split_once("\n\n").unwrap();
        for (name, kind) in kinds {
            let shown = match (&*name, &*kind) {
                ("build", _) => "build_info{version}".to_owned(),
                (_, "counter") => format!("{name}_total"),
                _ => name,
            };
            let Some(words) = reasons.remove(&*shown) else {
                assert!(guide.contains(&format!("`{shown}`")), "{shown}");
                continue;
            };
            let named = format!("`{shown}{{reason}}`");
            let row = guide.lines().find(|row| row.contains(&named));
            let row = row.unwrap_or_else(|| panic!("{named}"));
            for word in words {
                assert!(row.contains(&format!("`{word}`")), "{shown}: {word}");
            }
        }
        assert!(reasons.is_empty(), "{reasons:?}");
    }
}
