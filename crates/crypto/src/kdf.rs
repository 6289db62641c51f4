//! HKDF (RFC 5869) with a fixed output length.

use hkdf::Hkdf;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

/// `N` bytes (at most 16,320, checked at compile time) of HKDF-SHA-512.
#[must_use]
pub fn hkdf_sha512<const N: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 64) };
    let mut okm = Zeroizing::new([0; N]);
    // The only error is an output above 255 blocks, excluded by the assertion.
    let expanded = Hkdf::<Sha512>::new(Some(salt), ikm).expand(info, okm.as_mut_slice());
    debug_assert!(expanded.is_ok());
    okm
}

/// `N` bytes (at most 8,160, checked at compile time) of HKDF-SHA-256.
#[must_use]
pub fn hkdf_sha256<const N: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32) };
    let mut okm = Zeroizing::new([0; N]);
    // The only error is an output above 255 blocks, excluded by the assertion.
    let expanded = Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, okm.as_mut_slice());
    debug_assert!(expanded.is_ok());
    okm
}
