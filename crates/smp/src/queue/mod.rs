//! A queue: the state machine between senders and one recipient (reference §4).
//!
//! Pure: time, randomness and the number of the commanding connection come in, an [`Outcome`]
//! comes out. The relay looks a queue up by the id in the request, takes the
//! [`Credential`] it demands, verifies (possibly outside of its lock), and hands the
//! [`Authorised`] command to [`Queue::handle`].
//!
//! # Rules
//! - One message at a time is delivered to a subscription; the next follows its `ACK`.
//! - [`Limits::messages`] messages, then `QUOTA`, and a marker that tells the recipient; senders
//!   may go on when everything has been taken.
//! - The last connection to `SUB` is the subscriber; the one before gets `END`.
//! - `GET` and `SUB` exclude each other in a connection.
//! - Setting the sender's key again is fine with the same key and `AUTH` with another one.
//! - After `OFF` senders see `AUTH`, as if the queue did not exist.
//!
//! # Memory
//! An empty queue without subscriber is [`core::mem::size_of::<Queue>`] (below 640 bytes, tested)
//! and one shared allocation of 80 bytes. The ring gives its memory back when it drains.

mod info;
mod message;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use junto_crypto::{CryptoRng, x25519};

pub use info::{INFO_BYTES_MAX, QueueInfo};
pub use message::{Content, Delivery, Message};

use crate::{
    command::{Command, NewQueue, QueueMode},
    error::ErrorCode,
    id::{MessageId, RecipientId, SenderId},
    key::AuthKey,
    message::{BODY_BYTES_MAX, DeliveryKey, MessageFlags, Timestamp},
    response::QueueIds,
    server::Authorised,
};

/// Slots that an idle ring keeps, so that one message at a time needs no allocation.
const IDLE_SLOTS: usize = 4;

/// A connection to the relay, numbered by the relay and never reused while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Limits of every queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that wait in a queue, markers not counted. At 16 KiB each, 128 are 2 MiB.
    pub messages: usize,
    /// Seconds after which a waiting message is dropped.
    pub retention_seconds: u64,
}

impl Default for Limits {
    /// 128 messages, 21 days: as the reference server.
    fn default() -> Self {
        Self {
            messages: 128,
            retention_seconds: 21 * 24 * 60 * 60,
        }
    }
}

/// What a command must be authorised with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// With this key.
    Key(AuthKey),
    /// Without any: the first messages to a queue that is not secured yet.
    Open,
    /// Nothing will do, and finding that out must take as long as a wrong key does: the queue does
    /// not exist, or forbids this command.
    Nobody,
}

impl Credential {
    /// For commands that name no queue.
    #[must_use]
    pub fn without_queue(command: &Command<'_>) -> Self {
        match command {
            Command::New(new) => Self::Key(new.auth_key.clone()),
            Command::Ping => Self::Open,
            _ => Self::Nobody,
        }
    }
}

/// A subscription, or a connection that uses `GET`.
#[derive(Clone, Copy, Debug)]
struct Reader {
    connection: ConnectionId,
    /// Delivered and not acknowledged.
    delivered: Option<MessageId>,
}

/// Everything of a queue that outlives a restart, except its messages.
pub struct QueueParts {
    /// Names it to the recipient.
    pub recipient: RecipientId,
    /// Names it to the sender.
    pub sender: SenderId,
    /// What it is for.
    pub mode: Option<QueueMode>,
    /// Authorises the recipient.
    pub recipient_key: AuthKey,
    /// Authorises the sender, once secured.
    pub sender_key: Option<AuthKey>,
    /// Encrypts deliveries.
    pub delivery_key: DeliveryKey,
    /// Switched off by the recipient.
    pub suspended: bool,
}

/// One queue. `B` holds a message body; the relay chooses where bodies live.
pub struct Queue<B = Bytes> {
    recipient: RecipientId,
    sender: SenderId,
    mode: Option<QueueMode>,
    recipient_key: AuthKey,
    sender_key: Option<AuthKey>,
    delivery_key: Arc<DeliveryKey>,
    suspended: bool,
    messages: VecDeque<Message<B>>,
    subscriber: Option<Reader>,
    /// The last connection that used `GET`. Only one is remembered: an earlier one can `GET` again.
    getter: Option<Reader>,
}

/// Who commands, when, and under which limits.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The connection that the command came from.
    pub connection: ConnectionId,
    /// The time.
    pub now: Timestamp,
    /// The limits.
    pub limits: Limits,
}

/// What the relay must do after a command, in this order: make `change` durable, answer, then
/// `then` on the same connection, then tell `notify`.
#[derive(Debug)]
#[must_use]
pub struct Outcome<B> {
    /// The answer to the commanding connection.
    pub answer: Answer<B>,
    /// A message to the commanding connection, as event behind the answer: after `SUB`.
    pub then: Option<Delivery<B>>,
    /// Another connection to tell (it may be the same one, if it sends to its own queue).
    pub notify: Option<(ConnectionId, Event<B>)>,
    /// What to store.
    pub change: Option<Change>,
    /// Messages dropped from the front because of their age, before the change.
    pub expired: usize,
}

