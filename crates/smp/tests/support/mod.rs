//! A relay of a few lines, in memory: what a shell does with the server half. And a client on the
//! other end of its blocks.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use junto_crypto::{ed25519, x25519};
use junto_smp::{
    block::{Block, BlockFault, OutgoingBlock, SessionId, new_block},
    client::{Client, Event as ClientEvent, Incoming, Options, ReplyFault, Request},
    command::{Command, NewMode, NewQueue, Party},
    error::ErrorCode,
    hello::{HelloFault, LeafKey},
    id::{Entity, MessageId, RecipientId, SenderId},
    key::AuthSecret,
    message::{DeliveryKey, Timestamp},
    notification::NotificationNonce,
    queue::{Change, ConnectionId, Context, Credential, Event, Limits, NotifierNews, Queue},
    response::{NotifierIds, QueueIds, Response},
    server::{self, Handshake, Identity, Refusal, ReplyWriter, RequestReader},
    version::{Version, VersionRange},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

pub const LEAF_SEED: [u8; 32] = [11; 32];

pub fn identity(versions: VersionRange) -> Identity {
    let chain = vec![
        b"leaf certificate".to_vec(),
        b"offline certificate".to_vec(),
    ];
    Identity::new(chain, ed25519::SigningKey::from_seed(&LEAF_SEED))
        .unwrap()
        .with_versions(versions)
}

/// A key that tests know.
pub fn key(seed: u8) -> AuthSecret {
    AuthSecret::Ed25519(ed25519::SigningKey::from_seed(&[seed; 32]))
}

pub fn leaf() -> LeafKey {
    LeafKey::Ed25519(ed25519::SigningKey::from_seed(&LEAF_SEED).verifying_key())
}

/// Server side of one connection, with the blocks it wants to send.
struct ServerConnection {
    requests: RequestReader,
    replies: ReplyWriter,
    outgoing: OutgoingBlock,
    sent: Vec<Box<Block>>,
}

impl ServerConnection {
    /// Pushes, and starts another block when this one is full.
    fn push(
        &mut self,
        mut push: impl FnMut(
            &ReplyWriter,
            &mut OutgoingBlock,
        ) -> Result<(), junto_smp::block::BlockFull>,
    ) {
        if push(&self.replies, &mut self.outgoing).is_err() {
            self.flush();
            push(&self.replies, &mut self.outgoing).expect("fits into an empty block");
        }
    }

    fn flush(&mut self) {
        if let Some(block) = self.replies.seal(&mut self.outgoing) {
            self.sent.push(Box::new(*block));
        }
    }
}

/// The relay: queues by recipient id, and who is connected.
pub struct Relay {
    pub identity: Identity,
    pub limits: Limits,
    pub now: Timestamp,
    pub queues: BTreeMap<RecipientId, Queue>,
    senders: BTreeMap<SenderId, RecipientId>,
    connections: BTreeMap<u64, ServerConnection>,
    pub rng: ChaCha20Rng,
    next: u64,
}

impl Relay {
    pub fn new(versions: VersionRange) -> Self {
        Self {
            identity: identity(versions),
            limits: Limits::default(),
            now: Timestamp(1_800_000_000),
            queues: BTreeMap::new(),
            senders: BTreeMap::new(),
            connections: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(1),
            next: 0,
        }
    }

    /// Connects a client with `options` (identity filled in by the caller).
    pub fn connect(&mut self, options: &Options) -> Result<Peer, HelloFault> {
        let number = self.next;
        self.next += 1;
        let session = SessionId([u8::try_from(number).unwrap(); 32]);
        let (mut hello, mut answer) = (new_block(), new_block());
        let handshake =
            Handshake::start(&self.identity, session, &mut self.rng, &mut hello).unwrap();
        let client = Client::open(
            options,
            session,
            &leaf(),
            &mut hello,
            &mut answer,
            &mut self.rng,
        )?;
        let connection = handshake.finish(&self.identity, &mut answer)?;
        assert_eq!(connection.requests.version(), client.version());
        self.connections.insert(
            number,
            ServerConnection {
                requests: connection.requests,
                replies: connection.replies,
                outgoing: OutgoingBlock::new(),
                sent: Vec::new(),
            },
        );
        Ok(Peer {
            number,
            client,
            outgoing: OutgoingBlock::new(),
            rng: ChaCha20Rng::seed_from_u64(number + 100),
            events: Vec::new(),
        })
    }

    pub fn disconnect(&mut self, number: u64) {
        self.connections.remove(&number);
        for queue in self.queues.values_mut() {
            queue.disconnect(ConnectionId(number));
        }
    }

    /// Takes one block of a connection and answers it.
    pub fn block(&mut self, number: u64, block: &mut Block) -> Result<(), BlockFault> {
        let mut connection = self.connections.remove(&number).unwrap();
        match connection.requests.open(block) {
            Ok(requests) => {
                let requests: Vec<_> = requests.collect();
                for request in requests {
                    match request {
                        Ok(request) => self.request(number, &mut connection, request),
                        Err(refusal) => connection.push(|w, b| w.push_refusal(b, &refusal)),
                    }
                }
                connection.flush();
                self.connections.insert(number, connection);
                Ok(())
            }
            Err(fault) => {
                connection.push(|w, b| w.push_refusal(b, &Refusal::BLOCK));
                connection.flush();
                self.connections.insert(number, connection);
                Err(fault)
            }
        }
    }

    fn request(
        &mut self,
        number: u64,
        connection: &mut ServerConnection,
        request: server::Request<'_>,
    ) {
        let id = request.queue_id();
        let recipient = match request.party() {
            Party::Recipient => id.map(|id| RecipientId(*id)),
            Party::Sender => id.and_then(|id| self.senders.get(&SenderId(*id)).copied()),
            Party::LinkReader => self.find(id, |queue| Some(queue.link()?.id().0)),
            Party::Notifier => self.find(id, |queue| Some(queue.notifier()?.id().0)),
            Party::Creator | Party::Service | Party::Nobody => None,
        };
        let mut queue = recipient.and_then(|recipient| self.queues.get_mut(&recipient));
        let credential = match &queue {
            Some(queue) => queue.credential(request.command()),
            None => Credential::without_queue(request.command()),
        };
        let command = match connection.requests.authorise(request, &credential) {
            Ok(command) => command,
            Err(refusal) => return connection.push(|w, b| w.push_refusal(b, &refusal)),
        };
        let context = Context {
            connection: ConnectionId(number),
            now: self.now,
            limits: self.limits,
        };
        let (correlation, entity) = (command.correlation(), command.entity());
        match command.command() {
            Command::Ping => {
                connection.push(|w, b| w.push(b, Some(&correlation), entity, &Response::Pong))
            }
            Command::Proxy(_) | Command::ProxyForward(_) | Command::RelayForward(_) => {
                let response = Response::Error(ErrorCode::PROHIBITED);
                connection.push(|w, b| w.push(b, Some(&correlation), entity, &response));
            }
            Command::New(_) => {
                let response = match Queue::create(
                    &command,
                    &context,
                    &mut self.rng,
                    Bytes::copy_from_slice,
                ) {
                    Ok((queue, ids)) => {
                        self.senders.insert(ids.sender, ids.recipient);
                        self.queues.insert(ids.recipient, queue);
                        Response::Ids(ids)
                    }
                    Err(code) => Response::Error(code),
                };
                connection.push(|w, b| w.push(b, Some(&correlation), entity, &response));
            }
            _ => {
                let queue = queue.as_mut().unwrap();
                let recipient = queue.recipient();
                let outcome =
                    queue.handle(&command, &context, &mut self.rng, Bytes::copy_from_slice);
                if outcome.change == Some(Change::Deleted) {
                    self.senders.remove(&queue.sender());
                    self.queues.remove(&recipient);
                }
                let answer = outcome.answer;
                connection.push(|w, b| w.push_answer(b, &correlation, entity, &answer));
                if let Some(delivery) = outcome.then {
                    connection.push(|w, b| w.push_delivery(b, None, &delivery));
                }
                if let Some(alert) = &outcome.alert {
                    connection.push(|w, b| w.push_alert(b, alert));
                }
                let mut told = vec![ConnectionId(number)];
                if let Some((to, news)) = outcome.notify_notifier {
                    self.tell(number, connection, to, &news);
                    told.push(to);
                }
                // Every connection takes at once what it is told.
                for to in told {
                    let (now, rng) = (self.now, &mut self.rng);
                    let queue = self.queues.get_mut(&recipient);
                    let Some(queue) = queue else { break };
                    let next = || queue.notified(to, now, rng);
                    for news in std::iter::from_fn(next).collect::<Vec<_>>() {
                        self.tell(number, connection, to, &news);
                    }
                }
                if let Some((to, event)) = outcome.notify {
                    let push = |connection: &mut ServerConnection, event: &Event<Bytes>| {
                        let entity = Entity::Queue(&recipient.0);
                        connection.push(|w, b| w.push_event(b, entity, event));
                    };
                    if to.0 == number {
                        push(connection, &event);
                    } else if let Some(other) = self.connections.get_mut(&to.0) {
                        push(other, &event);
                        other.flush();
                    }
                }
            }
        }
    }

    /// Sends news to `to`, which may be the connection `number` itself.
    fn tell(
        &mut self,
        number: u64,
        connection: &mut ServerConnection,
        to: ConnectionId,
        news: &NotifierNews,
    ) {
        if to.0 == number {
            connection.push(|w, b| w.push_notifier_news(b, news));
        } else if let Some(other) = self.connections.get_mut(&to.0) {
            other.push(|w, b| w.push_notifier_news(b, news));
            other.flush();
        }
    }

    /// The queue with this name.
    fn find(
        &self,
        id: Option<&[u8; 24]>,
        name: impl Fn(&Queue) -> Option<[u8; 24]>,
    ) -> Option<RecipientId> {
        let named = |queue: &&Queue| id.is_some() && name(queue).as_ref() == id;
        self.queues.values().find(named).map(Queue::recipient)
    }

    pub fn take_sent(&mut self, number: u64) -> Vec<Box<Block>> {
        std::mem::take(&mut self.connections.get_mut(&number).unwrap().sent)
    }
}

/// What a client got, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    Ids(QueueIds),
    Subscribed,
    Ok,
    Message(MessageId, Vec<u8>),
    Info(String),
    Link(SenderId, Vec<u8>, Vec<u8>),
    NotifierIds(NotifierIds),
    Notification(NotificationNonce, Vec<u8>),
    Pong,
    End,
    Deleted,
    Error(ErrorCode),
    Unexpected,
}

