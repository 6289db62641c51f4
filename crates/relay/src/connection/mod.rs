//! One connection: from the TCP handshake to goodbye, in one task.
//!
//! The task sends before it reads, and reads only while its outbox has room: a client that does not
//! take its answers is not heard, then closed. Nothing here waits for another connection; news for
//! others go to their mailbox.

mod command;
mod forward;
mod mailbox;
mod outbox;
mod pace;
mod service;

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use junto_smp::block::{BLOCK_BYTES, Block, SessionId, new_block};
use junto_smp::hello::HelloFault;
use junto_smp::id::ID_BYTES;
use junto_smp::message::Timestamp;
use junto_smp::queue::ConnectionId;
use junto_smp::server::{self, Greeted, Handshake, ReplyWriter, RequestReader};
use junto_smp::service::ServiceFault;
use junto_tls::handshake;
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncBufRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use self::forward::Forwards;
use self::mailbox::{Found, Mailbox, News};
use self::outbox::{Outbox, Reply, What};
use self::pace::Pace;
use self::service::Session;
use crate::admission::Handshakes;
use crate::folder::generator;
use crate::relay::Shared;
use crate::settings::Settings;
use crate::sources::{Share, Source};
use crate::store::{Cell, StoreFailed};

pub(crate) use self::mailbox::Registry;

/// Encrypted bytes that TLS may hold for the socket: one block with its overhead, and some room.
const TLS_BUFFER_BYTES: usize = 2 * BLOCK_BYTES;
/// Rounds of sending and reading before other tasks get their turn.
const ROUNDS_MAX: usize = 8;
/// News that a mailbox holds beyond one for each subscription.
const SPARE_NEWS: usize = 1_024;

/// Why a connection ended. For counting and debugging; says nothing about who it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The client went away.
    Peer,
    /// No handshake, in time or at all.
    Handshake,
    /// The client did not take what was sent to it.
    SlowReader,
    /// The client was silent for too long.
    Idle,
    /// A block could not be opened.
    Block,
    /// The relay shuts down.
    Shutdown,
    /// The relay has a problem of its own.
    Relay,
}

/// Serves one TCP connection to its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    id: ConnectionId,
    stream: TcpStream,
    seat: Share,
    handshaking: Handshaking,
    handshakes: &Handshakes,
) -> Ended {
    let settings = shared.settings.get();
    let began = Instant::now();
    let opening = open(&shared, &settings, seat.source(), id, stream);
    let opened = tokio::time::timeout(settings.timeouts.handshake, opening).await;
    drop(handshaking);
    if let Ok(Ok(_)) = &opened {
        shared.metrics.handshake_done(began.elapsed());
    }
    handshakes.done(id);
    let opened = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::Handshake,
    };
    let mut connection = Connection::new(shared, settings, seat, id, opened);
    let ended = core::future::poll_fn(|cx| connection.poll(cx)).await;
    connection.goodbye(ended).await;
    ended
}

/// Counts a handshake until it is over, however it ends: also if its task never ran.
pub(crate) struct Handshaking(Arc<Shared>);

impl Handshaking {
    pub(crate) fn begin(shared: &Arc<Shared>) -> Self {
        shared.metrics.handshaking.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.metrics.handshaking.dec();
    }
}

/// What a handshake gives.
struct Opened {
    stream: TlsStream<TcpStream>,
    connection: server::Connection,
    rng: ChaCha20Rng,
    service: Option<Session>,
}

