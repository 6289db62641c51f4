//! Devices of two people in a world without networks: whatever order words come in, whoever crashes between any two
//! steps, all devices find each other, and a revoked one is reached by nobody.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, VecDeque};

use junto_devices::{ContactId, Deed, DeviceId, Devices, Frame, Line, Party, Token};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// One agent with its application: what is durable of both.
struct Node {
    devices: Devices,
    /// What the application stored last.
    stored: Vec<u8>,
    /// Names of contacts.
    book: Vec<ContactId>,
    /// Connections: tag → (the other node, its tag), once somebody is there.
    connections: BTreeMap<[u8; 32], Option<(usize, [u8; 32])>>,
    /// Messages that the application has not acknowledged.
    inbox: VecDeque<([u8; 32], Vec<u8>)>,
    /// Connections that stand, which it has not been told.
    told: VecDeque<[u8; 32]>,
}

struct World {
    nodes: Vec<Node>,
    rng: ChaCha20Rng,
    crashes: bool,
    /// One that does not run now.
    asleep: Option<usize>,
}

const CHANCE: u32 = 5;

impl World {
    fn new(count: usize, seed: u64, crashes: bool) -> Self {
        let node = |_| Node {
            devices: Devices::default(),
            stored: Devices::default().to_bytes().unwrap(),
            book: Vec::new(),
            connections: BTreeMap::new(),
            inbox: VecDeque::new(),
            told: VecDeque::new(),
        };
        Self {
            nodes: (0..count).map(node).collect(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            crashes,
            asleep: None,
        }
    }

    fn connect(&mut self, (a, at): (usize, [u8; 32]), (b, bt): (usize, [u8; 32])) {
        for ((node, tag), other) in [((a, at), (b, bt)), ((b, bt), (a, at))] {
            self.nodes[node].connections.insert(tag, Some(other));
            self.nodes[node].told.push_back(tag);
        }
    }

    fn contacts(&mut self, a: usize, b: usize) -> (ContactId, ContactId) {
        let (x, y) = (
            ContactId::random(&mut self.rng),
            ContactId::random(&mut self.rng),
        );
        self.nodes[a].book.push(x);
        self.nodes[b].book.push(y);
        self.connect((a, x.0), (b, y.0));
        (x, y)
    }

    /// Both users have confirmed; gives the new one's id.
    fn link(&mut self, host: usize, newcomer: usize) -> DeviceId {
        let token = Token::random(&mut self.rng);
        let names = [(host, "host"), (newcomer, "newcomer")];
        let parties: Vec<Party> = names
            .iter()
            .map(|(node, name)| {
                let devices = &mut self.nodes[*node].devices;
                let party = devices.identify(name, &mut self.rng);
                devices.begin(token, "relay");
                party
            })
            .collect();
        for (node, peer) in [(host, &parties[1]), (newcomer, &parties[0])] {
            self.nodes[node].devices.confirm(peer, true);
            self.nodes[node].connections.insert(token.tag(), None);
        }
        self.connect((host, token.tag()), (newcomer, token.tag()));
        for node in [host, newcomer] {
            let known: Vec<_> = self.nodes[node].book.clone();
            for contact in known {
                if self.nodes[node].connections.contains_key(&contact.0) {
                    self.nodes[node].devices.meet(contact);
                }
            }
            self.introduce(node);
            self.store(node);
        }
        parties[1].id
    }

    fn introduce(&mut self, node: usize) {
        let Node { devices, book, .. } = &mut self.nodes[node];
        let name = |it: ContactId| book.contains(&it).then(|| "name".to_owned());
        devices.introduce(name, &mut self.rng);
    }

    fn store(&mut self, node: usize) {
        let bytes = self.nodes[node].devices.to_bytes().unwrap();
        self.nodes[node].stored = bytes;
    }

    /// Whether the process dies here; then it knows what it has stored.
    fn dies(&mut self, node: usize) -> bool {
        let dies = self.crashes && self.rng.next_u32().is_multiple_of(CHANCE);
        if dies {
            let node = &mut self.nodes[node];
            node.devices = Devices::open(&node.stored).unwrap();
            node.devices.tidy();
            // An agent tells of its connections again.
            node.told = node
                .connections
                .iter()
                .filter(|it| it.1.is_some())
                .map(|it| *it.0)
                .collect();
        }
        dies
    }

    fn line(&self, node: usize, tag: [u8; 32]) -> Line {
        let base = Line::Contact(ContactId(tag), None);
        self.nodes[node].devices.line(&tag).unwrap_or(base)
    }

    /// One step of a node; whether there was anything.
    fn step(&mut self, node: usize) -> bool {
        if let Some(tag) = self.nodes[node].told.front().copied() {
            let line = self.line(node, tag);
            self.nodes[node].devices.connected(line);
            self.introduce(node);
            if self.dies(node) {
                return true;
            }
            self.store(node);
            self.nodes[node].told.pop_front();
            return true;
        }
        let due: Vec<_> = self.nodes[node].devices.due().iter().cloned().collect();
        let mut earlier = Vec::new();
        for due in due {
            let tag = due.deed.tag();
            let first = !earlier.contains(&tag);
            earlier.push(tag);
            if first && self.act(node, due.serial, due.deed) {
                return true;
            }
        }
        let Some((tag, body)) = self.nodes[node].inbox.front().cloned() else {
            return false;
        };
        if self.nodes[node].connections.contains_key(&tag) {
            let line = self.line(node, tag);
            if let Ok(frame) = Frame::decode(&body) {
                for news in self.nodes[node].devices.hear(line, &frame) {
                    if let junto_devices::News::Contact(contact, _) = news
                        && !self.nodes[node].book.contains(&contact)
                    {
                        self.nodes[node].book.push(contact);
                    }
                }
            }
            self.introduce(node);
            if self.dies(node) {
                return true;
            }
            self.store(node);
            if self.dies(node) {
                return true;
            }
        }
        self.nodes[node].inbox.pop_front();
        true
    }

    /// Does what is due, if it can be done now.
    fn act(&mut self, node: usize, serial: u64, deed: Deed) -> bool {
        let tag = deed.tag();
        match deed {
            Deed::Invite(token) => {
                self.nodes[node].connections.entry(tag).or_insert(None);
                if self.dies(node) {
                    return true;
                }
                self.nodes[node]
                    .devices
                    .made(token, &format!("link:{node}"));
            }
            Deed::Join(_, link) => {
                let other: usize = link.strip_prefix("link:").unwrap().parse().unwrap();
                let open = matches!(self.nodes[other].connections.get(&tag), Some(None));
                if open && !self.nodes[node].connections.contains_key(&tag) {
                    self.connect((node, tag), (other, tag));
                }
                if self.dies(node) {
                    return true;
                }
            }
            Deed::Send(_, body) => match self.nodes[node].connections.get(&tag) {
                Some(None) => return false,
                Some(Some((other, its))) => {
                    let (other, its) = (*other, *its);
                    if self.nodes[other].connections.contains_key(&its) {
                        self.nodes[other].inbox.push_back((its, body.0));
                    }
                    if self.dies(node) {
                        return true;
                    }
                }
                None => {}
            },
            Deed::Leave(_, word) => {
                // From then on the agent keeps it until it has left, whatever the process does.
                if let Some(Some((other, its))) = self.nodes[node].connections.remove(&tag)
                    && self.nodes[other].connections.contains_key(&its)
                {
                    self.nodes[other].inbox.push_back((its, word.0));
                }
                if self.dies(node) {
                    return true;
                }
            }
            Deed::Close(_) | Deed::Cut(_) => {
                self.nodes[node].connections.remove(&tag);
                if self.dies(node) {
                    return true;
                }
            }
        }
        self.nodes[node].devices.done(serial);
        self.store(node);
        true
    }

    /// Until nobody has anything to do, in an order of chance.
    fn run(&mut self) {
        for _ in 0..200_000 {
            let count = self.nodes.len();
            let first = self.rng.next_u32() as usize % count;
            let mut order = (0..count).map(|it| (first + it) % count);
            if !order.any(|node| self.asleep != Some(node) && self.step(node)) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// The nodes that a message to a contact goes to.
    fn reached(&self, node: usize, contact: ContactId) -> Vec<usize> {
        let targets = self.nodes[node].devices.targets(contact).into_iter();
        let at = |tag: [u8; 32]| self.nodes[node].connections.get(&tag).copied().flatten();
        let mut reached: Vec<_> = targets.filter_map(|tag| Some(at(tag)?.0)).collect();
        reached.sort_unstable();
        reached
    }
}

const ALICE: usize = 0;
const BOB: usize = 1;
const PHONE: usize = 2;
const TABLET: usize = 3;
const BOBS: usize = 4;

fn everybody_finds_everybody_and_nobody_the_revoked(seed: u64, crashes: bool) {
    let mut world = World::new(5, seed, crashes);
    let (bob, alice) = world.contacts(ALICE, BOB);
    world.run();
    // Two devices for Alice and one for Bob, now one after the other, now at the same time.
    let phone = world.link(ALICE, PHONE);
    if seed.is_multiple_of(2) {
        world.run();
    }
    world.link(ALICE, TABLET);
    if seed.is_multiple_of(3) {
        world.run();
    }
    world.link(BOB, BOBS);
    world.run();
    for node in [ALICE, PHONE, TABLET] {
        assert_eq!(world.reached(node, bob), [BOB, BOBS], "from {node}");
        assert_eq!(world.nodes[node].devices.own_devices().len(), 3);
    }
    for node in [BOB, BOBS] {
        assert_eq!(
            world.reached(node, alice),
            [ALICE, PHONE, TABLET],
            "from {node}"
        );
    }
    // The phone is stolen. What it said before may come after the word that it is gone.
    world.introduce(PHONE);
    world.nodes[TABLET].devices.revoke(phone, &[]);
    world.store(TABLET);
    world.run();
    for node in [BOB, BOBS] {
        assert_eq!(world.reached(node, alice), [ALICE, TABLET], "from {node}");
    }
    assert!(world.nodes[PHONE].devices.revoked_by().is_some());
    for node in [ALICE, TABLET] {
        assert_eq!(world.nodes[node].devices.own_devices().len(), 2);
        assert_eq!(world.reached(node, bob), [BOB, BOBS]);
    }
}

#[test]
fn devices_find_each_other_and_lose_the_revoked() {
    for seed in 0..20 {
        everybody_finds_everybody_and_nobody_the_revoked(seed, false);
    }
}

#[test]
fn a_crash_between_any_two_steps_changes_nothing() {
    for seed in 0..20 {
        everybody_finds_everybody_and_nobody_the_revoked(seed, true);
    }
}

/// Lines that are made while a device is revoked, or only afterwards, hear of it as well.
fn who_was_away_hears_of_it(seed: u64, crashes: bool, wakes_before: bool) {
    let mut world = World::new(5, seed, crashes);
    let (bob, alice) = world.contacts(ALICE, BOB);
    world.run();
    world.link(ALICE, TABLET);
    let phone = world.link(ALICE, PHONE);
    world.run();
    // Bob's other device has a line with the thief, and is away before it has one with Alice or her tablet.
    world.link(BOB, BOBS);
    for _ in 0..1000 {
        if world.reached(BOBS, alice).contains(&PHONE) {
            break;
        }
        let node = world.rng.next_u32() as usize % 5;
        world.step(node);
    }
    world.asleep = Some(BOBS);
    if wakes_before {
        world.run();
    }
    world.nodes[ALICE].devices.revoke(phone, &[]);
    world.store(ALICE);
    world.run();
    world.asleep = None;
    world.run();
    for node in [BOB, BOBS] {
        assert_eq!(world.reached(node, alice), [ALICE, TABLET], "from {node}");
    }
    for node in [ALICE, TABLET] {
        assert_eq!(world.reached(node, bob), [BOB, BOBS], "from {node}");
    }
}

#[test]
fn a_revocation_reaches_lines_that_were_not_there_yet() {
    for seed in 0..20 {
        for wakes_before in [false, true] {
            who_was_away_hears_of_it(seed, false, wakes_before);
            who_was_away_hears_of_it(seed, true, wakes_before);
        }
    }
}

/// Own devices whose line is made after the revocation.
#[test]
fn a_device_that_is_linked_later_knows_who_was_revoked() {
    for seed in 0..20 {
        let mut world = World::new(5, seed, true);
        world.contacts(ALICE, BOB);
        let phone = world.link(ALICE, PHONE);
        world.run();
        world.nodes[ALICE].devices.revoke(phone, &[]);
        world.store(ALICE);
        world.link(ALICE, TABLET);
        world.run();
        assert!(!world.nodes[TABLET].devices.may_link(phone));
    }
}

#[test]
fn a_device_that_was_revoked_is_linked_again_and_reaches_all_devices() {
    for seed in 0..20 {
        let mut world = World::new(5, seed, seed.is_multiple_of(2));
        let (bob, alice) = world.contacts(ALICE, BOB);
        let phone = world.link(ALICE, PHONE);
        world.link(ALICE, TABLET);
        world.link(BOB, BOBS);
        world.run();
        // The one that met Bob, and has linked both others.
        let first = world.nodes[ALICE].devices.me().unwrap().id;
        let revoked = world.nodes[TABLET].devices.revoke(first, &[phone]);
        assert_eq!(revoked.len(), 1);
        world.store(TABLET);
        world.run();
        assert!(world.reached(ALICE, bob).is_empty());
        assert_eq!(world.reached(BOBS, alice), [PHONE, TABLET]);
        let again = world.link(TABLET, ALICE);
        assert_ne!(again, first);
        world.run();
        for node in [ALICE, PHONE, TABLET] {
            assert_eq!(world.reached(node, bob), [BOB, BOBS], "from {node}");
        }
        for node in [BOB, BOBS] {
            assert_eq!(
                world.reached(node, alice),
                [ALICE, PHONE, TABLET],
                "from {node}"
            );
        }
    }
}

#[test]
fn a_preference_reaches_devices_that_come_later() {
    for seed in 0..20 {
        let mut world = World::new(5, seed, true);
        let (_, alice) = world.contacts(ALICE, BOB);
        let phone = world.link(ALICE, PHONE);
        world.run();
        world.nodes[ALICE].devices.prefer(Some(phone));
        world.store(ALICE);
        world.link(BOB, BOBS);
        world.link(ALICE, TABLET);
        world.run();
        for node in [BOB, BOBS] {
            assert_eq!(world.reached(node, alice), [PHONE], "from {node}");
        }
        let preferred = world.nodes[TABLET].devices.preferred();
        assert_eq!(preferred, Some(phone));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn in_any_order(seed: u64, crashes: bool) {
        everybody_finds_everybody_and_nobody_the_revoked(seed, crashes);
    }
}
