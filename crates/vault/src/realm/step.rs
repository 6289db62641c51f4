//! What a group does for an order, as an entry of its log.

use junto_crypto::{CryptoRng, Zeroizing};

use crate::{
    CARD_BYTES_MAX, Card, Certificate, DecodeError, Order, Revocation, Word,
    encoding::{Reader, put_piece},
    transfer::{ParcelSecret, Sealed},
};

/// Most bytes of records in one parcel.
pub(super) const PARCEL_BYTES_MAX: usize = 32 * 1024;
/// Most bytes of a parcel as it is carried.
const SEALED_BYTES_MAX: usize = PARCEL_BYTES_MAX + 16;

/// A step of an order, as it is carried, and without a secret: those are drawn by the replica that makes an entry of it
/// ([`Entry::step`](crate::Entry::step)). Each may be taken again and again, by whoever carries the words: it is done once, and
/// says the same then.
pub struct Step {
    pub(super) order: Order,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// The destination makes a key, and waits.
    Prepare {
        from: Box<Card>,
        /// In an entry always, before never.
        secret: Option<Box<ParcelSecret>>,
    },
    /// The source serves the range no more, and seals it.
    Depart {
        to: Box<Card>,
        prepared: Box<(Word, Certificate)>,
        /// In an entry always, before never.
        sealed: Option<Box<Drawn>>,
    },
    /// The destination hears that the range has left.
    Arrive(Box<(Word, Certificate)>),
    /// The destination takes records in.
    Import { number: u32, parcel: Vec<u8> },
    /// The destination serves the range.
    Accept,
    /// The source wipes what it sealed.
    Drop(Box<Certificate>),
    /// The source never begins.
    Revoke(Revocation),
    /// The destination waits no more.
    Close(Box<Certificate>),
}

/// A secret for parcels, and what tells it to the destination.
pub(super) type Drawn = (Sealed, Zeroizing<[u8; 64]>);

impl Step {
    /// Most bytes of an encoded step.
    pub const BYTES_MAX: usize = 1 + Order::BYTES + 4 + SEALED_BYTES_MAX;

    /// At the destination: to wait for the range, which comes from the group of `from`.
    #[must_use]
    pub fn prepare(order: Order, from: Card) -> Self {
        let from = Box::new(from);
        let kind = Kind::Prepare { from, secret: None };
        Self { order, kind }
    }

    /// At the source: to let the range go to the group of `to`, which has said `prepared`.
    #[must_use]
    pub fn depart(order: Order, to: Card, prepared: (Word, Certificate)) -> Self {
        let kind = Kind::Depart {
            to: Box::new(to),
            prepared: Box::new(prepared),
            sealed: None,
        };
        Self { order, kind }
    }

    /// At the destination: to hear that the range has left.
    #[must_use]
    pub fn arrive(order: Order, departed: (Word, Certificate)) -> Self {
        let kind = Kind::Arrive(Box::new(departed));
        Self { order, kind }
    }

    /// At the destination: to take that parcel in.
    #[must_use]
    pub fn import(order: Order, number: u32, parcel: Vec<u8>) -> Self {
        let kind = Kind::Import { number, parcel };
        Self { order, kind }
    }

    /// At the destination: to serve the range, all of which is here.
    #[must_use]
    pub fn accept(order: Order) -> Self {
        let kind = Kind::Accept;
        Self { order, kind }
    }

    /// At the source: to wipe what the destination has accepted.
    #[must_use]
    pub fn drop(order: Order, accepted: Certificate) -> Self {
        let kind = Kind::Drop(Box::new(accepted));
        Self { order, kind }
    }

    /// At the source: never to begin.
    #[must_use]
    pub fn revoke(order: Order, revocation: Revocation) -> Self {
        let kind = Kind::Revoke(revocation);
        Self { order, kind }
    }

    /// At the destination: not to wait any more for what its source says is over.
    #[must_use]
    pub fn close(order: Order, over: Certificate) -> Self {
        let kind = Kind::Close(Box::new(over));
        Self { order, kind }
    }

    /// With its secrets, for the log.
    ///
    /// # Errors
    /// [`DecodeError`] if what should be the destination's key is none.
    pub(super) fn draw(mut self, rng: &mut impl CryptoRng) -> Result<Self, DecodeError> {
        match &mut self.kind {
            Kind::Prepare { secret, .. } => {
                *secret = Some(Box::new(ParcelSecret::generate(rng)));
            }
            Kind::Depart {
                prepared, sealed, ..
            } => {
                let Word::Prepared { key, .. } = &prepared.0 else {
                    return Err(DecodeError);
                };
                *sealed = Some(Box::new(Sealed::make(key, rng)?));
            }
            Kind::Arrive(_)
            | Kind::Import { .. }
            | Kind::Accept
            | Kind::Drop(_)
            | Kind::Revoke(_)
            | Kind::Close(_) => {}
        }
        Ok(self)
    }

