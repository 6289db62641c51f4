//! One replica: takes questions, leads or does not, answers what is released.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use junto_crypto::{CryptoRng, Zeroizing};
use junto_vault::{
    Answer, Card, Certificate, Class, DecodeError, Entry, GroupId, Hindrance, Holders, Operation,
    OrderId, Pending, Position, Progress, Quorum, QuorumError, Realm, Released, ReplicaId, Seconds,
    Span, Step, Token, Unauthorised,
};
use openraft::{
    Config, Raft, SnapshotPolicy,
    error::{ClientWriteError, Fatal, InitializeError, RaftError},
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Fabric, LogId, Name, Proposal, Types,
    fabric::{Port, Ways},
    holding::{Holding, Waiting},
    links::{Membership, Wire},
    log::Head,
    store::Store,
};

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Entries after which the log's head is given up. They are what is left of what was erased.
const LOG_ENTRIES: u64 = 64;
/// Between two words of a leader over TCP, in milliseconds; also the longest wait for the answer to an append. A leader that is
/// silent for 7.5 to 9 of them is replaced: four and a half during which nobody votes for another, then three to four and a half
/// until a member stands, each its own, so that not all do at once.
const HEARTBEAT_MS: u64 = 250;
/// Longest time for the realm on its way to a replica that needs all of it.
const SNAPSHOT_MS: u64 = 20_000;

/// A member of a realm's group, or somebody who is none.
pub struct Replica {
    name: Name,
    raft: Raft<Types>,
    store: Store,
    ways: Ways,
    quorum: Quorum,
    holding: Holding,
}

/// A replica that cannot start, or a group that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The members are not as many as the quorum is for.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// Consensus does not start.
    #[error("consensus does not start")]
    Consensus(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A question that got no answer. Whether it counts is not known: the same guess again costs nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The token does not allow it.
    #[error(transparent)]
    Unauthorised(#[from] Unauthorised),
    /// Ask the leader: this one, if it is known.
    #[error("this replica does not lead")]
    Elsewhere(Option<ReplicaId>),
    /// It is of another realm, such as a deposit that another one should get.
    #[error("that is not for this realm")]
    Foreign,
    /// A range is to go to a group whose members do not all show what this one wants to be shown.
    #[error(
        "the members of the group to which the range is to go do not all show the evidence that is wanted of them"
    )]
    Unproven,
    /// Said by a frontend.
    #[error("no replica behind this frontend answers that is as it should be")]
    Behind,
    /// Too few replicas hold the question.
    #[error("too few replicas hold the question for an answer")]
    Unheld,
    /// This replica has stopped.
    #[error("this replica has stopped")]
    Stopped,
}

impl Replica {
    /// A replica with an empty realm, under a name that never was and will not be again. It waits for
    /// [`Replica::begin`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        realm: Realm,
        quorum: Quorum,
        fabric: &Fabric,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, StartError> {
        let mut name = Name::default();
        rng.fill_bytes(&mut name.0);
        // Nothing is further away than this process.
        let ways = Ways::Inside(fabric.clone(), name);
        let replica = Self::with(realm, quorum, name, ways, 50).await?;
        let port = Port {
            raft: replica.raft.clone(),
            store: replica.store.clone(),
        };
        fabric.plug(name, port);
        Ok(replica)
    }

    /// The replica of `realm` that `membership` says, among members that it reaches over TCP. It waits for
    /// [`Replica::begin`], and for [`serve()`](crate::serve()).
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn join(
        realm: Realm,
        quorum: Quorum,
        membership: Membership,
    ) -> Result<Self, StartError> {
        if membership.members.len() != quorum.replicas() {
            return Err(QuorumError.into());
        }
        let wire = Arc::new(Wire::new(membership).map_err(consensus)?);
        Self::with(realm, quorum, wire.me, Ways::Tcp(wire), HEARTBEAT_MS).await
    }

    async fn with(
        realm: Realm,
        quorum: Quorum,
        name: Name,
        ways: Ways,
        heartbeat_ms: u64,
    ) -> Result<Self, StartError> {
        let config = Config {
            cluster_name: "realm".to_owned(),
            heartbeat_interval: heartbeat_ms,
            election_timeout_min: 3 * heartbeat_ms,
            election_timeout_max: 9 * heartbeat_ms / 2,
            install_snapshot_timeout: SNAPSHOT_MS,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(LOG_ENTRIES),
            replication_lag_threshold: 2 * LOG_ENTRIES,
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            ..Config::default()
        };
        let config = Arc::new(config.validate().map_err(consensus)?);
        let store = Store::new(realm);
        let raft = Raft::new(name, config, ways.clone(), store.clone(), store.clone());
        Ok(Self {
            name,
            raft: raft.await.map_err(consensus)?,
            holding: Holding::new(name, ways.clone(), store.clone()),
            store,
            ways,
            quorum,
        })
    }

