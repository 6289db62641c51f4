//! Who did what wrong: reasons that travel in aborts, and faults as this party sees them.

use junto_crypto::hash;

use super::{
    evidence::{Culprit, Evidence},
    identity::IdentityFault,
    limits::ABORT_TEXT_BYTES_MAX,
    party::{Members, PartyIndex, check_text, shown_text},
    statement::Round,
    wire::{Malformed, Put, Reader},
};

/// Why a party ended an execution, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The protocol above gave up; `accused` may be empty. Unproven.
    GaveUp {
        /// For a person, at most 255 bytes.
        text: String,
        /// Whom it blames.
        accused: Members,
    },
    /// Parties did not speak before the deadline. Unproven.
    Silent {
        /// Where.
        round: Round,
        /// Who.
        accused: Members,
    },
    /// A party broke the session's rules in a way that leaves no proof.
    Observed {
        /// Who.
        accused: PartyIndex,
    },
    /// A party broke them and signed it.
    Proven(Box<Evidence>),
    /// A party has left the session, or its connection leads nowhere any more. Unproven.
    Gone {
        /// Who.
        accused: PartyIndex,
    },
}

impl Reason {
    /// Whom the reason is about. For evidence this is decided by [`Evidence::convict`] instead.
    #[must_use]
    pub fn accused(&self) -> Members {
        match self {
            Self::GaveUp { accused, .. } | Self::Silent { accused, .. } => *accused,
            Self::Observed { accused } | Self::Gone { accused } => Members::NONE.with(*accused),
            Self::Proven(_) => Members::NONE,
        }
    }

    pub(crate) fn gave_up(text: &str, accused: Members) -> Self {
        Self::GaveUp {
            text: shown_text(text, ABORT_TEXT_BYTES_MAX),
            accused,
        }
    }

    /// What an abort signs of it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        hash::sha256(&self.encode())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::GaveUp { text, accused } => {
                bytes
                    .put_u8(0)
                    .put_u64(accused.bits())
                    .put_short(text.as_bytes());
            }
            Self::Silent { round, accused } => {
                bytes.put_u8(1).put_u32(round.0).put_u64(accused.bits());
            }
            Self::Observed { accused } => {
                bytes.put_u8(2).put_u8(accused.as_u8());
            }
            Self::Proven(evidence) => {
                bytes.put_u8(3);
                evidence.put(&mut bytes);
            }
            Self::Gone { accused } => {
                bytes.put_u8(4).put_u8(accused.as_u8());
            }
        }
        bytes
    }

    /// A reason as a party sent it.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let reason = Self::read_stored(bytes)?;
        if let Self::GaveUp { text, .. } = &reason {
            check_text(text, ABORT_TEXT_BYTES_MAX, "abort text")?;
        }
        Ok(reason)
    }

    /// A reason as our own store has it. It was checked before it was stored, but not always as strictly as today, and a text
    /// that is not fit to be shown is no damage.
    fn read_stored(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("abort reason", bytes);
        let reason = match reader.u8()? {
            0 => {
                let accused = Members::from_bits(reader.u64()?);
                let text = reader.short()?;
                Self::GaveUp {
                    text: reader.text(text)?.to_owned(),
                    accused,
                }
            }
            1 => Self::Silent {
                round: Round(reader.u32()?),
                accused: Members::from_bits(reader.u64()?),
            },
            2 => Self::Observed {
                accused: PartyIndex::decode(reader.u8()?)?,
            },
            3 => Self::Proven(Box::new(Evidence::read(&mut reader)?)),
            4 => Self::Gone {
                accused: PartyIndex::decode(reader.u8()?)?,
            },
            _ => return Err(reader.malformed()),
        };
        reader.finish()?;
        Ok(reason)
    }
}

