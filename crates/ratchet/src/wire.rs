//! The encodings shared by parameters, headers and stored state: big-endian integers, 1-byte
//! lengths ("short"), 2-byte lengths ("Large"), `0`/`1` for absent and present.

use junto_crypto::{kem, x448};

use crate::RatchetError;

/// Takes values off the front of bytes; every shortage is [`RatchetError::Malformed`].
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], RatchetError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(RatchetError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], RatchetError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(RatchetError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, RatchetError> {
        self.array::<1>().map(|[byte]| *byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, RatchetError> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, RatchetError> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A byte string with a 1-byte length.
    pub(crate) fn short(&mut self) -> Result<&'a [u8], RatchetError> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A byte string with a 2-byte length.
    pub(crate) fn large(&mut self) -> Result<&'a [u8], RatchetError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(crate) fn x448(&mut self) -> Result<x448::PublicKey, RatchetError> {
        Ok(x448::PublicKey::from_spki(self.short()?)?)
    }

    pub(crate) fn kem_key(&mut self) -> Result<kem::PublicKey, RatchetError> {
        Ok(kem::PublicKey::from_bytes(self.large()?)?)
    }

    pub(crate) fn kem_ciphertext(&mut self) -> Result<kem::Ciphertext, RatchetError> {
        Ok(kem::Ciphertext::from_bytes(self.large()?)?)
    }

    /// Whether a value follows.
    pub(crate) fn present(&mut self) -> Result<bool, RatchetError> {
        match self.u8()? {
            b'0' => Ok(false),
            b'1' => Ok(true),
            _ => Err(RatchetError::Malformed),
        }
    }

    /// Refuses bytes that nobody read.
    pub(crate) fn end(self) -> Result<(), RatchetError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RatchetError::Malformed)
        }
    }
}

pub(crate) fn write_x448(key: &x448::PublicKey, out: &mut Vec<u8>) {
    // 68 bytes: always fits a 1-byte length.
    const LENGTH: u8 = 68;
    const _: () = assert!(x448::SPKI_BYTES == 68);
    out.push(LENGTH);
    out.extend_from_slice(&key.to_spki());
}

pub(crate) fn write_kem_key(key: &kem::PublicKey, out: &mut Vec<u8>) {
    const LENGTH: u16 = 1158;
    const _: () = assert!(kem::PUBLIC_KEY_BYTES == 1158);
    out.extend_from_slice(&LENGTH.to_be_bytes());
    out.extend_from_slice(key.as_bytes());
}

pub(crate) fn write_kem_ciphertext(ciphertext: &kem::Ciphertext, out: &mut Vec<u8>) {
    const LENGTH: u16 = 1039;
    const _: () = assert!(kem::CIPHERTEXT_BYTES == 1039);
    out.extend_from_slice(&LENGTH.to_be_bytes());
    out.extend_from_slice(ciphertext.as_bytes());
}
