//! Requests: received commands, before and after their authorisation is verified.

use core::cell::Cell;
use std::sync::Arc;

use junto_crypto::{ed25519, secretbox::BoxKey, x25519};

use crate::{
    address::Fingerprint,
    block::{Batch, Block, BlockFault, Protection, SessionId},
    command::{Command, Party},
    error::ErrorCode,
    id::{CorrelationId, Entity, ID_BYTES},
    key::AuthKey,
    queue::Credential,
    service::Service,
    transmission::{Authorization, Transmission, verify},
    version::Version,
};

/// Opens received blocks and verifies authorisations.
pub struct RequestReader {
    version: Version,
    pub(super) session: SessionId,
    pub(super) hello_key: x25519::SecretKey,
    protection: Protection,
    /// See [`RequestReader::take_verifications`].
    verifications: Cell<u64>,
    /// Between a proxy and us, if the client showed a hello key.
    pub(super) proxy_key: Option<BoxKey>,
    /// Set if the client is a service.
    service: Option<ServiceSession>,
}

/// A service on its connection.
pub(super) struct ServiceSession {
    pub(super) service: Arc<Service>,
    /// Signs its commands.
    pub(super) key: Box<ed25519::VerifyingKey>,
}

impl RequestReader {
    pub(super) fn new(
        version: Version,
        session: SessionId,
        hello_key: x25519::SecretKey,
        protection: Protection,
        proxy_key: Option<BoxKey>,
    ) -> Self {
        Self {
            version,
            session,
            hello_key,
            protection,
            verifications: Cell::new(0),
            proxy_key,
            service: None,
        }
    }

    /// From now on the client is a service.
    pub(super) fn serve(&mut self, session: ServiceSession) {
        self.service = Some(session);
    }

    /// Signatures and authenticators verified since the last call: nearly all of the work that a
    /// refused command costs.
    pub fn take_verifications(&mut self) -> u64 {
        self.verifications.take()
    }

    /// The negotiated version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Opens a block in place and returns its requests, in order. At most 255.
    ///
    /// # Errors
    /// [`BlockFault`]: answer with [`Refusal::BLOCK`], and close if [`BlockFault::is_fatal`].
    pub fn open<'b>(&mut self, block: &'b mut Block) -> Result<Requests<'b>, BlockFault> {
        let text = self.protection.open(block)?;
        Ok(Requests {
            batch: Batch::parse(text)?,
            version: self.version,
            session: self.session,
            service: self.service.as_ref().map(|s| s.service.fingerprint),
        })
    }

    /// Verifies the authorisation of `request` against what its queue demands
    /// ([`crate::queue::Queue::credential`], or [`Credential::Nobody`] for an unknown queue).
    ///
    /// Content and work are the same for an unknown queue and a wrong key. Takes as long as a
    /// signature verification or key agreement: better not under a lock.
    ///
    /// A service must sign `NEW`, `SUB` and `NSUB` as well, and nobody may sign anything else so.
    /// That is checked first, whether or not the queue exists.
    ///
    /// # Errors
    /// A [`Refusal`] with `AUTH`; `SERVICE` for a signature of a service that is missing, wrong, or
    /// not asked for; `CMD PROHIBITED` for commands that are not of the service's role.
    pub fn authorise<'b>(
        &self,
        request: Request<'b>,
        credential: &Credential,
    ) -> Result<Authorised<'b>, Refusal<'b>> {
        let Request {
            transmission,
            command,
            correlation,
            direct,
        } = request;
        let refused = |code| Refusal {
            correlation: Some(correlation),
            entity: transmission.entity,
            code,
        };
        let session = self.service.as_ref().filter(|_| direct);
        let service = self
            .serve_check(session, &transmission, &command)
            .map_err(refused)?;
        if matches!(command.party(), Party::Service) {
            // Signed by the service, and by nobody else.
            return Ok(Authorised {
                correlation,
                entity: transmission.entity,
                command,
                open: false,
                service,
            });
        }
        let verify = |key: Option<&AuthKey>| {
            if !transmission.authorization.is_none() {
                self.verifications.set(self.verifications.get() + 1);
            }
            verify(&transmission, key, &self.hello_key)
        };
        // An authorisation that is not asked for costs the same work as a wrong one.
        let open = *credential == Credential::Open;
        let verified = match credential {
            Credential::Key(key) => verify(Some(key)),
            Credential::AnyOf(keys) => keys.iter().any(|key| verify(Some(key))),
            Credential::Open | Credential::Nobody => verify(None),
        };
        if verified || (open && transmission.authorization.is_none()) {
            Ok(Authorised {
                correlation,
                entity: transmission.entity,
                command,
                open: !verified,
                service,
            })
        } else {
            Err(refused(ErrorCode::Auth))
        }
    }

    /// What `command` has to do with the service of its connection: which service it is for.
    fn serve_check(
        &self,
        session: Option<&ServiceSession>,
        transmission: &Transmission<'_>,
        command: &Command<'_>,
    ) -> Result<Option<Arc<Service>>, ErrorCode> {
        if session.is_some_and(|session| !session.service.role.may(command)) {
            return Err(ErrorCode::PROHIBITED);
        }
        let signature = transmission.service_signature.as_ref();
        let signed = |session: &ServiceSession, signature: &ed25519::Signature| {
            self.verifications.set(self.verifications.get() + 1);
            let verified = session.key.verify(transmission.authorised(), signature);
            verified.is_ok().then(|| Arc::clone(&session.service))
        };
        let service = match (command, session, signature) {
            (Command::ServiceSub(_) | Command::NotifierServiceSub(_), Some(session), None) => {
                let id = session.service.id;
                match &transmission.authorization {
                    Authorization::Ed25519(signature)
                        if transmission.entity == Entity::Queue(&id.0) =>
                    {
                        signed(session, signature)
                    }
                    _ => None,
                }
            }
            (Command::ServiceSub(_) | Command::NotifierServiceSub(_), ..) => None,
            (Command::New(_) | Command::Sub | Command::NotifierSub, Some(session), Some(s)) => {
                signed(session, s)
            }
            (Command::New(_) | Command::Sub | Command::NotifierSub, Some(_), None) => None,
            (_, _, None) => return Ok(None),
            (_, _, Some(_)) => None,
        };
        service.map(Some).ok_or(ErrorCode::Service)
    }
}

