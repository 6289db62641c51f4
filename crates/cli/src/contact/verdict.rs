//! What was lost or altered on the way from a contact: in words, with what to do, and kept for `junto contact show`.

use std::time::SystemTime;

use junto_agent::{ConnectionId, Event, Integrity};
use serde::{Deserialize, Serialize};

/// Verdicts that are kept of a contact, some 60 bytes each; older ones go.
const NOTED_MAX: usize = 16;

/// Seconds until the user is told again of what goes on, such as messages that cannot be read.
const TOLD_AGAIN: u64 = 3_600;

/// Something was lost, altered, or cannot be read. Numbers are those of the contact's count, which has its agent's own
/// messages in it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// These did not arrive.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// This one counted as missing, and came after all.
    Late {
        /// The number.
        number: u64,
    },
    /// It counts from an earlier number again.
    WentBack {
        /// The number.
        number: u64,
    },
    /// It sent another message in the place of the last one.
    Duplicated,
    /// What came before is not what it sent before.
    Altered,
    /// It sent something that our keys do not open.
    Unreadable,
    /// It encrypts with other keys than ours.
    KeysParted,
    /// New keys are agreed, and so many of its messages are lost for good.
    KeysRenewed {
        /// How many.
        missing: u64,
    },
}

/// A verdict, and when it was made.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Noted {
    /// When it was made last, in seconds since 1970.
    pub(crate) at: u64,
    /// How often it was made.
    #[serde(default = "once")]
    pub(crate) times: u64,
    /// The message that it is about, by our count.
    pub(crate) message: Option<u64>,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
}

fn once() -> u64 {
    1
}

/// What became of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It is kept, and the user is to be told.
    New,
    /// The same was told lately; it is counted.
    Again,
    /// The same message was judged before: its event comes again until it is read.
    Known,
}

impl Verdict {
    /// What the hash chain says; nothing if all is well.
    pub(crate) fn of(integrity: Integrity) -> Option<Self> {
        Some(match integrity {
            Integrity::Ok => return None,
            Integrity::Skipped { from, to } => Self::Missing { from, to },
            Integrity::Late { id } => Self::Late { number: id },
            Integrity::BadId { id } => Self::WentBack { number: id },
            Integrity::Duplicate => Self::Duplicated,
            Integrity::BadHash => Self::Altered,
        })
    }

    /// What happened.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Missing { from, to } if from == to => {
                format!("a message did not arrive (its number {from})")
            }
            Self::Missing { from, to } => {
                let count = (to - from).saturating_add(1);
                format!("{count} messages did not arrive (its numbers {from} to {to})")
            }
            Self::Late { number } => {
                format!("a message that counted as missing came after all (its number {number})")
            }
            Self::WentBack { number } => {
                format!("it counts from {number} again, as if it had gone back in time")
            }
            Self::Duplicated => "it sent another message in the place of the last one".to_owned(),
            Self::Altered => "a message before this one is not the one that it sent".to_owned(),
            Self::Unreadable => "it sent something that cannot be read, which is lost".to_owned(),
            Self::KeysParted => "it encrypts with other keys than ours".to_owned(),
            Self::KeysRenewed { missing } => {
                format!("new keys are agreed; {missing} of its messages before them are lost")
            }
        }
    }

    /// What to do about it.
    pub(crate) fn advice(&self, name: &str) -> String {
        match self {
            Self::Missing { .. } | Self::KeysRenewed { .. } => {
                format!("ask {name} to send again what you lack")
            }
            Self::Late { .. } => {
                "nothing is to be done but to read it in its place: a relay kept it back".to_owned()
            }
            Self::WentBack { .. } | Self::Duplicated => format!(
                "ask {name}, by other means, whether it uses an old copy of its profile; if not, end this contact and connect anew"
            ),
            Self::Altered => format!(
                "compare with {name}, by other means, what you both have; to be sure, end this contact and connect anew"
            ),
            Self::Unreadable | Self::KeysParted => format!(
                "ask {name} whether it uses an old copy of its profile, and to send again what you lack; `junto contact resync {name}` agrees new keys"
            ),
        }
    }

    /// Both, on a line of its own.
    pub(crate) fn warning(&self, name: &str) -> String {
        format!("warning: {name}: {}; {}", self.text(), self.advice(name))
    }
}