impl Got {
    pub fn ids(self) -> QueueIds {
        match self {
            Self::Ids(ids) => ids,
            other => panic!("no ids but {other:?}"),
        }
    }

    fn from_response(response: &Response<'_>) -> Self {
        match response {
            Response::Ids(ids) => Self::Ids(*ids),
            Response::Subscribed(_) => Self::Subscribed,
            Response::Message { id, sealed } => Self::Message(*id, sealed.to_vec()),
            Response::Ok => Self::Ok,
            Response::Info(json) => Self::Info(String::from_utf8(json.to_vec()).unwrap()),
            Response::Link(data) => Self::Link(
                data.sender,
                data.blobs.fixed().to_vec(),
                data.blobs.user().to_vec(),
            ),
            Response::NotifierIds(ids) => Self::NotifierIds(*ids),
            Response::Notification { nonce, sealed } => Self::Notification(*nonce, sealed.to_vec()),
            Response::ServiceSubscribed(_) | Response::AllDelivered | Response::ServiceEnd(_) => {
                Self::Unexpected
            }
            Response::Pong => Self::Pong,
            Response::End => Self::End,
            Response::Deleted => Self::Deleted,
            Response::Error(code) => Self::Error(*code),
            Response::ProxyKey(_) | Response::ProxyAnswer(_) | Response::RelayAnswer(_) => {
                Self::Unexpected
            }
        }
    }
}

