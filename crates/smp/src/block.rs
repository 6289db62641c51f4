//! Blocks: everything on the wire is 16,384 bytes long (reference §3.3).
//!
//! After the hello a block holds a batch: a count and that many transmissions, each with a 2-byte
//! length. If the client sent a hello key, each block is sealed with a key used once, from a chain
//! per direction; otherwise it is only padded.

use junto_crypto::{
    Zeroizing, kdf, pad,
    secretbox::{BoxKey, NONCE_BYTES, Nonce, TAG_BYTES},
    x25519,
};
use zeroize::ZeroizeOnDrop;

use crate::encoding::Writer;

/// Bytes of every block.
pub const BLOCK_BYTES: usize = 16_384;
/// One block.
pub type Block = [u8; BLOCK_BYTES];
/// Bytes that all transmissions of a block may take, their 2-byte lengths included. Plain blocks
/// could hold 16 more; both kinds keep the same limit, as in the reference implementation.
pub const BATCH_BYTES_MAX: usize = BLOCK_BYTES - TAG_BYTES - pad::OVERHEAD_BYTES - 1;
/// Transmissions that one block may hold: its count is one byte.
pub const BATCH_COUNT_MAX: usize = 255;

/// Offset of the padded text in a sealed block.
const TEXT: usize = TAG_BYTES;
/// Offset of the batch, its count first, while a block is filled.
const BATCH: usize = TEXT + pad::OVERHEAD_BYTES;
const PADDING: u8 = b'#';

/// Identifies a TLS session: the client's Finished `verify_data` (reference §2). Not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub [u8; 32]);

/// Keys of one direction of a connection: each block advances the chain, so a key opens one block.
#[derive(ZeroizeOnDrop)]
pub struct BlockChain([u8; 32]);

impl BlockChain {
    /// The chains (server to client, client to server) from the key agreement of the hello keys.
    #[must_use]
    pub fn pair(session: &SessionId, shared: &x25519::SharedSecret) -> (Self, Self) {
        let keys: Zeroizing<[u8; 64]> =
            kdf::hkdf_sha512(&session.0, shared.as_bytes(), b"SimpleXSbChainInit");
        let (mut from_server, mut from_client) = (Self([0; 32]), Self([0; 32]));
        from_server.0.copy_from_slice(&keys[..32]);
        from_client.0.copy_from_slice(&keys[32..]);
        (from_server, from_client)
    }

    /// Advances the chain; the key and nonce serve one block.
    fn step(&mut self) -> (BoxKey, Nonce) {
        let keys: Zeroizing<[u8; 88]> = kdf::hkdf_sha512(b"", &self.0, b"SimpleXSbChain");
        let mut key = Zeroizing::new([0; 32]);
        let mut nonce = [0; NONCE_BYTES];
        self.0.copy_from_slice(&keys[..32]);
        key.copy_from_slice(&keys[32..64]);
        nonce.copy_from_slice(&keys[64..]);
        (BoxKey::from_symmetric(&key), Nonce(nonce))
    }
}

/// How the blocks of one direction are protected inside TLS.
pub enum Protection {
    /// Padded only: the client sent no hello key, or is a proxy.
    Plain,
    /// Sealed with the chain.
    Sealed(BlockChain),
}

impl Protection {
    /// Opens a received block in place and returns its text without padding.
    ///
    /// # Errors
    /// [`BlockFault::Sealed`] or [`BlockFault::Padding`].
    pub fn open<'b>(&mut self, block: &'b mut Block) -> Result<&'b mut [u8], BlockFault> {
        let text = match self {
            Self::Plain => block.as_mut_slice(),
            Self::Sealed(chain) => {
                let (key, nonce) = chain.step();
                let (tag, text) = block
                    .split_first_chunk_mut::<TAG_BYTES>()
                    .ok_or(BlockFault::Sealed)?;
                key.open_in_place(&nonce, text, tag)
                    .map_err(|_| BlockFault::Sealed)?;
                text
            }
        };
        unpad(text)
    }
}

