//! Keys of the ratchet and the one derivation that each has.

use junto_crypto::{CryptoError, aead::GcmKey, kdf::hkdf_sha512, kem, pad, x448};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Bytes of every key here.
pub(crate) const KEY_BYTES: usize = 32;
/// Bytes of the initialisation vectors of headers and bodies.
pub(crate) const IV_BYTES: usize = 16;
/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Cuts a derived block of 96 bytes into three of 32.
fn thirds(block: &[u8; 96]) -> [[u8; KEY_BYTES]; 3] {
    let mut parts = [[0; KEY_BYTES]; 3];
    for (part, bytes) in parts.iter_mut().zip(block.chunks_exact(KEY_BYTES)) {
        part.copy_from_slice(bytes);
    }
    parts
}

/// The key at the root: mixed with every Diffie-Hellman result, so a thief of older keys is locked
/// out again.
#[derive(ZeroizeOnDrop)]
pub(crate) struct RootKey(pub(crate) [u8; KEY_BYTES]);

impl RootKey {
    /// One half of a ratchet step: next root, a chain, and the header key after the next.
    pub(crate) fn step(
        &self,
        agreed: &x448::SharedSecret,
        encapsulated: Option<&kem::SharedSecret>,
    ) -> (Self, ChainKey, HeaderKey) {
        let mut secret = Zeroizing::new([0; x448::KEY_BYTES + kem::SHARED_SECRET_BYTES]);
        secret[..x448::KEY_BYTES].copy_from_slice(agreed.as_bytes());
        let length = match encapsulated {
            None => x448::KEY_BYTES,
            Some(extra) => {
                secret[x448::KEY_BYTES..].copy_from_slice(extra.as_bytes());
                secret.len()
            }
        };
        let block = hkdf_sha512::<96>(&self.0, &secret[..length], b"SimpleXRootRatchet");
        let [root, chain, header] = thirds(&block);
        (Self(root), ChainKey(chain), HeaderKey(header))
    }
}

/// The result of key agreement: header key of the joiner's first chain, header key of the maker's
/// first chain, root.
pub(crate) fn agreed_keys(secrets: &[u8]) -> (HeaderKey, HeaderKey, RootKey) {
    let block = hkdf_sha512::<96>(&[0; 64], secrets, b"SimpleXX3DH");
    let [header, next_header, root] = thirds(&block);
    (HeaderKey(header), HeaderKey(next_header), RootKey(root))
}

/// The key of one direction between two steps; moves forward with each message.
#[derive(ZeroizeOnDrop)]
pub(crate) struct ChainKey(pub(crate) [u8; KEY_BYTES]);

/// What one message takes from its chain.
pub(crate) struct ChainStep {
    pub(crate) next: ChainKey,
    pub(crate) message: MessageKey,
    pub(crate) header_iv: [u8; IV_BYTES],
}

impl ChainKey {
    pub(crate) fn step(&self) -> ChainStep {
        let block = hkdf_sha512::<96>(b"", &self.0, b"SimpleXChainRatchet");
        let [next, key, ivs] = thirds(&block);
        let (mut iv, mut header_iv) = ([0; IV_BYTES], [0; IV_BYTES]);
        // The message's vector comes first, though its header is encrypted first.
        iv.copy_from_slice(&ivs[..IV_BYTES]);
        header_iv.copy_from_slice(&ivs[IV_BYTES..]);
        ChainStep {
            next: Self(next),
            message: MessageKey { key, iv },
            header_iv,
        }
    }
}

/// Encrypts the headers of one chain.
#[derive(ZeroizeOnDrop)]
pub(crate) struct HeaderKey(pub(crate) [u8; KEY_BYTES]);

impl HeaderKey {
    /// A second copy, for the keys of late messages: they outlive the chain.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0)
    }

    pub(crate) fn seal(
        &self,
        iv: &[u8; IV_BYTES],
        ad: &[u8],
        header: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], CryptoError> {
        GcmKey::new(&self.0).seal_in_place(iv, ad, header)
    }

    /// The padded header, if this is its key.
    pub(crate) fn open(
        &self,
        iv: &[u8; IV_BYTES],
        ad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_BYTES],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let mut header = Zeroizing::new(sealed.to_vec());
        GcmKey::new(&self.0)
            .open_in_place(iv, ad, &mut header, tag)
            .ok()?;
        Some(header)
    }
}

/// Encrypts one message, once.
#[derive(ZeroizeOnDrop)]
pub(crate) struct MessageKey {
    pub(crate) key: [u8; KEY_BYTES],
    pub(crate) iv: [u8; IV_BYTES],
}

impl MessageKey {
    pub(crate) fn seal(
        &self,
        ad: &[u8],
        padded: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], CryptoError> {
        GcmKey::new(&self.key).seal_in_place(&self.iv, ad, padded)
    }

    /// The plaintext without padding.
    pub(crate) fn open(
        &self,
        ad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        let mut plaintext = Zeroizing::new(sealed.to_vec());
        GcmKey::new(&self.key).open_in_place(&self.iv, ad, &mut plaintext, tag)?;
        let length = pad::unpad(&plaintext)?.len();
        plaintext.copy_within(pad::OVERHEAD_BYTES..pad::OVERHEAD_BYTES + length, 0);
        plaintext.truncate(length);
        Ok(plaintext)
    }
}
