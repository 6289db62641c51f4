//! Relay-side cost of one message (SEND, its OK, MSG, ACK, its OK; each in a block of its own)
//! against its floor: the cryptography that the protocol demands and nothing else, in one run.
//!
//! `cargo bench -p junto-smp` prints a table; with `--json` one object.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use junto_crypto::{
    ed25519, kdf,
    secretbox::{BoxKey, Nonce},
    x25519,
};
use junto_smp::{
    block::{BLOCK_BYTES, Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Event as ClientEvent, Incoming, Options, Request},
    command::{Command, NewMode, NewQueue},
    hello::LeafKey,
    id::{Entity, MessageId},
    key::AuthSecret,
    message::{BODY_BYTES_MAX, MessageFlags, PADDED_BYTES, Timestamp},
    queue::{Answer, ConnectionId, Context, Event, Limits, Queue},
    response::Response,
    server::{Connection, Handshake, Identity},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

const CONNECTION: ConnectionId = ConnectionId(1);

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let rounds = 2_000;
    let floor = floor(rounds);
    let mut world = World::new();
    world.run(rounds / 10);
    let ours = world.run(rounds);
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(rounds);
    let (floor, ours) = (micros(floor), micros(ours));
    let per_second = 1e6 / ours;
    let share = 100.0 * floor / ours;
    if json {
        println!(
            r#"{{"floor_us":{floor:.1},"relay_us":{ours:.1},"messages_per_cpu_second":{per_second:.0},"floor_share_percent":{share:.0}}}"#
        );
    } else {
        println!("mandatory cryptography of one message  {floor:8.1} µs");
        println!("relay core, one message                {ours:8.1} µs");
        println!("messages per CPU second                {per_second:8.0}");
        println!("floor / ours                           {share:8.0} %");
    }
}

/// Five block keys and block encryptions, the encryption to the recipient, two signatures.
fn floor(rounds: u32) -> Duration {
    let signing = ed25519::SigningKey::from_seed(&[1; 32]);
    let public = signing.verifying_key();
    let large = vec![7; BODY_BYTES_MAX + 100];
    let small = vec![7; 120];
    let signatures = [
        (&large, signing.sign(&large)),
        (&small, signing.sign(&small)),
    ];
    let mut block = new_block();
    let queue_key = BoxKey::from_symmetric(&[9; 32]);
    let start = Instant::now();
    for _ in 0..rounds {
        for _ in 0..5 {
            let keys = kdf::hkdf_sha512::<88>(b"", &[3; 32], b"SimpleXSbChain");
            let key = BoxKey::from_symmetric(keys[32..64].try_into().unwrap());
            let nonce = Nonce(keys[64..].try_into().unwrap());
            black_box(key.seal_in_place(&nonce, &mut block[16..BLOCK_BYTES]));
        }
        black_box(queue_key.seal_in_place(&Nonce([4; 24]), &mut block[..PADDED_BYTES]));
        for (message, signature) in &signatures {
            public.verify(black_box(message), signature).unwrap();
        }
    }
    start.elapsed()
}

/// A client and the relay's side of its connection, with one queue.
struct World {
    client: Client<()>,
    server: Connection,
    queue: Queue,
    keys: (AuthSecret, AuthSecret),
    rng: ChaCha20Rng,
    to_server: OutgoingBlock,
    to_client: OutgoingBlock,
    relay: Duration,
}

