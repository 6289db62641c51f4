//! While a session forms: who is there, and who is missing.

use std::time::Duration;

use junto_crypto::ed25519::VerifyingKey;
use junto_session::{
    Culprit, Fault, Forming, IdentityFault, Joiner, KnownKeys, Policy, Refusal, Session,
    SessionError, Stage, Summary,
};

use crate::code::{self, Offer};
use crate::failure::Failure;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::Output;
use crate::session::{describe, describe_text, fingerprint};
use crate::talk::printable;

/// Shows the lobby until all have joined, then the session.
pub(crate) async fn wait(
    junto: &Junto,
    forming: Forming,
    patience: Duration,
    offer: Option<Offer>,
    output: Output,
) -> Result<(), Failure> {
    let again = |name: &str| format!("junto session wait {name}");
    let (_, summary) = formed(junto, forming, patience, offer, again, output).await?;
    output.result(&describe(&summary), || {
        format!(
            "{}\n\nCompare the safety code with the others, by voice or in person; then\n  junto session verify {} --code '…'",
            describe_text(&summary),
            summary.name
        )
    })
}

/// Shows the lobby until all have joined; meanwhile others get the link by the code, if there is one. `again` is the command
/// that goes on waiting for the session of that name.
pub(crate) async fn formed(
    junto: &Junto,
    forming: Forming,
    patience: Duration,
    mut offer: Option<Offer>,
    again: impl Fn(&str) -> String,
    output: Output,
) -> Result<(Session, Summary), Failure> {
    let summary = forming.summary().await.map_err(session_failure)?;
    let again = again(&summary.name);
    let session = tokio::select! {
        session = Box::pin(joined(junto, forming, patience, &again, output)) => session,
        failure = Box::pin(code::betrayed(offer.as_mut(), output)) => {
            Err(failure.by(format_args!("`{again}` goes on, and others join by the link")))
        }
    };
    if let Some(offer) = offer {
        offer.close().await;
    }
    let session = session?;
    junto.settle(SETTLE).await?;
    let summary = junto.sessions.find(&session.id().to_string()).await;
    Ok((session, summary.map_err(session_failure)?))
}

async fn joined(
    junto: &Junto,
    forming: Forming,
    patience: Duration,
    again: &str,
    output: Output,
) -> Result<Session, Failure> {
    junto.uses(forming.local()).await?;
    let summary = forming.summary().await.map_err(session_failure)?;
    // As it was before the session: forming makes keys known.
    let known = junto.sessions.known_keys().await.map_err(session_failure)?;
    let progress = output.progress(lobby(&summary));
    let mut met_nobody = summary.connected < 2;
    let session = {
        let formed = forming.formed(patience);
        tokio::pin!(formed);
        let mut before = summary;
        loop {
            tokio::select! {
                result = &mut formed => break result,
                changed = forming.changed(&before) => {
                    let now = changed.map_err(session_failure)?;
                    for line in news(&before, &now, &known) {
                        output.say(line);
                    }
                    before = now;
                    met_nobody &= before.connected < 2;
                    progress.step(lobby(&before));
                }
            }
        }
    };
    progress.done();
    match session {
        Ok(session) => Ok(session),
        Err(error) => {
            let summary = forming.summary().await.map_err(session_failure)?;
            Err(explain(junto, met_nobody, &summary, error, again))
        }
    }
}

/// What whoever waits has to know of these changes: who came, and who was turned away.
fn news(before: &Summary, now: &Summary, known: &KnownKeys) -> Vec<String> {
    let mut lines = Vec::new();
    let here = |joiner: &&Joiner| joiner.connected && now.stage == Stage::Meeting;
    for joiner in now.joiners.iter().filter(here) {
        let was_here = |it: &Joiner| it.number == joiner.number && it.connected;
        if !before.joiners.iter().any(was_here) {
            let key = joiner.profile.as_ref();
            lines.push(format!(
                "joined: {}{}",
                named(joiner.name.as_str()),
                standing(now, joiner.name.as_str(), key, known)
            ));
        }
    }
    // The list keeps the last few, the newest behind.
    let new = now
        .strangers
        .iter()
        .filter(|it| !before.strangers.contains(it));
    for stranger in new {
        lines.push(format!(
            "turned away: {}, whose profile key is not pinned: {}\n\
             If that is one of you, end this, list the key, and open the session again.",
            named(stranger.name.as_str()),
            hex::encode(stranger.key.as_bytes())
        ));
    }
    if let (None, Some(roster)) = (&before.roster, &now.roster) {
        for (index, entry) in roster.iter().filter(|(index, _)| now.me != Some(*index)) {
            let key = entry.profile.as_ref().map(|profile| &profile.key);
            lines.push(format!(
                "party {index}: {}{}",
                named(entry.name.as_str()),
                standing(now, entry.name.as_str(), key, known)
            ));
        }
    }
    lines
}

