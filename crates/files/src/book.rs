//! What is kept about the transfers with one peer, so that they go on after anything.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Progress;
use crate::error::{FilesError, Step};
use crate::frame::{Offer, Reason, TransferId};

/// Transfers that have ended and are remembered, so that an offer that comes again is answered and not taken: some 80
/// bytes each.
const ENDED_MAX: usize = 64;

/// Files that have arrived at the peer and are remembered, so that they are not sent again unasked: some 300 bytes each.
const SENT_MAX: usize = 256;

/// Stores a book durably, in the place of the one before.
type Keep<'a> = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send + 'a>;

/// The transfers with one peer.
pub struct Book<'a> {
    entries: Entries,
    keep: Keep<'a>,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    outgoing: Vec<Outgoing>,
    /// The last one is that of the newest offer, and the only one with credit.
    incoming: Vec<Incoming>,
    ended: VecDeque<Ended>,
    #[serde(default)]
    sent: VecDeque<Outgoing>,
}

/// What both kinds of transfer have.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Offered {
    #[serde(with = "hex_bytes")]
    pub(crate) id: [u8; 16],
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) chunk: u16,
    #[serde(with = "hex_bytes")]
    pub(crate) sha256: [u8; 32],
    pub(crate) attempt: u32,
}

/// A file that we send.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Outgoing {
    pub(crate) offer: Offered,
    pub(crate) path: PathBuf,
    /// When it was changed last: nanoseconds since 1970.
    pub(crate) modified: u64,
}

/// A file that we receive.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Incoming {
    pub(crate) offer: Offered,
    /// Bytes that are durable in `part`.
    pub(crate) have: u64,
    pub(crate) part: PathBuf,
    /// The name that it is being given, when all of it is here and verified.
    pub(crate) target: Option<PathBuf>,
    /// What was durable is gone: the chunks of this attempt are of no use.
    #[serde(default)]
    pub(crate) lost: bool,
}

#[derive(Deserialize, Serialize)]
struct Ended {
    #[serde(with = "hex_bytes")]
    id: [u8; 16],
    /// Without one the file is here.
    reason: Option<u8>,
}

/// Which way a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From us.
    Outgoing,
    /// To us.
    Incoming,
}

/// A transfer that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which way it goes.
    pub direction: Direction,
    /// How far it is: what is known here.
    pub progress: Progress,
    /// The file that is sent, or the partial one.
    pub path: PathBuf,
}

impl Offered {
    pub(crate) fn id(&self) -> TransferId {
        TransferId(self.id)
    }

    pub(crate) fn offer(&self) -> Offer {
        Offer {
            attempt: self.attempt,
            size: self.size,
            chunk: self.chunk,
            sha256: self.sha256,
            name: self.name.clone(),
        }
    }

    pub(crate) fn progress(&self, bytes: u64) -> Progress {
        Progress {
            id: self.id(),
            name: self.name.clone(),
            bytes,
            size: self.size,
        }
    }
}

impl<'a> Book<'a> {
    /// The book that `stored` is, or an empty one. `keep` stores it, durably and in one step, before it returns.
    ///
    /// # Errors
    /// If `stored` is no book.
    pub fn open(
        stored: Option<&[u8]>,
        keep: impl FnMut(&[u8]) -> io::Result<()> + Send + 'a,
    ) -> io::Result<Self> {
        let entries = match stored {
            Some(stored) => serde_json::from_slice(stored)?,
            None => Entries::default(),
        };
        let keep = Box::new(keep);
        Ok(Self { entries, keep })
    }

    /// The transfers that have not ended.
    #[must_use]
    pub fn pending(&self) -> Vec<Pending> {
        let outgoing = self.entries.outgoing.iter().map(|it| Pending {
            direction: Direction::Outgoing,
            progress: it.offer.progress(0),
            path: it.path.clone(),
        });
        let incoming = self.entries.incoming.iter().map(|it| Pending {
            direction: Direction::Incoming,
            progress: it.offer.progress(it.have),
            path: it.part.clone(),
        });
        outgoing.chain(incoming).collect()
    }

    pub(crate) fn save(&mut self) -> Result<(), FilesError> {
        let bytes = serde_json::to_vec(&self.entries).map_err(io::Error::from);
        bytes
            .and_then(|bytes| (self.keep)(&bytes))
            .map_err(Step::Record.failed())
    }

    pub(crate) fn outgoing(&mut self, id: TransferId) -> Option<&mut Outgoing> {
        let mut all = self.entries.outgoing.iter_mut();
        all.find(|it| it.offer.id == id.0)
    }

