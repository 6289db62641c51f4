//! One path: how it begins, and what ends it.

use std::{any::Any, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use junto_session::{
    PartyIndex,
    adapters::tcp::{Contact, Line},
};
use noq::{
    ClientConfig, Connection, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig,
};

use tokio::time::sleep;

use super::Shared;

/// Required by the protocol, sent to nobody.
pub(super) const NOBODY: &str = "junto.invalid";

/// Between the first packets to two places.
const APART: Duration = Duration::from_millis(25);

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

/// Dials a party at all of its places, also at those that it tells meanwhile, greets it where it answers first, and waits
/// for its answer.
pub(super) async fn call(shared: &Arc<Shared>, party: PartyIndex) -> io::Result<Line> {
    let mut told = shared.told.subscribe();
    let (mut dialled, mut dials) = (Vec::new(), FuturesUnordered::new());
    let guard = loop {
        let contact = shared.contact(party)?;
        let config = config(shared, &contact)?;
        for place in &contact.places {
            if shared.may_dial(party, *place, &dialled) {
                let after = APART * dialled.len() as u32;
                dialled.push(*place);
                dials.push(dial(shared, config.clone(), *place, after));
            }
        }
        if dials.is_empty() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        tokio::select! {
            Some(dial) = dials.next() => match dial {
                Ok(guard) => break guard,
                Err(error) if dials.is_empty() => return Err(error),
                Err(_) => {}
            },
            _ = told.changed() => {}
        }
    };
    let (mut writer, mut reader) = guard.0.open_bi().await?;
    write(&mut writer, greeting(shared.me, party)).await?;
    expect(&mut reader, greeting(party, shared.me)).await?;
    Ok(line(guard, reader, writer))
}

/// The handshake shows that the other end has the key that it told.
fn config(shared: &Shared, contact: &Contact) -> io::Result<ClientConfig> {
    let config = shared.own.calls(contact.key, contact.word.to_vec())?;
    let config = QuicClientConfig::try_from(config).map_err(io::Error::other)?;
    let mut config = ClientConfig::new(Arc::new(config));
    config.transport_config(shared.calling.clone());
    Ok(config)
}

async fn dial(
    shared: &Shared,
    config: ClientConfig,
    place: SocketAddr,
    after: Duration,
) -> io::Result<Guard> {
    sleep(after).await;
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
