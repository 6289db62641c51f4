//! What a machine asks of relays and hears from them, in the words of the queue protocol: as the shell of
//! `junto-agent` puts it.

use bytes::Bytes;
use junto_agent::proto::{
    Answer, Instant, LinkBytes, LinkParts, Machine, Operation, Output, Refusal, RelayId,
    RelayNotice, Token,
};
use junto_smp::{
    client::{self, Incoming, ReplyFault, Request},
    command::{Command as Smp, NewMode, NewQueue, QueueMode},
    error::ErrorCode,
    id::{Entity, RecipientId},
    link::{LinkBlobs, LinkData},
    message::MessageFlags,
    response::Response,
};
use rand_chacha::ChaCha8Rng;

/// A command under way: its name, and the queue that a message in the answer belongs to.
pub(crate) struct Asked {
    pub(crate) token: Token,
    pub(crate) queue: Option<RecipientId>,
}

/// A relay says what no relay says that keeps the protocol: its connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

pub(crate) fn is_acknowledgement(output: &Output) -> bool {
    matches!(
        output,
        Output::Command {
            operation: Operation::Acknowledge { .. },
            ..
        }
    )
}

fn blobs(parts: &LinkParts) -> LinkBlobs<'_> {
    LinkBlobs::new(&parts.fixed, &parts.user).unwrap_or_default()
}

/// The command of the queue protocol for an operation.
pub(crate) fn with_request<T>(operation: &Operation, push: impl FnOnce(&Request<'_>) -> T) -> T {
    let request = |entity, key, command| Request {
        entity,
        key,
        command,
    };
    match operation {
        Operation::Create {
            auth,
            delivery_key,
            mode,
            link,
        } => {
            let data = link.as_ref().map(|link| LinkData {
                sender: link.correlation.derived_sender_id(),
                blobs: blobs(&link.parts),
            });
            let id = link.as_ref().and_then(|link| link.id);
            let new = NewQueue {
                auth_key: auth.public_key(),
                dh_key: *delivery_key,
                password: None,
                subscribe: true,
                mode: match mode {
                    QueueMode::Messaging => NewMode::Messaging(data),
                    QueueMode::Contact => NewMode::Contact(id.zip(data)),
                },
                notifier: None,
            };
            push(&request(Entity::None, Some(auth), Smp::New(Box::new(new))))
        }
        Operation::Subscribe { queue, auth } => {
            push(&request(Entity::Queue(&queue.0), Some(auth), Smp::Sub))
        }
        Operation::Secure { queue, auth } => {
            let command = Smp::SenderKey(auth.public_key());
            push(&request(Entity::Queue(&queue.0), Some(auth), command))
        }
        Operation::Allow { queue, auth, key } => {
            let command = Smp::Key((**key).clone());
            push(&request(Entity::Queue(&queue.0), Some(auth), command))
        }
        Operation::ReadLink { link } => push(&request(Entity::Queue(&link.0), None, Smp::ReadLink)),
        Operation::SecureByLink { link, auth } => {
            let command = Smp::LinkKey(auth.public_key());
            push(&request(Entity::Queue(&link.0), Some(auth), command))
        }
        Operation::SetLink {
            queue,
            auth,
            link,
            parts,
        } => {
            let command = Smp::SetLink {
                link: *link,
                blobs: blobs(parts),
            };
            push(&request(Entity::Queue(&queue.0), Some(auth), command))
        }
        Operation::Send { queue, auth, body } => {
            let command = Smp::Send {
                flags: MessageFlags { notify: true },
                body,
            };
            push(&request(Entity::Queue(&queue.0), auth.as_deref(), command))
        }
        Operation::Acknowledge {
            queue,
            auth,
            message,
        } => push(&request(
            Entity::Queue(&queue.0),
            Some(auth),
            Smp::Ack(Some(*message)),
        )),
        Operation::Suspend { queue, auth } => {
            push(&request(Entity::Queue(&queue.0), Some(auth), Smp::Off))
        }
        Operation::Delete { queue, auth } => {
            push(&request(Entity::Queue(&queue.0), Some(auth), Smp::Delete))
        }
    }
}

/// What a block says to a machine.
pub(crate) struct Heard {
    answer: Option<(Token, Answer)>,
    notice: Option<RelayNotice>,
}

impl Heard {
    pub(crate) fn new(incoming: Incoming<'_, Asked>) -> Result<Self, Unfit> {
        Ok(match incoming {
            Incoming::Reply {
                ticket: Asked { token, queue },
                result,
            } => {
                let (answer, notice) = answer(result, queue)?;
                Self {
                    answer: Some((token, answer)),
                    notice,
                }
            }
            Incoming::Event(event) => Self {
                answer: None,
                notice: Some(notice(&event)?),
            },
            Incoming::Stray => return Err(Unfit),
        })
    }

    /// Whether it says that a queue is gone.
    pub(crate) fn buries(&self) -> bool {
        let is_refused = matches!(self.answer, Some((_, Answer::Refused(Refusal::Auth))));
        is_refused || matches!(self.notice, Some(RelayNotice::Deleted { .. }))
    }

    pub(crate) fn tell(
        self,
        machine: &mut Machine,
        now: Instant,
        relay: RelayId,
        rng: &mut ChaCha8Rng,
    ) {
        if let Some(notice) = self.notice {
            machine.handle_notice(now, relay, notice, rng);
        }
        if let Some((token, answer)) = self.answer {
            machine.handle_answer(now, token, answer, rng);
        }
    }
}

fn message(queue: RecipientId, message: junto_smp::id::MessageId, sealed: &[u8]) -> RelayNotice {
    RelayNotice::Message {
        queue,
        message,
        sealed: Bytes::copy_from_slice(sealed),
    }
}

fn answer(
    result: Result<Response<'_>, ReplyFault>,
    queue: Option<RecipientId>,
) -> Result<(Answer, Option<RelayNotice>), Unfit> {
    Ok(match (result, queue) {
        (Ok(Response::Ids(ids)), _) => {
            let created = Answer::Created {
                recipient_id: ids.recipient,
                sender_id: ids.sender,
                relay_key: ids.server_dh_key,
                link: ids.link,
            };
            (created, None)
        }
        (Ok(Response::Message { id, sealed }), Some(queue)) => {
            (Answer::Done, Some(message(queue, id, sealed)))
        }
        (Ok(Response::Link(data)), _) => {
            let data = LinkBytes::new(data.sender, &data.blobs);
            (Answer::Link(Box::new(data)), None)
        }
        (Ok(_), _) => (Answer::Done, None),
        (Err(ReplyFault::Refused(code)), _) => {
            let refusal = match code {
                ErrorCode::Auth => Refusal::Auth,
                ErrorCode::Quota => Refusal::Quota,
                ErrorCode::NoMessage => Refusal::NoMessage,
                _ => Refusal::Other,
            };
            (Answer::Refused(refusal), None)
        }
        (Err(ReplyFault::Unexpected | ReplyFault::Proxy(_)), _) => return Err(Unfit),
    })
}

fn notice(event: &client::Event<'_>) -> Result<RelayNotice, Unfit> {
    Ok(match event {
        client::Event::Message { queue, id, sealed } => message(*queue, *id, sealed),
        client::Event::End(queue) => RelayNotice::Ended { queue: *queue },
        client::Event::Deleted(queue) => RelayNotice::Deleted { queue: *queue },
        client::Event::Fault
        | client::Event::Notification { .. }
        | client::Event::AllDelivered
        | client::Event::ServiceEnd(_) => return Err(Unfit),
    })
}
