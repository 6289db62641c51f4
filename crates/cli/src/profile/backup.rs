//! A profile in one encrypted file, and back.
//!
//! ```text
//! backup  = "junto profile backup 1\n" · sealed key (115) · chunk*
//! chunk   = length u32 · nonce (24) · up to 64 KiB of the content · tag (16)
//! content = the profile's store key (32) · entry* · 0x00
//! entry   = length of name u8 (1 or more) · name · length u64 · bytes of the file
//! ```
//!
//! Numbers are big-endian. The sealed key is that of the chunks, under the backup's passphrase (`key`). Each chunk is
//! bound to its number and to whether it is the last: none can be changed, left out, repeated, moved or cut off
//! unnoticed. Nobody writes to the files meanwhile, as the profile is locked and its databases are closed.
//!
//! What comes back is not the profile as it was: see [`restore`].

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use junto_crypto::aead::{STORE_OVERHEAD_BYTES, StoreKey};
use junto_tls::files::{self, Mode};
use serde::Serialize;
use zeroize::Zeroizing;

use super::key::{self, OF_BACKUP, Unsealed};
use super::{Profile, database_key, make_private_dir};
use crate::failure::{Context, Failure};
use crate::random;

const MAGIC: &[u8] = b"junto profile backup 1\n";
const CHUNK_BYTES: usize = 64 * 1024;
const KEY_BYTES: usize = 32;
/// Longest name of an entry: a key's name has up to 64 bytes.
const NAME_MAX: usize = 96;
/// Files that belong to this machine or this moment.
const LEFT_OUT: [&str; 3] = ["lock", "key", "key.sealed"];
/// Endings of such files.
const ENDINGS_LEFT_OUT: [&str; 3] = [".lock", ".new", "-shm"];

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Contents {
    pub(super) files: usize,
    pub(super) bytes: u64,
}

/// What a restore brought back, and what it must not use any more.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Restored {
    #[serde(flatten)]
    pub(super) contents: Contents,
    /// Connections that send again when their peer has answered with fresh keys.
    pub(super) connections: usize,
    /// Sessions that can only be looked at and closed.
    pub(super) sessions: usize,
}

/// Writes all of a locked profile, whose databases are closed, into a new file.
///
/// # Errors
/// An existing file is never overwritten, and none is left half written.
pub(super) fn write(profile: &Profile, out: &Path, passphrase: &[u8]) -> Result<Contents, Failure> {
    let names = names(profile.dir())?;
    let file = files::open_new(out, Mode::Private).map_err(|error| {
        let failure = Failure::failed(format_args!("cannot make {}: {error}", out.display()));
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                failure.help("choose another name: a backup overwrites nothing")
            }
            _ => failure,
        }
    })?;
    let written =
        write_into(profile, &names, BufWriter::new(file), passphrase).and_then(|contents| {
            let synced = files::sync_parent(out);
            synced.map(|()| contents).context("cannot write the backup")
        });
    if written.is_err() {
        let _ = fs::remove_file(out);
    }
    written
}

fn write_into(
    profile: &Profile,
    names: &[String],
    mut out: BufWriter<File>,
    passphrase: &[u8],
) -> Result<Contents, Failure> {
    const DOING: &str = "cannot write the backup";
    let key = StoreKey::generate(&mut random());
    out.write_all(MAGIC).context(DOING)?;
    out.write_all(&key::seal(&key, passphrase, OF_BACKUP)?)
        .context(DOING)?;
    let mut chunks = Chunks::new(key, out);
    let mut contents = Contents::default();
    chunks.write_all(profile.key.as_bytes()).context(DOING)?;
    for name in names {
        let path = profile.dir().join(name);
        let reading = format!("cannot read {}", path.display());
        let mut file = File::open(&path).context(&reading)?;
        let length = file.metadata().context(&reading)?.len();
        let head = [&[name.len() as u8], name.as_bytes(), &length.to_be_bytes()].concat();
        chunks.write_all(&head).context(DOING)?;
        let copied = io::copy(&mut (&mut file).take(length), &mut chunks).context(DOING)?;
        if copied != length {
            return Err(Failure::failed(format_args!(
                "{} became shorter meanwhile",
                path.display()
            )));
        }
        contents.files += 1;
        contents.bytes += length;
    }
    chunks.write_all(&[0]).context(DOING)?;
    let out = chunks.finish().context(DOING)?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).context(DOING)?;
    Ok(contents)
}

