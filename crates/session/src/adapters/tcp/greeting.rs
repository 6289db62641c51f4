//! Whose a program believes a connection to be.

use crate::PartyIndex;

/// By what a program takes a connection that comes in for one of a certain party.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Greeting {
    /// By nothing that is known here: it proves who is who itself, or believes what it hears.
    #[default]
    Unknown,
    /// As MPyC does: whoever connects says its own number first, in two bytes, the lower one first.
    Mpyc,
}

/// Bytes that tell: the most that any [`Greeting`] has.
pub(super) const GREETING: usize = 2;
/// What a connection begins with that is TLS, by which MPyC's `--ssl` hides its greeting. As a number it is nobody's,
/// so that a program without `--ssl` takes it for nobody.
const TLS: [u8; GREETING] = [0x16, 0x03];

impl Greeting {
    /// Whether a connection has to begin with one.
    pub(super) fn is_known(self) -> bool {
        self != Self::Unknown
    }

    /// Whether a connection of `party` may begin so.
    pub(super) fn admits(self, party: PartyIndex, head: [u8; GREETING]) -> bool {
        match self {
            Self::Unknown => true,
            Self::Mpyc => head == party.as_u16().to_le_bytes() || head == TLS,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_party_is_greeted_by_its_own_number() {
        let two = PartyIndex::new(2).unwrap();
        assert!(Greeting::Mpyc.admits(two, [2, 0]));
        assert!(Greeting::Mpyc.admits(two, TLS));
        for other in [[0, 0], [1, 0], [0, 2], [2, 1], [0x16, 0x02]] {
            assert!(!Greeting::Mpyc.admits(two, other), "{other:?}");
            assert!(Greeting::Unknown.admits(two, other));
        }
        // No party has the number that TLS begins with.
        assert_eq!(PartyIndex::new(usize::from(u16::from_le_bytes(TLS))), None);
    }
}
