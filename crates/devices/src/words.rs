//! What this device does with the words of others.

use crate::frame::{Frame, KEPT_MAX, LINK_MAX, Whom};
use crate::id::{ContactId, DeviceId, Token};
use crate::state::{
    Asked, CONTACTS_MAX, Contact, DEVICES_MAX, Deed, Devices, KNOWN_MAX, Link, Own, STRANGERS_MAX,
    Stage,
};

/// The connection that something came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// With a contact: the one that made it, or the one of an introduction.
    Contact(ContactId, Option<Token>),
    /// With another device of ours.
    Own(Token),
    /// Of a linking under way.
    Linking(Token),
}

/// What the application is to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A contact of another device of ours, by the name that it has there. To be entered before the state is stored.
    Contact(ContactId, String),
    /// A contact has one more device.
    Joined(ContactId, DeviceId),
    /// A contact has revoked a device.
    Left(ContactId, DeviceId),
    /// The profile has one more device.
    Linked(String),
    /// A device of the profile is revoked: its name, and who has revoked it.
    Revoked(String, String),
    /// This device is revoked, by that one.
    RevokedHere(String),
    /// This device has been asked for everything.
    AskedAll,
}

impl Devices {
    /// The connection under this tag, if an introduction or a linking made it.
    #[must_use]
    pub fn line(&self, tag: &[u8; 32]) -> Option<Line> {
        if let Some(begun) = self.linking.as_ref().filter(|it| it.token.tag() == *tag) {
            return Some(Line::Linking(begun.token));
        }
        if let Some(own) = self.own.iter().find(|own| own.token.tag() == *tag) {
            return Some(Line::Own(own.token));
        }
        self.contacts.iter().find_map(|(contact, it)| {
            let link = it.links.iter().find(|link| link.token.tag() == *tag)?;
            Some(Line::Contact(*contact, Some(link.token)))
        })
    }

    /// Whether messages on a connection count: it is in use, and its other end has said who it is.
    #[must_use]
    pub fn is_open(&self, line: Line) -> bool {
        match line {
            Line::Contact(contact, None) => self
                .contacts
                .get(&contact)
                .and_then(|it| it.home.map(|home| !it.gone.contains(&home)))
                .unwrap_or(true),
            Line::Contact(contact, Some(token)) => {
                let link = self.contacts.get(&contact);
                let link = link.and_then(|it| it.links.iter().find(|it| it.token == token));
                link.is_some_and(|link| link.stage == Stage::Ready)
            }
            Line::Own(token) => {
                let own = self.own.iter().find(|own| own.token == token);
                own.is_some_and(|own| own.stage == Stage::Ready)
            }
            Line::Linking(_) => false,
        }
    }

    /// A connection stands.
    pub fn connected(&mut self, line: Line) {
        let (stage, token) = match line {
            Line::Own(token) => match self.own.iter_mut().find(|own| own.token == token) {
                Some(own) => (&mut own.stage, token),
                None => return,
            },
            Line::Contact(contact, Some(token)) => match self.link_mut(contact, token) {
                Some(link) => (&mut link.stage, token),
                None => return,
            },
            Line::Contact(contact, None) => return self.meet(contact),
            Line::Linking(_) => return,
        };
        if matches!(stage, Stage::Making | Stage::Inviting) {
            *stage = Stage::Ready;
            self.say(token.tag(), &Frame::Hello { token });
            self.catch_up(token.tag());
        }
    }

    /// A connection cannot go on, and what is known of it goes. The one that made a contact is the application's.
    pub fn failed(&mut self, line: Line) {
        let token = match line {
            Line::Own(token) => {
                // Who ends the connection with us does not get away by it: it can still be revoked.
                if let Some(own) = self.own.iter_mut().find(|own| own.token == token) {
                    own.stage = Stage::Lost;
                }
                token
            }
            Line::Contact(contact, Some(token)) => {
                if let Some(it) = self.contacts.get_mut(&contact) {
                    it.links.retain(|link| link.token != token);
                }
                token
            }
            Line::Contact(contact, None) => {
                if let Some(it) = self.contacts.get_mut(&contact) {
                    it.base = false;
                }
                return;
            }
            Line::Linking(token) => {
                self.linking = None;
                token
            }
        };
        self.close(token.tag());
    }

