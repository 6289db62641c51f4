//! Parties that send each other messages through their agents: the agent layer under test.
//!
//! Each party's application follows the contract of `junto-agent`: it repeats calls with the same
//! tag after a crash, records each message once by its id, and acknowledges after that.

use std::collections::{BTreeMap, BTreeSet};

use junto_agent::proto::{
    CallError, Command, ConnectionId, Event, Integrity, Link, MAX_BODY, MessageId, Reply,
    RequestId, Tag, Ticket,
};

mod lying;

pub use lying::{run_with_a_liar_of_two, run_with_lying_relays};

use crate::{
    agents::{Agents, Report},
    dice::{Dice, Seed},
    faults::Faults,
    invariants::{
        both_ends_agree, delivered_means_received, in_order, integrity_is_ok, no_connection_fails,
        nobody_hangs, nothing_invented, nothing_lost, nothing_twice, work_is_bounded,
    },
    mutation::Mutation,
    stream::Stream,
    timeline::Timeline,
    trace::Trace,
    verdict::{Run, Violation},
};

/// When the faults stop.
const FAULTS_MS: u64 = 3_000;
/// How long to go on after everything has arrived: what is repeated late is repeated too.
const AFTERMATH_MS: u64 = 4_000;

type Checked = Result<(), Violation>;

enum Happening {
    /// A party's application does something of its own.
    Tick(usize),
    Acknowledge(usize, u64, ConnectionId, MessageId),
}

/// What a run promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terms {
    /// Relays lose nothing: everything arrives, and no connection ends.
    Honest,
    /// The same, though one relay of each party lies; what is asked of that one may fail.
    Copies,
    /// Relays lie: what does not arrive is told, and so is the end of a connection.
    Told,
}

/// What a call was for.
enum Call {
    /// A link for these peers.
    Offer(Vec<usize>),
    Connect,
    Send(usize, u64),
    Other,
}

/// What an application keeps in its own store.
#[derive(Default)]
struct Notebook {
    connections: BTreeMap<ConnectionId, Contact>,
    peers: BTreeMap<usize, ConnectionId>,
}

struct Contact {
    peer: usize,
    binding: [u8; 32],
    /// The last message recorded.
    last: Option<MessageId>,
}

/// What an application forgets when it dies.
#[derive(Default)]
struct Memory {
    run: u64,
    up: bool,
    calls: BTreeMap<Ticket, Call>,
    /// Peers whose connection is being made.
    asked: BTreeSet<usize>,
    /// Numbers of messages by their ids, for receipts.
    ids: BTreeMap<(usize, MessageId), u64>,
}

/// The world of one run.
struct World {
    agents: Agents,
    timeline: Timeline<Happening>,
    dice: Dice,
    parties: usize,
    /// Each party's relay.
    homes: Vec<usize>,
    /// Whether each receives on a second relay as well.
    doubles: bool,
    /// When queues move to another relay, or to another queue on the same one, if they do.
    rotation: Option<Dice>,
    relays: usize,
    /// Which promises hold.
    terms: Terms,
    /// Whether a connection cannot go on, as its ends were told.
    failed: bool,
    /// Whether a new queue was given up, because its relay said that it has none.
    gave_up: bool,
    /// Whether a party gives one address to all instead of a link to each.
    public: Vec<bool>,
    quota: u64,
    notebooks: Vec<Notebook>,
    memories: Vec<Memory>,
    streams: BTreeMap<(usize, usize), Stream>,
    /// Links that travelled out of band, by who made them for whom.
    links: BTreeMap<(usize, usize), Link>,
    tickets: u64,
    mutation: Mutation,
}

/// Runs one seed; `keep` keeps the lines of the trace.
#[must_use]
pub fn run(seed: Seed, keep: bool, mutation: Mutation) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    run_with(seed, keep, mutation, faults)
}

