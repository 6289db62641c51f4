//! The command line: what a person types, and the help that teaches it; a file for each family of commands.

mod bench;
mod bls;
mod contact;
mod device;
mod file;
mod profile;
mod relay;
mod run;
mod session;
mod talk;
mod vault;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use self::bench::BenchCommand;
pub(crate) use self::bls::BlsCommand;
pub(crate) use self::contact::{
    AddressCommand, Connect, ContactCommand, NewContact, NoiseCommand, QueueCommand, Spreading,
};
pub(crate) use self::device::DeviceCommand;
pub(crate) use self::file::{FileCommand, Stall};
pub(crate) use self::profile::{BackupPassphrase, ProfileCommand};
pub(crate) use self::relay::{Import, RelayCommand};
pub(crate) use self::run::{Paths, Run};
pub(crate) use self::session::{CodeRelay, OfferCode, Seat, SessionCommand};
pub(crate) use self::talk::{Chat, Recv, Send};
pub(crate) use self::vault::{Backup, PinSource, Reach, RealmCommand, Restore, VaultCommand};
use crate::failure::Failure;
use crate::output::Output;
use crate::profile::{Source, default_dir};
use crate::way::{Routing, Socks};

/// A private place to compute together.
///
/// A few parties exchange one link and get authenticated, end-to-end encrypted channels
/// through relays that cannot tell who talks with whom; on top, threshold signatures.
///
/// To see all of it on this machine: `junto demo`.
#[derive(Debug, Parser)]
#[command(name = "junto", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 a party or relay is unreachable or timed out,
4 a party misbehaved (named), 5 refused by policy or verification,
6 wrong PIN (the message says how many guesses are left), 7 no guess is left and all is erased.";

#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Folder with all state of one identity; made on first use [default: in your data folder]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "JUNTO_PROFILE",
        help_heading = "Global options"
    )]
    pub(crate) profile: Option<PathBuf>,
    /// File whose first line is the passphrase that protects the profile
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JUNTO_PASSPHRASE_FILE",
        help_heading = "Global options"
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Open file descriptor to read that passphrase from, for example of a pipe
    #[arg(
        long,
        global = true,
        value_name = "NUMBER",
        conflicts_with = "passphrase_file",
        help_heading = "Global options"
    )]
    pub(crate) passphrase_fd: Option<u32>,
    /// When to send through a relay of your own, so that others' relays do not see your address [default: the profile's]
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        env = "JUNTO_ROUTING",
        help_heading = "Global options"
    )]
    pub(crate) routing: Option<Routing>,
    /// Connect through this SOCKS5 server, for example Tor at 127.0.0.1:9050; `none` for none [default: the profile's]
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "JUNTO_SOCKS",
        help_heading = "Global options"
    )]
    pub(crate) socks: Option<Socks>,
    /// Print results as JSON, one object a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print no progress on stderr
    #[arg(long, short, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Log to stderr: -v what changes, -vv everything (never contents or secrets)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

impl Global {
    /// The folder of the profile that the command is about.
    ///
    /// # Errors
    /// If the user has no data folder.
    pub(crate) fn profile_dir(&self) -> Result<PathBuf, Failure> {
        match &self.profile {
            Some(dir) => Ok(dir.clone()),
            None => default_dir(),
        }
    }

    /// How results and messages are shown.
    pub(crate) fn output(&self) -> Output {
        Output {
            json: self.json,
            quiet: self.quiet,
        }
    }

