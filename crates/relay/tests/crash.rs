//! What was answered survives `kill -9`, whenever it comes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use junto_relay::bench::{Heard, OwnQueue, Peer, Said};
use junto_smp::address::ServerAddress;
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::key::AuthSecret;
use junto_smp::message::BODY_BYTES_MAX;
use tokio::sync::Semaphore;

use site::lasting::{drained, open, relay_dir, segments};
use site::process::{Moment, Process};
use site::{C, M, acked, heard, in_time, opened, refused, until};

/// Not a test: the process that [`Process`] starts.
#[test]
#[ignore = "runs for ever; started by the tests of this file"]
fn relay_process() {
    site::process::serve();
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

/// Rounds of killing; more by `JUNTO_CRASH_ROUNDS`.
fn rounds() -> u64 {
    let more = std::env::var("JUNTO_CRASH_ROUNDS").ok();
    more.and_then(|n| n.parse().ok()).unwrap_or(6)
}

/// Messages taken in all.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Messages that wait in a queue at most: below its quota, which is another test's matter.
const WAITING_MAX: usize = 60;

/// A queue, and what its sender and recipient know. Message n says so; their numbers only grow.
struct Traffic {
    queue: Arc<OwnQueue>,
    /// The next message.
    next: u32,
    /// Answered and not taken yet: they must come, in order.
    owed: BTreeSet<u32>,
    /// Sent without an answer, or taken without an answer to the ACK: they may come.
    doubtful: BTreeSet<u32>,
    /// Of these, the one whose ACK was not answered.
    acking: Option<u32>,
    /// Taken: none of these may come again, nor any before the last.
    taken: Option<u32>,
}

impl Traffic {
    async fn new(peer: &mut Peer) -> Self {
        Self {
            queue: Arc::new(peer.create(M, false, None).await.unwrap()),
            next: 0,
            owed: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            acking: None,
            taken: None,
        }
    }

    /// Message `n` has come.
    fn came(&self, n: u32) {
        assert!(self.taken < Some(n), "{n} came again after its ACK");
        let first = self.owed.first().copied();
        assert!(
            first.is_none_or(|first| n <= first),
            "{first:?} is lost: {n} came"
        );
        assert!(
            first == Some(n) || self.doubtful.contains(&n),
            "{n} was never sent"
        );
    }

    /// The ACK of message `n` was answered.
    fn was_taken(&mut self, n: u32) {
        self.taken = Some(n);
        self.owed.remove(&n);
        self.doubtful.retain(|doubtful| *doubtful > n);
    }
}

/// The body of message `n`: of any length, so that records end anywhere.
fn body(n: u32) -> Vec<u8> {
    let length = if n.is_multiple_of(3) {
        BODY_BYTES_MAX
    } else {
        4 + (n as usize * 37) % 900
    };
    let mut body = vec![0; length];
    body[..4].copy_from_slice(&n.to_be_bytes());
    body
}

/// Sends and takes until the relay is gone, and gives what is known then.
async fn run_traffic(address: &ServerAddress, traffic: Traffic) -> Traffic {
    let to = traffic.queue.sender();
    let room =
        Semaphore::new(WAITING_MAX.saturating_sub(traffic.owed.len() + traffic.doubtful.len()));
    let shared = std::sync::Mutex::new(traffic);
    let sending = async {
        let Ok(mut sender) = Peer::connect(address).await else {
            return;
        };
        while let Ok(permit) = room.acquire().await {
            permit.forget();
            let n = {
                let mut traffic = shared.lock().unwrap();
                let n = traffic.next + 1;
                traffic.next = n;
                traffic.doubtful.insert(n);
                n
            };
            match sender.send_message(to, None, &body(n)).await {
                Ok(_) => {
                    let mut traffic = shared.lock().unwrap();
                    // It may have been taken before the sender heard of it.
                    if traffic.acking != Some(n) && traffic.doubtful.remove(&n) {
                        traffic.owed.insert(n);
                    }
                }
                Err(junto_relay::bench::PeerError::Refused(code)) => panic!("refused: {code:?}"),
                Err(_) => return,
            }
        }
    };
    let taking = async {
        let _ = take_all(address, &shared, &room).await;
        room.close();
    };
    tokio::join!(sending, taking);
    shared.into_inner().unwrap()
}

/// Takes what comes until the relay is gone.
async fn take_all(
    address: &ServerAddress,
    shared: &std::sync::Mutex<Traffic>,
    room: &Semaphore,
) -> Result<(), junto_relay::bench::PeerError> {
    let mut recipient = Peer::connect(address).await?;
    let queue = Arc::clone(&shared.lock().unwrap().queue);
    assert_eq!(recipient.own(&queue, Command::Sub).await?, Said::Subscribed);
    loop {
        let Heard::Message(_, id, sealed) = recipient.event().await? else {
            panic!("not a message");
        };
        let mut current = Some((id, sealed));
        while let Some((id, sealed)) = current {
            let text = opened(&queue.delivery, &id, &sealed).expect("below the quota");
            let n = u32::from_be_bytes(*text.first_chunk().unwrap());
            assert_eq!(text, body(n));
            shared.lock().unwrap().came(n);
            let said = recipient.own(&queue, Command::Ack(Some(id))).await;
            if said.is_err() {
                // Perhaps it is gone, perhaps not.
                let mut traffic = shared.lock().unwrap();
                traffic.owed.remove(&n);
                traffic.doubtful.insert(n);
                traffic.acking = Some(n);
            }
            current = match said? {
                Said::Message(id, sealed) => Some((id, sealed)),
                _ => None,
            };
            shared.lock().unwrap().was_taken(n);
            TAKEN.fetch_add(1, Ordering::Relaxed);
            room.add_permits(1);
        }
    }
}

/// Creates and deletes queues until the relay is gone. Gives those whose creation was answered, and
/// those whose deletion was; one may be in neither.
async fn come_and_go(address: &ServerAddress) -> (Vec<OwnQueue>, Vec<OwnQueue>) {
    let (mut here, mut gone) = (Vec::new(), Vec::new());
    let Ok(mut peer) = Peer::connect(address).await else {
        return (here, gone);
    };
    while let Ok(queue) = peer.create(M, false, None).await {
        here.push(queue);
        if here.len() > 3 {
            let queue = here.swap_remove(0);
            match peer.own(&queue, Command::Delete).await {
                Ok(_) => gone.push(queue),
                Err(_) => break,
            }
        }
    }
    (here, gone)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_answered_and_repeats_nothing_acknowledged() {
    let dir = relay_dir();
    let first = Process::start(dir.path());
    let mut peer = Peer::connect(&first.address).await.unwrap();
    let mut traffics = Vec::new();
    for _ in 0..3 {
        traffics.push(Traffic::new(&mut peer).await);
    }
    first.kill();
    for round in 0..rounds() {
        if round % 3 == 2 {
            // Also in the middle of its start, and of that which follows.
            let moment = [Moment::Begun, Moment::Writing][usize::from(round % 2 == 1)];
            Process::start_and_kill(dir.path(), moment);
        }
        let process = Process::start(dir.path());
        let address = process.address.clone();
        let running: Vec<_> = traffics
            .drain(..)
            .map(|traffic| {
                let address = address.clone();
                tokio::spawn(async move { run_traffic(&address, traffic).await })
            })
            .collect();
        let churning = {
            let address = address.clone();
            tokio::spawn(async move { come_and_go(&address).await })
        };
        let before = TAKEN.load(Ordering::Relaxed);
        until(|| TAKEN.load(Ordering::Relaxed) > before + 20).await;
        // Anywhere: how long this is decides nothing but where it happens to be.
        tokio::time::sleep(Duration::from_millis(round * 7919 % 400)).await;
        process.kill();
        for traffic in running {
            traffics.push(in_time(traffic).await.unwrap());
        }
        let (here, gone) = in_time(churning).await.unwrap();
        let process = Process::start(dir.path());
        let mut peer = Peer::connect(&process.address).await.unwrap();
        for queue in &here {
            let said = peer.own(queue, Command::Sub).await.unwrap();
            assert_eq!(said, Said::Subscribed, "a queue is lost");
        }
        for queue in &gone {
            let code = refused(peer.own(queue, Command::Sub).await);
            assert_eq!(code, ErrorCode::Auth, "a deleted queue is back");
        }
        process.kill();
    }
    // Everything that is owed comes.
    let relay = open(dir.path()).await.unwrap();
    let mut peer = Peer::connect(&relay.address()).await.unwrap();
    for mut traffic in traffics {
        for text in in_time(drained(&mut peer, &traffic.queue)).await {
            let n = u32::from_be_bytes(*text.unwrap().first_chunk().unwrap());
            traffic.came(n);
            traffic.was_taken(n);
        }
        assert!(traffic.owed.is_empty(), "{:?} are lost", traffic.owed);
    }
    relay.shutdown().await.unwrap();
}
