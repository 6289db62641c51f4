//! `junto session`: form and inspect sessions.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use junto_session::carrier::agent::agents_lines;
use junto_session::{
    Culprit, DisplayName, Fault, Forming, Params, PartyCount, Persona, Policy, Session,
    SessionError, SessionLink, Stage, Summary, Used,
};
use serde_json::{Value, json};

use crate::args::{Global, Seat, SessionCommand};
use crate::bls::KeyFile;
use crate::failure::{Exit, Failure};
use crate::input;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::{Output, qr_code};
use crate::profile;
use crate::relay::parse_address;
use crate::way::{self, Views};

/// Longest link read from standard input, in bytes.
const LINK_MAX: usize = 8 * 1024;

/// Runs one of the commands.
pub(crate) async fn run(
    command: SessionCommand,
    global: &Global,
    output: Output,
) -> Result<(), Failure> {
    match command {
        SessionCommand::New {
            parties,
            name,
            seat,
            policy,
            wait,
        } => {
            Junto::with(global, async |junto| {
                let patience = wait.patience();
                let (forming, link) =
                    open(junto, parties, name, policy, &seat, patience, output).await?;
                output.result(&link.json(), || link.text.clone())?;
                link.show("They run: junto session join 'LINK'", output);
                wait_formed(junto, forming, patience, output).await
            })
            .await
        }
        SessionCommand::Join { link, seat, wait } => {
            let link = read_link(&link)?;
            Junto::with(global, async |junto| {
                let forming = join(junto, link, &seat, output).await?;
                wait_formed(junto, forming, wait.patience(), output).await
            })
            .await
        }
        SessionCommand::Wait { session, wait } => {
            Junto::with(global, async |junto| {
                let forming = junto
                    .sessions
                    .resume(&session)
                    .await
                    .map_err(session_failure)?;
                wait_formed(junto, forming, wait.patience(), output).await
            })
            .await
        }
        SessionCommand::List => Junto::with(global, async |junto| list(junto, output).await).await,
        SessionCommand::Show { session } => {
            Junto::with(global, async |junto| show(junto, &session, output).await).await
        }
        SessionCommand::Drop { session, joiner } => {
            Junto::with(global, async |junto| {
                turn_away(junto, &session, joiner, output).await
            })
            .await
        }
        SessionCommand::Verify { session, code } => {
            Junto::with(global, async |junto| {
                verify(junto, &session, &code, output).await
            })
            .await
        }
        SessionCommand::Close { session, force } => {
            Junto::with(global, async |junto| {
                close(junto, &session, force, output).await
            })
            .await
        }
    }
}

async fn show(junto: &Junto, session: &str, output: Output) -> Result<(), Failure> {
    let summary = junto
        .sessions
        .find(session)
        .await
        .map_err(session_failure)?;
    let mut used = Used::default();
    let noted = junto.sessions.note(summary.local, &mut used).await;
    noted.map_err(session_failure)?;
    let relays = Views::of(junto.routes(agents_lines(used.lines())).await?);
    let mut report = describe(&summary);
    report["relays"] = relays.json();
    output.result(&report, || {
        let mut lines = vec![describe_text(&summary)];
        lines.extend(relays.text(junto.socks.is_some()));
        lines.join("\n")
    })
}

async fn turn_away(
    junto: &Junto,
    session: &str,
    joiner: u8,
    output: Output,
) -> Result<(), Failure> {
    let found = junto.sessions.find(session).await;
    junto.uses(found.map_err(session_failure)?.local).await?;
    junto
        .sessions
        .turn_away(session, joiner)
        .await
        .map_err(|error| {
            session_failure(error).help("`junto session show NAME` lists who asked to join")
        })?;
    junto.settle(SETTLE).await?;
    let summary = junto
        .sessions
        .find(session)
        .await
        .map_err(session_failure)?;
    let over = summary.stage == Stage::Failed;
    let result =
        json!({ "session": session, "dropped": joiner, "state": stage_name(summary.stage) });
    output.result(&result, || {
        if over {
            format!(
                "The parties were fixed already, and nobody can take that one's place: the session has ended for all, and \
                 they hear why. `junto session close {session}` frees the name for another one."
            )
        } else {
            format!("The place is free again; `junto session wait {session}` goes on waiting.")
        }
    })
}

