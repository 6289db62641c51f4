//! Primitives of the SMP encoding (reference §3.1): big-endian integers, short (1-byte length) and
//! large (2-byte length) strings, `0`/`1` optionals, `F`/`T` booleans.
//!
//! Reading is strict: every value has exactly one encoding, lengths are checked before use, and
//! nothing is copied or allocated. Writing goes into a slice that the caller bounds.

/// Why bytes are no SMP value. One kind is enough: the protocol has one answer for all of them
/// (`ERR CMD SYNTAX` for a command, `ERR BLOCK` for framing).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended before the value did.
    #[error("input ends too early")]
    Truncated,
    /// Bytes are left after the value.
    #[error("bytes left after the value")]
    Trailing,
    /// A byte, length or key is not one of the allowed ones; the text names the field.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// The output slice is too small for the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value does not fit into the buffer")]
pub struct NoRoom;

/// Reads values from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The byte `expected`, part of `field`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::Invalid`] for another byte.
    pub fn expect(&mut self, expected: u8, field: &'static str) -> Result<(), DecodeError> {
        if self.u8()? == expected {
            Ok(())
        } else {
            Err(DecodeError::Invalid(field))
        }
    }

    /// A string with a 1-byte length.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn short(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A string with a 2-byte length.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn large(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// `F` or `T`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::Invalid`] for another byte.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            b'F' => Ok(false),
            b'T' => Ok(true),
            _ => Err(DecodeError::Invalid(field)),
        }
    }

    /// `0`, or `1` and a value read by `value`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Invalid`] for another byte, or the error of
    /// `value`.
    pub fn maybe<T>(
        &mut self,
        field: &'static str,
        value: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.u8()? {
            b'0' => Ok(None),
            b'1' => value(self).map(Some),
            _ => Err(DecodeError::Invalid(field)),
        }
    }

    /// Everything left.
    #[must_use]
    pub fn tail(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }
}

/// Writes values into a slice. After the first value without room nothing more is written and
/// [`Writer::finish`] reports it, so encoders need no error path of their own.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    used: usize,
    overflow: bool,
}

impl<'a> Writer<'a> {
    /// A writer into `buffer`, from its start.
    #[must_use]
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self {
            buffer,
            used: 0,
            overflow: false,
        }
    }

    /// Room for `count` bytes to be filled by the caller, or `None` (remembered as an overflow).
    pub fn reserve(&mut self, count: usize) -> Option<&mut [u8]> {
        let end = self.used.checked_add(count);
        match end.filter(|&end| end <= self.buffer.len() && !self.overflow) {
            Some(end) => {
                let room = &mut self.buffer[self.used..end];
                self.used = end;
                Some(room)
            }
            None => {
                self.overflow = true;
                None
            }
        }
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if let Some(room) = self.reserve(bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// A string with a 1-byte length. More than 255 bytes count as an overflow.
    pub fn short(&mut self, bytes: &[u8]) {
        match u8::try_from(bytes.len()) {
            Ok(length) => {
                self.u8(length);
                self.bytes(bytes);
            }
            Err(_) => self.overflow = true,
        }
    }

    /// A string with a 2-byte length. More than 65,535 bytes count as an overflow.
    pub fn large(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.u16(length);
                self.bytes(bytes);
            }
            Err(_) => self.overflow = true,
        }
    }

    /// `F` or `T`.
    pub fn bool(&mut self, value: bool) {
        self.u8(if value { b'T' } else { b'F' });
    }

    /// `0`, or `1` and what `encode` writes.
    pub fn maybe<T>(&mut self, value: Option<T>, encode: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.u8(b'0'),
            Some(value) => {
                self.u8(b'1');
                encode(self, value);
            }
        }
    }

    /// A 1-byte count and that many values. More than 255 count as an overflow.
    pub fn list<T>(&mut self, values: &[T], encode: impl Fn(&mut Self, &T)) {
        match u8::try_from(values.len()) {
            Ok(count) => {
                self.u8(count);
                values.iter().for_each(|value| encode(self, value));
            }
            Err(_) => self.overflow = true,
        }
    }

    /// Bytes written.
    ///
    /// # Errors
    /// [`NoRoom`] if any value did not fit; the buffer then holds part of the values.
    pub fn finish(self) -> Result<usize, NoRoom> {
        if self.overflow {
            Err(NoRoom)
        } else {
            Ok(self.used)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut buffer = [0; 64];
        let mut writer = Writer::new(&mut buffer);
        writer.u8(7);
        writer.u16(0x0102);
        writer.u64(3);
        writer.short(b"ab");
        writer.large(b"cd");
        writer.bool(true);
        writer.maybe(Some(5), Writer::u8);
        writer.maybe(None, Writer::u8);
        let used = writer.finish().unwrap();
        let mut reader = Reader::new(&buffer[..used]);
        assert_eq!(reader.u8(), Ok(7));
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.u64(), Ok(3));
        assert_eq!(reader.short(), Ok(b"ab".as_slice()));
        assert_eq!(reader.large(), Ok(b"cd".as_slice()));
        assert_eq!(reader.bool("flag"), Ok(true));
        assert_eq!(reader.maybe("maybe", Reader::u8), Ok(Some(5)));
        assert_eq!(reader.maybe("maybe", Reader::u8), Ok(None));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        assert_eq!(Reader::new(&[2, 1]).short(), Err(DecodeError::Truncated));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 1]).large(),
            Err(DecodeError::Truncated)
        );
        assert_eq!(Reader::new(&[]).u64(), Err(DecodeError::Truncated));
        assert_eq!(
            Reader::new(b"x").bool("flag"),
            Err(DecodeError::Invalid("flag"))
        );
        assert_eq!(Reader::new(b"x").finish(), Err(DecodeError::Trailing));
    }

    #[test]
    fn overflow_sticks() {
        let mut buffer = [0; 4];
        let mut writer = Writer::new(&mut buffer);
        writer.u16(1);
        writer.bytes(&[0; 3]);
        writer.u8(1);
        assert_eq!(writer.finish(), Err(NoRoom));
        let mut writer = Writer::new(&mut buffer);
        writer.short(&[0; 256]);
        assert_eq!(writer.finish(), Err(NoRoom));
    }
}
