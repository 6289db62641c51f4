//! A journal behind the memory store: what was answered survives the end of the process.
//!
//! # Files
//!
//! Segments (see [`segment`](super::segment)), each the line `MAGIC` and then records (see
//! [`record`](super::record)), replayed in order from the last base on. At start everything alive is
//! copied into a new base, which counts from the moment in which it gets its name. Days in which the
//! relay did not run are left out with that, in one step: nobody could use a queue then.
//!
//! # Compaction
//!
//! When most of the journal says nothing about anything alive, a new segment is begun and takes all
//! changes from its first byte on. Each queue is copied into it under its lock; a copy replaces
//! what was said before of that queue, so a crash in the middle loses nothing. The copies go through
//! the same commits as changes and at most [`COPY_BYTES`] of them wait at a time: that bounds the
//! memory and what a change may have to wait. When all are on the disk, the segment gets the name
//! of a base, and with that, in one step, everything before it counts for nothing and is removed.
//!
//! # Damage
//!
//! A record that is cut or whose checksum is wrong ends the journal if a crash can have left it so:
//! in the last segment, behind what the disk had confirmed. Nothing of it was answered; it is kept
//! aside all the same. Anywhere else it is damage, and the store refuses to open and changes nothing.
//! A failed write or confirmation stops the store for good: answers that wait are never given, and
//! nothing is tried twice. The next start believes only what it can read, and writes all of it anew.
//!
//! The journal holds, per queue, public keys and the secret of its delivery encryption, in files
//! that only the relay's user can read. It holds nothing about users, addresses or times of
//! connections.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use junto_smp::id::ID_BYTES;
use junto_smp::message::Timestamp;
use junto_smp::queue::{self, Change, Day};

use super::disk::{Disk, Folder};
use super::log::{Log, Opened};
use super::record;
use super::replay::{End, replay};
use super::segment::{self, SegmentName};
use super::{
    Cell, CreateFault, Memory, MemoryStore, Name, Position, Queue, Services, Store, StoreFailed,
    Swept,
};

/// A journal shorter than this is left alone: 16 MiB.
const COMPACT_BYTES_MIN: u64 = 16 << 20;
/// A journal is compacted when it is this many times as long as what is alive in it.
const GARBAGE_RATIO: u64 = 3;
/// What an empty queue takes in a journal, about: for guessing how much is alive.
const QUEUE_BYTES: u64 = 200;
/// Copies that wait for the disk together: 1 MiB, or one queue.
const COPY_BYTES: usize = 1 << 20;

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

/// A [`MemoryStore`] with a journal.
pub struct JournalStore {
    queues: MemoryStore,
    disk: Arc<dyn Disk>,
    log: Arc<Log>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// The number of the next segment; held by whoever compacts.
    next: Mutex<u64>,
    /// Everything up to here counts for nothing any more.
    void: AtomicU64,
    /// How much more was alive at the last copy than a guess says.
    unguessed: AtomicU64,
    /// No compaction before the journal is this long, since the last one failed.
    patience: AtomicU64,
    /// The last [`Day`] of which the journal says that the relay ran.
    ran: AtomicU32,
}

