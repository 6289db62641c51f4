//! What a profile has: its addresses, the requests that wait, its connections.

use junto_smp::address::ServerAddress;

use super::connection::{Connection, Keys, Stage};
use super::event::ConnectionFault;
use super::id::{ConnectionId, RequestId, Tag};
use super::link::ContactLink;
use super::machine::Machine;
use super::noise::Noise;
use super::queue::ReceiveQueue;
use super::resync::Sync;
use super::rotation::Place;
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
    /// Its link has changed, and the application has not said that it knows ([`Event::AddressMoved`](super::Event)).
    pub moved: bool,
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
    /// Messages of ours, the agent's own among them, that no relay has taken yet.
    pub unsent: usize,
    /// Whether the two sides have the same keys.
    pub keys: KeyState,
    /// Whether a post-quantum secret is in all keys that are used from now on.
    pub post_quantum: bool,
    /// Whether another queue is to take the place of the one that we receive on.
    pub rotating: bool,
    /// Queues that we received on before, and that their relays have not deleted yet.
    pub retired: usize,
    /// Our queues.
    pub receives: Vec<QueueView>,
    /// The relays of the peer's queues that we send to.
    pub sends: Vec<ServerAddress>,
    /// When we send, and the peer.
    pub noise: NoiseView,
}

/// What the two sides of a connection do against being watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoiseView {
    /// When we send, as chosen.
    pub ours: Noise,
    /// Whether it is in force: it is when the peer has said that it keeps a schedule or answers ours, as its user chose;
    /// SimpleX's agents do not.
    pub is_running: bool,
    /// Whether the peer sends at times of its own, too, by its last word of it.
    pub is_peers: bool,
}

/// A queue that we receive on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Where it is.
    pub relay: ServerAddress,
    /// Whether it is made and the peer may send there; until then it is on its way.
    pub is_open: bool,
}

/// Whether the two sides of a connection have the same keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// No keys are agreed yet.
    Agreeing,
    /// As far as we know they have.
    InStep,
    /// They have not, and nobody has begun to agree new ones.
    Broken,
    /// New ones are being agreed: the peer is to answer, or to say something in them. Calls to send wait.
    Renewing,
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
                moved: address.moved && address.receive.created.is_some(),
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
            unsent: 0,
            keys: KeyState::Agreeing,
            post_quantum: false,
            rotating: false,
            retired: 0,
            receives: Vec::new(),
            sends: Vec::new(),
            noise: NoiseView::default(),
        });
        let connections = self.connections.values().filter_map(view);
        Overview {
            addresses: addresses.collect(),
            requests: requests.collect(),
            connections: connections.chain(opening).collect(),
        }
    }
}

impl Connection {
    fn queue_views(&self) -> Vec<QueueView> {
        let first = core::iter::once((&self.receive, self.receive.created.is_some()));
        let others = self.parallel.ours.iter();
        let others = others.map(|(_, ours)| (&ours.queue, ours.is_open()));
        let view = |(queue, is_open): (&ReceiveQueue, bool)| QueueView {
            relay: queue.relay_address().clone(),
            is_open,
        };
        first.chain(others).map(view).collect()
    }
}

fn view(connection: &Connection) -> Option<ConnectionView> {
    let queues = || connection.rotation.queues();
    Some(ConnectionView {
        id: connection.id,
        tag: connection.tag,
        progress: match connection.stage {
            Stage::Inviting => Progress::Inviting,
            Stage::Joining | Stage::Confirming => Progress::Joining,
            Stage::Active => Progress::Connected,
            Stage::Hearing => Progress::Failed(ConnectionFault::PeerGone),
            Stage::Failed(fault) => Progress::Failed(fault),
            Stage::Leaving(_) | Stage::Deleting => return None,
        },
        info: connection.peer_info.clone(),
        unread: connection.inbox.len(),
        unsent: connection.untaken() + connection.waiting.len(),
        keys: match (&connection.keys, &connection.resync.sync) {
            (Keys::Offered(_), _) => KeyState::Agreeing,
            (Keys::Agreed(_), Sync::Settled) => KeyState::InStep,
            (Keys::Agreed(_), Sync::Broken(_)) => KeyState::Broken,
            (Keys::Agreed(_), Sync::Asked(_) | Sync::Agreed(_)) => KeyState::Renewing,
        },
        post_quantum: matches!(&connection.keys, Keys::Agreed(ratchet) if ratchet.is_hybrid()),
        rotating: queues().any(|(place, _)| place == Place::Next),
        retired: queues().filter(|(place, _)| *place != Place::Next).count(),
        receives: connection.queue_views(),
        sends: connection
            .sends()
            .map(|send| send.address.relay.clone())
            .collect(),
        noise: NoiseView {
            ours: connection.slots.noise,
            is_running: connection.slots.is_running(),
            is_peers: connection.slots.is_peers,
        },
    })
}
