//! Everything that is signed or hashed, each under its own label (`docs/spec/session.md` §4).
//!
//! A statement is its label followed by fields of fixed width, so that no two statements share
//! bytes.

use junto_crypto::{ed25519::VerifyingKey, hash};

use super::{
    party::{Members, PartyIndex},
    roster::{FormationId, SessionId},
    wire::Put,
};

pub(crate) const FORMATION_LABEL: &[u8] = b"junto-session/1/formation\0";
const SESSION_LABEL: &[u8] = b"junto-session/1/session\0";
const COMMITMENT_LABEL: &[u8] = b"junto-session/1/commitment\0";
const CODE_LABEL: &[u8] = b"junto-session/1/safety-code\0";
const INSTANCE_LABEL: &[u8] = b"junto-session/1/instance\0";
const PAYLOAD_LABEL: &[u8] = b"junto-session/1/payload\0";
const TRANSCRIPT_LABEL: &[u8] = b"junto-session/1/transcript\0";
const HELLO_LABEL: &[u8] = b"junto-session/1/sign/hello\0";
const PROFILE_LABEL: &[u8] = b"junto-session/1/sign/profile\0";
const OFFER_LABEL: &[u8] = b"junto-session/1/sign/offer\0";
const ROSTER_LABEL: &[u8] = b"junto-session/1/sign/roster\0";
const BIND_LABEL: &[u8] = b"junto-session/1/sign/bind\0";
const INTRODUCTION_LABEL: &[u8] = b"junto-session/1/sign/introduction\0";
const BROADCAST_LABEL: &[u8] = b"junto-session/1/sign/broadcast\0";
const ECHO_LABEL: &[u8] = b"junto-session/1/sign/echo\0";
const ABORT_LABEL: &[u8] = b"junto-session/1/sign/abort\0";

/// One run of a protocol in a session: hash of session, members, echo mode and label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 32]);

impl core::fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "InstanceId({:02x}{:02x}{:02x}{:02x})",
            self.0[0], self.0[1], self.0[2], self.0[3]
        )
    }
}

/// A step of a protocol, counted by the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Round(pub u32);

impl Round {
    /// The reserved last round, in which parties confirm that they succeeded.
    pub const CONFIRM: Self = Self(u32::MAX);
}

impl From<u32> for Round {
    fn from(round: u32) -> Self {
        Self(round)
    }
}

impl core::fmt::Display for Round {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if *self == Self::CONFIRM {
            f.write_str("confirmation")
        } else {
            write!(f, "round {}", self.0)
        }
    }
}

/// Hash of a broadcast's payload.
pub(crate) type PayloadHash = [u8; 32];

/// The one place in a session that a broadcast fills: nobody may sign two payloads for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The session.
    pub session: SessionId,
    /// The execution.
    pub instance: InstanceId,
    /// The round.
    pub round: Round,
    /// Who broadcasts.
    pub sender: PartyIndex,
}

impl Slot {
    /// What the sender signs to fill this slot.
    pub(crate) fn broadcast(&self, payload: &PayloadHash) -> Vec<u8> {
        let mut bytes = self.labelled(BROADCAST_LABEL);
        bytes.put(payload);
        bytes
    }

    /// What an echoer (`sender` of this slot) signs: what it received in the round.
    pub(crate) fn echo(&self, entries: &[u8]) -> Vec<u8> {
        let mut bytes = self.labelled(ECHO_LABEL);
        bytes.put(&hash::sha256(entries));
        bytes
    }

    fn labelled(&self, label: &[u8]) -> Vec<u8> {
        let mut bytes = label.to_vec();
        bytes
            .put(&self.session.0)
            .put(&self.instance.0)
            .put_u32(self.round.0)
            .put_u8(self.sender.as_u8());
        bytes
    }
}

pub(crate) fn session(formation: &FormationId, roster: &[u8]) -> SessionId {
    SessionId(hash::sha256_of(&[SESSION_LABEL, &formation.0, roster]))
}

pub(crate) fn commitment(
    formation: &FormationId,
    key: &VerifyingKey,
    reveal: &[u8; 32],
) -> [u8; 32] {
    hash::sha256_of(&[COMMITMENT_LABEL, &formation.0, key.as_bytes(), reveal])
}

pub(crate) fn safety_code(session: &SessionId, reveals: &[u8]) -> [u8; 32] {
    hash::sha256_of(&[CODE_LABEL, &session.0, reveals])
}

pub(crate) fn instance(session: &SessionId, members: Members, mode: u8, label: &str) -> InstanceId {
    InstanceId(hash::sha256_of(&[
        INSTANCE_LABEL,
        &session.0,
        &members.bits().to_be_bytes(),
        &[mode],
        label.as_bytes(),
    ]))
}

pub(crate) fn payload(payload: &[u8]) -> PayloadHash {
    hash::sha256_of(&[PAYLOAD_LABEL, payload])
}

pub(crate) fn transcript(session: &SessionId, instance: &InstanceId, slots: &[u8]) -> [u8; 32] {
    hash::sha256_of(&[TRANSCRIPT_LABEL, &session.0, &instance.0, slots])
}

pub(crate) fn hello(formation: &FormationId, entry: &[u8]) -> Vec<u8> {
    [HELLO_LABEL, &formation.0, entry].concat()
}

pub(crate) fn profile(nonce: &[u8; 32], key: &VerifyingKey) -> Vec<u8> {
    [PROFILE_LABEL, nonce, key.as_bytes()].concat()
}

pub(crate) fn offer(formation: &FormationId, session: &SessionId) -> Vec<u8> {
    [OFFER_LABEL, &formation.0[..], &session.0].concat()
}

pub(crate) fn roster(session: &SessionId) -> Vec<u8> {
    [ROSTER_LABEL, &session.0[..]].concat()
}

pub(crate) fn bind(
    session: &SessionId,
    binding: &[u8; 32],
    from: &VerifyingKey,
    to: &VerifyingKey,
) -> Vec<u8> {
    [
        BIND_LABEL,
        &session.0,
        binding,
        from.as_bytes(),
        to.as_bytes(),
    ]
    .concat()
}

pub(crate) fn introduction(
    session: &SessionId,
    from: &VerifyingKey,
    to: &VerifyingKey,
    sealed: &[u8],
) -> Vec<u8> {
    [
        INTRODUCTION_LABEL,
        &session.0,
        from.as_bytes(),
        to.as_bytes(),
        &hash::sha256(sealed),
    ]
    .concat()
}

pub(crate) fn abort(
    session: &SessionId,
    instance: &InstanceId,
    from: PartyIndex,
    reason: &[u8; 32],
) -> Vec<u8> {
    [
        ABORT_LABEL,
        &session.0,
        &instance.0,
        &[from.as_u8()],
        reason,
    ]
    .concat()
}
