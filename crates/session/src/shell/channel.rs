//! Ordered messages outside any protocol run.

use bytes::Bytes;

use super::driver::{Answer, Handle};
use crate::proto::{
    channel::{ChannelMessage, Receipt},
    error::SessionError,
    party::PartyIndex,
    statement::InstanceId,
    step::LocalId,
};

/// A channel among all parties of a session: per pair in order, nothing lost, nothing twice.
#[derive(Clone)]
pub struct Channel {
    handle: Handle,
    local: LocalId,
    id: InstanceId,
}

impl Channel {
    pub(crate) fn new(handle: Handle, local: LocalId, id: InstanceId) -> Self {
        Self { handle, local, id }
    }

    /// Sends a message; returns when it is durable here. Waits while the outbox for `to` is full.
    ///
    /// # Errors
    /// [`SessionError::Peer`] if `to` has left, [`crate::Misuse::TooLong`] above 16 MiB.
    pub async fn send(
        &self,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        self.put(Answer::Durable, to, payload.into()).await
    }

    /// As [`Channel::send`], but returns before the message is durable: for streams whose own end
    /// is confirmed otherwise. Nothing leaves before it is durable all the same.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn feed(
        &self,
        to: PartyIndex,
        payload: impl Into<Bytes>,
    ) -> Result<(), SessionError> {
        self.put(Answer::AtOnce, to, payload.into()).await
    }

    async fn put(
        &self,
        answer: Answer,
        to: PartyIndex,
        payload: Bytes,
    ) -> Result<(), SessionError> {
        let (local, id) = (self.local, self.id);
        self.handle
            .call(answer, move |node, rng, step| {
                if !node.has_room(&local, Some(to)) {
                    return None;
                }
                let (said, more) = node.channel_send(&local, &id, to, payload.clone(), rng);
                step.absorb(more);
                Some(said)
            })
            .await
    }

    /// Waits for the next message. It comes again after a restart unless [`Channel::done`] was
    /// called with its receipt.
    ///
    /// # Errors
    /// [`SessionError::Misuse`] once the session is closed.
    pub async fn next(&self) -> Result<ChannelMessage, SessionError> {
        let (local, id) = (self.local, self.id);
        self.handle
            .call(Answer::AtOnce, move |node, rng, step| {
                let (next, more) = node.channel_next(&local, &id, rng);
                step.absorb(more);
                next.transpose()
            })
            .await
    }

    /// The message has been dealt with and need not come again.
    ///
    /// # Errors
    /// [`SessionError::Local`] if the task has ended.
    pub async fn done(&self, receipt: Receipt) -> Result<(), SessionError> {
        let local = self.local;
        self.handle
            .call(Answer::AtOnce, move |node, rng, step| {
                step.absorb(node.channel_done(&local, &receipt, rng));
                Some(Ok(()))
            })
            .await
    }
}
