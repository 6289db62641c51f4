//! Nodes, relays and the connections between them; everything that happens is one action, chosen
//! by a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use junto_agent::proto::{
    Answer, CallError, Command, ConnectionFault, ConnectionId, Event, Instant, Integrity,
    Link as AgentLink, Machine, MachineConfig, MessageId, Operation, Output, PostQuantum, Refusal,
    RelayId, RelayTrouble, Reply, RequestId, Resync, RoutePolicy, Routing, Schedule, Tag, Ticket,
    Token,
};
use junto_agent::store::{MemoryStore, Store};
use junto_smp::address::{Fingerprint, ServerAddress};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::relay::{Link, Out, Relay};

/// What may go wrong.
#[derive(Clone, Copy)]
pub struct Faults {
    /// Connections die, with answers and commands in flight; relays that pass commands on lose some of them, and
    /// some of the answers.
    pub links: bool,
    /// Processes die, before or after a commit, in the middle of what follows.
    pub crashes: bool,
}

impl Faults {
    pub const ALL: Self = Self {
        links: true,
        crashes: true,
    };
    pub const NONE: Self = Self {
        links: false,
        crashes: false,
    };
}

pub struct Wire {
    relay: usize,
    /// It leads through another relay.
    is_detour: bool,
    link: Option<Link>,
    to_relay: VecDeque<(Token, Operation)>,
    /// Commands that the relay has, whose answers are on the way.
    unanswered: VecDeque<Token>,
    to_node: VecDeque<Out>,
}

/// What the application of a node keeps durably.
#[derive(Default)]
pub struct App {
    pub connected: BTreeMap<Tag, (ConnectionId, Vec<u8>, [u8; 32])>,
    pub requests: BTreeMap<RequestId, Vec<u8>>,
    pub received: BTreeMap<ConnectionId, Vec<(u64, Integrity, Vec<u8>)>>,
    pub delivered: BTreeMap<ConnectionId, Vec<MessageId>>,
    pub failed: BTreeMap<ConnectionId, ConnectionFault>,
    pub unreadable: usize,
    /// What the hash chain said of messages of the peer's agent itself.
    pub irregular: Vec<Integrity>,
    /// Connections whose ratchet was found broken.
    pub broken: Vec<ConnectionId>,
    /// How often a connection got other keys.
    pub renewed: usize,
    /// What was lost each time.
    pub missing: Vec<u64>,
    pub opened: Vec<Vec<u8>>,
    /// Queues that were replaced: whether ours, and where.
    pub rotated: Vec<(bool, ServerAddress)>,
    pub rotations_failed: usize,
    /// How often somebody else was said to read our queues.
    pub taken_over: usize,
    /// How often a contact address was said to have another link.
    pub moved: usize,
    pub unacknowledged: Vec<(ConnectionId, MessageId)>,
}

pub struct Node {
    routes: RoutePolicy,
    pub store: MemoryStore,
    pub machine: Machine,
    pub wires: BTreeMap<RelayId, Wire>,
    pub app: App,
    pub answers: BTreeMap<Ticket, Result<Reply, CallError>>,
    pub crashes: usize,
}

pub struct World {
    pub rng: ChaCha20Rng,
    pub relays: Vec<(ServerAddress, Relay)>,
    pub nodes: Vec<Node>,
    pub receipts: bool,
    pub resync: Resync,
    /// How long queues are used; in force from a node's next start on.
    pub every: Option<Duration>,
    /// A relay that nobody reaches.
    pub away: Option<usize>,
    /// A node whose messages relays take and forget.
    pub unheard: Option<usize>,
    /// The message after so many is taken and forgotten.
    pub forgotten: Option<usize>,
    /// From this message on all are taken and forgotten, counted from the beginning.
    pub forgotten_from: Option<usize>,
    /// The time since 1970 at the world's beginning, for nodes that start.
    pub epoch: Duration,
    /// Messages that relays took, by sender.
    pub taken: [usize; 2],
    /// Relays that are gone for ever.
    pub dead: BTreeSet<usize>,
    post_quantum: PostQuantum,
    /// Commands, and answers, that got lost between two relays.
    pub losses: usize,
    /// Milliseconds, the same for all.
    clock: u64,
    last_link: u64,
    last_ticket: u64,
}

