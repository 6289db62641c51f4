//! Identifiers: 24 random bytes each (reference §3.4), a type for every use so that they cannot be
//! swapped.

use core::fmt;

use junto_crypto::{CryptoRng, hash, secretbox::Nonce};

use crate::encoding::{DecodeError, Reader, Writer};

/// Bytes of every identifier.
pub const ID_BYTES: usize = 24;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; ID_BYTES]);

        impl $name {
            /// A fresh random identifier.
            #[must_use]
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                let mut bytes = [0; ID_BYTES];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }

            pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
                writer.short(&self.0);
            }

            #[allow(dead_code)] // The correlation id may be empty and is read elsewhere.
            pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Self::try_from(reader.short()?)
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = DecodeError;

            fn try_from(bytes: &[u8]) -> Result<Self, DecodeError> {
                bytes
                    .try_into()
                    .map(Self)
                    .map_err(|_| DecodeError::Invalid(stringify!($name)))
            }
        }

        impl fmt::Debug for $name {
            /// The first four bytes only: enough to follow one queue in a test's output.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [a, b, c, d, ..] = self.0;
                write!(f, concat!(stringify!($name), "({:02x}{:02x}{:02x}{:02x}…)"), a, b, c, d)
            }
        }
    };
}

id! {
    /// Names a queue to its recipient.
    RecipientId
}
id! {
    /// Names a queue to its sender. The relay keeps which recipient id belongs to it; nobody else
    /// can link the two.
    SenderId
}
id! {
    /// Names a queue to a notification server.
    NotifierId
}
id! {
    /// Names the link data of a queue.
    LinkId
}
id! {
    /// Names a message within its queue, and is the nonce of its encryption to the recipient.
    MessageId
}
id! {
    /// Names a service registered with a relay.
    ServiceId
}
id! {
    /// Connects an answer to its command; also the nonce of the command's authenticator. Chosen at
    /// random by the client for each command.
    CorrelationId
}

impl MessageId {
    /// The nonce of this message's encryption to the recipient.
    #[must_use]
    pub fn nonce(&self) -> Nonce {
        Nonce(self.0)
    }
}

impl CorrelationId {
    /// The nonce of this command's authenticator.
    #[must_use]
    pub fn nonce(&self) -> Nonce {
        Nonce(self.0)
    }

    /// The sender id that a creator must use when it brings link data: the first 24 bytes of
    /// SHA3-384 of the correlation id (reference §4, NEW). So nobody can probe for existing ids.
    #[must_use]
    pub fn derived_sender_id(&self) -> SenderId {
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&hash::sha3_384(&self.0)[..ID_BYTES]);
        SenderId(id)
    }
}

/// What a transmission is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity<'a> {
    /// Nothing: creation, ping.
    None,
    /// A queue (or link), named by the 24 bytes of one of its identifiers. Which one, the command
    /// tells.
    Queue(&'a [u8; ID_BYTES]),
    /// Some other length: a proxy session (32 bytes), or nothing we know.
    Other(&'a [u8]),
}

impl<'a> Entity<'a> {
    /// Reads an entity from the bytes of its short string.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Self {
        match <&[u8; ID_BYTES]>::try_from(bytes) {
            Ok(id) => Self::Queue(id),
            Err(_) if bytes.is_empty() => Self::None,
            Err(_) => Self::Other(bytes),
        }
    }

    /// The bytes of its short string.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::None => &[],
            Self::Queue(id) => id.as_slice(),
            Self::Other(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_sender_id_matches_the_vector() {
        let mut id = [0; ID_BYTES];
        for (byte, value) in id.iter_mut().zip(0x40..) {
            *byte = value;
        }
        assert_eq!(
            hex::encode(CorrelationId(id).derived_sender_id().0),
            "7ce370fd7d776358c31812d464b7b390708c52dce0010b0f"
        );
    }

    #[test]
    fn entities_keep_their_bytes() {
        for length in [0, 1, 23, 24, 25, 32, 255] {
            let bytes = vec![7; length];
            assert_eq!(Entity::from_bytes(&bytes).as_bytes(), bytes);
        }
    }
}
