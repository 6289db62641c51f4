//! Errors that travel in `ERR` answers (reference §4).
//!
//! An [`ErrorCode`] is part of the protocol: what one side tells the other. It is not this crate's
//! own error type; each module has its own.

use crate::{
    blocking::Blocking,
    encoding::{DecodeError, Reader, Writer},
    version::Version,
};

/// Bytes kept of a text that a server attaches to `STORE` or `NAME RESOLVER`.
pub const ERROR_TEXT_BYTES_MAX: usize = 256;

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFault {
    /// No such command.
    Unknown,
    /// Its arguments do not parse.
    Syntax,
    /// Not allowed here, now, or by this server.
    Prohibited,
    /// It needs an authorisation (or an entity) and has none.
    NoAuth,
    /// It must not have an authorisation or entity.
    HasAuth,
    /// It needs an entity.
    NoEntity,
}

impl CommandFault {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Unknown, "UNKNOWN"),
        (Self::Syntax, "SYNTAX"),
        (Self::Prohibited, "PROHIBITED"),
        (Self::NoAuth, "NO_AUTH"),
        (Self::HasAuth, "HAS_AUTH"),
        (Self::NoEntity, "NO_ENTITY"),
    ];
}

/// How a proxy failed to reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerFault {
    /// The server's answer did not parse. The text is dropped.
    Response,
    /// The server's answer is of the wrong kind. The text is dropped.
    Unexpected,
    /// No connection.
    Network,
    /// The name does not resolve, or is not allowed.
    Host,
    /// The server does not offer the service.
    NoService,
    /// Handshake or block failed. The kind is dropped.
    Transport,
    /// No answer in time.
    Timeout,
}

impl BrokerFault {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Response, "RESPONSE"),
        (Self::Unexpected, "UNEXPECTED"),
        (Self::Network, "NETWORK"),
        (Self::Host, "HOST"),
        (Self::NoService, "NO_SERVICE"),
        (Self::Transport, "TRANSPORT"),
        (Self::Timeout, "TIMEOUT"),
    ];
}

/// Why private routing through a proxy failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyFault {
    /// The destination answered with this error.
    Protocol(Forwarded),
    /// The destination was not reached.
    Broker(BrokerFault),
    /// Wrong or missing proxy password; also: this server is no proxy.
    BasicAuth,
    /// No such proxy session.
    NoSession,
}

/// The error of a destination behind a proxy: all of [`ErrorCode`] except another proxy's, so that
/// errors nest once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `AUTH`.
    Auth,
    /// `QUOTA`.
    Quota,
    /// `LARGE_MSG`.
    LargeMessage,
    /// `BLOCKED`.
    Blocked(Blocking),
    /// `CMD` and which.
    Command(CommandFault),
    /// Any other one.
    Other,
}

/// Error kinds without arguments and their spelling.
const PLAIN: [(ErrorCode, &str); 12] = [
    (ErrorCode::Block, "BLOCK"),
    (ErrorCode::Session, "SESSION"),
    (ErrorCode::Auth, "AUTH"),
    (ErrorCode::Service, "SERVICE"),
    (ErrorCode::Crypto, "CRYPTO"),
    (ErrorCode::Quota, "QUOTA"),
    (ErrorCode::Expired, "EXPIRED"),
    (ErrorCode::NoMessage, "NO_MSG"),
    (ErrorCode::LargeMessage, "LARGE_MSG"),
    (ErrorCode::Internal, "INTERNAL"),
    (ErrorCode::Duplicate, "DUPLICATE_"),
    (ErrorCode::Store, "STORE"),
];

/// An error that a server answers with.
///
/// Free text that other servers attach (`STORE`, `NAME RESOLVER`, `PROXY BROKER RESPONSE`) is parsed, bounded by [`ERROR_TEXT_BYTES_MAX`] or the block, and
/// dropped: nothing acts on it, and a hostile server must not reach logs through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// A block or transmission does not parse.
    Block,
    /// Wrong session id (versions below 7 only).
    Session,
    /// The command is at fault.
    Command(CommandFault),
    /// Private routing failed.
    Proxy(ProxyFault),
    /// Wrong authorisation, unknown entity, off, or secured: on purpose not said which.
    Auth,
    /// The operator blocked this queue.
    Blocked(Blocking),
    /// Wrong use of a service certificate.
    Service,
    /// The server failed to encrypt.
    Crypto,
    /// The queue is full until the recipient has drained it.
    Quota,
    /// The server's store failed. We write it without text.
    Store,
    /// The key of the relay has expired.
    Expired,
    /// No such message is waiting for an acknowledgement.
    NoMessage,
    /// The message body is too large.
    LargeMessage,
    /// The server failed.
    Internal,
    /// Name resolution failed or is not offered (`NAME NO_RESOLVER` when we write it).
    Name,
    /// An identifier exists already (never sent on purpose).
    Duplicate,
}

