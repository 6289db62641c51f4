//! Reading a journal back.

use core::ops::Range;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::Scope;

use junto_smp::id::RecipientId;
use junto_smp::queue::Day;
use junto_smp::service::Service;

use super::record::{self, MARK_RECORD_BYTES, Record};
use super::segment::MAGIC;
use super::{Cell, Memory, MemoryStore, Name, Queue, Services, Store as _};

/// Bytes read at a time: 1 MiB.
const READ_BYTES: u64 = 1 << 20;
/// Threads that decode, each with that much.
const DECODERS_MAX: usize = 8;

/// What a segment had to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replayed {
    pub(super) end: End,
    /// Whether anything was about queues.
    pub(super) speaks: bool,
    /// The last day of which it says that the relay ran.
    pub(super) ran: Option<Day>,
}

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its last record.
    Whole,
    /// In a record, or in a queue of several records, that began at this offset: as a crash leaves
    /// it.
    Torn(u64),
    /// At this offset stands what no crash explains.
    Damaged(u64),
}

/// Carries out the records of one segment. `base`: it stands for itself, so it must have all of a
/// copy of everything alive.
pub(super) fn replay(
    file: &mut dyn Read,
    base: bool,
    queues: &MemoryStore,
) -> io::Result<Replayed> {
    let mut replay = Replay {
        queues,
        partial: None,
        token: None,
        copied: !base,
        speaks: false,
        ran: None,
    };
    let end = replay.run(file)?;
    let Replay { speaks, ran, .. } = replay;
    Ok(Replayed { end, speaks, ran })
}

/// What was read at once: whole records, and where their bodies are.
struct Batch {
    bytes: Vec<u8>,
    /// Where each record begins in the file, and its body in `bytes`.
    bodies: Vec<(u64, Range<usize>)>,
}

/// Records of a batch, and where each begins in the file; `None` for what is none of ours.
type Decoded = Vec<(u64, Option<Record>)>;

/// Threads that decode batches in turns, because the public keys of a million queues take seconds to
/// check. The order stays.
struct Decoders {
    threads: Vec<(SyncSender<Batch>, Receiver<Decoded>)>,
    given: usize,
    taken: usize,
}

impl Decoders {
    fn start<'scope>(scope: &'scope Scope<'scope, '_>, memory: &'scope Arc<Memory>) -> Self {
        let count = std::thread::available_parallelism().map_or(1, |n| n.get().min(DECODERS_MAX));
        let start = |_| {
            // One batch under way for each thread.
            let (batches, to_do) = mpsc::sync_channel::<Batch>(1);
            let (done, decoded) = mpsc::sync_channel(1);
            scope.spawn(move || {
                for Batch { bytes, bodies } in to_do {
                    let decode = |(at, body)| (at, record::decode(&bytes[body], memory));
                    if done.send(bodies.into_iter().map(decode).collect()).is_err() {
                        return; // The reader has given up.
                    }
                }
            });
            (batches, decoded)
        };
        Self {
            threads: (0..count).map(start).collect(),
            given: 0,
            taken: 0,
        }
    }

    /// Gives a batch to a thread, and takes the oldest back if there are enough under way.
    fn exchange(&mut self, batch: Batch) -> io::Result<Option<Decoded>> {
        let busy = self.given - self.taken == self.threads.len();
        let oldest = if busy { self.next()? } else { None };
        let (batches, _) = &self.threads[self.given % self.threads.len()];
        batches.send(batch).map_err(io::Error::other)?;
        self.given += 1;
        Ok(oldest)
    }

    /// The oldest batch under way, if there is one.
    fn next(&mut self) -> io::Result<Option<Decoded>> {
        if self.taken == self.given {
            return Ok(None);
        }
        let (_, decoded) = &self.threads[self.taken % self.threads.len()];
        self.taken += 1;
        decoded.recv().map(Some).map_err(io::Error::other)
    }
}

struct Replay<'a> {
    queues: &'a MemoryStore,
    partial: Option<Partial>,
    /// In the marks of this segment.
    token: Option<u64>,
    /// Nothing that must be here is missing any more.
    copied: bool,
    speaks: bool,
    ran: Option<Day>,
}

