//! `junto bench`: figures beside a floor measured in the same run.
//!
//! Machines are shared and noisy: the ratio to the floor means more than the figure.

mod programs;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use junto_agent::{Agent, AgentConfig};
use junto_crypto::aead::StoreKey;
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_session::bench::{Figures, Options, Seat, loopback, stream_figures};
use junto_session::carrier;
use junto_session::carrier::memory::Hub;
use junto_smp::address::ServerAddress;
use junto_tls::{ClientTls, ServerIdentity, ServerTls, handshake};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::args::BenchCommand;
use crate::failure::{Context, Failure};
use crate::output::Output;
use crate::random;

/// Bytes that TLS may hold for a slow reader in the floor.
const TLS_BUFFER_BYTES: usize = 256 * 1024;

pub(crate) async fn run(command: BenchCommand, output: Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Bls { rounds } => bls(rounds, output),
        BenchCommand::Relay { curves: true, .. } => relay_curves(output).await,
        BenchCommand::Relay {
            messages,
            threads,
            proxy: true,
            ..
        } => relay_proxy(messages, threads, output).await,
        BenchCommand::Relay {
            messages,
            threads,
            journal,
            curves: false,
            proxy: false,
            outside,
            process,
        } => match outside.zip(process) {
            Some((address, process)) => outside_relay(&address, process, messages, output).await,
            None => relay(messages, threads, journal, output).await,
        },
        BenchCommand::Run {
            messages,
            bulk,
            stripes,
            distance,
        } => {
            let options = Options {
                small_messages: messages,
                large_messages: bulk,
                ..Options::default()
            };
            let distance = Duration::from_millis(distance);
            programs::run(options, usize::from(stripes), distance, output).await
        }
        BenchCommand::Session { messages, memory } => session(messages, memory, output).await,
        BenchCommand::Files { mib } => files(mib, output).await,
        BenchCommand::Vault {
            recoveries,
            clients,
            records,
        } => {
            let options = junto_realm::bench::Options {
                recoveries: usize::from(recoveries),
                clients: usize::from(clients),
                records,
                ..Default::default()
            };
            vault(options, output).await
        }
    }
}

fn bls(rounds: u32, output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring threshold BLS against bare blst");
    let options = junto_bls::bench::Options {
        rounds,
        ..Default::default()
    };
    let report = junto_bls::bench::run(&options).map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let mut lines = vec![format!(
            "{:<31} {:>9} {:>12} {:>12} {:>6}  floor",
            "operation", "t of n", "µs", "floor µs", "ratio"
        )];
        lines.extend(report.figures.iter().map(|f| {
            let shape = format!("{} of {}", f.required, f.holders);
            format!(
                "{:<31} {shape:>9} {:>12.0} {:>12.0} {:>6.2}  {}",
                f.operation, f.microseconds, f.floor_microseconds, f.ratio, f.floor
            )
        }));
        lines.join("\n")
    })
}

async fn relay(
    messages: u64,
    threads: usize,
    journal: Option<bool>,
    output: Output,
) -> Result<(), Failure> {
    let progress =
        output.progress("measuring the relay against its floor, each in a process of its own");
    let options = junto_relay::bench::BenchOptions {
        messages,
        threads,
        journal,
        ..Default::default()
    };
    let report = junto_relay::bench::run(options)
        .await
        .map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let (m, l, c, r) = (&report.message, &report.latency_us, &report.creation, &report.memory);
        [
            "one message of 16 KiB: SEND, MSG, ACK".to_owned(),
            format!("  relay CPU           {:>10.1} µs   floor {:.1} µs (same blocks, TLS, cryptography)", m.cpu_us, m.floor_cpu_us),
            format!("  floor over relay    {:>10.0} %", m.floor_ratio * 100.0),
            format!("  messages            {:>10.0} /CPU-second, {:.0} /s with the clients on this machine", m.per_cpu_second, m.per_second),
            format!("  latency             {:>10.0} µs p50, {:.0} µs p99 (a PING: {:.0}, {:.0})", l.p50, l.p99, report.ping_us.p50, report.ping_us.p99),
            format!("queue creation        {:>10.0} /CPU-second, {:.0} /s", c.per_cpu_second, c.per_second),
            format!("idle connection       {:>10.1} KiB", r.idle_connection_bytes / 1024.0),
            format!("empty queue           {:>10.0} bytes", r.empty_queue_bytes),
            format!("relay at start        {:>10.1} MiB", r.start_bytes as f64 / 1048576.0),
        ]
        .join("\n")
    })
}

