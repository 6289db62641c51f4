//! The names of a profile's contacts, with what was lost or altered on the way from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use junto_agent::{ConnectionId, Event, Tag};
use serde::{Deserialize, Serialize};

use super::verdict::Added;
use super::{BOOK, Noted, Verdict};
use crate::failure::{Context, Failure};
use crate::profile::Profile;

/// How long after a write of what was noted the next one comes: a peer can cause such things at will.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// A name that the user gave to a connection.
#[derive(Deserialize, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Name of the intention, which the agent has the connection under.
    pub(super) tag: [u8; 32],
    /// What was lost or altered lately, oldest first.
    #[serde(default)]
    pub(super) verdicts: Vec<Noted>,
}

/// See the module.
pub(super) struct Notes {
    profile: Arc<Profile>,
    pub(super) book: Vec<Entry>,
    /// Connections that stand, or cannot go on.
    pub(super) tags: BTreeMap<ConnectionId, Tag>,
    /// What was noted and the user has not been told yet: the contact's name, and what.
    pub(super) untold: Vec<(String, Verdict)>,
    /// When what was noted was written last.
    saved: Option<Instant>,
    /// When what was noted since is to be written.
    pub(super) save_at: Option<Instant>,
}

impl Notes {
    pub(super) fn new(profile: Arc<Profile>, book: Vec<Entry>) -> Self {
        Self {
            profile,
            book,
            tags: BTreeMap::new(),
            untold: Vec::new(),
            saved: None,
            save_at: None,
        }
    }

    /// Notes what an event says about something lost or altered. It is written at once, or with what follows within a
    /// second.
    pub(super) fn note(&mut self, event: &Event) {
        if let Event::Connected {
            connection, tag, ..
        }
        | Event::Failed {
            connection, tag, ..
        } = event
        {
            self.tags.insert(*connection, *tag);
        }
        if let Some((connection, noted)) = Noted::of(event)
            && let Some(&tag) = self.tags.get(&connection)
        {
            self.keep(tag, noted);
        }
        if self.save_at.is_some_and(|at| at <= Instant::now()) {
            self.save_noted();
        }
    }

    fn keep(&mut self, tag: Tag, noted: Noted) {
        let mut book = self.book.iter_mut();
        let Some(entry) = book.find(|entry| entry.tag == *tag.as_bytes()) else {
            return;
        };
        match noted.add_to(&mut entry.verdicts) {
            Added::Known => return,
            Added::Again => {}
            Added::New => self.untold.push((entry.name.clone(), noted.verdict)),
        }
        let due = self
            .saved
            .map_or_else(Instant::now, |saved| saved + SAVE_PAUSE);
        self.save_at.get_or_insert(due);
    }

    /// Writes what was noted. It is no reason to stop if that fails: it is tried again.
    pub(super) fn save_noted(&mut self) {
        if let Err(failure) = self.save() {
            tracing::error!("not noted, tried again: {}", failure.message);
            self.save_at = Some(Instant::now() + SAVE_PAUSE);
        }
    }

    pub(super) fn save(&mut self) -> Result<(), Failure> {
        let book = serde_json::to_vec(&self.book).context("the names of the contacts")?;
        self.profile.write_sealed(BOOK, &book)?;
        self.saved = Some(Instant::now());
        self.save_at = None;
        Ok(())
    }
}
