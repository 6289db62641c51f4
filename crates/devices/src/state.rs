//! What one device knows: the others of its profile, those of its contacts, and what is to be done.
//!
//! Additions and revocations are two sets that only grow, and a revocation wins: in whatever order words come, and
//! however often, the outcome is the same.

use std::collections::{BTreeMap, VecDeque};

use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::frame::{Frame, KEPT_MAX, Whom};
use crate::id::{ContactId, DeviceId, MessageName, Token};
use crate::linking::Party;

/// Most devices that a profile has at a time, this one among them.
pub const DEVICES_MAX: usize = 8;
/// Most devices of a contact, or of the profile, that are ever known, revoked ones among them.
pub const KNOWN_MAX: usize = 64;
/// Contacts that take part; further ones stay with the device that met them.
pub const CONTACTS_MAX: usize = 4096;
/// Revoked devices that one never heard of before, from one device of the profile: a thief cannot use up all places.
pub const STRANGERS_MAX: u8 = 16;
/// Copies that wait for a device of the profile that is away; it goes without further ones.
pub const COPIES_MAX: usize = 64;
/// Names of messages of a contact that are remembered, so that none is shown twice; as many of those to it.
pub const HEARD_MAX: usize = 64;

/// What was stored is no state of ours.
#[derive(Debug, thiserror::Error)]
#[error("what is known of devices is damaged: {0}")]
pub struct StateError(#[from] serde_json::Error);

/// Something for the application to do, as often as it takes. Doing it again does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Make an invitation under the token's tag, and give it to [`Devices::made`].
    Invite(Token),
    /// Follow a link, under the token's tag.
    Join(Token, String),
    /// Send this on the connection under this tag, as soon as it stands.
    Send(ContactId, Bytes),
    /// End the connection under this tag, once what was to be sent before has left or cannot.
    Close(ContactId),
    /// End the connection under this tag at once: what was to be sent before does not go any more.
    Cut(ContactId),
    /// The same, but with this as the last word: it is kept until it has left, and nothing else goes there from now on, nor
    /// is anything heard. If the connection does not stand, it is ended without.
    Leave(ContactId, Bytes),
}

/// A body, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        hex::decode(text).map(Self).map_err(D::Error::custom)
    }
}

impl Deed {
    /// The connection that it is about: deeds of one are done in their order.
    #[must_use]
    pub fn tag(&self) -> [u8; 32] {
        match self {
            Self::Invite(token) | Self::Join(token, _) => token.tag(),
            Self::Send(tag, _) | Self::Close(tag) | Self::Cut(tag) | Self::Leave(tag, _) => tag.0,
        }
    }
}

/// A [`Deed`], and its number.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Due {
    /// For [`Devices::done`].
    pub serial: u64,
    /// What is to be done.
    pub deed: Deed,
}

/// How far a connection with a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Our invitation for it is being made.
    Making,
    /// It is made; the other side is to follow it.
    Inviting,
    /// We follow its invitation; it is to say who it is.
    Joining,
    /// It is in use.
    Ready,
    /// It cannot go on. The device stays one until it is revoked: contacts may still send to it.
    Lost,
}

/// Another device of the profile.
#[derive(Deserialize, Serialize)]
pub(crate) struct Own {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    pub(crate) token: Token,
    pub(crate) stage: Stage,
    /// Which device of ours introduced it; none if it was linked here.
    pub(crate) by: Option<DeviceId>,
    /// Devices unknown here that it has called revoked.
    #[serde(default)]
    pub(crate) strangers: u8,
}

/// A connection with a contact that came by an introduction.
#[derive(Deserialize, Serialize)]
pub(crate) struct Link {
    pub(crate) token: Token,
    pub(crate) stage: Stage,
    /// The contact's device.
    pub(crate) peer: Option<DeviceId>,
    /// Which device of the contact introduced it.
    pub(crate) by: Option<DeviceId>,
    /// Which device of ours asked for it.
    pub(crate) asked_by: Option<DeviceId>,
}

