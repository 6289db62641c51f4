//! Opening a connection to another relay: name, address, TCP or SOCKS, TLS, hello.

use core::any::Any;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io::{self, ErrorKind};
use std::net::ToSocketAddrs as _;
use std::sync::Arc;

use junto_crypto::pad;
use junto_smp::address::{Fingerprint, Host};
use junto_smp::block::{Block, SessionId, new_block};
use junto_smp::client::{Client, Options};
use junto_smp::error::{BrokerFault, TransportFault};
use junto_smp::hello::{HelloFault, LeafKey, ServerHello};
use junto_smp::proxy::Introduction;
use junto_tls::{ClientTls, PeerKey, handshake};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::client::TlsStream;
use tokio_socks::tcp::Socks5Stream;

use super::place::{Door, Place};
use super::reach::Reach;
use super::settings::{Endpoint, ProxyConfig, SocksMode};
use crate::folder::generator;

/// Network addresses tried for one name.
const ADDRESSES_MAX: usize = 4;
/// A connection is tried so many times within the time for all of it, so that one dead address
/// does not use it up.
const ATTEMPTS: u32 = 3;

/// Who we are, and must not connect to.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) hosts: Vec<Host>,
    pub(crate) listening: SocketAddr,
}

/// What turns names into addresses.
type Resolver = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Makes connections.
pub(super) struct Dialer {
    tls: ClientTls,
    own: Own,
    socks: Option<Endpoint>,
    socks_mode: SocksMode,
    connect: Duration,
    resolver: Arc<Resolver>,
}

/// What stands for an attempt to connect as long as anything of it goes on. A thread that resolves a
/// name cannot be stopped, so it keeps this to its end, whoever has given up meanwhile.
pub(super) type Hold = Arc<dyn Any + Send + Sync>;

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    /// Trouble of ours, which says nothing about the destination.
    Here(BrokerFault),
    /// Nothing can be connected to at the door, whoever is looked for behind it.
    Door(BrokerFault),
    /// Something is behind the door, but not the relay that was asked for, or it does not greet.
    Relay(BrokerFault),
}

impl Unreached {
    pub(super) fn fault(self) -> BrokerFault {
        match self {
            Self::Here(fault) | Self::Door(fault) | Self::Relay(fault) => fault,
        }
    }

    /// Of the attempt to connect to one address.
    fn dialling(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::TimedOut => Self::Door(BrokerFault::Network),
            // No file descriptor, port, memory, permission.
            _ => Self::Here(BrokerFault::Network),
        }
    }
}

/// An open connection to a destination.
pub(super) struct Opened<T> {
    pub(super) stream: TlsStream<TcpStream>,
    /// Where it leads, unless a SOCKS server has found that.
    pub(super) address: Option<IpAddr>,
    pub(super) client: Client<T>,
    pub(super) introduction: Introduction,
    pub(super) rng: ChaCha20Rng,
    /// Reused for what the destination sends.
    pub(super) block: Box<Block>,
}

impl Dialer {
    pub(super) fn new(config: &ProxyConfig, own: Own, tls: ClientTls) -> Self {
        Self {
            tls,
            own,
            socks: config.socks.clone(),
            socks_mode: config.socks_mode,
            connect: config.timeouts.connect,
            resolver: Arc::new(|name, port| {
                let found = (name, port).to_socket_addrs()?;
                Ok(found.take(ADDRESSES_MAX).collect())
            }),
        }
    }

    /// Whether `place` is ourselves.
    pub(super) fn is_own(&self, place: &Place) -> bool {
        let port = self.own.listening.port();
        let mut own = self.own.hosts.iter();
        place.identity == self.own.fingerprint
            || own.any(|host| Door::new(host, port).as_ref() == Some(&place.door))
    }

    /// Connects to `place` and says hello.
    pub(super) async fn open<T>(
        &self,
        place: &Place,
        reach: Arc<Reach>,
        hold: &Hold,
    ) -> Result<Opened<T>, Unreached> {
        let deadline = Instant::now() + self.connect;
        let door = &place.door;
        let dial = async {
            match &self.socks {
                Some(socks) if door.is_onion() || self.socks_mode == SocksMode::Always => {
                    let stream = self.through_socks(socks, door, &reach).await?;
                    Ok((stream, None))
                }
                None if door.is_onion() => Err(Unreached::Door(BrokerFault::Host)),
                Some(_) | None => {
                    let (stream, address) = self.directly(door, reach, hold).await?;
                    Ok((stream, Some(address)))
                }
            }
        };
        let (stream, address) = timeout_at(deadline, dial)
            .await
            .unwrap_or(Err(Unreached::Door(BrokerFault::Timeout)))?;
        timeout_at(deadline, self.greet(place.identity, stream, address))
            .await
            .unwrap_or(Err(Unreached::Relay(BrokerFault::Timeout)))
    }

