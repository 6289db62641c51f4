//! The run of a dealing task (key generation, refresh, reshare) as one party sees it: three rounds,
//! each a type. No clock, no socket: a driver carries the bytes and decides how long to wait.
//!
//! ```text
//! Deal::start ──broadcast──► DealRound::receive ──p2p──► ShareRound::receive ──broadcast──►
//!     ConfirmRound::receive ──► Certificate;  ConfirmRound::take_pending + Certificate ──► Epoch
//!                                             Pending + deals: Participant::resume ──► ConfirmRound
//! ```
//!
//! Everything follows from the setup, the party's seed and key, and the messages received: a party
//! that starts again after a crash, with the same seed and inbox, sends the same bytes.

use std::collections::BTreeMap;

use junto_crypto::ed25519::{Signature, SigningKey};
use zeroize::Zeroizing;

use crate::{
    blame::{Abort, Blame, Case, Dispute, Fault, share_fault},
    confirm::{Accept, Confirm, transcript},
    deal::{Deal, Polynomial, nothing, read_share, write_share},
    envelope::{Round, Seal, Signed, Slot},
    group::generate,
    key::{KeyPublic, KeyShare},
    outcome::{Certificate, Pending, result_key},
    party::{PartyIndex, ShareIndex},
    scalar::SecretScalar,
    setup::{Setup, Task},
};

/// Messages received in a round, by sender. An entry for the receiver itself is ignored.
pub type Inbox = BTreeMap<PartyIndex, Vec<u8>>;

/// Messages to send in a round, by receiver: each one secret between the two.
pub type Outbox = BTreeMap<PartyIndex, Zeroizing<Vec<u8>>>;

/// The caller's mistake, not a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The signing key is not the one that the roster has at this index.
    #[error("the signing key is not the roster's")]
    SigningKey,
    /// This party deals from (or signs with) a share: none was given, or not the one of this key
    /// and epoch, or one was given to a party that needs none.
    #[error("the share does not fit the run")]
    Share,
    /// The message of this party is missing: the driver gathers all of a round or gives up, naming
    /// whoever is silent.
    #[error("no message of {0}")]
    Missing(PartyIndex),
    /// These are not the deals that this party has confirmed, or it is not its run.
    #[error("the deals are not those that were confirmed")]
    Deals,
    /// This task has no such round.
    #[error("not a round of this task")]
    Task,
}

/// Why a run gave no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A party misbehaved.
    #[error(transparent)]
    Abort(#[from] Abort),
    /// The driver called wrongly.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// A coefficient of the sum vanished; happens by chance once in 2^255 runs. Run again.
    #[error("the contributions cancel out")]
    Degenerate,
}

/// One party in a run.
pub struct Participant<'a> {
    setup: &'a Setup,
    me: PartyIndex,
    signer: &'a SigningKey,
    seed: Zeroizing<[u8; 32]>,
}

impl<'a> Participant<'a> {
    /// Party `me` of `setup`, who signs with `signer`. `seed` is secret, fresh for each run, and the
    /// same when the run is taken up again after a crash.
    ///
    /// # Errors
    /// [`Misuse::SigningKey`] if `signer` is not the roster's key of `me`.
    pub fn new(
        setup: &'a Setup,
        me: PartyIndex,
        signer: &'a SigningKey,
        seed: &[u8; 32],
    ) -> Result<Self, Misuse> {
        if setup.key_of(me) != Some(&signer.verifying_key()) {
            return Err(Misuse::SigningKey);
        }
        Ok(Self {
            setup,
            me,
            signer,
            seed: Zeroizing::new(*seed),
        })
    }

