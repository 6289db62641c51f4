//! In steady state a message passes the relay's core without an allocation (design, budget of the
//! relay): opening blocks, verifying, the queue, encrypting to the recipient, sealing blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use junto_crypto::{ed25519, x25519};
use junto_smp::{
    block::{Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Event as ClientEvent, Incoming, Options, Request},
    command::{Command, NewMode, NewQueue},
    hello::LeafKey,
    id::{Entity, MessageId, RecipientId, SenderId},
    key::AuthSecret,
    message::{BODY_BYTES_MAX, MessageFlags, Timestamp},
    queue::{ConnectionId, Context, Credential, Event, Limits, Queue},
    response::Response,
    server::{Connection, Handshake, Identity},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

/// The relay's side of a connection, and its one queue.
struct Relay {
    connection: Connection,
    queue: Queue,
    outgoing: OutgoingBlock,
    rng: ChaCha20Rng,
    /// What the relay's store would hand out for a body.
    stored: Bytes,
}

impl Relay {
    /// Takes a block; copies the answer into `answer` and an event, if any, into `event`.
    fn serve(&mut self, block: &mut Block, answer: &mut Block, event: &mut Block) -> bool {
        let Connection { requests, replies } = &mut self.connection;
        let context = Context {
            connection: ConnectionId(1),
            now: Timestamp(1),
            limits: Limits::default(),
        };
        let mut notify = None;
        for request in requests.open(block).unwrap() {
            let request = request.unwrap();
            let credential = self.queue.credential(request.command());
            let command = requests.authorise(request, &credential).unwrap();
            let outcome = self
                .queue
                .handle(&command, &context, &mut self.rng, |_| self.stored.clone());
            let (correlation, entity) = (command.correlation(), command.entity());
            replies
                .push_answer(&mut self.outgoing, &correlation, entity, &outcome.answer)
                .unwrap();
            notify = notify.or(outcome.notify);
        }
        answer.copy_from_slice(replies.seal(&mut self.outgoing).unwrap());
        let Some((_, Event::Message(delivery))) = notify else {
            return false;
        };
        replies
            .push_delivery(&mut self.outgoing, None, &delivery)
            .unwrap();
        event.copy_from_slice(replies.seal(&mut self.outgoing).unwrap());
        true
    }
}

/// The client of that connection.
struct Peer {
    client: Client<()>,
    outgoing: OutgoingBlock,
    rng: ChaCha20Rng,
    keys: (AuthSecret, AuthSecret),
    ids: (RecipientId, SenderId),
}

impl Peer {
    fn block(&mut self, command: Command<'_>, recipient: bool) -> Box<Block> {
        let (entity, key) = if recipient {
            (Entity::Queue(self.ids.0.as_bytes()), &self.keys.0)
        } else {
            (Entity::Queue(self.ids.1.as_bytes()), &self.keys.1)
        };
        let request = Request {
            entity,
            key: Some(key),
            command,
        };
        self.client
            .push(&mut self.outgoing, &request, (), &mut self.rng)
            .unwrap();
        Box::new(*self.client.seal(&mut self.outgoing).unwrap())
    }

    fn check_ok(&mut self, answer: &mut Block) {
        let mut replies = self.client.receive(answer).unwrap();
        let Some(Incoming::Reply { result, .. }) = replies.next() else {
            panic!("no answer");
        };
        assert_eq!(result, Ok(Response::Ok));
    }
}

fn pair() -> (Relay, Peer) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let leaf = ed25519::SigningKey::from_seed(&[2; 32]);
    let public = LeafKey::Ed25519(leaf.verifying_key());
    let identity = Identity::new(vec![b"leaf".to_vec(), b"ca".to_vec()], leaf).unwrap();
    let session = SessionId([3; 32]);
    let (mut hello, mut answer) = (new_block(), new_block());
    let handshake = Handshake::start(&identity, session, &mut rng, &mut hello).unwrap();
    let options = Options::new(identity.fingerprint());
    let mut client = Client::open(
        &options,
        session,
        &public,
        &mut hello,
        &mut answer,
        &mut rng,
    )
    .unwrap();
    let mut connection = handshake.finish(&identity, &mut answer).unwrap();
    let keys = (
        AuthSecret::generate(&mut rng),
        AuthSecret::generate(&mut rng),
    );
    let command = Command::New(Box::new(NewQueue {
        auth_key: keys.0.public_key(),
        dh_key: x25519::SecretKey::generate(&mut rng).public_key(),
        password: None,
        subscribe: true,
        mode: NewMode::Messaging(None),
        notifier: None,
    }));
    let mut outgoing = OutgoingBlock::new();
    let request = Request {
        entity: Entity::None,
        key: Some(&keys.0),
        command,
    };
    client.push(&mut outgoing, &request, (), &mut rng).unwrap();
    let mut block = Box::new(*client.seal(&mut outgoing).unwrap());
    let request = connection.requests.open(&mut block).unwrap().next();
    let request = request.unwrap().unwrap();
    let credential = Credential::without_queue(request.command());
    let command = connection.requests.authorise(request, &credential).unwrap();
    let context = Context {
        connection: ConnectionId(1),
        now: Timestamp(1),
        limits: Limits::default(),
    };
    let (queue, ids) = Queue::create(&command, &context, &mut rng, Bytes::copy_from_slice).unwrap();
    let relay = Relay {
        connection,
        queue,
        outgoing: OutgoingBlock::new(),
        rng: ChaCha20Rng::seed_from_u64(2),
        stored: Bytes::from(vec![5; BODY_BYTES_MAX]),
    };
    let peer = Peer {
        client,
        outgoing,
        rng,
        keys,
        ids: (ids.recipient, ids.sender),
    };
    (relay, peer)
}

#[test]
fn messages_pass_without_allocation() {
    let (mut relay, mut peer) = pair();
    let (mut answer, mut event) = (new_block(), new_block());
    let secure = Command::SenderKey(peer.keys.1.public_key());
    let mut block = peer.block(secure, false);
    relay.serve(&mut block, &mut answer, &mut event);
    peer.check_ok(&mut answer);
    let body = vec![7; BODY_BYTES_MAX];
    let flags = MessageFlags { notify: true };
    let mut allocated = 0;
    // The first rounds warm up: the ring takes its first slots.
    for round in 0..20 {
        let mut send = peer.block(Command::Send { flags, body: &body }, false);
        let mut delivered = false;
        let first = allocation_counter::measure(|| {
            delivered = relay.serve(&mut send, &mut answer, &mut event);
        });
        assert!(delivered);
        peer.check_ok(&mut answer);
        let mut incoming = peer.client.receive(&mut event).unwrap();
        let Some(Incoming::Event(ClientEvent::Message { id, .. })) = incoming.next() else {
            panic!("no message");
        };
        let mut acknowledge = peer.block(Command::Ack(Some(MessageId(id.0))), true);
        let second = allocation_counter::measure(|| {
            delivered = relay.serve(&mut acknowledge, &mut answer, &mut event);
        });
        assert!(!delivered);
        peer.check_ok(&mut answer);
        if round >= 2 {
            allocated += first.count_total + second.count_total;
        }
    }
    assert_eq!(allocated, 0);
}
