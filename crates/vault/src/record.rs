//! What one realm keeps for one id, and the rules by which it changes.
//!
//! Every method is one step of a replicated machine: the same steps in the same order give the same record at every
//! replica. Whoever drives it commits a step before anybody sees what it answered; [`Record::evaluate`] takes the
//! proof that the guess was charged, so it cannot come first.

use curve25519_dalek::scalar::Scalar;
use junto_crypto::{Zeroizing, hash::sha256_of};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{
    AuthKey, BlindedElement, DecodeError, Deposit, Evaluation, Roster, Version,
    encoding::{Reader, scalar},
};

/// Receipts that a record holds; older ones are gone, their digests still bound by the chain.
pub(crate) const RECEIPTS_MAX: usize = 32;
/// Versions held at once: the newest, and the one before until the newest is settled.
pub(crate) const VERSIONS_MAX: usize = 2;

/// Everything that a realm holds for one id.
#[derive(Default)]
pub struct Record {
    /// In a box, like every deposit: moving it copies no secret.
    staged: Option<Box<Deposit>>,
    /// The newest first.
    kept: Vec<Kept>,
    /// Guesses at versions that are gone, of which nobody showed that he knew the PIN.
    debt: u16,
    exhausted: bool,
    receipts: Vec<Receipt>,
    head: [u8; 32],
    sequence: u64,
}

struct Kept {
    deposit: Box<Deposit>,
    /// Guesses until this version is erased.
    left: u16,
    /// Guesses since somebody last showed that he knew its PIN.
    unproven: u16,
    /// The last element charged for: it may be asked for again.
    last: Option<[u8; 32]>,
}

/// Whether and how a record is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing was ever activated, or it was deleted.
    Absent = 0,
    /// A secret can be got back.
    Active = 1,
    /// Guesses ran out and everything was erased.
    Exhausted = 2,
}

/// What a realm tells before any guess.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether there is something.
    pub state: State,
    /// What can be got back, the newest first, with the guesses left for each.
    pub versions: Vec<(Roster, u16)>,
    /// Digest of everything that ever happened to this record.
    pub head: [u8; 32],
}

/// Why a step is refused. It changed nothing, except that the last wrong claim, or a guess above the limit, erases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing, or not this version.
    #[error("nothing of that version is stored here")]
    Absent,
    /// The key does not match.
    #[error("wrong; {left} guesses left")]
    Wrong {
        /// Guesses left for this version.
        left: u16,
    },
    /// Guesses ran out, now or before; everything is erased.
    #[error("no guesses are left: what was stored here is erased")]
    Exhausted,
    /// The budget of this id is spent: nothing can be stored under it any more.
    #[error("the guesses of this id's lifetime are spent: nothing more can be stored under it")]
    Spent,
    /// Another guess was charged before this one was evaluated.
    #[error("another guess came in between; ask again")]
    Overtaken,
    /// The realm keeps as many records as it can.
    #[error("this realm has no room for another record")]
    Full,
    /// The token ran out before the realm came to this.
    #[error("the token has run out")]
    Late,
    /// Another group of the realm has it: that one, if it is known.
    #[error("another group of this realm has that record")]
    Elsewhere(Option<crate::GroupId>),
    /// It is on its way to this group.
    #[error("that record is on its way here; ask again")]
    Moving,
}

/// Proof that a guess was charged; the only way to [`Record::evaluate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    version: Version,
    element: [u8; 32],
}

/// What a realm gives to who knows the PIN.
pub struct Given {
    pub(crate) share: Zeroizing<Scalar>,
    pub(crate) wrapped: [u8; 32],
}

impl Drop for Given {
    fn drop(&mut self) {
        self.wrapped.zeroize();
    }
}

impl Given {
    /// The share of the secret, and the wrapped c2: 64 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut out = Zeroizing::new([0; 64]);
        out[..32].copy_from_slice(self.share.as_bytes());
        out[32..].copy_from_slice(&self.wrapped);
        out
    }

    /// # Errors
    /// [`DecodeError`] unless the first 32 bytes are a scalar.
    pub fn from_bytes(bytes: &[u8; 64]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let share = Zeroizing::new(scalar(reader.array()?)?);
        let wrapped = reader.array()?;
        reader.finish()?;
        Ok(Self { share, wrapped })
    }
}

