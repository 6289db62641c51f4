//! Records of the journal.
//!
//! ```text
//! record = length u32, CRC-32 (IEEE) of body u32, body         (integers big-endian)
//! body   = 'Q' recipient sender mode(0|M|C) flags secret(32) count(u32) key [key]
//!                                                                         a queue; the rest of it is
//!                                                                         in the next count records
//!        | 'M' recipient message-id time(u64) flags(F|T) text            a message behind the others
//!        | 'F' recipient message-id time(u64)                            a quota marker, likewise
//!        | 'A' recipient message-id                                      a message is gone
//!        | 'K' recipient key                                             the sender's key
//!        | 'O' recipient                                                 off
//!        | 'R' recipient count(u8) key…                                  the recipient's keys
//!        | 'L' recipient link-id fixed-length(u16) fixed user            link data
//!        | 'l' recipient                                                 no link data
//!        | 'N' recipient notifier-id secret(32) key                      a notifier
//!        | 'n' recipient                                                 no notifier
//!        | 'W' recipient service                                         one of a service's queues
//!        | 'w' recipient                                                 of none
//!        | 'X' recipient service                                         the same for its notifier
//!        | 'x' recipient
//!        | 'B' recipient reason(S|C) [F|T ttl(u64)]                      blocked, with a notice for
//!                                                                         ever (F) or a while
//!        | 'U' recipient                                                 unblocked
//!        | 'T' recipient day(u32)                                        used on this day
//!        | 'D' recipient                                                 deleted
//!        | 's' token(u64) offset(u64)                                    the disk has this file up to there
//!        | 'd' day(u32)                                                  the relay ran on this day
//!        | 'i' id fingerprint(32)                                        a service with this certificate has
//!                                                                         this id, for ever
//!        | 'c'                                                           everything alive is before this
//! key    = length u8, SubjectPublicKeyInfo
//! service = id role(M|N|P) fingerprint(32)
//! flags  = bit 0: off, bit 1: a sender's key follows
//! ```
//!
//! `Q` with the records that belong to it replaces whatever was known of that queue, all at once or
//! (if they are cut off) not at all. So a journal may start in the middle of a queue's life if its `Q` comes later.
//! Records about unknown queues mean nothing.
//!
//! Every segment begins with a mark `s`, and every batch of changes ends with one. They tell what a
//! crash may have torn from what only damage can explain. The token is random for every start, so
//! that nobody can send marks in messages.

use core::ops::Range;

use junto_smp::address::Fingerprint;
use junto_smp::blocking::{Blocking, BlockingReason, ClientNotice};
use junto_smp::command::QueueMode;
use junto_smp::id::{ID_BYTES, LinkId, MessageId, NotifierId, RecipientId, SenderId, ServiceId};
use junto_smp::key::AuthKey;
use junto_smp::link::{FIXED_BYTES_MAX, LinkBlobs, USER_BYTES_MAX};
use junto_smp::message::{BODY_BYTES_MAX, DeliveryKey, MessageFlags, Timestamp};
use junto_smp::notification::NotificationKey;
use junto_smp::queue::{
    Change, Content, Day, Link, Message, NotifierParts, QueueParts, RECIPIENT_KEYS_MAX,
};

use junto_smp::service::{Service, ServiceRole};

use super::{Memory, Queue};

use std::sync::Arc;

/// Length and checksum.
const HEAD_BYTES: usize = 8;
/// The longest body: a message.
const BODY_MAX: usize = 1 + 2 * ID_BYTES + 8 + 1 + BODY_BYTES_MAX;
/// The longest record.
pub(super) const RECORD_BYTES_MAX: usize = HEAD_BYTES + BODY_MAX;
const _: () = assert!(1 + 2 * ID_BYTES + 2 + FIXED_BYTES_MAX + USER_BYTES_MAX <= BODY_MAX);
const _: () = assert!(1 + ID_BYTES + 1 + RECIPIENT_KEYS_MAX * 256 <= BODY_MAX);

