//! All connections and addresses of one profile, as one machine.
//!
//! Inputs change the machine at once; what they bring about is gathered until [`Machine::take_step`],
//! so one transaction can serve any number of inputs. Nothing leaves before it is stored. A machine
//! that is dropped at any point and restored from the store goes on where the last step that was
//! stored left it.

use std::collections::{BTreeMap, BTreeSet};

use junto_crypto::CryptoRng;
use junto_ratchet::{SkippedId, SkippedKey};
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::id::RecipientId;

use super::command::{CallError, Command, Misuse, Reply, Ticket};
use super::connection::{Address, Connection, InboxRow, Request, Role, Stage};
use super::effects::{Effects, Owner, PostQuantum, Purpose, Timer};
use super::event::{ConnectionFault, Event};
use super::id::{ConnectionId, MessageId, RequestId, Tag};
use super::instant::Instant;
use super::link::Link;
use super::message::{MAX_BODY, MAX_INFO};
use super::queue::{ReceiveQueue, Subscription};
use super::relay::{Answer, Refusal, RelayId, RelayNotice, Token};
use super::step::{Output, Row, RowKey, Step};
use super::wire::Malformed;

/// Requests that may wait for the application: about 14 KiB each. Further ones stay with the relay.
const REQUESTS_MAX: usize = 256;

/// What the application chose.
#[derive(Clone, Copy, Debug)]
pub struct MachineConfig {
    /// Whether senders are told when the application has acknowledged their messages.
    pub receipts: bool,
}

/// A row that is not what this version writes, or rows that do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored {table} {fault}")]
pub struct RestoreError {
    /// Which kind of row.
    pub table: &'static str,
    /// What is wrong with it.
    pub fault: Malformed,
}

/// See the module.
pub struct Machine {
    config: MachineConfig,
    addresses: BTreeMap<Tag, Address>,
    requests: BTreeMap<RequestId, Request>,
    connections: BTreeMap<ConnectionId, Connection>,
    tags: BTreeMap<Tag, ConnectionId>,
    routes: BTreeMap<(RelayId, RecipientId), Owner>,
    effects: Effects,
}

impl Machine {
    /// A machine with what the store has, rows in the order of their keys. The first step dials the
    /// relays and repeats the events that the application may not have recorded.
    ///
    /// # Errors
    /// [`RestoreError`] if a row cannot be read.
    pub fn restore(
        config: MachineConfig,
        rows: impl IntoIterator<Item = (RowKey, Row)>,
    ) -> Result<Self, RestoreError> {
        let mut machine = Self {
            config,
            addresses: BTreeMap::new(),
            requests: BTreeMap::new(),
            connections: BTreeMap::new(),
            tags: BTreeMap::new(),
            routes: BTreeMap::new(),
            effects: Effects::default(),
        };
        let mut late = BTreeMap::new();
        for (key, row) in rows {
            machine.restore_row(key, &row, &mut late)?;
        }
        Ok(machine)
    }

    /// Chooses for the connections made from now on.
    pub fn set_post_quantum(&mut self, post_quantum: PostQuantum) {
        self.effects.post_quantum = post_quantum;
    }

