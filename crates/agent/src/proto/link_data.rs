//! What a relay keeps behind a short link, sealed for whoever has the link: a part that never changes and says
//! how to connect, and one that its maker may change and says whatever the maker likes.
//!
//! The link's key is the hash of the first part, so nobody can put another in its place; both are signed by the key
//! in the first one (the second, of a contact, possibly by an owner whom that key has authorised). The relay can
//! hold the data back, or give an older second part; anything else is noticed.

use junto_crypto::hash::{sha3_256, sha256};
use junto_crypto::kdf::hkdf_sha512;
use junto_crypto::secretbox::{BoxKey, Nonce};
use junto_crypto::{CryptoRng, Zeroizing, ed25519};
use junto_ratchet::Offer;
use junto_smp::address::ServerAddress;
use junto_smp::id::{CorrelationId, LinkId, SenderId};
use junto_smp::link::{FIXED_BYTES_MAX, LinkBlobs, USER_BYTES_MAX};

use super::address::{QueueAddress, QueueMode, QueueUri, put_relay, read_relay};
use super::link::{ContactLink, InvitationLink, LINK_QUEUES_MAX, Link, LinkError};
use super::relay::{LinkBytes, LinkParts};
use super::short::{LinkKey, ShortKind, ShortLink};
use super::version::{self, VersionRange};
use super::wire::{Malformed, Reader, put_fixed, put_large, put_short};

/// Bytes of nonce and tag around a sealed part.
const SEAL_BYTES: usize = 24 + 16;
const FIXED_PADDED: usize = FIXED_BYTES_MAX - SEAL_BYTES;
const USER_PADDED: usize = USER_BYTES_MAX - SEAL_BYTES;

/// The most that the maker of a link may say in it, in bytes: all but signature, padding and the parts around it fit.
pub const ABOUT_MAX: usize = 13_600;

/// Owners of one contact's link. Each is checked against all before it.
const OWNERS_MAX: u8 = 16;

/// What follows from a link's key: the name of a contact's data, and the key of the box.
struct Derived {
    id: Option<LinkId>,
    key: BoxKey,
}

impl Derived {
    fn new(key: &LinkKey, mode: QueueMode) -> Self {
        match mode {
            QueueMode::Messaging => {
                let key = hkdf_sha512::<32>(b"", &key.0, b"SimpleXInvLink");
                let key = BoxKey::from_symmetric(&key);
                Self { id: None, key }
            }
            QueueMode::Contact => {
                let both = hkdf_sha512::<56>(b"", &key.0, b"SimpleXContactLink");
                let (mut id, mut key) = ([0; 24], Zeroizing::new([0; 32]));
                id.copy_from_slice(&both[..24]);
                key.copy_from_slice(&both[24..]);
                Self {
                    id: Some(LinkId(id)),
                    key: BoxKey::from_symmetric(&key),
                }
            }
        }
    }
}

impl ShortLink {
    fn mode(&self) -> QueueMode {
        match self.kind() {
            ShortKind::Invitation(_) => QueueMode::Messaging,
            ShortKind::Contact(_) => QueueMode::Contact,
        }
    }

    /// The relay's name for the data.
    pub(super) fn data_id(&self) -> Option<LinkId> {
        match self.kind() {
            ShortKind::Invitation(id) => Some(id),
            ShortKind::Contact(_) => Derived::new(self.key(), QueueMode::Contact).id,
        }
    }

