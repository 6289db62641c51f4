//! What the core wants done: first stored, then sent.

use std::collections::BTreeMap;

use junto_crypto::Zeroizing;

use super::command::{CallError, Reply, Ticket};
use super::event::Event;
use super::id::{ConnectionId, RequestId, Tag};
use super::path::RelayPath;
use super::relay::{Operation, RelayId, Token};

/// The name of one row of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKey {
    /// A contact address.
    Address(Tag),
    /// A request to an address.
    Request(RequestId),
    /// The key of a message that was overtaken by later ones, by ratchet chain and number.
    LateKey(ConnectionId, u32, u32),
    /// A connection's keys and counters.
    Connection(ConnectionId),
    /// What a connection keeps about new keys.
    Renewal(ConnectionId),
    /// What a connection keeps about queues beside its first ones.
    Parallel(ConnectionId),
    /// When a connection sends, if not when there is something to say.
    Noise(ConnectionId),
    /// The link of a connection that we invited to.
    Invitation(ConnectionId),
    /// A queue message that the relay has not accepted yet, encrypted, by number.
    Outbox(ConnectionId, u64),
    /// A message that overtook an earlier one and waits for it, by the sender's number.
    Early(ConnectionId, u64),
    /// A message that the application has not acknowledged yet, by number.
    Inbox(ConnectionId, u64),
}

/// A row as the core sees it; the store seals it.
pub type Row = Zeroizing<Vec<u8>>;

/// Rows to write (`Some`) or to delete (`None`), all or none.
#[derive(Default)]
pub struct Delta {
    rows: BTreeMap<RowKey, Option<Row>>,
}

impl Delta {
    /// The changes in the order of their keys.
    pub fn rows(&self) -> impl Iterator<Item = (&RowKey, Option<&Row>)> {
        self.rows.iter().map(|(key, row)| (key, row.as_ref()))
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes a row; replaces what was to happen to it before.
    pub fn put(&mut self, key: RowKey, row: Row) {
        self.rows.insert(key, Some(row));
    }

    /// Deletes a row; replaces what was to happen to it before.
    pub fn delete(&mut self, key: RowKey) {
        self.rows.insert(key, None);
    }
}

/// Proof that a delta is in the store for good. Only stores make it, after the commit.
#[must_use]
pub struct Committed(());

impl Committed {
    /// For the stores of this crate and for tests that write their own.
    ///
    /// Whoever calls this promises that the delta given to `commit` is durable.
    #[doc(hidden)]
    pub const fn promised() -> Self {
        Self(())
    }
}

/// One transaction and what may leave the core after it.
#[must_use]
pub struct Step {
    delta: Delta,
    outbox: Vec<Output>,
}

impl Step {
    pub(super) fn new(delta: Delta, outbox: Vec<Output>) -> Self {
        Self { delta, outbox }
    }

    /// What to store first.
    #[must_use]
    pub fn delta(&self) -> &Delta {
        &self.delta
    }

    /// Frees what may leave now. Only the store's commit of [`Step::delta`] yields the proof.
    pub fn release(self, _proof: Committed) -> Vec<Output> {
        self.outbox
    }
}

/// Something that leaves the core.
pub enum Output {
    /// Keep a connection to this relay from now on.
    Dial {
        /// Our short name for the relay.
        relay: RelayId,
        /// How to reach it.
        path: RelayPath,
    },
    /// No queue needs this relay any more.
    Hang {
        /// Our short name for the relay.
        relay: RelayId,
    },
    /// A command for a relay. Commands for one relay keep their order.
    Command {
        /// The relay.
        relay: RelayId,
        /// Names the answer.
        token: Token,
        /// The command.
        operation: Operation,
    },
    /// Tell the application.
    Event(Event),
    /// Answer a call.
    Answer {
        /// The call.
        ticket: Ticket,
        /// The answer.
        answer: Result<Reply, CallError>,
    },
}
