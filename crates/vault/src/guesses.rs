//! How many guesses there are: for one realm, over all realms, for a lifetime.

use crate::RealmSet;

/// The guesses that a realm grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessLimit {
    /// Between two proofs that somebody knows the PIN.
    pub(crate) each: u16,
    /// Over all versions stored under one id, until somebody proves that he knows a PIN.
    pub(crate) lifetime: u16,
}

/// Guesses that cannot be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No guess at all, or a lifetime shorter than one version's guesses.
    #[error("at least one guess, and no fewer over a lifetime than for one version")]
    None,
    /// As many realms corrupt as are needed: they need no guess.
    #[error("no limit holds when as many realms are corrupt as a recovery needs")]
    Corrupt,
    /// The bound is too small for this set: an honest realm could grant no guess.
    #[error("that bound is too small for so many realms: an honest one could grant no guess")]
    Small,
}

impl GuessLimit {
    /// `each` guesses for a version, `lifetime` over all versions of one id.
    ///
    /// # Errors
    /// [`PolicyError::None`].
    pub fn new(each: u16, lifetime: u16) -> Result<Self, PolicyError> {
        if each == 0 || lifetime < each {
            return Err(PolicyError::None);
        }
        Ok(Self { each, lifetime })
    }

    /// The guesses that each realm may grant so that there are at most `total` full guesses over all realms while
    /// `corrupt` of them count nothing.
    ///
    /// Each guess takes t realms, `corrupt` of which are free, and n − `corrupt` honest ones count apart: so
    /// ⌊(n − c) · each / (t − c)⌋ guesses are possible, and each = ⌊(t − c) · total / (n − c)⌋ keeps them at `total`.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn over(
        set: &RealmSet,
        corrupt: usize,
        total: u16,
        lifetime: u16,
    ) -> Result<Self, PolicyError> {
        let honest_needed = set
            .threshold()
            .checked_sub(corrupt)
            .filter(|needed| *needed > 0)
            .ok_or(PolicyError::Corrupt)?;
        let each = honest_needed * usize::from(total) / (set.realms().len() - corrupt);
        let each = u16::try_from(each).unwrap_or(u16::MAX);
        if each == 0 {
            return Err(PolicyError::Small);
        }
        Self::new(each, lifetime)
    }

    /// Guesses for one version at one realm.
    #[must_use]
    pub fn each(self) -> u16 {
        self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealmId;

    fn set(n: u8, t: u8) -> RealmSet {
        RealmSet::new((0..n).map(|i| RealmId([i; 32])).collect(), t).unwrap()
    }

    /// G2: however an adversary spreads its guesses over realms, it has no more than the bound.
    #[test]
    fn the_bound_over_all_realms_holds() {
        for n in 1..=6_u8 {
            for t in n / 2 + 1..=n {
                for corrupt in 0..usize::from(t) {
                    for total in 1..=20 {
                        let Ok(limit) = GuessLimit::over(&set(n, t), corrupt, total, total) else {
                            continue;
                        };
                        // Best of all: always the honest realms with the most guesses left.
                        let mut left = vec![limit.each(); usize::from(n) - corrupt];
                        let needed = usize::from(t) - corrupt;
                        let mut guesses = 0;
                        loop {
                            left.sort_unstable_by(|a, b| b.cmp(a));
                            if left[needed - 1] == 0 {
                                break;
                            }
                            for realm in &mut left[..needed] {
                                *realm -= 1;
                            }
                            guesses += 1;
                        }
                        assert!(
                            guesses <= total,
                            "{t} of {n}, {corrupt} corrupt: {guesses} > {total}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn limits() {
        // The example of the reference: 2 of 3, one corrupt, ten in all: five each.
        assert_eq!(
            GuessLimit::over(&set(3, 2), 1, 10, 30).map(GuessLimit::each),
            Ok(5)
        );
        assert_eq!(
            GuessLimit::over(&set(3, 2), 2, 10, 30),
            Err(PolicyError::Corrupt)
        );
        assert_eq!(
            GuessLimit::over(&set(3, 2), 1, 1, 30),
            Err(PolicyError::Small)
        );
        assert_eq!(GuessLimit::new(0, 5), Err(PolicyError::None));
        assert_eq!(GuessLimit::new(5, 4), Err(PolicyError::None));
    }
}
