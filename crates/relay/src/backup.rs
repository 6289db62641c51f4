//! Backups of a relay: a copy of everything in its folder but the offline key, made while it runs.
//!
//! ```text
//! export = "junto relay export 1\n" entry* 0x00 SHA-256 of everything before it
//! entry  = length of name u8 (1 or more), name, length u64 (big-endian), content
//! ```
//!
//! Names are `relay.toml`, `ca.crt`, `server.crt`, `server.key`, and `journal/` with the name of a
//! segment; each at most once. The segments are copied as they are, up to the length that each had at
//! one moment: a beginning of the journal that contains everything that was answered before. Its end
//! may be torn, as after a crash, and is treated the same.
//!
//! An export is as secret as the relay's folder. Its checksum tells damage, not forgery.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use junto_tls::identity::{AUTHORITY_CERTIFICATE, LEAF_CERTIFICATE, LEAF_KEY};
use sha2::{Digest as _, Sha256};

use crate::config::Storage;
use crate::folder::{self, CONFIG_FILE, FolderError};
use crate::store::{JournalError, JournalStore, Memory, Store as _};

const MAGIC: &[u8] = b"junto relay export 1\n";
const DIGEST_BYTES: usize = 32;
/// Longest name of an entry: a segment's number has at most 20 digits.
const NAME_BYTES_MAX: usize = 40;
/// Longest content of an entry that is no segment: 64 KiB.
const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Most segments: there are one or two, and a few more after crashes.
const SEGMENTS_MAX: usize = 1_000;
/// How often the list of segments is read again because it changed meanwhile.
const LIST_TRIES: u32 = 100;
/// The journal in an imported folder.
const JOURNAL: &str = "journal";

/// Files besides the journal, and whether only their owner may read them.
const SMALL: [(&str, bool); 4] = [
    (CONFIG_FILE, true),
    (AUTHORITY_CERTIFICATE, false),
    (LEAF_CERTIFICATE, false),
    (LEAF_KEY, true),
];

/// Why a relay cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The relay's folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The list of segments does not come to rest.
    #[error("the journal changes too fast to be copied; try again")]
    Restless,
    /// Something is there where the import should go. Nothing was changed.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// The file is no export, of another version, cut, or altered. Nothing was changed.
    #[error("{} is no whole export of a relay ({what})", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Its settings keep the journal where an import does not write. Nothing was left behind.
    #[error("its relay.toml keeps the journal in {}, which is no new folder inside the relay's", path.display())]
    Elsewhere {
        /// Where.
        path: PathBuf,
    },
    /// The journal in the export cannot be read. Nothing was left behind.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// What an export holds, or an import brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Segments of the journal.
    pub segments: usize,
    /// Bytes of the whole file.
    pub bytes: u64,
}

/// Writes everything of the relay in `dir`, except its offline key, into a new file `out` that only
/// its owner can read. The relay may run meanwhile.
///
/// # Errors
/// [`BackupError`]; an existing file is never overwritten, and none is left half written.
pub fn export(dir: &Path, out: &Path) -> Result<Contents, BackupError> {
    let (config, _) = folder::load_dir(dir)?;
    let journal = match &config.storage {
        Storage::Journal { dir, .. } => Some(dir.as_path()),
        Storage::Memory => None,
    };
    let file = create(out, true)?;
    let written = write_export(dir, journal, file, out);
    if written.is_err() {
        let _ = fs::remove_file(out);
    }
    written
}

