//! Running a program over a session.

use clap::{Args, ValueEnum};

use super::Patience;
use super::{OfferCode, Seat};
use crate::profile::Policy;

/// Runs a program whose parties speak TCP with each other, unmodified, over a session: no port is
/// opened to the network, no certificate made. Each party runs this command with the program on its
/// own machine; whoever comes first waits for the others.
///
///   junto run --new 3 -- python3 secretsanta.py        prints a link for the other two
///   junto run --join 'LINK' -- python3 secretsanta.py
///   junto run --new 3 --code -- python3 secretsanta.py prints a code to be said aloud instead
///   junto run --join 7-crossover-clockwork -- python3 secretsanta.py
///   junto run --session run -- python3 secretsanta.py  once more, with the same parties
///
/// MPyC programs get their arguments by themselves (-P for each party, and -I). For others, say where
/// the peers go: {peers} (host:port of all parties in order, with commas), {peers_file} (a file of them, one a
/// line), {id} (this party, from 0), {n} (how many), {port} (where this one listens):
///
///   junto run --session s -- ./program --me {id} --hosts {peers}
///
/// or describe the program once in a file (docs/guides/programs.md) and name it by --adapter.
///
/// The program's output stays its own: what junto says goes to stderr, or, with --json, in lines of their own
/// to stdout before the program starts and after it has ended. Exit code 1 if the program fails here; a party
/// that is not heard of, or whose program fails, is named.
#[derive(Args, Debug)]
#[command(verbatim_doc_comment)]
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
