//! The one task that owns the core and the store. Everybody else asks it through [`Handle`].

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use junto_crypto::aead::StoreKey;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use zeroize::Zeroizing;

use crate::{
    carrier::{
        Carriage, Carrier, CarrierError, ConnectionId, Event, Events, Lines, RequestId, Tag,
        Trouble, TroubleKind,
    },
    proto::{
        conduct::Room,
        error::{LocalError, SessionError},
        node::Node,
        party::{Members, PartyIndex},
        step::{Effect, LocalId, Outcome, Step, Store},
    },
    store::SqliteStore,
};

/// Calls waiting for the task. Callers await their answers, so more only costs memory.
const COMMANDS_MAX: usize = 256;
/// Inputs taken into one commit: amortises the sync to disk, bounds the delay of the first.
const BATCH_MAX: usize = 512;
/// How long a commit may wait for what the application does with what it was just told, so that
/// both go into one: a hop costs one sync to disk instead of two. Nothing that is to leave waits.
const REACTION_LONGEST: Duration = Duration::from_millis(2);
/// Acknowledgements that may wait meanwhile: keeps a stream of messages flowing.
const REACTION_ACKS_MAX: usize = 32;
/// First and longest pause before a carrier call is repeated.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// How long a sender waits for room in the outbox of a party that takes nothing. Minutes of silence are
/// normal, and what has been said stays said; but no caller waits for ever.
pub(crate) const ROOM_LONGEST: Duration = Duration::from_secs(10 * 60);

/// How a call went.
enum Progress {
    /// Not possible yet: try again after the next change.
    Later,
    /// Answered, or the answer waits for the commit.
    Done(Option<Box<dyn FnOnce() + Send>>),
}

type Attempt = Box<dyn FnMut(&mut Node, &mut ChaCha20Rng, &mut Step) -> Progress + Send>;

/// When a caller may hear of success.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// At once: a restart would lead a deterministic caller to the same point, and nothing it does
    /// next leaves this machine before this is durable.
    AtOnce,
    /// When it is durable.
    Durable,
}

/// Reaches the task.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Attempt>,
    troubles: Arc<Troubles>,
    carrier: Arc<dyn Carrier>,
    /// Carrier calls that are under way.
    under_way: watch::Receiver<UnderWay>,
    /// [`ROOM_LONGEST`], but in tests.
    pub(crate) room: Duration,
}

/// What went wrong lately.
#[derive(Default)]
struct Troubles {
    /// Why the task ended.
    fatal: Mutex<Option<String>>,
    /// What the carrier said last.
    carrier: watch::Sender<Option<Trouble>>,
    /// What was lost or altered on its way, and not taken by the application yet.
    warnings: Mutex<VecDeque<Warning>>,
}

/// Warnings that are kept for an application that does not take them, some hundred bytes each; older ones go.
const WARNINGS_MAX: usize = 64;

/// Something on a connection of a session was lost, altered or cannot be read. The session makes up for it, or names
/// who is at fault; but an application's owner may want to know, and ask that party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The session's name; empty if it is not known whose connection it is.
    pub session: String,
    /// The party at the other end, once the parties are known.
    pub party: Option<PartyIndex>,
    /// What happened, to follow the name of the party in a sentence.
    pub what: String,
}

impl Troubles {
    fn fatal(&self) -> Option<String> {
        let fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.clone()
    }

    fn set_fatal(&self, text: String) {
        *self.fatal.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    fn set_carrier(&self, kind: TroubleKind, text: String) {
        self.carrier.send_replace(Some(Trouble { kind, text }));
    }

    fn warn(&self, warning: Warning) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() == WARNINGS_MAX {
            warnings.pop_front();
        }
        warnings.push_back(warning);
    }