    pub(crate) fn outgoing_of(&self, path: &Path) -> Option<&Outgoing> {
        self.entries.outgoing.iter().find(|it| it.path == path)
    }

    pub(crate) fn add_outgoing(&mut self, entry: Outgoing) {
        self.entries.outgoing.push(entry);
    }

    /// Forgets a file that we send, and whether there was one.
    pub(crate) fn drop_outgoing(&mut self, id: TransferId) -> bool {
        let before = self.entries.outgoing.len();
        self.entries.outgoing.retain(|it| it.offer.id != id.0);
        self.entries.outgoing.len() < before
    }

    /// A file that we send has arrived; and whether there was such a one.
    pub(crate) fn end_outgoing(&mut self, id: TransferId) -> bool {
        let Some(entry) = self.outgoing(id).cloned() else {
            return false;
        };
        self.drop_outgoing(id);
        self.send_again(&entry.path);
        if self.entries.sent.len() == SENT_MAX {
            self.entries.sent.pop_front();
        }
        self.entries.sent.push_back(entry);
        true
    }

    /// The file at this path, if it has arrived and is remembered.
    pub(crate) fn sent(&self, path: &Path) -> Option<&Outgoing> {
        self.entries.sent.iter().find(|it| it.path == path)
    }

    /// Forgets that the file at this path (with neither links nor dots in it) has arrived: the next call sends it again.
    pub fn send_again(&mut self, path: &Path) {
        self.entries.sent.retain(|it| it.path != path);
    }

    pub(crate) fn incoming(&mut self, id: TransferId) -> Option<&mut Incoming> {
        let mut all = self.entries.incoming.iter_mut();
        all.find(|it| it.offer.id == id.0)
    }

    pub(crate) fn all_incoming(&self) -> &[Incoming] {
        &self.entries.incoming
    }

    /// What is known of a file that we receive now; it keeps its place, or is the last one.
    pub(crate) fn put_incoming(&mut self, entry: Incoming) {
        match self.incoming(entry.offer.id()) {
            Some(known) => *known = entry,
            None => self.entries.incoming.push(entry),
        }
    }

    /// Forgets a file of which nothing is here, as if it had not been offered.
    pub(crate) fn drop_incoming(&mut self, id: TransferId) {
        self.entries.incoming.retain(|it| it.offer.id != id.0);
    }

    /// A file that we receive has come (no reason) or never will.
    pub(crate) fn end_incoming(&mut self, id: TransferId, reason: Option<Reason>) {
        self.entries.incoming.retain(|it| it.offer.id != id.0);
        if self.entries.ended.len() == ENDED_MAX {
            self.entries.ended.pop_front();
        }
        let reason = reason.map(|reason| reason.0);
        self.entries.ended.push_back(Ended { id: id.0, reason });
    }

    /// How a transfer that we received ended, if it did and is remembered.
    pub(crate) fn ended(&self, id: TransferId) -> Option<Option<Reason>> {
        let found = self.entries.ended.iter().find(|it| it.id == id.0)?;
        Some(found.reason.map(Reason))
    }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        from: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_book_comes_back_as_it_was_and_forgets_the_oldest_endings() {
        let stored = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&stored);
        let mut book = Book::open(None, move |bytes| {
            *copy.lock().unwrap() = bytes.to_vec();
            Ok(())
        })
        .unwrap();
        let offer = Offered {
            id: [1; 16],
            name: "a".to_owned(),
            size: 7,
            chunk: 1024,
            sha256: [2; 32],
            attempt: 3,
        };
        book.put_incoming(Incoming {
            offer: offer.clone(),
            have: 5,
            part: "/a.part".into(),
            target: None,
            lost: false,
        });
        let (path, modified) = ("/b".into(), 9);
        book.add_outgoing(Outgoing {
            offer,
            path,
            modified,
        });
        for number in 0..=ENDED_MAX as u8 {
            book.end_incoming(TransferId([number + 50; 16]), None);
        }
        book.end_incoming(TransferId([2; 16]), Some(Reason::FAULTY));
        book.save().unwrap();
        let mut again = Book::open(Some(&stored.lock().unwrap()), |_| Ok(())).unwrap();
        assert_eq!(again.pending(), book.pending());
        assert_eq!(again.pending().len(), 2);
        assert_eq!(again.incoming(TransferId([1; 16])).unwrap().have, 5);
        assert_eq!(again.ended(TransferId([50; 16])), None);
        assert_eq!(again.ended(TransferId([60; 16])), Some(None));
        assert_eq!(again.ended(TransferId([2; 16])), Some(Some(Reason::FAULTY)));
        assert!(Book::open(Some(b"{}"), |_| Ok(())).is_err());
    }
}
