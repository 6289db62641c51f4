//! Certificates on their way: whoever has one hands it to all, whoever lacks one takes it from anybody.
//!
//! A run can end badly for a party that has confirmed while the others succeed, since whoever takes part
//! in an execution can end it. So certificates travel on a channel of the key, which nobody can end; and they
//! prove themselves, so it does not matter who brings them. A certificate bears the signatures of all, so
//! whoever gets one has confirmed its run before, or has none of its own to lose.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use junto_bls::{Certificate, PublicKey, Setup};
use junto_session::{Channel, Misuse, PartyIndex, Session, SessionError};

use super::key_file::KeyFile;
use super::order::Origin;
use crate::failure::Failure;
use crate::open::Junto;

/// How long a party whose run was broken off waits for the certificate that some other party may have got.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Whoever has not taken enough by then to leave room for a certificate gets it another time.
const TAKES_NOTHING: Duration = Duration::from_secs(1);

/// The channel of a session on which certificates of a key travel.
pub(super) async fn channel(session: &Session, key: &PublicKey) -> Result<Channel, SessionError> {
    let label = format!("bls certificates {}", hex::encode(key.to_bytes()));
    session.channel(&label).await
}

/// Where it stands which certificate of the key of that name all others were handed last.
pub(super) fn handed_file(name: &str) -> String {
    format!("bls/{name}.handed")
}

/// Earlier versions named it by the public key, which a profile with a passphrase does not show.
fn forget_telling_file(junto: &Junto, key: &PublicKey) {
    let file = handed_file(&hex::encode(key.to_bytes()));
    match std::fs::remove_file(junto.profile.dir().join(file)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, "a file that shows a public key stays behind");
        }
        Ok(()) | Err(_) => {}
    }
}

/// Hands the certificate of the key of that name to all other parties of its run. Once done, it is not done
/// again; what cannot be done now, as a party takes nothing, the next command tries again.
pub(crate) async fn hand_out(junto: &Junto, name: &str, certificate: &Certificate) {
    forget_telling_file(junto, &certificate.key().public_key());
    let file = handed_file(name);
    let run = certificate.setup().digest();
    let before = junto.profile.read_sealed(&file);
    if matches!(before, Ok(Some(before)) if *before == run[..]) {
        return;
    }
    let Some(session) = session_of(junto, certificate.setup()).await else {
        return;
    };
    let others = session.everybody().without(session.me());
    let told = join_all(others.iter().map(async |other| {
        let handed = hand_to(&session, other, certificate);
        match tokio::time::timeout(TAKES_NOTHING, handed).await {
            // That one is gone for good.
            Ok(Ok(()) | Err(SessionError::Peer(_))) => true,
            // Trouble with one party is none with the others.
            Ok(Err(error)) => {
                tracing::warn!(party = other.as_usize(), %error, "cannot hand over a certificate");
                false
            }
            Err(_) => false,
        }
    }));
    if told.await.into_iter().all(|told| told)
        && let Err(failure) = junto.profile.write_sealed(&file, run)
    {
        tracing::warn!(error = failure.message, "certificates are handed out again");
    }
}

pub(super) async fn hand_to(
    session: &Session,
    other: PartyIndex,
    certificate: &Certificate,
) -> Result<(), SessionError> {
    let channel = channel(session, &certificate.key().public_key()).await?;
    channel.send(other, certificate.encode()).await
}

/// Ends what is left of runs that another one has superseded: a session has room for so many executions
/// only, and the others have left them as well.
async fn close(junto: &Junto, runs: &[Setup]) {
    for setup in runs {
        let (Some(session), Some(origin)) = (session_of(junto, setup).await, Origin::of(setup))
        else {
            continue;
        };
        let ended = match session.execution(&origin.label).await {
            Ok(execution) => execution.finish().await.map(drop),
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
            Err(error) => tracing::warn!(%error, "a run that is over stays open"),
        }
    }
}

/// The session of a run; none if it is closed: then nobody in it can hand over anything.
async fn session_of(junto: &Junto, setup: &Setup) -> Option<Session> {
    let origin = Origin::of(setup)?;
    junto.session(&origin.session, GRACE).await.ok()
}

/// The first certificate of an undecided run that somebody hands over. Waits for as long as that takes.
///
/// What is of no use is taken off the channel; what this gives comes again after a restart, so that nothing is
/// lost if it is not adopted.
pub(crate) async fn handed(junto: &Junto, key: &KeyFile) -> Certificate {
    let mut readers = FuturesUnordered::new();
    if let Some(public_key) = key.public_key() {
        for session in key.sessions() {
            // In a session that is closed nobody can hand over anything.
            let Ok(session) = junto.session(session, GRACE).await else {
                continue;
            };
            match channel(&session, &public_key).await {
                Ok(channel) => readers.push(read(channel, key)),
                Err(error) => tracing::warn!(%error, "no certificate can come"),
            }
        }
    }
    while let Some(read) = readers.next().await {
        match read {
            Ok(certificate) => return certificate,
            Err(error) => tracing::warn!(%error, "no certificate can come any more"),
        }
    }
    std::future::pending().await
}

async fn read(channel: Channel, key: &KeyFile) -> Result<Certificate, SessionError> {
    // A check takes time. Nobody honest fails one, so nobody fails two.
    let mut liars = BTreeSet::new();
    loop {
        let message = channel.next().await?;
        if !liars.contains(&message.from)
            && let Ok(certificate) = Certificate::decode(&message.payload)
            && let Some(run) = key.undecided_run(certificate.setup())
        {
            match run.pending.check(&certificate) {
                Ok(()) => return Ok(certificate),
                Err(error) => {
                    tracing::warn!(party = message.from.as_usize(), %error, "it proves nothing");
                    liars.insert(message.from);
                }
            }
        }
        channel.done(message.receipt).await?;
    }
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
    match tokio::time::timeout(patience, handed(junto, key)).await {
        Ok(certificate) => adopt(junto, name, key, &certificate).await,
        Err(_) => Ok(false),
    }
}

/// Stores what a certificate makes usable, if it is one of an undecided run, and hands it on.
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
    hand_out(junto, name, certificate).await;
    close(junto, &gone).await;
    Ok(true)
}
