//! Answers matched with their requests, and events.

use std::collections::{BTreeMap, btree_map::Entry};

use junto_crypto::secretbox::BoxKey;

use super::Request;
use crate::{
    block::{Batch, SessionId},
    command::Command,
    encoding::Reader,
    error::ErrorCode,
    id::{CorrelationId, Entity, ID_BYTES, MessageId, NotifierId, RecipientId},
    notification::NotificationNonce,
    proxy::{open_box, single},
    response::Response,
    service::ServiceQueues,
    transmission::Transmission,
    version::Version,
};

/// Which answers fit a command, besides `ERR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Ids,
    Subscribed,
    Ok,
    OkOrMessage,
    Info,
    Link,
    NotifierIds,
    ServiceSubscribed,
    Name,
    Pong,
    ProxyKey,
    ProxyAnswer,
    RelayAnswer,
}

/// What opens an answer that comes in a box of its own.
pub(super) enum Opener {
    /// `PRES`: the answer of a destination to a command of ours.
    Destination {
        /// Between the destination and us.
        key: BoxKey,
        /// Of the command.
        version: Version,
        /// Of proxy and destination.
        session: SessionId,
    },
    /// `RRES`: the answer to a command that we, a proxy, have passed on.
    Relay {
        /// Of the command, from its sender.
        correlation: CorrelationId,
    },
}

/// A request that waits for its answer.
pub(super) struct Pending<T> {
    expected: Expected,
    /// The queue it is about.
    entity: Option<[u8; ID_BYTES]>,
    opener: Option<Box<Opener>>,
    pub(super) ticket: T,
}

impl<T> Pending<T> {
    pub(super) fn new(request: &Request<'_>, ticket: T) -> Self {
        Self {
            expected: match &request.command {
                Command::New(_) => Expected::Ids,
                Command::Sub | Command::NotifierSub => Expected::Subscribed,
                Command::Ack(_) | Command::Get => Expected::OkOrMessage,
                Command::Info => Expected::Info,
                Command::Ping => Expected::Pong,
                Command::Proxy(_) => Expected::ProxyKey,
                Command::ProxyForward(_) => Expected::ProxyAnswer,
                Command::RelayForward(_) => Expected::RelayAnswer,
                Command::Key(_)
                | Command::SenderKey(_)
                | Command::Send { .. }
                | Command::Off
                | Command::Delete
                | Command::RecipientKeys(_)
                | Command::SetLink { .. }
                | Command::DeleteLink
                | Command::DeleteNotifier => Expected::Ok,
                Command::LinkKey(_) | Command::ReadLink => Expected::Link,
                Command::SetNotifier { .. } => Expected::NotifierIds,
                Command::ServiceSub(_) | Command::NotifierServiceSub(_) => {
                    Expected::ServiceSubscribed
                }
                Command::Resolve(_) => Expected::Name,
            },
            entity: match request.entity {
                Entity::Queue(id) => Some(*id),
                Entity::None | Entity::Other(_) => None,
            },
            opener: None,
            ticket,
        }
    }

    /// A request whose answer `opener` opens.
    pub(super) fn sealed(request: &Request<'_>, opener: Opener, ticket: T) -> Self {
        Self {
            opener: Some(Box::new(opener)),
            ..Self::new(request, ticket)
        }
    }

    /// A command of somebody else, that we pass on.
    pub(super) fn relayed(opener: Opener, ticket: T) -> Self {
        Self {
            expected: Expected::RelayAnswer,
            entity: None,
            opener: Some(Box::new(opener)),
            ticket,
        }
    }

