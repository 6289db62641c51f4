//! The handles of an application: [`Agent`] to ask, [`Events`] to be told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use junto_crypto::aead::StoreKey;
use junto_smp::address::ServerAddress;
use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, EngineOptions, Input};
use crate::client::{ClientOptions, Password};
use crate::error::AgentError;
use crate::proto::{
    Command, ConnectionId, ContactLink, Event, InvitationLink, Lines, Link, MessageId, Misuse,
    Noise, Overview, PostQuantum, Reply, RequestId, Resync, Route, RoutePolicy, Routing, ShortLink,
    Spread, Tag,
};
use crate::store::{SqliteStore, Store, StoreError};

/// See [`AgentConfig::succeed`].
pub type Succeed = Box<dyn FnOnce(Option<[u8; 16]>) -> Option<[u8; 16]> + Send>;

/// How to open an agent.
pub struct AgentConfig {
    /// The SQLite file; made if it does not exist. Its folder must exist.
    pub path: PathBuf,
    /// Seals every record in the file.
    pub key: StoreKey,
    /// Tells an older copy of the file from the one in use: gets the mark that the last opening left in it
    /// (none in a new file), and gives the one to leave now, or none to refuse the file.
    pub succeed: Option<Succeed>,
    /// Whether acknowledging a message tells its sender ([`Event::Delivered`] there). On by default;
    /// receipts are gathered and cost one message for up to 255.
    pub receipts: bool,
    /// How often connections made from now on mix in a post-quantum secret.
    pub post_quantum: PostQuantum,
    /// Who may give a connection new keys.
    pub resync: Resync,
    /// How long connections receive on one queue before they go over to another one, on another of
    /// [`AgentConfig::own_relays`] if there is one; by default [`ROTATION_PERIOD`], never if none.
    pub rotate_every: Option<Duration>,
    /// Through what to connect, and how long relays may take.
    pub client: ClientOptions,
    /// When what we send goes through another relay, so that the relays of peers do not see where we are.
    pub routing: Routing,
    /// What to do where no relay passes it on.
    pub fallback: Fallback,
    /// The profile's own relays, in order of preference: those that may see where we are, and through which
    /// commands for others go. Without any, each connection uses the one that it receives on.
    pub own_relays: Vec<ServerAddress>,
    /// What relays demand of who creates queues on them.
    pub passwords: Passwords,
    /// How the agent comes back to a relay that is out of reach.
    pub reconnect: Reconnect,
}

/// How long a queue is used by default: four weeks, and up to a week more.
pub const ROTATION_PERIOD: Duration = Duration::from_secs(28 * 24 * 60 * 60);

/// What to do when a command should go through another relay, and none passes it on: because the one is no
/// proxy, or will not connect to the other, or the other is too old for it. A relay that is merely
/// unreachable is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Send nothing there, and keep trying: a relay must not learn where we are by refusing to be reached
    /// otherwise.
    #[default]
    Never,
    /// Connect directly.
    WhenUnsupported,
}

/// Passwords by relay.
pub type Passwords = BTreeMap<ServerAddress, Arc<Password>>;

/// Waits between attempts to reach a relay: the first, doubled after each failure up to the longest,
/// each shortened by a random part of up to a half so that clients do not return all at once.
#[derive(Clone, Copy, Debug)]
pub struct Reconnect {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Reconnect {
    /// 200 ms, 30 s.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(30),
        }
    }
}

impl AgentConfig {
    /// The store in this file under this key, everything else as by default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, key: StoreKey) -> Self {
        Self {
            path: path.into(),
            key,
            succeed: None,
            receipts: true,
            post_quantum: PostQuantum::default(),
            resync: Resync::default(),
            rotate_every: Some(ROTATION_PERIOD),
            client: ClientOptions::default(),
            routing: Routing::default(),
            fallback: Fallback::default(),
            own_relays: Vec::new(),
            passwords: Passwords::new(),
            reconnect: Reconnect::default(),
        }
    }
}

/// A handle to the agent of one profile. Clones are cheap and mean the same agent; it stops when
/// the last one is dropped.
///
/// Every call but [`Agent::ack`] returns when its effect is durable. Dropping the future of a call does not take the
/// call back.
#[derive(Clone)]
pub struct Agent {
    inputs: mpsc::Sender<Input>,
}

/// What the agent tells; there is one for each agent.
pub struct Events {
    events: mpsc::UnboundedReceiver<Event>,
}

