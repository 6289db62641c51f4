//! Sender, proxy and destination, without a network: what goes in comes out, and nobody in between
//! can change, read or answer it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use bytes::Bytes;
use junto_crypto::{pad, secretbox::BoxKey, x25519};
use junto_smp::{
    address::Fingerprint,
    block::{Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Incoming, Options, RejectReason, ReplyFault, Request},
    command::{Command, NewMode, NewQueue, QueueMode},
    error::{ErrorCode, ProxyFault},
    hello::ServerHello,
    id::{CorrelationId, Entity},
    key::{AuthKey, AuthSecret},
    message::{BODY_BYTES_MAX, DeliveryKey, MessageFlags, Timestamp},
    proxy::{Destination, FORWARDED_BOX_BYTES, Forward, Introduction},
    queue::{ConnectionId, Context, Credential, Limits, Queue, QueueParts},
    response::Response,
    server::{Connection, Forwarded, Handshake},
    version::{Version, VersionRange},
};
use proptest::prelude::*;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use support::{identity, leaf};

const QUEUE: [u8; 24] = [2; 24];

/// One client with one server, both halves.
struct Line {
    client: Client<u32>,
    server: Connection,
    outgoing: OutgoingBlock,
    introduction: Introduction,
}

impl Line {
    fn new(options: &Options, session: u8, rng: &mut ChaCha20Rng) -> Self {
        let identity = identity(VersionRange::SUPPORTED);
        let session = SessionId([session; 32]);
        let (mut hello, mut answer) = (new_block(), new_block());
        let handshake = Handshake::start(&identity, session, rng, &mut hello).unwrap();
        let options = Options {
            identity: identity.fingerprint(),
            ..*options
        };
        let client =
            Client::open(&options, session, &leaf(), &mut hello, &mut answer, rng).unwrap();
        let said = ServerHello::decode(pad::unpad(&*hello).unwrap()).unwrap();
        let introduction = Introduction::new(&said).unwrap();
        let server = handshake.finish(&identity, &mut answer).unwrap();
        Self {
            client,
            server,
            outgoing: OutgoingBlock::new(),
            introduction,
        }
    }

    /// What the client has to send.
    fn sealed(&mut self) -> Box<Block> {
        Box::new(*self.client.seal(&mut self.outgoing).unwrap())
    }
}

struct World {
    rng: ChaCha20Rng,
    /// Sender and proxy.
    near: Line,
    /// Proxy and destination.
    far: Line,
    queue: Queue<Bytes>,
}

fn any_identity() -> Fingerprint {
    Fingerprint([0; 32])
}