async fn close(junto: &Junto, session: &str, force: bool, output: Output) -> Result<(), Failure> {
    let found = junto.sessions.find(session).await;
    let found = found.map_err(session_failure)?;
    let keys = match found.id {
        Some(id) if !force => KeyFile::of_session(&junto.profile, &id.to_string())?,
        _ => Vec::new(),
    };
    if !keys.is_empty() {
        return Err(Failure::refused(format_args!(
            "the session is needed to sign with: {}",
            keys.join(", ")
        ))
        .help("take the keys to another session first (`junto bls reshare`), or give up this party's shares with `--force`"));
    }
    junto.uses(found.local).await?;
    junto
        .sessions
        .close(session)
        .await
        .map_err(session_failure)?;
    junto.settle(SETTLE).await?;
    output.result(&json!({ "closed": session }), || {
        format!("Session {session} is closed.")
    })
}

pub(crate) fn no_relay() -> Failure {
    Failure::usage("no relay to receive on").help(
        "name one with `--relay smp://FINGERPRINT@host`, or list it in the profile's profile.toml; \
         to run your own: `junto relay init --dir my-relay --host HOST`, then `junto relay start --dir my-relay`",
    )
}

/// The relay's address, if it is one that can be reached.
fn check_relay(junto: &Junto, text: String) -> Result<String, Failure> {
    way::check_onion(&parse_address(&text)?, junto.socks.as_ref())?;
    Ok(text)
}

pub(crate) fn read_link(argument: &str) -> Result<SessionLink, Failure> {
    let read = if argument == "-" {
        let bytes = input::read_stdin()?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::usage("the link on standard input is not text"))?;
        text.trim().to_owned()
    } else {
        argument.trim().to_owned()
    };
    if read.len() > LINK_MAX {
        return Err(Failure::usage("that is too long for a session link"));
    }
    read.parse().map_err(|error| {
        Failure::usage(format_args!("that is no session link: {error}"))
            .help("it begins with `junto:`; copy all of it, in quotes, or pass it through `junto session join -`")
    })
}

fn to_policy(policy: profile::Policy) -> Policy {
    match policy {
        profile::Policy::Anonymous => Policy::Anonymous,
        profile::Policy::Tofu => Policy::Tofu,
        profile::Policy::Pinned => Policy::Pinned,
    }
}

async fn persona(
    junto: &Junto,
    policy: Policy,
    nickname: &str,
    relay: String,
) -> Result<Persona, Failure> {
    let display_name = DisplayName::new(nickname)
        .map_err(|error| Failure::usage(format_args!("--as: {error}")))?;
    let profile = match policy {
        Policy::Anonymous => None,
        Policy::Tofu | Policy::Pinned => Some(Arc::new(junto.identity()?)),
    };
    for (position, pinned) in junto.profile.config.pinned.iter().enumerate() {
        let key = pinned_key(pinned)?;
        junto
            .sessions
            .trust(&format!("pinned {}", position + 1), key)
            .await
            .map_err(session_failure)?;
    }
    Ok(Persona {
        display_name,
        profile,
        relay,
    })
}

fn pinned_key(text: &str) -> Result<junto_crypto::ed25519::VerifyingKey, Failure> {
    let wrong = || {
        Failure::usage(format_args!(
            "profile.toml: `{text}` in `pinned` is not a profile key (64 hexadecimal digits)"
        ))
    };
    let bytes: [u8; 32] = hex::decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(wrong)?;
    junto_crypto::ed25519::VerifyingKey::from_bytes(&bytes).map_err(|_| wrong())
}

/// The link to a new session.
pub(crate) struct Invitation {
    session: String,
    text: String,
}

