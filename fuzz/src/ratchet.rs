//! The double ratchet: parameters, stored state, and conversations.

use std::{collections::VecDeque, sync::LazyLock};

use junto_crypto::{Zeroizing, pad};
use junto_ratchet::{
    MakerKeys, Offer, Options, Params, Ratchet, RatchetError, SkippedId, SkippedKey, Version,
    VersionRange, join,
};

use crate::{input::Input, seeds};

/// The joiner's and the maker's stored state after a first exchange, without and with key
/// encapsulation.
pub(crate) static STATES: LazyLock<[[Zeroizing<Vec<u8>>; 2]; 2]> =
    LazyLock::new(|| [false, true].map(states));

fn states(pq: bool) -> [Zeroizing<Vec<u8>>; 2] {
    let mut rng = seeds::rng(3);
    let options = Options {
        pq,
        ..Options::default()
    };
    let keys = MakerKeys::generate(pq, &mut rng);
    let offer = keys.offer(VersionRange::OURS);
    let (mut joiner, params) = join(&offer, options, &mut rng).unwrap();
    let mut maker = keys.accept(&params, options).unwrap();
    for _ in 0..2 {
        let hello = joiner.encrypt(b"hello", 100).unwrap();
        let _ = maker.decrypt(&hello, &mut rng).unwrap();
        let answer = maker.encrypt(b"answer", 100).unwrap();
        let _ = joiner.decrypt(&answer, &mut rng).unwrap();
    }
    [joiner.encode(), maker.encode()]
}

pub(crate) fn restored(pq: bool, maker: bool) -> Ratchet {
    let state = &STATES[usize::from(pq)][usize::from(maker)];
    Ratchet::decode(state, []).unwrap()
}

/// What the sides exchange to agree on keys.
pub(crate) fn params(bytes: &[u8]) {
    if let Ok(offer) = Offer::decode(bytes) {
        assert_eq!(offer.encode(), bytes);
    }
    if let Ok((offer, rest)) = Offer::decode_front(bytes) {
        assert_eq!([&offer.encode()[..], rest].concat(), bytes);
        let options = Options {
            pq: false,
            ..Options::default()
        };
        // Weak keys and foreign versions are refused, nothing else.
        match join(&offer, options, &mut seeds::rng(4)).map(drop) {
            Ok(()) | Err(RatchetError::WeakKey | RatchetError::Version) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    if let Ok(params) = Params::decode(bytes) {
        assert_eq!(params.encode(), bytes);
    }
    if let Ok((params, rest)) = Params::decode_front(bytes) {
        static KEYS: LazyLock<[MakerKeys; 2]> =
            LazyLock::new(|| [false, true].map(|pq| MakerKeys::generate(pq, &mut seeds::rng(5))));
        assert_eq!([&params.encode()[..], rest].concat(), bytes);
        for keys in KEYS.iter() {
            if let Ok(mut ratchet) = keys.accept(&params, Options::default()) {
                assert!(ratchet.encrypt(b"too early", 100).is_err());
            }
        }
    }
}

/// Stored state: the first byte says which kind.
pub(crate) fn state(bytes: &[u8]) {
    let Some((&kind, bytes)) = bytes.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            if let Ok(mut ratchet) = Ratchet::decode(bytes, []) {
                assert_eq!(ratchet.encode()[..], *bytes);
                // Whatever it says, using it is safe.
                if let Ok(sent) = ratchet.encrypt(b"body", 100) {
                    let _ = ratchet.decrypt(&sent, &mut seeds::rng(6));
                }
                let again = ratchet.encode();
                assert!(Ratchet::decode(&again, []).is_ok());
            }
        }
        1 => {
            if let Ok(keys) = MakerKeys::decode(bytes) {
                assert_eq!(keys.encode()[..], *bytes);
                let offer = keys.offer(VersionRange::OURS);
                assert_eq!(Offer::decode(&offer.encode()), Ok(offer));
            }
        }
        _ => {
            let mut input = Input(bytes);
            let mut keys = Vec::new();
            while !input.is_empty() {
                let id = SkippedId {
                    epoch: u32::from(input.u8()),
                    number: u32::from(input.u8()),
                };
                let bytes = input.bytes(80);
                if let Ok(key) = SkippedKey::decode(id, bytes) {
                    assert_eq!(key.encode()[..], *bytes);
                    keys.push(key);
                }
            }
            let count = keys.len();
            if let Ok(ratchet) = Ratchet::decode(&STATES[0][0], keys) {
                assert_eq!(ratchet.skipped_count(), count);
            }
        }
    }
}

