//! Who is there, what is carried, and how it ends.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rand_core::Rng;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    silence::{self, Heard, LOOK_EVERY, WEIGHED},
    stream,
};
use crate::{
    Channel, Members, PartyIndex, Session, SessionError,
    proto::{
        Malformed,
        streams::{Event, LABEL, Life, Link, Outcome, StreamId},
    },
};

/// A party that says nothing else says this often that it is there.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long the last words of a party may take: ours to be stored, another's to come after its connections have ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why the streams of a session ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MeshError {
    /// The session, or a party in it.
    #[error("{0}")]
    Session(Arc<SessionError>),
    /// A port of this machine.
    #[error("cannot listen on loopback: {0}")]
    Listen(Arc<io::Error>),
    /// Parties did not begin in time.
    #[error("not everybody began in time")]
    Absent {
        /// Who is missing.
        missing: Members,
    },
    /// Parties were not heard of.
    #[error("{} not heard of for {} s", match parties.len() {
        1 => format!("party {parties} was"),
        _ => format!("parties {parties} were"),
    }, waited.as_secs())]
    Silent {
        /// Who.
        parties: Members,
        /// For how long at least.
        waited: Duration,
    },
    /// A party began anew while programs ran: what its program had open is gone.
    #[error("party {party} began anew in the middle")]
    Restarted {
        /// Who.
        party: PartyIndex,
    },
    /// A party's program ended with an error, or was stopped; or that party gave up.
    #[error("{}", match outcome {
        Outcome::Stopped => format!("the program of party {party} was stopped there"),
        Outcome::GaveUp(named) => format!("party {party} gave up and names party {named}"),
        Outcome::Done | Outcome::Failed => format!("the program of party {party} ended with an error"),
    })]
    Over {
        /// Whose.
        party: PartyIndex,
        /// How.
        outcome: Outcome,
    },
    /// A party sent what no honest one sends.
    #[error("party {party} sent a {what}")]
    Lied {
        /// Who.
        party: PartyIndex,
        /// What.
        what: Malformed,
    },
}

impl MeshError {
    /// Whom it is about.
    #[must_use]
    pub fn parties(&self) -> Members {
        match self {
            Self::Session(error) => error.blamed(),
            Self::Listen(_) => Members::NONE,
            Self::Absent { missing } => *missing,
            // Nobody here can tell which of them it is.
            Self::Over {
                party,
                outcome: Outcome::GaveUp(named),
            } => named.with(*party),
            Self::Silent { parties, .. } => *parties,
            Self::Restarted { party } | Self::Over { party, .. } | Self::Lied { party, .. } => {
                Members::NONE.with(*party)
            }
        }
    }
}

impl From<SessionError> for MeshError {
    fn from(error: SessionError) -> Self {
        Self::Session(Arc::new(error))
    }
}

/// The streams between the program of this party and those of all others.
pub struct Mesh {
    hub: Arc<Hub>,
    ways: BTreeMap<PartyIndex, SocketAddr>,
    /// One for each other party: takes connections of our program until told to stop.
    doors: JoinSet<()>,
}

/// What the tasks of a mesh share.
pub(super) struct Hub {
    channel: Channel,
    /// Where our program listens.
    program: SocketAddr,
    peers: BTreeMap<PartyIndex, Peer>,
    /// Counts changes of who is there and what is under way.
    changed: watch::Sender<u64>,
    phase: watch::Sender<Phase>,
    failed: watch::Sender<Option<MeshError>>,
    /// Another party ended or broke off a connection while programs ran.
    parted: AtomicBool,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Meeting,
    Running,
    Ending,
}

pub(super) struct Peer {
    party: PartyIndex,
    state: Mutex<State>,
    /// There is something to say.
    woken: Notify,
}

struct State {
    link: Link,
    flows: BTreeMap<StreamId, Flow>,
    heard: Heard,
    /// A message is on its way to the store.
    sending: bool,
}

/// How a stream's task hears of what the other end did.
struct Flow {
    inbound: mpsc::UnboundedSender<Inbound>,
    room: Arc<Notify>,
}

/// What comes for a stream, in order.
pub(super) enum Inbound {
    Data(Bytes),
    End,
    Break,
}

