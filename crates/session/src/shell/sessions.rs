//! All sessions of a profile.

use std::{path::Path, time::Duration};

use junto_crypto::{aead::StoreKey, ed25519::VerifyingKey};

use super::{
    driver::{self, Answer, Handle, Succeed, Used, Warning},
    session::{Forming, Session},
};
use crate::{
    carrier::{Carriage, Trouble, TroubleKind},
    proto::{
        error::{LocalError, Misuse, SessionError},
        identity::KnownKeys,
        link::{Params, SessionLink},
        node::{Persona, Stage, Summary},
        party::Members,
        step::LocalId,
    },
};

/// The sessions of one profile over one carrier. Clones are handles to the same.
///
/// Everything is stored before it is sent; after a crash, opening again continues where it was. The
/// task behind it ends when the last handle (also of sessions and executions) is dropped.
#[derive(Clone)]
pub struct Sessions {
    handle: Handle,
}

impl Sessions {
    /// Opens `session.db` in `dir` and goes on with whatever was under way. Call it within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`LocalError::Store`] if the file is in use by another process, damaged, or made with another
    /// key; it is then unchanged.
    pub fn open(dir: &Path, key: StoreKey, carriage: Carriage) -> Result<Self, SessionError> {
        driver::start(dir, key, carriage, None).map(|handle| Self { handle })
    }

    /// As [`Sessions::open`], unless the file is an older copy than the one in use.
    ///
    /// # Errors
    /// As [`Sessions::open`]; [`crate::store::StoreError::Outdated`] if `succeed` does not know the file's
    /// mark.
    pub fn open_succeeding(
        dir: &Path,
        key: StoreKey,
        carriage: Carriage,
        succeed: Succeed,
    ) -> Result<Self, SessionError> {
        driver::start(dir, key, carriage, Some(succeed)).map(|handle| Self { handle })
    }

    /// Makes a session as its host and waits up to `patience` for its link.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] for invalid parameters, [`LocalError::Carrier`] if the carrier could
    /// not make a contact address in time, or at once if its relay refuses (the session is then closed again).
    pub async fn new_session(
        &self,
        params: Params,
        persona: Persona,
        patience: Duration,
    ) -> Result<(Forming, SessionLink), SessionError> {
        let local = self
            .handle
            .call(Answer::Durable, move |node, rng, step| {
                Some(
                    node.host(params.clone(), &persona, rng)
                        .map(|(local, more)| {
                            step.absorb(more);
                            local
                        }),
                )
            })
            .await?;
        let link = self.handle.call(Answer::Durable, move |node, _, _| {
            match (node.is_formed(&local), node.summary(&local)) {
                (Err(error), _) | (_, Err(error)) => Some(Err(error)),
                (Ok(_), Ok(summary)) => summary.link.map(Ok),
            }
        });
        match tokio::time::timeout(patience, link).await {
            Ok(Ok(link)) => Ok((Forming::new(self.handle.clone(), local), link)),
            Ok(Err(error)) => {
                // It may be gone already: the reason counts.
                let _ = self.close_local(local).await;
                Err(error)
            }
            Err(_) => {
                self.close_local(local).await?;
                let error = match self.handle.carrier_trouble() {
                    Some(trouble) if trouble.kind == TroubleKind::Storage => {
                        LocalError::Storage(trouble.text)
                    }
                    Some(trouble) => LocalError::Carrier(trouble.text.into()),
                    None => LocalError::Carrier("no contact address in time".into()),
                };
                Err(error.into())
            }
        }
    }

    /// Joins a session by its link.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] if the persona does not fit the link's policy.
    pub async fn join(&self, link: SessionLink, persona: Persona) -> Result<Forming, SessionError> {
        let local = self
            .handle
            .call(Answer::Durable, move |node, rng, step| {
                Some(node.join(link.clone(), &persona, rng).map(|(local, more)| {
                    step.absorb(more);
                    local
                }))
            })
            .await?;
        Ok(Forming::new(self.handle.clone(), local))
    }

