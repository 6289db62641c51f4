//! A connection to a destination: one task, shared by all clients that send there.
//!
//! Reading never waits for writing: a destination that answers slowly must not keep us from taking
//! what it has answered, or the two could wait for each other for ever.

use core::net::IpAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use junto_crypto::x25519;
use junto_smp::block::{BLOCK_BYTES, Block, OutgoingBlock, new_block};
use junto_smp::client::{Client, IN_FLIGHT_MAX, Incoming, ReplyFault};
use junto_smp::error::{BrokerFault, ErrorCode, Forwarded, ProxyFault};
use junto_smp::id::CorrelationId;
use junto_smp::proxy::{Forward, Introduction};
use junto_smp::response::Response;
use rand_chacha::ChaCha20Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::client::TlsStream;

use super::broker;
use super::dial::Opened;
use super::settings::ProxyTimeouts;

/// Commands that may be on their way over one link, whatever the limit says: answers that nobody waits
/// for any more need places as well.
pub(crate) const FORWARDS_MAX: usize = IN_FLIGHT_MAX / 2;

/// What a destination answered, for the sender: a box, or an error.
pub(super) type Answer = Result<Box<[u8]>, ErrorCode>;
pub(super) type Ticket = oneshot::Sender<Answer>;

/// A command on its way. Its sender may give up and take it back.
pub(crate) struct Parcel {
    pub(crate) correlation: CorrelationId,
    pub(crate) version: u16,
    pub(crate) key: x25519::PublicKey,
    pub(crate) sealed: Box<[u8]>,
}

/// Shared by the one who waits and the task of the link; the first of them takes the parcel out.
pub(super) type Slot = Arc<Mutex<Option<Parcel>>>;

pub(super) fn take(slot: &Slot) -> Option<Parcel> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A command for the task of a link.
pub(super) struct Job {
    slot: Slot,
    answer: Ticket,
}

/// A link as the proxy sees it. Only its table keeps one: without it, the link ends.
pub(super) struct Link {
    /// Also in answers that clients have not taken yet.
    pub(super) introduction: Arc<Introduction>,
    /// Where it leads, unless a SOCKS server has found that.
    pub(super) address: Option<IpAddr>,
    jobs: mpsc::Sender<Job>,
    /// Commands on their way.
    under_way: Arc<AtomicUsize>,
    /// It ends at once, with whatever is on its way.
    cut: Arc<AtomicBool>,
    /// When it was last asked for.
    used: Mutex<Instant>,
}

impl Link {
    /// The link of an open connection, and the task to be run for it.
    pub(super) fn new(opened: Opened<Ticket>, timeouts: &ProxyTimeouts) -> (Arc<Self>, LinkTask) {
        // The task takes from it at any time, so that it never holds many.
        let (sender, jobs) = mpsc::channel(2 * FORWARDS_MAX);
        let cut = Arc::new(AtomicBool::new(false));
        let link = Self {
            introduction: Arc::new(opened.introduction),
            address: opened.address,
            jobs: sender,
            under_way: Arc::default(),
            cut: Arc::clone(&cut),
            used: Mutex::new(Instant::now()),
        };
        let (reader, writer) = tokio::io::split(opened.stream);
        let task = LinkTask {
            client: opened.client,
            rng: opened.rng,
            jobs,
            reader,
            incoming: opened.block,
            filled: 0,
            outgoing: OutgoingBlock::new(),
            sending: Sending {
                writer,
                block: new_block(),
                written: 0,
                active: false,
            },
            waiting: VecDeque::new(),
            cut,
            closing: false,
            strays: 0,
            heard: Instant::now(),
            answered: false,
            answer: timeouts.answer,
            idle: timeouts.idle,
        };
        (Arc::new(link), task)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.jobs.is_closed()
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }

    /// Has its task end at once, as soon as this is the last handle.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    pub(super) fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A place for one more command, if fewer than `limit` are on their way.
    pub(super) fn room(&self, limit: usize) -> Option<Room> {
        self.touch();
        let more = |count| (count < limit.min(FORWARDS_MAX)).then_some(count + 1);
        let taken = self
            .under_way
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok().then(|| Room(Arc::clone(&self.under_way)))
    }

    /// Gives a parcel to the task, behind all that were given before.
    pub(super) fn give(&self, parcel: Parcel, room: Room) -> Result<Given, ErrorCode> {
        let slot = Arc::new(Mutex::new(Some(parcel)));
        let (answer, answered) = oneshot::channel();
        let job = Job {
            slot: Arc::clone(&slot),
            answer,
        };
        if self.jobs.try_send(job).is_err() {
            return Err(broker(BrokerFault::Network));
        }
        Ok(Given {
            slot,
            answered,
            _room: room,
        })
    }
}