/// What a party calls itself.
fn named(name: &str) -> String {
    match name {
        "" => "somebody without a name".to_owned(),
        name => printable(name),
    }
}

/// What the profile key of a party is to us, as something that follows its name.
fn standing(
    summary: &Summary,
    name: &str,
    key: Option<&VerifyingKey>,
    known: &KnownKeys,
) -> String {
    let Some(key) = key else {
        return String::new();
    };
    let what = match (summary.policy, known.key(name)) {
        (Policy::Pinned, _) if summary.admits(key, known) => "pinned",
        (Policy::Pinned, _) => "NOT PINNED",
        (_, Some(before)) if before == key => "known from before",
        (_, Some(_)) => "NOT THE KEY of that name before",
        (_, None) => "first seen",
    };
    format!(", profile key {} ({what})", fingerprint(key))
}

/// Says more about why a session did not form. `met_nobody`: no other party ever answered.
fn explain(
    junto: &Junto,
    met_nobody: bool,
    summary: &Summary,
    error: SessionError,
    again: &str,
) -> Failure {
    if matches!(error, SessionError::Refused(Refusal::NotPinned)) {
        return session_failure(error).help(
            "give the host this profile's key, as `junto profile key` prints it, and ask for a new session",
        );
    }
    if let SessionError::Peer(blame) = &error
        && let Fault::Identity(IdentityFault::NotPinned { party }) = blame.fault
        && let Some(entry) = summary
            .roster
            .as_ref()
            .and_then(|roster| roster.entry(party))
        && let Some(profile) = &entry.profile
    {
        let key = hex::encode(profile.key.as_bytes());
        let mut failure = session_failure(error);
        failure.message = format!("{}: {key}", failure.message);
        return failure.help("ask that party whether this is its key; if it is one of you, list the key, and form the session again");
    }
    if let SessionError::Peer(blame) = &error
        && (blame.culprit, &blame.fault) == (Culprit::Host, &Fault::Unreachable)
        && met_nobody
    {
        return Failure::refused(
            "the link leads nowhere any more: its session is complete or closed",
        )
        .help("ask the host for a new session");
    }
    let incomplete = matches!(error, SessionError::Incomplete { .. });
    let mut failure = session_failure(error);
    if !incomplete {
        return match summary.stage {
            Stage::Failed => failure.help(format_args!(
                "this session is over for all: `junto session close {}` frees its name, and the host opens a new one",
                summary.name
            )),
            _ => failure,
        };
    }
    if let Some(trouble) = junto.sessions.carrier_trouble() {
        failure.message = format!("{}; last trouble: {}", failure.message, trouble.text);
    }
    failure.help(format_args!(
        "the session is kept: `{again}` goes on waiting"
    ))
}

fn lobby(summary: &Summary) -> String {
    let (connected, parties) = (summary.connected, summary.parties);
    match summary.stage {
        Stage::Preparing => "asking the relay for a queue".to_owned(),
        Stage::Meeting => {
            let asked = summary
                .joiners
                .iter()
                .filter(|joiner| !joiner.connected)
                .count();
            let asked = match asked {
                0 => String::new(),
                asked => format!(", {asked} asked and did not come yet"),
            };
            format!("waiting for parties: {connected} of {parties} are here{asked}")
        }
        Stage::Binding => format!(
            "all {parties} are known; connecting each two of them: {connected} of {parties}"
        ),
        Stage::Formed => "formed".to_owned(),
        Stage::Failed => "failed".to_owned(),
        Stage::Closing => "closing".to_owned(),
    }
}
