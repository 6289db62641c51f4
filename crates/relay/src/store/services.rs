//! Services: which there are, which queues are theirs, and which connection reads for each.
//!
//! A service is kept as long as it has a queue or a connection, and forgotten with the last of them:
//! whoever shows new certificates again and again leaves nothing behind. Its id follows from its
//! certificate, so it has the same one when it comes back; one that another relay gave it stays with
//! its certificate for ever. Of all this only such ids are stored, and with every queue its service as
//! a whole ([`record`](super::record)).

use core::ops::Bound;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use junto_smp::address::Fingerprint;
use junto_smp::id::{ID_BYTES, ServiceId};
use junto_smp::queue::ConnectionId;
use junto_smp::service::{QueuesHash, Service, ServiceFault, ServiceQueues, ServiceRole};

use super::Queue;

/// All services of a relay.
pub struct Services {
    table: RwLock<Table>,
    most: AtomicUsize,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<ServiceId, Arc<ServiceCell>>,
    by_fingerprint: HashMap<Fingerprint, Arc<ServiceCell>>,
    /// Ids that do not follow from the certificate: of services that came from another relay.
    given: HashMap<Fingerprint, ServiceId>,
}

impl Table {
    /// Adds a service; `None` if its certificate or its id is another one's.
    fn add(&mut self, service: Arc<Service>) -> Option<Arc<ServiceCell>> {
        let same = |cell: &&Arc<ServiceCell>| cell.service == service;
        match (
            self.by_id.get(&service.id),
            self.by_fingerprint.get(&service.fingerprint),
        ) {
            (None, None) => {}
            (Some(cell), Some(_)) if same(&cell) => return Some(Arc::clone(cell)),
            _ => return None,
        }
        let cell = Arc::new(ServiceCell {
            service,
            state: Mutex::default(),
        });
        let Service {
            id,
            role,
            fingerprint,
        } = *cell.service;
        self.by_id.insert(id, Arc::clone(&cell));
        self.by_fingerprint.insert(fingerprint, Arc::clone(&cell));
        if id == Service::new(role, fingerprint).id {
            self.given.remove(&fingerprint);
        } else {
            self.given.insert(fingerprint, id);
        }
        Some(cell)
    }

    /// A service with this certificate, under the id that it had if it was here before.
    fn service(&self, role: ServiceRole, fingerprint: Fingerprint) -> Service {
        let service = Service::new(role, fingerprint);
        let id = self.given.get(&fingerprint).copied();
        Service {
            id: id.unwrap_or(service.id),
            ..service
        }
    }

    /// Tells whether it was forgotten.
    fn forget_unless_used(&mut self, service: &Service) -> bool {
        let used = |cell: &Arc<ServiceCell>| cell.state().is_used();
        let unused = self.by_id.get(&service.id).is_some_and(|cell| !used(cell));
        if unused {
            self.by_id.remove(&service.id);
            self.by_fingerprint.remove(&service.fingerprint);
        }
        unused
    }
}

/// One service.
pub struct ServiceCell {
    service: Arc<Service>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names of its queues: those of their recipients, or of their notifiers.
    queues: BTreeSet<[u8; ID_BYTES]>,
    hash: QueuesHash,
    connections: usize,
    /// The connection that reads for it.
    reader: Option<ConnectionId>,
    /// Whether that one has asked for everything that waits.
    all: bool,
}

impl State {
    fn is_used(&self) -> bool {
        self.connections > 0 || !self.queues.is_empty()
    }
}

/// What became of a wish to read for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Another connection that read before. It must be told.
    pub before: Option<ConnectionId>,
    /// Everything that waits must be delivered from here on: it was not asked for before.
    pub begins: bool,
    /// What the service has.
    pub queues: ServiceQueues,
}

impl ServiceCell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it is.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// How many queues are its own.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().queues.len()
    }

    /// Whether this many queues are its own, and the one with this name is not.
    #[must_use]
    pub fn is_full_for(&self, name: Option<&[u8; ID_BYTES]>, most: usize) -> bool {
        let state = self.state();
        state.queues.len() >= most && name.is_none_or(|name| !state.queues.contains(name))
    }

    /// Lets `connection` read for it from now on; `all`: also everything that waits.
    pub fn take(&self, connection: ConnectionId, all: bool) -> Taken {
        let mut state = self.state();
        let before = state.reader.replace(connection);
        let before = before.filter(|before| *before != connection);
        let begun = state.all && before.is_none();
        state.all = begun || all;
        Taken {
            before,
            begins: all && !begun,
            queues: ServiceQueues {
                count: state.queues.len() as u64,
                hash: state.hash,
            },
        }
    }

    /// Whether `connection` reads for it.
    #[must_use]
    pub fn is_read_by(&self, connection: ConnectionId) -> bool {
        self.state().reader == Some(connection)
    }

    /// The names of up to `most` of its queues, in order, behind `last`.
    #[must_use]
    pub fn queues_after(&self, last: Option<&[u8; ID_BYTES]>, most: usize) -> Vec<[u8; ID_BYTES]> {
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state();
        let behind = state
            .queues
            .range::<[u8; ID_BYTES], _>((start, Bound::Unbounded));
        behind.take(most).copied().collect()
    }
}

