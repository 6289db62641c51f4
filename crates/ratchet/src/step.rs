//! One step of the ratchet: new Diffie-Hellman keys and, if negotiated, new encapsulated secrets.

use junto_crypto::{CryptoRng, kem, x448};

use crate::{
    KemParams, RatchetError, Version,
    chain::{ChainKey, HeaderKey, RootKey},
    header::Header,
    ratchet::OwnKey,
};

/// Our side of the key encapsulation: the key that the peer may encapsulate to next and, once the
/// peer proposed, the secret that we encapsulated for it.
pub(crate) struct OwnKem {
    pub(crate) key: kem::SecretKey,
    pub(crate) accepted: Option<(kem::Ciphertext, kem::SharedSecret)>,
}

impl OwnKem {
    pub(crate) fn propose(rng: &mut impl CryptoRng) -> Self {
        Self {
            key: kem::SecretKey::generate(rng),
            accepted: None,
        }
    }

    pub(crate) fn accept(peer: &kem::PublicKey, rng: &mut impl CryptoRng) -> Self {
        let key = kem::SecretKey::generate(rng);
        Self::accept_with(key, peer, rng)
    }

    fn accept_with(key: kem::SecretKey, peer: &kem::PublicKey, rng: &mut impl CryptoRng) -> Self {
        Self {
            key,
            accepted: Some(peer.encapsulate(rng)),
        }
    }

    /// A proposal with a copy of a stored key.
    pub(crate) fn stored(key: &kem::SecretKey) -> Result<Self, RatchetError> {
        Ok(Self {
            key: kem::SecretKey::from_bytes(key.as_bytes())?,
            accepted: None,
        })
    }

    /// What a header says of it.
    pub(crate) fn params(&self) -> KemParams {
        let key = self.key.public_key();
        match &self.accepted {
            None => KemParams::Proposed(key),
            Some((ciphertext, _)) => KemParams::Accepted(ciphertext.clone(), key),
        }
    }

    /// The secret that goes into our sending chain.
    pub(crate) fn secret(&self) -> Option<&kem::SharedSecret> {
        self.accepted.as_ref().map(|(_, secret)| secret)
    }
}

/// When steps carry a key encapsulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    Never,
    Always,
    /// In answer to a proposal, and once when it is due.
    Sparing {
        due: bool,
    },
}

impl Pace {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Never => 0,
            Self::Always => 1,
            Self::Sparing { due: false } => 2,
            Self::Sparing { due: true } => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [
            Self::Never,
            Self::Always,
            Self::Sparing { due: false },
            Self::Sparing { due: true },
        ]
        .into_iter()
        .find(|pace| pace.code() == code)
    }
}

/// What becomes of our side of the key encapsulation.
pub(crate) enum NextKem {
    /// None from now on.
    Drop,
    /// As it was: the peer has not answered our proposal yet.
    Keep,
    /// A new one.
    Replace(Box<OwnKem>),
}

/// The result of a step, not yet part of the state.
pub(crate) struct Step {
    pub(crate) own: OwnKey,
    pub(crate) root: RootKey,
    pub(crate) receive: ChainKey,
    pub(crate) send: ChainKey,
    pub(crate) next_header_receive: HeaderKey,
    pub(crate) next_header_send: HeaderKey,
    pub(crate) kem: NextKem,
    pub(crate) pq_receiving: bool,
    pub(crate) pq_sending: bool,
}

/// What a step starts from.
pub(crate) struct StepInput<'a> {
    pub(crate) root: &'a RootKey,
    pub(crate) own: &'a OwnKey,
    pub(crate) kem: Option<&'a OwnKem>,
    /// The version after the peer's header was taken into account.
    pub(crate) version: Version,
    /// When our user wants key encapsulation.
    pub(crate) pace: Pace,
    /// A key made ahead of time.
    pub(crate) spare: Option<&'a kem::SecretKey>,
}

impl StepInput<'_> {
    pub(crate) fn step(
        &self,
        header: &Header,
        rng: &mut impl CryptoRng,
    ) -> Result<Step, RatchetError> {
        let received = self.received_secret(header)?;
        let agreed = self.own.secret.diffie_hellman(&header.key)?;
        let (root, receive, next_header_receive) = self.root.step(&agreed, received.as_ref());

        let kem = self.next_kem(header, rng)?;
        let sent = match &kem {
            NextKem::Replace(kem) => kem.secret(),
            NextKem::Keep | NextKem::Drop => None,
        };
        let own = OwnKey::new(x448::SecretKey::generate(rng));
        let agreed = own.secret.diffie_hellman(&header.key)?;
        let (root, send, next_header_send) = root.step(&agreed, sent);
        Ok(Step {
            pq_receiving: received.is_some(),
            pq_sending: sent.is_some(),
            own,
            root,
            receive,
            send,
            next_header_receive,
            next_header_send,
            kem,
        })
    }

    /// The secret that the peer encapsulated for the key that we showed last.
    fn received_secret(&self, header: &Header) -> Result<Option<kem::SharedSecret>, RatchetError> {
        match (&header.kem, self.kem) {
            (Some(KemParams::Accepted(ciphertext, _)), Some(own)) => {
                Ok(Some(own.key.decapsulate(ciphertext)))
            }
            (Some(KemParams::Accepted(..)), None) => Err(RatchetError::KemNotOffered),
            (Some(KemParams::Proposed(_)) | None, _) => Ok(None),
        }
    }

    fn next_kem(&self, header: &Header, rng: &mut impl CryptoRng) -> Result<NextKem, RatchetError> {
        if self.version < Version::V3 {
            return Ok(NextKem::Drop);
        }
        let peer = match (&header.kem, self.pace) {
            (_, Pace::Never)
            | (Some(KemParams::Accepted(..)) | None, Pace::Sparing { due: false }) => {
                return Ok(NextKem::Drop);
            }
            (Some(KemParams::Proposed(key) | KemParams::Accepted(_, key)), _) => Some(key),
            (None, _) => None,
        };
        let unanswered = self.kem.is_some_and(|kem| kem.accepted.is_none());
        if peer.is_none() && unanswered && self.pace == Pace::Always {
            return Ok(NextKem::Keep);
        }
        let key = match self.spare {
            Some(spare) => kem::SecretKey::from_bytes(spare.as_bytes())?,
            None => kem::SecretKey::generate(rng),
        };
        Ok(NextKem::Replace(Box::new(match peer {
            Some(peer) => OwnKem::accept_with(key, peer, rng),
            None => OwnKem {
                key,
                accepted: None,
            },
        })))
    }
}
