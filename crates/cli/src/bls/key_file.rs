//! A key in the profile: one sealed file, replaced as a whole.
//!
//! It holds the share that signs, and every newer one that this party has confirmed without knowing
//! yet whether all others did. Both in one file: no crash can part them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use junto_bls::{
    Certificate, Epoch, KeyPublic, KeyShare, PartyIndex, Pending, PublicKey, Setup, ShareIndex,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::order::{Barred, Origin, Standing};
use crate::failure::{Context, Exit, Failure};
use crate::profile::Profile;

/// Longest key name, in bytes; a name becomes a file name.
const NAME_MAX: usize = 64;
/// Runs of one key in one session that may be undecided at once; each takes a malicious party that
/// broke it off.
const UNDECIDED_MAX: usize = 64;
/// What a party says that ends a run for want of room.
pub(super) const NO_ROOM: &str = "too many runs of this key were broken off at the end";
const NO_ROOM_HELP: &str = "reshare it in another session, without whoever breaks them off";
/// What is written.
const FORMAT: u8 = 2;

/// A key of this profile.
#[derive(Debug, Default)]
pub(crate) struct KeyFile {
    /// The share that signs; none while the run that makes the key is undecided.
    pub(crate) held: Option<Arc<Held>>,
    /// What this party has confirmed since, in that order.
    pub(crate) undecided: Vec<Undecided>,
}

/// A share that may be used.
#[derive(Debug)]
pub(crate) struct Held {
    /// This party's share.
    pub(crate) share: KeyShare,
    /// The signatures of all parties of the run that made this epoch.
    pub(crate) certificate: Certificate,
    /// That run.
    pub(crate) origin: Origin,
}

/// A share that this party has confirmed. It is not to be used before its certificate comes, from
/// anybody; then all honest parties have theirs.
#[derive(Debug)]
pub(crate) struct Undecided {
    /// The share.
    pub(crate) pending: Pending,
    /// The run that makes it.
    pub(crate) origin: Origin,
}

/// The same, as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u8,
    held: Option<StoredHeld>,
    undecided: Vec<Zeroizing<String>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StoredHeld {
    share: Zeroizing<String>,
    certificate: String,
}

impl KeyFile {
    /// The key of that name.
    ///
    /// # Errors
    /// If there is none, or the file is damaged.
    pub(crate) fn load(profile: &Profile, name: &str) -> Result<Self, Failure> {
        Self::find(profile, name)?.ok_or_else(|| {
            Failure::usage(format_args!("there is no key `{name}` in this profile"))
                .help("`junto bls list` shows the keys; `junto bls keygen` makes one")
        })
    }

    /// The key of that name, if there is one.
    ///
    /// # Errors
    /// If the file is damaged.
    pub(crate) fn find(profile: &Profile, name: &str) -> Result<Option<Self>, Failure> {
        let Some(bytes) = profile.read_sealed(&path(name)?)? else {
            return Ok(None);
        };
        let damaged = || {
            Failure::failed(format_args!(
                "the file of key `{name}` is damaged; it is left untouched"
            ))
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        Self::from_stored(&stored).map(Some).ok_or_else(damaged)
    }

    fn from_stored(stored: &Stored) -> Option<Self> {
        (stored.format == FORMAT).then_some(())?;
        let held = match &stored.held {
            Some(held) => {
                let share = Zeroizing::new(hex::decode(held.share.as_str()).ok()?);
                let certificate = hex::decode(&held.certificate).ok()?;
                let certificate = Certificate::decode(&certificate).ok()?;
                Some(Arc::new(Held {
                    share: KeyShare::decode(&share).ok()?,
                    origin: Origin::of(certificate.setup())?,
                    certificate,
                }))
            }
            None => None,
        };
        let undecided = stored.undecided.iter().map(|text| {
            let bytes = Zeroizing::new(hex::decode(text.as_str()).ok()?);
            Undecided::new(Pending::decode(&bytes).ok()?)
        });
        Some(KeyFile {
            held,
            undecided: undecided.collect::<Option<_>>()?,
        })
    }

    /// Replaces the key of that name; afterwards whatever is not in it is gone.
    pub(crate) fn store(&self, profile: &Profile, name: &str) -> Result<(), Failure> {
        let held = self.held.as_ref().map(|held| StoredHeld {
            share: Zeroizing::new(hex::encode(held.share.encode().as_slice())),
            certificate: hex::encode(held.certificate.encode()),
        });
        let undecided = self.undecided.iter();
        let undecided = undecided
            .map(|run| Zeroizing::new(hex::encode(run.pending.encode().as_slice())))
            .collect();
        let stored = Stored {
            format: FORMAT,
            held,
            undecided,
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&stored).context("the key file")?);
        profile.write_sealed(&path(name)?, &bytes)
    }