    pub(crate) fn raft(&self) -> &Raft<Types> {
        &self.raft
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// None for one of a process of its own.
    pub(crate) fn wire(&self) -> Option<Arc<Wire>> {
        match &self.ways {
            Ways::Inside(..) => None,
            Ways::Tcp(wire) => Some(wire.clone()),
        }
    }

    /// The time that the group agrees on, as far as this replica has come.
    #[must_use]
    pub fn time(&self) -> Seconds {
        self.store.memory().realm.time()
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.name.into()
    }

    /// Begins the group of `members`, this replica among them, for ever. One of them, or each, is told.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn begin(&self, members: &[ReplicaId]) -> Result<(), StartError> {
        let members: BTreeSet<Name> = members.iter().map(|member| (*member).into()).collect();
        if members.len() != self.quorum.replicas() {
            return Err(QuorumError.into());
        }
        match self.raft.initialize(members).await {
            // It has begun already.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(consensus(error)),
        }
    }

    /// Whom this replica takes for the leader.
    #[must_use]
    pub fn leader(&self) -> Option<ReplicaId> {
        self.raft.metrics().borrow().current_leader.map(Into::into)
    }

    /// How far its realm has come.
    #[must_use]
    pub fn position(&self) -> Position {
        self.store.memory().realm.position()
    }

    /// Entries in its log.
    #[must_use]
    pub fn log_entries(&self) -> usize {
        self.store.memory().entries()
    }

