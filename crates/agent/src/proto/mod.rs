//! The pure core: formats and machines of the agent protocol.
//!
//! Nothing here owns a socket, a file, a clock or a source of randomness. Bytes, commands,
//! [`Instant`]s and a random number generator go in; [`Step`]s come out.
//!
//! Formats are those of the SimpleX agent protocol, version 7, as deployed: one connection is a
//! receive queue and a send queue, a double ratchet between them, and numbered messages that
//! each carry the hash of the one before.

mod address;
mod again;
mod audit;
mod calls;
mod chain;
mod command;
mod connection;
mod effects;
mod envelope;
mod event;
mod handshake;
mod id;
mod instant;
mod layer;
mod link;
mod link_data;
mod machine;
mod message;
mod newcomer;
mod noise;
mod offer;
mod offers;
mod opening;
mod overview;
mod parallel;
mod parting;
mod path;
mod publication;
mod query;
mod queue;
mod receiving;
mod relay;
mod relays;
mod requests;
mod restored;
mod resync;
mod rotation;
mod sending;
mod short;
mod step;
mod version;
mod wire;

pub use address::{QueueAddress, QueueInfo, QueueMode, QueueName, QueueUri, SenderId};
pub use chain::{Integrity, MessageHash, ReceiveChain, SendChain};
pub use command::{CallError, Command, Misuse, Reply, Ticket};
pub use effects::{HEAL_INTERVAL, PostQuantum, Timer};
pub use envelope::Envelope;
pub use event::{ConnectionFault, Event};
pub use id::{ConnectionId, MessageId, RequestId, Tag};
pub use instant::Instant;
pub use layer::{Confirmed, QueueLayerError, SealedBody};
pub use link::{ContactLink, InvitationLink, Link, LinkError};
pub use link_data::{ABOUT_MAX, Opened};
pub use machine::{Lines, Machine, MachineConfig, RestoreError, Settling};
pub use message::{AgentMessage, Body, MAX_BODY, MAX_INFO, Receipt};
pub use noise::{NOISE_INTERVAL_MAX, NOISE_INTERVAL_MIN, Noise, Pace};
pub use overview::{
    AddressView, ConnectionView, KeyState, NoiseView, Overview, Progress, QueueView, RequestView,
};
pub use parallel::{QUEUES_MAX, Spread};
pub use parting::LEAVING_MAX;
pub use path::{Reach, RelayPath, Route, RoutePolicy, Routing};
pub use relay::{
    Answer, Auth, LinkBytes, LinkParts, NewLink, Operation, Refusal, RelayId, RelayNotice,
    RelayTrouble, Token,
};
pub use requests::{ADDRESS_REQUESTS_MAX, REQUEST_BURST, REQUEST_PAUSE};
pub use resync::{RESYNC_PAUSE, Resync};
pub use rotation::Schedule;
pub use short::{ContactKind, LinkKey, ShortKind, ShortLink};
pub use step::{Committed, Delta, Output, Row, RowKey, Step};
pub use version::VersionRange;
pub use wire::Malformed;
