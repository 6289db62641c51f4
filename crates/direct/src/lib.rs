//! Direct paths between the parties of a session: QUIC with nobody in between.
//!
//! A UDP port for each run. Both ends know each other before the first packet: keys, addresses and a secret word come
//! by the session. Whoever does not say the word, in the first message of the handshake, is turned away before this end has
//! shown anything of itself; whoever has not the key of a party, within the handshake. No address is told to anybody
//! outside the session; relays that see this machine anyway, and that the caller names, are asked which address they see.

mod admission;
mod line;
mod observe;
mod place;
mod tls;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use junto_session::{
    PartyIndex,
    adapters::tcp::{Contact, Line, Ways},
};
use noq::{
    Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig,
};
use rand_core::Rng;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

pub use observe::Observer;
use observe::Whereabouts;
use place::{Budget, PORTS_MAX, may_be_dialled};
use tls::{Key, Own};

/// A path over which nothing comes for so long is gone: the queues take over.
const IDLE: Duration = Duration::from_secs(6);
/// So often something goes over it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Bytes on their way on one path: so few that a receiver can hold full packets of them whichever get lost (`noq` ends a
/// connection with more than 1,024 gaps).
const WINDOW: u32 = 1024 * 1024;
/// A call to where nobody answers is over after so long: its first packet goes out four times until then, after 0, 1, 3 and
/// 7 s. A NAT that keeps for 30 s what a packet has opened is open for the other end's calls from one of ours to the next.
const CALL: Duration = Duration::from_secs(10);
/// How long the last packets may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Paths that others have made and nobody has taken.
const READY_MAX: usize = 16;

/// Which addresses of this machine others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of its interfaces, without loopback.
    Network,
    /// Loopback alone: for parties on one machine, and tests.
    Loopback,
}

/// One party's end of its direct paths in one run.
pub struct Direct {
    shared: Arc<Shared>,
    ready: tokio::sync::Mutex<mpsc::Receiver<(PartyIndex, Line)>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    /// One for each kind of address that this machine has.
    endpoints: Vec<Endpoint>,
    own: Own,
    me: PartyIndex,
    reach: Reach,
    whereabouts: Mutex<Whereabouts>,
    /// Others are to be told where we are.
    news: Notify,
    transport: Arc<TransportConfig>,
    /// The same for calls, which may take longer than an answer to come.
    calling: Arc<TransportConfig>,
    book: Mutex<Book>,
    /// Held while it is told who is heard, so that what is older does not come last.
    listening: Mutex<()>,
    /// Counts what parties have told.
    told: watch::Sender<u64>,
    /// Counts how often the machine's addresses have changed.
    moves: watch::Sender<u64>,
}

/// Who may come.
#[derive(Default)]
struct Book {
    /// What each party has to say. No two have the same.
    words: BTreeMap<PartyIndex, Zeroizing<[u8; 32]>>,
    known: BTreeMap<PartyIndex, Contact>,
    dials: BTreeMap<PartyIndex, Budget>,
}

impl Direct {
    /// Opens a port for party `me`.
    ///
    /// # Errors
    /// If there is none, or the system does not tell its addresses.
    pub async fn open(me: PartyIndex, reach: Reach) -> io::Result<Self> {
        Self::open_seen(me, reach, Vec::new()).await
    }

    /// As [`Direct::open`]; others are also told at which address the first of `relays` that answers sees this port.
    ///
    /// # Errors
    /// As [`Direct::open`], not if relays do not answer.
    pub async fn open_seen(
        me: PartyIndex,
        reach: Reach,
        relays: Vec<Observer>,
    ) -> io::Result<Self> {
        let endpoints = bind(reach)?;
        let bound = bound(&endpoints)?;
        let shared = Arc::new(Shared {
            endpoints,
            own: Own::generate()?,
            me,
            reach,
            whereabouts: Mutex::new(Whereabouts::new(place::own(&bound, reach)?)),
            news: Notify::new(),
            transport: Arc::new(transport(IDLE)),
            calling: Arc::new(transport(CALL)),
            book: Mutex::default(),
            listening: Mutex::default(),
            told: watch::Sender::new(0),
            moves: watch::Sender::new(0),
        });
        shared.listen()?;
        let (sender, ready) = mpsc::channel(READY_MAX);
        let door = |endpoint: &Endpoint| {
            let door = admission::admit(shared.clone(), endpoint.clone(), sender.clone());
            tokio::spawn(door)
        };
        let mut tasks: Vec<_> = shared.endpoints.iter().map(door).collect();
        let weak = Arc::downgrade(&shared);
        tasks.push(tokio::spawn(observe::look(weak.clone())));
        if !relays.is_empty() {
            let ask = |endpoint| observe::ask(weak.clone(), endpoint, relays.clone());
            let numbers = 0..shared.endpoints.len();
            tasks.extend(numbers.map(|number| tokio::spawn(ask(number))));
        }
        Ok(Self {
            shared,
            ready: tokio::sync::Mutex::new(ready),
            tasks,
        })
    }

    /// Ends all paths. Returns soon, whatever the other ends do.
    pub async fn close(&self) {
        for endpoint in &self.shared.endpoints {
            endpoint.close(VarInt::from_u32(0), b"");
        }
        let idle = self.shared.endpoints.iter().map(Endpoint::wait_idle);
        let _ = timeout(LAST_WORDS, futures::future::join_all(idle)).await;
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for endpoint in &self.shared.endpoints {
            endpoint.close(VarInt::from_u32(0), b"");
        }
    }
}

