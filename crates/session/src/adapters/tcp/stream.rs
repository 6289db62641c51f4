//! One connection of a program, carried to the other end.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Notify, mpsc},
};

use super::mesh::{Hub, Inbound, Peer, dial};
use crate::{
    PartyIndex,
    proto::streams::{PIECE_MAX, StreamId},
};

/// A stream's end at its task.
pub(super) struct Flow {
    pub(super) id: StreamId,
    pub(super) events: mpsc::UnboundedReceiver<Inbound>,
    pub(super) room: Arc<Notify>,
}

/// The other party opened a stream: connects it with our program.
pub(super) async fn answer(hub: Arc<Hub>, party: PartyIndex, flow: Flow) {
    let Some(peer) = hub.peer(party) else { return };
    match dial(&hub, peer, flow.id).await {
        Some(socket) => carry(hub, party, flow, socket).await,
        None => {
            peer.link(|link| link.reset(flow.id));
            peer.forget(flow.id);
            hub.touch();
        }
    }
}

/// Carries both directions until both have ended, or one breaks.
pub(super) async fn carry(hub: Arc<Hub>, party: PartyIndex, flow: Flow, mut socket: TcpStream) {
    let Some(peer) = hub.peer(party) else { return };
    let Flow {
        id,
        mut events,
        room,
    } = flow;
    // A small piece that waited for more would cost a round trip of the program.
    let _ = socket.set_nodelay(true);
    let (reader, writer) = socket.split();
    let both = async {
        tokio::try_join!(
            outward(peer, id, reader, &room),
            inward(peer, id, writer, &mut events)
        )
    };
    let carried = tokio::select! {
        carried = both => carried.is_ok(),
        _ = hub.failed() => false,
    };
    if !carried {
        peer.link(|link| link.reset(id));
        // The program sees that it broke, not an end.
        let _ = socket.set_zero_linger();
    }
    peer.forget(id);
    hub.touch();
}

/// What our program writes.
async fn outward(
    peer: &Peer,
    id: StreamId,
    mut reader: ReadHalf<'_>,
    room: &Notify,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_MAX];
    loop {
        let free = match peer.room(id) {
            None => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(0) => {
                room.notified().await;
                continue;
            }
            Some(free) => free.min(PIECE_MAX),
        };
        let count = reader.read(&mut piece[..free]).await?;
        if count == 0 {
            peer.link(|link| link.end(id));
            return Ok(());
        }
        let read = Bytes::copy_from_slice(&piece[..count]);
        peer.link(|link| link.send(id, read));
    }
}

/// What the other party's program writes.
async fn inward(
    peer: &Peer,
    id: StreamId,
    mut writer: WriteHalf<'_>,
    events: &mut mpsc::UnboundedReceiver<Inbound>,
) -> io::Result<()> {
    loop {
        match events.recv().await {
            Some(Inbound::Data(piece)) => {
                writer.write_all(&piece).await?;
                peer.link(|link| link.taken(id, piece.len()));
            }
            Some(Inbound::End) => return writer.shutdown().await,
            Some(Inbound::Break) | None => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}
