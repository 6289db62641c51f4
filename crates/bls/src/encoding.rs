//! Bytes of this crate's formats: big-endian integers, fixed fields, length-prefixed fields.
//! Reading is strict: every byte is used and every value has one encoding.

use crate::group::{ELEMENT_BYTES, G1, decode_g1};

/// Bytes that do not encode a value of the wanted type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid encoding")]
pub struct DecodeError;

/// Appends the fields of one value.
#[derive(Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A field whose length the format fixes.
    pub(crate) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A field of any length up to 4 GiB: u32 length, then the bytes.
    pub(crate) fn variable(mut self, bytes: &[u8]) -> Self {
        // Longer fields cannot arise: every input of this crate is bounded far below.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn points(self, points: &[G1]) -> Self {
        points
            .iter()
            .fold(self, |writer, point| writer.fixed(&point.compress()))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes the fields of one value from its bytes.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(DecodeError)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.take(N)?.try_into().map_err(|_| DecodeError)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A length-prefixed field of at most `limit` bytes.
    pub(crate) fn variable(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let length = u32::from_be_bytes(self.array()?);
        let length = usize::try_from(length).map_err(|_| DecodeError)?;
        if length > limit {
            Err(DecodeError)
        } else {
            self.take(length)
        }
    }

    /// `count` points of G1, each of order r and not infinity.
    pub(crate) fn points(&mut self, count: u8) -> Result<Vec<G1>, DecodeError> {
        (0..count)
            .map(|_| decode_g1(self.take(ELEMENT_BYTES)?).ok_or(DecodeError))
            .collect()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_nothing_is_left() {
        let bytes = Writer::new()
            .u8(7)
            .u64(9)
            .variable(b"abc")
            .fixed(b"xy")
            .finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.u64(), Ok(9));
        assert_eq!(reader.variable(3), Ok(&b"abc"[..]));
        assert_eq!(reader.array(), Ok(*b"xy"));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn short_long_and_trailing_are_refused() {
        let bytes = Writer::new().variable(b"abc").u8(1).finish();
        assert_eq!(Reader::new(&bytes).variable(2), Err(DecodeError));
        assert_eq!(Reader::new(&bytes[..5]).variable(3), Err(DecodeError));
        let mut reader = Reader::new(&bytes);
        assert!(reader.variable(3).is_ok());
        assert_eq!(reader.finish(), Err(DecodeError));
    }
}
