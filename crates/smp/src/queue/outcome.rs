//! What comes of a command.

use super::{Alert, ConnectionId, Delivery, Limits, LinkCopy, NotifierNews, QueueInfo};
use crate::{
    error::ErrorCode,
    id::{LinkId, MessageId, NotifierId, ServiceId},
    message::Timestamp,
    response::NotifierIds,
};

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

/// What the relay must do after a command, in this order: make `unlinked` and `change` durable,
/// answer, then `then` and `alert` on the same connection, then tell the others.
#[derive(Debug)]
#[must_use]
pub struct Outcome<B> {
    /// The answer to the commanding connection.
    pub answer: Answer<B>,
    /// A message to the commanding connection, as event behind the answer: after `SUB`.
    pub then: Option<Delivery<B>>,
    /// A notification to the commanding connection, as event behind the answer: after `NSUB`. The
    /// next one comes by [`super::Queue::notified`].
    pub alert: Option<Alert>,
    /// Another connection to tell (it may be the same one, if it sends to its own queue).
    pub notify: Option<(ConnectionId, Event<B>)>,
    /// A notification server's connection to tell (it may be the same one as well).
    pub notify_notifier: Option<(ConnectionId, NotifierNews)>,
    /// Link data that was dropped before the change, as [`Change::Unlinked`].
    pub unlinked: Option<LinkId>,
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
    /// `SOK`, with the service that the queue or notifier is one of now.
    Subscribed(Option<ServiceId>),
    /// `MSG`.
    Message(Delivery<B>),
    /// `INFO`.
    Info(QueueInfo),
    /// `LNK`.
    Link(LinkCopy<B>),
    /// `NID`.
    NotifierIds(NotifierIds),
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
    /// The sender's key was set.
    Secured,
    /// The queue was switched off.
    Suspended,
    /// The relay must forget the queue.
    Deleted,
    /// The recipient's keys were set.
    RecipientKeys,
    /// Link data was set or changed.
    Linked,
    /// The link data with this id was removed.
    Unlinked(LinkId),
    /// A notifier was set, in place of this one.
    Notifier {
        /// The one before.
        replaced: Option<FormerNotifier>,
    },
    /// This notifier was removed.
    NotifierDeleted(FormerNotifier),
    /// The queue is one of another service, or of none, now.
    Service {
        /// The service before.
        before: Option<ServiceId>,
    },
    /// The same for its notifier.
    NotifierService {
        /// The service before.
        before: Option<ServiceId>,
    },
    /// The operator has blocked or unblocked the queue.
    Blocking,
    /// The queue was used, for the first time on this day.
    Used,
    /// A message (or marker) was added, behind the others.
    Stored(MessageId),
    /// The first message was acknowledged and removed.
    Removed(MessageId),
}

/// A notifier that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerNotifier {
    /// Its id.
    pub id: NotifierId,
    /// The service that was told.
    pub service: Option<ServiceId>,
}

impl<B> Outcome<B> {
    pub(super) fn answer(answer: Answer<B>) -> Self {
        Self {
            answer,
            then: None,
            alert: None,
            notify: None,
            notify_notifier: None,
            unlinked: None,
            change: None,
            expired: 0,
        }
    }

    pub(super) fn ok(change: Option<Change>) -> Self {
        Self {
            change,
            ..Self::answer(Answer::Ok)
        }
    }

    pub(super) fn error(code: ErrorCode) -> Self {
        Self::answer(Answer::Error(code))
    }
}
