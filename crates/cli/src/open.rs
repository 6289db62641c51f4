//! Opening a profile with its agent and its sessions, and ending it so that nothing said is left behind.

use core::convert::Infallible;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use junto_agent::client::SocksServer;
use junto_agent::store::StoreError;
use junto_agent::{Agent, AgentConfig, AgentError, Events, Lines, Reach, RelayPath, Resync, Route};
use junto_session::carrier::TroubleKind;
use junto_session::carrier::agent::agents_lines;
use junto_session::{
    Blame, Entry, Fault, LocalError, LocalId, Members, Misuse, PartyIndex, Session, SessionError,
    Sessions, Used, Warning,
};
use tokio::sync::Mutex;

use crate::args::Global;
use crate::contact::plight;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::profile::{Profile, Succession};
use crate::talk::printable;
use crate::way;

/// How long a process that is done waits for the relays to take what it said.
pub(crate) const SETTLE: Duration = Duration::from_secs(20);
/// The same where nobody waits for it: acknowledgements, and why a command failed.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often a command looks whether its relays are there, and how often in a row one may not be before the user hears of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKS: u32 = 3;
/// How long sessions and agents may take to put away what they were doing.
pub(crate) const END: Duration = Duration::from_secs(5);

/// A profile in use.
pub(crate) struct Junto {
    pub(crate) profile: Arc<Profile>,
    pub(crate) sessions: Sessions,
    /// What all connections go through.
    pub(crate) socks: Option<SocksServer>,
    agent: Agent,
    /// The sessions that this command is about.
    used: Mutex<Used>,
    /// What the parties of the session that it uses call themselves.
    names: OnceLock<BTreeMap<String, String>>,
}

impl Junto {
    /// Runs a command on the profile that the command line names.
    pub(crate) async fn with(
        global: &Global,
        command: impl AsyncFnOnce(&Junto) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let junto = Junto::open(global).await?;
        let result = tokio::select! {
            result = command(&junto) => result,
            never = junto.tell_of_relays(global.output()) => match never {},
        };
        let result = result.map_err(|failure| junto.explain(failure));
        junto.warn(global.output());
        if result.is_err() {
            // The others wait for us: tell them rather than let them run into their deadlines.
            junto.part().await;
        }
        junto.end().await;
        result
    }

