//! Signatures: verify, sign in parts, combine.
//!
//! Ciphersuite `BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_` of draft-irtf-cfrg-bls-signature-06:
//! public keys in G1 (48 bytes), signatures in G2 (96 bytes). A combined signature is an ordinary
//! BLS signature; nothing shows that several holders made it.

use core::fmt;
use std::collections::BTreeMap;

use blst::{BLST_ERROR, min_pk};
use junto_crypto::hash::{sha256, sha256_of};

use crate::{
    encoding::DecodeError,
    group::{G1, G2, Point, g2, signature},
    key::{KeyPublic, KeyShare, PublicKey},
    lagrange::Interpolation,
    party::ShareIndex,
};

/// The domain of signatures, and the name of the ciphersuite.
pub const CIPHERSUITE: &str = "BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_";

/// Bytes of an encoded [`Signature`] and [`PartialSignature`].
pub const SIGNATURE_BYTES: usize = 96;

/// Bytes of a random weight in a batch check: a wrong batch passes with probability 2^-128.
const WEIGHT_BYTES: usize = 16;

/// The part of `share`'s holder in the signature of `message`. One message, no round trip.
#[must_use]
pub fn partial_sign(share: &KeyShare, message: &[u8]) -> PartialSignature {
    let bytes = share.secret().to_bytes();
    // The one refused value is zero, a share of probability 2^-255; its part is infinity.
    PartialSignature(min_pk::SecretKey::from_bytes(bytes.as_ref()).map_or_else(
        |_| signature(&G2::default()),
        |key| key.sign(message, CIPHERSUITE.as_bytes(), &[]),
    ))
}

/// The pairing check alone, with the group check of the signature if asked for.
fn holds(key: &G1, message: &[u8], point: &min_pk::Signature, check_group: bool) -> bool {
    point.verify(
        check_group,
        message,
        CIPHERSUITE.as_bytes(),
        &[],
        key,
        false,
    ) == BLST_ERROR::BLST_SUCCESS
}

/// A signature: a point of G2 of order r that is not infinity.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(min_pk::Signature);

impl Signature {
    /// Reads a compressed signature.
    ///
    /// # Errors
    /// [`DecodeError`] unless `bytes` are the 96 bytes of a compressed point of order r that is not
    /// infinity.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let point = decode_g2(bytes)?;
        point.validate(true).map_err(|_| DecodeError)?;
        Ok(Self(point))
    }

    /// The compressed signature.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIGNATURE_BYTES] {
        self.0.compress()
    }
}

/// Whether `signature` is the signature of `message` under `key`.
#[must_use]
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    // Both points were checked when they were read.
    holds(&key.0, message, &signature.0, false)
}

/// One holder's part of a signature, not yet verified: combining verifies the result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PartialSignature(min_pk::Signature);

impl PartialSignature {
    /// Reads a compressed partial signature. The subgroup check is left to [`combine`], which does
    /// it once for the result and one by one only when that fails.
    ///
    /// # Errors
    /// [`DecodeError`] unless `bytes` are the 96 bytes of a compressed point of the curve that is
    /// not infinity.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_g2(bytes).map(Self)
    }

    /// The compressed partial signature.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SIGNATURE_BYTES] {
        self.0.compress()
    }

    /// Whether this is the part of holder `index`, with all checks.
    #[must_use]
    pub fn verify(&self, key: &KeyPublic, index: ShareIndex, message: &[u8]) -> bool {
        index.value() <= key.threshold().holders()
            && self.0.validate(true).is_ok()
            && holds(&key.public_share(index).0, message, &self.0, false)
    }
}

/// Length and curve; infinity refused.
fn decode_g2(bytes: &[u8]) -> Result<min_pk::Signature, DecodeError> {
    let point = min_pk::Signature::uncompress(bytes).map_err(|_| DecodeError)?;
    if g2(&point).is_zero() {
        Err(DecodeError)
    } else {
        Ok(point)
    }
}

/// What [`combine`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combined {
    /// The signature; it verifies under the key.
    pub signature: Signature,
    /// Holders whose part was wrong, ascending. Empty whenever the first attempt verified: parts
    /// that were not needed are not looked at.
    pub culprits: Vec<ShareIndex>,
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Fewer right parts than the threshold.
    #[error("{valid} valid parts of {required} needed")]
    TooFew {
        /// Parts that verified, or that were given if there were too few to try.
        valid: usize,
        /// Parts needed.
        required: usize,
        /// Holders whose part was wrong, ascending.
        culprits: Vec<ShareIndex>,
    },
    /// A part of a holder that the key does not have.
    #[error("the key has no {0}")]
    UnknownHolder(ShareIndex),
    /// Our defect: right parts gave a wrong signature.
    #[error("defect in interpolation")]
    Defect,
}