    /// As it is carried.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.room());
        self.write(&mut out);
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one step as it is carried.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(bytes, false)
    }

    /// Which order it is of.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// What it does, for who watches.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Prepare { .. } => "preparing the destination",
            Kind::Depart { .. } => "departing from the source",
            Kind::Arrive(_) => "arriving at the destination",
            Kind::Import { .. } => "taking a parcel in",
            Kind::Accept => "accepting at the destination",
            Kind::Drop(_) => "dropping at the source",
            Kind::Revoke(_) => "taking the order back",
            Kind::Close(_) => "closing at the destination",
        }
    }

    /// The group to which a range is let go by this step, if it is that one.
    #[must_use]
    pub fn lets_go_to(&self) -> Option<&Card> {
        match &self.kind {
            Kind::Depart { to, .. } => Some(to),
            _ => None,
        }
    }

    /// Enough for [`write`](Self::write): a buffer that grows leaves copies.
    pub(super) fn room(&self) -> usize {
        let parcel = match &self.kind {
            Kind::Import { parcel, .. } => parcel.len(),
            _ => CARD_BYTES_MAX + Word::BYTES_MAX + Certificate::BYTES_MAX + ParcelSecret::BYTES,
        };
        1 + Order::BYTES + 128 + parcel
    }

    /// One byte for what it is, the order, then what it needs.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let kind = match &self.kind {
            Kind::Prepare { .. } => 0,
            Kind::Depart { .. } => 1,
            Kind::Arrive(_) => 2,
            Kind::Import { .. } => 3,
            Kind::Accept => 4,
            Kind::Drop(_) => 5,
            Kind::Revoke(_) => 6,
            Kind::Close(_) => 7,
        };
        out.push(kind);
        out.extend_from_slice(&self.order.to_bytes());
        let said = |out: &mut Vec<u8>, (word, certificate): &(Word, Certificate)| {
            put_piece(out, &word.to_bytes());
            put_piece(out, &certificate.to_bytes());
        };
        match &self.kind {
            Kind::Prepare { from, secret } => {
                put_piece(out, &from.to_bytes());
                if let Some(secret) = secret {
                    secret.write(out);
                }
            }
            Kind::Depart {
                to,
                prepared,
                sealed,
            } => {
                put_piece(out, &to.to_bytes());
                said(out, prepared);
                if let Some(drawn) = sealed {
                    drawn.0.write(out);
                    out.extend_from_slice(&drawn.1[..]);
                }
            }
            Kind::Arrive(departed) => said(out, departed),
            Kind::Import { number, parcel } => {
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(parcel);
            }
            Kind::Accept => {}
            Kind::Drop(certificate) | Kind::Close(certificate) => {
                put_piece(out, &certificate.to_bytes());
            }
            Kind::Revoke(revocation) => out.extend_from_slice(&revocation.to_bytes()),
        }
    }

    /// `drawn`: with its secrets, from a log.
    pub(super) fn read(bytes: &[u8], drawn: bool) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        let order = Order::from_bytes(reader.bytes(Order::BYTES)?)?;
        let kind = match kind {
            0 => Kind::Prepare {
                from: Box::new(Card::from_bytes(reader.piece()?)?),
                secret: match drawn {
                    true => Some(Box::new(ParcelSecret::read(&mut reader)?)),
                    false => None,
                },
            },
            1 => Kind::Depart {
                to: Box::new(Card::from_bytes(reader.piece()?)?),
                prepared: said(&mut reader)?,
                sealed: match drawn {
                    true => {
                        let sealed = Sealed::read(&mut reader)?;
                        Some(Box::new((sealed, Zeroizing::new(reader.array()?))))
                    }
                    false => None,
                },
            },
            2 => Kind::Arrive(said(&mut reader)?),
            3 => {
                let number = reader.u32()?;
                let parcel = reader.rest();
                if parcel.len() > SEALED_BYTES_MAX {
                    return Err(DecodeError);
                }
                let parcel = parcel.to_vec();
                let kind = Kind::Import { number, parcel };
                return Ok(Self { order, kind });
            }
            4 => Kind::Accept,
            5 => Kind::Drop(certificate(&mut reader)?),
            6 => Kind::Revoke(Revocation::read(&mut reader)?),
            7 => Kind::Close(certificate(&mut reader)?),
            _ => return Err(DecodeError),
        };
        reader.finish()?;
        Ok(Self { order, kind })
    }
}

fn said(reader: &mut Reader<'_>) -> Result<Box<(Word, Certificate)>, DecodeError> {
    let word = Word::from_bytes(reader.piece()?)?;
    let certificate = Certificate::from_bytes(reader.piece()?)?;
    Ok(Box::new((word, certificate)))
}

fn certificate(reader: &mut Reader<'_>) -> Result<Box<Certificate>, DecodeError> {
    Ok(Box::new(Certificate::from_bytes(reader.piece()?)?))
}
