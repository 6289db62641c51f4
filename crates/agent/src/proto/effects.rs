//! What handling one batch of inputs has brought about so far: rows to store, things to release,
//! deadlines; and the state of relays, which all connections share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use junto_smp::address::ServerAddress;
use junto_smp::id::RecipientId;

use super::command::{CallError, Reply, Ticket};
use super::event::Event;
use super::id::{ConnectionId, Tag};
use super::instant::Instant;
use super::machine::Lines;
use super::parallel::Slot;
use super::path::{Reach, RelayPath, RoutePolicy};
use super::relay::{Operation, RelayId, RelayTrouble, Token};
use super::resync::Resync;
use super::rotation::Schedule;
use super::step::{Delta, Output};

/// How long to wait before a command that a relay refused for a passing reason is tried again.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Whose queue a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Address(Tag),
    /// The queue in use, on either side.
    Connection(ConnectionId),
    /// A connection through a short link that is being opened.
    Opening(ConnectionId),
    /// The queue that shall take its place.
    Next(ConnectionId),
    /// One that was in use before.
    Retired(ConnectionId, RecipientId),
    /// One beside the others, on either side.
    Parallel(ConnectionId, Slot),
}

impl Owner {
    fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Address(_) => None,
            Self::Connection(id)
            | Self::Opening(id)
            | Self::Next(id)
            | Self::Retired(id, _)
            | Self::Parallel(id, _) => Some(id),
        }
    }
}

/// What a command in flight does for its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Create,
    Subscribe,
    Secure,
    /// Let the sender in.
    Allow,
    /// Send the outbox row of this number.
    Send(u64),
    Acknowledge,
    Suspend,
    Delete,
    /// Read the data of a short link.
    Open,
    /// Change what our short link says.
    Publish,
}

/// A command that a relay has not answered yet.
pub(super) struct Pending {
    pub(super) relay: RelayId,
    pub(super) owner: Owner,
    pub(super) purpose: Purpose,
}

/// How often connections mix in a secret that a quantum computer cannot find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PostQuantum {
    /// In the key agreement, on which all later keys rest, and again every [`HEAL_INTERVAL`] of a
    /// connection's use. Recorded traffic stays safe from a quantum computer; whoever stole keys is
    /// shut out after the interval. A step of the ratchet costs half a millisecond.
    #[default]
    Sparing,
    /// In every step of the ratchet, at some 10 ms of work for each side.
    EachStep,
}

/// How long a connection is used before it mixes in another secret.
pub const HEAL_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// Why the core wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Receipts have been gathered for long enough.
    Receipts(ConnectionId),
    /// A message that others overtook has had its time to come.
    Gap(ConnectionId),
    /// The rest of a queue that was replaced has had its time to come.
    Drain(ConnectionId),
    /// What a peer's queue holds has had its time, before another one is used.
    Switch(ConnectionId),
    /// A queue has been used for long enough.
    Rotation(ConnectionId),
    /// What was said about queues has had its time to be answered.
    Words(ConnectionId),
    /// Queues that the peer offered too soon may be taken up.
    Offers(ConnectionId),
    /// The peer's full queue, or the way to it, may have room again.
    Quota(ConnectionId),
    /// It is time to choose what goes next, or to send it.
    Noise(ConnectionId),
    /// With noise: what came has had its time before it is acknowledged.
    Acknowledge(ConnectionId),
    /// What a peer said before it went is heard, or our last word has had its time; or a message is missing for a while.
    Parting(ConnectionId),
    /// A relay refused something for a reason that may have passed.
    Retry(RelayId),
    /// An address may take another request.
    Requests(Tag),
}

struct RelayState {
    path: RelayPath,
    reach: Reach,
    /// Whether the shell keeps a connection to it.
    dialled: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) now: Instant,
    pub(super) post_quantum: PostQuantum,
    pub(super) routes: RoutePolicy,
    pub(super) resync: Resync,
    pub(super) schedule: Schedule,
    /// Which queues we receive on has changed.
    queues_changed: bool,
    pub(super) delta: Delta,
    outputs: Vec<Output>,
    /// Outputs that wait for no commit.
    prompt: Vec<Output>,
    /// An event among the outputs holds back those after it.
    events_wait: bool,
    /// Owners whose row must be written.
    dirty: BTreeSet<Owner>,
    /// Owners that may have commands to issue.
    ready: BTreeSet<Owner>,
    /// Connections that may have used up the keys made ahead.
    unprepared: BTreeSet<ConnectionId>,
    timers: BTreeSet<(Instant, Timer)>,
    relays: Vec<RelayState>,
    pending: BTreeMap<Token, Pending>,
    last_token: u64,
}

impl Effects {
    /// Our short name for a relay that we receive on; new ones are dialled.
    pub(super) fn relay(&mut self, address: &ServerAddress) -> RelayId {
        self.dial(RelayPath::direct(address.clone()))
    }

    /// Our short name for a relay with a peer's queue, by the path that a connection takes that receives on
    /// `receiving`; new ones are dialled. One relay by two paths has two names.
    pub(super) fn peers_relay(
        &mut self,
        address: &ServerAddress,
        receiving: &ServerAddress,
    ) -> RelayId {
        self.dial(self.routes.path(address, receiving))
    }

