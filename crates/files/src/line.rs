//! One connection, as transfers see it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use junto_agent::{Agent, ConnectionId, Event, Events, MessageId};

use crate::error::FilesError;
use crate::frame::{Body, Frame, FrameError, Reason, TransferId, is_frame};

/// Ordinary messages of one connection that an agent keeps unread before it takes no more (`INBOX_MAX`), with room for
/// what a transfer has under way.
const UNREAD_MAX: usize = 128;
/// Messages that are given to the agent at a time: they share a transaction.
pub(crate) const TOGETHER: usize = 16;

/// A connection of an agent. Messages that are not for the call that runs are held for the next one, and are not
/// acknowledged: when the agent is opened again, they come again.
pub struct Line<'a> {
    agent: &'a Agent,
    events: &'a mut Events,
    connection: ConnectionId,
    held: VecDeque<Message>,
    /// How many of those held have been looked at by the call that runs.
    seen: usize,
    unread: usize,
    watch: Option<Watch<'a>>,
}

type Watch<'a> = Box<dyn FnMut(&Event) + Send + 'a>;

/// A message of the peer.
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) body: Vec<u8>,
}

impl<'a> Line<'a> {
    /// A connection that is connected, and all that its agent tells. Events of other connections are dropped; what is
    /// stored of them comes again when the agent is opened again.
    pub fn new(agent: &'a Agent, events: &'a mut Events, connection: ConnectionId) -> Self {
        Self {
            agent,
            events,
            connection,
            held: VecDeque::new(),
            seen: 0,
            unread: 0,
            watch: None,
        }
    }

    /// Shows all events to somebody else as well: of what the connection lost, say.
    #[must_use]
    pub fn watched(mut self, watch: impl FnMut(&Event) + Send + 'a) -> Self {
        self.watch = Some(Box::new(watch));
        self
    }

    /// A call begins: it looks at what earlier ones have left.
    pub(crate) fn begin(&mut self) {
        self.seen = 0;
    }

    /// The next message about files; within `patience` of the last sign of progress.
    pub(crate) async fn next(&mut self, end: Instant) -> Result<Message, FilesError> {
        if self.seen < self.held.len()
            && let Some(message) = self.held.remove(self.seen)
        {
            return Ok(message);
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = tokio::time::timeout(left, self.events.next()).await;
            let unread = self.unread >= UNREAD_MAX;
            let event = event.map_err(|_| FilesError::Silence { unread })?;
            if let (Some(watch), Some(event)) = (&mut self.watch, &event) {
                watch(event);
            }
            match event {
                Some(Event::Message {
                    connection,
                    id,
                    body,
                    ..
                }) if connection == self.connection => {
                    if is_frame(&body) {
                        return Ok(Message { id, body });
                    }
                    self.unread += 1;
                }
                Some(Event::Failed {
                    connection, error, ..
                }) if connection == self.connection => return Err(FilesError::Connection(error)),
                Some(_) => {}
                None => return Err(junto_agent::AgentError::Closed.into()),
            }
        }
    }

    /// The same of what is here already.
    pub(crate) async fn try_next(&mut self) -> Result<Option<Message>, FilesError> {
        match self.next(Instant::now()).await {
            Ok(message) => Ok(Some(message)),
            Err(FilesError::Silence { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leaves a message for a later call.
    pub(crate) fn hold(&mut self, message: Message) {
        self.held.insert(self.seen, message);
        self.seen += 1;
    }

    /// We have these messages durably.
    pub(crate) async fn ack(
        &self,
        ids: impl IntoIterator<Item = MessageId>,
    ) -> Result<(), FilesError> {
        let acks = ids
            .into_iter()
            .map(|id| self.agent.ack(self.connection, id));
        try_join_all(acks).await?;
        Ok(())
    }

    /// Sends frames, in this order, durable when it returns.
    pub(crate) async fn send(
        &self,
        frames: &[Vec<u8>],
        patience: Duration,
    ) -> Result<(), FilesError> {
        // Each is given to the agent in the first poll, in order, as long as they are few.
        let sends = frames
            .iter()
            .map(|frame| self.agent.send(self.connection, frame));
        match tokio::time::timeout(patience, try_join_all(sends)).await {
            Ok(sent) => {
                sent?;
                Ok(())
            }
            // The peer's relay takes nothing.
            Err(_) => Err(FilesError::Silence { unread: false }),
        }
    }

    /// Says one thing about a transfer.
    pub(crate) async fn say(
        &self,
        id: TransferId,
        body: Body<'_>,
        patience: Duration,
    ) -> Result<(), FilesError> {
        self.send(&[Frame { id, body }.encode()], patience).await
    }

    /// Answers what is no frame that we know. Gives the transfer if it is a malformed frame of one.
    pub(crate) async fn reject(
        &self,
        message: MessageId,
        error: FrameError,
        patience: Duration,
    ) -> Result<Option<TransferId>, FilesError> {
        let answer = match error {
            FrameError::Unknown {
                id,
                answerable: true,
            } => Some((id, Reason::UNSUPPORTED)),
            FrameError::Malformed { id: Some(id) } => Some((id, Reason::FAULTY)),
            FrameError::Unknown { .. } | FrameError::Malformed { .. } | FrameError::Foreign => None,
        };
        if let Some((id, reason)) = answer {
            self.say(id, Body::Refuse(reason), patience).await?;
        }
        self.ack([message]).await?;
        Ok(match error {
            FrameError::Malformed { id } => id,
            _ => None,
        })
    }
}