    /// Starts the run. `old` is this party's share of the key to be refreshed or reshared, if it is
    /// a dealer of it.
    ///
    /// Returns the message to broadcast.
    ///
    /// # Errors
    /// [`Misuse`] if the task is signing, or `old` is missing, superfluous or of another epoch.
    pub fn start(self, old: Option<&'a KeyShare>) -> Result<(DealRound<'a>, Vec<u8>), Misuse> {
        let index = self.setup.dealers().get(&self.me).copied();
        let fits = match (self.setup.old_key(), index, old) {
            (None, _, None) | (Some(_), None, None) => true,
            (Some(key), Some(index), Some(share)) => {
                share.public() == key && share.index() == index
            }
            (None, _, Some(_)) | (Some(_), None, Some(_)) | (Some(_), Some(_), None) => false,
        };
        if !fits {
            return Err(Misuse::Share);
        }
        let constant = match self.setup.task() {
            Task::Sign { .. } => return Err(Misuse::Task),
            Task::Keygen { .. } => None,
            Task::Refresh { .. } => Some(SecretScalar::zero()),
            Task::Reshare { .. } => old.map(|share| share.secret().duplicate()),
        };
        let polynomial =
            index.map(|_| Polynomial::derive(self.setup, self.me, &self.seed, constant));
        let (deal, payload) = match &polynomial {
            Some(polynomial) => {
                let (deal, payload) = polynomial.deal(self.setup, self.me, &self.seed);
                (Some(deal), payload)
            }
            None => (None, nothing()),
        };
        let own = self.seal(Round::Deal, None, payload);
        let wire = own.wire().to_vec();
        Ok((
            DealRound {
                party: self,
                old,
                polynomial,
                deal,
                own,
            },
            wire,
        ))
    }

    /// Takes the run up where this party has confirmed it, with what it stored before it did and the
    /// deals of the others: it needs no share for that, and may have another one by now.
    ///
    /// Returns the confirmation to broadcast, the same bytes as ever.
    ///
    /// # Errors
    /// [`Misuse::Missing`] if a deal is not there, [`Misuse::Deals`] if they are others than those of `pending`,
    /// or it is of another run or party or
    /// [cannot be taken up](Pending::can_resume).
    pub fn resume(
        self,
        pending: &Pending,
        deals: &Inbox,
    ) -> Result<(ConfirmRound<'a>, Vec<u8>), Misuse> {
        let own = pending.deal.as_ref().ok_or(Misuse::Deals)?;
        if pending.setup() != self.setup || own.sender() != self.me {
            return Err(Misuse::Deals);
        }
        let mut messages = BTreeMap::from([(self.me, own.clone())]);
        for (dealer, wire) in self.others(deals)? {
            let slot = Slot::broadcast(Round::Deal, dealer);
            let deal = Signed::open(self.setup, slot, wire).ok_or(Misuse::Deals)?;
            messages.insert(dealer, deal);
        }
        let seals: Vec<Seal> = messages.values().map(Signed::seal_of).collect();
        if transcript(self.setup, &seals) != pending.transcript {
            return Err(Misuse::Deals);
        }
        let key = pending.key.clone();
        let accept = Accept::new(self.setup, self.signer, seals.clone(), key.digest());
        let own = self.seal(Round::Confirm, None, Confirm::Accept(accept).payload());
        let wire = own.wire().to_vec();
        let round = ConfirmRound {
            party: self,
            messages,
            seals,
            key,
            own,
            pending: None,
        };
        Ok((round, wire))
    }

    pub(crate) fn setup(&self) -> &'a Setup {
        self.setup
    }

    pub(crate) fn me(&self) -> PartyIndex {
        self.me
    }

    pub(crate) fn seal(
        &self,
        round: Round,
        receiver: Option<PartyIndex>,
        payload: Vec<u8>,
    ) -> Signed {
        let slot = Slot {
            round,
            sender: self.me,
            receiver,
        };
        Signed::seal(self.setup, self.signer, slot, payload)
    }

    /// All other parties' messages; an error if one is missing.
    fn others<'m>(&self, inbox: &'m Inbox) -> Result<Vec<(PartyIndex, &'m [u8])>, Misuse> {
        self.setup
            .parties()
            .filter(|party| *party != self.me)
            .map(|party| {
                let message = inbox.get(&party).ok_or(Misuse::Missing(party))?;
                Ok((party, message.as_slice()))
            })
            .collect()
    }
}

/// Round 1: deals are under way.
pub struct DealRound<'a> {
    party: Participant<'a>,
    old: Option<&'a KeyShare>,
    polynomial: Option<Polynomial>,
    deal: Option<Deal>,
    own: Signed,
}

