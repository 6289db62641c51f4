//! What a group says to another one, and the proof that it is the group that says so.

use junto_crypto::ed25519::{SIGNATURE_BYTES, Signature, SigningKey, VerifyingKey};

use super::{OrderId, ParcelKey, Sealed};
use crate::{Card, DecodeError, GroupId, REPLICAS_MAX, ReplicaId, Seconds, encoding::Reader};

/// What a source says of a range that has left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The source's time.
    pub(crate) time: Seconds,
    /// Digest of everything that the source had agreed on up to there: what is sealed is sealed for this state.
    pub(crate) head: [u8; 32],
    /// The key of the parcels, for the destination.
    pub(crate) sealed: Sealed,
    /// How many parcels there are: at least one.
    pub(crate) parcels: u32,
    /// Digest of the first. Each has that of the next.
    pub(crate) first: [u8; 32],
}

/// What a group says of an order. It says the same for ever, except that a destination goes from `Prepared` to `Accepted`,
/// and a source from `Departed` to `Over`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The destination waits for it.
    Prepared {
        /// Which.
        order: OrderId,
        /// To seal records to.
        key: ParcelKey,
        /// Digest of the tenants and their keys: records are named by their tenants' ranks.
        tenants: [u8; 32],
        /// A digest that only the same secret of names gives; none if it has no such secret yet.
        names: Option<[u8; 32]>,
    },
    /// The source does not serve the range any more, and what it was is sealed.
    Departed {
        /// Which.
        order: OrderId,
        /// What has left.
        departed: Box<Departed>,
    },
    /// Nothing of the order is left to do at the destination, which begins it never again: it serves the range, or it was
    /// told that the source never sent it.
    Accepted {
        /// Which.
        order: OrderId,
    },
    /// The source keeps nothing for the order, and begins it never again: the destination has the range, or it never left.
    Over {
        /// Which.
        order: OrderId,
    },
}

impl Word {
    /// Most bytes of an encoded word.
    pub const BYTES_MAX: usize = 1 + 32 + ParcelKey::BYTES + 32 + 1 + 32;

    /// Of which order it speaks.
    #[must_use]
    pub fn order(&self) -> OrderId {
        match self {
            Self::Prepared { order, .. }
            | Self::Departed { order, .. }
            | Self::Accepted { order }
            | Self::Over { order } => *order,
        }
    }

    /// As it is carried.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES_MAX);
        let mut put = |kind: u8, order: &OrderId| {
            out.push(kind);
            out.extend_from_slice(&order.0);
        };
        match self {
            Self::Prepared {
                order,
                key,
                tenants,
                names,
            } => {
                put(0, order);
                key.write(&mut out);
                out.extend_from_slice(tenants);
                out.push(u8::from(names.is_some()));
                out.extend(names.iter().flatten());
            }
            Self::Departed { order, departed } => {
                put(1, order);
                out.extend_from_slice(&departed.time.0.to_be_bytes());
                out.extend_from_slice(&departed.head);
                departed.sealed.write(&mut out);
                out.extend_from_slice(&departed.parcels.to_be_bytes());
                out.extend_from_slice(&departed.first);
            }
            Self::Accepted { order } => put(2, order),
            Self::Over { order } => put(3, order),
        }
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one word.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (kind, order) = (reader.u8()?, OrderId(reader.array()?));
        let word = match kind {
            0 => Self::Prepared {
                order,
                key: ParcelKey::read(&mut reader)?,
                tenants: reader.array()?,
                names: reader.flag()?.then(|| reader.array()).transpose()?,
            },
            1 => Self::Departed {
                order,
                departed: Box::new(Departed {
                    time: Seconds(reader.u64()?),
                    head: reader.array()?,
                    sealed: Sealed::read(&mut reader)?,
                    parcels: reader.u32()?,
                    first: reader.array()?,
                }),
            },
            2 => Self::Accepted { order },
            3 => Self::Over { order },
            _ => return Err(DecodeError),
        };
        reader.finish()?;
        Ok(word)
    }

    /// What a member of `group` signs who holds the group's log up to an entry after which the group says this, that log
    /// having the digest `log`. It may do so only where it would acknowledge that log to the leader that wrote the entry.
    #[must_use]
    pub fn vouch(&self, group: &GroupId, log: &[u8; 32], key: &SigningKey) -> Signature {
        key.sign(&self.vouched(group, log))
    }

    fn vouched(&self, group: &GroupId, log: &[u8; 32]) -> Vec<u8> {
        [
            b"junto vault word",
            &group.0[..],
            &log[..],
            &self.to_bytes()[..],
        ]
        .concat()
    }
}

/// Not enough members of that group say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too few members of that group say so")]
pub struct Uncertified;

/// As many members as must hold what is answered, each of which holds the same log that makes the group say a word. That
/// they said so at different times, or to different askers, or have been turned back since, does not matter: it is as with what is
/// answered ([`Quorum::release`](crate::Quorum::release)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    log: [u8; 32],
    /// Each by its member's place on the card, in order.
    signatures: Vec<(u8, Signature)>,
}

impl Certificate {
    /// Most bytes of an encoded certificate.
    pub const BYTES_MAX: usize = 32 + 1 + REPLICAS_MAX as usize * (1 + SIGNATURE_BYTES);