/// What a party did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It sent bytes that are no valid message.
    #[error("sent a malformed {0}")]
    Malformed(&'static str),
    /// It sent a message of another session: a replay, or a mix-up.
    #[error("sent a message of another session")]
    WrongSession,
    /// It sent a message that names another sender or receiver than the connection's.
    #[error("sent a message under another party's number")]
    WrongParty,
    /// It sent something that is not allowed at this point.
    #[error("sent a {0} when it must not")]
    OutOfPlace(&'static str),
    /// A signature does not verify.
    #[error("sent a false signature on its {0}")]
    BadSignature(&'static str),
    /// It could not prove that the connection ends with it.
    #[error("did not prove that the connection ends with it: somebody may sit in between")]
    WrongBinding,
    /// Its share of the safety code is not the one it committed to.
    #[error("changed its share of the safety code")]
    BadReveal,
    /// The host offered a roster that breaks the rules.
    #[error("offered a roster that {0}")]
    BadRoster(&'static str),
    /// Its identity does not satisfy the policy.
    #[error(transparent)]
    Identity(IdentityFault),
    /// It runs further ahead than any honest party could.
    #[error("sent {round}, too far ahead")]
    TooFarAhead {
        /// Which round it sent.
        round: Round,
    },
    /// It sent two different messages where there is room for one.
    #[error("sent two different messages in {round}")]
    Conflict {
        /// Which round.
        round: Round,
    },
    /// It sent more than flow control allows. Nobody is convicted of that any more, but earlier versions stored it.
    #[error("sends more than it was allowed to")]
    Flooding,
    /// It was silent past the deadline.
    #[error("was silent in {round} past the deadline")]
    Silent {
        /// Which round.
        round: Round,
        /// All silent parties.
        all: Members,
    },
    /// There is proof that it cheated.
    #[error("cheated, and signed it: {}", describe(.0))]
    Proven(Box<Evidence>),
    /// It accused somebody with evidence that proves nothing.
    #[error("made a false accusation")]
    FalseAccusation,
    /// It ended the execution; it may blame others, without proof.
    #[error("gave up: {}", describe_reason(.0))]
    GaveUp(Box<Reason>),
    /// It closed the session.
    #[error("closed the session")]
    Left,
    /// The carrier can reach it no more.
    #[error("cannot be reached any more")]
    Unreachable,
}

fn describe(evidence: &Evidence) -> String {
    match evidence {
        Evidence::SplitRoster { .. } => "two rosters for one session".to_owned(),
        Evidence::Equivocation { slot, .. } => format!("two broadcasts in {}", slot.round),
        Evidence::FalseEcho { slot, .. } => format!("a made-up echo in {}", slot.round),
        Evidence::TwoAborts { .. } => "two reasons for one end".to_owned(),
    }
}

fn describe_reason(reason: &Reason) -> String {
    match reason {
        Reason::GaveUp { text, accused } if accused.is_empty() => text.clone(),
        Reason::GaveUp { text, accused } => format!("{text} (it blames party {accused})"),
        Reason::Silent { round, accused } => {
            format!("it heard nothing from party {accused} in {round}")
        }
        Reason::Observed { accused } => format!("party {accused} broke the session's rules"),
        Reason::Proven(evidence) => describe(evidence),
        Reason::Gone { accused } => {
            format!("party {accused} has left, or cannot be reached any more")
        }
    }
}

impl From<Malformed> for Fault {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Malformed(what)
    }
}

/// A fault and who committed it: the end of an execution, or of a session's formation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// Who.
    pub culprit: Culprit,
    /// What.
    pub fault: Fault,
}

impl Blame {
    pub(crate) fn party(party: PartyIndex, fault: impl Into<Fault>) -> Self {
        Self {
            culprit: Culprit::Party(party),
            fault: fault.into(),
        }
    }

    /// What to tell the other parties about it.
    pub(crate) fn reason(&self) -> Reason {
        match (&self.fault, self.culprit) {
            (Fault::Proven(evidence), _) => Reason::Proven(evidence.clone()),
            (Fault::Silent { round, all }, _) => Reason::Silent {
                round: *round,
                accused: *all,
            },
            (Fault::Left | Fault::Unreachable, Culprit::Party(accused)) => Reason::Gone { accused },
            (_, Culprit::Party(accused)) => Reason::Observed { accused },
            (_, Culprit::Host) => Reason::gave_up("the host broke the rules", Members::NONE),
        }
    }

    /// For storage: what a restart must still say. Details that only help while it happens are
    /// not kept.
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        bytes.put_u8(match self.culprit {
            Culprit::Host => u8::MAX,
            Culprit::Party(party) => party.as_u8(),
        });
        match &self.fault {
            Fault::Malformed(_) => bytes.put_u8(0),
            Fault::WrongSession => bytes.put_u8(1),
            Fault::WrongParty => bytes.put_u8(2),
            Fault::OutOfPlace(_) => bytes.put_u8(3),
            Fault::BadSignature(_) => bytes.put_u8(4),
            Fault::WrongBinding => bytes.put_u8(5),
            Fault::BadReveal => bytes.put_u8(6),
            Fault::BadRoster(_) => bytes.put_u8(7),
            Fault::Identity(fault) => {
                bytes.put_u8(8);
                match fault {
                    IdentityFault::KeyChanged { party, name } => bytes
                        .put_u8(0)
                        .put_u8(party.as_u8())
                        .put_short(name.as_bytes()),
                    IdentityFault::NotPinned { party } => bytes.put_u8(1).put_u8(party.as_u8()),
                    IdentityFault::Repeated { party } => bytes.put_u8(2).put_u8(party.as_u8()),
                }
            }
            Fault::TooFarAhead { round } => bytes.put_u8(9).put_u32(round.0),
            Fault::Conflict { round } => bytes.put_u8(10).put_u32(round.0),
            Fault::Flooding => bytes.put_u8(11),
            Fault::Silent { round, all } => bytes.put_u8(12).put_u32(round.0).put_u64(all.bits()),
            Fault::Proven(evidence) => {
                bytes.put_u8(13);
                evidence.put(bytes);
                bytes
            }
            Fault::FalseAccusation => bytes.put_u8(14),
            Fault::GaveUp(reason) => {
                let reason = reason.encode();
                bytes.put_u8(15).put_long(&reason)
            }
            Fault::Left => bytes.put_u8(16),
            Fault::Unreachable => bytes.put_u8(17),
        };
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let culprit = match reader.u8()? {
            u8::MAX => Culprit::Host,
            party => Culprit::Party(PartyIndex::decode(party)?),
        };
        let fault = match reader.u8()? {
            0 => Fault::Malformed("message"),
            1 => Fault::WrongSession,
            2 => Fault::WrongParty,
            3 => Fault::OutOfPlace("message"),
            4 => Fault::BadSignature("message"),
            5 => Fault::WrongBinding,
            6 => Fault::BadReveal,
            7 => Fault::BadRoster("breaks the rules"),
            8 => Fault::Identity(read_identity_fault(reader)?),
            9 => Fault::TooFarAhead {
                round: Round(reader.u32()?),
            },
            10 => Fault::Conflict {
                round: Round(reader.u32()?),
            },
            11 => Fault::Flooding,
            12 => Fault::Silent {
                round: Round(reader.u32()?),
                all: Members::from_bits(reader.u64()?),
            },
            13 => Fault::Proven(Box::new(Evidence::read(reader)?)),
            14 => Fault::FalseAccusation,
            15 => Fault::GaveUp(Box::new(stored_reason(reader)?)),
            16 => Fault::Left,
            17 => Fault::Unreachable,
            _ => return Err(reader.malformed()),
        };
        Ok(Self { culprit, fault })
    }
}

