//! A run that makes shares: three rounds over an execution, then the certified share is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use junto_bls::{
    Certificate, ConfirmRound, Inbox, Occasion, Participant, PartyIndex, Pending, PublicKey,
    RunError, Setup, SetupError, ShareIndex,
};
use junto_crypto::ed25519::{SigningKey, VerifyingKey};
use junto_session::{
    Blame, Culprit, Execution, Fault, Kind, Members, Misuse, Reason, Session, SessionError,
};

use super::certificate::{self, GRACE};
use super::judge;
use super::key_file::{self, Held, KeyFile, NO_ROOM, barred_failure};
use super::order::{Barred, Origin};
use super::resume::Asked;
use crate::failure::{Exit, Failure};
use crate::open::{Junto, session_failure};
use crate::output::{Output, Progress};

/// Rounds of the execution. In the first, used by refresh and reshare alone, parties say and prove what
/// they hold.
pub(super) const ROUND_HOLDINGS: u32 = 0;
/// Parties make sure that they mean the same run: without it, whoever was told another threshold
/// would look like a cheat.
const ROUND_SETUP: u32 = 1;
const ROUND_DEAL: u32 = 2;
const ROUND_SHARE: u32 = 3;
const ROUND_CONFIRM: u32 = 4;

/// How many runs one party may end in a command because it has moved on: as many as an honest one passes over, and no more
/// than others have patience for.
const MOVES_MAX: usize = 8;

/// Why a party ends a run in which nobody is at fault.
pub(super) const MOVED_ON: &str = "a party has a newer share than it had in this run; trying again";

/// Why a party ends a run about a key that it does not mean.
pub(super) const OTHER_KEY: &str = "this party means another key of that name";

/// Why a party begins another run instead of one that it has confirmed.
const SUPERSEDED: &str =
    "another party has handed over the certificate of a later run; beginning the next one";

const LATE: &str = "a party gave up waiting before all had come; waiting for it to try again";

/// What the parties of a run make.
pub(super) enum Task {
    Keygen {
        threshold: u8,
    },
    Refresh,
    Reshare {
        threshold: u8,
        /// The key that this party means.
        public_key: PublicKey,
        /// Whether this party gives up an undecided reshare into another session.
        abandon: bool,
    },
}

impl Task {
    pub(super) fn abandons(&self) -> bool {
        matches!(self, Task::Reshare { abandon: true, .. })
    }

    /// The round in which a party shows that it has come.
    fn first_round(&self) -> u32 {
        match self {
            Task::Keygen { .. } => ROUND_SETUP,
            Task::Refresh | Task::Reshare { .. } => ROUND_HOLDINGS,
        }
    }
}

/// Has runs of that purpose until one makes what is asked for, from run `first` on.
///
/// A run that this party has confirmed it goes on with, whatever is asked for by now: others may succeed. If
/// that makes something else, the next one is begun.
pub(super) async fn make<'k>(
    mut desk: Desk<'_>,
    task: &Task,
    asked: &Asked,
    mut first: u32,
    key: &'k mut KeyFile,
) -> Result<&'k Held, Failure> {
    loop {
        let (origin, certificate) = certified(&mut desk, task, &asked.purpose, first, key).await?;
        // Nobody runs the protocol again once the share is there: what was said must not be lost.
        desk.session.durable().await.map_err(session_failure)?;
        if !certificate::adopt(desk.junto, desk.name, key, &certificate).await? {
            return Err(Failure::failed("the certificate is one of another key"));
        }
        let held = key.usable(desk.name)?;
        if asked.means(&held.origin, held.share.public()) {
            break;
        }
        let threshold = held.share.public().threshold();
        desk.output.say(format_args!(
            "`{}`, which was undecided, has succeeded: any {} of {} parties sign; now beginning the run that is asked for",
            origin.label,
            threshold.required(),
            threshold.holders()
        ));
        spend(desk.session, &origin).await;
        first = origin.run.saturating_add(1);
    }
    key.usable(desk.name)
}

