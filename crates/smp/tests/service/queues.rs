//! What becomes of the queues of services.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use junto_crypto::x25519;
use junto_smp::{
    address::Fingerprint,
    blocking::{Blocking, BlockingReason},
    client::Request,
    command::Command,
    error::ErrorCode,
    id::{Entity, RecipientId, SenderId},
    message::{DeliveryKey, MessageFlags, Timestamp},
    queue::{
        Answer, Change, ConnectionId, Context, Credential, Event, FormerNotifier, Limits,
        NotifierEvent, Outcome, Queue, QueueParts,
    },
    service::{Service, ServiceRole},
    version::Version,
};

use crate::new_queue;
use crate::pair::{Pair, rng};
use crate::support::key;

fn context(connection: u64) -> Context {
    Context {
        connection: ConnectionId(connection),
        now: Timestamp(1_800_000_000),
        limits: Limits::default(),
    }
}

/// A queue of the owner whose key is the first.
pub(crate) fn queue() -> Queue<Bytes> {
    Queue::restore(QueueParts {
        recipient: RecipientId([1; 24]),
        sender: SenderId([2; 24]),
        mode: None,
        recipient_key: key(1).public_key(),
        sender_key: None,
        delivery_key: DeliveryKey::from_bytes(&[3; 32]),
        suspended: false,
    })
}

fn service(n: u8) -> Arc<Service> {
    Arc::new(Service::new(ServiceRole::Messaging, Fingerprint([n; 32])))
}

fn send(body: &[u8]) -> Command<'_> {
    let flags = MessageFlags { notify: true };
    Command::Send { flags, body }
}