impl Mesh {
    /// Begins to meet the others, who do the same. Our program will listen on `program`; the ports that
    /// lead to the others are open from now on, and hold what connects to them.
    ///
    /// # Errors
    /// [`MeshError::Listen`] and [`MeshError::Session`].
    pub async fn open(session: &Session, program: SocketAddr) -> Result<Self, MeshError> {
        let listen = |error| MeshError::Listen(Arc::new(error));
        let mut life = [0; 16];
        rand_core::UnwrapErr(getrandom::SysRng).fill_bytes(&mut life);
        let others: Vec<PartyIndex> = session.everybody().without(session.me()).iter().collect();
        let peer = |party: &PartyIndex| Peer {
            party: *party,
            state: Mutex::new(State {
                link: Link::new(Life(life), session.me() < *party),
                flows: BTreeMap::new(),
                heard: Heard::at(Instant::now()),
                sending: false,
            }),
            woken: Notify::new(),
        };
        let hub = Arc::new(Hub {
            channel: session.channel(LABEL).await?,
            program,
            peers: others.iter().map(|party| (*party, peer(party))).collect(),
            changed: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Meeting),
            failed: watch::Sender::new(None),
            parted: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        let (mut ways, mut doors) = (BTreeMap::new(), JoinSet::new());
        for party in others {
            let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let door = door.map_err(listen)?;
            ways.insert(party, door.local_addr().map_err(listen)?);
            doors.spawn(accept(hub.clone(), party, door));
            hub.spawn(say(hub.clone(), party));
        }
        hub.spawn(hear(hub.clone()));
        Ok(Self { hub, ways, doors })
    }

    /// Where each other party is to be found on this machine.
    #[must_use]
    pub fn ways(&self) -> &BTreeMap<PartyIndex, SocketAddr> {
        &self.ways
    }

    /// Who has begun as well.
    #[must_use]
    pub fn present(&self) -> Members {
        self.hub
            .members(|state| state.link.is_met() && state.link.over().is_none())
    }

    /// Waits until somebody else has begun, or everybody has; `deadline` bounds the wait.
    ///
    /// # Errors
    /// [`MeshError::Absent`] after `deadline`, and whatever ends the mesh.
    pub async fn more(&self, before: Members, deadline: Instant) -> Result<Members, MeshError> {
        let mut changed = self.hub.changed.subscribe();
        let more = async {
            loop {
                let present = self.present();
                if present != before || present == self.others() {
                    return present;
                }
                if changed.changed().await.is_err() {
                    return present;
                }
            }
        };
        tokio::select! {
            present = tokio::time::timeout_at(deadline, more) => present.map_err(|_| MeshError::Absent {
                missing: self.others().minus(self.present()),
            }),
            error = self.failed() => Err(error),
        }
    }

    /// All other parties.
    #[must_use]
    pub fn others(&self) -> Members {
        self.hub.others()
    }

    /// From now on programs run: a party that begins anew, whose program fails, or that is not heard of
    /// for as long as `silence` ends the mesh.
    pub fn run(&self, silence: Duration) {
        self.hub.phase.send_replace(Phase::Running);
        for peer in self.hub.peers.values() {
            let over = peer.with(|state| {
                state.heard = Heard::at(Instant::now());
                state.link.over()
            });
            if let Some(outcome) = over {
                self.hub.over(peer.party, outcome);
            }
        }
        self.hub.spawn(silence::look(self.hub.clone(), silence));
    }

    /// How long each of the others has been silent, the longest first; those whose program is done are none.
    #[must_use]
    pub fn silence(&self) -> Vec<(PartyIndex, Duration)> {
        let mut silent = self.hub.silence();
        silent.sort_by_key(|(_, silence)| core::cmp::Reverse(*silence));
        silent
    }

    /// Waits until the mesh has ended before its time.
    pub async fn failed(&self) -> MeshError {
        self.hub.failed().await
    }

    /// Our program has ended: carries what it wrote to its end, and tells the others.
    ///
    /// # Errors
    /// Whatever ended the mesh before that; the others are told so.
    pub async fn finish(mut self, outcome: Outcome) -> Result<(), MeshError> {
        if outcome == Outcome::Failed {
            self.hub.cause().await;
        }
        self.hub.phase.send_replace(Phase::Ending);
        let (hub, mut doors) = (self.hub.clone(), core::mem::take(&mut self.doors));
        let drained = async {
            // What it had connected is taken first.
            while doors.join_next().await.is_some() {}
            hub.until(State::is_drained).await;
        };
        let result = tokio::select! {
            biased;
            error = self.failed() => Err(error),
            () = drained => Ok(()),
        };
        let outcome = match &result {
            Ok(()) => outcome,
            Err(error) => Outcome::GaveUp(error.parties()),
        };
        for peer in self.hub.peers.values() {
            peer.link(|link| link.finish(outcome));
        }
        let said = self
            .hub
            .until(|state| state.link.is_said() && !state.sending);
        let _ = timeout(LAST_WORDS, said).await;
        result
    }
}

impl State {
    fn is_drained(&mut self) -> bool {
        self.link.is_drained() && !self.sending
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.hub.lock_tasks().abort_all();
    }
}

impl Hub {
    pub(super) fn peer(&self, party: PartyIndex) -> Option<&Peer> {
        self.peers.get(&party)
    }

