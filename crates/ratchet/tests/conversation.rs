//! Two ratchets through the public interface: the genuine conversation, every order of delivery,
//! limits, tampering, storing in the middle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pair;

use junto_ratchet::{
    EPOCHS_MAX, HEADER_BYTES, MakerKeys, Offer, Options, Params, RETAINED_MAX, Ratchet,
    RatchetError, SKIPPED_MAX, Version, VersionRange, join,
};
use pair::{PADDED, Pair, classical, hybrid, rng};

const VECTORS: &str = include_str!("../../../vectors/simplex-ratchet.txt");

fn vector(name: &str) -> Vec<u8> {
    let value = VECTORS
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(value.expect(name)).unwrap()
}

/// The maker of the conversation that genuine code recorded.
fn genuine_maker() -> Ratchet {
    let stored = [vec![1], vector("g_maker_1"), vector("g_maker_2")].concat();
    let keys = MakerKeys::decode(&stored).unwrap();
    let joiner = Params::decode(&vector("g_joiner_params")).unwrap();
    keys.accept(&joiner, classical()).unwrap()
}

#[test]
fn genuine_messages_decrypt_in_order() {
    let mut maker = genuine_maker();
    let (first, second) = (vector("g_message_0"), vector("g_message_1"));
    assert_eq!(
        &**maker.decrypt(&first, &mut rng(1)).unwrap().plaintext,
        b"hello"
    );
    assert_eq!(
        &**maker.decrypt(&second, &mut rng(1)).unwrap().plaintext,
        b"world"
    );
    for replayed in [&first, &second] {
        assert_eq!(
            maker.decrypt(replayed, &mut rng(1)).err(),
            Some(RatchetError::Duplicate)
        );
    }
    assert_eq!(maker.overhead_bytes() + 32, first.len());
    assert_eq!(maker.encrypt(b"answer", 32).unwrap().len(), first.len());
}

#[test]
fn genuine_messages_decrypt_in_reverse() {
    let mut maker = genuine_maker();
    let second = maker.decrypt(&vector("g_message_1"), &mut rng(1)).unwrap();
    assert_eq!(&**second.plaintext, b"world");
    assert_eq!(second.delta.added.len(), 1);
    let first = maker.decrypt(&vector("g_message_0"), &mut rng(1)).unwrap();
    assert_eq!(&**first.plaintext, b"hello");
    assert_eq!(first.delta.removed, [second.delta.added[0].id()]);
    assert_eq!(maker.skipped_count(), 0);
}

#[test]
fn a_conversation_with_key_encapsulation_made_elsewhere() {
    // By other code, and by genuine code.
    for maker in ["pq", "g_pq"] {
        follow_a_conversation_with_key_encapsulation(|name| vector(&format!("{maker}_{name}")));
    }
}

fn follow_a_conversation_with_key_encapsulation(vector: impl Fn(&str) -> Vec<u8>) {
    let names = ["maker_1", "maker_2", "maker_kem"];
    let stored = [vec![1], names.map(&vector).concat()].concat();
    let keys = MakerKeys::decode(&stored).unwrap();
    let joiner = Params::decode(&vector("joiner_params")).unwrap();
    assert_eq!(joiner.encode(), vector("joiner_params"));
    let (first, second) = (vector("message_0"), vector("message_1"));
    for (order, added) in [([0, 1], 0), ([1, 0], 1)] {
        let mut maker = keys.accept(&joiner, hybrid()).unwrap();
        for (place, index) in order.into_iter().enumerate() {
            let message = [&first, &second][index];
            let decrypted = maker.decrypt(message, &mut rng(1)).unwrap();
            assert_eq!(&**decrypted.plaintext, [&b"quantum"[..], b"safe"][index]);
            assert!(place > 0 || decrypted.delta.added.len() == added);
        }
        assert!(maker.is_pq_receiving() && maker.is_pq_sending());
        assert_eq!(maker.encrypt(b"answer", 32).unwrap().len(), first.len());
    }
    // A maker that proposed nothing refuses, one that turned it off again still follows.
    let plain = MakerKeys::decode(&[vec![1], vector("maker_1"), vector("maker_2")].concat());
    let refused = plain.unwrap().accept(&joiner, hybrid());
    assert_eq!(refused.err(), Some(RatchetError::KemNotOffered));
    let mut off = keys.accept(&joiner, classical()).unwrap();
    assert_eq!(
        &**off.decrypt(&first, &mut rng(1)).unwrap().plaintext,
        b"quantum"
    );
    assert!(off.is_pq_receiving() && !off.is_pq_sending());
}

