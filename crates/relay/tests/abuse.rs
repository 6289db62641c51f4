//! Clients that misbehave cost themselves, and nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::collections::BTreeMap;
use std::time::Duration;

use junto_crypto::x25519;
use junto_relay::bench::{Heard, Peer, PeerError, Said};
use junto_relay::config::{Blocked, Password, QueueName};
use junto_relay::store::Memory;
use junto_relay::{Limits, Relay, RunningRelay, load_dir};
use junto_smp::blocking::{Blocking, BlockingReason};
use junto_smp::client::{Options, Request};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::Entity;
use junto_smp::key::AuthSecret;
use junto_smp::message::{BODY_BYTES_MAX, MessageFlags};
use junto_smp::notification::NotificationKey;
use junto_smp::response::NotifierIds;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use site::clock::Clock;
use site::lasting::relay_dir;
use site::{M, acked, config, connect, heard, identity, in_time, refused, start, until};

/// Nothing that a clock under [`Clock`] does by itself takes as long.
const A_LITTLE: Duration = Duration::from_secs(1);

/// Somebody else can still talk.
async fn serves_others(relay: &RunningRelay) {
    let mut peer = in_time(connect(relay)).await;
    let queue = peer.create(M, true, None).await.unwrap();
    peer.send_message(queue.sender(), None, b"fine")
        .await
        .unwrap();
    assert_eq!(heard(&mut peer, &queue).await.1.unwrap(), b"fine");
}

/// The relay closes this connection.
async fn is_closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    in_time(async {
        let mut buffer = vec![0; 65_536];
        while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_instead_of_tls() {
    let relay = start(config()).await;
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 20_000],
        vec![0x16; 20_000],
    ] {
        let mut tcp = TcpStream::connect(relay.local_addr()).await.unwrap();
        let _ = tcp.write_all(&garbage).await;
        is_closed(tcp).await;
    }
    serves_others(&relay).await;
}

