//! Messages as a queue keeps and hands them out.

use core::fmt;
use std::sync::Arc;

use crate::{
    encoding::Writer,
    id::{MessageId, RecipientId},
    message::{Delivered, DeliveryKey, MessageFlags, Timestamp},
};

/// A waiting message or marker. Not encrypted to the recipient yet: that happens at delivery.
#[derive(Clone)]
pub struct Message<B> {
    /// Random, unique.
    pub id: MessageId,
    /// When the relay took it.
    pub time: Timestamp,
    /// What it is.
    pub content: Content<B>,
}

impl<B> fmt::Debug for Message<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.id, self.content)
    }
}

/// What waits.
#[derive(Clone)]
pub enum Content<B> {
    /// A message.
    Body {
        /// As the sender set them.
        flags: MessageFlags,
        /// At most [`crate::message::BODY_BYTES_MAX`] bytes.
        body: B,
    },
    /// Senders were refused from here on.
    QuotaReached,
}

impl<B> fmt::Debug for Content<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body { .. } => "Body",
            Self::QuotaReached => "QuotaReached",
        })
    }
}

/// A message on its way to the recipient. Cheap to move to the task of the recipient's connection,
/// where [`crate::server::ReplyWriter::push_delivery`] encrypts it straight into the block.
#[derive(Clone)]
pub struct Delivery<B> {
    /// The queue, by the recipient's name for it.
    pub queue: RecipientId,
    /// The message.
    pub message: Message<B>,
    pub(super) key: Arc<DeliveryKey>,
}

impl<B> fmt::Debug for Delivery<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]>> Delivery<B> {
    /// Writes `MSG id box`.
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(b"MSG ");
        self.message.id.encode(writer);
        let time = self.message.time;
        let content = match &self.message.content {
            Content::Body { flags, body } => Delivered::Message {
                time,
                flags: *flags,
                body: body.as_ref(),
            },
            Content::QuotaReached => Delivered::QuotaReached { time },
        };
        self.key.seal(&self.message.id, &content, writer);
    }
}
