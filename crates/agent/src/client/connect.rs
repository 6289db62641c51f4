//! Opening a connection: host names, TCP, TLS, hello.

use core::time::Duration;
use std::{io, net::SocketAddr};

use junto_smp::{
    address::{Host, ServerAddress},
    block::{Block, SessionId, new_block},
    client::{Client, Options},
    hello::LeafKey,
};
use junto_tls::{ClientTls, Fingerprint, PeerKey, handshake};
use rand_chacha::ChaCha20Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{ClientOptions, error::ClientError, operation::Ticket};
use crate::random::generator;

/// Network addresses tried for one host name: a resolver must not keep us busy.
const ADDRESSES_MAX: usize = 8;

/// An open connection and what its task needs.
pub(super) struct Opened {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) client: Client<Ticket>,
    pub(super) rng: ChaCha20Rng,
    /// Reused for what the relay sends.
    pub(super) block: Box<Block>,
}

/// Tries the hosts of `address` in order; through a SOCKS server first those that only Tor knows, else not
/// those.
pub(super) async fn open(
    tls: &ClientTls,
    address: &ServerAddress,
    options: &ClientOptions,
) -> Result<Opened, ClientError> {
    let (onion, mut hosts): (Vec<_>, Vec<_>) =
        (address.hosts().iter()).partition(|host| host.is_onion());
    if options.socks.is_some() {
        hosts.splice(..0, onion);
    }
    let mut error = ClientError::OnionOnly;
    for host in hosts {
        match open_host(tls, address, host, options).await {
            Ok(opened) => return Ok(opened),
            Err(fault) if !fault.is_temporary() => return Err(fault),
            Err(fault) => error = fault,
        }
    }
    Err(error)
}

async fn open_host(
    tls: &ClientTls,
    address: &ServerAddress,
    host: &Host,
    options: &ClientOptions,
) -> Result<Opened, ClientError> {
    let connect_timeout = options.connect_timeout;
    if let Some(socks) = &options.socks {
        let dialled = socks.connect(host, address.port(), connect_timeout).await;
        return greet(tls, address, dialled?).await;
    }
    let place = (host.for_resolver(), address.port());
    let found = timeout(connect_timeout, lookup_host(place))
        .await
        .map_err(|_| ClientError::Timeout)??;
    let mut error = ClientError::Network(io::ErrorKind::NotFound.into());
    for network_address in found.take(ADDRESSES_MAX) {
        match dial(network_address, connect_timeout).await {
            Ok(stream) => return greet(tls, address, stream).await,
            Err(fault) => error = fault,
        }
    }
    Err(error)
}

async fn dial(address: SocketAddr, connect_timeout: Duration) -> Result<TcpStream, ClientError> {
    let stream = timeout(connect_timeout, TcpStream::connect(address))
        .await
        .map_err(|_| ClientError::Timeout)??;
    Ok(stream)
}

async fn greet(
    tls: &ClientTls,
    address: &ServerAddress,
    stream: TcpStream,
) -> Result<Opened, ClientError> {
    // Blocks are sent whole; waiting for more to send would only cost time.
    stream.set_nodelay(true)?;
    let identity = address.fingerprint();
    let connected = handshake::connect(tls, Fingerprint::from_bytes(identity.0), stream).await?;
    let mut stream = connected.stream;
    let mut block = new_block();
    stream.read_exact(block.as_mut_slice()).await?;
    // A generator of its own, so that a command costs no system call.
    let mut rng = generator().map_err(|_| ClientError::Defect("no randomness"))?;
    let mut hello = new_block();
    let client = Client::open(
        &Options::new(identity),
        SessionId(*connected.session_id.as_bytes()),
        &leaf_key(connected.chain.leaf_key()),
        &mut block,
        &mut hello,
        &mut rng,
    )?;
    stream.write_all(hello.as_slice()).await?;
    stream.flush().await?;
    Ok(Opened {
        stream,
        client,
        rng,
        block,
    })
}

pub(super) fn leaf_key(key: &PeerKey) -> LeafKey {
    match key {
        PeerKey::Ed25519(key) => LeafKey::Ed25519(*key),
        PeerKey::Ed448(key) => LeafKey::Ed448(Box::new(*key)),
    }
}
