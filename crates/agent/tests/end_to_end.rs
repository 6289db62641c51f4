//! Agents with their databases, over real TLS, with a real relay on loopback.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test"
)]

#[path = "../../relay/tests/site/place.rs"]
mod place;

use core::time::Duration;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use junto_agent::proto::{Committed, Delta, Row, RowKey};
use junto_agent::store::{MemoryStore, Store, StoreError};
use junto_agent::{
    ABOUT_MAX, Agent, AgentConfig, AgentError, ConnectionFault, ConnectionId, Event, Events,
    Integrity, Lines, Link, MAX_BODY, MessageId, Misuse, Noise, Pace, Progress, Reconnect, Tag,
};
use junto_crypto::aead::StoreKey;
use junto_relay::{Relay, RelayConfig, RunningRelay, Storage};
use junto_smp::address::ServerAddress;
use junto_tls::{OfflineIdentity, ServerIdentity};
use place::Place;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

/// Far more than anything here takes; only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Site {
    folder: TempDir,
    place: Place,
    relay: Option<RunningRelay>,
    address: ServerAddress,
}

/// The same for every start of a folder's relay, another one for each folder.
fn identity(folder: &Path) -> ServerIdentity {
    let saved = folder.join("identity");
    let mut seed = [1; 32];
    let name = folder.as_os_str().as_encoded_bytes();
    let places = (0..32).cycle();
    places.zip(name).for_each(|(at, byte)| seed[at] ^= byte);
    let mut rng = ChaCha20Rng::from_seed(seed);
    let now = UnixTime::now();
    if !saved.exists() {
        std::fs::create_dir(&saved).unwrap();
        let authority = OfflineIdentity::generate(&mut rng, now).unwrap();
        authority.create(&saved).unwrap();
        let issued = authority.issue("127.0.0.1", &mut rng, now).unwrap();
        issued.create(&saved).unwrap();
    }
    ServerIdentity::load(&saved, now).unwrap()
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new();
        let relay = start(folder.path(), place.address).await;
        let address = relay.address();
        Self {
            folder,
            place,
            relay: Some(relay),
            address,
        }
    }

    fn config(&self, name: &str) -> AgentConfig {
        let path = self.folder.path().join(format!("{name}.db"));
        let mut config = AgentConfig::new(path, StoreKey::from_bytes(&[7; 32]));
        let (first, longest) = (Duration::from_millis(20), Duration::from_millis(200));
        config.reconnect = Reconnect { first, longest };
        config
    }

    async fn open(&self, name: &str) -> Party {
        let (agent, events) = Agent::open(self.config(name)).await.unwrap();
        Party { agent, events }
    }

    async fn stop_relay(&mut self) {
        self.relay.take().unwrap().shutdown().await.unwrap();
    }

    async fn start_relay(&mut self) {
        self.relay = Some(start(self.folder.path(), self.place.address).await);
    }
}

async fn start(folder: &Path, bind: SocketAddr) -> RunningRelay {
    let mut config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
    config.storage = Storage::Journal {
        dir: folder.join("journal"),
        sync: false,
    };
    Relay::start(config, identity(folder)).await.unwrap()
}

struct Party {
    agent: Agent,
    events: Events,
}

impl Party {
    /// The next event that is not about relays or receipts.
    async fn next(&mut self) -> Event {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.next()).await;
            match event
                .expect("nothing happens")
                .expect("the agent has ended")
            {
                Event::RelayUp { .. } | Event::RelayDown { .. } | Event::Delivered { .. } => {}
                event => return event,
            }
        }
    }

    async fn connected(&mut self) -> (ConnectionId, Vec<u8>, [u8; 32]) {
        match self.next().await {
            Event::Connected {
                connection,
                info,
                binding,
                ..
            } => (connection, info, binding),
            event => panic!("{event:?}"),
        }
    }

    async fn message(&mut self) -> (ConnectionId, MessageId, Vec<u8>) {
        match self.next().await {
            Event::Message {
                connection,
                id,
                integrity,
                body,
            } => {
                assert_eq!(integrity, Integrity::Ok);
                (connection, id, body)
            }
            event => panic!("{event:?}"),
        }
    }
}

fn tag(name: &str) -> Tag {
    Tag::named(&[name.as_bytes()])
}

