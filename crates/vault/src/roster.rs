//! What all realms of one version hold alike, and show before any guess.

use std::collections::BTreeMap;

use curve25519_dalek::ristretto::CompressedRistretto;
use junto_crypto::hash::sha256_of;

use crate::{
    Cost, DecodeError, REALMS_MAX, RealmId, RealmSet, Version, encoding::Reader,
    schedule::CostError,
};

/// The realms of one version, and by what each is caught when it lies: its share of the OPRF key and its share of the
/// secret, in the exponent. Says nothing of either, nor of the PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    pub(crate) version: Version,
    pub(crate) cost: Cost,
    pub(crate) set: RealmSet,
    /// In the order of the set.
    pub(crate) commitments: Vec<Commitment>,
    pub(crate) wrapped_digest: [u8; 32],
}

/// What binds one realm: points, checked to be some, as their encodings, which take a fifth of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commitment {
    pub(crate) key: CompressedRistretto,
    pub(crate) share: CompressedRistretto,
}

/// Names a wrapped c2.
pub(crate) fn wrapped_digest(wrapped: &[u8; 32]) -> [u8; 32] {
    sha256_of(&[b"junto vault wrapped", wrapped])
}

/// Too few realms tell the same: which say what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("of {needed} realms that must agree on what is stored, at most {agreed} do")]
pub struct Disagreement {
    /// Realms that must agree.
    pub needed: usize,
    /// Most that do.
    pub agreed: usize,
}

impl Roster {
    /// Most bytes of an encoded roster.
    pub const BYTES_MAX: usize = 16 + 12 + 2 + REALMS_MAX * 96 + 32;

    /// Version, cost, t, n, then id and two points for each realm in order, then the digest of the wrapped c2.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = [&self.version.0[..], &self.cost.encode()].concat();
        for count in [self.set.threshold(), self.set.realms().len()] {
            // At most [`REALMS_MAX`].
            out.push(u8::try_from(count).unwrap_or(u8::MAX));
        }
        for (realm, commitment) in self.set.realms().iter().zip(&self.commitments) {
            out.extend_from_slice(&realm.0);
            out.extend_from_slice(commitment.key.as_bytes());
            out.extend_from_slice(commitment.share.as_bytes());
        }
        out.extend_from_slice(&self.wrapped_digest);
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one roster: realms in order, points not the identity, a cost
    /// within the limits of [`Cost::new`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = Version(reader.array()?);
        let cost = Cost::decode(reader.array()?).map_err(|CostError| DecodeError)?;
        let (threshold, count) = (reader.u8()?, usize::from(reader.u8()?));
        if count > REALMS_MAX {
            return Err(DecodeError);
        }
        let (mut realms, mut commitments) = (Vec::new(), Vec::new());
        for _ in 0..count {
            realms.push(RealmId(reader.array()?));
            commitments.push(Commitment {
                key: reader.point()?.compress(),
                share: reader.point()?.compress(),
            });
        }
        let wrapped_digest = reader.array()?;
        reader.finish()?;
        if !realms.is_sorted() {
            return Err(DecodeError);
        }
        Ok(Self {
            version,
            cost,
            set: RealmSet::new(realms, threshold).map_err(|_| DecodeError)?,
            commitments,
            wrapped_digest,
        })
    }

    /// Which storing of the secret this is.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// What stretching the PIN costs.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Its realms.
    #[must_use]
    pub fn set(&self) -> &RealmSet {
        &self.set
    }

    pub(crate) fn commitment(&self, realm: &RealmId) -> Option<(u8, &Commitment)> {
        let place = self.set.place(realm)?;
        Some((place, self.commitments.get(usize::from(place) - 1)?))
    }

    /// The roster that at least t realms of `set` tell alike. A realm may tell two, the newest and the one before, while
    /// a new version is on its way; the first of `told` that enough agree on counts. Two groups of t have a realm in
    /// common, so an old version that enough realms still hold is not passed off for a new one by fewer than
    /// 2t − n liars.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn agreed(
        set: &RealmSet,
        told: &BTreeMap<RealmId, Vec<Self>>,
    ) -> Result<Self, Disagreement> {
        let votes = |roster: &Self| {
            told.iter()
                .filter(|(realm, rosters)| set.place(realm).is_some() && rosters.contains(roster))
                .count()
        };
        let needed = set.threshold();
        let candidates = || told.values().flatten().filter(|roster| roster.set == *set);
        // The newest of each realm before what it had before.
        let newest = || told.values().filter_map(|rosters| rosters.first());
        newest()
            .filter(|roster| roster.set == *set)
            .chain(candidates())
            .find(|roster| votes(roster) >= needed)
            .cloned()
            .ok_or_else(|| Disagreement {
                needed,
                agreed: candidates().map(votes).max().unwrap_or(0),
            })
    }
}
