//! Answers and events on their way to a client.

use junto_crypto::secretbox::BoxKey;

use crate::{
    block::{Block, BlockFull, OutgoingBlock, Protection},
    encoding::Writer,
    id::{CorrelationId, Entity},
    queue::{Alert, Answer, Delivery, Event, NotifierEvent, NotifierNews},
    response::Response,
    server::Refusal,
    transmission::encode_header,
    version::Version,
};

/// Packs answers and events into blocks. Order is kept, so many small answers share a block.
pub struct ReplyWriter {
    version: Version,
    protection: Protection,
    /// Between a proxy and us, if the client showed a hello key.
    pub(super) proxy_key: Option<BoxKey>,
}

impl ReplyWriter {
    pub(super) fn new(version: Version, protection: Protection, proxy_key: Option<BoxKey>) -> Self {
        Self {
            version,
            protection,
            proxy_key,
        }
    }

    /// The negotiated version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Adds an answer (or, without correlation id, an event) to `block`.
    ///
    /// # Errors
    /// [`BlockFull`]: seal the block, send it, and push again. Everything fits into an empty block.
    pub fn push(
        &self,
        block: &mut OutgoingBlock,
        correlation: Option<&CorrelationId>,
        entity: Entity<'_>,
        response: &Response<'_>,
    ) -> Result<(), BlockFull> {
        block.push(|writer| {
            start(writer, correlation, entity);
            response.encode(writer, self.version);
        })
    }

    /// Adds `MSG`, as event or as answer to `ACK` or `GET`; encrypts straight into the block. Takes
    /// nearly a whole block.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_delivery<B: AsRef<[u8]>>(
        &self,
        block: &mut OutgoingBlock,
        correlation: Option<&CorrelationId>,
        delivery: &Delivery<B>,
    ) -> Result<(), BlockFull> {
        block.push(|writer| {
            start(writer, correlation, Entity::Queue(&delivery.queue.0));
            delivery.encode(writer);
        })
    }

    /// Adds the answer of a queue.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_answer<B: AsRef<[u8]>>(
        &self,
        block: &mut OutgoingBlock,
        correlation: &CorrelationId,
        entity: Entity<'_>,
        answer: &Answer<B>,
    ) -> Result<(), BlockFull> {
        let push = |block: &mut OutgoingBlock, response: Response<'_>| {
            self.push(block, Some(correlation), entity, &response)
        };
        match answer {
            Answer::Ok => push(block, Response::Ok),
            Answer::Subscribed(service) => push(block, Response::Subscribed(*service)),
            Answer::Message(delivery) => self.push_delivery(block, Some(correlation), delivery),
            Answer::Info(info) => push(block, Response::Info(info.to_json().as_bytes())),
            Answer::Link(copy) => push(block, Response::Link(copy.data())),
            Answer::NotifierIds(ids) => push(block, Response::NotifierIds(*ids)),
            Answer::Error(code) => push(block, Response::Error(*code)),
        }
    }

    /// Adds a notification, an event; encrypts straight into the block.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_alert(&self, block: &mut OutgoingBlock, alert: &Alert) -> Result<(), BlockFull> {
        block.push(|writer| {
            start(writer, None, Entity::Queue(&alert.notifier.0));
            alert.encode(writer);
        })
    }

    /// Adds an event for a notification server.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_notifier_news(
        &self,
        block: &mut OutgoingBlock,
        news: &NotifierNews,
    ) -> Result<(), BlockFull> {
        let entity = Entity::Queue(&news.notifier.0);
        match &news.event {
            NotifierEvent::Notification(alert) => self.push_alert(block, alert),
            NotifierEvent::End => self.push(block, None, entity, &Response::End),
            NotifierEvent::Deleted => self.push(block, None, entity, &Response::Deleted),
        }
    }

    /// Adds an event about the queue that the recipient calls `entity`.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_event<B: AsRef<[u8]>>(
        &self,
        block: &mut OutgoingBlock,
        entity: Entity<'_>,
        event: &Event<B>,
    ) -> Result<(), BlockFull> {
        match event {
            Event::Message(delivery) => self.push_delivery(block, None, delivery),
            Event::End => self.push(block, None, entity, &Response::End),
            Event::Deleted => self.push(block, None, entity, &Response::Deleted),
        }
    }

    /// Adds a refusal.
    ///
    /// # Errors
    /// As [`ReplyWriter::push`].
    pub fn push_refusal(
        &self,
        block: &mut OutgoingBlock,
        refusal: &Refusal<'_>,
    ) -> Result<(), BlockFull> {
        self.push(
            block,
            refusal.correlation.as_ref(),
            refusal.entity,
            &Response::Error(refusal.code),
        )
    }

    /// Finishes `block` for sending; `None` if it is empty. Blocks must be sent in the order they
    /// are sealed.
    pub fn seal<'b>(&mut self, block: &'b mut OutgoingBlock) -> Option<&'b Block> {
        block.seal(&mut self.protection)
    }
}

pub(super) fn start(
    writer: &mut Writer<'_>,
    correlation: Option<&CorrelationId>,
    entity: Entity<'_>,
) {
    // Answers carry no authorisation.
    writer.u8(0);
    encode_header(writer, correlation, entity);
}