/// A message that nobody sent: refused, and nothing changes. Then headers as they look once
/// opened.
pub(crate) fn message(bytes: &[u8]) {
    for pq in [false, true] {
        let mut ratchet = restored(pq, true);
        let before = ratchet.encode();
        assert!(ratchet.decrypt(bytes, &mut seeds::rng(7)).is_err());
        assert!(
            before == ratchet.encode(),
            "a refused message changed the state"
        );
    }
    for version in [Version::V2, Version::V3] {
        if let Some(encoded) = junto_ratchet::fuzzing::header(version, bytes) {
            let text = pad::unpad(bytes).unwrap();
            // What follows is for later versions.
            assert!(text.starts_with(&encoded));
        }
    }
}

/// Two sides, and an input that says who sends, what arrives in which order, damaged or twice, and
/// when a side is restored from what it stored.
pub(crate) fn conversation(bytes: &[u8]) {
    let mut input = Input(bytes);
    let pq = input.u8() & 1 == 1;
    let mut rng = seeds::rng(8);
    let mut sides = [restored(pq, false), restored(pq, true)];
    let mut late: [Vec<(SkippedId, Zeroizing<Vec<u8>>)>; 2] = Default::default();
    let mut wires: [VecDeque<(u8, Vec<u8>)>; 2] = Default::default();
    let mut delivered = std::collections::BTreeSet::new();
    let mut sent = 0_u8;
    // Key encapsulation takes milliseconds.
    for _ in 0..if pq { 12 } else { 60 } {
        if input.is_empty() {
            break;
        }
        let byte = input.u8();
        let side = usize::from(byte >> 7);
        let (wire, other) = (&mut wires[side], 1 - side);
        match byte & 7 {
            0 | 1 => {
                // Number 255 would come again.
                if let Some(next) = sent.checked_add(1) {
                    sent = next;
                    let message = sides[side].encrypt(&[sent], 40).unwrap();
                    wire.push_back((sent, message));
                }
            }
            2..=5 => {
                let at = match byte & 7 {
                    2 | 3 => 0,
                    _ => usize::from(input.u8()) % wire.len().max(1),
                };
                // A copy may come again.
                let taken = if byte & 0x40 == 0 {
                    wire.remove(at)
                } else {
                    wire.get(at).cloned()
                };
                let Some((number, message)) = taken else {
                    continue;
                };
                match sides[other].decrypt(&message, &mut rng) {
                    Ok(opened) => {
                        assert_eq!(opened.plaintext[..], [number]);
                        assert!(delivered.insert(number), "{number} twice");
                        let removed = &opened.delta.removed;
                        late[other].retain(|(id, _)| !removed.contains(id));
                        let added = opened.delta.added.iter();
                        late[other].extend(added.map(|key| (key.id(), key.encode())));
                    }
                    Err(error) => {
                        assert!(delivered.contains(&number), "{number} lost: {error:?}");
                    }
                }
            }
            6 => {
                let Some((_, message)) = wire.front() else {
                    continue;
                };
                let mut damaged = message.clone();
                let at = usize::from(input.u16()) % damaged.len();
                damaged[at] ^= input.u8().max(1);
                let before = sides[other].encode();
                assert!(sides[other].decrypt(&damaged, &mut rng).is_err());
                assert!(before == sides[other].encode());
            }
            _ => {
                let state = sides[side].encode();
                let keys = late[side]
                    .iter()
                    .map(|(id, key)| SkippedKey::decode(*id, key).unwrap());
                sides[side] = Ratchet::decode(&state, keys).unwrap();
            }
        }
        assert_eq!(sides[other].skipped_count(), late[other].len());
    }
}
