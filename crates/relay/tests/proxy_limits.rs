//! Limits of private message routing, each at its edge, through real TLS: per client, per source, per
//! destination and in all, while others are served.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod rogue;
mod site;

use std::time::Duration;

use junto_relay::bench::{Peer, Said};
use junto_relay::config::Rate;
use junto_relay::{Relay, RunningRelay};
use junto_smp::address::ServerAddress;
use junto_smp::client::Options;
use junto_smp::error::{BrokerFault, ErrorCode, Forwarded, ProxyFault};
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;
use tokio::net::{TcpListener, TcpSocket};

use rogue::{Answer, Rogue};
use site::clock::Clock;
use site::place::Place;
use site::routing::{
    NOWHERE, PING, at, broker, connect_request, eager_proxy, other_than, pass_on, proxy_config,
    refused_by_proxy, send, strict_proxy, through,
};
use site::{A, B, connect, in_time, peer_from, refused, start, until};

const NETWORK: ErrorCode = ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Network));
const TIMEOUT: ErrorCode = ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Timeout));
const NO_SESSION: ErrorCode = ErrorCode::Proxy(ProxyFault::NoSession);
/// What an honest relay says to a command for a queue that it does not have.
const SERVED: ErrorCode = ErrorCode::Auth;

/// A relay to send to.
async fn honest() -> RunningRelay {
    start(site::config()).await
}

/// A relay that takes connections and says nothing.
async fn mute() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = format!("smp://{}@127.0.0.1:{port}", "B".repeat(42) + "A=");
    (listener, text.parse().unwrap())
}

/// Asks the proxy to connect, and does not wait for its answer, whose number it gives.
async fn ask_for(client: &mut Peer, server: &ServerAddress) -> u64 {
    let number = client.ask(&connect_request(server)).await.unwrap();
    client.send().await.unwrap();
    number
}

/// The client is served by the relay, through the proxy.
async fn is_served(client: &mut Peer, relay: &RunningRelay) {
    let destination = in_time(client.proxy_to(&relay.address(), None))
        .await
        .unwrap();
    let answer = through(client, &destination, &send(&NOWHERE, None, b"x")).await;
    assert_eq!(refused(answer), SERVED);
}

