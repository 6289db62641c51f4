//! Clients that are told their address as the relay sees it, and those who want something else at that port.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use junto_relay::config::Rate;
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_tls::{ClientTls, Fingerprint, observe};
use noq::crypto::rustls::QuicClientConfig;
use noq::{ClientConfig, Connection, ConnectionError, Endpoint, TransportConfig, VarInt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use site::{A, B, config, identity, in_time, start};

/// Limits by source hold for loopback as well.
fn observing() -> RelayConfig {
    let mut config = config();
    config.observe.enabled = true;
    config.exempt_sources = Vec::new();
    config
}

fn pin(relay: &RunningRelay) -> Fingerprint {
    Fingerprint::from_bytes(relay.address().fingerprint().0)
}

fn client(source: [u8; 4]) -> Endpoint {
    Endpoint::client(SocketAddr::from((source, 0))).unwrap()
}

fn quic(tls: rustls::ClientConfig) -> ClientConfig {
    let tls = QuicClientConfig::try_from(tls).unwrap();
    let mut transport = TransportConfig::default();
    transport
        .receive_observed_address_reports(true)
        .keep_alive_interval(Some(Duration::from_millis(500)))
        .max_idle_timeout(Some(Duration::from_secs(5).try_into().unwrap()));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    config
}

async fn call(
    client: &Endpoint,
    relay: &RunningRelay,
    tls: rustls::ClientConfig,
) -> Result<Connection, ConnectionError> {
    let calling = client.connect_with(quic(tls), relay.local_addr(), "junto.invalid");
    in_time(calling.unwrap()).await
}

/// Asks as an honest client does.
async fn ask(client: &Endpoint, relay: &RunningRelay) -> Result<Connection, ConnectionError> {
    call(client, relay, observe::client(pin(relay)).unwrap()).await
}

async fn told(connection: &Connection) -> SocketAddr {
    let mut seen = connection.observed_external_addr();
    in_time(futures::StreamExt::next(&mut seen)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_where_it_is_and_nothing_else_can_be_done() {
    let relay = start(observing()).await;
    for source in [A, B] {
        let client = client(source);
        let connection = ask(&client, &relay).await.unwrap();
        assert_eq!(told(&connection).await, client.local_addr().unwrap());
        let moment = Duration::from_millis(200);
        assert!(timeout(moment, connection.open_bi()).await.is_err());
        assert!(timeout(moment, connection.open_uni()).await.is_err());
        assert!(connection.send_datagram(vec![1].into()).is_err());
        assert!(connection.close_reason().is_none());
    }
    relay.shutdown().await.unwrap();
}

/// Passes packets of one client on to the relay, from `first`, and once `moved` says so from `second`, where none is to come.
async fn pass_on(
    inside: UdpSocket,
    relay: SocketAddr,
    (first, second): (UdpSocket, Arc<UdpSocket>),
    moved: Arc<AtomicUsize>,
) {
    let (mut out, mut back) = ([0; 2000], [0; 2000]);
    let mut client = None;
    loop {
        tokio::select! {
            Ok((length, from)) = inside.recv_from(&mut out) => {
                client = Some(from);
                if moved.load(Ordering::SeqCst) == 0 {
                    first.send_to(&out[..length], relay).await.unwrap();
                } else {
                    moved.fetch_add(length, Ordering::SeqCst);
                    second.send_to(&out[..length], relay).await.unwrap();
                }
            }
            Ok((length, _)) = first.recv_from(&mut back) => {
                inside.send_to(&back[..length], client.unwrap()).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_answered_where_its_handshake_came_from_alone() {
    let relay = start(observing()).await;
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let (inside, first) = (bind().await.unwrap(), bind().await.unwrap());
    let second = Arc::new(bind().await.unwrap());
    let (place, seen) = (inside.local_addr().unwrap(), first.local_addr().unwrap());
    let moved = Arc::new(AtomicUsize::new(0));
    let outside = (first, Arc::clone(&second));
    let between = tokio::spawn(pass_on(inside, relay.local_addr(), outside, moved.clone()));
    let client = client(A);
    let tls = observe::client(pin(&relay)).unwrap();
    let calling = client.connect_with(quic(tls), place, "junto.invalid");
    let connection = in_time(calling.unwrap()).await.unwrap();
    assert_eq!(told(&connection).await, seen);
    // What says that it comes from elsewhere may be in the name of another, who would get the answers.
    moved.store(1, Ordering::SeqCst);
    in_time(connection.closed()).await;
    // Once the relay has forgotten the connection, it says so by a packet that is shorter than what came.
    let (sent, mut answered) = (moved.load(Ordering::SeqCst), 0);
    while let Ok(length) = second.try_recv(&mut [0; 2000]) {
        answered += length;
    }
    assert!(sent > 100 && answered < sent, "{answered} bytes for {sent}");
    between.abort();
    // Who has moved asks again.
    let connection = ask(&client, &relay).await.unwrap();
    assert_eq!(told(&connection).await, client.local_addr().unwrap());
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_told_nothing_and_another_relay_is_not_believed() {
    let relay = start(observing()).await;
    let client = client(A);
    // Another relay in its place.
    let other = observe::client(Fingerprint::from_bytes([7; 32])).unwrap();
    assert!(call(&client, &relay, other).await.is_err());
    // No protocol, another one, that of SMP.
    for alpn in [None, Some(b"h3".to_vec()), Some(b"smp/1".to_vec())] {
        let mut tls = observe::client(pin(&relay)).unwrap();
        tls.alpn_protocols = alpn.into_iter().collect();
        assert!(call(&client, &relay, tls).await.is_err());
    }
    // Nor does the listener of SMP take this for its own.
    assert!(ClientTls::new().is_ok_and(|tls| {
        let tls = tls.pinned(pin(&relay));
        tls.alpn_protocols != [observe::ALPN_OBSERVE]
    }));
    assert!(ask(&client, &relay).await.is_ok());
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_not_asked_to_does_not_listen() {
    let relay = start(config()).await;
    // The port is free.
    let taken = UdpSocket::bind(relay.local_addr()).await;
    assert!(taken.is_ok(), "{taken:?}");
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = observing();
    config.bind = taken.local_addr().unwrap();
    let error = Relay::start(config, identity()).await.unwrap_err();
    assert!(error.to_string().contains("UDP"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_one_source_and_of_all_are_limited_exactly() {
    let mut config = observing();
    config.observe.connections_per_source = 2;
    config.observe.connections = 3;
    let relay = start(config).await;
    let (one, two) = (client(A), client(B));
    let first = ask(&one, &relay).await.unwrap();
    let _second = ask(&one, &relay).await.unwrap();
    assert!(ask(&one, &relay).await.is_err(), "a third of one source");
    let _third = ask(&two, &relay).await.unwrap();
    assert!(ask(&two, &relay).await.is_err(), "a fourth of all");
    // Whoever goes makes room.
    first.close(VarInt::from_u32(0), b"");
    let end = Instant::now() + Duration::from_secs(30);
    while ask(&two, &relay).await.is_err() {
        assert!(Instant::now() < end, "there is no room");
    }
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_begins_no_more_handshakes_than_it_may() {
    let mut config = observing();
    config.limits.handshakes_per_second_per_source = Rate {
        per_second: 0,
        burst: 2,
    };
    let relay = start(config).await;
    let (one, two) = (client(A), client(B));
    for _ in 0..2 {
        let connection = ask(&one, &relay).await.unwrap();
        connection.close(VarInt::from_u32(0), b"");
    }
    assert!(ask(&one, &relay).await.is_err());
    assert!(ask(&two, &relay).await.is_ok());
    relay.shutdown().await.unwrap();
}

/// First packets of a handshake, as they leave a client that calls a place where nobody answers.
async fn first_packets() -> Vec<Vec<u8>> {
    let ear = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = client(A);
    let tls = observe::client(Fingerprint::from_bytes([7; 32])).unwrap();
    let place = ear.local_addr().unwrap();
    let calling = client.connect_with(quic(tls), place, "junto.invalid");
    let _calling = calling.unwrap();
    let mut packets = Vec::new();
    let mut packet = [0; 2000];
    while let Ok(Ok((length, _))) =
        timeout(Duration::from_millis(300), ear.recv_from(&mut packet)).await
    {
        packets.push(packet[..length].to_vec());
    }
    assert!(!packets.is_empty());
    packets
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_answered_with_more_than_came_in_its_name() {
    let relay = start(observing()).await;
    // Somebody sends in the name of another, who never asked.
    let victim = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // The shortest that asks for another version is answered with the one that there is: twice its size.
    let negotiation = [0xc0, 1, 2, 3, 4, 0, 0];
    victim
        .send_to(&negotiation, relay.local_addr())
        .await
        .unwrap();
    let mut answer = [0; 2000];
    let length = in_time(victim.recv(&mut answer)).await.unwrap();
    assert!(length <= 15, "{length} bytes");
    let mut packets = first_packets().await;
    // The same, as long as a first packet is.
    packets.push([&negotiation[..], &[0; 1193]].concat());
    for length in [0, 1, 20, 50, 1200] {
        for first in [0x00, 0x40, 0x80, 0xc0, 0xff] {
            packets.push(vec![first; length]);
        }
    }
    for packet in &packets {
        let (mut sent, mut answered) = (0, 0);
        for _ in 0..20 {
            victim.send_to(packet, relay.local_addr()).await.unwrap();
            sent += packet.len();
        }
        let mut answer = [0; 2000];
        let moment = Duration::from_millis(300);
        while let Ok(Ok(length)) = timeout(moment, victim.recv(&mut answer)).await {
            answered += length;
        }
        assert!(answered <= sent, "{answered} bytes for {sent}");
    }
    // Nothing is kept of it, and others are heard.
    assert!(ask(&client(A), &relay).await.is_ok());
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_shows_the_new_certificate_and_leaves_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    junto_relay::init_dir(dir.path(), "127.0.0.1", 5223).unwrap();
    let load = || {
        let (mut config, identity) = junto_relay::load_dir(dir.path()).unwrap();
        config.bind = "127.0.0.1:0".parse().unwrap();
        (config, identity)
    };
    let (config, first) = load();
    // `relay init` has switched it on.
    assert!(config.observe.enabled);
    let relay = Relay::start(config, first).await.unwrap();
    let client = client(A);
    let before = ask(&client, &relay).await.unwrap();
    junto_relay::rotate_certificate(dir.path(), None).unwrap();
    let (mut config, second) = load();
    config.observe.enabled = false;
    let reloaded = relay.reload(config, &second).unwrap();
    assert!(reloaded.certificate);
    assert!(reloaded.waiting.contains(&"observe.enabled"));
    let shown = |connection: &Connection| {
        let chain = connection.peer_identity().unwrap();
        let chain = chain.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>();
        chain.unwrap()[0].to_vec()
    };
    let after = ask(&client, &relay).await.unwrap();
    assert!(shown(&after) != shown(&before));
    assert_eq!(shown(&after), second.chain()[0].to_vec());
    assert!(before.close_reason().is_none());
    relay.shutdown().await.unwrap();
}
