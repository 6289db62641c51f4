//! Commands from client to server (reference §4), those of the messaging path typed, the rest
//! recognised by name.

use junto_crypto::x25519;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    error::{ErrorCode, ProxyFault},
    id::{Entity, LinkId, MessageId, SenderId},
    key::{AuthKey, decode_x25519, encode_x25519},
    message::MessageFlags,
    version::Version,
};

/// Data that readers of a short link get. Opaque to the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkData<'a> {
    /// The sender id that the creator chose, see
    /// [`crate::id::CorrelationId::derived_sender_id`].
    pub sender: SenderId,
    /// The part that the link's hash pins.
    pub fixed: &'a [u8],
    /// The part that the owner may change.
    pub user: &'a [u8],
}

/// What a new queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewMode<'a> {
    /// Not said: a queue of an old client. The sender cannot secure it.
    Unspecified,
    /// Mode M, one sender, who may secure it. Possibly with link data.
    Messaging(Option<LinkData<'a>>),
    /// Mode C, a contact address: anybody may send. Possibly with link id and link data.
    Contact(Option<(LinkId, LinkData<'a>)>),
}

/// The mode of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueMode {
    /// `M`: one sender, who may secure it.
    Messaging,
    /// `C`: a contact address, open to anybody.
    Contact,
}

impl QueueMode {
    pub(crate) fn encode(self, writer: &mut Writer<'_>) {
        writer.u8(match self {
            Self::Messaging => b'M',
            Self::Contact => b'C',
        });
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            b'M' => Ok(Self::Messaging),
            b'C' => Ok(Self::Contact),
            _ => Err(DecodeError::Invalid("queue mode")),
        }
    }
}

/// Keys of a notification server, given at creation (17 and later).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotifier {
    /// Authorises the notification server's commands.
    pub auth_key: AuthKey,
    /// For encrypting notifications to the recipient.
    pub dh_key: x25519::PublicKey,
}

/// `NEW`: a request for a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQueue<'a> {
    /// Authorises the recipient's commands, this one included.
    pub auth_key: AuthKey,
    /// The recipient's half of the key agreement that encrypts deliveries.
    pub dh_key: x25519::PublicKey,
    /// Password of the server for creating queues.
    pub password: Option<&'a [u8]>,
    /// Subscribe to the new queue at once.
    pub subscribe: bool,
    /// What it is for.
    pub mode: NewMode<'a>,
    /// Notifications; never present before version 17.
    pub notifier: Option<NewNotifier>,
}

impl NewQueue<'_> {
    /// The mode of the queue to make.
    #[must_use]
    pub fn queue_mode(&self) -> Option<QueueMode> {
        match self.mode {
            NewMode::Unspecified => None,
            NewMode::Messaging(_) => Some(QueueMode::Messaging),
            NewMode::Contact(_) => Some(QueueMode::Contact),
        }
    }

    /// Whether the creator brings link data, which belongs to short links.
    #[must_use]
    pub fn has_link_data(&self) -> bool {
        matches!(
            self.mode,
            NewMode::Messaging(Some(_)) | NewMode::Contact(Some(_))
        )
    }
}

/// Commands that this relay knows by name and does not offer yet: short links, notifications,
/// proxying, services, name resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// `RKEY`: several recipient keys.
    Rkey,
    /// `LSET`: set link data.
    Lset,
    /// `LDEL`: delete link data.
    Ldel,
    /// `LKEY`: secure through a link.
    Lkey,
    /// `LGET`: read link data.
    Lget,
    /// `NKEY`: notifier credentials.
    Nkey,
    /// `NDEL`: delete them.
    Ndel,
    /// `NSUB`: subscribe to notifications.
    Nsub,
    /// `NSUBS`: a notification service's subscriptions.
    Nsubs,
    /// `SUBS`: a service's subscriptions.
    Subs,
    /// `PRXY`: connect to another relay.
    Prxy,
    /// `PFWD`: forward a command.
    Pfwd,
    /// `RFWD`: a forwarded command.
    Rfwd,
    /// `RSLV`: resolve a name.
    Rslv,
}

impl Unsupported {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Rkey, "RKEY"),
        (Self::Lset, "LSET"),
        (Self::Ldel, "LDEL"),
        (Self::Lkey, "LKEY"),
        (Self::Lget, "LGET"),
        (Self::Nkey, "NKEY"),
        (Self::Ndel, "NDEL"),
        (Self::Nsub, "NSUB"),
        (Self::Nsubs, "NSUBS"),
        (Self::Subs, "SUBS"),
        (Self::Prxy, "PRXY"),
        (Self::Pfwd, "PFWD"),
        (Self::Rfwd, "RFWD"),
        (Self::Rslv, "RSLV"),
    ];

    /// The answer: what a server says that has the feature switched off. It never depends on the
    /// entity, so it tells nothing about queues.
    #[must_use]
    pub fn refusal(self) -> ErrorCode {
        match self {
            // No link and no notifier exists here, so each one is unknown.
            Self::Lkey | Self::Lget | Self::Nsub => ErrorCode::Auth,
            Self::Nsubs | Self::Subs => ErrorCode::Service,
            Self::Prxy => ErrorCode::Proxy(ProxyFault::BasicAuth),
            Self::Pfwd => ErrorCode::Proxy(ProxyFault::NoSession),
            Self::Rslv => ErrorCode::Name,
            Self::Rkey | Self::Lset | Self::Ldel | Self::Nkey | Self::Ndel | Self::Rfwd => {
                ErrorCode::PROHIBITED
            }
        }
    }
}

