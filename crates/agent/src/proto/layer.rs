//! The per-queue layer: what a sender puts into a queue is a box of constant size between a key of
//! the queue's address and a key of the sender, so a relay's operator and an eavesdropper on TLS see
//! unrelated bytes, and no relay can tell a confirmation from a message by its size.
//!
//! `version(2) ?s(sender's X25519) nonce(24) box(pad(inner))`, where `inner` is `_`, or `K` and a
//! key, followed by an [`Envelope`](super::Envelope).

use junto_crypto::hash::sha256;
use junto_crypto::secretbox::{BoxKey, Nonce};
use junto_crypto::{CryptoRng, Zeroizing, x25519};

use super::address::SenderId;
use super::version;
use super::wire::{Malformed, Reader, put_fixed};

/// Padded length of the inner bytes when the sender's key travels along.
pub(crate) const CONFIRMATION_PADDED: usize = 15_904;
/// Padded length of the inner bytes of every later message.
pub(crate) const MESSAGE_PADDED: usize = 16_000;

/// Why a queue message could not be opened or made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueLayerError {
    /// Not a queue message.
    #[error("queue message {0}")]
    Malformed(#[from] Malformed),
    /// The box does not open with the key that it should.
    #[error("queue message is forged")]
    Forged,
    /// What should go inside is too long for one message.
    #[error("too long for one queue message")]
    TooLong,
}

/// A queue message taken apart, its box still closed.
#[derive(Debug)]
pub struct SealedBody<'a> {
    /// The sender's key; only the first message of a queue has it.
    pub sender_key: Option<x25519::PublicKey>,
    nonce: Nonce,
    boxed: &'a [u8],
}

/// An opened queue message.
pub struct Confirmed {
    inner: Zeroizing<Vec<u8>>,
}

impl Confirmed {
    /// The agent envelope inside.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        // `open` has checked that there is a first byte.
        self.inner.get(1..).unwrap_or_default()
    }
}

impl<'a> SealedBody<'a> {
    /// Reads the outside of a queue message.
    ///
    /// # Errors
    /// [`Malformed`] if it is not one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u16()? < version::QUEUE_MIN {
            return Err(Malformed::Version);
        }
        let sender_key = reader.optional(Reader::x25519)?;
        let nonce = Nonce(reader.array()?);
        let boxed = reader.tail();
        Ok(Self {
            sender_key,
            nonce,
            boxed,
        })
    }

    /// Opens the box.
    ///
    /// # Errors
    /// [`QueueLayerError::Forged`] if the box is not of this key;
    /// [`QueueLayerError::Malformed`] if it names a sender's queue key, which only senders without
    /// the right to secure a queue do.
    pub fn open(&self, key: &BoxKey) -> Result<Confirmed, QueueLayerError> {
        let inner = key
            .open_padded(&self.nonce, self.boxed)
            .map_err(|_| QueueLayerError::Forged)?;
        match inner.first() {
            Some(b'_') => Ok(Confirmed { inner }),
            Some(_) => Err(Malformed::Tag.into()),
            None => Err(Malformed::Short.into()),
        }
    }
}

/// Makes the queue message that carries this envelope. With `sender_key` it is a queue's first
/// message (or one for a contact address), without it any later one.
///
/// # Errors
/// [`QueueLayerError::TooLong`] if the envelope does not fit.
pub(crate) fn seal(
    key: &BoxKey,
    sender_key: Option<&x25519::PublicKey>,
    envelope: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, QueueLayerError> {
    let mut nonce = Nonce([0; 24]);
    rng.fill_bytes(&mut nonce.0);
    seal_with(nonce, key, sender_key, envelope)
}

/// As [`seal`], of one more copy of an envelope, for the queue with this name. The same copy is the same bytes each
/// time: the nonce is a hash of the queue and the envelope, which is encrypted itself and known to no relay.
pub(super) fn seal_copy(
    key: &BoxKey,
    queue: &SenderId,
    envelope: &[u8],
) -> Result<Vec<u8>, QueueLayerError> {
    let mut nonce = Nonce([0; 24]);
    let hash = sha256(&[COPY_NONCE, queue.as_bytes(), envelope].concat());
    nonce.0.copy_from_slice(&hash[..24]);
    seal_with(nonce, key, None, envelope)
}

/// What the hash behind a copy's nonce begins with.
const COPY_NONCE: &[u8] = b"junto queue copy nonce 1";

fn seal_with(
    nonce: Nonce,
    key: &BoxKey,
    sender_key: Option<&x25519::PublicKey>,
    envelope: &[u8],
) -> Result<Vec<u8>, QueueLayerError> {
    let mut out = Vec::with_capacity(16_048);
    out.extend_from_slice(&version::QUEUE.to_be_bytes());
    let padded = match sender_key {
        Some(sender_key) => {
            out.push(b'1');
            put_fixed(&mut out, &sender_key.to_spki());
            CONFIRMATION_PADDED
        }
        None => {
            out.push(b'0');
            MESSAGE_PADDED
        }
    };
    out.extend_from_slice(&nonce.0);
    let mut inner = Zeroizing::new(Vec::with_capacity(envelope.len() + 1));
    inner.push(b'_');
    inner.extend_from_slice(envelope);
    key.seal_padded(&nonce, &inner, padded, &mut out)
        .map_err(|_| QueueLayerError::TooLong)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn keys() -> (BoxKey, BoxKey, x25519::PublicKey, ChaCha20Rng) {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let ours = x25519::SecretKey::generate(&mut rng);
        let theirs = x25519::SecretKey::generate(&mut rng);
        let sealing = BoxKey::from_shared(&ours.diffie_hellman(&theirs.public_key()).unwrap());
        let opening = BoxKey::from_shared(&theirs.diffie_hellman(&ours.public_key()).unwrap());
        (sealing, opening, ours.public_key(), rng)
    }

    #[test]
    fn all_messages_have_the_size_that_fits_one_send() {
        let (sealing, opening, public, mut rng) = keys();
        for (key, len) in [
            (Some(&public), 2 + 1 + 45 + 24 + 16 + 15_904),
            (None, 2 + 1 + 24 + 16 + 16_000),
        ] {
            for envelope in [&b""[..], b"short", &[7; 15_901]] {
                let sealed = seal(&sealing, key, envelope, &mut rng).unwrap();
                assert_eq!(sealed.len(), len);
                assert!(len <= 16_048);
                let read = SealedBody::read(&sealed).unwrap();
                assert_eq!(read.sender_key.as_ref(), key);
                assert_eq!(read.open(&opening).unwrap().envelope(), envelope);
            }
        }
        let long = seal(&sealing, Some(&public), &[0; 15_902], &mut rng);
        assert_eq!(long, Err(QueueLayerError::TooLong));
    }

    #[test]
    fn a_flipped_bit_anywhere_in_the_box_is_seen() {
        let (sealing, opening, _, mut rng) = keys();
        let sealed = seal(&sealing, None, b"body", &mut rng).unwrap();
        for at in [3, 26, 27, 43, 9_000, sealed.len() - 1] {
            let mut bad = sealed.clone();
            bad[at] ^= 1;
            let opened = SealedBody::read(&bad).unwrap().open(&opening);
            assert_eq!(opened.err(), Some(QueueLayerError::Forged));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (_, opening, _, _) = keys();
            if let Ok(sealed) = SealedBody::read(&bytes) {
                prop_assert!(sealed.open(&opening).is_err());
            }
        }
    }
}