pub fn relay_address(index: usize) -> ServerAddress {
    let identity = Fingerprint([u8::try_from(index).unwrap(); 32]);
    let host = format!("relay{index}.example").parse().unwrap();
    ServerAddress::new(identity, vec![host], 5223).unwrap()
}

fn machine(store: &mut MemoryStore, config: MachineConfig, post_quantum: PostQuantum) -> Machine {
    let rows = store.load().unwrap();
    let mut machine = Machine::restore(config, rows).unwrap();
    assert_eq!(machine.inconsistency(), None);
    machine.set_post_quantum(post_quantum);
    machine
}

fn fit_for_use(mut store: MemoryStore) -> MemoryStore {
    let rows = store.load().unwrap();
    let mut machine = Machine::restore(MachineConfig::default(), rows).unwrap();
    machine.came_back();
    if let Some(step) = machine.take_step() {
        let committed = store.commit(step.delta()).unwrap();
        drop(step.release(committed));
    }
    store
}

impl World {
    pub fn new(seed: u64, nodes: usize, relays: usize, quota: usize) -> Self {
        let post_quantum = match seed % 4 {
            0 => PostQuantum::EachStep,
            _ => PostQuantum::Sparing,
        };
        // With two relays, half of the worlds send to each through the other.
        let routing = match seed % 8 {
            1 | 7 => Routing::Always,
            3 => Routing::WhenUnknown,
            _ => Routing::Never,
        };
        let routes = |node: usize| RoutePolicy {
            routing,
            own: vec![relay_address(node % relays)],
            hidden: false,
        };
        let nodes = (0..nodes).map(|index| {
            let mut store = MemoryStore::default();
            let routes = routes(index);
            let config = MachineConfig {
                receipts: true,
                routes: routes.clone(),
                resync: Resync::OnDemand,
                schedule: Schedule::default(),
            };
            Node {
                machine: machine(&mut store, config, post_quantum),
                routes,
                store,
                wires: BTreeMap::new(),
                app: App::default(),
                answers: BTreeMap::new(),
                crashes: 0,
            }
        });
        Self {
            rng: ChaCha20Rng::seed_from_u64(seed),
            relays: (0..relays)
                .map(|i| (relay_address(i), Relay::new(quota)))
                .collect(),
            nodes: nodes.collect(),
            receipts: true,
            resync: Resync::OnDemand,
            every: None,
            away: None,
            unheard: None,
            forgotten: None,
            forgotten_from: None,
            // The clock of the world goes on over restarts.
            epoch: Duration::from_secs(1_000_000),
            taken: [0; 2],
            dead: BTreeSet::new(),
            post_quantum,
            losses: 0,
            clock: 0,
            last_link: 0,
            last_ticket: 0,
        }
    }

    pub fn pick(&mut self, below: usize) -> usize {
        self.rng.next_u32() as usize % below
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.pick(one_in) == 0
    }

