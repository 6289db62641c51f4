//! An identity in a folder: four PEM files, named as the reference server names them.

use core::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

use super::{CertificateKey, OfflineIdentity, ServerIdentity};
use crate::chain::{CHAIN_MAX, ChainError, PeerChain};

/// Certificate of the authority: the identity. Public.
pub const AUTHORITY_CERTIFICATE: &str = "ca.crt";
/// Key of the authority. Needed to rotate the leaf; may be kept elsewhere.
pub const AUTHORITY_KEY: &str = "ca.key";
/// Certificate of the leaf. Public.
pub const LEAF_CERTIFICATE: &str = "server.crt";
/// Key of the leaf. The running server needs it.
pub const LEAF_KEY: &str = "server.key";

/// Most bytes of a PEM file that we read: four certificates at their limit, in base64.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why an identity could not be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users may read a private key.
    #[error("other users can read the key file {} (mode {mode:03o}); run `chmod 600` on it", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of a new identity exists already. Nothing was written.
    #[error("{} exists already; an identity is never overwritten", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("{} is not {expected}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// The certificates do not form a chain that clients accept.
    #[error("the certificates are unusable: {0}")]
    Chain(ChainError),
    /// The authority is not the one that the server's clients know. Nothing was changed.
    #[error("{} is the certificate of another authority; the address would change", path.display())]
    OtherAuthority {
        /// The certificate that clients know.
        path: PathBuf,
    },
    /// A key does not belong to its certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// A certificate could not be made from the given name and time.
    #[error("a certificate cannot be made from this name and time")]
    Certificate,
}

impl OfflineIdentity {
    /// Writes certificate and key into `dir`, which must exist.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if either file does; [`IdentityError::Io`].
    pub fn create(&self, dir: &Path) -> Result<(), IdentityError> {
        let certificate = pem("CERTIFICATE", &self.certificate);
        refuse_existing(&[&dir.join(AUTHORITY_CERTIFICATE), &dir.join(AUTHORITY_KEY)])?;
        write_new(&dir.join(AUTHORITY_KEY), &self.key.to_pem(), Mode::Private)?;
        write_new(&dir.join(AUTHORITY_CERTIFICATE), &certificate, Mode::Public)?;
        sync_dir(dir)
    }

    /// Reads certificate and key from `dir`.
    ///
    /// # Errors
    /// [`IdentityError`]; a key file that others can read is refused.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let certificate = match <[_; 1]>::try_from(certificates(&dir.join(AUTHORITY_CERTIFICATE))?)
        {
            Ok([certificate]) => certificate,
            Err(_) => {
                return Err(IdentityError::Malformed {
                    path: dir.join(AUTHORITY_CERTIFICATE),
                    expected: "one PEM certificate",
                });
            }
        };
        let key = CertificateKey::load(&dir.join(AUTHORITY_KEY))?;
        Ok(Self { certificate, key })
    }
}

impl ServerIdentity {
    /// Writes chain and key into `dir`, which holds the authority's certificate already.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if either file does; [`IdentityError::Io`].
    pub fn create(&self, dir: &Path) -> Result<(), IdentityError> {
        refuse_existing(&[&dir.join(LEAF_CERTIFICATE), &dir.join(LEAF_KEY)])?;
        write_new(&dir.join(LEAF_KEY), &self.key.to_pem(), Mode::Private)?;
        write_new(&dir.join(LEAF_CERTIFICATE), &self.leaf_pem(), Mode::Public)?;
        sync_dir(dir)
    }

    /// Reads what a running server needs from `dir`: not the authority's key.
    ///
    /// # Errors
    /// [`IdentityError`]; what clients would refuse is refused here, at the start.
    pub fn load(dir: &Path, now: UnixTime) -> Result<Self, IdentityError> {
        let key = CertificateKey::load(&dir.join(LEAF_KEY))?;
        let mut chain = certificates(&dir.join(LEAF_CERTIFICATE))?;
        chain.extend(certificates(&dir.join(AUTHORITY_CERTIFICATE))?);
        Self::new(chain, key, now)
    }

