//! One run of a protocol.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use tokio::time::Instant;

use super::{
    driver::{Answer, Handle},
    session::PROBE_AFTER,
};
use crate::proto::{
    conduct::Room,
    error::SessionError,
    execution::{Incoming, Kind, Mode, Purpose, Seed},
    node::Node,
    party::{Members, PartyIndex},
    statement::{InstanceId, Round},
    step::{LocalId, Step},
};

/// Most extra time for echoes alone. A party that lacks a value to echo runs out of time first, and
/// names who kept it back; without the grace it would be named itself, at the same moment.
const GRACE_MAX: Duration = Duration::from_secs(10);

/// One run of a protocol among members of a session.
///
/// A protocol that takes its randomness from [`Execution::seed`] and its input from
/// [`Execution::gather`] may be run again from its start after a crash: what it already said is not
/// sent twice, what it already heard is there at once. Saying something else in the same place is
/// refused, since that would be equivocation. Clones are handles to the same run.
#[derive(Clone)]
pub struct Execution {
    handle: Handle,
    local: LocalId,
    id: InstanceId,
    me: PartyIndex,
    purpose: Purpose,
    seed: Arc<Seed>,
}

impl core::fmt::Debug for Execution {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Execution")
            .field("id", &self.id)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

impl Execution {
    pub(crate) fn new(
        handle: Handle,
        local: LocalId,
        id: InstanceId,
        me: PartyIndex,
        purpose: Purpose,
        seed: Seed,
    ) -> Self {
        Self {
            handle,
            local,
            id,
            me,
            purpose,
            seed: Arc::new(seed),
        }
    }

    /// Identifies this run: a hash of session, members, mode and label. Never repeats; fit as the
    /// execution identifier of a protocol.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Our index in the session.
    #[must_use]
    pub fn me(&self) -> PartyIndex {
        self.me
    }

    /// Label, members and mode.
    #[must_use]
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// Everybody in this run but us.
    #[must_use]
    pub fn others(&self) -> Members {
        self.purpose.members.without(self.me)
    }

    /// 32 random bytes, the same after a restart, known to this party only, wiped at the end.
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        self.seed.as_bytes()
    }

    /// Sends a private message. Waits while the outbox for `to` is full, up to ten minutes; for one of up to
    /// 64 KiB it holds 16 MiB more than the 64 MiB for others. The same message again is no second one.
    ///
    /// # Errors
    /// [`SessionError::NoRoom`] after that (it may be called again),
    /// [`crate::Misuse::DifferentBytes`] if another message was sent in its place, and how the
    /// execution ended, if it has.
    pub async fn send(
        &self,
        round: impl Into<Round>,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        let payload = payload.into();
        let room = Room::in_execution(Members::NONE.with(to), payload.len());
        let say = self.saying(round.into(), to, payload);
        let handle = &self.handle;
        handle.say(Answer::AtOnce, self.local, room, say).await
    }

    /// As [`Execution::send`], but waits for no room: for whoever is not to be held up by one party.
    ///
    /// # Errors
    /// As [`Execution::send`]; [`SessionError::NoRoom`] at once.
    pub async fn send_now(
        &self,
        round: impl Into<Round>,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        let payload = payload.into();
        let room = Room::in_execution(Members::NONE.with(to), payload.len());
        let say = self.saying(round.into(), to, payload);
        let handle = &self.handle;
        handle.say_now(Answer::AtOnce, self.local, room, say).await
    }

    fn saying(
        &self,
        round: Round,
        to: PartyIndex,
        payload: Bytes,
    ) -> impl FnMut(&mut Node, &mut ChaCha20Rng, &mut Step) -> Result<(), SessionError>
    + Clone
    + Send
    + use<> {
        let (local, id) = (self.local, self.id);
        move |node, rng, step| {
            let (said, more) = node.send(&local, &id, round, to, &payload, rng);
            step.absorb(more);
            said
        }
    }

