//! Backups of a relay: a copy of everything in its folder but the offline key, made while it runs.
//!
//! ```text
//! export = "junto relay export 1\n" entry* 0x00 SHA-256 of everything before it
//! entry  = length of name u8 (1 or more), name, length u64 (big-endian), content
//! ```
//!
//! Names are `relay.toml`, `ca.crt`, `server.crt`, `server.key`, and `journal/` with the name of a
//! segment; each at most once. The segments are copied as they are, up to the length that each had when
//! all of them were open, the newest measured first: whatever one says, those before it are whole. So
//! they are a beginning of the journal that contains everything that was answered before. Its end
//! may be torn, as after a crash, and is treated the same.
//!
//! An export is as secret as the relay's folder. Its checksum tells damage, not forgery.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use junto_tls::files::{self, Mode};
use junto_tls::identity::{
    AUTHORITY_CERTIFICATE, IdentityFiles, LEAF_CERTIFICATE, LEAF_KEY, ServerIdentity,
};
use rustls::pki_types::UnixTime;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::Storage;
use crate::connection::now;
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

/// Files besides the journal, and who may read them.
const SMALL: [(&str, Mode); 4] = [
    (CONFIG_FILE, Mode::Private),
    (AUTHORITY_CERTIFICATE, Mode::Public),
    (LEAF_CERTIFICATE, Mode::Public),
    (LEAF_KEY, Mode::Private),
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
    let file = create(out, Mode::Private)?;
    let written = write_export(dir, journal, file, out).and_then(|(contents, file)| {
        let synced = file.sync_all().and_then(|()| files::sync_parent(out));
        synced.map(|()| contents).map_err(at(out))
    });
    if written.is_err() {
        let _ = fs::remove_file(out);
    }
    written
}

/// Writes it into `sink`, which is called `out`.
fn write_export<W: Write>(
    dir: &Path,
    journal: Option<&Path>,
    sink: W,
    out: &Path,
) -> Result<(Contents, W), BackupError> {
    let mut archive = Hashing::new(BufWriter::new(sink));
    let mut contents = Contents::default();
    let mut write = || {
        archive.write_all(MAGIC).map_err(at(out))?;
        let path = dir.join(CONFIG_FILE);
        let config = Zeroizing::new(fs::read(&path).map_err(at(&path))?);
        small(&mut archive, CONFIG_FILE, &config).map_err(at(out))?;
        for (name, content) in identity(dir)? {
            small(&mut archive, name, &content).map_err(at(out))?;
        }
        for Segment { name, file, bytes } in journal.map_or(Ok(Vec::new()), open_segments)? {
            let name = format!("{JOURNAL}/{name}");
            entry(&mut archive, &name, &mut &file, bytes).map_err(at(&dir.join(&name)))?;
            contents.segments += 1;
        }
        archive.write_all(&[0]).map_err(at(out))
    };
    write()?;
    let (digest, bytes) = archive.finish();
    let mut inner = archive.inner;
    let end = || {
        inner.write_all(&digest)?;
        inner.into_inner().map_err(io::IntoInnerError::into_error)
    };
    let sink = end().map_err(at(out))?;
    contents.bytes = bytes + digest.len() as u64;
    Ok((contents, sink))
}

/// Certificates and key that belong together, also if they are being replaced.
fn identity(dir: &Path) -> Result<IdentityFiles, BackupError> {
    let read = ServerIdentity::read(dir, UnixTime::now());
    let (_, files) = read.map_err(FolderError::Identity)?;
    Ok(files)
}

fn small(out: &mut impl Write, name: &str, mut content: &[u8]) -> io::Result<()> {
    let bytes = content.len() as u64;
    entry(out, name, &mut content, bytes)
}

/// Writes one file, of which `bytes` are wanted.
fn entry(out: &mut impl Write, name: &str, content: &mut dyn Read, bytes: u64) -> io::Result<()> {
    out.write_all(&[u8::try_from(name.len()).unwrap_or(0)])?;
    out.write_all(name.as_bytes())?;
    out.write_all(&bytes.to_be_bytes())?;
    match io::copy(&mut content.take(bytes), out)? {
        copied if copied == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A segment of the journal, as long as it was when it was opened.
struct Segment {
    name: String,
    file: File,
    bytes: u64,
}

impl Segment {
    fn open(dir: &Path, name: &str) -> io::Result<Self> {
        let file = File::open(dir.join(name))?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            name: name.to_owned(),
            file,
            bytes,
        })
    }
}

