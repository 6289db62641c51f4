//! Names of things that the agent and its application share.

use core::fmt;

use junto_crypto::hash::sha256;

/// A name that the application gives to one of its intentions, 32 bytes.
///
/// Every call that creates something takes a tag; repeating the call with the same tag after a
/// crash gives the same thing instead of a second one. Events carry the tag back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag([u8; 32]);

impl Tag {
    /// A tag of these bytes, for applications that keep their own identifiers.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The tag for a name: SHA-256 over the parts, each with its length in front, so that
    /// `["ab", "c"]` and `["a", "bc"]` differ.
    #[must_use]
    pub fn named(parts: &[&[u8]]) -> Self {
        let mut input = Vec::new();
        for part in parts {
            input.extend_from_slice(&(part.len() as u64).to_be_bytes());
            input.extend_from_slice(part);
        }
        Self(sha256(&input))
    }

    /// The tag of the connection that comes from accepting this request.
    #[must_use]
    pub fn of_request(request: RequestId) -> Self {
        Self::named(&[b"junto accepted request", &request.0])
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// One duplex connection; random, 16 bytes, never reused within a profile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId([u8; 16]);

impl ConnectionId {
    /// A connection id from its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// One request that arrived at a contact address.
///
/// It is a hash of what the requester sent, so a request that a relay delivers twice is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// A request id from its bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The number of a message on its connection.
///
/// It only grows, with gaps, and each direction counts on its own. With an honest peer both sides
/// know a message by the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// A message id from its number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! hex_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Enough to tell two apart in a test, too little to link log lines of two users.
                write!(f, concat!(stringify!($name), "({:02x}{:02x}…)"), self.0[0], self.0[1])
            }
        }
    )*};
}
hex_text!(Tag, ConnectionId, RequestId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_named_tag_do_not_run_together() {
        assert_ne!(Tag::named(&[b"ab", b"c"]), Tag::named(&[b"a", b"bc"]));
        assert_eq!(Tag::named(&[b"ab", b"c"]), Tag::named(&[b"ab", b"c"]));
    }
}
