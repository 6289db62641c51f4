//! What the parties say to each other in one run of a program.
//!
//! Private messages go over channels, one for each sender, so that who waits for one party holds back no other and nothing is kept once it
//! was read. Broadcasts go over an execution, which also carries the news that a party gave up. A Python coroutine can be
//! cancelled at any `await`, so nothing happens in one: it waits until something is there or has room, and then takes or puts it in
//! one step.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use junto_cli::{Embedded, Exit, Failure};
use junto_session::{
    Channel, ChannelMessage, Execution, Kind, Members, Misuse, Mode, PartyIndex, Purpose, Receipt,
    Session, SessionError,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use crate::life;
use crate::outbox::{Job, Outbox, emptied};

/// Messages of one party and kind that wait for the program; the rest waits in the session, which bounds it.
const INBOX_MESSAGES: usize = 256;
/// Their bytes, unless it is a single one.
const INBOX_BYTES: usize = 1024 * 1024;
/// How often a run is looked at whose broadcasts the program does not read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to put in order what an ended run leaves: nobody waits for it but this program.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Longest name of a run, in bytes: channels are named after it, and names have 255.
const NAME_BYTES_MAX: usize = 200;
/// Longer than an execution goes on after its deadline.
const GRACE: Duration = Duration::from_secs(15);

/// To whom, or from whom.
pub(crate) type Address = (PartyIndex, Kind);

struct Letter {
    /// Counts all that arrives.
    number: u64,
    payload: Bytes,
    receipt: Option<Receipt>,
}

#[derive(Default)]
struct State {
    inboxes: BTreeMap<Address, VecDeque<Letter>>,
    arrived: u64,
    failure: Option<Failure>,
    /// The program looked for a broadcast, and found none since the last one came.
    looks_for_broadcast: bool,
    /// To whom it is told that a message was dealt with; nobody once the run is over.
    dealt_with: Option<mpsc::UnboundedSender<Receipt>>,
}

impl State {
    fn has(&self, from: Option<PartyIndex>, kind: Kind) -> bool {
        let any = |(&(party, of), inbox): (&Address, &VecDeque<Letter>)| {
            of == kind && from.is_none_or(|from| from == party) && !inbox.is_empty()
        };
        self.inboxes.iter().any(any)
    }

    /// The one that takes nothing of a party must not hold back what it waits for of another: broadcasts come in one row.
    fn has_room(&self, at: Address) -> bool {
        if at.1 == Kind::Broadcast && self.looks_for_broadcast {
            return true;
        }
        self.inboxes.get(&at).is_none_or(|inbox| {
            let bytes: usize = inbox.iter().map(|it| it.payload.len()).sum();
            inbox.len() < INBOX_MESSAGES && bytes < INBOX_BYTES
        })
    }
}

/// What a waiting coroutine shares with the tasks of the run: no handle of the session, which would keep it open.
pub(crate) struct Table {
    state: Mutex<State>,
    /// Something arrived or failed.
    news: watch::Sender<()>,
    /// Something was taken, or is looked for.
    room: watch::Sender<()>,
}

/// What is taken from an inbox.
pub(crate) enum Taken {
    Message(PartyIndex, Bytes),
    Nothing,
}

impl Table {
    fn new(dealt_with: mpsc::UnboundedSender<Receipt>) -> Self {
        let state = State {
            dealt_with: Some(dealt_with),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            news: watch::channel(()).0,
            room: watch::channel(()).0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest message of that kind, of one party or of any.
    ///
    /// # Errors
    /// Why there will be none.
    pub(crate) fn take(&self, from: Option<PartyIndex>, kind: Kind) -> Result<Taken, Failure> {
        let mut state = self.state();
        let waiting = state.inboxes.iter().filter_map(|(&(party, of), inbox)| {
            let wanted = of == kind && from.is_none_or(|from| from == party);
            Some((inbox.front().filter(|_| wanted)?.number, party))
        });
        let Some((_, party)) = waiting.min() else {
            let nothing = state.failure.clone().map_or(Ok(Taken::Nothing), Err);
            self.look_for(state, kind);
            return nothing;
        };
        let inbox = state.inboxes.get_mut(&(party, kind));
        let Some(letter) = inbox.and_then(VecDeque::pop_front) else {
            return Ok(Taken::Nothing);
        };
        if let (Some(receipt), Some(dealt_with)) = (letter.receipt, &state.dealt_with) {
            let _ = dealt_with.send(receipt);
        }
        drop(state);
        self.room.send_replace(());
        Ok(Taken::Message(party, letter.payload))
    }

    /// Returns when [`Table::take`] gives something, or says why not.
    pub(crate) async fn arrival(&self, from: Option<PartyIndex>, kind: Kind) {
        let mut news = self.news.subscribe();
        loop {
            {
                let state = self.state();
                if state.failure.is_some() || state.has(from, kind) {
                    return;
                }
                self.look_for(state, kind);
            }
            if news.changed().await.is_err() {
                return;
            }
        }
    }

    fn look_for(&self, mut state: MutexGuard<'_, State>, kind: Kind) {
        if kind == Kind::Broadcast && !state.looks_for_broadcast {
            state.looks_for_broadcast = true;
            drop(state);
            self.room.send_replace(());
        }
    }

    fn push(&self, at: Address, payload: Bytes, receipt: Option<Receipt>) {
        let mut state = self.state();
        state.arrived += 1;
        state.looks_for_broadcast &= at.1 != Kind::Broadcast;
        let number = state.arrived;
        state.inboxes.entry(at).or_default().push_back(Letter {
            number,
            payload,
            receipt,
        });
        drop(state);
        self.news.send_replace(());
    }

    /// Returns when there is room for one message more.
    async fn has_room(&self, at: Address) {
        let mut room = self.room.subscribe();
        while !self.state().has_room(at) {
            if room.changed().await.is_err() {
                return;
            }
        }
    }

    fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.news.send_replace(());
    }

    /// Nobody reads any more what is here.
    fn end(&self) {
        self.fail(closed());
        let mut state = self.state();
        let letters = std::mem::take(&mut state.inboxes);
        if let Some(dealt_with) = state.dealt_with.take() {
            let receipts = letters.into_values().flatten();
            for receipt in receipts.filter_map(|letter| letter.receipt) {
                let _ = dealt_with.send(receipt);
            }
        }
    }

    /// Why the run ended, if it has.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }
}

pub(crate) fn usage(message: &str) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: message.to_owned(),
        help: None,
        party: None,
    }
}

