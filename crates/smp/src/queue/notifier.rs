//! Notifications of a queue.
//!
//! Nothing is stored for them: what a notification server has not heard of yet is computed from
//! the messages that still wait. One notification of a queue is under way at a time; when its
//! subscriber has taken it ([`Queue::notified`]), the next follows. So a server that is told of very
//! many messages gets them as fast as it reads, and they take no room meanwhile. A message that its recipient has taken needs no notification, one
//! older than [`NOTIFICATION_SECONDS`] gets none, and after a restart those that wait are told
//! again (`docs/decisions/0006-notifications-are-not-stored.md`).

use core::fmt;
use std::sync::Arc;

use junto_crypto::{CryptoRng, x25519};

use super::{ConnectionId, Content, FormerNotifier, Message, Queue};
use crate::{
    encoding::Writer,
    error::ErrorCode,
    id::{MessageId, NotifierId},
    key::AuthKey,
    message::Timestamp,
    notification::{Notification, NotificationKey, NotificationNonce},
    response::NotifierIds,
    service::Service,
};

/// Seconds after which a message is no longer worth a notification: 24 hours.
pub const NOTIFICATION_SECONDS: u64 = 24 * 60 * 60;

/// Everything of a queue's notifier that outlives a restart.
pub struct NotifierParts {
    /// Names the queue to the notification server.
    pub id: NotifierId,
    /// Authorises the notification server.
    pub auth_key: AuthKey,
    /// Encrypts notifications to the recipient.
    pub key: NotificationKey,
}

impl NotifierParts {
    /// New credentials from what the recipient sent, and what the recipient must know of them.
    ///
    /// # Errors
    /// `CRYPTO` for a weak key.
    pub(super) fn create(
        auth_key: &AuthKey,
        dh_key: &x25519::PublicKey,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, NotifierIds), ErrorCode> {
        let secret = x25519::SecretKey::generate(rng);
        let shared = secret
            .diffie_hellman(dh_key)
            .map_err(|_| ErrorCode::Crypto)?;
        let id = NotifierId::random(rng);
        let parts = Self {
            id,
            auth_key: auth_key.clone(),
            key: NotificationKey::new(&shared),
        };
        let server_dh_key = secret.public_key();
        Ok((parts, NotifierIds { id, server_dh_key }))
    }
}

/// The notifier of one queue.
pub struct Notifier {
    id: NotifierId,
    auth_key: AuthKey,
    key: Arc<NotificationKey>,
    pub(super) subscriber: Option<ConnectionId>,
    /// The last message that the notification server was told of, or need not be.
    told: Option<MessageId>,
    /// The message whose notification the subscriber was given and has not taken.
    under_way: Option<MessageId>,
    /// The service that is told.
    pub(super) service: Option<Arc<Service>>,
}

impl Notifier {
    pub(super) fn new(parts: NotifierParts, told: Option<MessageId>) -> Self {
        Self {
            id: parts.id,
            auth_key: parts.auth_key,
            key: Arc::new(parts.key),
            subscriber: None,
            told,
            under_way: None,
            service: None,
        }
    }

    /// Names the queue to the notification server.
    #[must_use]
    pub fn id(&self) -> NotifierId {
        self.id
    }

    /// The service that is told.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// Authorises the notification server.
    #[must_use]
    pub fn auth_key(&self) -> &AuthKey {
        &self.auth_key
    }

    /// Encrypts notifications.
    #[must_use]
    pub fn key(&self) -> &NotificationKey {
        &self.key
    }

    /// Whether `message` is worth a notification: its sender asked for one and it is not too old.
    fn is_worth<B>(message: &Message<B>, now: Timestamp) -> bool {
        let asked = matches!(&message.content, Content::Body { flags, .. } if flags.notify);
        asked && message.time >= now.minus_seconds(NOTIFICATION_SECONDS)
    }

    /// A notification of `message`, which is under way from now on.
    fn alert<B>(&mut self, message: &Message<B>, rng: &mut impl CryptoRng) -> Alert {
        self.under_way = Some(message.id);
        Alert {
            notifier: self.id,
            nonce: NotificationNonce::random(rng),
            notification: Notification {
                message: message.id,
                time: message.time,
            },
            key: Arc::clone(&self.key),
        }
    }

    /// The next notification for the subscriber, if none is under way.
    pub(super) fn next<'m, B: 'm>(
        &mut self,
        messages: impl DoubleEndedIterator<Item = &'m Message<B>>,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Option<Alert> {
        if self.under_way.is_some() {
            return None;
        }
        // If the last one told is gone, so is everything before it.
        let next = messages
            .rev()
            .take_while(|message| Some(message.id) != self.told)
            .filter(|message| Self::is_worth(message, now))
            .last()?;
        Some(self.alert(next, rng))
    }

