//! X25519 key agreement (RFC 7748).
//!
//! The work is done by `crrl`, constant-time code twice as fast as `x25519-dalek` (whose vector
//! kernels do not serve the Montgomery ladder): an agreement and a key are most of what the creation
//! of a queue costs the relay. The tests compare it with that crate.

use core::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{CryptoError, spki};

/// Bytes of a raw public or secret key, and of a shared secret.
pub const KEY_BYTES: usize = 32;
/// Bytes of a public key as DER `SubjectPublicKeyInfo`.
pub const SPKI_BYTES: usize = 44;

/// A secret key. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct SecretKey([u8; KEY_BYTES]);

impl SecretKey {
    /// A fresh key from 32 bytes of `rng`.
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
        PublicKey(crrl::x25519::x25519_base(&self.0))
    }

    /// The secret shared with the owner of `peer`.
    ///
    /// # Errors
    /// [`CryptoError::SmallOrder`] if the result is all zero (RFC 7748 §6.1): such a "secret" is
    /// known to everybody.
    pub fn diffie_hellman(&self, peer: &PublicKey) -> Result<SharedSecret, CryptoError> {
        let shared = SharedSecret(crrl::x25519::x25519(&peer.0, &self.0));
        if shared.0.ct_eq(&[0; KEY_BYTES]).into() {
            return Err(CryptoError::SmallOrder);
        }
        Ok(shared)
    }
}

/// A public key: its 32 bytes exactly as received, so that re-encoding never changes what was
/// hashed or signed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key with these raw bytes. Every 32 bytes are a key; weak ones are refused by
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

    /// DER `SubjectPublicKeyInfo`, 44 bytes.
    #[must_use]
    pub fn to_spki(&self) -> [u8; SPKI_BYTES] {
        spki::encode(&spki::X25519, &self.0)
    }

    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] unless `bytes` are exactly the 44 bytes of an X25519 key.
    pub fn from_spki(bytes: &[u8]) -> Result<Self, CryptoError> {
        spki::decode(&spki::X25519, bytes).map(Self)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::fmt_hex("x25519", &self.0, f)
    }
}

/// The raw result of key agreement; never all zero. Wiped when dropped. Feed it to a KDF or
/// [`crate::secretbox::BoxKey::from_shared`].
#[derive(ZeroizeOnDrop)]
pub struct SharedSecret([u8; KEY_BYTES]);

impl SharedSecret {
    /// The raw secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}
