//! Interpolation at zero, in integers as far as possible.
//!
//! The coefficient of index i among the indices S is λᵢ = ∏ⱼ j/(j−i) over j ∈ S∖{i}. Indices are
//! at most [`INDEX_MAX`], so every λᵢ is a fraction of small primes, and λᵢ = c·Nᵢ with one common
//! rational c and small signed integers Nᵢ. Multiplying points by Nᵢ and the sum once by c costs a
//! fraction of multiplying every point by λᵢ mod r: for the indices {1,2,3} the Nᵢ are 3, −3, 1.

use crypto_bigint::U256;

use crate::{group::Point, scalar::Scalar};

/// The highest share index.
pub(crate) const INDEX_MAX: u8 = 64;

const PRIMES: [u8; 18] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61,
];

/// Exponents of [`PRIMES`] in each integer up to [`INDEX_MAX`].
const FACTORS: [[i16; PRIMES.len()]; INDEX_MAX as usize + 1] = factor_table();

const fn factor_table() -> [[i16; PRIMES.len()]; INDEX_MAX as usize + 1] {
    let mut table = [[0; PRIMES.len()]; INDEX_MAX as usize + 1];
    let mut n = 2;
    while n <= INDEX_MAX as usize {
        let mut rest = n;
        let mut p = 0;
        while p < PRIMES.len() {
            while rest.is_multiple_of(PRIMES[p] as usize) {
                rest /= PRIMES[p] as usize;
                table[n][p] += 1;
            }
            p += 1;
        }
        n += 1;
    }
    table
}

/// The largest integer coefficient summed by doubling and adding, in bits; beyond it blst's
/// multi-scalar multiplication is faster.
const CHAIN_BITS: u32 = 24;

/// The widest integer coefficient that still beats λᵢ mod r, in bits.
const INTEGER_BITS: u32 = 192;

/// How to take a sharing from its values at some indices to its value at zero.
#[derive(Debug)]
pub(crate) struct Interpolation {
    terms: Vec<Term>,
    /// c, unless it is one.
    factor: Option<Scalar>,
    bits: u32,
}

/// One signed integer coefficient.
#[derive(Debug)]
struct Term {
    negative: bool,
    magnitude: U256,
}

impl Interpolation {
    /// For distinct indices in 1..=[`INDEX_MAX`]; `None` otherwise.
    pub(crate) fn at_zero(indices: &[u8]) -> Option<Self> {
        let distinct = indices
            .iter()
            .enumerate()
            .all(|(k, i)| !indices[..k].contains(i));
        if indices.is_empty() || !distinct || indices.iter().any(|&i| i == 0 || i > INDEX_MAX) {
            return None;
        }
        let fractions: Vec<[i16; PRIMES.len()]> =
            indices.iter().map(|&i| fraction(i, indices)).collect();
        let mut common = fractions[0];
        for exponents in &fractions {
            for (least, exponent) in common.iter_mut().zip(exponents) {
                *least = (*least).min(*exponent);
            }
        }
        let terms: Vec<Term> = indices
            .iter()
            .zip(&fractions)
            .map(|(&i, exponents)| {
                Some(Term {
                    negative: indices.iter().filter(|&&j| j < i).count() % 2 == 1,
                    magnitude: product(exponents, &common)?,
                })
            })
            .collect::<Option<_>>()
            .unwrap_or_default();
        let bits = terms.iter().map(|term| term.magnitude.bits_vartime()).max();
        let factor = ratio(&common)?;
        Some(match bits {
            Some(bits) if bits <= INTEGER_BITS => Self {
                terms,
                factor: (factor != Scalar::ONE).then_some(factor),
                bits,
            },
            _ => Self {
                terms: reduced(indices, &fractions)?,
                factor: None,
                bits: 256,
            },
        })
    }

    /// The coefficients modulo r.
    pub(crate) fn coefficients(&self) -> Vec<Scalar> {
        let factor = self.factor.unwrap_or(Scalar::ONE);
        self.terms
            .iter()
            .map(|term| term.scalar().mul(factor))
            .collect()
    }