/// What happened to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A version became the newest.
    Activated = 1,
    /// A guess was charged.
    Charged = 2,
    /// Somebody showed that he knows the PIN.
    Claimed = 3,
    /// Somebody claimed and was wrong.
    Refused = 4,
    /// Guesses ran out.
    Erased = 5,
    /// Deleted on demand.
    Deleted = 6,
    /// Versions before the newest were dropped.
    Settled = 7,
}

/// One link of the history of a record, for its user to see after recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Counts from 1.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
    /// Guesses left for the version that it happened to.
    pub left: u16,
    /// SHA-256 over all this and the receipt before.
    pub head: [u8; 32],
}

impl Record {
    /// Holds a deposit ready. What is active stays so: a lost answer costs nobody a secret. A version that is kept
    /// already is not held a second time, or activating it again would give its guesses back.
    ///
    /// # Errors
    /// [`Refusal::Spent`].
    pub fn stage(&mut self, deposit: Box<Deposit>) -> Result<(), Refusal> {
        if self.spent() >= deposit.limit.lifetime {
            return Err(Refusal::Spent);
        }
        let version = deposit.version();
        if !self.kept.iter().any(|kept| kept.is(&version)) {
            self.staged = Some(deposit);
        }
        Ok(())
    }

    /// Makes the staged deposit the newest version, for who proves to hold its keys. Who proves to know the PIN of a
    /// version before (`former`) has its guesses forgiven. The version before stays readable until
    /// [`settle`](Self::settle), so that a client that fails between two realms loses nothing.
    /// Once more is no error.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn activate(
        &mut self,
        version: &Version,
        auth: &AuthKey,
        former: Option<(&Version, &AuthKey)>,
    ) -> Result<(), Refusal> {
        if let Some(newest) = self.kept.first().filter(|kept| kept.is(version)) {
            return match newest.admits(auth) {
                true => Ok(()),
                false => Err(Refusal::Absent),
            };
        }
        let staged = self
            .staged
            .take_if(|deposit| deposit.version() == *version && matches(&deposit.verifier, auth));
        let Some(deposit) = staged else {
            return Err(Refusal::Absent);
        };
        if let Some((version, auth)) = former {
            for kept in &mut self.kept {
                if kept.is(version) && kept.admits(auth) {
                    kept.unproven = 0;
                }
            }
        }
        if self.spent() >= deposit.limit.lifetime {
            return Err(Refusal::Spent);
        }
        self.keep(VERSIONS_MAX - 1);
        let left = deposit.limit.each;
        self.kept.insert(
            0,
            Kept {
                deposit,
                left,
                unproven: 0,
                last: None,
            },
        );
        self.exhausted = false;
        self.note(Event::Activated, left);
        Ok(())
    }

    /// Drops the versions before the newest, for who proves to hold the newest's keys: the client calls it when enough
    /// realms have activated it.
    ///
    /// # Errors
    /// [`Refusal::Absent`], also for wrong keys: nothing is guessed here.
    pub fn settle(&mut self, version: &Version, auth: &AuthKey) -> Result<(), Refusal> {
        let newest = self
            .kept
            .first()
            .filter(|kept| kept.is(version) && kept.admits(auth))
            .ok_or(Refusal::Absent)?;
        let left = newest.left;
        if self.kept.len() > 1 {
            self.keep(1);
            self.note(Event::Settled, left);
        }
        Ok(())
    }

    /// What is here. Costs nothing and says nothing of the PIN.
    #[must_use]
    pub fn view(&self) -> View {
        let budget = |kept: &Kept| {
            kept.left
                .min(kept.deposit.limit.lifetime.saturating_sub(self.spent()))
        };
        View {
            state: match (self.kept.is_empty(), self.exhausted) {
                (false, _) => State::Active,
                (true, true) => State::Exhausted,
                (true, false) => State::Absent,
            },
            versions: self
                .kept
                .iter()
                .map(|kept| (kept.deposit.roster.clone(), budget(kept)))
                .collect(),
            head: self.head,
        }
    }

    /// Charges a guess at `version` for the blinded element with this digest. The last element again is free: its
    /// answer may have been lost. A guess above the limit erases everything.
    ///
    /// # Errors
    /// [`Refusal::Absent`] and [`Refusal::Exhausted`].
    pub fn charge(&mut self, version: &Version, element: [u8; 32]) -> Result<Charged, Refusal> {
        let spent = self.spent();
        let exhausted = self.exhausted;
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.is(version)) else {
            return Err(if exhausted {
                Refusal::Exhausted
            } else {
                Refusal::Absent
            });
        };
        let charged = Charged {
            version: *version,
            element,
        };
        if kept.last == Some(element) {
            return Ok(charged);
        }
        if kept.left == 0 || spent >= kept.deposit.limit.lifetime {
            self.erase();
            return Err(Refusal::Exhausted);
        }
        kept.left -= 1;
        kept.unproven += 1;
        kept.last = Some(element);
        let left = kept.left;
        self.note(Event::Charged, left);
        Ok(charged)
    }

    /// The evaluation that was charged for; `None` if the element is another, or was superseded meanwhile.
    #[must_use]
    pub fn evaluate(
        &self,
        charged: &Charged,
        element: &BlindedElement,
        rng: &mut impl CryptoRng,
    ) -> Option<Evaluation> {
        let kept = self.kept.iter().find(|kept| kept.is(&charged.version))?;
        let same = kept.last == Some(charged.element) && element.digest() == charged.element;
        same.then(|| Evaluation::new(&kept.deposit.key_share, element, rng))
    }

    /// Gives this realm's part to who knows the PIN of `version`, and all its guesses again. A wrong claim when no
    /// guess is left erases everything.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn claim(&mut self, version: &Version, auth: &AuthKey) -> Result<Given, Refusal> {
        let exhausted = self.exhausted;
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.is(version)) else {
            return Err(if exhausted {
                Refusal::Exhausted
            } else {
                Refusal::Absent
            });
        };
        if kept.admits(auth) {
            kept.left = kept.deposit.limit.each;
            kept.unproven = 0;
            let given = Given {
                share: Zeroizing::new(*kept.deposit.share),
                wrapped: kept.deposit.wrapped,
            };
            let left = kept.left;
            self.note(Event::Claimed, left);
            return Ok(given);
        }
        let left = kept.left;
        self.note(Event::Refused, left);
        if left == 0 {
            self.erase();
            return Err(Refusal::Exhausted);
        }
        Err(Refusal::Wrong { left })
    }

    /// Erases everything on the tenant's demand. What was guessed without proof stays on the id's account.
    pub fn delete(&mut self) {
        self.staged = None;
        self.keep(0);
        self.exhausted = false;
        self.note(Event::Deleted, 0);
    }

    /// Nothing is stored here, and nothing was guessed that an id has to answer for. The realm then forgets the record,
    /// its receipts too.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.staged.is_none() && self.kept.is_empty() && self.debt == 0 && !self.exhausted
    }

    /// What happened here, the oldest first: at most the last 32 events.
    #[must_use]
    pub fn receipts(&self) -> &[Receipt] {
        &self.receipts
    }

    fn erase(&mut self) {
        self.staged = None;
        self.keep(0);
        self.exhausted = true;
        self.note(Event::Erased, 0);
    }

    /// Guesses at this id that nobody has proven to be its user's.
    fn spent(&self) -> u16 {
        self.kept
            .iter()
            .fold(self.debt, |sum, kept| sum.saturating_add(kept.unproven))
    }

    /// Drops all versions but the newest `count`.
    fn keep(&mut self, count: usize) {
        for dropped in self.kept.drain(count.min(self.kept.len())..) {
            self.debt = self.debt.saturating_add(dropped.unproven);
        }
    }

    fn note(&mut self, event: Event, left: u16) {
        self.sequence += 1;
        self.head = sha256_of(&[
            b"junto vault receipt",
            &self.head,
            &self.sequence.to_be_bytes(),
            &[event as u8],
            &left.to_be_bytes(),
        ]);
        if self.receipts.len() == RECEIPTS_MAX {
            self.receipts.remove(0);
        }
        self.receipts.push(Receipt {
            sequence: self.sequence,
            event,
            left,
            head: self.head,
        });
    }
}

impl Kept {
    fn is(&self, version: &Version) -> bool {
        self.deposit.version() == *version
    }

    fn admits(&self, auth: &AuthKey) -> bool {
        matches(&self.deposit.verifier, auth)
    }
}

fn matches(verifier: &[u8; 32], auth: &AuthKey) -> bool {
    verifier.ct_eq(&auth.verifier()).into()
}

mod stored;
#[cfg(test)]
mod tests;
