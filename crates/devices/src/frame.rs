//! The words between devices, and between a device and a contact's: each frame is the body of one agent message.
//!
//! The layout is in `docs/spec/devices.md` §2. Every value has one encoding.

use crate::id::{ContactId, DeviceId, MessageName, Token};

/// How every frame begins. Text does not begin with a zero byte, and SimpleX's messages are JSON.
const MAGIC: [u8; 14] = *b"\0junto device\0";
/// The version of this format.
const VERSION: u8 = 1;
/// Longest name of a device or contact, in bytes.
pub const NAME_MAX: usize = 64;
/// Longest link, in bytes.
pub const LINK_MAX: usize = 8192;
/// Most devices that a revocation vouches for.
pub const KEPT_MAX: usize = 8;
/// Bytes that a message to several devices has beside its text, at most.
pub const BODY_OVERHEAD: usize = MAGIC.len() + 2 + 16 + 32;

/// What a device is to be introduced to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// A contact, by its name on the introducing device.
    Contact {
        /// The contact.
        contact: ContactId,
        /// Its device, if that is known.
        peer: Option<DeviceId>,
        /// What the introducing device calls it.
        name: String,
    },
    /// Another device of the same profile.
    Own {
        /// The device.
        device: DeviceId,
        /// Its name.
        name: String,
    },
}

/// A message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Linking, first device: I am this one, and have chosen a nonce of which this is the hash.
    Commit {
        /// The device.
        device: DeviceId,
        /// Its name.
        name: String,
        /// Hash of the nonce with all that it is for.
        commitment: [u8; 32],
    },
    /// Linking, new device: I am this one, and this is my nonce.
    Nonce {
        /// The device.
        device: DeviceId,
        /// Its name.
        name: String,
        /// 32 random bytes.
        nonce: [u8; 32],
    },
    /// Linking, first device: this was mine.
    Reveal {
        /// 32 random bytes.
        nonce: [u8; 32],
    },
    /// Linking: my user has seen your code, and it is mine.
    Confirm,
    /// Linking: it comes to nothing.
    Cancel,
    /// Own device: make an invitation for this one.
    Make {
        /// Names the introduction.
        token: Token,
        /// For whom.
        whom: Whom,
    },
    /// Own device: here is the invitation.
    Made {
        /// The introduction.
        token: Token,
        /// The invitation.
        link: String,
    },
    /// Own device: I have asked for all invitations that I know of.
    All,
    /// To a contact or an own device: the device that says this is `from`, and `device` is another one of its profile.
    Here {
        /// Who says it.
        from: DeviceId,
        /// The other device.
        device: DeviceId,
        /// Its name; empty for contacts.
        name: String,
        /// The introduction.
        token: Token,
        /// How to connect to it.
        link: String,
    },
    /// New device, first words on a connection: I am the one of this introduction.
    Hello {
        /// The introduction.
        token: Token,
    },
    /// This device is none of the profile any more. Those in `kept` are.
    Gone {
        /// The device.
        device: DeviceId,
        /// Devices that the speaker vouches for, whoever has introduced them.
        kept: Vec<DeviceId>,
    },
    /// To a contact: send to this device only, or (none) to all.
    Prefer {
        /// The device.
        device: Option<DeviceId>,
    },
    /// A message that goes to several devices.
    Text {
        /// Its name, the same in all copies.
        message: MessageName,
        /// It.
        body: Vec<u8>,
    },
    /// Own device: this was sent to that contact.
    Sent {
        /// Its name.
        message: MessageName,
        /// To whom.
        contact: ContactId,
        /// It.
        body: Vec<u8>,
    },
}

/// What is no frame that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as a frame does: an ordinary message.
    #[error("not about devices")]
    Foreign,
    /// A version or kind that we do not know.
    #[error("a kind of frame that this version does not know")]
    Unknown,
    /// It begins as a frame and is none.
    #[error("a malformed frame")]
    Malformed,
}

/// Whether the body of a message begins as a frame does.
#[must_use]
pub fn is_device_frame(body: &[u8]) -> bool {
    body.starts_with(&MAGIC)
}