    /// The response, if it answers this request.
    fn check<'b>(
        &self,
        response: Response<'b>,
        entity: Entity<'_>,
    ) -> Result<Response<'b>, ReplyFault> {
        let fits = match (&response, self.expected) {
            (Response::Error(code), _) => return Err(ReplyFault::Refused(*code)),
            // The answer to NEW need not name the queue, the others are about none.
            (Response::Ids(_), Expected::Ids)
            | (Response::Pong, Expected::Pong)
            | (Response::ProxyKey(_), Expected::ProxyKey)
            | (Response::ProxyAnswer(_), Expected::ProxyAnswer)
            | (Response::RelayAnswer(_), Expected::RelayAnswer) => return Ok(response),
            (Response::Subscribed(_) | Response::Ok, Expected::Subscribed)
            | (Response::Ok, Expected::Ok | Expected::OkOrMessage)
            | (Response::Message { .. }, Expected::OkOrMessage)
            | (Response::Info(_), Expected::Info)
            | (Response::Link(_), Expected::Link)
            | (Response::NotifierIds(_), Expected::NotifierIds)
            | (Response::ServiceSubscribed(_), Expected::ServiceSubscribed) => true,
            _ => false,
        };
        let same = matches!((entity, &self.entity), (Entity::Queue(a), Some(b)) if a == b);
        if fits && same {
            Ok(response)
        } else {
            Err(ReplyFault::Unexpected)
        }
    }
}

/// Why a request has no proper answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// The server answered with an error.
    #[error("server refused: {0:?}")]
    Refused(ErrorCode),
    /// The proxy answered with an error. About the destination's queue this proves nothing.
    #[error("proxy refused: {0:?}")]
    Proxy(ErrorCode),
    /// The answer does not parse, is of the wrong kind or about another queue: the server is at
    /// fault.
    #[error("unexpected answer")]
    Unexpected,
}

/// News that no request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// A message in a queue.
    Message {
        /// The queue.
        queue: RecipientId,
        /// Its id, for `ACK`.
        id: MessageId,
        /// For [`crate::message::DeliveryKey::open`].
        sealed: &'b [u8],
    },
    /// A message came to a queue whose notifier we are.
    Notification {
        /// The queue, by the notification server's name for it.
        notifier: NotifierId,
        /// Nonce of the box.
        nonce: NotificationNonce,
        /// The box, for the recipient: see [`crate::notification::NotificationKey::open`].
        sealed: &'b [u8],
    },
    /// Another connection has subscribed to this queue. To a notification server its notifier id.
    End(RecipientId),
    /// This queue (or, to a notification server, this notifier) was deleted.
    Deleted(RecipientId),
    /// The messages that waited in the queues of our service have been delivered.
    AllDelivered,
    /// Another connection has subscribed to the queues of our service.
    ServiceEnd(ServiceQueues),
    /// The server could not read a block or transmission of ours, or broke the protocol itself.
    /// Requests may stay without answers: close the connection.
    Fault,
}

/// Something received.
#[derive(Debug)]
pub enum Incoming<'b, T> {
    /// The answer to a request.
    Reply {
        /// As given with the request.
        ticket: T,
        /// The answer.
        result: Result<Response<'b>, ReplyFault>,
    },
    /// An event.
    Event(Event<'b>),
    /// An answer to nothing that we asked: not a fault, but nothing to act on.
    Stray,
}

/// The content of a received block.
pub struct Replies<'c, 'b, T> {
    pub(super) batch: Batch<'b>,
    pub(super) version: Version,
    pub(super) session: SessionId,
    pub(super) relay_key: Option<&'c BoxKey>,
    pub(super) pending: &'c mut BTreeMap<CorrelationId, Pending<T>>,
}

impl<'b, T> Iterator for Replies<'_, 'b, T> {
    type Item = Incoming<'b, T>;

    fn next(&mut self) -> Option<Incoming<'b, T>> {
        let bytes = self.batch.next()?;
        Some(self.incoming(bytes))
    }
}

impl<'b, T> Replies<'_, 'b, T> {
    fn incoming(&mut self, bytes: &'b mut [u8]) -> Incoming<'b, T> {
        if let Some((correlation, start)) = head(bytes)
            && let Entry::Occupied(entry) = self.pending.entry(correlation)
            && entry.get().opener.is_some()
        {
            let pending = entry.remove();
            let result = self.open(&pending, correlation, &mut bytes[start..]);
            let ticket = pending.ticket;
            return Incoming::Reply { ticket, result };
        }
        let Ok(transmission) = Transmission::decode(bytes, self.version, &self.session) else {
            return Incoming::Event(Event::Fault);
        };
        let entity = transmission.entity;
        let response = Response::decode(transmission.content, self.version)
            .and_then(|response| response.check_entity(entity).map(|()| response));
        let pending = transmission
            .correlation
            .map(|correlation| self.pending.remove(&correlation));
        match (pending, response) {
            (Some(Some(pending)), response) => Incoming::Reply {
                result: response
                    .map_err(|_| ReplyFault::Unexpected)
                    .and_then(|response| pending.check(response, entity)),
                ticket: pending.ticket,
            },
            (Some(None), _) => Incoming::Stray,
            (None, Ok(response)) => Incoming::Event(event(response, entity)),
            (None, Err(_)) => Incoming::Event(Event::Fault),
        }
    }
}

