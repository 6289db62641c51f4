//! What the agent tells its application.

use core::fmt;

use junto_smp::address::ServerAddress;

use super::chain::Integrity;
use super::id::{ConnectionId, MessageId, RequestId, Tag};
use super::relay::RelayTrouble;

/// Something that happened.
///
/// [`Event::Request`], [`Event::Connected`], [`Event::Renewed`], [`Event::Message`], [`Event::AddressMoved`] and [`Event::Failed`] are stored:
/// they come again after a restart until they are settled (see each one). The others are passing.
///
/// Messages do not wait for the disk. One that came right before the process died may come again, with
/// the same number; so an application keeps, in one transaction, what an event says and that it
/// had it.
pub enum Event {
    /// Somebody asks to connect through a contact address. Comes again after each restart until
    /// accepted or rejected.
    Request {
        /// The request.
        id: RequestId,
        /// Tag of the address.
        tag: Tag,
        /// What the requester says about itself; not authenticated beyond the connection to come.
        info: Vec<u8>,
    },
    /// The short link of [`Agent::join`](crate::Agent::join) is open; the connection is on its way. Sent once, not
    /// stored.
    Opened {
        /// The connection.
        connection: ConnectionId,
        /// Tag that the connection was made with.
        tag: Tag,
        /// What the link says besides how to connect. Its maker wrote it; a relay may show an older version.
        about: Vec<u8>,
    },
    /// The connection works in both directions. Comes again after each restart, before its
    /// messages, while the connection exists.
    Connected {
        /// The connection.
        connection: ConnectionId,
        /// Tag that the connection was made with.
        tag: Tag,
        /// What the peer says about itself.
        info: Vec<u8>,
        /// Hash of the ratchet's associated data, the same on both sides of this connection and on
        /// no other: whatever signs it is bound to this channel.
        binding: [u8; 32],
    },
    /// A message. Comes again after each restart until acknowledged; in order of `id`.
    Message {
        /// The connection.
        connection: ConnectionId,
        /// Its number, for acknowledgement.
        id: MessageId,
        /// What the hash chain says about it.
        integrity: Integrity,
        /// The body.
        body: Vec<u8>,
    },
    /// The peer's application has acknowledged a message of ours. Sent once, not stored.
    Delivered {
        /// The connection.
        connection: ConnectionId,
        /// The number that sending it gave.
        id: MessageId,
    },
    /// The peer sent something that our keys do not open, or that is no message. It is lost; what
    /// follows is judged by its [`Integrity`]. The usual cause is a side that went back to an old copy
    /// of its database. Sent once, not stored.
    Unreadable {
        /// The connection.
        connection: ConnectionId,
    },
    /// The hash chain is broken in front of something that the peer's agent said by itself, such as a receipt: what
    /// is missing or was altered there may have been a message. Sent once, not stored.
    Irregular {
        /// The connection.
        connection: ConnectionId,
        /// What the hash chain says; never [`Integrity::Ok`].
        integrity: Integrity,
    },
    /// What the peer sends is encrypted with other keys than ours, which did not come about in the normal
    /// course of things; new keys are needed. Sent when it is found, not stored.
    RatchetBroken {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection has other keys than before, as either side wanted it to. Their binding says whom they
    /// are shared with: what was verified with the one before is to be verified again, since new keys are
    /// authenticated by those of the queue only. Comes again after each restart, behind
    /// [`Event::Connected`] with the same binding.
    Renewed {
        /// The connection.
        connection: ConnectionId,
        /// Tag that the connection was made with.
        tag: Tag,
        /// As in [`Event::Connected`].
        binding: [u8; 32],
    },
    /// The peer can be read again. Sent once, not stored.
    Synchronised {
        /// The connection.
        connection: ConnectionId,
        /// Messages of the peer that were lost: encrypted with the keys before, and not read.
        missing: u64,
    },
    /// A queue of the connection has given place to another one. Sent once, not stored.
    Rotated {
        /// The connection.
        connection: ConnectionId,
        /// Whether it is the queue that we receive on; else the one that we send to.
        receives: bool,
        /// Where the new queue is.
        relay: ServerAddress,
    },
    /// A queue to take the place of ours, or one beside it, could not be made, or was lost; the others stay. Sent once,
    /// not stored.
    RotationFailed {
        /// The connection.
        connection: ConnectionId,
        /// Where it should have been.
        relay: ServerAddress,
    },
    /// A relay that we use cannot be reached; the agent keeps trying.
    RelayDown {
        /// The relay.
        relay: ServerAddress,
        /// Why.
        trouble: RelayTrouble,
    },
    /// A relay is reachable and our queues on it are subscribed.
    RelayUp {
        /// The relay.
        relay: ServerAddress,
    },
    /// Somebody else subscribed to a queue of ours, which takes the keys of this profile: a copy of it that runs, or so its
    /// relay says. What goes there is missing here, until the next connection to that relay takes it back. Sent once for
    /// each connection and process, not stored.
    TakenOver {
        /// The connection.
        connection: ConnectionId,
        /// Where the queue is.
        relay: ServerAddress,
    },
    /// A contact address has another link than before: its relay has lost the queue, or says so, and the old link leads
    /// nowhere. Comes again after each restart until [`Agent::address_seen`](crate::Agent::address_seen).
    AddressMoved {
        /// Tag of the address.
        tag: Tag,
    },
    /// The connection cannot go on. Comes again after each restart until the connection is deleted.
    Failed {
        /// The connection.
        connection: ConnectionId,
        /// Tag that the connection was made with.
        tag: Tag,
        /// Why.
        error: ConnectionFault,
    },
}

/// Why a connection cannot be made or cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionFault {
    /// Somebody else has secured the queue of the link before us: the link was used already, or
    /// stolen.
    #[error("the link was used by somebody else")]
    LinkUsed,
    /// The relay has nothing behind the short link: it was used already, or its maker has taken it back.
    #[error("the link leads nowhere: it was used already, or taken back")]
    LinkGone,
    /// What the relay has behind the short link is not what its maker put there.
    #[error("what the relay gave for the link is not what its maker put there")]
    LinkForged,
    /// The relay no longer has the peer's queue: the peer deleted the connection, or its queue
    /// expired. What the peer said before has come by then; calls to send say so earlier.
    #[error("the peer's queue is gone")]
    PeerGone,
    /// The relay no longer has our queue.
    #[error("our queue is gone from its relay")]
    QueueGone,
    /// The relay refused to make a queue.
    #[error("the relay refused to make a queue")]
    QueueRefused,
    /// The peer answered with a protocol version that we do not speak.
    #[error("the peer speaks an incompatible version")]
    Version,
    /// The profile came back from a backup in the middle of connecting, and its original may have gone on.
    #[error("it was being made when the profile was backed up, and cannot go on from there")]
    Restored,
}

