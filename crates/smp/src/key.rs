//! Keys that authorise commands of a queue: Ed25519, Ed448, or X25519 for deniable authenticators.

use core::fmt;

use junto_crypto::{CryptoRng, ed448, ed25519, x25519};

use crate::encoding::{DecodeError, Reader, Writer};

/// A public key that commands of a queue are verified with.
///
/// Ed448 keys are rare (old clients) and large, so they sit behind a pointer.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthKey {
    /// 64-byte signatures; what today's agents use.
    Ed25519(ed25519::VerifyingKey),
    /// 114-byte signatures.
    Ed448(Box<ed448::VerifyingKey>),
    /// 80-byte authenticators that the relay could have made itself.
    X25519(x25519::PublicKey),
}

impl AuthKey {
    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] unless `bytes` are exactly one key of a known kind.
    pub fn from_spki(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.len() {
            ed448::SPKI_BYTES => ed448::VerifyingKey::from_spki(bytes)
                .map(|key| Self::Ed448(Box::new(key)))
                .map_err(|_| DecodeError::Invalid("key")),
            _ => ed25519::VerifyingKey::from_spki(bytes)
                .map(Self::Ed25519)
                .or_else(|_| x25519::PublicKey::from_spki(bytes).map(Self::X25519))
                .map_err(|_| DecodeError::Invalid("key")),
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Ed25519(key) => writer.short(&key.to_spki()),
            Self::Ed448(key) => writer.short(&key.to_spki()),
            Self::X25519(key) => writer.short(&key.to_spki()),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_spki(reader.short()?)
    }

    /// Writes DER `SubjectPublicKeyInfo` (44 or 69 bytes) to `out`, for a store.
    pub fn write_spki(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ed25519(key) => out.extend_from_slice(&key.to_spki()),
            Self::Ed448(key) => out.extend_from_slice(&key.to_spki()),
            Self::X25519(key) => out.extend_from_slice(&key.to_spki()),
        }
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519(key) => key.fmt(f),
            Self::Ed448(key) => key.fmt(f),
            Self::X25519(key) => key.fmt(f),
        }
    }
}

/// The secret half of an [`AuthKey`], held by a client. We never sign with Ed448.
pub enum AuthSecret {
    /// Signs.
    Ed25519(ed25519::SigningKey),
    /// Makes deniable authenticators.
    X25519(x25519::SecretKey),
}

impl fmt::Debug for AuthSecret {
    /// The kind only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ed25519(_) => "AuthSecret::Ed25519",
            Self::X25519(_) => "AuthSecret::X25519",
        })
    }
}

impl AuthSecret {
    /// A fresh Ed25519 key, the choice of today's agents.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::Ed25519(ed25519::SigningKey::generate(rng))
    }

    /// The public half, given to the relay.
    #[must_use]
    pub fn public_key(&self) -> AuthKey {
        match self {
            Self::Ed25519(key) => AuthKey::Ed25519(key.verifying_key()),
            Self::X25519(key) => AuthKey::X25519(key.public_key()),
        }
    }
}

pub(crate) fn encode_x25519(key: &x25519::PublicKey, writer: &mut Writer<'_>) {
    writer.short(&key.to_spki());
}

pub(crate) fn decode_x25519(reader: &mut Reader<'_>) -> Result<x25519::PublicKey, DecodeError> {
    x25519::PublicKey::from_spki(reader.short()?).map_err(|_| DecodeError::Invalid("X25519 key"))
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let ed25519 = AuthSecret::generate(&mut rng).public_key();
        let x25519 = AuthSecret::X25519(x25519::SecretKey::generate(&mut rng)).public_key();
        for key in [ed25519, x25519] {
            let mut spki = Vec::new();
            key.write_spki(&mut spki);
            assert_eq!(AuthKey::from_spki(&spki), Ok(key));
            spki[5] ^= 0x40;
            assert!(AuthKey::from_spki(&spki).is_err());
            assert!(AuthKey::from_spki(&spki[1..]).is_err());
        }
    }
}