/// TLS and hello.
async fn open(
    shared: &Arc<Shared>,
    settings: &Settings,
    source: &Source,
    id: ConnectionId,
    stream: TcpStream,
) -> Result<Opened, Ended> {
    // Answers are whole blocks; waiting for more to send would only delay them.
    stream.set_nodelay(true).map_err(|_| Ended::Peer)?;
    let accepted = handshake::accept(&settings.tls, stream, TLS_BUFFER_BYTES)
        .await
        .map_err(|_| Ended::Handshake)?;
    let mut stream = accepted.stream;
    let session = SessionId(*accepted.session_id.as_bytes());
    let mut rng = generator().map_err(|_| Ended::Relay)?;
    let mut block = new_block();
    let handshake = Handshake::start(&settings.identity, session, &mut rng, &mut block)
        .map_err(|_| Ended::Relay)?;
    let gone = |_: io::Error| Ended::Handshake;
    stream.write_all(&*block).await.map_err(gone)?;
    stream.flush().await.map_err(gone)?;
    stream.read_exact(&mut *block).await.map_err(gone)?;
    let shown = accepted.client.as_ref().map(service::certificates);
    let (connection, service) =
        match handshake.greet(&settings.identity, shown.as_ref(), &mut block) {
            Ok(Greeted::Client(connection)) => (connection, None),
            Ok(Greeted::Service(applicant)) => {
                let session = match Session::enter(shared, settings, source, id, &applicant) {
                    Ok(session) => session,
                    Err(fault) => return Err(service::refuse(stream, block, fault).await),
                };
                let accepted = applicant.accept(Arc::clone(session.service()), &mut block);
                let connection = accepted.map_err(|_| Ended::Relay)?;
                stream.write_all(&*block).await.map_err(gone)?;
                stream.flush().await.map_err(gone)?;
                (connection, Some(session))
            }
            Err(HelloFault::Service) => {
                let fault = ServiceFault::Unauthentic;
                return Err(service::refuse(stream, block, fault).await);
            }
            Err(_) => return Err(Ended::Handshake),
        };
    Ok(Opened {
        stream,
        connection,
        rng,
        service,
    })
}

/// An open connection.
struct Connection {
    shared: Arc<Shared>,
    /// As of the last block.
    settings: Arc<Settings>,
    /// Its place among the connections of its source.
    seat: Share,
    id: ConnectionId,
    stream: TlsStream<TcpStream>,
    requests: RequestReader,
    replies: ReplyWriter,
    rng: ChaCha20Rng,
    mailbox: Arc<Mailbox>,
    outbox: Outbox,
    /// A block that has arrived in part; none while nothing has.
    incoming: Option<(Box<Block>, usize)>,
    /// Queues that may know this connection as reader or notification server, by its name for them.
    subscriptions: HashMap<[u8; ID_BYTES], Arc<Cell>>,
    pace: Pace,
    queues_created: usize,
    /// What this client asks of the proxy.
    forwards: Option<Box<Forwards>>,
    /// Set if the client is a service.
    service: Option<Box<Session>>,
    /// When the last block came.
    heard: Instant,
    /// Since when the socket has not taken what TLS has for it.
    stalled: Option<Instant>,
    /// No more is read; what is in the outbox is still sent.
    closing: Option<Ended>,
    timer: Pin<Box<Sleep>>,
}

/// Whether a step moved something.
type Moved = bool;

impl Connection {
    fn new(
        shared: Arc<Shared>,
        settings: Arc<Settings>,
        seat: Share,
        id: ConnectionId,
        opened: Opened,
    ) -> Self {
        let Opened {
            stream,
            connection,
            rng,
            service,
        } = opened;
        let mailbox = Mailbox::new(news_max(&settings, service.as_ref(), 0));
        shared.registry.enter(id, Arc::clone(&mailbox));
        let first = settings.timeouts.idle.min(settings.timeouts.send);
        Self {
            shared,
            settings,
            seat,
            id,
            stream,
            requests: connection.requests,
            replies: connection.replies,
            rng,
            mailbox,
            outbox: Outbox::default(),
            incoming: None,
            subscriptions: HashMap::new(),
            pace: Pace::default(),
            queues_created: 0,
            forwards: None,
            service: service.map(Box::new),
            heard: Instant::now(),
            stalled: None,
            closing: None,
            timer: Box::pin(tokio::time::sleep(first)),
        }
    }

