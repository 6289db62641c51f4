//! A carrier in memory, for tests and figures: durable and ordered as a real one, and as unkind as
//! a real one may be.
//!
//! The [`Hub`] is the network and everybody's disk at once. Opening a mailbox again stands for a
//! restart of its owner: everything unsettled comes again.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use junto_crypto::hash;
use tokio::sync::mpsc;

use super::{
    Carriage, Carrier, CarrierError, ConnectionId, Event, Events, Lines, MessageId, RequestId, Tag,
    TroubleKind,
};

/// What goes wrong between mailboxes. Nothing is lost: a carrier is durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unkindness {
    /// Every so many messages one comes twice; 0 for never.
    pub repeat_every: u64,
    /// Each message waits up to this long, so that connections overtake each other.
    pub delay_max: Duration,
}

#[derive(Debug, thiserror::Error)]
enum MemoryError {
    #[error("no such address or invitation")]
    NoLink,
    #[error("no such connection or request")]
    NoConnection,
    #[error("body of {0} bytes is too long")]
    TooLong(usize),
}

impl From<MemoryError> for CarrierError {
    fn from(error: MemoryError) -> Self {
        Self {
            kind: TroubleKind::Final,
            source: Box::new(error),
        }
    }
}

type Owner = usize;

struct End {
    owner: Owner,
    tag: Tag,
    /// What the other side passed.
    info: Vec<u8>,
    other: ConnectionId,
    binding: [u8; 32],
    connected: bool,
    next_message: u64,
    unsettled: BTreeMap<u64, Bytes>,
    /// Messages on their way to `owner`.
    travelling: VecDeque<(u64, Bytes)>,
    has_courier: bool,
}

struct Request {
    owner: Owner,
    tag: Tag,
    joiner: ConnectionId,
    info: Vec<u8>,
    accepted: Option<ConnectionId>,
}

#[derive(Default)]
struct State {
    mailboxes: Vec<Option<mpsc::UnboundedSender<Event>>>,
    names: BTreeMap<String, Owner>,
    addresses: BTreeMap<String, (Owner, Tag, bool)>,
    invitations: BTreeMap<String, ConnectionId>,
    tagged: BTreeMap<(Owner, Tag), ConnectionId>,
    ends: BTreeMap<ConnectionId, End>,
    requests: BTreeMap<RequestId, Request>,
    counter: u64,
    absent: BTreeSet<Owner>,
}

/// The network in memory.
#[derive(Clone, Default)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    unkindness: Unkindness,
    body_bytes: usize,
}

impl Hub {
    /// A kind network with messages of up to 13,400 bytes, as on queues.
    #[must_use]
    pub fn new() -> Self {
        Self::with(13_400, Unkindness::default())
    }

    /// A network with other limits and habits.
    #[must_use]
    pub fn with(body_bytes: usize, unkindness: Unkindness) -> Self {
        Self {
            state: Arc::default(),
            unkindness,
            body_bytes,
        }
    }

    /// Opens the mailbox of `name`, new or again. An earlier opening hears nothing any more.
    #[must_use]
    pub fn open(&self, name: &str) -> Carriage {
        let mut state = self.state();
        let owner = match state.names.get(name) {
            Some(&owner) => owner,
            None => {
                let owner = state.mailboxes.len();
                state.mailboxes.push(None);
                state.names.insert(name.to_owned(), owner);
                owner
            }
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in state.unsettled(owner) {
            let _ = sender.send(event);
        }
        if let Some(mailbox) = state.mailboxes.get_mut(owner) {
            *mailbox = Some(sender);
        }
        Carriage {
            carrier: Arc::new(MemoryCarrier {
                hub: self.clone(),
                owner,
            }),
            events: events(receiver),
        }
    }

    /// From now on `name` connects with nobody, as if it had vanished while connecting.
    pub fn absent(&self, name: &str) {
        let mut state = self.state();
        if let Some(&owner) = state.names.get(name) {
            state.absent.insert(owner);
        }
    }

    /// Everything `name` has not settled, as a restart would report it.
    #[must_use]
    pub fn mailbox_len(&self, name: &str) -> usize {
        let state = self.state();
        state
            .names
            .get(name)
            .map_or(0, |&owner| state.unsettled(owner).len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock is a failed test already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, state: &mut State, connection: ConnectionId, body: Bytes) {
        let Some(end) = state.ends.get_mut(&connection) else {
            return;
        };
        let id = end.next_message;
        end.next_message += 1;
        end.unsettled.insert(id, body.clone());
        if self.unkindness.delay_max.is_zero() {
            let owner = end.owner;
            self.hand_over(state, owner, connection, id, body);
            return;
        }
        end.travelling.push_back((id, body));
        if !end.has_courier {
            end.has_courier = true;
            let hub = self.clone();
            tokio::spawn(async move { hub.courier(connection).await });
        }
    }

    /// Carries the messages of one direction, one after the other.
    async fn courier(&self, connection: ConnectionId) {
        loop {
            let wait = {
                let mut state = self.state();
                state.counter += 1;
                let digest = hash::sha256(&state.counter.to_be_bytes());
                self.unkindness
                    .delay_max
                    .mul_f64(f64::from(digest[0]) / 256.0)
            };
            tokio::time::sleep(wait).await;
            let mut state = self.state();
            let Some(end) = state.ends.get_mut(&connection) else {
                return;
            };
            let Some((id, body)) = end.travelling.pop_front() else {
                end.has_courier = false;
                return;
            };
            let owner = end.owner;
            self.hand_over(&mut state, owner, connection, id, body);
        }
    }

    fn hand_over(
        &self,
        state: &mut State,
        owner: Owner,
        connection: ConnectionId,
        id: u64,
        body: Bytes,
    ) {
        let event = Event::Message {
            connection,
            id: MessageId(id),
            body,
        };
        state.counter += 1;
        let every = self.unkindness.repeat_every;
        if every > 0 && state.counter.is_multiple_of(every) {
            state.tell(owner, event.clone());
        }
        state.tell(owner, event);
    }
}

fn events(receiver: mpsc::UnboundedReceiver<Event>) -> Events {
    stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|event| (event, receiver))
    })
    .boxed()
}

