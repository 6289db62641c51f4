//! The sealed file, what lies beside it while it changes, and what is kept beside it while a guess is under way.
//!
//! ```text
//! sealed file = "junto vault file 1\n" · version (16) · owner (32) · protected u8 · backup of the profile (junto-backup)
//! ```
//!
//! The head is part of the label from which the backup's passphrase comes: with another one the file does not open.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use junto_tls::files::{self, Mode};
use junto_vault::{MasterKey, Seed, Version};
use zeroize::Zeroizing;

use crate::failure::{Context, Failure};
use crate::{input, random};

const MAGIC: &[u8] = b"junto vault file 1\n";
/// Bytes before the backup.
pub(super) const HEAD_BYTES: usize = MAGIC.len() + 16 + 32 + 1;
/// How the name of a file ends that is not whole yet.
const PARTIAL: &str = ".partial";
/// How the name of a seed ends.
const GUESS: &str = ".guess";

/// What a sealed file says of itself without any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Which storing of the key it belongs to.
    pub(super) version: Version,
    /// Names the set file's realms and user.
    pub(super) owner: [u8; 32],
    /// The profile had a passphrase.
    pub(super) protected: bool,
}

impl Head {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let protected = [u8::from(self.protected)];
        [MAGIC, &self.version.0, &self.owner, &protected].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (version, rest) = rest.split_first_chunk()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let protected = match rest {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Self {
            version: Version(*version),
            owner: *owner,
            protected,
        })
    }

    /// Of a file that is there; none if it is something else.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        let file = File::open(path)?;
        file.take(HEAD_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// What the backup behind this head is sealed with.
    pub(super) fn passphrase(self, master: &MasterKey) -> Zeroizing<Vec<u8>> {
        let label = format!("junto profile backup {}", hex::encode(self.to_bytes()));
        let key = master.application_key(&label);
        Zeroizing::new(hex::encode(&key[..]).into_bytes())
    }
}

/// A sealed file of this set and user.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) path: PathBuf,
    pub(super) head: Head,
}

/// The file that a link leads to: what replaces it takes its place there, such as in a synchronised folder.
pub(super) fn resolved(file: &Path) -> PathBuf {
    match fs::symlink_metadata(file) {
        Ok(found) if found.is_symlink() => fs::canonicalize(file),
        _ => return file.to_owned(),
    }
    .unwrap_or_else(|_| file.to_owned())
}

/// Where the sealed file of a version lies while it is not known to count, or not known to count no more.
pub(super) fn beside(file: &Path, version: &Version) -> PathBuf {
    named(file, version, "")
}

fn named(file: &Path, version: &Version, end: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}{end}", hex::encode(version.0)));
    name.into()
}

/// What there is under the name `file`: of this owner, of somebody else, or nothing.
pub(super) fn look(file: &Path, owner: &[u8; 32]) -> Result<Option<Sealed>, Failure> {
    let head = match Head::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        head => head.context(format_args!("cannot read {}", file.display()))?,
    };
    let wrong = |what| Err(Failure::failed(format_args!("{} {what}", file.display())));
    match head {
        Some(head) if head.owner == *owner => Ok(Some(Sealed {
            path: file.to_owned(),
            head,
        })),
        Some(_) => wrong("belongs to another set file"),
        None => wrong("is no sealed file of `junto vault backup`"),
    }
}

/// Whether a backup may take the place of what is there.
pub(super) fn refuse_foreign(file: &Path, owner: &[u8; 32], replace: bool) -> Result<(), Failure> {
    if replace {
        return Ok(());
    }
    look(file, owner).map(drop).map_err(|failure| {
        failure.help("choose another name; with `--replace` the new backup takes its place")
    })
}

/// The sealed files of this owner under the name `file` and beside it, `file` first.
pub(super) fn all(file: &Path, owner: &[u8; 32]) -> Result<Vec<Sealed>, Failure> {
    let mut all: Vec<_> = look(file, owner)?.into_iter().collect();
    for path in left_beside(file) {
        if let Ok(Some(sealed)) = look(&path, owner)
            && beside(file, &sealed.head.version) == path
        {
            all.push(sealed);
        }
    }
    Ok(all)
}

