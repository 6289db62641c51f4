//! Getting back: one guess, in two steps, with any t realms.

use std::collections::BTreeMap;

use curve25519_dalek::ristretto::RistrettoPoint;
use junto_crypto::Zeroizing;
use rand_core::CryptoRng;

use crate::{
    AuthKey, BlindedElement, Evaluation, Given, MasterKey, RealmId, Roster, Stretched,
    enrolment::wrap,
    oprf::{Blinding, OUTPUT_BYTES},
    roster::wrapped_digest,
    sharing::{combine, combine_points},
};

/// Why a guess gave nothing back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Too few realms answered with what they are bound to.
    #[error("{needed} realms are needed and {sound} answered soundly; {} lied", liars.len())]
    Few {
        /// Realms needed.
        needed: usize,
        /// Realms whose answers hold.
        sound: usize,
        /// Realms whose answers are proven false.
        liars: Vec<RealmId>,
    },
}

/// One guess under way: the PIN is in it, blinded for the realms. Sending the same element again costs nothing.
pub struct Attempt {
    stretched: Stretched,
    roster: Roster,
    blinding: Blinding,
    element: BlindedElement,
}

/// From which the blinding of a guess comes, together with the PIN: who keeps it until there is an answer can ask the same
/// again, and realms charge that once. Without what was sent to realms it says nothing of the PIN; with it, PINs can be tried.
pub struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// A new one.
    pub fn new(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut seed[..]);
        Self(seed)
    }

    /// As it was kept.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// For keeping.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Attempt {
    /// `stretched` for the version, set and cost of `roster`.
    pub fn new(stretched: Stretched, roster: Roster, rng: &mut impl CryptoRng) -> Self {
        Self::again(stretched, roster, &Seed::new(rng))
    }

    /// The same PIN for the same version with the same seed makes the same element; another PIN, one that has nothing to do
    /// with it.
    #[must_use]
    pub fn again(stretched: Stretched, roster: Roster, seed: &Seed) -> Self {
        let blind = stretched.blind(seed.as_bytes());
        let (blinding, element) = Blinding::with(stretched.oprf_input(), blind);
        Self {
            stretched,
            roster,
            blinding,
            element,
        }
    }

    /// How many of these answers are what was asked for.
    #[must_use]
    pub fn sound(&self, answers: &BTreeMap<RealmId, Evaluation>) -> usize {
        self.sifted(answers).0.len()
    }

    fn sifted(
        &self,
        answers: &BTreeMap<RealmId, Evaluation>,
    ) -> (Vec<(u8, RistrettoPoint)>, Vec<RealmId>) {
        sift(&self.roster, answers, |place, commitment, answer| {
            let element = answer.verified(&commitment.key.decompress()?, &self.element)?;
            Some((place, element))
        })
    }

    /// What every realm is asked to evaluate; each charges a guess for it.
    #[must_use]
    pub fn element(&self) -> BlindedElement {
        self.element
    }

    /// Step 2 of the answers of at least t realms.
    ///
    /// # Errors
    /// [`RecoveryError`], naming realms whose proofs are false.
    pub fn claims(self, answers: &BTreeMap<RealmId, Evaluation>) -> Result<Claims, RecoveryError> {
        let (sound, liars) = self.sifted(answers);
        let needed = self.roster.set.threshold();
        let points = sound.get(..needed).ok_or_else(|| RecoveryError::Few {
            needed,
            sound: sound.len(),
            liars: liars.clone(),
        })?;
        Ok(Claims {
            output: self.blinding.finish(&combine_points(points)),
            stretched: self.stretched,
            roster: self.roster,
            liars,
        })
    }
}

/// A guess that the realms have evaluated. Only they can tell whether it was right: by what each demands to see.
pub struct Claims {
    stretched: Stretched,
    roster: Roster,
    output: Zeroizing<[u8; OUTPUT_BYTES]>,
    liars: Vec<RealmId>,
}

impl Claims {
    /// What shows `realm`, and no other, that the PIN is known.
    #[must_use]
    pub fn auth_key(&self, realm: &RealmId) -> AuthKey {
        AuthKey::derive(&self.output, realm, &self.roster.version)
    }

    /// Realms whose evaluations were proven false; the others sufficed.
    #[must_use]
    pub fn liars(&self) -> &[RealmId] {
        &self.liars
    }

    /// The master key, of what at least t realms gave.
    ///
    /// # Errors
    /// [`RecoveryError`], naming realms that gave something else than they are bound to.
    pub fn open(&self, given: &BTreeMap<RealmId, Given>) -> Result<MasterKey, RecoveryError> {
        let (sound, liars) = self.judged(given);
        let needed = self.roster.set.threshold();
        let (Some(enough), Some((_, first))) = (sound.get(..needed), sound.first()) else {
            return Err(RecoveryError::Few {
                needed,
                sound: sound.len(),
                liars,
            });
        };
        let shares: Vec<_> = enough
            .iter()
            .map(|(place, given)| (*place, &*given.share))
            .collect();
        let c2 = Zeroizing::new(wrap(&combine(&shares), &first.wrapped));
        Ok(self.stretched.master_key(&c2))
    }
}

impl Claims {
    fn judged<'a>(
        &self,
        given: &'a BTreeMap<RealmId, Given>,
    ) -> (Vec<(u8, &'a Given)>, Vec<RealmId>) {
        sift(&self.roster, given, |place, commitment, given| {
            let bound = RistrettoPoint::mul_base(&given.share).compress() == commitment.share
                && wrapped_digest(&given.wrapped) == self.roster.wrapped_digest;
            bound.then_some((place, given))
        })
    }

    /// Realms that gave what they are bound to. Fewer than t of them prove nothing about the PIN: a realm has its part
    /// and can give it to whoever asks.
    #[must_use]
    pub fn true_parts(&self, given: &BTreeMap<RealmId, Given>) -> Vec<RealmId> {
        let liars = self.false_parts(given);
        let of_roster = |realm: &&RealmId| self.roster.set.place(realm).is_some();
        let of_roster = given.keys().filter(of_roster);
        of_roster
            .filter(|it| !liars.contains(it))
            .copied()
            .collect()
    }

    /// Realms that gave something else than they are bound to, whether or not the others suffice.
    #[must_use]
    pub fn false_parts(&self, given: &BTreeMap<RealmId, Given>) -> Vec<RealmId> {
        self.judged(given).1
    }
}

/// What passes `check`, and who sent what does not. Answers of realms that are not in the roster count for nothing.
fn sift<'a, A, T>(
    roster: &Roster,
    answers: &'a BTreeMap<RealmId, A>,
    check: impl Fn(u8, &crate::roster::Commitment, &'a A) -> Option<T>,
) -> (Vec<T>, Vec<RealmId>) {
    let (mut sound, mut liars) = (Vec::new(), Vec::new());
    for (realm, answer) in answers {
        let Some((place, commitment)) = roster.commitment(realm) else {
            continue;
        };
        match check(place, commitment, answer) {
            Some(value) => sound.push(value),
            None => liars.push(*realm),
        }
    }
    (sound, liars)
}

#[cfg(test)]
mod tests;
