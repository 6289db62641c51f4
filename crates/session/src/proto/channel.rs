//! Channels: ordered messages between parties outside any protocol run, such as chat or streams.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{execution::Unread, party::PartyIndex, statement::InstanceId, step::PeerSlot};

/// A message of a channel. It comes again after a restart until [`Receipt`] is handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelMessage {
    /// Who sent it.
    pub from: PartyIndex,
    /// What.
    pub payload: Bytes,
    /// To be handed back when it has been dealt with.
    pub receipt: Receipt,
}

/// Stands for a message that the application has dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) slot: PeerSlot,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

#[derive(Default)]
pub(crate) struct Channels {
    queues: BTreeMap<InstanceId, VecDeque<ChannelMessage>>,
    unread: BTreeMap<PartyIndex, Unread>,
}

impl Channels {
    /// Channels in which messages of `party` wait.
    pub(crate) fn begun(&self, party: PartyIndex) -> usize {
        let begun = |queue: &&VecDeque<ChannelMessage>| queue.iter().any(|m| m.from == party);
        self.queues.values().filter(begun).count()
    }

    pub(crate) fn push(&mut self, channel: InstanceId, message: ChannelMessage) {
        let unread = self.unread.entry(message.from).or_default();
        unread.bytes += message.payload.len();
        unread.messages += 1;
        self.queues.entry(channel).or_default().push_back(message);
    }

    pub(crate) fn next(&mut self, channel: &InstanceId) -> Option<ChannelMessage> {
        let queue = self.queues.get_mut(channel)?;
        let message = queue.pop_front()?;
        if queue.is_empty() {
            self.queues.remove(channel);
        }
        if let Some(unread) = self.unread.get_mut(&message.from) {
            unread.bytes -= message.payload.len();
            unread.messages -= 1;
        }
        Some(message)
    }

    pub(crate) fn unread(&self, party: PartyIndex) -> Unread {
        self.unread.get(&party).copied().unwrap_or_default()
    }

    /// Empties all queues; returns what their messages came in.
    pub(crate) fn clear(&mut self) -> Vec<Receipt> {
        self.unread.clear();
        core::mem::take(&mut self.queues)
            .into_values()
            .flatten()
            .map(|message| message.receipt)
            .collect()
    }
}