    /// The share that signs.
    ///
    /// # Errors
    /// If no certificate of it has come yet.
    pub(crate) fn usable(&self, name: &str) -> Result<&Held, Failure> {
        self.held.as_deref().ok_or_else(|| uncertified(name))
    }

    /// What the order of runs depends on.
    pub(crate) fn standing(&self) -> Standing<'_> {
        Standing {
            held: self.held.as_deref(),
            undecided: &self.undecided,
        }
    }

    /// The run with its share, if this party has confirmed it and does not know yet whether all have.
    pub(crate) fn confirmed(&self, run: &Origin) -> Option<&Undecided> {
        self.undecided.iter().find(|it| it.origin == *run)
    }

    /// The undecided run of that setup.
    pub(crate) fn undecided_run(&self, setup: &Setup) -> Option<&Undecided> {
        self.undecided.iter().find(|it| it.pending.setup() == setup)
    }

    /// The sessions in which a certificate of this key may come.
    pub(crate) fn sessions(&self) -> BTreeSet<&str> {
        let held = self.held.iter().map(|held| &held.origin);
        let undecided = self.undecided.iter().map(|run| &run.origin);
        let origins = held.chain(undecided);
        origins.map(|origin| origin.session.as_str()).collect()
    }

    /// Whether another run of that session fits in beside those that are undecided.
    ///
    /// # Errors
    /// If too many were broken off.
    pub(crate) fn has_room(&self, session: &str) -> Result<(), Failure> {
        room(&self.undecided, session)
    }

    /// The public key, which is the same in all epochs.
    pub(crate) fn public_key(&self) -> Option<PublicKey> {
        let undecided = self.undecided.first().map(|run| run.pending.key());
        let held = self.held.as_ref().map(|held| held.share.public());
        held.or(undecided).map(KeyPublic::public_key)
    }

    /// Makes the run's share the one that signs, if the certificate is one for an undecided run. Gone are
    /// then the share of before, and those of runs confirmed earlier, which it gives back: whoever has
    /// their certificates gets this one. Shares confirmed later stay undecided.
    pub(crate) fn activate(&mut self, certificate: &Certificate) -> Option<Vec<Setup>> {
        let fits = |run: &Undecided| run.pending.check(certificate).is_ok();
        let place = self.undecided.iter().position(fits)?;
        let later = self.undecided.split_off(place + 1);
        let confirmed = core::mem::replace(&mut self.undecided, later);
        let mut gone: Vec<Setup> = Vec::with_capacity(place);
        for Undecided { pending, origin } in confirmed {
            if pending.setup() != certificate.setup() {
                gone.push(pending.setup().clone());
                continue;
            }
            let Ok(Epoch {
                share: Some(share), ..
            }) = pending.activate(certificate)
            else {
                return None; // every party of our runs holds a share
            };
            self.held = Some(Arc::new(Held {
                share,
                certificate: certificate.clone(),
                origin,
            }));
        }
        Some(gone)
    }

    /// The names of all keys of the profile.
    pub(crate) fn names(profile: &Profile) -> Result<Vec<String>, Failure> {
        let dir = profile.dir().join("bls");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(Failure::failed(format_args!(
                    "cannot read {}: {error}",
                    dir.display()
                )));
            }
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".key")
                    .map(str::to_owned)
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// The names of the keys whose shares sign, or will, in a session.
    pub(crate) fn of_session(profile: &Profile, session: &str) -> Result<Vec<String>, Failure> {
        let mut found = Vec::new();
        for name in Self::names(profile)? {
            let file = Self::load(profile, &name)?;
            if file.sessions().contains(session) {
                found.push(name);
            }
        }
        Ok(found)
    }
}