    /// Opens and checks what `relay` gave for the link.
    ///
    /// # Errors
    /// [`LinkError::Forged`] if it is not what the link's maker put there; [`LinkError::Malformed`] if the maker
    /// put there what is no link.
    pub fn open(&self, relay: &ServerAddress, data: &LinkBytes) -> Result<Opened, LinkError> {
        let derived = Derived::new(self.key(), self.mode());
        let fixed = Signed::open(&derived.key, &data.fixed)?;
        if sha3_256(fixed.content()) != self.key().0 {
            return Err(LinkError::Forged);
        }
        let mut reader = Reader::new(fixed.content());
        read_range(&mut reader)?;
        let root = read_key(&mut reader)?;
        fixed.verify(&root)?;
        // Whatever may follow is for later versions.
        let link = read_request(&mut reader)?;
        let user = Signed::open(&derived.key, &data.user)?;
        let about = read_user(&user, &root, self.mode())?;
        let link = match (link, self.mode()) {
            (Link::Invitation(link), QueueMode::Messaging) => {
                let link = link.found_at(relay, data.sender)?;
                Link::Invitation(Box::new(link))
            }
            (Link::Contact(link), QueueMode::Contact) => {
                Link::Contact(link.found_at(relay, data.sender)?)
            }
            _ => return Err(LinkError::Forged),
        };
        Ok(Opened { link, about })
    }
}

/// What was behind a short link.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The full link.
    pub link: Link,
    /// What the maker says beside it. Anybody with the link may read it; the relay may give an older version.
    pub about: Vec<u8>,
}

/// An opened part: a signature and what is signed.
struct Signed(Zeroizing<Vec<u8>>);

impl Signed {
    const SIGNATURE: usize = 1 + 64;

    fn open(key: &BoxKey, sealed: &[u8]) -> Result<Self, LinkError> {
        let (nonce, boxed) = sealed.split_first_chunk().ok_or(LinkError::Forged)?;
        let opened = key.open_padded(&Nonce(*nonce), boxed);
        let opened = opened.map_err(|_| LinkError::Forged)?;
        if opened.len() < Self::SIGNATURE || opened.first() != Some(&64) {
            return Err(LinkError::Forged);
        }
        Ok(Self(opened))
    }

    fn content(&self) -> &[u8] {
        // `open` has checked the length.
        self.0.get(Self::SIGNATURE..).unwrap_or_default()
    }

    fn verify(&self, key: &ed25519::VerifyingKey) -> Result<(), LinkError> {
        let signature = self.0.get(1..Self::SIGNATURE).unwrap_or_default();
        let signature = ed25519::Signature::try_from(signature).map_err(|_| LinkError::Forged)?;
        let verified = key.verify(self.content(), &signature);
        verified.map_err(|_| LinkError::Forged)
    }
}

fn read_range(reader: &mut Reader<'_>) -> Result<VersionRange, Malformed> {
    let (min, max) = (reader.u16()?, reader.u16()?);
    VersionRange::new(min, max).ok_or(Malformed::Version)
}

fn put_range(out: &mut Vec<u8>, range: VersionRange) {
    out.extend_from_slice(&range.min().to_be_bytes());
    out.extend_from_slice(&range.max().to_be_bytes());
}

fn read_key(reader: &mut Reader<'_>) -> Result<ed25519::VerifyingKey, Malformed> {
    ed25519::VerifyingKey::from_spki(reader.short()?).map_err(|_| Malformed::Key)
}

/// Reads a full link in its binary form.
fn read_request(reader: &mut Reader<'_>) -> Result<Link, Malformed> {
    let kind = reader.u8()?;
    let agent = read_range(reader)?;
    let count = usize::from(reader.u8()?);
    if count > LINK_QUEUES_MAX {
        return Err(Malformed::Long);
    }
    let queues = (0..count)
        .map(|_| read_queue(reader))
        .collect::<Result<Vec<_>, _>>()?;
    let data = reader.optional(|reader| {
        let text = core::str::from_utf8(reader.large()?).map_err(|_| Malformed::Text)?;
        Ok(text.to_owned())
    })?;
    match kind {
        b'I' => {
            let (offer, rest) = Offer::decode_front(reader.tail()).map_err(|_| Malformed::Key)?;
            *reader = Reader::new(rest);
            let link = InvitationLink::with_queues(agent, queues, data, offer);
            Ok(Link::Invitation(Box::new(link)))
        }
        b'C' => Ok(Link::Contact(ContactLink::with_queues(agent, queues, data))),
        _ => Err(Malformed::Tag),
    }
}

