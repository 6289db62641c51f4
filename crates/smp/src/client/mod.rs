//! The client half of a connection.
//!
//! ```text
//! // read the server's hello into `received`
//! let mut client = Client::open(&options, session, &leaf, &mut received, &mut block, &mut rng)?;
//! // send `block`, then for ever:
//! client.push(&mut outgoing, &request, ticket, &mut rng)?;    // as often as requests wait
//! while let Some(block) = client.seal(&mut outgoing) { /* send */ }
//! for incoming in client.receive(&mut received)? { /* hand the answer to its ticket */ }
//! ```
//!
//! A service opens by [`Client::open_service`] and reads one more block before the rest
//! ([`Applying::accepted`]).
//!
//! A *ticket* is whatever the shell wants back with the answer, for example the sending end of a
//! one-shot channel.

mod forward;
mod reply;
mod service;

use std::collections::BTreeMap;

use junto_crypto::{CryptoRng, secretbox::BoxKey, x25519};

pub use reply::{Event, Incoming, Replies, ReplyFault};
pub use service::{Applying, ServiceCredentials};

use crate::{
    address::Fingerprint,
    block::{
        Batch, Block, BlockChain, BlockFault, BlockFull, OutgoingBlock, Protection, SessionId,
        unpad,
    },
    command::Command,
    hello::{ClientHello, HelloFault, LeafKey, ServerHello},
    id::{CorrelationId, Entity},
    key::AuthSecret,
    service::ServiceHello,
    transmission::Authoriser,
    version::{Version, VersionRange},
};

/// Requests that may wait for their answers: about 100 B each. Four full blocks of the smallest
/// commands.
pub const IN_FLIGHT_MAX: usize = 1_024;

/// What a client wants of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The server's identity, from its address.
    pub identity: Fingerprint,
    /// Versions to accept.
    pub versions: VersionRange,
    /// Encrypt blocks inside TLS, as today's clients do.
    pub encrypt: bool,
    /// We are a proxy, which never encrypts blocks: it encrypts the commands that it passes on
    /// ([`Client::push_relayed`]).
    pub proxy: bool,
}

impl Options {
    /// All versions, with encryption.
    #[must_use]
    pub fn new(identity: Fingerprint) -> Self {
        Self {
            identity,
            versions: VersionRange::SUPPORTED,
            encrypt: true,
            proxy: false,
        }
    }

    /// As a proxy's connection to a destination.
    #[must_use]
    pub fn proxy(identity: Fingerprint) -> Self {
        Self {
            encrypt: false,
            proxy: true,
            ..Self::new(identity)
        }
    }
}

/// A command to send.
#[derive(Debug)]
pub struct Request<'a> {
    /// What it is about.
    pub entity: Entity<'a>,
    /// What to authorise it with.
    pub key: Option<&'a AuthSecret>,
    /// The command.
    pub command: Command<'a>,
}

/// A request that was not accepted, with its ticket.
#[derive(Debug)]
pub struct Rejected<T> {
    /// What is in the way.
    pub reason: RejectReason,
    /// As given.
    pub ticket: T,
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// The block is full: seal it, send it, try again.
    #[error("block is full")]
    BlockFull,
    /// It does not fit into any block.
    #[error("command is too large for a block")]
    TooLarge,
    /// [`IN_FLIGHT_MAX`] requests wait for their answers: receive first.
    #[error("too many requests in flight")]
    Busy,
    /// The server's hello key is useless for authenticators.
    #[error("weak server key")]
    WeakKey,
}

/// An open connection.
pub struct Client<T> {
    version: Version,
    session: SessionId,
    server_key: x25519::PublicKey,
    send: Protection,
    receive: Protection,
    /// Between us, a proxy, and the server.
    relay_key: Option<BoxKey>,
    /// Set if we are a service.
    service: Option<Box<service::Session>>,
    pending: BTreeMap<CorrelationId, reply::Pending<T>>,
}

impl<T> Client<T> {
    /// Takes the server's hello in `received` and writes the client's into `block`, which must be
    /// sent. `leaf` is the key of the certificate that the server showed in TLS, whose session is
    /// `session`.
    ///
    /// # Errors
    /// [`HelloFault`]: this is not the server of `options`, or it speaks none of our versions.
    pub fn open(
        options: &Options,
        session: SessionId,
        leaf: &LeafKey,
        received: &mut Block,
        block: &mut Block,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, HelloFault> {
        Self::greet(options, session, leaf, received, block, rng, |_| Ok(None))
    }

    /// As [`Client::open`], with what a service adds.
    fn greet<'s>(
        options: &Options,
        session: SessionId,
        leaf: &LeafKey,
        received: &mut Block,
        block: &mut Block,
        rng: &mut impl CryptoRng,
        service: impl FnOnce(Version) -> Result<Option<ServiceHello<'s>>, HelloFault>,
    ) -> Result<Self, HelloFault> {
        let text = unpad(received.as_mut_slice()).map_err(|_| HelloFault::Syntax)?;
        let hello = ServerHello::decode(text)?;
        let server_key = hello.verify(&session, options.identity, leaf)?;
        let version = options
            .versions
            .highest_common(hello.versions)
            .ok_or(HelloFault::Version)?;
        let (mut key, mut relay_key) = (None, None);
        let (mut send, mut receive) = (Protection::Plain, Protection::Plain);
        if options.encrypt || options.proxy {
            let secret = x25519::SecretKey::generate(rng);
            let shared = secret
                .diffie_hellman(&server_key)
                .map_err(|_| HelloFault::Signature)?;
            if options.proxy {
                relay_key = Some(BoxKey::from_shared(&shared));
            } else {
                let (from_server, from_client) = BlockChain::pair(&session, &shared);
                send = Protection::Sealed(from_client);
                receive = Protection::Sealed(from_server);
            }
            key = Some(secret.public_key());
        }
        ClientHello {
            version,
            identity: options.identity,
            key,
            proxy: options.proxy,
            service: service(version)?,
        }
        .encode(block)
        .map_err(|_| HelloFault::Syntax)?;
        Ok(Self {
            version,
            session,
            server_key,
            send,
            receive,
            relay_key,
            service: None,
            pending: BTreeMap::new(),
        })
    }

