//! `junto bls sign`: one message from each signer, and whoever has T parts has the signature.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use junto_bls::{
    Abort, Inbox, Participant, PartyIndex, PublicKey, Setup, SignError, SignRound, Signature,
};
use junto_crypto::ed25519::SigningKey;
use junto_crypto::hash::sha256;
use junto_session::{Execution, Incoming, Members, Misuse, Mode, Purpose, Session, SessionError};
use serde_json::json;
use tokio::task::JoinSet;

use super::announce::{self, Announcements};
use super::certificate::{adopt, hand_out, handed};
use super::judge;
use super::key_file::{Held, KeyFile, uncertified};
use super::run::{OwnedOccasion, members, setup_failure};
use crate::failure::{Exit, Failure};
use crate::open::{Junto, SETTLE, session_failure};
use crate::output::{Output, Progress};

/// What the labels of signings begin with.
const LABEL: &str = "bls sign ";
/// Pairs of unfinished signings that a session keeps, half of all that it has room for.
const SIGNINGS_OPEN_MAX: usize = 512;

pub(crate) async fn run(
    junto: &Junto,
    name: &str,
    message: &[u8],
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let mut key = KeyFile::load(&junto.profile, name)?;
    let public_key = key.public_key().ok_or_else(|| uncertified(name))?;
    let kept = kept(junto, name, message, &public_key)?;
    let signature = match &kept {
        Some(signature) => {
            // This party has what it asked for. The others, after a reshare say, may need its part.
            if let Some(held) = &key.held
                && let Err(failure) = help(junto, name, held, message, patience, output).await
            {
                tracing::info!(error = failure.message, "cannot help the others to sign");
            }
            *signature
        }
        None => sign_with_latest(junto, name, message, &mut key, patience, output).await?,
    };
    let report = json!({
        "key": name,
        "scheme": junto_bls::CIPHERSUITE,
        "public_key": hex::encode(public_key.to_bytes()),
        "signature": hex::encode(signature.to_bytes()),
    });
    output.result(&report, || hex::encode(signature.to_bytes()))?;
    if kept.is_some() {
        junto.part().await;
        return Ok(());
    }
    junto.settle(SETTLE).await
}

/// Signs with the latest share whose certificate this party has, or gets while it waits. Who has told its part
/// under the share of before goes on to hear those of the others: they may have the signature by now, and be done.
async fn sign_with_latest(
    junto: &Junto,
    name: &str,
    message: &[u8],
    key: &mut KeyFile,
    patience: Duration,
    output: Output,
) -> Result<Signature, Failure> {
    let end = Instant::now() + patience;
    let mut signings = FuturesUnordered::new();
    let mut places = Vec::new();
    let mut worst = None;
    let signature = loop {
        let certificate = match &key.held {
            Some(held) => {
                let patience = end.saturating_duration_since(Instant::now());
                let place = Arc::new(Place::of(junto, held, message, patience).await?);
                let mut announced = place.announce(held, message).await?;
                places.push(Arc::clone(&place));
                let held = Arc::clone(held);
                signings.push(sign(junto, name, message, place, held, patience, output));
                let news = handed(junto, key);
                tokio::pin!(news);
                loop {
                    tokio::select! {
                        Some(ended) = signings.next() => match ended {
                            Ok(signature) => break Err(signature),
                            Err(failure) => {
                                let failure = failure.or_graver(worst.take());
                                if signings.is_empty() {
                                    return Err(announced.explain(failure));
                                }
                                output.say(format_args!("still waiting with another share: {}", failure.message));
                                worst = Some(failure);
                            }
                        },
                        (party, other) = announced.next() => output.say(format_args!(
                            "{}, and this party one with {}: compare the files if you mean the same",
                            announce::describe(party, &other),
                            hex::encode(sha256(message))
                        )),
                        certificate = &mut news => break Ok(certificate),
                    }
                }
            }
            None => {
                let news = tokio::time::timeout(patience, handed(junto, key)).await;
                Ok(news.map_err(|_| uncertified(name))?)
            }
        };
        match certificate {
            Err(signature) => break signature,
            Ok(certificate) => {
                if !adopt(junto, name, key, &certificate).await? {
                    return Err(Failure::failed("a certificate of another key"));
                }
                let news =
                    "another party had the newer share's certificate: going on with that share";
                output.say(news);
            }
        }
    };
    drop(signings);
    if let (Some(held), [_, _, ..]) = (&key.held, &places[..]) {
        // Whoever holds the newest share alone needs that part.
        help(junto, name, held, message, patience, output).await?;
        for place in places {
            place.leave(place.others).await?;
        }
    }
    Ok(signature)
}