/// There is a share, but not the certificate that makes it usable.
pub(crate) fn uncertified(name: &str) -> Failure {
    let message = format!("no other party has handed over the certificate of key `{name}` yet");
    Failure::new(Exit::Unreachable, message)
        .help("the share is kept; run the command again when another party has the key")
}

impl Held {
    /// Which party of the session is which holder.
    pub(crate) fn holders(&self) -> BTreeMap<PartyIndex, ShareIndex> {
        self.certificate.setup().holders()
    }
}

impl Undecided {
    fn new(pending: Pending) -> Option<Self> {
        let origin = Origin::of(pending.setup())?;
        Some(Undecided { pending, origin })
    }
}

/// Adds what this party is about to confirm to what is undecided. The same run again, after a crash,
/// is the same.
///
/// # Errors
/// If this party must not confirm it, or too much is undecided.
pub(crate) fn admit(
    held: Option<&Held>,
    undecided: &mut Vec<Undecided>,
    pending: Pending,
    abandon: bool,
) -> Result<(), Failure> {
    let standing = Standing { held, undecided };
    let barred = standing.may_confirm(pending.setup(), abandon);
    barred.map_err(|barred| barred_failure(&barred))?;
    let defect = || Failure::failed("this run has no number");
    let new = Undecided::new(pending).ok_or_else(defect)?;
    let same = |run: &&mut Undecided| run.pending.setup() == new.pending.setup();
    if let Some(known) = undecided.iter_mut().find(same) {
        // An earlier version did not store all that it takes to go on with the run.
        if !known.pending.can_resume() && known.pending.key() == new.pending.key() {
            *known = new;
        }
        return Ok(());
    }
    let known = undecided.iter().map(|run| run.pending.key());
    let mut known = known.chain(held.map(|held| held.share.public()));
    if known.any(|key| key.public_key() != new.pending.key().public_key()) {
        return Err(
            Failure::refused("another key of that name is in this profile")
                .help("choose another name"),
        );
    }
    room(undecided, &new.origin.session)?;
    undecided.push(new);
    Ok(())
}

fn room(undecided: &[Undecided], session: &str) -> Result<(), Failure> {
    let here = undecided.iter().filter(|run| run.origin.session == session);
    if here.count() < UNDECIDED_MAX {
        return Ok(());
    }
    Err(Failure::failed(NO_ROOM).help(NO_ROOM_HELP))
}

/// The same, as another party says it. It is named, and not called a cheat: it may be true.
pub(super) fn no_room_there(party: junto_session::PartyIndex) -> Failure {
    Failure::failed(format_args!(
        "party {party} says that it has no room for another run: {NO_ROOM}"
    ))
    .help("reshare it in another session, without whoever breaks them off: that party, if you know of no other")
    .party(party)
}

/// Why a run is not confirmed, to the user.
pub(crate) fn barred_failure(barred: &Barred) -> Failure {
    match barred {
        Barred::NoRun => Failure::failed("this run has no number"),
        Barred::Past(since) => Failure::failed(format_args!(
            "this party has confirmed `{}` since, which comes after this run",
            since.label
        ))
        .help("run the command again, all of you"),
        Barred::Elsewhere(latest) => Failure::refused(format_args!(
            "`{}` in session {} is undecided: some party may have the certificate that takes the key there",
            latest.label, latest.session
        ))
        .help("complete it: run the same reshare again, all of its parties. If one of them breaks it off for good, \
               reshare into a new session without that party, with `--abandon-pending` (see its help)"),
        Barred::OlderShare => Failure::failed(
            "the others start from an older share than this party holds",
        )
        .help("run the command again, all of you"),
    }
}

/// Where the key of that name is, below the profile.
///
/// # Errors
/// If the name is not fit for a file name.
pub(crate) fn path(name: &str) -> Result<String, Failure> {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fit) {
        return Err(
            Failure::usage(format_args!("`{name}` is no name for a key"))
                .help("use letters, digits, `-` and `_`, at most 64 of them"),
        );
    }
    Ok(format!("bls/{name}.key"))
}

/// When the key of that name was stored last.
pub(crate) fn written(profile: &Profile, name: &str) -> Option<SystemTime> {
    let file = profile.dir().join(path(name).ok()?);
    std::fs::metadata(file).and_then(|it| it.modified()).ok()
}
