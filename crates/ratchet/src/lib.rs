//! Core: X448 key agreement and the post-quantum double ratchet of the agent protocol.
//!
//! Speaks versions 2 and 3 of the SimpleX ratchet (reference `smp.md` §6): X3DH over X448 with an
//! optional sntrup761 secret, then a double ratchet with encrypted headers in which version 3
//! negotiates a key encapsulation for every step.
//!
//! ```text
//! maker                                        joiner
//! MakerKeys::generate → offer()  ── link ──►   join(offer) → (Ratchet, Params)
//! MakerKeys::accept(params) → Ratchet  ◄── Params and first message ──
//! ```
//!
//! The joiner sends first; the maker can send after it decrypted something.
//!
//! # Storing
//!
//! [`Ratchet::encrypt`] and [`Ratchet::decrypt`] change the state. Whoever sends a message, or
//! acknowledges one, must have stored [`Ratchet::encode`] before: a restart from an older state
//! would use a message key twice. The state stays small because the keys of late messages are not
//! part of it: [`Decrypted::delta`] says which of those to add and remove.
//!
//! A message that does not decrypt changes nothing, whatever the cause.

mod agreement;
mod chain;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod params;
mod ratchet;
mod skipped;
mod state;
mod step;
mod version;
mod wire;

pub use agreement::{MakerKeys, Options, join};
pub use error::RatchetError;
pub use header::{HEADER_BYTES, HEADER_PQ_BYTES};
pub use params::{KemParams, Offer, Params};
pub use ratchet::{Decrypted, Ratchet};
pub use skipped::{EPOCHS_MAX, RETAINED_MAX, SKIPPED_MAX, SkippedDelta, SkippedId, SkippedKey};
pub use version::{Version, VersionRange};
