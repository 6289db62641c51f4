//! What an operator does to a relay that runs: real processes, real signals, real clients.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod stage;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use junto_relay::bench::{OwnQueue, Peer, PeerError, Said};
use junto_smp::address::ServerAddress;
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::message::Delivered;
use stage::{Process, Stage};

/// Generous: only a hang reaches it.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("the relay did not do it")
}

async fn connect(address: &str) -> Peer {
    let address: ServerAddress = address.parse().unwrap();
    Peer::connect(&address).await.unwrap()
}

async fn create(peer: &mut Peer, password: Option<&[u8]>) -> Result<OwnQueue, PeerError> {
    peer.create(NewMode::Messaging(None), false, password).await
}

/// All messages of `queue`, acknowledged.
async fn drained(peer: &mut Peer, queue: &OwnQueue) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Said::Message(id, sealed) = peer.own(queue, Command::Get).await.unwrap() {
        match queue.delivery.open(&id, &sealed).unwrap().content() {
            Delivered::Message { body, .. } => bodies.push(body.to_vec()),
            Delivered::QuotaReached { .. } => panic!("a queue is full"),
        }
        peer.own(queue, Command::Ack(Some(id))).await.unwrap();
    }
    bodies
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn settings(dir: &Path, change: impl FnOnce(String) -> String) {
    let path = dir.join("relay.toml");
    let changed = change(std::fs::read_to_string(&path).unwrap());
    std::fs::write(path, changed).unwrap();
}

fn start(stage: &Stage, dir: &Path) -> (Process, String) {
    let mut relay = stage.start("operator", &["relay", "start", "--dir", text(dir)]);
    let address = relay.line()["address"].as_str().unwrap().to_owned();
    (relay, address)
}