    /// Waits until the carrier complains of this machine's storage.
    async fn storage(&self) -> String {
        let mut troubles = self.carrier.subscribe();
        let storage = |trouble: &Option<Trouble>| matches!(trouble, Some(trouble) if trouble.kind == TroubleKind::Storage);
        match troubles.wait_for(storage).await.as_deref() {
            Ok(Some(trouble)) => trouble.text.clone(),
            // The sender is `self`.
            Ok(None) | Err(_) => String::new(),
        }
    }
}

/// Carrier calls by number, and what each is about.
type UnderWay = BTreeMap<u64, Place>;

/// What a carrier call is about.
#[derive(Clone, Copy)]
enum Place {
    Tag(Tag),
    Connection(ConnectionId),
    Request(RequestId),
}

impl Place {
    fn of(effect: &Effect) -> Self {
        match effect {
            Effect::Address { tag, .. }
            | Effect::CloseAddress { tag }
            | Effect::Invite { tag, .. }
            | Effect::Join { tag, .. } => Self::Tag(*tag),
            Effect::Accept { request, .. } | Effect::Reject { request } => Self::Request(*request),
            Effect::Send { connection, .. }
            | Effect::Ack { connection, .. }
            | Effect::Delete { connection } => Self::Connection(*connection),
        }
    }

    fn is_among(self, lines: &Lines) -> bool {
        match self {
            Self::Tag(tag) => lines.tags.contains(&tag),
            Self::Connection(connection) => lines.connections.contains(&connection),
            Self::Request(request) => lines.requests.contains(&request),
        }
    }
}

/// Tells an older copy of a store from the one in use: gets the mark that the last opening left in it (none
/// in a new one), and gives the one to leave now, or none to refuse it.
pub type Succeed = Box<dyn FnOnce(Option<[u8; 16]>) -> Option<[u8; 16]> + Send>;

/// Some sessions, and what the carrier does for them: also for those that have been closed since.
#[derive(Clone, Default)]
pub struct Used {
    /// Each with the parties that nobody waits for.
    sessions: BTreeMap<LocalId, Members>,
    lines: Lines,
}

impl Used {
    /// What the carrier does for them.
    #[must_use]
    pub fn lines(&self) -> &Lines {
        &self.lines
    }
}

