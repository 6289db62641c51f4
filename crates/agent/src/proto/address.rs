//! Where a sender reaches a queue: relay, queue, the recipient's key, in the text form of links and
//! the binary form that travels inside confirmations.

use core::fmt;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use junto_crypto::x25519;
use junto_smp::address::{Fingerprint, Host, ServerAddress};
pub use junto_smp::command::QueueMode;
pub use junto_smp::id::SenderId;

use super::query::Query;
use super::version::{self, VersionRange};
use super::wire::{Malformed, Reader, put_fixed, put_short};

/// A queue as its senders see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueAddress {
    /// The relay that holds the queue.
    pub relay: ServerAddress,
    /// The queue's name for senders.
    pub sender_id: SenderId,
    /// The recipient's key for the per-queue layer.
    pub recipient_key: x25519::PublicKey,
    /// What the queue is for; `None` in addresses of old agents, who use slower handshakes.
    pub mode: Option<QueueMode>,
}

/// A queue in a link: an address and the versions that its recipient speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueUri {
    /// Versions of queue addresses and of the per-queue layer.
    pub versions: VersionRange,
    /// The queue.
    pub address: QueueAddress,
}

/// A queue in a confirmation: an address and one agreed version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// The agreed version; 4 and later are read.
    pub version: u16,
    /// The queue.
    pub address: QueueAddress,
}

impl QueueUri {
    /// The address, if its recipient speaks our version.
    #[must_use]
    pub fn negotiated(&self) -> Option<&QueueAddress> {
        self.versions
            .contains(version::QUEUE)
            .then_some(&self.address)
    }
}

impl fmt::Display for QueueUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        let id = URL_SAFE_NO_PAD.encode(address.sender_id.as_bytes());
        let key = URL_SAFE.encode(address.recipient_key.to_spki());
        write!(f, "{}/{id}#/?", address.relay)?;
        let mut query = Query::default();
        query.push("v", self.versions.to_string());
        query.push("dh", key);
        match address.mode {
            Some(QueueMode::Messaging) => {
                query.push("q", "m");
                // Agents older than queue modes know a queue that its sender secures by this.
                if self.versions.min() < version::QUEUE {
                    query.push("k", "s");
                }
            }
            Some(QueueMode::Contact) => query.push("q", "c"),
            None => {}
        }
        f.write_str(&query.escaped())
    }
}

impl FromStr for QueueUri {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (place, query) = text.split_once("#/?").ok_or(Malformed::Text)?;
        let place = place.strip_suffix('/').unwrap_or(place);
        let (relay, id) = place.rsplit_once('/').ok_or(Malformed::Text)?;
        let relay: ServerAddress = relay.parse().map_err(|_| Malformed::Relay)?;
        let id = URL_SAFE_NO_PAD.decode(id).map_err(|_| Malformed::Text)?;
        let sender_id = SenderId::try_from(id.as_slice()).map_err(|_| Malformed::Text)?;
        let query = Query::parse_escaped(query)?;
        let versions: VersionRange = query.required("v")?.parse()?;
        let key = URL_SAFE
            .decode(query.required("dh")?)
            .map_err(|_| Malformed::Text)?;
        let recipient_key = x25519::PublicKey::from_spki(&key).map_err(|_| Malformed::Key)?;
        let mode = match (query.optional("q"), query.optional("k")) {
            (Some("m"), _) | (None, Some("s")) => Some(QueueMode::Messaging),
            (Some("c"), _) => Some(QueueMode::Contact),
            (None, _) => None,
            (Some(_), _) => return Err(Malformed::Text),
        };
        Ok(Self {
            versions,
            address: QueueAddress {
                relay,
                sender_id,
                recipient_key,
                mode,
            },
        })
    }
}

