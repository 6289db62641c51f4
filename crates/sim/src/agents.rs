//! Agents of several parties, their disks, their relays, and the wires in between.
//!
//! Plays the shell of `junto-agent`: stores steps, then carries out what they release; dials relays
//! and speaks the queue protocol to them block by block. Everything can die at any moment.

use std::collections::{BTreeMap, VecDeque};

use junto_agent::proto::{
    CallError, Command, Committed, Event, Instant, Machine, MachineConfig, Operation, Output,
    Overview, RelayId, RelayTrouble, Reply, Resync, RoutePolicy, Routing, Row, RowKey, Schedule,
    Step, Ticket, Token,
};
use junto_smp::{
    address::ServerAddress,
    block::{Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Options},
};
use rand_chacha::ChaCha8Rng;

use crate::{
    dice::{Dice, Seed},
    faults::{Death, Faults},
    malice::Malice,
    mutation::Mutation,
    relay::{Line, Relay, Sent},
    timeline::Timeline,
    trace::Trace,
    verdict::Tally,
    words::{Asked, Heard, Unfit, is_acknowledgement, with_request},
};

/// What a party's application learns.
pub enum Report {
    /// From the agent.
    Event(Event),
    /// The answer to a call.
    Answer(Ticket, Result<Reply, CallError>),
    /// The process died: what was not stored is forgotten. It comes back by itself.
    Crashed,
    /// The process runs (again).
    Started,
}

enum Happening {
    /// Blocks for a relay arrive.
    ToRelay(usize, Line),
    /// Blocks for an agent arrive.
    ToAgent(usize, Line),
    /// A relay notices that a connection is gone.
    HungUp(usize, Line),
    /// An agent notices that a connection is gone.
    Lost(usize, u64, RelayId, Line),
    Dial(usize, u64, RelayId),
    Timeout(usize, u64),
    Flush(usize, u64),
    Start(usize),
    /// An agent has waited for an answer for long enough.
    GiveUp(usize, Line),
}

/// How long an agent waits for an answer: less than its shell does, to see more of what comes then.
const ANSWER_MS: u64 = 3_000;

/// A connection as both ends hope that it is.
struct Wire {
    party: usize,
    incarnation: u64,
    relay_id: RelayId,
    up: VecDeque<Box<Block>>,
    down: VecDeque<Box<Block>>,
}

/// An agent's end of a connection.
struct Link {
    relay: usize,
    line: Line,
    session: SessionId,
    client: Option<Client<Asked>>,
}

struct Process {
    machine: Machine,
    addresses: BTreeMap<RelayId, usize>,
    links: BTreeMap<RelayId, Link>,
    timeout_ms: Option<u64>,
    flush_due: bool,
}

struct Party {
    disk: BTreeMap<RowKey, Row>,
    process: Option<Process>,
    incarnation: u64,
    gone: bool,
    rng: ChaCha8Rng,
    work: Work,
}

/// What an agent has been given to do, and what it made of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Answers and news of relays.
    pub heard: u64,
    /// Those that say that a queue is gone.
    pub buried: u64,
    /// Connections to relays that came up, after each of which all that waits is said again.
    pub greeted: u64,
    /// Calls of the application, and times that it was woken.
    pub called: u64,
    /// Commands for relays.
    pub commands: u64,
    /// Rows in its store.
    pub rows: usize,
}

/// See the module.
pub struct Agents {
    /// What goes wrong at present.
    pub faults: Faults,
    /// How often what happened.
    pub tally: Tally,
    /// What happened.
    pub trace: Trace,
    mutation: Mutation,
    receipts: bool,
    timeline: Timeline<Happening>,
    dice: Dice,
    parties: Vec<Party>,
    relays: Vec<Relay>,
    relay_back_ms: Vec<u64>,
    wires: BTreeMap<(usize, Line), Wire>,
    reports: VecDeque<(usize, Report)>,
    outgoing: OutgoingBlock,
}

