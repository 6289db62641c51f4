//! A shared key: its public half, and one holder's share.

use core::fmt;

use junto_crypto::hash::sha256_of;
use zeroize::Zeroizing;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    group::{G1, Point, decode_g1, evaluate, generate},
    party::{ShareIndex, Threshold},
    scalar::SecretScalar,
};

/// Bytes of an encoded [`PublicKey`].
pub const PUBLIC_KEY_BYTES: usize = 48;

/// First byte of an encoded [`KeyPublic`] and [`KeyShare`].
const FORMAT: u8 = 1;

/// A BLS public key: a point of G1 of order r that is not infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub(crate) G1);

impl PublicKey {
    /// Reads a compressed key.
    ///
    /// # Errors
    /// [`DecodeError`] unless `bytes` are the 48 bytes of a compressed point of order r that is
    /// not infinity.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_g1(bytes).map(Self).ok_or(DecodeError)
    }

    /// The compressed key.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0.compress()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bls:")?;
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What everybody may know of a shared key: commitments to the coefficients of the polynomial whose
/// value at 0 is the secret key and whose value at i is the share of holder i.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPublic {
    epoch: u64,
    threshold: Threshold,
    /// Exactly `threshold.required()`, none of them infinity.
    commitments: Vec<G1>,
}

impl KeyPublic {
    /// `None` unless there are exactly `required` commitments, all of them valid.
    pub(crate) fn new(epoch: u64, threshold: Threshold, commitments: Vec<G1>) -> Option<Self> {
        let exact = commitments.len() == usize::from(threshold.required());
        (exact && !commitments.iter().any(Point::is_zero)).then_some(Self {
            epoch,
            threshold,
            commitments,
        })
    }

    /// How often the key was refreshed or reshared since it was made.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many of how many holders must sign.
    #[must_use]
    pub fn threshold(&self) -> Threshold {
        self.threshold
    }

    /// The key under which signatures verify; the same in every epoch.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.commitments[0])
    }

    /// The public half of the share of holder `index`: partial signatures verify under it.
    #[must_use]
    pub fn public_share(&self, index: ShareIndex) -> PublicKey {
        PublicKey(G1::lower(&evaluate(&self.commitments, index.value())))
    }

    /// Commitments to the polynomial's coefficients, from the constant term on.
    pub(crate) fn commitments(&self) -> &[G1] {
        &self.commitments
    }

    /// Whether this is the share of holder `index`.
    pub(crate) fn announces(&self, index: ShareIndex, secret: &SecretScalar) -> bool {
        index.value() <= self.threshold.holders() && generate(secret) == self.public_share(index).0
    }

    /// SHA-256 over the encoding: names the key in one epoch.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256_of(&[b"junto-bls/1 key", &self.encode()])
    }

    /// Version 1: format, epoch u64, t, n, then t points of 48 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Writer::new()
            .u8(FORMAT)
            .u64(self.epoch)
            .u8(self.threshold.required())
            .u8(self.threshold.holders())
            .points(&self.commitments)
            .finish()
    }

    /// Reads [`KeyPublic::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] for another version, an impossible threshold, points that are not of order r
    /// or infinity, and any missing or trailing byte.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let key = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(key)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if reader.u8()? != FORMAT {
            return Err(DecodeError);
        }
        let epoch = reader.u64()?;
        let threshold = Threshold::new(reader.u8()?, reader.u8()?).ok_or(DecodeError)?;
        let commitments = reader.points(threshold.required())?;
        Self::new(epoch, threshold, commitments).ok_or(DecodeError)
    }
}

impl fmt::Debug for KeyPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPublic")
            .field("public_key", &self.public_key())
            .field("epoch", &self.epoch)
            .field("required", &self.threshold.required())
            .field("holders", &self.threshold.holders())
            .finish_non_exhaustive()
    }
}

/// One holder's share of a key in one epoch, usable for signing. Secret: no `Debug` of the share,
/// no `Clone`, wiped when dropped.
///
/// It comes only out of [`Pending::activate`](crate::Pending::activate), that is with a certificate
/// of all parties, or out of sealed storage.
pub struct KeyShare {
    public: KeyPublic,
    index: ShareIndex,
    secret: SecretScalar,
}

impl KeyShare {
    /// `None` if the share is not the one that the public commitments announce.
    pub(crate) fn new(public: KeyPublic, index: ShareIndex, secret: SecretScalar) -> Option<Self> {
        public
            .announces(index, &secret)
            .then(|| Self::checked(public, index, secret))
    }

    /// A share that was already compared with the public commitments.
    pub(crate) fn checked(public: KeyPublic, index: ShareIndex, secret: SecretScalar) -> Self {
        Self {
            public,
            index,
            secret,
        }
    }

    /// What everybody may know of the key.
    #[must_use]
    pub fn public(&self) -> &KeyPublic {
        &self.public
    }

    /// Whose share this is.
    #[must_use]
    pub fn index(&self) -> ShareIndex {
        self.index
    }

    pub(crate) fn secret(&self) -> &SecretScalar {
        &self.secret
    }

    /// For sealed storage only: the encoded [`KeyPublic`], index, then the share (32 bytes).
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let public = self.public.encode();
        // Sized at once: a growing buffer would leave unwiped copies of the share behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(public.len() + 33));
        bytes.extend_from_slice(&public);
        bytes.push(self.index.value());
        bytes.extend_from_slice(self.secret.to_bytes().as_ref());
        bytes
    }

    /// Reads [`KeyShare::encode`].
    ///
    /// # Errors
    /// As [`KeyPublic::decode`]; also if the share is not the one that the commitments announce.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let public = KeyPublic::read(&mut reader)?;
        let index = ShareIndex::new(reader.u8()?).ok_or(DecodeError)?;
        let share = Zeroizing::new(reader.array()?);
        reader.finish()?;
        let secret = SecretScalar::from_bytes(&share).ok_or(DecodeError)?;
        Self::new(public, index, secret).ok_or(DecodeError)
    }
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyShare")
            .field("public", &self.public)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
