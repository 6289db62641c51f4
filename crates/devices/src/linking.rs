//! How two devices come to know that they talk with each other: a code that both show, and that their user compares.
//!
//! The first device commits to a nonce before it sees the other's, so whoever sits between them has one guess at a
//! code of six digits, and cannot look for keys that fit. The code covers the channel: the hash of its keys.

use core::fmt;

use junto_crypto::hash::sha256;

use crate::frame::Frame;
use crate::id::DeviceId;

/// Which of the two a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It showed the link, and is to become a device of the profile.
    Newcomer,
    /// It is one, and opened the link.
    Host,
}

/// A device, as it calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The device.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
}

/// Six digits, the same on both devices if nobody is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(u32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}-{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl Code {
    /// Whether somebody has typed it, with or without what is between the digits.
    #[must_use]
    pub fn is_typed(self, text: &str) -> bool {
        let mut typed = text.trim().chars().filter(|c| !matches!(c, '-' | ' '));
        let digits = format!("{:06}", self.0);
        digits.chars().all(|digit| typed.next() == Some(digit)) && typed.next().is_none()
    }
}

/// Why a linking ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The other side says so: its user saw another code, or gave up.
    #[error("the other device has given up: its user saw another code, or waited too long")]
    Cancelled,
    /// It said something that does not belong here, or revealed another nonce than it had committed to.
    #[error("the other device does not keep to the protocol")]
    Broken,
}

enum Stage {
    /// Newcomer: for the commitment.
    AwaitCommit,
    /// Host: for the newcomer's nonce.
    AwaitNonce,
    /// Newcomer: for what was committed to.
    AwaitReveal { peer: Party, commitment: [u8; 32] },
    /// Both show the code.
    Agreed {
        peer: Party,
        code: Code,
        confirmed: bool,
    },
    /// It came to nothing.
    Over,
}

/// One linking, on one side. It is for one attempt.
pub struct Linking {
    side: Side,
    me: Party,
    nonce: [u8; 32],
    binding: [u8; 32],
    stage: Stage,
}

impl Linking {
    /// Begins on a connection whose keys have this hash, and gives what is said first. `nonce` is fresh.
    #[must_use]
    pub fn begin(
        side: Side,
        me: Party,
        nonce: [u8; 32],
        binding: [u8; 32],
    ) -> (Self, Option<Frame>) {
        let (stage, says) = match side {
            Side::Newcomer => (Stage::AwaitCommit, None),
            Side::Host => {
                let says = Frame::Commit {
                    device: me.id,
                    name: me.name.clone(),
                    commitment: commitment(&binding, &me, &nonce),
                };
                (Stage::AwaitNonce, Some(says))
            }
        };
        let linking = Self {
            side,
            me,
            nonce,
            binding,
            stage,
        };
        (linking, says)
    }

    /// Hears the other side, and gives what is answered.
    ///
    /// # Errors
    /// [`Fault`]: it is over then.
    pub fn hear(&mut self, frame: &Frame) -> Result<Option<Frame>, Fault> {
        let stage = core::mem::replace(&mut self.stage, Stage::Over);
        let (stage, says) = match (stage, frame) {
            (Stage::Over, _) | (_, Frame::Cancel) => return Err(Fault::Cancelled),
            (
                Stage::AwaitCommit,
                Frame::Commit {
                    device,
                    name,
                    commitment,
                },
            ) if *device != self.me.id => {
                let peer = Party {
                    id: *device,
                    name: name.clone(),
                };
                let says = Frame::Nonce {
                    device: self.me.id,
                    name: self.me.name.clone(),
                    nonce: self.nonce,
                };
                let commitment = *commitment;
                (Stage::AwaitReveal { peer, commitment }, Some(says))
            }
            (
                Stage::AwaitNonce,
                Frame::Nonce {
                    device,
                    name,
                    nonce,
                },
            ) if *device != self.me.id => {
                let peer = Party {
                    id: *device,
                    name: name.clone(),
                };
                let says = Frame::Reveal { nonce: self.nonce };
                (self.agreed(peer, nonce), Some(says))
            }
            (
                Stage::AwaitReveal {
                    peer,
                    commitment: promised,
                },
                Frame::Reveal { nonce },
            ) if commitment(&self.binding, &peer, nonce) == promised => {
                (self.agreed(peer, nonce), None)
            }
            (
                Stage::Agreed {
                    peer,
                    code,
                    confirmed: false,
                },
                Frame::Confirm,
            ) => {
                let confirmed = true;
                let stage = Stage::Agreed {
                    peer,
                    code,
                    confirmed,
                };
                (stage, None)
            }
            _ => return Err(Fault::Broken),
        };
        self.stage = stage;
        Ok(says)
    }

    /// The code and the other device, once both nonces are known.
    #[must_use]
    pub fn agreed_on(&self) -> Option<(Code, &Party)> {
        match &self.stage {
            Stage::Agreed { code, peer, .. } => Some((*code, peer)),
            _ => None,
        }
    }

    /// Whether the other device's user has confirmed.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        let confirmed = true;
        matches!(&self.stage, Stage::Agreed { confirmed: it, .. } if *it == confirmed)
    }

    fn agreed(&self, peer: Party, theirs: &[u8; 32]) -> Stage {
        let (host, newcomer) = match self.side {
            Side::Host => ((&self.me, &self.nonce), (&peer, theirs)),
            Side::Newcomer => ((&peer, theirs), (&self.me, &self.nonce)),
        };
        let mut input = b"junto device code 1".to_vec();
        input.extend_from_slice(&self.binding);
        for (party, nonce) in [host, newcomer] {
            add(&mut input, party, nonce);
        }
        let hash = sha256(&input);
        let number = hash[..8]
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Stage::Agreed {
            peer,
            code: Code((number % 1_000_000) as u32),
            confirmed: false,
        }
    }
}

