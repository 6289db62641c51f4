//! Client and server half against each other, in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use junto_crypto::x25519;
use junto_smp::{
    address::Fingerprint,
    block::new_block,
    client::{Client, Options, RejectReason, Request},
    command::{Command, NewMode, QueueMode},
    error::ErrorCode,
    hello::HelloFault,
    id::{Entity, MessageId},
    key::AuthSecret,
    message::{BODY_BYTES_MAX, Delivered, MessageFlags, Timestamp},
    version::{Version, VersionRange},
};
use support::{Got, Owned, Peer, Relay, create, key, newest, one_queue, options};

const FLAGS: MessageFlags = MessageFlags { notify: true };

fn deniable(seed: u8) -> AuthSecret {
    AuthSecret::X25519(x25519::SecretKey::from_bytes(&[seed; 32]))
}

fn send(body: &[u8]) -> Command<'_> {
    Command::Send { flags: FLAGS, body }
}

fn opened(queue: &Owned, got: &Got) -> (MessageId, Option<Vec<u8>>) {
    let Got::Message(id, sealed) = got else {
        panic!("no message but {got:?}");
    };
    match queue.delivery.open(id, sealed).unwrap().content() {
        Delivered::Message { body, flags, .. } => {
            assert_eq!(flags, FLAGS);
            (*id, Some(body.to_vec()))
        }
        Delivered::QuotaReached { .. } => (*id, None),
    }
}

fn pair(relay: &mut Relay) -> (Peer, Peer) {
    let options = newest(relay);
    (
        relay.connect(&options).unwrap(),
        relay.connect(&options).unwrap(),
    )
}

/// The whole life of a queue in every version, with and without block encryption, under each kind
/// of key.
#[test]
fn a_message_travels_in_every_version() {
    for version in Version::ALL {
        for encrypt in [true, false] {
            for (recipient_key, sender_key) in [
                (key(1), key(2)),
                (deniable(1), deniable(2)),
                (key(1), deniable(2)),
            ] {
                let mut relay = Relay::new(VersionRange::SUPPORTED);
                let options = Options {
                    encrypt,
                    ..options(&relay, version)
                };
                let mut alice = relay.connect(&options).unwrap();
                let mut bob = relay.connect(&options).unwrap();
                assert_eq!(alice.client.version(), version);
                let queue = create(
                    &mut alice,
                    &mut relay,
                    recipient_key,
                    NewMode::Messaging(None),
                    true,
                );
                assert_eq!(queue.ids.mode, Some(QueueMode::Messaging));
                life_of_a_queue(&mut relay, &mut alice, &mut bob, &queue, &sender_key);
            }
        }
    }
}

fn life_of_a_queue(
    relay: &mut Relay,
    alice: &mut Peer,
    bob: &mut Peer,
    queue: &Owned,
    sender_key: &AuthSecret,
) {
    let secure = Command::SenderKey(sender_key.public_key());
    let largest = vec![7; BODY_BYTES_MAX];
    for _ in 0..2 {
        let got = bob.ask_one(relay, queue.sender(), Some(sender_key), secure.clone());
        assert_eq!(got, Got::Ok);
    }
    for body in [b"first".as_slice(), &largest] {
        let got = bob.ask_one(relay, queue.sender(), Some(sender_key), send(body));
        assert_eq!(got, Got::Ok);
    }
    let events = alice.take_events(relay);
    assert_eq!(events.len(), 1, "one message at a time");
    assert_eq!(events[0].0, Some(queue.ids.recipient));
    let (id, body) = opened(queue, &events[0].1);
    assert_eq!(body.unwrap(), b"first");
    let ack = |id| Command::Ack(id);
    let got = alice.own(relay, queue, ack(Some(id)));
    let (_, body) = opened(queue, &got);
    assert_eq!(body.unwrap(), largest);
    let got = alice.own(relay, queue, ack(None));
    assert_eq!(got, Got::Ok);
    let got = alice.own(relay, queue, ack(None));
    assert_eq!(got, Got::Error(ErrorCode::NoMessage));
    let got = alice.ask_one(relay, Entity::None, None, Command::Ping);
    assert_eq!(got, Got::Pong);
    let got = alice.own(relay, queue, Command::Off);
    assert_eq!(got, Got::Ok);
    let got = bob.ask_one(relay, queue.sender(), Some(sender_key), send(b"off"));
    assert_eq!(got, Got::Error(ErrorCode::Auth));
    let got = alice.own(relay, queue, Command::Delete);
    assert_eq!(got, Got::Ok);
    let got = alice.own(relay, queue, Command::Sub);
    assert_eq!(got, Got::Error(ErrorCode::Auth));
    assert!(alice.take_events(relay).is_empty());
    assert_eq!(bob.client.in_flight() + alice.client.in_flight(), 0);
}

