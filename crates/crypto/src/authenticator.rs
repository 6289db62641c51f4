//! The 80-byte deniable authenticator of SMP commands (reference §3.4): box(SHA-512(bytes)) under
//! the Diffie-Hellman secret of the queue key and the server's hello key, nonce = correlation id.
//! Either side can make it, so it proves nothing to third parties.

use subtle::ConstantTimeEq;

use crate::{
    CryptoError, hash,
    secretbox::{BoxKey, Nonce, TAG_BYTES},
};

/// Bytes of an authenticator: tag (16) and sealed SHA-512 (64).
pub const AUTHENTICATOR_BYTES: usize = TAG_BYTES + 64;

/// The authenticator of `bytes`.
#[must_use]
pub fn make(key: &BoxKey, nonce: &Nonce, bytes: &[u8]) -> [u8; AUTHENTICATOR_BYTES] {
    let mut digest = hash::sha512(bytes);
    let tag = key.seal_in_place(nonce, &mut digest);
    let mut out = [0; AUTHENTICATOR_BYTES];
    out[..TAG_BYTES].copy_from_slice(&tag);
    out[TAG_BYTES..].copy_from_slice(&digest);
    out
}

/// Verifies `authenticator` over `bytes` in constant time: boxes are deterministic, so the expected
/// one is made again and compared whole.
///
/// # Errors
/// [`CryptoError::Forged`] if it is not `make(key, nonce, bytes)`.
pub fn verify(
    key: &BoxKey,
    nonce: &Nonce,
    bytes: &[u8],
    authenticator: &[u8],
) -> Result<(), CryptoError> {
    let expected = make(key, nonce, bytes);
    if bool::from(expected.as_slice().ct_eq(authenticator)) {
        Ok(())
    } else {
        Err(CryptoError::Forged)
    }
}
