//! Notifications: `NMSG nonce box` tells a notification server that a message came. The box, for
//! the recipient, holds the message's id and time; the notification server learns neither.

use core::fmt;

use junto_crypto::{
    CryptoRng, pad,
    secretbox::{BoxKey, NONCE_BYTES, Nonce, TAG_BYTES},
    x25519,
};
use zeroize::ZeroizeOnDrop;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::MessageId,
    message::{MessageFault, Timestamp},
};

/// Bytes of id and time after padding.
const PADDED_BYTES: usize = 128;
/// Bytes of the box in `NMSG`.
pub const SEALED_BYTES: usize = PADDED_BYTES + TAG_BYTES;

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// The message.
    pub message: MessageId,
    /// When the relay took it.
    pub time: Timestamp,
}

impl Notification {
    /// Parses an opened box; bytes behind what we know are for later versions.
    fn decode(text: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(text);
        Ok(Self {
            message: MessageId::decode(&mut reader)?,
            time: Timestamp(reader.u64()?),
        })
    }
}

/// The nonce of one notification, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationNonce(pub [u8; NONCE_BYTES]);

impl NotificationNonce {
    /// A fresh one.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; NONCE_BYTES];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }
}

/// Key agreement between relay and recipient for the notifications of one queue.
#[derive(ZeroizeOnDrop)]
pub struct NotificationKey {
    secret: [u8; 32],
    key: BoxKey,
}

impl NotificationKey {
    /// From the key agreement itself.
    #[must_use]
    pub fn new(shared: &x25519::SharedSecret) -> Self {
        Self::from_bytes(shared.as_bytes())
    }

    /// From [`NotificationKey::as_bytes`], kept in sealed storage.
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

    /// Writes the box as a short string.
    pub(crate) fn seal(
        &self,
        nonce: &NotificationNonce,
        notice: &Notification,
        writer: &mut Writer<'_>,
    ) {
        let mut room = [b'#'; SEALED_BYTES];
        let (tag, padded) = room.split_at_mut(TAG_BYTES);
        let mut inner = Writer::new(&mut padded[pad::OVERHEAD_BYTES..]);
        notice.message.encode(&mut inner);
        inner.u64(notice.time.0);
        // 33 bytes always fit.
        let used = inner.finish().unwrap_or(0);
        let length = u16::try_from(used).unwrap_or(0);
        padded[..pad::OVERHEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        tag.copy_from_slice(&self.key.seal_in_place(&Nonce(nonce.0), padded));
        writer.short(&room);
    }

    /// Opens the box of an `NMSG`.
    ///
    /// # Errors
    /// [`MessageFault`].
    pub fn open(
        &self,
        nonce: &NotificationNonce,
        sealed: &[u8],
    ) -> Result<Notification, MessageFault> {
        if sealed.len() != SEALED_BYTES {
            return Err(MessageFault::Forged);
        }
        let text = self
            .key
            .open_padded(&Nonce(nonce.0), sealed)
            .map_err(|_| MessageFault::Forged)?;
        Notification::decode(&text).map_err(|_| MessageFault::Content)
    }
}

impl fmt::Debug for NotificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotificationKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_was_sealed() {
        let key = NotificationKey::from_bytes(&[1; 32]);
        let nonce = NotificationNonce([2; NONCE_BYTES]);
        let notice = Notification {
            message: MessageId([3; 24]),
            time: Timestamp(1_800_000_000),
        };
        let mut out = [0; SEALED_BYTES + 1];
        let mut writer = Writer::new(&mut out);
        key.seal(&nonce, &notice, &mut writer);
        assert_eq!(writer.finish(), Ok(SEALED_BYTES + 1));
        assert_eq!(usize::from(out[0]), SEALED_BYTES);
        assert_eq!(key.open(&nonce, &out[1..]), Ok(notice));
        let other = NotificationNonce([4; NONCE_BYTES]);
        assert_eq!(key.open(&other, &out[1..]), Err(MessageFault::Forged));
        assert_eq!(key.open(&nonce, &out[2..]), Err(MessageFault::Forged));
        let restored = NotificationKey::from_bytes(key.as_bytes());
        assert_eq!(restored.open(&nonce, &out[1..]), Ok(notice));
    }

    #[test]
    fn debug_output_is_silent() {
        let key = NotificationKey::from_bytes(&[1; 32]);
        assert_eq!(format!("{key:?}"), "NotificationKey { .. }");
    }
}
