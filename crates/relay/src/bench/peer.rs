//! A minimal client of a relay: for measurements and tests. It has no retries, no state and no
//! secrets worth keeping; the agent has the real one.

use std::collections::VecDeque;
use std::io;

use junto_crypto::ed25519::SigningKey;
use junto_crypto::x25519;
use junto_smp::address::ServerAddress;
use junto_smp::block::{Block, BlockFault, OutgoingBlock, SessionId, new_block};
use junto_smp::client::{
    Client, Event, Incoming, Options, RejectReason, ReplyFault, Request, ServiceCredentials,
};
use junto_smp::command::{Command, NewMode, NewQueue};
use junto_smp::encoding::Writer;
use junto_smp::error::ErrorCode;
use junto_smp::hello::{HelloFault, LeafKey};
use junto_smp::id::{
    CorrelationId, Entity, MessageId, NotifierId, RecipientId, SenderId, ServiceId,
};
use junto_smp::key::AuthSecret;
use junto_smp::message::{DeliveryKey, MessageFlags};
use junto_smp::notification::NotificationNonce;
use junto_smp::proxy::{Destination, Forward, ProxyRequest};
use junto_smp::response::{NotifierIds, QueueIds, Response};
use junto_smp::service::{ServiceQueues, ServiceRole};
use junto_smp::version::{Version, VersionRange};
use junto_tls::handshake::{self, HandshakeError};
use junto_tls::{ChainError, ClientTls, Fingerprint, PeerChain, PeerKey, ServiceIdentity};
use rand_chacha::ChaCha20Rng;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::folder::generator;

/// Why a [`Peer`] cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The connection broke.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// No TLS with this server.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// The server behind the proxy is another one.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// No SMP with this server.
    #[error(transparent)]
    Hello(#[from] HelloFault),
    /// A block of the server does not open.
    #[error(transparent)]
    Block(#[from] BlockFault),
    /// The command cannot be sent.
    #[error(transparent)]
    Reject(#[from] RejectReason),
    /// The server refused.
    #[error("refused: {0:?}")]
    Refused(ErrorCode),
    /// The proxy refused.
    #[error("refused by the proxy: {0:?}")]
    Proxy(ErrorCode),
    /// The server said something that makes no sense here.
    #[error("unexpected answer")]
    Unexpected,
    /// The system has no randomness.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
}

/// A queue of our own.
pub struct OwnQueue {
    /// Its names and the rest of what the server said.
    pub ids: QueueIds,
    /// Authorises us.
    pub key: AuthSecret,
    /// Opens messages.
    pub delivery: DeliveryKey,
}

impl OwnQueue {
    /// Our name for it.
    #[must_use]
    pub fn recipient(&self) -> RecipientId {
        self.ids.recipient
    }

    /// The senders' name for it.
    #[must_use]
    pub fn sender(&self) -> SenderId {
        self.ids.sender
    }
}

/// An answer, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `IDS`.
    Ids(Box<QueueIds>),
    /// `SOK`, or `OK` to `SUB`.
    Subscribed,
    /// `SOK`: the queue is one of this service's.
    SubscribedFor(ServiceId),
    /// `SOKS`.
    ServiceSubscribed(ServiceQueues),
    /// `MSG`, with its box.
    Message(MessageId, Vec<u8>),
    /// `OK`.
    Ok,
    /// `INFO`.
    Info(String),
    /// `LNK`: sender id, fixed and user blob.
    Link(SenderId, Vec<u8>, Vec<u8>),
    /// `NID`.
    NotifierIds(NotifierIds),
    /// `PONG`.
    Pong,
    /// `PKEY`, encoded.
    ProxyKey(Vec<u8>),
    /// `PRES` or `RRES`, with its box.
    Sealed(Vec<u8>),
}

/// An event, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// `MSG`, with its box.
    Message(RecipientId, MessageId, Vec<u8>),
    /// `END`.
    End(RecipientId),
    /// `DELD`.
    Deleted(RecipientId),
    /// `NMSG`, with its box.
    Notification(NotifierId, NotificationNonce, Vec<u8>),
    /// `ALLS`.
    AllDelivered,
    /// `ENDS`.
    ServiceEnd(ServiceQueues),
    /// The server could not read something of ours.
    Fault,
}

