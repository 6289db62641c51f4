//! Versions of the ratchet: 2 (key derivation in X3DH) and 3 (post-quantum steps).

use crate::{RatchetError, wire::Reader};

/// A version that this crate speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// No key encapsulation; 1-byte lengths around headers.
    V2,
    /// Optional key encapsulation in headers; 2-byte lengths around headers.
    V3,
}

impl Version {
    /// The newest version that we speak.
    pub const MAX: Self = Self::V3;

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// The version with this number.
    ///
    /// # Errors
    /// [`RatchetError::Version`] for a version that this crate does not speak.
    pub fn from_number(number: u16) -> Result<Self, RatchetError> {
        match number {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            _ => Err(RatchetError::Version),
        }
    }

    /// The newest version that we speak and that is not above `number`, a peer's maximum.
    pub(crate) fn at_most(number: u16) -> Option<Self> {
        match number {
            0 | 1 => None,
            2 => Some(Self::V2),
            _ => Some(Self::V3),
        }
    }
}

/// The versions that the maker of a link offers: minimum and maximum as on the wire, so a peer's
/// may go beyond what we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    min: u16,
    max: u16,
}

impl VersionRange {
    /// All versions that we speak.
    pub const OURS: Self = Self { min: 2, max: 3 };

    /// A range.
    ///
    /// # Errors
    /// [`RatchetError::Malformed`] unless `min` ≤ `max`.
    pub fn new(min: u16, max: u16) -> Result<Self, RatchetError> {
        if min <= max {
            Ok(Self { min, max })
        } else {
            Err(RatchetError::Malformed)
        }
    }

    /// The lowest version.
    #[must_use]
    pub fn min(self) -> u16 {
        self.min
    }

    /// The highest version.
    #[must_use]
    pub fn max(self) -> u16 {
        self.max
    }

    /// The newest version within this range that is not above `ours`.
    pub(crate) fn common(self, ours: Version) -> Result<Version, RatchetError> {
        let version = Version::at_most(self.max.min(ours.number())).ok_or(RatchetError::Version)?;
        if version.number() >= self.min {
            Ok(version)
        } else {
            Err(RatchetError::Version)
        }
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.min.to_be_bytes());
        out.extend_from_slice(&self.max.to_be_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, RatchetError> {
        Self::new(reader.u16()?, reader.u16()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_wins() {
        let common = |min, max, ours| VersionRange::new(min, max).unwrap().common(ours);
        assert_eq!(common(2, 3, Version::V3), Ok(Version::V3));
        assert_eq!(common(2, 3, Version::V2), Ok(Version::V2));
        assert_eq!(common(2, 2, Version::V3), Ok(Version::V2));
        assert_eq!(common(1, 9, Version::V3), Ok(Version::V3));
        assert_eq!(common(3, 9, Version::V2), Err(RatchetError::Version));
        assert_eq!(common(4, 9, Version::V3), Err(RatchetError::Version));
        assert_eq!(common(0, 1, Version::V3), Err(RatchetError::Version));
        assert_eq!(VersionRange::new(3, 2), Err(RatchetError::Malformed));
    }
}
