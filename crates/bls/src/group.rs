//! Points of G1 and G2 over blst's safe types.
//!
//! blst has the full group arithmetic (sums, differences, multi-scalar multiplication) on its
//! *public key* types: those of `min_pk` lie in G1, those of `min_sig` in G2. A signature becomes
//! a G2 point by a copy ([`g2`], [`signature`]).

use blst::{MultiPoint, blst_p2_affine, min_pk, min_sig};
use zeroize::Zeroize;

use crate::scalar::{SCALAR_BYTES, Scalar, SecretScalar};

/// Bytes of an encoded G1 point (compressed).
pub(crate) const ELEMENT_BYTES: usize = 48;

/// A point of G1.
pub(crate) type G1 = min_pk::PublicKey;
/// A point of G2.
pub(crate) type G2 = min_sig::PublicKey;

/// The group arithmetic that interpolation and commitments need. Only for public points: not
/// constant time.
pub(crate) trait Point: Copy + PartialEq + Default {
    /// A projective point of the same group.
    type Sum: Copy;

    fn lift(&self) -> Self::Sum;
    fn lower(sum: &Self::Sum) -> Self;
    fn add_point(sum: &mut Self::Sum, point: &Self);
    fn add_sum(sum: &mut Self::Sum, other: &Self::Sum);
    fn sub_sum(sum: &mut Self::Sum, other: &Self::Sum);
    /// Σ scalarᵢ · pointᵢ over little-endian scalars of `width` bytes each; zero for no points.
    fn multiply(points: &[Self], scalars: &[u8], width: usize) -> Self::Sum;

    /// The point at infinity, which blst writes as all zeros.
    fn zero() -> Self::Sum {
        Self::default().lift()
    }

    fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    fn double(sum: &mut Self::Sum) {
        let copy = *sum;
        Self::add_sum(sum, &copy);
    }

    /// factor · sum.
    fn scale(sum: &Self::Sum, factor: Scalar) -> Self::Sum {
        Self::multiply(&[Self::lower(sum)], &little_endian(factor), SCALAR_BYTES)
    }
}

macro_rules! point {
    ($variant:ident) => {
        impl Point for $variant::PublicKey {
            type Sum = $variant::AggregatePublicKey;

            fn lift(&self) -> Self::Sum {
                Self::Sum::from_public_key(self)
            }

            fn lower(sum: &Self::Sum) -> Self {
                sum.to_public_key()
            }

            fn add_point(sum: &mut Self::Sum, point: &Self) {
                // Fails only in a check of the point, which is not asked for.
                let _ = sum.add_public_key(point, false);
            }

            fn add_sum(sum: &mut Self::Sum, other: &Self::Sum) {
                sum.add_aggregate(other);
            }

            fn sub_sum(sum: &mut Self::Sum, other: &Self::Sum) {
                sum.sub_aggregate(other);
            }

            fn multiply(points: &[Self], scalars: &[u8], width: usize) -> Self::Sum {
                // blst panics on no points and on missing scalars.
                if points.is_empty() || width == 0 || scalars.len() < points.len() * width {
                    return Self::zero();
                }
                points.mult(scalars, width * 8)
            }
        }
    };
}

point!(min_pk);
point!(min_sig);

/// Reads a G1 point: 48 bytes, compressed, canonical, of order r, not infinity.
pub(crate) fn decode_g1(bytes: &[u8]) -> Option<G1> {
    if bytes.len() != ELEMENT_BYTES {
        return None;
    }
    G1::key_validate(bytes).ok()
}

/// scalar · generator of G1, in constant time. Zero gives the point at infinity.
pub(crate) fn generate(scalar: &SecretScalar) -> G1 {
    let bytes = scalar.to_bytes();
    // The one refused value is zero: scalars are always below r.
    min_pk::SecretKey::from_bytes(bytes.as_ref())
        .map_or_else(|_| G1::default(), |key| key.sk_to_pk())
}

/// scalar · generator of G1 for a public scalar.
pub(crate) fn generate_public(scalar: Scalar) -> G1 {
    let mut bytes = scalar.to_bytes();
    let point =
        min_pk::SecretKey::from_bytes(&bytes).map_or_else(|_| G1::default(), |key| key.sk_to_pk());
    bytes.zeroize();
    point
}

/// Σ xᵏ · pointₖ by Horner's rule: x is an index of at most seven bits, so each step costs a
/// dozen additions and no multi-scalar multiplication can beat it.
pub(crate) fn evaluate<P: Point>(points: &[P], x: u8) -> P::Sum {
    let mut sum = P::zero();
    for point in points.iter().rev() {
        sum = small_multiple::<P>(&sum, x);
        P::add_point(&mut sum, point);
    }
    sum
}