impl QueueInfo {
    /// The address of a queue of ours, in our version.
    #[must_use]
    pub fn new(address: QueueAddress) -> Self {
        Self {
            version: version::QUEUE,
            address,
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&self.version.to_be_bytes());
        put_relay(out, &self.address.relay)?;
        put_short(out, self.address.sender_id.as_bytes())?;
        put_fixed(out, &self.address.recipient_key.to_spki());
        out.extend(mode_letter(self.address.mode));
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = reader.u16()?;
        if version < version::QUEUE_MIN {
            return Err(Malformed::Version);
        }
        let relay = read_relay(reader)?;
        let sender_id = SenderId::try_from(reader.short()?).map_err(|_| Malformed::Long)?;
        let recipient_key = reader.x25519()?;
        // From version 4 on every address says its mode.
        let mode = match reader.u8()? {
            b'M' => Some(QueueMode::Messaging),
            b'C' => Some(QueueMode::Contact),
            _ => return Err(Malformed::Tag),
        };
        Ok(Self {
            version,
            address: QueueAddress {
                relay,
                sender_id,
                recipient_key,
                mode,
            },
        })
    }
}

fn mode_letter(mode: Option<QueueMode>) -> Option<u8> {
    mode.map(|mode| match mode {
        QueueMode::Messaging => b'M',
        QueueMode::Contact => b'C',
    })
}

/// Appends a relay's address: hosts, port as text, fingerprint.
pub(crate) fn put_relay(out: &mut Vec<u8>, relay: &ServerAddress) -> Result<(), Malformed> {
    out.push(u8::try_from(relay.hosts().len()).map_err(|_| Malformed::Long)?);
    for host in relay.hosts() {
        put_short(out, host.as_str().as_bytes())?;
    }
    put_short(out, relay.port().to_string().as_bytes())?;
    put_fixed(out, &relay.fingerprint().0);
    Ok(())
}

/// Reads a relay's address. An empty port is the default port.
pub(crate) fn read_relay(reader: &mut Reader<'_>) -> Result<ServerAddress, Malformed> {
    let count = reader.u8()?;
    let hosts = (0..count)
        .map(|_| {
            let text = core::str::from_utf8(reader.short()?).map_err(|_| Malformed::Relay)?;
            text.parse::<Host>().map_err(|_| Malformed::Relay)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let port = core::str::from_utf8(reader.short()?).map_err(|_| Malformed::Relay)?;
    let number = match port {
        "" => junto_smp::address::DEFAULT_PORT,
        _ => port.parse::<u16>().map_err(|_| Malformed::Relay)?,
    };
    if !port.is_empty() && number.to_string() != port {
        return Err(Malformed::Relay);
    }
    let pin = reader.short()?.try_into().map_err(|_| Malformed::Relay)?;
    ServerAddress::new(Fingerprint(pin), hosts, number).map_err(|_| Malformed::Relay)
}

impl QueueUri {
    /// The binary form. Agents older than queue modes read a flag in their place, and none for a contact queue.
    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&self.versions.min().to_be_bytes());
        out.extend_from_slice(&self.versions.max().to_be_bytes());
        QueueName::of(&self.address).put(out)?;
        put_fixed(out, &self.address.recipient_key.to_spki());
        if self.versions.min() >= version::QUEUE {
            out.extend(mode_letter(self.address.mode));
        } else if self.address.mode == Some(QueueMode::Messaging) {
            out.push(b'T');
        }
        Ok(())
    }

    /// Reads what [`QueueUri::put`] writes.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (min, max) = (reader.u16()?, reader.u16()?);
        let versions = VersionRange::new(min, max).ok_or(Malformed::Version)?;
        let name = QueueName::read(reader)?;
        let recipient_key = reader.x25519()?;
        let mode = match reader.peek() {
            Some(b'M') if min >= version::QUEUE => Some(QueueMode::Messaging),
            Some(b'C') if min >= version::QUEUE => Some(QueueMode::Contact),
            Some(b'T') if min < version::QUEUE => Some(QueueMode::Messaging),
            _ if min < version::QUEUE => None,
            _ => return Err(Malformed::Tag),
        };
        if mode.is_some() {
            reader.u8()?;
        }
        Ok(Self {
            versions,
            address: QueueAddress {
                relay: name.relay,
                sender_id: name.sender_id,
                recipient_key,
                mode,
            },
        })
    }
}

