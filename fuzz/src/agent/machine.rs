//! The machine against a hostile relay and a hostile peer, which know all the keys that such a peer
//! and relay would have.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::LazyLock,
};

use bytes::Bytes;
use junto_agent::proto::{
    AgentMessage, Answer, Body, Command, Committed, ConnectionId, Envelope, Event, Instant,
    InvitationLink, Link, LinkBytes, Machine, MachineConfig, MessageId, Operation, Output, Receipt,
    Refusal, RelayId, RelayNotice, RelayTrouble, Reply, RequestId, Resync, RoutePolicy, Row,
    RowKey, Schedule, SealedBody, Tag, Ticket, Token,
};
use junto_crypto::{
    Zeroizing,
    hash::sha256,
    secretbox::{BoxKey, Nonce},
    x25519,
};
use junto_ratchet::{Options, Params, Ratchet};
use junto_smp::{
    address::ServerAddress,
    id::{MessageId as QueueMessageId, RecipientId, SenderId},
};
use rand_chacha::ChaCha20Rng;

use crate::{input::Input, seeds};

const ADDRESS: Tag = Tag::new([1; 32]);
const INVITATION: Tag = Tag::new([2; 32]);
/// Padded length of a relay's box.
const DELIVERED_PADDED: usize = 16_106;
/// Padded lengths of a queue message with and without its sender's key.
const WITH_KEY_PADDED: usize = 15_904;
const WITHOUT_KEY_PADDED: usize = 16_000;

/// One queue of the machine, as relay and peer know it.
#[derive(Clone)]
struct Queue {
    recipient: RecipientId,
    delivery_key: x25519::PublicKey,
    /// The recipient's key of the per-queue layer; the machine tells it in its link.
    layer_key: Option<x25519::PublicKey>,
}

/// A profile with a contact address and an invitation, and a peer that follows the invitation.
struct Setup {
    rows: BTreeMap<RowKey, Row>,
    /// Of the address, of the invitation.
    queues: [Queue; 2],
    joiner: Zeroizing<Vec<u8>>,
    params: Params,
    invitation: InvitationLink,
    connection: ConnectionId,
}

static SETUP: LazyLock<Setup> = LazyLock::new(set_up);

/// Its rows, as seeds.
pub(crate) fn rows_of_setup() -> Vec<(RowKey, Vec<u8>)> {
    let rows = SETUP.rows.iter();
    rows.map(|(key, row)| (*key, row.to_vec())).collect()
}

pub(super) fn relay() -> ServerAddress {
    "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example"
        .parse()
        .unwrap()
}

/// The relay's secret of every queue.
fn relay_secret() -> x25519::SecretKey {
    x25519::SecretKey::from_bytes(&[61; 32])
}

/// The secret of a sender, of the per-queue layer.
fn sender_secret() -> x25519::SecretKey {
    x25519::SecretKey::from_bytes(&[62; 32])
}

fn restore(rows: &BTreeMap<RowKey, Row>) -> Machine {
    let rows = rows.iter().map(|(key, row)| (*key, row.clone()));
    let machine = Machine::restore(
        MachineConfig {
            receipts: true,
            routes: RoutePolicy::default(),
            resync: Resync::default(),
            schedule: Schedule::default(),
        },
        rows,
    );
    machine.unwrap_or_else(|error| panic!("it does not read what it wrote: {error}"))
}

fn set_up() -> Setup {
    let mut world = World::new(restore(&BTreeMap::new()), BTreeMap::new(), Vec::new());
    let relay = relay();
    world.call(Command::CreateAddress {
        tag: ADDRESS,
        relay: relay.clone(),
        about: None,
    });
    world.call(Command::CreateInvitation {
        tag: INVITATION,
        relay,
        info: b"maker".to_vec(),
        about: None,
    });
    world.settle();
    for _ in 0..2 {
        let (token, operation) = world.pending.pop_front().unwrap();
        let Operation::Create { delivery_key, .. } = operation else {
            panic!("only queues to make")
        };
        let number = u8::try_from(world.queues.len()).unwrap() + 1;
        world.queues.push(Queue {
            recipient: RecipientId([number; 24]),
            delivery_key,
            layer_key: None,
        });
        world.answer(token, created(number));
    }
    let mut links = (None, None);
    for reply in std::mem::take(&mut world.replies) {
        match reply {
            Reply::Address(link, _) => links.0 = Some(link),
            Reply::Invitation(connection, link, _) => links.1 = Some((connection, *link)),
            _ => {}
        }
    }
    let (address, (connection, invitation)) = (links.0.unwrap(), links.1.unwrap());
    let (made, offer) = invitation.negotiated().unwrap();
    let options = Options {
        pq: false,
        ..Options::default()
    };
    let (joiner, params) = junto_ratchet::join(offer, options, &mut seeds::rng(11)).unwrap();
    // Which of the two was made first does not matter to the machine, but it does here.
    let mut queues: [Queue; 2] = world.queues.try_into().ok().unwrap();
    let of_address = address.negotiated().unwrap();
    if of_address.sender_id != SenderId([0x81; 24]) {
        queues.swap(0, 1);
    }
    queues[0].layer_key = Some(of_address.recipient_key);
    queues[1].layer_key = Some(made.recipient_key);
    Setup {
        rows: world.rows,
        queues,
        joiner: joiner.encode(),
        params,
        invitation: invitation.clone(),
        connection,
    }
}

