//! Query strings of links: `key=value` joined by `&`, in order.

use super::wire::Malformed;

/// Keys in one query; the genuine ones have at most five.
const KEYS_MAX: usize = 16;

/// An ordered query.
#[derive(Debug, Default)]
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn push(&mut self, key: &str, value: impl Into<String>) {
        self.pairs.push((key.to_owned(), value.into()));
    }

    /// The text with values percent-encoded.
    pub(super) fn escaped(&self) -> String {
        self.joined(escape)
    }

    /// The text with values as they are. For values that contain neither `&` nor `=` inside, except
    /// base64 padding at their end.
    pub(super) fn plain(&self) -> String {
        self.joined(str::to_owned)
    }

    fn joined(&self, encode: impl Fn(&str) -> String) -> String {
        let pairs: Vec<_> = self
            .pairs
            .iter()
            .map(|(key, value)| format!("{key}={}", encode(value)))
            .collect();
        pairs.join("&")
    }

    pub(super) fn parse_escaped(text: &str) -> Result<Self, Malformed> {
        Self::parse(text, unescape)
    }

    pub(super) fn parse_plain(text: &str) -> Result<Self, Malformed> {
        Self::parse(text, |value| Ok(value.to_owned()))
    }

    fn parse(
        text: &str,
        decode: impl Fn(&str) -> Result<String, Malformed>,
    ) -> Result<Self, Malformed> {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (key, value) = pair.split_once('=').ok_or(Malformed::Text)?;
            if query.optional(key).is_some() {
                return Err(Malformed::Text);
            }
            if query.pairs.len() == KEYS_MAX {
                return Err(Malformed::Long);
            }
            query.pairs.push((key.to_owned(), decode(value)?));
        }
        Ok(query)
    }

    pub(super) fn optional(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn required(&self, key: &str) -> Result<&str, Malformed> {
        self.optional(key).ok_or(Malformed::Text)
    }
}

/// Percent-encodes everything except unreserved characters (RFC 3986 §2.3).
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
    out
}

fn unescape(value: &str) -> Result<String, Malformed> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'%' => {
                let mut digit = || {
                    let byte = bytes.next().ok_or(Malformed::Text)?;
                    let digit = char::from(byte).to_digit(16).ok_or(Malformed::Text)?;
                    u8::try_from(digit).map_err(|_| Malformed::Text)
                };
                digit()? << 4 | digit()?
            }
            _ => byte,
        };
        out.push(decoded);
    }
    String::from_utf8(out).map_err(|_| Malformed::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_return() {
        let mut query = Query::default();
        query.push("a", "x/y=%é");
        query.push("b", "");
        assert_eq!(query.escaped(), "a=x%2Fy%3D%25%C3%A9&b=");
        let parsed = Query::parse_escaped(&query.escaped()).unwrap();
        assert_eq!(parsed.required("a"), Ok("x/y=%é"));
        assert_eq!(parsed.optional("b"), Some(""));
        assert_eq!(parsed.required("c"), Err(Malformed::Text));
    }

    #[test]
    fn broken_queries_are_refused() {
        for text in ["", "a", "a=1&", "a=1&a=2", "a=%", "a=%2", "a=%zz", "a=%ff"] {
            assert!(Query::parse_escaped(text).is_err(), "{text:?}");
        }
    }
}
