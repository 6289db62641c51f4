//! The public keys that each side brings to the key agreement, in the text form of links and the
//! binary form of envelopes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use junto_crypto::{kem, x448};

use super::query::Query;
use super::version::{self, VersionRange};
use super::wire::{Malformed, Reader, put_fixed, put_large};

/// One side's keys for the key agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyOffer {
    /// The version (binary form) or highest version (text form) of the ratchet.
    pub version: u16,
    /// First key.
    pub k1: x448::PublicKey,
    /// Second key.
    pub k2: x448::PublicKey,
    /// The post-quantum half.
    pub kem: Option<KemOffer>,
}

/// The post-quantum half of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KemOffer {
    /// A key to encapsulate to.
    Proposed(kem::PublicKey),
    /// A secret encapsulated to the key that the other side proposed, and a key for the next one.
    Accepted(kem::Ciphertext, kem::PublicKey),
}

impl KeyOffer {
    /// Appends the binary form.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&self.version.to_be_bytes());
        put_fixed(out, &self.k1.to_spki());
        put_fixed(out, &self.k2.to_spki());
        if self.version < version::RATCHET {
            return Ok(());
        }
        match &self.kem {
            None => out.push(b'0'),
            Some(KemOffer::Proposed(key)) => {
                out.extend_from_slice(b"1P");
                put_large(out, key.as_bytes())?;
            }
            Some(KemOffer::Accepted(ciphertext, key)) => {
                out.extend_from_slice(b"1A");
                put_large(out, ciphertext.as_bytes())?;
                put_large(out, key.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads the binary form.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = reader.u16()?;
        if version < version::RATCHET {
            return Err(Malformed::Version);
        }
        let (k1, k2) = (reader.x448()?, reader.x448()?);
        let kem = reader.optional(|reader| match reader.u8()? {
            b'P' => Ok(KemOffer::Proposed(read_key(reader.large()?)?)),
            b'A' => {
                let ciphertext = read_ciphertext(reader.large()?)?;
                Ok(KemOffer::Accepted(ciphertext, read_key(reader.large()?)?))
            }
            _ => Err(Malformed::Tag),
        })?;
        Ok(Self {
            version,
            k1,
            k2,
            kem,
        })
    }

    /// The text form, inside a link.
    pub(super) fn to_text(&self, versions: VersionRange) -> String {
        let mut query = Query::default();
        query.push("v", versions.to_string());
        let keys = [self.k1, self.k2].map(|key| URL_SAFE.encode(key.to_spki()));
        query.push("x3dh", keys.join(","));
        match &self.kem {
            None => {}
            Some(KemOffer::Proposed(key)) => query.push("kem_key", URL_SAFE.encode(key.as_bytes())),
            Some(KemOffer::Accepted(ciphertext, key)) => {
                query.push("kem_ct", URL_SAFE.encode(ciphertext.as_bytes()));
                query.push("kem_key", URL_SAFE.encode(key.as_bytes()));
            }
        }
        query.plain()
    }

    /// Reads the text form.
    pub(super) fn from_text(text: &str) -> Result<(VersionRange, Self), Malformed> {
        let query = Query::parse_plain(text)?;
        let versions: VersionRange = query.required("v")?.parse()?;
        let (k1, k2) = query
            .required("x3dh")?
            .split_once(',')
            .ok_or(Malformed::Text)?;
        let key = |text| {
            let bytes = URL_SAFE.decode(text).map_err(|_| Malformed::Text)?;
            x448::PublicKey::from_spki(&bytes).map_err(|_| Malformed::Key)
        };
        let decode = |text| URL_SAFE.decode(text).map_err(|_| Malformed::Text);
        let kem = match (query.optional("kem_key"), query.optional("kem_ct")) {
            (None, None) => None,
            (None, Some(_)) => return Err(Malformed::Text),
            (Some(key), None) => Some(KemOffer::Proposed(read_key(&decode(key)?)?)),
            (Some(key), Some(ciphertext)) => {
                let ciphertext = read_ciphertext(&decode(ciphertext)?)?;
                Some(KemOffer::Accepted(ciphertext, read_key(&decode(key)?)?))
            }
        };
        let offer = Self {
            version: versions.max(),
            k1: key(k1)?,
            k2: key(k2)?,
            kem,
        };
        Ok((versions, offer))
    }
}

fn read_key(bytes: &[u8]) -> Result<kem::PublicKey, Malformed> {
    kem::PublicKey::from_bytes(bytes).map_err(|_| Malformed::Key)
}

fn read_ciphertext(bytes: &[u8]) -> Result<kem::Ciphertext, Malformed> {
    kem::Ciphertext::from_bytes(bytes).map_err(|_| Malformed::Key)
}
