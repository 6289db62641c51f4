//! Who misbehaved, how, and the proof of it.
//!
//! [`Evidence`] is a string of bytes that anybody who knows the run's [`Setup`] can check: messages
//! that the accused signed, which together cannot come from a party that follows the protocol.

use core::fmt;
use std::collections::BTreeMap;

use crate::{
    confirm::Confirm,
    deal::{Deal, read_share},
    encoding::{DecodeError, Reader, Writer},
    envelope::{Round, Seal, Signed, Slot, WIRE_MAX_BYTES},
    outcome::result_key,
    party::{PARTIES_MAX, PartyIndex},
    setup::{Setup, Task},
    signature::PartialSignature,
};

/// Most bytes of a piece of evidence: all deals of 64 parties and a confirmation.
pub const EVIDENCE_MAX_BYTES: usize = (PARTIES_MAX as usize + 2) * (WIRE_MAX_BYTES + 16);

/// How a party broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Its message does not carry its signature for this place in this run. The one fault without
    /// evidence: the carrier that authenticated the sender must supply it.
    #[error("sent a message without its valid signature")]
    Unsigned,
    /// It signed bytes that no honest party sends.
    #[error("signed a malformed message")]
    Malformed,
    /// Not exactly as many commitments as the threshold asks for.
    #[error("sent a wrong number of commitments")]
    CommitmentCount,
    /// A commitment that is no point of order r, or infinity.
    #[error("sent an invalid commitment")]
    InvalidCommitment,
    /// The proof that it knows its contribution is wrong.
    #[error("did not prove possession of its contribution")]
    Possession,
    /// In a reshare, its constant term is not its old share.
    #[error("dealt something else than its share")]
    WrongConstant,
    /// The share that it sent is not the one that it committed to.
    #[error("sent a share that does not match its commitments")]
    ShareMismatch,
    /// It signed two different messages for one place.
    #[error("told different parties different things")]
    Equivocation,
    /// It passed on a signature of another party that is not one.
    #[error("passed on a forged message")]
    ForgedEcho,
    /// Its signature under the certificate is wrong.
    #[error("signed the certificate wrongly")]
    Certificate,
    /// It confirmed another key than the one that follows from the deals that it received.
    #[error("confirmed a wrong key")]
    WrongKey,
    /// It accused a party with evidence that proves nothing.
    #[error("accused without proof")]
    FalseComplaint,
    /// Its partial signature is wrong.
    #[error("sent a wrong partial signature")]
    PartialSignature,
}

/// One party's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Who.
    pub party: PartyIndex,
    /// What.
    pub fault: Fault,
    /// The proof for third parties; absent only for [`Fault::Unsigned`].
    pub evidence: Option<Evidence>,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.party, self.fault)
    }
}

/// A party says that another one sent it no properly signed share. Nobody else can tell which of
/// the two lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dispute {
    /// Who complains.
    pub accuser: PartyIndex,
    /// About whom.
    pub accused: PartyIndex,
}

/// The run is over without a result. Final: its label may not be used again.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Abort {
    /// Parties that misbehaved, ascending, and the same for every honest party.
    pub blames: Vec<Blame>,
    /// Complaints that nobody can decide, ascending.
    pub disputes: Vec<Dispute>,
}

impl Abort {
    /// The parties blamed, ascending, each once.
    #[must_use]
    pub fn blamed(&self) -> Vec<PartyIndex> {
        let mut parties: Vec<PartyIndex> = self.blames.iter().map(|blame| blame.party).collect();
        parties.dedup();
        parties
    }

    /// `Err(self)` if anything was found.
    pub(crate) fn unless_empty(mut self) -> Result<(), Self> {
        self.blames.sort_by_key(|blame| (blame.party, blame.fault));
        self.blames.dedup_by_key(|blame| (blame.party, blame.fault));
        self.disputes.sort_unstable();
        self.disputes.dedup();
        if self.blames.is_empty() && self.disputes.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aborted")?;
        for (n, blame) in self.blames.iter().enumerate() {
            write!(f, "{}{blame}", if n == 0 { ": " } else { ", " })?;
        }
        for dispute in &self.disputes {
            write!(
                f,
                "; {} says that {} sent it no share",
                dispute.accuser, dispute.accused
            )?;
        }
        Ok(())
    }
}