    /// Broadcasts to all other members, reliably: [`Execution::gather`] gives all of them the same,
    /// or names who cheated. As long as there is no room for it in the outbox of one of them, none gets it.
    ///
    /// # Errors
    /// As [`Execution::send`].
    pub async fn broadcast(
        &self,
        round: impl Into<Round>,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        let (local, id, round, payload) = (self.local, self.id, round.into(), payload.into());
        let room = Room::in_execution(self.others(), payload.len());
        self.handle
            .say(Answer::AtOnce, local, room, move |node, rng, step| {
                let (said, more) = node.broadcast(&local, &id, round, &payload, rng);
                step.absorb(more);
                said
            })
            .await
    }

    /// Waits for the messages of all other members in a round. The result of a broadcast round
    /// holds our own as well.
    ///
    /// # Errors
    /// [`SessionError::Peer`] naming the silent after `deadline` (the execution is then aborted, and
    /// the others are told), or naming who cheated, with evidence where there is some.
    pub async fn gather(
        &self,
        round: impl Into<Round>,
        kind: Kind,
        deadline: Duration,
    ) -> Result<BTreeMap<PartyIndex, Bytes>, SessionError> {
        self.gather_from(round, kind, self.others(), deadline).await
    }

    /// As [`Execution::gather`], from some members only.
    ///
    /// # Errors
    /// As [`Execution::gather`].
    pub async fn gather_from(
        &self,
        round: impl Into<Round>,
        kind: Kind,
        from: Members,
        deadline: Duration,
    ) -> Result<BTreeMap<PartyIndex, Bytes>, SessionError> {
        let (local, id, round) = (self.local, self.id, round.into());
        let gathered = self.handle.call(Answer::AtOnce, move |node, rng, step| {
            let (gathered, more) = node.gather(&local, &id, round, kind, from, rng);
            step.absorb(more);
            gathered.transpose()
        });
        tokio::pin!(gathered);
        let mut end = Instant::now() + deadline;
        let mut grace = Some((deadline / 2).min(GRACE_MAX));
        loop {
            let pause = (Instant::now() + PROBE_AFTER).min(end);
            tokio::select! {
                result = &mut gathered => return result,
                () = tokio::time::sleep_until(pause) => {}
            }
            if pause == end
                && let Some(grace) = grace.take()
            {
                let echoes_only = self
                    .handle
                    .call(Answer::AtOnce, move |node, _, _| {
                        Some(node.lacks_echoes_only(&local, &id, round, kind, from))
                    })
                    .await?;
                if echoes_only {
                    end += grace;
                    continue;
                }
            }
            let expired = pause == end;
            self.handle
                .call(Answer::AtOnce, move |node, rng, step| {
                    if !expired {
                        step.absorb(node.probe(&local, &id, round, kind, from, rng));
                        return Some(Ok(()));
                    }
                    let (result, more) = node.expire(&local, &id, round, kind, from, rng);
                    step.absorb(more);
                    Some(result)
                })
                .await?;
            if expired {
                return gathered.await;
            }
        }
    }

    /// As [`Execution::gather`], for a round after which other parties may already have succeeded:
    /// running out of time ends nothing here, and it may be called again, also after a restart.
    ///
    /// # Errors
    /// [`SessionError::Incomplete`] after `deadline`, else as [`Execution::gather`]: also if another party
    /// whose message is missing has run out of time, and stopped.
    pub async fn gather_patiently(
        &self,
        round: impl Into<Round>,
        kind: Kind,
        deadline: Duration,
    ) -> Result<BTreeMap<PartyIndex, Bytes>, SessionError> {
        let round = round.into();
        // Its own deadline never comes first; what asks the silent meanwhile is the same.
        let gathered = self.gather(round, kind, deadline.saturating_add(PROBE_AFTER));
        if let Ok(result) = tokio::time::timeout(deadline, gathered).await {
            return result;
        }
        let (local, id, from) = (self.local, self.id, self.others());
        let missing = self
            .handle
            .call(Answer::AtOnce, move |node, rng, step| {
                let (missing, more) = node.lapse(&local, &id, round, kind, from, rng);
                step.absorb(more);
                Some(missing)
            })
            .await?;
        Err(SessionError::Incomplete {
            have: self.purpose.members.len() - missing.len(),
            want: self.purpose.members.len(),
            missing,
        })
    }