impl Handle {
    /// Runs `call` until it answers. It may run many times; whatever it changes goes into the step.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        answer: Answer,
        mut call: impl FnMut(&mut Node, &mut ChaCha20Rng, &mut Step) -> Option<Result<T, SessionError>>
        + Send
        + 'static,
    ) -> Result<T, SessionError> {
        let (reply, answered) = oneshot::channel();
        let mut reply = Some(reply);
        let attempt: Attempt = Box::new(move |node, rng, step| {
            if reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return Progress::Done(None); // the caller has gone
            }
            let Some(result) = call(node, rng, step) else {
                return Progress::Later;
            };
            let Some(reply) = reply.take() else {
                return Progress::Done(None);
            };
            let send = move || drop(reply.send(result));
            if answer == Answer::AtOnce {
                send();
                return Progress::Done(None);
            }
            Progress::Done(Some(Box::new(send)))
        });
        self.commands
            .send(attempt)
            .await
            .map_err(|_| self.stopped())?;
        answered.await.map_err(|_| self.stopped())?
    }

    /// Says something, if there is that room for it now.
    pub(crate) async fn say_now(
        &self,
        answer: Answer,
        local: LocalId,
        room: Room,
        mut say: impl FnMut(&mut Node, &mut ChaCha20Rng, &mut Step) -> Result<(), SessionError>
        + Send
        + 'static,
    ) -> Result<(), SessionError> {
        self.call(answer, move |node, rng, step| {
            let full = node.without_room(&local, room);
            if !full.is_empty() {
                return Some(Err(SessionError::NoRoom(full)));
            }
            Some(say(node, rng, step))
        })
        .await
    }

    /// Says something, as soon as there is that room for it.
    pub(crate) async fn say(
        &self,
        answer: Answer,
        local: LocalId,
        room: Room,
        say: impl FnMut(&mut Node, &mut ChaCha20Rng, &mut Step) -> Result<(), SessionError>
        + Clone
        + Send
        + 'static,
    ) -> Result<(), SessionError> {
        let end = Instant::now() + self.room;
        loop {
            let full = match self.say_now(answer, local, room, say.clone()).await {
                Err(SessionError::NoRoom(full)) => full,
                said => return said,
            };
            let waiting = self.call(Answer::AtOnce, move |node, _, _| {
                let full = node.without_room(&local, room);
                full.is_empty().then_some(Ok(()))
            });
            match tokio::time::timeout_at(end, waiting).await {
                Ok(room) => room?,
                Err(_) => return Err(SessionError::NoRoom(full)),
            }
        }
    }

    /// Adds a session to those that [`Handle::settle`] is about.
    pub(crate) async fn note(&self, local: LocalId, used: &mut Used) -> Result<(), SessionError> {
        used.sessions.entry(local).or_default();
        let lines = self.lines(used.sessions.clone()).await?;
        used.lines.extend(lines);
        Ok(())
    }

    /// [`Handle::settle`] waits for nothing that is for these parties of a session.
    pub(crate) async fn spare(
        &self,
        local: LocalId,
        parties: Members,
        used: &mut Used,
    ) -> Result<(), SessionError> {
        let all = self.lines(BTreeMap::from([(local, Members::NONE)])).await?;
        let rest = self.lines(BTreeMap::from([(local, parties)])).await?;
        let spared = &all.connections - &rest.connections;
        used.lines.connections.retain(|it| !spared.contains(it));
        used.sessions.insert(local, parties);
        Ok(())
    }

    async fn lines(&self, sessions: BTreeMap<LocalId, Members>) -> Result<Lines, SessionError> {
        self.call(Answer::AtOnce, move |node, _, _| {
            let mut lines = Lines::default();
            for (local, spared) in &sessions {
                lines.extend(node.lines(local, *spared));
            }
            Some(Ok(lines))
        })
        .await
    }

    /// Returns when everything said so far in these sessions has left this machine.
    pub(crate) async fn settle(&self, used: &Used) -> Result<(), SessionError> {
        tokio::select! {
            settled = self.settle_lines(used) => settled,
            text = self.troubles.storage() => Err(LocalError::Storage(text).into()),
        }
    }

    async fn settle_lines(&self, used: &Used) -> Result<(), SessionError> {
        let mut lines = used.lines.clone();
        loop {
            // After this call is answered, whatever was said before it is with the carrier's calls. A
            // message larger than the window takes answers of the peer to get there.
            let sessions = used.sessions.clone();
            self.call(Answer::Durable, move |node, _, _| {
                sessions
                    .iter()
                    .all(|(local, spared)| node.is_given(local, *spared))
                    .then_some(Ok(()))
            })
            .await?;
            lines.extend(self.lines(used.sessions.clone()).await?);
            self.under_way
                .clone()
                .wait_for(|calls| !calls.values().any(|place| place.is_among(&lines)))
                .await
                .map_err(|_| self.stopped())?;
            self.carrier
                .settle(&lines)
                .await
                .map_err(|error| LocalError::Carrier(Box::new(error)))?;
            // A request that came meanwhile gets its answer too.
            let mut now = lines.clone();
            now.extend(self.lines(used.sessions.clone()).await?);
            if now == lines {
                return Ok(());
            }
        }
    }

    /// Gives the task up, and returns when it has ended.
    pub(crate) async fn end(self) {
        let Handle {
            commands,
            mut under_way,
            ..
        } = self;
        drop(commands);
        while under_way.changed().await.is_ok() {}
    }

    fn stopped(&self) -> SessionError {
        match self.troubles.fatal() {
            Some(text) => LocalError::Store(text.into()).into(),
            None => LocalError::Stopped.into(),
        }
    }

    /// What was lost or altered on its way since the last call.
    pub(crate) fn take_warnings(&self) -> Vec<Warning> {
        let warnings = self.troubles.warnings.lock();
        warnings
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect()
    }

    /// What the carrier complained about last.
    pub(crate) fn carrier_trouble(&self) -> Option<Trouble> {
        self.troubles.carrier.borrow().clone()
    }
}

