//! The messaging path over real TLS on loopback, with the client half of `junto-smp`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::collections::HashSet;

use junto_crypto::x25519;
use junto_relay::bench::{Heard, Peer, PeerError, Said};
use junto_relay::{Limits, Relay};
use junto_smp::address::{Fingerprint, ServerAddress};
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::id::{MessageId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::BODY_BYTES_MAX;
use junto_smp::version::{Version, VersionRange};
use junto_tls::ChainError;
use junto_tls::handshake::HandshakeError;
use rand_chacha::rand_core::Rng as _;

use site::{C, M, acked, config, connect, heard, identity, in_time, opened, refused, start};

/// Create, secure by the sender, send, receive, acknowledge, in one version.
async fn conversation(recipient: &mut Peer, sender: &mut Peer, key: AuthSecret) {
    let queue = recipient.create_with(key, M, true, None).await.unwrap();
    let secret = AuthSecret::generate(sender.rng());
    let to = queue.sender();
    assert_eq!(sender.secure(to, &secret).await.unwrap(), Said::Ok);
    // The same key again is fine (a lost answer), another is not.
    assert_eq!(sender.secure(to, &secret).await.unwrap(), Said::Ok);
    let other = AuthSecret::generate(sender.rng());
    assert_eq!(refused(sender.secure(to, &other).await), ErrorCode::Auth);
    assert_eq!(
        refused(sender.send_message(to, None, b"x").await),
        ErrorCode::Auth
    );
    assert_eq!(
        refused(sender.send_message(to, Some(&other), b"x").await),
        ErrorCode::Auth
    );

    let largest = vec![7; BODY_BYTES_MAX];
    for body in [b"".as_slice(), b"one", &largest] {
        assert_eq!(
            sender.send_message(to, Some(&secret), body).await.unwrap(),
            Said::Ok
        );
    }
    // One at a time: the next comes with the answer to ACK.
    let (first, body) = heard(recipient, &queue).await;
    assert_eq!(body.unwrap(), b"");
    let wrong = recipient
        .own(&queue, Command::Ack(Some(MessageId([9; 24]))))
        .await;
    assert_eq!(refused(wrong), ErrorCode::NoMessage);
    let (second, body) = acked(recipient, &queue, first).await.unwrap();
    assert_eq!(body.unwrap(), b"one");
    let (third, body) = acked(recipient, &queue, second).await.unwrap();
    assert_eq!(body.unwrap(), largest);
    assert_eq!(acked(recipient, &queue, third).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_versions_and_authorisations_with_and_without_block_encryption() {
    let relay = start(config()).await;
    for version in Version::ALL {
        for encrypt in [true, false] {
            let range = VersionRange::only(version);
            let address = relay.address();
            let mut a = Peer::connect_with(&address, range, encrypt).await.unwrap();
            let mut b = Peer::connect_with(&address, range, encrypt).await.unwrap();
            assert_eq!(a.version(), version);
            let ed25519 = AuthSecret::generate(a.rng());
            in_time(conversation(&mut a, &mut b, ed25519)).await;
            let x25519 = AuthSecret::X25519(x25519::SecretKey::generate(a.rng()));
            in_time(conversation(&mut a, &mut b, x25519)).await;
        }
    }
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_of_fewer_versions_is_spoken_to_in_its_own() {
    let range = VersionRange::new(15, 16).unwrap();
    let relay = Relay::start_with_versions(config(), identity(), range)
        .await
        .unwrap();
    assert_eq!(connect(&relay).await.version().number(), 16);
    let newer = VersionRange::new(17, 20).unwrap();
    assert!(matches!(
        Peer::connect_with(&relay.address(), newer, true).await,
        Err(PeerError::Hello(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_may_be_sender_and_recipient() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    peer.send_message(queue.sender(), None, b"to myself")
        .await
        .unwrap();
    let (id, body) = heard(&mut peer, &queue).await;
    assert_eq!(body.unwrap(), b"to myself");
    assert_eq!(acked(&mut peer, &queue, id).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_set_the_senders_key() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let key = AuthSecret::generate(peer.rng());
    // A contact address cannot be secured by a sender, but by its owner.
    let contact = peer.create(C, false, None).await.unwrap();
    assert_eq!(
        refused(peer.secure(contact.sender(), &key).await),
        ErrorCode::Auth
    );
    let by_owner = Command::Key(key.public_key());
    assert_eq!(
        peer.own(&contact, by_owner.clone()).await.unwrap(),
        Said::Ok
    );
    assert_eq!(peer.own(&contact, by_owner).await.unwrap(), Said::Ok);
    // A queue without mode likewise.
    let plain = peer
        .create(NewMode::Unspecified, false, None)
        .await
        .unwrap();
    assert_eq!(
        refused(peer.secure(plain.sender(), &key).await),
        ErrorCode::Auth
    );
    peer.own(&plain, Command::Key(key.public_key()))
        .await
        .unwrap();
    assert_eq!(
        peer.send_message(plain.sender(), Some(&key), b"m")
            .await
            .unwrap(),
        Said::Ok
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_all_that_the_recipient_has_sends_nothing_to_its_queue() {
    let relay = start(config()).await;
    let (mut owner, mut sender) = (connect(&relay).await, connect(&relay).await);
    let queue = owner.create(M, true, None).await.unwrap();
    let to = queue.sender();
    let secret = AuthSecret::generate(sender.rng());
    assert_eq!(sender.secure(to, &secret).await.unwrap(), Said::Ok);
    // A thief of the recipient's database has its names and keys, and may subscribe.
    let mut thief = connect(&relay).await;
    let own = AuthSecret::generate(thief.rng());
    for key in [None, Some(&queue.key), Some(&own)] {
        for name in [to, SenderId(queue.recipient().0)] {
            assert_eq!(
                refused(thief.send_message(name, key, b"from a friend").await),
                ErrorCode::Auth
            );
        }
    }
    // Nor can it put itself in the sender's place, by either side's command.
    assert_eq!(refused(thief.secure(to, &own).await), ErrorCode::Auth);
    let other = Command::Key(own.public_key());
    assert_eq!(refused(thief.own(&queue, other).await), ErrorCode::Auth);
    let sent = sender.send_message(to, Some(&secret), b"hello").await;
    assert_eq!(sent.unwrap(), Said::Ok);
    let (_, body) = heard(&mut owner, &queue).await;
    assert_eq!(body.unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_out_has_nothing_of_what_came_in() {
    // What somebody sees who has broken TLS on both sides of the relay.
    let relay = start(config()).await;
    let (mut recipient, mut sender) = (connect(&relay).await, connect(&relay).await);
    let mut lengths = Vec::new();
    for length in [BODY_BYTES_MAX, 40] {
        let queue = recipient.create(M, true, None).await.unwrap();
        let mut body = vec![0; length];
        sender.rng().fill_bytes(&mut body);
        let sent = sender.send_message(queue.sender(), None, &body).await;
        assert_eq!(sent.unwrap(), Said::Ok);
        let Heard::Message(_, id, sealed) = in_time(recipient.event()).await.unwrap() else {
            panic!("not a message");
        };
        let went_in: HashSet<_> = body.windows(8).collect();
        assert!(sealed.windows(8).all(|part| !went_in.contains(part)));
        assert_eq!(opened(&queue.delivery, &id, &sealed).unwrap(), body);
        assert_ne!(queue.ids.sender.0, queue.ids.recipient.0);
        lengths.push(sealed.len());
    }
    assert_eq!(lengths[0], lengths[1], "a short one and the longest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_subscriber_wins_and_the_one_before_is_told() {
    let relay = start(config()).await;
    let (mut first, mut second) = (connect(&relay).await, connect(&relay).await);
    let queue = first.create(M, true, None).await.unwrap();
    let mut sender = connect(&relay).await;
    sender
        .send_message(queue.sender(), None, b"hello")
        .await
        .unwrap();
    let (id, _) = heard(&mut first, &queue).await;
    assert_eq!(
        second.own(&queue, Command::Sub).await.unwrap(),
        Said::Subscribed
    );
    // Not acknowledged, so delivered again; the first can no longer acknowledge it.
    let (again, body) = heard(&mut second, &queue).await;
    assert_eq!((again, body.unwrap()), (id, b"hello".to_vec()));
    assert_eq!(
        in_time(first.event()).await.unwrap(),
        Heard::End(queue.recipient())
    );
    assert_eq!(
        refused(first.own(&queue, Command::Ack(Some(id))).await),
        ErrorCode::NoMessage
    );
    assert_eq!(acked(&mut second, &queue, id).await, None);
    // And back.
    first.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(
        in_time(second.event()).await.unwrap(),
        Heard::End(queue.recipient())
    );
    sender
        .send_message(queue.sender(), None, b"again")
        .await
        .unwrap();
    assert_eq!(heard(&mut first, &queue).await.1.unwrap(), b"again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_survives_the_connection_of_its_recipient() {
    let relay = start(config()).await;
    let mut recipient = connect(&relay).await;
    let queue = recipient.create(M, true, None).await.unwrap();
    let mut sender = connect(&relay).await;
    sender
        .send_message(queue.sender(), None, b"kept")
        .await
        .unwrap();
    let (id, _) = heard(&mut recipient, &queue).await;
    drop(recipient);
    let mut recipient = connect(&relay).await;
    recipient.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(
        heard(&mut recipient, &queue).await,
        (id, Some(b"kept".to_vec()))
    );
    assert_eq!(acked(&mut recipient, &queue, id).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_reads_without_subscribing() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    assert_eq!(peer.own(&queue, Command::Get).await.unwrap(), Said::Ok);
    let mut sender = connect(&relay).await;
    for body in [b"one", b"two"] {
        sender
            .send_message(queue.sender(), None, body)
            .await
            .unwrap();
    }
    for body in [b"one", b"two"] {
        let Said::Message(id, sealed) = peer.own(&queue, Command::Get).await.unwrap() else {
            panic!("no message");
        };
        assert_eq!(site::opened(&queue.delivery, &id, &sealed).unwrap(), body);
        assert_eq!(acked(&mut peer, &queue, id).await, None);
    }
    assert_eq!(
        refused(peer.own(&queue, Command::Sub).await),
        ErrorCode::PROHIBITED
    );
    let mut subscriber = connect(&relay).await;
    subscriber.own(&queue, Command::Sub).await.unwrap();
    assert_eq!(
        refused(subscriber.own(&queue, Command::Get).await),
        ErrorCode::PROHIBITED
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn off_delete_and_info() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let mut sender = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    sender
        .send_message(queue.sender(), None, b"m")
        .await
        .unwrap();
    let (id, _) = heard(&mut peer, &queue).await;
    let Said::Info(json) = peer.own(&queue, Command::Info).await.unwrap() else {
        panic!("no info");
    };
    assert!(
        json.contains(r#""qiSnd":false"#) && json.contains(r#""qiSize":1"#),
        "{json}"
    );
    assert_eq!(peer.own(&queue, Command::Off).await.unwrap(), Said::Ok);
    assert_eq!(
        refused(sender.send_message(queue.sender(), None, b"m").await),
        ErrorCode::Auth
    );
    // What is there can still be taken.
    assert_eq!(acked(&mut peer, &queue, id).await, None);

    let mut other = connect(&relay).await;
    assert_eq!(other.own(&queue, Command::Delete).await.unwrap(), Said::Ok);
    assert_eq!(
        in_time(peer.event()).await.unwrap(),
        Heard::Deleted(queue.recipient())
    );
    assert_eq!(
        refused(peer.own(&queue, Command::Sub).await),
        ErrorCode::Auth
    );
    assert_eq!(
        refused(other.own(&queue, Command::Delete).await),
        ErrorCode::Auth
    );
    assert_eq!(relay.stats().queues, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_tells_its_recipient_and_opens_again() {
    let relay = start(config()).await;
    let mut sender = connect(&relay).await;
    let mut recipient = connect(&relay).await;
    let queue = recipient.create(M, false, None).await.unwrap();
    let limit = Limits::default().messages_per_queue;
    for n in 0..limit {
        let sent = sender
            .send_message(queue.sender(), None, &n.to_be_bytes())
            .await;
        assert_eq!(sent.unwrap(), Said::Ok);
    }
    for _ in 0..3 {
        let sent = sender.send_message(queue.sender(), None, b"too many").await;
        assert_eq!(refused(sent), ErrorCode::Quota);
    }
    recipient.own(&queue, Command::Sub).await.unwrap();
    let (mut id, mut body) = heard(&mut recipient, &queue).await;
    for n in 0..limit {
        assert_eq!(body.unwrap(), n.to_be_bytes());
        let full = sender.send_message(queue.sender(), None, b"still").await;
        assert_eq!(refused(full), ErrorCode::Quota);
        (id, body) = acked(&mut recipient, &queue, id).await.unwrap();
    }
    assert_eq!(body, None, "the marker is last");
    assert_eq!(acked(&mut recipient, &queue, id).await, None);
    assert_eq!(
        sender
            .send_message(queue.sender(), None, b"again")
            .await
            .unwrap(),
        Said::Ok
    );
    assert_eq!(heard(&mut recipient, &queue).await.1.unwrap(), b"again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_queues_and_wrong_keys_look_the_same() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let mine = peer.create(M, false, None).await.unwrap();
    let mut theirs = peer.create(M, false, None).await.unwrap();
    theirs.ids.recipient = mine.recipient();
    let mut unknown = peer.create(M, false, None).await.unwrap();
    unknown.ids.recipient.0[5] ^= 1;
    let key = AuthSecret::generate(peer.rng());
    for command in [
        Command::Sub,
        Command::Get,
        Command::Ack(None),
        Command::Off,
        Command::Delete,
        Command::Info,
        Command::Key(key.public_key()),
    ] {
        assert_eq!(
            refused(peer.own(&theirs, command.clone()).await),
            ErrorCode::Auth
        );
        assert_eq!(refused(peer.own(&unknown, command).await), ErrorCode::Auth);
    }
    let nobody = SenderId([3; 24]);
    for key in [None, Some(&key)] {
        assert_eq!(
            refused(peer.send_message(nobody, key, b"m").await),
            ErrorCode::Auth
        );
    }
    assert_eq!(refused(peer.secure(nobody, &key).await), ErrorCode::Auth);
    // The recipient's name is not a sender's name.
    let crossed = SenderId(mine.recipient().0);
    assert_eq!(
        refused(peer.send_message(crossed, None, b"m").await),
        ErrorCode::Auth
    );
    assert_eq!(
        peer.own(&mine, Command::Sub).await.unwrap(),
        Said::Subscribed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_commands_in_one_block_are_answered_in_order() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let mut queues = Vec::new();
    for _ in 0..120 {
        queues.push(peer.create(M, false, None).await.unwrap());
    }
    let mut sender = connect(&relay).await;
    for queue in &queues {
        sender
            .send_message(queue.sender(), None, b"waiting")
            .await
            .unwrap();
    }
    let before = relay.stats().blocks_received;
    let mut numbers = Vec::new();
    for queue in &queues {
        let id = queue.recipient();
        let request = junto_smp::client::Request {
            entity: junto_smp::id::Entity::Queue(&id.0),
            key: Some(&queue.key),
            command: Command::Sub,
        };
        numbers.push(peer.ask(&request).await.unwrap());
    }
    peer.send().await.unwrap();
    for number in numbers {
        assert_eq!(
            in_time(peer.answer(number)).await.unwrap(),
            Said::Subscribed
        );
    }
    for queue in &queues {
        let (_, body) = heard(&mut peer, queue).await;
        assert_eq!(body.unwrap(), b"waiting");
    }
    assert_eq!(relay.stats().blocks_received, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_is_refused() {
    let relay = start(config()).await;
    let right = relay.address();
    let wrong =
        ServerAddress::new(Fingerprint([1; 32]), right.hosts().to_vec(), right.port()).unwrap();
    assert!(matches!(
        Peer::connect(&wrong).await,
        Err(PeerError::Tls(HandshakeError::Chain(
            ChainError::WrongIdentity
        )))
    ));
    assert!(Peer::connect(&right).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_says_what_was_to_be_said() {
    let relay = start(config()).await;
    let mut recipient = connect(&relay).await;
    let queue = recipient.create(M, true, None).await.unwrap();
    let mut sender = connect(&relay).await;
    sender
        .send_message(queue.sender(), None, b"last words")
        .await
        .unwrap();
    relay.shutdown().await.unwrap();
    assert_eq!(
        heard(&mut recipient, &queue).await.1.unwrap(),
        b"last words"
    );
    assert!(in_time(recipient.event()).await.is_err());
}
