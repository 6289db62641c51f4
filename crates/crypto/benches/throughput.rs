//! Throughput of our boxes on one 16 KiB SMP block, beside ChaCha20-Poly1305 in the same run.
use junto_crypto::secretbox::{BoxKey, Nonce};
use std::hint::black_box;
use std::time::{Duration, Instant};

const BLOCK: usize = 16_368;

fn measure(name: &str, mut work: impl FnMut()) -> f64 {
    for _ in 0..200 {
        work();
    }
    let mut best = f64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        let mut rounds = 0u32;
        while start.elapsed() < Duration::from_millis(100) {
            for _ in 0..64 {
                work();
            }
            rounds += 64;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(rounds));
    }
    let rate = BLOCK as f64 / best / 1e6;
    println!("{name:40} {:8.2} us {rate:8.0} MB/s", best * 1e6);
    rate
}

fn main() {
    let key = BoxKey::from_symmetric(&[7; 32]);
    let nonce = Nonce([9; 24]);
    let mut buf = vec![1u8; BLOCK];
    measure("junto secretbox seal", || {
        black_box(key.seal_in_place(&nonce, black_box(&mut buf)));
    });
    let mut out = vec![0u8; BLOCK];
    let mut mac = [0u8; 16];
    measure("dryoc secretbox detached b2b", || {
        dryoc::classic::crypto_secretbox::crypto_secretbox_detached(
            &mut out,
            &mut mac,
            black_box(&buf),
            &nonce.0,
            &[7; 32],
        )
        .unwrap();
    });
    let mut data = vec![0u8; BLOCK + 16];
    measure("dryoc secretbox easy inplace", || {
        dryoc::classic::crypto_secretbox::crypto_secretbox_easy_inplace(
            black_box(&mut data),
            &nonce.0,
            &[7; 32],
        )
        .unwrap();
    });
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
    let lc = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
    measure("aws-lc chacha20poly1305", || {
        black_box(
            lc.seal_in_place_separate_tag(
                aws_lc_rs::aead::Nonce::assume_unique_for_key([1; 12]),
                Aad::empty(),
                black_box(&mut buf),
            )
            .unwrap(),
        );
    });
    use chacha20poly1305::{KeyInit, aead::AeadInOut};
    let rc = chacha20poly1305::ChaCha20Poly1305::new(&[7; 32].into());
    measure("rustcrypto chacha20poly1305", || {
        black_box(
            rc.encrypt_inout_detached(&[1; 12].into(), b"", black_box(buf.as_mut_slice()).into())
                .unwrap(),
        );
    });
    use salsa20::cipher::{KeyIvInit, StreamCipher};
    measure("salsa20 alone", || {
        salsa20::XSalsa20::new(&[7; 32].into(), &[1; 24].into())
            .apply_keystream(black_box(&mut buf));
    });
    use poly1305::universal_hash::{KeyInit as _, UniversalHash};
    measure("poly1305 alone (update)", || {
        let mut m = poly1305::Poly1305::new(&[7; 32].into());
        let (b, _) = poly1305::Block::slice_as_chunks(&buf);
        m.update(b);
        black_box(m.finalize());
    });
    measure("poly1305 alone (compute_unpadded)", || {
        let m = poly1305::Poly1305::new(&[7; 32].into());
        black_box(m.compute_unpadded(black_box(&buf)));
    });
}