    /// Runs until the connection ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        for _ in 0..ROUNDS_MAX {
            let sent = match self.poll_send(cx) {
                Ok(moved) => moved,
                Err(ended) => return Poll::Ready(ended),
            };
            if let Some(ended) = self.closing
                && self.outbox.is_empty()
                && self.stalled.is_none()
            {
                return Poll::Ready(ended);
            }
            let told = match self.take_news(cx) {
                Ok(moved) => moved,
                Err(ended) => return Poll::Ready(ended),
            };
            let forwarded = match self.take_forwarded(cx) {
                Ok(moved) => moved,
                Err(ended) => return Poll::Ready(ended),
            };
            let delivered = self.deliver_for_service();
            let read = match self.poll_receive(cx) {
                Ok(moved) => moved,
                Err(ended) => return Poll::Ready(ended),
            };
            if !(sent || told || forwarded || delivered || read) {
                return self.poll_timer(cx);
            }
        }
        // Busy: to the back of the line.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives the socket what it takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<Moved, Ended> {
        if self.stream.get_ref().1.wants_write() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {
                    if self.stalled.is_none() {
                        self.stalled = Some(Instant::now());
                    }
                    return Ok(false);
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(Ended::Peer),
            }
        }
        self.stalled = None;
        let Some(position) = self.outbox.first_position() else {
            return Ok(false);
        };
        match self.shared.store.poll_durable(position, cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(StoreFailed)) => return Err(Ended::Relay),
        }
        let durable = self.shared.store.durable().max(position);
        let mut stream = Pin::new(&mut self.stream);
        let packed = self.outbox.pack(&mut self.replies, durable, |block| {
            stream.as_mut().poll_write(cx, block)
        });
        match packed {
            // TLS had room for a whole block.
            Some((_, Poll::Ready(Ok(BLOCK_BYTES)))) => {
                self.shared.metrics.blocks_sent.inc();
                Ok(true)
            }
            Some((_, Poll::Ready(Ok(_)) | Poll::Pending)) => Err(Ended::Relay),
            Some((_, Poll::Ready(Err(_)))) => Err(Ended::Peer),
            None => Ok(false),
        }
    }

    /// Moves news into the outbox.
    fn take_news(&mut self, cx: &mut Context<'_>) -> Result<Moved, Ended> {
        let (mut ends, mut notified) = (Vec::new(), Vec::new());
        let mut moved = false;
        let outbox = &mut self.outbox;
        let room = outbox.room();
        let found = self.mailbox.poll_take(
            cx,
            room,
            |News {
                 queue,
                 event,
                 position,
             }| {
                moved = true;
                if event.is_end() {
                    ends.push(queue);
                }
                notified.extend(event.notification());
                outbox.push(Reply {
                    correlation: None,
                    whose: outbox::Whose::Queue(queue),
                    what: What::Event(event),
                    position,
                });
            },
        );
        for queue in ends {
            self.forget_unless_subscribed(queue);
        }
        for notifier in notified {
            self.next_notification(notifier);
        }
        match found {
            Found::News => {}
            Found::Overflow => return Err(Ended::SlowReader),
            Found::Closing if self.closing.is_none() => {
                self.closing = Some(Ended::Shutdown);
                moved = true;
            }
            Found::Closing => {}
        }
        Ok(moved)
    }

    /// After the end of a subscription, unless a new one has begun since.
    fn forget_unless_subscribed(&mut self, queue: [u8; ID_BYTES]) {
        let id = self.id;
        if let Some(cell) = self.subscriptions.get(&queue)
            && (cell.is_deleted() || !cell.lock().tells(id))
        {
            self.subscriptions.remove(&queue);
        }
    }

    /// Reads at most one block and answers it.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Result<Moved, Ended> {
        let limit = self.settings.limits.outgoing_bytes;
        if self.closing.is_some() || self.outbox.room() == 0 || self.outbox.bytes() >= limit {
            return Ok(false);
        }
        let rate = self.settings.limits.blocks_per_second_per_connection;
        let delayed = || _ = self.shared.metrics.blocks_delayed.inc();
        if self.pace.poll(rate, cx, delayed).is_pending() {
            return Ok(false);
        }
        // Then a block waits here until one of its requests is answered. What is behind it is looked at
        // and left, to notice a client that leaves meanwhile.
        let full = self.forwards.as_ref().is_some_and(|f| f.is_full());
        let mut moved = false;
        loop {
            let whole = |(_, filled): &mut (_, usize)| *filled == BLOCK_BYTES;
            if !full && let Some((mut block, _)) = self.incoming.take_if(whole) {
                self.take_block(&mut block);
                self.shared.blocks.give_back(block);
                return Ok(true);
            }
            let bytes = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Err(_)) => return Err(Ended::Peer),
                Poll::Ready(Ok([])) => return Err(Ended::Peer),
                Poll::Ready(Ok(bytes)) => bytes,
            };
            let (block, filled) = self
                .incoming
                .get_or_insert_with(|| (self.shared.blocks.take(), 0));
            let count = bytes.len().min(BLOCK_BYTES - *filled);
            if count == 0 {
                return Ok(moved);
            }
            block[*filled..*filled + count].copy_from_slice(&bytes[..count]);
            *filled += count;
            Pin::new(&mut self.stream).consume(count);
            moved = true;
        }
    }

    fn take_block(&mut self, block: &mut Block) {
        self.heard = Instant::now();
        self.pace.spend();
        self.take_settings();
        self.shared.metrics.blocks_received.inc();
        self.answer_block(block);
        self.shared.metrics.block_done(self.heard.elapsed());
    }

    /// Goes on with the settings of now.
    fn take_settings(&mut self) {
        let settings = self.shared.settings.get();
        if !Arc::ptr_eq(&settings, &self.settings) {
            self.settings = settings;
            let service = self.service.as_deref();
            let limit = news_max(&self.settings, service, self.subscriptions.len());
            self.mailbox.set_limit(limit);
        }
    }

    /// Ends silent clients and slow readers; otherwise sleeps until one could be due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let idle = self.heard + self.settings.timeouts.idle;
            let slow = self
                .stalled
                .map(|since| since + self.settings.timeouts.send);
            if slow.is_some_and(|slow| slow <= now) {
                return Poll::Ready(Ended::SlowReader);
            }
            if idle <= now {
                return Poll::Ready(Ended::Idle);
            }
            // A stall that begins right now is due after `send`.
            let next = slow.unwrap_or(now + self.settings.timeouts.send).min(idle);
            self.timer
                .as_mut()
                .reset(next.max(now + Duration::from_millis(1)));
        }
    }

    /// Leaves everything as if it had never been here.
    async fn goodbye(mut self, ended: Ended) {
        self.leave();
        if ended != Ended::Peer && ended != Ended::SlowReader {
            // Courtesy; nobody waits long for it.
            let goodbye = self.stream.shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
    }

    fn leave(&mut self) {
        self.shared.registry.leave(self.id);
        for (_, cell) in self.subscriptions.drain() {
            cell.lock().disconnect(self.id);
        }
    }
}

impl Drop for Connection {
    /// Also when the task is aborted.
    fn drop(&mut self) {
        self.leave();
    }
}

/// News that may wait for a connection that has `subscriptions`, and those of its service: fewer may
/// be allowed by now.
fn news_max(settings: &Settings, service: Option<&Session>, subscriptions: usize) -> usize {
    let limits = &settings.limits;
    let served = service.map_or(0, |service| service.queues().max(limits.queues_per_service));
    let subscriptions = limits.subscriptions.max(subscriptions).max(served);
    subscriptions.saturating_add(SPARE_NEWS)
}

/// The time in the protocol.
pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs()))
}
