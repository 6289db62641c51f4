//! Strict reading of this crate's formats: every byte is used, every value has one encoding.

use curve25519_dalek::{
    ristretto::{CompressedRistretto, RistrettoPoint},
    scalar::Scalar,
    traits::Identity,
};

/// Bytes that do not encode a value of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid encoding")]
pub struct DecodeError;

/// Takes the fields of one value from its bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError),
        }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(DecodeError)?;
        self.0 = rest;
        Ok(head)
    }

    /// Two bytes of length, then that many.
    pub(crate) fn piece(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = usize::from(self.u16()?);
        self.bytes(count)
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing is left but padding.
    pub(crate) fn finish_padded(self) -> Result<(), DecodeError> {
        if self.0.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(DecodeError)
        }
    }

    pub(crate) fn point(&mut self) -> Result<RistrettoPoint, DecodeError> {
        point(&self.array()?)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError)
        }
    }
}

/// Writes what [`Reader::piece`] reads.
pub(crate) fn put_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    // Rosters and deposits: some thousand bytes at most.
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A point in its one encoding, and not the identity, which would reveal or contribute nothing.
pub(crate) fn point(bytes: &[u8; 32]) -> Result<RistrettoPoint, DecodeError> {
    CompressedRistretto(*bytes)
        .decompress()
        .filter(|point| *point != RistrettoPoint::identity())
        .ok_or(DecodeError)
}

/// A scalar below the group's order.
pub(crate) fn scalar(bytes: [u8; 32]) -> Result<Scalar, DecodeError> {
    Scalar::from_canonical_bytes(bytes)
        .into_option()
        .ok_or(DecodeError)
}