    /// Restores one row; keys of overtaken messages wait in `late` for their connection.
    fn restore_row(
        &mut self,
        key: RowKey,
        row: &[u8],
        late: &mut BTreeMap<ConnectionId, Vec<SkippedKey>>,
    ) -> Result<(), RestoreError> {
        let table = match key {
            RowKey::Address(_) => "address",
            RowKey::Request(_) => "request",
            RowKey::Connection(_) => "connection",
            RowKey::Invitation(_) => "invitation",
            RowKey::LateKey(..) => "late key",
            RowKey::Outbox(..) => "outgoing message",
            RowKey::Early(..) => "early message",
            RowKey::Inbox(..) => "incoming message",
        };
        let bad = |fault| RestoreError { table, fault };
        let orphan = bad(Malformed::Trailing);
        match key {
            RowKey::Address(tag) => {
                let address = Address::from_row(tag, row, &mut self.effects).map_err(bad)?;
                self.route(&address.receive, Owner::Address(tag));
                self.addresses.insert(tag, address);
                self.effects.ready(Owner::Address(tag));
            }
            RowKey::Request(id) => {
                let request = Request::from_row(row).map_err(bad)?;
                let (tag, info) = (request.address, request.info.clone());
                self.effects.event(Event::Request { id, tag, info });
                self.requests.insert(id, request);
            }
            RowKey::Connection(id) => {
                let late = late.remove(&id).unwrap_or_default();
                self.restore_connection(id, row, late).map_err(bad)?;
            }
            RowKey::Invitation(id) => {
                let text = core::str::from_utf8(row).map_err(|_| bad(Malformed::Text))?;
                let link = text.parse().map_err(|_| bad(Malformed::Text))?;
                self.connections.get_mut(&id).ok_or(orphan)?.link = Some(Box::new(link));
            }
            RowKey::LateKey(connection, epoch, number) => {
                let key = SkippedKey::decode(SkippedId { epoch, number }, row);
                late.entry(connection)
                    .or_default()
                    .push(key.map_err(|_| bad(Malformed::Key))?);
            }
            RowKey::Outbox(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                connection.outbox.insert(number, row.to_vec().into());
            }
            RowKey::Early(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                connection.early.insert(number, Row::new(row.to_vec()));
                connection.time_gap(&mut self.effects);
            }
            RowKey::Inbox(id, number) => {
                let connection = self.connections.get_mut(&id).ok_or(orphan)?;
                let InboxRow {
                    receipt,
                    integrity,
                    body,
                } = InboxRow::from_row(row).map_err(bad)?;
                connection.inbox.insert(number, receipt);
                let message = MessageId::new(number);
                self.effects.event(Event::Message {
                    connection: id,
                    id: message,
                    integrity,
                    body,
                });
            }
        }
        Ok(())
    }

    fn restore_connection(
        &mut self,
        id: ConnectionId,
        row: &[u8],
        late: Vec<SkippedKey>,
    ) -> Result<(), Malformed> {
        let mut connection = Connection::from_row(id, row, late, &mut self.effects)?;
        self.route(&connection.receive, Owner::Connection(id));
        match connection.stage {
            Stage::Active => {
                if let Some(event) = connection.connected_event() {
                    self.effects.event(event);
                }
                connection.time_receipts(&mut self.effects);
            }
            Stage::Failed(error) => {
                self.effects.event(Event::Failed {
                    connection: id,
                    tag: connection.tag,
                    error,
                });
            }
            Stage::Inviting | Stage::Joining | Stage::Confirming | Stage::Deleting => {}
        }
        if connection.stage != Stage::Deleting {
            self.tags.insert(connection.tag, id);
        }
        self.connections.insert(id, connection);
        self.effects.ready(Owner::Connection(id));
        Ok(())
    }

    fn route(&mut self, queue: &ReceiveQueue, owner: Owner) {
        if let Some(created) = &queue.created {
            self.routes
                .insert((queue.relay, created.recipient_id), owner);
        }
    }

