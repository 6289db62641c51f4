//! What a run ends with: the key that the deals add up to, the certificate of all parties, and the
//! share that becomes usable with it.

use std::collections::BTreeMap;

use junto_crypto::ed25519::Signature;
use zeroize::Zeroizing;

use crate::{
    confirm::{certificate_text, transcript},
    deal::Deal,
    encoding::{DecodeError, Reader, Writer},
    envelope::{Round, Seal, Signed, Slot},
    group::{G1, Point},
    key::{KeyPublic, KeyShare},
    party::{PartyIndex, ShareIndex},
    scalar::SecretScalar,
    setup::{Setup, Task},
};

/// First byte of an encoded [`Certificate`].
const FORMAT: u8 = 1;
/// First byte of an encoded [`Pending`].
const PENDING_FORMAT: u8 = 2;
/// The same without this party's deal, as versions before 2 wrote it.
const PENDING_WITHOUT_DEAL: u8 = 1;

/// Most bytes of an encoded [`Certificate`].
pub(crate) const CERTIFICATE_MAX_BYTES: usize = 2 * SETUP_MAX_BYTES;

/// Most bytes of the setup inside a certificate; a certificate is never about a message.
const SETUP_MAX_BYTES: usize = 16 * 1024;

/// The key that checked deals of all dealers give; `None` if a coefficient vanishes, which no set of
/// dealers can bring about on purpose.
pub(crate) fn result_key(setup: &Setup, deals: &BTreeMap<PartyIndex, Deal>) -> Option<KeyPublic> {
    let (threshold, epoch) = setup.result();
    let interpolation = setup.interpolation();
    let commitments = (0..usize::from(threshold.required())).map(|k| {
        let column: Vec<G1> = deals
            .values()
            .filter_map(|deal| deal.commitments().get(k).copied())
            .collect();
        let mut sum = match &interpolation {
            Some(interpolation) => interpolation.combine(&column),
            None => column.iter().fold(G1::zero(), |mut sum, point| {
                G1::add_point(&mut sum, point);
                sum
            }),
        };
        if let Task::Refresh { key, .. } = setup.task()
            && let Some(old) = key.commitments().get(k)
        {
            G1::add_point(&mut sum, old);
        }
        G1::lower(&sum)
    });
    KeyPublic::new(epoch, threshold, commitments.collect())
}

/// The certificate is not one for this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A party's signature is wrong.
    #[error("the certificate lacks the signature of {0}")]
    Signature(PartyIndex),
    /// It certifies another run or another key.
    #[error("the certificate is about another key")]
    Other,
}

/// Signatures of all parties of a run under its transcript and its key. Before it exists nobody may
/// use the key; whoever holds it can convince any party, also one that missed messages at the end,
/// that all parties have the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    setup: Setup,
    transcript: [u8; 32],
    key: KeyPublic,
    signatures: Vec<Signature>,
}

impl Certificate {
    pub(crate) fn new(
        setup: Setup,
        seals: &[Seal],
        key: KeyPublic,
        signatures: Vec<Signature>,
    ) -> Self {
        let transcript = transcript(&setup, seals);
        Self {
            setup,
            transcript,
            key,
            signatures,
        }
    }

    /// The run that it is about: whoever checks a certificate compares the roster in it with the
    /// parties that it knows.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The key that it certifies.
    #[must_use]
    pub fn key(&self) -> &KeyPublic {
        &self.key
    }

    /// Whether every party of [`setup`](Self::setup) signed.
    ///
    /// # Errors
    /// [`CertificateError::Signature`] names the first party that did not.
    pub fn verify(&self) -> Result<(), CertificateError> {
        if self.signatures.len() != self.setup.roster().len() {
            return Err(CertificateError::Other);
        }
        let text = certificate_text(&self.setup, &self.transcript, &self.key.digest());
        for ((party, key), signature) in self
            .setup
            .parties()
            .zip(self.setup.roster())
            .zip(&self.signatures)
        {
            key.verify(&text, signature)
                .map_err(|_| CertificateError::Signature(party))?;
        }
        Ok(())
    }

    /// Version 1: format, setup, transcript hash, key, then one signature for each party.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new()
            .u8(FORMAT)
            .variable(&self.setup.encode())
            .fixed(&self.transcript)
            .variable(&self.key.encode());
        self.signatures
            .iter()
            .fold(writer, |writer, s| writer.fixed(s.as_bytes()))
            .finish()
    }

    /// Reads [`Certificate::encode`]; does not verify.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(DecodeError);
        }
        let setup = Setup::decode(reader.variable(SETUP_MAX_BYTES)?)?;
        let transcript = reader.array()?;
        let key = KeyPublic::decode(reader.variable(SETUP_MAX_BYTES)?)?;
        let signatures = setup
            .parties()
            .map(|_| reader.array().map(Signature))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self {
            setup,
            transcript,
            key,
            signatures,
        })
    }
}

