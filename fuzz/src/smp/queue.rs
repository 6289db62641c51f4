//! One queue under any sequence of commands, against a model: what was accepted comes out once and
//! in order, and nothing else does.

use std::collections::VecDeque;

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    block::{OutgoingBlock, new_block},
    client::{Client, Event, Incoming, Options, ReplyFault, Request},
    command::{Command, NewMode, NewQueue},
    error::ErrorCode,
    hello::LeafKey,
    id::{Entity, MessageId, RecipientId},
    key::AuthSecret,
    message::{Delivered, DeliveryKey, MessageFlags},
    response::{QueueIds, Response},
    version::Version,
};
use rand_chacha::ChaCha20Rng;

use super::server::{self, LEAF_SEED, LIMITS, Relay};
use crate::{input::Input, seeds};

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Done,
    Ids(QueueIds),
    Message(MessageId, Vec<u8>),
    Refused(ErrorCode),
}

struct Peer {
    number: u64,
    client: Client<()>,
    rng: ChaCha20Rng,
    /// Messages that came by themselves.
    events: Vec<(MessageId, Vec<u8>)>,
}

impl Peer {
    fn connect(number: u64, relay: &mut Relay) -> Self {
        let (mut hello, mut answer) = (new_block(), new_block());
        let handshake = relay.greet(number, &mut hello);
        let options = Options {
            encrypt: number.is_multiple_of(2),
            ..Options::new(relay.identity.fingerprint())
        };
        let leaf = LeafKey::Ed25519(ed25519::SigningKey::from_seed(&LEAF_SEED).verifying_key());
        let mut rng = seeds::rng(number + 10);
        let session = server::session(number);
        let client =
            Client::open(&options, session, &leaf, &mut hello, &mut answer, &mut rng).unwrap();
        relay.accept(number, handshake, &mut answer);
        assert_eq!(client.version(), Version::MAX);
        Self {
            number,
            client,
            rng,
            events: Vec::new(),
        }
    }

    fn ask(&mut self, relay: &mut Relay, request: &Request<'_>) -> Got {
        let mut outgoing = OutgoingBlock::new();
        let pushed = self
            .client
            .push(&mut outgoing, request, (), &mut self.rng)
            .is_ok();
        assert!(pushed);
        let mut block = Box::new(*self.client.seal(&mut outgoing).unwrap());
        assert!(relay.block(self.number, &mut block));
        self.receive(relay).expect("an answer to each command")
    }

    fn receive(&mut self, relay: &mut Relay) -> Option<Got> {
        let mut got = None;
        for mut block in relay.take_sent(self.number) {
            for incoming in self.client.receive(&mut block).unwrap() {
                match incoming {
                    Incoming::Reply { result, .. } => {
                        assert_eq!(got, None, "one answer to each command");
                        got = Some(match result {
                            Ok(Response::Message { id, sealed }) => {
                                Got::Message(id, sealed.to_vec())
                            }
                            Ok(Response::Ids(ids)) => Got::Ids(ids),
                            Ok(_) => Got::Done,
                            Err(ReplyFault::Refused(code)) => Got::Refused(code),
                            Err(ReplyFault::Unexpected | ReplyFault::Proxy(_)) => {
                                panic!("an answer of the wrong kind")
                            }
                        });
                    }
                    Incoming::Event(Event::Message { id, sealed, .. }) => {
                        self.events.push((id, sealed.to_vec()));
                    }
                    Incoming::Event(Event::Fault) | Incoming::Stray => panic!("nonsense"),
                    Incoming::Event(
                        Event::End(_) | Event::Deleted(_) | Event::Notification { .. },
                    ) => {}
                    Incoming::Event(Event::AllDelivered | Event::ServiceEnd(_)) => {
                        panic!("no service asked")
                    }
                }
            }
        }
        got
    }
}

/// What the queue must do.
#[derive(Default)]
struct Model {
    /// Accepted and not acknowledged, `None` for the marker.
    waiting: VecDeque<Option<Vec<u8>>>,
    secured: bool,
    off: bool,
    deleted: bool,
}

struct World {
    relay: Relay,
    peers: [Peer; 2],
    keys: [AuthSecret; 2],
    ids: QueueIds,
    delivery: DeliveryKey,
    model: Model,
}

/// A queue made by a client, and what one byte of input says next.
pub(crate) fn queue(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = match input.u8() % 3 {
        0 => NewMode::Messaging(None),
        1 => NewMode::Contact(None),
        _ => NewMode::Unspecified,
    };
    let mut world = World::new(mode);
    let can_secure = matches!(mode, NewMode::Messaging(_));
    while !input.is_empty() {
        world.act(input.u8(), can_secure);
    }
}

impl World {
    fn new(mode: NewMode<'_>) -> Self {
        let mut relay = Relay::new();
        let mut peers = [0, 1].map(|number| Peer::connect(number, &mut relay));
        let keys = [
            AuthSecret::Ed25519(server::signer()),
            AuthSecret::X25519(x25519::SecretKey::from_bytes(&[33; 32])),
        ];
        let secret = x25519::SecretKey::from_bytes(&[44; 32]);
        let new = NewQueue {
            auth_key: keys[0].public_key(),
            dh_key: secret.public_key(),
            password: None,
            subscribe: false,
            mode,
            notifier: None,
        };
        let request = Request {
            entity: Entity::None,
            key: Some(&keys[0]),
            command: Command::New(Box::new(new)),
        };
        let Got::Ids(ids) = peers[0].ask(&mut relay, &request) else {
            panic!("no queue")
        };
        let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
        Self {
            relay,
            peers,
            keys,
            ids,
            delivery: DeliveryKey::new(&shared),
            model: Model::default(),
        }
    }