/// A client and the number of its connection.
pub struct Peer {
    pub number: u64,
    pub client: Client<usize>,
    pub outgoing: OutgoingBlock,
    pub rng: ChaCha20Rng,
    pub events: Vec<(Option<RecipientId>, Got)>,
}

impl Peer {
    /// Sends requests in as few blocks as possible and returns their answers, in order.
    pub fn ask(&mut self, relay: &mut Relay, requests: &[Request<'_>]) -> Vec<Got> {
        let mut answers = vec![None; requests.len()];
        for (ticket, request) in requests.iter().enumerate() {
            let pushed = self
                .client
                .push(&mut self.outgoing, request, ticket, &mut self.rng);
            if pushed.is_err() {
                self.flush(relay, &mut answers);
                self.client
                    .push(&mut self.outgoing, request, ticket, &mut self.rng)
                    .map_err(|rejected| rejected.reason)
                    .unwrap();
            }
        }
        self.flush(relay, &mut answers);
        answers
            .into_iter()
            .map(|got| got.expect("an answer"))
            .collect()
    }

    pub fn ask_one(
        &mut self,
        relay: &mut Relay,
        entity: Entity<'_>,
        key: Option<&AuthSecret>,
        command: Command<'_>,
    ) -> Got {
        self.ask(
            relay,
            &[Request {
                entity,
                key,
                command,
            }],
        )
        .remove(0)
    }

    fn flush(&mut self, relay: &mut Relay, answers: &mut [Option<Got>]) {
        let Some(block) = self.client.seal(&mut self.outgoing) else {
            return;
        };
        let mut block = Box::new(*block);
        relay.block(self.number, &mut block).unwrap();
        self.receive(relay, answers);
    }

    /// Reads everything that the relay has sent.
    pub fn receive(&mut self, relay: &mut Relay, answers: &mut [Option<Got>]) {
        for mut block in relay.take_sent(self.number) {
            for incoming in self.client.receive(&mut block).unwrap() {
                match incoming {
                    Incoming::Reply { ticket, result } => {
                        answers[ticket] = Some(match result {
                            Ok(response) => Got::from_response(&response),
                            Err(ReplyFault::Refused(code) | ReplyFault::Proxy(code)) => {
                                Got::Error(code)
                            }
                            Err(ReplyFault::Unexpected) => Got::Unexpected,
                        });
                    }
                    Incoming::Event(event) => self.events.push(match event {
                        ClientEvent::Message { queue, id, sealed } => {
                            (Some(queue), Got::Message(id, sealed.to_vec()))
                        }
                        ClientEvent::End(queue) => (Some(queue), Got::End),
                        ClientEvent::Deleted(queue) => (Some(queue), Got::Deleted),
                        ClientEvent::Notification {
                            notifier,
                            nonce,
                            sealed,
                        } => (
                            Some(RecipientId(notifier.0)),
                            Got::Notification(nonce, sealed.to_vec()),
                        ),
                        ClientEvent::AllDelivered
                        | ClientEvent::ServiceEnd(_)
                        | ClientEvent::Fault => (None, Got::Unexpected),
                    }),
                    Incoming::Stray => panic!("stray answer"),
                }
            }
        }
    }

    /// A command of the queue's owner.
    pub fn own(&mut self, relay: &mut Relay, queue: &Owned, command: Command<'_>) -> Got {
        self.ask_one(relay, queue.recipient(), Some(&queue.key), command)
    }

    /// Gives the queue to a notification server with this key, and this secret for its notifications.
    pub fn set_notifier(
        &mut self,
        relay: &mut Relay,
        queue: &Owned,
        key: &AuthSecret,
        secret: &x25519::SecretKey,
    ) -> NotifierIds {
        let set = Command::SetNotifier {
            auth_key: key.public_key(),
            dh_key: secret.public_key(),
        };
        match self.own(relay, queue, set) {
            Got::NotifierIds(ids) => ids,
            other => panic!("no NID but {other:?}"),
        }
    }

    /// The events so far.
    pub fn take_events(&mut self, relay: &mut Relay) -> Vec<(Option<RecipientId>, Got)> {
        self.receive(relay, &mut []);
        std::mem::take(&mut self.events)
    }
}

/// A queue as its recipient knows it.
pub struct Owned {
    pub ids: QueueIds,
    pub key: AuthSecret,
    pub delivery: DeliveryKey,
}

impl Owned {
    pub fn recipient(&self) -> Entity<'_> {
        Entity::Queue(&self.ids.recipient.0)
    }

