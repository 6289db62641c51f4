//! What the two sides say to each other: each frame is the body of one agent message.
//!
//! The layout is in `docs/spec/files.md` §2. Numbers are big-endian; every value has one encoding.

use core::fmt;

use junto_agent::MAX_BODY;

/// How every frame begins. Text does not begin with a zero byte, and SimpleX's messages are JSON.
pub const MAGIC: [u8; 12] = *b"\0junto file\0";
/// The version of this format.
pub const VERSION: u8 = 1;
/// Bytes before what a kind of frame has of its own: magic, version, kind, transfer.
const HEAD_BYTES: usize = MAGIC.len() + 1 + 1 + TransferId::BYTES;
/// Longest name in an offer, in bytes: what file systems allow.
pub const NAME_MAX: usize = 255;
/// Bytes of a chunk as we send it: 13 KiB, the most whole KiB that one agent message holds.
pub const CHUNK_BYTES: u16 = 13 * 1024;
/// Fewest bytes of a chunk that an offer may name, so that a file does not come in crumbs.
pub const CHUNK_MIN: u16 = 1024;
/// Most bytes of a chunk that fit.
pub const CHUNK_MAX: usize = MAX_BODY - HEAD_BYTES - 8;
const _: () = assert!(CHUNK_BYTES as usize <= CHUNK_MAX && CHUNK_MAX < CHUNK_BYTES as usize + 1024);

/// A transfer, as its sender named it: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransferId(pub [u8; Self::BYTES]);

impl TransferId {
    /// Its length.
    pub const BYTES: usize = 16;
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Why a transfer ends without the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// Its user wants it no more.
    pub const CANCELLED: Self = Self(0);
    /// Larger than the receiver takes.
    pub const TOO_LARGE: Self = Self(1);
    /// The receiver's disk has no room for it.
    pub const NO_ROOM: Self = Self(2);
    /// The receiver has too many unfinished transfers of this sender.
    pub const BUSY: Self = Self(3);
    /// The receiver does not know this kind or version of frame.
    pub const UNSUPPORTED: Self = Self(4);
    /// The other side broke the rules: what came is not what was offered.
    pub const FAULTY: Self = Self(5);
    /// The file is not what it was when it was offered.
    pub const CHANGED: Self = Self(6);
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::CANCELLED => "it was cancelled",
            Self::TOO_LARGE => "it is larger than the receiver takes",
            Self::NO_ROOM => "the receiver's disk has no room for it",
            Self::BUSY => "the receiver has too many unfinished files of this sender",
            Self::UNSUPPORTED => "the receiver does not know this version of file transfer",
            Self::FAULTY => "what came is not what was offered",
            Self::CHANGED => "the file has changed since it was offered",
            Self(_) => "for a reason that this version does not know",
        })
    }
}

/// What is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Counts the times that this file is offered, from 1: a grant names the offer that it answers.
    pub attempt: u32,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of every chunk but the last, [`CHUNK_MIN`] to [`CHUNK_MAX`].
    pub chunk: u16,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// What the sender calls it, 1 to [`NAME_MAX`] bytes. Advice: never used before
    /// [`name::safe`](crate::name::safe).
    pub name: String,
}

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Sender: this is what I have.
    Offer(Offer),
    /// Receiver: of the offer with this number I have `have` bytes durably; send on from there, up to `until`.
    Grant {
        /// The offer that is answered.
        attempt: u32,
        /// Bytes that are durable at the receiver.
        have: u64,
        /// Where the sender stops until the next grant.
        until: u64,
    },
    /// Sender: the bytes of the file from here.
    Chunk {
        /// Where they belong.
        offset: u64,
        /// They.
        data: &'a [u8],
    },
    /// Receiver: something of this attempt was lost on the way; offer again.
    Missing {
        /// The attempt.
        attempt: u32,
    },
    /// Receiver: the file is here, whole and verified.
    Done,
    /// Receiver: I do not want it, or not any more.
    Refuse(Reason),
    /// Sender: I do not send it, or not any more.
    Withdraw(Reason),
}

/// A [`Body`] and the transfer that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The transfer.
    pub id: TransferId,
    /// What is said.
    pub body: Body<'a>,
}

/// What is no frame that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as a frame does: an ordinary message.
    #[error("not about files")]
    Foreign,
    /// A version or kind that we do not know, about this transfer.
    #[error("a kind of frame that this version does not know")]
    Unknown {
        /// The transfer.
        id: TransferId,
        /// Whether it may be answered: what ends a transfer never is, so that two sides cannot go on for ever.
        answerable: bool,
    },
    /// It begins as a frame and is none.
    #[error("a malformed frame")]
    Malformed {
        /// The transfer, if it says so much.
        id: Option<TransferId>,
    },
}

