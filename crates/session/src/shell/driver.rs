//! The one task that owns the core and the store. Everybody else asks it through [`Handle`].

use std::{
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
    carrier::{Carriage, Carrier, CarrierError, Event, Events},
    proto::{
        error::{LocalError, SessionError},
        node::Node,
        step::{Effect, Outcome, Step, Store},
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
    /// How many carrier calls are under way.
    under_way: watch::Receiver<usize>,
}

/// What went wrong lately.
#[derive(Default)]
struct Troubles {
    /// Why the task ended.
    fatal: Mutex<Option<String>>,
    /// What the carrier said last.
    carrier: Mutex<Option<String>>,
}

impl Troubles {
    fn set(place: &Mutex<Option<String>>, text: impl Into<Option<String>>) {
        *place.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    fn read(place: &Mutex<Option<String>>) -> Option<String> {
        place.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Returns when everything said so far has left this machine.
    pub(crate) async fn settle(&self) -> Result<(), SessionError> {
        // After this call is answered, whatever was said before it is with the carrier's calls. A
        // message larger than the window takes answers of the peer to get there.
        self.call(Answer::Durable, |node, _, _| {
            node.is_given().then_some(Ok(()))
        })
        .await?;
        let mut under_way = self.under_way.clone();
        under_way
            .wait_for(|count| *count == 0)
            .await
            .map_err(|_| self.stopped())?;
        let settled = self.carrier.settle().await;
        settled.map_err(|error| LocalError::Carrier(Box::new(error)).into())
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
        match Troubles::read(&self.troubles.fatal) {
            Some(text) => LocalError::Store(text.into()).into(),
            None => LocalError::Stopped.into(),
        }
    }

    /// What the carrier complained about last.
    pub(crate) fn carrier_trouble(&self) -> Option<String> {
        Troubles::read(&self.troubles.carrier)
    }
}

type Operation = BoxFuture<'static, Option<Report>>;

enum Report {
    Outcome(Outcome),
    Event(Event),
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
    under_way: watch::Sender<usize>,
    waiting: Vec<Attempt>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
    /// Whether an application was told something since the last commit.
    told: bool,
}

/// Opens the store, loads the core and starts the task on a thread of its own: commits block.
pub(crate) fn start(dir: &Path, key: StoreKey, carriage: Carriage) -> Result<Handle, SessionError> {
    let local = |error: Box<dyn core::error::Error + Send + Sync>| LocalError::Store(error);
    let mut rng = generator()?;
    let mut store = SqliteStore::open(dir, key, generator()?).map_err(|e| local(e.into()))?;
    let rows = store.load().map_err(|e| local(e.into()))?;
    let (node, step) = Node::load(rows, carriage.carrier.body_bytes(), &mut rng)
        .map_err(|e| local(format!("{} is damaged: {e}", store.path().display()).into()))?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (count, under_way) = watch::channel(0);
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
        under_way: count,
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
    })
}

fn generator() -> Result<ChaCha20Rng, SessionError> {
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
                Troubles::set(&self.troubles.fatal, error.to_string());
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
        if !step.is_empty() {
            let proof = self.store.commit(step.delta())?;
            for effect in step.release(proof) {
                let operation = perform(self.carrier.clone(), effect, self.troubles.clone());
                self.operations.push(operation);
            }
        }
        self.under_way.send_if_modified(|count| {
            core::mem::replace(count, self.operations.len()) != self.operations.len()
        });
        for answer in self.answers.drain(..) {
            answer();
        }
        Ok(())
    }

    fn event(&mut self, event: Event, step: &mut Step) {
        if let Event::Relay { relay, reachable } = &event {
            let text = (!reachable).then(|| format!("relay {relay} is out of reach"));
            Troubles::set(&self.troubles.carrier, text);
        }
        step.absorb(self.node.event(event, &mut self.rng));
    }

    fn report(&mut self, report: Option<Report>, step: &mut Step) {
        match report {
            None => {}
            Some(Report::Event(event)) => self.event(event, step),
            Some(Report::Outcome(outcome)) => match self.node.outcome(outcome, &mut self.rng) {
                Ok(more) => step.absorb(more),
                Err(error) => {
                    tracing::error!(%error, "the carrier's answer is of no use");
                    Troubles::set(&self.troubles.carrier, error.to_string());
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
fn perform(carrier: Arc<dyn Carrier>, effect: Effect, troubles: Arc<Troubles>) -> Operation {
    Box::pin(async move {
        let mut pause = RETRY_FIRST;
        loop {
            match once(&*carrier, &effect).await {
                Ok(outcome) => return outcome.map(Report::Outcome),
                Err(error) if error.may_retry => {
                    tracing::debug!(%error, "carrier call failed; trying again");
                    Troubles::set(&troubles.carrier, error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
                Err(error) => {
                    Troubles::set(&troubles.carrier, error.to_string());
                    return given_up(&effect, &error);
                }
            }
        }
    })
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
    let none = crate::carrier::Tag([0; 32]);
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
