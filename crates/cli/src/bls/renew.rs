//! `junto bls refresh` and `junto bls reshare`: new shares of a key that there is.

use std::time::Duration;

use junto_bls::PublicKey;
use junto_session::Session;

use super::key_file::{self, KeyFile, barred_failure};
use super::resume::{Asked, Resumed, conclude, resumed};
use super::run::{Desk, Task, make, small};
use crate::failure::Failure;
use crate::input;
use crate::open::Junto;
use crate::output::Output;

/// What `junto bls reshare` is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Reshare {
    /// Whose parties shall hold the key; none for the session that holds it.
    pub(crate) session: Option<String>,
    /// How many must sign.
    pub(crate) threshold: u16,
    /// The key that the user means.
    pub(crate) public_key: Option<PublicKey>,
    /// Whether to give up an undecided reshare into another session.
    pub(crate) abandon: bool,
}

/// The public key that the user expects.
///
/// # Errors
/// If it is none.
pub(crate) fn expected(hex: &str) -> Result<PublicKey, Failure> {
    let bytes = input::hex_argument("public key", hex)?;
    PublicKey::from_bytes(&bytes)
        .map_err(|_| Failure::usage("the public key is not one: 48 bytes, a point of G1"))
}

pub(crate) async fn refresh(
    junto: &Junto,
    name: &str,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let mut key = KeyFile::load(&junto.profile, name)?;
    let asked = Asked {
        purpose: format!("bls refresh {name}"),
        session: key.usable(name)?.origin.session.clone(),
        threshold: None,
    };
    if let Resumed::Done = resumed(junto, name, &mut key, &asked, output).await? {
        return conclude(junto, name, key.usable(name)?, output).await;
    }
    // Only now, as the certificate of a reshare may have come and taken the key elsewhere.
    let session = home(junto, &key, name, patience).await?;
    let here = session.id().to_string();
    let asked = Asked {
        session: here.clone(),
        ..asked
    };
    if !asked.goes_on(&session, &key).await {
        let met = key.standing().meets_in(&here, false);
        met.map_err(|barred| barred_failure(&barred))?;
    }
    let progress = output.progress("refreshing: waiting for the other parties");
    let desk = Desk::new(junto, &session, name, &progress, patience, output);
    let first = next_run(&key, &here);
    let held = make(desk, &Task::Refresh, &asked, first, &mut key).await?;
    progress.done();
    conclude(junto, name, held, output).await
}

pub(crate) async fn reshare(
    junto: &Junto,
    name: &str,
    wanted: Reshare,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    key_file::path(name)?;
    let mut key = KeyFile::find(&junto.profile, name)?.unwrap_or_default();
    let public_key = meant(&key, name, wanted.public_key)?;
    let session = match &wanted.session {
        Some(session) => junto.session(session, patience).await?,
        None => home(junto, &key, name, patience).await?,
    };
    let threshold = small(wanted.threshold)?;
    let here = session.id().to_string();
    let asked = Asked {
        purpose: format!("bls reshare {name}"),
        session: here.clone(),
        threshold: Some((threshold, small(session.parties().as_usize())?)),
    };
    if let Resumed::Done = resumed(junto, name, &mut key, &asked, output).await? {
        return conclude(junto, name, key.usable(name)?, output).await;
    }
    if !asked.goes_on(&session, &key).await {
        let met = key.standing().meets_in(&here, wanted.abandon);
        met.map_err(|barred| barred_failure(&barred))?;
    }
    let progress = output.progress("resharing: waiting for the other parties");
    let desk = Desk::new(junto, &session, name, &progress, patience, output);
    let first = next_run(&key, &here);
    let task = Task::Reshare {
        threshold,
        public_key,
        abandon: wanted.abandon,
    };
    let held = make(desk, &task, &asked, first, &mut key).await?;
    progress.done();
    conclude(junto, name, held, output).await
}

/// The session that holds the key.
async fn home(
    junto: &Junto,
    key: &KeyFile,
    name: &str,
    patience: Duration,
) -> Result<Session, Failure> {
    match &key.held {
        Some(held) => junto.session(&held.origin.session, patience).await,
        None => Err(Failure::usage(format_args!(
            "this profile holds no share of a key `{name}`"
        ))
        .help("to receive a share of a key of others, name the session: `--session S`")),
    }
}

/// The number of the next run in that session.
fn next_run(key: &KeyFile, session: &str) -> u32 {
    let held = key.held.as_ref().map(|held| &held.origin);
    let held = held.filter(|origin| origin.session == session);
    held.map_or(0, |origin| origin.run.saturating_add(1))
}

/// The key that is to be reshared: its holders know it, and newcomers must be told, by other means
/// than by those who hand it to them.
fn meant(key: &KeyFile, name: &str, given: Option<PublicKey>) -> Result<PublicKey, Failure> {
    match (key.public_key(), given) {
        (Some(own), Some(given)) if own != given => Err(Failure::refused(format_args!(
            "the key `{name}` of this profile is another one: {}",
            hex::encode(own.to_bytes())
        ))
        .help("to receive a share of that other key, use another profile, or all of you another name")),
        (Some(known), _) | (None, Some(known)) => Ok(known),
        (None, None) => Err(Failure::usage(format_args!(
            "this profile holds no share of a key `{name}`: say which key you expect with `--public-key HEX`"
        ))
        .help("ask a holder whom you trust, by other means than this session; `junto bls list` shows it there")),
    }
}
