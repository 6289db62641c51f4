//! A journal behind the memory store: what was answered survives the end of the process.
//!
//! # Files
//!
//! Segments `journal.N`, each the line `MAGIC` and then records (see `record`), replayed in
//! order of N. At start, and whenever the current segment has grown to several times what it began
//! with, everything alive is written to a new segment and the old ones are deleted. The new segment
//! takes changes from its first byte on; each queue is copied into it under its lock, and its `Q`
//! record replaces what the old segments say of it, so a crash in the middle loses nothing.
//!
//! # Commit
//!
//! Changes are appended to a buffer. One thread takes the whole buffer, writes it, lets the disk
//! confirm (if `sync`), and wakes everybody who waited: group commit, one confirmation for
//! all changes that came while the last one was under way.
//!
//! # Damage
//!
//! A record that is cut or whose checksum is wrong ends its segment. In the last segment this is
//! what a crash leaves; nothing behind it was answered. The torn file is kept under
//! another name, so that nothing is thrown away by mistake. In an earlier segment it is damage, and
//! the store refuses to open. A failed write stops the store: answers that wait are never given.
//!
//! The journal holds, per queue, public keys and the secret of its delivery encryption, in files
//! that only the relay's user can read. It holds nothing about users, addresses or times of
//! connections.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use junto_smp::id::ID_BYTES;
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Change};

use super::record;
use super::replay::{Replayed, replay};
use super::{Cell, Memory, MemoryStore, Name, Position, Queue, Store, StoreFailed, StoreFull};

/// First line of a segment.
pub(super) const MAGIC: &[u8] = b"junto relay journal 1\n";
/// A segment is rewritten when it is this many times as long as when it was begun …
const GROWTH: u64 = 4;
/// … and longer than this: 64 MiB.
const REWRITE_BYTES_MIN: u64 = 64 << 20;
/// While rewriting, the buffer is let run empty whenever it holds this much: 8 MiB.
const BUFFER_BYTES_MAX: usize = 8 << 20;
/// A buffer larger than this is given back after use: 1 MiB.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another relay uses this journal.
    #[error("{} is in use by another relay", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// A segment is damaged in a way that no crash explains. Nothing was changed.
    #[error("{} is damaged at byte {offset}; restore it, or move it away to go on without it", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { path, source }
}

/// A [`MemoryStore`] with a journal.
pub struct JournalStore {
    queues: MemoryStore,
    journal: Arc<Journal>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Held for the exclusive lock on it.
    lock: File,
}

