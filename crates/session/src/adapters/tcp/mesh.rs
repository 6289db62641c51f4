//! Who is there, what is carried, and how it ends.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use rand_core::Rng;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::{
    greeting::{GREETING, Greeting},
    inbox::{Inbound, Inbox},
    owner,
    pair::{Pair, Word},
    path::{self, Paths, Policy, Ways},
    place,
    silence::{self, Claim, Heard, LOOK_EVERY, OVERDUE},
    stream::{self, Connection},
    wish::{self, Wishes},
};
use crate::{
    Channel, ChannelMessage, Members, PartyIndex, Session, SessionError,
    proto::{
        Malformed,
        paths::{self, Told, is_packet},
        streams::{Event, LABEL, Life, Link, Outcome, STREAMS_MAX, StreamId},
    },
};

/// A party that says nothing else says this often that it is there.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Connections with one party that our program has, or is to have: both may have opened as many as they may. Another
/// one is broken off, for its stream may be gone long before our program has taken what came for it.
const CONNECTIONS_MAX: usize = 2 * STREAMS_MAX;
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
    /// Another user of this machine listens where our program is expected.
    #[error("another user of this machine listens on {program}, the port of our program")]
    Stranger {
        /// Where.
        program: SocketAddr,
    },
    /// Our program has ended, and parties do not take what it wrote to theirs.
    #[error("{} taken nothing of what our program wrote for {} s", match parties.len() {
        1 => format!("party {parties} has"),
        _ => format!("parties {parties} have"),
    }, waited.as_secs())]
    Stuck {
        /// Who.
        parties: Members,
        /// For how long at least.
        waited: Duration,
    },
    /// Parties were not reached directly, and what our program writes may not go another way.
    #[error("{} not reached directly for {} s", match parties.len() {
        1 => format!("party {parties} was"),
        _ => format!("parties {parties} were"),
    }, waited.as_secs())]
    Unreached {
        /// Who.
        parties: Members,
        /// For how long at least.
        waited: Duration,
    },
    /// Parties take direct paths alone, and others none: no way leads from the ones to the others.
    #[error("{}, and {}: what their programs say to each other has no way", match direct.len() {
        1 => format!("party {direct} takes direct paths alone"),
        _ => format!("parties {direct} take direct paths alone"),
    }, match relays.len() {
        1 => format!("party {relays} none"),
        _ => format!("parties {relays} none"),
    })]
    Apart {
        /// Who takes direct paths alone.
        direct: Members,
        /// Who takes none.
        relays: Members,
    },
    /// A party began anew while programs ran: what its program had open is gone.
    #[error("party {party} began anew in the middle")]
    Restarted {
        /// Who.
        party: PartyIndex,
    },
    /// Our program ended with an error, after parties had broken off connections of it or had ended: as far as can be
    /// seen, that may be why.
    #[error("the program ended with an error, {} s after {} broken off connections of it, or had ended", since.as_secs(), match parties.len() {
        1 => format!("party {parties} had"),
        _ => format!("parties {parties} had"),
    })]
    Left {
        /// Who.
        parties: Members,
        /// The time since the last of them did so.
        since: Duration,
    },
    /// A party's program ended with an error, or was stopped; or that party gave up.
    #[error("{}", match outcome {
        Outcome::Stopped => format!("the program of party {party} was stopped there"),
        Outcome::GaveUp(named) => format!("party {party} gave up and names {}", match named.len() {
            0 => "nobody: it cannot go on itself".to_owned(),
            1 => format!("party {named}"),
            _ => format!("parties {named}"),
        }),
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
            Self::Listen(_) | Self::Stranger { .. } => Members::NONE,
            Self::Absent { missing } => *missing,
            Self::Apart { direct, relays } => relays.iter().fold(*direct, Members::with),
            // Nobody here can tell which of them it is.
            Self::Over {
                party,
                outcome: Outcome::GaveUp(named),
            } => named.with(*party),
            Self::Silent { parties, .. }
            | Self::Stuck { parties, .. }
            | Self::Unreached { parties, .. }
            | Self::Left { parties, .. } => *parties,
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
    /// Ways beside the queues, if there may be any.
    pub(super) paths: Option<Paths>,
    /// Which ways we want.
    pub(super) wishes: Wishes,
    /// Our life.
    life: Life,
    /// Direct paths so far.
    pub(super) lines: AtomicU64,
    /// Where our program listens.
    program: SocketAddr,
    greeting: Greeting,
    peers: BTreeMap<PartyIndex, Peer>,
    /// Counts changes of who is there and what is under way.
    pub(super) changed: watch::Sender<u64>,
    phase: watch::Sender<Phase>,
    failed: watch::Sender<Option<MeshError>>,
    /// What is said now is the last.
    closing: AtomicBool,
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
    pub(super) party: PartyIndex,
    state: Mutex<State>,
    /// Held while what it said is taken: it comes by several ways, and is heeded in order.
    turn: tokio::sync::Mutex<()>,
    /// There is something to say.
    pub(super) woken: Notify,
    /// One for each connection of our program.
    streams: Mutex<JoinSet<()>>,
}

