//! Sessions for multiparty computation: roster, safety code, rounds, reliable broadcast, blame.
//!
//! A host makes a session and gives its [`SessionLink`] to the others; they join; every pair proves
//! itself over its own connection, and all sign the same roster. Then protocols run: private
//! messages and reliable broadcast in rounds, with deadlines that name the silent and evidence
//! against those who cheat. All of it survives a crash at any moment.
//!
//! | module | what |
//! |---|---|
//! | [`proto`] | the core: no sockets, files, clocks |
//! | [`carrier`] | what carries messages, as a trait; one in memory |
//! | [`store`] | SQLite, sealed |
//! | [`adapters`] | protocols of other ecosystems |
//! | [`mod@bench`] | figures, with a floor in the same run |
//!
//! The format is in `docs/spec/session.md`.

pub mod adapters;
pub mod bench;
pub mod carrier;
pub mod proto;
mod shell;
pub mod store;

pub use proto::{
    Malformed, Refusal, Role,
    channel::{ChannelMessage, Receipt},
    error::{LocalError, Misuse, SessionError},
    evidence::{Court, Culprit, Evidence},
    execution::{Incoming, Kind, Mode, Purpose},
    fault::{Blame, Fault, Reason},
    identity::{IdentityFault, KnownKeys, Policy},
    link::{Params, SessionLink},
    node::{Joiner, Persona, Stage, Stranger, Summary},
    party::{DisplayName, Members, PartyCount, PartyIndex},
    roster::{Entry, FormationId, Roster, SessionId},
    safety_code::SafetyCode,
    statement::{InstanceId, Round},
    step::LocalId,
};
pub use shell::{Channel, Execution, Forming, Session, Sessions, Succeed, Used, Warning};

#[cfg(test)]
mod world;