/// Makes the signature of `message` from at least t parts.
///
/// Combines the first t and verifies the result once. Only if that fails are the parts checked, in
/// batches with random weights, halving down to the culprits; the remaining ones still make the
/// signature if there are enough.
///
/// # Errors
/// [`CombineError::TooFew`] with the culprits if fewer than t parts are right.
pub fn combine(
    key: &KeyPublic,
    message: &[u8],
    parts: &BTreeMap<ShareIndex, PartialSignature>,
) -> Result<Combined, CombineError> {
    let required = usize::from(key.threshold().required());
    if let Some(unknown) = parts.keys().find(|i| i.value() > key.threshold().holders()) {
        return Err(CombineError::UnknownHolder(*unknown));
    }
    if parts.len() < required {
        return Err(CombineError::TooFew {
            valid: parts.len(),
            required,
            culprits: Vec::new(),
        });
    }
    let all: Vec<Part> = parts
        .iter()
        .map(|(index, part)| Part {
            index: *index,
            point: part.0,
        })
        .collect();
    if let Some(signature) = attempt(key, message, &all[..required])? {
        return Ok(Combined {
            signature,
            culprits: Vec::new(),
        });
    }
    let culprits = Search { key, message }.culprits(&all);
    let valid: Vec<Part> = all
        .into_iter()
        .filter(|part| !culprits.contains(&part.index))
        .collect();
    if valid.len() < required {
        return Err(CombineError::TooFew {
            valid: valid.len(),
            required,
            culprits,
        });
    }
    let signature = attempt(key, message, &valid[..required])?.ok_or(CombineError::Defect)?;
    Ok(Combined {
        signature,
        culprits,
    })
}

#[derive(Clone, Copy)]
struct Part {
    index: ShareIndex,
    point: min_pk::Signature,
}

/// Interpolates exactly t parts and verifies the result, group included.
fn attempt(
    key: &KeyPublic,
    message: &[u8],
    parts: &[Part],
) -> Result<Option<Signature>, CombineError> {
    let indices: Vec<u8> = parts.iter().map(|part| part.index.value()).collect();
    let points: Vec<G2> = parts.iter().map(|part| g2(&part.point)).collect();
    let interpolation = Interpolation::at_zero(&indices).ok_or(CombineError::Defect)?;
    let point = signature(&G2::lower(&interpolation.combine(&points)));
    let valid = holds(&key.public_key().0, message, &point, true);
    Ok(valid.then_some(Signature(point)))
}

/// The search for wrong parts.
struct Search<'a> {
    key: &'a KeyPublic,
    message: &'a [u8],
}

/// A part in the right group, ready for batch checks.
struct Suspect {
    index: ShareIndex,
    share: G1,
    point: G2,
}

impl Search<'_> {
    /// The holders of wrong parts, ascending if `parts` are.
    fn culprits(&self, parts: &[Part]) -> Vec<ShareIndex> {
        let mut culprits = Vec::new();
        let mut suspects = Vec::with_capacity(parts.len());
        for part in parts {
            // Weights hide nothing outside the prime-order group, so each is checked there first.
            if part.point.validate(true).is_ok() {
                let share = self.key.public_share(part.index).0;
                suspects.push(Suspect {
                    index: part.index,
                    share,
                    point: g2(&part.point),
                });
            } else {
                culprits.push(part.index);
            }
        }
        if !self.holds(&suspects) {
            self.bisect(&suspects, &mut culprits);
        }
        culprits.sort_unstable();
        culprits
    }

    /// Finds all wrong parts among `suspects`, which hold at least one.
    fn bisect(&self, suspects: &[Suspect], culprits: &mut Vec<ShareIndex>) {
        if let [culprit] = suspects {
            culprits.push(culprit.index);
            return;
        }
        let (left, right) = suspects.split_at(suspects.len() / 2);
        let left_wrong = !self.holds(left);
        if left_wrong {
            self.bisect(left, culprits);
        }
        // If the left half is right, the fault of the whole lies in the right half.
        if !left_wrong || !self.holds(right) {
            self.bisect(right, culprits);
        }
    }

    /// e(g, Σ wᵢσᵢ) = e(Σ wᵢPᵢ, H(m)) for weights that nobody can foresee: they are hashed from
    /// everything that they weigh.
    fn holds(&self, suspects: &[Suspect]) -> bool {
        match suspects {
            [] => return true,
            [one] => return holds(&one.share, self.message, &signature(&one.point), false),
            _ => {}
        }
        let weights = self.weights(suspects);
        let shares: Vec<G1> = suspects.iter().map(|suspect| suspect.share).collect();
        let points: Vec<G2> = suspects.iter().map(|suspect| suspect.point).collect();
        let share = G1::lower(&G1::multiply(&shares, &weights, WEIGHT_BYTES));
        let point = G2::lower(&G2::multiply(&points, &weights, WEIGHT_BYTES));
        holds(&share, self.message, &signature(&point), false)
    }

    fn weights(&self, suspects: &[Suspect]) -> Vec<u8> {
        let mut batch = Vec::with_capacity(suspects.len() * (1 + SIGNATURE_BYTES));
        for suspect in suspects {
            batch.push(suspect.index.value());
            batch.extend_from_slice(&signature(&suspect.point).compress());
        }
        let seed = sha256_of(&[
            b"junto-bls/1 batch",
            &self.key.digest(),
            &sha256(self.message),
            &batch,
        ]);
        suspects
            .iter()
            .flat_map(|suspect| {
                let hash = sha256_of(&[&seed, &[suspect.index.value()]]);
                hash.into_iter().take(WEIGHT_BYTES)
            })
            .collect()
    }
}