/// One call of the application and where its answer goes.
pub(super) struct Call {
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Result<Reply, AgentError>>,
}

impl Agent {
    /// Opens the profile's store and starts the agent. First the events that the application may
    /// not have recorded come again (see [`Event`]).
    ///
    /// # Errors
    /// [`AgentError::Store`] if the store cannot be opened.
    pub async fn open(config: AgentConfig) -> Result<(Self, Events), AgentError> {
        let routes = RoutePolicy {
            routing: config.routing,
            own: config.own_relays,
            hidden: config.client.socks.is_some(),
        };
        let options = EngineOptions {
            receipts: config.receipts,
            routes,
            resync: config.resync,
            rotate_every: config.rotate_every,
            fallback: config.fallback,
            post_quantum: config.post_quantum,
            client: config.client,
            passwords: config.passwords,
            reconnect: config.reconnect,
        };
        let store = move || -> Result<Box<dyn Store>, StoreError> {
            let mut store = SqliteStore::open(&config.path, config.key)?;
            if let Some(succeed) = config.succeed {
                store.exchange_mark(succeed)?;
            }
            Ok(Box::new(store))
        };
        let (inputs, events) = Engine::start(options, store).await?;
        Ok((Self { inputs }, Events { events }))
    }

    /// As [`Agent::open`], with a store of the caller's: for tests, and for agents that need not
    /// outlive their process.
    ///
    /// # Errors
    /// [`AgentError::Store`] if the store cannot be read.
    pub async fn open_with(
        store: Box<dyn Store>,
        receipts: bool,
        reconnect: Reconnect,
    ) -> Result<(Self, Events), AgentError> {
        let client = ClientOptions::default();
        let options = EngineOptions {
            receipts,
            routes: RoutePolicy::default(),
            resync: Resync::default(),
            rotate_every: None,
            fallback: Fallback::default(),
            post_quantum: PostQuantum::default(),
            client,
            passwords: Passwords::new(),
            reconnect,
        };
        let (inputs, events) = Engine::start(options, move || Ok(store)).await?;
        Ok((Self { inputs }, Events { events }))
    }

    /// Makes an address at which anybody who has the link can ask to connect. With a tag that has
    /// an address, gives that address's link.
    ///
    /// # Errors
    /// [`AgentError::Relay`] if the relay refuses. While the relay is unreachable the call waits.
    pub async fn create_address(
        &self,
        tag: Tag,
        relay: &ServerAddress,
    ) -> Result<ContactLink, AgentError> {
        let (relay, about) = (relay.clone(), None);
        let command = Command::CreateAddress { tag, relay, about };
        match self.call(command).await? {
            Reply::Address(link, _) => Ok(link),
            _ => Err(MISMATCH),
        }
    }

    /// As [`Agent::create_address`], and puts the link on the relay behind a short one, which says `about`
    /// (≤ [`ABOUT_MAX`](crate::ABOUT_MAX) bytes) besides: readable to whoever has the link, before anything is asked.
    ///
    /// # Errors
    /// As [`Agent::create_address`]; [`AgentError::Link`] if the relay's address is too long for a short link;
    /// [`Misuse::TagTaken`](crate::Misuse::TagTaken) if the tag has an address without one.
    pub async fn publish_address(
        &self,
        tag: Tag,
        relay: &ServerAddress,
        about: &[u8],
    ) -> Result<(ContactLink, ShortLink), AgentError> {
        let (relay, about) = (relay.clone(), Some(about.to_vec()));
        let command = Command::CreateAddress { tag, relay, about };
        match self.call(command).await? {
            Reply::Address(link, Some(short)) => Ok((link, *short)),
            Reply::Address(_, None) => Err(Misuse::TagTaken.into()),
            _ => Err(MISMATCH),
        }
    }

    /// Changes what an address's short link says. Returns when that is durable here; the relay has it when the address
    /// is settled ([`Agent::settle`]).
    ///
    /// # Errors
    /// [`Misuse::NoAddress`](crate::Misuse::NoAddress), [`Misuse::AboutTooLong`](crate::Misuse::AboutTooLong).
    pub async fn describe_address(&self, tag: Tag, about: &[u8]) -> Result<(), AgentError> {
        let about = about.to_vec();
        self.done(Command::Describe { tag, about }).await
    }

