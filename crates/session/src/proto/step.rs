//! Steps: what an input changes, and what may leave only after the change is durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    endpoint::{ConnectionId, MessageId, RequestId, Tag},
    statement::{InstanceId, Round},
    wire::Put,
};

/// A session's name in this profile: random, unrelated to any identifier on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalId(pub [u8; 16]);

impl core::fmt::Display for LocalId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The connections of a session, numbered by this party: a host numbers joiners as they come; a
/// joiner gives 0 to the host and 1 + index to the others.
pub(crate) type PeerSlot = u8;

/// Where a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A remembered profile key, by hash of its name.
    Known([u8; 32]),
    Session(LocalId),
    Peer(LocalId, PeerSlot),
    /// Counters of a connection.
    Pipe(LocalId, PeerSlot),
    /// A segment not yet acknowledged by the peer.
    Out(LocalId, PeerSlot, u64),
    /// A segment of a record that is still needed.
    In(LocalId, PeerSlot, u64),
    Execution(LocalId, InstanceId),
    /// What we said in a round: hash of the payload.
    Sent(LocalId, InstanceId, Round, u8),
}

impl Key {
    /// Sorts by kind, session, then the rest; unique.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(56);
        match self {
            Self::Known(name) => bytes.put_u8(b'K').put(name),
            Self::Session(local) => bytes.put_u8(b'S').put(&local.0),
            Self::Peer(local, slot) => bytes.put_u8(b'P').put(&local.0).put_u8(*slot),
            Self::Pipe(local, slot) => bytes.put_u8(b'L').put(&local.0).put_u8(*slot),
            Self::Out(local, slot, seq) => {
                bytes.put_u8(b'O').put(&local.0).put_u8(*slot).put_u64(*seq)
            }
            Self::In(local, slot, seq) => {
                bytes.put_u8(b'I').put(&local.0).put_u8(*slot).put_u64(*seq)
            }
            Self::Execution(local, instance) => bytes.put_u8(b'E').put(&local.0).put(&instance.0),
            Self::Sent(local, instance, round, kind) => bytes
                .put_u8(b'T')
                .put(&local.0)
                .put(&instance.0)
                .put_u32(round.0)
                .put_u8(*kind),
        };
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = super::wire::Reader::new("key", bytes);
        let kind = reader.u8().ok()?;
        let key = if kind == b'K' {
            Self::Known(reader.array().ok()?)
        } else {
            let local = LocalId(reader.array().ok()?);
            match kind {
                b'S' => Self::Session(local),
                b'P' => Self::Peer(local, reader.u8().ok()?),
                b'L' => Self::Pipe(local, reader.u8().ok()?),
                b'O' => Self::Out(local, reader.u8().ok()?, reader.u64().ok()?),
                b'I' => Self::In(local, reader.u8().ok()?, reader.u64().ok()?),
                b'E' => Self::Execution(local, InstanceId(reader.array().ok()?)),
                b'T' => Self::Sent(
                    local,
                    InstanceId(reader.array().ok()?),
                    Round(reader.u32().ok()?),
                    reader.u8().ok()?,
                ),
                _ => return None,
            }
        };
        reader.finish().ok()?;
        Some(key)
    }
}

/// Changes to the store: for each key its last value, or its removal.
#[derive(Default)]
pub struct Delta {
    rows: BTreeMap<Key, Option<Bytes>>,
}

impl Delta {
    pub(crate) fn put(&mut self, key: Key, value: impl Into<Bytes>) {
        self.rows.insert(key, Some(value.into()));
    }

    pub(crate) fn delete(&mut self, key: Key) {
        self.rows.insert(key, None);
    }

    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Keys with their new values; `None` removes.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Option<&[u8]>)> {
        self.rows
            .iter()
            .map(|(key, value)| (key.encode(), value.as_deref()))
    }

    fn absorb(&mut self, later: Self) {
        self.rows.extend(later.rows);
    }
}

