//! A record as bytes: for the snapshot that a replica gives another, never for a disk.

use super::{Event, Kept, RECEIPTS_MAX, Receipt, Record, VERSIONS_MAX};
use crate::{
    DecodeError, Deposit, RealmId,
    encoding::{Reader, put_piece},
};

impl Event {
    fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        Ok(match byte {
            1 => Self::Activated,
            2 => Self::Charged,
            3 => Self::Claimed,
            4 => Self::Refused,
            5 => Self::Erased,
            6 => Self::Deleted,
            7 => Self::Settled,
            _ => return Err(DecodeError),
        })
    }
}

impl Receipt {
    /// Bytes of an encoded receipt.
    pub const BYTES: usize = 8 + 1 + 2 + 32;

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.push(self.event as u8);
        out.extend_from_slice(&self.left.to_be_bytes());
        out.extend_from_slice(&self.head);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            sequence: reader.u64()?,
            event: Event::from_byte(reader.u8()?)?,
            left: reader.u16()?,
            head: reader.array()?,
        })
    }
}

impl Kept {
    const FIXED: usize = 2 + 2 + 1 + 32 + 2;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.left.to_be_bytes());
        out.extend_from_slice(&self.unproven.to_be_bytes());
        out.push(u8::from(self.last.is_some()));
        out.extend_from_slice(&self.last.unwrap_or([0; 32]));
        put_piece(out, &self.deposit.to_bytes());
    }

    fn read(reader: &mut Reader<'_>, realm: &RealmId) -> Result<Self, DecodeError> {
        let (left, unproven) = (reader.u16()?, reader.u16()?);
        let (charged, last) = (reader.flag()?, reader.array()?);
        if !charged && last != [0; 32] {
            return Err(DecodeError);
        }
        let deposit = Box::new(Deposit::from_bytes(reader.piece()?, realm)?);
        // A counter never says more than was granted.
        let sound = left <= deposit.limit.each && unproven <= deposit.limit.lifetime;
        sound
            .then_some(Self {
                deposit,
                left,
                unproven,
                last: charged.then_some(last),
            })
            .ok_or(DecodeError)
    }
}

impl Record {
    /// Most bytes of an encoded record.
    pub(crate) const BYTES_MAX: usize = 1
        + 2
        + 8
        + 32
        + 2
        + Deposit::BYTES_MAX
        + 1
        + VERSIONS_MAX * (Kept::FIXED + Deposit::BYTES_MAX)
        + 1
        + RECEIPTS_MAX * Receipt::BYTES;

    /// Whether it was exhausted, the debt, the sequence and head of its receipts, what is staged, what is kept, the
    /// receipts. Full of secrets.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.exhausted));
        out.extend_from_slice(&self.debt.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.head);
        match &self.staged {
            Some(deposit) => put_piece(out, &deposit.to_bytes()),
            None => put_piece(out, &[]),
        }
        // At most [`VERSIONS_MAX`] and [`RECEIPTS_MAX`].
        out.push(u8::try_from(self.kept.len()).unwrap_or(u8::MAX));
        for kept in &self.kept {
            kept.write(out);
        }
        out.push(u8::try_from(self.receipts.len()).unwrap_or(u8::MAX));
        for receipt in &self.receipts {
            receipt.write(out);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>, realm: &RealmId) -> Result<Self, DecodeError> {
        let (exhausted, debt) = (reader.flag()?, reader.u16()?);
        let (sequence, head) = (reader.u64()?, reader.array()?);
        let staged = match reader.piece()? {
            [] => None,
            bytes => Some(Box::new(Deposit::from_bytes(bytes, realm)?)),
        };
        let count = usize::from(reader.u8()?);
        let mut kept: Vec<Kept> = Vec::new();
        for _ in 0..count {
            let next = Kept::read(reader, realm)?;
            if kept.len() == VERSIONS_MAX
                || kept.iter().any(|kept| kept.is(&next.deposit.version()))
            {
                return Err(DecodeError);
            }
            kept.push(next);
        }
        let count = usize::from(reader.u8()?);
        let mut receipts: Vec<Receipt> = Vec::new();
        for _ in 0..count {
            if receipts.len() == RECEIPTS_MAX {
                return Err(DecodeError);
            }
            receipts.push(Receipt::read(reader)?);
        }
        // The last receipt is what the chain says.
        let last = receipts
            .last()
            .map_or((0, [0; 32]), |last| (last.sequence, last.head));
        if last != (sequence, head) {
            return Err(DecodeError);
        }
        Ok(Self {
            staged,
            kept,
            debt,
            exhausted,
            receipts,
            head,
            sequence,
        })
    }
}
