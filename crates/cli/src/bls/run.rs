//! Key generation, refresh and reshare: three rounds over an execution, then the certified key is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use junto_bls::{
    Certificate, ConfirmRound, Holding, Inbox, KeyPublic, Occasion, Participant, PartyIndex,
    RunError, Setup, SetupError, ShareIndex,
};
use junto_crypto::ed25519::VerifyingKey;
use junto_session::{
    Blame, Execution, Fault, Kind, Members, Misuse, Reason, Session, SessionError,
};

use super::certificate::{self, GRACE};
use super::holdings::{self, Claims, Latest, Reshared};
use super::key_file::{self, Held, KeyFile, Origin};
use super::{describe, describe_text, judge};
use crate::failure::{Exit, Failure};
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::{Output, Progress};

/// Rounds of the execution. In the first, used by refresh and reshare alone, parties say and prove what
/// they hold.
const ROUND_HOLDINGS: u32 = 0;
/// Parties make sure that they mean the same run: without it, whoever was told another threshold
/// would look like a cheat.
const ROUND_SETUP: u32 = 1;
const ROUND_DEAL: u32 = 2;
const ROUND_SHARE: u32 = 3;
const ROUND_CONFIRM: u32 = 4;

/// Why a party ends a run in which nobody is at fault.
const MOVED_ON: &str = "a party has a newer share than it had in this run; trying again";

/// Why all parties begin again after some lacked the latest epoch's certificate.
const BEHIND: &str = "some parties lacked the newest share's certificate; trying again with it";

const LATE: &str =
    "the others gave up waiting for this party before it came; waiting for them to try again";

/// Runs of one name in one session: each failed one costs a number.
const RUNS_MAX: u32 = 64;

