//! Numbers of messages, unique over all connections with a contact. No input or output.
//!
//! Each connection counts its own messages. The number that a client is told has the connection's place among those with
//! the contact above it, so with one connection it is that count; a program in any language can hold it exactly.

/// Bits of a connection's own count.
const COUNT_BITS: u32 = 32;
/// What all languages can count to exactly.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// The number of a message of the connection at this place, if there is one.
pub(super) fn of(place: usize, count: u64) -> Option<u64> {
    let place = u64::try_from(place).ok()?;
    let fits = count >> COUNT_BITS == 0 && place <= NUMBER_MAX >> COUNT_BITS;
    fits.then_some(place << COUNT_BITS | count)
}

/// The place of the connection, and the message's number there.
pub(super) fn parts(number: u64) -> (usize, u64) {
    let place = usize::try_from(number >> COUNT_BITS).unwrap_or(usize::MAX);
    (place, number & ((1 << COUNT_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_message_of_one_connection() {
        for (place, count, number) in [
            (0, 0, 0),
            (0, 17, 17),
            (0, u64::from(u32::MAX), (1 << 32) - 1),
            (1, 17, (1 << 32) + 17),
            ((1 << 21) - 1, u64::from(u32::MAX), NUMBER_MAX),
        ] {
            assert_eq!(of(place, count), Some(number));
            assert_eq!(parts(number), (place, count));
        }
        assert_eq!(of(0, 1 << 32), None);
        assert_eq!(of(1 << 21, 0), None);
        assert_eq!(parts(u64::MAX).0, (1 << 32) - 1);
    }
}
