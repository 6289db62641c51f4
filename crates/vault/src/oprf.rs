//! RFC 9497, mode VOPRF, suite ristretto255-SHA512, with the key shared between realms.
//!
//! A realm that holds share kᵢ answers a blinded element B with kᵢB and a proof that it is that. The values of t
//! realms combine to kB, as one holder of k would have answered: the output is that of the RFC.

use curve25519_dalek::{
    constants::RISTRETTO_BASEPOINT_POINT,
    ristretto::RistrettoPoint,
    scalar::Scalar,
    traits::{Identity, VartimeMultiscalarMul},
};
use junto_crypto::{
    Zeroizing,
    hash::{sha256_of, sha512_of},
};
use rand_core::CryptoRng;

use crate::{
    DecodeError,
    encoding::{Reader, point, scalar},
    sharing::random_scalar,
};

/// "OPRFV1-" ‖ mode 1 ‖ "-" ‖ suite (section 3.1).
const CONTEXT: &[u8] = b"OPRFV1-\x01-ristretto255-SHA512";

/// Bytes of the OPRF's output.
pub(crate) const OUTPUT_BYTES: usize = 64;

/// expand_message_xmd of RFC 9380 with SHA-512, for 64 bytes: one block.
fn expand(label: &[u8], parts: &[&[u8]]) -> [u8; 64] {
    const BLOCK: [u8; 128] = [0; 128];
    // Both are short constants.
    let length = u8::try_from(label.len() + CONTEXT.len()).unwrap_or(u8::MAX);
    let tag = [label, CONTEXT, &[length]].concat();
    let first = sha512_of(&[&[&BLOCK[..]], parts, &[&[0, 64, 0], &tag]].concat());
    sha512_of(&[&first, &[1], &tag])
}

fn hash_to_group(input: &[u8]) -> RistrettoPoint {
    RistrettoPoint::from_uniform_bytes(&expand(b"HashToGroup-", &[input]))
}

fn hash_to_scalar(parts: &[&[u8]]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&expand(b"HashToScalar-", parts))
}

/// Each field behind its length in two bytes, then the label.
fn transcript(fields: &[&[u8]], label: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        // Points, digests and inputs of 32 bytes.
        out.extend_from_slice(&u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(field);
    }
    out.extend_from_slice(label);
    out
}

/// What a client sends to be evaluated: 32 bytes that say nothing of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlindedElement(RistrettoPoint);

impl BlindedElement {
    /// 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.compress().to_bytes()
    }

    /// # Errors
    /// [`DecodeError`] unless this is the one encoding of a point that is not the identity.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, DecodeError> {
        point(bytes).map(Self)
    }

    /// Names it in a log entry: SHA-256.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        sha256_of(&[b"junto vault blinded", &self.to_bytes()])
    }
}

/// What a client keeps to understand the answers.
pub(crate) struct Blinding {
    input: Zeroizing<[u8; 32]>,
    blind: Zeroizing<Scalar>,
}

impl Blinding {
    pub(crate) fn with(
        input: Zeroizing<[u8; 32]>,
        blind: Zeroizing<Scalar>,
    ) -> (Self, BlindedElement) {
        let element = BlindedElement(*blind * hash_to_group(&input[..]));
        (Self { input, blind }, element)
    }

    /// The output: unblinds and hashes (section 3.3.2).
    pub(crate) fn finish(&self, evaluated: &RistrettoPoint) -> Zeroizing<[u8; OUTPUT_BYTES]> {
        let unblind = Zeroizing::new(self.blind.invert());
        finalize(&self.input[..], &(*unblind * evaluated))
    }
}

fn finalize(input: &[u8], unblinded: &RistrettoPoint) -> Zeroizing<[u8; OUTPUT_BYTES]> {
    let element = Zeroizing::new(unblinded.compress().to_bytes());
    let text = Zeroizing::new(transcript(&[input, &element[..]], b"Finalize"));
    Zeroizing::new(sha512_of(&[&text]))
}

