//! Services: clients with a certificate, whose queues a relay keeps together, so that one command
//! subscribes to all of them (reference §4, `SUBS`).
//!
//! A service shows its certificates twice, in TLS and in its hello, with an Ed25519 key for this
//! connection that its leaf certificate signs. The relay answers with a third block: an id, the same
//! for the same certificate for ever, or an error. From then on
//!
//! - `NEW`, `SUB` and `NSUB` carry a second signature, by the connection's key over the usual bytes,
//!   and the queue's key covers the service's fingerprint in front of them: so nobody between can put
//!   another service in its place. They make the queue one of the service's;
//! - `SUBS` and `NSUBS` name the service's id and are signed by the connection's key alone;
//! - a service gives only the commands of its [`ServiceRole`].
//!
//! Before version 19 neither side says which queues it means, only how many.

use core::fmt;

use junto_crypto::{ed25519, hash};

use crate::{
    address::Fingerprint,
    block::{Block, plain_block, unpad},
    command::{Command, Party},
    encoding::{DecodeError, NoRoom, Reader, Writer},
    hello::{SignedKey, decode_chain, encode_chain},
    id::{ID_BYTES, ServiceId},
    version::Version,
};

/// Certificates of a service: a self-signed one, or leaf, identity, and up to two above.
pub const SERVICE_CHAIN_LENGTH: core::ops::RangeInclusive<usize> = 1..=4;

/// XOR of the MD5 hashes of queue ids: equal sets have equal hashes. It notices drift, not malice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueuesHash(pub [u8; 16]);

impl QueuesHash {
    /// Adds a queue, or removes it again.
    pub fn toggle(&mut self, id: &[u8; ID_BYTES]) {
        for (byte, other) in self.0.iter_mut().zip(hash::md5(id)) {
            *byte ^= other;
        }
    }
}

/// How many queues a service has, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceQueues {
    /// Their number.
    pub count: u64,
    /// Their hash; all zero before version 19.
    pub hash: QueuesHash,
}

impl ServiceQueues {
    /// Writes count and, from version 19 on, hash.
    pub(crate) fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        writer.u64(self.count);
        if version.has_service_counts() {
            writer.short(&self.hash.0);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let count = reader.u64()?;
        let hash = if version.has_service_counts() {
            let bytes = reader.short()?.try_into();
            bytes.map_err(|_| DecodeError::Invalid("hash of queues"))?
        } else {
            [0; 16]
        };
        Ok(Self {
            count,
            hash: QueuesHash(hash),
        })
    }
}

/// What a service does. One certificate has one role at a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceRole {
    /// `M`: receives from many queues.
    Messaging,
    /// `N`: a notification server.
    Notifier,
    /// `P`: passes commands on to other relays.
    Proxy,
}

impl ServiceRole {
    /// As it is written.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Messaging => b'M',
            Self::Notifier => b'N',
            Self::Proxy => b'P',
        }
    }

    /// Reads [`ServiceRole::to_byte`].
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'M' => Some(Self::Messaging),
            b'N' => Some(Self::Notifier),
            b'P' => Some(Self::Proxy),
            _ => None,
        }
    }

    /// Whether a service of this role may give `command`.
    #[must_use]
    pub fn may(self, command: &Command<'_>) -> bool {
        let needed = match (command.party(), command) {
            (Party::Notifier, _) | (_, Command::NotifierServiceSub(_)) => Self::Notifier,
            (_, Command::RelayForward(_)) => Self::Proxy,
            (_, Command::Ping) => return true,
            (
                Party::Creator
                | Party::Recipient
                | Party::Sender
                | Party::LinkReader
                | Party::Service
                | Party::Nobody,
                _,
            ) => Self::Messaging,
        };
        self == needed
    }
}

/// A service as a relay knows it: its queues are kept under this name.
#[derive(Clone, PartialEq, Eq)]
pub struct Service {
    /// Names it in commands and answers.
    pub id: ServiceId,
    /// What it does.
    pub role: ServiceRole,
    /// Of its identity certificate, the second of its chain or the only one.
    pub fingerprint: Fingerprint,
}

impl Service {
    /// The service with this certificate, under the id that follows from it: the same before and
    /// after every restart, also for a service that has no queue yet.
    #[must_use]
    pub fn new(role: ServiceRole, fingerprint: Fingerprint) -> Self {
        const LABEL: &[u8] = b"junto relay service id";
        let digest = hash::sha256_of(&[LABEL, &fingerprint.0]);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Self {
            id: ServiceId(id),
            role,
            fingerprint,
        }
    }
}

impl fmt::Debug for Service {
    /// Its role: who it is belongs in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Who a chain of certificates of a service is: the second, or the only one.
#[must_use]
pub fn fingerprint_of_chain<C: AsRef<[u8]>>(chain: &[C]) -> Option<Fingerprint> {
    let identity = chain.get(1).or(chain.first())?;
    Some(Fingerprint::of_certificate(identity.as_ref()))
}

/// What a service adds to a client's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHello<'a> {
    /// What it wants to be.
    pub role: ServiceRole,
    /// Its certificates as DER, as in TLS.
    pub chain: Vec<&'a [u8]>,
    /// The key that signs for the service on this connection.
    pub key: SignedKey<ed25519::VerifyingKey>,
}