    /// Somebody who waits for a change looks again.
    pub(super) fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.lock_tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn lock_tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, error: impl Into<MeshError>) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(error.into());
            }
            first
        });
    }

    fn members(&self, which: impl Fn(&mut State) -> bool) -> Members {
        let chosen = self.peers.values().filter(|peer| peer.with(&which));
        chosen.fold(Members::NONE, |all, peer| all.with(peer.party))
    }

    /// Waits until it is so with every other party.
    async fn until(&self, is: impl Fn(&mut State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !self.peers.values().all(|peer| peer.with(&is)) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the mesh has ended before its time.
    pub(super) async fn failed(&self) -> MeshError {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(error) = failed.borrow_and_update().clone() {
                return error;
            }
            if failed.changed().await.is_err() {
                core::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn others(&self) -> Members {
        self.members(|_| true)
    }

    fn silence(&self) -> Vec<(PartyIndex, Duration)> {
        let now = Instant::now();
        let silence = |peer: &Peer| {
            peer.with(|state| {
                state
                    .link
                    .over()
                    .is_none()
                    .then(|| state.heard.silence(now))
            })
            .map(|silence| (peer.party, silence))
        };
        self.peers.values().filter_map(silence).collect()
    }

    /// Those among `parties` who are silent for longer than `limit`, if anybody is.
    pub(super) fn silent(&self, parties: Members, limit: Duration) -> Option<MeshError> {
        let mut silent = self.silence();
        silent.retain(|(party, silence)| parties.contains(*party) && *silence > limit);
        let waited = silent.iter().map(|(_, silence)| *silence).min()?;
        let parties = silent.iter().map(|(party, _)| *party);
        Some(MeshError::Silent {
            parties: parties.fold(Members::NONE, Members::with),
            waited,
        })
    }

    /// When each of the others was heard of.
    pub(super) fn heard(&self, act: impl Fn(&mut Heard)) {
        for peer in self.peers.values() {
            peer.with(|state| act(&mut state.heard));
        }
    }

    /// The program of `party` has ended.
    fn over(self: &Arc<Self>, party: PartyIndex, outcome: Outcome) {
        if !self.is_running() {
            return;
        }
        match outcome {
            Outcome::Done => {}
            Outcome::GaveUp(named) if self.others().minus(named) != self.others() => {
                self.spawn(silence::weigh(self.clone(), party, named));
            }
            Outcome::Failed | Outcome::Stopped | Outcome::GaveUp(_) => {
                self.fail(MeshError::Over { party, outcome });
            }
        }
    }

    /// Our program has failed. If others have ended connections of it, that may be why, and whoever is the cause
    /// is about to say so, or to be found silent.
    async fn cause(&self) {
        let gave_up = |state: &mut State| matches!(state.link.over(), Some(Outcome::GaveUp(_)));
        let wait = if !self.members(gave_up).is_empty() {
            WEIGHED + LOOK_EVERY
        } else if self.parted.load(Ordering::Relaxed) {
            LAST_WORDS
        } else {
            return;
        };
        let _ = timeout(wait, self.failed()).await;
    }

    pub(super) fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Running
    }
}

impl Peer {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something is said on the link.
    pub(super) fn link<T>(&self, act: impl FnOnce(&mut Link) -> T) -> T {
        let result = self.with(|state| act(&mut state.link));
        self.woken.notify_one();
        result
    }

    /// Bytes that may be sent on a stream now; `None` if it is gone.
    pub(super) fn room(&self, id: StreamId) -> Option<usize> {
        self.with(|state| state.link.room(id))
    }

    /// The stream's task has ended.
    pub(super) fn forget(&self, id: StreamId) {
        self.with(|state| state.flows.remove(&id));
    }

    fn flow(&self, id: StreamId) -> stream::Flow {
        let (inbound, events) = mpsc::unbounded_channel();
        let room = Arc::new(Notify::new());
        let flow = Flow {
            inbound,
            room: room.clone(),
        };
        self.with(|state| state.flows.insert(id, flow));
        stream::Flow { id, events, room }
    }
}

/// Takes connections of our program for `party`.
async fn accept(hub: Arc<Hub>, party: PartyIndex, door: TcpListener) {
    let mut phase = hub.phase.subscribe();
    let Some(peer) = hub.peer(party) else { return };
    loop {
        let socket = tokio::select! {
            biased;
            socket = door.accept() => socket,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => return,
        };
        let Ok((socket, _)) = socket else {
            // Too many files are open, say: what waits is taken later.
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        match peer.link(Link::open) {
            Some(id) => hub.spawn(stream::carry(hub.clone(), party, peer.flow(id), socket)),
            // The other end is over, or too much is open: as if nobody listened.
            None => drop(socket.set_zero_linger()),
        }
    }
}

/// Says what there is to say to `party`. While a message becomes durable, what comes meanwhile gathers.
async fn say(hub: Arc<Hub>, party: PartyIndex) {
    let Some(peer) = hub.peer(party) else { return };
    loop {
        let message = peer.with(|state| {
            let message = state.link.message();
            state.sending = message.is_some();
            message
        });
        let Some(message) = message else {
            if timeout(ALIVE_EVERY, peer.woken.notified()).await.is_err() {
                peer.with(|state| {
                    if state.link.is_met() {
                        state.link.alive();
                    }
                });
            }
            continue;
        };
        if let Err(error) = hub.channel.send(party, message).await {
            return hub.fail(error);
        }
        peer.with(|state| state.sending = false);
        hub.touch();
    }
}

/// Hears what all others say.
async fn hear(hub: Arc<Hub>) {
    loop {
        let message = match hub.channel.next().await {
            Ok(message) => message,
            Err(error) => return hub.fail(error),
        };
        // Nothing of it outlives this process.
        if let Err(error) = hub.channel.done(message.receipt).await {
            return hub.fail(error);
        }
        let party = message.from;
        let Some(peer) = hub.peer(party) else {
            continue;
        };
        let events = peer.with(|state| {
            state.heard = Heard::at(Instant::now());
            state.link.receive(&message.payload)
        });
        match events {
            Ok(events) => events.into_iter().for_each(|event| heed(&hub, peer, event)),
            Err(what) => return hub.fail(MeshError::Lied { party, what }),
        }
        peer.woken.notify_one();
        hub.touch();
    }
}

fn heed(hub: &Arc<Hub>, peer: &Peer, event: Event) {
    let party = peer.party;
    let tell = |id, inbound| {
        peer.with(|state| {
            if let Some(flow) = state.flows.get(&id) {
                // Its task may have ended; then nobody wants it.
                let _ = flow.inbound.send(inbound);
                flow.room.notify_one();
            }
        });
    };
    match event {
        Event::Met => {}
        Event::Restarted => {
            peer.with(|state| state.flows.clear());
            if hub.is_running() {
                hub.fail(MeshError::Restarted { party });
            }
        }
        Event::Opened(id) => hub.spawn(stream::answer(hub.clone(), party, peer.flow(id))),
        Event::Data(id, piece) => tell(id, Inbound::Data(piece)),
        Event::Ended(id) => {
            hub.parted.store(true, Ordering::Relaxed);
            tell(id, Inbound::End);
        }
        Event::Broken(id) => {
            hub.parted.store(true, Ordering::Relaxed);
            tell(id, Inbound::Break);
        }
        Event::Room(id) => peer.with(|state| {
            if let Some(flow) = state.flows.get(&id) {
                flow.room.notify_one();
            }
        }),
        Event::Over(outcome) => hub.over(party, outcome),
    }
}

/// Connects to our program, which may not listen yet; `None` once the stream is gone, or the program.
pub(super) async fn dial(hub: &Hub, peer: &Peer, id: StreamId) -> Option<TcpStream> {
    /// Between two tries.
    const AGAIN: Duration = Duration::from_millis(50);
    while peer.room(id).is_some() && *hub.phase.borrow() != Phase::Ending {
        match TcpStream::connect(hub.program).await {
            // As long as nobody listens there, a connection can find itself.
            Ok(socket) if is_itself(&socket) => drop(socket.set_zero_linger()),
            Ok(socket) => return Some(socket),
            // The program took it and broke it off at once: that is its answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    None
}

/// A connection whose two ends are one: the system has given it the port that it dials.
fn is_itself(socket: &TcpStream) -> bool {
    matches!((socket.local_addr(), socket.peer_addr()), (Ok(local), Ok(peer)) if local == peer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_connection_with_itself_is_told() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let place = socket.local_addr().unwrap();
        assert!(is_itself(&socket.connect(place).await.unwrap()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let place = listener.local_addr().unwrap();
        assert!(!is_itself(&TcpStream::connect(place).await.unwrap()));
    }
}
