//! The names of a profile's contacts, with what was lost or altered on the way from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use junto_agent::{ConnectionId, Event, Tag};
use junto_devices::ContactId;
use junto_smp::address::ServerAddress;
use serde::{Deserialize, Serialize};

use super::meeting::is_fit;
use super::verdict::Added;
use super::{BOOK, Noted, Verdict};
use crate::failure::{Context, Failure};
use crate::profile::Profile;

/// How long after a write of what was noted the next one comes: a peer can cause such things at will.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// How long after a remark about the contact address the next one comes.
const REMARK_PAUSE: Duration = Duration::from_secs(3_600);

/// What is said when a relay has lost the queue of the contact address.
const MOVED: &str = "warning: the link of your contact address has changed, since its relay says that it has lost what the old one led to; \
    whoever has the old link reaches nobody: give out the new one, which `junto contact address show` tells";

/// What is said when somebody else reads our queues.
fn copy_runs(relay: &ServerAddress) -> String {
    format!(
        "warning: {relay} says that another connection with the keys of this profile takes its messages: a copy of this profile runs, here or on another machine, and what it takes is missing here; \
        end the one or the other, and use `junto device` for several machines"
    )
}

/// A name that the user gave to a connection.
#[derive(Deserialize, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Name of the intention, which the agent has the connection under.
    pub(super) tag: [u8; 32],
    /// We made a link for it.
    #[serde(default)]
    pub(super) invited: bool,
    /// What was lost or altered lately, oldest first.
    #[serde(default)]
    pub(super) verdicts: Vec<Noted>,
    /// Connections with the contact whose messages `junto daemon` has told, in the order in which they first did.
    #[serde(default)]
    pub(super) lines: Vec<[u8; 16]>,
}

impl Entry {
    pub(super) fn new(name: String, tag: [u8; 32]) -> Self {
        Self {
            name,
            tag,
            invited: false,
            verdicts: Vec::new(),
            lines: Vec::new(),
        }
    }
}

