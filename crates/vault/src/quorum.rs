//! How many replicas of a realm must hold a charge before anything is answered, and the proof that they do.
//!
//! A replica may be turned back: its memory replaced by what it was earlier, by who runs the machine. Consensus
//! assumes that this never happens. The release step is what a realm puts between "committed" and "answered": an answer
//! leaves only when so many replicas have said that they hold *this* log, by the digest of everything in it, that
//! whatever the next leader's majority is, one of them is in it and was not turned back.

use std::collections::BTreeMap;

use junto_crypto::hash::sha256_of;

/// Most replicas of one realm.
pub const REPLICAS_MAX: u8 = 13;

/// Replicas of a realm, and how many of them may be turned back without a guess more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    replicas: u8,
    rollbacks: u8,
}

/// A group that cannot promise that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a realm has 1 to {REPLICAS_MAX} replicas, and bears that a number of them is turned back that is smaller than their majority"
)]
pub struct QuorumError;

impl Quorum {
    /// # Errors
    /// [`QuorumError`] when even all replicas together would be too few to release.
    pub fn new(replicas: u8, rollbacks: u8) -> Result<Self, QuorumError> {
        let quorum = Self {
            replicas,
            rollbacks,
        };
        let possible =
            (1..=REPLICAS_MAX).contains(&replicas) && quorum.release() <= usize::from(replicas);
        possible.then_some(quorum).ok_or(QuorumError)
    }

    /// Replicas of the group.
    #[must_use]
    pub fn replicas(self) -> usize {
        usize::from(self.replicas)
    }

    /// Replicas that elect a leader and commit: more than half.
    #[must_use]
    pub fn majority(self) -> usize {
        self.replicas() / 2 + 1
    }

    /// Replicas that must hold what is answered: the least w with w + majority > n + r.
    #[must_use]
    pub fn release(self) -> usize {
        self.replicas() + usize::from(self.rollbacks) + 1 - self.majority()
    }
}

/// The key with which a replica was born: another one after every start, so that none votes for what it forgot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplicaId(pub [u8; 32]);

/// How far a log goes, and the digest of everything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Entries applied since genesis.
    pub sequence: u64,
    /// Chained over all of them.
    pub head: [u8; 32],
}

impl Position {
    /// Where a log stands with one more entry, which is given encoded.
    #[must_use]
    pub fn after(&self, entry: &[u8]) -> Self {
        let sequence = self.sequence + 1;
        let parts = [
            &b"junto vault chain"[..],
            &self.head,
            &sequence.to_be_bytes(),
            entry,
        ];
        Self {
            sequence,
            head: sha256_of(&parts),
        }
    }
}

/// Proof that enough replicas hold the log up to a position. Made by [`Holders`] alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Released(Position);

impl Released {
    pub(crate) fn position(&self) -> &Position {
        &self.0
    }
}

/// What a leader knows of who holds its log. It is made when a reign begins, and nothing is carried over into the next.
pub struct Holders {
    quorum: Quorum,
    /// How far each member holds what this leader holds.
    held: BTreeMap<ReplicaId, u64>,
    /// The leader's own positions that are not released yet, and the last that is.
    own: BTreeMap<u64, [u8; 32]>,
    released: u64,
}

/// An acknowledgement that counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheld {
    /// Not a member of the group: such as a member that was started again, and has another key now.
    #[error("that replica is no member of the group")]
    Stranger,
    /// It holds another log than this leader: one of both was turned back. It has to be fenced off.
    #[error("that replica holds another log")]
    Diverged,
    /// Further than this leader has applied, or not asked for any more.
    #[error("that position is none of those that wait")]
    Elsewhere,
}

impl Holders {
    /// For the reign that `leader` begins at `start` with the members of its group, itself among them.
    ///
    /// # Errors
    /// [`QuorumError`] unless the members are those of the quorum.
    pub fn new(
        quorum: Quorum,
        members: &[ReplicaId],
        leader: ReplicaId,
        start: Position,
    ) -> Result<Self, QuorumError> {
        let mut held: BTreeMap<_, _> = members.iter().map(|member| (*member, 0)).collect();
        if held.len() != quorum.replicas() || held.insert(leader, u64::MAX).is_none() {
            return Err(QuorumError);
        }
        Ok(Self {
            quorum,
            held,
            own: [(start.sequence, start.head)].into(),
            released: 0,
        })
    }

    /// The leader itself has applied this entry.
    pub fn applied(&mut self, position: Position) {
        self.own.insert(position.sequence, position.head);
        self.advance();
    }

    /// `replica` says, in this reign, that its log goes to `position`.
    ///
    /// # Errors
    /// [`Unheld`]: it is not counted.
    pub fn acknowledged(&mut self, replica: ReplicaId, position: Position) -> Result<(), Unheld> {
        let held = self.held.get_mut(&replica).ok_or(Unheld::Stranger)?;
        let head = self.own.get(&position.sequence).ok_or(Unheld::Elsewhere)?;
        if *head != position.head {
            return Err(Unheld::Diverged);
        }
        *held = position.sequence.max(*held);
        self.advance();
        Ok(())
    }

