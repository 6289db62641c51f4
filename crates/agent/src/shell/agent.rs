//! The handles of an application: [`Agent`] to ask, [`Events`] to be told.

use std::path::PathBuf;

use junto_crypto::aead::StoreKey;
use junto_smp::address::ServerAddress;
use tokio::sync::{mpsc, oneshot};

use crate::error::AgentError;
use crate::proto::{
    ConnectionId, ContactLink, Event, InvitationLink, Link, MessageId, RequestId, Tag,
};

/// How to open an agent.
pub struct AgentConfig {
    /// The SQLite file; made if it does not exist. Its folder must exist.
    pub path: PathBuf,
    /// Seals every record in the file.
    pub key: StoreKey,
    /// Whether acknowledging a message tells its sender ([`Event::Delivered`] there). On by default;
    /// receipts are gathered and cost one message for up to 255.
    pub receipts: bool,
}

impl AgentConfig {
    /// The store in this file under this key, everything else as by default.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, key: StoreKey) -> Self {
        Self {
            path: path.into(),
            key,
            receipts: true,
        }
    }
}

/// A handle to the agent of one profile. Clones are cheap and mean the same agent; it stops when
/// the last one is dropped.
///
/// Every call returns when its effect is durable. Dropping the future of a call does not take the
/// call back.
#[derive(Clone)]
pub struct Agent {
    calls: mpsc::Sender<Call>,
}

/// What the agent tells; there is one for each agent.
pub struct Events {
    events: mpsc::UnboundedReceiver<Event>,
}

/// One call of the application and where its answer goes.
pub(super) enum Call {
    CreateAddress(Tag, Box<ServerAddress>, Reply<ContactLink>),
    CreateInvitation(
        Tag,
        Box<ServerAddress>,
        Vec<u8>,
        Reply<(ConnectionId, InvitationLink)>,
    ),
    Join(
        Tag,
        Box<Link>,
        Box<ServerAddress>,
        Vec<u8>,
        Reply<ConnectionId>,
    ),
    Accept(RequestId, Box<ServerAddress>, Vec<u8>, Reply<ConnectionId>),
    Reject(RequestId, Reply<()>),
    Send(ConnectionId, Vec<u8>, Reply<MessageId>),
    Acknowledge(ConnectionId, MessageId, Reply<()>),
    Delete(ConnectionId, Reply<()>),
    CloseAddress(Tag, Reply<()>),
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, AgentError>>;

impl Agent {
    /// Opens the profile's store and starts the agent. First the events that the application may
    /// not have recorded come again (see [`Event`]).
    ///
    /// # Errors
    /// [`AgentError::Store`] if the store cannot be opened.
    pub async fn open(config: AgentConfig) -> Result<(Self, Events), AgentError> {
        let _ = config;
        Err(AgentError::Defect("the agent's core is not linked yet"))
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
        let relay = Box::new(relay.clone());
        self.call(|reply| Call::CreateAddress(tag, relay, reply))
            .await
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
        let relay = Box::new(relay.clone());
        self.call(|reply| Call::CreateInvitation(tag, relay, info.to_vec(), reply))
            .await
    }

    /// Connects through a link, receiving on `relay`. Returns at once; [`Event::Connected`] follows
    /// when the peer has answered. With a tag that has a connection, gives that connection.
    ///
    /// # Errors
    /// [`AgentError::Link`] if the link speaks no version of ours.
    pub async fn join(
        &self,
        tag: Tag,
        link: &Link,
        relay: &ServerAddress,
        info: &[u8],
    ) -> Result<ConnectionId, AgentError> {
        let (link, relay) = (Box::new(link.clone()), Box::new(relay.clone()));
        self.call(|reply| Call::Join(tag, link, relay, info.to_vec(), reply))
            .await
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
        let relay = Box::new(relay.clone());
        self.call(|reply| Call::Accept(request, relay, info.to_vec(), reply))
            .await
    }

    /// Forgets a request. The requester is not told. Rejecting again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn reject(&self, request: RequestId) -> Result<(), AgentError> {
        self.call(|reply| Call::Reject(request, reply)).await
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
        self.call(|reply| Call::Send(connection, body.to_vec(), reply))
            .await
    }

    /// Says that the application has a message durably: it will not come again, and the sender is
    /// told. Acknowledging again does nothing.
    ///
    /// # Errors
    /// [`Misuse::NoConnection`](crate::Misuse::NoConnection).
    pub async fn ack(
        &self,
        connection: ConnectionId,
        message: MessageId,
    ) -> Result<(), AgentError> {
        self.call(|reply| Call::Acknowledge(connection, message, reply))
            .await
    }

    /// Ends a connection: undelivered messages are dropped, the queue is deleted from its relay.
    /// Deleting again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn delete(&self, connection: ConnectionId) -> Result<(), AgentError> {
        self.call(|reply| Call::Delete(connection, reply)).await
    }

    /// Closes an address: its queue is deleted from its relay, pending requests are forgotten,
    /// connections made through it stay. Closing again does nothing.
    ///
    /// # Errors
    /// [`AgentError::Store`].
    pub async fn close_address(&self, tag: Tag) -> Result<(), AgentError> {
        self.call(|reply| Call::CloseAddress(tag, reply)).await
    }

    async fn call<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T, AgentError> {
        let (reply, answer) = oneshot::channel();
        self.calls
            .send(call(reply))
            .await
            .map_err(|_| AgentError::Closed)?;
        answer.await.map_err(|_| AgentError::Closed)?
    }
}

impl Events {
    /// The next event; `None` when the agent has stopped. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}
