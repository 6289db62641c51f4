//! What the two sides exchange to agree on keys: the maker's [`Offer`] in a link, the joiner's
//! [`Params`] in its first message.
//!
//! ```text
//! Offer  = min(2) max(2) short(k1) short(k2) maybe(KEM)
//! Params = version(2) short(k1) short(k2) [version ≥ 3: maybe(KEM)]
//! KEM    = 'P' Large(public key)  |  'A' Large(ciphertext) Large(public key)
//! ```

use junto_crypto::{hash, kem, x448};

use crate::{
    RatchetError, Version, VersionRange,
    wire::{Reader, write_kem_ciphertext, write_kem_key, write_x448},
};

/// A state of the negotiation of the key encapsulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KemParams {
    /// "I can": a key to encapsulate to.
    Proposed(kem::PublicKey),
    /// "I did": a secret for the peer's key, and our next key.
    Accepted(kem::Ciphertext, kem::PublicKey),
}

impl KemParams {
    pub(crate) fn write(params: Option<&Self>, out: &mut Vec<u8>) {
        match params {
            None => out.push(b'0'),
            Some(Self::Proposed(key)) => {
                out.extend_from_slice(b"1P");
                write_kem_key(key, out);
            }
            Some(Self::Accepted(ciphertext, key)) => {
                out.extend_from_slice(b"1A");
                write_kem_ciphertext(ciphertext, out);
                write_kem_key(key, out);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, RatchetError> {
        if !reader.present()? {
            return Ok(None);
        }
        match reader.u8()? {
            b'P' => Ok(Some(Self::Proposed(reader.kem_key()?))),
            b'A' => {
                let ciphertext = reader.kem_ciphertext()?;
                Ok(Some(Self::Accepted(ciphertext, reader.kem_key()?)))
            }
            _ => Err(RatchetError::Malformed),
        }
    }
}

/// Parameters at one version: the joiner's answer, or either side's when a conversation is
/// negotiated anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The version that the ratchet starts with.
    pub version: Version,
    /// First key.
    pub k1: x448::PublicKey,
    /// Second key.
    pub k2: x448::PublicKey,
    /// Key encapsulation; absent below version 3.
    pub kem: Option<KemParams>,
}

impl Params {
    /// SHA-256 of the raw keys. Compared, it says who receives first when a conversation is negotiated anew.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        hash::sha256_of(&[self.k1.as_bytes(), self.k2.as_bytes()])
    }

    /// The bytes on the wire (142 without key encapsulation at version 2).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(&self.version.number().to_be_bytes());
        write_x448(&self.k1, &mut out);
        write_x448(&self.k2, &mut out);
        if self.version >= Version::V3 {
            KemParams::write(self.kem.as_ref(), &mut out);
        }
        out
    }

    /// Reads parameters that are all of `bytes`.
    ///
    /// # Errors
    /// [`RatchetError::Version`] for a version that we do not speak, else
    /// [`RatchetError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RatchetError> {
        match Self::decode_front(bytes)? {
            (params, []) => Ok(params),
            _ => Err(RatchetError::Malformed),
        }
    }

    /// Reads parameters at the front of `bytes` and returns what follows them, for envelopes in
    /// which more comes after.
    ///
    /// # Errors
    /// As [`Params::decode`].
    pub fn decode_front(bytes: &[u8]) -> Result<(Self, &[u8]), RatchetError> {
        let mut reader = Reader(bytes);
        let version = Version::from_number(reader.u16()?)?;
        let (k1, k2) = (reader.x448()?, reader.x448()?);
        let kem = match version {
            Version::V2 => None,
            Version::V3 => KemParams::read(&mut reader)?,
        };
        let params = Self {
            version,
            k1,
            k2,
            kem,
        };
        Ok((params, reader.0))
    }
}

/// What the maker of a link offers to whoever opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Versions that the maker speaks.
    pub versions: VersionRange,
    /// First key.
    pub k1: x448::PublicKey,
    /// Second key.
    pub k2: x448::PublicKey,
    /// A key to encapsulate to, if the maker wants post-quantum steps from the start.
    pub kem: Option<kem::PublicKey>,
}

impl Offer {
    /// The bytes inside a short link (143 without key encapsulation).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        self.versions.write(&mut out);
        write_x448(&self.k1, &mut out);
        write_x448(&self.k2, &mut out);
        match &self.kem {
            None => out.push(b'0'),
            Some(key) => {
                out.extend_from_slice(b"1P");
                write_kem_key(key, &mut out);
            }
        }
        out
    }

    /// Reads an offer that is all of `bytes`.
    ///
    /// # Errors
    /// [`RatchetError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RatchetError> {
        match Self::decode_front(bytes)? {
            (offer, []) => Ok(offer),
            _ => Err(RatchetError::Malformed),
        }
    }

    /// Reads an offer at the front of `bytes` and returns what follows it.
    ///
    /// # Errors
    /// [`RatchetError::Malformed`].
    pub fn decode_front(bytes: &[u8]) -> Result<(Self, &[u8]), RatchetError> {
        let mut reader = Reader(bytes);
        let versions = VersionRange::read(&mut reader)?;
        let (k1, k2) = (reader.x448()?, reader.x448()?);
        let kem = match KemParams::read(&mut reader)? {
            None => None,
            Some(KemParams::Proposed(key)) => Some(key),
            // An offer comes first: there is nothing yet that it could accept.
            Some(KemParams::Accepted(..)) => return Err(RatchetError::Malformed),
        };
        let offer = Self {
            versions,
            k1,
            k2,
            kem,
        };
        Ok((offer, reader.0))
    }
}