/// The text of a padded block.
pub(crate) fn unpad(padded: &mut [u8]) -> Result<&mut [u8], BlockFault> {
    let length = pad::unpad(padded).map_err(|_| BlockFault::Padding)?.len();
    padded
        .get_mut(pad::OVERHEAD_BYTES..pad::OVERHEAD_BYTES + length)
        .ok_or(BlockFault::Padding)
}

/// Pads `text`, written by `encode`, to a plain block; for hellos.
pub(crate) fn plain_block(
    block: &mut Block,
    encode: impl FnOnce(&mut Writer<'_>),
) -> Result<(), crate::encoding::NoRoom> {
    let mut writer = Writer::new(&mut block[pad::OVERHEAD_BYTES..]);
    encode(&mut writer);
    let used = writer.finish()?;
    finish_padding(block, used);
    Ok(())
}

/// Writes the length in front of a text of `used` bytes and the filling behind it.
fn finish_padding(padded: &mut [u8], used: usize) {
    // A block holds 16 KiB, so the length fits into two bytes.
    let length = u16::try_from(used).unwrap_or(u16::MAX);
    let end = pad::OVERHEAD_BYTES + used;
    padded[..pad::OVERHEAD_BYTES].copy_from_slice(&length.to_be_bytes());
    padded[end..].fill(PADDING);
}

/// A new zeroed block on the heap.
#[must_use]
pub fn new_block() -> Box<Block> {
    // Collecting keeps the 16 KiB off the stack; the length is right by construction.
    let bytes: Box<[u8]> = vec![0; BLOCK_BYTES].into_boxed_slice();
    match bytes.try_into() {
        Ok(block) => block,
        Err(_) => Box::new([0; BLOCK_BYTES]),
    }
}

/// A block being filled with transmissions. Owned by the shell, which may share few of them
/// between many connections: between [`OutgoingBlock::seal`] and the next push it holds nothing.
pub struct OutgoingBlock {
    bytes: Box<Block>,
    used: usize,
    count: u8,
}

impl Default for OutgoingBlock {
    fn default() -> Self {
        Self::new()
    }
}

impl OutgoingBlock {
    /// An empty block: 16 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: new_block(),
            used: 0,
            count: 0,
        }
    }

    /// Transmissions in it.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it holds no transmission.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes left for transmissions and their lengths.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        BATCH_BYTES_MAX - self.used
    }

    /// Adds a transmission written by `encode`. On error the block is as before.
    ///
    /// # Errors
    /// [`BlockFull`]: seal this block and push again; an empty block takes every transmission that
    /// can be sent at all.
    pub fn push(&mut self, encode: impl FnOnce(&mut Writer<'_>)) -> Result<(), BlockFull> {
        self.push_with(|room| {
            let mut writer = Writer::new(room);
            encode(&mut writer);
            writer.finish().map_err(|_| BlockFull)
        })
    }

    /// As [`OutgoingBlock::push`], for an encoder that needs the slice itself. It returns the bytes
    /// that it used.
    pub(crate) fn push_with(
        &mut self,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, BlockFull>,
    ) -> Result<(), BlockFull> {
        const LENGTH: usize = 2;
        let start = BATCH + 1 + self.used;
        let room = &mut self.bytes[start..BATCH + 1 + BATCH_BYTES_MAX];
        let (length, room) = room.split_first_chunk_mut::<LENGTH>().ok_or(BlockFull)?;
        let count = self.count.checked_add(1).ok_or(BlockFull)?;
        let used = encode(room)?;
        *length = u16::try_from(used).map_err(|_| BlockFull)?.to_be_bytes();
        self.used += LENGTH + used;
        self.count = count;
        Ok(())
    }

    /// Finishes the block for sending and starts the next one; `None` if it is empty. The bytes
    /// stay valid until the next push.
    pub fn seal(&mut self, protection: &mut Protection) -> Option<&Block> {
        if self.is_empty() {
            return None;
        }
        self.bytes[BATCH] = self.count;
        let used = 1 + self.used;
        (self.used, self.count) = (0, 0);
        match protection {
            Protection::Plain => {
                self.bytes
                    .copy_within(BATCH..BATCH + used, pad::OVERHEAD_BYTES);
                finish_padding(self.bytes.as_mut_slice(), used);
            }
            Protection::Sealed(chain) => {
                let (key, nonce) = chain.step();
                finish_padding(&mut self.bytes[TEXT..], used);
                let tag = key.seal_in_place(&nonce, &mut self.bytes[TEXT..]);
                self.bytes[..TAG_BYTES].copy_from_slice(&tag);
            }
        }
        Some(&self.bytes)
    }
}

