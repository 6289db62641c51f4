//! Services: their hello, their signatures, and what becomes of their queues.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use junto_crypto::{ed25519, x25519};
use junto_smp::{
    address::Fingerprint,
    block::{Block, OutgoingBlock, SessionId, new_block},
    client::{Client, Options, Request, ServiceCredentials},
    command::{Command, NewMode, NewQueue},
    error::ErrorCode,
    hello::{HelloFault, LeafKey},
    id::{Entity, RecipientId, SenderId},
    key::AuthSecret,
    message::{DeliveryKey, MessageFlags, Timestamp},
    queue::{
        Answer, Change, ConnectionId, Context, Credential, Event, FormerNotifier, Limits,
        NotifierEvent, Queue, QueueParts,
    },
    server::{Applicant, Authorised, ClientCertificates, Connection, Greeted, Handshake, Identity},
    service::{Service, ServiceFault, ServiceRole, fingerprint_of_chain},
    version::{Version, VersionRange},
};
use proptest::prelude::*;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use support::{identity, leaf};

const SESSION: SessionId = SessionId([9; 32]);

fn chain(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; 700]).collect()
}

fn service_key() -> ed25519::SigningKey {
    ed25519::SigningKey::from_seed(&[3; 32])
}

fn credentials(role: ServiceRole, count: u8) -> ServiceCredentials {
    ServiceCredentials {
        role,
        chain: chain(count),
        leaf: service_key(),
    }
}

fn certificates(count: u8) -> ClientCertificates {
    ClientCertificates {
        chain: chain(count),
        leaf: LeafKey::Ed25519(service_key().verifying_key()),
    }
}

fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// What the relay makes of a service's hello; and its client, until the third block.
fn greeted(
    relay: &Identity,
    version: Version,
    credentials: &ServiceCredentials,
    shown: Option<&ClientCertificates>,
) -> Result<(Greeted, junto_smp::client::Applying<usize>), HelloFault> {
    let (mut first, mut second) = (new_block(), new_block());
    let handshake = Handshake::start(relay, SESSION, &mut rng(1), &mut first).unwrap();
    let options = Options {
        versions: VersionRange::only(version),
        // What one end sends can be read by the end of another pair.
        encrypt: false,
        ..Options::new(relay.fingerprint())
    };
    let applying = Client::open_service(
        &options,
        credentials,
        SESSION,
        &leaf(),
        &mut first,
        &mut second,
        &mut rng(2),
    )?;
    Ok((handshake.greet(relay, shown, &mut second)?, applying))
}

/// A client that is a service, or none, and the relay's end.
struct Pair {
    client: Client<usize>,
    connection: Connection,
    service: Option<Arc<Service>>,
}

impl Pair {
    fn service(version: Version, role: ServiceRole) -> Self {
        Self::service_with(version, role, 2)
    }

    /// A service with this many certificates: another one for each number.
    fn service_with(version: Version, role: ServiceRole, count: u8) -> Self {
        let relay = identity(VersionRange::SUPPORTED);
        let (credentials, shown) = (credentials(role, count), certificates(count));
        let (greeted, applying) = greeted(&relay, version, &credentials, Some(&shown)).unwrap();
        let Greeted::Service(applicant) = greeted else {
            panic!("no service");
        };
        assert_eq!(applicant.role(), role);
        assert_eq!(applicant.fingerprint(), applying.fingerprint());
        let identity = &chain(count)[usize::from(count > 1)];
        assert_eq!(
            applicant.fingerprint(),
            Fingerprint::of_certificate(identity)
        );
        let service = Arc::new(Service::new(role, applicant.fingerprint()));
        let mut third = new_block();
        let connection = applicant.accept(Arc::clone(&service), &mut third).unwrap();
        let client = applying.accepted(&mut third).unwrap();
        assert_eq!(client.service(), Some(service.id));
        Self {
            client,
            connection,
            service: Some(service),
        }
    }

    fn client(version: Version) -> Self {
        let relay = identity(VersionRange::SUPPORTED);
        let (mut first, mut second) = (new_block(), new_block());
        let handshake = Handshake::start(&relay, SESSION, &mut rng(1), &mut first).unwrap();
        let options = Options {
            versions: VersionRange::only(version),
            // What one end sends can be read by the end of another pair.
            encrypt: false,
            ..Options::new(relay.fingerprint())
        };
        let client = Client::open(
            &options,
            SESSION,
            &leaf(),
            &mut first,
            &mut second,
            &mut rng(2),
        )
        .unwrap();
        // It has certificates in TLS and does not speak of them: no service.
        let shown = certificates(1);
        let Greeted::Client(connection) =
            handshake.greet(&relay, Some(&shown), &mut second).unwrap()
        else {
            panic!("a service");
        };
        Self {
            client,
            connection,
            service: None,
        }
    }

