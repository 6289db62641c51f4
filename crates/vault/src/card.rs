//! Who the members of a realm's group are, signed by the realm: how a client knows whom it talks to.
//!
//! ```text
//! card   = realm (32) · began u64 · rollbacks u8 · count u8 · member* · Ed25519(realm, "junto realm card" · all before)
//! member = key (32) · length u8 · address
//! ```
//!
//! A realm's id *is* the key that signs, so that there is nothing else to pin. The key signs cards and orders (`transfer`); no
//! replica has it.

use junto_crypto::{
    ed25519::{SIGNATURE_BYTES, Signature, SigningKey, VerifyingKey},
    hash::sha256_of,
};

use crate::{DecodeError, Quorum, REPLICAS_MAX, RealmId, ReplicaId, Seconds, encoding::Reader};

/// Most bytes of a member's address.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// Most bytes of a card.
pub const CARD_BYTES_MAX: usize =
    32 + 8 + 2 + REPLICAS_MAX as usize * (32 + 1 + ADDRESS_BYTES_MAX) + SIGNATURE_BYTES;

const LABEL: &[u8] = b"junto realm card";

/// Names a group of a realm by its card: its members' keys, its quorum, and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub [u8; 32]);

/// A member of a group, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The public half of its key of this start.
    pub id: ReplicaId,
    /// `host:port`.
    pub address: String,
}

/// A group as its realm vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    realm: RealmId,
    began: Seconds,
    quorum: Quorum,
    members: Vec<Member>,
    signature: Signature,
    /// Looked for among hundreds of cards, while everybody waits.
    group: GroupId,
}

impl Card {
    /// Vouches for a group.
    ///
    /// # Errors
    /// [`DecodeError`] if the members are not as many as the quorum is for, not in order of their keys, or have no address.
    pub fn sign(
        key: &SigningKey,
        began: Seconds,
        quorum: Quorum,
        members: Vec<Member>,
    ) -> Result<Self, DecodeError> {
        if members.len() != quorum.replicas() {
            return Err(DecodeError);
        }
        let mut card = Self {
            realm: RealmId(*key.verifying_key().as_bytes()),
            began,
            quorum,
            members,
            signature: Signature([0; SIGNATURE_BYTES]),
            group: GroupId([0; 32]),
        };
        card.signature = key.sign(&[LABEL, &card.signed()].concat());
        // Its own reader knows what a card is.
        Self::from_bytes(&card.to_bytes())
    }

    fn signed(&self) -> Vec<u8> {
        let mut out = self.realm.0.to_vec();
        out.extend_from_slice(&self.began.0.to_be_bytes());
        let release = self.quorum.release() + self.quorum.majority();
        let rollbacks = release - self.quorum.replicas() - 1;
        for count in [rollbacks, self.members.len()] {
            // At most [`REPLICAS_MAX`]; a longer list is not read again.
            out.push(u8::try_from(count).unwrap_or(u8::MAX));
        }
        for member in &self.members {
            out.extend_from_slice(&member.id.0);
            out.push(u8::try_from(member.address.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(member.address.as_bytes());
        }
        out
    }

    /// As it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.signed(), &self.signature.as_bytes()[..]].concat()
    }

    /// # Errors
    /// [`DecodeError`] unless it is a whole card that its own realm signed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let split = bytes
            .len()
            .checked_sub(SIGNATURE_BYTES)
            .ok_or(DecodeError)?;
        let (signed, signature) = bytes.split_at(split);
        let signature = Signature(signature.try_into().map_err(|_| DecodeError)?);
        let mut reader = Reader::new(signed);
        let realm = RealmId(reader.array()?);
        let key = VerifyingKey::from_bytes(&realm.0).map_err(|_| DecodeError)?;
        key.verify(&[LABEL, signed].concat(), &signature)
            .map_err(|_| DecodeError)?;
        let (began, rollbacks, count) = (Seconds(reader.u64()?), reader.u8()?, reader.u8()?);
        let quorum = Quorum::new(count, rollbacks).map_err(|_| DecodeError)?;
        let mut members = Vec::new();
        for _ in 0..count {
            let id = ReplicaId(reader.array()?);
            let length = usize::from(reader.u8()?);
            let address = core::str::from_utf8(reader.bytes(length)?).map_err(|_| DecodeError)?;
            if address.is_empty() {
                return Err(DecodeError);
            }
            members.push(Member {
                id,
                address: address.to_owned(),
            });
        }
        reader.finish()?;
        members
            .is_sorted_by(|a, b| a.id < b.id)
            .then_some(Self {
                realm,
                began,
                quorum,
                members,
                signature,
                group: GroupId(sha256_of(&[b"junto vault group", signed])),
            })
            .ok_or(DecodeError)
    }

    /// Which group: SHA-256 over what the realm signed.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Whose group it is.
    #[must_use]
    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// When the group began: everything that the realm kept before is gone.
    #[must_use]
    pub fn began(&self) -> Seconds {
        self.began
    }

    /// How many members there are, and how many may be turned back.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// The members, in order of their keys.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(i: u8) -> Member {
        Member {
            id: ReplicaId([i; 32]),
            address: format!("127.0.0.1:{i}"),
        }
    }

    #[test]
    fn a_card_is_its_realms_word_to_the_last_bit() {
        let key = SigningKey::from_seed(&[1; 32]);
        let quorum = Quorum::new(4, 1).unwrap();
        let members: Vec<_> = (1..=4).map(member).collect();
        let card = Card::sign(&key, Seconds(7), quorum, members.clone()).unwrap();
        let bytes = card.to_bytes();
        assert_eq!(Card::from_bytes(&bytes).unwrap(), card);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(Card::from_bytes(&other).is_err(), "{at}");
            assert!(Card::from_bytes(&bytes[..at]).is_err(), "{at}");
        }
        // What a realm must not say, even signed.
        let sign = |members| Card::sign(&key, Seconds(7), quorum, members);
        assert!(sign(members[1..].to_vec()).is_err());
        assert!(sign(members.iter().rev().cloned().collect()).is_err());
        assert!(sign(vec![member(1); 4]).is_err());
        let mut nowhere = members.clone();
        nowhere[0].address = String::new();
        assert!(sign(nowhere).is_err());
        let mut long = members;
        long[0].address = "x".repeat(ADDRESS_BYTES_MAX + 1);
        assert!(sign(long).is_err());
    }
}
