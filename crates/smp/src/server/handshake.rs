//! Opening a connection, server side.

use junto_crypto::{CryptoRng, ed25519, x25519};

use super::{ReplyWriter, RequestReader, forward::relay_keys};
use crate::{
    address::Fingerprint,
    block::{Block, BlockChain, Protection, SessionId, plain_block, unpad},
    encoding::NoRoom,
    hello::{CHAIN_LENGTH, ClientHello, HelloFault, ServerHello, SignedKey},
    version::VersionRange,
};

/// What a server is to its clients; shared by all connections.
pub struct Identity {
    chain: Vec<Vec<u8>>,
    fingerprint: Fingerprint,
    leaf: ed25519::SigningKey,
    versions: VersionRange,
}

/// The certificate chain does not have 2 to 4 certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server needs a chain of 2 to 4 certificates")]
pub struct IdentityError;

impl Identity {
    /// An identity from its DER certificates (leaf first, then the offline one) and the leaf's key.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(chain: Vec<Vec<u8>>, leaf: ed25519::SigningKey) -> Result<Self, IdentityError> {
        let identity = chain.get(1).ok_or(IdentityError)?;
        if !CHAIN_LENGTH.contains(&chain.len()) {
            return Err(IdentityError);
        }
        Ok(Self {
            fingerprint: Fingerprint::of_certificate(identity),
            chain,
            leaf,
            versions: VersionRange::SUPPORTED,
        })
    }

    /// The same identity offering fewer versions; for tests of old clients.
    #[must_use]
    pub fn with_versions(self, versions: VersionRange) -> Self {
        Self { versions, ..self }
    }

    /// The fingerprint that clients pin.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// Waits for the client's hello.
pub struct Handshake {
    session: SessionId,
    hello_key: x25519::SecretKey,
}

/// An open connection, in two halves.
pub struct Connection {
    /// Reads requests.
    pub requests: RequestReader,
    /// Writes answers and events.
    pub replies: ReplyWriter,
}

impl Handshake {
    /// Writes the server's hello into `block`, which must be sent.
    ///
    /// # Errors
    /// [`NoRoom`] if the certificate chain does not fit into a block.
    pub fn start(
        identity: &Identity,
        session: SessionId,
        rng: &mut impl CryptoRng,
        block: &mut Block,
    ) -> Result<Self, NoRoom> {
        let hello_key = x25519::SecretKey::generate(rng);
        ServerHello {
            versions: identity.versions,
            session,
            chain: identity.chain.iter().map(Vec::as_slice).collect(),
            signed_key: SignedKey::sign(hello_key.public_key(), &identity.leaf),
        }
        .encode(block)?;
        Ok(Self { session, hello_key })
    }

    /// Takes the client's hello.
    ///
    /// # Errors
    /// [`HelloFault`]: close the connection, without an answer except for
    /// [`HelloFault::Service`], which is answered by [`service_refusal`].
    pub fn finish(self, identity: &Identity, block: &mut Block) -> Result<Connection, HelloFault> {
        let text = unpad(block.as_mut_slice()).map_err(|_| HelloFault::Syntax)?;
        let hello = ClientHello::decode(text, identity.versions)?;
        if hello.identity != identity.fingerprint {
            return Err(HelloFault::Identity);
        }
        if hello.service {
            return Err(HelloFault::Service);
        }
        let shared = match &hello.key {
            None => None,
            Some(key) => {
                let agreed = self.hello_key.diffie_hellman(key);
                Some(agreed.map_err(|_| HelloFault::Signature)?)
            }
        };
        // A proxy encrypts the commands that it passes on, not the blocks.
        let (receive, send) = match shared.as_ref().filter(|_| !hello.proxy) {
            None => (Protection::Plain, Protection::Plain),
            Some(shared) => {
                let (from_server, from_client) = BlockChain::pair(&self.session, shared);
                (
                    Protection::Sealed(from_client),
                    Protection::Sealed(from_server),
                )
            }
        };
        let keys = shared.as_ref().map(relay_keys).unzip();
        Ok(Connection {
            requests: RequestReader::new(
                hello.version,
                self.session,
                self.hello_key,
                receive,
                keys.0,
            ),
            replies: ReplyWriter::new(hello.version, send, keys.1),
        })
    }
}

/// Writes the answer to a client that asks to be a service.
///
/// # Errors
/// [`NoRoom`] never happens: the answer is small.
pub fn service_refusal(block: &mut Block) -> Result<(), NoRoom> {
    plain_block(block, |writer| writer.bytes(b"EHANDSHAKE BAD_SERVICE"))
}