pub(crate) async fn keygen(
    junto: &Junto,
    session: &str,
    name: &str,
    threshold: u16,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    key_file::path(name)?;
    let session = junto.session(session, patience).await?;
    let threshold = small(threshold)?;
    if usize::from(threshold) > session.parties().as_usize() {
        return Err(setup_failure(SetupError::Threshold));
    }
    let purpose = format!("bls keygen {name}");
    let asked = |key: &KeyPublic, origin: &Origin| {
        origin.session == session.id().to_string()
            && key.threshold().required() == threshold
            && origin.label.starts_with(&format!("{purpose} #"))
    };
    let mut key = KeyFile::find(&junto.profile, name)?.unwrap_or_default();
    let held = key.held.iter().map(|it| (it.share.public(), &it.origin));
    let undecided = key
        .undecided
        .iter()
        .map(|it| (it.pending.key(), &it.origin));
    if let Some((_, other)) = held.chain(undecided).find(|(key, it)| !asked(key, it)) {
        return Err(Failure::usage(format_args!(
            "there is a key `{name}` in this profile, of session {}",
            other.session
        ))
        .help("choose another name with `--name`, the same for all parties"));
    }
    let first = resumed(junto, &session, name, &mut key).await?;
    if let Some(held) = &key.held {
        return conclude(junto, &session, name, held, output).await;
    }
    let first = match first {
        Resumed::Nothing => 0,
        Resumed::Run(number) => number,
        // Another run would make another key, and this one may be in use at any time.
        Resumed::Broken(failure) => return Err(failure.help(
            "should another party have the key, the same command gets it; to make another key, choose another `--name`",
        )),
    };
    let progress = output.progress("making a key: waiting for the other parties");
    let (run, certificate) = loop {
        let run = Run::open(&session, &purpose, first, &key, patience, output).await?;
        let occasion = run.occasion(&session);
        let setup = Setup::keygen(&occasion.borrow(), threshold).map_err(setup_failure)?;
        let desk = Desk {
            junto,
            session: &session,
            name,
            progress: &progress,
            shown: BTreeSet::new(),
        };
        match run.rounds(&desk, &setup, &mut key).await {
            Ok(made) => break (run, made),
            Err(Stop::Again(why)) => output.say(why),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, key, &certificate, output)
        .await
}

pub(crate) async fn refresh(
    junto: &Junto,
    name: &str,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let mut key = KeyFile::load(&junto.profile, name)?;
    let home = key.usable(name)?.origin.session.clone();
    let session = junto.session(&home, patience).await?;
    let before = key.usable(name)?.share.public().epoch();
    resumed(junto, &session, name, &mut key).await?;
    let held = key.usable(name)?;
    if held.share.public().epoch() > before || interrupted(&session, held).await? {
        return conclude(junto, &session, name, held, output).await;
    }
    let first = held.origin.run + 1;
    let progress = output.progress("refreshing: waiting for the other parties");
    let purpose = format!("bls refresh {name}");
    let mut desk = Desk {
        junto,
        session: &session,
        name,
        progress: &progress,
        shown: BTreeSet::new(),
    };
    let (run, certificate) = loop {
        let run = Run::open(&session, &purpose, first, &key, patience, output).await?;
        match run.refresh(&mut desk, &mut key).await {
            Ok(made) => break (run, made),
            Err(Stop::Again(why)) => output.say(why),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, key, &certificate, output)
        .await
}

pub(crate) async fn reshare(
    junto: &Junto,
    name: &str,
    session: Option<&str>,
    threshold: u16,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    key_file::path(name)?;
    let mut key = KeyFile::find(&junto.profile, name)?.unwrap_or_default();
    let session = match (session, &key.held) {
        (Some(session), _) => junto.session(session, patience).await?,
        (None, Some(held)) => junto.session(&held.origin.session, patience).await?,
        (None, None) => {
            return Err(
                Failure::usage(format_args!("there is no key `{name}` in this profile"))
                    .help("to receive a share of a key of others, name the session: `--session S`"),
            );
        }
    };
    let here = session.id().to_string();
    let before = key.held.as_ref().map(|held| held.share.public().epoch());
    resumed(junto, &session, name, &mut key).await?;
    let held_here = key.held.as_ref().filter(|held| held.origin.session == here);
    if let Some(held) = held_here {
        let newer = Some(held.share.public().epoch()) > before;
        if newer || interrupted(&session, held).await? {
            return conclude(junto, &session, name, held, output).await;
        }
    }
    let first = held_here.map_or(0, |held| held.origin.run + 1);
    let progress = output.progress("resharing: waiting for the other parties");
    let purpose = format!("bls reshare {name}");
    let threshold = small(threshold)?;
    let mut desk = Desk {
        junto,
        session: &session,
        name,
        progress: &progress,
        shown: BTreeSet::new(),
    };
    let (run, certificate) = loop {
        let run = Run::open(&session, &purpose, first, &key, patience, output).await?;
        match run.reshare(&mut desk, &mut key, threshold).await {
            Ok(made) => break (run, made),
            Err(Stop::Again(why)) => output.say(why),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, key, &certificate, output)
        .await
}

/// How the latest run that this party has confirmed stands.
enum Resumed {
    /// There is none that would be undecided.
    Nothing,
    /// It is under way: the same command goes on with it.
    Run(u32),
    /// It was broken off, and nobody has handed over its certificate so far.
    Broken(Failure),
}

/// Catches up with the other parties, either way: certificates that some of them may lack, and those that
/// this party lacks because a run was broken off.
async fn resumed(
    junto: &Junto,
    session: &Session,
    name: &str,
    key: &mut KeyFile,
) -> Result<Resumed, Failure> {
    let here = session.id().to_string();
    if let Some(held) = key.held.as_ref().filter(|it| it.origin.session == here) {
        certificate::hand_out(session, &held.certificate).await?;
    }
    let Some(latest) = key.undecided.last() else {
        return Ok(Resumed::Nothing);
    };
    let broken = if latest.origin.session == here {
        match session.execution(&latest.origin.label).await {
            Ok(_) => return Ok(Resumed::Run(latest.origin.run)),
            Err(SessionError::Misuse(Misuse::Finished)) => {
                Failure::failed("a party misbehaved at the end of the run")
            }
            Err(error) => session_failure(error),
        }
    } else {
        Failure::failed("the run in another session is undecided")
    };
    if certificate::take_over(junto, name, key, GRACE).await? {
        return Ok(Resumed::Nothing);
    }
    Ok(Resumed::Broken(broken))
}

/// Whether the run that made this key was cut short after the key was stored: then the same command
/// again means that run, not another one.
async fn interrupted(session: &Session, held: &Held) -> Result<bool, Failure> {
    match session.execution(&held.origin.label).await {
        Ok(_) => Ok(true),
        Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => Ok(false),
        Err(error) => Err(session_failure(error)),
    }
}

/// The key is stored: reports it, hands its certificate and what the others wait for to them, and only
/// then calls the run finished, so that whoever is stopped in between can run the same command again.
async fn conclude(
    junto: &Junto,
    session: &Session,
    name: &str,
    held: &Held,
    output: Output,
) -> Result<(), Failure> {
    output.result(&describe(name, held), || {
        describe_text(name, held.share.public())
    })?;
    certificate::hand_out(session, &held.certificate).await?;
    junto.settle(SETTLE).await?;
    match session.execution(&held.origin.label).await {
        Ok(execution) => execution
            .finish()
            .await
            .map(|_| ())
            .map_err(session_failure),
        Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => Ok(()),
        Err(error) => Err(session_failure(error)),
    }
}

fn party(index: usize) -> Option<PartyIndex> {
    PartyIndex::new(u8::try_from(index).ok()?)
}

fn small(threshold: u16) -> Result<u8, Failure> {
    u8::try_from(threshold).map_err(|_| setup_failure(SetupError::Threshold))
}

pub(crate) fn setup_failure(error: SetupError) -> Failure {
    match error {
        SetupError::Threshold => {
            Failure::usage(error).help("choose `--threshold` from 2 to the number of parties")
        }
        SetupError::Holders => Failure::failed(error)
            .help("enough of the key's present holders must be in the session"),
        SetupError::Roster | SetupError::TooLong => Failure::failed(error),
    }
}

/// Session, label and roster of a run, owned.
pub(crate) struct OwnedOccasion {
    pub(crate) session: [u8; 32],
    pub(crate) label: String,
    pub(crate) roster: Vec<VerifyingKey>,
}

impl OwnedOccasion {
    pub(crate) fn new(session: &Session, label: &str) -> Self {
        OwnedOccasion {
            session: session.id().0,
            label: label.to_owned(),
            roster: session
                .roster()
                .iter()
                .map(|(_, entry)| entry.key)
                .collect(),
        }
    }

    pub(crate) fn borrow(&self) -> Occasion<'_> {
        Occasion {
            session: self.session,
            label: self.label.as_bytes(),
            roster: &self.roster,
        }
    }
}

/// Why a run ended without a key.
enum Stop {
    /// The next run is the one to meet in, for this reason.
    Again(&'static str),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// Where a run takes place.
struct Desk<'a> {
    junto: &'a Junto,
    session: &'a Session,
    /// The key's name.
    name: &'a str,
    progress: &'a Progress,
    /// Who was shown a newer epoch than it claimed.
    shown: BTreeSet<PartyIndex>,
}

/// An execution that makes a key.
struct Run {
    execution: Execution,
    label: String,
    patience: Duration,
}

impl Run {
    /// Opens the first run of that name that has not ended before, and that this party may confirm.
    async fn open(
        session: &Session,
        purpose: &str,
        first: u32,
        key: &KeyFile,
        patience: Duration,
        output: Output,
    ) -> Result<Self, Failure> {
        for number in first..first.saturating_add(RUNS_MAX) {
            let label = format!("{purpose} #{number}");
            let origin = Origin {
                session: session.id().to_string(),
                label: label.clone(),
                run: number,
            };
            match session.execution(&label).await {
                Ok(execution) if !key.admits(&origin) => {
                    let told = execution.abort(MOVED_ON, Members::NONE).await;
                    told.map_err(session_failure)?;
                }
                Ok(execution) => {
                    return Ok(Run {
                        execution,
                        label,
                        patience,
                    });
                }
                // Final for its label; the user has decided to try again by running the command again.
                Err(SessionError::Peer(blame)) => output.say(format_args!(
                    "an earlier run (number {number}) was aborted, and counts no more: {}",
                    SessionError::Peer(blame)
                )),
                // It ended without a key: see `spend`.
                Err(SessionError::Misuse(Misuse::Finished)) => {}
                Err(error) => return Err(session_failure(error)),
            }
        }
        Err(Failure::failed("too many runs of that name were aborted").help("choose another name"))
    }

    fn occasion(&self, session: &Session) -> OwnedOccasion {
        OwnedOccasion::new(session, &self.label)
    }

    /// What an error of the execution means for the run.
    fn stopped(&self, error: SessionError) -> Stop {
        if let SessionError::Peer(Blame {
            fault: Fault::GaveUp(reason),
            ..
        }) = &error
        {
            match &**reason {
                Reason::Silent { accused, .. } if accused.contains(self.execution.me()) => {
                    return Stop::Again(LATE);
                }
                Reason::GaveUp { text, .. } if text == MOVED_ON => return Stop::Again(MOVED_ON),
                _ => {}
            }
        }
        Stop::Failed(session_failure(error))
    }

    async fn broadcast(&self, round: u32, message: Vec<u8>) -> Result<(), Stop> {
        let said = self.execution.broadcast(round, message).await;
        said.map_err(|error| self.stopped(error))
    }

    async fn gather(&self, round: u32, kind: Kind) -> Result<Inbox, Stop> {
        let gathered = self.execution.gather(round, kind, self.patience).await;
        gathered.map(inbox).map_err(|error| self.stopped(error))
    }

    async fn refresh(&self, desk: &mut Desk<'_>, key: &mut KeyFile) -> Result<Certificate, Stop> {
        let own = key.usable(desk.name)?.share.public().public_key();
        let claims = self.claims(desk, key.held.as_ref()).await?;
        let occasion = self.occasion(desk.session);
        let latest = holdings::refreshed(&occasion.borrow(), &claims, &own);
        let latest = self.or_spend(desk, latest).await?;
        if !latest.behind.is_empty() {
            return Err(self.catch_up(desk, key, &latest).await);
        }
        let holders = latest.certificate.setup().holders();
        let old = latest.certificate.key().clone();
        let setup = Setup::refresh(&occasion.borrow(), old, holders).map_err(setup_failure)?;
        self.rounds(desk, &setup, key).await
    }

    async fn reshare(
        &self,
        desk: &mut Desk<'_>,
        key: &mut KeyFile,
        threshold: u8,
    ) -> Result<Certificate, Stop> {
        let claims = self.claims(desk, key.held.as_ref()).await?;
        let occasion = self.occasion(desk.session);
        let from = holdings::reshared(&occasion.borrow(), &claims, key.public_key());
        let (old, dealers) = match self.or_spend(desk, from).await? {
            Reshared::From(old, holders) => (old, holders),
            Reshared::Behind(latest) => return Err(self.catch_up(desk, key, &latest).await),
        };
        desk.progress.step(format!(
            "resharing {}",
            hex::encode(old.public_key().to_bytes())
        ));
        let holders: BTreeSet<PartyIndex> = (0..desk.session.parties().as_usize())
            .filter_map(party)
            .collect();
        // Any t holders suffice; all take the first t, so that all mean the same.
        let required = usize::from(old.threshold().required());
        let dealers: BTreeMap<_, _> = dealers.into_iter().take(required).collect();
        let setup = Setup::reshare(&occasion.borrow(), old, dealers, holders, threshold)
            .map_err(setup_failure)?;
        self.rounds(desk, &setup, key).await
    }

    /// Everybody says which share of which key it holds, and proves it; all get the same answer.
    async fn claims(&self, desk: &Desk<'_>, held: Option<&Held>) -> Result<Claims, Stop> {
        let occasion = self.occasion(desk.session);
        let me = party(desk.session.me().as_usize());
        let own = held.zip(me).map_or_else(Vec::new, |(held, me)| {
            Holding::new(&occasion.borrow(), me, &held.share, &held.certificate).encode()
        });
        match self.execution.broadcast(ROUND_HOLDINGS, own).await {
            // It was begun with the share of before.
            Err(SessionError::Misuse(Misuse::DifferentBytes(_))) => {
                let execution = self.execution.clone();
                let told = execution.abort(MOVED_ON, Members::NONE).await;
                told.map_err(session_failure)?;
                return Err(Stop::Again(MOVED_ON));
            }
            said => said.map_err(|error| self.stopped(error))?,
        }
        let said = self.gather(ROUND_HOLDINGS, Kind::Broadcast).await?;
        self.or_spend(desk, holdings::hear(&occasion.borrow(), &said))
            .await
    }

    /// A failure that all parties come to ends the run.
    async fn or_spend<T>(&self, desk: &Desk<'_>, result: Result<T, Failure>) -> Result<T, Stop> {
        if result.is_err() {
            self.spend(desk.session).await;
        }
        result.map_err(Stop::from)
    }

    /// Some lacked the certificate of the latest epoch, and have seen it now: in the next run they have
    /// that epoch, or are lying.
    async fn catch_up(&self, desk: &mut Desk<'_>, key: &mut KeyFile, latest: &Latest) -> Stop {
        if let Err(stop) = self
            .or_spend(desk, latest.none_stays_behind(&desk.shown))
            .await
        {
            return stop;
        }
        self.spend(desk.session).await;
        desk.shown.extend(latest.behind.iter().copied());
        let me = party(desk.session.me().as_usize());
        if me.is_none_or(|me| !latest.behind.contains(&me)) {
            return Stop::Again(BEHIND);
        }
        match certificate::adopt(desk.junto, desk.name, key, &latest.certificate) {
            Ok(true) => Stop::Again(BEHIND),
            Ok(false) => Failure::failed("this profile holds an older share than it has confirmed")
                .help(
                    "it must have been restored from an old backup: the others can reshare the key",
                )
                .into(),
            Err(failure) => failure.into(),
        }
    }

    /// A run that came to nothing is over for good, so that the next command begins another one instead
    /// of coming to the same end. It is finished and not aborted: what the others need of this party to
    /// see the same, with the evidence, is on its way.
    async fn spend(&self, session: &Session) {
        if let Ok(execution) = session.execution(&self.label).await
            && let Err(error) = execution.finish().await
        {
            tracing::warn!(%error, "cannot end the run");
        }
    }

    /// Whether all mean the same run: roster, label, key and threshold.
    async fn agree(&self, session: &Session, setup: &Setup) -> Result<(), Stop> {
        self.broadcast(ROUND_SETUP, setup.digest().to_vec()).await?;
        let said = self.gather(ROUND_SETUP, Kind::Broadcast).await?;
        let differ = said
            .iter()
            .filter(|(_, digest)| digest.as_slice() != setup.digest())
            .map(|(party, _)| party.value().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        if differ.is_empty() {
            return Ok(());
        }
        self.spend(session).await;
        let message = format!(
            "party {differ} does not mean the same as this party: threshold, key and parties must be the same for all"
        );
        Err(Failure::refused(message)
            .help("give the same `--threshold` everywhere and run the command again, all of you")
            .party(differ)
            .into())
    }

    /// Deal, share, confirm.
    async fn rounds(
        &self,
        desk: &Desk<'_>,
        setup: &Setup,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let signer = desk.session.signing_key().await.map_err(session_failure)?;
        let me = party(desk.session.me().as_usize())
            .ok_or_else(|| Failure::failed("a party beyond the limit"))?;
        let participant =
            Participant::new(setup, me, &signer, self.execution.seed()).map_err(Failure::failed)?;
        let old = key.held.as_ref().map(|held| &held.share);
        let deals_old = setup.old_key().is_some() && setup.dealers().contains_key(&me);
        let (deal, message) = participant
            .start(old.filter(|_| deals_old))
            .map_err(Failure::failed)?;
        self.agree(desk.session, setup).await?;
        self.broadcast(ROUND_DEAL, message).await?;
        let deals = self.gather(ROUND_DEAL, Kind::Broadcast).await?;
        desk.progress.step("dealing shares");
        let (share, messages) = match deal.receive(&deals) {
            Ok(next) => next,
            Err(error) => return Err(self.failed(desk, setup, error).await.into()),
        };
        for to in self.execution.others().iter() {
            let Some(message) = party(to.as_usize()).and_then(|to| messages.get(&to)) else {
                continue;
            };
            let sent = self.execution.send(ROUND_SHARE, to, message.to_vec()).await;
            sent.map_err(|error| self.stopped(error))?;
        }
        let shares = self.gather(ROUND_SHARE, Kind::P2p).await?;
        desk.progress.step("confirming");
        let (mut confirm, message) = share.receive(&shares).map_err(Failure::failed)?;
        // From here on the others may succeed whatever happens to this run here.
        if let Some(pending) = confirm.take_pending() {
            key_file::admit(key.held.as_ref(), &mut key.undecided, pending)?;
            key.store(&desk.junto.profile, desk.name)?;
        }
        let said = self.execution.broadcast(ROUND_CONFIRM, message).await;
        said.map_err(session_failure)?;
        self.certified(desk, setup, &confirm).await
    }

    /// The certificate: made of everybody's confirmation, or taken from whoever has it. Nobody who has
    /// confirmed may abort, since others may have the certificate; and whoever does so is not heeded.
    async fn certified(
        &self,
        desk: &Desk<'_>,
        setup: &Setup,
        confirm: &ConfirmRound<'_>,
    ) -> Result<Certificate, Stop> {
        let handed = certificate::handed(desk.junto, vec![setup.clone()]);
        tokio::pin!(handed);
        let error = tokio::select! {
            confirms = self.confirmations() => match confirms {
                Ok(confirms) => match confirm.receive(&confirms) {
                    Ok(certificate) => return Ok(certificate),
                    Err(error) => return Err(self.failed(desk, setup, error).await.into()),
                },
                Err(error) => error,
            },
            certificate = &mut handed => return Ok(certificate?),
        };
        match tokio::time::timeout(GRACE, handed).await {
            Ok(certificate) => Ok(certificate?),
            Err(_) => Err(error.into()),
        }
    }

    async fn confirmations(&self) -> Result<Inbox, Failure> {
        let gathered =
            self.execution
                .gather_patiently(ROUND_CONFIRM, Kind::Broadcast, self.patience);
        match gathered.await {
            Ok(messages) => Ok(inbox(messages)),
            Err(SessionError::Incomplete { missing, .. }) => Err(Failure::new(
                Exit::Unreachable,
                format_args!("party {missing} has not confirmed the key in time"),
            )
            .party(missing)
            .help("nothing is lost: run the same command again, all of you")),
            Err(error) => {
                let failure = session_failure(error);
                Err(match failure.help {
                    Some(_) => failure,
                    None => failure.help("should another party have the key all the same, any command on it takes that over"),
                })
            }
        }
    }

    async fn failed(&self, desk: &Desk<'_>, setup: &Setup, error: RunError) -> Failure {
        let failure = match error {
            RunError::Misuse(misuse) => return Failure::failed(misuse),
            RunError::Abort(abort) => judge::record(desk.junto, desk.session, setup, &abort),
            RunError::Degenerate => Failure::failed(error).help("run the command again"),
        };
        self.spend(desk.session).await;
        failure
    }

    /// Makes the certified share the one that signs; see [`conclude`] for the rest.
    async fn keep(
        self,
        junto: &Junto,
        session: &Session,
        name: &str,
        mut key: KeyFile,
        certificate: &Certificate,
        output: Output,
    ) -> Result<(), Failure> {
        // Nobody runs the protocol again once the key is there: what was said must not be lost.
        session.durable().await.map_err(session_failure)?;
        if !certificate::adopt(junto, name, &mut key, certificate)? {
            return Err(Failure::failed("the certificate is one of another key"));
        }
        conclude(junto, session, name, key.usable(name)?, output).await
    }
}

/// A round's messages, under the numbers of `junto-bls`.
pub(crate) fn inbox(messages: BTreeMap<junto_session::PartyIndex, Bytes>) -> Inbox {
    messages
        .into_iter()
        .filter_map(|(from, bytes)| Some((party(from.as_usize())?, bytes.to_vec())))
        .collect()
}

/// The parties of a session that hold a key.
pub(crate) fn members(holders: &BTreeMap<PartyIndex, ShareIndex>) -> Members {
    holders
        .keys()
        .filter_map(|party| junto_session::PartyIndex::new(usize::from(party.value())))
        .fold(Members::NONE, Members::with)
}
