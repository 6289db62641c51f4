//! A conversation negotiated anew: both sides send parameters, and the smaller fingerprint receives first.
#![allow(clippy::unwrap_used, clippy::panic)]

mod pair;

use junto_ratchet::{KemParams, MakerKeys, Options, RatchetError, Version};
use pair::{Side, classical, hybrid, rng};

/// The two sides after both have sent their parameters: first who can send at once.
fn renewed(a: Options, b: Options, seed: u64) -> (Side, Side) {
    let mut rng = rng(seed);
    let (ours, theirs) = (
        MakerKeys::generate(a.pq, &mut rng),
        MakerKeys::generate(b.pq, &mut rng),
    );
    let (at_a, at_b) = (ours.params(Version::V3), theirs.params(Version::V3));
    let first = ours.renew(&at_b, a, &mut rng).unwrap();
    let second = theirs.renew(&at_a, b, &mut rng).unwrap();
    assert_eq!(first.binding(), second.binding());
    assert_ne!(first.can_send(), second.can_send());
    assert_eq!(first.can_send(), at_a.fingerprint() > at_b.fingerprint());
    let sides = (Side::new(first, seed), Side::new(second, seed));
    if sides.0.ratchet.can_send() {
        sides
    } else {
        (sides.1, sides.0)
    }
}

fn say(from: &mut Side, to: &mut Side, text: &[u8]) {
    let message = from.ratchet.encrypt(text, 64).unwrap();
    assert_eq!(to.receive(&message).unwrap(), text);
}

#[test]
fn both_sides_can_talk_afterwards_with_and_without_key_encapsulation() {
    for (a, b) in [
        (classical(), classical()),
        (hybrid(), classical()),
        (classical(), hybrid()),
        (hybrid(), hybrid()),
    ] {
        // Enough seeds that either one sends first.
        for seed in 0..6 {
            let (mut first, mut second) = renewed(a, b, seed);
            assert_eq!(
                second.ratchet.encrypt(b"too early", 64),
                Err(RatchetError::NotReady)
            );
            for round in 0..3 {
                say(&mut first, &mut second, &[1, round]);
                say(&mut second, &mut first, &[2, round]);
            }
            assert_eq!(first.ratchet.is_pq_sending(), a.pq && b.pq);
            assert_eq!(second.ratchet.is_pq_sending(), a.pq && b.pq);
        }
    }
}

#[test]
fn who_mixes_in_secrets_sparingly_has_one_after_the_first_exchange() {
    for seed in 0..4 {
        let (mut first, mut second) = renewed(hybrid(), hybrid(), seed);
        first.ratchet.set_pq_sparing();
        second.ratchet.set_pq_sparing();
        say(&mut first, &mut second, b"ready");
        say(&mut second, &mut first, b"ready as well");
        assert!(second.ratchet.is_pq_sending() && first.ratchet.is_pq_receiving());
    }
}

#[test]
fn nonsense_is_refused() {
    let mut rng = rng(7);
    let (ours, theirs) = (
        MakerKeys::generate(true, &mut rng),
        MakerKeys::generate(true, &mut rng),
    );
    let own = ours.params(Version::V3);
    let refused = ours.renew(&own, hybrid(), &mut rng).err();
    assert_eq!(refused, Some(RatchetError::Malformed), "our own keys");
    let mut params = theirs.params(Version::V3);
    let Some(KemParams::Proposed(key)) = params.kem.take() else {
        panic!()
    };
    let (ciphertext, _) = key.encapsulate(&mut rng);
    params.kem = Some(KemParams::Accepted(ciphertext, key));
    let refused = ours.renew(&params, hybrid(), &mut rng).err();
    assert_eq!(refused, Some(RatchetError::KemNotOffered));
    let old = Options {
        max_version: Version::V2,
        ..classical()
    };
    let refused = ours.renew(&theirs.params(Version::V3), old, &mut rng).err();
    assert_eq!(refused, Some(RatchetError::Version));
}
