//! What a party says it holds when a run starts from a key: its certificate, which share, and a proof
//! that it knows that share, bound to the session, the run's label and the party.
//!
//! The certificate cannot be invented for a session whose roster the reader knows. For another one it
//! can; but for a public key whose secret nobody knows, fewer than t shares of an invented polynomial
//! can be known. So t proven holders of one key are believed, and fewer are not.

use junto_crypto::hash::sha256_of;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    group::generate,
    key::{KeyPublic, KeyShare},
    outcome::{CERTIFICATE_MAX_BYTES, Certificate},
    party::{PartyIndex, ShareIndex},
    possession::Possession,
    scalar::{Scalar, SecretScalar},
    setup::Occasion,
};

/// First byte of an encoded [`Holding`].
const FORMAT: u8 = 1;

/// A party's claim to a share of a key.
#[derive(Clone, Debug)]
pub struct Holding {
    certificate: Certificate,
    index: ShareIndex,
    proof: Possession,
}

/// Somebody claims a share that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("claims a share of the key that it does not hold")]
pub struct NotHeld;

impl Holding {
    /// The claim of `me` to `share`, whose epoch `certificate` certifies.
    #[must_use]
    pub fn new(
        occasion: &Occasion<'_>,
        me: PartyIndex,
        share: &KeyShare,
        certificate: &Certificate,
    ) -> Self {
        let text = text(occasion, me, share.public(), share.index());
        // A nonce from the secret and all that is signed, as in Ed25519: the same claim, the same bytes.
        let k = SecretScalar::hash(&[
            b"junto-bls/1 holding nonce",
            share.secret().to_bytes().as_ref(),
            &text,
        ]);
        let nonce = generate(&k);
        let proof = Possession::respond(
            &k,
            nonce,
            challenge(&text, &nonce.compress()),
            share.secret(),
        );
        Self {
            certificate: certificate.clone(),
            index: share.index(),
            proof,
        }
    }

    /// Checks the claim of `party`: the certificate's signatures and the proof. If the certificate is
    /// one of this very session, also that its run made `party` that holder.
    ///
    /// # Errors
    /// [`NotHeld`]; no honest party makes such a claim.
    pub fn verify(&self, occasion: &Occasion<'_>, party: PartyIndex) -> Result<(), NotHeld> {
        let (setup, key) = (self.certificate.setup(), self.certificate.key());
        let here = *setup.session() == occasion.session;
        let known =
            setup.roster() == occasion.roster && setup.holders().get(&party) == Some(&self.index);
        if (here && !known) || self.index.value() > key.threshold().holders() {
            return Err(NotHeld);
        }
        self.certificate.verify().map_err(|_| NotHeld)?;
        let text = text(occasion, party, key, self.index);
        let challenge = challenge(&text, &self.proof.nonce().compress());
        let share = key.public_share(self.index).0;
        self.proof
            .answers(&share, challenge)
            .then_some(())
            .ok_or(NotHeld)
    }

    /// The certificate of the epoch.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Which share.
    #[must_use]
    pub fn index(&self) -> ShareIndex {
        self.index
    }

    /// Version 1: format, certificate, index, proof.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new()
            .u8(FORMAT)
            .variable(&self.certificate.encode())
            .u8(self.index.value());
        self.proof.write(writer).finish()
    }

    /// Reads [`Holding::encode`]; does not verify.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(DecodeError);
        }
        let certificate = Certificate::decode(reader.variable(CERTIFICATE_MAX_BYTES)?)?;
        let index = ShareIndex::new(reader.u8()?).ok_or(DecodeError)?;
        let proof = Possession::read(&mut reader)?;
        reader.finish()?;
        Ok(Self {
            certificate,
            index,
            proof,
        })
    }
}

/// What the proof is bound to.
fn text(
    occasion: &Occasion<'_>,
    party: PartyIndex,
    key: &KeyPublic,
    index: ShareIndex,
) -> [u8; 32] {
    let place = Writer::new()
        .fixed(&occasion.session)
        .variable(occasion.label)
        .u8(party.value())
        .fixed(&key.digest())
        .u8(index.value())
        .finish();
    sha256_of(&[b"junto-bls/1 holding", &place])
}

fn challenge(text: &[u8; 32], nonce: &[u8]) -> Scalar {
    Scalar::hash(&[b"junto-bls/1 holding challenge", text, nonce])
}
