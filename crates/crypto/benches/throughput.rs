//! How fast one SMP block (16,368 bytes padded) is sealed, as a figure and as a ratio to a floor
//! measured in the same run: ChaCha20-Poly1305 by AWS-LC (assembly) over the same bytes. Also the
//! cost of each key operation.
//!
//! `cargo bench -p junto-crypto` prints one line per measurement; the best of several short
//! batches counts, since other processes only ever add time.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use junto_crypto::{
    aead::GcmKey,
    ed25519, kdf, kem,
    secretbox::{BoxKey, Nonce},
    x448, x25519,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

const BLOCK_BYTES: usize = 16_368;
const BATCHES: usize = 7;
const BATCH: Duration = Duration::from_millis(60);

/// Seconds of the fastest batch, per call.
fn seconds(mut work: impl FnMut()) -> f64 {
    (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            let mut calls = 0u32;
            while start.elapsed() < BATCH {
                (0..16).for_each(|_| work());
                calls += 16;
            }
            start.elapsed().as_secs_f64() / f64::from(calls)
        })
        .fold(f64::MAX, f64::min)
}

fn operation(name: &str, work: impl FnMut()) {
    println!("{name:<36} {:>9.2} us", seconds(work) * 1e6);
}

fn main() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let mut block = vec![1u8; BLOCK_BYTES];
    let nonce = Nonce([9; 24]);

    let lc = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    let floor = seconds(|| {
        let nonce = aws_lc_rs::aead::Nonce::assume_unique_for_key([1; 12]);
        let tag = lc.seal_in_place_separate_tag(nonce, Aad::empty(), black_box(&mut block));
        black_box(tag.unwrap().as_ref());
    });
    let key = BoxKey::from_symmetric(&[7; 32]);
    let sealed = seconds(|| {
        black_box(key.seal_in_place(&nonce, black_box(&mut block)));
    });
    let tag = key.seal_in_place(&nonce, &mut block);
    let opened = seconds(|| {
        // A fresh copy each time: opening decrypts in place.
        let mut copy = black_box(&block).clone();
        key.open_in_place(&nonce, &mut copy, &tag).unwrap();
        black_box(&copy);
    });
    for (name, time) in [
        ("floor: ChaCha20-Poly1305 (AWS-LC)", floor),
        ("box seal", sealed),
        ("box open (with a copy)", opened),
    ] {
        println!(
            "{name:<36} {:>9.2} us {:>7.0} MB/s {:>6.2} of floor",
            time * 1e6,
            BLOCK_BYTES as f64 / time / 1e6,
            floor / time
        );
    }

    operation("block chain step (HKDF, 88 bytes)", || {
        black_box(kdf::hkdf_sha512::<88>(
            b"",
            black_box(&[1; 32]),
            b"SimpleXSbChain",
        ));
    });
    let gcm_buffer = &mut [0; 128];
    operation("AES-256-GCM key and 128 bytes", || {
        black_box(GcmKey::new(black_box(&[1; 32])).seal_in_place(&[0; 16], b"", gcm_buffer))
            .unwrap();
    });
    let a = x25519::SecretKey::generate(&mut rng);
    let b = x25519::SecretKey::generate(&mut rng).public_key();
    operation("X25519 agreement", || {
        drop(black_box(a.diffie_hellman(black_box(&b))))
    });
    let a = x448::SecretKey::generate(&mut rng);
    let b = x448::SecretKey::generate(&mut rng).public_key();
    operation("X448 agreement", || {
        drop(black_box(a.diffie_hellman(black_box(&b))))
    });
    operation("X448 public key", || {
        black_box(a.public_key());
    });
    let key = ed25519::SigningKey::generate(&mut rng);
    let signature = key.sign(b"message");
    operation("Ed25519 sign", || {
        black_box(key.sign(black_box(b"message")));
    });
    operation("Ed25519 verify", || {
        black_box(key.verifying_key().verify(b"message", &signature)).unwrap();
    });
    let key = kem::SecretKey::generate(&mut rng);
    let (ciphertext, _) = key.public_key().encapsulate(&mut rng);
    operation("sntrup761 key generation", || {
        drop(black_box(kem::SecretKey::generate(&mut rng)))
    });
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    operation("sntrup761 encapsulation", || {
        drop(black_box(key.public_key().encapsulate(&mut rng)))
    });
    operation("sntrup761 decapsulation", || {
        drop(black_box(key.decapsulate(&ciphertext)))
    });
}