/// A relay whose hello has come.
struct Met {
    stream: TlsStream<TcpStream>,
    leaf: LeafKey,
    session: SessionId,
    rng: ChaCha20Rng,
}

impl Met {
    /// TLS, and the relay's hello.
    async fn over(
        address: &ServerAddress,
        tcp: TcpStream,
        tls: &ClientTls,
    ) -> Result<(Self, Box<Block>), PeerError> {
        tcp.set_nodelay(true)?;
        let pin = Fingerprint::from_bytes(address.fingerprint().0);
        let connected = handshake::connect(tls, pin, tcp).await?;
        let mut met = Self {
            leaf: leaf_key(connected.chain.leaf_key()),
            session: SessionId(*connected.session_id.as_bytes()),
            stream: connected.stream,
            rng: generator().map_err(PeerError::Random)?,
        };
        let mut hello = new_block();
        met.stream.read_exact(&mut *hello).await?;
        Ok((met, hello))
    }
}

/// A connection to a relay.
pub struct Peer {
    stream: TlsStream<TcpStream>,
    client: Client<u64>,
    outgoing: OutgoingBlock,
    incoming: Box<Block>,
    rng: ChaCha20Rng,
    asked: u64,
    answers: VecDeque<(u64, Result<Said, ReplyFault>)>,
    events: VecDeque<Heard>,
    blocks: Blocks,
}

/// Blocks of a connection, hellos not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// To the relay.
    pub sent: u64,
    /// From the relay.
    pub received: u64,
}

