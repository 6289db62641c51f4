//! What an operator sees of a running relay.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::collections::BTreeMap;

use junto_relay::RunningRelay;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use site::{ask, config, get, in_time, monitored, start, traffic, until};

/// All values at `at`, by name with labels.
async fn scraped(relay: &RunningRelay) -> BTreeMap<String, f64> {
    let text = get(relay.monitor_addr().unwrap(), "/metrics").await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    assert!(body.ends_with("# EOF\n"));
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_known_traffic() {
    let relay = start(monitored()).await;
    let before = scraped(&relay).await;
    assert_eq!(before["junto_relay_connections"], 0.0);
    let (peer, _queue) = traffic(&relay).await;
    // A message that comes later answers nothing: wait for its block.
    until(|| relay.stats().blocks_received == peer.blocks().sent).await;
    let after = scraped(&relay).await;
    for (name, value) in [
        ("connections", 1.0),
        ("handshakes", 0.0),
        ("connections_accepted_total", 1.0),
        ("handshake_seconds_count", 1.0),
        ("queues", 1.0),
        ("queues_created_total", 2.0),
        ("queues_secured_total", 1.0),
        ("queues_deleted_total", 1.0),
        ("messages_received_total", 3.0),
        ("messages_acknowledged_total", 1.0),
        ("messages_expired_total", 0.0),
        ("errors_total{reason=\"auth\"}", 1.0),
        ("blocks_received_total", 9.0),
        ("block_seconds_count", 9.0),
    ] {
        assert_eq!(after[&format!("junto_relay_{name}")], value, "{name}");
    }
    assert!(after["junto_relay_message_bytes"] >= 8.0);
    assert!(after["junto_relay_blocks_sent_total"] >= 9.0);
    if cfg!(target_os = "linux") {
        assert!(after["junto_relay_resident_memory_bytes"] > 1e6);
        assert!(after["junto_relay_open_files"] > 3.0);
    }
    drop(peer);
    until(|| relay.stats().connections == 0).await;
    let after = scraped(&relay).await;
    assert_eq!(
        after["junto_relay_connections_ended_total{reason=\"peer\"}"],
        1.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_and_other_requests_are_refused() {
    let relay = start(monitored()).await;
    let at = relay.monitor_addr().unwrap();
    for path in ["/health", "/health/ready", "/health?x=1"] {
        let answer = get(at, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("{\"live\":true,\"ready\":true}\n"));
    }
    assert!(get(at, "/health/live").await.starts_with("HTTP/1.1 200 "));
    let head = ask(at, b"HEAD /health HTTP/1.1\r\n\r\n").await;
    assert!(
        head.contains("Content-Length: 27\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    for (request, status) in [
        (b"GET /../etc/passwd HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n".to_vec(), "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(), "400"),
        (
            [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 8_000]].concat(),
            "431",
        ),
        (
            [b"GET / HTTP/1.1\r\n".as_slice(), &b"A: b\r\n".repeat(40)].concat(),
            "400",
        ),
    ] {
        let answer = ask(at, &request).await;
        // If the relay has closed before all was sent, the answer may be lost on the way.
        assert!(
            answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
    }
    assert!(get(at, "/health").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_monitors_do_not_pile_up() {
    let relay = start(monitored()).await;
    let at = relay.monitor_addr().unwrap();
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    // The seventeenth is closed at once, or the others are over by then.
    let _ = get(at, "/health").await;
    // All sixteen are given up in time.
    for mut stream in silent {
        assert_eq!(in_time(stream.read(&mut [0])).await.unwrap_or(0), 0);
    }
    in_time(async { while !get(at, "/health").await.starts_with("HTTP/1.1 200 ") {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_are_given_up_are_counted_out() {
    let mut config = monitored();
    config.limits.handshakes = 1;
    let relay = start(config).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(relay.local_addr()).await.unwrap());
    }
    until(|| relay.stats().connections_total == 30 && relay.stats().connections == 1).await;
    assert_eq!(scraped(&relay).await["junto_relay_handshakes"], 1.0);
    drop(silent);
    until(|| relay.stats().connections == 0).await;
    assert_eq!(scraped(&relay).await["junto_relay_handshakes"], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_listens_unless_asked_for() {
    let relay = start(config()).await;
    assert_eq!(relay.monitor_addr(), None);
}
