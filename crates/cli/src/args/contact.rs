//! Contacts, their queues and addresses.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use junto_agent::{NOISE_INTERVAL_MAX, NOISE_INTERVAL_MIN, Pace};

use super::{CodeRelay, OfferCode, Patience};

#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// The link (simplex:/… or https://…) or code (7-crossover-clockwork), or `-` to read it from stdin
    pub(crate) link: String,
    #[command(flatten)]
    pub(crate) code: CodeRelay,
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
    ///
    /// For a contact that was invited before and has not come, it prints the same link, and waits for it.
    Invite {
        #[command(flatten)]
        new: NewContact,
        #[command(flatten)]
        code: OfferCode,
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
    /// Waits until the contact uses it, which takes some words in both directions: it has to run a command as well, at
    /// the same time best (`junto recv --count 99` say). The old queue is emptied and deleted, and nothing is lost. It happens by itself every four weeks. Without --relay it is another relay of
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
    /// Hide from relays when you write to a contact, and whether: something goes at each time, whatever it is
    ///
    /// What you send waits for its time; the rest is noise, which nobody but the contact's agent can tell from a
    /// message. It begins when the contact has said that it understands (`junto contact show` tells); SimpleX's agents
    /// do not, and for a contact of their apps this is refused (exit code 5). A contact without noise answers each message alike, but what it writes itself can be seen: best both
    /// choose it. It lasts as long as something runs, so leave `junto daemon` running: a command that connects,
    /// sends and ends is seen to come and go. docs/guides/noise.md has what it hides, and what it costs.
    Noise {
        /// Name of the contact
        name: String,
        #[command(subcommand)]
        how: NoiseCommand,
    },
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
    /// understand several queues: for a contact of their apps this is refused (exit code 5). Each run adds one.
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

#[derive(Debug, Subcommand)]
pub(crate) enum NoiseCommand {
    /// One message at each interval
    Constant {
        /// How long from one to the next: 250ms, 2s, 1m …; what you send waits for half of it on average
        #[arg(long, value_name = "TIME", default_value = "2s", value_parser = read_pace)]
        every: Pace,
    },
    /// One message after each of random intervals, so that no rhythm shows whose it is
    Random {
        /// How long from one to the next on average: 250ms, 30s, 5m …; what you send waits for as long on average
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = read_pace)]
        mean: Pace,
    },
    /// None of your own: what you send goes at once, and can be seen to; but the contact's noise is answered, which
    /// costs a message for each of its messages, four a second at most
    Answer,
    /// None, and the contact's is not answered: what you send goes at once, and can be seen to; what waits by now as well
    Off,
}

/// A number and a unit.
fn read_pace(text: &str) -> Result<Pace, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let millis = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    let millis = number
        .zip(millis)
        .and_then(|(number, unit)| number.checked_mul(unit));
    let pace = millis.and_then(|millis| Pace::new(Duration::from_millis(millis)));
    pace.ok_or_else(|| {
        format!(
            "a time is a whole number of ms, s, m or h, such as 2s, from {} ms to {} m",
            NOISE_INTERVAL_MIN.as_millis(),
            NOISE_INTERVAL_MAX.as_secs() / 60
        )
    })
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
        /// Seconds to wait for the relay
        #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
        timeout: u64,
    },
    /// Print the address's link, and what it says
    Show,
    /// Change what the link says; the link stays the same
    Describe {
        /// The new text
        #[arg(required_unless_present = "said")]
        about: Option<String>,
        /// The same, as with `new`
        #[arg(
            long = "about",
            id = "said",
            value_name = "TEXT",
            conflicts_with = "about"
        )]
        said: Option<String>,
    },
    /// Close the address: its link leads nowhere from then on
    ///
    /// Contacts stay. Who asked before can still be accepted or rejected. A new address has another link.
    Close,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times_have_a_unit_and_bounds() {
        for (text, millis) in [
            ("250ms", 250),
            ("2s", 2_000),
            ("1m", 60_000),
            ("1h", 3_600_000),
        ] {
            let pace = read_pace(text).unwrap();
            assert_eq!(pace.interval(), Duration::from_millis(millis));
        }
        for text in [
            "",
            "2",
            "s",
            "2 s",
            "-2s",
            "2S",
            "249ms",
            "61m",
            "2h",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(read_pace(text).is_err(), "{text}");
        }
    }
}