impl Invitation {
    pub(crate) fn json(&self) -> Value {
        json!({ "session": self.session, "link": self.text })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// For a person at a terminal, who is to hand it on.
    pub(crate) fn show(&self, how: &str, output: Output) {
        if !output.json && std::io::stderr().is_terminal() {
            if let Some(code) = qr_code(&self.text) {
                output.say(code);
            }
            output.say(format_args!("Give this link to the others. {how}"));
        }
    }
}

/// Opens a session: its link, and what forms.
pub(crate) async fn open(
    junto: &Junto,
    parties: u16,
    name: String,
    policy: Option<profile::Policy>,
    seat: &Seat,
    patience: Duration,
    output: Output,
) -> Result<(Forming, Invitation), Failure> {
    let parties = PartyCount::new(usize::from(parties))
        .map_err(|error| Failure::usage(format_args!("the number of parties: {error}")))?;
    let policy = to_policy(policy.unwrap_or(junto.profile.config.policy));
    let relay = own_relay(junto, seat).ok_or_else(no_relay)?;
    let relay = check_relay(junto, relay)?;
    let taken = junto.sessions.list().await.map_err(session_failure)?;
    if taken.iter().any(|summary| summary.name == name) {
        return Err(Failure::usage(format_args!(
            "there is a session `{name}` in this profile"
        ))
        .help("choose another `--name`, go on with that one by `junto session wait`, or close it by `junto session close`"));
    }
    let persona = persona(junto, policy, &seat.nickname, relay).await?;
    let params = Params {
        name: name.clone(),
        parties,
        policy,
    };
    let progress = output.progress("asking the relay for a queue");
    let made = junto.sessions.new_session(params, persona, patience).await;
    let (forming, link) = made.map_err(session_failure)?;
    progress.done();
    let text = link.to_string();
    Ok((
        forming,
        Invitation {
            session: name,
            text,
        },
    ))
}

/// The relay that this party names to receive on.
fn own_relay(junto: &Junto, seat: &Seat) -> Option<String> {
    let listed = || junto.profile.config.relays.first().cloned();
    seat.relay.clone().or_else(listed)
}

/// Joins by a link, or goes on with what joined by it before.
pub(crate) async fn join(
    junto: &Junto,
    link: SessionLink,
    seat: &Seat,
    output: Output,
) -> Result<Forming, Failure> {
    let relay = match own_relay(junto, seat) {
        Some(relay) => check_relay(junto, relay)?,
        None => {
            check_relay(junto, link.relay().to_owned())?;
            String::new()
        }
    };
    let formation = link.formation();
    let known = junto.sessions.list().await.map_err(session_failure)?;
    let mut tries = known
        .iter()
        .filter(|summary| summary.formation == formation);
    let joined = tries.find(|summary| summary.stage != Stage::Closing);
    if let Some(joined) = joined {
        let local = joined.local.to_string();
        let Some(failure) = &joined.failure else {
            // The same command again, after a crash say: one party takes one place.
            let forming = junto.sessions.resume(&local).await;
            return forming.map_err(session_failure);
        };
        output.say(format_args!(
            "An earlier try at this link failed: {failure}. Asking again."
        ));
        junto.uses(joined.local).await?;
        let closed = junto.sessions.close(&local).await;
        closed.map_err(session_failure)?;
    }
    let persona = persona(junto, link.params().policy, &seat.nickname, relay).await?;
    let forming = junto.sessions.join(link, persona).await;
    forming.map_err(session_failure)
}

/// Shows the lobby until all have joined, then the session.
async fn wait_formed(
    junto: &Junto,
    forming: Forming,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let (_, summary) = formed(junto, forming, patience, output).await?;
    output.result(&describe(&summary), || {
        format!(
            "{}\n\nCompare the safety code with the others, by voice or in person; then\n  junto session verify {} --code '…'",
            describe_text(&summary),
            summary.name
        )
    })
}

/// Shows the lobby until all have joined.
pub(crate) async fn formed(
    junto: &Junto,
    forming: Forming,
    patience: Duration,
    output: Output,
) -> Result<(Session, Summary), Failure> {
    junto.uses(forming.local()).await?;
    let summary = forming.summary().await.map_err(session_failure)?;
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
                    before = changed.map_err(session_failure)?;
                    met_nobody &= before.connected < 2;
                    progress.step(lobby(&before));
                }
            }
        }
    };
    progress.done();
    let session: Session = session.map_err(|error| explain(junto, met_nobody, error))?;
    junto.settle(SETTLE).await?;
    let summary = junto.sessions.find(&session.id().to_string()).await;
    Ok((session, summary.map_err(session_failure)?))
}

/// Says more about why a session did not form. `met_nobody`: no other party ever answered.
fn explain(junto: &Junto, met_nobody: bool, error: SessionError) -> Failure {
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
    if let Some(trouble) = junto.sessions.carrier_trouble().filter(|_| incomplete) {
        failure.message = format!("{}; last trouble: {}", failure.message, trouble.text);
    }
    failure
}

fn lobby(summary: &Summary) -> String {
    let (connected, parties) = (summary.connected, summary.parties);
    match summary.stage {
        Stage::Preparing => "asking the relay for a queue".to_owned(),
        Stage::Meeting => format!("waiting for parties: {connected} of {parties} are here"),
        Stage::Binding => format!(
            "all {parties} are known; connecting each two of them: {connected} of {parties}"
        ),
        Stage::Formed => "formed".to_owned(),
        Stage::Failed => "failed".to_owned(),
        Stage::Closing => "closing".to_owned(),
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Preparing | Stage::Meeting => "waiting",
        Stage::Binding => "connecting",
        Stage::Formed => "formed",
        Stage::Failed => "failed",
        Stage::Closing => "closing",
    }
}

/// All sessions, for programs.
pub(crate) async fn list_json(junto: &Junto) -> Result<Value, Failure> {
    let summaries = summaries(junto).await?;
    let sessions: Vec<Value> = summaries.iter().map(describe).collect();
    Ok(json!({ "sessions": sessions }))
}

