//! A place of this machine, for relays that come and go.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// While it lives, nobody else gets the place, and who connects is refused unless a relay listens there.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    /// It is bound and does not listen.
    _socket: TcpSocket,
}

impl Place {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // As a relay's: then both may be there.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            _socket: socket,
        }
    }
}