/// What appenders and the writer thread share.
struct Journal {
    dir: PathBuf,
    sync: bool,
    buffer: Mutex<Buffer>,
    filled: Condvar,
    /// Bytes ever appended, and one for each change of segment, so that it can be waited for even if
    /// nothing else is written; changed under the lock of the buffer.
    appended: AtomicU64,
    durable: AtomicU64,
    failed: AtomicBool,
    /// Bytes of the current segment, and when it was begun (with everything alive).
    segment_bytes: AtomicU64,
    begun_bytes: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

#[derive(Default)]
struct Buffer {
    /// Belongs to the current segment.
    bytes: Vec<u8>,
    /// A change of segment was asked for: these bytes still belong to the one before.
    before: Option<(Vec<u8>, u64)>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl JournalStore {
    /// Opens the journal in `dir`, or begins one. `sync`: a change is durable when the disk has it,
    /// not already when the system has it. Takes as long as reading the journal and writing what
    /// is alive.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(
        dir: &Path,
        sync: bool,
        queues_max: usize,
        memory: Arc<Memory>,
    ) -> Result<Self, JournalError> {
        let dir_lock = lock_dir(dir)?;
        let queues = MemoryStore::new(queues_max, memory);
        let segments = segments(dir)?;
        for (index, (_, path)) in segments.iter().enumerate() {
            let replayed = replay(path, &queues).map_err(at(path))?;
            match replayed {
                Replayed::Whole => {}
                Replayed::Torn(offset) if index + 1 == segments.len() => mend(path, offset)?,
                Replayed::Torn(offset) | Replayed::Foreign(offset) => {
                    let path = path.clone();
                    return Err(JournalError::Damaged { path, offset });
                }
            }
        }
        let number = segments.last().map_or(0, |(number, _)| number + 1);
        let file = begin_segment(dir, number)?;
        let journal = Arc::new(Journal {
            dir: dir.to_owned(),
            sync,
            buffer: Mutex::default(),
            filled: Condvar::new(),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            segment_bytes: AtomicU64::new(0),
            begun_bytes: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        let thread = Arc::clone(&journal);
        let writer = std::thread::Builder::new()
            .name("junto-journal".into())
            .spawn(move || thread.write(file))
            .map_err(at(dir))?;
        let store = Self {
            queues,
            journal,
            writer: Mutex::new(Some(writer)),
            lock: dir_lock,
        };
        store
            .copy_alive(number)
            .map_err(|StoreFailed| JournalError::Io {
                path: dir.to_owned(),
                source: io::Error::other("the first write failed"),
            })?;
        Ok(store)
    }

    /// Writes every queue into the current segment, number `number`, and deletes those before.
    fn copy_alive(&self, number: u64) -> Result<(), StoreFailed> {
        let journal = &self.journal;
        let mut failed = Ok(());
        self.queues.for_each(|cell| {
            if failed.is_ok() {
                let queue = cell.lock();
                // A queue deleted since has its `D` behind whatever the old segments say.
                if self.find(Name::Recipient, &queue.recipient().0).is_some() {
                    let pending = journal.append(|out| record::append_queue(out, &queue));
                    drop(queue);
                    if pending > BUFFER_BYTES_MAX {
                        failed = journal.wait(self.position());
                    }
                }
            }
        });
        failed?;
        journal.wait(self.position())?;
        let now = journal.segment_bytes.load(Ordering::Relaxed);
        journal.begun_bytes.store(now, Ordering::Relaxed);
        // The copy must be on the disk before the original goes, even without `sync`.
        File::open(segment_path(&journal.dir, number))
            .and_then(|file| file.sync_all())
            .map_err(|_| StoreFailed)?;
        for (old, path) in segments(&journal.dir).map_err(|_| StoreFailed)? {
            if old < number {
                // What stays is replayed again next time, and replaced by what follows.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }

    /// Whether the journal is much longer than what it holds.
    fn has_grown(&self) -> bool {
        let bytes = self.journal.segment_bytes.load(Ordering::Relaxed);
        let begun = self.journal.begun_bytes.load(Ordering::Relaxed);
        bytes >= REWRITE_BYTES_MIN && bytes >= begun.saturating_mul(GROWTH)
    }

    /// Begins a new segment with everything alive, while changes go on.
    fn rewrite(&self) {
        let Some((last, _)) = segments(&self.journal.dir).ok().and_then(|mut s| s.pop()) else {
            return;
        };
        {
            let mut buffer = lock(&self.journal.buffer);
            if buffer.before.is_some() || buffer.closed {
                return;
            }
            let bytes = core::mem::take(&mut buffer.bytes);
            buffer.before = Some((bytes, last + 1));
            self.journal.appended.fetch_add(1, Ordering::Release);
        }
        self.journal.filled.notify_one();
        if self.copy_alive(last + 1).is_err() {
            tracing::error!("the journal could not be rewritten");
        }
    }
}

impl Store for JournalStore {
    fn create(&self, queue: Queue) -> Result<Arc<Cell>, StoreFull> {
        if self.queues.is_full() {
            return Err(StoreFull);
        }
        // Recorded after it can be found: a rewrite that missed it has begun the new segment
        // before, so the record is in there.
        let record = |queue: &Queue| {
            self.journal.append(|out| record::append_queue(out, queue));
        };
        Ok(self.queues.put(queue, record))
    }

    fn find(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>> {
        self.queues.find(name, id)
    }

    fn record(&self, queue: &Queue, change: Change) {
        self.queues.record(queue, change);
        self.journal
            .append(|out| record::append_change(out, queue, change));
    }

    fn position(&self) -> Position {
        Position(self.journal.appended.load(Ordering::Acquire))
    }

    fn durable(&self) -> Position {
        Position(self.journal.durable.load(Ordering::Acquire))
    }

    fn poll_durable(
        &self,
        position: Position,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StoreFailed>> {
        let journal = &self.journal;
        if let Poll::Ready(result) = journal.progress(position) {
            return Poll::Ready(result);
        }
        lock(&journal.waiting).push(cx.waker().clone());
        // It may have come between the look and the registration.
        journal.progress(position)
    }

    fn sweep(&self, now: Timestamp, limits: &queue::Limits) -> usize {
        // Not recorded: after a restart these messages are just as old.
        let expired = self.queues.sweep(now, limits);
        if self.has_grown() {
            self.rewrite();
        }
        expired
    }

    fn wants_sweep(&self) -> bool {
        self.has_grown()
    }

    fn memory(&self) -> &Arc<Memory> {
        self.queues.memory()
    }

    fn queues(&self) -> usize {
        self.queues.queues()
    }

    fn set_limits(&self, queues: usize, message_bytes: usize) {
        self.queues.set_limits(queues, message_bytes);
    }

    fn close(&self) -> Result<(), StoreFailed> {
        lock(&self.journal.buffer).closed = true;
        self.journal.filled.notify_one();
        if let Some(writer) = lock(&self.writer).take() {
            writer.join().map_err(|_| StoreFailed)?;
        }
        // Dropping the file would do, were it not for processes that this one is just starting:
        // they hold a copy of it for a moment.
        let _ = self.lock.unlock();
        match self.journal.failed.load(Ordering::Acquire) {
            true => Err(StoreFailed),
            false => Ok(()),
        }
    }
}

impl Drop for JournalStore {
    fn drop(&mut self) {
        // The thread ends by itself; only an explicit close waits for it.
        lock(&self.journal.buffer).closed = true;
        self.journal.filled.notify_one();
    }
}

impl Journal {
    /// Adds records; gives the bytes that wait.
    fn append(&self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let mut buffer = lock(&self.buffer);
        let before = buffer.bytes.len();
        write(&mut buffer.bytes);
        let pending = buffer.bytes.len();
        self.appended
            .fetch_add((pending - before) as u64, Ordering::Release);
        drop(buffer);
        if before == 0 {
            self.filled.notify_one();
        }
        pending
    }

    fn progress(&self, position: Position) -> Poll<Result<(), StoreFailed>> {
        if self.durable.load(Ordering::Acquire) >= position.0 {
            Poll::Ready(Ok(()))
        } else if self.failed.load(Ordering::Acquire) {
            Poll::Ready(Err(StoreFailed))
        } else {
            Poll::Pending
        }
    }

    /// Blocks until `position` is durable.
    fn wait(&self, position: Position) -> Result<(), StoreFailed> {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        loop {
            lock(&self.waiting).push(waker.clone());
            match self.progress(position) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    /// The writer thread.
    fn write(&self, mut file: File) {
        let mut bytes = Vec::new();
        self.segment_bytes
            .store(MAGIC.len() as u64, Ordering::Relaxed);
        loop {
            let (before, position) = {
                let mut buffer = lock(&self.buffer);
                while buffer.bytes.is_empty() && buffer.before.is_none() {
                    if buffer.closed {
                        return;
                    }
                    buffer = self
                        .filled
                        .wait(buffer)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                bytes.clear();
                bytes.shrink_to(BUFFER_KEPT_BYTES);
                core::mem::swap(&mut bytes, &mut buffer.bytes);
                (buffer.before.take(), self.appended.load(Ordering::Relaxed))
            };
            match self.write_batch(&mut file, before, &bytes) {
                Ok(()) => self.durable.store(position, Ordering::Release),
                Err(error) => {
                    tracing::error!(%error, "the journal cannot be written; the relay stops");
                    self.failed.store(true, Ordering::Release);
                }
            }
            let waiting = core::mem::take(&mut *lock(&self.waiting));
            waiting.into_iter().for_each(Waker::wake);
            if self.failed.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn write_batch(
        &self,
        file: &mut File,
        before: Option<(Vec<u8>, u64)>,
        bytes: &[u8],
    ) -> io::Result<()> {
        if let Some((rest, number)) = before {
            file.write_all(&rest)?;
            // The end of a segment that is not the last must be whole, whatever happens.
            file.sync_all()?;
            *file = begin_segment(&self.dir, number).map_err(io::Error::other)?;
            self.segment_bytes
                .store(MAGIC.len() as u64, Ordering::Relaxed);
        }
        file.write_all(bytes)?;
        if self.sync {
            file.sync_data()?;
        }
        self.segment_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal.{number}"))
}

/// The segments of a journal in order. Other files do not matter.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, JournalError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let path = entry.map_err(at(dir))?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_prefix("journal.")?.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn lock_dir(dir: &Path) -> Result<File, JournalError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(at(dir))?;
    let path = dir.join("lock");
    let file = private()
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(at(&path))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(fs::TryLockError::Error(source)) => return Err(JournalError::Io { path, source }),
        }
    }
    Err(JournalError::InUse { dir: dir.into() })
}

/// How often the lock is tried, and the pause in between: a relay that has just been killed lets go
/// within moments, and whoever restarts it should not have to guess.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Options for files that only the owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

fn begin_segment(dir: &Path, number: u64) -> Result<File, JournalError> {
    let path = segment_path(dir, number);
    let begin = |mut file: File| {
        file.write_all(MAGIC)?;
        file.sync_all()?;
        Ok(file)
    };
    let file = private()
        .create_new(true)
        .open(&path)
        .and_then(begin)
        .map_err(at(&path))?;
    sync_dir(dir).map_err(at(dir))?;
    Ok(file)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    match cfg!(unix) {
        true => File::open(dir)?.sync_all(),
        false => Ok(()),
    }
}

/// Cuts the torn end off the last segment, after keeping a copy of the whole.
fn mend(path: &Path, offset: u64) -> Result<(), JournalError> {
    tracing::warn!("the journal ends in the middle of a record, as after a crash; kept a copy");
    let mut aside = path.as_os_str().to_owned();
    aside.push(".torn");
    fs::copy(path, &aside).map_err(at(path))?;
    if offset == 0 {
        return fs::remove_file(path).map_err(at(path));
    }
    let cut = |file: File| {
        file.set_len(offset)?;
        file.sync_all()
    };
    private().open(path).and_then(cut).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::generator;
    use junto_smp::id::{MessageId, RecipientId, SenderId};
    use junto_smp::key::AuthSecret;
    use junto_smp::message::{DeliveryKey, MessageFlags};
    use junto_smp::queue::{Content, Message, QueueParts};

    fn open(dir: &Path) -> Result<JournalStore, JournalError> {
        JournalStore::open(dir, false, 1_000, Memory::new(usize::MAX))
    }

    fn queue(n: u8) -> Queue {
        let mut rng = generator().unwrap();
        Queue::restore(QueueParts {
            recipient: RecipientId([n; ID_BYTES]),
            sender: SenderId([n ^ 0x80; ID_BYTES]),
            mode: None,
            recipient_key: AuthSecret::generate(&mut rng).public_key(),
            sender_key: None,
            delivery_key: DeliveryKey::from_bytes(&[n; 32]),
            suspended: false,
        })
    }

    fn message(store: &JournalStore, n: u32) -> Message<super::super::Body> {
        let mut id = [0; ID_BYTES];
        id[..4].copy_from_slice(&n.to_be_bytes());
        Message {
            id: MessageId(id),
            time: Timestamp(1),
            content: Content::Body {
                flags: MessageFlags::default(),
                body: store.memory().store(&n.to_be_bytes()),
            },
        }
    }

    fn bodies(store: &JournalStore, n: u8) -> Option<Vec<MessageId>> {
        let cell = store.find(Name::Recipient, &[n; ID_BYTES])?;
        let queue = cell.lock();
        Some(queue.messages().map(|message| message.id).collect())
    }

    #[test]
    fn rewriting_while_everything_changes_loses_nothing() {
        const THREADS: u8 = 4;
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for t in 0..THREADS {
                let (store, stop) = (&store, &stop);
                scope.spawn(move || {
                    // Two queues each: one lives, one comes and goes.
                    let lasting = store.create(queue(2 * t)).unwrap();
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) || n < 500 {
                        n += 1;
                        let passing = store.create(queue(2 * t + 1)).unwrap();
                        let mut queue = lasting.lock();
                        let message = message(store, n);
                        let id = message.id;
                        queue.restore_message(message);
                        store.record(&queue, Change::Stored(id));
                        if n > 10 {
                            let first = queue.messages().next().unwrap().id;
                            queue.restore_removal(&first);
                            store.record(&queue, Change::Removed(first));
                        }
                        drop(queue);
                        if n % 7 != 0 {
                            store.record(&passing.lock(), Change::Deleted);
                        }
                    }
                    if n % 7 != 0 {
                        let passing = store.create(queue(2 * t + 1)).unwrap();
                        store.record(&passing.lock(), Change::Deleted);
                    }
                });
            }
            for _ in 0..20 {
                store.rewrite();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let before: Vec<_> = (0..2 * THREADS).map(|n| bodies(&store, n)).collect();
        assert!(
            before
                .iter()
                .step_by(2)
                .all(|b| b.as_ref().unwrap().len() == 10)
        );
        store.close().unwrap();
        drop(store);
        let store = open(dir.path()).unwrap();
        let after: Vec<_> = (0..2 * THREADS).map(|n| bodies(&store, n)).collect();
        assert_eq!(before, after);
        // Undisturbed, a rewriting leaves a single segment.
        store.rewrite();
        store.close().unwrap();
        drop(store);
        assert_eq!(segments(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn rewriting_an_empty_journal_again_and_again_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for _ in 0..50 {
            store.rewrite();
            assert_eq!(segments(dir.path()).unwrap().len(), 1);
        }
        store.close().unwrap();
    }

    #[test]
    fn a_journal_of_things_past_is_due_for_rewriting() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let cell = store.create(queue(1)).unwrap();
        let written = |store: &JournalStore| store.journal.segment_bytes.load(Ordering::Relaxed);
        // One client that sends to itself and acknowledges.
        let body = vec![7; 16_000];
        while written(&store) < REWRITE_BYTES_MIN {
            assert!(!store.wants_sweep());
            let mut queue = cell.lock();
            let mut message = message(&store, 1);
            message.content = Content::Body {
                flags: MessageFlags::default(),
                body: store.memory().store(&body),
            };
            let id = message.id;
            queue.restore_message(message);
            store.record(&queue, Change::Stored(id));
            queue.restore_removal(&id);
            store.record(&queue, Change::Removed(id));
            drop(queue);
            store.journal.wait(store.position()).unwrap();
        }
        assert!(store.wants_sweep());
        store.sweep(Timestamp(1), &queue::Limits::default());
        assert!(!store.wants_sweep());
        assert!(written(&store) < 1_000);
        store.close().unwrap();
    }

    #[test]
    fn a_crash_in_the_middle_of_rewriting_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        for n in 0..3 {
            let cell = store.create(queue(n)).unwrap();
            let message = message(&store, n.into());
            let id = message.id;
            let mut queue = cell.lock();
            queue.restore_message(message);
            store.record(&queue, Change::Stored(id));
        }
        store.close().unwrap();
        drop(store);
        let (_, first) = segments(dir.path()).unwrap().pop().unwrap();
        let old = fs::read(&first).unwrap();
        let store = open(dir.path()).unwrap();
        store.close().unwrap();
        drop(store);
        let (_, second) = segments(dir.path()).unwrap().pop().unwrap();
        let new = fs::read(&second).unwrap();
        // Both are there, the second to any length: as after a crash before the first was deleted.
        for cut in (0..=new.len()).step_by(31) {
            for (_, path) in segments(dir.path()).unwrap() {
                fs::remove_file(path).unwrap();
            }
            fs::write(&first, &old).unwrap();
            fs::write(&second, &new[..cut]).unwrap();
            let store = open(dir.path()).unwrap();
            for n in 0..3 {
                assert_eq!(bodies(&store, n).unwrap().len(), 1, "cut at {cut}");
            }
            store.close().unwrap();
        }
    }

    #[test]
    fn after_a_failed_write_nothing_more_becomes_durable() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let cell = store.create(queue(1)).unwrap();
        store.journal.wait(store.position()).unwrap();
        // The next segment cannot be begun: its folder is gone.
        fs::remove_dir_all(dir.path()).unwrap();
        lock(&store.journal.buffer).before = Some((Vec::new(), 9));
        store.record(&cell.lock(), Change::Suspended);
        assert_eq!(store.journal.wait(store.position()), Err(StoreFailed));
        assert_eq!(store.close(), Err(StoreFailed));
    }
}
