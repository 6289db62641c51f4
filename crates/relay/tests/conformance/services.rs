//! Service certificates, `SUBS` and `NSUBS`.

use std::collections::BTreeMap;

use junto_crypto::ed25519::SigningKey;
use junto_relay::bench::{Heard, OwnQueue, Peer, PeerError, Said};
use junto_smp::client::{Request, ServiceCredentials};
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::hello::HelloFault;
use junto_smp::id::{Entity, ServiceId};
use junto_smp::service::{ServiceFault, ServiceQueues, ServiceRole};
use junto_smp::version::{Version, VersionRange};
use junto_tls::{ServerIdentity, ServiceIdentity};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;

use ServiceRole::{Messaging, Notifier};

use crate::notifications::watch;
use crate::site::{self, M, acked, heard, in_time};
use crate::world::{World, ask, refused, send, send_notifying, silent};

/// A service with a single certificate that signs itself, as those of the reference.
pub(crate) fn own_identity() -> ServiceIdentity {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    ServiceIdentity::generate(&mut ChaCha20Rng::from_seed(seed), UnixTime::now()).unwrap()
}

/// A server that is a service, with leaf and identity.
fn identity_of_server() -> ServiceIdentity {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut rng = ChaCha20Rng::from_seed(seed);
    let server = ServerIdentity::ephemeral("notifier.example", &mut rng, UnixTime::now());
    server.unwrap().into()
}

async fn try_connect(
    world: &World,
    identity: &ServiceIdentity,
    role: ServiceRole,
    versions: VersionRange,
) -> Result<Peer, PeerError> {
    in_time(Peer::connect_service(
        &world.address(),
        versions,
        identity,
        role,
    ))
    .await
}

pub(crate) async fn connect(world: &World, identity: &ServiceIdentity, role: ServiceRole) -> Peer {
    let versions = VersionRange::SUPPORTED;
    try_connect(world, identity, role, versions).await.unwrap()
}

fn only(version: u16) -> VersionRange {
    VersionRange::only(Version::new(version).unwrap())
}

