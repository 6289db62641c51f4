//! Shamir's sharing over the scalars of ristretto255: any t shares give the secret, in the exponent too.

use curve25519_dalek::{ristretto::RistrettoPoint, scalar::Scalar};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A random scalar; the bias is below 2^-256.
pub(crate) fn random_scalar(rng: &mut impl CryptoRng) -> Zeroizing<Scalar> {
    let mut wide = Zeroizing::new([0; 64]);
    rng.fill_bytes(&mut wide[..]);
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide))
}

/// Shares of `secret` for the places 1 to `shares`, `threshold` of which give it back.
pub(crate) fn share(
    secret: &Scalar,
    threshold: usize,
    shares: usize,
    rng: &mut impl CryptoRng,
) -> Vec<Zeroizing<Scalar>> {
    let rest: Vec<_> = (1..threshold).map(|_| random_scalar(rng)).collect();
    (1..=shares as u64)
        .map(|place| {
            let place = Scalar::from(place);
            let high = rest
                .iter()
                .rev()
                .fold(Zeroizing::new(Scalar::ZERO), |sum, coefficient| {
                    Zeroizing::new((*sum + **coefficient) * place)
                });
            Zeroizing::new(*high + secret)
        })
        .collect()
}

/// The factors by which values at these places, all different and none zero, give the value at zero.
fn factors(places: &[u8]) -> Vec<Scalar> {
    places
        .iter()
        .map(|mine| {
            let (mut above, mut below) = (Scalar::ONE, Scalar::ONE);
            for other in places.iter().filter(|other| *other != mine) {
                above *= Scalar::from(*other);
                below *= Scalar::from(*other) - Scalar::from(*mine);
            }
            above * below.invert()
        })
        .collect()
}

/// The secret of t shares and their places.
pub(crate) fn combine(shares: &[(u8, &Scalar)]) -> Zeroizing<Scalar> {
    let places: Vec<_> = shares.iter().map(|(place, _)| *place).collect();
    let sum = shares
        .iter()
        .zip(factors(&places))
        .map(|((_, share), factor)| factor * *share)
        .sum();
    Zeroizing::new(sum)
}

/// The secret's multiple of a point, from the shares' multiples of it.
pub(crate) fn combine_points(points: &[(u8, RistrettoPoint)]) -> RistrettoPoint {
    let places: Vec<_> = points.iter().map(|(place, _)| *place).collect();
    points
        .iter()
        .zip(factors(&places))
        .map(|((_, point), factor)| factor * point)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    proptest! {
        #[test]
        fn any_t_shares_and_no_fewer(seed: [u8; 32], n in 1..=8_usize, t in 1..=8_usize, skip in 0..8_usize) {
            let t = t.min(n);
            let mut rng = ChaCha20Rng::from_seed(seed);
            let secret = random_scalar(&mut rng);
            let shares = share(&secret, t, n, &mut rng);
            let mut chosen: Vec<(u8, &Scalar)> =
                (1..).zip(&shares).map(|(place, share)| (place, &**share)).collect();
            chosen.rotate_left(skip % n);
            chosen.truncate(t);
            prop_assert_eq!(*combine(&chosen), *secret);
            let points: Vec<_> = chosen
                .iter()
                .map(|(place, share)| (*place, RistrettoPoint::mul_base(share)))
                .collect();
            prop_assert_eq!(combine_points(&points), RistrettoPoint::mul_base(&secret));
            if t > 1 {
                prop_assert_ne!(*combine(&chosen[1..]), *secret);
            }
        }
    }
}
