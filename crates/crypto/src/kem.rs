//! Streamlined NTRU Prime `sntrup761`: the key encapsulation of the agent's ratchet.
//!
//! Values are boxed: a secret key of 1.7 KB should not be copied around the stack.

use rand_core::CryptoRng;
use sntrup761::{Ciphertext as RawCiphertext, DecapsulationKey, EncapsulationKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::CryptoError;

/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = sntrup761::PUBLIC_KEY_SIZE;
/// Bytes of a secret key (it contains the public key).
pub const SECRET_KEY_BYTES: usize = sntrup761::SECRET_KEY_SIZE;
/// Bytes of a ciphertext.
pub const CIPHERTEXT_BYTES: usize = sntrup761::CIPHERTEXT_SIZE;
/// Bytes of a shared secret.
pub const SHARED_SECRET_BYTES: usize = sntrup761::SHARED_SECRET_SIZE;

const _: () = assert!(PUBLIC_KEY_BYTES == 1158 && CIPHERTEXT_BYTES == 1039);

/// A secret (decapsulation) key. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct SecretKey(Box<DecapsulationKey>);

impl SecretKey {
    /// A fresh key. Costs about a millisecond: it inverts a polynomial.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let (_, key) = sntrup761::generate_key(rng);
        Self(Box::new(key))
    }

    /// The key stored as `bytes`.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] if the length is not [`SECRET_KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        DecapsulationKey::try_from(bytes)
            .map(|key| Self(Box::new(key)))
            .map_err(|_| CryptoError::Encoding)
    }

    /// The raw key, for sealed storage only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(Box::new(EncapsulationKey::from(&*self.0)))
    }

    /// The secret inside `ciphertext`. A ciphertext that was not made for this key gives a
    /// pseudo-random secret (implicit rejection): the message that follows then fails to open.
    #[must_use]
    pub fn decapsulate(&self, ciphertext: &Ciphertext) -> SharedSecret {
        SharedSecret::take(self.0.decapsulate(&ciphertext.0))
    }
}

/// A public (encapsulation) key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Box<EncapsulationKey>);

impl PublicKey {
    /// Reads a raw key.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] if the length is not [`PUBLIC_KEY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        EncapsulationKey::try_from(bytes)
            .map(|key| Self(Box::new(key)))
            .map_err(|_| CryptoError::Encoding)
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }

    /// A fresh secret and its ciphertext for the owner of this key.
    pub fn encapsulate(&self, rng: &mut impl CryptoRng) -> (Ciphertext, SharedSecret) {
        let (ciphertext, secret) = self.0.encapsulate(rng);
        (Ciphertext(Box::new(ciphertext)), SharedSecret::take(secret))
    }
}

impl core::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        crate::hash::fmt_hex("sntrup761", &crate::hash::sha256(self.as_bytes())[..8], f)
    }
}

/// An encapsulated secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Ciphertext(Box<RawCiphertext>);

impl Ciphertext {
    /// Reads a raw ciphertext.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] if the length is not [`CIPHERTEXT_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        RawCiphertext::try_from(bytes)
            .map(|ciphertext| Self(Box::new(ciphertext)))
            .map_err(|_| CryptoError::Encoding)
    }

    /// The raw ciphertext.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl core::fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        crate::hash::fmt_hex("ciphertext", &crate::hash::sha256(self.as_bytes())[..8], f)
    }
}

/// The secret that both sides derive. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct SharedSecret([u8; SHARED_SECRET_BYTES]);

impl SharedSecret {
    /// The secret stored as `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; SHARED_SECRET_BYTES]) -> Self {
        Self(*bytes)
    }

    /// The raw secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SHARED_SECRET_BYTES] {
        &self.0
    }

    fn take(mut secret: sntrup761::SharedSecret) -> Self {
        let mut bytes = [0; SHARED_SECRET_BYTES];
        bytes.copy_from_slice(secret.as_ref());
        secret.zeroize();
        let taken = Self(bytes);
        bytes.zeroize();
        taken
    }
}
