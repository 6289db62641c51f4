//! What a realm's replicas agree on, one after the other.

use junto_crypto::{CryptoRng, Zeroizing};

use super::{RecordId, Seconds, answer::Class, step::Step};
use crate::{AuthKey, BlindedElement, DecodeError, Deposit, RealmId, Version, encoding::Reader};

/// What a client asks of one record.
pub enum Operation {
    /// What is there. Also an entry: a replica that was left behind must not answer.
    View,
    /// What happened there.
    Receipts,
    /// [`Record::stage`](crate::Record::stage).
    Stage(Box<Deposit>),
    /// [`Record::activate`](crate::Record::activate).
    Activate {
        /// Of the staged deposit.
        version: Version,
        /// That shows that its keys are known.
        auth: AuthKey,
        /// A version before, and its PIN's proof.
        former: Option<(Version, AuthKey)>,
    },
    /// [`Record::settle`](crate::Record::settle).
    Settle {
        /// The newest.
        version: Version,
        /// That shows that its keys are known.
        auth: AuthKey,
    },
    /// A guess: charged, then evaluated.
    Evaluate {
        /// At which PIN.
        version: Version,
        /// The guess, blinded.
        element: BlindedElement,
    },
    /// [`Record::claim`](crate::Record::claim).
    Claim {
        /// Of which secret.
        version: Version,
        /// What the guess came to.
        auth: AuthKey,
    },
    /// [`Record::delete`](crate::Record::delete).
    Delete,
}

impl Operation {
    /// Bytes of every encoded operation but [`Operation::Stage`]: nobody tells them apart by their size.
    pub const BYTES: usize = 1 + 16 + 32 + 1 + 16 + 32;
    /// Most bytes of an encoded operation.
    pub const BYTES_MAX: usize = 1 + Deposit::BYTES_MAX;

    /// Of what size its answer is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::View => Class::View,
            Self::Receipts => Class::Receipts,
            Self::Stage(_)
            | Self::Activate { .. }
            | Self::Settle { .. }
            | Self::Evaluate { .. }
            | Self::Claim { .. }
            | Self::Delete => Class::Small,
        }
    }

    /// One byte for what it is, then what it needs, then zeros.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(Self::BYTES_MAX));
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let end = out.len() + Self::BYTES;
        let mut put = |kind: u8, version: &Version, proof: &[u8; 32]| {
            out.push(kind);
            out.extend_from_slice(&version.0);
            out.extend_from_slice(proof);
        };
        match self {
            Self::View => out.push(0),
            Self::Receipts => out.push(1),
            Self::Stage(deposit) => {
                out.push(2);
                out.extend_from_slice(&deposit.to_bytes());
                return;
            }
            Self::Activate {
                version,
                auth,
                former,
            } => {
                put(3, version, auth.as_bytes());
                if let Some((version, auth)) = former {
                    put(1, version, auth.as_bytes());
                }
            }
            Self::Settle { version, auth } => put(4, version, auth.as_bytes()),
            Self::Evaluate { version, element } => put(5, version, &element.to_bytes()),
            Self::Claim { version, auth } => put(6, version, auth.as_bytes()),
            Self::Delete => out.push(7),
        }
        out.resize(end, 0);
    }

    /// As `realm` receives it.
    ///
    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one operation, a deposit in it being one for `realm`.
    pub fn from_bytes(bytes: &[u8], realm: &RealmId) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        if kind == 2 {
            let deposit = Deposit::from_bytes(reader.rest(), realm)?;
            return Ok(Self::Stage(Box::new(deposit)));
        }
        if bytes.len() != Self::BYTES {
            return Err(DecodeError);
        }
        let operation = match kind {
            0 => Self::View,
            1 => Self::Receipts,
            3 => {
                let (version, auth) = proof(&mut reader)?;
                let former = reader.flag()?.then(|| proof(&mut reader)).transpose()?;
                Self::Activate {
                    version,
                    auth,
                    former,
                }
            }
            4 => {
                let (version, auth) = proof(&mut reader)?;
                Self::Settle { version, auth }
            }
            5 => Self::Evaluate {
                version: Version(reader.array()?),
                element: BlindedElement::from_bytes(&reader.array()?)?,
            },
            6 => {
                let (version, auth) = proof(&mut reader)?;
                Self::Claim { version, auth }
            }
            7 => Self::Delete,
            _ => return Err(DecodeError),
        };
        reader.finish_padded()?;
        Ok(operation)
    }
}

