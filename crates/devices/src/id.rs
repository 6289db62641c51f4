//! Names of things that devices share.

use core::fmt;

use junto_crypto::hash::sha256;
use rand_core::CryptoRng;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// A fresh one.
            #[must_use]
            pub fn random(rng: &mut impl CryptoRng) -> Self {
                let mut bytes = [0; $bytes];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&hex::encode(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(D::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

id!(
    /// A device, for as long as it is one: a device that was revoked and is linked again has another.
    DeviceId,
    16
);
id!(
    /// One introduction: of one device to one peer. Both sides name their connection by it.
    Token,
    16
);
id!(
    /// A contact, for all devices of a profile; on the device that met it first also the name of the connection.
    ContactId,
    32
);
id!(
    /// A message that goes to several devices.
    MessageName,
    16
);

impl Token {
    /// What an agent has the connection under.
    #[must_use]
    pub fn tag(self) -> [u8; 32] {
        let mut input = b"junto device connection".to_vec();
        input.extend_from_slice(&self.0);
        sha256(&input)
    }
}
