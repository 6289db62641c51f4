//! Connections through a short link whose data is not here yet.
//!
//! First the data is read (`LGET`), and of an invitation the queue secured along with it (`LKEY`). What comes is
//! checked against the link; then the connection begins as through a full link, in the same row of the store. The key
//! that secures the queue is stored before it is sent: after a crash the relay takes it again, and it sends from then on.

use junto_crypto::{CryptoRng, Zeroizing};
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::key::AuthSecret;
use std::sync::Arc;

use super::address::{put_relay, read_relay};
use super::command::CallError;
use super::connection::{Connection, fault_letters, read_fault};
use super::effects::{Effects, Owner, Purpose, RETRY_DELAY, Timer};
use super::event::{ConnectionFault, Event};
use super::id::{ConnectionId, Tag};
use super::link::{Link, LinkError};
use super::machine::Machine;
use super::queue::{ReceiveQueue, put_auth, read_auth};
use super::relay::{Answer, Auth, LinkBytes, Operation, Refusal, RelayId};
use super::short::{ShortKind, ShortLink};
use super::step::{Row, RowKey};
use super::wire::{Malformed, Reader, put_large};

/// The first byte of the row, in the place of a connection's version.
pub(super) const ROW: u8 = b'S';

/// See the module.
pub(super) struct Opening {
    pub(super) id: ConnectionId,
    pub(super) tag: Tag,
    link: ShortLink,
    /// The relay with the data.
    address: ServerAddress,
    pub(super) relay: RelayId,
    /// The relay that the connection will receive on.
    receiving: ServerAddress,
    info: Vec<u8>,
    /// Secures the queue of an invitation.
    auth: Auth,
    pub(super) fault: Option<ConnectionFault>,
    in_flight: bool,
}

impl Opening {
    fn pump(&mut self, effects: &mut Effects) {
        if self.fault.is_some() || self.in_flight || !effects.is_up(self.relay) {
            return;
        }
        // Every short link has a name for its data.
        let Some(link) = self.link.data_id() else {
            return;
        };
        let operation = match self.link.kind() {
            ShortKind::Contact(_) => Operation::ReadLink { link },
            ShortKind::Invitation(_) => Operation::SecureByLink {
                link,
                auth: Arc::clone(&self.auth),
            },
        };
        self.in_flight = true;
        effects.command(
            self.relay,
            Owner::Opening(self.id),
            Purpose::Open,
            operation,
        );
    }

    /// The connection to the relay died, or a refusal may have passed.
    pub(super) fn void(&mut self, relay: RelayId) {
        if self.relay == relay {
            self.in_flight = false;
        }
    }

    fn failed_event(&self) -> Option<Event> {
        let (connection, tag) = (self.id, self.tag);
        let error = self.fault?;
        Some(Event::Failed {
            connection,
            tag,
            error,
        })
    }

    pub(super) fn to_row(&self) -> Result<Row, Malformed> {
        let mut out = Zeroizing::new(Vec::with_capacity(512));
        out.push(ROW);
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(&self.fault.map_or(*b"  ", fault_letters));
        put_large(&mut out, self.link.to_string().as_bytes())?;
        put_relay(&mut out, &self.address)?;
        put_relay(&mut out, &self.receiving)?;
        put_auth(&mut out, &self.auth);
        out.extend_from_slice(&self.info);
        Ok(out)
    }

    pub(super) fn from_row(
        id: ConnectionId,
        row: &[u8],
        effects: &mut Effects,
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(row);
        if reader.u8()? != ROW {
            return Err(Malformed::Version);
        }
        let tag = Tag::new(reader.array()?);
        let fault = match &reader.array()? {
            b"  " => None,
            letters => Some(read_fault(letters)?),
        };
        let text = core::str::from_utf8(reader.large()?).map_err(|_| Malformed::Text)?;
        let link = text.parse().map_err(|_| Malformed::Text)?;
        let (address, receiving) = (read_relay(&mut reader)?, read_relay(&mut reader)?);
        let auth = read_auth(&mut reader)?;
        Ok(Self {
            id,
            tag,
            link,
            relay: effects.peers_relay(&address, &receiving),
            address,
            receiving,
            info: reader.tail().to_vec(),
            auth,
            fault,
            in_flight: false,
        })
    }
}

/// Why a link that was opened comes to nothing.
fn fault_of(error: LinkError) -> ConnectionFault {
    match error {
        LinkError::Unsupported => ConnectionFault::Version,
        LinkError::Forged
        | LinkError::Malformed(_)
        | LinkError::OtherKind(_)
        | LinkError::UnknownRelay => ConnectionFault::LinkForged,
    }
}

