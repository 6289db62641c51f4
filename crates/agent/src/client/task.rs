//! The task of a connection: the only owner of its socket and protocol state.
//!
//! One loop, four things to wait for: room in the socket for the block that is being sent, bytes of
//! the next block, a command, and the time when silence becomes suspicious. Sending never keeps
//! from receiving: both ends may have a block on its way at the same time.

use std::{collections::VecDeque, io, sync::Arc};

use junto_smp::{
    block::{BLOCK_BYTES, Block, OutgoingBlock, new_block},
    client::{Client, IN_FLIGHT_MAX, Incoming, RejectReason},
    proxy::Destination,
};
use rand_chacha::ChaCha20Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_rustls::client::TlsStream;

use super::{
    ClientOptions, Notice, Password, ProtocolFault,
    connect::Opened,
    error::ClientError,
    operation::{self, PING, Ticket},
};
use crate::proto::{Operation, Token};

pub(super) struct Task {
    client: Client<Ticket>,
    /// The relay behind this one that commands are for.
    destination: Option<Destination>,
    rng: ChaCha20Rng,
    options: ClientOptions,
    password: Option<Arc<Password>>,
    commands: mpsc::Receiver<(Token, Operation)>,
    /// Nobody will give commands any more.
    closing: bool,
    notices: mpsc::Sender<Notice>,
    /// Notices for which the channel had no room. While there are any, nothing is read.
    waiting: VecDeque<Notice>,
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    received: Box<Block>,
    received_bytes: usize,
    outgoing: OutgoingBlock,
    sending: Sending,
    /// A command that found no room in the last block.
    postponed: Option<(Token, Operation)>,
    /// When something last arrived, or, if nothing was due then, when a command went out.
    heard: Instant,
}

/// The block on its way into the socket.
struct Sending {
    block: Box<Block>,
    /// Bytes already written; [`BLOCK_BYTES`] while flushing.
    written: usize,
    active: bool,
}

impl Sending {
    /// Writes some more, or flushes what was written.
    async fn advance(&self, writer: &mut WriteHalf<TlsStream<TcpStream>>) -> Wake {
        match &self.block[self.written..] {
            [] => Wake::Flushed(writer.flush().await),
            rest => Wake::Written(writer.write(rest).await),
        }
    }
}

/// What the loop woke up for.
enum Wake {
    Written(io::Result<usize>),
    Flushed(io::Result<()>),
    Read(io::Result<usize>),
    Command(Option<(Token, Operation)>),
    Room,
    Abandoned,
    Silence,
}

/// Why the loop ends.
enum End {
    /// Closed by our side, all done.
    Closed,
    Fault(ClientError),
}

impl<E: Into<ClientError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

impl Task {
    pub(super) fn new(
        (opened, destination): (Opened, Option<Destination>),
        options: ClientOptions,
        password: Option<Arc<Password>>,
        commands: mpsc::Receiver<(Token, Operation)>,
        notices: mpsc::Sender<Notice>,
    ) -> Self {
        let (reader, writer) = tokio::io::split(opened.stream);
        Self {
            client: opened.client,
            destination,
            rng: opened.rng,
            options,
            password,
            commands,
            closing: false,
            notices,
            waiting: VecDeque::new(),
            reader,
            writer,
            received: opened.block,
            received_bytes: 0,
            outgoing: OutgoingBlock::new(),
            sending: Sending {
                block: new_block(),
                written: 0,
                active: false,
            },
            postponed: None,
            heard: Instant::now(),
        }
    }

    pub(super) async fn run(mut self) {
        let end = loop {
            if let Err(end) = self.step().await {
                break end;
            }
        };
        if let End::Fault(error) = end {
            // Free the caller of `send` first; then tell why. Nobody may listen.
            self.commands.close();
            for notice in self.waiting.drain(..) {
                if self.notices.send(notice).await.is_err() {
                    break;
                }
            }
            let _ = self.notices.send(Notice::Down(error)).await;
        }
        // The relay need not hear our goodbye.
        let _ = tokio::time::timeout(self.options.response_timeout, self.writer.shutdown()).await;
    }

    /// Waits for one thing and does it.
    async fn step(&mut self) -> Result<(), End> {
        if self.is_done() {
            return Err(End::Closed);
        }
        match self.wake().await {
            Wake::Written(written) => self.written(written?),
            Wake::Flushed(flushed) => {
                flushed?;
                self.sending.active = false;
                self.gather(None)
            }
            Wake::Read(read) => self.read(read?),
            Wake::Command(Some(command)) => self.gather(Some(command)),
            Wake::Command(None) => {
                self.closing = true;
                Ok(())
            }
            Wake::Room => {
                self.hand_over();
                Ok(())
            }
            Wake::Abandoned => Err(End::Closed),
            Wake::Silence => self.silence(),
        }
    }

    /// Whether everything given has been sent and answered, and no more will come.
    fn is_done(&self) -> bool {
        self.closing
            && !self.sending.active
            && self.postponed.is_none()
            && self.waiting.is_empty()
            && self.client.in_flight() == 0
    }