    pub fn sender(&self) -> Entity<'_> {
        Entity::Queue(&self.ids.sender.0)
    }
}

/// Creates a queue.
pub fn create(
    peer: &mut Peer,
    relay: &mut Relay,
    key: AuthSecret,
    mode: NewMode<'_>,
    subscribe: bool,
) -> Owned {
    let secret = x25519::SecretKey::generate(&mut peer.rng);
    let new = NewQueue {
        auth_key: key.public_key(),
        dh_key: secret.public_key(),
        password: None,
        subscribe,
        mode,
        notifier: None,
    };
    let ids = peer
        .ask_one(relay, Entity::None, Some(&key), Command::New(Box::new(new)))
        .ids();
    let shared = secret.diffie_hellman(&ids.server_dh_key).unwrap();
    Owned {
        ids,
        key,
        delivery: DeliveryKey::new(&shared),
    }
}

/// A relay with one queue, and the connection of its owner.
pub fn one_queue(mode: NewMode<'_>, subscribe: bool) -> (Relay, Peer, Owned) {
    let mut relay = Relay::new(VersionRange::SUPPORTED);
    let mut owner = relay.connect(&newest(&relay)).unwrap();
    let queue = create(&mut owner, &mut relay, key(1), mode, subscribe);
    (relay, owner, queue)
}

/// Options for the relay's identity.
pub fn options(relay: &Relay, version: Version) -> Options {
    Options {
        versions: VersionRange::only(version),
        ..Options::new(relay.identity.fingerprint())
    }
}

pub fn newest(relay: &Relay) -> Options {
    Options::new(relay.identity.fingerprint())
}
