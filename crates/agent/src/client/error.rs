//! Why a relay cannot be reached, or was lost.

use std::io;

use junto_smp::{block::BlockFault, hello::HelloFault};
use junto_tls::{ChainError, handshake::HandshakeError};

use super::proxy::ProxyTrouble;

/// Why there is no (longer a) connection to a relay.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The relay is not reachable, or the connection broke. May be tried again.
    #[error("relay is unreachable: {0}")]
    Network(#[source] io::Error),
    /// The relay did not answer in time. May be tried again.
    #[error("relay did not answer in time")]
    Timeout,
    /// Somebody else answers at the relay's address.
    #[error("another server answers at this address")]
    Identity,
    /// The relay's TLS is not what the protocol needs.
    #[error("TLS with the relay failed: {0}")]
    Tls(#[source] Box<HandshakeError>),
    /// The relay breaks the protocol.
    #[error("relay breaks the protocol: {0}")]
    Protocol(#[from] ProtocolFault),
    /// A relay through which commands go to another one does not pass them on.
    #[error("the relay in between {0}")]
    Proxy(#[from] ProxyTrouble),
    /// The relay has `.onion` names only, and no SOCKS server is set that would know them.
    #[error("the relay is reached through Tor only, and no SOCKS server is set")]
    OnionOnly,
    /// Our bug; please report it.
    #[error("internal error: {0}")]
    Defect(&'static str),
}

/// How a relay breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolFault {
    /// In its hello, or it speaks no version of ours.
    #[error(transparent)]
    Hello(#[from] HelloFault),
    /// In a block.
    #[error(transparent)]
    Block(#[from] BlockFault),
    /// An answer of the wrong kind, or it cannot read ours.
    #[error("unexpected answer")]
    Answer,
}

impl ClientError {
    /// Whether another host of the same relay, or a later try, may help.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Network(_) | Self::Timeout => true,
            Self::Proxy(trouble) => !trouble.is_final(),
            Self::Identity
            | Self::Tls(_)
            | Self::Protocol(_)
            | Self::OnionOnly
            | Self::Defect(_) => false,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Network(error)
    }
}

impl From<HelloFault> for ClientError {
    fn from(fault: HelloFault) -> Self {
        match fault {
            HelloFault::Identity => Self::Identity,
            other => Self::Protocol(other.into()),
        }
    }
}

impl From<BlockFault> for ClientError {
    fn from(fault: BlockFault) -> Self {
        Self::Protocol(fault.into())
    }
}

impl From<HandshakeError> for ClientError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => Self::Network(error),
            HandshakeError::Chain(ChainError::WrongIdentity) => Self::Identity,
            other => Self::Tls(Box::new(other)),
        }
    }
}
