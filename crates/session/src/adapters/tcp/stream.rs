//! One connection of a program, carried to the other end.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::Notify,
};

use super::{
    inbox::Inbound,
    mesh::{Hub, Peer, dial},
};
use crate::{
    PartyIndex,
    proto::streams::{PIECE_MAX, StreamId},
};

/// A stream's end at its task.
pub(super) struct Flow {
    pub(super) id: StreamId,
    pub(super) woken: Arc<Woken>,
}

/// What a stream's task waits for.
#[derive(Default)]
pub(super) struct Woken {
    /// Something came.
    pub(super) inbound: Notify,
    /// More may be sent, or nothing.
    pub(super) room: Notify,
}

/// A connection of our program. Whatever becomes of its task, the program sees that it broke unless both directions
/// have ended.
pub(super) struct Connection {
    socket: TcpStream,
    ended: bool,
}

impl Connection {
    pub(super) fn new(socket: TcpStream) -> Self {
        // A small piece that waited for more would cost a round trip of the program.
        let _ = socket.set_nodelay(true);
        let ended = false;
        Self { socket, ended }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.socket.set_zero_linger();
        }
    }
}

/// The other party opened a stream: connects it with our program.
pub(super) async fn answer(hub: Arc<Hub>, party: PartyIndex, flow: Flow) {
    let Some(peer) = hub.peer(party) else { return };
    let socket = match hub.admits(peer, &flow).await {
        true => dial(&hub, peer, &flow).await,
        false => None,
    };
    match socket {
        Some(socket) => carry(hub, party, flow, Connection::new(socket)).await,
        None => {
            peer.link(|link| link.reset(flow.id));
            peer.forget(flow.id);
            hub.touch();
        }
    }
}

/// Carries both directions until both have ended, or one breaks.
pub(super) async fn carry(
    hub: Arc<Hub>,
    party: PartyIndex,
    flow: Flow,
    mut connection: Connection,
) {
    let Some(peer) = hub.peer(party) else { return };
    let (reader, writer) = connection.socket.split();
    let both =
        async { tokio::try_join!(outward(peer, &flow, reader), inward(peer, &flow, writer)) };
    let carried = tokio::select! {
        carried = both => carried.is_ok(),
        _ = hub.failed() => false,
    };
    connection.ended = carried;
    if !carried {
        peer.link(|link| link.reset(flow.id));
    }
    // The program hears of it before anybody does who waits for that.
    drop(connection);
    peer.forget(flow.id);
    hub.touch();
}

/// What our program writes.
async fn outward(peer: &Peer, flow: &Flow, mut reader: ReadHalf<'_>) -> io::Result<()> {
    let id = flow.id;
    let mut piece = vec![0; PIECE_MAX];
    loop {
        let free = match peer.room(id) {
            None => return Err(io::ErrorKind::ConnectionReset.into()),
            Some(0) => {
                flow.woken.room.notified().await;
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
async fn inward(peer: &Peer, flow: &Flow, mut writer: WriteHalf<'_>) -> io::Result<()> {
    loop {
        match peer.next(flow.id, &flow.woken.inbound).await {
            Inbound::Data(piece) => {
                writer.write_all(&piece).await?;
                peer.link(|link| link.taken(flow.id, piece.len()));
            }
            Inbound::End => return writer.shutdown().await,
            Inbound::Break => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}
