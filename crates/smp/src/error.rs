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
    /// Handshake or block failed.
    Transport(TransportFault),
    /// No answer in time.
    Timeout,
}

impl BrokerFault {
    /// Those without arguments.
    const PLAIN: [(Self, &'static str); 4] = [
        (Self::Network, "NETWORK"),
        (Self::Host, "HOST"),
        (Self::NoService, "NO_SERVICE"),
        (Self::Timeout, "TIMEOUT"),
    ];

    fn encode(self, writer: &mut Writer<'_>) {
        match self {
            // Readers require the text that we do not give.
            Self::Response => {
                writer.bytes(b"RESPONSE ");
                writer.short(b"");
            }
            Self::Unexpected => {
                writer.bytes(b"UNEXPECTED ");
                writer.short(b"");
            }
            Self::Transport(fault) => {
                writer.bytes(b"TRANSPORT ");
                writer.bytes(word_of(&TransportFault::ALL, &fault).as_bytes());
                if fault == TransportFault::Handshake {
                    writer.bytes(b" IDENTITY");
                }
            }
            plain => writer.bytes(word_of(&Self::PLAIN, &plain).as_bytes()),
        }
    }

    /// Servers may add details to all of them.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let fault = match take_word(reader) {
            b"RESPONSE" => Ok(Self::Response),
            b"UNEXPECTED" => Ok(Self::Unexpected),
            b"TRANSPORT" => {
                space(reader)?;
                value_of(&TransportFault::ALL, take_word(reader)).map(Self::Transport)
            }
            word => value_of(&Self::PLAIN, word),
        };
        let _ = reader.tail();
        fault
    }
}

/// How a proxy failed to talk to a server that it has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFault {
    /// A block does not open or parse.
    Block,
    /// No common version.
    Version,
    /// Too large for a block.
    LargeMessage,
    /// The hello belongs to another TLS session.
    Session,
    /// One side has no hello key.
    NoAuth,
    /// The hello was refused. The reason is dropped, and `IDENTITY` when we write it.
    Handshake,
}

impl TransportFault {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Block, "BLOCK"),
        (Self::Version, "VERSION"),
        (Self::LargeMessage, "LARGE_MSG"),
        (Self::Session, "SESSION"),
        (Self::NoAuth, "NO_AUTH"),
        (Self::Handshake, "HANDSHAKE"),
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

/// The error of a destination behind a proxy: an [`ErrorCode`], except another proxy's, so that
/// errors nest once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// `CMD` and which.
    Command(CommandFault),
    /// `BLOCKED`.
    Blocked(Blocking),
    /// `NAME`.
    Name,
    /// `BLOCK`.
    Block,
    /// `SESSION`.
    Session,
    /// `AUTH`.
    Auth,
    /// `SERVICE`.
    Service,
    /// `CRYPTO`.
    Crypto,
    /// `QUOTA`.
    Quota,
    /// `STORE`.
    Store,
    /// `EXPIRED`.
    Expired,
    /// `NO_MSG`.
    NoMessage,
    /// `LARGE_MSG`.
    LargeMessage,
    /// `INTERNAL`.
    Internal,
    /// `DUPLICATE_`.
    Duplicate,
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
                fault.encode(writer);
            }
            Self::BasicAuth => writer.bytes(b"BASIC_AUTH"),
            Self::NoSession => writer.bytes(b"NO_SESSION"),
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match take_word(reader) {
            b"PROTOCOL" => {
                space(reader)?;
                // Refused before it is parsed, so that the recursion ends here.
                if reader.rest().starts_with(b"PROXY") {
                    return Err(DecodeError::Invalid("nested proxy error"));
                }
                Forwarded::from_code(ErrorCode::decode(reader)?)
                    .map(Self::Protocol)
                    .ok_or(DecodeError::Invalid("nested proxy error"))
            }
            b"BROKER" => {
                space(reader)?;
                BrokerFault::decode(reader).map(Self::Broker)
            }
            b"BASIC_AUTH" => Ok(Self::BasicAuth),
            b"NO_SESSION" => Ok(Self::NoSession),
            _ => Err(DecodeError::Invalid("proxy error")),
        }
    }
}

impl Forwarded {
    /// `None` for another proxy's error.
    #[must_use]
    pub fn from_code(code: ErrorCode) -> Option<Self> {
        Some(match code {
            ErrorCode::Proxy(_) => return None,
            ErrorCode::Command(fault) => Self::Command(fault),
            ErrorCode::Blocked(reason) => Self::Blocked(reason),
            ErrorCode::Name => Self::Name,
            ErrorCode::Block => Self::Block,
            ErrorCode::Session => Self::Session,
            ErrorCode::Auth => Self::Auth,
            ErrorCode::Service => Self::Service,
            ErrorCode::Crypto => Self::Crypto,
            ErrorCode::Quota => Self::Quota,
            ErrorCode::Store => Self::Store,
            ErrorCode::Expired => Self::Expired,
            ErrorCode::NoMessage => Self::NoMessage,
            ErrorCode::LargeMessage => Self::LargeMessage,
            ErrorCode::Internal => Self::Internal,
            ErrorCode::Duplicate => Self::Duplicate,
        })
    }

    /// The error that the destination said.
    #[must_use]
    pub fn to_code(self) -> ErrorCode {
        match self {
            Self::Command(fault) => ErrorCode::Command(fault),
            Self::Blocked(reason) => ErrorCode::Blocked(reason),
            Self::Name => ErrorCode::Name,
            Self::Block => ErrorCode::Block,
            Self::Session => ErrorCode::Session,
            Self::Auth => ErrorCode::Auth,
            Self::Service => ErrorCode::Service,
            Self::Crypto => ErrorCode::Crypto,
            Self::Quota => ErrorCode::Quota,
            Self::Store => ErrorCode::Store,
            Self::Expired => ErrorCode::Expired,
            Self::NoMessage => ErrorCode::NoMessage,
            Self::LargeMessage => ErrorCode::LargeMessage,
            Self::Internal => ErrorCode::Internal,
            Self::Duplicate => ErrorCode::Duplicate,
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
        all.extend([
            ErrorCode::Blocked(BlockingReason::Spam.into()),
            ErrorCode::Blocked(BlockingReason::Content.into()),
            ErrorCode::Name,
        ]);
        let forwarded: Vec<_> = all
            .iter()
            .copied()
            .filter_map(Forwarded::from_code)
            .collect();
        assert_eq!(forwarded.len(), all.len());
        all.extend(
            forwarded
                .iter()
                .map(|f| ErrorCode::Proxy(ProxyFault::Protocol(*f))),
        );
        let mut brokers = BrokerFault::PLAIN.map(|(fault, _)| fault).to_vec();
        brokers.extend([BrokerFault::Response, BrokerFault::Unexpected]);
        brokers.extend(TransportFault::ALL.map(|(fault, _)| BrokerFault::Transport(fault)));
        all.extend(
            brokers
                .iter()
                .map(|f| ErrorCode::Proxy(ProxyFault::Broker(*f))),
        );
        all.extend([
            ErrorCode::Proxy(ProxyFault::BasicAuth),
            ErrorCode::Proxy(ProxyFault::NoSession),
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
