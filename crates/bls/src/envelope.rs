//! Signed messages: every message of a run carries its sender's Ed25519 signature over the run, the
//! round, sender, receiver and the payload's hash.

use junto_crypto::{
    ed25519::{Signature, SigningKey},
    hash::{sha256, sha256_of},
};
use zeroize::Zeroizing;

use crate::{
    encoding::{DecodeError, Reader, Writer},
    party::PartyIndex,
    setup::Setup,
};

/// Bytes of an Ed25519 signature.
pub(crate) const ED25519_BYTES: usize = 64;

/// Most bytes of one message of a run: 64 parties' echoes (6.2 kB) and a complaint with a signed
/// deal of 64 commitments (3.4 kB) both fit.
pub const WIRE_MAX_BYTES: usize = 8 * 1024;

/// The receiver field of a broadcast.
const EVERYONE: u8 = 0xff;

/// Which message of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Commitments, to all.
    Deal = 1,
    /// One share, to its holder.
    Share = 2,
    /// Echo and certificate signature or complaint, to all.
    Confirm = 3,
    /// A partial signature, to all.
    Sign = 4,
}

/// The place of a message in its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) round: Round,
    pub(crate) sender: PartyIndex,
    /// `None` for a broadcast.
    pub(crate) receiver: Option<PartyIndex>,
}

impl Slot {
    pub(crate) fn broadcast(round: Round, sender: PartyIndex) -> Self {
        Self {
            round,
            sender,
            receiver: None,
        }
    }

    fn bytes(self) -> [u8; 3] {
        let receiver = self.receiver.map_or(EVERYONE, PartyIndex::value);
        [self.round as u8, self.sender.value(), receiver]
    }

    fn text(self, setup: &Setup, digest: &[u8; 32]) -> [u8; 32] {
        sha256_of(&[
            b"junto-bls/1 message",
            setup.digest(),
            &self.bytes(),
            digest,
        ])
    }

    pub(crate) fn write(self, writer: Writer) -> Writer {
        writer.fixed(&self.bytes())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let round = match reader.u8()? {
            1 => Round::Deal,
            2 => Round::Share,
            3 => Round::Confirm,
            4 => Round::Sign,
            _ => return Err(DecodeError),
        };
        let sender = PartyIndex::new(reader.u8()?).ok_or(DecodeError)?;
        let receiver = match reader.u8()? {
            EVERYONE => None,
            party => Some(PartyIndex::new(party).ok_or(DecodeError)?),
        };
        // Only shares have one receiver.
        if (round == Round::Share) != receiver.is_some() {
            return Err(DecodeError);
        }
        Ok(Self {
            round,
            sender,
            receiver,
        })
    }
}

/// The hash of a payload and the sender's signature: enough to prove who said it, without saying
/// what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) digest: [u8; 32],
    pub(crate) signature: Signature,
}

impl Seal {
    pub(crate) fn verify(&self, setup: &Setup, slot: Slot) -> bool {
        setup.key_of(slot.sender).is_some_and(|key| {
            key.verify(&slot.text(setup, &self.digest), &self.signature)
                .is_ok()
        })
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        writer.fixed(&self.digest).fixed(self.signature.as_bytes())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            digest: reader.array()?,
            signature: Signature(reader.array()?),
        })
    }
}

/// A message whose signature verified. Only [`Signed::seal`], [`Signed::open`] and
/// [`Signed::read`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    slot: Slot,
    /// Wiped when dropped: it may be a share.
    payload: Zeroizing<Vec<u8>>,
    seal: Seal,
}

impl Signed {
    pub(crate) fn seal(setup: &Setup, signer: &SigningKey, slot: Slot, payload: Vec<u8>) -> Self {
        let payload = Zeroizing::new(payload);
        let digest = sha256(&payload);
        let signature = signer.sign(&slot.text(setup, &digest));
        Self {
            slot,
            payload,
            seal: Seal { digest, signature },
        }
    }

    /// On the wire: the payload, then the signature.
    pub(crate) fn wire(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([self.payload.as_slice(), self.seal.signature.as_bytes()].concat())
    }

    /// `None` unless the sender of `slot` signed exactly this for exactly this place.
    pub(crate) fn open(setup: &Setup, slot: Slot, wire: &[u8]) -> Option<Self> {
        if wire.len() > WIRE_MAX_BYTES {
            return None;
        }
        let (payload, signature) = wire.split_at_checked(wire.len().checked_sub(ED25519_BYTES)?)?;
        let signature = Signature(signature.try_into().ok()?);
        let seal = Seal {
            digest: sha256(payload),
            signature,
        };
        seal.verify(setup, slot).then(|| Self {
            slot,
            payload: Zeroizing::new(payload.to_vec()),
            seal,
        })
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    pub(crate) fn sender(&self) -> PartyIndex {
        self.slot.sender
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    pub(crate) fn seal_of(&self) -> Seal {
        self.seal
    }

    pub(crate) fn write(&self, writer: Writer) -> Writer {
        self.slot.write(writer).variable(&self.wire())
    }

    /// Reads [`Signed::write`]; a signature that does not verify is no encoding.
    pub(crate) fn read(reader: &mut Reader<'_>, setup: &Setup) -> Result<Self, DecodeError> {
        let slot = Slot::read(reader)?;
        Self::open(setup, slot, reader.variable(WIRE_MAX_BYTES)?).ok_or(DecodeError)
    }
}