    /// Issues a call; the answer appears in the node's `answers`, unless it crashes before.
    pub fn call(&mut self, node: usize, command: Command) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        let node = &mut self.nodes[node];
        let now = Instant::from_millis(self.clock);
        node.machine
            .handle_command(now, ticket, command, &mut self.rng);
        ticket
    }

    /// One thing happens.
    pub fn act(&mut self, faults: Faults) {
        let node = self.pick(self.nodes.len());
        match self.pick(100) {
            0..30 => self.step(node, faults),
            30..58 => drop(self.relay_works(node, faults)),
            58..90 => drop(self.node_hears(node)),
            90..94 => self.dial(node),
            94..97 => self.time_passes(),
            97 if faults.links => self.cut(node),
            98 if faults.crashes && self.chance(4) => self.crash(node),
            _ => self.acknowledge(node),
        }
    }

    /// Nothing fails and everything is done until nothing more happens.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..200_000 {
            if self.round() {
                quiet = 0;
                continue;
            }
            self.sleep();
            quiet += 1;
            if quiet > 20 {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Everything that happens without time passing.
    pub fn rest(&mut self) {
        while self.round() {}
    }

    /// Whatever anybody can do at once; whether there was anything.
    fn round(&mut self) -> bool {
        let mut busy = false;
        for node in 0..self.nodes.len() {
            self.dial(node);
            self.step(node, Faults::NONE);
            while self.relay_works(node, Faults::NONE) {
                busy = true;
            }
            while self.node_hears(node) {
                busy = true;
            }
            while !self.nodes[node].app.unacknowledged.is_empty() {
                self.acknowledge(node);
                busy = true;
            }
            self.step(node, Faults::NONE);
        }
        busy || self.nodes.iter().any(|node| self.is_to_dial(node))
    }

    /// Everything that node can do without the others hearing of it.
    pub fn settle_only(&mut self, index: usize) {
        let dead = self.dead.clone();
        loop {
            self.dial(index);
            self.step(index, Faults::NONE);
            let worked = self.relay_works(index, Faults::NONE);
            let mut wires = self.nodes[index].wires.values();
            let is_out = |relay| dead.contains(relay) || self.away == Some(*relay);
            let dialled = wires.all(|wire| wire.link.is_some() || is_out(&wire.relay));
            if !self.node_hears(index) && !worked && dialled {
                return;
            }
        }
    }

    /// A relay dies, with all that it has.
    pub fn kill(&mut self, relay: usize) {
        self.dead.insert(relay);
        self.relays[relay].1.forget_everything();
        for index in 0..self.nodes.len() {
            let wires = self.nodes[index].wires.iter();
            let dead: Vec<_> = wires
                .filter(|(_, wire)| wire.relay == relay)
                .map(|(id, _)| *id)
                .collect();
            for id in dead {
                self.cut_one(index, id);
            }
        }
    }

    /// All connections of a node die.
    pub fn cut_all(&mut self, index: usize) {
        let ids: Vec<_> = self.nodes[index].wires.keys().copied().collect();
        for id in ids {
            self.cut_one(index, id);
        }
    }

    /// The node stores and releases what it has done.
    pub fn step(&mut self, index: usize, faults: Faults) {
        let crash_at = if faults.crashes && self.chance(60) {
            Some(self.pick(6))
        } else {
            None
        };
        if self.chance(2) {
            for output in self.nodes[index].machine.take_prompt() {
                self.release(index, output);
            }
        }
        let node = &mut self.nodes[index];
        let Some(step) = node.machine.take_step() else {
            return;
        };
        if crash_at == Some(0) {
            return self.crash(index);
        }
        let proof = node.store.commit(step.delta()).unwrap();
        for (done, output) in step.release(proof).into_iter().enumerate() {
            if crash_at.is_some_and(|at| done + 1 >= at) {
                return self.crash(index);
            }
            self.release(index, output);
        }
    }

    fn release(&mut self, index: usize, output: Output) {
        let node = &mut self.nodes[index];
        match output {
            Output::Dial { relay, path } => {
                let at = self
                    .relays
                    .iter()
                    .position(|(known, _)| *known == path.relay)
                    .unwrap();
                let wire = Wire {
                    relay: at,
                    is_detour: !path.is_direct(),
                    link: None,
                    to_relay: VecDeque::new(),
                    unanswered: VecDeque::new(),
                    to_node: VecDeque::new(),
                };
                node.wires.insert(relay, wire);
            }
            Output::Hang { relay } => {
                let wire = node.wires.remove(&relay).unwrap();
                if let Some(link) = wire.link {
                    self.relays[wire.relay].1.disconnected(link);
                }
            }
            Output::Command {
                relay,
                token,
                operation,
            } => {
                let wire = node.wires.get_mut(&relay).unwrap();
                if wire.link.is_some() {
                    wire.to_relay.push_back((token, operation));
                }
            }
            Output::Event(event) => node.app.take(event),
            Output::Answer { ticket, answer } => {
                node.answers.insert(ticket, answer);
            }
        }
    }

    /// The relay takes one command of the node.
    fn relay_works(&mut self, index: usize, faults: Faults) -> bool {
        let (lossy, lost) = (faults.links && self.chance(8), self.chance(2));
        let node = &mut self.nodes[index];
        let mut ready: Vec<_> = node
            .wires
            .iter()
            .filter(|(_, w)| !w.to_relay.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            return false;
        }
        let at = self.rng.next_u32() as usize % ready.len();
        let wire = node.wires.get_mut(&ready.swap_remove(at)).unwrap();
        let (token, operation) = wire.to_relay.pop_front().unwrap();
        let (relay, link) = (wire.relay, wire.link.unwrap());
        wire.unanswered.push_back(token);
        if wire.is_detour && lossy && lost {
            self.losses += 1;
            let answer = Answer::Refused(Refusal::Busy);
            wire.to_node.push_back(Out::Answer(answer));
            return true;
        }
        if matches!(operation, Operation::Send { .. }) {
            let total: usize = self.taken.iter().sum();
            let is_late = self.forgotten_from.is_some_and(|from| total >= from);
            self.taken[index.min(1)] += 1;
            let is_next = is_late || self.forgotten == Some(0);
            self.forgotten = self.forgotten.and_then(|left| left.checked_sub(1));
            if is_next || self.unheard == Some(index) {
                wire.to_node.push_back(Out::Answer(Answer::Done));
                return true;
            }
        }
        let lossy = wire.is_detour && lossy;
        self.relays[relay].1.handle(link, operation, &mut self.rng);
        if lossy {
            self.losses += 1;
            for (to, out) in &mut self.relays[relay].1.out {
                if let (true, Out::Answer(answer)) = (*to == link, out) {
                    *answer = Answer::Refused(Refusal::Busy);
                }
            }
        }
        self.distribute(relay);
        true
    }

    fn distribute(&mut self, relay: usize) {
        for (link, out) in std::mem::take(&mut self.relays[relay].1.out) {
            let wires = self
                .nodes
                .iter_mut()
                .flat_map(|node| node.wires.values_mut());
            if let Some(wire) = wires.into_iter().find(|wire| wire.link == Some(link)) {
                wire.to_node.push_back(out);
            }
        }
    }

    /// The node takes one answer or event of a relay.
    fn node_hears(&mut self, index: usize) -> bool {
        let node = &mut self.nodes[index];
        let now = Instant::from_millis(self.clock);
        let ready: Vec<_> = node
            .wires
            .iter()
            .filter(|(_, w)| !w.to_node.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            return false;
        }
        let relay = ready[self.rng.next_u32() as usize % ready.len()];
        let wire = node.wires.get_mut(&relay).unwrap();
        match wire.to_node.pop_front().unwrap() {
            Out::Answer(answer) => {
                let token = wire.unanswered.pop_front().unwrap();
                node.machine
                    .handle_answer(now, token, answer, &mut self.rng);
            }
            Out::Notice(notice) => node
                .machine
                .handle_notice(now, relay, notice, &mut self.rng),
        }
        true
    }

    fn is_to_dial(&self, node: &Node) -> bool {
        let mut wires = node.wires.values();
        wires.any(|wire| {
            let is_away = self.away == Some(wire.relay) || self.dead.contains(&wire.relay);
            wire.link.is_none() && !is_away
        })
    }

    fn dial(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let now = Instant::from_millis(self.clock);
        for (id, wire) in &mut node.wires {
            let is_away = self.away == Some(wire.relay) || self.dead.contains(&wire.relay);
            if wire.link.is_none() && !is_away {
                self.last_link += 1;
                wire.link = Some(Link(self.last_link));
                node.machine.handle_relay_up(now, *id);
            }
        }
    }

    /// A connection dies: what is on the way to the node is lost, and what is on the way to the
    /// relay as well.
    pub fn cut(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let ids: Vec<_> = node.wires.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.rng.next_u32() as usize % ids.len()];
        self.cut_one(index, id);
    }

    fn cut_one(&mut self, index: usize, id: RelayId) {
        let node = &mut self.nodes[index];
        let wire = node.wires.get_mut(&id).unwrap();
        if let Some(link) = wire.link.take() {
            wire.to_relay.clear();
            wire.to_node.clear();
            wire.unanswered.clear();
            self.relays[wire.relay].1.disconnected(link);
            node.machine.handle_relay_down(
                Instant::from_millis(self.clock),
                id,
                RelayTrouble::Unreachable,
            );
        }
    }

    /// The process dies and starts again from its store.
    pub fn crash(&mut self, index: usize) {
        let (receipts, post_quantum) = (self.receipts, self.post_quantum);
        let node = &mut self.nodes[index];
        for wire in node.wires.values() {
            if let Some(link) = wire.link {
                self.relays[wire.relay].1.disconnected(link);
            }
        }
        node.wires.clear();
        node.app.unacknowledged.clear();
        node.crashes += 1;
        let routes = node.routes.clone();
        let resync = self.resync;
        let config = MachineConfig {
            receipts,
            routes,
            resync,
            schedule: Schedule {
                every: self.every,
                epoch: self.epoch,
            },
        };
        node.machine = machine(&mut node.store, config, post_quantum);
    }

    /// A copy of the node's profile runs, as another node.
    pub fn copy(&mut self, index: usize) {
        let mut store = self.nodes[index].store.clone();
        let routes = self.nodes[index].routes.clone();
        let config = MachineConfig {
            receipts: self.receipts,
            routes: routes.clone(),
            resync: self.resync,
            schedule: Schedule::default(),
        };
        self.nodes.push(Node {
            machine: machine(&mut store, config, self.post_quantum),
            routes,
            store,
            wires: BTreeMap::new(),
            app: App::default(),
            answers: BTreeMap::new(),
            crashes: 0,
        });
    }

    /// The node's store is this copy from now on, made fit for use as after a restore.
    pub fn come_back(&mut self, index: usize, backup: MemoryStore) {
        self.nodes[index].store = fit_for_use(backup);
        self.crash(index);
    }

    /// A moment passes.
    fn time_passes(&mut self) {
        self.clock += 50 + self.rng.next_u32() as u64 % 500;
        self.wake();
    }

    /// Much time passes.
    pub fn wait(&mut self, duration: Duration) {
        self.clock += duration.as_millis() as u64;
        self.wake();
    }

    /// Time passes until somebody wakes.
    fn sleep(&mut self) {
        let wakes = self
            .nodes
            .iter()
            .filter_map(|node| node.machine.next_timeout());
        let first = wakes.map(|(at, _)| at.as_millis()).min();
        self.clock = first.unwrap_or(0).max(self.clock + 1);
        self.wake();
    }

    fn wake(&mut self) {
        let now = Instant::from_millis(self.clock);
        for node in &mut self.nodes {
            node.machine.handle_timeout(now, &mut self.rng);
        }
    }

    /// The application says that it has a message.
    pub fn acknowledge(&mut self, index: usize) {
        let Some((connection, message)) = self.nodes[index].app.unacknowledged.pop() else {
            return;
        };
        self.call(
            index,
            Command::Acknowledge {
                connection,
                message,
            },
        );
    }
}