    /// Makes a link for one peer. `info` (≤ [`MAX_INFO`](crate::MAX_INFO) bytes) is told to the
    /// peer once connected. With a tag that has a connection, gives that connection and its link.
    ///
    /// # Errors
    /// [`AgentError::Relay`] if the relay refuses. While the relay is unreachable the call waits.
    pub async fn create_invitation(
        &self,
        tag: Tag,
        relay: &ServerAddress,
        info: &[u8],
    ) -> Result<(ConnectionId, InvitationLink), AgentError> {
        let command = Command::CreateInvitation {
            tag,
            relay: relay.clone(),
            info: info.to_vec(),
            about: None,
        };
        match self.call(command).await? {
            Reply::Invitation(connection, link, _) => Ok((connection, *link)),
            _ => Err(MISMATCH),
        }
    }

    /// As [`Agent::create_invitation`], and puts the link on the relay behind a short one, which says `about`
    /// (≤ [`ABOUT_MAX`](crate::ABOUT_MAX) bytes) besides. Whoever opens that one first has the invitation; the relay
    /// forgets what is behind it with the first message.
    ///
    /// # Errors
    /// As [`Agent::create_invitation`] and [`Agent::publish_address`].
    pub async fn publish_invitation(
        &self,
        tag: Tag,
        relay: &ServerAddress,
        info: &[u8],
        about: &[u8],
    ) -> Result<(ConnectionId, InvitationLink, ShortLink), AgentError> {
        let command = Command::CreateInvitation {
            tag,
            relay: relay.clone(),
            info: info.to_vec(),
            about: Some(about.to_vec()),
        };
        match self.call(command).await? {
            Reply::Invitation(connection, link, Some(short)) => Ok((connection, *link, *short)),
            Reply::Invitation(_, _, None) => Err(Misuse::TagTaken.into()),
            _ => Err(MISMATCH),
        }
    }

    /// Connects through a link of any kind, receiving on `relay`. Returns at once; [`Event::Connected`] follows
    /// when the peer has answered. What is behind a short link is read and checked first ([`Event::Opened`]); if there
    /// is nothing, or not what belongs there, [`Event::Failed`] says so. With a tag that has a connection, gives that connection.
    ///
    /// # Errors
    /// [`AgentError::Link`] if the link speaks no version of ours, or does not say enough about its relay.
    pub async fn join(
        &self,
        tag: Tag,
        link: &Link,
        relay: &ServerAddress,
        info: &[u8],
    ) -> Result<ConnectionId, AgentError> {
        let (link, relay, info) = (link.clone(), relay.clone(), info.to_vec());
        match self
            .call(Command::Join {
                tag,
                link,
                relay,
                info,
            })
            .await?
        {
            Reply::Connection(connection) => Ok(connection),
            _ => Err(MISMATCH),
        }
    }

    /// Accepts a request to one of our addresses, receiving on `relay`. The connection's tag is
    /// [`Tag::of_request`]; accepting again gives the same connection.
    ///
    /// # Errors
    /// [`Misuse::NoRequest`](crate::Misuse::NoRequest), [`AgentError::Link`] as for [`Agent::join`].
    pub async fn accept(
        &self,
        request: RequestId,
        relay: &ServerAddress,
        info: &[u8],
    ) -> Result<ConnectionId, AgentError> {
        let (relay, info) = (relay.clone(), info.to_vec());
        match self
            .call(Command::Accept {
                request,
                relay,
                info,
            })
            .await?
        {
            Reply::Connection(connection) => Ok(connection),
            _ => Err(MISMATCH),
        }
    }

