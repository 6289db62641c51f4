//! What a replica shows of the machine and the program behind a channel, before anything secret goes over it.
//!
//! Evidence is bound to the channel: it names a value that only the two ends of this handshake can compute, so that what one
//! machine shows cannot be shown by another. Verifiers of real hardware do not exist yet.

use std::fmt;

use junto_crypto::hash::sha256_of;
use subtle::ConstantTimeEq as _;

/// Most bytes of evidence: quotes of today's hardware take 1 to 6 KB.
pub(crate) const EVIDENCE_BYTES_MAX: usize = 16 * 1024;

/// What evidence there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// None: a sum that anybody can compute. For trying.
    Simulated = 0,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
        })
    }
}

/// The value to which evidence is bound: different for each channel, each of its ends, and each realm's card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(pub [u8; 32]);

/// Evidence as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence {
    kind: Kind,
    bytes: Vec<u8>,
}

/// Evidence that does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not evidence at all, or of a kind that is not known.
    #[error("it shows no evidence that is understood")]
    Unknown,
    /// Of another channel, or false.
    #[error("its evidence is not of this channel")]
    False,
    /// It proves nothing, and who asks did not say that this will do.
    #[error("its evidence is simulated: it proves nothing")]
    Simulated,
}

/// Makes evidence: what a machine does.
pub trait Attestation: Send + Sync {
    /// Evidence for this channel.
    fn prove(&self, bound: &Bound) -> Evidence;
}

/// Judges evidence.
pub trait Verifier: Send + Sync {
    /// # Errors
    /// [`EvidenceError`].
    fn verify(&self, evidence: &Evidence, bound: &Bound) -> Result<(), EvidenceError>;
}

/// Proves nothing: for trying, on a machine without the hardware.
#[derive(Clone, Copy, Debug)]
pub struct Simulated;

fn simulated(bound: &Bound) -> [u8; 32] {
    sha256_of(&[b"junto simulated evidence: it proves nothing", &bound.0])
}

impl Attestation for Simulated {
    fn prove(&self, bound: &Bound) -> Evidence {
        Evidence {
            kind: Kind::Simulated,
            bytes: simulated(bound).to_vec(),
        }
    }
}

/// What somebody accepts. Real kinds come with their verifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Whether simulated evidence will do.
    pub simulated: bool,
}

impl Verifier for Accepted {
    fn verify(&self, evidence: &Evidence, bound: &Bound) -> Result<(), EvidenceError> {
        match evidence.kind {
            Kind::Simulated if !self.simulated => Err(EvidenceError::Simulated),
            Kind::Simulated => {
                let right: bool = simulated(bound)[..].ct_eq(&evidence.bytes).into();
                right.then_some(()).ok_or(EvidenceError::False)
            }
        }
    }
}

impl Evidence {
    /// Of which kind it says it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kind, then what is shown.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.kind as u8][..], &self.bytes].concat()
    }

    /// # Errors
    /// [`EvidenceError::Unknown`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EvidenceError> {
        match bytes.split_first() {
            Some((0, bytes)) if bytes.len() <= EVIDENCE_BYTES_MAX => Ok(Self {
                kind: Kind::Simulated,
                bytes: bytes.to_vec(),
            }),
            _ => Err(EvidenceError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_evidence_is_refused_unless_opted_in_and_is_of_one_channel() {
        let (here, there) = (Bound([1; 32]), Bound([2; 32]));
        let shown = Simulated.prove(&here);
        let opted = Accepted { simulated: true };
        assert_eq!(opted.verify(&shown, &here), Ok(()));
        assert_eq!(opted.verify(&shown, &there), Err(EvidenceError::False));
        let refused = Accepted::default().verify(&shown, &here);
        assert_eq!(refused, Err(EvidenceError::Simulated));
        assert_eq!(shown.kind().to_string(), "simulated");
        let long = vec![0; EVIDENCE_BYTES_MAX + 2];
        for bytes in [&[][..], &[1], &long] {
            assert!(Evidence::from_bytes(bytes) == Err(EvidenceError::Unknown));
        }
    }
}
