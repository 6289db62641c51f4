//! Links that one person hands to another: how to reach a queue, and for an invitation the keys of
//! the key agreement as well.
//!
//! `simplex:/invitation#/?v=…&smp=…&e2e=…[&data=…]` and `simplex:/contact#/?v=…&smp=…[&data=…]`. A
//! [`ShortLink`] says where such a link is kept.

use core::fmt;
use core::str::FromStr;

use junto_ratchet::Offer;
use junto_smp::address::ServerAddress;
use junto_smp::id::SenderId;

use super::address::{QueueAddress, QueueMode, QueueUri};
use super::offer;
use super::query::Query;
use super::short::{self, ShortLink};
use super::version::{self, VersionRange};
use super::wire::Malformed;

/// The longest link that is read, in bytes: eight queues of the longest relay address, escaped, and
/// post-quantum keys fit.
pub(crate) const LINK_MAX: usize = 32 * 1024;

/// Queues in one link.
pub(crate) const LINK_QUEUES_MAX: usize = 8;

/// Why a text cannot be used as a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It is not a link.
    #[error("the link {0}")]
    Malformed(#[from] Malformed),
    /// It is a link of the other kind.
    #[error("this is {0}")]
    OtherKind(&'static str),
    /// Its maker speaks no version that we speak.
    #[error("the link was made by an incompatible version")]
    Unsupported,
    /// It names its relay by host only, and the profile has no relay at that host.
    #[error("the link does not say how to know its relay, and none of yours is at that host")]
    UnknownRelay,
    /// What the relay holds for a short link is not what the link's maker put there.
    #[error("what the relay gave for the link is not what its maker put there")]
    Forged,
}

/// Where and with which keys one peer can connect, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvitationLink {
    place: Place,
    offer: Offer,
}

/// Where anybody can ask to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactLink {
    place: Place,
}

/// Any kind of link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// For one peer.
    Invitation(Box<InvitationLink>),
    /// For anybody.
    Contact(ContactLink),
    /// For either, behind data on a relay.
    Short(Box<ShortLink>),
}

/// What both kinds say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    agent: VersionRange,
    queues: Vec<QueueUri>,
    data: Option<String>,
}

impl InvitationLink {
    /// The invitation to this queue with these keys.
    #[must_use]
    pub(super) fn new(address: QueueAddress, offer: Offer) -> Self {
        Self {
            place: Place::new(address),
            offer,
        }
    }

    /// What was behind a short link.
    pub(super) fn with_queues(
        agent: VersionRange,
        queues: Vec<QueueUri>,
        data: Option<String>,
        offer: Offer,
    ) -> Self {
        let place = Place {
            agent,
            queues,
            data,
        };
        Self { place, offer }
    }

    /// The link, if it leads to the queue of a short link that was found on `relay` under this name.
    pub(super) fn found_at(
        mut self,
        relay: &ServerAddress,
        sender: SenderId,
    ) -> Result<Self, LinkError> {
        self.place.found_at(relay, sender)?;
        Ok(self)
    }

    /// The maker's keys, whether we can use them or not.
    pub(super) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The queue to send to and the maker's keys, if we can use them: its agent, its queue and its
    /// ratchet speak our versions, and its sender may secure the queue.
    ///
    /// # Errors
    /// [`LinkError::Unsupported`] otherwise.
    pub fn negotiated(&self) -> Result<(&QueueAddress, &Offer), LinkError> {
        let address = self.place.negotiated(QueueMode::Messaging)?;
        let ratchet = self.offer.versions;
        if ratchet.min() > version::RATCHET || ratchet.max() < version::RATCHET {
            return Err(LinkError::Unsupported);
        }
        Ok((address, &self.offer))
    }
}

impl ContactLink {
    /// The link of this contact queue.
    #[must_use]
    pub(super) fn new(address: QueueAddress) -> Self {
        Self {
            place: Place::new(address),
        }
    }

    /// What was behind a short link.
    pub(super) fn with_queues(
        agent: VersionRange,
        queues: Vec<QueueUri>,
        data: Option<String>,
    ) -> Self {
        let place = Place {
            agent,
            queues,
            data,
        };
        Self { place }
    }

