//! Commands from client to server (reference §4).

mod new;

use junto_crypto::x25519;

pub use new::{NewMode, NewNotifier, NewQueue, QueueMode};

use crate::{
    encoding::{DecodeError, Reader, Writer},
    error::ErrorCode,
    id::{Entity, LinkId, MessageId},
    key::{AuthKey, decode_x25519, encode_x25519},
    link::LinkBlobs,
    message::MessageFlags,
    name::Domain,
    proxy::{Forward, ProxyRequest},
    service::ServiceQueues,
    version::Version,
};

/// Who gives a command, which is also by which of its ids it names a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// `NEW`: no queue yet.
    Creator,
    /// The entity is a recipient id.
    Recipient,
    /// The entity is a sender id.
    Sender,
    /// The entity is a link id.
    LinkReader,
    /// The entity is a notifier id.
    Notifier,
    /// The entity is the id of a service: no queue in particular.
    Service,
    /// `PING`, `RSLV`, and commands through other relays: no queue.
    Nobody,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Create a queue. Answer: `IDS`.
    New(Box<NewQueue<'a>>),
    /// Subscribe. Answer: `SOK` (16 and later) or `OK`; a waiting message follows as an event.
    Sub,
    /// The recipient sets the sender's key. Answer: `OK`.
    Key(AuthKey),
    /// The sender sets the sender's key, in mode M only. Answer: `OK`.
    SenderKey(AuthKey),
    /// Send a message. Answer: `OK`.
    Send {
        /// Wishes of the sender.
        flags: MessageFlags,
        /// The message: as long as a block allows, checked against
        /// [`crate::message::BODY_BYTES_MAX`] by the queue.
        body: &'a [u8],
    },
    /// The recipient has stored the delivered message; `None` names whichever that is. Answer: `OK`
    /// or the next `MSG`.
    Ack(Option<MessageId>),
    /// Get one message without subscribing. Answer: `MSG` or `OK`.
    Get,
    /// Refuse further messages. Answer: `OK`.
    Off,
    /// Delete the queue. Answer: `OK`.
    Delete,
    /// Ask for the state of the queue. Answer: `INFO`.
    Info,
    /// `RKEY`: these keys authorise the recipient from now on, for contact queues with several
    /// owners. Never empty. Answer: `OK`.
    RecipientKeys(Vec<AuthKey>),
    /// `LSET`: set or change the data behind a short link. Answer: `OK`.
    SetLink {
        /// The link's id. It cannot be changed.
        link: LinkId,
        /// The fixed part cannot be changed either.
        blobs: LinkBlobs<'a>,
    },
    /// `LDEL`: delete the data behind the short link. Answer: `OK`.
    DeleteLink,
    /// `LKEY`: secure a queue in mode M through its link and read its data. Answer: `LNK`.
    LinkKey(AuthKey),
    /// `LGET`: read the data behind the link of a contact queue. Answer: `LNK`.
    ReadLink,
    /// `NKEY`: let a notification server know of messages. Answer: `NID`.
    SetNotifier {
        /// Authorises the notification server.
        auth_key: AuthKey,
        /// The recipient's half of the key agreement for notifications.
        dh_key: x25519::PublicKey,
    },
    /// `NDEL`: no more notifications. Answer: `OK`.
    DeleteNotifier,
    /// `NSUB`: subscribe to notifications. Answer: `SOK` or `OK`; `NMSG` follow as events.
    NotifierSub,
    /// `SUBS`: subscribe to all queues of a service; before version 19 without the service's own
    /// count. Answer: `SOKS`, then messages and `ALLS` as events.
    ServiceSub(Option<ServiceQueues>),
    /// `NSUBS`: the same for notifications. Answer: `SOKS`.
    NotifierServiceSub(Option<ServiceQueues>),
    /// `RSLV`: look up a name. Answer: `RNAME` from relays that can, which we cannot.
    Resolve(Domain<'a>),
    /// Answer: `PONG`.
    Ping,
    /// `PRXY`: connect to another relay. Answer: `PKEY`.
    Proxy(Box<ProxyRequest<'a>>),
    /// `PFWD`: pass a command on, to the destination that the entity names by its session. Answer:
    /// `PRES`.
    ProxyForward(Forward<'a>),
    /// `RFWD`: a command that a proxy passes on, in a box for us. Answer: `RRES`.
    RelayForward(&'a [u8]),
}

impl<'a> Command<'a> {
    /// Parses the content of a transmission.
    ///
    /// # Errors
    /// The code to answer with: `CMD UNKNOWN` or `CMD SYNTAX`.
    pub fn decode(content: &'a [u8], version: Version) -> Result<Self, ErrorCode> {
        let length = content
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(content.len());
        let (word, arguments) = content.split_at(length);
        let mut reader = Reader::new(arguments);
        let command = match word {
            b"NEW" => NewQueue::decode(&mut reader, version).map(|new| Self::New(Box::new(new))),
            b"SUB" => Ok(Self::Sub),
            b"KEY" => decode_key(&mut reader).map(Self::Key),
            b"SKEY" => decode_key(&mut reader).map(Self::SenderKey),
            b"SEND" => decode_send(&mut reader),
            b"ACK" => decode_ack(&mut reader).map(Self::Ack),
            b"GET" => Ok(Self::Get),
            b"OFF" => Ok(Self::Off),
            b"DEL" => Ok(Self::Delete),
            b"QUE" => Ok(Self::Info),
            b"RKEY" => decode_keys(&mut reader).map(Self::RecipientKeys),
            b"LSET" => decode_set_link(&mut reader),
            b"LDEL" => Ok(Self::DeleteLink),
            b"LKEY" => decode_key(&mut reader).map(Self::LinkKey),
            b"LGET" => Ok(Self::ReadLink),
            b"NKEY" => decode_notifier(&mut reader),
            b"NDEL" => Ok(Self::DeleteNotifier),
            b"NSUB" => Ok(Self::NotifierSub),
            b"SUBS" => decode_service_sub(&mut reader, version).map(Self::ServiceSub),
            b"NSUBS" => decode_service_sub(&mut reader, version).map(Self::NotifierServiceSub),
            b"RSLV" => space(&mut reader)
                .and_then(|()| Domain::decode(&mut reader))
                .map(Self::Resolve),
            b"PING" => Ok(Self::Ping),
            b"PRXY" => space(&mut reader)
                .and_then(|()| ProxyRequest::decode(&mut reader))
                .map(|request| Self::Proxy(Box::new(request))),
            b"PFWD" => space(&mut reader)
                .and_then(|()| Forward::decode(&mut reader))
                .map(Self::ProxyForward),
            b"RFWD" => space(&mut reader).map(|()| Self::RelayForward(reader.tail())),
            _ => return Err(ErrorCode::UNKNOWN),
        };
        command
            .and_then(|command| reader.finish().map(|()| command))
            .map_err(|_| ErrorCode::SYNTAX)
    }

    /// Writes the content of a transmission. What `version` has no place for is left out.
    pub fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        match self {
            Self::New(new) => new.encode(writer, version),
            Self::Sub => writer.bytes(b"SUB"),
            Self::Key(key) => {
                writer.bytes(b"KEY ");
                key.encode(writer);
            }
            Self::SenderKey(key) => {
                writer.bytes(b"SKEY ");
                key.encode(writer);
            }
            Self::Send { flags, body } => {
                writer.bytes(b"SEND ");
                flags.encode(writer);
                writer.u8(b' ');
                writer.bytes(body);
            }
            Self::Ack(id) => {
                writer.bytes(b"ACK ");
                match id {
                    Some(id) => id.encode(writer),
                    None => writer.u8(0),
                }
            }
            Self::Get => writer.bytes(b"GET"),
            Self::Off => writer.bytes(b"OFF"),
            Self::Delete => writer.bytes(b"DEL"),
            Self::Info => writer.bytes(b"QUE"),
            Self::RecipientKeys(keys) => {
                writer.bytes(b"RKEY ");
                writer.list(keys, |writer, key| key.encode(writer));
            }
            Self::SetLink { link, blobs } => {
                writer.bytes(b"LSET ");
                link.encode(writer);
                blobs.encode(writer);
            }
            Self::DeleteLink => writer.bytes(b"LDEL"),
            Self::LinkKey(key) => {
                writer.bytes(b"LKEY ");
                key.encode(writer);
            }
            Self::ReadLink => writer.bytes(b"LGET"),
            Self::SetNotifier { auth_key, dh_key } => {
                writer.bytes(b"NKEY ");
                auth_key.encode(writer);
                encode_x25519(dh_key, writer);
            }
            Self::DeleteNotifier => writer.bytes(b"NDEL"),
            Self::NotifierSub => writer.bytes(b"NSUB"),
            Self::ServiceSub(queues) => {
                encode_service_sub(b"SUBS", queues.as_ref(), writer, version);
            }
            Self::NotifierServiceSub(queues) => {
                encode_service_sub(b"NSUBS", queues.as_ref(), writer, version);
            }
            Self::Resolve(name) => {
                writer.bytes(b"RSLV ");
                name.encode(writer);
            }
            Self::Ping => writer.bytes(b"PING"),
            Self::Proxy(request) => {
                writer.bytes(b"PRXY ");
                request.encode(writer);
            }
            Self::ProxyForward(forward) => {
                writer.bytes(b"PFWD ");
                forward.encode(writer);
            }
            Self::RelayForward(sealed) => {
                writer.bytes(b"RFWD ");
                writer.bytes(sealed);
            }
        }
    }

    /// Whether a proxy may pass it on: what senders do, and looking up names (reference §4).
    #[must_use]
    pub fn is_forwardable(&self) -> bool {
        matches!(
            self,
            Self::Send { .. }
                | Self::SenderKey(_)
                | Self::LinkKey(_)
                | Self::ReadLink
                | Self::Resolve(_)
        )
    }

    /// Who gives this command.
    #[must_use]
    pub fn party(&self) -> Party {
        match self {
            Self::New(_) => Party::Creator,
            Self::Sub
            | Self::Key(_)
            | Self::Ack(_)
            | Self::Get
            | Self::Off
            | Self::Delete
            | Self::Info
            | Self::RecipientKeys(_)
            | Self::SetLink { .. }
            | Self::DeleteLink
            | Self::SetNotifier { .. }
            | Self::DeleteNotifier => Party::Recipient,
            Self::SenderKey(_) | Self::Send { .. } => Party::Sender,
            Self::LinkKey(_) | Self::ReadLink => Party::LinkReader,
            Self::NotifierSub => Party::Notifier,
            Self::ServiceSub(_) | Self::NotifierServiceSub(_) => Party::Service,
            Self::Resolve(_)
            | Self::Ping
            | Self::Proxy(_)
            | Self::ProxyForward(_)
            | Self::RelayForward(_) => Party::Nobody,
        }
    }

    /// Checks which of authorisation and entity are present (reference §3.4), before any queue is
    /// looked up.
    ///
    /// # Errors
    /// `CMD NO_AUTH`, `CMD HAS_AUTH` or `CMD NO_ENTITY`.
    pub fn check_credentials(&self, authorised: bool, entity: Entity<'_>) -> Result<(), ErrorCode> {
        let named = entity != Entity::None;
        match self {
            Self::New(_) if !authorised => Err(ErrorCode::NO_AUTH),
            Self::New(_) if named => Err(ErrorCode::HAS_AUTH),
            Self::Send { .. } | Self::ReadLink | Self::ProxyForward(_) if !named => {
                Err(ErrorCode::NO_ENTITY)
            }
            Self::ReadLink | Self::ProxyForward(_) if authorised => Err(ErrorCode::HAS_AUTH),
            Self::Ping | Self::Resolve(_) | Self::Proxy(_) | Self::RelayForward(_)
                if authorised || named =>
            {
                Err(ErrorCode::HAS_AUTH)
            }
            Self::New(_)
            | Self::Send { .. }
            | Self::ReadLink
            | Self::Ping
            | Self::Resolve(_)
            | Self::Proxy(_)
            | Self::ProxyForward(_)
            | Self::RelayForward(_) => Ok(()),
            _ if !authorised || !named => Err(ErrorCode::NO_AUTH),
            _ => Ok(()),
        }
    }
}

fn space(reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.expect(b' ', "space")
}

fn decode_key(reader: &mut Reader<'_>) -> Result<AuthKey, DecodeError> {
    space(reader)?;
    AuthKey::decode(reader)
}

fn decode_send<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
    space(reader)?;
    let flags = MessageFlags::decode(reader)?;
    space(reader)?;
    let body = reader.tail();
    Ok(Command::Send { flags, body })
}

fn decode_ack(reader: &mut Reader<'_>) -> Result<Option<MessageId>, DecodeError> {
    space(reader)?;
    match reader.short()? {
        [] => Ok(None),
        id => MessageId::try_from(id).map(Some),
    }
}

fn decode_keys(reader: &mut Reader<'_>) -> Result<Vec<AuthKey>, DecodeError> {
    space(reader)?;
    match reader.u8()? {
        0 => Err(DecodeError::Invalid("list of keys")),
        count => (0..count).map(|_| AuthKey::decode(reader)).collect(),
    }
}

fn decode_set_link<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
    space(reader)?;
    let link = LinkId::decode(reader)?;
    let blobs = LinkBlobs::decode(reader)?;
    Ok(Command::SetLink { link, blobs })
}

fn decode_notifier<'a>(reader: &mut Reader<'a>) -> Result<Command<'a>, DecodeError> {
    space(reader)?;
    let auth_key = AuthKey::decode(reader)?;
    let dh_key = decode_x25519(reader)?;
    Ok(Command::SetNotifier { auth_key, dh_key })
}

fn encode_service_sub(
    word: &[u8],
    queues: Option<&ServiceQueues>,
    writer: &mut Writer<'_>,
    version: Version,
) {
    writer.bytes(word);
    if version.has_service_counts() {
        writer.u8(b' ');
        queues.copied().unwrap_or_default().encode(writer, version);
    }
}

fn decode_service_sub(
    reader: &mut Reader<'_>,
    version: Version,
) -> Result<Option<ServiceQueues>, DecodeError> {
    if !version.has_service_counts() {
        return Ok(None);
    }
    space(reader)?;
    ServiceQueues::decode(reader, version).map(Some)
}
