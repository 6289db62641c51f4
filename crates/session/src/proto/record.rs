//! Records: what parties say to each other over a connection (`docs/spec/session.md` §6).

use bytes::Bytes;
use junto_crypto::ed25519::{Signature, VerifyingKey};

use super::{
    fault::Reason,
    limits::{CARRIER_LINK_BYTES_MAX, MESSAGE_BYTES_MAX, PARTIES_MAX},
    party::PartyIndex,
    roster::{Entry, Roster, SessionId},
    statement::{InstanceId, Round},
    wire::{Malformed, Put, Reader},
};

/// What a joiner tells the host with its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) entry: Entry,
    /// Of the entry's key over [`super::statement::hello`].
    pub(crate) signature: Signature,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.entry.encode();
        bytes.put(self.signature.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("request to join", bytes);
        let hello = Self {
            entry: Entry::read(&mut reader)?,
            signature: reader.signature()?,
        };
        reader.finish()?;
        Ok(hello)
    }
}

/// The host's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    Admitted,
    Refused(Refusal),
}

/// Why the host did not admit a joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// All places are taken.
    #[error("the session has all its parties already")]
    Full,
    /// The request does not fit the link or its policy.
    #[error("the request does not fit the session's policy")]
    Unfit,
    /// Another party has the name, by which `tofu` remembers keys.
    #[error("another party of the session has that name")]
    NameTaken,
    /// The profile key is none of those that the host admits.
    #[error("the host admits listed parties only, and this profile's key is not on its list")]
    NotPinned,
    /// The profile key has a place already.
    #[error("this profile has a place in the session already")]
    Seated,
}

impl Refusal {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Unfit => 2,
            Self::NameTaken => 3,
            Self::NotPinned => 4,
            Self::Seated => 5,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Full),
            2 => Some(Self::Unfit),
            3 => Some(Self::NameTaken),
            4 => Some(Self::NotPinned),
            5 => Some(Self::Seated),
            _ => None,
        }
    }
}

impl Welcome {
    pub(crate) fn encode(self) -> Vec<u8> {
        vec![match self {
            Self::Admitted => 0,
            Self::Refused(refusal) => refusal.code(),
        }]
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("answer to a request to join");
        match bytes {
            [0] => Ok(Self::Admitted),
            [code] => Refusal::from_code(*code).map(Self::Refused).ok_or(BAD),
            _ => Err(BAD),
        }
    }
}

/// The host's roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) roster: Roster,
    /// Of the host over [`super::statement::offer`].
    pub(crate) signature: Signature,
}

/// An invitation to a pair connection, sealed for the invited party and carried by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Introduction {
    pub(crate) session: SessionId,
    /// The host's signature over `session`, as the inviter has it.
    pub(crate) offer: Signature,
    pub(crate) from: VerifyingKey,
    pub(crate) to: VerifyingKey,
    /// Of `from` over [`super::statement::introduction`].
    pub(crate) signature: Signature,
    pub(crate) sealed: Vec<u8>,
}

/// Proof that a connection ends with a party of this very session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) session: SessionId,
    /// The host's signature over `session`, as the sender has it.
    pub(crate) offer: Signature,
    /// Over [`super::statement::bind`].
    pub(crate) bind: Signature,
    /// Over [`super::statement::roster`].
    pub(crate) roster: Signature,
    pub(crate) reveal: [u8; 32],
}

/// Where a message of an execution belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) instance: InstanceId,
    pub(crate) round: Round,
    pub(crate) from: PartyIndex,
    pub(crate) to: PartyIndex,
}

/// One broadcast as an echoer received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoEntry {
    /// Who broadcast.
    pub sender: PartyIndex,
    /// Hash of the payload.
    pub payload: [u8; 32],
    /// The sender's signature over it.
    pub signature: Signature,
}

