//! Hash functions of the reference formats.

use core::fmt;

use sha2::Digest;

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

/// SHA-256 of the concatenation of `parts`, without copying them together.
#[must_use]
pub fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = sha2::Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// SHA-256 of what comes piece by piece: of files, say.
#[derive(Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Appends a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// MD5, for formats that have it: it is broken and protects nothing.
#[must_use]
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    md5::Md5::digest(bytes).into()
}

/// SHA-512.
#[must_use]
pub fn sha512(bytes: &[u8]) -> [u8; 64] {
    sha2::Sha512::digest(bytes).into()
}

/// SHA-512 of the concatenation of `parts`, without copying them together.
#[must_use]
pub fn sha512_of(parts: &[&[u8]]) -> [u8; 64] {
    let mut hasher = sha2::Sha512::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// SHA3-256.
#[must_use]
pub fn sha3_256(bytes: &[u8]) -> [u8; 32] {
    sha3::Sha3_256::digest(bytes).into()
}

/// SHA3-384.
#[must_use]
pub fn sha3_384(bytes: &[u8]) -> [u8; 48] {
    sha3::Sha3_384::digest(bytes).into()
}

/// `name:0123…`: public values only.
pub(crate) fn fmt_hex(name: &str, bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{name}:")?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}