/// The output for an input under a whole key, as its maker computes it.
pub(crate) fn output(input: &[u8; 32], key: &Scalar) -> Zeroizing<[u8; OUTPUT_BYTES]> {
    finalize(input, &(key * hash_to_group(input)))
}

/// A realm's answer: its multiple of the blinded element, and the proof that it used the share it is known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    element: RistrettoPoint,
    challenge: Scalar,
    response: Scalar,
}

impl Evaluation {
    /// Bytes of an encoded evaluation: the element, challenge and response of the proof.
    pub const BYTES: usize = 96;

    /// Evaluates under a share.
    pub(crate) fn new(share: &Scalar, blinded: &BlindedElement, rng: &mut impl CryptoRng) -> Self {
        Self::prove(share, blinded, &random_scalar(rng))
    }

    /// GenerateProof (section 2.2.1) for one element, with its random scalar given.
    fn prove(share: &Scalar, blinded: &BlindedElement, random: &Scalar) -> Self {
        let element = share * blinded.0;
        let public = RistrettoPoint::mul_base(share);
        let composite = composite(&public, &blinded.0, &element);
        let (m, z) = (composite * blinded.0, composite * element);
        let challenge = challenge(
            &public,
            &m,
            &z,
            &RistrettoPoint::mul_base(random),
            &(random * m),
        );
        Self {
            element,
            challenge,
            response: random - challenge * share,
        }
    }

    /// VerifyProof (section 2.2.2): the element, if the holder of `public`'s share made it from `blinded`.
    pub(crate) fn verified(
        &self,
        public: &RistrettoPoint,
        blinded: &BlindedElement,
    ) -> Option<RistrettoPoint> {
        let composite = composite(public, &blinded.0, &self.element);
        let (m, z) = (composite * blinded.0, composite * self.element);
        let both = [self.response, self.challenge];
        let t2 =
            RistrettoPoint::vartime_multiscalar_mul(both, [RISTRETTO_BASEPOINT_POINT, *public]);
        let t3 = RistrettoPoint::vartime_multiscalar_mul(both, [m, z]);
        (challenge(public, &m, &z, &t2, &t3) == self.challenge).then_some(self.element)
    }

    /// [`Self::BYTES`] bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..32].copy_from_slice(self.element.compress().as_bytes());
        out[32..64].copy_from_slice(self.challenge.as_bytes());
        out[64..].copy_from_slice(self.response.as_bytes());
        out
    }

    /// # Errors
    /// [`DecodeError`] unless these are the one encodings of a point that is not the identity and two scalars.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let evaluation = Self {
            element: reader.point()?,
            challenge: scalar(reader.array()?)?,
            response: scalar(reader.array()?)?,
        };
        reader.finish()?;
        Ok(evaluation)
    }
}

/// ComputeComposites (section 2.2.1) for one element: its factor.
fn composite(
    public: &RistrettoPoint,
    blinded: &RistrettoPoint,
    evaluated: &RistrettoPoint,
) -> Scalar {
    let seed_tag = [b"Seed-", CONTEXT].concat();
    let public = public.compress();
    let seed = sha512_of(&[&transcript(&[public.as_bytes(), &seed_tag], b"")]);
    let (blinded, evaluated) = (blinded.compress(), evaluated.compress());
    let mut text = transcript(&[&seed], &[0, 0]);
    text.extend(transcript(
        &[blinded.as_bytes(), evaluated.as_bytes()],
        b"Composite",
    ));
    hash_to_scalar(&[&text])
}

fn challenge(
    public: &RistrettoPoint,
    m: &RistrettoPoint,
    z: &RistrettoPoint,
    t2: &RistrettoPoint,
    t3: &RistrettoPoint,
) -> Scalar {
    let points = [public, m, z, t2, t3].map(|point| point.compress().to_bytes());
    let fields: Vec<&[u8]> = points.iter().map(|bytes| &bytes[..]).collect();
    hash_to_scalar(&[&transcript(&fields, b"Challenge")])
}

