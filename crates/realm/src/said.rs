//! What reaches a client by way of a frontend: a member's word, signed, since who passes it on is none; and how who answers a
//! door says who it is.
//!
//! ```text
//! passed  = 16 random bytes · ask                                     · said, with an answer
//! stamp   = nothing                                                   · said, with time u64
//! said    = member (32) · Ed25519(member, "junto realm said" · group · SHA-256(kind · question) · text)
//!           · length u16 · card · text
//!
//! welcome = 0 · time u64 · length u16 · card · evidence                 of a replica
//!         | 1 · pass (64) · length u16 · stamp as it was said · evidence     of a frontend
//! ```

use junto_crypto::{
    Zeroizing,
    ed25519::{SIGNATURE_BYTES, Signature, VerifyingKey},
    hash::sha256_of,
};
use junto_vault::{CARD_BYTES_MAX, Card, Pass, RealmId, ReplicaId, Seconds};
use rand_core::Rng as _;

use crate::{
    BootKey,
    asking::{piece, put_piece},
    channel::random,
    evidence::{EVIDENCE_BYTES_MAX, Evidence},
    links::Bytes,
    reach::ClientError,
    read::{Malformed, Reader},
};

/// What a client asks of a record by way of a frontend.
pub(crate) const PASSED: u8 = 6;
/// What the group's time is.
pub(crate) const STAMP: u8 = 7;

/// Random bytes before a question that is passed on: nothing that was said before answers it.
pub(crate) const NONCE_BYTES: usize = 16;
/// Most bytes of a member's word, without its text.
pub(crate) const SAID_BYTES_MAX: usize = 32 + SIGNATURE_BYTES + 2 + CARD_BYTES_MAX;
pub(crate) const STAMP_BYTES_MAX: usize = SAID_BYTES_MAX + 8;
pub(crate) const WELCOME_BYTES_MAX: usize =
    1 + Pass::BYTES + 2 + STAMP_BYTES_MAX + 1 + EVIDENCE_BYTES_MAX;

fn signed(card: &Card, kind: u8, question: &[u8], text: &[u8]) -> Bytes {
    let (group, asked) = (card.group().0, sha256_of(&[&[kind], question]));
    let mut out = Zeroizing::new(Vec::with_capacity(16 + 64 + text.len()));
    for part in [&b"junto realm said"[..], &group, &asked, text] {
        out.extend_from_slice(part);
    }
    out
}

/// A member's word in answer to that question.
pub(crate) fn put_said(
    card: &Card,
    member: &BootKey,
    (kind, question): (u8, &[u8]),
    text: &[u8],
) -> Bytes {
    let signature = member.0.sign(&signed(card, kind, question, text));
    let card = card.to_bytes();
    let mut out = Zeroizing::new(Vec::with_capacity(SAID_BYTES_MAX + text.len()));
    out.extend_from_slice(&member.id().0);
    out.extend_from_slice(signature.as_bytes());
    put_piece(&mut out, &card);
    out.extend_from_slice(text);
    out
}

/// The text, and the card of the group: the realm signed the card, a member on it the text, for this question.
pub(crate) fn read_said<'a>(
    bytes: &'a [u8],
    realm: &RealmId,
    (kind, question): (u8, &[u8]),
) -> Result<(Card, &'a [u8]), Malformed> {
    let mut reader = Reader::new(bytes);
    let member = ReplicaId(reader.array()?);
    let signature = Signature(reader.array()?);
    let card = Card::from_bytes(piece(&mut reader)?).map_err(|_| Malformed)?;
    let text = reader.rest();
    let known = card.realm() == realm && card.members().iter().any(|it| it.id == member);
    let key = VerifyingKey::from_bytes(&member.0).map_err(|_| Malformed)?;
    let signed = signed(&card, kind, question, text);
    (known && key.verify(&signed, &signature).is_ok())
        .then_some((card, text))
        .ok_or(Malformed)
}

/// A question for who stands behind the frontend.
pub(crate) fn put_passed(ask: &[u8]) -> Bytes {
    let mut out = Zeroizing::new(vec![0; NONCE_BYTES + ask.len()]);
    let (nonce, body) = out.split_at_mut(NONCE_BYTES);
    random().fill_bytes(nonce);
    body.copy_from_slice(ask);
    out
}

/// What is asked in it.
pub(crate) fn read_passed(body: &[u8]) -> Result<&[u8], Malformed> {
    let (_, ask) = body.split_at_checked(NONCE_BYTES).ok_or(Malformed)?;
    Ok(ask)
}

/// A replica's: its group's time, its card, and evidence for both ends of this channel and the card.
pub(crate) fn put_welcome(time: Seconds, card: &[u8], shown: &Evidence) -> Bytes {
    let mut out = Zeroizing::new(vec![0]);
    out.extend_from_slice(&time.0.to_be_bytes());
    put_piece(&mut out, card);
    out.extend_from_slice(&shown.to_bytes());
    out
}

/// A frontend's: the realm's word for its key, what a member says of the time, and evidence for the channel and the pass.
pub(crate) fn put_front(pass: &Pass, stamp: &[u8], shown: &Evidence) -> Bytes {
    let mut out = Zeroizing::new(vec![1]);
    out.extend_from_slice(&pass.to_bytes());
    put_piece(&mut out, stamp);
    out.extend_from_slice(&shown.to_bytes());
    out
}

/// Who answered, as far as the realm vouches for it. Its evidence is not judged yet.
pub(crate) struct Welcome {
    pub(crate) time: Seconds,
    /// Of the group that it is of, or that it reached.
    pub(crate) card: Card,
    pub(crate) is_frontend: bool,
    /// What the evidence is about.
    pub(crate) about: Vec<u8>,
    pub(crate) shown: Evidence,
}

impl Welcome {
    /// # Errors
    /// [`ClientError::Stranger`] unless the realm vouches for that key.
    pub(crate) fn read(bytes: &[u8], realm: &RealmId, key: ReplicaId) -> Result<Self, ClientError> {
        let mut reader = Reader::new(bytes);
        let is_frontend = reader.flag()?;
        let (time, card, about) = if is_frontend {
            let pass = Pass::from_bytes(reader.array()?);
            if !pass.admits(realm, &key) {
                return Err(ClientError::Stranger);
            }
            let (card, time) = read_said(piece(&mut reader)?, realm, (STAMP, b""))?;
            let time = time.try_into().map_err(|_| Malformed)?;
            (
                Seconds(u64::from_be_bytes(time)),
                card,
                pass.to_bytes().to_vec(),
            )
        } else {
            let time = Seconds(reader.u64()?);
            let about = piece(&mut reader)?;
            let card = Card::from_bytes(about).map_err(|_| ClientError::Stranger)?;
            let is_member = card.members().iter().any(|it| it.id == key);
            if !is_member || card.realm() != realm {
                return Err(ClientError::Stranger);
            }
            (time, card, about.to_vec())
        };
        let shown = Evidence::from_bytes(reader.rest())?;
        Ok(Self {
            time,
            card,
            is_frontend,
            about,
            shown,
        })
    }
}
