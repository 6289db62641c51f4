//! Signing as a run of a session: one broadcast, and evidence against whoever sends a wrong part.

use std::collections::BTreeMap;

use crate::{
    blame::{Blame, Fault, message_fault},
    envelope::{Round, Signed, Slot},
    key::KeyShare,
    party::ShareIndex,
    run::{Inbox, Misuse, Participant, blame_message, unsigned},
    setup::Task,
    signature::{CombineError, PartialSignature, Signature, combine, partial_sign},
};

/// The one round of signing. Its broadcast is all that this party has to send; whoever holds the
/// parts of t holders has the signature.
pub struct SignRound<'a> {
    party: Participant<'a>,
    own: Option<(ShareIndex, PartialSignature)>,
}

/// A signature, and who tried to prevent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignOutcome {
    /// Verifies under the key.
    pub signature: Signature,
    /// Parties whose message was wrong, ascending; they did not succeed. A wrong part that was not
    /// needed is not looked for.
    pub blames: Vec<Blame>,
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Too few right parts so far; the round stays open for more.
    #[error("{valid} valid parts of {required} needed")]
    TooFew {
        /// Right parts, or given parts if those are too few to try.
        valid: usize,
        /// Parts needed.
        required: usize,
        /// Parties whose message was wrong, ascending.
        blames: Vec<Blame>,
    },
    /// The driver called wrongly.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// Our defect: right parts gave a wrong signature.
    #[error("defect in interpolation")]
    Defect,
}

impl<'a> Participant<'a> {
    /// Starts signing. `share` is this party's, `None` if it only collects the others' parts.
    ///
    /// Returns the message to broadcast; nothing from a party that only collects.
    ///
    /// # Errors
    /// [`Misuse`] if the task is another one or the share is not that of this key and epoch.
    pub fn sign(
        self,
        share: Option<&KeyShare>,
    ) -> Result<(SignRound<'a>, Option<Vec<u8>>), Misuse> {
        let Task::Sign {
            key,
            signers,
            message,
        } = self.setup().task()
        else {
            return Err(Misuse::Task);
        };
        let own = match (signers.get(&self.me()), share) {
            (Some(index), Some(share)) if share.public() == key && share.index() == *index => {
                Some((*index, partial_sign(share, message)))
            }
            (None, None) => None,
            _ => return Err(Misuse::Share),
        };
        let wire = own.as_ref().map(|(_, part)| {
            self.seal(Round::Sign, None, part.to_bytes().to_vec())
                .wire()
                .to_vec()
        });
        Ok((SignRound { party: self, own }, wire))
    }
}

impl SignRound<'_> {
    /// Makes the signature from this party's part and those in `inbox`, which need not hold
    /// everybody's. May be called again with more.
    ///
    /// # Errors
    /// [`SignError::TooFew`] with whoever sent a wrong part.
    pub fn receive(&self, inbox: &Inbox) -> Result<SignOutcome, SignError> {
        let setup = self.party.setup();
        let Task::Sign {
            key,
            signers,
            message,
        } = setup.task()
        else {
            return Err(Misuse::Task.into());
        };
        let mut blames = Vec::new();
        let mut sent: BTreeMap<ShareIndex, Signed> = BTreeMap::new();
        let mut parts: BTreeMap<ShareIndex, PartialSignature> = self.own.into_iter().collect();
        for (party, index) in signers
            .iter()
            .filter(|(party, _)| **party != self.party.me())
        {
            let Some(wire) = inbox.get(party) else {
                continue;
            };
            let slot = Slot::broadcast(Round::Sign, *party);
            let Some(signed) = Signed::open(setup, slot, wire) else {
                blames.push(unsigned(*party));
                continue;
            };
            match PartialSignature::from_bytes(signed.payload()) {
                Ok(part) => {
                    parts.insert(*index, part);
                    sent.insert(*index, signed);
                }
                Err(_) => blames.push(blame_message(&signed, Fault::Malformed)),
            }
        }
        let (result, culprits) = match combine(key, message, &parts) {
            Ok(combined) => (Ok(combined.signature), combined.culprits),
            Err(CombineError::TooFew {
                valid,
                required,
                culprits,
            }) => (Err((valid, required)), culprits),
            Err(CombineError::UnknownHolder(_) | CombineError::Defect) => {
                return Err(SignError::Defect);
            }
        };
        for message in culprits.iter().filter_map(|index| sent.get(index)) {
            let fault = message_fault(setup, message).ok_or(SignError::Defect)?;
            blames.push(blame_message(message, fault));
        }
        blames.sort_by_key(|blame| blame.party);
        match result {
            Ok(signature) => Ok(SignOutcome { signature, blames }),
            Err((valid, required)) => Err(SignError::TooFew {
                valid,
                required,
                blames,
            }),
        }
    }
}
