//! Core: threshold BLS over BLS12-381: key generation, signing, refresh, reshare.
//!
//! n parties make a key that no one of them ever holds; any t of them sign. The signature is an
//! ordinary BLS signature of ciphersuite [`CIPHERSUITE`], which any BLS library verifies. The exact
//! protocol is `docs/spec/threshold-bls.md`.
//!
//! | to | make a [`Setup`] with | then |
//! |---|---|---|
//! | generate a key | [`Setup::keygen`] | [`Participant::start`], three rounds |
//! | replace all shares | [`Setup::refresh`] | the same |
//! | move to other holders or another threshold | [`Setup::reshare`] | the same |
//! | sign in a session | [`Setup::sign`] | [`Participant::sign`], one broadcast |
//! | sign without a session | – | [`partial_sign`], [`combine`] |
//!
//! A run is a chain of types, one for each round: bytes in, bytes out, and everything follows from
//! the setup, a 32-byte seed and the messages received. What a session must supply: reliable
//! broadcast, confidential delivery, and the knowledge who is silent.
//!
//! A key can be used only with a [`Certificate`], signed by all parties over all that was dealt.
//! When a party misbehaves, all honest parties abort and name it, with [`Evidence`] that convinces
//! outsiders.
//!
//! ```
//! use std::collections::BTreeMap;
//! use junto_bls::{Occasion, Participant, PartyIndex, Setup, combine, partial_sign, verify};
//! use junto_crypto::ed25519::SigningKey;
//!
//! let keys: Vec<SigningKey> = (0..3).map(|i| SigningKey::from_seed(&[i; 32])).collect();
//! let roster: Vec<_> = keys.iter().map(SigningKey::verifying_key).collect();
//! let occasion = Occasion { session: [0; 32], label: b"keygen 1", roster: &roster };
//! let setup = Setup::keygen(&occasion, 2)?;
//! let parties: Vec<PartyIndex> = setup.parties().collect();
//!
//! // Round 1: everybody broadcasts a deal.
//! let (mut rounds, mut inbox) = (Vec::new(), BTreeMap::new());
//! for (party, key) in parties.iter().zip(&keys) {
//!     // The seed must be secret and random; the same again only to resume the same run.
//!     let seed = [party.value(); 32];
//!     let (round, broadcast) = Participant::new(&setup, *party, key, &seed)?.start(None)?;
//!     rounds.push(round);
//!     inbox.insert(*party, broadcast);
//! }
//! // Round 2: everybody sends every other party its share.
//! let (mut next, mut inboxes) = (Vec::new(), vec![BTreeMap::new(); 3]);
//! for (party, round) in parties.iter().zip(rounds) {
//!     let (round, letters) = round.receive(&inbox)?;
//!     next.push(round);
//!     for (to, letter) in letters {
//!         inboxes[usize::from(to.value())].insert(*party, letter.to_vec());
//!     }
//! }
//! // Round 3: everybody confirms what it saw.
//! let (mut last, mut inbox) = (Vec::new(), BTreeMap::new());
//! for ((party, round), letters) in parties.iter().zip(next).zip(&inboxes) {
//!     let (round, broadcast) = round.receive(letters)?;
//!     last.push(round);
//!     inbox.insert(*party, broadcast);
//! }
//! let mut shares = Vec::new();
//! for mut round in last {
//!     let certificate = round.receive(&inbox)?;
//!     let pending = round.take_pending().ok_or("complained")?;
//!     let epoch = pending.activate(&certificate).map_err(|(_, error)| error)?;
//!     shares.push(epoch.share.ok_or("no holder")?);
//! }
//!
//! let parts = shares[1..].iter().map(|s| (s.index(), partial_sign(s, b"hello"))).collect();
//! let key = shares[0].public();
//! let combined = combine(key, b"hello", &parts)?;
//! assert!(verify(&key.public_key(), b"hello", &combined.signature));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "bench")]
pub mod bench;
mod blame;
mod confirm;
mod deal;
mod encoding;
mod envelope;
mod group;
mod holding;
mod key;
mod lagrange;
mod outcome;
mod party;
mod possession;
mod run;
mod scalar;
mod setup;
mod signature;
mod signing;

pub use blame::{Abort, Blame, Dispute, EVIDENCE_MAX_BYTES, Evidence, Fault, NotProven};
pub use encoding::DecodeError;
pub use envelope::WIRE_MAX_BYTES;
pub use holding::{Holding, NotHeld};
pub use key::{KeyPublic, KeyShare, PUBLIC_KEY_BYTES, PublicKey};
pub use outcome::{Certificate, CertificateError, Epoch, Pending};
pub use party::{PARTIES_MAX, PartyIndex, ShareIndex, Threshold};
pub use run::{ConfirmRound, DealRound, Inbox, Misuse, Outbox, Participant, RunError, ShareRound};
pub use setup::{LABEL_MAX_BYTES, MESSAGE_MAX_BYTES, Occasion, SESSION_BYTES, Setup, SetupError};
pub use signature::{
    CIPHERSUITE, CombineError, Combined, PartialSignature, SIGNATURE_BYTES, Signature, combine,
    partial_sign, verify,
};
pub use signing::{SignError, SignOutcome, SignRound};