fn proof(reader: &mut Reader<'_>) -> Result<(Version, AuthKey), DecodeError> {
    let version = Version(reader.array()?);
    let auth = Zeroizing::new(reader.array()?);
    Ok((version, AuthKey::from_bytes(&auth)))
}

/// What somebody was admitted to ask. Made by [`Realm::admit`](super::Realm::admit) alone, or read from a log.
pub struct Request {
    pub(super) record: RecordId,
    /// When the token ends that admitted it.
    pub(super) expires: Seconds,
    pub(super) operation: Operation,
}

const REQUEST_BYTES_MAX: usize = 32 + 8 + Operation::BYTES_MAX;
const _: () = assert!(REQUEST_BYTES_MAX <= Step::BYTES_MAX);

/// One step of a realm: what time the leader has, and what it was asked.
pub struct Entry {
    pub(super) reading: Seconds,
    pub(super) asked: Asked,
}

pub(super) enum Asked {
    /// Time goes on.
    Nothing,
    /// By a client, of a record.
    Request(Box<Request>),
    /// For an order.
    Step(Box<Step>),
}

impl Entry {
    /// Most bytes of an encoded entry.
    pub const BYTES_MAX: usize = 8 + 1 + Step::BYTES_MAX;

    /// Only lets time go on: a realm that nobody asks would find every token too long-lived when it is asked.
    #[must_use]
    pub fn tick(reading: Seconds) -> Self {
        Self {
            reading,
            asked: Asked::Nothing,
        }
    }

    /// A step of an order, with what it needs of secrets. Everybody may ask for it: it is worth what is proven in it.
    ///
    /// # Errors
    /// [`DecodeError`] if nothing can be sealed to what should be a key.
    pub fn step(
        step: Step,
        reading: Seconds,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, DecodeError> {
        let asked = Asked::Step(Box::new(step.draw(rng)?));
        Ok(Self { reading, asked })
    }

    /// The time; then nothing, or the record, when the token ends and the operation, or a step.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let room = match &self.asked {
            Asked::Nothing => 0,
            Asked::Request(_) => REQUEST_BYTES_MAX,
            Asked::Step(step) => step.room(),
        };
        let mut out = Zeroizing::new(Vec::with_capacity(8 + 1 + room));
        out.extend_from_slice(&self.reading.0.to_be_bytes());
        match &self.asked {
            Asked::Nothing => out.push(0),
            Asked::Request(request) => {
                out.push(1);
                out.extend_from_slice(&request.record.0);
                out.extend_from_slice(&request.expires.0.to_be_bytes());
                request.operation.write(&mut out);
            }
            Asked::Step(step) => {
                out.push(2);
                step.write(&mut out);
            }
        }
        out
    }

    /// As a replica of `realm` reads it from a log.
    ///
    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one entry.
    pub fn from_bytes(bytes: &[u8], realm: &RealmId) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let reading = Seconds(reader.u64()?);
        let asked = match reader.u8()? {
            0 => {
                reader.finish()?;
                Asked::Nothing
            }
            1 => Asked::Request(Box::new(Request {
                record: RecordId(reader.array()?),
                expires: Seconds(reader.u64()?),
                operation: Operation::from_bytes(reader.rest(), realm)?,
            })),
            2 => Asked::Step(Box::new(Step::read(reader.rest(), true)?)),
            _ => return Err(DecodeError),
        };
        Ok(Self { reading, asked })
    }
}
