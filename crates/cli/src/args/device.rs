//! The other devices of a profile.

use clap::Subcommand;

use super::Patience;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// On the new device: shows a link, as a QR code on a terminal, and waits for the other one
    ///
    /// The other device runs `junto device add LINK`. Then both show a code of six digits: compare them, and type on
    /// each the code that the other one shows (a script writes it to standard input). Another code means that
    /// somebody else has opened the link: it ends with exit code 5, and nothing is kept. The link is for one attempt.
    Link {
        /// What this device is called [default: device- and four digits]
        #[arg(long)]
        name: Option<String>,
        /// Relay to receive on, `smp://FINGERPRINT@host:port` [default: the profile's first]
        #[arg(long, value_name = "URI")]
        relay: Option<String>,
        #[command(flatten)]
        wait: Patience,
    },
    /// On a device that you have: adds the new one that shows this link
    ///
    /// Shows a code, and asks for the one that the new device shows (standard input). Then each contact is told of the
    /// new device, and learns of it with its next command; so do the other devices. What is under way goes on with the
    /// next command about contacts.
    Add {
        /// The link that the new device shows (junto:device/…), or `-` to read it from stdin
        link: String,
        /// What this device is called [default: what it was called before, or device- and four digits]
        #[arg(long)]
        name: Option<String>,
        /// Relay to receive on, `smp://FINGERPRINT@host:port` [default: the profile's first]
        #[arg(long, value_name = "URI")]
        relay: Option<String>,
        #[command(flatten)]
        wait: Patience,
    },
    /// List the devices of the profile
    List,
    /// Revoke a device that is lost, stolen or not used any more: it gets nothing new
    ///
    /// Any device of the profile may revoke any other one. Contacts and the other devices end their connections with it
    /// as soon as they hear of it, with their next command; what it has read before stays readable there. It cannot
    /// come back: linked again, it is another device. Devices that it has introduced to this one are revoked with it,
    /// as it may have been in other hands then: `--keep` those that are yours.
    Revoke {
        /// Name of the device, or the first digits of its id; or the whole id of one that is not known here
        device: String,
        /// A device that it has introduced and that is yours; may be given several times
        #[arg(long, value_name = "DEVICE")]
        keep: Vec<String>,
    },
    /// Ask contacts to send to one device only, or to `all`
    Prefer {
        /// Name of the device, or the first digits of its id; or `all`
        device: String,
    },
}
