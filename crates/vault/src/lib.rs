//! Core: PIN-protected recovery: key schedule, threshold OPRF, the record that a realm keeps.
//!
//! A user's secrets hang on a master key that comes from a PIN *and* from 32 random bytes, c2. The
//! PIN alone can be searched, so c2 is kept by n realms, servers of different operators, of which
//! any t give it back to who knows the PIN, and fewer know nothing. A realm counts guesses and erases
//! its part when they run out; no realm, nor t − 1 of them together, can try PINs by itself.
//! The exact protocol is `docs/spec/vault.md`.
//!
//! | to | use |
//! |---|---|
//! | store | [`Pin`], [`Stretched`], [`enrol`] |
//! | get back | [`Roster::agreed`], [`Attempt`], [`Claims`] |
//! | keep a record | [`Record`] |
//! | keep all records of a realm | [`Realm`], [`Entry`], [`Token`] |
//! | move ranges of ids to another group | [`Order`], [`Step`], [`Word`], [`Certificate`] |
//! | answer only what enough replicas hold | [`Quorum`], [`Holders`] |
//!
//! Nothing here talks to anybody: bytes in, bytes out, and randomness is an argument.

mod card;
mod encoding;
mod enrolment;
#[cfg(test)]
mod fixture;
mod guesses;
mod oprf;
mod pass;
mod pin;
mod quorum;
mod realm;
mod realms;
mod record;
mod recovery;
mod roster;
mod schedule;
mod sharing;
mod transfer;

pub use card::{ADDRESS_BYTES_MAX, CARD_BYTES_MAX, Card, GroupId, Member};
pub use encoding::DecodeError;
pub use enrolment::{Deposit, Part, enrol};
pub use guesses::{GuessLimit, PolicyError};
pub use oprf::{BlindedElement, Evaluation};
pub use pass::Pass;
pub use pin::{PIN_BYTES_MAX, PIN_CHARS_MIN, Pin, PinError};
pub use quorum::{
    Holders, Position, Quorum, QuorumError, REPLICAS_MAX, Released, ReplicaId, Unheld,
};
pub use realm::{
    Answer, Class, Entry, Genesis, GenesisError, Hindrance, Operation, Pending, Progress, Realm,
    Request, Seconds, Step, Token, Unauthorised,
};
pub use realms::{Account, AccountError, REALMS_MAX, RealmId, RealmSet, RealmSetError};
pub use record::{Charged, Event, Given, Receipt, Record, Refusal, State, View};
pub use recovery::{Attempt, Claims, RecoveryError, Seed};
pub use roster::{Disagreement, Roster};
pub use schedule::{AuthKey, Cost, CostError, MasterKey, Stretched, Version};
pub use transfer::{
    Certificate, Departed, Ending, Errand, Order, OrderError, OrderId, ParcelKey, Revocation, Side,
    Span, Todo, Uncertified, Word,
};
