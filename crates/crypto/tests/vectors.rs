//! Bytes agree with other implementations: `vectors/` of this repository.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use junto_crypto::{
    aead::GcmKey,
    authenticator, ed448, ed25519, hash, kdf, kem, pad,
    secretbox::{BoxKey, Nonce},
    x448, x25519,
};

const SIMPLEX: &str = include_str!("../../../vectors/simplex-primitives.txt");
const SNTRUP: &str = include_str!("../../../vectors/sntrup761.txt");
const CURVES: &str = include_str!("../../../vectors/rfc-curves.txt");

/// One vector file: `name hex` lines.
struct Vectors(BTreeMap<&'static str, Vec<u8>>);

impl Vectors {
    fn read(text: &'static str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| line.split_once(' ').expect("name and value"))
                .map(|(name, value)| (name, hex::decode(value).expect(name)))
                .collect(),
        )
    }

    fn bytes(&self, name: &str) -> &[u8] {
        self.0.get(name).expect(name)
    }

    fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().expect(name)
    }
}

fn shared(vectors: &Vectors) -> x25519::SharedSecret {
    let a = x25519::SecretKey::from_bytes(&vectors.array("x25519_secret_a"));
    let b = x25519::SecretKey::from_bytes(&vectors.array("x25519_secret_b"));
    a.diffie_hellman(&b.public_key()).unwrap()
}

#[test]
fn padding() {
    let vectors = Vectors::read(SIMPLEX);
    let mut padded = Vec::new();
    pad::pad(b"abc", &mut padded, 8).unwrap();
    assert_eq!(padded, vectors.bytes("pad_abc_8"));
    assert_eq!(pad::unpad(&padded).unwrap(), b"abc");
}

#[test]
fn symmetric_box_has_the_extra_hsalsa_step() {
    let vectors = Vectors::read(SIMPLEX);
    let key = BoxKey::from_symmetric(&vectors.array("box_key"));
    let nonce = Nonce(vectors.array("box_nonce"));
    let mut boxed = Vec::new();
    key.seal_padded(&nonce, b"hello", 16, &mut boxed).unwrap();
    assert_eq!(boxed, vectors.bytes("box_hello_16"));
    assert!(!boxed.starts_with(vectors.bytes("box_ordinary_prefix")));
    assert_eq!(&**key.open_padded(&nonce, &boxed).unwrap(), b"hello");
}

/// One step of the block chain: next chain key ‖ box key ‖ nonce.
fn chain_step(chain_key: &[u8]) -> ([u8; 32], [u8; 32], [u8; 24]) {
    let step = kdf::hkdf_sha512::<88>(b"", chain_key, b"SimpleXSbChain");
    (
        step[..32].try_into().unwrap(),
        step[32..64].try_into().unwrap(),
        step[64..].try_into().unwrap(),
    )
}

#[test]
fn block_chain_of_genuine_code() {
    let vectors = Vectors::read(SIMPLEX);
    let chains = kdf::hkdf_sha512::<64>(
        vectors.bytes("chain_salt"),
        vectors.bytes("chain_ikm"),
        b"SimpleXSbChainInit",
    );
    let (_, key, nonce) = chain_step(&chains[..32]);
    assert_eq!(key, vectors.array("chain_key"));
    assert_eq!(nonce, vectors.array("chain_nonce"));
}

