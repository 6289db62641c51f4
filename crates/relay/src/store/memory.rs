//! Queues in memory, findable by all their names.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::task::{Context, Poll};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use junto_smp::id::{ID_BYTES, ServiceId};
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Change};
use junto_smp::service::Service;

use super::{
    Cell, CreateFault, Memory, Name, Position, Queue, Services, Store, StoreFailed, Swept,
};

/// Parts of each index, so that tasks seldom wait for each other. Ids are random, so their first
/// byte spreads them evenly.
const SHARDS: usize = 64;

type Shard = RwLock<HashMap<[u8; ID_BYTES], Arc<Cell>>>;

/// A store that forgets when the process ends.
pub struct MemoryStore {
    /// One index for each [`Name`], in the order of [`Name::ALL`].
    indexes: [Vec<Shard>; Name::ALL.len()],
    queues: AtomicUsize,
    queues_max: AtomicUsize,
    memory: Arc<Memory>,
    services: Services,
}

impl MemoryStore {
    /// An empty store for `queues_max` queues.
    #[must_use]
    pub fn new(queues_max: usize, memory: Arc<Memory>) -> Self {
        Self {
            indexes: Name::ALL.map(|_| (0..SHARDS).map(|_| Shard::default()).collect()),
            queues: AtomicUsize::new(0),
            queues_max: AtomicUsize::new(queues_max),
            memory,
            services: Services::new(usize::MAX),
        }
    }

    fn index(&self, name: Name) -> &[Shard] {
        let [recipient, sender, link, notifier] = &self.indexes;
        match name {
            Name::Recipient => recipient,
            Name::Sender => sender,
            Name::Link => link,
            Name::Notifier => notifier,
        }
    }

    fn shard(&self, name: Name, id: &[u8; ID_BYTES]) -> &Shard {
        &self.index(name)[usize::from(id[0]) % SHARDS]
    }

