//! What a journal does to the disk, operation by operation.
//!
//! The journal owns one folder and does nothing to it but what [`Disk`] and [`Segment`] say, so a
//! test can let any of these operations fail, or the machine stop between any two of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::journal::JournalError;

/// The folder of a journal.
///
/// Creations, renames and removals are durable after [`Disk::sync_names`]; before, a crash may
/// undo any of them, each on its own.
pub(super) trait Disk: Send + Sync + 'static {
    /// The names of all files.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading from its beginning.
    fn read(&self, name: &str) -> io::Result<Box<dyn io::Read + '_>>;

    /// Makes an empty file, in place of one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn Segment>>;

    /// Renames a file, in place of one of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all changes of names durable.
    fn sync_names(&self) -> io::Result<()>;

    /// Where a file is, for people.
    fn path(&self, name: &str) -> PathBuf;

    /// Lets others use the folder.
    fn release(&self);
}

/// A file that is being written, at its end only.
pub(super) trait Segment: Send {
    /// Adds a part of `bytes`, which is not empty, and gives how much; the system may take less
    /// than it is given.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Makes everything durable that was added. After a failure nobody knows what is on the disk,
    /// also if a later call succeeds: the system may have dropped what it could not write.
    fn sync(&mut self) -> io::Result<()>;
}

impl dyn Segment {
    /// Adds all of `bytes`.
    pub(super) fn append_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.append(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count.min(bytes.len())..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A folder of the system, which nobody else uses while this lives.
pub(super) struct Folder {
    dir: PathBuf,
    /// Held for the exclusive lock on it.
    lock: File,
}

/// How often the lock is tried, and the pause in between: a relay that has just been killed lets go
/// within moments, and whoever restarts it should not have to guess.
const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

impl Folder {
    /// Takes the folder `dir`, and makes it if there is none.
    pub(super) fn open(dir: &Path) -> Result<Self, JournalError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt as _;
            builder.mode(0o700);
        }
        builder.create(dir).map_err(failed(dir))?;
        let path = dir.join("lock");
        let lock = private()
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed(&path))?;
        for _ in 0..LOCK_TRIES {
            match lock.try_lock() {
                Ok(()) => {
                    let dir = dir.to_owned();
                    return Ok(Self { dir, lock });
                }
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(fs::TryLockError::Error(source)) => return Err(failed(&path)(source)),
            }
        }
        Err(JournalError::InUse { dir: dir.into() })
    }
}

impl Disk for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // Ours are plain text.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn io::Read + '_>> {
        Ok(Box::new(File::open(self.path(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        let file = private()
            .create(true)
            .truncate(true)
            .open(self.path(name))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        junto_tls::files::sync_dir(&self.dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn release(&self) {
        // Closing the file would do, were it not for processes that this one is just starting:
        // they hold a copy of it for a moment.
        let _ = self.lock.unlock();
    }
}

impl Segment for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Options for files that only the owner can read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}