/// See the module.
pub(super) struct Notes {
    profile: Arc<Profile>,
    pub(super) book: Vec<Entry>,
    /// Connections that stand, or cannot go on.
    pub(super) tags: BTreeMap<ConnectionId, Tag>,
    /// What was noted and the user has not been told yet: the contact's name, and what.
    pub(super) untold: Vec<(String, Verdict)>,
    /// What there is to be said about the profile itself and was not said yet.
    pub(super) remarks: Vec<String>,
    /// The user is told of a copy of the profile: once in each process.
    knows_copy: bool,
    /// When the user was told last that the contact address has another link.
    moved_at: Option<Instant>,
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
            remarks: Vec::new(),
            knows_copy: false,
            moved_at: None,
            saved: None,
            save_at: None,
        }
    }

    /// Notes what an event says about something lost or altered. It is written at once, or with what follows within a
    /// second. `home` gives the tag of the contact that a connection is with.
    pub(super) fn note(&mut self, event: &Event, home: impl Fn(Tag) -> Tag) {
        if let Event::Connected {
            connection, tag, ..
        }
        | Event::Failed {
            connection, tag, ..
        } = event
        {
            self.tags.insert(*connection, home(*tag));
        }
        match event {
            Event::AddressMoved { .. } => {
                let now = Instant::now();
                // A relay can cause it at will.
                if self.moved_at.is_none_or(|at| at + REMARK_PAUSE <= now) {
                    self.moved_at = Some(now);
                    self.remarks.push(MOVED.to_owned());
                }
            }
            Event::TakenOver { relay, .. } if !core::mem::replace(&mut self.knows_copy, true) => {
                self.remarks.push(copy_runs(relay));
            }
            _ => {}
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

    /// What the contact with this tag is called.
    pub(super) fn name_of(&self, tag: Tag) -> Option<&str> {
        let mut book = self.book.iter();
        let entry = book.find(|entry| entry.tag == *tag.as_bytes())?;
        Some(&entry.name)
    }

    /// A contact that another device has: by the name that it has there, if that is free and fit.
    pub(super) fn welcome(&mut self, contact: ContactId, name: &str) -> Result<(), Failure> {
        if self.name_of(Tag::new(contact.0)).is_some() {
            return Ok(());
        }
        let name = if is_fit(name) { name } else { "contact" };
        let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
        let mut names = core::iter::once(name.to_owned()).chain(numbered);
        let is_free = |name: &String| is_fit(name) && self.book.iter().all(|it| it.name != *name);
        // A name that leaves no room for a number.
        let other = || format!("contact-{}", &contact.to_string()[..12]);
        let name = names
            .by_ref()
            .take(1000)
            .find(is_free)
            .unwrap_or_else(other);
        self.book.push(Entry::new(name, contact.0));
        self.save()
    }

    /// The place of a connection among those with a contact: the same for ever, stored before it is given.
    pub(super) fn place(
        &mut self,
        contact: Tag,
        connection: ConnectionId,
    ) -> Result<usize, Failure> {
        let mut book = self.book.iter_mut();
        let entry = book.find(|entry| entry.tag == *contact.as_bytes());
        let entry = entry.ok_or_else(|| Failure::usage("there is no such contact"))?;
        let line = *connection.as_bytes();
        if let Some(place) = entry.lines.iter().position(|it| *it == line) {
            return Ok(place);
        }
        let place = entry.lines.len();
        entry.lines.push(line);
        let saved = self.save();
        if saved.is_err() {
            let mut book = self.book.iter_mut();
            let entry = book.find(|entry| entry.tag == *contact.as_bytes());
            entry
                .into_iter()
                .for_each(|entry| entry.lines.truncate(place));
        }
        saved.map(|()| place)
    }

    /// The connection at that place.
    pub(super) fn line_at(&self, contact: Tag, place: usize) -> Option<ConnectionId> {
        let mut book = self.book.iter();
        let entry = book.find(|entry| entry.tag == *contact.as_bytes())?;
        entry.lines.get(place).map(|line| ConnectionId::new(*line))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use junto_agent::Integrity;

    use super::*;
    use crate::profile::Source;

    const BOB: [u8; 32] = [2; 32];

    fn notes(dir: &std::path::Path) -> Notes {
        let profile = Arc::new(Profile::open(dir, &Source::None).unwrap());
        let book = vec![Entry::new("bob".to_owned(), BOB)];
        let mut notes = Notes::new(profile, book);
        notes.save().unwrap();
        notes.tags.insert(bobs(), Tag::new(BOB));
        notes
    }

    fn bobs() -> ConnectionId {
        ConnectionId::new([3; 16])
    }

    /// A loss that was not noted before.
    fn lost(notes: &mut Notes, number: u64) {
        let integrity = Integrity::Skipped {
            from: number,
            to: number,
        };
        let connection = bobs();
        let event = Event::Irregular {
            connection,
            integrity,
        };
        notes.note(&event, |tag| tag);
    }

    /// The verdicts that are on the disk.
    fn written(notes: &Notes) -> usize {
        let stored = notes.profile.read_sealed(BOOK).unwrap().unwrap();
        let book: Vec<Entry> = serde_json::from_slice(&stored).unwrap();
        book[0].verdicts.len()
    }

    #[test]
    fn what_a_peer_causes_at_will_is_written_once_for_all_that_comes_in_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let mut notes = notes(dir.path());
        // Nothing was written lately: at once.
        notes.saved = None;
        lost(&mut notes, 1);
        assert_eq!((written(&notes), notes.save_at), (1, None));
        // Just now, as far as this test takes: together, when that second is over.
        let now = Instant::now() + Duration::from_secs(3600);
        notes.saved = Some(now);
        for number in 2..12 {
            lost(&mut notes, number);
        }
        assert_eq!(
            (written(&notes), notes.save_at),
            (1, Some(now + SAVE_PAUSE))
        );
        assert_eq!(notes.untold.len(), 11, "all of them are told");
        notes.save_noted();
        assert_eq!((written(&notes), notes.save_at), (11, None));
    }

    #[test]
    fn a_disk_that_fails_is_tried_again_and_loses_no_note() {
        let dir = tempfile::tempdir().unwrap();
        let mut notes = notes(dir.path());
        // Where the next file is written there is a folder.
        let obstacle = dir.path().join(format!("{BOOK}.new"));
        std::fs::create_dir(&obstacle).unwrap();
        notes.saved = None;
        lost(&mut notes, 1);
        assert!(notes.save_at.is_some() && written(&notes) == 0);
        std::fs::remove_dir(&obstacle).unwrap();
        notes.save_noted();
        assert_eq!((written(&notes), notes.save_at), (1, None));
    }

    #[test]
    fn a_copy_and_a_link_that_changed_are_told_once_however_often_a_relay_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut notes = notes(dir.path());
        let relay = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";
        for number in 0..10 {
            let taken = Event::TakenOver {
                connection: ConnectionId::new([number; 16]),
                relay: relay.parse().unwrap(),
            };
            notes.note(&taken, |tag| tag);
            let moved = Event::AddressMoved { tag: Tag::new(BOB) };
            notes.note(&moved, |tag| tag);
        }
        let [copy, moved] = &notes.remarks[..] else {
            panic!("{:?}", notes.remarks)
        };
        assert!(
            copy.starts_with("warning: ") && copy.contains("relay.example"),
            "{copy}"
        );
        assert!(
            !copy.contains("  ") && !moved.contains("  "),
            "{copy} {moved}"
        );
        assert!(moved.contains("junto contact address show"), "{moved}");
    }

    #[test]
    fn a_connection_keeps_its_place_and_has_it_only_once_it_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let mut notes = notes(dir.path());
        let (tag, other) = (Tag::new(BOB), ConnectionId::new([4; 16]));
        assert_eq!(notes.place(tag, bobs()).unwrap(), 0);
        let obstacle = dir.path().join(format!("{BOOK}.new"));
        std::fs::create_dir(&obstacle).unwrap();
        assert_eq!(
            notes.place(tag, bobs()).unwrap(),
            0,
            "nothing is to be stored"
        );
        notes.place(tag, other).unwrap_err();
        assert_eq!(notes.line_at(tag, 1), None);
        std::fs::remove_dir(&obstacle).unwrap();
        assert_eq!(notes.place(tag, other).unwrap(), 1);
        assert_eq!(
            (notes.line_at(tag, 0), notes.line_at(tag, 1)),
            (Some(bobs()), Some(other))
        );
        let stored = notes.profile.read_sealed(BOOK).unwrap().unwrap();
        let book: Vec<Entry> = serde_json::from_slice(&stored).unwrap();
        assert_eq!(book[0].lines, [*bobs().as_bytes(), *other.as_bytes()]);
        assert!(notes.place(Tag::new([9; 32]), other).is_err());
    }
}
