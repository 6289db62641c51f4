//! The vault: realms that keep what a PIN gets back, and their clients.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Store all of the profile, key shares too, under a PIN: sealed in a file, its key with the realms
    ///
    /// The file can lie anywhere; without enough realms and the PIN nobody opens it, and wrong PINs run out. Once more
    /// replaces what was stored before: copies of the former file open no more. Nobody else may use the profile meanwhile.
    /// Exit code 3 with a result on stdout: it is stored, but some realms do not count it yet; run it again.
    Backup(Backup),
    /// Make a profile from such a file, with the PIN; its folder must be empty or absent
    ///
    /// Exit code 6: the PIN is wrong, and the message says how many guesses are left. Exit code 7: no guess is left, and
    /// the realms have erased what they kept. After 3 the same PIN again is the same guess. The profile is what a backup brings back: see `junto help profile restore`.
    /// It gets the passphrase of `--passphrase-file`, or none, also if the original had one: the result says so.
    Restore(Restore),
    /// Have all realms erase what they keep for this set file: no PIN opens the sealed file any more
    Delete(Reach),
    /// Ask the realms what they keep and how many guesses are left; needs no PIN and costs none
    Status(Reach),
    /// Make a tenant: a name and a key, on whose word realms let clients in
    Tenant {
        /// File to make, for clients; it holds the key
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Its name
        #[arg(long, default_value = "junto")]
        name: String,
    },
    /// Make a set file: which realms keep parts, how many of them give a secret back, and whose it is
    ///
    /// It is for one user. Keep it as you keep the sealed file: both are needed to get back. Whoever has it can spend
    /// guesses and delete, and read nothing.
    Set {
        /// File to make
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How many realms give back: more than half of them
        #[arg(long)]
        threshold: u8,
        /// File made by `junto vault tenant`
        #[arg(long, value_name = "FILE")]
        tenant: PathBuf,
        /// What the realms' machines have to be, in JSON: programs, chips, and how well they are kept
        ///
        /// With it, realms must show evidence of real hardware (SGX, TDX, SEV-SNP) that fits; `docs/operating/vault.md` has the form.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// The files `realm.json` that the realms' operators gave
        #[arg(required = true, value_name = "REALM")]
        realms: Vec<PathBuf>,
    },
    /// Run a realm, or three of them for trying
    #[command(subcommand)]
    Realm(RealmCommand),
}