#[test]
fn versions_without_overlap_are_refused() {
    let mut relay = Relay::new(VersionRange::new(15, 17).unwrap());
    let newer = Options {
        versions: VersionRange::new(18, 20).unwrap(),
        ..newest(&relay)
    };
    assert_eq!(relay.connect(&newer).err(), Some(HelloFault::Version));
    let peer = relay.connect(&newest(&relay)).unwrap();
    assert_eq!(peer.client.version().number(), 17);
}

#[test]
fn a_wrong_pin_is_noticed_by_both_sides() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let other = Options::new(Fingerprint([1; 32]));
    assert_eq!(relay.connect(&other).err(), Some(HelloFault::Identity));
    // A client that does not check is refused by the server.
    let (mut hello, mut answer) = (new_block(), new_block());
    let session = junto_smp::block::SessionId([1; 32]);
    let handshake =
        junto_smp::server::Handshake::start(&relay.identity, session, &mut relay.rng, &mut hello)
            .unwrap();
    junto_smp::hello::ClientHello {
        version: Version::MAX,
        identity: Fingerprint([1; 32]),
        key: None,
        proxy: false,
        service: None,
    }
    .encode(&mut answer)
    .unwrap();
    let refused = handshake.finish(&relay.identity, &mut answer).err();
    assert_eq!(refused, Some(HelloFault::Identity));
}

#[test]
fn the_tls_session_must_be_the_same() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut hello, mut answer) = (new_block(), new_block());
    let session = junto_smp::block::SessionId([1; 32]);
    junto_smp::server::Handshake::start(&relay.identity, session, &mut relay.rng, &mut hello)
        .unwrap();
    let in_the_middle = junto_smp::block::SessionId([2; 32]);
    let refused = Client::<()>::open(
        &newest(&relay),
        in_the_middle,
        &support::leaf(),
        &mut hello,
        &mut answer,
        &mut relay.rng,
    );
    assert_eq!(refused.err(), Some(HelloFault::Session));
}

#[test]
fn wrong_keys_and_unknown_queues_look_the_same() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut alice, mut bob) = pair(&mut relay);
    let queue = create(
        &mut alice,
        &mut relay,
        key(1),
        NewMode::Messaging(None),
        true,
    );
    let secured = Command::Key(key(2).public_key());
    assert_eq!(alice.own(&mut relay, &queue, secured), Got::Ok);
    let unknown = [9; 24];
    let auth = Got::Error(ErrorCode::Auth);
    let recipients = [
        Command::Sub,
        Command::Get,
        Command::Ack(None),
        Command::Off,
        Command::Delete,
        Command::Info,
        Command::Key(key(3).public_key()),
    ];
    for entity in [queue.recipient(), queue.sender(), Entity::Queue(&unknown)] {
        for command in &recipients {
            for wrong in [key(4), deniable(4)] {
                let got = bob.ask_one(&mut relay, entity, Some(&wrong), command.clone());
                assert_eq!(got, auth, "{command:?}");
            }
        }
    }
    let third = key(3);
    let senders = [send(b"x"), Command::SenderKey(third.public_key())];
    for entity in [queue.sender(), queue.recipient(), Entity::Queue(&unknown)] {
        for command in &senders {
            for wrong in [key(3), deniable(3)] {
                let got = bob.ask_one(&mut relay, entity, Some(&wrong), command.clone());
                assert_eq!(got, auth, "{command:?}");
            }
        }
        let got = bob.ask_one(&mut relay, entity, None, send(b"x"));
        assert_eq!(got, auth);
    }
    // Another length than an id has: no such queue either.
    let got = bob.ask_one(&mut relay, Entity::Other(&[1; 32]), None, send(b"x"));
    assert_eq!(got, auth);
}