/// Who gives a command, which is also by which of its ids it names a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// `NEW`: no queue yet.
    Creator,
    /// The entity is a recipient id.
    Recipient,
    /// The entity is a sender id.
    Sender,
    /// `PING`: no queue.
    Nobody,
}

/// A command of the messaging path.
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
    /// Answer: `PONG`.
    Ping,
}

impl<'a> Command<'a> {
    /// Parses the content of a transmission.
    ///
    /// # Errors
    /// The code to answer with: `CMD UNKNOWN`, `CMD SYNTAX`, or the refusal of a command that is
    /// not offered.
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
            b"PING" => Ok(Self::Ping),
            _ => return Err(unsupported(word)),
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
            Self::Ping => writer.bytes(b"PING"),
        }
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
            | Self::Info => Party::Recipient,
            Self::SenderKey(_) | Self::Send { .. } => Party::Sender,
            Self::Ping => Party::Nobody,
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
            Self::Send { .. } if !named => Err(ErrorCode::NO_ENTITY),
            Self::Ping if authorised || named => Err(ErrorCode::HAS_AUTH),
            Self::New(_) | Self::Send { .. } | Self::Ping => Ok(()),
            _ if !authorised || !named => Err(ErrorCode::NO_AUTH),
            _ => Ok(()),
        }
    }
}

fn unsupported(word: &[u8]) -> ErrorCode {
    Unsupported::ALL
        .iter()
        .find(|(_, name)| name.as_bytes() == word)
        .map_or(ErrorCode::UNKNOWN, |(command, _)| command.refusal())
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

impl<'a> NewQueue<'a> {
    fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        writer.bytes(b"NEW ");
        self.auth_key.encode(writer);
        encode_x25519(&self.dh_key, writer);
        writer.maybe(self.password, Writer::short);
        writer.u8(if self.subscribe { b'S' } else { b'C' });
        self.mode.encode(writer);
        if version.has_notifier_in_new() {
            writer.maybe(self.notifier.as_ref(), |writer, notifier| {
                notifier.auth_key.encode(writer);
                encode_x25519(&notifier.dh_key, writer);
            });
        }
    }

    fn decode(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        space(reader)?;
        Ok(Self {
            auth_key: AuthKey::decode(reader)?,
            dh_key: decode_x25519(reader)?,
            password: reader.maybe("password", Reader::short)?,
            subscribe: match reader.u8()? {
                b'S' => true,
                b'C' => false,
                _ => return Err(DecodeError::Invalid("subscription mode")),
            },
            mode: NewMode::decode(reader)?,
            notifier: if version.has_notifier_in_new() {
                reader.maybe("notifier", |reader| {
                    Ok(NewNotifier {
                        auth_key: AuthKey::decode(reader)?,
                        dh_key: decode_x25519(reader)?,
                    })
                })?
            } else {
                None
            },
        })
    }
}

impl<'a> NewMode<'a> {
    fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Unspecified => writer.u8(b'0'),
            Self::Messaging(link) => {
                writer.bytes(b"1M");
                writer.maybe(link.as_ref(), |writer, link| link.encode(writer));
            }
            Self::Contact(link) => {
                writer.bytes(b"1C");
                writer.maybe(link.as_ref(), |writer, (id, link)| {
                    id.encode(writer);
                    link.encode(writer);
                });
            }
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mode = reader.maybe("mode", |reader| match QueueMode::decode(reader)? {
            QueueMode::Messaging => reader
                .maybe("link data", LinkData::decode)
                .map(Self::Messaging),
            QueueMode::Contact => reader
                .maybe("link data", |reader| {
                    Ok((LinkId::decode(reader)?, LinkData::decode(reader)?))
                })
                .map(Self::Contact),
        })?;
        Ok(mode.unwrap_or(Self::Unspecified))
    }
}

impl<'a> LinkData<'a> {
    fn encode(&self, writer: &mut Writer<'_>) {
        self.sender.encode(writer);
        writer.large(self.fixed);
        writer.large(self.user);
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            sender: SenderId::decode(reader)?,
            fixed: reader.large()?,
            user: reader.large()?,
        })
    }
}