/// Appends the record of `change`, which was just carried out on `queue`.
pub(super) fn append_change(out: &mut Vec<u8>, queue: &Queue, change: Change) {
    match change {
        Change::Stored(id) => {
            // The last one, unless another change under the same lock came first.
            if let Some(message) = queue.messages().rev().find(|message| message.id == id) {
                append_message(out, queue, message);
            }
        }
        Change::Removed(id) => append(out, b'A', queue, |out| out.extend_from_slice(&id.0)),
        Change::Secured => append(out, b'K', queue, |out| {
            if let Some(key) = queue.sender_key() {
                append_key(out, key);
            }
        }),
        Change::Suspended => append(out, b'O', queue, |_| {}),
        Change::RecipientKeys => append_recipient_keys(out, queue),
        Change::Linked => append_link(out, queue),
        Change::Unlinked(_) => append(out, b'l', queue, |_| {}),
        Change::Notifier { .. } => append_notifier(out, queue),
        Change::NotifierDeleted(_) => append(out, b'n', queue, |_| {}),
        Change::Service { .. } => append_service(out, queue, [b'W', b'w'], queue.service()),
        Change::NotifierService { .. } => {
            append_service(out, queue, [b'X', b'x'], notifier_service(queue));
        }
        Change::Blocking => append_blocking(out, queue),
        Change::Used => append_use(out, queue),
        Change::Deleted => append(out, b'D', queue, |_| {}),
    }
}

