//! A destination that greets like a relay and then does what a test tells it; and a SOCKS server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)] // Each test file uses a part.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use junto_crypto::ed25519::SigningKey;
use junto_relay::Endpoint;
use junto_smp::address::{Fingerprint, ServerAddress};
use junto_smp::block::{OutgoingBlock, SessionId, new_block};
use junto_smp::command::Command;
use junto_smp::error::ErrorCode;
use junto_smp::id::{CorrelationId, Entity, RecipientId};
use junto_smp::response::Response;
use junto_smp::server;
use junto_tls::{ServerTls, handshake};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::site::{identity, in_time};

/// What to say to the oldest command that was heard.
#[derive(Debug)]
pub(crate) enum Answer {
    /// `ERR`.
    Error(ErrorCode),
    /// Something that answers no `RFWD`.
    Other,
    /// `RRES` with a box that does not open.
    BadBox,
    /// A block of noise.
    Garbage,
    /// An event about a queue.
    Unsolicited,
    /// Goodbye.
    Close,
}

/// Takes one connection.
pub(crate) struct Rogue {
    pub(crate) address: ServerAddress,
    heard: mpsc::UnboundedReceiver<CorrelationId>,
    answers: mpsc::UnboundedSender<Answer>,
}

impl Rogue {
    pub(crate) async fn start() -> Self {
        let server = identity();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pin = Fingerprint(*server.fingerprint().as_bytes());
        let port = listener.local_addr().unwrap().port();
        let address = ServerAddress::new(pin, vec!["127.0.0.1".parse().unwrap()], port).unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        let (answers, said) = mpsc::unbounded_channel();
        tokio::spawn(serve(listener, server, tell, said));
        Self {
            address,
            heard,
            answers,
        }
    }

    /// Waits for the next command.
    pub(crate) async fn hear(&mut self) {
        in_time(self.heard.recv()).await.expect("still connected");
    }

    /// Commands that have come and were not waited for.
    pub(crate) fn heard_without_waiting(&mut self) -> usize {
        core::iter::from_fn(|| self.heard.try_recv().ok()).count()
    }

    pub(crate) async fn answer(&self, answer: Answer) {
        self.answers.send(answer).unwrap();
    }
}

async fn serve(
    listener: TcpListener,
    identity: junto_tls::ServerIdentity,
    tell: mpsc::UnboundedSender<CorrelationId>,
    mut said: mpsc::UnboundedReceiver<Answer>,
) {
    let tls = ServerTls::new(&identity).unwrap();
    let chain = identity.chain().iter().map(|c| c.to_vec()).collect();
    let leaf = SigningKey::from_seed(identity.leaf_key().seed());
    let own = server::Identity::new(chain, leaf).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let accepted = handshake::accept(&tls, stream, 1 << 16).await.unwrap();
    let session = SessionId(*accepted.session_id.as_bytes());
    let mut stream = accepted.stream;
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let mut block = new_block();
    let hello = server::Handshake::start(&own, session, &mut rng, &mut block).unwrap();
    stream.write_all(&*block).await.unwrap();
    stream.flush().await.unwrap();
    stream.read_exact(&mut *block).await.unwrap();
    let server::Connection {
        mut requests,
        mut replies,
    } = hello.finish(&own, &mut block).unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let waiting = Arc::new(Mutex::new(std::collections::VecDeque::new()));
    let heard = Arc::clone(&waiting);
    let hear = async move {
        let mut block = new_block();
        while reader.read_exact(&mut *block).await.is_ok() {
            for request in requests.open(&mut block).unwrap() {
                let request = request.unwrap();
                assert!(matches!(request.command(), Command::RelayForward(_)));
                heard.lock().unwrap().push_back(request.correlation());
                let _ = tell.send(request.correlation());
            }
        }
    };
    let speak = async move {
        let mut outgoing = OutgoingBlock::new();
        while let Some(answer) = said.recv().await {
            let correlation = waiting.lock().unwrap().pop_front();
            let mut push = |entity, response| {
                replies
                    .push(&mut outgoing, correlation.as_ref(), entity, &response)
                    .unwrap();
            };
            match answer {
                Answer::Error(code) => push(Entity::None, Response::Error(code)),
                Answer::Other => push(Entity::Queue(&[1; 24]), Response::Ok),
                Answer::BadBox => push(Entity::None, Response::RelayAnswer(&[7; 16_283])),
                Answer::Unsolicited => {
                    let queue = RecipientId([1; 24]);
                    replies
                        .push(&mut outgoing, None, Entity::Queue(&queue.0), &Response::End)
                        .unwrap();
                }
                Answer::Garbage => {
                    writer.write_all(&[0xff; 16_384]).await.unwrap();
                    writer.flush().await.unwrap();
                    continue;
                }
                Answer::Close => break,
            }
            let block = replies.seal(&mut outgoing).unwrap();
            writer.write_all(block).await.unwrap();
            writer.flush().await.unwrap();
        }
    };
    tokio::select! {
        () = hear => {}
        () = speak => {}
    }
}

/// A SOCKS5 server that connects everybody to one place, whatever was asked for.
pub(crate) struct Socks {
    listening: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Socks {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listening = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, target, Arc::clone(&log)));
            }
        });
        Self { listening, asked }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.listening.to_string().parse().unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// RFC 1928: no authentication, CONNECT to a name.
async fn forward(mut stream: TcpStream, target: SocketAddr, log: Arc<Mutex<Vec<String>>>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let mut methods = vec![0; usize::from(head[1])];
    stream.read_exact(&mut methods).await.unwrap();
    stream.write_all(&[5, 0]).await.unwrap();
    let mut request = [0; 5];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request[..4], [5, 1, 0, 3]);
    let mut name = vec![0; usize::from(request[4])];
    stream.read_exact(&mut name).await.unwrap();
    let port = stream.read_u16().await.unwrap();
    let name = String::from_utf8(name).unwrap();
    log.lock().unwrap().push(format!("{name}:{port}"));
    stream
        .write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut there = TcpStream::connect(target).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
}
