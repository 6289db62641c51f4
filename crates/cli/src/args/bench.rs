//! Measuring this machine.

use clap::Subcommand;
use junto_smp::address::ServerAddress;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The relay's message path, against the same blocks through the same TLS and cryptography
    Relay {
        /// Messages in each of three rounds
        #[arg(long, default_value_t = 10_000)]
        messages: u64,
        /// Threads of the relay
        #[arg(long, default_value_t = 1, value_parser = threads)]
        threads: usize,
        /// With a journal: `true` waits for the disk, `false` for the system only [default: in memory]
        #[arg(long, value_name = "SYNC")]
        journal: Option<bool>,
        /// The costs from 2 to 10,000 connections and 1 to 1,000,000 queues, on one thread and two, and
        /// the rate of one durable queue: about ten minutes, and 20,100 open files
        #[arg(long, conflicts_with_all = ["messages", "threads", "journal"])]
        curves: bool,
        /// Senders go through another relay as proxy: what each of the two has to do
        #[arg(long, conflicts_with_all = ["journal", "curves", "outside"])]
        proxy: bool,
        /// Load this running server of the protocol instead, whichever it is, without a floor; it must be on
        /// this machine and let everybody create queues
        #[arg(long, value_name = "ADDRESS", requires = "process", conflicts_with_all = ["threads", "journal", "curves"])]
        outside: Option<ServerAddress>,
        /// The number of that server's process, for its CPU time and memory
        #[arg(long, value_name = "PID", requires = "outside")]
        process: Option<u32>,
    },
    /// A session's send and receive, against the same bytes over plain TCP and over TLS
    Session {
        /// Small messages to send
        #[arg(long, default_value_t = 20_000)]
        messages: u32,
        /// Over the carrier in memory instead of queues: what the session itself costs
        #[arg(long)]
        memory: bool,
    },
    /// A connection between two programs of `junto run`, over queues, directly, and over the carrier in memory, against plain TCP
    ///
    /// The rows differ by one layer each: what the streams and the session take shows in memory, what agents, disk and relay take
    /// over a queue beside it, and what of that is waiting for one queue over several. The direct path is QUIC on loopback.
    Run {
        /// Small messages to send
        #[arg(long, default_value_t = 20_000)]
        messages: u32,
        /// MiB to send in bulk
        #[arg(long, default_value_t = 64)]
        bulk: u32,
        /// Queues of the last row, as of `junto run --stripes`
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=4))]
        stripes: u8,
        /// Milliseconds to the relay and as many back: it is on this machine, and far away all the same
        #[arg(long, default_value_t = 0, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=1000))]
        distance: u64,
    },
    /// A file from one agent to another through a relay, against the same bytes as bare messages
    Files {
        /// Size of the file in MiB; three are sent
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
        mib: u64,
    },
    /// Getting back by a PIN, over realms of one and more replicas on this machine, against consensus and cryptography alone
    ///
    /// Argon2id, which is the client's alone and takes longer than all of this, is measured by itself. About two minutes.
    Vault {
        /// Recoveries of one client after the other, for each shape
        #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
        recoveries: u16,
        /// Clients at once
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=200))]
        clients: u16,
        /// Records whose memory is measured
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        records: u32,
    },
    /// Key generation and signing, against bare `blst` calls
    Bls {
        /// Repetitions of each figure
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=256) => Ok(number),
        _ => Err("1 to 256".to_owned()),
    }
}
