//! A relay: the server half of `junto-smp` and its queues, without sockets.

use std::collections::BTreeMap;

use bytes::Bytes;
use junto_crypto::ed25519;
use junto_smp::{
    address::ServerAddress,
    block::{Block, BlockFault, BlockFull, OutgoingBlock, SessionId, new_block},
    command::{Command, Party},
    error::ErrorCode,
    hello::LeafKey,
    id::{Entity, LinkId, RecipientId, SenderId},
    message::{DeliveryKey, Timestamp},
    queue::{Change, ConnectionId, Context, Credential, Event, Limits, Message, Queue, QueueParts},
    response::Response,
    server::{self, Authorised, Handshake, Identity, Refusal, ReplyWriter, RequestReader},
};
use rand_chacha::ChaCha8Rng;

mod lying;

use crate::{
    dice::{Dice, Seed},
    malice::{Lie, Malice},
    verdict::Tally,
};

/// Seconds since 1970 at the start of every run.
const START_SECONDS: u64 = 1_800_000_000;

/// A connection to a relay, as the relay numbers it: never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line(pub u64);

/// Blocks that a relay sends, each on its connection.
pub type Sent = Vec<(Line, Box<Block>)>;

struct Connection {
    requests: RequestReader,
    replies: ReplyWriter,
    outgoing: OutgoingBlock,
}

/// See the module.
pub struct Relay {
    address: ServerAddress,
    identity: Identity,
    leaf: LeafKey,
    limits: Limits,
    queues: BTreeMap<RecipientId, Queue>,
    senders: BTreeMap<SenderId, RecipientId>,
    handshakes: BTreeMap<Line, Handshake>,
    connections: BTreeMap<Line, Connection>,
    last_removed: Option<(RecipientId, Message<Bytes>)>,
    lines: u64,
    rng: ChaCha8Rng,
    sent: Sent,
    malice: Option<Malice>,
    /// Connections with a command that it does not answer.
    withheld: Vec<Line>,
    /// The lies that it has told.
    pub told: Tally,
}

impl Relay {
    /// Relay `number` of a run. Some have small queues, so that senders meet full ones.
    ///
    /// # Panics
    /// If its address is none: a defect of the simulation.
    #[must_use]
    pub fn new(seed: Seed, number: usize, dice: &mut Dice) -> Self {
        let mut key = [0; 32];
        key[0] = u8::try_from(number).unwrap_or(u8::MAX);
        let leaf = ed25519::SigningKey::from_seed(&key);
        let public = LeafKey::Ed25519(leaf.verifying_key());
        let chain = vec![vec![key[0]; 9], vec![key[0], 1]];
        let identity = Identity::new(chain, leaf).expect("two certificates");
        let host = format!("relay{number}.example");
        let host = host.parse().expect("a host name");
        let address = ServerAddress::new(identity.fingerprint(), vec![host], 5223);
        let mut limits = Limits::default();
        if dice.chance(300) {
            limits.messages = usize::try_from(dice.between(2, 8)).unwrap_or(2);
        }
        Self {
            address: address.expect("an address"),
            identity,
            leaf: public,
            limits,
            queues: BTreeMap::new(),
            senders: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            connections: BTreeMap::new(),
            last_removed: None,
            lines: 0,
            rng: seed.stream(&format!("relay {number}")),
            sent: Vec::new(),
            malice: None,
            withheld: Vec::new(),
            told: Tally::default(),
        }
    }

    /// It lies from now on, or no more.
    pub fn corrupt(&mut self, malice: Option<Malice>) {
        self.malice = malice;
    }

    /// Whether it lies.
    #[must_use]
    pub fn is_hostile(&self) -> bool {
        self.malice.is_some()
    }

    /// Whether it stops now, to go back in time.
    pub fn goes_back(&mut self) -> bool {
        self.malice.as_mut().is_some_and(Malice::goes_back)
    }