fn created(number: u8) -> Answer {
    Answer::Created {
        recipient_id: RecipientId([number; 24]),
        sender_id: SenderId([number.wrapping_add(0x80); 24]),
        relay_key: relay_secret().public_key(),
        link: None,
    }
}

/// A machine, its store, and what it wants of the world.
struct World {
    machine: Machine,
    rows: BTreeMap<RowKey, Row>,
    queues: Vec<Queue>,
    relay: Option<RelayId>,
    pending: VecDeque<(Token, Operation)>,
    /// What the machine has put into queues.
    sent: Vec<Bytes>,
    replies: Vec<Reply>,
    requests: Vec<RequestId>,
    messages: Vec<(ConnectionId, MessageId)>,
    now: u64,
    count: u8,
    rng: ChaCha20Rng,
    /// Kinds of events that came, which tells whether seeds reach what they are for.
    seen: BTreeSet<&'static str>,
}

impl World {
    fn new(machine: Machine, rows: BTreeMap<RowKey, Row>, queues: Vec<Queue>) -> Self {
        Self {
            machine,
            rows,
            queues,
            relay: None,
            pending: VecDeque::new(),
            sent: Vec::new(),
            replies: Vec::new(),
            requests: Vec::new(),
            messages: Vec::new(),
            now: 1,
            count: 0,
            rng: seeds::rng(12),
            seen: BTreeSet::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::from_millis(self.now)
    }

    fn call(&mut self, command: Command) {
        let ticket = Ticket(self.now);
        self.machine
            .handle_command(self.now(), ticket, command, &mut self.rng);
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        self.machine
            .handle_answer(self.now(), token, answer, &mut self.rng);
        self.settle();
    }

    /// Stores and releases until nothing more comes.
    fn settle(&mut self) {
        for _ in 0..100 {
            let Some(step) = self.machine.take_step() else {
                return;
            };
            for (key, row) in step.delta().rows() {
                match row {
                    Some(row) => self.rows.insert(*key, row.clone()),
                    None => self.rows.remove(key),
                };
            }
            for output in step.release(Committed::promised()) {
                self.release(output);
            }
        }
        panic!("the machine does not come to rest");
    }

    fn release(&mut self, output: Output) {
        match output {
            Output::Dial { relay, path } => {
                if path.relay == self::relay() {
                    self.relay = Some(relay);
                }
                self.machine.handle_relay_up(self.now(), relay);
            }
            Output::Command {
                token, operation, ..
            } => {
                if let Operation::Send { body, .. } = &operation {
                    self.sent.push(body.clone());
                }
                self.pending.push_back((token, operation));
            }
            Output::Event(event) => self.hear(event),
            Output::Answer {
                answer: Ok(reply), ..
            } => self.replies.push(reply),
            Output::Hang { .. } | Output::Answer { .. } => {}
        }
    }

    fn hear(&mut self, event: Event) {
        self.seen.insert(match event {
            Event::Request { id, .. } => {
                self.requests.push(id);
                "request"
            }
            Event::Message { connection, id, .. } => {
                self.messages.push((connection, id));
                "message"
            }
            Event::Connected { .. } => "connected",
            Event::Delivered { .. } => "delivered",
            Event::Unreadable { .. } => "unreadable",
            Event::Irregular { .. } => "irregular",
            Event::RatchetBroken { .. } => "ratchet broken",
            Event::Renewed { .. } => "renewed",
            Event::Synchronised { .. } => "synchronised",
            Event::Opened { .. } => "opened",
            Event::Rotated { .. } => "rotated",
            Event::RotationFailed { .. } => "rotation failed",
            Event::Failed { .. } => "failed",
            Event::RelayDown { .. } => "relay down",
            Event::RelayUp { .. } => "relay up",
            Event::TakenOver { .. } => "taken over",
            Event::AddressMoved { .. } => "address moved",
        });
    }

    fn notice(&mut self, notice: RelayNotice) {
        let Some(relay) = self.relay else { return };
        self.machine
            .handle_notice(self.now(), relay, notice, &mut self.rng);
        self.settle();
    }

    /// The relay delivers this box.
    fn deliver_sealed(&mut self, queue: usize, sealed: Bytes) {
        self.count = self.count.wrapping_add(1);
        let (queue, message) = (
            self.queues[queue].recipient,
            QueueMessageId([self.count; 24]),
        );
        self.notice(RelayNotice::Message {
            queue,
            message,
            sealed,
        });
    }

    /// The relay delivers this content: time, flags, body.
    fn deliver(&mut self, queue: usize, content: &[u8]) {
        let shared = relay_secret().diffie_hellman(&self.queues[queue].delivery_key);
        let key = BoxKey::from_shared(&shared.unwrap());
        let nonce = Nonce([self.count.wrapping_add(1); 24]);
        let mut sealed = Vec::new();
        if key
            .seal_padded(&nonce, content, DELIVERED_PADDED, &mut sealed)
            .is_ok()
        {
            self.deliver_sealed(queue, sealed.into());
        }
    }

    /// A sender puts this envelope into a queue.
    fn send(&mut self, queue: usize, with_key: bool, envelope: &[u8]) {
        let Some(peer) = self.queues[queue].layer_key else {
            return;
        };
        let secret = sender_secret();
        let key = BoxKey::from_shared(&secret.diffie_hellman(&peer).unwrap());
        let mut content = b"\0\0\0\0\0\0\0\x01T \0\x04".to_vec();
        let padded = if with_key {
            content.extend_from_slice(b"1\x2c");
            content.extend_from_slice(&secret.public_key().to_spki());
            WITH_KEY_PADDED
        } else {
            content.push(b'0');
            WITHOUT_KEY_PADDED
        };
        let nonce = Nonce([0x77; 24]);
        content.extend_from_slice(&nonce.0);
        let inner = [b"_", envelope].concat();
        if key
            .seal_padded(&nonce, &inner, padded, &mut content)
            .is_ok()
        {
            self.deliver(queue, &content);
        }
    }

    fn crash(&mut self) {
        self.pending.clear();
        self.machine = restore(&self.rows);
        self.settle();
    }
}

/// Who follows the invitation.
struct Peer {
    ratchet: Ratchet,
    /// Of the machine's queue messages, once the first has come.
    layer_key: Option<BoxKey>,
}

impl Peer {
    /// Reads what the machine has sent; number and hash of the last message.
    fn read(&mut self, world: &mut World) -> Option<(u64, [u8; 32])> {
        let mut last = None;
        for body in std::mem::take(&mut world.sent) {
            last = self.open(&body, &mut world.rng).or(last);
        }
        last
    }

