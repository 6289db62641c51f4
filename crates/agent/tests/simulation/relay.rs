//! A relay in memory: the rules of queues, without wire, clock or authorisation by signature (a key
//! is compared instead).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_agent::proto::{
    Answer, LinkBytes, LinkParts, Operation, QueueMode, Refusal, RelayNotice, SenderId,
};
use junto_crypto::secretbox::BoxKey;
use junto_crypto::{CryptoRng, x25519};
use junto_smp::id::{LinkId, MessageId, RecipientId};
use junto_smp::key::{AuthKey, AuthSecret};

/// One end of a connection to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link(pub u64);

struct Queue {
    recipient: RecipientId,
    recipient_key: AuthKey,
    sender_key: Option<AuthKey>,
    mode: QueueMode,
    delivery: BoxKey,
    messages: VecDeque<(MessageId, Content)>,
    full: bool,
    subscriber: Option<Link>,
    /// The first message is with the subscriber.
    delivered: bool,
    /// Nobody may send any more.
    suspended: bool,
    /// Everything that was ever sent to it.
    kept: Vec<Bytes>,
    /// The data of its short link.
    data: Option<(LinkId, Bytes, Bytes)>,
}

#[derive(Clone)]
enum Content {
    Body(Bytes),
    QuotaReached,
}

/// See the module.
pub struct Relay {
    queues: BTreeMap<SenderId, Queue>,
    names: BTreeMap<RecipientId, SenderId>,
    /// Messages that a queue takes before it refuses.
    pub quota: usize,
    /// What links get, in order.
    pub out: Vec<(Link, Out)>,
}

pub enum Out {
    Answer(Answer),
    Notice(RelayNotice),
}

fn public(secret: &AuthSecret) -> AuthKey {
    secret.public_key()
}

impl Queue {
    fn link_answer(&self, sender: SenderId) -> Answer {
        let Some((_, fixed, user)) = &self.data else {
            return Answer::Refused(Refusal::Auth);
        };
        Answer::Link(Box::new(LinkBytes {
            sender,
            fixed: fixed.to_vec().into(),
            user: user.to_vec().into(),
        }))
    }
}

impl Relay {
    pub fn new(quota: usize) -> Self {
        Self {
            queues: BTreeMap::new(),
            names: BTreeMap::new(),
            quota,
            out: Vec::new(),
        }
    }

    /// A restart of a relay that keeps nothing.
    pub fn forget_everything(&mut self) {
        self.queues.clear();
        self.names.clear();
    }

    /// Queues that were full take messages again.
    pub fn make_room(&mut self) {
        for queue in self.queues.values_mut() {
            queue.full = false;
        }
    }

    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Messages that were ever sent here.
    pub fn kept_count(&self) -> usize {
        self.kept().count()
    }

    /// All that was ever sent to its queues.
    pub fn kept(&self) -> impl Iterator<Item = &Bytes> {
        self.queues.values().flat_map(|queue| &queue.kept)
    }

    /// Every stored sender body can be altered by a hostile relay, to no avail.
    pub fn disconnected(&mut self, link: Link) {
        for queue in self.queues.values_mut() {
            if queue.subscriber == Some(link) {
                queue.subscriber = None;
                queue.delivered = false;
            }
        }
    }

    /// Carries out one command; answers and events go to `out`.
    pub fn handle(&mut self, link: Link, operation: Operation, rng: &mut impl CryptoRng) {
        // The next message is the answer to an acknowledgement.
        let message_first = matches!(operation, Operation::Acknowledge { .. });
        let (answer, deliver) = self.carry_out(link, operation, rng);
        let answer = (link, Out::Answer(answer));
        let place = self.out.len();
        if let Some(sender) = deliver {
            self.deliver(sender, rng);
        }
        if message_first {
            self.out.push(answer);
        } else {
            self.out.insert(place, answer);
        }
    }

