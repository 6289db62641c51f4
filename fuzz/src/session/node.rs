//! One party of a formed session; everything that it hears is invented.

use std::{collections::BTreeMap, sync::LazyLock};

use bytes::Bytes;
use junto_session::{
    InstanceId, Kind, LocalId, Members, Mode, PartyCount, PartyIndex, Purpose, Roster, Round,
    SessionLink,
    proto::{
        endpoint::{ConnectionId, Event, MessageId, Tag},
        node::Node,
        step::{Effect, MemoryStore, Outcome, Rows, Step, Store},
    },
};
use rand_chacha::ChaCha20Rng;

use super::net::{BODY_BYTES, Net};
use crate::{
    input::{Input, piece},
    seeds,
};

const PARTIES: usize = 3;
/// Whose node is under attack, in order of joining.
const VICTIM: usize = 1;

/// A formed session with an execution begun, as the victim has it.
struct Setup {
    store: MemoryStore,
    rows: Rows,
    local: LocalId,
    link: SessionLink,
    roster: Roster,
    me: PartyIndex,
    instance: InstanceId,
    channel: InstanceId,
    /// To each peer, and the number of the next segment from there.
    connections: Vec<(ConnectionId, u64)>,
    /// What the victim heard so far, then what it would hear next.
    heard: Vec<(ConnectionId, Bytes)>,
}

static SETUP: LazyLock<Setup> = LazyLock::new(set_up);

pub(super) fn known() -> (&'static SessionLink, &'static Roster) {
    (&SETUP.link, &SETUP.roster)
}

pub(super) fn rows() -> &'static [(Vec<u8>, Bytes)] {
    &SETUP.rows
}

/// Bundles of the formation and of the first rounds.
pub(super) fn travelled() -> impl Iterator<Item = &'static Bytes> {
    SETUP.heard.iter().map(|(_, body)| body)
}

fn everybody() -> Members {
    Members::all(PartyCount::new(PARTIES).unwrap())
}

fn purpose() -> Purpose {
    Purpose {
        label: "work".to_owned(),
        members: everybody(),
        mode: Mode::Rounds,
    }
}

fn set_up() -> Setup {
    let (mut net, link) = Net::formed(PARTIES);
    let mut instance = None;
    for index in 0..PARTIES {
        let party = &mut net.parties[index];
        assert!(party.node.is_formed(&party.local).unwrap());
        let (opened, step) = party
            .node
            .open_execution(&party.local, purpose(), &mut party.rng);
        instance = Some(opened.unwrap());
        net.settle(index, step);
        net.run();
    }
    let instance = instance.unwrap();
    speak(&mut net, VICTIM, &instance, 0);
    net.run();
    let victim = &mut net.parties[VICTIM];
    let local = victim.local;
    let summary = victim.node.summary(&local).unwrap();
    let mut store = victim.store.clone();
    let Ok(rows) = store.load();
    let channel = victim.node.channel(&local, "chat").unwrap();
    let ends = net.wires.keys().filter(|(party, _)| *party == VICTIM);
    let connections = ends
        .map(|(_, connection)| (*connection, net.other_end(VICTIM, *connection).next))
        .collect();
    for index in (0..PARTIES).filter(|index| *index != VICTIM) {
        for round in 0..2 {
            speak(&mut net, index, &instance, round);
        }
        net.run();
    }
    let of_victim = |connection: &ConnectionId| net.wires.contains_key(&(VICTIM, *connection));
    let heard = net.bodies.iter();
    let heard = heard
        .filter(|(from, connection, _)| *from != VICTIM && of_victim(connection))
        .map(|(_, connection, body)| (*connection, body.clone()))
        .collect();
    Setup {
        store,
        rows,
        local,
        link,
        roster: summary.roster.unwrap(),
        me: summary.me.unwrap(),
        instance,
        channel,
        connections,
        heard,
    }
}

/// A round of that party: a broadcast, and a message to everybody.
fn speak(net: &mut Net, index: usize, instance: &InstanceId, round: u32) {
    let party = &mut net.parties[index];
    let me = party.node.summary(&party.local).unwrap().me.unwrap();
    let (local, rng) = (party.local, &mut party.rng);
    let payload = Bytes::from_static(b"to all");
    let (_, mut step) = party
        .node
        .broadcast(&local, instance, Round(round), &payload, rng);
    for to in everybody().without(me).iter() {
        let payload = Bytes::from_static(b"to one");
        let (_, sent) = party
            .node
            .send(&local, instance, Round(round), to, &payload, rng);
        step.absorb(sent);
    }
    net.settle(index, step);
}

