//! The pin of a server: what `smp://FINGERPRINT@host` names.

use core::fmt;

use subtle::ConstantTimeEq;

/// Bytes of a fingerprint: one SHA-256 digest.
pub const FINGERPRINT_BYTES: usize = 32;

/// SHA-256 of the whole DER of a server's identity certificate.
///
/// The SMP text says "of the public key"; deployed software hashes the certificate, and that
/// decides. `==` is fine between fingerprints that we hold; a pin is compared with what a peer
/// sent by [`Fingerprint::matches`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    /// The fingerprint of a certificate given as DER.
    #[must_use]
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(junto_crypto::hash::sha256(certificate_der))
    }

    /// A fingerprint read from an address.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; FINGERPRINT_BYTES]) -> Self {
        Self(bytes)
    }

    /// The raw digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.0
    }

    /// Whether `other` is the same, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Fingerprint {
    /// Four bytes: enough to tell servers apart in a log of ours, too little to look one up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Fingerprint({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_everything_and_compares() {
        let a = Fingerprint::of(b"abc");
        assert_eq!(a.as_bytes()[..4], [0xba, 0x78, 0x16, 0xbf]); // FIPS 180-2, B.1
        assert!(a.matches(&Fingerprint::from_bytes(*a.as_bytes())));
        assert!(!a.matches(&Fingerprint::of(b"abd")));
        assert_eq!(format!("{a:?}"), "Fingerprint(ba7816bf…)");
    }
}
