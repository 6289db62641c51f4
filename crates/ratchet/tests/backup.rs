//! A state that came back from a backup, while its original lives on: no key encrypts for both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pair;

use std::collections::BTreeSet;

use junto_ratchet::{Ratchet, RatchetError};
use pair::{PADDED, Pair, classical, hybrid, rng};
use rand_chacha::rand_core::Rng as _;

/// A copy as a backup has it. No test here leaves a gap, so there are no keys of late messages.
fn copy(ratchet: &Ratchet) -> Ratchet {
    assert_eq!(ratchet.skipped_count(), 0);
    Ratchet::decode(&ratchet.encode(), []).unwrap()
}

/// What the key and vector of the next message make of a text that is always the same: two equal
/// ones come from one key, as everything in them follows from the key.
fn next(ratchet: &mut Ratchet) -> Option<Vec<u8>> {
    let message = ratchet.encrypt(b"the same", PADDED);
    if matches!(message, Err(RatchetError::NotReady)) {
        return None;
    }
    let message = message.unwrap();
    Some(message[message.len() - PADDED..].to_vec())
}

/// A conversation whose last word is the joiner's, and the maker's state then.
fn talked(seed: u64, rounds: u32, pq: bool) -> (Pair, Ratchet) {
    let options = if pq { hybrid() } else { classical() };
    let mut pair = Pair::new(options, options, seed);
    for _ in 0..rounds {
        pair.joiner_says(b"question");
        pair.maker_says(b"answer");
    }
    pair.joiner_says(b"last");
    let twin = copy(&pair.maker.ratchet);
    (pair, twin)
}

#[test]
fn a_copy_that_is_not_retired_uses_the_keys_of_its_original() {
    let (mut pair, mut twin) = talked(1, 3, false);
    assert!(twin.can_send());
    assert_eq!(next(&mut twin), next(&mut pair.maker.ratchet));
}

#[test]
fn a_copy_that_is_retired_never_does() {
    for seed in 0..30 {
        let mut rng = rng(1_000 + seed);
        let (mut pair, mut twin) = talked(seed, rng.next_u32() % 4, seed % 3 == 0);
        twin.retire_sending();
        assert!(!twin.can_send());
        assert_eq!(next(&mut twin), None);

        // The original goes on; whatever the peer says comes to both, as if the relay repeated it.
        let mut used = BTreeSet::new();
        let mut by_twin = 0;
        for _ in 0..40 {
            let (maker, joiner) = (&mut pair.maker.ratchet, &mut pair.joiner.ratchet);
            match rng.next_u32() % 4 {
                0 => {
                    let message = joiner.encrypt(b"to both", PADDED).unwrap();
                    let _ = maker.decrypt(&message, &mut rng).unwrap();
                    let _ = twin.decrypt(&message, &mut rng);
                }
                1 => {
                    let message = maker.encrypt(b"of the original", PADDED).unwrap();
                    let _ = joiner.decrypt(&message, &mut rng).unwrap();
                }
                2 => assert!(next(maker).is_none_or(|key| used.insert(key))),
                _ => {
                    if let Some(key) = next(&mut twin) {
                        assert!(used.insert(key), "seed {seed}");
                        by_twin += 1;
                    }
                }
            }
        }
        assert!(by_twin > 0 || !twin.can_send());
    }
}

#[test]
fn what_came_back_goes_on_by_itself_if_its_original_was_silent() {
    let (mut pair, _) = talked(2, 4, true);
    pair.maker_says(b"the last of the original");
    let mut twin = copy(&pair.maker.ratchet);
    twin.retire_sending();
    // Stored and loaded in between.
    let mut twin = copy(&twin);
    for round in 0..3 {
        let question = pair
            .joiner
            .ratchet
            .encrypt(b"still there?", PADDED)
            .unwrap();
        let _ = twin.decrypt(&question, &mut rng(round)).unwrap();
        let answer = twin.encrypt(b"yes", PADDED).unwrap();
        assert_eq!(pair.joiner.receive(&answer).unwrap(), b"yes");
    }
}

#[test]
fn the_peer_takes_nothing_of_a_copy_whose_original_spoke() {
    let (mut pair, mut twin) = talked(3, 4, false);
    twin.retire_sending();
    pair.maker_says(b"of the original");
    pair.maker_says(b"of the original");
    let question = pair
        .joiner
        .ratchet
        .encrypt(b"still there?", PADDED)
        .unwrap();
    let _ = twin.decrypt(&question, &mut rng(1)).unwrap();
    let answer = twin.encrypt(b"yes", PADDED).unwrap();
    assert_eq!(pair.joiner.receive(&answer), Err(RatchetError::Malformed));
    // The original is not disturbed.
    assert_eq!(pair.maker.receive(&question).unwrap(), b"still there?");
    pair.maker_says(b"I am");
}