/// The call's number and what is to be reported.
type Operation = BoxFuture<'static, (u64, Option<Report>)>;

enum Report {
    Outcome(Outcome),
    Event(Event),
    /// A relay refuses what the effect asks of it.
    Refused(Effect, Tag, String),
}

struct Driver {
    node: Node,
    store: SqliteStore,
    rng: ChaCha20Rng,
    carrier: Arc<dyn Carrier>,
    events: Events,
    commands: mpsc::Receiver<Attempt>,
    troubles: Arc<Troubles>,
    operations: FuturesUnordered<Operation>,
    /// The number of the last call.
    last_call: u64,
    /// Calls that have ended since `under_way` was last told.
    ended: Vec<u64>,
    under_way: watch::Sender<UnderWay>,
    waiting: Vec<Attempt>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Whether an application was told something since the last commit.
    told: bool,
}

/// Opens the store, loads the core and starts the task on a thread of its own: commits block.
pub(crate) fn start(
    dir: &Path,
    key: StoreKey,
    carriage: Carriage,
    succeed: Option<Succeed>,
) -> Result<Handle, SessionError> {
    let local = |error: Box<dyn core::error::Error + Send + Sync>| LocalError::Store(error);
    let mut rng = generator()?;
    let mut store = SqliteStore::open(dir, key, generator()?).map_err(|e| local(e.into()))?;
    if let Some(succeed) = succeed {
        store.exchange_mark(succeed).map_err(|e| local(e.into()))?;
    }
    let rows = store.load().map_err(|e| local(e.into()))?;
    let (node, step) = Node::load(rows, carriage.carrier.body_bytes(), &mut rng)
        .map_err(|e| local(format!("{} is damaged: {e}", store.path().display()).into()))?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (calls, under_way) = watch::channel(UnderWay::new());
    let troubles = Arc::new(Troubles::default());
    let carrier = carriage.carrier.clone();
    let driver = Driver {
        node,
        store,
        rng,
        carrier: carriage.carrier,
        events: carriage.events,
        commands,
        troubles: troubles.clone(),
        operations: FuturesUnordered::new(),
        last_call: 0,
        ended: Vec::new(),
        under_way: calls,
        waiting: Vec::new(),
        answers: Vec::new(),
        told: false,
    };
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("junto-session".to_owned())
        .spawn(move || runtime.block_on(driver.run(step)))
        .map_err(|e| local(e.into()))?;
    Ok(Handle {
        commands: sender,
        troubles,
        carrier,
        under_way,
        room: ROOM_LONGEST,
    })
}

pub(crate) fn generator() -> Result<ChaCha20Rng, SessionError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|e| LocalError::Store(Box::new(e)))?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

impl Driver {
    async fn run(mut self, mut step: Step) {
        let mut reaction_until = None;
        loop {
            self.attempt(&mut step);
            if self.may_wait(&step) {
                let until =
                    *reaction_until.get_or_insert_with(|| Instant::now() + REACTION_LONGEST);
                let input = self.input(&mut step);
                if let Ok(more) = tokio::time::timeout_at(until, input).await {
                    if !more {
                        // Nobody is left to react; what is here is stored below.
                        self.told = false;
                    }
                    self.drain(&mut step);
                    continue;
                }
            }
            reaction_until = None;
            self.told = false;
            if let Err(error) = self.commit(core::mem::take(&mut step)) {
                tracing::error!(%error, "session store failed; the session task ends");
                self.troubles.set_fatal(error.to_string());
                return;
            }
            if !self.input(&mut step).await {
                return self.wind_up().await;
            }
            self.drain(&mut step);
        }
    }