/// Waits until the flag is up, or nobody can raise it any more.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await;
}

pub(crate) fn closed() -> Failure {
    usage("the session is closed")
}

/// One run of a program among all parties of a session.
pub(crate) struct Run {
    pub(crate) table: Arc<Table>,
    outboxes: BTreeMap<PartyIndex, Outbox>,
    broadcasts: Outbox,
    execution: Execution,
    session: Session,
    /// On which the others speak.
    inward: Vec<Channel>,
    /// Whether we have said all.
    closing: watch::Sender<bool>,
    /// None once the run is over.
    work: Mutex<Option<Work>>,
}

/// What goes on while a run does.
struct Work {
    tasks: JoinSet<()>,
    /// Tells the session what was dealt with. It ends by itself, once nobody can tell it anything.
    clerk: JoinHandle<()>,
}

/// We have said all, unless this is given up.
struct Closing<'a>(&'a watch::Sender<bool>);

impl<'a> Closing<'a> {
    fn begin(closing: &'a watch::Sender<bool>) -> Self {
        closing.send_replace(true);
        Self(closing)
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Opens the execution of a run: whether it was open already, and the execution.
async fn open(session: &Session, name: &str) -> Result<(bool, Execution), SessionError> {
    let under_way = session.open_executions().await?;
    let abandoned = under_way.iter().any(|purpose| purpose.label == name);
    let purpose = Purpose {
        label: name.to_owned(),
        members: session.everybody(),
        mode: Mode::Messages,
    };
    Ok((abandoned, session.execution_as(purpose).await?))
}

/// Tells the others that we give up in a run that we have not begun.
pub(crate) async fn decline(session: &Session, name: &str, reason: &str) {
    if name.len() <= NAME_BYTES_MAX
        && let Ok((_, execution)) = open(session, name).await
    {
        let _ = execution.abort(reason, Members::NONE).await;
    }
}

impl Run {
    /// Begins the run of that name. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If there was a run of that name before; if a party has left or given up.
    pub(crate) async fn begin(
        desk: &Arc<Embedded>,
        session: &Session,
        name: &str,
        silence: Duration,
    ) -> Result<Self, Failure> {
        let explain = |error| match error {
            SessionError::Misuse(Misuse::Finished) => used_before(name),
            error => desk.explain(error),
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(usage("a run's name has at most 200 bytes"));
        }
        let (abandoned, execution) = open(session, name).await.map_err(explain)?;
        let mut inward = Vec::new();
        for party in execution.others().iter() {
            inward.push(channel(session, name, party).await.map_err(explain)?);
        }
        if abandoned {
            // What the program knew is gone. Had it said something else now, that would be equivocation.
            let gone = execution.abort("its program began anew", Members::NONE);
            gone.await.map_err(explain)?;
            discard_all(session, &inward).await;
            let _ = timeout(LAST_WORDS, desk.settle()).await;
            return Err(used_before(name));
        }
        let own = channel(session, name, session.me())
            .await
            .map_err(explain)?;
        let mut tasks = JoinSet::new();
        let (dealt_with, receipts) = mpsc::unbounded_channel();
        let clerk = tokio::spawn(acknowledge(own.clone(), receipts));
        let table = Arc::new(Table::new(dealt_with));
        let bell = Bell {
            table: Arc::clone(&table),
            desk: Arc::clone(desk),
        };
        let alive = life::channel(session).await.map_err(explain)?;
        let closing = watch::channel(false).0;
        let mut outboxes = BTreeMap::new();
        let over = watch::channel(false).0;
        let (busy, receivers) = mpsc::channel(1);
        for (party, theirs) in execution.others().iter().zip(&inward) {
            tasks.spawn(bell.clone().receive(
                session.clone(),
                theirs.clone(),
                party,
                over.subscribe(),
                busy.clone(),
            ));
            let (outbox, jobs) = Outbox::new(&table);
            tasks.spawn(bell.clone().send(own.clone(), party, jobs));
            outboxes.insert(party, outbox);
            let (alive, closing) = (alive.clone(), closing.subscribe());
            tasks.spawn(life::speak(alive, party, name.to_owned(), closing));
        }
        let silent = life::silent(session.clone(), alive, name.to_owned(), silence);
        tasks.spawn(bell.clone().watch(silent, silence, execution.clone()));
        let (broadcasts, jobs) = Outbox::new(&table);
        tasks.spawn(bell.clone().broadcast(execution.clone(), jobs));
        drop(busy);
        tasks.spawn(bell.listen(execution.clone(), over, receivers));
        Ok(Self {
            table,
            outboxes,
            broadcasts,
            execution,
            session: session.clone(),
            inward,
            closing,
            work: Mutex::new(Some(Work { tasks, clerk })),
        })
    }

    /// Where to put what is for one party, or for all.
    pub(crate) fn outbox(&self, to: Option<PartyIndex>) -> Option<&Outbox> {
        match to {
            Some(party) => self.outboxes.get(&party),
            None => Some(&self.broadcasts),
        }
    }

    /// All of them, to be [`emptied`].
    pub(crate) fn all_outboxes(&self) -> Vec<Outbox> {
        let all = self.outboxes.values().chain([&self.broadcasts]);
        all.cloned().collect()
    }

    /// Ends the run together with all others, or as a failure that they are told. If it is given up half way, the run is as it was.
    ///
    /// # Errors
    /// Naming who did not end it in time, or gave up.
    pub(crate) async fn finish(&self, desk: &Embedded, patience: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + patience;
        let ended = match timeout_at(deadline, emptied(self.all_outboxes())).await {
            Ok(Ok(())) => self.confirm(desk, deadline).await,
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(self.untaken().await),
        };
        if ended.is_err() {
            // Whoever has not heard need not wait.
            let gone = self.execution.clone();
            let _ = gone.abort("its program could not end", Members::NONE).await;
        }
        self.leave().await;
        ended?;
        // All have confirmed: what is on its way still is stored, and wanted by nobody.
        let _ = timeout_at(deadline, desk.settle()).await;
        Ok(())
    }

    async fn confirm(&self, desk: &Embedded, deadline: Instant) -> Result<(), Failure> {
        let _closing = Closing::begin(&self.closing);
        let patience = deadline.saturating_duration_since(Instant::now());
        let confirmed = self.execution.clone().finish_confirmed(patience);
        match timeout_at(deadline + GRACE, confirmed).await {
            // By a call that was cancelled before it could say so.
            Ok(Ok(_) | Err(SessionError::Misuse(Misuse::Finished))) => Ok(()),
            // If it was ended here, the session names us.
            Ok(Err(error)) => Err(self.table.failure().unwrap_or_else(|| desk.explain(error))),
            Err(_) => Err(self.untaken().await),
        }
    }

    /// Who takes so little that we cannot end.
    async fn untaken(&self) -> Failure {
        let full = self.session.full().await.unwrap_or(Members::NONE);
        let full = full.without(self.session.me());
        let named = if full.is_empty() {
            self.execution.others()
        } else {
            full
        };
        Failure {
            exit: Exit::Unreachable,
            message: format!("party {named} did not take what was sent, in time"),
            help: None,
            party: Some(named.to_string()),
        }
    }

    /// Ends the run as a failure, and tells the others.
    pub(crate) async fn abort(&self, reason: &str) {
        // What was taken over before is said before.
        let _ = timeout(LAST_WORDS, emptied(self.all_outboxes())).await;
        self.table.fail(closed());
        // If it has failed already, they know.
        let execution = self.execution.clone();
        let _ = execution.abort(reason, Members::NONE).await;
        self.leave().await;
    }

    fn stop(&self) -> Option<Work> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.take()
    }

    /// Drops what nobody will read any more: it would stay in the session for ever, and take the place of other messages.
    async fn leave(&self) {
        let Some(Work { mut tasks, clerk }) = self.stop() else {
            return;
        };
        tasks.shutdown().await;
        self.table.end();
        let put_away = async {
            discard_all(&self.session, &self.inward).await;
            let _ = clerk.await;
        };
        let _ = timeout(LAST_WORDS, put_away).await;
    }

    /// Leaves the run as it is, as if the process had died.
    pub(crate) async fn abandon(&self) {
        if let Some(Work { mut tasks, clerk }) = self.stop() {
            clerk.abort();
            tasks.shutdown().await;
        }
        self.table.fail(closed());
    }
}

fn used_before(name: &str) -> Failure {
    Failure {
        exit: Exit::Usage,
        message: format!("there was a run `{name}` in this session before"),
        help: Some(
            "a run that has ended, or whose program has, does not go on: all parties begin another one, `begin(run=…)` with the same new name"
                .to_owned(),
        ),
        party: None,
    }
}

/// Where one party says what is for another.
async fn channel(
    session: &Session,
    run: &str,
    sender: PartyIndex,
) -> Result<Channel, SessionError> {
    session.channel(&format!("{run} from {sender}")).await
}

/// Drops what has come on these channels.
async fn discard_all(session: &Session, channels: &[Channel]) {
    let all = async {
        for channel in channels {
            discard(session, channel).await;
        }
    };
    let _ = timeout(LAST_WORDS, all).await;
}

async fn discard(session: &Session, channel: &Channel) {
    loop {
        let message = tokio::select! {
            biased;
            message = channel.next() => message,
            // Asked of the session after `next`, and answered after it, if that has an answer.
            _ = session.open_executions() => return,
        };
        let Ok(message) = message else { return };
        if channel.done(message.receipt).await.is_err() {
            return;
        }
    }
}

async fn acknowledge(channel: Channel, mut receipts: mpsc::UnboundedReceiver<Receipt>) {
    while let Some(receipt) = receipts.recv().await {
        if channel.done(receipt).await.is_err() {
            return;
        }
    }
}

/// What the tasks of a run need to say how it failed.
#[derive(Clone)]
struct Bell {
    table: Arc<Table>,
    desk: Arc<Embedded>,
}

impl Bell {
    fn fail(&self, error: SessionError) {
        self.table.fail(match error {
            SessionError::Misuse(Misuse::Finished) => closed(),
            error => self.desk.explain(error),
        });
    }