/// Appends the whole of `queue`.
pub(super) fn append_queue(out: &mut Vec<u8>, queue: &Queue) {
    append(out, b'Q', queue, |out| {
        out.extend_from_slice(&queue.sender().0);
        out.push(match queue.mode() {
            None => b'0',
            Some(QueueMode::Messaging) => b'M',
            Some(QueueMode::Contact) => b'C',
        });
        out.push(u8::from(queue.is_suspended()) | u8::from(queue.sender_key().is_some()) << 1);
        out.extend_from_slice(queue.delivery_key().as_bytes());
        let parts = usize::from(queue.recipient_keys().len() > 1)
            + usize::from(queue.link().is_some())
            + usize::from(queue.notifier().is_some())
            + usize::from(queue.service().is_some())
            + usize::from(notifier_service(queue).is_some())
            + usize::from(queue.blocking().is_some())
            + usize::from(queue.used().is_some());
        let count = u32::try_from(parts + queue.messages().len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        if let Some(key) = queue.recipient_keys().first() {
            append_key(out, key);
        }
        if let Some(key) = queue.sender_key() {
            append_key(out, key);
        }
    });
    if queue.recipient_keys().len() > 1 {
        append_recipient_keys(out, queue);
    }
    append_link(out, queue);
    append_notifier(out, queue);
    if let service @ Some(_) = queue.service() {
        append_service(out, queue, [b'W', b'w'], service);
    }
    if let service @ Some(_) = notifier_service(queue) {
        append_service(out, queue, [b'X', b'x'], service);
    }
    if queue.blocking().is_some() {
        append_blocking(out, queue);
    }
    append_use(out, queue);
    for message in queue.messages() {
        append_message(out, queue, message);
    }
}

/// Bytes of a mark's body.
const MARK_BYTES: usize = 1 + 8 + 8;

/// Appends a mark: the disk has `synced` bytes of this file.
pub(super) fn append_mark(out: &mut Vec<u8>, token: u64, synced: u64) {
    append_body(out, |out| {
        out.push(b's');
        out.extend_from_slice(&token.to_be_bytes());
        out.extend_from_slice(&synced.to_be_bytes());
    });
}

/// Appends that the relay ran on this day.
pub(super) fn append_ran(out: &mut Vec<u8>, day: Day) {
    append_body(out, |out| {
        out.push(b'd');
        out.extend_from_slice(&day.0.to_be_bytes());
    });
}

/// Appends that a service with this certificate has this id.
pub(super) fn append_given(out: &mut Vec<u8>, fingerprint: &Fingerprint, id: ServiceId) {
    append_body(out, |out| {
        out.push(b'i');
        out.extend_from_slice(&id.0);
        out.extend_from_slice(&fingerprint.0);
    });
}

/// Appends that everything alive is before this.
pub(super) fn append_copied(out: &mut Vec<u8>) {
    append_body(out, |out| out.push(b'c'));
}

fn append_recipient_keys(out: &mut Vec<u8>, queue: &Queue) {
    append(out, b'R', queue, |out| {
        let keys = queue.recipient_keys();
        // At most RECIPIENT_KEYS_MAX.
        out.push(u8::try_from(keys.len()).unwrap_or(0));
        keys.iter().for_each(|key| append_key(out, key));
    });
}

fn append_link(out: &mut Vec<u8>, queue: &Queue) {
    let Some(link) = queue.link() else { return };
    append(out, b'L', queue, |out| {
        let blobs = link.blobs();
        out.extend_from_slice(&link.id().0);
        // At most FIXED_BYTES_MAX.
        let length = u16::try_from(blobs.fixed().len()).unwrap_or(0);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(blobs.fixed());
        out.extend_from_slice(blobs.user());
    });
}

fn append_notifier(out: &mut Vec<u8>, queue: &Queue) {
    let Some(notifier) = queue.notifier() else {
        return;
    };
    append(out, b'N', queue, |out| {
        out.extend_from_slice(&notifier.id().0);
        out.extend_from_slice(notifier.key().as_bytes());
        append_key(out, notifier.auth_key());
    });
}

fn notifier_service(queue: &Queue) -> Option<&Arc<Service>> {
    queue.notifier().and_then(|notifier| notifier.service())
}

/// Appends a service under the first tag, or its absence under the second.
fn append_service(
    out: &mut Vec<u8>,
    queue: &Queue,
    [some, none]: [u8; 2],
    service: Option<&Arc<Service>>,
) {
    let Some(service) = service else {
        return append(out, none, queue, |_| {});
    };
    append(out, some, queue, |out| {
        out.extend_from_slice(&service.id.0);
        out.push(service.role.to_byte());
        out.extend_from_slice(&service.fingerprint.0);
    });
}

fn append_blocking(out: &mut Vec<u8>, queue: &Queue) {
    let Some(blocking) = queue.blocking() else {
        return append(out, b'U', queue, |_| {});
    };
    append(out, b'B', queue, |out| {
        out.push(match blocking.reason {
            BlockingReason::Spam => b'S',
            BlockingReason::Content => b'C',
        });
        match blocking.notice {
            None => {}
            Some(ClientNotice { ttl_seconds: None }) => out.push(b'F'),
            Some(ClientNotice {
                ttl_seconds: Some(ttl),
            }) => {
                out.push(b'T');
                out.extend_from_slice(&ttl.to_be_bytes());
            }
        }
    });
}

fn append_use(out: &mut Vec<u8>, queue: &Queue) {
    let Some(day) = queue.used() else { return };
    append(out, b'T', queue, |out| {
        out.extend_from_slice(&day.0.to_be_bytes());
    });
}

fn append_message(out: &mut Vec<u8>, queue: &Queue, message: &Message<super::Body>) {
    let (tag, text) = match &message.content {
        Content::Body { flags, body } => (b'M', Some((flags.notify, body.as_ref()))),
        Content::QuotaReached => (b'F', None),
    };
    append(out, tag, queue, |out| {
        out.extend_from_slice(&message.id.0);
        out.extend_from_slice(&message.time.0.to_be_bytes());
        if let Some((notify, text)) = text {
            out.push(if notify { b'T' } else { b'F' });
            out.extend_from_slice(text);
        }
    });
}

fn append(out: &mut Vec<u8>, tag: u8, queue: &Queue, write: impl FnOnce(&mut Vec<u8>)) {
    append_body(out, |out| {
        out.push(tag);
        out.extend_from_slice(&queue.recipient().0);
        write(out);
    });
}

fn append_body(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    write(out);
    let (head, body) = out[start..].split_at_mut(HEAD_BYTES);
    // Bodies are at most BODY_MAX.
    let length = u32::try_from(body.len()).unwrap_or(0);
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(body).to_be_bytes());
}

