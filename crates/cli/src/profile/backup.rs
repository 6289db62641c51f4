//! A profile in one encrypted file, and back. The format is `junto-backup`'s.
//!
//! Nobody writes to the files meanwhile, as the profile is locked and its databases are closed. What comes back is not
//! the profile as it was: see [`restore`].

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use junto_backup::{BackupError, Cost, Locked, Name, Reader, Writer, is_left_out};
use junto_crypto::aead::StoreKey;
use junto_tls::files::{self, Mode};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Profile, database_key, key, lock, make_private_dir, refuse_shared_dir};
use crate::failure::{Context, Failure};
use crate::random;

/// How the name of a backup ends that is not whole yet. No whole one has such a name, so what is there was left behind.
const UNFINISHED: &str = "partial";
/// What is copied at a time, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Contents {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// What a restore brought back, and what it must not use any more.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Restored {
    #[serde(flatten)]
    pub(crate) contents: Contents,
    /// Connections that send again when their peer has answered with fresh keys.
    pub(crate) connections: usize,
    /// Sessions that can only be looked at and closed.
    pub(crate) sessions: usize,
}

/// Writes all of a locked profile, whose databases are closed, into a new file.
///
/// # Errors
/// An existing file is never overwritten, and none is there before it is whole.
pub(crate) fn write(profile: &Profile, out: &Path, passphrase: &[u8]) -> Result<Contents, Failure> {
    write_behind(profile, out, b"", passphrase)
}

/// The same, behind some bytes that say whose it is.
pub(crate) fn write_behind(
    profile: &Profile,
    out: &Path,
    head: &[u8],
    passphrase: &[u8],
) -> Result<Contents, Failure> {
    write_at(profile, out, head, passphrase, Cost::NORMAL)
}

fn write_at(
    profile: &Profile,
    out: &Path,
    head: &[u8],
    passphrase: &[u8],
    cost: Cost,
) -> Result<Contents, Failure> {
    const DOING: &str = "cannot write the backup";
    let refuse_existing = || match fs::symlink_metadata(out) {
        Ok(_) => Err(
            Failure::failed(format_args!("{} is there already", out.display()))
                .help("choose another name: a backup overwrites nothing"),
        ),
        Err(_) => Ok(()),
    };
    refuse_existing()?;
    if out.extension().is_some_and(|it| it == UNFINISHED) {
        return Err(Failure::usage(format_args!(
            "`.{UNFINISHED}` is the end of names of backups that are not whole yet"
        ))
        .help("choose another name"));
    }
    let names = names(profile.dir())?;
    let mut staged = out.as_os_str().to_owned();
    staged.push(format!(".{UNFINISHED}"));
    let staged = PathBuf::from(staged);
    // What one left that was ended.
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(DOING),
        Ok(()) | Err(_) => {}
    }
    let file = files::open_new(&staged, Mode::Private)
        .context(format_args!("cannot make {}", staged.display()))?;
    let written = || {
        let mut file = BufWriter::new(file);
        file.write_all(head).context(DOING)?;
        let mut writer =
            Writer::begin(file, &profile.key, passphrase, cost, random()).context(DOING)?;
        let mut contents = Contents::default();
        for name in &names {
            let path = profile.dir().join(name.as_str());
            let copying = format!("cannot copy {}", path.display());
            let file = File::open(&path).context(&copying)?;
            let length = file.metadata().context(&copying)?.len();
            writer.file(name, length, file).context(&copying)?;
            contents.files += 1;
            contents.bytes += length;
        }
        let file = writer.finish().and_then(|out| Ok(out.into_inner()?));
        file.and_then(|file| file.sync_all()).context(DOING)?;
        refuse_existing()?;
        files::rename(&staged, out).context(DOING)?;
        Ok(contents)
    };
    let written = written();
    if written.is_err() {
        let _ = fs::remove_file(&staged);
    }
    written
}

/// Folders in folders that a profile has: `bls/NAME.signatures/`.
const FOLDERS_MAX: usize = 2;

/// The files of a profile that a backup holds, in order: all but locks, keys and what a crash left half written; those
/// in folders as `folder/name`, and `folder/folder/name`.
fn names(dir: &Path) -> Result<Vec<Name>, Failure> {
    let mut found = Vec::new();
    collect(dir, "", &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, prefix: &str, found: &mut Vec<Name>) -> Result<(), Failure> {
    let reading = format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).context(&reading)? {
        let entry = entry.context(&reading)?;
        let path = entry.path();
        let kind = entry.file_type().context(&reading)?;
        let file = entry.file_name();
        let text = format!("{prefix}{}", file.to_string_lossy());
        if kind.is_dir() && prefix.split('/').count() <= FOLDERS_MAX {
            collect(&path, &format!("{text}/"), found)?;
        } else if kind.is_file() && text.ends_with("-wal") {
            if entry.metadata().context(&reading)?.len() > 0 {
                return Err(Failure::failed(format_args!(
                    "{} holds changes that are not in its database yet",
                    path.display()
                ))
                .help("run `junto profile check`, then try again"));
            }
        } else if kind.is_symlink() || kind.is_dir() {
            let what = format_args!(
                "{} is a link, or a folder too deep: no backup holds what is there",
                path.display()
            );
            return Err(Failure::failed(what)
                .help("put the file itself in its place, or move it elsewhere"));
        } else if kind.is_file() && !is_left_out(&text) {
            let name = file.to_str().and_then(|_| Name::new(&text));
            found.push(name.ok_or_else(|| {
                let what = format_args!("{} is nothing that a profile holds", path.display());
                Failure::failed(what).help("move it elsewhere")
            })?);
        }
    }
    Ok(())
}

