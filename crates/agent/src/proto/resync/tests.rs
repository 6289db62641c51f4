//! Our side against a peer of the test's own that follows the rule of SimpleX's agents, written down from what
//! theirs does: who was not asked answers with fresh keys, who has asked takes the other's for the answer, whose
//! keys have the smaller hash receives first, the other one says `E` at once, and is answered with `E`. Keys that
//! come while the last ones are not used yet are an error there, after which its user has to ask again.

use std::collections::VecDeque;

use junto_crypto::hash::sha256_of;
use junto_crypto::secretbox::BoxKey;
use junto_crypto::x25519;
use junto_ratchet::VersionRange;
use junto_smp::command::QueueMode;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;
use crate::proto::chain::{ReceiveChain, SendChain};
use crate::proto::layer::SealedBody;
use crate::proto::link::InvitationLink;
use crate::proto::message::{Receipt, message_padding};
use crate::proto::parallel::tests::{created, relay};
use crate::proto::queue::{ReceiveQueue, Sender};
use crate::proto::rotation::Place;
use crate::proto::step::Output;
use crate::proto::{ConnectionId, Tag, Ticket};

/// What an agent of SimpleX knows of it.
enum Rule {
    Ok,
    Started(MakerKeys),
    Agreed,
    /// An error that its user sees.
    Required,
}

struct Peer {
    /// For what it puts into our queue.
    key: BoxKey,
    pq: bool,
    ratchet: Ratchet,
    rule: Rule,
    sent: SendChain,
    taken: Vec<[u8; 32]>,
    /// On the way to us.
    out: VecDeque<Vec<u8>>,
    heard: Vec<Vec<u8>>,
    unreadable: usize,
    errors: usize,
    /// Whether it received first, the last time.
    received_first: Option<bool>,
}

struct World {
    ours: Connection,
    peer: Peer,
    effects: Effects,
    rng: ChaCha20Rng,
    heard: Vec<Vec<u8>>,
    renewed: usize,
    missing: Vec<u64>,
}

impl Peer {
    fn put(&mut self, envelope: &Envelope<'_>, rng: &mut ChaCha20Rng) {
        let mut bytes = Vec::new();
        envelope.put(&mut bytes).unwrap();
        let sealed = layer::seal(&self.key, None, &bytes, rng).unwrap();
        self.out.push_back(sealed);
    }

    fn say(&mut self, body: Body<'_>, rng: &mut ChaCha20Rng) {
        let mut plain = Vec::new();
        let message = AgentMessage::Numbered {
            id: self.sent.next_id(),
            previous_hash: self.sent.previous_hash(),
            body,
        };
        message.put(&mut plain).unwrap();
        let padding = message_padding(&self.ratchet);
        let ratcheted = self.ratchet.encrypt(&plain, padding).unwrap();
        self.sent.push(&plain);
        let ratcheted = &ratcheted[..];
        self.put(&Envelope::Message { ratcheted }, rng);
    }

    fn send_keys(&mut self, keys: &MakerKeys, rng: &mut ChaCha20Rng) {
        let mut plain = Vec::new();
        AgentMessage::RatchetInfo(&[]).put(&mut plain).unwrap();
        self.sent.push(&plain);
        let envelope = Envelope::RatchetKey {
            offer: Box::new(keys.params(Version::V3)),
            info: &plain,
        };
        self.put(&envelope, rng);
    }

    /// Its user asks for new keys; `force` asks again while the last request is under way.
    fn ask(&mut self, force: bool, rng: &mut ChaCha20Rng) -> bool {
        let may = force || matches!(self.rule, Rule::Ok | Rule::Required);
        if may {
            let keys = MakerKeys::generate(self.pq, rng);
            self.send_keys(&keys, rng);
            self.rule = Rule::Started(keys);
        }
        may
    }

    fn hear(&mut self, row: &[u8], key: &BoxKey, rng: &mut ChaCha20Rng) {
        let opened = SealedBody::read(row).unwrap().open(key).unwrap();
        match Envelope::read(opened.envelope()).unwrap() {
            Envelope::RatchetKey { offer, .. } => self.hear_keys(&offer, rng),
            Envelope::Message { ratcheted } => self.hear_message(ratcheted, rng),
            other => panic!("{other:?}"),
        }
    }

    fn hear_message(&mut self, ratcheted: &[u8], rng: &mut ChaCha20Rng) {
        let was_silent = !self.ratchet.can_send();
        let Ok(opened) = self.ratchet.decrypt(ratcheted, rng) else {
            self.unreadable += 1;
            return;
        };
        if !matches!(self.rule, Rule::Started(_)) {
            self.rule = Rule::Ok;
        }
        let Ok(AgentMessage::Numbered { body, .. }) = AgentMessage::read(&opened.plaintext) else {
            panic!()
        };
        match body {
            Body::Message(body) => self.heard.push(body.to_vec()),
            Body::Ready(_) if was_silent => self.say(Body::Ready(0), rng),
            _ => {}
        }
    }

