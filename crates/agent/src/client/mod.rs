//! A connection to one relay: TLS, hello, and a task that carries commands and answers.
//!
//! [`RelayClient::connect`] gives two ends: the [`RelayClient`], which takes commands, and the
//! [`Notices`], which give answers, messages and at last the reason why the connection ended.
//!
//! # Order and batching
//! Commands go out in the order they are given. While a block is on its way to the relay, further
//! commands gather and share the next block; an idle connection sends at once, without a timer.
//! Nothing waits for answers: sends are pipelined.
//!
//! # Bounds
//! [`COMMANDS_MAX`] commands wait to be sent, [`junto_smp::client::IN_FLIGHT_MAX`] for their
//! answers. If notices are not taken, the connection stops reading, so the relay stops sending.
//! Whoever gives commands with [`RelayClient::send`] must go on taking notices meanwhile.

mod connect;
mod error;
mod operation;
mod proxy;
mod socks;
mod task;

use core::time::Duration;
use std::sync::Arc;

use junto_smp::{address::ServerAddress, proxy::Destination, version::Version};
use junto_tls::ClientTls;
use tokio::{sync::mpsc, task::JoinHandle};
use zeroize::Zeroizing;

pub use error::{ClientError, ProtocolFault};
pub use proxy::ProxyTrouble;
pub use socks::{NoSocksServer, SocksServer};

use crate::proto::{Answer, Operation, RelayNotice, Token};

/// Commands that wait to be sent: four full blocks of the smallest ones.
pub const COMMANDS_MAX: usize = 1_024;
/// Notices that wait to be taken, and then as many as the last block held (at most 255). With
/// messages of 16 KiB this is at most 8 MiB for each connection.
pub const NOTICES_MAX: usize = 256;

/// How to connect, and how long to wait for what.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For a TCP connection to one of the relay's network addresses.
    pub connect_timeout: Duration,
    /// For everything until the connection is usable, over all hosts.
    pub open_timeout: Duration,
    /// Without anything from the relay while answers are due.
    pub response_timeout: Duration,
    /// Of silence, before the relay is asked whether it is still there.
    pub ping_interval: Duration,
    /// All connections go through this SOCKS server, which resolves the names of relays. Without one,
    /// relays that have `.onion` names only cannot be reached.
    pub socks: Option<SocksServer>,
}

impl Default for ClientOptions {
    /// 10 s, 30 s, 30 s, and a ping each minute: shorter than the memory of most home routers. No SOCKS server.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(30),
            response_timeout: Duration::from_secs(30),
            ping_interval: Duration::from_secs(60),
            socks: None,
        }
    }
}

/// What a relay demands of who creates queues on it: 1 to 255 bytes, never printed.
pub struct Password(Zeroizing<Box<[u8]>>);

impl Password {
    /// Takes a password; `None` if it is empty or too long to be sent.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=usize::from(u8::MAX)).contains(&text.len());
        fits.then(|| Self(Zeroizing::new(Box::from(text.as_bytes()))))
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Gives commands to a connected relay. Dropping it closes the connection when everything given has
/// been answered.
#[derive(Debug)]
pub struct RelayClient {
    commands: mpsc::Sender<(Token, Operation)>,
    task: JoinHandle<()>,
    version: Version,
}

/// What a relay says.
#[derive(Debug)]
pub struct Notices {
    notices: mpsc::Receiver<Notice>,
}

/// Something from a relay.
#[derive(Debug)]
pub enum Notice {
    /// The answer to a command.
    Answer {
        /// As given with the command.
        token: Token,
        /// What the relay answered.
        answer: Answer,
    },
    /// A message, or the end of a subscription.
    Relay(RelayNotice),
    /// The connection is lost, and with it the answers that are still due: those commands may have
    /// been carried out or not. The last notice.
    Down(ClientError),
}

/// A command that was not taken.
pub enum NotTaken {
    /// [`COMMANDS_MAX`] commands wait already.
    Full(Token, Operation),
    /// The connection has ended.
    Closed(Token, Operation),
}

impl RelayClient {
    /// Connects to the relay at `address`, trying its hosts in order, and starts the task that
    /// carries commands and answers. The password goes with every request for a queue. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`ClientError`] of the last host tried; [`ClientError::Identity`] at once, since another
    /// host of the same address will not help against an impostor.
    pub async fn connect(
        tls: &ClientTls,
        address: &ServerAddress,
        options: &ClientOptions,
        password: Option<Arc<Password>>,
    ) -> Result<(Self, Notices), ClientError> {
        let opened = within(options.open_timeout, connect::open(tls, address, options)).await?;
        Ok(Self::start((opened, None), options, password))
    }