/// Makes a profile from a backup, in a folder that is empty or absent.
///
/// Its original may have gone on after the backup was made. So what comes back says nothing in its place: connections give
/// their keys to send with up ([`junto_agent::store::came_back`]), sessions are closed to everything
/// ([`junto_session::store::came_back`]). Before that is stored there is no profile under that name, and what is being made
/// has no key: nobody takes it for one. What a restore leaves that was killed, the next one removes.
///
/// # Errors
/// Whatever goes wrong, nothing is left behind.
pub(super) fn restore(file: &Path, dir: &Path, passphrase: &[u8]) -> Result<Restored, Failure> {
    restore_for(file, 0, dir, passphrase, Some(passphrase))
}

/// The same of a backup behind `head` bytes; the profile gets the passphrase `protect`, or none.
pub(crate) fn restore_for(
    file: &Path,
    head: usize,
    dir: &Path,
    passphrase: &[u8],
    protect: Option<&[u8]>,
) -> Result<Restored, Failure> {
    // `folder/` and `.` are folders as well.
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.components().collect());
    refuse_occupied(dir)?;
    let mut name = dir.as_os_str().to_owned();
    name.push(".restoring");
    let staging = PathBuf::from(name);
    let locked = clear(&staging)?;
    let result = restore_into(file, head, &staging, passphrase, protect).and_then(|restored| {
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
    drop(locked);
    result
}

/// Makes the folder in which a profile is put together, which is locked as the profile will be. Of what is there, it
/// removes what a restore left that was ended.
fn clear(staging: &Path) -> Result<File, Failure> {
    let occupied = || {
        Failure::failed(format_args!("{} is there already", staging.display())).help(
            "move it elsewhere; if a restore was ended in its last moment, it is a whole profile, as `junto profile check` tells",
        )
    };
    let kind = fs::symlink_metadata(staging).map(|it| it.is_dir());
    if matches!(kind, Ok(false)) {
        return Err(occupied());
    }
    let reading = format!("cannot use {}", staging.display());
    let found = |staging: &Path| -> io::Result<Vec<PathBuf>> {
        fs::read_dir(staging)?.map(|it| Ok(it?.path())).collect()
    };
    let is_lock = |path: &PathBuf| path.ends_with("lock");
    if kind.is_ok() {
        // A restore locks first, and writes the key last.
        let found = found(staging).context(&reading)?;
        let has = |name: &str| found.iter().any(|path| path.ends_with(name));
        if has("key") || has("key.sealed") || !(found.is_empty() || has("lock")) {
            return Err(occupied());
        }
    }
    make_private_dir(staging)?;
    refuse_shared_dir(staging)?;
    let locked = lock(&staging.join("lock"))
        .map_err(|failure| failure.help("another restore into this folder is under way"))?;
    for path in found(staging)
        .context(&reading)?
        .iter()
        .filter(|path| !is_lock(path))
    {
        let removed = match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir_all(path),
            false => fs::remove_file(path),
        };
        removed.context(&reading)?;
    }
    Ok(locked)
}

