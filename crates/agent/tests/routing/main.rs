//! Sending through another relay and through SOCKS, over real TLS with real relays: who sees whom, and that
//! nothing gets lost or comes twice on the longer way.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

mod door;
#[path = "../../../relay/tests/site/place.rs"]
mod place;
mod socks;

use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use junto_agent::client::{ClientError, ClientOptions, RelayClient};
use junto_agent::{
    Agent, AgentConfig, ConnectionId, Event, Events, Fallback, Integrity, Link, Reconnect,
    RelayTrouble, Routing, Tag,
};
use junto_crypto::aead::StoreKey;
use junto_relay::{Relay, RelayConfig, RunningRelay, Storage};
use junto_smp::address::ServerAddress;
use junto_tls::{ClientTls, OfflineIdentity, ServerIdentity};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

use door::Door;
use place::Place;
use socks::Socks;

/// Far more than anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A relay with a door in front of it, by which others know it.
struct Site {
    folder: TempDir,
    relay: Option<RunningRelay>,
    place: Place,
    door: Door,
    address: ServerAddress,
    is_proxy: bool,
}

impl Site {
    async fn new(is_proxy: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_identity(folder.path());
        let place = Place::new();
        let relay = start(folder.path(), place.address, is_proxy).await;
        let door = Door::open(place.address).await;
        let address = door.address(&relay.address());
        Self {
            folder,
            relay: Some(relay),
            place,
            door,
            address,
            is_proxy,
        }
    }

    async fn restart(&mut self) {
        self.relay.take().unwrap().shutdown().await.unwrap();
        self.relay = Some(start(self.folder.path(), self.place.address, self.is_proxy).await);
    }
}

fn make_identity(folder: &Path) {
    // Each relay another one.
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut rng = ChaCha20Rng::from_seed(seed);
    let saved = folder.join("identity");
    std::fs::create_dir(&saved).unwrap();
    let now = UnixTime::now();
    let authority = OfflineIdentity::generate(&mut rng, now).unwrap();
    authority.create(&saved).unwrap();
    let issued = authority.issue("localhost", &mut rng, now).unwrap();
    issued.create(&saved).unwrap();
}

async fn start(folder: &Path, bind: SocketAddr, is_proxy: bool) -> RunningRelay {
    let mut config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
    config.storage = Storage::Journal {
        dir: folder.join("journal"),
        sync: false,
    };
    config.proxy.enabled = is_proxy;
    config.proxy.allow_private = true;
    config.proxy.allow_own = true;
    // A relay that was away for a moment is asked again at once.
    config.proxy.timeouts.retry = Duration::from_millis(20);
    config.proxy.timeouts.retry_max = Duration::from_millis(200);
    let identity = ServerIdentity::load(&folder.join("identity"), UnixTime::now()).unwrap();
    Relay::start(config, identity).await.unwrap()
}

fn config(folder: &Path, name: &str) -> AgentConfig {
    let path = folder.join(format!("{name}.db"));
    let mut config = AgentConfig::new(path, StoreKey::from_bytes(&[7; 32]));
    let (first, longest) = (Duration::from_millis(20), Duration::from_millis(200));
    config.reconnect = Reconnect { first, longest };
    config
}

fn tag(name: &str) -> Tag {
    Tag::named(&[name.as_bytes()])
}

async fn next(events: &mut Events) -> Event {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        match event
            .expect("nothing happens")
            .expect("the agent has ended")
        {
            Event::RelayUp { .. } | Event::RelayDown { .. } | Event::Delivered { .. } => {}
            event => return event,
        }
    }
}

async fn connected(events: &mut Events) -> ConnectionId {
    match next(events).await {
        Event::Connected { connection, .. } => connection,
        event => panic!("{event:?}"),
    }
}

/// Takes messages until all these numbers are there, each once and in order.
async fn take_numbers(agent: &Agent, events: &mut Events, expected: core::ops::Range<u64>) {
    for number in expected {
        match next(events).await {
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                assert_eq!(integrity, Integrity::Ok, "at {number}");
                assert_eq!(body, number.to_be_bytes());
                agent.ack(connection, id).await.unwrap();
            }
            event => panic!("{event:?}"),
        }
    }
}

const ROLE: &str = "JUNTO_TEST_SENDER";
const SENT: u64 = 40;

/// The process that shall not be seen: joins by a link and sends.
async fn sender(folder: &Path) {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let link: Link = read("link").parse().unwrap();
    let own: ServerAddress = read("own").parse().unwrap();
    let mut config = config(folder, "sender");
    config.own_relays = vec![own.clone()];
    config.routing = match &*std::env::var(ROLE).unwrap() {
        "by default" => Routing::default(),
        "always" => Routing::Always,
        _ => Routing::Never,
    };
    let (agent, mut events) = Agent::open(config).await.unwrap();
    agent.join(tag("receiver"), &link, &own, b"").await.unwrap();
    let connection = connected(&mut events).await;
    for number in 0..SENT {
        agent.send(connection, &number.to_be_bytes()).await.unwrap();
    }
    // Until it is ended: who is still there can still be found.
    let _ = tokio::time::timeout(PATIENCE, core::future::pending::<()>()).await;
}