const COMMIT: u8 = 1;
const NONCE: u8 = 2;
const REVEAL: u8 = 3;
const CONFIRM: u8 = 4;
const CANCEL: u8 = 5;
const MAKE: u8 = 6;
const MADE: u8 = 7;
const ALL: u8 = 8;
const HERE: u8 = 9;
const HELLO: u8 = 10;
const GONE: u8 = 11;
const PREFER: u8 = 12;
const TEXT: u8 = 13;
const SENT: u8 = 14;

/// What stands for "no device".
const NOBODY: [u8; 16] = [0; 16];

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Commit { .. } => COMMIT,
            Self::Nonce { .. } => NONCE,
            Self::Reveal { .. } => REVEAL,
            Self::Confirm => CONFIRM,
            Self::Cancel => CANCEL,
            Self::Make { .. } => MAKE,
            Self::Made { .. } => MADE,
            Self::All => ALL,
            Self::Here { .. } => HERE,
            Self::Hello { .. } => HELLO,
            Self::Gone { .. } => GONE,
            Self::Prefer { .. } => PREFER,
            Self::Text { .. } => TEXT,
            Self::Sent { .. } => SENT,
        }
    }

    /// The body of the message. Names and links of ours fit their bounds; what is beyond is cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out.push(self.kind());
        match self {
            Self::Commit {
                device,
                name,
                commitment: bytes,
            }
            | Self::Nonce {
                device,
                name,
                nonce: bytes,
            } => {
                out.extend_from_slice(&device.0);
                out.extend_from_slice(bytes);
                out.extend_from_slice(fitting(name).as_bytes());
            }
            Self::Reveal { nonce } => out.extend_from_slice(nonce),
            Self::Confirm | Self::Cancel | Self::All => {}
            Self::Make { token, whom } => {
                out.extend_from_slice(&token.0);
                let name = match whom {
                    Whom::Contact {
                        contact,
                        peer,
                        name,
                    } => {
                        out.push(0);
                        out.extend_from_slice(&contact.0);
                        out.extend_from_slice(&peer.map_or(NOBODY, |peer| peer.0));
                        name
                    }
                    Whom::Own { device, name } => {
                        out.push(1);
                        out.extend_from_slice(&device.0);
                        name
                    }
                };
                out.extend_from_slice(fitting(name).as_bytes());
            }
            Self::Made { token, link } => {
                out.extend_from_slice(&token.0);
                out.extend_from_slice(link.as_bytes());
            }
            Self::Here {
                from,
                device,
                name,
                token,
                link,
            } => {
                for id in [from.0, device.0, token.0] {
                    out.extend_from_slice(&id);
                }
                let name = fitting(name);
                out.push(name.len() as u8);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(link.as_bytes());
            }
            Self::Hello { token } => out.extend_from_slice(&token.0),
            Self::Gone { device, kept } => {
                out.extend_from_slice(&device.0);
                for id in kept.iter().take(KEPT_MAX) {
                    out.extend_from_slice(&id.0);
                }
            }
            Self::Prefer { device } => {
                out.extend_from_slice(&device.map_or(NOBODY, |device| device.0));
            }
            Self::Text { message, body } => {
                out.extend_from_slice(&message.0);
                out.extend_from_slice(body);
            }
            Self::Sent {
                message,
                contact,
                body,
            } => {
                out.extend_from_slice(&message.0);
                out.extend_from_slice(&contact.0);
                out.extend_from_slice(body);
            }
        }
        out
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let rest = body.strip_prefix(&MAGIC).ok_or(FrameError::Foreign)?;
        let (&[version, kind], rest) = rest.split_first_chunk().ok_or(FrameError::Malformed)?;
        if version != VERSION || !(COMMIT..=SENT).contains(&kind) {
            return Err(FrameError::Unknown);
        }
        read(kind, rest).ok_or(FrameError::Malformed)
    }
}

/// As much of a name as fits.
fn fitting(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_MAX)]
}

