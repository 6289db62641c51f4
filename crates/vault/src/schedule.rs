//! From a PIN to keys, exactly as the text derives them ("Stretching beyond a KDF").
//!
//! ```text
//! stretched_key   = Argon2id(PIN, salt, 32)
//! c1              = HMAC-SHA256(stretched_key, "Master Key Encryption")
//! master_key      = HMAC-SHA256(c1, c2)               c2: 32 random bytes
//! application_key = HMAC-SHA256(master_key, label)
//! ```
//!
//! The text's one `auth_key` would let any realm try PINs by itself. Instead the stretched key goes, blinded, through
//! the realms' threshold OPRF, and each realm gets an authentication key of its own from the result.

use argon2::{Algorithm, Argon2, Params, Version as ArgonVersion};
use curve25519_dalek::scalar::Scalar;
use junto_crypto::{
    Zeroizing,
    kdf::{hkdf_sha256, hmac_sha256},
};
use subtle::{Choice, ConstantTimeEq};

use crate::{Account, Pin, RealmId, RealmSet};

/// Names one storing of a secret: 16 random bytes, part of the salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub [u8; 16]);

/// What stretching a PIN costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A cost below the floor or above what a client accepts to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Argon2id takes 16 MiB to 4 GiB, memory times passes of at least 192 MiB, at most 64 passes and 16 lanes"
)]
pub struct CostError;

impl Cost {
    /// The second recommended option of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    pub const RECOMMENDED: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 4,
    };

    /// Refuses what is cheaper than the floor, since the cost may come from a roster that a hostile realm made, and
    /// what would take minutes.
    ///
    /// # Errors
    /// [`CostError`].
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, CostError> {
        let sound = (16 * 1024..=4 * 1024 * 1024).contains(&memory_kib)
            && (1..=64).contains(&passes)
            && (1..=16).contains(&lanes)
            && u64::from(memory_kib) * u64::from(passes) >= 192 * 1024;
        if !sound {
            return Err(CostError);
        }
        Ok(Self {
            memory_kib,
            passes,
            lanes,
        })
    }

    /// 12 bytes: memory in KiB, passes, lanes, each big endian.
    pub(crate) fn encode(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[..4].copy_from_slice(&self.memory_kib.to_be_bytes());
        out[4..8].copy_from_slice(&self.passes.to_be_bytes());
        out[8..].copy_from_slice(&self.lanes.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: [u8; 12]) -> Result<Self, CostError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self::new(
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
            u32::from_be_bytes([i, j, k, l]),
        )
    }
}

/// A PIN after Argon2id: 32 bytes. Whoever has it can try nothing without the realms, but needs no PIN any more.
pub struct Stretched(Zeroizing<[u8; 32]>);

impl Stretched {
    /// Takes a good part of a second and the memory that `cost` names: not for a thread that serves others.
    ///
    /// # Errors
    /// [`CostError`] when this machine cannot give the memory.
    pub fn new(
        pin: &Pin,
        account: &Account,
        set: &RealmSet,
        version: &Version,
        cost: Cost,
    ) -> Result<Self, CostError> {
        let salt = hkdf_sha256::<32>(
            b"junto vault salt",
            &[&version.0[..], &set.digest(), &account.encode()].concat(),
            b"",
        );
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
            .map_err(|_| CostError)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, ArgonVersion::V0x13, params)
            .hash_password_into(pin.as_bytes(), &salt[..], key.as_mut())
            .map_err(|_| CostError)?;
        Ok(Self(key))
    }

    /// What goes into the OPRF.
    pub(crate) fn oprf_input(&self) -> Zeroizing<[u8; 32]> {
        hmac_sha256(&self.0[..], &[b"OPRF Input"])
    }

    /// What hides the input from the realms: the same for the same seed, and without the seed as good as drawn anew.
    pub(crate) fn blind(&self, seed: &[u8; 32]) -> Zeroizing<Scalar> {
        let wide = hkdf_sha256::<64>(seed, &self.0[..], b"junto vault blind");
        // Zero, once in 2^252, would tell that it is zero and nothing else.
        Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide))
    }

    /// master_key = HMAC-SHA256(c1, c2).
    pub(crate) fn master_key(&self, c2: &[u8; 32]) -> MasterKey {
        let c1 = hmac_sha256(&self.0[..], &[b"Master Key Encryption"]);
        MasterKey(hmac_sha256(&c1[..], &[c2]))
    }
}

