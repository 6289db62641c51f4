//! Who comes in.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use junto_session::{PartyIndex, adapters::tcp::Line};
use noq::{Connection, Endpoint, Incoming, VarInt, crypto::rustls::HandshakeData};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{Shared, line, tls::key_of};

/// How long somebody may take from the first packet to the greeting.
const PATIENCE: Duration = Duration::from_secs(5);
/// Handshakes under way. A further one ends the oldest: who means it is through after a journey there and back, so that
/// those who hold on to theirs keep nobody out.
const PENDING_MAX: usize = 64;
/// With more under way, whoever comes shows first that it is where it says.
const UNSHOWN_MAX: usize = 8;

/// Handshakes under way, the oldest first.
#[derive(Default)]
struct Pending(VecDeque<AbortHandle>);

impl Pending {
    fn count(&mut self) -> usize {
        self.0.retain(|task| !task.is_finished());
        self.0.len()
    }

    fn begin(&mut self, task: AbortHandle) {
        if self.count() >= PENDING_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(task);
    }
}

pub(super) async fn admit(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    ready: mpsc::Sender<(PartyIndex, Line)>,
) {
    let mut tasks = JoinSet::new();
    let mut pending = Pending::default();
    while let Some(incoming) = endpoint.accept().await {
        while tasks.try_join_next().is_some() {}
        if pending.count() >= UNSHOWN_MAX && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        let (shared, ready) = (shared.clone(), ready.clone());
        pending.begin(tasks.spawn(async move {
            if let Ok(Some(come)) = timeout(PATIENCE, greet(&shared, incoming)).await {
                // With nobody there to take it, it goes.
                let _ = ready.try_send(come);
            }
        }));
    }
}

/// Without a word of ours the handshake fails before our key is shown, and without a key that some party has told, before
/// it is done. The two and the greeting have to be of the same party.
async fn greet(shared: &Shared, incoming: Incoming) -> Option<(PartyIndex, Line)> {
    let connection = incoming.accept().ok()?.await.ok()?;
    let Some(party) = caller(shared, &connection) else {
        connection.close(VarInt::from_u32(0), b"");
        return None;
    };
    let line = line::answer(shared, party, connection).await.ok()?;
    Some((party, line))
}

fn caller(shared: &Shared, connection: &Connection) -> Option<PartyIndex> {
    let handshake = connection.handshake_data()?;
    let handshake = handshake.downcast::<HandshakeData>().ok()?;
    shared.caller(&handshake.protocol?, &key_of(connection)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_further_handshake_ends_the_oldest_of_too_many() {
        let (mut tasks, mut pending) = (JoinSet::new(), Pending::default());
        // Some that are through take nobody's place.
        for _ in 0..3 {
            pending.begin(tasks.spawn(async {}));
            tasks.join_next().await.unwrap().unwrap();
        }
        let mut idle = Vec::new();
        for _ in 0..PENDING_MAX {
            let task = tasks.spawn(core::future::pending());
            idle.push(task.clone());
            pending.begin(task);
        }
        assert_eq!(pending.count(), PENDING_MAX);
        for ended in 1..=3 {
            pending.begin(tasks.spawn(core::future::pending()));
            assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
            let are_over = idle.iter().map(AbortHandle::is_finished);
            assert!(are_over.eq((0..PENDING_MAX).map(|number| number < ended)));
            assert_eq!(pending.count(), PENDING_MAX);
        }
    }
}
