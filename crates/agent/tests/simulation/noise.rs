//! What relays see of connections with noise, and of the same connections while their applications speak.

use std::collections::BTreeMap;
use std::time::Duration;

use junto_agent::proto::{
    Auth, Command, ConnectionId, Event, Instant, Integrity, Lines, Link as AgentLink, Machine,
    MachineConfig, MessageId, Noise, NoiseView, Operation, Output, Pace, RelayId, RelayNotice,
    RelayTrouble, Reply, Schedule, Spread, Ticket, Token,
};
use junto_agent::store::{MemoryStore, Store};
use junto_smp::address::ServerAddress;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::relay::{Link, Out, Relay};
use crate::seeds;
use crate::world::{Faults, Pair, relay_address, tag};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// How long anything takes between an end and a relay, in milliseconds.
const WAY: u64 = 7;

/// What a relay sees of one command, or of one message that it gives out: all of it but the bytes of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    at: u64,
    relay: usize,
    /// Which connection to the relay.
    link: Link,
    what: &'static str,
    /// The queue, and the message if it names one.
    names: Vec<u8>,
    /// The key that it is authorised by.
    key: Vec<u8>,
    bytes: usize,
}

/// What is to happen at a moment.
enum Due {
    /// A command reaches its relay.
    Command(usize, RelayId, Token, Operation),
    /// An answer, or something else of a relay, reaches an end.
    Out(usize, RelayId, Option<Token>, Out),
    /// An application does something.
    Call(usize, Command),
}

struct Wire {
    relay: usize,
    link: Option<Link>,
}

struct End {
    machine: Machine,
    /// When its process began.
    born: u64,
    store: MemoryStore,
    rng: ChaCha20Rng,
    wires: BTreeMap<RelayId, Wire>,
    link: Option<AgentLink>,
    connection: Option<ConnectionId>,
    heard: Vec<(u64, Integrity, Vec<u8>)>,
    delivered: Vec<MessageId>,
    odd: usize,
    is_online: bool,
    /// Steps that let a `SEND` go, and stored something before; and those with an `ACK`.
    storing: [usize; 2],
}

/// Two ends and their relays, in which time passes exactly.
struct Scene {
    clock: u64,
    due: BTreeMap<(u64, u64), Due>,
    relays: Vec<(ServerAddress, Relay)>,
    relay_rng: ChaCha20Rng,
    ends: [End; 2],
    seen: Vec<Seen>,
    counter: u64,
    links: u64,
    /// How long applications take to acknowledge a message.
    reading: u64,
    /// How long anything takes between an end and a relay.
    way: u64,
}

/// A machine whose clock begins now.
fn restored(store: &mut MemoryStore, clock: u64) -> Machine {
    let config = MachineConfig {
        receipts: true,
        schedule: Schedule {
            epoch: Duration::from_millis(clock),
            ..Schedule::default()
        },
        ..MachineConfig::default()
    };
    Machine::restore(config, store.load().unwrap()).unwrap()
}

impl End {
    fn new(seed: u64) -> Self {
        let mut store = MemoryStore::default();
        Self {
            machine: restored(&mut store, 0),
            store,
            born: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            wires: BTreeMap::new(),
            link: None,
            connection: None,
            heard: Vec::new(),
            delivered: Vec::new(),
            odd: 0,
            is_online: true,
            storing: [0; 2],
        }
    }

    /// What its clock says.
    fn now(&self, clock: u64) -> Instant {
        Instant::from_millis(clock - self.born)
    }

    fn noise(&self) -> NoiseView {
        self.machine.overview().connections[0].noise
    }
}

fn key_of(auth: Option<&Auth>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(auth) = auth {
        auth.public_key().write_spki(&mut out);
    }
    out
}

/// What kind of command it is, what it names, what authorises it, and how long it is.
fn described(operation: &Operation) -> (&'static str, Vec<u8>, Vec<u8>, usize) {
    match operation {
        Operation::Create { auth, .. } => ("NEW", vec![], key_of(Some(auth)), 0),
        Operation::Subscribe { queue, auth } => {
            ("SUB", queue.as_bytes().to_vec(), key_of(Some(auth)), 0)
        }
        Operation::Secure { queue, auth } => {
            ("SKEY", queue.as_bytes().to_vec(), key_of(Some(auth)), 0)
        }
        Operation::Send { queue, auth, body } => {
            let key = key_of(auth.as_ref());
            ("SEND", queue.as_bytes().to_vec(), key, body.len())
        }
        Operation::Acknowledge {
            queue,
            auth,
            message,
        } => {
            let names = [&queue.as_bytes()[..], message.as_bytes()].concat();
            ("ACK", names, key_of(Some(auth)), 0)
        }
        _ => ("other", vec![], vec![], 0),
    }
}