    fn open(&mut self, body: &[u8], rng: &mut ChaCha20Rng) -> Option<(u64, [u8; 32])> {
        let sealed = SealedBody::read(body).expect("it writes what it reads");
        if let Some(public) = &sealed.sender_key {
            let shared = sender_secret().diffie_hellman(public).ok()?;
            self.layer_key = Some(BoxKey::from_shared(&shared));
        }
        // It may be for somebody else.
        let opened = sealed.open(self.layer_key.as_ref()?).ok()?;
        let (Envelope::Confirmation { ratcheted, .. } | Envelope::Message { ratcheted }) =
            Envelope::read(opened.envelope()).expect("it writes what it reads")
        else {
            return None;
        };
        let plain = self.ratchet.decrypt(ratcheted, rng).ok()?.plaintext;
        match AgentMessage::read(&plain).expect("it writes what it reads") {
            AgentMessage::Numbered { id, .. } => Some((id, sha256(&plain))),
            _ => None,
        }
    }
}

fn numbered(id: u64, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let message = AgentMessage::Numbered {
        id,
        previous_hash: &[],
        body,
    };
    message.put(&mut out).unwrap();
    out
}

fn put(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    envelope.put(&mut out).unwrap();
    out
}

/// Each step: one byte of what happens, and usually a piece.
pub(crate) fn machine(bytes: &[u8]) {
    play(bytes);
}

fn play(bytes: &[u8]) -> World {
    let setup = &*SETUP;
    let mut world = World::new(
        restore(&setup.rows),
        setup.rows.clone(),
        setup.queues.to_vec(),
    );
    let mut peer = Peer {
        ratchet: Ratchet::decode(&setup.joiner, []).unwrap(),
        layer_key: None,
    };
    world.settle();
    let mut input = Input(bytes);
    for _ in 0..32 {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let queue = usize::from(what >> 7);
        match what & 15 {
            0 => world.send(queue, true, input.piece()),
            1 => world.send(queue, false, input.piece()),
            2 | 3 => {
                let Ok(ratcheted) = peer.ratchet.encrypt(input.piece(), 11_106) else {
                    continue;
                };
                let first = what & 15 == 2;
                let offer = first.then(|| Box::new(setup.params.clone()));
                let ratcheted = &ratcheted;
                let envelope = if first || what & 0x40 != 0 {
                    Envelope::Confirmation { offer, ratcheted }
                } else {
                    Envelope::Message { ratcheted }
                };
                world.send(1, first, &put(&envelope));
            }
            4 => world.deliver(queue, input.piece()),
            5 => world.deliver_sealed(queue, Bytes::copy_from_slice(input.piece())),
            6 => {
                let queue = RecipientId([input.u8(); 24]);
                let notice = if what & 0x40 == 0 {
                    RelayNotice::Ended { queue }
                } else {
                    RelayNotice::Deleted { queue }
                };
                world.notice(notice);
            }
            7 | 8 => answer(&mut world, &mut input),
            9 => {
                world.now += u64::from(input.u16()) * 16;
                let now = world.now();
                world.machine.handle_timeout(now, &mut world.rng);
                world.settle();
            }
            10 => world.crash(),
            11 => {
                let Some(relay) = world.relay else { continue };
                let now = world.now();
                if what & 0x40 == 0 {
                    world
                        .machine
                        .handle_relay_down(now, relay, RelayTrouble::Unreachable);
                    world.pending.clear();
                }
                world.machine.handle_relay_up(now, relay);
                world.settle();
            }
            15 => {
                // The peer reads what came, and has it.
                let (info, number) = (input.piece(), input.u8());
                let Some((id, hash)) = peer.read(&mut world) else {
                    continue;
                };
                let receipts = Body::Receipts(vec![Receipt { id, hash, info }]);
                let plain = numbered(number.into(), receipts);
                if let Ok(ratcheted) = peer.ratchet.encrypt(&plain, 11_106) {
                    let ratcheted = &ratcheted;
                    world.send(1, false, &put(&Envelope::Message { ratcheted }));
                }
            }
            _ => {
                let command = command(&mut world, &mut input);
                world.call(command);
                world.settle();
            }
        }
    }
    world.crash();
    world
}

fn answer(world: &mut World, input: &mut Input<'_>) {
    let what = input.u8();
    let Some((token, operation)) = world.pending.pop_front() else {
        return;
    };
    let answer = match (what, operation) {
        (0..=9, Operation::Create { delivery_key, .. })
        | (20, Operation::Create { delivery_key, .. }) => {
            let number = u8::try_from(world.queues.len()).unwrap().wrapping_add(1);
            world.queues.push(Queue {
                recipient: RecipientId([number; 24]),
                delivery_key,
                layer_key: None,
            });
            created(number)
        }
        (10, _) => Answer::Created {
            recipient_id: RecipientId(input.array()),
            sender_id: SenderId(input.array()),
            relay_key: x25519::PublicKey::from_bytes(&input.array()),
            link: None,
        },
        (15, _) => Answer::Link(Box::new(LinkBytes {
            sender: SenderId(input.array()),
            fixed: input.piece().into(),
            user: input.piece().into(),
        })),
        (11, _) => Answer::Refused(Refusal::Auth),
        (12, _) => Answer::Refused(Refusal::Quota),
        (13, _) => Answer::Refused(Refusal::NoMessage),
        (14, _) => Answer::Refused(Refusal::Other),
        _ => Answer::Done,
    };
    world.answer(token, answer);
}

fn command(world: &mut World, input: &mut Input<'_>) -> Command {
    let connection = SETUP.connection;
    match input.u8() % 8 {
        0 => Command::Accept {
            request: world.requests.pop().unwrap_or(RequestId::new([9; 16])),
            relay: relay(),
            info: input.piece().to_vec(),
        },
        1 => Command::Reject {
            request: world.requests.pop().unwrap_or(RequestId::new([9; 16])),
        },
        2 | 3 => Command::Send {
            connection,
            body: input.piece().to_vec(),
        },
        4 => {
            let known = world.messages.pop();
            let (connection, message) =
                known.unwrap_or((connection, MessageId::new(u64::from(input.u8()))));
            Command::Acknowledge {
                connection,
                message,
            }
        }
        5 if input.u8().is_multiple_of(2) => Command::Delete { connection },
        5 => Command::Leave {
            connection,
            last: input.piece().to_vec(),
        },
        6 => Command::CloseAddress { tag: ADDRESS },
        _ => Command::Join {
            tag: Tag::new([input.u8(); 32]),
            link: Link::from(SETUP.invitation.clone()),
            relay: relay(),
            info: b"joiner".to_vec(),
        },
    }
}

/// For seeds: the joiner's first message.
pub(crate) fn seed_of_reply() -> Vec<u8> {
    use junto_agent::proto::{QueueAddress, QueueInfo, QueueMode};

    let queue = QueueInfo::new(QueueAddress {
        relay: relay(),
        sender_id: SenderId([0x55; 24]),
        recipient_key: sender_secret().public_key(),
        mode: Some(QueueMode::Messaging),
    });
    let reply = AgentMessage::InfoReply {
        queues: vec![queue],
        info: b"joiner",
    };
    let mut out = Vec::new();
    reply.put(&mut out).unwrap();
    out
}

/// For seeds: envelopes and plaintexts that the machine acts on.
pub(crate) fn deliverable() -> Vec<Vec<u8>> {
    use crate::input::piece;
    let request = put(&Envelope::Invitation {
        link: Box::new(SETUP.invitation.clone()),
        info: b"me",
    });
    let reply = seed_of_reply();
    let receipt = Receipt {
        id: 1,
        hash: [3; 32],
        info: b"",
    };
    let mut seeds = Vec::new();
    let steps = |steps: &[(u8, &[u8])]| {
        let mut out = Vec::new();
        for (what, bytes) in steps {
            out.push(*what);
            if matches!(what & 15, 0..=5) {
                piece(&mut out, bytes);
            } else {
                out.extend_from_slice(bytes);
            }
        }
        out
    };
    // A request, accepted; its queue made and secured, its answers given.
    seeds.push(steps(&[
        (0, &request),
        (12, &[0, 0, 2, b'h', b'i']),
        (7, &[0]),
        (7, &[20]),
        (7, &[20]),
        (7, &[20]),
        (10, &[]),
    ]));
    // The invitation followed, messages both ways, receipts, a crash.
    let mut conversation: Vec<(u8, Vec<u8>)> = vec![
        (2, reply),
        (7, vec![20]),
        (7, vec![20]),
        (7, vec![20]),
        (7, vec![20]),
        (7, vec![20]),
        (7, vec![20]),
        (12, vec![2, 0, 1, b'x']),
        (7, vec![20]),
        (3, numbered(2, Body::Message(b"hello"))),
        (15, vec![0, 0, 3]),
        (12, vec![4, 0]),
        (9, vec![0xff, 0xff]),
        (7, vec![20]),
        (3, numbered(3, Body::Receipts(vec![receipt]))),
        (3, numbered(9, Body::QueueContinues(b""))),
        (3, numbered(4, Body::Hello)),
    ];
    let borrow = |conversation: &[(u8, Vec<u8>)]| {
        let borrowed: Vec<_> = conversation
            .iter()
            .map(|(what, bytes)| (*what, bytes.as_slice()))
            .collect();
        steps(&borrowed)
    };
    seeds.push(borrow(&conversation));
    conversation.push((10, Vec::new()));
    conversation.push((11, Vec::new()));
    conversation.push((12, vec![5]));
    conversation.push((7, vec![20]));
    seeds.push(borrow(&conversation));
    seeds.push(steps(&[
        (4, b"QUOTA \0\0\0\0\0\0\0\x01"),
        (0x84, b"\0\0\0\0\0\0\0\x01T \0\x04"),
        (5, b"box"),
        (6, &[1]),
        (0x46, &[2]),
        (12, &[6]),
        (7, &[20]),
        (12, &[7, 9]),
        (7, &[0]),
    ]));
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_reach_every_event_of_a_conversation() {
        let mut seen = BTreeSet::new();
        for seed in deliverable() {
            seen.extend(play(&seed).seen);
        }
        for kind in ["request", "connected", "message", "delivered", "failed"] {
            assert!(seen.contains(kind), "{kind} is not in {seen:?}");
        }
    }
}
