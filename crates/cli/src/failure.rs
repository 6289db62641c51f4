//! How a command fails: an exit code that scripts can rely on, what happened, and what to do about it.

use std::fmt;

/// Exit codes of the CLI contract. Success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command could not do its work.
    Failed = 1,
    /// The command line or an input file makes no sense.
    Usage = 2,
    /// A relay or a party is unreachable or did not answer in time.
    Unreachable = 3,
    /// A party broke the protocol, and is named.
    Misbehaved = 4,
    /// A policy or a verification said no.
    Refused = 5,
    /// A PIN is wrong, and guesses are left.
    WrongPin = 6,
    /// No guess is left: what was stored is erased.
    Erased = 7,
}

/// Why a command ended without success.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Of which kind.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The parties at fault, where there are some: their numbers, with `, ` between them.
    pub party: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Failure {
            exit,
            message: message.to_string(),
            help: None,
            party: None,
        }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Refused, message)
    }

    /// Of two, the one that somebody has to know: who broke the protocol, or what this machine cannot do,
    /// before who was not there.
    pub(crate) fn or_graver(self, other: Option<Failure>) -> Self {
        let gravity = |failure: &Failure| match failure.exit {
            Exit::Unreachable => 0,
            Exit::Failed | Exit::Usage | Exit::Refused | Exit::WrongPin | Exit::Erased => 1,
            Exit::Misbehaved => 2,
        };
        match other {
            Some(other) if gravity(&other) > gravity(&self) => other,
            Some(_) | None => self,
        }
    }

    /// Says what the user can do.
    pub(crate) fn help(mut self, help: impl fmt::Display) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Says how to do that.
    pub(crate) fn by(self, how: impl fmt::Display) -> Self {
        match self.help.clone() {
            Some(help) => self.help(format_args!("{help}: {how}")),
            None => self.help(how),
        }
    }

    /// Names the party at fault.
    pub(crate) fn party(mut self, party: impl fmt::Display) -> Self {
        self.party = Some(party.to_string());
        self
    }
}

/// Puts "what we were doing" before an error of a library.
pub(crate) trait Context<T> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::failed(format_args!("{doing}: {error}")))
    }
}
