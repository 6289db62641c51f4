//! What is asked at the clients' door, and what is said to it, as bytes.
//!
//! ```text
//! ask    = length u16 · token · operation       · answer
//! step   = step                                 · moved
//! parcel = order id (32) · number u32           · 0, or 1 and the parcel
//! ground = nothing                              · turn u64 · count u16 · (first u64 · last u64)*
//! card   = group (32)                           · 0, or 1 and the card
//!
//! moved  = 0 · length u16 · word · length u16 · certificate | 1 · number u32 | 2 | 3 · hindrance u8
//! ```
//!
//! Each answer stands behind 0; in its place may stand why there is none.

use junto_crypto::Zeroizing;
use junto_vault::{
    CARD_BYTES_MAX, Card, Certificate, GroupId, Hindrance, Operation, OrderId, Progress, RealmId,
    ReplicaId, Span, Step, Token, Unauthorised, Word,
};

use crate::{
    AskError,
    links::Bytes,
    read::{Malformed, Reader},
    said::NONCE_BYTES,
};

/// What a client asks of a record.
pub(crate) const ASK: u8 = 1;
/// A step of an order.
pub(crate) const STEP: u8 = 2;
/// A parcel of what leaves.
pub(crate) const PARCEL: u8 = 3;
/// What the group serves, and its turn.
pub(crate) const GROUND: u8 = 4;
/// The card of a group to which this one sends clients.
pub(crate) const CARD: u8 = 5;

/// Most bytes of what a client asks of a record.
pub(crate) const ASK_BYTES_MAX: usize = 2 + Token::BYTES_MAX + Operation::BYTES_MAX;
/// Most bytes of a question at the clients' door.
pub(crate) const QUESTION_BYTES_MAX: usize = {
    let (ask, step) = (NONCE_BYTES + ASK_BYTES_MAX, Step::BYTES_MAX);
    if ask > step { ask } else { step }
};
/// Most bytes of what a step came to.
pub(crate) const MOVED_BYTES_MAX: usize = 1 + 2 + Word::BYTES_MAX + 2 + Certificate::BYTES_MAX;
/// More than a parcel has.
pub(crate) const PARCEL_BYTES_MAX: usize = 1 + Step::BYTES_MAX;
/// Ranges that a group tells apart at most.
const SPANS_MAX: usize = 256;
pub(crate) const GROUND_BYTES_MAX: usize = 8 + 2 + SPANS_MAX * 16;
pub(crate) const CARD_ANSWER_BYTES_MAX: usize = 1 + CARD_BYTES_MAX;

/// What a step came to: how far the order is with the proof of what the group says, or what is in the way.
pub(crate) type Moved = (Result<Progress, Hindrance>, Option<Certificate>);

const HINDRANCES: [Hindrance; 8] = [
    Hindrance::Foreign,
    Hindrance::Turn,
    Hindrance::Ground,
    Hindrance::Busy,
    Hindrance::Uncertified,
    Hindrance::Unlike,
    Hindrance::Early,
    Hindrance::Unsound,
];

/// What a client asks: its token behind its length, then the operation.
pub(crate) fn put_ask(token: &Token, operation: &[u8]) -> Bytes {
    let token = token.to_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(ASK_BYTES_MAX));
    put_piece(&mut out, &token);
    out.extend_from_slice(operation);
    out
}

pub(crate) fn read_ask(body: &[u8], realm: &RealmId) -> Result<(Token, Operation), Malformed> {
    let mut reader = Reader::new(body);
    let token = Token::from_bytes(piece(&mut reader)?).map_err(|_| Malformed)?;
    let operation = Operation::from_bytes(reader.rest(), realm).map_err(|_| Malformed)?;
    Ok((token, operation))
}