    /// Waits for the next message of anybody, for protocols that count by themselves
    /// ([`crate::Mode::Messages`]).
    ///
    /// # Errors
    /// [`SessionError::Peer`] if the execution ended, [`SessionError::Incomplete`] after `deadline`
    /// (it may be called again: nobody can be named, as nobody was due).
    pub async fn next(&self, deadline: Duration) -> Result<Incoming, SessionError> {
        let (local, id) = (self.local, self.id);
        let next = self.handle.call(Answer::AtOnce, move |node, rng, step| {
            let (next, more) = node.next_message(&local, &id, rng);
            step.absorb(more);
            next.transpose()
        });
        match tokio::time::timeout(deadline, next).await {
            Ok(result) => result,
            Err(_) => Err(SessionError::Incomplete {
                have: 1,
                want: self.purpose.members.len(),
                missing: Members::NONE,
            }),
        }
    }

    /// Hash of all broadcasts delivered so far: parties that are at the same point have the same.
    ///
    /// # Errors
    /// How the execution ended, if it failed.
    pub async fn transcript(&self) -> Result<[u8; 32], SessionError> {
        let (local, id) = (self.local, self.id);
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(node.transcript(&local, &id))
            })
            .await
    }

    /// Ends the run as a failure and tells the others, for good: `text` says why, `accused` whom
    /// this party holds responsible (which proves nothing).
    ///
    /// # Errors
    /// How the execution ended, if it has already.
    pub async fn abort(self, text: &str, accused: Members) -> Result<(), SessionError> {
        let (local, id, text) = (self.local, self.id, text.to_owned());
        self.handle
            .call(Answer::Durable, move |node, rng, step| {
                let (result, more) = node.give_up(&local, &id, &text, accused, rng);
                step.absorb(more);
                Some(result)
            })
            .await
    }

    /// Ends the run as a success, without asking the others: its result must be stored before.
    /// Forgets seed and messages, keeps label and transcript hash. Returns the latter.
    ///
    /// It says nothing and blames nobody, so it is also how to close a run that is of no use any more, say
    /// because its result came another way: dropping the handle closes nothing. Whoever still waits for
    /// this party in it will find it silent.
    ///
    /// # Errors
    /// How the execution ended, if it has already.
    pub async fn finish(self) -> Result<[u8; 32], SessionError> {
        let (local, id) = (self.local, self.id);
        self.handle
            .call(Answer::Durable, move |node, rng, step| {
                let (result, more) = node.finish(&local, &id, rng);
                step.absorb(more);
                Some(result)
            })
            .await
    }

    /// Ends the run as a success once all members say so: one more round. In [`Mode::Rounds`] they
    /// compare transcripts as well; where nobody names rounds, parties end at different points.
    ///
    /// # Errors
    /// As [`Execution::gather`]; [`crate::Fault::Conflict`] names a party with another transcript.
    pub async fn finish_confirmed(self, deadline: Duration) -> Result<[u8; 32], SessionError> {
        let said = match self.purpose.mode {
            Mode::Rounds => self.transcript().await?,
            Mode::Messages => self.id.0,
        };
        for to in self.others().iter() {
            self.send(Round::CONFIRM, to, said.to_vec()).await?;
        }
        let all = self.gather(Round::CONFIRM, Kind::P2p, deadline).await?;
        let differs: Members = all
            .iter()
            .filter(|(_, theirs)| theirs[..] != said)
            .map(|(&party, _)| party)
            .collect();
        if let Some(party) = differs.iter().next() {
            let blame = crate::Blame {
                culprit: crate::Culprit::Party(party),
                fault: crate::Fault::Conflict {
                    round: Round::CONFIRM,
                },
            };
            self.abort("transcripts differ", differs).await?;
            return Err(SessionError::Peer(blame));
        }
        self.finish().await
    }
}
