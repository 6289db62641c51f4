//! Where queues live.
//!
//! A [`Store`] holds all queues and makes their changes durable. Connections change a queue under
//! its own lock ([`Cell`]) and then [`Store::record`] the change, still under that lock, so that a
//! log has the changes of one queue in the order in which they happened. Then they ask for the
//! [`Store::position`], and tell nobody what they saw before [`Store::poll_durable`] has reached it.
//!
//! Two stores now: [`MemoryStore`], for which everything is durable at once, and
//! [`JournalStore`], which adds an append-only journal.

mod body;
#[cfg(test)]
pub(crate) mod conformance;
mod disk;
#[cfg(test)]
mod faults;
mod journal;
mod log;
mod memory;
mod record;
mod replay;
mod segment;
mod services;

use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use junto_smp::id::ID_BYTES;
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Change};

pub use body::{Body, Memory};
pub use journal::{JournalError, JournalStore};
pub use memory::MemoryStore;
pub use services::{ServiceCell, Services, Taken};

/// A queue as this relay keeps it.
pub type Queue = queue::Queue<Body>;

/// One queue and its lock. Nothing slow happens under it: no cryptography, no input or output.
///
/// Order of locks: cell, then index or services or journal or mailbox, never the other way round.
pub struct Cell {
    queue: Mutex<Queue>,
    deleted: AtomicBool,
}

impl Cell {
    /// Wraps a queue.
    #[must_use]
    pub fn new(queue: Queue) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(queue),
            deleted: AtomicBool::new(false),
        })
    }

    /// Locks it. A panic under the lock cannot leave a queue half changed in a way that matters
    /// more than refusing it for ever, so poisoning is ignored.
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the queue was deleted after it was found. Decisive only under the lock.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Relaxed)
    }

    /// Marks the queue as deleted; under the lock.
    pub fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Relaxed);
    }
}

/// Which of the names of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The recipient's.
    Recipient,
    /// The sender's.
    Sender,
    /// The short link's, if it has one.
    Link,
    /// The notification server's, if there is one.
    Notifier,
}

impl Name {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Recipient, Self::Sender, Self::Link, Self::Notifier];
}

/// A point in the order of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(pub u64);

/// The store failed to write. Nothing more will become durable; the relay must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot write")]
pub struct StoreFailed;

/// What a sweep has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Messages that were too old.
    pub messages: usize,
    /// Queues that nobody has used for too long.
    pub queues: usize,
}

impl core::ops::AddAssign for Swept {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.queues += other.queues;
    }
}

/// Why a queue cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateFault {
    /// The store has as many queues as it may.
    #[error("the store is full")]
    Full,
    /// Another queue has one of its names, which only happens with names that a client chose.
    #[error("a name is taken")]
    Taken,
}

/// All queues of a relay.
pub trait Store: Send + Sync + 'static {
    /// Adds a new queue and makes it durable.
    ///
    /// # Errors
    /// [`CreateFault`].
    fn create(&self, queue: Queue) -> Result<Arc<Cell>, CreateFault>;

    /// Reserves `link` for the queue in `cell`, whose lock the caller holds; `false` if another
    /// queue has it. [`Change::Linked`] follows, or [`Store::release_link`].
    fn claim_link(&self, link: &[u8; ID_BYTES], cell: &Arc<Cell>) -> bool;

    /// Gives a reserved link up.
    fn release_link(&self, link: &[u8; ID_BYTES]);

    /// Finds a queue by one of its names, possibly just after it has lost it.
    fn find(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>>;

    /// Makes `change`, which was just carried out on `queue`, durable. The caller still holds the
    /// queue's lock. After [`Change::Deleted`] the queue can no longer be found.
    fn record(&self, queue: &Queue, change: Change);

    /// Where the last change stands. Whatever a caller saw of the store rests on nothing later.
    fn position(&self) -> Position;

    /// Up to where everything is durable.
    fn durable(&self) -> Position;

    /// Whether everything up to `position` is durable. Otherwise wakes the task when it is.
    ///
    /// # Errors
    /// [`StoreFailed`], from then on for ever.
    fn poll_durable(
        &self,
        position: Position,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StoreFailed>>;

    /// Drops messages and unused queues that are older than `limits` allow, notes which queues are in
    /// use and that the relay runs, and tidies up. May take long: not for an async task.
    fn sweep(&self, now: Timestamp, limits: &queue::Limits) -> Swept;

    /// Whether a [`Store::sweep`] is due before its time, because the store takes far more room than
    /// what it holds.
    fn wants_sweep(&self) -> bool {
        false
    }

    /// The services, and which queues are theirs. That follows from [`Store::create`] and
    /// [`Store::record`].
    fn services(&self) -> &Services;

    /// The memory of message bodies.
    fn memory(&self) -> &Arc<Memory>;

    /// How many queues there are.
    fn queues(&self) -> usize;

    /// Changes how many queues there may be, and how many bytes of messages. What is there stays.
    fn set_limits(&self, queues: usize, message_bytes: usize);

    /// Makes everything durable and ends background work. Nothing may be recorded afterwards.
    ///
    /// # Errors
    /// [`StoreFailed`].
    fn close(&self) -> Result<(), StoreFailed>;
}