fn write_export(
    dir: &Path,
    journal: Option<&Path>,
    file: File,
    out: &Path,
) -> Result<Contents, BackupError> {
    let mut archive = Hashing::new(BufWriter::new(file));
    let written = at(out);
    let mut contents = Contents::default();
    let mut write = || {
        archive.write_all(MAGIC).map_err(at(out))?;
        for (name, _) in SMALL {
            let path = dir.join(name);
            let file = File::open(&path).map_err(at(&path))?;
            entry(&mut archive, name, file, &path)?;
        }
        for (name, file) in journal.map_or(Ok(Vec::new()), open_segments)? {
            let path = dir.join(JOURNAL).join(&name);
            entry(&mut archive, &format!("{JOURNAL}/{name}"), file, &path)?;
            contents.segments += 1;
        }
        archive.write_all(&[0]).map_err(at(out))
    };
    write()?;
    let (digest, bytes) = archive.finish();
    let mut inner = archive.inner;
    let end = || {
        inner.write_all(&digest)?;
        let file = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    };
    end().map_err(written)?;
    contents.bytes = bytes + digest.len() as u64;
    Ok(contents)
}

/// Writes one file, as long as it is now.
fn entry(out: &mut impl Write, name: &str, file: File, path: &Path) -> Result<(), BackupError> {
    let length = file.metadata().map_err(at(path))?.len();
    let write = || {
        out.write_all(&[u8::try_from(name.len()).unwrap_or(0)])?;
        out.write_all(name.as_bytes())?;
        out.write_all(&length.to_be_bytes())?;
        match io::copy(&mut file.take(length), out)? {
            copied if copied == length => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    };
    write().map_err(at(path))
}

/// All segments of a journal at one moment, in order, open: who removes or renames one of them later
/// does not matter.
fn open_segments(dir: &Path) -> Result<Vec<(String, File)>, BackupError> {
    for _ in 0..LIST_TRIES {
        let before = list_segments(dir)?;
        let opened: Result<Vec<_>, io::Error> = before
            .iter()
            .map(|(_, name)| Ok((name.clone(), File::open(dir.join(name))?)))
            .collect();
        match opened {
            // A list is no snapshot: one that is renamed meanwhile may be missed or seen twice. But
            // then the next list differs, because numbers only grow.
            Ok(opened) if list_segments(dir)? == before => return Ok(opened),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(dir)(error)),
        }
    }
    Err(BackupError::Restless)
}

