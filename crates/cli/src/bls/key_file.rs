//! A key share in the profile: one sealed file, replaced as a whole.

use std::collections::BTreeMap;

use junto_bls::{Certificate, KeyShare, PartyIndex, ShareIndex};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::{Context, Failure};
use crate::profile::Profile;

/// Longest key name, in bytes; a name becomes a file name.
const NAME_MAX: usize = 64;

/// A share and what belongs to it.
#[derive(Debug)]
pub(crate) struct KeyFile {
    /// This party's share.
    pub(crate) share: KeyShare,
    /// The signatures of all parties of the run that made this epoch.
    pub(crate) certificate: Certificate,
    /// Id of the session whose parties hold the key.
    pub(crate) session: String,
    /// Which party of the session is which holder.
    pub(crate) holders: BTreeMap<PartyIndex, ShareIndex>,
    /// Number of the run in the session that made this epoch: the next one gets the next number.
    pub(crate) run: u32,
    /// Label of that run's execution.
    pub(crate) label: String,
}

/// The same, as it is written.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u8,
    session: String,
    holders: BTreeMap<u8, u8>,
    run: u32,
    label: String,
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
        let share = Zeroizing::new(hex::decode(stored.share.as_str()).ok()?);
        let holders = stored
            .holders
            .iter()
            .map(|(party, holder)| Some((PartyIndex::new(*party)?, ShareIndex::new(*holder)?)));
        (stored.format == 1).then_some(())?;
        Some(KeyFile {
            share: KeyShare::decode(&share).ok()?,
            certificate: Certificate::decode(&hex::decode(&stored.certificate).ok()?).ok()?,
            session: stored.session.clone(),
            holders: holders.collect::<Option<_>>()?,
            run: stored.run,
            label: stored.label.clone(),
        })
    }

    /// Replaces the key of that name; afterwards the shares of older epochs are gone.
    pub(crate) fn store(&self, profile: &Profile, name: &str) -> Result<(), Failure> {
        let stored = Stored {
            format: 1,
            session: self.session.clone(),
            holders: self
                .holders
                .iter()
                .map(|(party, holder)| (party.value(), holder.value()))
                .collect(),
            run: self.run,
            label: self.label.clone(),
            share: Zeroizing::new(hex::encode(self.share.encode().as_slice())),
            certificate: hex::encode(self.certificate.encode()),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&stored).context("the key file")?);
        profile.write_sealed(&path(name)?, &bytes)
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
