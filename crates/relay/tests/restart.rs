//! What was answered survives the end of the process, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use junto_relay::bench::Said;
use junto_relay::{Relay, load_dir};
use junto_smp::command::Command;

use site::lasting::{drained, open, relay_dir, segments};
use site::{M, connect};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_is_cut_and_kept_aside() {
    let dir = relay_dir();
    let relay = open(dir.path()).await.unwrap();
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    for body in [b"one", b"two", b"six"] {
        peer.send_message(queue.sender(), None, body).await.unwrap();
    }
    relay.shutdown().await.unwrap();
    let path = segments(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    // The last message; a mark of 25 bytes is behind it.
    let cut = whole.len() - 26;
    std::fs::write(&path, &whole[..cut]).unwrap();

    let relay = open(dir.path()).await.unwrap();
    let mut peer = connect(&relay).await;
    let expected = [Some(b"one".to_vec()), Some(b"two".to_vec())];
    assert_eq!(drained(&mut peer, &queue).await, expected);
    let mut aside = path.into_os_string();
    aside.push(".torn");
    assert_eq!(std::fs::read(aside).unwrap().len(), cut);
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_cut_of_the_last_segment_opens_with_a_prefix_of_the_truth() {
    let dir = relay_dir();
    let relay = open(dir.path()).await.unwrap();
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    for n in 0..4_u8 {
        peer.send_message(queue.sender(), None, &[n]).await.unwrap();
    }
    relay.shutdown().await.unwrap();
    let path = segments(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut seen = Vec::new();
    // A base was whole before it got its name: a mark, the day, and that all of it is there.
    let empty = b"junto relay journal 1\n".len() + 25 + 13 + 9;
    for cut in (empty..whole.len()).step_by(17).chain([whole.len()]) {
        for file in segments(dir.path()) {
            std::fs::remove_file(file).unwrap();
        }
        std::fs::write(&path, &whole[..cut]).unwrap();
        let relay = open(dir.path()).await.unwrap();
        let mut peer = connect(&relay).await;
        if relay.stats().queues == 1 {
            let bodies = drained(&mut peer, &queue).await;
            let expected: Vec<_> = (0..4).map(|n| Some(vec![n])).take(bodies.len()).collect();
            assert_eq!(bodies, expected);
            seen.push(bodies.len());
        }
        relay.shutdown().await.unwrap();
    }
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_refused_and_nothing_is_overwritten() {
    let dir = relay_dir();
    let relay = open(dir.path()).await.unwrap();
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, false, None).await.unwrap();
    peer.send_message(queue.sender(), None, b"m").await.unwrap();
    relay.shutdown().await.unwrap();
    let path = segments(dir.path()).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    bytes[80] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    // Not the last segment that says something, so no crash explains it.
    let later = dir.path().join("journal/journal.99");
    std::fs::write(&later, &whole).unwrap();
    let error = open(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("damaged at byte"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(segments(dir.path()).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_never_share_a_journal() {
    let dir = relay_dir();
    let first = open(dir.path()).await.unwrap();
    let error = open(dir.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("in use by another relay"),
        "{error}"
    );
    first.shutdown().await.unwrap();
    open(dir.path()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_port_is_free_again_at_once() {
    let dir = relay_dir();
    let relay = open(dir.path()).await.unwrap();
    let port = relay.local_addr();
    let mut peer = connect(&relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    relay.shutdown().await.unwrap();
    // The connection above left its port in TIME_WAIT.
    let (mut config, identity) = load_dir(dir.path()).unwrap();
    config.bind = port;
    let relay = Relay::start(config, identity).await.unwrap();
    assert_eq!(relay.local_addr(), port);
    let mut peer = connect(&relay).await;
    assert_eq!(
        peer.own(&queue, Command::Sub).await.unwrap(),
        Said::Subscribed
    );
}
