//! Where this end is: the addresses of the machine, which may move, and those at which others see it, which only others
//! can tell. A relay that sees this machine anyway is asked, from the port that parties are to reach.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::StreamExt;
use junto_tls::{Fingerprint, observe};
use noq::{ClientConfig, Connection, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use tokio::{
    net::lookup_host,
    sync::watch,
    time::{Instant, interval, sleep, timeout},
};

use super::{
    Shared,
    line::NOBODY,
    place::{self, may_be_dialled},
};

/// How long a relay may take to answer. Nothing else waits for it.
const CALL: Duration = Duration::from_secs(10);
/// As often something is said to it, so that NATs in between keep what they have for this port.
const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// A relay that is silent for so long is gone, or hears us no more since a NAT in between has changed its mind: it hears
/// nobody from elsewhere than where the handshake came from.
const IDLE: Duration = Duration::from_secs(20);
/// Before another attempt: at first, and at most. One that lasted for the latter begins anew.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// The addresses of the machine are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A relay that is asked for the address at which it sees us. It learns that somebody there wants direct paths now, so it
/// should be one that sees the address anyway. It is asked by the kind of address that its name gives first, which is what
/// TCP tries first: it is not to learn of another one.
#[derive(Clone, Debug)]
pub struct Observer {
    /// Names or addresses, the first that is there is taken.
    pub hosts: Vec<String>,
    /// Its port.
    pub port: u16,
    /// The hash of its identity certificate: no other is believed.
    pub fingerprint: [u8; 32],
}

/// Where this end is, as far as is known.
pub(crate) struct Whereabouts {
    /// Of the machine's interfaces.
    own: Vec<SocketAddr>,
    /// As a relay sees each endpoint.
    seen: BTreeMap<usize, SocketAddr>,
}

impl Whereabouts {
    pub(crate) fn new(own: Vec<SocketAddr>) -> Self {
        Self {
            own,
            seen: BTreeMap::new(),
        }
    }

    /// What others are told: at most [`PLACES_MAX`](junto_session::adapters::tcp::PLACES_MAX).
    pub(crate) fn places(&self) -> Vec<SocketAddr> {
        // First what is most likely to be reached: others do not dial all that they are told.
        let seen = self.seen.values();
        let mut places: Vec<_> = seen
            .filter(|place| !self.own.contains(place))
            .copied()
            .collect();
        places.extend(&self.own);
        places
    }

    fn change(&mut self, change: impl FnOnce(&mut Self)) -> bool {
        let before = self.places();
        change(self);
        before != self.places()
    }
}

/// Looks at the machine's addresses, as long as there is somebody to tell.
pub(crate) async fn look(shared: Weak<Shared>) {
    let mut every = interval(LOOK_EVERY);
    loop {
        every.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let own = shared
            .bound()
            .and_then(|bound| place::own(&bound, shared.reach));
        match own {
            Ok(own) => {
                if !shared.moved(|whereabouts| whereabouts.own = own) {
                    continue;
                }
                tracing::debug!("addresses of this machine have changed");
                shared.moves.send_modify(|count| *count += 1);
                // What is under way and hears nothing any more finds out sooner.
                for endpoint in &shared.endpoints {
                    endpoint.handle_network_change(None);
                }
            }
            Err(error) => tracing::debug!(%error, "addresses of this machine are not known"),
        }
    }
}

/// Has one of the relays tell how it sees the endpoint of that number, and again when that changes.
pub(crate) async fn ask(shared: Weak<Shared>, endpoint: usize, relays: Vec<Observer>) {
    let Some(mut moves) = shared.upgrade().map(|shared| shared.moves.subscribe()) else {
        return;
    };
    let mut pause = Duration::ZERO;
    loop {
        let began = Instant::now();
        let has_moved = moves.has_changed().unwrap_or(false);
        moves.mark_unchanged();
        let mut is_told = false;
        for relay in &relays {
            match call(&shared, endpoint, relay).await {
                Ok(connection) => {
                    is_told |= follow(&shared, endpoint, connection, &mut moves).await
                }
                Err(error) => tracing::debug!(%error, "a relay does not tell our address"),
            }
            if shared.strong_count() == 0 {
                return;
            }
            if moves.has_changed().unwrap_or(false) {
                break;
            }
        }
        if has_moved && !is_told {
            // Others do not go on calling where we were, which may be somebody else's by now.
            if let Some(shared) = shared.upgrade() {
                shared.moved(|whereabouts| {
                    whereabouts.seen.remove(&endpoint);
                });
            }
        }
        let (first, most) = PAUSE;
        pause = match began.elapsed() < most {
            true => (pause * 2).clamp(first, most),
            false => first,
        };
        // Whoever moves asks again, by the same port.
        let _ = timeout(pause, changed(&mut moves)).await;
    }
}

async fn call(shared: &Weak<Shared>, number: usize, relay: &Observer) -> io::Result<Connection> {
    let (endpoint, reach) = {
        let shared = shared.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        (shared.endpoints[number].clone(), shared.reach)
    };
    let config = config(relay)?;
    let local = endpoint.local_addr()?;
    for host in &relay.hosts {
        let found = timeout(CALL, lookup_host((host.as_str(), relay.port))).await;
        let Ok(Ok(mut found)) = found else {
            continue;
        };
        let Some(place) = found
            .next()
            .filter(|place| place.is_ipv4() == local.is_ipv4())
        else {
            continue;
        };
        if place.ip().is_loopback() && reach != super::Reach::Loopback {
            continue;
        }
        let calling = endpoint.connect_with(config.clone(), place, NOBODY);
        let calling = calling.map_err(io::Error::other)?;
        if let Ok(Ok(connection)) = timeout(CALL, calling).await {
            return Ok(connection);
        }
    }
    Err(io::ErrorKind::HostUnreachable.into())
}

fn config(relay: &Observer) -> io::Result<ClientConfig> {
    let pin = Fingerprint::from_bytes(relay.fingerprint);
    let tls = observe::client(pin).map_err(io::Error::other)?;
    let tls = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut transport = TransportConfig::default();
    transport
        .receive_observed_address_reports(true)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .max_idle_timeout(IDLE.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE));
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Takes what the relay says until it is gone, or we have moved; whether it has said anything of use. What it said last stays:
/// whoever was told of it may still come.
async fn follow(
    shared: &Weak<Shared>,
    endpoint: usize,
    connection: Connection,
    moves: &mut watch::Receiver<u64>,
) -> bool {
    let mut seen = connection.observed_external_addr();
    let mut is_told = false;
    let silent = sleep(CALL);
    tokio::pin!(silent);
    loop {
        let place = tokio::select! {
            Some(place) = seen.next() => place,
            _ = connection.closed() => return is_told,
            // Another one may say more.
            () = &mut silent, if !is_told => break,
            () = changed(moves) => break,
        };
        let Some(shared) = shared.upgrade() else {
            break;
        };
        // A relay that listens at both kinds of addresses sees the one in the form of the other.
        let place = SocketAddr::new(place.ip().to_canonical(), place.port());
        let kind = shared.endpoints[endpoint].local_addr();
        let is_ours = kind.is_ok_and(|local| local.is_ipv4() == place.is_ipv4());
        // It may say anything. Others are told nothing that they would not dial.
        if is_ours && may_be_dialled(place, shared.reach) {
            is_told = true;
            shared.moved(|whereabouts| {
                whereabouts.seen.insert(endpoint, place);
            });
        }
    }
    connection.close(VarInt::from_u32(0), b"");
    is_told
}

/// Waits until the machine's addresses have changed, and leaves that to be seen.
async fn changed(moves: &mut watch::Receiver<u64>) {
    match moves.changed().await {
        Ok(()) => moves.mark_changed(),
        // Whoever looked is gone.
        Err(_) => core::future::pending().await,
    }
}

impl Shared {
    /// Something is known of where we are; others are told if it is new.
    fn moved(&self, change: impl FnOnce(&mut Whereabouts)) -> bool {
        let moved = self.whereabouts().change(change);
        if moved {
            self.news.notify_one();
        }
        moved
    }
}
