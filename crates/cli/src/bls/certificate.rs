//! Certificates on their way: whoever has one hands it to all, whoever lacks one takes it from anybody.
//!
//! A run can end badly for a party that has confirmed while the others succeed, since whoever takes part
//! in an execution can end it. So a certificate travels from party to party, each pair in an execution
//! of its own, which nobody else can end; and it proves itself, so it does not matter who brings it.

use std::time::Duration;

use junto_bls::{Certificate, Setup};
use junto_session::{Execution, Misuse, Session, SessionError};
use tokio::task::JoinSet;

use super::key_file::{KeyFile, Origin};
use super::sign::between;
use crate::failure::Failure;
use crate::open::{Junto, session_failure};

/// How long a party whose run was broken off waits for the certificate that some other party may have got.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Longer than any command.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The pair executions in which the certificate of a run travels, as far as they are not over.
async fn pairs(
    session: &Session,
    setup: &Setup,
) -> Result<Vec<(junto_session::PartyIndex, Execution)>, Failure> {
    let label = format!("bls certificate {}", hex::encode(setup.digest()));
    let mut open = Vec::new();
    for other in session.everybody().without(session.me()).iter() {
        let pair = between(&label, session.me(), other);
        match session.execution_as(pair).await {
            Ok(execution) => open.push((other, execution)),
            Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok(open)
}

/// Hands the certificate to all other parties of its run. Once done, it is not done again.
pub(crate) async fn hand_out(session: &Session, certificate: &Certificate) -> Result<(), Failure> {
    for (other, execution) in pairs(session, certificate.setup()).await? {
        let sent = execution.send(0, other, certificate.encode()).await;
        let done = match sent {
            Ok(()) => execution.finish().await.map(drop),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok(())
}

/// The first certificate of one of these runs that somebody hands over. Waits for as long as that takes.
pub(crate) async fn handed(junto: &Junto, runs: Vec<Setup>) -> Result<Certificate, Failure> {
    let mut messages = JoinSet::new();
    for setup in runs {
        let Some(origin) = Origin::of(&setup) else {
            continue;
        };
        // A session that is closed has nobody in it who could hand over anything.
        let Ok(session) = junto.session(&origin.session, GRACE).await else {
            continue;
        };
        for (other, execution) in pairs(&session, &setup).await? {
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
            return Ok(certificate);
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
        Ok(certificate) => adopt(junto, name, key, &certificate?),
        Err(_) => Ok(false),
    }
}

/// Stores what a certificate makes usable.
pub(crate) fn adopt(
    junto: &Junto,
    name: &str,
    key: &mut KeyFile,
    certificate: &Certificate,
) -> Result<bool, Failure> {
    let activated = key.activate(certificate);
    if activated {
        key.store(&junto.profile, name)?;
    }
    Ok(activated)
}
