//! Figures of a session between two parties, with the same bytes over plain TCP in the same run.

use std::{
    io,
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use junto_crypto::aead::StoreKey;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    Channel, DisplayName, Execution, Kind, LocalError, Members, Params, PartyCount, PartyIndex,
    Persona, Policy, Session, SessionError, Sessions,
    adapters::tcp::{self, Greeting, Mesh, MeshError, Ways},
    carrier::Carriage,
};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Round trips of one small message.
    pub round_trips: u32,
    /// Small messages in one direction.
    pub small_messages: u32,
    /// Bytes of each of them, and of those of round trips.
    pub small_bytes: usize,
    /// Large messages in one direction.
    pub large_messages: u32,
    /// Bytes of each of them.
    pub large_bytes: usize,
    /// For each single wait.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            round_trips: 500,
            small_messages: 20_000,
            small_bytes: 40,
            large_messages: 64,
            large_bytes: 1024 * 1024,
            patience: Duration::from_secs(60),
        }
    }
}

/// One of the two parties: its carrier, the relay it receives on, an empty folder for its store.
pub struct Seat {
    /// Of this party alone.
    pub carriage: Carriage,
    /// In the carrier's terms.
    pub relay: String,
    /// For `session.db`.
    pub dir: PathBuf,
}

/// What one path gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// One way, median: half a round trip.
    pub hop_p50: Duration,
    /// One way, the slowest of a hundred: half a round trip.
    pub hop_p99: Duration,
    /// Small messages a second in one direction.
    pub small_per_second: f64,
    /// Bulk, bytes a second in one direction.
    pub bulk_bytes_per_second: f64,
}

/// What [`run`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// From the link to two formed sessions.
    pub forming: Duration,
    /// Through the session.
    pub session: Figures,
    /// The same over TCP on loopback, in the same run.
    pub tcp: Figures,
}

/// Forms a session between two parties and measures it.
///
/// # Errors
/// Whatever the session reports; [`LocalError::Carrier`] if the loopback floor fails.
pub async fn run(a: Seat, b: Seat, options: Options) -> Result<Report, SessionError> {
    let begun = Instant::now();
    let ([host, joiner], [a, b]) = form(a, b, options.patience).await?;
    let forming = begun.elapsed();
    let session = session_figures(&a, &b, options).await;
    // Before the runtime of their tasks ends.
    drop((a, b));
    host.end().await;
    joiner.end().await;
    let session = session?;
    let failed = |error: io::Error| LocalError::Carrier(Box::new(error));
    let (near, far) = loopback().await.map_err(failed)?;
    let tcp = stream_figures(near, far, options).await.map_err(failed)?;
    Ok(Report {
        forming,
        session,
        tcp,
    })
}

/// Forms a session between two parties and measures a connection of two programs through it, as `junto run` has
/// them. Before that, `formed` may change what carries it.
///
/// # Errors
/// Whatever ends the mesh; [`MeshError::Listen`] if loopback fails; what `formed` returns.
pub async fn programs(
    a: Seat,
    b: Seat,
    options: Options,
    formed: impl AsyncFnOnce() -> Result<(), LocalError>,
    ways: impl AsyncFn(PartyIndex) -> io::Result<Option<Arc<dyn Ways>>>,
) -> Result<Figures, MeshError> {
    let ([host, joiner], [a, b]) = form(a, b, options.patience).await?;
    let figures = match formed().await {
        Ok(()) => program_figures(&a, &b, options, ways).await,
        Err(error) => Err(SessionError::from(error).into()),
    };
    // Before the runtime of their tasks ends.
    drop((a, b));
    host.end().await;
    joiner.end().await;
    figures
}

