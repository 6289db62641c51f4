//! Versions that the two ends agree on.

use core::fmt;
use core::str::FromStr;

use super::wire::Malformed;

/// The agent protocol that we speak on every connection.
pub(crate) const AGENT: u16 = 7;
/// The oldest agent protocol whose envelopes we read: the one with ratchets from the confirmation on.
pub(crate) const AGENT_MIN: u16 = 7;
/// What our links offer of the agent protocol, as today's SimpleX agents print it.
pub(crate) const AGENT_RANGE: VersionRange = VersionRange { min: 2, max: 7 };
/// The version of queue addresses and of the per-queue layer that we speak.
pub(crate) const QUEUE: u16 = 4;
/// The oldest version of queue addresses and of the per-queue layer that we read.
pub(crate) const QUEUE_MIN: u16 = 4;
/// What our links offer of queue addresses.
pub(crate) const QUEUE_RANGE: VersionRange = VersionRange { min: 1, max: 4 };
/// The version of the double ratchet that we speak (post-quantum capable).
pub(crate) const RATCHET: u16 = 3;

/// An inclusive range of versions, `min ≤ max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    min: u16,
    max: u16,
}

impl VersionRange {
    /// A range; `None` if it is empty or contains version 0.
    #[must_use]
    pub const fn new(min: u16, max: u16) -> Option<Self> {
        if min == 0 || min > max {
            None
        } else {
            Some(Self { min, max })
        }
    }

    /// The lowest version in the range.
    #[must_use]
    pub const fn min(self) -> u16 {
        self.min
    }

    /// The highest version in the range.
    #[must_use]
    pub const fn max(self) -> u16 {
        self.max
    }

    /// Whether the range has this version.
    #[must_use]
    pub const fn contains(self, version: u16) -> bool {
        self.min <= version && version <= self.max
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "{}", self.min)
        } else {
            write!(f, "{}-{}", self.min, self.max)
        }
    }
}

impl FromStr for VersionRange {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = |digits: &str| -> Result<u16, Malformed> {
            // `parse` alone would also take "+7" and "007".
            let value: u16 = digits.parse().map_err(|_| Malformed::Version)?;
            if value.to_string() == digits {
                Ok(value)
            } else {
                Err(Malformed::Version)
            }
        };
        let (min, max) = match text.split_once('-') {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(text)?, number(text)?),
        };
        Self::new(min, max).ok_or(Malformed::Version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_read_what_they_print() {
        for text in ["2-7", "4", "1-65535"] {
            assert_eq!(
                text.parse::<VersionRange>().map(|r| r.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["", "-", "7-2", "0-1", "+1", "01", "1-2-3", "65536", " 1"] {
            assert_eq!(
                text.parse::<VersionRange>(),
                Err(Malformed::Version),
                "{text:?}"
            );
        }
    }
}
