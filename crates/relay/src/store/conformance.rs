//! What every store must do: one suite, run for each of them.

use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use junto_smp::address::Fingerprint;
use junto_smp::blocking::{Blocking, BlockingReason};
use junto_smp::id::{ID_BYTES, MessageId, NotifierId, RecipientId, SenderId};
use junto_smp::key::{AuthKey, AuthSecret};
use junto_smp::message::{DeliveryKey, MessageFlags, Timestamp};
use junto_smp::notification::NotificationKey;
use junto_smp::queue::{
    self, Change, ConnectionId, Content, FormerNotifier, Message, NotifierParts, QueueParts,
};
use junto_smp::service::{Service, ServiceQueues, ServiceRole};
use proptest::prelude::*;

use super::{
    Body, Cell, JournalStore, Memory, MemoryStore, Name, Position, Queue, Store, StoreFailed, Swept,
};
use crate::folder::generator;

/// Queues that a store under test may hold.
const QUEUES_MAX: usize = 8;

pub(super) static KEY: LazyLock<AuthKey> =
    LazyLock::new(|| AuthSecret::generate(&mut generator().unwrap()).public_key());

pub(super) fn recipient(n: u8) -> [u8; ID_BYTES] {
    [n; ID_BYTES]
}

pub(super) fn sender(n: u8) -> [u8; ID_BYTES] {
    [n ^ 0x80; ID_BYTES]
}

/// Queue number `n`, below 128.
pub(crate) fn queue(n: u8) -> Queue {
    Queue::restore(parts(n))
}

pub(super) fn parts(n: u8) -> QueueParts {
    QueueParts {
        recipient: RecipientId(recipient(n)),
        sender: SenderId(sender(n)),
        mode: None,
        recipient_key: KEY.clone(),
        sender_key: None,
        delivery_key: DeliveryKey::from_bytes(&[n; 32]),
        suspended: false,
    }
}

pub(super) fn message_id(n: u32) -> MessageId {
    let mut id = [0; ID_BYTES];
    id[..4].copy_from_slice(&n.to_be_bytes());
    MessageId(id)
}

pub(super) fn message(memory: &Arc<Memory>, n: u32, body: &[u8]) -> Message<Body> {
    Message {
        id: message_id(n),
        time: Timestamp(u64::from(n)),
        content: Content::Body {
            flags: MessageFlags::default(),
            body: memory.store(body),
        },
    }
}

/// Sends message `n` with its number as body.
pub(crate) fn send(store: &dyn Store, cell: &Cell, n: u32) {
    let mut queue = cell.lock();
    queue.restore_message(message(store.memory(), n, &n.to_be_bytes()));
    store.record(&queue, Change::Stored(message_id(n)));
}

/// Acknowledges the first message.
pub(crate) fn take(store: &dyn Store, cell: &Cell) {
    let mut queue = cell.lock();
    let first = queue.messages().next().map(|message| message.id);
    if let Some(first) = first {
        queue.restore_removal(&first);
        store.record(&queue, Change::Removed(first));
    }
}

pub(crate) fn delete(store: &dyn Store, cell: &Cell) {
    let queue = cell.lock();
    cell.set_deleted();
    store.record(&queue, Change::Deleted);
}

/// The messages of queue `n`, if it is there: under both names or neither.
pub(crate) fn messages(store: &dyn Store, n: u8) -> Option<Vec<u32>> {
    let cell = store.find(Name::Recipient, &recipient(n));
    let other = store.find(Name::Sender, &sender(n));
    match (cell, other) {
        (Some(cell), Some(other)) => {
            assert!(Arc::ptr_eq(&cell, &other));
            let queue = cell.lock();
            let number = |message: &Message<Body>| {
                let number = u32::from_be_bytes(*message.id.0.first_chunk().unwrap());
                assert_eq!(message.time, Timestamp(number.into()));
                if let Content::Body { body, .. } = &message.content {
                    assert!(body.as_ref().starts_with(&number.to_be_bytes()));
                }
                number
            };
            Some(queue.messages().map(number).collect())
        }
        (None, None) => None,
        _ => panic!("queue {n} is there under one name only"),
    }
}

/// Waits until `position` is durable, or the store has failed.
pub(crate) fn wait(store: &dyn Store, position: Position) -> Result<(), StoreFailed> {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match store.poll_durable(position, &mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => {
                std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
                assert!(Instant::now() < deadline, "nobody was woken");
            }
        }
    }
}

/// A store to test, and how to open it again.
struct Fixture {
    store: Box<dyn Store>,
    dir: Option<tempfile::TempDir>,
}

