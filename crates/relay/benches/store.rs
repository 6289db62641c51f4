//! `cargo bench -p junto-relay --bench store`: the journal without the network. Messages made
//! durable by group commit, the longest wait while the journal is compacted, and the start with many
//! queues. Arguments: `messages=20000`, `queues=1000000`, `dir=…` (on the disk to measure).
//!
//! The floor is one `fdatasync` after another, in the same run.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use junto_crypto::ed25519;
use junto_relay::store::{Cell, JournalStore, Memory, Position, Queue, Store};
use junto_smp::id::{MessageId, RecipientId, SenderId};
use junto_smp::key::AuthKey;
use junto_smp::message::{DeliveryKey, MessageFlags, Timestamp};
use junto_smp::queue::{self, Change, Content, Message};

type Failure = Box<dyn std::error::Error>;

/// The body of every message.
const BODY_BYTES: usize = 16_000;

fn main() -> Result<(), Failure> {
    let mut messages = 20_000;
    let mut queues = 100_000;
    let mut parent = std::env::temp_dir();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("messages", n)) => messages = n.parse()?,
            Some(("queues", n)) => queues = n.parse()?,
            Some(("dir", path)) => parent = path.into(),
            _ => {} // What cargo adds.
        }
    }
    let dir = tempfile::tempdir_in(parent)?;
    let mut out = std::io::stdout();
    writeln!(out, "floor: {}", confirmations(dir.path())?)?;
    for tasks in [1, 16, 128] {
        let dir = tempfile::tempdir_in(dir.path())?;
        let store = open(dir.path())?;
        let rate = rate(&store, tasks, messages)?;
        writeln!(out, "journal, {tasks} tasks: {rate}")?;
        store.close()?;
    }
    let pauses = pauses(
        &tempfile::tempdir_in(dir.path())?,
        queues.min(100_000),
        messages,
    )?;
    writeln!(out, "{pauses}")?;
    writeln!(out, "{}", start(dir.path(), queues)?)?;
    Ok(())
}

fn open(dir: &Path) -> Result<Arc<JournalStore>, Failure> {
    let memory = Memory::new(usize::MAX);
    Ok(Arc::new(JournalStore::open(
        dir,
        true,
        usize::MAX,
        memory,
        Timestamp(0),
    )?))
}

/// A queue of its own for number `n`.
fn queue(n: u64, key: &AuthKey) -> Queue {
    let mut id = [0; 24];
    // Spread over all parts of the index, as random ids are.
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let mut sender = id;
    sender[23] = 1;
    let parts = queue::QueueParts {
        recipient: RecipientId(id),
        sender: SenderId(sender),
        mode: None,
        recipient_key: key.clone(),
        sender_key: None,
        delivery_key: DeliveryKey::from_bytes(&[7; 32]),
        suspended: false,
    };
    Queue::restore(parts)
}

fn key() -> AuthKey {
    AuthKey::Ed25519(ed25519::SigningKey::from_seed(&[5; 32]).verifying_key())
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait(store: &JournalStore, position: Position) -> Result<(), Failure> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match store.poll_durable(position, &mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return Ok(result?),
            Poll::Pending => std::thread::park(),
        }
    }
}

/// One message stored, durable, and removed again, durable with the next.
fn message(store: &JournalStore, cell: &Cell, body: &[u8]) -> Result<(), Failure> {
    let id = MessageId([1; 24]);
    let mut queue = cell.lock();
    if queue.restore_removal(&id) {
        store.record(&queue, Change::Removed(id));
    }
    queue.restore_message(Message {
        id,
        time: Timestamp(u64::MAX / 2),
        content: Content::Body {
            flags: MessageFlags::default(),
            body: store.memory().store(body),
        },
    });
    store.record(&queue, Change::Stored(id));
    let position = store.position();
    drop(queue);
    wait(store, position)
}

