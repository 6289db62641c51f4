//! Replays the committed corpus through every target, then a short seeded pass of mutations of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

use std::path::{Path, PathBuf};

use junto_fuzz::TARGETS;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Mutations tried for each target; `JUNTO_FUZZ_MUTATIONS` multiplies it.
const MUTATIONS: usize = 4_000;
/// For targets that take milliseconds, the factor is applied to this.
const MUTATIONS_OF_SLOW: usize = 40;
const SLOW: &[&str] = &[
    "agent_link_data",
    "agent_machine",
    "bls_certificate",
    "bls_evidence",
    "bls_holding",
    "bls_keys",
    "bls_pending",
    "bls_round",
    "crypto_kem",
    "evidence_shown",
    "ratchet_conversation",
    "ratchet_params",
    "relay_export",
    "relay_journal",
    "smp_queue",
    "smp_server",
];

fn corpus_of(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("no corpus for {target} at {}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {target} is empty");
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % bound.max(1) as u64).unwrap()
}

/// One to four edits of the kinds that break parsers: flipped bits, extreme bytes, cuts, repetitions.
fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=below(rng, 4) {
        let at = below(rng, bytes.len());
        match below(rng, 6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(rng, 8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(rng, 5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, u8::try_from(below(rng, 256)).unwrap()),
            4 if !bytes.is_empty() => {
                let end = (at + 1 + below(rng, 32)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.extend((0..below(rng, 16)).map(|_| 0xff)),
        }
    }
}

#[test]
fn corpus_replays() {
    for (name, target) in TARGETS {
        for (_, bytes) in corpus_of(name) {
            target(&bytes);
        }
        for bytes in junto_fuzz::seeds::of(name) {
            target(&bytes);
        }
    }
}

#[test]
fn mutations_of_the_corpus_are_survived() {
    let factor: usize = std::env::var("JUNTO_FUZZ_MUTATIONS").map_or(1, |n| n.parse().unwrap());
    let only = std::env::var("JUNTO_FUZZ_TARGET").ok();
    assert!(
        only.iter()
            .all(|only| TARGETS.iter().any(|(name, _)| name == only))
    );
    for (name, target) in TARGETS {
        if only.as_deref().is_some_and(|only| only != *name) {
            continue;
        }
        let count = if SLOW.contains(name) {
            MUTATIONS_OF_SLOW
        } else {
            MUTATIONS
        };
        let corpus = corpus_of(name);
        for number in 0..count * factor {
            let (path, original) = &corpus[number % corpus.len()];
            let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
            let mut bytes = original.clone();
            mutate(&mut rng, &mut bytes);
            let survived = std::panic::catch_unwind(|| target(&bytes));
            assert!(
                survived.is_ok(),
                "{name} fails on mutation {number}, of {}: {bytes:02x?}",
                path.display()
            );
        }
    }
}

#[test]
fn every_target_has_a_binary_and_seeds() {
    let manifest = include_str!("../Cargo.toml");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binaries = std::fs::read_dir(root.join("fuzz_targets")).unwrap();
    assert_eq!(binaries.count(), TARGETS.len());
    assert!(TARGETS.is_sorted_by(|(a, _), (b, _)| a < b));
    for (name, _) in TARGETS {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")));
        let source = root.join(format!("fuzz_targets/{name}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!("target(\"{name}\")")));
        assert!(!junto_fuzz::seeds::of(name).is_empty());
    }
}

/// What our encoders write has changed, or what a target reads: `cargo run -p junto-fuzz --example seeds`.
#[test]
fn the_seeds_in_the_corpus_are_those_that_are_made_now() {
    for (name, _) in TARGETS {
        // An export has keys in it that are drawn anew; settings are text, of which today's is replayed.
        if ["relay_export", "relay_config"].contains(name) {
            continue;
        }
        let corpus = corpus_of(name);
        for (number, seed) in junto_fuzz::seeds::of(name).iter().enumerate() {
            let file = format!("seed-{number:02}");
            let kept = corpus.iter().find(|(path, _)| path.ends_with(&file));
            assert!(
                kept.is_some_and(|(_, bytes)| bytes == seed),
                "{name}/{file}"
            );
        }
    }
}
