//! How replicas in one process reach each other, and how they are kept from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use junto_vault::ReplicaId;
use openraft::{
    OptionalSend, Raft, RaftNetwork, RaftNetworkFactory, Snapshot, Vote,
    error::{
        Fatal, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable,
    },
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};

use crate::{LogId, Name, Types, log::Head, store::Store};

/// The replicas of one process. Links can be cut, one way or both.
#[derive(Clone, Default)]
pub struct Fabric(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    ports: BTreeMap<Name, Port>,
    cut: BTreeSet<(Name, Name)>,
}

/// Where a replica is reached.
#[derive(Clone)]
pub(crate) struct Port {
    pub(crate) raft: Raft<Types>,
    pub(crate) store: Store,
}

/// Nobody is there, or the way is cut.
#[derive(Debug, thiserror::Error)]
#[error("that replica does not answer")]
struct Silence;

impl Fabric {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        // Nothing under this lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing gets from `from` to `to`.
    pub fn cut(&self, from: ReplicaId, to: ReplicaId) {
        self.wires().cut.insert((from.into(), to.into()));
    }

    /// Every link works again.
    pub fn heal(&self) {
        self.wires().cut.clear();
    }

    pub(crate) fn plug(&self, name: Name, port: Port) {
        self.wires().ports.insert(name, port);
    }

    pub(crate) fn unplug(&self, name: Name) {
        self.wires().ports.remove(&name);
    }

    fn reach(&self, from: Name, to: Name) -> Result<Port, Silence> {
        let wires = self.wires();
        let open = !wires.cut.contains(&(from, to)) && wires.ports.contains_key(&from);
        let port = wires.ports.get(&to).filter(|_| open);
        port.cloned().ok_or(Silence)
    }

    /// What `to` holds up to that entry, once it holds it. None when it cannot be asked or cannot say.
    pub(crate) async fn held(&self, from: Name, to: Name, id: LogId) -> Option<Head> {
        let port = self.reach(from, to).ok()?;
        let held = port.store.held(&id).await;
        // The answer takes the way back.
        self.reach(to, from).ok().map(|_| held)
    }
}

/// The ways from one replica to the others.
pub(crate) struct Links {
    pub(crate) fabric: Fabric,
    pub(crate) from: Name,
}

pub(crate) struct Link {
    fabric: Fabric,
    from: Name,
    to: Name,
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: Name, _: &()) -> Link {
        Link {
            fabric: self.fabric.clone(),
            from: self.from,
            to: target,
        }
    }
}

impl Link {
    /// There; and back again, once the other side has done it.
    async fn call<T, E>(
        &self,
        call: impl AsyncFnOnce(Port) -> Result<T, E>,
    ) -> Result<Result<T, E>, Unreachable> {
        let silence = |silence: Silence| Unreachable::new(&silence);
        let port = self.fabric.reach(self.from, self.to).map_err(silence)?;
        let out = call(port).await;
        self.fabric.reach(self.to, self.from).map_err(silence)?;
        Ok(out)
    }
}

type Refused = RPCError<Name, (), RaftError<Name>>;

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Name>, Refused> {
        let done = self
            .call(async |port| port.raft.append_entries(rpc).await)
            .await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Name>,
        _: RPCOption,
    ) -> Result<VoteResponse<Name>, Refused> {
        let done = self.call(async |port| port.raft.vote(rpc).await).await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<Name>,
        snapshot: Snapshot<Types>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Name>, StreamingError<Types, Fatal<Name>>> {
        let call = async |port: Port| port.raft.install_full_snapshot(vote, snapshot).await;
        let done = self.call(call).await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }
}
