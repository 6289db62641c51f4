//! What an operator signs so that a range moves.

use junto_crypto::{
    ed25519::{SIGNATURE_BYTES, Signature, SigningKey, VerifyingKey},
    hash::sha256_of,
};

use crate::{DecodeError, GroupId, RealmId, encoding::Reader};

/// A range of records' names: both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    first: u64,
    last: u64,
}

/// What cannot be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The last comes before the first.
    #[error("a range begins before it ends")]
    Empty,
    /// From a group to itself.
    #[error("a range moves to another group")]
    Nowhere,
}

impl Span {
    /// Everything that a realm can have.
    pub const WHOLE: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// # Errors
    /// [`OrderError::Empty`].
    pub fn new(first: u64, last: u64) -> Result<Self, OrderError> {
        let span = Self { first, last };
        (first <= last).then_some(span).ok_or(OrderError::Empty)
    }

    /// Where it begins.
    #[must_use]
    pub fn first(self) -> u64 {
        self.first
    }

    /// Its last place.
    #[must_use]
    pub fn last(self) -> u64 {
        self.last
    }

    /// Whether that place belongs to it.
    #[must_use]
    pub fn contains(self, place: u64) -> bool {
        (self.first..=self.last).contains(&place)
    }
}

/// Names an order: it is carried out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(pub [u8; 32]);

/// A realm's word that a range goes from one of its groups to another. It names the *turn* of both, the number of
/// orders that each has begun: so it is carried out once, however often it is shown, and never after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    realm: RealmId,
    from: (GroupId, u64),
    to: (GroupId, u64),
    span: Span,
    signature: Signature,
}

const LABEL: &[u8] = b"junto vault order";

impl Order {
    /// Bytes of an encoded order.
    pub const BYTES: usize = 32 + 2 * (32 + 8) + 2 * 8 + SIGNATURE_BYTES;

    /// Orders with the realm's `key`; the groups with their turns.
    ///
    /// # Errors
    /// [`OrderError::Nowhere`].
    pub fn sign(
        key: &SigningKey,
        from: (GroupId, u64),
        to: (GroupId, u64),
        span: Span,
    ) -> Result<Self, OrderError> {
        if from.0 == to.0 {
            return Err(OrderError::Nowhere);
        }
        let mut order = Self {
            realm: RealmId(*key.verifying_key().as_bytes()),
            from,
            to,
            span,
            signature: Signature([0; SIGNATURE_BYTES]),
        };
        order.signature = key.sign(&[LABEL, &order.signed()].concat());
        Ok(order)
    }

    fn signed(&self) -> Vec<u8> {
        let mut out = self.realm.0.to_vec();
        for (group, turn) in [self.from, self.to] {
            out.extend_from_slice(&group.0);
            out.extend_from_slice(&turn.to_be_bytes());
        }
        for end in [self.span.first, self.span.last] {
            out.extend_from_slice(&end.to_be_bytes());
        }
        out
    }

    /// As it is carried.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.signed(), &self.signature.as_bytes()[..]].concat()
    }

    /// # Errors
    /// [`DecodeError`] unless it is an order that its own realm signed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let realm = RealmId(reader.array()?);
        let mut side = || Ok((GroupId(reader.array()?), reader.u64()?));
        let (from, to) = (side()?, side()?);
        let (first, last) = (reader.u64()?, reader.u64()?);
        let order = Self {
            realm,
            from,
            to,
            span: Span::new(first, last).map_err(|_| DecodeError)?,
            signature: Signature(reader.array()?),
        };
        reader.finish()?;
        let key = VerifyingKey::from_bytes(&realm.0).map_err(|_| DecodeError)?;
        key.verify(&[LABEL, &order.signed()].concat(), &order.signature)
            .map_err(|_| DecodeError)?;
        (from.0 != to.0).then_some(order).ok_or(DecodeError)
    }

    /// Names it.
    #[must_use]
    pub fn id(&self) -> OrderId {
        OrderId(sha256_of(&[b"junto vault order id", &self.signed()]))
    }

    /// Whose groups these are.
    #[must_use]
    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// Whose range it is, and at which turn.
    #[must_use]
    pub fn from(&self) -> (GroupId, u64) {
        self.from
    }

    /// Whose range it becomes, and at which turn.
    #[must_use]
    pub fn to(&self) -> (GroupId, u64) {
        self.to
    }

    /// What moves.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }
}

/// A realm's word that an order is not to be begun any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation(Signature);

impl Revocation {
    /// Bytes of an encoded revocation.
    pub const BYTES: usize = SIGNATURE_BYTES;

    /// Takes `order` back, unless its range has left already.
    #[must_use]
    pub fn sign(key: &SigningKey, order: &Order) -> Self {
        Self(key.sign(&revoked(order)))
    }

    /// As it is carried.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        self.0.0
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(Signature(reader.array()?)))
    }

    pub(crate) fn revokes(&self, order: &Order) -> bool {
        let key = VerifyingKey::from_bytes(&order.realm.0);
        key.is_ok_and(|key| key.verify(&revoked(order), &self.0).is_ok())
    }
}

fn revoked(order: &Order) -> Vec<u8> {
    [&b"junto vault revocation"[..], &order.id().0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_its_realms_word_to_the_last_bit() {
        let key = SigningKey::from_seed(&[1; 32]);
        let (one, other) = (GroupId([1; 32]), GroupId([2; 32]));
        let span = Span::new(3, 9).unwrap();
        let order = Order::sign(&key, (one, 4), (other, 0), span).unwrap();
        let bytes = order.to_bytes();
        assert_eq!(bytes.len(), Order::BYTES);
        assert_eq!(Order::from_bytes(&bytes).unwrap(), order);
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(Order::from_bytes(&altered).is_err(), "{at}");
            assert!(Order::from_bytes(&bytes[..at]).is_err(), "{at}");
        }
        let nowhere = Order::sign(&key, (one, 4), (one, 4), span);
        assert_eq!(nowhere, Err(OrderError::Nowhere));
        assert_eq!(Span::new(1, 0), Err(OrderError::Empty));
        // Another turn is another order; a revocation is for one order, by the realm.
        let next = Order::sign(&key, (one, 5), (other, 0), span).unwrap();
        assert_ne!(next.id(), order.id());
        let revocation = Revocation::sign(&key, &order);
        assert!(revocation.revokes(&order) && !revocation.revokes(&next));
        let stranger = SigningKey::from_seed(&[2; 32]);
        assert!(!Revocation::sign(&stranger, &order).revokes(&order));
    }
}