impl Replay<'_> {
    fn run(&mut self, file: &mut dyn Read) -> io::Result<End> {
        let memory = Arc::clone(self.queues.memory());
        std::thread::scope(|scope| self.scan(file, &mut Decoders::start(scope, &memory)))
    }

    fn scan(&mut self, file: &mut dyn Read, decoders: &mut Decoders) -> io::Result<End> {
        let mut bytes = Vec::new();
        let mut offset = 0_u64;
        loop {
            let read = (&mut *file).take(READ_BYTES).read_to_end(&mut bytes)?;
            let mut start = 0;
            if offset == 0 {
                if !bytes.starts_with(MAGIC) {
                    return self.torn(0, bytes, file);
                }
                start = MAGIC.len();
            }
            let mut bodies = Vec::new();
            while let Some(body) = record::first(&bytes[start..]) {
                let at = offset + start as u64;
                bodies.push((at, start + body.start..start + body.end));
                start += body.end;
            }
            offset += start as u64;
            let rest = bytes.split_off(start);
            if let Some(decoded) = decoders.exchange(Batch { bytes, bodies })?
                && let Some(at) = self.apply_all(decoded)
            {
                return Ok(End::Damaged(at));
            }
            bytes = rest;
            if read > 0 && bytes.len() < record::RECORD_BYTES_MAX {
                continue;
            }
            while let Some(decoded) = decoders.next()? {
                if let Some(at) = self.apply_all(decoded) {
                    return Ok(End::Damaged(at));
                }
            }
            return match self.partial.take() {
                None if bytes.is_empty() && self.copied => Ok(End::Whole),
                None => self.torn(offset, bytes, file),
                Some(partial) => self.torn(partial.began, bytes, file),
            };
        }
    }

    /// Carries out records; gives the place of the first that cannot stand there. Its checksum is
    /// right: it was written by us, but not by this version.
    fn apply_all(&mut self, decoded: Decoded) -> Option<u64> {
        let mut decoded = decoded.into_iter();
        let refused = |(at, record): (u64, Option<Record>)| {
            let applied = record.is_some_and(|record| self.apply(record, at));
            (!applied).then_some(at)
        };
        decoded.find_map(refused)
    }

    /// Nothing from `offset` on can be read. Whether a crash explains that: not if the disk had
    /// confirmed it, which a later mark would tell. `rest` and then `file` is what follows.
    fn torn(&self, offset: u64, mut rest: Vec<u8>, file: &mut dyn Read) -> io::Result<End> {
        loop {
            let genuine = |token| self.token.is_none_or(|own| own == token);
            let damaged = !self.copied
                || record::marks(&rest).any(|mark| genuine(mark.token) && mark.synced > offset);
            if damaged {
                return Ok(End::Damaged(offset));
            }
            rest.drain(..rest.len().saturating_sub(MARK_RECORD_BYTES - 1));
            if (&mut *file).take(READ_BYTES).read_to_end(&mut rest)? == 0 {
                return Ok(End::Torn(offset));
            }
        }
    }

    /// Carries out one record; `false` if it cannot stand here.
    fn apply(&mut self, record: Record, offset: u64) -> bool {
        if let Some(mut reading) = self.partial.take() {
            if !complete(record, &mut reading.queue, self.queues.services()) {
                return false;
            }
            reading.missing -= 1;
            self.finish(reading);
            return true;
        }
        let queues = self.queues;
        let find = |id: &RecipientId| queues.find(Name::Recipient, &id.0);
        match record {
            Record::Mark(mark) => {
                self.token = Some(mark.token);
                return true;
            }
            Record::Ran(day) => {
                self.ran = Some(day);
                return true;
            }
            Record::Given(fingerprint, id) => {
                queues.services().give(fingerprint, id);
                return true;
            }
            Record::Copied => {
                self.copied = true;
                return true;
            }
            Record::Queue(parts, missing) => self.finish(Partial {
                queue: Queue::restore(*parts),
                missing,
                began: offset,
            }),
            Record::Message(id, message) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_message(message);
                }
            }
            Record::Removed(id, message) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_removal(&message);
                }
            }
            Record::Secured(id, key) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_sender_key(key);
                }
            }
            Record::Suspended(id) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_suspension();
                }
            }
            Record::RecipientKeys(id, keys) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_recipient_keys(&keys);
                }
            }
            Record::Link(id, link) => {
                if let Some(cell) = find(&id) {
                    rename(&cell, queues, |queue| queue.restore_link(link));
                }
            }
            Record::Notifier(id, parts) => {
                if let Some(cell) = find(&id) {
                    let parts = parts.map(|parts| *parts);
                    rename(&cell, queues, |queue| queue.restore_notifier(parts));
                }
            }
            // Of a queue that is not here (yet, in a base; or any more) a service means nothing: kept all the
            // same, it would stand in the way when its certificate comes back in another role.
            Record::Service(id, service) => {
                if let Some(cell) = find(&id) {
                    let Some(service) = interned(queues.services(), service) else {
                        return false;
                    };
                    rename(&cell, queues, |queue| queue.restore_service(service));
                }
            }
            Record::NotifierService(id, service) => {
                if let Some(cell) = find(&id) {
                    let Some(service) = interned(queues.services(), service) else {
                        return false;
                    };
                    rename(&cell, queues, |queue| {
                        queue.restore_notifier_service(service)
                    });
                }
            }
            Record::Blocking(id, blocking) => {
                if let Some(cell) = find(&id) {
                    let _ = cell.lock().set_blocking(blocking);
                }
            }
            Record::Used(id, day) => {
                if let Some(cell) = find(&id) {
                    cell.lock().restore_use(day);
                }
            }
            Record::Deleted(id) => {
                if let Some(cell) = find(&id) {
                    queues.take(&cell.lock());
                }
            }
        }
        self.speaks = true;
        true
    }

    /// Puts a queue in as soon as it is whole.
    fn finish(&mut self, reading: Partial) {
        if reading.missing == 0 {
            self.queues.put(reading.queue);
        } else {
            self.partial = Some(reading);
        }
    }
}

