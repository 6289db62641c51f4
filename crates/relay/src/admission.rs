//! Who gets in: the listener, the limits on connections and handshakes, and the end of each connection.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use junto_smp::queue::ConnectionId;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::connection::{self, Ended, Handshaking};
use crate::metrics::Turned;
use crate::relay::{RelayError, Shared};
use crate::settings::Settings;
use crate::sources::{Act, Bucket, Held, Most, Share};

/// Connections that the system may hold until we take them.
const BACKLOG: i32 = 1_024;
/// Pause after the system refused a connection, for lack of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for the rate of handshakes before settings are looked at again.
const PACE_CHECK: Duration = Duration::from_millis(500);
/// A peer that vanished without goodbye is noticed after about this time, doubled.
const KEEPALIVE: Duration = Duration::from_secs(120);
/// The door of a relay.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    listener: TcpListener,
    handshakes: Arc<Handshakes>,
    /// Of all handshakes.
    rate: Bucket,
    /// The next connection is paid for.
    paid: bool,
    last: ConnectionId,
}

impl Admission {
    pub(crate) fn new(shared: Arc<Shared>, listener: TcpListener) -> Self {
        Self {
            shared,
            listener,
            handshakes: Arc::default(),
            rate: Bucket::full(),
            paid: false,
            last: ConnectionId(0),
        }
    }

    /// The next connection, not before the rate of all handshakes allows one. Safe to give up and
    /// begin again: what was paid for stays paid until a connection comes.
    pub(crate) async fn accept(&mut self) -> (TcpStream, IpAddr) {
        loop {
            while !self.paid {
                let rate = self.shared.settings.get().limits.handshakes_per_second;
                match self.rate.take(rate, Instant::now()) {
                    Ok(()) => self.paid = true,
                    // Settings may change meanwhile.
                    Err(wait) => tokio::time::sleep(wait.min(PACE_CHECK)).await,
                }
            }
            match self.listener.accept().await {
                Ok((stream, address)) => return (stream, address.ip()),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Begins to serve a connection, unless it is one too many.
    pub(crate) fn take(
        &mut self,
        connections: &mut JoinSet<Ended>,
        (stream, address): (TcpStream, IpAddr),
    ) {
        let shared = &self.shared;
        let settings = shared.settings.get();
        // Dropping the stream closes it. Whoever is turned away costs the others none of their rate.
        let seat = match admit(shared, &settings, connections.len(), address) {
            Ok(seat) => seat,
            Err(why) => return shared.metrics.turned_away(why),
        };
        self.paid = false;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 8);
        // Without it, the idle timeout still ends the connection.
        let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        shared.metrics.accepted.inc();
        shared.metrics.open.inc();
        self.last.0 += 1;
        let id = self.last;
        let serve = {
            let (shared, handshakes) = (Arc::clone(shared), Arc::clone(&self.handshakes));
            let handshaking = Handshaking::begin(&shared);
            async move { connection::serve(shared, id, stream, seat, handshaking, &handshakes).await }
        };
        let limit = settings.limits.handshakes;
        if self
            .handshakes
            .begin(limit, id, || connections.spawn(serve))
        {
            tracing::debug!("too many handshakes: gave up the oldest");
        }
    }

    /// Closes the door, also for those who stand in it.
    pub(crate) fn close(self) {
        self.handshakes.give_up();
    }
}

/// Whether a connection from `address` may be taken. The address is forgotten here.
fn admit(
    shared: &Shared,
    settings: &Settings,
    open: usize,
    address: IpAddr,
) -> Result<Share, Turned> {
    let limits = &settings.limits;
    if open >= limits.connections {
        return Err(Turned::Total);
    }
    let source = shared.sources.source(address, &settings.exempt_sources);
    let most = Most {
        each: limits.connections_per_source,
        crowd: usize::MAX,
        own: 0,
    };
    let seat = source.take(Held::Connection, most).ok_or(Turned::Source)?;
    let rate = limits.handshakes_per_second_per_source;
    match source.may(Act::Handshake, rate, Instant::now()) {
        true => Ok(seat),
        false => Err(Turned::Rate),
    }
}

/// Counts how a connection ended.
pub(crate) fn count_end(shared: &Shared, ended: &Result<Ended, JoinError>) {
    let metrics = &shared.metrics;
    metrics.open.dec();
    match ended {
        Ok(ended) => metrics.ended(*ended),
        Err(error) if error.is_panic() => tracing::error!("the task of a connection broke"),
        Err(_) => metrics.ended(Ended::Handshake), // An old one.
    }
    tracing::debug!(?ended, "connection ended");
}

/// Connections in their handshake, oldest first.
///
/// When there are too many, the oldest is given up: whoever wants to keep honest clients out must
/// open connections faster than these take for their handshake, not just hold some open.
#[derive(Default)]
pub(crate) struct Handshakes {
    running: Mutex<BTreeMap<ConnectionId, AbortHandle>>,
}

impl Handshakes {
    fn running(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one by `spawn`; tells whether another was given up because there are `limit`.
    fn begin(&self, limit: usize, id: ConnectionId, spawn: impl FnOnce() -> AbortHandle) -> bool {
        let mut running = self.running();
        let full = running.len() >= limit;
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

/// Listens on `address`.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, RelayError> {
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

/// Where it listens, which matters if any port was asked for.
pub(crate) fn address_of(
    listener: &TcpListener,
    asked: SocketAddr,
) -> Result<SocketAddr, RelayError> {
    listener.local_addr().map_err(|source| RelayError::Listen {
        address: asked,
        source,
    })
}
