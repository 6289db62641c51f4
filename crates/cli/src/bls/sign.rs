//! `junto bls sign`: one message from each signer, and whoever has T parts has the signature.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use junto_bls::{Abort, Participant, PartyIndex, Setup, SignError, Signature};
use junto_crypto::hash::sha256;
use junto_session::{Misuse, Mode, Purpose, SessionError};
use serde_json::json;

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
    // Everybody who signs this message with this key in this epoch meets in the same execution.
    let label = format!(
        "bls sign {} {}",
        hex::encode(&key.digest()[..16]),
        hex::encode(sha256(message))
    );
    let occasion = OwnedOccasion::new(&session, &label);
    let setup = Setup::sign(&occasion.borrow(), key, file.holders.clone(), message)
        .map_err(setup_failure)?;
    let purpose = Purpose {
        label,
        members: members(&file.holders),
        mode: Mode::Messages,
    };
    let execution = match session.execution_as(purpose).await {
        Ok(execution) => execution,
        Err(SessionError::Misuse(Misuse::Finished)) => {
            return Err(Failure::failed(
                "this message was signed before, but its signature is no longer in the profile",
            ));
        }
        Err(error) => return Err(session_failure(error)),
    };

    let signer = session.signing_key().await.map_err(session_failure)?;
    let me = PartyIndex::new(session.me().as_usize().try_into().unwrap_or(u8::MAX))
        .ok_or_else(|| Failure::failed("a party beyond the limit"))?;
    let participant =
        Participant::new(&setup, me, &signer, execution.seed()).map_err(Failure::failed)?;
    let (round, part) = participant
        .sign(Some(&file.share))
        .map_err(Failure::failed)?;
    let part = part.ok_or_else(|| Failure::failed("this party has no part in the signature"))?;
    for to in execution.others().iter() {
        execution
            .send(0, to, part.clone())
            .await
            .map_err(session_failure)?;
    }

    let progress = output.progress(format!("signing: 1 of {required} parts"));
    let end = Instant::now() + patience;
    let mut inbox = BTreeMap::new();
    let signature = loop {
        let left = end.saturating_duration_since(Instant::now());
        let incoming = match execution.next(left).await {
            Ok(incoming) => incoming,
            Err(SessionError::Incomplete { .. }) => {
                return Err(Failure::new(
                    Exit::Unreachable,
                    format_args!("only {} of {required} parties signed this message in time", inbox.len() + 1),
                )
                .help("the part of this party is on its way: run the command again when the others have signed"));
            }
            Err(error) => return Err(session_failure(error)),
        };
        let Some(from) = u8::try_from(incoming.sender.as_usize())
            .ok()
            .and_then(PartyIndex::new)
        else {
            continue;
        };
        inbox
            .entry(from)
            .or_insert_with(|| incoming.payload.to_vec());
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
                let able = file.holders.len() - blames.len();
                if able < usize::from(required) {
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
    execution.finish().await.map_err(session_failure)?;
    junto.settle().await?;
    Ok(signature)
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