    /// Says which relays of the sessions in use are not there, and when they are again. Never returns.
    async fn tell_of_relays(&self, output: Output) -> Infallible {
        let mut down = BTreeMap::<RelayPath, u32>::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // Whoever has it waits for the relays, and says so.
            let Ok(used) = self.used.try_lock() else {
                continue;
            };
            let lines = agents_lines(used.lines());
            drop(used);
            let Ok(routes) = self.agent.routes(lines).await else {
                continue;
            };
            let before = core::mem::take(&mut down);
            let routes: BTreeMap<_, _> = routes.iter().map(|it| (&it.path, it)).collect();
            for route in routes.into_values() {
                let looks = before.get(&route.path).copied().unwrap_or(0);
                match route.reach {
                    Reach::Down(_) => {
                        if looks + 1 == LOOKS {
                            output.say(format_args!(
                                "{}; it is tried again and again",
                                plight(route)
                            ));
                        }
                        down.insert(route.path.clone(), looks.saturating_add(1));
                    }
                    Reach::Up if looks >= LOOKS => {
                        output.say(format_args!(
                            "the relay {} is there again",
                            route.path.relay
                        ));
                    }
                    Reach::Unknown if looks > 0 => {
                        down.insert(route.path.clone(), looks);
                    }
                    Reach::Up | Reach::Unknown => {}
                }
            }
        }
    }

    pub(crate) async fn open(global: &Global) -> Result<Self, Failure> {
        let profile = Profile::open(&global.profile_dir()?, &global.passphrase())?;
        Self::on(Arc::new(profile), global).await
    }

    /// The same of a profile that is open.
    pub(crate) async fn on(profile: Arc<Profile>, global: &Global) -> Result<Self, Failure> {
        let succession = Succession::begin(&profile, Succession::SESSIONS)?;
        // Sessions have signed what their connections began with.
        let resync = Resync::Refused;
        let opened = open_agent(&profile, global, "agent.db", &succession, resync).await?;
        let (agent, events, socks) = opened;
        let carriage = junto_session::carrier::agent::carriage(agent.clone(), events);
        let key = profile.database_key("session.db");
        let sessions =
            Sessions::open_succeeding(profile.dir(), key, carriage, succeed(&succession))
                .map_err(session_failure)?;
        succession.finish(&profile)?;
        Ok(Junto {
            profile,
            sessions,
            socks,
            agent,
            used: Mutex::default(),
            names: OnceLock::new(),
        })
    }

    /// A profile whose sessions run over another carrier.
    #[cfg(test)]
    pub(crate) async fn over(
        dir: &std::path::Path,
        carriage: junto_session::carrier::Carriage,
    ) -> Result<Self, Failure> {
        let profile = Arc::new(Profile::open(dir, &crate::profile::Source::None)?);
        let config = AgentConfig::new(
            database(&profile, "agent.db"),
            profile.database_key("agent.db"),
        );
        let (agent, _) = Agent::open(config).await.map_err(agent_failure)?;
        let sessions = Sessions::open(profile.dir(), profile.database_key("session.db"), carriage)
            .map_err(session_failure)?;
        Ok(Junto {
            profile,
            sessions,
            socks: None,
            agent,
            used: Mutex::default(),
            names: OnceLock::new(),
        })
    }

    /// Lets go of everything, the profile last.
    pub(crate) async fn end(self) {
        let Junto {
            profile,
            sessions,
            agent,
            ..
        } = self;
        let end = async {
            sessions.end().await;
            agent.close().await;
        };
        let _ = tokio::time::timeout(END, end).await;
        drop(profile);
    }

    /// What short codes need: the profile, and what connections go through.
    pub(crate) fn visitor(&self) -> (&Profile, Option<&SocksServer>) {
        (&self.profile, self.socks.as_ref())
    }

    /// The formed session of that name.
    pub(crate) async fn session(&self, name: &str, patience: Duration) -> Result<Session, Failure> {
        let forming = self.sessions.resume(name).await.map_err(session_failure)?;
        self.uses(forming.local()).await?;
        let session = forming.formed(patience).await.map_err(session_failure)?;
        // The first session is the one that the command names.
        self.names.get_or_init(|| {
            let named = |(party, entry): (PartyIndex, &Entry)| {
                let name = entry.name.as_str();
                (!name.is_empty()).then(|| (party.to_string(), name.to_owned()))
            };
            session.roster().iter().filter_map(named).collect()
        });
        Ok(session)
    }

    /// Tells people what was lost or altered on its way lately: the session makes up for it, and they may want to ask.
    pub(crate) fn warn(&self, output: Output) {
        for warning in self.warnings() {
            output.say(warning);
        }
    }

    /// The same, as lines.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let warnings = self.sessions.take_warnings();
        warnings.iter().map(|it| self.warning(it)).collect()
    }

    /// Says what only this profile knows: the names of those at fault, and whether it is a disk that is at fault.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        self.with_names(self.explain_storage(failure))
    }

    fn warning(&self, warning: &Warning) -> String {
        let Warning {
            session,
            party,
            what,
        } = warning;
        let who = match party.map(|party| party.to_string()) {
            None => "a party".to_owned(),
            Some(number) => match self.names.get().and_then(|names| names.get(&number)) {
                Some(name) => format!("party {number} ({})", printable(name)),
                None => format!("party {number}"),
            },
        };
        format!("warning: session {session}: {who} {what}; the session makes up for it")
    }

    /// Says what the parties at fault call themselves.
    fn with_names(&self, mut failure: Failure) -> Failure {
        let parties = failure.party.as_deref().unwrap_or_default();
        let named: Vec<String> = parties
            .split(", ")
            .filter_map(|party| Some(format!("{party} is {}", self.names.get()?.get(party)?)))
            .collect();
        if !named.is_empty() {
            failure.message = format!("{} ({})", failure.message, named.join(", "));
        }
        failure
    }

    /// What carries the sessions.
    pub(crate) fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What a session uses.
    pub(crate) async fn lines(&self, session: LocalId) -> Result<Used, Failure> {
        let mut used = Used::default();
        let noted = self.sessions.note(session, &mut used).await;
        noted.map_err(session_failure)?;
        Ok(used)
    }

    /// Which relays the agent uses for these lines, and which way.
    pub(crate) async fn routes(&self, lines: Lines) -> Result<BTreeSet<Route>, Failure> {
        self.agent.routes(lines).await.map_err(agent_failure)
    }

    /// The command is about this session: [`Junto::settle`] and [`Junto::part`] see to it.
    pub(crate) async fn uses(&self, session: LocalId) -> Result<(), Failure> {
        let mut used = self.used.lock().await;
        let noted = self.sessions.note(session, &mut used).await;
        noted.map_err(session_failure)
    }

    /// [`Junto::settle`] and [`Junto::part`] wait for nothing that is for these parties.
    pub(crate) async fn spare(&self, session: &Session, parties: Members) -> Result<(), Failure> {
        let mut used = self.used.lock().await;
        let spared = self.sessions.spare(session, parties, &mut used).await;
        spared.map_err(session_failure)
    }

    /// Waits until relays have taken everything that was said in the sessions that this command is
    /// about, so that the process may end. Other sessions are none of its business.
    pub(crate) async fn settle(&self, patience: Duration) -> Result<(), Failure> {
        let used = self.used.lock().await;
        if self
            .sessions
            .settle(&used, patience)
            .await
            .map_err(session_failure)?
        {
            return Ok(());
        }
        let trouble = self
            .sessions
            .carrier_trouble()
            .map_or_else(String::new, |trouble| format!(": {}", trouble.text));
        Err(Failure::new(
            Exit::Unreachable,
            format_args!("not everything could be handed to the relays yet{trouble}"),
        )
        .help("it is stored and goes out with the next command on this profile"))
    }

    /// As [`Junto::settle`], where it is no failure if a relay is out of reach: whatever stays
    /// behind goes out with the next command on this profile.
    pub(crate) async fn part(&self) {
        let used = self.used.lock().await;
        let _ = self.sessions.settle(&used, LAST_WORDS).await;
    }

    /// Who waits in vain for others because this machine cannot store what they say, or what it says
    /// itself, is not to look for the fault elsewhere.
    fn explain_storage(&self, failure: Failure) -> Failure {
        match self.sessions.carrier_trouble() {
            Some(trouble)
                if failure.exit == Exit::Unreachable && trouble.kind == TroubleKind::Storage =>
            {
                session_failure(LocalError::Storage(trouble.text).into())
            }
            Some(_) | None => failure,
        }
    }
}

