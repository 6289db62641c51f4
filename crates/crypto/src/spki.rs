//! Fixed-size DER `SubjectPublicKeyInfo` of the four RFC 8410 key types.
//!
//! These structures have no optional part: one fixed prefix, then the raw key. Comparing the prefix
//! byte for byte accepts exactly one encoding per key and needs no DER parser.

use crate::CryptoError;

/// `SEQUENCE { SEQUENCE { OID 1.3.101.110 }, BIT STRING (32 bytes) }` up to the key.
pub(crate) const X25519: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00";
/// The same for OID 1.3.101.111 and 56 bytes.
pub(crate) const X448: [u8; 12] = *b"\x30\x42\x30\x05\x06\x03\x2b\x65\x6f\x03\x39\x00";
/// The same for OID 1.3.101.112 and 32 bytes.
pub(crate) const ED25519: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// The same for OID 1.3.101.113 and 57 bytes.
pub(crate) const ED448: [u8; 12] = *b"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00";

/// The raw key of `KEY` bytes after `prefix`; anything else is [`CryptoError::Encoding`].
pub(crate) fn decode<const KEY: usize>(
    prefix: &[u8; 12],
    spki: &[u8],
) -> Result<[u8; KEY], CryptoError> {
    spki.strip_prefix(prefix.as_slice())
        .and_then(|key| key.try_into().ok())
        .ok_or(CryptoError::Encoding)
}

/// `prefix` followed by `key`. `SPKI` is 12 + `KEY`, checked at compile time.
pub(crate) fn encode<const KEY: usize, const SPKI: usize>(
    prefix: &[u8; 12],
    key: &[u8; KEY],
) -> [u8; SPKI] {
    const { assert!(SPKI == 12 + KEY) };
    let mut out = [0; SPKI];
    out[..12].copy_from_slice(prefix);
    out[12..].copy_from_slice(key);
    out
}