/// Whether the body of a message begins as a frame does.
#[must_use]
pub fn is_frame(body: &[u8]) -> bool {
    body.starts_with(&MAGIC)
}

const OFFER: u8 = 1;
const GRANT: u8 = 2;
const CHUNK: u8 = 3;
const MISSING: u8 = 4;
const DONE: u8 = 5;
const REFUSE: u8 = 6;
const WITHDRAW: u8 = 7;

impl<'a> Frame<'a> {
    /// The body of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAX_BODY);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(match &self.body {
            Body::Offer(_) => OFFER,
            Body::Grant { .. } => GRANT,
            Body::Chunk { .. } => CHUNK,
            Body::Missing { .. } => MISSING,
            Body::Done => DONE,
            Body::Refuse(_) => REFUSE,
            Body::Withdraw(_) => WITHDRAW,
        });
        out.extend_from_slice(&self.id.0);
        match &self.body {
            Body::Offer(offer) => {
                out.extend_from_slice(&offer.attempt.to_be_bytes());
                out.extend_from_slice(&offer.size.to_be_bytes());
                out.extend_from_slice(&offer.chunk.to_be_bytes());
                out.extend_from_slice(&offer.sha256);
                out.extend_from_slice(offer.name.as_bytes());
            }
            Body::Grant {
                attempt,
                have,
                until,
            } => {
                out.extend_from_slice(&attempt.to_be_bytes());
                out.extend_from_slice(&have.to_be_bytes());
                out.extend_from_slice(&until.to_be_bytes());
            }
            Body::Chunk { offset, data } => {
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(data);
            }
            Body::Missing { attempt } => out.extend_from_slice(&attempt.to_be_bytes()),
            Body::Done => {}
            Body::Refuse(reason) | Body::Withdraw(reason) => out.push(reason.0),
        }
        out
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &'a [u8]) -> Result<Self, FrameError> {
        let rest = body.strip_prefix(&MAGIC).ok_or(FrameError::Foreign)?;
        let head = rest.split_first_chunk::<{ HEAD_BYTES - MAGIC.len() }>();
        let Some((&[version, kind, ref id @ ..], rest)) = head else {
            return Err(FrameError::Malformed { id: None });
        };
        let id = TransferId(*id);
        if version != VERSION || !(OFFER..=WITHDRAW).contains(&kind) {
            let answerable = !matches!(kind, REFUSE | WITHDRAW);
            return Err(FrameError::Unknown { id, answerable });
        }
        let body = read(kind, rest).ok_or(FrameError::Malformed { id: Some(id) })?;
        Ok(Self { id, body })
    }
}

fn read(kind: u8, rest: &[u8]) -> Option<Body<'_>> {
    Some(match kind {
        OFFER => Body::Offer(read_offer(rest)?),
        GRANT => {
            let (attempt, rest) = rest.split_first_chunk()?;
            let (have, rest) = rest.split_first_chunk()?;
            Body::Grant {
                attempt: u32::from_be_bytes(*attempt),
                have: u64::from_be_bytes(*have),
                until: u64::from_be_bytes(rest.try_into().ok()?),
            }
        }
        CHUNK => {
            let (offset, data) = rest.split_first_chunk()?;
            if data.is_empty() || data.len() > CHUNK_MAX {
                return None;
            }
            let offset = u64::from_be_bytes(*offset);
            Body::Chunk { offset, data }
        }
        MISSING => Body::Missing {
            attempt: u32::from_be_bytes(rest.try_into().ok()?),
        },
        DONE if rest.is_empty() => Body::Done,
        REFUSE | WITHDRAW => {
            let &[reason] = rest else { return None };
            match kind {
                REFUSE => Body::Refuse(Reason(reason)),
                _ => Body::Withdraw(Reason(reason)),
            }
        }
        _ => return None,
    })
}

