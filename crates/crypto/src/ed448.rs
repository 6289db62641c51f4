//! Ed448 signatures (RFC 8032): verification only, for certificates and commands of peers that use
//! it. We never sign with Ed448.

use core::fmt;

use ed448_goldilocks::{EdwardsPoint, Signature as RawSignature, VerifyingKey as RawKey};

use crate::{CryptoError, spki};

/// Bytes of a raw public key.
pub const KEY_BYTES: usize = 57;
/// Bytes of a public key as DER `SubjectPublicKeyInfo`.
pub const SPKI_BYTES: usize = 69;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 114;

/// A public key, decompressed once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct VerifyingKey(RawKey);

impl VerifyingKey {
    /// Reads a raw key.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] if the bytes are no point or not its canonical encoding,
    /// [`CryptoError::SmallOrder`] if the point has small order (such a key verifies signatures
    /// nobody made).
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, CryptoError> {
        let key = RawKey::from_bytes(bytes).map_err(|_| CryptoError::Encoding)?;
        let point = key.to_edwards();
        // Re-encoding catches y >= p and a sign bit on x = 0.
        if point.to_affine().compress().to_bytes() != *bytes {
            return Err(CryptoError::Encoding);
        }
        if point.double().double() == EdwardsPoint::IDENTITY {
            return Err(CryptoError::SmallOrder);
        }
        Ok(Self(key))
    }

    /// The raw key.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        self.0.to_bytes()
    }

    /// DER `SubjectPublicKeyInfo`, 69 bytes.
    #[must_use]
    pub fn to_spki(&self) -> [u8; SPKI_BYTES] {
        spki::encode(&spki::ED448, &self.to_bytes())
    }

    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`CryptoError::Encoding`] unless `bytes` are exactly the 69 bytes of an Ed448 key.
    pub fn from_spki(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::from_bytes(&spki::decode(&spki::ED448, bytes)?)
    }

    /// Verifies a pure Ed448 `signature` with empty context over `message`.
    ///
    /// # Errors
    /// [`CryptoError::Forged`] if it does not verify.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), CryptoError> {
        self.0
            .verify_raw(&RawSignature::from_bytes(&signature.0), message)
            .map_err(|_| CryptoError::Forged)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::hash::fmt_hex("ed448", &self.to_bytes(), f)
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