    /// Replaces the leaf in `dir` by a new one under the same authority, whose key must be there.
    /// Old files stay beside it until the new ones are whole; a crash leaves one pair that fits or,
    /// between the two renames, a mismatch that [`ServerIdentity::load`] refuses and another
    /// rotation repairs.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn rotate(
        dir: &Path,
        name: &str,
        rng: &mut impl rand_core::CryptoRng,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        Self::rotate_with(dir, &OfflineIdentity::load(dir)?, name, rng, now)
    }

    /// As [`ServerIdentity::rotate`], with an authority whose key is kept elsewhere.
    ///
    /// # Errors
    /// [`IdentityError`]; [`IdentityError::OtherAuthority`] before anything is changed.
    pub fn rotate_with(
        dir: &Path,
        authority: &OfflineIdentity,
        name: &str,
        rng: &mut impl rand_core::CryptoRng,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        let path = dir.join(AUTHORITY_CERTIFICATE);
        if certificates(&path)?.first() != Some(authority.certificate()) {
            return Err(IdentityError::OtherAuthority { path });
        }
        let fresh = authority.issue(name, rng, now)?;
        let staged = |file: &str| dir.join(format!("{file}.new"));
        for (file, content, mode) in [
            (LEAF_KEY, fresh.key.to_pem(), Mode::Private),
            (LEAF_CERTIFICATE, fresh.leaf_pem(), Mode::Public),
        ] {
            remove_stale(&staged(file))?;
            write_new(&staged(file), &content, mode)?;
        }
        for file in [LEAF_KEY, LEAF_CERTIFICATE] {
            fs::rename(staged(file), dir.join(file)).map_err(at(&dir.join(file)))?;
        }
        sync_dir(dir)?;
        // Through the files, so that what the next start will see is what was checked.
        PeerChain::verify(&fresh.chain, now)?;
        Self::load(dir, now)
    }

    fn leaf_pem(&self) -> Zeroizing<String> {
        self.chain
            .first()
            .map_or_else(Zeroizing::default, |leaf| pem("CERTIFICATE", leaf))
    }
}

impl CertificateKey {
    fn to_pem(&self) -> Zeroizing<String> {
        pem("PRIVATE KEY", &*self.to_pkcs8())
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let text = read(path, Mode::Private)?;
        PrivatePkcs8KeyDer::from_pem_slice(&text)
            .ok()
            .and_then(|der| Self::from_pkcs8(der.secret_pkcs8_der()))
            .ok_or_else(|| IdentityError::Malformed {
                path: path.to_owned(),
                expected: "an Ed25519 private key in PEM (PKCS #8)",
            })
    }
}

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Private,
    Public,
}

impl fmt::Debug for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateKey(..)")
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

fn refuse_existing(paths: &[&Path]) -> Result<(), IdentityError> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(IdentityError::Exists {
            path: path.to_path_buf(),
        }),
        None => Ok(()),
    }
}

/// Creates a file that did not exist, with its final permissions from the first byte, and makes it
/// durable.
fn write_new(path: &Path, content: &str, mode: Mode) -> Result<(), IdentityError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(match mode {
            Mode::Private => 0o600,
            Mode::Public => 0o644,
        });
    }
    #[cfg(not(unix))]
    let _ = mode;
    let write = |mut file: File| {
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    match options.open(path) {
        Ok(file) => write(file).map_err(at(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(IdentityError::Exists {
            path: path.to_owned(),
        }),
        Err(error) => Err(at(path)(error)),
    }
}

fn remove_stale(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), IdentityError> {
    // Renames and new names are durable once the folder is. Windows cannot open folders.
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(at(dir))?;
    }
    Ok(())
}

/// Reads a small file whole; the permissions are those of the file that was opened.
fn read(path: &Path, mode: Mode) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let file = File::open(path).map_err(at(path))?;
    let metadata = file.metadata().map_err(at(path))?;
    #[cfg(unix)]
    if mode == Mode::Private {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
    }
    #[cfg(not(unix))]
    let _ = mode;
    // Room for everything at once: growing would leave copies of a key behind.
    let room = metadata.len().min(FILE_BYTES_MAX);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or(0) + 1));
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(at(path))?;
    Ok(content)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path, Mode::Public)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text)
        .take(CHAIN_MAX + 1)
        .collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(IdentityError::Malformed {
            path: path.to_owned(),
            expected: "a PEM certificate",
        }),
    }
}