    /// The invitation of an introduction is made.
    pub fn made(&mut self, token: Token, link: &str) {
        let asked_by = self.contacts.values_mut().find_map(|it| {
            let found = it.links.iter_mut().find(|link| link.token == token)?;
            (found.stage == Stage::Making).then(|| found.stage = Stage::Inviting)?;
            found.asked_by
        });
        let asked_by = asked_by.or_else(|| {
            let own = self.own.iter_mut().find(|own| own.token == token)?;
            (own.stage == Stage::Making).then(|| own.stage = Stage::Inviting)?;
            own.by
        });
        if let Some(tag) = asked_by.and_then(|device| self.own_tag(device))
            && link.len() <= LINK_MAX
        {
            let link = link.to_owned();
            self.say(tag, &Frame::Made { token, link });
        }
    }

    /// Hears a word. Those of a linking that is not confirmed are for [`Linking`](crate::Linking), and texts for the user.
    pub fn hear(&mut self, line: Line, frame: &Frame) -> Vec<News> {
        match (line, frame) {
            (Line::Linking(_), Frame::Confirm) => {
                self.link().map(News::Linked).into_iter().collect()
            }
            (Line::Linking(token), Frame::Cancel) => {
                self.failed(Line::Linking(token));
                Vec::new()
            }
            (Line::Own(token), frame) => self.hear_own(token, frame),
            (Line::Contact(contact, token), frame) => self.hear_contact(contact, token, frame),
            (Line::Linking(_), _) => Vec::new(),
        }
    }

