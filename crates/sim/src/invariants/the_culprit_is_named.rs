//! Whoever cheats or never returns is named by everybody else, and nobody else is named.

use std::collections::BTreeSet;

use crate::{program::Verdict, verdict::Violation};

/// What is known of a run's troublemaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// There is none: nobody may be named.
    Nobody,
    /// It signed two things: there has to be proof.
    Liar(usize),
    /// It also accuses somebody for what it did itself, and falls silent towards some. Who hears that
    /// before the proof names somebody, but nobody has proof against anybody else.
    Slanderer(usize),
    /// It ended the run towards some: they, and all who hear of it from them, name it alone; with proof, if it
    /// has ended it in another way as well.
    Quitter(usize),
    /// It told some that others are silent, before it could know. The run may succeed all the same; nobody
    /// is named but together with it, unless it is by its own word.
    Claimer(usize),
    /// It never came back. If it had not begun its last round, nobody can have finished; parties
    /// that it kept from joining are silent through no fault of theirs.
    Vanished {
        /// Who.
        party: usize,
        /// Whether it may have said all that it had to say.
        had_said_all: bool,
        /// Who never got into the session.
        outside: BTreeSet<usize>,
        /// Who names it. One that waits for the culprit keeps others waiting, and they cannot tell
        /// that from silence: it may be named too.
        kept_waiting: BTreeSet<usize>,
    },
}

/// How the run ended for an honest party.
///
/// # Errors
/// The violation.
pub fn check(party: usize, verdict: &Verdict, culprit: &Culprit) -> Result<(), Violation> {
    let fits = match (culprit, verdict) {
        (Culprit::Nobody, verdict) => matches!(verdict, Verdict::Done(_)),
        (
            Culprit::Liar(liar),
            Verdict::Named {
                parties, proven, ..
            },
        ) => *proven && *parties == BTreeSet::from([*liar]),
        (
            Culprit::Slanderer(liar),
            Verdict::Named {
                parties, proven, ..
            },
        ) => !parties.is_empty() && (!proven || *parties == BTreeSet::from([*liar])),
        (Culprit::Quitter(quitter), Verdict::Named { parties, .. }) => {
            *parties == BTreeSet::from([*quitter])
        }
        (
            Culprit::Claimer(claimer),
            Verdict::Named {
                parties,
                by,
                proven,
                ..
            },
        ) => {
            let alone = *parties == BTreeSet::from([*claimer]);
            alone || !proven && (*by == Some(*claimer) || parties.contains(claimer))
        }
        (Culprit::Claimer(_), Verdict::Done(_)) => true,
        (Culprit::Claimer(_), Verdict::Incomplete(_)) => false,
        (
            Culprit::Liar(_) | Culprit::Slanderer(_) | Culprit::Quitter(_),
            Verdict::Done(_) | Verdict::Incomplete(_),
        ) => false,
        (Culprit::Vanished { had_said_all, .. }, Verdict::Done(_)) => *had_said_all,
        (
            Culprit::Vanished {
                party,
                outside,
                kept_waiting,
                ..
            },
            Verdict::Named { parties, .. },
        ) => {
            let mut suspects: BTreeSet<_> = outside.union(kept_waiting).copied().collect();
            suspects.insert(*party);
            !parties.is_empty() && parties.is_subset(&suspects)
        }
        // Before there is a roster nobody can be named.
        (Culprit::Vanished { party, outside, .. }, Verdict::Incomplete(missing)) => {
            let mut suspects = outside.clone();
            suspects.insert(*party);
            missing.is_subset(&suspects)
        }
    };
    if fits {
        return Ok(());
    }
    let text = format!("{culprit:?}, but party {party} says {verdict:?}");
    Err(Violation::new("the_culprit_is_named", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(parties: &[usize], proven: bool) -> Verdict {
        Verdict::Named {
            parties: parties.iter().copied().collect(),
            by: None,
            proven,
            why: String::new(),
        }
    }

    #[test]
    fn only_the_culprit_is_named() {
        let done = Verdict::Done(Vec::new());
        assert_eq!(check(0, &done, &Culprit::Nobody), Ok(()));
        assert!(check(0, &named(&[1], false), &Culprit::Nobody).is_err());
        assert_eq!(check(0, &named(&[1], true), &Culprit::Liar(1)), Ok(()));
        assert!(check(0, &named(&[1], false), &Culprit::Liar(1)).is_err());
        assert!(check(0, &named(&[2], true), &Culprit::Liar(1)).is_err());
        assert!(check(0, &done, &Culprit::Liar(1)).is_err());
        assert_eq!(
            check(0, &named(&[1, 2], false), &Culprit::Slanderer(1)),
            Ok(())
        );
        assert!(check(0, &named(&[1, 2], true), &Culprit::Slanderer(1)).is_err());
        assert!(check(0, &named(&[2], true), &Culprit::Slanderer(1)).is_err());
        assert_eq!(check(0, &named(&[1], false), &Culprit::Quitter(1)), Ok(()));
        assert!(check(0, &named(&[1, 2], false), &Culprit::Quitter(1)).is_err());
        assert!(check(0, &done, &Culprit::Quitter(1)).is_err());
        let told = |by| Verdict::Named {
            parties: BTreeSet::from([2]),
            by: Some(by),
            proven: false,
            why: String::new(),
        };
        assert_eq!(check(0, &told(1), &Culprit::Claimer(1)), Ok(()));
        assert!(check(0, &told(3), &Culprit::Claimer(1)).is_err());
        assert!(check(0, &named(&[2], false), &Culprit::Claimer(1)).is_err());
        assert!(check(0, &named(&[1, 2], true), &Culprit::Claimer(1)).is_err());
        assert_eq!(check(0, &named(&[1], true), &Culprit::Claimer(1)), Ok(()));
        let vanished = |had_said_all| Culprit::Vanished {
            party: 1,
            had_said_all,
            outside: BTreeSet::from([3]),
            kept_waiting: BTreeSet::new(),
        };
        assert_eq!(check(0, &done, &vanished(true)), Ok(()));
        assert!(check(0, &done, &vanished(false)).is_err());
        assert_eq!(check(0, &named(&[1, 3], false), &vanished(false)), Ok(()));
        assert!(check(0, &named(&[2], false), &vanished(false)).is_err());
        assert!(check(0, &named(&[], false), &vanished(false)).is_err());
    }
}
