//! The task that keeps a connection to one relay.

use std::sync::Arc;

use junto_smp::address::ServerAddress;
use junto_tls::ClientTls;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::agent::{Fallback, Passwords, Reconnect};
use super::engine::{Input, RelayInput};
use crate::client::{ClientError, ClientOptions, Notice, Notices, ProxyTrouble, RelayClient};
use crate::proto::{Operation, RelayId, RelayPath, RelayTrouble, Token};

/// Commands for one connection to a relay. Not bounded by itself: the core has at most a window of
/// messages and one other command of each kind under way for each of its connections.
pub(super) type Commands = mpsc::UnboundedSender<(Token, Operation)>;

/// A connection that lasted this long makes the waits start anew.
const STEADY: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct RelayTask {
    pub(super) relay: RelayId,
    pub(super) path: RelayPath,
    pub(super) fallback: Fallback,
    /// Which start of the core the task belongs to.
    pub(super) generation: u64,
    /// Weak, so that the agent ends with its last handle.
    pub(super) inputs: mpsc::WeakSender<Input>,
    pub(super) tls: Arc<ClientTls>,
    pub(super) options: ClientOptions,
    pub(super) passwords: Passwords,
    pub(super) reconnect: Reconnect,
    pub(super) rng: ChaCha20Rng,
}

/// The agent has ended.
struct Ended;

impl RelayTask {
    /// Connects, and connects again, until the agent ends or the task is aborted.
    pub(super) async fn run(mut self) {
        let mut failures = 0;
        loop {
            let since = Instant::now();
            let ended = match self.connect_once().await {
                Ok(error) => self.report_down(&error).await,
                Err(ended) => Err(ended),
            };
            if ended.is_err() {
                return;
            }
            failures = if since.elapsed() >= STEADY {
                0
            } else {
                failures + 1
            };
            tokio::time::sleep(self.pause(failures)).await;
        }
    }

    fn pause(&mut self, failures: u32) -> Duration {
        let doubled = self
            .reconnect
            .first
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = doubled.min(self.reconnect.longest);
        let share = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        longest.mul_f64(1.0 - share / 2.0)
    }

    /// One connection, until it ends.
    async fn connect_once(&mut self) -> Result<ClientError, Ended> {
        let (client, mut notices) = match self.open().await {
            Ok(opened) => opened,
            Err(error) => return Ok(error),
        };
        let (commands, mut queued) = mpsc::unbounded_channel();
        self.tell(RelayInput::Up(commands)).await?;
        // Either may wait for the other side of the connection, so both run.
        tokio::select! {
            ended = self.hear(&mut notices) => ended,
            () = speak(&client, &mut queued) => Err(Ended),
        }
    }

    /// A connection on the first way that works.
    async fn open(&self) -> Result<(RelayClient, Notices), ClientError> {
        let mut unsupported = true;
        let mut error = None;
        for proxy in &self.path.through {
            match self.open_through(proxy).await {
                Ok(opened) => return Ok(opened),
                Err(fault) => {
                    debug!(%proxy, relay = %self.path.relay, error = %fault, "no way through");
                    unsupported &=
                        matches!(&fault, ClientError::Proxy(trouble) if trouble.is_final());
                    error = Some(fault);
                }
            }
        }
        match error {
            Some(error) if !unsupported || self.fallback == Fallback::Never => return Err(error),
            Some(_) | None => {}
        }
        let relay = &self.path.relay;
        let password = self.passwords.get(relay).cloned();
        let opened = RelayClient::connect(&self.tls, relay, &self.options, password).await?;
        debug!(%relay, version = %opened.0.version(), "connected");
        Ok(opened)
    }

    async fn open_through(
        &self,
        proxy: &ServerAddress,
    ) -> Result<(RelayClient, Notices), ClientError> {
        let password = self.passwords.get(proxy).cloned();
        let relay = &self.path.relay;
        let proxied = (proxy, password);
        let opened = RelayClient::connect_through(&self.tls, proxied, relay, &self.options).await?;
        debug!(%relay, %proxy, "connected through a proxy");
        Ok(opened)
    }

    /// Passes on what the relay says, until the connection ends.
    async fn hear(&self, notices: &mut Notices) -> Result<ClientError, Ended> {
        loop {
            match notices.next().await {
                Some(Notice::Answer { token, answer }) => {
                    self.tell(RelayInput::Answer(token, answer)).await?;
                }
                Some(Notice::Relay(notice)) => self.tell(RelayInput::Notice(notice)).await?,
                Some(Notice::Down(error)) => return Ok(error),
                None => return Ok(ClientError::Timeout),
            }
        }
    }

    async fn report_down(&self, error: &ClientError) -> Result<(), Ended> {
        debug!(relay = %self.path.relay, %error, "relay is down");
        if !error.is_temporary() {
            // Which relay somebody uses is nobody's business; the application is told.
            warn!(%error, "a relay cannot be used");
        }
        self.tell(RelayInput::Down(trouble(error))).await
    }

    async fn tell(&self, input: RelayInput) -> Result<(), Ended> {
        let input = Input::Relay {
            generation: self.generation,
            relay: self.relay,
            input,
        };
        let inputs = self.inputs.upgrade().ok_or(Ended)?;
        inputs.send(input).await.map_err(|_| Ended)
    }
}

/// What an application hears of the reason.
fn trouble(error: &ClientError) -> RelayTrouble {
    match error {
        ClientError::Network(_) | ClientError::Timeout => RelayTrouble::Unreachable,
        ClientError::Proxy(ProxyTrouble::Impostor) | ClientError::Identity => {
            RelayTrouble::Impostor
        }
        ClientError::Proxy(trouble) if trouble.is_final() => RelayTrouble::NoWayThrough,
        ClientError::Proxy(_) => RelayTrouble::Unreachable,
        ClientError::OnionOnly => RelayTrouble::OnionOnly,
        ClientError::Tls(_) | ClientError::Protocol(_) | ClientError::Defect(_) => {
            RelayTrouble::Faulty
        }
    }
}

/// Passes on commands. Ends when the engine has dropped its end, or with the connection, whose
/// notices tell why.
async fn speak(client: &RelayClient, queued: &mut mpsc::UnboundedReceiver<(Token, Operation)>) {
    while let Some((token, operation)) = queued.recv().await {
        if client.send(token, operation).await.is_err() {
            return std::future::pending().await;
        }
    }
}
