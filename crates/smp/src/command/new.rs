//! `NEW`: a request for a queue.

use junto_crypto::x25519;

use super::space;
use crate::{
    encoding::{DecodeError, Reader, Writer},
    id::LinkId,
    key::{AuthKey, decode_x25519, encode_x25519},
    link::LinkData,
    version::Version,
};

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

impl<'a> NewQueue<'a> {
    pub(super) fn encode(&self, writer: &mut Writer<'_>, version: Version) {
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

    pub(super) fn decode(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
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