    /// The negotiated version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The TLS session, which authorisations are bound to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The server's hello key, as verified.
    #[must_use]
    pub fn server_key(&self) -> x25519::PublicKey {
        self.server_key
    }

    /// Requests waiting for their answers.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Adds a request to `block`. Its answer comes with `ticket`.
    ///
    /// # Errors
    /// [`Rejected`], with the ticket; nothing has changed then.
    pub fn push(
        &mut self,
        block: &mut OutgoingBlock,
        request: &Request<'_>,
        ticket: T,
        rng: &mut impl CryptoRng,
    ) -> Result<(), Rejected<T>> {
        self.push_as(block, request, ticket, CorrelationId::random(rng))
    }

    /// As [`Client::push`], with a correlation id that the caller has drawn at random, because the
    /// sender id of a new queue with link data follows from it
    /// ([`CorrelationId::derived_sender_id`]). Each one may be used once.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub fn push_as(
        &mut self,
        block: &mut OutgoingBlock,
        request: &Request<'_>,
        ticket: T,
        correlation: CorrelationId,
    ) -> Result<(), Rejected<T>> {
        if self.pending.len() >= IN_FLIGHT_MAX {
            let reason = RejectReason::Busy;
            return Err(Rejected { reason, ticket });
        }
        let service = self.service.as_deref();
        let authoriser = match (&request.command, service) {
            (Command::ServiceSub(_) | Command::NotifierServiceSub(_), Some(service)) => {
                Ok(service.authoriser())
            }
            _ => authoriser(request.key, &self.server_key),
        };
        let authoriser = match authoriser {
            Ok(authoriser) => authoriser,
            Err(reason) => return Err(Rejected { reason, ticket }),
        };
        let signer = service.and_then(|service| service.signer_of(&request.command));
        let pushed = block.push_with(|room| {
            authoriser
                .encode_of(
                    room,
                    self.version,
                    &self.session,
                    &correlation,
                    request.entity,
                    signer,
                    |writer| request.command.encode(writer, self.version),
                )
                .map_err(|_| BlockFull)
        });
        match pushed {
            Ok(()) => {
                let pending = reply::Pending::new(request, ticket);
                self.pending.insert(correlation, pending);
                Ok(())
            }
            Err(full) => Err(rejected(block, full, ticket)),
        }
    }

    /// Finishes `block` for sending; `None` if it is empty. Blocks must be sent in the order they
    /// are sealed.
    pub fn seal<'b>(&mut self, block: &'b mut OutgoingBlock) -> Option<&'b Block> {
        block.seal(&mut self.send)
    }

    /// Opens a received block in place. The answers and events in it come out of the iterator, in
    /// order.
    ///
    /// # Errors
    /// [`BlockFault`]: close the connection. Servers do not send bad blocks.
    pub fn receive<'c, 'b>(
        &'c mut self,
        block: &'b mut Block,
    ) -> Result<Replies<'c, 'b, T>, BlockFault> {
        let text = self.receive.open(block)?;
        Ok(Replies {
            batch: Batch::parse(text)?,
            version: self.version,
            session: self.session,
            relay_key: self.relay_key.as_ref(),
            pending: &mut self.pending,
        })
    }

    /// Gives up the requests whose tickets are `gone`, and tells how many those were. Each of their
    /// answers, if it still comes, is [`Incoming::Stray`].
    pub fn give_up(&mut self, mut gone: impl FnMut(&T) -> bool) -> usize {
        let before = self.pending.len();
        self.pending.retain(|_, pending| !gone(&pending.ticket));
        before - self.pending.len()
    }

    /// Takes back the tickets of all requests that wait, when the connection is lost.
    pub fn into_tickets(self) -> impl Iterator<Item = T> {
        self.pending.into_values().map(|pending| pending.ticket)
    }
}

fn authoriser<'k>(
    key: Option<&'k AuthSecret>,
    server: &x25519::PublicKey,
) -> Result<Authoriser<'k>, RejectReason> {
    match key {
        None => Ok(Authoriser::None),
        Some(AuthSecret::Ed25519(key)) => Ok(Authoriser::Ed25519(key)),
        Some(AuthSecret::X25519(key)) => key
            .diffie_hellman(server)
            .map(|shared| Authoriser::Authenticator(BoxKey::from_shared(&shared)))
            .map_err(|_| RejectReason::WeakKey),
    }
}

fn rejected<T>(block: &OutgoingBlock, BlockFull: BlockFull, ticket: T) -> Rejected<T> {
    let reason = if block.is_empty() {
        RejectReason::TooLarge
    } else {
        RejectReason::BlockFull
    };
    Rejected { reason, ticket }
}
