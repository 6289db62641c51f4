//! A SOCKS5 server (RFC 1928, RFC 1929) that knows names which no resolver knows, and notes what it is asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use junto_agent::client::SocksServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) user: Vec<u8>,
    pub(crate) password: Vec<u8>,
    /// A name, not an address.
    pub(crate) name: String,
}

/// See the module.
pub(crate) struct Socks {
    place: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Socks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Socks {
    /// Starts a server to which these names are known, on any port.
    pub(crate) async fn start(names: impl IntoIterator<Item = (&'static str, SocketAddr)>) -> Self {
        let names: BTreeMap<_, _> = names.into_iter().collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let place = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let notes = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (names, notes) = (names.clone(), Arc::clone(&notes));
                tokio::spawn(async move { serve(client, &names, &notes).await });
            }
        });
        Self { place, asked, task }
    }

    pub(crate) fn server(&self) -> SocksServer {
        self.place.to_string().parse().unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut client: TcpStream,
    names: &BTreeMap<&'static str, SocketAddr>,
    notes: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    assert_eq!(client.read_u8().await?, 5);
    let methods = short(&mut client).await?;
    assert!(methods.contains(&2), "no user name and password offered");
    client.write_all(&[5, 2]).await?;
    assert_eq!(client.read_u8().await?, 1);
    let (user, password) = (short(&mut client).await?, short(&mut client).await?);
    client.write_all(&[1, 0]).await?;
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    assert_eq!(request, [5, 1, 0, 3], "not a connection to a name");
    let name = String::from_utf8(short(&mut client).await?).unwrap();
    let _port = client.read_u16().await?;
    let known = names.get(&*name).copied();
    let note = Asked {
        user,
        password,
        name,
    };
    notes.lock().unwrap().push(note);
    let Some(place) = known else {
        return client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    };
    let mut relay = TcpStream::connect(place).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut relay).await?;
    Ok(())
}

/// A length in one byte, and as many bytes.
async fn short(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(client.read_u8().await?)];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}