    /// Whether a commit may wait for an application that was just told something.
    fn may_wait(&self, step: &Step) -> bool {
        let acks_only = step
            .effects
            .iter()
            .all(|effect| matches!(effect, Effect::Ack { .. }));
        self.told
            && self.answers.is_empty()
            && !step.is_empty()
            && acks_only
            && step.effects.len() <= REACTION_ACKS_MAX
    }

    /// Takes one input; false if nobody can call any more. Safe to cancel.
    async fn input(&mut self, step: &mut Step) -> bool {
        tokio::select! {
            biased;
            Some(report) = self.operations.next(), if !self.operations.is_empty() => {
                self.report(report, step);
            }
            command = self.commands.recv() => match command {
                Some(command) => self.waiting.push(command),
                None => return false,
            },
            Some(event) = self.events.next() => self.event(event, step),
        }
        true
    }

    /// Takes whatever else is there already into the same commit.
    fn drain(&mut self, step: &mut Step) {
        for _ in 0..BATCH_MAX {
            if let Some(Some(report)) = self.operations.next().now_or_never() {
                self.report(report, step);
            } else if let Some(Some(event)) = self.events.next().now_or_never() {
                self.event(event, step);
            } else if let Ok(command) = self.commands.try_recv() {
                self.waiting.push(command);
            } else {
                return;
            }
            self.attempt(step);
        }
    }

    /// Runs all waiting calls until none gets anywhere.
    fn attempt(&mut self, step: &mut Step) {
        loop {
            let mut any = false;
            let waiting = core::mem::take(&mut self.waiting);
            for mut attempt in waiting {
                match attempt(&mut self.node, &mut self.rng, step) {
                    Progress::Later => self.waiting.push(attempt),
                    Progress::Done(answer) => {
                        any = true;
                        self.told |= answer.is_none();
                        self.answers.extend(answer);
                    }
                }
            }
            if !any || self.waiting.is_empty() {
                return;
            }
        }
    }

    fn commit(&mut self, step: Step) -> Result<(), crate::store::StoreError> {
        let mut begun = Vec::new();
        if !step.is_empty() {
            let proof = self.store.commit(step.delta())?;
            for effect in step.release(proof) {
                self.last_call += 1;
                let number = self.last_call;
                begun.push((number, Place::of(&effect)));
                let call = perform(self.carrier.clone(), effect, self.troubles.clone());
                self.operations
                    .push(call.map(move |report| (number, report)).boxed());
            }
        }
        let ended = core::mem::take(&mut self.ended);
        self.under_way.send_if_modified(|calls| {
            let changed = !(begun.is_empty() && ended.is_empty());
            calls.extend(begun);
            for number in ended {
                calls.remove(&number);
            }
            changed
        });
        for answer in self.answers.drain(..) {
            answer();
        }
        Ok(())
    }

    fn event(&mut self, event: Event, step: &mut Step) {
        if let Event::Relay { relay, trouble } = &event {
            let trouble = trouble.as_ref().map(|trouble| Trouble {
                kind: TroubleKind::Relay,
                text: format!("relay {relay} {trouble}"),
            });
            self.troubles.carrier.send_replace(trouble);
        }
        if let Event::Irregular { connection, what } = &event {
            let (session, party) = self.node.peer_at(*connection).unwrap_or_default();
            self.troubles.warn(Warning {
                session: session.to_owned(),
                party,
                what: what.clone(),
            });
        }
        step.absorb(self.node.event(event, &mut self.rng));
    }