    fn fail_as_lie(&self, party: PartyIndex, what: &str) {
        self.table.fail(Failure {
            exit: Exit::Misbehaved,
            message: format!("party {party} sent {what}"),
            help: None,
            party: Some(party.to_string()),
        });
    }

    /// Receives what one party says to us alone; once the run is over, what has come by then, and no more.
    async fn receive(
        self,
        session: Session,
        channel: Channel,
        sender: PartyIndex,
        mut over: watch::Receiver<bool>,
        _busy: mpsc::Sender<()>,
    ) {
        let at = (sender, Kind::P2p);
        loop {
            tokio::select! {
                () = self.table.has_room(at) => {}
                () = raised(&mut over) => {}
            }
            let mut next = pin!(channel.next());
            let message = tokio::select! {
                biased;
                message = &mut next => message,
                () = raised(&mut over) => tokio::select! {
                    biased;
                    message = next => message,
                    // Asked of the session after `next`, and answered after it, if that has an answer.
                    _ = session.open_executions() => return,
                },
            };
            let ChannelMessage {
                from,
                payload,
                receipt,
            } = match message {
                Ok(message) => message,
                Err(error) => return self.fail(error),
            };
            if from != sender {
                return self.fail_as_lie(from, &format!("something as if party {sender} had"));
            }
            self.table.push(at, payload, Some(receipt));
        }
    }

