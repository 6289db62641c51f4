//! What a profile has: its addresses, the requests that wait, its connections.

use super::connection::{Connection, Stage};
use super::event::ConnectionFault;
use super::id::{ConnectionId, RequestId, Tag};
use super::link::ContactLink;
use super::machine::Machine;
use super::short::ShortLink;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Addresses, by tag.
    pub addresses: Vec<AddressView>,
    /// Requests that are neither accepted nor rejected.
    pub requests: Vec<RequestView>,
    /// Connections that are not deleted.
    pub connections: Vec<ConnectionView>,
}

/// A contact address.
#[derive(Clone, Debug)]
pub struct AddressView {
    /// Name of the intention.
    pub tag: Tag,
    /// Its link, once its queue is made.
    pub link: Option<ContactLink>,
    /// Its short link, if it has one and its queue is made.
    pub short: Option<ShortLink>,
    /// What its short link says.
    pub about: Option<Vec<u8>>,
    /// It is being closed; its relay may not have heard of it.
    pub closing: bool,
}

/// A request to connect.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// The request.
    pub id: RequestId,
    /// Tag of the address, which may be closed by now.
    pub tag: Tag,
    /// What the requester says about itself.
    pub info: Vec<u8>,
}

/// A connection.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// The connection.
    pub id: ConnectionId,
    /// Name of the intention.
    pub tag: Tag,
    /// How far it is.
    pub progress: Progress,
    /// What the peer says about itself, once connected.
    pub info: Vec<u8>,
    /// Messages that the application has not acknowledged.
    pub unread: usize,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Our link is out, and nobody has followed it, or our request not answered.
    Inviting,
    /// The peer's link is followed, and its answer is not here.
    Joining,
    /// Messages flow.
    Connected,
    /// It cannot go on.
    Failed(ConnectionFault),
}

impl Machine {
    /// What the profile has.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let addresses = self.addresses.values().map(|address| {
            let publication = address.receive.publication.as_ref();
            AddressView {
                tag: address.tag,
                link: address.link(),
                short: address.receive.short_link(),
                about: publication.map(|it| it.about().to_vec()),
                closing: address.closing,
            }
        });
        let requests = self.requests.iter().map(|(id, request)| RequestView {
            id: *id,
            tag: request.address,
            info: request.info.clone(),
        });
        let opening = self.openings.values().map(|opening| ConnectionView {
            id: opening.id,
            tag: opening.tag,
            progress: opening.fault.map_or(Progress::Joining, Progress::Failed),
            info: Vec::new(),
            unread: 0,
        });
        let connections = self.connections.values().filter_map(view);
        Overview {
            addresses: addresses.collect(),
            requests: requests.collect(),
            connections: connections.chain(opening).collect(),
        }
    }
}

fn view(connection: &Connection) -> Option<ConnectionView> {
    Some(ConnectionView {
        id: connection.id,
        tag: connection.tag,
        progress: match connection.stage {
            Stage::Inviting => Progress::Inviting,
            Stage::Joining | Stage::Confirming => Progress::Joining,
            Stage::Active => Progress::Connected,
            Stage::Failed(fault) => Progress::Failed(fault),
            Stage::Deleting => return None,
        },
        info: connection.peer_info.clone(),
        unread: connection.inbox.len(),
    })
}