impl JournalStore {
    /// Opens the journal in `dir`, or begins one. `sync`: a change is durable when the disk has it,
    /// not already when the system has it. Days between its last one and `now` do not count as days
    /// in which nobody used a queue. Takes as long as reading the journal and writing what is alive.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(
        dir: &Path,
        sync: bool,
        queues_max: usize,
        memory: Arc<Memory>,
        now: Timestamp,
    ) -> Result<Self, JournalError> {
        let disk = Arc::new(Folder::open(dir)?);
        let store = Self::open_on(disk, sync, queues_max, memory, now)?;
        let log = Arc::clone(&store.log);
        let writer = std::thread::Builder::new()
            .name("junto-journal".into())
            .spawn(move || log.run())
            .map_err(|source| JournalError::Io {
                path: dir.to_owned(),
                source,
            })?;
        *store.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(store)
    }

    #[cfg(test)]
    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// As [`JournalStore::open`], without the thread that commits.
    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        sync: bool,
        queues_max: usize,
        memory: Arc<Memory>,
        now: Timestamp,
    ) -> Result<Self, JournalError> {
        let queues = MemoryStore::new(queues_max, memory);
        let failed = |name: &str| {
            let path = disk.path(name);
            move |source| JournalError::Io { path, source }
        };
        let segments = segment::segments(&*disk).map_err(failed(""))?;
        let counting = &segments[segment::first_that_counts(&segments)..];
        let Read { torn, ran } = read(&*disk, counting, &queues)?;
        queues.services().forget_unused();
        let today = Day::of(now);
        leave_out_absence(&queues, ran, today);
        let number = segments
            .last()
            .map_or(0, |last| last.number.saturating_add(1));
        let token = random().map_err(failed(""))?;
        let base = write_base(&*disk, &queues, today, number, token).map_err(failed(""))?;
        if let Some(torn) = torn {
            keep_aside(&*disk, torn);
        }
        segment::remove_before(&*disk, number);
        let bytes = base.bytes;
        let store = Self {
            log: Arc::new(Log::new(sync, token, base)),
            queues,
            disk,
            writer: Mutex::new(None),
            next: Mutex::new(number + 1),
            void: AtomicU64::new(0),
            unguessed: AtomicU64::new(0),
            patience: AtomicU64::new(COMPACT_BYTES_MIN),
            ran: AtomicU32::new(today.0),
        };
        store.learn(bytes);
        Ok(store)
    }

    /// Bytes that the journal takes, about.
    fn bytes(&self) -> u64 {
        let void = self.void.load(Ordering::Relaxed);
        self.log.position().0.saturating_sub(void)
    }

    /// Bytes of the journal that something alive needs, about.
    fn alive(&self) -> u64 {
        self.guess()
            .saturating_add(self.unguessed.load(Ordering::Relaxed))
    }

    fn guess(&self) -> u64 {
        let queues = self.queues.queues() as u64 * QUEUE_BYTES;
        queues.saturating_add(self.queues.memory().body_bytes() as u64)
    }

    /// A copy of everything alive took `bytes`.
    fn learn(&self, bytes: u64) {
        let unguessed = bytes.saturating_sub(self.guess());
        self.unguessed.store(unguessed, Ordering::Relaxed);
    }

    /// Whether the journal is much longer than what it holds.
    fn is_mostly_garbage(&self) -> bool {
        let bytes = self.bytes();
        bytes >= self.patience.load(Ordering::Relaxed)
            && bytes >= self.alive().saturating_mul(GARBAGE_RATIO)
    }

    /// Copies everything alive into a new segment and drops all before it, while changes go on.
    pub(crate) fn compact(&self) {
        // One at a time; also, the number is never used twice.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *next;
        *next = number.saturating_add(1);
        match self.compact_into(number) {
            Ok(()) => self.patience.store(COMPACT_BYTES_MIN, Ordering::Relaxed),
            Err(error) => {
                tracing::error!(%error, "the journal could not be compacted");
                let patience = self.bytes().saturating_add(COMPACT_BYTES_MIN);
                self.patience.store(patience, Ordering::Relaxed);
            }
        }
    }

    /// Begins segment `number`, which takes all changes from now on. Gives the position of that.
    pub(crate) fn switch_to(&self, number: u64) -> io::Result<Position> {
        let disk = &*self.disk;
        let name = SegmentName {
            number,
            base: false,
        };
        let name = name.to_string();
        let begun = segment::begin(disk, &name, self.log.token()).and_then(|mut opened| {
            opened.file.sync()?;
            disk.sync_names()?;
            Ok(opened)
        });
        let switched = begun.and_then(|opened| {
            let switched = self.log.switch(opened);
            switched.ok_or_else(|| io::ErrorKind::ResourceBusy.into())
        });
        switched.inspect_err(|_| {
            // Not used yet, so it may go; and it may stay.
            let _ = disk.remove(&name);
        })
    }

    fn compact_into(&self, number: u64) -> io::Result<()> {
        let disk = &*self.disk;
        let name = |base| SegmentName { number, base }.to_string();
        let begin = self.switch_to(number)?;
        let stopped = |StoreFailed| io::Error::other("the journal has failed");
        let mut copied = Ok(());
        self.queues.for_each(|cell| {
            if copied.is_ok() {
                copied = self.copy(cell);
            }
        });
        copied.map_err(stopped)?;
        let ran = Day(self.ran.load(Ordering::Relaxed));
        self.log.append(|out| append_end(out, &self.queues, ran));
        // All of it must be on the disk before what it replaces goes, even without `sync`.
        self.log.flush().map_err(stopped)?;
        self.learn(self.log.position().0.saturating_sub(begin.0));
        disk.rename(&name(false), &name(true))?;
        disk.sync_names()?;
        self.void.store(begin.0, Ordering::Relaxed);
        segment::remove_before(disk, number);
        Ok(())
    }

    /// Bounds what waits for the disk.
    fn commit_if_much(&self, pending: usize) {
        if pending > COPY_BYTES {
            // Fails for good, which whoever answers will notice.
            let _ = self.log.commit();
        }
    }

    fn copy(&self, cell: &Cell) -> Result<(), StoreFailed> {
        let queue = cell.lock();
        // A queue deleted since has its `D` behind whatever the old segments say. Another one may have its name by now, whose
        // end this lock does not put off.
        let found = self.find(Name::Recipient, &queue.recipient().0);
        if !found.is_some_and(|found| core::ptr::eq(&*found, cell)) {
            return Ok(());
        }
        let pending = self.log.append(|out| record::append_queue(out, &queue));
        drop(queue);
        match pending > COPY_BYTES {
            true => self.log.commit(),
            false => Ok(()),
        }
    }
}