/// Runs one seed in which both parties come to receive on two relays each, of which one each dies for good, in the
/// middle of traffic and other faults.
#[must_use]
pub fn run_with_lost_relays(seed: Seed, keep: bool) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    let mut world = World::new(seed, keep, (2, 4), (Mutation::Faithful, faults));
    world.homes = vec![0, 1];
    world.doubles = true;
    let result = world.play_with_lost_relays(faults);
    world.end(result)
}

/// Runs one seed under given faults.
#[must_use]
pub fn run_with(seed: Seed, keep: bool, mutation: Mutation, faults: Faults) -> Run {
    let mut dice = seed.dice("messengers");
    let parties = if dice.chance(750) { 2 } else { 3 };
    let relays = if dice.chance(500) { 1 } else { 2 };
    let mut world = World::new(seed, keep, (parties, relays), (mutation, faults));
    world.may_rotate(seed);
    let result = world.play();
    world.end(result)
}

fn pairs(parties: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..parties).flat_map(move |a| (0..parties).filter(move |b| a != *b).map(move |b| (a, b)))
}

impl World {
    fn new(
        seed: Seed,
        keep: bool,
        (parties, relays): (usize, usize),
        (mutation, faults): (Mutation, Faults),
    ) -> Self {
        let mut dice = seed.dice("messengers' world");
        let mut timeline = Timeline::new(seed.dice("messengers' ties"));
        for party in 0..parties {
            timeline.after(0, Happening::Tick(party));
        }
        Self {
            agents: Agents::new(seed, (parties, relays), faults, mutation, Trace::new(keep)),
            timeline,
            parties,
            homes: (0..parties).map(|_| dice.index(relays)).collect(),
            doubles: false,
            rotation: None,
            relays,
            terms: Terms::Honest,
            failed: false,
            gave_up: false,
            public: (0..parties).map(|_| dice.chance(400)).collect(),
            quota: dice.between(1, 10),
            notebooks: (0..parties).map(|_| Notebook::default()).collect(),
            memories: (0..parties).map(|_| Memory::default()).collect(),
            streams: pairs(parties)
                .map(|(a, b)| ((a, b), Stream::new(a, b)))
                .collect(),
            links: BTreeMap::new(),
            tickets: 0,
            mutation,
            dice,
        }
    }

    /// In most runs queues are replaced all the time, whatever else happens.
    fn may_rotate(&mut self, seed: Seed) {
        let mut dice = seed.dice("rotation");
        self.rotation = dice.chance(700).then_some(dice);
    }

    fn end(mut self, result: Checked) -> Run {
        self.agents.tally.add(&self.agents.lies());
        Run {
            tally: self.agents.tally.clone(),
            digest: self.agents.trace.digest(),
            lines: self.agents.trace.lines().map(str::to_owned).collect(),
            result,
        }
    }

    /// Both parties come to receive on two relays, and then the faults begin anew.
    fn double_all(&mut self, faults: Faults) -> Checked {
        self.until(|_, now_ms| now_ms >= FAULTS_MS)?;
        self.agents.faults = Faults::NONE;
        // What was said before both ends use both queues had one relay: it arrives before that dies.
        self.until(|world, _| world.is_done() && world.is_doubled())?;
        let quiet = self.now_ms() + FAULTS_MS;
        self.until(|_, now_ms| now_ms >= quiet)?;
        self.quota += self.dice.between(5, 30);
        self.agents.faults = faults;
        Ok(())
    }

    fn play_with_lost_relays(&mut self, faults: Faults) -> Checked {
        self.double_all(faults)?;
        let death = self.now_ms() + self.dice.between(0, FAULTS_MS);
        self.until(|_, now_ms| now_ms >= death)?;
        for party in 0..self.parties {
            let second = self.dice.index(2);
            self.agents.bury_relay(party + 2 * second);
        }
        self.until(|_, now_ms| now_ms >= death + FAULTS_MS)?;
        self.come_to_rest()
    }