/// A contact that takes part.
#[derive(Default, Deserialize, Serialize)]
pub(crate) struct Contact {
    /// Whether the connection that made the contact is here and in use.
    pub(crate) base: bool,
    /// The contact's device at its other end.
    pub(crate) home: Option<DeviceId>,
    pub(crate) links: Vec<Link>,
    pub(crate) gone: Vec<DeviceId>,
    /// The one device that it wants messages on.
    pub(crate) prefers: Option<DeviceId>,
    heard: VecDeque<MessageName>,
    /// Those to it, from other devices of ours: it cannot name them.
    #[serde(default)]
    said: VecDeque<MessageName>,
}

impl Contact {
    /// One that is reached by the connection that made it.
    pub(crate) fn at_base() -> Self {
        Self {
            base: true,
            ..Self::default()
        }
    }

    /// Devices of the contact that are known, revoked or not.
    pub(crate) fn known(&self) -> usize {
        self.live() + self.gone.len()
    }

    pub(crate) fn live(&self) -> usize {
        let again = |at: usize| {
            let peer = self.links[at].peer;
            peer.is_some() && self.links[..at].iter().any(|link| link.peer == peer)
        };
        let links = (0..self.links.len()).filter(|at| !again(*at));
        links.count() + usize::from(self.base)
    }

    /// Whether a device is reached without an invitation of ours.
    pub(crate) fn is_followed(&self, device: DeviceId) -> bool {
        let mut links = self.links.iter().filter(|link| link.peer == Some(device));
        let is_followed = |link: &Link| matches!(link.stage, Stage::Joining | Stage::Ready);
        self.home == Some(device) || links.any(is_followed)
    }

    pub(crate) fn has(&self, device: DeviceId) -> bool {
        let mut links = self.links.iter();
        self.home == Some(device) || links.any(|link| link.peer == Some(device))
    }
}

/// An introduction that this device has asked for.
#[derive(Deserialize, Serialize)]
pub(crate) struct Asked {
    /// The device of ours that is introduced.
    pub(crate) device: DeviceId,
    /// The connection with whom it is introduced to.
    pub(crate) line: ContactId,
    pub(crate) token: Token,
    pub(crate) answered: bool,
}

/// A linking under way.
#[derive(Deserialize, Serialize)]
pub(crate) struct Begun {
    pub(crate) token: Token,
    /// Whom our user has confirmed.
    pub(crate) confirmed: Option<(DeviceId, String)>,
}

/// This device.
#[derive(Deserialize, Serialize)]
pub(crate) struct Me {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
}

/// A device of the profile, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnDevice {
    /// The device.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub is_this: bool,
    /// Whether words reach it.
    pub is_ready: bool,
    /// Whether its connection is lost for good. Contacts may still send to it, until it is revoked.
    pub is_lost: bool,
}

/// See the module.
#[derive(Default, Deserialize, Serialize)]
pub struct Devices {
    pub(crate) me: Option<Me>,
    /// The device that has revoked this one.
    pub(crate) revoked_by: Option<String>,
    /// Where this device receives what it is invited to.
    pub(crate) relay: Option<String>,
    pub(crate) own: Vec<Own>,
    pub(crate) gone: Vec<DeviceId>,
    /// For those that others have revoked: whom those vouched for, whoever introduced them.
    #[serde(default)]
    vouched: Vec<(DeviceId, Vec<DeviceId>)>,
    pub(crate) contacts: BTreeMap<ContactId, Contact>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) linking: Option<Begun>,
    /// The one device that contacts are to send to.
    pub(crate) prefers: Option<DeviceId>,
    due: VecDeque<Due>,
    next: u64,
}

impl Devices {
    /// What was stored.
    ///
    /// # Errors
    /// [`StateError`] if it is damaged.
    pub fn open(stored: &[u8]) -> Result<Self, StateError> {
        Ok(serde_json::from_slice(stored)?)
    }

