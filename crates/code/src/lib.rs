//! Short codes: two people who share a few spoken words, and a relay that neither trusts, get to a common key and with
//! it to a link (`docs/spec/code.md`).
//!
//! [`Code`], [`Frame`], [`Host`] and [`Joiner`] are pure: bytes, time and randomness go in. [`mailbox`] is the shell that
//! moves their frames through queues of a relay. What is told of a code in a local network is [`nearby`].

mod code;
mod exchange;
mod frame;
pub mod mailbox;
pub mod nearby;
mod words;

pub use code::{Code, NUMBER_MAX, NoCode, Number, WORDS};
pub use exchange::{
    ATTEMPT_LIFE, ATTEMPTS_MAX, Altered, Asking, HEARD_MAX, Heard, Host, Joiner, Reply, Turned,
    Verdict,
};
pub use frame::{Frame, LINK_BYTES_MAX, Malformed, Refusal, SEALED_BYTES, SHARE_BYTES, TAG_BYTES};