impl Scene {
    /// Two ends that have just connected.
    fn new(seed: u64, relays: usize, quota: usize) -> Self {
        let mut scene = Self {
            clock: 0,
            due: BTreeMap::new(),
            relays: (0..relays)
                .map(|at| (relay_address(at), Relay::new(quota)))
                .collect(),
            relay_rng: ChaCha20Rng::seed_from_u64(seed ^ 0xff),
            ends: [End::new(2 * seed), End::new(2 * seed + 1)],
            seen: Vec::new(),
            counter: 0,
            links: 0,
            reading: 0,
            way: WAY,
        };
        let (tag, relay, info) = (tag("noise"), relay_address(0), Vec::new());
        let about = None;
        let invitation = Command::CreateInvitation {
            tag,
            relay,
            info: info.clone(),
            about,
        };
        scene.call(0, 0, invitation);
        scene.run(SECOND);
        let link = scene.ends[0].link.take().unwrap();
        let relay = relay_address(relays - 1);
        let join = Command::Join {
            tag,
            link,
            relay,
            info,
        };
        scene.call(0, 1, join);
        scene.run(SECOND);
        scene
    }

    /// Both ends with noise, in its slots, watched from now on.
    fn with(seed: u64, noise: [Noise; 2]) -> Self {
        let mut scene = Self::new(seed, 2, 128);
        scene.set(noise);
        scene
    }

    fn set(&mut self, noise: [Noise; 2]) {
        for (end, noise) in noise.into_iter().enumerate() {
            let connection = self.ends[end].connection.unwrap();
            self.call(0, end, Command::Noise { connection, noise });
        }
        self.run(10 * SECOND);
        for (end, noise) in self.ends.iter().zip(noise) {
            assert_eq!(end.noise().is_running, has_slots(noise));
        }
        self.seen.clear();
    }

    fn later(&mut self, delay: u64, due: Due) {
        self.counter += 1;
        self.due.insert((self.clock + delay, self.counter), due);
    }

    fn call(&mut self, delay: u64, end: usize, command: Command) {
        self.later(delay, Due::Call(end, command));
    }

    /// An application says something, that long from now.
    fn say(&mut self, delay: u64, end: usize, body: &[u8]) {
        let connection = self.ends[end].connection.unwrap();
        let body = body.to_vec();
        self.call(delay, end, Command::Send { connection, body });
    }

