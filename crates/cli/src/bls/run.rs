//! Key generation, refresh and reshare: three rounds over an execution, then the certified key is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use junto_bls::{
    Certificate, Epoch, Inbox, KeyPublic, KeyShare, Occasion, Participant, PartyIndex, RunError,
    Setup, SetupError, ShareIndex,
};
use junto_crypto::ed25519::VerifyingKey;
use junto_session::{
    Blame, Execution, Fault, Kind, Members, Misuse, Reason, Session, SessionError,
};

use super::key_file::{self, KeyFile};
use super::{describe, describe_text, judge};
use crate::failure::{Exit, Failure};
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::{Output, Progress};

/// Rounds of the execution. In the first, used by refresh and reshare alone, parties say what they hold.
const ROUND_HOLDINGS: u32 = 0;
/// Parties make sure that they mean the same run: without it, whoever was told another threshold
/// would look like a cheat.
const ROUND_SETUP: u32 = 1;
const ROUND_DEAL: u32 = 2;
const ROUND_SHARE: u32 = 3;
const ROUND_CONFIRM: u32 = 4;

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
    let purpose = format!("bls keygen {name}");
    if let Some(key) = KeyFile::find(&junto.profile, name)? {
        let made_by_this = key.session == session.id().to_string()
            && key.share.public().threshold().required() == threshold
            && key.label.starts_with(&format!("{purpose} #"));
        if made_by_this {
            conclude(junto, &session, name, &key, output).await?;
            return Ok(());
        }
        return Err(Failure::usage(format_args!(
            "there is a key `{name}` in this profile, of session {}",
            key.session
        ))
        .help("choose another name with `--name`, the same for all parties"));
    }
    let progress = output.progress("making a key: waiting for the other parties");
    let (run, setup, made) = loop {
        let run = Run::open(&session, &purpose, 0, patience, output).await?;
        let occasion = run.occasion(&session);
        let setup = Setup::keygen(&occasion.borrow(), threshold).map_err(setup_failure)?;
        match run.rounds(junto, &session, &setup, None, &progress).await {
            Ok(made) => break (run, setup, made),
            Err(Stop::Late) => output.say(LATE),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, &setup, made, output).await
}

