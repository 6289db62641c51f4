//! What a party tells of where it is, when a relay sees it behind somebody who passes packets on; and where it knocks
//! because others say that they are there.

#![allow(clippy::unwrap_used, clippy::panic)]

mod between;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use between::Between;
use junto_direct::{Direct, Observer, Reach};
use junto_session::{
    PartyIndex,
    adapters::tcp::{Contact, Ways},
};
use junto_tls::{ServerIdentity, observe};
use noq::{
    Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig,
    crypto::rustls::QuicServerConfig,
};
use rustls::pki_types::UnixTime;
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// For what must happen; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

fn party(number: usize) -> PartyIndex {
    PartyIndex::new(number).unwrap()
}

/// A relay, as far as it tells addresses.
struct Relay {
    observer: Observer,
    place: SocketAddr,
    _tasks: JoinSet<()>,
}

fn relay() -> Relay {
    relay_that(true)
}

fn relay_that(tells: bool) -> Relay {
    let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
    let identity = ServerIdentity::ephemeral("relay", &mut rng, UnixTime::now()).unwrap();
    let tls = QuicServerConfig::try_from(observe::server(&identity).unwrap()).unwrap();
    let mut transport = TransportConfig::default();
    transport.send_observed_address_reports(tells);
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        .migration(false);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime).unwrap();
    let place = endpoint.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            clients.spawn(async move {
                if let Ok(connection) = incoming.accept().unwrap().await {
                    connection.closed().await;
                }
            });
        }
    });
    Relay {
        observer: observer(place, *identity.fingerprint().as_bytes()),
        place,
        _tasks: tasks,
    }
}

fn observer(place: SocketAddr, fingerprint: [u8; 32]) -> Observer {
    Observer {
        hosts: vec!["nobody.invalid".to_owned(), place.ip().to_string()],
        port: place.port(),
        fingerprint,
    }
}

async fn until_told(direct: &Direct, place: SocketAddr) {
    let told = async {
        while !direct.contact(party(1)).unwrap().places.contains(&place) {
            direct.changed().await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn others_are_told_where_a_relay_sees_us_and_again_when_that_changes() {
    let relay = relay();
    let mut between = Between::new(relay.place).await;
    // One that does not answer, and one in whose place somebody else does.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relays = vec![
        observer(relay.place, [7; 32]),
        observer(between.place, relay.observer.fingerprint),
        observer(silent.local_addr().unwrap(), [7; 32]),
    ];
    let direct = Direct::open_seen(party(0), Reach::Loopback, relays);
    let direct = direct.await.unwrap();
    let own = direct.contact(party(1)).unwrap().places[0];
    until_told(&direct, between.seen()).await;
    let places = direct.contact(party(1)).unwrap().places.clone();
    assert_eq!(places, [between.seen(), own]);
    // Nothing has changed since.
    let moment = Duration::from_millis(50);
    assert!(timeout(moment, direct.changed()).await.is_err());
    between.rebind().await;
    until_told(&direct, between.seen()).await;
    assert!(
        !direct
            .contact(party(1))
            .unwrap()
            .places
            .contains(&places[0])
    );
    direct.close().await;
}

#[tokio::test]
async fn a_relay_that_says_nothing_is_not_the_only_one_that_is_asked() {
    let (quiet, relay) = (relay_that(false), relay());
    let between = Between::new(relay.place).await;
    let relays = vec![
        quiet.observer.clone(),
        observer(between.place, relay.observer.fingerprint),
    ];
    let direct = Direct::open_seen(party(0), Reach::Loopback, relays);
    let direct = direct.await.unwrap();
    until_told(&direct, between.seen()).await;
    direct.close().await;
}

#[tokio::test]
async fn a_relay_that_is_silent_holds_up_nothing() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relays = vec![observer(silent.local_addr().unwrap(), [7; 32])];
    let began = Instant::now();
    let one = Direct::open_seen(party(0), Reach::Loopback, relays);
    let one = one.await.unwrap();
    let two = Direct::open(party(1), Reach::Loopback).await.unwrap();
    one.know(party(1), two.contact(party(0)).unwrap());
    two.know(party(0), one.contact(party(1)).unwrap());
    let both = async { tokio::join!(one.call(party(1)), two.accept()) };
    assert!(timeout(PATIENCE, both).await.unwrap().0.is_ok());
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_call_takes_up_what_a_party_tells_meanwhile() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let one = Direct::open(party(0), Reach::Loopback).await.unwrap();
    let two = Direct::open(party(1), Reach::Loopback).await.unwrap();
    two.know(party(0), one.contact(party(1)).unwrap());
    let contact = two.contact(party(0)).unwrap();
    let at = |places| Contact {
        key: contact.key,
        word: contact.word,
        places,
    };
    one.know(party(1), at(vec![silent.local_addr().unwrap()]));
    let call = async {
        let call = one.call(party(1));
        tokio::pin!(call);
        let mut packet = [0; 2000];
        tokio::select! {
            _ = &mut call => panic!("nobody is there"),
            first = silent.recv(&mut packet) => drop(first.unwrap()),
        }
        one.know(party(1), contact.clone());
        call.await
    };
    let both = async { tokio::join!(call, two.accept()) };
    assert!(timeout(PATIENCE, both).await.unwrap().0.is_ok());
}

#[tokio::test]
async fn who_names_places_of_others_has_few_packets_sent_there() {
    let one = Direct::open(party(0), Reach::Loopback).await.unwrap();
    let two = Direct::open(party(1), Reach::Loopback).await.unwrap();
    let contact = two.contact(party(0)).unwrap();
    // Many ports of one machine, and a few that are no party's.
    let mut ears = Vec::new();
    for _ in 0..16 {
        ears.push(UdpSocket::bind("127.0.0.2:0").await.unwrap());
    }
    let places: Vec<_> = ears.iter().map(|ear| ear.local_addr().unwrap()).collect();
    let name = |places: Vec<SocketAddr>| {
        one.know(
            party(1),
            Contact {
                key: contact.key,
                word: contact.word,
                places,
            },
        );
    };
    name(places.clone());
    let began = Instant::now();
    // It says something else again and again, while we call.
    let turn = async {
        for first in (0..16).cycle() {
            sleep(Duration::from_millis(20)).await;
            let mut places = places.clone();
            places.rotate_left(first);
            places.truncate(3);
            name(places);
        }
    };
    tokio::select! {
        call = timeout(PATIENCE, one.call(party(1))) => assert!(call.unwrap().is_err()),
        () = turn => {}
    }
    assert!(began.elapsed() < Duration::from_secs(15));
    let (mut knocked, mut packets, mut bytes) = (0, 0, 0);
    for ear in &ears {
        let mut packet = [0; 2000];
        let before = packets;
        while let Ok(length) = ear.try_recv(&mut packet) {
            packets += 1;
            bytes += length;
        }
        knocked += usize::from(packets > before);
    }
    // Of one machine two ports, four times two packets each.
    assert_eq!(knocked, 2);
    assert!(
        (8..=20).contains(&packets),
        "{packets} packets, {bytes} bytes"
    );
}
