//! The short link of a queue of ours: what is kept of it, and the commands that put its data on the relay.
//!
//! The data goes along with `NEW`, under a name that follows from the name of that request. If the answer is lost, the
//! next attempt takes another name, and with it the link changes: nobody has been told the one before. Everything
//! that is sent follows from what is stored, so after a crash the same goes out again.

use junto_crypto::{CryptoRng, Zeroizing};
use junto_ratchet::Offer;
use junto_smp::id::{LinkId, SenderId};

use super::address::QueueAddress;
use super::effects::{Effects, Owner, Purpose};
use super::link_data::{LinkSecret, Sealed};
use super::queue::{ReceiveQueue, Subscription};
use super::relay::{Answer, NewLink, Operation};
use super::short::{ContactKind, ShortKind, ShortLink};
use super::wire::{Malformed, Reader, put_large};

/// See the module.
pub(super) struct Publication {
    secret: LinkSecret,
    /// Counts the attempts to make the queue.
    attempt: u32,
    /// What the link says besides how to connect.
    about: Vec<u8>,
    /// The relay's name for the data, once made.
    link: Option<LinkId>,
    /// The relay may not have the newest `about`.
    unsent: bool,

    // Not stored.
    /// Keys of an invitation.
    offer: Option<Box<Offer>>,
    /// `LSET` is in flight, or was refused and waits.
    setting: bool,
    /// `about` has changed since.
    overtaken: bool,
}

impl Publication {
    pub(super) fn new(about: Vec<u8>, offer: Option<Offer>, rng: &mut impl CryptoRng) -> Self {
        Self {
            secret: LinkSecret::generate(rng),
            attempt: 0,
            about,
            link: None,
            unsent: false,
            offer: offer.map(Box::new),
            setting: false,
            overtaken: false,
        }
    }

    /// Says something else from now on.
    pub(super) fn describe(&mut self, about: Vec<u8>) {
        self.about = about;
        self.unsent = true;
        self.overtaken = self.setting;
    }

    /// Whether the relay has what the link says.
    pub(super) fn is_sent(&self) -> bool {
        !self.unsent
    }

    /// Gives the keys that a restored invitation offers.
    pub(super) fn set_offer(&mut self, offer: Offer) {
        self.offer = Some(Box::new(offer));
    }

    /// What the link says besides how to connect.
    pub(super) fn about(&self) -> &[u8] {
        &self.about
    }

    fn sender(&self) -> SenderId {
        self.secret.correlation(self.attempt).derived_sender_id()
    }

    fn seal(&self, address: &QueueAddress) -> Result<Sealed, Malformed> {
        self.secret
            .seal(address, self.offer.as_deref(), &self.about)
    }

    /// The next attempt to have the queue made; to be stored before it is sent. `place` gives the queue's address
    /// under a name for senders.
    fn next(&mut self, place: impl Fn(SenderId) -> QueueAddress) -> Result<NewLink, Malformed> {
        self.attempt = self.attempt.wrapping_add(1);
        self.unsent = false;
        let sealed = self.seal(&place(self.sender()))?;
        Ok(NewLink {
            correlation: self.secret.correlation(self.attempt),
            id: sealed.id,
            parts: sealed.into_parts(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&*self.secret.0);
        out.extend_from_slice(&self.attempt.to_be_bytes());
        out.push(if self.unsent { b'T' } else { b'F' });
        match &self.link {
            None => out.push(b'0'),
            Some(link) => {
                out.push(b'1');
                out.extend_from_slice(link.as_bytes());
            }
        }
        put_large(out, &self.about)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            secret: LinkSecret(Zeroizing::new(reader.array()?)),
            attempt: reader.u32()?,
            unsent: reader.flag()?,
            link: reader.optional(Reader::array)?.map(LinkId),
            about: reader.large()?.to_vec(),
            offer: None,
            setting: false,
            overtaken: false,
        })
    }
}

impl ReceiveQueue {
    /// Gives the queue, not made yet, a short link.
    ///
    /// # Errors
    /// [`Malformed::Long`] if the relay's address or what the link shall say is too long for one.
    pub(super) fn publish(&mut self, publication: Publication) -> Result<(), Malformed> {
        publication.seal(&self.address_as(publication.sender()))?;
        self.publication = Some(Box::new(publication));
        Ok(())
    }

    /// The data of the short link that the queue is to be made with.
    pub(super) fn new_link(&mut self) -> Option<Box<NewLink>> {
        let mut publication = self.publication.take()?;
        let link = publication.next(|sender| self.address_as(sender));
        self.publication = Some(publication);
        // `publish` has seen that it fits.
        link.ok().map(Box::new)
    }

    /// Takes the names that the relay gave to a new queue. `None` if they are not those that it must give.
    pub(super) fn published(&mut self, sender: SenderId, link: Option<LinkId>) -> Option<()> {
        let address = self.address_as(sender);
        let Some(publication) = &mut self.publication else {
            return Some(());
        };
        let expected = publication.seal(&address).ok()?.id;
        let fits = expected.is_none_or(|id| link == Some(id));
        if sender != publication.sender() || !fits {
            return None;
        }
        publication.link = Some(link?);
        Some(())
    }

    /// The short link, once the queue is made.
    pub(super) fn short_link(&self) -> Option<ShortLink> {
        let publication = self.publication.as_ref()?;
        let id = publication.link?;
        let address = self.address()?;
        let sealed = publication.seal(&address).ok()?;
        let kind = match sealed.id {
            None => ShortKind::Invitation(id),
            Some(_) => ShortKind::Contact(ContactKind::Address),
        };
        Some(ShortLink::new(kind, sealed.key, &address.relay))
    }

    /// Issues `LSET` if it is time.
    pub(super) fn pump_link(&mut self, owner: Owner, effects: &mut Effects) {
        let (Some(address), Some((queue, auth))) = (self.address(), self.recipient()) else {
            return;
        };
        let Some(publication) = &mut self.publication else {
            return;
        };
        let due = publication.unsent && !publication.setting;
        if !due || self.subscription != Subscription::Live || !effects.is_up(self.relay) {
            return;
        }
        let (Ok(sealed), Some(link)) = (publication.seal(&address), publication.link) else {
            return;
        };
        publication.setting = true;
        publication.overtaken = false;
        let operation = Operation::SetLink {
            queue,
            auth,
            link,
            parts: Box::new(sealed.into_parts()),
        };
        effects.command(self.relay, owner, Purpose::Publish, operation);
    }

    /// Takes the relay's answer to `LSET`. `false` if it has to be tried again later.
    pub(super) fn link_set(&mut self, answer: &Answer) -> bool {
        let Some(publication) = &mut self.publication else {
            return true;
        };
        if *answer != Answer::Done {
            return false;
        }
        publication.setting = false;
        publication.unsent = publication.overtaken;
        true
    }

    /// What was in flight is void, or was refused long enough ago.
    pub(super) fn void_link(&mut self) {
        if let Some(publication) = &mut self.publication {
            publication.setting = false;
        }
    }

    /// The relay has lost the queue, and the link with it.
    pub(super) fn forget_link(&mut self) {
        if let Some(publication) = &mut self.publication {
            publication.link = None;
            publication.setting = false;
        }
    }
}