    /// What `then` makes of the command, if it is authorised by `credential`.
    fn ask<R>(
        &mut self,
        request: &Request<'_>,
        credential: &Credential,
        then: impl FnOnce(&Authorised<'_>) -> R,
    ) -> Result<R, ErrorCode> {
        let mut block = self.sealed(request);
        self.open(&mut block, credential, then)
    }

    fn sealed(&mut self, request: &Request<'_>) -> Box<Block> {
        let mut outgoing = OutgoingBlock::new();
        let pushed = self.client.push(&mut outgoing, request, 0, &mut rng(7));
        pushed.map_err(|rejected| rejected.reason).unwrap();
        Box::new(*self.client.seal(&mut outgoing).unwrap())
    }

    fn open<R>(
        &mut self,
        block: &mut Block,
        credential: &Credential,
        then: impl FnOnce(&Authorised<'_>) -> R,
    ) -> Result<R, ErrorCode> {
        let requests: Vec<_> = self.connection.requests.open(block).unwrap().collect();
        let [Ok(_)] = requests.as_slice() else {
            panic!("not one request: {requests:?}");
        };
        let request = requests.into_iter().next().unwrap().unwrap();
        let authorised = self.connection.requests.authorise(request, credential);
        authorised.map(|command| then(&command)).map_err(|r| r.code)
    }
}

fn key(seed: u8) -> AuthSecret {
    AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[seed; 32]))
}

fn new_queue(key: &AuthSecret, subscribe: bool) -> Command<'static> {
    Command::New(Box::new(NewQueue {
        auth_key: key.public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[5; 32]).public_key(),
        password: None,
        subscribe,
        mode: NewMode::Messaging(None),
        notifier: None,
    }))
}

fn service_versions() -> impl Iterator<Item = Version> {
    Version::ALL.into_iter().filter(|v| v.has_services())
}

#[test]
fn services_are_accepted_with_one_to_four_certificates_in_every_version_that_has_them() {
    let relay = identity(VersionRange::SUPPORTED);
    for version in Version::ALL {
        for count in 1..=4 {
            let shown = certificates(count);
            let credentials = credentials(ServiceRole::Notifier, count);
            let made = greeted(&relay, version, &credentials, Some(&shown));
            match version.has_services() {
                true => {
                    let (greeted, _) = made.unwrap();
                    assert!(matches!(greeted, Greeted::Service(_)), "{version} {count}");
                }
                false => assert_eq!(made.err(), Some(HelloFault::Version)),
            }
        }
    }
}

#[test]
fn what_a_service_shows_must_be_what_it_shows_in_tls() {
    let relay = identity(VersionRange::SUPPORTED);
    let version = Version::MAX;
    let refused = |credentials: &ServiceCredentials, shown: Option<&ClientCertificates>| {
        greeted(&relay, version, credentials, shown).err()
    };
    let right = credentials(ServiceRole::Messaging, 2);
    assert_eq!(refused(&right, Some(&certificates(2))), None);
    assert_eq!(refused(&right, None), Some(HelloFault::Service));
    for count in [1, 3] {
        let shown = certificates(count);
        assert_eq!(refused(&right, Some(&shown)), Some(HelloFault::Service));
    }
    let mut other = certificates(2);
    other.chain[1][0] ^= 1;
    assert_eq!(refused(&right, Some(&other)), Some(HelloFault::Service));
    let unsigned = ServiceCredentials {
        leaf: ed25519::SigningKey::from_seed(&[4; 32]),
        ..credentials(ServiceRole::Messaging, 2)
    };
    assert_eq!(
        refused(&unsigned, Some(&certificates(2))),
        Some(HelloFault::Service)
    );
    // No relay without services takes one.
    let (mut first, mut second) = (new_block(), new_block());
    let handshake = Handshake::start(&relay, SESSION, &mut rng(1), &mut first).unwrap();
    let options = Options::new(relay.fingerprint());
    Client::<usize>::open_service(
        &options,
        &right,
        SESSION,
        &leaf(),
        &mut first,
        &mut second,
        &mut rng(2),
    )
    .unwrap();
    let refused = handshake.finish(&relay, &mut second).err();
    assert_eq!(refused, Some(HelloFault::Service));
    assert!(fingerprint_of_chain::<Vec<u8>>(&[]).is_none());
}

#[test]
fn a_refused_service_learns_why() {
    let relay = identity(VersionRange::SUPPORTED);
    let credentials = credentials(ServiceRole::Messaging, 1);
    let shown = certificates(1);
    for (fault, text) in [
        (ServiceFault::Refused, b"EHANDSHAKE BAD_SERVICE".as_slice()),
        (ServiceFault::Unauthentic, b"EHANDSHAKE BAD_AUTH"),
    ] {
        let (_, applying) = greeted(&relay, Version::MAX, &credentials, Some(&shown)).unwrap();
        let mut third = new_block();
        Applicant::refuse(&mut third, fault).unwrap();
        assert_eq!(third[2..2 + text.len()], *text);
        let refused = applying.accepted(&mut third).err();
        assert_eq!(refused, Some(HelloFault::NoService(fault)));
    }
}

