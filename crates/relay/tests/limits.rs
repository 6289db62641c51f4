//! Limits by rate and source, each at its edge: as many as allowed, not one more, and nobody else is
//! harmed. A rate of zero per second makes time irrelevant: what its burst allows is all there is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::time::{Duration, Instant};

use junto_relay::bench::{Peer, PeerError, Said};
use junto_relay::config::Rate;
use junto_relay::{RelayConfig, RunningRelay};
use junto_smp::client::Request;
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::hello::HelloFault;
use junto_smp::id::{Entity, SenderId};
use junto_smp::link::{LinkBlobs, LinkData};
use junto_smp::message::BODY_BYTES_MAX;
use junto_smp::service::{ServiceFault, ServiceRole};
use junto_smp::version::VersionRange;
use junto_tls::ServiceIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;
use tokio::io::AsyncReadExt as _;

use site::{A, B, M, config, connect, heard, in_time, peer_from, refused, start, tcp_from, until};

/// All of it at once, and nothing after.
const fn only(burst: u32) -> Rate {
    Rate {
        per_second: 0,
        burst,
    }
}

/// Limits by source hold for loopback as well.
fn strict() -> RelayConfig {
    let mut config = config();
    config.exempt_sources = Vec::new();
    config
}

const PING: Request<'static> = Request {
    entity: Entity::None,
    key: None,
    command: Command::Ping,
};

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_source_are_limited_exactly() {
    let mut config = strict();
    config.limits.connections_per_source = 2;
    let relay = start(config).await;
    let mut kept = vec![peer_from(A, &relay).await.unwrap()];
    kept.push(peer_from(A, &relay).await.unwrap());
    assert!(peer_from(A, &relay).await.is_err());
    assert_eq!(relay.stats().connections_refused, 1);
    // Others have their own.
    let mut other = peer_from(B, &relay).await.unwrap();
    assert_eq!(in_time(other.call(&PING)).await.unwrap(), Said::Pong);
    // Who leaves makes room.
    kept.pop();
    until(|| relay.stats().connections == 2).await;
    kept.push(peer_from(A, &relay).await.unwrap());
    for peer in &mut kept {
        assert_eq!(in_time(peer.call(&PING)).await.unwrap(), Said::Pong);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_count_for_their_source() {
    let mut config = strict();
    config.limits.connections_per_source = 3;
    let relay = start(config).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tcp_from(A, &relay).await);
    }
    until(|| relay.stats().connections == 3).await;
    let mut fourth = tcp_from(A, &relay).await;
    assert!(matches!(
        in_time(fourth.read(&mut [0])).await,
        Ok(0) | Err(_)
    ));
    let mut other = peer_from(B, &relay).await.unwrap();
    assert_eq!(in_time(other.call(&PING)).await.unwrap(), Said::Pong);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_one_source_are_limited_exactly() {
    let mut config = strict();
    config.limits.handshakes_per_second_per_source = only(3);
    let relay = start(config).await;
    for _ in 0..3 {
        // One after the other: it is not how many are open.
        drop(peer_from(A, &relay).await.unwrap());
    }
    for _ in 0..20 {
        assert!(peer_from(A, &relay).await.is_err());
    }
    assert_eq!(relay.stats().connections_refused, 20);
    assert_eq!(relay.stats().connections_total, 3);
    // Sources may share a place in the table, but not all do.
    let mut served = 0;
    for last in 2..6 {
        served += usize::from(peer_from([127, 0, 0, last], &relay).await.is_ok());
    }
    assert!(served >= 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_all_wait_when_they_come_too_fast() {
    let mut config = config();
    config.limits.handshakes_per_second = Rate {
        per_second: 20,
        burst: 2,
    };
    let relay = start(config).await;
    let started = Instant::now();
    for _ in 0..6 {
        // None is refused.
        drop(in_time(Peer::connect(&relay.address())).await.unwrap());
    }
    // One was paid for before, two came at once; of the other three the first may have been near.
    assert!(started.elapsed() >= Duration::from_millis(2 * 50));
    assert_eq!(relay.stats().connections_refused, 0);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_turned_away_uses_up_nothing_of_the_others() {
    let mut config = strict();
    config.limits.handshakes_per_second = only(4);
    config.limits.handshakes_per_second_per_source = only(2);
    let relay = start(config).await;
    for _ in 0..2 {
        peer_from(A, &relay).await.unwrap();
    }
    for _ in 0..30 {
        assert!(peer_from(A, &relay).await.is_err());
    }
    // The two that are left of all.
    let mut served = 0;
    for last in 2..6 {
        if served < 2 {
            served += usize::from(peer_from([127, 0, 0, last], &relay).await.is_ok());
        }
    }
    assert_eq!(served, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_one_connection_are_limited_exactly() {
    let mut config = config();
    config.limits.queues_per_connection = 2;
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let first = peer.create(M, true, None).await.unwrap();
    peer.create(M, true, None).await.unwrap();
    assert_eq!(refused(peer.create(M, true, None).await), ErrorCode::Quota);
    // Those that were created count, not those that are there.
    assert_eq!(peer.own(&first, Command::Delete).await.unwrap(), Said::Ok);
    assert_eq!(refused(peer.create(M, true, None).await), ErrorCode::Quota);
    let mut other = connect(&relay).await;
    other.create(M, true, None).await.unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_one_source_are_limited_exactly_over_all_its_connections() {
    let mut config = strict();
    config.limits.queues_per_second_per_source = only(3);
    let relay = start(config).await;
    let mut first = peer_from(A, &relay).await.unwrap();
    for _ in 0..3 {
        first.create(M, true, None).await.unwrap();
    }
    assert_eq!(refused(first.create(M, true, None).await), ErrorCode::Quota);
    let mut again = peer_from(A, &relay).await.unwrap();
    assert_eq!(refused(again.create(M, true, None).await), ErrorCode::Quota);
    let mut served = 0;
    for last in 2..6 {
        let mut other = peer_from([127, 0, 0, last], &relay).await.unwrap();
        served += usize::from(other.create(M, true, None).await.is_ok());
    }
    assert!(served >= 3);
    assert_eq!(relay.stats().queues, 3 + served);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_one_source_in_a_day_are_limited_exactly() {
    let mut config = strict();
    // The next would come in eight hours.
    config.limits.queues_per_day_per_source = 3;
    let relay = start(config).await;
    let mut first = peer_from(A, &relay).await.unwrap();
    for _ in 0..3 {
        let queue = first.create(M, true, None).await.unwrap();
        // Those that were created count, not those that are there.
        first.own(&queue, Command::Delete).await.unwrap();
    }
    assert_eq!(refused(first.create(M, true, None).await), ErrorCode::Quota);
    let mut again = peer_from(A, &relay).await.unwrap();
    assert_eq!(refused(again.create(M, true, None).await), ErrorCode::Quota);
    let mut served = 0;
    for last in 2..6 {
        let mut other = peer_from([127, 0, 0, last], &relay).await.unwrap();
        served += usize::from(other.create(M, true, None).await.is_ok());
    }
    assert!(served >= 3);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_are_not_made_cost_nothing_of_the_day() {
    let mut config = strict();
    config.limits.queues_per_day_per_source = 2;
    let relay = start(config).await;
    let mut peer = peer_from(A, &relay).await.unwrap();
    // The sender's name does not follow from the request.
    let data = LinkData {
        sender: SenderId([5; 24]),
        blobs: LinkBlobs::new(b"fixed", b"user").unwrap(),
    };
    for _ in 0..5 {
        let mode = NewMode::Messaging(Some(data));
        let wrong = peer.create(mode, true, None).await;
        assert_eq!(refused(wrong), ErrorCode::PROHIBITED);
    }
    for _ in 0..2 {
        peer.create(M, true, None).await.unwrap();
    }
    assert_eq!(refused(peer.create(M, true, None).await), ErrorCode::Quota);
}

/// A service with a certificate of its own.
async fn service(relay: &RunningRelay, identity: &ServiceIdentity) -> Result<Peer, PeerError> {
    let versions = VersionRange::SUPPORTED;
    let role = ServiceRole::Messaging;
    in_time(Peer::connect_service(
        &relay.address(),
        versions,
        identity,
        role,
    ))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_one_source_in_a_day_are_limited_exactly() {
    let mut config = strict();
    // The next would come in twelve hours.
    config.limits.services_per_day_per_source = 2;
    let relay = start(config).await;
    let identity = || {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let mut rng = ChaCha20Rng::from_seed(seed);
        ServiceIdentity::generate(&mut rng, UnixTime::now()).unwrap()
    };
    // Those that leave nothing behind cost nothing.
    for _ in 0..5 {
        drop(service(&relay, &identity()).await.unwrap());
        until(|| relay.stats().connections == 0).await;
    }
    let no_service = |result: Result<Peer, PeerError>| {
        let fault = HelloFault::NoService(ServiceFault::Refused);
        assert!(matches!(result, Err(PeerError::Hello(said)) if said == fault));
    };
    // As long as they are here they count.
    let waiting = [
        service(&relay, &identity()).await.unwrap(),
        service(&relay, &identity()).await.unwrap(),
    ];
    no_service(service(&relay, &identity()).await);
    drop(waiting);
    until(|| relay.stats().connections == 0).await;
    let known = identity();
    for identity in [&known, &identity()] {
        let mut peer = service(&relay, identity).await.unwrap();
        peer.create(M, true, None).await.unwrap();
        drop(peer);
        until(|| relay.stats().connections == 0).await;
    }
    for _ in 0..3 {
        no_service(service(&relay, &identity()).await);
    }
    // One that is known comes in always; and the budget of queues is another one.
    let mut peer = service(&relay, &known).await.unwrap();
    peer.create(M, true, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_of_one_connection_are_limited_exactly_and_wait() {
    let mut config = config();
    config.limits.blocks_per_second_per_connection = only(5);
    let relay = start(config).await;
    let mut fast = connect(&relay).await;
    for _ in 0..5 {
        assert_eq!(in_time(fast.call(&PING)).await.unwrap(), Said::Pong);
    }
    for _ in 0..3 {
        fast.ask(&PING).await.unwrap();
        fast.send().await.unwrap();
    }
    // Others are served, each with its own count.
    for _ in 0..2 {
        let mut other = connect(&relay).await;
        for _ in 0..5 {
            assert_eq!(in_time(other.call(&PING)).await.unwrap(), Said::Pong);
        }
    }
    assert_eq!(relay.stats().blocks_received, 15, "not one more is read");
    assert_eq!(relay.stats().connections_shed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_go_on_at_their_rate() {
    let mut config = config();
    config.limits.blocks_per_second_per_connection = Rate {
        per_second: 50,
        burst: 1,
    };
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let started = Instant::now();
    for _ in 0..11 {
        assert_eq!(in_time(peer.call(&PING)).await.unwrap(), Said::Pong);
    }
    // One was paid for before, one came at once; of the others the first may have been near.
    assert!(started.elapsed() >= Duration::from_millis(8 * 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_one_block_are_limited_exactly() {
    let mut config = config();
    config.limits.commands_per_block = 3;
    let relay = start(config).await;
    let mut peer = connect(&relay).await;
    let mut asked = Vec::new();
    for _ in 0..5 {
        asked.push(peer.ask(&PING).await.unwrap());
    }
    peer.send().await.unwrap();
    for (index, number) in asked.into_iter().enumerate() {
        let said = in_time(peer.answer(number)).await;
        match index {
            0..3 => assert_eq!(said.unwrap(), Said::Pong),
            _ => assert_eq!(refused(said), ErrorCode::Quota),
        }
    }
    assert_eq!(in_time(peer.call(&PING)).await.unwrap(), Said::Pong);
}

/// With room for one message on its way, a client that does not read what it asks for is not heard
/// beyond that: when it is shed, at most one of its blocks more was read than answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_for_what_waits_for_one_client_is_limited() {
    let mut config = config();
    config.limits.outgoing_bytes = 1;
    config.timeouts.send = Duration::from_millis(400);
    let relay = start(config).await;
    let mut owner = connect(&relay).await;
    let mut sender = connect(&relay).await;
    let body = vec![9; BODY_BYTES_MAX];
    let mut queues = Vec::new();
    // More than the buffers of both systems hold.
    for _ in 0..1_500 {
        let queue = owner.create(M, false, None).await.unwrap();
        sender
            .send_message(queue.sender(), None, &body)
            .await
            .unwrap();
        queues.push(queue);
    }
    let before = relay.stats();
    // Each block asks for one message of 16 KiB.
    let asking = async {
        for queue in &queues {
            let id = queue.recipient();
            let get = Request {
                entity: Entity::Queue(&id.0),
                key: Some(&queue.key),
                command: Command::Get,
            };
            owner.ask(&get).await?;
            owner.send().await?;
        }
        Ok::<_, PeerError>(())
    };
    // It ends with all said, or when the relay closes.
    let _ = in_time(asking).await;
    until(|| relay.stats().connections_shed == 1).await;
    let after = relay.stats();
    let read = after.blocks_received - before.blocks_received;
    let answered = after.blocks_sent - before.blocks_sent;
    assert!(answered < 1_500, "the buffers held everything");
    assert!(
        read <= answered + 1,
        "{read} blocks read, {answered} answered"
    );
    let queue = sender.create(M, true, None).await.unwrap();
    sender
        .send_message(queue.sender(), None, b"fine")
        .await
        .unwrap();
    assert_eq!(heard(&mut sender, &queue).await.1.unwrap(), b"fine");
}
