//! A seeded conversation over a network that drops, duplicates and reorders, with restarts of both
//! sides. What arrives must be what was sent, at most once, and in the end everything must flow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pair;

use std::collections::BTreeSet;

use pair::{PADDED, Pair, Side, classical, hybrid};
use proptest::prelude::*;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

struct Network {
    rng: ChaCha20Rng,
    /// Messages under way: (to the maker?, serial, bytes).
    under_way: Vec<(bool, u64, Vec<u8>)>,
    delivered: BTreeSet<(bool, u64)>,
    serial: u64,
}

impl Network {
    fn below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    fn send(&mut self, from: &mut Side, to_maker: bool) {
        self.serial += 1;
        let text = self.serial.to_be_bytes();
        if let Ok(message) = from.ratchet.encrypt(&text, PADDED) {
            self.under_way.push((to_maker, self.serial, message));
        }
    }

    fn deliver(&mut self, pair: &mut Pair, index: usize, duplicate: bool) {
        let (to_maker, serial, message) = if duplicate {
            self.under_way[index].clone()
        } else {
            self.under_way.swap_remove(index)
        };
        let side = if to_maker {
            &mut pair.maker
        } else {
            &mut pair.joiner
        };
        let before = side.ratchet.encode();
        match side.receive(&message) {
            Ok(text) => {
                assert_eq!(text, serial.to_be_bytes());
                assert!(self.delivered.insert((to_maker, serial)), "decrypted twice");
            }
            Err(error) => {
                assert!(
                    self.delivered.contains(&(to_maker, serial)),
                    "{error:?} for a new message"
                );
                assert_eq!(side.ratchet.encode(), before);
            }
        }
    }
}

/// Runs `steps` events; messages stay deliverable because fewer than the limits are under way.
fn run(seed: u64, steps: usize, pq: bool) {
    let options = if pq { hybrid() } else { classical() };
    let mut pair = Pair::new(options, options, seed);
    let mut network = Network {
        rng: ChaCha20Rng::seed_from_u64(seed),
        under_way: Vec::new(),
        delivered: BTreeSet::new(),
        serial: 0,
    };
    for _ in 0..steps {
        match network.below(20) {
            0..=4 => network.send(&mut pair.joiner, true),
            5..=9 => network.send(&mut pair.maker, false),
            10 => pair.maker = pair.maker.store().open(),
            11 => pair.joiner = pair.joiner.store().open(),
            12 if pq => pair.maker.ratchet.set_pq(network.below(3) > 0),
            event if !network.under_way.is_empty() => {
                let count = u64::try_from(network.under_way.len()).unwrap();
                let index = usize::try_from(network.below(count)).unwrap();
                match event {
                    13 => drop(network.under_way.swap_remove(index)),
                    14 => network.deliver(&mut pair, index, true),
                    _ => network.deliver(&mut pair, index, false),
                }
            }
            _ => {}
        }
        if network.under_way.len() > 20 {
            network.under_way.swap_remove(0);
        }
    }
    // The network heals: both directions flow again, whatever was lost.
    pair.joiner_says(b"healed");
    pair.maker_says(b"healed");
    pair.joiner_says(b"healed");
}

#[test]
fn long_conversation() {
    run(1, 4_000, false);
}

#[test]
fn long_conversation_with_key_encapsulation() {
    run(2, 150, true);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn conversations(seed: u64) {
        run(seed >> 1, 120, false);
    }

    #[test]
    fn bytes_of_a_stranger_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut pair = Pair::new(classical(), classical(), 1);
        prop_assert!(pair.maker.receive(&bytes).is_err());
        let _ = junto_ratchet::Params::decode(&bytes);
        let _ = junto_ratchet::Offer::decode(&bytes);
        let _ = junto_ratchet::Ratchet::decode(&bytes, []);
        let _ = junto_ratchet::MakerKeys::decode(&bytes);
    }

    #[test]
    fn what_decodes_has_one_encoding(pq: bool, at: prop::sample::Index, bit in 0u8..8) {
        let changed = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes
        };
        let (_, offer, params, state) = FORMS.with(|forms| forms[usize::from(pq)].clone());
        let bytes = changed(offer);
        if let Ok(offer) = junto_ratchet::Offer::decode(&bytes) {
            prop_assert_eq!(offer.encode(), bytes);
        }
        let bytes = changed(params);
        if let Ok(params) = junto_ratchet::Params::decode(&bytes) {
            prop_assert_eq!(params.encode(), bytes);
        }
        let bytes = changed(state);
        if let Ok(ratchet) = junto_ratchet::Ratchet::decode(&bytes, []) {
            prop_assert_eq!(&*ratchet.encode(), &bytes);
        }
    }
}

/// Whether with key encapsulation; an offer, its answer and a state in use.
type Forms = (bool, Vec<u8>, Vec<u8>, Vec<u8>);

thread_local! {
    /// Made once: with key encapsulation that takes milliseconds.
    static FORMS: [Forms; 2] = [false, true].map(|pq| {
        let options = if pq { hybrid() } else { classical() };
        let mut rng = pair::rng(5);
        let keys = junto_ratchet::MakerKeys::generate(pq, &mut rng);
        let offer = keys.offer(junto_ratchet::VersionRange::OURS);
        let (_, params) = junto_ratchet::join(&offer, options, &mut rng).unwrap();
        let mut pair = Pair::new(options, options, 5);
        pair.joiner_says(b"on");
        pair.maker_says(b"and on");
        (pq, offer.encode(), params.encode(), pair.maker.ratchet.encode().to_vec())
    });
}
