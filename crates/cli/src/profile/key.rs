//! The profile's store key: in the clear for its owner only, or sealed under a passphrase ([`junto_backup::SealedKey`]).
//! Another passphrase seals the same key again: nothing else has to be written.

use std::fs;
use std::path::Path;

use junto_backup::{Cost, KeyError, Purpose, SealedKey};
use junto_crypto::aead::{KEY_BYTES, StoreKey};
use zeroize::Zeroizing;

use super::passphrase::{self, Source};
use super::write_private;
use crate::failure::{Context, Exit, Failure};
use crate::random;

const PLAIN: &str = "key";
const SEALED: &str = "key.sealed";

/// Opens the key of the profile in `dir`, or makes it on first use.
pub(super) fn open(dir: &Path, source: &Source) -> Result<StoreKey, Failure> {
    let (plain, sealed) = (dir.join(PLAIN), dir.join(SEALED));
    match (plain.exists(), sealed.exists(), source) {
        (false, false, _) if has_records(dir) => Err(Failure::failed(format_args!(
            "{} has records but no key to read them with",
            dir.display()
        ))
        .help("restore the profile from a backup into another folder; what a restore left here that was ended is removed by the same command again")),
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

/// Whether there are records in `dir`: of a profile whose key was lost, or of one that was not restored to its end. A new
/// key would make it look whole.
fn has_records(dir: &Path) -> bool {
    ["agent.db", "contacts.db", "session.db", "identity"]
        .iter()
        .any(|name| dir.join(name).exists())
}

/// Whether there is a profile in `dir`, whole or not.
pub(super) fn is_profile(dir: &Path) -> bool {
    dir.join(PLAIN).exists() || is_protected(dir) || has_records(dir)
}

/// Whether the profile in `dir` has a passphrase.
pub(crate) fn is_protected(dir: &Path) -> bool {
    dir.join(SEALED).exists()
}

/// Seals the profile's key under this passphrase from now on.
pub(super) fn protect(dir: &Path, key: &StoreKey, passphrase: &[u8]) -> Result<(), Failure> {
    let (purpose, cost) = (Purpose::Profile, Cost::NORMAL);
    let sealed = SealedKey::seal(key, passphrase, purpose, cost, &mut random());
    let sealed = sealed.context("cannot seal the key")?;
    write_private(&dir.join(SEALED), sealed.as_bytes())?;
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
    let sealed = SealedKey::parse(&bytes, Purpose::Profile).map_err(|_| damaged(path))?;
    sealed.open(&passphrase).map_err(|error| match error {
        KeyError::Malformed => damaged(path),
        KeyError::Wrong | KeyError::Passphrase => Failure::refused("wrong passphrase for this profile")
            .help("if it is the right one, the file `key.sealed` is damaged: restore the profile from a backup"),
    })
}

fn damaged(path: &Path) -> Failure {
    Failure::failed(format_args!(
        "the key file {} is damaged; nothing was changed",
        path.display()
    ))
    .help("restore it from a backup: without it the profile's databases cannot be read")
}
