//! The shell: one task with core and store, and handles that talk to it.

mod channel;
pub(crate) mod driver;
mod execution;
mod session;
mod sessions;

pub use channel::Channel;
pub use driver::{Succeed, Used, Warning};
pub use execution::Execution;
pub use session::{Forming, Session};
pub use sessions::Sessions;