    /// Forgets a request. The requester is not told. Rejecting again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn reject(&self, request: RequestId) -> Result<(), AgentError> {
        self.done(Command::Reject { request }).await
    }

    /// Sends a message of at most [`MAX_BODY`](crate::MAX_BODY) bytes. Returns when it is durable
    /// here: it will arrive, in order, once. While too many messages wait for the relay, the call
    /// waits.
    ///
    /// # Errors
    /// [`AgentError::Misuse`] before [`Event::Connected`]; [`AgentError::Connection`] after
    /// [`Event::Failed`].
    pub async fn send(
        &self,
        connection: ConnectionId,
        body: &[u8],
    ) -> Result<MessageId, AgentError> {
        let body = body.to_vec();
        match self.call(Command::Send { connection, body }).await? {
            Reply::Message(message) => Ok(message),
            _ => Err(MISMATCH),
        }
    }

    /// Says that the application has a message durably: it will not come again, and the sender is
    /// told. Acknowledging again does nothing. This call does not wait for the disk: if the process
    /// dies right after it, the message does come again. [`Agent::stored`] waits.
    ///
    /// # Errors
    /// [`Misuse::NoConnection`](crate::Misuse::NoConnection).
    pub async fn ack(
        &self,
        connection: ConnectionId,
        message: MessageId,
    ) -> Result<(), AgentError> {
        self.done(Command::Acknowledge {
            connection,
            message,
        })
        .await
    }

    /// Lets a connection receive on another queue, on this relay, or on another one of the profile's own. Returns
    /// when the intention is stored; [`Event::Rotated`] follows when the peer sends there. Nothing is lost
    /// meanwhile, and the old queue is deleted. Asking again before the peer has answered begins anew.
    ///
    /// # Errors
    /// [`AgentError::Misuse`] before [`Event::Connected`], [`AgentError::Connection`] after
    /// [`Event::Failed`].
    pub async fn rotate(
        &self,
        connection: ConnectionId,
        relay: Option<&ServerAddress>,
    ) -> Result<(), AgentError> {
        let relay = relay.cloned();
        self.done(Command::Rotate { connection, relay }).await
    }

    /// Lets a connection receive on one more queue, on this relay, beside those that it has, [`QUEUES_MAX`](crate::QUEUES_MAX) at most.
    /// Messages of the peer then go to all of them, and survive every relay but the last, or go faster
    /// ([`Agent::set_spread`], on the peer's side). Returns when the intention is stored; the queue is made when the
    /// peer has said that it understands this, which SimpleX's agents do not. [`Agent::overview`] tells how far it is.
    /// Each call adds one.
    ///
    /// # Errors
    /// As [`Agent::rotate`]; [`Misuse::TooManyQueues`](crate::Misuse::TooManyQueues).
    pub async fn add_queue(
        &self,
        connection: ConnectionId,
        relay: &ServerAddress,
    ) -> Result<(), AgentError> {
        let relay = relay.clone();
        self.done(Command::AddQueue { connection, relay }).await
    }

    /// Lets a connection receive on one queue less: on this relay, one whose relay is gone for good, say. What lies
    /// there still comes, if the relay is there.
    ///
    /// # Errors
    /// As [`Agent::rotate`]; [`Misuse::NoQueue`](crate::Misuse::NoQueue) if there is none, or no other one that the
    /// peer may send to.
    pub async fn remove_queue(
        &self,
        connection: ConnectionId,
        relay: &ServerAddress,
    ) -> Result<(), AgentError> {
        let relay = relay.clone();
        self.done(Command::RemoveQueue { connection, relay }).await
    }

    /// Chooses how messages go to a peer that receives on several queues.
    ///
    /// # Errors
    /// As [`Agent::rotate`].
    pub async fn set_spread(
        &self,
        connection: ConnectionId,
        spread: Spread,
    ) -> Result<(), AgentError> {
        self.done(Command::Spread { connection, spread }).await
    }

    /// Chooses when a connection sends: with noise, in slots of time that have nothing to do with what the application
    /// says, and what a relay sees is the same whether it says anything or not. What is sent waits for a slot then.
    /// Returns when the choice is stored; slots begin when the peer has chosen noise as well, or to answer ours
    /// ([`NoiseView::is_running`](crate::NoiseView::is_running)), which SimpleX's agents cannot. What noise hides, and
    /// what it does not, is in `docs/decisions/0015-noise.md`.
    ///
    /// # Errors
    /// As [`Agent::rotate`].
    pub async fn set_noise(
        &self,
        connection: ConnectionId,
        noise: Noise,
    ) -> Result<(), AgentError> {
        self.done(Command::Noise { connection, noise }).await
    }

    /// Agrees new keys with the peer: for a connection whose messages cannot be read any more, because a side
    /// went back to an old copy of its database, say ([`Event::RatchetBroken`]). Returns when the request is
    /// stored; [`Event::Renewed`] and [`Event::Synchronised`] follow when the peer has answered. Calls to
    /// [`Agent::send`] wait until then. Asking again a minute later says the same keys again: a relay may have lost them. Who asks
    /// again so never brings about other keys, and a peer that has heard them passes them over.
    ///
    /// # Errors
    /// [`AgentError::Misuse`] before [`Event::Connected`], or if the profile refuses new keys;
    /// [`Misuse::Renewing`](crate::Misuse::Renewing) if new keys are there and the peer's first word in them may still come,
    /// for a minute;
    /// [`AgentError::Connection`] after [`Event::Failed`].
    pub async fn resynchronise(&self, connection: ConnectionId) -> Result<(), AgentError> {
        self.done(Command::Resynchronise { connection }).await
    }

    /// Ends a connection with a last word: of what waits for the peer's relay it is the only thing that still goes, and
    /// nothing that the peer says is told from now on. Returns when the intention is stored. The word goes when the
    /// peer's relay takes it, in later processes as well, for [`LEAVING_MAX`](crate::LEAVING_MAX) at most; then the queue
    /// is deleted. [`Agent::settle`] waits for that, [`Agent::delete`] does without. While new keys are being agreed, and
    /// if there are none after a backup, the connection is deleted at once, without the word.
    ///
    /// # Errors
    /// As [`Agent::send`].
    pub async fn leave(&self, connection: ConnectionId, last: &[u8]) -> Result<(), AgentError> {
        let last = last.to_vec();
        self.done(Command::Leave { connection, last }).await
    }

    /// Ends a connection: undelivered messages are dropped, the queue is deleted from its relay.
    /// Deleting again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn delete(&self, connection: ConnectionId) -> Result<(), AgentError> {
        self.done(Command::Delete { connection }).await
    }

    /// The application knows the link that an address has now: it need not be told again that it changed
    /// ([`Event::AddressMoved`]).
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn address_seen(&self, tag: Tag) -> Result<(), AgentError> {
        self.done(Command::AddressSeen { tag }).await
    }

    /// Closes an address: whoever asks from now on is refused by the relay, and the queue is deleted
    /// there. Requests that came before are still told, and stay until accepted or rejected; connections
    /// made through it stay. Closing again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn close_address(&self, tag: Tag) -> Result<(), AgentError> {
        self.done(Command::CloseAddress { tag }).await
    }

    /// Returns when everything that was to leave on these lines has been taken by its relay: messages,
    /// handshakes, acknowledgements. For a process that wants to end; it waits for as long as one of
    /// their relays is away.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub async fn settle(&self, lines: Lines) -> Result<(), AgentError> {
        let (waiting, settled) = oneshot::channel();
        self.inputs
            .send(Input::Settle(lines, waiting))
            .await
            .map_err(|_| AgentError::Closed)?;
        settled.await.map_err(|_| AgentError::Closed)
    }

    /// Returns when everything that was called and acknowledged before is stored.
    ///
    /// # Errors
    /// [`AgentError::Closed`] if the agent has ended, or the store failed meanwhile: then it may not be stored, and
    /// acknowledged messages come again.
    pub async fn stored(&self) -> Result<(), AgentError> {
        let (waiting, stored) = oneshot::channel();
        let asked = self.inputs.send(Input::Stored(waiting)).await;
        asked.map_err(|_| AgentError::Closed)?;
        stored.await.map_err(|_| AgentError::Closed)
    }

    /// Which relays these lines use, which way, and whether they are there: what each of them gets to see, and what is
    /// in the way.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub async fn routes(&self, lines: Lines) -> Result<BTreeSet<Route>, AgentError> {
        let (waiting, routes) = oneshot::channel();
        self.inputs
            .send(Input::Routes(lines, waiting))
            .await
            .map_err(|_| AgentError::Closed)?;
        routes.await.map_err(|_| AgentError::Closed)
    }

    /// What the profile has: addresses, requests, connections.
    ///
    /// # Errors
    /// [`AgentError::Closed`].
    pub async fn overview(&self) -> Result<Overview, AgentError> {
        let (waiting, overview) = oneshot::channel();
        let asked = self.inputs.send(Input::Overview(waiting)).await;
        asked.map_err(|_| AgentError::Closed)?;
        overview.await.map_err(|_| AgentError::Closed)
    }

    /// Stores what is pending and stops the agent; its handles give [`AgentError::Closed`] from then
    /// on. Dropping all handles does the same without waiting for it.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.inputs.send(Input::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    async fn call(&self, command: Command) -> Result<Reply, AgentError> {
        let (reply, answer) = oneshot::channel();
        let call = Input::Call(Call { command, reply });
        self.inputs
            .send(call)
            .await
            .map_err(|_| AgentError::Closed)?;
        answer.await.map_err(|_| AgentError::Closed)?
    }

    async fn done(&self, command: Command) -> Result<(), AgentError> {
        match self.call(command).await? {
            Reply::Done => Ok(()),
            _ => Err(MISMATCH),
        }
    }
}

/// The core answered a call with the answer to another kind of call.
const MISMATCH: AgentError = AgentError::Defect("a call got the answer of another");

impl Events {
    /// The next event; `None` when the agent has stopped. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}
