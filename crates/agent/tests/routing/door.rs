//! A door in front of a relay: what the relay could see of who comes, and a way to shut it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use junto_smp::address::ServerAddress;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// See the module.
pub(crate) struct Door {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Processes to look for among those who come.
    wanted: Mutex<BTreeSet<u32>>,
    /// Of these, those who came.
    came: Mutex<BTreeSet<u32>>,
    visits: Mutex<Vec<JoinHandle<()>>>,
    count: Mutex<usize>,
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl Door {
    /// Opens a door to the relay that listens at `inside`.
    pub(crate) async fn open(inside: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(receive(listener, inside, Arc::clone(&shared)));
        Self { port, shared, task }
    }

    /// The relay's address at this door, by a name: an address of loopback would count as private.
    pub(crate) fn address(&self, relay: &ServerAddress) -> ServerAddress {
        self.address_at(relay, &["localhost"])
    }

    pub(crate) fn address_at(&self, relay: &ServerAddress, hosts: &[&str]) -> ServerAddress {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        ServerAddress::new(relay.fingerprint(), hosts, self.port).unwrap()
    }

    pub(crate) fn place(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// From now on notes whether this process comes.
    pub(crate) fn look_for(&self, process: u32) {
        self.shared.wanted.lock().unwrap().insert(process);
    }

    /// Whether it came since.
    pub(crate) fn has_seen(&self, process: u32) -> bool {
        self.shared.came.lock().unwrap().contains(&process)
    }

    /// How often anybody came.
    pub(crate) fn visits(&self) -> usize {
        *self.shared.count.lock().unwrap()
    }

    /// Ends all connections at once, in the middle of whatever is on its way.
    pub(crate) fn cut(&self) {
        for visit in self.shared.visits.lock().unwrap().drain(..) {
            visit.abort();
        }
    }
}

async fn receive(listener: TcpListener, inside: SocketAddr, shared: Arc<Shared>) {
    loop {
        let (mut outer, from) = listener.accept().await.unwrap();
        *shared.count.lock().unwrap() += 1;
        // While the visitor waits for an answer, its socket is there to be found.
        let wanted = shared.wanted.lock().unwrap().clone();
        let here = outer.local_addr().unwrap();
        let found = wanted.into_iter().filter(|&it| owns(it, from, here));
        shared.came.lock().unwrap().extend(found);
        let visit = tokio::spawn(async move {
            if let Ok(mut inner) = TcpStream::connect(inside).await {
                let _ = outer.set_nodelay(true);
                let _ = inner.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            }
        });
        shared.visits.lock().unwrap().push(visit);
    }
}

/// Whether the end at `from` of the connection to `here`, both on this machine, belongs to the process, by
/// Linux's tables.
fn owns(process: u32, from: SocketAddr, here: SocketAddr) -> bool {
    // A port may be in use towards other places at the same time.
    let ends = [from, here].map(|end| {
        let SocketAddr::V4(end) = end else {
            panic!("loopback is IPv4 here");
        };
        let address = u32::from_le_bytes(end.ip().octets());
        format!("{address:08X}:{:04X}", end.port())
    });
    let find = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut rows = (table.lines()).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.len() > 9 && row[1..3] == ends)?;
        Some(format!("socket:[{}]", row[9]))
    };
    // A row can be missed while others come and go, but hardly a hundred times.
    let socket = (0..100).find_map(|_| find());
    let socket = socket.expect("a connection that nobody has");
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    open.flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|target| target.to_str() == Some(&socket))
}