    fn dial(&mut self, path: RelayPath) -> RelayId {
        let known = self.relays.iter().position(|state| state.path == path);
        let index = known.unwrap_or_else(|| {
            self.relays.push(RelayState {
                path: path.clone(),
                reach: Reach::Unknown,
                dialled: false,
            });
            self.relays.len() - 1
        });
        // A profile with 2³² relays does not fit into memory.
        let relay = RelayId(index as u32);
        let state = &mut self.relays[index];
        if !state.dialled {
            state.dialled = true;
            self.outputs.push(Output::Dial { relay, path });
        }
        relay
    }

    /// Relays that the shell keeps a connection to.
    pub(super) fn dialled(&self) -> impl Iterator<Item = RelayId> {
        let numbered = self.relays.iter().enumerate();
        let dialled = numbered.filter(|(_, state)| state.dialled);
        dialled.map(|(index, _)| RelayId(index as u32))
    }

    /// Nothing needs this relay any more.
    pub(super) fn hang_up(&mut self, relay: RelayId) {
        self.pending.retain(|_, pending| pending.relay != relay);
        if let Some(state) = self.relays.get_mut(relay.0 as usize) {
            state.dialled = false;
            state.reach = Reach::Unknown;
            self.outputs.push(Output::Hang { relay });
        }
    }

    /// How the shell reaches a relay.
    pub(super) fn path(&self, relay: RelayId) -> Option<&RelayPath> {
        self.relays.get(relay.0 as usize).map(|state| &state.path)
    }

    /// The same, and whether it does.
    pub(super) fn way(&self, relay: RelayId) -> Option<(&RelayPath, Reach)> {
        let state = self.relays.get(relay.0 as usize)?;
        Some((&state.path, state.reach))
    }

    /// Whether a relay has not answered yet that a message of this queue is ours: another may come.
    pub(super) fn awaits_message(&self, owner: Owner) -> bool {
        self.pending
            .values()
            .any(|pending| pending.owner == owner && pending.purpose == Purpose::Acknowledge)
    }

    /// Whether a command of one of these lines waits for its answer. Messages that go or come all the time, by
    /// `is_noisy`, count up to the command `last`.
    pub(super) fn awaits_answer(
        &self,
        lines: &Lines,
        last: Token,
        is_noisy: impl Fn(ConnectionId) -> bool,
    ) -> bool {
        let counts = |(token, pending): (&Token, &Pending)| {
            let is_passage = matches!(pending.purpose, Purpose::Send(_) | Purpose::Acknowledge);
            match (pending.owner, pending.owner.connection()) {
                (Owner::Address(tag), _) => lines.addresses.contains(&tag),
                (_, Some(id)) if lines.connections.contains(&id) => {
                    *token <= last || !is_passage || !is_noisy(id)
                }
                _ => false,
            }
        };
        self.pending.iter().any(counts)
    }

    /// The last command so far.
    pub(super) fn last_token(&self) -> Token {
        Token(self.last_token)
    }

    pub(super) fn is_up(&self, relay: RelayId) -> bool {
        self.relays
            .get(relay.0 as usize)
            .is_some_and(|state| state.reach == Reach::Up)
    }

    /// Which queues we receive on, or send to, has changed.
    pub(super) fn queues_changed(&mut self) {
        self.queues_changed = true;
    }

    pub(super) fn take_queues_changed(&mut self) -> bool {
        core::mem::take(&mut self.queues_changed)
    }

    /// Forgets what is in flight to the peer's queue: it has another one.
    pub(super) fn forget_sends(&mut self, owner: Owner) {
        self.pending.retain(|_, pending| {
            let is_send = matches!(pending.purpose, Purpose::Send(_) | Purpose::Secure);
            !(is_send && pending.owner == owner)
        });
    }

    /// What is in flight for one owner is for another one from now on.
    pub(super) fn rename(&mut self, from: Owner, to: Owner) {
        let pending = self.pending.values_mut();
        pending
            .filter(|pending| pending.owner == from)
            .for_each(|pending| pending.owner = to);
    }

    /// Forgets what is in flight to a queue of ours: another one goes by its name.
    pub(super) fn forget_receives(&mut self, owner: Owner) {
        self.pending.retain(|_, pending| {
            let is_send = matches!(pending.purpose, Purpose::Send(_) | Purpose::Secure);
            is_send || pending.owner != owner
        });
    }

    /// The time since 1970, in seconds.
    pub(super) fn unix_seconds(&self) -> u64 {
        let since = Duration::from_millis(self.now.as_millis());
        self.schedule.epoch.saturating_add(since).as_secs()
    }

    /// Forgets the commands in flight on the connection before; tells the application if it is news that the
    /// relay is reachable.
    pub(super) fn relay_up(&mut self, relay: RelayId) {
        self.pending.retain(|_, pending| pending.relay != relay);
        let Some(state) = self.relays.get_mut(relay.0 as usize) else {
            return;
        };
        if state.reach != Reach::Up {
            state.reach = Reach::Up;
            let relay = state.path.relay.clone();
            self.event(Event::RelayUp { relay });
        }
    }