/// Writes a full link with one queue in its binary form.
fn put_request(
    out: &mut Vec<u8>,
    address: &QueueAddress,
    offer: Option<&Offer>,
) -> Result<(), Malformed> {
    out.push(if offer.is_some() { b'I' } else { b'C' });
    put_range(out, version::AGENT_RANGE);
    out.push(1);
    put_range(out, version::QUEUE_RANGE);
    put_relay(out, &address.relay)?;
    put_short(out, address.sender_id.as_bytes())?;
    put_fixed(out, &address.recipient_key.to_spki());
    // Agents older than queue modes know a queue that its sender secures by this, and no other.
    if address.mode == Some(QueueMode::Messaging) {
        out.push(b'T');
    }
    out.push(b'0');
    if let Some(offer) = offer {
        out.extend_from_slice(&offer.encode());
    }
    Ok(())
}

fn read_queue(reader: &mut Reader<'_>) -> Result<QueueUri, Malformed> {
    let versions = read_range(reader)?;
    let relay = read_relay(reader)?;
    let sender_id = SenderId::try_from(reader.short()?).map_err(|_| Malformed::Long)?;
    let recipient_key = reader.x25519()?;
    // A letter from queue address version 4 on, a flag or nothing before that. What follows a queue begins with
    // another byte: the upper one of a version, or the mark of something optional.
    let mode = match reader.peek() {
        Some(b'M' | b'T') => Some(QueueMode::Messaging),
        Some(b'C' | b'F') => Some(QueueMode::Contact),
        _ => None,
    };
    if mode.is_some() {
        reader.u8()?;
    }
    Ok(QueueUri {
        versions,
        address: QueueAddress {
            relay,
            sender_id,
            recipient_key,
            mode: mode.or(Some(QueueMode::Contact)),
        },
    })
}

/// Checks and reads the part that may change.
fn read_user(
    user: &Signed,
    root: &ed25519::VerifyingKey,
    mode: QueueMode,
) -> Result<Vec<u8>, LinkError> {
    let mut reader = Reader::new(user.content());
    let kind = reader.u8()?;
    read_range(&mut reader)?;
    match (kind, mode) {
        (b'I', QueueMode::Messaging) => user.verify(root)?,
        (b'C', QueueMode::Contact) => {
            // Whether the address itself takes requests.
            reader.flag()?;
            let owners = read_owners(&mut reader)?;
            if user.verify(root).is_err() {
                let owner = |key: &ed25519::VerifyingKey| user.verify(key).is_ok();
                if !authorised(root, &owners)?.iter().any(owner) {
                    return Err(LinkError::Forged);
                }
            }
            for _ in 0..reader.u8()? {
                skip_relay_link(&mut reader)?;
            }
        }
        _ => return Err(LinkError::Forged),
    }
    Ok(read_about(&mut reader)?.to_vec())
}

fn read_about<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    if reader.peek() == Some(0xff) {
        reader.u8()?;
        return reader.large();
    }
    reader.short()
}

fn put_about(out: &mut Vec<u8>, about: &[u8]) -> Result<(), Malformed> {
    match u8::try_from(about.len()) {
        Ok(0xff) | Err(_) => {
            out.push(0xff);
            put_large(out, about)
        }
        Ok(_) => put_short(out, about),
    }
}

/// The link of a channel's relay, which means nothing to us.
fn skip_relay_link(reader: &mut Reader<'_>) -> Result<(), Malformed> {
    if reader.u8()? != b'C' {
        return Err(Malformed::Tag);
    }
    reader.u8()?;
    for _ in 0..reader.u8()? {
        reader.short()?;
    }
    // Port, fingerprint, key.
    for _ in 0..3 {
        reader.short()?;
    }
    Ok(())
}