async fn relay_proxy(messages: u64, threads: usize, output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring a proxy and a relay behind it against their floors");
    let options = junto_relay::bench::BenchOptions {
        messages,
        threads,
        ..Default::default()
    };
    let report = junto_relay::bench::proxy(options)
        .await
        .map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let share = |s: &junto_relay::bench::Share| {
            format!(
                "{:>10.1} µs   floor {:.1} µs, {:.0} %",
                s.cpu_us,
                s.floor_cpu_us,
                s.floor_ratio * 100.0
            )
        };
        let (through, direct) = (&report.latency_us, &report.direct_us);
        [
            "one message of 16 KiB through a proxy".to_owned(),
            format!("  proxy CPU           {}", share(&report.proxy)),
            format!("  destination CPU     {}", share(&report.destination)),
            format!("  messages            {:>10.0} /s with the clients on this machine, {:.0} /CPU-second of the proxy", report.per_second, 1e6 / report.proxy.cpu_us),
            format!("  latency             {:>10.0} µs p50, {:.0} µs p99 (directly: {:.0}, {:.0})", through.p50, through.p99, direct.p50, direct.p99),
        ]
        .join("\n")
    })
}

async fn outside_relay(
    address: &ServerAddress,
    process: u32,
    messages: u64,
    output: Output,
) -> Result<(), Failure> {
    let progress = output.progress("measuring the server");
    let options = junto_relay::bench::BenchOptions {
        messages,
        ..Default::default()
    };
    let report = junto_relay::bench::outside(address, process, options)
        .await
        .map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let (m, l, c, r) = (&report.message, &report.latency_us, &report.creation, &report.memory);
        [
            "one message of 16 KiB: SEND, MSG, ACK".to_owned(),
            format!("  server CPU          {:>10.1} µs", m.cpu_us),
            format!("  messages            {:>10.0} /CPU-second, {:.0} /s with the clients on this machine", m.per_cpu_second, m.per_second),
            format!("  latency             {:>10.0} µs p50, {:.0} µs p99 (a PING: {:.0}, {:.0})", l.p50, l.p99, report.ping_us.p50, report.ping_us.p99),
            format!("queue creation        {:>10.0} /CPU-second, {:.0} /s", c.per_cpu_second, c.per_second),
            format!("connections           {:>10.0} /CPU-second, {:.0} /s", report.connecting.per_cpu_second, report.connecting.per_second),
            format!("idle connection       {:>10.1} KiB", r.idle_connection_bytes / 1024.0),
            format!("empty queue           {:>10.0} bytes", r.empty_queue_bytes),
            format!("server before, after  {:>10.1} MiB, {:.1} MiB", r.start_bytes as f64 / 1048576.0, report.end_bytes as f64 / 1048576.0),
        ]
        .join("\n")
    })
}

async fn vault(options: junto_realm::bench::Options, output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring what getting back costs");
    let told = |what: &str| progress.step(format!("measuring {what}"));
    let report = junto_realm::bench::run(options, told).await;
    let report = report.map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        let mut lines = vec![format!(
            "{:<8} {:>8} {:>12} {:>12} {:>12} {:>12} {:>12} {:>8} {:>8}",
            "realms", "replicas", "p50 ms", "p99 ms", "/s", "bare ms", "commit ms", "floor %", "rate %"
        )];
        lines.extend(report.shapes.iter().map(|shape| {
            let realms = format!("{} of {}", shape.threshold, shape.realms);
            format!(
                "{realms:<8} {:>8} {:>12.2} {:>12.2} {:>12.0} {:>12.2} {:>12.2} {:>8.0} {:>8.0}",
                shape.replicas,
                shape.recovery_us.p50 / 1e3,
                shape.recovery_us.p99 / 1e3,
                shape.per_second,
                shape.bare_us / 1e3,
                shape.commit_us.p50 / 1e3,
                shape.floor_over_latency * 100.0,
                shape.rate_over_floor * 100.0,
            )
        }));
        let (median, longest) = report.failover_ms;
        let (out, back) = report.snapshot_per_second;
        let moved = report.moved;
        lines.extend([
            "a recovery asks all realms three times; its floor is three commits of openraft and the bare work".to_owned(),
            format!("Argon2id, on the client     {:>10.0} ms", report.argon2_ms),
            format!("a leader of three is killed {median:>10.0} ms without an answer, {longest:.0} at most"),
            format!("a record in memory          {:>10} bytes", known(report.record_bytes)),
            format!("a record in a snapshot      {:>10.0} bytes; {out:.0} a second out, {back:.0} in", report.snapshot_record_bytes),
            format!("records that move           {:>10.0} a second ({} in {} parcels, {:.0} ms unserved); {:.0} % of openraft alone",
                moved.per_second, moved.records, moved.parcels, moved.unserved_ms, moved.rate_over_floor * 100.0),
        ]);
        lines.join("\n")
    })
}

