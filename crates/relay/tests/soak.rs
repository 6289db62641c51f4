//! Mixed traffic for a while, and then as much memory as before.
//!
//! The relay is a process of its own, so that what is counted is the relay's. What grows with time is
//! told from what is only warm by looking several times: the traffic of each round is the same, so a
//! leak grows from round to round. `JUNTO_SOAK_SECONDS` makes it long.

#![cfg(target_os = "linux")] // reads /proc
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::time::{Duration, Instant};

use junto_relay::bench::{Peer, Said};
use junto_smp::address::ServerAddress;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;
use junto_smp::message::BODY_BYTES_MAX;
use tokio::io::AsyncWriteExt as _;

use site::lasting::relay_dir;
use site::process::Process;
use site::{C, M, acked, heard, in_time, refused, until};

/// Rounds; the first half warms up, the others are compared.
const ROUNDS: u32 = 8;
/// What the system's allocator may keep more after one round than after another: 4 MiB.
const SLACK_BYTES: u64 = 4 << 20;

/// What one round of each kind of client does.
async fn client(address: ServerAddress, kind: usize, until: Instant) {
    let mut first = true;
    // At least once, however slow the machine is.
    while core::mem::take(&mut first) || Instant::now() < until {
        match kind % 5 {
            0 => talk(&address).await,
            1 => come_and_go(&address).await,
            2 => leave_messages(&address).await,
            3 => misbehave(&address).await,
            _ => change_hands(&address).await,
        }
    }
}

/// Messages of all sizes from a sender to a recipient.
async fn talk(address: &ServerAddress) {
    let mut recipient = Peer::connect(address).await.unwrap();
    let queue = recipient.create(M, true, None).await.unwrap();
    let mut sender = Peer::connect(address).await.unwrap();
    let key = AuthSecret::generate(sender.rng());
    sender.secure(queue.sender(), &key).await.unwrap();
    for n in 0..30 {
        let body = vec![7; n * (BODY_BYTES_MAX / 30)];
        let to = queue.sender();
        sender.send_message(to, Some(&key), &body).await.unwrap();
        let (id, received) = heard(&mut recipient, &queue).await;
        assert_eq!(received, Some(body));
        acked(&mut recipient, &queue, id).await;
    }
    recipient.own(&queue, Command::Delete).await.unwrap();
}

/// Queues that live briefly.
async fn come_and_go(address: &ServerAddress) {
    let mut peer = Peer::connect(address).await.unwrap();
    for _ in 0..30 {
        let queue = peer.create(C, true, None).await.unwrap();
        peer.own(&queue, Command::Off).await.unwrap();
        peer.own(&queue, Command::Delete).await.unwrap();
    }
}

/// A queue filled to its quota, and then deleted with everything in it.
async fn leave_messages(address: &ServerAddress) {
    let mut peer = Peer::connect(address).await.unwrap();
    let queue = peer.create(M, false, None).await.unwrap();
    let body = vec![8; BODY_BYTES_MAX];
    loop {
        match peer.send_message(queue.sender(), None, &body).await {
            Ok(_) => {}
            other => {
                assert_eq!(refused(other), ErrorCode::Quota);
                break;
            }
        }
    }
    peer.own(&queue, Command::Delete).await.unwrap();
}

/// Handshakes broken off, garbage, commands without right, and going away without a word.
async fn misbehave(address: &ServerAddress) {
    let host = address.hosts().first().unwrap().for_resolver().to_owned();
    for _ in 0..5 {
        let mut tcp = tokio::net::TcpStream::connect((host.as_str(), address.port()))
            .await
            .unwrap();
        let _ = tcp.write_all(&[22, 3, 1, 0, 200, 1]).await;
    }
    let mut peer = Peer::connect(address).await.unwrap();
    let queue = peer.create(M, true, None).await.unwrap();
    let mut stranger = Peer::connect(address).await.unwrap();
    let mut wrong = stranger.create(M, false, None).await.unwrap();
    let own = wrong.ids.recipient;
    wrong.ids.recipient = queue.recipient();
    let code = refused(stranger.own(&wrong, Command::Sub).await);
    assert_eq!(code, ErrorCode::Auth);
    wrong.ids.recipient = own;
    stranger.own(&wrong, Command::Delete).await.unwrap();
    peer.own(&queue, Command::Delete).await.unwrap();
    let _ = stranger.stream().write_all(&[9; 16_384]).await;
    let _ = stranger.stream().flush().await;
}

/// A subscription that goes from connection to connection.
async fn change_hands(address: &ServerAddress) {
    let mut first = Peer::connect(address).await.unwrap();
    let queue = first.create(M, true, None).await.unwrap();
    for _ in 0..5 {
        let mut next = Peer::connect(address).await.unwrap();
        let said = next.own(&queue, Command::Sub).await.unwrap();
        assert_eq!(said, Said::Subscribed);
        assert!(in_time(first.event()).await.is_ok());
        first = next;
    }
    first.own(&queue, Command::Delete).await.unwrap();
}

/// Not a test: the process that [`Process`] starts.
#[test]
#[ignore = "runs for ever; started by the test of this file"]
fn relay_process() {
    site::process::serve();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_traffic_ends_with_the_memory_that_it_began_with() {
    let seconds = std::env::var("JUNTO_SOAK_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|n| n.parse().ok()).unwrap_or(4);
    let round = Duration::from_secs(seconds) / ROUNDS;
    let dir = relay_dir();
    let process = Process::start(dir.path());
    let idle = process.sockets();
    let mut resident = Vec::new();
    for _ in 0..ROUNDS {
        let end = Instant::now() + round;
        let clients: Vec<_> = (0..10)
            .map(|kind| tokio::spawn(client(process.address.clone(), kind, end)))
            .collect();
        for client in clients {
            let limit = round + Duration::from_secs(60);
            tokio::time::timeout(limit, client).await.unwrap().unwrap();
        }
        // The relay has heard of the last goodbye.
        until(|| process.sockets() <= idle).await;
        resident.push(process.resident_bytes());
    }
    let warm = resident.split_off(resident.len() / 2);
    let (first, last) = (warm[0].max(warm[1]), warm[2].min(warm[3]));
    assert!(
        last <= first + SLACK_BYTES,
        "memory grows from round to round: {resident:?}, then {warm:?}"
    );
    // Nothing of it is left: the queues were deleted.
    process.kill();
    let relay = site::lasting::open(dir.path()).await.unwrap();
    assert_eq!(relay.stats().queues, 0);
    assert_eq!(relay.stats().message_bytes, 0);
    relay.shutdown().await.unwrap();
}