    /// Tells the subscriber, if there is one and nothing is under way to it, of a message that just
    /// came: everything before was told then.
    pub(super) fn tell<B>(
        &mut self,
        message: &Message<B>,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Option<(ConnectionId, NotifierNews)> {
        let subscriber = self.subscriber?;
        if self.under_way.is_some() || !Self::is_worth(message, now) {
            return None;
        }
        let alert = self.alert(message, rng);
        Some((subscriber, self.news(NotifierEvent::Notification(alert))))
    }

    /// `connection` has taken what was under way to it. Gives whether it is the subscriber.
    pub(super) fn taken(&mut self, connection: ConnectionId) -> bool {
        let subscribed = self.subscriber == Some(connection);
        if subscribed {
            self.told = self.under_way.take().or(self.told);
        }
        subscribed
    }

    /// Makes `connection` the subscriber; news for the one before.
    pub(super) fn subscribe(
        &mut self,
        connection: ConnectionId,
    ) -> Option<(ConnectionId, NotifierNews)> {
        if self.subscriber == Some(connection) {
            return None;
        }
        let ended = self.end(NotifierEvent::End, connection);
        self.subscriber = Some(connection);
        ended
    }

    /// News for the subscriber, who is one no longer, unless that is `connection` itself.
    pub(super) fn end(
        &mut self,
        event: NotifierEvent,
        connection: ConnectionId,
    ) -> Option<(ConnectionId, NotifierNews)> {
        let subscriber = self.leave()?;
        (subscriber != connection).then(|| (subscriber, self.news(event)))
    }

    /// Nobody is the subscriber any more. What was under way counts as not told.
    pub(super) fn leave(&mut self) -> Option<ConnectionId> {
        self.under_way = None;
        self.subscriber.take()
    }

    /// What remains to be known of it when it is gone.
    pub(super) fn former(&self) -> FormerNotifier {
        FormerNotifier {
            id: self.id,
            service: self.service.as_ref().map(|service| service.id),
        }
    }

    fn news(&self, event: NotifierEvent) -> NotifierNews {
        let notifier = self.id;
        NotifierNews { notifier, event }
    }
}

impl<B> Queue<B> {
    /// `connection`, a notification server's, has taken the last notification of this queue. Gives the
    /// next one, if there is one; it counts as told when it is taken as well.
    pub fn notified(
        &mut self,
        connection: ConnectionId,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Option<NotifierNews> {
        let notifier = self.notifier.as_mut()?;
        if !notifier.taken(connection) {
            return None;
        }
        let alert = notifier.next(self.messages.iter(), now, rng)?;
        Some(notifier.news(NotifierEvent::Notification(alert)))
    }
}

/// News for a notification server's connection.
#[derive(Debug)]
pub struct NotifierNews {
    /// The queue, by the notification server's name for it.
    pub notifier: NotifierId,
    /// What happened.
    pub event: NotifierEvent,
}

/// What a notification server hears of a queue.
#[derive(Debug)]
pub enum NotifierEvent {
    /// `NMSG`.
    Notification(Alert),
    /// `END`: another connection has subscribed.
    End,
    /// `DELD`: the queue or its notifier is gone.
    Deleted,
}

/// A notification on its way. Encrypted in the task of the notification server's connection.
#[derive(Clone)]
pub struct Alert {
    /// The queue, by the notification server's name for it.
    pub notifier: NotifierId,
    nonce: NotificationNonce,
    notification: Notification,
    key: Arc<NotificationKey>,
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alert")
            .field("notifier", &self.notifier)
            .finish_non_exhaustive()
    }
}

impl Alert {
    /// Writes `NMSG nonce box`.
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(b"NMSG ");
        writer.bytes(&self.nonce.0);
        self.key.seal(&self.nonce, &self.notification, writer);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use junto_crypto::ed25519;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::{key::AuthSecret, message::MessageFlags};

    const NOW: Timestamp = Timestamp(1_000);
    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    fn message(n: u8, notify: bool) -> Message<()> {
        let flags = MessageFlags { notify };
        Message {
            id: MessageId([n; 24]),
            time: NOW,
            content: Content::Body { flags, body: () },
        }
    }

    fn number(alert: &Alert) -> u8 {
        alert.notification.message.0[0]
    }

    #[test]
    fn one_is_under_way_at_a_time_and_counts_as_told_when_it_is_taken() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let secret = AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[1; 32]));
        let parts = NotifierParts {
            id: NotifierId([9; 24]),
            auth_key: secret.public_key(),
            key: NotificationKey::from_bytes(&[7; 32]),
        };
        let mut notifier = Notifier::new(parts, None);
        let messages = [(1, true), (2, false), (3, true), (4, true)].map(|(n, f)| message(n, f));
        assert!(notifier.subscribe(ONE).is_none());
        // The first is told at once, the others wait for it.
        let mut told = 0;
        for message in &messages {
            told += usize::from(notifier.tell(message, NOW, &mut rng).is_some());
            assert!(notifier.next(messages.iter(), NOW, &mut rng).is_none());
        }
        assert_eq!(told, 1);
        // Subscribing once more does not repeat it.
        assert!(notifier.subscribe(ONE).is_none());
        assert!(notifier.next(messages.iter(), NOW, &mut rng).is_none());
        assert!(!notifier.taken(TWO));
        assert!(notifier.taken(ONE));
        let next = notifier.next(messages.iter(), NOW, &mut rng).unwrap();
        assert_eq!(number(&next), 3);
        // Another takes over before that was taken: it hears of it, in its turn.
        let (ended, _) = notifier.subscribe(TWO).unwrap();
        assert_eq!(ended, ONE);
        assert!(!notifier.taken(ONE));
        for expected in [3, 4] {
            let next = notifier.next(messages.iter(), NOW, &mut rng).unwrap();
            assert_eq!(number(&next), expected);
            assert!(notifier.taken(TWO));
        }
        assert!(notifier.next(messages.iter(), NOW, &mut rng).is_none());
        // And so does whoever comes after one that left.
        let last = message(5, true);
        assert!(notifier.tell(&last, NOW, &mut rng).is_some());
        assert_eq!(notifier.leave(), Some(TWO));
        assert!(notifier.subscribe(ONE).is_none());
        let next = notifier.next([&last].into_iter(), NOW, &mut rng).unwrap();
        assert_eq!(number(&next), 5);
    }
}