#[test]
fn new_must_be_signed_by_its_own_key() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let new = junto_smp::command::NewQueue {
        auth_key: key(1).public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[1; 32]).public_key(),
        password: None,
        subscribe: false,
        mode: NewMode::Contact(None),
        notifier: None,
    };
    let new = Command::New(Box::new(new));
    let got = alice.ask_one(&mut relay, Entity::None, Some(&key(2)), new);
    assert_eq!(got, Got::Error(ErrorCode::Auth));
    assert!(relay.queues.is_empty());
}

#[test]
fn only_messaging_queues_are_secured_by_senders() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut alice, mut bob) = pair(&mut relay);
    for mode in [NewMode::Contact(None), NewMode::Unspecified] {
        let queue = create(&mut alice, &mut relay, key(1), mode, true);
        let secure = Command::SenderKey(key(2).public_key());
        let got = bob.ask_one(&mut relay, queue.sender(), Some(&key(2)), secure);
        assert_eq!(got, Got::Error(ErrorCode::Auth));
        // Anybody may send, but not with an authorisation that nobody asked for.
        let got = bob.ask_one(&mut relay, queue.sender(), None, send(b"hi"));
        assert_eq!(got, Got::Ok);
        let got = bob.ask_one(&mut relay, queue.sender(), Some(&key(2)), send(b"hi"));
        assert_eq!(got, Got::Error(ErrorCode::Auth));
        // The recipient may secure it.
        let secure = Command::Key(key(2).public_key());
        for expected in [Got::Ok, Got::Ok] {
            let got = alice.own(&mut relay, &queue, secure.clone());
            assert_eq!(got, expected);
        }
        let other = Command::Key(key(3).public_key());
        let got = alice.own(&mut relay, &queue, other);
        assert_eq!(got, Got::Error(ErrorCode::Auth));
        let got = bob.ask_one(&mut relay, queue.sender(), Some(&key(2)), send(b"hi"));
        assert_eq!(got, Got::Ok);
    }
}

#[test]
fn a_second_subscriber_takes_over() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut alice, mut again) = pair(&mut relay);
    let queue = create(&mut alice, &mut relay, key(1), NewMode::Contact(None), true);
    alice.ask_one(&mut relay, queue.sender(), None, send(b"one"));
    assert_eq!(alice.take_events(&mut relay).len(), 1);
    let got = again.own(&mut relay, &queue, Command::Sub);
    assert_eq!(got, Got::Subscribed);
    assert_eq!(
        alice.take_events(&mut relay),
        [(Some(queue.ids.recipient), Got::End)]
    );
    let events = again.take_events(&mut relay);
    let (id, body) = opened(&queue, &events[0].1);
    assert_eq!(body.unwrap(), b"one");
    let ack = Command::Ack(Some(id));
    let got = alice.own(&mut relay, &queue, ack.clone());
    assert_eq!(got, Got::Error(ErrorCode::NoMessage));
    let got = again.own(&mut relay, &queue, ack);
    assert_eq!(got, Got::Ok);
    let got = alice.own(&mut relay, &queue, Command::Delete);
    assert_eq!(got, Got::Ok);
    assert_eq!(
        again.take_events(&mut relay),
        [(Some(queue.ids.recipient), Got::Deleted)]
    );
}