fn list_segments(dir: &Path) -> Result<Vec<(u64, String)>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let name = entry.map_err(at(dir))?.file_name();
        if let Some(name) = name.to_str()
            && let Some(number) = segment_number(name)
        {
            found.push((number, name.to_owned()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The number of a segment, if `name` is the name of one.
fn segment_number(name: &str) -> Option<u64> {
    let (kind, digits) = name.split_once('.')?;
    let number: u64 = digits.parse().ok()?;
    let known = matches!(kind, "base" | "journal") && number.to_string() == digits;
    known.then_some(number)
}

/// Restores an export into `dir`, which must be absent or empty, and makes sure that a relay can
/// start from it. Whatever fails, `dir` is empty then.
///
/// # Errors
/// [`BackupError`].
pub fn import(archive: &Path, dir: &Path) -> Result<Contents, BackupError> {
    let contents = verify(archive)?;
    prepare_empty(dir)?;
    let restored = extract(archive, dir)
        .and_then(|()| settle(dir))
        .and_then(|()| place_journal(dir));
    if restored.is_err() {
        clear(dir);
    }
    restored.map(|()| contents)
}

/// Makes `dir` if it is absent; refuses it if anything is in it.
pub(crate) fn prepare_empty(dir: &Path) -> Result<(), BackupError> {
    folder::create_private_dir(dir)?;
    match fs::read_dir(dir).map_err(at(dir))?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty { dir: dir.into() }),
    }
}

/// Removes what a failed import has written into a folder that was empty before.
pub(crate) fn clear(dir: &Path) {
    for (name, _) in SMALL {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir_all(dir.join(JOURNAL));
}

/// Reads the whole file once, before anything is made of it.
fn verify(path: &Path) -> Result<Contents, BackupError> {
    let file = File::open(path).map_err(at(path))?;
    let bytes = file.metadata().map_err(at(path))?.len();
    let mut contents = Contents { segments: 0, bytes };
    let mut seen = Vec::new();
    read(
        BufReader::new(file),
        path,
        bytes,
        |name, length, content| {
            let segment = name.strip_prefix("journal/").and_then(segment_number);
            let allowed = match segment {
                Some(_) => seen.len() < SEGMENTS_MAX,
                None => SMALL.iter().any(|(small, _)| *small == name) && length <= SMALL_BYTES_MAX,
            };
            if !allowed || seen.iter().any(|seen| seen == name) {
                return Err(malformed(path, "it holds what no export does"));
            }
            seen.push(name.to_owned());
            contents.segments += usize::from(segment.is_some());
            io::copy(content, &mut io::sink()).map_err(at(path))?;
            Ok(())
        },
    )?;
    if SMALL
        .iter()
        .all(|(small, _)| seen.iter().any(|seen| seen == small))
    {
        Ok(contents)
    } else {
        Err(malformed(path, "a file of the relay is missing"))
    }
}

fn malformed(path: &Path, what: &'static str) -> BackupError {
    BackupError::Malformed {
        path: path.into(),
        what,
    }
}

/// Hands every entry to `each`, which must read all of it, and checks the end.
fn read(
    source: impl Read,
    path: &Path,
    bytes: u64,
    mut each: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => malformed(path, "it is cut"),
        _ => at(path)(error),
    };
    let mut source = Hashing::new(source);
    let mut magic = [0; MAGIC.len()];
    source.read_exact(&mut magic).map_err(cut)?;
    if magic != MAGIC {
        return Err(malformed(
            path,
            "it does not begin as one, or has another version",
        ));
    }
    loop {
        let mut length = [0];
        source.read_exact(&mut length).map_err(cut)?;
        let [length] = length.map(usize::from);
        if length == 0 {
            break;
        }
        let mut name = [0; NAME_BYTES_MAX];
        let name = name.get_mut(..length);
        let name = name.ok_or_else(|| malformed(path, "a name in it is too long"))?;
        source.read_exact(name).map_err(cut)?;
        let name =
            core::str::from_utf8(name).map_err(|_| malformed(path, "a name in it is none"))?;
        let mut length = [0; 8];
        source.read_exact(&mut length).map_err(cut)?;
        let length = u64::from_be_bytes(length);
        if length > bytes {
            return Err(malformed(path, "it is cut"));
        }
        let before = source.bytes;
        each(name, length, &mut (&mut source).take(length))?;
        if source.bytes - before != length {
            return Err(malformed(path, "it is cut"));
        }
    }
    let (digest, _) = source.finish();
    let mut given = [0; DIGEST_BYTES];
    source.inner.read_exact(&mut given).map_err(cut)?;
    if given != digest {
        return Err(malformed(path, "its checksum is wrong"));
    }
    match source.inner.read(&mut [0]).map_err(cut)? {
        0 => Ok(()),
        _ => Err(malformed(path, "something follows its end")),
    }
}

/// Writes the files of an export that was verified.
fn extract(archive: &Path, dir: &Path) -> Result<(), BackupError> {
    let file = File::open(archive).map_err(at(archive))?;
    let bytes = file.metadata().map_err(at(archive))?.len();
    folder::create_private_dir(&dir.join(JOURNAL))?;
    read(BufReader::new(file), archive, bytes, |name, _, content| {
        // Looked at again, in case that the file has changed since: names decide where to write.
        let small = SMALL.iter().find(|(small, _)| *small == name);
        let segment = name.strip_prefix("journal/").and_then(segment_number);
        let private = match (small, segment) {
            (Some((_, private)), _) => *private,
            (None, Some(_)) => true,
            (None, None) => return Err(malformed(archive, "it has changed meanwhile")),
        };
        let path = dir.join(name);
        let mut file = create(&path, private)?;
        io::copy(content, &mut file)
            .and_then(|_| file.sync_all())
            .map_err(at(&path))
    })
}

/// Starts from what was restored, once: everything is read, and a torn end is mended.
fn settle(dir: &Path) -> Result<(), BackupError> {
    let (config, _) = folder::load_dir(dir)?;
    let journal = dir.join(JOURNAL);
    let memory = Memory::new(config.limits.message_bytes);
    let store = JournalStore::open(&journal, true, usize::MAX, memory)?;
    let closed = store.close();
    closed.map_err(|failed| at(&journal)(io::Error::other(failed)))?;
    // What a crash would have left is of no use here: the relay that it came from still has it.
    for entry in fs::read_dir(&journal).map_err(at(&journal))? {
        let path = entry.map_err(at(&journal))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "torn")
        {
            fs::remove_file(&path).map_err(at(&path))?;
        }
    }
    Ok(())
}

