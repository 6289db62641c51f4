//! The relay as a whole: start, settings, shutdown.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use junto_smp::address::ServerAddress;
use junto_smp::block::{Block, new_block};
use junto_smp::message::Timestamp;
use junto_smp::server;
use junto_smp::version::VersionRange;
use junto_tls::{ClientTls, ServerIdentity};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admission::{Admission, address_of, count_end, listen};
use crate::config::{Blocked, RelayConfig, Storage};
use crate::connection::{self, Registry};
use crate::folder::{self, FolderError};
use crate::metrics::{Metrics, Stats};
use crate::monitor;
use crate::observer;
use crate::proxy::{Own, Proxy};
use crate::settings::{Current, Fixed, Reloaded, Settings};
use crate::sources::Sources;
use crate::statistics::Statistics;
use crate::store::{JournalError, JournalStore, Memory, MemoryStore, Name, Store};

/// How often the store is asked whether it still can write.
const STORE_CHECK: Duration = Duration::from_millis(500);

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The UDP port of the same number, at which clients are told their addresses, cannot be had.
    #[error(
        "cannot listen on {address} (UDP): {source}; free the port, or switch off `observe.enabled`"
    )]
    Observe {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The identity does not fit TLS.
    #[error("the identity cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The identity's chain does not fit the protocol.
    #[error("the identity cannot be used: {0}")]
    Identity(#[from] server::IdentityError),
    /// The identity is another one than that of the running relay. Nothing was changed.
    #[error("the certificates are those of another relay; its address would change")]
    OtherIdentity,
    /// The file for statistics cannot be written.
    #[error("statistics: {0}")]
    Statistics(io::Error),
    /// The address of the relay is none.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store stopped writing (disk full or broken). What was answered is safe.
    #[error("the journal can no longer be written")]
    StoreFailed,
    /// A task of the relay broke. A defect of ours.
    #[error("a task of the relay broke")]
    Defect,
}

/// A relay to be started.
#[derive(Debug)]
pub struct Relay;

impl Relay {
    /// Opens the store, listens, and serves until [`RunningRelay::shutdown`].
    ///
    /// # Errors
    /// [`RelayError`]; nothing runs then.
    pub async fn start(
        config: RelayConfig,
        identity: ServerIdentity,
    ) -> Result<RunningRelay, RelayError> {
        Self::start_with_versions(config, identity, VersionRange::SUPPORTED).await
    }

    /// As [`Relay::start`], offering fewer versions of the protocol: for tests of old clients.
    ///
    /// # Errors
    /// [`RelayError`].
    pub async fn start_with_versions(
        config: RelayConfig,
        identity: ServerIdentity,
        versions: VersionRange,
    ) -> Result<RunningRelay, RelayError> {
        let fixed = Fixed::of(&config);
        let monitor_at = config.monitor.listen;
        let statistics = config.monitor.statistics.clone();
        let hosts = config.hosts.clone();
        let bind = config.bind;
        let storage = config.storage.clone();
        let proxy = config.proxy.clone();
        let observes = config.observe.enabled;
        let blocked = config.blocked.clone();
        let settings = Settings::new(config, &identity, versions)?;
        let store = open_store(storage, &settings).await?;
        let registry = Registry::default();
        block(&*store, &registry, &blocked, connection::now());
        let (listener, local_addr, observer) = doors(bind, observes.then_some(&identity))?;
        let address = folder::address(&identity, hosts, local_addr.port())?;
        let monitor = monitor_at.map(listen).transpose()?;
        let monitor_addr = match (&monitor, monitor_at) {
            (Some(listener), Some(at)) => Some(address_of(listener, at)?),
            _ => None,
        };
        let metrics = Metrics::new();
        let proxy = if proxy.enabled {
            let own = Own {
                fingerprint: address.fingerprint(),
                hosts: address.hosts().to_vec(),
                listening: local_addr,
            };
            let tls = ClientTls::new()?;
            Some(Arc::new(Proxy::new(
                &proxy,
                own,
                tls,
                metrics.proxy.clone(),
            )))
        } else {
            None
        };
        let shared = Arc::new(Shared {
            proxy,
            settings: Current::new(settings),
            store,
            registry,
            blocks: Blocks::default(),
            sources: Sources::new(),
            metrics,
            stopping: AtomicBool::new(false),
        });
        let statistics = statistics
            .map(|path| Statistics::begin(path, shared.stats(), SystemTime::now()))
            .transpose()
            .map_err(RelayError::Statistics)?;
        let mut tasks = JoinSet::new();
        if let Some(listener) = monitor {
            tasks.spawn(monitor::serve(listener, Arc::clone(&shared)));
        }
        let (stop, stopped) = watch::channel(false);
        if let Some(endpoint) = observer.clone() {
            let serve = observer::serve(endpoint, Arc::clone(&shared), stopped.clone());
            tasks.spawn(serve);
        }
        let task = tokio::spawn(run(
            Arc::clone(&shared),
            Admission::new(Arc::clone(&shared), listener),
            stopped,
            statistics,
            tasks,
        ));
        tracing::info!(queues = shared.store.queues(), "relay started");
        Ok(RunningRelay {
            shared,
            address,
            identity: *identity.fingerprint(),
            leaf: identity.chain().first().map(|leaf| leaf.to_vec()).into(),
            versions,
            fixed,
            observer,
            local_addr,
            monitor_addr,
            stop,
            task: Some(task),
        })
    }
}

/// Listens, and opens the UDP port of the same number if clients are to be told their addresses there.
fn doors(
    bind: SocketAddr,
    observes: Option<&ServerIdentity>,
) -> Result<(TcpListener, SocketAddr, Option<noq::Endpoint>), RelayError> {
    loop {
        let listener = listen(bind)?;
        let local_addr = address_of(&listener, bind)?;
        let Some(identity) = observes else {
            return Ok((listener, local_addr, None));
        };
        match observer::open(local_addr, identity) {
            Ok(observer) => return Ok((listener, local_addr, Some(observer))),
            // Any port will do, and of this one somebody has the other half.
            Err(RelayError::Observe { source, .. })
                if bind.port() == 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

async fn open_store(storage: Storage, settings: &Settings) -> Result<Arc<dyn Store>, RelayError> {
    let limits = settings.limits;
    let memory = Memory::new(limits.message_bytes);
    let store: Arc<dyn Store> = match storage {
        Storage::Memory => Arc::new(MemoryStore::new(limits.queues, memory)),
        Storage::Journal { dir, sync } => {
            let now = connection::now();
            let open = move || JournalStore::open(&dir, sync, limits.queues, memory, now);
            let opened = tokio::task::spawn_blocking(open).await;
            let store = opened.map_err(|_| RelayError::Defect)??;
            // Before anybody asks for what has grown too old meanwhile.
            store.sweep(connection::now(), &settings.queue_limits);
            Arc::new(store)
        }
    };
    store.services().set_limit(limits.services);
    Ok(store)
}

/// A relay that serves. Dropping it ends it at once, without saying goodbye to anybody.
pub struct RunningRelay {
    shared: Arc<Shared>,
    address: ServerAddress,
    identity: junto_tls::Fingerprint,
    /// The certificate that is shown.
    leaf: Mutex<Option<Vec<u8>>>,
    versions: VersionRange,
    fixed: Fixed,
    /// Where clients are told their addresses.
    observer: Option<noq::Endpoint>,
    local_addr: SocketAddr,
    monitor_addr: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<Result<(), RelayError>>>,
}

impl RunningRelay {
    /// What users of this relay need to know.
    #[must_use]
    pub fn address(&self) -> ServerAddress {
        self.address.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where it shows metrics and health, if anywhere.
    #[must_use]
    pub fn monitor_addr(&self) -> Option<SocketAddr> {
        self.monitor_addr
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Takes new settings, and a new certificate of the same identity. Connections that are open
    /// stay; what concerns them holds from their next block on.
    ///
    /// # Errors
    /// [`RelayError::OtherIdentity`], or that the identity cannot be used; nothing changes then.
    pub fn reload(
        &self,
        config: RelayConfig,
        identity: &ServerIdentity,
    ) -> Result<Reloaded, RelayError> {
        if *identity.fingerprint() != self.identity {
            return Err(RelayError::OtherIdentity);
        }
        let waiting = self.fixed.differences(&Fixed::of(&config));
        let (blocked, proxy) = (config.blocked.clone(), config.proxy.clone());
        // Whatever may be refused comes first; from here on all of it is taken.
        let settings = Settings::new(config, identity, self.versions)?;
        let shown = observer::settings(identity)?;
        let limits = settings.limits;
        self.shared.settings.replace(settings);
        if let Some(observer) = &self.observer {
            observer.set_server_config(Some(shown));
        }
        if let Some(running) = &self.shared.proxy {
            running.reload(&proxy);
        }
        self.shared
            .store
            .set_limits(limits.queues, limits.message_bytes);
        self.shared.store.services().set_limit(limits.services);
        // After the settings, which refuse the links that are blocked to new queues.
        let now = connection::now();
        block(&*self.shared.store, &self.shared.registry, &blocked, now);
        let shown = identity.chain().first().map(|leaf| leaf.to_vec());
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = *leaf != shown;
        *leaf = shown;
        tracing::info!(certificate, ?waiting, "settings reloaded");
        Ok(Reloaded {
            certificate,
            waiting,
        })
    }

    /// Waits until the relay ends by itself, which it does only when it cannot go on.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn ended(&mut self) -> Result<(), RelayError> {
        match &mut self.task {
            Some(task) => {
                let result = task.await;
                self.task = None;
                result.map_err(|_| RelayError::Defect)?
            }
            None => Ok(()),
        }
    }

    /// Takes no more connections, lets those that are open finish sending, and closes the store.
    ///
    /// # Errors
    /// [`RelayError::StoreFailed`] if the last changes could not be made durable.
    pub async fn shutdown(mut self) -> Result<(), RelayError> {
        // Fails only if the relay has ended already.
        let _ = self.stop.send(true);
        self.ended().await
    }
}

impl Drop for RunningRelay {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl core::fmt::Debug for RunningRelay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RunningRelay").finish_non_exhaustive()
    }
}

/// Blocks queues, or lifts that, as the settings say.
fn block(store: &dyn Store, registry: &Registry, blocked: &[Blocked], now: Timestamp) {
    let mut unknown = 0;
    for Blocked { queue, blocking } in blocked {
        let find = |name| store.find(name, &queue.0);
        if let Some(cell) = Name::ALL.into_iter().find_map(find) {
            let mut queue = cell.lock();
            if !cell.is_deleted()
                && let Some(change) = queue.set_blocking(*blocking)
            {
                // Nobody could use it meanwhile: its days begin anew, and before the block is gone,
                // wherever a crash cuts the journal.
                if blocking.is_none()
                    && let Some(used) = queue.touch(now)
                {
                    store.record(&queue, used);
                }
                store.record(&queue, change);
                let [reader, notifier] = store.services().readers(&queue);
                queue.follow_services(reader, notifier);
                if let Some(waited) = queue.deliver_unblocked() {
                    registry.tell_reader(store, &queue, waited);
                }
            }
        } else {
            unknown += 1;
        }
    }
    if unknown > 0 {
        // A mistyped name must not go unnoticed; a queue that was deleted since is no harm.
        tracing::warn!(
            unknown,
            "settings block queues that this relay does not have"
        );
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: Current,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) blocks: Blocks,
    pub(crate) sources: Arc<Sources>,
    pub(crate) metrics: Metrics,
    /// None if switched off.
    pub(crate) proxy: Option<Arc<Proxy>>,
    stopping: AtomicBool,
}

/// Whether the relay can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Ready,
    /// It is being shut down.
    Stopping,
    /// The store cannot write.
    StoreFailed,
}

impl Shared {
    fn stats(&self) -> Stats {
        self.metrics.stats(&*self.store)
    }

    pub(crate) fn health(&self) -> Health {
        if store_failed(&*self.store) {
            Health::StoreFailed
        } else if self.stopping.load(Ordering::Relaxed) {
            Health::Stopping
        } else {
            Health::Ready
        }
    }
}

/// Blocks for connections that have received part of one. Idle connections hold none.
#[derive(Default)]
pub(crate) struct Blocks(Mutex<Vec<Box<Block>>>);

/// Blocks kept for the next connection: 1 MiB.
const BLOCKS_MAX: usize = 64;

impl Blocks {
    pub(crate) fn take(&self) -> Box<Block> {
        let pooled = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pooled.unwrap_or_else(new_block)
    }

    pub(crate) fn give_back(&self, block: Box<Block>) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < BLOCKS_MAX {
            pool.push(block);
        }
    }
}

/// The task of the relay: takes connections, sweeps, and ends everything.
async fn run(
    shared: Arc<Shared>,
    mut admission: Admission,
    mut stop: watch::Receiver<bool>,
    mut statistics: Option<Statistics>,
    // Ended with this one.
    _tasks: JoinSet<()>,
) -> Result<(), RelayError> {
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(shared.settings.get().timeouts.sweep);
    let mut check = tokio::time::interval(STORE_CHECK);
    let mut sweeping: Option<JoinHandle<()>> = None;
    sweep.reset();
    let result = loop {
        tokio::select! {
            accepted = admission.accept() => admission.take(&mut connections, accepted),
            Some(ended) = connections.join_next() => count_end(&shared, &ended),
            () = Statistics::due(statistics.as_ref()) => {
                write_statistics(&shared, statistics.as_mut());
            }
            _ = sweep.tick() => start_sweep(&shared, &mut sweeping),
            _ = check.tick() => {
                if store_failed(&*shared.store) {
                    break Err(RelayError::StoreFailed);
                }
                // Not only at the usual times: one client that sends to itself and acknowledges
                // writes 16 KiB a message, and must not fill the disk meanwhile.
                if shared.store.wants_sweep() {
                    start_sweep(&shared, &mut sweeping);
                }
            }
            // Also if nobody can ask any more.
            _ = stop.changed() => break Ok(()),
        }
    };
    shared.stopping.store(true, Ordering::Relaxed);
    admission.close();
    shared.registry.close_all();
    let drain = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(shared.settings.get().timeouts.drain, drain).await;
    connections.shutdown().await;
    if let Some(proxy) = &shared.proxy {
        proxy.close();
    }
    write_statistics(&shared, statistics.as_mut());
    if let Some(sweeping) = sweeping {
        let _ = sweeping.await;
    }
    let store = Arc::clone(&shared.store);
    let closed = tokio::task::spawn_blocking(move || store.close()).await;
    tracing::info!("relay stopped");
    match (result, closed) {
        (Ok(()), Ok(Ok(()))) => Ok(()),
        (Ok(()), Ok(Err(_))) => Err(RelayError::StoreFailed),
        (Ok(()), Err(_)) => Err(RelayError::Defect),
        (Err(error), _) => Err(error),
    }
}

/// Starts to tidy up, unless that is under way.
fn start_sweep(shared: &Arc<Shared>, sweeping: &mut Option<JoinHandle<()>>) {
    if sweeping.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = Arc::clone(shared);
        let sweep = move || {
            let limits = shared.settings.get().queue_limits;
            let swept = shared.store.sweep(connection::now(), &limits);
            shared.metrics.expired(swept.messages);
            shared.metrics.queues_expired(swept.queues);
        };
        *sweeping = Some(tokio::task::spawn_blocking(sweep));
    }
}

fn write_statistics(shared: &Shared, statistics: Option<&mut Statistics>) {
    if let Some(Err(error)) =
        statistics.map(|statistics| statistics.write(shared.stats(), SystemTime::now()))
    {
        tracing::warn!(%error, "statistics could not be written");
    }
}

/// Whether the store has given up.
fn store_failed(store: &dyn Store) -> bool {
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    matches!(
        store.poll_durable(store.position(), &mut cx),
        core::task::Poll::Ready(Err(_))
    )
}

#[cfg(test)]
mod tests {
    use junto_smp::blocking::{Blocking, BlockingReason};
    use junto_smp::queue::Limits;

    use super::*;
    use crate::config::QueueName;
    use crate::store::conformance;

    #[test]
    fn a_queue_whose_block_is_lifted_has_all_its_days_again_also_after_a_restart() {
        const DAY_S: u64 = 86_400;
        let limits = Limits {
            unused_days: Some(30),
            ..Limits::default()
        };
        let blocked = |blocking| Blocked {
            queue: QueueName(conformance::queue(1).sender().0),
            blocking,
        };
        let spam = Blocking {
            reason: BlockingReason::Spam,
            notice: None,
        };
        let at = |day: u64| Timestamp(day * DAY_S);
        let dir = tempfile::tempdir().unwrap();
        let open = |day| {
            let memory = Memory::new(usize::MAX);
            JournalStore::open(dir.path(), false, 10, memory, at(day)).unwrap()
        };
        let registry = Registry::default();
        let store = open(100);
        let cell = store.create(conformance::queue(1)).unwrap();
        let used = cell.lock().touch(at(100)).unwrap();
        store.record(&cell.lock(), used);
        drop(cell);
        block(&store, &registry, &[blocked(Some(spam))], at(101));
        // A sweep a day, as when it runs.
        for day in 102..200 {
            assert_eq!(store.sweep(at(day), &limits).queues, 0);
        }
        block(&store, &registry, &[blocked(None)], at(200));
        store.close().unwrap();
        drop(store);
        let store = open(200);
        for day in 200..231 {
            assert_eq!(store.sweep(at(day), &limits).queues, 0, "{day}");
            // Lifting what is not blocked gives no days.
            block(&store, &registry, &[blocked(None)], at(day));
        }
        assert_eq!(store.sweep(at(231), &limits).queues, 1);
    }
}
