//! What was answered survives the end of the process, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use junto_relay::bench::{OwnQueue, Peer, Said};
use junto_relay::{Relay, RelayError, RunningRelay, Storage, init_dir, load_dir};
use junto_smp::address::ServerAddress;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;
use junto_smp::message::BODY_BYTES_MAX;

use tokio::sync::Semaphore;

use site::{C, M, acked, connect, heard, in_time, opened, refused};

const CHILD_DIR: &str = "JUNTO_TEST_RELAY_DIR";

/// A relay in a process of its own, which `kill -9` ends.
struct Process {
    child: Child,
    address: ServerAddress,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay_process", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line[line.find("smp://")?..].parse().unwrap()))
            .expect("the relay process did not start");
        Self { child, address }
    }

    /// SIGKILL: nothing of the process gets to run any more.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Not a test: the process that [`Process`] starts.
#[test]
#[ignore = "runs for ever; started by the tests of this file"]
fn relay_process() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut relay = open(&dir).await.unwrap();
        println!("\n{}", relay.address());
        std::io::stdout().flush().unwrap();
        // Ends with its parent.
        tokio::task::spawn_blocking(|| {
            let _ = std::io::stdin().lines().count();
            std::process::exit(0);
        });
        relay.ended().await.unwrap();
    });
}

/// A relay in `dir` on any free port. Without waiting for the disk: `kill -9` does not need it, and
/// tests are many.
async fn open(dir: &Path) -> Result<RunningRelay, RelayError> {
    let (mut config, identity) = load_dir(dir).unwrap();
    config.bind = "127.0.0.1:0".parse().unwrap();
    if let Storage::Journal { sync, .. } = &mut config.storage {
        *sync = false;
    }
    Relay::start(config, identity).await
}

fn relay_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init_dir(dir.path(), "127.0.0.1", 5223).unwrap();
    dir
}

