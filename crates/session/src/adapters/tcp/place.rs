//! Where the parties are on loopback.
//!
//! A program may know a peer by the address from which it calls. On Linux every address of 127.0.0.0/8 is this machine,
//! so each other party has one for itself: our program finds it there, and is called from there. Elsewhere only 127.0.0.1 is
//! there without any setting, and all parties share it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::{TcpSocket, TcpStream};

use crate::PartyIndex;

/// The address of another party: 127.1.0.1 for party 0, and so on.
pub(super) fn of(party: PartyIndex) -> Ipv4Addr {
    if cfg!(target_os = "linux") {
        // Not 127.0.x.y: systems put their own name and their resolvers there.
        Ipv4Addr::new(127, 1, 0, party.as_u8() + 1)
    } else {
        Ipv4Addr::LOCALHOST
    }
}

/// Connects to our program as `party` does.
///
/// # Errors
/// Whatever the system says to it.
pub(super) async fn call(party: PartyIndex, program: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    let from = IpAddr::V4(of(party));
    if from != Ipv4Addr::LOCALHOST {
        socket.bind((from, 0).into())?;
    }
    socket.connect(program).await
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;
    use crate::proto::limits::PARTIES_MAX;

    #[test]
    fn no_two_parties_share_an_address() {
        let parties: Vec<_> = (0..PARTIES_MAX).filter_map(PartyIndex::new).collect();
        let places: BTreeSet<_> = parties.iter().map(|party| of(*party)).collect();
        assert_eq!(places.len(), PARTIES_MAX);
        assert!(places.iter().all(Ipv4Addr::is_loopback));
        assert!(!places.contains(&Ipv4Addr::LOCALHOST));
    }

    #[tokio::test]
    async fn the_last_party_calls_from_its_place() {
        // As MPyC listens: on all interfaces.
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let last = PartyIndex::new(PARTIES_MAX - 1).unwrap();
        let _call = call(last, (Ipv4Addr::LOCALHOST, port).into())
            .await
            .unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from.ip(), of(last));
    }
}
