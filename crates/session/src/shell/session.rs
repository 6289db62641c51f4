//! One session: while it forms, and when it has formed.

use std::{collections::BTreeMap, time::Duration};

use junto_crypto::ed25519::{Signature, SigningKey};

use super::{
    channel::Channel,
    driver::{Answer, Handle},
    execution::Execution,
};
use crate::proto::{
    conduct::Room,
    error::{Misuse, SessionError},
    execution::{Mode, Purpose},
    node::{Stage, Summary},
    party::{Members, PartyCount, PartyIndex},
    roster::{Roster, SessionId},
    safety_code::SafetyCode,
    step::LocalId,
};

/// While a caller waits, how long until the silent are asked what they have. Nothing is asked, and
/// no timer runs, when nobody waits.
pub(crate) const PROBE_AFTER: Duration = Duration::from_secs(10);

/// A session that may still be forming.
pub struct Forming {
    handle: Handle,
    local: LocalId,
}

impl Forming {
    pub(crate) fn new(handle: Handle, local: LocalId) -> Self {
        Self { handle, local }
    }

    /// Its name in this profile.
    #[must_use]
    pub fn local(&self) -> LocalId {
        self.local
    }

    /// Where it stands.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`] if it was closed.
    pub async fn summary(&self) -> Result<Summary, SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, _, _| Some(node.summary(&local)))
            .await
    }

    /// Waits until something about it changed against `before`: for progress messages.
    ///
    /// # Errors
    /// As [`Forming::summary`].
    pub async fn changed(&self, before: &Summary) -> Result<Summary, SessionError> {
        let local = self.local;
        let before = before.clone();
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                match node.summary(&local) {
                    Ok(now) if now.shows_the_same(&before) => None,
                    other => Some(other),
                }
            })
            .await
    }

    /// Waits until all parties have joined, every pair has proved itself, and all have signed the
    /// same roster.
    ///
    /// # Errors
    /// [`SessionError::Incomplete`] after `deadline` (it may be called again),
    /// [`SessionError::Peer`] if a party cheated, [`SessionError::Refused`] if the host did not
    /// admit us.
    pub async fn formed(&self, deadline: Duration) -> Result<Session, SessionError> {
        let local = self.local;
        let formed = self.handle.call(Answer::Durable, move |node, _, _| {
            match node.is_formed(&local) {
                Ok(false) => None,
                Ok(true) => Some(node.summary(&local)),
                Err(error) => Some(Err(error)),
            }
        });
        tokio::pin!(formed);
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let pause = (tokio::time::Instant::now() + PROBE_AFTER).min(end);
            tokio::select! {
                summary = &mut formed => return Session::new(self.handle.clone(), summary?),
                () = tokio::time::sleep_until(pause) => {}
            }
            if pause < end {
                // Asks the silent what they have, should the carrier have forgotten something.
                self.handle
                    .call(Answer::AtOnce, move |node, rng, step| {
                        step.absorb(node.probe_all(&local, rng));
                        Some(Ok(()))
                    })
                    .await?;
            } else {
                let error = self
                    .handle
                    .call(Answer::AtOnce, move |node, _, _| {
                        Some(Ok(node.incomplete(&local)))
                    })
                    .await?;
                return Err(error);
            }
        }
    }
}

/// A formed session: every other party is authenticated, and all agree who takes part. Clones are
/// handles to the same.
#[derive(Clone)]
pub struct Session {
    handle: Handle,
    local: LocalId,
    name: String,
    roster: Roster,
    id: SessionId,
    me: PartyIndex,
    safety_code: SafetyCode,
}

impl core::fmt::Debug for Session {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn local(&self) -> LocalId {
        self.local
    }

    fn new(handle: Handle, summary: Summary) -> Result<Self, SessionError> {
        match (
            summary.stage,
            summary.roster,
            summary.id,
            summary.me,
            summary.safety_code,
        ) {
            (Stage::Formed, Some(roster), Some(id), Some(me), Some(safety_code)) => Ok(Self {
                handle,
                local: summary.local,
                name: summary.name,
                roster,
                id,
                me,
                safety_code,
            }),
            _ => Err(Misuse::NotFormed.into()),
        }
    }

    /// The host's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many parties there are.
    #[must_use]
    pub fn parties(&self) -> PartyCount {
        self.roster.count()
    }

    /// Everybody, as a set.
    #[must_use]
    pub fn everybody(&self) -> Members {
        Members::all(self.parties())
    }

    /// Our index: the rank of our session key.
    #[must_use]
    pub fn me(&self) -> PartyIndex {
        self.me
    }

    /// The session's identifier: the same for all parties, and for no other session.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// To be compared by voice: the same for all parties exactly if nobody sits in between.
    #[must_use]
    pub fn safety_code(&self) -> SafetyCode {
        self.safety_code
    }