impl ErrorCode {
    /// `CMD SYNTAX`.
    pub const SYNTAX: Self = Self::Command(CommandFault::Syntax);
    /// `CMD UNKNOWN`.
    pub const UNKNOWN: Self = Self::Command(CommandFault::Unknown);
    /// `CMD PROHIBITED`.
    pub const PROHIBITED: Self = Self::Command(CommandFault::Prohibited);
    /// `CMD NO_AUTH`.
    pub const NO_AUTH: Self = Self::Command(CommandFault::NoAuth);
    /// `CMD HAS_AUTH`.
    pub const HAS_AUTH: Self = Self::Command(CommandFault::HasAuth);
    /// `CMD NO_ENTITY`.
    pub const NO_ENTITY: Self = Self::Command(CommandFault::NoEntity);

    pub(crate) fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        match self {
            Self::Command(fault) => {
                writer.bytes(b"CMD ");
                writer.bytes(word_of(&CommandFault::ALL, fault).as_bytes());
            }
            Self::Proxy(fault) => {
                writer.bytes(b"PROXY ");
                fault.encode(writer, version);
            }
            Self::Blocked(blocking) => {
                writer.bytes(b"BLOCKED ");
                blocking.encode(writer, version);
            }
            Self::Name => writer.bytes(b"NAME NO_RESOLVER"),
            // The text of STORE is optional for readers, but its separator is not.
            Self::Store => writer.bytes(b"STORE "),
            plain => writer.bytes(word_of(&PLAIN, plain).as_bytes()),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match take_word(reader) {
            b"CMD" => {
                space(reader)?;
                value_of(&CommandFault::ALL, take_word(reader)).map(Self::Command)
            }
            b"PROXY" => {
                space(reader)?;
                ProxyFault::decode(reader).map(Self::Proxy)
            }
            b"BLOCKED" => {
                space(reader)?;
                Blocking::decode(reader).map(Self::Blocked)
            }
            b"STORE" => drop_text(reader).map(|()| Self::Store),
            b"NAME" => drop_text(reader).map(|()| Self::Name),
            word => value_of(&PLAIN, word),
        }
    }
}

impl ProxyFault {
    fn encode(self, writer: &mut Writer<'_>, version: Version) {
        match self {
            Self::Protocol(error) => {
                writer.bytes(b"PROTOCOL ");
                error.to_code().encode(writer, version);
            }
            Self::Broker(fault) => {
                writer.bytes(b"BROKER ");
                writer.bytes(word_of(&BrokerFault::ALL, &fault).as_bytes());
            }
            Self::BasicAuth => writer.bytes(b"BASIC_AUTH"),
            Self::NoSession => writer.bytes(b"NO_SESSION"),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match take_word(reader) {
            b"PROTOCOL" => {
                space(reader)?;
                // A nested proxy error does not parse: `Forwarded` keeps the recursion at one.
                if reader.rest().starts_with(b"PROXY") {
                    return Err(DecodeError::Invalid("nested proxy error"));
                }
                ErrorCode::decode(reader).map(|code| Self::Protocol(Forwarded::from_code(code)))
            }
            b"BROKER" => {
                space(reader)?;
                let fault = value_of(&BrokerFault::ALL, take_word(reader))?;
                // Servers may add details.
                let _ = reader.tail();
                Ok(Self::Broker(fault))
            }
            b"BASIC_AUTH" => Ok(Self::BasicAuth),
            b"NO_SESSION" => Ok(Self::NoSession),
            _ => Err(DecodeError::Invalid("proxy error")),
        }
    }
}

impl Forwarded {
    fn from_code(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Auth => Self::Auth,
            ErrorCode::Quota => Self::Quota,
            ErrorCode::LargeMessage => Self::LargeMessage,
            ErrorCode::Blocked(blocking) => Self::Blocked(blocking),
            ErrorCode::Command(fault) => Self::Command(fault),
            _ => Self::Other,
        }
    }