impl core::error::Error for Abort {}

/// Proof of a fault, as bytes to store or pass on.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence(Vec<u8>);

/// The evidence does not prove anything under this setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("proves nothing")]
pub struct NotProven;

impl Evidence {
    /// Evidence as received from somebody; [`verify`](Self::verify) says what it is worth.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_about_share(&self) -> bool {
        self.0.first() == Some(&SHARE_CASE)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Who is guilty of what. An honest party cannot be accused: every kind of evidence rests on
    /// signatures of the accused under messages that the protocol never makes.
    ///
    /// # Errors
    /// [`NotProven`] if the evidence is malformed, from another run, or proves no fault.
    pub fn verify(&self, setup: &Setup) -> Result<(PartyIndex, Fault), NotProven> {
        if self.0.len() > EVIDENCE_MAX_BYTES {
            return Err(NotProven);
        }
        let case = Case::decode(&self.0, setup).map_err(|_| NotProven)?;
        case.verdict(setup)
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({} bytes)", self.0.len())
    }
}

/// First byte of the only evidence that a complaint may carry.
const SHARE_CASE: u8 = 2;

/// The kinds of evidence.
pub(crate) enum Case {
    /// One broadcast that is wrong by itself.
    Message(Signed),
    /// A deal and a share of one dealer that do not fit. Publishing the share harms nobody: the run
    /// is over, and either the dealer or the holder gave it away.
    Share { deal: Signed, share: Signed },
    /// Two seals of one party for one place.
    Equivocation { slot: Slot, seals: [Seal; 2] },
    /// A confirmation and the very deals that it acknowledges, from which another key follows.
    WrongKey { confirm: Signed, deals: Vec<Signed> },
}

impl Case {
    pub(crate) fn evidence(&self) -> Evidence {
        let writer = match self {
            Self::Message(message) => message.write(Writer::new().u8(1)),
            Self::Share { deal, share } => share.write(deal.write(Writer::new().u8(SHARE_CASE))),
            Self::Equivocation { slot, seals } => {
                let writer = slot.write(Writer::new().u8(3));
                seals.iter().fold(writer, |writer, seal| seal.write(writer))
            }
            Self::WrongKey { confirm, deals } => {
                let writer = confirm.write(Writer::new().u8(4)).u8(deals.len() as u8);
                deals.iter().fold(writer, |writer, deal| deal.write(writer))
            }
        };
        Evidence(writer.finish())
    }

    /// Reads a case; every signature in it has verified afterwards.
    fn decode(bytes: &[u8], setup: &Setup) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let case = match reader.u8()? {
            1 => Self::Message(Signed::read(&mut reader, setup)?),
            SHARE_CASE => Self::Share {
                deal: Signed::read(&mut reader, setup)?,
                share: Signed::read(&mut reader, setup)?,
            },
            3 => {
                let slot = Slot::read(&mut reader)?;
                let seals = [Seal::read(&mut reader)?, Seal::read(&mut reader)?];
                if !seals.iter().all(|seal| seal.verify(setup, slot)) {
                    return Err(DecodeError);
                }
                Self::Equivocation { slot, seals }
            }
            4 => Self::WrongKey {
                confirm: Signed::read(&mut reader, setup)?,
                deals: (0..reader.u8()?)
                    .map(|_| Signed::read(&mut reader, setup))
                    .collect::<Result<_, _>>()?,
            },
            _ => return Err(DecodeError),
        };
        reader.finish()?;
        Ok(case)
    }

    fn verdict(&self, setup: &Setup) -> Result<(PartyIndex, Fault), NotProven> {
        match self {
            Self::Message(message) => {
                let fault = message_fault(setup, message).ok_or(NotProven)?;
                Ok((message.sender(), fault))
            }
            Self::Share { deal, share } => share_fault(setup, deal, share)
                .map(|fault| (deal.sender(), fault))
                .ok_or(NotProven),
            Self::Equivocation {
                slot,
                seals: [first, second],
            } => {
                let contradicts = first.digest < second.digest;
                contradicts
                    .then_some((slot.sender, Fault::Equivocation))
                    .ok_or(NotProven)
            }
            Self::WrongKey { confirm, deals } => {
                let wrong = confirms_wrong_key(setup, confirm, deals).ok_or(NotProven)?;
                wrong
                    .then_some((confirm.sender(), Fault::WrongKey))
                    .ok_or(NotProven)
            }
        }
    }
}

