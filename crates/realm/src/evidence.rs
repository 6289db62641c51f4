//! What a replica shows of the machine and the program behind a channel, before anything secret goes over it.
//!
//! Evidence is bound to the channel: it names a value that only the two ends of this handshake can compute, so that what one
//! machine shows cannot be shown by another. What real hardware shows is judged by `junto_evidence`, through a [`Judge`].
//!
//! [`Judge`]: crate::Judge

use std::{fmt, io, sync::Arc};

use junto_crypto::hash::sha256_of;
use junto_evidence::{Kind as Hardware, Refusal};
use subtle::ConstantTimeEq as _;

/// Most bytes of evidence.
pub(crate) use junto_evidence::EVIDENCE_BYTES_MAX;

/// What evidence there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None: a sum that anybody can compute. For trying.
    Simulated,
    /// What such hardware made.
    Of(Hardware),
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Simulated => 0,
            Self::Of(hardware) => hardware as u8,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Simulated),
            number => Hardware::from_number(number).map(Self::Of),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulated => f.write_str("simulated"),
            Self::Of(hardware) => hardware.fmt(f),
        }
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// Of real hardware, and nobody said which machines and programs will do.
    #[error("its evidence is of {0}, and no policy says which machines and programs will do")]
    NoPolicy(Hardware),
    /// Of real hardware, and not what was asked for.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What was learnt of the day could not be kept.
    #[error("the floor of days cannot be kept: {0}")]
    Floor(String),
}

/// Makes evidence: what a machine does.
pub trait Attestation: Send + Sync {
    /// Evidence for this channel. May block for as long as the hardware takes.
    ///
    /// # Errors
    /// What the system says when there is none.
    fn prove(&self, bound: &Bound) -> io::Result<Evidence>;
}

/// Evidence, made where waiting holds up nobody.
pub(crate) async fn proof(by: &Arc<dyn Attestation>, bound: Bound) -> io::Result<Evidence> {
    let by = by.clone();
    let proving = tokio::task::spawn_blocking(move || by.prove(&bound));
    proving.await.map_err(io::Error::other)?
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
    fn prove(&self, bound: &Bound) -> io::Result<Evidence> {
        Ok(Evidence {
            kind: Kind::Simulated,
            bytes: simulated(bound).to_vec(),
        })
    }
}

/// What somebody accepts who has no policy: nothing, or what proves nothing.
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
            Kind::Of(hardware) => Err(EvidenceError::NoPolicy(hardware)),
        }
    }
}

impl Evidence {
    /// What such hardware made, with what has to come with it.
    #[must_use]
    pub fn of(hardware: Hardware, bytes: Vec<u8>) -> Self {
        Self {
            kind: Kind::Of(hardware),
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Of which kind it says it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The kind, then what is shown.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.kind.number()][..], &self.bytes].concat()
    }

    /// # Errors
    /// [`EvidenceError::Unknown`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EvidenceError> {
        let (number, bytes) = bytes.split_first().ok_or(EvidenceError::Unknown)?;
        let kind = Kind::from_number(*number).ok_or(EvidenceError::Unknown)?;
        if bytes.len() > EVIDENCE_BYTES_MAX {
            return Err(EvidenceError::Unknown);
        }
        Ok(Self {
            kind,
            bytes: bytes.to_vec(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn simulated_evidence_is_refused_unless_opted_in_and_is_of_one_channel() {
        let (here, there) = (Bound([1; 32]), Bound([2; 32]));
        let shown = Simulated.prove(&here).unwrap();
        let opted = Accepted { simulated: true };
        assert_eq!(opted.verify(&shown, &here), Ok(()));
        assert_eq!(opted.verify(&shown, &there), Err(EvidenceError::False));
        let refused = Accepted::default().verify(&shown, &here);
        assert_eq!(refused, Err(EvidenceError::Simulated));
        assert_eq!(shown.kind().to_string(), "simulated");
        let long = vec![0; EVIDENCE_BYTES_MAX + 2];
        for bytes in [&[][..], &[4], &long] {
            assert!(Evidence::from_bytes(bytes) == Err(EvidenceError::Unknown));
        }
        // Real evidence is nobody's who has no policy, whatever else was said.
        let real = Evidence::of(Hardware::Tdx, simulated(&here).to_vec());
        let refused = opted.verify(&real, &here);
        assert_eq!(refused, Err(EvidenceError::NoPolicy(Hardware::Tdx)));
    }
}