    /// Whether both parties send to two queues each.
    fn is_doubled(&self) -> bool {
        (0..self.parties).all(|party| {
            let overview = self.agents.overview(party);
            let connection = overview.and_then(|it| it.connections.into_iter().next());
            connection.is_some_and(|it| it.sends.len() == 2)
        })
    }

    fn play(&mut self) -> Checked {
        self.until(|_, now_ms| now_ms >= FAULTS_MS)?;
        self.come_to_rest()
    }

    fn come_to_rest(&mut self) -> Checked {
        self.agents.faults = Faults::NONE;
        self.until(|world, _| world.is_done())?;
        // Everybody restarts once more: what comes again now must be known.
        for party in 0..self.parties {
            self.agents.crash(party);
        }
        let end = self.now_ms() + AFTERMATH_MS;
        self.until(|_, now_ms| now_ms >= end)?;
        self.streams.values().try_for_each(nothing_lost::check)
    }

    fn now_ms(&self) -> u64 {
        self.agents.now_ms().max(self.timeline.now_ms())
    }

    fn is_done(&self) -> bool {
        self.streams
            .values()
            .all(|stream| stream.issued == self.quota && stream.is_complete())
    }

    fn until(&mut self, done: impl Fn(&Self, u64) -> bool) -> Checked {
        (0..self.parties).try_for_each(|it| work_is_bounded::check(it, self.agents.work(it)))?;
        while !done(self, self.now_ms()) {
            let healed_for = self.now_ms().saturating_sub(FAULTS_MS);
            nobody_hangs::check(healed_for, || {
                let streams: Vec<_> = self.streams.values().map(ToString::to_string).collect();
                streams.join("; ")
            })?;
            let (theirs, ours) = (self.agents.next_ms(), self.timeline.next_ms());
            if ours.is_none() || theirs.is_some_and(|theirs| Some(theirs) <= ours) {
                self.agents.run_one();
            } else if let Some(happening) = self.timeline.take_next() {
                self.agents.wait_until(self.timeline.now_ms());
                self.happen(happening);
            }
            self.timeline.wait_until(self.agents.now_ms());
            self.listen()?;
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick(party) => {
                let next = self.dice.between(5, 120);
                self.timeline.after(next, Happening::Tick(party));
                if self.memories[party].up {
                    self.tick(party);
                }
            }
            Happening::Acknowledge(party, run, connection, message) => {
                if self.memories[party].run == run {
                    let command = Command::Acknowledge {
                        connection,
                        message,
                    };
                    self.call(party, Call::Other, command);
                }
            }
        }
    }