#[tokio::test]
async fn what_one_client_has_under_way_is_bounded() {
    let mut clock = Clock::stop();
    let mut config = proxy_config();
    config.proxy.limits.forwards_per_client = 2;
    let proxy = start(config).await;
    let mut rogue = Rogue::start().await;
    let mut sender = connect(&proxy).await;
    let destination = sender.proxy_to(&rogue.address, None).await.unwrap();
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(pass_on(&mut sender, &destination).await);
    }
    rogue.hear().await;
    rogue.hear().await;
    // The third is not even read, nor is the PING behind it. Another client is served.
    let pinged = sender.ask(&PING).await.unwrap();
    sender.send().await.unwrap();
    let mut other = connect(&proxy).await;
    assert_eq!(in_time(other.call(&PING)).await.unwrap(), Said::Pong);
    clock.settle().await;
    assert_eq!(rogue.heard_without_waiting(), 0);
    // PRXY, two PFWD, and the PING of the other.
    assert_eq!(proxy.stats().blocks_received, 4, "read while full");
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    rogue.hear().await;
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    for number in asked {
        let said = in_time(sender.answer(number)).await;
        let crypto = ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Crypto));
        assert_eq!(refused_by_proxy(said), crypto);
    }
    assert_eq!(in_time(sender.answer(pinged)).await.unwrap(), Said::Pong);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_destination_and_all_have_under_way_is_bounded() {
    for all in [false, true] {
        let mut config = strict_proxy();
        if all {
            config.proxy.limits.forwards = 1;
        } else {
            config.proxy.limits.forwards_per_destination = 1;
        }
        let proxy = start(config).await;
        let relay = honest().await;
        let mut rogue = Rogue::start().await;
        let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
        let busy = first.proxy_to(&rogue.address, None).await.unwrap();
        let idle = second.proxy_to(&relay.address(), None).await.unwrap();
        let number = pass_on(&mut first, &busy).await;
        rogue.hear().await;
        let answer = through(&mut second, &busy, &send(&NOWHERE, None, b"x")).await;
        assert_eq!(refused_by_proxy(answer), TIMEOUT);
        let answer = through(&mut second, &idle, &send(&NOWHERE, None, b"x")).await;
        if all {
            assert_eq!(refused_by_proxy(answer), TIMEOUT);
        } else {
            assert_eq!(refused(answer), SERVED);
        }
        rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
        refused_by_proxy(in_time(first.answer(number)).await);
        // Its place is free again.
        let answer = through(&mut second, &idle, &send(&NOWHERE, None, b"x")).await;
        assert_eq!(refused(answer), SERVED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_frees_its_places() {
    let mut config = proxy_config();
    config.proxy.limits.forwards = 1;
    let proxy = start(config).await;
    let mut rogue = Rogue::start().await;
    let mut sender = connect(&proxy).await;
    let destination = sender.proxy_to(&rogue.address, None).await.unwrap();
    pass_on(&mut sender, &destination).await;
    rogue.hear().await;
    drop(sender);
    until(|| proxy.stats().connections == 0).await;
    let mut next = connect(&proxy).await;
    let number = pass_on(&mut next, &destination).await;
    rogue.hear().await;
    // The answer that nobody waits for does no harm.
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    rogue.answer(Answer::Error(ErrorCode::Block)).await;
    let said = refused_by_proxy(in_time(next.answer(number)).await);
    assert_eq!(
        said,
        ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Block))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_destinations_is_bounded() {
    let mut config = proxy_config();
    config.proxy.limits.destinations = 1;
    let proxy = start(config).await;
    let (first, second) = (honest().await, honest().await);
    let mut rogue = Rogue::start().await;
    let mut sender = connect(&proxy).await;
    // An idle one makes room.
    let to_first = sender.proxy_to(&first.address(), None).await.unwrap();
    sender.proxy_to(&second.address(), None).await.unwrap();
    let answer = through(&mut sender, &to_first, &send(&NOWHERE, None, b"x")).await;
    assert_eq!(refused_by_proxy(answer), NO_SESSION);
    until(|| proxy.stats().proxy_destinations == 1).await;
    until(|| first.stats().connections == 0).await;
    // So does one that cannot be reached.
    let busy = sender.proxy_to(&rogue.address, None).await.unwrap();
    let number = pass_on(&mut sender, &busy).await;
    rogue.hear().await;
    // A busy one does not.
    let mut other = connect(&proxy).await;
    let answer = other.proxy_to(&first.address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    rogue.answer(Answer::Close).await;
    refused_by_proxy(in_time(sender.answer(number)).await);
    until(|| proxy.stats().proxy_destinations == 0).await;
    other.proxy_to(&first.address(), None).await.unwrap();
}

#[tokio::test]
async fn an_unused_connection_to_a_destination_is_closed() {
    let mut clock = Clock::stop();
    let config = proxy_config();
    let idle = config.proxy.timeouts.idle;
    let proxy = start(config).await;
    let relay = honest().await;
    let mut sender = connect(&proxy).await;
    let before = sender.proxy_to(&relay.address(), None).await.unwrap();
    clock.pass(idle - Duration::from_secs(1)).await;
    clock.settle().await;
    assert_eq!(proxy.stats().proxy_destinations, 1);
    clock.pass(Duration::from_secs(1)).await;
    until(|| proxy.stats().proxy_destinations == 0 && relay.stats().connections == 0).await;
    // That is no failure: it is made again at once.
    let after = sender.proxy_to(&relay.address(), None).await.unwrap();
    assert_ne!(before.session(), after.session());
}

/// Several senders may ask for the same destination while it is being connected to, or for many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_attempt_serves_all_who_ask() {
    let mut config = proxy_config();
    config.proxy.limits.connecting_per_client = 2;
    let proxy = start(config).await;
    let relays = [honest().await, honest().await, honest().await];
    let mut sender = connect(&proxy).await;
    let mut asked = Vec::new();
    // All in one block.
    for _ in 0..10 {
        for relay in &relays {
            let request = connect_request(&relay.address());
            asked.push(sender.ask(&request).await.unwrap());
        }
    }
    sender.send().await.unwrap();
    for number in asked {
        let said = in_time(sender.answer(number)).await.unwrap();
        assert!(matches!(said, Said::ProxyKey(_)));
    }
    assert_eq!(proxy.stats().proxy_connected, 3);
    assert_eq!(proxy.stats().proxy_destinations, 3);
}

/// Who takes the connection and then says nothing holds a place among those being made, for a time.
#[tokio::test]
async fn connections_being_made_are_bounded_and_given_up() {
    let clock = Clock::stop();
    let mut config = proxy_config();
    config.proxy.limits.connecting = 1;
    let connect_time = config.proxy.timeouts.connect;
    let proxy = start(config).await;
    let relay = honest().await;
    let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
    // What is connected already needs no place.
    second.proxy_to(&relay.address(), None).await.unwrap();
    let (listener, mute) = mute().await;
    let asked = ask_for(&mut first, &mute).await;
    let (held, _) = in_time(listener.accept()).await.unwrap();
    let other = honest().await;
    let answer = second.proxy_to(&other.address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    second.proxy_to(&relay.address(), None).await.unwrap();
    clock.pass(connect_time).await;
    let said = in_time(first.answer(asked)).await;
    assert_eq!(refused(said), TIMEOUT);
    drop(held);
    // The place is free again, and the refusal was none of the other relay's fault.
    second.proxy_to(&other.address(), None).await.unwrap();
}

/// Connections that are being made for a source are counted, whatever becomes of its clients.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn connections_being_made_for_one_source_are_limited_exactly() {
    let clock = Clock::stop();
    let mut config = strict_proxy();
    config.proxy.limits.connecting_per_source = 2;
    let connect_time = config.proxy.timeouts.connect;
    let proxy = start(config).await;
    let (relay, third) = (honest().await, honest().await);
    let mut other = peer_from(B, &proxy).await.unwrap();
    is_served(&mut other, &relay).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let (listener, address) = mute().await;
        let mut client = peer_from(A, &proxy).await.unwrap();
        ask_for(&mut client, &address).await;
        held.push(in_time(listener.accept()).await.unwrap());
        // It leaves; the attempt goes on.
        drop(client);
    }
    let mut client = peer_from(A, &proxy).await.unwrap();
    let answer = client.proxy_to(&third.address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    assert_eq!(third.stats().connections_total, 0);
    // It may use what is there, and others have places of their own.
    is_served(&mut client, &relay).await;
    is_served(&mut other, &third).await;
    clock.pass(connect_time).await;
    until(|| proxy.stats().proxy_failed == 2).await;
    let fourth = honest().await;
    is_served(&mut client, &fourth).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_of_one_source_are_limited_exactly() {
    let mut config = strict_proxy();
    config.proxy.limits.destinations_per_source = 2;
    let proxy = start(config).await;
    let mut relays = Vec::new();
    for _ in 0..4 {
        relays.push(honest().await);
    }
    let mut other = peer_from(B, &proxy).await.unwrap();
    is_served(&mut other, &relays[0]).await;
    for relay in &relays[1..3] {
        // Whichever of its connections asks.
        is_served(&mut peer_from(A, &proxy).await.unwrap(), relay).await;
    }
    assert_eq!(proxy.stats().proxy_destinations, 3);
    // What others made costs it nothing. The third of its own takes the place of the first.
    let mut client = peer_from(A, &proxy).await.unwrap();
    is_served(&mut client, &relays[0]).await;
    is_served(&mut client, &relays[3]).await;
    until(|| relays[1].stats().connections == 0).await;
    assert_eq!(proxy.stats().proxy_destinations, 3);
    assert_eq!(proxy.stats().proxy_connected, 4);
    // With commands on their way to both of its own, it gets no third.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut rogue = Rogue::start().await;
        let busy = in_time(client.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        let number = pass_on(&mut client, &busy).await;
        rogue.hear().await;
        held.push((rogue, number));
    }
    assert_eq!(proxy.stats().proxy_destinations, 3);
    let answer = client.proxy_to(&relays[1].address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    is_served(&mut other, &relays[1]).await;
    is_served(&mut client, &relays[1]).await;
    // One of them is free again.
    let (rogue, number) = held.pop().unwrap();
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    refused_by_proxy(in_time(client.answer(number)).await);
    is_served(&mut client, &relays[2]).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_one_source_are_limited_exactly() {
    let mut config = strict_proxy();
    config.proxy.limits.forwards_per_source = 2;
    let proxy = start(config).await;
    let relay = honest().await;
    let mut rogue = Rogue::start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = peer_from(A, &proxy).await.unwrap();
        is_served(&mut client, &relay).await;
        clients.push(client);
    }
    let busy = clients[0].proxy_to(&rogue.address, None).await.unwrap();
    let mut asked = Vec::new();
    for client in &mut clients[..2] {
        asked.push(pass_on(client, &busy).await);
        rogue.hear().await;
    }
    let honest = clients[2].proxy_to(&relay.address(), None).await.unwrap();
    for destination in [&busy, &honest] {
        let command = send(&NOWHERE, None, b"x");
        let answer = through(&mut clients[2], destination, &command).await;
        assert_eq!(refused_by_proxy(answer), TIMEOUT);
    }
    assert_eq!(rogue.heard_without_waiting(), 0);
    let mut other = peer_from(B, &proxy).await.unwrap();
    is_served(&mut other, &relay).await;
    // Who leaves gives its place back, and who is answered.
    drop(clients.remove(0));
    until(|| proxy.stats().connections == 3).await;
    is_served(&mut clients[1], &relay).await;
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    refused_by_proxy(in_time(clients[0].answer(asked[1])).await);
    is_served(&mut clients[1], &relay).await;
}

/// Wherever it is that cannot be reached. What can be reached costs nothing.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_attempts_of_one_source_are_limited_exactly() {
    let mut config = strict_proxy();
    config.proxy.limits.failures_per_second_per_source = Rate {
        per_second: 0,
        burst: 2,
    };
    let proxy = start(config).await;
    let relays = [honest().await, honest().await];
    let mut client = peer_from(A, &proxy).await.unwrap();
    is_served(&mut client, &relays[0]).await;
    for pin in 1..=4 {
        // The door is the same, and opens, but nobody like that is behind it.
        let wrong = other_than(&relays[1].address(), pin);
        let mut again = peer_from(A, &proxy).await.unwrap();
        let answer = in_time(again.proxy_to(&wrong, None)).await;
        assert_eq!(refused(answer), NETWORK);
    }
    assert_eq!(proxy.stats().proxy_failed, 2);
    assert_eq!(relays[1].stats().connections_total, 2);
    is_served(&mut client, &relays[0]).await;
    let answer = client.proxy_to(&relays[1].address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    // Others are not harmed: neither is their rate used up, nor the relay taken for unreachable. Some
    // may share the rate, but not all do.
    let mut served = 0;
    for last in 2..6 {
        let mut other = peer_from([127, 0, 0, last], &proxy).await.unwrap();
        let reached = in_time(other.proxy_to(&relays[1].address(), None)).await;
        served += usize::from(reached.is_ok());
    }
    assert!(served >= 3);
    is_served(&mut client, &relays[1]).await;
}

/// A relay has one link, and one that is not there one attempt, however it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_spelling_gains_nothing() {
    let mut config = proxy_config();
    config.proxy.timeouts.retry = Duration::from_secs(3_600);
    config.proxy.timeouts.retry_max = Duration::from_secs(3_600);
    let proxy = start(config).await;
    let relay = honest().await;
    let mut sender = connect(&proxy).await;
    let mut sessions = Vec::new();
    for host in ["localhost", "LocalHost", "localhost.", "LOCALHOST."] {
        let server = at(&relay.address(), host);
        let destination = in_time(sender.proxy_to(&server, None)).await.unwrap();
        sessions.push(destination.session());
    }
    // Also if it is one name among others, of which the first leads elsewhere.
    let hosts = ["127.0.0.9", "LOCALHOST"].map(|host| host.parse().unwrap());
    let address = relay.address();
    let several = ServerAddress::new(address.fingerprint(), hosts.to_vec(), address.port());
    let destination = sender.proxy_to(&several.unwrap(), None).await.unwrap();
    sessions.push(destination.session());
    assert!(sessions.iter().all(|session| *session == sessions[0]));
    assert_eq!(proxy.stats().proxy_connected, 1);
    assert_eq!(relay.stats().connections_total, 1);

    let gone = Place::new();
    for pin in 1..=2 {
        for host in [
            "127.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::FFFF:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
        ] {
            let gone = ServerAddress::new(
                junto_smp::address::Fingerprint([pin; 32]),
                vec![host.parse().unwrap()],
                gone.address.port(),
            );
            let answer = in_time(sender.proxy_to(&gone.unwrap(), None)).await;
            assert_eq!(refused(answer), NETWORK, "{host}");
        }
    }
    assert_eq!(proxy.stats().proxy_failed, 1);
    // Addresses in disguise have even more spellings; they are refused.
    for host in ["127.1", "2130706433", "0x7f.1", "127.0.0.1."] {
        let answer = sender.proxy_to(&at(&relay.address(), host), None).await;
        assert_eq!(refused(answer), broker(BrokerFault::Host), "{host}");
    }
    assert_eq!(proxy.stats().proxy_failed, 1);
}

/// A client that does not take the answers that name a link does not keep it.
#[tokio::test]
async fn answers_that_nobody_takes_keep_no_link() {
    let mut clock = Clock::stop();
    let mut config = proxy_config();
    config.proxy.limits.destinations = 1;
    let proxy = start(config).await;
    let (first, second) = (honest().await, honest().await);
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let tcp = socket.connect(proxy.local_addr()).await.unwrap();
    let options = Options::new(proxy.address().fingerprint());
    let mut deaf = in_time(Peer::connect_over(&proxy.address(), tcp, &options))
        .await
        .unwrap();
    // A block holds eight of the answers: more blocks than the buffers of both systems hold.
    const ROUNDS: u64 = 6;
    const ASKED: u64 = 1_000;
    for _ in 0..ROUNDS {
        for _ in 0..ASKED {
            let request = connect_request(&first.address());
            in_time(deaf.ask(&request)).await.unwrap();
        }
        in_time(deaf.send()).await.unwrap();
        deaf.forget();
    }
    clock.settle().await;
    let sent = proxy.stats().blocks_sent;
    assert!(sent < ROUNDS * ASKED / 16, "{sent} blocks were sent");
    assert_eq!(proxy.stats().proxy_destinations, 1);
    let mut other = connect(&proxy).await;
    is_served(&mut other, &second).await;
    until(|| first.stats().connections == 0).await;
    assert_eq!(proxy.stats().proxy_destinations, 1);
    assert_eq!(proxy.stats().proxy_connected, 2);
    drop(deaf);
}

/// More commands of clients that left than a connection to a destination can wait for, were they not
/// forgotten: who comes then is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_use_nothing_up() {
    const CLIENTS: usize = 35;
    let mut config = strict_proxy();
    config.proxy.limits.forwards_per_client = 32;
    config.proxy.limits.forwards_per_destination = 32;
    config.proxy.timeouts.answer = Duration::from_secs(3_600);
    let proxy = start(config).await;
    let mut rogue = Rogue::start().await;
    let mut sent = 0;
    let mut destination = None;
    for _ in 0..CLIENTS {
        let mut client = connect(&proxy).await;
        let to = in_time(client.proxy_to(&rogue.address, None))
            .await
            .unwrap();
        for _ in 0..32 {
            pass_on(&mut client, &to).await;
            rogue.hear().await;
            sent += 1;
        }
        destination = Some(to);
        drop(client);
        until(|| proxy.stats().connections == 0).await;
    }
    assert!(sent > junto_smp::client::IN_FLIGHT_MAX);
    let mut client = connect(&proxy).await;
    let number = pass_on(&mut client, &destination.unwrap()).await;
    rogue.hear().await;
    // Answers that nobody waits for are no lie.
    for _ in 0..sent {
        rogue.answer(Answer::Error(ErrorCode::Crypto)).await;
    }
    rogue.answer(Answer::Error(ErrorCode::Block)).await;
    let said = refused_by_proxy(in_time(client.answer(number)).await);
    let block = ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Block));
    assert_eq!(said, block);
    assert_eq!(proxy.stats().proxy_connected, 1);
}

/// This machine is closed even where its network is open, and what is refused by name of its network
/// is, too; until the operator says otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_stays_out_of_its_own_machine_and_refused_networks() {
    let now = UnixTime::now();
    let server = || {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        ServerIdentity::ephemeral("127.0.0.1", &mut rng, now).unwrap()
    };
    let settings = |own: bool, refuse: &str| {
        let mut config = eager_proxy();
        config.proxy.allow_own = own;
        config.proxy.refuse = vec![refuse.parse().unwrap()];
        config
    };
    let nowhere = "203.0.113.7/32";
    let proxy = Relay::start(settings(false, nowhere), server())
        .await
        .unwrap();
    // Every address of this machine that can be listened on, of those that others may have as well.
    let mut relays = Vec::new();
    for interface in if_addrs::get_if_addrs().unwrap() {
        let mut config = site::config();
        config.bind.set_ip(interface.ip());
        let identity = site::identity();
        if !interface.is_link_local()
            && let Ok(relay) = Relay::start(config, identity).await
        {
            relays.push((relay, interface.ip()));
        }
    }
    assert!(!relays.is_empty());
    let mut sender = connect(&proxy).await;
    let addressed: Vec<_> = relays
        .iter()
        .map(|(relay, ip)| {
            let host = match ip {
                std::net::IpAddr::V4(ip) => ip.to_string(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            };
            at(&relay.address(), &host)
        })
        .collect();
    for address in &addressed {
        let answer = in_time(sender.proxy_to(address, None)).await;
        assert_eq!(refused(answer), broker(BrokerFault::Host), "{address}");
    }
    // What is reloaded holds at once.
    for network in ["0.0.0.0/0", "::/0"] {
        proxy.reload(settings(true, network), &server()).unwrap();
        for (address, (_, ip)) in addressed.iter().zip(&relays) {
            let network: ipnet::IpNet = network.parse().unwrap();
            if network.contains(ip) {
                let answer = in_time(sender.proxy_to(address, None)).await;
                assert_eq!(refused(answer), broker(BrokerFault::Host), "{address}");
            }
        }
    }
    assert!(
        relays
            .iter()
            .all(|(relay, _)| relay.stats().connections_total == 0)
    );
    let reloaded = proxy.reload(settings(true, nowhere), &server()).unwrap();
    assert!(reloaded.waiting.is_empty());
    for address in &addressed {
        let reached = in_time(sender.proxy_to(address, None)).await;
        assert!(reached.is_ok(), "{address}: {reached:?}");
    }
}

/// Limits by client and source hold from the next request on.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_by_source_can_be_changed_while_it_runs() {
    let now = UnixTime::now();
    let server = || {
        let mut rng = ChaCha20Rng::from_seed([6; 32]);
        ServerIdentity::ephemeral("127.0.0.1", &mut rng, now).unwrap()
    };
    let proxy = Relay::start(strict_proxy(), server()).await.unwrap();
    let relays = [honest().await, honest().await];
    let mut client = peer_from(A, &proxy).await.unwrap();
    is_served(&mut client, &relays[0]).await;
    let mut config = strict_proxy();
    config.proxy.limits.connecting_per_source = 0;
    let reloaded = proxy.reload(config, &server()).unwrap();
    assert!(reloaded.waiting.is_empty());
    is_served(&mut client, &relays[0]).await;
    let answer = client.proxy_to(&relays[1].address(), None).await;
    assert_eq!(refused(answer), NETWORK);
    proxy.reload(strict_proxy(), &server()).unwrap();
    is_served(&mut client, &relays[1]).await;
}
