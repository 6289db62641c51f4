//! Two agents with their databases, connected through a real relay on loopback.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use junto_agent::{Agent, AgentConfig, ConnectionId, Event, Events, Link, MessageId, Tag};
use junto_crypto::aead::StoreKey;
use junto_files::frame::{Body, Frame, Offer};
use junto_files::{Book, CHUNK_BYTES, Limits, Line, Report, TransferId};
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::address::ServerAddress;
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rustls::pki_types::UnixTime;
use tempfile::TempDir;

/// Far more than anything here takes; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LIMITS: Limits = Limits {
    size: 100_000_000,
    patience: PATIENCE,
};

pub(crate) struct Stage {
    pub(crate) folder: TempDir,
    relay: RunningRelay,
}

/// One side: what survives it is its database, its book and its folder.
pub(crate) struct Party {
    name: &'static str,
    pub(crate) agent: Agent,
    pub(crate) events: Events,
    pub(crate) connection: ConnectionId,
    pub(crate) stored: Arc<Mutex<Option<Vec<u8>>>>,
    pub(crate) dir: PathBuf,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let bind = ([127, 0, 0, 1], 0).into();
        let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap();
        let relay = Relay::start(config, identity).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        Self { folder, relay }
    }

    async fn agent(&self, name: &str) -> (Agent, Events) {
        let path = self.folder.path().join(format!("{name}.db"));
        let config = AgentConfig::new(path, StoreKey::from_bytes(&[7; 32]));
        Agent::open(config).await.unwrap()
    }

    /// Alice and Bob, connected.
    pub(crate) async fn pair(&self) -> (Party, Party) {
        let relay: ServerAddress = self.relay.address();
        let tag = Tag::named(&[b"test"]);
        let (alice, mut alice_events) = self.agent("alice").await;
        let (bob, mut bob_events) = self.agent("bob").await;
        let (near, link) = alice.create_invitation(tag, &relay, b"").await.unwrap();
        let far = bob.join(tag, &Link::from(link), &relay, b"").await.unwrap();
        connected(&mut alice_events).await;
        connected(&mut bob_events).await;
        let party = |name, agent, events, connection| {
            let dir = self.folder.path().join(format!("{name}'s files"));
            std::fs::create_dir(&dir).unwrap();
            Party {
                name,
                agent,
                events,
                connection,
                stored: Arc::default(),
                dir,
            }
        };
        (
            party("alice", alice, alice_events, near),
            party("bob", bob, bob_events, far),
        )
    }

    /// The process of this side ends and begins again.
    pub(crate) async fn reopen(&self, party: Party) -> Party {
        let Party {
            name,
            agent,
            events,
            connection,
            stored,
            dir,
        } = party;
        drop(events);
        agent.close().await;
        let (agent, mut events) = self.agent(name).await;
        connected(&mut events).await;
        Party {
            name,
            agent,
            events,
            connection,
            stored,
            dir,
        }
    }
}

async fn connected(events: &mut Events) {
    let connected = async {
        loop {
            if let Event::Connected { .. } = events.next().await.unwrap() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
}

impl Party {
    pub(crate) fn book(&self) -> Book<'static> {
        let stored = Arc::clone(&self.stored);
        self.book_kept(move |bytes| {
            *stored.lock().unwrap() = Some(bytes.to_vec());
            Ok(())
        })
    }

    pub(crate) fn book_kept(
        &self,
        keep: impl FnMut(&[u8]) -> std::io::Result<()> + Send + 'static,
    ) -> Book<'static> {
        Book::open(self.stored.lock().unwrap().as_deref(), keep).unwrap()
    }

    pub(crate) fn line(&mut self) -> Line<'_> {
        Line::new(&self.agent, &mut self.events, self.connection)
    }

    /// A file of this side.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The names in its folder.
    pub(crate) fn names(&self) -> Vec<String> {
        names(&self.dir)
    }

    /// Says something that the shell would not.
    pub(crate) async fn say(&self, id: TransferId, body: Body<'_>) {
        self.say_bytes(&Frame { id, body }.encode()).await;
    }

    pub(crate) async fn say_bytes(&self, bytes: &[u8]) {
        self.agent.send(self.connection, bytes).await.unwrap();
    }

    /// The next message of the other side; it is not acknowledged.
    pub(crate) async fn message(&mut self) -> (MessageId, Vec<u8>) {
        let message = async {
            loop {
                if let Event::Message { id, body, .. } = self.events.next().await.unwrap() {
                    return (id, body);
                }
            }
        };
        tokio::time::timeout(PATIENCE, message).await.unwrap()
    }

    /// The next frame, acknowledged, as `check` sees it.
    pub(crate) async fn hear<T>(&mut self, check: impl FnOnce(Frame<'_>) -> T) -> T {
        let (id, body) = self.message().await;
        self.agent.ack(self.connection, id).await.unwrap();
        check(Frame::decode(&body).unwrap())
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that differ from place to place.
pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// The offer of this content under this name.
pub(crate) fn offer(content: &[u8], name: &str) -> Offer {
    Offer {
        attempt: 1,
        size: content.len() as u64,
        chunk: CHUNK_BYTES,
        sha256: junto_crypto::hash::sha256(content),
        name: name.to_owned(),
    }
}

pub(crate) fn ignore(_: Report) {}
