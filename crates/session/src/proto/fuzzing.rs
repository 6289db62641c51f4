//! Decoders that are not public, for fuzz targets: each returns what its value encodes to.

use bytes::Bytes;

use super::{
    execution::Execution,
    fault::Reason,
    party::PartyIndex,
    pipe::Bundle,
    record::{Hello, Record, Welcome},
    roster::SessionId,
    step::Key,
};

/// The carrier's message.
#[must_use]
pub fn bundle(bytes: &Bytes) -> Option<Vec<u8>> {
    Bundle::decode(bytes).ok().map(|bundle| bundle.encode())
}

/// What a bundle carries.
#[must_use]
pub fn record(bytes: &Bytes) -> Option<Vec<u8>> {
    Record::decode(bytes).ok().map(|record| record.encode())
}

/// A request to join.
#[must_use]
pub fn hello(bytes: &[u8]) -> Option<Vec<u8>> {
    Hello::decode(bytes).ok().map(|hello| hello.encode())
}

/// Its answer.
#[must_use]
pub fn welcome(bytes: &[u8]) -> Option<Vec<u8>> {
    Welcome::decode(bytes).ok().map(Welcome::encode)
}

/// Why an execution was aborted.
#[must_use]
pub fn reason(bytes: &[u8]) -> Option<Vec<u8>> {
    Reason::decode(bytes).ok().map(|reason| reason.encode())
}

/// A stored execution.
#[must_use]
pub fn execution(bytes: &[u8]) -> Option<Vec<u8>> {
    let me = PartyIndex::new(0)?;
    let execution = Execution::decode(SessionId([0; 32]), me, bytes).ok()?;
    Some(execution.encode())
}

/// The key of a stored row.
#[must_use]
pub fn key(bytes: &[u8]) -> Option<Vec<u8>> {
    Key::decode(bytes).map(|key| key.encode())
}