/// What the shell does once the step is durable. Every one of them may be repeated: operations by
/// tag give the same result, sends and acknowledgements do no harm.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Make a contact address; report [`Outcome::Address`].
    Address {
        /// Names it.
        tag: Tag,
        /// Where to receive.
        relay: String,
    },
    /// Close a contact address.
    CloseAddress {
        /// Which.
        tag: Tag,
    },
    /// Make an invitation; report [`Outcome::Invitation`].
    Invite {
        /// Names it.
        tag: Tag,
        /// Where to receive.
        relay: String,
    },
    /// Join a contact address or an invitation; report [`Outcome::Joined`].
    Join {
        /// Names it.
        tag: Tag,
        /// Of the carrier.
        link: String,
        /// Where to receive.
        relay: String,
        /// For the other side.
        info: Vec<u8>,
    },
    /// Accept a request; report [`Outcome::Accepted`].
    Accept {
        /// Which.
        request: RequestId,
        /// Where to receive.
        relay: String,
        /// For the other side.
        info: Vec<u8>,
    },
    /// Refuse a request without a word.
    Reject {
        /// Which.
        request: RequestId,
    },
    /// Send these bodies in order; report [`Outcome::Sent`].
    Send {
        /// Where.
        connection: ConnectionId,
        /// Each at most the carrier's limit.
        bodies: Vec<Bytes>,
    },
    /// The message is durable here.
    Ack {
        /// Where it came in.
        connection: ConnectionId,
        /// Which.
        message: MessageId,
    },
    /// End a connection.
    Delete {
        /// Which.
        connection: ConnectionId,
    },
}

/// How an effect ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The contact address exists.
    Address {
        /// Its name.
        tag: Tag,
        /// To be put into the session link.
        link: String,
    },
    /// The invitation exists.
    Invitation {
        /// Its name.
        tag: Tag,
        /// Its connection.
        connection: ConnectionId,
        /// To be given to the peer.
        link: String,
    },
    /// The join is under way.
    Joined {
        /// Its name.
        tag: Tag,
        /// Its connection.
        connection: ConnectionId,
    },
    /// The request is accepted.
    Accepted {
        /// Which.
        request: RequestId,
        /// Its connection.
        connection: ConnectionId,
    },
    /// The bodies are the carrier's responsibility now.
    Sent {
        /// Where.
        connection: ConnectionId,
    },
}

/// One or more inputs' worth of changes, with the effects that depend on them.
#[must_use = "effects leave only after the delta is committed"]
#[derive(Default)]
pub struct Step {
    pub(crate) delta: Delta,
    pub(crate) effects: Vec<Effect>,
}

/// Proof that a delta is durable; only a store makes one.
#[derive(Debug)]
pub struct Committed(());

impl Committed {
    pub(crate) fn new() -> Self {
        Self(())
    }
}

impl Step {
    /// What to store.
    #[must_use]
    pub fn delta(&self) -> &Delta {
        &self.delta
    }

    /// Whether nothing changed and nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delta.is_empty() && self.effects.is_empty()
    }

    /// Frees the effects.
    pub fn release(self, _proof: Committed) -> Vec<Effect> {
        self.effects
    }

    /// Joins a later step to this one, to be committed together.
    pub fn absorb(&mut self, later: Self) {
        self.delta.absorb(later.delta);
        self.effects.extend(later.effects);
    }
}

/// Somewhere deltas become durable.
pub trait Store {
    /// What can go wrong.
    type Error: core::error::Error + Send + Sync + 'static;

    /// All of the delta or nothing of it, durable when this returns.
    ///
    /// # Errors
    /// If it is not certain that it is durable.
    fn commit(&mut self, delta: &Delta) -> Result<Committed, Self::Error>;

    /// Everything stored, in order of key.
    ///
    /// # Errors
    /// If it cannot be read, or was not written by this store.
    fn load(&mut self) -> Result<Rows, Self::Error>;
}

/// Keys and values of a store, in order of key.
pub type Rows = Vec<(Vec<u8>, Bytes)>;

/// A store in memory: for tests and simulations; a clone is a disk image.
#[derive(Clone, Default)]
pub struct MemoryStore {
    rows: BTreeMap<Vec<u8>, Bytes>,
}

impl MemoryStore {
    /// How many values it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Store for MemoryStore {
    type Error = core::convert::Infallible;

    fn commit(&mut self, delta: &Delta) -> Result<Committed, Self::Error> {
        for (key, value) in delta.rows() {
            match value {
                Some(value) => self.rows.insert(key, Bytes::copy_from_slice(value)),
                None => self.rows.remove(&key),
            };
        }
        Ok(Committed::new())
    }

    fn load(&mut self) -> Result<Rows, Self::Error> {
        Ok(self
            .rows
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}
