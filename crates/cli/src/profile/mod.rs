//! A profile: the folder that holds all state of one identity.
//!
//! ```text
//! profile.toml   relays to receive on, which way to send, policy (written with comments, edited by its owner)
//! key            the store key, readable by its owner only; or key.sealed, under a passphrase (`key`)
//! lock           held while a process uses the profile
//! agent.db       connections of sessions, ratchets, messages on their way
//! contacts.db    the same of contacts, and contact addresses; contacts: their names
//! codes          links that codes of the last day led to, so that a broken-off command goes on
//! devices        other devices of this profile and of its contacts
//! files/         files on their way to and from contacts, what is known of them: one for each contact
//! session.db     sessions and protocol runs
//! mark           tells older copies of the databases of sessions from those in use; contacts.mark: of contacts.db
//! daemon/        where `junto daemon` listens
//! bls/           key shares, each sealed with the store key
//! ```
//!
//! Everything secret is sealed under the store key: records of the databases one by one, the other files whole. What
//! protects the store key protects all of it (`docs/decisions/0011-records-are-sealed-one-by-one.md`).

mod backup;
mod check;
mod command;
mod key;
mod passphrase;

pub(crate) use backup::{Contents, Restored, refuse_occupied, restore_for, write_behind};
pub(crate) use command::run;
pub(crate) use key::is_protected;
pub(crate) use passphrase::{Source, ask, can_ask, read_first_line, read_secret_line};

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use junto_crypto::aead::StoreKey;
use junto_crypto::ed25519::SigningKey;
use junto_crypto::kdf::hkdf_sha256;
use junto_tls::files::{self, Mode};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::{Context, Exit, Failure};
use crate::random;
use crate::way::Routing;

const CONFIG_TEMPLATE: &str = r#"# Junto profile. Flags on the command line win over this file.

# Relays that this identity receives on, in order of preference, for example
#   relays = ["smp://FINGERPRINT@relay.example.org:5223"]
# `junto relay init` makes one and prints its address. A party that names none
# uses the relay that the session's link proposes.
relays = []

# When to send through the relays above, so that the relays of others do not see
# where you are (they see your relay instead, and yours does not see the queue):
#   "unknown"      to relays that are not listed above
#   "unprotected"  the same, unless `socks` hides your address already
#   "always"       to all relays, if another one is there to go through
#   "never"        always send directly
routing = "unknown"
# Whether to send directly after all where no relay of yours passes it on. A
# hostile relay can make that so, and then sees where you are.
routing_fallback = false

# SOCKS5 server to connect through, for example Tor's:
#   socks = "127.0.0.1:9050"
# Then it resolves the names of relays, also .onion names. Empty: none.
socks = ""

# How other parties' identities are treated:
#   "anonymous"  nothing links one session to another
#   "tofu"       remember a party's profile key, stop when it changes
#   "pinned"     only the profile keys listed in `pinned`, or in the file of
#                `--parties-file`; `junto profile key` prints the one of a profile
policy = "anonymous"
pinned = []
"#;

/// What `profile.toml` says.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProfileConfig {
    #[serde(default)]
    pub(crate) relays: Vec<String>,
    #[serde(default)]
    pub(crate) routing: Routing,
    #[serde(default)]
    pub(crate) routing_fallback: bool,
    #[serde(default)]
    pub(crate) socks: String,
    #[serde(default)]
    pub(crate) policy: Policy,
    #[serde(default)]
    pub(crate) pinned: Vec<String>,
}

/// Identity policy of a profile (design decision D3).
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Policy {
    /// Nothing links one session to another.
    #[default]
    Anonymous,
    /// Remember a party's profile key; stop when it changes.
    Tofu,
    /// Only profile keys listed in the profile.
    Pinned,
}

/// Refuses a damaged profile, which is not to replace a good backup; closes its databases.
pub(crate) fn refuse_damaged(profile: &Profile) -> Result<(), Failure> {
    check::look(profile).failure().map_or(Ok(()), Err)
}

/// An opened profile, locked for this process.
pub(crate) struct Profile {
    dir: PathBuf,
    pub(crate) config: ProfileConfig,
    pub(crate) key: StoreKey,
    _lock: File,
}