/// The files of a profile that a backup holds: all but locks, keys and what a crash left half written; those
/// one folder deep as `folder/name`.
fn names(dir: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    collect(dir, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), Failure> {
    let reading = format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).context(&reading)? {
        let entry = entry.context(&reading)?;
        let kind = entry.file_type().context(&reading)?;
        let file = entry.file_name();
        let name = file.to_str().map(|file| format!("{prefix}{file}"));
        let name = name.filter(|name| is_name(name) || kind.is_dir());
        let Some(name) = name else {
            let path = entry.path();
            if is_left_out(&path) {
                continue;
            }
            return Err(Failure::failed(format_args!(
                "{} is nothing that a profile holds",
                path.display()
            ))
            .help("move it elsewhere"));
        };
        if kind.is_dir() && prefix.is_empty() {
            collect(&entry.path(), &format!("{name}/"), found)?;
        } else if kind.is_file() && !is_left_out(Path::new(&name)) {
            if name.ends_with("-wal") {
                let length = entry.metadata().context(&reading)?.len();
                if length > 0 {
                    return Err(Failure::failed(format_args!(
                        "{} holds changes that are not in its database yet",
                        entry.path().display()
                    ))
                    .help("run `junto profile check`, then try again"));
                }
                continue;
            }
            found.push(name);
        }
    }
    Ok(())
}

fn is_left_out(path: &Path) -> bool {
    let name = path.to_str().unwrap_or_default();
    LEFT_OUT.contains(&name) || ENDINGS_LEFT_OUT.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file of a profile may be called that: one name, or one in a folder; nothing that leads elsewhere.
fn is_name(name: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut parts = name.split('/');
    name.len() <= NAME_MAX
        && parts.clone().count() <= 2
        && parts.all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(fit))
}

/// Makes a profile from a backup, in a folder that is empty or absent.
///
/// Its original may have gone on after the backup was made. So what comes back says nothing in its place: connections give
/// their keys to send with up ([`junto_agent::store::came_back`]), sessions are closed to everything
/// ([`junto_session::store::came_back`]). Before that is stored, there is no profile under that name.
///
/// # Errors
/// Whatever goes wrong, nothing is left behind.
pub(super) fn restore(file: &Path, dir: &Path, passphrase: &[u8]) -> Result<Restored, Failure> {
    refuse_occupied(dir)?;
    let mut name = dir.as_os_str().to_owned();
    name.push(".restoring");
    let staging = PathBuf::from(name);
    let made = fs::symlink_metadata(&staging).is_err();
    if !made {
        return Err(
            Failure::failed(format_args!("{} is there already", staging.display()))
                .help("another restore may be under way; if not, remove it"),
        );
    }
    make_private_dir(&staging)?;
    let result = restore_into(file, &staging, passphrase).and_then(|restored| {
        let place = || {
            // Of an empty folder; a full one stays, and the renaming fails.
            let _ = fs::remove_dir(dir);
            files::rename(&staging, dir)
        };
        place().context(format_args!("cannot put the profile at {}", dir.display()))?;
        Ok(restored)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&staging);
    }
    result
}

fn refuse_occupied(dir: &Path) -> Result<(), Failure> {
    let occupied = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if occupied {
        return Err(
            Failure::refused(format_args!("{} is not empty", dir.display()))
                .help("name another folder with `--profile DIR`: a restore overwrites nothing"),
        );
    }
    Ok(())
}

