//! A relay of a few lines around the server half, on plain blocks.
//!
//! Commands need signatures, which no fuzzer invents. All queues here have the key [`signer`], and
//! [`sign_all`] puts its signature wherever a transmission has room for one, so the fuzzer chooses
//! what is signed.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use junto_crypto::{ed25519, pad, x25519};
use junto_smp::{
    block::{Batch, Block, BlockChain, BlockFull, OutgoingBlock, Protection, SessionId, new_block},
    command::{Command, Party, QueueMode},
    error::ErrorCode,
    hello::ClientHello,
    id::{Entity, RecipientId, SenderId},
    key::{AuthKey, AuthSecret},
    message::{DeliveryKey, Timestamp},
    queue::{Change, ConnectionId, Content, Context, Credential, Limits, Queue, QueueParts},
    response::Response,
    server::{Connection, Handshake, Identity, Refusal, ReplyWriter, Request, RequestReader},
    transmission::Transmission,
    version::Version,
};
use rand_chacha::ChaCha20Rng;

use super::plain;
use crate::{input::Input, seeds};

pub(crate) const LEAF_SEED: [u8; 32] = [11; 32];
/// The recipient id of the first queue; its sender id is this plus 0x80. The others follow.
pub(crate) const FIRST_QUEUE: u8 = 1;
pub(crate) const LIMITS: Limits = Limits {
    unused_days: None,
    messages: 4,
    retention_seconds: 1_000,
};

pub(crate) fn session(connection: u64) -> SessionId {
    SessionId([u8::try_from(connection).unwrap_or(0xff); 32])
}

pub(crate) fn identity() -> Identity {
    let chain = vec![b"leaf".to_vec(), b"identity".to_vec()];
    Identity::new(chain, ed25519::SigningKey::from_seed(&LEAF_SEED)).unwrap()
}

/// The key of every queue's recipient.
pub(crate) fn signer() -> ed25519::SigningKey {
    ed25519::SigningKey::from_seed(&[22; 32])
}

/// The receiving end of a connection with block encryption.
pub(crate) fn chain() -> Protection {
    let secret = x25519::SecretKey::from_bytes(&[1; 32]);
    let peer = x25519::SecretKey::from_bytes(&[2; 32]).public_key();
    let shared = secret.diffie_hellman(&peer).unwrap();
    Protection::Sealed(BlockChain::pair(&session(0), &shared).1)
}

struct Peer {
    requests: RequestReader,
    replies: ReplyWriter,
    outgoing: OutgoingBlock,
    sent: Vec<Box<Block>>,
}

impl Peer {
    fn push(&mut self, push: impl Fn(&ReplyWriter, &mut OutgoingBlock) -> Result<(), BlockFull>) {
        if push(&self.replies, &mut self.outgoing).is_err() {
            self.flush();
            push(&self.replies, &mut self.outgoing).expect("an empty block takes everything");
        }
    }

    fn flush(&mut self) {
        if let Some(block) = self.replies.seal(&mut self.outgoing) {
            self.sent.push(Box::new(*block));
        }
    }
}