/// The answer to a command.
#[derive(Debug)]
pub enum Answer<B> {
    /// `OK`.
    Ok,
    /// `SOK`.
    Subscribed,
    /// `MSG`.
    Message(Delivery<B>),
    /// `INFO`.
    Info(QueueInfo),
    /// `ERR`.
    Error(ErrorCode),
}

/// News for another connection.
#[derive(Debug)]
pub enum Event<B> {
    /// `MSG`.
    Message(Delivery<B>),
    /// `END`: somebody else has subscribed.
    End,
    /// `DELD`: the queue is gone.
    Deleted,
}

/// A change of durable state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// [`Queue::sender_key`] was set.
    Secured,
    /// The queue was switched off.
    Suspended,
    /// The relay must forget the queue.
    Deleted,
    /// A message (or marker) was added: the last of [`Queue::messages`].
    Stored(MessageId),
    /// The first message was acknowledged and removed.
    Removed(MessageId),
}

impl<B> Queue<B> {
    /// Makes the queue that an authorised `NEW` asks for, with random ids. Link data and notifier
    /// credentials are for a later version: see [`NewQueue::has_link_data`]; the notifier is left
    /// out, which clients accept.
    ///
    /// # Errors
    /// The code to answer with: `CMD PROHIBITED` for link data or another command, `CRYPTO` for a
    /// weak key.
    pub fn create(
        command: &Authorised<'_>,
        context: &Context,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, QueueIds), ErrorCode> {
        match command.command() {
            Command::New(new) if !new.has_link_data() => Self::create_from(new, context, rng),
            _ => Err(ErrorCode::PROHIBITED),
        }
    }

    fn create_from(
        new: &NewQueue<'_>,
        context: &Context,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, QueueIds), ErrorCode> {
        let secret = x25519::SecretKey::generate(rng);
        let shared = secret
            .diffie_hellman(&new.dh_key)
            .map_err(|_| ErrorCode::Crypto)?;
        let mut queue = Self::restore(QueueParts {
            recipient: RecipientId::random(rng),
            sender: SenderId::random(rng),
            mode: new.queue_mode(),
            recipient_key: new.auth_key.clone(),
            sender_key: None,
            delivery_key: DeliveryKey::new(&shared),
            suspended: false,
        });
        queue.subscriber = new.subscribe.then_some(Reader {
            connection: context.connection,
            delivered: None,
        });
        let ids = QueueIds {
            recipient: queue.recipient,
            sender: queue.sender,
            server_dh_key: secret.public_key(),
            mode: queue.mode,
            link: None,
            service: None,
            notifier: None,
        };
        Ok((queue, ids))
    }

    /// A stored queue, without messages and subscribers.
    #[must_use]
    pub fn restore(parts: QueueParts) -> Self {
        Self {
            recipient: parts.recipient,
            sender: parts.sender,
            mode: parts.mode,
            recipient_key: parts.recipient_key,
            sender_key: parts.sender_key,
            delivery_key: Arc::new(parts.delivery_key),
            suspended: parts.suspended,
            messages: VecDeque::new(),
            subscriber: None,
            getter: None,
        }
    }

    /// Adds a stored message behind the others. For restoring only: nothing is checked.
    pub fn restore_message(&mut self, message: Message<B>) {
        self.messages.push_back(message);
    }

    /// Removes a message by id, wherever it is. For replaying a log only.
    pub fn restore_removal(&mut self, id: &MessageId) -> bool {
        let position = self.messages.iter().position(|message| message.id == *id);
        position.is_some_and(|position| self.messages.remove(position).is_some())
    }

    /// Names it to the recipient.
    #[must_use]
    pub fn recipient(&self) -> RecipientId {
        self.recipient
    }

    /// Names it to the sender.
    #[must_use]
    pub fn sender(&self) -> SenderId {
        self.sender
    }

    /// What it is for.
    #[must_use]
    pub fn mode(&self) -> Option<QueueMode> {
        self.mode
    }

    /// Authorises the recipient.
    #[must_use]
    pub fn recipient_key(&self) -> &AuthKey {
        &self.recipient_key
    }

    /// Authorises the sender, once secured.
    #[must_use]
    pub fn sender_key(&self) -> Option<&AuthKey> {
        self.sender_key.as_ref()
    }

    /// Encrypts deliveries.
    #[must_use]
    pub fn delivery_key(&self) -> &DeliveryKey {
        &self.delivery_key
    }