struct Victim {
    node: Node,
    store: MemoryStore,
    rng: ChaCha20Rng,
    next: BTreeMap<ConnectionId, u64>,
    messages: u64,
}

impl Victim {
    /// Stores, and lets the carrier do everything at once.
    fn settle(&mut self, mut step: Step) {
        for _ in 0..100 {
            if step.is_empty() {
                return;
            }
            let Ok(proof) = self.store.commit(step.delta());
            let effects = step.release(proof);
            step = Step::default();
            for effect in effects {
                let outcome = match effect {
                    Effect::Send { connection, bodies } => {
                        assert!(bodies.iter().all(|body| body.len() <= BODY_BYTES));
                        Outcome::Sent { connection }
                    }
                    Effect::Invite { tag, .. } => Outcome::Invitation {
                        tag,
                        connection: ConnectionId([0xee; 32]),
                        link: "invitation".to_owned(),
                    },
                    Effect::Join { tag, .. } => Outcome::Joined {
                        tag,
                        connection: ConnectionId([0xef; 32]),
                    },
                    _ => continue,
                };
                if let Ok(after) = self.node.outcome(outcome, &mut self.rng) {
                    step.absorb(after);
                }
            }
        }
        panic!("it does not come to rest");
    }

    fn event(&mut self, event: Event) {
        let step = self.node.event(event, &mut self.rng);
        self.settle(step);
    }

    fn hear(&mut self, connection: ConnectionId, body: Bytes) {
        self.messages += 1;
        let id = MessageId(1_000_000 + self.messages);
        self.event(Event::Message {
            connection,
            id,
            body,
        });
    }

    /// A record from a peer, as the next segment of its pipe.
    fn hear_record(&mut self, connection: ConnectionId, record: &[u8]) {
        if record.is_empty() || record.len() > 0x7fff {
            return;
        }
        let next = self.next.entry(connection).or_default();
        let mut body = vec![1, 0];
        body.extend_from_slice(&SETUP.link.formation().0);
        body.extend_from_slice(&0_u64.to_be_bytes());
        body.extend_from_slice(&next.to_be_bytes());
        piece(&mut body, record);
        *next += 1;
        self.hear(connection, body.into());
    }

    /// The process dies and comes back: it reads what it wrote.
    fn restart(&mut self) {
        let Ok(rows) = self.store.load();
        let (node, step) =
            Node::load(rows, BODY_BYTES, &mut self.rng).expect("it reads what it wrote");
        self.node = node;
        self.settle(step);
    }
}

/// Each step: what, over which connection, and usually a piece.
pub(crate) fn node(bytes: &[u8]) {
    let setup = &*SETUP;
    let mut rng = seeds::rng(14);
    let (node, step) = Node::load(setup.rows.clone(), BODY_BYTES, &mut rng).unwrap();
    let mut victim = Victim {
        node,
        store: setup.store.clone(),
        rng,
        next: setup.connections.iter().copied().collect(),
        messages: 0,
    };
    victim.settle(step);
    let mut input = Input(bytes);
    for _ in 0..40 {
        if input.is_empty() {
            break;
        }
        act(&mut victim, &mut input);
    }
    victim.restart();
}