/// What is wrong with one message by itself.
pub(crate) fn message_fault(setup: &Setup, message: &Signed) -> Option<Fault> {
    let signing = matches!(setup.task(), Task::Sign { .. });
    match (message.slot().round, signing) {
        (Round::Deal, false) => Deal::check(setup, message.sender(), message.payload()).err(),
        (Round::Confirm, false) => {
            Confirm::check(setup, message.sender(), message.payload(), &[]).err()
        }
        (Round::Sign, true) => partial_fault(setup, message),
        // A share needs its deal beside it; other rounds do not exist in this task.
        (Round::Share, _) | (Round::Deal | Round::Confirm, true) | (Round::Sign, false) => None,
    }
}

/// What is wrong with a share, given the deal of the same dealer.
pub(crate) fn share_fault(setup: &Setup, deal: &Signed, share: &Signed) -> Option<Fault> {
    let (from, to) = (deal.slot(), share.slot());
    if from.round != Round::Deal || to.round != Round::Share || from.sender != to.sender {
        return None;
    }
    let index = *setup.holders().get(&to.receiver?)?;
    match Deal::check(setup, deal.sender(), deal.payload()) {
        Err(fault) => Some(fault),
        Ok(None) => None,
        Ok(Some(deal)) => match read_share(share.payload()) {
            Err(fault) => Some(fault),
            Ok(value) => (!deal.matches(index, &value)).then_some(Fault::ShareMismatch),
        },
    }
}

/// Whether a confirmation names another key than its deals give; `None` if the deals are not those
/// that it acknowledges.
fn confirms_wrong_key(setup: &Setup, confirm: &Signed, deals: &[Signed]) -> Option<bool> {
    if confirm.slot().round != Round::Confirm {
        return None;
    }
    let Ok(Confirm::Accept(accept)) =
        Confirm::check(setup, confirm.sender(), confirm.payload(), &[])
    else {
        return None;
    };
    let all = deals.len() == accept.seals.len();
    let acknowledged =
        deals
            .iter()
            .zip(setup.parties())
            .zip(&accept.seals)
            .all(|((deal, party), seal)| {
                deal.slot() == Slot::broadcast(Round::Deal, party)
                    && deal.seal_of().digest == seal.digest
            });
    if !all || !acknowledged {
        return None;
    }
    let mut dealt = BTreeMap::new();
    for deal in deals {
        if let Some(checked) = Deal::check(setup, deal.sender(), deal.payload()).ok()? {
            dealt.insert(deal.sender(), checked);
        }
    }
    Some(result_key(setup, &dealt)?.digest() != accept.key)
}

fn partial_fault(setup: &Setup, message: &Signed) -> Option<Fault> {
    let Task::Sign {
        key,
        signers,
        message: text,
    } = setup.task()
    else {
        return None;
    };
    let Some(index) = signers.get(&message.sender()) else {
        return Some(Fault::Malformed);
    };
    match PartialSignature::from_bytes(message.payload()) {
        Err(_) => Some(Fault::Malformed),
        Ok(part) => (!part.verify(key, *index, text)).then_some(Fault::PartialSignature),
    }
}