fn append_key(out: &mut Vec<u8>, key: &AuthKey) {
    let start = out.len();
    out.push(0);
    key.write_spki(out);
    out[start] = u8::try_from(out.len() - start - 1).unwrap_or(0);
}

/// What a record says.
pub(super) enum Record {
    /// With the number of records that belong to it, which follow.
    Queue(Box<QueueParts>, u32),
    Message(RecipientId, Message<super::Body>),
    Removed(RecipientId, MessageId),
    Secured(RecipientId, AuthKey),
    Suspended(RecipientId),
    RecipientKeys(RecipientId, Vec<AuthKey>),
    Link(RecipientId, Option<Link<super::Body>>),
    Notifier(RecipientId, Option<Box<NotifierParts>>),
    Service(RecipientId, Option<Service>),
    NotifierService(RecipientId, Option<Service>),
    Blocking(RecipientId, Option<Blocking>),
    Used(RecipientId, Day),
    Deleted(RecipientId),
    Mark(Mark),
    Ran(Day),
    Given(Fingerprint, ServiceId),
    Copied,
}

/// The disk has the file up to `synced`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) token: u64,
    pub(super) synced: u64,
}

/// All marks of `bytes`, wherever they begin.
pub(super) fn marks(bytes: &[u8]) -> impl Iterator<Item = Mark> {
    let start = |window: &&[u8]| window.starts_with(&MARK_HEAD) && window[HEAD_BYTES] == b's';
    bytes
        .windows(MARK_RECORD_BYTES)
        .filter(start)
        .filter_map(
            |window| match Rest(&window[first(window)?]).about_no_queue()? {
                Record::Mark(mark) => Some(mark),
                _ => None,
            },
        )
}

/// Bytes of a mark with its head.
pub(super) const MARK_RECORD_BYTES: usize = HEAD_BYTES + MARK_BYTES;
const MARK_HEAD: [u8; 4] = (MARK_BYTES as u32).to_be_bytes();

/// The body of the first record of `bytes`; `None` if it is torn or damaged.
pub(super) fn first(bytes: &[u8]) -> Option<Range<usize>> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    let [a, b, c, d, e, f, g, h] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if !(1..=BODY_MAX).contains(&length) {
        return None;
    }
    let body = HEAD_BYTES..HEAD_BYTES + length;
    let whole = crc32fast::hash(bytes.get(body.clone())?) == u32::from_be_bytes([e, f, g, h]);
    whole.then_some(body)
}

/// Reads a body whose checksum is right; `None` if it is none of ours.
pub(super) fn decode(body: &[u8], memory: &Arc<Memory>) -> Option<Record> {
    let mut rest = Rest(body);
    if let Some(b's' | b'd' | b'i' | b'c') = body.first() {
        return rest.about_no_queue();
    }
    let [tag] = rest.array()?;
    let recipient = RecipientId(rest.array()?);
    let record = match tag {
        b'Q' => {
            let (parts, messages) = rest.queue(recipient)?;
            Record::Queue(Box::new(parts), messages)
        }
        b'M' | b'F' => {
            let id = MessageId(rest.array()?);
            let time = Timestamp(u64::from_be_bytes(rest.array()?));
            let content = if tag == b'F' {
                Content::QuotaReached
            } else {
                let notify = match rest.array()? {
                    [b'T'] => true,
                    [b'F'] => false,
                    [_] => return None,
                };
                Content::Body {
                    flags: MessageFlags { notify },
                    body: memory.store(core::mem::take(&mut rest.0)),
                }
            };
            Record::Message(recipient, Message { id, time, content })
        }
        b'A' => Record::Removed(recipient, MessageId(rest.array()?)),
        b'K' => Record::Secured(recipient, rest.key()?),
        b'O' => Record::Suspended(recipient),
        b'R' => Record::RecipientKeys(recipient, rest.keys()?),
        b'L' => Record::Link(recipient, Some(rest.link(memory)?)),
        b'l' => Record::Link(recipient, None),
        b'N' => Record::Notifier(recipient, Some(Box::new(rest.notifier()?))),
        b'n' => Record::Notifier(recipient, None),
        b'W' => Record::Service(recipient, Some(rest.service()?)),
        b'w' => Record::Service(recipient, None),
        b'X' => Record::NotifierService(recipient, Some(rest.service()?)),
        b'x' => Record::NotifierService(recipient, None),
        b'B' => Record::Blocking(recipient, Some(rest.blocking()?)),
        b'U' => Record::Blocking(recipient, None),
        b'T' => Record::Used(recipient, Day(u32::from_be_bytes(rest.array()?))),
        b'D' => Record::Deleted(recipient),
        _ => return None,
    };
    rest.0.is_empty().then_some(record)
}

