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

pub(super) async fn admit(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    ready: mpsc::Sender<(PartyIndex, Line)>,
) {
    let mut tasks = JoinSet::new();
    let mut pending: VecDeque<AbortHandle> = VecDeque::new();
    while let Some(incoming) = endpoint.accept().await {
        while tasks.try_join_next().is_some() {}
        pending.retain(|task| !task.is_finished());
        if pending.len() >= UNSHOWN_MAX && incoming.may_retry() {
            let _ = incoming.retry();
            continue;
        }
        if pending.len() >= PENDING_MAX
            && let Some(oldest) = pending.pop_front()
        {
            oldest.abort();
        }
        let (shared, ready) = (shared.clone(), ready.clone());
        pending.push_back(tasks.spawn(async move {
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