    async fn wake(&mut self) -> Wake {
        let sending = self.sending.active;
        let overdue = !self.waiting.is_empty();
        let taking = !sending
            && !self.closing
            && self.postponed.is_none()
            && self.client.in_flight() < IN_FLIGHT_MAX;
        let deadline = self.deadline();
        tokio::select! {
            // Each branch may be dropped at any point without losing bytes or commands.
            wake = self.sending.advance(&mut self.writer), if sending => wake,
            read = self.reader.read(&mut self.received[self.received_bytes..]), if !overdue => {
                Wake::Read(read)
            }
            command = self.commands.recv(), if taking => Wake::Command(command),
            room = self.notices.reserve(), if overdue => {
                if room.is_ok() { Wake::Room } else { Wake::Abandoned }
            }
            () = self.notices.closed(), if self.closing && !overdue => Wake::Abandoned,
            () = sleep_until(deadline), if !overdue || self.closing => Wake::Silence,
        }
    }

    /// When silence becomes suspicious.
    fn deadline(&self) -> Instant {
        if self.client.in_flight() > 0 || self.closing {
            self.heard + self.options.response_timeout
        } else {
            self.heard + self.options.ping_interval
        }
    }

    fn silence(&mut self) -> Result<(), End> {
        if self.client.in_flight() > 0 || self.closing {
            return Err(ClientError::Timeout.into());
        }
        let pushed = self
            .client
            .push(&mut self.outgoing, &PING, Ticket::Own, &mut self.rng);
        if pushed.is_err() {
            return Err(ClientError::Defect("no room for a ping").into());
        }
        self.heard = Instant::now();
        self.start_sending();
        Ok(())
    }

    /// Fills a block with `first`, if given, and the commands that wait, and starts to send it.
    fn gather(&mut self, first: Option<(Token, Operation)>) -> Result<(), End> {
        let mut next = self.postponed.take().or(first);
        loop {
            let command = match next.take() {
                Some(command) => command,
                None => match self.commands.try_recv() {
                    Ok(command) => command,
                    Err(_) => break,
                },
            };
            if let Some(unsent) = self.push(command)? {
                self.postponed = Some(unsent);
                break;
            }
        }
        self.start_sending();
        Ok(())
    }

    /// Adds a command to the block; gives it back if it must wait.
    fn push(
        &mut self,
        (token, operation): (Token, Operation),
    ) -> Result<Option<(Token, Operation)>, End> {
        let idle = self.client.in_flight() == 0;
        let request = operation::request(&operation, self.password.as_deref());
        let ticket = Ticket::new(token, &operation);
        let correlation = operation::correlation(&operation);
        let (client, block, rng) = (&mut self.client, &mut self.outgoing, &mut self.rng);
        let pushed = match (&self.destination, correlation) {
            (Some(relay), _) => client.push_forwarded(block, relay, &request, ticket, rng),
            (None, None) => client.push(block, &request, ticket, rng),
            (None, Some(correlation)) => client.push_as(block, &request, ticket, correlation),
        };
        match pushed.map_err(|rejected| rejected.reason) {
            Ok(()) => {
                if idle {
                    self.heard = Instant::now();
                }
                Ok(None)
            }
            Err(RejectReason::BlockFull | RejectReason::Busy) => Ok(Some((token, operation))),
            Err(RejectReason::TooLarge) => {
                Err(ClientError::Defect("a command that fits into no block").into())
            }
            Err(RejectReason::WeakKey) => Err(ProtocolFault::Answer.into()),
        }
    }

    fn start_sending(&mut self) {
        if let Some(block) = self.client.seal(&mut self.outgoing) {
            self.sending.block.copy_from_slice(block);
            self.sending.written = 0;
            self.sending.active = true;
        }
    }

    fn written(&mut self, bytes: usize) -> Result<(), End> {
        if bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        self.sending.written += bytes;
        Ok(())
    }

    fn read(&mut self, bytes: usize) -> Result<(), End> {
        if bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.received_bytes += bytes;
        if self.received_bytes < BLOCK_BYTES {
            return Ok(());
        }
        self.received_bytes = 0;
        self.heard = Instant::now();
        let waiting = &mut self.waiting;
        for incoming in self.client.receive(&mut self.received)? {
            match incoming {
                Incoming::Reply { ticket, result } => {
                    operation::answered(ticket, result, |notice| waiting.push_back(notice))?;
                }
                Incoming::Event(event) => waiting.push_back(operation::told(event)?),
                Incoming::Stray => return Err(ProtocolFault::Answer.into()),
            }
        }
        self.hand_over();
        // Answers may have made room for a command that had none.
        if !self.sending.active && self.postponed.is_some() {
            return self.gather(None);
        }
        Ok(())
    }

    /// Moves notices into the channel while it has room.
    fn hand_over(&mut self) {
        while let Some(notice) = self.waiting.pop_front() {
            match self.notices.try_send(notice) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(notice)) => {
                    self.waiting.push_front(notice);
                    return;
                }
                // Nobody listens any more; the commands go on.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
        // The time in which nobody took notices is not the relay's silence.
        self.heard = Instant::now();
    }
}
