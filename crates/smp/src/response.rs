//! Answers and events from server to client (reference §4).

use junto_crypto::x25519;

use crate::{
    command::QueueMode,
    encoding::{DecodeError, Reader, Writer},
    error::ErrorCode,
    id::{Entity, LinkId, MessageId, NotifierId, RecipientId, SenderId, ServiceId},
    key::{decode_x25519, encode_x25519},
    link::LinkData,
    notification::NotificationNonce,
    proxy::ProxyKey,
    service::ServiceQueues,
    version::Version,
};

/// What the server gives for notifications of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifierIds {
    /// Names the queue to the notification server.
    pub id: NotifierId,
    /// The server's half of the key agreement for notifications.
    pub server_dh_key: x25519::PublicKey,
}

/// `IDS`: a new queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueIds {
    /// Names it to the recipient.
    pub recipient: RecipientId,
    /// Names it to the sender.
    pub sender: SenderId,
    /// The server's half of the key agreement that encrypts deliveries.
    pub server_dh_key: x25519::PublicKey,
    /// As asked for.
    pub mode: Option<QueueMode>,
    /// Names its link data.
    pub link: Option<LinkId>,
    /// The service it belongs to (16 and later).
    pub service: Option<ServiceId>,
    /// Notifications (17 and later).
    pub notifier: Option<NotifierIds>,
}

