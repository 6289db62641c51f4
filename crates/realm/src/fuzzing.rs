//! Decoders that are not public, for fuzz targets: each returns what its value encodes to.

use junto_crypto::Zeroizing;
use junto_vault::{RealmId, ReplicaId};

use crate::{
    BootKey, Card, Evidence,
    asking::{
        put_ask, put_ground, put_maybe, put_moved, put_piece, read_ask, read_ground, read_maybe,
        read_moved,
    },
    said::{PASSED, Welcome, put_said, put_welcome, read_said},
    wire::{Request, Response},
};

/// A question of one replica to another, of that kind.
#[must_use]
pub fn request(kind: u8, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let request = Request::from_bytes(kind, bytes).ok()?;
    Some(request.to_bytes())
}

/// The answer to a question of that kind.
#[must_use]
pub fn response(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    let response = Response::from_bytes(kind, bytes).ok()?;
    Some(response.to_bytes())
}

/// What a client asks of `realm`.
#[must_use]
pub fn ask(bytes: &[u8], realm: &RealmId) -> Option<Zeroizing<Vec<u8>>> {
    let (token, operation) = read_ask(bytes, realm).ok()?;
    Some(put_ask(&token, &operation.to_bytes()))
}

/// A realm's card.
#[must_use]
pub fn card(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Card::from_bytes(bytes).ok()?.to_bytes())
}

/// Evidence.
#[must_use]
pub fn evidence(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Evidence::from_bytes(bytes).ok()?.to_bytes())
}

/// What a member said, for a client behind a frontend, to a question that was empty.
#[must_use]
pub fn said(bytes: &[u8], realm: &RealmId) -> Option<Vec<u8>> {
    let (card, text) = read_said(bytes, realm, (PASSED, b"")).ok()?;
    let mut again = bytes.get(..96)?.to_vec();
    put_piece(&mut again, &card.to_bytes());
    again.extend_from_slice(text);
    Some(again)
}

/// As a member says it.
#[must_use]
pub fn signed(card: &Card, member: &BootKey, text: &[u8]) -> Zeroizing<Vec<u8>> {
    put_said(card, member, (PASSED, b""), text)
}

/// What somebody with that key says of itself. What a frontend says is checked, and not made anew.
#[must_use]
pub fn welcome(bytes: &[u8], realm: &RealmId, key: ReplicaId) -> Option<Zeroizing<Vec<u8>>> {
    let read = Welcome::read(bytes, realm, key).ok()?;
    let made = || put_welcome(read.time, &read.about, &read.shown);
    Some(match read.is_frontend {
        true => Zeroizing::new(bytes.to_vec()),
        false => made(),
    })
}

/// What a step came to, a group's ground, and what may be there, as who carries an order hears them.
#[must_use]
pub fn heard(kind: u8, bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    match kind % 3 {
        0 => Some(put_moved(&read_moved(bytes).ok()?)),
        1 => {
            let (turn, spans) = read_ground(bytes).ok()?;
            Some(put_ground(turn, &spans))
        }
        _ => Some(put_maybe(read_maybe(bytes).ok()?.as_deref())),
    }
}