impl App {
    /// Takes an event as an application should that keeps what it has got: by (connection, id).
    fn take(&mut self, event: Event) {
        match event {
            Event::Request { id, info, .. } => {
                self.requests.insert(id, info);
            }
            Event::Connected {
                connection,
                tag,
                info,
                binding,
            } => {
                let known = self
                    .connected
                    .insert(tag, (connection, info.clone(), binding));
                if let Some(known) = known {
                    assert_eq!(
                        (known.0, known.1),
                        (connection, info),
                        "Connected changed its mind"
                    );
                    // Renewed may have been on its way when the process died.
                    self.renewed += usize::from(known.2 != binding);
                }
            }
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                let received = self.received.entry(connection).or_default();
                self.unacknowledged.push((connection, id));
                let number = id.number();
                match received.iter().find(|(known, ..)| *known == number) {
                    Some((_, _, known)) => assert_eq!(*known, body, "a repeated message changed"),
                    None => {
                        let last = received.last().map_or(0, |(last, ..)| *last);
                        assert!(number > last, "a message came late");
                        received.push((number, integrity, body));
                    }
                }
            }
            Event::Delivered { connection, id } => {
                self.delivered.entry(connection).or_default().push(id);
            }
            Event::Failed {
                connection, error, ..
            } => {
                self.failed.insert(connection, error);
            }
            Event::Unreadable { .. } => self.unreadable += 1,
            Event::Irregular { integrity, .. } => self.irregular.push(integrity),
            Event::RatchetBroken { connection } => self.broken.push(connection),
            Event::Renewed {
                tag,
                connection,
                binding,
            } => {
                let known = self.connected.get_mut(&tag).unwrap();
                assert_eq!(known.0, connection);
                if known.2 != binding {
                    known.2 = binding;
                    self.renewed += 1;
                }
            }
            Event::Synchronised { missing, .. } => self.missing.push(missing),
            Event::Opened { about, .. } => self.opened.push(about),
            Event::Rotated {
                receives, relay, ..
            } => self.rotated.push((receives, relay)),
            Event::RotationFailed { .. } => self.rotations_failed += 1,
            Event::TakenOver { .. } => self.taken_over += 1,
            Event::AddressMoved { .. } => self.moved += 1,
            Event::RelayDown { .. } | Event::RelayUp { .. } => {}
        }
    }
}