    fn hear_keys(&mut self, offer: &Params, rng: &mut ChaCha20Rng) {
        let theirs = sha256_of(&[offer.k1.as_bytes(), offer.k2.as_bytes()]);
        if self.taken.contains(&theirs) {
            return;
        }
        self.taken.push(theirs);
        let keys = match core::mem::replace(&mut self.rule, Rule::Agreed) {
            Rule::Ok | Rule::Required => {
                let keys = MakerKeys::generate(self.pq, rng);
                self.send_keys(&keys, rng);
                keys
            }
            Rule::Started(keys) => keys,
            Rule::Agreed => {
                self.rule = Rule::Required;
                self.errors += 1;
                return;
            }
        };
        let options = Options {
            pq: self.pq,
            ..Options::default()
        };
        self.ratchet = keys.renew(offer, options, rng).unwrap();
        let ours = keys.params(Version::V3);
        let ours = sha256_of(&[ours.k1.as_bytes(), ours.k2.as_bytes()]);
        self.received_first = Some(ours < theirs);
        assert_eq!(self.ratchet.can_send(), ours > theirs, "who is first");
        if ours > theirs {
            self.say(Body::Ready(0), rng);
        }
    }
}

impl World {
    fn new(seed: u64, pq: bool) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut effects = Effects::default();
        let (id, tag) = (ConnectionId::new([1; 16]), Tag::new([2; 32]));
        let mut queue = |rng: &mut ChaCha20Rng| {
            let mut queue = ReceiveQueue::new(relay(0), QueueMode::Messaging, &mut effects, rng);
            created(&mut queue, rng);
            queue
        };
        let (its_queue, receive) = (queue(&mut rng), queue(&mut rng));
        let keys = MakerKeys::generate(pq, &mut rng);
        let offer = keys.offer(VersionRange::OURS);
        let link = InvitationLink::new(its_queue.address().unwrap(), offer);
        let parts = (&mut effects, &mut rng);
        let mut ours = Connection::join(id, tag, &link, vec![], receive, parts).unwrap();
        let public = x25519::SecretKey::generate(&mut rng).public_key();
        let key = || ours.receive.layer_key(&public).unwrap();
        let (its_key, sender) = (key(), Sender { public, key: key() });
        let options = Options {
            pq,
            ..Options::default()
        };
        let params = ours.reply_offer.take().unwrap();
        let ratchet = keys.accept(&params, options).unwrap();
        ours.receive.sender = Some(sender);
        ours.stage = Stage::Active;
        // The handshake, which this is not about.
        ours.received = ReceiveChain::after_handshake(b"");
        let mut sent = SendChain::default();
        sent.push(b"");
        let peer = Peer {
            key: its_key,
            pq,
            ratchet,
            rule: Rule::Ok,
            sent,
            taken: Vec::new(),
            out: VecDeque::new(),
            heard: Vec::new(),
            unreadable: 0,
            errors: 0,
            received_first: None,
        };
        let mut world = Self {
            ours,
            peer,
            effects,
            rng,
            heard: Vec::new(),
            renewed: 0,
            missing: Vec::new(),
        };
        world.say(b"first");
        world.drain();
        world.talks();
        world
    }

    /// Our application sends; it waits while keys are agreed.
    fn say(&mut self, body: &[u8]) {
        let body = body.to_vec();
        self.ours
            .send_message(Ticket(0), body, &mut self.effects, &mut self.rng);
    }

    fn ask(&mut self) {
        let asked = self.ours.resynchronise(&mut self.effects, &mut self.rng);
        // Its word is on its way.
        let is_awaited = asked == Err(Misuse::Renewing.into());
        assert!(asked.is_ok() || (is_awaited && matches!(self.ours.resync.sync, Sync::Agreed(_))));
    }

    /// The peer gets what we said first and it has not got. `false` if there is nothing.
    fn peer_hears(&mut self) -> bool {
        let Some((&number, row)) = self.ours.outbox.first_key_value() else {
            return false;
        };
        let row = row.clone();
        let key = &self.ours.send.as_ref().unwrap().layer_key;
        self.peer.hear(&row, key, &mut self.rng);
        self.ours.drop_row(number, &mut self.effects);
        true
    }

    /// The same the other way round.
    fn we_hear(&mut self) -> bool {
        let Some(body) = self.peer.out.pop_front() else {
            return false;
        };
        let sealed = SealedBody::read(&body).unwrap();
        let (effects, rng) = (&mut self.effects, &mut self.rng);
        // What cannot be read was encrypted before: its sender is told nothing.
        let _ = self.ours.take_sealed(Place::Main, &sealed, effects, rng);
        let mut outputs = self.effects.take_prompt();
        outputs.extend(self.effects.take_outputs());
        for output in outputs {
            match output {
                Output::Event(Event::Message { body, .. }) => self.heard.push(body),
                Output::Event(Event::Renewed { .. }) => self.renewed += 1,
                Output::Event(Event::Synchronised { missing, .. }) => self.missing.push(missing),
                Output::Event(Event::RatchetBroken { .. }) => panic!("nothing is broken"),
                _ => {}
            }
        }
        true
    }

    fn drain(&mut self) {
        for _ in 0..1_000 {
            if !self.peer_hears() && !self.we_hear() {
                return;
            }
        }
        panic!("they talk without end");
    }

    /// Both have the same keys and understand each other.
    fn talks(&mut self) {
        assert!(matches!(self.ours.resync.sync, Sync::Settled));
        assert!(matches!(self.peer.rule, Rule::Ok));
        let Keys::Agreed(ratchet) = &self.ours.keys else {
            panic!()
        };
        assert_eq!(ratchet.binding(), self.peer.ratchet.binding());
        for round in 0..3_u8 {
            self.say(&[0, round]);
            self.drain();
            assert_eq!(self.peer.heard.last().unwrap(), &[0, round]);
            self.peer.say(Body::Message(&[1, round]), &mut self.rng);
            self.drain();
            assert_eq!(self.heard.last().unwrap(), &[1, round]);
        }
        let Keys::Agreed(ratchet) = &self.ours.keys else {
            panic!()
        };
        assert_eq!(ratchet.is_hybrid(), self.peer.pq);
    }
}