fn commitment(binding: &[u8; 32], party: &Party, nonce: &[u8; 32]) -> [u8; 32] {
    let mut input = b"junto device commitment 1".to_vec();
    input.extend_from_slice(binding);
    add(&mut input, party, nonce);
    sha256(&input)
}

fn add(input: &mut Vec<u8>, party: &Party, nonce: &[u8; 32]) {
    input.extend_from_slice(&party.id.0);
    input.extend_from_slice(&(party.name.len() as u64).to_be_bytes());
    input.extend_from_slice(party.name.as_bytes());
    input.extend_from_slice(nonce);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(number: u8) -> Party {
        Party {
            id: DeviceId([number; 16]),
            name: format!("device {number}"),
        }
    }

    fn pair(host: [u8; 32], newcomer: [u8; 32]) -> (Linking, Linking, Frame) {
        let (host, commit) = Linking::begin(Side::Host, party(1), [1; 32], host);
        let (newcomer, nothing) = Linking::begin(Side::Newcomer, party(2), [2; 32], newcomer);
        assert!(nothing.is_none());
        (host, newcomer, commit.unwrap())
    }

    #[test]
    fn both_show_the_same_code_and_know_each_other() {
        let (mut host, mut newcomer, commit) = pair([9; 32], [9; 32]);
        let nonce = newcomer.hear(&commit).unwrap().unwrap();
        let reveal = host.hear(&nonce).unwrap().unwrap();
        assert!(newcomer.agreed_on().is_none());
        assert_eq!(newcomer.hear(&reveal), Ok(None));
        let (code, peer) = host.agreed_on().unwrap();
        assert_eq!(newcomer.agreed_on(), Some((code, &party(1))));
        assert_eq!(peer, &party(2));
        assert!(!host.is_confirmed());
        assert_eq!(host.hear(&Frame::Confirm), Ok(None));
        assert!(host.is_confirmed() && !newcomer.is_confirmed());
        // Once is enough.
        assert_eq!(host.hear(&Frame::Confirm), Err(Fault::Broken));
    }

    #[test]
    fn somebody_in_the_middle_makes_the_codes_differ() {
        // It passes every word on; the two channels have other keys.
        let (mut host, mut newcomer, _) = pair([9; 32], [8; 32]);
        let relayed = Frame::Commit {
            device: party(1).id,
            name: party(1).name,
            commitment: commitment(&[8; 32], &party(1), &[5; 32]),
        };
        let nonce = newcomer.hear(&relayed).unwrap().unwrap();
        host.hear(&nonce).unwrap();
        newcomer.hear(&Frame::Reveal { nonce: [5; 32] }).unwrap();
        let (one, other) = (host.agreed_on().unwrap().0, newcomer.agreed_on().unwrap().0);
        assert_ne!(one, other);
        assert!(!one.is_typed(&other.to_string()));
    }

    #[test]
    fn a_nonce_cannot_be_chosen_after_the_other_is_known() {
        let (mut host, mut newcomer, commit) = pair([9; 32], [9; 32]);
        let nonce = newcomer.hear(&commit).unwrap().unwrap();
        host.hear(&nonce).unwrap();
        let other = Frame::Reveal { nonce: [77; 32] };
        assert_eq!(newcomer.hear(&other), Err(Fault::Broken));
        assert!(newcomer.agreed_on().is_none());
        // It is over: the right one does not help any more.
        let right = Frame::Reveal { nonce: [1; 32] };
        assert_eq!(newcomer.hear(&right), Err(Fault::Cancelled));
    }

    #[test]
    fn a_word_out_of_place_ends_it() {
        let words = [
            Frame::Confirm,
            Frame::Reveal { nonce: [1; 32] },
            Frame::All,
            Frame::Nonce {
                device: party(2).id,
                name: String::new(),
                nonce: [1; 32],
            },
        ];
        for word in words {
            let (_, mut newcomer, _) = pair([9; 32], [9; 32]);
            assert_eq!(newcomer.hear(&word), Err(Fault::Broken), "{word:?}");
            assert!(!newcomer.is_confirmed());
        }
        let (mut host, mut newcomer, commit) = pair([9; 32], [9; 32]);
        assert_eq!(host.hear(&commit), Err(Fault::Broken));
        assert_eq!(newcomer.hear(&Frame::Cancel), Err(Fault::Cancelled));
        // Somebody who claims to be we.
        let (mut newcomer, _) = Linking::begin(Side::Newcomer, party(1), [2; 32], [9; 32]);
        assert_eq!(newcomer.hear(&commit), Err(Fault::Broken));
    }

    #[test]
    fn codes_are_typed_as_people_do() {
        let code = Code(1_234);
        assert_eq!(code.to_string(), "001-234");
        for typed in ["001-234", "001234", " 001 234\n"] {
            assert!(code.is_typed(typed), "{typed}");
        }
        for typed in ["", "1234", "001-235", "0012345", "yes"] {
            assert!(!code.is_typed(typed), "{typed}");
        }
    }
}