    async fn directly(
        &self,
        door: &Door,
        reach: Arc<Reach>,
        hold: &Hold,
    ) -> Result<(TcpStream, IpAddr), Unreached> {
        let mut why = Unreached::Door(BrokerFault::Host);
        for address in self.addresses(door, reach, hold).await? {
            match timeout(self.connect / ATTEMPTS, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address.ip())),
                Ok(Err(error)) => why = Unreached::dialling(&error),
                Err(_) => why = Unreached::Door(BrokerFault::Network),
            }
        }
        Err(why)
    }

    /// Where to dial: names are resolved once, and what is found is checked and nothing else dialled.
    async fn addresses(
        &self,
        door: &Door,
        reach: Arc<Reach>,
        hold: &Hold,
    ) -> Result<Vec<SocketAddr>, Unreached> {
        let (resolver, hold) = (Arc::clone(&self.resolver), Arc::clone(hold));
        let (door, listening) = (door.clone(), self.own.listening);
        let find = move || {
            let own = reach.own().map_err(here)?;
            let mut found = match door.address() {
                Some(address) => vec![SocketAddr::new(address, door.port)],
                None => resolver(&door.host, door.port)
                    .map_err(|_| Unreached::Door(BrokerFault::Network))?,
            };
            found.retain(|address| *address != listening && reach.allows(address.ip(), &own));
            drop(hold);
            Ok(found)
        };
        let found = tokio::task::spawn_blocking(find).await;
        found.unwrap_or(Err(Unreached::Here(BrokerFault::Network)))
    }

    /// Through the SOCKS server, which resolves the name.
    async fn through_socks(
        &self,
        socks: &Endpoint,
        door: &Door,
        reach: &Reach,
    ) -> Result<TcpStream, Unreached> {
        let address = door.address();
        let own = match address {
            Some(_) => reach.own().map_err(here)?,
            None => Vec::new(),
        };
        let here_itself = |address| SocketAddr::new(address, door.port) == self.own.listening;
        if address.is_some_and(here_itself) || !reach.allows_at(door, None, Some(&own)) {
            return Err(Unreached::Door(BrokerFault::Host));
        }
        let server = (socks.host.for_resolver(), socks.port);
        let stream = TcpStream::connect(server).await.map_err(here)?;
        let connected = Socks5Stream::connect_with_socket(stream, (&*door.host, door.port)).await;
        connected
            .map(Socks5Stream::into_inner)
            .map_err(|_| Unreached::Door(BrokerFault::Network))
    }

    async fn greet<T>(
        &self,
        identity: Fingerprint,
        stream: TcpStream,
        address: Option<IpAddr>,
    ) -> Result<Opened<T>, Unreached> {
        let network = |_: io::Error| Unreached::Relay(BrokerFault::Network);
        stream.set_nodelay(true).map_err(network)?;
        let pin = junto_tls::Fingerprint::from_bytes(identity.0);
        let connected = handshake::connect(&self.tls, pin, stream)
            .await
            .map_err(|_| Unreached::Relay(BrokerFault::Network))?;
        let leaf = match connected.chain.leaf_key() {
            PeerKey::Ed25519(key) => LeafKey::Ed25519(*key),
            PeerKey::Ed448(key) => LeafKey::Ed448(Box::new(*key)),
        };
        let mut stream = connected.stream;
        let (mut block, mut answer) = (new_block(), new_block());
        stream.read_exact(&mut *block).await.map_err(network)?;
        let mut rng = generator().map_err(|_| Unreached::Here(BrokerFault::Network))?;
        let client = Client::open(
            &Options::proxy(identity),
            SessionId(*connected.session_id.as_bytes()),
            &leaf,
            &mut block,
            &mut answer,
            &mut rng,
        )
        .map_err(hello)?;
        let introduction = pad::unpad(&*block)
            .ok()
            .and_then(|text| ServerHello::decode(text).ok())
            .ok_or(HelloFault::Syntax)
            .and_then(|said| Introduction::new(&said))
            .map_err(hello)?;
        stream.write_all(&*answer).await.map_err(network)?;
        stream.flush().await.map_err(network)?;
        Ok(Opened {
            stream,
            address,
            client,
            introduction,
            rng,
            block,
        })
    }
}

fn here(_: io::Error) -> Unreached {
    Unreached::Here(BrokerFault::Network)
}

