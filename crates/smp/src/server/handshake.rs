//! Opening a connection, server side.

use std::sync::Arc;

use junto_crypto::{CryptoRng, ed25519, x25519};

use super::{ReplyWriter, RequestReader, forward::relay_keys, request::ServiceSession};
use crate::{
    address::Fingerprint,
    block::{Block, BlockChain, Protection, SessionId, unpad},
    encoding::NoRoom,
    hello::{CHAIN_LENGTH, ClientHello, HelloFault, LeafKey, ServerHello, SignedKey},
    service::{
        Service, ServiceAnswer, ServiceFault, ServiceHello, ServiceRole, fingerprint_of_chain,
    },
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

/// What a client showed in TLS: certificates, checked there, and the key of the leaf.
pub struct ClientCertificates {
    /// DER, leaf first; or a single one that signs itself.
    pub chain: Vec<Vec<u8>>,
    /// The key of the first.
    pub leaf: LeafKey,
}

/// Who has come.
pub enum Greeted {
    /// A client, whose connection is open.
    Client(Connection),
    /// A client that asks to be a service, and is who it says. It waits for the third block.
    Service(Applicant),
}

/// A service before it is accepted.
pub struct Applicant {
    connection: Connection,
    role: ServiceRole,
    fingerprint: Fingerprint,
    key: Box<ed25519::VerifyingKey>,
}

impl Applicant {
    /// What it wants to be.
    #[must_use]
    pub fn role(&self) -> ServiceRole {
        self.role
    }

    /// Who it is.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Accepts it and writes the third block, which must be sent.
    ///
    /// # Errors
    /// [`NoRoom`] never happens: the block is small.
    pub fn accept(self, service: Arc<Service>, block: &mut Block) -> Result<Connection, NoRoom> {
        ServiceAnswer::Accepted(service.id).encode(block)?;
        let mut connection = self.connection;
        let key = self.key;
        connection.requests.serve(ServiceSession { service, key });
        Ok(connection)
    }

    /// Writes that it is refused. The block must be sent before closing.
    ///
    /// # Errors
    /// [`NoRoom`] never happens: the block is small.
    pub fn refuse(block: &mut Block, fault: ServiceFault) -> Result<(), NoRoom> {
        ServiceAnswer::Refused(fault).encode(block)
    }
}

/// The key of `hello`, if its certificates are those of TLS and signed it.
fn authentic(
    hello: &ServiceHello<'_>,
    certificates: Option<&ClientCertificates>,
) -> Result<(Fingerprint, ed25519::VerifyingKey), HelloFault> {
    let certificates = certificates.ok_or(HelloFault::Service)?;
    let fingerprint = fingerprint_of_chain(&certificates.chain).ok_or(HelloFault::Service)?;
    if !hello.chain.iter().eq(&certificates.chain) {
        return Err(HelloFault::Service);
    }
    let key = hello.key.verify(&certificates.leaf);
    Ok((fingerprint, key.map_err(|_| HelloFault::Service)?))
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

    /// As [`Handshake::greet`], for a server that has no services: it refuses them.
    ///
    /// # Errors
    /// As [`Handshake::greet`].
    pub fn finish(self, identity: &Identity, block: &mut Block) -> Result<Connection, HelloFault> {
        match self.greet(identity, None, block)? {
            Greeted::Client(connection) => Ok(connection),
            Greeted::Service(_) => Err(HelloFault::Service),
        }
    }

    /// Takes the client's hello. `certificates` is what it showed in TLS.
    ///
    /// # Errors
    /// [`HelloFault`]: close the connection, without an answer except for
    /// [`HelloFault::Service`], which is answered by [`Applicant::refuse`].
    pub fn greet(
        self,
        identity: &Identity,
        certificates: Option<&ClientCertificates>,
        block: &mut Block,
    ) -> Result<Greeted, HelloFault> {
        let text = unpad(block.as_mut_slice()).map_err(|_| HelloFault::Syntax)?;
        let hello = ClientHello::decode(text, identity.versions)?;
        if hello.identity != identity.fingerprint {
            return Err(HelloFault::Identity);
        }
        let service = match &hello.service {
            Some(service) => Some((service.role, authentic(service, certificates)?)),
            None => None,
        };
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
        let connection = Connection {
            requests: RequestReader::new(
                hello.version,
                self.session,
                self.hello_key,
                receive,
                keys.0,
            ),
            replies: ReplyWriter::new(hello.version, send, keys.1),
        };
        Ok(match service {
            None => Greeted::Client(connection),
            Some((role, (fingerprint, key))) => Greeted::Service(Applicant {
                connection,
                role,
                fingerprint,
                key: Box::new(key),
            }),
        })
    }
}
