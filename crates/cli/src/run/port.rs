//! The port on which our program will listen.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rand_core::Rng;
use tokio::net::TcpSocket;

use crate::random;

/// Below what systems give to connections that go out (Linux from 32,768, others from 49,152): nothing but a program
/// that asks for it takes a port from here, and a connection that is tried before ours listens does not find itself.
const FIRST: u16 = 16_384;
const COUNT: u16 = 16_384;
/// Each finds a taken port by chance.
const TRIES: usize = 1_000;

/// A port of loopback that is kept for our program until it starts.
///
/// An unmodified program opens its port itself, so it cannot be given an open one. Until then the port is bound here,
/// and not listened on: nobody else gets it, and who dials it is refused and tries again.
pub(super) struct Port {
    place: SocketAddr,
    bound: Option<TcpSocket>,
    /// The same number of UDP, until the run ends: another `junto run` keeps away from the port also while our program
    /// has it not yet, or for a moment not.
    _taken: UdpSocket,
}

impl Port {
    /// A port that nobody has.
    ///
    /// # Errors
    /// The last one, if none was found.
    pub(super) fn reserve() -> io::Result<Self> {
        let mut rng = random();
        let mut tries =
            (0..TRIES).map(|_| Self::at(FIRST + (rng.next_u32() % u32::from(COUNT)) as u16));
        let last = io::Error::from(io::ErrorKind::AddrInUse);
        tries.find_map(Result::ok).ok_or(last)
    }

    fn at(port: u16) -> io::Result<Self> {
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let taken = UdpSocket::bind(place)?;
        // Programs may listen on all interfaces, so it has to be free there.
        let bound = TcpSocket::new_v4()?;
        bound.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(Self {
            place,
            bound: Some(bound),
            _taken: taken,
        })
    }

    pub(super) fn place(&self) -> SocketAddr {
        self.place
    }

    /// Lets go of it: the program starts now.
    pub(super) fn hand_over(&mut self) {
        self.bound = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_port_is_kept_until_it_is_handed_over() {
        let mut port = Port::reserve().unwrap();
        let place = port.place();
        assert!((FIRST..FIRST + COUNT).contains(&place.port()));
        let refused = TcpStream::connect(place).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let taken = TcpListener::bind(place).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(Port::at(place.port()).is_err());
        port.hand_over();
        // No other run takes it, whether the program has it already or not.
        assert!(Port::at(place.port()).is_err());
        let program = TcpListener::bind((Ipv4Addr::UNSPECIFIED, place.port())).unwrap();
        TcpStream::connect(place).unwrap();
        drop((port, program));
    }

    #[tokio::test]
    async fn what_listens_anywhere_is_not_chosen() {
        let listener = loop {
            let port = Port::reserve().unwrap().place().port();
            // Somebody may have taken it in between.
            if let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
                break listener;
            }
        };
        let port = listener.local_addr().unwrap().port();
        assert_eq!(
            Port::at(port).err().unwrap().kind(),
            io::ErrorKind::AddrInUse
        );
    }
}