/// A queue whose records have not all been read.
struct Partial {
    queue: Queue,
    missing: u32,
    began: u64,
}

/// The service that a record names, or none, as one value for all of its queues; `None` if the record
/// cannot be right.
#[allow(clippy::option_option)] // A record may name none, and may be wrong.
fn interned(services: &Services, service: Option<Service>) -> Option<Option<Arc<Service>>> {
    match service {
        Some(service) => services.intern(service).map(Some),
        None => Some(None),
    }
}

/// Adds what a record says to the queue that it belongs to; `false` if it does not.
fn complete(record: Record, queue: &mut Queue, services: &Services) -> bool {
    let own = queue.recipient();
    match record {
        Record::Message(id, message) if id == own => queue.restore_message(message),
        Record::RecipientKeys(id, keys) if id == own => queue.restore_recipient_keys(&keys),
        Record::Link(id, link) if id == own => queue.restore_link(link),
        Record::Notifier(id, parts) if id == own => {
            queue.restore_notifier(parts.map(|parts| *parts));
        }
        Record::Service(id, service) if id == own => match interned(services, service) {
            Some(service) => queue.restore_service(service),
            None => return false,
        },
        Record::NotifierService(id, service) if id == own => match interned(services, service) {
            Some(service) => queue.restore_notifier_service(service),
            None => return false,
        },
        Record::Blocking(id, blocking) if id == own => {
            let _ = queue.set_blocking(blocking);
        }
        Record::Used(id, day) if id == own => queue.restore_use(day),
        _ => return false,
    }
    true
}

/// A change after which the queue may have other names.
fn rename(cell: &Arc<Cell>, queues: &MemoryStore, change: impl FnOnce(&mut Queue)) {
    let mut queue = cell.lock();
    queues.unname_all(&queue);
    change(&mut queue);
    queues.name_all(&queue, cell);
}
