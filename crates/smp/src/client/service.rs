//! Being a service.

use junto_crypto::{CryptoRng, ed25519};

use super::{Client, Options};
use crate::{
    address::Fingerprint,
    block::{Block, SessionId},
    command::Command,
    hello::{HelloFault, LeafKey, SignedKey},
    id::ServiceId,
    service::{ServiceAnswer, ServiceHello, ServiceRole, fingerprint_of_chain},
    transmission::{Authoriser, ServiceSigner},
};

/// What makes a client a service. The same certificates must be shown in TLS.
pub struct ServiceCredentials {
    /// What it wants to be.
    pub role: ServiceRole,
    /// DER, leaf first; or a single one that signs itself.
    pub chain: Vec<Vec<u8>>,
    /// The key of the first.
    pub leaf: ed25519::SigningKey,
}

/// A service on one connection.
pub(super) struct Session {
    id: ServiceId,
    signer: ServiceSigner,
}

impl Session {
    /// For commands about all queues of the service.
    pub(super) fn authoriser(&self) -> Authoriser<'_> {
        Authoriser::Ed25519(&self.signer.key)
    }

    /// For commands that make a queue one of the service's.
    pub(super) fn signer_of(&self, command: &Command<'_>) -> Option<&ServiceSigner> {
        matches!(
            command,
            Command::New(_) | Command::Sub | Command::NotifierSub
        )
        .then_some(&self.signer)
    }
}

/// A connection whose server has not said yet whether we are a service.
pub struct Applying<T> {
    client: Client<T>,
    signer: ServiceSigner,
}

impl<T> Client<T> {
    /// As [`Client::open`], as a service. The server answers the hello with one more block.
    ///
    /// # Errors
    /// [`HelloFault`]; [`HelloFault::Version`] also if the server knows no services yet,
    /// [`HelloFault::Service`] without certificates, [`HelloFault::Syntax`] if these do not fit into
    /// a block.
    pub fn open_service(
        options: &Options,
        credentials: &ServiceCredentials,
        session: SessionId,
        leaf: &LeafKey,
        received: &mut Block,
        block: &mut Block,
        rng: &mut impl CryptoRng,
    ) -> Result<Applying<T>, HelloFault> {
        let fingerprint = fingerprint_of_chain(&credentials.chain).ok_or(HelloFault::Service)?;
        let key = ed25519::SigningKey::generate(rng);
        let hello = ServiceHello {
            role: credentials.role,
            chain: credentials.chain.iter().map(Vec::as_slice).collect(),
            key: SignedKey::sign(key.verifying_key(), &credentials.leaf),
        };
        let client =
            Self::greet(
                options,
                session,
                leaf,
                received,
                block,
                rng,
                |version| match version.has_services() {
                    true => Ok(Some(hello)),
                    false => Err(HelloFault::Version),
                },
            )?;
        let signer = ServiceSigner { fingerprint, key };
        Ok(Applying { client, signer })
    }

    /// Our id, if we are a service.
    #[must_use]
    pub fn service(&self) -> Option<ServiceId> {
        self.service.as_ref().map(|session| session.id)
    }
}

impl<T> Applying<T> {
    /// Our fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.signer.fingerprint
    }

    /// Takes the server's third block.
    ///
    /// # Errors
    /// [`HelloFault::NoService`] if the server refuses, [`HelloFault::Syntax`] for nonsense.
    pub fn accepted(self, received: &mut Block) -> Result<Client<T>, HelloFault> {
        let id = match ServiceAnswer::decode(received)? {
            ServiceAnswer::Accepted(id) => id,
            ServiceAnswer::Refused(fault) => return Err(HelloFault::NoService(fault)),
        };
        let signer = self.signer;
        Ok(Client {
            service: Some(Box::new(Session { id, signer })),
            ..self.client
        })
    }
}