/// PEM (RFC 7468 §2) with lines of 64. Written here because the usual encoders leave copies of
/// keys in memory.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let body = der.len().div_ceil(3) * 4;
    let mut text = Zeroizing::new(String::with_capacity(
        body + body / 64 + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let value = group
                .iter()
                .zip([16, 8, 0])
                .fold(0u32, |value, (byte, shift)| {
                    value | u32::from(*byte) << shift
                });
            for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let sextet = (value >> shift & 0x3f) as usize;
                text.push(if place <= group.len() {
                    char::from(ALPHABET[sextet])
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;
    use std::time::Duration;

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
    }

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(1)
    }

    fn created(dir: &Path) -> ServerIdentity {
        let authority = OfflineIdentity::generate(&mut rng(), now()).unwrap();
        authority.create(dir).unwrap();
        let server = authority.issue("host", &mut rng(), now()).unwrap();
        server.create(dir).unwrap();
        server
    }

    #[test]
    fn comes_back_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let made = created(dir.path());
        let loaded = ServerIdentity::load(dir.path(), now()).unwrap();
        assert_eq!(made.fingerprint(), loaded.fingerprint());
        assert_eq!(made.chain(), loaded.chain());
    }

    #[test]
    fn runs_without_the_offline_key() {
        let dir = tempfile::tempdir().unwrap();
        created(dir.path());
        fs::remove_file(dir.path().join(AUTHORITY_KEY)).unwrap();
        ServerIdentity::load(dir.path(), now()).unwrap();
        let error = ServerIdentity::rotate(dir.path(), "host", &mut rng(), now()).unwrap_err();
        assert!(matches!(error, IdentityError::Io { .. }));
    }

    #[test]
    fn rotation_keeps_the_fingerprint_and_changes_the_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let before = created(dir.path());
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let after = ServerIdentity::rotate(dir.path(), "host", &mut rng, now()).unwrap();
        assert_eq!(before.fingerprint(), after.fingerprint());
        assert_ne!(before.chain()[0], after.chain()[0]);
        assert_eq!(before.chain()[1], after.chain()[1]);
    }

    #[test]
    fn the_authority_may_be_elsewhere_and_must_be_the_same() {
        let (dir, safe) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = created(dir.path());
        for name in [AUTHORITY_KEY, AUTHORITY_CERTIFICATE] {
            fs::copy(dir.path().join(name), safe.path().join(name)).unwrap();
        }
        fs::remove_file(dir.path().join(AUTHORITY_KEY)).unwrap();
        let authority = OfflineIdentity::load(safe.path()).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let after =
            ServerIdentity::rotate_with(dir.path(), &authority, "host", &mut rng, now()).unwrap();
        assert_eq!(before.fingerprint(), after.fingerprint());
        let other = OfflineIdentity::generate(&mut rng, now()).unwrap();
        let error =
            ServerIdentity::rotate_with(dir.path(), &other, "host", &mut rng, now()).unwrap_err();
        assert!(matches!(error, IdentityError::OtherAuthority { .. }));
        let kept = ServerIdentity::load(dir.path(), now()).unwrap();
        assert_eq!(kept.chain(), after.chain());
    }

    #[test]
    fn never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let server = created(dir.path());
        let before = fs::read(dir.path().join(AUTHORITY_KEY)).unwrap();
        let other = OfflineIdentity::generate(&mut ChaCha20Rng::seed_from_u64(3), now()).unwrap();
        assert!(matches!(
            other.create(dir.path()),
            Err(IdentityError::Exists { .. })
        ));
        assert!(matches!(
            server.create(dir.path()),
            Err(IdentityError::Exists { .. })
        ));
        assert_eq!(before, fs::read(dir.path().join(AUTHORITY_KEY)).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn keys_are_private_and_exposed_keys_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        created(dir.path());
        for name in [AUTHORITY_KEY, LEAF_KEY] {
            let path = dir.path().join(name);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let error = ServerIdentity::load(dir.path(), now()).unwrap_err();
        assert!(matches!(error, IdentityError::Exposed { mode: 0o640, .. }));
        assert!(error.to_string().contains("chmod 600"));
        assert!(OfflineIdentity::load(dir.path()).is_err());
    }

    #[test]
    fn a_foreign_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        created(dir.path());
        let key = CertificateKey::generate(&mut ChaCha20Rng::seed_from_u64(9));
        fs::remove_file(dir.path().join(LEAF_KEY)).unwrap();
        write_new(&dir.path().join(LEAF_KEY), &key.to_pem(), Mode::Private).unwrap();
        let error = ServerIdentity::load(dir.path(), now()).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMismatch));
    }

    #[test]
    fn garbage_and_truncated_files_are_named() {
        for name in [AUTHORITY_CERTIFICATE, LEAF_CERTIFICATE, LEAF_KEY] {
            let dir = tempfile::tempdir().unwrap();
            created(dir.path());
            let path = dir.path().join(name);
            let whole = fs::read(&path).unwrap();
            for kept in [0, 1, whole.len() / 2] {
                fs::write(&path, &whole[..kept]).unwrap();
                match ServerIdentity::load(dir.path(), now()) {
                    Err(IdentityError::Malformed { path: named, .. }) => assert_eq!(named, path),
                    other => panic!("{name} cut to {kept}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn pem_is_what_others_read() {
        for len in 0..100 {
            let der: Vec<u8> = (0..len).collect();
            let text = pem("CERTIFICATE", &der);
            let read = CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            assert_eq!(read.as_ref(), der);
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }
}
