//! What a carrier and the core call each other's things.

use core::fmt;
use std::collections::BTreeSet;

use bytes::Bytes;

/// A connection of the carrier: 32 opaque bytes, stable across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub [u8; 32]);

/// A contact request of the carrier: 32 opaque bytes, stable across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 32]);

/// A received message, to be acknowledged: opaque, unique within its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// Names an operation, so that repeating it after a crash gives the same result.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub [u8; 32]);

macro_rules! short_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x})"), self.0[0], self.0[1], self.0[2], self.0[3])
            }
        }
    )*};
}
short_debug!(ConnectionId, RequestId, Tag);

/// What a carrier does for some sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Contact addresses, and connections that do not stand yet.
    pub tags: BTreeSet<Tag>,
    /// Connections.
    pub connections: BTreeSet<ConnectionId>,
    /// Requests that are being answered.
    pub requests: BTreeSet<RequestId>,
}

impl Lines {
    /// Adds others.
    pub fn extend(&mut self, other: Self) {
        self.tags.extend(other.tags);
        self.connections.extend(other.connections);
        self.requests.extend(other.requests);
    }
}

/// What a carrier reports.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody joined through the contact address made with `tag`. Comes again after a restart
    /// until accepted or rejected.
    Request {
        /// To accept or reject it.
        id: RequestId,
        /// Of the address.
        tag: Tag,
        /// What the joiner passed to [`crate::carrier::Carrier::join`].
        info: Vec<u8>,
    },
    /// A connection can carry messages both ways. May come again after a restart.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Of the invitation or join that made it; for an accepted request, of the address.
        tag: Tag,
        /// What the peer passed to join, invite or accept.
        info: Vec<u8>,
        /// A hash of the connection's key agreement: equal on both sides, and different under a
        /// man in the middle.
        binding: [u8; 32],
    },
    /// A message, in order. Comes again after a restart until acknowledged.
    Message {
        /// Where it came in.
        connection: ConnectionId,
        /// To acknowledge it.
        id: MessageId,
        /// What the peer sent.
        body: Bytes,
    },
    /// A relay is out of reach or back. For display only.
    Relay {
        /// Its address.
        relay: String,
        /// What is the matter with it, to follow its name in a sentence; nothing once it answers.
        trouble: Option<String>,
    },
    /// Something on a connection was lost, altered or cannot be read. For display only: a session counts what its
    /// parties say by itself, and makes up for what is missing.
    Irregular {
        /// Which.
        connection: ConnectionId,
        /// What happened, to follow the name of the peer in a sentence.
        what: String,
    },
    /// A connection will carry nothing any more.
    Failed {
        /// Which, if it came to exist.
        connection: Option<ConnectionId>,
        /// Of the operation that failed.
        tag: Tag,
        /// For a person.
        reason: String,
    },
}