impl EchoEntry {
    pub(crate) fn encode_all(entries: &[Self]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + entries.len() * 97);
        bytes.put_u8(u8::try_from(entries.len()).unwrap_or(u8::MAX));
        for entry in entries {
            bytes
                .put_u8(entry.sender.as_u8())
                .put(&entry.payload)
                .put(entry.signature.as_bytes());
        }
        bytes
    }

    /// 1 to 64 entries, strictly ascending by sender.
    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, Malformed> {
        let count = usize::from(reader.u8()?);
        if count == 0 || count > PARTIES_MAX {
            return Err(reader.malformed());
        }
        let entries = (0..count)
            .map(|_| {
                Ok(Self {
                    sender: PartyIndex::decode(reader.u8()?)?,
                    payload: reader.array()?,
                    signature: reader.signature()?,
                })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        if !entries.is_sorted_by(|a, b| a.sender < b.sender) {
            return Err(reader.malformed());
        }
        Ok(entries)
    }
}

/// A party's signed word that it has ended an execution, and why. Whoever stops because of it passes it on:
/// to those who wait for it then, its silence is explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Abort {
    /// Who ended the execution; not always the one that says it here.
    pub(crate) author: PartyIndex,
    /// Of the author over [`super::statement::abort`].
    pub(crate) signature: Signature,
    pub(crate) reason: Reason,
}

/// One thing that a party says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Offer(Offer),
    Introduction(Box<Introduction>),
    Bind(Box<Bind>),
    /// The sender is bound with every other party.
    Ready,
    /// Formation failed.
    Failed(Reason),
    /// The sender closed the session.
    Closed,
    /// The sender's user compared the safety code; or took that back.
    Verified(bool),
    /// Formation failed for another party, though not for the sender: who still forms can stop.
    Unformed(Reason),
    P2p {
        header: Header,
        payload: Bytes,
    },
    Broadcast {
        header: Header,
        signature: Signature,
        payload: Bytes,
    },
    Echo {
        header: Header,
        signature: Signature,
        entries: Vec<EchoEntry>,
    },
    Abort {
        header: Header,
        abort: Abort,
    },
    /// A message of a channel; its `round` is 0.
    Channel {
        header: Header,
        payload: Bytes,
    },
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Offer(offer) => {
                bytes
                    .put_u8(1)
                    .put(offer.signature.as_bytes())
                    .put(&offer.roster.encode());
            }
            Self::Introduction(introduction) => {
                bytes
                    .put_u8(2)
                    .put(&introduction.session.0)
                    .put(introduction.offer.as_bytes())
                    .put(introduction.from.as_bytes())
                    .put(introduction.to.as_bytes())
                    .put(introduction.signature.as_bytes())
                    .put_long(&introduction.sealed);
            }
            Self::Bind(bind) => {
                bytes
                    .put_u8(3)
                    .put(&bind.session.0)
                    .put(bind.offer.as_bytes())
                    .put(bind.bind.as_bytes())
                    .put(bind.roster.as_bytes())
                    .put(&bind.reveal);
            }
            Self::Failed(reason) => {
                bytes.put_u8(4).put(&reason.encode());
            }
            Self::Ready => {
                bytes.put_u8(7);
            }
            Self::Closed => {
                bytes.put_u8(5);
            }
            Self::Verified(verified) => {
                bytes.put_u8(8).put_flag(*verified);
            }
            Self::Unformed(reason) => {
                bytes.put_u8(6).put(&reason.encode());
            }
            Self::P2p { header, payload } => {
                bytes.reserve(39 + payload.len());
                bytes.put_u8(16);
                put_header(&mut bytes, header);
                bytes.put(payload);
            }
            Self::Broadcast {
                header,
                signature,
                payload,
            } => {
                bytes.reserve(103 + payload.len());
                bytes.put_u8(17);
                put_header(&mut bytes, header);
                bytes.put(signature.as_bytes()).put(payload);
            }
            Self::Echo {
                header,
                signature,
                entries,
            } => {
                bytes.put_u8(18);
                put_header(&mut bytes, header);
                bytes
                    .put(signature.as_bytes())
                    .put(&EchoEntry::encode_all(entries));
            }
            Self::Abort { header, abort } => {
                bytes.put_u8(19);
                put_header(&mut bytes, header);
                bytes
                    .put_u8(abort.author.as_u8())
                    .put(abort.signature.as_bytes())
                    .put(&abort.reason.encode());
            }
            Self::Channel { header, payload } => {
                bytes.reserve(39 + payload.len());
                bytes.put_u8(20);
                put_header(&mut bytes, header);
                bytes.put(payload);
            }
        }
        bytes
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new("record", bytes);
        let record = match reader.u8()? {
            1 => Self::Offer(Offer {
                signature: reader.signature()?,
                roster: Roster::read(&mut reader)?,
            }),
            2 => Self::Introduction(Box::new(read_introduction(&mut reader)?)),
            3 => Self::Bind(Box::new(Bind {
                session: SessionId(reader.array()?),
                offer: reader.signature()?,
                bind: reader.signature()?,
                roster: reader.signature()?,
                reveal: reader.array()?,
            })),
            4 => Self::Failed(Reason::decode(reader.rest())?),
            5 => Self::Closed,
            6 => Self::Unformed(Reason::decode(reader.rest())?),
            7 => Self::Ready,
            8 => Self::Verified(reader.flag()?),
            16 => Self::P2p {
                header: read_header(&mut reader)?,
                payload: payload(&mut reader, bytes)?,
            },
            17 => Self::Broadcast {
                header: read_header(&mut reader)?,
                signature: reader.signature()?,
                payload: payload(&mut reader, bytes)?,
            },
            18 => Self::Echo {
                header: read_header(&mut reader)?,
                signature: reader.signature()?,
                entries: EchoEntry::read_all(&mut reader)?,
            },
            19 => Self::Abort {
                header: read_header(&mut reader)?,
                abort: Abort {
                    author: PartyIndex::decode(reader.u8()?)?,
                    signature: reader.signature()?,
                    reason: Reason::decode(reader.rest())?,
                },
            },
            20 => Self::Channel {
                header: read_header(&mut reader)?,
                payload: payload(&mut reader, bytes)?,
            },
            _ => return Err(reader.malformed()),
        };
        reader.finish()?;
        Ok(record)
    }
}