fn fault(result: Result<Peer, PeerError>) -> ServiceFault {
    match result {
        Err(PeerError::Hello(HelloFault::NoService(fault))) => fault,
        Err(other) => panic!("failed otherwise: {other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

/// What a service with these queues has.
fn having<'a>(names: impl IntoIterator<Item = &'a [u8; 24]>) -> ServiceQueues {
    let mut all = ServiceQueues::default();
    for name in names {
        all.count += 1;
        all.hash.toggle(name);
    }
    all
}

/// Gives `SUBS` or `NSUBS`, expecting these queues.
pub(crate) async fn subscribe_all(
    peer: &mut Peer,
    role: ServiceRole,
    expected: Option<ServiceQueues>,
) -> Result<Said, PeerError> {
    let id = peer.service().unwrap_or(ServiceId([7; 24]));
    subscribe_as(peer, &id, role, expected).await
}

async fn subscribe_as(
    peer: &mut Peer,
    id: &ServiceId,
    role: ServiceRole,
    expected: Option<ServiceQueues>,
) -> Result<Said, PeerError> {
    let command = match role {
        Notifier => Command::NotifierServiceSub(expected),
        _ => Command::ServiceSub(expected),
    };
    // On the connection of a service its own key takes the place of this one.
    let key = junto_smp::key::AuthSecret::generate(peer.rng());
    in_time(peer.call(&Request {
        entity: Entity::Queue(&id.0),
        key: Some(&key),
        command,
    }))
    .await
}

async fn next(peer: &mut Peer) -> Heard {
    in_time(peer.event()).await.unwrap()
}

async fn say(peer: &mut Peer, queue: &OwnQueue, body: &[u8]) {
    let said = ask(peer, &queue.sender().0, None, send(body)).await;
    assert_eq!(said.unwrap(), Said::Ok);
}

pub(crate) async fn a_certificate_is_one_service_for_ever(world: World) {
    for identity in [own_identity(), identity_of_server()] {
        let mut ids = Vec::new();
        for version in 16..=20 {
            let peer = try_connect(&world, &identity, Messaging, only(version)).await;
            let mut peer = peer.unwrap();
            assert_eq!(peer.version().number(), version);
            ids.push(peer.service().unwrap());
            silent(&mut peer).await;
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let other = connect(&world, &own_identity(), Messaging).await;
        assert_ne!(other.service(), Some(ids[0]));
    }
    // Nothing is left of those that had no queue.
    site::until(|| world.relay().stats().connections == 0).await;
}

pub(crate) async fn hello_and_tls_must_show_the_same(world: World) {
    let (one, two) = (identity_of_server(), identity_of_server());
    let chain = |identity: &ServiceIdentity| -> Vec<Vec<u8>> {
        identity.chain().iter().map(|c| c.to_vec()).collect()
    };
    let leaf = |identity: &ServiceIdentity| SigningKey::from_seed(identity.leaf_key().seed());
    let foreign = ServiceCredentials {
        role: Messaging,
        chain: chain(&two),
        leaf: leaf(&two),
    };
    let half = ServiceCredentials {
        role: Messaging,
        chain: chain(&one)[..1].to_vec(),
        leaf: leaf(&one),
    };
    let unsigned = ServiceCredentials {
        role: Messaging,
        chain: chain(&one),
        leaf: leaf(&two),
    };
    for wrong in [foreign, half, unsigned] {
        let versions = VersionRange::SUPPORTED;
        let address = world.address();
        let result = in_time(Peer::connect_service_as(&address, versions, &one, &wrong)).await;
        assert_eq!(fault(result), ServiceFault::Unauthentic);
    }
    connect(&world, &one, Messaging).await;
}

pub(crate) async fn one_certificate_has_one_role(world: World) {
    let identity = own_identity();
    let mut peer = connect(&world, &identity, Messaging).await;
    let versions = VersionRange::SUPPORTED;
    for _ in 0..2 {
        for role in [Notifier, ServiceRole::Proxy] {
            let other = try_connect(&world, &identity, role, versions).await;
            assert_eq!(fault(other), ServiceFault::Refused);
        }
        // Also while only its queue is there.
        in_time(peer.create(M, true, None)).await.unwrap();
        peer = connect(&world, &own_identity(), Messaging).await;
    }
}

pub(crate) async fn a_service_signs_for_its_queues_and_gets_everything_again(world: World) {
    let identity = own_identity();
    let mut sender = world.connect().await;
    let (queue, service) = {
        let mut peer = connect(&world, &identity, Messaging).await;
        let service = peer.service().unwrap();
        let queue = peer.create(M, true, None).await.unwrap();
        assert_eq!(queue.ids.service, Some(service));
        // Who only creates has no service.
        let idle = peer.create(M, false, None).await;
        assert_eq!(site::refused(idle), ErrorCode::PROHIBITED);
        say(&mut sender, &queue, b"hello").await;
        say(&mut sender, &queue, b"hello 2").await;
        let (first, body) = heard(&mut peer, &queue).await;
        assert_eq!(body.unwrap(), b"hello");
        let (second, body) = acked(&mut peer, &queue, first).await.unwrap();
        assert_eq!(body.unwrap(), b"hello 2");
        let again = peer.own(&queue, Command::Ack(Some(first))).await;
        assert_eq!(site::refused(again), ErrorCode::NoMessage);
        assert!(acked(&mut peer, &queue, second).await.is_none());
        say(&mut sender, &queue, b"hello 3").await;
        (queue, service)
    };
    let mut peer = connect(&world, &identity, Messaging).await;
    assert_eq!(peer.service(), Some(service));
    let own = having([&queue.recipient().0]);
    let said = subscribe_all(&mut peer, Messaging, Some(own)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(own));
    let (third, body) = heard(&mut peer, &queue).await;
    assert_eq!(body.unwrap(), b"hello 3");
    assert_eq!(next(&mut peer).await, Heard::AllDelivered);
    assert!(acked(&mut peer, &queue, third).await.is_none());
    say(&mut sender, &queue, b"hello 4").await;
    assert_eq!(heard(&mut peer, &queue).await.1.unwrap(), b"hello 4");
    // Asked once more, nothing is delivered twice.
    let said = subscribe_all(&mut peer, Messaging, Some(own)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(own));
    silent(&mut peer).await;
}

pub(crate) async fn queues_go_to_a_service_and_come_back(world: World) {
    let identity = own_identity();
    let mut sender = world.connect().await;
    let mut owner = world.connect().await;
    let queues = [
        owner.create(M, true, None).await.unwrap(),
        owner.create(M, true, None).await.unwrap(),
        owner.create(M, false, None).await.unwrap(),
    ];
    let names = || queues.iter().map(|queue| &queue.ids.recipient.0);
    say(&mut sender, &queues[0], b"first").await;
    heard(&mut owner, &queues[0]).await;
    let mut peer = connect(&world, &identity, Messaging).await;
    let service = peer.service().unwrap();
    for queue in &queues {
        let said = peer.own(queue, Command::Sub).await.unwrap();
        assert_eq!(said, Said::SubscribedFor(service));
    }
    // The client before is told of what it read; what it has not acknowledged comes again.
    for queue in &queues[..2] {
        assert_eq!(next(&mut owner).await, Heard::End(queue.recipient()));
    }
    let (first, _) = heard(&mut peer, &queues[0]).await;
    assert!(acked(&mut peer, &queues[0], first).await.is_none());
    silent(&mut owner).await;
    drop(peer);
    for (queue, body) in queues.iter().zip([b"one", b"two"]) {
        say(&mut sender, queue, body).await;
    }
    let mut peer = connect(&world, &identity, Messaging).await;
    let all = having(names());
    let said = subscribe_all(&mut peer, Messaging, Some(all)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(all));
    let mut got = BTreeMap::new();
    for _ in 0..2 {
        match next(&mut peer).await {
            Heard::Message(recipient, id, sealed) => {
                let queue = queues.iter().find(|queue| queue.recipient() == recipient);
                let body = site::opened(&queue.unwrap().delivery, &id, &sealed);
                got.insert(recipient, body.unwrap());
            }
            other => panic!("not a message: {other:?}"),
        }
    }
    assert_eq!(got[&queues[0].recipient()], b"one");
    assert_eq!(got[&queues[1].recipient()], b"two");
    assert_eq!(next(&mut peer).await, Heard::AllDelivered);
    // A plain client takes one back, with what waits; the service is told of that one.
    let said = owner.own(&queues[0], Command::Sub).await.unwrap();
    assert_eq!(said, Said::Subscribed);
    assert_eq!(heard(&mut owner, &queues[0]).await.1.unwrap(), b"one");
    assert_eq!(next(&mut peer).await, Heard::End(queues[0].recipient()));
    let rest = having(names().skip(1));
    let said = subscribe_all(&mut peer, Messaging, Some(all)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(rest));
    // Deleting takes one away as well.
    owner.own(&queues[2], Command::Delete).await.unwrap();
    assert_eq!(next(&mut peer).await, Heard::Deleted(queues[2].recipient()));
    let said = subscribe_all(&mut peer, Messaging, None).await;
    let rest = having(names().skip(1).take(1));
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(rest));
    silent(&mut peer).await;
}

pub(crate) async fn the_last_connection_of_a_service_reads(world: World) {
    let identity = own_identity();
    let mut sender = world.connect().await;
    let mut first = connect(&world, &identity, Messaging).await;
    let one = first.create(M, true, None).await.unwrap();
    let two = first.create(M, true, None).await.unwrap();
    let both = having([&one.recipient().0, &two.recipient().0]);
    say(&mut sender, &one, b"one").await;
    let (id, _) = heard(&mut first, &one).await;
    // By SUBS: everything again, to the new one.
    let mut second = connect(&world, &identity, Messaging).await;
    silent(&mut first).await;
    let said = subscribe_all(&mut second, Messaging, Some(both)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(both));
    assert_eq!(next(&mut first).await, Heard::ServiceEnd(both));
    assert_eq!(heard(&mut second, &one).await.0, id);
    assert_eq!(next(&mut second).await, Heard::AllDelivered);
    let late = first.own(&one, Command::Ack(Some(id))).await;
    assert_eq!(site::refused(late), ErrorCode::NoMessage);
    say(&mut sender, &two, b"two").await;
    heard(&mut second, &two).await;
    // By a single SUB: from now on, all of it.
    let mut third = connect(&world, &identity, Messaging).await;
    third.own(&one, Command::Sub).await.unwrap();
    assert_eq!(heard(&mut third, &one).await.0, id);
    assert_eq!(next(&mut second).await, Heard::ServiceEnd(both));
    assert!(acked(&mut third, &one, id).await.is_none());
    say(&mut sender, &two, b"more").await;
    assert_eq!(heard(&mut third, &two).await.1.unwrap(), b"two");
    // By a new queue.
    let three = first.create(M, true, None).await.unwrap();
    let all = having([&one, &two, &three].map(|queue| &queue.ids.recipient.0));
    assert_eq!(next(&mut third).await, Heard::ServiceEnd(all));
    // Who lost it may ask for everything again.
    let said = subscribe_all(&mut second, Messaging, Some(all)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(all));
    assert_eq!(next(&mut first).await, Heard::ServiceEnd(all));
    assert_eq!(heard(&mut second, &two).await.1.unwrap(), b"two");
    assert_eq!(next(&mut second).await, Heard::AllDelivered);
    for peer in [&mut first, &mut second, &mut third] {
        silent(peer).await;
    }
    // When it goes, nobody reads, and nothing is lost.
    drop(second);
    site::until(|| world.relay().stats().connections == 3).await;
    say(&mut sender, &three, b"three").await;
    silent(&mut first).await;
    subscribe_all(&mut first, Messaging, Some(all))
        .await
        .unwrap();
    let mut bodies = Vec::new();
    loop {
        match next(&mut first).await {
            Heard::Message(queue, ..) => bodies.push(queue),
            Heard::AllDelivered => break,
            other => panic!("{other:?}"),
        }
    }
    bodies.sort_unstable();
    let mut expected = vec![two.recipient(), three.recipient()];
    expected.sort_unstable();
    assert_eq!(bodies, expected);
}

pub(crate) async fn notification_servers_subscribe_at_once(world: World) {
    let identity = identity_of_server();
    let (mut owner, mut sender) = (world.connect().await, world.connect().await);
    let queues = [
        owner.create(M, false, None).await.unwrap(),
        owner.create(M, false, None).await.unwrap(),
    ];
    let watches = [
        watch(&mut owner, &queues[0]).await,
        watch(&mut owner, &queues[1]).await,
    ];
    let mut first = connect(&world, &identity, Notifier).await;
    let service = first.service().unwrap();
    for watch in &watches {
        for _ in 0..2 {
            let said = ask(
                &mut first,
                &watch.id.0,
                Some(&watch.key),
                Command::NotifierSub,
            );
            assert_eq!(said.await.unwrap(), Said::SubscribedFor(service));
        }
    }
    let tell = async |sender: &mut Peer, n: usize| {
        let queue = queues[n].sender().0;
        ask(sender, &queue, None, send_notifying(b"m"))
            .await
            .unwrap();
    };
    tell(&mut sender, 0).await;
    watches[0].told(&mut first).await;
    // Another connection of it: all at once, with what came meanwhile, and no ALLS.
    let both = having(watches.iter().map(|watch| &watch.id.0));
    drop(first);
    site::until(|| world.relay().stats().connections == 2).await;
    tell(&mut sender, 1).await;
    let mut second = connect(&world, &identity, Notifier).await;
    let said = subscribe_all(&mut second, Notifier, Some(both)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(both));
    watches[1].told(&mut second).await;
    tell(&mut sender, 0).await;
    watches[0].told(&mut second).await;
    silent(&mut second).await;
    let mut third = connect(&world, &identity, Notifier).await;
    let said = subscribe_all(&mut third, Notifier, Some(both)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(both));
    assert_eq!(next(&mut second).await, Heard::ServiceEnd(both));
    // The owner ends one, a plain client takes the other.
    owner
        .own(&queues[0], Command::DeleteNotifier)
        .await
        .unwrap();
    let gone = next(&mut third).await;
    assert!(matches!(gone, Heard::Deleted(id) if id.0 == watches[0].id.0));
    watches[1].subscribe(&mut sender).await;
    let gone = next(&mut third).await;
    assert!(matches!(gone, Heard::End(id) if id.0 == watches[1].id.0));
    let none = ServiceQueues::default();
    let said = subscribe_all(&mut third, Notifier, Some(none)).await;
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(none));
    for peer in [&mut second, &mut third] {
        silent(peer).await;
    }
}

pub(crate) async fn roles_and_signatures_are_demanded(world: World) {
    let (messaging, notifier) = (own_identity(), own_identity());
    let mut plain = world.connect().await;
    let queue = plain.create(M, false, None).await.unwrap();
    let watch = watch(&mut plain, &queue).await;
    let mut messaging = connect(&world, &messaging, Messaging).await;
    let mut notifier = connect(&world, &notifier, Notifier).await;
    // Not of its role, whether or not the queue exists.
    for id in [watch.id.0, [3; 24]] {
        let key = Some(&watch.key);
        let code = refused(&mut messaging, &id, key, Command::NotifierSub).await;
        assert_eq!(code, ErrorCode::PROHIBITED);
    }
    for id in [queue.recipient().0, [3; 24]] {
        let key = Some(&queue.key);
        let code = refused(&mut notifier, &id, key, Command::Sub).await;
        assert_eq!(code, ErrorCode::PROHIBITED);
    }
    let created = notifier.create(NewMode::Unspecified, true, None).await;
    assert_eq!(site::refused(created), ErrorCode::PROHIBITED);
    for (peer, role) in [(&mut messaging, Notifier), (&mut notifier, Messaging)] {
        let said = subscribe_all(peer, role, None).await;
        assert_eq!(site::refused(said), ErrorCode::PROHIBITED);
    }
    // Not a service, or another one.
    let id = messaging.service().unwrap();
    for role in [Messaging, Notifier] {
        let said = subscribe_as(&mut plain, &id, role, None).await;
        assert_eq!(site::refused(said), ErrorCode::Service);
    }
    let said = subscribe_as(&mut messaging, &ServiceId([1; 24]), Messaging, None).await;
    assert_eq!(site::refused(said), ErrorCode::Service);
    // A wrong key of the queue makes it nobody's.
    let wrong = junto_smp::key::AuthSecret::generate(plain.rng());
    for id in [queue.recipient().0, [3; 24]] {
        let code = refused(&mut messaging, &id, Some(&wrong), Command::Sub).await;
        assert_eq!(code, ErrorCode::Auth);
    }
    let said = subscribe_all(&mut messaging, Messaging, None).await;
    let none = ServiceQueues::default();
    assert_eq!(said.unwrap(), Said::ServiceSubscribed(none));
    assert_eq!(next(&mut messaging).await, Heard::AllDelivered);
}

pub(crate) async fn hashes_begin_with_version_19(world: World) {
    let identity = own_identity();
    let mut peer = connect(&world, &identity, Messaging).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let own = having([&queue.recipient().0]);
    for version in 16..=20 {
        let newer = try_connect(&world, &identity, Messaging, only(version)).await;
        let mut newer = newer.unwrap();
        let said = subscribe_all(&mut newer, Messaging, Some(own))
            .await
            .unwrap();
        let expected = match version {
            16..=18 => ServiceQueues {
                count: 1,
                ..ServiceQueues::default()
            },
            _ => own,
        };
        assert_eq!(said, Said::ServiceSubscribed(expected), "{version}");
        let ended = next(&mut peer).await;
        assert!(matches!(ended, Heard::ServiceEnd(queues) if queues.count == 1));
        assert_eq!(next(&mut newer).await, Heard::AllDelivered);
        peer = newer;
    }
}

pub(crate) async fn services_and_their_queues_are_bounded(world: World) {
    let world = world
        .with(|config| {
            config.limits.services = 2;
            config.limits.queues_per_service = 2;
        })
        .await;
    let versions = VersionRange::SUPPORTED;
    let identities = [own_identity(), own_identity(), own_identity()];
    let mut first = connect(&world, &identities[0], Messaging).await;
    let second = connect(&world, &identities[1], Messaging).await;
    let third = try_connect(&world, &identities[2], Messaging, versions).await;
    assert_eq!(fault(third), ServiceFault::Refused);
    connect(&world, &identities[0], Messaging).await;
    drop(second);
    // The one that had nothing is forgotten.
    site::until(|| world.relay().stats().connections == 1).await;
    connect(&world, &identities[2], Messaging).await;
    let mut plain = world.connect().await;
    let foreign = plain.create(M, false, None).await.unwrap();
    let one = first.create(M, true, None).await.unwrap();
    first.create(M, true, None).await.unwrap();
    assert_eq!(
        site::refused(first.create(M, true, None).await),
        ErrorCode::Quota
    );
    assert_eq!(
        site::refused(first.own(&foreign, Command::Sub).await),
        ErrorCode::Quota
    );
    // Its own are welcome always, and room comes back.
    first.own(&one, Command::Sub).await.unwrap();
    first.own(&one, Command::Delete).await.unwrap();
    first.own(&foreign, Command::Sub).await.unwrap();
}

/// Queues enough for many turns, and messages enough for many blocks.
const MANY: usize = 400;
const WAITING: usize = 90;

pub(crate) async fn many_queues_are_delivered_in_pieces_while_others_are_served(world: World) {
    let identity = own_identity();
    let mut peer = connect(&world, &identity, Messaging).await;
    let mut sender = world.connect().await;
    let mut queues = BTreeMap::new();
    for _ in 0..MANY {
        let queue = peer.create(M, true, None).await.unwrap();
        queues.insert(queue.recipient(), queue);
    }
    drop(peer);
    site::until(|| world.relay().stats().connections == 1).await;
    let body = vec![5; 16_000];
    let mut expected = BTreeMap::new();
    for (recipient, queue) in queues.iter().take(WAITING) {
        say(&mut sender, queue, &body).await;
        expected.insert(*recipient, ());
    }
    let mut peer = connect(&world, &identity, Messaging).await;
    let all = having(queues.keys().map(|recipient| &recipient.0));
    // The service does not read what it is given: the others do not notice.
    let id = peer.service().unwrap();
    let number = in_time(peer.ask(&Request {
        entity: Entity::Queue(&id.0),
        key: None,
        command: Command::ServiceSub(Some(all)),
    }))
    .await
    .unwrap();
    in_time(peer.send()).await.unwrap();
    let (late, queue) = queues.iter().next_back().unwrap();
    for _ in 0..20 {
        silent(&mut sender).await;
    }
    say(&mut sender, queue, b"late").await;
    assert_eq!(
        in_time(peer.answer(number)).await.unwrap(),
        Said::ServiceSubscribed(all)
    );
    let mut late_came = false;
    let mut complete = false;
    while !(complete && late_came) {
        match next(&mut peer).await {
            Heard::Message(recipient, ..) if recipient == *late => {
                assert!(!late_came, "twice");
                late_came = true;
            }
            Heard::Message(recipient, ..) => {
                assert_eq!(expected.remove(&recipient), Some(()), "twice, or unknown");
            }
            Heard::AllDelivered => {
                assert!(expected.is_empty(), "{} are missing", expected.len());
                complete = true;
            }
            other => panic!("{other:?}"),
        }
    }
    silent(&mut peer).await;
}

pub(crate) async fn services_come_back(mut world: World) {
    let (messaging, notifier) = (own_identity(), identity_of_server());
    let mut peer = connect(&world, &messaging, Messaging).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let moved = peer.create(M, true, None).await.unwrap();
    let deleted = peer.create(M, true, None).await.unwrap();
    peer.own(&deleted, Command::Delete).await.unwrap();
    let mut plain = world.connect().await;
    plain.own(&moved, Command::Sub).await.unwrap();
    let watch = watch(&mut plain, &moved).await;
    let mut server = connect(&world, &notifier, Notifier).await;
    ask(
        &mut server,
        &watch.id.0,
        Some(&watch.key),
        Command::NotifierSub,
    )
    .await
    .unwrap();
    let ids = (peer.service(), server.service());
    let own = having([&queue.recipient().0]);
    let told = having([&watch.id.0]);
    for n in 0..3_u8 {
        world.restart().await;
        let mut sender = world.connect().await;
        ask(&mut sender, &moved.sender().0, None, send_notifying(b"m"))
            .await
            .unwrap();
        say(&mut sender, &queue, &[n]).await;
        let mut peer = connect(&world, &messaging, Messaging).await;
        let mut server = connect(&world, &notifier, Notifier).await;
        assert_eq!((peer.service(), server.service()), ids);
        let versions = VersionRange::SUPPORTED;
        let other = try_connect(&world, &messaging, Notifier, versions).await;
        assert_eq!(fault(other), ServiceFault::Refused);
        let said = subscribe_all(&mut peer, Messaging, Some(own)).await;
        assert_eq!(said.unwrap(), Said::ServiceSubscribed(own));
        let (id, body) = heard(&mut peer, &queue).await;
        assert_eq!(body.unwrap(), [n]);
        assert!(acked(&mut peer, &queue, id).await.is_none());
        let said = subscribe_all(&mut server, Notifier, Some(told)).await;
        assert_eq!(said.unwrap(), Said::ServiceSubscribed(told));
        watch.told(&mut server).await;
    }
}
