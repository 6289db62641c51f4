//! Randomness of a run: every choice comes from the seed.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use junto_crypto::hash::sha256_of;

/// The number that decides everything in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed(pub u64);

impl core::fmt::Display for Seed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl Seed {
    /// A generator of its own for each purpose, so that one more key made by a party does not
    /// change what the network does.
    #[must_use]
    pub fn stream(self, purpose: &str) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(sha256_of(&[
            b"junto-sim/1",
            &self.0.to_be_bytes(),
            purpose.as_bytes(),
        ]))
    }

    /// [`Seed::stream`] for choices.
    #[must_use]
    pub fn dice(self, purpose: &str) -> Dice {
        Dice(self.stream(purpose))
    }
}

/// Makes choices.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// A number below `bound`; 0 if that is 0. The bias of the remainder does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `permille` times in a thousand. Always draws, so that switching a fault off does not
    /// shift the choices behind it.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// A position in something of `len` elements.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }
}