impl<'a> DealRound<'a> {
    /// Takes the deals of all other parties. Returns a message for each of them, also for those who
    /// get no share, so that every party expects one from every other.
    ///
    /// # Errors
    /// [`Abort`] with everybody whose deal is wrong; all honest parties saw the same deals and name
    /// the same. [`Misuse::Missing`] if a message is not there.
    pub fn receive(self, inbox: &Inbox) -> Result<(ShareRound<'a>, Outbox), RunError> {
        let setup = self.party.setup;
        let mut abort = Abort::default();
        let mut messages = BTreeMap::new();
        let mut deals: BTreeMap<_, _> = self
            .deal
            .map(|deal| (self.party.me, deal))
            .into_iter()
            .collect();
        for (sender, wire) in self.party.others(inbox)? {
            match Signed::open(setup, Slot::broadcast(Round::Deal, sender), wire) {
                Some(message) => drop(messages.insert(sender, message)),
                None => abort.blames.push(unsigned(sender)),
            }
        }
        for (sender, message) in &messages {
            match Deal::check(setup, *sender, message.payload()) {
                Ok(Some(deal)) => drop(deals.insert(*sender, deal)),
                Ok(None) => {}
                Err(fault) => abort.blames.push(blame_message(message, fault)),
            }
        }
        abort.unless_empty()?;
        messages.insert(self.party.me, self.own.clone());
        let key = result_key(setup, &deals).ok_or(RunError::Degenerate)?;
        let outbox = letters(&self.party, self.polynomial.as_ref());
        let own = setup.holders().get(&self.party.me).copied();
        let own = self.polynomial.as_ref().zip(own);
        let own_share = own.map(|(polynomial, index)| polynomial.share(index));
        let round = ShareRound {
            party: self.party,
            old: self.old,
            messages,
            own: self.own,
            deals,
            key,
            own_share,
        };
        Ok((round, outbox))
    }
}

/// A message for every other party: its share, if there is one.
fn letters(party: &Participant<'_>, polynomial: Option<&Polynomial>) -> Outbox {
    let holders = party.setup.holders();
    let receivers = party
        .setup
        .parties()
        .filter(|receiver| *receiver != party.me);
    receivers
        .map(|receiver| {
            let payload = match (polynomial, holders.get(&receiver)) {
                (Some(polynomial), Some(index)) => write_share(&polynomial.share(*index)),
                _ => nothing(),
            };
            (
                receiver,
                party.seal(Round::Share, Some(receiver), payload).wire(),
            )
        })
        .collect()
}

/// Round 2: shares are under way.
pub struct ShareRound<'a> {
    party: Participant<'a>,
    old: Option<&'a KeyShare>,
    messages: BTreeMap<PartyIndex, Signed>,
    /// What this party dealt, which is among the messages.
    own: Signed,
    deals: BTreeMap<PartyIndex, Deal>,
    key: KeyPublic,
    own_share: Option<SecretScalar>,
}

/// What a holder says when it got no good share.
enum Complaint {
    Proven(Box<Case>, PartyIndex, Fault),
    Disputed(PartyIndex),
}

impl<'a> ShareRound<'a> {
    /// Takes the shares of all other parties and returns the message to broadcast: a confirmation,
    /// or a complaint that makes everybody abort in the next round.
    ///
    /// # Errors
    /// [`Misuse::Missing`] if a message is not there.
    pub fn receive(mut self, inbox: &Inbox) -> Result<(ConfirmRound<'a>, Vec<u8>), Misuse> {
        let setup = self.party.setup;
        let others = self.party.others(inbox)?;
        let share = match setup.holders().get(&self.party.me) {
            Some(index) => self
                .collect(*index, &others)
                .map(|share| Some((*index, share))),
            None => Ok(None),
        };
        let seals: Vec<Seal> = self.messages.values().map(Signed::seal_of).collect();
        let (confirm, pending) = match share {
            Ok(share) => {
                let digest = self.key.digest();
                let accept = Accept::new(setup, self.party.signer, seals.clone(), digest);
                let pending = Pending {
                    setup: setup.clone(),
                    transcript: transcript(setup, &seals),
                    key: self.key.clone(),
                    deal: Some(self.own),
                    share,
                };
                (Confirm::Accept(accept), Some(pending))
            }
            Err(Complaint::Proven(case, party, fault)) => {
                (Confirm::Complain(case.evidence(), party, fault), None)
            }
            Err(Complaint::Disputed(party)) => (Confirm::Dispute(seals.clone(), party), None),
        };
        let own = self.party.seal(Round::Confirm, None, confirm.payload());
        let wire = own.wire().to_vec();
        let Self {
            party,
            messages,
            key,
            ..
        } = self;
        let round = ConfirmRound {
            party,
            messages,
            seals,
            key,
            own,
            pending,
        };
        Ok((round, wire))
    }

