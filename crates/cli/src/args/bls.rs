//! Threshold BLS signatures.

use std::path::PathBuf;

use clap::Subcommand;

use super::Patience;

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