#[test]
fn a_service_signs_what_makes_queues_its_own_and_nothing_else() {
    for version in service_versions() {
        let owner = key(1);
        let credential = Credential::Key(owner.public_key());
        let id = [8; 24];
        let entity = Entity::Queue(&id);
        let mut messaging = Pair::service(version, ServiceRole::Messaging);
        let own = messaging.service.clone();
        let requests = |command: Command<'static>, entity| Request {
            entity,
            key: Some(&owner),
            command,
        };
        let new = requests(new_queue(&owner, true), Entity::None);
        let sub = requests(Command::Sub, entity);
        for request in [&new, &sub] {
            let service = messaging.ask(request, &credential, |c| c.service().cloned());
            assert_eq!(service, Ok(own.clone()), "{version}");
            // With the wrong key of the queue, and for a queue that is not there.
            let wrong = Credential::Key(key(2).public_key());
            for credential in [wrong, Credential::Nobody] {
                let refused = messaging.ask(request, &credential, |_| ());
                assert_eq!(refused, Err(ErrorCode::Auth));
            }
        }
        for command in [Command::Ack(None), Command::Get, Command::Delete] {
            let request = requests(command, entity);
            let service = messaging.ask(&request, &credential, |c| c.service().cloned());
            assert_eq!(service, Ok(None));
        }
        let mut notifier = Pair::service(version, ServiceRole::Notifier);
        let request = requests(Command::NotifierSub, entity);
        let service = notifier.ask(&request, &credential, |c| c.service().cloned());
        assert_eq!(service, Ok(notifier.service.clone()));
    }
}

/// The end of a session that signs as `from` does, at the relay's end of `to`: as if somebody
/// between them had put one in the place of the other.
fn swapped(from: &mut Pair, to: &mut Pair, request: &Request<'_>) -> Result<(), ErrorCode> {
    let AuthSecret::Ed25519(owner) = request.key.unwrap() else {
        panic!("another kind of key");
    };
    let credential = Credential::Key(
        AuthSecret::Ed25519(ed25519::SigningKey::from_seed(owner.seed())).public_key(),
    );
    let mut block = from.sealed(request);
    to.open(&mut block, &credential, |_| ())
}

#[test]
fn missing_and_foreign_service_signatures_are_told_apart_from_wrong_keys() {
    let owner = key(1);
    let id = [8; 24];
    let request = |command: Command<'static>| Request {
        entity: Entity::Queue(&id),
        key: Some(&owner),
        command,
    };
    let version = Version::MAX;
    // A service that does not sign as one.
    let mut to = Pair::service(version, ServiceRole::Messaging);
    let refused = swapped(&mut Pair::client(version), &mut to, &request(Command::Sub));
    assert_eq!(refused, Err(ErrorCode::Service));
    // A client that signs as a service.
    let mut from = Pair::service(version, ServiceRole::Messaging);
    let refused = swapped(
        &mut from,
        &mut Pair::client(version),
        &request(Command::Sub),
    );
    assert_eq!(refused, Err(ErrorCode::Service));
    // Nobody signs other commands as a service; but what is not signed so does not matter.
    let mut plain = Pair::client(version);
    assert_eq!(
        swapped(
            &mut plain,
            &mut Pair::service(version, ServiceRole::Messaging),
            &request(Command::Get)
        ),
        Ok(())
    );
}

#[test]
fn no_changed_byte_of_a_service_signature_passes() {
    let owner = key(1);
    let credential = Credential::Key(owner.public_key());
    let request = Request {
        entity: Entity::Queue(&[8; 24]),
        key: Some(&owner),
        command: Command::Sub,
    };
    let mut pair = Pair::service(Version::MAX, ServiceRole::Messaging);
    let block = pair.sealed(&request);
    // Padding, count, length, and the queue's signature; then the marker and the length of this one.
    let start = 2 + 1 + 2 + 1 + 64;
    assert_eq!(block[start..start + 2], [b'1', 64]);
    for position in start + 2..start + 66 {
        let mut changed = block.clone();
        changed[position] ^= 1;
        let refused = pair.open(&mut changed, &credential, |_| ());
        assert_eq!(refused, Err(ErrorCode::Service), "byte {position}");
    }
    let mut block = block;
    assert_eq!(pair.open(&mut block, &credential, |_| ()), Ok(()));
}

