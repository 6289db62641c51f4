//! The session link: what a host gives to those it wants to join (`docs/spec/session.md` §3).

use core::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use junto_crypto::{ed25519::VerifyingKey, hash};

use super::{
    identity::Policy,
    limits::{CONTACT_BYTES_MAX, LINK_CHARS_MAX, RELAY_BYTES_MAX, SESSION_NAME_BYTES_MAX},
    party::{PartyCount, check_text},
    roster::FormationId,
    statement,
    wire::{Malformed, Put, Reader},
};

const PREFIX: &str = "junto:session/1/";
const CHECK_BYTES: usize = 4;

/// What the host decides about a session before it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// For people: 1 to 64 bytes of UTF-8 without control characters.
    pub name: String,
    /// How many parties, host included.
    pub parties: PartyCount,
    /// What the parties must show of their identity.
    pub policy: Policy,
}

impl Params {
    /// Checks the name.
    ///
    /// # Errors
    /// [`Malformed`] if it is empty, too long, or not fit for a terminal.
    pub fn check(&self) -> Result<(), Malformed> {
        if self.name.is_empty() {
            return Err(Malformed("session name"));
        }
        check_text(&self.name, SESSION_NAME_BYTES_MAX, "session name")
    }
}

/// A session link. Whoever holds it may ask to join, so it travels like an invitation: to those
/// meant, over any channel they already trust not to give it to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLink {
    pub(crate) params: Params,
    pub(crate) nonce: [u8; 32],
    pub(crate) host: VerifyingKey,
    pub(crate) relay: String,
    pub(crate) contact: String,
}

impl SessionLink {
    /// What the host decided.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The host's session key.
    #[must_use]
    pub fn host(&self) -> &VerifyingKey {
        &self.host
    }

    /// The relay proposed to parties that have none of their own.
    #[must_use]
    pub fn relay(&self) -> &str {
        &self.relay
    }

    /// The host's contact address, in the carrier's terms.
    #[must_use]
    pub fn contact(&self) -> &str {
        &self.contact
    }

    /// The hash that all formation messages name.
    #[must_use]
    pub fn formation(&self) -> FormationId {
        FormationId(hash::sha256_of(&[
            statement::FORMATION_LABEL,
            &self.encode(),
        ]))
    }

    pub(crate) fn check(&self) -> Result<(), Malformed> {
        self.params.check()?;
        if self.relay.len() > RELAY_BYTES_MAX || !printable(&self.relay) {
            return Err(Malformed("relay"));
        }
        if self.contact.len() > CONTACT_BYTES_MAX || !printable(&self.contact) {
            return Err(Malformed("contact address"));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.relay.len() + self.contact.len());
        bytes
            .put_u8(self.params.parties.as_u8())
            .put_u8(self.params.policy.code())
            .put(&self.nonce)
            .put(self.host.as_bytes())
            .put_short(self.params.name.as_bytes())
            .put_long(self.relay.as_bytes())
            .put_long(self.contact.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("session link", bytes);
        let parties = PartyCount::new(usize::from(reader.u8()?))?;
        let policy = Policy::from_code(reader.u8()?)?;
        let nonce = reader.array()?;
        let host = reader.verifying_key()?;
        let name = reader.short()?;
        let relay = reader.long()?;
        let contact = reader.long()?;
        let link = Self {
            params: Params {
                name: reader.text(name)?.to_owned(),
                parties,
                policy,
            },
            nonce,
            host,
            relay: reader.text(relay)?.to_owned(),
            contact: reader.text(contact)?.to_owned(),
        };
        reader.finish()?;
        link.check()?;
        Ok(link)
    }
}

/// ASCII without spaces and controls: addresses of relays and carriers are URIs.
fn printable(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl fmt::Display for SessionLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.encode();
        let check = hash::sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for SessionLink {
    type Err = Malformed;

    /// Reads exactly what `Display` writes: no spaces, no other spelling, and a checksum that
    /// finds a link cut or mistyped on its way.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("session link");
        if text.len() > LINK_CHARS_MAX {
            return Err(BAD);
        }
        let body = text.strip_prefix(PREFIX).ok_or(BAD)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| BAD)?;
        let (bytes, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(BAD)?;
        if hash::sha256(bytes)[..CHECK_BYTES] != check[..] {
            return Err(BAD);
        }
        Self::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> SessionLink {
        SessionLink {
            params: Params {
                name: "board vote".to_owned(),
                parties: PartyCount::new(3).unwrap(),
                policy: Policy::Anonymous,
            },
            nonce: [7; 32],
            host: junto_crypto::ed25519::SigningKey::from_seed(&[1; 32]).verifying_key(),
            relay: "smp://abc@localhost:5223".to_owned(),
            contact: "simplex:/contact#/?v=2-7&smp=x".to_owned(),
        }
    }

    #[test]
    fn a_link_comes_back_and_only_in_one_spelling() {
        let link = example();
        let text = link.to_string();
        assert_eq!(text.parse::<SessionLink>().unwrap(), link);
        for bad in [
            text.to_uppercase(),
            format!("{text} "),
            format!("{text}="),
            text[..text.len() - 1].to_owned(),
            text.replace("session/1", "session/2"),
        ] {
            assert!(bad.parse::<SessionLink>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_longest_link_fits_a_qr_code() {
        let mut link = example();
        link.params.name = "n".repeat(SESSION_NAME_BYTES_MAX);
        link.relay = "r".repeat(RELAY_BYTES_MAX);
        link.contact = "c".repeat(CONTACT_BYTES_MAX);
        let text = link.to_string();
        assert!(text.len() <= LINK_CHARS_MAX, "{}", text.len());
        assert_eq!(text.parse::<SessionLink>().unwrap(), link);
        link.contact.push('c');
        assert!(link.to_string().parse::<SessionLink>().is_err());
    }

    proptest! {
        #[test]
        fn decoding_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(link) = SessionLink::decode(&bytes) {
                prop_assert_eq!(link.encode(), bytes);
            }
        }

        #[test]
        fn no_text_panics(text in "junto:session/1/[A-Za-z0-9_-]{0,200}") {
            let _ = text.parse::<SessionLink>();
        }

        #[test]
        fn one_changed_bit_is_noticed(position in 0usize..100, bit in 0u8..8) {
            let mut bytes = example().encode();
            let position = position % bytes.len();
            bytes[position] ^= 1 << bit;
            if let Ok(link) = SessionLink::decode(&bytes) {
                prop_assert_ne!(link.formation(), example().formation());
            }
        }
    }
}