/// A new epoch that this party has but may not use yet: [`activate`](Self::activate) it with the
/// certificate. Until then a holder of an older share of the key keeps that one.
///
/// Whoever has confirmed cannot know whether the others succeed. So this is stored before the
/// confirmation is sent, and kept until a later run is certified. It is also all that it takes to
/// [`resume`](crate::Participant::resume) the run, whatever became of the share that it began with.
pub struct Pending {
    pub(crate) setup: Setup,
    pub(crate) transcript: [u8; 32],
    pub(crate) key: KeyPublic,
    /// What this party dealt; none if a version that did not keep it stored this.
    pub(crate) deal: Option<Signed>,
    pub(crate) share: Option<(ShareIndex, SecretScalar)>,
}

/// A certified epoch of a key, as one party has it.
#[derive(Debug)]
pub struct Epoch {
    /// What everybody may know.
    pub key: KeyPublic,
    /// This party's share, if it is a holder. Once it is stored durably, shares of older epochs are
    /// to be deleted.
    pub share: Option<KeyShare>,
}

impl Pending {
    /// The run that it comes from.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The key to come.
    #[must_use]
    pub fn key(&self) -> &KeyPublic {
        &self.key
    }

    /// Whether the run can be [taken up](crate::Participant::resume) with this; if not, it still waits for its
    /// certificate.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        self.deal.is_some()
    }

    /// Whether [`activate`](Self::activate) would take this certificate.
    ///
    /// # Errors
    /// [`CertificateError`] if a signature is wrong or it is about another run or key.
    pub fn check(&self, certificate: &Certificate) -> Result<(), CertificateError> {
        let same = certificate.setup == self.setup
            && certificate.transcript == self.transcript
            && certificate.key == self.key;
        if same {
            certificate.verify()
        } else {
            Err(CertificateError::Other)
        }
    }

    /// Makes the epoch usable.
    ///
    /// # Errors
    /// [`CertificateError`] if a signature is wrong or the certificate is about another run or key;
    /// the pending epoch comes back.
    pub fn activate(
        self,
        certificate: &Certificate,
    ) -> Result<Epoch, (Box<Self>, CertificateError)> {
        if let Err(error) = self.check(certificate) {
            return Err((Box::new(self), error));
        }
        let Self { key, share, .. } = self;
        // The share was compared with the key before this party confirmed.
        let share = share.map(|(index, secret)| KeyShare::checked(key.clone(), index, secret));
        Ok(Epoch { key, share })
    }

    /// For sealed storage only: format, setup, transcript hash, key, this party's deal (not in format 1), then 0,
    /// or 1, index and share.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let format = match &self.deal {
            Some(_) => PENDING_FORMAT,
            None => PENDING_WITHOUT_DEAL,
        };
        let mut public = Writer::new()
            .u8(format)
            .variable(&self.setup.encode())
            .fixed(&self.transcript)
            .variable(&self.key.encode());
        if let Some(deal) = &self.deal {
            public = deal.write(public);
        }
        let public = public.u8(u8::from(self.share.is_some())).finish();
        // Sized at once: a growing buffer would leave unwiped copies of the share behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(public.len() + 33));
        bytes.extend_from_slice(&public);
        if let Some((index, secret)) = &self.share {
            bytes.push(index.value());
            bytes.extend_from_slice(secret.to_bytes().as_ref());
        }
        bytes
    }

    /// Reads [`Pending::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] for anything else, and if the share is not the one that the key announces.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if !matches!(format, PENDING_FORMAT | PENDING_WITHOUT_DEAL) {
            return Err(DecodeError);
        }
        let setup = Setup::decode(reader.variable(SETUP_MAX_BYTES)?)?;
        let transcript = reader.array()?;
        let key = KeyPublic::decode(reader.variable(SETUP_MAX_BYTES)?)?;
        let deal = match format {
            PENDING_FORMAT => {
                let deal = Signed::read(&mut reader, &setup)?;
                let dealt = deal.slot() == Slot::broadcast(Round::Deal, deal.sender());
                Some(dealt.then_some(deal).ok_or(DecodeError)?)
            }
            _ => None,
        };
        let share = match reader.u8()? {
            0 => None,
            1 => {
                let index = ShareIndex::new(reader.u8()?).ok_or(DecodeError)?;
                let bytes = Zeroizing::new(reader.array()?);
                let secret = SecretScalar::from_bytes(&bytes).ok_or(DecodeError)?;
                let fits = key.announces(index, &secret);
                Some(fits.then_some((index, secret)).ok_or(DecodeError)?)
            }
            _ => return Err(DecodeError),
        };
        reader.finish()?;
        Ok(Self {
            setup,
            transcript,
            key,
            deal,
            share,
        })
    }
}

impl core::fmt::Debug for Pending {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pending")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
