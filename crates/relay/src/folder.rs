//! The folder of a relay: identity, settings, journal.

use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

use junto_smp::address::{AddressError, Fingerprint, Host, ServerAddress};
use junto_tls::files::{self, Mode};
use junto_tls::{IdentityError, OfflineIdentity, ServerIdentity};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustls::pki_types::UnixTime;

use crate::config::{self, ConfigError, RelayConfig};

/// Name of the settings file.
pub const CONFIG_FILE: &str = "relay.toml";

/// Why the folder of a relay cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// There is a relay already; nothing was changed.
    #[error("{} holds a relay already", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The host or port is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The settings cannot be used.
    #[error("{}: {source}", path.display())]
    Config {
        /// The settings file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The identity cannot be made or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system has no randomness.
    #[error("no randomness: {0}")]
    Random(getrandom::Error),
}

/// Makes a new relay in `dir`, reached as `host` and `port`: an identity, and settings with the
/// journal switched on. Gives the address for its users.
///
/// # Errors
/// [`FolderError`]; an existing relay is never touched.
pub fn init_dir(dir: &Path, host: &str, port: u16) -> Result<ServerAddress, FolderError> {
    let host: Host = host.parse()?;
    if port == 0 {
        return Err(AddressError::Port.into());
    }
    create_private_dir(dir)?;
    let config = dir.join(CONFIG_FILE);
    if config.symlink_metadata().is_ok() {
        return Err(FolderError::Exists { dir: dir.into() });
    }
    let mut rng = generator().map_err(FolderError::Random)?;
    let now = UnixTime::now();
    let authority = OfflineIdentity::generate(&mut rng, now)?;
    let server = authority.issue(host.as_str(), &mut rng, now)?;
    authority.create(dir)?;
    server.create(dir)?;
    // Last: a folder with settings is whole.
    write_private(&config, &config::template(&host, port))?;
    address(&server, vec![host], port)
}

/// Writes new settings for a relay whose identity comes from elsewhere.
pub(crate) fn write_config(dir: &Path, host: &str, port: u16) -> Result<(), FolderError> {
    let host: Host = host.parse()?;
    if port == 0 {
        return Err(AddressError::Port.into());
    }
    write_private(&dir.join(CONFIG_FILE), &config::template(&host, port))
}

/// Reads the relay in `dir`.
///
/// # Errors
/// [`FolderError`].
pub fn load_dir(dir: &Path) -> Result<(RelayConfig, ServerIdentity), FolderError> {
    let config = load_config(dir)?;
    Ok((config, load_identity(dir)?))
}

fn load_config(dir: &Path) -> Result<RelayConfig, FolderError> {
    let path = dir.join(CONFIG_FILE);
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    RelayConfig::parse(&text, dir).map_err(|source| FolderError::Config { path, source })
}

/// Reads the identity of the relay in `dir`.
pub(crate) fn load_identity(dir: &Path) -> Result<ServerIdentity, IdentityError> {
    ServerIdentity::load(dir, UnixTime::now())
}

/// Makes a new leaf certificate for the relay in `dir`, whose address stays the same. The offline
/// key is in `authority`, or in `dir` itself. A running relay shows it after a reload.
///
/// # Errors
/// [`FolderError`]; the old certificate stays then.
pub fn rotate_certificate(dir: &Path, authority: Option<&Path>) -> Result<(), FolderError> {
    let config = load_config(dir)?;
    let name = config.hosts.first().map_or("relay", Host::as_str);
    let mut rng = generator().map_err(FolderError::Random)?;
    let authority = OfflineIdentity::load(authority.unwrap_or(dir))?;
    ServerIdentity::rotate_with(dir, &authority, name, &mut rng, UnixTime::now())?;
    Ok(())
}

/// The address of a relay: what its users need to know.
///
/// # Errors
/// [`FolderError`] if there are no hosts or too many.
pub fn address(
    identity: &ServerIdentity,
    hosts: Vec<Host>,
    port: u16,
) -> Result<ServerAddress, FolderError> {
    let fingerprint = Fingerprint(*identity.fingerprint().as_bytes());
    Ok(ServerAddress::new(fingerprint, hosts, port)?)
}

/// A generator seeded by the system.
pub(crate) fn generator() -> Result<ChaCha20Rng, getrandom::Error> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

/// Makes a folder that only its owner can enter; an existing one stays as it is.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), FolderError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(dir).map_err(at(dir))
}

fn write_private(path: &Path, text: &str) -> Result<(), FolderError> {
    files::create(path, text.as_bytes(), Mode::Private).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Storage;

    #[test]
    fn a_new_relay_can_be_loaded_and_is_not_overwritten() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("deep/relay");
        let address = init_dir(&dir, "relay.example", 5555).unwrap();
        assert!(address.to_string().ends_with("@relay.example:5555"));
        let (config, identity) = load_dir(&dir).unwrap();
        assert_eq!(config.bind.port(), 5555);
        assert!(matches!(
            config.storage,
            Storage::Journal { sync: true, .. }
        ));
        assert_eq!(identity.fingerprint().as_bytes(), &address.fingerprint().0);
        assert!(matches!(
            init_dir(&dir, "other.example", 1),
            Err(FolderError::Exists { .. })
        ));
        assert_eq!(
            load_dir(&dir).unwrap().1.fingerprint(),
            identity.fingerprint()
        );
    }

    #[test]
    fn nothing_is_made_for_a_bad_address() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("relay");
        for (host, port) in [("two words", 5223), ("", 5223), ("host", 0)] {
            assert!(matches!(
                init_dir(&dir, host, port),
                Err(FolderError::Address(_))
            ));
        }
        assert!(!dir.exists());
    }
}
