//! The replicas of a vault's realm: openraft underneath, the release by super-majority above.
//!
//! A [`Replica`] holds its realm, its log and its votes in memory only, under a name that it makes up when it starts:
//! whoever comes back after a crash is somebody else, and no member of the group. The members of a group never
//! change. A leader answers when the release quorum of them says, in its own reign, that they hold its log up
//! to the question, contents, ballots and all ([`junto_vault::Holders`]); that a majority has committed is not enough.
//!
//! Replicas reach each other over TCP ([`Replica::join`], [`serve()`]), or inside one process through a [`Fabric`], for
//! tests. Every start has a key of its own ([`BootKey`]), which is the replica's name; a [`Card`], signed by the realm, says
//! whose keys count. Clients reach a realm by a [`RealmClient`], at its replicas or at a [`Frontend`]. The exact bytes are in `docs/spec/vault.md`.

mod asking;
pub mod bench;
mod channel;
mod client;
mod courier;
mod evidence;
mod fabric;
mod front;
pub mod fuzzing;
mod groups;
mod holding;
mod judge;
mod keys;
mod links;
mod log;
#[cfg(target_os = "linux")]
pub mod memory;
mod reach;
mod read;
mod replica;
mod said;
mod serve;
mod store;
#[cfg(target_os = "linux")]
mod tsm;
mod wire;

pub use client::{ADDRESSES_MAX, Access, RealmClient};
pub use courier::GroupClient;
pub use evidence::{
    Accepted, Attestation, Bound, Evidence, EvidenceError, Kind, Simulated, Verifier,
};
pub use fabric::Fabric;
pub use front::Frontend;
pub use judge::{Judge, Keep};
pub use keys::BootKey;
pub use links::{Membership, Peer};
pub use reach::ClientError;
pub use read::Malformed;
pub use replica::{AskError, Replica, StartError};
pub use serve::{now, serve};
#[cfg(target_os = "linux")]
pub use tsm::Tsm;

use std::{fmt, sync::Arc};

use junto_crypto::Zeroizing;
pub use junto_vault::{ADDRESS_BYTES_MAX, Card, Member, Pass};
use junto_vault::{Pending, ReplicaId};

openraft::declare_raft_types!(
    /// What openraft is told of us.
    pub(crate) Types:
        D = Proposal,
        R = Applied,
        NodeId = Name,
        Node = (),
        Entry = openraft::Entry<Types>,
        SnapshotData = Zeroizing<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type LogId = openraft::LogId<Name>;

/// A replica's name, as openraft wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name([u8; 32]);

impl From<ReplicaId> for Name {
    fn from(id: ReplicaId) -> Self {
        Self(id.0)
    }
}

impl From<Name> for ReplicaId {
    fn from(name: Name) -> Self {
        Self(name.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An entry of the realm, encoded: wiped when the last log that has it lets it go.
#[derive(Clone)]
pub(crate) struct Proposal(Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an entry came to, and the digest of the log up to it; none for those that are consensus' own, or that cannot
/// be read.
pub(crate) struct Applied(Option<(Pending, log::Head)>);

impl fmt::Debug for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Applied")
    }
}