impl World {
    fn new(seed: u64, near: Version, far: Version, sender_key: Option<AuthKey>) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let sender = Options {
            versions: VersionRange::only(near),
            ..Options::new(any_identity())
        };
        let proxy = Options {
            versions: VersionRange::only(far),
            ..Options::proxy(any_identity())
        };
        let queue = Queue::restore(QueueParts {
            recipient: junto_smp::id::RecipientId([1; 24]),
            sender: junto_smp::id::SenderId(QUEUE),
            mode: Some(QueueMode::Messaging),
            recipient_key: AuthSecret::generate(&mut rng).public_key(),
            sender_key,
            delivery_key: DeliveryKey::from_bytes(&[6; 32]),
            suspended: false,
        });
        Self {
            near: Line::new(&sender, 1, &mut rng),
            far: Line::new(&proxy, 2, &mut rng),
            queue,
            rng,
        }
    }

    fn destination(&self) -> Destination {
        let pin = identity(VersionRange::SUPPORTED).fingerprint();
        let answer = self.far.introduction.answer();
        Destination::verify(&answer, pin, &leaf(), VersionRange::SUPPORTED).unwrap()
    }

    /// The sender seals `request`; the proxy opens its block.
    fn sent(&mut self, request: &Request<'_>) -> Passing {
        let destination = self.destination();
        let near = &mut self.near;
        near.client
            .push_forwarded(&mut near.outgoing, &destination, request, 7, &mut self.rng)
            .unwrap();
        let mut block = near.sealed();
        let mut requests = near.server.requests.open(&mut block).unwrap();
        let request = requests.next().unwrap().unwrap();
        assert!(requests.next().is_none());
        assert_eq!(request.entity(), Entity::Other(&destination.session().0));
        let Command::ProxyForward(forward) = request.command() else {
            panic!("{:?}", request.command());
        };
        Passing {
            correlation: request.correlation(),
            version: forward.version,
            key: forward.key,
            sealed: forward.sealed.to_vec(),
        }
    }

    /// The proxy passes it on; gives the destination's block with the answer.
    fn relayed(&mut self, passing: &Passing) -> Box<Block> {
        let far = &mut self.far;
        far.client
            .push_relayed(
                &mut far.outgoing,
                &passing.correlation,
                &passing.forward(),
                8,
                &mut self.rng,
            )
            .unwrap();
        let mut block = far.sealed();
        let Connection { requests, replies } = &mut far.server;
        let batch: Vec<_> = requests.open(&mut block).unwrap().collect();
        for request in batch {
            let request = request.unwrap();
            let command = requests.authorise(request, &Credential::Open).unwrap();
            let Command::RelayForward(sealed) = command.command() else {
                panic!("{:?}", command.command());
            };
            let mut room = new_block();
            let correlation = command.correlation();
            match requests.open_forwarded(correlation, sealed, &mut room) {
                Err(code) => replies
                    .push(
                        &mut far.outgoing,
                        Some(&correlation),
                        Entity::None,
                        &Response::Error(code),
                    )
                    .unwrap(),
                Ok(Forwarded { request, back }) => {
                    let (correlation, entity, code) = match request {
                        Err(refusal) => (refusal.correlation, refusal.entity, Some(refusal.code)),
                        Ok(request) => {
                            let (correlation, entity) = (request.correlation(), request.entity());
                            let mine = request.queue_id() == Some(&QUEUE);
                            let credential = match mine {
                                true => self.queue.credential(request.command()),
                                false => Credential::Nobody,
                            };
                            let code = match requests.authorise(request, &credential) {
                                Err(refusal) => Some(refusal.code),
                                Ok(command) => {
                                    let context = Context {
                                        connection: ConnectionId(1),
                                        now: Timestamp(1_800_000_000),
                                        limits: Limits::default(),
                                    };
                                    let rng = &mut self.rng;
                                    let keep = Bytes::copy_from_slice;
                                    match self.queue.handle(&command, &context, rng, keep).answer {
                                        junto_smp::queue::Answer::Ok => None,
                                        junto_smp::queue::Answer::Error(code) => Some(code),
                                        other => panic!("{other:?}"),
                                    }
                                }
                            };
                            (Some(correlation), entity, code)
                        }
                    };
                    let response = code.map_or(Response::Ok, Response::Error);
                    replies
                        .push_forwarded(
                            &mut far.outgoing,
                            &back,
                            correlation.as_ref(),
                            entity,
                            &response,
                        )
                        .unwrap();
                }
            }
        }
        Box::new(*replies.seal(&mut far.outgoing).unwrap())
    }

    /// The proxy opens the destination's block.
    fn heard(&mut self, block: &mut Block) -> Result<Vec<u8>, ReplyFault> {
        let mut replies = self.far.client.receive(block).unwrap();
        let Some(Incoming::Reply { ticket: 8, result }) = replies.next() else {
            panic!("no answer");
        };
        result.map(|response| match response {
            Response::ProxyAnswer(sealed) => sealed.to_vec(),
            other => panic!("{other:?}"),
        })
    }

    /// The proxy answers the sender; gives what the sender makes of it.
    fn answered(
        &mut self,
        correlation: &CorrelationId,
        answer: Response<'_>,
    ) -> Result<(), ReplyFault> {
        let session = self.far.introduction.session();
        let near = &mut self.near;
        let entity = Entity::Other(&session.0);
        let replies = &mut near.server.replies;
        replies
            .push(&mut near.outgoing, Some(correlation), entity, &answer)
            .unwrap();
        let mut block = Box::new(*replies.seal(&mut near.outgoing).unwrap());
        let mut replies = near.client.receive(&mut block).unwrap();
        let Some(Incoming::Reply { ticket: 7, result }) = replies.next() else {
            panic!("no answer");
        };
        result.map(|response| assert_eq!(response, Response::Ok))
    }

    /// All the way and back.
    fn round(&mut self, request: &Request<'_>) -> Result<(), ReplyFault> {
        let passing = self.sent(request);
        let mut block = self.relayed(&passing);
        let sealed = self.heard(&mut block).unwrap();
        self.answered(&passing.correlation, Response::ProxyAnswer(&sealed))
    }

    fn last_body(&self) -> Vec<u8> {
        let message = self.queue.messages().last().unwrap();
        match &message.content {
            junto_smp::queue::Content::Body { body, .. } => body.to_vec(),
            junto_smp::queue::Content::QuotaReached => panic!("quota"),
        }
    }
}

