//! An identity in a folder: four PEM files, named as the reference server names them.

use core::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

use super::{CertificateKey, OfflineIdentity, ServerIdentity};
use crate::chain::{CHAIN_MAX, ChainError};
use crate::files::{self, Mode};

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

/// How often files that do not belong together are read again, in case that they are being replaced.
const READ_TRIES: u32 = 3;

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
        write_new(&dir.join(AUTHORITY_CERTIFICATE), &certificate, Mode::Public)
    }

    /// Reads certificate and key from `dir`.
    ///
    /// # Errors
    /// [`IdentityError`]; a key file that others can read is refused.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(AUTHORITY_CERTIFICATE);
        let found = certificates(&path, &read(&path, Mode::Public)?)?;
        let Ok([certificate]) = <[_; 1]>::try_from(found) else {
            return Err(IdentityError::Malformed {
                path,
                expected: "one PEM certificate",
            });
        };
        let path = dir.join(AUTHORITY_KEY);
        let key = CertificateKey::parse(&path, &read(&path, Mode::Private)?)?;
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
        write_new(&dir.join(LEAF_CERTIFICATE), &self.leaf_pem(), Mode::Public)
    }

    /// Reads what a running server needs from `dir`: not the authority's key. Also while the leaf is
    /// replaced, and after a crash in the middle of that.
    ///
    /// # Errors
    /// [`IdentityError`]; what clients would refuse is refused here, at the start.
    pub fn load(dir: &Path, now: UnixTime) -> Result<Self, IdentityError> {
        Self::read(dir, now).map(|(identity, _)| identity)
    }

    /// As [`ServerIdentity::load`], with the files that it was read from, which belong together.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn read(dir: &Path, now: UnixTime) -> Result<(Self, IdentityFiles), IdentityError> {
        let mut tries = 0;
        loop {
            // The new key has its place before the new certificate has.
            let found = Set::of(dir).load(now).or_else(|error| {
                let between = Set::between_renames(dir).load(now);
                between.map_err(|_| error)
            });
            match found {
                // The key was replaced after it was read, and then the certificate.
                Err(IdentityError::KeyMismatch) if tries < READ_TRIES => tries += 1,
                found => return found,
            }
        }
    }

    /// Replaces the leaf in `dir` by a new one under the same authority, whose key must be there. The
    /// new files are read back and verified before they take the place of the old ones. A crash or a
    /// loss of power at any step leaves a set that [`ServerIdentity::load`] takes: the old one or the
    /// new one.
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
        if certificates(&path, &read(&path, Mode::Public)?)?.first()
            != Some(authority.certificate())
        {
            return Err(IdentityError::OtherAuthority { path });
        }
        let fresh = authority.issue(name, rng, now)?;
        fresh.install(dir, now, || Ok(()))?;
        Self::load(dir, now)
    }

    /// Puts its leaf in the place of the one in `dir`. Calls `step` before each step; tests stop there.
    fn install(
        &self,
        dir: &Path,
        now: UnixTime,
        mut step: impl FnMut() -> Result<(), IdentityError>,
    ) -> Result<(), IdentityError> {
        let (key, leaf) = (dir.join(LEAF_KEY), dir.join(LEAF_CERTIFICATE));
        // A rotation that was broken off between its last two steps is ended first: its certificate
        // is the only one that fits the key.
        if Set::of(dir).load(now).is_err() && Set::between_renames(dir).load(now).is_ok() {
            step()?;
            files::install(&leaf).map_err(at(&leaf))?;
        }
        step()?;
        files::stage(&key, self.key.to_pem().as_bytes(), Mode::Private).map_err(at(&key))?;
        step()?;
        files::stage(&leaf, self.leaf_pem().as_bytes(), Mode::Public).map_err(at(&leaf))?;
        step()?;
        // Through the files: what the next start will see is what is checked.
        if let Err(error) = Set::staged(dir).load(now) {
            let _ = [&key, &leaf].map(|path| fs::remove_file(files::staged(path)));
            return Err(error);
        }
        for path in [&key, &leaf] {
            step()?;
            files::install(path).map_err(at(path))?;
        }
        Ok(())
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

    fn parse(path: &Path, text: &[u8]) -> Result<Self, IdentityError> {
        PrivatePkcs8KeyDer::from_pem_slice(text)
            .ok()
            .and_then(|der| Self::from_pkcs8(der.secret_pkcs8_der()))
            .ok_or_else(|| IdentityError::Malformed {
                path: path.to_owned(),
                expected: "an Ed25519 private key in PEM (PKCS #8)",
            })
    }
}