/// 0 and what is answered, or why there is none.
pub(crate) fn put_reply(asked: Result<Bytes, AskError>) -> Bytes {
    let mut out = Zeroizing::new(Vec::new());
    match asked {
        Ok(answer) => {
            out.reserve_exact(1 + answer.len());
            out.push(0);
            out.extend_from_slice(&answer);
        }
        Err(AskError::Unauthorised(_)) => out.push(1),
        Err(AskError::Elsewhere(leader)) => {
            out.extend_from_slice(&[2, u8::from(leader.is_some())]);
            out.extend(leader.iter().flat_map(|leader| leader.0));
        }
        Err(AskError::Foreign) => out.push(3),
        Err(AskError::Unheld) => out.push(4),
        Err(AskError::Stopped) => out.push(5),
        Err(AskError::Unproven) => out.push(6),
        Err(AskError::Behind) => out.push(7),
    }
    out
}

/// What was answered.
pub(crate) fn read_reply(reply: &[u8]) -> Result<Result<Bytes, AskError>, Malformed> {
    let mut reader = Reader::new(reply);
    let error = match reader.u8()? {
        0 => return Ok(Ok(Zeroizing::new(reader.rest().to_vec()))),
        1 => AskError::Unauthorised(Unauthorised),
        2 => AskError::Elsewhere(reader.option(|reader| reader.array().map(ReplicaId))?),
        3 => AskError::Foreign,
        4 => AskError::Unheld,
        5 => AskError::Stopped,
        6 => AskError::Unproven,
        7 => AskError::Behind,
        _ => return Err(Malformed),
    };
    reader.finish()?;
    Ok(Err(error))
}

pub(crate) fn put_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn piece<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = usize::from(reader.u16()?);
    reader.bytes(length)
}

pub(crate) fn put_moved((moved, proof): &Moved) -> Bytes {
    let mut out = Zeroizing::new(Vec::new());
    match (moved, proof) {
        (Ok(Progress::Said(word)), Some(proof)) => {
            out.push(0);
            put_piece(&mut out, &word.to_bytes());
            put_piece(&mut out, &proof.to_bytes());
        }
        (Ok(Progress::Wants(number)), _) => {
            out.push(1);
            out.extend_from_slice(&number.to_be_bytes());
        }
        (Ok(Progress::Whole), _) => out.push(2),
        // A word is said with its proof, or not at all: it is asked for again.
        (Ok(Progress::Said(_)), None) => out.extend_from_slice(&[3, u8::MAX]),
        (Err(hindrance), _) => {
            let number = HINDRANCES.iter().position(|it| it == hindrance);
            let number = number.and_then(|it| u8::try_from(it).ok());
            out.extend_from_slice(&[3, number.unwrap_or(u8::MAX)]);
        }
    }
    out
}

pub(crate) fn read_moved(body: &[u8]) -> Result<Moved, Malformed> {
    let mut reader = Reader::new(body);
    let moved = match reader.u8()? {
        0 => {
            let word = Word::from_bytes(piece(&mut reader)?).map_err(|_| Malformed)?;
            let proof = Certificate::from_bytes(piece(&mut reader)?).map_err(|_| Malformed)?;
            (Ok(Progress::Said(word)), Some(proof))
        }
        1 => (Ok(Progress::Wants(reader.u32()?)), None),
        2 => (Ok(Progress::Whole), None),
        3 => {
            let hindrance = HINDRANCES.get(usize::from(reader.u8()?));
            (Err(*hindrance.ok_or(Malformed)?), None)
        }
        _ => return Err(Malformed),
    };
    reader.finish()?;
    Ok(moved)
}

pub(crate) fn put_parcel_wanted(order: &OrderId, number: u32) -> Bytes {
    Zeroizing::new([&order.0[..], &number.to_be_bytes()].concat())
}

pub(crate) fn read_parcel_wanted(body: &[u8]) -> Result<(OrderId, u32), Malformed> {
    let mut reader = Reader::new(body);
    let wanted = (OrderId(reader.array()?), reader.u32()?);
    reader.finish()?;
    Ok(wanted)
}

/// What may be there, up to the end.
pub(crate) fn put_maybe(bytes: Option<&[u8]>) -> Bytes {
    let mut out = Zeroizing::new(vec![u8::from(bytes.is_some())]);
    out.extend_from_slice(bytes.unwrap_or_default());
    out
}

