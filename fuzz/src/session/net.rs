//! Parties and a carrier that delivers at once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_session::{
    DisplayName, LocalId, Params, PartyCount, Persona, Policy, SessionLink,
    proto::{
        endpoint::{ConnectionId, Event, MessageId, RequestId, Tag},
        node::Node,
        step::{Effect, MemoryStore, Outcome, Step, Store},
    },
};
use rand_chacha::ChaCha20Rng;

use crate::seeds;

pub(super) const BODY_BYTES: usize = 13_000;

#[derive(Clone)]
struct Pending {
    from: usize,
    tag: Tag,
    info: Vec<u8>,
    address: Tag,
}

pub(super) struct Party {
    pub(super) node: Node,
    pub(super) store: MemoryStore,
    pub(super) local: LocalId,
    pub(super) rng: ChaCha20Rng,
}

/// One end of a connection: where the other one is.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    to: usize,
    peer: ConnectionId,
    /// Number of the next segment that travels this way.
    pub(super) next: u64,
}

pub(super) struct Net {
    pub(super) parties: Vec<Party>,
    /// By party and its connection.
    pub(super) wires: BTreeMap<(usize, ConnectionId), Wire>,
    addresses: BTreeMap<String, (usize, Tag)>,
    requests: BTreeMap<RequestId, Pending>,
    events: VecDeque<(usize, Event)>,
    count: u64,
    /// Everything that travelled: sender, receiver's connection, body.
    pub(super) bodies: Vec<(usize, ConnectionId, Bytes)>,
}

fn persona() -> Persona {
    Persona {
        display_name: DisplayName::new("party").unwrap(),
        profile: None,
        relay: "relay".to_owned(),
        pinned: Vec::new(),
    }
}

impl Net {
    /// A formed session.
    pub(super) fn formed(parties: usize) -> (Self, SessionLink) {
        let mut net = Self {
            parties: Vec::new(),
            wires: BTreeMap::new(),
            addresses: BTreeMap::new(),
            requests: BTreeMap::new(),
            events: VecDeque::new(),
            count: 0,
            bodies: Vec::new(),
        };
        let params = Params {
            name: "session".to_owned(),
            parties: PartyCount::new(parties).unwrap(),
            policy: Policy::Anonymous,
        };
        let mut link = None;
        for index in 0..parties {
            let mut rng = seeds::rng(100 + index as u64);
            let (mut node, _) = Node::load(Vec::new(), BODY_BYTES, &mut rng).unwrap();
            let (local, step) = match &link {
                None => node.host(params.clone(), &persona(), &mut rng),
                Some(link) => node.join(SessionLink::clone(link), &persona(), &mut rng),
            }
            .unwrap();
            net.parties.push(Party {
                node,
                store: MemoryStore::default(),
                local,
                rng,
            });
            net.settle(index, step);
            net.run();
            link = link.or_else(|| net.parties[0].node.summary(&local).unwrap().link);
        }
        (net, link.unwrap())
    }

    /// Delivers everything.
    pub(super) fn run(&mut self) {
        while let Some((index, event)) = self.events.pop_front() {
            let party = &mut self.parties[index];
            let step = party.node.event(event, &mut party.rng);
            self.settle(index, step);
        }
    }

    /// Stores and does what a step says.
    pub(super) fn settle(&mut self, index: usize, mut step: Step) {
        while !step.is_empty() {
            let Ok(proof) = self.parties[index].store.commit(step.delta());
            let effects = step.release(proof);
            step = Step::default();
            for effect in effects {
                if let Some(outcome) = self.carry(index, effect) {
                    let party = &mut self.parties[index];
                    let after = party.node.outcome(outcome, &mut party.rng);
                    step.absorb(after.expect("an outcome that was asked for"));
                }
            }
        }
    }

    fn connection(&mut self) -> ConnectionId {
        self.count += 1;
        let mut id = [0xcc; 32];
        id[..8].copy_from_slice(&self.count.to_be_bytes());
        ConnectionId(id)
    }