#[test]
fn check_names_every_problem_with_its_line() {
    let stage = Stage::new();
    let dir = stage.path("relay");
    let check = ["relay", "check", "--dir", text(&dir)];
    assert_eq!(stage.run("operator", &check).code, Some(1), "nothing there");
    let init = ["relay", "init", "--dir", text(&dir), "--host", "localhost"];
    stage.run("operator", &init).ok();
    let fine = stage.run("operator", &check);
    assert_eq!(fine.ok()["ok"], true);
    assert!(!fine.ok()["advice"].as_array().unwrap().is_empty());

    settings(&dir, |text| {
        text.replace("# sync = true", "snyc = true") + "levle = 1\n"
    });
    std::fs::remove_file(dir.join("server.crt")).unwrap();
    let wrong = stage.run("operator", &check);
    wrong.failed(2);
    let problems = wrong.lines[0]["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 3, "{problems:#?}");
    let whole = std::fs::read_to_string(dir.join("relay.toml")).unwrap();
    for problem in problems.iter().filter(|problem| !problem["line"].is_null()) {
        let line = usize::try_from(problem["line"].as_u64().unwrap()).unwrap();
        let line = whole.lines().nth(line - 1).unwrap();
        assert!(
            line.contains("snyc") || line.contains("levle"),
            "{problem}: {line}"
        );
        assert!(problem["remedy"].as_str().unwrap().contains("write one of"));
    }
    let start = ["relay", "start", "--dir", text(&dir)];
    stage.run("operator", &start).failed(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_of_a_busy_relay_has_everything_that_was_answered() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let mut peer = connect(&address).await;
    let queue = Arc::new(create(&mut peer, None).await.unwrap());
    let other = create(&mut peer, None).await.unwrap();
    // One client sends all the time, another makes and deletes queues.
    let answered = Arc::new(AtomicU32::new(0));
    let sending = tokio::spawn({
        let (queue, answered, address) =
            (Arc::clone(&queue), Arc::clone(&answered), address.clone());
        async move {
            let mut sender = connect(&address).await;
            for n in 0..100_u32 {
                sender
                    .send_message(queue.sender(), None, &n.to_be_bytes())
                    .await
                    .unwrap();
                answered.store(n + 1, Ordering::SeqCst);
            }
        }
    });
    let busy = tokio::spawn({
        let address = address.clone();
        async move {
            let mut peer = connect(&address).await;
            loop {
                let queue = create(&mut peer, None).await.unwrap();
                let large = vec![7; 16_000];
                peer.send_message(queue.sender(), None, &large)
                    .await
                    .unwrap();
                peer.own(&queue, Command::Delete).await.unwrap();
            }
        }
    });
    in_time(async {
        while answered.load(Ordering::SeqCst) < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let dir = stage.path("relay");
    for round in 0..3 {
        let before = answered.load(Ordering::SeqCst);
        let file = stage.path(&format!("export{round}"));
        let export = ["relay", "export", "--dir", text(&dir), text(&file)];
        stage.run("operator", &export).ok();
        let back = stage.path(&format!("back{round}"));
        let import = ["relay", "import", "--dir", text(&back), text(&file)];
        assert_eq!(stage.run("operator", &import).text("address"), address);
        // Where a relay still listens, another cannot.
        settings(&back, |text| {
            let port = address.rsplit(':').next().unwrap();
            text.replace(&format!("port = {port}"), "port = 0")
        });
        let (restored, at) = start(&stage, &back);
        let mut peer = connect(&at).await;
        let bodies = drained(&mut peer, &queue).await;
        assert!(
            bodies.len() >= usize::try_from(before).unwrap(),
            "{} of {before}",
            bodies.len()
        );
        for (n, body) in (0_u32..).zip(bodies) {
            assert_eq!(body, n.to_be_bytes(), "in order, whole");
        }
        assert!(drained(&mut peer, &other).await.is_empty());
        restored.signal("TERM");
        assert_eq!(restored.wait().code, Some(0));
    }
    in_time(sending).await.unwrap();
    busy.abort();
    // What is there already is never overwritten.
    let file = stage.path("export0");
    let export = ["relay", "export", "--dir", text(&dir), text(&file)];
    stage.run("operator", &export).failed(1);
    let import = ["relay", "import", "--dir", text(&dir), text(&file)];
    stage.run("operator", &import).failed(2);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let fresh = stage.path("fresh");
    let import = ["relay", "import", "--dir", text(&fresh), text(&file)];
    stage.run("operator", &import).failed(5);
    assert!(!fresh.exists());
}

/// The certificate that the relay at `address` shows.
async fn leaf(address: &str) -> Vec<u8> {
    let mut peer = connect(address).await;
    let shown = peer.stream().get_ref().1.peer_certificates().unwrap();
    shown[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_after_sighup_under_the_same_address() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let dir = stage.path("relay");
    // The offline key is kept elsewhere, as it should be.
    let safe = stage.path("safe");
    std::fs::create_dir(&safe).unwrap();
    std::fs::copy(dir.join("ca.crt"), safe.join("ca.crt")).unwrap();
    std::fs::rename(dir.join("ca.key"), safe.join("ca.key")).unwrap();
    let before = leaf(&address).await;
    let mut kept = connect(&address).await;
    let queue = create(&mut kept, None).await.unwrap();
    let rotate = ["relay", "rotate-certificate", "--dir", text(&dir)];
    stage.run("operator", &rotate).failed(1);
    let rotate = [&rotate[..], &["--ca", text(&safe)]].concat();
    assert_eq!(stage.run("operator", &rotate).text("address"), address);
    assert_eq!(leaf(&address).await, before, "not before it is told");
    relay.signal("HUP");
    in_time(async {
        while leaf(&address).await == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Whoever was connected stays so, and finds its queue.
    kept.send_message(queue.sender(), None, b"still here")
        .await
        .unwrap();
    assert_eq!(drained(&mut kept, &queue).await, [b"still here"]);
    relay.signal("TERM");
    let ended = relay.wait();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("a new certificate is shown"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_what_can_be_and_says_what_cannot() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let dir = stage.path("relay");
    let mut peer = connect(&address).await;
    create(&mut peer, None).await.unwrap();
    // A mistake changes nothing.
    settings(&dir, |text| {
        text.replace("# queues = 1000000", "queues = \"none\"")
    });
    relay.signal("HUP");
    settings(&dir, |text| {
        text.replace("# password = \"...\"", "password = \"open sesame\"")
            .replace("# sync = true", "sync = false")
            .replace("# level = \"warn\"", "level = \"debug\"")
    });
    relay.signal("HUP");
    // Still the mistake; a signal may be merged with the one before.
    settings(&dir, |text| text.replace("queues = \"none\"", "queues = 2"));
    in_time(async {
        loop {
            relay.signal("HUP");
            match create(&mut peer, None).await {
                Err(PeerError::Refused(ErrorCode::Auth)) => break,
                Ok(queue) => _ = peer.own(&queue, Command::Delete).await.unwrap(),
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let password = Some(b"open sesame".as_slice());
    create(&mut peer, password).await.unwrap();
    let full = create(&mut peer, password).await.err().unwrap();
    assert!(
        matches!(full, PeerError::Refused(ErrorCode::Quota)),
        "{full}"
    );
    drop(peer);
    relay.signal("TERM");
    let ended = relay.wait();
    assert_eq!(ended.code, Some(0));
    let stderr = ended.stderr;
    assert!(
        stderr.contains("`storage` waits for the next start"),
        "{stderr}"
    );
    assert!(
        stderr.contains("DEBUG"),
        "the level of the log was taken: {stderr}"
    );
    assert!(!stderr.contains("open sesame"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_at_sighup_is_told_and_changes_nothing() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    settings(&stage.path("relay"), |text| {
        text.replace("# queues = 1000000", "queues = -1")
    });
    relay.signal("HUP");
    let mut peer = connect(&address).await;
    create(&mut peer, None).await.unwrap();
    relay.signal("TERM");
    let ended = relay.wait();
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("goes on as before"),
        "{}",
        ended.stderr
    );
    assert!(
        ended.stderr.contains("`limits.queues` is -1"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_connections_finish_and_stores() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let dir = stage.path("relay");
    settings(&dir, |text| {
        text.replace("# statistics = ", "statistics = ")
    });
    relay.signal("TERM");
    assert_eq!(relay.wait().code, Some(0));
    let (relay, _) = start(&stage, &dir);
    let mut peer = connect(&address).await;
    let queue = create(&mut peer, None).await.unwrap();
    for n in 0..50_u8 {
        peer.send_message(queue.sender(), None, &[n]).await.unwrap();
    }
    relay.signal("TERM");
    // The connection is ended by the relay, not by an error on the way.
    let goodbye = in_time(peer.event()).await.err().unwrap();
    assert!(
        matches!(&goodbye, PeerError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof),
        "{goodbye}"
    );
    let ended = relay.wait();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let statistics = std::fs::read_to_string(dir.join("statistics.csv")).unwrap();
    let last: Vec<_> = statistics.lines().last().unwrap().split(',').collect();
    assert_eq!(
        (last[5], last[7]),
        ("1", "50"),
        "queues created, messages received: {statistics}"
    );
    let (_relay, _) = start(&stage, &dir);
    let mut peer = connect(&address).await;
    let expected: Vec<_> = (0..50_u8).map(|n| vec![n]).collect();
    assert_eq!(drained(&mut peer, &queue).await, expected);
}

/// The same as the relay's own test of its log, for the whole process at its most talkative.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_busy_process_names_no_client_and_no_queue() {
    let stage = Stage::new();
    let (first, address) = stage.relay();
    first.signal("TERM");
    first.wait();
    let dir = stage.path("relay");
    let relay = stage.start("operator", &["-vvv", "relay", "start", "--dir", text(&dir)]);
    let mut relay = relay;
    relay.line();
    let mut peer = connect(&address).await;
    let client = peer.stream().get_ref().0.local_addr().unwrap();
    let queue = create(&mut peer, None).await.unwrap();
    peer.send_message(queue.sender(), None, b"text")
        .await
        .unwrap();
    assert_eq!(drained(&mut peer, &queue).await.len(), 1);
    drop(peer);
    relay.signal("HUP");
    relay.signal("TERM");
    let log = relay.wait().stderr;
    assert!(
        log.contains("relay started") && log.contains("connection ended"),
        "{log}"
    );
    assert!(!log.contains(&format!(":{}", client.port())), "{log}");
    for id in [queue.recipient().0, queue.sender().0] {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{}, {}, {}", id[0], id[1], id[2]);
        for form in [&hex[..16], &list] {
            assert!(!log.contains(form), "{log}");
        }
    }
}

#[test]
fn a_reference_server_is_taken_over_by_name_of_its_files() {
    let stage = Stage::new();
    let old = stage.path("old");
    let init = [
        "relay",
        "init",
        "--dir",
        text(&old),
        "--host",
        "smp.example",
    ];
    let address = stage.run("operator", &init).text("address");
    // Ed25519 and base64url, as the reference server writes them.
    let key = format!("MCowBQYDK2VwAyEAWGZm{}ZmY=", "ZmZm".repeat(9)); // the base point
    let queue = format!(
        "CREATE rid={} rk={key} rdh={} sid={} sk= queue_mode=M\n",
        "A".repeat(32),
        "B".repeat(42) + "A",
        "C".repeat(32)
    );
    let log = stage.file(
        "smp-server-store.log",
        format!("{queue}nonsense\n").as_bytes(),
    );
    let new = stage.path("new");
    let import = [
        "relay",
        "import",
        "--dir",
        text(&new),
        "--from-simplex-store-log",
        &log,
        "--simplex-config",
        text(&old),
        "--host",
        "smp.example",
    ];
    let refused = stage.run("operator", &import);
    assert!(
        refused.failed(5)["message"]
            .as_str()
            .unwrap()
            .contains("line 2")
    );
    assert!(
        !refused.stderr.contains("nonsense"),
        "what stands there is nobody's business"
    );
    let import = [&import[..], &["--skip-damaged"]].concat();
    let moved = stage.run("operator", &import);
    assert_eq!(moved.text("address"), address);
    assert_eq!(moved.ok()["moved"]["queues"], 1);
    assert_eq!(moved.ok()["moved"]["skipped"], 1);
    let check = ["relay", "check", "--dir", text(&new)];
    assert_eq!(stage.run("operator", &check).ok()["ok"], true);
}