/// The transmission does not fit into what is left of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block is full")]
pub struct BlockFull;

/// Why a received block cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// It does not open: forged, replayed or out of order. The connection cannot go on.
    #[error("block does not open")]
    Sealed,
    /// Its padding is wrong.
    #[error("bad padding")]
    Padding,
    /// Its transmissions do not add up: no transmission, a length beyond the end, or bytes left.
    #[error("bad batch")]
    Batch,
}

impl BlockFault {
    /// Whether the connection must be closed. Otherwise the server answers `ERR BLOCK` and goes on:
    /// the chain is still in step.
    #[must_use]
    pub fn is_fatal(self) -> bool {
        match self {
            Self::Sealed | Self::Padding => true,
            Self::Batch => false,
        }
    }
}

/// The transmissions of an opened block, each still to be parsed.
#[derive(Debug)]
pub struct Batch<'b> {
    rest: &'b mut [u8],
}

impl<'b> Batch<'b> {
    /// Checks the framing of a whole block before anything of it is used.
    ///
    /// # Errors
    /// [`BlockFault::Batch`].
    pub fn parse(text: &'b mut [u8]) -> Result<Self, BlockFault> {
        let mut reader = crate::encoding::Reader::new(text);
        let count = reader.u8().map_err(|_| BlockFault::Batch)?;
        if count == 0 {
            return Err(BlockFault::Batch);
        }
        for _ in 0..count {
            reader.large().map_err(|_| BlockFault::Batch)?;
        }
        reader.finish().map_err(|_| BlockFault::Batch)?;
        let (_, rest) = text.split_first_mut().ok_or(BlockFault::Batch)?;
        Ok(Self { rest })
    }
}

impl<'b> Iterator for Batch<'b> {
    type Item = &'b mut [u8];

    fn next(&mut self) -> Option<&'b mut [u8]> {
        let (length, rest) = core::mem::take(&mut self.rest).split_first_chunk_mut::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (transmission, rest) = rest.split_at_mut_checked(length)?;
        self.rest = rest;
        Some(transmission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../../vectors/simplex-primitives.txt");

    fn vector(name: &str) -> Vec<u8> {
        let mut lines = VECTORS.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(key, _)| *key == name).unwrap();
        hex::decode(value).unwrap()
    }

    fn array<const N: usize>(name: &str) -> [u8; N] {
        vector(name).try_into().unwrap()
    }

    fn chains() -> (BlockChain, BlockChain) {
        let a = x25519::SecretKey::from_bytes(&array("x25519_secret_a"));
        let b = x25519::SecretKey::from_bytes(&array("x25519_secret_b"));
        let shared = a.diffie_hellman(&b.public_key()).unwrap();
        BlockChain::pair(&SessionId(array("chain_salt")), &shared)
    }

    #[test]
    fn chains_match_the_vectors() {
        let (mut from_server, from_client) = chains();
        assert_eq!(from_server.0, array("x25519_ck1"));
        assert_eq!(from_client.0, array("x25519_ck2"));
        let (key, nonce) = from_server.step();
        assert_eq!(from_server.0, array("x25519_ck1_next"));
        assert_eq!(nonce.0, array("x25519_block_nonce"));
        let expected = BoxKey::from_symmetric(&array("x25519_block_key"));
        let (mut ours, mut theirs) = ([7; 32], [7; 32]);
        assert_eq!(
            key.seal_in_place(&nonce, &mut ours),
            expected.seal_in_place(&nonce, &mut theirs)
        );
    }

    #[test]
    fn a_sealed_block_matches_the_vector() {
        let (from_server, _) = chains();
        // The payload 01: a count without its transmission.
        let mut outgoing = OutgoingBlock::new();
        outgoing.count = 1;
        let block = outgoing.seal(&mut Protection::Sealed(from_server)).unwrap();
        assert_eq!(block[..16], vector("x25519_block_tag"));
        assert_eq!(
            junto_crypto::hash::sha256(block).to_vec(),
            vector("x25519_block_sha256")
        );
    }