    /// The value at zero, from the values in the order of the indices.
    pub(crate) fn combine<P: Point>(&self, values: &[P]) -> P::Sum {
        let sum = if self.bits <= CHAIN_BITS {
            self.chain(values)
        } else {
            self.split(values)
        };
        match self.factor {
            Some(factor) => P::scale(&sum, factor),
            None => sum,
        }
    }

    /// Doubles once per bit and adds each value where its coefficient has a non-zero signed digit.
    fn chain<P: Point>(&self, values: &[P]) -> P::Sum {
        let digits: Vec<(u64, u64)> = self.terms.iter().map(Term::signed_digits).collect();
        let mut sum = P::zero();
        for bit in (0..=self.bits).rev() {
            P::double(&mut sum);
            for ((plus, minus), value) in digits.iter().zip(values) {
                if plus >> bit & 1 == 1 {
                    P::add_point(&mut sum, value);
                } else if minus >> bit & 1 == 1 {
                    P::sub_sum(&mut sum, &value.lift());
                }
            }
        }
        sum
    }

    /// The positive part minus the negative part, each by multi-scalar multiplication.
    fn split<P: Point>(&self, values: &[P]) -> P::Sum {
        let width = self.bits.div_ceil(8) as usize;
        let part = |negative: bool| {
            let (mut points, mut scalars) = (Vec::new(), Vec::new());
            for (term, value) in self.terms.iter().zip(values) {
                if term.negative == negative {
                    points.push(*value);
                    scalars.extend_from_slice(&term.magnitude.to_le_bytes().as_ref()[..width]);
                }
            }
            P::multiply(&points, &scalars, width)
        };
        let mut sum = part(false);
        P::sub_sum(&mut sum, &part(true));
        sum
    }
}

impl Term {
    fn scalar(&self) -> Scalar {
        let scalar = Scalar::from_integer(&self.magnitude);
        if self.negative { scalar.neg() } else { scalar }
    }

    /// The non-adjacent form of a coefficient below 2^[`CHAIN_BITS`], as (plus, minus) bit sets.
    fn signed_digits(&self) -> (u64, u64) {
        let low = self.magnitude.as_words()[0];
        // The classic identity: 3n and n differ exactly in the non-zero digits of the form.
        let triple = low.wrapping_mul(3);
        let (plus, minus) = ((triple & !low) >> 1, (low & !triple) >> 1);
        if self.negative {
            (minus, plus)
        } else {
            (plus, minus)
        }
    }
}

/// Prime exponents of |λᵢ|.
fn fraction(i: u8, indices: &[u8]) -> [i16; PRIMES.len()] {
    let mut exponents = [0; PRIMES.len()];
    for &j in indices.iter().filter(|&&j| j != i) {
        let (above, below) = (
            &FACTORS[usize::from(j)],
            &FACTORS[usize::from(j.abs_diff(i))],
        );
        for (exponent, (above, below)) in exponents.iter_mut().zip(above.iter().zip(below)) {
            *exponent += above - below;
        }
    }
    exponents
}

/// ∏ p^(exponent − common) as an integer, unless it overflows 256 bits.
fn product(exponents: &[i16], common: &[i16]) -> Option<U256> {
    let mut value = U256::ONE;
    for ((&prime, exponent), least) in PRIMES.iter().zip(exponents).zip(common) {
        for _ in *least..*exponent {
            let next = value.checked_mul(&U256::from_u8(prime));
            value = next.into_option()?;
        }
    }
    Some(value)
}

/// ∏ p^exponent modulo r.
fn ratio(exponents: &[i16]) -> Option<Scalar> {
    let (mut above, mut below) = (Scalar::ONE, Scalar::ONE);
    for (&prime, &exponent) in PRIMES.iter().zip(exponents) {
        let prime = Scalar::from_u64(u64::from(prime));
        for _ in 0..exponent.unsigned_abs() {
            if exponent > 0 {
                above = above.mul(prime);
            } else {
                below = below.mul(prime);
            }
        }
    }
    Some(if below == Scalar::ONE {
        above
    } else {
        above.mul(below.invert()?)
    })
}