impl Profile {
    /// Opens the profile at `dir`, or makes one there on first use.
    ///
    /// # Errors
    /// Refused when another process has it open, when other users can read the key, when the
    /// passphrase is missing or wrong.
    pub(crate) fn open(dir: &Path, passphrase: &Source) -> Result<Self, Failure> {
        make_private_dir(dir)?;
        refuse_shared_dir(dir)?;
        let lock = lock(&dir.join("lock"))?;
        let config = load_config(&dir.join("profile.toml"))?;
        let key = key::open(dir, passphrase)?;
        Ok(Profile {
            dir: dir.to_path_buf(),
            config,
            key,
            _lock: lock,
        })
    }

    /// The folder itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A key of its own for each database, so that a record of one never opens in the other.
    pub(crate) fn database_key(&self, name: &str) -> StoreKey {
        database_key(&self.key, name)
    }

    /// Writes a sealed file below the profile so that a crash leaves the old or the new one, never a part.
    pub(crate) fn write_sealed(&self, relative: &str, plaintext: &[u8]) -> Result<(), Failure> {
        let path = self.dir.join(relative);
        if let Some(parent) = path.parent() {
            make_private_dir(parent)?;
        }
        let sealed = self
            .key
            .seal(relative.as_bytes(), plaintext, &mut random())
            .context(format_args!("cannot seal {}", path.display()))?;
        write_private(&path, &sealed)
    }

    /// Removes a sealed file, if there is one.
    pub(crate) fn remove_sealed(&self, relative: &str) -> Result<(), Failure> {
        let path = self.dir.join(relative);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::failed(
                format_args!("cannot remove {}: {error}", path.display()),
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The sealed files of a folder of the profile, as [`Profile::read_sealed`] wants them; none if there is no such folder.
    pub(crate) fn sealed_in(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let path = self.dir.join(folder);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context(format_args!("cannot read {}", path.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.context(format_args!("cannot read {}", path.display()))?;
            let name = entry.file_name();
            // What a crash left half written counts for nothing.
            let name = name.to_str().filter(|name| !name.ends_with(".new"));
            names.extend(name.map(|name| format!("{folder}/{name}")));
        }
        Ok(names)
    }

    /// The profile's long-term key; made on first use.
    pub(crate) fn identity(&self) -> Result<SigningKey, Failure> {
        const FILE: &str = "identity";
        if let Some(seed) = self.read_sealed(FILE)? {
            let seed: &[u8; 32] = seed
                .as_slice()
                .try_into()
                .map_err(|_| Failure::failed("the identity file is damaged"))?;
            return Ok(SigningKey::from_seed(seed));
        }
        let key = SigningKey::generate(&mut random());
        self.write_sealed(FILE, key.seed().as_slice())?;
        Ok(key)
    }

    /// Reads a sealed file; `None` where there is none.
    pub(crate) fn read_sealed(
        &self,
        relative: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let path = self.dir.join(relative);
        let sealed = match fs::read(&path) {
            Ok(sealed) => sealed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::failed(format_args!(
                    "cannot read {}: {error}",
                    path.display()
                )));
            }
        };
        let plaintext = self.key.open(relative.as_bytes(), &sealed).map_err(|_| {
            Failure::failed(format_args!(
                "{} is damaged or belongs to another profile; it is left untouched",
                path.display()
            ))
            .help("restore it from a backup")
        })?;
        Ok(Some(plaintext))
    }
}

/// What tells older copies of a profile's databases, restored from a backup say, from those in use: each
/// opening leaves a fresh mark in all of them, and in a file beside them. Using an old copy could send
/// something else in the place of what was sent already, and with keys that were used already.
///
/// It cannot tell when all files of the profile went back together.
#[derive(Clone)]
pub(crate) struct Succession {
    /// Where the marks are kept.
    file: &'static str,
    /// What the databases may say; nothing if it is not known, and then they may say anything.
    accepted: Vec<[u8; 16]>,
    next: [u8; 16],
}

impl Succession {
    /// Of the databases of sessions.
    pub(crate) const SESSIONS: &'static str = "mark";
    /// Of the database of contacts.
    pub(crate) const CONTACTS: &'static str = "contacts.mark";

