//! What the application asks of the core, and the answers.

use junto_smp::address::ServerAddress;

use super::event::ConnectionFault;
use super::id::{ConnectionId, MessageId, RequestId, Tag};
use super::link::{ContactLink, InvitationLink, Link, LinkError};
use super::noise::Noise;
use super::parallel::Spread;
use super::short::ShortLink;

/// Names a call until it is answered. The caller chooses; each number once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A call.
pub enum Command {
    /// Make a contact address.
    CreateAddress {
        /// Name of the intention.
        tag: Tag,
        /// Where its queue is made.
        relay: ServerAddress,
        /// Make a short link as well, which says this.
        about: Option<Vec<u8>>,
    },
    /// Change what an address's short link says.
    Describe {
        /// Tag of the address.
        tag: Tag,
        /// What it says from now on.
        about: Vec<u8>,
    },
    /// Make a link for one peer.
    CreateInvitation {
        /// Name of the intention.
        tag: Tag,
        /// Where its queue is made.
        relay: ServerAddress,
        /// What the peer is told.
        info: Vec<u8>,
        /// Make a short link as well, which says this.
        about: Option<Vec<u8>>,
    },
    /// Connect through a link.
    Join {
        /// Name of the intention.
        tag: Tag,
        /// The peer's link.
        link: Link,
        /// Where our queue is made.
        relay: ServerAddress,
        /// What the peer is told.
        info: Vec<u8>,
    },
    /// Accept a request.
    Accept {
        /// The request.
        request: RequestId,
        /// Where our queue is made.
        relay: ServerAddress,
        /// What the peer is told.
        info: Vec<u8>,
    },
    /// Forget a request.
    Reject {
        /// The request.
        request: RequestId,
    },
    /// Send a message.
    Send {
        /// To whom.
        connection: ConnectionId,
        /// The message.
        body: Vec<u8>,
    },
    /// The application has a message.
    Acknowledge {
        /// From whom.
        connection: ConnectionId,
        /// The message.
        message: MessageId,
    },
    /// Receive on another queue.
    Rotate {
        /// Which connection.
        connection: ConnectionId,
        /// Where it is made; another relay of the profile, or the same one, if none is named.
        relay: Option<ServerAddress>,
    },
    /// Receive on one more queue.
    AddQueue {
        /// Which connection.
        connection: ConnectionId,
        /// Where it is made.
        relay: ServerAddress,
    },
    /// Receive on one queue less.
    RemoveQueue {
        /// Which connection.
        connection: ConnectionId,
        /// Where it is.
        relay: ServerAddress,
    },
    /// Choose how messages go to several queues of the peer.
    Spread {
        /// Which connection.
        connection: ConnectionId,
        /// How.
        spread: Spread,
    },
    /// Choose when messages go, and noise with them.
    Noise {
        /// Which connection.
        connection: ConnectionId,
        /// When.
        noise: Noise,
    },
    /// Agree new keys with the peer.
    Resynchronise {
        /// Which connection.
        connection: ConnectionId,
    },
    /// End a connection with a last word.
    Leave {
        /// The connection.
        connection: ConnectionId,
        /// The last message.
        last: Vec<u8>,
    },
    /// End a connection.
    Delete {
        /// The connection.
        connection: ConnectionId,
    },
    /// The application knows the link that an address has now.
    AddressSeen {
        /// Name of the intention.
        tag: Tag,
    },
    /// Close an address.
    CloseAddress {
        /// Tag of the address.
        tag: Tag,
    },
}

/// The answer to a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Command::CreateAddress`].
    Address(ContactLink, Option<Box<ShortLink>>),
    /// To [`Command::CreateInvitation`].
    Invitation(ConnectionId, Box<InvitationLink>, Option<Box<ShortLink>>),
    /// To [`Command::Join`] and [`Command::Accept`].
    Connection(ConnectionId),
    /// To [`Command::Send`].
    Message(MessageId),
    /// To the others.
    Done,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The caller asks for something impossible.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The link cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The connection cannot go on.
    #[error(transparent)]
    Connection(#[from] ConnectionFault),
    /// The relay makes no queue for us.
    #[error("relay {0} refused to make a queue")]
    QueueRefused(Box<ServerAddress>),
    /// Our bug.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

/// A call that cannot succeed, whatever the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// There is no such connection, or it was deleted.
    #[error("no such connection")]
    NoConnection,
    /// There is no such address, or none with a short link.
    #[error("no such address with a short link")]
    NoAddress,
    /// There is no such request, or it was accepted or rejected.
    #[error("no such request")]
    NoRequest,
    /// The tag already names something of another kind.
    #[error("the tag names something else")]
    TagTaken,
    /// Messages can be sent after [`Connected`](crate::Event::Connected) only.
    #[error("the connection is not established yet")]
    NotConnected,
    /// New keys are agreed, and the peer's first word in them is awaited: nobody is asked for others meanwhile.
    #[error("new keys are being agreed on this connection already")]
    Renewing,
    /// The connection receives on [`QUEUES_MAX`](crate::QUEUES_MAX) queues already.
    #[error("the connection receives on as many queues as it may")]
    TooManyQueues,
    /// The connection receives on no queue there, or on none else.
    #[error("the connection has no queue on that relay, or no other one that works")]
    NoQueue,
    /// The profile's connections keep the keys that they began with, [`Resync::Refused`](crate::Resync::Refused).
    #[error("the keys of this profile's connections do not change")]
    FixedKeys,
    /// The profile came back from a backup, and no fresh keys have been agreed with the peer since.
    #[error(
        "the profile was restored from a backup: this connection has no keys to send with until the peer answers with fresh ones"
    )]
    Restored,
    /// Longer than [`MAX_BODY`](crate::MAX_BODY) bytes.
    #[error("the message is too long")]
    BodyTooLong,
    /// Longer than [`ABOUT_MAX`](crate::ABOUT_MAX) bytes.
    #[error("what the link shall say is too long")]
    AboutTooLong,
    /// Longer than [`MAX_INFO`](crate::MAX_INFO) bytes.
    #[error("the connection information is too long")]
    InfoTooLong,
}
