//! Moving from the reference server: the same address, the same queues.
//!
//! The store log here is written as the reference server's sources write it, by this file's own
//! encoder, from keys that this file's client has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod site;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use junto_relay::bench::{Heard, OwnQueue, Peer, Said};
use junto_relay::simplex::{MoveError, Moved, Reference, move_reference};
use junto_relay::{Relay, RunningRelay, init_dir, load_dir};
use junto_smp::client::Request;
use junto_smp::command::{Command, QueueMode};
use junto_smp::error::ErrorCode;
use junto_smp::id::{Entity, RecipientId, SenderId, ServiceId};
use junto_smp::key::AuthSecret;
use junto_smp::message::{DeliveryKey, Timestamp};
use junto_smp::response::QueueIds;
use junto_smp::service::{ServiceQueues, ServiceRole};
use junto_smp::version::VersionRange;
use junto_tls::ServiceIdentity;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;

use site::{acked, connect, heard, refused, until};

fn b64(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

fn spki(key: &AuthSecret) -> String {
    let mut bytes = Vec::new();
    key.public_key().write_spki(&mut bytes);
    b64(&bytes)
}

/// A queue of the reference server, and what its recipient and sender know.
struct Old {
    own: OwnQueue,
    sender_key: AuthSecret,
    secret: [u8; 32],
}

impl Old {
    fn new(rng: &mut ChaCha20Rng) -> Self {
        // Any 32 bytes are a secret; an id is random and at hand.
        let mut secret = [3; 32];
        secret[..24].copy_from_slice(&RecipientId::random(rng).0);
        let key = junto_crypto::x25519::SecretKey::generate(rng);
        let ids = QueueIds {
            recipient: RecipientId::random(rng),
            sender: SenderId::random(rng),
            server_dh_key: key.public_key(),
            mode: Some(QueueMode::Messaging),
            link: None,
            service: None,
            notifier: None,
        };
        Self {
            own: OwnQueue {
                ids,
                key: AuthSecret::generate(rng),
                delivery: DeliveryKey::from_bytes(&secret),
            },
            sender_key: AuthSecret::generate(rng),
            secret,
        }
    }

    fn id(&self) -> String {
        b64(&self.own.recipient().0)
    }

    fn create(&self, rest: &str) -> String {
        let (id, key, secret) = (self.id(), spki(&self.own.key), b64(&self.secret));
        let sender = b64(&self.own.sender().0);
        format!("CREATE rid={id} rk={key} rdh={secret} sid={sender} {rest}")
    }
}

/// A reference server's folder, and an empty one for the relay.
struct Stage {
    _outer: tempfile::TempDir,
    old: PathBuf,
    log: PathBuf,
    new: PathBuf,
    fingerprint: String,
}

fn stage(lines: &[String]) -> Stage {
    let outer = tempfile::tempdir().unwrap();
    let old = outer.path().join("old");
    let address = init_dir(&old, "smp.example", 5223).unwrap();
    // What makes it a relay of ours.
    std::fs::remove_file(old.join("relay.toml")).unwrap();
    let log = outer.path().join("smp-server-store.log");
    let lines: String = lines
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect();
    std::fs::write(&log, lines).unwrap();
    Stage {
        old,
        log,
        new: outer.path().join("new"),
        fingerprint: address.to_string(),
        _outer: outer,
    }
}

impl Stage {
    fn go(&self, lenient: bool) -> Result<Moved, MoveError> {
        let reference = Reference {
            store_log: &self.log,
            identity: &self.old,
            host: "smp.example",
            port: 5223,
            lenient,
        };
        move_reference(&reference, &self.new)
    }
}

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(7)
}

