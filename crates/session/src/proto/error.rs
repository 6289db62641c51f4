//! Errors that say who must act.

use super::{
    evidence::Culprit,
    fault::{Blame, Fault, Reason},
    party::{Members, PartyIndex},
    record::Refusal,
    statement::Round,
    wire::Malformed,
};

/// The caller asked for something that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// No session of that name or id here.
    #[error("there is no such session in this profile")]
    NoSuchSession,
    /// Several sessions match; give more of the id.
    #[error("several sessions have that name, or an id that begins with it")]
    Ambiguous,
    /// The session has not formed yet.
    #[error("the session has not formed yet")]
    NotFormed,
    /// The session was closed.
    #[error("the session is closed")]
    Closed,
    /// The session came back from a backup, and nothing can be said in it any more.
    #[error(
        "the session was restored from a backup: what was said in it since then is not known here, and saying something else in its place would be taken for a lie"
    )]
    Restored,
    /// An argument is not valid.
    #[error("{0} is not valid")]
    Argument(&'static str),
    /// The policy needs a profile key (and, for `tofu`, a display name), or forbids one.
    #[error("the session's policy asks for a profile key and a name, or forbids them")]
    Policy,
    /// The execution ran to its end before; choose another label.
    #[error("the execution has finished: its label cannot be used again")]
    Finished,
    /// The label is in use with other members or another mode.
    #[error("the label is in use for something else")]
    LabelInUse,
    /// The session has formed or failed, or we are not the host.
    #[error("only the host can turn joiners away, and only until the session has formed")]
    NotMeeting,
    /// Nobody of that number has asked to join.
    #[error("nobody of number {0} has asked to join")]
    NoJoiner(u8),
    /// No such execution is open.
    #[error("no such execution is open")]
    NotOpen,
    /// The party is not a member of the execution, or it is this party itself.
    #[error("party {0} is no other member of this execution")]
    NotMember(PartyIndex),
    /// The message is longer than 16 MiB.
    #[error("the message is longer than 16 MiB")]
    TooLong,
    /// Something else was already said in its place: to say both would be equivocation.
    #[error("a different message was sent in {0} before (a restarted protocol must repeat itself)")]
    DifferentBytes(Round),
    /// The round is too far ahead of what was gathered.
    #[error("{0} is too far ahead of what was gathered")]
    RoundsAhead(Round),
    /// A limit of the session is reached.
    #[error("too many {0}")]
    TooMany(&'static str),
}

impl From<Malformed> for Misuse {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Argument(what)
    }
}

/// Why a session or an execution did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Our caller's code.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// A party's fault.
    #[error("{} {}", name_of(.0.culprit), .0.fault)]
    Peer(Blame),
    /// The host did not admit us.
    #[error("the host refused: {0}")]
    Refused(Refusal),
    /// Formation, or a round that ends nothing, is not complete yet; waiting again is allowed.
    #[error("only {have} of {want} parties are there")]
    Incomplete {
        /// How many are there, this one included.
        have: usize,
        /// How many there should be.
        want: usize,
        /// Who is missing, once the roster is known.
        missing: Members,
    },
    /// 64 MiB wait for a party that has taken nothing for ten minutes; may be tried again.
    #[error("party {0} takes nothing: too much waits for it already")]
    NoRoom(Members),
    /// Disk or carrier; may be tried again.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Our bug; report it.
    #[error("defect: {0}")]
    Defect(&'static str),
}

/// Something on this machine failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The session store.
    #[error("session store: {0}")]
    Store(#[source] Box<dyn core::error::Error + Send + Sync>),
    /// What the carrier stores on this machine: a full disk, say.
    #[error("{0}")]
    Storage(String),
    /// The carrier.
    #[error("{0}")]
    Carrier(#[source] Box<dyn core::error::Error + Send + Sync>),
    /// The session task has ended; open the sessions again.
    #[error("the session task has ended")]
    Stopped,
}

fn name_of(culprit: Culprit) -> String {
    match culprit {
        Culprit::Host => "the host".to_owned(),
        Culprit::Party(party) => format!("party {party}"),
    }
}

impl SessionError {
    /// The parties it names: empty unless a peer is at fault or missing.
    #[must_use]
    pub fn blamed(&self) -> Members {
        match self {
            Self::Peer(blame) => blame.parties(),
            Self::Incomplete { missing, .. } | Self::NoRoom(missing) => *missing,
            Self::Misuse(_) | Self::Refused(_) | Self::Local(_) | Self::Defect(_) => Members::NONE,
        }
    }

    /// Whether parties were merely silent or out of reach, as opposed to misbehaving.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Incomplete { .. } | Self::NoRoom(_) => true,
            Self::Peer(blame) => match &blame.fault {
                Fault::Silent { .. } | Fault::Unreachable | Fault::Left => true,
                Fault::GaveUp(reason) => {
                    matches!(**reason, Reason::Silent { .. } | Reason::Gone { .. })
                }
                _ => false,
            },
            Self::Misuse(_) | Self::Refused(_) | Self::Local(_) | Self::Defect(_) => false,
        }
    }
}

impl Blame {
    /// The parties it names. An accusation without proof names accuser and accused: one of them is
    /// at fault, and nobody else can tell which.
    #[must_use]
    pub fn parties(&self) -> Members {
        match (&self.fault, self.culprit) {
            (Fault::Silent { all, .. }, _) => *all,
            (Fault::GaveUp(reason), Culprit::Party(party)) => reason.accused().with(party),
            (_, Culprit::Party(party)) => Members::NONE.with(party),
            (_, Culprit::Host) => Members::NONE,
        }
    }
}
