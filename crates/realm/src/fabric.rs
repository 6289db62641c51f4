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

use crate::{
    LogId, Name, Types,
    links::Wire,
    log::Head,
    store::Store,
    wire::{Request, Response},
};

/// The replicas of one process. Links can be cut, one way or both.
#[derive(Clone, Default)]
pub struct Fabric(Arc<Mutex<Wires>>);

#[derive(Default)]
struct Wires {
    ports: BTreeMap<Name, Port>,
    cut: BTreeSet<(Name, Name)>,
    /// How often somebody was asked what it holds.
    #[cfg(test)]
    questions: usize,
    /// Those that hold another log since they were turned back.
    #[cfg(test)]
    diverged: BTreeSet<Name>,
    /// Those that do not say what they hold.
    #[cfg(test)]
    silent: BTreeSet<Name>,
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

    #[cfg(test)]
    pub(crate) fn questions(&self) -> usize {
        self.wires().questions
    }

    #[cfg(test)]
    pub(crate) fn diverge(&self, replica: ReplicaId) {
        self.wires().diverged.insert(replica.into());
    }

    #[cfg(test)]
    pub(crate) fn hush(&self, replica: ReplicaId, is_silent: bool) {
        let mut wires = self.wires();
        match is_silent {
            true => wires.silent.insert(replica.into()),
            false => wires.silent.remove(&replica.into()),
        };
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
        #[cfg(test)]
        let is_other = {
            let mut wires = self.wires();
            wires.questions += 1;
            if wires.silent.contains(&to) {
                return None;
            }
            wires.diverged.contains(&to)
        };
        let held = port.store.held(&id).await;
        #[cfg(test)]
        let held = if is_other { Head([0; 32]) } else { held };
        // The answer takes the way back.
        self.reach(to, from).ok().map(|_| held)
    }
}

/// The ways from one replica to the others: inside a process, or over TCP.
#[derive(Clone)]
pub(crate) enum Ways {
    Inside(Fabric, Name),
    Tcp(Arc<Wire>),
}

impl Ways {
    /// What `to` holds up to that entry, once it holds it.
    pub(crate) async fn held(&self, to: Name, id: LogId) -> Option<Head> {
        match self {
            Self::Inside(fabric, from) => fabric.held(*from, to, id).await,
            Self::Tcp(wire) => wire.held(to, id).await,
        }
    }
}

pub(crate) struct Link {
    ways: Ways,
    to: Name,
}

impl RaftNetworkFactory<Types> for Ways {
    type Network = Link;

    async fn new_client(&mut self, target: Name, _: &()) -> Link {
        Link {
            ways: self.clone(),
            to: target,
        }
    }
}

/// The other side says what nobody asked.
#[derive(Debug, thiserror::Error)]
#[error("that replica answers something else")]
struct Nonsense;

impl Link {
    /// There; and back again, once the other side has done it.
    async fn call<T, E>(
        &self,
        fabric: &Fabric,
        from: Name,
        call: impl AsyncFnOnce(Port) -> Result<T, E>,
    ) -> Result<Result<T, E>, Unreachable> {
        let silence = |silence: Silence| Unreachable::new(&silence);
        let port = fabric.reach(from, self.to).map_err(silence)?;
        let out = call(port).await;
        fabric.reach(self.to, from).map_err(silence)?;
        Ok(out)
    }
}

type Refused = RPCError<Name, (), RaftError<Name>>;

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Name>, Refused> {
        let (fabric, from) = match &self.ways {
            Ways::Inside(fabric, from) => (fabric, *from),
            Ways::Tcp(wire) => {
                let request = Request::Append(rpc);
                return match wire.ask(self.to, &request, option.hard_ttl()).await? {
                    Response::Append(answer) => Ok(answer),
                    _ => Err(Unreachable::new(&Nonsense).into()),
                };
            }
        };
        let append = async |port: Port| port.raft.append_entries(rpc).await;
        let done = self.call(fabric, from, append).await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Name>,
        option: RPCOption,
    ) -> Result<VoteResponse<Name>, Refused> {
        let (fabric, from) = match &self.ways {
            Ways::Inside(fabric, from) => (fabric, *from),
            Ways::Tcp(wire) => {
                let request = Request::Vote(rpc);
                return match wire.ask(self.to, &request, option.hard_ttl()).await? {
                    Response::Vote(answer) => Ok(answer),
                    _ => Err(Unreachable::new(&Nonsense).into()),
                };
            }
        };
        let vote = async |port: Port| port.raft.vote(rpc).await;
        let done = self.call(fabric, from, vote).await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<Name>,
        snapshot: Snapshot<Types>,
        _: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Name>, StreamingError<Types, Fatal<Name>>> {
        let (fabric, from) = match &self.ways {
            Ways::Inside(fabric, from) => (fabric, *from),
            Ways::Tcp(wire) => {
                let request = Request::Snapshot(vote, snapshot);
                return match wire.ask(self.to, &request, option.hard_ttl()).await? {
                    Response::Snapshot(answer) => Ok(answer),
                    _ => Err(Unreachable::new(&Nonsense).into()),
                };
            }
        };
        let install = async |port: Port| port.raft.install_full_snapshot(vote, snapshot).await;
        let done = self.call(fabric, from, install).await?;
        done.map_err(|error| RemoteError::new(self.to, error).into())
    }
}
