//! Queues in memory, findable by both names.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use junto_smp::id::ID_BYTES;
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Change};

use super::{Cell, Memory, Name, Position, Queue, Store, StoreFailed, StoreFull};

/// Parts of each index, so that tasks seldom wait for each other. Ids are random, so their first
/// byte spreads them evenly.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<[u8; ID_BYTES], Arc<Cell>>>;

/// A store that forgets when the process ends.
pub struct MemoryStore {
    by_recipient: Vec<Shard>,
    by_sender: Vec<Shard>,
    queues: AtomicUsize,
    queues_max: AtomicUsize,
    memory: Arc<Memory>,
}

impl MemoryStore {
    /// An empty store for `queues_max` queues.
    #[must_use]
    pub fn new(queues_max: usize, memory: Arc<Memory>) -> Self {
        let shards = || (0..SHARDS).map(|_| Shard::default()).collect();
        Self {
            by_recipient: shards(),
            by_sender: shards(),
            queues: AtomicUsize::new(0),
            queues_max: AtomicUsize::new(queues_max),
            memory,
        }
    }

    fn shard(&self, name: Name, id: &[u8; ID_BYTES]) -> &Shard {
        let index = match name {
            Name::Recipient => &self.by_recipient,
            Name::Sender => &self.by_sender,
        };
        &index[usize::from(id[0]) % SHARDS]
    }

    /// Puts a queue in, in place of one with the same names if there is one. Calls `seen` when it
    /// can be found, and before anybody who finds it can use it.
    pub(super) fn put(&self, queue: Queue, seen: impl FnOnce(&Queue)) -> Arc<Cell> {
        let names = [
            (Name::Recipient, queue.recipient().0),
            (Name::Sender, queue.sender().0),
        ];
        let cell = Cell::new(queue);
        let guard = cell.lock();
        let mut known = false;
        for (name, id) in names {
            let mut shard = self
                .shard(name, &id)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            known |= shard.insert(id, Arc::clone(&cell)).is_some();
        }
        if !known {
            self.queues.fetch_add(1, Ordering::Relaxed);
        }
        seen(&guard);
        drop(guard);
        cell
    }

    /// Takes a queue out.
    pub(super) fn take(&self, queue: &Queue) {
        let mut known = false;
        for (name, id) in [
            (Name::Recipient, queue.recipient().0),
            (Name::Sender, queue.sender().0),
        ] {
            let mut shard = self
                .shard(name, &id)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            known |= shard.remove(&id).is_some();
        }
        if known {
            self.queues.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Calls `f` for every queue that exists throughout, with no lock held. Queues that come or go
    /// meanwhile may be missed or seen.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Cell)) {
        for shard in &self.by_recipient {
            let cells: Vec<_> = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.values().cloned().collect()
            };
            cells.iter().for_each(|cell| f(cell));
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.queues() >= self.queues_max.load(Ordering::Relaxed)
    }
}

impl Store for MemoryStore {
    fn create(&self, queue: Queue) -> Result<Arc<Cell>, StoreFull> {
        if self.is_full() {
            return Err(StoreFull);
        }
        Ok(self.put(queue, |_| {}))
    }

    fn find(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>> {
        let shard = self
            .shard(name, id)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(id).cloned()
    }

    fn record(&self, queue: &Queue, change: Change) {
        if change == Change::Deleted {
            self.take(queue);
        }
    }

    fn position(&self) -> Position {
        Position::default()
    }

    fn durable(&self) -> Position {
        Position(u64::MAX)
    }

    fn poll_durable(&self, _: Position, _: &mut Context<'_>) -> Poll<Result<(), StoreFailed>> {
        Poll::Ready(Ok(()))
    }

    fn sweep(&self, now: Timestamp, limits: &queue::Limits) -> usize {
        let mut expired = 0;
        self.for_each(|cell| expired += cell.lock().expire(now, limits));
        expired
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn queues(&self) -> usize {
        self.queues.load(Ordering::Relaxed)
    }

    fn set_limits(&self, queues: usize, message_bytes: usize) {
        self.queues_max.store(queues, Ordering::Relaxed);
        self.memory.set_limit(message_bytes);
    }

    fn close(&self) -> Result<(), StoreFailed> {
        Ok(())
    }
}
