//! The scalar field of BLS12-381: integers modulo the group order r.
//!
//! blst offers this field only as raw functions, so `crypto-bigint` computes in it, in constant
//! time. [`Scalar`] is for public values, [`SecretScalar`] for shares and coefficients.

use core::cmp::Ordering;

use crypto_bigint::{
    Odd, U256, const_monty_params,
    modular::{ConstMontyForm, ConstMontyParams},
};
use junto_crypto::hash::sha512_of;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of an encoded scalar, big endian.
pub(crate) const SCALAR_BYTES: usize = 32;

const ORDER_HEX: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";

const_monty_params!(
    Order,
    U256,
    "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001",
    "The order r of G1, G2 and GT."
);

type Residue = ConstMontyForm<Order, { Order::LIMBS }>;

const ORDER: Odd<U256> = Odd::<U256>::from_be_hex(ORDER_HEX);

/// A public scalar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scalar(Residue);

impl Scalar {
    #[cfg(test)]
    pub(crate) const ZERO: Self = Self(Residue::ZERO);
    pub(crate) const ONE: Self = Self(Residue::ONE);

    pub(crate) fn from_u64(value: u64) -> Self {
        Self(Residue::new(&U256::from_u64(value)))
    }

    /// An integer modulo r.
    pub(crate) fn from_integer(integer: &U256) -> Self {
        Self(Residue::new(integer))
    }

    /// The integer below r.
    pub(crate) fn integer(self) -> U256 {
        self.0.retrieve()
    }

    /// The one encoding of a scalar: 32 bytes, big endian, below r.
    pub(crate) fn from_bytes(bytes: &[u8; SCALAR_BYTES]) -> Option<Self> {
        let integer = U256::from_be_slice(bytes);
        (integer.cmp_vartime(ORDER.as_ref()) == Ordering::Less)
            .then(|| Self(Residue::new(&integer)))
    }

    pub(crate) fn to_bytes(self) -> [u8; SCALAR_BYTES] {
        be_bytes(&self.0)
    }

    /// SHA-512 of the parts reduced modulo r; the bias is below 2^-256.
    pub(crate) fn hash(parts: &[&[u8]]) -> Self {
        Self(reduce(&sha512_of(parts)))
    }

    #[cfg(test)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    pub(crate) fn mul(self, other: Self) -> Self {
        Self(self.0 * other.0)
    }

    pub(crate) fn neg(self) -> Self {
        Self(-self.0)
    }

    /// The inverse; zero has none. Not constant time.
    pub(crate) fn invert(self) -> Option<Self> {
        self.0.invert_vartime().into_option().map(Self)
    }
}

/// A scalar nobody else may learn. Wiped when dropped, never shown, never compared.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct SecretScalar(Residue);

impl SecretScalar {
    pub(crate) fn zero() -> Self {
        Self(Residue::ZERO)
    }

    /// As [`Scalar::from_bytes`], without a branch on the value except its validity.
    pub(crate) fn from_bytes(bytes: &[u8; SCALAR_BYTES]) -> Option<Self> {
        let mut integer = U256::from_be_slice(bytes);
        let valid: bool = subtle::ConstantTimeLess::ct_lt(&integer, ORDER.as_ref()).into();
        let scalar = valid.then(|| Self(Residue::new(&integer)));
        integer.zeroize();
        scalar
    }

    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; SCALAR_BYTES]> {
        Zeroizing::new(be_bytes(&self.0))
    }

    /// SHA-512 of the parts reduced modulo r.
    pub(crate) fn hash(parts: &[&[u8]]) -> Self {
        let mut digest = sha512_of(parts);
        let scalar = Self(reduce(&digest));
        digest.zeroize();
        scalar
    }

    /// A second copy, for the one place that needs the old share twice.
    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0)
    }

    /// self ← self · factor + addend: one step of Horner's rule.
    pub(crate) fn mul_add_assign(&mut self, factor: Scalar, addend: &Self) {
        self.0 = self.0 * factor.0 + addend.0;
    }

    /// self ← self + factor · other.
    pub(crate) fn add_scaled(&mut self, factor: Scalar, other: &Self) {
        self.0 += factor.0 * other.0;
    }

    /// self + factor · other, which the caller is about to publish (a Schnorr response).
    pub(crate) fn response(&self, factor: Scalar, other: &Self) -> Scalar {
        Scalar(self.0 + factor.0 * other.0)
    }
}

fn be_bytes(residue: &Residue) -> [u8; SCALAR_BYTES] {
    let mut bytes = [0; SCALAR_BYTES];
    let mut integer = residue.retrieve();
    bytes.copy_from_slice(integer.to_be_bytes().as_ref());
    integer.zeroize();
    bytes
}

/// A 512-bit big-endian integer modulo r: high · 2^256 + low.
fn reduce(wide: &[u8; 64]) -> Residue {
    let high = Residue::new(&U256::from_be_slice(&wide[..32]));
    let low = Residue::new(&U256::from_be_slice(&wide[32..]));
    // 2^256 mod r is 1 in Montgomery form read as an integer.
    let shift = Residue::new(Residue::ONE.as_montgomery());
    high * shift + low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_bytes() -> [u8; 32] {
        hex::decode(ORDER_HEX).unwrap().try_into().unwrap()
    }

    #[test]
    fn one_encoding_per_scalar() {
        let mut bytes = order_bytes();
        assert!(Scalar::from_bytes(&bytes).is_none());
        assert!(SecretScalar::from_bytes(&bytes).is_none());
        bytes[31] -= 1;
        assert_eq!(Scalar::from_bytes(&bytes), Some(Scalar::ONE.neg()));
        assert_eq!(Scalar::ONE.neg().to_bytes(), bytes);
        assert_eq!(*SecretScalar::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        assert!(Scalar::from_bytes(&[0xff; 32]).is_none());
    }

    #[test]
    fn wide_reduction_agrees_with_arithmetic() {
        let two_to_256 = (0..256).fold(Scalar::ONE, |s, _| s.add(s));
        let mut wide = [0; 64];
        wide[31] = 5;
        wide[63] = 7;
        let expected = two_to_256.mul(Scalar::from_u64(5)).add(Scalar::from_u64(7));
        assert_eq!(Scalar(reduce(&wide)), expected);
        // All ones: 2^512 - 1.
        let all_ones = two_to_256.mul(two_to_256).add(Scalar::ONE.neg());
        assert_eq!(Scalar(reduce(&[0xff; 64])), all_ones);
    }

    #[test]
    fn inverses() {
        assert!(Scalar::ZERO.invert().is_none());
        for value in 1..=64 {
            let scalar = Scalar::from_u64(value);
            assert_eq!(scalar.mul(scalar.invert().unwrap()), Scalar::ONE);
        }
    }

    #[test]
    fn secret_and_public_arithmetic_agree() {
        let (a, b, x) = (
            Scalar::hash(&[b"a"]),
            Scalar::hash(&[b"b"]),
            Scalar::hash(&[b"x"]),
        );
        let (mut s, t) = (SecretScalar::hash(&[b"a"]), SecretScalar::hash(&[b"b"]));
        assert_eq!(s.response(x, &t), a.add(x.mul(b)));
        s.mul_add_assign(x, &t);
        assert_eq!(*s.to_bytes(), a.mul(x).add(b).to_bytes());
        s.add_scaled(x, &t);
        assert_eq!(*s.to_bytes(), a.mul(x).add(b).add(x.mul(b)).to_bytes());
    }
}