/// What segments say beside what they say of queues.
struct Read {
    /// The one whose end a crash has torn, if there is something in it.
    torn: Option<SegmentName>,
    /// The last day of which they say that the relay ran.
    ran: Option<Day>,
}

/// Carries out `segments`.
fn read(
    disk: &dyn Disk,
    segments: &[SegmentName],
    queues: &MemoryStore,
) -> Result<Read, JournalError> {
    let mut torn: Option<(SegmentName, u64)> = None;
    let mut ran = None;
    for name in segments {
        let text = name.to_string();
        let path = || disk.path(&text);
        let replayed = disk
            .read(&text)
            .and_then(|mut file| replay(&mut *file, name.base, queues))
            .map_err(|source| JournalError::Io {
                path: path(),
                source,
            })?;
        if let (Some((before, offset)), true) = (torn, replayed.speaks) {
            // A segment says something only after the one before was whole on the disk.
            let path = disk.path(&before.to_string());
            return Err(JournalError::Damaged { path, offset });
        }
        ran = replayed.ran.or(ran);
        match replayed.end {
            End::Whole => {}
            End::Torn(offset) => torn = torn.or(Some((*name, offset))),
            End::Damaged(offset) => {
                return Err(JournalError::Damaged {
                    path: path(),
                    offset,
                });
            }
        }
    }
    if torn.is_some() {
        tracing::warn!("the journal ends in the middle of a record, as after a crash");
    }
    let torn = torn.filter(|(_, offset)| *offset > 0).map(|(name, _)| name);
    Ok(Read { torn, ran })
}

/// Lets all last uses be as long ago as they were when the relay last ran. Only in memory: what is
/// written after it has all of it or nothing, and with it that the relay ran today.
fn leave_out_absence(queues: &MemoryStore, ran: Option<Day>, today: Day) {
    // It also ran when a queue was used; older journals say nothing else. What a wrong clock has put
    // into the future tells nothing.
    let mut last = ran.filter(|ran| *ran <= today);
    queues.for_each(|cell| {
        let used = cell.lock().used();
        last = last.max(used.filter(|used| *used <= today));
    });
    let away = last.map_or(0, |last| today.0 - last.0);
    if away <= 1 {
        return;
    }
    queues.for_each(|cell| {
        let mut queue = cell.lock();
        if let Some(used) = queue.used().filter(|used| *used <= today) {
            queue.restore_use(Day(used.0 + away));
        }
    });
}