/// The place of a command on its way. Dropping it gives it back.
pub(super) struct Room(Arc<AtomicUsize>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A parcel that was given to a link. Dropping it takes the parcel back, if it is still here, so
/// that its memory goes with its permit.
pub(crate) struct Given {
    slot: Slot,
    answered: oneshot::Receiver<Answer>,
    _room: Room,
}

impl Given {
    /// Waits for the answer, but not longer than `patience`.
    pub(super) async fn answer(mut self, patience: Duration) -> Answer {
        match tokio::time::timeout(patience, &mut self.answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(broker(BrokerFault::Network)),
            Err(_) => Err(broker(BrokerFault::Timeout)),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        drop(take(&self.slot));
    }
}

/// The block on its way into the socket.
struct Sending {
    writer: WriteHalf<TlsStream<TcpStream>>,
    block: Box<Block>,
    /// [`BLOCK_BYTES`] while flushing.
    written: usize,
    active: bool,
}

impl Sending {
    /// Writes some more; `true` when all of it is out.
    async fn advance(&mut self) -> std::io::Result<bool> {
        let rest = &self.block[self.written..];
        if rest.is_empty() {
            self.writer.flush().await?;
            return Ok(true);
        }
        let count = self.writer.write(rest).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        self.written += count;
        Ok(false)
    }
}

/// The only owner of a link's socket and protocol state.
pub(super) struct LinkTask {
    client: Client<Ticket>,
    rng: ChaCha20Rng,
    jobs: mpsc::Receiver<Job>,
    reader: ReadHalf<TlsStream<TcpStream>>,
    incoming: Box<Block>,
    filled: usize,
    outgoing: OutgoingBlock,
    sending: Sending,
    /// Jobs that found no room in a block yet, first come first: at most [`FORWARDS_MAX`] with a sender
    /// who waits, and as many without.
    waiting: VecDeque<Job>,
    cut: Arc<AtomicBool>,
    /// Given up by the proxy.
    closing: bool,
    /// Answers that may still come and that nobody waits for any more.
    strays: usize,
    /// When a block last came, or, if none was due then, a command went out.
    heard: Instant,
    /// Whether it has ever answered.
    answered: bool,
    answer: Duration,
    idle: Duration,
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkEnd {
    /// Nobody needed it any more: no fault.
    pub(super) fault: Option<BrokerFault>,
    /// Whether it had been of use.
    pub(super) answered: bool,
}

/// What the task woke up for.
enum Wake {
    Written(std::io::Result<bool>),
    Read(std::io::Result<usize>),
    Job(Option<Job>),
    Deadline,
}

impl LinkTask {
    /// Runs until the connection ends.
    pub(super) async fn run(mut self) -> LinkEnd {
        let fault = loop {
            if let Err(end) = self.step().await {
                break end;
            }
        };
        let end = LinkEnd {
            fault,
            answered: self.answered,
        };
        let said = broker(fault.unwrap_or(BrokerFault::Network));
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.waiting.push_back(job);
        }
        for job in self.waiting.drain(..) {
            let _ = job.answer.send(Err(said));
        }
        for ticket in self.client.into_tickets() {
            let _ = ticket.send(Err(said));
        }
        if fault.is_none() && !self.sending.active {
            // Courtesy; nobody waits long for it.
            let goodbye = self.sending.writer.shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        }
        end
    }

    /// Waits for one thing and does it. `Err(None)`: ended in peace.
    async fn step(&mut self) -> Result<(), Option<BrokerFault>> {
        if self.closing {
            self.give_up();
            if self.waiting.is_empty() && self.client.in_flight() == 0 {
                return Err(None);
            }
        }
        let owing = self.client.in_flight() > 0 || self.sending.active;
        let deadline = self.heard + if owing { self.answer } else { self.idle };
        let wake = tokio::select! {
            // Each branch may be dropped at any point without losing bytes or jobs.
            written = self.sending.advance(), if self.sending.active => Wake::Written(written),
            read = self.reader.read(&mut self.incoming[self.filled..]) => Wake::Read(read),
            job = self.jobs.recv(), if !self.closing => Wake::Job(job),
            () = sleep_until(deadline) => Wake::Deadline,
        };
        if self.cut.load(Ordering::Acquire) {
            return Err(Some(BrokerFault::Network));
        }
        match wake {
            Wake::Written(Ok(false)) => Ok(()),
            Wake::Written(Ok(true)) => {
                self.sending.active = false;
                self.gather()
            }
            Wake::Read(Ok(count)) if count > 0 => self.read(count),
            Wake::Written(Err(_)) | Wake::Read(_) => Err(Some(BrokerFault::Network)),
            Wake::Job(Some(job)) => {
                self.waiting.push_back(job);
                while let Ok(job) = self.jobs.try_recv() {
                    self.waiting.push_back(job);
                }
                // Those with a sender who waits are no more than half of that.
                if self.waiting.len() > 2 * FORWARDS_MAX {
                    self.waiting.retain(|job| !job.answer.is_closed());
                }
                if self.sending.active {
                    return Ok(());
                }
                self.gather()
            }
            Wake::Job(None) => {
                self.closing = true;
                Ok(())
            }
            Wake::Deadline if owing => Err(Some(BrokerFault::Timeout)),
            Wake::Deadline => Err(None),
        }
    }

    /// Forgets what nobody waits for any more: senders that left hold no places here.
    fn give_up(&mut self) {
        self.waiting.retain(|job| !job.answer.is_closed());
        self.strays += self.client.give_up(Ticket::is_closed);
    }

    /// Fills a block with the jobs that wait, and starts to send it.
    fn gather(&mut self) -> Result<(), Option<BrokerFault>> {
        if self.client.in_flight() >= 2 * FORWARDS_MAX {
            self.give_up();
        }
        while let Some(job) = self.waiting.pop_front() {
            if let Some(job) = self.push(job)? {
                self.waiting.push_front(job);
                break;
            }
        }
        if let Some(block) = self.client.seal(&mut self.outgoing) {
            self.sending.block.copy_from_slice(block);
            self.sending.written = 0;
            self.sending.active = true;
        } else if !self.waiting.is_empty() {
            // Not even an empty block took it: too many answers are owed.
            return Err(Some(BrokerFault::Timeout));
        }
        Ok(())
    }

    /// Adds a job to the block; gives it back if it must wait.
    fn push(&mut self, job: Job) -> Result<Option<Job>, Option<BrokerFault>> {
        use junto_smp::client::RejectReason;
        let parcel = match take(&job.slot) {
            Some(parcel) if !job.answer.is_closed() => parcel,
            Some(_) | None => return Ok(None), // Its sender gave up.
        };
        let idle = self.client.in_flight() == 0;
        let forward = Forward {
            version: parcel.version,
            key: parcel.key,
            sealed: &parcel.sealed,
        };
        let pushed = self.client.push_relayed(
            &mut self.outgoing,
            &parcel.correlation,
            &forward,
            job.answer,
            &mut self.rng,
        );
        match pushed.map_err(|rejected| (rejected.reason, rejected.ticket)) {
            Ok(()) => {
                if idle {
                    self.heard = Instant::now();
                }
                Ok(None)
            }
            Err((RejectReason::BlockFull | RejectReason::Busy, answer)) => {
                *job.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(parcel);
                let slot = job.slot;
                Ok(Some(Job { slot, answer }))
            }
            Err((RejectReason::TooLarge | RejectReason::WeakKey, answer)) => {
                let fault = junto_smp::error::TransportFault::LargeMessage;
                let _ = answer.send(Err(broker(BrokerFault::Transport(fault))));
                Ok(None)
            }
        }
    }

    fn read(&mut self, count: usize) -> Result<(), Option<BrokerFault>> {
        self.filled += count;
        if self.filled < BLOCK_BYTES {
            return Ok(());
        }
        self.filled = 0;
        self.heard = Instant::now();
        let garbage = Some(BrokerFault::Response);
        let replies = self
            .client
            .receive(&mut self.incoming)
            .map_err(|_| garbage)?;
        for incoming in replies {
            match incoming {
                Incoming::Reply { ticket, result } => {
                    self.answered = true;
                    let _ = ticket.send(answer(result));
                }
                Incoming::Stray if self.strays > 0 => {
                    self.answered = true;
                    self.strays -= 1;
                }
                // Nothing else is any of our business: it could only keep us busy.
                Incoming::Event(_) | Incoming::Stray => return Err(garbage),
            }
        }
        Ok(())
    }
}

/// What the sender hears.
fn answer(result: Result<Response<'_>, ReplyFault>) -> Answer {
    match result {
        Ok(Response::ProxyAnswer(sealed)) => Ok(sealed.into()),
        Ok(_) => Err(broker(BrokerFault::Unexpected)),
        Err(ReplyFault::Refused(code) | ReplyFault::Proxy(code)) => {
            Err(match Forwarded::from_code(code) {
                Some(code) => ErrorCode::Proxy(ProxyFault::Protocol(code)),
                // It poses as a proxy.
                None => broker(BrokerFault::Unexpected),
            })
        }
        Err(ReplyFault::Unexpected) => Err(broker(BrokerFault::Response)),
    }
}
