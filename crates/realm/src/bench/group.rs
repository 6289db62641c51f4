//! One realm, all of whose replicas are in this process and talk over TCP on loopback.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_vault::{GroupId, Quorum, Realm, RealmId, Seconds};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use super::{BenchError, realm, rng};
use crate::{
    Accepted, Access, BootKey, Card, GroupClient, Member, Membership, Peer, RealmClient, Replica,
    Simulated, StartError, now, serve,
};

/// It is simulated, and nobody's secret is in it.
const ACCEPTED: Accepted = Accepted { simulated: true };
/// Between two looks whether there is a leader.
const LOOK: Duration = Duration::from_millis(5);
/// More than a bench has clients.
const RECORDS_MAX: u32 = 10_000;

pub(super) struct Group {
    id: RealmId,
    card: Card,
    addresses: Vec<String>,
    running: Vec<Running>,
}

/// Ends when it is dropped, as a process does that is killed.
struct Running {
    replica: Arc<Replica>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One that is to start.
struct Seat {
    key: BootKey,
    inner: TcpListener,
    outer: TcpListener,
}

impl Seat {
    async fn new() -> Result<Self, BenchError> {
        let bind = || TcpListener::bind("127.0.0.1:0");
        Ok(Self {
            key: BootKey::generate(&mut rng()),
            inner: bind().await?,
            outer: bind().await?,
        })
    }
}

impl Group {
    pub(super) async fn start(replicas: u8, tenant: &SigningKey) -> Result<Self, BenchError> {
        let key = SigningKey::generate(&mut rng());
        let id = RealmId(*key.verifying_key().as_bytes());
        let began = realm(id, tenant, RECORDS_MAX, now())?;
        Self::beginning(&key, replicas, began.time(), |_| Ok(began.snapshot())).await
    }

    /// A group of that key's realm which begins with what it is given, made for its name.
    pub(super) async fn beginning(
        key: &SigningKey,
        replicas: u8,
        time: Seconds,
        snapshot: impl FnOnce(GroupId) -> Result<Zeroizing<Vec<u8>>, BenchError>,
    ) -> Result<Self, BenchError> {
        let id = RealmId(*key.verifying_key().as_bytes());
        let quorum = Quorum::new(replicas, 0).map_err(StartError::from)?;
        let mut seats = Vec::new();
        for _ in 0..replicas {
            seats.push(Seat::new().await?);
        }
        let (mut peers, mut members) = (Vec::new(), Vec::new());
        for seat in &seats {
            peers.push(Peer {
                id: seat.key.id(),
                address: seat.inner.local_addr()?.to_string(),
            });
            members.push(Member {
                id: seat.key.id(),
                address: seat.outer.local_addr()?.to_string(),
            });
        }
        members.sort_by_key(|member| member.id);
        let addresses = members.iter().map(|it| it.address.clone()).collect();
        let card = Card::sign(key, time, quorum, members);
        let card = card.map_err(|_| BenchError::Answer("a card is one"))?;
        let snapshot = snapshot(card.group())?;
        let ids: Vec<_> = peers.iter().map(|peer| peer.id).collect();
        let mut running = Vec::new();
        for Seat { key, inner, outer } in seats {
            let membership = Membership {
                key,
                members: peers.clone(),
                attestation: Arc::new(Simulated),
                verifier: Arc::new(ACCEPTED),
                successors: None,
            };
            let realm = Realm::restore(&snapshot);
            let realm = realm.map_err(|_| BenchError::Answer("a snapshot is one"))?;
            let replica = Arc::new(Replica::join(realm, quorum, membership).await?);
            let serving = serve(replica.clone(), card.clone(), inner, outer);
            let task = tokio::spawn(async {
                let _ = serving.await;
            });
            replica.begin(&ids).await?;
            running.push(Running { replica, task });
        }
        Ok(Self {
            id,
            card,
            addresses,
            running,
        })
    }

    pub(super) fn card(&self) -> &Card {
        &self.card
    }

    pub(super) fn reached(&self) -> Result<GroupClient, BenchError> {
        Ok(GroupClient::new(self.id, self.addresses.clone())?)
    }

    pub(super) fn id(&self) -> RealmId {
        self.id
    }

    pub(super) fn client(&self, access: Arc<Access>) -> Result<RealmClient, BenchError> {
        let addresses = self.addresses.clone();
        Ok(RealmClient::new(self.id, addresses, ACCEPTED, access)?)
    }

    async fn leading(&self) -> usize {
        let leads = |it: &Running| it.replica.leader() == Some(it.replica.id());
        loop {
            if let Some(place) = self.running.iter().position(leads) {
                return place;
            }
            sleep(LOOK).await;
        }
    }

    pub(super) async fn leader(&self) -> Arc<Replica> {
        loop {
            if let Some(running) = self.running.get(self.leading().await) {
                return running.replica.clone();
            }
        }
    }

    /// Consensus ends everywhere before anything is let go of that it talks to.
    pub(super) async fn end(self) {
        join_all(self.running.iter().map(|it| it.replica.stop())).await;
    }

    pub(super) async fn kill_leader(&mut self) {
        let killed = self.running.remove(self.leading().await);
        killed.task.abort();
        killed.replica.stop().await;
    }
}