/// A pair of nodes and how far their applications are.
pub struct Pair {
    pub world: World,
    /// The link that node 0 makes.
    pub link: Option<AgentLink>,
    link_call: Option<(Ticket, usize)>,
    join_call: Option<(Ticket, usize)>,
    pub contact: bool,
    /// They meet by a short link.
    pub short: bool,
    next: [u64; 2],
    sending: [Option<(Ticket, u64, usize)>; 2],
    /// Bodies that `send` has confirmed, by sender.
    pub confirmed: [Vec<u64>; 2],
}

pub fn tag(name: &str) -> Tag {
    Tag::named(&[name.as_bytes()])
}

impl Pair {
    pub fn new(seed: u64, contact: bool, quota: usize) -> Self {
        Self::on((seed, 1 + (seed % 2) as usize), contact, quota)
    }

    /// A pair with that many relays.
    pub fn on((seed, relays): (u64, usize), contact: bool, quota: usize) -> Self {
        Self {
            world: World::new(seed, 2, relays, quota),
            link: None,
            link_call: None,
            join_call: None,
            contact,
            short: seed % 3 == 1,
            next: [0; 2],
            sending: [None; 2],
            confirmed: [Vec::new(), Vec::new()],
        }
    }

    fn relay_of(&self, node: usize) -> ServerAddress {
        relay_address(node % self.world.relays.len())
    }

