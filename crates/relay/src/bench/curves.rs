//! How the costs grow with connections and queues.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use super::load;
use super::peer::Peer;
use super::process::{Kind, Process};
use super::{BenchError, BenchOptions, MessageReport, Quantiles};

/// Pairs that exchange messages at once; further connections are idle.
const ACTIVE_PAIRS_MAX: usize = 64;
/// Connections opened at once.
const OPENING: usize = 16;
/// Messages through one queue, each durable before the next is delivered.
const DURABLE_MESSAGES: u64 = 2_000;
/// Confirmations of the disk that are the floor of that.
const CONFIRMATIONS: usize = 200;

/// Which points to measure.
#[derive(Clone, Debug)]
pub struct CurveOptions {
    /// Connections.
    pub connections: Vec<usize>,
    /// Queues.
    pub queues: Vec<usize>,
    /// Threads of the relay and the floor.
    pub threads: Vec<usize>,
    /// Messages at each point.
    pub messages: u64,
}

impl Default for CurveOptions {
    /// 1 to 10,000 connections, 1 to 1,000,000 queues, on one core and two: about ten minutes on two
    /// cores. 20,100 open files must be allowed.
    fn default() -> Self {
        Self {
            connections: vec![2, 10, 100, 1_000, 10_000],
            queues: vec![1, 1_000, 10_000, 100_000, 1_000_000],
            threads: vec![1, 2],
            messages: 4_000,
        }
    }
}

/// The curves.
#[derive(Clone, Debug, Serialize)]
pub struct Curves {
    /// Over connections, for each number of threads.
    pub connections: Vec<ConnectionsPoint>,
    /// Over queues, for each number of threads.
    pub queues: Vec<QueuesPoint>,
    /// One queue, one message after another, each on the disk.
    pub durable: DurableReport,
}

/// Costs with this many connections.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ConnectionsPoint {
    /// Threads of the relay.
    pub threads: usize,
    /// Open connections, at most 128 of them busy.
    pub connections: usize,
    /// Opened per second of the relay's CPU time.
    pub opened_per_cpu_second: f64,
    /// Memory of one idle connection, if there are idle ones.
    pub idle_connection_bytes: Option<f64>,
    /// Messages through the busy ones.
    pub message: MessageReport,
}

/// Costs with this many queues.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct QueuesPoint {
    /// Threads of the relay.
    pub threads: usize,
    /// Queues.
    pub queues: usize,
    /// Created per second of the relay's CPU time, since the point before.
    pub created_per_cpu_second: f64,
    /// Memory of one of them, empty; with fewer than a thousand nobody can tell.
    pub queue_bytes: Option<f64>,
    /// Messages through other queues meanwhile.
    pub message: MessageReport,
}

/// One queue whose every message waits for the disk twice: stored, and acknowledged.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DurableReport {
    /// Messages per second.
    pub per_second: f64,
    /// The disk's confirmations, one after another, in the same run.
    pub confirmations_per_second: f64,
    /// A confirmation.
    pub confirmation_us: Quantiles,
}

/// Measures the curves.
///
/// # Errors
/// [`BenchError`].
pub async fn curves(options: &CurveOptions) -> Result<Curves, BenchError> {
    let mut curves = Curves {
        connections: Vec::new(),
        queues: Vec::new(),
        durable: durable().await?,
    };
    for &threads in &options.threads {
        let base = BenchOptions {
            threads,
            messages: options.messages,
            rounds: 2,
            ..BenchOptions::default()
        };
        for &connections in &options.connections {
            let point = at_connections(&base, connections).await?;
            curves.connections.push(point);
        }
        at_queues(&base, &options.queues, &mut curves.queues).await?;
    }
    Ok(curves)
}

