//! The thread that owns the core and the store: takes inputs, as many as are there, stores what
//! they bring about in one transaction, and then lets it out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use junto_tls::ClientTls;
use rand_chacha::ChaCha20Rng;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant as Clock;
use tracing::{error, warn};

use super::agent::Call;
use super::relay::{Commands, RelayTask};
use super::timer;
use crate::error::{AgentError, RelayFault};
use crate::proto::{
    Answer, CallError, Event, Instant, Lines, Machine, MachineConfig, Output, Overview,
    PostQuantum, RelayId, RelayNotice, RelayTrouble, Reply, Resync, Route, RoutePolicy, Schedule,
    Settling, Ticket, Token,
};
use crate::random::generator;
use crate::store::{Store, StoreError};

/// Inputs that may wait: enough for a full block of small messages from several relays while a
/// transaction is written. Beyond that, calls wait and relays are not read.
const INPUTS_MAX: usize = 1_024;

/// Inputs that share a transaction at most, so that the first does not wait for ever.
const BATCH_MAX: usize = 512;

/// How long changes that nothing waits for may wait for a transaction to share.
const LAZY_COMMIT: Duration = Duration::from_millis(50);

/// How long a transaction waits for the application's reaction to what it has just been told: little
/// beside the time of the transaction, enough for an application that reacts at once.
const REACTION: Duration = Duration::from_micros(150);

