//! Opening a connection to another relay: name, address, TCP or SOCKS, TLS, hello.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::net::ToSocketAddrs as _;
use std::sync::Arc;

use junto_crypto::pad;
use junto_smp::address::{Fingerprint, Host, ServerAddress};
use junto_smp::block::{Block, SessionId, new_block};
use junto_smp::client::{Client, Options};
use junto_smp::error::{BrokerFault, TransportFault};
use junto_smp::hello::{HelloFault, LeafKey, ServerHello};
use junto_smp::proxy::Introduction;
use junto_tls::{ClientTls, PeerKey, handshake};
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_socks::tcp::Socks5Stream;

use super::reach;
use super::settings::{Endpoint, ProxyConfig, SocksMode};
use crate::folder::generator;

/// Network addresses tried for one name.
const ADDRESSES_MAX: usize = 4;
/// A connection is tried so many times within the time for all of it, so that one dead address
/// does not use it up.
const ATTEMPTS: u32 = 3;
const ONION: &str = ".onion";

/// Who we are, and must not connect to.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) hosts: Vec<Host>,
    pub(crate) listening: SocketAddr,
}

/// Makes connections.
pub(super) struct Dialer {
    tls: ClientTls,
    own: Own,
    allow_private: bool,
    socks: Option<Endpoint>,
    socks_mode: SocksMode,
    connect: Duration,
    /// Names being resolved. A thread that does so cannot be stopped, so it keeps its permit to
    /// its end, whoever has given up meanwhile.
    resolving: Arc<Semaphore>,
}

/// An open connection to a destination.
pub(super) struct Opened<T> {
    pub(super) stream: TlsStream<TcpStream>,
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
            allow_private: config.allow_private,
            socks: config.socks.clone(),
            socks_mode: config.socks_mode,
            connect: config.timeouts.connect,
            resolving: Arc::new(Semaphore::new(config.limits.connecting)),
        }
    }

    /// Connects to `server` and says hello.
    pub(super) async fn open<T>(&self, server: &ServerAddress) -> Result<Opened<T>, BrokerFault> {
        if self.is_own(server) {
            return Err(BrokerFault::Host);
        }
        let open = async {
            let stream = self.reach(server).await?;
            self.greet(server, stream).await
        };
        timeout(self.connect, open)
            .await
            .unwrap_or(Err(BrokerFault::Timeout))
    }

    fn is_own(&self, server: &ServerAddress) -> bool {
        let named = server.port() == self.own.listening.port()
            && (server.hosts().iter()).any(|host| self.own.hosts.contains(host));
        server.fingerprint() == self.own.fingerprint || named
    }

    /// A TCP connection to the first host of `server` that can be reached: public names first,
    /// `.onion` names through SOCKS.
    async fn reach(&self, server: &ServerAddress) -> Result<TcpStream, BrokerFault> {
        let port = server.port();
        let mut fault = BrokerFault::Host;
        let (onion, public): (Vec<_>, Vec<_>) =
            (server.hosts().iter()).partition(|host| is_onion(host));
        for host in public {
            let reached = match &self.socks {
                Some(socks) if self.socks_mode == SocksMode::Always => {
                    self.through_socks(socks, host, port).await
                }
                Some(_) | None => self.directly(host, port).await,
            };
            match reached {
                Ok(stream) => return Ok(stream),
                Err(reason) => fault = reason,
            }
        }
        for host in onion {
            if let Some(socks) = &self.socks {
                match self.through_socks(socks, host, port).await {
                    Ok(stream) => return Ok(stream),
                    Err(reason) => fault = reason,
                }
            }
        }
        Err(fault)
    }

    async fn directly(&self, host: &Host, port: u16) -> Result<TcpStream, BrokerFault> {
        let mut fault = BrokerFault::Host;
        for address in self.resolve(host, port).await? {
            if !self.may_dial(address) {
                continue;
            }
            fault = BrokerFault::Network;
            let dialled = timeout(self.connect / ATTEMPTS, TcpStream::connect(address)).await;
            if let Ok(Ok(stream)) = dialled {
                return Ok(stream);
            }
        }
        Err(fault)
    }

    /// Whether we connect to `address`: what is checked here is what is dialled.
    fn may_dial(&self, address: SocketAddr) -> bool {
        address != self.own.listening && (self.allow_private || reach::is_public(address.ip()))
    }

    async fn resolve(&self, host: &Host, port: u16) -> Result<Vec<SocketAddr>, BrokerFault> {
        if let Ok(address) = host.for_resolver().parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let permit = Arc::clone(&self.resolving)
            .try_acquire_owned()
            .map_err(|_| BrokerFault::Network)?;
        let name = host.for_resolver().to_owned();
        let resolve = move || {
            let found = (name.as_str(), port).to_socket_addrs();
            drop(permit);
            found.map(|found| found.take(ADDRESSES_MAX).collect())
        };
        match tokio::task::spawn_blocking(resolve).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => Err(BrokerFault::Network),
        }
    }

    /// Through the SOCKS server, which resolves the name.
    async fn through_socks(
        &self,
        socks: &Endpoint,
        host: &Host,
        port: u16,
    ) -> Result<TcpStream, BrokerFault> {
        let name = host.for_resolver();
        let allowed = match name.parse::<IpAddr>() {
            Ok(address) => self.may_dial(SocketAddr::new(address, port)),
            Err(_) => self.allow_private || !reach::looks_local(name),
        };
        if !allowed {
            return Err(BrokerFault::Host);
        }
        let dial = async {
            let stream = TcpStream::connect((socks.host.for_resolver(), socks.port))
                .await
                .ok()?;
            let connected = Socks5Stream::connect_with_socket(stream, (name, port)).await;
            connected.ok().map(Socks5Stream::into_inner)
        };
        dial.await.ok_or(BrokerFault::Network)
    }

    async fn greet<T>(
        &self,
        server: &ServerAddress,
        stream: TcpStream,
    ) -> Result<Opened<T>, BrokerFault> {
        let network = |_: std::io::Error| BrokerFault::Network;
        stream.set_nodelay(true).map_err(network)?;
        let identity = server.fingerprint();
        let pin = junto_tls::Fingerprint::from_bytes(identity.0);
        let connected = handshake::connect(&self.tls, pin, stream)
            .await
            .map_err(|_| BrokerFault::Network)?;
        let leaf = match connected.chain.leaf_key() {
            PeerKey::Ed25519(key) => LeafKey::Ed25519(*key),
            PeerKey::Ed448(key) => LeafKey::Ed448(Box::new(*key)),
        };
        let mut stream = connected.stream;
        let (mut block, mut answer) = (new_block(), new_block());
        stream.read_exact(&mut *block).await.map_err(network)?;
        let mut rng = generator().map_err(|_| BrokerFault::Network)?;
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
            client,
            introduction,
            rng,
            block,
        })
    }
}

fn is_onion(host: &Host) -> bool {
    let name = host.as_str().to_ascii_lowercase();
    name.strip_suffix('.').unwrap_or(&name).ends_with(ONION)
}

fn hello(fault: HelloFault) -> BrokerFault {
    BrokerFault::Transport(match fault {
        HelloFault::Version => TransportFault::Version,
        HelloFault::Session => TransportFault::Session,
        HelloFault::Syntax
        | HelloFault::Identity
        | HelloFault::Signature
        | HelloFault::Service
        | HelloFault::NoService(_) => TransportFault::Handshake,
    })
}
