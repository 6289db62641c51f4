//! A key under a passphrase.
//!
//! ```text
//! sealed key = "JK" 2 · memory in KiB u32 · passes u32 · lanes u32 · salt (16)
//!            · nonce (24) · the key (32) · tag (16)
//! ```
//!
//! XChaCha20-Poly1305 under Argon2id of the passphrase, bound to everything in front of it and to what the key is
//! for. The first version, of profiles only, had no first three bytes and no parameters: they were those of
//! [`Cost::NORMAL`].

use argon2::{Algorithm, Argon2, Params, Version};
use junto_crypto::aead::{STORE_OVERHEAD_BYTES, StoreKey};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::KEY_BYTES;

const MAGIC: &[u8; 3] = b"JK\x02";
const SALT_BYTES: usize = 16;
const COST_BYTES: usize = 12;
const BOX_BYTES: usize = KEY_BYTES + STORE_OVERHEAD_BYTES;
/// Bytes of a sealed key.
pub const SEALED_KEY_BYTES: usize = MAGIC.len() + COST_BYTES + SALT_BYTES + BOX_BYTES;
/// Bytes of one of the first version.
const SEALED_KEY_BYTES_1: usize = SALT_BYTES + BOX_BYTES;
const LABEL_1: &[u8] = b"junto profile key v1";

/// What a sealed key is for: one does not pass for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It opens a profile.
    Profile,
    /// It opens the chunks of a backup.
    Backup,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Profile => b"junto profile key",
            Self::Backup => b"junto backup key",
        }
    }
}

/// What deriving a key from a passphrase costs, and whoever guesses it, for each guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// 64 MiB, 3 passes, 1 lane: RFC 9106, second recommended option, for a machine with one free core.
    pub const NORMAL: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };
    /// 1 GiB, 32 passes, 16 lanes: the most that a file may demand. A forged one is not to take all memory, or for ever.
    pub const MOST: Self = Self {
        memory_kib: 1024 * 1024,
        passes: 32,
        lanes: 16,
    };

    /// A cost of Argon2id: memory in KiB, at least 8 for each lane; passes over it; lanes.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] beyond [`Cost::MOST`], or if Argon2 has no such parameters.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, KeyError> {
        let cost = Self {
            memory_kib,
            passes,
            lanes,
        };
        let fits = memory_kib <= Self::MOST.memory_kib
            && passes <= Self::MOST.passes
            && lanes <= Self::MOST.lanes;
        let params = cost.params();
        params
            .filter(|_| fits)
            .map(|_| cost)
            .ok_or(KeyError::Malformed)
    }

    /// KiB of memory that it takes.
    #[must_use]
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// How often it goes over them.
    #[must_use]
    pub fn passes(self) -> u32 {
        self.passes
    }

    fn params(self) -> Option<Params> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES)).ok()
    }

    fn to_bytes(self) -> [u8; COST_BYTES] {
        let mut out = [0; COST_BYTES];
        let numbers = [self.memory_kib, self.passes, self.lanes];
        for (out, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *out = number.to_be_bytes();
        }
        out
    }

    fn from_bytes(bytes: &[u8; COST_BYTES]) -> Result<Self, KeyError> {
        let (numbers, _) = bytes.as_chunks::<4>();
        let numbers: [[u8; 4]; 3] = numbers.try_into().map_err(|_| KeyError::Malformed)?;
        let [memory_kib, passes, lanes] = numbers.map(u32::from_be_bytes);
        Self::new(memory_kib, passes, lanes)
    }

    fn key(self, passphrase: &[u8], salt: &[u8]) -> Result<StoreKey, KeyError> {
        let params = self.params().ok_or(KeyError::Malformed)?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, salt, key.as_mut())
            .map_err(|_| KeyError::Passphrase)?;
        Ok(StoreKey::from_bytes(&key))
    }
}

/// Why a sealed key does not open, or a key is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is none, or one that demands too much.
    #[error("it is no sealed key")]
    Malformed,
    /// With this passphrase it does not, or it was changed: the two cannot be told apart.
    #[error("wrong passphrase")]
    Wrong,
    /// No key can be derived from it: it has 4 GiB or more.
    #[error("the passphrase is too long")]
    Passphrase,
}

/// A key under a passphrase, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    bytes: Vec<u8>,
    purpose: Purpose,
    cost: Cost,
}