impl Peer {
    /// Connects to the first host of `address`.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect(address: &ServerAddress) -> Result<Self, PeerError> {
        Self::connect_with(address, VersionRange::SUPPORTED, true).await
    }

    /// Connects with these versions, with or without block encryption.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect_with(
        address: &ServerAddress,
        versions: VersionRange,
        encrypt: bool,
    ) -> Result<Self, PeerError> {
        let options = Options {
            versions,
            encrypt,
            ..Options::new(address.fingerprint())
        };
        Self::connect_as(address, &options).await
    }

    /// Connects as `options` say, for example as a proxy.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect_as(address: &ServerAddress, options: &Options) -> Result<Self, PeerError> {
        let host = address.hosts().first().ok_or(PeerError::Unexpected)?;
        let tcp = TcpStream::connect((host.for_resolver(), address.port())).await?;
        Self::connect_over(address, tcp, options).await
    }

    /// Connects over this TCP connection.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect_over(
        address: &ServerAddress,
        tcp: TcpStream,
        options: &Options,
    ) -> Result<Self, PeerError> {
        let tls = ClientTls::new().map_err(HandshakeError::Tls)?;
        let (met, mut incoming) = Box::pin(Met::over(address, tcp, &tls)).await?;
        let mut hello = new_block();
        let Met {
            mut stream,
            leaf,
            session,
            mut rng,
        } = met;
        let client = Client::open(options, session, &leaf, &mut incoming, &mut hello, &mut rng)?;
        stream.write_all(&*hello).await?;
        stream.flush().await?;
        Ok(Self::new(stream, client, incoming, rng))
    }

    /// Connects to the first host of `address` as a service.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect_service(
        address: &ServerAddress,
        versions: VersionRange,
        identity: &ServiceIdentity,
        role: ServiceRole,
    ) -> Result<Self, PeerError> {
        let credentials = ServiceCredentials {
            role,
            chain: identity.chain().iter().map(|c| c.to_vec()).collect(),
            leaf: SigningKey::from_seed(identity.leaf_key().seed()),
        };
        Self::connect_service_as(address, versions, identity, &credentials).await
    }

    /// As [`Peer::connect_service`], saying in the hello something else than in TLS.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn connect_service_as(
        address: &ServerAddress,
        versions: VersionRange,
        identity: &ServiceIdentity,
        credentials: &ServiceCredentials,
    ) -> Result<Self, PeerError> {
        let host = address.hosts().first().ok_or(PeerError::Unexpected)?;
        let tcp = TcpStream::connect((host.for_resolver(), address.port())).await?;
        let tls = ClientTls::with_certificates(identity).map_err(HandshakeError::Tls)?;
        let (met, mut incoming) = Box::pin(Met::over(address, tcp, &tls)).await?;
        let mut hello = new_block();
        let Met {
            mut stream,
            leaf,
            session,
            mut rng,
        } = met;
        let options = Options {
            versions,
            proxy: credentials.role == ServiceRole::Proxy,
            ..Options::new(address.fingerprint())
        };
        let applying = Client::open_service(
            &options,
            credentials,
            session,
            &leaf,
            &mut incoming,
            &mut hello,
            &mut rng,
        )?;
        stream.write_all(&*hello).await?;
        stream.flush().await?;
        stream.read_exact(&mut *incoming).await?;
        let client = applying.accepted(&mut incoming)?;
        Ok(Self::new(stream, client, incoming, rng))
    }

    fn new(
        stream: TlsStream<TcpStream>,
        client: Client<u64>,
        incoming: Box<Block>,
        rng: ChaCha20Rng,
    ) -> Self {
        Self {
            stream,
            client,
            outgoing: OutgoingBlock::new(),
            incoming,
            rng,
            asked: 0,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            blocks: Blocks::default(),
        }
    }

    /// Our id, if we are a service.
    #[must_use]
    pub fn service(&self) -> Option<ServiceId> {
        self.client.service()
    }

    /// The negotiated version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.client.version()
    }

    /// The relay's hello key.
    #[must_use]
    pub fn server_key(&self) -> x25519::PublicKey {
        self.client.server_key()
    }

    /// The TLS session, which authorisations are bound to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.client.session()
    }

    /// The events that have come so far and were not asked for.
    pub fn heard(&mut self) -> impl Iterator<Item = Heard> {
        self.events.drain(..)
    }

    /// Waits for no answer any more that has not come.
    pub fn forget(&mut self) {
        self.client.give_up(|_| true);
    }

    /// The stream below, to misbehave on.
    pub fn stream(&mut self) -> &mut TlsStream<TcpStream> {
        &mut self.stream
    }

    /// The generator of this peer.
    pub fn rng(&mut self) -> &mut ChaCha20Rng {
        &mut self.rng
    }

    /// Adds a command to the block that goes out next; gives the number of its answer.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn ask(&mut self, request: &Request<'_>) -> Result<u64, PeerError> {
        let correlation = CorrelationId::random(&mut self.rng);
        self.ask_as(request, correlation).await
    }

    /// As [`Peer::ask`], with this correlation id, which must not be used twice.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn ask_as(
        &mut self,
        request: &Request<'_>,
        correlation: CorrelationId,
    ) -> Result<u64, PeerError> {
        self.asked += 1;
        let pushed = self
            .client
            .push_as(&mut self.outgoing, request, self.asked, correlation);
        match pushed {
            Ok(()) => {}
            Err(rejected) if rejected.reason == RejectReason::BlockFull => {
                self.send().await?;
                self.client
                    .push_as(&mut self.outgoing, request, self.asked, correlation)
                    .map_err(|rejected| rejected.reason)?;
            }
            Err(rejected) => return Err(rejected.reason.into()),
        }
        Ok(self.asked)
    }

    /// As [`Peer::ask`], for a command to `destination` through this relay.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn ask_through(
        &mut self,
        destination: &Destination,
        request: &Request<'_>,
    ) -> Result<u64, PeerError> {
        // It takes a block of its own.
        self.send().await?;
        self.asked += 1;
        self.client
            .push_forwarded(
                &mut self.outgoing,
                destination,
                request,
                self.asked,
                &mut self.rng,
            )
            .map_err(|rejected| rejected.reason)?;
        Ok(self.asked)
    }

    /// Adds a command that another has sealed for this relay, as a proxy does.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn ask_relayed(
        &mut self,
        correlation: &CorrelationId,
        forward: &Forward<'_>,
    ) -> Result<u64, PeerError> {
        self.asked += 1;
        self.client
            .push_relayed(
                &mut self.outgoing,
                correlation,
                forward,
                self.asked,
                &mut self.rng,
            )
            .map_err(|rejected| rejected.reason)?;
        Ok(self.asked)
    }

    /// Gives a command to `destination` through this relay and waits for the answer.
    ///
    /// # Errors
    /// [`PeerError::Refused`] by the destination, [`PeerError::Proxy`] by this relay.
    pub async fn call_through(
        &mut self,
        destination: &Destination,
        request: &Request<'_>,
    ) -> Result<Said, PeerError> {
        let number = self.ask_through(destination, request).await?;
        self.send().await?;
        self.answer(number).await
    }

    /// Has this relay connect to `server`, and verifies that it did.
    ///
    /// # Errors
    /// [`PeerError::Refused`] by this relay; [`PeerError::Chain`] or [`PeerError::Hello`] if it
    /// shows another server.
    pub async fn proxy_to(
        &mut self,
        server: &ServerAddress,
        password: Option<&[u8]>,
    ) -> Result<Destination, PeerError> {
        let request = ProxyRequest {
            server: server.clone(),
            password,
        };
        let request = Request {
            entity: Entity::None,
            key: None,
            command: Command::Proxy(Box::new(request)),
        };
        let Said::ProxyKey(content) = self.call(&request).await? else {
            return Err(PeerError::Unexpected);
        };
        verified(&content, server, self.client.version())
    }

    /// Sends what was asked.
    ///
    /// # Errors
    /// [`PeerError::Io`].
    pub async fn send(&mut self) -> Result<(), PeerError> {
        if let Some(block) = self.client.seal(&mut self.outgoing) {
            self.stream.write_all(block).await?;
            self.stream.flush().await?;
            self.blocks.sent += 1;
        }
        Ok(())
    }

    /// Blocks so far.
    #[must_use]
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// Receives one block.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn receive(&mut self) -> Result<(), PeerError> {
        self.stream.read_exact(&mut *self.incoming).await?;
        self.blocks.received += 1;
        let version = self.client.version();
        for incoming in self.client.receive(&mut self.incoming)? {
            match incoming {
                Incoming::Reply { ticket, result } => {
                    self.answers
                        .push_back((ticket, result.and_then(|response| own(response, version))));
                }
                Incoming::Event(event) => self.events.push_back(match event {
                    Event::Message { queue, id, sealed } => {
                        Heard::Message(queue, id, sealed.to_vec())
                    }
                    Event::End(queue) => Heard::End(queue),
                    Event::Deleted(queue) => Heard::Deleted(queue),
                    Event::Notification {
                        notifier,
                        nonce,
                        sealed,
                    } => Heard::Notification(notifier, nonce, sealed.to_vec()),
                    Event::AllDelivered => Heard::AllDelivered,
                    Event::ServiceEnd(queues) => Heard::ServiceEnd(queues),
                    Event::Fault => Heard::Fault,
                }),
                Incoming::Stray => return Err(PeerError::Unexpected),
            }
        }
        Ok(())
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn call(&mut self, request: &Request<'_>) -> Result<Said, PeerError> {
        let number = self.ask(request).await?;
        self.send().await?;
        self.answer(number).await
    }

    /// Waits for the answer with this number.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn answer(&mut self, number: u64) -> Result<Said, PeerError> {
        loop {
            let found = self
                .answers
                .iter()
                .position(|(answered, _)| *answered == number);
            if let Some((_, result)) = found.and_then(|found| self.answers.remove(found)) {
                return result.map_err(|fault| match fault {
                    ReplyFault::Refused(code) => PeerError::Refused(code),
                    ReplyFault::Proxy(code) => PeerError::Proxy(code),
                    ReplyFault::Unexpected => PeerError::Unexpected,
                });
            }
            self.receive().await?;
        }
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn event(&mut self) -> Result<Heard, PeerError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.receive().await?;
        }
    }

    /// Creates a queue.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn create(
        &mut self,
        mode: NewMode<'_>,
        subscribe: bool,
        password: Option<&[u8]>,
    ) -> Result<OwnQueue, PeerError> {
        let key = AuthSecret::generate(&mut self.rng);
        self.create_with(key, mode, subscribe, password).await
    }

    /// Creates a queue with this key.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn create_with(
        &mut self,
        key: AuthSecret,
        mode: NewMode<'_>,
        subscribe: bool,
        password: Option<&[u8]>,
    ) -> Result<OwnQueue, PeerError> {
        let secret = x25519::SecretKey::generate(&mut self.rng);
        let new = NewQueue {
            auth_key: key.public_key(),
            dh_key: secret.public_key(),
            password,
            subscribe,
            mode,
            notifier: None,
        };
        let request = Request {
            entity: Entity::None,
            key: Some(&key),
            command: Command::New(Box::new(new)),
        };
        let Said::Ids(ids) = self.call(&request).await? else {
            return Err(PeerError::Unexpected);
        };
        let shared = secret
            .diffie_hellman(&ids.server_dh_key)
            .map_err(|_| PeerError::Unexpected)?;
        Ok(OwnQueue {
            ids: *ids,
            key,
            delivery: DeliveryKey::new(&shared),
        })
    }

    /// Gives a command as the recipient of `queue`.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn own(&mut self, queue: &OwnQueue, command: Command<'_>) -> Result<Said, PeerError> {
        let id = queue.recipient();
        self.call(&Request {
            entity: Entity::Queue(&id.0),
            key: Some(&queue.key),
            command,
        })
        .await
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn send_message(
        &mut self,
        queue: SenderId,
        key: Option<&AuthSecret>,
        body: &[u8],
    ) -> Result<Said, PeerError> {
        let flags = MessageFlags::default();
        self.call(&Request {
            entity: Entity::Queue(&queue.0),
            key,
            command: Command::Send { flags, body },
        })
        .await
    }

    /// Sets the sender's key, as the sender.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn secure(&mut self, queue: SenderId, key: &AuthSecret) -> Result<Said, PeerError> {
        self.call(&Request {
            entity: Entity::Queue(&queue.0),
            key: Some(key),
            command: Command::SenderKey(key.public_key()),
        })
        .await
    }
}