impl Agents {
    /// `parties` agents and `relays` relays; the agents start soon.
    #[must_use]
    pub fn new(
        seed: Seed,
        (parties, relays): (usize, usize),
        faults: Faults,
        mutation: Mutation,
        trace: Trace,
    ) -> Self {
        let mut dice = seed.dice("agents");
        let receipts = dice.chance(700);
        let parties: Vec<_> = (0..parties)
            .map(|party| Party {
                disk: BTreeMap::new(),
                process: None,
                incarnation: 0,
                gone: false,
                rng: seed.stream(&format!("agent {party}")),
                work: Work::default(),
            })
            .collect();
        let mut timeline = Timeline::new(seed.dice("agents' ties"));
        for party in 0..parties.len() {
            timeline.after(dice.below(20), Happening::Start(party));
        }
        Self {
            faults,
            tally: Tally::default(),
            trace,
            mutation,
            receipts,
            timeline,
            parties,
            relay_back_ms: vec![0; relays],
            relays: (0..relays)
                .map(|number| Relay::new(seed, number, &mut dice))
                .collect(),
            dice,
            wires: BTreeMap::new(),
            reports: VecDeque::new(),
            outgoing: OutgoingBlock::new(),
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.timeline.now_ms()
    }

    /// When something happens next.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.timeline.next_ms()
    }

    /// Where a relay is.
    #[must_use]
    pub fn relay_address(&self, relay: usize) -> ServerAddress {
        self.relays[relay].address().clone()
    }

