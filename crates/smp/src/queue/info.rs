//! The state of a queue as its recipient may ask for it: the JSON of `INFO`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::URL_SAFE};

use crate::{id::MessageId, message::Timestamp};

/// Bytes of the longest answer.
pub const INFO_BYTES_MAX: usize = 512;

/// State of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// The sender's key is set.
    pub secured: bool,
    /// A notification server is told of messages.
    pub notifier: bool,
    /// How the asking connection reads: `true` by subscription, `false` by `GET`; and the message
    /// it has to acknowledge.
    pub reader: Option<(bool, Option<MessageId>)>,
    /// Waiting messages and markers.
    pub size: usize,
    /// The first of them: its id, time, and whether it is a marker.
    pub first: Option<(MessageId, Timestamp, bool)>,
}

impl QueueInfo {
    /// The JSON, with the field names of the reference implementation. Absent fields are left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = String::with_capacity(INFO_BYTES_MAX);
        // Writing to a string cannot fail.
        let (secured, notifier) = (self.secured, self.notifier);
        let _ = write!(json, r#"{{"qiSnd":{secured},"qiNtf":{notifier}"#);
        if let Some((subscribed, delivered)) = self.reader {
            let kind = if subscribed { "noSub" } else { "prohibitSub" };
            let _ = write!(json, r#","qiSub":{{"qSubThread":"{kind}""#);
            if let Some(id) = delivered {
                let _ = write!(json, r#","qDelivered":"{}""#, URL_SAFE.encode(id.0));
            }
            json.push('}');
        }
        let _ = write!(json, r#","qiSize":{}"#, self.size);
        if let Some((id, time, marker)) = self.first {
            let kind = if marker { "quota" } else { "message" };
            let _ = write!(
                json,
                r#","qiMsg":{{"msgId":"{}","msgTs":"{}","msgType":"{kind}"}}"#,
                URL_SAFE.encode(id.0),
                iso8601(time)
            );
        }
        json.push('}');
        json
    }
}

/// `2026-11-21T06:30:00Z`, in the proleptic Gregorian calendar.
fn iso8601(time: Timestamp) -> String {
    let (days, seconds) = (time.0 / 86_400, time.0 % 86_400);
    // Years start in March here, so that the leap day is the last; eras have 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gregorian() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_763_706_645, "2025-11-21T06:30:45Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso8601(Timestamp(seconds)), text);
        }
    }

    #[test]
    fn json_stays_within_its_bound() {
        let id = MessageId([0xff; 24]);
        let info = QueueInfo {
            secured: true,
            notifier: true,
            reader: Some((false, Some(id))),
            size: usize::MAX,
            first: Some((id, Timestamp(u64::from(u32::MAX)), true)),
        };
        let json = info.to_json();
        assert!(json.len() <= INFO_BYTES_MAX);
        assert!(
            json.starts_with(r#"{"qiSnd":true,"qiNtf":true,"qiSub":{"qSubThread":"prohibitSub""#)
        );
        let empty = QueueInfo {
            secured: false,
            notifier: false,
            reader: None,
            size: 0,
            first: None,
        };
        assert_eq!(
            empty.to_json(),
            r#"{"qiSnd":false,"qiNtf":false,"qiSize":0}"#
        );
    }
}
