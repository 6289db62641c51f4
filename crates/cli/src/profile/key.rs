//! The profile's store key: in the clear for its owner only, or sealed under a passphrase.
//!
//! ```text
//! sealed key = "JK" 2 · memory in KiB u32 · passes u32 · lanes u32 · salt (16)
//!            · nonce (24) · the key (32) · tag (16)
//! ```
//!
//! XChaCha20-Poly1305 under Argon2id of the passphrase, bound to everything in front of it and to what the key is
//! for. Another passphrase seals the same key again: nothing else has to be written. The first version had no
//! first three bytes and no parameters: they were those of [`Cost::NORMAL`].

use std::fs;
use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use junto_crypto::aead::{STORE_OVERHEAD_BYTES, StoreKey};
use zeroize::Zeroizing;

use super::passphrase::{self, Source};
use super::write_private;
use crate::failure::{Context, Exit, Failure};
use crate::random;

const PLAIN: &str = "key";
const SEALED: &str = "key.sealed";
const MAGIC: &[u8; 3] = b"JK\x02";
const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + 12 + SALT_BYTES;
/// Bytes of a sealed key.
pub(super) const SEALED_BYTES: usize = HEADER_BYTES + KEY_BYTES + STORE_OVERHEAD_BYTES;
/// Bytes of one of the first version.
const SEALED_BYTES_1: usize = SALT_BYTES + KEY_BYTES + STORE_OVERHEAD_BYTES;
const LABEL_1: &[u8] = b"junto profile key v1";

/// What a sealed key is for: one does not pass for the other.
pub(super) const OF_PROFILE: &[u8] = b"junto profile key";
pub(super) const OF_BACKUP: &[u8] = b"junto backup key";

/// What deriving a key from a passphrase costs, and whoever guesses it, for each guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// 64 MiB, 3 passes, 1 lane: RFC 9106, second recommended option, for a machine with one free core.
    const NORMAL: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 1,
    };
    /// The most that a file may demand: a forged one is not to take all memory, or for ever.
    const MOST: Self = Self {
        memory_kib: 1024 * 1024,
        passes: 32,
        lanes: 16,
    };

    fn put(self, out: &mut Vec<u8>) {
        for number in [self.memory_kib, self.passes, self.lanes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    fn read(bytes: &[u8; 12]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<4>();
        let [memory_kib, passes, lanes] = numbers.try_into().ok()?;
        let cost = Self {
            memory_kib: u32::from_be_bytes(memory_kib),
            passes: u32::from_be_bytes(passes),
            lanes: u32::from_be_bytes(lanes),
        };
        let fits = cost.memory_kib <= Self::MOST.memory_kib
            && cost.passes <= Self::MOST.passes
            && cost.lanes <= Self::MOST.lanes;
        fits.then_some(cost)
    }

    fn key(self, passphrase: &[u8], salt: &[u8]) -> Result<StoreKey, Failure> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES))
            .context("Argon2 parameters")?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, salt, key.as_mut())
            .context("cannot derive a key from the passphrase")?;
        Ok(StoreKey::from_bytes(&key))
    }
}

/// Why a sealed key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsealed {
    /// It is none, or one that demands too much.
    Malformed,
    /// With this passphrase it does not.
    Wrong,
}

