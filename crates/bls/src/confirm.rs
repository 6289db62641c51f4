//! The last message of a run: "I have everything, and this is what I saw", or a complaint.

use junto_crypto::{
    ed25519::{Signature, SigningKey},
    hash::sha256_of,
};

use crate::{
    blame::{Evidence, Fault},
    encoding::{DecodeError, Reader, Writer},
    envelope::{Round, Seal, Slot},
    party::PartyIndex,
    setup::Setup,
};

const ACCEPT: u8 = 1;
const COMPLAIN: u8 = 2;
const DISPUTE: u8 = 3;

/// What a party says in the end.
pub(crate) enum Confirm {
    /// Its view, and its signature under the certificate.
    Accept(Accept),
    /// Another party's fault, proven: evidence, culprit and fault.
    Complain(Evidence, PartyIndex, Fault),
    /// A view, and who in it sent no properly signed share.
    Dispute(Vec<Seal>, PartyIndex),
}

/// A view of the run and the signature under it.
pub(crate) struct Accept {
    /// The seal of each party's deal, in the order of the roster: whoever dealt differently to
    /// different parties is convicted by two of them.
    pub(crate) seals: Vec<Seal>,
    /// [`KeyPublic::digest`](crate::KeyPublic::digest) of the result.
    pub(crate) key: [u8; 32],
    /// Under [`certificate_text`].
    pub(crate) signature: Signature,
}

/// What all parties sign: the run, what was dealt in it, and the resulting key.
pub(crate) fn certificate_text(setup: &Setup, transcript: &[u8; 32], key: &[u8; 32]) -> [u8; 32] {
    sha256_of(&[b"junto-bls/1 certificate", setup.digest(), transcript, key])
}

/// The hash of all deals.
pub(crate) fn transcript(setup: &Setup, seals: &[Seal]) -> [u8; 32] {
    let digests: Vec<u8> = seals.iter().flat_map(|seal| seal.digest).collect();
    sha256_of(&[b"junto-bls/1 transcript", setup.digest(), &digests])
}

impl Accept {
    pub(crate) fn new(setup: &Setup, signer: &SigningKey, seals: Vec<Seal>, key: [u8; 32]) -> Self {
        let text = certificate_text(setup, &transcript(setup, &seals), &key);
        Self {
            seals,
            key,
            signature: signer.sign(&text),
        }
    }
}

impl Confirm {
    pub(crate) fn payload(&self) -> Vec<u8> {
        match self {
            Self::Accept(accept) => write_seals(Writer::new().u8(ACCEPT), &accept.seals)
                .fixed(&accept.key)
                .fixed(accept.signature.as_bytes()),
            Self::Complain(evidence, ..) => Writer::new().u8(COMPLAIN).fixed(evidence.as_bytes()),
            Self::Dispute(seals, accused) => {
                write_seals(Writer::new().u8(DISPUTE), seals).u8(accused.value())
            }
        }
        .finish()
    }

    /// Reads the message of `sender` and checks all that can be checked without the deals.
    /// Seals among `known`, by dealer, need not be verified again.
    pub(crate) fn check(
        setup: &Setup,
        sender: PartyIndex,
        payload: &[u8],
        known: &[Seal],
    ) -> Result<Self, Fault> {
        let mut reader = Reader::new(payload);
        match reader.u8() {
            Ok(ACCEPT) => Self::check_accept(setup, sender, &mut reader, known),
            Ok(COMPLAIN) => {
                let evidence = Evidence::from_bytes(reader.rest().to_vec());
                // Complaints are about shares; everything else was seen by all.
                if !evidence.is_about_share() {
                    return Err(Fault::FalseComplaint);
                }
                let (party, fault) = evidence.verify(setup).map_err(|_| Fault::FalseComplaint)?;
                Ok(Self::Complain(evidence, party, fault))
            }
            Ok(DISPUTE) => Self::check_dispute(setup, sender, &mut reader, known),
            _ => Err(Fault::Malformed),
        }
    }

    fn check_accept(
        setup: &Setup,
        sender: PartyIndex,
        reader: &mut Reader<'_>,
        known: &[Seal],
    ) -> Result<Self, Fault> {
        let seals = read_seals(setup, reader, known)?;
        let accept = read_accept(seals, reader).map_err(|_| Fault::Malformed)?;
        let text = certificate_text(setup, &transcript(setup, &accept.seals), &accept.key);
        let key = setup.key_of(sender).ok_or(Fault::Malformed)?;
        key.verify(&text, &accept.signature)
            .map_err(|_| Fault::Certificate)?;
        Ok(Self::Accept(accept))
    }

    /// Only a holder can miss a share, and only a dealer's.
    fn check_dispute(
        setup: &Setup,
        sender: PartyIndex,
        reader: &mut Reader<'_>,
        known: &[Seal],
    ) -> Result<Self, Fault> {
        let seals = read_seals(setup, reader, known)?;
        let accused = reader
            .u8()
            .ok()
            .and_then(PartyIndex::new)
            .ok_or(Fault::Malformed)?;
        let possible = accused != sender
            && setup.dealers().contains_key(&accused)
            && setup.holders().contains_key(&sender)
            && reader.rest().is_empty();
        if possible {
            Ok(Self::Dispute(seals, accused))
        } else {
            Err(Fault::Malformed)
        }
    }
}

fn write_seals(writer: Writer, seals: &[Seal]) -> Writer {
    seals.iter().fold(writer, |writer, seal| seal.write(writer))
}

/// One genuine seal for each party's deal.
fn read_seals(setup: &Setup, reader: &mut Reader<'_>, known: &[Seal]) -> Result<Vec<Seal>, Fault> {
    let seals = setup
        .parties()
        .map(|_| Seal::read(reader))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Fault::Malformed)?;
    let genuine = setup.parties().zip(&seals).all(|(dealer, seal)| {
        known.get(dealer.place()) == Some(seal)
            || seal.verify(setup, Slot::broadcast(Round::Deal, dealer))
    });
    if genuine {
        Ok(seals)
    } else {
        Err(Fault::ForgedEcho)
    }
}

fn read_accept(seals: Vec<Seal>, reader: &mut Reader<'_>) -> Result<Accept, DecodeError> {
    let accept = Accept {
        seals,
        key: reader.array()?,
        signature: Signature(reader.array()?),
    };
    if reader.rest().is_empty() {
        Ok(accept)
    } else {
        Err(DecodeError)
    }
}