/// Opens one of the profile's agents, by the name of its database. Also gives what its connections go through.
pub(crate) async fn open_agent(
    profile: &Profile,
    global: &Global,
    name: &str,
    succession: &Succession,
    resync: Resync,
) -> Result<(Agent, Events, Option<SocksServer>), Failure> {
    let path = database(profile, name);
    let mut config = AgentConfig::new(path.clone(), profile.database_key(name));
    config.succeed = Some(succeed(succession));
    config.resync = resync;
    config.passwords = crate::relay::login::passwords(profile)?;
    way::set(&mut config, global, &profile.config)?;
    let socks = config.client.socks.clone();
    let opened = Agent::open(config).await;
    let (agent, events) = opened.map_err(|error| {
        let mut failure = agent_failure(error);
        failure.message = format!("{}: {}", path.display(), failure.message);
        failure
    })?;
    Ok((agent, events, socks))
}

fn succeed(succession: &Succession) -> junto_agent::Succeed {
    let succession = succession.clone();
    Box::new(move |found| succession.succeed(found))
}

fn database(profile: &Profile, name: &str) -> PathBuf {
    profile.dir().join(name)
}

/// What to do about an older copy of a database.
const OUTDATED: &str = "using it could repeat or contradict what was sent already: put the newest copy \
     back. Without one, removing the file `mark` (of contacts.db: `contacts.mark`) from the profile lets you go on; close the sessions that \
     were open then, and make new ones";