#[test]
fn parameters_have_one_encoding() {
    for name in ["g_maker_params", "g_joiner_params"] {
        let bytes = vector(name);
        let params = Params::decode(&bytes).unwrap();
        assert_eq!(params.encode(), bytes);
        for length in 0..bytes.len() {
            assert!(Params::decode(&bytes[..length]).is_err());
        }
        let longer = [&bytes[..], b"rest"].concat();
        assert_eq!(Params::decode(&longer), Err(RatchetError::Malformed));
        assert_eq!(
            Params::decode_front(&longer).unwrap(),
            (params, &b"rest"[..])
        );
    }
    for pq in [false, true] {
        let offer = MakerKeys::generate(pq, &mut rng(2)).offer(VersionRange::OURS);
        assert_eq!(Offer::decode(&offer.encode()), Ok(offer.clone()));
        let options = Options {
            pq: true,
            ..Options::default()
        };
        let (_, params) = join(&offer, options, &mut rng(3)).unwrap();
        assert_eq!(Params::decode(&params.encode()), Ok(params));
    }
}

#[test]
fn an_offer_cannot_accept() {
    let maker = MakerKeys::generate(true, &mut rng(2));
    let offer = maker.offer(VersionRange::OURS);
    let (_, answer) = join(&offer, hybrid(), &mut rng(3)).unwrap();
    let range = VersionRange::OURS.min().to_be_bytes();
    let forged = [&range[..], &answer.encode()].concat();
    assert_eq!(Offer::decode(&forged), Err(RatchetError::Malformed));
}

#[test]
fn weak_keys_are_refused() {
    let mut spki = vector("g_joiner_params")[3..71].to_vec();
    spki[12..].fill(0);
    let weak = Params::decode(&vector("g_joiner_params")).unwrap();
    let maker = MakerKeys::generate(false, &mut rng(1));
    let zero = junto_crypto::x448::PublicKey::from_spki(&spki).unwrap();
    for (k1, k2) in [(zero, weak.k2), (weak.k1, zero)] {
        let params = Params {
            k1,
            k2,
            ..weak.clone()
        };
        assert_eq!(
            maker.accept(&params, classical()).err(),
            Some(RatchetError::WeakKey)
        );
        let offer = Offer {
            versions: VersionRange::OURS,
            k1,
            k2,
            kem: None,
        };
        assert_eq!(
            join(&offer, classical(), &mut rng(1)).err(),
            Some(RatchetError::WeakKey)
        );
    }
}

#[test]
fn the_maker_cannot_send_first() {
    let mut pair = Pair::new(classical(), classical(), 1);
    assert_eq!(
        pair.maker.ratchet.encrypt(b"", 16),
        Err(RatchetError::NotReady)
    );
    pair.joiner_says(b"hello");
    pair.maker_says(b"hello yourself");
}

#[test]
fn both_sides_have_the_same_binding_and_others_another() {
    let pair = Pair::new(classical(), classical(), 1);
    assert_eq!(pair.maker.ratchet.binding(), pair.joiner.ratchet.binding());
    let other = Pair::new(classical(), classical(), 2);
    assert_ne!(pair.maker.ratchet.binding(), other.maker.ratchet.binding());
}

#[test]
fn every_order_of_six_messages_over_two_steps() {
    for options in [classical(), hybrid()] {
        let mut pair = Pair::new(options, options, 7);
        pair.joiner_says(b"start");
        pair.maker_says(b"start");
        // Three messages of one chain; the maker answers the first, then three of the next chain.
        let mut sent = Vec::new();
        for number in 0..3u8 {
            sent.push((
                number,
                pair.joiner.ratchet.encrypt(&[number], PADDED).unwrap(),
            ));
        }
        pair.maker.receive(&sent[0].1).unwrap();
        pair.maker_says(b"step");
        for number in 3..6u8 {
            sent.push((
                number,
                pair.joiner.ratchet.encrypt(&[number], PADDED).unwrap(),
            ));
        }
        let start = pair.maker.store();
        // With key encapsulation a step takes milliseconds: a sample of the orders is enough.
        let every = if options.pq { 17 } else { 1 };
        for order in permutations(&[1, 2, 3, 4, 5]).iter().step_by(every) {
            let mut maker = start.open();
            for index in order {
                let (number, message) = &sent[*index];
                assert_eq!(
                    maker.receive(message).unwrap(),
                    [*number],
                    "order {order:?}"
                );
                assert!(maker.receive(message).is_err(), "replay");
            }
            assert_eq!(maker.ratchet.skipped_count(), 0, "order {order:?}");
        }
    }
}