fn hello(fault: HelloFault) -> Unreached {
    Unreached::Relay(BrokerFault::Transport(match fault {
        HelloFault::Version => TransportFault::Version,
        HelloFault::Session => TransportFault::Session,
        HelloFault::Syntax
        | HelloFault::Identity
        | HelloFault::Signature
        | HelloFault::Service
        | HelloFault::NoService(_) => TransportFault::Handshake,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    use junto_smp::address::ServerAddress;
    use tokio::net::TcpListener;

    use super::super::place::places;

    /// A dialer whose names mean what `resolver` says, in turn.
    fn dialer(
        refuse: &str,
        resolver: impl Fn() -> Vec<SocketAddr> + Send + Sync + 'static,
    ) -> (Dialer, Arc<Reach>) {
        let config = ProxyConfig {
            allow_private: true,
            allow_own: true,
            refuse: vec![refuse.parse().unwrap()],
            ..ProxyConfig::default()
        };
        let own = Own {
            fingerprint: Fingerprint([9; 32]),
            hosts: Vec::new(),
            listening: "127.0.0.1:1".parse().unwrap(),
        };
        let mut dialer = Dialer::new(&config, own, ClientTls::new().unwrap());
        dialer.resolver = Arc::new(move |_, _| Ok(resolver()));
        (dialer, Arc::new(Reach::new(&config)))
    }

    fn door(port: u16) -> Door {
        let pin = Fingerprint([1; 32]);
        let server: ServerAddress = format!("smp://{pin}@relay.example:{port}").parse().unwrap();
        places(&server).remove(0).door
    }

    /// A name that means an allowed address when it is checked and a refused one when it is asked for
    /// again, or both at once.
    #[cfg(target_os = "linux")] // It has all of 127.0.0.0/8.
    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
        let allowed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = allowed.local_addr().unwrap();
        let bad = SocketAddr::from(([127, 0, 0, 2], good.port()));
        let refused = TcpListener::bind(bad).await.unwrap();
        let answers = Mutex::new(vec![vec![bad], vec![bad, good], vec![good]]);
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        let (dialer, reach) = dialer("127.0.0.2/32", move || {
            *count.lock().unwrap() += 1;
            answers.lock().unwrap().pop().unwrap()
        });
        let hold: Hold = Arc::new(());
        for round in 1..=2 {
            let reached = dialer
                .directly(&door(good.port()), Arc::clone(&reach), &hold)
                .await;
            let (stream, address) = reached.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good);
            assert_eq!(address, good.ip());
            assert_eq!(*asked.lock().unwrap(), round, "a name is resolved once");
            allowed.accept().await.unwrap();
        }
        let reached = dialer.directly(&door(good.port()), reach, &hold).await;
        assert_eq!(reached.unwrap_err(), Unreached::Door(BrokerFault::Host));
        let refused = refused.into_std().unwrap();
        let knocked = refused.accept();
        assert_eq!(knocked.unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    /// A thread that resolves a name goes on when its attempt was given up.
    #[tokio::test]
    async fn what_stands_for_an_attempt_is_held_until_its_thread_has_ended() {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let (dialer, reach) = dialer("192.0.2.0/24", move || {
            released.lock().unwrap().recv().unwrap();
            Vec::new()
        });
        let hold: Hold = Arc::new(());
        let door = door(1);
        {
            let attempt = dialer.directly(&door, reach, &hold);
            tokio::pin!(attempt);
            // Begun, and then given up.
            assert!(polled_once(attempt.as_mut()).await.is_none());
        }
        assert_eq!(Arc::strong_count(&hold), 2);
        release.send(()).unwrap();
        tokio::task::spawn_blocking(move || {
            let began = std::time::Instant::now();
            while Arc::strong_count(&hold) > 1 {
                assert!(began.elapsed() < Duration::from_secs(30), "still held");
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .await
        .unwrap();
    }

    /// Polls once.
    async fn polled_once<F: Future>(mut future: core::pin::Pin<&mut F>) -> Option<F::Output> {
        core::future::poll_fn(|cx| {
            core::task::Poll::Ready(match future.as_mut().poll(cx) {
                core::task::Poll::Ready(output) => Some(output),
                core::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[test]
    fn trouble_of_ours_is_not_the_destinations() {
        for kind in [
            ErrorKind::ConnectionRefused,
            ErrorKind::HostUnreachable,
            ErrorKind::TimedOut,
        ] {
            let theirs = Unreached::dialling(&kind.into());
            assert_eq!(theirs, Unreached::Door(BrokerFault::Network));
        }
        // Too many open files; no free port; not permitted.
        for code in [24, 99, 1] {
            let ours = Unreached::dialling(&io::Error::from_raw_os_error(code));
            assert_eq!(ours, Unreached::Here(BrokerFault::Network));
        }
    }
}
