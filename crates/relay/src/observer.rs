//! Tells clients the addresses that they are seen at, over QUIC at the relay's own port number: what parties behind NATs
//! need for direct paths between them (`docs/decisions/0018-direct-paths.md`).
//!
//! Nothing else can be done there: no stream, no datagram, no name of a queue. Whoever comes shows first that it is where it
//! says, and is heard from there alone; who does not is answered with no more than it sent, but for twenty bytes that say which
//! versions there are, and nothing is kept of it. No address is stored or logged.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use junto_tls::{ServerIdentity, observe};
use noq::crypto::rustls::QuicServerConfig;
use noq::{
    Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig,
    ValidationTokenConfig, VarInt,
};
use prometheus_client::metrics::gauge::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Rate;
use crate::metrics::Turned;
use crate::relay::{RelayError, Shared};
use crate::settings::Settings;
use crate::sources::{Act, Bucket, Held, Most, Share};

/// From the first packet that shows where it comes from to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A client that says nothing for so long is gone; ours say something every 8 s.
const IDLE: Duration = Duration::from_secs(60);
/// First packets that wait to be looked at: each takes some microseconds.
const WAITING_MAX: usize = 256;
/// First packets that are answered with a Retry: each takes a sealed token and a packet, whoever sent it.
const RETRIES: Rate = Rate {
    per_second: 5_000,
    burst: 5_000,
};
/// QUIC as RFC 9000 has it. Drafts are not offered: nobody needs them, and the list would be a longer answer.
const VERSIONS: [u32; 1] = [1];
/// How long those who are told of the end may take to hear it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Opens the port, and listens there.
pub(crate) fn open(at: SocketAddr, identity: &ServerIdentity) -> Result<Endpoint, RelayError> {
    let config = settings(identity)?;
    let listen = || {
        let runtime = Arc::new(TokioRuntime);
        let mut endpoint = EndpointConfig::default();
        endpoint.supported_versions(VERSIONS.to_vec());
        Endpoint::new(endpoint, Some(config), bind(at)?, runtime)
    };
    listen().map_err(|source| RelayError::Observe {
        address: at,
        source,
    })
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        // As the listener of TCP.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// What is shown and allowed, with the certificate of now.
pub(crate) fn settings(identity: &ServerIdentity) -> Result<ServerConfig, RelayError> {
    let tls = observe::server(identity)?;
    // It fails without the suite of the first packets alone.
    let tls = QuicServerConfig::try_from(tls)
        .map_err(|_| rustls::Error::General("no suite for QUIC".to_owned()))?;
    let mut transport = TransportConfig::default();
    transport
        .send_observed_address_reports(true)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .receive_window(VarInt::from_u32(0))
        .send_window(0)
        .crypto_buffer_size(16 * 1024)
        // Nothing large is sent, so nobody needs to know how large it might be.
        .mtu_discovery_config(None)
        .max_idle_timeout(IDLE.try_into().ok());
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport))
        // Else whoever has a connection has a large packet sent to any address for each small one that it sends in its name
        // (`noq-proto` 1.4 does not ask whether that address is the client's before it answers a challenge from there).
        .migration(false)
        .validation_token_config(tokens)
        .max_incoming(WAITING_MAX)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(1024 * 1024);
    Ok(config)
}

/// Serves until told to stop.
pub(crate) async fn serve(
    endpoint: Endpoint,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut clients = JoinSet::new();
    let (mut rate, mut retries) = (Bucket::full(), Bucket::full());
    loop {
        let incoming = tokio::select! {
            Some(incoming) = endpoint.accept() => incoming,
            // Also if nobody can ask any more.
            _ = stop.changed() => break,
            else => break,
        };
        while clients.try_join_next().is_some() {}
        if !incoming.remote_address_validated() {
            // Keeps nothing.
            match retries.take(RETRIES, Instant::now()) {
                Ok(()) => drop(incoming.retry()),
                Err(_) => incoming.ignore(),
            }
            continue;
        }
        let settings = shared.settings.get();
        let from = incoming.remote_address().ip();
        match admit(&shared, &settings, clients.len(), from, &mut rate) {
            Ok(seat) => {
                clients.spawn(tell(incoming, Arc::clone(&shared), seat));
            }
            Err(why) => {
                shared.metrics.observer_turned_away(why);
                incoming.refuse();
            }
        }
    }
    endpoint.close(VarInt::from_u32(0), b"");
    let _ = timeout(LAST_WORDS, endpoint.wait_idle()).await;
}

/// Whether a client at `address`, which is forgotten here, may be told its address.
fn admit(
    shared: &Shared,
    settings: &Settings,
    open: usize,
    address: IpAddr,
    all: &mut Bucket,
) -> Result<Share, Turned> {
    let (observe, limits) = (&settings.observe, &settings.limits);
    if open >= observe.connections {
        return Err(Turned::Total);
    }
    let source = shared.sources.source(address, &settings.exempt_sources);
    let most = Most::of(observe.connections, observe.connections_per_source, 0);
    let seat = source.take(Held::Observed, most).ok_or(Turned::Source)?;
    let now = Instant::now();
    let rate = limits.handshakes_per_second_per_source;
    if !source.may(Act::Observe, rate, now) {
        return Err(Turned::Rate);
    }
    match all.take(limits.handshakes_per_second, now) {
        Ok(()) => Ok(seat),
        Err(_) => Err(Turned::Total),
    }
}

/// One of those who are told.
struct Counted(Gauge);

impl Counted {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// QUIC itself tells a client where it is, and again when that has changed.
async fn tell(incoming: Incoming, shared: Arc<Shared>, _seat: Share) {
    let Ok(connecting) = incoming.accept() else {
        return;
    };
    let Ok(Ok(connection)) = timeout(HANDSHAKE, connecting).await else {
        return;
    };
    shared.metrics.observed.inc();
    let _counted = Counted::begin(&shared.metrics.observers);
    connection.closed().await;
}