    /// Handles a call.
    pub fn handle_command(
        &mut self,
        now: Instant,
        ticket: Ticket,
        command: Command,
        rng: &mut impl CryptoRng,
    ) {
        self.effects.now = now;
        let answer = match command {
            Command::CreateAddress { tag, relay } => self.create_address(ticket, tag, relay, rng),
            Command::CreateInvitation { tag, relay, info } => {
                self.create_invitation(ticket, tag, relay, info, rng)
            }
            Command::Join {
                tag,
                link,
                relay,
                info,
            } => self
                .join(tag, &link, relay, info, rng)
                .map(|id| Some(Reply::Connection(id))),
            Command::Accept {
                request,
                relay,
                info,
            } => self
                .accept(request, relay, info, rng)
                .map(|id| Some(Reply::Connection(id))),
            Command::Reject { request } => {
                self.forget_request(request);
                Ok(Some(Reply::Done))
            }
            Command::Send { connection, body } => self.send(ticket, connection, body, rng),
            Command::Acknowledge {
                connection,
                message,
            } => {
                let answer = self.acknowledge(connection, message);
                self.effects.answer_promptly(ticket, answer);
                Ok(None)
            }
            Command::Delete { connection } => {
                self.delete(connection);
                Ok(Some(Reply::Done))
            }
            Command::CloseAddress { tag } => {
                self.close_address(tag);
                Ok(Some(Reply::Done))
            }
        };
        match answer {
            Ok(Some(reply)) => self.effects.answer(ticket, Ok(reply)),
            Ok(None) => {}
            Err(error) => self.effects.answer(ticket, Err(error)),
        }
    }

