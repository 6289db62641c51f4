//! The data behind a queue's short link, as the queue keeps and hands it out.

use core::fmt;

use crate::{
    id::{LinkId, SenderId},
    link::{LinkBlobs, LinkData},
};

/// Link data in one body: the fixed blob, then the user's.
#[derive(Clone)]
pub struct Link<B> {
    id: LinkId,
    fixed_bytes: usize,
    body: B,
}

impl<B> fmt::Debug for Link<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl<B> Link<B> {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> LinkId {
        self.id
    }
}

impl<B: AsRef<[u8]>> Link<B> {
    /// Keeps `blobs` in a body that `keep` makes.
    #[must_use]
    pub fn new(id: LinkId, blobs: &LinkBlobs<'_>, keep: impl FnOnce(&[u8]) -> B) -> Self {
        Self {
            id,
            fixed_bytes: blobs.fixed().len(),
            body: keep(&[blobs.fixed(), blobs.user()].concat()),
        }
    }

    /// The blobs.
    #[must_use]
    pub fn blobs(&self) -> LinkBlobs<'_> {
        let body = self.body.as_ref();
        let (fixed, user) = body.split_at(self.fixed_bytes.min(body.len()));
        // They were checked when they came in; an empty pair stands for what cannot be.
        LinkBlobs::new(fixed, user).unwrap_or_default()
    }
}

/// Link data on its way to a reader of the link.
#[derive(Clone, Debug)]
pub struct LinkCopy<B> {
    /// Where to send.
    pub sender: SenderId,
    /// The data.
    pub link: Link<B>,
}

impl<B: AsRef<[u8]>> LinkCopy<B> {
    /// The content of `LNK`.
    #[must_use]
    pub fn data(&self) -> LinkData<'_> {
        LinkData {
            sender: self.sender,
            blobs: self.link.blobs(),
        }
    }
}