fn read_introduction(reader: &mut Reader<'_>) -> Result<Introduction, Malformed> {
    let introduction = Introduction {
        session: SessionId(reader.array()?),
        offer: reader.signature()?,
        from: reader.verifying_key()?,
        to: reader.verifying_key()?,
        signature: reader.signature()?,
        sealed: reader.long()?.to_vec(),
    };
    if introduction.sealed.len() > CARRIER_LINK_BYTES_MAX + 64 {
        return Err(reader.malformed());
    }
    Ok(introduction)
}

fn put_header(bytes: &mut Vec<u8>, header: &Header) {
    bytes
        .put(&header.instance.0)
        .put_u32(header.round.0)
        .put_u8(header.from.as_u8())
        .put_u8(header.to.as_u8());
}

fn read_header(reader: &mut Reader<'_>) -> Result<Header, Malformed> {
    Ok(Header {
        instance: InstanceId(reader.array()?),
        round: Round(reader.u32()?),
        from: PartyIndex::decode(reader.u8()?)?,
        to: PartyIndex::decode(reader.u8()?)?,
    })
}

/// The rest, without a copy.
fn payload(reader: &mut Reader<'_>, whole: &Bytes) -> Result<Bytes, Malformed> {
    let rest = reader.rest();
    if rest.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed("message length"));
    }
    Ok(whole.slice(whole.len() - rest.len()..))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_is_canonical(kind in prop_oneof![1u8..=6, 16u8..=20], rest in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = vec![kind];
            bytes.extend(rest);
            let bytes = Bytes::from(bytes);
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes);
            }
        }

        #[test]
        fn requests_decode_canonically(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(hello) = Hello::decode(&bytes) {
                prop_assert_eq!(hello.encode(), bytes);
            }
        }

        #[test]
        fn messages_come_back(payload in proptest::collection::vec(any::<u8>(), 0..100), round: u32, from in 0usize..64, to in 0usize..64) {
            let header = Header { instance: InstanceId([3; 32]), round: Round(round), from: PartyIndex::new(from).unwrap(), to: PartyIndex::new(to).unwrap() };
            let record = Record::P2p { header, payload: Bytes::from(payload) };
            prop_assert_eq!(Record::decode(&Bytes::from(record.encode())).unwrap(), record);
        }
    }
}