fn permutations(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in of.iter().enumerate() {
        let rest = [&of[..at], &of[at + 1..]].concat();
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            all.push(tail);
        }
    }
    all
}

#[test]
fn five_hundred_and_twelve_may_be_missing_and_no_more() {
    let mut pair = Pair::new(classical(), classical(), 3);
    let limit = usize::try_from(SKIPPED_MAX).unwrap();
    let sent: Vec<_> = (0..=limit + 1)
        .map(|_| pair.joiner.ratchet.encrypt(b"late", PADDED).unwrap())
        .collect();
    let refused = pair.maker.receive(&sent[limit + 1]);
    assert_eq!(refused, Err(RatchetError::TooManySkipped));
    assert_eq!(pair.maker.receive(&sent[limit]).unwrap(), b"late");
    assert_eq!(pair.maker.ratchet.skipped_count(), limit);
    // The one refused before is now next in line.
    assert_eq!(pair.maker.receive(&sent[limit + 1]).unwrap(), b"late");
    for message in &sent[..limit] {
        assert_eq!(pair.maker.receive(message).unwrap(), b"late");
    }
    assert_eq!(pair.maker.ratchet.skipped_count(), 0);
}

#[test]
fn the_limit_holds_for_the_end_of_the_previous_chain() {
    for (missing, fits) in [(SKIPPED_MAX, true), (SKIPPED_MAX + 1, false)] {
        let mut pair = Pair::new(classical(), classical(), 3);
        pair.joiner_says(b"start");
        for _ in 0..missing {
            pair.joiner.ratchet.encrypt(b"lost", PADDED).unwrap();
        }
        pair.maker_says(b"step");
        let message = pair.joiner.ratchet.encrypt(b"next chain", PADDED).unwrap();
        assert_eq!(pair.maker.receive(&message).is_ok(), fits);
    }
}

#[test]
fn kept_keys_are_bounded_and_the_oldest_go_first() {
    let mut pair = Pair::new(classical(), classical(), 4);
    let mut lost = Vec::new();
    for _ in 0..6 {
        let sent: Vec<_> = (0..=SKIPPED_MAX)
            .map(|_| pair.joiner.ratchet.encrypt(b"x", PADDED).unwrap())
            .collect();
        pair.maker.receive(&sent[512]).unwrap();
        pair.maker_says(b"step");
        lost.push(sent);
    }
    assert_eq!(pair.maker.ratchet.skipped_count(), RETAINED_MAX);
    assert_eq!(
        pair.maker.receive(&lost[0][0]),
        Err(RatchetError::UnknownHeader),
        "dropped"
    );
    assert_eq!(
        pair.maker.receive(&lost[1][511]),
        Err(RatchetError::UnknownHeader),
        "dropped"
    );
    assert!(pair.maker.receive(&lost[2][0]).is_ok(), "kept");
    assert!(pair.maker.receive(&lost[5][0]).is_ok(), "kept");
}

#[test]
fn chains_with_kept_keys_are_bounded() {
    let mut pair = Pair::new(classical(), classical(), 4);
    let mut lost = Vec::new();
    for _ in 0..EPOCHS_MAX + 2 {
        lost.push(pair.joiner.ratchet.encrypt(b"lost", PADDED).unwrap());
        pair.joiner_says(b"arrives");
        pair.maker_says(b"step");
    }
    assert_eq!(pair.maker.ratchet.skipped_count(), EPOCHS_MAX);
    assert_eq!(
        pair.maker.receive(&lost[1]),
        Err(RatchetError::UnknownHeader),
        "dropped"
    );
    assert_eq!(pair.maker.receive(&lost[2]).unwrap(), b"lost");
}

