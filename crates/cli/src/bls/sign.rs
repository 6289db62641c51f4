//! `junto bls sign`: one message from each signer, and whoever has T parts has the signature.

use std::collections::BTreeMap;
use std::time::Duration;

use junto_bls::{Abort, Participant, PartyIndex, Setup, SignError, Signature};
use junto_crypto::hash::sha256;
use junto_session::{Execution, Members, Misuse, Mode, Purpose, Session, SessionError};
use serde_json::json;
use tokio::task::JoinSet;

use super::judge;
use super::key_file::KeyFile;
use super::run::{OwnedOccasion, members, setup_failure};
use crate::failure::{Exit, Failure};
use crate::open::{Junto, session_failure};
use crate::output::Output;

pub(crate) async fn run(
    junto: &Junto,
    name: &str,
    message: &[u8],
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let file = KeyFile::load(&junto.profile, name)?;
    let signature = match kept(junto, name, message, &file)? {
        Some(signature) => signature,
        None => sign(junto, name, message, &file, patience, output).await?,
    };
    let report = json!({
        "key": name,
        "scheme": junto_bls::CIPHERSUITE,
        "public_key": hex::encode(file.share.public().public_key().to_bytes()),
        "signature": hex::encode(signature.to_bytes()),
    });
    output.result(&report, || hex::encode(signature.to_bytes()))
}

async fn sign(
    junto: &Junto,
    name: &str,
    message: &[u8],
    file: &KeyFile,
    patience: Duration,
    output: Output,
) -> Result<Signature, Failure> {
    let session = junto.session(&file.session, patience).await?;
    let key = file.share.public().clone();
    let required = key.threshold().required();
    // Everybody who signs this message with this key in this epoch means the same.
    let label = format!(
        "bls sign {} {}",
        hex::encode(&key.digest()[..16]),
        hex::encode(sha256(message))
    );
    let occasion = OwnedOccasion::new(&session, &label);
    let setup = Setup::sign(&occasion.borrow(), key, file.holders.clone(), message)
        .map_err(setup_failure)?;
    let me = session.me();
    let others = members(&file.holders).without(me);
    let (executions, out) = meet(&session, &label, others, output).await?;
    let able = executions.len() + 1;
    let (Some((_, first)), true) = (executions.first(), able >= usize::from(required)) else {
        return Err(out.unwrap_or_else(|| Failure::failed("too few parties to sign")));
    };

    let signer = session.signing_key().await.map_err(session_failure)?;
    let own = party(me)?;
    let participant =
        Participant::new(&setup, own, &signer, first.seed()).map_err(Failure::failed)?;
    let (round, part) = participant
        .sign(Some(&file.share))
        .map_err(Failure::failed)?;
    let part = part.ok_or_else(|| Failure::failed("this party has no part in the signature"))?;
    let mut parts = JoinSet::new();
    for (other, execution) in executions {
        let part = part.clone();
        parts.spawn(async move {
            match execution.send(0, other, part).await {
                Ok(()) => (other, execution.next(patience).await),
                Err(error) => (other, Err(error)),
            }
        });
    }

    let progress = output.progress(format!("signing: 1 of {required} parts"));
    let mut inbox = BTreeMap::new();
    let mut lost = 0;
    let signature = loop {
        let (from, incoming) = match parts.join_next().await {
            Some(Ok((from, Ok(incoming)))) => (from, incoming),
            Some(Ok((_, Err(SessionError::Incomplete { .. })))) | None => {
                return Err(Failure::new(
                    Exit::Unreachable,
                    format_args!("only {} of {required} parties signed this message in time", inbox.len() + 1),
                )
                .help("the part of this party is on its way: run the command again when the others have signed"));
            }
            // One party that breaks off has no veto as long as enough others sign.
            Some(Ok((_, Err(error @ SessionError::Peer(_))))) => {
                lost += 1;
                if able - lost < usize::from(required) {
                    return Err(session_failure(error));
                }
                output.say(format_args!("going on without a party: {error}"));
                continue;
            }
            Some(Ok((_, Err(error)))) => return Err(session_failure(error)),
            Some(Err(error)) => return Err(Failure::failed(error)),
        };
        inbox.insert(party(from)?, incoming.payload.to_vec());
        match round.receive(&inbox) {
            Ok(outcome) => {
                if !outcome.blames.is_empty() {
                    let abort = Abort {
                        blames: outcome.blames,
                        disputes: Vec::new(),
                    };
                    output.say(format_args!(
                        "warning: {}",
                        judge::record(junto, &session, &setup, &abort).message
                    ));
                }
                break outcome.signature;
            }
            Err(SignError::TooFew { valid, blames, .. }) => {
                progress.step(format!("signing: {valid} of {required} parts"));
                if able - lost - blames.len() < usize::from(required) {
                    let abort = Abort {
                        blames,
                        disputes: Vec::new(),
                    };
                    return Err(judge::record(junto, &session, &setup, &abort));
                }
            }
            Err(error) => return Err(Failure::failed(error)),
        }
    };
    progress.done();
    keep(junto, name, message, &signature)?;
    parts.shutdown().await;
    leave(&session, &label, others).await?;
    junto.settle().await?;
    Ok(signature)
}