impl Fixture {
    fn memory() -> Self {
        let memory = Memory::new(usize::MAX);
        Self {
            store: Box::new(MemoryStore::new(QUEUES_MAX, memory)),
            dir: None,
        }
    }

    fn journal() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            store: Self::open(&dir),
            dir: Some(dir),
        }
    }

    fn open(dir: &tempfile::TempDir) -> Box<dyn Store> {
        let memory = Memory::new(usize::MAX);
        Box::new(JournalStore::open(dir.path(), false, QUEUES_MAX, memory, Timestamp(0)).unwrap())
    }

    /// Closes and opens the store if it outlives that.
    fn again(self) -> Self {
        self.store.close().unwrap();
        match self.dir {
            None => self,
            Some(dir) => {
                drop(self.store);
                Self {
                    store: Self::open(&dir),
                    dir: Some(dir),
                }
            }
        }
    }
}

macro_rules! conformance {
    ($($store:ident),*) => {$(
        mod $store {
            use super::*;

            #[test]
            fn a_queue_has_two_names_and_they_are_not_mixed_up() {
                super::a_queue_has_two_names_and_they_are_not_mixed_up(Fixture::$store());
            }

            #[test]
            fn a_full_store_refuses_until_a_queue_goes() {
                super::a_full_store_refuses_until_a_queue_goes(Fixture::$store());
            }

            #[test]
            fn what_is_recorded_becomes_durable_and_its_waiters_wake() {
                super::what_is_recorded_becomes_durable_and_its_waiters_wake(Fixture::$store());
            }

            #[test]
            fn a_sweep_drops_what_is_too_old_and_nothing_else() {
                super::a_sweep_drops_what_is_too_old_and_nothing_else(Fixture::$store());
            }

            #[test]
            fn queues_that_nobody_uses_go_on_their_day_and_no_others() {
                super::queues_that_nobody_uses_go_on_their_day_and_no_others(Fixture::$store());
            }

            #[test]
            fn queues_stay_unless_they_are_told_to_go() {
                super::queues_stay_unless_they_are_told_to_go(Fixture::$store());
            }

            #[test]
            fn memory_of_bodies_is_counted_and_given_back() {
                super::memory_of_bodies_is_counted_and_given_back(Fixture::$store());
            }

            #[test]
            fn services_keep_their_queues_and_notifiers() {
                super::services_keep_their_queues_and_notifiers(Fixture::$store());
            }

            #[test]
            fn tasks_do_not_disturb_each_other() {
                super::tasks_do_not_disturb_each_other(Fixture::$store());
            }

            proptest! {
                #![proptest_config(ProptestConfig::with_cases(64))]
                #[test]
                fn does_what_a_map_of_lists_does(
                    acts in prop::collection::vec((0..10_u8, 0..4_u8), 1..60)
                ) {
                    super::does_what_a_map_of_lists_does(Fixture::$store(), &acts);
                }
            }
        }
    )*};
}

conformance!(memory, journal);

fn a_queue_has_two_names_and_they_are_not_mixed_up(fixture: Fixture) {
    let store = &*fixture.store;
    let cell = store.create(queue(1)).unwrap();
    for (name, id) in [(Name::Recipient, recipient(1)), (Name::Sender, sender(1))] {
        assert!(Arc::ptr_eq(&store.find(name, &id).unwrap(), &cell));
    }
    assert!(store.find(Name::Sender, &recipient(1)).is_none());
    assert!(store.find(Name::Recipient, &sender(1)).is_none());
    assert!(store.find(Name::Recipient, &recipient(2)).is_none());
    assert_eq!(store.queues(), 1);
}

fn a_full_store_refuses_until_a_queue_goes(fixture: Fixture) {
    let store = &*fixture.store;
    for n in 0..8 {
        store.create(queue(n)).unwrap();
    }
    assert_eq!(store.queues(), QUEUES_MAX);
    assert!(store.create(queue(100)).is_err());
    assert_eq!(messages(store, 100), None);
    let cell = store.find(Name::Sender, &sender(3)).unwrap();
    delete(store, &cell);
    assert_eq!(messages(store, 3), None);
    assert_eq!(store.queues(), QUEUES_MAX - 1);
    store.create(queue(100)).unwrap();
    assert_eq!(messages(store, 100), Some(vec![]));
}