    /// Forgets the commands in flight to a relay; tells the application if that is news.
    pub(super) fn relay_down(&mut self, relay: RelayId, trouble: RelayTrouble) {
        self.pending.retain(|_, pending| pending.relay != relay);
        let Some(state) = self.relays.get_mut(relay.0 as usize) else {
            return;
        };
        if state.reach != Reach::Down(trouble) {
            state.reach = Reach::Down(trouble);
            let relay = state.path.relay.clone();
            self.event(Event::RelayDown { relay, trouble });
        }
    }

    /// A moment of the machine's clock in milliseconds since 1970.
    pub(super) fn unix_millis(&self, at: Instant) -> u64 {
        let since = Duration::from_millis(at.as_millis());
        let millis = self.schedule.epoch.saturating_add(since).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }

    /// Issues a command. The caller has checked that the relay is up.
    pub(super) fn command(
        &mut self,
        relay: RelayId,
        owner: Owner,
        purpose: Purpose,
        operation: Operation,
    ) {
        self.last_token += 1;
        let token = Token(self.last_token);
        self.pending.insert(
            token,
            Pending {
                relay,
                owner,
                purpose,
            },
        );
        self.outputs.push(Output::Command {
            relay,
            token,
            operation,
        });
    }

    /// The command that an answer belongs to; `None` for one of a connection that died.
    pub(super) fn answered(&mut self, token: Token) -> Option<Pending> {
        self.pending.remove(&token)
    }

    /// Tells the application. Messages wait for no commit: if the process dies before, they come
    /// again, with the same numbers. What the application builds calls on does wait, and whatever
    /// comes after it, so that events keep their order.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Request { .. }
            | Event::Connected { .. }
            | Event::Renewed { .. }
            | Event::Failed { .. } => {
                self.events_wait = true;
            }
            Event::Message { .. }
            | Event::Delivered { .. }
            | Event::Opened { .. }
            | Event::Unreadable { .. }
            | Event::Irregular { .. }
            | Event::RatchetBroken { .. }
            | Event::Synchronised { .. }
            | Event::Rotated { .. }
            | Event::RotationFailed { .. }
            | Event::TakenOver { .. }
            | Event::AddressMoved { .. }
            | Event::RelayDown { .. }
            | Event::RelayUp { .. } => {}
        }
        let event = Output::Event(event);
        if self.events_wait {
            self.outputs.push(event);
        } else {
            self.prompt.push(event);
        }
    }

    /// Answers a call whose effect need not be durable.
    pub(super) fn answer_promptly(&mut self, ticket: Ticket, answer: Result<Reply, CallError>) {
        self.prompt.push(Output::Answer { ticket, answer });
    }

    pub(super) fn answer(&mut self, ticket: Ticket, answer: Result<Reply, CallError>) {
        self.outputs.push(Output::Answer { ticket, answer });
    }

    /// The owner's row changed, and it may have commands to issue.
    pub(super) fn changed(&mut self, owner: Owner) {
        self.dirty.insert(owner);
        self.ready.insert(owner);
    }

    /// The owner may have commands to issue.
    pub(super) fn ready(&mut self, owner: Owner) {
        self.ready.insert(owner);
    }

    /// The connection may have used up the keys made ahead.
    pub(super) fn unprepared(&mut self, connection: ConnectionId) {
        self.unprepared.insert(connection);
    }

    pub(super) fn take_unprepared(&mut self) -> Option<ConnectionId> {
        self.unprepared.pop_first()
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<Owner> {
        core::mem::take(&mut self.dirty)
    }

    pub(super) fn take_ready(&mut self) -> BTreeSet<Owner> {
        core::mem::take(&mut self.ready)
    }

    pub(super) fn take_outputs(&mut self) -> Vec<Output> {
        self.events_wait = false;
        core::mem::take(&mut self.outputs)
    }

    pub(super) fn take_prompt(&mut self) -> Vec<Output> {
        core::mem::take(&mut self.prompt)
    }

    /// Whether anything waits for a commit to leave.
    pub(super) fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// Whether anything at all is to be done.
    pub(super) fn has_work(&self) -> bool {
        !(self.outputs.is_empty()
            && self.prompt.is_empty()
            && self.ready.is_empty()
            && self.dirty.is_empty()
            && self.delta.is_empty())
    }

    /// Wakes the core at a moment.
    pub(super) fn wake_at(&mut self, at: Instant, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Wakes the core after a delay.
    pub(super) fn wake_after(&mut self, delay: Duration, timer: Timer) {
        self.timers.insert((self.now.after(delay), timer));
    }

    pub(super) fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.first().copied()
    }

    /// The next timer that is due.
    pub(super) fn take_due(&mut self) -> Option<Timer> {
        let (at, _) = self.timers.first()?;
        if *at > self.now {
            return None;
        }
        self.timers.pop_first().map(|(_, timer)| timer)
    }
}