    fn to_code(self) -> ErrorCode {
        match self {
            Self::Auth => ErrorCode::Auth,
            Self::Quota => ErrorCode::Quota,
            Self::LargeMessage => ErrorCode::LargeMessage,
            Self::Blocked(blocking) => ErrorCode::Blocked(blocking),
            Self::Command(fault) => ErrorCode::Command(fault),
            Self::Other => ErrorCode::Internal,
        }
    }
}

fn word_of<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table
        .iter()
        .find(|(entry, _)| entry == value)
        .map_or("INTERNAL", |(_, word)| word)
}

fn value_of<T: Copy>(table: &[(T, &'static str)], word: &[u8]) -> Result<T, DecodeError> {
    table
        .iter()
        .find(|(_, name)| name.as_bytes() == word)
        .map(|(value, _)| *value)
        .ok_or(DecodeError::Invalid("error word"))
}

/// Everything up to the next space or the end.
fn take_word<'a>(reader: &mut Reader<'a>) -> &'a [u8] {
    let rest = reader.rest();
    let length = rest
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(rest.len());
    reader.take(length).unwrap_or_default()
}

fn space(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.expect(b' ', "space")
}

fn drop_text(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    space(reader)?;
    if reader.tail().len() > ERROR_TEXT_BYTES_MAX {
        return Err(DecodeError::Invalid("error text"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::{BlockingReason, ClientNotice};

    fn encoded(code: ErrorCode) -> String {
        let mut buffer = [0; 64];
        let mut writer = Writer::new(&mut buffer);
        code.encode(&mut writer, Version::MAX);
        let used = writer.finish().unwrap();
        String::from_utf8(buffer[..used].to_vec()).unwrap()
    }

    fn decoded(text: &str) -> Result<ErrorCode, DecodeError> {
        let mut reader = Reader::new(text.as_bytes());
        let code = ErrorCode::decode(&mut reader)?;
        reader.finish().map(|()| code)
    }

    #[test]
    fn every_error_has_one_spelling() {
        let mut all: Vec<ErrorCode> = PLAIN.iter().map(|(code, _)| *code).collect();
        all.extend(CommandFault::ALL.map(|(fault, _)| ErrorCode::Command(fault)));
        all.extend(BrokerFault::ALL.map(|(f, _)| ErrorCode::Proxy(ProxyFault::Broker(f))));
        all.extend([
            ErrorCode::Proxy(ProxyFault::BasicAuth),
            ErrorCode::Proxy(ProxyFault::NoSession),
            ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Auth)),
            ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Quota)),
            ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::LargeMessage)),
            ErrorCode::Proxy(ProxyFault::Protocol(Forwarded::Blocked(
                BlockingReason::Spam.into(),
            ))),
            ErrorCode::Blocked(BlockingReason::Spam.into()),
            ErrorCode::Blocked(BlockingReason::Content.into()),
            ErrorCode::Name,
        ]);
        for code in all {
            assert_eq!(decoded(&encoded(code)), Ok(code), "{}", encoded(code));
        }
    }

    #[test]
    fn texts_of_other_servers_are_dropped() {
        assert_eq!(decoded("STORE disk full"), Ok(ErrorCode::Store));
        assert_eq!(decoded("NAME RESOLVER x y"), Ok(ErrorCode::Name));
        assert_eq!(
            decoded("BLOCKED reason=spam,notice={}"),
            Ok(ErrorCode::Blocked(Blocking {
                reason: BlockingReason::Spam,
                notice: Some(ClientNotice { ttl_seconds: None }),
            }))
        );
        assert_eq!(
            decoded("PROXY BROKER NETWORK TIMEOUT"),
            Ok(ErrorCode::Proxy(ProxyFault::Broker(BrokerFault::Network)))
        );
    }

    #[test]
    fn hostile_errors_are_refused() {
        for text in [
            "",
            "AUT",
            "AUTH ",
            "CMD",
            "CMD X",
            "CMD SYNTAX ",
            "PROXY PROTOCOL PROXY BASIC_AUTH",
            "BLOCKED reason=spammer",
        ] {
            assert!(decoded(text).is_err(), "{text}");
        }
        assert!(decoded(&format!("STORE {}", "x".repeat(257))).is_err());
    }
}
