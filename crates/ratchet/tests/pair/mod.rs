//! Two sides of a conversation, each with a store that is written as an agent would.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use junto_ratchet::{
    MakerKeys, Options, Ratchet, RatchetError, SkippedDelta, SkippedId, SkippedKey, VersionRange,
    join,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

/// Bytes to which test messages are padded.
pub(crate) const PADDED: usize = 64;

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

/// Options without key encapsulation.
pub(crate) fn classical() -> Options {
    Options {
        pq: false,
        ..Options::default()
    }
}

/// Options with key encapsulation.
pub(crate) fn hybrid() -> Options {
    Options {
        pq: true,
        ..Options::default()
    }
}

/// A ratchet with what its deltas add up to.
pub(crate) struct Side {
    pub(crate) ratchet: Ratchet,
    keys: BTreeMap<SkippedId, Vec<u8>>,
    rng: ChaCha20Rng,
}

/// A side as it lies on disk.
#[derive(Clone)]
pub(crate) struct Stored {
    state: Vec<u8>,
    keys: BTreeMap<SkippedId, Vec<u8>>,
}

impl Stored {
    pub(crate) fn open(&self) -> Side {
        let keys = self
            .keys
            .iter()
            .map(|(id, bytes)| SkippedKey::decode(*id, bytes).unwrap());
        Side {
            ratchet: Ratchet::decode(&self.state, keys).unwrap(),
            keys: self.keys.clone(),
            rng: rng(99),
        }
    }
}

impl Side {
    pub(crate) fn new(ratchet: Ratchet, seed: u64) -> Self {
        Self {
            ratchet,
            keys: BTreeMap::new(),
            rng: rng(seed),
        }
    }

    pub(crate) fn receive(&mut self, message: &[u8]) -> Result<Vec<u8>, RatchetError> {
        let decrypted = self.ratchet.decrypt(message, &mut self.rng)?;
        self.apply(decrypted.delta);
        assert_eq!(self.keys.len(), self.ratchet.skipped_count());
        Ok(decrypted.plaintext.to_vec())
    }

    fn apply(&mut self, delta: SkippedDelta) {
        for key in delta.added {
            assert!(self.keys.insert(key.id(), key.encode().to_vec()).is_none());
        }
        for id in delta.removed {
            assert!(self.keys.remove(&id).is_some());
        }
    }

    pub(crate) fn store(&self) -> Stored {
        Stored {
            state: self.ratchet.encode().to_vec(),
            keys: self.keys.clone(),
        }
    }
}

/// Maker and joiner.
pub(crate) struct Pair {
    pub(crate) maker: Side,
    pub(crate) joiner: Side,
}

impl Pair {
    pub(crate) fn new(maker: Options, joiner: Options, seed: u64) -> Self {
        Self::with_versions(maker, joiner, VersionRange::OURS, seed)
    }

    pub(crate) fn with_versions(
        maker: Options,
        joiner: Options,
        versions: VersionRange,
        seed: u64,
    ) -> Self {
        let mut rng = rng(seed);
        let keys = MakerKeys::generate(maker.pq, &mut rng);
        let (joined, params) = join(&keys.offer(versions), joiner, &mut rng).unwrap();
        let made = keys.accept(&params, maker).unwrap();
        Self {
            maker: Side::new(made, seed + 1),
            joiner: Side::new(joined, seed + 2),
        }
    }

    pub(crate) fn joiner_says(&mut self, text: &[u8]) {
        let message = self.joiner.ratchet.encrypt(text, PADDED).unwrap();
        assert_eq!(self.maker.receive(&message).unwrap(), text);
    }

    pub(crate) fn maker_says(&mut self, text: &[u8]) {
        let message = self.maker.ratchet.encrypt(text, PADDED).unwrap();
        assert_eq!(self.joiner.receive(&message).unwrap(), text);
    }
}
