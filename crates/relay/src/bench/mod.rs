//! What a message costs, measured against what it must cost.
//!
//! The relay runs in a process of its own, so that its CPU time and memory are counted without
//! those of the clients. A second process is the *floor*: the same number of 16 KiB blocks through
//! the same TLS stack and runtime, plus the cryptography that the protocol demands for each message
//! (opening and sealing blocks, encryption to the recipient, two signatures verified), and nothing
//! else: no queues, no parsing, no hand-over between connections. Both run in turns, so that a busy
//! machine is unfair to both alike.
//!
//! The host program must call [`child`] first thing in `main`, before it has any thread: the
//! processes are itself, started again with a variable in the environment.

mod curves;
mod floor;
mod load;
mod outside;
mod peer;
mod process;
mod proxy;

use std::io;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use curves::{ConnectionsPoint, CurveOptions, Curves, DurableReport, QueuesPoint, curves};
pub use outside::{OutsideMessages, OutsideReport, outside};
pub use peer::{Blocks, Heard, OwnQueue, Peer, PeerError, Said};
pub use process::child;
pub use proxy::{ProxyReport, Share, proxy};

use process::{Kind, Process};

/// What to measure, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Senders, each with a recipient of its own; two connections each.
    pub pairs: usize,
    /// Messages of 16 KiB in each round.
    pub messages: u64,
    /// Rounds, each of them with the relay and then the floor.
    pub rounds: usize,
    /// Messages sent one by one, to see how long one takes.
    pub latency_samples: usize,
    /// Queues to create.
    pub queues: usize,
    /// Idle connections to open.
    pub idle_connections: usize,
    /// Threads of the relay (and the floor).
    pub threads: usize,
    /// Measure with a journal: `Some(true)` waits for the disk.
    pub journal: Option<bool>,
}

impl Default for BenchOptions {
    /// About 20 seconds on two cores.
    fn default() -> Self {
        Self {
            pairs: 8,
            messages: 10_000,
            rounds: 3,
            latency_samples: 2_000,
            queues: 20_000,
            idle_connections: 500,
            threads: 1,
            journal: None,
        }
    }
}

impl BenchOptions {
    /// A look in a second or two, for tests.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            messages: 200,
            rounds: 1,
            latency_samples: 20,
            queues: 200,
            idle_connections: 20,
            ..Self::default()
        }
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A client failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A process could not be started or measured (which needs Linux's `/proc`).
    #[error("cannot start or measure a process: {0}")]
    Process(io::Error),
    /// A task broke. A defect of ours.
    #[error("a task broke")]
    Defect,
}

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Threads of the relay.
    pub threads: usize,
    /// With a journal, and whether it waits for the disk.
    pub journal: Option<bool>,
    /// SEND → MSG → ACK of 16 KiB messages under load.
    pub message: MessageReport,
    /// Time from sending a message to having it opened, one at a time.
    pub latency_us: Quantiles,
    /// Time of a PING, one at a time: the same way without queue and message.
    pub ping_us: Quantiles,
    /// NEW.
    pub creation: CreationReport,
    /// Opening connections: TCP, TLS with post-quantum key exchange, hello, one PING.
    pub connecting: CreationReport,
    /// Memory of the relay's process.
    pub memory: MemoryReport,
}

/// Cost of messages.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MessageReport {
    /// Messages that were sent, delivered and acknowledged.
    pub count: u64,
    /// Per second of time, clients on the same machine included.
    pub per_second: f64,
    /// Per second of the relay's CPU time.
    pub per_cpu_second: f64,
    /// The relay's CPU time for one message.
    pub cpu_us: f64,
    /// The floor's CPU time for one message.
    pub floor_cpu_us: f64,
    /// Floor over relay: 1 would mean that everything but the necessary is free.
    pub floor_ratio: f64,
    /// Blocks from clients for one message.
    pub blocks_received: f64,
    /// Blocks to clients for one message.
    pub blocks_sent: f64,
}

/// Quantiles of a time, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Half are below.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |part: usize| {
            let index = samples.len().saturating_sub(1) * part / 100;
            samples.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e6)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }
}

/// Cost of making something.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CreationReport {
    /// How many were made.
    pub count: u64,
    /// Per second of time, clients on the same machine included.
    pub per_second: f64,
    /// Per second of the relay's CPU time.
    pub per_cpu_second: f64,
}

impl CreationReport {
    fn of(count: usize, time: Duration, cpu: Duration) -> Self {
        let number = count as f64;
        Self {
            count: count as u64,
            per_second: number / time.as_secs_f64(),
            per_cpu_second: number / cpu.as_secs_f64(),
        }
    }
}

