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