pub(crate) async fn refresh(
    junto: &Junto,
    name: &str,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let old = KeyFile::load(&junto.profile, name)?;
    let session = junto.session(&old.session, patience).await?;
    if interrupted(&session, &old).await? {
        return conclude(junto, &session, name, &old, output).await;
    }
    let progress = output.progress("refreshing: waiting for the other parties");
    let purpose = format!("bls refresh {name}");
    let (run, setup, made) = loop {
        let run = Run::open(&session, &purpose, old.run + 1, patience, output).await?;
        match run.refresh(junto, &session, &old, &progress).await {
            Ok((setup, made)) => break (run, setup, made),
            Err(Stop::Late) => output.say(LATE),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, &setup, made, output).await
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
    let old = KeyFile::find(&junto.profile, name)?;
    let session = match (session, &old) {
        (Some(session), _) => junto.session(session, patience).await?,
        (None, Some(old)) => junto.session(&old.session, patience).await?,
        (None, None) => {
            return Err(
                Failure::usage(format_args!("there is no key `{name}` in this profile"))
                    .help("to receive a share of a key of others, name the session: `--session S`"),
            );
        }
    };
    let here = session.id().to_string();
    let held_here = old.as_ref().filter(|old| old.session == here);
    if let Some(old) = held_here
        && interrupted(&session, old).await?
    {
        return conclude(junto, &session, name, old, output).await;
    }
    let first = held_here.map_or(0, |old| old.run + 1);
    let progress = output.progress("resharing: waiting for the other parties");
    let purpose = format!("bls reshare {name}");
    let threshold = small(threshold)?;
    let (run, setup, made) = loop {
        let run = Run::open(&session, &purpose, first, patience, output).await?;
        let made = run.reshare(junto, &session, old.as_ref(), threshold, &progress);
        match made.await {
            Ok((setup, made)) => break (run, setup, made),
            Err(Stop::Late) => output.say(LATE),
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    };
    progress.done();
    run.keep(junto, &session, name, &setup, made, output).await
}

/// Whether the run that made this key was cut short after the key was stored: then the same command
/// again means that run, not another one.
async fn interrupted(session: &Session, key: &KeyFile) -> Result<bool, Failure> {
    match session.execution(&key.label).await {
        Ok(_) => Ok(true),
        Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => Ok(false),
        Err(error) => Err(session_failure(error)),
    }
}

/// The key is stored: reports it, hands out what the others wait for, and only then calls the run
/// finished, so that whoever is stopped in between can run the same command again.
async fn conclude(
    junto: &Junto,
    session: &Session,
    name: &str,
    key: &KeyFile,
    output: Output,
) -> Result<(), Failure> {
    output.result(&describe(name, key), || describe_text(name, key))?;
    junto.settle(SETTLE).await?;
    match session.execution(&key.label).await {
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
    /// The others gave up waiting for this party before it came: the next run is the one to meet in.
    Late,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// What a run makes.
type Made = (KeyShare, Certificate);

/// An execution that makes a key.
struct Run {
    execution: Execution,
    label: String,
    number: u32,
    patience: Duration,
}

impl Run {
    /// Opens the first run of that name that has not ended before.
    async fn open(
        session: &Session,
        purpose: &str,
        first: u32,
        patience: Duration,
        output: Output,
    ) -> Result<Self, Failure> {
        for number in first..first.saturating_add(RUNS_MAX) {
            let label = format!("{purpose} #{number}");
            match session.execution(&label).await {
                Ok(execution) => {
                    return Ok(Run {
                        execution,
                        label,
                        number,
                        patience,
                    });
                }
                // Final for its label; the user has decided to try again by running the command again.
                Err(SessionError::Peer(blame)) => output.say(format_args!(
                    "run {number} was aborted: {}",
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
            && let Reason::Silent { accused, .. } = &**reason
            && accused.contains(self.execution.me())
        {
            return Stop::Late;
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

    async fn refresh(
        &self,
        junto: &Junto,
        session: &Session,
        old: &KeyFile,
        progress: &Progress,
    ) -> Result<(Setup, Made), Stop> {
        let (key, holders) = self.holdings(session, Some(old)).await?;
        let occasion = self.occasion(session);
        let setup = Setup::refresh(&occasion.borrow(), key, holders).map_err(setup_failure)?;
        let share = Some(&old.share);
        let made = self.rounds(junto, session, &setup, share, progress).await?;
        Ok((setup, made))
    }

    async fn reshare(
        &self,
        junto: &Junto,
        session: &Session,
        old: Option<&KeyFile>,
        threshold: u8,
        progress: &Progress,
    ) -> Result<(Setup, Made), Stop> {
        let (key, dealers) = self.holdings(session, old).await?;
        progress.step(format!(
            "resharing {}",
            hex::encode(key.public_key().to_bytes())
        ));
        let occasion = self.occasion(session);
        let holders: BTreeSet<PartyIndex> = (0..session.parties().as_usize())
            .filter_map(party)
            .collect();
        // Any t holders suffice; all take the first t, so that all mean the same.
        let required = usize::from(key.threshold().required());
        let dealers: BTreeMap<_, _> = dealers.into_iter().take(required).collect();
        let deals = party(session.me().as_usize()).is_some_and(|me| dealers.contains_key(&me));
        let setup = Setup::reshare(&occasion.borrow(), key, dealers, holders, threshold)
            .map_err(setup_failure)?;
        let share = old.map(|old| &old.share).filter(|_| deals);
        let made = self.rounds(junto, session, &setup, share, progress).await?;
        Ok((setup, made))
    }

    /// Everybody says which share of which key it holds; all get the same answer.
    async fn holdings(
        &self,
        session: &Session,
        old: Option<&KeyFile>,
    ) -> Result<(KeyPublic, BTreeMap<PartyIndex, ShareIndex>), Stop> {
        let own = old.map_or_else(Vec::new, |old| {
            let mut bytes = vec![old.share.index().value()];
            bytes.extend_from_slice(&old.share.public().encode());
            bytes
        });
        self.broadcast(ROUND_HOLDINGS, own).await?;
        let said = self.gather(ROUND_HOLDINGS, Kind::Broadcast).await?;
        let agreed = agree(&said);
        if agreed.is_err() {
            self.spend(session).await;
        }
        agreed.map_err(Stop::from)
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
        let message = format!("party {differ} was told something else about this key");
        Err(Failure::refused(message)
            .help("give the same `--threshold` everywhere and run the command again, all of you")
            .party(differ)
            .into())
    }

    /// Deal, share, confirm.
    async fn rounds(
        &self,
        junto: &Junto,
        session: &Session,
        setup: &Setup,
        old: Option<&KeyShare>,
        progress: &Progress,
    ) -> Result<Made, Stop> {
        let signer = session.signing_key().await.map_err(session_failure)?;
        let me = party(session.me().as_usize())
            .ok_or_else(|| Failure::failed("a party beyond the limit"))?;
        let participant =
            Participant::new(setup, me, &signer, self.execution.seed()).map_err(Failure::failed)?;
        let (deal, message) = participant.start(old).map_err(Failure::failed)?;
        self.agree(session, setup).await?;
        self.broadcast(ROUND_DEAL, message).await?;
        let deals = self.gather(ROUND_DEAL, Kind::Broadcast).await?;
        progress.step("dealing shares");
        let (share, messages) = match deal.receive(&deals) {
            Ok(next) => next,
            Err(error) => return Err(self.failed(junto, session, setup, error).await.into()),
        };
        for to in self.execution.others().iter() {
            let Some(message) = party(to.as_usize()).and_then(|to| messages.get(&to)) else {
                continue;
            };
            let sent = self.execution.send(ROUND_SHARE, to, message.to_vec()).await;
            sent.map_err(|error| self.stopped(error))?;
        }
        let shares = self.gather(ROUND_SHARE, Kind::P2p).await?;
        progress.step("confirming");
        let (confirm, message) = share.receive(&shares).map_err(Failure::failed)?;
        self.broadcast(ROUND_CONFIRM, message).await?;
        let confirms = self.confirmations().await?;
        let certificate = match confirm.receive(&confirms) {
            Ok(certificate) => certificate,
            Err(error) => return Err(self.failed(junto, session, setup, error).await.into()),
        };
        let pending = confirm
            .into_pending()
            .ok_or_else(|| Failure::failed("this party has no share to confirm"))?;
        let Epoch { share, .. } = pending.activate(&certificate).map_err(|(_, error)| {
            Failure::failed(format_args!("the certificate does not hold: {error}"))
        })?;
        let share = share.ok_or_else(|| Failure::failed("this party got no share"))?;
        Ok((share, certificate))
    }

    /// Who has all of them has the key. So nobody who has confirmed may abort: the others would
    /// hold a key, or an epoch of it, that this party has given up.
    async fn confirmations(&self) -> Result<Inbox, Stop> {
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
            .help("nothing is lost: run the same command again, all of you")
            .into()),
            Err(error) => Err(self.stopped(error)),
        }
    }

    async fn failed(
        &self,
        junto: &Junto,
        session: &Session,
        setup: &Setup,
        error: RunError,
    ) -> Failure {
        let failure = match error {
            RunError::Misuse(misuse) => return Failure::failed(misuse),
            RunError::Abort(abort) => judge::record(junto, session, setup, &abort),
            RunError::Degenerate => Failure::failed(error).help("run the command again"),
        };
        self.spend(session).await;
        failure
    }

    /// Stores the key; see [`conclude`] for the rest.
    async fn keep(
        self,
        junto: &Junto,
        session: &Session,
        name: &str,
        setup: &Setup,
        made: Made,
        output: Output,
    ) -> Result<(), Failure> {
        let (share, certificate) = made;
        let file = KeyFile {
            share,
            certificate,
            session: session.id().to_string(),
            holders: setup.holders(),
            run: self.number,
            label: self.label.clone(),
        };
        // Nobody runs the protocol again once the key is there: what was said must not be lost.
        session.durable().await.map_err(session_failure)?;
        file.store(&junto.profile, name)?;
        conclude(junto, session, name, &file, output).await
    }
}

/// What the parties say they hold: the key, and who has which share of it.
fn agree(said: &Inbox) -> Result<(KeyPublic, BTreeMap<PartyIndex, ShareIndex>), Failure> {
    let mut agreed: Option<KeyPublic> = None;
    let mut holders: BTreeMap<PartyIndex, ShareIndex> = BTreeMap::new();
    for (sender, bytes) in said {
        let Some((&index, key)) = bytes.split_first() else {
            continue;
        };
        let lies = |what: &str| {
            Failure::new(Exit::Misbehaved, format_args!("{sender} {what}")).party(sender.value())
        };
        let index = ShareIndex::new(index).ok_or_else(|| lies("announced an impossible share"))?;
        let key = KeyPublic::decode(key).map_err(|_| lies("announced a malformed key"))?;
        if agreed.as_ref().is_some_and(|first| *first != key) {
            return Err(Failure::new(
                Exit::Misbehaved,
                "the parties hold different keys or epochs of that name",
            )
            .help("compare `junto bls list` with the others"));
        }
        agreed = Some(key);
        if let Some((other, _)) = holders.iter().find(|(_, known)| **known == index) {
            // Which of them lies cannot be known from what they say.
            return Err(Failure::new(
                Exit::Misbehaved,
                format_args!("{other} and {sender} announce the same share: one of them lies"),
            )
            .party(format_args!("{}, {}", other.value(), sender.value())));
        }
        holders.insert(*sender, index);
    }
    let key = agreed.ok_or_else(|| Failure::failed("no party of the session holds that key"))?;
    Ok((key, holders))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A key with a threshold of 2 among 3, as a party announces it.
    fn holding(index: u8) -> Vec<u8> {
        const GENERATOR: &str = "97f1d3a73197d7942695638c4fa9ac0fc3688c4f9774b905a14e3a3f171bac586c55e83ff97a1aeffb3af00adb22c6bb";
        let point = hex::decode(GENERATOR).unwrap();
        let epoch = [0; 8];
        [&[index, 1], &epoch[..], &[2, 3], &point, &point].concat()
    }

    fn said(indices: &[(u8, u8)]) -> Inbox {
        let holding = |(p, index): &(u8, u8)| (PartyIndex::new(*p).unwrap(), holding(*index));
        indices.iter().map(holding).collect()
    }

    #[test]
    fn whoever_announces_the_share_of_another_does_not_get_that_one_blamed() {
        let (_, holders) = agree(&said(&[(0, 1), (1, 2), (2, 3)])).unwrap();
        assert_eq!(holders.len(), 3);
        // The first one lies; the second is the holder.
        let failure = agree(&said(&[(0, 2), (1, 2), (2, 3)])).unwrap_err();
        assert_eq!(failure.party.as_deref(), Some("0, 1"));
    }
}
