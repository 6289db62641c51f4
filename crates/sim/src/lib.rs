//! Seeded simulation: network, clock, disk, faults, and the invariants that must hold.
//!
//! A run is decided by its [`Seed`]: randomness of every party, schedule, faults and clock. Real
//! cores (`junto-smp`, `junto-agent`, `junto-session`, `junto-bls`) run in it; what the simulation
//! replaces is only what their shells own.
//!
//! | module | layer under test |
//! |---|---|
//! | [`messengers`] | agents over relays that speak the queue protocol: links die, relays restart, lie or are lost, processes die at any commit |
//! | [`sessions`] over [`post`] | sessions over a carrier that is nothing but its contract: formation, protocols, channels, liars, parties that vanish |
//! | [`sessions`] over [`stack`] | all of it: sessions over agents over relays |
//!
//! Half of a run is under faults, the other half without: then everything has to arrive.
//!
//! ```text
//! cargo test -p junto-sim                                       the first seeds
//! JUNTO_SIM_SEEDS=1000 cargo test --release -p junto-sim        more of them
//! JUNTO_SIM_SEED=17 cargo test -p junto-sim agents              one, again
//! ```
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a simulation that breaks down is a failed test, and party numbers are small"
)]

pub mod agents;
pub mod campaign;
pub mod carrier;
pub mod dice;
pub mod faults;
pub mod invariants;
pub mod malice;
pub mod messengers;
pub mod mutation;
pub mod post;
pub mod program;
pub mod relay;
pub mod sessions;
pub mod stack;
pub mod stream;
pub mod timeline;
pub mod trace;
pub mod verdict;
mod words;

pub use campaign::campaign;
pub use dice::Seed;
pub use mutation::Mutation;