async fn pair(site: &Site) -> ((Party, ConnectionId), (Party, ConnectionId)) {
    let (mut alice, mut bob) = (site.open("alice").await, site.open("bob").await);
    let made = alice
        .agent
        .create_invitation(tag("bob"), &site.address, b"I am Alice")
        .await;
    let (known, link) = made.unwrap();
    let link: Link = link.to_string().parse().unwrap();
    let joined = bob
        .agent
        .join(tag("alice"), &link, &site.address, b"I am Bob")
        .await
        .unwrap();
    let (at_bob, info, binding) = bob.connected().await;
    assert_eq!((at_bob, &info[..]), (joined, &b"I am Alice"[..]));
    let (at_alice, info, same) = alice.connected().await;
    assert_eq!((at_alice, &info[..]), (known, &b"I am Bob"[..]));
    assert_eq!(binding, same);
    ((alice, at_alice), (bob, at_bob))
}

#[tokio::test]
async fn two_contacts_find_nothing_in_common_but_the_relay() {
    let site = Site::new().await;
    let alice = site.open("alice").await;
    let mut given = Vec::new();
    for contact in ["bob", "carol"] {
        let (name, relay) = (tag(contact), &site.address);
        let full = alice.agent.create_invitation(name, relay, b"").await;
        given.push((full.unwrap().1.to_string(), BTreeSet::new()));
        let short = format!("short {contact}");
        let short = alice.agent.publish_invitation(tag(&short), relay, b"", b"");
        let (_, full, short) = short.await.unwrap();
        let (texts, _) = given.last_mut().unwrap();
        *texts = format!("{texts} {full} {short}");
    }
    // Names, keys and secrets are long words of base64, between percent signs with two digits and other signs.
    for (texts, words) in &mut given {
        let texts = format!("  {}", texts.replace("%25", "%"));
        let parts = texts.split('%').flat_map(|part| {
            part[2..].split(|it: char| !it.is_ascii_alphanumeric() && !"-_".contains(it))
        });
        *words = parts
            .filter(|word| word.len() >= 24)
            .map(str::to_owned)
            .collect();
        assert!(words.len() >= 9, "{words:?}");
    }
    let (bob, carol) = (&given[0].1, &given[1].1);
    let fingerprint = site.address.to_string();
    for word in bob.intersection(carol) {
        assert!(fingerprint.contains(word.as_str()), "{word}");
    }
}

#[tokio::test]
async fn two_agents_connect_by_link_and_talk() {
    let site = Site::new().await;
    let ((mut alice, to_bob), (mut bob, to_alice)) = pair(&site).await;
    for round in 0..3_u8 {
        let long = vec![round; MAX_BODY];
        alice.agent.send(to_bob, &long).await.unwrap();
        let (_, id, body) = bob.message().await;
        assert_eq!(body, long);
        bob.agent.ack(to_alice, id).await.unwrap();
        bob.agent.send(to_alice, &[round]).await.unwrap();
        let (_, id, body) = alice.message().await;
        assert_eq!(body, [round]);
        alice.agent.ack(to_bob, id).await.unwrap();
    }
    let too_long = alice.agent.send(to_bob, &vec![0; MAX_BODY + 1]).await;
    assert!(matches!(
        too_long,
        Err(AgentError::Misuse(Misuse::BodyTooLong))
    ));
}

#[tokio::test]
async fn many_messages_keep_their_order_and_receipts_come() {
    let site = Site::new().await;
    let ((alice, to_bob), (mut bob, to_alice)) = pair(&site).await;
    let count = 300_u32;
    let agent = alice.agent.clone();
    let sending = tokio::spawn(async move {
        for number in 0..count {
            agent.send(to_bob, &number.to_be_bytes()).await.unwrap();
        }
    });
    for number in 0..count {
        let (_, id, body) = bob.message().await;
        assert_eq!(body, number.to_be_bytes());
        bob.agent.ack(to_alice, id).await.unwrap();
    }
    sending.await.unwrap();
    let mut alice = alice;
    let mut delivered = 0;
    while delivered < count {
        let event = tokio::time::timeout(PATIENCE, alice.events.next())
            .await
            .unwrap();
        if let Some(Event::Delivered { .. }) = event {
            delivered += 1;
        }
    }
}