impl JournalStore {
    /// Lets last uses be as long ago as they were when the machine went to sleep, or the clock was
    /// set ahead: nobody could use a queue on the days between two sweeps that are missing.
    fn leave_out_sleep(&self, before: Day, today: Day) {
        let away = today.0.saturating_sub(before.0);
        if away <= 1 {
            return; // As every day, or set back.
        }
        self.queues.for_each(|cell| {
            let mut queue = cell.lock();
            if cell.is_deleted() {
                return;
            }
            // A day more than the last sweep: it may have been used after that, and before the sleep.
            if let Some(used) = queue.used().filter(|used| used.0 <= before.0 + 1) {
                queue.restore_use(Day((used.0 + away).min(today.0)));
                let use_of = |out: &mut _| record::append_change(out, &queue, Change::Used);
                let pending = self.log.append(use_of);
                drop(queue);
                self.commit_if_much(pending);
            }
        });
    }
}

/// Ends a copy of everything alive: what is not about one queue.
fn append_end(out: &mut Vec<u8>, queues: &MemoryStore, ran: Day) {
    for (fingerprint, id) in queues.services().given() {
        record::append_given(out, &fingerprint, id);
    }
    record::append_ran(out, ran);
    record::append_copied(out);
}

/// Writes everything alive into a segment of its own, which then counts instead of all others.
fn write_base(
    disk: &dyn Disk,
    queues: &MemoryStore,
    today: Day,
    number: u64,
    token: u64,
) -> io::Result<Opened> {
    let name = SegmentName { number, base: true }.to_string();
    let unfinished = format!("{name}.new");
    let write = || {
        let mut opened = segment::begin(disk, &unfinished, token)?;
        let mut bytes = Vec::new();
        let mut written = Ok(());
        queues.for_each(|cell| {
            record::append_queue(&mut bytes, &cell.lock());
            if bytes.len() > COPY_BYTES && written.is_ok() {
                written = opened.append(&mut bytes);
            }
        });
        written?;
        append_end(&mut bytes, queues, today);
        opened.append(&mut bytes)?;
        opened.file.sync()?;
        disk.rename(&unfinished, &name)?;
        disk.sync_names()?;
        Ok(opened)
    };
    write().inspect_err(|_| {
        // It counts for nothing; the next start writes over it.
        let _ = disk.remove(&unfinished);
    })
}

/// Keeps a torn segment out of the way, and only the last one: they may be long.
fn keep_aside(disk: &dyn Disk, torn: SegmentName) {
    let aside = format!("{torn}.torn");
    for name in disk.names().unwrap_or_default() {
        if name.ends_with(".torn") && name != aside {
            let _ = disk.remove(&name);
        }
    }
    if disk.rename(&torn.to_string(), &aside).is_ok() {
        tracing::warn!(file = %disk.path(&aside).display(), "kept it");
    }
}

fn random() -> io::Result<u64> {
    let mut token = [0; 8];
    getrandom::fill(&mut token).map_err(io::Error::other)?;
    Ok(u64::from_be_bytes(token))
}

impl Store for JournalStore {
    fn create(&self, queue: Queue) -> Result<Arc<Cell>, CreateFault> {
        // Recorded after it can be found: a compaction that missed it has begun the new segment
        // before, so the record is in there.
        self.queues.add(queue, |queue| {
            self.log.append(|out| record::append_queue(out, queue));
        })
    }

    fn claim_link(&self, link: &[u8; ID_BYTES], cell: &Arc<Cell>) -> bool {
        self.queues.claim_link(link, cell)
    }

    fn release_link(&self, link: &[u8; ID_BYTES]) {
        self.queues.release_link(link);
    }

    fn find(&self, name: Name, id: &[u8; ID_BYTES]) -> Option<Arc<Cell>> {
        self.queues.find(name, id)
    }