pub(crate) fn read_maybe(body: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut reader = Reader::new(body);
    if reader.flag()? {
        return Ok(Some(reader.rest().to_vec()));
    }
    reader.finish()?;
    Ok(None)
}

pub(crate) fn put_ground(turn: u64, spans: &[Span]) -> Bytes {
    let mut out = Zeroizing::new(turn.to_be_bytes().to_vec());
    let count = u16::try_from(spans.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for span in spans {
        out.extend_from_slice(&span.first().to_be_bytes());
        out.extend_from_slice(&span.last().to_be_bytes());
    }
    out
}

pub(crate) fn read_ground(body: &[u8]) -> Result<(u64, Vec<Span>), Malformed> {
    let mut reader = Reader::new(body);
    let (turn, count) = (reader.u64()?, usize::from(reader.u16()?));
    let mut spans = Vec::<Span>::new();
    for _ in 0..count {
        let span = Span::new(reader.u64()?, reader.u64()?).map_err(|_| Malformed)?;
        if spans.last().is_some_and(|last| last.last() >= span.first()) {
            return Err(Malformed);
        }
        spans.push(span);
    }
    reader.finish()?;
    Ok((turn, spans))
}

pub(crate) fn read_group(body: &[u8]) -> Result<GroupId, Malformed> {
    let mut reader = Reader::new(body);
    let group = GroupId(reader.array()?);
    reader.finish()?;
    Ok(group)
}

/// The card of that group, if it is there. Anybody can sign a card: it has to be the realm's.
pub(crate) fn read_card(
    body: &[u8],
    group: &GroupId,
    realm: &RealmId,
) -> Result<Option<Card>, Malformed> {
    let Some(bytes) = read_maybe(body)? else {
        return Ok(None);
    };
    let card = Card::from_bytes(&bytes).map_err(|_| Malformed)?;
    (card.group() == *group && card.realm() == realm)
        .then_some(Some(card))
        .ok_or(Malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_step_has_one_encoding() {
        let word = Word::Over {
            order: OrderId([1; 32]),
        };
        let proof = Certificate::from_bytes(&[[2; 32].as_slice(), &[0]].concat()).unwrap();
        let mut all: Vec<Moved> = vec![
            (Ok(Progress::Said(word.clone())), Some(proof)),
            (Ok(Progress::Wants(7)), None),
            (Ok(Progress::Whole), None),
        ];
        all.extend(HINDRANCES.map(|it| (Err(it), None)));
        for moved in all {
            let bytes = put_moved(&moved);
            assert!(bytes.len() <= MOVED_BYTES_MAX);
            assert_eq!(read_moved(&bytes), Ok(moved));
            for at in 0..bytes.len() {
                assert!(read_moved(&bytes[..at]).is_err());
            }
            assert!(read_moved(&[&bytes[..], &[0]].concat()).is_err());
        }
        let unproven = put_moved(&(Ok(Progress::Said(word)), None));
        assert!(read_moved(&unproven).is_err());
    }

    #[test]
    fn grounds_are_in_order() {
        let spans = [Span::new(0, 4).unwrap(), Span::new(9, u64::MAX).unwrap()];
        let bytes = put_ground(3, &spans);
        assert_eq!(read_ground(&bytes), Ok((3, spans.to_vec())));
        assert!(read_ground(&put_ground(3, &[spans[1], spans[0]])).is_err());
        assert!(read_ground(&bytes[..bytes.len() - 1]).is_err());
        let order = OrderId([4; 32]);
        let wanted = put_parcel_wanted(&order, 9);
        assert_eq!(read_parcel_wanted(&wanted), Ok((order, 9)));
        assert!(read_parcel_wanted(&wanted[1..]).is_err());
        assert_eq!(read_maybe(&put_maybe(None)), Ok(None));
        assert_eq!(read_maybe(&put_maybe(Some(b"x"))), Ok(Some(b"x".to_vec())));
        assert!(read_maybe(&[0, 1]).is_err() && read_maybe(&[2]).is_err());
    }
}
