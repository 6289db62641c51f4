//! Proof of possession: a Schnorr proof that a dealer knows the constant term that it committed to,
//! bound to the run (session, label, roster, task), the dealer and all its commitments.
//!
//! Without it a rushing dealer could choose its commitment as a function of the others' and decide
//! the key alone.

use crate::{
    encoding::{DecodeError, Reader, Writer},
    group::{ELEMENT_BYTES, G1, Point, decode_g1, generate, generate_public},
    party::PartyIndex,
    scalar::{Scalar, SecretScalar},
    setup::Setup,
};

/// R = k·g and z = k + c·a for the challenge c.
#[derive(Clone, Debug)]
pub(crate) struct Possession {
    nonce: G1,
    response: Scalar,
}

impl Possession {
    /// For the constant term `secret` whose commitment is the first of `commitments`.
    pub(crate) fn prove(
        setup: &Setup,
        dealer: PartyIndex,
        seed: &[u8; 32],
        secret: &SecretScalar,
        commitments: &[G1],
    ) -> Self {
        // Everything that the challenge hashes follows from these too: no nonce serves twice.
        let k = SecretScalar::hash(&[
            b"junto-bls/1 nonce",
            setup.digest(),
            seed,
            &[dealer.value()],
            &Writer::new().points(commitments).finish(),
        ]);
        let nonce = generate(&k);
        let challenge = challenge(setup, dealer, commitments, &nonce);
        Self::respond(&k, nonce, challenge, secret)
    }

    /// The proof that whoever made `nonce` from `k` knows `secret`.
    pub(crate) fn respond(
        k: &SecretScalar,
        nonce: G1,
        challenge: Scalar,
        secret: &SecretScalar,
    ) -> Self {
        Self {
            nonce,
            response: k.response(challenge, secret),
        }
    }

    pub(crate) fn nonce(&self) -> &G1 {
        &self.nonce
    }

    /// Whether it proves knowledge of what `commitment` commits to.
    pub(crate) fn answers(&self, commitment: &G1, challenge: Scalar) -> bool {
        let mut expected = G1::scale(&commitment.lift(), challenge);
        G1::add_point(&mut expected, &self.nonce);
        G1::lower(&expected) == generate_public(self.response)
    }

    pub(crate) fn verify(&self, setup: &Setup, dealer: PartyIndex, commitments: &[G1]) -> bool {
        let Some(commitment) = commitments.first() else {
            return false;
        };
        let challenge = challenge(setup, dealer, commitments, &self.nonce);
        self.answers(commitment, challenge)
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        writer
            .points(&[self.nonce])
            .fixed(&self.response.to_bytes())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let nonce = decode_g1(reader.take(ELEMENT_BYTES)?).ok_or(DecodeError)?;
        let response = Scalar::from_bytes(&reader.array()?).ok_or(DecodeError)?;
        Ok(Self { nonce, response })
    }
}

fn challenge(setup: &Setup, dealer: PartyIndex, commitments: &[G1], nonce: &G1) -> Scalar {
    Scalar::hash(&[
        b"junto-bls/1 possession",
        setup.digest(),
        &[dealer.value(), commitments.len() as u8],
        &Writer::new().points(commitments).points(&[*nonce]).finish(),
    ])
}
