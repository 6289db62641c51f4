//! A backup into files.

use std::io::{self, Read};

use junto_crypto::aead::{STORE_OVERHEAD_BYTES, StoreKey};
use zeroize::Zeroizing;

use crate::{
    CHUNK_BYTES, Cost, KEY_BYTES, KeyError, MAGIC, Name, Purpose, SEALED_KEY_BYTES, SealedKey,
    place,
};

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source gives nothing more.
    #[error("it cannot be read: {0}")]
    Source(io::Error),
    /// Another kind of file.
    #[error("it begins otherwise")]
    Foreign,
    /// Its key is none, or demands too much of whoever opens it.
    #[error("its key")]
    Key,
    /// Or its key was changed: the two cannot be told apart.
    #[error("wrong passphrase")]
    Passphrase,
    /// It ends before its end.
    #[error("it is cut off")]
    Cut,
    /// A chunk has no fitting length.
    #[error("the length of a chunk")]
    Length,
    /// A chunk was changed, left out, repeated or moved.
    #[error("a chunk was changed")]
    Chunk,
    /// A file's name is none, or does not follow the last one.
    #[error("a file's name")]
    Name,
    /// It does not end at its end.
    #[error("something follows its end")]
    Surplus,
}

/// A backup whose passphrase was not tried yet.
pub struct Locked<R> {
    key: SealedKey,
    input: R,
}

impl<R: Read> Locked<R> {
    /// Reads the beginning of a backup.
    ///
    /// # Errors
    /// If it is none, or its key demands more than [`Cost::MOST`].
    pub fn read(mut input: R) -> Result<Self, BackupError> {
        let mut magic = [0; MAGIC.len()];
        fill(&mut input, &mut magic)?;
        if magic != MAGIC {
            return Err(BackupError::Foreign);
        }
        let mut key = [0; SEALED_KEY_BYTES];
        fill(&mut input, &mut key)?;
        let key = SealedKey::parse(&key, Purpose::Backup).map_err(|_| BackupError::Key)?;
        Ok(Self { key, input })
    }

    /// What trying a passphrase takes.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.key.cost()
    }

    /// Opens it.
    ///
    /// # Errors
    /// If the passphrase is wrong, or what follows the key was changed.
    pub fn open(self, passphrase: &[u8]) -> Result<Reader<R>, BackupError> {
        let key = self.key.open(passphrase).map_err(|error| match error {
            KeyError::Malformed => BackupError::Key,
            KeyError::Wrong | KeyError::Passphrase => BackupError::Passphrase,
        })?;
        Reader::new(key, self.input)
    }
}

/// Reads the files of a backup, one after the other. Each byte that it gives was sealed under the passphrase; but whether
/// the backup is whole is known only when [`Reader::next_file`] says that there are no more files.
pub struct Reader<R> {
    chunks: Chunks<R>,
    store_key: StoreKey,
    last: Option<Name>,
    /// Bytes of the file that was not read yet.
    left: u64,
    has_ended: bool,
}

impl<R: Read> Reader<R> {
    fn new(key: StoreKey, input: R) -> Result<Self, BackupError> {
        let mut chunks = Chunks::new(key, input);
        let mut store_key = Zeroizing::new([0; KEY_BYTES]);
        chunks.fill(store_key.as_mut())?;
        Ok(Self {
            chunks,
            store_key: StoreKey::from_bytes(&store_key),
            last: None,
            left: 0,
            has_ended: false,
        })
    }

    /// The store key of the profile.
    #[must_use]
    pub fn store_key(&self) -> &StoreKey {
        &self.store_key
    }

    /// Goes to the next file, and gives its name and its length in bytes. `None` after the last one: then the backup was
    /// whole.
    ///
    /// # Errors
    /// If it is not.
    pub fn next_file(&mut self) -> Result<Option<(Name, u64)>, BackupError> {
        let mut skipped = Zeroizing::new([0; 1024]);
        while self.read(skipped.as_mut())? > 0 {}
        if self.has_ended {
            return Ok(None);
        }
        let mut length = [0];
        self.chunks.fill(&mut length)?;
        let mut name = vec![0; usize::from(length[0])];
        if name.is_empty() {
            self.chunks.end()?;
            self.has_ended = true;
            return Ok(None);
        }
        self.chunks.fill(&mut name)?;
        let name = core::str::from_utf8(&name).ok().and_then(Name::new);
        let follows = |name: &Name| self.last.as_ref().is_none_or(|last| last < name);
        let name = name.filter(follows).ok_or(BackupError::Name)?;
        let mut length = [0; 8];
        self.chunks.fill(&mut length)?;
        self.left = u64::from_be_bytes(length);
        self.last = Some(name.clone());
        Ok(Some((name, self.left)))
    }

    /// Reads some bytes of the file; none at its end.
    ///
    /// # Errors
    /// If the backup ends before the file does, or was changed there.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, BackupError> {
        let most = usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
        let read = self.chunks.read(&mut out[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Opens chunks, and reads what is in them.
struct Chunks<R> {
    key: StoreKey,
    input: R,
    number: u64,
    chunk: Zeroizing<Vec<u8>>,
    at: usize,
    was_last: bool,
}

impl<R: Read> Chunks<R> {
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

    fn open_next(&mut self) -> Result<(), BackupError> {
        const FULL: usize = CHUNK_BYTES + STORE_OVERHEAD_BYTES;
        let mut length = [0; 4];
        fill(&mut self.input, &mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(STORE_OVERHEAD_BYTES + 1..=FULL).contains(&length) {
            return Err(BackupError::Length);
        }
        let mut sealed = vec![0; length];
        fill(&mut self.input, &mut sealed)?;
        // One that is not full is the last; a full one may be.
        for is_last in [false, true] {
            if (is_last || length == FULL)
                && let Ok(chunk) = self.key.open(&place(self.number, is_last), &sealed)
            {
                self.chunk = chunk;
                self.at = 0;
                self.number += 1;
                self.was_last = is_last;
                return Ok(());
            }
        }
        Err(BackupError::Chunk)
    }

    /// Reads some bytes; none only if none are asked for.
    fn read(&mut self, out: &mut [u8]) -> Result<usize, BackupError> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.at == self.chunk.len() {
            if self.was_last {
                return Err(BackupError::Cut);
            }
            self.open_next()?;
        }
        let taken = out.len().min(self.chunk.len() - self.at);
        out[..taken].copy_from_slice(&self.chunk[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }

    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), BackupError> {
        while !out.is_empty() {
            let read = self.read(out)?;
            out = &mut out[read..];
        }
        Ok(())
    }

    /// Nothing may follow.
    fn end(&mut self) -> Result<(), BackupError> {
        if self.at < self.chunk.len() || !self.was_last {
            return Err(BackupError::Surplus);
        }
        let mut more = Vec::new();
        let read = (&mut self.input).take(1).read_to_end(&mut more);
        match read.map_err(BackupError::Source)? {
            0 => Ok(()),
            _ => Err(BackupError::Surplus),
        }
    }
}

fn fill(input: &mut impl Read, out: &mut [u8]) -> Result<(), BackupError> {
    input.read_exact(out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => BackupError::Cut,
        _ => BackupError::Source(error),
    })
}
