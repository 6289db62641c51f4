//! What the ratchet encrypts: connection information in the handshake, numbered messages after it.

use junto_ratchet::Ratchet;
use junto_smp::key::AuthKey;

use super::address::{QueueInfo, QueueName, QueueUri};
use super::chain::MessageHash;
use super::wire::{Malformed, Reader, put_large, put_short};

/// The plaintext length of a ratchet message with connection information, post-quantum ratchet.
pub(crate) const INFO_PADDED_PQ: usize = 11_106;
/// The plaintext length of a ratchet message with connection information, classical ratchet.
pub(crate) const INFO_PADDED: usize = 14_832;
/// The plaintext length of every other ratchet message, post-quantum ratchet.
pub(crate) const MESSAGE_PADDED_PQ: usize = 13_618;
/// The plaintext length of every other ratchet message, classical ratchet.
pub(crate) const MESSAGE_PADDED: usize = 15_840;

/// Bytes that an agent message adds to its body: the padding's length field (2), `M`, number (8),
/// hash (1 + 32), body tag.
const MESSAGE_OVERHEAD: usize = 2 + 1 + 8 + 33 + 1;

/// The longest body of a message, in bytes: what fits when the post-quantum header travels with it.
pub const MAX_BODY: usize = MESSAGE_PADDED_PQ - MESSAGE_OVERHEAD;

/// The longest connection information, in bytes. It travels beside the joiner's queue address and,
/// in a request, beside a whole invitation link.
pub const MAX_INFO: usize = 10_000;

/// The length that connection information is padded to.
pub(super) fn info_padding(ratchet: &Ratchet) -> usize {
    if ratchet.has_large_header() {
        INFO_PADDED_PQ
    } else {
        INFO_PADDED
    }
}

/// The length that every other ratchet message is padded to.
pub(super) fn message_padding(ratchet: &Ratchet) -> usize {
    if ratchet.has_large_header() {
        MESSAGE_PADDED_PQ
    } else {
        MESSAGE_PADDED
    }
}

/// Receipts in one message; a list has a one-byte count.
pub(crate) const RECEIPTS_MAX: usize = 255;

/// Reply queues that a confirmation may name. We send one; more are read and ignored.
pub(crate) const REPLY_QUEUES_MAX: usize = 8;