/// Carries a command of the owner, or of anybody who sends, out on `queue` as `pair`, whose connection has this number.
pub(crate) fn carry_out(
    queue: &mut Queue<Bytes>,
    pair: &mut Pair,
    connection: u64,
    command: Command<'_>,
) -> Outcome<Bytes> {
    let id = match command {
        Command::Send { .. } => queue.sender().0,
        Command::NotifierSub => queue.notifier().unwrap().id().0,
        _ => queue.recipient().0,
    };
    let open = matches!(command, Command::Send { .. });
    let owner = key(1);
    let request = Request {
        entity: Entity::Queue(&id),
        key: (!open).then_some(&owner),
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
    let version = Version::MAX;
    let mut queue = queue();
    let mut own = Pair::service(version, ServiceRole::Messaging);
    let id = own.service.clone().unwrap().id;
    let mut plain = Pair::client(version);
    // A client reads it, until it goes to the service: that client is told.
    let _ = carry_out(&mut queue, &mut plain, 1, Command::Sub);
    let taken = carry_out(&mut queue, &mut own, 2, Command::Sub);
    assert!(matches!(taken.answer, Answer::Subscribed(Some(got)) if got == id));
    assert_eq!(taken.change, Some(Change::Service { before: None }));
    assert!(matches!(taken.notify, Some((ConnectionId(1), Event::End))));
    // Again: nothing changes. From another connection of the service: the whole service moves, of
    // which it is told once, not here.
    let again = carry_out(&mut queue, &mut own, 2, Command::Sub);
    assert!(again.change.is_none() && again.notify.is_none());
    queue.follow_services(Some(ConnectionId(2)), None);
    let moved = carry_out(&mut queue, &mut own, 3, Command::Sub);
    assert!(moved.change.is_none() && moved.notify.is_none());
    // Whoever reads for the service gets what comes.
    queue.follow_services(Some(ConnectionId(4)), None);
    let sent = carry_out(&mut queue, &mut plain, 1, send(b"one"));
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
    let late = carry_out(&mut queue, &mut own, 4, Command::Ack(None));
    assert!(matches!(late.answer, Answer::Error(ErrorCode::NoMessage)));
    assert!(queue.deliver_waiting(ConnectionId(5)).is_some());
    // Nobody reads.
    queue.follow_services(None, None);
    let sent = carry_out(&mut queue, &mut plain, 1, send(b"two"));
    assert!(sent.notify.is_none());
    // Who gets one by one is not given them as well.
    queue.follow_services(Some(ConnectionId(6)), None);
    let barred = carry_out(&mut queue, &mut own, 6, Command::Get);
    assert!(matches!(
        barred.answer,
        Answer::Error(ErrorCode::PROHIBITED)
    ));
    let got = carry_out(&mut queue, &mut own, 7, Command::Get);
    assert!(matches!(got.answer, Answer::Message(_)));
    queue.follow_services(Some(ConnectionId(7)), None);
    assert!(queue.deliver_waiting(ConnectionId(7)).is_none());
    // A plain client takes it out of the service; the service's reader is told.
    queue.follow_services(Some(ConnectionId(8)), None);
    let out = carry_out(&mut queue, &mut plain, 1, Command::Sub);
    assert!(matches!(out.answer, Answer::Subscribed(None)));
    assert_eq!(out.change, Some(Change::Service { before: Some(id) }));
    assert!(matches!(out.notify, Some((ConnectionId(8), Event::End))));
    assert!(out.then.is_some());
    queue.follow_services(Some(ConnectionId(8)), None);
    assert_eq!(queue.subscriber(), Some(ConnectionId(1)));
}

#[test]
fn another_service_takes_a_queue_and_deleting_tells_its_reader() {
    let mut queue = queue();
    let before = service(9);
    queue.restore_service(Some(Arc::clone(&before)));
    queue.follow_services(Some(ConnectionId(1)), None);
    let mut own = Pair::service(Version::MAX, ServiceRole::Messaging);
    let taken = carry_out(&mut queue, &mut own, 2, Command::Sub);
    let change = Change::Service {
        before: Some(before.id),
    };
    assert_eq!(taken.change, Some(change));
    assert!(matches!(taken.notify, Some((ConnectionId(1), Event::End))));
    queue.follow_services(Some(ConnectionId(3)), None);
    let gone = carry_out(&mut queue, &mut own, 2, Command::Delete);
    assert_eq!(gone.change, Some(Change::Deleted));
    assert!(matches!(
        gone.notify,
        Some((ConnectionId(3), Event::Deleted))
    ));
}

#[test]
fn a_blocked_queue_is_not_given_to_its_service() {
    let mut queue = queue();
    queue.restore_service(Some(service(9)));
    let mut plain = Pair::client(Version::MAX);
    let _ = carry_out(&mut queue, &mut plain, 1, send(b"m"));
    let blocking = Blocking {
        reason: BlockingReason::Spam,
        notice: None,
    };
    let _ = queue.set_blocking(Some(blocking));
    queue.follow_services(Some(ConnectionId(1)), None);
    assert!(queue.deliver_waiting(ConnectionId(1)).is_none());
    let mut own = Pair::service(Version::MAX, ServiceRole::Messaging);
    let refused = carry_out(&mut queue, &mut own, 2, Command::Sub);
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
    let version = Version::MAX;
    let mut queue = queue();
    let mut plain = Pair::client(version);
    let set = || Command::SetNotifier {
        auth_key: key(1).public_key(),
        dh_key: x25519::SecretKey::from_bytes(&[5; 32]).public_key(),
    };
    let _ = carry_out(&mut queue, &mut plain, 1, set());
    let mut own = Pair::service(version, ServiceRole::Notifier);
    let id = own.service.clone().unwrap().id;
    let taken = carry_out(&mut queue, &mut own, 2, Command::NotifierSub);
    assert_eq!(taken.change, Some(Change::NotifierService { before: None }));
    assert!(matches!(taken.answer, Answer::Subscribed(Some(got)) if got == id));
    assert!(queue.service().is_none());
    queue.follow_services(None, Some(ConnectionId(3)));
    let told = carry_out(&mut queue, &mut plain, 1, send(b"m"));
    assert!(matches!(told.notify_notifier, Some((ConnectionId(3), _))));
    assert!(queue.notify_waiting(&context(3), &mut rng(1)).is_none());
    // Nobody listens for a while; then everything is told at once.
    queue.follow_services(None, None);
    let _ = carry_out(&mut queue, &mut plain, 1, send(b"n"));
    queue.follow_services(None, Some(ConnectionId(4)));
    assert!(queue.notify_waiting(&context(5), &mut rng(1)).is_none());
    assert!(queue.notify_waiting(&context(4), &mut rng(1)).is_some());
    // What was under way to the one before is told again; then the next.
    let next = queue.notified(ConnectionId(4), Timestamp(1_800_000_000), &mut rng(1));
    assert!(next.is_some());
    let next = queue.notified(ConnectionId(4), Timestamp(1_800_000_000), &mut rng(1));
    assert!(next.is_none());
    let former = queue.notifier().map(|notifier| notifier.id()).unwrap();
    let replaced = carry_out(&mut queue, &mut plain, 1, set());
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
    let own_again = carry_out(&mut queue, &mut own, 2, Command::NotifierSub);
    assert!(own_again.change.is_some());
    queue.follow_services(None, Some(ConnectionId(2)));
    let out = carry_out(&mut queue, &mut plain, 1, Command::NotifierSub);
    let before = Some(id);
    assert_eq!(out.change, Some(Change::NotifierService { before }));
    assert!(matches!(out.notify_notifier, Some((ConnectionId(2), _))));
}
