//! Data behind a short link (reference §6): two encrypted blobs that a relay keeps for whoever
//! has the link, and cannot read.

use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::SenderId,
};

/// Bytes of the largest fixed blob: what clients pad it to.
pub const FIXED_BYTES_MAX: usize = 2_048;
/// Bytes of the largest user blob: what clients pad it to.
pub const USER_BYTES_MAX: usize = 13_824;

/// The two blobs, neither longer than its limit.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkBlobs<'a> {
    fixed: &'a [u8],
    user: &'a [u8],
}

impl core::fmt::Debug for LinkBlobs<'_> {
    /// Their lengths only.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "LinkBlobs({}, {})", self.fixed.len(), self.user.len())
    }
}

impl<'a> LinkBlobs<'a> {
    /// Checks the lengths: at most [`FIXED_BYTES_MAX`] and [`USER_BYTES_MAX`].
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn new(fixed: &'a [u8], user: &'a [u8]) -> Result<Self, DecodeError> {
        if fixed.len() > FIXED_BYTES_MAX || user.len() > USER_BYTES_MAX {
            return Err(DecodeError::Invalid("link data"));
        }
        Ok(Self { fixed, user })
    }

    /// The part that the link's hash pins; it never changes.
    #[must_use]
    pub fn fixed(&self) -> &'a [u8] {
        self.fixed
    }

    /// The part that the owner may change.
    #[must_use]
    pub fn user(&self) -> &'a [u8] {
        self.user
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.large(self.fixed);
        writer.large(self.user);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (fixed, user) = (reader.large()?, reader.large()?);
        Self::new(fixed, user)
    }
}

/// A queue's sender id and blobs: what its creator brings, and what readers of the link get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkData<'a> {
    /// Where to send. In `NEW` the one that the creator chose, see
    /// [`crate::id::CorrelationId::derived_sender_id`].
    pub sender: SenderId,
    /// The blobs.
    pub blobs: LinkBlobs<'a>,
}

impl<'a> LinkData<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        self.sender.encode(writer);
        self.blobs.encode(writer);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            sender: SenderId::decode(reader)?,
            blobs: LinkBlobs::decode(reader)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_bounded() {
        let (fixed, user) = ([1; FIXED_BYTES_MAX + 1], [2; USER_BYTES_MAX + 1]);
        assert!(LinkBlobs::new(&fixed[1..], &user[1..]).is_ok());
        assert!(LinkBlobs::new(&fixed, &user[1..]).is_err());
        assert!(LinkBlobs::new(&fixed[1..], &user).is_err());
        assert!(LinkBlobs::new(&[], &[]).is_ok());
    }

    #[test]
    fn debug_output_is_silent() {
        let blobs = LinkBlobs::new(b"secret", b"text").unwrap();
        assert_eq!(format!("{blobs:?}"), "LinkBlobs(6, 4)");
    }
}