    /// Whether the recipient has switched it off.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The waiting messages and markers, oldest first.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message<B>> + ExactSizeIterator {
        self.messages.iter()
    }

    /// The connection that messages are delivered to.
    #[must_use]
    pub fn subscriber(&self) -> Option<ConnectionId> {
        self.subscriber.map(|reader| reader.connection)
    }

    /// What `command`, about this queue, must be authorised with.
    #[must_use]
    pub fn credential(&self, command: &Command<'_>) -> Credential {
        match command {
            Command::SenderKey(key) => {
                let free = self.sender_key.as_ref().is_none_or(|set| set == key);
                if self.mode == Some(QueueMode::Messaging) && free {
                    Credential::Key(key.clone())
                } else {
                    Credential::Nobody
                }
            }
            Command::Send { .. } => match &self.sender_key {
                Some(key) => Credential::Key(key.clone()),
                None => Credential::Open,
            },
            Command::Sub
            | Command::Key(_)
            | Command::Ack(_)
            | Command::Get
            | Command::Off
            | Command::Delete
            | Command::Info => Credential::Key(self.recipient_key.clone()),
            Command::New(_) | Command::Ping => Credential::Nobody,
        }
    }

    /// Forgets subscriptions of a connection that is gone.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        for reader in [&mut self.subscriber, &mut self.getter] {
            if reader.is_some_and(|reader| reader.connection == connection) {
                *reader = None;
            }
        }
    }

    /// Drops messages that are older than the limit and returns how many: always from the front.
    pub fn expire(&mut self, now: Timestamp, limits: &Limits) -> usize {
        let oldest = now.minus_seconds(limits.retention_seconds);
        let expired = self
            .messages
            .iter()
            .take_while(|message| message.time < oldest)
            .count();
        self.messages.drain(..expired);
        self.release_memory();
        expired
    }

    fn release_memory(&mut self) {
        if self.messages.is_empty() && self.messages.capacity() > IDLE_SLOTS {
            self.messages.shrink_to(IDLE_SLOTS);
        }
    }

    /// Whether senders are refused until everything has been taken: exactly as long as the marker
    /// is the last entry.
    fn is_full(&self) -> bool {
        self.messages
            .back()
            .is_some_and(|message| matches!(message.content, Content::QuotaReached))
    }
}

