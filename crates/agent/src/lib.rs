//! Duplex connections over SMP queues: pure protocol, SQLite store, relay connections.
//!
//! An [`Agent`] holds the connections of one profile. It makes and follows links, agrees keys,
//! encrypts with a post-quantum double ratchet, keeps what must survive in one encrypted SQLite
//! file, and keeps trying until every message is delivered exactly once to the application on the
//! other side, whatever restarts in between.
//!
//! [`proto`] is the pure core: formats and machines, no input or output. [`store`] keeps its state.
//! The rest is the shell around them: one thread that owns core and store, and a task for each
//! relay connection.

pub mod bench;
pub mod client;
mod error;
pub mod proto;
mod random;
mod shell;
pub mod store;

pub use error::{AgentError, RelayFault};
pub use proto::{
    ABOUT_MAX, ADDRESS_REQUESTS_MAX, AddressView, ConnectionFault, ConnectionId, ConnectionView,
    ContactLink, Event, Integrity, InvitationLink, KeyState, LEAVING_MAX, Lines, Link, LinkError,
    MAX_BODY, MAX_INFO, MessageId, Misuse, NOISE_INTERVAL_MAX, NOISE_INTERVAL_MIN, Noise,
    NoiseView, Overview, Pace, PostQuantum, Progress, QUEUES_MAX, QueueView, REQUEST_BURST,
    REQUEST_PAUSE, Reach, RelayPath, RelayTrouble, RequestId, RequestView, Resync, Route, Routing,
    ShortKind, ShortLink, Spread, Tag,
};
pub use shell::{
    Agent, AgentConfig, Events, Fallback, Passwords, ROTATION_PERIOD, Reconnect, Succeed,
};