    /// The connection of a node, once its application knows it.
    pub fn connection(&self, node: usize) -> Option<ConnectionId> {
        self.world.nodes[node]
            .app
            .connected
            .values()
            .next()
            .map(|(id, ..)| *id)
    }

    /// The applications do what they can do now.
    pub fn drive(&mut self, messages: u64) {
        self.drive_link();
        if self.link.is_some() {
            self.drive_join();
        }
        if self.contact {
            self.drive_accept();
        }
        for node in 0..2 {
            self.drive_send(node, messages);
        }
    }

    fn lost(&self, node: usize, at: usize) -> bool {
        self.world.nodes[node].crashes != at
    }

    fn drive_link(&mut self) {
        if self.link.is_some() {
            return;
        }
        if let Some((ticket, crashes)) = self.link_call {
            match self.world.nodes[0].answers.remove(&ticket) {
                Some(Ok(Reply::Address(link, None))) => self.link = Some(link.into()),
                Some(Ok(Reply::Invitation(_, link, None))) => self.link = Some((*link).into()),
                Some(Ok(Reply::Address(_, Some(short)) | Reply::Invitation(_, _, Some(short)))) => {
                    self.link = Some((*short).into())
                }
                Some(answer) => panic!("{answer:?}"),
                None if self.lost(0, crashes) => self.link_call = None,
                None => {}
            }
            return;
        }
        let (tag, relay) = (tag("link"), self.relay_of(0));
        let about = self.short.then(|| b"zero".to_vec());
        let command = if self.contact {
            Command::CreateAddress { tag, relay, about }
        } else {
            Command::CreateInvitation {
                tag,
                relay,
                info: b"from zero".to_vec(),
                about,
            }
        };
        let crashes = self.world.nodes[0].crashes;
        self.link_call = Some((self.world.call(0, command), crashes));
    }