/// Resident memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryReport {
    /// Of a relay that has just started.
    pub start_bytes: u64,
    /// Of one more idle connection.
    pub idle_connection_bytes: f64,
    /// Of one more empty queue.
    pub empty_queue_bytes: f64,
}

/// Measures.
///
/// # Errors
/// [`BenchError`].
pub async fn run(options: BenchOptions) -> Result<BenchReport, BenchError> {
    let message = messages(&options).await?;
    let relay = Process::start(Kind::Relay, &options).await?;
    let pair = load::pair(&relay.address).await?;
    let latency_us = load::latency(pair, options.latency_samples).await?;
    let ping_us = load::ping(&relay.address, options.latency_samples).await?;
    drop(relay);
    let (memory, connecting) = memory(&options).await?;
    Ok(BenchReport {
        threads: options.threads,
        journal: options.journal,
        message,
        latency_us: Quantiles::of(latency_us),
        ping_us: Quantiles::of(ping_us),
        creation: creation(&options).await?,
        connecting,
        memory,
    })
}

async fn messages(options: &BenchOptions) -> Result<MessageReport, BenchError> {
    let relay = Process::start(Kind::Relay, options).await?;
    let floor = Process::start(Kind::Floor, options).await?;
    let mut pairs = load::pairs(&relay.address, options.pairs).await?;
    exchange(&relay, &floor, &mut pairs, options).await
}

/// Messages through `pairs` of the relay, and the same through the floor, in turns.
async fn exchange(
    relay: &Process,
    floor: &Process,
    pairs: &mut Vec<load::Pair>,
    options: &BenchOptions,
) -> Result<MessageReport, BenchError> {
    let (mut relay_cpu, mut floor_cpu) = (Duration::ZERO, Duration::ZERO);
    let mut total = load::Done::default();
    // Both have met their code and memory before it counts.
    let warm_up = load::messages(pairs, options.messages / 10 + 1).await?;
    load::floor(&floor.address, pairs.len(), &warm_up).await?;
    for _ in 0..options.rounds {
        let before = relay.cpu()?;
        let done = load::messages(pairs, options.messages).await?;
        relay_cpu += relay.cpu()?.saturating_sub(before);
        let before = floor.cpu()?;
        load::floor(&floor.address, pairs.len(), &done).await?;
        floor_cpu += floor.cpu()?.saturating_sub(before);
        total.add(&done);
    }
    let count = total.messages.max(1) as f64;
    let cpu_us = relay_cpu.as_secs_f64() * 1e6 / count;
    let floor_cpu_us = floor_cpu.as_secs_f64() * 1e6 / count;
    Ok(MessageReport {
        count: total.messages,
        per_second: count / total.time.as_secs_f64(),
        per_cpu_second: 1e6 / cpu_us,
        cpu_us,
        floor_cpu_us,
        floor_ratio: floor_cpu_us / cpu_us,
        blocks_received: total.blocks.sent as f64 / count,
        blocks_sent: total.blocks.received as f64 / count,
    })
}

async fn creation(options: &BenchOptions) -> Result<CreationReport, BenchError> {
    let relay = Process::start(Kind::Relay, options).await?;
    let before = relay.cpu()?;
    let time = load::create(&relay.address, options.pairs, options.queues).await?;
    let cpu = relay.cpu()?.saturating_sub(before);
    Ok(CreationReport::of(options.queues, time, cpu))
}

async fn memory(options: &BenchOptions) -> Result<(MemoryReport, CreationReport), BenchError> {
    let relay = Process::start(Kind::Relay, options).await?;
    let start_bytes = relay.resident_bytes()?;
    // What the first ones need once does not count for the others.
    let first = load::idle(&relay.address, options.idle_connections / 10 + 1).await?;
    let before = relay.resident_bytes()?;
    let (cpu, start) = (relay.cpu()?, Instant::now());
    let idle = load::idle(&relay.address, options.idle_connections).await?;
    let (time, cpu) = (start.elapsed(), relay.cpu()?.saturating_sub(cpu));
    let with_idle = relay.resident_bytes()?;
    drop((first, idle));
    let relay = Process::start(Kind::Relay, options).await?;
    load::create(&relay.address, 1, options.queues / 10 + 1).await?;
    let before_queues = relay.resident_bytes()?;
    load::create(&relay.address, 1, options.queues).await?;
    let with_queues = relay.resident_bytes()?;
    let per = |after: u64, before: u64, count: usize| {
        after.saturating_sub(before) as f64 / count.max(1) as f64
    };
    let memory = MemoryReport {
        start_bytes,
        idle_connection_bytes: per(with_idle, before, options.idle_connections),
        empty_queue_bytes: per(with_queues, before_queues, options.queues),
    };
    let connecting = CreationReport::of(options.idle_connections, time, cpu);
    Ok((memory, connecting))
}
