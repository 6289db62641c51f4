//! What the program has said and the session has not taken yet.

use std::sync::Arc;

use bytes::Bytes;
use junto_cli::Failure;
use tokio::sync::{mpsc, oneshot};

use crate::mail::{Table, closed};

pub(crate) enum Job {
    Say(Bytes),
    /// Everything before this has been said.
    Mark(oneshot::Sender<()>),
}

/// Takes what is to be said, in order.
#[derive(Clone)]
pub(crate) struct Outbox {
    jobs: mpsc::Sender<Job>,
    table: Arc<Table>,
}

impl Outbox {
    pub(crate) fn new(table: &Arc<Table>) -> (Self, mpsc::Receiver<Job>) {
        // What is under way waits in the session, which bounds it in bytes.
        let (jobs, rest) = mpsc::channel(1);
        let table = Arc::clone(table);
        (Self { jobs, table }, rest)
    }

    /// Returns when [`Outbox::put`] takes something, or says why not.
    pub(crate) async fn has_room(&self) {
        // It is given back: whoever comes first puts first.
        drop(self.jobs.reserve().await);
    }

    /// Whether there was room.
    ///
    /// # Errors
    /// Why the run ended.
    pub(crate) fn put(&self, payload: Bytes) -> Result<bool, Failure> {
        if let Some(failure) = self.table.failure() {
            return Err(failure);
        }
        match self.jobs.try_send(Job::Say(payload)) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(closed()),
        }
    }

    /// Returns when everything that was put has been said.
    async fn emptied(&self) -> Result<(), Failure> {
        let (mark, reached) = oneshot::channel();
        let sent = self.jobs.send(Job::Mark(mark)).await;
        let reached = sent.is_ok() && reached.await.is_ok();
        match self.table.failure() {
            Some(failure) => Err(failure),
            None if reached => Ok(()),
            None => Err(closed()),
        }
    }
}

/// Returns when everything that was put has been said.
///
/// # Errors
/// Why the run ended.
pub(crate) async fn emptied(outboxes: Vec<Outbox>) -> Result<(), Failure> {
    for outbox in outboxes {
        outbox.emptied().await?;
    }
    Ok(())
}
