//! A replica's log, and the digest over everything in it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeBounds,
};

use junto_crypto::hash::sha256_of;
use openraft::{Entry, EntryPayload};

use crate::{LogId, Types};

/// Digest over a log from its beginning: what its entries say, at which places, under which ballots, and those that are
/// consensus' own. What entries say is not enough: an entry of an earlier reign may say the same as the leader's, and
/// is cut off, or loses an election, where the leader's would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head(pub(crate) [u8; 32]);

impl Head {
    pub(crate) fn after(self, entry: &Entry<Types>) -> Self {
        let names: Vec<u8>;
        let (kind, body): (u8, &[u8]) = match &entry.payload {
            EntryPayload::Blank => (0, &[]),
            EntryPayload::Normal(proposal) => (1, &proposal.0),
            EntryPayload::Membership(members) => {
                names = members.voter_ids().flat_map(|name| name.0).collect();
                (2, &names)
            }
        };
        let LogId { leader_id, index } = entry.log_id;
        Self(sha256_of(&[
            b"junto realm log",
            &self.0,
            &leader_id.term.to_be_bytes(),
            &leader_id.node_id.0,
            &index.to_be_bytes(),
            &[kind],
            body,
        ]))
    }
}

/// What is not given up yet.
pub(crate) struct Log {
    /// Each with the digest up to it: none while the snapshot that they stand on is still on its way.
    entries: BTreeMap<u64, (Entry<Types>, Option<Head>)>,
    /// The last that is gone, and the digest up to it.
    purged: (Option<LogId>, Option<Head>),
    /// Those that went before it, with their digests and without what they said: a leader may be asking about one of them.
    passed: VecDeque<(LogId, Head)>,
}

/// More than a leader writes while a question is on its way.
const PASSED_MAX: usize = 1024;

impl Log {
    pub(crate) fn new(start: Head) -> Self {
        Self {
            entries: BTreeMap::new(),
            purged: (None, Some(start)),
            passed: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged.0
    }

    pub(crate) fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map_or(self.purged.0, |(_, (entry, _))| Some(entry.log_id))
    }

    pub(crate) fn range(&self, range: impl RangeBounds<u64>) -> Vec<Entry<Types>> {
        let entries = self.entries.range(range);
        entries.map(|(_, (entry, _))| entry.clone()).collect()
    }

    pub(crate) fn append(&mut self, entry: Entry<Types>) {
        let last = self.entries.last_key_value();
        let before = last.map_or(self.purged.1, |(_, (_, head))| *head);
        let head = before.map(|before| before.after(&entry));
        self.entries.insert(entry.log_id.index, (entry, head));
    }

    /// Cuts off what is at `index` and behind it.
    pub(crate) fn truncate(&mut self, index: u64) {
        self.entries.split_off(&index);
    }

    /// Gives up what is at `upto` and before it. Where that is not in the log, a snapshot takes its place, which may not
    /// have been read yet.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.0 < Some(upto) {
            let head = self.head_at(&upto);
            self.purged = (Some(upto), head);
            let stay = self.entries.split_off(&(upto.index + 1));
            let gone = std::mem::replace(&mut self.entries, stay);
            if head.is_none() {
                // What takes their place may be another log.
                self.passed.clear();
                return;
            }
            let gone = gone.into_values();
            self.passed
                .extend(gone.filter_map(|(entry, head)| Some((entry.log_id, head?))));
            while self.passed.len() > PASSED_MAX {
                self.passed.pop_front();
            }
        }
    }

    /// A snapshot stands for everything up to `at`, with the digest `head`.
    pub(crate) fn stand_on(&mut self, at: LogId, head: Head) {
        if self.purged.0 > Some(at) {
            return;
        }
        self.purged = (Some(at), Some(head));
        self.passed.clear();
        for (_, (entry, _)) in std::mem::take(&mut self.entries).split_off(&(at.index + 1)) {
            self.append(entry);
        }
    }

    /// The digest up to the entry with that id, which includes its ballot, if the log has it.
    pub(crate) fn head_at(&self, id: &LogId) -> Option<Head> {
        if self.purged.0 == Some(*id) {
            return self.purged.1;
        }
        match self.entries.get(&id.index) {
            Some((entry, head)) => head.filter(|_| entry.log_id == *id),
            None => {
                let mut passed = self.passed.iter().rev();
                passed.find(|(at, _)| at == id).map(|(_, head)| *head)
            }
        }
    }
}
