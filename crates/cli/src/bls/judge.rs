//! `junto bls judge`: what evidence of misbehaviour proves, to anybody.

use std::path::Path;

use junto_bls::{Abort, Evidence, Fault, PartyIndex, Setup};
use junto_session::Session;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Context, Exit, Failure};
use crate::input;
use crate::open::Junto;
use crate::output::Output;
use crate::profile::write_private;

/// An evidence file: the run, and the proof. It holds no secret of an honest party.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EvidenceFile {
    format: u8,
    setup: String,
    evidence: String,
}

/// Writes the evidence of a failed run to the profile and says who is at fault.
pub(crate) fn record(junto: &Junto, session: &Session, setup: &Setup, abort: &Abort) -> Failure {
    let files = keep(&junto.profile.dir().join("evidence"), setup, abort);
    let blamed: Vec<String> = abort
        .blamed()
        .iter()
        .map(|party| party.value().to_string())
        .collect();
    let failure = Failure::new(
        Exit::Misbehaved,
        format_args!("session {}: {abort}", session.name()),
    );
    let failure = if blamed.is_empty() {
        failure
    } else {
        failure.party(blamed.join(", "))
    };
    if files.is_empty() {
        failure
    } else {
        failure.help(format_args!(
            "anybody can check the evidence: junto bls judge {}",
            files.join(" ")
        ))
    }
}

/// Writes each piece of evidence to a file of its own; gives their paths.
fn keep(dir: &Path, setup: &Setup, abort: &Abort) -> Vec<String> {
    let mut files = Vec::new();
    for (number, blame) in abort.blames.iter().enumerate() {
        let Some(evidence) = &blame.evidence else {
            continue;
        };
        let file = EvidenceFile {
            format: 1,
            setup: hex::encode(setup.encode()),
            evidence: hex::encode(evidence.as_bytes()),
        };
        let name = format!("{}-{number}.json", &hex::encode(setup.digest())[..16]);
        let written = std::fs::create_dir_all(dir)
            .context("evidence")
            .and_then(|()| serde_json::to_vec(&file).context("evidence"))
            .and_then(|bytes| write_private(&dir.join(&name), &bytes));
        match written {
            Ok(()) => files.push(dir.join(name).display().to_string()),
            Err(failure) => tracing::warn!(error = failure.message, "cannot keep the evidence"),
        }
    }
    files
}

/// Reads an evidence file and says what it proves.
pub(crate) fn run(path: &Path, output: Output) -> Result<(), Failure> {
    let (party, key, fault) = proven(path)?;
    let report = json!({ "party": party.value(), "key": key, "fault": fault.to_string() });
    output.result(&report, || format!("Proven: {party} (key {key}) {fault}"))
}

/// Who did what, and with which key in the session, if the file proves it.
fn proven(path: &Path) -> Result<(PartyIndex, String, Fault), Failure> {
    let wrong = || Failure::usage(format_args!("{} is no evidence file", path.display()));
    let file: EvidenceFile =
        serde_json::from_slice(&input::read_message(path)?).map_err(|_| wrong())?;
    let setup = hex::decode(&file.setup)
        .ok()
        .filter(|_| file.format == 1)
        .and_then(|bytes| Setup::decode(&bytes).ok())
        .ok_or_else(wrong)?;
    let evidence = Evidence::from_bytes(hex::decode(&file.evidence).map_err(|_| wrong())?);
    let (party, fault) = evidence.verify(&setup).map_err(|_| {
        Failure::refused("the evidence proves nothing").help("do not blame anybody because of it")
    })?;
    let key = setup
        .roster()
        .get(usize::from(party.value()))
        .map_or_else(String::new, |key| hex::encode(key.as_bytes()));
    Ok((party, key, fault))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use junto_bls::{Inbox, Occasion, Participant, RunError};
    use junto_crypto::ed25519::SigningKey;

    fn party(index: u8) -> PartyIndex {
        PartyIndex::new(index).unwrap()
    }

    fn from(index: u8, message: &[u8]) -> Inbox {
        Inbox::from([(party(index), message.to_vec())])
    }

    /// Two parties make a key; party 1 deals one polynomial and gives a share of another. What
    /// party 0 makes of it.
    fn cheated() -> (Setup, Abort) {
        let signers = [7, 8].map(|byte| SigningKey::from_seed(&[byte; 32]));
        let roster = [0, 1].map(|party| signers[party].verifying_key());
        let occasion = Occasion {
            session: [1; 32],
            label: b"judge",
            roster: &roster,
        };
        let setup = Setup::keygen(&occasion, 2).unwrap();
        let start = |index: u8, seed: u8| {
            let signer = &signers[usize::from(index)];
            let participant = Participant::new(&setup, party(index), signer, &[seed; 32]);
            participant.unwrap().start(None).unwrap()
        };
        let (honest, honest_deal) = start(0, 1);
        let (liar, liar_deal) = start(1, 2);
        let (other, _) = start(1, 3);
        let (honest, to_liar) = honest.receive(&from(1, &liar_deal)).unwrap();
        let (liar, _) = liar.receive(&from(0, &honest_deal)).unwrap();
        let (_, false_shares) = other.receive(&from(0, &honest_deal)).unwrap();
        let (honest, _) = honest.receive(&from(1, &false_shares[&party(0)])).unwrap();
        let (_, confirm) = liar.receive(&from(0, &to_liar[&party(1)])).unwrap();
        let Err(RunError::Abort(abort)) = honest.receive(&from(1, &confirm)) else {
            panic!("nobody noticed");
        };
        (setup, abort)
    }

    #[test]
    fn what_a_failed_run_leaves_behind_convinces_anybody() {
        let dir = tempfile::tempdir().unwrap();
        let (setup, abort) = cheated();
        assert_eq!(abort.blamed(), [party(1)]);
        let files = keep(dir.path(), &setup, &abort);
        assert_eq!(files.len(), 1);
        let (guilty, key, _) = proven(Path::new(&files[0])).unwrap();
        assert_eq!(guilty, party(1));
        assert_eq!(key, hex::encode(setup.roster()[1].as_bytes()));
    }

    #[test]
    fn evidence_that_was_touched_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (setup, abort) = cheated();
        let path = keep(dir.path(), &setup, &abort).remove(0);
        let good: EvidenceFile = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let bytes = hex::decode(&good.evidence).unwrap();
        for position in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[position] ^= 1;
            let file = EvidenceFile {
                format: 1,
                setup: good.setup.clone(),
                evidence: hex::encode(bad),
            };
            std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
            let failure = proven(Path::new(&path)).unwrap_err();
            assert_eq!(failure.exit, Exit::Refused, "byte {position}");
        }
        for (what, text) in [
            ("another format", r#"{"format":2,"setup":"","evidence":""}"#),
            ("no setup", r#"{"format":1,"setup":"00","evidence":"00"}"#),
            (
                "no hexadecimal",
                r#"{"format":1,"setup":"x","evidence":"x"}"#,
            ),
            ("no JSON", "evidence"),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = proven(Path::new(&path)).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{what}");
        }
    }
}