impl World {
    fn new() -> Self {
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
        let mut server = handshake.finish(&identity, &mut answer).unwrap();
        let keys = (
            AuthSecret::generate(&mut rng),
            AuthSecret::generate(&mut rng),
        );
        let secret = x25519::SecretKey::generate(&mut rng);
        let new = NewQueue {
            auth_key: keys.0.public_key(),
            dh_key: secret.public_key(),
            password: None,
            subscribe: true,
            mode: NewMode::Messaging(None),
            notifier: None,
        };
        let mut to_server = OutgoingBlock::new();
        let request = Request {
            entity: Entity::None,
            key: Some(&keys.0),
            command: Command::New(Box::new(new)),
        };
        client.push(&mut to_server, &request, (), &mut rng).unwrap();
        let mut block = Box::new(*client.seal(&mut to_server).unwrap());
        let mut requests = server.requests.open(&mut block).unwrap();
        let request = requests.next().unwrap().unwrap();
        let credential = junto_smp::queue::Credential::without_queue(request.command());
        let command = server.requests.authorise(request, &credential).unwrap();
        let (queue, ids) =
            Queue::create(&command, &context(), &mut rng, Bytes::copy_from_slice).unwrap();
        let mut to_client = OutgoingBlock::new();
        let correlation = command.correlation();
        let entity = Entity::None;
        let ids = Response::Ids(ids);
        let replies = &mut server.replies;
        replies
            .push(&mut to_client, Some(&correlation), entity, &ids)
            .unwrap();
        let mut block = Box::new(*replies.seal(&mut to_client).unwrap());
        assert_eq!(client.receive(&mut block).unwrap().count(), 1);
        let mut world = Self {
            client,
            server,
            queue,
            keys,
            rng,
            to_server,
            to_client,
            relay: Duration::ZERO,
        };
        let secure = Command::SenderKey(world.keys.1.public_key());
        world.exchange(secure, false);
        world
    }

    fn run(&mut self, rounds: u32) -> Duration {
        let body = vec![5; BODY_BYTES_MAX];
        let flags = MessageFlags { notify: false };
        self.relay = Duration::ZERO;
        for _ in 0..rounds {
            let command = Command::Send { flags, body: &body };
            let id = self.exchange(command, false).expect("a message");
            assert!(self.exchange(Command::Ack(Some(id)), true).is_none());
        }
        self.relay
    }

    /// One command in a block, its answer in another, an event in a third; the time counts that the
    /// relay takes.
    fn exchange(&mut self, command: Command<'_>, recipient: bool) -> Option<MessageId> {
        let (recipient_id, sender_id) = (self.queue.recipient(), self.queue.sender());
        let (entity, key) = if recipient {
            (Entity::Queue(&recipient_id.0), &self.keys.0)
        } else {
            (Entity::Queue(&sender_id.0), &self.keys.1)
        };
        let request = Request {
            entity,
            key: Some(key),
            command,
        };
        self.client
            .push(&mut self.to_server, &request, (), &mut self.rng)
            .unwrap();
        let mut block = Box::new(*self.client.seal(&mut self.to_server).unwrap());
        let start = Instant::now();
        let event = self.serve(&mut block);
        let mut answer = Box::new(*self.server.replies.seal(&mut self.to_client).unwrap());
        let event = event.map(|event| {
            let entity = Entity::Queue(&recipient_id.0);
            self.server
                .replies
                .push_event(&mut self.to_client, entity, &event)
                .unwrap();
            Box::new(*self.server.replies.seal(&mut self.to_client).unwrap())
        });
        self.relay += start.elapsed();
        for incoming in self.client.receive(&mut answer).unwrap() {
            let Incoming::Reply { result, .. } = incoming else {
                panic!("no reply");
            };
            assert_eq!(result, Ok(Response::Ok));
        }
        let mut block = event?;
        match self.client.receive(&mut block).unwrap().next().unwrap() {
            Incoming::Event(ClientEvent::Message { id, .. }) => Some(id),
            other => panic!("{other:?}"),
        }
    }

    /// The relay: what its hot path does for a block.
    fn serve(&mut self, block: &mut Block) -> Option<Event<Bytes>> {
        let mut notify = None;
        for request in self.server.requests.open(block).unwrap() {
            let request = request.unwrap();
            let credential = self.queue.credential(request.command());
            let command = self
                .server
                .requests
                .authorise(request, &credential)
                .unwrap();
            let outcome =
                self.queue
                    .handle(&command, &context(), &mut self.rng, Bytes::copy_from_slice);
            assert!(matches!(outcome.answer, Answer::Ok));
            let (correlation, entity) = (command.correlation(), command.entity());
            self.server
                .replies
                .push_answer(&mut self.to_client, &correlation, entity, &outcome.answer)
                .unwrap();
            notify = outcome.notify.map(|(_, event)| event).or(notify);
        }
        notify
    }
}

fn context() -> Context {
    Context {
        connection: CONNECTION,
        now: Timestamp(1_800_000_000),
        limits: Limits::default(),
    }
}
