//! Keys, boxes and padding.

use junto_crypto::{
    aead::{GcmKey, StoreKey},
    authenticator, ed448, ed25519, kem as sntrup, pad,
    secretbox::{BoxKey, Nonce},
    x448, x25519,
};

use crate::input::Input;

/// `SubjectPublicKeyInfo` and raw public keys.
pub(crate) fn keys(bytes: &[u8]) {
    if let Ok(key) = x25519::PublicKey::from_spki(bytes) {
        assert_eq!(key.to_spki(), *bytes);
        let secret = x25519::SecretKey::from_bytes(&[7; 32]);
        // Refused or not, but always the same.
        let agreed = secret.diffie_hellman(&key).map(|s| *s.as_bytes());
        assert_eq!(agreed, secret.diffie_hellman(&key).map(|s| *s.as_bytes()));
        assert_ne!(agreed, Ok([0; 32]));
    }
    if let Ok(key) = x448::PublicKey::from_spki(bytes) {
        assert_eq!(key.to_spki(), *bytes);
        let secret = x448::SecretKey::from_bytes(&[7; 56]);
        if let Ok(shared) = secret.diffie_hellman(&key) {
            assert_ne!(*shared.as_bytes(), [0; 56]);
        }
    }
    if let Ok(key) = ed25519::VerifyingKey::from_spki(bytes) {
        assert_eq!(key.to_spki(), *bytes);
        assert!(
            key.verify(b"message", &ed25519::Signature([1; 64]))
                .is_err()
        );
    }
    if let Ok(key) = ed448::VerifyingKey::from_spki(bytes) {
        assert_eq!(key.to_spki(), *bytes);
        assert!(key.verify(b"message", &ed448::Signature([1; 114])).is_err());
    }
    if let Ok(raw) = bytes.try_into()
        && let Ok(key) = ed25519::VerifyingKey::from_bytes(raw)
    {
        assert_eq!(key.as_bytes(), raw);
    }
    if let Ok(raw) = bytes.try_into()
        && let Ok(key) = ed448::VerifyingKey::from_bytes(raw)
    {
        assert_eq!(key.to_bytes(), *raw);
    }
}

/// sntrup761: public keys, ciphertexts, stored secret keys.
pub(crate) fn kem(bytes: &[u8]) {
    use std::sync::LazyLock;

    static KEY: LazyLock<sntrup::SecretKey> =
        LazyLock::new(|| sntrup::SecretKey::generate(&mut crate::seeds::rng(1)));

    if let Ok(key) = sntrup::PublicKey::from_bytes(bytes) {
        assert_eq!(key.as_bytes(), bytes);
        let (ciphertext, _) = key.encapsulate(&mut crate::seeds::rng(2));
        assert_eq!(ciphertext.as_bytes().len(), sntrup::CIPHERTEXT_BYTES);
    }
    if let Ok(ciphertext) = sntrup::Ciphertext::from_bytes(bytes) {
        assert_eq!(ciphertext.as_bytes(), bytes);
        let shared = KEY.decapsulate(&ciphertext);
        assert_eq!(shared.as_bytes(), KEY.decapsulate(&ciphertext).as_bytes());
    }
    if let Ok(key) = sntrup::SecretKey::from_bytes(bytes) {
        assert_eq!(key.as_bytes(), bytes);
        assert_eq!(key.public_key().as_bytes().len(), sntrup::PUBLIC_KEY_BYTES);
        let ciphertext = sntrup::Ciphertext::from_bytes(&[0; sntrup::CIPHERTEXT_BYTES]).unwrap();
        let _ = key.decapsulate(&ciphertext);
    }
}

/// What must not open does not open; what is padded comes back.
pub(crate) fn boxes(bytes: &[u8]) {
    if let Ok(message) = pad::unpad(bytes) {
        let mut padded = Vec::new();
        pad::pad(message, &mut padded, bytes.len()).unwrap();
        // The fill is free, everything before it is not.
        let used = pad::OVERHEAD_BYTES + message.len();
        assert_eq!(padded[..used], bytes[..used]);
    }
    let mut input = Input(bytes);
    let nonce = Nonce(input.array());
    let rest = input.0;
    let key = BoxKey::from_symmetric(&[3; 32]);
    assert!(key.open(&nonce, rest).is_err());
    assert!(key.open_padded(&nonce, rest).is_err());
    let mut sealed = Vec::new();
    key.seal(&nonce, rest, &mut sealed);
    assert_eq!(key.open(&nonce, &sealed).unwrap()[..], *rest);
    for length in [rest.len() + 2, 16_000] {
        let mut sealed = Vec::new();
        if key.seal_padded(&nonce, rest, length, &mut sealed).is_ok() {
            assert_eq!(sealed.len(), length + 16);
            assert_eq!(key.open_padded(&nonce, &sealed).unwrap()[..], *rest);
        }
    }
    assert!(StoreKey::from_bytes(&[5; 32]).open(b"row", bytes).is_err());
    if let Some((tag, text)) = rest.split_first_chunk::<16>() {
        let mut opened = text.to_vec();
        let gcm = GcmKey::new(&[9; 32]);
        let opens = gcm.open_in_place(&[1; 16], b"data", &mut opened, tag);
        assert!(opens.is_err());
        assert_eq!(opened, text, "what is forged is left alone");
    }
    if let Some((made, text)) = rest.split_at_checked(authenticator::AUTHENTICATOR_BYTES) {
        let verified = authenticator::verify(&key, &nonce, text, made);
        assert!(verified.is_err());
    }
}
