//! Looking at everything in a profile for damage.

use std::path::Path;

use junto_agent::store::{SqliteStore, StoreError};
use junto_crypto::aead::StoreKey;
use serde::Serialize;

use super::{Profile, Succession};
use crate::bls::KeyFile;
use crate::failure::{Context, Failure};
use crate::relay::parse_address;
use crate::way::Socks;
use crate::{contact, parties};

/// What there is in a profile, and what is wrong with it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) connections: usize,
    pub(super) sessions: usize,
    /// Records in both databases.
    pub(super) records: usize,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// Key shares.
    pub(super) keys: usize,
    pub(super) problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    /// Where, below the profile.
    pub(super) file: String,
    pub(super) what: String,
    /// What to do about it.
    pub(super) advice: &'static str,
}

/// Files that are sealed whole, if they are there.
const SEALED: [&str; 7] = [
    "identity",
    "codes",
    "relay-passwords",
    "mark",
    "contacts.mark",
    "contacts",
    "devices",
];

const DATABASE: &str = "restore the profile from its latest backup into another folder (`junto profile restore`); keep this one, \
     untouched, until that works";
const KEY: &str = "this party's share is lost unless a backup has it: the other holders, if enough are left, give it a new one \
     with `junto bls reshare`";
const FILE: &str =
    "restore the profile from a backup, or remove the file to do without what it held";
const MARK: &str = "if no database was exchanged, remove it: a new one is made";
const SETTINGS: &str = "correct the line; `junto profile check` tells whether it is right then";
const OLDER: &str = "using it could repeat or contradict what was sent already, so no command does: put the newest copy back, or restore the \
     whole profile from its latest backup";

/// Looks at all of it. The databases are closed afterwards, with nothing left beside them.
pub(super) fn look(profile: &Profile) -> Report {
    let mut report = Report::default();
    look_at_settings(profile, &mut report);
    for name in ["agent.db", "contacts.db"] {
        let agent = profile.dir().join(name);
        if agent.exists() {
            match junto_agent::store::check(&agent, profile.database_key(name)) {
                Ok(contents) => {
                    report.connections += contents.connections;
                    report.records += contents.rows;
                    report.bytes += contents.bytes;
                    match mark_in(&agent, profile.database_key(name)) {
                        Ok(mark) => look_at_mark(profile, (name, mark), &mut report),
                        Err(error) => report.add(name, error, DATABASE),
                    }
                }
                Err(error) => report.add(name, error, DATABASE),
            }
        }
    }
    if profile.dir().join("session.db").exists() {
        match junto_session::store::check(profile.dir(), profile.database_key("session.db")) {
            Ok(contents) => {
                report.sessions = contents.sessions;
                report.records += contents.rows;
                report.bytes += contents.bytes;
                look_at_mark(profile, ("session.db", contents.mark), &mut report);
            }
            Err(error) => report.add("session.db", error, DATABASE),
        }
    }
    match KeyFile::names(profile) {
        Ok(names) => {
            for name in names {
                match KeyFile::load(profile, &name) {
                    Ok(_) => report.keys += 1,
                    Err(failure) => report.add(&format!("bls/{name}.key"), failure.message, KEY),
                }
            }
        }
        Err(failure) => report.add("bls", failure.message, FILE),
    }
    let mut sealed: Vec<String> = SEALED.map(str::to_owned).into();
    match profile.sealed_in(crate::file::FOLDER) {
        Ok(names) => sealed.extend(names),
        Err(failure) => report.add(crate::file::FOLDER, failure.message, FILE),
    }
    for name in sealed {
        let read = profile.read_sealed(&name);
        if let Err(failure) = read.and_then(|it| it.map_or(Ok(()), |it| fits(&name, &it))) {
            let advice = if name.ends_with("mark") { MARK } else { FILE };
            report.add(&name, failure.message, advice);
        }
    }
    report
}

/// Whether what a sealed file says can be read.
fn fits(name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let fits = match name {
        "identity" => bytes.len() == 32,
        Succession::SESSIONS | Succession::CONTACTS => {
            bytes.len().is_multiple_of(16) && bytes.len() <= 32
        }
        "codes" => std::str::from_utf8(bytes).is_ok(),
        "contacts" => return contact::check_book(bytes),
        "devices" => {
            let opened = junto_devices::Devices::open(bytes).map(drop);
            return opened.context("it cannot be read");
        }
        _ => true,
    };
    match fits {
        true => Ok(()),
        false => Err(Failure::failed("it cannot be read")),
    }
}

/// What would be found out only by the command that needs it.
fn look_at_settings(profile: &Profile, report: &mut Report) {
    let config = &profile.config;
    let relays = config.relays.iter().map(|it| parse_address(it).map(drop));
    let pinned = config.pinned.iter();
    let pinned = pinned.map(|it| parties::key_of(it, "`pinned`").map(drop));
    let socks = config.socks.parse::<Socks>().map(drop);
    let socks = socks.map_err(|error| Failure::usage(format_args!("`socks`: {error}")));
    for checked in relays.chain(pinned).chain([socks]) {
        if let Err(failure) = checked {
            report.add("profile.toml", failure.message, SETTINGS);
        }
    }
}

/// Tells a database that went back to an older copy, alone: all commands refuse it.
fn look_at_mark(profile: &Profile, (name, found): (&str, Option<[u8; 16]>), report: &mut Report) {
    let file = if name == "contacts.db" {
        Succession::CONTACTS
    } else {
        Succession::SESSIONS
    };
    let kept = profile.read_sealed(file).ok().flatten();
    // Where none is kept anything goes.
    if let (Some(found), Some(kept)) = (found, kept)
        && !kept.is_empty()
        && !kept.as_chunks::<16>().0.contains(&found)
    {
        report.add(
            name,
            "it is an older copy than the one that was used last",
            OLDER,
        );
    }
}

/// What the last opening left in an agent's database. It stays as it is.
fn mark_in(path: &Path, key: StoreKey) -> Result<Option<[u8; 16]>, StoreError> {
    let mut mark = None;
    let mut store = SqliteStore::open(path, key)?;
    let looked = store.exchange_mark(|found| {
        mark = found;
        found
    });
    match looked {
        // There is none.
        Err(StoreError::Outdated) => Ok(None),
        looked => looked.map(|()| mark),
    }
}

impl Report {
    fn add(&mut self, file: &str, what: impl std::fmt::Display, advice: &'static str) {
        self.problems.push(Problem {
            file: file.to_owned(),
            what: what.to_string(),
            advice,
        });
    }

    /// The first problem as a failure; none if all is well.
    pub(super) fn failure(&self) -> Option<Failure> {
        let first = self.problems.first()?;
        let more = match self.problems.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        Some(
            Failure::failed(format_args!("{}: {}{more}", first.file, first.what))
                .help(first.advice),
        )
    }
}
