//! Looking at everything in a profile for damage.

use serde::Serialize;

use super::Profile;
use crate::bls::KeyFile;
use crate::failure::Failure;

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

/// Looks at all of it. The databases are closed afterwards, with nothing left beside them.
pub(super) fn look(profile: &Profile) -> Report {
    let mut report = Report::default();
    for name in ["agent.db", "contacts.db"] {
        let agent = profile.dir().join(name);
        if agent.exists() {
            match junto_agent::store::check(&agent, profile.database_key(name)) {
                Ok(contents) => {
                    report.connections += contents.connections;
                    report.records += contents.rows;
                    report.bytes += contents.bytes;
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
        if let Err(failure) = profile.read_sealed(&name) {
            let advice = if name.ends_with("mark") { MARK } else { FILE };
            report.add(&name, failure.message, advice);
        }
    }
    report
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
