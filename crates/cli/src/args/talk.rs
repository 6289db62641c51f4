//! Messages to and from a session or a contact.

use clap::Args;

use super::Patience;

/// Whom a message is for or from.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct Whom {
    /// Name of the session
    #[arg(long)]
    session: Option<String>,
    /// Name of the contact
    #[arg(long, value_name = "NAME")]
    pub(crate) contact: Option<String>,
}

impl Whom {
    /// The session's name; there is one unless there is a contact's.
    pub(crate) fn session(&self) -> &str {
        self.session.as_deref().unwrap_or_default()
    }
}

#[derive(Args, Debug)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// Number or name of the party to send to [default: all others]
    #[arg(long, value_name = "PARTY", conflicts_with = "contact")]
    pub(crate) to: Option<String>,
    /// The message [default: all of stdin]
    pub(crate) message: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Patience,
}

#[derive(Args, Debug)]
pub(crate) struct Recv {
    #[command(flatten)]
    pub(crate) whom: Whom,
    /// End after this many messages
    #[arg(long, default_value_t = 1)]
    pub(crate) count: u64,
    #[command(flatten)]
    pub(crate) wait: Patience,
}

#[derive(Args, Debug)]
pub(crate) struct Chat {
    /// Name of the session
    #[arg(long)]
    pub(crate) session: String,
}
