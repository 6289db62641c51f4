//! What a message costs, and a minimal client to find out.

mod peer;

pub use peer::{Heard, OwnQueue, Peer, PeerError, Said};