/// Has runs of that purpose until one is certified.
async fn certified(
    desk: &mut Desk<'_>,
    task: &Task,
    purpose: &str,
    first: u32,
    key: &mut KeyFile,
) -> Result<(Origin, Certificate), Failure> {
    loop {
        let made = match Run::open(desk, purpose, first, key).await {
            Ok(Opened::Run(run)) => run.certificate(desk, task, key).await,
            Ok(Opened::Certified(origin, certificate)) => Ok((origin, certificate)),
            Err(stop) => Err(stop),
        };
        match made {
            Ok(made) => return Ok(made),
            Err(Stop::Again(why)) => desk.output.say(why),
            Err(Stop::Excused(excuse, failure)) => {
                let why = excuse.why;
                let times = desk.excused.entry((excuse.by, why)).or_default();
                *times += 1;
                if *times > if why == MOVED_ON { MOVES_MAX } else { 1 } {
                    return Err(if why == LATE {
                        failure.party(excuse.named)
                    } else {
                        failure
                    });
                }
                desk.note(&excuse);
                desk.output.say(why);
            }
            Err(Stop::Silent(round, silent, failure)) => {
                return Err(desk.silent(failure, silent, round == task.first_round()));
            }
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    }
}

pub(super) fn party(index: usize) -> Option<PartyIndex> {
    PartyIndex::new(u8::try_from(index).ok()?)
}

/// A threshold or a number of parties, as keys count them.
pub(super) fn small(number: impl TryInto<u8>) -> Result<u8, Failure> {
    let number = number.try_into();
    number.map_err(|_| setup_failure(SetupError::Threshold))
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
pub(super) enum Stop {
    /// The next run is the one to meet in, for this reason.
    Again(&'static str),
    /// The same, because this party says so, whom that excuses once.
    Excused(Excuse, Failure),
    /// Parties did not speak in that round in time.
    Silent(u32, Members, Failure),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// Where a run takes place.
pub(super) struct Desk<'a> {
    pub(super) junto: &'a Junto,
    pub(super) session: &'a Session,
    /// The key's name.
    pub(super) name: &'a str,
    pub(super) progress: &'a Progress,
    /// How long the others may take.
    patience: Duration,
    output: Output,
    /// Who was shown which newer epoch than it claimed.
    pub(super) shown: BTreeSet<(PartyIndex, [u8; 32])>,
    /// Whether all have begun again to catch up with what they were shown.
    pub(super) gathered: bool,
    /// Who has given up waiting before all had come, and who is named if it does not begin again.
    late: BTreeMap<junto_session::PartyIndex, Members>,
    /// How often who ended a run for a reason that is no fault.
    excused: BTreeMap<(junto_session::PartyIndex, &'static str), usize>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(
        junto: &'a Junto,
        session: &'a Session,
        name: &'a str,
        progress: &'a Progress,
        patience: Duration,
        output: Output,
    ) -> Self {
        Desk {
            junto,
            session,
            name,
            progress,
            patience,
            output,
            shown: BTreeSet::new(),
            gathered: false,
            late: BTreeMap::new(),
            excused: BTreeMap::new(),
        }
    }

    /// The certificate of a run that has ended here after this party confirmed it, if somebody hands it over
    /// soon.
    async fn search(
        &self,
        run: &Origin,
        setup: &Setup,
        key: &mut KeyFile,
    ) -> Result<Option<Certificate>, Stop> {
        let end = tokio::time::Instant::now() + GRACE;
        while let Ok(certificate) =
            tokio::time::timeout_at(end, certificate::handed(self.junto, key)).await
        {
            if certificate.setup() == setup {
                return Ok(Some(certificate));
            }
            self.take(run, key, &certificate).await?;
        }
        Ok(None)
    }

    /// Takes the certificate of another run. If that is a later one, this run is over for good: whoever has
    /// confirmed both gets that certificate.
    async fn take(
        &self,
        run: &Origin,
        key: &mut KeyFile,
        certificate: &Certificate,
    ) -> Result<(), Stop> {
        certificate::adopt(self.junto, self.name, key, certificate).await?;
        if key.confirmed(run).is_some() {
            return Ok(());
        }
        let held = &key.usable(self.name)?.origin;
        if held.session == run.session {
            return Err(Stop::Again(SUPERSEDED));
        }
        Err(Failure::failed(format_args!(
            "`{}` has succeeded meanwhile: the key is used in session {} now",
            held.label, held.session
        ))
        .help("run the command again, all of you")
        .into())
    }

    fn note(&mut self, excuse: &Excuse) {
        if excuse.why == LATE {
            let named = self.late.entry(excuse.by).or_default();
            *named = excuse.named.iter().chain(named.iter()).collect();
        }
    }

    /// Who is silent is named. If a party gave up waiting before all had come, the others have begun
    /// again: those who do not come may not know of it, or may have said so to be waited for in vain;
    /// or those for whom they waited were silent towards them, whatever they say to this party.
    fn silent(&self, failure: Failure, silent: Members, at_once: bool) -> Failure {
        if self.late.is_empty() || !at_once {
            return failure;
        }
        let excused = silent.iter().filter_map(|party| self.late.get(&party));
        let named: Members = excused.fold(silent, |all, named| {
            all.iter().chain(named.iter()).collect()
        });
        Failure::new(
            Exit::Unreachable,
            format_args!(
                "a party gave up waiting before all had come, and party {silent} has not begun again"
            ),
        )
        .help("run the command again, all of you: nothing is lost")
        .party(named)
    }
}

/// Why a party has ended a run although nobody is at fault: what it says, and no more.
#[derive(Clone, Copy)]
pub(super) struct Excuse {
    why: &'static str,
    by: junto_session::PartyIndex,
    /// Who is named should that not be believed. Who gave up waiting for this party is named alone, as
    /// this party has come; who gave up waiting for others, together with those.
    named: Members,
}

/// What excuses the end of a run for a party of that number.
fn excuse(error: &SessionError, me: junto_session::PartyIndex) -> Option<Excuse> {
    let SessionError::Peer(Blame {
        culprit: Culprit::Party(by),
        fault: Fault::GaveUp(reason),
    }) = error
    else {
        return None;
    };
    let by = *by;
    let (why, named) = match &**reason {
        Reason::Silent { accused, .. } if accused.contains(me) => (LATE, Members::NONE.with(by)),
        Reason::Silent { accused, .. } if !accused.without(by).is_empty() => {
            (LATE, accused.with(by))
        }
        reason if is_text(reason, MOVED_ON) => (MOVED_ON, error.blamed()),
        _ => return None,
    };
    Some(Excuse { why, by, named })
}

/// Ends a run for all, if nobody else has by now: then it is over, whatever the other one's reason.
pub(super) async fn abandon(execution: Execution, why: &str) -> Result<(), Failure> {
    match execution.abort(why, Members::NONE).await {
        Ok(()) | Err(SessionError::Peer(_)) => Ok(()),
        Err(error) => Err(session_failure(error)),
    }
}

fn is_text(reason: &Reason, wanted: &str) -> bool {
    matches!(reason, Reason::GaveUp { text, .. } if text == wanted)
}

/// A run that came to nothing is over for good, so that the next command begins another one instead
/// of coming to the same end. It is finished and not aborted: what the others need of this party to
/// see the same, with the evidence, is on its way.
async fn spend(session: &Session, run: &Origin) {
    if let Ok(execution) = session.execution(&run.label).await
        && let Err(error) = execution.finish().await
    {
        tracing::warn!(%error, "cannot end the run");
    }
}

/// What [`Run::open`] finds.
pub(super) enum Opened {
    Run(Run),
    /// A run that this party has confirmed and that ended has succeeded.
    Certified(Origin, Certificate),
}

/// An execution that makes shares.
pub(super) struct Run {
    pub(super) execution: Execution,
    origin: Origin,
    patience: Duration,
}

impl Run {
    /// Opens the first run of that name that has not ended before, and that this party may confirm.
    ///
    /// Whoever takes part can end runs before they begin, so their number says nothing. It takes that
    /// party a message for each, and this one no longer than it waits for the others.
    pub(super) async fn open(
        desk: &mut Desk<'_>,
        purpose: &str,
        first: u32,
        key: &mut KeyFile,
    ) -> Result<Opened, Stop> {
        let begun = Instant::now();
        let mut ended: Option<(u32, SessionError)> = None;
        for number in first..=u32::MAX {
            let origin = Origin {
                session: desk.session.id().to_string(),
                label: format!("{purpose} #{number}"),
                run: number,
            };
            match desk.session.execution(&origin.label).await {
                Ok(execution) if !key.standing().admits(&origin) => {
                    abandon(execution, MOVED_ON).await?;
                }
                Ok(execution) => {
                    if let Some((number, error)) = ended {
                        desk.output.say(format_args!(
                            "runs up to number {number} were aborted, and count no more: {error}"
                        ));
                    }
                    return Ok(Opened::Run(Run {
                        execution,
                        origin,
                        patience: desk.patience,
                    }));
                }
                // Final for its label; the user has decided to try again by running the command again.
                Err(error @ SessionError::Peer(_)) => {
                    // Others may have succeeded in it, and be done. Not if this one goes on with a later run.
                    let latest = key.undecided.last().filter(|run| run.origin == origin);
                    let setup = latest.map(|run| run.pending.setup().clone());
                    if let Some(setup) = setup
                        && let Some(certificate) = desk.search(&origin, &setup, key).await?
                    {
                        return Ok(Opened::Certified(origin, certificate));
                    }
                    if let Some(excuse) = excuse(&error, desk.session.me()) {
                        desk.note(&excuse);
                    }
                    if begun.elapsed() >= desk.patience {
                        return Err(session_failure(error)
                            .help("that party breaks off every run; the key still signs, and can be reshared in another session")
                            .into());
                    }
                    ended = Some((number, error));
                }
                // It ended without a key: see `spend`.
                Err(SessionError::Misuse(Misuse::Finished)) => {}
                Err(error) => return Err(session_failure(error).into()),
            }
        }
        Err(Failure::failed("the runs of that name are used up")
            .help("choose another name")
            .into())
    }

    pub(super) fn occasion(&self, session: &Session) -> OwnedOccasion {
        OwnedOccasion::new(session, &self.origin.label)
    }

    /// What an error of the execution means for the run.
    pub(super) fn stopped(&self, error: SessionError) -> Stop {
        if let Some(excuse) = excuse(&error, self.execution.me()) {
            return Stop::Excused(excuse, session_failure(error));
        }
        match &error {
            SessionError::Peer(Blame {
                fault: Fault::Silent { round, all },
                ..
            }) => Stop::Silent(round.0, *all, session_failure(error)),
            SessionError::Peer(Blame {
                culprit: Culprit::Party(by),
                fault: Fault::GaveUp(reason),
            }) if is_text(reason, OTHER_KEY) => {
                Failure::refused(format_args!("party {by} means another key of that name"))
                    .help("compare the public keys: `junto bls list`")
                    .party(by)
                    .into()
            }
            SessionError::Peer(Blame {
                culprit: Culprit::Party(by),
                fault: Fault::GaveUp(reason),
            }) if is_text(reason, NO_ROOM) => key_file::no_room_there(*by).into(),
            _ => Stop::Failed(session_failure(error)),
        }
    }

    /// The certificate of what this run makes.
    async fn certificate(
        self,
        desk: &mut Desk<'_>,
        task: &Task,
        key: &mut KeyFile,
    ) -> Result<(Origin, Certificate), Stop> {
        let confirmed = key.confirmed(&self.origin);
        let made = match task {
            // It goes on there, whichever share it holds by now: others may succeed.
            _ if confirmed.is_some_and(|it| it.pending.can_resume()) => self.go_on(desk, key).await,
            Task::Keygen { threshold } => self.keygen(desk, *threshold, task, key).await,
            Task::Refresh => self.refresh(desk, task, key).await,
            Task::Reshare {
                public_key,
                threshold,
                ..
            } => {
                let wanted = (public_key, *threshold);
                self.reshare(desk, task, wanted, key).await
            }
        };
        made.map(|certificate| (self.origin, certificate))
    }

    /// Ends the run for all. Nobody does that who has confirmed it.
    pub(super) async fn leave(&self, why: &str) -> Result<(), Failure> {
        abandon(self.execution.clone(), why).await
    }

    /// This party has a newer share than those that the run would start from.
    async fn move_on(&self, failure: Failure) -> Stop {
        let by = self.execution.me();
        let excuse = Excuse {
            why: MOVED_ON,
            by,
            named: Members::NONE,
        };
        match self.leave(MOVED_ON).await {
            Ok(()) => Stop::Excused(excuse, failure),
            Err(failure) => failure.into(),
        }
    }

    pub(super) async fn broadcast(&self, round: u32, message: Vec<u8>) -> Result<(), Stop> {
        let said = self.execution.broadcast(round, message).await;
        said.map_err(|error| self.stopped(error))
    }

    pub(super) async fn gather(&self, round: u32, kind: Kind) -> Result<Inbox, Stop> {
        let gathered = self.execution.gather(round, kind, self.patience).await;
        gathered.map(inbox).map_err(|error| self.stopped(error))
    }

    async fn keygen(
        &self,
        desk: &Desk<'_>,
        threshold: u8,
        task: &Task,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let occasion = self.occasion(desk.session);
        let setup = Setup::keygen(&occasion.borrow(), threshold).map_err(setup_failure)?;
        self.rounds(desk, &setup, task, key).await
    }

    /// A failure that all parties come to ends the run.
    pub(super) async fn or_spend<T>(
        &self,
        desk: &Desk<'_>,
        result: Result<T, Failure>,
    ) -> Result<T, Stop> {
        if result.is_err() {
            self.spend(desk.session).await;
        }
        result.map_err(Stop::from)
    }

    pub(super) async fn spend(&self, session: &Session) {
        spend(session, &self.origin).await;
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

    /// Whether this party may confirm the run; if not, it ends the run before anybody has.
    async fn may_confirm(
        &self,
        desk: &Desk<'_>,
        setup: &Setup,
        task: &Task,
        key: &KeyFile,
    ) -> Result<(), Stop> {
        if let Err(barred) = key.standing().may_confirm(setup, task.abandons()) {
            let failure = barred_failure(&barred);
            return Err(match barred {
                Barred::OlderShare => self.move_on(failure).await,
                Barred::NoRun | Barred::Past(_) | Barred::Elsewhere(_) => {
                    self.leave(&failure.message).await?;
                    failure.into()
                }
            });
        }
        if let Err(failure) = key.has_room(&desk.session.id().to_string()) {
            self.leave(NO_ROOM).await?;
            return Err(failure.into());
        }
        Ok(())
    }

    /// Deal, share, confirm.
    pub(super) async fn rounds(
        &self,
        desk: &Desk<'_>,
        setup: &Setup,
        task: &Task,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        self.may_confirm(desk, setup, task, key).await?;
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
        let Some(pending) = confirm.take_pending() else {
            self.broadcast(ROUND_CONFIRM, message).await?;
            let confirms = self.patiently(ROUND_CONFIRM).await;
            let confirms = confirms.map_err(Self::undecided)?;
            let failure = match confirm.receive(&confirms) {
                Err(error) => self.failed(desk, setup, error).await,
                Ok(_) => Failure::failed("a certificate without this party's signature"),
            };
            return Err(failure.into());
        };
        // Once this is stored nobody says again what was said before.
        desk.session.durable().await.map_err(session_failure)?;
        let (held, abandon) = (key.held.as_deref(), task.abandons());
        key_file::admit(held, &mut key.undecided, pending, abandon)?;
        key.store(&desk.junto.profile, desk.name)?;
        self.confirm(desk, &signer, &deals, key).await
    }

    /// Goes on with a run that this party has confirmed before. It may have ended since.
    pub(super) async fn go_on(
        &self,
        desk: &Desk<'_>,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        match self.patiently(ROUND_DEAL).await {
            Ok(deals) => {
                let signer = desk.session.signing_key().await.map_err(session_failure)?;
                self.confirm(desk, &signer, &deals, key).await
            }
            Err(error) => {
                let setup = self.confirmed(key)?.setup().clone();
                self.ended(desk, &setup, key, error).await
            }
        }
    }

    /// What this party has confirmed in this run.
    fn confirmed<'k>(&self, key: &'k KeyFile) -> Result<&'k Pending, Failure> {
        let run = key.confirmed(&self.origin).map(|run| &run.pending);
        run.ok_or_else(|| Failure::failed("this party has not confirmed that run"))
    }

    /// Confirms the run, as this party has stored that it does, and waits for the certificate. From here on
    /// the others may succeed whatever happens to this run here.
    async fn confirm(
        &self,
        desk: &Desk<'_>,
        signer: &SigningKey,
        deals: &Inbox,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let pending = self.confirmed(key)?;
        let setup = pending.setup().clone();
        let me = party(desk.session.me().as_usize())
            .ok_or_else(|| Failure::failed("a party beyond the limit"))?;
        let participant = Participant::new(&setup, me, signer, self.execution.seed());
        let participant = participant.map_err(Failure::failed)?;
        let (confirm, message) = participant
            .resume(pending, deals)
            .map_err(Failure::failed)?;
        let said = self.execution.broadcast(ROUND_CONFIRM, message).await;
        // Storing took a while: others first. Whoever is stopped here has confirmed, and knows no more.
        tokio::task::yield_now().await;
        match said {
            Ok(()) => self.certified(desk, &confirm, key).await,
            Err(error @ SessionError::Peer(_)) => self.ended(desk, &setup, key, error).await,
            Err(error) => Err(session_failure(error).into()),
        }
    }

    /// The certificate: made of everybody's confirmation, or taken from whoever has it. Nobody who has
    /// confirmed may abort, since others may have the certificate; and whoever does so is not heeded.
    async fn certified(
        &self,
        desk: &Desk<'_>,
        confirm: &ConfirmRound<'_>,
        key: &mut KeyFile,
    ) -> Result<Certificate, Stop> {
        let confirms = self.patiently(ROUND_CONFIRM);
        tokio::pin!(confirms);
        let error = loop {
            let certificate = tokio::select! {
                confirms = &mut confirms => match confirms {
                    Ok(confirms) => match confirm.receive(&confirms) {
                        Ok(certificate) => return Ok(certificate),
                        Err(error) => return Err(self.failed(desk, confirm.setup(), error).await.into()),
                    },
                    Err(error) => break error,
                },
                certificate = certificate::handed(desk.junto, key) => certificate,
            };
            if certificate.setup() == confirm.setup() {
                return Ok(certificate);
            }
            desk.take(&self.origin, key, &certificate).await?;
        };
        self.ended(desk, confirm.setup(), key, error).await
    }

    /// What came of a run that has ended here after this party confirmed it.
    async fn ended(
        &self,
        desk: &Desk<'_>,
        setup: &Setup,
        key: &mut KeyFile,
        error: SessionError,
    ) -> Result<Certificate, Stop> {
        if let Some(certificate) = desk.search(&self.origin, setup, key).await? {
            return Ok(certificate);
        }
        let excused =
            excuse(&error, self.execution.me()).is_some_and(|excuse| excuse.why == MOVED_ON);
        // Whether this party as well holds a newer share than the run started from.
        let own = key.held.as_ref().map(|held| held.share.public());
        let moved = own
            .zip(setup.old_key())
            .is_some_and(|(own, old)| own != old && own.epoch() >= old.epoch());
        Err(if excused && moved {
            self.stopped(error)
        } else {
            Self::undecided(error).into()
        })
    }

    /// The messages of all in a round of a run that this party does not end any more.
    async fn patiently(&self, round: u32) -> Result<Inbox, SessionError> {
        let gathered = self
            .execution
            .gather_patiently(round, Kind::Broadcast, self.patience);
        gathered.await.map(inbox)
    }

    /// What an error of the execution means once others may have the key.
    fn undecided(error: SessionError) -> Failure {
        if let SessionError::Incomplete { missing, .. } = error {
            return Failure::new(
                Exit::Unreachable,
                format_args!("party {missing} has not confirmed the key in time"),
            )
            .party(missing)
            .help("nothing is lost: run the same command again, all of you");
        }
        let failure = session_failure(error);
        match failure.help {
            Some(_) => failure,
            None => failure.help(
                "should another party have the key all the same, any command on it takes that over",
            ),
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