impl Machine {
    /// Begins to open a short link.
    pub(super) fn open_short(
        &mut self,
        tag: Tag,
        link: &ShortLink,
        receiving: ServerAddress,
        info: Vec<u8>,
        rng: &mut impl CryptoRng,
    ) -> Result<ConnectionId, CallError> {
        let mut known = self.effects.routes.own.clone();
        known.push(receiving.clone());
        let address = link.relay(&known)?;
        let id = self.fresh_id(rng);
        let opening = Opening {
            id,
            tag,
            link: link.clone(),
            relay: self.effects.peers_relay(&address, &receiving),
            address,
            receiving,
            info,
            auth: Arc::new(AuthSecret::generate(rng)),
            fault: None,
            in_flight: false,
        };
        self.effects.changed(Owner::Opening(id));
        self.tags.insert(tag, id);
        self.openings.insert(id, opening);
        Ok(id)
    }

    pub(super) fn restore_opening(
        &mut self,
        id: ConnectionId,
        row: &[u8],
    ) -> Result<(), Malformed> {
        let opening = Opening::from_row(id, row, &mut self.effects)?;
        self.tags.insert(opening.tag, id);
        match opening.failed_event() {
            Some(event) => self.effects.event(event),
            None => self.effects.ready(Owner::Opening(id)),
        }
        self.openings.insert(id, opening);
        Ok(())
    }

    pub(super) fn pump_opening(&mut self, id: ConnectionId) {
        if let Some(opening) = self.openings.get_mut(&id) {
            opening.pump(&mut self.effects);
        }
    }

    /// The relay answered.
    pub(super) fn opening_answered(
        &mut self,
        id: ConnectionId,
        answer: Answer,
        rng: &mut impl CryptoRng,
    ) {
        let Some(opening) = self.openings.get(&id) else {
            return;
        };
        match answer {
            Answer::Link(data) => match self.opened(id, &data, rng) {
                Ok(()) => {}
                Err(error) => self.fail_opening(id, fault_of(error)),
            },
            Answer::Refused(Refusal::Auth) => self.fail_opening(id, ConnectionFault::LinkGone),
            Answer::Refused(_) | Answer::Done | Answer::Created { .. } => {
                let timer = Timer::Retry(opening.relay);
                self.effects.wake_after(RETRY_DELAY, timer);
            }
        }
    }

    /// Goes on as with a full link, if the data is what the link's maker put there.
    fn opened(
        &mut self,
        id: ConnectionId,
        data: &LinkBytes,
        rng: &mut impl CryptoRng,
    ) -> Result<(), LinkError> {
        let Some(opening) = self.openings.get(&id) else {
            return Ok(());
        };
        let opened = opening.link.open(&opening.address, data)?;
        let (tag, info) = (opening.tag, opening.info.clone());
        let auth = Arc::clone(&opening.auth);
        match &opened.link {
            Link::Invitation(link) => link.negotiated().map(drop)?,
            Link::Contact(link) => link.negotiated().map(drop)?,
            Link::Short(_) => return Err(LinkError::Forged),
        }
        let effects = &mut self.effects;
        let receiving = opening.receiving.clone();
        let receive = ReceiveQueue::new(receiving, QueueMode::Messaging, effects, rng);
        let connection = match &opened.link {
            Link::Invitation(link) => {
                let joined = Connection::join(id, tag, link, info, receive, (effects, rng));
                let mut connection = joined?;
                if let Some(send) = &mut connection.send {
                    send.secured_by(auth);
                }
                connection
            }
            Link::Contact(link) => {
                Connection::request(id, tag, link, info, receive, (effects, rng))?
            }
            Link::Short(_) => return Err(LinkError::Forged),
        };
        self.openings.remove(&id);
        self.add(connection);
        self.effects.event(Event::Opened {
            connection: id,
            tag,
            about: opened.about,
        });
        Ok(())
    }

    fn fail_opening(&mut self, id: ConnectionId, fault: ConnectionFault) {
        let Some(opening) = self.openings.get_mut(&id) else {
            return;
        };
        opening.fault = Some(fault);
        if let Some(event) = opening.failed_event() {
            self.effects.event(event);
        }
        self.effects.changed(Owner::Opening(id));
    }

    /// Gives up. `false` if nothing is being opened under this name.
    pub(super) fn delete_opening(&mut self, id: ConnectionId) -> bool {
        let Some(opening) = self.openings.remove(&id) else {
            return false;
        };
        if self.tags.get(&opening.tag) == Some(&id) {
            self.tags.remove(&opening.tag);
        }
        self.effects.delta.delete(RowKey::Connection(id));
        self.hang_up_unused();
        true
    }
}