/// The pause after the store failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// Something for the engine.
pub(super) enum Input {
    Call(Call),
    Relay {
        generation: u64,
        relay: RelayId,
        input: RelayInput,
    },
    Tick,
    Settle(Lines, oneshot::Sender<()>),
    Routes(Lines, oneshot::Sender<BTreeSet<Route>>),
    Overview(oneshot::Sender<Overview>),
    Stored(oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// Something from the task of a relay.
pub(super) enum RelayInput {
    Up(Commands),
    Down(RelayTrouble),
    Answer(Token, Answer),
    Notice(RelayNotice),
}

type Replies = BTreeMap<Ticket, oneshot::Sender<Result<Reply, AgentError>>>;

/// See the module.
pub(super) struct Engine {
    config: EngineConfig,
    machine: Machine,
    store: Box<dyn Store>,
    rng: ChaCha20Rng,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::WeakSender<Input>,
    events: mpsc::UnboundedSender<Event>,
    replies: Replies,
    /// Who waits for everything to have left, and on which lines.
    settling: Vec<(Settling, oneshot::Sender<()>)>,
    /// Who waits until what was done so far is stored.
    storing: Vec<oneshot::Sender<()>>,
    last_ticket: u64,
    relays: BTreeMap<RelayId, Relay>,
    /// Counts starts of the core: inputs for an earlier one are void.
    generation: u64,
    runtime: Handle,
    started: Clock,
    wake_at: watch::Sender<Option<Clock>>,
    /// An input that came while the engine listened for reactions only.
    put_back: Option<Input>,
    /// Since when changes wait that nothing waits for.
    lazy_since: Option<Clock>,
}

/// What an application may choose, besides the store.
pub(super) struct EngineOptions {
    pub(super) receipts: bool,
    pub(super) routes: RoutePolicy,
    pub(super) resync: Resync,
    pub(super) rotate_every: Option<Duration>,
    pub(super) fallback: super::agent::Fallback,
    pub(super) post_quantum: PostQuantum,
    pub(super) client: crate::client::ClientOptions,
    pub(super) passwords: super::agent::Passwords,
    pub(super) reconnect: super::agent::Reconnect,
}

struct EngineConfig {
    machine: MachineConfig,
    fallback: super::agent::Fallback,
    post_quantum: PostQuantum,
    tls: Arc<ClientTls>,
    client: crate::client::ClientOptions,
    passwords: super::agent::Passwords,
    reconnect: super::agent::Reconnect,
}

/// The task of a relay, and its connection while there is one.
struct Relay {
    task: AbortHandle,
    commands: Option<Commands>,
}

/// Whether the engine goes on.
enum Flow {
    Continue,
    Stop(Option<oneshot::Sender<()>>),
}

fn random() -> Result<ChaCha20Rng, AgentError> {
    generator().map_err(|_| AgentError::Defect("no randomness"))
}

impl Engine {
    /// Opens the store and starts the thread.
    pub(super) async fn start(
        options: EngineOptions,
        open_store: impl FnOnce() -> Result<Box<dyn Store>, StoreError> + Send + 'static,
    ) -> Result<(mpsc::Sender<Input>, mpsc::UnboundedReceiver<Event>), AgentError> {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        // Not bounded by itself: stored events are bounded for each connection, the others follow
        // from what the application or a relay does.
        let (events, told) = mpsc::unbounded_channel();
        let (ready, opened) = oneshot::channel();
        let runtime = Handle::current();
        let weak = sender.downgrade();
        let (wake_at, wakes) = watch::channel(None);
        runtime.spawn(timer::run(wakes, weak.clone()));
        let open = move || {
            let store = open_store()?;
            Self::open(options, store, (inputs, weak), events, runtime, wake_at)
        };
        let run = move || match open() {
            Ok(engine) => {
                if ready.send(Ok(())).is_ok() {
                    engine.run();
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        };
        std::thread::Builder::new()
            .name("junto-agent".to_owned())
            .spawn(run)
            .map_err(StoreError::File)?;
        opened
            .await
            .map_err(|_| AgentError::Defect("the agent's thread ended"))??;
        Ok((sender, told))
    }

    fn open(
        options: EngineOptions,
        mut store: Box<dyn Store>,
        (inputs, sender): (mpsc::Receiver<Input>, mpsc::WeakSender<Input>),
        events: mpsc::UnboundedSender<Event>,
        runtime: Handle,
        wake_at: watch::Sender<Option<Clock>>,
    ) -> Result<Self, AgentError> {
        let tls = ClientTls::new().map_err(|_| AgentError::Defect("TLS cannot be set up"))?;
        let config = EngineConfig {
            machine: MachineConfig {
                receipts: options.receipts,
                routes: options.routes,
                resync: options.resync,
                schedule: Schedule {
                    every: options.rotate_every,
                    // The clock is not looked at again: this process sees no jumps.
                    epoch: SystemTime::now()
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap_or_default(),
                },
            },
            fallback: options.fallback,
            post_quantum: options.post_quantum,
            tls: Arc::new(tls),
            client: options.client,
            passwords: options.passwords,
            reconnect: options.reconnect,
        };
        let machine = restore(&config, store.as_mut())?;
        Ok(Self {
            config,
            machine,
            store,
            rng: random()?,
            inputs,
            sender,
            events,
            replies: Replies::new(),
            settling: Vec::new(),
            storing: Vec::new(),
            last_ticket: 0,
            relays: BTreeMap::new(),
            generation: 0,
            runtime,
            started: Clock::now(),
            wake_at,
            put_back: None,
            lazy_since: None,
        })
    }

    fn run(mut self) {
        self.flush(true);
        loop {
            let flow = self.take_inputs();
            let now = self.now();
            self.machine.handle_timeout(now, &mut self.rng);
            let stop = matches!(flow, Flow::Stop(_));
            // Whoever waits for everything to leave does not wait for company in a transaction.
            self.flush(stop || !self.settling.is_empty() || !self.storing.is_empty());
            for waiting in self.storing.drain(..) {
                let _ = waiting.send(());
            }
            let machine = &self.machine;
            let settled = |(settling, _): &mut (Settling, _)| machine.is_settled(settling);
            for (_, waiting) in self.settling.extract_if(.., settled) {
                let _ = waiting.send(());
            }
            self.settling.retain(|(_, waiting)| !waiting.is_closed());
            if let Flow::Stop(done) = flow {
                for relay in self.relays.values() {
                    relay.task.abort();
                }
                drop(self);
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    fn now(&self) -> Instant {
        let millis = self.started.elapsed().as_millis();
        Instant::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    /// Waits for an input and takes those that are there.
    fn take_inputs(&mut self) -> Flow {
        // Nobody waits: time to make keys for the next messages.
        while self.put_back.is_none()
            && self.inputs.is_empty()
            && self.machine.prepare(&mut self.rng)
        {}
        self.ask_to_be_woken();
        let put_back = self.put_back.take();
        let Some(first) = put_back.or_else(|| self.inputs.blocking_recv()) else {
            return Flow::Stop(None);
        };
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(input) = next {
            if let Flow::Stop(done) = self.handle(input) {
                return Flow::Stop(done);
            }
            taken += 1;
            next = if taken < BATCH_MAX {
                self.inputs.try_recv().ok()
            } else {
                None
            };
        }
        Flow::Continue
    }

    fn handle(&mut self, input: Input) -> Flow {
        let now = self.now();
        match input {
            Input::Call(call) => self.handle_call(call),
            Input::Relay {
                generation,
                relay,
                input,
            } if generation == self.generation => {
                self.handle_relay(now, relay, input);
            }
            Input::Relay { .. } | Input::Tick => {}
            Input::Settle(lines, waiting) => {
                let settling = self.machine.settling(lines);
                self.settling.push((settling, waiting));
            }
            Input::Routes(lines, waiting) => {
                // The caller may have given up.
                let _ = waiting.send(self.machine.routes(&lines));
            }
            Input::Overview(waiting) => {
                let _ = waiting.send(self.machine.overview());
            }
            Input::Stored(waiting) => self.storing.push(waiting),
            Input::Close(done) => return Flow::Stop(Some(done)),
        }
        Flow::Continue
    }

    fn handle_call(&mut self, call: Call) {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.replies.insert(ticket, call.reply);
        let now = self.now();
        self.machine
            .handle_command(now, ticket, call.command, &mut self.rng);
    }

    fn handle_relay(&mut self, now: Instant, relay: RelayId, input: RelayInput) {
        match input {
            RelayInput::Up(commands) => {
                if let Some(known) = self.relays.get_mut(&relay) {
                    known.commands = Some(commands);
                }
                self.machine.handle_relay_up(now, relay);
            }
            RelayInput::Down(trouble) => {
                if let Some(known) = self.relays.get_mut(&relay) {
                    known.commands = None;
                }
                self.machine.handle_relay_down(now, relay, trouble);
            }
            RelayInput::Answer(token, answer) => {
                self.machine
                    .handle_answer(now, token, answer, &mut self.rng);
            }
            RelayInput::Notice(notice) => {
                self.machine
                    .handle_notice(now, relay, notice, &mut self.rng);
            }
        }
    }

    /// Stores and releases, unless nothing waits for it and it is not `forced`.
    fn flush(&mut self, forced: bool) {
        if self.machine.is_idle() {
            return;
        }
        let prompt = self.machine.take_prompt();
        let spoke = !prompt.is_empty();
        for output in prompt {
            self.release(output);
        }
        if spoke && !forced {
            self.hear_reactions();
        }
        if self.machine.is_idle() {
            return;
        }
        let since = *self.lazy_since.get_or_insert_with(Clock::now);
        if !forced && !self.machine.is_urgent() && since.elapsed() < LAZY_COMMIT {
            return;
        }
        self.lazy_since = None;
        let Some(step) = self.machine.take_step() else {
            return;
        };
        match self.commit(step.delta()) {
            Ok(proof) => {
                for output in step.release(proof) {
                    self.release(output);
                }
            }
            Err(fault) => self.restart(fault),
        }
    }

    /// An application that acknowledges or answers what it has just been told shares its
    /// transaction.
    fn hear_reactions(&mut self) {
        let until = Clock::now() + REACTION;
        while Clock::now() < until {
            match self.inputs.try_recv() {
                Ok(Input::Call(call)) => self.handle_call(call),
                Ok(other) => {
                    self.put_back = Some(other);
                    break;
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    fn commit(
        &mut self,
        delta: &crate::proto::Delta,
    ) -> Result<crate::proto::Committed, StoreError> {
        if delta.is_empty() {
            return Ok(crate::proto::Committed::promised());
        }
        self.store.commit(delta)
    }

    fn release(&mut self, output: Output) {
        match output {
            Output::Dial { relay, path } => {
                let Ok(rng) = random() else {
                    return error!("no randomness for a relay's task");
                };
                let task = RelayTask {
                    relay,
                    path,
                    fallback: self.config.fallback,
                    passwords: self.config.passwords.clone(),
                    generation: self.generation,
                    inputs: self.sender.clone(),
                    tls: Arc::clone(&self.config.tls),
                    options: self.config.client.clone(),
                    reconnect: self.config.reconnect,
                    rng,
                };
                let task = self.runtime.spawn(task.run()).abort_handle();
                self.relays.insert(
                    relay,
                    Relay {
                        task,
                        commands: None,
                    },
                );
            }
            Output::Hang { relay } => {
                if let Some(relay) = self.relays.remove(&relay) {
                    relay.task.abort();
                }
            }
            Output::Command {
                relay,
                token,
                operation,
            } => {
                let commands = self
                    .relays
                    .get(&relay)
                    .and_then(|relay| relay.commands.as_ref());
                if let Some(commands) = commands {
                    // If the connection has just ended, the core is told so next.
                    let _ = commands.send((token, operation));
                }
            }
            Output::Event(event) => {
                // An application that takes no events gets none.
                let _ = self.events.send(event);
            }
            Output::Answer { ticket, answer } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    // The caller may have given up.
                    let _ = reply.send(answer.map_err(AgentError::from));
                }
            }
        }
    }

    /// The store failed: as if the process had died before the transaction. Callers are told, the
    /// core starts again from what is stored.
    fn restart(&mut self, fault: StoreError) {
        error!(%fault, "the store failed; nothing of the last changes is kept");
        for relay in core::mem::take(&mut self.relays).into_values() {
            relay.task.abort();
        }
        self.generation += 1;
        // Without an answer the caller hears that it is not stored.
        self.storing.clear();
        let mut fault = fault;
        loop {
            for (_, reply) in core::mem::take(&mut self.replies) {
                let _ = reply.send(Err(AgentError::Store(fault.same_kind())));
            }
            self.refuse_calls(&fault);
            match restore(&self.config, self.store.as_mut()) {
                Ok(machine) => {
                    self.machine = machine;
                    return;
                }
                Err(AgentError::Store(again)) => fault = again,
                Err(again) => warn!(%again, "the store cannot be read"),
            }
        }
    }

    /// For the pause after a failure, answers calls with it and drops what relays say.
    fn refuse_calls(&mut self, fault: &StoreError) {
        let until = std::time::Instant::now() + STORE_RETRY;
        while std::time::Instant::now() < until {
            match self.inputs.try_recv() {
                Ok(Input::Call(call)) => {
                    let _ = call.reply.send(Err(AgentError::Store(fault.same_kind())));
                }
                Ok(Input::Close(done)) => {
                    // Nothing is lost by stopping now; dropping the sender tells the caller.
                    drop(done);
                }
                Ok(Input::Settle(lines, waiting)) => {
                    let settling = self.machine.settling(lines);
                    self.settling.push((settling, waiting));
                }
                // Without an answer the caller hears that the agent is closed.
                Ok(
                    Input::Relay { .. }
                    | Input::Tick
                    | Input::Routes(..)
                    | Input::Overview(_)
                    | Input::Stored(_),
                ) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn ask_to_be_woken(&mut self) {
        let core = self
            .machine
            .next_timeout()
            .map(|(at, _)| self.started + Duration::from_millis(at.as_millis()));
        let lazy = self.lazy_since.map(|since| since + LAZY_COMMIT);
        let wake = match (core, lazy) {
            (Some(core), Some(lazy)) => Some(core.min(lazy)),
            (core, lazy) => core.or(lazy),
        };
        // Sent even if it is the same: the timer waits for it after each tick.
        self.wake_at.send_replace(wake);
    }
}

fn restore(config: &EngineConfig, store: &mut dyn Store) -> Result<Machine, AgentError> {
    let mut machine = Machine::restore(config.machine.clone(), store.load()?).map_err(|fault| {
        error!(%fault, "the store cannot be read");
        StoreError::Damaged(fault.table)
    })?;
    machine.set_post_quantum(config.post_quantum);
    Ok(machine)
}

impl From<CallError> for AgentError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Misuse(misuse) => Self::Misuse(misuse),
            CallError::Link(error) => Self::Link(error),
            CallError::Connection(fault) => Self::Connection(fault),
            CallError::QueueRefused(relay) => Self::Relay {
                relay,
                fault: RelayFault::QueueRefused,
            },
            CallError::Defect(what) => Self::Defect(what),
        }
    }
}