#[test]
fn get_and_sub_exclude_each_other() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut alice, mut other) = pair(&mut relay);
    let queue = create(&mut alice, &mut relay, key(1), NewMode::Contact(None), true);
    let prohibited = Got::Error(ErrorCode::PROHIBITED);
    let got = alice.own(&mut relay, &queue, Command::Get);
    assert_eq!(got, prohibited);
    let got = other.own(&mut relay, &queue, Command::Get);
    assert_eq!(got, Got::Ok);
    let got = other.own(&mut relay, &queue, Command::Sub);
    assert_eq!(got, prohibited);
    alice.ask_one(&mut relay, queue.sender(), None, send(b"one"));
    alice.ask_one(&mut relay, queue.sender(), None, send(b"two"));
    let got = other.own(&mut relay, &queue, Command::Get);
    let (id, body) = opened(&queue, &got);
    assert_eq!(body.unwrap(), b"one");
    let ack = Command::Ack(Some(id));
    let got = other.own(&mut relay, &queue, ack.clone());
    assert_eq!(got, Got::Ok, "GET does not push the next message");
    // The subscriber had it too; its ACK now removes nothing and brings the next one.
    let got = alice.own(&mut relay, &queue, ack);
    assert_eq!(opened(&queue, &got).1.unwrap(), b"two");
}

#[test]
fn quota_is_reached_told_and_lifted() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    relay.limits.messages = 3;
    let (mut alice, mut bob) = pair(&mut relay);
    let queue = create(
        &mut alice,
        &mut relay,
        key(1),
        NewMode::Contact(None),
        false,
    );
    for _ in 0..3 {
        assert_eq!(
            bob.ask_one(&mut relay, queue.sender(), None, send(b"m")),
            Got::Ok
        );
    }
    for _ in 0..3 {
        let got = bob.ask_one(&mut relay, queue.sender(), None, send(b"m"));
        assert_eq!(got, Got::Error(ErrorCode::Quota));
    }
    let got = alice.own(&mut relay, &queue, Command::Sub);
    assert_eq!(got, Got::Subscribed);
    let mut got = alice.take_events(&mut relay).remove(0).1;
    for expected in [
        Some(b"m".to_vec()),
        Some(b"m".to_vec()),
        Some(b"m".to_vec()),
        None,
    ] {
        let refused = bob.ask_one(&mut relay, queue.sender(), None, send(b"m"));
        assert_eq!(refused, Got::Error(ErrorCode::Quota), "until it is drained");
        let (id, body) = opened(&queue, &got);
        assert_eq!(body, expected);
        let ack = Command::Ack(Some(id));
        got = alice.own(&mut relay, &queue, ack);
    }
    assert_eq!(got, Got::Ok);
    assert_eq!(
        bob.ask_one(&mut relay, queue.sender(), None, send(b"m")),
        Got::Ok
    );
}

#[test]
fn old_messages_expire() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let (mut alice, mut bob) = pair(&mut relay);
    let queue = create(&mut alice, &mut relay, key(1), NewMode::Contact(None), true);
    bob.ask_one(&mut relay, queue.sender(), None, send(b"old"));
    let events = alice.take_events(&mut relay);
    let (old, _) = opened(&queue, &events[0].1);
    // Kept for exactly this long.
    relay.now = Timestamp(relay.now.0 + relay.limits.retention_seconds);
    bob.ask_one(&mut relay, queue.sender(), None, send(b"also"));
    assert_eq!(relay.queues[&queue.ids.recipient].messages().len(), 2);
    relay.now = Timestamp(relay.now.0 + 1);
    bob.ask_one(&mut relay, queue.sender(), None, send(b"new"));
    assert!(
        alice.take_events(&mut relay).is_empty(),
        "not acknowledged yet"
    );
    let ack = Command::Ack(Some(old));
    let got = alice.own(&mut relay, &queue, ack);
    assert_eq!(opened(&queue, &got).1.unwrap(), b"also");
}

