//! The relay as a whole: listener, limits on connections, start and shutdown.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use junto_crypto::ed25519::SigningKey;
use junto_smp::address::ServerAddress;
use junto_smp::block::{Block, new_block};
use junto_smp::command::Command;
use junto_smp::queue::{self, Answer, ConnectionId};
use junto_smp::server;
use junto_smp::version::VersionRange;
use junto_tls::{ServerIdentity, ServerTls};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::config::{Limits, Password, RelayConfig, Storage, Timeouts};
use crate::connection::{self, Ended, Registry};
use crate::folder::{self, FolderError};
use crate::store::{Body, JournalError, JournalStore, Memory, MemoryStore, Store};

/// Connections that the system may hold until we take them.
const BACKLOG: i32 = 1_024;
/// Pause after the system refused a connection, for lack of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer that vanished without goodbye is noticed after about this time, doubled.
const KEEPALIVE: Duration = Duration::from_secs(120);
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
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The identity does not fit TLS.
    #[error("the identity cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The identity's chain does not fit the protocol.
    #[error("the identity cannot be used: {0}")]
    Identity(#[from] server::IdentityError),
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
        let memory = Memory::new(config.limits.message_bytes);
        let limits = config.limits;
        let store: Arc<dyn Store> = match config.storage {
            Storage::Memory => Arc::new(MemoryStore::new(limits.queues, memory)),
            Storage::Journal { dir, sync } => {
                let open = move || JournalStore::open(&dir, sync, limits.queues, memory);
                let opened = tokio::task::spawn_blocking(open).await;
                Arc::new(opened.map_err(|_| RelayError::Defect)??)
            }
        };
        let listener = listen(config.bind)?;
        let local_addr = listener.local_addr().map_err(|source| RelayError::Listen {
            address: config.bind,
            source,
        })?;
        let address = folder::address(&identity, config.hosts, local_addr.port())?;
        let chain = identity.chain().iter().map(|c| c.to_vec()).collect();
        let leaf = SigningKey::from_seed(identity.leaf_key().seed());
        let shared = Arc::new(Shared {
            tls: ServerTls::new(&identity)?,
            identity: server::Identity::new(chain, leaf)?.with_versions(versions),
            store,
            registry: Registry::default(),
            blocks: Blocks::default(),
            password: config.password,
            limits,
            queue_limits: queue::Limits {
                messages: limits.messages_per_queue,
                retention_seconds: config.timeouts.message.as_secs(),
            },
            timeouts: config.timeouts,
            counters: Counters::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(Arc::clone(&shared), listener, stopped));
        tracing::info!(queues = shared.store.queues(), "relay started");
        Ok(RunningRelay {
            shared,
            address,
            local_addr,
            stop,
            task: Some(task),
        })
    }
}

/// A relay that serves. Dropping it ends it at once, without saying goodbye to anybody.
#[derive(Debug)]
pub struct RunningRelay {
    shared: Arc<Shared>,
    address: ServerAddress,
    local_addr: SocketAddr,
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

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: counters.open.load(Ordering::Relaxed),
            queues: self.shared.store.queues(),
            message_bytes: self.shared.store.memory().used_bytes(),
            connections_total: load(&counters.accepted),
            connections_refused: load(&counters.refused),
            connections_shed: load(&counters.shed),
            blocks_received: load(&counters.blocks_received),
            blocks_sent: load(&counters.blocks_sent),
            messages_received: load(&counters.messages_received),
            messages_acknowledged: load(&counters.messages_acknowledged),
        }
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

/// Numbers about a running relay. None of them is about one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Open connections, those in their handshake included.
    pub connections: usize,
    /// Queues.
    pub queues: usize,
    /// Memory of waiting messages.
    pub message_bytes: usize,
    /// Connections taken since the start.
    pub connections_total: u64,
    /// Connections refused because there were too many.
    pub connections_refused: u64,
    /// Connections closed because they were slow, silent or stuck in their handshake.
    pub connections_shed: u64,
    /// Blocks from clients.
    pub blocks_received: u64,
    /// Blocks to clients.
    pub blocks_sent: u64,
    /// Messages that senders got OK for.
    pub messages_received: u64,
    /// Messages that recipients acknowledged.
    pub messages_acknowledged: u64,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) tls: ServerTls,
    pub(crate) identity: server::Identity,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) blocks: Blocks,
    pub(crate) password: Option<Password>,
    pub(crate) limits: Limits,
    pub(crate) queue_limits: queue::Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Counters,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    open: AtomicUsize,
    accepted: AtomicU64,
    refused: AtomicU64,
    shed: AtomicU64,
    blocks_received: AtomicU64,
    blocks_sent: AtomicU64,
    messages_received: AtomicU64,
    messages_acknowledged: AtomicU64,
}