#[test]
fn block_chain_from_key_agreement_to_sealed_block() {
    let vectors = Vectors::read(SIMPLEX);
    let shared = shared(&vectors);
    assert_eq!(*shared.as_bytes(), vectors.array("x25519_shared"));
    let chains = kdf::hkdf_sha512::<64>(
        vectors.bytes("chain_salt"),
        shared.as_bytes(),
        b"SimpleXSbChainInit",
    );
    assert_eq!(chains[..32], *vectors.bytes("x25519_ck1"));
    assert_eq!(chains[32..], *vectors.bytes("x25519_ck2"));
    let (next, key, nonce) = chain_step(&chains[..32]);
    assert_eq!(next, vectors.array("x25519_ck1_next"));
    assert_eq!(key, vectors.array("x25519_block_key"));
    assert_eq!(nonce, vectors.array("x25519_block_nonce"));
    let mut block = Vec::new();
    BoxKey::from_symmetric(&key)
        .seal_padded(
            &Nonce(nonce),
            vectors.bytes("x25519_block_payload"),
            16_368,
            &mut block,
        )
        .unwrap();
    assert_eq!(block.len(), 16_384);
    assert_eq!(block[..16], *vectors.bytes("x25519_block_tag"));
    assert_eq!(hash::sha256(&block), vectors.array("x25519_block_sha256"));
}

#[test]
fn deniable_authenticator() {
    let vectors = Vectors::read(SIMPLEX);
    let key = BoxKey::from_shared(&shared(&vectors));
    let nonce = Nonce(vectors.array("authenticator_nonce"));
    let bytes = vectors.bytes("authenticator_bytes");
    let made = authenticator::make(&key, &nonce, bytes);
    assert_eq!(made, vectors.array("authenticator"));
    authenticator::verify(&key, &nonce, bytes, &made).unwrap();
}

#[test]
fn hashes_and_link_keys() {
    let vectors = Vectors::read(SIMPLEX);
    assert_eq!(
        hash::sha3_384(vectors.bytes("sender_corr_id"))[..24],
        *vectors.bytes("sender_id")
    );
    let link_key = hash::sha3_256(vectors.bytes("link_fixed"));
    assert_eq!(link_key, vectors.array("link_key"));
    let contact = kdf::hkdf_sha512::<56>(b"", &link_key, b"SimpleXContactLink");
    assert_eq!(contact[..24], *vectors.bytes("link_contact_id"));
    assert_eq!(contact[24..], *vectors.bytes("link_contact_key"));
    assert_eq!(
        *kdf::hkdf_sha512::<32>(b"", &link_key, b"SimpleXInvLink"),
        vectors.array("link_one_time_key")
    );
}

#[test]
fn aes_gcm_with_a_sixteen_byte_vector() {
    let vectors = Vectors::read(SIMPLEX);
    let key = GcmKey::new(&vectors.array("gcm_key"));
    let iv = vectors.array("gcm_iv");
    let mut buffer = vectors.bytes("gcm_plaintext").to_vec();
    let tag = key
        .seal_in_place(&iv, vectors.bytes("gcm_ad"), &mut buffer)
        .unwrap();
    assert_eq!(buffer, vectors.bytes("gcm_ciphertext"));
    assert_eq!(tag, vectors.array("gcm_tag"));
    key.open_in_place(&iv, vectors.bytes("gcm_ad"), &mut buffer, &tag)
        .unwrap();
    assert_eq!(buffer, vectors.bytes("gcm_plaintext"));
}

#[test]
fn x25519_of_rfc_7748() {
    let vectors = Vectors::read(CURVES);
    let a = x25519::SecretKey::from_bytes(&vectors.array("x25519_a"));
    let b = x25519::SecretKey::from_bytes(&vectors.array("x25519_b"));
    assert_eq!(*a.public_key().as_bytes(), vectors.array("x25519_a_public"));
    assert_eq!(*b.public_key().as_bytes(), vectors.array("x25519_b_public"));
    assert_eq!(a.public_key().to_spki(), vectors.array("x25519_a_spki"));
    assert_eq!(
        x25519::PublicKey::from_spki(vectors.bytes("x25519_a_spki")),
        Ok(a.public_key())
    );
    for secret in [
        a.diffie_hellman(&b.public_key()),
        b.diffie_hellman(&a.public_key()),
    ] {
        assert_eq!(*secret.unwrap().as_bytes(), vectors.array("x25519_shared"));
    }
}

