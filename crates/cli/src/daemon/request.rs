//! What a client asks: one line of JSON-RPC 2.0, parsed once into narrow types.
//!
//! A line comes from any program of the user, so it may be anything. Unknown members and methods are refused, and so are
//! batches: a client that wants several things sends several lines.

use std::time::Duration;

use junto_agent::{Noise, Pace};
use serde::Deserialize;
use serde_json::Value;

/// Longest line, in bytes, without its end: the longest message to a contact as hex, or with every character
/// escaped, and room for the rest.
pub(crate) const LINE_MAX: usize = 128 * 1024;
/// Longest name of a call that a client may choose, in bytes.
const ID_MAX: usize = 64;
/// Longest link, name or address, in bytes.
const TEXT_MAX: usize = 16 * 1024;

/// The client's name for a call, which the answer bears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    /// An integer.
    Number(i64),
    /// A text of at most 64 bytes.
    Text(String),
}

/// A request; a notification if it has no `id`, which gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: Option<Id>,
    pub(crate) call: Call,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `version`
    Version,
    /// `contact.invite`
    Invite(New),
    /// `contact.connect`
    Connect {
        /// A link of a contact, of any kind.
        link: String,
        /// What the contact is called.
        new: New,
    },
    /// `contact.list`
    List,
    /// `contact.show`
    Show {
        /// Name of the contact.
        contact: String,
    },
    /// `contact.noise`
    Noise {
        /// Name of the contact.
        contact: String,
        /// When messages go.
        noise: Noise,
    },
    /// `send`
    Send {
        /// Name of the contact.
        contact: String,
        /// The message.
        body: Vec<u8>,
    },
    /// `subscribe`
    Subscribe {
        /// Name of the contact; all, if none.
        contact: Option<String>,
    },
    /// `ack`
    Ack {
        /// Name of the contact.
        contact: String,
        /// Number of the message.
        message: u64,
    },
    /// `session.list`
    Sessions,
}

/// As `NewContact` of the command line.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct New {
    /// What the contact is called; the next free `contact-1` and so on, if nothing.
    pub(crate) name: Option<String>,
    /// What we call ourselves.
    #[serde(default, rename = "as")]
    pub(crate) nickname: String,
    /// Where we receive; the profile's first relay, if nothing.
    pub(crate) relay: Option<String>,
}

/// Why a line is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The call's name, if that could be read.
    pub(crate) id: Option<Id>,
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    /// Whether the client hears of it: a notification gets no answer, whatever is wrong with what it asks.
    pub(crate) fn is_answered(&self) -> bool {
        match self.code {
            Code::Parse | Code::Request => true,
            Code::Method | Code::Params => self.id.is_some(),
        }
    }
}

/// Error codes of JSON-RPC 2.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Code {
    /// The line is no JSON.
    Parse = -32700,
    /// It is no request.
    Request = -32600,
    /// There is no such method.
    Method = -32601,
    /// The method takes other parameters.
    Params = -32602,
}

/// Reads a line, without its end.
///
/// # Errors
/// The answer to give instead.
pub(crate) fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let refusal = |id: &Option<Id>, code, message: String| Refusal {
        id: id.clone(),
        code,
        message,
    };
    if line.len() > LINE_MAX {
        let message = format!("a line has at most {LINE_MAX} bytes");
        return Err(refusal(&None, Code::Request, message));
    }
    // Nesting is bounded by the parser.
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| refusal(&None, Code::Parse, error.to_string()))?;
    let Value::Object(mut members) = value else {
        let message = "a line is one object; batches are not taken".to_owned();
        return Err(refusal(&None, Code::Request, message));
    };
    let id = match members.remove("id") {
        None => None,
        Some(id) => Some(read_id(id).ok_or_else(|| {
            let message = format!("`id` is an integer or a text of at most {ID_MAX} bytes");
            refusal(&None, Code::Request, message)
        })?),
    };
    if members.remove("jsonrpc") != Some(Value::from("2.0")) {
        let message = "`jsonrpc` is \"2.0\"".to_owned();
        return Err(refusal(&id, Code::Request, message));
    }
    let Some(Value::String(method)) = members.remove("method") else {
        let message = "`method` is a text".to_owned();
        return Err(refusal(&id, Code::Request, message));
    };
    let params = members
        .remove("params")
        .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if !members.is_empty() {
        let message = "a request has `jsonrpc`, `id`, `method` and `params`".to_owned();
        return Err(refusal(&id, Code::Request, message));
    }
    match read_call(&method, params) {
        Ok(call) => Ok(Request { id, call }),
        Err((code, message)) => Err(refusal(&id, code, message)),
    }
}

