//! What the application asks of the machine.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use junto_crypto::CryptoRng;
use junto_ratchet::VersionRange as RatchetVersions;
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;

use super::command::{CallError, Command, Misuse, Reply, Ticket};
use super::connection::{Address, Connection, Keys, Role, Stage};
use super::effects::{Effects, Owner};
use super::event::ConnectionFault;
use super::id::{ConnectionId, MessageId, RequestId, Tag};
use super::instant::Instant;
use super::link::{Link, LinkError};
use super::link_data::ABOUT_MAX;
use super::machine::Machine;
use super::message::{MAX_BODY, MAX_INFO};
use super::publication::Publication;
use super::queue::ReceiveQueue;
use super::relay::RelayId;
use super::resync::Resync;
use super::step::RowKey;

impl Machine {
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
            Command::CreateAddress { tag, relay, about } => {
                self.create_address(ticket, tag, relay, about, rng)
            }
            Command::Describe { tag, about } => self.describe(tag, about),
            Command::CreateInvitation {
                tag,
                relay,
                info,
                about,
            } => self.create_invitation(ticket, tag, relay, (info, about), rng),
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
            Command::Rotate { connection, relay } => self
                .rotate(connection, relay, rng)
                .map(|()| Some(Reply::Done)),
            Command::AddQueue { connection, relay } => {
                self.on_connection(connection, |it, effects| it.add_queue(relay, effects, rng))
            }
            Command::RemoveQueue { connection, relay } => self
                .on_connection(connection, |it, effects| {
                    it.remove_queue(&relay, effects, rng)
                }),
            Command::Spread { connection, spread } => {
                self.on_connection(connection, |it, effects| it.set_spread(spread, effects))
            }
            Command::Noise { connection, noise } => {
                self.on_connection(connection, |it, effects| it.set_noise(noise, effects, rng))
            }
            Command::Resynchronise { connection } => self
                .resynchronise(connection, rng)
                .map(|()| Some(Reply::Done)),
            Command::Leave { connection, last } => self
                .leave(connection, &last, rng)
                .map(|()| Some(Reply::Done)),
            Command::Delete { connection } => {
                self.delete(connection);
                Ok(Some(Reply::Done))
            }
            Command::AddressSeen { tag } => {
                if let Some(address) = self.addresses.get_mut(&tag)
                    && core::mem::take(&mut address.moved)
                {
                    self.effects.changed(Owner::Address(tag));
                }
                Ok(Some(Reply::Done))
            }
            Command::CloseAddress { tag } => {
                self.close_address(tag);
                Ok(Some(Reply::Done))
            }
        };
        self.sort_queues();
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
        about: Option<Vec<u8>>,
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Reply>, CallError> {
        let effects = &mut self.effects;
        let address = match self.addresses.entry(tag) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => {
                let publication = about
                    .map(|about| check_about(&about).map(|()| Publication::new(about, None, rng)))
                    .transpose()?;
                let mut receive = ReceiveQueue::new(relay, QueueMode::Contact, effects, rng);
                if let Some(publication) = publication {
                    receive.publish(publication).map_err(LinkError::from)?;
                }
                effects.changed(Owner::Address(tag));
                free.insert(Address::new(tag, receive))
            }
        };
        if address.closing {
            return Err(Misuse::TagTaken.into());
        }
        match address.reply() {
            Some(reply) => Ok(Some(reply)),
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
        (info, about): (Vec<u8>, Option<Vec<u8>>),
        rng: &mut impl CryptoRng,
    ) -> Result<Option<Reply>, CallError> {
        check_info(&info)?;
        about.as_deref().map(check_about).transpose()?;
        if self.is_opening(tag) {
            return Err(Misuse::TagTaken.into());
        }
        if let Some(connection) = self.connection_of(tag) {
            if connection.role != Role::Maker {
                return Err(Misuse::TagTaken.into());
            }
            match connection.stage {
                Stage::Failed(fault) => return Err(fault.into()),
                Stage::Hearing => return Err(ConnectionFault::PeerGone.into()),
                _ => {}
            }
            let reply = connection.invitation();
            if reply.is_none() {
                connection.callers.push(ticket);
            }
            return Ok(reply);
        }
        let id = self.fresh_id(rng);
        let receive = ReceiveQueue::new(relay, QueueMode::Messaging, &mut self.effects, rng);
        let mut connection = Connection::invite(id, tag, info, receive, rng);
        if let Some(about) = about {
            connection.publish(about, rng)?;
        }
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
        if let Some(id) = self.tags.get(&tag).filter(|_| self.is_opening(tag)) {
            return Ok(*id);
        }
        if let Some(connection) = self.connection_of(tag) {
            return match connection.role {
                Role::Joiner | Role::Requester => Ok(connection.id),
                Role::Maker => Err(Misuse::TagTaken.into()),
            };
        }
        // Before anything is made: a link that we cannot use.
        match link {
            Link::Invitation(link) => link.negotiated().map(|_| ())?,
            Link::Contact(link) => link.negotiated().map(|_| ())?,
            Link::Short(link) => return self.open_short(tag, link, relay, info, rng),
        }
        let id = self.fresh_id(rng);
        let effects = &mut self.effects;
        let receive = ReceiveQueue::new(relay, QueueMode::Messaging, effects, rng);
        let connection = match link {
            Link::Invitation(link) => {
                Connection::join(id, tag, link, info, receive, (effects, rng))
            }
            Link::Contact(link) => {
                Connection::request(id, tag, link, info, receive, (effects, rng))
            }
            Link::Short(_) => return Err(CallError::Defect("a short link is opened first")),
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
        if let Some(opening) = self.openings.get(&id) {
            let failed = opening.fault.map(CallError::from);
            return Err(failed.unwrap_or(Misuse::NotConnected.into()));
        }
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        connection.send_message(ticket, body, &mut self.effects, rng);
        Ok(None)
    }

    fn acknowledge(&mut self, id: ConnectionId, message: MessageId) -> Result<Reply, CallError> {
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        connection.acknowledged(message, self.receipts, &mut self.effects);
        Ok(Reply::Done)
    }

    fn rotate(
        &mut self,
        id: ConnectionId,
        relay: Option<ServerAddress>,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        let effects = &mut self.effects;
        let relay = relay.unwrap_or_else(|| connection.place_for_next(effects, rng));
        connection.rotate(relay, effects, rng)
    }

    fn on_connection(
        &mut self,
        id: ConnectionId,
        act: impl FnOnce(&mut Connection, &mut Effects) -> Result<(), CallError>,
    ) -> Result<Option<Reply>, CallError> {
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        act(connection, &mut self.effects)?;
        Ok(Some(Reply::Done))
    }

    fn resynchronise(
        &mut self,
        id: ConnectionId,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        if self.effects.resync == Resync::Refused {
            return Err(Misuse::FixedKeys.into());
        }
        connection.resynchronise(&mut self.effects, rng)
    }

    fn leave(
        &mut self,
        id: ConnectionId,
        last: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        if last.len() > MAX_BODY {
            return Err(Misuse::BodyTooLong.into());
        }
        let connection = self.connections.get_mut(&id).ok_or(Misuse::NoConnection)?;
        connection.leave(last, &mut self.effects, rng)?;
        self.tags.remove(&connection.tag);
        Ok(())
    }

    fn delete(&mut self, id: ConnectionId) {
        if self.delete_opening(id) {
            return;
        }
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
    }

    fn describe(&mut self, tag: Tag, about: Vec<u8>) -> Result<Option<Reply>, CallError> {
        check_about(&about)?;
        let address = self.addresses.get_mut(&tag).filter(|it| !it.closing);
        let publication = address.and_then(|it| it.receive.publication.as_mut());
        publication.ok_or(Misuse::NoAddress)?.describe(about);
        self.effects.changed(Owner::Address(tag));
        Ok(Some(Reply::Done))
    }

    /// Whether a short link is being opened for this tag.
    fn is_opening(&self, tag: Tag) -> bool {
        let id = self.tags.get(&tag);
        id.is_some_and(|id| self.openings.contains_key(id))
    }

    fn connection_of(&mut self, tag: Tag) -> Option<&mut Connection> {
        let id = self.tags.get(&tag)?;
        self.connections.get_mut(id)
    }

    pub(super) fn fresh_id(&self, rng: &mut impl CryptoRng) -> ConnectionId {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        ConnectionId::new(bytes)
    }

    pub(super) fn add(&mut self, connection: Connection) {
        connection.changed(&mut self.effects);
        self.tags.insert(connection.tag, connection.id);
        self.connections.insert(connection.id, connection);
    }

    pub(super) fn remove_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if self.tags.get(&connection.tag) == Some(&id) {
            self.tags.remove(&connection.tag);
        }
        for (_, queue) in connection.receives() {
            self.unroute(queue);
        }
        self.effects.delta.delete(RowKey::Connection(id));
        self.effects.delta.delete(RowKey::Renewal(id));
        self.effects.delta.delete(RowKey::Parallel(id));
        self.effects.delta.delete(RowKey::Noise(id));
        self.hang_up_unused();
    }

    pub(super) fn remove_address(&mut self, tag: Tag) {
        if let Some(address) = self.addresses.remove(&tag) {
            self.unroute(&address.receive);
        }
        self.effects.delta.delete(RowKey::Address(tag));
        self.hang_up_unused();
    }

    /// Ends connections to relays that no queue needs.
    pub(super) fn hang_up_unused(&mut self) {
        let connections = self.connections.values();
        let receiving = connections.flat_map(Connection::receives);
        let sending = self.connections.values().flat_map(Connection::sends);
        let addresses = self.addresses.values().map(|address| address.receive.relay);
        let opening = self.openings.values().filter(|it| it.fault.is_none());
        let used: BTreeSet<RelayId> = receiving
            .map(|(_, queue)| queue.relay)
            .chain(sending.map(|send| send.relay))
            .chain(opening.map(|opening| opening.relay))
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

    pub(super) fn unroute(&mut self, queue: &ReceiveQueue) {
        if let Some(created) = &queue.created {
            self.routes.remove(&(queue.relay, created.recipient_id));
        }
    }
}

impl Connection {
    /// Gives our invitation, not made yet, a short link as well.
    fn publish(&mut self, about: Vec<u8>, rng: &mut impl CryptoRng) -> Result<(), CallError> {
        let Keys::Offered(secrets) = &self.keys else {
            return Err(CallError::Defect("an invitation without keys"));
        };
        let offer = secrets.offer(RatchetVersions::OURS);
        let publication = Publication::new(about, Some(offer), rng);
        let published = self.receive.publish(publication);
        Ok(published.map_err(LinkError::from)?)
    }
}

fn check_about(about: &[u8]) -> Result<(), CallError> {
    if about.len() > ABOUT_MAX {
        Err(Misuse::AboutTooLong.into())
    } else {
        Ok(())
    }
}

fn check_info(info: &[u8]) -> Result<(), CallError> {
    if info.len() > MAX_INFO {
        Err(Misuse::InfoTooLong.into())
    } else {
        Ok(())
    }
}