/// Waits until a relay has taken that many messages since it started.
async fn taken(site: &Site, count: u64) {
    let relay = site.relay.as_ref().unwrap();
    let reached = async {
        while relay.stats().messages_received < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.expect("the relay gets no messages");
}

/// Takes messages until as many have come, and as many of ours were delivered.
async fn talk(party: &mut Party, to: ConnectionId, count: u8) -> Vec<Vec<u8>> {
    let (mut bodies, mut delivered) = (Vec::new(), 0);
    while bodies.len() < count.into() || delivered < count {
        let event = tokio::time::timeout(PATIENCE, party.events.next()).await;
        match event
            .expect("nothing happens")
            .expect("the agent has ended")
        {
            Event::Message {
                id,
                integrity,
                body,
                ..
            } => {
                assert_eq!(integrity, Integrity::Ok);
                bodies.push(body);
                party.agent.ack(to, id).await.unwrap();
            }
            Event::Delivered { .. } => delivered += 1,
            Event::RelayUp { .. } => {}
            event => panic!("{event:?}"),
        }
    }
    bodies
}

#[tokio::test]
async fn a_real_relay_gets_no_more_with_noise_when_there_is_much_to_say() {
    const COUNT: u8 = 12;
    let site = Site::new().await;
    let ((mut alice, to_bob), (mut bob, to_alice)) = pair(&site).await;
    let every = Duration::from_millis(250);
    let noise = Noise::Constant(Pace::new(every).unwrap());
    alice.agent.set_noise(to_bob, noise).await.unwrap();
    bob.agent.set_noise(to_alice, noise).await.unwrap();
    let running = async {
        for agent in [&alice.agent, &bob.agent] {
            while !agent.overview().await.unwrap().connections[0]
                .noise
                .is_running
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let running = tokio::time::timeout(PATIENCE, running).await;
    running.expect("they do not understand each other");
    let relay = site.relay.as_ref().unwrap();
    // Nobody says anything, and messages come.
    taken(&site, relay.stats().messages_received + 8).await;

    let (start, before) = (tokio::time::Instant::now(), relay.stats());
    for number in 0..COUNT {
        alice.agent.send(to_bob, &[number]).await.unwrap();
        bob.agent.send(to_alice, &[number]).await.unwrap();
    }
    let (at_alice, at_bob) = tokio::join!(
        talk(&mut alice, to_bob, COUNT),
        talk(&mut bob, to_alice, COUNT)
    );
    let expected: Vec<_> = (0..COUNT).map(|number| vec![number]).collect();
    assert_eq!((&at_alice, &at_bob), (&expected, &expected));
    let (elapsed, after) = (start.elapsed(), relay.stats());
    // One for each slot, one that was on its way, and one that came late; never the 24 at once.
    let slots = elapsed.as_millis() / every.as_millis() + 3;
    let sent = u128::from(after.messages_received - before.messages_received);
    assert!(sent <= 2 * slots, "{sent} messages in {elapsed:?}");
    assert!(slots > COUNT.into(), "{elapsed:?}");

    // And none without it.
    alice.agent.set_noise(to_bob, Noise::Off).await.unwrap();
    bob.agent.set_noise(to_alice, Noise::Off).await.unwrap();
    for (agent, connection) in [(&alice.agent, to_bob), (&bob.agent, to_alice)] {
        let connections = [connection].into();
        let lines = Lines {
            connections,
            ..Lines::default()
        };
        let settled = tokio::time::timeout(PATIENCE, agent.settle(lines)).await;
        settled.expect("not settled").unwrap();
    }
    let running = [&alice.agent, &bob.agent].map(|agent| agent.overview());
    for overview in running {
        assert!(!overview.await.unwrap().connections[0].noise.is_running);
    }
}

#[tokio::test]
async fn an_address_takes_requests() {
    let site = Site::new().await;
    let (mut alice, mut bob) = (site.open("alice").await, site.open("bob").await);
    let link = alice
        .agent
        .create_address(tag("door"), &site.address)
        .await
        .unwrap();
    let again = alice
        .agent
        .create_address(tag("door"), &site.address)
        .await
        .unwrap();
    assert_eq!(link, again);
    bob.agent
        .join(tag("a"), &link.into(), &site.address, b"knock")
        .await
        .unwrap();
    let Event::Request {
        id,
        tag: door,
        info,
    } = alice.next().await
    else {
        panic!()
    };
    assert_eq!((door, &info[..]), (tag("door"), &b"knock"[..]));
    let accepted = alice
        .agent
        .accept(id, &site.address, b"come in")
        .await
        .unwrap();
    assert_eq!(
        alice
            .agent
            .accept(id, &site.address, b"come in")
            .await
            .unwrap(),
        accepted
    );
    let (connection, info, _) = alice.connected().await;
    assert_eq!((connection, &info[..]), (accepted, &b"knock"[..]));
    let (_, info, _) = bob.connected().await;
    assert_eq!(&info[..], b"come in");
}

#[tokio::test]
async fn a_restarted_relay_and_a_restarted_agent_lose_nothing() {
    let mut site = Site::new().await;
    let ((alice, to_bob), (bob, to_alice)) = pair(&site).await;
    site.stop_relay().await;
    for number in 0..20_u8 {
        alice.agent.send(to_bob, &[number]).await.unwrap();
    }
    bob.agent.close().await;
    site.start_relay().await;
    let mut bob = site.open("bob").await;
    let (connection, ..) = bob.connected().await;
    assert_eq!(connection, to_alice);
    let mut unacknowledged = Vec::new();
    for number in 0..20_u8 {
        let (_, id, body) = bob.message().await;
        assert_eq!(body, [number]);
        unacknowledged.push(id);
    }
    for id in unacknowledged.drain(..10) {
        bob.agent.ack(to_alice, id).await.unwrap();
    }
    bob.agent.close().await;
    let mut bob = site.open("bob").await;
    bob.connected().await;
    for (number, known) in (10..20_u8).zip(unacknowledged) {
        let (_, id, body) = bob.message().await;
        assert_eq!((id, &body[..]), (known, &[number][..]));
    }
}

#[tokio::test]
async fn a_second_process_on_a_profile_is_refused() {
    let site = Site::new().await;
    let first = site.open("alice").await;
    let second = Agent::open(site.config("alice")).await;
    assert!(matches!(second, Err(AgentError::Store(StoreError::Busy))));
    first.agent.close().await;
    site.open("alice").await;
}

#[tokio::test]
async fn without_a_relay_calls_wait_and_then_succeed() {
    let mut site = Site::new().await;
    site.stop_relay().await;
    let mut alice = site.open("alice").await;
    let (agent, address) = (alice.agent.clone(), site.address.clone());
    let waiting = tokio::spawn(async move {
        agent
            .create_invitation(tag("later"), &address, b"")
            .await
            .unwrap()
    });
    let event = tokio::time::timeout(PATIENCE, alice.events.next()).await;
    assert!(matches!(event.unwrap(), Some(Event::RelayDown { .. })));
    assert!(!waiting.is_finished());
    site.start_relay().await;
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn closed_agents_say_so() {
    let site = Site::new().await;
    let mut alice = site.open("alice").await;
    let agent = alice.agent.clone();
    alice.agent.close().await;
    let call = agent.delete(ConnectionId::new([1; 16])).await;
    assert!(matches!(call, Err(AgentError::Closed)));
    while let Some(event) = alice.events.next().await {
        assert!(matches!(
            event,
            Event::RelayUp { .. } | Event::RelayDown { .. }
        ));
    }
}

/// A store that can be made to refuse.
struct Moody {
    inner: MemoryStore,
    refuses: Arc<AtomicBool>,
}

impl Store for Moody {
    fn load(&mut self) -> Result<Vec<(RowKey, Row)>, StoreError> {
        self.inner.load()
    }

    fn commit(&mut self, delta: &Delta) -> Result<Committed, StoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError::Full);
        }
        self.inner.commit(delta)
    }
}

#[tokio::test]
async fn a_full_disk_refuses_calls_and_loses_nothing() {
    let site = Site::new().await;
    let refuses = Arc::new(AtomicBool::new(false));
    let moody = Moody {
        inner: MemoryStore::default(),
        refuses: Arc::clone(&refuses),
    };
    let reconnect = site.config("x").reconnect;
    let (agent, events) = Agent::open_with(Box::new(moody), true, reconnect)
        .await
        .unwrap();
    let mut alice = Party { agent, events };
    let mut bob = site.open("bob").await;
    let made = alice
        .agent
        .create_invitation(tag("bob"), &site.address, b"")
        .await;
    let link = made.unwrap().1.into();
    let to_alice = bob
        .agent
        .join(tag("alice"), &link, &site.address, b"")
        .await
        .unwrap();
    bob.connected().await;
    let (to_bob, ..) = alice.connected().await;
    alice.agent.send(to_bob, b"before").await.unwrap();
    refuses.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = alice.agent.send(to_bob, b"refused").await;
        assert!(matches!(refused, Err(AgentError::Store(StoreError::Full))));
    }
    bob.agent.send(to_alice, b"meanwhile").await.unwrap();
    refuses.store(false, Ordering::SeqCst);
    // The agent comes back by itself; calls are refused until then.
    while alice.agent.send(to_bob, b"after").await.is_err() {}
    for expected in [&b"before"[..], b"after"] {
        assert_eq!(bob.message().await.2, expected);
    }
    loop {
        match alice.next().await {
            Event::Message { body, .. } => break assert_eq!(body, b"meanwhile"),
            Event::Connected { .. } => {}
            event => panic!("{event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_again_and_again_loses_nothing() {
    let mut site = Site::new().await;
    let ((mut alice, to_bob), (mut bob, to_alice)) = pair(&site).await;
    let count = 120_u8;
    let talk = |agent: Agent, connection: ConnectionId| async move {
        for number in 0..count {
            agent.send(connection, &[number]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let sending = [
        tokio::spawn(talk(alice.agent.clone(), to_bob)),
        tokio::spawn(talk(bob.agent.clone(), to_alice)),
    ];
    let hearing = tokio::spawn(async move {
        for number in 0..count {
            for party in [&mut alice, &mut bob] {
                let (connection, id, body) = party.message().await;
                assert_eq!(body, [number]);
                party.agent.ack(connection, id).await.unwrap();
            }
        }
    });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(70)).await;
        // Dropped, not shut down: connections break wherever they are.
        drop(site.relay.take());
        tokio::time::sleep(Duration::from_millis(30)).await;
        site.start_relay().await;
    }
    for task in sending {
        task.await.unwrap();
    }
    hearing.await.unwrap();
}

#[tokio::test]
async fn short_links_lead_through_a_real_relay() {
    let site = Site::new().await;
    let (mut alice, mut bob, mut carol) = (
        site.open("alice").await,
        site.open("bob").await,
        site.open("carol").await,
    );
    let made = alice
        .agent
        .publish_invitation(tag("link"), &site.address, b"alice", b"for bob");
    let (_, _, short) = made.await.unwrap();
    let link: Link = short.web().parse().unwrap();
    bob.agent
        .join(tag("alice"), &link, &site.address, b"bob")
        .await
        .unwrap();
    let opened = bob.next().await;
    assert!(
        matches!(&opened, Event::Opened { about, .. } if about == b"for bob"),
        "{opened:?}"
    );
    assert_eq!(bob.connected().await.1, b"alice");
    assert_eq!(alice.connected().await.1, b"bob");
    // Used up.
    carol
        .agent
        .join(tag("alice"), &link, &site.address, b"carol")
        .await
        .unwrap();
    let failed = carol.next().await;
    let gone = ConnectionFault::LinkGone;
    assert!(
        matches!(failed, Event::Failed { error, .. } if error == gone),
        "{failed:?}"
    );
}

#[tokio::test]
async fn an_address_is_published_described_answered_and_closed() {
    let mut site = Site::new().await;
    let mut alice = site.open("alice").await;
    let publish = alice
        .agent
        .publish_address(tag("door"), &site.address, b"first");
    let (_, short) = publish.await.unwrap();
    let long = vec![0; ABOUT_MAX + 1];
    let too_long = alice.agent.describe_address(tag("door"), &long).await;
    assert!(matches!(
        too_long,
        Err(AgentError::Misuse(Misuse::AboutTooLong))
    ));
    let nowhere = alice.agent.describe_address(tag("other"), b"").await;
    assert!(matches!(
        nowhere,
        Err(AgentError::Misuse(Misuse::NoAddress))
    ));
    // Described while the relay is away, and the process ends: the relay hears of it all the same.
    site.stop_relay().await;
    let described = alice.agent.describe_address(tag("door"), b"second");
    described.await.unwrap();
    alice.agent.close().await;
    site.start_relay().await;
    alice = site.open("alice").await;
    let lines = Lines {
        addresses: [tag("door")].into(),
        ..Lines::default()
    };
    alice.agent.settle(lines.clone()).await.unwrap();
    let [ref address] = alice.agent.overview().await.unwrap().addresses[..] else {
        panic!()
    };
    assert_eq!(address.short.as_ref(), Some(&short));
    assert_eq!(address.about.as_deref(), Some(&b"second"[..]));

    let link = Link::from(short);
    let mut askers = Vec::new();
    for name in ["bob", "carol", "dave"] {
        let mut asker = site.open(name).await;
        let info = name.as_bytes();
        let asked = asker.agent.join(tag("alice"), &link, &site.address, info);
        asked.await.unwrap();
        let opened = asker.next().await;
        assert!(matches!(&opened, Event::Opened { about, .. } if about == b"second"));
        let Event::Request { id, info, .. } = alice.next().await else {
            panic!()
        };
        assert_eq!(info, name.as_bytes());
        askers.push((asker, id));
    }
    // They wait for the user, over a restart too.
    alice.agent.close().await;
    alice = site.open("alice").await;
    let overview = alice.agent.overview().await.unwrap();
    assert_eq!(overview.requests.len(), 3);
    assert!(overview.connections.is_empty());
    let [(bob, first), (_, second), (carol, third)] = &mut askers[..] else {
        panic!()
    };
    let accepted = alice.agent.accept(*first, &site.address, b"alice").await;
    accepted.unwrap();
    assert_eq!(bob.connected().await.1, b"alice");
    alice.agent.reject(*second).await.unwrap();
    // What was asked before an address is closed can be answered after that.
    alice.agent.close_address(tag("door")).await.unwrap();
    alice.agent.settle(lines).await.unwrap();
    let accepted = alice.agent.accept(*third, &site.address, b"alice").await;
    accepted.unwrap();
    assert_eq!(carol.connected().await.1, b"alice");
    let overview = alice.agent.overview().await.unwrap();
    assert!(overview.requests.is_empty() && overview.addresses.is_empty());
    let mut progress = overview.connections.iter().map(|it| it.progress);
    assert!(progress.all(|it| matches!(it, Progress::Joining | Progress::Connected)));
    // Nobody gets in any more.
    let mut late = site.open("late").await;
    let asked = late.agent.join(tag("alice"), &link, &site.address, b"late");
    asked.await.unwrap();
    let gone = ConnectionFault::LinkGone;
    let failed = late.next().await;
    assert!(matches!(failed, Event::Failed { error, .. } if error == gone));
}

/// Waits until the other side sends to that many queues.
async fn until_sends(party: &Party, count: usize) {
    let all = async {
        loop {
            let overview = party.agent.overview().await.unwrap();
            if overview.connections[0].sends.len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test]
async fn a_connection_with_queues_on_two_relays_outlives_the_first() {
    let (mut site, other) = (Site::new().await, Site::new().await);
    let ((mut alice, to_bob), (bob, to_alice)) = pair(&site).await;
    alice.agent.add_queue(to_bob, &other.address).await.unwrap();
    bob.agent.add_queue(to_alice, &other.address).await.unwrap();
    until_sends(&alice, 2).await;
    until_sends(&bob, 2).await;
    // What lies with the first relay when it goes for good, and what is said after that.
    bob.agent.close().await;
    for number in 0..10_u8 {
        alice.agent.send(to_bob, &[number]).await.unwrap();
    }
    let lines = Lines {
        connections: [to_bob].into(),
        ..Lines::default()
    };
    let settled = alice.agent.settle(lines);
    tokio::time::timeout(PATIENCE, settled)
        .await
        .unwrap()
        .unwrap();
    site.stop_relay().await;
    let mut bob = site.open("bob").await;
    bob.connected().await;
    for number in 0..20_u8 {
        if number >= 10 {
            alice.agent.send(to_bob, &[number]).await.unwrap();
        }
        let (_, id, body) = bob.message().await;
        assert_eq!(body, [number]);
        bob.agent.ack(to_alice, id).await.unwrap();
        bob.agent.send(to_alice, &[number]).await.unwrap();
        let (_, id, body) = alice.message().await;
        assert_eq!(body, [number]);
        alice.agent.ack(to_bob, id).await.unwrap();
    }
    // The dead one is given up, and the peer hears of it.
    bob.agent
        .remove_queue(to_alice, &site.address)
        .await
        .unwrap();
    until_sends(&alice, 1).await;
}