    async fn send(self, channel: Channel, to: PartyIndex, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Say(payload) => {
                    if let Err(error) = channel.feed(to, payload).await {
                        return self.fail(error);
                    }
                }
                Job::Mark(mark) => drop(mark.send(())),
            }
        }
    }

    async fn broadcast(self, execution: Execution, mut jobs: mpsc::Receiver<Job>) {
        let mut said: u32 = 0;
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Say(payload) => {
                    if let Err(error) = execution.broadcast(said, payload).await {
                        return self.fail(error);
                    }
                    said += 1;
                }
                Job::Mark(mark) => drop(mark.send(())),
            }
        }
    }

    /// Receives broadcasts, and hears of it when a party gives up: what it said before that comes before that.
    async fn listen(
        self,
        execution: Execution,
        over: watch::Sender<bool>,
        mut busy: mpsc::Receiver<()>,
    ) {
        let error = loop {
            // Not to be given up: a broadcast may be in its hand at that moment.
            let incoming = match execution.next(Duration::MAX).await {
                Ok(incoming) => incoming,
                Err(error) => break error,
            };
            if incoming.kind != Kind::Broadcast {
                return self.fail_as_lie(incoming.sender, "no broadcast where one belongs");
            }
            let at = (incoming.sender, Kind::Broadcast);
            if let Err(error) = self.room_for(at, &execution).await {
                break error;
            }
            self.table.push(at, incoming.payload, None);
        };
        over.send_replace(true);
        // It ends when all who receive have.
        let _ = timeout(LAST_WORDS, busy.recv()).await;
        self.fail(error);
    }

    /// Ends the run once parties are silent for as long as `limit`.
    async fn watch(
        self,
        silent: impl Future<Output = Result<Members, SessionError>>,
        limit: Duration,
        execution: Execution,
    ) {
        let silent = match silent.await {
            Ok(silent) => silent,
            Err(error) => return self.fail(error),
        };
        let (whom, limit) = (
            if silent.len() == 1 {
                "party"
            } else {
                "parties"
            },
            limit.as_secs(),
        );
        self.table.fail(Failure {
            exit: Exit::Unreachable,
            message: format!("nothing came of {whom} {silent} for {limit} s"),
            help: None,
            party: Some(silent.to_string()),
        });
        // The others wait for it as well.
        life::end(execution, silent).await;
    }

    async fn room_for(&self, at: Address, execution: &Execution) -> Result<(), SessionError> {
        while timeout(LOOK_EVERY, self.table.has_room(at)).await.is_err() {
            execution.transcript().await?;
        }
        Ok(())
    }
}