/// From which keys for every use come: 32 bytes, as strong as c2 even for who knows the PIN, and as strong as the
/// stretched PIN even for who knows c2.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// The key for one use: HMAC-SHA256(master_key, label), 32 bytes.
    #[must_use]
    pub fn application_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        hmac_sha256(&self.0[..], &[label.as_bytes()])
    }
}

impl ConstantTimeEq for MasterKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&*other.0)
    }
}

/// Proves to one realm, for one version, that the PIN is known: 32 bytes.
pub struct AuthKey(Zeroizing<[u8; 32]>);

impl AuthKey {
    /// HMAC-SHA256(y, "Auth Key" ‖ realm ‖ version), y the OPRF's output.
    pub(crate) fn derive(output: &[u8; 64], realm: &RealmId, version: &Version) -> Self {
        Self(hmac_sha256(output, &[b"Auth Key", &realm.0, &version.0]))
    }

    /// As a realm receives it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// As it is sent, over a channel that hides it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a realm keeps of it: its SHA-256.
    pub(crate) fn verifier(&self) -> [u8; 32] {
        junto_crypto::hash::sha256_of(&[b"junto vault verifier", &self.0[..]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs() {
        assert!(Cost::new(64 * 1024, 3, 4) == Ok(Cost::RECOMMENDED));
        // Signal's: 16 MiB, 32 passes. The slip of a paper: 16 KiB.
        assert!(Cost::new(16 * 1024, 32, 1).is_ok());
        assert_eq!(Cost::new(16, 32, 1), Err(CostError));
        assert_eq!(Cost::new(64 * 1024, 2, 1), Err(CostError));
        assert_eq!(Cost::new(u32::MAX, 1, 1), Err(CostError));
        assert_eq!(
            Cost::decode(Cost::RECOMMENDED.encode()),
            Ok(Cost::RECOMMENDED)
        );
    }

    /// RFC 9106, section 5.3, checks the crate; here: that we call it as the text says. The values were computed
    /// with other implementations (`vectors/vault.json`).
    #[test]
    fn the_schedule_is_that_of_the_text() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../../../vectors/vault.json")).unwrap();
        let bytes = |name: &str| hex::decode(vector[name].as_str().unwrap()).unwrap();
        let array = |name: &str| <[u8; 32]>::try_from(bytes(name)).unwrap();
        let text = |name: &str| vector[name].as_str().unwrap().to_owned();
        let set = RealmSet::new((1..=3).map(|i| RealmId([i; 32])).collect(), 2).unwrap();
        assert_eq!(set.digest(), array("realm_set"));
        let account = Account::new(&text("tenant"), &text("user")).unwrap();
        let version = Version(bytes("version").try_into().unwrap());
        let pin = Pin::new(&text("pin")).unwrap();
        let cost = Cost::new(16 * 1024, 12, 1).unwrap();
        let stretched = Stretched::new(&pin, &account, &set, &version, cost).unwrap();
        assert_eq!(stretched.0.to_vec(), bytes("stretched_key"));
        assert_eq!(stretched.oprf_input().to_vec(), bytes("oprf_input"));
        let master = stretched.master_key(&array("c2"));
        assert_eq!(master.0.to_vec(), bytes("master_key"));
        let application = master.application_key("Social Graph Encryption");
        assert_eq!(application.to_vec(), bytes("application_key"));
        let output: [u8; 64] = bytes("oprf_output").try_into().unwrap();
        let auth = AuthKey::derive(&output, &set.realms()[0], &version);
        assert_eq!(auth.as_bytes().to_vec(), bytes("auth_key"));
        assert_eq!(auth.verifier().to_vec(), bytes("verifier"));
    }
}