    /// Time passes.
    fn run(&mut self, time: u64) {
        let until = self.clock + time;
        for end in 0..2 {
            self.flush(end);
        }
        loop {
            let next = self.due.keys().next().map(|(at, _)| *at);
            let wakes = self.ends.iter().filter(|end| end.is_online);
            let wakes = wakes.filter_map(|end| {
                let (at, _) = end.machine.next_timeout()?;
                Some(at.as_millis().saturating_add(end.born))
            });
            let wake = wakes.min();
            let at = next.into_iter().chain(wake).min().unwrap_or(u64::MAX);
            if at > until {
                break;
            }
            self.clock = self.clock.max(at);
            while let Some(entry) = self.due.first_entry() {
                if entry.key().0 > self.clock {
                    break;
                }
                let due = entry.remove();
                self.happen(due);
            }
            for end in 0..2 {
                if self.ends[end].is_online {
                    let now = self.ends[end].now(self.clock);
                    let End { machine, rng, .. } = &mut self.ends[end];
                    machine.handle_timeout(now, rng);
                    self.flush(end);
                }
            }
        }
        self.clock = until;
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Call(at, command) => {
                self.counter += 1;
                let end = &mut self.ends[at];
                if end.is_online {
                    let ticket = Ticket(self.counter);
                    let now = end.now(self.clock);
                    end.machine
                        .handle_command(now, ticket, command, &mut end.rng);
                    self.flush(at);
                }
            }
            Due::Command(end, id, token, operation) => {
                let Some(Wire {
                    relay,
                    link: Some(link),
                }) = self.ends[end].wires.get(&id)
                else {
                    return;
                };
                let (relay, link) = (*relay, *link);
                let (what, names, key, bytes) = described(&operation);
                self.seen.push(Seen {
                    at: self.clock,
                    relay,
                    link,
                    what,
                    names,
                    key,
                    bytes,
                });
                self.relays[relay]
                    .1
                    .handle(link, operation, &mut self.relay_rng);
                self.distribute(relay, (end, id, token));
            }
            Due::Out(at, id, token, out) => {
                let end = &mut self.ends[at];
                if end.wires.get(&id).is_none_or(|wire| wire.link.is_none()) {
                    return;
                }
                let now = end.now(self.clock);
                match out {
                    Out::Answer(answer) => {
                        end.machine
                            .handle_answer(now, token.unwrap(), answer, &mut end.rng);
                    }
                    Out::Notice(notice) => {
                        end.machine.handle_notice(now, id, notice, &mut end.rng);
                    }
                }
                self.flush(at);
            }
        }
    }

    /// What a relay says after a command goes to whom it is for.
    fn distribute(&mut self, relay: usize, (from, from_id, token): (usize, RelayId, Token)) {
        for (link, out) in std::mem::take(&mut self.relays[relay].1.out) {
            if let Out::Notice(RelayNotice::Message {
                queue,
                message,
                sealed,
            }) = &out
            {
                self.seen.push(Seen {
                    at: self.clock,
                    relay,
                    link,
                    what: "MSG",
                    names: [&queue.as_bytes()[..], message.as_bytes()].concat(),
                    key: Vec::new(),
                    bytes: sealed.len(),
                });
            }
            let whose = (0..2).find_map(|end| {
                let mut wires = self.ends[end].wires.iter();
                let wire = wires.find(|(_, wire)| wire.link == Some(link));
                wire.map(|(id, _)| (end, *id))
            });
            let Some((end, id)) = whose else { continue };
            let is_answer = matches!(out, Out::Answer(_));
            assert!(!is_answer || (end, id) == (from, from_id));
            let token = is_answer.then_some(token);
            self.later(self.way, Due::Out(end, id, token, out));
        }
    }

    /// Stores and releases what an end has done.
    fn flush(&mut self, at: usize) {
        loop {
            let end = &mut self.ends[at];
            let Some(step) = end.machine.take_step() else {
                return;
            };
            let stores = !step.delta().is_empty();
            let proof = end.store.commit(step.delta()).unwrap();
            let outputs = step.release(proof);
            for output in &outputs {
                let Output::Command { operation, .. } = output else {
                    continue;
                };
                match operation {
                    Operation::Send { .. } => end.storing[0] += usize::from(stores),
                    Operation::Acknowledge { .. } => end.storing[1] += usize::from(stores),
                    _ => {}
                }
            }
            for output in outputs {
                self.release(at, output);
            }
        }
    }

    fn release(&mut self, at: usize, output: Output) {
        let reading = self.reading;
        let end = &mut self.ends[at];
        match output {
            Output::Dial { relay, path } => {
                let mut relays = self.relays.iter();
                let index = relays.position(|(known, _)| *known == path.relay).unwrap();
                end.wires.insert(
                    relay,
                    Wire {
                        relay: index,
                        link: None,
                    },
                );
                if end.is_online {
                    self.up(at, relay);
                }
            }
            Output::Hang { relay } => {
                end.wires.remove(&relay);
            }
            Output::Command {
                relay,
                token,
                operation,
            } => self.later(self.way, Due::Command(at, relay, token, operation)),
            Output::Event(Event::Connected { connection, .. }) => end.connection = Some(connection),
            Output::Event(Event::Message {
                connection,
                id,
                integrity,
                body,
            }) => {
                end.heard.push((id.number(), integrity, body));
                let message = id;
                let command = Command::Acknowledge {
                    connection,
                    message,
                };
                self.call(reading, at, command);
            }
            Output::Event(Event::Delivered { id, .. }) => end.delivered.push(id),
            Output::Event(Event::RelayUp { .. } | Event::RelayDown { .. }) => {}
            Output::Event(_) => end.odd += 1,
            Output::Answer {
                answer: Ok(Reply::Invitation(_, link, _)),
                ..
            } => end.link = Some((*link).into()),
            Output::Answer { answer, .. } => {
                answer.unwrap();
            }
        }
    }

    fn up(&mut self, at: usize, relay: RelayId) {
        self.links += 1;
        let end = &mut self.ends[at];
        end.wires.get_mut(&relay).unwrap().link = Some(Link(self.links));
        let now = end.now(self.clock);
        end.machine.handle_relay_up(now, relay);
    }

    /// An end loses its connections, and goes on.
    fn cut(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let now = end.now(self.clock);
        for (id, wire) in &mut end.wires {
            if let Some(link) = wire.link.take() {
                self.relays[wire.relay].1.disconnected(link);
                end.machine
                    .handle_relay_down(now, *id, RelayTrouble::Unreachable);
            }
        }
        self.flush(at);
    }

    fn dial(&mut self, at: usize) {
        let ids: Vec<_> = self.ends[at].wires.keys().copied().collect();
        for id in ids {
            self.up(at, id);
        }
        self.flush(at);
    }

    fn leave(&mut self, at: usize) {
        self.cut(at);
        self.ends[at].is_online = false;
    }

    /// The end comes back, with a new process.
    fn return_again(&mut self, at: usize) {
        let end = &mut self.ends[at];
        end.wires.clear();
        end.machine = restored(&mut end.store, self.clock);
        end.born = self.clock;
        end.is_online = true;
        self.flush(at);
    }

    fn bodies(&self, end: usize) -> Vec<Vec<u8>> {
        let heard = self.ends[end].heard.iter();
        let bodies = heard.map(|(_, integrity, body)| {
            assert_eq!(*integrity, Integrity::Ok);
            body.clone()
        });
        bodies.collect()
    }

    fn check_quiet(&self) {
        for end in &self.ends {
            assert_eq!(end.odd, 0, "something came up that nobody asked for");
            assert_eq!(end.machine.inconsistency(), None);
        }
    }

    fn rows(&mut self, end: usize) -> usize {
        self.ends[end].store.load().unwrap().len()
    }

    /// When messages went to the peer's queue of an end's.
    fn sends(&self, end: usize) -> Vec<u64> {
        let links: Vec<_> = self.ends[end].wires.values().map(|it| it.link).collect();
        let seen = self.seen.iter();
        seen.filter(|it| it.what == "SEND" && links.contains(&Some(it.link)))
            .map(|it| it.at)
            .collect()
    }
}