impl fmt::Debug for Event {
    /// Sizes instead of contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { id, tag, info } => {
                write!(f, "Request({id:?}, {tag:?}, {} bytes)", info.len())
            }
            Self::Connected {
                connection,
                tag,
                info,
                ..
            } => {
                write!(
                    f,
                    "Connected({connection:?}, {tag:?}, {} bytes)",
                    info.len()
                )
            }
            Self::Opened {
                connection,
                tag,
                about,
            } => {
                write!(f, "Opened({connection:?}, {tag:?}, {} bytes)", about.len())
            }
            Self::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                write!(
                    f,
                    "Message({connection:?}, {id}, {integrity:?}, {} bytes)",
                    body.len()
                )
            }
            Self::Delivered { connection, id } => write!(f, "Delivered({connection:?}, {id})"),
            Self::Unreadable { connection } => write!(f, "Unreadable({connection:?})"),
            Self::Irregular {
                connection,
                integrity,
            } => write!(f, "Irregular({connection:?}, {integrity:?})"),
            Self::RatchetBroken { connection } => write!(f, "RatchetBroken({connection:?})"),
            Self::Renewed { connection, .. } => write!(f, "Renewed({connection:?})"),
            Self::Synchronised {
                connection,
                missing,
            } => write!(f, "Synchronised({connection:?}, {missing} missing)"),
            Self::Rotated {
                connection,
                receives,
                relay,
            } => {
                let way = if *receives { "receives" } else { "sends" };
                write!(f, "Rotated({connection:?}, {way} on {relay})")
            }
            Self::RotationFailed { connection, relay } => {
                write!(f, "RotationFailed({connection:?}, {relay})")
            }
            Self::TakenOver { connection, relay } => {
                write!(f, "TakenOver({connection:?}, {relay})")
            }
            Self::AddressMoved { tag } => write!(f, "AddressMoved({tag:?})"),
            Self::RelayDown { relay, trouble } => {
                write!(f, "RelayDown({relay}, {trouble:?})")
            }
            Self::RelayUp { relay } => write!(f, "RelayUp({relay})"),
            Self::Failed {
                connection, error, ..
            } => write!(f, "Failed({connection:?}, {error:?})"),
        }
    }
}
