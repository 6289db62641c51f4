//! Where randomness comes from.

use junto_crypto::Zeroizing;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// A generator seeded by the system, whose seed stays nowhere else.
pub(crate) fn generator() -> Result<ChaCha20Rng, getrandom::Error> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice())?;
    Ok(ChaCha20Rng::from_seed(*seed))
}