/// The plaintext of a ratchet message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentMessage<'a> {
    /// `I`: the maker's connection information.
    Info(&'a [u8]),
    /// `D`: the joiner's receive queue (at least one) and connection information.
    InfoReply {
        /// Where the joiner receives.
        queues: Vec<QueueInfo>,
        /// What the joiner says about itself.
        info: &'a [u8],
    },
    /// `R`: connection information after new keys.
    RatchetInfo(&'a [u8]),
    /// `M`: a numbered message.
    Numbered {
        /// The sender's count.
        id: u64,
        /// Hash of the sender's message before, empty for the first.
        previous_hash: &'a [u8],
        /// What it says.
        body: Body<'a>,
    },
}

/// What a numbered message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// `H`: the queue is secured (handshake without sender keys in the link).
    Hello,
    /// `M`: a message of the application.
    Message(&'a [u8]),
    /// `V`: receipts, at least one.
    Receipts(Vec<Receipt<'a>>),
    /// `QC`: the named queue of ours, full before, has room again. Relay and queue, as encoded.
    QueueContinues(&'a [u8]),
    /// `E`: the sender has the new ratchet. The last number of ours that it had before.
    Ready(u64),
    /// `QA`: queues to send to, each in the place of another one. We send and follow the first.
    QueueAdd(Vec<(QueueUri, Option<QueueName>)>),
    /// `QK`: for such queues the sender's side: its key for the per-queue layer in place of the recipient's,
    /// and the one that authorises its commands.
    QueueKey(Vec<(QueueInfo, AuthKey)>),
    /// `QU`: these may be used, and whether as the first choice.
    QueueUse(Vec<(QueueName, bool)>),
    /// `QT`: these are used; or noise (`docs/decisions/0015-noise.md`).
    QueueTest(Vec<QueueName>),
    /// Whatever else comes later: counted in the chain, not acted on.
    Other(&'a [u8]),
}

/// The peer's application has a message of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt<'a> {
    /// The number of our message.
    pub id: u64,
    /// SHA-256 of our encoded agent message, as the peer received it.
    pub hash: MessageHash,
    /// Free for the application; we send none.
    pub info: &'a [u8],
}

impl<'a> AgentMessage<'a> {
    /// Appends the encoding.
    ///
    /// # Errors
    /// [`Malformed::Long`] if a list or string is longer than its length field can say.
    pub fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Info(info) => {
                out.push(b'I');
                out.extend_from_slice(info);
            }
            Self::InfoReply { queues, info } => {
                out.push(b'D');
                out.push(u8::try_from(queues.len()).map_err(|_| Malformed::Long)?);
                for queue in queues {
                    queue.put(out)?;
                }
                out.extend_from_slice(info);
            }
            Self::RatchetInfo(info) => {
                out.push(b'R');
                out.extend_from_slice(info);
            }
            Self::Numbered {
                id,
                previous_hash,
                body,
            } => {
                out.push(b'M');
                out.extend_from_slice(&id.to_be_bytes());
                put_short(out, previous_hash)?;
                body.put(out)?;
            }
        }
        Ok(())
    }

    /// Reads one from the unpadded plaintext.
    ///
    /// # Errors
    /// [`Malformed`] if it is not one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            b'I' => Ok(Self::Info(reader.tail())),
            b'D' => {
                let count = usize::from(reader.u8()?);
                if count == 0 {
                    return Err(Malformed::Short);
                }
                if count > REPLY_QUEUES_MAX {
                    return Err(Malformed::Long);
                }
                let queues = (0..count)
                    .map(|_| QueueInfo::read(&mut reader))
                    .collect::<Result<_, _>>()?;
                Ok(Self::InfoReply {
                    queues,
                    info: reader.tail(),
                })
            }
            b'R' => Ok(Self::RatchetInfo(reader.tail())),
            b'M' => {
                let id = reader.u64()?;
                let previous_hash = reader.short()?;
                if !matches!(previous_hash.len(), 0 | 32) {
                    return Err(Malformed::Long);
                }
                let body = Body::read(&mut reader)?;
                Ok(Self::Numbered {
                    id,
                    previous_hash,
                    body,
                })
            }
            _ => Err(Malformed::Tag),
        }
    }
}

impl<'a> Body<'a> {
    fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Hello => out.push(b'H'),
            Self::Message(body) => {
                out.push(b'M');
                out.extend_from_slice(body);
            }
            Self::Receipts(receipts) => {
                out.push(b'V');
                out.push(u8::try_from(receipts.len()).map_err(|_| Malformed::Long)?);
                for receipt in receipts {
                    out.extend_from_slice(&receipt.id.to_be_bytes());
                    put_short(out, &receipt.hash)?;
                    put_large(out, receipt.info)?;
                }
            }
            Self::QueueContinues(address) => {
                out.extend_from_slice(b"QC");
                out.extend_from_slice(address);
            }
            Self::Ready(last) => {
                out.push(b'E');
                out.extend_from_slice(&last.to_be_bytes());
            }
            Self::QueueAdd(queues) => put_list(out, b"QA", queues, |(uri, replaced), out| {
                uri.put(out)?;
                match replaced {
                    None => out.push(b'0'),
                    Some(name) => {
                        out.push(b'1');
                        name.put(out)?;
                    }
                }
                Ok(())
            })?,
            Self::QueueKey(keys) => put_list(out, b"QK", keys, |(info, key), out| {
                info.put(out)?;
                let mut spki = Vec::new();
                key.write_spki(&mut spki);
                put_short(out, &spki)
            })?,
            Self::QueueUse(queues) => put_list(out, b"QU", queues, |(name, is_first), out| {
                name.put(out)?;
                out.push(if *is_first { b'T' } else { b'F' });
                Ok(())
            })?,
            Self::QueueTest(queues) => put_list(out, b"QT", queues, QueueName::put)?,
            Self::Other(bytes) => out.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let all = reader.tail();
        let mut inner = Reader::new(all);
        match inner.u8()? {
            b'H' => {
                inner.end()?;
                Ok(Self::Hello)
            }
            b'M' => Ok(Self::Message(inner.tail())),
            b'V' => {
                let count = inner.u8()?;
                if count == 0 {
                    return Err(Malformed::Short);
                }
                let receipts = (0..count)
                    .map(|_| Receipt::read(&mut inner))
                    .collect::<Result<_, _>>()?;
                inner.end()?;
                Ok(Self::Receipts(receipts))
            }
            b'E' => {
                let last = inner.u64()?;
                inner.end()?;
                Ok(Self::Ready(last))
            }
            b'Q' => Ok(Self::read_queues(&mut inner).unwrap_or(Self::Other(all))),
            _ => Ok(Self::Other(all)),
        }
    }
}

