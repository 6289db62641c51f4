//! Programs that speak TCP with each other, unmodified, over a session.
//!
//! Each other party is a port on this machine: what connects there is carried to that party's program,
//! and what that party's program sends to us is carried to the port on which ours listens. A connection
//! is held until the program at the far end listens; each direction ends by itself; nothing is lost
//! while relays restart or networks vanish, and a party that stays away is named.

mod greeting;
mod inbox;
mod mesh;
mod owner;
mod pair;
mod path;
mod place;
mod silence;
mod stream;
mod wish;

pub use greeting::Greeting;
pub use mesh::{Mesh, MeshError};
pub use path::{Contact, Line, PLACES_MAX, Policy, Ways};

pub use crate::proto::streams::{Outcome, STREAMS_MAX, WINDOW};