fn what_is_recorded_becomes_durable_and_its_waiters_wake(fixture: Fixture) {
    let store = &*fixture.store;
    let mut last = store.position();
    assert_eq!(wait(store, last), Ok(()));
    let cell = store.create(queue(1)).unwrap();
    for n in 0..50 {
        send(store, &cell, n);
        let position = store.position();
        assert!(position >= last, "positions never go back");
        last = position;
        // All waiters of all positions wake, whoever asks first.
        if n % 10 == 0 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(wait(store, position), Ok(())));
                }
            });
            assert!(store.durable() >= position);
        }
    }
    store.close().unwrap();
    assert_eq!(wait(store, last), Ok(()), "closing makes all durable");
}

fn a_sweep_drops_what_is_too_old_and_nothing_else(fixture: Fixture) {
    let fixture = {
        let store = &*fixture.store;
        let (one, two) = (
            store.create(queue(1)).unwrap(),
            store.create(queue(2)).unwrap(),
        );
        // The number of a message is its time.
        (10..20).for_each(|n| send(store, &one, n));
        (15..17).for_each(|n| send(store, &two, n));
        let limits = queue::Limits {
            retention_seconds: 100,
            ..Default::default()
        };
        let dropped = |messages| Swept {
            messages,
            queues: 0,
        };
        assert_eq!(store.sweep(Timestamp(110), &limits), dropped(0));
        assert_eq!(store.sweep(Timestamp(116), &limits), dropped(6 + 1));
        assert_eq!(messages(store, 1), Some(vec![16, 17, 18, 19]));
        assert_eq!(messages(store, 2), Some(vec![16]));
        fixture
    };
    // A store that outlives its process may remember them, as old as they were.
    let limits = queue::Limits {
        retention_seconds: 100,
        ..Default::default()
    };
    let fixture = fixture.again();
    fixture.store.sweep(Timestamp(116), &limits);
    assert_eq!(messages(&*fixture.store, 1), Some(vec![16, 17, 18, 19]));
}

/// Noon of a day.
fn noon(day: u32) -> Timestamp {
    Timestamp(u64::from(day) * 86_400 + 43_200)
}

const UNUSED: queue::Limits = queue::Limits {
    messages: 128,
    retention_seconds: 1_000 * 86_400,
    unused_days: Some(30),
};

/// Uses queue `n`, as a command of its owner does.
fn touch(store: &dyn Store, n: u8, now: Timestamp) {
    let cell = store.find(Name::Recipient, &recipient(n)).unwrap();
    let mut queue = cell.lock();
    if let Some(change) = queue.touch(now) {
        store.record(&queue, change);
    }
}

fn queues_that_nobody_uses_go_on_their_day_and_no_others(fixture: Fixture) {
    let mut fixture = fixture;
    let store = &*fixture.store;
    let cells: Vec<_> = (0..6).map(|n| store.create(queue(n)).unwrap()).collect();
    for n in 0..6 {
        touch(store, n, noon(100));
    }
    // Of these only 1, 5 and, on its own day, 0 may go.
    touch(store, 0, noon(101));
    let change = |n: usize, change: &dyn Fn(&mut Queue) -> Change| {
        let mut queue = cells[n].lock();
        let change = change(&mut queue);
        store.record(&queue, change);
    };
    change(2, &|queue| {
        queue.restore_sender_key(KEY.clone());
        Change::Secured
    });
    send(store, &cells[3], 7);
    change(4, &|queue| {
        let reason = BlockingReason::Spam;
        let blocking = Blocking {
            reason,
            notice: None,
        };
        queue.set_blocking(Some(blocking)).unwrap()
    });
    drop(cells);
    let there = |store: &dyn Store| -> Vec<u8> {
        (0..6).filter(|n| messages(store, *n).is_some()).collect()
    };
    let last_of_day = |day| Timestamp(noon(day).0 + 43_199);
    assert_eq!(store.sweep(last_of_day(130), &UNUSED), Swept::default());
    // What a store remembers of the days outlives it.
    fixture = fixture.again();
    let store = &*fixture.store;
    assert_eq!(store.sweep(last_of_day(130), &UNUSED), Swept::default());
    let found = store.find(Name::Sender, &sender(1)).unwrap();
    let first = Timestamp(last_of_day(130).0 + 1);
    assert_eq!(store.sweep(first, &UNUSED).queues, 2);
    assert_eq!(there(store), [0, 2, 3, 4]);
    assert_eq!(store.queues(), 4);
    // Whoever has found one before must not use it any more.
    assert!(found.is_deleted());
    fixture = fixture.again();
    let store = &*fixture.store;
    assert_eq!(there(store), [0, 2, 3, 4]);
    assert_eq!(store.sweep(noon(132), &UNUSED).queues, 1);
    assert_eq!(there(store), [2, 3, 4]);
    // Long after, the one with a message still has it; then it may go as well.
    assert_eq!(store.sweep(noon(900), &UNUSED).queues, 0);
    take(store, &store.find(Name::Recipient, &recipient(3)).unwrap());
    assert_eq!(store.sweep(noon(900), &UNUSED).queues, 1);
    assert_eq!(there(store), [2, 4]);
}