fn restore_into(file: &Path, dir: &Path, passphrase: &[u8]) -> Result<Restored, Failure> {
    let malformed = |what: &str| {
        Failure::failed(format_args!(
            "{} is no whole backup of a profile ({what})",
            file.display()
        ))
        .help("nothing was restored; use another copy of it")
    };
    let opened = File::open(file).context(format_args!("cannot open {}", file.display()))?;
    let mut input = BufReader::new(opened);
    let mut head = [0; MAGIC.len() + key::SEALED_BYTES];
    input
        .read_exact(&mut head)
        .map_err(|_| malformed("it is too short"))?;
    let sealed = head
        .strip_prefix(MAGIC)
        .ok_or_else(|| malformed("it begins otherwise"))?;
    let chunk_key = match key::unseal(sealed, passphrase, OF_BACKUP)? {
        Ok(key) => key,
        Err(Unsealed::Wrong) => {
            return Err(Failure::refused("wrong passphrase for this backup"));
        }
        Err(Unsealed::Malformed) => return Err(malformed("its key")),
    };
    let mut content = Content::new(chunk_key, input);
    let bad = |error: io::Error| malformed(&error.to_string());
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    content.read_exact(key.as_mut()).map_err(bad)?;
    let key = StoreKey::from_bytes(&key);
    let mut contents = Contents::default();
    while let Some((name, length)) = content.entry().map_err(bad)? {
        let path = dir.join(&name);
        if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
            make_private_dir(folder)?;
        }
        let writing = format!("cannot write {}", path.display());
        let mut out = files::open_new(&path, Mode::Private).context(&writing)?;
        let copied = copy(&mut content, length, &mut out, &writing)?;
        if copied != length {
            return Err(malformed("it ends early"));
        }
        out.sync_all().context(&writing)?;
        contents.files += 1;
        contents.bytes += length;
    }
    content.end().map_err(bad)?;
    key::protect(dir, &key, passphrase)?;
    let mut restored = Restored {
        contents,
        ..Restored::default()
    };
    come_back(dir, &key, &mut restored)?;
    files::sync_dir(dir).context("cannot write the profile")?;
    Ok(restored)
}

/// Copies up to `length` bytes; says whether it was the reading or the writing that failed.
fn copy(
    content: &mut impl Read,
    length: u64,
    out: &mut File,
    writing: &str,
) -> Result<u64, Failure> {
    let mut copied = 0;
    let mut buffer = Zeroizing::new(vec![0; CHUNK_BYTES]);
    while copied < length {
        let most = usize::try_from(length - copied)
            .unwrap_or(CHUNK_BYTES)
            .min(CHUNK_BYTES);
        let read = content
            .read(&mut buffer[..most])
            .context("the backup is damaged")?;
        if read == 0 {
            break;
        }
        out.write_all(&buffer[..read]).context(writing)?;
        copied += read as u64;
    }
    Ok(copied)
}

/// Nothing is said again that the original may have said.
fn come_back(dir: &Path, key: &StoreKey, restored: &mut Restored) -> Result<(), Failure> {
    for name in ["agent.db", "contacts.db"] {
        let agent = dir.join(name);
        if agent.exists() {
            restored.connections += junto_agent::store::came_back(&agent, database_key(key, name))
                .context("the connections in the backup cannot be used")?;
        }
    }
    if dir.join("session.db").exists() {
        restored.sessions = junto_session::store::came_back(dir, database_key(key, "session.db"))
            .context("the sessions in the backup cannot be used")?;
    }
    Ok(())
}

/// Binds a chunk to its place.
fn place(number: u64, is_last: bool) -> Vec<u8> {
    [MAGIC, &number.to_be_bytes(), &[u8::from(is_last)]].concat()
}

/// Seals what is written to it, chunk by chunk.
struct Chunks<W: Write> {
    key: StoreKey,
    out: W,
    number: u64,
    buffer: Zeroizing<Vec<u8>>,
}

