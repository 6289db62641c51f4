//! The sender's half of a transfer: what the receiver has given credit for.

use crate::frame::Offer;
use crate::incoming::{Fault, WINDOW_CHUNKS};

/// See the module.
#[derive(Debug)]
pub struct Outgoing {
    size: u64,
    chunk: u64,
    attempt: u32,
    /// Where to go on; none before the receiver has answered this attempt.
    next: Option<u64>,
    until: u64,
    have: u64,
}

impl Outgoing {
    /// A file that is offered, or offered again.
    #[must_use]
    pub fn new(offer: &Offer) -> Self {
        Self {
            size: offer.size,
            chunk: u64::from(offer.chunk),
            attempt: offer.attempt,
            next: None,
            until: 0,
            have: 0,
        }
    }

    /// Bytes that the receiver says it has durably.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Takes a grant. Those of other attempts mean nothing. Whatever a receiver asks for, no more than
    /// [`WINDOW_CHUNKS`] are under way.
    ///
    /// # Errors
    /// [`Fault::Grant`].
    pub fn grant(&mut self, attempt: u32, have: u64, until: u64) -> Result<(), Fault> {
        if attempt != self.attempt {
            return Ok(());
        }
        let at_chunk = |place: u64| place == self.size || place.is_multiple_of(self.chunk);
        if have > until || until > self.size || !at_chunk(have) || !at_chunk(until) {
            return Err(Fault::Grant);
        }
        match self.next {
            None => self.next = Some(have),
            Some(next) if have > next => return Err(Fault::Grant),
            Some(_) => {}
        }
        let window = have.saturating_add(WINDOW_CHUNKS * self.chunk);
        self.until = self.until.max(until.min(window));
        self.have = self.have.max(have);
        Ok(())
    }

    /// The place and length of the next chunk that may be sent; it counts as sent.
    pub fn take(&mut self) -> Option<(u64, usize)> {
        let offset = self.next.filter(|next| *next < self.until)?;
        let length = self.chunk.min(self.size - offset);
        self.next = Some(offset + length);
        // A chunk has less than 64 KiB.
        Some((offset, length as usize))
    }

    /// Whether all of it is sent in this attempt.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.next == Some(self.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Body, CHUNK_MIN};
    use crate::incoming::{Arrival, Incoming};

    const CHUNK: u64 = CHUNK_MIN as u64;

    fn offer(size: u64, attempt: u32) -> Offer {
        Offer {
            attempt,
            size,
            chunk: CHUNK_MIN,
            sha256: [0; 32],
            name: "a".to_owned(),
        }
    }

    #[test]
    fn nothing_is_sent_without_credit() {
        let mut outgoing = Outgoing::new(&offer(3 * CHUNK - 1, 2));
        assert_eq!(outgoing.take(), None);
        // That of the attempt before.
        outgoing.grant(1, 0, 2 * CHUNK).unwrap();
        assert_eq!(outgoing.take(), None);
        outgoing.grant(2, CHUNK, 3 * CHUNK - 1).unwrap();
        assert_eq!(outgoing.take(), Some((CHUNK, 1024)));
        assert_eq!(outgoing.take(), Some((2 * CHUNK, 1023)));
        assert_eq!(outgoing.take(), None);
        assert!(outgoing.is_sent());
    }

    #[test]
    fn a_receiver_cannot_ask_for_what_there_is_not_nor_for_too_much_at_once() {
        let size = 1000 * CHUNK;
        for (have, until) in [
            (0, size + 1),
            (size + 1, size + 1),
            (CHUNK, 0),
            (1, CHUNK),
            (0, 1),
            (u64::MAX, u64::MAX),
        ] {
            let mut outgoing = Outgoing::new(&offer(size, 1));
            assert_eq!(outgoing.grant(1, have, until), Err(Fault::Grant));
        }
        let mut outgoing = Outgoing::new(&offer(size, 1));
        outgoing.grant(1, 0, size).unwrap();
        assert_eq!(
            std::iter::from_fn(|| outgoing.take()).count() as u64,
            WINDOW_CHUNKS
        );
        // It cannot have what was not sent.
        let beyond = (WINDOW_CHUNKS + 1) * CHUNK;
        assert_eq!(outgoing.grant(1, beyond, beyond), Err(Fault::Grant));
    }

    proptest! {
        /// Both halves, with messages that get lost, sides that forget what is not durable, and new attempts: the
        /// file arrives, once the losses end.
        #[test]
        fn both_halves_get_the_file_across(size in 0..300_000_u64, mishaps in proptest::collection::vec(0..4_u8, 0..60)) {
            let mut attempt = 1;
            let mut durable = 0;
            let mut outgoing = Outgoing::new(&offer(size, attempt));
            let mut incoming = Incoming::new(&offer(size, attempt), durable);
            let mut mishaps = mishaps.into_iter();
            let mut rounds = 0;
            while !incoming.is_complete() {
                rounds += 1;
                prop_assert!(rounds < 1000);
                let Body::Grant { attempt: of, have, until } = incoming.grant() else { unreachable!() };
                prop_assert_eq!(outgoing.grant(of, have, until), Ok(()));
                let mishap = mishaps.next();
                let mut again = mishap == Some(1);
                let mut first = true;
                while let Some((offset, length)) = outgoing.take() {
                    if first && mishap == Some(0) {
                        first = false;
                        continue;
                    }
                    match incoming.chunk(offset, length) {
                        Ok(Arrival::Next | Arrival::Known) => {}
                        Ok(Arrival::Gap { ask }) => again |= ask,
                        Err(fault) => prop_assert!(false, "{fault}"),
                    }
                    if incoming.is_due() {
                        incoming.synced();
                        durable = incoming.have();
                    }
                }
                // One that lost its only chunk hears of no gap: its user runs it again.
                again |= !first;
                if mishap == Some(2) {
                    // Killed: what was not durable comes again from the agent, here from the next attempt.
                    again = true;
                } else {
                    incoming.synced();
                    durable = incoming.have();
                }
                if again {
                    attempt += 1;
                    outgoing = Outgoing::new(&offer(size, attempt));
                    incoming = Incoming::new(&offer(size, attempt), durable);
                }
            }
            prop_assert_eq!(durable, size);
        }
    }
}