fn known(figure: Option<f64>) -> String {
    figure.map_or_else(|| "-".into(), |figure| format!("{figure:.0}"))
}

async fn relay_curves(output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring the relay with few and many connections and queues");
    let curves = junto_relay::bench::curves(&Default::default())
        .await
        .map_err(Failure::failed)?;
    progress.done();
    output.result(&curves, || {
        let head = |first: &str, second: &str, third: &str| {
            format!("threads {first:>11} {second:>14} {third:>10}  messages/CPU-s  floor over relay")
        };
        let mut lines = vec![head("connections", "opened/CPU-s", "KiB idle")];
        lines.extend(curves.connections.iter().map(|p| {
            format!(
                "{:>7} {:>11} {:>14.0} {:>10} {:>15.0} {:>15.0} %",
                p.threads,
                p.connections,
                p.opened_per_cpu_second,
                known(p.idle_connection_bytes.map(|bytes| bytes / 1024.0)),
                p.message.per_cpu_second,
                p.message.floor_ratio * 100.0
            )
        }));
        lines.push(head("queues", "created/CPU-s", "bytes each"));
        lines.extend(curves.queues.iter().map(|p| {
            format!(
                "{:>7} {:>11} {:>14.0} {:>10} {:>15.0} {:>15.0} %",
                p.threads,
                p.queues,
                p.created_per_cpu_second,
                known(p.queue_bytes),
                p.message.per_cpu_second,
                p.message.floor_ratio * 100.0
            )
        }));
        let d = &curves.durable;
        lines.push(format!(
            "one durable queue: {:.0} messages/s; the disk confirms {:.0} times a second (median {:.0} µs)",
            d.per_second, d.confirmations_per_second, d.confirmation_us.p50
        ));
        lines.join("\n")
    })
}

async fn session(messages: u32, memory: bool, output: Output) -> Result<(), Failure> {
    let options = Options {
        small_messages: messages,
        ..Options::default()
    };
    let progress = output.progress("measuring a session of two parties");
    let carrier = if memory { "memory" } else { "queues" };
    let table = if memory {
        Table::in_memory()?
    } else {
        Table::over_queues(Duration::ZERO).await?
    };
    let [near, far] = table.seats;
    let report = junto_session::bench::run(near, far, options)
        .await
        .map_err(Failure::failed)?;
    progress.step("measuring TLS on loopback");
    let tls = tls_figures(options).await?;
    progress.done();
    let value = json!({
        "carrier": carrier,
        "forming_ms": report.forming.as_secs_f64() * 1e3,
        "session": to_json(&report.session),
        "tcp": to_json(&report.tcp),
        "tls": to_json(&tls),
        "hop_over_tls": ratio(report.session.hop_p50, tls.hop_p50),
        "bulk_over_tls": report.session.bulk_bytes_per_second / tls.bulk_bytes_per_second,
    });
    output.result(&value, || {
        [
            HEADINGS.to_owned(),
            row(&format!("session, {carrier}"), &report.session),
            row("TLS on loopback", &tls),
            row("TCP on loopback", &report.tcp),
            format!("formed in {:.0} ms", report.forming.as_secs_f64() * 1e3),
        ]
        .join("\n")
    })
}

const HEADINGS: &str = "                      hop µs    p99 µs    40 B msgs/s   bulk MB/s";

fn row(name: &str, f: &Figures) -> String {
    format!(
        "{name:<18} {:>9.0} {:>9.0} {:>14.0} {:>11.1}",
        micros(f.hop_p50),
        micros(f.hop_p99),
        f.small_per_second,
        f.bulk_bytes_per_second / 1e6
    )
}

/// Two parties, and what they need as long as they are measured.
struct Table {
    seats: [Seat; 2],
    /// Over queues only.
    agents: Vec<Agent>,
    _relay: Option<RunningRelay>,
    _dir: TempDir,
}

impl Table {
    fn in_memory() -> Result<Self, Failure> {
        let dir = TempDir::new().context("cannot make a temporary folder")?;
        let hub = Hub::new();
        Ok(Self {
            seats: [
                seat_in_memory(&hub, &dir, "a")?,
                seat_in_memory(&hub, &dir, "b")?,
            ],
            agents: Vec::new(),
            _relay: None,
            _dir: dir,
        })
    }