/// What the proxy holds between its two connections.
struct Passing {
    correlation: CorrelationId,
    version: u16,
    key: x25519::PublicKey,
    sealed: Vec<u8>,
}

impl Passing {
    fn forward(&self) -> Forward<'_> {
        Forward {
            version: self.version,
            key: self.key,
            sealed: &self.sealed,
        }
    }
}

fn send<'a>(key: Option<&'a AuthSecret>, body: &'a [u8]) -> Request<'a> {
    let flags = MessageFlags::default();
    Request {
        entity: Entity::Queue(&QUEUE),
        key,
        command: Command::Send { flags, body },
    }
}

fn secret(kind: u8) -> Option<AuthSecret> {
    let mut rng = ChaCha20Rng::seed_from_u64(77);
    match kind {
        0 => None,
        1 => Some(AuthSecret::generate(&mut rng)),
        _ => Some(AuthSecret::X25519(x25519::SecretKey::generate(&mut rng))),
    }
}

fn version() -> impl Strategy<Value = Version> {
    proptest::sample::select(Version::ALL.as_slice())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn messages_arrive_whatever_each_side_speaks(
        seed in any::<u64>(),
        (near, far) in (version(), version()),
        kind in 0u8..3,
        lengths in prop::collection::vec(0..=BODY_BYTES_MAX, 1..4),
    ) {
        let key = secret(kind);
        let mut world = World::new(seed, near, far, key.as_ref().map(AuthSecret::public_key));
        for (number, length) in lengths.into_iter().chain([BODY_BYTES_MAX]).enumerate() {
            let body = vec![u8::try_from(number).unwrap(); length];
            prop_assert_eq!(world.round(&send(key.as_ref(), &body)), Ok(()));
            prop_assert_eq!(world.last_body(), body);
        }
        // Wrong, or none where one is due.
        let wrong = AuthSecret::generate(&mut world.rng);
        let refused = Err(ReplyFault::Refused(ErrorCode::Auth));
        prop_assert_eq!(world.round(&send(Some(&wrong), b"x")), refused);
        if kind > 0 {
            prop_assert_eq!(world.round(&send(None, b"x")), refused);
        }
        prop_assert_eq!(world.near.client.in_flight(), 0);
        prop_assert_eq!(world.far.client.in_flight(), 0);
    }

    /// To the proxy, all commands are of one length, and so are all answers.
    #[test]
    fn lengths_tell_the_proxy_nothing(kind in 0u8..3, length in 0..=BODY_BYTES_MAX) {
        let key = secret(kind);
        let mut world = World::new(1, Version::MAX, Version::MAX, None);
        let body = vec![0; length];
        let passing = world.sent(&send(key.as_ref(), &body));
        prop_assert_eq!(passing.sealed.len(), FORWARDED_BOX_BYTES);
        let mut block = world.relayed(&passing);
        prop_assert_eq!(world.heard(&mut block).unwrap().len(), FORWARDED_BOX_BYTES);
    }

    /// A proxy that changes a bit anywhere is noticed by the destination or the sender.
    #[test]
    fn a_proxy_cannot_change_what_it_carries(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut world = World::new(1, Version::MAX, Version::MAX, None);
        let mut passing = world.sent(&send(None, b"message"));
        let at = at.index(passing.sealed.len());
        passing.sealed[at] ^= 1 << bit;
        let mut block = world.relayed(&passing);
        prop_assert_eq!(world.heard(&mut block), Err(ReplyFault::Refused(ErrorCode::Crypto)));
        prop_assert_eq!(world.queue.messages().len(), 0);

        let passing = world.sent(&send(None, b"message"));
        let mut block = world.relayed(&passing);
        let mut sealed = world.heard(&mut block).unwrap();
        sealed[at] ^= 1 << bit;
        let answer = world.answered(&passing.correlation, Response::ProxyAnswer(&sealed));
        prop_assert_eq!(answer, Err(ReplyFault::Unexpected));
    }

    #[test]
    fn forwarded_boxes_never_panic(
        sealed in prop::collection::vec(any::<u8>(), 0..400),
        version in any::<u16>(),
    ) {
        let mut world = World::new(1, Version::MAX, Version::MAX, None);
        let mut passing = world.sent(&send(None, b"message"));
        passing.sealed = sealed;
        passing.version = version;
        let mut block = world.relayed(&passing);
        let known = Version::new(version).is_some();
        let code = if known { ErrorCode::Crypto } else { ErrorCode::SYNTAX };
        prop_assert_eq!(world.heard(&mut block), Err(ReplyFault::Refused(code)));
    }
}

