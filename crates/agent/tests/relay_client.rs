//! A relay connection over real TLS on loopback: with our relay, and with servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use core::time::Duration;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

#[path = "../../relay/tests/site/clock.rs"]
#[allow(dead_code, reason = "this test uses a part")]
mod clock;

use bytes::Bytes;
use clock::{Clock, until};
use junto_agent::{
    client::{
        ClientError, ClientOptions, NOTICES_MAX, Notice, Notices, ProtocolFault, ProxyTrouble,
        RelayClient,
    },
    proto::{Answer, Auth, Operation, QueueMode, Refusal, RelayNotice, Token},
};
use junto_crypto::{ed25519, pad::unpad, x25519};
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_smp::{
    address::{Fingerprint, ServerAddress},
    block::{BLOCK_BYTES, Block, BlockFault, OutgoingBlock, SessionId, new_block},
    command::Command,
    hello::{HelloFault, ServerHello},
    id::{Entity, RecipientId, SenderId},
    key::AuthSecret,
    message::{Delivered, DeliveryKey},
    proxy::Introduction,
    response::Response,
    server::{Connection, Handshake, Identity},
};
use junto_tls::{ClientTls, ServerIdentity, ServerTls, handshake};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rustls::pki_types::UnixTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::server::TlsStream;

/// Nothing here takes long; a hang must not last for ever.
const PATIENCE: Duration = Duration::from_secs(30);

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(1)
}

fn server_identity() -> ServerIdentity {
    ServerIdentity::ephemeral("localhost", &mut rng(), UnixTime::now()).unwrap()
}

async fn relay() -> RunningRelay {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
    Relay::start(config, server_identity()).await.unwrap()
}

async fn connect(address: &ServerAddress) -> (RelayClient, Notices) {
    let options = ClientOptions::default();
    connect_with(address, &options).await.unwrap()
}

async fn connect_with(
    address: &ServerAddress,
    options: &ClientOptions,
) -> Result<(RelayClient, Notices), ClientError> {
    let tls = ClientTls::new().unwrap();
    RelayClient::connect(&tls, address, options, None).await
}

async fn next(notices: &mut Notices) -> Notice {
    let notice = timeout(PATIENCE, notices.next()).await;
    notice.expect("in time").expect("a notice")
}

async fn answer(notices: &mut Notices, expected: u64) -> Answer {
    match next(notices).await {
        Notice::Answer { token, answer } => {
            assert_eq!(token, Token(expected));
            answer
        }
        other => panic!("no answer but {other:?}"),
    }
}

async fn down(notices: &mut Notices) -> ClientError {
    loop {
        if let Notice::Down(error) = next(notices).await {
            assert!(notices.next().await.is_none());
            return error;
        }
    }
}

fn auth(seed: u8) -> Auth {
    Arc::new(AuthSecret::Ed25519(ed25519::SigningKey::from_seed(
        &[seed; 32],
    )))
}

/// A queue of ours.
struct Queue {
    recipient: RecipientId,
    sender: SenderId,
    auth: Auth,
    delivery: DeliveryKey,
}

async fn create(client: &RelayClient, notices: &mut Notices, mode: QueueMode) -> Queue {
    let secret = x25519::SecretKey::from_bytes(&[9; 32]);
    let auth = auth(1);
    let operation = Operation::Create {
        auth: Arc::clone(&auth),
        delivery_key: secret.public_key(),
        mode,
        link: None,
    };
    client.send(Token(0), operation).await.unwrap();
    match answer(notices, 0).await {
        Answer::Created {
            recipient_id,
            sender_id,
            relay_key,
            link: None,
        } => Queue {
            recipient: recipient_id,
            sender: sender_id,
            auth,
            delivery: DeliveryKey::new(&secret.diffie_hellman(&relay_key).unwrap()),
        },
        other => panic!("{other:?}"),
    }
}

fn send(queue: &Queue, auth: Option<&Auth>, body: impl Into<Bytes>) -> Operation {
    Operation::Send {
        queue: queue.sender,
        auth: auth.cloned(),
        body: body.into(),
    }
}

