//! The clients of a measurement.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use junto_smp::address::ServerAddress;
use junto_smp::block::{BLOCK_BYTES, OutgoingBlock, Protection, new_block};
use junto_smp::client::Request;
use junto_smp::command::{Command, NewMode, NewQueue};
use junto_smp::id::{Entity, MessageId, SenderId};
use junto_smp::key::AuthSecret;
use junto_smp::message::{BODY_BYTES_MAX, MessageFlags};
use junto_smp::proxy::Destination;
use junto_tls::{ClientTls, Fingerprint, handshake};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::BenchError;
use super::floor::{Part, chains};
use super::peer::{Blocks, Heard, OwnQueue, Peer, PeerError, Said};

/// Messages of one pair that are under way at most: below the quota of a queue.
const WINDOW: usize = 32;
/// SENDs that wait for their answers.
const PIPELINE: u64 = 4;
/// NEWs in one go: about two blocks.
const CREATE_BATCH: usize = 100;

/// A sender and its recipient.
pub(super) struct Pair {
    sender: Peer,
    secret: AuthSecret,
    recipient: Peer,
    queue: OwnQueue,
    /// The relay, if the sender is at a proxy.
    through: Option<Destination>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) messages: u64,
    pub(super) time: Duration,
    pub(super) blocks: Blocks,
    /// Of these, blocks that senders received; recipients the rest.
    pub(super) received_by_senders: u64,
}

impl Done {
    pub(super) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.time += other.time;
        self.blocks.sent += other.blocks.sent;
        self.blocks.received += other.blocks.received;
        self.received_by_senders += other.received_by_senders;
    }
}

pub(super) async fn pair(address: &ServerAddress) -> Result<Pair, PeerError> {
    let mut recipient = Peer::connect(address).await?;
    let queue = recipient
        .create(NewMode::Messaging(None), true, None)
        .await?;
    let mut sender = Peer::connect(address).await?;
    let secret = AuthSecret::generate(sender.rng());
    sender.secure(queue.sender(), &secret).await?;
    Ok(Pair {
        sender,
        secret,
        recipient,
        queue,
        through: None,
    })
}

/// The same with a sender that goes through `proxy`.
pub(super) async fn pair_through(
    proxy: &ServerAddress,
    relay: &ServerAddress,
) -> Result<Pair, PeerError> {
    let mut sender = Peer::connect(proxy).await?;
    let through = Some(sender.proxy_to(relay, None).await?);
    Ok(Pair {
        sender,
        through,
        ..pair(relay).await?
    })
}

/// Sends a message, directly or through a proxy; gives the number of its answer.
async fn send(
    sender: &mut Peer,
    through: Option<&Destination>,
    secret: &AuthSecret,
    to: &SenderId,
    body: &[u8],
) -> Result<u64, PeerError> {
    let flags = MessageFlags::default();
    let request = Request {
        entity: Entity::Queue(&to.0),
        key: Some(secret),
        command: Command::Send { flags, body },
    };
    let number = match through {
        None => sender.ask(&request).await?,
        Some(relay) => sender.ask_through(relay, &request).await?,
    };
    sender.send().await?;
    Ok(number)
}

pub(super) async fn pairs(address: &ServerAddress, count: usize) -> Result<Vec<Pair>, BenchError> {
    let mut pairs = Vec::new();
    for _ in 0..count.max(1) {
        pairs.push(pair(address).await?);
    }
    Ok(pairs)
}