/// Somebody whom the root key, or an owner before, lets change the second part.
struct LinkOwner<'a> {
    id: &'a [u8],
    key: ed25519::VerifyingKey,
    signature: ed25519::Signature,
}

fn read_owners<'a>(reader: &mut Reader<'a>) -> Result<Vec<LinkOwner<'a>>, Malformed> {
    let count = reader.u8()?;
    if count > OWNERS_MAX {
        return Err(Malformed::Long);
    }
    let owner = |reader: &mut Reader<'a>| {
        // Later versions may add to it.
        let mut reader = Reader::new(reader.short()?);
        Ok(LinkOwner {
            id: reader.short()?,
            key: read_key(&mut reader)?,
            signature: ed25519::Signature::try_from(reader.short()?).map_err(|_| Malformed::Key)?,
        })
    };
    (0..count).map(|_| owner(reader)).collect()
}

/// The owners' keys, if all of them are authorised, each by the root key or one before it.
fn authorised(
    root: &ed25519::VerifyingKey,
    owners: &[LinkOwner<'_>],
) -> Result<Vec<ed25519::VerifyingKey>, LinkError> {
    let mut keys = vec![*root];
    for (at, owner) in owners.iter().enumerate() {
        let signed = [owner.id, &owner.key.to_spki()].concat();
        let known = keys.contains(&owner.key) || owners[..at].iter().any(|it| it.id == owner.id);
        let vouched = |key: &ed25519::VerifyingKey| key.verify(&signed, &owner.signature).is_ok();
        if known || !keys.iter().any(vouched) {
            return Err(LinkError::Forged);
        }
        keys.push(owner.key);
    }
    keys.remove(0);
    Ok(keys)
}

/// From which everything secret about a short link of ours follows: 32 random bytes.
pub(super) struct LinkSecret(pub(super) Zeroizing<[u8; 32]>);

/// A link's data, sealed.
pub(super) struct Sealed {
    pub(super) key: LinkKey,
    /// The name of the data; of an invitation the relay chooses it.
    pub(super) id: Option<LinkId>,
    pub(super) fixed: Vec<u8>,
    pub(super) user: Vec<u8>,
}

impl Sealed {
    pub(super) fn into_parts(self) -> LinkParts {
        LinkParts {
            fixed: self.fixed.into(),
            user: self.user.into(),
        }
    }
}

impl LinkSecret {
    pub(super) fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut());
        Self(secret)
    }

    /// The name of the request that makes the queue, from which the queue's name for senders follows. Another one for
    /// each attempt, as the relay may have taken an earlier one whose answer was lost.
    pub(super) fn correlation(&self, attempt: u32) -> CorrelationId {
        let salt = attempt.to_be_bytes();
        CorrelationId(*hkdf_sha512(&salt, &*self.0, b"junto link correlation"))
    }

    fn root(&self) -> ed25519::SigningKey {
        let seed = hkdf_sha512::<32>(b"", &*self.0, b"junto link root");
        ed25519::SigningKey::from_seed(&seed)
    }

    /// Seals what leads to this queue, and `about`. The same gives the same, byte for byte: so it need not be kept
    /// to be sent again.
    ///
    /// # Errors
    /// [`Malformed::Long`] if the relay's address or `about` is too long.
    pub(super) fn seal(
        &self,
        address: &QueueAddress,
        offer: Option<&Offer>,
        about: &[u8],
    ) -> Result<Sealed, Malformed> {
        let root = self.root();
        let mut fixed = Vec::new();
        put_range(&mut fixed, version::AGENT_RANGE);
        put_fixed(&mut fixed, &root.verifying_key().to_spki());
        put_request(&mut fixed, address, offer)?;
        let mut user = Vec::new();
        user.push(if offer.is_some() { b'I' } else { b'C' });
        put_range(&mut user, version::AGENT_RANGE);
        if offer.is_none() {
            // Requests come to the address itself; no further owners, no relays of a channel.
            user.extend_from_slice(b"T\0\0");
        }
        put_about(&mut user, about)?;
        let key = LinkKey(sha3_256(&fixed));
        let mode = address.mode.unwrap_or(QueueMode::Contact);
        let derived = Derived::new(&key, mode);
        let seal = |content: &[u8], padded| self.seal_part(&root, &derived.key, content, padded);
        Ok(Sealed {
            key,
            id: derived.id,
            fixed: seal(&fixed, FIXED_PADDED)?,
            user: seal(&user, USER_PADDED)?,
        })
    }

    fn seal_part(
        &self,
        root: &ed25519::SigningKey,
        key: &BoxKey,
        content: &[u8],
        padded: usize,
    ) -> Result<Vec<u8>, Malformed> {
        let mut plain = Vec::with_capacity(Signed::SIGNATURE + content.len());
        put_fixed(&mut plain, root.sign(content).as_bytes());
        plain.extend_from_slice(content);
        // A function of what is sealed: one nonce never serves two contents.
        let nonce = Nonce(*hkdf_sha512(&sha256(&plain), &*self.0, b"junto link nonce"));
        let mut out = nonce.0.to_vec();
        let sealed = key.seal_padded(&nonce, &plain, padded, &mut out);
        sealed.map_err(|_| Malformed::Long)?;
        Ok(out)
    }
}