/// All segments of a journal at one moment, in order, open: who removes, renames or lengthens one of
/// them later does not matter.
fn open_segments(dir: &Path) -> Result<Vec<Segment>, BackupError> {
    for _ in 0..LIST_TRIES {
        let before = list_segments(dir)?;
        // The newest first. If it says anything, the ones before it do not grow any more.
        let opened: io::Result<Vec<_>> = before
            .iter()
            .rev()
            .map(|(_, name)| Segment::open(dir, name))
            .collect();
        match opened {
            // A list is no snapshot: one that is renamed meanwhile may be missed or seen twice. But
            // then the next list differs, because numbers only grow.
            Ok(mut opened) if list_segments(dir)? == before => {
                opened.reverse();
                return Ok(opened);
            }
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
        .and_then(|()| place_journal(dir))
        .and_then(|()| files::sync_dir(dir).map_err(at(dir)));
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
        let mode = match (small, segment) {
            (Some((_, mode)), _) => *mode,
            (None, Some(_)) => Mode::Private,
            (None, None) => return Err(malformed(archive, "it has changed meanwhile")),
        };
        let path = dir.join(name);
        let mut file = create(&path, mode)?;
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
    let store = JournalStore::open(&journal, true, usize::MAX, memory, now())?;
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
    files::rename(&restored, &wanted).map_err(at(&wanted))
}

fn create(path: &Path, mode: Mode) -> Result<File, BackupError> {
    files::open_new(path, mode).map_err(at(path))
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
    use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;
    use crate::store::conformance::{messages, queue, send, take, wait};
    use proptest::prelude::*;

    fn made(outer: &Path) -> (PathBuf, PathBuf) {
        let dir = outer.join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        let store = JournalStore::open(&dir.join(JOURNAL), true, 9, Memory::new(1), now()).unwrap();
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
            let store =
                JournalStore::open(&dir.join("spool"), true, 9, Memory::new(1), now()).unwrap();
            store.close().unwrap();
            let text = fs::read_to_string(&settings).unwrap();
            let named =
                |place| text.replace("# journal = \"journal\"", &format!("journal = \"{place}\""));
            assert_ne!(named(place), text);
            // Exported from where it is, with settings that say something else.
            fs::write(&settings, named(place)).unwrap();
            let segments = dir.join("spool");
            let archive = create(&file, Mode::Private).unwrap();
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

    /// Bytes of a segment in which nothing is yet: its first line and a mark.
    const HEAD_BYTES: usize = 22 + 25;

    /// Runs `act` before the first write that brings `mark`.
    struct Meddling<F> {
        bytes: Vec<u8>,
        mark: &'static [u8],
        act: Option<F>,
    }

    impl<F: FnOnce()> Write for Meddling<F> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            let marked = |window: &[u8]| window == self.mark;
            if buffer.windows(self.mark.len()).any(marked)
                && let Some(act) = self.act.take()
            {
                act();
            }
            self.bytes.extend_from_slice(buffer);
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A relay's folder, and the store in it.
    fn with_store(outer: &Path) -> (PathBuf, JournalStore) {
        let dir = outer.join("relay");
        folder::init_dir(&dir, "relay.example", 5223).unwrap();
        let memory = Memory::new(usize::MAX);
        let store = JournalStore::open(&dir.join(JOURNAL), false, 99, memory, now()).unwrap();
        (dir, store)
    }

    /// The messages of each of these queues in a relay that was imported.
    fn imported(archive: &Path, outer: &Path, queues: u8) -> Vec<Vec<u32>> {
        let back = outer.join("back");
        import(archive, &back).unwrap();
        let memory = Memory::new(usize::MAX);
        let store = JournalStore::open(&back.join(JOURNAL), false, 99, memory, now()).unwrap();
        let found = (0..queues).map(|n| messages(&store, n).unwrap());
        let found = found.collect();
        store.close().unwrap();
        drop(store);
        fs::remove_dir_all(back).unwrap();
        found
    }

    #[test]
    fn an_export_is_of_one_moment_though_a_new_segment_takes_over_meanwhile() {
        const FIRST: u32 = 300;
        let outer = tempfile::tempdir().unwrap();
        let (dir, store) = with_store(outer.path());
        let cells = [0, 1].map(|n| store.create(queue(n)).unwrap());
        let say = |n: usize, number| {
            send(&store, &cells[n], number);
            wait(&store, store.position()).unwrap();
        };
        // More than is written at a time.
        (1..=FIRST).for_each(|number| say(0, number));
        // A compaction has begun a segment, and nothing goes into it yet.
        let journal = dir.join(JOURNAL);
        let mut begun = fs::read(journal.join("base.0")).unwrap();
        begun.truncate(HEAD_BYTES);
        fs::write(journal.join("journal.1"), begun).unwrap();
        // It takes over while the older one is copied.
        let act = || {
            say(0, FIRST + 1);
            store.switch_to(1).unwrap();
            say(1, FIRST + 2);
        };
        let sink = Meddling {
            bytes: Vec::new(),
            mark: b"journal/base.0",
            act: Some(act),
        };
        let (_, sink) = write_export(&dir, Some(&journal), sink, outer.path()).unwrap();
        assert!(sink.act.is_none());
        let archive = outer.path().join("export");
        fs::write(&archive, sink.bytes).unwrap();
        let found = imported(&archive, outer.path(), 2);
        // What came later may be missing, but nothing that came before something that is there.
        let found = found.concat();
        assert!(found.len() >= FIRST as usize);
        assert!(
            found.iter().copied().eq((1..).take(found.len())),
            "something is missing"
        );
        store.close().unwrap();
    }

    #[test]
    fn exports_during_writes_and_compactions_have_all_that_was_answered_and_no_holes() {
        const PAIRS: u8 = 2;
        const EXPORTS: usize = 12;
        let outer = tempfile::tempdir().unwrap();
        let (dir, store) = with_store(outer.path());
        let cells: Vec<_> = (0..2 * PAIRS)
            .map(|n| store.create(queue(n)).unwrap())
            .collect();
        wait(&store, store.position()).unwrap();
        let answered = [const { AtomicU32::new(0) }; PAIRS as usize];
        let ended = AtomicBool::new(false);
        let goes_on = || !ended.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            let _stop = Stop(&ended);
            for (pair, answered) in cells.chunks(2).zip(&answered) {
                let store = &store;
                scope.spawn(move || {
                    let mut number = 0;
                    while goes_on() {
                        number += 1;
                        pair.iter().for_each(|cell| send(store, cell, number));
                        wait(store, store.position()).unwrap();
                        answered.store(number, Ordering::Release);
                        if number > 20 {
                            pair.iter().for_each(|cell| take(store, cell));
                        }
                    }
                });
            }
            scope.spawn(|| {
                while goes_on() {
                    store.compact();
                }
            });
            for round in 0..EXPORTS {
                let before = answered.each_ref().map(|n| n.load(Ordering::Acquire));
                let archive = outer.path().join(format!("export-{round}"));
                export(&dir, &archive).unwrap();
                let found = imported(&archive, outer.path(), 2 * PAIRS);
                for (pair, before) in found.chunks(2).zip(before) {
                    let last = pair.iter().map(|queue| queue.last().copied().unwrap_or(0));
                    let last: Vec<_> = last.collect();
                    assert!(last[1] >= before, "{} after {before} was answered", last[1]);
                    // The first is told first.
                    assert!(last[0] == last[1] || last[0] == last[1] + 1, "{last:?}");
                    for (queue, last) in pair.iter().zip(last) {
                        let first = queue.first().copied().unwrap_or(1);
                        assert!(queue.iter().copied().eq(first..=last), "holes: {queue:?}");
                        assert!(queue.len() <= 21, "what was taken came back");
                    }
                }
            }
        });
        store.close().unwrap();
    }

    /// Also when an assertion fails: nobody writes for ever.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
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