pub(crate) struct Relay {
    pub(crate) identity: Identity,
    pub(crate) now: Timestamp,
    rng: ChaCha20Rng,
    queues: BTreeMap<RecipientId, Queue>,
    senders: BTreeMap<SenderId, RecipientId>,
    peers: BTreeMap<u64, Peer>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self {
            identity: identity(),
            now: Timestamp(1_000_000),
            rng: seeds::rng(1),
            queues: BTreeMap::new(),
            senders: BTreeMap::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Queues with known names, one of each mode, the first one secured.
    pub(crate) fn add_queues(&mut self) {
        let modes = [Some(QueueMode::Messaging), Some(QueueMode::Contact), None];
        for (number, mode) in (FIRST_QUEUE..).zip(modes) {
            let key = AuthKey::Ed25519(signer().verifying_key());
            let (recipient, sender) = (RecipientId([number; 24]), SenderId([number + 0x80; 24]));
            let parts = QueueParts {
                recipient,
                sender,
                mode,
                recipient_key: key.clone(),
                sender_key: (number == FIRST_QUEUE).then_some(key),
                delivery_key: DeliveryKey::from_bytes(&[number; 32]),
                suspended: false,
            };
            self.senders.insert(sender, recipient);
            self.queues.insert(recipient, Queue::restore(parts));
        }
    }

    /// The hello for a new connection.
    pub(crate) fn greet(&mut self, connection: u64, block: &mut Block) -> Handshake {
        Handshake::start(&self.identity, session(connection), &mut self.rng, block).unwrap()
    }

    /// Takes the client's hello.
    pub(crate) fn accept(&mut self, connection: u64, handshake: Handshake, block: &mut Block) {
        let Connection { requests, replies } = handshake.finish(&self.identity, block).unwrap();
        let peer = Peer {
            requests,
            replies,
            outgoing: OutgoingBlock::new(),
            sent: Vec::new(),
        };
        self.peers.insert(connection, peer);
    }

    /// A connection of a client that encrypts nothing.
    pub(crate) fn connect_plain(&mut self, connection: u64, version: Version) {
        let mut block = new_block();
        let handshake = self.greet(connection, &mut block);
        ClientHello {
            version,
            identity: self.identity.fingerprint(),
            key: None,
            proxy: false,
            service: None,
        }
        .encode(&mut block)
        .unwrap();
        self.accept(connection, handshake, &mut block);
    }

    pub(crate) fn disconnect(&mut self, connection: u64) {
        self.peers.remove(&connection);
        for queue in self.queues.values_mut() {
            queue.disconnect(ConnectionId(connection));
        }
    }

    /// Takes one block; `false` if the connection must end.
    pub(crate) fn block(&mut self, connection: u64, block: &mut Block) -> bool {
        let Some(mut peer) = self.peers.remove(&connection) else {
            return false;
        };
        let alive = match peer.requests.open(block) {
            Ok(requests) => {
                for request in requests.collect::<Vec<_>>() {
                    match request {
                        Ok(request) => self.request(connection, &mut peer, request),
                        Err(refusal) => peer.push(|w, b| w.push_refusal(b, &refusal)),
                    }
                }
                true
            }
            Err(fault) => {
                peer.push(|w, b| w.push_refusal(b, &Refusal::BLOCK));
                !fault.is_fatal()
            }
        };
        peer.flush();
        self.peers.insert(connection, peer);
        alive
    }

    fn request(&mut self, connection: u64, peer: &mut Peer, request: Request<'_>) {
        let id = request.queue_id();
        let recipient = match request.party() {
            Party::Recipient => id.map(|id| RecipientId(*id)),
            Party::Sender => id.and_then(|id| self.senders.get(&SenderId(*id)).copied()),
            Party::LinkReader => self.find(id, |queue| Some(queue.link()?.id().0)),
            Party::Notifier => self.find(id, |queue| Some(queue.notifier()?.id().0)),
            Party::Creator | Party::Service | Party::Nobody => None,
        };
        let queue = recipient.and_then(|recipient| self.queues.get_mut(&recipient));
        let credential = match &queue {
            Some(queue) => queue.credential(request.command()),
            None => Credential::without_queue(request.command()),
        };
        let command = match peer.requests.authorise(request, &credential) {
            Ok(command) => command,
            Err(refusal) => return peer.push(|w, b| w.push_refusal(b, &refusal)),
        };
        let context = Context {
            connection: ConnectionId(connection),
            now: self.now,
            limits: LIMITS,
        };
        let (correlation, entity) = (command.correlation(), command.entity());
        let Some(queue) = queue else {
            let response = match command.command() {
                Command::Ping => Response::Pong,
                Command::Resolve(_) => Response::Error(ErrorCode::Name),
                _ => match Queue::create(&command, &context, &mut self.rng, Bytes::copy_from_slice)
                {
                    Ok((queue, ids)) => {
                        self.senders.insert(ids.sender, ids.recipient);
                        self.queues.insert(ids.recipient, queue);
                        Response::Ids(ids)
                    }
                    Err(code) => Response::Error(code),
                },
            };
            return peer.push(|w, b| w.push(b, Some(&correlation), entity, &response));
        };
        let outcome = queue.handle(&command, &context, &mut self.rng, Bytes::copy_from_slice);
        assert!(queue.messages().len() <= LIMITS.messages + 1);
        let recipient = queue.recipient();
        if outcome.change == Some(Change::Deleted) {
            self.senders.remove(&queue.sender());
            self.queues.remove(&recipient);
        }
        peer.push(|w, b| w.push_answer(b, &correlation, entity, &outcome.answer));
        if let Some(delivery) = &outcome.then {
            peer.push(|w, b| w.push_delivery(b, None, delivery));
        }
        if let Some(alert) = &outcome.alert {
            peer.push(|w, b| w.push_alert(b, alert));
        }
        if let Some((to, news)) = &outcome.notify_notifier {
            if to.0 == connection {
                peer.push(|w, b| w.push_notifier_news(b, news));
            } else if let Some(other) = self.peers.get_mut(&to.0) {
                other.push(|w, b| w.push_notifier_news(b, news));
                other.flush();
            } else {
                panic!("news for a connection that is gone");
            }
        }
        if let Some((to, event)) = &outcome.notify {
            let entity = Entity::Queue(&recipient.0);
            if to.0 == connection {
                peer.push(|w, b| w.push_event(b, entity, event));
            } else if let Some(other) = self.peers.get_mut(&to.0) {
                other.push(|w, b| w.push_event(b, entity, event));
                other.flush();
            } else {
                panic!("news for a connection that is gone");
            }
        }
    }

    /// The queue with this name.
    fn find(
        &self,
        id: Option<&[u8; 24]>,
        name: impl Fn(&Queue) -> Option<[u8; 24]>,
    ) -> Option<RecipientId> {
        let named = |queue: &&Queue| id.is_some() && name(queue).as_ref() == id;
        self.queues.values().find(named).map(Queue::recipient)
    }

    /// What waits in a queue, `None` for the marker of a full queue.
    pub(crate) fn waiting(&self, recipient: &RecipientId) -> VecDeque<Option<Vec<u8>>> {
        let queue = self.queues.get(recipient);
        let messages = queue.into_iter().flat_map(Queue::messages);
        messages
            .map(|message| match &message.content {
                Content::Body { body, .. } => Some(body.to_vec()),
                Content::QuotaReached => None,
            })
            .collect()
    }

    /// Blocks on their way to that client.
    pub(crate) fn take_sent(&mut self, connection: u64) -> Vec<Box<Block>> {
        let peer = self.peers.get_mut(&connection);
        peer.map_or_else(Vec::new, |peer| std::mem::take(&mut peer.sent))
    }
}

/// Puts the signature of [`signer`] into every transmission of `text` that has room for one.
fn sign_all(text: &mut [u8], version: Version, session: &SessionId) {
    let Ok(batch) = Batch::parse(text) else {
        return;
    };
    let head = 1 + 64 + usize::from(version.has_services());
    for transmission in batch {
        if transmission.first() == Some(&64) && transmission.len() >= head {
            let signed = [&[32][..], &session.0, &transmission[head..]].concat();
            transmission[1..65].copy_from_slice(&signer().sign(&signed).0);
        }
    }
}

/// Everything that our server says, our client understands.
fn check_replies(block: &mut Block, version: Version, session: &SessionId) {
    assert_eq!(
        pad::unpad(block.as_slice()).map(<[u8]>::is_empty),
        Ok(false)
    );
    let text = Protection::Plain.open(block).unwrap();
    for bytes in Batch::parse(text).unwrap() {
        let transmission = Transmission::decode(bytes, version, session).unwrap();
        assert!(transmission.authorization.is_none());
        let response = Response::decode(transmission.content, version).unwrap();
        response.check_entity(transmission.entity).unwrap();
        let asked = transmission.correlation.is_some();
        let event = matches!(
            response,
            Response::End
                | Response::Deleted
                | Response::Message { .. }
                | Response::Notification { .. }
                | Response::Error(_)
        );
        assert!(asked || event, "an answer to nobody: {response:?}");
    }
}

/// Blocks of two clients. Each piece: connection and passing time, then the text of a block.
pub(crate) fn server(bytes: &[u8]) {
    let mut input = Input(bytes);
    let version = Version::ALL[usize::from(input.u8()) % Version::ALL.len()];
    let mut relay = Relay::new();
    relay.add_queues();
    for connection in 0..2 {
        relay.connect_plain(connection, version);
    }
    while !input.is_empty() {
        let what = input.u8();
        let connection = u64::from(what & 1);
        relay.now.0 += u64::from(what >> 2);
        let mut text = input.piece().to_vec();
        if what & 2 == 0 {
            sign_all(&mut text, version, &session(connection));
        }
        if !relay.block(connection, &mut plain(&text)) {
            relay.disconnect(connection);
            relay.connect_plain(connection, version);
        }
        for connection in 0..2 {
            for mut block in relay.take_sent(connection) {
                check_replies(&mut block, version, &session(connection));
            }
        }
    }
}

/// For seeds: a transmission signed by nobody yet.
pub(crate) fn unsigned(
    version: Version,
    correlation: u8,
    entity: &[u8],
    command: &Command<'_>,
) -> Vec<u8> {
    super::written(|writer| {
        writer.short(&[0; 64]);
        if version.has_services() {
            writer.u8(b'0');
        }
        writer.short(&[correlation; 24]);
        writer.short(entity);
        command.encode(writer, version);
    })
}

/// For seeds: the key of every queue as a client has it.
pub(crate) fn secret() -> AuthSecret {
    AuthSecret::Ed25519(signer())
}
