//! Authenticated encryption: AES-256-GCM as the ratchet uses it, XChaCha20-Poly1305 for storage.

use aes_gcm::{
    AesGcm,
    aead::{AeadInOut, KeyInit, consts::U16},
    aes::Aes256,
};
use chacha20poly1305::XChaCha20Poly1305;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::CryptoError;

/// Bytes of a key of either algorithm.
pub const KEY_BYTES: usize = 32;
/// Bytes of a tag of either algorithm.
pub const TAG_BYTES: usize = 16;
/// Bytes of the initialisation vector of [`GcmKey`]. Longer than the usual 12, so GCM hashes it
/// into the counter (SP 800-38D §7.1).
pub const GCM_IV_BYTES: usize = 16;
/// Bytes of the random nonce in front of each blob of [`StoreKey`].
const STORE_NONCE_BYTES: usize = 24;
/// Bytes that a sealed blob is longer than its plaintext.
pub const STORE_OVERHEAD_BYTES: usize = STORE_NONCE_BYTES + TAG_BYTES;

/// An AES-256-GCM key for 16-byte vectors, with its key schedule. Wiped when dropped.
///
/// A key and vector pair must seal one message only.
pub struct GcmKey(AesGcm<Aes256, U16>);

impl GcmKey {
    /// Expands `key`.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        Self(AesGcm::new(key.into()))
    }

    /// Encrypts `buffer` in place, bound to `ad`, and returns the tag.
    ///
    /// # Errors
    /// [`CryptoError::TooLong`] above the 64 GiB that GCM permits.
    pub fn seal_in_place(
        &self,
        iv: &[u8; GCM_IV_BYTES],
        ad: &[u8],
        buffer: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], CryptoError> {
        self.0
            .encrypt_inout_detached(iv.into(), ad, buffer.into())
            .map(Into::into)
            .map_err(|_| CryptoError::TooLong)
    }

    /// Decrypts `buffer` in place if `tag` is right for it and `ad`.
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if not; `buffer` is then untouched.
    pub fn open_in_place(
        &self,
        iv: &[u8; GCM_IV_BYTES],
        ad: &[u8],
        buffer: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), CryptoError> {
        self.0
            .decrypt_inout_detached(iv.into(), ad, buffer.into(), tag.into())
            .map_err(|_| CryptoError::Forged)
    }
}

/// Seals records at rest: XChaCha20-Poly1305 with random nonces. Wiped when dropped.
///
/// Blob = nonce (24) ‖ ciphertext ‖ tag (16). Random 24-byte nonces do not repeat in practice, so
/// one key may seal any number of records.
#[derive(ZeroizeOnDrop)]
pub struct StoreKey([u8; KEY_BYTES]);

impl StoreKey {
    /// A fresh key from 32 bytes of `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; KEY_BYTES];
        rng.fill_bytes(&mut bytes);
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The key with these bytes, for example from a passphrase KDF or a key ring.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The raw key, to be wrapped by another key only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Seals `plaintext`, bound to `ad` (say, table and row: so blobs cannot be swapped).
    ///
    /// # Errors
    /// [`CryptoError::TooLong`] above the 256 GiB that the cipher permits.
    pub fn seal(
        &self,
        ad: &[u8],
        plaintext: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        let mut nonce = [0; STORE_NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        let mut blob = Vec::with_capacity(plaintext.len() + STORE_OVERHEAD_BYTES);
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(plaintext);
        let tag = XChaCha20Poly1305::new((&self.0).into())
            .encrypt_inout_detached((&nonce).into(), ad, (&mut blob[STORE_NONCE_BYTES..]).into())
            .map_err(|_| CryptoError::TooLong)?;
        blob.extend_from_slice(&tag);
        Ok(blob)
    }

    /// Opens a blob made by [`StoreKey::seal`] with the same `ad`.
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if it was not.
    pub fn open(&self, ad: &[u8], blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let (nonce, rest) = blob
            .split_first_chunk::<STORE_NONCE_BYTES>()
            .ok_or(CryptoError::Forged)?;
        let (ciphertext, tag) = rest
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(CryptoError::Forged)?;
        let mut plaintext = Zeroizing::new(ciphertext.to_vec());
        XChaCha20Poly1305::new((&self.0).into())
            .decrypt_inout_detached(
                nonce.into(),
                ad,
                plaintext.as_mut_slice().into(),
                tag.into(),
            )
            .map_err(|_| CryptoError::Forged)?;
        Ok(plaintext)
    }
}