    fn recipient(&mut self, peer: usize, command: Command<'_>) -> Got {
        let RecipientId(id) = self.ids.recipient;
        let request = Request {
            entity: Entity::Queue(&id),
            key: Some(&self.keys[0]),
            command,
        };
        self.peers[peer].ask(&mut self.relay, &request)
    }

    fn sender(&mut self, peer: usize, key: Option<usize>, command: Command<'_>) -> Got {
        let request = Request {
            entity: Entity::Queue(&self.ids.sender.0),
            key: key.map(|key| &self.keys[key]),
            command,
        };
        self.peers[peer].ask(&mut self.relay, &request)
    }

    fn act(&mut self, byte: u8, can_secure: bool) {
        let peer = usize::from(byte >> 7);
        match byte & 15 {
            0..=2 => self.send(peer, byte),
            3 => self.secure(peer, can_secure),
            4 => {
                let got = self.recipient(peer, Command::Sub);
                self.refused_if_deleted(&got);
            }
            5 => {
                let got = self.recipient(peer, Command::Get);
                self.refused_if_deleted(&got);
                self.check(&got);
            }
            6..=9 => self.acknowledge(peer),
            10 => {
                let got = self.recipient(peer, Command::Info);
                self.refused_if_deleted(&got);
            }
            11 if byte & 0x70 == 0x70 => {
                self.recipient(peer, Command::Off);
                self.model.off = true;
            }
            12 if byte & 0x70 == 0x70 => {
                self.recipient(peer, Command::Delete);
                self.model = Model {
                    deleted: true,
                    ..Model::default()
                };
            }
            13 => self.reconnect(peer),
            14 => {
                // The wrong key, of the right kind and of the other.
                let key = Some(1).filter(|_| !self.model.secured);
                let flags = MessageFlags::default();
                let got = self.sender(
                    peer,
                    key,
                    Command::Send {
                        flags,
                        body: b"forged",
                    },
                );
                assert!(matches!(got, Got::Refused(_)) || !self.model.secured && key.is_none());
                if got == Got::Done {
                    self.model.waiting.push_back(Some(b"forged".to_vec()));
                }
            }
            _ => {}
        }
        let other = 1 - peer;
        assert_eq!(self.peers[other].receive(&mut self.relay), None);
        for peer in 0..2 {
            for (id, sealed) in std::mem::take(&mut self.peers[peer].events) {
                self.check(&Got::Message(id, sealed));
            }
        }
    }

    fn refused_if_deleted(&self, got: &Got) {
        if self.model.deleted {
            assert_eq!(*got, Got::Refused(ErrorCode::Auth));
        }
    }

    fn send(&mut self, peer: usize, byte: u8) {
        let body = vec![byte; usize::from(byte >> 4) * 7];
        let key = Some(1).filter(|_| self.model.secured);
        let command = Command::Send {
            flags: MessageFlags::default(),
            body: &body,
        };
        let got = self.sender(peer, key, command);
        let waiting = &mut self.model.waiting;
        if self.model.off || self.model.deleted {
            assert_eq!(got, Got::Refused(ErrorCode::Auth));
        } else if waiting.back() == Some(&None) {
            assert_eq!(got, Got::Refused(ErrorCode::Quota));
        } else if waiting.len() >= LIMITS.messages {
            assert_eq!(got, Got::Refused(ErrorCode::Quota));
            waiting.push_back(None);
        } else {
            assert_eq!(got, Got::Done);
            waiting.push_back(Some(body));
        }
    }

    fn secure(&mut self, peer: usize, can_secure: bool) {
        let key = self.keys[1].public_key();
        let got = self.sender(peer, Some(1), Command::SenderKey(key));
        let may = can_secure && !self.model.off && !self.model.deleted;
        assert_eq!(got == Got::Done, may);
        self.model.secured |= may;
    }

    /// Acknowledges without naming; if it succeeds the first message is gone.
    fn acknowledge(&mut self, peer: usize) {
        let got = self.recipient(peer, Command::Ack(None));
        match got {
            Got::Refused(code) => {
                let expected = if self.model.deleted {
                    ErrorCode::Auth
                } else {
                    ErrorCode::NoMessage
                };
                assert_eq!(code, expected);
            }
            Got::Done | Got::Message(..) => {
                // The other connection may have acknowledged the same message already: then the
                // queue has fewer. It never has more, nor others.
                self.model.waiting = self.rest();
                self.check(&got);
            }
            Got::Ids(_) => panic!("ids for ACK"),
        }
    }

    /// What is still in the queue must be a tail of what was.
    fn rest(&mut self) -> VecDeque<Option<Vec<u8>>> {
        let left = self.relay.waiting(&self.ids.recipient);
        let before = self.model.waiting.len();
        assert!(left.len() <= before && left.len() + 1 >= before);
        assert!(
            self.model
                .waiting
                .iter()
                .skip(before - left.len())
                .eq(&left)
        );
        left
    }

    /// Whatever is delivered is the first message.
    fn check(&self, got: &Got) {
        let Got::Message(id, sealed) = got else {
            return;
        };
        let opened = self.delivery.open(id, sealed).unwrap();
        let body = match opened.content() {
            Delivered::Message { body, .. } => Some(body),
            Delivered::QuotaReached { .. } => None,
        };
        let first = self.model.waiting.front().expect("nothing to deliver");
        assert_eq!(first.as_deref(), body);
    }

    fn reconnect(&mut self, peer: usize) {
        let number = self.peers[peer].number;
        self.relay.disconnect(number);
        // A number is never used again.
        self.peers[peer] = Peer::connect(number + 2, &mut self.relay);
    }
}
