//! Running a program over a session.

use clap::{Args, ValueEnum};

use super::Patience;
use super::{OfferCode, Seat};
use crate::profile::Policy;

// What it does stands with the command in `mod.rs`: what stands here is shown nowhere.
#[derive(Args, Debug)]
#[group(id = "which", required = true, multiple = false, args = ["session", "new", "join"])]
pub(crate) struct Run {
    /// Session to run it in
    #[arg(long, value_name = "NAME")]
    pub(crate) session: Option<String>,
    /// Open a session of so many parties first, yourself included
    #[arg(long, value_name = "PARTIES", value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) new: Option<u16>,
    /// Join a session by its link or code first (`-` reads it from stdin)
    #[arg(long, value_name = "LINK|CODE")]
    pub(crate) join: Option<String>,
    /// Name of the new session, for all parties [default: run, or run-2 and so on]
    #[arg(long, requires = "new")]
    pub(crate) name: Option<String>,
    /// How the parties' identities are treated in the new session [default: the profile's]
    #[arg(long, requires = "new")]
    pub(crate) policy: Option<Policy>,
    #[command(flatten)]
    pub(crate) code: OfferCode,
    #[command(flatten)]
    pub(crate) seat: Seat,
    /// Receive over so many queues side by side: faster for much data, the more the farther the relay is; at most 4
    ///
    /// Each party chooses for what comes to it. The queues are made once, on the relay that it receives on, and stay for later runs in the session.
    #[arg(long, value_name = "QUEUES", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) stripes: u8,
    /// Which ways the program's bytes may go: a direct path tells the other parties your addresses, relays see less
    ///
    /// Direct paths are made between parties that both want them; `junto session show` says who learns what.
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = Paths::RelayOnly)]
    pub(crate) paths: Paths,
    /// How the program takes its peers: mpyc, tcp (placeholders), or a file that describes it [default: tcp if the command holds a placeholder, else mpyc]
    #[arg(long, value_name = "mpyc|tcp|FILE")]
    pub(crate) adapter: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Patience,
    /// Seconds without a sign of life from a party before it is named and the run ends
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(15..=604_800))]
    pub(crate) silence: u64,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Which ways what a program writes may go from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Paths {
    /// Over the relays
    RelayOnly,
    /// Directly where the other party wants it too and it works, else over the relays
    PreferDirect,
    /// Directly or not at all
    DirectOnly,
}
