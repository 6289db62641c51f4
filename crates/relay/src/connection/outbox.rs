//! What a connection has to say and has not sent yet.
//!
//! Replies wait here as values. They are encoded and encrypted only when the socket takes them, so
//! a waiting message costs a shared handle, not 16 KiB, and one block for each thread is enough.

use core::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use junto_smp::block::{Block, BlockFull, OutgoingBlock};
use junto_smp::error::ErrorCode;
use junto_smp::id::{CorrelationId, Entity, ID_BYTES};
use junto_smp::proxy::Introduction;
use junto_smp::queue::{Alert, Answer, Content, Delivery, Event};
use junto_smp::response::{QueueIds, Response};
use junto_smp::server::{Back, Refusal, ReplyWriter};
use junto_smp::service::ServiceQueues;

use super::mailbox::Happened;
use crate::store::{Body, Position};

/// Replies from which on a connection reads and takes no more. One received block adds at most 255
/// answers, each with one event.
pub(crate) const REPLIES_MAX: usize = 64;

/// Replies that an idle connection keeps room for, so that the usual one or two need no allocation.
const IDLE_REPLIES: usize = 4;

/// An entity that outlives the block it came in.
pub(crate) enum Whose {
    None,
    Queue([u8; ID_BYTES]),
    Other(Box<[u8]>),
}

impl From<Entity<'_>> for Whose {
    fn from(entity: Entity<'_>) -> Self {
        match entity {
            Entity::None => Self::None,
            Entity::Queue(id) => Self::Queue(*id),
            Entity::Other(bytes) => Self::Other(bytes.into()),
        }
    }
}

impl Whose {
    fn entity(&self) -> Entity<'_> {
        match self {
            Self::None => Entity::None,
            Self::Queue(id) => Entity::Queue(id),
            Self::Other(bytes) => Entity::Other(bytes),
        }
    }
}

/// What a reply says.
pub(crate) enum What {
    Answer(Answer<Body>),
    /// A message behind the answer to `SUB`.
    Delivery(Delivery<Body>),
    /// A notification behind the answer to `NSUB`.
    Alert(Alert),
    Event(Happened),
    Ids(Box<QueueIds>),
    Pong,
    Refused(ErrorCode),
    /// The proxy is connected to a destination. This names the link and does not keep it.
    ProxyKey(Arc<Introduction>),
    /// What a destination answered, for its sender.
    ProxyAnswer(Box<[u8]>),
    /// A service reads from these queues.
    ServiceSubscribed(ServiceQueues),
    /// It has got everything that waited.
    AllDelivered,
    /// The answer to a command that came through a proxy, and the way back.
    Through(Box<(Back, What)>),
}

impl What {
    /// As the answer to a command of a sender, which is all that comes through a proxy.
    fn to_sender(&self) -> Response<'_> {
        match self {
            Self::Answer(Answer::Ok) => Response::Ok,
            Self::Answer(Answer::Error(code)) | Self::Refused(code) => Response::Error(*code),
            Self::Answer(Answer::Link(copy)) => Response::Link(copy.data()),
            Self::Answer(
                Answer::Subscribed(_)
                | Answer::Message(_)
                | Answer::Info(_)
                | Answer::NotifierIds(_),
            )
            | Self::Delivery(_)
            | Self::Alert(_)
            | Self::Event(_)
            | Self::Ids(_)
            | Self::Pong
            | Self::ProxyKey(_)
            | Self::ProxyAnswer(_)
            | Self::ServiceSubscribed(_)
            | Self::AllDelivered
            | Self::Through(_) => Response::Error(ErrorCode::Internal),
        }
    }

    /// Of the message or link data in it.
    fn bytes(&self) -> usize {
        match self {
            Self::Answer(Answer::Message(delivery))
            | Self::Delivery(delivery)
            | Self::Event(Happened::Queue(Event::Message(delivery))) => {
                match &delivery.message.content {
                    Content::Body { body, .. } => body.as_ref().len(),
                    Content::QuotaReached => 0,
                }
            }
            Self::Answer(Answer::Link(copy)) => {
                let blobs = copy.link.blobs();
                blobs.fixed().len() + blobs.user().len()
            }
            Self::ProxyAnswer(sealed) => sealed.len(),
            Self::Through(through) => through.1.bytes(),
            _ => 0,
        }
    }
}