    fn report(&mut self, (number, report): (u64, Option<Report>), step: &mut Step) {
        if let Some(Report::Refused(effect, tag, reason)) = report {
            if self.node.refused(&tag, reason) {
                let again = perform(self.carrier.clone(), effect, self.troubles.clone());
                let later = async move {
                    tokio::time::sleep(RETRY_LONGEST).await;
                    (number, again.await)
                };
                self.operations.push(later.boxed());
            } else {
                self.ended.push(number);
            }
            return;
        }
        self.ended.push(number);
        match report {
            None | Some(Report::Refused(..)) => {}
            Some(Report::Event(event)) => self.event(event, step),
            Some(Report::Outcome(outcome)) => match self.node.outcome(outcome, &mut self.rng) {
                Ok(more) => step.absorb(more),
                Err(error) => {
                    tracing::error!(%error, "the carrier's answer is of no use");
                    self.troubles
                        .set_carrier(TroubleKind::Final, error.to_string());
                }
            },
        }
    }

    /// Nobody will call any more: finishes what the carrier is doing, without beginning anything.
    async fn wind_up(mut self) {
        let rest = async { while self.operations.next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    }
}

/// Does one effect, as often as it takes.
async fn perform(
    carrier: Arc<dyn Carrier>,
    effect: Effect,
    troubles: Arc<Troubles>,
) -> Option<Report> {
    let mut pause = RETRY_FIRST;
    let mut troubled = false;
    loop {
        let error = match once(&*carrier, &effect).await {
            Ok(outcome) => {
                if troubled {
                    troubles.carrier.send_replace(None);
                }
                return outcome.map(Report::Outcome);
            }
            Err(error) => error,
        };
        troubles.set_carrier(error.kind, error.to_string());
        if error.kind == TroubleKind::Final {
            return given_up(&effect, &error);
        }
        if error.kind == TroubleKind::Refused
            && let Place::Tag(tag) = Place::of(&effect)
        {
            return Some(Report::Refused(effect, tag, error.to_string()));
        }
        tracing::debug!(%error, "carrier call failed; trying again");
        troubled = true;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}

pub(crate) async fn once(
    carrier: &dyn Carrier,
    effect: &Effect,
) -> Result<Option<Outcome>, CarrierError> {
    Ok(match effect {
        Effect::Address { tag, relay } => Some(Outcome::Address {
            tag: *tag,
            link: carrier.create_address(*tag, relay).await?,
        }),
        Effect::CloseAddress { tag } => {
            carrier.close_address(*tag).await?;
            None
        }
        Effect::Invite { tag, relay } => {
            let (connection, link) = carrier.create_invitation(*tag, relay).await?;
            Some(Outcome::Invitation {
                tag: *tag,
                connection,
                link,
            })
        }
        Effect::Join {
            tag,
            link,
            relay,
            info,
        } => Some(Outcome::Joined {
            tag: *tag,
            connection: carrier.join(*tag, link, relay, info).await?,
        }),
        Effect::Accept {
            request,
            relay,
            info,
        } => Some(Outcome::Accepted {
            request: *request,
            connection: carrier.accept(*request, relay, info).await?,
        }),
        Effect::Reject { request } => {
            carrier.reject(*request).await?;
            None
        }
        Effect::Send { connection, bodies } => {
            carrier.send(*connection, bodies.clone()).await?;
            Some(Outcome::Sent {
                connection: *connection,
            })
        }
        Effect::Ack {
            connection,
            message,
        } => {
            carrier.ack(*connection, *message).await?;
            None
        }
        Effect::Delete { connection } => {
            carrier.delete(*connection).await?;
            None
        }
    })
}

/// What a call that can never succeed means for the session.
fn given_up(effect: &Effect, error: &CarrierError) -> Option<Report> {
    tracing::debug!(%error, "carrier call failed for good");
    let reason = error.to_string();
    let none = Tag([0; 32]);
    let (connection, tag) = match effect {
        Effect::Send { connection, .. } => (Some(*connection), none),
        Effect::Join { tag, .. } | Effect::Invite { tag, .. } => (None, *tag),
        Effect::Address { .. }
        | Effect::CloseAddress { .. }
        | Effect::Accept { .. }
        | Effect::Reject { .. }
        | Effect::Ack { .. }
        | Effect::Delete { .. } => return None,
    };
    Some(Report::Event(Event::Failed {
        connection,
        tag,
        reason,
    }))
}