fn stored_reason(reader: &mut Reader<'_>) -> Result<Reason, Malformed> {
    let mut reason = Reason::read_stored(reader.long()?)?;
    if let Reason::GaveUp { text, .. } = &mut reason {
        *text = shown_text(text, ABORT_TEXT_BYTES_MAX);
    }
    Ok(reason)
}

fn read_identity_fault(reader: &mut Reader<'_>) -> Result<IdentityFault, Malformed> {
    let kind = reader.u8()?;
    let party = PartyIndex::decode(reader.u8()?)?;
    match kind {
        0 => {
            let name = reader.short()?;
            Ok(IdentityFault::KeyChanged {
                party,
                name: reader.text(name)?.to_owned(),
            })
        }
        1 => Ok(IdentityFault::NotPinned { party }),
        2 => Ok(IdentityFault::Repeated { party }),
        _ => Err(reader.malformed()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(reason: Reason) -> Vec<u8> {
        let mut bytes = Vec::new();
        Blame::party(PartyIndex::new(2).unwrap(), Fault::GaveUp(Box::new(reason))).put(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn whatever_the_reason_others_and_our_own_store_read_it(text in "[\\s\\S]{0,300}|[a \u{85}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2060}-\u{206f}\u{feff}]{0,90}") {
            let reason = Reason::gave_up(&text, Members::NONE);
            prop_assert_eq!(&Reason::decode(&reason.encode()).unwrap(), &reason);
            let bytes = stored(reason.clone());
            let read = Blame::read(&mut Reader::new("stored fault", &bytes)).unwrap();
            prop_assert_eq!(read.fault, Fault::GaveUp(Box::new(reason)));
        }
    }

    /// As versions that let them through have stored them.
    #[test]
    fn a_stored_reason_that_hides_something_is_read_and_shown_without_it() {
        let hidden = "\u{200b}\u{645}\u{6cc}\u{200c}\u{62e} \u{feff}".to_owned();
        let reason = Reason::GaveUp {
            text: hidden,
            accused: Members::NONE,
        };
        assert!(Reason::decode(&reason.encode()).is_err(), "of a peer");
        let bytes = stored(reason);
        let read = Blame::read(&mut Reader::new("stored fault", &bytes)).unwrap();
        assert_eq!(read.fault.to_string(), "gave up: \u{645}\u{6cc} \u{62e}");
    }

    #[test]
    fn who_has_left_is_said_to_have_and_not_to_have_broken_rules() {
        let party = PartyIndex::new(2).unwrap();
        for fault in [Fault::Left, Fault::Unreachable] {
            let reason = Blame::party(party, fault).reason();
            assert_eq!(reason, Reason::Gone { accused: party });
            assert_eq!(Reason::decode(&reason.encode()).unwrap(), reason);
            assert_eq!(reason.accused(), Members::NONE.with(party));
            let bytes = stored(reason.clone());
            let read = Blame::read(&mut Reader::new("stored fault", &bytes)).unwrap();
            assert!(
                read.fault.to_string().contains("has left"),
                "{}",
                read.fault
            );
            let heard = crate::SessionError::Peer(read);
            assert!(heard.is_silence());
            assert!(heard.blamed().contains(party));
        }
    }

    /// Everything that has ever been stored: what an update cannot read makes the whole profile unreadable.
    #[test]
    fn every_fault_that_was_ever_stored_is_read() {
        let rest = |tag: u8| match tag {
            8 => vec![1, 2],
            9 | 10 => vec![0, 0, 0, 7],
            12 => [vec![0, 0, 0, 7], vec![0; 7], vec![2]].concat(),
            13 => [vec![3], vec![5; 64], vec![2], vec![6; 192]].concat(),
            15 => vec![0, 2, 2, 1],
            _ => Vec::new(),
        };
        for tag in 0..=17 {
            let stored = [vec![2, tag], rest(tag)].concat();
            let mut reader = Reader::new("stored fault", &stored);
            let blame = Blame::read(&mut reader).unwrap_or_else(|it| panic!("{tag}: {it}"));
            reader.finish().unwrap();
            let mut again = Vec::new();
            blame.put(&mut again);
            assert_eq!(again, stored, "{tag}");
        }
    }
}
