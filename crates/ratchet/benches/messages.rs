//! Messages per second of one ratchet, one way and by turns, beside a floor measured in the same
//! run: the bare cryptography that a message cannot do without (one chain derivation, AES-256-GCM
//! over header and body, with key set-up) on the same bytes.
//!
//! `cargo bench -p junto-ratchet` prints one line per measurement; the best of several short
//! batches counts, since other processes only ever add time.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use aes_gcm::{
    AesGcm,
    aead::{AeadInOut, KeyInit, consts::U16},
    aes::Aes256,
};
use hkdf::Hkdf;
use junto_ratchet::{HEADER_BYTES, MakerKeys, Options, Ratchet, VersionRange, join};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::Sha512;

const TEXT: [u8; 100] = [b'x'; 100];
/// Bodies just large enough for the text, and those that the agent sends.
const PADDED: [usize; 2] = [128, 15_840];
const BATCHES: usize = 7;
const BATCH: Duration = Duration::from_millis(80);

/// Seconds of the fastest batch, per call.
fn seconds(mut work: impl FnMut()) -> f64 {
    (0..BATCHES)
        .map(|_| {
            let start = Instant::now();
            let mut calls = 0u32;
            while start.elapsed() < BATCH {
                (0..8).for_each(|_| work());
                calls += 8;
            }
            start.elapsed().as_secs_f64() / f64::from(calls)
        })
        .fold(f64::MAX, f64::min)
}

fn conversation(pq: bool, rng: &mut ChaCha20Rng) -> (Ratchet, Ratchet) {
    let options = Options {
        pq,
        ..Options::default()
    };
    let keys = MakerKeys::generate(pq, rng);
    let (joiner, params) = join(&keys.offer(VersionRange::OURS), options, rng).unwrap();
    (joiner, keys.accept(&params, options).unwrap())
}

/// The floor: what one side does for a message, without the ratchet around it.
fn floor(padded: usize) -> f64 {
    let mut chain = [1; 32];
    let mut header = [0; HEADER_BYTES];
    let mut body = vec![0; padded];
    seconds(|| {
        let mut block = [0; 96];
        Hkdf::<Sha512>::new(Some(b""), &chain)
            .expand(b"SimpleXChainRatchet", &mut block)
            .unwrap();
        chain.copy_from_slice(&block[..32]);
        for buffer in [&mut header[..], &mut body] {
            let key: &[u8; 32] = block[32..64].try_into().unwrap();
            let iv: &[u8; 16] = block[64..80].try_into().unwrap();
            let tag = AesGcm::<Aes256, U16>::new(key.into())
                .encrypt_inout_detached(iv.into(), &[0; 112], buffer.into())
                .unwrap();
            black_box(tag);
        }
    })
}

fn print(name: &str, time: f64, floor: Option<f64>) {
    let ratio = floor.map_or(String::new(), |floor| {
        format!("{:>6.2} of floor", floor / time)
    });
    println!(
        "{name:<52} {:>9.2} us {:>8.0}/s {ratio}",
        time * 1e6,
        1.0 / time
    );
}

fn main() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    for padded in PADDED {
        let floor = floor(padded);
        print(&format!("floor, one side, body {padded}"), floor, None);
        let (mut joiner, _) = conversation(false, &mut rng);
        let encrypt = seconds(|| {
            black_box(joiner.encrypt(&TEXT, padded).unwrap());
        });
        print(
            &format!("encrypt 100 B, body {padded}"),
            encrypt,
            Some(floor),
        );
        let (mut sender, mut receiver) = conversation(false, &mut rng);
        let both = seconds(|| {
            let message = sender.encrypt(&TEXT, padded).unwrap();
            black_box(receiver.decrypt(&message, &mut rng).unwrap().plaintext);
        });
        print(
            &format!("encrypt and decrypt 100 B, body {padded}"),
            both,
            Some(2.0 * floor),
        );
        let stored = seconds(|| {
            let message = sender.encrypt(&TEXT, padded).unwrap();
            black_box(sender.encode());
            black_box(receiver.decrypt(&message, &mut rng).unwrap().plaintext);
            black_box(receiver.encode());
        });
        print(
            &format!("the same with both states encoded, body {padded}"),
            stored,
            Some(2.0 * floor),
        );
    }
    for (name, pq, steps) in [
        ("one hop by turns", false, false),
        ("the same, key encapsulation at the start", true, false),
        ("the same, key encapsulation in each step", true, true),
    ] {
        let (mut joiner, mut maker) = conversation(pq, &mut rng);
        joiner.set_pq(steps);
        maker.set_pq(steps);
        let hop = seconds(|| {
            let message = joiner.encrypt(&TEXT, 128).unwrap();
            black_box(maker.decrypt(&message, &mut rng).unwrap().plaintext);
            core::mem::swap(&mut joiner, &mut maker);
        });
        print(name, hop, None);
    }
    let (mut joiner, mut maker) = conversation(true, &mut rng);
    let mut spent = Duration::ZERO;
    let hops = 40;
    for _ in 0..hops {
        maker.prepare(&mut rng);
        let start = Instant::now();
        let message = joiner.encrypt(&TEXT, 128).unwrap();
        black_box(maker.decrypt(&message, &mut rng).unwrap().plaintext);
        spent += start.elapsed();
        core::mem::swap(&mut joiner, &mut maker);
    }
    print(
        "the same, keys prepared while idle",
        spent.as_secs_f64() / f64::from(hops),
        None,
    );
}
