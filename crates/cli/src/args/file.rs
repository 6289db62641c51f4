//! Files to and from contacts.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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

#[cfg(test)]
mod tests {
    use super::size;

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