/// The requests of one block.
#[derive(Debug)]
pub struct Requests<'b> {
    batch: Batch<'b>,
    version: Version,
    session: SessionId,
    service: Option<Fingerprint>,
}

impl<'b> Iterator for Requests<'b> {
    type Item = Result<Request<'b>, Refusal<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.batch.next()?;
        let service = self.service.as_ref();
        let request = Request::decode_of(bytes, self.version, &self.session, service);
        Some(request.map(|request| Request {
            direct: true,
            ..request
        }))
    }
}

/// A command that parses, names what it must name, and is not verified yet.
#[derive(Debug)]
pub struct Request<'b> {
    transmission: Transmission<'b>,
    command: Command<'b>,
    correlation: CorrelationId,
    /// It came from the client itself, not through a proxy.
    direct: bool,
}

impl<'b> Request<'b> {
    /// Parses one transmission of whoever is no service: what a proxy passes on.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn decode(
        bytes: &'b mut [u8],
        version: Version,
        session: &SessionId,
    ) -> Result<Self, Refusal<'b>> {
        Self::decode_of(bytes, version, session, None)
    }

    fn decode_of(
        bytes: &'b mut [u8],
        version: Version,
        session: &SessionId,
        service: Option<&Fingerprint>,
    ) -> Result<Self, Refusal<'b>> {
        let transmission =
            Transmission::decode_of(bytes, version, session, service).map_err(|fault| Refusal {
                correlation: fault.correlation,
                ..Refusal::BLOCK
            })?;
        // An answer without correlation id would look like an event.
        let Some(correlation) = transmission.correlation else {
            return Err(Refusal::BLOCK);
        };
        let entity = transmission.entity;
        let authorised = !transmission.authorization.is_none();
        let checked = Command::decode(transmission.content, version).and_then(|command| {
            command
                .check_credentials(authorised, entity)
                .map(|()| command)
        });
        match checked {
            Ok(command) => Ok(Self {
                transmission,
                command,
                correlation,
                direct: false,
            }),
            Err(code) => Err(Refusal {
                correlation: Some(correlation),
                entity,
                code,
            }),
        }
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> &Command<'b> {
        &self.command
    }

    /// Which of the ids of a queue [`Request::queue_id`] is, if any.
    #[must_use]
    pub fn party(&self) -> Party {
        self.command.party()
    }

    /// The id of the queue; `None` if the command names none, or something that cannot be one (then
    /// the queue is unknown).
    #[must_use]
    pub fn queue_id(&self) -> Option<&'b [u8; ID_BYTES]> {
        match self.transmission.entity {
            Entity::Queue(id) => Some(id),
            Entity::None | Entity::Other(_) => None,
        }
    }

    /// For the answer.
    #[must_use]
    pub fn correlation(&self) -> CorrelationId {
        self.correlation
    }

    /// For the answer.
    #[must_use]
    pub fn entity(&self) -> Entity<'b> {
        self.transmission.entity
    }
}

/// A command whose authorisation was verified; only [`RequestReader::authorise`] makes one.
#[derive(Debug)]
pub struct Authorised<'b> {
    correlation: CorrelationId,
    entity: Entity<'b>,
    command: Command<'b>,
    open: bool,
    service: Option<Arc<Service>>,
}

impl<'b> Authorised<'b> {
    /// The command.
    #[must_use]
    pub fn command(&self) -> &Command<'b> {
        &self.command
    }

    /// For the answer.
    #[must_use]
    pub fn correlation(&self) -> CorrelationId {
        self.correlation
    }

    /// For the answer.
    #[must_use]
    pub fn entity(&self) -> Entity<'b> {
        self.entity
    }

    /// The service that it makes its queue one of, or asks for the queues of.
    #[must_use]
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.service.as_ref()
    }

    /// Whether it was accepted without any key.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }
}

/// A request that is refused before it reaches a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'b> {
    /// For the answer; unknown if the transmission did not parse.
    pub correlation: Option<CorrelationId>,
    /// For the answer.
    pub entity: Entity<'b>,
    /// The answer.
    pub code: ErrorCode,
}

impl Refusal<'_> {
    /// `ERR BLOCK` to nobody in particular.
    pub const BLOCK: Self = Self {
        correlation: None,
        entity: Entity::None,
        code: ErrorCode::Block,
    };
}
