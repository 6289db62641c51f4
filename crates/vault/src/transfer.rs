//! Ranges of ids move from one group of a realm to another: who orders it, what the groups say to each other, and how
//! records are sealed on their way. Both sides' states are in [`Realm`](crate::Realm); why this suffices is
//! `docs/decisions/0024-ranges-move.md`.
//!
//! Whoever carries the words is trusted with nothing: an [`Order`] is signed by the realm, a [`Word`] is proven by so many
//! members of its group as must hold what is answered ([`Certificate`]), and records are sealed to a key of the
//! destination ([`ParcelKey`]).

mod errand;
mod order;
mod parcel;
mod word;

pub use errand::{Ending, Errand, Side, Todo};
pub use order::{Order, OrderError, OrderId, Revocation, Span};
pub use parcel::ParcelKey;
pub(crate) use parcel::{ParcelSecret, SealKey, Sealed, digest};
pub use word::{Certificate, Departed, Uncertified, Word};