pub(super) struct State {
    pub(super) link: Link,
    pub(super) pair: Pair,
    flows: BTreeMap<StreamId, Flow>,
    heard: Heard,
    /// When it last took something, once our program has ended.
    took: Heard,
    /// When it last broke off a stream, or was over, before our program had ended it.
    left: Option<Instant>,
    /// What it gave up with is being weighed.
    claim: Option<Claim>,
    /// What it wants, by its own word.
    pub(super) wish: Option<Told>,
    /// It is to hear what we want.
    pub(super) owes_wish: bool,
    /// A message is on its way to the store.
    pub(super) sending: bool,
}

/// What became of a message.
#[derive(Default)]
struct Taken {
    events: Vec<Event>,
    /// It says something that was not known.
    is_new: bool,
}

/// How a stream's task hears of what the other end did.
#[derive(Default)]
struct Flow {
    inbox: Inbox,
    woken: Arc<stream::Woken>,
}

impl Mesh {
    /// Begins to meet the others, who do the same. Our program will listen on `program`, and know whose a
    /// connection is by `greeting`; the ports that lead to the others are open from now on, and hold what connects to
    /// them.
    ///
    /// # Errors
    /// [`MeshError::Listen`] and [`MeshError::Session`].
    pub async fn open(
        session: &Session,
        program: SocketAddr,
        greeting: Greeting,
    ) -> Result<Self, MeshError> {
        Self::open_with(session, program, greeting, None).await
    }