/// An answer or event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// A new queue.
    Ids(QueueIds),
    /// Subscribed (16 and later; earlier versions say `OK`).
    Subscribed(Option<ServiceId>),
    /// A message: event, or answer to `ACK` and `GET`.
    Message {
        /// Its id, also the nonce of the box.
        id: MessageId,
        /// The box, see [`crate::message::DeliveryKey::open`].
        sealed: &'a [u8],
    },
    /// `LNK`: the data behind a short link.
    Link(LinkData<'a>),
    /// `NID`: notifications are set up.
    NotifierIds(NotifierIds),
    /// `NMSG`, an event: a message came.
    Notification {
        /// Nonce of the box.
        nonce: NotificationNonce,
        /// The box, see [`crate::notification::NotificationKey::open`].
        sealed: &'a [u8],
    },
    /// `SOKS`: subscribed to the queues of a service.
    ServiceSubscribed(ServiceQueues),
    /// `ALLS`, an event: the messages of a service's queues have been delivered.
    AllDelivered,
    /// `ENDS`, an event: another connection of the service has subscribed.
    ServiceEnd(ServiceQueues),
    /// Done.
    Ok,
    /// State of a queue, as JSON.
    Info(&'a [u8]),
    /// Answer to `PING`.
    Pong,
    /// `PKEY`: the proxy is connected to the destination.
    ProxyKey(ProxyKey<'a>),
    /// `PRES`: what the destination answered, in a box for the sender.
    ProxyAnswer(&'a [u8]),
    /// `RRES`: what a destination answers, in a box for the proxy.
    RelayAnswer(&'a [u8]),
    /// Event: another connection has subscribed to the queue.
    End,
    /// Event: the queue was deleted.
    Deleted,
    /// Refused.
    Error(ErrorCode),
}

impl<'a> Response<'a> {
    /// Writes the content of a transmission. What `version` has no place for is left out.
    pub fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        match self {
            Self::Ids(ids) => ids.encode(writer, version),
            Self::Subscribed(service) if version.has_services() => {
                writer.bytes(b"SOK ");
                writer.maybe(service.as_ref(), |writer, id| id.encode(writer));
            }
            Self::Message { id, sealed } => {
                writer.bytes(b"MSG ");
                id.encode(writer);
                writer.bytes(sealed);
            }
            Self::Link(link) => {
                writer.bytes(b"LNK ");
                link.encode(writer);
            }
            Self::NotifierIds(ids) => {
                writer.bytes(b"NID ");
                ids.encode(writer);
            }
            Self::Notification { nonce, sealed } => {
                writer.bytes(b"NMSG ");
                writer.bytes(&nonce.0);
                writer.short(sealed);
            }
            Self::ServiceSubscribed(queues) => {
                writer.bytes(b"SOKS ");
                queues.encode(writer, version);
            }
            Self::AllDelivered => writer.bytes(b"ALLS"),
            Self::ServiceEnd(queues) => {
                writer.bytes(b"ENDS ");
                queues.encode(writer, version);
            }
            Self::Ok | Self::Subscribed(_) => writer.bytes(b"OK"),
            Self::Info(json) => {
                writer.bytes(b"INFO ");
                writer.bytes(json);
            }
            Self::Pong => writer.bytes(b"PONG"),
            Self::ProxyKey(key) => {
                writer.bytes(b"PKEY ");
                key.encode(writer);
            }
            Self::ProxyAnswer(sealed) => {
                writer.bytes(b"PRES ");
                writer.bytes(sealed);
            }
            Self::RelayAnswer(sealed) => {
                writer.bytes(b"RRES ");
                writer.bytes(sealed);
            }
            Self::End => writer.bytes(b"END"),
            Self::Deleted => writer.bytes(b"DELD"),
            Self::Error(code) => {
                writer.bytes(b"ERR ");
                code.encode(writer, version);
            }
        }
    }

    /// Parses the content of a transmission.
    ///
    /// # Errors
    /// [`DecodeError`], also for answers to commands that this crate never sends.
    pub fn decode(content: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let length = content
            .iter()
            .position(|&byte| byte == b' ')
            .unwrap_or(content.len());
        let (word, arguments) = content.split_at(length);
        let mut reader = Reader::new(arguments);
        let response = match word {
            b"IDS" => QueueIds::decode(space(&mut reader)?, version).map(Self::Ids)?,
            b"SOK" if version.has_services() => {
                let service = space(&mut reader)?.maybe("service", ServiceId::decode)?;
                Self::Subscribed(service)
            }
            b"MSG" => {
                let reader = space(&mut reader)?;
                let id = MessageId::decode(reader)?;
                let sealed = reader.tail();
                Self::Message { id, sealed }
            }
            b"LNK" => LinkData::decode(space(&mut reader)?).map(Self::Link)?,
            b"NID" => NotifierIds::decode(space(&mut reader)?).map(Self::NotifierIds)?,
            b"NMSG" => {
                let reader = space(&mut reader)?;
                let nonce = NotificationNonce(reader.array()?);
                let sealed = reader.short()?;
                Self::Notification { nonce, sealed }
            }
            b"SOKS" => {
                let reader = space(&mut reader)?;
                ServiceQueues::decode(reader, version).map(Self::ServiceSubscribed)?
            }
            b"ALLS" => Self::AllDelivered,
            b"ENDS" => {
                let reader = space(&mut reader)?;
                ServiceQueues::decode(reader, version).map(Self::ServiceEnd)?
            }
            b"OK" => Self::Ok,
            b"INFO" => Self::Info(space(&mut reader)?.tail()),
            b"PONG" => Self::Pong,
            b"PKEY" => ProxyKey::decode(space(&mut reader)?).map(Self::ProxyKey)?,
            b"PRES" => Self::ProxyAnswer(space(&mut reader)?.tail()),
            b"RRES" => Self::RelayAnswer(space(&mut reader)?.tail()),
            b"END" => Self::End,
            b"DELD" => Self::Deleted,
            b"ERR" => ErrorCode::decode(space(&mut reader)?).map(Self::Error)?,
            _ => return Err(DecodeError::Invalid("response")),
        };
        reader.finish().map(|()| response)
    }

    /// Checks that the entity is present or absent as the kind of answer demands.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`].
    pub fn check_entity(&self, entity: Entity<'_>) -> Result<(), DecodeError> {
        let named = entity != Entity::None;
        let valid = match self {
            Self::Ids(_) | Self::Error(_) => true,
            Self::Pong | Self::AllDelivered | Self::ProxyKey(_) | Self::RelayAnswer(_) => !named,
            _ => named,
        };
        if valid {
            Ok(())
        } else {
            Err(DecodeError::Invalid("entity"))
        }
    }
}

impl NotifierIds {
    fn encode(&self, writer: &mut Writer<'_>) {
        self.id.encode(writer);
        encode_x25519(&self.server_dh_key, writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: NotifierId::decode(reader)?,
            server_dh_key: decode_x25519(reader)?,
        })
    }
}

impl QueueIds {
    fn encode(&self, writer: &mut Writer<'_>, version: Version) {
        writer.bytes(b"IDS ");
        self.recipient.encode(writer);
        self.sender.encode(writer);
        encode_x25519(&self.server_dh_key, writer);
        writer.maybe(self.mode, |writer, mode| mode.encode(writer));
        writer.maybe(self.link.as_ref(), |writer, link| link.encode(writer));
        if version.has_services() {
            writer.maybe(self.service.as_ref(), |writer, id| id.encode(writer));
        }
        if version.has_notifier_in_new() {
            writer.maybe(self.notifier.as_ref(), |writer, ids| ids.encode(writer));
        }
    }

    fn decode(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        Ok(Self {
            recipient: RecipientId::decode(reader)?,
            sender: SenderId::decode(reader)?,
            server_dh_key: decode_x25519(reader)?,
            mode: reader.maybe("mode", QueueMode::decode)?,
            link: reader.maybe("link", LinkId::decode)?,
            service: if version.has_services() {
                reader.maybe("service", ServiceId::decode)?
            } else {
                None
            },
            notifier: if version.has_notifier_in_new() {
                reader.maybe("notifier", NotifierIds::decode)?
            } else {
                None
            },
        })
    }
}

fn space<'r, 'a>(reader: &'r mut Reader<'a>) -> Result<&'r mut Reader<'a>, DecodeError> {
    reader.expect(b' ', "space")?;
    Ok(reader)
}