/// Where a message is signed, and what as: everybody who signs it with this key in this epoch means the same.
struct Place {
    session: Session,
    label: String,
    setup: Setup,
    /// The other holders.
    others: Members,
}

impl Place {
    async fn of(
        junto: &Junto,
        held: &Held,
        message: &[u8],
        patience: Duration,
    ) -> Result<Self, Failure> {
        let session = junto.session(&held.origin.session, patience).await?;
        let key = held.share.public().clone();
        let label = format!(
            "{LABEL}{} {}",
            hex::encode(&key.digest()[..16]),
            hex::encode(sha256(message))
        );
        let occasion = OwnedOccasion::new(&session, &label);
        let setup = Setup::sign(&occasion.borrow(), key, held.holders(), message);
        let setup = setup.map_err(setup_failure)?;
        let others = members(&held.holders()).without(session.me());
        Ok(Place {
            session,
            label,
            setup,
            others,
        })
    }

    /// Begins to tell the other holders what this party signs, and to hear what they do.
    async fn announce(&self, held: &Held, message: &[u8]) -> Result<Announcements, Failure> {
        let own = sha256(message);
        let begun =
            Announcements::begin(&self.session, held.share.public(), own, self.others).await;
        begun.map_err(session_failure)
    }

    /// Opens an execution with each other holder. Pairs, because whoever takes part in an execution can
    /// end it: one of all holders would give each of them a veto over the signature, and any T parties
    /// are to suffice.
    async fn meet(&self, output: Output) -> Result<Met, Failure> {
        let mut met = Met {
            executions: Vec::new(),
            finished: false,
            out: None,
        };
        for other in self.others.iter() {
            let pair = between(&self.label, self.session.me(), other);
            match self.session.execution_as(pair).await {
                Ok(execution) => met.executions.push((other, execution)),
                Err(SessionError::Misuse(Misuse::Finished)) => met.finished = true,
                Err(error @ SessionError::Peer(_)) => {
                    output.say(format_args!("going on without {other}: {error}"));
                    met.out = Some(session_failure(error));
                }
                Err(error) => return Err(session_failure(error)),
            }
        }
        Ok(met)
    }

    /// Ends what [`Place::meet`] opened, once the signature is stored.
    async fn leave(&self, others: Members) -> Result<(), Failure> {
        for other in others.iter() {
            let pair = between(&self.label, self.session.me(), other);
            let finished = match self.session.execution_as(pair).await {
                Ok(execution) => execution.finish().await.map(drop),
                Err(error) => Err(error),
            };
            match finished {
                // Some pairs end before, one way or the other.
                Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
                Err(error) => return Err(session_failure(error)),
            }
        }
        Ok(())
    }
}

/// Gives this party's part to the others and waits for nobody.
async fn help(
    junto: &Junto,
    name: &str,
    file: &Held,
    message: &[u8],
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let place = Place::of(junto, file, message, patience).await?;
    hand_out(junto, name, &file.certificate).await;
    make_room(&place.session, message).await?;
    let met = place.meet(output).await?;
    let Some((_, first)) = met.executions.first() else {
        return place.leave(place.others).await;
    };
    let signer = place.session.signing_key().await.map_err(session_failure)?;
    let (_, part) = own_part(&place, &signer, first, file)?;
    let full = tell(&met.executions, &part).await?;
    spare_full(junto, &place.session).await?;
    place.leave(place.others.minus(full)).await
}