impl Ways for Direct {
    fn contact(&self, party: PartyIndex) -> io::Result<Contact> {
        let shared = &self.shared;
        let word = {
            let mut book = shared.book();
            let word = book.words.entry(party);
            **word.or_insert_with(|| Zeroizing::new(random()))
        };
        shared.listen()?;
        Ok(Contact {
            key: *shared.own.key(),
            word,
            places: shared.whereabouts().places(),
        })
    }

    fn know(&self, party: PartyIndex, contact: Contact) {
        let known = self.shared.book().known.insert(party, contact.clone());
        // Calls under way look at it, if there is anything new.
        if known.is_none_or(|known| known != contact) {
            self.shared.told.send_modify(|count| *count += 1);
        }
    }

    fn call(&self, party: PartyIndex) -> BoxFuture<'_, io::Result<Line>> {
        line::call(&self.shared, party).boxed()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        self.shared.news.notified().boxed()
    }

    fn accept(&self) -> BoxFuture<'_, (PartyIndex, Line)> {
        async {
            match self.ready.lock().await.recv().await {
                Some(ready) => ready,
                None => core::future::pending().await,
            }
        }
        .boxed()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whereabouts(&self) -> MutexGuard<'_, Whereabouts> {
        self.whereabouts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn bound(&self) -> io::Result<Vec<SocketAddr>> {
        bound(&self.endpoints)
    }

    /// Hears those who have been told a word.
    fn listen(self: &Arc<Self>) -> io::Result<()> {
        let listening = self.listening.lock();
        let _listening = listening.unwrap_or_else(PoisonError::into_inner);
        let mut words: Vec<_> = self
            .book()
            .words
            .values()
            .map(|word| word.to_vec())
            .collect();
        // With none at all, everybody would be heard.
        words.push(random().to_vec());
        let shared = Arc::downgrade(self);
        let admits = move |key: &Key| shared.upgrade().is_some_and(|shared| shared.knows(key));
        let config = self.own.hears(words, Arc::new(admits))?;
        let config = QuicServerConfig::try_from(config).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(config));
        // Who moves calls anew. Else a party has a large packet sent to anybody for each small one in its name.
        config
            .transport_config(self.transport.clone())
            .migration(false);
        for endpoint in &self.endpoints {
            endpoint.set_server_config(Some(config.clone()));
        }
        Ok(())
    }

    fn knows(&self, key: &Key) -> bool {
        self.book()
            .known
            .values()
            .any(|contact| contact.key == *key)
    }

    /// How a party has said that it is reached.
    fn contact(&self, party: PartyIndex) -> io::Result<Contact> {
        let known = self.book().known.get(&party).cloned();
        known.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether a place of a party is to be dialled in a call that has dialled these.
    fn may_dial(&self, party: PartyIndex, place: SocketAddr, dialled: &[SocketAddr]) -> bool {
        let ports = dialled.iter().filter(|other| other.ip() == place.ip());
        let further = !dialled.contains(&place) && ports.count() < PORTS_MAX;
        if !further || !may_be_dialled(place, self.reach) {
            return false;
        }
        let now = Instant::now();
        let mut book = self.book();
        let budget = book.dials.entry(party);
        budget.or_insert_with(|| Budget::new(now)).take(now)
    }

    /// Who says that word, with that key.
    fn caller(&self, word: &[u8], key: &Key) -> Option<PartyIndex> {
        let book = self.book();
        // Whoever gets here knows a word, so comparing tells nobody anything.
        let mut words = book.words.iter();
        let (party, _) = words.find(|(_, own)| own.as_slice() == word)?;
        let contact = book.known.get(party)?;
        (contact.key == *key).then_some(*party)
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand_core::UnwrapErr(getrandom::SysRng).fill_bytes(&mut bytes);
    bytes
}

fn bind(reach: Reach) -> io::Result<Vec<Endpoint>> {
    let open = |place: SocketAddr| {
        let socket = UdpSocket::bind(place)?;
        let runtime = Arc::new(TokioRuntime);
        let mut config = EndpointConfig::default();
        // As RFC 9000 has it; the drafts would only make the answer to a wrong version longer.
        config.supported_versions(vec![1]);
        Endpoint::new(config, None, socket, runtime)
    };
    if reach == Reach::Loopback {
        return Ok(vec![open((Ipv4Addr::LOCALHOST, 0).into())?]);
    }
    let first = open((Ipv4Addr::UNSPECIFIED, 0).into())?;
    // A machine may have no IPv6.
    let second = open((Ipv6Addr::UNSPECIFIED, 0).into());
    Ok([Some(first), second.ok()].into_iter().flatten().collect())
}

fn bound(endpoints: &[Endpoint]) -> io::Result<Vec<SocketAddr>> {
    endpoints.iter().map(Endpoint::local_addr).collect()
}

fn transport(idle: Duration) -> TransportConfig {
    let window = VarInt::from_u32(WINDOW);
    let mut config = TransportConfig::default();
    config
        // One stream carries all.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(u64::from(WINDOW))
        // The lower one of both ends holds between them.
        .max_idle_timeout(idle.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE));
    config
}
