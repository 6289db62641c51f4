//! Messages on their way from relay to recipient: `MSG id box`, where the box under the queue's
//! key agreement holds time, flags and body, always padded to the same size (reference §4, trap 7).

use core::fmt;

use junto_crypto::{
    Zeroizing, pad,
    secretbox::{BoxKey, TAG_BYTES},
    x25519,
};
use zeroize::ZeroizeOnDrop;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::MessageId,
};

/// Bytes of the largest message body that a sender may send.
pub const BODY_BYTES_MAX: usize = 16_048;
/// Bytes of time, flags and body after padding.
pub const PADDED_BYTES: usize = 16_106;
/// Bytes of the box in `MSG`.
pub const SEALED_BYTES: usize = PADDED_BYTES + TAG_BYTES;
const QUOTA: &[u8] = b"QUOTA ";

const _: () = assert!(pad::OVERHEAD_BYTES + 8 + 2 + BODY_BYTES_MAX <= PADDED_BYTES);

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This time minus `seconds`, not before 1970.
    #[must_use]
    pub fn minus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

/// What a sender asks of the relay for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MessageFlags {
    /// Wake the recipient by a push notification.
    pub notify: bool,
}

impl MessageFlags {
    pub(crate) fn encode(self, writer: &mut Writer<'_>) {
        writer.bool(self.notify);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.bool("flags").map(|notify| Self { notify })
    }
}

/// The plain content of a `MSG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered<'a> {
    /// A message.
    Message {
        /// When the relay took it.
        time: Timestamp,
        /// As the sender set them.
        flags: MessageFlags,
        /// At most [`BODY_BYTES_MAX`] bytes when we are the relay.
        body: &'a [u8],
    },
    /// The queue was full at this point: messages that senders tried later were refused.
    QuotaReached {
        /// When the first sender was refused.
        time: Timestamp,
    },
}

impl<'a> Delivered<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Message { time, flags, body } => {
                writer.u64(time.0);
                flags.encode(writer);
                writer.u8(b' ');
                writer.bytes(body);
            }
            Self::QuotaReached { time } => {
                writer.bytes(QUOTA);
                writer.u64(time.0);
            }
        }
    }

    /// Parses the content of an opened box, without padding.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(text: &'a [u8]) -> Result<Self, DecodeError> {
        if let Some(rest) = text.strip_prefix(QUOTA) {
            let mut reader = Reader::new(rest);
            let time = Timestamp(reader.u64()?);
            reader.finish()?;
            return Ok(Self::QuotaReached { time });
        }
        let mut reader = Reader::new(text);
        let time = Timestamp(reader.u64()?);
        let flags = MessageFlags::decode(&mut reader)?;
        reader.expect(b' ', "message")?;
        let body = reader.tail();
        Ok(Self::Message { time, flags, body })
    }
}

/// Key agreement of a queue between relay and recipient: encrypts every message of the queue once
/// more, so that its bytes differ inside and outside of the relay.
#[derive(ZeroizeOnDrop)]
pub struct DeliveryKey {
    secret: [u8; 32],
    key: BoxKey,
}

impl DeliveryKey {
    /// From the key agreement itself.
    #[must_use]
    pub fn new(shared: &x25519::SharedSecret) -> Self {
        Self::from_bytes(shared.as_bytes())
    }

    /// From [`DeliveryKey::as_bytes`], kept in sealed storage.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Self {
        Self {
            secret: *secret,
            key: BoxKey::from_symmetric(secret),
        }
    }

    /// For sealed storage only.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Writes the [`SEALED_BYTES`] of a message; encrypts in the output buffer.
    pub(crate) fn seal(&self, id: &MessageId, content: &Delivered<'_>, writer: &mut Writer<'_>) {
        let Some(room) = writer.reserve(SEALED_BYTES) else {
            return;
        };
        let (tag, padded) = room.split_at_mut(TAG_BYTES);
        let mut inner = Writer::new(&mut padded[pad::OVERHEAD_BYTES..]);
        content.encode(&mut inner);
        // Bodies are bounded on entry, so the content always fits.
        let used = inner.finish().unwrap_or(0);
        let length = u16::try_from(used).unwrap_or(0);
        padded[..pad::OVERHEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        padded[pad::OVERHEAD_BYTES + used..].fill(b'#');
        tag.copy_from_slice(&self.key.seal_in_place(&id.nonce(), padded));
    }

    /// Opens the box of a `MSG`.
    ///
    /// # Errors
    /// [`MessageFault`].
    pub fn open(&self, id: &MessageId, sealed: &[u8]) -> Result<OpenedMessage, MessageFault> {
        if sealed.len() != SEALED_BYTES {
            return Err(MessageFault::Forged);
        }
        let text = self
            .key
            .open_padded(&id.nonce(), sealed)
            .map_err(|_| MessageFault::Forged)?;
        Delivered::decode(&text).map_err(|_| MessageFault::Content)?;
        Ok(OpenedMessage { text })
    }
}

/// An opened and checked message.
pub struct OpenedMessage {
    text: Zeroizing<Vec<u8>>,
}

impl OpenedMessage {
    /// Its content.
    #[must_use]
    pub fn content(&self) -> Delivered<'_> {
        // Checked when it was opened.
        Delivered::decode(&self.text).unwrap_or(Delivered::QuotaReached {
            time: Timestamp::default(),
        })
    }
}

impl fmt::Debug for OpenedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedMessage").finish_non_exhaustive()
    }
}

/// Why a delivered message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// The box does not open under the queue's key.
    #[error("message box does not open")]
    Forged,
    /// The content is not time, flags and body.
    #[error("message content does not parse")]
    Content,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Writer;

    fn sealed(key: &DeliveryKey, id: &MessageId, content: &Delivered<'_>) -> Vec<u8> {
        let mut out = vec![0; SEALED_BYTES];
        let mut writer = Writer::new(&mut out);
        key.seal(id, content, &mut writer);
        assert_eq!(writer.finish(), Ok(SEALED_BYTES));
        out
    }

    #[test]
    fn opens_what_was_sealed() {
        let (key, id) = (DeliveryKey::from_bytes(&[1; 32]), MessageId([2; 24]));
        let largest = vec![3; BODY_BYTES_MAX];
        for body in [b"".as_slice(), b"hello", &largest] {
            let content = Delivered::Message {
                time: Timestamp(1_700_000_000),
                flags: MessageFlags { notify: true },
                body,
            };
            let sealed = sealed(&key, &id, &content);
            assert_eq!(key.open(&id, &sealed).unwrap().content(), content);
            let other = MessageId([3; 24]);
            assert_eq!(key.open(&other, &sealed).err(), Some(MessageFault::Forged));
            assert_eq!(
                key.open(&id, &sealed[1..]).err(),
                Some(MessageFault::Forged)
            );
        }
        let marker = Delivered::QuotaReached { time: Timestamp(7) };
        let sealed = sealed(&key, &id, &marker);
        assert_eq!(key.open(&id, &sealed).unwrap().content(), marker);
    }

    #[test]
    fn content_has_one_form() {
        for bad in [
            b"".as_slice(),
            b"QUOTA 1234567",
            b"QUOTA 123456789",
            b"12345678X body",
            b"12345678Tbody",
        ] {
            assert!(Delivered::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_is_silent() {
        let key = DeliveryKey::from_bytes(&[1; 32]);
        let marker = Delivered::QuotaReached { time: Timestamp(7) };
        let id = MessageId([2; 24]);
        let opened = key.open(&id, &sealed(&key, &id, &marker)).unwrap();
        assert_eq!(format!("{opened:?}"), "OpenedMessage { .. }");
    }
}