    /// All sessions, in no particular order.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn list(&self) -> Result<Vec<Summary>, SessionError> {
        self.handle
            .call(Answer::AtOnce, |node, _, _| {
                Some(Ok(node.summaries().collect()))
            })
            .await
    }

    /// The session of that name, or of an identifier that begins with `name_or_id` (at least 6
    /// hexadecimal digits of the session id or of the local id). A whole identifier means the session that
    /// has it, whatever others are called: hosts choose names, and may choose one that looks like it.
    ///
    /// # Errors
    /// [`Misuse::NoSuchSession`], [`Misuse::Ambiguous`].
    pub async fn find(&self, name_or_id: &str) -> Result<Summary, SessionError> {
        let mut found = self.list().await?;
        let ids = |summary: &Summary| {
            let id = summary.id.map(|id| id.to_string());
            id.into_iter().chain([summary.local.to_string()])
        };
        let has_id = |summary: &Summary| ids(summary).any(|id| id == name_or_id);
        if found.iter().any(has_id) {
            found.retain(has_id);
        } else {
            let begins = |id: String| name_or_id.len() >= 6 && id.starts_with(name_or_id);
            found.retain(|summary| summary.name == name_or_id || ids(summary).any(begins));
        }
        // One that is being closed is found only if there is no other.
        if found.iter().any(|summary| summary.stage != Stage::Closing) {
            found.retain(|summary| summary.stage != Stage::Closing);
        }
        match found.len() {
            0 => Err(Misuse::NoSuchSession.into()),
            1 => found.pop().ok_or(SessionError::Defect("one is none")),
            _ => Err(Misuse::Ambiguous.into()),
        }
    }

    /// Takes a session up again, formed or not.
    ///
    /// # Errors
    /// As [`Sessions::find`].
    pub async fn resume(&self, name_or_id: &str) -> Result<Forming, SessionError> {
        let found = self.find(name_or_id).await?;
        Ok(Forming::new(self.handle.clone(), found.local))
    }

    /// Marks a session as compared by safety code, or takes the mark back.
    ///
    /// # Errors
    /// As [`Sessions::find`]; [`Misuse::NotFormed`].
    pub async fn verify(&self, name_or_id: &str, verified: bool) -> Result<(), SessionError> {
        let local = self.find(name_or_id).await?.local;
        self.handle
            .call(Answer::Durable, move |node, rng, step| {
                let (done, more) = node.verify(&local, verified, rng);
                step.absorb(more);
                Some(done)
            })
            .await
    }

    /// Frees the place of somebody who asked to join a session of ours and never comes
    /// ([`Summary::joiners`]). Once all are known ([`Stage::Binding`]) nobody can take its place: the
    /// session fails, and all hear why.
    ///
    /// # Errors
    /// As [`Sessions::find`]; [`Misuse::NotMeeting`], [`Misuse::NoJoiner`].
    pub async fn turn_away(&self, name_or_id: &str, joiner: u8) -> Result<(), SessionError> {
        let local = self.find(name_or_id).await?.local;
        self.handle
            .call(Answer::Durable, move |node, rng, step| {
                let (done, more) = node.turn_away(&local, joiner, rng);
                step.absorb(more);
                Some(done)
            })
            .await
    }

    /// Closes a session: tells the other parties and forgets all of it.
    ///
    /// # Errors
    /// As [`Sessions::find`].
    pub async fn close(&self, name_or_id: &str) -> Result<(), SessionError> {
        let local = self.find(name_or_id).await?.local;
        self.close_local(local).await
    }

    async fn close_local(&self, local: LocalId) -> Result<(), SessionError> {
        self.handle
            .call(Answer::Durable, move |node, rng, step| {
                Some(node.close(&local, rng).map(|more| step.absorb(more)))
            })
            .await
    }

    /// Adds a session to those that [`Sessions::settle`] is about; before it is closed, if it is to be.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn note(&self, local: LocalId, used: &mut Used) -> Result<(), SessionError> {
        self.handle.note(local, used).await
    }

    /// Takes what is for these parties of a session out of what [`Sessions::settle`] waits for: who has taken
    /// nothing for long holds up nobody. It stays stored and goes out when they take it.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn spare(
        &self,
        session: &Session,
        parties: Members,
        used: &mut Used,
    ) -> Result<(), SessionError> {
        self.handle.spare(session.local(), parties, used).await
    }

    /// Waits up to `deadline` until everything said so far in some sessions has left this machine: for a
    /// process that wants to end. Unlike [`crate::Session::flush`] it does not wait for other parties.
    /// Whatever has not left stays stored and goes out when the sessions are opened again.
    ///
    /// # Errors
    /// [`LocalError::Storage`] as soon as this machine cannot store what is to leave;
    /// [`SessionError::Local`] if the task has ended.
    pub async fn settle(&self, used: &Used, deadline: Duration) -> Result<bool, SessionError> {
        match tokio::time::timeout(deadline, self.handle.settle(used)).await {
            Ok(settled) => settled.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Gives the sessions up, and returns when the task behind them has ended: before a process
    /// takes its runtime down. All other handles must be dropped already, or this waits for them.
    pub async fn end(self) {
        self.handle.end().await;
    }

    /// The profile keys met or listed so far.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn known_keys(&self) -> Result<KnownKeys, SessionError> {
        self.handle
            .call(Answer::AtOnce, |node, _, _| {
                Some(Ok(node.known_keys().clone()))
            })
            .await
    }

    /// Lists a profile key under a name: for `pinned`, or to accept a changed key of `tofu`.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn trust(&self, name: &str, key: VerifyingKey) -> Result<(), SessionError> {
        let name = name.to_owned();
        self.handle
            .call(Answer::Durable, move |node, _, step| {
                step.absorb(node.trust(&name, key));
                Some(Ok(()))
            })
            .await
    }

    /// What was lost, altered or unreadable on the connections of sessions since the last call, the newest 64.
    #[must_use]
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.handle.take_warnings()
    }

    /// What the carrier complained about last, unless it has passed.
    #[must_use]
    pub fn carrier_trouble(&self) -> Option<Trouble> {
        self.handle.carrier_trouble()
    }
}
