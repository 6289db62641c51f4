//! Sessions for programs that are not `junto`: on the same profiles, by the same rules, and with the same words when something fails.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use junto_session::{LocalId, Session, SessionError, Summary};

use crate::args::{Global, Seat};
use crate::failure::Failure;
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::Output;
use crate::profile::{Policy, Source, is_protected};
use crate::{lobby, run, session};

/// A program that embeds this shows what happens itself.
const SILENT: Output = Output {
    json: false,
    quiet: true,
};

/// What a command line without options says, which the environment may have changed.
#[derive(Parser)]
struct Surroundings {
    #[command(flatten)]
    global: Global,
}

/// A profile in use by a program. No other process can use it meanwhile.
pub struct Embedded {
    junto: Junto,
}

/// A session to open.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// How many parties, this one included: 2 to 64.
    pub parties: u16,
    /// Its name for all parties; `run`, `run-2` and so on if none is given.
    pub name: Option<String>,
    /// `anonymous`, `tofu` or `pinned`; the profile's if none is given.
    pub policy: Option<String>,
    /// How long the relay may take to give a queue.
    pub patience: Duration,
}

impl Embedded {
    /// Opens a profile, or makes one on first use. Without a folder it is `JUNTO_PROFILE` or the user's default one; a passphrase is
    /// the first line of a file, by default of `JUNTO_PASSPHRASE_FILE`. `JUNTO_ROUTING` and `JUNTO_SOCKS` count as they do for `junto`.
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// If another process uses it, it is damaged, or others can write into it; if the passphrase is wrong or missing.
    pub async fn open(
        profile: Option<PathBuf>,
        passphrase_file: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let surroundings = Surroundings::try_parse_from(["junto"]);
        let Surroundings { mut global } = surroundings.map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Failure::usage(first.strip_prefix("error: ").unwrap_or(first))
        })?;
        global.quiet = true;
        global.profile = profile.or(global.profile);
        global.passphrase_file = passphrase_file.or(global.passphrase_file);
        // A command would ask for it on the terminal, which is this program's.
        if matches!(global.passphrase(), Source::None) && is_protected(&global.profile_dir()?) {
            return Err(
                Failure::refused("this profile is protected by a passphrase").help(
                    "give the file with it, or set JUNTO_PASSPHRASE_FILE: nobody is asked for it here",
                ),
            );
        }
        let junto = Junto::open(&global).await?;
        Ok(Self { junto })
    }

    /// Opens a session as its host: its name in this profile, and the link that the others need. `relay` is where this party receives,
    /// else the first that the profile lists; `nickname` is what the others see, and proves nothing.
    ///
    /// # Errors
    /// If an argument is not valid, or the relay refuses or does not answer in time.
    pub async fn new_session(
        &self,
        new: NewSession,
        relay: Option<String>,
        nickname: String,
    ) -> Result<(LocalId, String), Failure> {
        let name = match new.name {
            Some(name) => name,
            None => run::free_name(&self.junto).await?,
        };
        let policy = new.policy.as_deref().map(policy).transpose()?;
        let seat = seat(relay, nickname);
        let opened = session::open(
            &self.junto,
            new.parties,
            name,
            policy,
            &seat,
            new.patience,
            SILENT,
        );
        let (forming, link) = opened.await.map_err(|it| self.junto.explain(it))?;
        self.junto.uses(forming.local()).await?;
        Ok((forming.local(), link.shown(None)))
    }

    /// Joins a session by its link, or goes on with what joined by it before.
    ///
    /// # Errors
    /// If the link or another argument is not valid.
    pub async fn join(
        &self,
        link: &str,
        relay: Option<String>,
        nickname: String,
    ) -> Result<LocalId, Failure> {
        // `-` is standard input for a command, and nothing here.
        let link = session::parse_link(link)?;
        let seat = seat(relay, nickname);
        let joined = session::join(&self.junto, link, &seat, SILENT).await;
        let forming = joined.map_err(|it| self.junto.explain(it))?;
        self.junto.uses(forming.local()).await?;
        Ok(forming.local())
    }

    /// The session of this profile that has this name, or an identifier that begins so.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub async fn find(&self, name: &str) -> Result<LocalId, Failure> {
        let found = self.junto.sessions.find(name).await;
        let local = found.map_err(session_failure)?.local;
        self.junto.uses(local).await?;
        Ok(local)
    }

    /// Waits until the session has formed. It may be called again.
    ///
    /// # Errors
    /// If it does not form in time, a party cheats, or the host refuses.
    pub async fn formed(
        &self,
        session: LocalId,
        patience: Duration,
    ) -> Result<(Session, Summary), Failure> {
        let name = session.to_string();
        let forming = self.junto.sessions.resume(&name).await;
        let forming = forming.map_err(session_failure)?;
        let again = |name: &str| format!("junto session wait {name}");
        let formed = lobby::formed(&self.junto, forming, patience, None, again, SILENT).await;
        let (_, summary) = formed.map_err(|it| self.junto.explain(it))?;
        // Names of the parties come with the session by its name.
        let session = self.junto.session(&name, patience).await?;
        Ok((session, summary))
    }

    /// What an error of one of its sessions means, and what to do about it.
    #[must_use]
    pub fn explain(&self, error: SessionError) -> Failure {
        self.junto.explain(session_failure(error))
    }

    /// What was lost or altered on its way since the last call, for people; the sessions make up for it.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.junto.warnings()
    }

    /// Waits until the relays have all that was said.
    ///
    /// # Errors
    /// If they do not take it within 20 s. It stays stored, and goes out when the profile is opened again.
    pub async fn settle(&self) -> Result<(), Failure> {
        self.junto.settle(SETTLE).await
    }

    /// Hands the relays what can be handed over within some seconds, and lets go of the profile. All handles to its sessions have to be
    /// dropped before.
    pub async fn end(self) {
        self.junto.part().await;
        self.junto.end().await;
    }
}

fn policy(text: &str) -> Result<Policy, Failure> {
    <Policy as clap::ValueEnum>::from_str(text, false).map_err(|_| {
        Failure::usage(format_args!(
            "`{text}` is no policy: anonymous, tofu or pinned"
        ))
    })
}

fn seat(relay: Option<String>, nickname: String) -> Seat {
    Seat {
        relays: relay.into_iter().collect(),
        nickname,
        parties_file: None,
    }
}
