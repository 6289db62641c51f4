//! What carries a session: durable, ordered, confidential connections between two parties.
//!
//! A carrier may be slow, repeat messages, or forget the last ones it was given; the session makes
//! up for that. It must not reorder within a connection, and it must authenticate: whatever comes
//! out of a connection was put in by whoever holds its other end (`docs/spec/session.md` §1).

#[cfg(feature = "agent")]
pub mod agent;
pub mod memory;

use std::sync::Arc;

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};

pub use crate::proto::endpoint::{ConnectionId, Event, Lines, MessageId, RequestId, Tag};

/// Why a carrier did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct CarrierError {
    /// Whose trouble it is, and whether it may pass.
    pub kind: TroubleKind,
    /// What happened.
    #[source]
    pub source: Box<dyn core::error::Error + Send + Sync>,
}

/// Whose trouble something is, and whether it may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// A relay out of reach.
    Relay,
    /// A relay that refuses: passes when somebody changes something, there or here.
    Refused,
    /// Storage of this machine: passes when its owner makes room.
    Storage,
    /// Trying again will not help.
    Final,
}

/// What a carrier complained about last.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Whose trouble it is.
    pub kind: TroubleKind,
    /// For people.
    pub text: String,
}

/// Events of a carrier, in order per connection. Ends when the carrier is closed.
pub type Events = BoxStream<'static, Event>;

/// A carrier. Each call returns once its effect is durable; repeating it after a crash, with the
/// same tag or request, gives the same result.
///
/// `relay` says where this party wants to receive, in the carrier's own terms; empty if the carrier
/// knows.
pub trait Carrier: Send + Sync + 'static {
    /// Longest body of one message, bytes; at least 1,024.
    fn body_bytes(&self) -> usize;

    /// A contact address through which many may ask to connect.
    fn create_address<'a>(
        &'a self,
        tag: Tag,
        relay: &'a str,
    ) -> BoxFuture<'a, Result<String, CarrierError>>;

    /// No more requests through the address.
    fn close_address(&self, tag: Tag) -> BoxFuture<'_, Result<(), CarrierError>>;

    /// An invitation for one.
    fn create_invitation<'a>(
        &'a self,
        tag: Tag,
        relay: &'a str,
    ) -> BoxFuture<'a, Result<(ConnectionId, String), CarrierError>>;

    /// Joins an address or an invitation; `info` goes to its maker.
    fn join<'a>(
        &'a self,
        tag: Tag,
        link: &'a str,
        relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>>;

    /// Accepts a request; `info` goes to who made it.
    fn accept<'a>(
        &'a self,
        request: RequestId,
        relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>>;

    /// Drops a request.
    fn reject(&self, request: RequestId) -> BoxFuture<'_, Result<(), CarrierError>>;

    /// Sends `bodies` in order.
    fn send(
        &self,
        connection: ConnectionId,
        bodies: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), CarrierError>>;

    /// The message is durable here and need not come again.
    fn ack(
        &self,
        connection: ConnectionId,
        message: MessageId,
    ) -> BoxFuture<'_, Result<(), CarrierError>>;

    /// Returns when everything given to the carrier on these lines has left this machine.
    fn settle<'a>(&'a self, lines: &'a Lines) -> BoxFuture<'a, Result<(), CarrierError>>;

    /// Ends a connection.
    fn delete(&self, connection: ConnectionId) -> BoxFuture<'_, Result<(), CarrierError>>;
}

/// A carrier with its events, as [`crate::Sessions::open`] takes it.
pub struct Carriage {
    /// Takes calls.
    pub carrier: Arc<dyn Carrier>,
    /// Gives events.
    pub events: Events,
}
