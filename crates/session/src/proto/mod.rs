//! The core: what sessions say and decide, without sockets, files, clocks or random sources.
//!
//! [`node::Node`] takes commands, carrier events and outcomes, and returns a [`step::Step`]: what to
//! store, and what may be done once that is durable. A simulation drives it exactly as the shell
//! does.

pub mod channel;
pub(crate) mod conduct;
pub mod endpoint;
pub mod error;
pub mod evidence;
pub mod execution;
pub mod fault;
mod formation;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod limits;
pub mod link;
pub(crate) mod machine;
pub mod node;
pub mod party;
pub mod paths;
pub(crate) mod pipe;
pub(crate) mod record;
pub mod roster;
pub mod safety_code;
pub mod statement;
pub mod step;
pub(crate) mod streams;
mod wire;

pub use formation::convicts_host;
pub use machine::Role;
pub use record::{EchoEntry, Refusal};
pub use wire::Malformed;