    /// As [`RelayClient::connect`], to the relay at `address` through the relay `proxy`: that one sees where we
    /// are, and the relay at `address` what we do. Only what a sender does can go this way. The password is
    /// for the proxy.
    ///
    /// # Errors
    /// As [`RelayClient::connect`], about the proxy; [`ClientError::Proxy`].
    pub async fn connect_through(
        tls: &ClientTls,
        (proxy, password): (&ServerAddress, Option<Arc<Password>>),
        address: &ServerAddress,
        options: &ClientOptions,
    ) -> Result<(Self, Notices), ClientError> {
        let open = async {
            let mut opened = connect::open(tls, proxy, options).await?;
            let found = proxy::introduce(&mut opened, address, password.as_deref()).await?;
            Ok((opened, Some(found)))
        };
        let opened = within(options.open_timeout, open).await?;
        Ok(Self::start(opened, options, None))
    }

    fn start(
        (opened, destination): (connect::Opened, Option<Destination>),
        options: &ClientOptions,
        password: Option<Arc<Password>>,
    ) -> (Self, Notices) {
        let version = opened.client.version();
        let (commands, incoming) = mpsc::channel(COMMANDS_MAX);
        let (outgoing, notices) = mpsc::channel(NOTICES_MAX);
        let opened = (opened, destination);
        let task = task::Task::new(opened, options.clone(), password, incoming, outgoing);
        let client = Self {
            commands,
            task: tokio::spawn(task.run()),
            version,
        };
        (client, Notices { notices })
    }

    /// The protocol version in use with the relay that we are connected to.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Gives a command; waits while [`COMMANDS_MAX`] others wait.
    ///
    /// # Errors
    /// [`NotTaken::Closed`] if the connection has ended; [`Notice::Down`] tells why.
    pub async fn send(&self, token: Token, operation: Operation) -> Result<(), NotTaken> {
        self.commands
            .send((token, operation))
            .await
            .map_err(|unsent| NotTaken::Closed(unsent.0.0, unsent.0.1))
    }

    /// Gives a command if there is room.
    ///
    /// # Errors
    /// [`NotTaken`], with the command.
    pub fn try_send(&self, token: Token, operation: Operation) -> Result<(), NotTaken> {
        use mpsc::error::TrySendError;
        self.commands
            .try_send((token, operation))
            .map_err(|unsent| match unsent {
                TrySendError::Full((token, operation)) => NotTaken::Full(token, operation),
                TrySendError::Closed((token, operation)) => NotTaken::Closed(token, operation),
            })
    }

    /// Sends what was given, waits for the answers (at most
    /// [`ClientOptions::response_timeout`]) and closes the connection. Take the notices meanwhile,
    /// or drop them first: then nothing is waited for.
    pub async fn close(self) {
        drop(self.commands);
        // A panic in the task has ended the connection as well.
        let _ = self.task.await;
    }
}

async fn within<T>(
    patience: Duration,
    open: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let opened = tokio::time::timeout(patience, open).await;
    opened.map_err(|_| ClientError::Timeout)?
}

impl Notices {
    /// The next notice; `None` after [`Notice::Down`], or after the client was closed.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }

    /// A notice that is already there.
    pub fn try_next(&mut self) -> Option<Notice> {
        self.notices.try_recv().ok()
    }
}

impl core::fmt::Debug for NotTaken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (kind, token) = match self {
            Self::Full(token, _) => ("Full", token),
            Self::Closed(token, _) => ("Closed", token),
        };
        write!(f, "{kind}({token:?})")
    }
}
