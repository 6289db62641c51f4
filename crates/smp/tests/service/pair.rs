//! A connection of a service, or of a plain client, from both ends.

use std::sync::Arc;

use junto_crypto::ed25519;
use junto_smp::{
    address::Fingerprint,
    block::{Block, OutgoingBlock, SessionId, new_block},
    client::{Applying, Client, Options, Request, ServiceCredentials},
    error::ErrorCode,
    hello::{HelloFault, LeafKey},
    queue::Credential,
    server::{Authorised, ClientCertificates, Connection, Greeted, Handshake, Identity},
    service::{Service, ServiceRole},
    version::{Version, VersionRange},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::support::{identity, leaf};

const SESSION: SessionId = SessionId([9; 32]);

fn chain(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n; 700]).collect()
}

fn service_key() -> ed25519::SigningKey {
    ed25519::SigningKey::from_seed(&[3; 32])
}

pub(crate) fn credentials(role: ServiceRole, count: u8) -> ServiceCredentials {
    ServiceCredentials {
        role,
        chain: chain(count),
        leaf: service_key(),
    }
}

pub(crate) fn certificates(count: u8) -> ClientCertificates {
    ClientCertificates {
        chain: chain(count),
        leaf: LeafKey::Ed25519(service_key().verifying_key()),
    }
}

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// The relay has said hello, and the client is about to: what both do that, whoever it is.
pub(crate) struct Opening {
    handshake: Handshake,
    options: Options,
    first: Box<Block>,
    second: Box<Block>,
}

impl Opening {
    pub(crate) fn new(relay: &Identity, versions: VersionRange) -> Self {
        let (mut first, second) = (new_block(), new_block());
        let handshake = Handshake::start(relay, SESSION, &mut rng(1), &mut first).unwrap();
        let options = Options {
            versions,
            // What one end sends can be read by the end of another pair.
            encrypt: false,
            ..Options::new(relay.fingerprint())
        };
        Self {
            handshake,
            options,
            first,
            second,
        }
    }

    pub(crate) fn service(
        &mut self,
        credentials: &ServiceCredentials,
    ) -> Result<Applying<usize>, HelloFault> {
        let (options, leaf, rng) = (&self.options, leaf(), &mut rng(2));
        let (first, second) = (&mut self.first, &mut self.second);
        Client::open_service(options, credentials, SESSION, &leaf, first, second, rng)
    }

    fn client(&mut self) -> Result<Client<usize>, HelloFault> {
        let (options, leaf, rng) = (&self.options, leaf(), &mut rng(2));
        let (first, second) = (&mut self.first, &mut self.second);
        Client::open(options, SESSION, &leaf, first, second, rng)
    }

    /// What the relay makes of it, to which TLS has shown these certificates.
    pub(crate) fn greet(
        mut self,
        relay: &Identity,
        shown: Option<&ClientCertificates>,
    ) -> Result<Greeted, HelloFault> {
        self.handshake.greet(relay, shown, &mut self.second)
    }

    /// The same of a relay that has no services.
    pub(crate) fn finish(mut self, relay: &Identity) -> Result<Connection, HelloFault> {
        self.handshake.finish(relay, &mut self.second)
    }
}

/// What the relay makes of a service's hello; and its client, until the third block.
pub(crate) fn greeted(
    relay: &Identity,
    version: Version,
    credentials: &ServiceCredentials,
    shown: Option<&ClientCertificates>,
) -> Result<(Greeted, Applying<usize>), HelloFault> {
    let mut opening = Opening::new(relay, VersionRange::only(version));
    let applying = opening.service(credentials)?;
    Ok((opening.greet(relay, shown)?, applying))
}

/// A client that is a service, or none, and the relay's end.
pub(crate) struct Pair {
    client: Client<usize>,
    connection: Connection,
    pub(crate) service: Option<Arc<Service>>,
}

impl Pair {
    pub(crate) fn service(version: Version, role: ServiceRole) -> Self {
        Self::service_with(version, role, 2)
    }

    /// A service with this many certificates: another one for each number.
    pub(crate) fn service_with(version: Version, role: ServiceRole, count: u8) -> Self {
        let relay = identity(VersionRange::SUPPORTED);
        let (credentials, shown) = (credentials(role, count), certificates(count));
        let (greeted, applying) = greeted(&relay, version, &credentials, Some(&shown)).unwrap();
        let Greeted::Service(applicant) = greeted else {
            panic!("no service");
        };
        assert_eq!(applicant.role(), role);
        assert_eq!(applicant.fingerprint(), applying.fingerprint());
        let identity = &chain(count)[usize::from(count > 1)];
        assert_eq!(
            applicant.fingerprint(),
            Fingerprint::of_certificate(identity)
        );
        let service = Arc::new(Service::new(role, applicant.fingerprint()));
        let mut third = new_block();
        let connection = applicant.accept(Arc::clone(&service), &mut third).unwrap();
        let client = applying.accepted(&mut third).unwrap();
        assert_eq!(client.service(), Some(service.id));
        Self {
            client,
            connection,
            service: Some(service),
        }
    }

    pub(crate) fn client(version: Version) -> Self {
        let relay = identity(VersionRange::SUPPORTED);
        let mut opening = Opening::new(&relay, VersionRange::only(version));
        let client = opening.client().unwrap();
        // It has certificates in TLS and does not speak of them: no service.
        let Greeted::Client(connection) = opening.greet(&relay, Some(&certificates(1))).unwrap()
        else {
            panic!("a service");
        };
        Self {
            client,
            connection,
            service: None,
        }
    }

    /// What `then` makes of the command, if it is authorised by `credential`.
    pub(crate) fn ask<R>(
        &mut self,
        request: &Request<'_>,
        credential: &Credential,
        then: impl FnOnce(&Authorised<'_>) -> R,
    ) -> Result<R, ErrorCode> {
        let mut block = self.sealed(request);
        self.open(&mut block, credential, then)
    }

    pub(crate) fn sealed(&mut self, request: &Request<'_>) -> Box<Block> {
        let mut outgoing = OutgoingBlock::new();
        let pushed = self.client.push(&mut outgoing, request, 0, &mut rng(7));
        pushed.map_err(|rejected| rejected.reason).unwrap();
        Box::new(*self.client.seal(&mut outgoing).unwrap())
    }

    pub(crate) fn open<R>(
        &mut self,
        block: &mut Block,
        credential: &Credential,
        then: impl FnOnce(&Authorised<'_>) -> R,
    ) -> Result<R, ErrorCode> {
        let requests: Vec<_> = self.connection.requests.open(block).unwrap().collect();
        let [Ok(_)] = requests.as_slice() else {
            panic!("not one request: {requests:?}");
        };
        let request = requests.into_iter().next().unwrap().unwrap();
        let authorised = self.connection.requests.authorise(request, credential);
        authorised.map(|command| then(&command)).map_err(|r| r.code)
    }
}