impl<W: Write> Chunks<W> {
    fn new(key: StoreKey, out: W) -> Self {
        let buffer = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
        Self {
            key,
            out,
            number: 0,
            buffer,
        }
    }

    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        let bound = place(self.number, is_last);
        let sealed = self.key.seal(&bound, &self.buffer, &mut random());
        let sealed = sealed.map_err(|_| io::Error::other("a chunk is too long"))?;
        self.out.write_all(&(sealed.len() as u32).to_be_bytes())?;
        self.out.write_all(&sealed)?;
        self.number += 1;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Chunks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == CHUNK_BYTES {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens chunks, and reads what is in them.
struct Content<R: Read> {
    key: StoreKey,
    input: R,
    number: u64,
    chunk: Zeroizing<Vec<u8>>,
    at: usize,
    was_last: bool,
}

impl<R: Read> Content<R> {
    fn new(key: StoreKey, input: R) -> Self {
        Self {
            key,
            input,
            number: 0,
            chunk: Zeroizing::default(),
            at: 0,
            was_last: false,
        }
    }

    fn open_next(&mut self) -> io::Result<()> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut length = [0; 4];
        self.input
            .read_exact(&mut length)
            .map_err(|_| wrong("it is cut off"))?;
        let length = u32::from_be_bytes(length) as usize;
        if !(STORE_OVERHEAD_BYTES..=CHUNK_BYTES + STORE_OVERHEAD_BYTES).contains(&length) {
            return Err(wrong("the length of a chunk"));
        }
        let mut sealed = vec![0; length];
        self.input
            .read_exact(&mut sealed)
            .map_err(|_| wrong("it is cut off"))?;
        for is_last in [false, true] {
            if let Ok(chunk) = self.key.open(&place(self.number, is_last), &sealed) {
                self.chunk = chunk;
                self.at = 0;
                self.number += 1;
                self.was_last = is_last;
                return Ok(());
            }
        }
        Err(wrong("a chunk was changed"))
    }

    /// The next file's name and length; none after the last one.
    fn entry(&mut self) -> io::Result<Option<(String, u64)>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut length = [0];
        self.read_exact(&mut length)?;
        let mut name = vec![0; usize::from(length[0])];
        if name.is_empty() {
            return Ok(None);
        }
        self.read_exact(&mut name)?;
        let name = String::from_utf8(name).map_err(|_| wrong("a file's name"))?;
        if !is_name(&name) || is_left_out(Path::new(&name)) {
            return Err(wrong("a file's name"));
        }
        let mut length = [0; 8];
        self.read_exact(&mut length)?;
        Ok(Some((name, u64::from_be_bytes(length))))
    }

