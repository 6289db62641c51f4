//! Reading and writing the primitive encodings of the protocol: big-endian integers, strings
//! with a length of one or two bytes, optional values behind `0` or `1`.

use junto_crypto::x25519;

/// Bytes or text that are not a valid encoding. Whoever sent them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before its last field does.
    #[error("ends early")]
    Short,
    /// Something follows the last field.
    #[error("has bytes after its end")]
    Trailing,
    /// A letter that selects a variant is none of the known ones.
    #[error("has an unknown tag")]
    Tag,
    /// A version or range of versions is not one, or not one that we speak.
    #[error("has an unsupported version")]
    Version,
    /// A public key is not the encoding of a key of the right kind.
    #[error("has an invalid key")]
    Key,
    /// A part is longer or a list has more elements than the format allows.
    #[error("is too long")]
    Long,
    /// A relay address is not one.
    #[error("has an invalid relay address")]
    Relay,
    /// Text is not in the form that the format requires.
    #[error("is not written as the format requires")]
    Text,
}

/// Takes an encoding apart from the front.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
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

    /// The next byte, which stays.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// `T` or `F`.
    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            b'T' => Ok(true),
            b'F' => Ok(false),
            _ => Err(Malformed::Tag),
        }
    }

    /// A string behind a length of one byte.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }

    /// A string behind a length of two bytes.
    pub(crate) fn large(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// `0`, or `1` and a value.
    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.u8()? {
            b'0' => Ok(None),
            b'1' => read(self).map(Some),
            _ => Err(Malformed::Tag),
        }
    }

    pub(crate) fn x25519(&mut self) -> Result<x25519::PublicKey, Malformed> {
        x25519::PublicKey::from_spki(self.short()?).map_err(|_| Malformed::Key)
    }

    /// All that is left.
    pub(crate) fn tail(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// # Errors
    /// [`Malformed::Trailing`] if anything is left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing)
        }
    }
}

/// Appends a string behind a length of one byte.
///
/// # Errors
/// [`Malformed::Long`] above 255 bytes.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Malformed> {
    let len = u8::try_from(bytes.len()).map_err(|_| Malformed::Long)?;
    out.push(len);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a string behind a length of two bytes.
///
/// # Errors
/// [`Malformed::Long`] above 65,535 bytes.
pub(crate) fn put_large(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Malformed> {
    let len = u16::try_from(bytes.len()).map_err(|_| Malformed::Long)?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a key or another field whose length is a constant below 256.
pub(crate) fn put_fixed<const N: usize>(out: &mut Vec<u8>, bytes: &[u8; N]) {
    const { assert!(N < 256) };
    out.push(N as u8);
    out.extend_from_slice(bytes);
}
