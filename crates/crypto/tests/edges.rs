//! Hostile and marginal inputs: each is refused with the right error, and nothing panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use junto_crypto::{
    CryptoError,
    aead::{GcmKey, StoreKey},
    authenticator, ed448, ed25519, kem, pad,
    secretbox::{BoxKey, Nonce},
    x448, x25519,
};
use proptest::prelude::*;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([42; 32])
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex::decode(text).unwrap().try_into().unwrap()
}

/// Every encoding of a point of small order on Curve25519 or its twist.
const X25519_SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn x25519_refuses_every_small_order_peer() {
    let secret = x25519::SecretKey::generate(&mut rng());
    for text in X25519_SMALL_ORDER {
        let mut bytes = array::<32>(text);
        for top_bit in [0, 0x80] {
            bytes[31] = bytes[31] & 0x7f | top_bit;
            let peer = x25519::PublicKey::from_bytes(&bytes);
            assert_eq!(
                secret.diffie_hellman(&peer).err(),
                Some(CryptoError::SmallOrder),
                "{text}"
            );
        }
    }
}

#[test]
fn x448_refuses_every_small_order_peer() {
    let secret = x448::SecretKey::generate(&mut rng());
    let mut p = [0xff; 56];
    p[28] = 0xfe;
    let mut minus_one = p;
    minus_one[0] = 0xfe;
    let mut p_plus_one = [0; 56];
    p_plus_one[28..].fill(0xff);
    let mut one = [0; 56];
    one[0] = 1;
    for bytes in [[0; 56], one, minus_one, p, p_plus_one] {
        let peer = x448::PublicKey::from_bytes(&bytes);
        assert_eq!(
            secret.diffie_hellman(&peer).err(),
            Some(CryptoError::SmallOrder),
            "{peer:?}"
        );
    }
}

/// Group order of Ed25519, little-endian.
const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
/// Group order of Ed448, little-endian.
const ED448_ORDER: &str = "f34458ab92c27823558fc58d72c26c219036d6ae49db4ec4e923ca7c\
                           ffffffffffffffffffffffffffffffffffffffffffffffffffffff3f00";

/// `scalar` + `order`: the same signature by another encoding.
fn add(scalar: &mut [u8], order: &[u8]) {
    let mut carry = 0u16;
    for (byte, addend) in scalar.iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(*addend) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
}

#[test]
fn ed25519_refuses_malleated_signatures() {
    let key = ed25519::SigningKey::generate(&mut rng());
    let mut signature = key.sign(b"message");
    key.verifying_key().verify(b"message", &signature).unwrap();
    add(&mut signature.0[32..], &hex::decode(ED25519_ORDER).unwrap());
    assert_eq!(
        key.verifying_key().verify(b"message", &signature),
        Err(CryptoError::Forged)
    );
}