#[tokio::test]
async fn half_open_connections_are_shed_by_time() {
    let mut clock = Clock::stop();
    let config = config();
    let limit = config.timeouts.handshake;
    let relay = start(config).await;
    let silent = TcpStream::connect(relay.local_addr()).await.unwrap();
    // TLS, but no hello.
    let address = relay.address();
    let tls = junto_tls::ClientTls::new().unwrap();
    let pin = junto_tls::Fingerprint::from_bytes(address.fingerprint().0);
    let tcp = TcpStream::connect(relay.local_addr()).await.unwrap();
    let mut mute = junto_tls::handshake::connect(&tls, pin, tcp)
        .await
        .unwrap()
        .stream;
    mute.read_exact(&mut [0; 16_384]).await.unwrap();
    clock.pass(limit - A_LITTLE).await;
    clock.settle().await;
    assert_eq!(relay.stats().connections, 2);
    clock.pass(A_LITTLE).await;
    is_closed(silent).await;
    is_closed(mute).await;
    until(|| relay.stats().connections == 0).await;
    assert_eq!(relay.stats().connections_shed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_do_not_keep_others_out() {
    let mut config = config();
    config.limits.handshakes = 4;
    let relay = start(config).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(relay.local_addr()).await.unwrap());
    }
    serves_others(&relay).await;
    until(|| relay.stats().connections <= 4).await;
    // The oldest were given up.
    is_closed(silent.remove(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_exactly() {
    let mut config = config();
    config.limits.connections = 3;
    let relay = start(config).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(connect(&relay).await);
    }
    assert!(Peer::connect(&relay.address()).await.is_err());
    assert_eq!(relay.stats().connections_refused, 1);
    peers.pop();
    until(|| relay.stats().connections == 2).await;
    serves_others(&relay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_memory_and_subscriptions_are_limited_exactly() {
    let mut config = config();
    config.limits = Limits {
        queues: 3,
        message_bytes: 2 * Memory::cost(BODY_BYTES_MAX),
        subscriptions: 2,
        ..Limits::default()
    };
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let a = peer.create(M, true, None).await.unwrap();
    let b = peer.create(M, true, None).await.unwrap();
    assert_eq!(refused(peer.create(M, true, None).await), ErrorCode::Quota);
    let c = peer.create(M, false, None).await.unwrap();
    assert_eq!(refused(peer.create(M, false, None).await), ErrorCode::Quota);
    assert_eq!(refused(peer.own(&c, Command::Sub).await), ErrorCode::Quota);
    assert_eq!(refused(peer.own(&c, Command::Get).await), ErrorCode::Quota);
    assert_eq!(peer.own(&a, Command::Sub).await.unwrap(), Said::Subscribed);

    let largest = vec![1; BODY_BYTES_MAX];
    for queue in [&a, &b] {
        peer.send_message(queue.sender(), None, &largest)
            .await
            .unwrap();
    }
    assert_eq!(
        refused(peer.send_message(c.sender(), None, b"1").await),
        ErrorCode::Quota
    );
    let (id, _) = heard(&mut peer, &a).await;
    assert_eq!(acked(&mut peer, &a, id).await, None);
    assert_eq!(
        peer.send_message(c.sender(), None, b"1").await.unwrap(),
        Said::Ok
    );
    // Deleting gives room.
    assert_eq!(peer.own(&b, Command::Delete).await.unwrap(), Said::Ok);
    peer.create(M, true, None).await.unwrap();
    until(|| relay.stats().message_bytes == Memory::cost(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_guards_new_queues() {
    let mut config = config();
    config.password = Password::new("open sesame");
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    for wrong in [
        None,
        Some(b"".as_slice()),
        Some(b"open"),
        Some(b"open sesame!"),
    ] {
        assert_eq!(refused(peer.create(M, true, wrong).await), ErrorCode::Auth);
    }
    let queue = peer.create(M, true, Some(b"open sesame")).await.unwrap();
    // Nothing else needs it.
    assert_eq!(
        peer.send_message(queue.sender(), None, b"m").await.unwrap(),
        Said::Ok
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_are_refused_and_the_connection_goes_on() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let too_large = vec![0; BODY_BYTES_MAX + 1];
    let sent = peer.send_message(queue.sender(), None, &too_large).await;
    assert_eq!(refused(sent), ErrorCode::LargeMessage);
    let sent = peer
        .send_message(queue.sender(), None, &too_large[1..])
        .await;
    assert_eq!(sent.unwrap(), Said::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_does_not_open_ends_the_connection() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    peer.stream().write_all(&[0; 16_384]).await.unwrap();
    peer.stream().flush().await.unwrap();
    // `ERR BLOCK`, then the end.
    assert!(in_time(peer.event()).await.is_ok());
    assert!(matches!(in_time(peer.event()).await, Err(PeerError::Io(_))));
    // The queue is not lost.
    let mut peer = connect(&relay).await;
    assert_eq!(
        peer.own(&queue, Command::Sub).await.unwrap(),
        Said::Subscribed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_a_block_is_no_block() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    peer.stream().write_all(&[0; 16_383]).await.unwrap();
    peer.stream().flush().await.unwrap();
    serves_others(&relay).await;
    // It waits for the rest.
    until(|| relay.stats().connections == 1).await;
    drop(peer);
    until(|| relay.stats().connections == 0).await;
}

#[tokio::test]
async fn a_slow_reader_is_shed_and_loses_nothing() {
    let mut clock = Clock::stop();
    let config = config();
    let limit = config.timeouts.send;
    let relay = start(config).await;
    let mut reader = connect(&relay).await;
    // More than the buffers of both systems hold: each queue may have one message under way.
    let mut queues = Vec::new();
    for _ in 0..1_500 {
        queues.push(reader.create(M, true, None).await.unwrap());
    }
    let mut sender = connect(&relay).await;
    let body = vec![3; BODY_BYTES_MAX];
    for queue in &queues {
        sender
            .send_message(queue.sender(), None, &body)
            .await
            .unwrap();
    }
    clock.settle().await;
    assert_eq!(relay.stats().connections_shed, 0);
    clock.pass(limit).await;
    until(|| relay.stats().connections_shed == 1).await;
    drop(reader);
    serves_others(&relay).await;
    let mut reader = connect(&relay).await;
    for queue in queues.iter().take(10) {
        reader.own(queue, Command::Sub).await.unwrap();
        assert_eq!(heard(&mut reader, queue).await.1.unwrap(), body);
    }
}

/// The answer to each of these commands about a queue must be as expected.
async fn all_answered<'a>(
    peer: &mut Peer,
    commands: impl Iterator<Item = ([u8; 24], Option<&'a AuthSecret>, Command<'a>)>,
    expected: &Said,
) {
    let commands: Vec<_> = commands.collect();
    for commands in commands.chunks(100) {
        let mut numbers = Vec::new();
        for (id, key, command) in commands {
            let request = Request {
                entity: Entity::Queue(id),
                key: *key,
                command: command.clone(),
            };
            numbers.push(peer.ask(&request).await.unwrap());
        }
        peer.send().await.unwrap();
        for number in numbers {
            assert_eq!(in_time(peer.answer(number)).await.unwrap(), *expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_server_that_reads_slowly_hears_of_every_message_of_every_queue() {
    // More notifications than the buffers of both systems and its mailbox hold.
    const QUEUES: usize = 1_000;
    const MESSAGES: usize = 24;
    let mut config = config();
    config.limits.subscriptions = QUEUES;
    let relay = start(config).await;
    let mut owner = connect(&relay).await;
    let secret = x25519::SecretKey::generate(owner.rng());
    let key = AuthSecret::generate(owner.rng());
    let mut watched = Vec::new();
    for _ in 0..QUEUES {
        let queue = owner.create(M, false, None).await.unwrap();
        let set = Command::SetNotifier {
            auth_key: key.public_key(),
            dh_key: secret.public_key(),
        };
        match owner.own(&queue, set).await.unwrap() {
            Said::NotifierIds(ids) => watched.push((queue.sender().0, ids)),
            other => panic!("no NID but {other:?}"),
        }
    }
    let tcp = TcpSocket::new_v4().unwrap();
    tcp.set_recv_buffer_size(4_096).unwrap();
    let tcp = tcp.connect(relay.local_addr()).await.unwrap();
    let options = Options::new(relay.address().fingerprint());
    let mut server = Peer::connect_over(&relay.address(), tcp, &options)
        .await
        .unwrap();
    let subscribe = |ids: &NotifierIds| (ids.id.0, Some(&key), Command::NotifierSub);
    let subscribed = watched.iter().map(|(_, ids)| subscribe(ids));
    all_answered(&mut server, subscribed, &Said::Subscribed).await;
    // It reads nothing from here on.
    for _ in 0..MESSAGES {
        let flags = MessageFlags { notify: true };
        let send = Command::Send { flags, body: b"m" };
        let sent = watched.iter().map(|(id, _)| (*id, None, send.clone()));
        all_answered(&mut owner, sent, &Said::Ok).await;
    }
    serves_others(&relay).await;
    let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for _ in 0..QUEUES * MESSAGES {
        match in_time(server.event()).await.unwrap() {
            Heard::Notification(id, nonce, sealed) => {
                let (_, ids) = watched.iter().find(|(_, ids)| ids.id == id).unwrap();
                let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
                let opened = NotificationKey::new(&shared).open(&nonce, &sealed).unwrap();
                told.entry(id.0).or_default().push(opened.message);
            }
            other => panic!("no notification but {other:?}"),
        }
    }
    // Of every message once.
    assert_eq!(told.len(), QUEUES);
    for messages in told.values_mut() {
        messages.sort_unstable_by_key(|id| id.0);
        messages.dedup();
        assert_eq!(messages.len(), MESSAGES);
    }
    assert_eq!(relay.stats().connections_shed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_subscriptions_at_a_reload_come_with_room_for_their_news() {
    // More than a mailbox has room for beyond its subscriptions, and the systems' buffers hold.
    const QUEUES: usize = 2_500;
    let with = |subscriptions| {
        let mut config = config();
        config.limits.subscriptions = subscriptions;
        config
    };
    let dir = relay_dir();
    let identity = || load_dir(dir.path()).unwrap().1;
    let relay = Relay::start(with(1), identity()).await.unwrap();
    let mut reader = connect(&relay).await;
    let mut queues = vec![reader.create(M, true, None).await.unwrap()];
    assert_eq!(
        refused(reader.create(M, true, None).await),
        ErrorCode::Quota
    );
    relay.reload(with(QUEUES), &identity()).unwrap();
    while queues.len() < QUEUES {
        queues.push(reader.create(M, true, None).await.unwrap());
    }
    let mut sender = connect(&relay).await;
    let body = vec![3; BODY_BYTES_MAX];
    for queue in &queues {
        sender
            .send_message(queue.sender(), None, &body)
            .await
            .unwrap();
    }
    for _ in 0..QUEUES {
        let event = in_time(reader.event()).await.unwrap();
        assert!(matches!(event, Heard::Message(..)), "{event:?}");
    }
    assert_eq!(relay.stats().connections_shed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_is_refused_changes_nothing() {
    let relay = start(config()).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let mut other = config();
    other.limits.queues = 1;
    other.blocked = vec![Blocked {
        queue: QueueName(queue.sender().0),
        blocking: Some(Blocking {
            reason: BlockingReason::Spam,
            notice: None,
        }),
    }];
    // The certificate of another relay.
    relay.reload(other, &identity()).unwrap_err();
    let sent = peer.send_message(queue.sender(), None, b"m").await;
    assert_eq!(sent.unwrap(), Said::Ok);
    peer.create(M, true, None).await.unwrap();
}

#[tokio::test]
async fn who_never_reads_is_not_heard_for_long() {
    let mut clock = Clock::stop();
    let config = config();
    let limit = config.timeouts.send;
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    let body = vec![3; BODY_BYTES_MAX];
    for _ in 0..4 {
        peer.send_message(queue.sender(), None, &body)
            .await
            .unwrap();
    }
    // Each block asks for a hundred messages of 16 KiB; none is ever read.
    let id = queue.recipient();
    let flood = async {
        loop {
            for _ in 0..100 {
                let get = Request {
                    entity: Entity::Queue(&id.0),
                    key: Some(&queue.key),
                    command: Command::Get,
                };
                peer.ask(&get).await?;
            }
            peer.send().await?;
        }
    };
    let waiting = async {
        // Until the relay reads no more.
        clock.settle().await;
        clock.pass(limit).await;
    };
    let (ended, ()): (Result<(), PeerError>, ()) = tokio::join!(in_time(flood), waiting);
    assert!(
        matches!(ended, Err(PeerError::Io(_) | PeerError::Reject(_))),
        "{ended:?}"
    );
    until(|| relay.stats().connections_shed == 1 || relay.stats().connections == 1).await;
    // What waited for it is gone with it.
    let four = 4 * Memory::cost(BODY_BYTES_MAX);
    until(|| relay.stats().message_bytes == four).await;
    serves_others(&relay).await;
}

#[tokio::test]
async fn silence_is_ended_and_pings_keep_alive() {
    let mut clock = Clock::stop();
    let config = config();
    let limit = config.timeouts.idle;
    let relay = start(config).await;
    let silent = connect(&relay).await;
    let mut alive = connect(&relay).await;
    let ping = Request {
        entity: Entity::None,
        key: None,
        command: Command::Ping,
    };
    clock.pass(limit - A_LITTLE).await;
    assert_eq!(in_time(alive.call(&ping)).await.unwrap(), Said::Pong);
    clock.settle().await;
    assert_eq!(relay.stats().connections, 2);
    clock.pass(A_LITTLE).await;
    until(|| relay.stats().connections == 1).await;
    assert_eq!(in_time(alive.call(&ping)).await.unwrap(), Said::Pong);
    // However long ago it came.
    clock.pass(limit - A_LITTLE).await;
    assert_eq!(in_time(alive.call(&ping)).await.unwrap(), Said::Pong);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_messages_are_swept() {
    let mut config = config();
    config.timeouts.message = Duration::ZERO;
    config.timeouts.sweep = Duration::from_millis(50);
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    peer.send_message(queue.sender(), None, b"old soon")
        .await
        .unwrap();
    until(|| relay.stats().message_bytes == 0).await;
    assert_eq!(peer.own(&queue, Command::Get).await.unwrap(), Said::Ok);
}
