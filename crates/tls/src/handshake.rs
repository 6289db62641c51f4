//! Handshakes over tokio streams, for the shells. Each `poll` of a handshake is one
//! [`Watch::during`].
//!
//! Neither function has a time limit: the caller wraps it in one, since only the caller knows what
//! the connection may cost.

use core::future::poll_fn;
use core::pin::Pin;
use std::io;

use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::Fingerprint;
use crate::chain::{ChainError, ClientChain, PeerChain};
use crate::config::{self, Alpn, ClientTls, ServerTls};
use crate::session_id::{SessionId, SessionIdError, Watch};

/// A server's end of a connection whose handshake is done.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The encrypted stream.
    pub stream: server::TlsStream<S>,
    /// Names the connection in SMP.
    pub session_id: SessionId,
    /// What the client wants to speak.
    pub alpn: Alpn,
    /// The certificates of a service; other clients show none.
    pub client: Option<ClientChain>,
}

/// A client's end of a connection whose handshake is done, with the right server.
#[derive(Debug)]
pub struct Connected<S> {
    /// The encrypted stream.
    pub stream: client::TlsStream<S>,
    /// Names the connection in SMP.
    pub session_id: SessionId,
    /// Who the server is; also verifies its SMP hello.
    pub chain: PeerChain,
    /// What the server agreed to speak.
    pub alpn: Alpn,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The connection broke. May be tried again.
    #[error("connection failed: {0}")]
    Io(io::Error),
    /// The server is not who its address says, or its certificates are unusable.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The peer does not speak TLS as SMP needs it.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// Our TLS library surprised us. A defect of ours.
    #[error(transparent)]
    SessionId(#[from] SessionIdError),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match inner {
            Some(tls) => match config::chain_error(tls) {
                Some(chain) => Self::Chain(chain),
                None => Self::Tls(tls.clone()),
            },
            None => Self::Io(error),
        }
    }
}

/// Runs the server's handshake. `buffer_limit_bytes` bounds what rustls holds for a slow reader,
/// on top of what the caller queues.
///
/// # Errors
/// [`HandshakeError`]; [`HandshakeError::Chain`] only for a client that shows certificates.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ServerTls,
    stream: S,
    buffer_limit_bytes: usize,
) -> Result<Accepted<S>, HandshakeError> {
    let acceptor = TlsAcceptor::from(tls.config().clone());
    let mut handshake = acceptor.accept_with(stream, |connection| {
        connection.set_buffer_limit(Some(buffer_limit_bytes));
    });
    let mut watch = Watch::new();
    let stream = poll_fn(|cx| watch.during(|| Future::poll(Pin::new(&mut handshake), cx))).await?;
    let connection = stream.get_ref().1;
    Ok(Accepted {
        session_id: watch.session_id(connection)?,
        alpn: Alpn::of(connection),
        client: config::client_chain(connection, UnixTime::now())?,
        stream,
    })
}

/// Runs the client's handshake with the server whose identity is `pin`.
///
/// # Errors
/// [`HandshakeError`]; [`ChainError::WrongIdentity`] if somebody else answered.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &ClientTls,
    pin: Fingerprint,
    stream: S,
) -> Result<Connected<S>, HandshakeError> {
    let connector = TlsConnector::from(tls.pinned(pin));
    let mut handshake = connector.connect(ClientTls::server_name(), stream);
    let mut watch = Watch::new();
    let stream = poll_fn(|cx| watch.during(|| Future::poll(Pin::new(&mut handshake), cx))).await?;
    let connection = stream.get_ref().1;
    Ok(Connected {
        session_id: watch.session_id(connection)?,
        chain: config::peer_chain(connection, UnixTime::now())?.expect(&pin)?,
        alpn: Alpn::of(connection),
        stream,
    })
}
