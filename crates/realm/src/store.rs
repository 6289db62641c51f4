//! What a replica remembers: its realm, its log, its vote. In memory, and nowhere else.

use std::{
    collections::VecDeque,
    fmt::Debug,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use junto_crypto::Zeroizing;
use junto_vault::{DecodeError, Entry as RealmEntry, Realm, Word};
use openraft::{
    AnyError, CommittedLeaderId, Entry, EntryPayload, LogState, OptionalSend, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership,
    Vote,
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use tokio::sync::watch;

use crate::{
    Applied, LogId, Name, Types,
    log::{Head, Log},
};

type Failure = StorageError<Name>;

/// Entries that made the realm say a word, and that its members may still be asked to vouch for.
const SAID_MAX: usize = 16;

/// All of it, behind one lock: what is said of the log and what is said of the vote are of one moment.
pub(crate) struct Memory {
    pub(crate) realm: Realm,
    /// The last entry that the realm has, and the digest up to it.
    applied: (Option<LogId>, Head),
    membership: StoredMembership<Name, ()>,
    vote: Option<Vote<Name>>,
    log: Log,
    /// What the realm said after its last entries that made it say something.
    said: VecDeque<(LogId, Word)>,
}

impl Memory {
    pub(crate) fn entries(&self) -> usize {
        self.log.len()
    }

    pub(crate) fn members(&self) -> Vec<Name> {
        self.membership.membership().voter_ids().collect()
    }

    /// The digest of the log up to that entry, while its ballot's leader is the one that this replica follows: what it
    /// has under a leader that it has left may be cut off again, and to have voted for one is not to follow it.
    fn held(&self, id: &LogId) -> Option<Head> {
        let follows = self.reign()? == id.leader_id;
        follows.then(|| self.log.head_at(id)).flatten()
    }

    /// Whose reign it is, as far as this replica follows one.
    pub(crate) fn reign(&self) -> Option<CommittedLeaderId<Name>> {
        let vote = self.vote.as_ref().filter(|vote| vote.is_committed())?;
        Some(*vote.leader_id())
    }

    /// The last entry, if `me` leads and wrote it in this reign, and the digest of the log up to it.
    pub(crate) fn written(&self, me: Name) -> Option<(LogId, Head)> {
        let reign = self.reign().filter(|reign| reign.node_id == me)?;
        let last = self.log.last().filter(|last| last.leader_id == reign)?;
        Some((last, self.log.head_at(&last)?))
    }

    /// What the realm said by that entry, and the digest of the log up to it: where, and only where, this replica would say
    /// that it holds it.
    fn vouched(&self, id: &LogId) -> Option<(Head, Word)> {
        let (_, word) = self.said.iter().find(|(at, _)| at == id)?;
        Some((self.held(id)?, word.clone()))
    }

    fn say(&mut self, id: LogId, word: Word) {
        self.said.push_back((id, word));
        while self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    /// Everything, for a replica that needs a snapshot: the digest of its log, then its realm.
    fn snapshot(&self) -> Zeroizing<Vec<u8>> {
        let realm = self.realm.snapshot();
        let Head(head) = self.applied.1;
        let mut out = Zeroizing::new(Vec::with_capacity(head.len() + realm.len()));
        out.extend_from_slice(&head);
        out.extend_from_slice(&realm);
        out
    }
}

/// A replica's memory, shared by consensus and who asks.
#[derive(Clone)]
pub(crate) struct Store {
    memory: Arc<Mutex<Memory>>,
    /// Told whenever the log or the vote changes.
    changed: watch::Sender<()>,
}

impl Store {
    pub(crate) fn new(realm: Realm) -> Self {
        // Replicas that began otherwise never hold the same.
        let start = Head(realm.position().head);
        Self {
            memory: Arc::new(Mutex::new(Memory {
                realm,
                applied: (None, start),
                membership: StoredMembership::default(),
                vote: None,
                log: Log::new(start),
                said: VecDeque::new(),
            })),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing under this lock panics; if it did, what it left is still whole entries.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told whenever the log or the vote changes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until this replica holds that entry, and says what it holds up to there. The caller bounds the time.
    pub(crate) async fn held(&self, id: &LogId) -> Head {
        self.once(|memory| memory.held(id)).await
    }

    /// Waits until this replica holds that entry and has applied it, and gives what its realm said then. The caller bounds the
    /// time.
    pub(crate) async fn vouched(&self, id: &LogId) -> (Head, Word) {
        self.once(|memory| memory.vouched(id)).await
    }

    async fn once<T>(&self, ready: impl Fn(&Memory) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let found = ready(&self.memory());
            match found {
                Some(found) => return found,
                // The sender lives as long as `self`.
                None => drop(changed.changed().await),
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        let out = change(&mut self.memory());
        self.changed.send_replace(());
        out
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, Failure> {
        Ok(self.memory().log.range(range))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failure> {
        let memory = self.memory();
        Ok(LogState {
            last_purged_log_id: memory.log.purged(),
            last_log_id: memory.log.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<Name>) -> Result<(), Failure> {
        self.change(|memory| memory.vote = Some(*vote));
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<Name>>, Failure> {
        Ok(self.memory().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.change(|memory| {
            for entry in entries {
                memory.log.append(entry);
            }
        });
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), Failure> {
        self.change(|memory| memory.log.truncate(log_id.index));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), Failure> {
        self.change(|memory| memory.log.purge(log_id));
        Ok(())
    }
}

impl RaftSnapshotBuilder<Types> for Store {
    /// Says only that the log up to here may go: no second copy of the realm is kept. Whoever needs a snapshot
    /// gets one of that moment.
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failure> {
        let memory = self.memory();
        Ok(Snapshot {
            meta: meta(&memory),
            snapshot: Box::new(Zeroizing::new(Vec::new())),
        })
    }
}

fn meta(memory: &Memory) -> SnapshotMeta<Name, ()> {
    SnapshotMeta {
        last_log_id: memory.applied.0,
        last_membership: memory.membership.clone(),
        snapshot_id: memory.realm.position().sequence.to_string(),
    }
}

impl RaftStateMachine<Types> for Store {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId>, StoredMembership<Name, ()>), Failure> {
        let memory = self.memory();
        Ok((memory.applied.0, memory.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut out = Vec::new();
        let mut spoke = false;
        let mut memory = self.memory();
        for entry in entries {
            let head = memory.applied.1.after(&entry);
            let pending = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Membership(members) => {
                    memory.membership = StoredMembership::new(Some(entry.log_id), members);
                    None
                }
                EntryPayload::Normal(proposal) => {
                    match RealmEntry::from_bytes(&proposal.0, memory.realm.id()) {
                        Ok(read) => Some(memory.realm.apply(read)),
                        // To stop here would stop every replica, for ever.
                        Err(_) => {
                            memory.realm.skip(&proposal.0);
                            None
                        }
                    }
                }
            };
            memory.applied = (Some(entry.log_id), head);
            if let Some(word) = pending.as_ref().and_then(|pending| pending.says()) {
                let word = word.clone();
                memory.say(entry.log_id, word);
                spoke = true;
            }
            out.push(Applied(pending.map(|pending| (pending, head))));
        }
        drop(memory);
        if spoke {
            self.changed.send_replace(());
        }
        Ok(out)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Zeroizing<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<Name, ()>,
        snapshot: Box<Zeroizing<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let read = snapshot.split_first_chunk().ok_or(DecodeError);
        let read = read.and_then(|(head, realm)| Ok((Head(*head), Realm::restore(realm)?)));
        let (head, realm) = read.map_err(|error| {
            StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error))
        })?;
        self.change(|memory| {
            memory.realm = realm;
            memory.applied = (meta.last_log_id, head);
            if let Some(at) = meta.last_log_id {
                memory.log.stand_on(at, head);
            }
            memory.membership = meta.last_membership.clone();
        });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failure> {
        let memory = self.memory();
        Ok(memory.applied.0.is_some().then(|| Snapshot {
            meta: meta(&memory),
            snapshot: Box::new(memory.snapshot()),
        }))
    }
}

#[cfg(test)]
mod tests;