    /// As [`Mesh::open`], with other ways than the queues as the policy has it.
    ///
    /// # Errors
    /// As [`Mesh::open`].
    pub async fn open_with(
        session: &Session,
        program: SocketAddr,
        greeting: Greeting,
        ways: Option<(Policy, Arc<dyn Ways>)>,
    ) -> Result<Self, MeshError> {
        let listen = |error| MeshError::Listen(Arc::new(error));
        let mut life = [0; 16];
        rand_core::UnwrapErr(getrandom::SysRng).fill_bytes(&mut life);
        let others: Vec<PartyIndex> = session.everybody().without(session.me()).iter().collect();
        let peer = |party: &PartyIndex| {
            Peer::new(
                *party,
                Link::new(Life(life), session.me() < *party, session.everybody()),
            )
        };
        let policy = ways
            .as_ref()
            .map_or(Policy::RelayOnly, |(policy, _)| *policy);
        let paths = match ways {
            Some((policy, ways)) if policy != Policy::RelayOnly => Some(Paths {
                policy,
                ways,
                channel: session.channel(paths::LABEL).await?,
                met: Notify::new(),
            }),
            Some(_) | None => None,
        };
        let hub = Arc::new(Hub {
            channel: session.channel(LABEL).await?,
            paths,
            wishes: Wishes::open(session, policy).await?,
            life: Life(life),
            lines: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            program,
            greeting,
            peers: others.iter().map(|party| (*party, peer(party))).collect(),
            changed: watch::Sender::new(0),
            phase: watch::Sender::new(Phase::Meeting),
            failed: watch::Sender::new(None),
            parted: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        let (mut ways, mut doors) = (BTreeMap::new(), JoinSet::new());
        for party in others {
            let door = TcpListener::bind((place::of(party), 0)).await;
            let door = door.map_err(listen)?;
            ways.insert(party, door.local_addr().map_err(listen)?);
            doors.spawn(accept(hub.clone(), party, door));
            hub.spawn(say(hub.clone(), party));
            if hub.paths.is_some() {
                hub.spawn(path::keep(hub.clone(), party));
            }
        }
        if hub.paths.is_some() {
            hub.spawn(path::offer(hub.clone()));
            hub.spawn(path::hear_offers(hub.clone()));
            hub.spawn(path::look(hub.clone()));
            hub.spawn(path::accept(hub.clone()));
        }
        hub.spawn(wish::look(hub.clone()));
        hub.spawn(hear(hub.clone()));
        Ok(Self { hub, ways, doors })
    }

    /// Where each other party is to be found on this machine. On Linux each has an address of its own, from which it
    /// calls our program as well.
    #[must_use]
    pub fn ways(&self) -> &BTreeMap<PartyIndex, SocketAddr> {
        &self.ways
    }

    /// Who has begun as well, and is there still, or done already: it did not give up waiting, and was heard of lately.
    #[must_use]
    pub fn present(&self) -> Members {
        let now = Instant::now();
        self.hub.members(|state| state.has_begun(now))
    }

    /// To whom there is a direct path now.
    #[must_use]
    pub fn direct(&self) -> Members {
        self.hub.members(|state| state.pair.has_line())
    }

    /// Waits until there are direct paths to others than `known`.
    pub async fn other_direct(&self, known: Members) -> Members {
        self.other_than(known, Self::direct).await
    }

    /// Waits until the programs of others than `known` have ended well.
    pub async fn other_done(&self, known: Members) -> Members {
        self.other_than(known, Self::done).await
    }

    async fn other_than(&self, known: Members, which: impl Fn(&Self) -> Members) -> Members {
        let mut changed = self.hub.changed.subscribe();
        loop {
            let now = which(self);
            if now != known {
                return now;
            }
            if changed.changed().await.is_err() {
                core::future::pending::<()>().await;
            }
        }
    }

    /// Waits until somebody else has begun, or everybody has; `deadline` bounds the wait.
    ///
    /// # Errors
    /// [`MeshError::Absent`] after `deadline`, [`MeshError::Apart`] if all are there and cannot meet, and whatever ends
    /// the mesh.
    pub async fn more(&self, before: Members, deadline: Instant) -> Result<Members, MeshError> {
        let mut changed = self.hub.changed.subscribe();
        let more = async {
            loop {
                let present = self.present();
                let all = present == self.others();
                // If they cannot meet, that is about to end the mesh: our program does not begin for nothing.
                let ends = all && self.hub.apart().is_some();
                if !ends && (all || present != before) {
                    return present;
                }
                if changed.changed().await.is_err() {
                    return present;
                }
            }
        };
        tokio::select! {
            biased;
            error = self.failed() => Err(error),
            present = timeout_at(deadline, more) => present.map_err(|_| MeshError::Absent {
                missing: self.others().minus(self.present()),
            }),
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
                let now = Instant::now();
                state.heard = Heard::at(now);
                state.pair.run(now);
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

    /// Whose program has ended well.
    #[must_use]
    pub fn done(&self) -> Members {
        self.hub
            .members(|state| state.link.over() == Some(Outcome::Done))
    }

    /// Waits until the mesh has ended before its time.
    pub async fn failed(&self) -> MeshError {
        self.hub.failed().await
    }

    /// Our program has ended, as `outcome` says: carries what it wrote to its end. It may be dropped and begun again.
    ///
    /// # Errors
    /// Whatever ends the mesh before that: [`MeshError::Stuck`] if a party takes nothing for as long as it may be
    /// silent.
    pub async fn drain(&mut self, outcome: Outcome) -> Result<(), MeshError> {
        let hub = self.hub.clone();
        if *hub.phase.borrow() != Phase::Ending {
            if outcome == Outcome::Failed {
                hub.cause().await;
            }
            let now = Instant::now();
            hub.each(|state| {
                state.took = Heard::at(now);
                state.pair.end(now);
            });
            hub.phase.send_replace(Phase::Ending);
        }
        let drained = async {
            // What it had connected is taken first.
            while self.doors.join_next().await.is_some() {}
            hub.until(State::is_drained).await;
        };
        tokio::select! {
            biased;
            error = hub.failed() => Err(error),
            () = drained => Ok(()),
        }
    }

    /// Whom what our program wrote still waits for.
    #[must_use]
    pub fn behind(&self) -> Members {
        self.hub.members(|state| !state.is_drained())
    }

    /// Our program has ended: carries what it wrote to its end, unless it was stopped, and tells the others.
    ///
    /// # Errors
    /// Whatever ended the mesh before that; the others are told so.
    pub async fn finish(mut self, outcome: Outcome) -> Result<(), MeshError> {
        let result = match outcome {
            Outcome::Stopped => self.hub.failed.borrow().clone().map_or(Ok(()), Err),
            Outcome::Done | Outcome::Failed | Outcome::GaveUp(_) => self.drain(outcome).await,
        };
        self.hub.phase.send_replace(Phase::Ending);
        let outcome = match &result {
            Ok(()) => outcome,
            Err(error) => Outcome::GaveUp(error.parties()),
        };
        self.hub.closing.store(true, Ordering::Relaxed);
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
    /// For `lost` until now, this process could not hear that party.
    fn forgive(&mut self, lost: Duration, now: Instant) {
        self.heard.forgive(lost, now);
        self.took.forgive(lost, now);
        self.pair.forgive(lost, now);
        if let Some(claim) = &mut self.claim {
            claim.forgive(lost, now);
        }
    }

    /// Whether its program runs, or has run: it began when it had met all others, which may have met us only.
    fn has_begun(&self, now: Instant) -> bool {
        let there = match self.link.over() {
            None => self.heard.silence(now) < OVERDUE,
            Some(outcome) => outcome == Outcome::Done,
        };
        self.link.is_met() && there
    }

    fn is_drained(&mut self) -> bool {
        // Nobody is left to lose it, or nothing of it can be lost.
        let safe = self.pair.sequence.is_settled() || self.link.over().is_some();
        self.link.is_drained() && !self.sending && safe
    }

    /// What is next to be said.
    fn word(&mut self, hub: &Hub) -> Option<Word> {
        // Before anything that follows: a hello lets the other end begin.
        let wish = hub.wishes.own().filter(|_| self.owes_wish);
        self.owes_wish = false;
        let word = match (wish, &hub.paths) {
            (Some(wish), _) => Some(Word::Wish(wish)),
            (None, None) => self.link.message().map(Word::Queue),
            (None, Some(paths)) => {
                let closing = hub.closing.load(Ordering::Relaxed);
                let (pair, link) = (&mut self.pair, &mut self.link);
                pair.word(link, paths.policy, closing, Instant::now())
            }
        };
        self.sending = word.is_some();
        word
    }

    /// Takes what came, by the direct path `line` or the queues.
    fn receive(
        &mut self,
        hub: &Hub,
        payload: &Bytes,
        line: Option<u64>,
    ) -> Result<Taken, Malformed> {
        let now = Instant::now();
        let theirs = self.link.theirs();
        let acknowledged = self.pair.sequence.acknowledged();
        let messages = match is_packet(payload) && hub.paths.is_some() {
            // Of a path that is gone, or left in the channel by an earlier run.
            _ if line.is_some_and(|id| !self.pair.has(id)) => return Ok(Taken::default()),
            true if !self.link.is_met() => return Ok(Taken::default()),
            true => self.pair.sequence.receive(payload)?,
            false if line.is_some() => return Err(Malformed("packet: it has no number")),
            false => vec![payload.clone()],
        };
        self.heard = Heard::at(now);
        let moved = self.pair.sequence.acknowledged() != acknowledged;
        let is_new = moved || !messages.is_empty();
        let mut events = Vec::new();
        for message in &messages {
            events.append(&mut self.link.receive(message)?);
        }
        if events.contains(&Event::Restarted) {
            self.pair.begin_anew();
        }
        // Each life of it is told.
        self.owes_wish |= self.link.theirs() != theirs;
        self.left = self.link.has_left().then_some(now).or(self.left);
        Ok(Taken { events, is_new })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        lock(&self.hub.tasks).abort_all();
        for peer in self.hub.peers.values() {
            lock(&peer.streams).abort_all();
        }
    }
}

impl Hub {
    pub(super) fn peer(&self, party: PartyIndex) -> Option<&Peer> {
        self.peers.get(&party)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Somebody who waits for a change looks again.
    pub(super) fn touch(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        spawn(&self.tasks, task);
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

    /// A party sent what no honest one sends.
    pub(super) fn lied(&self, party: PartyIndex, what: Malformed) {
        self.fail(MeshError::Lied { party, what });
    }

    /// Those to whom there was no direct path for longer than `limit`, though something was to be said, if it may go no
    /// other way and anybody is so.
    pub(super) fn unreached(&self, limit: Duration) -> Option<MeshError> {
        let paths = self.paths.as_ref()?;
        if paths.policy != Policy::DirectOnly {
            return None;
        }
        let now = Instant::now();
        let parties = self.members(|state| state.pair.unreached(&state.link, now) > limit);
        (!parties.is_empty()).then_some(MeshError::Unreached {
            parties,
            waited: limit,
        })
    }

    pub(super) fn members(&self, which: impl Fn(&mut State) -> bool) -> Members {
        let chosen = self.peers.values().filter(|peer| peer.with(&which));
        chosen.fold(Members::NONE, |all, peer| all.with(peer.party))
    }

    /// Waits until it is so with every other party.
    pub(super) async fn until(&self, is: impl Fn(&mut State) -> bool) {
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

    /// Those who take nothing of what our program, which has ended, wrote to them for longer than `limit`, if anybody is so.
    pub(super) fn stuck(&self, limit: Duration) -> Option<MeshError> {
        if *self.phase.borrow() != Phase::Ending {
            return None;
        }
        let now = Instant::now();
        let parties = self.members(|state| state.link.is_full() && state.took.silence(now) > limit);
        (!parties.is_empty()).then_some(MeshError::Stuck {
            parties,
            waited: limit,
        })
    }

    /// For `lost` until now, this process could not hear anybody.
    pub(super) fn forgive(&self, lost: Duration, now: Instant) {
        self.each(|state| state.forgive(lost, now));
    }

    pub(super) fn each(&self, act: impl Fn(&mut State)) {
        for peer in self.peers.values() {
            peer.with(&act);
        }
    }

    /// Who gave up and names others: what is true of that shows here as well. They say themselves how they ended, or
    /// are silent to us. If nothing shows, it may be any of them.
    pub(super) fn weigh(&self, now: Instant) -> Option<MeshError> {
        if !self.is_running() {
            return None;
        }
        let weigh = |peer: &Peer| {
            let claim = peer.with(|state| state.claim)?;
            let silent = self.silent(claim.named, OVERDUE);
            silent.or_else(|| {
                let (party, outcome) = (peer.party, Outcome::GaveUp(claim.named));
                claim
                    .is_weighed(now)
                    .then_some(MeshError::Over { party, outcome })
            })
        };
        self.peers.values().find_map(weigh)
    }

    /// The program of `party` has ended.
    fn over(&self, party: PartyIndex, outcome: Outcome) {
        if !self.is_running() {
            return;
        }
        match outcome {
            Outcome::Done => {}
            Outcome::GaveUp(named) if self.others().minus(named) != self.others() => {
                let claim = Claim::new(named, Instant::now());
                if let Some(peer) = self.peer(party) {
                    peer.with(|state| state.claim = Some(claim));
                }
            }
            Outcome::Failed | Outcome::Stopped | Outcome::GaveUp(_) => {
                self.fail(MeshError::Over { party, outcome });
            }
        }
    }

    /// Our program has failed. If others have ended connections of it, that may be why, and whoever is the cause
    /// is about to say so, or to be found silent. Who says nothing is named for what it did.
    async fn cause(&self) {
        let now = Instant::now();
        let gave_up = |state: &mut State| matches!(state.link.over(), Some(Outcome::GaveUp(_)));
        let parties = self.members(|state| state.left.is_some());
        let since = |peer: &Peer| peer.with(|state| state.left);
        let since = self.peers.values().filter_map(since).max();
        if self.is_running() && !self.members(gave_up).is_empty() {
            // It ends once the claim is weighed.
            self.failed().await;
        } else if self.parted.load(Ordering::Relaxed) {
            let _ = timeout(LAST_WORDS, self.failed()).await;
        }
        if let Some(since) = since {
            let since = now.saturating_duration_since(since);
            self.fail(MeshError::Left { parties, since });
        }
    }

    /// Whether a connection of `party` may go to our program, which takes it for one of whom it says that it is.
    /// Decided once it has said so; a party that claims to be another one ends the mesh.
    pub(super) async fn admits(&self, peer: &Peer, flow: &stream::Flow) -> bool {
        if !self.greeting.is_known() {
            return true;
        }
        let mut phase = self.phase.subscribe();
        let head = tokio::select! {
            head = peer.head(flow) => head,
            _ = phase.wait_for(|phase| *phase == Phase::Ending) => None,
        };
        let Some(head) = head else {
            return false;
        };
        let (party, honest) = (peer.party, self.greeting.admits(peer.party, head));
        if !honest {
            let what = Malformed("greeting: it takes the place of another party");
            self.fail(MeshError::Lied { party, what });
        }
        honest
    }

    pub(super) fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Running
    }
}

impl Peer {
    fn new(party: PartyIndex, link: Link) -> Self {
        Self {
            party,
            state: Mutex::new(State {
                link,
                pair: Pair::new(),
                flows: BTreeMap::new(),
                heard: Heard::at(Instant::now()),
                took: Heard::at(Instant::now()),
                left: None,
                claim: None,
                wish: None,
                owes_wish: true,
                sending: false,
            }),
            turn: tokio::sync::Mutex::default(),
            woken: Notify::new(),
            streams: Mutex::default(),
        }
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut lock(&self.state))
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

    /// The first bytes of a stream, which stay; `None` if fewer come.
    async fn head(&self, flow: &stream::Flow) -> Option<[u8; GREETING]> {
        let head = |state: &mut State| match state.flows.get(&flow.id) {
            Some(flow) => flow.inbox.head(),
            None => Poll::Ready(None),
        };
        loop {
            match self.with(head) {
                Poll::Ready(head) => return head,
                Poll::Pending => flow.woken.inbound.notified().await,
            }
        }
    }

    /// What came next for a stream; it is broken off once the link forgets it.
    pub(super) async fn next(&self, id: StreamId, woken: &Notify) -> Inbound {
        let next = |state: &mut State| match state.flows.get_mut(&id) {
            Some(flow) => flow.inbox.next(),
            None => Some(Inbound::Break),
        };
        loop {
            match self.with(next) {
                Some(inbound) => return inbound,
                None => woken.notified().await,
            }
        }
    }

    /// The task that `begin` makes has that stream from now on, unless too many have not ended yet.
    fn carry<F>(&self, id: StreamId, begin: impl FnOnce(stream::Flow) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let woken = self.with(|state| {
            let flow = Flow::default();
            let woken = flow.woken.clone();
            let free = state.flows.len() < CONNECTIONS_MAX;
            free.then(|| state.flows.insert(id, flow)).map(|_| woken)
        });
        match woken {
            Some(woken) => spawn(&self.streams, begin(stream::Flow { id, woken })),
            None => self.link(|link| link.reset(id)),
        }
    }

    /// Every stream is gone. Returns once nothing of them is left: what was on its way into our program stays out,
    /// and no task of the earlier life meets a stream of the next one.
    async fn begin_anew(&self) {
        self.with(|state| state.flows.clear());
        let mut streams = core::mem::take(&mut *lock(&self.streams));
        streams.shutdown().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(tasks: &Mutex<JoinSet<()>>, task: impl Future<Output = ()> + Send + 'static) {
    let mut tasks = lock(tasks);
    while tasks.try_join_next().is_some() {}
    tasks.spawn(task);
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
        let Ok((socket, client)) = socket else {
            // Too many files are open, say: what waits is taken later.
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        };
        match socket
            .local_addr()
            .and_then(|door| owner::may_speak(client, door))
        {
            Ok(true) => {}
            Ok(false) => {
                tracing::error!(%party, "who has connected is another user of this machine, or has closed at once; it is turned away");
                continue;
            }
            Err(error) => return hub.fail(MeshError::Listen(Arc::new(error))),
        }
        match peer.link(Link::open) {
            Some(id) => peer.carry(id, |flow| {
                stream::carry(hub.clone(), party, flow, Connection::new(socket))
            }),
            // The other end is over, or too much is open: as if nobody listened.
            None => drop(socket.set_zero_linger()),
        }
    }
}

/// Says what there is to say to `party`. While a message becomes durable, what comes meanwhile gathers.
async fn say(hub: Arc<Hub>, party: PartyIndex) {
    let Some(peer) = hub.peer(party) else { return };
    let mut said = Instant::now();
    loop {
        let Some(word) = peer.with(|state| state.word(&hub)) else {
            // What is heard puts nothing off: of two who have nothing else to say, one would be silent for ever.
            let alive = said + ALIVE_EVERY;
            let due = peer.with(|state| state.pair.due());
            let until = due.map_or(alive, |due| due.min(alive));
            let woken = timeout_at(until, peer.woken.notified()).await.is_ok();
            if !woken && Instant::now() >= alive {
                said = Instant::now();
                if let Err(error) = is_there(&hub, peer).await {
                    return hub.fail(error);
                }
            }
            continue;
        };
        let sent = match word {
            Word::Queue(message) => hub.channel.send(party, message).await,
            Word::Wish(wish) => {
                let life = hub.life;
                let told = Told { life, wish };
                hub.wishes.channel.send(party, told.encode()).await
            }
            Word::Again(number, packet) => {
                let sent = hub.channel.send(party, packet).await;
                peer.with(|state| state.pair.sequence.is_queued(number));
                sent
            }
            // Of a path that has ended, another one or the queues take it.
            Word::Line(line, packet) => {
                let _ = line.try_send(packet);
                Ok(())
            }
        };
        if let Err(error) = sent {
            return hub.fail(error);
        }
        said = Instant::now();
        peer.with(|state| state.sending = false);
        hub.touch();
    }
}

/// Shows `peer` that we are there.
async fn is_there(hub: &Hub, peer: &Peer) -> Result<(), SessionError> {
    let now = Instant::now();
    let waits = hub
        .paths
        .as_ref()
        .is_some_and(|paths| peer.with(|state| state.pair.is_mute(paths.policy, now)));
    let met = peer.with(|state| {
        let met = state.link.is_met();
        if met && !waits {
            state.link.alive();
        }
        met
    });
    match met && waits {
        // What our program writes has no way, or waits; that we are there has one.
        true => hub.channel.send(peer.party, Link::sign_of_life()).await,
        false => Ok(()),
    }
}

/// Hears what all others say.
async fn hear(hub: Arc<Hub>) {
    let wished = hub.wishes.channel.next();
    tokio::pin!(wished);
    loop {
        let said = hub.channel.next();
        tokio::pin!(said);
        let message = loop {
            tokio::select! {
                // What somebody wants is said before the hello that lets us begin.
                biased;
                message = &mut wished => {
                    let Some(message) = taken(&hub, &hub.wishes.channel, message).await else { return };
                    wish::hear(&hub, message.from, &message.payload);
                    wished.set(hub.wishes.channel.next());
                }
                message = &mut said => break message,
            }
        };
        let Some(message) = taken(&hub, &hub.channel, message).await else {
            return;
        };
        let party = message.from;
        let Some(peer) = hub.peer(party) else {
            continue;
        };
        take(&hub, peer, &message.payload, None).await;
    }
}

/// What came; nothing of it outlives this process. `None` if the session has ended.
async fn taken(
    hub: &Hub,
    channel: &Channel,
    came: Result<ChannelMessage, SessionError>,
) -> Option<ChannelMessage> {
    let done = async {
        let message = came?;
        channel.done(message.receipt).await?;
        Ok::<_, SessionError>(message)
    };
    done.await.map_err(|error| hub.fail(error)).ok()
}

/// Takes what `peer` said, by the direct path `line` or the queues.
pub(super) async fn take(hub: &Arc<Hub>, peer: &Peer, payload: &Bytes, line: Option<u64>) {
    let party = peer.party;
    let _turn = peer.turn.lock().await;
    let Taken { events, is_new } = match peer.with(|state| state.receive(hub, payload, line)) {
        Ok(taken) => taken,
        Err(what) => return hub.lied(party, what),
    };
    for event in events {
        if event == Event::Restarted {
            if hub.is_running() {
                return hub.fail(MeshError::Restarted { party });
            }
            peer.begin_anew().await;
        } else {
            heed(hub, peer, event);
        }
    }
    peer.woken.notify_one();
    // Whoever says the same again and again wakes no others.
    if is_new {
        hub.touch();
    }
}

fn heed(hub: &Arc<Hub>, peer: &Peer, event: Event) {
    let party = peer.party;
    let tell = |id, what: &dyn Fn(&mut Inbox)| {
        peer.with(|state| {
            // Its task may have ended; then nobody wants it.
            if let Some(flow) = state.flows.get_mut(&id) {
                what(&mut flow.inbox);
                flow.woken.inbound.notify_one();
                flow.woken.room.notify_one();
            }
        });
    };
    match event {
        Event::Met => {
            if let Some(paths) = &hub.paths {
                paths.met(peer);
            }
        }
        Event::Restarted => {}
        Event::Opened(id) => {
            // What is given up in the same message never was.
            if peer.room(id).is_some() {
                peer.carry(id, |flow| stream::answer(hub.clone(), party, flow));
            }
        }
        Event::Data(id, piece) => tell(id, &|inbox| inbox.fill(&piece)),
        Event::Ended(id) => {
            hub.parted.store(true, Ordering::Relaxed);
            tell(id, &Inbox::end);
        }
        Event::Broken(id) => {
            hub.parted.store(true, Ordering::Relaxed);
            tell(id, &Inbox::break_off);
        }
        Event::Room(id) => {
            peer.with(|state| state.took = Heard::at(Instant::now()));
            tell(id, &|_| {});
        }
        Event::Over(outcome) => hub.over(party, outcome),
    }
}

/// Connects to our program, which may not listen yet; `None` once the stream is gone, or the program.
pub(super) async fn dial(hub: &Hub, peer: &Peer, flow: &stream::Flow) -> Option<TcpStream> {
    /// Between two tries.
    const AGAIN: Duration = Duration::from_millis(50);
    while peer.room(flow.id).is_some() && *hub.phase.borrow() != Phase::Ending {
        match place::call(peer.party, hub.program).await {
            // As long as nobody listens there, a connection can find itself.
            Ok(socket) if is_itself(&socket) => drop(socket.set_zero_linger()),
            Ok(socket) => {
                let ours = socket.local_addr();
                match ours.and_then(|here| owner::may_hear(hub.program, here)) {
                    Ok(true) => return Some(socket),
                    Ok(false) => hub.fail(MeshError::Stranger {
                        program: hub.program,
                    }),
                    Err(error) => hub.fail(MeshError::Listen(Arc::new(error))),
                }
                return None;
            }
            // The program took it and broke it off at once: that is its answer.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            // What comes may be that nobody waits any more.
            Err(_) => drop(timeout(AGAIN, flow.woken.inbound.notified()).await),
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

    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn time_in_which_we_slept_weighs_no_claim() {
        let own = PartyIndex::new(1).unwrap();
        let peer = Peer::new(own, Link::new(Life([1; 16]), true, Members::NONE.with(own)));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let claim = Claim::new(Members::NONE, start);
        assert!(!claim.is_weighed(at(15)) && claim.is_weighed(at(17)));
        peer.with(|state| {
            state.heard = Heard::at(start);
            state.claim = Some(claim);
            // Twenty seconds in which nothing of this process runs, after one.
            state.forgive(Duration::from_secs(20), at(21));
            assert_eq!(state.heard.silence(at(21)).as_secs(), 1);
            let claim = state.claim.unwrap();
            assert!(!claim.is_weighed(at(21)) && !claim.is_weighed(at(35)));
            assert!(claim.is_weighed(at(37)));
        });
    }

    #[tokio::test]
    async fn who_is_done_before_others_have_met_has_begun_and_who_gave_up_has_not() {
        let (one, two) = (PartyIndex::new(0).unwrap(), PartyIndex::new(1).unwrap());
        for (outcome, begun) in [
            (Outcome::Done, true),
            (Outcome::Failed, false),
            (Outcome::Stopped, false),
        ] {
            let link =
                |life, first, party| Link::new(Life([life; 16]), first, Members::NONE.with(party));
            let (ours, mut theirs) = (link(1, true, two), link(2, false, one));
            let peer = Peer::new(two, ours);
            let hello = |own: u8, other: u8| [&[0][..], &[own; 16], &[other; 16]].concat();
            let later = Instant::now() + 2 * OVERDUE;
            peer.with(|state| assert!(!state.has_begun(later)));
            peer.link(|link| link.receive(&hello(2, 1).into())).unwrap();
            peer.with(|state| assert!(state.has_begun(Instant::now()) && !state.has_begun(later)));
            theirs.receive(&hello(1, 2).into()).unwrap();
            theirs.finish(outcome);
            let last = theirs.last_words().unwrap();
            peer.link(|link| link.receive(&last)).unwrap();
            peer.with(|state| assert_eq!(state.has_begun(later), begun, "{outcome:?}"));
        }
    }

    #[tokio::test]
    async fn streams_that_are_given_up_and_not_read_count_until_they_have_ended() {
        let own = PartyIndex::new(1).unwrap();
        let peer = Peer::new(own, Link::new(Life([1; 16]), true, Members::NONE.with(own)));
        let hello = [&[0][..], &[2; 16], &[1; 16]].concat();
        peer.link(|link| link.receive(&hello.into())).unwrap();
        for _ in 0..CONNECTIONS_MAX {
            let id = peer.link(Link::open).unwrap();
            peer.carry(id, |_| core::future::pending());
            peer.link(|link| link.reset(id));
        }
        let further = peer.link(Link::open).unwrap();
        peer.carry(further, |_| core::future::pending());
        assert_eq!(lock(&peer.streams).len(), CONNECTIONS_MAX);
        assert_eq!(peer.room(further), None, "the other end hears of it");
        // All of one life end before the next.
        peer.begin_anew().await;
        assert!(lock(&peer.streams).is_empty());
        let id = peer.link(Link::open).unwrap();
        peer.carry(id, |_| core::future::pending());
        assert_eq!(lock(&peer.streams).len(), 1);
    }

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
