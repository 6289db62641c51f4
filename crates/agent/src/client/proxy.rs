//! The way through another relay: asking a proxy for its session with the relay, and what its errors mean.

use junto_smp::address::ServerAddress;
use junto_smp::block::OutgoingBlock;
use junto_smp::client::{Incoming, ReplyFault, Request};
use junto_smp::command::Command;
use junto_smp::error::{BrokerFault, ErrorCode, ProxyFault, TransportFault};
use junto_smp::hello::HelloFault;
use junto_smp::id::Entity;
use junto_smp::proxy::{Destination, ProxyKey, ProxyRequest};
use junto_smp::response::Response;
use junto_smp::version::VersionRange;
use junto_tls::{Fingerprint, PeerChain};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Password;
use super::connect::{Opened, leaf_key};
use super::error::{ClientError, ProtocolFault};
use super::operation::Ticket;

/// Why a proxy does not carry what we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyTrouble {
    /// It passes on nothing for us: it is no proxy, or wants a password.
    #[error("passes on nothing for us: it is no proxy, or wants a password")]
    NotForUs,
    /// It does not connect to that relay: to a private network say, or to `.onion` without Tor.
    #[error("does not connect to that relay")]
    NotThere,
    /// That relay speaks no version whose commands can be passed on.
    #[error("cannot pass on commands to a relay of that version")]
    Version,
    /// It has introduced another server than that relay. Nothing was told to either.
    #[error("introduced another server than that relay")]
    Impostor,
    /// It does not reach that relay at present. May be tried again.
    #[error("does not reach that relay")]
    Unreachable,
    /// Its connection to that relay has ended, and with it the session. May be tried again at once.
    #[error("has lost its connection to that relay")]
    SessionEnded,
}

impl ProxyTrouble {
    /// What an error means that the proxy itself answers with.
    pub(super) fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Proxy(ProxyFault::BasicAuth) | ErrorCode::Command(_) | ErrorCode::Auth => {
                Self::NotForUs
            }
            ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Host)) => Self::NotThere,
            ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Transport(
                TransportFault::Version,
            ))) => Self::Version,
            // The relay does not take what the proxy passes on in this session.
            ErrorCode::Proxy(ProxyFault::NoSession | ProxyFault::Protocol(_)) => Self::SessionEnded,
            _ => Self::Unreachable,
        }
    }

    /// Whether this way will not work, however often it is tried.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::NotForUs | Self::NotThere | Self::Version => true,
            Self::Impostor | Self::Unreachable | Self::SessionEnded => false,
        }
    }
}

/// Whether the proxy says that a command took too long, or that it has no room for it: others of the same
/// session may have come through.
pub(super) fn is_overload(code: ErrorCode) -> bool {
    code == ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Timeout))
}

/// Asks `proxy` for its session with `relay`, and checks that it is with that relay. The password is the
/// proxy's.
pub(super) async fn introduce(
    proxy: &mut Opened,
    relay: &ServerAddress,
    password: Option<&Password>,
) -> Result<Destination, ClientError> {
    let request = Request {
        entity: Entity::None,
        key: None,
        command: Command::Proxy(Box::new(ProxyRequest {
            server: relay.clone(),
            password: password.map(Password::as_bytes),
        })),
    };
    let mut outgoing = OutgoingBlock::new();
    let pushed = proxy
        .client
        .push(&mut outgoing, &request, Ticket::Own, &mut proxy.rng);
    pushed.map_err(|_| ClientError::Defect("a request to a proxy that fits into no block"))?;
    if let Some(block) = proxy.client.seal(&mut outgoing) {
        proxy.stream.write_all(block).await?;
        proxy.stream.flush().await?;
    }
    proxy.stream.read_exact(proxy.block.as_mut_slice()).await?;
    match proxy.client.receive(&mut proxy.block)?.next() {
        Some(Incoming::Reply { result, .. }) => match result {
            Ok(Response::ProxyKey(answer)) => verify(&answer, relay),
            Err(ReplyFault::Refused(code) | ReplyFault::Proxy(code)) => {
                Err(ProxyTrouble::of(code).into())
            }
            Ok(_) | Err(ReplyFault::Unexpected) => Err(ProtocolFault::Answer.into()),
        },
        Some(Incoming::Event(_) | Incoming::Stray) | None => Err(ProtocolFault::Answer.into()),
    }
}

/// The proxy may say what it likes: the relay itself has signed the key that we encrypt to.
fn verify(answer: &ProxyKey<'_>, relay: &ServerAddress) -> Result<Destination, ClientError> {
    const IMPOSTOR: ClientError = ClientError::Proxy(ProxyTrouble::Impostor);
    let certificates: Vec<_> = answer.chain.iter().map(CertificateDer::from).collect();
    let pin = Fingerprint::from_bytes(relay.fingerprint().0);
    let chain = PeerChain::verify(&certificates, UnixTime::now()).and_then(|it| it.expect(&pin));
    let leaf = leaf_key(chain.map_err(|_| IMPOSTOR)?.leaf_key());
    let versions = VersionRange::SUPPORTED;
    Destination::verify(answer, relay.fingerprint(), &leaf, versions).map_err(|fault| match fault {
        HelloFault::Version => ProxyTrouble::Version.into(),
        _ => IMPOSTOR,
    })
}