async fn program_figures(
    a: &Session,
    b: &Session,
    options: Options,
    ways: impl AsyncFn(PartyIndex) -> io::Result<Option<Arc<dyn Ways>>>,
) -> Result<Figures, MeshError> {
    let failed = |error: io::Error| MeshError::Listen(Arc::new(error));
    let program = async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let (dials, answers) = (
        program().await.map_err(failed)?,
        program().await.map_err(failed)?,
    );
    let open = async |session: &Session, program: &TcpListener| {
        let place = program.local_addr().map_err(failed)?;
        let ways = ways(session.me()).await.map_err(failed)?;
        let ways = ways.map(|ways| (tcp::Policy::DirectOnly, ways));
        let direct = ways.is_some();
        let mesh = Mesh::open_with(session, place, Greeting::Unknown, ways).await?;
        Ok::<_, MeshError>((mesh, direct))
    };
    let (near, direct) = open(a, &dials).await?;
    let (far, _) = open(b, &answers).await?;
    for mesh in [&near, &far] {
        let deadline = tokio::time::Instant::now() + options.patience;
        mesh.more(Members::NONE, deadline).await?;
        mesh.run(options.patience);
    }
    if direct {
        let paths = near.other_direct(Members::NONE);
        let come = tokio::time::timeout(options.patience, paths).await;
        come.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?;
    }
    let measured = async {
        let way = near.ways().get(&b.me()).ok_or(io::ErrorKind::NotFound)?;
        let (call, taken) = tokio::join!(TcpStream::connect(way), answers.accept());
        let (call, taken) = (call?, taken?.0);
        call.set_nodelay(true)?;
        taken.set_nodelay(true)?;
        stream_figures(call, taken, options).await
    };
    tokio::select! {
        figures = measured => figures.map_err(failed),
        error = near.failed() => Err(error),
        error = far.failed() => Err(error),
    }
}

async fn form(
    a: Seat,
    b: Seat,
    patience: Duration,
) -> Result<([Sessions; 2], [Session; 2]), SessionError> {
    let open = |seat: Seat| -> Result<(Sessions, Persona), SessionError> {
        let key = StoreKey::from_bytes(&[0; 32]); // nothing secret goes through a bench
        let persona = Persona {
            display_name: DisplayName::default(),
            profile: None,
            relay: seat.relay,
            pinned: Vec::new(),
        };
        Ok((Sessions::open(&seat.dir, key, seat.carriage)?, persona))
    };
    let (host, persona) = open(a)?;
    let params = Params {
        name: "bench".to_owned(),
        parties: PartyCount::new(2).map_err(crate::Misuse::from)?,
        policy: Policy::Anonymous,
    };
    let (hosting, link) = host.new_session(params, persona, patience).await?;
    let (joiner, persona) = open(b)?;
    let joining = joiner.join(link, persona).await?;
    let (a, b) = tokio::join!(hosting.formed(patience), joining.formed(patience));
    Ok(([host, joiner], [a?, b?]))
}

async fn session_figures(
    a: &Session,
    b: &Session,
    options: Options,
) -> Result<Figures, SessionError> {
    let (to_a, to_b) = (a.me(), b.me());
    let mut hops = {
        let (a, b) = (a.execution("ping").await?, b.execution("ping").await?);
        let (hops, echoed) = tokio::join!(ping(&a, to_b, options), pong(&b, to_a, options));
        echoed?;
        a.finish().await?;
        b.finish().await?;
        hops?
    };
    let (sender, receiver) = (a.channel("bench").await?, b.channel("bench").await?);
    let small = stream(
        &sender,
        &receiver,
        to_b,
        options.small_messages,
        options.small_bytes,
    )
    .await?;
    let bulk = stream(
        &sender,
        &receiver,
        to_b,
        options.large_messages,
        options.large_bytes,
    )
    .await?;
    Ok(figures(&mut hops, small, bulk, options))
}

fn figures(hops: &mut [Duration], small: Duration, bulk: Duration, options: Options) -> Figures {
    hops.sort_unstable();
    let at = |percent: usize| {
        let position = (hops.len() * percent / 100).min(hops.len().saturating_sub(1));
        hops.get(position).copied().unwrap_or_default()
    };
    let bulk_bytes = f64::from(options.large_messages) * options.large_bytes as f64;
    Figures {
        hop_p50: at(50),
        hop_p99: at(99),
        small_per_second: f64::from(options.small_messages) / small.as_secs_f64(),
        bulk_bytes_per_second: bulk_bytes / bulk.as_secs_f64(),
    }
}

