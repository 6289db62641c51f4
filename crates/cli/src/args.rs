//! The command line: what a person types, and the help that teaches it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use junto_smp::address::ServerAddress;

use crate::failure::Failure;
use crate::output::Output;
use crate::profile::{Policy, Source, default_dir};
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
4 a party misbehaved (named), 5 refused by policy or verification.";

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
    Run(Run),
    /// Connect to one peer through a link: an invitation or a contact address, full or short
    Connect(Connect),
    /// Contacts: peers that you talk with outside of sessions, and an address where others can ask to become one
    #[command(subcommand, visible_alias = "contacts")]
    Contact(ContactCommand),
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
    /// Measure this machine: figures beside a floor measured in the same run
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// Starts an embedded relay on loopback and N separate processes, each with a profile of its own,
/// who meet by link, make a key together and sign with T of N. Then verifies the signature.
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

#[derive(Debug, Subcommand)]
pub(crate) enum RelayCommand {
    /// Make a relay's folder: identity, certificate and a commented configuration
    Init {
        /// Folder to make; it must be empty or absent
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Host name or address by which clients reach the relay
        #[arg(long)]
        host: String,
        /// TCP port
        #[arg(long, default_value_t = 5223, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// Run the relay until Ctrl-C or SIGTERM; SIGHUP makes it read relay.toml and its certificate again
    ///
    /// The log goes to stderr, at the level in relay.toml unless -v or JUNTO_LOG says otherwise. It
    /// never names a client, an address of one, or a queue.
    Start {
        /// Folder made by `junto relay init`
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Look for mistakes in a relay's settings and files, without starting it
    ///
    /// Names every problem with its line in relay.toml and what to do about it, and gives advice
    /// about what works but may be unwise. Exit code 0 if the relay can start, 2 if not.
    Check {
        /// Folder made by `junto relay init`
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Back a relay up into a new file, while it runs
    ///
    /// The file holds settings, certificates, the key of the server's certificate, queues and
    /// undelivered messages: everything that was answered before. It does not hold ca.key.
    Export {
        /// Folder of the relay
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// File to make; an existing one is never overwritten
        file: PathBuf,
    },
    /// Make a relay's folder from a backup, or from a reference (SimpleX) server that does not run
    ///
    /// From a reference server come its address (certificates and the server's key) and all queues
    /// with keys, short links, notifiers, services and blocks; not settings or undelivered messages.
    Import(Import),
    /// Give a relay a new certificate under the same address; it shows it after SIGHUP
    RotateCertificate {
        /// Folder of the relay
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Folder with ca.key and ca.crt, if they are not kept with the relay
        #[arg(long, value_name = "DIR")]
        ca: Option<PathBuf>,
    },
    /// Give the profile the password that a relay demands of who creates queues on it
    ///
    /// Its operator tells it to you. It is kept sealed in the profile, and never part of a link: each
    /// party that receives on that relay needs it.
    Login {
        /// The relay's address, smp://FINGERPRINT@host:port
        address: String,
        /// File whose first line is the password [default: the first line of stdin]
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Forget the password instead
        #[arg(long, conflicts_with = "password_file")]
        forget: bool,
    },
    /// Ask a relay whether it is there, speaks our protocol and is the one that its address names
    Status {
        /// The relay's address, smp://FINGERPRINT@host:port
        #[arg(required_unless_present = "dir")]
        address: Option<String>,
        /// Folder of a relay on this machine, instead of its address
        #[arg(long, value_name = "DIR", conflicts_with = "address")]
        dir: Option<PathBuf>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Folder to make; it must be empty or absent
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// A file written by `junto relay export`
    #[arg(required_unless_present = "from_simplex_store_log")]
    pub(crate) file: Option<PathBuf>,
    /// The reference server's store log, usually /var/opt/simplex/smp-server-store.log
    #[arg(long, value_name = "FILE", conflicts_with = "file", requires_all = ["host"])]
    pub(crate) from_simplex_store_log: Option<PathBuf>,
    /// Folder with the reference server's ca.crt, server.crt and server.key
    #[arg(long, value_name = "DIR", default_value = "/etc/opt/simplex")]
    pub(crate) simplex_config: PathBuf,
    /// The host name in the reference server's address
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// The port in the reference server's address
    #[arg(long, default_value_t = 5223, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: u16,
    /// Leave out lines of the store log that make no sense, and count them, instead of giving up
    #[arg(long)]
    pub(crate) skip_damaged: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Open a session: prints a link for the others, waits until all have joined
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
        wait: Patience,
    },
    /// Join a session by its link
    Join {
        /// The link that the host gave you (junto:…), or `-` to read it from stdin
        link: String,
        #[command(flatten)]
        seat: Seat,
        #[command(flatten)]
        wait: Patience,
    },
    /// Go on waiting for a session that has not formed yet
    Wait {
        /// Name of the session
        session: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// List the sessions of the profile
    List,
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

#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// Protect the profile with a passphrase, or change the one that it has
    ///
    /// The passphrase seals the key under which all secrets of the profile are sealed, so changing it takes no
    /// longer however much there is. The new one is asked for unless a file is given, and never taken from the
    /// command line or the environment. Whoever has an old copy of the profile opens that with the passphrase
    /// of then.
    Passphrase {
        /// File whose first line is the new passphrase [default: ask]
        #[arg(long, value_name = "FILE", conflicts_with = "remove")]
        new_passphrase_file: Option<PathBuf>,
        /// Protect it by file permissions only from now on
        #[arg(long)]
        remove: bool,
    },
    /// Write all of the profile into one encrypted file
    ///
    /// No other command may use the profile meanwhile. The file has a passphrase of its own.
    Backup {
        /// File to make; an existing one is never overwritten
        file: PathBuf,
        #[command(flatten)]
        passphrase: BackupPassphrase,
    },
    /// Make a profile from a backup; its folder must be empty or absent
    ///
    /// What the profile said since the backup is not known in it, so nothing is said again in its place: sessions can
    /// only be looked at and closed, runs in progress are dropped, and connections send again once their peer has
    /// answered with fresh keys. Shares of keys are as they were: `junto bls reshare` takes them into a new session.
    /// The profile gets the backup's passphrase; `junto profile passphrase` changes it.
    Restore {
        /// A file written by `junto profile backup`
        file: PathBuf,
        #[command(flatten)]
        passphrase: BackupPassphrase,
    },
    /// Look at everything in the profile for damage, and say what to do about it
    ///
    /// Pages of the databases, the seal of every record and file, whether they can be read and fit together. Exit
    /// code 1 if anything is wrong.
    Check,
}

#[derive(Args, Debug)]
pub(crate) struct BackupPassphrase {
    /// File whose first line is the passphrase of the backup [default: ask]
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_passphrase_file: Option<PathBuf>,
}

/// Where a party of a session receives, and what it is called.
#[derive(Args, Debug)]
pub(crate) struct Seat {
    /// Relay to receive on, `smp://FINGERPRINT@host:port` [default: the profile's first; who joins without one: the link's]
    #[arg(long, value_name = "URI")]
    pub(crate) relay: Option<String>,
    /// What you call yourself; the others see it, and it proves nothing
    #[arg(long = "as", value_name = "NAME", default_value = "")]
    pub(crate) nickname: String,
}

/// Runs a program whose parties speak TCP with each other, unmodified, over a session: no port is
/// opened to the network, no certificate made. Each party runs this command with the program on its
/// own machine; whoever comes first waits for the others.
///
///   junto run --new 3 -- python3 secretsanta.py        prints a link for the other two
///   junto run --join 'LINK' -- python3 secretsanta.py
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
    /// Join a session by its link first (`-` reads it from stdin)
    #[arg(long, value_name = "LINK")]
    pub(crate) join: Option<String>,
    /// Name of the new session, for all parties [default: run, or run-2 and so on]
    #[arg(long, requires = "new")]
    pub(crate) name: Option<String>,
    /// How the parties' identities are treated in the new session [default: the profile's]
    #[arg(long, requires = "new")]
    pub(crate) policy: Option<Policy>,
    #[command(flatten)]
    pub(crate) seat: Seat,
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

#[derive(Debug, Subcommand)]
pub(crate) enum BlsCommand {
    /// Make a key together: all parties of the session run this, nobody ever holds the whole key
    Keygen {
        /// Name of the session
        #[arg(long)]
        session: String,
        /// How many parties must sign, 2 to the number of parties
        #[arg(long)]
        threshold: u16,
        /// Name of the key in your profile
        #[arg(long, default_value = "key")]
        name: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// Sign together: at least T of the parties run this with the same message
    Sign {
        /// Name of the key
        #[arg(long)]
        key: String,
        /// File with the message, `-` for stdin
        #[arg(long, value_name = "FILE")]
        message_file: PathBuf,
        #[command(flatten)]
        wait: Patience,
    },
    /// Check a signature; needs no profile
    Verify {
        /// The public key, 48 bytes in hex
        #[arg(long, value_name = "HEX")]
        public_key: String,
        /// The signature, 96 bytes in hex
        #[arg(long, value_name = "HEX")]
        signature: String,
        /// File with the message, `-` for stdin
        #[arg(long, value_name = "FILE")]
        message_file: PathBuf,
    },
    /// Replace all shares by fresh ones under the same public key; old shares become useless
    Refresh {
        /// Name of the key
        #[arg(long)]
        key: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// Hand the key to the parties of another session, with a new threshold, under the same public key
    ///
    /// The new session must hold at least T of the present holders; everyone in it runs this. Who holds
    /// no share yet says which key it expects, with `--public-key`.
    Reshare {
        /// Name of the key; who holds none yet gives the name that it shall have
        #[arg(long)]
        key: String,
        /// Session whose parties shall hold the key [default: the session that holds it]
        #[arg(long)]
        session: Option<String>,
        /// The new threshold
        #[arg(long)]
        threshold: u16,
        /// The public key that you expect, 48 bytes in hex: whoever holds no share yet must give it
        ///
        /// Get it from a holder whom you trust, by other means than this session (`junto bls list` shows
        /// it there): otherwise the others could hand you a share of a key of their own.
        #[arg(long, value_name = "HEX")]
        public_key: Option<String>,
        /// Go on although a reshare into yet another session is undecided
        ///
        /// Some party broke that one off at its end and may have completed it for itself. If all honest
        /// parties of it give it up for the same new session, nothing is lost. Otherwise those who did
        /// not may keep shares that do not fit yours: talk to them first.
        #[arg(long, requires = "session")]
        abandon_pending: bool,
        #[command(flatten)]
        wait: Patience,
    },
    /// List the keys of the profile
    List,
    /// Check evidence of a party's misbehaviour that a failed run left behind; needs no profile
    Judge {
        /// The evidence file
        file: PathBuf,
    },
}

/// Opens a link of Junto or of SimpleX's apps. An invitation is for one peer: this waits until it has answered. At a
/// contact address you ask, and its owner decides: this ends when the relay has the request; run it again, or
/// `junto recv --contact NAME`, to wait for the answer.
#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// The link (simplex:/… or https://…), or `-` to read it from stdin
    pub(crate) link: String,
    #[command(flatten)]
    pub(crate) new: NewContact,
    #[command(flatten)]
    pub(crate) wait: Patience,
}

/// What a contact is called, and where we receive what it says.
#[derive(Args, Debug)]
pub(crate) struct NewContact {
    /// What you call the contact [default: contact-1 and so on]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What you call yourself; the other side sees it, and it proves nothing
    #[arg(long = "as", value_name = "NAME", default_value = "")]
    pub(crate) nickname: String,
    /// Relay to receive on, `smp://FINGERPRINT@host:port` [default: the profile's first]
    #[arg(long, value_name = "URI")]
    pub(crate) relay: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContactCommand {
    /// Invite one peer: prints a link for it, waits until it has connected
    Invite {
        #[command(flatten)]
        new: NewContact,
        #[command(flatten)]
        wait: Patience,
    },
    /// List the contacts of the profile, with the messages that have arrived here and are not read
    List,
    /// Your contact address: a link with which anybody can ask to become a contact
    #[command(subcommand)]
    Address(AddressCommand),
    /// List who asks at your contact address and waits for your answer
    ///
    /// At most 128 can wait, and after 128 at once one comes through each 5 seconds; further ones stay with the relay.
    Requests {
        /// Seconds to wait for a request, if there is none
        #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        timeout: u64,
    },
    /// Accept a request: the one who asked becomes a contact
    Accept {
        /// The request, as `junto contact requests` shows it; the first digits are enough
        request: String,
        #[command(flatten)]
        new: NewContact,
        #[command(flatten)]
        wait: Patience,
    },
    /// Reject a request; the one who asked is not told
    Reject {
        /// The request, as `junto contact requests` shows it; the first digits are enough
        request: String,
    },
    /// Show the connection with a contact: its relays and what they see, its keys, and what was lost or altered lately
    ///
    /// With what to do about it. `in-step` keys are as they should be; the last sixteen findings are kept.
    Show {
        /// Name of the contact
        name: String,
    },
    /// Receive what a contact sends on another queue from now on, on the same relay or another one
    ///
    /// Waits until the contact uses it, for which it has to run a command as well; the old queue is emptied and
    /// deleted, and nothing is lost. It happens by itself every four weeks. Without --relay it is another relay of
    /// the profile, if there is one. Run it again if it was interrupted.
    Rotate {
        /// Name of the contact
        name: String,
        /// Relay to receive on from now on [default: another one of the profile's, else the same]
        #[arg(long, value_name = "URI")]
        relay: Option<String>,
        #[command(flatten)]
        wait: Patience,
    },
    /// Receive from a contact on several queues, so that messages survive the death of all relays but one
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Agree new keys with a contact, if what it sends cannot be read any more
    ///
    /// The cause is most often that one side went back to an old copy of its profile. Waits until the contact has
    /// answered. What was encrypted with the old keys and not read is lost, and its number is told.
    Resync {
        /// Name of the contact
        name: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// End the connection with a contact, and forget what was not delivered
    Close {
        /// Name of the contact
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Receive on one more queue, beside those that there are; four at most
    ///
    /// Waits until the contact may send there, for which it has to run a command as well. SimpleX's agents do not
    /// understand several queues, and nothing happens then. Each run adds one.
    /// A command of the contact's that sends ends when one relay has the message; the copies for others may go out
    /// with its next command.
    Add {
        /// Name of the contact
        name: String,
        /// Relay that it is made on: another one than before, or nothing is won
        #[arg(long, value_name = "URI")]
        relay: String,
        #[command(flatten)]
        wait: Patience,
    },
    /// Receive on one queue less, for example of a relay that is gone for good
    Remove {
        /// Name of the contact
        name: String,
        /// Relay that it is on
        #[arg(long, value_name = "URI")]
        relay: String,
    },
    /// Choose how what you send goes to a contact that receives on several queues
    Spread {
        /// Name of the contact
        name: String,
        /// All messages to all queues, or each to one of them in turn, which is faster
        how: Spreading,
    },
}

/// See [`QueueCommand::Spread`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Spreading {
    /// Messages survive every relay but the last.
    Copies,
    /// Faster; what a relay takes and loses is lost, and named.
    Stripes,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AddressCommand {
    /// Make the address; prints its link. If there is one, prints that
    New {
        /// What the link says about you to whoever opens it, before asking
        #[arg(long, value_name = "TEXT", default_value = "")]
        about: String,
        /// Relay to receive requests on [default: the profile's first]
        #[arg(long, value_name = "URI")]
        relay: Option<String>,
    },
    /// Print the address's link, and what it says
    Show,
    /// Change what the link says; the link stays the same
    Describe {
        /// The new text
        about: String,
    },
    /// Close the address: its link leads nowhere from then on
    ///
    /// Contacts stay. Who asked before can still be accepted or rejected. A new address has another link.
    Close,
}

/// What is interrupted, by whatever, goes on with the same command: each side remembers what it has.
#[derive(Debug, Subcommand)]
pub(crate) enum FileCommand {
    /// Send files to a contact, one after the other
    ///
    /// Ends when the other side has all of them, whole and verified; it runs `junto file recv` meanwhile. A file
    /// that was interrupted goes on from what the other side has; one that has changed since begins anew. One that has
    /// arrived is not sent again, unless it has changed: after an interruption, run the same command.
    Send {
        /// Name of the contact
        #[arg(long, value_name = "NAME")]
        contact: String,
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Send also those that have arrived before
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        wait: Stall,
    },
    /// Receive files of a contact into a folder
    ///
    /// Takes whatever the contact offers, up to the limits. The name is the sender's, without what could do harm; an
    /// existing file is never overwritten (the new one gets a number). Only you can read the new file. Until all of it
    /// is here and verified it is called .junto-….part. A file that cannot go on here is reported and kept; the others
    /// come all the same, and `junto file cancel` gives it up.
    Recv {
        /// Name of the contact
        #[arg(long, value_name = "NAME")]
        contact: String,
        /// Folder to receive into; it must exist
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// End after this many files
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// Refuse larger files: bytes, or with K, M, G, T for powers of 1024
        #[arg(long, default_value = "1G", value_name = "SIZE", value_parser = size)]
        max_size: u64,
        #[command(flatten)]
        wait: Stall,
    },
    /// List the files that are not through yet, in both directions
    List {
        /// Name of the contact
        #[arg(long, value_name = "NAME")]
        contact: String,
    },
    /// Cancel a file, in whichever direction; the other side is told
    Cancel {
        /// Name of the contact
        #[arg(long, value_name = "NAME")]
        contact: String,
        /// The transfer, as `junto file list` shows it; the first digits are enough
        transfer: String,
    },
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Stall {
    /// Seconds without progress until the command gives up; it goes on when you run it again
    #[arg(long = "timeout", default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
}

impl Stall {
    pub(crate) fn patience(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.timeout)
    }
}

/// A number of bytes as people write it.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        Some(_) | None => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a number, or one with K, M, G or T".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is too large".to_owned())
}

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
    /// A connection between two programs of `junto run`, over queues and over the carrier in memory, against plain TCP
    Run {
        /// Small messages to send
        #[arg(long, default_value_t = 20_000)]
        messages: u32,
        /// MiB to send in bulk
        #[arg(long, default_value_t = 64)]
        bulk: u32,
    },
    /// A file from one agent to another through a relay, against the same bytes as bare messages
    Files {
        /// Size of the file in MiB; three are sent
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
        mib: u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_written_as_people_do() {
        for (text, bytes) in [("0", 0), ("17", 17), ("3k", 3 << 10), ("2G", 2 << 30)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "G", "-1", "1.5G", "1GB", "é", "99999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
