//! A relay of a few lines around the server half, on plain blocks.
//!
//! Commands need signatures, which no fuzzer invents. All queues here have the key [`signer`], and
//! [`sign_all`] puts its signature wherever a transmission has room for one, so the fuzzer chooses
//! what is signed. Some clients are services, which sign as well.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use junto_crypto::{ed25519, pad, x25519};
use junto_smp::{
    block::{Batch, Block, BlockChain, BlockFull, OutgoingBlock, Protection, SessionId, new_block},
    command::{Command, Party, QueueMode},
    error::ErrorCode,
    hello::{ClientHello, LeafKey, SignedKey},
    id::{Entity, MessageId, NotifierId, RecipientId, SenderId, ServiceId},
    key::{AuthKey, AuthSecret},
    message::{DeliveryKey, Timestamp},
    notification::NotificationKey,
    queue::{
        Answer, Change, ConnectionId, Content, Context, Credential, Limits, NotifierEvent,
        NotifierNews, NotifierParts, Queue, QueueParts,
    },
    response::Response,
    server::{
        Authorised, ClientCertificates, Connection, Greeted, Handshake, Identity, Refusal,
        ReplyWriter, Request, RequestReader,
    },
    service::{Service, ServiceHello, ServiceQueues, ServiceRole},
    transmission::Transmission,
    version::Version,
};
use rand_chacha::ChaCha20Rng;

use super::plain;
use crate::{input::Input, seeds};

pub(crate) const LEAF_SEED: [u8; 32] = [11; 32];
/// The recipient id of the first queue; its sender id is this plus 0x80. The others follow.
pub(crate) const FIRST_QUEUE: u8 = 1;
/// The id of the first queue's notifier.
pub(crate) const NOTIFIER: u8 = 0x41;
pub(crate) const LIMITS: Limits = Limits {
    unused_days: None,
    messages: 4,
    retention_seconds: 1_000,
};

pub(crate) fn session(connection: u64) -> SessionId {
    SessionId([u8::try_from(connection).unwrap_or(0xff); 32])
}

pub(crate) fn identity() -> Identity {
    let chain = vec![b"leaf".to_vec(), b"identity".to_vec()];
    Identity::new(chain, ed25519::SigningKey::from_seed(&LEAF_SEED)).unwrap()
}

/// The key of every queue's recipient.
pub(crate) fn signer() -> ed25519::SigningKey {
    ed25519::SigningKey::from_seed(&[22; 32])
}

/// A service in one of the roles, with a certificate of its own for each number.
#[derive(Clone, Copy)]
pub(crate) struct Certified {
    pub(crate) role: ServiceRole,
    pub(crate) number: u8,
}

impl Certified {
    pub(crate) fn chain(self) -> Vec<Vec<u8>> {
        vec![vec![self.role.to_byte(), self.number]]
    }

    pub(crate) fn leaf() -> ed25519::SigningKey {
        ed25519::SigningKey::from_seed(&[33; 32])
    }

    /// What it shows in TLS.
    pub(crate) fn shown(self) -> ClientCertificates {
        ClientCertificates {
            chain: self.chain(),
            leaf: LeafKey::Ed25519(Self::leaf().verifying_key()),
        }
    }

    pub(crate) fn service(self) -> Service {
        let fingerprint = junto_smp::service::fingerprint_of_chain(&self.chain());
        Service::new(self.role, fingerprint.unwrap())
    }

    /// What it signs with on a plain connection.
    fn session_key(connection: u64) -> ed25519::SigningKey {
        ed25519::SigningKey::from_seed(&[session(connection).0[0] ^ 0x55; 32])
    }
}

/// The receiving end of a connection with block encryption.
pub(crate) fn chain() -> Protection {
    let secret = x25519::SecretKey::from_bytes(&[1; 32]);
    let peer = x25519::SecretKey::from_bytes(&[2; 32]).public_key();
    let shared = secret.diffie_hellman(&peer).unwrap();
    Protection::Sealed(BlockChain::pair(&session(0), &shared).1)
}

struct Peer {
    requests: RequestReader,
    replies: ReplyWriter,
    outgoing: OutgoingBlock,
    sent: Vec<Box<Block>>,
}