/// A message, opened, and its acknowledgement.
fn opened(queue: &Queue, notice: &RelayNotice) -> (Vec<u8>, Operation) {
    let RelayNotice::Message {
        queue: name,
        message,
        sealed,
    } = notice
    else {
        panic!("no message but {notice:?}");
    };
    assert_eq!(*name, queue.recipient);
    let opened = queue.delivery.open(message, sealed).unwrap();
    let Delivered::Message { body, .. } = opened.content() else {
        panic!("no message");
    };
    let acknowledge = Operation::Acknowledge {
        queue: queue.recipient,
        auth: Arc::clone(&queue.auth),
        message: *message,
    };
    (body.to_vec(), acknowledge)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_travel() {
    let relay = relay().await;
    let (alice, mut to_alice) = connect(&relay.address()).await;
    let (bob, mut to_bob) = connect(&relay.address()).await;
    let queue = create(&alice, &mut to_alice, QueueMode::Messaging).await;
    let secure = |seed| Operation::Secure {
        queue: queue.sender,
        auth: auth(seed),
    };
    bob.send(Token(1), secure(2)).await.unwrap();
    assert_eq!(answer(&mut to_bob, 1).await, Answer::Done);
    bob.send(Token(2), secure(3)).await.unwrap();
    let refused = Answer::Refused(Refusal::Auth);
    assert_eq!(answer(&mut to_bob, 2).await, refused);
    for (token, body) in [(3, "one"), (4, "two")] {
        let operation = send(&queue, Some(&auth(2)), body);
        bob.send(Token(token), operation).await.unwrap();
        assert_eq!(answer(&mut to_bob, token).await, Answer::Done);
    }
    let Notice::Relay(first) = next(&mut to_alice).await else {
        panic!("no message");
    };
    let (body, acknowledge) = opened(&queue, &first);
    assert_eq!(body, b"one");
    // The next message is the relay's answer, and becomes message and answer here.
    alice.send(Token(5), acknowledge).await.unwrap();
    let Notice::Relay(second) = next(&mut to_alice).await else {
        panic!("no message");
    };
    assert_eq!(answer(&mut to_alice, 5).await, Answer::Done);
    let (body, acknowledge) = opened(&queue, &second);
    assert_eq!(body, b"two");
    alice.send(Token(6), acknowledge.clone()).await.unwrap();
    assert_eq!(answer(&mut to_alice, 6).await, Answer::Done);
    alice.send(Token(7), acknowledge).await.unwrap();
    let refused = Answer::Refused(Refusal::NoMessage);
    assert_eq!(answer(&mut to_alice, 7).await, refused);
    // Another connection takes over.
    let (again, mut to_again) = connect(&relay.address()).await;
    let subscribe = Operation::Subscribe {
        queue: queue.recipient,
        auth: Arc::clone(&queue.auth),
    };
    again.send(Token(8), subscribe).await.unwrap();
    assert_eq!(answer(&mut to_again, 8).await, Answer::Done);
    let ended = next(&mut to_alice).await;
    assert!(
        matches!(ended, Notice::Relay(RelayNotice::Ended { queue: q }) if q == queue.recipient)
    );
    // Nobody may send any more.
    let suspend = Operation::Suspend {
        queue: queue.recipient,
        auth: Arc::clone(&queue.auth),
    };
    again.send(Token(80), suspend).await.unwrap();
    assert_eq!(answer(&mut to_again, 80).await, Answer::Done);
    let late = send(&queue, Some(&auth(2)), "late");
    bob.send(Token(81), late).await.unwrap();
    let refused = Answer::Refused(Refusal::Auth);
    assert_eq!(answer(&mut to_bob, 81).await, refused);
    let delete = Operation::Delete {
        queue: queue.recipient,
        auth: Arc::clone(&queue.auth),
    };
    alice.send(Token(9), delete).await.unwrap();
    assert_eq!(answer(&mut to_alice, 9).await, Answer::Done);
    let deleted = next(&mut to_again).await;
    assert!(matches!(
        deleted,
        Notice::Relay(RelayNotice::Deleted { .. })
    ));
    relay.shutdown().await.unwrap();
}

/// Many commands at once: they share blocks, none is lost, each gets its own answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_commands_are_all_answered() {
    const MESSAGES: u64 = 500;
    let relay = relay().await;
    let (alice, mut to_alice) = connect(&relay.address()).await;
    let (bob, mut to_bob) = connect(&relay.address()).await;
    let queue = create(&alice, &mut to_alice, QueueMode::Contact).await;
    let mut received = 0;
    let mut next_to_send = 0;
    let mut answered = 0;
    // The queue holds 128: never more than that are on their way.
    while received < MESSAGES {
        while next_to_send < MESSAGES && next_to_send - received < 100 {
            let operation = send(&queue, None, next_to_send.to_be_bytes().to_vec());
            bob.send(Token(next_to_send), operation).await.unwrap();
            next_to_send += 1;
        }
        if let Notice::Relay(message) = next(&mut to_alice).await {
            let (body, acknowledge) = opened(&queue, &message);
            assert_eq!(body, received.to_be_bytes());
            alice.send(Token(received), acknowledge).await.unwrap();
            received += 1;
        }
        while let Some(notice) = to_bob.try_next() {
            let Notice::Answer { token, answer } = notice else {
                panic!("{notice:?}");
            };
            assert_eq!((token, answer), (Token(answered), Answer::Done));
            answered += 1;
        }
    }
    while answered < MESSAGES {
        assert_eq!(answer(&mut to_bob, answered).await, Answer::Done);
        answered += 1;
    }
    relay.shutdown().await.unwrap();
}