impl<'a> Body<'a> {
    /// Reads what follows `Q`. What is none of it may be of a later version.
    fn read_queues(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            b'C' => Self::QueueContinues(reader.tail()),
            b'A' => Self::QueueAdd(read_list(reader, |reader| {
                let uri = QueueUri::read(reader)?;
                Ok((uri, reader.optional(QueueName::read)?))
            })?),
            b'K' => Self::QueueKey(read_list(reader, |reader| {
                let info = QueueInfo::read(reader)?;
                let key = AuthKey::from_spki(reader.short()?).map_err(|_| Malformed::Key)?;
                Ok((info, key))
            })?),
            b'U' => Self::QueueUse(read_list(reader, |reader| {
                let name = QueueName::read(reader)?;
                match reader.u8()? {
                    b'T' => Ok((name, true)),
                    b'F' => Ok((name, false)),
                    _ => Err(Malformed::Tag),
                }
            })?),
            b'T' => Self::QueueTest(read_list(reader, QueueName::read)?),
            _ => return Err(Malformed::Tag),
        })
    }
}

fn put_list<T>(
    out: &mut Vec<u8>,
    tag: &[u8; 2],
    items: &[T],
    put: impl Fn(&T, &mut Vec<u8>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    out.extend_from_slice(tag);
    out.push(u8::try_from(items.len()).map_err(|_| Malformed::Long)?);
    items.iter().try_for_each(|item| put(item, out))
}

/// A list of at least one that is all of the rest.
fn read_list<'a, T>(
    reader: &mut Reader<'a>,
    read: impl Fn(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = usize::from(reader.u8()?);
    if !(1..=REPLY_QUEUES_MAX).contains(&count) {
        return Err(Malformed::Long);
    }
    let items = (0..count).map(|_| read(reader)).collect::<Result<_, _>>()?;
    match reader.tail() {
        [] => Ok(items),
        _ => Err(Malformed::Trailing),
    }
}

impl<'a> Receipt<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let id = reader.u64()?;
        let hash = reader.short()?.try_into().map_err(|_| Malformed::Long)?;
        Ok(Self {
            id,
            hash,
            info: reader.large()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(message: &AgentMessage<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        message.put(&mut out).unwrap();
        out
    }

    #[test]
    fn the_longest_body_fits_exactly() {
        let message = AgentMessage::Numbered {
            id: 2,
            previous_hash: &[7; 32],
            body: Body::Message(&vec![1; MAX_BODY]),
        };
        assert_eq!(encoded(&message).len() + 2, MESSAGE_PADDED_PQ);
    }

    #[test]
    fn a_message_is_laid_out_as_the_protocol_says() {
        let message = AgentMessage::Numbered {
            id: 2,
            previous_hash: &[],
            body: Body::Message(b"hi"),
        };
        assert_eq!(encoded(&message), b"M\0\0\0\0\0\0\0\x02\0Mhi");
        let receipt = Receipt {
            id: 3,
            hash: [9; 32],
            info: b"",
        };
        let receipts = AgentMessage::Numbered {
            id: 4,
            previous_hash: &[],
            body: Body::Receipts(vec![receipt]),
        };
        let mut expected = b"M\0\0\0\0\0\0\0\x04\0V\x01\0\0\0\0\0\0\0\x03\x20".to_vec();
        expected.extend_from_slice(&[9; 32]);
        expected.extend_from_slice(&[0, 0]);
        assert_eq!(encoded(&receipts), expected);
        let ready = AgentMessage::Numbered {
            id: 2,
            previous_hash: &[],
            body: Body::Ready(258),
        };
        assert_eq!(
            encoded(&ready),
            b"M\0\0\0\0\0\0\0\x02\0E\0\0\0\0\0\0\x01\x02"
        );
    }

    #[test]
    fn messages_of_later_features_are_recognised_as_others() {
        for body in [&b"QA\x01"[..], b"QK", b"QU", b"QT", b"QE", b"Z"] {
            let mut bytes = b"M\0\0\0\0\0\0\0\x02\0".to_vec();
            bytes.extend_from_slice(body);
            let message = AgentMessage::read(&bytes).unwrap();
            assert!(
                matches!(message, AgentMessage::Numbered { body: Body::Other(b), .. } if b == body)
            );
        }
    }

    #[test]
    fn messages_about_queues_are_laid_out_as_the_protocol_says() {
        let uri: QueueUri = "smp://J4dwtvg-m6ixyNDdGvfrBASOxHFm_meYdPx3azOYPS8=@127.0.0.1:5223/S6bicl-y7RS7y7JGH7m9vIhR1TdPMe0-#/?v=1-4&dh=MCowBQYDK2VuAyEAgFWVe1dMBfaDbDderujcxpoJDLiPnnhSqRy3KdIVbC0%3D&q=m&k=s".parse().unwrap();
        let name = QueueName::of(&uri.address);
        let mut named = Vec::new();
        name.put(&mut named).unwrap();
        assert_eq!(&named[..17], b"\x01\x09127.0.0.1\x045223\x20");
        assert_eq!(named[49], 24, "the sender's id");
        let key = AuthKey::X25519(uri.address.recipient_key);
        let spki = uri.address.recipient_key.to_spki();
        let bodies = [
            (
                Body::QueueAdd(vec![(uri.clone(), Some(name.clone()))]),
                [
                    &b"QA\x01\0\x01\0\x04"[..],
                    &named,
                    b"\x2c",
                    &spki,
                    b"T1",
                    &named,
                ]
                .concat(),
            ),
            (
                Body::QueueKey(vec![(QueueInfo::new(uri.address), key)]),
                [
                    &b"QK\x01\0\x04"[..],
                    &named,
                    b"\x2c",
                    &spki,
                    b"M\x2c",
                    &spki,
                ]
                .concat(),
            ),
            (
                Body::QueueUse(vec![(name.clone(), true)]),
                [&b"QU\x01"[..], &named, b"T"].concat(),
            ),
            (
                Body::QueueTest(vec![name]),
                [&b"QT\x01"[..], &named].concat(),
            ),
        ];
        for (body, expected) in bodies {
            let mut bytes = Vec::new();
            body.put(&mut bytes).unwrap();
            assert_eq!(bytes, expected);
            assert_eq!(Body::read(&mut Reader::new(&bytes)), Ok(body));
            for len in 2..bytes.len() {
                let part = Body::read(&mut Reader::new(&bytes[..len]));
                assert_eq!(part, Ok(Body::Other(&bytes[..len])));
            }
        }
    }

    #[test]
    fn malformed_messages_are_refused() {
        let cases: [(&[u8], Malformed); 8] = [
            (b"", Malformed::Short),
            (b"X", Malformed::Tag),
            (b"M\0\0", Malformed::Short),
            (b"M\0\0\0\0\0\0\0\x02\x01aM", Malformed::Long),
            (b"M\0\0\0\0\0\0\0\x02\0", Malformed::Short),
            (b"M\0\0\0\0\0\0\0\x02\0V\0", Malformed::Short),
            (b"M\0\0\0\0\0\0\0\x02\0H!", Malformed::Trailing),
            (b"M\0\0\0\0\0\0\0\x02\0E\0", Malformed::Short),
        ];
        for (bytes, error) in cases {
            assert_eq!(AgentMessage::read(bytes), Err(error), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_decodes_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 0..4_usize) {
            let mut input = [&b""[..], b"M\0\0\0\0\0\0\0\x02\0", b"M\0\0\0\0\0\0\0\x02\0V\x01", b"M\0\0\0\0\0\0\0\x02\0E\0\0\0\0\0\0\0"][tag].to_vec();
            input.extend_from_slice(&bytes);
            if let Ok(message) = AgentMessage::read(&input) {
                prop_assert_eq!(encoded(&message), input);
            }
        }
    }
}
