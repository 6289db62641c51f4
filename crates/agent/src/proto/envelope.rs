//! The envelope inside the per-queue layer: agent version, a letter, and what the letter says.

use junto_ratchet::{Params, RatchetError};

use super::link::InvitationLink;
use super::version;
use super::wire::{Malformed, Reader, put_large};

/// What one queue message carries, below the ratchet.
#[derive(Debug, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// `C`: a confirmation of the handshake. The joiner's brings its keys for the key agreement,
    /// the maker's does not.
    Confirmation {
        /// The joiner's keys.
        offer: Option<Box<Params>>,
        /// A ratchet message with the connection information.
        ratcheted: &'a [u8],
    },
    /// `M`: a ratchet message.
    Message {
        /// The ratchet message.
        ratcheted: &'a [u8],
    },
    /// `N`: a ratchet message, and its number: on one of several queues, where a copy may come long after the
    /// message, when the ratchet cannot tell any more that it is one. Ours; SimpleX's agents have no such letter.
    Numbered {
        /// The sender's count, as inside the ratchet message.
        number: u64,
        /// The ratchet message.
        ratcheted: &'a [u8],
    },
    /// `I`: a request to a contact address, encrypted by the per-queue layer only.
    Invitation {
        /// Where the owner can join.
        link: Box<InvitationLink>,
        /// What the requester says about itself.
        info: &'a [u8],
    },
    /// `R`: fresh keys, to agree anew after a broken ratchet.
    RatchetKey {
        /// The sender's fresh keys.
        offer: Box<Params>,
        /// Reserved.
        info: &'a [u8],
    },
}

impl<'a> Envelope<'a> {
    /// Appends the encoding.
    ///
    /// # Errors
    /// [`Malformed::Long`] if the link is longer than its length field can say.
    pub fn put(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        out.extend_from_slice(&version::AGENT.to_be_bytes());
        match self {
            Self::Confirmation { offer, ratcheted } => {
                out.push(b'C');
                match offer {
                    None => out.push(b'0'),
                    Some(offer) => {
                        out.push(b'1');
                        out.extend_from_slice(&offer.encode());
                    }
                }
                out.extend_from_slice(ratcheted);
            }
            Self::Message { ratcheted } => {
                out.push(b'M');
                out.extend_from_slice(ratcheted);
            }
            Self::Numbered { number, ratcheted } => {
                out.push(b'N');
                out.extend_from_slice(&number.to_be_bytes());
                out.extend_from_slice(ratcheted);
            }
            Self::Invitation { link, info } => {
                out.push(b'I');
                put_large(out, link.to_string().as_bytes())?;
                out.extend_from_slice(info);
            }
            Self::RatchetKey { offer, info } => {
                out.push(b'R');
                out.extend_from_slice(&offer.encode());
                out.extend_from_slice(info);
            }
        }
        Ok(())
    }

    /// Reads an envelope; the version may be any that a peer of version 7 or later sends.
    ///
    /// # Errors
    /// [`Malformed`] if it is not one.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u16()? < version::AGENT_MIN {
            return Err(Malformed::Version);
        }
        match reader.u8()? {
            b'C' => match reader.u8()? {
                b'0' => Ok(Self::Confirmation {
                    offer: None,
                    ratcheted: reader.tail(),
                }),
                b'1' => {
                    let (offer, ratcheted) = read_params(reader.tail())?;
                    Ok(Self::Confirmation {
                        offer: Some(offer),
                        ratcheted,
                    })
                }
                _ => Err(Malformed::Tag),
            },
            b'M' => Ok(Self::Message {
                ratcheted: reader.tail(),
            }),
            b'N' => Ok(Self::Numbered {
                number: reader.u64()?,
                ratcheted: reader.tail(),
            }),
            b'I' => {
                let text = core::str::from_utf8(reader.large()?).map_err(|_| Malformed::Text)?;
                let link = text
                    .parse::<InvitationLink>()
                    .map_err(|_| Malformed::Text)?;
                Ok(Self::Invitation {
                    link: Box::new(link),
                    info: reader.tail(),
                })
            }
            b'R' => {
                let (offer, info) = read_params(reader.tail())?;
                Ok(Self::RatchetKey { offer, info })
            }
            _ => Err(Malformed::Tag),
        }
    }
}

fn read_params(bytes: &[u8]) -> Result<(Box<Params>, &[u8]), Malformed> {
    match Params::decode_front(bytes) {
        Ok((params, rest)) => Ok((Box::new(params), rest)),
        Err(RatchetError::Version) => Err(Malformed::Version),
        Err(_) => Err(Malformed::Key),
    }
}