impl Noted {
    /// What an event says about something lost or altered, and on which connection.
    pub(crate) fn of(event: &Event) -> Option<(ConnectionId, Self)> {
        let (connection, message, verdict) = match event {
            Event::Message {
                connection,
                id,
                integrity,
                ..
            } => (connection, Some(id.number()), Verdict::of(*integrity)?),
            Event::Irregular {
                connection,
                integrity,
            } => (connection, None, Verdict::of(*integrity)?),
            Event::Unreadable { connection } => (connection, None, Verdict::Unreadable),
            Event::RatchetBroken { connection } => (connection, None, Verdict::KeysParted),
            Event::Synchronised {
                connection,
                missing,
            } if *missing > 0 => {
                let missing = *missing;
                (connection, None, Verdict::KeysRenewed { missing })
            }
            Event::Request { .. }
            | Event::Opened { .. }
            | Event::Connected { .. }
            | Event::Delivered { .. }
            | Event::Renewed { .. }
            | Event::Synchronised { .. }
            | Event::Rotated { .. }
            | Event::RotationFailed { .. }
            | Event::TakenOver { .. }
            | Event::AddressMoved { .. }
            | Event::RelayDown { .. }
            | Event::RelayUp { .. }
            | Event::Failed { .. } => return None,
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = since.unwrap_or_default().as_secs();
        let noted = Self {
            at,
            times: once(),
            message,
            verdict,
        };
        Some((*connection, noted))
    }

    /// Adds it, or counts it if it says nothing new: a peer can cause such verdicts at will.
    pub(super) fn add_to(self, all: &mut Vec<Self>) -> Added {
        let mut known = all.iter_mut();
        let known = known.find(|it| it.message == self.message && it.verdict == self.verdict);
        match (known, self.verdict) {
            (Some(_), _) if self.message.is_some() => return Added::Known,
            // Each of these names what was lost, and is told.
            (_, Verdict::Missing { .. } | Verdict::KeysRenewed { .. }) | (None, _) => {}
            (Some(known), _) => {
                let quiet = self.at.saturating_sub(known.at);
                known.times = known.times.saturating_add(1);
                known.at = self.at;
                return match quiet {
                    TOLD_AGAIN.. => Added::New,
                    _ => Added::Again,
                };
            }
        }
        if all.len() >= NOTED_MAX {
            all.remove(0);
        }
        all.push(self);
        Added::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_is_kept_and_each_message_once() {
        let noted = |message| Noted {
            at: 0,
            times: 1,
            message,
            verdict: Verdict::Missing { from: 2, to: 3 },
        };
        let mut all = Vec::new();
        assert_eq!(noted(Some(4)).add_to(&mut all), Added::New);
        assert_eq!(noted(Some(4)).add_to(&mut all), Added::Known);
        for _ in 0..2 * NOTED_MAX {
            assert_eq!(noted(None).add_to(&mut all), Added::New);
        }
        assert_eq!(all.len(), NOTED_MAX);
    }

    #[test]
    fn what_goes_on_is_counted_and_told_once_an_hour() {
        let noted = |at| Noted {
            at,
            times: 1,
            message: None,
            verdict: Verdict::Unreadable,
        };
        let mut all = Vec::new();
        assert_eq!(noted(10).add_to(&mut all), Added::New);
        for at in 11..50 {
            assert_eq!(noted(at).add_to(&mut all), Added::Again);
        }
        assert_eq!((all.len(), all[0].times, all[0].at), (1, 40, 49));
        assert_eq!(noted(49 + TOLD_AGAIN).add_to(&mut all), Added::New);
        assert_eq!((all.len(), all[0].times), (1, 41));
    }

    #[test]
    fn a_book_of_before_is_read() {
        let text = r#"{"at":1,"message":null,"what":"missing","from":2,"to":3}"#;
        let noted: Noted = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(noted.verdict, Verdict::Missing { from: 2, to: 3 });
        assert_eq!(noted.times, 1);
        let entry: super::super::notes::Entry = serde_json::from_str(
            r#"{"name":"bob","tag":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}"#,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        assert!(entry.verdicts.is_empty());
    }
}
