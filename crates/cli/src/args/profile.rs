//! Looking after a profile.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// Print the profile's public key, for the others' `--parties-file` or `pinned`; made on first use
    ///
    /// Sessions show it to their parties if their policy is `tofu` or `pinned`, and to nobody if it is `anonymous`.
    Key,
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