fn pace(millis: u64) -> Pace {
    Pace::new(Duration::from_millis(millis)).unwrap()
}

fn constant(millis: u64) -> Noise {
    Noise::Constant(pace(millis))
}

fn random(millis: u64) -> Noise {
    Noise::Random(pace(millis))
}

/// In milliseconds.
fn has_slots(noise: Noise) -> bool {
    matches!(noise, Noise::Constant(_) | Noise::Random(_))
}

fn noise_interval(noise: Noise) -> u64 {
    match noise {
        Noise::Off | Noise::Answers => 0,
        Noise::Constant(pace) | Noise::Random(pace) => pace.interval().as_millis() as u64,
    }
}

/// A talk with bursts, pauses and answers; bodies by speaker.
fn talk(scene: &mut Scene) -> [Vec<Vec<u8>>; 2] {
    let mut said = [Vec::new(), Vec::new()];
    let mut speak = |scene: &mut Scene, delay: u64, end: usize, len: usize| {
        let body = vec![said[end].len() as u8; len];
        scene.say(delay, end, &body);
        said[end].push(body);
    };
    for (delay, end, count) in [
        (1, 0, 1),
        (3_333, 1, 12),
        (40_000, 0, 30),
        (40_950, 1, 1),
        (41_999, 1, 1),
        (42_000, 0, 1),
        (70_001, 0, 1),
        (150_000, 1, 9),
    ] {
        for nth in 0..count {
            speak(scene, delay, end, 1 + 400 * nth);
        }
    }
    said
}

/// What relays see in ten minutes, with and without a talk.
fn views(noise: [Noise; 2], prepare: impl Fn(&mut Scene)) -> [Vec<Seen>; 2] {
    [false, true].map(|talks| {
        let mut scene = Scene::with(1, noise);
        scene.reading = 1_234;
        prepare(&mut scene);
        let said = if talks {
            talk(&mut scene)
        } else {
            Default::default()
        };
        scene.run(600 * SECOND);
        assert_eq!([scene.bodies(1), scene.bodies(0)], said);
        for (end, said) in scene.ends.iter().zip(&said) {
            assert_eq!(end.delivered.len(), said.len());
        }
        scene.check_quiet();
        scene.seen
    })
}

/// Two views that are the same.
fn assert_same(one: &[Seen], other: &[Seen]) {
    let differs = one.iter().zip(other).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!(one.len(), other.len());
}

#[test]
fn a_relay_sees_the_same_with_constant_noise_whatever_is_said() {
    let [silent, talked] = views([constant(2_000), constant(1_500)], |_| {});
    assert!(silent.len() > 2_000, "{}", silent.len());
    assert!(silent.iter().any(|it| it.what == "ACK"));
    assert_same(&silent, &talked);
}

#[test]
fn a_relay_tells_messages_from_silence_where_there_is_no_noise() {
    let [silent, talked] = views([Noise::Off; 2], |_| {});
    assert!(silent.is_empty());
    assert!(!talked.is_empty());
    // Nor does it help to leave the schedule for what is to go at once.
    let [with, without] = [true, false].map(|talks| {
        let mut scene = Scene::with(1, [constant(2_000); 2]);
        let connection = scene.ends[0].connection.unwrap();
        if talks {
            let noise = Noise::Off;
            scene.call(700, 0, Command::Noise { connection, noise });
            scene.say(700, 0, b"at once");
            let noise = constant(2_000);
            scene.call(701, 0, Command::Noise { connection, noise });
        }
        scene.run(60 * SECOND);
        scene.seen
    });
    assert_ne!(with, without);
}

#[test]
fn a_side_without_noise_answers_alike_and_hides_nothing_that_it_says_itself() {
    let one_sided = [constant(2_000), Noise::Answers];
    let [silent, talked] = [false, true].map(|talks| {
        let mut scene = Scene::with(1, one_sided);
        assert!(scene.ends[1].noise().is_peers);
        scene.reading = 1_234;
        if talks {
            for number in 0..20 {
                scene.say(3_000 + number * 100, 0, &[number as u8]);
            }
            scene.say(100 * SECOND, 0, b"another one");
        }
        scene.run(600 * SECOND);
        assert_eq!(scene.bodies(1).len(), if talks { 21 } else { 0 });
        // Receipts come with the answers.
        assert_eq!(scene.ends[0].delivered.len(), scene.bodies(1).len());
        scene.check_quiet();
        scene.seen
    });
    assert_same(&silent, &talked);
    let [silent, talked] = views(one_sided, |_| {});
    assert_ne!(silent, talked);
}