/// Public shares that are the identity would let anything pass.
pub(crate) fn is_identity(point: &RistrettoPoint) -> bool {
    *point == RistrettoPoint::identity()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sharing;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn array<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn scalar_of(text: &str) -> Scalar {
        scalar(array(text)).unwrap()
    }

    /// RFC 9497, appendix A.1.2, vectors 1 and 2.
    #[test]
    fn known_answers() {
        let key = scalar_of("e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909");
        let public: [u8; 32] =
            array("c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e");
        assert_eq!(RistrettoPoint::mul_base(&key).compress().to_bytes(), public);
        let blind = scalar_of("64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706");
        let random = scalar_of("222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e");
        for (input, blinded, evaluated, proof, output) in [
            (
                vec![0],
                "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
                "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
                "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd066d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
                "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7da4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c",
            ),
            (
                vec![0x5a; 17],
                "cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c",
                "60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468",
                "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
                "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6",
            ),
        ] {
            let element = BlindedElement(blind * hash_to_group(&input));
            assert_eq!(hex::encode(element.to_bytes()), blinded);
            let evaluation = Evaluation::prove(&key, &element, &random);
            assert_eq!(
                hex::encode(evaluation.to_bytes()),
                [evaluated, proof].concat()
            );
            assert_eq!(
                Evaluation::from_bytes(&evaluation.to_bytes()),
                Ok(evaluation)
            );
            let verified = evaluation
                .verified(&point(&public).unwrap(), &element)
                .unwrap();
            let result = finalize(&input, &(blind.invert() * verified));
            assert_eq!(hex::encode(&result[..]), output);
        }
    }

    proptest! {
        #[test]
        fn shares_answer_as_one_key(seed: [u8; 32], input: [u8; 32], n in 1..=5_u8, t in 1..=5_u8) {
            let t = t.min(n);
            let mut rng = ChaCha20Rng::from_seed(seed);
            let key = random_scalar(&mut rng);
            let shares = sharing::share(&key, t.into(), n.into(), &mut rng);
            let (blinding, element) = Blinding::with(Zeroizing::new(input), random_scalar(&mut rng));
            let points: Vec<_> = (1..)
                .zip(&shares)
                .skip(usize::from(n - t))
                .map(|(place, share)| {
                    let evaluation = Evaluation::new(share, &element, &mut rng);
                    let public = RistrettoPoint::mul_base(share);
                    (place, evaluation.verified(&public, &element).unwrap())
                })
                .collect();
            let whole = blinding.finish(&sharing::combine_points(&points));
            prop_assert_eq!(&whole[..], &output(&input, &key)[..]);
        }

        #[test]
        fn a_proof_fits_one_share_and_one_element(seed: [u8; 32], flip in 0..96_usize, bit in 0..8) {
            let mut rng = ChaCha20Rng::from_seed(seed);
            let (share, other) = (random_scalar(&mut rng), random_scalar(&mut rng));
            let public = RistrettoPoint::mul_base(&share);
            let (_, element) = Blinding::with(Zeroizing::new([1; 32]), random_scalar(&mut rng));
            let (_, elsewhere) = Blinding::with(Zeroizing::new([1; 32]), random_scalar(&mut rng));
            let evaluation = Evaluation::new(&share, &element, &mut rng);
            prop_assert!(evaluation.verified(&public, &element).is_some());
            prop_assert!(evaluation.verified(&public, &elsewhere).is_none());
            prop_assert!(evaluation.verified(&RistrettoPoint::mul_base(&other), &element).is_none());
            let mut bytes = evaluation.to_bytes();
            bytes[flip] ^= 1_u8 << bit;
            let altered = Evaluation::from_bytes(&bytes);
            prop_assert!(altered.is_err() || altered.unwrap().verified(&public, &element).is_none());
        }
    }
}