fn act(victim: &mut Victim, input: &mut Input<'_>) {
    let setup = &*SETUP;
    let what = input.u8();
    let connection = setup.connections[usize::from(what >> 7) % setup.connections.len()].0;
    match what & 15 {
        0..=2 => {
            let record = input.piece();
            victim.hear_record(connection, record);
        }
        3 => {
            // A header of this execution, or of a channel, between the right parties.
            let mut record = vec![[16, 17, 18, 19, 20][usize::from(input.u8()) % 5]];
            let instance = if what & 0x40 == 0 {
                setup.instance
            } else {
                setup.channel
            };
            record.extend_from_slice(&instance.0);
            record.extend_from_slice(&u32::from(input.u8()).to_be_bytes());
            record.extend_from_slice(&[input.u8() % 4, setup.me.as_u16() as u8]);
            record.extend_from_slice(input.piece());
            victim.hear_record(connection, &record);
        }
        4 => victim.hear(connection, Bytes::copy_from_slice(input.piece())),
        5 | 6 => {
            // A genuine bundle, perhaps damaged.
            let at = usize::from(input.u8()) % setup.heard.len();
            let (connection, body) = &setup.heard[at];
            let mut body = body.to_vec();
            if what & 0x40 != 0 {
                let place = usize::from(input.u16()) % body.len();
                body[place] ^= input.u8().max(1);
            }
            victim.hear(*connection, body.into());
        }
        7 => victim.event(Event::Failed {
            connection: Some(connection),
            tag: Tag([0; 32]),
            reason: "gone".to_owned(),
        }),
        8 => {
            let info = input.piece().to_vec();
            let mut tag = [0; 32];
            tag[..16].copy_from_slice(&setup.local.0);
            (tag[16], tag[17]) = (input.u8() % 4, input.u8() % 4);
            let tag = Tag(tag);
            if what & 0x40 == 0 {
                let id = junto_session::proto::endpoint::RequestId(input.array());
                victim.event(Event::Request { id, tag, info });
            } else {
                let binding = input.array();
                victim.event(Event::Connected {
                    connection,
                    tag,
                    info,
                    binding,
                });
            }
        }
        9 => victim.restart(),
        _ => ask(victim, what, input),
    }
}

/// The application's side.
fn ask(victim: &mut Victim, what: u8, input: &mut Input<'_>) {
    let setup = &*SETUP;
    let (local, instance) = (&setup.local, &setup.instance);
    let round = Round(u32::from(input.u8() % 3));
    let kind = if what & 0x40 == 0 {
        Kind::Broadcast
    } else {
        Kind::P2p
    };
    let others = everybody().without(setup.me);
    let (node, rng) = (&mut victim.node, &mut victim.rng);
    let payload = Bytes::copy_from_slice(input.bytes(usize::from(what >> 4)));
    let step = match what & 15 {
        10 => node.gather(local, instance, round, kind, others, rng).1,
        11 => node.broadcast(local, instance, round, &payload, rng).1,
        12 => {
            let to = others.nth(usize::from(what >> 7)).unwrap();
            node.send(local, instance, round, to, &payload, rng).1
        }
        13 => match what >> 6 {
            0 => node.next_message(local, instance, rng).1,
            1 => node.probe_all(local, rng),
            2 => node.expire(local, instance, round, kind, others, rng).1,
            _ => node.channel_next(local, &setup.channel, rng).1,
        },
        14 => match what >> 5 {
            0 => node.finish(local, instance, rng).1,
            1 => node.give_up(local, instance, "no more", others, rng).1,
            2 => match node.close(local, rng) {
                Ok(step) => step,
                Err(_) => return,
            },
            _ => node.open_execution(local, purpose(), rng).1,
        },
        _ => return,
    };
    victim.settle(step);
}

/// For seeds: bundles that were heard, and records.
pub(crate) fn seeds_of_node() -> Vec<Vec<u8>> {
    let setup = &*SETUP;
    let mut all = Vec::new();
    // Everything genuine in order, then asking for it.
    let mut honest = Vec::new();
    for at in 0..setup.heard.len().min(24) {
        honest.extend_from_slice(&[5, u8::try_from(at).unwrap()]);
    }
    honest.extend_from_slice(&[10, 0, 0x4a, 0, 9, 14, 0]);
    all.push(honest);
    for (_, body) in setup.heard.iter().rev().take(8) {
        let mut raw = vec![4];
        piece(&mut raw, body);
        all.push(raw);
        // The records inside, as they travel.
        if let Some(segments) = body.get(52..) {
            let mut record = vec![0];
            piece(&mut record, segments);
            all.push(record);
        }
    }
    let mut letter = vec![3, 0, 0, 0];
    piece(&mut letter, b"letter");
    letter.extend_from_slice(&[
        0x83, 0, 0, 2, 0, 1, b'x', 0x4a, 0, 11, 0, 0x4c, 0, 9, 0x2e, 0,
    ]);
    all.push(letter);
    all.push(vec![7, 10, 0, 0x87, 10, 0, 0x4e, 0, 9]);
    all.push(vec![
        8, 0, 1, b'i', 1, 0, 0x48, 0, 0, 2, 1, 0x5e, 0, 0x6e, 0,
    ]);
    all
}