/// Says this party's part to all. Who has taken so little that there is no room even for something small
/// keeps nobody from getting it: returns all of those.
async fn tell(executions: &[Pair], part: &[u8]) -> Result<Members, Failure> {
    let mut full = Members::NONE;
    for (other, execution) in executions {
        match execution.send_now(0, *other, part.to_vec()).await {
            // One that has ended the execution wants no part, and the next one may.
            Ok(()) | Err(SessionError::Peer(_)) => {}
            Err(SessionError::NoRoom(_)) => full = full.with(*other),
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok(full)
}

/// Goes on trying to say it to those who had no room for it. They may be heard without.
fn tell_later(executions: &[Pair], full: Members, part: &[u8]) -> JoinSet<()> {
    let mut late = JoinSet::new();
    for (other, execution) in executions {
        if !full.contains(*other) {
            continue;
        }
        let (other, execution, part) = (*other, execution.clone(), part.to_vec());
        late.spawn(async move {
            if let Err(error) = execution.send(0, other, part).await {
                tracing::debug!(party = other.as_usize(), %error, "cannot send a part");
            }
        });
    }
    late
}

/// This party's part of the signature.
fn own_part<'a>(
    place: &'a Place,
    signer: &'a SigningKey,
    execution: &Execution,
    file: &Held,
) -> Result<(SignRound<'a>, Vec<u8>), Failure> {
    let me = party(place.session.me())?;
    let participant =
        Participant::new(&place.setup, me, signer, execution.seed()).map_err(Failure::failed)?;
    let (round, part) = participant
        .sign(Some(&file.share))
        .map_err(Failure::failed)?;
    let part = part.ok_or_else(|| Failure::failed("this party has no part in the signature"))?;
    Ok((round, part))
}

async fn sign(
    junto: &Junto,
    name: &str,
    message: &[u8],
    place: Arc<Place>,
    file: Arc<Held>,
    patience: Duration,
    output: Output,
) -> Result<Signature, Failure> {
    let session = &place.session;
    hand_out(junto, name, &file.certificate).await;
    let required = usize::from(file.share.public().threshold().required());
    make_room(session, message).await?;
    let executions = place.meet(output).await?.enough(required)?;
    let Some((_, first)) = executions.first() else {
        return Err(Failure::failed("a key of one party"));
    };
    let signer = session.signing_key().await.map_err(session_failure)?;
    let (round, part) = own_part(&place, &signer, first, &file)?;
    // A newer share may come while this one waits: then nobody holds this one any more.
    drop(file);
    // Said to all before anybody is heard: whoever needs this part gets it.
    let full = tell(&executions, &part).await?;
    let mut late = tell_later(&executions, full, &part);
    let parts = Parts {
        round,
        required,
        able: executions.len() + 1,
        inbox: Inbox::new(),
        output,
        progress: output.progress(format!("signing: 1 of {required} parts")),
    };
    let blamed = |blames| {
        let disputes = Vec::new();
        judge::record(junto, session, &place.setup, &Abort { blames, disputes })
    };
    let hearing = hear(&executions, patience);
    let signature = parts.signature(hearing, message, blamed).await?;
    // Nobody runs the protocol again once the signature is there: what was said must not be lost.
    session.durable().await.map_err(session_failure)?;
    keep(junto, name, message, &signature)?;
    late.shutdown().await;
    let full = tell(&executions, &part).await?;
    spare_full(junto, session).await?;
    place.leave(place.others.minus(full)).await?;
    Ok(signature)
}

/// The command does not wait until those have their part for whom much more waits.
async fn spare_full(junto: &Junto, session: &Session) -> Result<(), Failure> {
    let full = session.full().await.map_err(session_failure)?;
    junto.spare(session, full).await
}

/// Whom a party exchanges parts with, and where.
type Pair = (junto_session::PartyIndex, Execution);

/// What came of waiting for somebody's part.
type Heard = (junto_session::PartyIndex, Result<Incoming, SessionError>);

/// Waits for the parts of all at once, for as long as patience lasts.
fn hear(executions: &[Pair], patience: Duration) -> JoinSet<Heard> {
    let mut hearing = JoinSet::new();
    for (other, execution) in executions {
        let (other, execution) = (*other, execution.clone());
        hearing.spawn(async move { (other, execution.next(patience).await) });
    }
    hearing
}

fn too_few(message: &[u8], have: usize, required: usize) -> Failure {
    Failure::new(
        Exit::Unreachable,
        format_args!(
            "only {have} of {required} parties signed this message in time (SHA-256 {})",
            hex::encode(sha256(message))
        ),
    )
    .help("this party's part is on its way: run the command again when the others have signed; all must sign the same bytes, so compare the SHA-256")
}

/// The parts of a signature, as they come.
struct Parts<'a> {
    round: SignRound<'a>,
    /// How many it takes.
    required: usize,
    /// Of how many one is here or may come, this party's own included.
    able: usize,
    inbox: Inbox,
    output: Output,
    progress: Progress,
}

