//! Bounded reading and writing of fixed-width big-endian fields (`docs/spec/session.md` §2).

use junto_crypto::{
    ed25519::{Signature, VerifyingKey},
    x25519,
};

/// The bytes are not the one valid encoding of what they claim to be. Names the part that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Reads fields from the front of a slice; never past its end.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn malformed(&self) -> Malformed {
        Malformed(self.what)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed(self.what))?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(Malformed(self.what))?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// Strictly 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    /// One length byte, then that many bytes.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u8()?;
        self.bytes(usize::from(count))
    }

    /// Two length bytes, then that many bytes.
    pub(crate) fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u16()?;
        self.bytes(usize::from(count))
    }

    pub(crate) fn text(&mut self, bytes: &'a [u8]) -> Result<&'a str, Malformed> {
        core::str::from_utf8(bytes).map_err(|_| self.malformed())
    }

    pub(crate) fn verifying_key(&mut self) -> Result<VerifyingKey, Malformed> {
        VerifyingKey::from_bytes(&self.array()?).map_err(|_| self.malformed())
    }

    pub(crate) fn exchange_key(&mut self) -> Result<x25519::PublicKey, Malformed> {
        self.array()
            .map(|bytes| x25519::PublicKey::from_bytes(&bytes))
    }

    pub(crate) fn signature(&mut self) -> Result<Signature, Malformed> {
        self.array().map(Signature)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Refuses trailing bytes.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed(self.what))
        }
    }
}

/// Appends fields to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]) -> &mut Self;

    fn put_u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    fn put_u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    fn put_u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    fn put_u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    fn put_flag(&mut self, value: bool) -> &mut Self {
        self.put_u8(u8::from(value))
    }

    /// One length byte first. Callers bound `bytes` when they make the value; anything longer is
    /// cut, so that the encoding stays well formed.
    fn put_short(&mut self, bytes: &[u8]) -> &mut Self {
        let count = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.put_u8(count).put(&bytes[..usize::from(count)])
    }

    /// Two length bytes first; bounded as [`Put::put_short`].
    fn put_long(&mut self, bytes: &[u8]) -> &mut Self {
        let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.put_u16(count).put(&bytes[..usize::from(count)])
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_and_nothing_may_follow() {
        let mut bytes = Vec::new();
        bytes
            .put_u8(1)
            .put_u16(2)
            .put_u32(3)
            .put_u64(4)
            .put_flag(true)
            .put_short(b"ab")
            .put_long(b"cde");
        let mut reader = Reader::new("thing", &bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.flag(), Ok(true));
        assert_eq!(reader.short(), Ok(&b"ab"[..]));
        assert_eq!(reader.long(), Ok(&b"cde"[..]));
        reader.finish().unwrap();
        let mut reader = Reader::new("thing", &bytes);
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.finish(), Err(Malformed("thing")));
    }

    #[test]
    fn a_flag_is_zero_or_one() {
        assert_eq!(Reader::new("thing", &[2]).flag(), Err(Malformed("thing")));
    }
}