impl<'b, T> Replies<'_, 'b, T> {
    /// The answer in the box that `content` holds.
    fn open(
        &self,
        pending: &Pending<T>,
        correlation: CorrelationId,
        content: &'b mut [u8],
    ) -> Result<Response<'b>, ReplyFault> {
        let unexpected = |_| ReplyFault::Unexpected;
        let nonce = correlation.nonce().reversed();
        let word = content.first_chunk().copied();
        match (word.as_ref(), pending.opener.as_deref(), self.relay_key) {
            (
                Some(b"PRES "),
                Some(Opener::Destination {
                    key,
                    version,
                    session,
                }),
                _,
            ) => {
                let text =
                    open_box(key, &nonce, &mut content[5..]).map_err(|_| ReplyFault::Unexpected)?;
                let bytes = single(text).map_err(|_| ReplyFault::Unexpected)?;
                let answer = Transmission::decode(bytes, *version, session)
                    .map_err(|_| ReplyFault::Unexpected)?;
                let response = Response::decode(answer.content, *version).map_err(unexpected)?;
                response.check_entity(answer.entity).map_err(unexpected)?;
                pending.check(response, answer.entity)
            }
            (Some(b"RRES "), Some(Opener::Relay { correlation }), Some(key)) => {
                let text =
                    open_box(key, &nonce, &mut content[5..]).map_err(|_| ReplyFault::Unexpected)?;
                let mut reader = Reader::new(text);
                match CorrelationId::decode(&mut reader) {
                    Ok(id) if id == *correlation => Ok(Response::ProxyAnswer(reader.tail())),
                    _ => Err(ReplyFault::Unexpected),
                }
            }
            (_, opener, _) => match Response::decode(content, self.version) {
                Ok(Response::Error(code)) => Err(match opener {
                    Some(Opener::Destination { .. }) => ReplyFault::Proxy(code),
                    Some(Opener::Relay { .. }) | None => ReplyFault::Refused(code),
                }),
                _ => Err(ReplyFault::Unexpected),
            },
        }
    }
}

/// Whom an answer is for, and where its content begins.
fn head(bytes: &[u8]) -> Option<(CorrelationId, usize)> {
    let mut reader = Reader::new(bytes);
    // Answers carry no authorisation.
    reader.expect(0, "authorisation").ok()?;
    let correlation = CorrelationId::decode(&mut reader).ok()?;
    reader.short().ok()?;
    Some((correlation, bytes.len() - reader.rest().len()))
}

fn event<'b>(response: Response<'b>, entity: Entity<'_>) -> Event<'b> {
    if response == Response::AllDelivered {
        return Event::AllDelivered;
    }
    let Entity::Queue(queue) = entity else {
        return Event::Fault;
    };
    let queue = RecipientId(*queue);
    match response {
        Response::Message { id, sealed } => Event::Message { queue, id, sealed },
        Response::End => Event::End(queue),
        Response::Deleted => Event::Deleted(queue),
        Response::Notification { nonce, sealed } => Event::Notification {
            notifier: NotifierId(queue.0),
            nonce,
            sealed,
        },
        Response::ServiceEnd(queues) => Event::ServiceEnd(queues),
        Response::Ids(_)
        | Response::Subscribed(_)
        | Response::Ok
        | Response::Info(_)
        | Response::Link(_)
        | Response::NotifierIds(_)
        | Response::ServiceSubscribed(_)
        | Response::AllDelivered
        | Response::Pong
        | Response::ProxyKey(_)
        | Response::ProxyAnswer(_)
        | Response::RelayAnswer(_)
        | Response::Error(_) => Event::Fault,
    }
}
