//! Why a transfer stops.

use std::io;
use std::path::Path;

use junto_agent::{AgentError, ConnectionFault};

use crate::frame::Reason;
use crate::incoming::Fault;

/// Why a transfer does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The other side does not take the file: the transfer is over.
    #[error("the other side does not take it: {0}")]
    Refused(Reason),
    /// The other side does not send the file after all: the transfer is over.
    #[error("the other side does not send it after all: {0}")]
    Withdrawn(Reason),
    /// The other side broke the rules: the transfer is over.
    #[error("the other side broke the rules: {0}")]
    Peer(Fault),
    /// Nothing came of the other side for as long as the caller waits. Everything is kept.
    #[error("nothing came from the other side in time")]
    Silence {
        /// Whether the connection is stopped by ordinary messages that nobody has read.
        unread: bool,
    },
    /// Our file changed while it was sent: the transfer is over.
    #[error("the file has changed since it was offered")]
    Changed,
    /// Something of this machine. Everything is kept.
    #[error("{step}: {error}")]
    Local {
        /// What was tried.
        step: Step,
        /// What the system said.
        error: io::Error,
    },
    /// The agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The connection cannot go on.
    #[error(transparent)]
    Connection(ConnectionFault),
}

/// What is done with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Step {
    /// Reading the file to send.
    #[error("cannot read the file")]
    Read,
    /// Writing what comes.
    #[error("cannot write what came")]
    Write,
    /// Giving the file its name.
    #[error("cannot give the file its name")]
    Name,
    /// Keeping what is known about transfers.
    #[error("cannot keep what is known about transfers")]
    Record,
    /// A random number.
    #[error("no randomness")]
    Random,
}

/// Paths are recorded as text.
pub(crate) fn check_text(path: &Path, step: Step) -> Result<(), FilesError> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => {
            let what =
                "its name, or that of a folder that it is in, is not UTF-8: give it another one";
            let error = io::Error::new(io::ErrorKind::InvalidInput, what);
            Err(step.failed_at(path)(error))
        }
    }
}

impl Step {
    /// The same, of a file or folder that the user is to know of.
    pub(crate) fn failed_at(self, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
        move |error| {
            let text = format!("{}: {error}", path.display());
            let error = io::Error::new(error.kind(), text);
            FilesError::Local { step: self, error }
        }
    }

    pub(crate) fn failed(self) -> impl FnOnce(io::Error) -> FilesError {
        move |error| FilesError::Local { step: self, error }
    }
}