#[test]
fn x448_of_rfc_7748() {
    let vectors = Vectors::read(CURVES);
    let a = x448::SecretKey::from_bytes(&vectors.array("x448_a"));
    let b = x448::SecretKey::from_bytes(&vectors.array("x448_b"));
    assert_eq!(*a.public_key().as_bytes(), vectors.array("x448_a_public"));
    assert_eq!(*b.public_key().as_bytes(), vectors.array("x448_b_public"));
    assert_eq!(a.public_key().to_spki(), vectors.array("x448_a_spki"));
    assert_eq!(
        x448::PublicKey::from_spki(vectors.bytes("x448_a_spki")),
        Ok(a.public_key())
    );
    for secret in [
        a.diffie_hellman(&b.public_key()),
        b.diffie_hellman(&a.public_key()),
    ] {
        assert_eq!(*secret.unwrap().as_bytes(), vectors.array("x448_shared"));
    }
}

#[test]
fn key_agreement_with_arbitrary_peer_bytes() {
    let vectors = Vectors::read(CURVES);
    let long = x448::SecretKey::from_bytes(&vectors.array("any448_scalar"));
    let short = x25519::SecretKey::from_bytes(&vectors.array("any25519_scalar"));
    for i in 0..9 {
        let peer = x448::PublicKey::from_bytes(&vectors.array(&format!("any448_peer_{i}")));
        let expected = vectors.array(&format!("any448_result_{i}"));
        assert_eq!(
            *long.diffie_hellman(&peer).unwrap().as_bytes(),
            expected,
            "x448 {i}"
        );
        let peer = x25519::PublicKey::from_bytes(&vectors.array(&format!("any25519_peer_{i}")));
        let expected = vectors.array(&format!("any25519_result_{i}"));
        assert_eq!(
            *short.diffie_hellman(&peer).unwrap().as_bytes(),
            expected,
            "x25519 {i}"
        );
    }
}

#[test]
fn ed25519_of_rfc_8032() {
    let vectors = Vectors::read(CURVES);
    let key = ed25519::SigningKey::from_seed(&vectors.array("ed25519_seed"));
    assert_eq!(
        *key.verifying_key().as_bytes(),
        vectors.array("ed25519_public")
    );
    assert_eq!(key.verifying_key().to_spki(), vectors.array("ed25519_spki"));
    let message = vectors.bytes("ed25519_message");
    assert_eq!(key.sign(message).0, vectors.array("ed25519_signature"));
    let read = ed25519::VerifyingKey::from_spki(vectors.bytes("ed25519_spki")).unwrap();
    read.verify(message, &key.sign(message)).unwrap();
}

#[test]
fn ed448_of_rfc_8032() {
    let vectors = Vectors::read(CURVES);
    let key = ed448::VerifyingKey::from_spki(vectors.bytes("ed448_spki")).unwrap();
    assert_eq!(key.to_bytes(), vectors.array("ed448_public"));
    assert_eq!(key.to_spki(), vectors.array("ed448_spki"));
    let signature = ed448::Signature(vectors.array("ed448_signature"));
    key.verify(vectors.bytes("ed448_message"), &signature)
        .unwrap();
}

#[test]
fn sntrup761_of_the_reference_code() {
    let vectors = Vectors::read(SNTRUP);
    let key = kem::SecretKey::from_bytes(vectors.bytes("kem_secret")).unwrap();
    assert_eq!(key.public_key().as_bytes(), vectors.bytes("kem_public"));
    let shared = |bytes: &[u8]| {
        *key.decapsulate(&kem::Ciphertext::from_bytes(bytes).unwrap())
            .as_bytes()
    };
    let mut ciphertext = vectors.bytes("kem_ciphertext").to_vec();
    assert_eq!(shared(&ciphertext), vectors.array("kem_shared"));
    for (byte, name) in [
        (5, "kem_rejected_5"),
        (kem::CIPHERTEXT_BYTES - 1, "kem_rejected_last"),
    ] {
        ciphertext[byte] ^= 1;
        assert_eq!(
            shared(&ciphertext),
            vectors.array(name),
            "implicit rejection"
        );
        ciphertext[byte] ^= 1;
    }
}