fn read(kind: u8, rest: &[u8]) -> Option<Frame> {
    Some(match kind {
        COMMIT | NONCE => {
            let (device, rest) = read_device(rest)?;
            let (&bytes, rest) = rest.split_first_chunk()?;
            let name = read_name(rest)?;
            match kind {
                COMMIT => Frame::Commit {
                    device,
                    name,
                    commitment: bytes,
                },
                _ => Frame::Nonce {
                    device,
                    name,
                    nonce: bytes,
                },
            }
        }
        REVEAL => Frame::Reveal {
            nonce: rest.try_into().ok()?,
        },
        CONFIRM if rest.is_empty() => Frame::Confirm,
        CANCEL if rest.is_empty() => Frame::Cancel,
        ALL if rest.is_empty() => Frame::All,
        MAKE => {
            let (&token, rest) = rest.split_first_chunk()?;
            let token = Token(token);
            let whom = read_whom(rest)?;
            Frame::Make { token, whom }
        }
        MADE => {
            let (&token, rest) = rest.split_first_chunk()?;
            let token = Token(token);
            let link = read_link(rest)?;
            Frame::Made { token, link }
        }
        HERE => {
            let (from, rest) = read_device(rest)?;
            let (device, rest) = read_device(rest)?;
            let (&token, rest) = rest.split_first_chunk()?;
            let (&length, rest) = rest.split_first()?;
            let (name, link) = rest.split_at_checked(length.into())?;
            Frame::Here {
                from,
                device,
                name: read_name(name)?,
                token: Token(token),
                link: read_link(link)?,
            }
        }
        HELLO => Frame::Hello {
            token: Token(rest.try_into().ok()?),
        },
        GONE => {
            let (device, rest) = read_device(rest)?;
            let (ids, left) = rest.as_chunks::<16>();
            if !left.is_empty() || ids.len() > KEPT_MAX || ids.contains(&NOBODY) {
                return None;
            }
            let kept = ids.iter().copied().map(DeviceId).collect();
            Frame::Gone { device, kept }
        }
        PREFER => {
            let id: [u8; 16] = rest.try_into().ok()?;
            Frame::Prefer {
                device: (id != NOBODY).then_some(DeviceId(id)),
            }
        }
        TEXT => {
            let (&message, body) = rest.split_first_chunk()?;
            Frame::Text {
                message: MessageName(message),
                body: body.to_vec(),
            }
        }
        SENT => {
            let (&message, rest) = rest.split_first_chunk()?;
            let (&contact, body) = rest.split_first_chunk()?;
            Frame::Sent {
                message: MessageName(message),
                contact: ContactId(contact),
                body: body.to_vec(),
            }
        }
        _ => return None,
    })
}

fn read_device(rest: &[u8]) -> Option<(DeviceId, &[u8])> {
    let (&id, rest) = rest.split_first_chunk()?;
    (id != NOBODY).then_some((DeviceId(id), rest))
}

fn read_name(bytes: &[u8]) -> Option<String> {
    let name = core::str::from_utf8(bytes).ok()?;
    (name.len() <= NAME_MAX).then(|| name.to_owned())
}

/// A link is read by whoever follows it; here it is printable ASCII.
fn read_link(bytes: &[u8]) -> Option<String> {
    let fits = !bytes.is_empty() && bytes.len() <= LINK_MAX;
    let link = core::str::from_utf8(bytes).ok()?;
    (fits && bytes.iter().all(u8::is_ascii_graphic)).then(|| link.to_owned())
}