    /// Where the profile's passphrase comes from.
    pub(crate) fn passphrase(&self) -> Source {
        match (self.passphrase_fd, &self.passphrase_file) {
            (Some(number), _) => Source::Descriptor(number),
            (None, Some(file)) => Source::File(file.clone()),
            (None, None) => Source::None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole thing on this machine: a relay and N strangers who sign together
    ///
    /// Starts an embedded relay on loopback and N separate processes, each with a profile of its own,
    /// who meet by link, make a key together and sign with T of N. Then verifies the signature.
    Demo(Demo),
    /// Run a relay: a server that carries fixed-size blocks between queues
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Form and inspect sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Protect, back up, restore and check the profile, which holds all state of one identity
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Threshold BLS signatures: any T of N parties sign, fewer cannot
    #[command(subcommand)]
    Bls(BlsCommand),
    /// Run a program of which each party runs its part, over a session: MPyC and others
    ///
    /// Runs a program whose parties speak TCP with each other, unmodified, over a session: no port is
    /// opened to the network, no certificate made. Each party runs this command with the program on
    /// its own machine; whoever comes first waits for the others.
    ///
    ///   junto run --new 3 -- python3 secretsanta.py        prints a link for the other two
    ///   junto run --join 'LINK' -- python3 secretsanta.py
    ///   junto run --new 3 --code -- python3 secretsanta.py prints a code to be said aloud instead
    ///   junto run --join 7-crossover-clockwork -- python3 secretsanta.py
    ///   junto run --session run -- python3 secretsanta.py  once more, with the same parties
    ///
    /// MPyC programs get their arguments by themselves (-P for each party, and -I). For others, say
    /// where the peers go: {peers} (host:port of all parties in order, with commas), {peers_file} (a
    /// file of them, one a line), {id} (this party, from 0), {port} (where this one listens), and
    /// the letter n in such braces (how many there are):
    ///
    ///   junto run --session s -- ./program --me {id} --hosts {peers}
    ///
    /// or describe the program once in a file (docs/guides/programs.md) and name it by --adapter.
    ///
    /// The program's output stays its own: what junto says goes to stderr, or, with --json, in lines
    /// of their own to stdout before the program starts and after it has ended. Exit code 1 if the
    /// program fails here; a party that is not heard of, or whose program fails, is named.
    #[command(verbatim_doc_comment)]
    Run(Run),
    /// Connect to one peer through a link: an invitation or a contact address, full or short
    ///
    /// Opens a link of Junto or of SimpleX's apps, or a code that Junto gave for one. An invitation is for one peer: this waits until it has answered. At a
    /// contact address you ask, and its owner decides: this ends when the relay has the request, and
    /// `junto recv --contact NAME` waits for the answer.
    Connect(Connect),
    /// Contacts: peers that you talk with outside of sessions, and an address where others can ask to become one
    ///
    /// Alone it lists them, as `junto contact list` does.
    #[command(visible_alias = "contacts")]
    Contact {
        #[command(subcommand)]
        command: Option<ContactCommand>,
    },
    /// The other devices of the profile: link one by a QR code, list, revoke
    ///
    /// Each device has a profile folder, connections and keys of its own; nothing is copied from one to the other but
    /// names of contacts. Contacts that use Junto send to all devices; those of SimpleX's apps stay on the device that
    /// met them. Alone it lists them, as `junto device list` does.
    #[command(visible_alias = "devices")]
    Device {
        #[command(subcommand)]
        command: Option<DeviceCommand>,
    },
    /// Files of any size to and from contacts
    #[command(subcommand, visible_alias = "files")]
    File(FileCommand),
    /// Send one message to the other parties of a session, or to a contact
    Send(Send),
    /// Wait for messages of the other parties of a session, or of a contact
    Recv(Recv),
    /// Talk with the other parties of a session, line by line
    Chat(Chat),
    /// Serve the profile's contacts to programs in any language: JSON-RPC 2.0 over a Unix socket
    ///
    /// Prints where it listens: `daemon/socket` in the profile, which only its owner can reach. While it runs it
    /// is the one that uses the profile, so other commands on that profile are refused until it has ended. One object a line;
    /// docs/guides/daemon.md has the methods, and a client in Python.
    #[cfg(unix)]
    Daemon,
    /// Store the profile under a PIN with servers of which no few can guess it, and get it back; run such servers
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Measure this machine: figures beside a floor measured in the same run
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Number of parties, 2 to 64
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) parties: u16,
    /// How many of them must sign, 2 to N
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(2..=64))]
    pub(crate) threshold: u16,
    /// What they sign
    #[arg(long, default_value = "Junto: three strangers sign together")]
    pub(crate) message: String,
    /// Seconds until a step that does not finish counts as failed
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) timeout: u64,
    /// Keep the profiles and the relay's folder here instead of removing them
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Seconds to wait for the other parties before naming who is missing
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) timeout: u64,
}

impl Patience {
    pub(crate) fn patience(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
