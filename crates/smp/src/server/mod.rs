//! The server half of a connection.
//!
//! The shell owns socket, queues and clock; this is how the pieces meet:
//!
//! ```text
//! let handshake = Handshake::start(&identity, session, &mut rng, &mut block)?;  // send block
//! let Connection { mut requests, mut replies } = handshake.finish(&identity, &mut block)?; // received block
//! loop {
//!     // read `block`
//!     for request in requests.open(&mut block)? {
//!         let request = match request { Ok(r) => r, Err(refusal) => { replies.push_refusal(..); continue } };
//!         // request.party() says which index to look in, request.queue_id() the key
//!         let credential = match queue { Some(q) => q.credential(request.command()),
//!                                        None => Credential::Nobody /* or without_queue */ };
//!         match requests.authorise(request, &credential) {
//!             Ok(command) => queue.handle(&command, &context, &mut rng, keep) / Queue::create(..),
//!             Err(refusal) => replies.push_refusal(..),
//!         }
//!     }
//!     // push answers and events; seal and send when the block is full or nothing is left to push
//! }
//! ```
//!
//! Reading and writing are separate values, so they can live in separate tasks. A server that has
//! services takes the hello by [`Handshake::greet`], and answers theirs with a third block.

mod forward;
mod handshake;
mod reply;
mod request;

pub use forward::{Back, Forwarded};
pub use handshake::{
    Applicant, ClientCertificates, Connection, Greeted, Handshake, Identity, IdentityError,
};
pub use reply::ReplyWriter;
pub use request::{Authorised, Refusal, Request, RequestReader, Requests};
