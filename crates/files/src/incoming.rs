//! The receiver's half of a transfer: which chunk may come, what is durable, how much credit there is.

use crate::frame::{Body, Offer};

/// Chunks that a sender may be ahead of what is durable here: half of what a relay keeps in one queue by default (128
/// messages), so that other messages find room beside them.
pub const WINDOW_CHUNKS: u64 = 64;
/// Chunks after which what has come is made durable: the sender goes on with the other half of its credit meanwhile.
const SYNC_CHUNKS: u64 = WINDOW_CHUNKS / 2;
/// Chunks that may come again or behind a gap. An agent gives at most 256 messages again after a crash, and a sender
/// that has not heard of a gap sends what it has credit for.
const STRAY_MAX: u32 = 1024;

/// How a peer breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A chunk for which there was no credit.
    #[error("it sends more than it was allowed to")]
    BeyondCredit,
    /// A chunk that is not at a place of one, or ends behind the file.
    #[error("it sends a piece that lies outside of the file that it offered")]
    OutOfRange,
    /// A chunk of another length than belongs there.
    #[error("it sends a piece of another size than it offered")]
    Length,
    /// The same again and again.
    #[error("it repeats itself without end")]
    Flood,
    /// Another size or hash under the name of a transfer that is known.
    #[error("it offers another file in the place of one that it had offered")]
    Changed,
    /// The whole has another hash.
    #[error("the file is not the one that it offered: its SHA-256 is another")]
    Hash,
    /// A frame that is none.
    #[error("it sends what makes no sense")]
    Malformed,
    /// A grant that contradicts the offer.
    #[error("it claims to have, or asks for, what was not offered")]
    Grant,
}

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one: to be written behind what is there.
    Next,
    /// One that is here already.
    Known,
    /// One before it was lost. `ask` once in an attempt.
    Gap {
        /// Whether to ask the sender to offer again.
        ask: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Incoming {
    size: u64,
    chunk: u64,
    attempt: u32,
    /// Durable.
    have: u64,
    /// Written, and not yet durable beyond `have`.
    written: u64,
    /// Where the sender's credit ends.
    until: u64,
    strays: u32,
    asked: bool,
}

impl Incoming {
    /// A transfer of which `have` bytes are durable: a multiple of the chunk, or all of it.
    #[must_use]
    pub fn new(offer: &Offer, have: u64) -> Self {
        let mut incoming = Self {
            size: offer.size,
            chunk: u64::from(offer.chunk),
            attempt: offer.attempt,
            have,
            written: have,
            until: have,
            strays: 0,
            asked: false,
        };
        incoming.extend();
        incoming
    }

    /// Bytes that are durable.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Judges a chunk. [`Arrival::Next`] counts as written.
    ///
    /// # Errors
    /// [`Fault`]: the transfer is over.
    pub fn chunk(&mut self, offset: u64, length: usize) -> Result<Arrival, Fault> {
        if offset >= self.size || !offset.is_multiple_of(self.chunk) {
            return Err(Fault::OutOfRange);
        }
        if length as u64 != self.chunk.min(self.size - offset) {
            return Err(Fault::Length);
        }
        if offset >= self.until {
            return Err(Fault::BeyondCredit);
        }
        if offset == self.written {
            self.written += length as u64;
            return Ok(Arrival::Next);
        }
        self.strays += 1;
        if self.strays > STRAY_MAX {
            return Err(Fault::Flood);
        }
        if offset < self.written {
            return Ok(Arrival::Known);
        }
        let ask = !self.asked;
        self.asked = true;
        Ok(Arrival::Gap { ask })
    }

    /// Whether what is written should be made durable now.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let pending = self.written - self.have;
        pending >= SYNC_CHUNKS * self.chunk || (pending > 0 && self.written == self.size)
    }

    /// What is written is durable now, and recorded as such: there is new credit.
    pub fn synced(&mut self) {
        self.have = self.written;
        self.extend();
    }

    fn extend(&mut self) {
        self.until = self
            .have
            .saturating_add(WINDOW_CHUNKS * self.chunk)
            .min(self.size);
    }

    /// What to tell the sender.
    #[must_use]
    pub fn grant(&self) -> Body<'static> {
        Body::Grant {
            attempt: self.attempt,
            have: self.have,
            until: self.until,
        }
    }

    /// What to tell the sender after a gap.
    #[must_use]
    pub fn missing(&self) -> Body<'static> {
        let attempt = self.attempt;
        Body::Missing { attempt }
    }

    /// Whether all of the file is durable.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have == self.size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::CHUNK_MIN;

    const CHUNK: u64 = CHUNK_MIN as u64;

    fn offer(size: u64) -> Offer {
        Offer {
            attempt: 1,
            size,
            chunk: CHUNK_MIN,
            sha256: [0; 32],
            name: "a".to_owned(),
        }
    }

    #[test]
    fn chunks_come_in_order_and_credit_grows_with_what_is_durable() {
        let size = 100 * CHUNK + 1;
        let mut incoming = Incoming::new(&offer(size), 0);
        for n in 0..SYNC_CHUNKS {
            assert!(!incoming.is_due());
            assert_eq!(incoming.chunk(n * CHUNK, 1024), Ok(Arrival::Next));
        }
        assert!(incoming.is_due());
        incoming.synced();
        let grant = Body::Grant {
            attempt: 1,
            have: 32 * CHUNK,
            until: 96 * CHUNK,
        };
        assert_eq!(incoming.grant(), grant);
    }

    #[test]
    fn who_breaks_a_rule_is_found_out() {
        let size = 100 * CHUNK + 1;
        let cases = [
            (64 * CHUNK, 1024, Fault::BeyondCredit),
            (size, 1, Fault::OutOfRange),
            (101 * CHUNK, 1024, Fault::OutOfRange),
            (u64::MAX, 1024, Fault::OutOfRange),
            (1, 1024, Fault::OutOfRange),
            (0, 1023, Fault::Length),
            (0, 1025, Fault::Length),
            (100 * CHUNK, 2, Fault::Length),
        ];
        for (offset, length, fault) in cases {
            let mut incoming = Incoming::new(&offer(size), 0);
            assert_eq!(incoming.chunk(offset, length), Err(fault), "{offset}");
        }
    }

    #[test]
    fn what_is_known_may_come_again_but_not_for_ever() {
        let mut incoming = Incoming::new(&offer(CHUNK * 2), CHUNK);
        for _ in 0..STRAY_MAX {
            assert_eq!(incoming.chunk(0, 1024), Ok(Arrival::Known));
        }
        assert_eq!(incoming.chunk(0, 1024), Err(Fault::Flood));
    }

    #[test]
    fn a_gap_is_told_once() {
        let mut incoming = Incoming::new(&offer(CHUNK * 4), 0);
        assert_eq!(incoming.chunk(CHUNK, 1024), Ok(Arrival::Gap { ask: true }));
        assert_eq!(
            incoming.chunk(CHUNK * 2, 1024),
            Ok(Arrival::Gap { ask: false })
        );
        assert_eq!(incoming.chunk(0, 1024), Ok(Arrival::Next));
    }

    #[test]
    fn an_empty_file_is_complete_at_once() {
        assert!(Incoming::new(&offer(0), 0).is_complete());
    }

    proptest! {
        /// Whatever comes, nothing beyond the credit or the file counts as written.
        #[test]
        fn no_order_of_chunks_gets_past_the_credit(size in 0..200_000_u64, chunks in proptest::collection::vec((0..220_u64, 0..2_usize, any::<bool>()), 0..300)) {
            let mut incoming = Incoming::new(&offer(size), 0);
            for (number, short, sync) in chunks {
                let before = incoming.written;
                let offset = number * CHUNK;
                let length = (CHUNK.min(size.saturating_sub(offset)) as usize).saturating_sub(short);
                match incoming.chunk(offset, length) {
                    Ok(Arrival::Next) => prop_assert_eq!(incoming.written, before + length as u64),
                    _ => prop_assert_eq!(incoming.written, before),
                }
                if sync {
                    incoming.synced();
                }
                prop_assert!(incoming.have <= incoming.written && incoming.written <= incoming.until && incoming.until <= size);
                prop_assert!(incoming.until - incoming.have <= WINDOW_CHUNKS * CHUNK);
            }
        }
    }
}