/// The files of the journal that count, in order of their numbers.
fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(dir.join("journal"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let number = path.extension()?.to_str()?.parse().ok()?;
            Some((number, path))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Takes everything that waits in `queue`.
async fn drained(peer: &mut Peer, queue: &OwnQueue) -> Vec<Option<Vec<u8>>> {
    let mut bodies = Vec::new();
    let mut next = match peer.own(queue, Command::Get).await.unwrap() {
        Said::Message(id, sealed) => Some((id, sealed)),
        Said::Ok => None,
        other => panic!("{other:?}"),
    };
    while let Some((id, sealed)) = next {
        bodies.push(opened(&queue.delivery, &id, &sealed));
        assert_eq!(acked(peer, queue, id).await, None);
        next = match peer.own(queue, Command::Get).await.unwrap() {
            Said::Message(id, sealed) => Some((id, sealed)),
            _ => None,
        };
    }
    bodies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_answered_survives_kill_9() {
    let dir = relay_dir();
    let process = Process::start(dir.path());
    let fingerprint = process.address.fingerprint();
    let mut peer = Peer::connect(&process.address).await.unwrap();
    let secured = peer.create(M, true, None).await.unwrap();
    let key = AuthSecret::generate(peer.rng());
    peer.secure(secured.sender(), &key).await.unwrap();
    let off = peer.create(M, false, None).await.unwrap();
    peer.own(&off, Command::Off).await.unwrap();
    let deleted = peer.create(M, false, None).await.unwrap();
    peer.own(&deleted, Command::Delete).await.unwrap();
    let open = peer.create(C, false, None).await.unwrap();
    let large = vec![8; BODY_BYTES_MAX];
    for body in [b"one".as_slice(), &large, b"three"] {
        peer.send_message(secured.sender(), Some(&key), body)
            .await
            .unwrap();
    }
    peer.send_message(open.sender(), None, b"").await.unwrap();
    let (id, _) = heard(&mut peer, &secured).await;
    acked(&mut peer, &secured, id).await.unwrap();
    process.kill();

    for _ in 0..3 {
        // Also after being compacted and killed again, with nothing done in between.
        Process::start(dir.path()).kill();
    }
    let process = Process::start(dir.path());
    assert_eq!(process.address.fingerprint(), fingerprint);
    let mut peer = Peer::connect(&process.address).await.unwrap();
    assert_eq!(
        drained(&mut peer, &secured).await,
        [Some(large), Some(b"three".to_vec())]
    );
    assert_eq!(drained(&mut peer, &open).await, [Some(vec![])]);
    let other = AuthSecret::generate(peer.rng());
    assert_eq!(
        refused(peer.secure(secured.sender(), &other).await),
        ErrorCode::Auth
    );
    assert_eq!(peer.secure(secured.sender(), &key).await.unwrap(), Said::Ok);
    assert_eq!(
        refused(peer.send_message(secured.sender(), None, b"m").await),
        ErrorCode::Auth
    );
    assert_eq!(
        refused(peer.send_message(off.sender(), None, b"m").await),
        ErrorCode::Auth
    );
    assert_eq!(
        refused(peer.own(&deleted, Command::Sub).await),
        ErrorCode::Auth
    );
    process.kill();
    assert_eq!(segments(dir.path()).len(), 1, "old segments are deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_answered_and_repeats_nothing_acknowledged() {
    let dir = relay_dir();
    let process = Process::start(dir.path());
    let mut recipient = Peer::connect(&process.address).await.unwrap();
    let queue = recipient.create(M, true, None).await.unwrap();
    let (mut next, mut sent, mut taken) = (0_u32, 0_u32, 0_u32);
    let mut process = Some(process);
    for round in 0..8 {
        let running = process.take().unwrap();
        let mut sender = Peer::connect(&running.address).await.unwrap();
        let to = queue.sender();
        // Below the quota of the queue, which is another test's matter.
        let waiting = usize::try_from(next - taken).unwrap();
        let room = Arc::new(Semaphore::new(100 - waiting));
        let freed = Arc::clone(&room);
        let sending = tokio::spawn(async move {
            // Until the relay dies; gives what was answered and what was tried.
            let mut answered = sent;
            while let Ok(permit) = room.acquire().await {
                permit.forget();
                if sender
                    .send_message(to, None, &next.to_be_bytes())
                    .await
                    .is_err()
                {
                    return (answered, next + 1);
                }
                next += 1;
                answered = next;
            }
            (answered, next)
        });
        // Messages may come twice if their ACK was not answered, and one may have been stored
        // without its sender knowing; but none may be missing, and none that was acknowledged come.
        let mut left = 20 + round * 7;
        let taking = async {
            loop {
                let (id, body) = match recipient.event().await {
                    Ok(junto_relay::bench::Heard::Message(_, id, sealed)) => {
                        (id, opened(&queue.delivery, &id, &sealed))
                    }
                    _ => return,
                };
                let mut current = Some((id, body));
                while let Some((id, body)) = current {
                    let n = u32::from_be_bytes(body.unwrap().try_into().unwrap());
                    assert_eq!(n, taken, "lost or repeated");
                    left -= 1;
                    if left == 0 {
                        return;
                    }
                    current = match recipient.own(&queue, Command::Ack(Some(id))).await {
                        Ok(said) => {
                            taken += 1;
                            freed.add_permits(1);
                            match said {
                                Said::Message(id, sealed) => {
                                    Some((id, opened(&queue.delivery, &id, &sealed)))
                                }
                                _ => None,
                            }
                        }
                        Err(_) => return,
                    };
                }
            }
        };
        in_time(taking).await;
        running.kill();
        freed.close();
        let (answered, tried) = sending.await.unwrap();
        assert!(answered <= tried);
        sent = answered;
        let again = Process::start(dir.path());
        recipient = Peer::connect(&again.address).await.unwrap();
        let mut probe = Peer::connect(&again.address).await.unwrap();
        // How many are there tells whether the unanswered one was stored.
        let Said::Info(json) = probe.own(&queue, Command::Info).await.unwrap() else {
            panic!("no info");
        };
        let size = json.split("\"qiSize\":").nth(1).unwrap();
        let size: u32 = size
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .unwrap()
            .parse()
            .unwrap();
        next = taken + size;
        assert!(
            next == sent || next == sent + 1,
            "{sent} answered, {next} there"
        );
        recipient.own(&queue, Command::Sub).await.unwrap();
        process = Some(again);
    }
    assert!(taken > 100);
}

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
    // A base was whole before it got its name.
    let empty = b"junto relay journal 1\n".len() + 25 + 9;
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