    /// The new share of holder `index`: checked in one go, and dealer by dealer only if that fails.
    fn collect(
        &mut self,
        index: ShareIndex,
        others: &[(PartyIndex, &[u8])],
    ) -> Result<SecretScalar, Complaint> {
        let mut received = BTreeMap::new();
        let mut unsigned = None;
        for (sender, wire) in others
            .iter()
            .filter(|(party, _)| self.deals.contains_key(party))
        {
            let slot = Slot {
                round: Round::Share,
                sender: *sender,
                receiver: Some(self.party.me),
            };
            match Signed::open(self.party.setup, slot, wire) {
                Some(message) => drop(received.insert(*sender, message)),
                None => unsigned = unsigned.or(Some(*sender)),
            }
        }
        if let Some(share) = self.sum(index, &received) {
            return Ok(share);
        }
        for (sender, share) in received {
            let Some(deal) = self.messages.get(&sender) else {
                continue;
            };
            if let Some(fault) = share_fault(self.party.setup, deal, &share) {
                let deal = deal.clone();
                let case = Box::new(Case::Share { deal, share });
                return Err(Complaint::Proven(case, sender, fault));
            }
        }
        // All shares that came are right, so one did not come.
        Err(Complaint::Disputed(unsigned.unwrap_or(self.party.me)))
    }

    /// The weighted sum of all shares, if it is the share that the key announces.
    fn sum(
        &mut self,
        index: ShareIndex,
        received: &BTreeMap<PartyIndex, Signed>,
    ) -> Option<SecretScalar> {
        let setup = self.party.setup;
        let mut sum = match (setup.task(), self.old) {
            (Task::Refresh { .. }, Some(old)) => old.secret().duplicate(),
            _ => SecretScalar::zero(),
        };
        let own = self.own_share.take();
        for (dealer, weight) in setup.dealers().keys().zip(setup.weights()) {
            match (&own, received.get(dealer)) {
                (_, Some(message)) => sum.add_scaled(weight, &read_share(message.payload()).ok()?),
                (Some(own), None) if *dealer == self.party.me => sum.add_scaled(weight, own),
                _ => return None,
            }
        }
        (generate(&sum) == self.key.public_share(index).0).then_some(sum)
    }
}

/// Round 3: confirmations are under way.
pub struct ConfirmRound<'a> {
    party: Participant<'a>,
    messages: BTreeMap<PartyIndex, Signed>,
    seals: Vec<Seal>,
    key: KeyPublic,
    own: Signed,
    pending: Option<Pending>,
}

/// One party's view of the deals.
struct View<'m> {
    message: &'m Signed,
    seals: Vec<Seal>,
    /// The key and the certificate signature, unless it disputes.
    accepted: Option<([u8; 32], Signature)>,
}

