//! HKDF (RFC 5869) with a fixed output length, and HMAC (RFC 2104).

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
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

/// HMAC-SHA-256 of the concatenation of `parts`.
#[must_use]
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    // HMAC takes keys of any length: there is no error.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        for part in parts {
            mac.update(part);
        }
        out.copy_from_slice(&mac.finalize().into_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 1, 2 and 6 (a key above one block).
    #[test]
    fn hmac_known_answers() {
        for (key, message, tag) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let (first, second) = message.split_at(3);
            assert_eq!(hex::encode(*hmac_sha256(&key, &[first, second])), tag);
        }
    }
}