#[test]
fn only_the_service_itself_asks_for_its_queues() {
    for version in service_versions() {
        for (role, command) in [
            (ServiceRole::Messaging, Command::ServiceSub(None)),
            (ServiceRole::Notifier, Command::NotifierServiceSub(None)),
        ] {
            let mut pair = Pair::service(version, role);
            let own = pair.service.clone().unwrap();
            let request = |id| Request {
                entity: Entity::Queue(id),
                key: None,
                command: command.clone(),
            };
            let (right, wrong) = (own.id.0, [1; 24]);
            // The credential does not matter: no queue is named.
            for credential in [Credential::Nobody, Credential::Open] {
                let service = pair.ask(&request(&right), &credential, |c| c.service().cloned());
                assert_eq!(service, Ok(Some(Arc::clone(&own))), "{version}");
                let refused = pair.ask(&request(&wrong), &credential, |_| ());
                assert_eq!(refused, Err(ErrorCode::Service));
            }
            // Somebody else with its id, and a key of his own.
            let stranger = key(4);
            let request = Request {
                key: Some(&stranger),
                ..request(&right)
            };
            let mut client = Pair::client(version);
            let refused = client.ask(&request, &Credential::Nobody, |_| ());
            assert_eq!(refused, Err(ErrorCode::Service));
            let mut block = client.sealed(&request);
            let refused = pair.open(&mut block, &Credential::Nobody, |_| ());
            assert_eq!(refused, Err(ErrorCode::Service));
        }
    }
}

#[test]
fn a_service_gives_the_commands_of_its_role_only() {
    use ServiceRole::{Messaging, Notifier, Proxy};
    let owner = key(1);
    let credential = Credential::Key(owner.public_key());
    let id = [8; 24];
    let send = Command::Send {
        flags: MessageFlags { notify: false },
        body: b"m",
    };
    let cases = [
        (new_queue(&owner, true), true, Some(Messaging)),
        (Command::Sub, true, Some(Messaging)),
        (send, true, Some(Messaging)),
        (Command::ServiceSub(None), true, Some(Messaging)),
        (Command::NotifierSub, true, Some(Notifier)),
        (Command::NotifierServiceSub(None), true, Some(Notifier)),
        (Command::RelayForward(b"box"), false, Some(Proxy)),
        (Command::Resolve(b"name"), false, Some(Messaging)),
        (Command::Ping, false, None),
    ];
    for role in [Messaging, Notifier, Proxy] {
        let mut pair = Pair::service(Version::MAX, role);
        let own = pair.service.clone().unwrap().id;
        for (command, keyed, of) in &cases {
            let entity = match command {
                Command::New(_) => Entity::None,
                Command::ServiceSub(_) | Command::NotifierServiceSub(_) => Entity::Queue(&own.0),
                _ if *keyed => Entity::Queue(&id),
                _ => Entity::None,
            };
            let request = Request {
                entity,
                key: keyed.then_some(&owner),
                command: command.clone(),
            };
            let credential = match keyed {
                true => credential.clone(),
                false => Credential::Open,
            };
            let got = pair.ask(&request, &credential, |_| ());
            match of.is_none_or(|of| of == role) {
                true => assert_eq!(got, Ok(()), "{role:?} {command:?}"),
                false => assert_eq!(got, Err(ErrorCode::PROHIBITED), "{role:?} {command:?}"),
            }
        }
    }
}

// What becomes of queues.

fn context(connection: u64) -> Context {
    Context {
        connection: ConnectionId(connection),
        now: Timestamp(1_800_000_000),
        limits: Limits::default(),
    }
}

fn parts(owner: &AuthSecret) -> QueueParts {
    QueueParts {
        recipient: RecipientId([1; 24]),
        sender: SenderId([2; 24]),
        mode: None,
        recipient_key: owner.public_key(),
        sender_key: None,
        delivery_key: DeliveryKey::from_bytes(&[3; 32]),
        suspended: false,
    }
}

fn service(n: u8) -> Arc<Service> {
    Arc::new(Service::new(ServiceRole::Messaging, Fingerprint([n; 32])))
}

/// Carries a command out on `queue` as `pair`, whose connection has this number.
fn carry_out(
    queue: &mut Queue<Bytes>,
    pair: &mut Pair,
    connection: u64,
    owner: &AuthSecret,
    command: Command<'_>,
) -> junto_smp::queue::Outcome<Bytes> {
    let id = match command {
        Command::Send { .. } => queue.sender().0,
        Command::NotifierSub => queue.notifier().unwrap().id().0,
        _ => queue.recipient().0,
    };
    let open = matches!(command, Command::Send { .. });
    let request = Request {
        entity: Entity::Queue(&id),
        key: (!open).then_some(owner),
        command,
    };
    let credential = queue.credential(&request.command);
    let context = context(connection);
    // Ids of messages differ.
    static SEED: AtomicU64 = AtomicU64::new(0);
    let seed = SEED.fetch_add(1, Ordering::Relaxed);
    let outcome = pair.ask(&request, &credential, |command| {
        queue.handle(command, &context, &mut rng(seed), Bytes::copy_from_slice)
    });
    outcome.unwrap()
}

