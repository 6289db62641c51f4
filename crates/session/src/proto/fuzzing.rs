//! Decoders that are not public, for fuzz targets: each returns what its value encodes to.

use bytes::Bytes;

use super::{
    execution::Execution,
    fault::Reason,
    party::{Members, PartyIndex},
    pipe::Bundle,
    record::{Hello, Record, Welcome},
    roster::SessionId,
    step::Key,
    streams::{Event, Life, Link, PIECE_MAX, WINDOW},
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

/// One end of a link to another party that says `messages`: how many streams it opened at most at once, and
/// whether it stayed within the rules. Whatever it says, no stream brings more than its window.
#[must_use]
pub fn streams(messages: &[Bytes]) -> (usize, bool) {
    let mut link = Link::new(Life([1; 16]), true, Members::from_bits(0b111));
    let hello = [&[0][..], &[2; 16], &[1; 16]].concat();
    let met = link.receive(&hello.into());
    debug_assert_eq!(met, Ok(vec![Event::Met]));
    let own = link.open();
    let (mut most, mut unread) = (0, std::collections::BTreeMap::new());
    for message in messages {
        let Ok(events) = link.receive(message) else {
            return (most, false);
        };
        for event in events {
            match event {
                Event::Data(id, piece) => {
                    let waiting = unread.entry(id).or_insert(0);
                    *waiting += piece.len();
                    assert!(*waiting <= WINDOW && piece.len() <= PIECE_MAX);
                }
                Event::Restarted => unread.clear(),
                Event::Opened(id) => drop(unread.insert(id, 0)),
                _ => {}
            }
        }
        most = most.max(
            unread
                .keys()
                .filter(|id| Some(**id) != own && link.room(**id).is_some())
                .count(),
        );
        while link.message().is_some() {}
    }
    (most, true)
}
