//! Whose the other end of a connection on loopback is.
//!
//! Every user of this machine reaches the ports of loopback: somebody else could speak to the other parties in our name,
//! or listen where our program is expected. Linux tells the owner of each socket (`/proc/net/tcp`, see
//! `proc_net_tcp.txt` of its documentation); elsewhere nobody is asked, and loopback is as open as it was.

use std::{io, net::SocketAddr};

/// Whether the socket at `client`, which has connected to `door` here, belongs to our user or the administrator.
/// Of one that was closed some time ago, or ever if we are the administrator, nobody can tell whose it was: it does not.
///
/// # Errors
/// If the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn may_speak(client: SocketAddr, door: SocketAddr) -> io::Result<bool> {
    Ok(table::sockets()?.may_speak(client, door))
}

/// Whether whoever listens at `program`, and holds the other end of our connection from `here`, is our user or the
/// administrator. Nobody listening is no stranger.
///
/// # Errors
/// If the system does not tell.
#[cfg(target_os = "linux")]
pub(super) fn may_hear(program: SocketAddr, here: SocketAddr) -> io::Result<bool> {
    Ok(table::sockets()?.may_hear(program, here))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn may_speak(_client: SocketAddr, _door: SocketAddr) -> io::Result<bool> {
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn may_hear(_program: SocketAddr, _here: SocketAddr) -> io::Result<bool> {
    Ok(true)
}

#[cfg(any(target_os = "linux", test))]
mod table {
    use std::{io, net::SocketAddr};

    const LISTENS: &str = "0A";
    /// The inode of a socket that no process has.
    const NOBODYS: &str = "0";

    /// The sockets of this network namespace, as the kernel lists them.
    pub(super) struct Sockets {
        pub(super) rows: String,
        pub(super) us: u32,
    }

    #[cfg(target_os = "linux")]
    pub(super) fn sockets() -> io::Result<Sockets> {
        use std::{fs, os::unix::fs::MetadataExt};
        let mut rows = fs::read_to_string("/proc/net/tcp")?;
        // Sockets that speak both, as many runtimes open them. A system without IPv6 has no such file.
        rows.push_str(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default());
        let us = fs::metadata("/proc/self")?.uid();
        Ok(Sockets { rows, us })
    }

    impl Sockets {
        pub(super) fn may_speak(&self, client: SocketAddr, door: SocketAddr) -> bool {
            self.rows()
                .any(|row| row.is(client, door) && self.trusts(&row) && !self.is_vague(&row))
        }

        pub(super) fn may_hear(&self, program: SocketAddr, here: SocketAddr) -> bool {
            self.rows()
                .filter(|row| row.is(program, here) || row.listens_on(program.port()))
                // What waits to be accepted belongs to nobody yet.
                .all(|row| row.inode == NOBODYS || self.trusts(&row))
        }

        fn trusts(&self, row: &Row<'_>) -> bool {
            row.owner
                .parse()
                .is_ok_and(|owner: u32| owner == self.us || owner == 0)
        }

        /// A socket that was closed has no inode, and sooner or later the administrator's number for an owner, whoever
        /// had it.
        fn is_vague(&self, row: &Row<'_>) -> bool {
            row.inode == NOBODYS && (self.us == 0 || row.owner != self.us.to_string())
        }

        fn rows(&self) -> impl Iterator<Item = Row<'_>> {
            self.rows.lines().filter_map(Row::read)
        }
    }

    struct Row<'a> {
        local: &'a str,
        remote: &'a str,
        state: &'a str,
        owner: &'a str,
        inode: &'a str,
    }

    impl<'a> Row<'a> {
        /// `slot: local remote state queues timer retransmits owner timeout inode …`; `None` for the headings.
        fn read(line: &'a str) -> Option<Self> {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|slot| slot.ends_with(':'))?;
            Some(Self {
                local: words.next()?,
                remote: words.next()?,
                state: words.next()?,
                owner: words.nth(3)?,
                inode: words.nth(1)?,
            })
        }

        fn is(&self, local: SocketAddr, remote: SocketAddr) -> bool {
            is_at(self.local, local) && is_at(self.remote, remote)
        }

        fn listens_on(&self, port: u16) -> bool {
            self.state == LISTENS && self.local.ends_with(&format!(":{port:04X}"))
        }
    }

    /// Whether a place of the table is `place`, which is one of IPv4: by itself, or as IPv6 writes it.
    fn is_at(written: &str, place: SocketAddr) -> bool {
        let SocketAddr::V4(place) = place else {
            return false;
        };
        // The kernel prints the words of an address as numbers of this machine.
        let host = format!("{:08X}", u32::from_ne_bytes(place.ip().octets()));
        let prefix = format!("{:016X}{:08X}", 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]));
        let port = format!(":{:04X}", place.port());
        written.strip_suffix(port.as_str()).is_some_and(|found| {
            found == host || found.strip_prefix(prefix.as_str()) == Some(host.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_stranger_on_this_machine_is_told() {
        let client = "127.0.0.1:50000".parse().unwrap();
        let place = "127.0.0.1:15000".parse().unwrap();
        let with = |rows: &str| table::Sockets {
            rows: format!("  sl  local_address rem_address   st tx_queue\n{rows}"),
            us: 1000,
        };
        let row = |local: &str, remote: &str, state: &str, owner: u32, inode: u32| {
            format!(
                "   7: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 {owner:5} 0 {inode} 1 0 20 4 30\n"
            )
        };
        let (here, there) = ("0100007F:C350", "0100007F:3A98");
        let both = "0000000000000000FFFF00000100007F:C350";
        // Who speaks.
        for (rows, is) in [
            (row(here, there, "01", 1000, 5), true),
            (row(both, there, "01", 1000, 5), true),
            (row(here, there, "01", 0, 5), true),
            (row(here, there, "05", 0, 0), false),
            (row(here, there, "04", 1000, 0), true),
            (row(here, there, "04", 1001, 0), false),
            (row(here, there, "01", 1001, 5), false),
            (row(there, here, "01", 1000, 5), false),
            (row(here, "0100007F:3A99", "01", 1000, 5), false),
            (String::new(), false),
        ] {
            assert_eq!(with(&rows).may_speak(client, place), is, "{rows}");
        }
        // Who hears.
        let listens =
            |address: &str, owner| row(&format!("{address}:3A98"), "00000000:0000", "0A", owner, 9);
        for (rows, is) in [
            (listens("0100007F", 1000), true),
            (listens("00000000", 1001), false),
            (listens("00000000000000000000000000000000", 1001), false),
            (
                listens("0100007F", 1000) + &listens("00000000", 1001),
                false,
            ),
            (row(there, here, "01", 1001, 5), false),
            (row(there, here, "01", 0, 0), true),
            (String::new(), true),
        ] {
            assert_eq!(with(&rows).may_hear(place, client), is, "{rows}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_system_tells_who_we_are() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(door).unwrap();
        let here = client.local_addr().unwrap();
        assert!(may_speak(here, door).unwrap());
        // Nobody is there.
        assert!(!may_speak("127.0.0.1:1".parse().unwrap(), door).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        assert!(may_hear(door, here).unwrap());
        drop(client);
        // However long that is ago, and whoever had it.
        let rows = table::sockets().unwrap();
        let root = table::Sockets { us: 0, ..rows };
        assert!(!root.may_speak(here, door));
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!may_speak(here, door).unwrap());
        drop(accepted);
    }
}
