//! The hash chain over a connection's messages, and what it says about each message that arrives.
//!
//! Every agent message has the next number and the SHA-256 of the whole agent message before it
//! (the connection information of the handshake is number 1). A sender keeps the last number and
//! hash of what it sent; a receiver the last number and hash of what it received.

use junto_crypto::hash::sha256;

use super::wire::{Malformed, Reader, put_short};

/// SHA-256 of one encoded agent message.
pub type MessageHash = [u8; 32];

/// What the chain says about a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// It follows the message before it.
    Ok,
    /// Messages are missing in front of it, `from` to `to` inclusive, by the sender's count.
    Skipped {
        /// First missing number.
        from: u64,
        /// Last missing number.
        to: u64,
    },
    /// It counted as missing, and came after all: a relay kept it back, or the way was long. It is opened by the key that
    /// was kept for it, so the peer has not gone back in time, unless it put it there in the place of what was lost.
    Late {
        /// The number that it has.
        id: u64,
    },
    /// Its number is lower than the last one, and it is none that was missing: the peer went back in time. One that
    /// restored an old copy of its database shows like this.
    BadId {
        /// The number that it has.
        id: u64,
    },
    /// Its number is that of the last message, its content is not.
    Duplicate,
    /// Its number is right but it follows another message than the one we received.
    BadHash,
}

/// Numbers our messages on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendChain {
    last_id: u64,
    last_hash: Option<MessageHash>,
}

impl SendChain {
    /// The number for the next message.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// The hash to put into the next message; empty before the first.
    #[must_use]
    pub fn previous_hash(&self) -> &[u8] {
        self.last_hash.as_ref().map_or(&[], <[u8; 32]>::as_slice)
    }

    /// Records that this encoded agent message has the next number.
    pub fn push(&mut self, encoded: &[u8]) -> MessageHash {
        let hash = sha256(encoded);
        self.last_id += 1;
        self.last_hash = Some(hash);
        hash
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&self.last_id.to_be_bytes());
        put_short(out, self.previous_hash())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (last_id, last_hash) = read_position(reader)?;
        Ok(Self { last_id, last_hash })
    }
}

/// Judges the peer's messages on one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiveChain {
    last_id: u64,
    last_hash: Option<MessageHash>,
}

impl ReceiveChain {
    /// Starts after the peer's connection information, its message number 1.
    #[must_use]
    pub fn after_handshake(encoded: &[u8]) -> Self {
        Self {
            last_id: 1,
            last_hash: Some(sha256(encoded)),
        }
    }

    /// The number that the next message should have.
    #[must_use]
    pub fn expected_id(&self) -> u64 {
        self.last_id.saturating_add(1)
    }

    /// Judges a message with this number and previous hash, and makes it the last one.
    ///
    /// A message is recorded even when it does not fit: the sender is at that point now, and
    /// the next message is judged against it.
    pub fn accept(&mut self, id: u64, previous_hash: &[u8], encoded: &[u8]) -> Integrity {
        let fits = previous_hash
            == self
                .last_hash
                .as_ref()
                .map_or(&[][..], <[u8; 32]>::as_slice);
        let expected = self.expected_id();
        let verdict = match id {
            _ if id == expected && fits => Integrity::Ok,
            _ if id == expected => Integrity::BadHash,
            _ if id < self.last_id => Integrity::BadId { id },
            _ if id == self.last_id => Integrity::Duplicate,
            _ => Integrity::Skipped {
                from: expected,
                to: id - 1,
            },
        };
        self.last_id = id;
        self.last_hash = Some(sha256(encoded));
        verdict
    }

    /// Counts a message that does not say its number, taking it for the next one: if others are missing
    /// before it, the one after it says how many.
    pub(super) fn count(&mut self, encoded: &[u8]) {
        self.last_id = self.expected_id();
        self.last_hash = Some(sha256(encoded));
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&self.last_id.to_be_bytes());
        put_short(
            out,
            self.last_hash.as_ref().map_or(&[], <[u8; 32]>::as_slice),
        )
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (last_id, last_hash) = read_position(reader)?;
        Ok(Self { last_id, last_hash })
    }
}

fn read_position(reader: &mut Reader<'_>) -> Result<(u64, Option<MessageHash>), Malformed> {
    let id = reader.u64()?;
    let hash = match reader.short()? {
        [] => None,
        bytes => Some(bytes.try_into().map_err(|_| Malformed::Long)?),
    };
    Ok((id, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received_two() -> ReceiveChain {
        let mut chain = ReceiveChain::after_handshake(b"info");
        assert_eq!(chain.accept(2, &sha256(b"info"), b"two"), Integrity::Ok);
        chain
    }

    #[test]
    fn numbers_and_hashes_follow_each_other() {
        let mut ours = SendChain::default();
        assert_eq!((ours.next_id(), ours.previous_hash()), (1, &[][..]));
        ours.push(b"info");
        assert_eq!(
            (ours.next_id(), ours.previous_hash()),
            (2, &sha256(b"info")[..])
        );
        ours.push(b"two");
        let mut peer = received_two();
        assert_eq!(
            peer.accept(ours.next_id(), ours.previous_hash(), b"three"),
            Integrity::Ok
        );
    }

    #[test]
    fn every_kind_of_misfit_has_its_verdict() {
        let hash = sha256(b"two");
        assert_eq!(received_two().accept(3, &hash, b"x"), Integrity::Ok);
        assert_eq!(received_two().accept(3, &[0; 32], b"x"), Integrity::BadHash);
        assert_eq!(received_two().accept(3, &[], b"x"), Integrity::BadHash);
        assert_eq!(received_two().accept(2, &hash, b"x"), Integrity::Duplicate);
        assert_eq!(
            received_two().accept(1, &hash, b"x"),
            Integrity::BadId { id: 1 }
        );
        assert_eq!(
            received_two().accept(9, &hash, b"x"),
            Integrity::Skipped { from: 3, to: 8 }
        );
        let last = received_two().accept(u64::MAX, &hash, b"x");
        assert_eq!(
            last,
            Integrity::Skipped {
                from: 3,
                to: u64::MAX - 1
            }
        );
    }

    #[test]
    fn a_message_without_a_number_takes_one() {
        let mut chain = received_two();
        chain.count(b"R");
        let next = chain.clone().accept(4, &sha256(b"R"), b"four");
        assert_eq!(next, Integrity::Ok);
        // Two were lost before it.
        let next = chain.accept(6, &sha256(b"R"), b"six");
        assert_eq!(next, Integrity::Skipped { from: 4, to: 5 });
    }

    #[test]
    fn a_chain_at_the_last_number_does_not_overflow() {
        let mut chain = received_two();
        chain.accept(u64::MAX, &[], b"x");
        assert_eq!(chain.accept(u64::MAX, &[], b"x"), Integrity::BadHash);
    }

    #[test]
    fn positions_survive_storage() {
        for chain in [ReceiveChain::default(), received_two()] {
            let mut stored = Vec::new();
            chain.put(&mut stored).unwrap();
            assert_eq!(ReceiveChain::read(&mut Reader::new(&stored)), Ok(chain));
        }
    }
}