impl Services {
    /// No services, and room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self {
            table: RwLock::default(),
            most: AtomicUsize::new(most),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read().by_id.len()
    }

    /// Changes how many there may be. Those that are there stay.
    pub fn set_limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// A connection of the service with this certificate begins. [`Services::leave`] must follow. If
    /// there is no such service, `new` tells whether there may be, and what it gives comes back.
    ///
    /// # Errors
    /// [`ServiceFault::Refused`] if it has another role, there are too many services, or `new` gives
    /// nothing.
    pub fn enter<T>(
        &self,
        role: ServiceRole,
        fingerprint: Fingerprint,
        new: impl FnOnce() -> Option<T>,
    ) -> Result<(Arc<ServiceCell>, Option<T>), ServiceFault> {
        let mut table = self.write();
        let known = table.by_fingerprint.get(&fingerprint).map(Arc::clone);
        let (cell, allowed) = match known {
            Some(cell) if cell.service.role == role => (cell, None),
            Some(_) => return Err(ServiceFault::Refused),
            None if table.by_id.len() >= self.most.load(Ordering::Relaxed) => {
                return Err(ServiceFault::Refused);
            }
            None => {
                let allowed = new().ok_or(ServiceFault::Refused)?;
                let service = Arc::new(table.service(role, fingerprint));
                let cell = table.add(service).ok_or(ServiceFault::Refused)?;
                (cell, Some(allowed))
            }
        };
        cell.state().connections += 1;
        Ok((cell, allowed))
    }

    /// A connection that had entered is gone. Tells whether the service is forgotten with it.
    pub fn leave(&self, cell: &ServiceCell, connection: ConnectionId) -> bool {
        let unused = {
            let mut state = cell.state();
            state.connections = state.connections.saturating_sub(1);
            if state.reader == Some(connection) {
                state.reader = None;
                state.all = false;
            }
            !state.is_used()
        };
        unused && self.write().forget_unless_used(&cell.service)
    }

    /// The connections that read for the services of `queue` and of its notifier.
    #[must_use]
    pub fn readers(&self, queue: &Queue) -> [Option<ConnectionId>; 2] {
        let own = queue.service();
        let notifier = queue.notifier().and_then(|notifier| notifier.service());
        if own.is_none() && notifier.is_none() {
            return [None; 2]; // As nearly always.
        }
        let table = self.read();
        [own, notifier].map(|service| table.by_id.get(&service?.id)?.state().reader)
    }

    /// The service that a stored queue names, once for all of its queues; `None` if it cannot be.
    pub(crate) fn intern(&self, service: Service) -> Option<Arc<Service>> {
        if let Some(cell) = self.read().by_id.get(&service.id)
            && *cell.service == service
        {
            return Some(Arc::clone(&cell.service));
        }
        let cell = self.write().add(Arc::new(service))?;
        Some(Arc::clone(&cell.service))
    }

    /// Ids that do not follow from their certificates.
    pub(super) fn given(&self) -> Vec<(Fingerprint, ServiceId)> {
        let table = self.read();
        table.given.iter().map(|(f, id)| (*f, *id)).collect()
    }

    /// A service with this certificate has this id, whenever there is one.
    pub(super) fn give(&self, fingerprint: Fingerprint, id: ServiceId) {
        self.write().given.insert(fingerprint, id);
    }

    /// Forgets services that were interned for queues which are not there after all.
    pub(super) fn forget_unused(&self) {
        let mut table = self.write();
        let unused: Vec<_> = table
            .by_id
            .values()
            .filter(|cell| !cell.state().is_used())
            .map(|cell| Arc::clone(&cell.service))
            .collect();
        for service in unused {
            table.forget_unless_used(&service);
        }
    }

    /// The queue with this name is one of the service's from now on.
    pub(super) fn join(&self, service: &Arc<Service>, name: &[u8; ID_BYTES]) {
        let join = |cell: &ServiceCell| {
            let mut state = cell.state();
            if state.queues.insert(*name) {
                state.hash.toggle(name);
            }
        };
        // Under the lock of the table, so that it is not forgotten meanwhile.
        if let Some(cell) = self.read().by_id.get(&service.id) {
            return join(cell);
        }
        if let Some(cell) = self.write().add(Arc::clone(service)) {
            join(&cell);
        }
    }

    /// It is not, any more.
    pub(super) fn part(&self, service: &ServiceId, name: &[u8; ID_BYTES]) {
        let unused = {
            let table = self.read();
            let Some(cell) = table.by_id.get(service) else {
                return;
            };
            let mut state = cell.state();
            if state.queues.remove(name) {
                state.hash.toggle(name);
            }
            (!state.is_used()).then(|| Arc::clone(&cell.service))
        };
        if let Some(service) = unused {
            self.write().forget_unless_used(&service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ServiceRole::{Messaging, Notifier};

    fn certificate(n: u8) -> Fingerprint {
        Fingerprint([n; 32])
    }

    fn enter(
        services: &Services,
        role: ServiceRole,
        n: u8,
    ) -> Result<Arc<ServiceCell>, ServiceFault> {
        let entered = services.enter(role, certificate(n), || Some(()));
        entered.map(|(cell, _)| cell)
    }

    #[test]
    fn a_certificate_has_one_role_as_long_as_it_is_known() {
        let services = Services::new(9);
        let one = enter(&services, Messaging, 1).unwrap();
        let again = enter(&services, Messaging, 1).unwrap();
        assert!(Arc::ptr_eq(&one, &again));
        assert!(enter(&services, Notifier, 1).is_err());
        services.join(one.service(), &[1; 24]);
        for _ in 0..2 {
            services.leave(&one, ConnectionId(1));
        }
        // It still has a queue.
        assert!(enter(&services, Notifier, 1).is_err());
        let id = one.service().id;
        services.part(&id, &[1; 24]);
        assert_eq!(services.count(), 0);
        let other = enter(&services, Notifier, 1).unwrap();
        assert_eq!(other.service().id, id, "the id stays");
    }

    #[test]
    fn those_that_own_nothing_are_forgotten_and_their_number_is_bounded() {
        let services = Services::new(2);
        let one = enter(&services, Messaging, 1).unwrap();
        let two = enter(&services, Messaging, 2).unwrap();
        assert!(enter(&services, Messaging, 3).is_err());
        // One that is known comes in always.
        let again = enter(&services, Messaging, 1).unwrap();
        services.leave(&again, ConnectionId(3));
        services.leave(&two, ConnectionId(2));
        assert_eq!(services.count(), 1);
        enter(&services, Messaging, 3).unwrap();
        services.leave(&one, ConnectionId(1));
        for n in 4..100 {
            let cell = enter(&services, Messaging, n).unwrap();
            services.leave(&cell, ConnectionId(n.into()));
        }
        assert_eq!(services.count(), 1);
    }

    #[test]
    fn the_last_connection_reads_and_everything_is_delivered_once_to_each() {
        let services = Services::new(1);
        let cell = enter(&services, Messaging, 1).unwrap();
        enter(&services, Messaging, 1).unwrap();
        let (a, b) = (ConnectionId(1), ConnectionId(2));
        let outcome = |connection, all| {
            let taken = cell.take(connection, all);
            (taken.before, taken.begins)
        };
        assert_eq!(outcome(a, false), (None, false));
        assert_eq!(outcome(a, true), (None, true));
        assert_eq!(outcome(a, true), (None, false));
        assert_eq!(outcome(a, false), (None, false));
        assert_eq!(outcome(a, true), (None, false));
        assert_eq!(outcome(b, false), (Some(a), false));
        assert_eq!(outcome(b, true), (None, true));
        assert_eq!(outcome(a, true), (Some(b), true));
        assert!(cell.is_read_by(a) && !cell.is_read_by(b));
        services.leave(&cell, b);
        assert!(cell.is_read_by(a));
        services.leave(&cell, a);
        assert!(!cell.is_read_by(a));
        assert_eq!(services.count(), 0);
    }

    #[test]
    fn queues_are_counted_hashed_and_given_in_pieces() {
        let services = Services::new(1);
        let cell = enter(&services, Messaging, 1).unwrap();
        let mut hash = QueuesHash::default();
        for n in (0..10).rev() {
            hash.toggle(&[n; 24]);
            services.join(cell.service(), &[n; 24]);
            services.join(cell.service(), &[n; 24]);
        }
        let queues = cell.take(ConnectionId(1), true).queues;
        assert_eq!(queues, ServiceQueues { count: 10, hash });
        let mut seen = Vec::new();
        loop {
            let next = cell.queues_after(seen.last(), 3);
            assert!(next.len() <= 3);
            if next.is_empty() {
                break;
            }
            seen.extend(next);
        }
        assert!(seen.iter().copied().eq((0..10).map(|n| [n; 24])));
        assert!(cell.is_full_for(None, 10) && !cell.is_full_for(None, 11));
        assert!(!cell.is_full_for(Some(&[3; 24]), 10) && cell.is_full_for(Some(&[99; 24]), 10));
        let id = cell.service().id;
        (0..10).for_each(|n| services.part(&id, &[n; 24]));
        services.part(&id, &[99; 24]);
        let queues = cell.take(ConnectionId(1), true).queues;
        assert_eq!(queues, ServiceQueues::default());
    }

    #[test]
    fn stored_queues_cannot_name_two_services_by_one_certificate() {
        let services = Services::new(0);
        let stored = || Service {
            id: ServiceId([7; 24]),
            ..Service::new(Messaging, certificate(1))
        };
        let first = services.intern(stored()).unwrap();
        assert!(Arc::ptr_eq(&first, &services.intern(stored()).unwrap()));
        // Neither another id nor another role, nor the id for another certificate.
        assert!(
            services
                .intern(Service::new(Messaging, certificate(1)))
                .is_none()
        );
        let role = Service {
            role: Notifier,
            ..stored()
        };
        assert!(services.intern(role).is_none());
        let fingerprint = certificate(2);
        assert!(
            services
                .intern(Service {
                    fingerprint,
                    ..stored()
                })
                .is_none()
        );
        // A foreign id stays with its certificate.
        services.join(&first, &[1; 24]);
        let cell = enter(&services, Messaging, 1).unwrap();
        assert_eq!(cell.service().id, ServiceId([7; 24]));
        services.leave(&cell, ConnectionId(1));
        services.part(&first.id, &[1; 24]);
        services.intern(stored()).unwrap();
        services.forget_unused();
        assert_eq!(services.count(), 0);
    }

    #[test]
    fn an_id_that_another_relay_gave_stays_with_its_certificate() {
        let services = Services::new(9);
        let stored = Service {
            id: ServiceId([7; 24]),
            ..Service::new(Messaging, certificate(1))
        };
        services.intern(stored.clone()).unwrap();
        services.forget_unused();
        assert_eq!(services.count(), 0);
        // Also in another role, and again.
        for role in [Messaging, Notifier, Messaging] {
            let cell = enter(&services, role, 1).unwrap();
            assert_eq!(cell.service().id, ServiceId([7; 24]));
            assert!(services.leave(&cell, ConnectionId(1)));
        }
        assert_eq!(services.given(), [(certificate(1), ServiceId([7; 24]))]);
        // In a journal from before ids stayed it may have changed, and is what it was last.
        services
            .intern(Service::new(Messaging, certificate(1)))
            .unwrap();
        assert_eq!(services.given(), []);
        services.give(certificate(2), ServiceId([8; 24]));
        let cell = enter(&services, Messaging, 2).unwrap();
        assert_eq!(cell.service().id, ServiceId([8; 24]));
    }

    #[test]
    fn who_is_new_is_asked_about_and_who_leaves_nothing_is_told_so() {
        let services = Services::new(2);
        let asked = |n: u8, may: Option<u8>| services.enter(Messaging, certificate(n), || may);
        assert!(asked(1, None).is_err());
        assert_eq!(services.count(), 0);
        let (first, allowed) = asked(1, Some(5)).unwrap();
        assert_eq!(allowed, Some(5));
        let (again, allowed) = asked(1, Some(6)).unwrap();
        assert_eq!(allowed, None, "it is known");
        let (two, _) = asked(2, Some(7)).unwrap();
        // No room, so nobody is asked.
        let full = services.enter(Messaging, certificate(3), || -> Option<()> {
            panic!("asked")
        });
        assert!(full.is_err());
        assert!(!services.leave(&first, ConnectionId(1)));
        assert!(services.leave(&again, ConnectionId(2)));
        services.join(two.service(), &[1; 24]);
        assert!(!services.leave(&two, ConnectionId(3)));
    }
}
