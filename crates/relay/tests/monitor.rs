//! What an operator sees of a running relay, and that it names nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use junto_relay::bench::{OwnQueue, Peer};
use junto_relay::config::Level;
use junto_relay::{RelayConfig, RunningRelay};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use site::{M, acked, config, connect, heard, in_time, refused, start, until};

fn monitored() -> RelayConfig {
    let mut config = config();
    config.monitor.listen = Some("127.0.0.1:0".parse().unwrap());
    config
}

/// What the monitor at `at` says to `request`, whole.
async fn ask(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

async fn get(at: SocketAddr, path: &str) -> String {
    ask(
        at,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
    )
    .await
}

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

/// Everything that a client does, once.
async fn traffic(relay: &RunningRelay) -> (Peer, OwnQueue) {
    let mut peer = connect(relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let key = AuthSecret::generate(peer.rng());
    peer.secure(queue.sender(), &key).await.unwrap();
    for _ in 0..3 {
        peer.send_message(queue.sender(), Some(&key), b"text")
            .await
            .unwrap();
    }
    let (id, _) = heard(&mut peer, &queue).await;
    acked(&mut peer, &queue, id).await.unwrap();
    let wrong = peer.send_message(queue.sender(), None, b"text").await;
    assert_eq!(refused(wrong), ErrorCode::Auth);
    let deleted = peer.create(M, false, None).await.unwrap();
    peer.own(&deleted, Command::Delete).await.unwrap();
    (peer, queue)
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

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A busy relay, everything logged that can be: no queue, key or address of a client is in the log,
/// the metrics or the statistics. One thread, so that the log's subscriber sees all tasks.
#[tokio::test]
async fn nothing_names_a_client_or_a_queue() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().unwrap();
    let mut config = monitored();
    config.log = Level::Debug;
    config.limits.connections = 2;
    config.monitor.statistics = Some(dir.path().join("statistics.csv"));
    let relay = start(config).await;
    let (mut peer, queue) = traffic(&relay).await;
    let client = peer.stream().get_ref().0.local_addr().unwrap();
    let second = connect(&relay).await;
    assert!(Peer::connect(&relay.address()).await.is_err());
    // Garbage, a broken block, a half handshake.
    peer.stream().write_all(&[0; 16_384]).await.unwrap();
    peer.stream().flush().await.unwrap();
    until(|| relay.stats().connections == 1).await;
    let mut tcp = TcpStream::connect(relay.local_addr()).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until(|| relay.stats().connections == 1).await;
    drop(second);
    until(|| relay.stats().connections == 0).await;
    let metrics = get(relay.monitor_addr().unwrap(), "/metrics").await;
    relay.shutdown().await.unwrap();
    let statistics = std::fs::read_to_string(dir.path().join("statistics.csv")).unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("relay started") && log.contains("connection ended"),
        "{log}"
    );
    let last = statistics.lines().last().unwrap();
    assert!(
        last.split(',').nth(7) == Some("3"),
        "messages received: {statistics}"
    );

    let names: Vec<[u8; 24]> = vec![queue.recipient().0, queue.sender().0];
    let body = metrics.split_once("\r\n\r\n").unwrap().1;
    for (what, text) in [
        ("log", log.as_str()),
        ("metrics", body),
        ("statistics", &statistics),
    ] {
        assert!(!text.contains("127.0.0.1"), "{what} has an address: {text}");
        // As ports also occur in numbers, only next to a colon.
        assert!(
            !text.contains(&format!(":{}", client.port())),
            "{what} has a port"
        );
        for name in &names {
            let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
            let list = format!("{}, {}, {}", name[0], name[1], name[2]);
            let base64 = base64(name);
            for form in [&hex[..16], &hex[..16].to_uppercase(), &list, &base64[..12]] {
                assert!(
                    !text.contains(form),
                    "{what} names a queue as {form}: {text}"
                );
            }
        }
    }
}

/// base64url, as addresses of queues have it.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |i| b >> i & 1))
        .collect();
    bits.chunks(6)
        .map(|bits| {
            bits.iter()
                .fold(0, |value, bit| value << 1 | usize::from(*bit))
        })
        .map(|value| char::from(ALPHABET[value]))
        .collect()
}