/// Unread bytes of a body.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// A record about the journal itself, the relay or a service.
    fn about_no_queue(&mut self) -> Option<Record> {
        let record = match self.array()? {
            [b's'] => Record::Mark(Mark {
                token: u64::from_be_bytes(self.array()?),
                synced: u64::from_be_bytes(self.array()?),
            }),
            [b'd'] => Record::Ran(Day(u32::from_be_bytes(self.array()?))),
            [b'i'] => {
                let id = ServiceId(self.array()?);
                Record::Given(Fingerprint(self.array()?), id)
            }
            [b'c'] => Record::Copied,
            [_] => return None,
        };
        self.0.is_empty().then_some(record)
    }

    fn key(&mut self) -> Option<AuthKey> {
        let [length] = self.array()?;
        let (key, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        AuthKey::from_spki(key).ok()
    }

    fn keys(&mut self) -> Option<Vec<AuthKey>> {
        let [count] = self.array()?;
        if !(1..=RECIPIENT_KEYS_MAX).contains(&usize::from(count)) {
            return None;
        }
        (0..count).map(|_| self.key()).collect()
    }

    fn link(&mut self, memory: &Arc<Memory>) -> Option<Link<super::Body>> {
        let id = LinkId(self.array()?);
        let length = u16::from_be_bytes(self.array()?);
        let (fixed, user) = core::mem::take(&mut self.0).split_at_checked(usize::from(length))?;
        let blobs = LinkBlobs::new(fixed, user).ok()?;
        Some(Link::new(id, &blobs, |bytes| memory.store(bytes)))
    }

    fn notifier(&mut self) -> Option<NotifierParts> {
        let id = NotifierId(self.array()?);
        let secret = zeroize::Zeroizing::new(self.array()?);
        Some(NotifierParts {
            id,
            auth_key: self.key()?,
            key: NotificationKey::from_bytes(&secret),
        })
    }

    fn service(&mut self) -> Option<Service> {
        let id = ServiceId(self.array()?);
        let [role] = self.array()?;
        Some(Service {
            id,
            role: ServiceRole::from_byte(role)?,
            fingerprint: Fingerprint(self.array()?),
        })
    }

    fn blocking(&mut self) -> Option<Blocking> {
        let reason = match self.array()? {
            [b'S'] => BlockingReason::Spam,
            [b'C'] => BlockingReason::Content,
            [_] => return None,
        };
        let notice = if self.0.is_empty() {
            None
        } else {
            let ttl_seconds = match self.array()? {
                [b'F'] => None,
                [b'T'] => Some(u64::from_be_bytes(self.array()?)),
                [_] => return None,
            };
            Some(ClientNotice { ttl_seconds })
        };
        Some(Blocking { reason, notice })
    }

    fn queue(&mut self, recipient: RecipientId) -> Option<(QueueParts, u32)> {
        let sender = SenderId(self.array()?);
        let mode = match self.array()? {
            [b'0'] => None,
            [b'M'] => Some(QueueMode::Messaging),
            [b'C'] => Some(QueueMode::Contact),
            [_] => return None,
        };
        let [flags @ 0..=3] = self.array()? else {
            return None;
        };
        let secret = zeroize::Zeroizing::new(self.array()?);
        let messages = u32::from_be_bytes(self.array()?);
        let recipient_key = self.key()?;
        let sender_key = match flags & 2 {
            0 => None,
            _ => Some(self.key()?),
        };
        let parts = QueueParts {
            recipient,
            sender,
            mode,
            recipient_key,
            sender_key,
            delivery_key: DeliveryKey::from_bytes(&secret),
            suspended: flags & 1 != 0,
        };
        Some((parts, messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::generator;
    use junto_smp::key::AuthSecret;
    use proptest::prelude::*;

    fn queue(mode: Option<QueueMode>, suspended: bool, secured: bool) -> Queue {
        let mut rng = generator().unwrap();
        Queue::restore(QueueParts {
            recipient: RecipientId::random(&mut rng),
            sender: SenderId::random(&mut rng),
            mode,
            recipient_key: AuthSecret::generate(&mut rng).public_key(),
            sender_key: secured.then(|| AuthSecret::generate(&mut rng).public_key()),
            delivery_key: DeliveryKey::from_bytes(&[9; 32]),
            suspended,
        })
    }

    /// All records of `bytes`, written again.
    fn again(bytes: &[u8], memory: &Arc<Memory>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut start = 0;
        let mut whole: Option<Queue> = None;
        while let Some(body) = first(&bytes[start..]) {
            match decode(&bytes[start..][body.clone()], memory).unwrap() {
                Record::Queue(parts, _) => whole = Some(Queue::restore(*parts)),
                Record::Message(_, message) => whole.as_mut().unwrap().restore_message(message),
                Record::RecipientKeys(_, keys) => {
                    whole.as_mut().unwrap().restore_recipient_keys(&keys);
                }
                Record::Link(_, link) => whole.as_mut().unwrap().restore_link(link),
                Record::Notifier(_, parts) => {
                    whole
                        .as_mut()
                        .unwrap()
                        .restore_notifier(parts.map(|parts| *parts));
                }
                Record::Blocking(_, blocking) => {
                    let _ = whole.as_mut().unwrap().set_blocking(blocking);
                }
                Record::Service(_, service) => {
                    whole
                        .as_mut()
                        .unwrap()
                        .restore_service(service.map(Arc::new));
                }
                Record::NotifierService(_, service) => {
                    let service = service.map(Arc::new);
                    whole.as_mut().unwrap().restore_notifier_service(service);
                }
                Record::Used(_, day) => whole.as_mut().unwrap().restore_use(day),
                _ => panic!("only queues here"),
            }
            start += body.end;
        }
        assert_eq!(start, bytes.len());
        append_queue(&mut out, &whole.unwrap());
        out
    }

    proptest! {
        #[test]
        fn queues_come_back_as_they_were(
            mode in prop::sample::select(vec![
                None, Some(QueueMode::Messaging), Some(QueueMode::Contact),
            ]),
            suspended: bool,
            secured: bool,
            bodies in prop::collection::vec(prop::option::of(
                prop::collection::vec(any::<u8>(), 0..200)), 0..5),
            owners in 1..=RECIPIENT_KEYS_MAX,
            link in prop::option::of((
                prop::collection::vec(any::<u8>(), 0..=FIXED_BYTES_MAX),
                prop::collection::vec(any::<u8>(), 0..=USER_BYTES_MAX),
            )),
            notifier: bool,
            used in prop::option::of(any::<u32>().prop_map(Day)),
            blocking in prop::option::of((any::<bool>(), prop::option::of(any::<Option<u64>>()))),
            services in any::<[Option<u8>; 2]>(),
        ) {
            let memory = Memory::new(usize::MAX);
            let mut queue = queue(mode, suspended, secured);
            let mut rng = generator().unwrap();
            let keys: Vec<_> = (0..owners)
                .map(|_| AuthSecret::generate(&mut rng).public_key())
                .collect();
            queue.restore_recipient_keys(&keys);
            queue.restore_link(link.map(|(fixed, user)| {
                let blobs = LinkBlobs::new(&fixed, &user).unwrap();
                Link::new(LinkId([7; ID_BYTES]), &blobs, |bytes| memory.store(bytes))
            }));
            queue.restore_notifier(notifier.then(|| NotifierParts {
                id: NotifierId([8; ID_BYTES]),
                auth_key: keys[0].clone(),
                key: NotificationKey::from_bytes(&[9; 32]),
            }));
            let [own, told] = services.map(|n| {
                let role = [ServiceRole::Messaging, ServiceRole::Notifier, ServiceRole::Proxy];
                let role = role[usize::from(n? % 3)];
                Some(Arc::new(Service::new(role, Fingerprint([n?; 32]))))
            });
            queue.restore_service(own);
            queue.restore_notifier_service(told);
            used.into_iter().for_each(|day| queue.restore_use(day));
            let _ = queue.set_blocking(blocking.map(|(spam, notice)| Blocking {
                reason: if spam { BlockingReason::Spam } else { BlockingReason::Content },
                notice: notice.map(|ttl_seconds| ClientNotice { ttl_seconds }),
            }));
            for (n, body) in (0..).zip(bodies) {
                queue.restore_message(Message {
                    id: MessageId([n; ID_BYTES]),
                    time: Timestamp(u64::from(n) << 33),
                    content: match body {
                        Some(body) => Content::Body {
                            flags: MessageFlags { notify: n % 2 == 0 },
                            body: memory.store(&body),
                        },
                        None => Content::QuotaReached,
                    },
                });
            }
            let mut bytes = Vec::new();
            append_queue(&mut bytes, &queue);
            prop_assert_eq!(again(&bytes, &memory), bytes);
        }

        #[test]
        fn what_is_about_no_queue_comes_back_as_it_was(day: u32, id: [u8; 24], print: [u8; 32]) {
            let (day, id, print) = (Day(day), ServiceId(id), Fingerprint(print));
            let mut bytes = Vec::new();
            append_ran(&mut bytes, day);
            let body = first(&bytes).unwrap();
            let ran = decode(&bytes[body.clone()], &Memory::new(0));
            prop_assert!(matches!(ran, Some(Record::Ran(read)) if read == day));
            bytes.drain(..body.end);
            append_given(&mut bytes, &print, id);
            let body = first(&bytes).unwrap();
            let given = decode(&bytes[body.clone()], &Memory::new(0));
            prop_assert!(
                matches!(given, Some(Record::Given(p, i)) if (p, i) == (print, id))
            );
            prop_assert_eq!(body.end, bytes.len());
            for cut in body.start..body.end {
                prop_assert!(decode(&bytes[body.start..cut], &Memory::new(0)).is_none());
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let memory = Memory::new(usize::MAX);
            let _ = first(&bytes);
            let _ = decode(&bytes, &memory);
        }

        #[test]
        fn one_wrong_bit_is_noticed(position in 0_usize..1_000_000) {
            let mut bytes = Vec::new();
            append_queue(&mut bytes, &queue(None, true, true));
            let position = position % (bytes.len() * 8);
            bytes[position / 8] ^= 1 << (position % 8);
            prop_assert!(first(&bytes).is_none());
        }
    }

    #[test]
    fn the_largest_message_is_a_record() {
        let memory = Memory::new(usize::MAX);
        let mut queue = queue(None, false, false);
        let id = MessageId([1; ID_BYTES]);
        let body = memory.store(&[5; BODY_BYTES_MAX]);
        let content = Content::Body {
            flags: MessageFlags::default(),
            body,
        };
        queue.restore_message(Message {
            id,
            time: Timestamp(1),
            content,
        });
        let mut bytes = Vec::new();
        append_change(&mut bytes, &queue, Change::Stored(id));
        assert_eq!(first(&bytes), Some(HEAD_BYTES..HEAD_BYTES + BODY_MAX));
    }
}