    fn carry(&mut self, index: usize, effect: Effect) -> Option<Outcome> {
        match effect {
            Effect::Address { tag, .. } => {
                let link = format!("contact-{index}");
                self.addresses.insert(link.clone(), (index, tag));
                Some(Outcome::Address { tag, link })
            }
            Effect::Invite { tag, .. } => {
                let connection = self.connection();
                let link = format!("invitation-{}", self.count);
                self.addresses.insert(link.clone(), (index, tag));
                // The joiner finds it by the link's number.
                Some(Outcome::Invitation {
                    tag,
                    connection,
                    link,
                })
            }
            Effect::Join {
                tag, link, info, ..
            } => self.join(index, tag, &link, info),
            Effect::Accept { request, info, .. } => {
                let pending = self.requests.get(&request)?.clone();
                let (ours, theirs) = (self.connection(), ConnectionId(request.0));
                self.connect(
                    (index, ours, pending.address, info),
                    (pending.from, theirs, pending.tag, pending.info),
                );
                Some(Outcome::Accepted {
                    request,
                    connection: ours,
                })
            }
            Effect::Send { connection, bodies } => {
                for body in bodies {
                    self.deliver(index, connection, body);
                }
                Some(Outcome::Sent { connection })
            }
            Effect::CloseAddress { .. }
            | Effect::Reject { .. }
            | Effect::Ack { .. }
            | Effect::Delete { .. } => None,
        }
    }

    fn join(&mut self, index: usize, tag: Tag, link: &str, info: Vec<u8>) -> Option<Outcome> {
        let (to, address) = *self.addresses.get(link)?;
        let connection = self.connection();
        if let Some(number) = link.strip_prefix("invitation-") {
            let mut theirs = [0xcc; 32];
            theirs[..8].copy_from_slice(&number.parse::<u64>().ok()?.to_be_bytes());
            self.connect(
                (to, ConnectionId(theirs), address, Vec::new()),
                (index, connection, tag, info),
            );
        } else {
            let id = RequestId(connection.0);
            let pending = Pending {
                from: index,
                tag,
                info: info.clone(),
                address,
            };
            self.requests.insert(id, pending);
            let event = Event::Request {
                id,
                tag: address,
                info,
            };
            self.events.push_back((to, event));
        }
        Some(Outcome::Joined { tag, connection })
    }

    /// Each end: party, connection, tag, what it says of itself.
    fn connect(
        &mut self,
        a: (usize, ConnectionId, Tag, Vec<u8>),
        b: (usize, ConnectionId, Tag, Vec<u8>),
    ) {
        self.count += 1;
        let mut binding = [0xbb; 32];
        binding[..8].copy_from_slice(&self.count.to_be_bytes());
        for (near, far) in [(&a, &b), (&b, &a)] {
            let wire = Wire {
                to: far.0,
                peer: far.1,
                next: 0,
            };
            self.wires.insert((near.0, near.1), wire);
            let event = Event::Connected {
                connection: near.1,
                tag: near.2,
                info: far.3.clone(),
                binding,
            };
            self.events.push_back((near.0, event));
        }
    }

    fn deliver(&mut self, from: usize, connection: ConnectionId, body: Bytes) {
        let Some(wire) = self.wires.get_mut(&(from, connection)) else {
            return;
        };
        wire.next = wire.next.max(after(&body));
        let (to, peer) = (wire.to, wire.peer);
        self.count += 1;
        let event = Event::Message {
            connection: peer,
            id: MessageId(self.count),
            body: body.clone(),
        };
        self.events.push_back((to, event));
        self.bodies.push((from, peer, body));
    }

    /// The sender's end of what comes in through this connection of that party.
    pub(super) fn other_end(&self, party: usize, connection: ConnectionId) -> Wire {
        let here = self.wires[&(party, connection)];
        self.wires[&(here.to, here.peer)]
    }
}

/// Number of the segment after the last one of this bundle (`docs/spec/session.md` §6.1).
fn after(body: &[u8]) -> u64 {
    let mut rest = &body[50..];
    let mut next = u64::from_be_bytes(body[42..50].try_into().unwrap());
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length) & 0x7fff);
        rest = &tail[length..];
        next += 1;
    }
    next
}