#[test]
fn ed25519_refuses_weak_and_second_encodings_of_keys() {
    let mut one = [0; 32];
    one[0] = 1;
    let mut small_order = vec![
        (one, CryptoError::SmallOrder),
        ([0; 32], CryptoError::SmallOrder),
        (
            array("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            CryptoError::SmallOrder,
        ),
        (
            array("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            CryptoError::SmallOrder,
        ),
        (
            array("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            CryptoError::SmallOrder,
        ),
    ];
    // y = p and y = p + 1 encode 0 and 1 a second time.
    small_order.push((
        array("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        CryptoError::Encoding,
    ));
    small_order.push((
        array("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        CryptoError::Encoding,
    ));
    // y = p + 3 is a second encoding of a point of large order.
    small_order.push((
        array("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        CryptoError::Encoding,
    ));
    for (bytes, error) in small_order {
        assert_eq!(
            ed25519::VerifyingKey::from_bytes(&bytes),
            Err(error),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn ed25519_refuses_an_all_zero_signature() {
    let key = ed25519::SigningKey::generate(&mut rng()).verifying_key();
    assert_eq!(
        key.verify(b"", &ed25519::Signature([0; 64])),
        Err(CryptoError::Forged)
    );
    let mut identity = [0; 64];
    identity[0] = 1;
    assert_eq!(
        key.verify(b"", &ed25519::Signature(identity)),
        Err(CryptoError::Forged)
    );
}

#[test]
fn ed448_refuses_malleated_signatures_and_small_order_keys() {
    let raw = ed448_goldilocks::SigningKey::try_from([7u8; 57].as_slice()).unwrap();
    let key = ed448::VerifyingKey::from_bytes(&raw.verifying_key().to_bytes()).unwrap();
    let mut signature = ed448::Signature(raw.sign_raw(b"message").to_bytes());
    key.verify(b"message", &signature).unwrap();
    assert_eq!(key.verify(b"massage", &signature), Err(CryptoError::Forged));
    let mut top = signature;
    top.0[113] = 1;
    assert_eq!(key.verify(b"message", &top), Err(CryptoError::Forged));
    add(&mut signature.0[57..], &hex::decode(ED448_ORDER).unwrap());
    assert_eq!(key.verify(b"message", &signature), Err(CryptoError::Forged));

    let mut identity = [0; 57];
    identity[0] = 1;
    let mut minus_one = [0xff; 57];
    minus_one[0] = 0xfe;
    minus_one[28] = 0xfe;
    minus_one[56] = 0;
    for weak in [identity, minus_one, [0; 57]] {
        assert!(
            ed448::VerifyingKey::from_bytes(&weak).is_err(),
            "{weak:02x?}"
        );
    }
    // y = p + 1: a second encoding of the identity.
    let mut second = [0; 57];
    second[28..56].fill(0xff);
    assert!(ed448::VerifyingKey::from_bytes(&second).is_err());
}

#[test]
fn spki_has_exactly_one_encoding() {
    let mut rng = rng();
    let keys: [Vec<u8>; 4] = [
        x25519::SecretKey::generate(&mut rng)
            .public_key()
            .to_spki()
            .into(),
        ed25519::SigningKey::generate(&mut rng)
            .verifying_key()
            .to_spki()
            .into(),
        x448::SecretKey::generate(&mut rng)
            .public_key()
            .to_spki()
            .into(),
        ed448::VerifyingKey::from_bytes(
            &ed448_goldilocks::SigningKey::try_from([7u8; 57].as_slice())
                .unwrap()
                .verifying_key()
                .to_bytes(),
        )
        .unwrap()
        .to_spki()
        .into(),
    ];
    let readers: [fn(&[u8]) -> bool; 4] = [
        |spki| x25519::PublicKey::from_spki(spki).is_ok(),
        |spki| ed25519::VerifyingKey::from_spki(spki).is_ok(),
        |spki| x448::PublicKey::from_spki(spki).is_ok(),
        |spki| ed448::VerifyingKey::from_spki(spki).is_ok(),
    ];
    for (i, spki) in keys.iter().enumerate() {
        for (j, read) in readers.iter().enumerate() {
            assert_eq!(read(spki), i == j, "key {i}, reader {j}");
        }
        let read = readers[i];
        for length in 0..spki.len() {
            assert!(!read(&spki[..length]), "truncated");
        }
        assert!(!read(&[spki.as_slice(), &[0]].concat()), "longer");
        for byte in 0..12 {
            let mut changed = spki.clone();
            changed[byte] ^= 1;
            assert!(!read(&changed), "prefix byte {byte}");
        }
    }
}

/// The same box by another implementation.
fn reference_box(key: &[u8; 32], nonce: &[u8; 24], plaintext: &[u8]) -> Vec<u8> {
    use poly1305::{Poly1305, universal_hash::KeyInit};
    use salsa20::{
        XSalsa20,
        cipher::{KeyIvInit, StreamCipher, consts::U10},
        hsalsa,
    };
    let key = hsalsa::<U10>(key.into(), &[0; 16].into());
    let mut cipher = XSalsa20::new(&key, nonce.into());
    let mut mac_key = [0; 32];
    cipher.apply_keystream(&mut mac_key);
    let mut ciphertext = plaintext.to_vec();
    cipher.apply_keystream(&mut ciphertext);
    let tag = Poly1305::new((&mac_key).into()).compute_unpadded(&ciphertext);
    [tag.as_slice(), &ciphertext].concat()
}

#[test]
fn boxes_of_every_length_agree_with_another_implementation() {
    let text: Vec<u8> = (0..2_500u32)
        .map(|i| i.to_le_bytes()[0].wrapping_mul(31))
        .collect();
    let (key, nonce) = ([3; 32], [5; 24]);
    let ours = BoxKey::from_symmetric(&key);
    for length in 0..text.len() {
        let mut boxed = Vec::new();
        ours.seal(&Nonce(nonce), &text[..length], &mut boxed);
        assert_eq!(
            boxed,
            reference_box(&key, &nonce, &text[..length]),
            "length {length}"
        );
        assert_eq!(**ours.open(&Nonce(nonce), &boxed).unwrap(), text[..length]);
    }
}

proptest! {
    #[test]
    fn boxes_agree_with_another_implementation(
        key: [u8; 32],
        nonce: [u8; 24],
        text in prop::collection::vec(any::<u8>(), 0..40_000),
        offset in 0usize..64,
    ) {
        let ours = BoxKey::from_symmetric(&key);
        let expected = reference_box(&key, &nonce, &text);
        // Unaligned on purpose: vector kernels must not care.
        let mut buffer = vec![0; offset];
        buffer.extend_from_slice(&text);
        let tag = ours.seal_in_place(&Nonce(nonce), &mut buffer[offset..]);
        prop_assert_eq!(&tag[..], &expected[..16]);
        prop_assert_eq!(&buffer[offset..], &expected[16..]);
        ours.open_in_place(&Nonce(nonce), &mut buffer[offset..], &tag).unwrap();
        prop_assert_eq!(&buffer[offset..], &text[..]);
    }

    #[test]
    fn x25519_agrees_with_another_implementation(secret: [u8; 32], peer: [u8; 32]) {
        let ours = x25519::SecretKey::from_bytes(&secret);
        let theirs = x25519_dalek::StaticSecret::from(secret);
        // Half of all points are on the twist, some encodings are not reduced: all are keys.
        for peer in [peer, [0xff; 32]] {
            let shared = ours.diffie_hellman(&x25519::PublicKey::from_bytes(&peer)).unwrap();
            let other = theirs.diffie_hellman(&x25519_dalek::PublicKey::from(peer));
            prop_assert_eq!(*shared.as_bytes(), other.to_bytes());
        }
        let public = x25519_dalek::PublicKey::from(&theirs);
        prop_assert_eq!(*ours.public_key().as_bytes(), public.to_bytes());
    }

    #[test]
    fn x448_agrees_with_another_implementation(secret: [[u8; 28]; 2], peer: [[u8; 28]; 2]) {
        let (secret, peer) = (secret.concat(), peer.concat());
        let (secret, peer) = (secret[..].try_into().unwrap(), peer[..].try_into().unwrap());
        let ours = x448::SecretKey::from_bytes(&secret);
        let shared = ours.diffie_hellman(&x448::PublicKey::from_bytes(&peer)).unwrap();
        prop_assert_eq!(*shared.as_bytes(), ::x448::x448_unchecked(secret, peer));
        let base = ::x448::x448_unchecked(secret, ::x448::X448_BASEPOINT_BYTES);
        prop_assert_eq!(*ours.public_key().as_bytes(), base);
    }

    #[test]
    fn padding_round_trips(text in prop::collection::vec(any::<u8>(), 0..300), extra in 0usize..50) {
        let mut padded = vec![9];
        pad::pad(&text, &mut padded, text.len() + 2 + extra).unwrap();
        prop_assert_eq!(padded.len(), 1 + text.len() + 2 + extra);
        prop_assert_eq!(pad::unpad(&padded[1..]).unwrap(), &text[..]);
    }

    #[test]
    fn unpad_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = pad::unpad(&bytes) {
            prop_assert!(message.len() + 2 <= bytes.len());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_keep_their_encoding(bytes in prop::collection::vec(any::<u8>(), 57)) {
        let x25519: [u8; 32] = bytes[..32].try_into().unwrap();
        let key = x25519::PublicKey::from_bytes(&x25519);
        prop_assert_eq!(key.as_bytes(), &x25519);
        if let Ok(key) = ed25519::VerifyingKey::from_bytes(&x25519) {
            prop_assert_eq!(key.as_bytes(), &x25519);
        }
        let mut ed448: [u8; 57] = bytes[..].try_into().unwrap();
        ed448[56] &= 0x80;
        if let Ok(key) = ed448::VerifyingKey::from_bytes(&ed448) {
            prop_assert_eq!(key.to_bytes(), ed448);
        }
    }
}

#[test]
fn a_box_changed_anywhere_does_not_open_and_is_left_alone() {
    let key = BoxKey::from_symmetric(&[1; 32]);
    let nonce = Nonce([2; 24]);
    let mut boxed = Vec::new();
    key.seal(
        &nonce,
        b"some plaintext over one block of the cipher, sixty-four bytes long",
        &mut boxed,
    );
    for byte in 0..boxed.len() {
        let mut changed = boxed.clone();
        changed[byte] ^= 0x10;
        assert_eq!(key.open(&nonce, &changed).err(), Some(CryptoError::Forged));
        let (tag, body) = changed.split_first_chunk_mut::<16>().unwrap();
        let before = body.to_vec();
        assert_eq!(
            key.open_in_place(&nonce, body, tag),
            Err(CryptoError::Forged)
        );
        assert_eq!(body, before);
    }
    for length in 0..boxed.len() {
        assert_eq!(
            key.open(&nonce, &boxed[..length]).err(),
            Some(CryptoError::Forged)
        );
    }
    assert_eq!(
        key.open(&nonce.reversed(), &boxed).err(),
        None,
        "all bytes of the nonce are equal"
    );
    assert_eq!(
        key.open(&Nonce([3; 24]), &boxed).err(),
        Some(CryptoError::Forged)
    );
}

#[test]
fn a_message_that_does_not_fit_changes_nothing() {
    let key = BoxKey::from_symmetric(&[1; 32]);
    let mut out = vec![7; 3];
    for (length, padded) in [(15, 16), (1, 2), (0, 1), (0, 0), (65_536, 70_000)] {
        let message = vec![0; length];
        assert_eq!(
            key.seal_padded(&Nonce([0; 24]), &message, padded, &mut out),
            Err(CryptoError::TooLong)
        );
        assert_eq!(
            pad::pad(&message, &mut out, padded),
            Err(CryptoError::TooLong)
        );
        assert_eq!(out, [7; 3]);
    }
    pad::pad(&[0; 14], &mut out, 16).unwrap();
    pad::pad(&vec![0; 65_535], &mut out, 65_537).unwrap();
    assert_eq!(out.len(), 3 + 16 + 65_537);
}

#[test]
fn a_sealed_box_without_padding_is_bad_padding() {
    let key = BoxKey::from_symmetric(&[1; 32]);
    let nonce = Nonce([2; 24]);
    for plaintext in [&b""[..], b"\0", b"\0\x01", b"\xff\xff123"] {
        let mut boxed = Vec::new();
        key.seal(&nonce, plaintext, &mut boxed);
        assert_eq!(
            key.open_padded(&nonce, &boxed).err(),
            Some(CryptoError::Padding)
        );
    }
}

#[test]
fn authenticators_of_other_lengths_bytes_or_nonces_are_refused() {
    let key = BoxKey::from_symmetric(&[1; 32]);
    let nonce = Nonce([2; 24]);
    let made = authenticator::make(&key, &nonce, b"bytes");
    authenticator::verify(&key, &nonce, b"bytes", &made).unwrap();
    for length in 0..made.len() {
        assert!(authenticator::verify(&key, &nonce, b"bytes", &made[..length]).is_err());
        let mut changed = made;
        changed[length] ^= 1;
        assert!(authenticator::verify(&key, &nonce, b"bytes", &changed).is_err());
    }
    assert!(authenticator::verify(&key, &nonce, b"bytes", &[&made[..], &[0]].concat()).is_err());
    assert!(authenticator::verify(&key, &nonce, b"bite", &made).is_err());
    assert!(authenticator::verify(&key, &Nonce([3; 24]), b"bytes", &made).is_err());
}

#[test]
fn stored_blobs_open_only_whole_unchanged_and_in_their_place() {
    let mut rng = rng();
    let key = StoreKey::generate(&mut rng);
    let blob = key.seal(b"row 1", b"secret", &mut rng).unwrap();
    assert_eq!(blob.len(), 6 + junto_crypto::aead::STORE_OVERHEAD_BYTES);
    assert_eq!(&**key.open(b"row 1", &blob).unwrap(), b"secret");
    assert_eq!(key.open(b"row 2", &blob).err(), Some(CryptoError::Forged));
    for byte in 0..blob.len() {
        assert!(key.open(b"row 1", &blob[..byte]).is_err());
        let mut changed = blob.clone();
        changed[byte] ^= 1;
        assert!(key.open(b"row 1", &changed).is_err());
    }
    assert_ne!(
        blob,
        key.seal(b"row 1", b"secret", &mut rng).unwrap(),
        "fresh nonce each time"
    );
    let copy = StoreKey::from_bytes(key.as_bytes());
    assert_eq!(&**copy.open(b"row 1", &blob).unwrap(), b"secret");
}

#[test]
fn gcm_refuses_changes_and_leaves_the_buffer_alone() {
    let key = GcmKey::new(&[1; 32]);
    let mut buffer = *b"twenty bytes of text";
    let tag = key.seal_in_place(&[2; 16], b"ad", &mut buffer).unwrap();
    let sealed = buffer;
    for (iv, ad) in [([2; 16], &b"da"[..]), ([3; 16], b"ad")] {
        assert_eq!(
            key.open_in_place(&iv, ad, &mut buffer, &tag),
            Err(CryptoError::Forged)
        );
        assert_eq!(buffer, sealed);
    }
    key.open_in_place(&[2; 16], b"ad", &mut buffer, &tag)
        .unwrap();
    assert_eq!(&buffer, b"twenty bytes of text");
}

#[test]
fn kem_agrees_and_rejects_implicitly() {
    let mut rng = rng();
    let key = kem::SecretKey::generate(&mut rng);
    let (ciphertext, secret) = key.public_key().encapsulate(&mut rng);
    assert_eq!(key.decapsulate(&ciphertext).as_bytes(), secret.as_bytes());
    let stored = kem::SecretKey::from_bytes(key.as_bytes()).unwrap();
    assert_eq!(
        stored.decapsulate(&ciphertext).as_bytes(),
        secret.as_bytes()
    );
    assert_eq!(stored.public_key(), key.public_key());
    let other = kem::SecretKey::generate(&mut rng);
    assert_ne!(other.decapsulate(&ciphertext).as_bytes(), secret.as_bytes());
    let mut changed = ciphertext.as_bytes().to_vec();
    changed[0] ^= 1;
    let changed = kem::Ciphertext::from_bytes(&changed).unwrap();
    assert_ne!(key.decapsulate(&changed).as_bytes(), secret.as_bytes());
    for length in [0, 1_038, 1_040, 1_157, 1_159, 1_762, 1_764] {
        let bytes = vec![0; length];
        assert!(kem::Ciphertext::from_bytes(&bytes).is_err());
        assert!(kem::PublicKey::from_bytes(&bytes).is_err());
        assert!(kem::SecretKey::from_bytes(&bytes).is_err());
    }
    // Any bytes of the right length decode to something and never panic.
    for fill in [0, 0xff] {
        let hostile = kem::PublicKey::from_bytes(&[fill; kem::PUBLIC_KEY_BYTES]).unwrap();
        let (made, _) = hostile.encapsulate(&mut rng);
        let _ = key.decapsulate(&made);
        let hostile = kem::Ciphertext::from_bytes(&[fill; kem::CIPHERTEXT_BYTES]).unwrap();
        let _ = key.decapsulate(&hostile);
    }
}

#[test]
fn keys_survive_storage_unchanged() {
    let mut rng = rng();
    let x25519 = x25519::SecretKey::from_bytes(&[0xff; 32]);
    assert_eq!(
        x25519.as_bytes(),
        &[0xff; 32],
        "clamped at use, not in storage"
    );
    let x448 = x448::SecretKey::from_bytes(&[0xff; 56]);
    assert_eq!(x448.as_bytes(), &[0xff; 56]);
    let ed25519 = ed25519::SigningKey::generate(&mut rng);
    let copy = ed25519::SigningKey::from_seed(ed25519.seed());
    assert_eq!(copy.verifying_key(), ed25519.verifying_key());
}

#[test]
fn debug_shows_public_values_only() {
    let public = x25519::PublicKey::from_bytes(&[0xab; 32]);
    assert_eq!(format!("{public:?}"), format!("x25519:{}", "ab".repeat(32)));
}

static_assertions::assert_not_impl_any!(x25519::SecretKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(x25519::SharedSecret: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(x448::SecretKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(x448::SharedSecret: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(ed25519::SigningKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(kem::SecretKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(kem::SharedSecret: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(BoxKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(StoreKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_not_impl_any!(GcmKey: std::fmt::Debug, Clone, PartialEq);
static_assertions::assert_impl_all!(x25519::SecretKey: zeroize::ZeroizeOnDrop);
static_assertions::assert_impl_all!(x448::SecretKey: zeroize::ZeroizeOnDrop);
static_assertions::assert_impl_all!(kem::SecretKey: zeroize::ZeroizeOnDrop);
static_assertions::assert_impl_all!(BoxKey: zeroize::ZeroizeOnDrop);
static_assertions::assert_impl_all!(StoreKey: zeroize::ZeroizeOnDrop);
