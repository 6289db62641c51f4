//! Relays as the core sees them: commands go out, answers and messages come in, and at any moment
//! the connection may die and take unanswered commands with it.

use std::sync::Arc;

use bytes::Bytes;
use junto_crypto::x25519;
use junto_smp::id::{CorrelationId, LinkId, MessageId as QueueMessageId, RecipientId};
use junto_smp::key::{AuthKey, AuthSecret};

use junto_smp::command::QueueMode;

use super::address::SenderId;

/// Short name of a relay, for the lifetime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u32);

/// Names a command until its answer, for the lifetime of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// A key that authorises commands, shared with commands in flight.
pub type Auth = Arc<AuthSecret>;

/// A command for a relay.
#[derive(Clone)]
pub enum Operation {
    /// `NEW`: make a queue and subscribe to it.
    Create {
        /// Authorises the recipient from now on.
        auth: Auth,
        /// Our key for the encryption between relay and recipient.
        delivery_key: x25519::PublicKey,
        /// What the queue is for.
        mode: QueueMode,
        /// The data of a short link to it.
        link: Option<Box<NewLink>>,
    },
    /// `SUB`.
    Subscribe {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
    },
    /// `SKEY`: only this key may send from now on.
    Secure {
        /// The queue.
        queue: SenderId,
        /// The sender's key.
        auth: Auth,
    },
    /// `LGET`: read the data of a contact's short link.
    ReadLink {
        /// The data's name.
        link: LinkId,
    },
    /// `LKEY`: only this key may send from now on, and gets the data of an invitation's short link.
    SecureByLink {
        /// The data's name.
        link: LinkId,
        /// The sender's key.
        auth: Auth,
    },
    /// `KEY`: only this key may send from now on, says the recipient.
    Allow {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
        /// The sender's key.
        key: Box<AuthKey>,
    },
    /// `LSET`: put this behind a short link from now on.
    SetLink {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
        /// The data's name.
        link: LinkId,
        /// The data.
        parts: Box<LinkParts>,
    },
    /// `SEND`.
    Send {
        /// The queue.
        queue: SenderId,
        /// The sender's key; none for a contact address.
        auth: Option<Auth>,
        /// What to send.
        body: Bytes,
    },
    /// `ACK`: the message is ours now; the next may come.
    Acknowledge {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
        /// The message.
        message: QueueMessageId,
    },
    /// `OFF`: nobody may send any more.
    Suspend {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
    },
    /// `DEL`.
    Delete {
        /// The queue.
        queue: RecipientId,
        /// The recipient's key.
        auth: Auth,
    },
}

/// A short link to be made with its queue.
#[derive(Clone)]
pub struct NewLink {
    /// Names the request; the queue's name for senders follows from it.
    pub correlation: CorrelationId,
    /// The data's name; of an invitation the relay chooses it.
    pub id: Option<LinkId>,
    /// The data.
    pub parts: LinkParts,
}

/// The sealed data of a short link of ours.
#[derive(Clone)]
pub struct LinkParts {
    /// The part that never changes.
    pub fixed: Bytes,
    /// The part that may change.
    pub user: Bytes,
}

/// What a relay keeps behind a short link, as it gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkBytes {
    /// The queue's name for senders.
    pub sender: SenderId,
    /// The part that never changes.
    pub fixed: Box<[u8]>,
    /// The part that may change.
    pub user: Box<[u8]>,
}

/// A relay's answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `IDS`.
    Created {
        /// The queue's name for us.
        recipient_id: RecipientId,
        /// The queue's name for senders.
        sender_id: SenderId,
        /// The relay's key for the encryption between relay and recipient.
        relay_key: x25519::PublicKey,
        /// The name of the data of its short link.
        link: Option<LinkId>,
    },
    /// `LNK`.
    Link(Box<LinkBytes>),
    /// `OK`, `SOK`, and a message in place of `OK` after `ACK` (which arrives on its own).
    Done,
    /// `ERR`.
    Refused(Refusal),
}

/// Why a relay refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `AUTH`: no such queue, or not this key.
    Auth,
    /// `QUOTA`: the queue is full.
    Quota,
    /// `NO_MSG`: the message is not the one to acknowledge.
    NoMessage,
    /// Whoever passes commands on to the relay is overloaded, or the answer was lost between the two: it may
    /// have been carried out or not, whatever became of those behind it.
    Busy,
    /// Anything else: may pass.
    Other,
}

/// Why a relay is not there for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RelayTrouble {
    /// It is not reached, or has not answered. May pass.
    #[error("is out of reach")]
    Unreachable,
    /// Somebody else answers in its place.
    #[error("is not who answers at its address")]
    Impostor,
    /// It breaks the protocol.
    #[error("breaks the protocol")]
    Faulty,
    /// It has `.onion` names only, and no SOCKS server is set.
    #[error("is reached through Tor only, and no SOCKS server is set")]
    OnionOnly,
    /// It should be reached through another relay only, and none of those passes commands on to it.
    #[error("should be reached through another relay, and none passes anything on to it for us")]
    NoWayThrough,
}

/// Something that a relay sends by itself.
#[derive(Debug)]
pub enum RelayNotice {
    /// `MSG`.
    Message {
        /// The queue.
        queue: RecipientId,
        /// The message's name, for `ACK`.
        message: QueueMessageId,
        /// The message, encrypted between relay and recipient.
        sealed: Bytes,
    },
    /// `END`: another connection subscribed.
    Ended {
        /// The queue.
        queue: RecipientId,
    },
    /// `DELD`: the queue is gone.
    Deleted {
        /// The queue.
        queue: RecipientId,
    },
}
