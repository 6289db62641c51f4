//! Forming and inspecting sessions.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Patience;
use crate::failure::Failure;
use crate::profile::Policy;

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Open a session: prints a link for the others, waits until all have joined
    ///
    /// While it waits this is the session's lobby: it says who comes and how many are missing, `junto session show` (when it does not run) who has asked,
    /// `junto session drop` turns one away, and `junto session wait` goes on.
    New {
        /// Number of parties, yourself included
        #[arg(long, value_parser = clap::value_parser!(u16).range(2..=64))]
        parties: u16,
        /// Name of the session, for all parties
        #[arg(long, default_value = "session")]
        name: String,
        #[command(flatten)]
        seat: Seat,
        /// How the parties' identities are treated [default: the profile's]
        #[arg(long)]
        policy: Option<Policy>,
        #[command(flatten)]
        code: OfferCode,
        #[command(flatten)]
        wait: Patience,
    },
    /// Join a session by its link or code
    Join {
        /// The link (junto:…) or code (7-crossover-clockwork) that the host gave you, or `-` to read it from stdin
        ///
        /// Without one, `--lan` lists the codes that are announced near here, and asks for yours.
        #[arg(required_unless_present = "lan")]
        link: Option<String>,
        #[command(flatten)]
        code: CodeRelay,
        #[command(flatten)]
        seat: Seat,
        #[command(flatten)]
        wait: Patience,
    },
    /// Go on waiting for a session that has not formed yet
    Wait {
        /// Name of the session
        session: String,
        /// Relay to receive on as well once it has formed; up to three. A `session new` that was ended does not remember its further ones
        #[arg(long = "relay", value_name = "URI")]
        relays: Vec<String>,
        #[command(flatten)]
        code: OfferCode,
        #[command(flatten)]
        wait: Patience,
    },
    /// Receive in a session on one more relay: it survives the death of every relay but one
    ///
    /// Every party sends what it says to you to all of your relays; each party chooses its own. Waits until all know,
    /// for which they have to run a command in the session as well. Four relays at most. List them in profile.toml: what you send
    /// to a relay that is not listed there may go through another one, and dies with that.
    AddRelay {
        /// Name of the session
        session: String,
        /// Relay to receive on as well, `smp://FINGERPRINT@host:port`
        #[arg(long, value_name = "URI")]
        relay: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// Receive in a session on one relay less: one that is gone for good, say
    ///
    /// Frees its place for another one, of which there are four. What still lies there comes, if the relay is there. Not
    /// the last one that the others know: add another one first.
    RemoveRelay {
        /// Name of the session
        session: String,
        /// Relay to receive on no more
        #[arg(long, value_name = "URI")]
        relay: String,
    },
    /// List the sessions of the profile
    List,
    /// List the codes that can be used in the local network: their numbers and relays, not their words
    ///
    /// They are announced by `--lan` of the commands that give a code. Anybody in the network can announce anything.
    Near,
    /// Show a session: parties, safety code, state, and what each relay sees
    Show {
        /// Name of the session
        session: String,
    },
    /// Turn away somebody who asked to join and never came: the place is free again
    ///
    /// For the host, until as many have asked as there are places. A place stays with who asked first, so
    /// one who asks and vanishes keeps the others waiting. If `junto session new` or `wait` is still
    /// running, end it with Ctrl-C: nothing is lost. `junto session show` lists who asked, by number; after
    /// this, `junto session wait` goes on. Once all have come the parties are fixed, and nobody can take the
    /// place of one that vanishes then: dropping it ends the session for all, and they hear why.
    Drop {
        /// Name of the session
        session: String,
        /// Number of the joiner
        #[arg(long, value_name = "NUMBER")]
        joiner: u8,
    },
    /// Record that you compared the safety code with the others, by voice or in person
    Verify {
        /// Name of the session
        session: String,
        /// The code that the others read to you; refused if it differs
        #[arg(long, value_name = "CODE")]
        code: String,
    },
    /// Leave a session and delete its connections
    ///
    /// Keys that were made in it can no longer sign or be refreshed, so with such keys it is refused
    /// unless forced; `junto bls reshare` in another session takes a key there first.
    Close {
        /// Name of the session
        session: String,
        /// Even if keys of this profile need it
        #[arg(long)]
        force: bool,
    },
}

/// Where a party of a session receives, and what it is called.
#[derive(Args, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Relay to receive on, `smp://FINGERPRINT@host:port` [default: the profile's first; who joins without one: the link's]
    ///
    /// Given again, up to four times: receive on these as well, so that the session survives the death of every relay but one
    /// (as `junto session add-relay` does later).
    #[arg(long = "relay", value_name = "URI")]
    pub(crate) relays: Vec<String>,
    /// What you call yourself; the others see it, and it proves nothing
    #[arg(long = "as", value_name = "NAME", default_value = "")]
    pub(crate) nickname: String,
    /// File of the profile keys that may take part; nobody else is let in, and none but these is joined
    ///
    /// TOML: a `[[party]]` for each, with `name = "…"` and `key = "…"`, the latter as `junto profile key` prints it. All parties
    /// can use the same file. A new session then has the policy `pinned`.
    #[arg(long, value_name = "FILE")]
    pub(crate) parties_file: Option<PathBuf>,
}

/// Whether a link can be had by a code as well.
#[derive(Args, Debug)]
pub(crate) struct OfferCode {
    /// Print a short code to be said aloud, like 7-crossover-clockwork, in place of the link
    ///
    /// As many as are missing can use it (one, if it is for a contact), within 10 minutes and while this command runs. The
    /// first wrong try ends it, and this command with exit code 5: nobody can guess on. The same command again makes
    /// a new one for a contact, `junto session wait NAME --code` for a session.
    #[arg(long)]
    pub(crate) code: bool,
    #[command(flatten)]
    pub(crate) relay: CodeRelay,
}

impl OfferCode {
    /// Whether the options suit each other.
    ///
    /// # Errors
    /// A usage error if they do not.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.relay.lan && !self.code {
            true => Err(Failure::usage(
                "`--lan` tells the local network of a code, and goes with `--code`",
            )),
            false => Ok(()),
        }
    }
}

/// Where a code leads to a link.
#[derive(Args, Debug)]
pub(crate) struct CodeRelay {
    /// Relay of the code, if it is not the one to receive on: both sides must name the same
    #[arg(long, value_name = "URI")]
    pub(crate) code_relay: Option<String>,
    /// With a new code: tell the local network its number and relay, and not its words. To use one: find its relay there
    ///
    /// Everybody in the network sees that junto is used here, and on which relay. Who does not know the words gets nothing.
    #[arg(long)]
    pub(crate) lan: bool,
}