#[test]
fn several_queues_show_no_more_with_noise() {
    for spread in [Spread::Copies, Spread::Stripes] {
        let [silent, talked] = [false, true].map(|talks| {
            let mut scene = Scene::new(3, 4, 128);
            for (end, relay) in [(0, 1), (1, 2)] {
                let (connection, relay) =
                    (scene.ends[end].connection.unwrap(), relay_address(relay));
                scene.call(0, end, Command::AddQueue { connection, relay });
                scene.call(0, end, Command::Spread { connection, spread });
            }
            scene.run(10 * SECOND);
            scene.set([constant(2_000), constant(3_000)]);
            let said = if talks {
                talk(&mut scene)
            } else {
                Default::default()
            };
            scene.run(600 * SECOND);
            assert_eq!([scene.bodies(1), scene.bodies(0)], said);
            scene.check_quiet();
            let relays: std::collections::BTreeSet<_> =
                scene.seen.iter().map(|it| it.relay).collect();
            assert_eq!(relays.len(), 4);
            scene.seen
        });
        assert_same(&silent, &talked);
    }
}

#[test]
fn what_goes_in_a_slot_or_is_acknowledged_waits_for_no_disk_whether_it_is_noise_or_not() {
    let both = [constant(2_000), random(2_000)].map(|noise| [noise; 2]);
    for noise in both.into_iter().chain([[constant(2_000), Noise::Answers]]) {
        for talks in [false, true] {
            let mut scene = Scene::with(1, noise);
            let before: Vec<_> = scene.ends.iter().map(|it| it.storing).collect();
            if talks {
                talk(&mut scene);
            }
            scene.run(600 * SECOND);
            assert!(scene.sends(0).len() > 200);
            for ((end, before), noise) in scene.ends.iter().zip(before).zip(noise) {
                // An answer is chosen when it goes, a receipt and noise alike.
                if has_slots(noise) {
                    assert_eq!(end.storing[0], before[0]);
                }
                // Of hundreds, one may fall into the millisecond in which noise is chosen.
                assert!(end.storing[1] - before[1] < 4);
            }
        }
    }
}

