//! `cargo bench -p junto-agent`: the figures of `junto_agent::bench`, and messages by turns over
//! loopback: through one relay, and through that of the sender to that of the receiver; then one way over several
//! queues, near relays and relays 20 ms away; then what noise costs. `-- stripes` and `-- noise` measure these alone.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use junto_agent::bench::{BenchOptions, distant};
use junto_agent::{
    Agent, AgentConfig, ConnectionId, Event, Events, MessageId, Noise, Pace, PostQuantum, Routing,
    Spread, Tag,
};
use junto_crypto::aead::StoreKey;
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::address::ServerAddress;
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::UnixTime;

struct Party {
    agent: Agent,
    events: Events,
}

async fn open(path: &Path, post_quantum: PostQuantum, own: &ServerAddress) -> Party {
    let mut config = AgentConfig::new(path, StoreKey::from_bytes(&[5; 32]));
    config.receipts = false;
    config.post_quantum = post_quantum;
    // With the same relay for both there is none to go through.
    config.routing = Routing::Always;
    config.own_relays = vec![own.clone()];
    let (agent, events) = Agent::open(config).await.unwrap();
    Party { agent, events }
}

impl Party {
    async fn connected(&mut self) -> ConnectionId {
        loop {
            if let Event::Connected { connection, .. } = self.events.next().await.unwrap() {
                return connection;
            }
        }
    }

    async fn next(&mut self) -> (ConnectionId, MessageId) {
        loop {
            if let Event::Message { connection, id, .. } = self.events.next().await.unwrap() {
                return (connection, id);
            }
        }
    }

    async fn take(&mut self) {
        let (connection, id) = self.next().await;
        self.agent.ack(connection, id).await.unwrap();
    }
}

async fn relay(seed: u8) -> RunningRelay {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap();
    let mut config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
    config.proxy.allow_private = true;
    config.proxy.allow_own = true;
    Relay::start(config, identity).await.unwrap()
}

async fn by_turns(turns: usize, post_quantum: PostQuantum, detour: bool) {
    let way = if detour { "two relays" } else { "one relay" };
    println!("{post_quantum:?}, through {way}:");
    let scratch = tempfile::tempdir_in(".").unwrap();
    let folder = scratch.path();
    let relays = [relay(1).await, relay(2).await];
    let own = [&relays[0], &relays[usize::from(detour)]].map(RunningRelay::address);
    let (mut alice, mut bob) = (
        open(&folder.join("alice.db"), post_quantum, &own[0]).await,
        open(&folder.join("bob.db"), post_quantum, &own[1]).await,
    );
    let start = Instant::now();
    let made = alice
        .agent
        .create_invitation(Tag::new([1; 32]), &own[0], b"")
        .await;
    let link = made.unwrap().1.into();
    bob.agent
        .join(Tag::new([2; 32]), &link, &own[1], b"")
        .await
        .unwrap();
    let (to_bob, to_alice) = (alice.connected().await, bob.connected().await);
    println!("connected in {:?}", start.elapsed());
    let mut times = Vec::new();
    for _ in 0..turns {
        let start = Instant::now();
        alice.agent.send(to_bob, &[1; 100]).await.unwrap();
        bob.take().await;
        times.push(start.elapsed());
        let start = Instant::now();
        bob.agent.send(to_alice, &[2; 100]).await.unwrap();
        alice.take().await;
        times.push(start.elapsed());
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    println!(
        "a hop by turns: median {:?}, p90 {:?}, p99 {:?}",
        at(50),
        at(90),
        at(99)
    );
    let count = 2_000;
    let start = Instant::now();
    let agent = alice.agent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..count / 20 {
            let body = [3; 100];
            let mut batch = Vec::new();
            for _ in 0..20 {
                let agent = agent.clone();
                batch.push(tokio::spawn(async move {
                    agent.send(to_bob, &body).await.unwrap()
                }));
            }
            for sent in batch {
                sent.await.unwrap();
            }
        }
    });
    for _ in 0..count {
        bob.take().await;
    }
    sending.await.unwrap();
    let time: Duration = start.elapsed();
    println!(
        "one way, 20 calls at a time: {:.0}/s",
        f64::from(count) / time.as_secs_f64()
    );
}

/// A relay's address by a way on which everything takes that much longer.
async fn far(relay: &RunningRelay, delay: Duration) -> ServerAddress {
    match delay.is_zero() {
        true => relay.address(),
        false => distant(&relay.address(), delay).await.unwrap(),
    }
}

