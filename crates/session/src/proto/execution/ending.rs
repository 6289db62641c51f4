//! How an execution ends in failure: what aborts, deadlines and claims of silence mean, and what the other
//! members hear of it (`docs/spec/session.md` §7.3, §7.4).

use core::cmp::Ordering;

use junto_crypto::ed25519::SigningKey;

use super::{
    super::{
        evidence::{Court, Evidence},
        fault::{Blame, Fault, Reason},
        party::{Members, PartyIndex},
        record::{Abort, Record},
        statement::{self, Round},
    },
    Execution, Kind, Mode, verify,
};

/// That an execution is over, because of whom, and what to tell the other members.
pub(crate) struct Ending {
    pub(crate) blame: Blame,
    /// The abort that ended it, to be passed on; none if this party is the first to see the fault.
    pub(crate) cause: Option<Box<Abort>>,
}

impl From<Blame> for Ending {
    fn from(blame: Blame) -> Self {
        Self { blame, cause: None }
    }
}

impl Abort {
    /// Whether it claims that `party` is silent in `round`.
    fn names(&self, round: Round, party: PartyIndex) -> bool {
        matches!(self.reason, Reason::Silent { round: of, accused } if of == round && accused.contains(party))
    }
}

impl Execution {
    /// Takes in an abort, of `from` itself or passed on by it.
    pub(super) fn receive_abort(
        &mut self,
        from: PartyIndex,
        abort: Abort,
        court: &Court<'_>,
    ) -> Result<(), Ending> {
        let author = abort.author;
        let reason = abort.reason.digest();
        let statement = statement::abort(&self.session, &self.instance, author, &reason);
        if !self.purpose.members.contains(author)
            || !verify(court.roster, author, &statement, &abort.signature)
        {
            // Whoever passes something on has looked at it.
            return Err(Blame::party(from, Fault::BadSignature("abort")).into());
        }
        if let Some(other) = self.claims.get(&author)
            && other.reason != abort.reason
        {
            let evidence = Evidence::TwoAborts {
                session: self.session,
                instance: self.instance,
                author,
                first: (other.reason.digest(), other.signature),
                second: (reason, abort.signature),
            };
            return Err(Blame::party(author, Fault::Proven(Box::new(evidence))).into());
        }
        let fault = match &abort.reason {
            Reason::Proven(evidence) => match evidence.convict(court) {
                Some(culprit) => {
                    let fault = Fault::Proven(evidence.clone());
                    return Err(Blame { culprit, fault }.into());
                }
                None => Fault::FalseAccusation,
            },
            Reason::Silent { accused, .. } if self.may_stand(author, *accused) => {
                if from != author {
                    self.followers = self.followers.with(from);
                }
                self.claims.entry(author).or_insert(abort);
                return Ok(());
            }
            reason @ (Reason::GaveUp { .. }
            | Reason::Silent { .. }
            | Reason::Observed { .. }
            | Reason::Gone { .. }) => Fault::GaveUp(Box::new(reason.clone())),
        };
        Err(Ending {
            blame: Blame::party(author, fault),
            cause: Some(Box::new(abort)),
        })
    }

    /// Whether a claim of silence is kept until our own patience is over. It says that its author has
    /// stopped; whether the accused are silent, everybody finds out by itself: otherwise a claim made
    /// early would have an honest party named.
    fn may_stand(&self, author: PartyIndex, accused: Members) -> bool {
        let gathers = self.gathers || self.purpose.mode == Mode::Rounds;
        let suspects = self.purpose.members.without(author);
        gathers && accused.iter().any(|party| suspects.contains(party))
    }