/// Opens the executions in which this party exchanges its part with each other holder. Pairs, because
/// whoever takes part in an execution can end it: one of all holders would give each of them a veto
/// over the signature, and any T parties are to suffice. Also gives why the last one that is out is out.
async fn meet(
    session: &Session,
    label: &str,
    others: Members,
    output: Output,
) -> Result<(Vec<(junto_session::PartyIndex, Execution)>, Option<Failure>), Failure> {
    let mut executions = Vec::new();
    let mut out = None;
    for other in others.iter() {
        match session.execution_as(between(label, session.me(), other)).await {
            Ok(execution) => executions.push((other, execution)),
            Err(SessionError::Misuse(Misuse::Finished)) => {
                return Err(Failure::failed(
                    "this message was signed before, but its signature is no longer in the profile",
                ));
            }
            Err(error @ SessionError::Peer(_)) => {
                output.say(format_args!("going on without {other}: {error}"));
                out = Some(session_failure(error));
            }
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok((executions, out))
}

/// Ends what [`meet`] opened, once the signature is stored.
async fn leave(session: &Session, label: &str, others: Members) -> Result<(), Failure> {
    for other in others.iter() {
        let finished = match session.execution_as(between(label, session.me(), other)).await {
            Ok(execution) => execution.finish().await.map(drop),
            Err(error) => Err(error),
        };
        match finished {
            // Some pairs end before, one way or the other.
            Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok(())
}

fn between(label: &str, one: junto_session::PartyIndex, other: junto_session::PartyIndex) -> Purpose {
    Purpose {
        label: format!("{label} {}-{}", one.min(other), one.max(other)),
        members: Members::NONE.with(one).with(other),
        mode: Mode::Messages,
    }
}

fn party(party: junto_session::PartyIndex) -> Result<PartyIndex, Failure> {
    u8::try_from(party.as_usize())
        .ok()
        .and_then(PartyIndex::new)
        .ok_or_else(|| Failure::failed("a party beyond the limit"))
}

fn signature_file(name: &str, message: &[u8]) -> String {
    format!("bls/{name}.signatures/{}", hex::encode(sha256(message)))
}

/// The signature, if this message was signed before: there is only one.
fn kept(
    junto: &Junto,
    name: &str,
    message: &[u8],
    file: &KeyFile,
) -> Result<Option<Signature>, Failure> {
    let Some(bytes) = junto.profile.read_sealed(&signature_file(name, message))? else {
        return Ok(None);
    };
    let key = file.share.public().public_key();
    Ok(Signature::from_bytes(&bytes)
        .ok()
        .filter(|signature| junto_bls::verify(&key, message, signature)))
}

fn keep(junto: &Junto, name: &str, message: &[u8], signature: &Signature) -> Result<(), Failure> {
    junto
        .profile
        .write_sealed(&signature_file(name, message), &signature.to_bytes())
}