    /// Queues on all relays.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.relays.iter().map(Relay::queues).sum()
    }

    /// What applications have learnt since the last call, in order.
    pub fn take_reports(&mut self) -> VecDeque<(usize, Report)> {
        core::mem::take(&mut self.reports)
    }

    /// Whether a party's process runs.
    #[must_use]
    pub fn is_up(&self, party: usize) -> bool {
        self.parties[party].process.is_some()
    }

    /// The clock of whoever drives several timelines; not past the next event.
    pub fn wait_until(&mut self, now_ms: u64) {
        self.timeline.wait_until(now_ms);
    }

    fn note(&mut self, party: usize, line: impl FnOnce() -> String) {
        let mark = [u8::try_from(party).unwrap_or(u8::MAX)];
        self.trace.note(self.timeline.now_ms(), &mark, || {
            format!("agent {party}: {}", line())
        });
    }

    fn delay(&mut self) -> u64 {
        self.dice.below(self.faults.delay_ms + 1)
    }

    /// Lets the next thing happen. False if nothing ever will.
    pub fn run_one(&mut self) -> bool {
        let Some(happening) = self.timeline.take_next() else {
            return false;
        };
        match happening {
            Happening::ToRelay(relay, line) => self.relay_receives(relay, line),
            Happening::ToAgent(relay, line) => self.agent_receives(relay, line),
            Happening::HungUp(relay, line) => self.relays[relay].hang_up(line),
            Happening::Lost(party, incarnation, relay, line) => {
                if self.parties[party].incarnation == incarnation {
                    self.lost(party, relay, line);
                }
            }
            Happening::Dial(party, incarnation, relay) => {
                if self.parties[party].incarnation == incarnation {
                    self.dial(party, relay);
                }
            }
            Happening::Timeout(party, incarnation) => {
                let now = self.instant();
                if let Some((process, rng)) = self.process(party, incarnation) {
                    process.timeout_ms = None;
                    process.machine.handle_timeout(now, rng);
                    self.parties[party].work.called += 1;
                    self.settle(party);
                }
            }
            Happening::Flush(party, incarnation) => {
                if let Some((process, _)) = self.process(party, incarnation) {
                    process.flush_due = false;
                    self.settle_now(party);
                }
            }
            Happening::Start(party) => self.start(party),
            Happening::GiveUp(relay, line) => self.cut(relay, line),
        }
        true
    }

    fn instant(&self) -> Instant {
        Instant::from_millis(self.timeline.now_ms())
    }

    fn process(
        &mut self,
        party: usize,
        incarnation: u64,
    ) -> Option<(&mut Process, &mut ChaCha8Rng)> {
        let party = &mut self.parties[party];
        if party.incarnation != incarnation {
            return None;
        }
        Some((party.process.as_mut()?, &mut party.rng))
    }

    fn running(&mut self, party: usize) -> Option<(&mut Process, &mut ChaCha8Rng)> {
        let party = &mut self.parties[party];
        Some((party.process.as_mut()?, &mut party.rng))
    }

    fn start(&mut self, number: usize) {
        let receipts = self.receipts;
        let forgetful = self.mutation == Mutation::LoseOutbox;
        let party = &mut self.parties[number];
        if party.process.is_some() || party.gone {
            return;
        }
        if forgetful {
            party
                .disk
                .retain(|key, _| !matches!(key, RowKey::Outbox(..)));
        }
        let rows = party.disk.iter().map(|(key, row)| (*key, row.clone()));
        // Everybody stands in one network here.
        let routing = Routing::Never;
        let routes = RoutePolicy {
            routing,
            ..RoutePolicy::default()
        };
        let config = MachineConfig {
            receipts,
            routes,
            resync: Resync::Refused,
            schedule: Schedule::default(),
        };
        let machine = Machine::restore(config, rows)
            .unwrap_or_else(|error| panic!("agent {number} cannot read its own store: {error}"));
        party.incarnation += 1;
        party.process = Some(Process {
            machine,
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
            timeout_ms: None,
            flush_due: false,
        });
        self.note(number, || "starts".into());
        self.reports.push_back((number, Report::Started));
        self.settle(number);
    }

    /// Kills a party's process, now. It starts again later.
    pub fn crash(&mut self, party: usize) {
        if self.parties[party].process.take().is_none() {
            return;
        }
        self.tally.count("crashes");
        self.note(party, || "CRASHES".into());
        let wires: Vec<_> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.party == party)
            .map(|(key, _)| *key)
            .collect();
        for (relay, line) in wires {
            if self.dice.chance(500) {
                self.deliver_rest(relay, line);
            }
            self.cut(relay, line);
        }
        let down = self.dice.below(self.faults.down_ms + 1);
        self.timeline.after(down, Happening::Start(party));
        self.reports.push_back((party, Report::Crashed));
    }

    /// Kills a party's process for good.
    pub fn bury(&mut self, party: usize) {
        self.parties[party].gone = true;
        self.crash(party);
    }

    /// A relay dies for good, with all that it has.
    pub fn bury_relay(&mut self, relay: usize) {
        self.tally.count("relays lost");
        self.trace.note(self.timeline.now_ms(), b"D", || {
            format!("relay {relay} DIES")
        });
        self.relay_back_ms[relay] = u64::MAX;
        let wires = self.wires.keys().filter(|(other, _)| *other == relay);
        for (relay, line) in wires.copied().collect::<Vec<_>>() {
            self.cut(relay, line);
        }
    }

    /// A relay lies from now on, or no more.
    pub fn corrupt_relay(&mut self, relay: usize, malice: Option<Malice>) {
        self.trace.note(self.timeline.now_ms(), b"H", || {
            let what = if malice.is_some() {
                "LIES"
            } else {
                "is honest"
            };
            format!("relay {relay} {what} from now on")
        });
        self.relays[relay].corrupt(malice);
    }

    /// How much a party's agent has been given to do and has done.
    #[must_use]
    pub fn work(&self, party: usize) -> Work {
        Work {
            rows: self.parties[party].disk.len(),
            ..self.parties[party].work
        }
    }

    /// The lies that all relays have told.
    #[must_use]
    pub fn lies(&self) -> Tally {
        let mut all = Tally::default();
        for relay in &self.relays {
            all.add(&relay.told);
        }
        all
    }

    /// What a party's agent has, if it runs.
    #[must_use]
    pub fn overview(&self, party: usize) -> Option<Overview> {
        let process = self.parties[party].process.as_ref();
        process.map(|process| process.machine.overview())
    }

    /// A connection dies. Each end notices in its own time.
    fn cut(&mut self, relay: usize, line: Line) {
        let Some(wire) = self.wires.remove(&(relay, line)) else {
            return;
        };
        let (first, second) = (self.delay() * 4, self.delay() * 4);
        self.timeline.after(first, Happening::HungUp(relay, line));
        let lost = Happening::Lost(wire.party, wire.incarnation, wire.relay_id, line);
        self.timeline.after(second, lost);
    }

    fn lost(&mut self, party: usize, relay: RelayId, line: Line) {
        let now = self.instant();
        let back_off = 20 + self.delay() * 2;
        let Some((process, _)) = self.running(party) else {
            return;
        };
        if process
            .links
            .get(&relay)
            .is_none_or(|link| link.line != line)
        {
            return;
        }
        process.links.remove(&relay);
        process
            .machine
            .handle_relay_down(now, relay, RelayTrouble::Unreachable);
        let incarnation = self.parties[party].incarnation;
        self.timeline
            .after(back_off, Happening::Dial(party, incarnation, relay));
        self.settle(party);
    }

    fn dial(&mut self, party: usize, relay_id: RelayId) {
        let now = self.instant();
        let incarnation = self.parties[party].incarnation;
        let Some((process, _)) = self.running(party) else {
            return;
        };
        let Some(&relay) = process.addresses.get(&relay_id) else {
            return;
        };
        if process.links.contains_key(&relay_id) {
            return;
        }
        if self.relay_back_ms[relay] > now.as_millis() {
            if let Some((process, _)) = self.running(party) {
                process
                    .machine
                    .handle_relay_down(now, relay_id, RelayTrouble::Unreachable);
            }
            let again = 20 + self.delay();
            self.timeline
                .after(again, Happening::Dial(party, incarnation, relay_id));
            self.settle(party);
            return;
        }
        let (line, session, hello) = self.relays[relay].accept();
        let wire = Wire {
            party,
            incarnation,
            relay_id,
            up: VecDeque::new(),
            down: VecDeque::from([hello]),
        };
        self.wires.insert((relay, line), wire);
        let delay = self.delay();
        self.timeline.after(delay, Happening::ToAgent(relay, line));
        if let Some((process, _)) = self.running(party) {
            process.links.insert(
                relay_id,
                Link {
                    relay,
                    line,
                    session,
                    client: None,
                },
            );
        }
    }

    fn relay_receives(&mut self, relay: usize, line: Line) {
        if self.dice.chance(self.faults.hang_up) && self.wires.contains_key(&(relay, line)) {
            self.tally.count("cut connections");
            return self.cut(relay, line);
        }
        let now_ms = self.timeline.now_ms();
        let garbled = self.dice.chance(self.faults.garble) && self.relays[relay].is_open(line);
        let Some(mut block) = self
            .wires
            .get_mut(&(relay, line))
            .and_then(|wire| wire.up.pop_front())
        else {
            return;
        };
        if garbled {
            self.garble(&mut block);
        }
        let Ok(sent) = self.relays[relay].receive(line, block, now_ms) else {
            assert!(garbled, "a relay cannot open an agent's block");
            return self.cut(relay, line);
        };
        assert!(!garbled, "a relay takes a garbled block");
        for line in self.relays[relay].take_withheld() {
            self.timeline
                .after(ANSWER_MS, Happening::GiveUp(relay, line));
        }
        // A relay that dies here has stored what it was about to answer.
        if self.dice.chance(self.faults.relay_restart) || self.relays[relay].goes_back() {
            return self.restart_relay(relay);
        }
        self.forward(relay, sent);
    }

    fn garble(&mut self, block: &mut Block) {
        let place = self.dice.index(block.len());
        block[place] ^= 1;
        self.tally.count("garbled blocks");
    }

    /// Puts what a relay sends onto its wires.
    fn forward(&mut self, relay: usize, sent: Sent) {
        for (line, block) in sent {
            if let Some(wire) = self.wires.get_mut(&(relay, line)) {
                wire.down.push_back(block);
                let delay = self.delay();
                self.timeline.after(delay, Happening::ToAgent(relay, line));
            }
        }
    }

    /// What a process had written before it died arrives all the same.
    fn deliver_rest(&mut self, relay: usize, line: Line) {
        let now_ms = self.timeline.now_ms();
        let rest = self
            .wires
            .get_mut(&(relay, line))
            .map(|wire| core::mem::take(&mut wire.up));
        for block in rest.into_iter().flatten() {
            let sent = self.relays[relay].receive(line, block, now_ms);
            self.forward(relay, sent.expect("a relay opens what an agent seals"));
        }
    }

    fn restart_relay(&mut self, relay: usize) {
        self.tally.count("relay restarts");
        let forget = self.dice.chance(self.faults.forget_ack);
        self.trace.note(self.timeline.now_ms(), b"R", || {
            format!("relay {relay} RESTARTS")
        });
        self.relays[relay].restart(forget);
        self.relay_back_ms[relay] = self.timeline.now_ms() + self.dice.below(200);
        let lines: Vec<_> = self
            .wires
            .keys()
            .filter(|(other, _)| *other == relay)
            .copied()
            .collect();
        for (relay, line) in lines {
            self.cut(relay, line);
        }
    }

    fn agent_receives(&mut self, relay: usize, line: Line) {
        if self.dice.chance(self.faults.hang_up) && self.wires.contains_key(&(relay, line)) {
            self.tally.count("cut connections");
            return self.cut(relay, line);
        }
        let Some(wire) = self.wires.get_mut(&(relay, line)) else {
            return;
        };
        let Some(mut block) = wire.down.pop_front() else {
            return;
        };
        let garbled = self.dice.chance(self.faults.garble);
        let place = self.dice.index(block.len());
        let (party, relay_id) = (wire.party, wire.relay_id);
        let now = self.instant();
        let leaf = self.relays[relay].leaf().clone();
        let is_hostile = self.relays[relay].is_hostile();
        let identity = self.relays[relay].address().fingerprint();
        let Party {
            process: Some(process),
            rng,
            work,
            ..
        } = &mut self.parties[party]
        else {
            return;
        };
        let Some(link) = process
            .links
            .get_mut(&relay_id)
            .filter(|link| link.line == line)
        else {
            return;
        };
        match &mut link.client {
            None => {
                let mut answer = new_block();
                let options = Options::new(identity);
                let client =
                    Client::open(&options, link.session, &leaf, &mut block, &mut answer, rng)
                        .unwrap_or_else(|fault| panic!("server hello: {fault}"));
                link.client = Some(client);
                work.greeted += 1;
                process.machine.handle_relay_up(now, relay_id);
                self.give(relay, line, answer);
            }
            Some(client) => {
                if garbled {
                    block[place] ^= 1;
                }
                let Ok(incoming) = client.receive(&mut block) else {
                    // One that lies may have left out a block that the next ones are sealed after.
                    assert!(
                        garbled || is_hostile,
                        "an agent cannot open a relay's block"
                    );
                    self.tally.count("garbled blocks");
                    return self.cut(relay, line);
                };
                assert!(!garbled, "an agent takes a garbled block");
                let incoming: Vec<_> = incoming.map(Heard::new).collect();
                for heard in incoming {
                    match heard {
                        Ok(heard) => {
                            work.heard += 1;
                            work.buried += u64::from(heard.buries());
                            heard.tell(&mut process.machine, now, relay_id, rng);
                        }
                        Err(Unfit) => {
                            assert!(is_hostile, "an honest relay breaks the protocol");
                            self.tally.count("broken protocols noticed");
                            self.settle(party);
                            return self.cut(relay, line);
                        }
                    }
                }
            }
        }
        self.settle(party);
    }

    /// Puts a block onto a wire towards the relay.
    fn give(&mut self, relay: usize, line: Line, block: Box<Block>) {
        if let Some(wire) = self.wires.get_mut(&(relay, line)) {
            wire.up.push_back(block);
            let delay = self.delay();
            self.timeline.after(delay, Happening::ToRelay(relay, line));
        }
    }

    /// A call of a party's application. A party that is down does not hear it.
    pub fn command(&mut self, party: usize, ticket: Ticket, command: Command) {
        let now = self.instant();
        if let Some((process, rng)) = self.running(party) {
            process.machine.handle_command(now, ticket, command, rng);
            self.parties[party].work.called += 1;
            self.settle(party);
        }
    }

    /// Stores and releases what has gathered, or waits for more to store together with it.
    fn settle(&mut self, party: usize) {
        let wait = self.dice.chance(250);
        let later = 1 + self.dice.below(5);
        let incarnation = self.parties[party].incarnation;
        let Some((process, _)) = self.running(party) else {
            return;
        };
        if wait && !process.flush_due {
            process.flush_due = true;
            self.timeline
                .after(later, Happening::Flush(party, incarnation));
        } else if !process.flush_due {
            self.settle_now(party);
        }
    }

    fn settle_now(&mut self, party: usize) {
        let incarnation = self.parties[party].incarnation;
        while let Some((process, _)) = self.process(party, incarnation) {
            let Some(step) = process.machine.take_step() else {
                break;
            };
            if !self.carry_out(party, step) {
                return self.crash(party);
            }
        }
        let now_ms = self.timeline.now_ms();
        let Some((process, _)) = self.process(party, incarnation) else {
            return;
        };
        if let Some((at, _)) = process.machine.next_timeout() {
            let at = at.as_millis().max(now_ms + 1);
            if process.timeout_ms.is_none_or(|set| at < set) {
                process.timeout_ms = Some(at);
                self.timeline.at(at, Happening::Timeout(party, incarnation));
            }
        }
    }

    /// Stores a step, then does what it asks for. False if the process dies in between.
    fn carry_out(&mut self, party: usize, step: Step) -> bool {
        let death = Death::draw(&mut self.dice, &self.faults);
        let rows: Vec<_> = step
            .delta()
            .rows()
            .map(|(key, row)| (*key, row.cloned()))
            .collect();
        // What the faithful order forbids, the mutations get by a false promise.
        let outputs = match self.mutation {
            Mutation::SendBeforeStore => {
                let outputs = step.release(Committed::promised());
                self.release(party, outputs, usize::MAX);
                Vec::new()
            }
            Mutation::AckBeforeStore => {
                let (early, late): (Vec<_>, Vec<_>) = step
                    .release(Committed::promised())
                    .into_iter()
                    .partition(is_acknowledgement);
                self.release(party, early, usize::MAX);
                late
            }
            _ => {
                if death == Some(Death::BeforeCommit) {
                    self.tally.count("crashes before a commit");
                    return false;
                }
                self.commit(party, rows);
                let outputs = step.release(Committed::promised());
                let limit = Death::limit(death, &mut self.dice, outputs.len());
                if death.is_some() {
                    self.tally.count("crashes after a commit");
                }
                self.release(party, outputs, limit);
                return death.is_none();
            }
        };
        if death.is_some() {
            return false;
        }
        self.commit(party, rows);
        self.release(party, outputs, usize::MAX);
        true
    }

    fn commit(&mut self, party: usize, rows: Vec<(RowKey, Option<Row>)>) {
        let disk = &mut self.parties[party].disk;
        for (key, row) in rows {
            match row {
                Some(row) => disk.insert(key, row),
                None => disk.remove(&key),
            };
        }
    }

    /// Does what a step released, up to the position where the process dies.
    fn release(&mut self, party: usize, outputs: Vec<Output>, limit: usize) {
        let mut last = None;
        for output in outputs.into_iter().take(limit) {
            match output {
                Output::Dial { relay, path } => self.dial_later(party, relay, &path.relay),
                Output::Hang { relay } => {
                    // What was said before still goes out.
                    if last.take_if(|last| *last == relay).is_some() {
                        self.flush(party, relay);
                    }
                    self.hang(party, relay);
                }
                Output::Command {
                    relay,
                    token,
                    operation,
                } => {
                    self.parties[party].work.commands += 1;
                    // One block is being filled at a time.
                    if let Some(before) = last.replace(relay)
                        && before != relay
                    {
                        self.flush(party, before);
                    }
                    self.push(party, relay, token, &operation);
                }
                Output::Event(event) => {
                    self.note(party, || format!("{event:?}"));
                    self.reports.push_back((party, Report::Event(event)));
                }
                Output::Answer { ticket, answer } => {
                    self.reports
                        .push_back((party, Report::Answer(ticket, answer)));
                }
            }
        }
        // The shell seals a block when it is full or when nothing is left to push.
        if let Some(relay) = last {
            self.flush(party, relay);
        }
    }

    fn dial_later(&mut self, party: usize, relay: RelayId, address: &ServerAddress) {
        let number = self
            .relays
            .iter()
            .position(|known| known.address() == address);
        let number = number.unwrap_or_else(|| panic!("agent {party} dials a relay of nobody"));
        let incarnation = self.parties[party].incarnation;
        let delay = self.delay();
        if let Some((process, _)) = self.running(party) {
            process.addresses.insert(relay, number);
            self.timeline
                .after(delay, Happening::Dial(party, incarnation, relay));
        }
    }

    fn hang(&mut self, party: usize, relay: RelayId) {
        let Some((process, _)) = self.running(party) else {
            return;
        };
        process.addresses.remove(&relay);
        if let Some(link) = process.links.remove(&relay) {
            self.cut(link.relay, link.line);
        }
    }

    fn push(&mut self, party: usize, relay: RelayId, token: Token, operation: &Operation) {
        for last_try in [false, true] {
            let Party { process, rng, .. } = &mut self.parties[party];
            let client = process
                .as_mut()
                .and_then(|process| process.links.get_mut(&relay))
                .and_then(|link| link.client.as_mut());
            let Some(client) = client else {
                return; // the machine will hear that the connection is gone
            };
            let queue = match operation {
                Operation::Acknowledge { queue, .. } => Some(*queue),
                _ => None,
            };
            let named = match operation {
                Operation::Create {
                    link: Some(link), ..
                } => Some(link.correlation),
                _ => None,
            };
            let pushed = with_request(operation, |request| {
                let (block, asked) = (&mut self.outgoing, Asked { token, queue });
                match named {
                    None => client.push(block, request, asked, rng).is_ok(),
                    Some(name) => client.push_as(block, request, asked, name).is_ok(),
                }
            });
            if pushed {
                return;
            }
            assert!(!last_try, "an empty block takes every command");
            self.flush(party, relay);
        }
    }

    fn flush(&mut self, party: usize, relay_id: RelayId) {
        let process = self.parties[party].process.as_mut();
        let Some(link) = process.and_then(|process| process.links.get_mut(&relay_id)) else {
            return;
        };
        let (relay, line) = (link.relay, link.line);
        let sealed = link
            .client
            .as_mut()
            .and_then(|client| client.seal(&mut self.outgoing));
        if let Some(block) = sealed.map(|block| Box::new(*block)) {
            self.give(relay, line, block);
        }
    }
}
