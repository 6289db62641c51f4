//! One queue under any sequence of commands, of clients and services, against a model: what was accepted
//! comes out once and in order, and nothing else does; a notification server hears of what waits.

use std::collections::VecDeque;

use junto_crypto::{ed25519, x25519};
use junto_smp::{
    block::{OutgoingBlock, new_block},
    client::{Client, Event, Incoming, Options, ReplyFault, Request, ServiceCredentials},
    command::{Command, NewMode, NewQueue},
    error::ErrorCode,
    hello::LeafKey,
    id::{Entity, MessageId, NotifierId, RecipientId},
    key::AuthSecret,
    message::{Delivered, DeliveryKey, MessageFlags},
    notification::{NotificationKey, NotificationNonce},
    response::{NotifierIds, QueueIds, Response},
    service::ServiceRole,
    version::Version,
};
use rand_chacha::ChaCha20Rng;

use super::server::{self, Certified, LEAF_SEED, LIMITS, Relay};
use crate::{input::Input, seeds};

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Done,
    Ids(QueueIds),
    NotifierIds(NotifierIds),
    Message(MessageId, Vec<u8>),
    Refused(ErrorCode),
}

struct Peer {
    number: u64,
    certified: Option<Certified>,
    client: Client<()>,
    rng: ChaCha20Rng,
    /// Messages that came by themselves.
    events: Vec<(MessageId, Vec<u8>)>,
    /// Notifications.
    told: Vec<(NotifierId, NotificationNonce, Vec<u8>)>,
}