/// The files that a server's identity was read from: name and content, as PEM.
pub type IdentityFiles = [(&'static str, Zeroizing<Vec<u8>>); 3];

/// Where the files of one identity are.
struct Set {
    authority: PathBuf,
    leaf: PathBuf,
    key: PathBuf,
}

impl Set {
    fn of(dir: &Path) -> Self {
        Self {
            authority: dir.join(AUTHORITY_CERTIFICATE),
            leaf: dir.join(LEAF_CERTIFICATE),
            key: dir.join(LEAF_KEY),
        }
    }

    /// The new pair, before it is in its place.
    fn staged(dir: &Path) -> Self {
        let set = Self::of(dir);
        Self {
            leaf: files::staged(&set.leaf),
            key: files::staged(&set.key),
            ..set
        }
    }

    /// When the new key is in its place and the new certificate is not.
    fn between_renames(dir: &Path) -> Self {
        let set = Self::of(dir);
        Self {
            leaf: files::staged(&set.leaf),
            ..set
        }
    }

    fn load(&self, now: UnixTime) -> Result<(ServerIdentity, IdentityFiles), IdentityError> {
        let key_text = read(&self.key, Mode::Private)?;
        let leaf_text = read(&self.leaf, Mode::Public)?;
        let authority_text = read(&self.authority, Mode::Public)?;
        let key = CertificateKey::parse(&self.key, &key_text)?;
        let mut chain = certificates(&self.leaf, &leaf_text)?;
        chain.extend(certificates(&self.authority, &authority_text)?);
        let files = [
            (AUTHORITY_CERTIFICATE, authority_text),
            (LEAF_CERTIFICATE, leaf_text),
            (LEAF_KEY, key_text),
        ];
        Ok((ServerIdentity::new(chain, key, now)?, files))
    }
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

/// As [`files::create`].
fn write_new(path: &Path, content: &str, mode: Mode) -> Result<(), IdentityError> {
    match files::create(path, content.as_bytes(), mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(IdentityError::Exists {
            path: path.to_owned(),
        }),
        written => written.map_err(at(path)),
    }
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

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text)
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

    fn stopped() -> IdentityError {
        IdentityError::Io {
            path: PathBuf::new(),
            source: io::Error::other("stopped"),
        }
    }

    /// Rotates in `dir`, and stops before step number `stop`. Gives the new leaf, and whether it came
    /// to its end.
    fn rotated_until(dir: &Path, stop: usize, seed: u64) -> (CertificateDer<'static>, bool) {
        let authority = OfflineIdentity::load(dir).unwrap();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let fresh = authority.issue("host", &mut rng, now()).unwrap();
        let mut steps = 0;
        let installed = fresh.install(dir, now(), || {
            steps += 1;
            if steps > stop { Err(stopped()) } else { Ok(()) }
        });
        (fresh.chain()[0].clone(), installed.is_ok())
    }

    #[test]
    fn a_rotation_may_stop_at_any_step_and_the_next_one_as_well() {
        let mut broken_off = 0;
        for first in 0..8 {
            for second in 0..8 {
                let dir = tempfile::tempdir().unwrap();
                let dir = dir.path();
                let old = created(dir);
                let mut before = old.chain()[0].clone();
                for (seed, stop) in [(2, first), (3, second)] {
                    let (fresh, ended) = rotated_until(dir, stop, seed);
                    broken_off += usize::from(!ended);
                    let found = ServerIdentity::load(dir, now()).unwrap();
                    assert_eq!(found.fingerprint(), old.fingerprint());
                    let leaf = found.chain()[0].clone();
                    assert!(leaf == fresh || !ended && leaf == before);
                    before = leaf;
                }
                let mut rng = ChaCha20Rng::seed_from_u64(4);
                let last = ServerIdentity::rotate(dir, "host", &mut rng, now()).unwrap();
                assert_ne!(before, last.chain()[0]);
                // Nothing is left lying about.
                assert_eq!(fs::read_dir(dir).unwrap().count(), 4);
            }
        }
        assert!(broken_off > 64, "{broken_off}");
    }

    #[test]
    fn an_expired_leaf_is_replaced_though_a_rotation_was_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        created(dir.path());
        // Stopped between the two renames.
        assert!(!rotated_until(dir.path(), 4, 2).1);
        let path = dir.path().join(LEAF_CERTIFICATE);
        assert!(files::staged(&path).exists());
        fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        ServerIdentity::load(dir.path(), now()).unwrap();
        ServerIdentity::rotate(dir.path(), "host", &mut rng(), now()).unwrap();
        assert!(!files::staged(&path).exists());
    }

    #[test]
    fn what_the_disk_did_not_keep_does_not_replace_what_is_there() {
        for damaged in [LEAF_KEY, LEAF_CERTIFICATE] {
            let dir = tempfile::tempdir().unwrap();
            let before = created(dir.path());
            let authority = OfflineIdentity::load(dir.path()).unwrap();
            let mut rng = ChaCha20Rng::seed_from_u64(2);
            let fresh = authority.issue("host", &mut rng, now()).unwrap();
            let staged = files::staged(&dir.path().join(damaged));
            let mut done = false;
            let installed = fresh.install(dir.path(), now(), || {
                if !done && staged.exists() {
                    let mut text = fs::read(&staged).unwrap();
                    text[60] ^= 1;
                    fs::write(&staged, text).unwrap();
                    done = true;
                }
                Ok(())
            });
            assert!(done && installed.is_err());
            let kept = ServerIdentity::load(dir.path(), now()).unwrap();
            assert_eq!(kept.chain(), before.chain());
            assert!(!staged.exists());
        }
    }

    #[test]
    fn the_leaf_can_be_read_while_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        created(dir.path());
        std::thread::scope(|scope| {
            let rotations = scope.spawn(|| {
                let mut rng = ChaCha20Rng::seed_from_u64(2);
                for _ in 0..100 {
                    ServerIdentity::rotate(dir.path(), "host", &mut rng, now()).unwrap();
                }
            });
            while !rotations.is_finished() {
                ServerIdentity::load(dir.path(), now()).unwrap();
            }
        });
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