    /// Connections with a command that will not be answered, since the last call.
    pub fn take_withheld(&mut self) -> Vec<Line> {
        core::mem::take(&mut self.withheld)
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// What its TLS certificate shows.
    #[must_use]
    pub fn leaf(&self) -> &LeafKey {
        &self.leaf
    }

    /// Queues that exist.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Somebody connects: the connection's number, its TLS session, and the relay's hello.
    ///
    /// # Panics
    /// If the hello does not fit into a block.
    pub fn accept(&mut self) -> (Line, SessionId, Box<Block>) {
        self.lines += 1;
        let line = Line(self.lines);
        let mut session = SessionId([0; 32]);
        session.0[..8].copy_from_slice(&line.0.to_be_bytes());
        session.0[8] = self.identity.fingerprint().0[0];
        let mut hello = new_block();
        let handshake = Handshake::start(&self.identity, session, &mut self.rng, &mut hello)
            .expect("a short chain fits");
        self.handshakes.insert(line, handshake);
        (line, session, hello)
    }

    /// Whether a connection's hellos are exchanged, so that its blocks are sealed.
    #[must_use]
    pub fn is_open(&self, line: Line) -> bool {
        self.connections.contains_key(&line)
    }

    /// A block arrives. Returns what it makes the relay send.
    ///
    /// # Errors
    /// The block does not open: the connection is to be closed.
    ///
    /// # Panics
    /// If a client breaks the protocol: no client of a simulation does.
    pub fn receive(
        &mut self,
        line: Line,
        mut block: Box<Block>,
        now_ms: u64,
    ) -> Result<Sent, BlockFault> {
        if let Some(handshake) = self.handshakes.remove(&line) {
            let opened = handshake
                .finish(&self.identity, &mut block)
                .unwrap_or_else(|fault| panic!("client hello: {fault}"));
            let connection = Connection {
                requests: opened.requests,
                replies: opened.replies,
                outgoing: OutgoingBlock::new(),
            };
            self.connections.insert(line, connection);
            return Ok(Vec::new());
        }
        let Some(mut connection) = self.connections.remove(&line) else {
            return Ok(Vec::new());
        };
        let requests: Vec<_> = connection.requests.open(&mut block)?.collect();
        let now = Timestamp(START_SECONDS + now_ms / 1000);
        for request in requests {
            let request = request.unwrap_or_else(|refusal| panic!("client request: {refusal:?}"));
            self.lie_about(line, &mut connection, request, now);
        }
        self.let_go(line, &mut connection);
        self.copy_sometimes();
        self.flush(line, &mut connection);
        self.connections.insert(line, connection);
        Ok(core::mem::take(&mut self.sent))
    }

    /// The queue that a request is about.
    fn named(&self, request: &server::Request<'_>) -> Option<RecipientId> {
        let id = request.queue_id();
        match request.party() {
            Party::Recipient => id.map(|id| RecipientId(*id)),
            Party::Sender => id.and_then(|id| self.senders.get(&SenderId(*id)).copied()),
            Party::LinkReader => id.and_then(|id| self.linked(&LinkId(*id))),
            // Agents use neither notifications nor services.
            Party::Creator | Party::Notifier | Party::Service | Party::Nobody => None,
        }
    }

    fn request(
        &mut self,
        line: Line,
        connection: &mut Connection,
        request: server::Request<'_>,
        now: Timestamp,
    ) {
        let recipient = self.named(&request);
        let queue = recipient.and_then(|recipient| self.queues.get(&recipient));
        let credential = match queue {
            Some(queue) => queue.credential(request.command()),
            None => Credential::without_queue(request.command()),
        };
        let context = Context {
            connection: ConnectionId(line.0),
            now,
            limits: self.limits,
        };
        match (
            connection.requests.authorise(request, &credential),
            recipient,
        ) {
            (Err(refusal), _) => self.refuse(line, connection, &refusal),
            (Ok(command), None) => self.create(line, connection, &command, &context),
            (Ok(command), Some(recipient)) => {
                self.command(line, connection, recipient, &command, &context);
            }
        }
    }

    /// The queue with this short link.
    fn linked(&self, link: &LinkId) -> Option<RecipientId> {
        let mut queues = self.queues.values();
        let found = queues.find(|queue| queue.link().is_some_and(|own| own.id() == *link));
        found.map(Queue::recipient)
    }

    fn refuse(&mut self, line: Line, connection: &mut Connection, refusal: &Refusal<'_>) {
        self.push(line, connection, |writer, block| {
            writer.push_refusal(block, refusal)
        });
    }

    fn create(
        &mut self,
        line: Line,
        connection: &mut Connection,
        command: &Authorised<'_>,
        context: &Context,
    ) {
        let response = match command.command() {
            Command::Ping => Response::Pong,
            _ => match Queue::create(command, context, &mut self.rng, Bytes::copy_from_slice) {
                // Its link names a queue that is there already: the answer to the first try was lost.
                Ok((_, ids)) if self.senders.contains_key(&ids.sender) => {
                    Response::Error(ErrorCode::Auth)
                }
                Ok((queue, ids)) => {
                    self.senders.insert(ids.sender, ids.recipient);
                    self.queues.insert(ids.recipient, queue);
                    Response::Ids(ids)
                }
                Err(code) => Response::Error(code),
            },
        };
        let correlation = command.correlation();
        self.push(line, connection, |writer, block| {
            writer.push(block, Some(&correlation), command.entity(), &response)
        });
    }

    fn command(
        &mut self,
        line: Line,
        connection: &mut Connection,
        recipient: RecipientId,
        command: &Authorised<'_>,
        context: &Context,
    ) {
        let Some(queue) = self.queues.get_mut(&recipient) else {
            return;
        };
        let first = queue.messages().next().cloned();
        let outcome = queue.handle(command, context, &mut self.rng, Bytes::copy_from_slice);
        match (outcome.change, first) {
            (Some(Change::Deleted), _) => {
                self.senders.remove(&queue.sender());
                self.queues.remove(&recipient);
            }
            (Some(Change::Removed(_)), Some(message)) => {
                if let Some(malice) = &mut self.malice {
                    malice.remember(message.clone());
                }
                self.last_removed = Some((recipient, message));
            }
            _ => {}
        }
        let correlation = command.correlation();
        self.push(line, connection, |writer, block| {
            writer.push_answer(block, &correlation, command.entity(), &outcome.answer)
        });
        if let Some(delivery) = &outcome.then {
            self.push(line, connection, |writer, block| {
                writer.push_delivery(block, None, delivery)
            });
        }
        if let Some((to, event)) = &outcome.notify {
            self.notify(line, connection, Line(to.0), &recipient, event);
        }
    }

    /// Tells the subscriber, who may be the commanding connection itself.
    fn notify(
        &mut self,
        line: Line,
        connection: &mut Connection,
        to: Line,
        recipient: &RecipientId,
        event: &Event<Bytes>,
    ) {
        self.push_over(line, connection, to, |writer, block| {
            writer.push_event(block, Entity::Queue(&recipient.0), event)
        });
    }

    /// Pushes into the block of a connection, which may be the commanding one.
    fn push_over(
        &mut self,
        line: Line,
        connection: &mut Connection,
        to: Line,
        push: impl Fn(&ReplyWriter, &mut OutgoingBlock) -> Result<(), BlockFull>,
    ) {
        if to == line {
            self.push(line, connection, push);
        } else if let Some(mut other) = self.connections.remove(&to) {
            self.push(to, &mut other, push);
            self.flush(to, &mut other);
            self.connections.insert(to, other);
        }
    }

    /// Pushes into the connection's block, or into its next one.
    fn push(
        &mut self,
        line: Line,
        connection: &mut Connection,
        push: impl Fn(&ReplyWriter, &mut OutgoingBlock) -> Result<(), BlockFull>,
    ) {
        if push(&connection.replies, &mut connection.outgoing).is_err() {
            self.flush(line, connection);
            push(&connection.replies, &mut connection.outgoing).expect("an empty block has room");
        }
    }

    fn flush(&mut self, line: Line, connection: &mut Connection) {
        if let Some(block) = connection.replies.seal(&mut connection.outgoing) {
            self.sent.push((line, Box::new(*block)));
        }
    }

    /// A connection is gone.
    pub fn hang_up(&mut self, line: Line) {
        self.handshakes.remove(&line);
        self.connections.remove(&line);
        for queue in self.queues.values_mut() {
            queue.disconnect(ConnectionId(line.0));
        }
    }

    /// Stops and starts again: connections are gone, queues are as in the journal. With
    /// `forget_ack`, the last acknowledgement did not make it there.
    pub fn restart(&mut self, forget_ack: bool) {
        self.handshakes.clear();
        self.connections.clear();
        let forgotten = self.last_removed.take().filter(|_| forget_ack);
        for queue in self.queues.values_mut() {
            let forgotten = forgotten.as_ref();
            let own = forgotten.filter(|(recipient, _)| *recipient == queue.recipient());
            *queue = restored(queue, own.map(|(_, message)| message));
        }
        let Some(malice) = &mut self.malice else {
            return;
        };
        if let Some(copy) = malice.copy.take() {
            self.told.count(Lie::GoBack.name());
            self.senders = copy
                .iter()
                .map(|it| (it.sender(), it.recipient()))
                .collect();
            self.queues = copy.into_iter().map(|it| (it.recipient(), it)).collect();
        }
    }
}

/// A queue as its journal has it, perhaps with a message in front that was acknowledged already.
fn restored(queue: &Queue, first: Option<&Message<Bytes>>) -> Queue {
    let mut restored = Queue::restore(QueueParts {
        recipient: queue.recipient(),
        sender: queue.sender(),
        mode: queue.mode(),
        recipient_key: queue.recipient_keys()[0].clone(),
        sender_key: queue.sender_key().cloned(),
        delivery_key: DeliveryKey::from_bytes(queue.delivery_key().as_bytes()),
        suspended: queue.is_suspended(),
    });
    for message in first.into_iter().chain(queue.messages()) {
        restored.restore_message(message.clone());
    }
    restored.restore_link(queue.link().cloned());
    restored
}
