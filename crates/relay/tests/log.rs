//! Nothing that an operator can read names a client or a queue.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::io::Write;
use std::sync::{Arc, Mutex};

use junto_relay::bench::Peer;
use junto_relay::config::Level;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use site::{connect, get, monitored, start, traffic, until};

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
/// the metrics or the statistics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_names_a_client_or_a_queue() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // The only test of this process: the log is whole.
    tracing::subscriber::set_global_default(subscriber).unwrap();
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
