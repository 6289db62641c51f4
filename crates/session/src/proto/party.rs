//! Parties by number, sets of them, and the names they show.

use core::fmt;

use super::{
    limits::{DISPLAY_NAME_BYTES_MAX, PARTIES_MAX, PARTIES_MIN},
    wire::Malformed,
};

/// A party's rank in the roster: 0 ≤ index < n ≤ 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartyIndex(u8);

impl PartyIndex {
    /// The party of that rank, if one can exist.
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index)
            .ok()
            .filter(|&index| usize::from(index) < PARTIES_MAX)
            .map(Self)
    }

    /// As a position in the roster.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }

    /// As most protocol crates count.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        u16::from(self.0)
    }

    pub(crate) fn as_u8(self) -> u8 {
        self.0
    }

    pub(crate) fn decode(byte: u8) -> Result<Self, Malformed> {
        Self::new(usize::from(byte)).ok_or(Malformed("party index"))
    }
}

impl fmt::Display for PartyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PartyIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{}", self.0)
    }
}

/// How many parties a session has: 2 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartyCount(u8);

impl PartyCount {
    /// That many parties.
    ///
    /// # Errors
    /// [`Malformed`] outside 2..=64.
    pub fn new(count: usize) -> Result<Self, Malformed> {
        if (PARTIES_MIN..=PARTIES_MAX).contains(&count) {
            u8::try_from(count)
                .map(Self)
                .map_err(|_| Malformed("party count"))
        } else {
            Err(Malformed("party count"))
        }
    }

    /// The number.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn as_u8(self) -> u8 {
        self.0
    }
}

impl fmt::Display for PartyCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of parties.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Members(u64);

impl Members {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Everybody in a session of `count`.
    #[must_use]
    pub fn all(count: PartyCount) -> Self {
        Self(u64::MAX >> (PARTIES_MAX - count.as_usize()))
    }

    /// Whether `party` is in the set.
    #[must_use]
    pub fn contains(self, party: PartyIndex) -> bool {
        self.0 >> party.0 & 1 == 1
    }

    /// The set with `party`.
    #[must_use]
    pub fn with(self, party: PartyIndex) -> Self {
        Self(self.0 | 1 << party.0)
    }

    /// The set without `party`.
    #[must_use]
    pub fn without(self, party: PartyIndex) -> Self {
        Self(self.0 & !(1 << party.0))
    }

    /// Those of the set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` are in the set.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        other.minus(self).is_empty()
    }

    /// Whether nobody is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Rank of `party` among the members: how many come before it.
    #[must_use]
    pub fn rank(self, party: PartyIndex) -> usize {
        (self.0 & ((1 << party.0) - 1)).count_ones() as usize
    }

    /// The member of that rank.
    #[must_use]
    pub fn nth(self, rank: usize) -> Option<PartyIndex> {
        self.iter().nth(rank)
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = PartyIndex> + Clone {
        (0..64u8)
            .map(PartyIndex)
            .filter(move |&party| self.contains(party))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl FromIterator<PartyIndex> for Members {
    fn from_iter<I: IntoIterator<Item = PartyIndex>>(parties: I) -> Self {
        parties.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, party) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            party.fmt(f)?;
        }
        Ok(())
    }
}

/// What a party calls itself: 0 to 32 bytes of UTF-8 without control characters. Proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct DisplayName(String);

impl DisplayName {
    /// That name.
    ///
    /// # Errors
    /// [`Malformed`] if it is too long, holds control characters, or begins or ends with a space.
    pub fn new(name: &str) -> Result<Self, Malformed> {
        check_text(name, DISPLAY_NAME_BYTES_MAX, "display name").map(|()| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters, and those that nobody sees or that reorder a line: a text must not be able to rewrite its
/// neighbour, or to look like another one.
fn hides_text(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text that a terminal may show: bounded, trimmed, and nothing in it hides.
pub(crate) fn check_text(
    text: &str,
    bytes_max: usize,
    what: &'static str,
) -> Result<(), Malformed> {
    if text.len() > bytes_max || text.chars().any(hides_text) || text.trim() != text {
        return Err(Malformed(what));
    }
    Ok(())
}

/// What [`check_text`] lets pass of any text: spaces for what hides, as much of it as there is room for.
pub(crate) fn shown_text(text: &str, bytes_max: usize) -> String {
    let visible = |c| if hides_text(c) { ' ' } else { c };
    let mut shown: String = text.chars().map(visible).collect();
    shown.truncate(shown.floor_char_boundary(bytes_max));
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_hold_up_to_64() {
        let all = Members::all(PartyCount::new(64).unwrap());
        assert_eq!(all.len(), 64);
        assert_eq!(Members::all(PartyCount::new(2).unwrap()).len(), 2);
        let last = PartyIndex::new(63).unwrap();
        assert!(all.contains(last));
        assert_eq!(all.rank(last), 63);
        assert_eq!(all.without(last).len(), 63);
        assert!(PartyIndex::new(64).is_none());
    }

    #[test]
    fn counts_are_2_to_64() {
        assert!(PartyCount::new(1).is_err());
        assert!(PartyCount::new(65).is_err());
    }

    proptest! {
        #[test]
        fn any_text_can_be_shown(text in "\\PC{0,20}|[\\s\\S]{0,300}|[a \u{85}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2060}-\u{206f}\u{feff}]{0,90}", bytes_max in 0usize..300) {
            let shown = shown_text(&text, bytes_max);
            prop_assert!(check_text(&shown, bytes_max, "text").is_ok(), "{:?}", shown);
            if check_text(&text, bytes_max, "text").is_ok() {
                prop_assert_eq!(shown, text);
            }
        }
    }

    #[test]
    fn names_cannot_hide_text() {
        assert!(DisplayName::new("Ada").is_ok());
        assert!(DisplayName::new("").is_ok());
        for bad in ["a\nb", " a", "a\u{202e}b", &"x".repeat(33)] {
            assert!(DisplayName::new(bad).is_err(), "{bad:?}");
        }
    }
}