impl ConfirmRound<'_> {
    /// The run.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        self.party.setup
    }

    /// Takes the confirmations of all other parties; with them the certificate is complete.
    ///
    /// # Errors
    /// [`Abort`] if anybody complained, equivocated or confirmed wrongly; computed from broadcasts
    /// alone, so all honest parties name the same. [`Misuse::Missing`] if a message is not there:
    /// then [`take_pending`](Self::take_pending) still awaits a certificate from somebody else.
    pub fn receive(&self, inbox: &Inbox) -> Result<Certificate, RunError> {
        let setup = self.party.setup;
        let mut abort = Abort::default();
        let mut confirms = vec![self.own.clone()];
        for (sender, wire) in self.party.others(inbox)? {
            match Signed::open(setup, Slot::broadcast(Round::Confirm, sender), wire) {
                Some(message) => confirms.push(message),
                None => abort.blames.push(unsigned(sender)),
            }
        }
        confirms.sort_by_key(Signed::sender);
        let views = self.views(&confirms, &mut abort);
        accuse_equivocators(setup, &views, &mut abort);
        if abort.blames.is_empty() {
            self.accuse_wrong_keys(&views, &mut abort);
        }
        abort.unless_empty()?;
        // Whoever did not accept made the abort non-empty.
        let signatures: Vec<Signature> = views
            .iter()
            .filter_map(|view| view.accepted.map(|(_, signature)| signature))
            .collect();
        Ok(Certificate::new(
            setup.clone(),
            &self.seals,
            self.key.clone(),
            signatures,
        ))
    }

    /// The epoch that [`receive`](Self::receive)'s certificate, or one from any other party, makes
    /// usable: to be stored before the confirmation is sent. `None` if this party complained, and
    /// the second time.
    #[must_use]
    pub fn take_pending(&mut self) -> Option<Pending> {
        self.pending.take()
    }

    /// Sorts out complaints and faulty confirmations.
    fn views<'m>(&self, confirms: &'m [Signed], abort: &mut Abort) -> Vec<View<'m>> {
        let mut views = Vec::with_capacity(confirms.len());
        for message in confirms {
            let sender = message.sender();
            match Confirm::check(self.party.setup, sender, message.payload(), &self.seals) {
                Ok(Confirm::Accept(Accept {
                    seals,
                    key,
                    signature,
                })) => {
                    views.push(View {
                        message,
                        seals,
                        accepted: Some((key, signature)),
                    });
                }
                Ok(Confirm::Complain(evidence, party, fault)) => {
                    abort.blames.push(Blame {
                        party,
                        fault,
                        evidence: Some(evidence),
                    });
                }
                Ok(Confirm::Dispute(seals, accused)) => {
                    abort.disputes.push(Dispute {
                        accuser: sender,
                        accused,
                    });
                    views.push(View {
                        message,
                        seals,
                        accepted: None,
                    });
                }
                Err(fault) => abort.blames.push(blame_message(message, fault)),
            }
        }
        views
    }

    /// All saw the same deals, so all must have the same key.
    fn accuse_wrong_keys(&self, views: &[View<'_>], abort: &mut Abort) {
        let expected = self.key.digest();
        for view in views {
            if view.accepted.is_some_and(|(key, _)| key != expected) {
                let confirm = view.message.clone();
                let deals = self.messages.values().cloned().collect();
                abort.blames.push(Blame {
                    party: view.message.sender(),
                    fault: Fault::WrongKey,
                    evidence: Some(Case::WrongKey { confirm, deals }.evidence()),
                });
            }
        }
    }
}

/// Two parties that acknowledge different deals of one dealer convict it.
fn accuse_equivocators(setup: &Setup, views: &[View<'_>], abort: &mut Abort) {
    for dealer in setup.parties() {
        // The first view of each deal and the two lowest hashes: the same choice for everybody.
        let seen: BTreeMap<[u8; 32], Seal> = views
            .iter()
            .rev()
            .filter_map(|view| view.seals.get(dealer.place()))
            .map(|seal| (seal.digest, *seal))
            .collect();
        let mut seals = seen.into_values();
        if let (Some(first), Some(second)) = (seals.next(), seals.next()) {
            let slot = Slot::broadcast(Round::Deal, dealer);
            let case = Case::Equivocation {
                slot,
                seals: [first, second],
            };
            abort.blames.push(Blame {
                party: dealer,
                fault: Fault::Equivocation,
                evidence: Some(case.evidence()),
            });
        }
    }
}

pub(crate) fn unsigned(party: PartyIndex) -> Blame {
    Blame {
        party,
        fault: Fault::Unsigned,
        evidence: None,
    }
}

pub(crate) fn blame_message(message: &Signed, fault: Fault) -> Blame {
    let evidence = Some(Case::Message(message.clone()).evidence());
    Blame {
        party: message.sender(),
        fault,
        evidence,
    }
}