#[test]
fn a_proxy_cannot_answer_for_the_destination() {
    let mut world = World::new(1, Version::MAX, Version::MAX, None);
    // An error in clear is the proxy's.
    let passing = world.sent(&send(None, b"message"));
    let said = world.answered(&passing.correlation, Response::Error(ErrorCode::Auth));
    assert_eq!(said, Err(ReplyFault::Proxy(ErrorCode::Auth)));
    let passing = world.sent(&send(None, b"message"));
    let no_session = ErrorCode::Proxy(ProxyFault::NoSession);
    let said = world.answered(&passing.correlation, Response::Error(no_session));
    assert_eq!(said, Err(ReplyFault::Proxy(no_session)));
    // So is OK, which is no answer.
    let passing = world.sent(&send(None, b"message"));
    let said = world.answered(&passing.correlation, Response::Ok);
    assert_eq!(said, Err(ReplyFault::Unexpected));
    // The answer to one command is none to another, nor is the command itself.
    let first = world.sent(&send(None, b"first"));
    let mut block = world.relayed(&first);
    let answer = world.heard(&mut block).unwrap();
    let second = world.sent(&send(None, b"second"));
    let said = world.answered(&second.correlation, Response::ProxyAnswer(&answer));
    assert_eq!(said, Err(ReplyFault::Unexpected));
    let said = world.answered(&first.correlation, Response::ProxyAnswer(&second.sealed));
    assert_eq!(said, Err(ReplyFault::Unexpected));
}

#[test]
fn what_a_proxy_replays_to_another_connection_does_not_open() {
    let mut world = World::new(1, Version::MAX, Version::MAX, None);
    let passing = world.sent(&send(None, b"message"));
    // The destination's hello key was for the first connection only.
    let mut rng = ChaCha20Rng::seed_from_u64(9);
    world.far = Line::new(&Options::proxy(any_identity()), 3, &mut rng);
    let mut block = world.relayed(&passing);
    let said = world.heard(&mut block);
    assert_eq!(said, Err(ReplyFault::Refused(ErrorCode::Crypto)));
}

#[test]
fn only_what_senders_do_is_forwarded() {
    let mut world = World::new(1, Version::MAX, Version::MAX, None);
    let key = AuthSecret::generate(&mut world.rng);
    let new = Command::New(Box::new(NewQueue {
        auth_key: key.public_key(),
        dh_key: x25519::SecretKey::generate(&mut world.rng).public_key(),
        password: None,
        subscribe: true,
        mode: NewMode::Messaging(None),
        notifier: None,
    }));
    let queue = Entity::Queue(&QUEUE);
    let no_queue = Entity::None;
    for (entity, authorised, command) in [
        (queue, true, Command::Sub),
        (queue, true, Command::Key(key.public_key())),
        (queue, true, Command::Ack(None)),
        (queue, true, Command::Get),
        (queue, true, Command::Off),
        (queue, true, Command::Delete),
        (queue, true, Command::Info),
        (no_queue, true, new),
        (no_queue, false, Command::Ping),
        (no_queue, false, Command::RelayForward(&[0; 99])),
    ] {
        let name = format!("{command:?}");
        let request = Request {
            entity,
            key: Some(&key).filter(|_| authorised),
            command,
        };
        let refused = Err(ReplyFault::Refused(ErrorCode::PROHIBITED));
        assert_eq!(world.round(&request), refused, "{name}");
    }
    let secured = Request {
        entity: queue,
        key: Some(&key),
        command: Command::SenderKey(key.public_key()),
    };
    assert_eq!(world.round(&secured), Ok(()));
    assert_eq!(world.queue.sender_key(), Some(&key.public_key()));
}

#[test]
fn a_client_without_hello_key_cannot_pass_anything_on() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let plain = Options {
        encrypt: false,
        ..Options::new(any_identity())
    };
    let mut line = Line::new(&plain, 1, &mut rng);
    let forward = Forward {
        version: 17,
        key: x25519::SecretKey::generate(&mut rng).public_key(),
        sealed: &[0; 64],
    };
    let correlation = CorrelationId([1; 24]);
    let rejected = line
        .client
        .push_relayed(&mut line.outgoing, &correlation, &forward, 0, &mut rng)
        .unwrap_err();
    assert_eq!(rejected.reason, RejectReason::WeakKey);
    let mut room = new_block();
    let refused = line
        .server
        .requests
        .open_forwarded(correlation, &[0; 64], &mut room);
    let no_auth = junto_smp::error::TransportFault::NoAuth;
    let no_auth = junto_smp::error::BrokerFault::Transport(no_auth);
    let no_auth = ErrorCode::Proxy(ProxyFault::Broker(no_auth));
    assert_eq!(refused.err(), Some(no_auth));
}

