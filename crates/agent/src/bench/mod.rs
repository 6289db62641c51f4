//! What a message costs the agents of its two ends, against what it must cost.
//!
//! Two cores and a relay that only passes on, in one thread: what is timed is the work of the cores
//! and of their stores, not of relay and network. The *floor*, measured in the same run, is what the
//! protocol demands of any implementation: the ratchet and the box of the queue layer at both ends.

mod distance;
mod passage;

pub use distance::distant;

use std::path::Path;
use std::time::{Duration, Instant};

use junto_crypto::aead::StoreKey;
use junto_crypto::secretbox::{BoxKey, Nonce};
use junto_ratchet::{MakerKeys, Options, Ratchet, VersionRange};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::Serialize;

use crate::store::{MemoryStore, SqliteStore, Store, StoreError};
use passage::Passage;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Messages in each measurement.
    pub messages: usize,
    /// Bytes of each message.
    pub body_bytes: usize,
    /// Messages that the application gives at a time, and so share a transaction.
    pub batch: usize,
}

impl Default for BenchOptions {
    /// 100 B messages, 32 at a time: a few seconds.
    fn default() -> Self {
        Self {
            messages: 10_000,
            body_bytes: 100,
            batch: 32,
        }
    }
}

impl BenchOptions {
    /// A look in well under a second, for tests.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            messages: 64,
            ..Self::default()
        }
    }
}

/// The figures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BenchReport {
    /// Bytes of each message.
    pub body_bytes: usize,
    /// Messages that share a transaction.
    pub batch: usize,
    /// Ratchet and queue layer alone, both ends, messages per second of one core.
    pub floor_per_second: f64,
    /// The same with everything else, kept in memory.
    pub memory: Speed,
    /// `memory.both_per_second` of the floor.
    pub ratio: f64,
    /// With both databases on the disk, each transaction waiting for it.
    pub durable: Speed,
    /// Microseconds of one message there and one back, one at a time: a ratchet step at each end,
    /// keys made ahead.
    pub turn_us: f64,
    /// The same with the databases.
    pub durable_turn_us: f64,
}

/// Messages per second, one way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Speed {
    /// At the sender.
    pub send_per_second: f64,
    /// At the receiver, which also acknowledges.
    pub receive_per_second: f64,
    /// Both after each other.
    pub both_per_second: f64,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The databases cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something that cannot fail failed. A defect of ours.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

/// Measures, with databases in `folder`, which must exist; they are left there.
///
/// # Errors
/// [`BenchError`].
pub fn run(options: BenchOptions, folder: &Path) -> Result<BenchReport, BenchError> {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let floor = floor(options, &mut rng)?;
    let memory = || -> Result<Box<dyn Store>, BenchError> { Ok(Box::<MemoryStore>::default()) };
    let (memory, turn) = measure(options, [memory()?, memory()?], &mut rng)?;
    let disk = |name: &str| -> Result<Box<dyn Store>, BenchError> {
        let key = StoreKey::from_bytes(&[2; 32]);
        Ok(Box::new(SqliteStore::open(&folder.join(name), key)?))
    };
    let stores = [disk("bench-sender.db")?, disk("bench-receiver.db")?];
    let (durable, durable_turn) = measure(options, stores, &mut rng)?;
    Ok(BenchReport {
        body_bytes: options.body_bytes,
        batch: options.batch,
        floor_per_second: floor,
        memory,
        ratio: memory.both_per_second / floor,
        durable,
        turn_us: turn.as_secs_f64() * 1e6,
        durable_turn_us: durable_turn.as_secs_f64() * 1e6,
    })
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn measure(
    options: BenchOptions,
    stores: [Box<dyn Store>; 2],
    rng: &mut ChaCha20Rng,
) -> Result<(Speed, Duration), BenchError> {
    let mut passage = Passage::new(stores, rng)?;
    let body = vec![7; options.body_bytes];
    let batch = options.batch.clamp(1, options.messages.max(1));
    let rounds = options.messages.div_ceil(batch);
    let mut times = [Duration::ZERO; 2];
    // Whatever happens once, such as growing files, happens before.
    passage.carry(0, &body, batch, rng)?;
    for _ in 0..rounds {
        let [send, receive] = passage.carry(0, &body, batch, rng)?;
        times[0] += send;
        times[1] += receive;
    }
    let count = rounds * batch;
    let speed = Speed {
        send_per_second: per_second(count, times[0]),
        receive_per_second: per_second(count, times[1]),
        both_per_second: per_second(count, times[0] + times[1]),
    };
    let turns = (options.messages / 50).clamp(2, 200);
    let mut turning = Duration::ZERO;
    for turn in 0..turns {
        let [send, receive] = passage.carry(1 - turn % 2, &body, 1, rng)?;
        turning += send + receive;
        passage.prepare(rng);
    }
    Ok((speed, turning / u32::try_from(turns / 2).unwrap_or(1)))
}

/// Two ends of a ratchet after each has sent.
fn ratchets(rng: &mut ChaCha20Rng) -> Result<(Ratchet, Ratchet), BenchError> {
    let defect = |_| BenchError::Defect("ratchet");
    let keys = MakerKeys::generate(true, rng);
    let offer = keys.offer(VersionRange::OURS);
    let (mut joiner, params) =
        junto_ratchet::join(&offer, Options::default(), rng).map_err(defect)?;
    let mut maker = keys.accept(&params, Options::default()).map_err(defect)?;
    let first = joiner.encrypt(b"first", PADDED).map_err(defect)?;
    drop(maker.decrypt(&first, rng).map_err(defect)?);
    let second = maker.encrypt(b"second", PADDED).map_err(defect)?;
    drop(joiner.decrypt(&second, rng).map_err(defect)?);
    Ok((joiner, maker))
}

/// Plaintext length of the ratchet.
const PADDED: usize = 13_618;

fn floor(options: BenchOptions, rng: &mut ChaCha20Rng) -> Result<f64, BenchError> {
    let (mut sender, mut receiver) = ratchets(rng)?;
    let key = BoxKey::from_symmetric(&[3; 32]);
    let nonce = Nonce([4; 24]);
    let body = vec![7; options.body_bytes];
    let mut sealed = Vec::with_capacity(16_048);
    let start = Instant::now();
    for _ in 0..options.messages {
        let message = sender
            .encrypt(&body, PADDED)
            .map_err(|_| BenchError::Defect("encrypt"))?;
        sealed.clear();
        key.seal_padded(&nonce, &message, 16_000, &mut sealed)
            .map_err(|_| BenchError::Defect("seal"))?;
        let opened = key
            .open_padded(&nonce, &sealed)
            .map_err(|_| BenchError::Defect("open"))?;
        let decrypted = receiver
            .decrypt(&opened, rng)
            .map_err(|_| BenchError::Defect("decrypt"))?;
        if decrypted.plaintext.len() != options.body_bytes {
            return Err(BenchError::Defect("length"));
        }
    }
    Ok(per_second(options.messages, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_look_gives_figures() {
        let folder = tempfile::tempdir().unwrap();
        let report = run(BenchOptions::quick(), folder.path()).unwrap();
        assert!(report.floor_per_second > 0.0);
        assert!(report.durable.both_per_second > 0.0);
    }
}