impl State {
    fn tell(&self, owner: Owner, event: Event) {
        if let Some(Some(mailbox)) = self.mailboxes.get(owner) {
            let _ = mailbox.send(event); // nobody home: it is unsettled, and comes again
        }
    }

    fn fresh(&mut self, what: &str) -> [u8; 32] {
        self.counter += 1;
        hash::sha256_of(&[what.as_bytes(), &self.counter.to_be_bytes()])
    }

    fn end(&mut self, owner: Owner, tag: Tag, other: ConnectionId, binding: [u8; 32]) -> End {
        End {
            owner,
            tag,
            info: Vec::new(),
            other,
            binding,
            connected: false,
            next_message: 0,
            unsettled: BTreeMap::new(),
            travelling: VecDeque::new(),
            has_courier: false,
        }
    }

    /// Both ends of a new connection.
    fn pair(&mut self, a: (Owner, Tag), b: (Owner, Tag)) -> (ConnectionId, ConnectionId) {
        let first = ConnectionId(self.fresh("connection"));
        let second = ConnectionId(self.fresh("connection"));
        let binding = self.fresh("binding");
        let end = self.end(a.0, a.1, second, binding);
        self.ends.insert(first, end);
        let end = self.end(b.0, b.1, first, binding);
        self.ends.insert(second, end);
        (first, second)
    }

    fn connect(&mut self, connection: ConnectionId) {
        let Some(end) = self.ends.get_mut(&connection) else {
            return;
        };
        end.connected = true;
        let event = Event::Connected {
            connection,
            tag: end.tag,
            info: end.info.clone(),
            binding: end.binding,
        };
        let owner = end.owner;
        self.tell(owner, event);
    }

    fn unsettled(&self, owner: Owner) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, request) in &self.requests {
            if request.owner == owner && request.accepted.is_none() {
                events.push(Event::Request {
                    id: *id,
                    tag: request.tag,
                    info: request.info.clone(),
                });
            }
        }
        for (connection, end) in &self.ends {
            if end.owner != owner || !end.connected {
                continue;
            }
            events.push(Event::Connected {
                connection: *connection,
                tag: end.tag,
                info: end.info.clone(),
                binding: end.binding,
            });
            for (id, body) in &end.unsettled {
                events.push(Event::Message {
                    connection: *connection,
                    id: MessageId(*id),
                    body: body.clone(),
                });
            }
        }
        events
    }
}

struct MemoryCarrier {
    hub: Hub,
    owner: Owner,
}

impl MemoryCarrier {
    fn join_now(&self, tag: Tag, link: &str, info: &[u8]) -> Result<ConnectionId, CarrierError> {
        let mut state = self.hub.state();
        if let Some(&connection) = state.tagged.get(&(self.owner, tag)) {
            return Ok(connection);
        }
        if let Some(&maker) = state.invitations.get(link) {
            state.invitations.remove(link);
            let Some(end) = state.ends.get_mut(&maker) else {
                return Err(MemoryError::NoLink.into());
            };
            end.info = info.to_vec();
            let joiner = end.other;
            if let Some(end) = state.ends.get_mut(&joiner) {
                end.owner = self.owner;
                end.tag = tag;
            }
            state.tagged.insert((self.owner, tag), joiner);
            state.connect(maker);
            state.connect(joiner);
            return Ok(joiner);
        }
        let Some(&(maker, address, open)) = state.addresses.get(link) else {
            return Err(MemoryError::NoLink.into());
        };
        if !open {
            return Err(MemoryError::NoLink.into());
        }
        let (joiner, end) = state.pair((self.owner, tag), (maker, address));
        if let Some(end) = state.ends.get_mut(&end) {
            end.info = info.to_vec();
        }
        state.tagged.insert((self.owner, tag), joiner);
        let id = RequestId(state.fresh("request"));
        state.requests.insert(
            id,
            Request {
                owner: maker,
                tag: address,
                joiner,
                info: info.to_vec(),
                accepted: None,
            },
        );
        let event = Event::Request {
            id,
            tag: address,
            info: info.to_vec(),
        };
        state.tell(maker, event);
        Ok(joiner)
    }

