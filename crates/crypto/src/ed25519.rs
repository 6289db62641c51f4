//! Ed25519 signatures (RFC 8032), verified strictly.

use core::fmt;

use ed25519_dalek::Signer;
use rand_core::CryptoRng;
use zeroize::Zeroize;

use crate::{CryptoError, spki};

/// Bytes of a raw public key and of a seed.
pub const KEY_BYTES: usize = 32;
/// Bytes of a public key as DER `SubjectPublicKeyInfo`.
pub const SPKI_BYTES: usize = 44;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// A signing key with its expanded secret and public half. Wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A fresh key from 32 bytes of `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = [0; KEY_BYTES];
        rng.fill_bytes(&mut seed);
        let key = Self::from_seed(&seed);
        seed.zeroize();
        key
    }

    /// The key of an RFC 8032 seed ("private key" there).
    #[must_use]
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The seed, for sealed storage only.
    #[must_use]
    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs `message` (deterministic).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

/// A public key, decompressed once. Never of small order, always canonically encoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Reads a raw key.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] if the bytes are no point or not its canonical encoding,
    /// [`CryptoError::SmallOrder`] if the point has small order (such a key verifies signatures
    /// nobody made).
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, CryptoError> {
        let key =
            ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| CryptoError::Encoding)?;
        if !canonical(bytes) {
            return Err(CryptoError::Encoding);
        }
        if key.is_weak() {
            return Err(CryptoError::SmallOrder);
        }
        Ok(Self(key))
    }

    /// The raw key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// DER `SubjectPublicKeyInfo`, 44 bytes.
    #[must_use]
    pub fn to_spki(&self) -> [u8; SPKI_BYTES] {
        spki::encode(&spki::ED25519, self.as_bytes())
    }

    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] unless `bytes` are exactly the 44 bytes of an Ed25519 key;
    /// otherwise as [`VerifyingKey::from_bytes`].
    pub fn from_spki(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::from_bytes(&spki::decode(&spki::ED25519, bytes)?)
    }

    /// Verifies `signature` over `message` strictly: no cofactor tricks, no malleability (s below
    /// the group order, R canonical and not of small order).
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if it does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), CryptoError> {
        self.0
            .verify_strict(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| CryptoError::Forged)
    }
}

/// Whether the y coordinate is below p = 2^255 - 19. Points with x = 0 have a second encoding too
/// (sign bit set), but they are of small order and refused as such.
fn canonical(bytes: &[u8; KEY_BYTES]) -> bool {
    let top = bytes[31] & 0x7f;
    !(top == 0x7f && bytes[1..31].iter().all(|&byte| byte == 0xff) && bytes[0] >= 0xed)
}

impl PartialOrd for VerifyingKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for VerifyingKey {
    /// Bytewise order of the raw keys.
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::fmt_hex("ed25519", self.as_bytes(), f)
    }
}

/// A signature: R ‖ s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_BYTES]);

impl Signature {
    /// The raw signature.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Signature {
    type Error = CryptoError;

    fn try_from(bytes: &[u8]) -> Result<Self, CryptoError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| CryptoError::Encoding)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::fmt_hex("signature", &self.0[..8], f)
    }
}