#[test]
fn a_queue_follows_its_service_and_comes_back_from_it() {
    let owner = key(1);
    let version = Version::MAX;
    let mut queue: Queue<Bytes> = Queue::restore(parts(&owner));
    let mut own = Pair::service(version, ServiceRole::Messaging);
    let id = own.service.clone().unwrap().id;
    let mut plain = Pair::client(version);
    let flags = MessageFlags { notify: false };
    let send = |body| Command::Send { flags, body };
    // A client reads it, until it goes to the service: that client is told.
    let _ = carry_out(&mut queue, &mut plain, 1, &owner, Command::Sub);
    let taken = carry_out(&mut queue, &mut own, 2, &owner, Command::Sub);
    assert!(matches!(taken.answer, Answer::Subscribed(Some(got)) if got == id));
    assert_eq!(taken.change, Some(Change::Service { before: None }));
    assert!(matches!(taken.notify, Some((ConnectionId(1), Event::End))));
    // Again: nothing changes. From another connection of the service: the whole service moves, of
    // which it is told once, not here.
    let again = carry_out(&mut queue, &mut own, 2, &owner, Command::Sub);
    assert!(again.change.is_none() && again.notify.is_none());
    queue.follow_services(Some(ConnectionId(2)), None);
    let moved = carry_out(&mut queue, &mut own, 3, &owner, Command::Sub);
    assert!(moved.change.is_none() && moved.notify.is_none());
    // Whoever reads for the service gets what comes.
    queue.follow_services(Some(ConnectionId(4)), None);
    let sent = carry_out(&mut queue, &mut plain, 1, &owner, send(b"one"));
    assert!(matches!(
        sent.notify,
        Some((ConnectionId(4), Event::Message(_)))
    ));
    assert!(
        queue.deliver_waiting(ConnectionId(4)).is_none(),
        "it has it already"
    );
    assert!(queue.deliver_waiting(ConnectionId(5)).is_none());
    // A change of hands brings it again, and the one before may not acknowledge it.
    queue.follow_services(Some(ConnectionId(5)), None);
    let late = carry_out(&mut queue, &mut own, 4, &owner, Command::Ack(None));
    assert!(matches!(late.answer, Answer::Error(ErrorCode::NoMessage)));
    assert!(queue.deliver_waiting(ConnectionId(5)).is_some());
    // Nobody reads.
    queue.follow_services(None, None);
    let sent = carry_out(&mut queue, &mut plain, 1, &owner, send(b"two"));
    assert!(sent.notify.is_none());
    // Who gets one by one is not given them as well.
    queue.follow_services(Some(ConnectionId(6)), None);
    let barred = carry_out(&mut queue, &mut own, 6, &owner, Command::Get);
    assert!(matches!(
        barred.answer,
        Answer::Error(ErrorCode::PROHIBITED)
    ));
    let got = carry_out(&mut queue, &mut own, 7, &owner, Command::Get);
    assert!(matches!(got.answer, Answer::Message(_)));
    queue.follow_services(Some(ConnectionId(7)), None);
    assert!(queue.deliver_waiting(ConnectionId(7)).is_none());
    // A plain client takes it out of the service; the service's reader is told.
    queue.follow_services(Some(ConnectionId(8)), None);
    let out = carry_out(&mut queue, &mut plain, 1, &owner, Command::Sub);
    assert!(matches!(out.answer, Answer::Subscribed(None)));
    assert_eq!(out.change, Some(Change::Service { before: Some(id) }));
    assert!(matches!(out.notify, Some((ConnectionId(8), Event::End))));
    assert!(out.then.is_some());
    queue.follow_services(Some(ConnectionId(8)), None);
    assert_eq!(queue.subscriber(), Some(ConnectionId(1)));
}

#[test]
fn another_service_takes_a_queue_and_deleting_tells_its_reader() {
    let owner = key(1);
    let mut queue: Queue<Bytes> = Queue::restore(parts(&owner));
    let before = service(9);
    queue.restore_service(Some(Arc::clone(&before)));
    queue.follow_services(Some(ConnectionId(1)), None);
    let mut own = Pair::service(Version::MAX, ServiceRole::Messaging);
    let taken = carry_out(&mut queue, &mut own, 2, &owner, Command::Sub);
    let change = Change::Service {
        before: Some(before.id),
    };
    assert_eq!(taken.change, Some(change));
    assert!(matches!(taken.notify, Some((ConnectionId(1), Event::End))));
    queue.follow_services(Some(ConnectionId(3)), None);
    let gone = carry_out(&mut queue, &mut own, 2, &owner, Command::Delete);
    assert_eq!(gone.change, Some(Change::Deleted));
    assert!(matches!(
        gone.notify,
        Some((ConnectionId(3), Event::Deleted))
    ));
}

