//! The stored form of a ratchet, without the keys of late messages.
//!
//! ```text
//! 1 · version(2) · max version(2) · flags(1) · pace(1) · AD(112) · own secret(56) · own public(56)
//!   · root(32) · next header send(32) · next header receive(32) · previous(4) · epoch(4)
//!   · [sending: chain(32) header(32) count(4)] · [receiving: the same]
//!   · [KEM: secret key(1763) · [accepted: ciphertext(1039) secret(32)]]
//! ```

use junto_crypto::{kem, x448};
use zeroize::Zeroizing;

use crate::{
    Ratchet, RatchetError, SkippedKey, Version,
    chain::{ChainKey, HeaderKey, RootKey},
    ratchet::{Chain, OwnKey},
    skipped::Skipped,
    step::{OwnKem, Pace},
    wire::Reader,
};

/// First byte of the stored form.
const STORED_VERSION: u8 = 1;
/// Bytes that fit every state without and with key encapsulation, so that writing never reallocates
/// (which would leave copies behind).
const STATE_BYTES: usize = 512;
const STATE_PQ_BYTES: usize = 3_584;

const SENDING: u8 = 1;
const RECEIVING: u8 = 1 << 1;
const LARGE_HEADER: u8 = 1 << 2;
const PQ_SENDING: u8 = 1 << 3;
const PQ_RECEIVING: u8 = 1 << 4;
const KEM: u8 = 1 << 5;
const KEM_ACCEPTED: u8 = 1 << 6;
const HYBRID: u8 = 1 << 7;

impl Ratchet {
    /// The bytes to seal and store after every change: about 500, with key encapsulation 3,300.
    /// The keys of late messages are stored apart, by [`crate::SkippedDelta`].
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let capacity = if self.kem.is_some() {
            STATE_PQ_BYTES
        } else {
            STATE_BYTES
        };
        let mut out = Zeroizing::new(Vec::with_capacity(capacity));
        out.push(STORED_VERSION);
        out.extend_from_slice(&self.version.number().to_be_bytes());
        out.extend_from_slice(&self.max_version.number().to_be_bytes());
        out.push(self.flags());
        out.push(self.pace.code());
        out.extend_from_slice(&self.ad);
        out.extend_from_slice(self.own.secret.as_bytes());
        out.extend_from_slice(self.own.public.as_bytes());
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&self.next_header_send.0);
        out.extend_from_slice(&self.next_header_receive.0);
        out.extend_from_slice(&self.previous.to_be_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        for chain in [&self.sending, &self.receiving].into_iter().flatten() {
            out.extend_from_slice(&chain.key.0);
            out.extend_from_slice(&chain.header.0);
            out.extend_from_slice(&chain.count.to_be_bytes());
        }
        if let Some(kem) = &self.kem {
            out.extend_from_slice(kem.key.as_bytes());
            if let Some((ciphertext, secret)) = &kem.accepted {
                out.extend_from_slice(ciphertext.as_bytes());
                out.extend_from_slice(secret.as_bytes());
            }
        }
        debug_assert!(out.len() <= capacity);
        out
    }

    /// Reads what [`Ratchet::encode`] wrote, with all keys of late messages that are stored beside
    /// it.
    ///
    /// # Errors
    /// [`RatchetError::BadState`] if these are not a state and its keys.
    pub fn decode(
        state: &[u8],
        skipped: impl IntoIterator<Item = SkippedKey>,
    ) -> Result<Self, RatchetError> {
        let skipped = Skipped::load(skipped)?;
        Self::read(state, skipped).map_err(|_| RatchetError::BadState)
    }

    fn flags(&self) -> u8 {
        let accepted = self.kem.as_ref().is_some_and(|kem| kem.accepted.is_some());
        [
            (self.sending.is_some(), SENDING),
            (self.receiving.is_some(), RECEIVING),
            (self.large_header, LARGE_HEADER),
            (self.pq_sending, PQ_SENDING),
            (self.pq_receiving, PQ_RECEIVING),
            (self.kem.is_some(), KEM),
            (accepted, KEM_ACCEPTED),
            (self.hybrid, HYBRID),
        ]
        .iter()
        .filter(|(set, _)| *set)
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    fn read(state: &[u8], skipped: Skipped) -> Result<Self, RatchetError> {
        let mut reader = Reader(state);
        if reader.u8()? != STORED_VERSION {
            return Err(RatchetError::BadState);
        }
        let version = Version::from_number(reader.u16()?)?;
        let max_version = Version::from_number(reader.u16()?)?;
        let flags = reader.u8()?;
        let has = |flag: u8| flags & flag != 0;
        let pace = Pace::from_code(reader.u8()?).ok_or(RatchetError::BadState)?;
        let ratchet = Self {
            version,
            max_version,
            ad: *reader.array()?,
            own: OwnKey {
                secret: x448::SecretKey::from_bytes(reader.array()?),
                public: x448::PublicKey::from_bytes(reader.array()?),
            },
            root: RootKey(*reader.array()?),
            next_header_send: HeaderKey(*reader.array()?),
            next_header_receive: HeaderKey(*reader.array()?),
            previous: reader.u32()?,
            epoch: reader.u32()?,
            sending: read_chain(has(SENDING), &mut reader)?,
            receiving: read_chain(has(RECEIVING), &mut reader)?,
            kem: read_kem(has(KEM), has(KEM_ACCEPTED), &mut reader)?,
            pace,
            large_header: has(LARGE_HEADER),
            pq_sending: has(PQ_SENDING),
            pq_receiving: has(PQ_RECEIVING),
            hybrid: has(HYBRID),
            skipped,
            spare: None,
        };
        reader.end()?;
        let newest = ratchet.skipped.header_keys().next();
        if newest.is_some_and(|(epoch, _)| epoch > ratchet.epoch) {
            return Err(RatchetError::BadState);
        }
        Ok(ratchet)
    }
}

fn read_chain(present: bool, reader: &mut Reader<'_>) -> Result<Option<Chain>, RatchetError> {
    if !present {
        return Ok(None);
    }
    Ok(Some(Chain {
        key: ChainKey(*reader.array()?),
        header: HeaderKey(*reader.array()?),
        count: reader.u32()?,
    }))
}

fn read_kem(
    present: bool,
    accepted: bool,
    reader: &mut Reader<'_>,
) -> Result<Option<OwnKem>, RatchetError> {
    if !present {
        return if accepted {
            Err(RatchetError::BadState)
        } else {
            Ok(None)
        };
    }
    let key = kem::SecretKey::from_bytes(reader.take(kem::SECRET_KEY_BYTES)?)?;
    let accepted = if accepted {
        let ciphertext = kem::Ciphertext::from_bytes(reader.take(kem::CIPHERTEXT_BYTES)?)?;
        Some((ciphertext, kem::SharedSecret::from_bytes(reader.array()?)))
    } else {
        None
    };
    Ok(Some(OwnKem { key, accepted }))
}
