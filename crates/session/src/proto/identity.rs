//! What parties must show of their identity, and whether a roster satisfies it (D3).

use std::collections::BTreeMap;

use junto_crypto::ed25519::{Signature, SigningKey, VerifyingKey};

use super::{party::PartyIndex, roster::Roster, statement, wire::Malformed};

/// What a session asks of its parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Nothing linkable: fresh keys only. Compare the safety code.
    Anonymous,
    /// Profile keys, remembered by display name; a changed key stops the session.
    Tofu,
    /// Profile keys, all of them listed beforehand.
    Pinned,
}

impl Policy {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Anonymous => 0,
            Self::Tofu => 1,
            Self::Pinned => 2,
        }
    }

    /// Whether keys are remembered by name, so that two parties of one name cannot be told apart.
    pub(crate) fn remembers_names(self) -> bool {
        self == Self::Tofu
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, Malformed> {
        match code {
            0 => Ok(Self::Anonymous),
            1 => Ok(Self::Tofu),
            2 => Ok(Self::Pinned),
            _ => Err(Malformed("policy")),
        }
    }
}

/// A profile key's signature over a session key and the link's nonce: shows that the same profile
/// made both, in this session only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileBinding {
    /// The profile's long-term key.
    pub key: VerifyingKey,
    /// Its signature (`docs/spec/session.md` §4, `profile`).
    pub signature: Signature,
}

impl ProfileBinding {
    pub(crate) fn sign(profile: &SigningKey, nonce: &[u8; 32], session_key: &VerifyingKey) -> Self {
        Self {
            key: profile.verifying_key(),
            signature: profile.sign(&statement::profile(nonce, session_key)),
        }
    }

    pub(crate) fn verify(&self, nonce: &[u8; 32], session_key: &VerifyingKey) -> bool {
        self.key
            .verify(&statement::profile(nonce, session_key), &self.signature)
            .is_ok()
    }
}

/// The profile keys this profile knows, by the name it met or listed them under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys(BTreeMap<String, VerifyingKey>);

impl KnownKeys {
    /// Remembers `key` under `name`; an earlier key of that name is replaced.
    pub fn insert(&mut self, name: &str, key: VerifyingKey) {
        self.0.insert(name.to_owned(), key);
    }

    /// The key remembered under `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&VerifyingKey> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &VerifyingKey)> {
        self.0.iter().map(|(name, key)| (name.as_str(), key))
    }

    fn lists(&self, key: &VerifyingKey) -> bool {
        self.0.values().any(|known| known == key)
    }
}

/// Why a roster does not satisfy the policy. Its text goes on after the name of the party.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityFault {
    /// The name is remembered with another key: somebody poses as it, or it lost its profile.
    #[error("calls itself `{name}`, but `{name}` had another key before")]
    KeyChanged {
        /// Which party.
        party: PartyIndex,
        /// Its name.
        name: String,
    },
    /// The key is not on the list.
    #[error("has a key that is not pinned")]
    NotPinned {
        /// Which party.
        party: PartyIndex,
    },
    /// Two parties share a profile key.
    #[error("uses another party's profile key")]
    Repeated {
        /// The second of them.
        party: PartyIndex,
    },
}

impl IdentityFault {
    /// Whom the fault is about.
    #[must_use]
    pub fn party(&self) -> PartyIndex {
        match self {
            Self::KeyChanged { party, .. }
            | Self::NotPinned { party }
            | Self::Repeated { party } => *party,
        }
    }
}

/// Whether `pinned` admits a key: one of those that the session lists, or, where it lists none, any that is known.
pub(crate) fn is_pinned(key: &VerifyingKey, pinned: &[VerifyingKey], known: &KnownKeys) -> bool {
    if pinned.is_empty() {
        known.lists(key)
    } else {
        pinned.contains(key)
    }
}

/// Judges a roster whose profile signatures are verified already. Returns the keys met for the
/// first time, to be remembered (`tofu`).
///
/// # Errors
/// The first [`IdentityFault`], by party index.
pub fn check(
    policy: Policy,
    (known, pinned): (&KnownKeys, &[VerifyingKey]),
    roster: &Roster,
    me: PartyIndex,
) -> Result<KnownKeys, IdentityFault> {
    let mut new = KnownKeys::default();
    if policy == Policy::Anonymous {
        return Ok(new);
    }
    let mut seen: Vec<VerifyingKey> = Vec::new();
    for (party, entry) in roster.iter() {
        let Some(profile) = &entry.profile else {
            continue; // refused before: `Entry::satisfies`
        };
        if seen.contains(&profile.key) {
            return Err(IdentityFault::Repeated { party });
        }
        seen.push(profile.key);
        if party == me {
            continue;
        }
        let name = entry.name.as_str();
        match (policy, known.key(name)) {
            (Policy::Pinned, _) if !is_pinned(&profile.key, pinned, known) => {
                return Err(IdentityFault::NotPinned { party });
            }
            (Policy::Tofu, Some(before)) if *before != profile.key => {
                return Err(IdentityFault::KeyChanged {
                    party,
                    name: name.to_owned(),
                });
            }
            (Policy::Tofu, None) => new.insert(name, profile.key),
            (Policy::Anonymous | Policy::Tofu | Policy::Pinned, _) => {}
        }
    }
    Ok(new)
}