/// What an error of an agent means for the exit code.
pub(crate) fn agent_failure(error: AgentError) -> Failure {
    if matches!(error, AgentError::Store(StoreError::Outdated)) {
        return Failure::refused(error).help(OUTDATED);
    }
    let exit = match &error {
        AgentError::Misuse(junto_agent::Misuse::Restored) => Exit::Refused,
        AgentError::Misuse(_) | AgentError::Link(_) => Exit::Usage,
        AgentError::Relay { .. } => Exit::Unreachable,
        AgentError::Connection(_)
        | AgentError::Store(_)
        | AgentError::Closed
        | AgentError::Defect(_) => Exit::Failed,
    };
    Failure::new(exit, error)
}

/// What an error of a session means for the exit code.
pub(crate) fn session_failure(error: SessionError) -> Failure {
    failure_of(&error)
}

/// The same of an error that others hold as well.
pub(crate) fn failure_of(error: &SessionError) -> Failure {
    let message = error.to_string();
    let party = error.blamed().to_string();
    let silence = error.is_silence();
    let failure = match error {
        SessionError::Misuse(Misuse::NoSuchSession) => {
            Failure::usage(message).help("`junto session list` shows the sessions of this profile")
        }
        SessionError::Misuse(Misuse::Ambiguous) => Failure::usage(message)
            .help("give more of its id, as `junto session list` shows it: all of it means one session, whatever names there are (`junto --json session list`)"),
        SessionError::Misuse(Misuse::Restored) => Failure::refused(message)
            .help("make a new session with the same parties; `junto bls reshare --session NEW` takes keys there. `junto session close` forgets this one"),
        SessionError::Misuse(Misuse::NotFormed) => Failure::failed(message)
            .help("`junto session wait NAME` goes on waiting for the other parties"),
        SessionError::Misuse(_) => Failure::usage(message),
        SessionError::Peer(Blame {
            fault: Fault::Identity(_),
            ..
        }) => Failure::refused(message)
            .help("ask that party, by voice or in person, what became of its profile; without a good answer, do not go on"),
        SessionError::Peer(_) if silence => Failure::new(Exit::Unreachable, message)
            .help("ask them whether their command runs, then run this one again, all of you: nothing is lost"),
        SessionError::Peer(_) => Failure::new(Exit::Misbehaved, message),
        SessionError::Refused(_) => Failure::refused(message)
            .help("talk to the host: a place may become free, or a new session is needed"),
        SessionError::Incomplete { .. } => Failure::new(Exit::Unreachable, message)
            .help("the session is kept: `junto session wait NAME` goes on waiting"),
        SessionError::NoRoom(_) => Failure::new(Exit::Unreachable, message)
            .help("ask the other parties whether they receive anything; what was said is stored and goes out when they do"),
        SessionError::Local(LocalError::Carrier(_)) => Failure::new(Exit::Unreachable, message)
            .help("check the relay with `junto relay status ADDRESS`; if it demands a password to create queues, give it with `junto relay login ADDRESS`"),
        SessionError::Local(LocalError::Storage(what)) => Failure::failed(format_args!(
            "this machine cannot store what the command needs: {what}"
        ))
        .help("make room on the disk of the profile and try again; nothing that was confirmed is lost"),
        SessionError::Local(LocalError::Store(source))
            if matches!(
                source.downcast_ref::<junto_session::store::StoreError>(),
                Some(junto_session::store::StoreError::Outdated(_))
            ) =>
        {
            Failure::refused(message).help(OUTDATED)
        }
        SessionError::Local(_) => Failure::failed(message),
        SessionError::Defect(_) => {
            Failure::failed(message).help("this is our fault; please report it")
        }
    };
    if party.is_empty() {
        failure
    } else {
        failure.party(party)
    }
}