/// Relay and sender's id, which name a queue in later messages about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueName {
    /// The relay that holds the queue.
    pub relay: ServerAddress,
    /// The queue's name for senders.
    pub sender_id: SenderId,
}

impl QueueName {
    /// The name of the queue at this address.
    #[must_use]
    pub fn of(address: &QueueAddress) -> Self {
        Self {
            relay: address.relay.clone(),
            sender_id: address.sender_id,
        }
    }

    /// Whether it is that queue, wherever its relay is said to be.
    pub(super) fn names(&self, address: &QueueAddress) -> bool {
        self.relay.fingerprint() == address.relay.fingerprint()
            && self.sender_id == address.sender_id
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        put_relay(out, &self.relay)?;
        put_short(out, self.sender_id.as_bytes())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let relay = read_relay(reader)?;
        let sender_id = SenderId::try_from(reader.short()?).map_err(|_| Malformed::Long)?;
        Ok(Self { relay, sender_id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "smp://J4dwtvg-m6ixyNDdGvfrBASOxHFm_meYdPx3azOYPS8=@127.0.0.1:5223/S6bicl-y7RS7y7JGH7m9vIhR1TdPMe0-#/?v=1-4&dh=MCowBQYDK2VuAyEAgFWVe1dMBfaDbDderujcxpoJDLiPnnhSqRy3KdIVbC0%3D&q=m&k=s";

    #[test]
    fn text_form_is_the_genuine_one() {
        let queue: QueueUri = TEXT.parse().unwrap();
        assert_eq!(queue.to_string(), TEXT);
        assert_eq!(queue.address.mode, Some(QueueMode::Messaging));
        assert!(queue.negotiated().is_some());
    }

    #[test]
    fn the_binary_form_of_a_queue_with_versions_returns() {
        let mut queue: QueueUri = TEXT.parse().unwrap();
        let modes = [Some(QueueMode::Messaging), Some(QueueMode::Contact), None];
        for (min, last) in [(1, Some(b'T')), (4, Some(b'M'))] {
            queue.versions = VersionRange::new(min, 4).unwrap();
            for mode in modes {
                queue.address.mode = mode;
                let mut bytes = Vec::new();
                queue.put(&mut bytes).unwrap();
                let read = QueueUri::read(&mut Reader::new(&bytes));
                match (min, mode) {
                    (_, Some(QueueMode::Messaging)) => {
                        assert_eq!(bytes.last().copied(), last);
                        assert_eq!(read, Ok(queue.clone()));
                    }
                    (4, None) => assert!(read.is_err()),
                    (4, _) => assert_eq!(read, Ok(queue.clone())),
                    // A contact queue is told by the absence of the flag.
                    (_, _) => assert_eq!(read.unwrap().address.mode, None),
                }
            }
        }
    }

    #[test]
    fn binary_form_returns() {
        let queue: QueueUri = TEXT.parse().unwrap();
        let info = QueueInfo::new(queue.address);
        let mut bytes = Vec::new();
        info.put(&mut bytes).unwrap();
        assert_eq!(bytes.last(), Some(&b'M'));
        assert_eq!(QueueInfo::read(&mut Reader::new(&bytes)), Ok(info));
        for len in 0..bytes.len() {
            assert!(QueueInfo::read(&mut Reader::new(&bytes[..len])).is_err());
        }
    }

    proptest! {
        #[test]
        fn damaged_text_is_refused_or_returns(at in 0..TEXT.len(), byte in 0x20..0x7f_u8) {
            let mut text = TEXT.as_bytes().to_vec();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            if let Ok(queue) = text.parse::<QueueUri>() {
                prop_assert_eq!(queue.to_string().parse::<QueueUri>(), Ok(queue));
            }
        }
    }
}