    fn call(&mut self, party: usize, call: Call, command: Command) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.memories[party].calls.insert(ticket, call);
        self.agents.command(party, ticket, command);
    }

    fn tick(&mut self, party: usize) {
        let peers: Vec<_> = (0..self.parties).filter(|peer| *peer != party).collect();
        for peer in &peers {
            if !self.notebooks[party].peers.contains_key(peer)
                && self.memories[party].asked.insert(*peer)
            {
                self.connect(party, *peer);
            }
        }
        let peer = peers[self.dice.index(peers.len())];
        let Some(connection) = self.notebooks[party].peers.get(&peer).copied() else {
            return;
        };
        if self.doubles {
            self.double(party, connection);
        }
        self.rotate(party, connection);
        let bursts = if self.dice.chance(200) { 4 } else { 1 };
        for _ in 0..bursts {
            self.send(party, peer, connection);
        }
    }

    /// Now and then, also while the one before is under way.
    fn rotate(&mut self, party: usize, connection: ConnectionId) {
        let Some(dice) = self.rotation.as_mut().filter(|_| self.memories[party].up) else {
            return;
        };
        if dice.chance(60) {
            let relay = Some(self.agents.relay_address(dice.index(self.relays)));
            self.call(party, Call::Other, Command::Rotate { connection, relay });
        }
    }

    /// Asks for a second queue, unless that is under way: a call may have died with its process.
    fn double(&mut self, party: usize, connection: ConnectionId) {
        let overview = self.agents.overview(party);
        let view = overview.and_then(|it| it.connections.into_iter().next());
        if view.is_some_and(|it| it.receives.len() < 2) {
            let relay = self.agents.relay_address(self.homes[party] + 2);
            let command = Command::AddQueue { connection, relay };
            self.call(party, Call::Other, command);
        }
    }

    fn send(&mut self, party: usize, peer: usize, connection: ConnectionId) {
        let quota = self.quota;
        let len = match self.dice.below(10) {
            0 => MAX_BODY,
            1 => 0,
            _ => 100,
        };
        let Some(stream) = self.streams.get_mut(&(party, peer)) else {
            return;
        };
        if stream.issued >= quota || !self.memories[party].up {
            return;
        }
        let number = stream.issued;
        stream.issued += 1;
        let body = stream.body(number, len);
        self.call(
            party,
            Call::Send(peer, number),
            Command::Send { connection, body },
        );
    }

    /// The lower number invites, the higher one joins.
    fn connect(&mut self, party: usize, peer: usize) {
        let relay = self.agents.relay_address(self.homes[party]);
        let info = vec![party as u8; 1 + self.dice.index(60)];
        if party > peer {
            match self.links.get(&(peer, party)) {
                Some(link) => {
                    let (tag, link) = (Tag::named(&[b"join", &[peer as u8]]), link.clone());
                    let command = Command::Join {
                        tag,
                        link,
                        relay,
                        info,
                    };
                    self.call(party, Call::Connect, command);
                }
                // Not heard of it yet.
                None => {
                    self.memories[party].asked.remove(&peer);
                }
            }
        } else if self.public[party] {
            let tag = Tag::named(&[b"address"]);
            let about = party.is_multiple_of(2).then(|| info.clone());
            let peers = (party + 1..self.parties).collect();
            self.call(
                party,
                Call::Offer(peers),
                Command::CreateAddress { tag, relay, about },
            );
        } else {
            let tag = Tag::named(&[b"invite", &[peer as u8]]);
            let about = (party % 2 == 1).then(|| info.clone());
            let command = Command::CreateInvitation {
                tag,
                relay,
                info,
                about,
            };
            self.call(party, Call::Offer(vec![peer]), command);
        }
    }

    fn listen(&mut self) -> Checked {
        loop {
            let mut reports = self.agents.take_reports();
            if reports.is_empty() {
                return Ok(());
            }
            let mut deaf = BTreeSet::new();
            while let Some((party, report)) = reports.pop_front() {
                // A process that is about to die may not get as far as hearing this, nor anything
                // after it.
                let dies = reports
                    .iter()
                    .any(|(other, later)| *other == party && matches!(later, Report::Crashed));
                if matches!(report, Report::Crashed) {
                    deaf.remove(&party);
                } else if dies && self.dice.chance(500) {
                    deaf.insert(party);
                }
                if deaf.contains(&party) {
                    continue;
                }
                self.hear(party, report)?;
            }
        }
    }

    fn hear(&mut self, party: usize, report: Report) -> Checked {
        let memory = &mut self.memories[party];
        match report {
            Report::Started => memory.up = true,
            Report::Crashed => {
                let run = memory.run + 1;
                *memory = Memory {
                    run,
                    ..Memory::default()
                };
            }
            Report::Answer(ticket, answer) => {
                if let Some(call) = memory.calls.remove(&ticket) {
                    return self.answered(party, call, answer);
                }
            }
            Report::Event(event) => return self.event(party, event),
        }
        Ok(())
    }

    fn answered(&mut self, party: usize, call: Call, answer: Result<Reply, CallError>) -> Checked {
        match (call, answer) {
            (Call::Send(peer, number), Ok(Reply::Message(id))) => {
                self.memories[party].ids.insert((peer, id), number);
                if let Some(stream) = self.streams.get_mut(&(party, peer)) {
                    stream.confirmed.insert(number);
                    stream.ids.insert(number, id.number());
                }
            }
            (Call::Offer(peers), Ok(Reply::Address(link, short))) => {
                let link = short.map_or(Link::Contact(link), Link::Short);
                self.publish(party, &peers, link)?;
            }
            (Call::Offer(peers), Ok(Reply::Invitation(_, link, short))) => {
                let link = short.map_or(Link::Invitation(link), Link::Short);
                self.publish(party, &peers, link)?;
            }
            (Call::Connect | Call::Other, Ok(_)) => {}
            (_, Ok(reply)) => return no_connection_fails::check(party, reply),
            (
                _,
                Err(CallError::Connection(_) | CallError::Link(_) | CallError::QueueRefused(_)),
            ) if self.terms != Terms::Honest => {}
            (_, Err(error)) => return no_connection_fails::check(party, error),
        }
        Ok(())
    }

    fn publish(&mut self, party: usize, peers: &[usize], link: Link) -> Checked {
        for peer in peers {
            let Some(before) = self.links.insert((party, *peer), link.clone()) else {
                continue;
            };
            // An address whose relay says that its queue is gone, truly or not, gets another queue and so another link.
            let may_change = self.terms == Terms::Told
                && self.public[party]
                && self.agents.work(party).buried > 0;
            if may_change && before != link {
                self.agents.tally.count("links that changed");
            } else {
                both_ends_agree::check("link under one tag", &before, &link)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, party: usize, event: Event) -> Checked {
        match event {
            Event::Request { id, info, .. } => self.request(party, id, &info),
            Event::Connected {
                connection,
                info,
                binding,
                ..
            } => self.connected(party, connection, &info, binding),
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                let Some(contact) = self.notebooks[party].connections.get(&connection) else {
                    let text = format!("message before its connection: {connection:?}");
                    return Err(Violation::new("in_order", text));
                };
                let peer = contact.peer;
                self.judge_chain(party, peer, integrity)?;
                let is_late = matches!(integrity, Integrity::Late { .. });
                self.message(party, (peer, connection), (id, is_late), &body)
            }
            Event::Irregular {
                connection,
                integrity,
            } if self.terms == Terms::Told => {
                let contact = self.notebooks[party].connections.get(&connection);
                match contact.map(|contact| contact.peer) {
                    Some(peer) => self.judge_chain(party, peer, integrity),
                    None => Ok(()),
                }
            }
            Event::Failed { .. } if self.terms == Terms::Told => {
                self.failed = true;
                Ok(())
            }
            Event::RotationFailed { .. } if self.terms != Terms::Honest => {
                self.gave_up = true;
                Ok(())
            }
            Event::Rotated { receives, .. } => {
                if receives {
                    self.agents.tally.count("rotations");
                }
                Ok(())
            }
            Event::Opened { .. } => {
                self.agents.tally.count("short links opened");
                Ok(())
            }
            Event::Delivered { connection, id } => {
                let Some(contact) = self.notebooks[party].connections.get(&connection) else {
                    return Ok(());
                };
                self.agents.tally.count("receipts");
                let number = self.memories[party].ids.get(&(contact.peer, id));
                match (number, self.streams.get(&(party, contact.peer))) {
                    (Some(number), Some(stream)) => {
                        delivered_means_received::check(stream, *number)
                    }
                    _ => Ok(()),
                }
            }
            Event::RelayDown { .. } | Event::RelayUp { .. } => Ok(()),
            // A relay that goes back in time brings again what was read long ago: it can make it look as if the keys had
            // parted. What comes next shows that they have not.
            Event::RatchetBroken { .. } | Event::Unreadable { .. } | Event::Synchronised { .. }
                if self.terms == Terms::Told && self.rotation.is_some() =>
            {
                self.agents.tally.count("false alarms about keys");
                Ok(())
            }
            // What a relay that lies may say at any time.
            Event::TakenOver { .. } | Event::AddressMoved { .. } if self.terms != Terms::Honest => {
                Ok(())
            }
            other @ (Event::Failed { .. }
            | Event::Unreadable { .. }
            | Event::Irregular { .. }
            | Event::RatchetBroken { .. }
            | Event::Renewed { .. }
            | Event::Synchronised { .. }
            | Event::TakenOver { .. }
            | Event::AddressMoved { .. }
            | Event::RotationFailed { .. }) => no_connection_fails::check(party, other),
        }
    }

    /// What the chain says about a message, or in front of one: nothing bad, unless relays may lose some.
    fn judge_chain(&mut self, party: usize, peer: usize, integrity: Integrity) -> Checked {
        let Some(stream) = self.streams.get_mut(&(peer, party)) else {
            return Ok(());
        };
        match integrity {
            Integrity::Skipped { .. } if self.mutation == Mutation::DeafToLosses => Ok(()),
            Integrity::Skipped { from, to } if self.terms == Terms::Told => {
                self.agents.tally.count("losses told");
                stream.missing.push((from, to));
                Ok(())
            }
            // It was told as missing before, and now comes after all.
            Integrity::Late { id } if self.terms == Terms::Told && stream.is_told(id) => {
                self.agents.tally.count("late messages told");
                Ok(())
            }
            integrity => integrity_is_ok::check(stream, integrity),
        }
    }

    fn request(&mut self, party: usize, request: RequestId, info: &[u8]) -> Checked {
        let relay = self.agents.relay_address(self.homes[party]);
        let answer = vec![party as u8; info.len()];
        let command = Command::Accept {
            request,
            relay,
            info: answer,
        };
        self.call(party, Call::Other, command);
        Ok(())
    }

    fn connected(
        &mut self,
        party: usize,
        connection: ConnectionId,
        info: &[u8],
        binding: [u8; 32],
    ) -> Checked {
        let Some(peer) = info.first().map(|peer| usize::from(*peer)) else {
            let text = format!("party {party}: a peer without a word about itself");
            return Err(Violation::new("both_ends_agree", text));
        };
        let notebook = &mut self.notebooks[party];
        let contact = Contact {
            peer,
            binding,
            last: None,
        };
        let known = notebook.connections.entry(connection).or_insert(contact);
        both_ends_agree::check("peer of one connection", &known.peer, &peer)?;
        both_ends_agree::check("binding of one connection", &known.binding, &binding)?;
        let first = *notebook.peers.entry(peer).or_insert(connection);
        both_ends_agree::check("connection with one peer", &first, &connection)?;
        let theirs = self.notebooks[peer]
            .peers
            .get(&party)
            .and_then(|id| self.notebooks[peer].connections.get(id));
        match theirs {
            Some(theirs) => both_ends_agree::check("binding", &binding, &theirs.binding),
            None => Ok(()),
        }
    }

    fn message(
        &mut self,
        party: usize,
        (peer, connection): (usize, ConnectionId),
        (id, is_late): (MessageId, bool),
        body: &[u8],
    ) -> Checked {
        let forgetful = self.mutation == Mutation::NoDedup;
        let contact = self.notebooks[party].connections.get_mut(&connection);
        let stream = self.streams.get_mut(&(peer, party));
        if let (Some(contact), Some(stream)) = (contact, stream) {
            let number = nothing_invented::check(stream, body)?;
            // The store of the application holds message and id in one transaction.
            if contact.last.is_none_or(|last| id > last) || forgetful {
                nothing_twice::check(stream, number)?;
                if !is_late {
                    in_order::check(stream, number)?;
                }
                contact.last = Some(id);
                stream.received.push(number);
                self.agents.tally.count("messages");
            } else {
                self.agents.tally.count("repetitions recognised");
            }
        }
        let delay = self.dice.below(80);
        let run = self.memories[party].run;
        self.timeline
            .after(delay, Happening::Acknowledge(party, run, connection, id));
        Ok(())
    }
}
