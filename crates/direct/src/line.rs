//! One path: how it begins, and what ends it.

use std::{any::Any, io, net::SocketAddr, sync::Arc};

use futures::{FutureExt, future::select_ok};
use junto_session::{PartyIndex, adapters::tcp::Line};
use noq::{
    ClientConfig, Connection, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig,
};

use super::Shared;

/// Required by the protocol, sent to nobody.
const NOBODY: &str = "junto.invalid";

/// Ends a connection when nobody uses it any more.
struct Guard(Connection);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), b"");
    }
}

/// Both ends say who they are and whom they take the other for.
type Greeting = [u8; 4];

fn greeting(from: PartyIndex, to: PartyIndex) -> Greeting {
    let [[a, b], [c, d]] = [from, to].map(|party| party.as_u16().to_be_bytes());
    [a, b, c, d]
}

/// Dials a party at all of its places, greets it where it answers first, and waits for its answer.
pub(super) async fn call(shared: &Arc<Shared>, party: PartyIndex) -> io::Result<Line> {
    let contact = shared.contact(party)?;
    // The handshake shows that the other end has that key.
    let config = shared.own.calls(contact.key, contact.word.to_vec())?;
    let config = QuicClientConfig::try_from(config).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(config));
    config.transport_config(shared.transport.clone());
    let places = contact.places.iter();
    let calls = places.map(|place| dial(shared, config.clone(), *place).boxed());
    let calls: Vec<_> = calls.collect();
    if calls.is_empty() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    let (guard, _) = select_ok(calls).await?;
    let (mut writer, mut reader) = guard.0.open_bi().await?;
    write(&mut writer, greeting(shared.me, party)).await?;
    expect(&mut reader, greeting(party, shared.me)).await?;
    Ok(line(guard, reader, writer))
}

async fn dial(shared: &Shared, config: ClientConfig, place: SocketAddr) -> io::Result<Guard> {
    for endpoint in &shared.endpoints {
        if endpoint.local_addr()?.is_ipv4() == place.is_ipv4() {
            let calling = endpoint.connect_with(config, place, NOBODY);
            return Ok(Guard(calling.map_err(io::Error::other)?.await?));
        }
    }
    Err(io::ErrorKind::AddrNotAvailable.into())
}

/// Answers a connection that was made with the word and the key of a party.
pub(super) async fn answer(
    shared: &Shared,
    party: PartyIndex,
    connection: Connection,
) -> io::Result<Line> {
    let guard = Guard(connection);
    let (mut writer, mut reader) = guard.0.accept_bi().await?;
    expect(&mut reader, greeting(party, shared.me)).await?;
    write(&mut writer, greeting(shared.me, party)).await?;
    Ok(line(guard, reader, writer))
}

async fn write(writer: &mut SendStream, greeting: Greeting) -> io::Result<()> {
    writer.write_all(&greeting).await.map_err(io::Error::other)
}

async fn expect(reader: &mut RecvStream, greeting: Greeting) -> io::Result<()> {
    let mut said = Greeting::default();
    let read = reader.read_exact(&mut said).await;
    read.map_err(io::Error::other)?;
    match said == greeting {
        true => Ok(()),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn line(guard: Guard, reader: RecvStream, writer: SendStream) -> Line {
    let guard: Box<dyn Any + Send> = Box::new(guard);
    Line {
        reader: Box::new(reader),
        writer: Box::new(writer),
        guard,
    }
}
