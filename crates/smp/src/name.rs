//! Names that a relay may be asked to look up: domains, as text.

use crate::encoding::{DecodeError, Reader, Writer};

/// Bytes of the longest domain.
pub const DOMAIN_BYTES_MAX: usize = 253;
/// Bytes of the longest label of one.
pub const LABEL_BYTES_MAX: usize = 63;

/// A domain: two labels or more with dots between them, each of ASCII letters and digits with single
/// hyphens between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain<'a>(&'a str);

impl<'a> Domain<'a> {
    /// Takes a domain.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn new(text: &'a str) -> Result<Self, DecodeError> {
        let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let label = |label: &str| label.len() <= LABEL_BYTES_MAX && label.split('-').all(part);
        let fits = text.len() <= DOMAIN_BYTES_MAX && text.contains('.');
        match fits && text.split('.').all(label) {
            true => Ok(Self(text)),
            false => Err(DecodeError::Invalid("domain")),
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(self.0.as_bytes());
    }

    /// Reads everything that is left: a domain, and behind white space what later versions may add.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let text = reader.tail();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
        let length = text.iter().position(is_space).unwrap_or(text.len());
        let text = core::str::from_utf8(&text[..length]);
        Self::new(text.map_err(|_| DecodeError::Invalid("domain"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &str) -> Result<Domain<'_>, DecodeError> {
        Domain::decode(&mut Reader::new(text.as_bytes()))
    }

    #[test]
    fn domains_have_two_labels_or_more_of_bounded_length() {
        let label = "a".repeat(63);
        let long = [label.as_str(); 4].join(".");
        for text in [
            "a.b",
            "Some-Body.SimpleX",
            "0.x.1-2-3.example",
            &long[..253],
        ] {
            assert_eq!(decoded(text), Ok(Domain(text)), "{text}");
        }
        let longest = format!("{label}a.b");
        for text in [
            "", "simplex", ".", "a.", ".a", "a..b", "-a.b", "a-.b", "a--b.c", "a_b.c", "ä.b",
            "@a.b", "a.b\0", &longest, &long,
        ] {
            assert!(decoded(text).is_err(), "{text}");
        }
        assert_eq!(decoded("a.b later"), Ok(Domain("a.b")));
        assert!(decoded(" a.b").is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_a_domain_and_is_written_as_it_was(text in "[a-cA-C0-1._ -]{0,12}") {
            if let Ok(domain) = decoded(&text) {
                let mut buffer = [0; 16];
                let mut writer = Writer::new(&mut buffer);
                domain.encode(&mut writer);
                let length = writer.finish().unwrap();
                let first = text.split(' ').next().unwrap_or_default();
                prop_assert_eq!(&buffer[..length], first.as_bytes());
                prop_assert!(first.contains('.') && !first.contains(['_', ' ']));
            }
        }
    }
}
