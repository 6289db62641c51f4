//! `kill -9` of a process at any moment: the process is this test, started again with a variable in
//! its environment.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use junto_agent::{Agent, AgentConfig, Event, Events, Integrity, Link, Reconnect, Tag};
use junto_crypto::aead::StoreKey;
use junto_relay::{Relay, RelayConfig};
use junto_smp::address::ServerAddress;
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustls::pki_types::UnixTime;

const CHILD: &str = "JUNTO_TEST_KILLED_AGENT";

async fn open(path: &Path) -> (Agent, Events) {
    let mut config = AgentConfig::new(path, StoreKey::from_bytes(&[5; 32]));
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(100));
    config.reconnect = Reconnect { first, longest };
    Agent::open(config).await.unwrap()
}

/// The process that is killed: joins, then sends numbers, each printed once `send` has returned.
/// The number to start from is the one after the last that it is told to be printed.
async fn child(folder: PathBuf) {
    let link: Link = std::fs::read_to_string(folder.join("link"))
        .unwrap()
        .parse()
        .unwrap();
    let relay: ServerAddress = std::fs::read_to_string(folder.join("relay"))
        .unwrap()
        .parse()
        .unwrap();
    let (agent, mut events) = open(&folder.join("child.db")).await;
    agent
        .join(Tag::new([1; 32]), &link, &relay, b"child")
        .await
        .unwrap();
    let connection = loop {
        match events.next().await.unwrap() {
            Event::Connected { connection, .. } => break connection,
            Event::RelayUp { .. } | Event::RelayDown { .. } => {}
            event => panic!("{event:?}"),
        }
    };
    let mut number: u64 = std::env::var(CHILD).unwrap().parse().unwrap();
    loop {
        agent.send(connection, &number.to_be_bytes()).await.unwrap();
        println!("sent {number}");
        number += 1;
    }
}

fn start_child(folder: &Path, from: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_killed_sender_loses_nothing_that_it_was_told_is_sent",
            "--nocapture",
        ])
        .env(CHILD, from.to_string())
        .env("JUNTO_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs a child until it has printed `count` numbers, and kills it a moment later. The last number
/// that it confirmed.
fn run_and_kill(folder: &Path, from: u64, count: u64, moment: Duration) -> Vec<u64> {
    let mut child = start_child(folder, from);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut confirmed = Vec::new();
    let number = |line: &str| {
        line.split("sent ")
            .nth(1)
            .map(|text| text.parse::<u64>().unwrap())
    };
    while confirmed.len() < count as usize {
        let line = lines.next().expect("the child has ended").unwrap();
        confirmed.extend(number(&line));
    }
    std::thread::sleep(moment);
    child.kill().unwrap();
    child.wait().unwrap();
    confirmed.extend(lines.map_while(Result::ok).filter_map(|line| number(&line)));
    confirmed
}

#[test]
fn a_killed_sender_loses_nothing_that_it_was_told_is_sent() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if std::env::var(CHILD).is_ok() {
        return runtime.block_on(child(std::env::var("JUNTO_TEST_FOLDER").unwrap().into()));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    runtime.block_on(async {
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
        let now = UnixTime::now();
        let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, now).unwrap();
        let relay = Relay::start(config, identity).await.unwrap();
        let (agent, mut events) = open(&folder.path().join("parent.db")).await;
        let made = agent
            .create_invitation(Tag::new([2; 32]), &relay.address(), b"")
            .await;
        std::fs::write(folder.path().join("link"), made.unwrap().1.to_string()).unwrap();
        std::fs::write(folder.path().join("relay"), relay.address().to_string()).unwrap();

        let path = folder.path().to_owned();
        let killing = tokio::task::spawn_blocking(move || {
            let mut confirmed: Vec<u64> = Vec::new();
            for _ in 0..6 {
                // A number may have been sent without our hearing of it: it is not used again.
                let from = confirmed.last().map_or(0, |last| last + 1_000);
                let count = 1 + u64::from(rng.next_u32() % 20);
                let moment = Duration::from_micros(u64::from(rng.next_u32() % 20_000));
                confirmed.extend(run_and_kill(&path, from, count, moment));
            }
            // The last one gets rid of what the others left behind.
            let from = confirmed.last().map_or(0, |last| last + 1_000);
            let mut child = start_child(&path, from);
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let first = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("sent ")));
            first.unwrap().unwrap();
            // Read on: a child whose output nobody takes dies at its next line, and with it what
            // it has stored and not yet sent.
            std::thread::spawn(move || lines.map_while(Result::ok).count());
            (confirmed, from, child)
        });

        let mut received: Vec<u64> = Vec::new();
        let mut waiting = Some(killing);
        let mut end = None;
        while end
            .as_ref()
            .is_none_or(|(_, from, _)| !received.contains(from))
        {
            if waiting
                .as_ref()
                .is_some_and(tokio::task::JoinHandle::is_finished)
            {
                end = Some(waiting.take().unwrap().await.unwrap());
                continue;
            }
            let next = tokio::time::timeout(Duration::from_millis(100), events.next()).await;
            match next {
                Ok(Some(Event::Message {
                    connection,
                    id,
                    integrity,
                    body,
                })) => {
                    assert_eq!(integrity, Integrity::Ok);
                    received.push(u64::from_be_bytes(body.try_into().unwrap()));
                    agent.ack(connection, id).await.unwrap();
                }
                Ok(Some(
                    Event::Connected { .. } | Event::RelayUp { .. } | Event::RelayDown { .. },
                )) => {}
                Ok(event) => panic!("{event:?}"),
                Err(_) => assert!(received.len() < 100_000),
            }
        }
        let (confirmed, _, mut child) = end.unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            received.is_sorted_by(|a, b| a < b),
            "twice or out of order: {received:?}"
        );
        let lost: Vec<_> = confirmed
            .iter()
            .filter(|number| !received.contains(number))
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    });
}
