//! Negotiation of key encapsulation: who wants it, when it is on, and that it never hurts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pair;

use junto_ratchet::{Options, Ratchet, Version, VersionRange};
use pair::{PADDED, Pair, classical, hybrid};

/// What each side says of its protection: (sending, receiving).
fn protection(pair: &Pair) -> [(bool, bool); 2] {
    [&pair.maker.ratchet, &pair.joiner.ratchet]
        .map(|side| (side.is_pq_sending(), side.is_pq_receiving()))
}

fn rounds(pair: &mut Pair, count: usize) {
    for _ in 0..count {
        pair.joiner_says(b"to the maker");
        pair.maker_says(b"to the joiner");
    }
}

#[test]
fn on_from_the_first_message_when_both_want_it() {
    let mut pair = Pair::new(hybrid(), hybrid(), 1);
    assert!(
        pair.joiner.ratchet.is_pq_sending(),
        "the first message is protected already"
    );
    pair.joiner_says(b"first");
    assert!(pair.maker.ratchet.is_pq_receiving());
    assert!(pair.maker.ratchet.is_pq_sending());
    rounds(&mut pair, 2);
    assert_eq!(protection(&pair), [(true, true); 2]);
}

#[test]
fn off_unless_both_want_it() {
    for (maker, joiner) in [
        (classical(), classical()),
        (classical(), hybrid()),
        (hybrid(), classical()),
    ] {
        let mut pair = Pair::new(maker, joiner, 2);
        rounds(&mut pair, 3);
        assert_eq!(protection(&pair), [(false, false); 2]);
        assert_eq!(pair.maker.ratchet.has_large_header(), maker.pq);
        assert_eq!(pair.joiner.ratchet.has_large_header(), joiner.pq);
    }
}

#[test]
fn turned_on_later_by_either_first() {
    for maker_first in [true, false] {
        let mut pair = Pair::new(classical(), classical(), 3);
        rounds(&mut pair, 2);
        assert!(!pair.maker.ratchet.has_large_header());
        let (first, second) = if maker_first {
            (&mut pair.maker, &mut pair.joiner)
        } else {
            (&mut pair.joiner, &mut pair.maker)
        };
        first.ratchet.set_pq(true);
        assert!(first.ratchet.has_large_header(), "the size changes at once");
        assert!(!second.ratchet.has_large_header());
        rounds(&mut pair, 2);
        assert_eq!(
            protection(&pair),
            [(false, false); 2],
            "one side alone cannot"
        );
        pair.maker.ratchet.set_pq(true);
        pair.joiner.ratchet.set_pq(true);
        rounds(&mut pair, 3);
        assert_eq!(protection(&pair), [(true, true); 2]);
    }
}

#[test]
fn turned_off_by_one_and_on_again() {
    let mut pair = Pair::new(hybrid(), hybrid(), 4);
    rounds(&mut pair, 2);
    pair.maker.ratchet.set_pq(false);
    rounds(&mut pair, 3);
    assert_eq!(protection(&pair), [(false, false); 2]);
    assert!(
        pair.maker.ratchet.has_large_header(),
        "the size never shrinks again"
    );
    pair.maker.ratchet.set_pq(true);
    rounds(&mut pair, 3);
    assert_eq!(protection(&pair), [(true, true); 2]);
}

#[test]
fn turned_off_in_the_middle_of_a_chain_with_messages_out_of_order() {
    let mut pair = Pair::new(hybrid(), hybrid(), 5);
    rounds(&mut pair, 1);
    let before = pair.joiner.ratchet.encrypt(b"before", PADDED).unwrap();
    pair.joiner.ratchet.set_pq(false);
    let after = pair.joiner.ratchet.encrypt(b"after", PADDED).unwrap();
    // Both are of one chain, so whichever comes first must bring what the chain was made from.
    assert_eq!(pair.maker.receive(&after).unwrap(), b"after");
    assert_eq!(pair.maker.receive(&before).unwrap(), b"before");
    rounds(&mut pair, 2);
    assert_eq!(protection(&pair), [(false, false); 2]);
}

#[test]
fn an_old_link_is_upgraded_to_it() {
    let mut pair = Pair::with_versions(hybrid(), hybrid(), VersionRange::new(2, 2).unwrap(), 6);
    assert_eq!(pair.joiner.ratchet.version(), Version::V2);
    assert!(!pair.joiner.ratchet.has_large_header());
    rounds(&mut pair, 4);
    assert_eq!(pair.maker.ratchet.version(), Version::V3);
    assert_eq!(protection(&pair), [(true, true); 2]);
}