pub(crate) fn refuse_occupied(dir: &Path) -> Result<(), Failure> {
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

fn restore_into(
    file: &Path,
    head: usize,
    dir: &Path,
    passphrase: &[u8],
    protect: Option<&[u8]>,
) -> Result<Restored, Failure> {
    let refused = |error: BackupError| match error {
        BackupError::Passphrase => Failure::refused("wrong passphrase for this backup"),
        error => Failure::failed(format_args!(
            "{} is no whole backup of a profile ({error})",
            file.display()
        ))
        .help("nothing was restored; use another copy of it"),
    };
    let opening = format!("cannot open {}", file.display());
    let mut input = File::open(file).context(&opening)?;
    input.seek(SeekFrom::Start(head as u64)).context(&opening)?;
    let locked = Locked::read(BufReader::new(input)).map_err(refused)?;
    let mut backup = locked.open(passphrase).map_err(refused)?;
    let mut restored = Restored::default();
    while let Some((name, length)) = backup.next_file().map_err(refused)? {
        let path = dir.join(name.as_str());
        if let Some(folder) = path.parent().filter(|folder| *folder != dir) {
            make_private_dir(folder)?;
        }
        copy(&mut backup, &path, refused)?;
        restored.contents.files += 1;
        restored.contents.bytes += length;
    }
    come_back(dir, backup.store_key(), &mut restored)?;
    // Last: without it, this is no profile.
    match protect {
        Some(passphrase) => key::protect(dir, backup.store_key(), passphrase)?,
        None => key::expose(dir, backup.store_key())?,
    }
    files::sync_dir(dir).context("cannot write the profile")?;
    Ok(restored)
}

/// Writes the file that the backup is at.
fn copy(
    backup: &mut Reader<BufReader<File>>,
    to: &Path,
    refused: impl Fn(BackupError) -> Failure,
) -> Result<(), Failure> {
    let writing = format!("cannot write {}", to.display());
    let mut out = files::open_new(to, Mode::Private).context(&writing)?;
    let mut piece = Zeroizing::new(vec![0; PIECE_BYTES]);
    loop {
        match backup.read(&mut piece).map_err(&refused)? {
            0 => return out.sync_all().context(&writing),
            read => out.write_all(&piece[..read]).context(&writing)?,
        }
    }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::Source;

    /// A profile with two files, and its backup, which costs little to open.
    fn backed_up(dir: &Path) -> PathBuf {
        let from = dir.join("from");
        fs::create_dir(&from).unwrap();
        // Each byte of it is changed once: let there be few.
        fs::write(from.join("profile.toml"), b"relays = []\n").unwrap();
        let profile = Profile::open(&from, &Source::None).unwrap();
        profile.write_sealed("bls/k.key", b"a share").unwrap();
        let file = dir.join("backup");
        let cost = Cost::new(8, 1, 1).unwrap();
        let contents = write_at(&profile, &file, b"", b"p", cost).unwrap();
        assert_eq!(contents.files, 2);
        file
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = backed_up(dir.path());
        let good = fs::read(&file).unwrap();
        let to = dir.path().join("to");
        let refused = |bytes: &[u8], what: &str| {
            fs::write(&file, bytes).unwrap();
            let failure = restore(&file, &to, b"p").err().unwrap();
            assert!(
                failure.message.contains("no whole backup")
                    || failure.message.contains("wrong passphrase"),
                "{what}: {}",
                failure.message
            );
            assert!(
                !to.exists() && !dir.path().join("to.restoring").exists(),
                "{what}"
            );
        };
        for at in 0..good.len() {
            refused(&good[..at], &format!("cut at {at}"));
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            refused(&bad, &format!("byte {at}"));
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
    fn what_a_restore_left_that_was_ended_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = backed_up(dir.path());
        let (to, staging) = (dir.path().join("to"), dir.path().join("to.restoring"));
        // Ended after its lock, or before.
        for left in [&["lock", "agent.db", "bls/k.key"][..], &["lock"], &[]] {
            fs::create_dir_all(staging.join("bls")).unwrap();
            left.iter()
                .for_each(|name| fs::write(staging.join(name), b"half").unwrap());
            if left.is_empty() {
                fs::remove_dir(staging.join("bls")).unwrap();
            }
            restore(&file, &to, b"p").unwrap();
            assert!(!staging.exists() && !to.join("agent.db").exists());
            fs::remove_dir_all(&to).unwrap();
        }
        // Another profile, somebody's folder, somebody's file.
        for own in [&["lock", "key"][..], &["lock", "key.sealed"], &["thesis"]] {
            fs::create_dir(&staging).unwrap();
            own.iter()
                .for_each(|name| fs::write(staging.join(name), b"mine").unwrap());
            restore(&file, &to, b"p").unwrap_err();
            own.iter()
                .for_each(|name| assert_eq!(fs::read(staging.join(name)).unwrap(), b"mine"));
            assert!(!to.exists());
            fs::remove_dir_all(&staging).unwrap();
        }
        fs::write(&staging, b"mine").unwrap();
        restore(&file, &to, b"p").unwrap_err();
        assert_eq!(fs::read(&staging).unwrap(), b"mine");
        fs::remove_file(&staging).unwrap();
        // One that is under way.
        let locked = clear(&staging).unwrap();
        restore(&file, &to, b"p").unwrap_err();
        assert!(staging.join("lock").exists() && !to.exists());
        drop(locked);
        restore(&file, &to, b"p").unwrap();
    }

    #[test]
    fn records_without_their_key_are_no_profile() {
        let dir = tempfile::tempdir().unwrap();
        let half = dir.path().join("half");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("contacts.db"), b"").unwrap();
        let failure = Profile::open(&half, &Source::None).err().unwrap();
        assert!(failure.message.contains("no key"), "{}", failure.message);
        assert!(!half.join("key").exists());
    }
}