fn queues_stay_unless_they_are_told_to_go(fixture: Fixture) {
    let store = &*fixture.store;
    store.create(queue(1)).unwrap();
    touch(store, 1, noon(100));
    store.create(queue(2)).unwrap();
    let kept = queue::Limits {
        unused_days: None,
        ..UNUSED
    };
    assert_eq!(store.sweep(noon(50_000), &kept).queues, 0);
    // Of the second nothing is known: its days are counted from the first sweep that cares.
    assert_eq!(store.sweep(noon(50_000), &UNUSED).queues, 1);
    let fixture = fixture.again();
    let store = &*fixture.store;
    assert_eq!(store.sweep(noon(50_030), &UNUSED).queues, 0);
    assert_eq!(messages(store, 2), Some(vec![]));
    assert_eq!(store.sweep(noon(50_031), &UNUSED).queues, 1);
    assert_eq!(store.queues(), 0);
}

fn memory_of_bodies_is_counted_and_given_back(fixture: Fixture) {
    let store = &*fixture.store;
    let cell = store.create(queue(1)).unwrap();
    for n in 0..10 {
        send(store, &cell, n);
    }
    wait(store, store.position()).unwrap();
    assert_eq!(store.memory().used_bytes(), 10 * Memory::cost(4));
    take(store, &cell);
    assert_eq!(store.memory().used_bytes(), 9 * Memory::cost(4));
    delete(store, &cell);
    drop(cell);
    assert_eq!(store.memory().used_bytes(), 0);
}

/// Service number `n`.
pub(super) fn service(n: u8) -> Service {
    Service::new(ServiceRole::Messaging, Fingerprint([n; 32]))
}

/// Makes the queue in `cell` one of this service's, or of none.
pub(super) fn serve(store: &dyn Store, cell: &Cell, service: Option<Service>) {
    let mut queue = cell.lock();
    let before = queue.service().map(|service| service.id);
    let service = service.map(|service| store.services().intern(service).unwrap());
    queue.restore_service(service);
    store.record(&queue, Change::Service { before });
}

/// What service number `n` has, as it would be told.
pub(super) fn queues_of(store: &dyn Store, n: u8) -> ServiceQueues {
    let connection = ConnectionId(1);
    let cell = store
        .services()
        .enter(ServiceRole::Messaging, Fingerprint([n; 32]), || Some(()));
    let (cell, _) = cell.unwrap();
    let queues = cell.take(connection, false).queues;
    store.services().leave(&cell, connection);
    queues
}

/// What a service with these queues has.
fn having(queues: impl Iterator<Item = [u8; ID_BYTES]>) -> ServiceQueues {
    let mut all = ServiceQueues::default();
    for name in queues {
        all.count += 1;
        all.hash.toggle(&name);
    }
    all
}