    /// As [`InvitationLink::found_at`].
    pub(super) fn found_at(
        mut self,
        relay: &ServerAddress,
        sender: SenderId,
    ) -> Result<Self, LinkError> {
        self.place.found_at(relay, sender)?;
        Ok(self)
    }

    /// The queue to send a request to.
    ///
    /// # Errors
    /// [`LinkError::Unsupported`] if its owner speaks none of our versions.
    pub fn negotiated(&self) -> Result<&QueueAddress, LinkError> {
        self.place.negotiated(QueueMode::Contact)
    }
}

impl Place {
    fn new(address: QueueAddress) -> Self {
        let queue = QueueUri {
            versions: version::QUEUE_RANGE,
            address,
        };
        Self {
            agent: version::AGENT_RANGE,
            queues: vec![queue],
            data: None,
        }
    }

    /// Takes the place of the relay where it was found, which may have moved since. Both must prove the same
    /// identity: else somebody has led us to the data of another relay's queue.
    fn found_at(&mut self, relay: &ServerAddress, sender: SenderId) -> Result<(), LinkError> {
        let queue = self.queues.first_mut().ok_or(Malformed::Short)?;
        let address = &mut queue.address;
        if address.sender_id != sender || address.relay.fingerprint() != relay.fingerprint() {
            return Err(LinkError::Forged);
        }
        address.relay = relay.clone();
        Ok(())
    }

    fn negotiated(&self, mode: QueueMode) -> Result<&QueueAddress, LinkError> {
        if !self.agent.contains(version::AGENT) {
            return Err(LinkError::Unsupported);
        }
        self.queues
            .iter()
            .filter_map(QueueUri::negotiated)
            // Contact addresses made before queue modes say nothing about theirs.
            .find(|queue| match mode {
                QueueMode::Messaging => queue.mode == Some(QueueMode::Messaging),
                QueueMode::Contact => queue.mode != Some(QueueMode::Messaging),
            })
            .ok_or(LinkError::Unsupported)
    }

    fn query(&self, e2e: Option<String>) -> Query {
        let mut query = Query::default();
        query.push("v", self.agent.to_string());
        let queues: Vec<_> = self.queues.iter().map(QueueUri::to_string).collect();
        query.push("smp", queues.join(";"));
        if let Some(e2e) = e2e {
            query.push("e2e", e2e);
        }
        if let Some(data) = &self.data {
            query.push("data", data.as_str());
        }
        query
    }

    fn from_query(query: &Query) -> Result<Self, Malformed> {
        let agent = query.required("v")?.parse()?;
        let mut queues = Vec::new();
        for queue in query.required("smp")?.split(';') {
            if queues.len() == LINK_QUEUES_MAX {
                return Err(Malformed::Long);
            }
            queues.push(queue.parse()?);
        }
        Ok(Self {
            agent,
            queues,
            data: query.optional("data").map(str::to_owned),
        })
    }
}

impl fmt::Display for InvitationLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e2e = offer::to_text(&self.offer);
        write!(
            f,
            "simplex:/invitation#/?{}",
            self.place.query(Some(e2e)).escaped()
        )
    }
}

impl fmt::Display for ContactLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simplex:/contact#/?{}", self.place.query(None).escaped())
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invitation(link) => link.fmt(f),
            Self::Contact(link) => link.fmt(f),
            Self::Short(link) => link.fmt(f),
        }
    }
}

impl FromStr for Link {
    type Err = LinkError;

