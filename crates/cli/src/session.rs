//! `junto session`: form and inspect sessions.

mod paths;
pub(crate) mod relays;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use junto_code::Code;
use junto_crypto::ed25519::VerifyingKey;
use junto_session::{
    DisplayName, Forming, LocalId, Params, PartyCount, PartyIndex, Persona, Policy, SessionLink,
    Stage, Summary,
};
use junto_smp::address::ServerAddress;
use serde_json::{Value, json};

use crate::args::{CodeRelay, Global, OfferCode, Seat, SessionCommand};
use crate::bls::KeyFile;
use crate::code::{self, Offer};
use crate::failure::{Exit, Failure};
use crate::input;
use crate::lan;
use crate::lobby;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::{Output, qr_code};
use crate::parties;
use crate::profile;
use crate::relay::{self, parse_address};
use crate::way::{self, Views};

/// How long relays may take where others are told or asked, and nothing waits for it.
const GLANCE: Duration = Duration::from_secs(3);
/// How long `junto session show` looks for what the others said, if it may matter.
const MOMENT: Duration = Duration::from_secs(1);

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
            code,
            wait,
        } => {
            code.check()?;
            Junto::with(global, async |junto| {
                let patience = wait.patience();
                let more = more_relays(junto, &seat)?;
                let (forming, link) =
                    open(junto, parties, name, policy, &seat, patience, output).await?;
                let offer = link.offer(junto, &code, output).await;
                output.result(&link.json(offer.as_ref()), || link.shown(offer.as_ref()))?;
                link.show(offer.as_ref(), "junto session join {}", output);
                let local = forming.local();
                lobby::wait(junto, forming, patience, offer, output).await?;
                relays::add_all(junto, local, &more, output).await
            })
            .await
        }
        SessionCommand::Join {
            link,
            code,
            seat,
            wait,
        } => {
            let way_in = match link {
                Some(link) => WayIn::read(&link)?,
                None => WayIn::ask(output).await?,
            };
            Junto::with(global, async |junto| {
                let more = more_relays(junto, &seat)?;
                let link = way_in.link(junto, &code, &seat, output).await?;
                let forming = join(junto, link, &seat, output).await?;
                let local = forming.local();
                lobby::wait(junto, forming, wait.patience(), None, output).await?;
                relays::add_all(junto, local, &more, output).await
            })
            .await
        }
        SessionCommand::Wait {
            session,
            relays,
            code,
            wait,
        } => {
            code.check()?;
            Junto::with(global, async |junto| {
                let more = addresses(junto, &relays)?;
                let found = junto.sessions.find(&session).await;
                let local = found.map_err(session_failure)?.local;
                go_on(junto, &session, &code, wait.patience(), output).await?;
                relays::add_all(junto, local, &more, output).await
            })
            .await
        }
        SessionCommand::AddRelay {
            session,
            relay,
            wait,
        } => {
            Junto::with(global, async |junto| {
                let relay = parse_address(&check_relay(junto, relay)?)?;
                junto.session(&session, wait.patience()).await?;
                let found = junto.sessions.find(&session).await;
                let local = found.map_err(session_failure)?.local;
                relays::add(junto, &session, local, &relay, wait.patience(), output).await
            })
            .await
        }
        SessionCommand::Near => {
            let near = lan::look().await?;
            output.result(&lan::json_of(&near), || lan::text_of(&near))
        }
        SessionCommand::RemoveRelay { session, relay } => {
            Junto::with(global, async |junto| {
                let relay = parse_address(&relay)?;
                let found = junto.sessions.find(&session).await;
                let local = found.map_err(session_failure)?.local;
                relays::remove(junto, &session, local, &relay, output).await
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
    let summary = newest(junto, summary).await?;
    let relays = Views::of(relays::routes(junto, summary.local).await?);
    let queues = relays::queues(junto, summary.local).await?;
    let mut report = describe(&summary);
    report["relays"] = relays.json();
    report["queues"] = queues.json();
    report["paths"] = paths::json();
    output.result(&report, || {
        let mut lines = vec![describe_text(&summary)];
        lines.extend(queues.text());
        lines.extend(relays.text(junto.socks.is_some()));
        lines.extend(paths::text());
        lines.join("\n")
    })
}

/// The same session after a moment, if its user may wonder who else has verified it: the relays may know.
async fn newest(junto: &Junto, summary: Summary) -> Result<Summary, Failure> {
    let all = summary.verified_by.len() + 1 == summary.parties;
    if summary.stage != Stage::Formed || !summary.verified || all {
        return Ok(summary);
    }
    let resumed = junto.sessions.resume(&summary.local.to_string()).await;
    let forming = resumed.map_err(session_failure)?;
    match tokio::time::timeout(MOMENT, forming.changed(&summary)).await {
        Ok(changed) => changed.map_err(session_failure),
        Err(_) => Ok(summary),
    }
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

/// Goes on with a session that forms, on request with a code for those who are missing.
async fn go_on(
    junto: &Junto,
    session: &str,
    code: &OfferCode,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let resumed = junto.sessions.resume(session).await;
    let forming = resumed.map_err(session_failure)?;
    let summary = forming.summary().await.map_err(session_failure)?;
    let missing = summary.parties.saturating_sub(summary.connected);
    let offer = match &summary.link {
        Some(link) if code.code && summary.stage == Stage::Meeting && missing > 0 => {
            let text = link.to_string();
            let relay = code.relay.code_relay.as_deref().unwrap_or(link.relay());
            let mut offer = Offer::make(junto.visitor(), relay, text, missing).await?;
            offer.announce(code, output);
            let made = json!({ "session": summary.name, "code": offer.text().as_str() });
            output.result(&made, || offer.text().to_string())?;
            offer.show("junto session join {}", output);
            Some(offer)
        }
        Some(_) | None if code.code => {
            return Err(Failure::usage(
                "only the host of a session that waits for parties can give a code for it",
            ));
        }
        Some(_) | None => None,
    };
    lobby::wait(junto, forming, patience, offer, output).await
}

/// What a user gives to join: a link, or a code for one.
pub(crate) enum WayIn {
    Link(Box<SessionLink>),
    Code(Code),
    /// A code, and the relay that the local network names for it.
    Near(Code, String),
}

impl WayIn {
    /// Reads it, `-` from standard input.
    pub(crate) fn read(argument: &str) -> Result<Self, Failure> {
        let read = match argument {
            "-" => input::read_stdin_line(LINK_MAX)?,
            given => given.to_owned(),
        };
        match code::read(&read) {
            Some(code) => code.map(Self::Code),
            None => parse_link(&read).map(|link| Self::Link(Box::new(link))),
        }
    }

    /// Shows which codes can be used near here, and asks for one.
    async fn ask(output: Output) -> Result<Self, Failure> {
        let progress = output.progress("looking for codes in the local network");
        let near = lan::look().await?;
        progress.done();
        if near.is_empty() {
            return Err(Failure::new(Exit::Unreachable, lan::text_of(&near))
                .help("the host gives a code with `--code --lan`, and its command has to run, in the same network"));
        }
        match output.json {
            true => output.result(&lan::json_of(&near), String::new)?,
            false => output.say(lan::text_of(&near)),
        }
        output.say("The code that you were told, with its number:");
        let code = input::read_stdin_line(LINK_MAX)?;
        let code = code::read(&code)
            .unwrap_or_else(|| Err(Failure::usage("that is no code: it begins with a number")))?;
        let relay = lan::relay_of(code.number(), &near)?;
        Ok(Self::Near(code, relay))
    }

    /// The link.
    pub(crate) async fn link(
        self,
        junto: &Junto,
        relay: &CodeRelay,
        seat: &Seat,
        output: Output,
    ) -> Result<SessionLink, Failure> {
        let (code, relay) = match self {
            Self::Link(link) => return Ok(*link),
            Self::Near(code, relay) => (code, Some(relay)),
            Self::Code(code) => {
                let own = own_relay(junto, seat);
                let relay = code::relay_for(&code, relay, own, output).await?;
                (code, relay)
            }
        };
        let link = code::redeem(junto.visitor(), relay.as_deref(), &code, output).await?;
        if !link.starts_with("junto:") {
            return Err(
                Failure::usage("the code is for a contact, not for a session")
                    .help("ask for another one, and use it with `junto connect CODE`"),
            );
        }
        parse_link(&link)
    }
}

pub(crate) fn parse_link(text: &str) -> Result<SessionLink, Failure> {
    let text = text.trim();
    if text.len() > LINK_MAX {
        return Err(Failure::usage("that is too long for a session link"));
    }
    text.parse().map_err(|error| {
        let failure = Failure::usage(format_args!("that is no session link: {error}"));
        if text.starts_with("junto:device/") {
            failure.help("it links a device of one's own: `junto device add LINK`")
        } else if text.starts_with("simplex:") || text.starts_with("https:") {
            failure.help("it is for a contact: `junto connect LINK`")
        } else {
            failure.help("a link begins with `junto:session/`: copy all of it, in quotes, or give `-` and paste it; a code looks like 7-crossover-clockwork")
        }
    })
}

fn to_policy(policy: profile::Policy) -> Policy {
    match policy {
        profile::Policy::Anonymous => Policy::Anonymous,
        profile::Policy::Tofu => Policy::Tofu,
        profile::Policy::Pinned => Policy::Pinned,
    }
}

fn persona(junto: &Junto, policy: Policy, seat: &Seat, relay: String) -> Result<Persona, Failure> {
    let display_name = DisplayName::new(&seat.nickname)
        .map_err(|error| Failure::usage(format_args!("--as: {error}")))?;
    let profile = match policy {
        Policy::Anonymous => None,
        Policy::Tofu | Policy::Pinned => Some(Arc::new(junto.profile.identity()?)),
    };
    let pinned = match (policy, &seat.parties_file) {
        (Policy::Pinned, file) => parties::read(&junto.profile, file.as_deref())?,
        (Policy::Anonymous | Policy::Tofu, None) => Vec::new(),
        (Policy::Anonymous | Policy::Tofu, Some(_)) => {
            return Err(Failure::refused(
                "the session does not ask for pinned parties, so nobody in it can be told by the file",
            )
            .help("the host opens it with `--parties-file FILE` or `--policy pinned`"));
        }
    };
    Ok(Persona {
        display_name,
        profile,
        relay,
        pinned,
    })
}

/// The link to a new session.
pub(crate) struct Invitation {
    session: String,
    text: String,
    relay: String,
    /// How many others there are to be.
    others: usize,
}

impl Invitation {
    /// A code for the link, if one is asked for.
    pub(crate) async fn offer(
        &self,
        junto: &Junto,
        code: &OfferCode,
        output: Output,
    ) -> Option<Offer> {
        if !code.code {
            return None;
        }
        let relay = code.relay.code_relay.as_deref().unwrap_or(&self.relay);
        let (visitor, link) = (junto.visitor(), self.text.clone());
        Offer::make_or_say(visitor, relay, link, self.others, code, output).await
    }

    pub(crate) fn json(&self, offer: Option<&Offer>) -> Value {
        let mut value = json!({ "session": self.session, "link": self.text });
        if let Some(offer) = offer {
            value["code"] = json!(offer.text().as_str());
        }
        value
    }

    /// What is handed on: the code, or the link where there is none.
    pub(crate) fn shown(&self, offer: Option<&Offer>) -> String {
        offer.map_or_else(|| self.text.clone(), |offer| offer.text().to_string())
    }

    /// For a person at a terminal, who is to hand it on; `command`: what the others run, `{}` standing for it.
    pub(crate) fn show(&self, offer: Option<&Offer>, command: &str, output: Output) {
        if let Some(offer) = offer {
            offer.show(command, output);
        } else if !output.json && std::io::stderr().is_terminal() {
            if let Some(code) = qr_code(&self.text) {
                output.say(code);
            }
            output.say(format_args!(
                "Give this link to the others. They run: {}",
                command.replace("{}", "'LINK'")
            ));
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
    let policy = match (&seat.parties_file, policy) {
        (Some(_), None) => Policy::Pinned,
        (_, policy) => to_policy(policy.unwrap_or(junto.profile.config.policy)),
    };
    let relay = own_relay(junto, seat).ok_or_else(no_relay)?;
    let relay = check_relay(junto, relay)?;
    let taken = junto.sessions.list().await.map_err(session_failure)?;
    if taken.iter().any(|summary| summary.name == name) {
        return Err(Failure::usage(format_args!(
            "there is a session `{name}` in this profile"
        ))
        .help("choose another `--name`, go on with that one by `junto session wait`, or close it by `junto session close`"));
    }
    let address = parse_address(&relay)?;
    let persona = persona(junto, policy, seat, relay)?;
    if policy == Policy::Pinned && persona.pinned.len() + 1 < parties.as_usize() {
        return Err(Failure::usage(format_args!(
            "{} others are pinned, too few for a session of {parties}",
            persona.pinned.len()
        )));
    }
    let params = Params {
        name: name.clone(),
        parties,
        policy,
    };
    let progress = output.progress("asking the relay for a queue");
    let made = tokio::select! {
        made = junto.sessions.new_session(params, persona, patience) => made.map_err(session_failure),
        failure = relay::in_vain(&address, junto.socks.clone()) => {
            // Nobody has heard of it.
            let _ = junto.sessions.close(&name).await;
            Err(failure)
        }
    };
    let (forming, link) = made?;
    progress.done();
    let invitation = Invitation {
        session: name,
        text: link.to_string(),
        relay: link.relay().to_owned(),
        others: parties.as_usize() - 1,
    };
    Ok((forming, invitation))
}

/// The relay that this party names to receive on.
fn own_relay(junto: &Junto, seat: &Seat) -> Option<String> {
    let listed = || junto.profile.config.relays.first().cloned();
    seat.relays.first().cloned().or_else(listed)
}

/// Receives on the relays that this party names besides the first, now that the session has formed.
pub(crate) async fn add_relays(
    junto: &Junto,
    session: LocalId,
    seat: &Seat,
    output: Output,
) -> Result<(), Failure> {
    relays::add_all(junto, session, &more_relays(junto, seat)?, output).await
}

/// The relays that it names to receive on as well.
fn more_relays(junto: &Junto, seat: &Seat) -> Result<Vec<ServerAddress>, Failure> {
    let all = addresses(junto, &seat.relays)?;
    Ok(all.into_iter().skip(1).collect())
}

/// Relays to receive on besides the first.
fn addresses(junto: &Junto, named: &[String]) -> Result<Vec<ServerAddress>, Failure> {
    if named.len() > junto_agent::QUEUES_MAX {
        return Err(Failure::usage("a party receives on four relays at most"));
    }
    let read = |text: &String| parse_address(&check_relay(junto, text.clone())?);
    let addresses = named.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    match relays::repeated(&addresses) {
        Some(twice) => Err(Failure::usage(format_args!("{twice} is named twice"))
            .help("a relay that dies takes all queues on it along: name another one")),
        None => Ok(addresses),
    }
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
            still_listed(junto, joined, seat)?;
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
    let persona = persona(junto, link.params().policy, seat, relay)?;
    let forming = junto.sessions.join(link, persona).await;
    forming.map_err(session_failure)
}

/// Whether a session that was joined before takes just those whom the file lists that is named now.
fn still_listed(junto: &Junto, joined: &Summary, seat: &Seat) -> Result<(), Failure> {
    if seat.parties_file.is_none() {
        return Ok(());
    }
    let listed = persona(junto, joined.policy, seat, String::new())?.pinned;
    let same =
        listed.len() == joined.pinned.len() && listed.iter().all(|key| joined.pinned.contains(key));
    if same {
        return Ok(());
    }
    Err(Failure::refused(
        "this link was joined before with other listed parties than the file has, and those count",
    )
    .help(format_args!(
        "to ask again with the file: `junto session close {}`, then join once more",
        joined.name
    )))
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

/// Whether a party compared the safety code: we, or one that told us so.
fn has_verified(summary: &Summary, party: PartyIndex) -> bool {
    if summary.me == Some(party) {
        summary.verified
    } else {
        summary.verified_by.contains(party)
    }
}

/// The beginning of a key, for people: 8 bytes.
pub(crate) fn fingerprint(key: &VerifyingKey) -> String {
    hex::encode(&key.as_bytes()[..8])
}

pub(crate) fn describe(summary: &Summary) -> Value {
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
                // What it says of itself; what we checked ourselves is `verified` of the session.
                "says_verified": has_verified(summary, index),
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
                "profile_key": joiner.profile.map(|key| hex::encode(key.as_bytes())),
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

pub(crate) fn describe_text(summary: &Summary) -> String {
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
        let own = match (summary.me == Some(index), has_verified(summary, index)) {
            (true, _) => "  (you)",
            (false, true) => "  (says that it verified the code)",
            (false, false) => "",
        };
        // A name is what a party calls itself; its profile key is what it is known by.
        let profile = entry.profile.as_ref().map(|profile| &profile.key);
        let profile = profile.map_or_else(String::new, |key| {
            format!("  profile key {}", fingerprint(key))
        });
        let name = entry.name.as_str();
        lines.push(format!(
            "party {index:<6} {}  {name}{profile}{own}",
            fingerprint(&entry.key)
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
            .help(format_args!("`junto session wait {name}` goes on waiting"))
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
    junto.uses(summary.local).await?;
    if junto.settle(GLANCE).await.is_err() {
        output.say(
            "The others are told when the relays are back and a command of this profile runs.",
        );
    }
    let verified = json!({ "session": summary.name, "verified": true });
    output.result(&verified, || {
        "Verified: nobody sits between you and the others. They are told that you compared it."
            .to_owned()
    })
}
