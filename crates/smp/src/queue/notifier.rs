//! Notifications of a queue.
//!
//! Nothing is stored for them: what a notification server has not heard of yet is computed from
//! the messages that still wait. A message that its recipient has taken needs no notification, one
//! older than [`NOTIFICATION_SECONDS`] gets none, and after a restart those that wait are told
//! again (`docs/decisions/0006-notifications-are-not-stored.md`).

use core::fmt;
use std::sync::Arc;

use junto_crypto::{CryptoRng, x25519};

use super::{ConnectionId, Content, Message};
use crate::{
    encoding::Writer,
    error::ErrorCode,
    id::{MessageId, NotifierId},
    key::AuthKey,
    message::Timestamp,
    notification::{Notification, NotificationKey, NotificationNonce},
    response::NotifierIds,
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
    pub(super) told: Option<MessageId>,
}

impl Notifier {
    pub(super) fn new(parts: NotifierParts, told: Option<MessageId>) -> Self {
        Self {
            id: parts.id,
            auth_key: parts.auth_key,
            key: Arc::new(parts.key),
            subscriber: None,
            told,
        }
    }

    /// Names the queue to the notification server.
    #[must_use]
    pub fn id(&self) -> NotifierId {
        self.id
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

    /// A notification of `message`, if its sender asked for one and it is not too old.
    fn alert<B>(
        &self,
        message: &Message<B>,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Option<Alert> {
        let asked = matches!(&message.content, Content::Body { flags, .. } if flags.notify);
        let fresh = message.time >= now.minus_seconds(NOTIFICATION_SECONDS);
        (asked && fresh).then(|| Alert {
            notifier: self.id,
            nonce: NotificationNonce::random(rng),
            notification: Notification {
                message: message.id,
                time: message.time,
            },
            key: Arc::clone(&self.key),
        })
    }

    /// Notifications of what came since the last one; from now on these count as told.
    pub(super) fn catch_up<'m, B: 'm>(
        &mut self,
        messages: impl DoubleEndedIterator<Item = &'m Message<B>>,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Vec<Alert> {
        let told = self.told;
        // If the last one told is gone, so is everything before it.
        let mut alerts: Vec<_> = messages
            .rev()
            .take_while(|message| Some(message.id) != told)
            .filter_map(|message| self.alert(message, now, rng))
            .collect();
        alerts.reverse();
        self.told = alerts.last().map(|a| a.notification.message).or(told);
        alerts
    }

    /// Tells the subscriber, if there is one, of a message that just came.
    pub(super) fn tell<B>(
        &mut self,
        message: &Message<B>,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Option<(ConnectionId, NotifierNews)> {
        let subscriber = self.subscriber?;
        let alert = self.alert(message, now, rng)?;
        self.told = Some(message.id);
        Some((subscriber, self.news(NotifierEvent::Notification(alert))))
    }

    /// News for the subscriber, who is one no longer, unless that is `connection` itself.
    pub(super) fn end(
        &mut self,
        event: NotifierEvent,
        connection: ConnectionId,
    ) -> Option<(ConnectionId, NotifierNews)> {
        let subscriber = self.subscriber.take()?;
        (subscriber != connection).then(|| (subscriber, self.news(event)))
    }

    fn news(&self, event: NotifierEvent) -> NotifierNews {
        let notifier = self.id;
        NotifierNews { notifier, event }
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