    fn record(&self, queue: &Queue, change: Change) {
        // First into the journal: as soon as a name is free in the index, another queue may take it,
        // and the journal must say so in this order.
        self.log
            .append(|out| record::append_change(out, queue, change));
        self.queues.record(queue, change);
    }

    fn position(&self) -> Position {
        self.log.position()
    }

    fn durable(&self) -> Position {
        self.log.durable()
    }

    fn poll_durable(
        &self,
        position: Position,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), StoreFailed>> {
        self.log.poll_durable(position, cx)
    }

    fn sweep(&self, now: Timestamp, limits: &queue::Limits) -> Swept {
        let mut swept = Swept::default();
        let today = Day::of(now);
        let before = Day(self.ran.load(Ordering::Relaxed));
        if before != today {
            self.leave_out_sleep(before, today);
            self.log.append(|out| record::append_ran(out, today));
            self.ran.store(today.0, Ordering::Relaxed);
        }
        self.queues.for_each(|cell| {
            let mut pending = 0;
            // Messages are not recorded: after a restart they are just as old.
            swept += self.queues.tidy(cell, now, limits, |queue, change| {
                pending = self
                    .log
                    .append(|out| record::append_change(out, queue, change));
            });
            self.commit_if_much(pending);
        });
        if self.is_mostly_garbage() {
            self.compact();
        }
        swept
    }

    fn wants_sweep(&self) -> bool {
        self.is_mostly_garbage()
    }

    fn services(&self) -> &Services {
        self.queues.services()
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
        self.log.close();
        let writer = self.writer.lock();
        if let Some(writer) = writer.unwrap_or_else(PoisonError::into_inner).take() {
            writer.join().map_err(|_| StoreFailed)?;
        }
        let flushed = self.log.flush();
        self.disk.release();
        flushed
    }
}