fn read_offer(rest: &[u8]) -> Option<Offer> {
    let (attempt, rest) = rest.split_first_chunk()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (chunk, rest) = rest.split_first_chunk()?;
    let (sha256, name) = rest.split_first_chunk()?;
    let chunk = u16::from_be_bytes(*chunk);
    let fits = (CHUNK_MIN..).contains(&chunk) && usize::from(chunk) <= CHUNK_MAX;
    if !fits || name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    Some(Offer {
        attempt: u32::from_be_bytes(*attempt),
        size: u64::from_be_bytes(*size),
        chunk,
        sha256: *sha256,
        name: core::str::from_utf8(name).ok()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: TransferId = TransferId([7; 16]);

    fn offer(name: &str) -> Offer {
        Offer {
            attempt: 1,
            size: 5,
            chunk: CHUNK_BYTES,
            sha256: [9; 32],
            name: name.to_owned(),
        }
    }

    fn framed(kind: u8, rest: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &[VERSION, kind], &ID.0, rest].concat()
    }

    #[test]
    fn the_layout_is_that_of_the_specification() {
        let body = Body::Offer(offer("a"));
        let rest = [&b"\0\0\0\x01\0\0\0\0\0\0\0\x05\x34\0"[..], &[9; 32], b"a"].concat();
        assert_eq!(Frame { id: ID, body }.encode(), framed(1, &rest));
        let body = Body::Chunk {
            offset: 258,
            data: b"xy",
        };
        let frame = Frame { id: ID, body };
        assert_eq!(frame.encode(), framed(3, b"\0\0\0\0\0\0\x01\x02xy"));
    }

    #[test]
    fn a_chunk_of_ours_fits_one_message() {
        let data = vec![1; CHUNK_MAX];
        let body = Body::Chunk {
            offset: u64::MAX,
            data: &data,
        };
        let bytes = Frame { id: ID, body }.encode();
        assert_eq!(bytes.len(), MAX_BODY);
        assert!(Frame::decode(&bytes).is_ok());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let malformed = Err(FrameError::Malformed { id: Some(ID) });
        let huge = vec![b'n'; NAME_MAX + 1];
        let mut head = [0; 46];
        head[12..14].copy_from_slice(&CHUNK_BYTES.to_be_bytes());
        let named = |name: &[u8]| [&head[..], name].concat();
        let mut crumbs = named(b"a");
        crumbs[12..14].copy_from_slice(&(CHUNK_MIN - 1).to_be_bytes());
        let mut large = named(b"a");
        large[12..14].copy_from_slice(&(CHUNK_MAX as u16 + 1).to_be_bytes());
        assert!(Frame::decode(&framed(OFFER, &named(b"a"))).is_ok());
        for rest in [
            &named(b"")[..],
            &named(&huge),
            &named(b"\xff"),
            &crumbs,
            &large,
            &head[..45],
        ] {
            assert_eq!(Frame::decode(&framed(OFFER, rest)), malformed);
        }
        for (kind, rest) in [
            (GRANT, &[0; 21][..]),
            (GRANT, &[0; 19]),
            (CHUNK, &[0; 8]),
            (CHUNK, &vec![0; 8 + CHUNK_MAX + 1]),
            (MISSING, &[0; 3]),
            (DONE, b"!"),
            (REFUSE, b""),
            (WITHDRAW, b"\0\0"),
        ] {
            assert_eq!(Frame::decode(&framed(kind, rest)), malformed, "{kind}");
        }
        let cut = Frame::decode(&framed(DONE, b"")[..29]).unwrap_err();
        assert_eq!(cut, FrameError::Malformed { id: None });
    }

    #[test]
    fn ordinary_messages_are_not_about_files() {
        for body in [&b""[..], b"hello", b"{\"v\":\"1\"}", b"\0junto file"] {
            assert!(!is_frame(body));
            assert_eq!(Frame::decode(body), Err(FrameError::Foreign));
        }
    }

    #[test]
    fn what_is_not_known_may_be_answered_unless_it_ends_something() {
        let (id, answerable) = (ID, true);
        let unknown = Err(FrameError::Unknown { id, answerable });
        assert_eq!(Frame::decode(&framed(99, b"")), unknown);
        let mut later = framed(OFFER, b"");
        later[12] = 2;
        assert_eq!(Frame::decode(&later), unknown);
        for kind in [REFUSE, WITHDRAW] {
            let mut later = framed(kind, b"whatever");
            later[12] = 2;
            let answerable = false;
            let unknown = Err(FrameError::Unknown { id, answerable });
            assert_eq!(Frame::decode(&later), unknown);
        }
    }

    proptest! {
        #[test]
        fn what_decodes_has_one_encoding(kind in 0..9_u8, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
            let bytes = framed(kind, &rest);
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }

        #[test]
        fn what_is_encoded_decodes(attempt: u32, size: u64, have: u64, chunk in CHUNK_MIN..=CHUNK_MAX as u16, sha256: [u8; 32], name in ".{1,60}", data in proptest::collection::vec(any::<u8>(), 1..100), reason: u8) {
            let offer = Offer { attempt, size, chunk, sha256, name };
            for body in [
                Body::Offer(offer),
                Body::Grant { attempt, have, until: size },
                Body::Chunk { offset: have, data: &data },
                Body::Missing { attempt },
                Body::Done,
                Body::Refuse(Reason(reason)),
                Body::Withdraw(Reason(reason)),
            ] {
                let frame = Frame { id: ID, body };
                let bytes = frame.encode();
                prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
            }
        }
    }
}