/// Who takes no notices gets no more bytes, but loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_wait_for_their_taker() {
    const COMMANDS: u64 = 3 * NOTICES_MAX as u64;
    let relay = relay().await;
    let (alice, mut to_alice) = connect(&relay.address()).await;
    for token in 0..COMMANDS {
        let operation = Operation::Subscribe {
            queue: RecipientId([7; 24]),
            auth: auth(1),
        };
        alice.send(Token(token), operation).await.unwrap();
    }
    let mut seen = BTreeMap::new();
    for _ in 0..COMMANDS {
        let Notice::Answer { token, answer } = next(&mut to_alice).await else {
            panic!("no answer");
        };
        assert!(seen.insert(token, answer).is_none());
    }
    assert!(
        seen.values()
            .all(|answer| *answer == Answer::Refused(Refusal::Auth))
    );
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_answers() {
    let relay = relay().await;
    let (alice, mut to_alice) = connect(&relay.address()).await;
    let queue = create(&alice, &mut to_alice, QueueMode::Contact).await;
    let mut taken = 0;
    for token in 1..=50 {
        let operation = Operation::Subscribe {
            queue: queue.recipient,
            auth: Arc::clone(&queue.auth),
        };
        alice.send(Token(token), operation).await.unwrap();
    }
    let taking = async {
        while let Some(notice) = to_alice.next().await {
            assert!(matches!(
                notice,
                Notice::Answer {
                    answer: Answer::Done,
                    ..
                }
            ));
            taken += 1;
        }
    };
    timeout(PATIENCE, async { tokio::join!(alice.close(), taking) })
        .await
        .expect("in time");
    assert_eq!(taken, 50);
    // And with nobody listening it ends as well.
    let (bob, to_bob) = connect(&relay.address()).await;
    drop(to_bob);
    timeout(PATIENCE, bob.close()).await.expect("in time");
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impostors_are_recognised() {
    let relay = relay().await;
    let address = relay.address();
    let hosts = address.hosts().to_vec();
    let other = ServerAddress::new(Fingerprint([1; 32]), hosts, address.port()).unwrap();
    let refused = connect_with(&other, &ClientOptions::default()).await;
    assert!(matches!(refused, Err(ClientError::Identity)));
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_tried_in_order() {
    let relay = relay().await;
    let address = relay.address();
    let hosts = ["127.0.0.77", "127.0.0.1"].map(|host| host.parse().unwrap());
    let several =
        ServerAddress::new(address.fingerprint(), hosts.to_vec(), address.port()).unwrap();
    let (alice, mut to_alice) = connect(&several).await;
    create(&alice, &mut to_alice, QueueMode::Contact).await;
    relay.shutdown().await.unwrap();
    let error = down(&mut to_alice).await;
    assert!(matches!(error, ClientError::Network(_)), "{error:?}");
    let gone = connect_with(&several, &ClientOptions::default()).await;
    assert!(matches!(gone, Err(ClientError::Network(_))));
    let operation = send(
        &Queue {
            recipient: RecipientId([0; 24]),
            sender: SenderId([0; 24]),
            auth: auth(1),
            delivery: DeliveryKey::from_bytes(&[0; 32]),
        },
        None,
        "late",
    );
    assert!(alice.send(Token(1), operation).await.is_err());
}

/// A server that does the handshakes and then what `act` says, to one client.
async fn scripted<F>(act: impl FnOnce(TlsStream<TcpStream>) -> F + Send + 'static) -> ServerAddress
where
    F: Future<Output = ()> + Send,
{
    spoken(|stream, _, _| act(stream)).await
}

/// As [`scripted`], for one that goes on speaking the protocol; it also gets the hello that it sent.
async fn spoken<F>(
    act: impl FnOnce(TlsStream<TcpStream>, Connection, Box<Block>) -> F + Send + 'static,
) -> ServerAddress
where
    F: Future<Output = ()> + Send,
{
    let identity = server_identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pin = Fingerprint(*identity.fingerprint().as_bytes());
    let address = format!("smp://{pin}@127.0.0.1:{port}");
    tokio::spawn(async move {
        let tls = ServerTls::new(&identity).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = handshake::accept(&tls, stream, 65_536).await.unwrap();
        let mut stream = accepted.stream;
        let chain = identity.chain().iter().map(|c| c.to_vec()).collect();
        let leaf = ed25519::SigningKey::from_seed(identity.leaf_key().seed());
        let smp = Identity::new(chain, leaf).unwrap();
        let session = SessionId(*accepted.session_id.as_bytes());
        let mut hello = new_block();
        let shaken = Handshake::start(&smp, session, &mut rng(), &mut hello).unwrap();
        stream.write_all(hello.as_slice()).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = new_block();
        stream.read_exact(answer.as_mut_slice()).await.unwrap();
        let connection = shaken.finish(&smp, &mut answer).unwrap();
        act(stream, connection, hello).await;
    });
    address.parse().unwrap()
}

/// It may introduce itself, with all signatures in order: it is not whom we asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_cannot_pose_as_the_relay_behind_it() {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let proxy = spoken(|mut stream, connection, hello| async move {
        let Connection {
            mut requests,
            mut replies,
        } = connection;
        let said = ServerHello::decode(unpad(hello.as_slice()).unwrap()).unwrap();
        let itself = Introduction::new(&said).unwrap();
        let mut block = new_block();
        stream.read_exact(block.as_mut_slice()).await.unwrap();
        let request = requests.open(&mut block).unwrap().next().unwrap();
        let Ok(request) = request else {
            panic!("no request");
        };
        assert!(matches!(request.command(), Command::Proxy(_)));
        let answer = Response::ProxyKey(itself.answer());
        let mut outgoing = OutgoingBlock::new();
        let correlation = request.correlation();
        let pushed = replies.push(&mut outgoing, Some(&correlation), Entity::None, &answer);
        pushed.unwrap();
        let block = replies.seal(&mut outgoing).unwrap();
        stream.write_all(block.as_slice()).await.unwrap();
        stream.flush().await.unwrap();
        // And what it is told then.
        let told = stream.read(&mut [0]).await.unwrap_or(0);
        sender.send(told).unwrap();
    })
    .await;
    let tls = ClientTls::new().unwrap();
    let options = ClientOptions::default();
    let relay = ServerAddress::new(Fingerprint([1; 32]), proxy.hosts().to_vec(), 5223).unwrap();
    let opened = RelayClient::connect_through(&tls, (&proxy, None), &relay, &options).await;
    let error = opened.err();
    let expected = matches!(error, Some(ClientError::Proxy(ProxyTrouble::Impostor)));
    assert!(expected, "{error:?}");
    let told = timeout(PATIENCE, receiver).await.expect("in time").unwrap();
    assert_eq!(told, 0, "it was told something");
}