    fn create_address(
        &mut self,
        ticket: Ticket,
        tag: Tag,
        relay: ServerAddress,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Reply>, CallError> {
        let effects = &mut self.effects;
        let address = self.addresses.entry(tag).or_insert_with(|| {
            let receive = ReceiveQueue::new(relay, QueueMode::Contact, effects, rng);
            effects.changed(Owner::Address(tag));
            Address::new(tag, receive)
        });
        if address.closing {
            return Err(Misuse::TagTaken.into());
        }
        match address.link() {
            Some(link) => Ok(Some(Reply::Address(link))),
            None => {
                address.callers.push(ticket);
                Ok(None)
            }
        }
    }

    fn create_invitation(
        &mut self,
        ticket: Ticket,
        tag: Tag,
        relay: ServerAddress,
        info: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Reply>, CallError> {
        check_info(&info)?;
        if let Some(connection) = self.connection_of(tag) {
            if connection.role != Role::Maker {
                return Err(Misuse::TagTaken.into());
            }
            if let Stage::Failed(fault) = connection.stage {
                return Err(fault.into());
            }
            let Some(link) = connection.link.clone() else {
                connection.callers.push(ticket);
                return Ok(None);
            };
            return Ok(Some(Reply::Invitation(connection.id, link)));
        }
        let id = self.fresh_id(rng);
        let receive = ReceiveQueue::new(relay, QueueMode::Messaging, &mut self.effects, rng);
        let mut connection = Connection::invite(id, tag, info, receive, rng);
        connection.callers.push(ticket);
        self.add(connection);
        Ok(None)
    }

    fn join(
        &mut self,
        tag: Tag,
        link: &Link,
        relay: ServerAddress,
        info: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<ConnectionId, CallError> {
        check_info(&info)?;
        if let Some(connection) = self.connection_of(tag) {
            return match connection.role {
                Role::Joiner | Role::Requester => Ok(connection.id),
                Role::Maker => Err(Misuse::TagTaken.into()),
            };
        }
        let id = self.fresh_id(rng);
        let effects = &mut self.effects;
        // Before anything is made: a link that we cannot use.
        match link {
            Link::Invitation(link) => link.negotiated().map(|_| ())?,
            Link::Contact(link) => link.negotiated().map(|_| ())?,
        }
        let receive = ReceiveQueue::new(relay, QueueMode::Messaging, effects, rng);
        let connection = match link {
            Link::Invitation(link) => {
                Connection::join(id, tag, link, info, receive, (effects, rng))
            }
            Link::Contact(link) => {
                Connection::request(id, tag, link, info, receive, (effects, rng))
            }
        }?;
        self.add(connection);
        Ok(id)
    }

    fn accept(
        &mut self,
        request: RequestId,
        relay: ServerAddress,
        info: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<ConnectionId, CallError> {
        let tag = Tag::of_request(request);
        if let Some(connection) = self.connection_of(tag) {
            return Ok(connection.id);
        }
        let link = self
            .requests
            .get(&request)
            .ok_or(Misuse::NoRequest)?
            .link
            .clone();
        let id = self.join(tag, &Link::Invitation(link), relay, info, rng)?;
        self.forget_request(request);
        Ok(id)
    }

    fn forget_request(&mut self, id: RequestId) {
        let was_full = self.requests.len() >= REQUESTS_MAX;
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        self.effects.delta.delete(RowKey::Request(id));
        if was_full {
            // Subscribing again brings the request that was left with the relay.
            if let Some(address) = self.addresses.get_mut(&request.address) {
                if address.receive.subscription == Subscription::Live {
                    address.receive.subscription = Subscription::Idle;
                }
                self.effects.ready(Owner::Address(request.address));
            }
        }
    }

    fn send(
        &mut self,
        ticket: Ticket,
        id: ConnectionId,
        body: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Reply>, CallError> {
        if body.len() > MAX_BODY {
            return Err(Misuse::BodyTooLong.into());
        }
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        connection.send_message(ticket, body, &mut self.effects, rng);
        Ok(None)
    }

    fn acknowledge(&mut self, id: ConnectionId, message: MessageId) -> Result<Reply, CallError> {
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        connection.acknowledged(message, self.config.receipts, &mut self.effects);
        Ok(Reply::Done)
    }

    fn delete(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        self.tags.remove(&connection.tag);
        if connection.stage != Stage::Deleting && connection.delete(&mut self.effects) {
            self.remove_connection(id);
        }
    }

    fn close_address(&mut self, tag: Tag) {
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        address.closing = true;
        for ticket in address.callers.drain(..) {
            self.effects.answer(ticket, Err(Misuse::TagTaken.into()));
        }
        if address.receive.created.is_none() {
            self.remove_address(tag);
        } else {
            self.effects.changed(Owner::Address(tag));
        }
        let pending = self
            .requests
            .iter()
            .filter(|(_, request)| request.address == tag);
        let pending: Vec<_> = pending.map(|(id, _)| *id).collect();
        for id in pending {
            self.requests.remove(&id);
            self.effects.delta.delete(RowKey::Request(id));
        }
    }

    fn connection_of(&mut self, tag: Tag) -> Option<&mut Connection> {
        let id = self.tags.get(&tag)?;
        self.connections.get_mut(id)
    }

    fn fresh_id(&self, rng: &mut impl CryptoRng) -> ConnectionId {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        ConnectionId::new(bytes)
    }

    fn add(&mut self, connection: Connection) {
        connection.changed(&mut self.effects);
        self.tags.insert(connection.tag, connection.id);
        self.connections.insert(connection.id, connection);
    }

    fn remove_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if self.tags.get(&connection.tag) == Some(&id) {
            self.tags.remove(&connection.tag);
        }
        self.unroute(&connection.receive);
        self.effects.delta.delete(RowKey::Connection(id));
        self.hang_up_unused();
    }

    fn remove_address(&mut self, tag: Tag) {
        if let Some(address) = self.addresses.remove(&tag) {
            self.unroute(&address.receive);
        }
        self.effects.delta.delete(RowKey::Address(tag));
        self.hang_up_unused();
    }

    /// Ends connections to relays that no queue needs.
    fn hang_up_unused(&mut self) {
        let receiving = self
            .connections
            .values()
            .map(|connection| connection.receive.relay);
        let sending = self
            .connections
            .values()
            .filter_map(|connection| connection.send.as_ref());
        let addresses = self.addresses.values().map(|address| address.receive.relay);
        let used: BTreeSet<RelayId> = receiving
            .chain(sending.map(|send| send.relay))
            .chain(addresses)
            .collect();
        let unused: Vec<_> = self
            .effects
            .dialled()
            .filter(|id| !used.contains(id))
            .collect();
        for relay in unused {
            self.effects.hang_up(relay);
        }
    }

    fn unroute(&mut self, queue: &ReceiveQueue) {
        if let Some(created) = &queue.created {
            self.routes.remove(&(queue.relay, created.recipient_id));
        }
    }

    /// A connection to a relay is up. Whatever was in flight on the one before is issued again.
    pub fn handle_relay_up(&mut self, now: Instant, relay: RelayId) {
        self.effects.now = now;
        self.void(relay);
        self.effects.relay_up(relay);
        self.ready_all(relay);
    }

    /// The connection to a relay is down, or could not be made.
    pub fn handle_relay_down(&mut self, now: Instant, relay: RelayId) {
        self.effects.now = now;
        self.void(relay);
        self.effects.relay_down(relay);
    }

    /// Forgets what is in flight to a relay.
    fn void(&mut self, relay: RelayId) {
        for address in self.addresses.values_mut() {
            if address.receive.relay == relay {
                address.receive.disconnected();
            }
        }
        for connection in self.connections.values_mut() {
            if connection.receive.relay == relay {
                connection.receive.disconnected();
            }
            if let Some(send) = connection.send.as_mut().filter(|send| send.relay == relay) {
                send.disconnected();
            }
        }
    }

    fn ready_all(&mut self, relay: RelayId) {
        for (tag, address) in &self.addresses {
            if address.receive.relay == relay {
                self.effects.ready(Owner::Address(*tag));
            }
        }
        for (id, connection) in &self.connections {
            let sends = connection
                .send
                .as_ref()
                .is_some_and(|send| send.relay == relay);
            if connection.receive.relay == relay || sends {
                self.effects.ready(Owner::Connection(*id));
            }
        }
    }

    /// A relay answered a command.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        token: Token,
        answer: Answer,
        rng: &mut impl CryptoRng,
    ) {
        self.effects.now = now;
        let Some(pending) = self.effects.answered(token) else {
            return;
        };
        match pending.owner {
            Owner::Address(tag) => self.address_answered(tag, pending.purpose, answer),
            Owner::Connection(id) => self.connection_answered(id, pending.purpose, answer, rng),
        }
    }

    fn address_answered(&mut self, tag: Tag, purpose: Purpose, answer: Answer) {
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        match purpose {
            Purpose::Create => {
                if address.created(answer, &mut self.effects) {
                    if let Some(created) = &address.receive.created {
                        let route = (address.receive.relay, created.recipient_id);
                        self.routes.insert(route, Owner::Address(tag));
                    }
                } else {
                    self.remove_address(tag);
                }
            }
            Purpose::Subscribe if answer == Answer::Refused(Refusal::Auth) => {
                self.renew_address(tag)
            }
            Purpose::Subscribe => subscribed(&mut address.receive, &answer, &mut self.effects),
            Purpose::Delete => match answer {
                Answer::Done | Answer::Refused(Refusal::Auth) => {
                    self.remove_address(tag);
                }
                Answer::Refused(_) | Answer::Created { .. } => {
                    retry(&address.receive, &mut self.effects)
                }
            },
            Purpose::Secure | Purpose::Send(_) | Purpose::Acknowledge => {}
        }
    }

    fn connection_answered(
        &mut self,
        id: ConnectionId,
        purpose: Purpose,
        answer: Answer,
        rng: &mut impl CryptoRng,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let effects = &mut self.effects;
        match purpose {
            Purpose::Create => {
                if connection.created(answer, effects, rng) {
                    if let Some(created) = &connection.receive.created {
                        let route = (connection.receive.relay, created.recipient_id);
                        self.routes.insert(route, Owner::Connection(id));
                    }
                } else {
                    self.remove_connection(id);
                }
            }
            Purpose::Subscribe => {
                if answer == Answer::Refused(Refusal::Auth) {
                    connection.fail(ConnectionFault::QueueGone, effects);
                } else {
                    subscribed(&mut connection.receive, &answer, effects);
                }
            }
            Purpose::Secure => connection.secured(&answer, effects),
            Purpose::Send(number) => connection.sent(number, &answer, effects, rng),
            Purpose::Acknowledge => {}
            Purpose::Delete => match answer {
                Answer::Done | Answer::Refused(Refusal::Auth) => self.remove_connection(id),
                Answer::Refused(_) | Answer::Created { .. } => retry(&connection.receive, effects),
            },
        }
    }

    /// A relay sent something by itself.
    pub fn handle_notice(
        &mut self,
        now: Instant,
        relay: RelayId,
        notice: RelayNotice,
        rng: &mut impl CryptoRng,
    ) {
        self.effects.now = now;
        let queue = match &notice {
            RelayNotice::Message { queue, .. }
            | RelayNotice::Ended { queue }
            | RelayNotice::Deleted { queue } => *queue,
        };
        match self.routes.get(&(relay, queue)) {
            Some(Owner::Address(tag)) => {
                let tag = *tag;
                self.address_noticed(tag, notice);
            }
            Some(Owner::Connection(id)) => {
                let Some(connection) = self.connections.get_mut(id) else {
                    return;
                };
                let effects = &mut self.effects;
                match notice {
                    RelayNotice::Message {
                        message, sealed, ..
                    } => {
                        connection.deliver(message, &sealed, effects, rng);
                    }
                    RelayNotice::Ended { .. } => {
                        connection.receive.subscription = Subscription::Taken
                    }
                    RelayNotice::Deleted { .. } => {
                        connection.fail(ConnectionFault::QueueGone, effects)
                    }
                }
            }
            None => {}
        }
    }

    fn address_noticed(&mut self, tag: Tag, notice: RelayNotice) {
        let is_full = self.requests.len() >= REQUESTS_MAX;
        let Some(address) = self.addresses.get_mut(&tag) else {
            return;
        };
        match notice {
            RelayNotice::Message { .. } if is_full => {}
            RelayNotice::Message {
                message, sealed, ..
            } => {
                if let Some((id, request)) = address.deliver(message, &sealed, &mut self.effects) {
                    self.add_request(id, request);
                }
            }
            RelayNotice::Ended { .. } => address.receive.subscription = Subscription::Taken,
            RelayNotice::Deleted { .. } => self.renew_address(tag),
        }
    }

    /// The relay no longer has the queue of an address. Its link is dead; a new queue is made, and the
    /// application gets the new link when it asks for the address again.
    fn renew_address(&mut self, tag: Tag) {
        let Some(mut address) = self.addresses.remove(&tag) else {
            return;
        };
        self.unroute(&address.receive);
        address.receive.forget_created();
        self.addresses.insert(tag, address);
        self.effects.changed(Owner::Address(tag));
    }

    fn add_request(&mut self, id: RequestId, request: Request) {
        if self.requests.contains_key(&id) || self.tags.contains_key(&Tag::of_request(id)) {
            return;
        }
        let Ok(row) = request.to_row() else { return };
        self.effects.delta.put(RowKey::Request(id), row);
        let (tag, info) = (request.address, request.info.clone());
        self.effects.event(Event::Request { id, tag, info });
        self.requests.insert(id, request);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, rng: &mut impl CryptoRng) {
        self.effects.now = now;
        while let Some(timer) = self.effects.take_due() {
            match timer {
                Timer::Receipts(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.send_receipts(&mut self.effects, rng);
                    }
                }
                Timer::Gap(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.close_gap(&mut self.effects);
                    }
                }
                Timer::Quota(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.unblock(&mut self.effects);
                    }
                }
                Timer::Retry(relay) => {
                    for address in self.addresses.values_mut() {
                        retry_refused(&mut address.receive, relay);
                    }
                    for connection in self.connections.values_mut() {
                        retry_refused(&mut connection.receive, relay);
                    }
                    self.ready_all(relay);
                }
            }
        }
    }

