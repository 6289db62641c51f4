//! What an operator types about a relay.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