macro_rules! public_debug {
    ($type:ident) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let bytes = self.to_bytes();
                write!(f, concat!(stringify!($type), ":"))?;
                bytes[..8]
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

public_debug!(Signature);
public_debug!(PartialSignature);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Threshold,
        group::{generate, generate_public},
        scalar::{Scalar, SecretScalar},
    };

    /// A key with a known secret, shared t of n by a polynomial hashed from the secret.
    fn share(secret: &[u8; 32], t: u8, n: u8) -> Vec<KeyShare> {
        let polynomial: Vec<SecretScalar> =
            core::iter::once(SecretScalar::from_bytes(secret).unwrap())
                .chain((1..t).map(|k| SecretScalar::hash(&[secret, &[k]])))
                .collect();
        let commitments = polynomial.iter().map(generate).collect();
        let public = KeyPublic::new(0, Threshold::new(t, n).unwrap(), commitments).unwrap();
        let shares = public.threshold().indices().map(|index| {
            let x = Scalar::from_u64(index.value().into());
            let mut value = SecretScalar::zero();
            polynomial
                .iter()
                .rev()
                .for_each(|c| value.mul_add_assign(x, c));
            KeyShare::new(public.clone(), index, value).unwrap()
        });
        shares.collect()
    }

    #[test]
    fn shares_of_a_published_key_make_the_published_signature() {
        let known: serde_json::Value =
            serde_json::from_str(include_str!("../../../vectors/bls/ethereum.json")).unwrap();
        for case in known.as_array().unwrap() {
            let field = |name: &str| hex::decode(case[name].as_str().unwrap()).unwrap();
            let message = field("message");
            for (t, n, signers) in [
                (2, 3, &[2, 3][..]),
                (3, 5, &[1, 4, 5]),
                (7, 64, &[9, 2, 64, 31, 5, 8, 40]),
            ] {
                let shares = share(&field("secret").try_into().unwrap(), t, n);
                let parts = shares
                    .iter()
                    .filter(|share| signers.contains(&share.index().value()))
                    .map(|share| (share.index(), partial_sign(share, &message)))
                    .collect();
                let combined = combine(shares[0].public(), &message, &parts).unwrap();
                assert_eq!(combined.signature.to_bytes().to_vec(), field("signature"));
                let key = shares[0].public().public_key();
                assert_eq!(key.to_bytes().to_vec(), field("public_key"));
            }
        }
    }

    #[test]
    fn batches_are_right_only_if_every_part_is() {
        let shares = share(&Scalar::hash(&[b"key"]).to_bytes(), 2, 5);
        let key = shares[0].public();
        let search = Search { key, message: b"m" };
        let suspects = |wrong: usize| -> Vec<Suspect> {
            shares
                .iter()
                .enumerate()
                .map(|(n, share)| {
                    let message: &[u8] = if n == wrong { b"x" } else { b"m" };
                    let point = g2(&partial_sign(share, message).0);
                    let index = share.index();
                    Suspect {
                        index,
                        share: key.public_share(index).0,
                        point,
                    }
                })
                .collect()
        };
        assert!(search.holds(&suspects(9)));
        for wrong in 0..5 {
            assert!(!search.holds(&suspects(wrong)));
        }
        // Weights differ for each part and each batch.
        let (a, b) = (search.weights(&suspects(9)), search.weights(&suspects(0)));
        assert_ne!(a[..16], a[16..32]);
        assert_ne!(a[16..32], b[16..32]);
        assert_eq!(generate_public(Scalar::ONE).compress()[..2], [0x97, 0xf1]);
    }
}
