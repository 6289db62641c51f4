//! Decoders that are not public, for fuzz targets: each returns what its value encodes to.

use junto_crypto::Zeroizing;

use crate::{Version, header::Header};

/// A header once opened, padded.
#[must_use]
pub fn header(version: Version, padded: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let header = Header::parse(version, padded).ok()?;
    Some(header.encode(version))
}