/// Sends `messages` through all pairs together, delivers and acknowledges them.
pub(super) async fn messages(pairs: &mut Vec<Pair>, messages: u64) -> Result<Done, BenchError> {
    let share = messages.div_ceil(pairs.len() as u64);
    let before: Vec<_> = pairs
        .iter()
        .map(|p| (p.sender.blocks(), p.recipient.blocks()))
        .collect();
    let start = Instant::now();
    let mut running = JoinSet::new();
    for pair in pairs.drain(..) {
        running.spawn(exchange(pair, share));
    }
    while let Some(done) = running.join_next().await {
        pairs.push(done.map_err(|_| BenchError::Defect)??);
    }
    let time = start.elapsed();
    let mut done = Done {
        messages: share * pairs.len() as u64,
        time,
        ..Done::default()
    };
    let (mut sent, mut by_senders, mut by_recipients) = (0, 0, 0);
    for pair in pairs.iter() {
        sent += pair.sender.blocks().sent + pair.recipient.blocks().sent;
        by_senders += pair.sender.blocks().received;
        by_recipients += pair.recipient.blocks().received;
    }
    for (sender, recipient) in before {
        sent -= sender.sent + recipient.sent;
        by_senders -= sender.received;
        by_recipients -= recipient.received;
    }
    done.blocks = Blocks {
        sent,
        received: by_senders + by_recipients,
    };
    done.received_by_senders = by_senders;
    Ok(done)
}

async fn exchange(pair: Pair, count: u64) -> Result<Pair, PeerError> {
    let Pair {
        mut sender,
        secret,
        mut recipient,
        queue,
        through,
    } = pair;
    let room = Arc::new(Semaphore::new(WINDOW));
    let to = queue.sender();
    let freed = Arc::clone(&room);
    let sending = async {
        let body = vec![9; BODY_BYTES_MAX];
        let mut answered = 0;
        let mut last = 0;
        for sent in 0..count {
            // Never closed.
            if let Ok(permit) = room.acquire().await {
                permit.forget();
            }
            last = send(&mut sender, through.as_ref(), &secret, &to, &body).await?;
            while sent + 1 - answered > PIPELINE {
                answered += 1;
                sender.answer(last + answered - sent - 1).await?;
            }
        }
        while answered < count {
            answered += 1;
            sender.answer(last + answered - count).await?;
        }
        Ok::<_, PeerError>(sender)
    };
    let receiving = async {
        let mut next = None;
        for _ in 0..count {
            let (id, sealed) = match next.take() {
                Some(message) => message,
                None => waited(&mut recipient).await?,
            };
            queue
                .delivery
                .open(&id, &sealed)
                .map_err(|_| PeerError::Unexpected)?;
            next = match recipient.own(&queue, Command::Ack(Some(id))).await? {
                Said::Message(id, sealed) => Some((id, sealed)),
                _ => None,
            };
            freed.add_permits(1);
        }
        Ok::<_, PeerError>(recipient)
    };
    let (sender, recipient) = tokio::try_join!(sending, receiving)?;
    Ok(Pair {
        sender,
        secret,
        recipient,
        queue,
        through,
    })
}

async fn waited(recipient: &mut Peer) -> Result<(MessageId, Vec<u8>), PeerError> {
    match recipient.event().await? {
        Heard::Message(_, id, sealed) => Ok((id, sealed)),
        Heard::End(_)
        | Heard::Deleted(_)
        | Heard::Notification(..)
        | Heard::AllDelivered
        | Heard::ServiceEnd(_)
        | Heard::Fault => Err(PeerError::Unexpected),
    }
}

/// How long a message takes from sender to recipient when nothing else happens.
pub(super) async fn latency(pair: Pair, samples: usize) -> Result<Vec<Duration>, BenchError> {
    let Pair {
        mut sender,
        secret,
        mut recipient,
        queue,
        through,
    } = pair;
    let to = queue.sender();
    let body = vec![9; BODY_BYTES_MAX];
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let start = Instant::now();
        let number = send(&mut sender, through.as_ref(), &secret, &to, &body).await?;
        let (id, sealed) = waited(&mut recipient).await?;
        queue
            .delivery
            .open(&id, &sealed)
            .map_err(|_| PeerError::Unexpected)?;
        times.push(start.elapsed());
        recipient.own(&queue, Command::Ack(Some(id))).await?;
        sender.answer(number).await?;
    }
    Ok(times)
}

