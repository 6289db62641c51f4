//! A queue: the state machine between senders and one recipient (reference §4).
//!
//! Pure: time, randomness and the number of the commanding connection come in, an [`Outcome`]
//! comes out. The relay looks a queue up by the id in the request, takes the
//! [`Credential`] it demands, verifies (possibly outside of its lock), and hands the
//! [`crate::server::Authorised`] command to [`Queue::handle`].
//!
//! # Rules
//! - One message at a time is delivered to a subscription; the next follows its `ACK`.
//! - [`Limits::messages`] messages, then `QUOTA`, and a marker that tells the recipient; senders
//!   may go on when everything has been taken.
//! - The last connection to `SUB` is the subscriber; the one before gets `END`.
//! - `GET` and `SUB` exclude each other in a connection.
//! - Setting the sender's key again is fine with the same key and `AUTH` with another one.
//! - After `OFF` senders and readers of the link see `AUTH`, as if the queue did not exist.
//! - The link data of a one-time queue goes with the first `SEND` after it was secured.
//! - A blocked queue can be switched off and deleted; everything else is answered by `BLOCKED`.
//! - A queue of a service is read by whichever connection reads for the service
//!   ([`Queue::follow_services`]). `NEW` and `SUB` of a service make it one; `SUB` of anybody else
//!   ends that. The same holds for its notifier and `NSUB`.
//! - A queue remembers the day of its last use until it has its sender's key, so that those that
//!   nobody uses can be found ([`Queue::is_unused`]).
//!
//! # Memory
//! An empty queue without subscriber is [`core::mem::size_of::<Queue>`] (below 640 bytes, tested)
//! and one shared allocation of 80 bytes. The ring gives its memory back when it drains.

mod create;
mod handle;
mod info;
mod link;
mod message;
mod notifier;
mod outcome;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

pub use info::{INFO_BYTES_MAX, QueueInfo};
pub use link::{Link, LinkCopy};
pub use message::{Content, Delivery, Message};
pub use notifier::{
    Alert, NOTIFICATION_SECONDS, Notifier, NotifierEvent, NotifierNews, NotifierParts,
};
pub use outcome::{Answer, Change, Context, Event, FormerNotifier, Outcome};

use crate::{
    blocking::Blocking,
    command::{Command, QueueMode},
    id::{MessageId, RecipientId, SenderId},
    key::AuthKey,
    message::{DeliveryKey, Timestamp},
    service::Service,
};

/// Keys that may authorise the recipient of one contact queue: 16 owners. Whoever commands with a
/// wrong key costs one verification for each.
pub const RECIPIENT_KEYS_MAX: usize = 16;

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
    /// Days without use after which a queue that was never secured is dropped. Absent: never.
    pub unused_days: Option<u32>,
}

impl Default for Limits {
    /// 128 messages, 21 days, and queues are kept: as the reference server.
    fn default() -> Self {
        Self {
            messages: 128,
            retention_seconds: 21 * 24 * 60 * 60,
            unused_days: None,
        }
    }
}

/// What a command must be authorised with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// With this key.
    Key(AuthKey),
    /// With any of these.
    AnyOf(Arc<[AuthKey]>),
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
            Command::Ping
            | Command::Resolve(_)
            | Command::Proxy(_)
            | Command::ProxyForward(_)
            | Command::RelayForward(_) => Self::Open,
            _ => Self::Nobody,
        }
    }
}

/// A day in UTC, counted from 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub u32);

impl Day {
    const SECONDS: u64 = 24 * 60 * 60;

    /// The day of a time.
    #[must_use]
    pub fn of(time: Timestamp) -> Self {
        Self(u32::try_from(time.0 / Self::SECONDS).unwrap_or(u32::MAX))
    }
}

/// A subscription, or a connection that uses `GET`.
#[derive(Clone, Copy, Debug)]
struct Reader {
    connection: ConnectionId,
    /// Delivered and not acknowledged.
    delivered: Option<MessageId>,
}

/// Who may command as the recipient: nearly always one key.
enum RecipientKeys {
    One(AuthKey),
    Several(Arc<[AuthKey]>),
}

impl RecipientKeys {
    fn as_slice(&self) -> &[AuthKey] {
        match self {
            Self::One(key) => core::slice::from_ref(key),
            Self::Several(keys) => keys,
        }
    }