    fn drive_join(&mut self) {
        if let Some((ticket, crashes)) = self.join_call {
            match self.world.nodes[1].answers.get(&ticket) {
                Some(Ok(_)) => {}
                Some(answer) => panic!("{answer:?}"),
                None if self.lost(1, crashes) => self.join_call = None,
                None => {}
            }
            return;
        }
        let link = self.link.clone().unwrap();
        let (relay, info) = (self.relay_of(1), b"from one".to_vec());
        let crashes = self.world.nodes[1].crashes;
        let call = self.world.call(
            1,
            Command::Join {
                tag: tag("join"),
                link,
                relay,
                info,
            },
        );
        self.join_call = Some((call, crashes));
    }

    fn drive_accept(&mut self) {
        let requests: Vec<_> = self.world.nodes[0].app.requests.keys().copied().collect();
        assert!(requests.len() <= 1, "one request came as several");
        let unaccepted = self.world.nodes[0].app.connected.is_empty();
        if let (Some(request), true, 0) = (requests.first(), unaccepted, self.world.pick(20)) {
            let (relay, info) = (self.relay_of(0), b"from zero".to_vec());
            self.world.call(
                0,
                Command::Accept {
                    request: *request,
                    relay,
                    info,
                },
            );
        }
    }

    fn drive_send(&mut self, node: usize, messages: u64) {
        let Some(connection) = self.connection(node) else {
            return;
        };
        if let Some((ticket, number, crashes)) = self.sending[node] {
            match self.world.nodes[node].answers.remove(&ticket) {
                Some(Ok(Reply::Message(_))) => self.confirmed[node].push(number),
                Some(answer) => panic!("{answer:?}"),
                None if self.lost(node, crashes) => {}
                None => return,
            }
            self.sending[node] = None;
        }
        if self.next[node] < messages && self.world.pick(8) == 0 {
            let number = self.next[node];
            self.next[node] += 1;
            let body = number.to_be_bytes().to_vec();
            let crashes = self.world.nodes[node].crashes;
            let ticket = self.world.call(node, Command::Send { connection, body });
            self.sending[node] = Some((ticket, number, crashes));
        }
    }

    /// Runs until the applications are done, then lets everything come to rest.
    pub fn run(&mut self, faults: Faults, actions: usize, messages: u64) {
        for _ in 0..actions {
            self.drive(messages);
            self.world.act(faults);
        }
        for _ in 0..400 {
            for _ in 0..50 {
                self.drive(messages);
                self.world.act(Faults::NONE);
            }
            let done =
                (0..2).all(|node| self.next[node] == messages && self.sending[node].is_none());
            if done {
                break;
            }
        }
        self.world.settle();
        self.drive(messages);
    }

    /// Nothing failed, and nothing was unreadable.
    pub fn check_all_but_bodies(&self) {
        for node in &self.world.nodes {
            assert_eq!(node.app.unreadable, 0);
            assert!(node.app.failed.is_empty(), "{:?}", node.app.failed);
        }
    }

    /// Everything that was confirmed arrived once, in order, with nothing to complain about.
    pub fn check(&self) {
        for (sender, receiver) in [(0, 1), (1, 0)] {
            let connection = self.connection(receiver).expect("not connected");
            let app = &self.world.nodes[receiver].app;
            let received: Vec<_> = app
                .received
                .get(&connection)
                .into_iter()
                .flatten()
                .collect();
            let numbers: Vec<_> = received
                .iter()
                .map(|(_, integrity, body)| {
                    assert_eq!(*integrity, Integrity::Ok);
                    u64::from_be_bytes(body[..].try_into().unwrap())
                })
                .collect();
            assert!(
                numbers.is_sorted_by(|a, b| a < b),
                "twice or out of order: {numbers:?}"
            );
            for confirmed in &self.confirmed[sender] {
                assert!(
                    numbers.contains(confirmed),
                    "{confirmed} of {sender} is lost"
                );
            }
            assert_eq!(app.unreadable, 0);
            assert!(app.failed.is_empty(), "{:?}", app.failed);
        }
        let [zero, one] = &self.world.nodes[..] else {
            panic!()
        };
        let (_, info_of_one, binding) = zero.app.connected.values().next().unwrap();
        let (_, info_of_zero, other) = one.app.connected.values().next().unwrap();
        assert_eq!(
            (&info_of_one[..], &info_of_zero[..]),
            (&b"from one"[..], &b"from zero"[..])
        );
        assert_eq!(binding, other);
    }
}