/// How long a PING takes.
pub(super) async fn ping(
    address: &ServerAddress,
    samples: usize,
) -> Result<Vec<Duration>, BenchError> {
    let mut peer = Peer::connect(address).await?;
    let mut times = Vec::with_capacity(samples);
    for _ in 0..samples {
        let start = Instant::now();
        let ping = Request {
            entity: Entity::None,
            key: None,
            command: Command::Ping,
        };
        peer.call(&ping).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

/// Creates `count` queues over `connections`.
pub(super) async fn create(
    address: &ServerAddress,
    connections: usize,
    count: usize,
) -> Result<Duration, BenchError> {
    let mut peers = Vec::new();
    for _ in 0..connections.max(1) {
        peers.push(Peer::connect(address).await?);
    }
    let share = count.div_ceil(peers.len());
    let start = Instant::now();
    let mut running = JoinSet::new();
    for peer in peers {
        running.spawn(create_share(peer, share));
    }
    while let Some(done) = running.join_next().await {
        done.map_err(|_| BenchError::Defect)??;
    }
    Ok(start.elapsed())
}

async fn create_share(mut peer: Peer, count: usize) -> Result<(), PeerError> {
    // The client's part is not what is measured: one key for all.
    let key = AuthSecret::generate(peer.rng());
    let secret = junto_crypto::x25519::SecretKey::generate(peer.rng());
    let mut left = count;
    while left > 0 {
        let batch = left.min(CREATE_BATCH);
        left -= batch;
        let mut numbers = Vec::with_capacity(batch);
        for _ in 0..batch {
            let new = NewQueue {
                auth_key: key.public_key(),
                dh_key: secret.public_key(),
                password: None,
                subscribe: false,
                mode: NewMode::Messaging(None),
                notifier: None,
            };
            let request = Request {
                entity: Entity::None,
                key: Some(&key),
                command: Command::New(Box::new(new)),
            };
            numbers.push(peer.ask(&request).await?);
        }
        peer.send().await?;
        for number in numbers {
            peer.answer(number).await?;
        }
    }
    Ok(())
}

/// Opens connections that do nothing.
pub(super) async fn idle(address: &ServerAddress, count: usize) -> Result<Vec<Peer>, BenchError> {
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        let mut peer = Peer::connect(address).await?;
        // It has been used once, like every real one.
        let ping = Request {
            entity: Entity::None,
            key: None,
            command: Command::Ping,
        };
        peer.call(&ping).await?;
        peers.push(peer);
    }
    Ok(peers)
}

/// The same blocks as in `done`, through the floor.
pub(super) async fn floor(
    address: &ServerAddress,
    pairs: usize,
    done: &Done,
) -> Result<(), BenchError> {
    let per_mille =
        |blocks: u64| u16::try_from(blocks * 1_000 / done.messages.max(1)).unwrap_or(1_000);
    let by_recipients = per_mille(done.blocks.received - done.received_by_senders);
    floors(
        &[
            (address, Part::Sender, per_mille(done.received_by_senders)),
            (address, Part::Recipient, by_recipients),
        ],
        pairs,
        done,
    )
    .await
}

/// The same blocks as in `done`, of senders at a proxy, through the floors of proxy and relay.
pub(super) async fn floors_through(
    proxy: &ServerAddress,
    relay: &ServerAddress,
    pairs: usize,
    done: &Done,
) -> Result<(), BenchError> {
    let by_recipients = done.blocks.received - done.received_by_senders;
    let by_recipients = by_recipients * 1_000 / done.messages.max(1);
    floors(
        &[
            (proxy, Part::Far, 1_000),
            (proxy, Part::Near, 1_000),
            (relay, Part::Forwarded, 1_000),
            (
                relay,
                Part::Recipient,
                u16::try_from(by_recipients).unwrap_or(1_000),
            ),
        ],
        pairs,
        done,
    )
    .await
}

/// Plays these parts, with so many blocks in return for a thousand, for each pair.
async fn floors(
    parts: &[(&ServerAddress, Part, u16)],
    pairs: usize,
    done: &Done,
) -> Result<(), BenchError> {
    let pairs = pairs.max(1) as u64;
    let share = done.messages / pairs;
    let mut running = JoinSet::new();
    for _ in 0..pairs {
        for (address, part, sends) in parts {
            let address = (*address).clone();
            match part {
                Part::Far => running.spawn(floor_echo(address, share)),
                part => running.spawn(floor_part(address, *part, *sends, share)),
            };
        }
    }
    while let Some(done) = running.join_next().await {
        done.map_err(|_| BenchError::Defect)??;
    }
    Ok(())
}

type FloorStream = tokio_rustls::client::TlsStream<TcpStream>;

/// A connection to the floor, which knows what part it plays.
async fn floor_stream(
    address: &ServerAddress,
    part: Part,
    sends: u16,
) -> Result<FloorStream, PeerError> {
    let host = address.hosts().first().ok_or(PeerError::Unexpected)?;
    let tcp = TcpStream::connect((host.for_resolver(), address.port())).await?;
    tcp.set_nodelay(true)?;
    let tls = ClientTls::new().map_err(handshake::HandshakeError::Tls)?;
    let pin = Fingerprint::from_bytes(address.fingerprint().0);
    let mut stream = handshake::connect(&tls, pin, tcp).await?.stream;
    let mut first = new_block();
    let [high, low] = sends.to_be_bytes();
    first[..3].copy_from_slice(&[part.byte(), high, low]);
    stream.write_all(&*first).await?;
    stream.flush().await?;
    Ok(stream)
}

/// The far side of the floor of a proxy: every block comes back.
async fn floor_echo(address: ServerAddress, count: u64) -> Result<(), PeerError> {
    let mut stream = floor_stream(&address, Part::Far, 1_000).await?;
    let mut block = new_block();
    for _ in 0..count {
        stream.read_exact(&mut *block).await?;
        stream.write_all(&*block).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn floor_part(
    address: ServerAddress,
    part: Part,
    sends: u16,
    count: u64,
) -> Result<(), PeerError> {
    let stream = floor_stream(&address, part, sends).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut up = match part {
        Part::Forwarded => Protection::Plain,
        _ => chains()?.1,
    };
    // As many blocks ahead as the real clients have, and as the floor needs before it owes a block.
    let batched = 1_000 / usize::from(sends.max(1)) + 1;
    let ahead = Arc::new(Semaphore::new(match part {
        Part::Recipient => batched,
        _ => batched + usize::try_from(PIPELINE).unwrap_or(1),
    }));
    let freed = Arc::clone(&ahead);
    let total = count * u64::from(sends) / 1_000;
    let receiving = async {
        let mut block = new_block();
        let mut credit = 0;
        for _ in 0..total {
            reader.read_exact(&mut *block).await?;
            // As soon as the blocks for one message are there, the next may go.
            credit += 1_000;
            while credit >= sends {
                credit -= sends;
                freed.add_permits(1);
            }
        }
        freed.close();
        Ok::<_, PeerError>(())
    };
    let sending = async {
        let mut block = OutgoingBlock::new();
        let body = match part {
            Part::Recipient => 100,
            _ => BODY_BYTES_MAX,
        };
        let body = vec![9; body];
        for _ in 0..count {
            if let Ok(permit) = ahead.acquire().await {
                permit.forget();
            }
            block
                .push(|writer| writer.bytes(&body))
                .map_err(|_| PeerError::Unexpected)?;
            if let Some(block) = block.seal(&mut up) {
                writer.write_all(block).await?;
                writer.flush().await?;
            }
        }
        Ok::<_, PeerError>(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}

const _: () = assert!(BLOCK_BYTES == 16_384);