#[test]
fn a_peer_that_is_away_gets_no_queue_full_of_noise_and_all_that_was_said() {
    for noise in [constant(2_000), random(2_000), constant(250)] {
        let mut views = Vec::new();
        for talks in [false, true] {
            let mut scene = Scene::with(1, [noise; 2]);
            scene.leave(1);
            scene.seen.clear();
            if talks {
                for at in [1, 2, 3, 30, 400] {
                    scene.say(at * HOUR, 0, &at.to_be_bytes());
                }
            }
            scene.run(21 * 24 * HOUR);
            let sends = scene.sends(0).len();
            assert!((96..128).contains(&sends), "{sends}");
            assert!(scene.rows(0) < 10);
            if noise == constant(2_000) {
                views.push(scene.seen.clone());
            }
            // What waited comes a tenth of a second apart, noise or not.
            scene.return_again(1);
            scene.run(20 * SECOND);
            assert_eq!(scene.bodies(1).len(), if talks { 5 } else { 0 });
            // From now on as before.
            scene.seen.clear();
            scene.say(SECOND, 0, b"there you are");
            scene.run(60 * SECOND);
            assert_eq!(scene.bodies(1).len(), if talks { 6 } else { 1 });
            assert!(scene.sends(0).len() > 15);
            scene.check_quiet();
        }
        assert!(views.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

/// What a command rests on that hears what has come before it says something: that it is not to say it, perhaps.
#[test]
fn who_waits_for_a_line_with_noise_has_read_what_waited_there() {
    for noise in [constant(2_000), random(2_000), constant(250)] {
        let mut scene = Scene::with(1, [noise; 2]);
        scene.leave(1);
        for at in 1..=9_u64 {
            scene.say(at * HOUR, 0, &at.to_be_bytes());
        }
        // Slots for who is away are rare.
        scene.run(21 * 24 * HOUR);
        scene.return_again(1);
        let lines = Lines {
            connections: scene.ends[1].connection.into_iter().collect(),
            ..Lines::default()
        };
        let mut settling = scene.ends[1].machine.settling(lines);
        let began = scene.clock;
        while !scene.ends[1].machine.is_settled(&mut settling) {
            assert!(scene.clock < began + 60 * SECOND, "{noise:?}");
            scene.run(10);
        }
        assert_eq!(scene.bodies(1).len(), 9, "{noise:?}");
        scene.check_quiet();
    }
}

#[test]
fn a_process_that_starts_again_and_again_gives_an_absent_peer_no_more() {
    for noise in [constant(2_000), random(2_000)] {
        let mut scene = Scene::with(1, [noise; 2]);
        scene.leave(1);
        scene.seen.clear();
        for _ in 0..21 * 24 * 4 {
            scene.run(HOUR / 4);
            scene.leave(0);
            scene.return_again(0);
        }
        let sends = scene.seen.iter().filter(|it| it.what == "SEND").count();
        assert!((96..128).contains(&sends), "{sends}");
        // None was late because of it, either: the peer is there again, and all is as before.
        scene.return_again(1);
        scene.say(SECOND, 0, b"there you are");
        scene.run(60 * SECOND);
        assert_eq!(scene.bodies(1).len(), 1);
        scene.check_quiet();
    }
}

#[test]
fn processes_that_live_for_less_than_an_interval_send_what_is_said() {
    for noise in [constant(60_000), random(60_000), constant(HOUR)] {
        let mut scene = Scene::with(1, [noise; 2]);
        let interval = noise_interval(noise);
        scene.seen.clear();
        let started = scene.clock;
        let mut said = 0_u64;
        // Five seconds of every twelve, and in each something is said.
        while scene.clock < started + 20 * interval {
            scene.leave(0);
            scene.run(7 * SECOND);
            scene.return_again(0);
            if said < 5 {
                scene.say(100, 0, &said.to_be_bytes());
                said += 1;
            }
            scene.run(5 * SECOND);
        }
        assert_eq!(scene.bodies(1).len(), 5);
        scene.check_quiet();
        // In slots, not one in each process; and what is due while none runs comes with the next one.
        let queues: std::collections::BTreeSet<_> =
            scene.ends[1].wires.values().map(|it| it.link).collect();
        let seen = scene.seen.iter();
        let sends = seen.filter(|it| it.what == "SEND" && !queues.contains(&Some(it.link)));
        let sends = sends.count();
        assert!((10..30).contains(&sends), "{sends}");
    }
}

#[test]
fn what_comes_up_while_a_process_waits_to_end_does_not_keep_it() {
    for noise in [[constant(1_500); 2], [constant(1_500), Noise::Answers]] {
        let mut scene = Scene::with(1, noise);
        // One message at least is chosen and not taken at any time.
        scene.way = 600;
        scene.run(10 * SECOND);
        for end in 0..2 {
            scene.say(0, end, b"the last word");
            scene.run(1);
            let lines = Lines {
                connections: scene.ends[end].connection.into_iter().collect(),
                ..Lines::default()
            };
            let mut settling = scene.ends[end].machine.settling(lines);
            assert!(!scene.ends[end].machine.is_settled(&mut settling));
            // Until its slot, and the relay's answer.
            scene.run(600);
            assert!(!scene.ends[end].machine.is_settled(&mut settling));
            scene.run(4 * SECOND);
            assert!(scene.ends[end].machine.is_settled(&mut settling));
            assert_eq!(scene.bodies(1 - end).len(), 1);
        }
        scene.check_quiet();
    }
}

#[test]
fn a_peer_that_missed_the_end_of_noise_hears_of_it_again() {
    for is_late in [false, true] {
        let mut scene = Scene::new(1, 4, 128);
        // What is overtaken comes late with several queues only.
        let spread = Spread::Stripes;
        for (end, connection) in [0, 1].map(|end| (end, scene.ends[end].connection.unwrap())) {
            if is_late {
                scene.call(0, end, Command::Spread { connection, spread });
            }
            if is_late && end == 1 {
                let relay = relay_address(2);
                scene.call(0, end, Command::AddQueue { connection, relay });
            }
        }
        scene.run(10 * SECOND);
        scene.set([constant(2_000), Noise::Answers]);
        // Too late for the answer, which is noise therefore.
        scene.reading = 600 * SECOND;
        scene.run(10 * SECOND + 500);
        let connection = scene.ends[0].connection.unwrap();
        scene.leave(1);
        let noise = Noise::Off;
        scene.call(0, 0, Command::Noise { connection, noise });
        scene.run(SECOND);
        let relays = scene.relays.iter_mut();
        let kept: Vec<_> = relays.filter_map(|(_, relay)| relay.keep_back()).collect();
        assert_eq!(kept.len(), 1);
        scene.return_again(1);
        scene.run(10 * SECOND);
        assert!(scene.ends[1].noise().is_peers);
        scene.say(0, 0, b"one");
        scene.run(60 * SECOND);
        if is_late {
            // It comes after what was said next.
            scene.leave(1);
            let relays = scene.relays.iter_mut();
            let mut relays = relays.map(|(_, relay)| relay);
            assert!(relays.any(|it| it.bring_back(&kept[0], &mut scene.relay_rng)));
            scene.return_again(1);
        } else {
            for _ in 0..6 {
                scene.say(0, 0, b"another one");
                scene.run(60 * SECOND);
            }
        }
        scene.run(10 * SECOND);
        assert!(!scene.ends[1].noise().is_peers, "late: {is_late}");
        // Receipts wait for nothing any more, and there the two stop.
        scene.run(HOUR);
        scene.seen.clear();
        scene.run(HOUR);
        assert!(scene.seen.is_empty());
    }
}

#[test]
fn a_full_queue_and_a_relay_that_is_away_look_the_same_with_noise() {
    let [silent, talked] = [false, true].map(|talks| {
        let mut scene = Scene::new(1, 2, 8);
        scene.set([constant(2_000); 2]);
        if talks {
            talk(&mut scene);
        }
        // Nobody takes from the first one's queue, which is full soon; then the sender is cut off.
        scene.leave(1);
        scene.run(60 * SECOND);
        scene.cut(0);
        scene.run(30 * SECOND);
        assert!(scene.rows(0) < 50);
        scene.dial(0);
        scene.run(30 * SECOND);
        let seen = scene.seen.clone();
        scene.return_again(1);
        scene.run(600 * SECOND);
        assert_eq!(scene.bodies(1).len(), if talks { 33 } else { 0 });
        scene.check_quiet();
        seen
    });
    assert!(silent.iter().filter(|it| it.what == "SEND").count() > 10);
    assert_same(&silent, &talked);
}

#[test]
fn nothing_waits_for_slots_before_the_peer_has_said_that_it_understands() {
    let mut scene = Scene::new(1, 2, 128);
    scene.leave(1);
    let connection = scene.ends[0].connection.unwrap();
    let noise = constant(60_000);
    scene.call(0, 0, Command::Noise { connection, noise });
    scene.run(SECOND);
    scene.seen.clear();
    scene.say(0, 0, b"one");
    scene.say(0, 0, b"two");
    scene.run(600 * SECOND);
    // These two, and no noise.
    assert_eq!(scene.sends(0).len(), 2);
    let view = scene.ends[0].noise();
    assert_eq!((view.ours, view.is_running), (noise, false));
    scene.return_again(1);
    scene.run(600 * SECOND);
    assert_eq!(scene.bodies(1).len(), 2);
    assert!(!scene.ends[0].noise().is_running, "the peer has not agreed");
    let connection = scene.ends[1].connection.unwrap();
    let noise = Noise::Answers;
    scene.call(0, 1, Command::Noise { connection, noise });
    scene.run(SECOND);
    assert!(scene.ends[0].noise().is_running);
    let connection = scene.ends[0].connection.unwrap();
    // It ends at once, and so do the answers.
    let noise = Noise::Off;
    scene.call(0, 0, Command::Noise { connection, noise });
    scene.run(SECOND);
    assert!(!scene.ends[1].noise().is_peers);
    scene.seen.clear();
    scene.run(600 * SECOND);
    assert!(scene.seen.is_empty());
    scene.check_quiet();
}

#[test]
fn who_has_not_agreed_to_answer_noise_sends_nothing_for_it() {
    let mut scene = Scene::new(1, 2, 128);
    scene.seen.clear();
    let connection = scene.ends[0].connection.unwrap();
    let noise = constant(250);
    scene.call(0, 0, Command::Noise { connection, noise });
    scene.run(HOUR);
    // One word, which nobody answers.
    let sends = scene.seen.iter().filter(|it| it.what == "SEND").count();
    assert_eq!(sends, 1);
    assert!(scene.ends[1].noise().is_peers && !scene.ends[0].noise().is_running);
    // Who agrees and takes it back is asked for nothing any more.
    let agreed = scene.ends[1].connection.unwrap();
    let answer = |connection, noise| Command::Noise { connection, noise };
    scene.call(0, 1, answer(agreed, Noise::Answers));
    scene.run(10 * SECOND);
    assert!(scene.ends[0].noise().is_running);
    scene.call(0, 1, answer(agreed, Noise::Off));
    scene.run(10 * SECOND);
    assert!(!scene.ends[0].noise().is_running);
    scene.seen.clear();
    scene.run(HOUR);
    assert!(scene.seen.is_empty());
    scene.say(0, 0, b"as before");
    scene.run(10 * SECOND);
    assert_eq!(scene.bodies(1).len(), 1);
    scene.check_quiet();
}

#[test]
fn noise_leaves_nothing_in_the_stores() {
    let mut scene = Scene::with(1, [constant(250), random(300)]);
    let before = [scene.rows(0), scene.rows(1)];
    for _ in 0..10 {
        scene.run(100 * SECOND);
        for (end, before) in before.into_iter().enumerate() {
            // What is chosen, or on its way.
            assert!(scene.rows(end) <= before + 2);
        }
    }
}

/// The largest distance between the distributions of two samples.
fn distance(mut one: Vec<u64>, mut other: Vec<u64>) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let share = |sample: &[u64], upto: u64| {
        sample.partition_point(|it| *it <= upto) as f64 / sample.len() as f64
    };
    let points = one.iter().chain(&other);
    let apart = points.map(|&at| (share(&one, at) - share(&other, at)).abs());
    apart.fold(0.0, f64::max)
}

fn gaps(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_relay_sees_the_same_intervals_with_random_noise_whatever_is_said() {
    let hours = 1;
    let run = |noise: Noise, talks: bool, seed: u64| {
        let mut scene = Scene::with(seed, [noise; 2]);
        if talks {
            // In bursts, at regular times.
            for minute in 0..hours * 60 {
                for nth in 0..6 {
                    scene.say(minute * 60 * SECOND + nth, 0, &minute.to_be_bytes());
                }
            }
        }
        scene.run(hours * HOUR + 600 * SECOND);
        let expected = if talks { hours * 60 * 6 } else { 0 };
        assert_eq!(scene.bodies(1).len() as u64, expected);
        scene.check_quiet();
        let shapes = scene.seen.iter().map(|it| (it.what, it.bytes));
        let shapes: std::collections::BTreeSet<_> = shapes.collect();
        (gaps(&scene.sends(0)), gaps(&scene.sends(1)), shapes)
    };
    let noise = random(4_000);
    let (silent, silent_back, shapes) = run(noise, false, 1);
    let (talked, talked_back, talked_shapes) = run(noise, true, 2);
    assert_eq!(shapes, talked_shapes);
    assert!(silent.len() > 900 && talked.len() > 900);
    let mean = silent.iter().sum::<u64>() as f64 / silent.len() as f64;
    assert!((3_700.0..4_300.0).contains(&mean), "{mean}");
    // Kolmogorov and Smirnov: 1.36 of this unit is what one pair of equal sources in twenty exceeds.
    let unit = |one: &[u64], other: &[u64]| {
        let (one_len, other_len) = (one.len() as f64, other.len() as f64);
        distance(one.to_vec(), other.to_vec())
            / ((one_len + other_len) / (one_len * other_len)).sqrt()
    };
    assert!(unit(&silent, &talked) < 1.36, "{}", unit(&silent, &talked));
    let back = unit(&silent_back, &talked_back);
    assert!(back < 1.36, "{back}");
    // The same look sees what it is to see: a mean that is half as long again, a fixed interval, and no noise.
    let (slower, ..) = run(random(6_000), false, 3);
    assert!(unit(&silent, &slower) > 2.0);
    let (even, ..) = run(constant(4_000), false, 3);
    assert!(unit(&silent, &even) > 5.0);
    let (bare, ..) = run(Noise::Off, true, 3);
    assert!(unit(&silent, &bare) > 5.0);
}

fn set_noise(pair: &mut Pair, noise: [Noise; 2]) {
    for (node, noise) in noise.into_iter().enumerate() {
        let connection = pair.connection(node).unwrap();
        pair.world.call(node, Command::Noise { connection, noise });
    }
}

/// Faults, a rotation and new keys in the middle of noise.
fn storm(seed: u64, faults: Faults) {
    let mut pair = Pair::on((seed, 4), false, 128);
    pair.run(Faults::NONE, 200, 2);
    pair.check();
    if seed.is_multiple_of(3) {
        for node in 0..2 {
            let connection = pair.connection(node).unwrap();
            let relay = relay_address(2 + node);
            pair.world
                .call(node, Command::AddQueue { connection, relay });
        }
        pair.world.settle();
    }
    let second = [Noise::Answers, constant(300), random(700)][seed as usize % 3];
    set_noise(&mut pair, [constant(250), second]);
    for action in 0..4_000 {
        pair.drive(30);
        pair.world.act(faults);
        if action == 1_000 {
            let connection = pair.connection(0).unwrap();
            let relay = None;
            pair.world.call(0, Command::Rotate { connection, relay });
        }
    }
    // What was chosen before may be lost in a crash that came before it was stored.
    set_noise(&mut pair, [constant(250), second]);
    for _ in 0..4_000 {
        pair.drive(30);
        pair.world.act(Faults::NONE);
    }
    for node in &pair.world.nodes {
        let view = node.machine.overview().connections[0].noise;
        assert_eq!(view.is_running, has_slots(view.ours));
    }
    set_noise(&mut pair, [Noise::Off; 2]);
    pair.run(Faults::NONE, 0, 30);
    pair.check();
    for node in &mut pair.world.nodes {
        assert!(node.app.irregular.is_empty());
        let view = node.machine.overview().connections[0].noise;
        assert_eq!((view.is_running, view.is_peers), (false, false));
        let rows = node.store.load().unwrap().len();
        assert!(rows < 12, "{rows}");
    }
}

#[test]
fn messages_arrive_once_and_in_order_among_noise_whatever_fails() {
    for seed in seeds() {
        for faults in [Faults::NONE, Faults::ALL] {
            let result = std::panic::catch_unwind(|| storm(seed, faults));
            if let Err(panic) = result {
                eprintln!("seed {seed} (crashes: {})", faults.crashes);
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_resynchronised_connection_keeps_its_noise() {
    let mut pair = Pair::on((2, 2), false, 128);
    pair.run(Faults::NONE, 200, 2);
    set_noise(&mut pair, [Noise::Off, Noise::Answers]);
    pair.world.settle();
    let backup = pair.world.nodes[1].store.clone();
    set_noise(&mut pair, [constant(300), Noise::Answers]);
    for _ in 0..2_000 {
        pair.drive(10);
        pair.world.act(Faults::NONE);
    }
    pair.world.resync = junto_agent::proto::Resync::Automatic;
    pair.world.crash(0);
    pair.world.come_back(1, backup);
    for _ in 0..6_000 {
        pair.world.act(Faults::NONE);
    }
    assert!(pair.world.nodes[0].app.renewed > 0);
    let views = |pair: &Pair, node: usize| {
        let overview = pair.world.nodes[node].machine.overview();
        overview.connections[0].noise
    };
    // The one that went back learns of the other one's noise again.
    assert!(views(&pair, 0).is_running && views(&pair, 1).is_peers);
    set_noise(&mut pair, [Noise::Off; 2]);
    pair.world.settle();
    assert!(!views(&pair, 1).is_peers);
}