/// Seals a key under a passphrase.
pub(super) fn seal(key: &StoreKey, passphrase: &[u8], label: &[u8]) -> Result<Vec<u8>, Failure> {
    use rand_core::Rng;
    let mut salt = [0; SALT_BYTES];
    random().fill_bytes(&mut salt);
    let mut out = MAGIC.to_vec();
    Cost::NORMAL.put(&mut out);
    out.extend_from_slice(&salt);
    let sealed = Cost::NORMAL
        .key(passphrase, &salt)?
        .seal(&[label, &out].concat(), key.as_bytes(), &mut random())
        .context("cannot seal the key")?;
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Opens what [`seal`] made, or the first version did.
pub(super) fn unseal(
    bytes: &[u8],
    passphrase: &[u8],
    label: &[u8],
) -> Result<Result<StoreKey, Unsealed>, Failure> {
    let is_first = bytes.len() == SEALED_BYTES_1 && label == OF_PROFILE;
    let (cost, salt, bound, sealed) = if is_first {
        let (salt, sealed) = bytes.split_at(SALT_BYTES);
        (Cost::NORMAL, salt, LABEL_1.to_vec(), sealed)
    } else {
        let header = bytes.split_at_checked(HEADER_BYTES);
        let Some((header, sealed)) = header.filter(|_| bytes.len() == SEALED_BYTES) else {
            return Ok(Err(Unsealed::Malformed));
        };
        let rest = header.strip_prefix(MAGIC);
        let Some((cost, salt)) = rest.and_then(<[u8]>::split_first_chunk) else {
            return Ok(Err(Unsealed::Malformed));
        };
        let Some(cost) = Cost::read(cost) else {
            return Ok(Err(Unsealed::Malformed));
        };
        (cost, salt, [label, header].concat(), sealed)
    };
    let opened = cost.key(passphrase, salt)?.open(&bound, sealed);
    let key = opened.ok().and_then(|key| {
        let key: &[u8; KEY_BYTES] = key.as_slice().try_into().ok()?;
        Some(StoreKey::from_bytes(key))
    });
    Ok(key.ok_or(Unsealed::Wrong))
}

/// Opens the key of the profile in `dir`, or makes it on first use.
pub(super) fn open(dir: &Path, source: &Source) -> Result<StoreKey, Failure> {
    let (plain, sealed) = (dir.join(PLAIN), dir.join(SEALED));
    match (plain.exists(), sealed.exists(), source) {
        (false, false, Source::None) => {
            let key = StoreKey::generate(&mut random());
            write_private(&plain, key.as_bytes())?;
            Ok(key)
        }
        (false, false, source) => {
            let key = StoreKey::generate(&mut random());
            protect(dir, &key, &source.read()?)?;
            Ok(key)
        }
        (true, false, Source::None) => read_plain(&plain),
        (_, true, source) => {
            let key = read_sealed(&sealed, source)?;
            // A crash may have come between the one taking the other's place.
            remove(&plain)?;
            Ok(key)
        }
        (true, false, _) => Err(Failure::usage(
            "this profile has no passphrase, but one was given",
        )
        .help(
            "leave it out, use another profile, or protect this one: `junto profile passphrase`",
        )),
    }
}

/// Whether the profile in `dir` has a passphrase.
pub(super) fn is_protected(dir: &Path) -> bool {
    dir.join(SEALED).exists()
}

/// Seals the profile's key under this passphrase from now on.
pub(super) fn protect(dir: &Path, key: &StoreKey, passphrase: &[u8]) -> Result<(), Failure> {
    write_private(&dir.join(SEALED), &seal(key, passphrase, OF_PROFILE)?)?;
    remove(&dir.join(PLAIN))
}

/// Leaves the profile's key to file permissions from now on.
pub(super) fn expose(dir: &Path, key: &StoreKey) -> Result<(), Failure> {
    // While both are there, the sealed one counts.
    write_private(&dir.join(PLAIN), key.as_bytes())?;
    remove(&dir.join(SEALED))
}

/// Overwrites a key file as far as the file system lets us, and removes it, durably.
fn remove(path: &Path) -> Result<(), Failure> {
    let Ok(length) = fs::metadata(path).map(|file| file.len()) else {
        return Ok(());
    };
    let gone = || -> std::io::Result<()> {
        use std::io::Write as _;
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        file.write_all(&vec![
            0;
            usize::try_from(length).unwrap_or_default().min(4096)
        ])?;
        file.sync_all()?;
        fs::remove_file(path)?;
        junto_tls::files::sync_parent(path)
    };
    gone().context(format_args!("cannot remove {}", path.display()))
}

fn read_plain(path: &Path) -> Result<StoreKey, Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(path)
            .context(format_args!("cannot read {}", path.display()))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(Failure::refused(format_args!(
                "other users can read the key file {}",
                path.display()
            ))
            .help(format_args!("run `chmod 600 {}`", path.display())));
        }
    }
    let bytes =
        Zeroizing::new(fs::read(path).context(format_args!("cannot read {}", path.display()))?);
    let key: &[u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| damaged(path))?;
    Ok(StoreKey::from_bytes(key))
}