    /// Who takes part.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Everybody's signature over the session id, which covers the roster.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn roster_signatures(&self) -> Result<BTreeMap<PartyIndex, Signature>, SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(node.roster_signatures(&local))
            })
            .await
    }

    /// Our session key, whose public half is in the roster: for a protocol that signs its own
    /// transcript. Such a protocol puts a label of its own before everything it signs.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn signing_key(&self) -> Result<SigningKey, SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(node.signing_key(&local))
            })
            .await
    }

    /// Opens an execution among all parties under a label that is used once in a session. After a
    /// restart the same label gives the same execution, with its seed and its inbox.
    ///
    /// # Errors
    /// [`Misuse::Finished`] if it ran to its end before, [`SessionError::Peer`] if it was aborted.
    pub async fn execution(&self, label: &str) -> Result<Execution, SessionError> {
        self.execution_as(Purpose {
            label: label.to_owned(),
            members: self.everybody(),
            mode: Mode::Rounds,
        })
        .await
    }

    /// Opens an execution among some parties, or in another mode. All members must give the same
    /// label, members and mode.
    ///
    /// # Errors
    /// As [`Session::execution`].
    pub async fn execution_as(&self, purpose: Purpose) -> Result<Execution, SessionError> {
        let local = self.local;
        let asked = purpose.clone();
        let (id, seed) = self
            .handle
            .call(Answer::Durable, move |node, rng, step| {
                let (opened, more) = node.open_execution(&local, asked.clone(), rng);
                step.absorb(more);
                Some(opened.and_then(|id| Ok((id, node.seed(&local, &id)?))))
            })
            .await?;
        Ok(Execution::new(
            self.handle.clone(),
            local,
            id,
            self.me,
            purpose,
            seed,
        ))
    }

    /// The executions that are open here, in no particular order. A session holds 1,024 of them, and one
    /// stays open across restarts until it ends: whoever opens executions that nobody may take part in
    /// closes those that are of no use any more, by [`Session::execution_as`] and [`Execution::finish`].
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn open_executions(&self) -> Result<Vec<Purpose>, SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(node.open_executions(&local))
            })
            .await
    }

    /// Opens a channel among all parties: ordered messages outside any protocol run.
    ///
    /// # Errors
    /// [`Misuse::Argument`] for an invalid label.
    pub async fn channel(&self, label: &str) -> Result<Channel, SessionError> {
        let local = self.local;
        let label = label.to_owned();
        let id = self
            .handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(node.channel(&local, &label))
            })
            .await?;
        Ok(Channel::new(self.handle.clone(), local, id))
    }

    /// Returns when everything that this party said so far is durable. A caller that is about to
    /// store a result, and would not run the protocol again after a crash, waits for this first:
    /// otherwise its last message may be lost with the crash, and the others wait for it in vain.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the store failed.
    pub async fn durable(&self) -> Result<(), SessionError> {
        self.handle
            .call(Answer::Durable, |_, _, _| Some(Ok(())))
            .await
    }

    /// Other parties that take so little that 64 MiB wait for them: only small messages of executions have
    /// room there.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn full(&self) -> Result<Members, SessionError> {
        let (local, room) = (self.local, Room::ordinary(self.everybody()));
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(Ok(node.without_room(&local, room)))
            })
            .await
    }

    /// How much has come of each other party so far: a number that grows with whatever it says. None while so much of it waits for
    /// this program that no more is read, and nobody can tell whether it is there.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn heard(&self) -> Result<Vec<(PartyIndex, Option<u64>)>, SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, _, _| {
                Some(Ok(node.heard(&local)))
            })
            .await
    }

    /// Waits until all other parties have everything that we said, up to `deadline`: for a process
    /// that wants to end. Whatever is not delivered then stays stored and goes out when the
    /// sessions are opened again.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn flush(&self, deadline: Duration) -> Result<bool, SessionError> {
        let end = tokio::time::Instant::now() + deadline;
        let local = self.local;
        let flushed = self.handle.call(Answer::AtOnce, move |node, _, _| {
            match node.is_flushed(&local) {
                Ok(false) => None,
                other => Some(other),
            }
        });
        tokio::pin!(flushed);
        loop {
            self.handle
                .call(Answer::AtOnce, move |node, rng, step| {
                    if matches!(node.is_flushed(&local), Ok(false)) {
                        step.absorb(node.probe_all(&local, rng));
                    }
                    Some(Ok(()))
                })
                .await?;
            let pause = (tokio::time::Instant::now() + PROBE_AFTER).min(end);
            tokio::select! {
                result = &mut flushed => return result,
                () = tokio::time::sleep_until(pause) => {
                    if pause == end {
                        return Ok(false);
                    }
                }
            }
        }
    }
}