/// Who asks first, and what is on its way in both directions when the two requests cross.
#[test]
fn requests_that_cross_make_one_ratchet_whose_smaller_keys_receive_first() {
    for pq in [true, false] {
        let mut firsts = [0; 2];
        for seed in 0..16 {
            let mut world = World::new(seed, pq);
            let before = world.peer.ratchet.binding();
            // In the old keys, before the requests; and a receipt behind the peer's, as its agent sends them.
            world.say(b"on the way");
            world
                .peer
                .say(Body::Message(b"on the way back"), &mut world.rng);
            if seed % 2 == 0 {
                world.ask();
                assert!(world.peer.ask(false, &mut world.rng));
            } else {
                assert!(world.peer.ask(false, &mut world.rng));
                world.ask();
            }
            let receipt = Receipt {
                id: 1,
                hash: [0; 32],
                info: &[],
            };
            world
                .peer
                .say(Body::Receipts(vec![receipt]), &mut world.rng);
            world.say(b"waits for the new keys");
            // Either side hears the other one first.
            match seed / 2 % 2 {
                0 => while world.peer_hears() {},
                _ => while world.we_hear() {},
            }
            world.drain();
            assert_ne!(world.peer.ratchet.binding(), before);
            assert_eq!(world.renewed, 1, "one change, no second answer");
            // Our receipts are not lost, its one in the old keys is.
            assert_eq!(world.missing, [1]);
            assert_eq!((world.peer.errors, world.peer.unreadable), (0, 0));
            let said: Vec<_> = world.peer.heard.iter().rev().take(2).collect();
            assert_eq!(said, [&b"waits for the new keys"[..], b"on the way"]);
            assert!(world.heard.contains(&b"on the way back".to_vec()));
            firsts[usize::from(world.peer.received_first.unwrap())] += 1;
            world.talks();
        }
        assert!(firsts.iter().all(|count| *count > 0), "{firsts:?}");
    }
}

/// Requests at any time, with any part of what was said on its way.
#[test]
fn whoever_asks_whenever_both_come_to_the_same_keys() {
    for pq in [true, false] {
        let mut crossed = 0;
        for seed in 0..40 {
            let mut world = World::new(seed, pq);
            for _ in 0..60 {
                match world.rng.next_u32() % 16 {
                    0 => {
                        // A process that has just started, or a minute later: the peer may be behind with what it reads.
                        if world.rng.next_u32().is_multiple_of(2) {
                            world.ours.keys_said_until = None;
                        }
                        let is_crossing = matches!(world.peer.rule, Rule::Started(_));
                        let is_asked = matches!(world.ours.resync.sync, Sync::Asked(_));
                        world.ask();
                        crossed += u32::from(is_crossing && !is_asked);
                    }
                    1 => {
                        world.peer.ask(false, &mut world.rng);
                    }
                    2..5 => world.say(b"hello"),
                    5..8 if matches!(world.peer.rule, Rule::Ok) => {
                        world.peer.say(Body::Message(b"hello"), &mut world.rng);
                    }
                    8..12 => drop(world.peer_hears()),
                    _ => drop(world.we_hear()),
                }
            }
            world.drain();
            assert_eq!(world.peer.errors, 0, "seed {seed}");
            assert_eq!(
                world.peer.unreadable, 0,
                "seed {seed}: we say nothing in between"
            );
            assert!(world.missing.iter().all(|missing| *missing == 0));
            world.talks();
        }
        assert!(crossed > 5, "{crossed} requests crossed");
    }
}

