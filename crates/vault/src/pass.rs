//! A realm's word for one of its frontends: whoever has this key may stand before the realm's groups.

use junto_crypto::ed25519::{SIGNATURE_BYTES, Signature, SigningKey, VerifyingKey};

use crate::{RealmId, ReplicaId};

const LABEL: &[u8] = b"junto realm frontend";

/// `Ed25519(realm, "junto realm frontend" · key)`. It makes nobody a member of a group: a card says who those are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass(Signature);

impl Pass {
    /// Bytes of a pass.
    pub const BYTES: usize = SIGNATURE_BYTES;

    /// For the frontend with that key of its start.
    #[must_use]
    pub fn sign(realm: &SigningKey, frontend: &ReplicaId) -> Self {
        Self(realm.sign(&[LABEL, &frontend.0].concat()))
    }

    /// Whether the realm signed it for that key.
    #[must_use]
    pub fn admits(&self, realm: &RealmId, frontend: &ReplicaId) -> bool {
        let text = [LABEL, &frontend.0].concat();
        VerifyingKey::from_bytes(&realm.0).is_ok_and(|key| key.verify(&text, &self.0).is_ok())
    }

    /// As it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        *self.0.as_bytes()
    }

    /// Anybody can write these: see [`admits`](Self::admits).
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Signature(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_one_realms_word_for_one_key() {
        let [realm, other] = [1, 2].map(|seed| SigningKey::from_seed(&[seed; 32]));
        let id = |key: &SigningKey| RealmId(*key.verifying_key().as_bytes());
        let frontend = ReplicaId([7; 32]);
        let pass = Pass::sign(&realm, &frontend);
        assert!(pass.admits(&id(&realm), &frontend));
        assert!(!pass.admits(&id(&realm), &ReplicaId([8; 32])));
        assert!(!pass.admits(&id(&other), &frontend));
        assert!(!Pass::sign(&other, &frontend).admits(&id(&realm), &frontend));
        for at in 0..Pass::BYTES {
            let mut bytes = pass.to_bytes();
            bytes[at] ^= 1;
            assert!(
                !Pass::from_bytes(bytes).admits(&id(&realm), &frontend),
                "{at}"
            );
        }
    }
}