fn own(response: Response<'_>, version: Version) -> Result<Said, ReplyFault> {
    Ok(match response {
        Response::Ids(ids) => Said::Ids(Box::new(ids)),
        Response::Subscribed(None) => Said::Subscribed,
        Response::Subscribed(Some(service)) => Said::SubscribedFor(service),
        Response::ServiceSubscribed(queues) => Said::ServiceSubscribed(queues),
        Response::Message { id, sealed } => Said::Message(id, sealed.to_vec()),
        Response::Ok => Said::Ok,
        Response::Info(json) => Said::Info(String::from_utf8_lossy(json).into_owned()),
        Response::Link(data) => Said::Link(
            data.sender,
            data.blobs.fixed().to_vec(),
            data.blobs.user().to_vec(),
        ),
        Response::NotifierIds(ids) => Said::NotifierIds(ids),
        Response::Pong => Said::Pong,
        Response::ProxyKey(_) => Said::ProxyKey(encoded(&response, version)),
        Response::ProxyAnswer(sealed) | Response::RelayAnswer(sealed) => {
            Said::Sealed(sealed.to_vec())
        }
        Response::Notification { .. }
        | Response::AllDelivered
        | Response::ServiceEnd(_)
        | Response::End
        | Response::Deleted
        | Response::Error(_) => return Err(ReplyFault::Unexpected),
    })
}