/// A sender may leave before its answer comes; the proxy forgets it and goes on.
#[test]
fn what_was_given_up_is_answered_as_a_stray() {
    let mut world = World::new(1, Version::MAX, Version::MAX, None);
    let passing = world.sent(&send(None, b"1"));
    let mut block = world.relayed(&passing);
    let client = &mut world.far.client;
    assert_eq!(client.give_up(|ticket| *ticket != 8), 0);
    assert_eq!(client.in_flight(), 1);
    assert_eq!(client.give_up(|ticket| *ticket == 8), 1);
    assert_eq!(client.in_flight(), 0);
    let mut incoming = client.receive(&mut block).unwrap();
    assert!(matches!(incoming.next(), Some(Incoming::Stray)));
    assert!(incoming.next().is_none());
    let passing = world.sent(&send(None, b"2"));
    let mut block = world.relayed(&passing);
    let mut incoming = world.far.client.receive(&mut block).unwrap();
    assert!(matches!(
        incoming.next(),
        Some(Incoming::Reply { ticket: 8, .. })
    ));
}

/// Several small boxes in one block, as other implementations may send them.
#[test]
fn several_forwards_in_one_block() {
    let mut world = World::new(1, Version::MAX, Version::MAX, None);
    let destination = world.destination();
    let answer_key = world
        .far
        .introduction
        .answer()
        .signed_key
        .verify(&leaf())
        .unwrap();
    let far = &mut world.far;
    let mut openers = Vec::new();
    for number in 0..5u8 {
        let secret = x25519::SecretKey::generate(&mut world.rng);
        let key = BoxKey::from_shared(&secret.diffie_hellman(&answer_key).unwrap());
        let correlation = CorrelationId::random(&mut world.rng);
        // No authorisation, correlation, entity, command; in a batch of one; padded by nothing.
        let mut transmission = vec![0, 24];
        transmission.extend(correlation.0);
        transmission.push(24);
        transmission.extend(QUEUE);
        transmission.extend(*b"SEND T ");
        transmission.push(number);
        let length = u16::try_from(transmission.len()).unwrap();
        let mut text = (length + 3).to_be_bytes().to_vec();
        text.push(1);
        text.extend(length.to_be_bytes());
        text.extend(&transmission);
        let mut sealed = Vec::new();
        key.seal(&correlation.nonce(), &text, &mut sealed);
        let forward = Forward {
            version: destination.version().number(),
            key: secret.public_key(),
            sealed: &sealed,
        };
        far.client
            .push_relayed(
                &mut far.outgoing,
                &correlation,
                &forward,
                u32::from(number),
                &mut world.rng,
            )
            .unwrap();
        openers.push((key, correlation));
    }
    let mut block = far.sealed();
    let Connection { requests, replies } = &mut far.server;
    let batch: Vec<_> = requests.open(&mut block).unwrap().collect();
    assert_eq!(batch.len(), 5);
    for request in batch {
        let command = requests
            .authorise(request.unwrap(), &Credential::Open)
            .unwrap();
        let Command::RelayForward(sealed) = command.command() else {
            panic!("{:?}", command.command());
        };
        let mut room = new_block();
        let Forwarded { request, back } = requests
            .open_forwarded(command.correlation(), sealed, &mut room)
            .unwrap();
        let request = request.unwrap();
        let (correlation, entity) = (Some(request.correlation()), request.entity());
        // Each answer takes a block.
        replies
            .push_forwarded(
                &mut far.outgoing,
                &back,
                correlation.as_ref(),
                entity,
                &Response::Ok,
            )
            .unwrap();
        let mut block = Box::new(*replies.seal(&mut far.outgoing).unwrap());
        let mut incoming = far.client.receive(&mut block).unwrap();
        let Some(Incoming::Reply { ticket, result }) = incoming.next() else {
            panic!("no answer");
        };
        let Ok(Response::ProxyAnswer(sealed)) = result else {
            panic!("{result:?}");
        };
        let (key, correlation) = &openers[usize::try_from(ticket).unwrap()];
        let text = key.open(&correlation.nonce().reversed(), sealed).unwrap();
        let text = pad::unpad(&text).unwrap();
        assert!(text.ends_with(b"OK"), "{text:?}");
        // Trap 1: no other nonce opens it.
        assert!(key.open(&correlation.nonce(), sealed).is_err());
    }
}
