//! Headers and the envelope around header and body.
//!
//! ```text
//! message   = length(encrypted header) encrypted-header tag(16) body
//! encrypted = version(2) iv(16) tag(16) length(sealed) sealed
//! header    = max-version(2) short(DH key) [version ≥ 3: maybe(KEM)] previous(4) number(4) …
//! ```
//!
//! Lengths are 2 bytes from version 3 on, 1 byte before; both start with a different byte range, so
//! a reader can tell before it knows the version. Bytes after `number` are reserved for extensions
//! and ignored.

use junto_crypto::{pad, x448};
use zeroize::Zeroizing;

use crate::{
    KemParams, RatchetError, Version,
    chain::{HeaderKey, IV_BYTES, TAG_BYTES},
    wire::{Reader, write_x448},
};

/// Bytes of a padded header without key encapsulation.
pub const HEADER_BYTES: usize = 88;
/// Bytes of a padded header once key encapsulation was ever on.
pub const HEADER_PQ_BYTES: usize = 2310;
/// The first byte of a 2-byte length is below this, a 1-byte length is not: an encrypted header has
/// at least 122 bytes and at most 2,346.
const SHORT_LENGTH_MIN: u8 = 32;

/// What a header tells.
pub(crate) struct Header {
    /// The sender's newest version; may be one that we do not speak.
    pub(crate) max_version: u16,
    /// The sender's current ratchet key.
    pub(crate) key: x448::PublicKey,
    /// The sender's state of key encapsulation.
    pub(crate) kem: Option<KemParams>,
    /// Messages in the sender's previous chain.
    pub(crate) previous: u32,
    /// Number of this message in its chain, from 0.
    pub(crate) number: u32,
}

impl Header {
    pub(crate) fn parse(version: Version, padded: &[u8]) -> Result<Self, RatchetError> {
        let mut reader = Reader(pad::unpad(padded)?);
        let max_version = reader.u16()?;
        let key = reader.x448()?;
        let kem = match version {
            Version::V2 => None,
            Version::V3 => KemParams::read(&mut reader)?,
        };
        Ok(Self {
            max_version,
            key,
            kem,
            previous: reader.u32()?,
            number: reader.u32()?,
        })
    }

    pub(crate) fn encode(&self, version: Version) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(HEADER_PQ_BYTES));
        out.extend_from_slice(&self.max_version.to_be_bytes());
        write_x448(&self.key, &mut out);
        if version >= Version::V3 {
            KemParams::write(self.kem.as_ref(), &mut out);
        }
        out.extend_from_slice(&self.previous.to_be_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out
    }

    /// The encrypted header, as it is sent and as it authenticates the body.
    pub(crate) fn seal(
        &self,
        version: Version,
        padded_bytes: usize,
        key: &HeaderKey,
        iv: &[u8; IV_BYTES],
        ad: &[u8],
    ) -> Result<Vec<u8>, RatchetError> {
        let mut sealed = Vec::with_capacity(padded_bytes);
        pad::pad(&self.encode(version), &mut sealed, padded_bytes)?;
        let tag = key.seal(iv, ad, &mut sealed)?;
        let mut out = Vec::with_capacity(2 + IV_BYTES + TAG_BYTES + 2 + padded_bytes);
        out.extend_from_slice(&version.number().to_be_bytes());
        out.extend_from_slice(iv);
        out.extend_from_slice(&tag);
        write_sized(version, &sealed, &mut out)?;
        Ok(out)
    }
}

/// Writes `bytes` with the length prefix of `version`.
pub(crate) fn write_sized(
    version: Version,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), RatchetError> {
    match version {
        Version::V2 => out.push(u8::try_from(bytes.len()).map_err(|_| RatchetError::TooLong)?),
        Version::V3 => out.extend_from_slice(
            &u16::try_from(bytes.len())
                .map_err(|_| RatchetError::TooLong)?
                .to_be_bytes(),
        ),
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Reads a sized string; also says which version's prefix it had.
fn read_sized<'a>(reader: &mut Reader<'a>) -> Result<(Version, &'a [u8]), RatchetError> {
    match reader.0.first() {
        Some(first) if *first < SHORT_LENGTH_MIN => Ok((Version::V3, reader.large()?)),
        _ => Ok((Version::V2, reader.short()?)),
    }
}

/// A message taken apart, nothing decrypted.
pub(crate) struct Envelope<'a> {
    pub(crate) version: Version,
    /// The encrypted header whole: associated data of the body.
    pub(crate) header: &'a [u8],
    iv: &'a [u8; IV_BYTES],
    header_tag: &'a [u8; TAG_BYTES],
    sealed_header: &'a [u8],
    pub(crate) tag: &'a [u8; TAG_BYTES],
    pub(crate) body: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, RatchetError> {
        let mut reader = Reader(message);
        let (outer, header) = read_sized(&mut reader)?;
        let tag = reader.array()?;
        let body = reader.0;
        let mut reader = Reader(header);
        let version = Version::from_number(reader.u16()?).map_err(|_| RatchetError::Malformed)?;
        let (iv, header_tag) = (reader.array()?, reader.array()?);
        let (inner, sealed_header) = read_sized(&mut reader)?;
        reader.end()?;
        // One encoding per message: the prefixes of its version, and a header of a known size.
        let sized = [HEADER_BYTES, HEADER_PQ_BYTES].contains(&sealed_header.len());
        if outer != version || inner != version || !sized {
            return Err(RatchetError::Malformed);
        }
        Ok(Self {
            version,
            header,
            iv,
            header_tag,
            sealed_header,
            tag,
            body,
        })
    }

    /// The header, if `key` is its key. An authentic header that cannot be read is an error.
    pub(crate) fn open_header(
        &self,
        key: &HeaderKey,
        ad: &[u8],
    ) -> Result<Option<Header>, RatchetError> {
        key.open(self.iv, ad, self.sealed_header, self.header_tag)
            .map(|padded| Header::parse(self.version, &padded))
            .transpose()
    }
}
