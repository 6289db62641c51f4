//! Answers matched with their requests, and events.

use std::collections::BTreeMap;

use super::Request;
use crate::{
    block::{Batch, SessionId},
    command::Command,
    error::ErrorCode,
    id::{CorrelationId, Entity, ID_BYTES, MessageId, NotifierId, RecipientId},
    notification::NotificationNonce,
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
}

/// A request that waits for its answer.
pub(super) struct Pending<T> {
    expected: Expected,
    /// The queue it is about.
    entity: Option<[u8; ID_BYTES]>,
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
            // The answer to NEW need not name the queue, PONG must not.
            (Response::Ids(_), Expected::Ids) | (Response::Pong, Expected::Pong) => {
                return Ok(response);
            }
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
        | Response::Error(_) => Event::Fault,
    }
}
