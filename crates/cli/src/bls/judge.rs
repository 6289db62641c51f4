//! `junto bls judge`: what evidence of misbehaviour proves, to anybody.

use std::path::Path;

use junto_bls::{Abort, Evidence, Setup};
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
    let dir = junto.profile.dir().join("evidence");
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
        let written = std::fs::create_dir_all(&dir)
            .context("evidence")
            .and_then(|()| serde_json::to_vec(&file).context("evidence"))
            .and_then(|bytes| write_private(&dir.join(&name), &bytes));
        match written {
            Ok(()) => files.push(dir.join(name).display().to_string()),
            Err(failure) => tracing::warn!(error = failure.message, "cannot keep the evidence"),
        }
    }
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

/// Reads an evidence file and says what it proves.
pub(crate) fn run(path: &Path, output: Output) -> Result<(), Failure> {
    let wrong = || Failure::usage(format_args!("{} is no evidence file", path.display()));
    let file: EvidenceFile =
        serde_json::from_slice(&input::read_message(path)?).map_err(|_| wrong())?;
    let setup = hex::decode(&file.setup)
        .ok()
        .and_then(|bytes| Setup::decode(&bytes).ok())
        .ok_or_else(wrong)?;
    let evidence = Evidence::from_bytes(hex::decode(&file.evidence).map_err(|_| wrong())?);
    let (party, fault) = evidence.verify(&setup).map_err(|_| {
        Failure::refused("the evidence proves nothing").help("do not blame anybody because of it")
    })?;
    let key = setup
        .roster()
        .get(usize::from(party.value()))
        .map(|key| hex::encode(key.as_bytes()));
    let report = json!({ "party": party.value(), "key": key, "fault": fault.to_string() });
    output.result(&report, || {
        format!(
            "Proven: {party} (key {}) {fault}",
            key.clone().unwrap_or_default()
        )
    })
}
