//! Who is in a session: the sorted roster and the identifiers that hash it.

use core::fmt;
use std::collections::BTreeSet;

use junto_crypto::{
    CryptoRng,
    ed25519::{Signature, SigningKey, VerifyingKey},
    x25519,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    identity::{Policy, ProfileBinding},
    link::SessionLink,
    party::{DisplayName, PartyCount, PartyIndex},
    statement,
    wire::{Malformed, Put, Reader},
};

/// Hash of everything in a session link: names a session before its roster exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FormationId(pub [u8; 32]);

/// Hash of the formation and the roster: names a session, its parties and their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 32]);

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x})"), self.0[0], self.0[1], self.0[2], self.0[3])
            }
        }
    )*};
}
hex_text!(FormationId, SessionId);

/// One party of a roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its session key, made for this session only.
    pub key: VerifyingKey,
    /// Its key for sealed introductions.
    pub exchange: x25519::PublicKey,
    /// Commitment to its share of the safety code.
    pub commitment: [u8; 32],
    /// What it calls itself.
    pub name: DisplayName,
    /// Its profile key, where the policy asks for one.
    pub profile: Option<ProfileBinding>,
}

impl Entry {
    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        bytes
            .put(self.key.as_bytes())
            .put(self.exchange.as_bytes())
            .put(&self.commitment)
            .put_short(self.name.as_str().as_bytes())
            .put_flag(self.profile.is_some());
        if let Some(profile) = &self.profile {
            bytes
                .put(profile.key.as_bytes())
                .put(profile.signature.as_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let key = reader.verifying_key()?;
        let exchange = reader.exchange_key()?;
        let commitment = reader.array()?;
        let name = reader.short()?;
        let name = DisplayName::new(reader.text(name)?)?;
        let profile = if reader.flag()? {
            Some(ProfileBinding {
                key: reader.verifying_key()?,
                signature: reader.signature()?,
            })
        } else {
            None
        };
        Ok(Self {
            key,
            exchange,
            commitment,
            name,
            profile,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        self.put(&mut bytes);
        bytes
    }

    /// Whether the entry shows what the policy asks for, no more and no less.
    pub(crate) fn satisfies(&self, link: &SessionLink) -> bool {
        match (link.params.policy, &self.profile) {
            (Policy::Anonymous, None) => true,
            // Keys are remembered by name, so `tofu` needs one.
            (Policy::Tofu, Some(_)) if self.name.as_str().is_empty() => false,
            (Policy::Tofu | Policy::Pinned, Some(profile)) => {
                profile.verify(&link.nonce, &self.key)
            }
            (Policy::Anonymous, Some(_)) | (Policy::Tofu | Policy::Pinned, None) => false,
        }
    }
}

/// The parties of a session, strictly ascending by session key; a party's index is its rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    entries: Vec<Entry>,
    count: PartyCount,
}

impl Roster {
    pub(crate) fn new(mut entries: Vec<Entry>) -> Result<Self, Malformed> {
        entries.sort_by_key(|entry| entry.key);
        Self::sorted(entries)
    }

    fn sorted(entries: Vec<Entry>) -> Result<Self, Malformed> {
        let count = PartyCount::new(entries.len())?;
        if !entries.is_sorted_by(|a, b| a.key < b.key) {
            return Err(Malformed("roster"));
        }
        Ok(Self { entries, count })
    }

    /// How many parties.
    #[must_use]
    pub fn count(&self) -> PartyCount {
        self.count
    }

    /// In order of index.
    pub fn iter(&self) -> impl Iterator<Item = (PartyIndex, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| PartyIndex::new(index).map(|index| (index, entry)))
    }

    /// The party of that index.
    #[must_use]
    pub fn entry(&self, party: PartyIndex) -> Option<&Entry> {
        self.entries.get(party.as_usize())
    }

    /// The index of a session key.
    #[must_use]
    pub fn index_of(&self, key: &VerifyingKey) -> Option<PartyIndex> {
        self.entries
            .binary_search_by(|entry| entry.key.cmp(key))
            .ok()
            .and_then(PartyIndex::new)
    }

    pub(crate) fn names_are_distinct(&self) -> bool {
        let names: BTreeSet<_> = self
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        names.len() == self.entries.len()
    }

    pub(crate) fn verify(
        &self,
        party: PartyIndex,
        statement: &[u8],
        signature: &Signature,
    ) -> bool {
        self.entry(party)
            .is_some_and(|entry| entry.key.verify(statement, signature).is_ok())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 256 * self.entries.len());
        bytes.put_u8(self.count.as_u8());
        for entry in &self.entries {
            entry.put(&mut bytes);
        }
        bytes
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let count = PartyCount::new(usize::from(reader.u8()?))?;
        let entries = (0..count.as_usize())
            .map(|_| Entry::read(reader))
            .collect::<Result<Vec<_>, _>>()?;
        Self::sorted(entries)
    }

    /// The session's identifier under `formation`.
    #[must_use]
    pub fn session_id(&self, formation: &FormationId) -> SessionId {
        statement::session(formation, &self.encode())
    }
}

/// A party's own secrets in one session: made for it, wiped with it.
pub(crate) struct SessionKeys {
    pub(crate) signing: SigningKey,
    pub(crate) exchange: x25519::SecretKey,
    pub(crate) reveal: Reveal,
}

/// A party's share of the safety code, secret until the roster stands.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Reveal(pub(crate) [u8; 32]);

impl SessionKeys {
    pub(crate) fn generate(mut rng: &mut dyn CryptoRng) -> Self {
        let mut reveal = Reveal([0; 32]);
        rng.fill_bytes(&mut reveal.0);
        Self {
            signing: SigningKey::generate(&mut rng),
            exchange: x25519::SecretKey::generate(&mut rng),
            reveal,
        }
    }

    pub(crate) fn entry(
        &self,
        formation: &FormationId,
        name: DisplayName,
        profile: Option<ProfileBinding>,
    ) -> Entry {
        let key = self.signing.verifying_key();
        Entry {
            key,
            exchange: self.exchange.public_key(),
            commitment: statement::commitment(formation, &key, &self.reveal.0),
            name,
            profile,
        }
    }

    pub(crate) fn put(&self, bytes: &mut Vec<u8>) {
        bytes
            .put(self.signing.seed())
            .put(self.exchange.as_bytes())
            .put(&self.reveal.0);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut seed: [u8; 32] = reader.array()?;
        let mut exchange: [u8; 32] = reader.array()?;
        let keys = Self {
            signing: SigningKey::from_seed(&seed),
            exchange: x25519::SecretKey::from_bytes(&exchange),
            reveal: Reveal(reader.array()?),
        };
        seed.zeroize();
        exchange.zeroize();
        Ok(keys)
    }
}