fn read_id(value: Value) -> Option<Id> {
    match value {
        Value::Number(number) => number.as_i64().map(Id::Number),
        Value::String(text) if text.len() <= ID_MAX => Some(Id::Text(text)),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Connect {
    link: String,
    name: Option<String>,
    #[serde(default, rename = "as")]
    nickname: String,
    relay: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contact {
    contact: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoiseChoice {
    contact: String,
    noise: Kind,
    interval_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Off,
    Answer,
    Constant,
    Random,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    contact: String,
    text: Option<String>,
    hex: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subscribe {
    contact: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ack {
    contact: String,
    message: u64,
}

type Wrong = (Code, String);

fn wrong(message: impl ToString) -> Wrong {
    (Code::Params, message.to_string())
}

fn read<T: serde::de::DeserializeOwned>(params: Value) -> Result<T, Wrong> {
    if !params.is_object() {
        return Err(wrong("`params` is an object"));
    }
    serde_json::from_value(params).map_err(wrong)
}

/// Texts that are looked up or parsed are short.
fn short<'a>(texts: impl IntoIterator<Item = &'a String>) -> Result<(), Wrong> {
    match texts.into_iter().all(|text| text.len() <= TEXT_MAX) {
        true => Ok(()),
        false => Err(wrong("a name, an address or a link is too long")),
    }
}

fn read_call(method: &str, params: Value) -> Result<Call, Wrong> {
    Ok(match method {
        "version" => {
            read::<Nothing>(params)?;
            Call::Version
        }
        "contact.invite" => {
            let new: New = read(params)?;
            short(new.name.iter().chain(&new.relay).chain([&new.nickname]))?;
            Call::Invite(new)
        }
        "contact.connect" => {
            let Connect {
                link,
                name,
                nickname,
                relay,
            } = read(params)?;
            short(name.iter().chain(&relay).chain([&nickname, &link]))?;
            let new = New {
                name,
                nickname,
                relay,
            };
            Call::Connect { link, new }
        }
        "contact.list" => {
            read::<Nothing>(params)?;
            Call::List
        }
        "contact.show" => {
            let Contact { contact } = read(params)?;
            short([&contact])?;
            Call::Show { contact }
        }
        "contact.noise" => {
            let NoiseChoice {
                contact,
                noise,
                interval_ms,
            } = read(params)?;
            short([&contact])?;
            let pace = interval_ms.and_then(|millis| Pace::new(Duration::from_millis(millis)));
            let noise = match (noise, interval_ms, pace) {
                (Kind::Off, None, _) => Noise::Off,
                (Kind::Answer, None, _) => Noise::Answers,
                (Kind::Constant, Some(_), Some(pace)) => Noise::Constant(pace),
                (Kind::Random, Some(_), Some(pace)) => Noise::Random(pace),
                (Kind::Off | Kind::Answer, Some(_), _) => {
                    return Err(wrong("`off` and `answer` have no interval"));
                }
                (Kind::Constant | Kind::Random, ..) => {
                    return Err(wrong("`interval_ms` is 250 to 3600000"));
                }
            };
            Call::Noise { contact, noise }
        }
        "send" => {
            let Message { contact, text, hex } = read(params)?;
            short([&contact])?;
            let body = match (text, hex) {
                (Some(text), None) => text.into_bytes(),
                (None, Some(hex)) => {
                    hex::decode(hex).map_err(|error| wrong(format!("`hex`: {error}")))?
                }
                (Some(_), Some(_)) | (None, None) => {
                    return Err(wrong("a message is either `text` or `hex`"));
                }
            };
            Call::Send { contact, body }
        }
        "subscribe" => {
            let Subscribe { contact } = read(params)?;
            short(&contact)?;
            Call::Subscribe { contact }
        }
        "ack" => {
            let Ack { contact, message } = read(params)?;
            short([&contact])?;
            Call::Ack { contact, message }
        }
        "session.list" => {
            read::<Nothing>(params)?;
            Call::Sessions
        }
        _ => {
            let message = "there is no such method; docs/guides/daemon.md lists them".to_owned();
            return Err((Code::Method, message));
        }
    })
}