#[test]
fn a_blocked_queue_is_not_given_to_its_service() {
    let owner = key(1);
    let mut queue: Queue<Bytes> = Queue::restore(parts(&owner));
    queue.restore_service(Some(service(9)));
    let mut plain = Pair::client(Version::MAX);
    let flags = MessageFlags { notify: false };
    let _ = carry_out(
        &mut queue,
        &mut plain,
        1,
        &owner,
        Command::Send { flags, body: b"m" },
    );
    let blocking = junto_smp::blocking::Blocking {
        reason: junto_smp::blocking::BlockingReason::Spam,
        notice: None,
    };
    let _ = queue.set_blocking(Some(blocking));
    queue.follow_services(Some(ConnectionId(1)), None);
    assert!(queue.deliver_waiting(ConnectionId(1)).is_none());
    let mut own = Pair::service(Version::MAX, ServiceRole::Messaging);
    let refused = carry_out(&mut queue, &mut own, 2, &owner, Command::Sub);
    assert!(matches!(
        refused.answer,
        Answer::Error(ErrorCode::Blocked(_))
    ));
    assert_eq!(refused.change, None);
}

#[test]
fn new_queues_of_a_service_are_subscribed_to() {
    let owner = key(1);
    let credential = Credential::Key(owner.public_key());
    let mut own = Pair::service(Version::MAX, ServiceRole::Messaging);
    let id = own.service.clone().unwrap().id;
    let mut created = |subscribe| {
        let request = Request {
            entity: Entity::None,
            key: Some(&owner),
            command: new_queue(&owner, subscribe),
        };
        own.ask(&request, &credential, |command| {
            Queue::create(command, &context(1), &mut rng(6), Bytes::copy_from_slice)
        })
        .unwrap()
    };
    let (queue, ids) = created(true).unwrap();
    assert_eq!(ids.service, Some(id));
    assert_eq!(queue.service().map(|service| service.id), Some(id));
    assert_eq!(created(false).err(), Some(ErrorCode::PROHIBITED));
}

#[test]
fn notifiers_have_services_of_their_own() {
    let owner = key(1);
    let version = Version::MAX;
    let mut queue: Queue<Bytes> = Queue::restore(parts(&owner));
    let mut plain = Pair::client(version);
    let set = || Command::SetNotifier {
        auth_key: key(1).public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[5; 32]).public_key(),
    };
    let _ = carry_out(&mut queue, &mut plain, 1, &owner, set());
    let mut own = Pair::service(version, ServiceRole::Notifier);
    let id = own.service.clone().unwrap().id;
    let taken = carry_out(&mut queue, &mut own, 2, &owner, Command::NotifierSub);
    assert_eq!(taken.change, Some(Change::NotifierService { before: None }));
    assert!(matches!(taken.answer, Answer::Subscribed(Some(got)) if got == id));
    assert!(queue.service().is_none());
    queue.follow_services(None, Some(ConnectionId(3)));
    let flags = MessageFlags { notify: true };
    let told = carry_out(
        &mut queue,
        &mut plain,
        1,
        &owner,
        Command::Send { flags, body: b"m" },
    );
    assert!(matches!(told.notify_notifier, Some((ConnectionId(3), _))));
    assert!(queue.notify_waiting(&context(3), &mut rng(1)).is_none());
    // Nobody listens for a while; then everything is told at once.
    queue.follow_services(None, None);
    let _ = carry_out(
        &mut queue,
        &mut plain,
        1,
        &owner,
        Command::Send { flags, body: b"n" },
    );
    queue.follow_services(None, Some(ConnectionId(4)));
    assert!(queue.notify_waiting(&context(5), &mut rng(1)).is_none());
    assert!(queue.notify_waiting(&context(4), &mut rng(1)).is_some());
    // What was under way to the one before is told again; then the next.
    let next = queue.notified(ConnectionId(4), Timestamp(1_800_000_000), &mut rng(1));
    assert!(next.is_some());
    let next = queue.notified(ConnectionId(4), Timestamp(1_800_000_000), &mut rng(1));
    assert!(next.is_none());
    let former = queue.notifier().map(|notifier| notifier.id()).unwrap();
    let replaced = carry_out(&mut queue, &mut plain, 1, &owner, set());
    let former = FormerNotifier {
        id: former,
        service: Some(id),
    };
    assert_eq!(
        replaced.change,
        Some(Change::Notifier {
            replaced: Some(former)
        })
    );
    let (to, news) = replaced.notify_notifier.unwrap();
    assert_eq!(to, ConnectionId(4));
    assert!(matches!(news.event, NotifierEvent::Deleted));
    // The new one is nobody's, and a plain client may have it.
    queue.follow_services(None, Some(ConnectionId(4)));
    let own_again = carry_out(&mut queue, &mut own, 2, &owner, Command::NotifierSub);
    assert!(own_again.change.is_some());
    queue.follow_services(None, Some(ConnectionId(2)));
    let out = carry_out(&mut queue, &mut plain, 1, &owner, Command::NotifierSub);
    let before = Some(id);
    assert_eq!(out.change, Some(Change::NotifierService { before }));
    assert!(matches!(out.notify_notifier, Some((ConnectionId(2), _))));
}

// Random commands of clients and two services to one queue; a model of a few lines predicts them.

/// Connections: two clients, two connections of the first service, two of the second.
const CONNECTIONS: u64 = 6;