fn start_sender(folder: &Path, role: &str, test: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ROLE, role)
        .env("JUNTO_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // It has not connected anywhere before it says so and is answered.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready")));
    ready.unwrap().unwrap();
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    child
}

/// Which of two relays saw a sender in a process of its own: its own one, and that of the receiver.
async fn seen_by(role: &str, test: &str) -> [bool; 2] {
    let (own, other) = (Site::new(true).await, Site::new(true).await);
    let folder = tempfile::tempdir().unwrap();
    let (agent, mut events) = Agent::open(config(folder.path(), "receiver"))
        .await
        .unwrap();
    let made = agent.create_invitation(tag("sender"), &other.address, b"");
    let link = made.await.unwrap().1.to_string();
    std::fs::write(folder.path().join("link"), link).unwrap();
    std::fs::write(folder.path().join("own"), own.address.to_string()).unwrap();
    let mut child = start_sender(folder.path(), role, test);
    own.door.look_for(child.id());
    other.door.look_for(child.id());
    // It waits for this.
    drop(child.stdin.take());
    connected(&mut events).await;
    take_numbers(&agent, &mut events, 0..SENT).await;
    let seen = [&own, &other].map(|site| site.door.has_seen(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    seen
}

fn play(test: &str, roles: &[(&str, [bool; 2])]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    if std::env::var(ROLE).is_ok() {
        println!("\nready");
        let _ = std::io::stdin().read_line(&mut String::new());
        let folder = std::env::var("JUNTO_TEST_FOLDER").unwrap();
        return runtime.block_on(sender(Path::new(&folder)));
    }
    for (role, seen) in roles {
        assert_eq!(runtime.block_on(seen_by(role, test)), *seen, "{role}");
    }
}

#[test]
fn a_relay_that_the_sender_did_not_choose_never_sees_where_it_is() {
    let test = "a_relay_that_the_sender_did_not_choose_never_sees_where_it_is";
    // The last one shows that the door would have noticed.
    let roles = [
        ("by default", [true, false]),
        ("always", [true, false]),
        ("never", [true, true]),
    ];
    play(test, &roles);
}

/// Two agents, each with a relay of its own, that send to each other through their own.
struct Pair {
    folder: TempDir,
    sites: [Site; 2],
    agents: [(Agent, Events); 2],
    connections: [ConnectionId; 2],
}

impl Pair {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sites = [Site::new(true).await, Site::new(true).await];
        let open = async |index: usize, name: &str| {
            let mut config = config(folder.path(), name);
            config.routing = Routing::Always;
            config.own_relays = vec![sites[index].address.clone()];
            Agent::open(config).await.unwrap()
        };
        let mut agents = [open(0, "alice").await, open(1, "bob").await];
        let alice = &agents[0].0;
        let made = alice.create_invitation(tag("bob"), &sites[0].address, b"");
        let link: Link = made.await.unwrap().1.to_string().parse().unwrap();
        let bob = &agents[1].0;
        let joined = bob.join(tag("alice"), &link, &sites[1].address, b"");
        joined.await.unwrap();
        let [alice, bob] = &mut agents;
        let connections = [connected(&mut alice.1).await, connected(&mut bob.1).await];
        Self {
            folder,
            sites,
            agents,
            connections,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_comes_twice_while_either_relay_restarts() {
    const COUNT: u64 = 400;
    let pair = Pair::new().await;
    let [(alice, _), (bob, mut heard)] = pair.agents;
    let to_bob = pair.connections[0];
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            alice.send(to_bob, &number.to_be_bytes()).await.unwrap();
        }
        alice
    });
    let [mut proxy, mut destination] = pair.sites;
    let trouble = tokio::spawn(async move {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for round in 0..12 {
            // How long does not matter: whatever is on its way then is to survive.
            let moment = Duration::from_millis(u64::from(rng.next_u32() % 60));
            tokio::time::sleep(moment).await;
            match round % 4 {
                0 => proxy.door.cut(),
                1 => destination.restart().await,
                2 => destination.door.cut(),
                _ => proxy.restart().await,
            }
        }
        (proxy, destination)
    });
    take_numbers(&bob, &mut heard, 0..COUNT).await;
    let alice = tokio::time::timeout(PATIENCE, sending).await.unwrap();
    let sites = tokio::time::timeout(PATIENCE, trouble).await.unwrap();
    // And the way is still there.
    let after = alice.unwrap();
    after.send(to_bob, &COUNT.to_be_bytes()).await.unwrap();
    take_numbers(&bob, &mut heard, COUNT..COUNT + 1).await;
    drop((sites, pair.folder));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_passes_nothing_on_is_gone_round_only_if_that_is_allowed() {
    let (own, other) = (Site::new(false).await, Site::new(true).await);
    let folder = tempfile::tempdir().unwrap();
    let (bob, mut heard) = Agent::open(config(folder.path(), "bob")).await.unwrap();
    let made = bob.create_invitation(tag("alice"), &other.address, b"");
    let link: Link = made.await.unwrap().1.to_string().parse().unwrap();
    let bobs = other.door.visits();

    let open = async |fallback| {
        let mut config = config(folder.path(), "alice");
        config.own_relays = vec![own.address.clone()];
        config.fallback = fallback;
        Agent::open(config).await.unwrap()
    };
    let (alice, mut events) = open(Fallback::Never).await;
    let joined = alice.join(tag("bob"), &link, &own.address, b"");
    joined.await.unwrap();
    let mut refusals = 0;
    while refusals < 1 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await;
        match event.unwrap().unwrap() {
            Event::RelayDown { relay, trouble } if relay == other.address => {
                assert_eq!(trouble, RelayTrouble::NoWayThrough);
                refusals += 1;
            }
            Event::RelayUp { relay } => assert_eq!(relay, own.address),
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(other.door.visits(), bobs);
    alice.close().await;
    assert_eq!(other.door.visits(), bobs);

    let (alice, mut events) = open(Fallback::WhenUnsupported).await;
    let to_bob = connected(&mut events).await;
    connected(&mut heard).await;
    alice.send(to_bob, &0_u64.to_be_bytes()).await.unwrap();
    take_numbers(&bob, &mut heard, 0..1).await;
    assert!(other.door.visits() > bobs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_by_the_socks_server_and_each_connection_is_of_its_own() {
    let (own, other) = (Site::new(true).await, Site::new(true).await);
    // No resolver knows these (RFC 6761, RFC 7686).
    let (one, two) = ("own.invalid", "twoqvtgzx.onion");
    let socks = Socks::start([(one, own.door.place()), (two, other.door.place())]).await;
    let inside = |site: &Site, hosts: &[&str]| {
        let relay = site.relay.as_ref().unwrap().address();
        site.door.address_at(&relay, hosts)
    };
    let own_address = inside(&own, &[one]);
    // What only Tor knows is tried first, wherever it stands.
    let other_address = inside(&other, &["never.invalid", two]);
    let folder = tempfile::tempdir().unwrap();
    let open = async |name: &str| {
        let mut config = config(folder.path(), name);
        config.client.socks = Some(socks.server());
        config.routing = Routing::WhenUnprotected;
        Agent::open(config).await.unwrap()
    };
    let ((alice, mut told), (bob, mut heard)) = (open("alice").await, open("bob").await);
    let made = bob.create_invitation(tag("alice"), &other_address, b"");
    let link: Link = made.await.unwrap().1.to_string().parse().unwrap();
    let joined = alice.join(tag("bob"), &link, &own_address, b"");
    joined.await.unwrap();
    let to_bob = connected(&mut told).await;
    connected(&mut heard).await;
    alice.send(to_bob, &0_u64.to_be_bytes()).await.unwrap();
    take_numbers(&bob, &mut heard, 0..1).await;

    let asked = socks.asked();
    // Each of the two to each of the relays, directly: who hides his address needs no detour.
    let mut names: Vec<_> = asked.iter().map(|asked| &*asked.name).collect();
    names.sort_unstable();
    assert_eq!(names, [one, one, two, two]);
    let mut credentials: Vec<_> = (asked.iter())
        .flat_map(|asked| [&asked.user, &asked.password])
        .collect();
    credentials.sort_unstable();
    credentials.dedup();
    assert_eq!(credentials.len(), 8, "not all different");
}

#[tokio::test]
async fn without_socks_only_names_for_everybody_are_used() {
    let site = Site::new(true).await;
    let relay = site.relay.as_ref().unwrap().address();
    let tls = ClientTls::new().unwrap();
    let options = ClientOptions::default();
    let both = site
        .door
        .address_at(&relay, &["twoqvtgzx.onion", "127.0.0.1"]);
    let opened = RelayClient::connect(&tls, &both, &options, None).await;
    assert!(opened.is_ok());
    let onion = site.door.address_at(&relay, &["twoqvtgzx.onion"]);
    let opened = RelayClient::connect(&tls, &onion, &options, None).await;
    assert!(matches!(opened.err(), Some(ClientError::OnionOnly)));
}
