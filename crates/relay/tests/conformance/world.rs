//! A relay, its store, and what clients ask of it.

use junto_crypto::x25519;
use junto_relay::bench::{Heard, OwnQueue, Peer, PeerError, Said};
use junto_relay::config::{Blocked, QueueName};
use junto_relay::{Relay, RelayConfig, RunningRelay, Storage, init_dir, load_dir};
use junto_smp::address::ServerAddress;
use junto_smp::blocking::Blocking;
use junto_smp::client::Request;
use junto_smp::command::{Command, NewMode, NewNotifier, NewQueue};
use junto_smp::error::ErrorCode;
use junto_smp::id::{CorrelationId, Entity, LinkId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::link::{LinkBlobs, LinkData};
use junto_smp::message::{DeliveryKey, MessageFlags};
use junto_smp::version::{Version, VersionRange};

use crate::site;

/// A relay under test.
pub(crate) struct World {
    relay: Option<RunningRelay>,
    journal: bool,
    change: fn(&mut RelayConfig),
    pub(crate) blocked: Vec<Blocked>,
    /// Identity and, maybe, journal.
    dir: tempfile::TempDir,
}

pub(crate) async fn in_memory() -> World {
    World::start(false).await
}

pub(crate) async fn with_journal() -> World {
    World::start(true).await
}

impl World {
    async fn start(journal: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        init_dir(dir.path(), "127.0.0.1", 5223).unwrap();
        let mut world = Self {
            relay: None,
            journal,
            change: |_| {},
            blocked: Vec::new(),
            dir,
        };
        world.open().await;
        world
    }

    fn config(&self) -> RelayConfig {
        let mut config = site::config();
        if self.journal {
            // Without waiting for the disk: nothing here pulls the plug.
            let (dir, sync) = (self.dir.path().join("journal"), false);
            config.storage = Storage::Journal { dir, sync };
        }
        config.blocked = self.blocked.clone();
        (self.change)(&mut config);
        config
    }

    async fn open(&mut self) {
        let (_, identity) = load_dir(self.dir.path()).unwrap();
        let relay = Relay::start(self.config(), identity).await.unwrap();
        self.relay = Some(relay);
    }

    /// Stops the relay properly and starts it again.
    pub(crate) async fn restart(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.shutdown().await.unwrap();
        }
        self.open().await;
    }

    /// The same world with another config, which takes a restart.
    pub(crate) async fn with(mut self, change: fn(&mut RelayConfig)) -> Self {
        self.change = change;
        self.restart().await;
        self
    }

    /// Blocks or unblocks this queue, as an operator does who edits the settings.
    pub(crate) fn block(&mut self, id: &[u8; 24], blocking: Option<Blocking>) {
        let queue = QueueName(*id);
        self.blocked = vec![Blocked { queue, blocking }];
        self.reload(self.change);
    }

    /// Other settings from the next block on, without a restart.
    pub(crate) fn reload(&mut self, change: fn(&mut RelayConfig)) {
        self.change = change;
        let (_, identity) = load_dir(self.dir.path()).unwrap();
        self.relay().reload(self.config(), &identity).unwrap();
    }

    pub(crate) fn relay(&self) -> &RunningRelay {
        self.relay.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> ServerAddress {
        self.relay().address()
    }

    pub(crate) async fn connect(&self) -> Peer {
        site::connect(self.relay()).await
    }

    pub(crate) async fn connect_in(&self, version: u16) -> Peer {
        let range = VersionRange::only(Version::new(version).unwrap());
        Peer::connect_with(&self.address(), range, true)
            .await
            .unwrap()
    }
}

/// A command about `id`.
pub(crate) async fn ask(
    peer: &mut Peer,
    id: &[u8; 24],
    key: Option<&AuthSecret>,
    command: Command<'_>,
) -> Result<Said, PeerError> {
    let entity = Entity::Queue(id);
    let request = Request {
        entity,
        key,
        command,
    };
    peer.call(&request).await
}

/// The answer must be this error.
pub(crate) async fn refused(
    peer: &mut Peer,
    id: &[u8; 24],
    key: Option<&AuthSecret>,
    command: Command<'_>,
) -> ErrorCode {
    site::refused(ask(peer, id, key, command).await)
}

pub(crate) fn send(body: &[u8]) -> Command<'_> {
    let flags = MessageFlags { notify: false };
    Command::Send { flags, body }
}

pub(crate) fn send_notifying(body: &[u8]) -> Command<'_> {
    let flags = MessageFlags { notify: true };
    Command::Send { flags, body }
}

pub(crate) fn x25519_key(peer: &mut Peer) -> AuthSecret {
    AuthSecret::X25519(x25519::SecretKey::generate(peer.rng()))
}

/// What a queue is created with beyond its mode.
#[derive(Default)]
pub(crate) struct Wishes<'a> {
    pub(crate) subscribe: bool,
    pub(crate) notifier: Option<NewNotifier>,
    /// A contact queue with this link id; otherwise a one-time queue.
    pub(crate) contact: Option<LinkId>,
    pub(crate) blobs: Option<(&'a [u8], &'a [u8])>,
    /// Another sender id than the right one.
    pub(crate) sender: Option<SenderId>,
}

/// Creates a queue with link data, notifier, or both.
pub(crate) async fn create(peer: &mut Peer, wishes: Wishes<'_>) -> Result<OwnQueue, PeerError> {
    let correlation = CorrelationId::random(peer.rng());
    let key = AuthSecret::generate(peer.rng());
    let secret = x25519::SecretKey::generate(peer.rng());
    let data = wishes.blobs.map(|(fixed, user)| LinkData {
        sender: wishes.sender.unwrap_or(correlation.derived_sender_id()),
        blobs: LinkBlobs::new(fixed, user).unwrap(),
    });
    let new = NewQueue {
        auth_key: key.public_key(),
        dh_key: secret.public_key(),
        password: None,
        subscribe: wishes.subscribe,
        mode: match wishes.contact {
            Some(link) => NewMode::Contact(data.map(|data| (link, data))),
            None => NewMode::Messaging(data),
        },
        notifier: wishes.notifier,
    };
    let request = Request {
        entity: Entity::None,
        key: Some(&key),
        command: Command::New(Box::new(new)),
    };
    let number = peer.ask_as(&request, correlation).await?;
    peer.send().await?;
    let Said::Ids(ids) = peer.answer(number).await? else {
        return Err(PeerError::Unexpected);
    };
    let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
    Ok(OwnQueue {
        ids: *ids,
        key,
        delivery: DeliveryKey::new(&shared),
    })
}

/// Nothing more must have been said to this connection: an answer to `PING` comes first.
pub(crate) async fn silent(peer: &mut Peer) {
    let ping = Request {
        entity: Entity::None,
        key: None,
        command: Command::Ping,
    };
    assert_eq!(peer.call(&ping).await.unwrap(), Said::Pong);
    assert_eq!(peer.heard().collect::<Vec<Heard>>(), []);
}