#[derive(Args, Debug)]
pub(crate) struct Reach {
    /// File made by `junto vault set` or `junto vault realm try`
    #[arg(long, value_name = "FILE")]
    pub(crate) set: PathBuf,
    /// Accept realms whose evidence is simulated, and proves nothing about their machines
    #[arg(long)]
    pub(crate) accept_simulated: bool,
    /// Seconds until a realm that does not answer counts as absent
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct PinSource {
    /// File whose first line is the PIN [default: ask]
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// The sealed file; one that an earlier backup made is replaced when the realms have the new key
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) pin: PinSource,
    /// Wrong PINs in a row until a realm erases its part
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) guesses: u16,
    /// Replace FILE whatever it is; otherwise only an earlier backup with the same set file is replaced
    #[arg(long)]
    pub(crate) replace: bool,
    /// Go on when realms are absent, as long as enough are there: any further one that is lost may be one too many
    #[arg(long)]
    pub(crate) allow_absent: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The sealed file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) pin: PinSource,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RealmCommand {
    /// Make a realm's folder: its key and commented settings; prints what clients need to know of it
    ///
    /// With `--frontends N`, clients connect to N processes that stand before the replicas and pass questions on: the file for
    /// clients names these alone, and the replicas' ports can be closed to everybody else. Frontends keep nothing: one that
    /// ends is started again and nobody notices, and one may be added anywhere by `junto vault realm frontend`.
    Init {
        /// Folder to make; it must be empty or absent
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Host name or address by which clients reach it
        #[arg(long)]
        host: String,
        /// TCP port of its first replica; the others have the next ones
        #[arg(long, default_value_t = 5230, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// Replicas: any minority of them may be lost
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=13))]
        replicas: u8,
        /// Replicas whose memory may be turned back by who runs the machine, without a guess more
        #[arg(long, default_value_t = 0)]
        rollbacks: u8,
        /// Frontends before its replicas, at the ports behind theirs: clients are told of these alone
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
        frontends: u8,
        /// A tenant whose users are let in: NAME=KEY, as `junto vault tenant` prints it; may be repeated
        #[arg(
            long,
            required_unless_present = "group_of",
            conflicts_with = "group_of",
            value_name = "NAME=KEY"
        )]
        tenant: Vec<String>,
        /// Make another group of the realm of that folder: with its key and tenants, and no records until `move` brings some
        #[arg(long, value_name = "DIR")]
        group_of: Option<PathBuf>,
    },
    /// Run a realm until Ctrl-C or SIGTERM
    ///
    /// Its replicas are processes of this machine. What they keep is in their memory only: a realm that is started again
    /// is empty, and its users have to store again; until then the other realms give back. A group that records have left by
    /// `move` begins with none: another one may have them. Ends with exit code 1 when
    /// so many replicas are lost that it can never answer again. The realm's frontends (`frontends` in `realm.toml`) run beside
    /// the replicas; one that ends is started again.
    Start {
        /// Folder made by `junto vault realm init`
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Move records from one running group of a realm to another, while clients go on
    ///
    /// To replace lost replicas, run a new release, or spread load: make another group with `init --group-of`, start it, and
    /// move all records or a part of them there. Clients are sent on by the group that had them: keep it running until all know
    /// the other's addresses. Whatever ends the command, the same command goes on from there; until the records have left,
    /// `--take-back` gives up.
    Move {
        /// Folder of the group that has the records
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Folder of the group that gets them
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// How much of what the first group serves, in a hundred
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
        /// Give up what a command that was broken off began; what has left already is carried on
        #[arg(long, conflicts_with = "percent")]
        take_back: bool,
        /// Seconds to wait for a group that does not answer
        #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
        timeout: u64,
    },
    /// Run one more frontend of a realm until Ctrl-C or SIGTERM
    ///
    /// Clients connect to a frontend in place of the replicas. It shows evidence and the realm's signature under its key, passes
    /// each question on to the group that has the record, wherever that has moved, and passes back what a replica there has
    /// signed: it can keep an answer back, and cannot make one. It sees what it passes on, and could use up the guesses of
    /// whoever asks through it, so it is a part of the realm. It keeps nothing: kill it, start it again, or run several,
    /// and no guess is lost or counted twice. It goes to the replicas that the folder's `realm.toml` names, and follows to the
    /// other groups of the realm from there. Set files have to name its address: put it into `addresses` of `realm.json`.
    #[command(after_long_help = "Example:\n  \
        junto vault realm frontend --dir realm --port 5300\n\n\
        Frontends that run with the realm: junto vault realm init --frontends 2 ...")]
    Frontend {
        /// Folder of the realm, or of one of its groups: its key, and where its replicas are
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// TCP port on which clients reach it, at the realm's host
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
    /// FOR TRYING: run three realms on this machine, with a set file for them, until Ctrl-C or SIGTERM
    ///
    /// One machine and one operator instead of three, evidence that proves nothing, and nothing survives the end of the
    /// command. Never store in it what you would miss.
    Try {
        /// Folder to make; it must be empty or absent
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Replicas of each realm
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=13))]
        replicas: u8,
        /// Frontends before each realm: the set file names these alone
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
        frontends: u8,
    },
    /// One replica, as `start` runs it: speaks lines of JSON with who started it
    #[command(hide = true)]
    Replica {
        /// Where clients reach it
        #[arg(long)]
        listen: String,
    },
    /// One frontend, as `start` and `frontend` run it: speaks lines of JSON with who started it
    #[command(hide = true)]
    Door {
        /// Where clients reach it
        #[arg(long)]
        listen: String,
    },
}