    fn shard_mut(
        &self,
        name: Name,
        id: &[u8; ID_BYTES],
    ) -> RwLockWriteGuard<'_, HashMap<[u8; ID_BYTES], Arc<Cell>>> {
        let shard = self.shard(name, id);
        shard.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `cell` this name, unless another queue has it.
    pub(super) fn name(&self, name: Name, id: &[u8; ID_BYTES], cell: &Arc<Cell>) -> bool {
        match self.shard_mut(name, id).entry(*id) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(cell));
                true
            }
            Entry::Occupied(entry) => Arc::ptr_eq(entry.get(), cell),
        }
    }

    pub(super) fn unname(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>> {
        self.shard_mut(name, id).remove(id)
    }

    /// Adds a queue. Calls `seen` when it can be found, and before anybody who finds it can use it.
    pub(super) fn add(
        &self,
        queue: Queue,
        seen: impl FnOnce(&Queue),
    ) -> Result<Arc<Cell>, CreateFault> {
        let max = self.queues_max.load(Ordering::Relaxed);
        let more = |queues| (queues < max).then_some(queues + 1);
        let counted = self
            .queues
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| CreateFault::Full)?;
        let cell = Cell::new(queue);
        let guard = cell.lock();
        for (count, (name, id)) in names(&guard).enumerate() {
            if !self.name(name, &id, &cell) {
                for (name, id) in names(&guard).take(count) {
                    self.unname(name, &id);
                }
                // Whoever has found it by another name meanwhile, and waits for the lock.
                cell.set_deleted();
                self.queues.fetch_sub(1, Ordering::Relaxed);
                return Err(CreateFault::Taken);
            }
        }
        self.join_all(&guard);
        seen(&guard);
        drop(guard);
        Ok(cell)
    }

    /// Puts a queue in, in place of what a log said of it before.
    pub(super) fn put(&self, queue: Queue) {
        if let Some(before) = self.find(Name::Recipient, &queue.recipient().0) {
            self.take(&before.lock());
        }
        let cell = Cell::new(queue);
        self.name_all(&cell.lock(), &cell);
        self.queues.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes `cell` findable by all names of its `queue`.
    pub(super) fn name_all(&self, queue: &Queue, cell: &Arc<Cell>) {
        for (name, id) in names(queue) {
            self.name(name, &id, cell);
        }
        self.join_all(queue);
    }

    /// Makes a queue unknown, before its names change.
    pub(super) fn unname_all(&self, queue: &Queue) {
        for (name, id) in names(queue) {
            self.unname(name, &id);
        }
        self.part_all(queue);
    }

    /// Makes it one of the queues of its services.
    fn join_all(&self, queue: &Queue) {
        for (service, name) in services(queue) {
            self.services.join(service, &name);
        }
    }

    fn part_all(&self, queue: &Queue) {
        for (service, name) in services(queue) {
            self.services.part(&service.id, &name);
        }
    }

    /// Takes a queue out.
    pub(super) fn take(&self, queue: &Queue) {
        for (name, id) in names(queue) {
            if self.unname(name, &id).is_some() && name == Name::Recipient {
                self.queues.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.part_all(queue);
    }

    /// After the service of the queue, or notifier, that it calls `name`, has changed.
    fn move_service(
        &self,
        name: &[u8; ID_BYTES],
        before: Option<ServiceId>,
        now: Option<&Arc<Service>>,
    ) {
        if let Some(before) = before {
            self.services.part(&before, name);
        }
        if let Some(now) = now {
            self.services.join(now, name);
        }
    }

    /// Drops what is too old of one queue, or the queue itself. Whatever it changes goes to `record`
    /// first, under the lock of the queue.
    pub(super) fn tidy(
        &self,
        cell: &Cell,
        now: Timestamp,
        limits: &queue::Limits,
        record: impl FnOnce(&Queue, Change),
    ) -> Swept {
        let mut queue = cell.lock();
        let mut swept = Swept::default();
        if cell.is_deleted() {
            return swept;
        }
        swept.messages = queue.expire(now, limits);
        let [reader, notifier] = self.services.readers(&queue);
        queue.follow_services(reader, notifier);
        if queue.is_unused(now, limits) {
            cell.set_deleted();
            record(&queue, Change::Deleted);
            self.take(&queue);
            swept.queues = 1;
        // Whoever reads it uses it, though without a command. A queue of which nothing is known has all
        // the time that there is, from now on.
        } else if (queue.is_read() || limits.unused_days.is_some() && queue.used().is_none())
            && let Some(change) = queue.touch(now)
        {
            record(&queue, change);
        }
        swept
    }

    /// Calls `f` for every queue that exists throughout, with no lock held. Queues that come or go
    /// meanwhile may be missed or seen.
    pub(super) fn for_each(&self, mut f: impl FnMut(&Cell)) {
        for shard in self.index(Name::Recipient) {
            let cells: Vec<_> = {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                shard.values().cloned().collect()
            };
            cells.iter().for_each(|cell| f(cell));
        }
    }
}

/// The names of a queue, that of the recipient first.
fn names(queue: &Queue) -> impl Iterator<Item = (Name, [u8; ID_BYTES])> {
    let link = queue.link().map(|link| (Name::Link, link.id().0));
    let notifier = queue.notifier().map(|n| (Name::Notifier, n.id().0));
    [
        Some((Name::Recipient, queue.recipient().0)),
        Some((Name::Sender, queue.sender().0)),
        link,
        notifier,
    ]
    .into_iter()
    .flatten()
}

/// The services of a queue and of its notifier, with their names for it.
fn services(queue: &Queue) -> impl Iterator<Item = (&Arc<Service>, [u8; ID_BYTES])> {
    let own = queue
        .service()
        .map(|service| (service, queue.recipient().0));
    let notifier = queue.notifier();
    let notifier = notifier.and_then(|notifier| Some((notifier.service()?, notifier.id().0)));
    own.into_iter().chain(notifier)
}

impl Store for MemoryStore {
    fn create(&self, queue: Queue) -> Result<Arc<Cell>, CreateFault> {
        self.add(queue, |_| {})
    }

    fn claim_link(&self, link: &[u8; ID_BYTES], cell: &Arc<Cell>) -> bool {
        self.name(Name::Link, link, cell)
    }

    fn release_link(&self, link: &[u8; ID_BYTES]) {
        self.unname(Name::Link, link);
    }

    fn find(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>> {
        let shard = self
            .shard(name, id)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(id).cloned()
    }

    fn record(&self, queue: &Queue, change: Change) {
        match change {
            Change::Deleted => self.take(queue),
            Change::Unlinked(link) => {
                self.unname(Name::Link, &link.0);
            }
            Change::NotifierDeleted(former) => {
                self.unname(Name::Notifier, &former.id.0);
                self.move_service(&former.id.0, former.service, None);
            }
            Change::Service { before } => {
                self.move_service(&queue.recipient().0, before, queue.service());
            }
            Change::NotifierService { before } => {
                if let Some(notifier) = queue.notifier() {
                    self.move_service(&notifier.id().0, before, notifier.service());
                }
            }
            Change::Notifier { replaced } => {
                if let Some(former) = replaced {
                    self.unname(Name::Notifier, &former.id.0);
                    self.move_service(&former.id.0, former.service, None);
                }
                let cell = self.find(Name::Recipient, &queue.recipient().0);
                if let Some((cell, notifier)) = cell.zip(queue.notifier()) {
                    self.name(Name::Notifier, &notifier.id().0, &cell);
                }
            }
            // Its name was claimed before.
            Change::Linked
            | Change::Used
            | Change::Secured
            | Change::Suspended
            | Change::RecipientKeys
            | Change::Blocking
            | Change::Stored(_)
            | Change::Removed(_) => {}
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

    fn sweep(&self, now: Timestamp, limits: &queue::Limits) -> Swept {
        let mut swept = Swept::default();
        self.for_each(|cell| swept += self.tidy(cell, now, limits, |_, _| {}));
        swept
    }

    fn services(&self) -> &Services {
        &self.services
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