    #[test]
    fn blocks_open_in_order_and_once() {
        let pair = || {
            let (chain, _) = chains();
            Protection::Sealed(chain)
        };
        let (mut sender, mut outgoing) = (pair(), OutgoingBlock::new());
        let blocks: Vec<Block> = (0..3)
            .map(|number| {
                outgoing.push(|writer| writer.u8(number)).unwrap();
                *outgoing.seal(&mut sender).unwrap()
            })
            .collect();
        let mut receiver = pair();
        for (number, block) in blocks.iter().enumerate() {
            let mut block = *block;
            let text = receiver.open(&mut block).unwrap();
            let mut batch = Batch::parse(text).unwrap();
            assert_eq!(batch.next().unwrap(), [u8::try_from(number).unwrap()]);
            assert!(batch.next().is_none());
        }
        let mut replayed = blocks[2];
        assert_eq!(receiver.open(&mut replayed), Err(BlockFault::Sealed));
        let mut receiver = pair();
        let mut reordered = blocks[1];
        assert_eq!(receiver.open(&mut reordered), Err(BlockFault::Sealed));
        let mut changed = blocks[0];
        changed[BLOCK_BYTES - 1] ^= 1;
        assert_eq!(pair().open(&mut changed), Err(BlockFault::Sealed));
    }

    #[test]
    fn plain_blocks_are_padded_only() {
        let mut outgoing = OutgoingBlock::new();
        outgoing.push(|writer| writer.bytes(b"ab")).unwrap();
        let mut block = *outgoing.seal(&mut Protection::Plain).unwrap();
        assert_eq!(block[..8], [0, 5, 1, 0, 2, b'a', b'b', b'#']);
        assert!(block[8..].iter().all(|&byte| byte == b'#'));
        assert_eq!(
            Protection::Plain.open(&mut block).unwrap(),
            [1, 0, 2, b'a', b'b']
        );
        assert!(outgoing.seal(&mut Protection::Plain).is_none());
        block[0] = 0xff;
        assert_eq!(Protection::Plain.open(&mut block), Err(BlockFault::Padding));
    }

    #[test]
    fn a_block_takes_what_fits_and_no_more() {
        let mut outgoing = OutgoingBlock::new();
        let too_large = BATCH_BYTES_MAX - 1;
        let fill = |length| move |writer: &mut Writer<'_>| writer.bytes(&vec![1; length]);
        assert_eq!(outgoing.push(fill(too_large)), Err(BlockFull));
        assert!(outgoing.is_empty());
        outgoing.push(fill(too_large - 1)).unwrap();
        assert_eq!(outgoing.room_bytes(), 0);
        assert_eq!(outgoing.push(fill(0)), Err(BlockFull));
        assert_eq!(outgoing.count(), 1);
        let (chain, _) = chains();
        let mut block = *outgoing.seal(&mut Protection::Sealed(chain)).unwrap();
        let (chain, _) = chains();
        let mut receiver = Protection::Sealed(chain);
        let text = receiver.open(&mut block).unwrap();
        assert_eq!(text.len(), 1 + BATCH_BYTES_MAX);
    }

    #[test]
    fn at_most_255_transmissions() {
        let mut outgoing = OutgoingBlock::new();
        for _ in 0..BATCH_COUNT_MAX {
            outgoing.push(|writer| writer.u8(0)).unwrap();
        }
        assert_eq!(outgoing.push(|writer| writer.u8(0)), Err(BlockFull));
    }

    #[test]
    fn framing_is_checked_whole() {
        for bad in [
            [].as_slice(),
            &[0],
            &[1],
            &[1, 0],
            &[1, 0, 2, 1],
            &[2, 0, 1, 1],
            &[1, 0, 1, 1, 1],
        ] {
            assert_eq!(
                Batch::parse(&mut bad.to_vec()).err(),
                Some(BlockFault::Batch),
                "{bad:?}"
            );
        }
    }
}