impl<B: Clone + AsRef<[u8]>> Queue<B> {
    /// Carries out an authorised command. `keep` stores the body of an accepted `SEND`.
    ///
    /// The caller has looked this queue up by the command's entity and checked the credential it
    /// demanded; state that may have changed since is checked again here.
    pub fn handle(
        &mut self,
        command: &Authorised<'_>,
        context: &Context,
        rng: &mut impl CryptoRng,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Outcome<B> {
        match command.command() {
            Command::Sub => self.subscribe(context),
            Command::Get => self.take_one(context),
            Command::Ack(id) => self.acknowledge(*id, context),
            Command::Key(key) => self.secure(key),
            Command::SenderKey(_) if self.suspended => Outcome::error(ErrorCode::Auth),
            Command::SenderKey(key) => self.secure(key),
            Command::Send { .. } if self.suspended => Outcome::error(ErrorCode::Auth),
            Command::Send { .. } if command.is_open() && self.sender_key.is_some() => {
                Outcome::error(ErrorCode::Auth)
            }
            Command::Send { flags, body } => self.send(*flags, body, context, rng, keep),
            Command::Off => {
                let change = (!self.suspended).then_some(Change::Suspended);
                self.suspended = true;
                Outcome::ok(change)
            }
            Command::Delete => self.delete(context),
            Command::Info => Outcome::answer(Answer::Info(self.info(context))),
            Command::New(_) | Command::Ping => Outcome::error(ErrorCode::PROHIBITED),
        }
    }

    fn subscribe(&mut self, context: &Context) -> Outcome<B> {
        let connection = context.connection;
        if self.getter.is_some_and(|r| r.connection == connection) {
            return Outcome::error(ErrorCode::PROHIBITED);
        }
        let before = self.subscriber.replace(Reader {
            connection,
            delivered: None,
        });
        Outcome {
            then: self.deliver_next(),
            notify: before
                .filter(|reader| reader.connection != connection)
                .map(|reader| (reader.connection, Event::End)),
            ..Outcome::answer(Answer::Subscribed)
        }
    }

    fn take_one(&mut self, context: &Context) -> Outcome<B> {
        let connection = context.connection;
        if self.subscriber.is_some_and(|r| r.connection == connection) {
            return Outcome::error(ErrorCode::PROHIBITED);
        }
        let delivery = self.delivery();
        self.getter = Some(Reader {
            connection,
            delivered: delivery.as_ref().map(|delivery| delivery.message.id),
        });
        Outcome::answer(delivery.map_or(Answer::Ok, Answer::Message))
    }

    fn acknowledge(&mut self, id: Option<MessageId>, context: &Context) -> Outcome<B> {
        let of_connection = |reader: &&mut Reader| reader.connection == context.connection;
        let (reader, subscribed) = if let Some(r) = self.subscriber.as_mut().filter(of_connection) {
            (r, true)
        } else if let Some(r) = self.getter.as_mut().filter(of_connection) {
            (r, false)
        } else {
            return Outcome::error(ErrorCode::NoMessage);
        };
        let Some(delivered) = reader
            .delivered
            .filter(|delivered| id.is_none_or(|id| id == *delivered))
        else {
            return Outcome::error(ErrorCode::NoMessage);
        };
        reader.delivered = None;
        // It is gone if it has expired, or was taken through the other way of reading.
        let first = self.messages.front().map(|message| message.id);
        let removed = first == Some(delivered) && self.messages.pop_front().is_some();
        self.release_memory();
        let next = if subscribed {
            self.deliver_next()
        } else {
            None
        };
        Outcome {
            answer: next.map_or(Answer::Ok, Answer::Message),
            ..Outcome::ok(removed.then_some(Change::Removed(delivered)))
        }
    }

    fn secure(&mut self, key: &AuthKey) -> Outcome<B> {
        match &self.sender_key {
            Some(set) if set == key => Outcome::ok(None),
            Some(_) => Outcome::error(ErrorCode::Auth),
            None => {
                self.sender_key = Some(key.clone());
                Outcome::ok(Some(Change::Secured))
            }
        }
    }

    fn send(
        &mut self,
        flags: MessageFlags,
        body: &[u8],
        context: &Context,
        rng: &mut impl CryptoRng,
        keep: impl FnOnce(&[u8]) -> B,
    ) -> Outcome<B> {
        if body.len() > BODY_BYTES_MAX {
            return Outcome::error(ErrorCode::LargeMessage);
        }
        let expired = self.expire(context.now, &context.limits);
        if self.is_full() {
            return Outcome {
                expired,
                ..Outcome::error(ErrorCode::Quota)
            };
        }
        let full = self.messages.len() >= context.limits.messages;
        let id = MessageId::random(rng);
        self.messages.push_back(Message {
            id,
            time: context.now,
            content: if full {
                Content::QuotaReached
            } else {
                let body = keep(body);
                Content::Body { flags, body }
            },
        });
        let answer = if full {
            Answer::Error(ErrorCode::Quota)
        } else {
            Answer::Ok
        };
        Outcome {
            notify: self
                .subscriber()
                .zip(self.deliver_next())
                .map(|(connection, delivery)| (connection, Event::Message(delivery))),
            change: Some(Change::Stored(id)),
            expired,
            ..Outcome::answer(answer)
        }
    }

    fn delete(&mut self, context: &Context) -> Outcome<B> {
        let subscriber = self.subscriber.take();
        self.getter = None;
        self.suspended = true;
        self.messages = VecDeque::new();
        Outcome {
            notify: subscriber
                .filter(|reader| reader.connection != context.connection)
                .map(|reader| (reader.connection, Event::Deleted)),
            ..Outcome::ok(Some(Change::Deleted))
        }
    }

    fn info(&self, context: &Context) -> QueueInfo {
        let mine = |reader: &Reader| reader.connection == context.connection;
        let subscribed = self.subscriber.filter(mine);
        let reader = subscribed.or(self.getter.filter(mine));
        QueueInfo {
            secured: self.sender_key.is_some(),
            reader: reader.map(|reader| (subscribed.is_some(), reader.delivered)),
            size: self.messages.len(),
            first: self.messages.front().map(|message| {
                let quota = matches!(message.content, Content::QuotaReached);
                (message.id, message.time, quota)
            }),
        }
    }

    /// The first message, if any.
    fn delivery(&self) -> Option<Delivery<B>> {
        self.messages.front().map(|message| Delivery {
            queue: self.recipient,
            key: Arc::clone(&self.delivery_key),
            message: message.clone(),
        })
    }

    /// The first message for the subscriber, unless one is still to be acknowledged.
    fn deliver_next(&mut self) -> Option<Delivery<B>> {
        self.subscriber
            .filter(|reader| reader.delivered.is_none())?;
        let delivery = self.delivery()?;
        if let Some(reader) = &mut self.subscriber {
            reader.delivered = Some(delivery.message.id);
        }
        Some(delivery)
    }
}

impl<B> Outcome<B> {
    fn answer(answer: Answer<B>) -> Self {
        Self {
            answer,
            then: None,
            notify: None,
            change: None,
            expired: 0,
        }
    }

    fn ok(change: Option<Change>) -> Self {
        Self {
            change,
            ..Self::answer(Answer::Ok)
        }
    }

    fn error(code: ErrorCode) -> Self {
        Self::answer(Answer::Error(code))
    }
}