impl SealedKey {
    /// Seals a key under a passphrase.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] of 4 GiB or more.
    pub fn seal(
        key: &StoreKey,
        passphrase: &[u8],
        purpose: Purpose,
        cost: Cost,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, KeyError> {
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        let mut bytes = [MAGIC.as_slice(), &cost.to_bytes(), &salt].concat();
        let bound = [purpose.label(), &bytes].concat();
        let wrapping = cost.key(passphrase, &salt)?;
        let sealed = wrapping.seal(&bound, key.as_bytes(), rng);
        bytes.extend(sealed.map_err(|_| KeyError::Malformed)?);
        Ok(Self {
            bytes,
            purpose,
            cost,
        })
    }

    /// Reads a sealed key, of the first version as well if it is for a profile. Nothing is derived yet.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] if it is none, or demands more than [`Cost::MOST`].
    pub fn parse(bytes: &[u8], purpose: Purpose) -> Result<Self, KeyError> {
        let is_first = bytes.len() == SEALED_KEY_BYTES_1 && purpose == Purpose::Profile;
        let cost = match bytes
            .strip_prefix(MAGIC)
            .and_then(<[u8]>::split_first_chunk)
        {
            _ if is_first => Cost::NORMAL,
            Some((cost, _)) if bytes.len() == SEALED_KEY_BYTES => Cost::from_bytes(cost)?,
            _ => return Err(KeyError::Malformed),
        };
        Ok(Self {
            bytes: bytes.to_vec(),
            purpose,
            cost,
        })
    }

    /// As it is stored: [`SEALED_KEY_BYTES`], fewer in the first version.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What opening it takes.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`KeyError::Wrong`] if it was sealed under another passphrase or for something else, or was changed.
    pub fn open(&self, passphrase: &[u8]) -> Result<StoreKey, KeyError> {
        let is_first = self.bytes.len() == SEALED_KEY_BYTES_1;
        let (header, sealed) = self.bytes.split_at(self.bytes.len() - BOX_BYTES);
        let (_, salt) = header.split_at(header.len() - SALT_BYTES);
        let bound = match is_first {
            true => LABEL_1.to_vec(),
            false => [self.purpose.label(), header].concat(),
        };
        let wrapping = self.cost.key(passphrase, salt)?;
        let key = wrapping.open(&bound, sealed).map_err(|_| KeyError::Wrong)?;
        let key: &[u8; KEY_BYTES] = key.as_slice().try_into().map_err(|_| KeyError::Wrong)?;
        Ok(StoreKey::from_bytes(key))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn sealed(cost: Cost, purpose: Purpose, seed: u8) -> SealedKey {
        let mut rng = ChaCha8Rng::from_seed([seed; 32]);
        SealedKey::seal(
            &StoreKey::from_bytes(&[7; 32]),
            b"right",
            purpose,
            cost,
            &mut rng,
        )
        .unwrap()
    }

    fn opened(bytes: &[u8], passphrase: &[u8], purpose: Purpose) -> Result<[u8; 32], KeyError> {
        let key = SealedKey::parse(bytes, purpose)?.open(passphrase)?;
        Ok(*key.as_bytes())
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_for_its_purpose_only() {
        use Purpose::{Backup, Profile};
        let key = sealed(Cost::NORMAL, Profile, 1);
        let bytes = key.as_bytes();
        assert_eq!(bytes.len(), SEALED_KEY_BYTES);
        assert_eq!(SealedKey::parse(bytes, Profile), Ok(key.clone()));
        assert_eq!(opened(bytes, b"right", Profile), Ok([7; 32]));
        assert_eq!(opened(bytes, b"wrong", Profile), Err(KeyError::Wrong));
        assert_eq!(opened(bytes, b"right", Backup), Err(KeyError::Wrong));
        assert_ne!(
            sealed(Cost::NORMAL, Profile, 2),
            key,
            "salt and nonce are fresh"
        );
    }

    #[test]
    fn the_first_version_opens_for_profiles_only() {
        let salt = [3; SALT_BYTES];
        let mut rng = ChaCha8Rng::from_seed([1; 32]);
        let wrapping = Cost::NORMAL.key(b"right", &salt).unwrap();
        let inner = wrapping.seal(LABEL_1, &[7; 32], &mut rng).unwrap();
        let first = [&salt[..], &inner].concat();
        assert_eq!(opened(&first, b"right", Purpose::Profile), Ok([7; 32]));
        assert_eq!(
            opened(&first, b"wrong", Purpose::Profile),
            Err(KeyError::Wrong)
        );
        assert_eq!(
            SealedKey::parse(&first, Purpose::Backup),
            Err(KeyError::Malformed)
        );
    }

    #[test]
    fn changed_or_cut_anywhere_it_does_not_open_nor_take_all_memory() {
        let key = sealed(Cost::new(64, 2, 2).unwrap(), Purpose::Backup, 1);
        let good = key.as_bytes();
        assert_eq!(opened(good, b"right", Purpose::Backup), Ok([7; 32]));
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x80;
            assert!(
                opened(&bad, b"right", Purpose::Backup).is_err(),
                "byte {at}"
            );
            let cut = SealedKey::parse(&good[..at], Purpose::Backup);
            assert_eq!(cut, Err(KeyError::Malformed), "cut at {at}");
        }
    }

    #[test]
    fn a_cost_is_bounded_and_one_that_argon2_has() {
        let Cost {
            memory_kib,
            passes,
            lanes,
        } = Cost::MOST;
        assert_eq!(Cost::new(memory_kib, passes, lanes), Ok(Cost::MOST));
        for (memory_kib, passes, lanes) in [
            (memory_kib + 1, passes, lanes),
            (memory_kib, passes + 1, lanes),
            (memory_kib, passes, lanes + 1),
            (u32::MAX, u32::MAX, u32::MAX),
            (0, 1, 1),
            (8, 0, 1),
            (8, 1, 0),
            (15, 1, 2),
        ] {
            assert_eq!(
                Cost::new(memory_kib, passes, lanes),
                Err(KeyError::Malformed)
            );
        }
    }
}