async fn ping(
    run: &Execution,
    peer: PartyIndex,
    options: Options,
) -> Result<Vec<Duration>, SessionError> {
    let payload = Bytes::from(vec![7; options.small_bytes]);
    let mut hops = Vec::with_capacity(options.round_trips as usize);
    for round in 0..options.round_trips {
        let begun = Instant::now();
        run.send(round, peer, payload.clone()).await?;
        run.gather(round, Kind::P2p, options.patience).await?;
        hops.push(begun.elapsed() / 2);
    }
    Ok(hops)
}

async fn pong(run: &Execution, peer: PartyIndex, options: Options) -> Result<(), SessionError> {
    for round in 0..options.round_trips {
        let heard = run.gather(round, Kind::P2p, options.patience).await?;
        for payload in heard.into_values() {
            run.send(round, peer, payload).await?;
        }
    }
    Ok(())
}

async fn stream(
    sender: &Channel,
    receiver: &Channel,
    to: PartyIndex,
    messages: u32,
    bytes: usize,
) -> Result<Duration, SessionError> {
    let payload = Bytes::from(vec![7; bytes]);
    let begun = Instant::now();
    let send = async {
        for _ in 0..messages {
            sender.feed(to, payload.clone()).await?;
        }
        Ok::<_, SessionError>(())
    };
    let receive = async {
        for _ in 0..messages {
            let message = receiver.next().await?;
            receiver.done(message.receipt).await?;
        }
        Ok::<_, SessionError>(())
    };
    let (sent, received) = tokio::join!(send, receive);
    sent?;
    received?;
    Ok(begun.elapsed())
}

/// Two ends of a TCP connection over loopback, without delay.
///
/// # Errors
/// If the system gives none.
pub async fn loopback() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (a, b) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (a, b) = (a?, b?.0);
    a.set_nodelay(true)?;
    b.set_nodelay(true)?;
    Ok((a, b))
}

/// A floor: the same bytes between the two ends of a connection.
///
/// # Errors
/// If the connection breaks.
pub async fn stream_figures<S, T>(mut a: S, mut b: T, options: Options) -> io::Result<Figures>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut hops = Vec::with_capacity(options.round_trips as usize);
    let ping = async {
        let mut buffer = vec![7; options.small_bytes];
        for _ in 0..options.round_trips {
            let begun = Instant::now();
            a.write_all(&buffer).await?;
            a.flush().await?;
            a.read_exact(&mut buffer).await?;
            hops.push(begun.elapsed() / 2);
        }
        Ok::<_, io::Error>(())
    };
    let pong = async {
        let mut buffer = vec![7; options.small_bytes];
        for _ in 0..options.round_trips {
            b.read_exact(&mut buffer).await?;
            b.write_all(&buffer).await?;
            b.flush().await?;
        }
        Ok::<_, io::Error>(())
    };
    let (pinged, ponged) = tokio::join!(ping, pong);
    pinged?;
    ponged?;
    let small = write_through(&mut a, &mut b, options.small_messages, options.small_bytes).await?;
    let bulk = write_through(&mut a, &mut b, options.large_messages, options.large_bytes).await?;
    Ok(figures(&mut hops, small, bulk, options))
}

/// One write a message, as programs do.
async fn write_through(
    a: &mut (impl AsyncWrite + Unpin),
    b: &mut (impl AsyncRead + Unpin),
    messages: u32,
    bytes: usize,
) -> io::Result<Duration> {
    let begun = Instant::now();
    let send = async {
        let buffer = vec![7; bytes];
        for _ in 0..messages {
            a.write_all(&buffer).await?;
        }
        a.flush().await
    };
    let receive = async {
        let mut buffer = vec![0; bytes];
        for _ in 0..messages {
            b.read_exact(&mut buffer).await?;
        }
        Ok::<_, io::Error>(())
    };
    let (sent, received) = tokio::join!(send, receive);
    sent?;
    received?;
    Ok(begun.elapsed())
}