impl<'a> ServiceHello<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.role.to_byte());
        encode_chain(&self.chain, writer);
        self.key.encode(writer);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let role = ServiceRole::from_byte(reader.u8()?);
        Ok(Self {
            role: role.ok_or(DecodeError::Invalid("role of a service"))?,
            chain: decode_chain(reader, &SERVICE_CHAIN_LENGTH)?,
            key: SignedKey::from_der(reader.large()?)?,
        })
    }
}

/// Why a relay does not let a client be a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceFault {
    /// `BAD_AUTH`: the certificates are not those of TLS, or the key is not signed by them.
    #[error("not authentic")]
    Unauthentic,
    /// `BAD_SERVICE`: the certificate has another role here, or the relay takes no more services.
    #[error("not accepted")]
    Refused,
}

/// The third block: what becomes of a client that asked to be a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceAnswer {
    /// `R`: it is one, under this id.
    Accepted(ServiceId),
    /// `E`: it is none; the connection ends.
    Refused(ServiceFault),
}

impl ServiceAnswer {
    const UNAUTHENTIC: &'static [u8] = b"HANDSHAKE BAD_AUTH";
    const REFUSED: &'static [u8] = b"HANDSHAKE BAD_SERVICE";

    /// Writes the block.
    ///
    /// # Errors
    /// [`NoRoom`] never happens: it is small.
    pub fn encode(&self, block: &mut Block) -> Result<(), NoRoom> {
        plain_block(block, |writer| match self {
            Self::Accepted(id) => {
                writer.u8(b'R');
                id.encode(writer);
            }
            Self::Refused(fault) => {
                writer.u8(b'E');
                writer.bytes(match fault {
                    ServiceFault::Unauthentic => Self::UNAUTHENTIC,
                    ServiceFault::Refused => Self::REFUSED,
                });
            }
        })
    }

    /// Reads the block. Every error that is not ours counts as a refusal.
    ///
    /// # Errors
    /// [`DecodeError`] for what is neither.
    pub fn decode(block: &mut Block) -> Result<Self, DecodeError> {
        let text = unpad(block.as_mut_slice()).map_err(|_| DecodeError::Truncated)?;
        let mut reader = Reader::new(text);
        match reader.u8()? {
            b'R' => ServiceId::decode(&mut reader).map(Self::Accepted),
            b'E' => Ok(Self::Refused(match reader.tail() {
                Self::UNAUTHENTIC => ServiceFault::Unauthentic,
                _ => ServiceFault::Refused,
            })),
            _ => Err(DecodeError::Invalid("answer to a service")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::new_block;

    #[test]
    fn the_hash_of_queues_is_the_xor_of_their_md5() {
        // MD5 of 24 times 'a', and of 24 times 'b', by another program.
        let mut hash = QueuesHash::default();
        hash.toggle(&[b'a'; 24]);
        let a = hash;
        assert_eq!(hex::encode(a.0), MD5_OF_24_A);
        hash.toggle(&[b'b'; 24]);
        hash.toggle(&[b'a'; 24]);
        assert_eq!(hex::encode(hash.0), MD5_OF_24_B);
        hash.toggle(&[b'b'; 24]);
        assert_eq!(hash, QueuesHash::default());
    }

    const MD5_OF_24_A: &str = "40edae4bad0e5bf6d6c2dc5615a86afb";
    const MD5_OF_24_B: &str = "ebefd540c0955c9d12240104aafdb4f3";

    #[test]
    fn ids_follow_from_certificates_and_from_nothing_else() {
        let one = Service::new(ServiceRole::Messaging, Fingerprint([1; 32]));
        let other_role = Service::new(ServiceRole::Notifier, Fingerprint([1; 32]));
        let other = Service::new(ServiceRole::Messaging, Fingerprint([2; 32]));
        assert_eq!(one.id, other_role.id);
        assert_ne!(one.id, other.id);
        assert_eq!(format!("{one:?}"), "Service { role: Messaging, .. }");
    }

    #[test]
    fn answers_survive_a_round_trip_and_ignore_what_follows() {
        let id = ServiceId([7; 24]);
        for answer in [
            ServiceAnswer::Accepted(id),
            ServiceAnswer::Refused(ServiceFault::Unauthentic),
            ServiceAnswer::Refused(ServiceFault::Refused),
        ] {
            let mut block = new_block();
            answer.encode(&mut block).unwrap();
            assert_eq!(ServiceAnswer::decode(&mut block), Ok(answer));
        }
        let mut block = new_block();
        plain_block(&mut block, |writer| {
            writer.u8(b'R');
            id.encode(writer);
            writer.bytes(b"later");
        })
        .unwrap();
        let accepted = Ok(ServiceAnswer::Accepted(id));
        assert_eq!(ServiceAnswer::decode(&mut block), accepted);
        let mut block = new_block();
        plain_block(&mut block, |writer| writer.bytes(b"EVERSION")).unwrap();
        let refused = Ok(ServiceAnswer::Refused(ServiceFault::Refused));
        assert_eq!(ServiceAnswer::decode(&mut block), refused);
        let mut block = new_block();
        plain_block(&mut block, |writer| writer.bytes(b"X")).unwrap();
        assert!(ServiceAnswer::decode(&mut block).is_err());
    }
}
