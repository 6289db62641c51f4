//! What an earlier command left undone: every command on a key first catches up with that.

use std::time::SystemTime;

use indicatif::HumanDuration;
use junto_bls::KeyPublic;
use junto_session::{Misuse, Session, SessionError};

use super::certificate::{self, GRACE};
use super::key_file::{self, Held, KeyFile};
use super::order::Origin;
use super::{describe, describe_text};
use crate::failure::Failure;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::Output;

/// The runs that a command is satisfied with.
pub(crate) struct Asked {
    /// What their labels begin with, before the number.
    pub(crate) purpose: String,
    /// Id of their session.
    pub(crate) session: String,
    /// Required and holding parties of the new shares; none if they stay as they are.
    pub(crate) threshold: Option<(u8, u8)>,
}

impl Asked {
    /// Whether that run does what the command asks for.
    pub(crate) fn means(&self, origin: &Origin, key: &KeyPublic) -> bool {
        let threshold = (key.threshold().required(), key.threshold().holders());
        origin.session == self.session
            && self.number(&origin.label).is_some()
            && self.threshold.is_none_or(|asked| asked == threshold)
    }

    /// The number of the run with that label, if it is for the same purpose.
    fn number(&self, label: &str) -> Option<u32> {
        let number = label.strip_prefix(&self.purpose)?.strip_prefix(" #")?;
        number.parse().ok()
    }

    /// Whether a run for the same purpose that this party has confirmed is under way: it goes on with that,
    /// whatever it has confirmed since, as it says nothing that it has not said before.
    pub(crate) async fn goes_on(&self, session: &Session, key: &KeyFile) -> bool {
        let here = |origin: &&Origin| origin.session == self.session;
        for run in key.undecided.iter().map(|run| &run.origin).filter(here) {
            if self.number(&run.label).is_some() && session.execution(&run.label).await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Whether a run for the same purpose that comes after number `run` is under way here.
    async fn is_past(&self, session: &Session, run: u32) -> Result<bool, Failure> {
        let open = session.open_executions().await.map_err(session_failure)?;
        let mut numbers = open.iter().filter_map(|it| self.number(&it.label));
        Ok(numbers.any(|number| number > run))
    }
}

/// How the latest run that this party has confirmed stands.
pub(crate) enum Resumed {
    /// There is none that would be undecided.
    Nothing,
    /// The run that the command asks for was undecided or interrupted, and has succeeded.
    Done,
    /// The run that the command asks for is under way: the same command goes on with it.
    Run(u32),
    /// It was broken off, and nobody has handed over its certificate so far.
    Broken(Failure),
}

/// Ends a run whose command was cut short after it had stored the share, and takes the certificates of undecided
/// runs that other parties have handed over.
pub(crate) async fn resumed(
    junto: &Junto,
    name: &str,
    key: &mut KeyFile,
    asked: &Asked,
    output: Output,
) -> Result<Resumed, Failure> {
    if finish_interrupted(junto, name, key, asked, output).await? {
        return Ok(Resumed::Done);
    }
    while let Some(latest) = key.undecided.last() {
        let (origin, wanted) = (
            latest.origin.clone(),
            asked.means(&latest.origin, latest.pending.key()),
        );
        let broken = match junto.session(&origin.session, GRACE).await {
            Ok(session) => match session.execution(&origin.label).await {
                Ok(_) if wanted => return Ok(Resumed::Run(origin.run)),
                Ok(_) => Failure::failed(format_args!("`{}` is undecided", origin.label)),
                Err(SessionError::Misuse(Misuse::Finished)) => {
                    Failure::failed("a party misbehaved at the end of the run")
                }
                Err(error) => session_failure(error),
            },
            Err(closed) => closed,
        };
        if !certificate::take_over(junto, name, key, GRACE).await? {
            return Ok(Resumed::Broken(broken));
        }
        let held = key.usable(name)?;
        output.say(format_args!(
            "`{}` has succeeded: another party has handed over its certificate",
            held.origin.label
        ));
        if key.undecided.is_empty() && asked.means(&held.origin, held.share.public()) {
            return Ok(Resumed::Done);
        }
    }
    Ok(Resumed::Nothing)
}

/// Ends the run that made the present share, if its command was cut short after it had stored that
/// share: the others may lack the certificate. Whether that was the run that the command asks for, which
/// is then left to [`conclude`]: in another one this party would wait for others who are done.
async fn finish_interrupted(
    junto: &Junto,
    name: &str,
    key: &KeyFile,
    asked: &Asked,
    output: Output,
) -> Result<bool, Failure> {
    let Some(held) = &key.held else {
        return Ok(false);
    };
    // In a session that is closed nobody waits for anything.
    let Ok(session) = junto.session(&held.origin.session, GRACE).await else {
        return Ok(false);
    };
    certificate::hand_out(junto, name, &held.certificate).await;
    let execution = match session.execution(&held.origin.label).await {
        Ok(execution) => execution,
        Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => return Ok(false),
        Err(error) => return Err(session_failure(error)),
    };
    let done = key.undecided.is_empty()
        && asked.means(&held.origin, held.share.public())
        && !asked.is_past(&session, held.origin.run).await?;
    let next = if done {
        "this is what was asked for, so no other run is begun"
    } else {
        execution.finish().await.map_err(session_failure)?;
        "now starting a new run"
    };
    let when = key_file::written(&junto.profile, name)
        .and_then(|then| SystemTime::now().duration_since(then).ok());
    let when = when.map_or_else(String::new, |ago| format!(" {} ago", HumanDuration(ago)));
    output.say(format_args!(
        "finished `{}`, which was interrupted{when}: the key is at epoch {}; {next}",
        held.origin.label,
        held.share.public().epoch()
    ));
    Ok(done)
}

/// The key is stored: reports it, hands its certificate and what the others wait for to them, and only
/// then calls the run finished, so that whoever is stopped in between has not lost it.
pub(crate) async fn conclude(
    junto: &Junto,
    name: &str,
    held: &Held,
    output: Output,
) -> Result<(), Failure> {
    output.result(&describe(name, held), || {
        describe_text(name, held.share.public())
    })?;
    let session = junto.session(&held.origin.session, GRACE).await?;
    certificate::hand_out(junto, name, &held.certificate).await;
    junto.settle(SETTLE).await?;
    let ended = match session.execution(&held.origin.label).await {
        Ok(execution) => execution.finish().await.map(drop),
        Err(error) => Err(error),
    };
    match ended {
        Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => Ok(()),
        Err(error) => Err(session_failure(error)),
    }
}