    /// Makes keys that the answer to a message would wait for otherwise, for one connection. `false`
    /// if there are none to make. Changes nothing that is stored; call it when nothing else is due.
    pub fn prepare(&mut self, rng: &mut impl CryptoRng) -> bool {
        let Some(id) = self.effects.take_unprepared() else {
            return false;
        };
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.prepare(rng);
        }
        true
    }

    /// When to call [`Machine::handle_timeout`], and why.
    #[must_use]
    pub fn next_timeout(&self) -> Option<(Instant, Timer)> {
        self.effects.next_timeout()
    }

    /// Whether something waits to leave. If not, changes may wait for company in their transaction.
    pub fn is_urgent(&mut self) -> bool {
        self.pump();
        self.effects.has_outputs()
    }

    /// Whether there is anything to store or to release.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.effects.has_work()
    }

    /// Whether everything that was to leave has been taken by its relay: a process that ends now
    /// keeps nobody waiting.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let sent = |connection: &Connection| {
            connection.outbox.is_empty() && connection.stage != Stage::Deleting
        };
        self.is_idle()
            && self.effects.is_settled()
            && self.connections.values().all(sent)
            && !self.addresses.values().any(|address| address.closing)
    }

    /// Issues the commands that are due.
    fn pump(&mut self) {
        for owner in self.effects.take_ready() {
            match owner {
                Owner::Address(tag) => {
                    let Some(address) = self.addresses.get_mut(&tag) else {
                        continue;
                    };
                    if address.closing {
                        address.receive.pump_delete(owner, &mut self.effects);
                    } else {
                        address.receive.pump(owner, &mut self.effects);
                    }
                }
                Owner::Connection(id) => {
                    let Some(connection) = self.connections.get_mut(&id) else {
                        continue;
                    };
                    connection.pump(&mut self.effects);
                }
            }
        }
    }

    /// What may leave before the next step is stored: events, and answers to calls that need not be
    /// durable. Should the process die before that, the same comes again after the restart. Whoever
    /// does not ask finds them in the step.
    #[must_use]
    pub fn take_prompt(&mut self) -> Vec<Output> {
        self.effects.take_prompt()
    }

    /// What all inputs since the last step have brought about.
    pub fn take_step(&mut self) -> Option<Step> {
        self.pump();
        for owner in self.effects.take_dirty() {
            self.write_row(owner);
        }
        let delta = core::mem::take(&mut self.effects.delta);
        let mut outputs = self.effects.take_prompt();
        outputs.extend(self.effects.take_outputs());
        (!delta.is_empty() || !outputs.is_empty()).then(|| Step::new(delta, outputs))
    }

    fn write_row(&mut self, owner: Owner) {
        let (key, row) = match owner {
            Owner::Address(tag) => {
                let Some(address) = self.addresses.get(&tag) else {
                    return;
                };
                (RowKey::Address(tag), address.to_row())
            }
            Owner::Connection(id) => {
                let Some(connection) = self.connections.get(&id) else {
                    return;
                };
                (RowKey::Connection(id), connection.to_row())
            }
        };
        // Every part of a row is bounded below what its length fields can say.
        if let Ok(row) = row {
            self.effects.delta.put(key, row);
        }
    }
}

fn check_info(info: &[u8]) -> Result<(), CallError> {
    if info.len() > MAX_INFO {
        Err(Misuse::InfoTooLong.into())
    } else {
        Ok(())
    }
}

fn subscribed(queue: &mut ReceiveQueue, answer: &Answer, effects: &mut Effects) {
    match answer {
        Answer::Done => queue.subscription = Subscription::Live,
        Answer::Refused(_) | Answer::Created { .. } => retry(queue, effects),
    }
}

fn retry(queue: &ReceiveQueue, effects: &mut Effects) {
    effects.wake_after(super::effects::RETRY_DELAY, Timer::Retry(queue.relay));
}

/// A refused command left its queue `InFlight`, so that it is not repeated at once.
fn retry_refused(queue: &mut ReceiveQueue, relay: RelayId) {
    if queue.relay == relay && queue.subscription == Subscription::InFlight {
        queue.subscription = Subscription::Idle;
    }
}
