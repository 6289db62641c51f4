//! Certificates on their way: whoever has one hands it to all, whoever lacks one takes it from anybody.
//!
//! A run can end badly for a party that has confirmed while the others succeed, since whoever takes part
//! in an execution can end it. So a certificate travels from party to party, each pair in an execution
//! of its own, which nobody else can end; and it proves itself, so it does not matter who brings it.

use std::time::Duration;

use junto_bls::{Certificate, Setup};
use junto_session::{Execution, Misuse, PartyIndex, Session, SessionError};
use tokio::task::JoinSet;

use super::key_file::KeyFile;
use super::order::Origin;
use super::sign::between;
use crate::failure::Failure;
use crate::open::Junto;

/// How long a party whose run was broken off waits for the certificate that some other party may have got.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Longer than any command.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The pair executions in which the certificate of a run travels, as far as they are not over. Trouble
/// with one party is none with the others.
async fn pairs(
    session: &Session,
    setup: &Setup,
) -> Vec<(PartyIndex, Result<Execution, SessionError>)> {
    let label = format!("bls certificate {}", hex::encode(setup.digest()));
    let mut pairs = Vec::new();
    for other in session.everybody().without(session.me()).iter() {
        let pair = between(&label, session.me(), other);
        pairs.push((other, session.execution_as(pair).await));
    }
    pairs
}

/// Whether a pair's execution is over, one way or the other: no trouble of ours.
fn over(error: &SessionError) -> bool {
    matches!(
        error,
        SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)
    )
}

/// Hands the certificate to all other parties of its run. Once done, it is not done again; what cannot be
/// done now, as a party takes nothing, the next command tries again.
pub(crate) async fn hand_out(session: &Session, certificate: &Certificate) {
    for (other, execution) in pairs(session, certificate.setup()).await {
        let done = async {
            let execution = execution?;
            let encoded = certificate.encode();
            execution.send_now(0, other, encoded).await?;
            execution.finish().await.map(drop)
        };
        warn_of(other, done.await);
    }
}

/// Trouble with one party must not keep anything from the others.
fn warn_of(other: PartyIndex, done: Result<(), SessionError>) {
    match done {
        Err(error) if !over(&error) => {
            tracing::warn!(party = other.as_usize(), %error, "certificates do not travel");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Ends what was opened for certificates of runs that another one has superseded: a session has room
/// for so many executions only.
pub(crate) async fn close(junto: &Junto, runs: &[Setup]) {
    for setup in runs {
        let Some(session) = session_of(junto, setup).await else {
            continue;
        };
        for (other, execution) in pairs(&session, setup).await {
            let ended = async { execution?.finish().await.map(drop) };
            warn_of(other, ended.await);
        }
    }
}

/// The session of a run; none if it is closed: then nobody in it can hand over anything.
async fn session_of(junto: &Junto, setup: &Setup) -> Option<Session> {
    let origin = Origin::of(setup)?;
    junto.session(&origin.session, GRACE).await.ok()
}

/// The first certificate of one of these runs that somebody hands over. Waits for as long as that takes.
pub(crate) async fn handed(junto: &Junto, runs: Vec<Setup>) -> Certificate {
    let mut messages = JoinSet::new();
    for setup in runs {
        let Some(session) = session_of(junto, &setup).await else {
            continue;
        };
        for (other, execution) in pairs(&session, &setup).await {
            let execution = match execution {
                Ok(execution) => execution,
                Err(error) => {
                    warn_of(other, Err(error));
                    continue;
                }
            };
            let setup = setup.clone();
            messages.spawn(async move {
                let message = execution.next(FOREVER).await.ok()?; // none if that one has left
                let certificate = Certificate::decode(&message.payload).ok();
                let certificate = certificate.filter(|it| *it.setup() == setup);
                let proven = certificate.filter(|it| it.verify().is_ok());
                if proven.is_none() {
                    tracing::warn!(
                        party = other.as_usize(),
                        "a certificate that proves nothing"
                    );
                }
                proven
            });
        }
    }
    while let Some(message) = messages.join_next().await {
        if let Ok(Some(certificate)) = message {
            return certificate;
        }
    }
    std::future::pending().await
}

/// Takes over a certificate of an undecided run, if somebody hands one over in time.
pub(crate) async fn take_over(
    junto: &Junto,
    name: &str,
    key: &mut KeyFile,
    patience: Duration,
) -> Result<bool, Failure> {
    if key.undecided.is_empty() {
        return Ok(false);
    }
    match tokio::time::timeout(patience, handed(junto, key.asked())).await {
        Ok(certificate) => adopt(junto, name, key, &certificate).await,
        Err(_) => Ok(false),
    }
}

/// Stores what a certificate makes usable, if it is one of an undecided run.
pub(crate) async fn adopt(
    junto: &Junto,
    name: &str,
    key: &mut KeyFile,
    certificate: &Certificate,
) -> Result<bool, Failure> {
    let Some(gone) = key.activate(certificate) else {
        return Ok(false);
    };
    key.store(&junto.profile, name)?;
    close(junto, &gone).await;
    Ok(true)
}