    fn carry_out(
        &mut self,
        link: Link,
        operation: Operation,
        rng: &mut impl CryptoRng,
    ) -> (Answer, Option<SenderId>) {
        let refused = (Answer::Refused(Refusal::Auth), None);
        match operation {
            Operation::Create {
                auth,
                delivery_key,
                mode,
                link: new,
            } => {
                let secret = x25519::SecretKey::generate(rng);
                let shared = secret.diffie_hellman(&delivery_key).unwrap();
                let (recipient, mut sender) = (RecipientId::random(rng), SenderId::random(rng));
                let mut data = None;
                if let Some(new) = new {
                    sender = new.correlation.derived_sender_id();
                    let id = new.id.unwrap_or_else(|| LinkId::random(rng));
                    if self.queues.contains_key(&sender) || self.by_link(&id).is_some() {
                        return refused;
                    }
                    data = Some((id, new.parts.fixed, new.parts.user));
                }
                let link_id = data.as_ref().map(|(id, ..)| *id);
                let queue = Queue {
                    recipient,
                    recipient_key: public(&auth),
                    sender_key: None,
                    mode,
                    delivery: BoxKey::from_shared(&shared),
                    messages: VecDeque::new(),
                    full: false,
                    subscriber: Some(link),
                    delivered: false,
                    suspended: false,
                    kept: Vec::new(),
                    data,
                };
                self.queues.insert(sender, queue);
                self.names.insert(recipient, sender);
                let relay_key = secret.public_key();
                (
                    Answer::Created {
                        recipient_id: recipient,
                        sender_id: sender,
                        relay_key,
                        link: link_id,
                    },
                    None,
                )
            }
            Operation::Subscribe { queue, auth } => {
                let Some((name, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                if queue.recipient_key != public(&auth) {
                    return refused;
                }
                let before = queue.subscriber.replace(link);
                queue.delivered = false;
                let recipient = queue.recipient;
                if let Some(before) = before.filter(|before| *before != link) {
                    let ended = RelayNotice::Ended { queue: recipient };
                    self.out.push((before, Out::Notice(ended)));
                }
                (Answer::Done, Some(name))
            }
            Operation::Secure { queue, auth } => {
                let Some(queue) = self.queues.get_mut(&queue) else {
                    return refused;
                };
                let key = public(&auth);
                if queue.mode != QueueMode::Messaging
                    || queue.sender_key.as_ref().is_some_and(|known| *known != key)
                {
                    return refused;
                }
                queue.sender_key = Some(key);
                (Answer::Done, None)
            }
            Operation::Allow { queue, auth, key } => {
                let Some((_, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                if queue.recipient_key != public(&auth)
                    || queue
                        .sender_key
                        .as_ref()
                        .is_some_and(|known| *known != *key)
                {
                    return refused;
                }
                queue.sender_key = Some(*key);
                (Answer::Done, None)
            }
            Operation::ReadLink { link } => {
                let Some((name, queue)) = self.by_link(&link) else {
                    return refused;
                };
                if queue.mode != QueueMode::Contact || queue.suspended {
                    return refused;
                }
                (queue.link_answer(name), None)
            }
            Operation::SecureByLink { link, auth } => {
                let Some((name, queue)) = self.by_link(&link) else {
                    return refused;
                };
                let key = public(&auth);
                if queue.mode != QueueMode::Messaging
                    || queue.sender_key.as_ref().is_some_and(|known| *known != key)
                {
                    return refused;
                }
                queue.sender_key = Some(key);
                (queue.link_answer(name), None)
            }
            Operation::SetLink {
                queue,
                auth,
                link,
                parts,
            } => {
                let LinkParts { fixed, user } = *parts;
                let Some((_, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                let fits =
                    matches!(&queue.data, Some((id, same, _)) if *id == link && *same == fixed);
                if queue.recipient_key != public(&auth) || !fits {
                    return refused;
                }
                queue.data = Some((link, fixed, user));
                (Answer::Done, None)
            }
            Operation::Send {
                queue: name,
                auth,
                body,
            } => {
                assert!(body.len() <= 16_048, "a relay takes no more");
                let quota = self.quota;
                let Some(queue) = self.queues.get_mut(&name) else {
                    return refused;
                };
                if queue.suspended || queue.sender_key != auth.as_deref().map(public) {
                    return refused;
                }
                queue.kept.push(body.clone());
                if queue.mode == QueueMode::Messaging {
                    queue.data = None;
                }
                if queue.full {
                    return (Answer::Refused(Refusal::Quota), None);
                }
                if queue.messages.len() >= quota {
                    queue.full = true;
                    queue
                        .messages
                        .push_back((MessageId::random(rng), Content::QuotaReached));
                    return (Answer::Refused(Refusal::Quota), None);
                }
                queue
                    .messages
                    .push_back((MessageId::random(rng), Content::Body(body)));
                (Answer::Done, Some(name))
            }
            Operation::Acknowledge {
                queue,
                auth,
                message,
            } => {
                let Some((name, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                if queue.recipient_key != public(&auth) {
                    return refused;
                }
                if !queue.delivered || queue.messages.front().is_none_or(|(id, _)| *id != message) {
                    return (Answer::Refused(Refusal::NoMessage), None);
                }
                queue.messages.pop_front();
                queue.delivered = false;
                if queue.messages.is_empty() {
                    queue.full = false;
                }
                (Answer::Done, Some(name))
            }
            Operation::Suspend { queue, auth } => {
                let Some((_, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                if queue.recipient_key != public(&auth) {
                    return refused;
                }
                queue.suspended = true;
                (Answer::Done, None)
            }
            Operation::Delete { queue, auth } => {
                let Some((name, queue)) = self.by_recipient(&queue) else {
                    return refused;
                };
                if queue.recipient_key != public(&auth) {
                    return refused;
                }
                let recipient = queue.recipient;
                self.names.remove(&recipient);
                self.queues.remove(&name);
                (Answer::Done, None)
            }
        }
    }

    fn by_link(&mut self, link: &LinkId) -> Option<(SenderId, &mut Queue)> {
        let mut queues = self.queues.iter_mut();
        let found = queues.find(|(_, queue)| matches!(&queue.data, Some((id, ..)) if id == link));
        found.map(|(name, queue)| (*name, queue))
    }

    /// The data behind every short link, for a relay that lies.
    pub fn link_data(&mut self) -> impl Iterator<Item = &mut (LinkId, Bytes, Bytes)> {
        let queues = self.queues.values_mut();
        queues.filter_map(|queue| queue.data.as_mut())
    }

    fn by_recipient(&mut self, recipient: &RecipientId) -> Option<(SenderId, &mut Queue)> {
        let name = self.names.get(recipient)?;
        self.queues.get_mut(name).map(|queue| (*name, queue))
    }

    /// Gives the first message of a queue to its subscriber, unless it has it.
    fn deliver(&mut self, name: SenderId, _rng: &mut impl CryptoRng) {
        let Some(queue) = self.queues.get_mut(&name) else {
            return;
        };
        let Some(link) = queue.subscriber.filter(|_| !queue.delivered) else {
            return;
        };
        let Some((id, content)) = queue.messages.front() else {
            return;
        };
        queue.delivered = true;
        let mut plain = match content {
            Content::Body(_) => b"\0\0\0\0\0\0\0\x01T ".to_vec(),
            Content::QuotaReached => b"QUOTA \0\0\0\0\0\0\0\x01".to_vec(),
        };
        if let Content::Body(body) = content {
            plain.extend_from_slice(body);
        }
        let mut sealed = Vec::new();
        queue
            .delivery
            .seal_padded(&id.nonce(), &plain, 16_106, &mut sealed)
            .unwrap();
        let sealed = Bytes::from(sealed);
        let notice = RelayNotice::Message {
            queue: queue.recipient,
            message: *id,
            sealed,
        };
        self.out.push((link, Out::Notice(notice)));
    }

    /// Drops the last undelivered message of some queue. `false` if there is none.
    pub fn drop_last(&mut self) -> bool {
        for queue in self.queues.values_mut() {
            let undelivered = queue.messages.len() > usize::from(queue.delivered);
            if undelivered && matches!(queue.messages.back(), Some((_, Content::Body(_)))) {
                queue.messages.pop_back();
                return true;
            }
        }
        false
    }

    /// Drops every second undelivered message.
    pub fn drop_every_second(&mut self) {
        for queue in self.queues.values_mut() {
            let mut place = usize::from(queue.delivered);
            while place < queue.messages.len() {
                queue.messages.remove(place);
                place += 1;
            }
        }
    }

    /// Turns the order of undelivered messages round.
    pub fn reverse_all(&mut self) {
        for queue in self.queues.values_mut() {
            let skip = usize::from(queue.delivered);
            queue.messages.make_contiguous()[skip..].reverse();
        }
    }

    /// Takes the last undelivered message of some queue away, to bring it back later.
    pub fn keep_back(&mut self) -> Option<(SenderId, Bytes)> {
        self.queues.iter_mut().find_map(|(name, queue)| {
            let undelivered = queue.messages.len() > usize::from(queue.delivered);
            match queue
                .messages
                .pop_back_if(|(_, content)| undelivered && matches!(content, Content::Body(_)))?
            {
                (_, Content::Body(body)) => Some((*name, body)),
                (_, Content::QuotaReached) => None,
            }
        })
    }

    /// Puts a message at the end of its queue again. `false` if the queue is elsewhere.
    pub fn bring_back(
        &mut self,
        (name, body): &(SenderId, Bytes),
        rng: &mut impl CryptoRng,
    ) -> bool {
        let Some(queue) = self.queues.get_mut(name) else {
            return false;
        };
        let id = MessageId::random(rng);
        queue.messages.push_back((id, Content::Body(body.clone())));
        true
    }

    /// Delivers every undelivered message twice.
    pub fn duplicate_all(&mut self, rng: &mut impl CryptoRng) {
        for queue in self.queues.values_mut() {
            let skip = usize::from(queue.delivered);
            let mut doubled: VecDeque<_> = queue.messages.drain(..skip).collect();
            for (id, content) in queue.messages.drain(..) {
                doubled.push_back((id, content.clone()));
                doubled.push_back((MessageId::random(rng), content));
            }
            queue.messages = doubled;
        }
    }

    /// Delivers the first messages of every queue's life again.
    pub fn repeat_first(&mut self, count: usize, rng: &mut impl CryptoRng) {
        for queue in self.queues.values_mut() {
            for body in queue.kept.iter().take(count) {
                let content = Content::Body(body.clone());
                queue.messages.push_back((MessageId::random(rng), content));
            }
        }
        let names: Vec<_> = self.queues.keys().copied().collect();
        for name in names {
            self.deliver(name, rng);
        }
    }

    /// Flips a bit in every undelivered message.
    pub fn tamper_all(&mut self, at: usize) {
        for queue in self.queues.values_mut() {
            let skip = usize::from(queue.delivered);
            for (_, content) in queue.messages.iter_mut().skip(skip) {
                if let Content::Body(body) = content {
                    let mut bytes = body.to_vec();
                    let len = bytes.len();
                    bytes[at % len] ^= 1;
                    *content = Content::Body(bytes.into());
                }
            }
        }
    }
}