impl Drop for JournalStore {
    fn drop(&mut self) {
        // The thread ends by itself; only an explicit close waits for it.
        self.log.close();
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicBool;
    use std::fs;

    use junto_smp::address::Fingerprint;
    use junto_smp::id::{LinkId, ServiceId};
    use junto_smp::link::LinkBlobs;
    use junto_smp::queue::Link;
    use junto_smp::service::{Service, ServiceRole};

    use super::*;
    use crate::store::conformance::{
        delete, message, message_id, messages, queue, send, sender, take,
    };
    use crate::store::record::Record;

    fn open(dir: &Path) -> JournalStore {
        open_at(dir, Timestamp(0))
    }

    fn open_at(dir: &Path, now: Timestamp) -> JournalStore {
        JournalStore::open(dir, false, 1_000, Memory::new(usize::MAX), now).unwrap()
    }

    fn files(dir: &Path) -> Vec<String> {
        let names = segment::segments(&Folder::open(dir).unwrap()).unwrap();
        names.iter().map(ToString::to_string).collect()
    }

    /// Threads that pass names on from queue to queue.
    const TAKERS: u8 = 4;
    /// The link that they all want.
    const WANTED: [u8; ID_BYTES] = [99; ID_BYTES];

    /// Takes the wanted link for the queue in `cell` and gives it up again, `times` times; keeps it the
    /// last time if it can.
    fn take_link(store: &JournalStore, cell: &Arc<Cell>, times: u32) {
        for n in 1..=times {
            let mut queue = cell.lock();
            if !store.claim_link(&WANTED, cell) {
                continue;
            }
            let blobs = LinkBlobs::new(&[1], &[]).unwrap();
            let keep = |bytes: &[u8]| store.memory().store(bytes);
            queue.restore_link(Some(Link::new(LinkId(WANTED), &blobs, keep)));
            store.record(&queue, Change::Linked);
            if n < times {
                queue.restore_link(None);
                store.record(&queue, Change::Unlinked(LinkId(WANTED)));
            }
        }
    }

    /// The same with the names of a queue that comes and goes as a whole.
    fn take_names(store: &JournalStore, times: u32) {
        for n in 1..=times {
            // All of them want to be the one with these names.
            if let Ok(cell) = store.create(queue(90))
                && n < times
            {
                delete(store, &cell);
            }
        }
    }

    /// Every name has one owner at a time, in the order in which the journal tells it.
    fn owners_take_turns(dir: &Path) {
        let (mut link, mut alive) = (None, false);
        for name in files(dir) {
            let bytes = fs::read(dir.join(name)).unwrap();
            let mut rest = &bytes[segment::MAGIC.len()..];
            while let Some(body) = record::first(rest) {
                match record::decode(&rest[body.clone()], &Memory::new(usize::MAX)).unwrap() {
                    Record::Link(queue, Some(_)) => {
                        assert_eq!(link.replace(queue), None, "two queues have one link");
                    }
                    Record::Link(queue, None) => assert_eq!(link.take(), Some(queue)),
                    Record::Queue(parts, _) if parts.sender.0 == sender(90) => {
                        assert!(
                            !core::mem::replace(&mut alive, true),
                            "there are two of a queue"
                        );
                    }
                    Record::Deleted(_) => assert!(core::mem::replace(&mut alive, false)),
                    _ => {}
                }
                rest = &rest[body.end..];
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn a_name_that_is_freed_and_taken_at_once_belongs_to_the_same_queue_after_a_restart() {
        for _ in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            std::thread::scope(|scope| {
                for t in 0..TAKERS {
                    let store = &store;
                    scope.spawn(move || take_link(store, &store.create(queue(t)).unwrap(), 1_000));
                    scope.spawn(move || take_names(store, 1_000));
                }
            });
            let owner = |store: &JournalStore| {
                let cell = store.find(Name::Link, &WANTED)?;
                let recipient = cell.lock().recipient();
                Some(recipient.0)
            };
            let before = (owner(&store), messages(&store, 90), store.queues());
            store.close().unwrap();
            owners_take_turns(dir.path());
            drop(store);
            let store = open(dir.path());
            assert_eq!(
                (owner(&store), messages(&store, 90), store.queues()),
                before
            );
            store.close().unwrap();
        }
    }

    #[test]
    fn a_relay_that_was_away_takes_no_queue_for_unused() {
        let noon = |day: u64| Timestamp(day * 86_400 + 43_200);
        let limits = queue::Limits {
            unused_days: Some(30),
            ..queue::Limits::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let there = |store: &JournalStore| [1, 2].map(|n| messages(store, n).is_some());
        let store = open_at(dir.path(), noon(90));
        for (n, day) in [(1, 100), (2, 120)] {
            let cell = store.create(queue(n)).unwrap();
            let mut queue = cell.lock();
            let change = queue.touch(noon(day)).unwrap();
            store.record(&queue, change);
        }
        store.close().unwrap();
        drop(store);
        // It stood still for a year; on its first day nobody has had the time to come back.
        for days in [0, 1] {
            let store = open_at(dir.path(), noon(485 + days));
            assert_eq!(store.sweep(noon(485 + days), &limits).queues, 0);
            assert_eq!(there(&store), [true, true]);
            store.close().unwrap();
        }
        // From then on days count again, as before: the first was unused for twenty.
        let store = open_at(dir.path(), noon(486));
        for day in 487..=505 {
            let swept = store.sweep(noon(day), &limits).queues;
            assert_eq!(swept, usize::from(day == 496), "{day}");
        }
        assert_eq!(there(&store), [false, true]);
        store.close().unwrap();
    }

    /// A suspended machine wakes up, or a clock is set: one sweep, and the next is months later.
    #[test]
    fn days_that_pass_while_the_process_sleeps_take_no_queue() {
        let noon = |day: u64| Timestamp(day * 86_400 + 43_200);
        let limits = queue::Limits {
            unused_days: Some(30),
            ..queue::Limits::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let store = open_at(dir.path(), noon(100));
        let used = |n: u8, day| {
            let name = queue(n).recipient().0;
            let cell = store.find(Name::Recipient, &name);
            let cell = cell.unwrap_or_else(|| store.create(queue(n)).unwrap());
            let change = cell.lock().touch(noon(day)).unwrap();
            store.record(&cell.lock(), change);
        };
        used(1, 100);
        for day in 101..111 {
            assert_eq!(store.sweep(noon(day), &limits).queues, 0);
        }
        used(2, 110);
        // After the last sweep before it sleeps.
        used(3, 111);
        // And as soon as it wakes up.
        used(4, 300);
        assert_eq!(store.sweep(noon(300), &limits).queues, 0);
        store.close().unwrap();
        drop(store);
        // Ten of its days had gone, and twenty have not, whether it is restarted or not.
        let store = open_at(dir.path(), noon(300));
        for day in 301..=320 {
            assert_eq!(store.sweep(noon(day), &limits).queues, 0, "{day}");
        }
        assert_eq!(store.sweep(noon(321), &limits).queues, 1);
        for day in 322..=330 {
            assert_eq!(store.sweep(noon(day), &limits).queues, 0, "{day}");
        }
        assert_eq!(store.sweep(noon(331), &limits).queues, 3);
        store.close().unwrap();
    }

    /// A relay on which nobody uses anything runs all the same, and says so.
    #[test]
    fn days_on_which_the_relay_ran_count_however_often_it_is_restarted() {
        let noon = |day: u64| Timestamp(day * 86_400 + 43_200);
        let limits = queue::Limits {
            unused_days: Some(30),
            ..queue::Limits::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let store = open_at(dir.path(), noon(100));
        let cell = store.create(queue(1)).unwrap();
        let change = cell.lock().touch(noon(100)).unwrap();
        store.record(&cell.lock(), change);
        store.close().unwrap();
        drop((cell, store));
        // It is restarted every week, sometimes after a compaction, and runs until the next time.
        for week in 0..5 {
            let store = open_at(dir.path(), noon(100 + 7 * week));
            for day in 0..=7 {
                let swept = store.sweep(noon(100 + 7 * week + day), &limits).queues;
                let last = 100 + 7 * week + day == 131;
                assert_eq!(swept, usize::from(last), "day {day} of week {week}");
                if last {
                    return store.close().unwrap();
                }
            }
            if week % 2 == 1 {
                store.compact();
            }
            store.close().unwrap();
        }
        panic!("it stays for ever");
    }

    #[test]
    fn ids_that_another_relay_gave_outlive_their_queues() {
        let dir = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint([9; 32]);
        let given = Service {
            id: ServiceId([7; 24]),
            ..Service::new(ServiceRole::Messaging, fingerprint)
        };
        let store = open(dir.path());
        let mut own = queue(1);
        own.restore_service(store.services().intern(given));
        let cell = store.create(own).unwrap();
        delete(&store, &cell);
        store.close().unwrap();
        drop(store);
        for compact in [false, true, false] {
            let store = open(dir.path());
            assert_eq!(store.services().count(), 0);
            assert_eq!(
                store.services().given(),
                [(fingerprint, ServiceId([7; 24]))]
            );
            if compact {
                store.compact();
            }
            store.close().unwrap();
        }
    }

    #[test]
    fn compacting_while_everything_changes_loses_nothing() {
        const THREADS: u8 = 4;
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for t in 0..THREADS {
                let (store, stop) = (&store, &stop);
                scope.spawn(move || {
                    // Two queues each: one lives, one comes and goes.
                    let lasting = store.create(queue(2 * t)).unwrap();
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) && n < 1_000_000 || n < 500 {
                        n += 1;
                        let name = [2 * t + 1; ID_BYTES];
                        if let Some(left) = store.find(Name::Recipient, &name) {
                            store.record(&left.lock(), Change::Deleted);
                        }
                        let passing = store.create(queue(2 * t + 1)).unwrap();
                        send(store, &lasting, n);
                        if n > 10 {
                            take(store, &lasting);
                        }
                        if n % 7 != 0 {
                            delete(store, &passing);
                        }
                    }
                });
            }
            for _ in 0..20 {
                store.compact();
            }
            stop.store(true, Ordering::Relaxed);
        });
        let before: Vec<_> = (0..2 * THREADS).map(|n| messages(&store, n)).collect();
        let lasting = |b: &Option<Vec<u32>>| b.as_ref().map(Vec::len) == Some(10);
        assert!(before.iter().step_by(2).all(lasting));
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        let after: Vec<_> = (0..2 * THREADS).map(|n| messages(&store, n)).collect();
        assert_eq!(before, after);
        // Compacting leaves a single segment.
        store.compact();
        store.close().unwrap();
        drop(store);
        assert_eq!(files(dir.path()).len(), 1);
    }

    #[test]
    fn a_journal_of_things_past_is_compacted_and_gives_its_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let cell = store.create(queue(1)).unwrap();
        // One client that sends to itself and acknowledges.
        let body = vec![7; 16_000];
        let mut n = 0;
        while store.bytes() < COMPACT_BYTES_MIN {
            assert!(!store.wants_sweep());
            n += 1;
            let mut queue = cell.lock();
            queue.restore_message(message(store.memory(), n, &body));
            store.record(&queue, Change::Stored(message_id(n)));
            drop(queue);
            take(&store, &cell);
            store.log.commit().unwrap();
        }
        let taken = || -> u64 {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
        };
        assert!(taken() >= COMPACT_BYTES_MIN);
        assert!(store.wants_sweep());
        store.sweep(Timestamp(1), &queue::Limits::default());
        assert!(!store.wants_sweep());
        assert!(taken() < 1_000);
        store.close().unwrap();
    }

    #[test]
    fn what_is_alive_is_no_garbage_whatever_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let cell = store.create(queue(1)).unwrap();
        // Bodies that nobody guesses: as if the memory did not count them.
        (0..100).for_each(|n| send(&store, &cell, n));
        store.log.commit().unwrap();
        store.compact();
        assert!(store.alive() >= store.bytes());
        drop(store);
        let store = open(dir.path());
        assert!(store.alive() >= store.bytes());
        store.close().unwrap();
    }

    #[test]
    fn a_journal_from_before_there_were_bases_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = segment::MAGIC.to_vec();
        record::append_queue(&mut first, &queue(1));
        fs::write(dir.path().join("journal.4"), &first).unwrap();
        let mut second = segment::MAGIC.to_vec();
        record::append_queue(&mut second, &queue(2));
        // Torn.
        second.extend_from_slice(&[0, 0, 0, 9, 1]);
        fs::write(dir.path().join("journal.5"), &second).unwrap();
        let store = open(dir.path());
        assert_eq!(messages(&store, 1), Some(vec![]));
        assert_eq!(messages(&store, 2), Some(vec![]));
        store.close().unwrap();
        drop(store);
        assert_eq!(files(dir.path()), ["base.6"]);
        assert_eq!(fs::read(dir.path().join("journal.5.torn")).unwrap(), second);
    }

