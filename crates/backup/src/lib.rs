//! What of a profile may leave its folder: its key under a passphrase ([`SealedKey`]), and all of it in one sealed
//! file ([`Writer`], [`Reader`]).
//!
//! ```text
//! backup  = "junto profile backup 1\n" · sealed key (115) · chunk*
//! chunk   = length u32 · nonce (24) · up to 64 KiB of the content · tag (16)
//! content = the profile's store key (32) · entry* · 0x00
//! entry   = length of name u8 (1 or more) · name · length u64 · bytes of the file
//! ```
//!
//! Numbers are big-endian. The sealed key is that of the chunks, under the backup's passphrase. Each chunk is bound to
//! its number and to whether it is the last: none can be changed, left out, repeated, moved or cut off unnoticed. All
//! but the last are full, and the names rise: the same files make the same content.
//!
//! A core: bytes come and go by [`std::io::Read`] and [`std::io::Write`], randomness is an argument.

mod key;
mod name;
mod reader;
mod writer;

pub use key::{Cost, KeyError, Purpose, SEALED_KEY_BYTES, SealedKey};
pub use name::{NAME_MAX, Name, is_left_out};
pub use reader::{BackupError, Locked, Reader};
pub use writer::Writer;

/// What a backup begins with.
pub const MAGIC: &[u8] = b"junto profile backup 1\n";
/// Most bytes of content in a chunk; all but the last have as many.
const CHUNK_BYTES: usize = 64 * 1024;
const KEY_BYTES: usize = junto_crypto::aead::KEY_BYTES;

/// Binds a chunk to its place.
fn place(number: u64, is_last: bool) -> Vec<u8> {
    [MAGIC, &number.to_be_bytes(), &[u8::from(is_last)]].concat()
}

#[cfg(test)]
mod tests;