#[derive(Clone, Copy, Debug)]
enum Step {
    Subscribe(u64),
    /// `SUBS` of a service: its connection reads, and is given what waits.
    SubscribeAll(u64),
    Take(u64),
    Acknowledge(u64),
    Send,
    Gone(u64),
}

/// The service of a connection.
fn service_of(connection: u64) -> Option<usize> {
    match connection {
        0 | 1 => None,
        2 | 3 => Some(0),
        _ => Some(1),
    }
}

fn step() -> impl Strategy<Value = Step> {
    let any = || 0..CONNECTIONS;
    prop_oneof![
        3 => any().prop_map(Step::Subscribe),
        3 => (2..CONNECTIONS).prop_map(Step::SubscribeAll),
        1 => any().prop_map(Step::Take),
        4 => any().prop_map(Step::Acknowledge),
        3 => Just(Step::Send),
        1 => any().prop_map(Step::Gone),
    ]
}

/// Who reads, and the number of what it has to acknowledge.
#[derive(Clone, Copy, Debug)]
struct Reading {
    connection: u64,
    delivered: Option<u64>,
}

#[derive(Default)]
struct Model {
    messages: VecDeque<u64>,
    sent: u64,
    owner: Option<usize>,
    readers: [Option<u64>; 2],
    subscriber: Option<Reading>,
    getter: Option<Reading>,
}

/// What is seen of a step: the answer, and who was told.
#[derive(Debug, PartialEq)]
struct Seen {
    /// A message with the answer, or the kind of answer.
    answer: Result<Option<u64>, ErrorCode>,
    told: Option<(u64, Option<u64>)>,
    owner: Option<usize>,
}

impl Model {
    fn follow(&mut self) {
        let Some(owner) = self.owner else { return };
        let gets = |c: &u64| self.getter.is_some_and(|getter| getter.connection == *c);
        let reader = self.readers[owner].filter(|c| !gets(c));
        if self.subscriber.map(|s| s.connection) != reader {
            self.subscriber = reader.map(|connection| Reading {
                connection,
                delivered: None,
            });
        }
    }

    fn deliver(&mut self) -> Option<u64> {
        let subscriber = self.subscriber.as_mut().filter(|s| s.delivered.is_none())?;
        subscriber.delivered = self.messages.front().copied();
        subscriber.delivered
    }

    fn step(&mut self, step: Step) -> Seen {
        self.follow();
        let mut told = None;
        let answer = match step {
            Step::Subscribe(c) if self.getter.is_some_and(|g| g.connection == c) => {
                Err(ErrorCode::PROHIBITED)
            }
            Step::Subscribe(connection) => {
                let own = service_of(connection);
                let moved = own.is_some() && own == self.owner;
                let before = self
                    .subscriber
                    .filter(|s| s.connection != connection && !moved);
                told = before.map(|before| (before.connection, None));
                self.owner = own;
                self.subscriber = Some(Reading {
                    connection,
                    delivered: None,
                });
                if let Some(own) = own {
                    self.readers[own] = Some(connection);
                }
                Ok(self.deliver())
            }
            Step::SubscribeAll(connection) => {
                let own = service_of(connection).unwrap();
                self.readers[own] = Some(connection);
                self.follow();
                let reads = self.owner == Some(own)
                    && self.subscriber.is_some_and(|s| s.connection == connection);
                Ok(if reads { self.deliver() } else { None })
            }
            Step::Take(c) if self.subscriber.is_some_and(|s| s.connection == c) => {
                Err(ErrorCode::PROHIBITED)
            }
            Step::Take(connection) => {
                let delivered = self.messages.front().copied();
                self.getter = Some(Reading {
                    connection,
                    delivered,
                });
                Ok(delivered)
            }
            Step::Acknowledge(connection) => self.acknowledge(connection),
            Step::Send => {
                self.messages.push_back(self.sent);
                self.sent += 1;
                let to = self.subscriber.map(|s| s.connection);
                told = self.deliver().and_then(|number| Some((to?, Some(number))));
                Ok(None)
            }
            Step::Gone(connection) => {
                let gets = self.getter.is_some_and(|g| g.connection == connection);
                if let Some(own) = service_of(connection)
                    && self.readers[own] == Some(connection)
                {
                    self.readers[own] = None;
                }
                if gets || service_of(connection).is_none() {
                    self.subscriber = self.subscriber.filter(|s| s.connection != connection);
                    self.getter = self.getter.filter(|g| g.connection != connection);
                }
                Ok(None)
            }
        };
        Seen {
            answer,
            told,
            owner: self.owner,
        }
    }

    fn acknowledge(&mut self, connection: u64) -> Result<Option<u64>, ErrorCode> {
        let mine = |reading: &&mut Reading| reading.connection == connection;
        let subscribed = self.subscriber.as_mut().filter(mine).is_some();
        let reading = match subscribed {
            true => self.subscriber.as_mut(),
            false => self.getter.as_mut().filter(mine),
        };
        let number = reading
            .and_then(|reading| reading.delivered.take())
            .ok_or(ErrorCode::NoMessage)?;
        if self.messages.front() == Some(&number) {
            self.messages.pop_front();
        }
        Ok(if subscribed { self.deliver() } else { None })
    }
}