fn read_sealed(path: &Path, source: &Source) -> Result<StoreKey, Failure> {
    let passphrase = match source {
        Source::None if passphrase::can_ask() => passphrase::ask("Passphrase of the profile: ")?,
        Source::None => {
            return Err(Failure::new(
                Exit::Refused,
                "this profile is protected by a passphrase",
            )
            .help("give it with `--passphrase-file FILE` or `--passphrase-fd NUMBER`, or set JUNTO_PASSPHRASE_FILE; on a terminal you are asked for it"));
        }
        source => source.read()?,
    };
    let bytes = fs::read(path).context(format_args!("cannot read {}", path.display()))?;
    match unseal(&bytes, &passphrase, OF_PROFILE)? {
        Ok(key) => Ok(key),
        Err(Unsealed::Wrong) => Err(Failure::refused("wrong passphrase for this profile")
            .help("if it is the right one, the file `key.sealed` is damaged: restore the profile from a backup")),
        Err(Unsealed::Malformed) => Err(damaged(path)),
    }
}

fn damaged(path: &Path) -> Failure {
    Failure::failed(format_args!(
        "the key file {} is damaged; nothing was changed",
        path.display()
    ))
    .help("restore it from a backup: without it the profile's databases cannot be read")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> StoreKey {
        StoreKey::from_bytes(&[7; 32])
    }

    fn opened(bytes: &[u8], passphrase: &[u8], label: &[u8]) -> Result<[u8; 32], Unsealed> {
        let key = unseal(bytes, passphrase, label).unwrap()?;
        Ok(*key.as_bytes())
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_for_its_purpose_only() {
        let sealed = seal(&key(), b"right", OF_PROFILE).unwrap();
        assert_eq!(sealed.len(), SEALED_BYTES);
        assert_eq!(opened(&sealed, b"right", OF_PROFILE), Ok([7; 32]));
        assert_eq!(opened(&sealed, b"wrong", OF_PROFILE), Err(Unsealed::Wrong));
        assert_eq!(opened(&sealed, b"right", OF_BACKUP), Err(Unsealed::Wrong));
        let again = seal(&key(), b"right", OF_PROFILE).unwrap();
        assert_ne!(sealed, again, "salt and nonce are fresh");
    }

    #[test]
    fn the_parameters_are_those_in_the_file_and_bound_to_it() {
        let salt = [3; SALT_BYTES];
        let cost = Cost {
            memory_kib: 64,
            passes: 2,
            lanes: 2,
        };
        let mut header = MAGIC.to_vec();
        cost.put(&mut header);
        header.extend_from_slice(&salt);
        let bound = [OF_PROFILE, &header].concat();
        let wrapping = cost.key(b"p", &salt).unwrap();
        let sealed = wrapping.seal(&bound, &[7; 32], &mut random()).unwrap();
        let good = [header, sealed].concat();
        assert_eq!(opened(&good, b"p", OF_PROFILE), Ok([7; 32]));
        // The first version's, without any.
        let wrapping = Cost::NORMAL.key(b"p", &salt).unwrap();
        let sealed = wrapping.seal(LABEL_1, &[7; 32], &mut random()).unwrap();
        let first = [&salt[..], &sealed].concat();
        assert_eq!(opened(&first, b"p", OF_PROFILE), Ok([7; 32]));
        // Changed or cut anywhere, it does not open; nor does it take all memory.
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(opened(&bad, b"p", OF_PROFILE).is_err(), "byte {at}");
            assert_eq!(
                opened(&good[..at], b"p", OF_PROFILE).err(),
                Some(match at {
                    SEALED_BYTES_1 => Unsealed::Wrong,
                    _ => Unsealed::Malformed,
                })
            );
        }
    }
}
