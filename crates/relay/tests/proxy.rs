//! Private message routing over real TLS: a sender, a relay as proxy, a relay as destination, and
//! destinations that misbehave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod rogue;
mod site;

use std::time::Duration;

use junto_crypto::{secretbox::BoxKey, x25519};
use junto_relay::bench::{Peer, PeerError, Said};
use junto_relay::{Relay, RunningRelay};
use junto_smp::address::{Fingerprint, ServerAddress};
use junto_smp::client::{Options, Request};
use junto_smp::command::Command;
use junto_smp::error::{
    BrokerFault, CommandFault, ErrorCode, Forwarded, ProxyFault, TransportFault,
};
use junto_smp::hello::HelloFault;
use junto_smp::id::{CorrelationId, Entity, LinkId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::link::{FIXED_BYTES_MAX, LinkBlobs, USER_BYTES_MAX};
use junto_smp::message::BODY_BYTES_MAX;
use junto_smp::name::Domain;
use junto_smp::proxy::{Destination, Forward};
use junto_smp::service::{ServiceFault, ServiceRole};
use junto_smp::version::VersionRange;

use junto_tls::{ServerIdentity, ServiceIdentity};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;

use rogue::{Answer, Rogue};
use site::clock::Clock;
use site::place::Place;
use site::routing::{PING, at, broker, proxy_config, refused_by_proxy, send, through};
use site::{C, M, acked, config, connect, heard, identity, in_time, refused, start, until};

/// Error of the destination.
fn refused_there<T>(result: Result<T, PeerError>) -> ErrorCode {
    refused(result)
}

fn secure<'a>(to: &'a SenderId, key: &'a AuthSecret) -> Request<'a> {
    Request {
        entity: Entity::Queue(&to.0),
        key: Some(key),
        command: Command::SenderKey(key.public_key()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_authorisation_and_size_passes_through_a_proxy() {
    let proxy = start(proxy_config()).await;
    let relay = start(config()).await;
    let mut recipient = connect(&relay).await;
    let mut sender = connect(&proxy).await;
    let destination = sender.proxy_to(&relay.address(), None).await.unwrap();
    // The second time it is the same session.
    let again = sender.proxy_to(&relay.address(), None).await.unwrap();
    assert_eq!(again, destination);
    let largest = vec![7; BODY_BYTES_MAX];

    let ed25519 = AuthSecret::generate(sender.rng());
    let x25519 = AuthSecret::X25519(x25519::SecretKey::generate(sender.rng()));
    for key in [None, Some(&ed25519), Some(&x25519)] {
        let mode = if key.is_some() { M } else { C };
        let queue = recipient.create(mode, true, None).await.unwrap();
        let to = queue.sender();
        if let Some(key) = key {
            for _ in 0..2 {
                let secured = through(&mut sender, &destination, &secure(&to, key)).await;
                assert_eq!(secured.unwrap(), Said::Ok);
            }
        }
        for body in [b"".as_slice(), b"one", &largest] {
            let sent = through(&mut sender, &destination, &send(&to, key, body)).await;
            assert_eq!(sent.unwrap(), Said::Ok);
            let (id, heard) = heard(&mut recipient, &queue).await;
            assert_eq!(heard.unwrap(), body);
            assert_eq!(acked(&mut recipient, &queue, id).await, None);
        }
        if key.is_some() {
            let unsigned = through(&mut sender, &destination, &send(&to, None, b"x")).await;
            assert_eq!(refused_there(unsigned), ErrorCode::Auth);
        }
    }
    assert_eq!(relay.stats().forwarded_received, 15);
    assert_eq!(proxy.stats().proxy_passed_on, 15);
    assert_eq!(proxy.stats().proxy_destinations, 1);
    assert_eq!(proxy.stats().messages_received, 0);
    relay.shutdown().await.unwrap();
    proxy.shutdown().await.unwrap();
}

/// Reading the data behind a link, and securing a queue through it, at the largest size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_links_are_read_through_a_proxy() {
    let proxy = start(proxy_config()).await;
    let relay = start(config()).await;
    let mut owner = connect(&relay).await;
    let mut sender = connect(&proxy).await;
    let destination = sender.proxy_to(&relay.address(), None).await.unwrap();
    let (fixed, user) = (vec![1; FIXED_BYTES_MAX], vec![2; USER_BYTES_MAX]);
    for (mode, number) in [(C, 1), (M, 2)] {
        let queue = owner.create(mode, false, None).await.unwrap();
        let link = LinkId([number; 24]);
        let blobs = LinkBlobs::new(&fixed, &user).unwrap();
        let set = owner.own(&queue, Command::SetLink { link, blobs }).await;
        assert_eq!(set.unwrap(), Said::Ok);
        let read = |link, key, command| Request {
            entity: Entity::Queue(link),
            key,
            command,
        };
        let data = Said::Link(queue.sender(), fixed.clone(), user.clone());
        let key = AuthSecret::generate(sender.rng());
        let by_key = Command::LinkKey(key.public_key());
        let asked = match mode == C {
            true => read(&link.0, None, Command::ReadLink),
            false => read(&link.0, Some(&key), by_key),
        };
        assert_eq!(
            through(&mut sender, &destination, &asked).await.unwrap(),
            data
        );
        let unknown = LinkId([9; 24]);
        let asked = match mode == C {
            true => read(&unknown.0, None, Command::ReadLink),
            false => read(&unknown.0, Some(&key), Command::LinkKey(key.public_key())),
        };
        let answer = through(&mut sender, &destination, &asked).await;
        assert_eq!(refused_there(answer), ErrorCode::Auth);
    }
}

/// What opens the answer to a command that a sender has sealed for a relay.
type Asked = (u64, BoxKey, CorrelationId);

/// Passes on a message for `to`, as a proxy does, whose sender is a part of this test.
fn ask_sealed(far: &mut Peer, to: &SenderId, body: u8) -> Asked {
    let secret = x25519::SecretKey::generate(far.rng());
    let shared = secret.diffie_hellman(&far.server_key()).unwrap();
    let key = BoxKey::from_shared(&shared);
    let correlation = CorrelationId::random(far.rng());
    // No authorisation, correlation, entity, command; alone in its batch; barely padded.
    let mut transmission = vec![0, 24];
    transmission.extend(correlation.0);
    transmission.push(24);
    transmission.extend(to.0);
    transmission.extend(*b"SEND T ");
    transmission.push(body);
    let length = u8::try_from(transmission.len()).unwrap();
    let mut text = vec![0, length + 3, 1, 0, length];
    text.extend(transmission);
    let mut sealed = Vec::new();
    key.seal(&correlation.nonce(), &text, &mut sealed);
    let forward = Forward {
        version: 17,
        key: secret.public_key(),
        sealed: &sealed,
    };
    let number = far.ask_relayed(&correlation, &forward).unwrap();
    (number, key, correlation)
}

async fn assert_sealed_ok(far: &mut Peer, (number, key, correlation): Asked) {
    let Said::Sealed(sealed) = in_time(far.answer(number)).await.unwrap() else {
        panic!("no forwarded answer");
    };
    let text = key
        .open_padded(&correlation.nonce().reversed(), &sealed)
        .unwrap();
    assert!(text.ends_with(b"OK"));
}

/// A service in the role of a proxy passes on, and nothing else; no other service passes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passing_on_is_what_services_that_are_proxies_do_and_no_others() {
    let relay = start(proxy_config()).await;
    let other = start(config()).await;
    let mut owner = connect(&relay).await;
    let queue = owner.create(C, true, None).await.unwrap();
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let mut identity = || ServiceIdentity::generate(&mut rng, UnixTime::now()).unwrap();
    let versions = VersionRange::SUPPORTED;
    let address = relay.address();
    let own = identity();
    let served = Peer::connect_service(&address, versions, &own, ServiceRole::Proxy).await;
    let mut proxy = served.unwrap();
    let asked = ask_sealed(&mut proxy, &queue.sender(), 7);
    proxy.send().await.unwrap();
    assert_sealed_ok(&mut proxy, asked).await;
    assert_eq!(heard(&mut owner, &queue).await.1.unwrap(), [7]);
    assert_eq!(in_time(proxy.call(&PING)).await.unwrap(), Said::Pong);

    let (recipient, sender) = (queue.recipient(), queue.sender());
    let id = proxy.service().unwrap();
    let asked = |entity, command| Request {
        entity: Entity::Queue(entity),
        key: Some(&queue.key),
        command,
    };
    for request in [
        send(&sender, None, b"x"),
        asked(&recipient.0, Command::Sub),
        asked(&recipient.0, Command::Get),
        asked(&recipient.0, Command::Ack(None)),
        asked(&recipient.0, Command::Delete),
        asked(&recipient.0, Command::NotifierSub),
        asked(&id.0, Command::ServiceSub(None)),
        asked(&id.0, Command::NotifierServiceSub(None)),
    ] {
        let said = in_time(proxy.call(&request)).await;
        assert_eq!(
            refused(said),
            ErrorCode::PROHIBITED,
            "{:?}",
            request.command
        );
    }
    let created = in_time(proxy.create(M, true, None)).await;
    assert_eq!(refused(created), ErrorCode::PROHIBITED);
    // It needs no proxy itself.
    let reached = in_time(proxy.proxy_to(&other.address(), None)).await;
    assert_eq!(refused(reached), ErrorCode::PROHIBITED);

    // Whether or not the box opens.
    let relayed = Request {
        entity: Entity::None,
        key: None,
        command: Command::RelayForward(&[0; 100]),
    };
    assert_eq!(
        refused(in_time(proxy.call(&relayed)).await),
        ErrorCode::Crypto
    );
    for role in [ServiceRole::Messaging, ServiceRole::Notifier] {
        let served = Peer::connect_service(&address, versions, &identity(), role).await;
        let said = in_time(served.unwrap().call(&relayed)).await;
        assert_eq!(refused(said), ErrorCode::PROHIBITED, "{role:?}");
        // Nor is it let in by the certificate of one that does.
        let said = Peer::connect_service(&address, versions, &own, role).await;
        let fault = HelloFault::NoService(ServiceFault::Refused);
        assert!(matches!(said, Err(PeerError::Hello(it)) if it == fault));
    }
}

/// Several commands of several senders in one block, as other proxies may send them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_forwarded_commands_is_carried_out_one_by_one() {
    let relay = start(config()).await;
    let mut recipient = connect(&relay).await;
    let queue = recipient.create(C, false, None).await.unwrap();
    let address = relay.address();
    let options = Options::proxy(address.fingerprint());
    let mut far = Peer::connect_as(&address, &options).await.unwrap();
    let server_key = far.server_key();
    let mut asked = Vec::new();
    for number in 0..20 {
        asked.push(ask_sealed(&mut far, &queue.sender(), number));
    }
    // One that does not open among them harms none.
    let broken = Forward {
        version: 17,
        key: server_key,
        sealed: &[0; 40],
    };
    let broken = far.ask_relayed(&CorrelationId([1; 24]), &broken).unwrap();
    far.send().await.unwrap();
    assert_eq!(far.blocks().sent, 1);
    for asked in asked {
        assert_sealed_ok(&mut far, asked).await;
    }
    assert_eq!(
        refused(in_time(far.answer(broken)).await),
        ErrorCode::Crypto
    );
    assert_eq!(relay.stats().messages_received, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_destination_answers_errors_through_the_proxy_as_directly() {
    let proxy = start(proxy_config()).await;
    let mut there = config();
    there.limits.messages_per_queue = 1;
    let relay = start(there).await;
    let mut recipient = connect(&relay).await;
    let queue = recipient.create(M, false, None).await.unwrap();
    let to = queue.sender();
    let mut sender = connect(&proxy).await;
    let destination = sender.proxy_to(&relay.address(), None).await.unwrap();
    let key = AuthSecret::generate(sender.rng());

    let unknown = SenderId([9; 24]);
    for request in [send(&unknown, None, b"x"), send(&unknown, Some(&key), b"x")] {
        let answer = through(&mut sender, &destination, &request).await;
        assert_eq!(refused_there(answer), ErrorCode::Auth);
    }
    let first = through(&mut sender, &destination, &send(&to, None, b"1")).await;
    assert_eq!(first.unwrap(), Said::Ok);
    let second = through(&mut sender, &destination, &send(&to, None, b"2")).await;
    assert_eq!(refused_there(second), ErrorCode::Quota);
    // One byte more does not fit into what is forwarded, let alone into the queue.
    let larger = vec![0; BODY_BYTES_MAX + 200];
    let too_large = through(&mut sender, &destination, &send(&to, None, &larger)).await;
    assert!(
        matches!(too_large, Err(PeerError::Reject(_))),
        "{too_large:?}"
    );

    // Clients ask for names in this way above all. Here is nobody who knows them.
    let name = Request {
        entity: Entity::None,
        key: None,
        command: Command::Resolve(Domain::new("somebody.simplex").unwrap()),
    };
    let answer = through(&mut sender, &destination, &name).await;
    assert_eq!(refused_there(answer), ErrorCode::Name);

    // Nothing but what senders do.
    let recipient_id = queue.recipient();
    for command in [Command::Sub, Command::Get, Command::Delete, Command::Info] {
        let request = Request {
            entity: Entity::Queue(&recipient_id.0),
            key: Some(&queue.key),
            command,
        };
        let answer = through(&mut sender, &destination, &request).await;
        assert_eq!(refused_there(answer), ErrorCode::PROHIBITED);
    }
    let ping = Request {
        entity: Entity::None,
        key: None,
        command: Command::Ping,
    };
    let answer = through(&mut sender, &destination, &ping).await;
    assert_eq!(refused_there(answer), ErrorCode::PROHIBITED);
    let nested = Request {
        entity: Entity::None,
        key: None,
        command: Command::RelayForward(&[0; 64]),
    };
    let answer = through(&mut sender, &destination, &nested).await;
    assert_eq!(refused_there(answer), ErrorCode::PROHIBITED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_of_the_proxy() {
    let relay = start(config()).await;
    let denied = ErrorCode::Proxy(ProxyFault::BasicAuth);
    let password = |text| junto_relay::config::Password::new(text);
    for (create, own) in [
        (Some("right"), None),
        (None, Some("right")),
        (Some("create"), Some("right")),
    ] {
        let mut config = proxy_config();
        config.password = create.and_then(password);
        config.proxy_password = own.and_then(password);
        let proxy = start(config).await;
        let mut sender = connect(&proxy).await;
        for wrong in [None, Some(b"wrong".as_slice()), Some(b"create"), Some(b"")] {
            let answer = sender.proxy_to(&relay.address(), wrong).await;
            assert_eq!(refused(answer), denied);
        }
        assert_eq!(proxy.stats().proxy_connected, 0);
        sender
            .proxy_to(&relay.address(), Some(b"right"))
            .await
            .unwrap();
    }
    let mut config = proxy_config();
    config.proxy.enabled = false;
    let off = start(config).await;
    let mut sender = connect(&off).await;
    assert_eq!(
        refused(sender.proxy_to(&relay.address(), None).await),
        denied
    );
    assert_eq!(relay.stats().connections_total, 3);
}

/// A destination that is connected to by another proxy, to have something to name.
async fn strange_destination(relay: &RunningRelay) -> Destination {
    let other = start(proxy_config()).await;
    connect(&other)
        .await
        .proxy_to(&relay.address(), None)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_are_none_and_relays_that_are_not_there() {
    let proxy = start(proxy_config()).await;
    let place = Place::new();
    let mut there = config();
    there.bind = place.address;
    let relay = start(there).await;
    let mut sender = connect(&proxy).await;
    let to = SenderId([1; 24]);
    let strange = strange_destination(&relay).await;
    let answer = through(&mut sender, &strange, &send(&to, None, b"x")).await;
    assert_eq!(
        refused_by_proxy(answer),
        ErrorCode::Proxy(ProxyFault::NoSession)
    );

    // Another identity at the same place.
    let false_pin = ServerAddress::new(
        Fingerprint([5; 32]),
        relay.address().hosts().to_vec(),
        relay.address().port(),
    );
    let answer = sender.proxy_to(&false_pin.unwrap(), None).await;
    assert_eq!(refused(answer), broker(BrokerFault::Network));
    // Nobody at that place. The second time it is not even tried.
    let gone = relay.address();
    relay.shutdown().await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            refused(sender.proxy_to(&gone, None).await),
            broker(BrokerFault::Network)
        );
    }
    assert_eq!(proxy.stats().proxy_failed, 2);
    // Onion services need a SOCKS server.
    let onion = at(&gone, "abcdefghijklmnop.onion");
    assert_eq!(
        refused(sender.proxy_to(&onion, None).await),
        broker(BrokerFault::Host)
    );
    // Itself.
    for own in [proxy.address(), at(&proxy.address(), "localhost")] {
        assert_eq!(
            refused(sender.proxy_to(&own, None).await),
            broker(BrokerFault::Host)
        );
    }
    let disguised = ServerAddress::new(
        Fingerprint([5; 32]),
        proxy.address().hosts().to_vec(),
        proxy.address().port(),
    );
    let answer = sender.proxy_to(&disguised.unwrap(), None).await;
    assert_eq!(refused(answer), broker(BrokerFault::Host));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_stays_out_of_private_networks() {
    let proxy = start(config()).await;
    let relay = start(config()).await;
    let mut sender = connect(&proxy).await;
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::1]",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
    ] {
        let answer = in_time(sender.proxy_to(&at(&relay.address(), host), None)).await;
        assert_eq!(refused(answer), broker(BrokerFault::Host), "{host}");
    }
    assert_eq!(relay.stats().connections_total, 0);
    // The operator of a closed network may allow it.
    let closed = start(proxy_config()).await;
    let mut sender = connect(&closed).await;
    sender.proxy_to(&relay.address(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_restarts() {
    let proxy = start(proxy_config()).await;
    // The same identity twice: keys, serial numbers and times come from these.
    let now = UnixTime::now();
    let server = || {
        let mut rng = ChaCha20Rng::from_seed([8; 32]);
        ServerIdentity::ephemeral("127.0.0.1", &mut rng, now).unwrap()
    };
    let place = Place::new();
    let start_there = async || {
        let mut config = config();
        config.bind = place.address;
        Relay::start(config, server()).await.unwrap()
    };
    let relay = start_there().await;
    let address = relay.address();
    let mut sender = connect(&proxy).await;
    let before = sender.proxy_to(&address, None).await.unwrap();
    let to = SenderId([1; 24]);
    let answer = through(&mut sender, &before, &send(&to, None, b"x")).await;
    assert_eq!(refused_there(answer), ErrorCode::Auth);
    relay.shutdown().await.unwrap();
    until(|| proxy.stats().proxy_destinations == 0).await;
    let answer = through(&mut sender, &before, &send(&to, None, b"x")).await;
    assert_eq!(
        refused_by_proxy(answer),
        ErrorCode::Proxy(ProxyFault::NoSession)
    );
    let _relay = start_there().await;
    let after = in_time(sender.proxy_to(&address, None)).await.unwrap();
    assert_ne!(after.session(), before.session());
    let answer = through(&mut sender, &after, &send(&to, None, b"x")).await;
    assert_eq!(refused_there(answer), ErrorCode::Auth);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_between_proxy_and_destination() {
    let proxy = start(proxy_config()).await;
    let mut sender = connect(&proxy).await;
    let to = SenderId([1; 24]);
    for (min, max, agreed) in [(15, 15, 15), (15, 16, 16), (15, 17, 17), (15, 20, 17)] {
        let range = VersionRange::new(min, max).unwrap();
        let relay = Relay::start_with_versions(config(), identity(), range)
            .await
            .unwrap();
        let destination = sender.proxy_to(&relay.address(), None).await.unwrap();
        assert_eq!(destination.version().number(), agreed);
        let key = AuthSecret::generate(sender.rng());
        let answer = through(&mut sender, &destination, &send(&to, Some(&key), b"x")).await;
        assert_eq!(refused_there(answer), ErrorCode::Auth);
    }
    // Newer than what is forwarded.
    let range = VersionRange::new(18, 20).unwrap();
    let relay = Relay::start_with_versions(config(), identity(), range)
        .await
        .unwrap();
    let answer = sender.proxy_to(&relay.address(), None).await;
    let version = BrokerFault::Transport(TransportFault::Version);
    assert_eq!(refused(answer), broker(version));
}

/// A connection is shared, and each sender hears its own answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_share_one_connection() {
    const SENDERS: usize = 4;
    const MESSAGES: usize = 40;
    let mut own = proxy_config();
    // All of them come from one exempt address, and none is to be refused.
    own.proxy.limits.forwards_per_destination = 512;
    let proxy = start(own).await;
    let relay = start(config()).await;
    let mut recipient = connect(&relay).await;
    let mut tasks = tokio::task::JoinSet::new();
    let mut queues = Vec::new();
    for number in 0..SENDERS {
        let queue = recipient.create(M, false, None).await.unwrap();
        let to = queue.sender();
        queues.push(queue);
        let (proxy, relay) = (proxy.address(), relay.address());
        tasks.spawn(async move {
            let mut sender = Peer::connect(&proxy).await.unwrap();
            let destination = sender.proxy_to(&relay, None).await.unwrap();
            let mut asked = Vec::new();
            for message in 0..MESSAGES {
                let body = [
                    u8::try_from(number).unwrap(),
                    u8::try_from(message).unwrap(),
                ];
                let number = sender
                    .ask_through(&destination, &send(&to, None, &body))
                    .await;
                asked.push(number.unwrap());
                sender.send().await.unwrap();
            }
            for number in asked {
                assert_eq!(sender.answer(number).await.unwrap(), Said::Ok);
            }
        });
    }
    in_time(async {
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await;
    assert_eq!(proxy.stats().proxy_connected, 1);
    let count = u64::try_from(SENDERS * MESSAGES).unwrap();
    assert_eq!(relay.stats().messages_received, count);
    for (number, queue) in queues.iter().enumerate() {
        assert_eq!(
            recipient.own(queue, Command::Sub).await.unwrap(),
            Said::Subscribed
        );
        let mut next = Some(heard(&mut recipient, queue).await);
        let mut bodies = Vec::new();
        while let Some((id, body)) = next {
            let body = body.unwrap();
            assert_eq!(usize::from(body[0]), number);
            bodies.push(usize::from(body[1]));
            next = acked(&mut recipient, queue, id).await;
        }
        // In the order in which they were sent, though nobody waited for answers in between.
        assert_eq!(bodies, (0..MESSAGES).collect::<Vec<_>>());
    }
}

/// What a destination says instead of an answer reaches the sender as an error of the proxy, and
/// never as one of the destination.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_lies_to_the_proxy() {
    let mut config = proxy_config();
    config.proxy.timeouts.retry = Duration::ZERO;
    let proxy = start(config).await;
    let mut sender = connect(&proxy).await;
    let protocol = |code| ErrorCode::Proxy(ProxyFault::Protocol(code));
    for (answer, expected) in [
        (
            Answer::Error(ErrorCode::Crypto),
            protocol(Forwarded::Crypto),
        ),
        (Answer::Error(ErrorCode::Auth), protocol(Forwarded::Auth)),
        (
            Answer::Error(ErrorCode::SYNTAX),
            protocol(Forwarded::Command(CommandFault::Syntax)),
        ),
        (
            Answer::Error(ErrorCode::Proxy(ProxyFault::NoSession)),
            broker(BrokerFault::Unexpected),
        ),
        (Answer::Other, broker(BrokerFault::Response)),
        (Answer::BadBox, broker(BrokerFault::Response)),
        (Answer::Garbage, broker(BrokerFault::Response)),
        (Answer::Unsolicited, broker(BrokerFault::Response)),
        (Answer::Close, broker(BrokerFault::Network)),
    ] {
        let mut rogue = Rogue::start().await;
        let destination = in_time(sender.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        let to = SenderId([1; 24]);
        let number = sender
            .ask_through(&destination, &send(&to, None, b"x"))
            .await
            .unwrap();
        sender.send().await.unwrap();
        rogue.hear().await;
        let name = format!("{answer:?}");
        rogue.answer(answer).await;
        let said = in_time(sender.answer(number)).await;
        assert_eq!(refused_by_proxy(said), expected, "{name}");
    }
    assert_eq!(proxy.stats().connections_shed, 0);
}

#[tokio::test]
async fn a_silent_destination_is_cut_off_and_costs_nobody_else() {
    let clock = Clock::stop();
    let mut config = proxy_config();
    let answer_time = config.proxy.timeouts.answer;
    config.proxy.timeouts.retry = Duration::from_secs(3_600);
    config.proxy.timeouts.retry_max = Duration::from_secs(3_600);
    let proxy = start(config).await;
    let relay = start(site::config()).await;
    let mut rogue = Rogue::start().await;
    let (mut victim, mut other) = (connect(&proxy).await, connect(&proxy).await);
    let silent = victim.proxy_to(&rogue.address, None).await.unwrap();
    let honest = other.proxy_to(&relay.address(), None).await.unwrap();
    let to = SenderId([1; 24]);
    let number = victim
        .ask_through(&silent, &send(&to, None, b"x"))
        .await
        .unwrap();
    victim.send().await.unwrap();
    rogue.hear().await;
    let answer = through(&mut other, &honest, &send(&to, None, b"x")).await;
    assert_eq!(refused_there(answer), ErrorCode::Auth);
    clock.pass(answer_time).await;
    let said = in_time(victim.answer(number)).await;
    assert_eq!(refused_by_proxy(said), broker(BrokerFault::Timeout));
    until(|| proxy.stats().proxy_destinations == 1).await;
    // It never answered: not to be tried again soon.
    let again = victim.proxy_to(&rogue.address, None).await;
    assert_eq!(refused(again), broker(BrokerFault::Timeout));
    assert_eq!(proxy.stats().proxy_connected, 2);
    // The connection of the one who asked is as good as before.
    let honest = victim.proxy_to(&relay.address(), None).await.unwrap();
    let answer = through(&mut victim, &honest, &send(&to, None, b"x")).await;
    assert_eq!(refused_there(answer), ErrorCode::Auth);
}

/// A new password holds from the next request on; all else of the proxy waits for the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_password_can_be_changed_while_it_runs() {
    let now = UnixTime::now();
    let server = || {
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        ServerIdentity::ephemeral("127.0.0.1", &mut rng, now).unwrap()
    };
    let proxy = Relay::start(proxy_config(), server()).await.unwrap();
    let relay = start(config()).await;
    let mut sender = connect(&proxy).await;
    sender.proxy_to(&relay.address(), None).await.unwrap();
    let mut config = proxy_config();
    config.proxy_password = junto_relay::config::Password::new("new");
    config.proxy.limits.destinations = 7;
    let reloaded = proxy.reload(config, &server()).unwrap();
    assert_eq!(reloaded.waiting, ["proxy"]);
    let denied = ErrorCode::Proxy(ProxyFault::BasicAuth);
    assert_eq!(
        refused(sender.proxy_to(&relay.address(), None).await),
        denied
    );
    sender
        .proxy_to(&relay.address(), Some(b"new"))
        .await
        .unwrap();
}

/// What goes in and out of a SOCKS server, for `.onion` names and for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onion_relays_are_reached_through_socks() {
    let relay = start(config()).await;
    let socks = rogue::Socks::start(relay.local_addr()).await;
    let mut config = site::config();
    config.proxy.socks = Some(socks.endpoint());
    let proxy = start(config).await;
    let mut sender = connect(&proxy).await;
    let onion = at(&relay.address(), "abcdefghijklmnop.onion");
    let destination = in_time(sender.proxy_to(&onion, None)).await.unwrap();
    let to = SenderId([1; 24]);
    let answer = through(&mut sender, &destination, &send(&to, None, b"x")).await;
    assert_eq!(refused_there(answer), ErrorCode::Auth);
    assert_eq!(
        socks.asked(),
        [format!("abcdefghijklmnop.onion:{}", relay.address().port())]
    );

    let mut config = site::config();
    config.proxy.socks = Some(socks.endpoint());
    config.proxy.socks_mode = junto_relay::SocksMode::Always;
    let proxy = start(config).await;
    let mut sender = connect(&proxy).await;
    let named = at(&relay.address(), "relay.example");
    in_time(sender.proxy_to(&named, None)).await.unwrap();
    assert_eq!(socks.asked().len(), 2);
    for host in ["127.0.0.1", "[::1]", "localhost", "127.1", "0x7f.1"] {
        let answer = in_time(sender.proxy_to(&at(&relay.address(), host), None)).await;
        assert_eq!(refused(answer), broker(BrokerFault::Host), "{host}");
    }
    assert_eq!(socks.asked().len(), 2);
}