impl Peer {
    fn push(&mut self, push: impl Fn(&ReplyWriter, &mut OutgoingBlock) -> Result<(), BlockFull>) {
        if push(&self.replies, &mut self.outgoing).is_err() {
            self.flush();
            push(&self.replies, &mut self.outgoing).expect("an empty block takes everything");
        }
    }

    fn flush(&mut self) {
        if let Some(block) = self.replies.seal(&mut self.outgoing) {
            self.sent.push(Box::new(*block));
        }
    }
}

pub(crate) struct Relay {
    pub(crate) identity: Identity,
    pub(crate) now: Timestamp,
    rng: ChaCha20Rng,
    queues: BTreeMap<RecipientId, Queue>,
    senders: BTreeMap<SenderId, RecipientId>,
    peers: BTreeMap<u64, Peer>,
    /// Which connection reads for a service.
    readers: BTreeMap<ServiceId, u64>,
}

impl Relay {
    pub(crate) fn new() -> Self {
        Self {
            identity: identity(),
            now: Timestamp(1_000_000),
            rng: seeds::rng(1),
            queues: BTreeMap::new(),
            senders: BTreeMap::new(),
            peers: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    /// Queues with known names, one of each mode, the first one secured and with a notifier.
    pub(crate) fn add_queues(&mut self) {
        let modes = [Some(QueueMode::Messaging), Some(QueueMode::Contact), None];
        for (number, mode) in (FIRST_QUEUE..).zip(modes) {
            let key = AuthKey::Ed25519(signer().verifying_key());
            let (recipient, sender) = (RecipientId([number; 24]), SenderId([number + 0x80; 24]));
            let parts = QueueParts {
                recipient,
                sender,
                mode,
                recipient_key: key.clone(),
                sender_key: (number == FIRST_QUEUE).then_some(key),
                delivery_key: DeliveryKey::from_bytes(&[number; 32]),
                suspended: false,
            };
            let mut queue = Queue::restore(parts);
            queue.restore_notifier((number == FIRST_QUEUE).then(|| NotifierParts {
                id: NotifierId([NOTIFIER; 24]),
                auth_key: AuthKey::Ed25519(signer().verifying_key()),
                key: NotificationKey::from_bytes(&[number; 32]),
            }));
            self.senders.insert(sender, recipient);
            self.queues.insert(recipient, queue);
        }
    }

    /// The hello for a new connection.
    pub(crate) fn greet(&mut self, connection: u64, block: &mut Block) -> Handshake {
        Handshake::start(&self.identity, session(connection), &mut self.rng, block).unwrap()
    }

    /// Takes the hello of a client that has shown these certificates. If that makes it a service, the
    /// third block is in `block` then.
    pub(crate) fn accept(
        &mut self,
        connection: u64,
        handshake: Handshake,
        shown: Option<&ClientCertificates>,
        block: &mut Block,
    ) {
        let greeted = handshake.greet(&self.identity, shown, block).unwrap();
        let Connection { requests, replies } = match greeted {
            Greeted::Client(connection) => connection,
            Greeted::Service(applicant) => {
                let service = Service::new(applicant.role(), applicant.fingerprint());
                applicant.accept(Arc::new(service), block).unwrap()
            }
        };
        let peer = Peer {
            requests,
            replies,
            outgoing: OutgoingBlock::new(),
            sent: Vec::new(),
        };
        self.peers.insert(connection, peer);
    }

    /// A connection of a client that encrypts nothing, and is a service or none.
    fn connect_plain(&mut self, connection: u64, version: Version, certified: Option<Certified>) {
        let mut block = new_block();
        let handshake = self.greet(connection, &mut block);
        let chain = certified.map(Certified::chain).unwrap_or_default();
        let session_key = Certified::session_key(connection).verifying_key();
        ClientHello {
            version,
            identity: self.identity.fingerprint(),
            key: None,
            proxy: false,
            service: certified.map(|certified| ServiceHello {
                role: certified.role,
                chain: chain.iter().map(Vec::as_slice).collect(),
                key: SignedKey::sign(session_key, &Certified::leaf()),
            }),
        }
        .encode(&mut block)
        .unwrap();
        let shown = certified.map(Certified::shown);
        self.accept(connection, handshake, shown.as_ref(), &mut block);
    }

    pub(crate) fn disconnect(&mut self, connection: u64) {
        self.peers.remove(&connection);
        self.readers.retain(|_, reader| *reader != connection);
        for queue in self.queues.values_mut() {
            queue.disconnect(ConnectionId(connection));
        }
    }

    /// Takes one block; `false` if the connection must end.
    pub(crate) fn block(&mut self, connection: u64, block: &mut Block) -> bool {
        let Some(mut peer) = self.peers.remove(&connection) else {
            return false;
        };
        let alive = match peer.requests.open(block) {
            Ok(requests) => {
                for request in requests.collect::<Vec<_>>() {
                    match request {
                        Ok(request) => self.request(connection, &mut peer, request),
                        Err(refusal) => peer.push(|w, b| w.push_refusal(b, &refusal)),
                    }
                }
                true
            }
            Err(fault) => {
                peer.push(|w, b| w.push_refusal(b, &Refusal::BLOCK));
                !fault.is_fatal()
            }
        };
        peer.flush();
        self.peers.insert(connection, peer);
        alive
    }

    fn request(&mut self, connection: u64, peer: &mut Peer, request: Request<'_>) {
        let id = request.queue_id();
        let recipient = match request.party() {
            Party::Recipient => id.map(|id| RecipientId(*id)),
            Party::Sender => id.and_then(|id| self.senders.get(&SenderId(*id)).copied()),
            Party::LinkReader => self.find(id, |queue| Some(queue.link()?.id().0)),
            Party::Notifier => self.find(id, |queue| Some(queue.notifier()?.id().0)),
            Party::Creator | Party::Service | Party::Nobody => None,
        };
        let context = self.context(connection);
        let mut queue = recipient.and_then(|recipient| self.queues.get_mut(&recipient));
        if let Some(queue) = &mut queue {
            follow(queue, &self.readers);
        }
        let credential = match &queue {
            Some(queue) => queue.credential(request.command()),
            None => Credential::without_queue(request.command()),
        };
        let command = match peer.requests.authorise(request, &credential) {
            Ok(command) => command,
            Err(refusal) => return peer.push(|w, b| w.push_refusal(b, &refusal)),
        };
        let (correlation, entity) = (command.correlation(), command.entity());
        let Some(queue) = queue else {
            let response = match command.command() {
                Command::Ping => Response::Pong,
                Command::Resolve(_) => Response::Error(ErrorCode::Name),
                Command::ServiceSub(_) | Command::NotifierServiceSub(_) => {
                    return self.subscribe_all(connection, peer, &command);
                }
                _ => match Queue::create(&command, &context, &mut self.rng, Bytes::copy_from_slice)
                {
                    Ok((queue, ids)) => {
                        self.senders.insert(ids.sender, ids.recipient);
                        self.queues.insert(ids.recipient, queue);
                        self.read_for(connection, peer, command.service());
                        Response::Ids(ids)
                    }
                    Err(code) => Response::Error(code),
                },
            };
            return peer.push(|w, b| w.push(b, Some(&correlation), entity, &response));
        };
        let outcome = queue.handle(&command, &context, &mut self.rng, Bytes::copy_from_slice);
        assert!(queue.messages().len() <= LIMITS.messages + 1);
        let is_of = |service: Option<&Arc<Service>>, role| service.is_none_or(|s| s.role == role);
        assert!(is_of(queue.service(), ServiceRole::Messaging));
        let notifier = queue.notifier().and_then(|notifier| notifier.service());
        assert!(is_of(notifier, ServiceRole::Notifier));
        let recipient = queue.recipient();
        if outcome.change == Some(Change::Deleted) {
            self.senders.remove(&queue.sender());
            self.queues.remove(&recipient);
        }
        if !matches!(outcome.answer, Answer::Error(_)) {
            self.read_for(connection, peer, command.service());
        }
        peer.push(|w, b| w.push_answer(b, &correlation, entity, &outcome.answer));
        if let Some(delivery) = &outcome.then {
            peer.push(|w, b| w.push_delivery(b, None, delivery));
        }
        if let Some(alert) = &outcome.alert {
            peer.push(|w, b| w.push_alert(b, alert));
            self.notify_on(connection, peer, &recipient, connection);
        }
        if let Some((to, news)) = &outcome.notify_notifier {
            self.tell(connection, peer, to.0, |w, b| w.push_notifier_news(b, news));
            if matches!(news.event, NotifierEvent::Notification(_)) {
                self.notify_on(connection, peer, &recipient, to.0);
            }
        }
        if let Some((to, event)) = &outcome.notify {
            let entity = Entity::Queue(&recipient.0);
            self.tell(connection, peer, to.0, |w, b| {
                w.push_event(b, entity, event)
            });
        }
    }

    fn context(&self, connection: u64) -> Context {
        Context {
            connection: ConnectionId(connection),
            now: self.now,
            limits: LIMITS,
        }
    }

    /// Sends to a connection, of which one is not among the others right now.
    fn tell(
        &mut self,
        connection: u64,
        peer: &mut Peer,
        to: u64,
        push: impl Fn(&ReplyWriter, &mut OutgoingBlock) -> Result<(), BlockFull>,
    ) {
        if to == connection {
            return peer.push(push);
        }
        let other = self.peers.get_mut(&to);
        let other = other.expect("news for a connection that is gone");
        other.push(push);
        other.flush();
    }

    /// What follows when a notification has been taken at once.
    fn notify_on(&mut self, connection: u64, peer: &mut Peer, recipient: &RecipientId, to: u64) {
        loop {
            let queue = self.queues.get_mut(recipient);
            let next: Option<NotifierNews> =
                queue.and_then(|queue| queue.notified(ConnectionId(to), self.now, &mut self.rng));
            let Some(news) = next else { return };
            self.tell(connection, peer, to, |w, b| w.push_notifier_news(b, &news));
        }
    }

    /// From now on the connection reads for its service.
    fn read_for(&mut self, connection: u64, peer: &mut Peer, service: Option<&Arc<Service>>) {
        let Some(service) = service else { return };
        let before = self.readers.insert(service.id, connection);
        if let Some(before) = before.filter(|before| *before != connection) {
            let (id, end) = (service.id.0, Response::ServiceEnd(self.queues_of(service)));
            self.tell(connection, peer, before, |w, b| {
                w.push(b, None, Entity::Queue(&id), &end)
            });
        }
    }

    /// How many queues are a service's, and which.
    fn queues_of(&self, service: &Service) -> ServiceQueues {
        let mut queues = ServiceQueues::default();
        for id in self.queues.values().filter_map(|q| name_for(q, service)) {
            queues.count += 1;
            queues.hash.toggle(&id);
        }
        queues
    }

    fn subscribe_all(&mut self, connection: u64, peer: &mut Peer, command: &Authorised<'_>) {
        let service = command.service().expect("nobody else is let in");
        self.read_for(connection, peer, Some(service));
        let answer = Response::ServiceSubscribed(self.queues_of(service));
        let (correlation, entity) = (command.correlation(), command.entity());
        peer.push(|w, b| w.push(b, Some(&correlation), entity, &answer));
        let context = self.context(connection);
        let mut alerted = Vec::new();
        for queue in self.queues.values_mut() {
            follow(queue, &self.readers);
            match service.role {
                _ if name_for(queue, service).is_none() => {}
                ServiceRole::Notifier => {
                    if let Some(alert) = queue.notify_waiting(&context, &mut self.rng) {
                        peer.push(|w, b| w.push_alert(b, &alert));
                        alerted.push(queue.recipient());
                    }
                }
                ServiceRole::Messaging | ServiceRole::Proxy => {
                    if let Some(delivery) = queue.deliver_waiting(context.connection) {
                        peer.push(|w, b| w.push_delivery(b, None, &delivery));
                    }
                }
            }
        }
        for recipient in alerted {
            self.notify_on(connection, peer, &recipient, connection);
        }
        if service.role == ServiceRole::Messaging {
            peer.push(|w, b| w.push(b, None, Entity::None, &Response::AllDelivered));
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

    /// What waits in a queue, `None` for the marker of a full queue.
    pub(crate) fn waiting(&self, recipient: &RecipientId) -> VecDeque<Option<Vec<u8>>> {
        let queue = self.queues.get(recipient);
        let messages = queue.into_iter().flat_map(Queue::messages);
        messages
            .map(|message| match &message.content {
                Content::Body { body, .. } => Some(body.to_vec()),
                Content::QuotaReached => None,
            })
            .collect()
    }

    /// The messages of which a notification server may hear.
    pub(crate) fn notifiable(&self, recipient: &RecipientId) -> Vec<MessageId> {
        let queue = self.queues.get(recipient);
        let messages = queue.into_iter().flat_map(Queue::messages);
        let wanted = messages.filter(|message| match &message.content {
            Content::Body { flags, .. } => flags.notify,
            Content::QuotaReached => false,
        });
        wanted.map(|message| message.id).collect()
    }

    /// Blocks on their way to that client.
    pub(crate) fn take_sent(&mut self, connection: u64) -> Vec<Box<Block>> {
        let peer = self.peers.get_mut(&connection);
        peer.map_or_else(Vec::new, |peer| std::mem::take(&mut peer.sent))
    }
}

/// The queue is read by who reads for its services.
fn follow(queue: &mut Queue, readers: &BTreeMap<ServiceId, u64>) {
    let reader = |service: Option<&Arc<Service>>| {
        let reader = service.and_then(|service| readers.get(&service.id));
        reader.copied().map(ConnectionId)
    };
    let own = reader(queue.service());
    let notifier = reader(queue.notifier().and_then(|notifier| notifier.service()));
    queue.follow_services(own, notifier);
}

/// What a service calls this queue, if it is one of its.
fn name_for(queue: &Queue, service: &Service) -> Option<[u8; 24]> {
    let is = |of: Option<&Arc<Service>>| of.is_some_and(|of| of.id == service.id);
    let notifier = queue.notifier();
    match service.role {
        ServiceRole::Notifier => {
            let notifier = notifier.filter(|notifier| is(notifier.service()))?;
            Some(notifier.id().0)
        }
        ServiceRole::Messaging | ServiceRole::Proxy => {
            is(queue.service()).then(|| queue.recipient().0)
        }
    }
}

/// Puts the signature of [`signer`] into every transmission of `text` that has room for one, and that
/// of the service if there is one on this connection and room for it.
fn sign_all(text: &mut [u8], version: Version, connection: u64, certified: Option<Certified>) {
    let session = session(connection);
    let Ok(batch) = Batch::parse(text) else {
        return;
    };
    let head = 1 + 64 + usize::from(version.has_services());
    for transmission in batch {
        if transmission.first() != Some(&64) || transmission.len() < head {
            continue;
        }
        let own = Certified::session_key(connection);
        let serves = certified.is_some() && version.has_services();
        let start = match serves && transmission[head - 1..].starts_with(&[b'1', 64]) {
            true => (head + 65).min(transmission.len()),
            false => head,
        };
        let signed = [&[32][..], &session.0, &transmission[start..]].concat();
        let mut copy = transmission.to_vec();
        let content = Transmission::decode(&mut copy, version, &session).map(|t| t.content);
        let is_for_all = content.is_ok_and(|content| {
            let command = Command::decode(content, version);
            matches!(
                command,
                Ok(Command::ServiceSub(_) | Command::NotifierServiceSub(_))
            )
        });
        let signature = match certified.filter(|_| serves) {
            Some(_) if is_for_all => own.sign(&signed),
            Some(certified) if start == head + 65 => {
                transmission[head + 1..start].copy_from_slice(own.sign(&signed).as_bytes());
                let fingerprint = certified.service().fingerprint.0;
                signer().sign(&[&fingerprint[..], &signed].concat())
            }
            _ => signer().sign(&signed),
        };
        transmission[1..65].copy_from_slice(&signature.0);
    }
}

/// Everything that our server says, our client understands.
fn check_replies(
    block: &mut Block,
    version: Version,
    session: &SessionId,
    is_service: bool,
    hear: &mut impl FnMut(&Response<'_>),
) {
    assert_eq!(
        pad::unpad(block.as_slice()).map(<[u8]>::is_empty),
        Ok(false)
    );
    let text = Protection::Plain.open(block).unwrap();
    for bytes in Batch::parse(text).unwrap() {
        let transmission = Transmission::decode(bytes, version, session).unwrap();
        assert!(transmission.authorization.is_none());
        let response = Response::decode(transmission.content, version).unwrap();
        response.check_entity(transmission.entity).unwrap();
        let asked = transmission.correlation.is_some();
        let event = matches!(
            response,
            Response::End
                | Response::Deleted
                | Response::Message { .. }
                | Response::Notification { .. }
                | Response::Error(_)
        );
        let of_services = matches!(response, Response::AllDelivered | Response::ServiceEnd(_));
        let event = event || of_services && is_service;
        assert!(asked || event, "an answer to nobody: {response:?}");
        hear(&response);
    }
}

/// Who the two clients are, from version 16 on: of each two bits for its role, then one that says whether
/// they show the same certificate if they have the same.
fn certified(who: u8, version: Version) -> [Option<Certified>; 2] {
    [0, 1].map(|number| {
        let role = match who >> (2 * number) & 3 {
            0 => return None,
            1 => ServiceRole::Messaging,
            2 => ServiceRole::Notifier,
            _ => ServiceRole::Proxy,
        };
        let number = if who & 16 == 0 { 0 } else { number };
        Some(Certified { role, number }).filter(|_| version.has_services())
    })
}

/// Blocks of two clients: first the version and who they are. Each piece: connection and passing
/// time, then the text of a block.
pub(crate) fn server(bytes: &[u8]) {
    converse(bytes, &mut |_| {});
}

fn converse(bytes: &[u8], hear: &mut impl FnMut(&Response<'_>)) {
    let mut input = Input(bytes);
    let first = usize::from(input.u8());
    let version = Version::ALL[first % Version::ALL.len()];
    let who = u8::try_from(first / Version::ALL.len()).expect("less than before");
    let certified = certified(who, version);
    let mut relay = Relay::new();
    relay.add_queues();
    for (connection, certified) in (0..).zip(certified) {
        relay.connect_plain(connection, version, certified);
    }
    while !input.is_empty() {
        let what = input.u8();
        let connection = u64::from(what & 1);
        let own = certified[usize::from(what & 1)];
        relay.now.0 += u64::from(what >> 2);
        let mut text = input.piece().to_vec();
        if what & 2 == 0 {
            sign_all(&mut text, version, connection, own);
        }
        if !relay.block(connection, &mut plain(&text)) {
            relay.disconnect(connection);
            relay.connect_plain(connection, version, own);
        }
        for (connection, certified) in (0..).zip(certified) {
            for mut block in relay.take_sent(connection) {
                let session = session(connection);
                check_replies(&mut block, version, &session, certified.is_some(), hear);
            }
        }
    }
}

/// The first byte of such an input.
pub(crate) fn opening(version: usize, who: u8) -> u8 {
    u8::try_from(version + usize::from(who) * Version::ALL.len()).expect("who is below 42")
}

/// For seeds: a transmission signed by nobody yet, with room for the signature of a service or none.
pub(crate) fn unsigned(
    version: Version,
    correlation: u8,
    entity: &[u8],
    command: &Command<'_>,
    by_service: bool,
) -> Vec<u8> {
    super::written(|writer| {
        writer.short(&[0; 64]);
        if version.has_services() && by_service {
            writer.u8(b'1');
            writer.short(&[0; 64]);
        } else if version.has_services() {
            writer.u8(b'0');
        }
        writer.short(&[correlation; 24]);
        writer.short(entity);
        command.encode(writer, version);
    })
}

/// For seeds: the key of every queue as a client has it.
pub(crate) fn secret() -> AuthSecret {
    AuthSecret::Ed25519(signer())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Certificates, both signatures, and the commands about all queues: what is behind them is searched, too.
    #[test]
    fn the_seeds_of_services_get_through() {
        let with_services = Version::ALL.iter().filter(|version| version.has_services());
        let (mut seeds, mut served, mut all) = (0, 0, 0);
        for seed in seeds::of("smp_server") {
            if usize::from(seed[0]) < Version::ALL.len() {
                continue; // Of plain clients.
            }
            seeds += 1;
            let mut refused = 0;
            converse(&seed, &mut |response| match response {
                Response::Subscribed(service) => served += usize::from(service.is_some()),
                Response::Ids(ids) => served += usize::from(ids.service.is_some()),
                Response::ServiceSubscribed(queues) => all += queues.count,
                Response::Error(_) => refused += 1,
                _ => {}
            });
            assert_eq!(refused, 1, "the one with a wrong id");
        }
        assert_eq!(seeds, with_services.count());
        // Of each: SUB, NSUB and NEW; one queue each of SUBS and NSUBS.
        assert_eq!((served, all), (3 * seeds, 2 * seeds as u64));
    }
}