#[test]
fn a_message_changed_anywhere_is_refused_and_changes_nothing() {
    for options in [classical(), hybrid()] {
        let mut pair = Pair::new(options, options, 5);
        pair.joiner_says(b"start");
        let in_chain = pair.joiner.ratchet.encrypt(b"in chain", 32).unwrap();
        pair.maker_says(b"step");
        let after_step = pair.joiner.ratchet.encrypt(b"after step", 32).unwrap();
        let before = pair.maker.ratchet.encode();
        for message in [&in_chain, &after_step] {
            // Large headers have thousands of bytes that all fail the same way.
            let every = if options.pq { 13 } else { 1 };
            for byte in (0..message.len()).step_by(every) {
                let mut changed = message.clone();
                changed[byte] ^= 1;
                let error = pair.maker.receive(&changed).unwrap_err();
                assert!(
                    [
                        RatchetError::UnknownHeader,
                        RatchetError::Forged,
                        RatchetError::Malformed
                    ]
                    .contains(&error),
                    "{error:?}"
                );
                assert!(pair.maker.receive(&message[..byte]).is_err());
            }
            assert!(
                pair.maker
                    .receive(&[message.as_slice(), &[0]].concat())
                    .is_err()
            );
            assert_eq!(pair.maker.ratchet.encode(), before);
        }
        assert_eq!(pair.maker.receive(&after_step).unwrap(), b"after step");
        assert_eq!(pair.maker.receive(&in_chain).unwrap(), b"in chain");
    }
}

#[test]
fn one_conversation_cannot_read_another() {
    let mut pair = Pair::new(classical(), classical(), 6);
    let mut other = Pair::new(classical(), classical(), 66);
    let message = pair.joiner.ratchet.encrypt(b"private", PADDED).unwrap();
    assert_eq!(
        other.maker.receive(&message),
        Err(RatchetError::UnknownHeader)
    );
    assert_eq!(
        pair.joiner.receive(&message),
        Err(RatchetError::UnknownHeader),
        "own message"
    );
    assert_eq!(pair.maker.receive(&message).unwrap(), b"private");
}

#[test]
fn a_plaintext_that_does_not_fit_uses_no_key() {
    let mut pair = Pair::new(classical(), classical(), 8);
    let before = pair.joiner.ratchet.encode();
    assert_eq!(
        pair.joiner.ratchet.encrypt(&[0; 15], 16),
        Err(RatchetError::TooLong)
    );
    assert_eq!(
        pair.joiner.ratchet.encrypt(&[], 1),
        Err(RatchetError::TooLong)
    );
    assert_eq!(pair.joiner.ratchet.encode(), before);
    let message = pair.joiner.ratchet.encrypt(&[0; 14], 16).unwrap();
    assert_eq!(message.len(), 16 + pair.joiner.ratchet.overhead_bytes());
    assert_eq!(pair.maker.receive(&message).unwrap(), [0; 14]);
    let message = pair.joiner.ratchet.encrypt(&[], 2).unwrap();
    assert_eq!(pair.maker.receive(&message).unwrap(), []);
}

#[test]
fn stored_state_has_one_form_and_refuses_others() {
    for options in [classical(), hybrid()] {
        let mut pair = Pair::new(options, options, 9);
        for _ in 0..3 {
            for side in [&pair.maker, &pair.joiner] {
                let stored = side.ratchet.encode();
                let reopened = Ratchet::decode(&stored, []).unwrap();
                assert_eq!(reopened.encode(), stored);
                for length in [0, 1, 100, stored.len() - 1] {
                    let error = Ratchet::decode(&stored[..length], []).err();
                    assert_eq!(error, Some(RatchetError::BadState));
                }
                let mut newer = stored.to_vec();
                newer[0] = 2;
                assert_eq!(
                    Ratchet::decode(&newer, []).err(),
                    Some(RatchetError::BadState)
                );
                let limit = if options.pq { 3_500 } else { 512 };
                assert!(stored.len() <= limit, "{} bytes", stored.len());
            }
            pair.joiner_says(b"on");
            pair.maker_says(b"and on");
        }
    }
    let keys = MakerKeys::generate(true, &mut rng(1));
    let copy = MakerKeys::decode(&keys.encode()).unwrap();
    assert_eq!(
        copy.offer(VersionRange::OURS),
        keys.offer(VersionRange::OURS)
    );
    assert_eq!(
        MakerKeys::decode(&keys.encode()[1..]).err(),
        Some(RatchetError::BadState)
    );
    assert_eq!(MakerKeys::decode(&[]).err(), Some(RatchetError::BadState));
}