/// `messages` over `tasks` queues at once.
fn rate(store: &JournalStore, tasks: u64, messages: u64) -> Result<String, Failure> {
    let share = (messages / tasks).clamp(1, 2_000);
    let (start, cpu) = (Instant::now(), cpu()?);
    std::thread::scope(|scope| {
        for n in 0..tasks {
            let key = key();
            scope.spawn(move || {
                let (Ok(cell), body) = (store.create(queue(n, &key)), vec![9; BODY_BYTES]) else {
                    return;
                };
                for _ in 0..share {
                    if message(store, &cell, &body).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let (time, cpu) = (start.elapsed(), self::cpu()?.saturating_sub(cpu));
    let count = (share * tasks) as f64;
    Ok(format!(
        "{:.0} durable messages/s, {:.1} µs CPU each",
        count / time.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count
    ))
}

/// How long confirmations of 4 KiB take.
fn confirmations(dir: &Path) -> Result<String, Failure> {
    let mut file = std::fs::File::create(dir.join("floor"))?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[1; 4_096])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |n: usize| times.get(n).copied().unwrap_or_default().as_secs_f64() * 1e3;
    Ok(format!(
        "fdatasync of 4 KiB: median {:.2} ms, 99 of 100 below {:.2} ms",
        at(100),
        at(197)
    ))
}

/// The longest and the usual wait for durability, with and without compaction.
fn pauses(dir: &tempfile::TempDir, queues: u64, messages: u64) -> Result<String, Failure> {
    let store = open(dir.path())?;
    let key = key();
    for n in 1_000_000..1_000_000 + queues {
        store.create(queue(n, &key)).map_err(|_| "full")?;
    }
    wait(&store, store.position())?;
    let longest = [AtomicU64::new(0), AtomicU64::new(0)];
    let counts = [AtomicU64::new(0), AtomicU64::new(0)];
    let compacting = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    let mut compactions = 0;
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (store, key) = (&store, &key);
            let (longest, counts, compacting, stop) = (&longest, &counts, &compacting, &stop);
            scope.spawn(move || {
                let (Ok(cell), body) = (store.create(queue(n, key)), vec![9; BODY_BYTES]) else {
                    return;
                };
                while !stop.load(Ordering::Relaxed) {
                    let (start, before) = (Instant::now(), compacting.load(Ordering::Relaxed));
                    if message(store, &cell, &body).is_err() {
                        return;
                    }
                    let during = before || compacting.load(Ordering::Relaxed);
                    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                    longest[usize::from(during)].fetch_max(micros, Ordering::Relaxed);
                    counts[usize::from(during)].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let total = || {
            counts
                .iter()
                .map(|n| n.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while total() < messages && Instant::now() < deadline {
            if store.wants_sweep() {
                compactions += 1;
                compacting.store(true, Ordering::Relaxed);
                store.sweep(Timestamp(1), &queue::Limits::default());
                compacting.store(false, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.close()?;
    let at = |n: usize| {
        (
            counts[n].load(Ordering::Relaxed),
            longest[n].load(Ordering::Relaxed) as f64 / 1e3,
        )
    };
    let ((quiet, quiet_ms), (busy, busy_ms)) = (at(0), at(1));
    Ok(format!(
        "8 tasks beside {queues} queues: longest wait {quiet_ms:.1} ms of {quiet} messages; \
         {busy_ms:.1} ms of {busy} during {compactions} compactions"
    ))
}

/// The start with many empty queues.
fn start(dir: &Path, queues: u64) -> Result<String, Failure> {
    let dir = tempfile::tempdir_in(dir)?;
    let store = open(dir.path())?;
    let key = key();
    for n in 0..queues {
        store.create(queue(n, &key)).map_err(|_| "full")?;
    }
    store.close()?;
    drop(store);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir.path())? {
        bytes += entry?.metadata()?.len();
    }
    let (start, cpu) = (Instant::now(), cpu()?);
    let store = open(dir.path())?;
    let (time, cpu) = (start.elapsed(), self::cpu()?.saturating_sub(cpu));
    if store.queues() as u64 != queues {
        return Err("queues are lost".into());
    }
    store.close()?;
    Ok(format!(
        "start with {queues} queues ({:.0} MiB): {:.2} s, {:.2} s CPU",
        bytes as f64 / f64::from(1 << 20),
        time.as_secs_f64(),
        cpu.as_secs_f64()
    ))
}

/// CPU time of this process so far, in steps of 10 ms; threads that have ended included.
fn cpu() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name of the program, which may have spaces, the 12th and 13th.
    let (_, numbers) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let ticks = numbers.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(10 * ticks))
}