impl Peer {
    fn connect(number: u64, certified: Option<Certified>, relay: &mut Relay) -> Self {
        let (mut hello, mut answer) = (new_block(), new_block());
        let handshake = relay.greet(number, &mut hello);
        let options = Options {
            encrypt: number.is_multiple_of(2),
            ..Options::new(relay.identity.fingerprint())
        };
        let leaf = LeafKey::Ed25519(ed25519::SigningKey::from_seed(&LEAF_SEED).verifying_key());
        let mut rng = seeds::rng(number + 10);
        let session = server::session(number);
        let (hello, reply) = (&mut hello, &mut answer);
        let client = match certified {
            None => {
                let client = Client::open(&options, session, &leaf, hello, reply, &mut rng);
                relay.accept(number, handshake, None, reply);
                client.unwrap()
            }
            Some(certified) => {
                let credentials = ServiceCredentials {
                    role: certified.role,
                    chain: certified.chain(),
                    leaf: Certified::leaf(),
                };
                let rng = &mut rng;
                let applying =
                    Client::open_service(&options, &credentials, session, &leaf, hello, reply, rng);
                relay.accept(number, handshake, Some(&certified.shown()), reply);
                applying.unwrap().accepted(reply).unwrap()
            }
        };
        assert_eq!(client.version(), Version::MAX);
        assert_eq!(client.service(), certified.map(|own| own.service().id));
        Self {
            number,
            certified,
            client,
            rng,
            events: Vec::new(),
            told: Vec::new(),
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
                            Ok(Response::NotifierIds(ids)) => Got::NotifierIds(ids),
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
                    Incoming::Event(Event::Notification {
                        notifier,
                        nonce,
                        sealed,
                    }) => self.told.push((notifier, nonce, sealed.to_vec())),
                    Incoming::Event(Event::End(_) | Event::Deleted(_)) => {}
                    Incoming::Event(Event::AllDelivered | Event::ServiceEnd(_)) => {
                        assert!(self.certified.is_some(), "no service asked");
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
    /// Two who own the queue and send, and a notification server.
    peers: [Peer; 3],
    keys: [AuthSecret; 2],
    ids: QueueIds,
    delivery: DeliveryKey,
    /// The queue's notifier, and how its notifications open.
    notifier: Option<(NotifierId, NotificationKey)>,
    model: Model,
}

/// The notification server.
const SERVER: usize = 2;

/// A queue made by a client or service, and what one byte of input says next.
pub(crate) fn queue(bytes: &[u8]) {
    let mut input = Input(bytes);
    let first = input.u8();
    let mode = match first % 3 {
        0 => NewMode::Messaging(None),
        1 => NewMode::Contact(None),
        _ => NewMode::Unspecified,
    };
    let mut world = World::new(mode, first / 3);
    let can_secure = matches!(mode, NewMode::Messaging(_));
    while !input.is_empty() {
        world.act(input.u8(), can_secure);
    }
}

/// Which of the three are services, and whether the first two are two of them.
fn certified(who: u8) -> [Option<Certified>; 3] {
    let other = u8::from(who & 8 != 0);
    let roles = [
        (ServiceRole::Messaging, 0),
        (ServiceRole::Messaging, other),
        (ServiceRole::Notifier, 0),
    ];
    [0, 1, SERVER].map(|peer| {
        let (role, number) = roles[peer];
        (who >> peer & 1 != 0).then_some(Certified { role, number })
    })
}

impl World {
    fn new(mode: NewMode<'_>, who: u8) -> Self {
        let mut relay = Relay::new();
        let certified = certified(who);
        let mut peers = [0, 1, SERVER].map(|peer| {
            let number = u64::try_from(peer).expect("one of three");
            Peer::connect(number, certified[peer], &mut relay)
        });
        let keys = [
            AuthSecret::Ed25519(server::signer()),
            AuthSecret::X25519(x25519::SecretKey::from_bytes(&[33; 32])),
        ];
        let secret = x25519::SecretKey::from_bytes(&[44; 32]);
        let new = NewQueue {
            auth_key: keys[0].public_key(),
            dh_key: secret.public_key(),
            password: None,
            // A service reads what it makes.
            subscribe: certified[0].is_some(),
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
            notifier: None,
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
                self.notifier = None;
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
            15 => self.serve(peer, byte >> 4 & 7),
            _ => {}
        }
        for peer in 0..self.peers.len() {
            assert_eq!(self.peers[peer].receive(&mut self.relay), None);
            for (id, sealed) in std::mem::take(&mut self.peers[peer].events) {
                assert_ne!(peer, SERVER, "it owns no queue");
                self.check(&Got::Message(id, sealed));
            }
            for (notifier, nonce, sealed) in std::mem::take(&mut self.peers[peer].told) {
                assert_eq!(peer, SERVER, "nobody else asked for it");
                let (id, key) = self.notifier.as_ref().expect("there is a notifier");
                assert_eq!(notifier, *id);
                let opened = key.open(&nonce, &sealed).unwrap();
                let waiting = self.relay.notifiable(&self.ids.recipient);
                assert!(waiting.contains(&opened.message));
            }
        }
    }

    /// What services do, and the notification server.
    fn serve(&mut self, peer: usize, what: u8) {
        match what {
            0 | 1 => self.subscribe_all(peer, Command::ServiceSub(None)),
            2 => {
                let secret = x25519::SecretKey::from_bytes(&[55; 32]);
                let set = Command::SetNotifier {
                    auth_key: self.keys[1].public_key(),
                    dh_key: secret.public_key(),
                };
                let got = self.recipient(peer, set);
                self.refused_if_deleted(&got);
                if let Got::NotifierIds(ids) = got {
                    let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
                    self.notifier = Some((ids.id, NotificationKey::new(&shared)));
                }
            }
            3 => {
                let got = self.recipient(peer, Command::DeleteNotifier);
                self.refused_if_deleted(&got);
                if got == Got::Done {
                    self.notifier = None;
                }
            }
            4 => {
                let id = self.notifier.as_ref().map_or([0; 24], |(id, _)| id.0);
                let request = Request {
                    entity: Entity::Queue(&id),
                    key: Some(&self.keys[1]),
                    command: Command::NotifierSub,
                };
                let got = self.peers[SERVER].ask(&mut self.relay, &request);
                assert_eq!(got == Got::Done, self.notifier.is_some());
            }
            5 => self.subscribe_all(SERVER, Command::NotifierServiceSub(None)),
            6 => self.reconnect(SERVER),
            _ => {}
        }
    }

    fn subscribe_all(&mut self, peer: usize, command: Command<'_>) {
        let Some(certified) = self.peers[peer].certified else {
            return;
        };
        let request = Request {
            entity: Entity::Queue(&certified.service().id.0),
            key: None,
            command,
        };
        let got = self.peers[peer].ask(&mut self.relay, &request);
        assert_eq!(got, Got::Done);
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
            flags: MessageFlags {
                notify: byte & 1 == 1,
            },
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
            Got::Ids(_) | Got::NotifierIds(_) => panic!("ids for ACK"),
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
        let Peer {
            number, certified, ..
        } = self.peers[peer];
        self.relay.disconnect(number);
        // A number is never used again.
        self.peers[peer] = Peer::connect(number + 3, certified, &mut self.relay);
    }
}