    /// What is to be stored, before anything that is due is done.
    ///
    /// # Errors
    /// None that this type can cause.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        Ok(serde_json::to_vec(self)?)
    }

    /// What is to be done, oldest first.
    #[must_use]
    pub const fn due(&self) -> &VecDeque<Due> {
        &self.due
    }

    /// Something is done, or cannot be.
    pub fn done(&mut self, serial: u64) {
        self.due.retain(|due| due.serial != serial);
    }

    pub(crate) fn is_due(&mut self, deed: Deed) {
        self.next += 1;
        let serial = self.next;
        self.due.push_back(Due { serial, deed });
    }

    pub(crate) fn say(&mut self, tag: [u8; 32], frame: &Frame) {
        self.is_due(Deed::Send(ContactId(tag), Bytes(frame.encode())));
    }

    /// Who this device is. It gets a new identity if it has none, or was revoked.
    pub fn identify(&mut self, name: &str, rng: &mut impl CryptoRng) -> Party {
        if self.revoked_by.take().is_some() {
            self.me = None;
            self.gone.clear();
            self.vouched.clear();
        }
        let id = self.me.as_ref().map(|me| me.id);
        let id = id.unwrap_or_else(|| DeviceId::random(rng));
        let name = name.to_owned();
        self.me = Some(Me {
            id,
            name: name.clone(),
        });
        Party { id, name }
    }

    /// This device, if it ever was linked.
    #[must_use]
    pub fn me(&self) -> Option<Party> {
        let me = self.me.as_ref()?;
        Some(Party {
            id: me.id,
            name: me.name.clone(),
        })
    }

    /// The device that has revoked this one, if one has.
    #[must_use]
    pub fn revoked_by(&self) -> Option<&str> {
        self.revoked_by.as_deref()
    }

    /// Where this device receives.
    #[must_use]
    pub fn relay(&self) -> Option<&str> {
        self.relay.as_deref()
    }

    /// The one device that contacts are asked to send to; all if there is none.
    #[must_use]
    pub const fn preferred(&self) -> Option<DeviceId> {
        self.prefers
    }

    /// The devices of the profile; none if there is no other one.
    #[must_use]
    pub fn own_devices(&self) -> Vec<OwnDevice> {
        let me = self.me.iter().map(|me| OwnDevice {
            id: me.id,
            name: me.name.clone(),
            is_this: true,
            is_ready: true,
            is_lost: false,
        });
        let others = self.own.iter().map(|own| OwnDevice {
            id: own.id,
            name: own.name.clone(),
            is_this: false,
            is_ready: own.stage == Stage::Ready,
            is_lost: own.stage == Stage::Lost,
        });
        me.chain(others).collect()
    }

    /// How many devices of a contact are in use here.
    #[must_use]
    pub fn devices_of(&self, contact: ContactId) -> usize {
        let Some(it) = self.contacts.get(&contact) else {
            return 1;
        };
        let ready = it.links.iter().filter(|link| link.stage == Stage::Ready);
        ready.count() + usize::from(it.base)
    }

    /// Connections with a contact beside the one that made it, by tag.
    pub fn links_of(&self, contact: ContactId) -> impl Iterator<Item = [u8; 32]> {
        let links = self.contacts.get(&contact).into_iter();
        links.flat_map(|it| it.links.iter().map(|link| link.token.tag()))
    }

    /// A linking begins under this token; one before is given up.
    pub fn begin(&mut self, token: Token, relay: &str) {
        self.abandon();
        self.relay = Some(relay.to_owned());
        let confirmed = None;
        self.linking = Some(Begun { token, confirmed });
    }

    /// Gives up a linking, if one is under way, and tells the other side.
    pub fn abandon(&mut self) {
        if let Some(begun) = self.linking.take() {
            self.say(begun.token.tag(), &Frame::Cancel);
            self.is_due(Deed::Close(ContactId(begun.token.tag())));
        }
    }

    /// Whether a linking is under way.
    #[must_use]
    pub const fn is_linking(&self) -> bool {
        self.linking.is_some()
    }

    /// Gives up a linking that no user has confirmed here: its process has died.
    pub fn tidy(&mut self) {
        let begun = self.linking.as_ref();
        if begun.is_some_and(|begun| begun.confirmed.is_none()) {
            self.abandon();
        }
    }

    /// Whether this device can become one of the profile: asked before a user confirms it, so that both sides end alike.
    #[must_use]
    pub fn may_link(&self, device: DeviceId) -> bool {
        let known = self.own.iter().any(|own| own.id == device);
        let is_me = self.me.as_ref().is_some_and(|me| me.id == device);
        !is_me && !self.gone.contains(&device) && (known || !self.is_full())
    }

    /// Whether the profile has as many devices as it may have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.own.len() + 1 >= DEVICES_MAX
    }

    /// Our user has confirmed this device; and `mutual`: its user this one.
    pub fn confirm(&mut self, peer: &Party, mutual: bool) {
        let Some(begun) = &mut self.linking else {
            return;
        };
        begun.confirmed = Some((peer.id, peer.name.clone()));
        let tag = begun.token.tag();
        self.say(tag, &Frame::Confirm);
        if mutual {
            self.link();
        }
    }

    /// Both users have confirmed. Gives the name.
    pub(crate) fn link(&mut self) -> Option<String> {
        let Begun { token, confirmed } = self.linking.take()?;
        let Some((id, name)) = confirmed else {
            self.linking = Some(Begun { token, confirmed });
            return None;
        };
        if !self.may_link(id) {
            self.is_due(Deed::Close(ContactId(token.tag())));
            return None;
        }
        // Linked again, after its connection was lost here or there: what it was not told it is told now.
        if let Some(place) = self.own.iter().position(|own| own.id == id) {
            let before = self.own.remove(place);
            // It is the same device: what was promised to it may still go.
            self.is_due(Deed::Close(ContactId(before.token.tag())));
            self.asked.retain(|it| it.device != id || it.answered);
        }
        self.own.push(Own {
            id,
            name: name.clone(),
            token,
            stage: Stage::Ready,
            by: None,
            strangers: 0,
        });
        self.catch_up(token.tag());
        Some(name)
    }

    /// A contact's first connection stands, and words about devices can be said on it.
    pub fn meet(&mut self, contact: ContactId) {
        let room = self.contacts.len() < CONTACTS_MAX;
        let known = self.contacts.contains_key(&contact);
        let ends = self.ends(&contact.0);
        if ends || self.revoked_by.is_some() {
            return;
        }
        if known || (room && !self.own.is_empty()) {
            let met = self.contacts.entry(contact).or_default();
            let before = met.base;
            met.base = met.home.is_none_or(|home| !met.gone.contains(&home));
            if met.base && !before {
                self.catch_up(contact.0);
            }
        }
    }

    /// The user has ended a contact.
    pub fn forget(&mut self, contact: ContactId) {
        let Some(it) = self.contacts.remove(&contact) else {
            return;
        };
        self.is_due(Deed::Close(contact));
        for link in it.links {
            self.is_due(Deed::Close(ContactId(link.token.tag())));
        }
    }

    /// Whether there never was another device, here or of a contact.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.me.is_none() && self.contacts.is_empty()
    }

    /// Asks each device of ours for an invitation for each connection that it may not have.
    pub fn introduce(
        &mut self,
        name_of: impl Fn(ContactId) -> Option<String>,
        rng: &mut impl CryptoRng,
    ) {
        let ready = self.own.iter().filter(|own| own.stage == Stage::Ready);
        let ready: Vec<(DeviceId, Token)> = ready.map(|own| (own.id, own.token)).collect();
        let mut makes = Vec::new();
        for (device, at) in ready {
            let is_asked = |asked: &Asked| asked.device == device;
            let asked = self.asked.iter().filter(|asked| is_asked(asked));
            let asked: std::collections::BTreeSet<_> = asked.map(|asked| asked.line).collect();
            for (contact, it) in &self.contacts {
                let base = it.base.then_some((*contact, it.home));
                let ready = it.links.iter().filter(|link| link.stage == Stage::Ready);
                let links = ready.map(|link| (ContactId(link.token.tag()), link.peer));
                for (line, peer) in base.into_iter().chain(links) {
                    if asked.contains(&line) {
                        continue;
                    }
                    let Some(name) = name_of(*contact) else {
                        continue;
                    };
                    let contact = *contact;
                    let whom = Whom::Contact {
                        contact,
                        peer,
                        name,
                    };
                    makes.push((device, at, line, whom));
                }
            }
            for other in &self.own {
                let line = ContactId(other.token.tag());
                let acquainted = other.by == Some(device)
                    || self
                        .own
                        .iter()
                        .any(|own| own.id == device && own.by == Some(other.id));
                let is_next = other.stage == Stage::Ready && device < other.id;
                if is_next && !acquainted && !asked.contains(&line) {
                    let (device_of, name) = (other.id, other.name.clone());
                    let whom = Whom::Own {
                        device: device_of,
                        name,
                    };
                    makes.push((device, at, line, whom));
                }
            }
        }
        for (device, at, line, whom) in makes {
            let token = Token::random(rng);
            let answered = false;
            self.asked.push(Asked {
                device,
                line,
                token,
                answered,
            });
            self.say(at.tag(), &Frame::Make { token, whom });
        }
    }

    /// Says to a device of ours that it has been asked for everything.
    pub fn asked_all(&mut self, device: DeviceId) {
        if let Some(tag) = self.own_tag(device) {
            self.say(tag, &Frame::All);
        }
    }

    /// Introductions of a device of ours: how many were asked for here, and how many of them are answered.
    #[must_use]
    pub fn introductions(&self, device: DeviceId) -> (usize, usize) {
        let asked = || self.asked.iter().filter(|asked| asked.device == device);
        let answered = asked().filter(|asked| asked.answered).count();
        (asked().count(), answered)
    }

    pub(crate) fn own_tag(&self, device: DeviceId) -> Option<[u8; 32]> {
        let mut ready = self.own.iter().filter(|own| own.stage == Stage::Ready);
        Some(ready.find(|own| own.id == device)?.token.tag())
    }

    /// The connections on which a message goes to a contact, by tag: one for each device that is to have it.
    #[must_use]
    pub fn targets(&self, contact: ContactId) -> Vec<[u8; 32]> {
        let Some(it) = self.contacts.get(&contact) else {
            return vec![contact.0];
        };
        let base = it.base.then_some((contact.0, it.home));
        let ready = it.links.iter().filter(|link| link.stage == Stage::Ready);
        let links = ready.map(|link| (link.token.tag(), link.peer));
        let mut devices = Vec::new();
        let mut targets = Vec::new();
        for (tag, peer) in base.into_iter().chain(links) {
            if peer.is_some() && devices.contains(&peer) {
                continue;
            }
            devices.push(peer);
            targets.push((tag, peer));
        }
        if let Some(preferred) = it.prefers
            && let Some((tag, _)) = targets.iter().find(|(_, peer)| *peer == Some(preferred))
        {
            return vec![*tag];
        }
        targets.into_iter().map(|(tag, _)| tag).collect()
    }

    /// Whether what is sent to a contact goes to several devices, its own or ours. One that takes no part is on this
    /// device only, and so is what is sent to it.
    #[must_use]
    pub fn is_shared(&self, contact: ContactId) -> bool {
        let ready = self.own.iter().any(|own| own.stage == Stage::Ready);
        self.takes_part(contact) && (ready || self.targets(contact).len() > 1)
    }

    /// Whether a contact takes part: it, or we, have several devices.
    #[must_use]
    pub fn takes_part(&self, contact: ContactId) -> bool {
        self.contacts.contains_key(&contact)
    }

    /// Whether a connection is about to end: what comes there counts for nothing.
    #[must_use]
    pub fn ends(&self, tag: &[u8; 32]) -> bool {
        let ends = |deed: &Deed| matches!(deed, Deed::Close(_) | Deed::Cut(_) | Deed::Leave(..));
        let mut due = self.due.iter();
        due.any(|due| ends(&due.deed) && due.deed.tag() == *tag)
    }

    /// How much is due to be said on the connection under this tag.
    #[must_use]
    pub fn waiting(&self, tag: &[u8; 32]) -> usize {
        let is_said = |due: &&Due| matches!(&due.deed, Deed::Send(at, _) if at.0 == *tag);
        self.due.iter().filter(is_said).count()
    }

    /// Sends a message to all devices of a contact, and copies to those of ours: it is due once this is stored. Nothing
    /// if there is one connection only and nobody to copy to: then it is an ordinary message. A device of ours that is
    /// away for long gets no further copies than [`COPIES_MAX`].
    pub fn post(
        &mut self,
        contact: ContactId,
        body: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Option<MessageName> {
        if !self.is_shared(contact) {
            return None;
        }
        let targets = self.targets(contact);
        let others = self.own.iter().filter(|own| own.stage == Stage::Ready);
        let others: Vec<_> = others.map(|own| own.token.tag()).collect();
        let message = MessageName::random(rng);
        let text = Frame::Text {
            message,
            body: body.to_vec(),
        };
        match targets[..] {
            [only] => self.is_due(Deed::Send(ContactId(only), Bytes(body.to_vec()))),
            _ => targets.iter().for_each(|tag| self.say(*tag, &text)),
        }
        let sent = Frame::Sent {
            message,
            contact,
            body: body.to_vec(),
        };
        for tag in others {
            if self.waiting(&tag) < COPIES_MAX {
                self.say(tag, &sent);
            }
        }
        Some(message)
    }

    /// Whether a message was shown before: one of the contact, or (`ours`) one to it from another device of ours.
    #[must_use]
    pub fn is_heard(&self, contact: ContactId, message: MessageName, ours: bool) -> bool {
        let it = self.contacts.get(&contact);
        it.is_some_and(|it| match ours {
            true => it.said.contains(&message),
            false => it.heard.contains(&message),
        })
    }

    /// A message was shown; see [`Devices::is_heard`].
    pub fn note(&mut self, contact: ContactId, message: MessageName, ours: bool) {
        if let Some(it) = self.contacts.get_mut(&contact) {
            let names = match ours {
                true => &mut it.said,
                false => &mut it.heard,
            };
            if names.len() == HEARD_MAX {
                names.pop_front();
            }
            names.push_back(message);
        }
    }

    /// Asks contacts to send to this device only, or to all.
    pub fn prefer(&mut self, device: Option<DeviceId>) {
        self.prefers = device;
        self.tell_all(&Frame::Prefer { device }, &[]);
    }

    /// Says something on every connection that is in use, but to some devices of ours. Who comes later
    /// [catches up](Self::catch_up).
    fn tell_all(&mut self, frame: &Frame, but: &[DeviceId]) {
        let own = self.own.iter().filter(|own| own.stage == Stage::Ready);
        let own = own.filter(|own| !but.contains(&own.id));
        let mut tags: Vec<_> = own.map(|own| own.token.tag()).collect();
        for (contact, it) in &self.contacts {
            let ready = it.links.iter().filter(|link| link.stage == Stage::Ready);
            tags.extend(it.base.then_some(contact.0));
            tags.extend(ready.map(|link| link.token.tag()));
        }
        for tag in tags {
            self.say(tag, frame);
        }
    }

    /// A connection is in use from now on: says there what was said to all before.
    pub(crate) fn catch_up(&mut self, tag: [u8; 32]) {
        let gone = self.gone.iter().map(|device| Frame::Gone {
            device: *device,
            kept: self.kept(*device),
        });
        let prefers = self.prefers.map(|device| Frame::Prefer {
            device: Some(device),
        });
        let words: Vec<_> = gone.chain(prefers).collect();
        words.iter().for_each(|frame| self.say(tag, frame));
    }

    /// Ends a connection that nothing more is said on, nor what waits.
    pub(crate) fn close(&mut self, tag: [u8; 32]) {
        let tag = ContactId(tag);
        self.due
            .retain(|due| !matches!(due.deed, Deed::Send(at, _) if at == tag));
        self.is_due(Deed::Cut(tag));
    }

    /// Whom this device vouches for, though the revoked one may have introduced them.
    fn kept(&self, device: DeviceId) -> Vec<DeviceId> {
        let me = self.me.iter().map(|me| me.id);
        let own = self.own.iter().map(|own| own.id);
        let vouched = self.vouched.iter().filter(|(of, _)| *of == device);
        let vouched = vouched.flat_map(|(_, kept)| kept.iter().copied());
        let mut kept: Vec<DeviceId> = Vec::new();
        for id in me.chain(own).chain(vouched) {
            if !kept.contains(&id) && !self.gone.contains(&id) && kept.len() < KEPT_MAX {
                kept.push(id);
            }
        }
        kept
    }

    /// Revokes a device of the profile, and those that it has introduced here but for the ones in `keep`: nobody else
    /// vouches for them. All contacts and devices are told; so are the revoked ones, for their users. A device that is not
    /// known here is told of as well. Gives those that were; none if it was revoked before, or is this one.
    pub fn revoke(&mut self, device: DeviceId, keep: &[DeviceId]) -> Vec<Party> {
        match self.me.as_ref().is_some_and(|me| me.id == device) {
            true => Vec::new(),
            false => self.remove(device, keep),
        }
    }

    /// As [`Devices::revoke`], at a word of another device.
    pub(crate) fn remove(&mut self, device: DeviceId, kept: &[DeviceId]) -> Vec<Party> {
        if self.gone.contains(&device) {
            return Vec::new();
        }
        let mut removed = vec![device];
        let mut at = 0;
        while let Some(&id) = removed.get(at) {
            at += 1;
            for own in self.own.iter().filter(|own| own.by == Some(id)) {
                if !kept.contains(&own.id) && !removed.contains(&own.id) {
                    removed.push(own.id);
                }
            }
        }
        self.gone.extend(&removed);
        if !kept.is_empty() {
            let kept = kept.iter().take(KEPT_MAX).copied().collect();
            self.vouched.push((device, kept));
        }
        self.prefers = self.prefers.filter(|it| !removed.contains(it));
        let leaving = self.own.iter().filter(|own| removed.contains(&own.id));
        let leaving: Vec<_> = leaving.map(|own| ContactId(own.token.tag())).collect();
        // They hear that they are revoked, and nothing of what waits for them.
        self.due
            .retain(|due| !matches!(due.deed, Deed::Send(at, _) if leaving.contains(&at)));
        for device in &removed {
            let (device, kept) = (*device, self.kept(*device));
            self.tell_all(&Frame::Gone { device, kept }, &removed);
        }
        self.asked.retain(|asked| !removed.contains(&asked.device));
        let mut parties = Vec::new();
        for id in removed {
            let mut name = String::new();
            if let Some(place) = self.own.iter().position(|own| own.id == id) {
                let own = self.own.remove(place);
                let tag = ContactId(own.token.tag());
                self.is_due(match own.stage {
                    Stage::Ready => {
                        let kept = Vec::new();
                        let gone = Frame::Gone { device: id, kept };
                        Deed::Leave(tag, Bytes(gone.encode()))
                    }
                    Stage::Making | Stage::Inviting | Stage::Joining | Stage::Lost => {
                        Deed::Close(tag)
                    }
                });
                name = own.name;
            }
            parties.push(Party { id, name });
        }
        parties
    }
}
