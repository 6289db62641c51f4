//! The core's commands and answers in the words of SMP.

use bytes::Bytes;
use junto_smp::{
    client::{Event, ReplyFault, Request},
    command::{Command, NewMode, NewQueue, QueueMode},
    error::ErrorCode,
    id::{CorrelationId, Entity, RecipientId},
    link::{LinkBlobs, LinkData},
    message::MessageFlags,
    response::Response,
};

use super::proxy::{ProxyTrouble, is_overload};
use super::{ClientError, Notice, Password, ProtocolFault};
use crate::proto::{Answer, LinkBytes, LinkParts, NewLink, Operation, Refusal, RelayNotice, Token};

/// Comes back with an answer.
pub(super) enum Ticket {
    /// A question of our own: whether the relay is there, or the way through it.
    Own,
    /// A command of the core.
    Command {
        /// Names it.
        token: Token,
        /// The queue, if a message may be the answer.
        queue: Option<RecipientId>,
    },
}

impl Ticket {
    pub(super) fn new(token: Token, operation: &Operation) -> Self {
        let queue = match operation {
            Operation::Acknowledge { queue, .. } => Some(*queue),
            _ => None,
        };
        Self::Command { token, queue }
    }
}

/// The request that asks whether the relay is there.
pub(super) const PING: Request<'static> = Request {
    entity: Entity::None,
    key: None,
    command: Command::Ping,
};

/// The request for a command of the core; the password is for creating queues.
pub(super) fn request<'a>(operation: &'a Operation, password: Option<&'a Password>) -> Request<'a> {
    match operation {
        Operation::Create {
            auth,
            delivery_key,
            mode,
            link,
        } => Request {
            entity: Entity::None,
            key: Some(auth),
            command: Command::New(Box::new(NewQueue {
                auth_key: auth.public_key(),
                dh_key: *delivery_key,
                password: password.map(Password::as_bytes),
                subscribe: true,
                mode: new_mode(*mode, link.as_deref()),
                notifier: None,
            })),
        },
        Operation::Subscribe { queue, auth } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::Sub,
        },
        Operation::Secure { queue, auth } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::SenderKey(auth.public_key()),
        },
        Operation::ReadLink { link } => Request {
            entity: Entity::Queue(link.as_bytes()),
            key: None,
            command: Command::ReadLink,
        },
        Operation::SecureByLink { link, auth } => Request {
            entity: Entity::Queue(link.as_bytes()),
            key: Some(auth),
            command: Command::LinkKey(auth.public_key()),
        },
        Operation::SetLink {
            queue,
            auth,
            link,
            parts,
        } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::SetLink {
                link: *link,
                blobs: blobs(parts),
            },
        },
        Operation::Allow { queue, auth, key } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::Key((**key).clone()),
        },
        Operation::Send { queue, auth, body } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: auth.as_deref(),
            command: Command::Send {
                flags: MessageFlags { notify: true },
                body,
            },
        },
        Operation::Acknowledge {
            queue,
            auth,
            message,
        } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::Ack(Some(*message)),
        },
        Operation::Suspend { queue, auth } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::Off,
        },
        Operation::Delete { queue, auth } => Request {
            entity: Entity::Queue(queue.as_bytes()),
            key: Some(auth),
            command: Command::Delete,
        },
    }
}

/// The name of a request that is to have a certain one.
pub(super) fn correlation(operation: &Operation) -> Option<CorrelationId> {
    match operation {
        Operation::Create {
            link: Some(link), ..
        } => Some(link.correlation),
        _ => None,
    }
}

/// The core seals link data to just the size that a relay takes.
fn blobs(parts: &LinkParts) -> LinkBlobs<'_> {
    LinkBlobs::new(&parts.fixed, &parts.user).unwrap_or_default()
}

fn new_mode(mode: QueueMode, link: Option<&NewLink>) -> NewMode<'_> {
    let data = link.map(|link| LinkData {
        sender: link.correlation.derived_sender_id(),
        blobs: blobs(&link.parts),
    });
    match mode {
        QueueMode::Messaging => NewMode::Messaging(data),
        QueueMode::Contact => NewMode::Contact(link.and_then(|link| link.id).zip(data)),
    }
}

/// The notices for an answer: one, and another for a message that came as answer to `ACK`.
pub(super) fn answered(
    ticket: Ticket,
    result: Result<Response<'_>, ReplyFault>,
    mut notify: impl FnMut(Notice),
) -> Result<(), ClientError> {
    let Ticket::Command { token, queue } = ticket else {
        return match result {
            Err(ReplyFault::Unexpected) => Err(ProtocolFault::Answer.into()),
            // Any answer shows that the relay is there.
            Ok(_) | Err(ReplyFault::Refused(_) | ReplyFault::Proxy(_)) => Ok(()),
        };
    };
    let mut message = None;
    let answer = match result {
        Ok(Response::Ids(ids)) => Answer::Created {
            recipient_id: ids.recipient,
            sender_id: ids.sender,
            relay_key: ids.server_dh_key,
            link: ids.link,
        },
        Ok(Response::Link(data)) => {
            Answer::Link(Box::new(LinkBytes::new(data.sender, &data.blobs)))
        }
        Ok(Response::Message { id, sealed }) => {
            message = queue.map(|queue| RelayNotice::Message {
                queue,
                message: id,
                sealed: Bytes::copy_from_slice(sealed),
            });
            Answer::Done
        }
        Ok(Response::Ok | Response::Subscribed(_)) => Answer::Done,
        Ok(_) | Err(ReplyFault::Unexpected) => return Err(ProtocolFault::Answer.into()),
        Err(ReplyFault::Proxy(code)) if is_overload(code) => Answer::Refused(Refusal::Busy),
        Err(ReplyFault::Proxy(code)) => return Err(ProxyTrouble::of(code).into()),
        Err(ReplyFault::Refused(code)) => Answer::Refused(refusal(code)),
    };
    // The message first: with the answer the core knows whether there was one.
    if let Some(message) = message {
        notify(Notice::Relay(message));
    }
    notify(Notice::Answer { token, answer });
    Ok(())
}

fn refusal(code: ErrorCode) -> Refusal {
    match code {
        ErrorCode::Auth => Refusal::Auth,
        ErrorCode::Quota => Refusal::Quota,
        ErrorCode::NoMessage => Refusal::NoMessage,
        _ => Refusal::Other,
    }
}

/// The notice for an event.
pub(super) fn told(event: Event<'_>) -> Result<Notice, ClientError> {
    Ok(Notice::Relay(match event {
        Event::Message { queue, id, sealed } => RelayNotice::Message {
            queue,
            message: id,
            sealed: Bytes::copy_from_slice(sealed),
        },
        Event::End(queue) => RelayNotice::Ended { queue },
        Event::Deleted(queue) => RelayNotice::Deleted { queue },
        // We are no notification server and no service.
        Event::Notification { .. } | Event::AllDelivered | Event::ServiceEnd(_) | Event::Fault => {
            return Err(ProtocolFault::Answer.into());
        }
    }))
}