    /// Whether a claim explains that its author says no more in `round`. Who waits for others in a round has
    /// spoken in it before: who claims that they are silent and has not said there what we wait for is silent
    /// itself. A claim about what we gathered before explains something, and one about an earlier round in
    /// which we have spoken: who gathers what we said there need not have spoken.
    fn explains(&self, claim: &Abort, round: Round, kind: Kind) -> bool {
        let Reason::Silent { round: of, .. } = claim.reason else {
            return false;
        };
        let complete = self.gathered.is_some_and(|gathered| of.0 <= gathered);
        let spoke = |kind| self.spoke(round, kind, claim.author);
        match of.cmp(&round) {
            Ordering::Less => complete || self.has_spoken(of),
            Ordering::Equal => {
                spoke(kind) || complete && (spoke(Kind::P2p) || spoke(Kind::Broadcast))
            }
            Ordering::Greater => false,
        }
    }

    /// Whose silence in `round` is explained: who claims that others are silent has stopped, and so has
    /// who passes that on; but not who is said to be silent in this very round, and is.
    fn excused(&self, round: Round, kind: Kind) -> Members {
        let silent = |party: &PartyIndex| {
            let in_round = |claim: &Abort| claim.names(round, *party);
            !self.spoke(round, kind, *party) && self.claims.values().any(in_round)
        };
        let followers = self.followers.iter().filter(|party| !silent(party));
        let claims = self.claims.values();
        let authors = claims.filter(|claim| self.explains(claim, round, kind));
        followers.chain(authors.map(|claim| claim.author)).collect()
    }

    /// Whether it is no use to wait for `round` any longer: it lacks nothing but messages of those who have
    /// stopped, or one of them stopped because it waited for us.
    pub(crate) fn deserted(&self, round: Round, kind: Kind, from: Members) -> Option<Ending> {
        let missing = self.missing(round, kind, from);
        if missing.is_empty() {
            return None;
        }
        let of_missing = |claim: &&Abort| missing.contains(claim.author);
        let of_us = |claim: &&Abort| {
            let accused = claim.names(round, self.me)
                || of_missing(claim) && claim.reason.accused().contains(self.me);
            accused && self.explains(claim, round, kind)
        };
        let claims = || self.claims.values();
        let claim = match claims().find(of_us) {
            // The others must not have to wait for us now.
            Some(claim) if self.has_spoken(round) => claim,
            _ if self.excused(round, kind).covers(missing) => {
                claims().find(of_missing).or_else(|| claims().next())?
            }
            _ => return None,
        };
        let fault = Fault::GaveUp(Box::new(claim.reason.clone()));
        Some(Ending {
            blame: Blame::party(claim.author, fault),
            cause: Some(Box::new(claim.clone())),
        })
    }

    /// What it means that our patience with `round` is over; nothing if it came at the last moment.
    pub(crate) fn expired(&self, round: Round, kind: Kind, from: Members) -> Option<Ending> {
        let silent = self
            .missing(round, kind, from)
            .minus(self.excused(round, kind));
        match silent.iter().next() {
            Some(first) => {
                let fault = Fault::Silent { round, all: silent };
                Some(Blame::party(first, fault).into())
            }
            None => self.deserted(round, kind, from),
        }
    }

    /// Whether `round` will never be complete: somebody who is missing in it has stopped.
    pub(crate) fn is_lost(&self, round: Round, kind: Kind, from: Members) -> bool {
        let missing = self.missing(round, kind, from);
        missing.minus(self.excused(round, kind)) != missing
    }

    /// Our own abort.
    pub(crate) fn abort(&self, reason: Reason, key: &SigningKey) -> Box<Abort> {
        let statement = statement::abort(&self.session, &self.instance, self.me, &reason.digest());
        Box::new(Abort {
            author: self.me,
            signature: key.sign(&statement),
            reason,
        })
    }

    /// An abort, for each other member that does not know it from itself.
    pub(crate) fn passed_on(&self, abort: &Abort) -> Vec<(PartyIndex, Record)> {
        self.others()
            .without(abort.author)
            .iter()
            .map(|to| {
                let header = self.header(Round::CONFIRM, to);
                let abort = abort.clone();
                (to, Record::Abort { header, abort })
            })
            .collect()
    }
}
