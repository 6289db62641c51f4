//! Which members hold what this replica wrote in its reign. One question to each member at a time serves everybody who waits.
//!
//! A digest of the log names all that is below it: a member that says the leader's own digest up to an entry holds every entry
//! of the reign before it, too. So what is asked is always how it stands with the *last* entry, and whoever waits for an earlier one
//! is served by the same answer. What it has to be is what it was when each asked for himself: said by a member that follows this
//! leader, in this reign, after the entry was written; to a question of its own, about the leader's own log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::CommittedLeaderId;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use crate::{LogId, Name, fabric::Ways, log::Head, store::Store};

/// Until a member that did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(50);

type Reign = CommittedLeaderId<Name>;

/// How far members hold the log of one reign. Nothing is carried over into the next.
#[derive(Clone, Default)]
struct Ledger {
    reign: Option<Reign>,
    /// The index of the last entry of the reign up to which each has said the leader's own digest.
    held: BTreeMap<Name, u64>,
}

impl Ledger {
    /// `member` was asked about that entry, up to which the leader's own log had the digest `own`, and said `said`. Another digest
    /// counts for nothing.
    fn said(&mut self, member: Name, id: &LogId, own: Head, said: Head) {
        let reign = Some(id.leader_id);
        if said != own || reign < self.reign {
            return;
        }
        if reign > self.reign {
            self.held.clear();
            self.reign = reign;
        }
        let held = self.held.entry(member).or_default();
        *held = id.index.max(*held);
    }

    /// Those that hold the log up to that entry, and said so in its reign.
    fn holders(&self, id: &LogId) -> Vec<Name> {
        if self.reign != Some(id.leader_id) {
            return Vec::new();
        }
        let held = self.held.iter().filter(|(_, held)| **held >= id.index);
        held.map(|(member, _)| *member).collect()
    }
}

/// Asks the other members while somebody waits.
pub(crate) struct Holding {
    shared: Arc<Shared>,
    /// Ends with this.
    askers: Mutex<JoinSet<()>>,
}

struct Shared {
    me: Name,
    ways: Ways,
    store: Store,
    ledger: Mutex<Ledger>,
    /// How many wait: members are asked only then.
    waiting: watch::Sender<usize>,
    /// Told when a member has said something.
    heard: watch::Sender<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who waits. Members are asked as long as there is one.
pub(crate) struct Waiting<'a> {
    shared: &'a Shared,
    heard: watch::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared
            .waiting
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Waiting<'_> {
    /// Those of whom it is known that they hold the log up to that entry: now; and with every further call, once more is known.
    pub(crate) fn holders(&mut self, id: &LogId) -> Vec<Name> {
        self.heard.mark_unchanged();
        lock(&self.shared.ledger).holders(id)
    }

    /// Until more is known than when [`holders`](Self::holders) was called. The caller bounds the time.
    pub(crate) async fn more(&mut self) {
        // The sender lives as long as `self`.
        let _ = self.heard.changed().await;
    }
}

impl Holding {
    pub(crate) fn new(me: Name, ways: Ways, store: Store) -> Self {
        Self {
            shared: Arc::new(Shared {
                me,
                ways,
                store,
                ledger: Mutex::default(),
                waiting: watch::Sender::new(0),
                heard: watch::Sender::new(()),
            }),
            askers: Mutex::default(),
        }
    }

    /// From now on members are asked about what this replica writes, as soon as it is in its log.
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.set_out();
        self.shared.waiting.send_modify(|count| *count += 1);
        Waiting {
            shared: &self.shared,
            heard: self.shared.heard.subscribe(),
        }
    }

    /// One asker for each other member: they are set once, when the group begins.
    fn set_out(&self) {
        let mut askers = lock(&self.askers);
        if askers.is_empty() {
            let members = self.shared.store.memory().members();
            for member in members.into_iter().filter(|it| *it != self.shared.me) {
                let shared = self.shared.clone();
                askers.spawn(async move { shared.ask(member).await });
            }
        }
    }
}

impl Shared {
    /// For ever: how it stands with the last entry, whenever there is a new one and somebody waits.
    async fn ask(&self, member: Name) {
        let (mut log, mut waiting) = (self.store.changes(), self.waiting.subscribe());
        // The last entry that it has said something about, whatever it was.
        let mut done = None;
        loop {
            log.mark_unchanged();
            let is_wanted = *waiting.borrow_and_update() > 0;
            let last = is_wanted.then(|| self.store.memory().written(self.me));
            let next = last.flatten().filter(|(id, _)| Some(*id) > done);
            let Some((id, own)) = next else {
                tokio::select! {
                    _ = log.changed() => {}
                    _ = waiting.changed() => {}
                }
                continue;
            };
            tokio::select! {
                said = self.ways.held(member, id) => match said {
                    Some(said) => {
                        done = Some(id);
                        lock(&self.ledger).said(member, &id, own, said);
                        self.heard.send_replace(());
                    }
                    None => sleep(AGAIN).await,
                },
                // Whoever waited for it waits in vain; what is written in the next reign is not to wait for that.
                () = self.end_of(id.leader_id) => {}
            }
        }
    }

    async fn end_of(&self, reign: Reign) {
        let mut log = self.store.changes();
        loop {
            log.mark_unchanged();
            if self.store.memory().reign() != Some(reign) {
                return;
            }
            let _ = log.changed().await;
        }
    }
}

#[cfg(test)]
mod tests;