    fn credential(&self) -> Credential {
        match self {
            Self::One(key) => Credential::Key(key.clone()),
            Self::Several(keys) => Credential::AnyOf(Arc::clone(keys)),
        }
    }
}

/// What every queue has and a restart must not lose. The rest is restored by the methods named
/// `restore_…`.
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
    recipient_keys: RecipientKeys,
    sender_key: Option<AuthKey>,
    delivery_key: Arc<DeliveryKey>,
    /// The day of its last use, as far as that matters.
    used: Option<Day>,
    suspended: bool,
    blocking: Option<Blocking>,
    link: Option<Box<Link<B>>>,
    notifier: Option<Box<Notifier>>,
    messages: VecDeque<Message<B>>,
    subscriber: Option<Reader>,
    /// The last connection that used `GET`. Only one is remembered: an earlier one can `GET` again.
    getter: Option<Reader>,
    /// The service that it is one of.
    service: Option<Arc<Service>>,
}

impl<B> Queue<B> {
    /// A stored queue, without messages and subscribers.
    #[must_use]
    pub fn restore(parts: QueueParts) -> Self {
        Self {
            recipient: parts.recipient,
            sender: parts.sender,
            mode: parts.mode,
            recipient_keys: RecipientKeys::One(parts.recipient_key),
            sender_key: parts.sender_key,
            delivery_key: Arc::new(parts.delivery_key),
            used: None,
            suspended: parts.suspended,
            blocking: None,
            link: None,
            notifier: None,
            messages: VecDeque::new(),
            subscriber: None,
            getter: None,
            service: None,
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

    /// Sets the keys of the recipient. For replaying a log only, as the following.
    pub fn restore_recipient_keys(&mut self, keys: &[AuthKey]) {
        match keys {
            [] => {}
            [key] => self.recipient_keys = RecipientKeys::One(key.clone()),
            keys => self.recipient_keys = RecipientKeys::Several(keys.into()),
        }
    }

    /// Sets the sender's key.
    pub fn restore_sender_key(&mut self, key: AuthKey) {
        self.sender_key = Some(key);
    }

    /// Switches it off.
    pub fn restore_suspension(&mut self) {
        self.suspended = true;
    }

    /// Sets or removes the link data.
    pub fn restore_link(&mut self, link: Option<Link<B>>) {
        self.link = link.map(Box::new);
    }

    /// Sets or removes the notifier.
    pub fn restore_notifier(&mut self, parts: Option<NotifierParts>) {
        self.notifier = parts.map(|parts| Box::new(Notifier::new(parts, None)));
    }

    /// Makes it one of a service's queues, or of none.
    pub fn restore_service(&mut self, service: Option<Arc<Service>>) {
        self.service = service;
    }

    /// The same for its notifier, if it has one.
    pub fn restore_notifier_service(&mut self, service: Option<Arc<Service>>) {
        if let Some(notifier) = &mut self.notifier {
            notifier.service = service;
        }
    }

    /// Sets the day of its last use.
    pub fn restore_use(&mut self, day: Day) {
        self.used = Some(day);
    }

    /// Blocks or unblocks it, as the operator wishes; also when restoring.
    pub fn set_blocking(&mut self, blocking: Option<Blocking>) -> Option<Change> {
        let before = core::mem::replace(&mut self.blocking, blocking);
        (before != blocking).then_some(Change::Blocking)
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

    /// Each of them authorises the recipient. Never empty.
    #[must_use]
    pub fn recipient_keys(&self) -> &[AuthKey] {
        self.recipient_keys.as_slice()
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

    /// The day of its last use; unknown for old queues, and of no interest for secured ones.
    #[must_use]
    pub fn used(&self) -> Option<Day> {
        self.used.filter(|_| self.sender_key.is_none())
    }

    /// It is used at `now`. Gives a change on the first use of a day, as long as that matters.
    pub fn touch(&mut self, now: Timestamp) -> Option<Change> {
        let today = Day::of(now);
        if self.sender_key.is_some() || self.used >= Some(today) {
            return None;
        }
        self.used = Some(today);
        Some(Change::Used)
    }

    /// Whether a connection reads it.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.subscriber.is_some() || self.getter.is_some()
    }

    /// Whether nobody has used it for so long that it can go: it was never secured, nothing waits in
    /// it, nobody listens, and its last use is known and longer ago than `limits` allow. A blocked
    /// queue stays: it keeps its link from coming back.
    #[must_use]
    pub fn is_unused(&self, now: Timestamp, limits: &Limits) -> bool {
        let notifying = self.notifier.as_ref().and_then(|n| n.subscriber);
        let idle = self.sender_key.is_none()
            && self.messages.is_empty()
            && self.blocking.is_none()
            && !self.is_read()
            && notifying.is_none();
        let days = limits.unused_days.zip(self.used());
        idle && days.is_some_and(|(allowed, used)| Day::of(now).0 > used.0.saturating_add(allowed))
    }

    /// Whether the recipient has switched it off.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Why and how the operator has blocked it.
    #[must_use]
    pub fn blocking(&self) -> Option<Blocking> {
        self.blocking
    }

    /// The data behind its short link.
    #[must_use]
    pub fn link(&self) -> Option<&Link<B>> {
        self.link.as_deref()
    }

    /// Who is told of messages.
    #[must_use]
    pub fn notifier(&self) -> Option<&Notifier> {
        self.notifier.as_deref()
    }

    /// The service that it is one of.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// Lets it, and its notifier, be read by the connections that now read for their services, as
    /// far as they have one. The relay knows them; to be called before [`Queue::handle`], under the
    /// same lock.
    pub fn follow_services(&mut self, queue: Option<ConnectionId>, notifier: Option<ConnectionId>) {
        if self.service.is_some() {
            let takes_itself = |connection: &ConnectionId| {
                self.getter.is_some_and(|r| r.connection == *connection)
            };
            let reader = queue.filter(|connection| !takes_itself(connection));
            if self.subscriber() != reader {
                self.subscriber = reader.map(|connection| Reader {
                    connection,
                    delivered: None,
                });
            }
        }
        if let Some(own) = &mut self.notifier
            && own.service.is_some()
            && own.subscriber != notifier
        {
            own.leave();
            own.subscriber = notifier;
        }
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

    /// Whether `connection` hears of this queue, as subscriber or as notification server.
    #[must_use]
    pub fn tells(&self, connection: ConnectionId) -> bool {
        let notifier = self.notifier.as_ref().and_then(|n| n.subscriber);
        [self.subscriber(), notifier].contains(&Some(connection))
    }

    /// What `command`, about this queue, must be authorised with.
    #[must_use]
    pub fn credential(&self, command: &Command<'_>) -> Credential {
        match command {
            // Senders and readers of the link cannot tell a queue that is off from none at all.
            Command::SenderKey(_)
            | Command::LinkKey(_)
            | Command::ReadLink
            | Command::Send { .. }
                if self.suspended =>
            {
                Credential::Nobody
            }
            Command::SenderKey(key) | Command::LinkKey(key) => {
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
            Command::ReadLink if self.is_contact() => Credential::Open,
            Command::NotifierSub => match &self.notifier {
                Some(notifier) => Credential::Key(notifier.auth_key().clone()),
                None => Credential::Nobody,
            },
            Command::Sub
            | Command::Key(_)
            | Command::Ack(_)
            | Command::Get
            | Command::Off
            | Command::Delete
            | Command::Info
            | Command::RecipientKeys(_)
            | Command::SetLink { .. }
            | Command::DeleteLink
            | Command::SetNotifier { .. }
            | Command::DeleteNotifier => self.recipient_keys.credential(),
            Command::ReadLink
            | Command::New(_)
            | Command::ServiceSub(_)
            | Command::NotifierServiceSub(_)
            | Command::Resolve(_)
            | Command::Ping
            | Command::Proxy(_)
            | Command::ProxyForward(_)
            | Command::RelayForward(_) => Credential::Nobody,
        }
    }

    /// Whether anybody may read the link: contact queues, also those from before modes.
    fn is_contact(&self) -> bool {
        match self.mode {
            Some(mode) => mode == QueueMode::Contact,
            None => self.sender_key.is_none(),
        }
    }

    /// Whether it has its one sender.
    fn is_secured_for_one(&self) -> bool {
        self.mode != Some(QueueMode::Contact) && self.sender_key.is_some()
    }

    /// Forgets subscriptions of a connection that is gone.
    pub fn disconnect(&mut self, connection: ConnectionId) {
        for reader in [&mut self.subscriber, &mut self.getter] {
            if reader.is_some_and(|reader| reader.connection == connection) {
                *reader = None;
            }
        }
        if let Some(notifier) = &mut self.notifier
            && notifier.subscriber == Some(connection)
        {
            notifier.leave();
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
