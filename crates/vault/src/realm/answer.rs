//! What a realm says to a client. Its size follows from what was asked, never from what came of it.

use junto_crypto::Zeroizing;

use crate::{
    DecodeError, Evaluation, Given, GroupId, Receipt, Refusal, Roster, State, View,
    encoding::{Reader, put_piece},
    record::{RECEIPTS_MAX, VERSIONS_MAX},
};

/// Sizes of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// To everything but views and receipts.
    Small,
    /// To a view.
    View,
    /// To who asks for receipts.
    Receipts,
}

impl Class {
    /// Bytes of every answer of this class.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 1 + Evaluation::BYTES,
            Self::View => 1 + 1 + 32 + 1 + VERSIONS_MAX * (2 + 2 + Roster::BYTES_MAX),
            Self::Receipts => 1 + 1 + RECEIPTS_MAX * Receipt::BYTES,
        }
    }
}

/// What a realm says.
pub enum Answer {
    /// It is so.
    Done,
    /// What is there.
    View(View),
    /// What happened there, the oldest first.
    Receipts(Vec<Receipt>),
    /// The guess, evaluated.
    Evaluation(Evaluation),
    /// The realm's part.
    Given(Given),
    /// No.
    Refused(Refusal),
}

impl Answer {
    /// One byte for what it is, then that, then zeros up to the size of the class. An answer of another class than was
    /// asked for does not exist; it would be cut off.
    #[must_use]
    pub fn to_bytes(&self, class: Class) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(class.bytes()));
        match self {
            Self::Done => out.push(0),
            Self::View(view) => {
                out.extend_from_slice(&[1, view.state as u8]);
                out.extend_from_slice(&view.head);
                // At most [`VERSIONS_MAX`].
                out.push(u8::try_from(view.versions.len()).unwrap_or(u8::MAX));
                for (roster, left) in &view.versions {
                    out.extend_from_slice(&left.to_be_bytes());
                    put_piece(&mut out, &roster.to_bytes());
                }
            }
            Self::Receipts(receipts) => {
                // At most [`RECEIPTS_MAX`].
                out.extend_from_slice(&[2, u8::try_from(receipts.len()).unwrap_or(u8::MAX)]);
                for receipt in receipts {
                    receipt.write(&mut out);
                }
            }
            Self::Evaluation(evaluation) => {
                out.push(3);
                out.extend_from_slice(&evaluation.to_bytes());
            }
            Self::Given(given) => {
                out.push(4);
                out.extend_from_slice(&given.to_bytes()[..]);
            }
            Self::Refused(refusal) => {
                let (code, left) = refusal_code(*refusal);
                out.extend_from_slice(&[5, code]);
                out.extend_from_slice(&left.to_be_bytes());
                if let Refusal::Elsewhere(group) = refusal {
                    out.push(u8::from(group.is_some()));
                    out.extend(group.iter().flat_map(|group| group.0));
                }
            }
        }
        out.resize(class.bytes(), 0);
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the bytes of one answer of that class.
    pub fn from_bytes(bytes: &[u8], class: Class) -> Result<Self, DecodeError> {
        if bytes.len() != class.bytes() {
            return Err(DecodeError);
        }
        let mut reader = Reader::new(bytes);
        let answer = match (reader.u8()?, class) {
            (0, Class::Small) => Self::Done,
            (1, Class::View) => Self::View(view(&mut reader)?),
            (2, Class::Receipts) => {
                let count = usize::from(reader.u8()?);
                let receipts = (0..count).map(|_| Receipt::read(&mut reader));
                Self::Receipts(receipts.collect::<Result<_, _>>()?)
            }
            (3, Class::Small) => Self::Evaluation(Evaluation::from_bytes(&reader.array()?)?),
            (4, Class::Small) => Self::Given(Given::from_bytes(&Zeroizing::new(reader.array()?))?),
            (5, _) => Self::Refused(refusal(&mut reader)?),
            _ => return Err(DecodeError),
        };
        reader.finish_padded()?;
        Ok(answer)
    }
}

fn view(reader: &mut Reader<'_>) -> Result<View, DecodeError> {
    let state = match reader.u8()? {
        0 => State::Absent,
        1 => State::Active,
        2 => State::Exhausted,
        _ => return Err(DecodeError),
    };
    let head = reader.array()?;
    let count = usize::from(reader.u8()?);
    if count > VERSIONS_MAX || (state == State::Active) != (count > 0) {
        return Err(DecodeError);
    }
    let mut versions = Vec::new();
    for _ in 0..count {
        let left = reader.u16()?;
        versions.push((Roster::from_bytes(reader.piece()?)?, left));
    }
    Ok(View {
        state,
        versions,
        head,
    })
}

fn refusal_code(refusal: Refusal) -> (u8, u16) {
    match refusal {
        Refusal::Absent => (0, 0),
        Refusal::Wrong { left } => (1, left),
        Refusal::Exhausted => (2, 0),
        Refusal::Spent => (3, 0),
        Refusal::Overtaken => (4, 0),
        Refusal::Full => (5, 0),
        Refusal::Late => (6, 0),
        Refusal::Elsewhere(_) => (7, 0),
        Refusal::Moving => (8, 0),
    }
}

fn refusal(reader: &mut Reader<'_>) -> Result<Refusal, DecodeError> {
    Ok(match (reader.u8()?, reader.u16()?) {
        (0, 0) => Refusal::Absent,
        (1, left) => Refusal::Wrong { left },
        (2, 0) => Refusal::Exhausted,
        (3, 0) => Refusal::Spent,
        (4, 0) => Refusal::Overtaken,
        (5, 0) => Refusal::Full,
        (6, 0) => Refusal::Late,
        (7, 0) => {
            let group = reader.flag()?.then(|| reader.array()).transpose()?;
            Refusal::Elsewhere(group.map(GroupId))
        }
        (8, 0) => Refusal::Moving,
        _ => return Err(DecodeError),
    })
}