    /// Reads a link of any kind; `https://host/…` in place of `simplex:/…` is read as well.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if text.len() > LINK_MAX {
            return Err(Malformed::Long.into());
        }
        let path = match text.strip_prefix("simplex:/") {
            Some(path) => path,
            None => {
                let rest = text.strip_prefix("https://").ok_or(Malformed::Text)?;
                rest.split_once('/').ok_or(Malformed::Text)?.1
            }
        };
        let (kind, _) = path.split_once('#').ok_or(Malformed::Text)?;
        if short::is_short(kind.strip_suffix('/').unwrap_or(kind)) {
            return Ok(Self::Short(Box::new(text.parse()?)));
        }
        let (kind, query) = path.split_once("#/?").ok_or(Malformed::Text)?;
        let query = Query::parse_escaped(query)?;
        let place = Place::from_query(&query)?;
        match kind.strip_suffix('/').unwrap_or(kind) {
            "invitation" => {
                let offer = offer::from_text(query.required("e2e")?)?;
                Ok(Self::Invitation(Box::new(InvitationLink { place, offer })))
            }
            "contact" => Ok(Self::Contact(ContactLink { place })),
            _ => Err(Malformed::Text.into()),
        }
    }
}

impl FromStr for InvitationLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        match text.parse()? {
            Link::Invitation(link) => Ok(*link),
            Link::Contact(_) => Err(LinkError::OtherKind("a contact address")),
            Link::Short(_) => Err(LinkError::OtherKind("a short link")),
        }
    }
}

impl FromStr for ContactLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        match text.parse()? {
            Link::Contact(link) => Ok(link),
            Link::Invitation(_) => Err(LinkError::OtherKind("a one-time invitation")),
            Link::Short(_) => Err(LinkError::OtherKind("a short link")),
        }
    }
}

impl From<InvitationLink> for Link {
    fn from(link: InvitationLink) -> Self {
        Self::Invitation(Box::new(link))
    }
}

impl From<ShortLink> for Link {
    fn from(link: ShortLink) -> Self {
        Self::Short(Box::new(link))
    }
}

impl From<ContactLink> for Link {
    fn from(link: ContactLink) -> Self {
        Self::Contact(link)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GENUINE: &str = include_str!("../../../../vectors/agent/invitation.txt");

    #[test]
    fn a_genuine_invitation_returns_byte_for_byte() {
        let link: Link = GENUINE.trim_end().parse().unwrap();
        assert_eq!(link.to_string(), GENUINE.trim_end());
        let Link::Invitation(link) = link else {
            panic!("not an invitation")
        };
        let (address, offer) = link.negotiated().unwrap();
        assert_eq!(address.mode, Some(QueueMode::Messaging));
        assert_eq!(offer.versions.max(), 3);
        assert_eq!(offer.kem, None);
    }

    #[test]
    fn links_of_web_form_are_the_same_links() {
        let link: InvitationLink = GENUINE.parse().unwrap();
        for prefix in ["https://simplex.chat/", "https://relay.example:8443/"] {
            let web = GENUINE.replace("simplex:/", prefix);
            assert_eq!(web.parse::<InvitationLink>(), Ok(link.clone()));
        }
    }

    #[test]
    fn a_link_of_the_other_kind_is_named() {
        assert_eq!(
            GENUINE.parse::<ContactLink>(),
            Err(LinkError::OtherKind("a one-time invitation"))
        );
        let contact = GENUINE.replace("/invitation#", "/contact#");
        assert!(matches!(contact.parse(), Ok(Link::Contact(_))));
        assert_eq!(
            contact.parse::<InvitationLink>(),
            Err(LinkError::OtherKind("a contact address"))
        );
    }

    #[test]
    fn versions_that_we_do_not_speak_are_refused_when_used() {
        for (from, to) in [
            ("?v=2-7&", "?v=2-6&"),
            ("?v=2-7&", "?v=8-9&"),
            ("v%3D2-3", "v%3D4-5"),
        ] {
            let link: InvitationLink = GENUINE.replace(from, to).parse().unwrap();
            assert_eq!(
                link.negotiated().err(),
                Some(LinkError::Unsupported),
                "{to}"
            );
        }
        let newer: InvitationLink = GENUINE.replace("?v=2-7&", "?v=7-9&").parse().unwrap();
        assert!(newer.negotiated().is_ok());
    }

    proptest! {
        #[test]
        fn damaged_links_are_refused_or_return(at in 0..900_usize, byte in 0x20..0x7f_u8) {
            let mut text = GENUINE.trim_end().as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            if let Ok(link) = text.parse::<Link>() {
                prop_assert_eq!(link.to_string().parse::<Link>(), Ok(link));
            }
        }
    }
}