fn leaf_key(key: &PeerKey) -> LeafKey {
    match key {
        PeerKey::Ed25519(key) => LeafKey::Ed25519(*key),
        PeerKey::Ed448(key) => LeafKey::Ed448(Box::new(*key)),
    }
}

fn encoded(response: &Response<'_>, version: Version) -> Vec<u8> {
    let mut buffer = new_block();
    let mut writer = Writer::new(&mut *buffer);
    response.encode(&mut writer, version);
    let used = writer.finish().unwrap_or(0);
    buffer.get(..used).unwrap_or_default().to_vec()
}

/// Accepts the encoded `PKEY` for `server`.
fn verified(
    content: &[u8],
    server: &ServerAddress,
    version: Version,
) -> Result<Destination, PeerError> {
    let Ok(Response::ProxyKey(answer)) = Response::decode(content, version) else {
        return Err(PeerError::Unexpected);
    };
    let certificates: Vec<_> = answer.chain.iter().map(CertificateDer::from).collect();
    let pin = Fingerprint::from_bytes(server.fingerprint().0);
    let chain = PeerChain::verify(&certificates, UnixTime::now())?.expect(&pin)?;
    let leaf = leaf_key(chain.leaf_key());
    let versions = VersionRange::SUPPORTED;
    Ok(Destination::verify(
        &answer,
        server.fingerprint(),
        &leaf,
        versions,
    )?)
}