#[test]
fn queue_information_is_json() {
    let (mut relay, mut alice, queue) = one_queue(NewMode::Contact(None), true);
    let ask = |alice: &mut Peer, relay: &mut Relay| {
        let got = alice.own(relay, &queue, Command::Info);
        match got {
            Got::Info(json) => json,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        ask(&mut alice, &mut relay),
        r#"{"qiSnd":false,"qiNtf":false,"qiSub":{"qSubThread":"noSub"},"qiSize":0}"#
    );
    alice.ask_one(&mut relay, queue.sender(), None, send(b"one"));
    let json = ask(&mut alice, &mut relay);
    assert!(json.contains(r#""qDelivered":"#) && json.contains(r#""qiSize":1"#));
    assert!(json.contains(r#""msgTs":"2027-01-15T08:00:00Z","msgType":"message""#));
}

/// Capacity of the reference implementation: 135 subscriptions in a block.
#[test]
fn a_block_carries_135_subscriptions() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let (id, key) = ([1; 24], key(1));
    let request = Request {
        entity: Entity::Queue(&id),
        key: Some(&key),
        command: Command::Sub,
    };
    let mut count = 0;
    let full = loop {
        match alice
            .client
            .push(&mut alice.outgoing, &request, count, &mut alice.rng)
        {
            Ok(()) => count += 1,
            Err(rejected) => break rejected.reason,
        }
    };
    assert_eq!((count, full), (135, RejectReason::BlockFull));
    let requests: Vec<_> = (0..300)
        .map(|_| Request {
            entity: Entity::Queue(&id),
            key: Some(&key),
            command: Command::Sub,
        })
        .collect();
    let mut fresh = relay.connect(&newest(&relay)).unwrap();
    let answers = fresh.ask(&mut relay, &requests);
    assert!(
        answers
            .iter()
            .all(|got| *got == Got::Error(ErrorCode::Auth))
    );
}

#[test]
fn too_large_messages_are_refused() {
    let (mut relay, mut alice, queue) = one_queue(NewMode::Contact(None), false);
    let body = vec![0; BODY_BYTES_MAX + 1];
    let got = alice.ask_one(&mut relay, queue.sender(), None, send(&body));
    assert_eq!(got, Got::Error(ErrorCode::LargeMessage));
    let huge = vec![0; 16_384];
    let request = Request {
        entity: queue.sender(),
        key: None,
        command: send(&huge),
    };
    let rejected = alice
        .client
        .push(&mut alice.outgoing, &request, 0, &mut alice.rng)
        .unwrap_err();
    assert_eq!(rejected.reason, RejectReason::TooLarge);
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut alice = relay.connect(&newest(&relay)).unwrap();
    let ping = Request {
        entity: Entity::None,
        key: None,
        command: Command::Ping,
    };
    for ticket in 0..junto_smp::client::IN_FLIGHT_MAX {
        let pushed = alice
            .client
            .push(&mut alice.outgoing, &ping, ticket, &mut alice.rng);
        if let Err(rejected) = pushed {
            assert_eq!(rejected.reason, RejectReason::BlockFull);
            alice.client.seal(&mut alice.outgoing);
            alice
                .client
                .push(&mut alice.outgoing, &ping, ticket, &mut alice.rng)
                .unwrap();
        }
    }
    let rejected = alice
        .client
        .push(&mut alice.outgoing, &ping, 0, &mut alice.rng)
        .unwrap_err();
    assert_eq!(rejected.reason, RejectReason::Busy);
    assert_eq!(
        alice.client.into_tickets().count(),
        junto_smp::client::IN_FLIGHT_MAX
    );
}

#[test]
fn empty_queues_are_small() {
    assert!(size_of::<junto_smp::queue::Queue>() <= 640);
}