/// What commands left beside `file`: `file.VERSION`, and such names with an end of ours.
fn left_beside(file: &Path) -> Vec<PathBuf> {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
        return Vec::new();
    };
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let is_left = |found: &str| {
        let version = found.strip_prefix(name).and_then(|it| it.strip_prefix('.'));
        version.is_some_and(|it| {
            let version = it.strip_suffix(PARTIAL).or_else(|| it.strip_suffix(GUESS));
            let version = version.unwrap_or(it);
            version.len() == 32 && version.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut left: Vec<_> = found
        .filter(|entry| entry.file_name().to_str().is_some_and(is_left))
        .map(|entry| file.with_file_name(entry.file_name()))
        .collect();
    left.sort();
    left
}

/// No version counts any more but the one that `file` is of: what else of this owner is beside it opens with nothing.
pub(super) fn tidy(file: &Path, owner: &[u8; 32]) {
    for left in left_beside(file) {
        let text = left.to_string_lossy();
        let is_ours = || match Head::read(&left) {
            Ok(Some(head)) => head.owner == *owner,
            // Not even its head was written.
            Ok(None) => text.ends_with(PARTIAL),
            Err(_) => false,
        };
        if text.ends_with(GUESS) || is_ours() {
            // What stays takes room, and no more.
            let _ = fs::remove_file(&left);
        }
    }
}

/// The seed of a guess that has no verdict yet: with it and the same PIN, the guess is asked again for nothing.
pub(super) struct KeptSeed {
    pub(super) seed: Seed,
    path: PathBuf,
    /// It was there: a guess was made, and broken off.
    pub(super) is_old: bool,
    /// It is on the disk.
    pub(super) is_kept: bool,
}

impl KeptSeed {
    /// Whether there is one, without making it.
    pub(super) fn is_there(file: &Path, version: &Version) -> bool {
        Self::read(&named(file, version, GUESS)).is_some()
    }

    fn read(path: &Path) -> Option<Seed> {
        let text = Zeroizing::new(input::read_short(path, 100).ok()?);
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim(), &mut seed[..]).ok()?;
        Some(Seed::from_bytes(&seed))
    }

    /// The one that is there, or a new one, on the disk before anybody is asked.
    pub(super) fn take(file: &Path, version: &Version) -> Self {
        let path = named(file, version, GUESS);
        if let Some(seed) = Self::read(&path) {
            return Self {
                seed,
                path,
                is_old: true,
                is_kept: true,
            };
        }
        let seed = Seed::new(&mut random());
        let text = Zeroizing::new(hex::encode(seed.as_bytes()) + "\n");
        let kept = files::replace(&path, text.as_bytes(), Mode::Private);
        Self {
            seed,
            path,
            is_old: false,
            is_kept: kept.is_ok(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// There is a verdict: the same guess is never asked again.
    pub(super) fn forget(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(version: u8, owner: u8) -> Head {
        Head {
            version: Version([version; 16]),
            owner: [owner; 32],
            protected: true,
        }
    }

    #[test]
    fn a_head_has_one_encoding() {
        let bytes = head(1, 2).to_bytes();
        assert_eq!(bytes.len(), HEAD_BYTES);
        assert_eq!(Head::from_bytes(&bytes), Some(head(1, 2)));
        assert_eq!(Head::from_bytes(&bytes[..HEAD_BYTES - 1]), None);
        let mut other = bytes.clone();
        other[HEAD_BYTES - 1] = 2;
        assert_eq!(Head::from_bytes(&other), None);
        assert_eq!(Head::from_bytes(&[&bytes[..], &[0]].concat()), None);
    }

    /// Nobody's file is replaced or removed but one's own: not another set's, not a backup under a passphrase.
    #[test]
    fn only_ones_own_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap();
        refuse_foreign(&file, &[2; 32], false).unwrap();
        for (bytes, fits) in [
            (head(1, 2).to_bytes(), true),
            (head(1, 3).to_bytes(), false),
            (junto_backup::MAGIC.to_vec(), false),
            (b"text".to_vec(), false),
        ] {
            write(&file, &bytes);
            assert_eq!(refuse_foreign(&file, &[2; 32], false).is_ok(), fits);
            refuse_foreign(&file, &[2; 32], true).unwrap();
        }
        write(&file, &head(1, 2).to_bytes());
        for (version, owner) in [(3, 2), (4, 3)] {
            let head = head(version, owner);
            write(&beside(&file, &head.version), &head.to_bytes());
        }
        let partial = named(&file, &Version([5; 16]), PARTIAL);
        write(&partial, b"");
        let seed = KeptSeed::take(&file, &Version([3; 16]));
        let versions = |file: &Path| {
            let all = all(file, &[2; 32]).unwrap();
            all.iter()
                .map(|it| it.head.version.0[0])
                .collect::<Vec<_>>()
        };
        assert_eq!(versions(&file), [1, 3]);
        tidy(&file, &[2; 32]);
        assert_eq!(versions(&file), [1]);
        assert!(beside(&file, &Version([4; 16])).exists());
        assert!(!partial.exists() && !seed.path().exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_seed_is_there_for_its_owner_until_the_verdict() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let version = Version([7; 16]);
        assert!(!KeptSeed::is_there(&file, &version));
        let first = KeptSeed::take(&file, &version);
        assert!(first.is_kept && !first.is_old);
        let mode = fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = KeptSeed::take(&file, &version);
        assert!(again.is_old && again.seed.as_bytes() == first.seed.as_bytes());
        let other = KeptSeed::take(&file, &Version([8; 16]));
        assert!(other.seed.as_bytes() != first.seed.as_bytes());
        again.forget();
        assert!(!KeptSeed::is_there(&file, &version));
        // What a crash left half written is no seed.
        fs::write(first.path(), "abc").unwrap();
        assert!(!KeptSeed::take(&file, &version).is_old);
        // A folder in which nothing can be written: the guess goes on, and says so.
        let nowhere = dir.path().join("no/f");
        assert!(!KeptSeed::take(&nowhere, &version).is_kept);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, b"x").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(resolved(&link), fs::canonicalize(&real).unwrap());
        assert_eq!(resolved(&real), real);
    }
}