/// A user of SimpleX's agent that asks again by force before the answer is there makes it take the answer for one to
/// the second request. It says so to its user, and asking once more settles it.
#[test]
fn a_peer_that_asks_twice_by_force_is_settled_when_it_asks_once_more() {
    let mut stuck = 0;
    for seed in 0..12 {
        let mut world = World::new(seed, seed % 2 == 0);
        world.peer.ask(false, &mut world.rng);
        world.peer.ask(true, &mut world.rng);
        world.drain();
        if matches!(world.peer.rule, Rule::Required) {
            stuck += 1;
            assert!(world.peer.ask(false, &mut world.rng));
            world.drain();
        }
        world.talks();
    }
    assert!(stuck > 0);
}

impl World {
    /// Time for an answer passes, and a process that starts knows by its row.
    fn wait(&mut self) {
        let later = self.effects.now.after(PATIENCE);
        self.effects.now = later;
        let mut out = Zeroizing::new(Vec::new());
        self.ours.resync.put(&mut out).unwrap();
        self.ours.resync = Resynchronisation::read(&mut Reader::new(&out)).unwrap();
    }

    /// One of four turns: what a side has to say comes, or gets lost.
    fn turn(&mut self, turn: usize, is_lost: bool) {
        if turn.is_multiple_of(2) {
            match is_lost {
                true => {
                    for number in self.ours.outbox.keys().copied().collect::<Vec<_>>() {
                        self.ours.drop_row(number, &mut self.effects);
                        self.ours.passed(number, &mut self.effects);
                    }
                }
                false => while self.peer_hears() {},
            }
        } else {
            match is_lost {
                true => self.peer.out.clear(),
                false => while self.we_hear() {},
            }
        }
    }

    fn is_settled(&self) -> bool {
        matches!(self.ours.resync.sync, Sync::Settled) && matches!(self.peer.rule, Rule::Ok)
    }
}

/// Relays lose things. What ours has said it says again, the same, which the peer takes for nothing new; what the
/// peer's relay has lost its user can ask for again. Nothing goes on for ever.
#[test]
fn whatever_is_lost_of_new_keys_can_be_asked_for_again() {
    let (mut by_ours, mut by_both) = (0, 0);
    for seed in 0..16 {
        for (offset, lost) in (0..2).flat_map(|offset| (0..4).map(move |lost| (offset, lost))) {
            let mut world = World::new(seed, seed % 3 > 0);
            match offset {
                0 => world.ask(),
                _ => assert!(world.peer.ask(false, &mut world.rng)),
            }
            for turn in 0..4 {
                world.turn(turn + offset, turn == lost);
            }
            world.drain();
            let was_ours = (lost + offset).is_multiple_of(2);
            for _ in 0..3 {
                world.wait();
                if !matches!(world.ours.resync.sync, Sync::Settled) {
                    world.ask();
                    world.drain();
                }
                if was_ours {
                    // Only what we said is missing: nobody else has to do anything, and nothing is an error.
                    assert_eq!(world.peer.errors, 0);
                    break;
                }
                if !world.is_settled() && world.peer.ask(true, &mut world.rng) {
                    world.drain();
                }
                if world.is_settled() {
                    break;
                }
            }
            // A peer that waits for our first word alone hears it in whatever we say.
            world.say(b"anything");
            world.drain();
            if !was_ours && !world.is_settled() {
                // Our word was answered, and that was lost.
                world.peer.say(Body::Message(b"so"), &mut world.rng);
                world.drain();
            }
            match was_ours {
                true => by_ours += 1,
                false => by_both += 1,
            }
            world.talks();
        }
    }
    assert!(by_ours > 10 && by_both > 10);
}

/// A second request never has other keys, and none goes while the first one is on its way or may be answered.
#[test]
fn who_asks_again_says_the_same() {
    let mut world = World::new(1, true);
    world.ask();
    let first: Vec<_> = world.ours.outbox.keys().copied().collect();
    world.wait();
    world.ask();
    assert_eq!(world.ours.outbox.keys().copied().collect::<Vec<_>>(), first);
    world.turn(0, true);
    world.ask();
    world.wait();
    world.ask();
    assert_eq!(world.ours.outbox.keys().copied().collect::<Vec<_>>(), first);
    while world.peer_hears() {}
    world.wait();
    world.ask();
    while world.peer_hears() {}
    assert_eq!((world.peer.taken.len(), world.peer.errors), (1, 0));
    world.drain();
    world.talks();
    assert_eq!(world.missing, [0], "it counts once, however often it went");
}