    /// Through a relay that is so far away.
    async fn over_queues(distance: Duration) -> Result<Self, Failure> {
        let dir = TempDir::new().context("cannot make a temporary folder")?;
        let relay = embedded_relay().await?;
        let mut address = relay.address();
        if !distance.is_zero() {
            let far = junto_agent::bench::distant(&address, distance).await;
            address = far.context("cannot listen on loopback")?;
        }
        let address = address.to_string();
        let (near, near_agent) = seat_over_queues(&address, &dir, "a").await?;
        let (far, far_agent) = seat_over_queues(&address, &dir, "b").await?;
        Ok(Self {
            seats: [near, far],
            agents: vec![near_agent, far_agent],
            _relay: Some(relay),
            _dir: dir,
        })
    }
}

fn folder(dir: &TempDir, name: &str) -> Result<PathBuf, Failure> {
    let path = dir.path().join(name);
    std::fs::create_dir(&path).context("cannot make a temporary folder")?;
    Ok(path)
}

fn seat_in_memory(hub: &Hub, dir: &TempDir, name: &str) -> Result<Seat, Failure> {
    Ok(Seat {
        carriage: hub.open(name),
        relay: String::new(),
        dir: folder(dir, name)?,
    })
}

async fn seat_over_queues(
    relay: &str,
    dir: &TempDir,
    name: &str,
) -> Result<(Seat, Agent), Failure> {
    let dir = folder(dir, name)?;
    let key = StoreKey::generate(&mut random());
    let (agent, events) = Agent::open(AgentConfig::new(dir.join("agent.db"), key))
        .await
        .context("cannot open an agent")?;
    let seat = Seat {
        carriage: carrier::agent::carriage(agent.clone(), events),
        relay: relay.to_owned(),
        dir,
    };
    Ok((seat, agent))
}

async fn files(mib: u64, output: Output) -> Result<(), Failure> {
    let progress = output.progress("measuring a file against the same bytes as bare messages");
    let relay = embedded_relay().await?;
    let dir = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (near, far) = (
        file_seat(&dir, "near").await?,
        file_seat(&dir, "far").await?,
    );
    let report = junto_files::bench::run(&relay.address(), near, far, mib << 20)
        .await
        .map_err(Failure::failed)?;
    progress.done();
    output.result(&report, || {
        format!(
            "file            {:>8.1} MB/s\nbare messages   {:>8.1} MB/s\nfile over bare  {:>8.0} %",
            report.file_mb_per_second,
            report.bare_mb_per_second,
            report.ratio * 100.0
        )
    })
}

async fn file_seat(dir: &TempDir, name: &str) -> Result<junto_files::bench::Seat, Failure> {
    let dir = folder(dir, name)?;
    let key = StoreKey::generate(&mut random());
    let (agent, events) = Agent::open(AgentConfig::new(dir.join("agent.db"), key))
        .await
        .context("cannot open an agent")?;
    Ok(junto_files::bench::Seat { agent, events, dir })
}

/// A relay in memory, in this process.
async fn embedded_relay() -> Result<RunningRelay, Failure> {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = RelayConfig::in_memory("127.0.0.1", bind).context("cannot configure a relay")?;
    Relay::start(config, identity()?)
        .await
        .context("cannot start a relay")
}

fn identity() -> Result<ServerIdentity, Failure> {
    ServerIdentity::ephemeral("127.0.0.1", &mut random(), UnixTime::now())
        .context("cannot make an identity")
}

/// The floor over TLS: the relay's own TLS configuration, on loopback.
async fn tls_figures(options: Options) -> Result<Figures, Failure> {
    let identity = identity()?;
    let server = ServerTls::new(&identity).context("TLS")?;
    let client = ClientTls::new().context("TLS")?;
    let (near, far) = loopback().await.context("cannot connect on loopback")?;
    let (connected, accepted) = tokio::join!(
        handshake::connect(&client, *identity.fingerprint(), near),
        handshake::accept(&server, far, TLS_BUFFER_BYTES)
    );
    let (near, far) = (
        connected.context("TLS")?.stream,
        accepted.context("TLS")?.stream,
    );
    stream_figures(near, far, options)
        .await
        .context("TLS on loopback")
}

fn to_json(figures: &Figures) -> Value {
    json!({
        "hop_us": { "p50": micros(figures.hop_p50), "p99": micros(figures.hop_p99) },
        "small_per_second": figures.small_per_second,
        "bulk_mb_per_second": figures.bulk_bytes_per_second / 1e6,
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn ratio(time: Duration, floor: Duration) -> f64 {
    time.as_secs_f64() / floor.as_secs_f64()
}
