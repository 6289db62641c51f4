//! What the two sides of an exchange send each other (`docs/spec/code.md` §3).

use junto_smp::id::{ID_BYTES, SenderId};

/// Bytes of a SPAKE2 message: the side, and a point.
pub const SHARE_BYTES: usize = 33;
/// Bytes that confirm a key.
pub const TAG_BYTES: usize = 32;
/// Longest link that a code stands for, in bytes.
pub const LINK_BYTES_MAX: usize = 8 * 1_024;
/// Bytes of a sealed link, whatever its length.
pub const SEALED_BYTES: usize = 2 + LINK_BYTES_MAX + junto_crypto::aead::STORE_OVERHEAD_BYTES;

/// Format and version.
const MAGIC: &[u8; 3] = b"JC\x01";

/// One message, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A joiner asks, and says where the answer goes.
    Hello {
        /// A queue of the joiner on the same relay.
        reply: SenderId,
        /// Its SPAKE2 message.
        share: &'a [u8; SHARE_BYTES],
    },
    /// The host answers.
    Answer {
        /// Its SPAKE2 message.
        share: &'a [u8; SHARE_BYTES],
    },
    /// The joiner shows that it has the key.
    Confirm {
        /// As in its `Hello`.
        reply: SenderId,
        /// Only who has the key can make it.
        tag: &'a [u8; TAG_BYTES],
    },
    /// The host shows the same by what it seals.
    Link {
        /// The link, padded and sealed.
        sealed: &'a [u8; SEALED_BYTES],
    },
    /// The host has nothing for this joiner.
    Refused(Refusal),
}

/// Why a host gives nothing. Not authenticated: the relay could have said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The code is wrong, and dead now.
    Wrong,
    /// Too many exchanges are under way.
    Busy,
    /// The code was used up, or somebody guessed wrong before.
    Spent,
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no message of a code's exchange")]
pub struct Malformed;

impl<'a> Frame<'a> {
    /// Its only encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        match self {
            Self::Hello { reply, share } => {
                out.push(b'h');
                out.extend_from_slice(reply.as_bytes());
                out.extend_from_slice(*share);
            }
            Self::Answer { share } => {
                out.push(b'a');
                out.extend_from_slice(*share);
            }
            Self::Confirm { reply, tag } => {
                out.push(b'c');
                out.extend_from_slice(reply.as_bytes());
                out.extend_from_slice(*tag);
            }
            Self::Link { sealed } => {
                out.push(b'l');
                out.extend_from_slice(*sealed);
            }
            Self::Refused(refusal) => {
                out.push(b'r');
                out.push(match refusal {
                    Refusal::Wrong => b'w',
                    Refusal::Busy => b'b',
                    Refusal::Spent => b's',
                });
            }
        }
        out
    }

    /// Reads one frame and nothing behind it.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(Malformed)?;
        let (kind, rest) = rest.split_first().ok_or(Malformed)?;
        Ok(match kind {
            b'h' => {
                let (reply, share) = addressed(rest)?;
                Self::Hello { reply, share }
            }
            b'a' => Self::Answer { share: all(rest)? },
            b'c' => {
                let (reply, tag) = addressed(rest)?;
                Self::Confirm { reply, tag }
            }
            b'l' => Self::Link { sealed: all(rest)? },
            b'r' => Self::Refused(match rest {
                b"w" => Refusal::Wrong,
                b"b" => Refusal::Busy,
                b"s" => Refusal::Spent,
                _ => return Err(Malformed),
            }),
            _ => return Err(Malformed),
        })
    }
}

fn addressed<const N: usize>(bytes: &[u8]) -> Result<(SenderId, &[u8; N]), Malformed> {
    let (reply, rest) = bytes.split_first_chunk::<ID_BYTES>().ok_or(Malformed)?;
    Ok((SenderId(*reply), all(rest)?))
}

fn all<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(frame: Frame<'_>) {
        let bytes = frame.encode();
        assert!(bytes.len() <= junto_smp::message::BODY_BYTES_MAX);
        assert_eq!(Frame::decode(&bytes), Ok(frame));
        for end in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..end]), Err(Malformed), "{end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Frame::decode(&longer), Err(Malformed));
    }

    #[test]
    fn each_frame_has_one_encoding() {
        let reply = SenderId([7; ID_BYTES]);
        round(Frame::Hello {
            reply,
            share: &[1; SHARE_BYTES],
        });
        round(Frame::Answer {
            share: &[2; SHARE_BYTES],
        });
        round(Frame::Confirm {
            reply,
            tag: &[3; TAG_BYTES],
        });
        round(Frame::Link {
            sealed: &[4; SEALED_BYTES],
        });
        for refusal in [Refusal::Wrong, Refusal::Busy, Refusal::Spent] {
            round(Frame::Refused(refusal));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(bytes: Vec<u8>, kind in prop::sample::select(&b"haclr"[..])) {
            let bytes = [&MAGIC[..], &[kind], &bytes].concat();
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