fn read_whom(rest: &[u8]) -> Option<Whom> {
    let (&kind, rest) = rest.split_first()?;
    Some(match kind {
        0 => {
            let (&contact, rest) = rest.split_first_chunk()?;
            let (&peer, name) = rest.split_first_chunk()?;
            Whom::Contact {
                contact: ContactId(contact),
                peer: (peer != NOBODY).then_some(DeviceId(peer)),
                name: read_name(name)?,
            }
        }
        1 => {
            let (device, name) = read_device(rest)?;
            Whom::Own {
                device,
                name: read_name(name)?,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: DeviceId = DeviceId([1; 16]);
    const B: DeviceId = DeviceId([2; 16]);

    fn all() -> Vec<Frame> {
        let (token, name) = (Token([3; 16]), "laptop".to_owned());
        let link = "simplex:/invitation#/?x".to_owned();
        let (contact, message) = (ContactId([4; 32]), MessageName([5; 16]));
        let whom = |peer| Whom::Contact {
            contact,
            peer,
            name: name.clone(),
        };
        vec![
            Frame::Commit {
                device: A,
                name: name.clone(),
                commitment: [6; 32],
            },
            Frame::Nonce {
                device: B,
                name: String::new(),
                nonce: [7; 32],
            },
            Frame::Reveal { nonce: [8; 32] },
            Frame::Confirm,
            Frame::Cancel,
            Frame::All,
            Frame::Make {
                token,
                whom: whom(None),
            },
            Frame::Make {
                token,
                whom: whom(Some(A)),
            },
            Frame::Make {
                token,
                whom: Whom::Own {
                    device: A,
                    name: name.clone(),
                },
            },
            Frame::Made {
                token,
                link: link.clone(),
            },
            Frame::Here {
                from: A,
                device: B,
                name,
                token,
                link,
            },
            Frame::Hello { token },
            Frame::Gone {
                device: A,
                kept: vec![B],
            },
            Frame::Prefer { device: None },
            Frame::Prefer { device: Some(A) },
            Frame::Text {
                message,
                body: b"hello".to_vec(),
            },
            Frame::Sent {
                message,
                contact,
                body: Vec::new(),
            },
        ]
    }

    #[test]
    fn every_frame_comes_back_and_every_cut_is_refused_or_another_frame() {
        for frame in all() {
            let bytes = frame.encode();
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            for cut in 0..bytes.len() {
                if let Ok(other) = Frame::decode(&bytes[..cut]) {
                    assert_eq!(other.encode(), &bytes[..cut]);
                }
            }
        }
    }

    #[test]
    fn the_layout_is_that_of_the_specification() {
        let gone = Frame::Gone {
            device: A,
            kept: vec![B],
        };
        let expected = [b"\0junto device\0\x01\x0b", &A.0[..], &B.0].concat();
        assert_eq!(gone.encode(), expected);
        let text = Frame::Text {
            message: MessageName([9; 16]),
            body: b"x".to_vec(),
        };
        let expected = [b"\0junto device\0\x01\x0d", &[9; 16][..], b"x"].concat();
        assert_eq!(text.encode(), expected);
    }

    #[test]
    fn what_is_too_long_too_many_or_nobody_is_refused() {
        let head = |kind: u8, rest: &[u8]| {
            let bytes = [&MAGIC[..], &[VERSION, kind], rest].concat();
            Frame::decode(&bytes)
        };
        let malformed = Err(FrameError::Malformed);
        let long = [&[1; 48][..], &[b'n'; NAME_MAX + 1]].concat();
        assert_eq!(head(COMMIT, &long), malformed);
        assert_eq!(head(COMMIT, &[0; 48]), malformed);
        assert_eq!(head(GONE, &[1; 16 * (KEPT_MAX + 2)]), malformed);
        assert_eq!(head(GONE, &[1; 33]), malformed);
        assert_eq!(head(MADE, &[1; 16]), malformed);
        assert_eq!(head(MADE, &[b'l'; 16 + LINK_MAX + 1]), malformed);
        assert_eq!(head(MADE, &[&[1; 16][..], b"a b"].concat()), malformed);
        assert_eq!(head(CONFIRM, b"!"), malformed);
        assert_eq!(head(0, b""), Err(FrameError::Unknown));
        assert_eq!(head(SENT + 1, b""), Err(FrameError::Unknown));
        assert_eq!(Frame::decode(b"hello"), Err(FrameError::Foreign));
        assert_eq!(Frame::decode(&MAGIC), malformed);
    }

    #[test]
    fn a_name_of_ours_is_cut_to_what_others_take() {
        let name = "é".repeat(NAME_MAX);
        let frame = Frame::Nonce {
            device: A,
            name,
            nonce: [0; 32],
        };
        let read = Frame::decode(&frame.encode()).unwrap();
        assert!(matches!(read, Frame::Nonce { name, .. } if name == "é".repeat(NAME_MAX / 2)));
    }

    proptest! {
        #[test]
        fn whatever_is_read_has_one_encoding(kind in 0..=SENT, rest: Vec<u8>) {
            let bytes = [&MAGIC[..], &[VERSION, kind], &rest].concat();
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