#[test]
fn sizes_are_those_of_the_protocol() {
    let mut classical = Pair::new(classical(), classical(), 1);
    let message = classical.joiner.ratchet.encrypt(b"", 15_840).unwrap();
    assert_eq!(
        message.len(),
        15_840 + 2 + 2 + 16 + 16 + 2 + HEADER_BYTES + 16
    );
    let mut hybrid = Pair::new(hybrid(), hybrid(), 1);
    let large = hybrid.joiner.ratchet.encrypt(b"", 13_618).unwrap();
    assert_eq!(
        large.len(),
        message.len(),
        "post-quantum messages look like others"
    );
}

#[test]
fn debug_output_is_silent() {
    let pair = Pair::new(classical(), classical(), 1);
    let shown = format!("{:?}", pair.maker.ratchet);
    assert_eq!(shown, "Ratchet { version: V3, epoch: 0, .. }");
}

#[test]
fn versions_rise_with_the_peer_and_never_fall() {
    let two = Options {
        pq: false,
        max_version: Version::V2,
    };
    for (maker, joiner, expected) in [
        (two, two, Version::V2),
        (two, classical(), Version::V2),
        (classical(), two, Version::V2),
        (classical(), classical(), Version::V3),
    ] {
        // The link offered version 2 only, as an old one would.
        let mut pair = Pair::with_versions(maker, joiner, VersionRange::new(2, 2).unwrap(), 11);
        assert_eq!(pair.joiner.ratchet.version(), Version::V2);
        assert_eq!(pair.maker.ratchet.version(), Version::V2);
        for _ in 0..2 {
            pair.joiner_says(b"to the maker");
            pair.maker_says(b"to the joiner");
        }
        assert_eq!(pair.maker.ratchet.version(), expected);
        assert_eq!(pair.joiner.ratchet.version(), expected);
    }
}

static_assertions::assert_not_impl_any!(Ratchet: Clone, PartialEq);
static_assertions::assert_not_impl_any!(MakerKeys: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(junto_ratchet::SkippedKey: std::fmt::Debug, Clone, PartialEq);

#[test]
fn who_only_saw_the_link_cannot_pose_as_its_maker_nor_read() {
    for (options, seed) in [(classical(), 1), (hybrid(), 2)] {
        let mut rng = rng(seed);
        let maker = MakerKeys::generate(options.pq, &mut rng);
        let offer = maker.offer(VersionRange::OURS);
        // All that a link has is an offer; the joiner's answer goes by a relay that may help.
        let seen = Offer::decode(&offer.encode()).unwrap();
        let (mut joiner, answer) = join(&seen, options, &mut rng).unwrap();
        let question = joiner.encrypt(b"are you there?", PADDED).unwrap();
        let own = MakerKeys::generate(options.pq, &mut rng);
        let mut impostor = own.accept(&answer, options).unwrap();
        assert!(impostor.decrypt(&question, &mut rng).is_err());
        // Without what only the maker can open it has nothing to answer with.
        let lie = impostor.encrypt(b"I am", PADDED);
        assert_eq!(lie.err(), Some(RatchetError::NotReady));
        // Nor is a conversation of its own, with the same link, this one.
        let (mut another, _) = join(&seen, options, &mut rng).unwrap();
        let lie = another.encrypt(b"I am", PADDED).unwrap();
        assert!(joiner.decrypt(&lie, &mut rng).is_err());
        let mut made = maker.accept(&answer, options).unwrap();
        let heard = made.decrypt(&question, &mut rng).unwrap();
        assert_eq!(&**heard.plaintext, b"are you there?");
        let truth = made.encrypt(b"I am", PADDED).unwrap();
        let heard = joiner.decrypt(&truth, &mut rng).unwrap();
        assert_eq!(&**heard.plaintext, b"I am");
    }
}
