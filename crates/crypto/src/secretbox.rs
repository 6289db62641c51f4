//! Boxes of the SimpleX protocols: XSalsa20-Poly1305, 24-byte nonce, tag first.
//!
//! With a key made by [`BoxKey::from_shared`] a box equals NaCl's `crypto_box`. With
//! [`BoxKey::from_symmetric`] it differs from NaCl's `crypto_secretbox`, because SimpleX passes
//! symmetric keys through HSalsa20 with a zero block as well (reference §3.3, trap 6).
//!
//! A key and nonce pair must seal one message only.
//!
//! The work is done by `dryoc`, whose vector kernels seal a 16 KiB block six times as fast as the
//! scalar `salsa20` crate; the relay spends most of its time here. The tests compare each of its
//! outputs with that crate.

use dryoc::classic::{
    crypto_box::{crypto_box_detached_afternm_inplace, crypto_box_open_detached_afternm_inplace},
    crypto_core::crypto_core_hsalsa20,
};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{CryptoError, pad, x25519};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes that a box is longer than its plaintext.
pub const TAG_BYTES: usize = 16;

/// The authentication tag of a box.
pub type Tag = [u8; TAG_BYTES];

/// A nonce: public, and unique for each message under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; NONCE_BYTES]);

impl Nonce {
    /// The same bytes in reverse order: nonce of a proxied answer (reference §4, PFWD).
    #[must_use]
    pub fn reversed(&self) -> Self {
        let mut bytes = self.0;
        bytes.reverse();
        Self(bytes)
    }
}

/// A box key, after the HSalsa20 step. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct BoxKey([u8; KEY_BYTES]);

impl BoxKey {
    /// The key of NaCl's `crypto_box` for a Diffie-Hellman secret.
    #[must_use]
    pub fn from_shared(shared: &x25519::SharedSecret) -> Self {
        Self::from_symmetric(shared.as_bytes())
    }

    /// The key of a SimpleX symmetric box: HSalsa20(`key`, 0^16).
    #[must_use]
    pub fn from_symmetric(key: &[u8; KEY_BYTES]) -> Self {
        let mut derived = Self([0; KEY_BYTES]);
        crypto_core_hsalsa20(&mut derived.0, &[0; 16], key, None);
        derived
    }

    /// Appends the box of `plaintext` (its length + 16 bytes) to `out`.
    pub fn seal(&self, nonce: &Nonce, plaintext: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(TAG_BYTES + plaintext.len());
        out.resize(start + TAG_BYTES, 0);
        out.extend_from_slice(plaintext);
        self.finish(nonce, &mut out[start..]);
    }

    /// Appends the box of `message` padded to `padded_bytes` (`padded_bytes` + 16 bytes) to `out`.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`] if `message` does not fit; `out` is then unchanged.
    pub fn seal_padded(
        &self,
        nonce: &Nonce,
        message: &[u8],
        padded_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CryptoError> {
        let start = out.len();
        out.reserve(TAG_BYTES + padded_bytes);
        out.resize(start + TAG_BYTES, 0);
        if let Err(error) = pad::pad(message, out, padded_bytes) {
            out.truncate(start);
            return Err(error);
        }
        self.finish(nonce, &mut out[start..]);
        Ok(())
    }

    /// Opens a box made by [`BoxKey::seal`].
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if it was not sealed with this key and nonce.
    pub fn open(&self, nonce: &Nonce, boxed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (tag, ciphertext) = boxed
            .split_first_chunk::<TAG_BYTES>()
            .ok_or(CryptoError::Forged)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        self.open_in_place(nonce, &mut plaintext, tag)?;
        Ok(plaintext)
    }

    /// Opens a box made by [`BoxKey::seal_padded`] and takes the padding off.
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if it was not sealed with this key and nonce,
    /// [`CryptoError::Padding`] if the sealed bytes are not padded.
    pub fn open_padded(
        &self,
        nonce: &Nonce,
        boxed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut plaintext = self.open(nonce, boxed)?;
        let length = pad::unpad(&plaintext)?.len();
        plaintext.copy_within(pad::OVERHEAD_BYTES..pad::OVERHEAD_BYTES + length, 0);
        plaintext.truncate(length);
        Ok(plaintext)
    }

    /// Encrypts `buffer` in place and returns its tag. The hot path of the relay: no allocation.
    #[must_use]
    pub fn seal_in_place(&self, nonce: &Nonce, buffer: &mut [u8]) -> Tag {
        let mut tag = [0; TAG_BYTES];
        crypto_box_detached_afternm_inplace(buffer, &mut tag, &nonce.0, &self.0);
        tag
    }

    /// Decrypts `buffer` in place if `tag` is right; otherwise leaves it untouched.
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if `tag` does not match.
    pub fn open_in_place(
        &self,
        nonce: &Nonce,
        buffer: &mut [u8],
        tag: &Tag,
    ) -> Result<(), CryptoError> {
        crypto_box_open_detached_afternm_inplace(buffer, tag, &nonce.0, &self.0)
            .map_err(|_| CryptoError::Forged)
    }

    /// Seals `boxed[16..]` in place and writes the tag in front.
    fn finish(&self, nonce: &Nonce, boxed: &mut [u8]) {
        if let Some((tag, body)) = boxed.split_first_chunk_mut::<TAG_BYTES>() {
            *tag = self.seal_in_place(nonce, body);
        }
    }
}