    /// Nothing may follow.
    fn end(&mut self) -> io::Result<()> {
        let more = self.at < self.chunk.len() || self.input.read(&mut [0])? > 0;
        match more || !self.was_last {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something follows its end",
            )),
            false => Ok(()),
        }
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.was_last {
            self.open_next()?;
        }
        let taken = out.len().min(self.chunk.len() - self.at);
        out[..taken].copy_from_slice(&self.chunk[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::profile::Source;

    fn chunks(key: u8, content: &[u8]) -> Vec<u8> {
        let mut chunks = Chunks::new(StoreKey::from_bytes(&[key; 32]), Vec::new());
        chunks.write_all(content).unwrap();
        chunks.finish().unwrap()
    }

    fn read(key: u8, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Content::new(StoreKey::from_bytes(&[key; 32]), bytes);
        let mut out = Vec::new();
        content.read_to_end(&mut out)?;
        content.end()?;
        Ok(out)
    }

    /// Where the chunks of `bytes` begin.
    fn starts(bytes: &[u8]) -> Vec<usize> {
        let mut starts = vec![0];
        while let Some(at) = starts.last().copied().filter(|at| *at < bytes.len()) {
            let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            starts.push(at + 4 + length as usize);
        }
        starts
    }

    #[test]
    fn chunks_come_back_whole_or_not_at_all() {
        for length in [
            0,
            1,
            CHUNK_BYTES - 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES,
        ] {
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let bytes = chunks(1, &content);
            assert_eq!(read(1, &bytes).unwrap(), content);
            assert!(read(2, &bytes).is_err());
            assert!(read(1, &[&bytes[..], &[0]].concat()).is_err());
            let starts = starts(&bytes);
            for pair in starts.windows(2) {
                // Cut at the end of a chunk, or without it.
                let without = [&bytes[..pair[0]], &bytes[pair[1]..]].concat();
                assert!(read(1, &without).is_err());
                assert!(read(1, &bytes[..pair[0]]).is_err());
                let twice = [&bytes[..pair[1]], &bytes[pair[0]..]].concat();
                assert!(read(1, &twice).is_err());
            }
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["agent.db", "bls/treasury.key", "identity", "a-b_c"] {
            assert!(is_name(good), "{good}");
        }
        for bad in [
            "", "/", "..", "../x", "a/..", "/etc", "a//b", "a/b/c", ".x", "a/.x", "a b", "a\\b",
            "C:x", "ä",
        ] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        let profile = Profile::open(&from, &Source::None).unwrap();
        profile.write_sealed("bls/k.key", b"a share").unwrap();
        let file = dir.path().join("backup");
        let contents = write(&profile, &file, b"p").unwrap();
        assert_eq!(contents.files, 2);
        let key = match key::unseal(
            &fs::read(&file).unwrap()[MAGIC.len()..][..key::SEALED_BYTES],
            b"p",
            OF_BACKUP,
        )
        .unwrap()
        {
            Ok(key) => key,
            Err(_) => panic!("it does not open"),
        };
        let good = fs::read(&file).unwrap();
        let body = MAGIC.len() + key::SEALED_BYTES;
        let content = |bytes: &[u8]| {
            let mut content = Content::new(StoreKey::from_bytes(key.as_bytes()), bytes);
            let mut out = Vec::new();
            content.read_to_end(&mut out).and_then(|_| content.end())
        };
        content(&good[body..]).unwrap();
        for at in body..good.len() {
            assert!(content(&good[body..at]).is_err(), "cut at {at}");
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(content(&bad[body..]).is_err(), "byte {at}");
        }
        // The way through the file system, for a few of them: each costs a passphrase.
        let to = dir.path().join("to");
        for at in [0, MAGIC.len() + 20, body + 10, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert!(restore(&file, &to, b"p").is_err(), "byte {at}");
            assert!(!to.exists() && !dir.path().join("to.restoring").exists());
        }
        fs::write(&file, &good).unwrap();
        assert!(restore(&file, &to, b"q").is_err());
        assert!(!to.exists());
        restore(&file, &to, b"p").unwrap();
        assert!(
            restore(&file, &to, b"p").is_err(),
            "it is not empty any more"
        );
        let passphrase = dir.path().join("passphrase");
        fs::write(&passphrase, "p\n").unwrap();
        let profile = Profile::open(&to, &Source::File(passphrase)).unwrap();
        assert_eq!(
            &**profile.read_sealed("bls/k.key").unwrap().unwrap(),
            b"a share"
        );
    }

    #[test]
    fn forged_names_write_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let key = StoreKey::from_bytes(&[1; 32]);
        for name in [
            "../escaped",
            "/tmp/escaped",
            "lock",
            "key",
            "key.sealed",
            "a/b/c",
        ] {
            let mut file = MAGIC.to_vec();
            file.extend(key::seal(&key, b"p", OF_BACKUP).unwrap());
            let mut content = vec![9; KEY_BYTES];
            content.push(name.len() as u8);
            content.extend_from_slice(name.as_bytes());
            content.extend_from_slice(&1u64.to_be_bytes());
            content.extend_from_slice(b"x\0");
            file.extend(chunks(1, &content));
            let path = dir.path().join("forged");
            fs::write(&path, file).unwrap();
            assert!(
                restore(&path, &dir.path().join("to"), b"p").is_err(),
                "{name}"
            );
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
            assert_eq!(left.len(), 1, "{name}");
        }
    }

    proptest! {
        #[test]
        fn reading_survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300), at: usize) {
            let _ = read(1, &bytes);
            // Content that is sealed rightly, but is no list of files.
            let sealed = chunks(1, &bytes);
            let mut content = Content::new(StoreKey::from_bytes(&[1; 32]), &sealed[..]);
            while let Ok(Some((name, length))) = content.entry() {
                prop_assert!(is_name(&name));
                if io::copy(&mut (&mut content).take(length), &mut io::sink()).unwrap_or(0) < length {
                    break;
                }
            }
            let mut changed = sealed.clone();
            let at = at % changed.len();
            changed[at] ^= 1;
            prop_assert!(read(1, &changed).is_err());
        }
    }
}