impl LinkBytes {
    /// The bytes that a relay gave.
    #[must_use]
    pub fn new(sender: SenderId, blobs: &LinkBlobs<'_>) -> Self {
        Self {
            sender,
            fixed: blobs.fixed().into(),
            user: blobs.user().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use junto_crypto::x25519;
    use junto_ratchet::{MakerKeys, VersionRange as RatchetVersions};
    use proptest::prelude::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::ContactKind;

    const PRIMITIVES: &str = include_str!("../../../../vectors/simplex-primitives.txt");
    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";

    fn vector(name: &str) -> Vec<u8> {
        let line = PRIMITIVES.lines().find_map(|line| {
            let (found, hex) = line.split_once(' ')?;
            (found == name).then_some(hex)
        });
        hex::decode(line.unwrap()).unwrap()
    }

    fn relay() -> ServerAddress {
        RELAY.parse().unwrap()
    }

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::from_seed([5; 32])
    }

    fn address(mode: QueueMode) -> QueueAddress {
        QueueAddress {
            relay: relay(),
            sender_id: SenderId([3; 24]),
            recipient_key: x25519::SecretKey::from_bytes(&[4; 32]).public_key(),
            mode: Some(mode),
        }
    }

    fn offer() -> Offer {
        MakerKeys::generate(true, &mut rng()).offer(RatchetVersions::OURS)
    }

    fn short(sealed: &Sealed) -> ShortLink {
        let kind = match sealed.id {
            None => ShortKind::Invitation(LinkId([7; 24])),
            Some(_) => ShortKind::Contact(ContactKind::Address),
        };
        ShortLink::new(kind, sealed.key, &relay())
    }

    fn data(sealed: &Sealed) -> LinkBytes {
        LinkBytes {
            sender: SenderId([3; 24]),
            fixed: sealed.fixed.clone().into(),
            user: sealed.user.clone().into(),
        }
    }

    fn secret() -> LinkSecret {
        LinkSecret::generate(&mut rng())
    }

    fn contact(about: &[u8]) -> Sealed {
        secret()
            .seal(&address(QueueMode::Contact), None, about)
            .unwrap()
    }

    fn invitation(about: &[u8]) -> Sealed {
        let offer = offer();
        let sealed = secret().seal(&address(QueueMode::Messaging), Some(&offer), about);
        sealed.unwrap()
    }

    #[test]
    fn keys_and_names_are_those_of_the_reference() {
        let key = LinkKey(sha3_256(&vector("link_fixed")));
        assert_eq!(key.0[..], vector("link_key"));
        let contact = Derived::new(&key, QueueMode::Contact);
        assert_eq!(
            contact.id.unwrap().as_bytes()[..],
            vector("link_contact_id")
        );
        let invitation = Derived::new(&key, QueueMode::Messaging);
        for (key, name) in [
            (contact.key, "link_contact_key"),
            (invitation.key, "link_one_time_key"),
        ] {
            let expected = BoxKey::from_symmetric(&vector(name).try_into().unwrap());
            let mut sealed = Vec::new();
            expected.seal(&Nonce([1; 24]), b"text", &mut sealed);
            assert_eq!(**key.open(&Nonce([1; 24]), &sealed).unwrap(), *b"text");
        }
    }

    #[test]
    fn genuine_data_is_opened() {
        const GENUINE: &str = include_str!("../../../../vectors/agent/short-link-data.txt");
        for (kind, named) in [("invitation", true), ("contact", false)] {
            let value = |name: &str| {
                let name = format!("{kind}_{name} ");
                GENUINE
                    .lines()
                    .find_map(|line| line.strip_prefix(&name))
                    .unwrap()
            };
            let bytes = |name| hex::decode(value(name)).unwrap();
            let link: ShortLink = value("link").parse().unwrap();
            let data = LinkBytes {
                sender: SenderId(bytes("sender").try_into().unwrap()),
                fixed: bytes("fixed").into(),
                user: bytes("user").into(),
            };
            assert_eq!(matches!(link.kind(), ShortKind::Invitation(_)), named);
            let opened = link.open(&link.relay(&[]).unwrap(), &data).unwrap();
            assert_eq!(opened.about, b"genuine-data");
            match (opened.link, value("full").parse().unwrap()) {
                // The full link lacks the key for encapsulation, to be shorter.
                (Link::Invitation(opened), Link::Invitation(full)) => {
                    let (opened, full) = (opened.negotiated().unwrap(), full.negotiated().unwrap());
                    assert_eq!(opened.0, full.0);
                    assert_eq!((opened.1.k1, opened.1.k2), (full.1.k1, full.1.k2));
                }
                (opened, full) => assert_eq!(opened, full),
            }
        }
    }

    #[test]
    fn what_is_sealed_is_opened_and_has_the_size_that_every_link_has() {
        for about in [0, 1, 254, 255, 256, ABOUT_MAX] {
            let about = vec![0xa5; about];
            for sealed in [contact(&about), invitation(&about)] {
                assert_eq!(sealed.fixed.len(), FIXED_BYTES_MAX);
                assert_eq!(sealed.user.len(), USER_BYTES_MAX);
                let opened = short(&sealed).open(&relay(), &data(&sealed)).unwrap();
                assert_eq!(opened.about, about);
                match opened.link {
                    Link::Invitation(link) => {
                        let (found, offered) = link.negotiated().unwrap();
                        assert_eq!(*found, address(QueueMode::Messaging));
                        assert_eq!(*offered, offer());
                    }
                    Link::Contact(link) => {
                        assert_eq!(*link.negotiated().unwrap(), address(QueueMode::Contact));
                    }
                    Link::Short(_) => panic!(),
                }
            }
        }
    }

    #[test]
    fn the_same_is_sealed_to_the_same_bytes_and_something_else_under_another_nonce() {
        let (one, same, other) = (contact(b"one"), contact(b"one"), contact(b"two"));
        assert_eq!((&one.fixed, &one.user), (&same.fixed, &same.user));
        assert_eq!(one.fixed, other.fixed);
        assert_ne!(one.user[..24], other.user[..24]);
        assert_ne!(secret().correlation(1), secret().correlation(2));
    }

    #[test]
    fn whatever_a_relay_changes_is_noticed() {
        for sealed in [contact(b"about"), invitation(b"about")] {
            let link = short(&sealed);
            for at in [0, 23, 24, 39, 40, 41, 100, 1_000, 2_047] {
                let mut changed = data(&sealed);
                changed.fixed[at] ^= 1;
                assert_eq!(link.open(&relay(), &changed), Err(LinkError::Forged));
                let mut changed = data(&sealed);
                changed.user[at] ^= 1;
                assert_eq!(link.open(&relay(), &changed), Err(LinkError::Forged));
            }
            let mut cut = data(&sealed);
            cut.user = cut.user[..cut.user.len() - 1].into();
            assert_eq!(link.open(&relay(), &cut), Err(LinkError::Forged));
            cut.user = Box::default();
            assert_eq!(link.open(&relay(), &cut), Err(LinkError::Forged));
            // The parts in each other's place.
            let mut swapped = data(&sealed);
            core::mem::swap(&mut swapped.fixed, &mut swapped.user);
            assert_eq!(link.open(&relay(), &swapped), Err(LinkError::Forged));
        }
    }

    #[test]
    fn another_links_data_is_none_of_this_one() {
        let ours = contact(b"about");
        let other = LinkSecret(Zeroizing::new([9; 32]));
        let other = other
            .seal(&address(QueueMode::Contact), None, b"other")
            .unwrap();
        let link = short(&ours);
        assert_eq!(link.open(&relay(), &data(&other)), Err(LinkError::Forged));
        let mut mixed = data(&ours);
        mixed.user = other.user.into();
        assert_eq!(link.open(&relay(), &mixed), Err(LinkError::Forged));
        // Even under the right key, if another key has signed it: whoever has the link could have made that.
        let key = Derived::new(&ours.key, QueueMode::Contact).key;
        let root = ed25519::SigningKey::from_seed(&[8; 32]);
        let forged = secret().seal_part(&root, &key, b"C\0\x02\0\x07T\0\0\x05other", USER_PADDED);
        mixed.user = forged.unwrap().into();
        assert_eq!(link.open(&relay(), &mixed), Err(LinkError::Forged));
    }

    #[test]
    fn data_that_leads_elsewhere_is_refused() {
        let sealed = contact(b"");
        let mut elsewhere = data(&sealed);
        elsewhere.sender = SenderId([4; 24]);
        let link = short(&sealed);
        assert_eq!(link.open(&relay(), &elsewhere), Err(LinkError::Forged));
        let pin = "evk6yvqIaOtOVWfFhXQTdQRtlKeDy_4MXsJDYh2agys=";
        let other: ServerAddress = format!("smp://{pin}@relay.example:5223").parse().unwrap();
        assert_eq!(link.open(&other, &data(&sealed)), Err(LinkError::Forged));
        // The relay at a new place is the same relay.
        let moved = RELAY.replace("relay.example:5223", "new.example:443");
        let moved: ServerAddress = moved.parse().unwrap();
        let opened = link.open(&moved, &data(&sealed)).unwrap();
        let Link::Contact(link) = opened.link else {
            panic!()
        };
        assert_eq!(link.negotiated().unwrap().relay, moved);
    }

    #[test]
    fn an_invitation_is_no_contact() {
        let (one, other) = (contact(b""), invitation(b""));
        for (key, from) in [(&one, &other), (&other, &one)] {
            assert!(short(key).open(&relay(), &data(from)).is_err());
        }
        // A contact's link whose data is sealed as an invitation's, by a maker who errs.
        let link = ShortLink::new(short(&one).kind(), other.key, &relay());
        assert!(link.open(&relay(), &data(&other)).is_err());
    }

    #[test]
    fn a_relay_whose_address_is_too_long_has_no_short_links() {
        let hosts: Vec<_> = (0..8)
            .map(|it| format!("{it}{}", "h".repeat(250)))
            .collect();
        let text = RELAY.replace("relay.example", &hosts.join(","));
        let mut long = address(QueueMode::Contact);
        long.relay = text.parse().unwrap();
        let sealed = secret().seal(&long, None, b"");
        assert_eq!(sealed.err(), Some(Malformed::Long));
    }

    /// The second part of a contact's data, with these owners, signed by `signer`.
    fn owned(
        owners: &[(u8, &ed25519::SigningKey, &ed25519::SigningKey)],
        signer: &ed25519::SigningKey,
    ) -> Result<Opened, LinkError> {
        let sealed = contact(b"");
        let mut content = b"C\0\x02\0\x07T".to_vec();
        content.push(owners.len() as u8);
        for (id, owner, voucher) in owners {
            let key = owner.verifying_key().to_spki();
            let mut one = Vec::new();
            put_short(&mut one, &[*id]).unwrap();
            put_fixed(&mut one, &key);
            let signature = voucher.sign(&[&[*id][..], &key].concat());
            put_fixed(&mut one, signature.as_bytes());
            put_short(&mut content, &one).unwrap();
        }
        // A relay of a channel, which is passed over.
        content.extend_from_slice(b"\x01CR\x01\x01h\x00");
        put_fixed(&mut content, &[1; 32]);
        put_fixed(&mut content, &[2; 32]);
        content.extend_from_slice(b"\x05aboutand what later versions add");
        let key = Derived::new(&sealed.key, QueueMode::Contact).key;
        let mut data = data(&sealed);
        let user = secret().seal_part(signer, &key, &content, USER_PADDED);
        data.user = user.unwrap().into();
        short(&sealed).open(&relay(), &data)
    }

    #[test]
    fn owners_may_change_what_a_contact_says_if_they_are_authorised() {
        let root = secret().root();
        let [one, two, stranger] = [1, 2, 3].map(|it| ed25519::SigningKey::from_seed(&[it; 32]));
        let chain = [(1, &one, &root), (2, &two, &one)];
        for signer in [&root, &one, &two] {
            assert_eq!(owned(&chain, signer).unwrap().about, b"about");
        }
        let forged = Err(LinkError::Forged);
        assert_eq!(owned(&chain, &stranger), forged);
        assert_eq!(owned(&[], &stranger), forged);
        // Vouched for by nobody who may, by one who comes later, twice, or the root key itself.
        assert_eq!(owned(&[(1, &one, &stranger)], &one), forged);
        assert_eq!(owned(&[(2, &two, &one), (1, &one, &root)], &two), forged);
        assert_eq!(owned(&[(1, &one, &root), (1, &two, &root)], &two), forged);
        assert_eq!(owned(&[(1, &one, &root), (2, &one, &root)], &one), forged);
        let many = [(1, &one, &root); OWNERS_MAX as usize + 1];
        assert_eq!(owned(&many, &root), Err(Malformed::Long.into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// A maker of links who writes what it likes: everything is signed and sealed as it should be.
        #[test]
        fn no_maker_upsets_the_reader(
            after_key in prop::collection::vec(any::<u8>(), 0..300),
            user in prop::collection::vec(any::<u8>(), 0..300),
            contact: bool,
        ) {
            let root = secret().root();
            let mut fixed = Vec::new();
            put_range(&mut fixed, version::AGENT_RANGE);
            put_fixed(&mut fixed, &root.verifying_key().to_spki());
            fixed.extend_from_slice(&after_key);
            let key = LinkKey(sha3_256(&fixed));
            let mode = if contact { QueueMode::Contact } else { QueueMode::Messaging };
            let derived = Derived::new(&key, mode);
            let seal = |content: &[u8], padded| {
                secret().seal_part(&root, &derived.key, content, padded).unwrap()
            };
            let sealed = Sealed {
                key,
                id: derived.id,
                fixed: seal(&fixed, FIXED_PADDED),
                user: seal(&user, USER_PADDED),
            };
            let _ = short(&sealed).open(&relay(), &data(&sealed));
        }

        #[test]
        fn a_damaged_request_is_refused_or_read(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = Vec::new();
            put_request(&mut bytes, &address(QueueMode::Messaging), Some(&offer())).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read_request(&mut Reader::new(&bytes));
        }
    }
}
