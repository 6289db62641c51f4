//! Parties, share indices and thresholds.

use core::fmt;

use crate::lagrange::INDEX_MAX;

/// Most parties in one run and most holders of one key.
pub const PARTIES_MAX: u8 = INDEX_MAX;

/// A party of a session: its place in the roster, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartyIndex(u8);

impl PartyIndex {
    /// The party at `index` of the roster; `None` from [`PARTIES_MAX`] on.
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index < PARTIES_MAX {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The place in the roster, from 0.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }

    pub(crate) fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..PARTIES_MAX).take(count).map(Self)
    }

    pub(crate) fn place(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PartyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "party {}", self.0)
    }
}

/// A holder of a key: the point, from 1, at which its share is the sharing polynomial's value.
/// It belongs to the key and stays when the key is used in another session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShareIndex(u8);

impl ShareIndex {
    /// The holder at `index`; `None` for 0 and above [`PARTIES_MAX`].
    #[must_use]
    pub const fn new(index: u8) -> Option<Self> {
        if index > 0 && index <= PARTIES_MAX {
            Some(Self(index))
        } else {
            None
        }
    }

    /// The index, from 1.
    #[must_use]
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ShareIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "holder {}", self.0)
    }
}

/// `required` of `holders` must sign; 2 ≤ required ≤ holders ≤ 64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Threshold {
    required: u8,
    holders: u8,
}

impl Threshold {
    /// `required` of `holders`; `None` outside 2 ≤ required ≤ holders ≤ [`PARTIES_MAX`].
    #[must_use]
    pub const fn new(required: u8, holders: u8) -> Option<Self> {
        if required >= 2 && required <= holders && holders <= PARTIES_MAX {
            Some(Self { required, holders })
        } else {
            None
        }
    }

    /// How many holders must sign.
    #[must_use]
    pub const fn required(self) -> u8 {
        self.required
    }

    /// How many holders there are.
    #[must_use]
    pub const fn holders(self) -> u8 {
        self.holders
    }

    /// All share indices of such a key.
    pub fn indices(self) -> impl Iterator<Item = ShareIndex> {
        (1..=self.holders).map(ShareIndex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        for (required, holders, valid) in [
            (1, 2, false),
            (2, 2, true),
            (3, 2, false),
            (64, 64, true),
            (2, 65, false),
            (0, 0, false),
        ] {
            assert_eq!(
                Threshold::new(required, holders).is_some(),
                valid,
                "{required}/{holders}"
            );
        }
        assert!(PartyIndex::new(63).is_some() && PartyIndex::new(64).is_none());
        assert!(ShareIndex::new(0).is_none() && ShareIndex::new(64).is_some());
        assert!(ShareIndex::new(65).is_none());
    }
}
