//! A relay that is far away, on one machine.

use std::io;
use std::time::Duration;

use junto_smp::address::ServerAddress;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// A port of loopback that leads to a relay on loopback, and on which everything takes `delay` longer, there and back. It is
/// there as long as the runtime.
///
/// # Errors
/// If the system gives no port.
pub async fn distant(relay: &ServerAddress, delay: Duration) -> io::Result<ServerAddress> {
    const LOOPBACK: &str = "127.0.0.1";
    let door = TcpListener::bind((LOOPBACK, 0)).await?;
    let port = door.local_addr()?.port();
    let behind = (LOOPBACK, relay.port());
    tokio::spawn(async move {
        while let Ok((near, _)) = door.accept().await {
            let Ok(far) = TcpStream::connect(behind).await else {
                continue;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_in, far_out, delay));
            tokio::spawn(carry(far_in, near_out, delay));
        }
    });
    ServerAddress::new(relay.fingerprint(), relay.hosts().to_vec(), port)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// Passes bytes on, each after the delay, whatever comes meanwhile.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (later, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let bytes = buffer[..count].to_vec();
        if later.send((Instant::now() + delay, bytes)).is_err() {
            return;
        }
    }
}