/// Puts the journal where the restored settings look for it.
fn place_journal(dir: &Path) -> Result<(), BackupError> {
    let (config, _) = folder::load_dir(dir)?;
    let Storage::Journal { dir: wanted, .. } = config.storage else {
        return Ok(());
    };
    let restored = dir.join(JOURNAL);
    if wanted == restored {
        return Ok(());
    }
    let inside = wanted.strip_prefix(dir).is_ok_and(|below| {
        let mut parts = below.components();
        matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
    });
    if !inside || wanted.exists() {
        return Err(BackupError::Elsewhere { path: wanted });
    }
    fs::rename(&restored, &wanted).map_err(at(&wanted))
}

/// Writes a file that must not exist.
pub(crate) fn write_new(path: &Path, content: &[u8], private: bool) -> Result<(), BackupError> {
    let mut file = create(path, private)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(at(path))
}

fn create(path: &Path, private: bool) -> Result<File, BackupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(if private { 0o600 } else { 0o644 });
    }
    #[cfg(not(unix))]
    let _ = private;
    options.open(path).map_err(at(path))
}

/// Hashes and counts what goes through it.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn finish(&mut self) -> ([u8; DIGEST_BYTES], u64) {
        (self.hash.finalize_reset().into(), self.bytes)
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count(&buffer[..count]);
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(outer: &Path) -> (PathBuf, PathBuf) {
        let dir = outer.join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        let store = JournalStore::open(&dir.join(JOURNAL), true, 9, Memory::new(1)).unwrap();
        store.close().unwrap();
        let file = outer.join("export");
        export(&dir, &file).unwrap();
        (dir, file)
    }

    #[test]
    fn comes_back_without_the_offline_key() {
        let outer = tempfile::tempdir().unwrap();
        let (dir, file) = made(outer.path());
        let back = outer.path().join("back");
        assert_eq!(import(&file, &back).unwrap().segments, 1);
        for (name, _) in SMALL {
            assert_eq!(
                fs::read(dir.join(name)).unwrap(),
                fs::read(back.join(name)).unwrap()
            );
        }
        assert!(!back.join("ca.key").exists());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            for path in [file, back.join(LEAF_KEY), back.join(CONFIG_FILE)] {
                assert_eq!(
                    fs::metadata(path).unwrap().permissions().mode() & 0o777,
                    0o600
                );
            }
        }
    }

    #[test]
    fn the_journal_comes_to_where_the_settings_look_for_it() {
        for (place, fine) in [("spool", true), ("../spool", false), ("ca.crt", false)] {
            let outer = tempfile::tempdir().unwrap();
            let dir = outer.path().join("relay");
            folder::init_dir(&dir, "relay.example", 5223).unwrap();
            let (settings, file) = (dir.join(CONFIG_FILE), outer.path().join("export"));
            let store = JournalStore::open(&dir.join("spool"), true, 9, Memory::new(1)).unwrap();
            store.close().unwrap();
            let text = fs::read_to_string(&settings).unwrap();
            let named =
                |place| text.replace("# journal = \"journal\"", &format!("journal = \"{place}\""));
            assert_ne!(named(place), text);
            // Exported from where it is, with settings that say something else.
            fs::write(&settings, named(place)).unwrap();
            let segments = dir.join("spool");
            let archive = create(&file, true).unwrap();
            write_export(&dir, Some(&segments), archive, &file).unwrap();
            let back = outer.path().join("back");
            let imported = import(&file, &back);
            assert_eq!(imported.is_ok(), fine, "{imported:?}");
            assert_eq!(back.join("spool").join("lock").exists(), fine);
            assert!(!back.join(JOURNAL).exists());
            assert!(!outer.path().join("spool").exists());
        }
    }

    #[test]
    fn never_overwrites() {
        let outer = tempfile::tempdir().unwrap();
        let (dir, file) = made(outer.path());
        let before = fs::read(&file).unwrap();
        assert!(matches!(export(&dir, &file), Err(BackupError::Io { .. })));
        assert_eq!(fs::read(&file).unwrap(), before);
        assert!(matches!(
            import(&file, &dir),
            Err(BackupError::NotEmpty { .. })
        ));
        assert!(dir.join("ca.key").exists());
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed_and_leaves_nothing() {
        let outer = tempfile::tempdir().unwrap();
        let (_, file) = made(outer.path());
        let whole = fs::read(&file).unwrap();
        let bad = outer.path().join("bad");
        let back = outer.path().join("back");
        let refused = |bytes: &[u8]| {
            fs::write(&bad, bytes).unwrap();
            let error = import(&bad, &back).unwrap_err();
            assert!(matches!(error, BackupError::Malformed { .. }), "{error}");
            assert!(!back.exists());
        };
        for cut in (0..whole.len()).step_by(7) {
            refused(&whole[..cut]);
        }
        for position in (0..whole.len()).step_by(3) {
            let mut changed = whole.clone();
            changed[position] ^= 0x10;
            refused(&changed);
        }
        refused(&[whole.as_slice(), &[0]].concat());
    }

    /// An export with these entries and a right checksum.
    fn forged(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, content) in entries {
            bytes.push(u8::try_from(name.len()).unwrap());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
            bytes.extend_from_slice(content);
        }
        bytes.push(0);
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    #[test]
    fn forged_names_write_nowhere() {
        let outer = tempfile::tempdir().unwrap();
        let bad = outer.path().join("bad");
        let back = outer.path().join("back");
        for name in [
            "../evil",
            "/tmp/evil",
            "journal/../evil",
            "journal/journal.01",
            "journal/x",
            "ca.key",
            "journal",
        ] {
            fs::write(&bad, forged(&[(name, b"x")])).unwrap();
            assert!(
                matches!(import(&bad, &back), Err(BackupError::Malformed { .. })),
                "{name}"
            );
        }
        fs::write(&bad, forged(&[("ca.crt", b"x"), ("ca.crt", b"x")])).unwrap();
        assert!(matches!(
            import(&bad, &back),
            Err(BackupError::Malformed { .. })
        ));
        // The right names with nonsense in them: refused by whoever reads them, and removed.
        let names = [
            CONFIG_FILE,
            "ca.crt",
            "server.crt",
            "server.key",
            "journal/journal.1",
        ];
        fs::write(
            &bad,
            forged(&names.map(|name| (name, b"nonsense".as_slice()))),
        )
        .unwrap();
        assert!(matches!(import(&bad, &back), Err(BackupError::Folder(_))));
        assert_eq!(fs::read_dir(&back).unwrap().count(), 0);
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            headed: bool,
        ) {
            let outer = tempfile::tempdir().unwrap();
            let file = outer.path().join("export");
            let bytes = if headed { [MAGIC, &bytes].concat() } else { bytes };
            fs::write(&file, bytes).unwrap();
            prop_assert!(import(&file, &outer.path().join("back")).is_err());
        }
    }
}