fn services_keep_their_queues_and_notifiers(mut fixture: Fixture) {
    let told = Service::new(ServiceRole::Notifier, Fingerprint([9; 32]));
    let names = [[31; ID_BYTES], [32; ID_BYTES]];
    {
        let store = &*fixture.store;
        // One comes with its service, one gets it later, and its notifier has another one.
        let mut first = queue(1);
        first.restore_service(store.services().intern(service(1)));
        store.create(first).unwrap();
        let second = store.create(queue(2)).unwrap();
        serve(store, &second, Some(service(1)));
        let third = store.create(queue(3)).unwrap();
        serve(store, &third, Some(service(2)));
        for (n, name) in names.into_iter().enumerate() {
            let mut queue = second.lock();
            let former = queue.notifier().map(|notifier| FormerNotifier {
                id: notifier.id(),
                service: notifier.service().map(|service| service.id),
            });
            assert_eq!(former.is_some(), n == 1);
            queue.restore_notifier(Some(NotifierParts {
                id: NotifierId(name),
                auth_key: KEY.clone(),
                key: NotificationKey::from_bytes(&[5; 32]),
            }));
            store.record(&queue, Change::Notifier { replaced: former });
            queue.restore_notifier_service(store.services().intern(told.clone()));
            store.record(&queue, Change::NotifierService { before: None });
        }
    }
    let notifiers = |store: &dyn Store| {
        let entered = store
            .services()
            .enter(told.role, told.fingerprint, || Some(()));
        let (cell, _) = entered.unwrap();
        let names = cell.queues_after(None, 9);
        store.services().leave(&cell, ConnectionId(1));
        names
    };
    for _ in 0..3 {
        let store = &*fixture.store;
        let both = having([recipient(1), recipient(2)].into_iter());
        assert_eq!(queues_of(store, 1), both);
        assert_eq!(queues_of(store, 2), having([recipient(3)].into_iter()));
        assert_eq!(notifiers(store), [names[1]]);
        assert_eq!(store.services().count(), 3);
        fixture = fixture.again();
    }
    let store = &*fixture.store;
    let find = |n| store.find(Name::Recipient, &recipient(n)).unwrap();
    delete(store, &find(1));
    serve(store, &find(3), Some(service(1)));
    {
        let cell = find(2);
        let mut queue = cell.lock();
        let former = FormerNotifier {
            id: NotifierId(names[1]),
            service: Some(told.id),
        };
        queue.restore_notifier(None);
        store.record(&queue, Change::NotifierDeleted(former));
    }
    serve(store, &find(2), None);
    for _ in 0..3 {
        let store = &*fixture.store;
        assert_eq!(queues_of(store, 1), having([recipient(3)].into_iter()));
        assert_eq!(queues_of(store, 2), ServiceQueues::default());
        assert_eq!(notifiers(store), [[0; ID_BYTES]; 0]);
        assert_eq!(store.services().count(), 1);
        fixture = fixture.again();
    }
}

fn tasks_do_not_disturb_each_other(fixture: Fixture) {
    /// Also when a worker fails: nobody sweeps for ever.
    struct StopWhenDropped<'a>(&'a AtomicBool);
    impl Drop for StopWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let store = &*fixture.store;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopWhenDropped(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let swept = store.sweep(Timestamp(1), &queue::Limits::default());
                assert_eq!(swept, Swept::default());
            }
        });
        let workers: Vec<_> = (0..4_u8)
            .map(|n| {
                scope.spawn(move || {
                    for round in 0..100 {
                        let cell = store.create(queue(n)).unwrap();
                        (0..5).for_each(|m| send(store, &cell, 5 * round + m));
                        take(store, &cell);
                        assert_eq!(messages(store, n).unwrap().len(), 4);
                        if round < 99 {
                            delete(store, &cell);
                            assert_eq!(messages(store, n), None);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
    });
    assert_eq!(store.queues(), 4);
    for n in 0..4 {
        assert_eq!(messages(store, n), Some(vec![496, 497, 498, 499]));
    }
}

fn does_what_a_map_of_lists_does(fixture: Fixture, acts: &[(u8, u8)]) {
    let mut fixture = fixture;
    let mut model: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
    let mut owners: BTreeMap<u8, u8> = BTreeMap::new();
    for (number, (act, n)) in (0..).zip(acts.iter().copied()) {
        let store = &*fixture.store;
        let cell = store.find(Name::Recipient, &recipient(n));
        assert_eq!(cell.is_some(), model.contains_key(&n));
        match (act, cell) {
            (0, None) => {
                store.create(queue(n)).unwrap();
                model.insert(n, vec![]);
            }
            (1 | 2, Some(cell)) => {
                send(store, &cell, number);
                model.get_mut(&n).unwrap().push(number);
            }
            (3, Some(cell)) => {
                take(store, &cell);
                let messages = model.get_mut(&n).unwrap();
                if !messages.is_empty() {
                    messages.remove(0);
                }
            }
            (4, Some(cell)) => {
                delete(store, &cell);
                model.remove(&n);
                owners.remove(&n);
            }
            (6 | 7, Some(cell)) => {
                serve(store, &cell, Some(service(act)));
                owners.insert(n, act);
            }
            (8, Some(cell)) => {
                serve(store, &cell, None);
                owners.remove(&n);
            }
            (9, None) => {
                let mut queue = queue(n);
                queue.restore_service(store.services().intern(service(6)));
                store.create(queue).unwrap();
                model.insert(n, vec![]);
                owners.insert(n, 6);
            }
            (5, _) => fixture = fixture.again(),
            _ => {}
        }
        let store = &*fixture.store;
        assert_eq!(store.queues(), model.len());
        for service in [6, 7] {
            let own = owners.iter().filter(|(_, owner)| **owner == service);
            let own = having(own.map(|(n, _)| recipient(*n)));
            assert_eq!(queues_of(store, service), own);
        }
        for n in 0..4 {
            assert_eq!(messages(store, n), model.get(&n).cloned());
        }
    }
}