/// The plain coefficients |λᵢ| mod r, for index sets whose integers grow too wide.
fn reduced(indices: &[u8], fractions: &[[i16; PRIMES.len()]]) -> Option<Vec<Term>> {
    indices
        .iter()
        .zip(fractions)
        .map(|(&i, exponents)| {
            Some(Term {
                negative: indices.iter().filter(|&&j| j < i).count() % 2 == 1,
                magnitude: ratio(exponents)?.integer(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::group::{G1, generate_public, linear};

    /// λᵢ straight from the definition, in the field.
    fn textbook(indices: &[u8]) -> Vec<Scalar> {
        indices
            .iter()
            .map(|&i| {
                indices
                    .iter()
                    .filter(|&&j| j != i)
                    .fold(Scalar::ONE, |product, &j| {
                        let (i, j) = (Scalar::from_u64(i.into()), Scalar::from_u64(j.into()));
                        product.mul(j).mul(j.add(i.neg()).invert().unwrap())
                    })
            })
            .collect()
    }

    fn check(indices: &[u8]) {
        let interpolation = Interpolation::at_zero(indices).unwrap();
        let expected = textbook(indices);
        assert_eq!(interpolation.coefficients(), expected);
        // The coefficients of a partition of unity.
        assert_eq!(
            expected.iter().fold(Scalar::ZERO, |s, c| s.add(*c)),
            Scalar::ONE
        );
        let secrets: Vec<Scalar> = indices
            .iter()
            .map(|&i| Scalar::hash(&[b"p", &[i]]))
            .collect();
        let points: Vec<G1> = secrets.iter().map(|s| generate_public(*s)).collect();
        let value = secrets
            .iter()
            .zip(&expected)
            .fold(Scalar::ZERO, |s, (x, c)| s.add(x.mul(*c)));
        assert_eq!(
            G1::lower(&interpolation.combine(&points)),
            generate_public(value)
        );
        assert_eq!(
            G1::lower(&linear(&points, &expected)),
            generate_public(value)
        );
        // A constant sharing interpolates to its constant, whatever the indices.
        let constant = vec![points[0]; points.len()];
        assert_eq!(G1::lower(&interpolation.combine(&constant)), points[0]);
    }

    #[test]
    fn known_coefficients() {
        let of = |indices: &[u8]| Interpolation::at_zero(indices).unwrap();
        let three = of(&[1, 2, 3]);
        assert_eq!((three.bits, three.factor.is_none()), (2, true));
        let scalar = Scalar::from_u64;
        assert_eq!(
            three.coefficients(),
            [scalar(3), scalar(3).neg(), scalar(1)]
        );
        // 8/3, −2, 1/3.
        let third = scalar(3).invert().unwrap();
        let expected = [scalar(8).mul(third), scalar(2).neg(), third];
        assert_eq!(of(&[1, 2, 4]).coefficients(), expected);
    }

    #[test]
    fn small_sets() {
        for n in 2..=6u8 {
            for set in 1u8..1 << n {
                let indices: Vec<u8> = (1..=n).filter(|i| set >> (i - 1) & 1 == 1).collect();
                check(&indices);
            }
        }
    }

    #[test]
    fn large_and_unordered_sets() {
        check(&(1..=34).collect::<Vec<u8>>());
        check(&(1..=64).collect::<Vec<u8>>());
        check(&(31..=64).collect::<Vec<u8>>());
        check(&(1..=64).step_by(2).map(|i| 65 - i).collect::<Vec<u8>>());
        check(&[64, 1, 33, 2, 63]);
    }

    #[test]
    fn refuses_bad_indices() {
        for bad in [&[][..], &[0], &[65], &[1, 1], &[3, 2, 3]] {
            assert!(Interpolation::at_zero(bad).is_none());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_set(mut indices in proptest::collection::btree_set(1u8..=64, 1..40), seed: u64) {
            // Any order, not only ascending.
            let mut list: Vec<u8> = indices.iter().copied().collect();
            list.sort_by_key(|i| u64::from(*i).wrapping_mul(seed | 1));
            check(&list);
            indices.clear();
        }
    }
}
