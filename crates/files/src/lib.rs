//! Files of any size between two connected agents (`docs/spec/files.md`).
//!
//! A file is offered, accepted or refused, and sent in chunks that each fill one agent message, as far as the receiver
//! gives credit. Whatever ends in between, both sides go on from what they have stored.
//!
//! [`frame`], [`name`], [`incoming`] and [`outgoing`] are pure: no file, clock or socket. [`Book`], [`send`](fn@send),
//! [`receive`](fn@receive) and [`cancel`](fn@cancel) are the shell around them.

pub mod bench;
mod book;
mod error;
pub mod frame;
pub mod incoming;
mod line;
pub mod name;
pub mod outgoing;
mod receive;
mod send;

pub use book::{Book, Direction, Pending};
pub use error::{FilesError, Step};
pub use frame::{CHUNK_BYTES, Reason, TransferId};
pub use incoming::Fault;
pub use line::Line;
pub use receive::{Limits, PENDING_MAX, Received, cancel, receive};
pub use send::{Sent, send};

/// What a transfer that is under way has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// We offer a file, or offer it again after an interruption.
    Offering(Progress),
    /// The peer's offer is accepted; what was here already counts.
    Accepted(Progress),
    /// The peer's offer is refused.
    Refused(Progress, Reason),
    /// Something of this machine keeps a transfer from going on, as these words say. Everything is kept, and other
    /// transfers go on.
    Stuck(Progress, String),
    /// The receiver has durably so many bytes.
    Moved(Progress),
}

/// How far a transfer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The transfer.
    pub id: TransferId,
    /// What the file is called, fit to be shown and to be a file's name.
    pub name: String,
    /// Bytes that the receiver has durably.
    pub bytes: u64,
    /// Bytes of the file.
    pub size: u64,
}
