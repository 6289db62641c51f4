//! Requests: received commands, before and after their authorisation is verified.

use core::cell::Cell;

use junto_crypto::{secretbox::BoxKey, x25519};

use crate::{
    block::{Batch, Block, BlockFault, Protection, SessionId},
    command::{Command, Party},
    error::ErrorCode,
    id::{CorrelationId, Entity, ID_BYTES},
    key::AuthKey,
    queue::Credential,
    transmission::{Transmission, verify},
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
        }
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
        })
    }

    /// Verifies the authorisation of `request` against what its queue demands
    /// ([`crate::queue::Queue::credential`], or [`Credential::Nobody`] for an unknown queue).
    ///
    /// Content and work are the same for an unknown queue and a wrong key. Takes as long as a
    /// signature verification or key agreement: better not under a lock.
    ///
    /// # Errors
    /// A [`Refusal`] with `AUTH` (or `SERVICE` for a service signature, which only services may
    /// use).
    pub fn authorise<'b>(
        &self,
        request: Request<'b>,
        credential: &Credential,
    ) -> Result<Authorised<'b>, Refusal<'b>> {
        let Request {
            transmission,
            command,
            correlation,
        } = request;
        let refused = |code| Refusal {
            correlation: Some(correlation),
            entity: transmission.entity,
            code,
        };
        if transmission.service_signature {
            return Err(refused(ErrorCode::Service));
        }
        if matches!(
            command,
            Command::ServiceSub(_) | Command::NotifierServiceSub(_)
        ) {
            return Err(refused(ErrorCode::Service));
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
            })
        } else {
            Err(refused(ErrorCode::Auth))
        }
    }
}

/// The requests of one block.
#[derive(Debug)]
pub struct Requests<'b> {
    batch: Batch<'b>,
    version: Version,
    session: SessionId,
}

impl<'b> Iterator for Requests<'b> {
    type Item = Result<Request<'b>, Refusal<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.batch.next()?;
        Some(Request::decode(bytes, self.version, &self.session))
    }
}

/// A command that parses, names what it must name, and is not verified yet.
#[derive(Debug)]
pub struct Request<'b> {
    transmission: Transmission<'b>,
    command: Command<'b>,
    correlation: CorrelationId,
}

impl<'b> Request<'b> {
    /// Parses one transmission.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn decode(
        bytes: &'b mut [u8],
        version: Version,
        session: &SessionId,
    ) -> Result<Self, Refusal<'b>> {
        let transmission =
            Transmission::decode(bytes, version, session).map_err(|fault| Refusal {
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