/// One reply.
pub(crate) struct Reply {
    /// None for events.
    pub(crate) correlation: Option<CorrelationId>,
    pub(crate) whose: Whose,
    pub(crate) what: What,
    /// What must be durable before the client may know.
    pub(crate) position: Position,
}

impl Reply {
    pub(crate) fn refusal(refusal: &Refusal<'_>) -> Self {
        Self {
            correlation: refusal.correlation,
            whose: refusal.entity.into(),
            what: What::Refused(refusal.code),
            position: Position::default(),
        }
    }

    fn push(&self, writer: &ReplyWriter, block: &mut OutgoingBlock) -> Result<(), BlockFull> {
        let entity = self.whose.entity();
        let correlation = self.correlation.as_ref();
        let mut say = |response| writer.push(block, correlation, entity, &response);
        match (&self.what, correlation) {
            (What::Answer(answer), Some(correlation)) => {
                writer.push_answer(block, correlation, entity, answer)
            }
            (What::Answer(_), None) => Ok(()), // Answers have one.
            (What::Delivery(delivery), _) => writer.push_delivery(block, None, delivery),
            (What::Alert(alert), _) => writer.push_alert(block, alert),
            (What::Event(Happened::Queue(event)), _) => writer.push_event(block, entity, event),
            (What::Event(Happened::Notifier(news)), _) => writer.push_notifier_news(block, news),
            (What::Event(Happened::ServiceEnd(queues)), _) => say(Response::ServiceEnd(*queues)),
            (What::ServiceSubscribed(queues), _) => say(Response::ServiceSubscribed(*queues)),
            (What::AllDelivered, _) => say(Response::AllDelivered),
            (What::Ids(ids), _) => say(Response::Ids(**ids)),
            (What::Pong, _) => say(Response::Pong),
            (What::Refused(code), _) => say(Response::Error(*code)),
            (What::ProxyKey(introduction), _) => say(Response::ProxyKey(introduction.answer())),
            (What::ProxyAnswer(sealed), _) => say(Response::ProxyAnswer(sealed)),
            (What::Through(through), correlation) => {
                let (back, what) = &**through;
                writer.push_forwarded(block, back, correlation, entity, &what.to_sender())
            }
        }
    }
}

/// Replies in the order in which they go out.
#[derive(Default)]
pub(crate) struct Outbox {
    replies: VecDeque<Reply>,
    /// Of all messages in them.
    bytes: usize,
}

thread_local! {
    /// The block that this thread fills, seals and hands to TLS in one go.
    static BLOCK: RefCell<OutgoingBlock> = RefCell::new(OutgoingBlock::new());
}

impl Outbox {
    pub(crate) fn push(&mut self, reply: Reply) {
        self.bytes += reply.what.bytes();
        self.replies.push_back(reply);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Bytes of messages that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replies that wait.
    pub(crate) fn len(&self) -> usize {
        self.replies.len()
    }

    /// Sends the reply at `index`, the last one, back through the proxy that its command came from.
    pub(crate) fn answer_through(&mut self, index: usize, back: Back) {
        if let Some(reply) = self.replies.get_mut(index) {
            let what = core::mem::replace(&mut reply.what, What::Pong);
            reply.what = What::Through(Box::new((back, what)));
        }
    }

    /// How many more replies are welcome.
    pub(crate) fn room(&self) -> usize {
        REPLIES_MAX.saturating_sub(self.replies.len())
    }

    /// What the first reply rests on.
    pub(crate) fn first_position(&self) -> Option<Position> {
        self.replies.front().map(|reply| reply.position)
    }

    /// Packs as many replies as fit, and rest on nothing behind `durable`, into one sealed block
    /// and hands it to `send`. Gives the number of replies; with none, `send` is not called.
    pub(crate) fn pack<R>(
        &mut self,
        writer: &mut ReplyWriter,
        durable: Position,
        send: impl FnOnce(&Block) -> R,
    ) -> Option<(usize, R)> {
        BLOCK.with_borrow_mut(|block| {
            let mut count = 0;
            while let Some(reply) = self.replies.front()
                && reply.position <= durable
                // A reply that does not even fit into an empty block does not exist.
                && (reply.push(writer, block).is_ok() || block.is_empty())
            {
                self.bytes -= reply.what.bytes();
                self.replies.pop_front();
                count += 1;
            }
            if self.replies.is_empty() {
                self.replies.shrink_to(IDLE_REPLIES);
            }
            writer.seal(block).map(|block| (count, send(block)))
        })
    }
}
