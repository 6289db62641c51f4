//! Group commit: changes of all tasks, one write and one confirmation of the disk for many.
//!
//! Changes are appended to a buffer. A thread takes the whole buffer, writes it, lets the disk
//! confirm (if `sync`), and wakes everybody who waited; what came meanwhile is the next batch.
//! Whoever may block can commit as well ([`Log::commit`]), under the same lock.
//!
//! The first failure is the last: nothing is written any more and nothing becomes durable. Above all
//! a failed confirmation is never asked for again, because the system may have dropped what it could
//! not write and would then confirm the rest.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::disk::Segment;
use super::record;
use super::{Position, StoreFailed};

/// A buffer larger than this is given back after use: 1 MiB.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// What appenders share with whoever commits.
pub(super) struct Log {
    sync: bool,
    /// In every mark of this process; nobody outside knows it.
    token: u64,
    writer: Mutex<Writer>,
    buffer: Mutex<Buffer>,
    filled: Condvar,
    /// Bytes ever appended; changed under the lock of the buffer.
    appended: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

#[derive(Default)]
struct Buffer {
    /// Belongs to the current segment.
    bytes: Vec<u8>,
    /// A change of segment was asked for.
    next: Option<Next>,
    /// The disk must confirm the next batch, whatever the setting.
    sync: bool,
    closed: bool,
}

/// The segment to go on with, and what still belongs to the one before.
struct Next {
    before: Vec<u8>,
    segment: Opened,
}

/// A segment that can be written, and how long it is.
pub(super) struct Opened {
    pub(super) file: Box<dyn Segment>,
    pub(super) bytes: u64,
}

struct Writer {
    segment: Opened,
    /// Up to where the disk has confirmed the segment.
    synced: u64,
    /// The batch, and afterwards its memory.
    bytes: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// A log that goes on in `segment`, which the disk has confirmed.
    pub(super) fn new(sync: bool, token: u64, segment: Opened) -> Self {
        let bytes = segment.bytes;
        Self {
            sync,
            token,
            writer: Mutex::new(Writer {
                segment,
                synced: bytes,
                bytes: Vec::new(),
            }),
            buffer: Mutex::default(),
            filled: Condvar::new(),
            appended: AtomicU64::new(bytes),
            durable: AtomicU64::new(bytes),
            failed: AtomicBool::new(false),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// Adds records; gives the bytes that wait.
    pub(super) fn append(&self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let mut buffer = lock(&self.buffer);
        let before = buffer.bytes.len();
        write(&mut buffer.bytes);
        let pending = buffer.bytes.len();
        self.appended
            .fetch_add((pending - before) as u64, Ordering::Release);
        if self.failed.load(Ordering::Relaxed) {
            buffer.bytes.clear(); // Nobody will write it.
        }
        drop(buffer);
        if before == 0 {
            self.filled.notify_one();
        }
        pending
    }

    /// Goes on in `segment` with everything that is appended from now on. Gives the position of the
    /// change; `None` if the one before has not been carried out, or the log is closed.
    pub(super) fn switch(&self, segment: Opened) -> Option<Position> {
        let mut buffer = lock(&self.buffer);
        if buffer.next.is_some() || buffer.closed {
            return None;
        }
        let before = core::mem::take(&mut buffer.bytes);
        buffer.next = Some(Next { before, segment });
        Some(self.position())
    }

    /// Where the last change stands.
    pub(super) fn position(&self) -> Position {
        Position(self.appended.load(Ordering::Acquire))
    }

    /// Up to where everything is durable.
    pub(super) fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn poll_durable(
        &self,
        position: Position,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StoreFailed>> {
        if let Poll::Ready(result) = self.progress(position) {
            return Poll::Ready(result);
        }
        lock(&self.waiting).push(cx.waker().clone());
        // It may have come between the look and the registration.
        self.progress(position)
    }

    fn progress(&self, position: Position) -> Poll<Result<(), StoreFailed>> {
        if self.durable() >= position {
            Poll::Ready(Ok(()))
        } else if self.failed.load(Ordering::Acquire) {
            Poll::Ready(Err(StoreFailed))
        } else {
            Poll::Pending
        }
    }

    /// Makes everything durable that was appended before the call. Blocks.
    pub(super) fn commit(&self) -> Result<(), StoreFailed> {
        let mut writer = lock(&self.writer);
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreFailed);
        }
        let (next, sync, position) = {
            let mut buffer = lock(&self.buffer);
            core::mem::swap(&mut writer.bytes, &mut buffer.bytes);
            let sync = core::mem::take(&mut buffer.sync) || self.sync;
            (buffer.next.take(), sync, self.position())
        };
        match writer.write(next, sync, self.token) {
            Ok(()) => self.durable.store(position.0, Ordering::Release),
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written; the relay stops");
                self.failed.store(true, Ordering::Release);
            }
        }
        drop(writer);
        let waiting = core::mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
        match self.failed.load(Ordering::Acquire) {
            true => Err(StoreFailed),
            false => Ok(()),
        }
    }

    /// As [`Log::commit`], and the disk has it, whatever the setting.
    pub(super) fn flush(&self) -> Result<(), StoreFailed> {
        lock(&self.buffer).sync = true;
        self.commit()
    }

    /// Commits whenever there is something to commit, until the log is closed. For a thread of its
    /// own.
    pub(super) fn run(&self) {
        loop {
            {
                let mut buffer = lock(&self.buffer);
                while buffer.bytes.is_empty() && buffer.next.is_none() {
                    if buffer.closed {
                        return;
                    }
                    buffer = self
                        .filled
                        .wait(buffer)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
            if self.commit().is_err() {
                return;
            }
        }
    }

    /// Ends [`Log::run`] when nothing waits any more.
    pub(super) fn close(&self) {
        lock(&self.buffer).closed = true;
        self.filled.notify_one();
    }
}

impl Opened {
    /// Adds `bytes`, and leaves their memory for the next.
    pub(super) fn append(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.file.append_all(bytes)?;
        self.bytes += bytes.len() as u64;
        bytes.clear();
        Ok(())
    }
}

impl Writer {
    /// Writes the batch.
    fn write(&mut self, next: Option<Next>, sync: bool, token: u64) -> io::Result<()> {
        if let Some(Next { before, segment }) = next {
            self.segment.file.append_all(&before)?;
            // The end of a segment that is not the last must be whole, whatever happens.
            self.segment.file.sync()?;
            self.synced = segment.bytes;
            self.segment = segment;
        }
        if !self.bytes.is_empty() {
            record::append_mark(&mut self.bytes, token, self.synced);
            self.segment.append(&mut self.bytes)?;
            self.bytes.shrink_to(BUFFER_KEPT_BYTES);
        }
        if sync && self.synced < self.segment.bytes {
            self.segment.file.sync()?;
            self.synced = self.segment.bytes;
        }
        Ok(())
    }
}
