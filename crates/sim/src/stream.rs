//! The reference model of messages from one party to another: what was sent, what arrived.

use std::collections::{BTreeMap, BTreeSet};

use junto_crypto::hash::sha256_of;

/// Bytes in front of a message's filling: sender, receiver, number.
const HEAD_BYTES: usize = 10;

/// Messages of one direction. Numbers start at 0, and a sender that does not know after a crash
/// whether a message was taken goes on with the next number.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Who sends.
    pub from: usize,
    /// Who receives.
    pub to: usize,
    /// Messages that the sender has tried to send.
    pub issued: u64,
    /// Those of which it knows that they were taken.
    pub confirmed: BTreeSet<u64>,
    /// What the receiver recorded, in its order.
    pub received: Vec<u64>,
    /// The sender's agent's numbers of those that were taken.
    pub ids: BTreeMap<u64, u64>,
    /// What the receiver was told is missing, by the numbers of the sender's agent, both ends included.
    pub missing: Vec<(u64, u64)>,
}

impl Stream {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(from: usize, to: usize) -> Self {
        Self {
            from,
            to,
            ..Self::default()
        }
    }

    /// The bytes of a message: `len` of them, or a little more for its head.
    #[must_use]
    pub fn body(&self, number: u64, len: usize) -> Vec<u8> {
        let mut body = vec![self.from as u8, self.to as u8];
        body.extend_from_slice(&number.to_be_bytes());
        let filling = sha256_of(&[&body]);
        body.extend(filling.iter().cycle().take(len.saturating_sub(HEAD_BYTES)));
        body
    }

    /// The number of a message, if its bytes are those that its sender gave it.
    #[must_use]
    pub fn read(&self, body: &[u8]) -> Option<u64> {
        let (head, _) = body.split_first_chunk::<HEAD_BYTES>()?;
        let number = u64::from_be_bytes(head[2..].try_into().ok()?);
        (self.body(number, body.len()) == body).then_some(number)
    }

    /// Messages that were taken from the sender and have not come, and of which nothing was told though a later one
    /// has come.
    pub fn lost_untold(&self) -> impl Iterator<Item = u64> {
        let last = self.received.iter().max();
        let absent = self
            .confirmed
            .iter()
            .filter(|it| !self.received.contains(it));
        let untold = absent.filter(move |number| {
            let is_over = last.is_some_and(|last| last > *number);
            let is_told = self.ids.get(number).is_some_and(|id| self.is_told(*id));
            is_over && !is_told
        });
        untold.copied()
    }

    /// Whether the receiver was told that this number of the sender's agent is missing.
    #[must_use]
    pub fn is_told(&self, id: u64) -> bool {
        let mut missing = self.missing.iter();
        missing.any(|(from, to)| (*from..=*to).contains(&id))
    }

    /// Whether all that must arrive has arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let received: BTreeSet<_> = self.received.iter().copied().collect();
        self.confirmed.is_subset(&received)
    }
}

impl core::fmt::Display for Stream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} to {}: issued {}, confirmed {:?}, received {:?}, told missing {:?}",
            self.from, self.to, self.issued, self.confirmed, self.received, self.missing
        )
    }
}
