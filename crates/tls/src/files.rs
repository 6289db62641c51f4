//! Writing files so that whoever reads them, also after a crash or a loss of power, finds the old one
//! or the new one, whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its owner.
    Private,
    /// Everybody.
    Public,
}

/// Creates a file that did not exist, with its permissions from the first byte on, for writing. Its
/// name is durable after [`sync_parent`].
///
/// # Errors
/// What the system said; `AlreadyExists` if there is one.
pub fn open_new(path: &Path, mode: Mode) -> io::Result<File> {
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
    options.open(path)
}

/// Writes a file that did not exist, and makes it durable.
///
/// # Errors
/// What the system said; `AlreadyExists` if there is one.
pub fn create(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let mut file = open_new(path, mode)?;
    file.write_all(content)?;
    file.sync_all()?;
    sync_parent(path)
}

/// Where the successor of a file is written before it takes its place.
#[must_use]
pub fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Writes the successor of `path` beside it: it takes its place with [`install`]. One that was left
/// there before goes.
///
/// # Errors
/// What the system said.
pub fn stage(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    let staged = staged(path);
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    create(&staged, content, mode)
}

/// Puts the successor of `path` in its place, in one step.
///
/// # Errors
/// What the system said. If it was the folder that could not be synced, nobody knows which of the two
/// a loss of power leaves there.
pub fn install(path: &Path) -> io::Result<()> {
    rename(&staged(path), path)
}

/// Writes a file in the place of another, if there is one, in one step.
///
/// # Errors
/// What the system said; the old one is there then, or (if the folder could not be synced) the new one.
pub fn replace(path: &Path, content: &[u8], mode: Mode) -> io::Result<()> {
    stage(path, content, mode)?;
    install(path)
}

/// Gives a file or folder another name in the same folder, durably.
///
/// # Errors
/// What the system said.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Makes all changes of names in a folder durable.
///
/// # Errors
/// What the system said.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    // Windows cannot open folders.
    match cfg!(unix) {
        true => File::open(dir)?.sync_all(),
        false => Ok(()),
    }
}

/// Makes the name of a file durable.
///
/// # Errors
/// What the system said.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(folder(path))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        // What a crash left of another one does not disturb.
        fs::write(staged(&path), b"half of so").unwrap();
        replace(&path, b"one", Mode::Private).unwrap();
        stage(&path, b"two", Mode::Private).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        install(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_there_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, b"one", Mode::Public).unwrap();
        let error = create(&path, b"two", Mode::Public).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[cfg(unix)]
    #[test]
    fn a_successor_is_private_from_its_first_byte_on() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        // One that others can read was left there.
        fs::write(staged(&path), b"").unwrap();
        replace(&path, b"secret", Mode::Private).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_name_alone_is_in_this_folder() {
        assert_eq!(folder(Path::new("a")), Path::new("."));
        assert_eq!(folder(Path::new("a/b")), Path::new("a"));
    }
}