impl Counters {
    pub(crate) fn block_received(&self) {
        self.blocks_received.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn block_sent(&self) {
        self.blocks_sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn carried_out(&self, command: &Command<'_>, answer: &Answer<Body>) {
        match (command, answer) {
            (_, Answer::Error(_)) => {}
            (Command::Send { .. }, _) => {
                self.messages_received.fetch_add(1, Ordering::Relaxed);
            }
            (Command::Ack(_), _) => {
                self.messages_acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
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

/// Connections in their handshake, oldest first.
///
/// When there are too many, the oldest is given up: whoever wants to keep honest clients out must
/// open connections faster than these take for their handshake, not just hold some open.
pub(crate) struct Handshakes {
    limit: usize,
    running: Mutex<BTreeMap<ConnectionId, AbortHandle>>,
}

impl Handshakes {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one by `spawn`; tells whether another was given up for it.
    fn begin(&self, id: ConnectionId, spawn: impl FnOnce() -> AbortHandle) -> bool {
        let mut running = self.running();
        let full = running.len() >= self.limit;
        if full && let Some((_, oldest)) = running.pop_first() {
            oldest.abort();
        }
        // Under the lock: it cannot be done before it is known.
        running.insert(id, spawn());
        full
    }

    /// Gives up all of them: they have nothing to lose.
    fn give_up(&self) {
        let running = core::mem::take(&mut *self.running());
        running
            .into_values()
            .for_each(|handshake| handshake.abort());
    }

    /// The handshake of `id` is over.
    pub(crate) fn done(&self, id: ConnectionId) {
        self.running().remove(&id);
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, RelayError> {
    let listen = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // After a crash the port is usable at once. (On Windows it means something else.)
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // "::" means IPv4 as well, whatever the system's default.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| RelayError::Listen { address, source })
}

/// The task of the relay: takes connections, sweeps, and ends everything.
async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<(), RelayError> {
    let mut connections = JoinSet::new();
    let handshakes = Arc::new(Handshakes::new(shared.limits.handshakes));
    let mut next = 0;
    let mut sweep = tokio::time::interval(shared.timeouts.sweep);
    let mut check = tokio::time::interval(STORE_CHECK);
    let mut sweeping: Option<JoinHandle<usize>> = None;
    sweep.reset();
    let result = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    next += 1;
                    take(&shared, &handshakes, &mut connections, ConnectionId(next), stream);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(ended) = connections.join_next() => count_end(&shared, &ended),
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
    drop(listener);
    handshakes.give_up();
    shared.registry.close_all();
    let drain = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(shared.timeouts.drain, drain).await;
    connections.shutdown().await;
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
fn start_sweep(shared: &Arc<Shared>, sweeping: &mut Option<JoinHandle<usize>>) {
    if sweeping.as_ref().is_none_or(JoinHandle::is_finished) {
        let shared = Arc::clone(shared);
        let sweep = move || shared.store.sweep(connection::now(), &shared.queue_limits);
        *sweeping = Some(tokio::task::spawn_blocking(sweep));
    }
}

fn take(
    shared: &Arc<Shared>,
    handshakes: &Arc<Handshakes>,
    connections: &mut JoinSet<Ended>,
    id: ConnectionId,
    stream: TcpStream,
) {
    let counters = &shared.counters;
    if connections.len() >= shared.limits.connections {
        counters.refused.fetch_add(1, Ordering::Relaxed);
        return; // Dropping the stream closes it.
    }
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 8);
    // Without it, the idle timeout still ends the connection.
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    counters.accepted.fetch_add(1, Ordering::Relaxed);
    counters.open.fetch_add(1, Ordering::Relaxed);
    let serve = {
        let (shared, handshakes) = (Arc::clone(shared), Arc::clone(handshakes));
        async move { connection::serve(shared, id, stream, &handshakes).await }
    };
    if handshakes.begin(id, || connections.spawn(serve)) {
        tracing::debug!("too many handshakes: gave up the oldest");
    }
}

fn count_end(shared: &Shared, ended: &Result<Ended, tokio::task::JoinError>) {
    let counters = &shared.counters;
    counters.open.fetch_sub(1, Ordering::Relaxed);
    match ended {
        Ok(Ended::Peer | Ended::Block | Ended::Shutdown | Ended::Relay) => {}
        Ok(Ended::Handshake | Ended::SlowReader | Ended::Idle) => {
            counters.shed.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) if error.is_panic() => tracing::error!("the task of a connection broke"),
        Err(_) => {
            counters.shed.fetch_add(1, Ordering::Relaxed); // An old handshake.
        }
    }
    tracing::debug!(?ended, "connection ended");
}

/// Whether the store has given up.
fn store_failed(store: &dyn Store) -> bool {
    let mut cx = core::task::Context::from_waker(core::task::Waker::noop());
    matches!(
        store.poll_durable(store.position(), &mut cx),
        core::task::Poll::Ready(Err(_))
    )
}