    /// While a base is written, changes of queues stand in it that come later, or that are deleted by then.
    #[test]
    fn a_certificate_comes_back_as_another_service_after_a_compaction() {
        let dir = tempfile::tempdir().unwrap();
        let fingerprint = Fingerprint([9; 32]);
        let service = |role| Some(Arc::new(Service::new(role, fingerprint)));
        let mut bytes = segment::MAGIC.to_vec();
        let mut gone = queue(1);
        gone.restore_service(service(ServiceRole::Messaging));
        let joined = Change::Service { before: None };
        record::append_change(&mut bytes, &gone, joined);
        let before = gone.service().map(|service| service.id);
        gone.restore_service(None);
        record::append_change(&mut bytes, &gone, Change::Service { before });
        let mut told = queue(2);
        told.restore_service(service(ServiceRole::Notifier));
        record::append_queue(&mut bytes, &queue(2));
        let joined = Change::Service { before: None };
        record::append_change(&mut bytes, &told, joined);
        fs::write(dir.path().join("journal.4"), &bytes).unwrap();
        let store = open(dir.path());
        assert_eq!(messages(&store, 2), Some(vec![]));
        assert_eq!(store.queues(), 1);
        store.close().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("journal");
        let store = open(&dir);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("base.0")), 0o600);
        store.close().unwrap();
    }
}