    fn accept_now(&self, request: RequestId, info: &[u8]) -> Result<ConnectionId, CarrierError> {
        let mut state = self.hub.state();
        let Some(asked) = state.requests.get_mut(&request) else {
            return Err(MemoryError::NoConnection.into());
        };
        if let Some(connection) = asked.accepted {
            return Ok(connection);
        }
        let joiner = asked.joiner;
        let Some(end) = state.ends.get_mut(&joiner) else {
            return Err(MemoryError::NoConnection.into());
        };
        end.info = info.to_vec();
        let connection = end.other;
        let owner = end.owner;
        if let Some(asked) = state.requests.get_mut(&request) {
            asked.accepted = Some(connection);
        }
        if state.absent.contains(&owner) {
            return Ok(connection);
        }
        state.connect(joiner);
        state.connect(connection);
        Ok(connection)
    }

    fn send_now(&self, connection: ConnectionId, bodies: Vec<Bytes>) -> Result<(), CarrierError> {
        let mut state = self.hub.state();
        let Some(other) = state.ends.get(&connection).map(|end| end.other) else {
            return Err(MemoryError::NoConnection.into());
        };
        for body in bodies {
            if body.len() > self.hub.body_bytes {
                return Err(MemoryError::TooLong(body.len()).into());
            }
            self.hub.deliver(&mut state, other, body);
        }
        Ok(())
    }
}

/// An answer that is known at once.
fn ready<'a, T: Send + 'a>(answer: T) -> BoxFuture<'a, T> {
    Box::pin(futures::future::ready(answer))
}

impl Carrier for MemoryCarrier {
    fn body_bytes(&self) -> usize {
        self.hub.body_bytes
    }

    fn create_address<'a>(
        &'a self,
        tag: Tag,
        _relay: &'a str,
    ) -> BoxFuture<'a, Result<String, CarrierError>> {
        let name = hash::sha256_of(&[b"address", &self.owner.to_be_bytes(), &tag.0]);
        let link = format!("memory:address/{}", ConnectionHex(&name));
        self.hub
            .state()
            .addresses
            .entry(link.clone())
            .or_insert((self.owner, tag, true));
        ready(Ok(link))
    }

    fn close_address(&self, tag: Tag) -> BoxFuture<'_, Result<(), CarrierError>> {
        for (owner, address, open) in self.hub.state().addresses.values_mut() {
            if *owner == self.owner && *address == tag {
                *open = false;
            }
        }
        ready(Ok(()))
    }

    fn create_invitation<'a>(
        &'a self,
        tag: Tag,
        _relay: &'a str,
    ) -> BoxFuture<'a, Result<(ConnectionId, String), CarrierError>> {
        let mut state = self.hub.state();
        let maker = match state.tagged.get(&(self.owner, tag)) {
            Some(&maker) => maker,
            None => {
                // The other end belongs to nobody until somebody joins.
                let (maker, _) = state.pair((self.owner, tag), (usize::MAX, tag));
                state.tagged.insert((self.owner, tag), maker);
                let link = invitation(&maker);
                state.invitations.insert(link, maker);
                maker
            }
        };
        ready(Ok((maker, invitation(&maker))))
    }

    fn join<'a>(
        &'a self,
        tag: Tag,
        link: &'a str,
        _relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>> {
        ready(self.join_now(tag, link, info))
    }

    fn accept<'a>(
        &'a self,
        request: RequestId,
        _relay: &'a str,
        info: &'a [u8],
    ) -> BoxFuture<'a, Result<ConnectionId, CarrierError>> {
        ready(self.accept_now(request, info))
    }

    fn reject(&self, request: RequestId) -> BoxFuture<'_, Result<(), CarrierError>> {
        self.hub.state().requests.remove(&request);
        ready(Ok(()))
    }

    fn send(
        &self,
        connection: ConnectionId,
        bodies: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<(), CarrierError>> {
        ready(self.send_now(connection, bodies))
    }

    fn ack(
        &self,
        connection: ConnectionId,
        message: MessageId,
    ) -> BoxFuture<'_, Result<(), CarrierError>> {
        if let Some(end) = self.hub.state().ends.get_mut(&connection) {
            end.unsettled.remove(&message.0);
        }
        ready(Ok(()))
    }

    fn settle<'a>(&'a self, _: &'a Lines) -> BoxFuture<'a, Result<(), CarrierError>> {
        ready(Ok(())) // there is nowhere else to be
    }

    fn delete(&self, connection: ConnectionId) -> BoxFuture<'_, Result<(), CarrierError>> {
        self.hub.state().ends.remove(&connection);
        ready(Ok(()))
    }
}

fn invitation(maker: &ConnectionId) -> String {
    let name = hash::sha256_of(&[b"invitation", &maker.0]);
    format!("memory:invitation/{}", ConnectionHex(&name))
}

struct ConnectionHex<'a>(&'a [u8; 32]);

impl core::fmt::Display for ConnectionHex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