    /// From what members of the group of `card` signed. What does not count is left out.
    ///
    /// # Errors
    /// [`Uncertified`] if it is too few.
    pub fn gather(
        card: &Card,
        word: &Word,
        log: [u8; 32],
        signed: impl IntoIterator<Item = (ReplicaId, Signature)>,
    ) -> Result<Self, Uncertified> {
        let text = word.vouched(&card.group(), &log);
        let members = card.members();
        let mut signatures: Vec<_> = signed
            .into_iter()
            .filter_map(|(member, signature)| {
                let place = members.iter().position(|it| it.id == member)?;
                verify(&member, &text, &signature).ok()?;
                Some((u8::try_from(place).ok()?, signature))
            })
            .collect();
        signatures.sort_by_key(|(place, _)| *place);
        signatures.dedup_by_key(|(place, _)| *place);
        let certificate = Self { log, signatures };
        certificate.proves(card, word).map(|()| certificate)
    }

    /// Whether the group of `card` says that word.
    ///
    /// # Errors
    /// [`Uncertified`].
    pub fn proves(&self, card: &Card, word: &Word) -> Result<(), Uncertified> {
        let in_order = self.signatures.is_sorted_by(|(a, _), (b, _)| a < b);
        if !in_order || self.signatures.len() < card.quorum().release() {
            return Err(Uncertified);
        }
        let text = word.vouched(&card.group(), &self.log);
        for (place, signature) in &self.signatures {
            let member = card.members().get(usize::from(*place));
            verify(&member.ok_or(Uncertified)?.id, &text, signature)?;
        }
        Ok(())
    }

    /// As it is carried.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.log.to_vec();
        // At most one for each member.
        out.push(u8::try_from(self.signatures.len()).unwrap_or(u8::MAX));
        for (place, signature) in &self.signatures {
            out.push(*place);
            out.extend_from_slice(signature.as_bytes());
        }
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one certificate, right or not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let log = reader.array()?;
        let count = reader.u8()?;
        if count > REPLICAS_MAX {
            return Err(DecodeError);
        }
        let signatures = (0..count).map(|_| Ok((reader.u8()?, Signature(reader.array()?))));
        let signatures = signatures.collect::<Result<_, DecodeError>>()?;
        reader.finish()?;
        Ok(Self { log, signatures })
    }
}

fn verify(member: &ReplicaId, text: &[u8], signature: &Signature) -> Result<(), Uncertified> {
    let key = VerifyingKey::from_bytes(&member.0).map_err(|_| Uncertified)?;
    key.verify(text, signature).map_err(|_| Uncertified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, Quorum};
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn key(i: u8) -> SigningKey {
        SigningKey::from_seed(&[i; 32])
    }

    fn id(i: u8) -> ReplicaId {
        ReplicaId(*key(i).verifying_key().as_bytes())
    }

    fn card(began: u64) -> Card {
        let mut members: Vec<_> = (1..=4)
            .map(|i| Member {
                id: id(i),
                address: "x:1".to_owned(),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let quorum = Quorum::new(4, 1).unwrap();
        Card::sign(&key(9), Seconds(began), quorum, members).unwrap()
    }

    /// Three of four, each once, of this group, for this word, with one log.
    #[test]
    fn a_certificate_is_so_many_members_of_one_log() {
        let card = card(1);
        let order = OrderId([7; 32]);
        let (word, other) = (Word::Accepted { order }, Word::Over { order });
        let log = [5; 32];
        let sign = |i, word: &Word, log| (id(i), word.vouch(&card.group(), log, &key(i)));
        let gather = |signed: Vec<_>| Certificate::gather(&card, &word, log, signed);
        let ours = |i| sign(i, &word, &log);
        assert_eq!(gather(vec![ours(1), ours(2)]), Err(Uncertified));
        assert_eq!(gather(vec![ours(1), ours(2), ours(2)]), Err(Uncertified));
        for wrong in [
            ours(9),
            sign(3, &other, &log),
            sign(3, &word, &[6; 32]),
            (id(3), ours(4).1),
        ] {
            assert_eq!(gather(vec![ours(1), ours(2), wrong]), Err(Uncertified));
        }
        let certificate = gather(vec![ours(4), ours(1), ours(9), ours(3)]).unwrap();
        certificate.proves(&card, &word).unwrap();
        // Not for another word, nor another group of the same members.
        assert!(certificate.proves(&card, &other).is_err());
        assert!(certificate.proves(&self::card(2), &word).is_err());
        let bytes = certificate.to_bytes();
        assert_eq!(Certificate::from_bytes(&bytes).unwrap(), certificate);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let proves = Certificate::from_bytes(&altered)
                .is_ok_and(|altered| altered.proves(&card, &word).is_ok());
            assert!(!proves, "{at}");
        }
        // One member's signature does not count thrice.
        let mut thrice = certificate;
        thrice.signatures = vec![thrice.signatures[0]; 3];
        assert!(thrice.proves(&card, &word).is_err());
    }

    #[test]
    fn every_word_has_one_encoding() {
        let order = OrderId([7; 32]);
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let key = super::super::ParcelSecret::generate(&mut rng).public();
        let (sealed, _) = Sealed::make(&key, &mut rng).unwrap();
        let departed = Departed {
            time: Seconds(5),
            head: [1; 32],
            sealed,
            parcels: 3,
            first: [2; 32],
        };
        let names = [None, Some([3; 32])];
        let prepared = names.map(|names| Word::Prepared {
            order,
            key: key.clone(),
            tenants: [4; 32],
            names,
        });
        let others = [
            Word::Departed {
                order,
                departed: Box::new(departed),
            },
            Word::Accepted { order },
            Word::Over { order },
        ];
        for word in prepared.into_iter().chain(others) {
            let bytes = word.to_bytes();
            assert!(bytes.len() <= Word::BYTES_MAX);
            assert_eq!(Word::from_bytes(&bytes).unwrap(), word);
            for at in 0..bytes.len() {
                assert!(Word::from_bytes(&bytes[..at]).is_err());
            }
        }
    }
}
