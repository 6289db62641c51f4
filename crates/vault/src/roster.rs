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

    /// The roster that counts: of those that at least t realms of `set` tell, the one that most of them tell *first*. A
    /// realm tells two, the newest and the one before, while a new version is on its way. The new one counts as soon as
    /// t realms have it: they are more than half, so most tell it first, whichever realm lags and whatever their ids are.
    /// While all realms are heard, f of them that show an old version for ever pass it off only if fewer than t others have
    /// the new one: [`Roster::held`] is for who knows which version it wants.
    ///
    /// # Errors
    /// [`Disagreement`].
    pub fn agreed(
        set: &RealmSet,
        told: &BTreeMap<RealmId, Vec<Self>>,
    ) -> Result<Self, Disagreement> {
        let ranked = Self::ranked(set, told);
        let agreed = ranked.iter().map(|(_, votes, _)| *votes).max().unwrap_or(0);
        let needed = set.threshold();
        let enough = ranked.into_iter().find(|(_, votes, _)| *votes >= needed);
        enough
            .map(|(_, _, roster)| roster.clone())
            .ok_or(Disagreement { needed, agreed })
    }

    /// The roster of that version, if at least t realms of `set` tell it, be it as the one before.
    #[must_use]
    pub fn held(
        set: &RealmSet,
        told: &BTreeMap<RealmId, Vec<Self>>,
        version: &Version,
    ) -> Option<Self> {
        let ranked = Self::ranked(set, told).into_iter();
        ranked
            .filter(|(_, votes, _)| *votes >= set.threshold())
            .find(|(_, _, roster)| roster.version == *version)
            .map(|(_, _, roster)| roster.clone())
    }

    /// What realms of the set tell, with how many tell it first and how many at all: what most tell first comes first.
    fn ranked<'a>(
        set: &RealmSet,
        told: &'a BTreeMap<RealmId, Vec<Self>>,
    ) -> Vec<(usize, usize, &'a Self)> {
        let told: Vec<_> = told
            .iter()
            .filter(|(realm, _)| set.place(realm).is_some())
            .map(|(_, rosters)| rosters)
            .collect();
        let count = |of: &dyn Fn(&Vec<Self>) -> bool| told.iter().filter(|it| of(it)).count();
        let of_set = told.iter().copied().flatten();
        let mut ranked: Vec<_> = of_set
            .filter(|roster| roster.set == *set)
            .map(|roster| {
                let first = count(&|rosters| rosters.first() == Some(roster));
                (first, count(&|rosters| rosters.contains(roster)), roster)
            })
            .collect();
        // Bytes decide what nothing else does: everybody comes to the same.
        ranked.sort_by_key(|(first, votes, roster)| {
            std::cmp::Reverse((*first, *votes, roster.to_bytes()))
        });
        ranked
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::RISTRETTO_BASEPOINT_COMPRESSED as POINT;

    use super::*;

    fn roster(set: &RealmSet, version: u8) -> Roster {
        let commitment = Commitment {
            key: POINT,
            share: POINT,
        };
        Roster {
            version: Version([version; 16]),
            cost: Cost::RECOMMENDED,
            set: set.clone(),
            commitments: vec![commitment; set.realms().len()],
            wrapped_digest: [version; 32],
        }
    }

    fn set(n: u8, t: u8) -> RealmSet {
        RealmSet::new((1..=n).map(|i| RealmId([i; 32])).collect(), t).unwrap()
    }

    /// All orders of 0 to n - 1.
    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![Vec::new()];
        }
        let shorter = permutations(n - 1);
        let places = |order: Vec<usize>| {
            (0..n).map(move |place| {
                let mut longer = order.clone();
                longer.insert(place, n - 1);
                longer
            })
        };
        shorter.into_iter().flat_map(places).collect()
    }

    /// Whatever the realms' ids and the version's name are, whichever have activated the new version and whichever of them
    /// have settled: the new one counts as soon as t have it, and the old one before.
    #[test]
    fn the_newest_that_enough_hold_counts_whatever_the_ids() {
        for (n, t) in [(1, 1), (2, 2), (3, 2), (3, 3), (4, 3), (5, 3)] {
            let set = set(n, t);
            let (n, t) = (usize::from(n), usize::from(t));
            // Names of versions are random: the newer may sort first or last.
            for (old, new) in [(1, 2), (2, 1)] {
                let (old, new) = (roster(&set, old), roster(&set, new));
                let all = permutations(n);
                // Of the 120 orders of five, some.
                for order in all.into_iter().step_by(if n > 4 { 17 } else { 1 }) {
                    for states in 0..3_usize.pow(u32::try_from(n).unwrap()) {
                        let state =
                            |at: usize| states / 3_usize.pow(u32::try_from(at).unwrap()) % 3;
                        let activated = (0..n).filter(|at| state(*at) > 0).count();
                        let settled = (0..n).filter(|at| state(*at) == 2).count();
                        // A client settles when enough have activated.
                        if settled > 0 && activated < t {
                            continue;
                        }
                        let told = (0..n).map(|at| {
                            let rosters = match state(at) {
                                0 => vec![old.clone()],
                                1 => vec![new.clone(), old.clone()],
                                _ => vec![new.clone()],
                            };
                            (set.realms()[order[at]], rosters)
                        });
                        let told = told.collect();
                        let counts = if activated >= t { &new } else { &old };
                        let agreed = Roster::agreed(&set, &told).unwrap();
                        assert!(agreed == *counts, "{t} of {n}: {order:?}, {states}");
                        let held = |roster: &Roster| Roster::held(&set, &told, &roster.version);
                        assert_eq!(held(&new).is_some(), activated >= t);
                        assert_eq!(held(&old).is_some(), n - settled >= t);
                    }
                }
            }
        }
    }

    /// One realm of three shows what was before for ever, or makes a version up: whatever its id, with the two others
    /// it is outvoted, second places included.
    #[test]
    fn one_that_lags_for_ever_is_outvoted_whatever_its_id() {
        let set = set(3, 2);
        let (old, new, own) = (roster(&set, 2), roster(&set, 1), roster(&set, 3));
        for order in permutations(3) {
            for lie in [
                vec![old.clone()],
                vec![own.clone(), old.clone()],
                vec![old.clone(), own.clone()],
            ] {
                for lagging in [vec![new.clone()], vec![new.clone(), old.clone()]] {
                    let [a, b, c] = [0, 1, 2].map(|at| set.realms()[order[at]]);
                    let told = [(a, lie.clone()), (b, lagging), (c, vec![new.clone()])].into();
                    assert_eq!(Roster::agreed(&set, &told), Ok(new.clone()));
                    assert!(Roster::held(&set, &told, &own.version).is_none());
                }
            }
        }
    }
}
