//! What can go wrong in a call, by who must act.

use junto_smp::address::ServerAddress;

use crate::proto::{ConnectionFault, LinkError, Misuse};
use crate::store::StoreError;

/// Why a call did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The caller's code asks for something impossible.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The link cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The connection cannot go on; delete it.
    #[error("the connection has failed: {0}")]
    Connection(#[from] ConnectionFault),
    /// A relay refused.
    #[error("relay {relay} {fault}")]
    Relay {
        /// The relay.
        relay: Box<ServerAddress>,
        /// What it said.
        fault: RelayFault,
    },
    /// The store cannot be read or written. Nothing was lost that was confirmed before.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The agent was closed.
    #[error("the agent is closed")]
    Closed,
    /// Our bug; please report it.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

/// What a relay refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayFault {
    /// It makes no queue for us.
    #[error("refused to make a queue: it may demand a password, or be full")]
    QueueRefused,
}