#[test]
fn a_peer_of_version_two_never_sees_it() {
    let old = Options {
        pq: true,
        max_version: Version::V2,
    };
    // An old maker offers version 2 only; an old joiner picks it from a wider range.
    for (maker, joiner, max) in [(old, hybrid(), 2), (hybrid(), old, 3)] {
        let versions = VersionRange::new(2, max).unwrap();
        let mut pair = Pair::with_versions(maker, joiner, versions, 7);
        rounds(&mut pair, 3);
        assert_eq!(protection(&pair), [(false, false); 2]);
        assert_eq!(pair.maker.ratchet.version(), Version::V2);
        assert!(!pair.maker.ratchet.has_large_header());
    }
}

#[test]
fn at_the_start_only_and_now_and_then() {
    let mut pair = Pair::new(hybrid(), hybrid(), 10);
    pair.maker.ratchet.set_pq(false);
    pair.joiner.ratchet.set_pq(false);
    pair.joiner_says(b"first");
    assert!(
        pair.maker.ratchet.is_pq_receiving(),
        "encapsulated at the start"
    );
    rounds(&mut pair, 3);
    assert_eq!(
        protection(&pair),
        [(false, false); 2],
        "steps are classical"
    );
    let classical = pair.maker.ratchet.encode().len();
    assert!(classical <= 512, "nothing to store for it either");
    pair.maker.ratchet.set_pq(true);
    pair.joiner.ratchet.set_pq(true);
    rounds(&mut pair, 2);
    assert_eq!(
        protection(&pair),
        [(true, true); 2],
        "two round trips later it is on"
    );
    pair.maker.ratchet.set_pq(false);
    pair.joiner.ratchet.set_pq(false);
    rounds(&mut pair, 2);
    assert_eq!(protection(&pair), [(false, false); 2]);
}

#[test]
fn a_key_made_ahead_is_used_once() {
    let mut pair = Pair::new(hybrid(), hybrid(), 8);
    for round in 0..3 {
        pair.maker.ratchet.prepare(&mut pair::rng(round));
        pair.joiner.ratchet.prepare(&mut pair::rng(round + 100));
        let stored = pair.maker.ratchet.encode();
        pair.maker.ratchet.prepare(&mut pair::rng(200));
        assert_eq!(pair.maker.ratchet.encode(), stored, "nothing to store");
        rounds(&mut pair, 1);
        assert_eq!(protection(&pair), [(true, true); 2]);
    }
}

#[test]
fn the_state_survives_storage_at_every_point_of_the_negotiation() {
    let mut pair = Pair::new(classical(), classical(), 9);
    for round in 0..10 {
        pair.maker = pair.maker.store().open();
        pair.joiner = pair.joiner.store().open();
        match round {
            1 => pair.maker.ratchet.set_pq(true),
            3 => pair.joiner.ratchet.set_pq(true),
            7 => pair.maker.ratchet.set_pq(false),
            _ => {}
        }
        rounds(&mut pair, 1);
        if round == 6 {
            assert_eq!(protection(&pair), [(true, true); 2]);
        }
    }
    assert_eq!(protection(&pair), [(false, false); 2]);
}

#[test]
fn sparing_heals_once_when_asked_and_shows_nothing() {
    let mut pair = Pair::new(hybrid(), hybrid(), 11);
    pair.maker.ratchet.set_pq_sparing();
    pair.joiner.ratchet.set_pq_sparing();
    rounds(&mut pair, 4);
    assert_eq!(
        protection(&pair),
        [(false, false); 2],
        "no steps with it until asked"
    );
    let size = pair.joiner.ratchet.encrypt(b"x", PADDED).unwrap().len();
    pair.maker.ratchet.heal();
    let mut healed = [0, 0];
    for _ in 0..6 {
        rounds(&mut pair, 1);
        for (count, (sending, receiving)) in healed.iter_mut().zip(protection(&pair)) {
            *count += usize::from(sending || receiving);
        }
    }
    assert_eq!(healed, [1, 1], "one fresh encapsulation, seen by both");
    assert_eq!(protection(&pair), [(false, false); 2], "and then no more");
    let now = pair.joiner.ratchet.encrypt(b"x", PADDED).unwrap().len();
    assert_eq!(now, size, "the size of messages does not tell");
}

#[test]
fn sparing_answers_a_peer_that_always_proposes() {
    let mut pair = Pair::new(hybrid(), hybrid(), 12);
    pair.maker.ratchet.set_pq_sparing();
    let mut protected = 0;
    for _ in 0..8 {
        rounds(&mut pair, 1);
        protected += usize::from(
            protection(&pair)
                .iter()
                .any(|(sending, receiving)| *sending || *receiving),
        );
    }
    assert!(protected >= 2, "{protected}");
}

#[test]
fn a_heal_that_is_due_survives_storage() {
    let mut pair = Pair::new(hybrid(), hybrid(), 13);
    pair.maker.ratchet.set_pq_sparing();
    pair.joiner.ratchet.set_pq_sparing();
    rounds(&mut pair, 2);
    pair.maker.ratchet.heal();
    let stored = pair.maker.ratchet.encode();
    let again = Ratchet::decode(&stored, []).unwrap();
    assert_eq!(again.encode().as_slice(), stored.as_slice());
}