    /// Asks the realm, if this replica leads it. `reading` is this machine's clock.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(
        &self,
        token: &Token,
        operation: Operation,
        reading: Seconds,
        rng: &mut impl CryptoRng,
    ) -> Result<Zeroizing<Vec<u8>>, AskError> {
        let admitted = self.store.memory().realm.admit(token, operation, reading);
        let entry = admitted?;
        let asked = self.propose(&entry, rng);
        let (answer, class) = timeout(ANSWER_MAX, asked)
            .await
            .map_err(|_| AskError::Unheld)??;
        Ok(answer.to_bytes(class))
    }

    /// Lets the group's time go on, if this replica leads.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn tick(&self, reading: Seconds, rng: &mut impl CryptoRng) -> Result<(), AskError> {
        let entry = Entry::tick(reading);
        let ticked = timeout(ANSWER_MAX, self.propose(&entry, rng)).await;
        ticked.map_err(|_| AskError::Unheld)?.map(drop)
    }

    /// Takes a step of an order, if this replica leads; with the proof of what the group of `card`, which is this one, says
    /// then. It may be asked for again: it is taken once, and says the same.
    ///
    /// # Errors
    /// [`AskError`]; [`AskError::Foreign`] also for a replica without a key of its own, as in tests of one process.
    pub async fn take(
        &self,
        step: Step,
        card: &Card,
        reading: Seconds,
        rng: &mut impl CryptoRng,
    ) -> Result<(Result<Progress, Hindrance>, Option<Certificate>), AskError> {
        let Ways::Tcp(wire) = &self.ways else {
            return Err(AskError::Foreign);
        };
        let Ok(entry) = Entry::step(step, reading, rng) else {
            return Ok((Err(Hindrance::Unsound), None));
        };
        let taken = async {
            let mut waiting = self.holding.wait();
            let (pending, head, id) = self.write(&entry).await?;
            let Some(word) = pending.says().cloned() else {
                let released = self.released(&pending, &id, &mut waiting).await?;
                return Ok((pending, released, None));
            };
            let own = word.vouch(&card.group(), &head.0, &wire.key.0);
            let mut signed = vec![(self.id(), own)];
            let members = self.store.memory().members();
            let mut holders = self.holders(&pending, &members)?;
            let mut asked = JoinSet::new();
            for member in members.into_iter().filter(|member| *member != self.name) {
                let wire = wire.clone();
                asked.spawn(async move { (member, wire.vouch(member, id).await) });
            }
            let here = pending.position();
            loop {
                // Signatures that are none are left out: others may be right.
                let proof = Certificate::gather(card, &word, head.0, signed.iter().copied());
                if let (Some(released), Ok(proof)) = (holders.released(&here), proof) {
                    return Ok((pending, released, Some(proof)));
                }
                match asked.join_next().await {
                    Some(Ok((member, Some((held, signature))))) if held == head => {
                        signed.push((member.into(), signature));
                        let _ = holders.acknowledged(member.into(), here);
                    }
                    Some(_) => {}
                    None => return Err(AskError::Unheld),
                }
            }
        };
        let taken = timeout(ANSWER_MAX, taken).await;
        let (pending, released, proof) = taken.map_err(|_| AskError::Unheld)??;
        let moved = self.store.memory().realm.moved(pending, &released);
        Ok((moved.ok_or(AskError::Unheld)?, proof))
    }

    /// A parcel of a range that leaves by that order. None if nothing does, as far as this replica has come.
    #[must_use]
    pub fn parcel(&self, order: &OrderId, number: u32) -> Option<Vec<u8>> {
        self.store.memory().realm.parcel(order, number)
    }

    /// What [`junto_vault::Realm::lets_go`] says, as far as this replica has come.
    ///
    /// # Errors
    /// [`Hindrance`].
    pub fn lets_go<'a>(&self, step: &'a Step) -> Result<Option<&'a Card>, Hindrance> {
        self.store.memory().realm.lets_go(step)
    }

    /// The card of a group to which this one sends clients, as far as this replica has come.
    #[must_use]
    pub fn card_of(&self, group: &GroupId) -> Option<Card> {
        self.store.memory().realm.card_of(group).cloned()
    }

    /// How many orders the group has begun, as far as this replica has come: what the next one has to name.
    #[must_use]
    pub fn turn(&self) -> Option<u64> {
        self.store.memory().realm.turn()
    }

    /// What the group serves, as far as this replica has come.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.store.memory().realm.spans()
    }

    /// Stops: everything that it remembers is gone with it.
    pub async fn stop(&self) {
        if let Ways::Inside(fabric, name) = &self.ways {
            fabric.unplug(*name);
        }
        // It may have stopped by itself.
        let _ = self.raft.shutdown().await;
    }

    async fn propose(
        &self,
        entry: &Entry,
        rng: &mut impl CryptoRng,
    ) -> Result<(Answer, Class), AskError> {
        // Before it is written: members are asked whether they hold it while consensus still commits.
        let mut waiting = self.holding.wait();
        let (pending, _, id) = self.write(entry).await?;
        let released = self.released(&pending, &id, &mut waiting).await?;
        let class = pending.class();
        let memory = self.store.memory();
        let answer = memory.realm.answer(pending, &released, rng);
        answer.map(|answer| (answer, class)).ok_or(AskError::Unheld)
    }

    /// Has an entry committed: what it came to, the digest of the log up to it, and its place, which names the reign in which
    /// it was written: only what is held in that counts.
    async fn write(&self, entry: &Entry) -> Result<(Pending, Head, LogId), AskError> {
        let bytes = entry.to_bytes();
        // What replicas could not read stays out of their logs.
        Entry::from_bytes(&bytes, self.store.memory().realm.id())
            .map_err(|DecodeError| AskError::Foreign)?;
        let proposal = Proposal(Arc::new(bytes));
        let written = self.raft.client_write(proposal).await.map_err(unwritten)?;
        let (pending, head) = written.data.0.ok_or(AskError::Foreign)?;
        Ok((pending, head, written.log_id))
    }

    fn holders(&self, pending: &Pending, members: &[Name]) -> Result<Holders, AskError> {
        let here = pending.position();
        let ids: Vec<ReplicaId> = members.iter().map(|member| (*member).into()).collect();
        let mut holders = Holders::new(self.quorum, &ids, self.id(), here)
            .map_err(|QuorumError| AskError::Unheld)?;
        holders.applied(here);
        Ok(holders)
    }

    /// Waits until enough members hold the log up to that entry. The caller bounds the time.
    async fn released(
        &self,
        pending: &Pending,
        id: &LogId,
        waiting: &mut Waiting<'_>,
    ) -> Result<Released, AskError> {
        let here = pending.position();
        let members = self.store.memory().members();
        let mut holders = self.holders(pending, &members)?;
        loop {
            for member in waiting.holders(id) {
                let _ = holders.acknowledged(member.into(), here);
            }
            if let Some(released) = holders.released(&here) {
                return Ok(released);
            }
            waiting.more().await;
        }
    }
}

fn consensus(error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Consensus(Box::new(error))
}

fn unwritten(error: RaftError<Name, ClientWriteError<Name, ()>>) -> AskError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            AskError::Elsewhere(forward.leader_id.map(Into::into))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_))
        | RaftError::Fatal(Fatal::StorageError(_) | Fatal::Panicked | Fatal::Stopped) => {
            AskError::Stopped
        }
    }
}