fn new_service(id: [u8; 24], role: char, fingerprint: &[u8; 32]) -> String {
    let (id, hash) = (b64(&id), b64(fingerprint));
    format!("NEW_SERVICE service_id={id} role={role} cert=AAAA,BBBB cert_hash={hash} created_at=1")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_keep_their_ids_and_queues() {
    let rng = &mut rng();
    let [own, moved_later, left, notified] = [(); 4].map(|()| Old::new(rng));
    let identity = |rng: &mut ChaCha20Rng| ServiceIdentity::generate(rng, UnixTime::now()).unwrap();
    let (chat, push) = (identity(rng), identity(rng));
    let fingerprint = |identity: &ServiceIdentity| *identity.fingerprint().unwrap().as_bytes();
    let (chat_id, push_id) = (ServiceId([11; 24]), ServiceId([12; 24]));
    let notifier = format!(
        "notifier={} {} {} nsrv={}",
        b64(&[31; 24]),
        spki(&notified.sender_key),
        b64(&[7; 32]),
        b64(&push_id.0)
    );
    let lines = [
        own.create(&format!("sk= queue_mode=M rsrv={}", b64(&chat_id.0))),
        new_service(chat_id.0, 'M', &fingerprint(&chat)),
        new_service(push_id.0, 'N', &fingerprint(&push)),
        // Again under another id: the first one stays.
        new_service([13; 24], 'M', &fingerprint(&chat)),
        moved_later.create("sk= queue_mode=M"),
        format!("QUEUE_SERVICE {} R {}", moved_later.id(), b64(&chat_id.0)),
        left.create(&format!("sk= rsrv={}", b64(&chat_id.0))),
        format!("QUEUE_SERVICE {} R ", left.id()),
        notified.create(&format!("sk= {notifier}")),
    ];
    let stage = stage(&lines);
    let moved = stage.go(false).unwrap();
    let expected = Moved {
        lines: 9,
        queues: 4,
        notifiers: 1,
        services: 3,
        ..Moved::default()
    };
    assert_eq!(moved, expected);
    let (mut config, own_identity) = load_dir(&stage.new).unwrap();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.hosts = vec!["127.0.0.1".parse().unwrap()];
    let relay = Relay::start(config, own_identity).await.unwrap();
    let having = |names: &[[u8; 24]]| {
        let mut queues = ServiceQueues::default();
        for name in names {
            queues.count += 1;
            queues.hash.toggle(name);
        }
        queues
    };
    let both = [own.own.recipient().0, moved_later.own.recipient().0];
    for (identity, role, id, queues) in [
        (&chat, ServiceRole::Messaging, chat_id, having(&both)),
        (&push, ServiceRole::Notifier, push_id, having(&[[31; 24]])),
    ] {
        let versions = VersionRange::SUPPORTED;
        let peer = Peer::connect_service(&relay.address(), versions, identity, role).await;
        let mut peer = peer.unwrap();
        assert_eq!(peer.service(), Some(id));
        let command = match role {
            ServiceRole::Notifier => Command::NotifierServiceSub(Some(queues)),
            _ => Command::ServiceSub(Some(queues)),
        };
        let request = Request {
            entity: Entity::Queue(&id.0),
            key: None,
            command,
        };
        let said = peer.call(&request).await.unwrap();
        assert_eq!(said, Said::ServiceSubscribed(queues));
    }
    // With its last queue the relay forgets a service, but not which id it came with.
    let mut owner = connect(&relay).await;
    for queue in [&own, &moved_later, &notified] {
        owner.own(&queue.own, Command::Delete).await.unwrap();
    }
    drop(owner);
    let here = async |relay: &RunningRelay| {
        until(|| relay.stats().connections == 0).await;
        let versions = VersionRange::SUPPORTED;
        let address = relay.address();
        // In another role as well: nothing else was kept.
        let peer = Peer::connect_service(&address, versions, &chat, ServiceRole::Notifier).await;
        peer.unwrap().service()
    };
    assert_eq!(here(&relay).await, Some(chat_id));
    relay.shutdown().await.unwrap();
    for _ in 0..2 {
        let (mut config, own_identity) = load_dir(&stage.new).unwrap();
        config.bind = "127.0.0.1:0".parse().unwrap();
        config.hosts = vec!["127.0.0.1".parse().unwrap()];
        let relay = Relay::start(config, own_identity).await.unwrap();
        assert_eq!(here(&relay).await, Some(chat_id));
        relay.shutdown().await.unwrap();
    }
}

/// A large service, or by `JUNTO_SERVICE_QUEUES=100000` one as large as they get. Prints how long it
/// took, and how long others waited meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stderr)] // figures for whoever runs it
async fn a_service_subscribes_to_very_many_queues_by_one_command() {
    const WAITING: u64 = 200;
    let many = std::env::var("JUNTO_SERVICE_QUEUES").ok();
    let queues = many.and_then(|n| n.parse().ok()).unwrap_or(3_000);
    let rng = &mut rng();
    let identity = ServiceIdentity::generate(rng, UnixTime::now()).unwrap();
    let fingerprint = identity.fingerprint().unwrap();
    let id = ServiceId([11; 24]);
    let key = AuthSecret::generate(rng);
    let (spki, secret) = (spki(&key), b64(&[3; 32]));
    let name = |n: u64, of_sender: bool| {
        let mut name = [u8::from(of_sender); 24];
        name[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        name
    };
    let mut expected = ServiceQueues::default();
    let mut lines = vec![new_service(id.0, 'M', fingerprint.as_bytes())];
    for n in 0..queues {
        let recipient = name(n, false);
        expected.count += 1;
        expected.hash.toggle(&recipient);
        lines.push(format!(
            "CREATE rid={} rk={spki} rdh={secret} sid={} sk= rsrv={}",
            b64(&recipient),
            b64(&name(n, true)),
            b64(&id.0)
        ));
    }
    let stage = stage(&lines);
    assert_eq!(stage.go(false).unwrap().services, queues);
    let (mut config, own) = load_dir(&stage.new).unwrap();
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.hosts = vec!["127.0.0.1".parse().unwrap()];
    let relay = Relay::start(config, own).await.unwrap();
    let (mut other, mut sender) = (connect(&relay).await, connect(&relay).await);
    for n in 0..WAITING {
        let to = SenderId(name(n * (queues / WAITING), true));
        sender.send_message(to, None, &[7; 15_000]).await.unwrap();
    }
    let (versions, role) = (VersionRange::SUPPORTED, ServiceRole::Messaging);
    let peer = Peer::connect_service(&relay.address(), versions, &identity, role).await;
    let mut peer = peer.unwrap();
    let began = std::time::Instant::now();
    let said = peer
        .call(&Request {
            entity: Entity::Queue(&id.0),
            key: None,
            command: Command::ServiceSub(Some(expected)),
        })
        .await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(expected));
    let answered = began.elapsed();
    let all = async {
        let mut messages = 0;
        loop {
            match peer.event().await.unwrap() {
                Heard::Message(..) => messages += 1,
                Heard::AllDelivered => break (messages, began.elapsed()),
                heard => panic!("{heard:?}"),
            }
        }
    };
    let pings = async {
        let mut longest = std::time::Duration::ZERO;
        loop {
            let asked = std::time::Instant::now();
            let ping = Request {
                entity: Entity::None,
                key: None,
                command: Command::Ping,
            };
            assert_eq!(other.call(&ping).await.unwrap(), Said::Pong);
            longest = longest.max(asked.elapsed());
            if began.elapsed() > std::time::Duration::from_millis(300) {
                break longest;
            }
        }
    };
    let ((messages, took), longest) = tokio::join!(all, pings);
    assert_eq!(messages, WAITING);
    eprintln!(
        "SOKS after {answered:?}, everything after {took:?}; others waited {longest:?} at most"
    );
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_and_address_stay_as_they_were() {
    let rng = &mut rng();
    let [plain, secured, off, deleted, blocked, rekeyed] = [(); 6].map(|()| Old::new(rng));
    let other_key = AuthSecret::generate(rng);
    let reason = "reason=spam,notice={\"ttl\":86400}";
    let lines = [
        plain.create("sk= queue_mode=M updated_at=1771977600"),
        secured.create("sk= sndSecure=T"),
        format!("SECURE {} {}", secured.id(), spki(&secured.sender_key)),
        // A second key is not taken.
        format!("SECURE {} {}", secured.id(), spki(&other_key)),
        format!("TIME {} 1772064000", secured.id()),
        off.create("sk="),
        format!("SUSPEND {}", off.id()),
        deleted.create("sk="),
        format!("DELETE {}", deleted.id()),
        format!("SUSPEND {}", deleted.id()),
        blocked.create(&format!("sk= queue_mode=C status=blocked,{reason}")),
        rekeyed.create(&format!(
            "sk={} rsrv={}",
            spki(&rekeyed.sender_key),
            b64(&[1; 24])
        )),
        format!(
            "KEYS {} {},{}",
            rekeyed.id(),
            spki(&other_key),
            spki(&rekeyed.own.key)
        ),
        // A service that no queue names, and whose queue names one that the log does not tell of.
        new_service([2; 24], 'M', &[2; 32]),
    ];
    let stage = stage(&lines);
    let moved = stage.go(false).unwrap();
    let expected = Moved {
        lines: 14,
        queues: 5,
        suspended: 1,
        blocked: 1,
        unknown_services: 1,
        strays: 1,
        ..Moved::default()
    };
    assert_eq!(moved, expected);

    let (mut config, identity) = load_dir(&stage.new).unwrap();
    assert_eq!(config.bind.port(), 5223);
    config.bind = "127.0.0.1:0".parse().unwrap();
    config.hosts = vec!["127.0.0.1".parse().unwrap()];
    let relay = Relay::start(config, identity).await.unwrap();
    assert!(
        stage
            .fingerprint
            .contains(&relay.address().fingerprint().to_string())
    );
    let mut peer = connect(&relay).await;
    for (queue, key) in [(&plain, None), (&secured, Some(&secured.sender_key))] {
        assert_eq!(
            peer.own(&queue.own, Command::Sub).await.unwrap(),
            Said::Subscribed
        );
        let to = queue.own.sender();
        assert_eq!(
            peer.send_message(to, key, b"still works").await.unwrap(),
            Said::Ok
        );
        let (id, body) = heard(&mut peer, &queue.own).await;
        assert_eq!(
            body.unwrap(),
            b"still works",
            "the delivery key is the same"
        );
        acked(&mut peer, &queue.own, id).await;
    }
    let unsigned = peer.send_message(secured.own.sender(), None, b"m").await;
    assert_eq!(refused(unsigned), ErrorCode::Auth);
    let to_off = peer.send_message(off.own.sender(), None, b"m").await;
    assert_eq!(refused(to_off), ErrorCode::Auth);
    let to_blocked = peer.send_message(blocked.own.sender(), None, b"m").await;
    assert!(matches!(refused(to_blocked), ErrorCode::Blocked(_)));
    assert_eq!(
        refused(peer.own(&deleted.own, Command::Sub).await),
        ErrorCode::Auth
    );
    // Either of the keys will do.
    peer.own(&rekeyed.own, Command::Sub).await.unwrap();
    let with_other = OwnQueue {
        key: other_key,
        ..rekeyed.own
    };
    peer.own(&with_other, Command::Sub).await.unwrap();
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_and_notifiers_come_along() {
    let rng = &mut rng();
    let [with, late, without] = [(); 3].map(|()| Old::new(rng));
    let notifier = AuthSecret::generate(rng);
    let credentials = |n: u8| format!("{} {} {}", b64(&[n; 24]), spki(&notifier), b64(&[n; 32]));
    let data = format!("{} {}", b64(b"fixed data"), b64(b"user data"));
    let lines = [
        with.create(&format!(
            "sk= queue_mode=C link_id={} queue_data={data} notifier={} nsrv={}",
            b64(&[5; 24]),
            credentials(6),
            b64(&[7; 24]),
        )),
        late.create("sk= queue_mode=C"),
        format!("LINK {} {} {data}", late.id(), b64(&[8; 24])),
        format!("NOTIFIER {} {}", late.id(), credentials(9)),
        without.create(&format!("sk= queue_mode=C notifier={}", credentials(10))),
        format!("LINK {} {} {data}", without.id(), b64(&[11; 24])),
        format!("LDELETE {}", without.id()),
        format!("NDELETE {}", without.id()),
    ];
    let stage = stage(&lines);
    let moved = stage.go(false).unwrap();
    assert_eq!((moved.queues, moved.links, moved.notifiers), (3, 2, 2));

    // Through the journal, as the relay will see them.
    let memory = junto_relay::store::Memory::new(1 << 20);
    let dir = stage.new.join("journal");
    let store =
        junto_relay::store::JournalStore::open(&dir, false, 9, memory, Timestamp(0)).unwrap();
    use junto_relay::store::{Name, Store as _};
    for (queue, n) in [(&with, 5), (&late, 8)] {
        let cell = store.find(Name::Link, &[n; 24]).unwrap();
        assert_eq!(cell.lock().recipient(), queue.own.recipient());
        let found = cell.lock().link().unwrap().blobs().user().to_vec();
        assert_eq!(found, b"user data");
        let cell = store.find(Name::Notifier, &[n + 1; 24]).unwrap();
        assert_eq!(cell.lock().recipient(), queue.own.recipient());
    }
    assert!(store.find(Name::Link, &[11; 24]).is_none());
    assert!(store.find(Name::Notifier, &[10; 24]).is_none());
    store.close().unwrap();
}

#[test]
fn a_line_that_makes_no_sense_stops_the_move_or_is_counted() {
    let rng = &mut rng();
    let [first, second] = [(); 2].map(|()| Old::new(rng));
    let good = [first.create("sk="), second.create("sk=")];
    for bad in [
        "FROBNICATE x".to_owned(),
        String::new(),
        format!("DELETE {} more", first.id()),
        "DELETE not/base64".to_owned(),
        "SUSPEND AAAA".to_owned(),
        format!("SECURE {} {}", first.id(), b64(&[1; 44])),
        format!("BLOCK {} reason=mood", first.id()),
        format!("LINK {} {} {}", first.id(), b64(&[1; 24]), b64(&[1; 2_049])),
        first.create("sk= queue_mode=X"),
        first.create("sk= status=asleep"),
        "x".repeat(70_000),
    ] {
        let stage = stage(&[good[0].clone(), bad.clone(), good[1].clone()]);
        match stage.go(false) {
            Err(MoveError::Line { line: 2, what, .. }) => assert!(!what.is_empty()),
            other => panic!("{bad}: {other:?}"),
        }
        assert!(!stage.new.exists(), "nothing is made");
        let moved = stage.go(true).unwrap();
        assert_eq!(
            (moved.queues, moved.skipped, moved.skipped_lines),
            (2, 1, vec![2]),
            "{bad}"
        );
    }
}

#[test]
fn a_cut_last_line_is_what_a_crash_leaves() {
    let rng = &mut rng();
    let queue = Old::new(rng);
    let stage = stage(&[queue.create("sk=")]);
    let whole = std::fs::read(&stage.log).unwrap();
    let cut = [whole.as_slice(), &whole[..100]].concat();
    std::fs::write(&stage.log, cut).unwrap();
    let moved = stage.go(false).unwrap();
    assert!(moved.cut);
    assert_eq!((moved.lines, moved.queues), (2, 1));
}

#[test]
fn one_name_belongs_to_one_queue() {
    let rng = &mut rng();
    let (first, mut second) = (Old::new(rng), Old::new(rng));
    second.own.ids.sender = first.own.ids.sender;
    let moved = stage(&[
        first.create("sk="),
        second.create("sk="),
        first.create("sk="),
    ])
    .go(false)
    .unwrap();
    assert_eq!((moved.queues, moved.conflicts, moved.strays), (1, 1, 1));
}

#[test]
fn an_identity_that_cannot_be_used_leaves_nothing_behind() {
    let stage = stage(&[]);
    std::fs::write(stage.old.join("server.key"), "nonsense").unwrap();
    assert!(matches!(stage.go(false), Err(MoveError::Folder(_))));
    assert!(is_empty(&stage.new));
    std::fs::remove_file(stage.old.join("server.key")).unwrap();
    assert!(matches!(stage.go(false), Err(MoveError::Io { .. })));
    assert!(is_empty(&stage.new));
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).unwrap().next().is_none()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_log_is_read_or_refused(
        lines in prop::collection::vec("(CREATE|LINK|KEYS|BLOCK|NOTIFIER|TIME)?( [ -~]{0,60}){0,8}", 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let stage = stage(&lines);
        let mut bytes = std::fs::read(&stage.log).unwrap();
        bytes.extend_from_slice(&tail);
        std::fs::write(&stage.log, bytes).unwrap();
        let strict = stage.go(false);
        if strict.is_err() {
            prop_assert!(!stage.new.exists());
            let moved = stage.go(true).unwrap();
            prop_assert!(moved.skipped > 0);
        }
    }
}
