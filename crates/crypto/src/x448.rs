//! X448 key agreement (RFC 7748).
//!
//! The work is done by `crrl`, constant-time code three times as fast as the `x448` crate: a step
//! of the ratchet costs two agreements and a key, and sits on the path of every answer. The tests
//! compare it with that crate and with OpenSSL.

use core::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{CryptoError, spki};

/// Bytes of a raw public or secret key, and of a shared secret.
pub const KEY_BYTES: usize = 56;
/// Bytes of a public key as DER `SubjectPublicKeyInfo`.
pub const SPKI_BYTES: usize = 68;

/// A secret key. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// A fresh key from 56 bytes of `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; KEY_BYTES];
        rng.fill_bytes(&mut bytes);
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The key stored as `bytes`; clamping happens at use, so the bytes come back unchanged.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The raw key, for sealed storage only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(crrl::x448::x448_base(&self.0))
    }

    /// The secret shared with the owner of `peer`.
    ///
    /// # Errors
    /// [`CryptoError::SmallOrder`] if the result is all zero (RFC 7748 §6.2): such a "secret" is
    /// known to everybody.
    pub fn diffie_hellman(&self, peer: &PublicKey) -> Result<SharedSecret, CryptoError> {
        let shared = SharedSecret(crrl::x448::x448(&peer.0, &self.0));
        if shared.0.ct_eq(&[0; KEY_BYTES]).into() {
            return Err(CryptoError::SmallOrder);
        }
        Ok(shared)
    }
}

/// A public key: its 56 bytes exactly as received, so that re-encoding never changes what was
/// hashed or signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key with these raw bytes. Every 56 bytes are a key; weak ones are refused by
    /// [`SecretKey::diffie_hellman`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// DER `SubjectPublicKeyInfo`, 68 bytes.
    #[must_use]
    pub fn to_spki(&self) -> [u8; SPKI_BYTES] {
        spki::encode(&spki::X448, &self.0)
    }

    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] unless `bytes` are exactly the 68 bytes of an X448 key.
    pub fn from_spki(bytes: &[u8]) -> Result<Self, CryptoError> {
        spki::decode(&spki::X448, bytes).map(Self)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::fmt_hex("x448", &self.0, f)
    }
}

/// The raw result of key agreement; never all zero. Wiped when dropped. Feed it to a KDF.
#[derive(ZeroizeOnDrop)]
pub struct SharedSecret([u8; KEY_BYTES]);

impl SharedSecret {
    /// The raw secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}