impl Parts<'_> {
    /// Waits for enough of them. Who breaks off or sends a wrong one has no veto as long as enough others
    /// sign.
    async fn signature(
        mut self,
        mut hearing: JoinSet<Heard>,
        message: &[u8],
        blamed: impl Fn(Vec<junto_bls::Blame>) -> Failure,
    ) -> Result<Signature, Failure> {
        loop {
            // A task ends early only together with the set.
            let heard = hearing.join_next().await.and_then(Result::ok);
            let (from, incoming) = match heard {
                Some((from, Ok(incoming))) => (from, incoming),
                Some((_, Err(SessionError::Incomplete { .. }))) | None => {
                    return Err(too_few(message, self.inbox.len() + 1, self.required));
                }
                Some((_, Err(error @ SessionError::Peer(_)))) => {
                    self.able -= 1;
                    if self.able < self.required {
                        return Err(session_failure(error));
                    }
                    let said = format_args!("going on without a party: {error}");
                    self.output.say(said);
                    continue;
                }
                Some((_, Err(error))) => return Err(session_failure(error)),
            };
            self.inbox.insert(party(from)?, incoming.payload.to_vec());
            match self.round.receive(&self.inbox) {
                Ok(outcome) => {
                    if !outcome.blames.is_empty() {
                        let warning = blamed(outcome.blames).message;
                        self.output.say(format_args!("warning: {warning}"));
                    }
                    self.progress.done();
                    return Ok(outcome.signature);
                }
                Err(SignError::TooFew { valid, blames, .. }) => {
                    let required = self.required;
                    let step = format!("signing: {valid} of {required} parts");
                    self.progress.step(step);
                    if self.able - blames.len() < required {
                        return Err(blamed(blames));
                    }
                }
                Err(error) => return Err(Failure::failed(error)),
            }
        }
    }
}

/// The executions in which a party exchanges its part with each other holder.
struct Met {
    executions: Vec<Pair>,
    /// Whether some are finished already.
    finished: bool,
    /// Why the last one that was aborted was.
    out: Option<Failure>,
}

impl Met {
    /// The executions, if together with this party they are enough.
    fn enough(self, required: usize) -> Result<Vec<Pair>, Failure> {
        if self.finished {
            return Err(Failure::failed(
                "this message was signed before, but its signature is no longer in the profile; or its signing was given up to make room for others",
            )
            .help("after a `junto bls refresh` of the key it can be signed again"));
        }
        if self.executions.len() + 1 < required {
            let few = || Failure::failed("too few parties to sign");
            return Err(self.out.unwrap_or_else(few));
        }
        Ok(self.executions)
    }
}

/// Gives up signings that never came to an end, if there are so many that they leave no room in the session
/// for anything else: this party's part is on its way to whoever wanted it. Those of this message stay.
async fn make_room(session: &Session, message: &[u8]) -> Result<(), Failure> {
    let open = session.open_executions().await.map_err(session_failure)?;
    let own = hex::encode(sha256(message));
    let other = |open: &Purpose| open.label.starts_with(LABEL) && !open.label.contains(&own);
    let others: Vec<_> = open.into_iter().filter(other).collect();
    if others.len() < SIGNINGS_OPEN_MAX {
        return Ok(());
    }
    for purpose in others {
        let finished = match session.execution_as(purpose).await {
            Ok(execution) => execution.finish().await.map(drop),
            Err(error) => Err(error),
        };
        match finished {
            Ok(()) | Err(SessionError::Misuse(Misuse::Finished) | SessionError::Peer(_)) => {}
            Err(error) => return Err(session_failure(error)),
        }
    }
    Ok(())
}

pub(crate) fn between(
    label: &str,
    one: junto_session::PartyIndex,
    other: junto_session::PartyIndex,
) -> Purpose {
    Purpose {
        label: format!("{label} {}-{}", one.min(other), one.max(other)),
        members: Members::NONE.with(one).with(other),
        mode: Mode::Messages,
    }
}

fn party(party: junto_session::PartyIndex) -> Result<PartyIndex, Failure> {
    u8::try_from(party.as_usize())
        .ok()
        .and_then(PartyIndex::new)
        .ok_or_else(|| Failure::failed("a party beyond the limit"))
}

pub(crate) fn signature_file(name: &str, message: &[u8]) -> String {
    format!("bls/{name}.signatures/{}", hex::encode(sha256(message)))
}

/// The signature, if this message was signed before: there is only one.
fn kept(
    junto: &Junto,
    name: &str,
    message: &[u8],
    key: &PublicKey,
) -> Result<Option<Signature>, Failure> {
    let Some(bytes) = junto.profile.read_sealed(&signature_file(name, message))? else {
        return Ok(None);
    };
    Ok(Signature::from_bytes(&bytes)
        .ok()
        .filter(|signature| junto_bls::verify(key, message, signature)))
}

fn keep(junto: &Junto, name: &str, message: &[u8], signature: &Signature) -> Result<(), Failure> {
    junto
        .profile
        .write_sealed(&signature_file(name, message), &signature.to_bytes())
}
