//! How records are sealed on their way: to a key that the destination made for one order, and for one state of the source.
//!
//! ```text
//! key    = HKDF-SHA256(salt "junto vault parcels", X25519 ‖ sntrup761, order ‖ head, 32)
//! parcel = AES-256-GCM(key, number in 16 bytes, order, digest of the next ‖ records)
//! ```
//!
//! The source's replicas seal alike, to the last byte. A source that was turned back and goes on otherwise has another head, so
//! that no key seals two things under one number.

use junto_crypto::{
    CryptoRng, Zeroizing,
    aead::{GCM_IV_BYTES, GcmKey, TAG_BYTES},
    hash::sha256_of,
    kdf::hkdf_sha256,
    kem, x25519,
};

use super::OrderId;
use crate::{DecodeError, encoding::Reader};

/// The destination's key for one order.
#[derive(Clone, Debug)]
pub struct ParcelKey {
    x25519: x25519::PublicKey,
    kem: kem::PublicKey,
}

impl PartialEq for ParcelKey {
    fn eq(&self, other: &Self) -> bool {
        self.x25519.as_bytes() == other.x25519.as_bytes()
            && self.kem.as_bytes() == other.kem.as_bytes()
    }
}

impl Eq for ParcelKey {}

impl ParcelKey {
    /// Bytes of an encoded key.
    pub const BYTES: usize = x25519::KEY_BYTES + kem::PUBLIC_KEY_BYTES;

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.x25519.as_bytes());
        out.extend_from_slice(self.kem.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let x25519 = x25519::PublicKey::from_bytes(&reader.array()?);
        let kem = reader.bytes(kem::PUBLIC_KEY_BYTES)?;
        let kem = kem::PublicKey::from_bytes(kem).map_err(|_| DecodeError)?;
        Ok(Self { x25519, kem })
    }
}

/// Its secret half. In memory until the order is done, and wiped then: what a log may have kept sealed stays so.
pub(crate) struct ParcelSecret {
    x25519: x25519::SecretKey,
    kem: kem::SecretKey,
}

impl ParcelSecret {
    pub(crate) const BYTES: usize = x25519::KEY_BYTES + kem::SECRET_KEY_BYTES;

    pub(crate) fn generate(rng: &mut impl CryptoRng) -> Self {
        Self {
            x25519: x25519::SecretKey::generate(rng),
            kem: kem::SecretKey::generate(rng),
        }
    }

    pub(crate) fn public(&self) -> ParcelKey {
        ParcelKey {
            x25519: self.x25519.public_key(),
            kem: self.kem.public_key(),
        }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.x25519.as_bytes());
        out.extend_from_slice(self.kem.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let x25519 = Zeroizing::new(reader.array()?);
        let kem = reader.bytes(kem::SECRET_KEY_BYTES)?;
        Ok(Self {
            x25519: x25519::SecretKey::from_bytes(&x25519),
            kem: kem::SecretKey::from_bytes(kem).map_err(|_| DecodeError)?,
        })
    }

    /// What [`Sealed::make`] drew.
    pub(crate) fn open(&self, sealed: &Sealed) -> Result<Zeroizing<[u8; 64]>, DecodeError> {
        let dh = self.x25519.diffie_hellman(&sealed.x25519);
        let dh = dh.map_err(|_| DecodeError)?;
        let kem = self.kem.decapsulate(&sealed.kem);
        Ok(joined(dh.as_bytes(), kem.as_bytes()))
    }
}

fn joined(dh: &[u8; 32], kem: &[u8; 32]) -> Zeroizing<[u8; 64]> {
    let mut out = Zeroizing::new([0; 64]);
    out[..32].copy_from_slice(dh);
    out[32..].copy_from_slice(kem);
    out
}

/// A secret for who has the other half of a [`ParcelKey`].
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    x25519: x25519::PublicKey,
    kem: kem::Ciphertext,
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.x25519.as_bytes() == other.x25519.as_bytes()
            && self.kem.as_bytes() == other.kem.as_bytes()
    }
}

impl Eq for Sealed {}

impl Sealed {
    /// A new secret, with what tells it to `key`.
    pub(crate) fn make(
        key: &ParcelKey,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Zeroizing<[u8; 64]>), DecodeError> {
        let own = x25519::SecretKey::generate(rng);
        let dh = own.diffie_hellman(&key.x25519).map_err(|_| DecodeError)?;
        let (kem, shared) = key.kem.encapsulate(rng);
        let secret = joined(dh.as_bytes(), shared.as_bytes());
        let x25519 = own.public_key();
        Ok((Self { x25519, kem }, secret))
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.x25519.as_bytes());
        out.extend_from_slice(self.kem.as_bytes());
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let x25519 = x25519::PublicKey::from_bytes(&reader.array()?);
        let kem = reader.bytes(kem::CIPHERTEXT_BYTES)?;
        let kem = kem::Ciphertext::from_bytes(kem).map_err(|_| DecodeError)?;
        Ok(Self { x25519, kem })
    }
}

/// Seals the parcels of one order at one state of the source.
pub(crate) struct SealKey {
    order: OrderId,
    key: GcmKey,
}

impl SealKey {
    pub(crate) fn new(secret: &[u8; 64], order: OrderId, head: &[u8; 32]) -> Self {
        let info = [&order.0[..], head].concat();
        let key = hkdf_sha256::<32>(b"junto vault parcels", secret, &info);
        Self {
            order,
            key: GcmKey::new(&key),
        }
    }

    /// None above what the cipher permits, which is far more than a parcel has.
    pub(crate) fn seal(&self, number: u32, mut contents: Zeroizing<Vec<u8>>) -> Option<Vec<u8>> {
        let (iv, ad) = (iv(number), &self.order.0);
        let tag = self.key.seal_in_place(&iv, ad, &mut contents).ok()?;
        Some([&contents[..], &tag].concat())
    }

    pub(crate) fn open(
        &self,
        number: u32,
        parcel: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
        let (body, tag) = parcel.split_last_chunk::<TAG_BYTES>().ok_or(DecodeError)?;
        let mut contents = Zeroizing::new(body.to_vec());
        self.key
            .open_in_place(&iv(number), &self.order.0, &mut contents, tag)
            .map_err(|_| DecodeError)?;
        Ok(contents)
    }
}

fn iv(number: u32) -> [u8; GCM_IV_BYTES] {
    let mut iv = [0; GCM_IV_BYTES];
    iv[GCM_IV_BYTES - 4..].copy_from_slice(&number.to_be_bytes());
    iv
}

/// What names a parcel to the one before.
pub(crate) fn digest(parcel: &[u8]) -> [u8; 32] {
    sha256_of(&[b"junto vault parcel", parcel])
}