    /// The proof that `position` may be answered, once it is so. A position of another log than this leader's is
    /// never released, though its number be.
    #[must_use]
    pub fn released(&self, position: &Position) -> Option<Released> {
        let ours = self.own.get(&position.sequence) == Some(&position.head);
        (ours && position.sequence <= self.released).then_some(Released(*position))
    }

    /// Forgets what was answered, up to and without the last released position.
    pub fn answered(&mut self) {
        let released = self.released;
        self.own.retain(|sequence, _| *sequence >= released);
    }

    fn advance(&mut self) {
        let mut held: Vec<u64> = self.held.values().copied().collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let Some(enough) = held.get(self.quorum.release() - 1) else {
            return;
        };
        let last = self.own.range(..=*enough).next_back();
        self.released = last.map_or(self.released, |(sequence, _)| self.released.max(*sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(i: u8) -> ReplicaId {
        ReplicaId([i; 32])
    }

    fn at(sequence: u64, log: u8) -> Position {
        Position {
            sequence,
            head: [log; 32],
        }
    }

    fn holders(n: u8, r: u8) -> Holders {
        let members: Vec<_> = (0..n).map(name).collect();
        Holders::new(Quorum::new(n, r).unwrap(), &members, name(0), at(0, 0)).unwrap()
    }

    #[test]
    fn arithmetic() {
        // Replicas, rollbacks, majority, release.
        for (n, r, majority, release) in [
            (1, 0, 1, 1),
            (3, 0, 2, 2),
            (3, 1, 2, 3),
            (4, 1, 3, 3),
            (5, 1, 3, 4),
            (6, 1, 4, 4),
            (7, 2, 4, 6),
        ] {
            let quorum = Quorum::new(n, r).unwrap();
            assert_eq!((quorum.majority(), quorum.release()), (majority, release));
        }
        assert_eq!(Quorum::new(0, 0), Err(QuorumError));
        assert_eq!(Quorum::new(14, 0), Err(QuorumError));
        assert_eq!(Quorum::new(3, 2), Err(QuorumError));
        assert_eq!(Quorum::new(1, 1), Err(QuorumError));
    }

    /// Q1, in this layer: one holder fewer than the release quorum releases nothing.
    #[test]
    fn a_minority_releases_nothing() {
        for (n, r) in [(1, 0), (3, 0), (3, 1), (4, 1), (5, 2), (7, 2)] {
            let mut holders = holders(n, r);
            let needed = Quorum::new(n, r).unwrap().release();
            for follower in 1..n {
                assert_eq!(holders.acknowledged(name(follower), at(0, 0)), Ok(()));
            }
            holders.applied(at(1, 1));
            for follower in 1..n {
                let held = usize::from(follower);
                assert_eq!(holders.released(&at(1, 1)).is_some(), held >= needed);
                assert_eq!(holders.acknowledged(name(follower), at(1, 1)), Ok(()));
            }
            assert!(holders.released(&at(1, 1)).is_some());
        }
    }

    #[test]
    fn strangers_and_other_logs_do_not_count() {
        let mut holders = holders(4, 1);
        holders.applied(at(1, 1));
        assert_eq!(
            holders.acknowledged(name(9), at(1, 1)),
            Err(Unheld::Stranger)
        );
        assert_eq!(
            holders.acknowledged(name(1), at(1, 2)),
            Err(Unheld::Diverged)
        );
        assert_eq!(
            holders.acknowledged(name(1), at(2, 1)),
            Err(Unheld::Elsewhere)
        );
        holders.acknowledged(name(2), at(1, 1)).unwrap();
        assert!(holders.released(&at(1, 1)).is_none());
        holders.acknowledged(name(3), at(1, 1)).unwrap();
        assert!(holders.released(&at(1, 1)).is_some());
        // What was proposed in a log that was given up is never answered.
        assert!(holders.released(&at(1, 2)).is_none());
        let members = [name(0), name(1), name(2)];
        let quorum = Quorum::new(3, 0).unwrap();
        assert!(Holders::new(quorum, &members, name(7), at(0, 0)).is_err());
        assert!(Holders::new(quorum, &members[..2], name(0), at(0, 0)).is_err());
    }

    proptest! {
        /// Whatever is acknowledged in whatever order, what is released is held by the leader and w − 1 others.
        #[test]
        fn released_means_held(steps in prop::collection::vec((0..6_u8, 0..12_u64, 0..8_u8), 0..80)) {
            let mut holders = holders(5, 1);
            let mut last = 0;
            let mut held = [0_u64; 5];
            for (who, sequence, log) in steps {
                if who == 0 {
                    last += 1;
                    holders.applied(at(last, 0));
                } else if holders.acknowledged(name(who), at(sequence, log / 7)).is_ok() {
                    let who = usize::from(who);
                    prop_assert!(log < 7 && sequence <= last);
                    held[who] = held[who].max(sequence);
                }
                held[0] = last;
                for sequence in 1..=last {
                    let count = held.iter().filter(|held| **held >= sequence).count();
                    let released = holders.released(&at(sequence, 0)).is_some();
                    // What was answered is forgotten, so only the last released stays to be asked for.
                    prop_assert!(!released || count >= 4);
                    prop_assert!(released || count < 4 || sequence < holders.released);
                }
                holders.answered();
            }
        }
    }
}