/// A silent connection is pinged, and given up if nothing comes back.
#[tokio::test]
async fn silence_is_noticed() {
    let clock = Clock::stop();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let address = scripted(|mut stream| async move {
        let mut block = new_block();
        stream.read_exact(block.as_mut_slice()).await.unwrap();
        sender.send(block).unwrap();
        // Silence, for as long as the client stays.
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let options = ClientOptions::default();
    let (_alice, mut to_alice) = connect_with(&address, &options).await.unwrap();
    clock.pass(options.ping_interval).await;
    let ping = timeout(PATIENCE, receiver).await.expect("in time").unwrap();
    assert_eq!(ping.len(), BLOCK_BYTES);
    clock.pass(options.response_timeout).await;
    let error = down(&mut to_alice).await;
    assert!(matches!(error, ClientError::Timeout), "{error:?}");
    assert!(error.is_temporary());
}

#[tokio::test]
async fn answered_pings_keep_the_connection() {
    let clock = Clock::stop();
    let relay = relay().await;
    let options = ClientOptions::default();
    let (alice, mut to_alice) = connect_with(&relay.address(), &options).await.unwrap();
    for round in 0..3 {
        clock.pass(options.ping_interval).await;
        until(|| relay.stats().blocks_received == 2 * round + 1).await;
        // The answer to this is behind the answer to the ping.
        create(&alice, &mut to_alice, QueueMode::Contact).await;
    }
    relay.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_blocks_end_the_connection() {
    let address = scripted(|mut stream| async move {
        stream.write_all(&[7; BLOCK_BYTES]).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let (_alice, mut to_alice) = connect(&address).await;
    let error = down(&mut to_alice).await;
    let expected = ProtocolFault::Block(BlockFault::Sealed);
    assert!(
        matches!(error, ClientError::Protocol(fault) if fault == expected),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_block_is_a_broken_connection() {
    let address = scripted(|mut stream| async move {
        stream.write_all(&[7; BLOCK_BYTES / 2]).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let (_alice, mut to_alice) = connect(&address).await;
    let error = down(&mut to_alice).await;
    assert!(matches!(error, ClientError::Network(_)), "{error:?}");
}

/// Not even a hello.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_hellos_are_refused() {
    let identity = server_identity();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pin = Fingerprint(*identity.fingerprint().as_bytes());
    let address: ServerAddress = format!("smp://{pin}@127.0.0.1:{port}").parse().unwrap();
    let server = tokio::spawn(async move {
        let tls = ServerTls::new(&identity).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = handshake::accept(&tls, stream, 65_536)
            .await
            .unwrap()
            .stream;
        stream.write_all(&[0; BLOCK_BYTES]).await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read(&mut [0]).await;
        // Nothing at all.
        let (stream, _) = listener.accept().await.unwrap();
        drop(stream);
        // Accepts, and says nothing.
        let (stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    });
    let refused = connect_with(&address, &ClientOptions::default()).await;
    let expected = ProtocolFault::Hello(HelloFault::Syntax);
    assert!(matches!(refused, Err(ClientError::Protocol(fault)) if fault == expected));
    let refused = connect_with(&address, &ClientOptions::default()).await;
    assert!(matches!(refused, Err(ClientError::Network(_))));
    let options = ClientOptions {
        open_timeout: Duration::from_millis(200),
        ..ClientOptions::default()
    };
    let refused = connect_with(&address, &options).await;
    assert!(matches!(refused, Err(ClientError::Timeout)));
    server.abort();
}