    /// Begins an opening. Until [`Succession::finish`] the file names the mark before and the next one: the
    /// process may die when some databases have one and some the other.
    pub(crate) fn begin(profile: &Profile, file: &'static str) -> Result<Self, Failure> {
        use rand_core::Rng;
        let stored = profile.read_sealed(file)?;
        let (accepted, odd) = match &stored {
            None => (Vec::new(), false),
            Some(stored) => {
                let (marks, rest) = stored.as_chunks::<16>();
                (marks.to_vec(), !rest.is_empty())
            }
        };
        if odd || accepted.len() > 2 {
            return Err(Failure::failed(format_args!(
                "{} is damaged; nothing was changed",
                profile.dir.join(file).display()
            ))
            .help("restore it from a backup"));
        }
        if let [_, next] = accepted[..] {
            return Ok(Self {
                file,
                accepted,
                next,
            });
        }
        let mut next = [0; 16];
        random().fill_bytes(&mut next);
        if let [before] = accepted[..] {
            profile.write_sealed(file, &[before, next].concat())?;
            return Ok(Self {
                file,
                accepted: vec![before, next],
                next,
            });
        }
        Ok(Self {
            file,
            accepted,
            next,
        })
    }

    /// The mark to leave in a database that has this one; none if the database is an older copy.
    pub(crate) fn succeed(&self, found: Option<[u8; 16]>) -> Option<[u8; 16]> {
        let known =
            found.is_none_or(|found| self.accepted.is_empty() || self.accepted.contains(&found));
        known.then_some(self.next)
    }

    /// All databases have the next mark.
    pub(crate) fn finish(self, profile: &Profile) -> Result<(), Failure> {
        profile.write_sealed(self.file, &self.next)
    }
}

/// The default place of a profile: the user's data folder.
pub(crate) fn default_dir() -> Result<PathBuf, Failure> {
    use etcetera::BaseStrategy;
    let base = etcetera::choose_base_strategy().context("cannot find the user's data folder")?;
    Ok(base.data_dir().join("junto").join("default"))
}

pub(crate) fn make_private_dir(dir: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|error| {
        Failure::failed(format_args!(
            "cannot make the folder {}: {error}",
            dir.display()
        ))
        .help("name another one with `--profile DIR`")
    })
}

/// Whoever may write into the folder could put its own key or database there, or a link to a file that
/// we would overwrite.
pub(crate) fn refuse_shared_dir(dir: &Path) -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(dir)
            .context(format_args!("cannot read {}", dir.display()))?
            .permissions()
            .mode();
        if mode & 0o022 != 0 {
            return Err(Failure::refused(format_args!(
                "other users can write into {}",
                dir.display()
            ))
            .help(format_args!("run `chmod 700 {}`", dir.display())));
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    // Whoever may open it may also lock it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options
        .open(path)
        .context(format_args!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::Error(error)) => Err(Failure::failed(format_args!(
            "cannot lock {}: {error}",
            path.display()
        ))),
        Err(fs::TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Refused,
            format_args!("another process uses this profile ({})", path.display()),
        )
        .help("wait until it ends, or use another profile with `--profile DIR`; if it is a command of yours that waits for others, end it with Ctrl-C: nothing is lost, and it goes on when you run it again. If it is `junto daemon`, ask that (docs/guides/daemon.md)")),
    }
}

fn load_config(path: &Path) -> Result<ProfileConfig, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            Failure::usage(format_args!("{}: {error}", path.display()))
                .help("correct the file and try again")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(path, CONFIG_TEMPLATE.as_bytes())?;
            toml::from_str(CONFIG_TEMPLATE).context("the built-in profile template")
        }
        Err(error) => Err(Failure::failed(format_args!(
            "cannot read {}: {error}",
            path.display()
        ))),
    }
}

/// See [`Profile::database_key`].
fn database_key(key: &StoreKey, name: &str) -> StoreKey {
    let key = hkdf_sha256::<32>(b"junto profile store", key.as_bytes(), name.as_bytes());
    StoreKey::from_bytes(&key)
}

/// Writes a file that only its owner can read, in one step.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    files::replace(path, bytes, Mode::Private)
        .context(format_args!("cannot write {}", path.display()))
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_that_others_can_write_into_is_no_profile() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, refused) in [(0o777, true), (0o1777, true), (0o720, true), (0o755, false)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let opened = Profile::open(dir.path(), &Source::None);
            assert_eq!(opened.is_err(), refused, "{mode:o}");
            if let Err(failure) = opened {
                assert_eq!(failure.exit, Exit::Refused);
                assert!(!dir.path().join("key").exists());
            }
        }
    }
}