/// factor · sum for a small factor, by doubling and adding.
fn small_multiple<P: Point>(sum: &P::Sum, factor: u8) -> P::Sum {
    let mut result = P::zero();
    for bit in (0..8 - factor.leading_zeros()).rev() {
        P::double(&mut result);
        if factor >> bit & 1 == 1 {
            P::add_sum(&mut result, sum);
        }
    }
    result
}

pub(crate) fn little_endian(scalar: Scalar) -> [u8; SCALAR_BYTES] {
    let mut bytes = scalar.to_bytes();
    bytes.reverse();
    bytes
}

/// The point of a signature.
pub(crate) fn g2(signature: &min_pk::Signature) -> G2 {
    G2::from(blst_p2_affine::from(*signature))
}

/// The signature of a point.
pub(crate) fn signature(point: &G2) -> min_pk::Signature {
    min_pk::Signature::from(blst_p2_affine::from(*point))
}

/// Σ scalarᵢ · pointᵢ, as the tests' plain reference.
#[cfg(test)]
pub(crate) fn linear<P: Point>(points: &[P], scalars: &[Scalar]) -> P::Sum {
    let bytes: Vec<u8> = scalars
        .iter()
        .flat_map(|scalar| little_endian(*scalar))
        .collect();
    P::multiply(points, &bytes, SCALAR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(name: &[u8]) -> Scalar {
        Scalar::hash(&[name])
    }

    #[test]
    fn generator_multiples_are_linear() {
        let (a, b) = (scalar(b"a"), scalar(b"b"));
        let mut sum = generate_public(a).lift();
        G1::add_point(&mut sum, &generate_public(b));
        assert_eq!(G1::lower(&sum), generate_public(a.add(b)));
        let scaled = G1::scale(&generate_public(a).lift(), b);
        assert_eq!(G1::lower(&scaled), generate_public(a.mul(b)));
        assert_eq!(generate(&SecretScalar::hash(&[b"a"])), generate_public(a));
    }

    #[test]
    fn infinity_is_the_neutral_element_everywhere() {
        let zero = generate(&SecretScalar::zero());
        assert!(zero.is_zero());
        let point = generate_public(scalar(b"a"));
        let mut sum = point.lift();
        G1::add_point(&mut sum, &zero);
        assert_eq!(G1::lower(&sum), point);
        let copy = sum;
        G1::sub_sum(&mut sum, &copy);
        assert!(G1::lower(&sum).is_zero());
        assert!(G1::lower(&G1::scale(&G1::zero(), scalar(b"a"))).is_zero());
        let mixed = linear(
            &[zero, point, zero],
            &[scalar(b"x"), scalar(b"y"), scalar(b"z")],
        );
        assert_eq!(
            G1::lower(&mixed),
            generate_public(scalar(b"a").mul(scalar(b"y")))
        );
        assert!(G1::lower(&G1::multiply(&[], &[], 32)).is_zero());
    }

    #[test]
    fn evaluation_agrees_with_scalars() {
        for degree in [0u8, 1, 2, 5, 33, 63] {
            let coefficients: Vec<Scalar> = (0..=degree).map(|k| scalar(&[degree, k])).collect();
            let points: Vec<G1> = coefficients.iter().map(|c| generate_public(*c)).collect();
            for x in [0u8, 1, 2, 3, 31, 64] {
                let at = Scalar::from_u64(u64::from(x));
                let value = coefficients
                    .iter()
                    .rev()
                    .fold(Scalar::ZERO, |sum, c| sum.mul(at).add(*c));
                assert_eq!(G1::lower(&evaluate(&points, x)), generate_public(value));
            }
        }
    }

    #[test]
    fn decoding_is_strict() {
        let point = generate_public(scalar(b"a"));
        let bytes = point.compress();
        assert_eq!(decode_g1(&bytes), Some(point));
        assert!(decode_g1(&bytes[..47]).is_none());
        assert!(decode_g1(&point.serialize()).is_none(), "uncompressed");
        let mut infinity = [0; 48];
        infinity[0] = 0xc0;
        assert!(decode_g1(&infinity).is_none());
        assert!(decode_g1(&[0; 48]).is_none());
        assert!(decode_g1(&OFF_SUBGROUP).is_none());
        assert!(G1::from_bytes(&OFF_SUBGROUP).is_ok(), "it is on the curve");
    }

    /// x = 4: on the curve (y² = 68), outside the subgroup.
    const OFF_SUBGROUP: [u8; 48] = {
        let mut bytes = [0; 48];
        bytes[0] = 0x80;
        bytes[47] = 4;
        bytes
    };
}
