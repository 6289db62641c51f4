//! Message bodies and the memory they may take.
//!
//! Bodies are counted from the moment they are stored until the last copy of the handle is gone,
//! so messages that wait in a connection's outbox count too. Buffers of usual size (clients pad
//! messages to nearly 16 KiB) are kept for the next message: in steady state a message allocates
//! only the small shared handle. What a message takes beside its body, in its queue and in the
//! allocator, is counted with it: otherwise millions of empty ones would be free.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use junto_smp::message::BODY_BYTES_MAX;
use junto_smp::queue::Message;

/// Bodies at least this long get a buffer of full size, which can be used again.
const POOLED_BYTES_MIN: usize = BODY_BYTES_MAX / 2;
/// Slots of a queue for each of its messages: it begins with 4, and doubles them when it needs more.
const SLOTS: usize = 4;
/// What an allocation takes beside what was asked for: the allocator's own head, and rounding up.
const ALLOCATION_BYTES: usize = 24;
/// What a message takes beside its body: slots, the shared handle with its two counts, and three
/// allocations. Some 310 bytes.
const MESSAGE_BYTES: usize = SLOTS * size_of::<Message<Body>>()
    + 2 * size_of::<usize>()
    + size_of::<Stored>()
    + 3 * ALLOCATION_BYTES;
/// Buffers kept for the next message: 256 × 16 KiB = 4 MiB.
const POOL_MAX: usize = 256;

/// The memory of all message bodies of a relay.
pub struct Memory {
    limit_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
    bodies: AtomicUsize,
    pool: Mutex<Vec<Vec<u8>>>,
}

impl Memory {
    /// Room for bodies of `limit_bytes` together.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes: AtomicUsize::new(limit_bytes),
            used_bytes: AtomicUsize::new(0),
            bodies: AtomicUsize::new(0),
            pool: Mutex::new(Vec::new()),
        })
    }

    /// Bytes in use, without the pool.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the bodies alone, about.
    pub(super) fn body_bytes(&self) -> usize {
        let beside = self.bodies.load(Ordering::Relaxed) * MESSAGE_BYTES;
        self.used_bytes().saturating_sub(beside)
    }

    /// What a body of `len` bytes is counted with: the memory that a message with it takes.
    #[must_use]
    pub const fn cost(len: usize) -> usize {
        MESSAGE_BYTES
            + if len < POOLED_BYTES_MIN {
                len
            } else {
                BODY_BYTES_MAX
            }
    }

    /// Whether a body of `bytes` may be stored. Two tasks that ask at once may exceed the limit by
    /// one message each; the limit is about gigabytes.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.used_bytes()
            .checked_add(Self::cost(bytes))
            .is_some_and(|sum| sum <= self.limit_bytes.load(Ordering::Relaxed))
    }

    /// Changes the room. What is stored stays.
    pub fn set_limit(&self, limit_bytes: usize) {
        self.limit_bytes.store(limit_bytes, Ordering::Relaxed);
    }

    /// Stores a copy of `bytes`.
    #[must_use]
    pub fn store(self: &Arc<Self>, bytes: &[u8]) -> Body {
        self.used_bytes
            .fetch_add(Self::cost(bytes.len()), Ordering::Relaxed);
        self.bodies.fetch_add(1, Ordering::Relaxed);
        let mut buffer = if bytes.len() < POOLED_BYTES_MIN {
            Vec::with_capacity(bytes.len())
        } else {
            self.pool()
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(BODY_BYTES_MAX))
        };
        buffer.extend_from_slice(bytes);
        Body(Arc::new(Stored {
            bytes: buffer,
            memory: Arc::clone(self),
        }))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        self.used_bytes
            .fetch_sub(Self::cost(buffer.len()), Ordering::Relaxed);
        self.bodies.fetch_sub(1, Ordering::Relaxed);
        if buffer.len() >= POOLED_BYTES_MIN {
            buffer.clear();
            let mut pool = self.pool();
            if pool.len() < POOL_MAX {
                pool.push(buffer);
            }
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stored body. Clones share it.
#[derive(Clone)]
pub struct Body(Arc<Stored>);

struct Stored {
    bytes: Vec<u8>,
    memory: Arc<Memory>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.memory.give_back(core::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_the_last_handle_is_gone() {
        let memory = Memory::new(Memory::cost(BODY_BYTES_MAX) + Memory::cost(100));
        assert!(memory.has_room(BODY_BYTES_MAX));
        let large = memory.store(&[1; BODY_BYTES_MAX - 5]);
        // It takes a whole buffer.
        assert_eq!(memory.used_bytes(), Memory::cost(BODY_BYTES_MAX));
        assert_eq!(memory.body_bytes(), BODY_BYTES_MAX);
        assert!(memory.has_room(100));
        assert!(!memory.has_room(101));
        let small = memory.store(&[2; 100]);
        let again = small.clone();
        drop(small);
        assert_eq!(again.as_ref(), [2; 100]);
        assert!(!memory.has_room(0));
        drop((again, large));
        assert_eq!((memory.used_bytes(), memory.body_bytes()), (0, 0));
    }

    #[test]
    fn buffers_are_used_again_and_bounded() {
        let memory = Memory::new(usize::MAX);
        let bodies: Vec<_> = (0..POOL_MAX + 10)
            .map(|_| memory.store(&[3; BODY_BYTES_MAX]))
            .collect();
        let first = bodies[0].as_ref().as_ptr();
        drop(bodies);
        assert_eq!(memory.pool().len(), POOL_MAX);
        let reused: Vec<_> = (0..POOL_MAX)
            .map(|_| memory.store(&[4; BODY_BYTES_MAX]))
            .collect();
        assert!(reused.iter().any(|body| body.as_ref().as_ptr() == first));
        assert!(
            reused
                .iter()
                .all(|body| body.as_ref() == [4; BODY_BYTES_MAX])
        );
    }
}
