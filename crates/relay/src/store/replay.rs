//! Reading a journal back.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use junto_smp::id::RecipientId;
use junto_smp::message::DeliveryKey;
use junto_smp::queue::QueueParts;

use super::journal::MAGIC;
use super::record::{self, Record};
use super::{Cell, MemoryStore, Name, Queue, Store as _};

/// Bytes read at a time: 1 MiB.
const READ_BYTES: u64 = 1 << 20;

/// How a segment ended.
pub(super) enum Replayed {
    /// With its last record.
    Whole,
    /// In a record, or in the messages of a queue, that began at this offset.
    Torn(u64),
    /// With a record at this offset that is whole and none of ours.
    Foreign(u64),
}

/// Carries out the records of one segment.
pub(super) fn replay(path: &Path, queues: &MemoryStore) -> io::Result<Replayed> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut start = 0;
    let mut offset = 0_u64;
    let mut partial = None;
    loop {
        bytes.drain(..start);
        start = 0;
        let read = (&mut file).take(READ_BYTES).read_to_end(&mut bytes)?;
        if offset == 0 {
            // A segment that was begun and not finished is empty or has part of the line.
            if !bytes.starts_with(MAGIC) {
                return Ok(Replayed::Torn(0));
            }
            start = MAGIC.len();
        }
        while let Some(body) = record::first(&bytes[start..]) {
            let at = offset + start as u64;
            let decoded = record::decode(&bytes[start..][body.clone()], queues.memory());
            let followed = decoded.is_some_and(|record| apply(record, at, &mut partial, queues));
            if !followed {
                // The checksum is right: written by us, but not by this version.
                return Ok(Replayed::Foreign(at));
            }
            start += body.end;
        }
        offset += start as u64;
        if read == 0 {
            return Ok(match partial {
                Some(Partial { began, .. }) => Replayed::Torn(began),
                None if start == bytes.len() => Replayed::Whole,
                None => Replayed::Torn(offset),
            });
        }
    }
}

/// A queue whose messages have not all been read.
struct Partial {
    queue: Queue,
    missing: u32,
    began: u64,
}

/// Carries out one record; `false` if it cannot stand here.
fn apply(record: Record, offset: u64, partial: &mut Option<Partial>, queues: &MemoryStore) -> bool {
    if let Some(mut reading) = partial.take() {
        match record {
            Record::Message(id, message) if id == reading.queue.recipient() => {
                reading.queue.restore_message(message);
                reading.missing -= 1;
                finish(reading, partial, queues);
                return true;
            }
            _ => return false,
        }
    }
    let find = |id: &RecipientId| queues.find(Name::Recipient, &id.0);
    match record {
        Record::Queue(parts, missing) => {
            let queue = Queue::restore(*parts);
            let began = offset;
            finish(
                Partial {
                    queue,
                    missing,
                    began,
                },
                partial,
                queues,
            );
        }
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
        Record::Secured(id, key) => change(find(&id), |parts| parts.sender_key = Some(key)),
        Record::Suspended(id) => change(find(&id), |parts| parts.suspended = true),
        Record::Deleted(id) => {
            if let Some(cell) = find(&id) {
                queues.take(&cell.lock());
            }
        }
    }
    true
}

/// Puts a queue in as soon as it has all its messages.
fn finish(reading: Partial, partial: &mut Option<Partial>, queues: &MemoryStore) {
    if reading.missing == 0 {
        queues.put(reading.queue, |_| {});
    } else {
        *partial = Some(reading);
    }
}

/// Changes the lasting part of a queue.
fn change(cell: Option<Arc<Cell>>, change: impl FnOnce(&mut QueueParts)) {
    let Some(cell) = cell else { return };
    let mut queue = cell.lock();
    let mut parts = QueueParts {
        recipient: queue.recipient(),
        sender: queue.sender(),
        mode: queue.mode(),
        recipient_key: queue.recipient_key().clone(),
        sender_key: queue.sender_key().cloned(),
        delivery_key: DeliveryKey::from_bytes(queue.delivery_key().as_bytes()),
        suspended: queue.is_suspended(),
    };
    change(&mut parts);
    let mut changed = Queue::restore(parts);
    for message in queue.messages() {
        changed.restore_message(message.clone());
    }
    *queue = changed;
}