async fn summaries(junto: &Junto) -> Result<Vec<Summary>, Failure> {
    let mut summaries = junto.sessions.list().await.map_err(session_failure)?;
    summaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(summaries)
}

fn describe(summary: &Summary) -> Value {
    let parties: Vec<Value> = summary
        .roster
        .iter()
        .flat_map(|roster| roster.iter())
        .map(|(index, entry)| {
            json!({
                "index": index.as_usize(),
                "name": entry.name.as_str(),
                "key": hex::encode(entry.key.as_bytes()),
                "profile_key": entry.profile.as_ref().map(|profile| hex::encode(profile.key.as_bytes())),
            })
        })
        .collect();
    let joiners: Vec<Value> = summary
        .joiners
        .iter()
        .map(|joiner| {
            json!({
                "number": joiner.number,
                "name": joiner.name.as_str(),
                "connected": joiner.connected,
            })
        })
        .collect();
    json!({
        "session": summary.name,
        "id": summary.id.map(|id| id.to_string()),
        "state": stage_name(summary.stage),
        "parties": summary.parties,
        "connected": summary.connected,
        "me": summary.me.map(|me| me.as_usize()),
        "safety_code": summary.safety_code.map(|code| code.to_string()),
        "verified": summary.verified,
        "joiners": joiners,
        "failure": summary.failure,
        "policy": format!("{:?}", summary.policy).to_lowercase(),
        "link": summary.link.as_ref().map(ToString::to_string),
        "roster": parties,
    })
}

fn describe_text(summary: &Summary) -> String {
    let mut lines = vec![
        format!("session      {}", summary.name),
        format!(
            "state        {}, {} of {} parties",
            stage_name(summary.stage),
            summary.connected,
            summary.parties
        ),
    ];
    for joiner in &summary.joiners {
        let state = if joiner.connected {
            "is here"
        } else {
            "asked, and has not come yet"
        };
        lines.push(format!(
            "joiner {:<5} {state}  {}",
            joiner.number,
            joiner.name.as_str()
        ));
    }
    if let Some(failure) = &summary.failure {
        lines.push(format!("failed       {failure}"));
    }
    if let Some(id) = summary.id {
        lines.push(format!("id           {id}"));
    }
    for (index, entry) in summary.roster.iter().flat_map(|roster| roster.iter()) {
        let own = if summary.me == Some(index) {
            "  (you)"
        } else {
            ""
        };
        let name = entry.name.as_str();
        lines.push(format!(
            "party {index:<6} {}  {name}{own}",
            hex::encode(&entry.key.as_bytes()[..8])
        ));
    }
    if let Some(code) = summary.safety_code {
        let state = if summary.verified {
            "verified"
        } else {
            "not verified"
        };
        lines.push(format!("safety code  {code}  ({state})"));
    }
    if let Some(link) = &summary.link {
        lines.push(format!("link         {link}"));
    }
    lines.join("\n")
}

async fn list(junto: &Junto, output: Output) -> Result<(), Failure> {
    let summaries = summaries(junto).await?;
    let sessions: Vec<Value> = summaries.iter().map(describe).collect();
    output.result(&json!({ "sessions": sessions }), || {
        if summaries.is_empty() {
            return "No sessions yet. `junto session new --parties N` opens one.".to_owned();
        }
        let line = |summary: &Summary| {
            let id = summary.id.map(|id| id.to_string());
            format!(
                "{:<20} {:<10} {} of {} parties  {:.12}",
                summary.name,
                stage_name(summary.stage),
                summary.connected,
                summary.parties,
                id.unwrap_or_else(|| summary.local.to_string())
            )
        };
        summaries.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

async fn verify(junto: &Junto, name: &str, code: &str, output: Output) -> Result<(), Failure> {
    let summary = junto.sessions.find(name).await.map_err(session_failure)?;
    let own = summary.safety_code.ok_or_else(|| {
        Failure::failed("the session has not formed yet")
            .help("`junto session wait NAME` goes on waiting")
    })?;
    let digits = |text: &str| {
        text.chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
    };
    if digits(code) != digits(&own.to_string()) {
        return Err(Failure::new(Exit::Refused, "the code is NOT the one of this session: somebody may sit in between")
            .help("read it again; if it stays different, close the session and use nothing that it gave you"));
    }
    junto
        .sessions
        .verify(name, true)
        .await
        .map_err(session_failure)?;
    let verified = json!({ "session": summary.name, "verified": true });
    output.result(&verified, || {
        "Verified: nobody sits between you and the others.".to_owned()
    })
}
