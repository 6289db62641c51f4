//! What clients learn of a queue that the operator has blocked: `BLOCKED reason=spam`, and from
//! version 18 on possibly `,notice={"ttl":86400}`.

use crate::{
    encoding::{DecodeError, Reader, Writer},
    error::ERROR_TEXT_BYTES_MAX,
    version::Version,
};

/// Why an operator blocked a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockingReason {
    /// Unwanted bulk messages.
    Spam,
    /// Content against the server's rules.
    Content,
}

/// Asks the client to tell its user of the server's rules before the server is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientNotice {
    /// For how many seconds; for ever without.
    pub ttl_seconds: Option<u64>,
}

/// A blocked queue as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Why.
    pub reason: BlockingReason,
    /// What the client should tell its user.
    pub notice: Option<ClientNotice>,
}

impl From<BlockingReason> for Blocking {
    /// Without a notice.
    fn from(reason: BlockingReason) -> Self {
        let notice = None;
        Self { reason, notice }
    }
}

impl Blocking {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        writer.bytes(b"reason=");
        writer.bytes(match self.reason {
            BlockingReason::Spam => b"spam".as_slice(),
            BlockingReason::Content => b"content".as_slice(),
        });
        match self.notice.filter(|_| version.has_notices()) {
            None => {}
            Some(ClientNotice { ttl_seconds: None }) => writer.bytes(b",notice={}"),
            Some(ClientNotice {
                ttl_seconds: Some(ttl),
            }) => writer.bytes(format!(",notice={{\"ttl\":{ttl}}}").as_bytes()),
        }
    }

    /// Reads everything that is left. Of a notice that we do not understand only its presence
    /// counts.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        const INVALID: DecodeError = DecodeError::Invalid("blocking");
        let text = reader.tail();
        if text.len() > ERROR_TEXT_BYTES_MAX {
            return Err(INVALID);
        }
        let text = text.strip_prefix(b"reason=").ok_or(INVALID)?;
        let length = text.iter().position(|&byte| byte == b',');
        let (word, rest) = text.split_at(length.unwrap_or(text.len()));
        let reason = match word {
            b"spam" => BlockingReason::Spam,
            b"content" => BlockingReason::Content,
            _ => return Err(INVALID),
        };
        let notice = rest.strip_prefix(b",notice=").map(|json| ClientNotice {
            ttl_seconds: ttl(json),
        });
        Ok(Self { reason, notice })
    }
}

/// The number after `"ttl":` in a flat JSON object.
fn ttl(json: &[u8]) -> Option<u64> {
    let json = core::str::from_utf8(json).ok()?;
    let (_, value) = json.split_once("\"ttl\"")?;
    let value = value.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !c.is_ascii_digit());
    value[..end.unwrap_or(value.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(blocking: Blocking, version: u16) -> String {
        let mut buffer = [0; 64];
        let mut writer = Writer::new(&mut buffer);
        blocking.encode(&mut writer, Version::new(version).unwrap());
        let used = writer.finish().unwrap();
        String::from_utf8(buffer[..used].to_vec()).unwrap()
    }

    fn decoded(text: &str) -> Option<Blocking> {
        Blocking::decode(&mut Reader::new(text.as_bytes())).ok()
    }

    #[test]
    fn notices_begin_with_version_18() {
        let notice = |ttl_seconds| Blocking {
            reason: BlockingReason::Content,
            notice: Some(ClientNotice { ttl_seconds }),
        };
        assert_eq!(encoded(notice(Some(60)), 17), "reason=content");
        assert_eq!(
            encoded(notice(Some(60)), 18),
            r#"reason=content,notice={"ttl":60}"#
        );
        assert_eq!(encoded(notice(None), 18), "reason=content,notice={}");
        let plain = Blocking::from(BlockingReason::Spam);
        assert_eq!(encoded(plain, 20), "reason=spam");
        for blocking in [notice(Some(u64::MAX)), notice(None), plain] {
            assert_eq!(decoded(&encoded(blocking, 20)), Some(blocking));
        }
    }

    #[test]
    fn strange_notices_are_notices_and_strange_reasons_are_not() {
        for (json, ttl_seconds) in [
            (r#"{ "later": 1, "ttl" : 5 }"#, Some(5)),
            (r#"{"ttl":-5}"#, None),
            (r#"{"ttl":99999999999999999999}"#, None),
            ("", None),
        ] {
            let blocking = decoded(&format!("reason=spam,notice={json}")).unwrap();
            assert_eq!(blocking.notice, Some(ClientNotice { ttl_seconds }));
        }
        for text in ["", "reason=", "reason=spammer", "spam"] {
            assert_eq!(decoded(text), None, "{text}");
        }
        assert_eq!(decoded(&format!("reason=spam,{}", "x".repeat(300))), None);
    }
}
