//! A relay to test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // Each test file uses a part.

pub(crate) mod clock;
pub(crate) mod lasting;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod routing;

use std::net::SocketAddr;
use std::time::Duration;

use junto_relay::bench::{Heard, OwnQueue, Peer, PeerError, Said};
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::client::Options;
use junto_smp::command::{Command, NewMode};
use junto_smp::error::ErrorCode;
use junto_smp::id::MessageId;
use junto_smp::key::AuthSecret;
use junto_smp::message::{Delivered, DeliveryKey};
use junto_tls::ServerIdentity;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

#[allow(unused_imports)] // As above.
pub(crate) use clock::until;

pub(crate) const M: NewMode<'static> = NewMode::Messaging(None);
pub(crate) const C: NewMode<'static> = NewMode::Contact(None);

pub(crate) fn config() -> RelayConfig {
    RelayConfig::in_memory("127.0.0.1", "127.0.0.1:0".parse().unwrap()).unwrap()
}

pub(crate) fn identity() -> ServerIdentity {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut rng = ChaCha20Rng::from_seed(seed);
    ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap()
}

pub(crate) async fn start(config: RelayConfig) -> RunningRelay {
    Relay::start(config, identity()).await.unwrap()
}

pub(crate) async fn connect(relay: &RunningRelay) -> Peer {
    Peer::connect(&relay.address()).await.unwrap()
}

/// A TCP connection from another address of this machine; Linux has all of 127.0.0.0/8.
pub(crate) async fn tcp_from(source: [u8; 4], relay: &RunningRelay) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    socket.connect(relay.local_addr()).await.unwrap()
}

/// A client at another address of this machine.
pub(crate) async fn peer_from(source: [u8; 4], relay: &RunningRelay) -> Result<Peer, PeerError> {
    let tcp = tcp_from(source, relay).await;
    let options = Options::new(relay.address().fingerprint());
    in_time(Peer::connect_over(&relay.address(), tcp, &options)).await
}

pub(crate) const A: [u8; 4] = [127, 0, 0, 1];
pub(crate) const B: [u8; 4] = [127, 0, 0, 2];

/// The body of a box, or `None` for a quota marker.
pub(crate) fn opened(key: &DeliveryKey, id: &MessageId, sealed: &[u8]) -> Option<Vec<u8>> {
    match key.open(id, sealed).unwrap().content() {
        Delivered::Message { body, .. } => Some(body.to_vec()),
        Delivered::QuotaReached { .. } => None,
    }
}

/// The next event must be a message in `queue`.
pub(crate) async fn heard(peer: &mut Peer, queue: &OwnQueue) -> (MessageId, Option<Vec<u8>>) {
    match in_time(peer.event()).await.unwrap() {
        Heard::Message(recipient, id, sealed) => {
            assert_eq!(recipient, queue.recipient());
            (id, opened(&queue.delivery, &id, &sealed))
        }
        other => panic!("not a message: {other:?}"),
    }
}

/// Acknowledges `id`; gives the next message if the answer holds one.
pub(crate) async fn acked(
    peer: &mut Peer,
    queue: &OwnQueue,
    id: MessageId,
) -> Option<(MessageId, Option<Vec<u8>>)> {
    match in_time(peer.own(queue, Command::Ack(Some(id))))
        .await
        .unwrap()
    {
        Said::Ok => None,
        Said::Message(id, sealed) => Some((id, opened(&queue.delivery, &id, &sealed))),
        other => panic!("not an answer to ACK: {other:?}"),
    }
}

pub(crate) fn refused<T>(result: Result<T, PeerError>) -> ErrorCode {
    match result {
        Err(PeerError::Refused(code)) => code,
        Err(other) => panic!("failed otherwise: {other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Generous: only a hang reaches it.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("the relay did not answer")
}

/// A relay with a monitor.
pub(crate) fn monitored() -> RelayConfig {
    let mut config = config();
    config.monitor.listen = Some("127.0.0.1:0".parse().unwrap());
    config
}

/// What the monitor at `at` says to `request`, whole.
pub(crate) async fn ask(at: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap()
}

/// What it says to a request for `path`, whole.
pub(crate) async fn get(at: SocketAddr, path: &str) -> String {
    ask(
        at,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
    )
    .await
}

/// Everything that a client does, once.
pub(crate) async fn traffic(relay: &RunningRelay) -> (Peer, OwnQueue) {
    let mut peer = connect(relay).await;
    let queue = peer.create(M, true, None).await.unwrap();
    let key = AuthSecret::generate(peer.rng());
    peer.secure(queue.sender(), &key).await.unwrap();
    for _ in 0..3 {
        peer.send_message(queue.sender(), Some(&key), b"text")
            .await
            .unwrap();
    }
    let (id, _) = heard(&mut peer, &queue).await;
    acked(&mut peer, &queue, id).await.unwrap();
    let wrong = peer.send_message(queue.sender(), None, b"text").await;
    assert_eq!(refused(wrong), ErrorCode::Auth);
    let deleted = peer.create(M, false, None).await.unwrap();
    peer.own(&deleted, Command::Delete).await.unwrap();
    (peer, queue)
}