/// The number of a message, which is in its box.
fn number_of(delivery: &junto_smp::queue::Delivery<Bytes>) -> u64 {
    match &delivery.message.content {
        junto_smp::queue::Content::Body { body, .. } => {
            u64::from_be_bytes(body.as_ref().try_into().unwrap())
        }
        junto_smp::queue::Content::QuotaReached => panic!("no quota here"),
    }
}

struct System {
    queue: Queue<Bytes>,
    owner: AuthSecret,
    services: [Pair; 2],
    plain: Pair,
    readers: [Option<u64>; 2],
    /// The last that took a message by `GET`.
    getter: Option<u64>,
    sent: u64,
}

impl System {
    fn new() -> Self {
        let owner = key(1);
        let service = |n| Pair::service_with(Version::MAX, ServiceRole::Messaging, n);
        Self {
            queue: Queue::restore(parts(&owner)),
            owner,
            services: [service(1), service(2)],
            plain: Pair::client(Version::MAX),
            readers: [None; 2],
            getter: None,
            sent: 0,
        }
    }

    fn owning(&self) -> Option<usize> {
        let own = self.queue.service()?.id;
        let is = |pair: &Pair| pair.service.as_ref().unwrap().id == own;
        self.services.iter().position(is)
    }

    /// As a relay does before everything.
    fn follow(&mut self) {
        let reader = self.owning().and_then(|own| self.readers[own]);
        self.queue.follow_services(reader.map(ConnectionId), None);
    }

    fn step(&mut self, step: Step) -> Seen {
        self.follow();
        let seen = match step {
            Step::Subscribe(c) => self.give(c, Command::Sub),
            Step::Take(c) => {
                let seen = self.give(c, Command::Get);
                if seen.0.is_ok() {
                    self.getter = Some(c);
                }
                seen
            }
            Step::Acknowledge(c) => self.give(c, Command::Ack(None)),
            Step::Send => {
                let body = self.sent.to_be_bytes();
                self.sent += 1;
                let flags = MessageFlags { notify: false };
                self.give(0, Command::Send { flags, body: &body })
            }
            Step::SubscribeAll(c) => {
                let own = service_of(c).unwrap();
                self.readers[own] = Some(c);
                self.follow();
                let connection = ConnectionId(c);
                let delivery = match self.owning() == Some(own) {
                    true => self.queue.deliver_waiting(connection),
                    false => None,
                };
                (Ok(delivery.as_ref().map(number_of)), None)
            }
            Step::Gone(c) => {
                let own = service_of(c);
                if let Some(own) = own
                    && self.readers[own] == Some(c)
                {
                    self.readers[own] = None;
                }
                if own.is_none() || self.getter == Some(c) {
                    self.queue.disconnect(ConnectionId(c));
                }
                (Ok(None), None)
            }
        };
        Seen {
            answer: seen.0,
            told: seen.1,
            owner: self.owning(),
        }
    }

    #[allow(clippy::type_complexity)] // The parts of `Seen`.
    fn give(
        &mut self,
        connection: u64,
        command: Command<'_>,
    ) -> (Result<Option<u64>, ErrorCode>, Option<(u64, Option<u64>)>) {
        let before = self.owning();
        let subscribes = command == Command::Sub;
        let pair = match service_of(connection) {
            Some(own) => &mut self.services[own],
            None => &mut self.plain,
        };
        let outcome = carry_out(&mut self.queue, pair, connection, &self.owner, command);
        let answer = match &outcome.answer {
            Answer::Message(delivery) => Ok(Some(number_of(delivery))),
            Answer::Error(code) => Err(*code),
            Answer::Subscribed(service) => {
                let own = self.queue.service().map(|service| service.id);
                assert_eq!(*service, own);
                Ok(outcome.then.as_ref().map(number_of))
            }
            _ => Ok(None),
        };
        // Who owns it is stored exactly when it changes.
        let stored = matches!(outcome.change, Some(Change::Service { .. }));
        assert_eq!(stored, before != self.owning());
        if subscribes
            && answer.is_ok()
            && let Some(own) = service_of(connection)
        {
            self.readers[own] = Some(connection);
        }
        let told = outcome.notify.map(|(to, event)| match event {
            Event::Message(delivery) => (to.0, Some(number_of(&delivery))),
            Event::End | Event::Deleted => (to.0, None),
        });
        (answer, told)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_queue_does_what_the_model_says_whoever_reads_it(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let (mut system, mut model) = (System::new(), Model::default());
        for step in steps {
            let seen = system.step(step);
            prop_assert_eq!(seen, model.step(step), "{:?}", step);
            prop_assert_eq!(system.queue.messages().len(), model.messages.len());
        }
    }
}