async fn at_connections(
    options: &BenchOptions,
    connections: usize,
) -> Result<ConnectionsPoint, BenchError> {
    let options = BenchOptions {
        pairs: (connections / 2).clamp(1, ACTIVE_PAIRS_MAX),
        ..*options
    };
    let relay = Process::start(Kind::Relay, &options).await?;
    let floor = Process::start(Kind::Floor, &options).await?;
    let cpu = relay.cpu()?;
    let mut pairs = load::pairs(&relay.address, options.pairs).await?;
    let memory = relay.resident_bytes()?;
    let idle = open_idle(&relay, connections.saturating_sub(2 * options.pairs)).await?;
    let memory = relay.resident_bytes()?.saturating_sub(memory);
    let opened = 2 * pairs.len() + idle.len();
    let cpu = relay.cpu()?.saturating_sub(cpu);
    Ok(ConnectionsPoint {
        threads: options.threads,
        connections: opened,
        opened_per_cpu_second: opened as f64 / cpu.as_secs_f64(),
        idle_connection_bytes: (!idle.is_empty()).then(|| memory as f64 / idle.len() as f64),
        message: super::exchange(&relay, &floor, &mut pairs, &options).await?,
    })
}

/// Opens connections, several at a time.
async fn open_idle(relay: &Process, count: usize) -> Result<Vec<Peer>, BenchError> {
    let mut opening = JoinSet::new();
    for part in 0..OPENING {
        let (address, share) = (relay.address.clone(), (count + part) / OPENING);
        opening.spawn(async move { load::idle(&address, share).await });
    }
    let mut idle = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        idle.extend(opened.map_err(|_| BenchError::Defect)??);
    }
    Ok(idle)
}

async fn at_queues(
    options: &BenchOptions,
    counts: &[usize],
    points: &mut Vec<QueuesPoint>,
) -> Result<(), BenchError> {
    let relay = Process::start(Kind::Relay, options).await?;
    let floor = Process::start(Kind::Floor, options).await?;
    let mut pairs = load::pairs(&relay.address, options.pairs).await?;
    // What the first messages and queues need once does not count for the others.
    load::messages(&mut pairs, options.messages).await?;
    load::create(&relay.address, options.pairs, options.pairs).await?;
    let (start, mut there) = (relay.resident_bytes()?, 0);
    for &queues in counts {
        let more = queues.saturating_sub(there);
        let (memory, cpu) = (relay.resident_bytes()?, relay.cpu()?);
        load::create(&relay.address, options.pairs, more).await?;
        there += more;
        let cpu = relay
            .cpu()?
            .saturating_sub(cpu)
            .max(Duration::from_nanos(1));
        let grown = relay.resident_bytes()?.saturating_sub(start.min(memory));
        points.push(QueuesPoint {
            threads: options.threads,
            queues: there,
            created_per_cpu_second: more as f64 / cpu.as_secs_f64(),
            queue_bytes: (there >= 1_000).then(|| grown as f64 / there as f64),
            message: super::exchange(&relay, &floor, &mut pairs, options).await?,
        });
    }
    Ok(())
}

async fn durable() -> Result<DurableReport, BenchError> {
    let options = BenchOptions {
        pairs: 1,
        journal: Some(true),
        ..BenchOptions::default()
    };
    let relay = Process::start(Kind::Relay, &options).await?;
    let mut pairs = load::pairs(&relay.address, 1).await?;
    load::messages(&mut pairs, DURABLE_MESSAGES / 10).await?;
    let before = confirmations().await?;
    let done = load::messages(&mut pairs, DURABLE_MESSAGES).await?;
    let mut times = confirmations().await?;
    times.extend(before);
    let total: Duration = times.iter().sum();
    Ok(DurableReport {
        per_second: done.messages as f64 / done.time.as_secs_f64(),
        confirmations_per_second: times.len() as f64 / total.as_secs_f64(),
        confirmation_us: Quantiles::of(times),
    })
}

/// How long the disk takes to confirm as many bytes as a message has.
async fn confirmations() -> Result<Vec<Duration>, BenchError> {
    let measure = || {
        let path = Process::temporary();
        let mut file = std::fs::File::create(&path)?;
        let mut times = Vec::with_capacity(CONFIRMATIONS);
        let measured = (0..CONFIRMATIONS).try_for_each(|_| {
            let start = Instant::now();
            file.write_all(&[7; 16_384])?;
            file.sync_data()?;
            times.push(start.elapsed());
            Ok(())
        });
        std::fs::remove_file(&path)?;
        measured.map(|()| times)
    };
    let measured = tokio::task::spawn_blocking(measure).await;
    measured
        .map_err(|_| BenchError::Defect)?
        .map_err(BenchError::Process)
}
