//! Files into a backup.

use std::io::{self, Read, Write};

use junto_crypto::aead::StoreKey;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::{CHUNK_BYTES, Cost, MAGIC, Name, Purpose, SealedKey, place};

/// Writes a backup: the files in the order of their names, then [`Writer::finish`]. What is written before that is none.
pub struct Writer<W: Write, G: CryptoRng> {
    chunks: Chunks<W, G>,
    last: Option<Name>,
}

impl<W: Write, G: CryptoRng> Writer<W, G> {
    /// Begins a backup of the profile with this store key.
    ///
    /// # Errors
    /// Those of `out`, and a passphrase that is too long.
    pub fn begin(
        mut out: W,
        store_key: &StoreKey,
        passphrase: &[u8],
        cost: Cost,
        mut rng: G,
    ) -> io::Result<Self> {
        let key = StoreKey::generate(&mut rng);
        let sealed = SealedKey::seal(&key, passphrase, Purpose::Backup, cost, &mut rng);
        out.write_all(MAGIC)?;
        out.write_all(sealed.map_err(io::Error::other)?.as_bytes())?;
        let mut chunks = Chunks::new(key, out, rng);
        chunks.write_all(store_key.as_bytes())?;
        Ok(Self { chunks, last: None })
    }

    /// Writes a file of `length` bytes.
    ///
    /// # Errors
    /// If there are fewer bytes, or the name does not follow the last one; those of `bytes` and of what is written to.
    pub fn file(&mut self, name: &Name, length: u64, bytes: impl Read) -> io::Result<()> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        if self.last.as_ref().is_some_and(|last| last >= name) {
            return Err(wrong("the names are out of order"));
        }
        let text = name.as_str().as_bytes();
        // A name has at most `NAME_MAX` bytes.
        let head = [&[text.len() as u8], text, &length.to_be_bytes()].concat();
        self.chunks.write_all(&head)?;
        if io::copy(&mut bytes.take(length), &mut self.chunks)? != length {
            return Err(wrong("it became shorter meanwhile"));
        }
        self.last = Some(name.clone());
        Ok(())
    }

    /// Ends it. Gives back what it was written to, flushed.
    ///
    /// # Errors
    /// Those of what is written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.chunks.write_all(&[0])?;
        self.chunks.finish()
    }
}

/// Seals what is written to it, chunk by chunk.
pub(crate) struct Chunks<W: Write, G: CryptoRng> {
    key: StoreKey,
    out: W,
    rng: G,
    number: u64,
    buffer: Zeroizing<Vec<u8>>,
}

impl<W: Write, G: CryptoRng> Chunks<W, G> {
    pub(crate) fn new(key: StoreKey, out: W, rng: G) -> Self {
        Self {
            key,
            out,
            rng,
            number: 0,
            buffer: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES)),
        }
    }

    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        let bound = place(self.number, is_last);
        let sealed = self.key.seal(&bound, &self.buffer, &mut self.rng);
        let sealed = sealed.map_err(io::Error::other)?;
        self.out.write_all(&(sealed.len() as u32).to_be_bytes())?;
        self.out.write_all(&sealed)?;
        self.number += 1;
        self.buffer.clear();
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write, G: CryptoRng> Write for Chunks<W, G> {
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