/// Messages a second, one way, to a peer that receives on that many queues, each on a relay of its own.
async fn over_queues(queues: usize, delay: Duration, count: u32) -> f64 {
    let scratch = tempfile::tempdir_in(".").unwrap();
    let folder = scratch.path();
    let mut relays = Vec::new();
    let mut addresses = Vec::new();
    for number in 0..queues {
        let relay = relay(10 + u8::try_from(number).unwrap()).await;
        addresses.push(far(&relay, delay).await);
        relays.push(relay);
    }
    let home = &addresses[0];
    let config = |name: &str| {
        let mut config = AgentConfig::new(folder.join(name), StoreKey::from_bytes(&[5; 32]));
        config.receipts = false;
        config.routing = Routing::Never;
        config
    };
    let open = async |name| {
        let (agent, events) = Agent::open(config(name)).await.unwrap();
        Party { agent, events }
    };
    let (mut alice, mut bob) = (open("alice.db").await, open("bob.db").await);
    let made = alice.agent.create_invitation(Tag::new([1; 32]), home, b"");
    let link = made.await.unwrap().1.into();
    let joined = bob.agent.join(Tag::new([2; 32]), &link, home, b"");
    joined.await.unwrap();
    let (to_bob, to_alice) = (alice.connected().await, bob.connected().await);
    for address in &addresses[1..] {
        bob.agent.add_queue(to_alice, address).await.unwrap();
    }
    let spread = alice.agent.set_spread(to_bob, Spread::Stripes);
    spread.await.unwrap();
    while alice.agent.overview().await.unwrap().connections[0]
        .sends
        .len()
        < queues
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Instant::now();
    let agent = alice.agent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..count / 20 {
            let calls = (0..20).map(|_| {
                let agent = agent.clone();
                tokio::spawn(async move { agent.send(to_bob, &[3; 100]).await.unwrap() })
            });
            for sent in calls.collect::<Vec<_>>() {
                sent.await.unwrap();
            }
        }
    });
    // Who reads several queues acknowledges what comes from one while the others wait for theirs.
    let mut acks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (connection, id) = bob.next().await;
        let agent = bob.agent.clone();
        acks.spawn(async move { agent.ack(connection, id).await });
    }
    while let Some(acked) = acks.join_next().await {
        acked.unwrap().unwrap();
    }
    sending.await.unwrap();
    f64::from(count) / start.elapsed().as_secs_f64()
}

async fn stripes() {
    for (delay_ms, count) in [(0, 2_000), (10, 400)] {
        let delay = Duration::from_millis(delay_ms);
        let mut one = f64::NAN;
        for queues in [1, 2, 4] {
            let rate = over_queues(queues, delay, count).await;
            if queues == 1 {
                one = rate;
            }
            println!(
                "striped over {queues} queues, relays {} ms there and back: {rate:.0}/s, {:.2} times one",
                2 * delay_ms,
                rate / one
            );
        }
    }
}

/// The processor time that this process has used, where the system tells.
fn worked() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in brackets: state, then numbers; user and system time are the 14th and 15th of the whole.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields
        .get(11..13)?
        .iter()
        .map(|it| it.parse::<u64>().unwrap_or(0))
        .sum();
    // Linux tells them in hundredths of a second to all programs.
    Some(Duration::from_millis(10 * ticks))
}

/// What a talk of two agents costs with noise: both, and their relay, in this process.
async fn with_noise(noise: Noise, time: Duration) {
    let scratch = tempfile::tempdir_in(".").unwrap();
    let folder = scratch.path();
    let relay = relay(1).await;
    let home = relay.address();
    let (mut alice, mut bob) = (
        open(&folder.join("alice.db"), PostQuantum::Sparing, &home).await,
        open(&folder.join("bob.db"), PostQuantum::Sparing, &home).await,
    );
    let made = alice.agent.create_invitation(Tag::new([1; 32]), &home, b"");
    let link = made.await.unwrap().1.into();
    let joined = bob.agent.join(Tag::new([2; 32]), &link, &home, b"");
    joined.await.unwrap();
    let (to_bob, to_alice) = (alice.connected().await, bob.connected().await);
    alice.agent.set_noise(to_bob, noise).await.unwrap();
    bob.agent.set_noise(to_alice, noise).await.unwrap();
    let is_running = noise != Noise::Off;
    while bob.agent.overview().await.unwrap().connections[0]
        .noise
        .is_running
        != is_running
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (begun, work, before) = (Instant::now(), worked(), relay.stats());
    let mut times = Vec::new();
    while begun.elapsed() < time {
        let start = Instant::now();
        alice.agent.send(to_bob, &[1; 100]).await.unwrap();
        bob.take().await;
        times.push(start.elapsed());
        // At no fixed phase of any interval.
        let pause = Duration::from_millis(700 + 137 * (times.len() as u64 % 7));
        tokio::time::sleep(pause).await;
    }
    let (elapsed, after) = (begun.elapsed().as_secs_f64(), relay.stats());
    let work = work.zip(worked()).map(|(before, after)| after - before);
    let blocks =
        after.blocks_received - before.blocks_received + after.blocks_sent - before.blocks_sent;
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    println!(
        "{noise:?}: {} messages, from send to take median {:?}, p90 {:?}; {:.0} MiB an hour through the relay; {:.2} % of a core",
        times.len(),
        at(50),
        at(90),
        blocks as f64 / 64.0 / elapsed * 3_600.0,
        work.map_or(f64::NAN, |work| work.as_secs_f64() / elapsed * 100.0)
    );
}

async fn noise() {
    println!(
        "noise: two agents with their databases and a relay in one process, a message now and then:"
    );
    let pace = |millis| Pace::new(Duration::from_millis(millis)).unwrap();
    for noise in [
        Noise::Off,
        Noise::Constant(pace(250)),
        Noise::Constant(pace(2_000)),
        Noise::Random(pace(2_000)),
    ] {
        with_noise(noise, Duration::from_secs(40)).await;
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if std::env::args().any(|argument| argument == "stripes") {
        return runtime.block_on(stripes());
    }
    if std::env::args().any(|argument| argument == "noise") {
        return runtime.block_on(noise());
    }
    let folder = tempfile::tempdir_in(".").unwrap();
    runtime.block_on(by_turns(100, PostQuantum::EachStep, false));
    runtime.block_on(by_turns(100, PostQuantum::Sparing, false));
    runtime.block_on(by_turns(100, PostQuantum::Sparing, true));
    runtime.block_on(stripes());
    runtime.block_on(noise());
    let report = junto_agent::bench::run(BenchOptions::default(), folder.path());
    println!("{:#?}", report.unwrap());
}
