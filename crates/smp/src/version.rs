//! Protocol versions and their negotiation (reference §1).

use core::fmt;

use crate::encoding::{DecodeError, Reader, Writer};

/// A version of SMP that this crate speaks: 15 to 20, nothing older (design D1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u16);

impl Version {
    /// The oldest: short links, queue modes.
    pub const MIN: Self = Self(15);
    /// The newest: name resolution (which this relay refuses).
    pub const MAX: Self = Self(20);
    /// Every supported version, oldest first.
    pub const ALL: [Self; 6] = [Self(15), Self(16), Self(17), Self(18), Self(19), Self(20)];

    /// The version with this number.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0)
            .contains(&number)
            .then_some(Self(number))
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// 16 and later: service certificates. Every non-empty authorisation is followed by an optional
    /// service signature (trap 2), `SUB` is answered by `SOK`.
    #[must_use]
    pub fn has_services(self) -> bool {
        self.0 >= 16
    }

    /// 17 and later: `NEW` and `IDS` carry notifier credentials.
    #[must_use]
    pub fn has_notifier_in_new(self) -> bool {
        self.0 >= 17
    }

    /// 18 and later: `BLOCKED` may carry a notice.
    #[must_use]
    pub fn has_notices(self) -> bool {
        self.0 >= 18
    }

    /// 19 and later: counts and hashes in service subscriptions.
    #[must_use]
    pub fn has_service_counts(self) -> bool {
        self.0 >= 19
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one side offers: versions `min` to `max`, inclusive. A peer's offer may reach beyond what
/// we speak, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    min: u16,
    max: u16,
}

impl VersionRange {
    /// Everything this crate speaks, 15 to 20.
    pub const SUPPORTED: Self = Self {
        min: Version::MIN.0,
        max: Version::MAX.0,
    };

    /// `min` to `max`; `None` if they are in the wrong order.
    #[must_use]
    pub fn new(min: u16, max: u16) -> Option<Self> {
        (min <= max).then_some(Self { min, max })
    }

    /// One version.
    #[must_use]
    pub fn only(version: Version) -> Self {
        Self {
            min: version.0,
            max: version.0,
        }
    }

    /// Lowest version offered.
    #[must_use]
    pub fn min(self) -> u16 {
        self.min
    }

    /// Highest version offered.
    #[must_use]
    pub fn max(self) -> u16 {
        self.max
    }

    /// Whether `number` is offered.
    #[must_use]
    pub fn contains(self, number: u16) -> bool {
        (self.min..=self.max).contains(&number)
    }

    /// The highest version that both sides offer and this crate speaks.
    #[must_use]
    pub fn highest_common(self, other: Self) -> Option<Version> {
        let max = self.max.min(other.max).min(Version::MAX.0);
        let min = self.min.max(other.min);
        if max < min { None } else { Version::new(max) }
    }

    pub(crate) fn encode(self, writer: &mut Writer<'_>) {
        writer.u16(self.min);
        writer.u16(self.max);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (min, max) = (reader.u16()?, reader.u16()?);
        Self::new(min, max).ok_or(DecodeError::Invalid("version range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_takes_the_highest_common_supported_version() {
        let ours = VersionRange::SUPPORTED;
        let with = |min, max| {
            ours.highest_common(VersionRange::new(min, max).unwrap())
                .map(Version::number)
        };
        assert_eq!(with(6, 20), Some(20));
        assert_eq!(with(6, 18), Some(18));
        assert_eq!(with(15, 15), Some(15));
        assert_eq!(with(18, 25), Some(20));
        assert_eq!(with(6, 14), None);
        assert_eq!(with(21, 25), None);
        assert_eq!(VersionRange::new(3, 2), None);
    }

    #[test]
    fn only_known_numbers_are_versions() {
        assert_eq!(Version::new(14), None);
        assert_eq!(Version::new(21), None);
        assert!(Version::ALL.iter().all(|v| Version::new(v.0) == Some(*v)));
    }
}