    fn hear_own(&mut self, token: Token, frame: &Frame) -> Vec<News> {
        let Some(own) = self.own.iter_mut().find(|own| own.token == token) else {
            return Vec::new();
        };
        let (speaker, its_name) = (own.id, own.name.clone());
        if own.stage != Stage::Ready {
            let is_hello = *frame == Frame::Hello { token };
            if is_hello && own.stage == Stage::Joining {
                own.stage = Stage::Ready;
                self.catch_up(token.tag());
                return vec![News::Linked(its_name)];
            }
            return Vec::new();
        }
        match frame {
            Frame::Make { token, whom } => self.make(speaker, *token, whom),
            Frame::Made { token, link } => {
                self.pass_on(speaker, *token, link);
                Vec::new()
            }
            Frame::All => vec![News::AskedAll],
            Frame::Here {
                from,
                device,
                name,
                token,
                link,
            } if *from == speaker => {
                if self.may_add(*device) {
                    self.add_own(*device, name, *token, (Stage::Joining, speaker));
                    self.is_due(Deed::Join(*token, link.clone()));
                }
                Vec::new()
            }
            Frame::Gone { device, kept } => {
                if self.me.as_ref().is_some_and(|me| me.id == *device) {
                    return self.end(its_name);
                }
                if !self.may_revoke(speaker, *device) {
                    return Vec::new();
                }
                // Who leaves vouches for nobody.
                let kept: &[DeviceId] = if *device == speaker { &[] } else { kept };
                let known = self.own.iter().map(|own| own.id).collect::<Vec<_>>();
                let removed = self.remove(*device, kept).into_iter();
                removed
                    .filter(|it| known.contains(&it.id))
                    .map(|it| News::Revoked(it.name, its_name.clone()))
                    .collect()
            }
            Frame::Prefer { device } => {
                self.prefers = *device;
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// This device is revoked: everything that came by linking ends.
    fn end(&mut self, by: String) -> Vec<News> {
        let mut tokens: Vec<_> = self.own.drain(..).map(|own| own.token).collect();
        let mut bases = Vec::new();
        for (contact, it) in &mut self.contacts {
            tokens.extend(it.links.drain(..).map(|link| link.token));
            // The contact ends it as well: linked again, this is another device.
            if core::mem::take(&mut it.base) {
                bases.push(*contact);
            }
            (it.home, it.prefers) = (None, None);
        }
        for contact in bases {
            self.is_due(Deed::Close(contact));
        }
        self.asked.clear();
        self.prefers = None;
        self.revoked_by = Some(by.clone());
        for token in tokens {
            self.is_due(Deed::Close(ContactId(token.tag())));
        }
        vec![News::RevokedHere(by)]
    }

    /// Whether a device's word that another one is revoked counts. Those that were never known here take places that are
    /// bounded; those that are known are revoked whatever a thief has said before.
    fn may_revoke(&mut self, speaker: DeviceId, device: DeviceId) -> bool {
        if self.own.iter().any(|own| own.id == device) {
            return true;
        }
        let room = self.gone.len() < KNOWN_MAX && !self.gone.contains(&device);
        let mut own = self.own.iter_mut();
        match own.find(|own| own.id == speaker) {
            Some(own) if room && own.strangers < STRANGERS_MAX => own.strangers += 1,
            _ => return false,
        }
        true
    }

    fn may_add(&self, device: DeviceId) -> bool {
        let is_me = self.me.as_ref().is_some_and(|me| me.id == device);
        let known = self.own.iter().any(|own| own.id == device) || self.gone.contains(&device);
        let places = self.own.len() + 1 < DEVICES_MAX && self.gone.len() < KNOWN_MAX;
        !is_me && !known && places
    }

    fn add_own(&mut self, id: DeviceId, name: &str, token: Token, (stage, by): (Stage, DeviceId)) {
        let (name, by) = (name.to_owned(), Some(by));
        self.own.push(Own {
            id,
            name,
            token,
            stage,
            by,
            strangers: 0,
        });
    }

    /// A device of ours asks for an invitation.
    fn make(&mut self, speaker: DeviceId, token: Token, whom: &Whom) -> Vec<News> {
        if self.line(&token.tag()).is_some() {
            return Vec::new();
        }
        match whom {
            Whom::Own { device, name } => {
                if self.may_add(*device) {
                    self.add_own(*device, name, token, (Stage::Making, speaker));
                    self.is_due(Deed::Invite(token));
                }
                Vec::new()
            }
            Whom::Contact {
                contact,
                peer,
                name,
            } => {
                let full = self.contacts.len() >= CONTACTS_MAX;
                if full && !self.contacts.contains_key(contact) {
                    return Vec::new();
                }
                let it = self.contacts.entry(*contact).or_default();
                let has = peer.is_some_and(|peer| it.has(peer) || it.gone.contains(&peer));
                if has || it.live() >= DEVICES_MAX || it.known() >= KNOWN_MAX {
                    return Vec::new();
                }
                it.links.push(Link {
                    token,
                    stage: Stage::Making,
                    peer: *peer,
                    by: None,
                    asked_by: Some(speaker),
                });
                // It has that connection itself.
                self.asked.push(Asked {
                    device: speaker,
                    line: ContactId(token.tag()),
                    token,
                    answered: true,
                });
                self.is_due(Deed::Invite(token));
                vec![News::Contact(*contact, name.clone())]
            }
        }
    }

    /// A device of ours has made an invitation that we asked for: whom it is for is told.
    fn pass_on(&mut self, device: DeviceId, token: Token, link: &str) {
        let Some(from) = self.me.as_ref().map(|me| me.id) else {
            return;
        };
        let mut asked = self.asked.iter_mut();
        let is_meant = |it: &&mut Asked| it.token == token && it.device == device && !it.answered;
        let Some(asked) = asked.find(is_meant) else {
            return;
        };
        asked.answered = true;
        let line = asked.line;
        // What a device is called is nobody else's business.
        let is_own = self.own.iter().any(|own| own.token.tag() == line.0);
        let own = self.own.iter().find(|own| own.id == device && is_own);
        let here = Frame::Here {
            from,
            device,
            name: own.map_or_else(String::new, |own| own.name.clone()),
            token,
            link: link.to_owned(),
        };
        self.say(line.0, &here);
    }

    fn link_mut(&mut self, contact: ContactId, token: Token) -> Option<&mut Link> {
        let it = self.contacts.get_mut(&contact)?;
        it.links.iter_mut().find(|link| link.token == token)
    }

    fn hear_contact(
        &mut self,
        contact: ContactId,
        token: Option<Token>,
        frame: &Frame,
    ) -> Vec<News> {
        if let Some(token) = token
            && let Some(link) = self.link_mut(contact, token)
            && link.stage != Stage::Ready
        {
            let is_hello = *frame == Frame::Hello { token };
            if !is_hello || link.stage != Stage::Joining {
                return Vec::new();
            }
            link.stage = Stage::Ready;
            let peer = link.peer.into_iter();
            self.catch_up(token.tag());
            return peer.map(|peer| News::Joined(contact, peer)).collect();
        }
        if !self.is_open(Line::Contact(contact, token)) {
            return Vec::new();
        }
        match frame {
            Frame::Here { .. } => {
                self.hear_here(contact, token, frame);
                Vec::new()
            }
            Frame::Gone { device, kept } => self.hear_gone((contact, token), *device, kept),
            Frame::Prefer { device } => {
                if let Some(it) = self.contacts.get_mut(&contact) {
                    it.prefers = *device;
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A contact has another device. Whoever lies here lies about itself: nothing but this contact is touched.
    fn hear_here(&mut self, contact: ContactId, via: Option<Token>, frame: &Frame) {
        let Frame::Here {
            from,
            device,
            token,
            link,
            ..
        } = frame
        else {
            return;
        };
        let taken = self.line(&token.tag()).is_some();
        let full = self.contacts.len() >= CONTACTS_MAX;
        if taken || from == device || (full && !self.contacts.contains_key(&contact)) {
            return;
        }
        let it = self
            .contacts
            .entry(contact)
            .or_insert_with(Contact::at_base);
        if !it.speaks(via, *from) {
            return;
        }
        // Where two devices wait for each other by invitations of two introducers, both are followed: one that gave way
        // would wait for ever if the other introducer is lost.
        let known = it.is_followed(*device) || it.gone.contains(device);
        if known || it.live() >= DEVICES_MAX || it.known() >= KNOWN_MAX {
            return;
        }
        it.links.push(Link {
            token: *token,
            stage: Stage::Joining,
            peer: Some(*device),
            by: Some(*from),
            asked_by: None,
        });
        self.is_due(Deed::Join(*token, link.clone()));
    }

    fn hear_gone(
        &mut self,
        (contact, via): (ContactId, Option<Token>),
        device: DeviceId,
        kept: &[DeviceId],
    ) -> Vec<News> {
        if self.contacts.len() >= CONTACTS_MAX && !self.contacts.contains_key(&contact) {
            return Vec::new();
        }
        // It may be the first thing that is heard of the contact's devices.
        let it = self
            .contacts
            .entry(contact)
            .or_insert_with(Contact::at_base);
        debug_assert!(kept.len() <= KEPT_MAX);
        // Who leaves vouches for nobody.
        let kept = match it.speaker(via) == Some(device) {
            true => &[],
            false => kept,
        };
        let (closed, left) = it.remove(device, kept);
        for tag in closed {
            // What waits for it does not go there any more.
            self.close(tag.map_or(contact.0, |token| token.tag()));
        }
        left.into_iter().map(|it| News::Left(contact, it)).collect()
    }
}

impl Contact {
    /// The device at the other end of a connection, if it has said who it is.
    fn speaker(&self, via: Option<Token>) -> Option<DeviceId> {
        match via {
            None => self.home,
            Some(token) => {
                let link = self.links.iter().find(|link| link.token == token);
                link.and_then(|link| link.peer)
            }
        }
    }

    /// Whether a device may say this on the connection: it is the one that has said so before, or the first to say who
    /// it is there.
    fn speaks(&mut self, via: Option<Token>, from: DeviceId) -> bool {
        match self.speaker(via) {
            Some(known) => known == from,
            None if self.has(from) || self.gone.contains(&from) => false,
            None => {
                match via {
                    None => self.home = Some(from),
                    Some(token) => {
                        let mut links = self.links.iter_mut();
                        if let Some(link) = links.find(|link| link.token == token) {
                            link.peer = Some(from);
                        }
                    }
                }
                true
            }
        }
    }

    /// Takes a device away, and what it has introduced that nobody vouches for. Gives the connections to end (none: the
    /// first one), and the devices that had one.
    fn remove(
        &mut self,
        device: DeviceId,
        kept: &[DeviceId],
    ) -> (Vec<Option<Token>>, Vec<DeviceId>) {
        let mut removed = vec![device];
        let (mut closed, mut left) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(&id) = removed.get(at) {
            at += 1;
            // Beyond the bound nothing is added any more either, so nothing can come back.
            if self.gone.contains(&id) || (self.known() >= KNOWN_MAX && !self.has(id)) {
                continue;
            }
            let before = closed.len();
            let strays = self.links.iter().filter(|link| link.by == Some(id));
            let strays = strays.filter_map(|link| link.peer);
            let strays: Vec<_> = strays.filter(|it| !kept.contains(it)).collect();
            removed.extend(strays);
            if self.home == Some(id) && self.base {
                self.base = false;
                closed.push(None);
            }
            let gone = self.links.extract_if(.., |link| link.peer == Some(id));
            closed.extend(gone.map(|link| Some(link.token)));
            if self.prefers == Some(id) {
                self.prefers = None;
            }
            self.gone.push(id);
            if closed.len() > before {
                left.push(id);
            }
        }
        (closed, left)
    }
}
