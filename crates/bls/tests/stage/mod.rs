//! All parties of a run in one process, with a place to lie.
//!
//! Messages are signed here by the rules of `docs/spec/threshold-bls.md` alone, not by the crate's
//! own code: a liar's bytes are made as another implementation would make them.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use junto_bls::{
    Certificate, Epoch, Inbox, KeyShare, Occasion, Participant, PartyIndex, Pending, RunError,
    Setup, ShareIndex,
};
use junto_crypto::{
    ed25519::{SigningKey, VerifyingKey},
    hash::{sha256, sha256_of},
};

pub(crate) const SESSION: [u8; 32] = [7; 32];

/// The rounds by their number on the wire.
pub(crate) const DEAL: u8 = 1;
pub(crate) const SHARE: u8 = 2;
pub(crate) const CONFIRM: u8 = 3;
pub(crate) const SIGN: u8 = 4;

pub(crate) fn party(index: u8) -> PartyIndex {
    PartyIndex::new(index).unwrap()
}

pub(crate) fn holder(index: u8) -> ShareIndex {
    ShareIndex::new(index).unwrap()
}

/// Parties with their session keys.
pub(crate) struct Cast {
    pub(crate) keys: Vec<SigningKey>,
    pub(crate) roster: Vec<VerifyingKey>,
}

impl Cast {
    pub(crate) fn new(count: u8) -> Self {
        let keys: Vec<SigningKey> = (0..count)
            .map(|i| SigningKey::from_seed(&sha256(&[b's', i])))
            .collect();
        let roster = keys.iter().map(SigningKey::verifying_key).collect();
        Self { keys, roster }
    }

    pub(crate) fn occasion<'a>(&'a self, label: &'a [u8]) -> Occasion<'a> {
        Occasion {
            session: SESSION,
            label,
            roster: &self.roster,
        }
    }

    pub(crate) fn keygen(&self, required: u8) -> Setup {
        Setup::keygen(&self.occasion(b"keygen"), required).unwrap()
    }
}

/// One message under way, which a liar may change.
pub(crate) struct Letter<'a> {
    pub(crate) setup: &'a Setup,
    pub(crate) round: u8,
    pub(crate) sender: u8,
    /// Who is about to receive it; a broadcast comes by once for each receiver.
    pub(crate) to: u8,
    pub(crate) wire: Vec<u8>,
    key: &'a SigningKey,
}

impl Letter<'_> {
    pub(crate) fn is(&self, round: u8, sender: u8) -> bool {
        self.round == round && self.sender == sender
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        self.wire[..self.wire.len() - 64].to_vec()
    }

    /// Replaces the payload and signs it as its sender.
    pub(crate) fn sign(&mut self, payload: Vec<u8>) {
        let receiver = if self.round == SHARE { self.to } else { 0xff };
        let text = signed_text(self.setup, self.round, self.sender, receiver, &payload);
        self.wire = [payload, self.key.sign(&text).0.to_vec()].concat();
    }

    /// Changes the payload and signs it as its sender.
    pub(crate) fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = self.payload();
        change(&mut payload);
        self.sign(payload);
    }
}

/// What a sender signs (spec §3).
pub(crate) fn signed_text(
    setup: &Setup,
    round: u8,
    sender: u8,
    receiver: u8,
    payload: &[u8],
) -> [u8; 32] {
    sha256_of(&[
        b"junto-bls/1 message",
        setup.digest(),
        &[round, sender, receiver],
        &sha256(payload),
    ])
}

pub(crate) type Outcome = Result<(Epoch, Certificate), RunError>;

/// Runs `setup` among all parties; `lie` sees every message before its receiver does. Whoever confirms starts
/// again from what it has stored, without its old share, and must come to the same.
pub(crate) fn run(
    cast: &Cast,
    setup: &Setup,
    old: &BTreeMap<PartyIndex, KeyShare>,
    mut lie: impl FnMut(&mut Letter<'_>),
) -> Vec<Outcome> {
    let count = cast.keys.len() as u8;
    let mut deliver = |round: u8, outbox: Vec<BTreeMap<u8, Vec<u8>>>| -> Vec<Inbox> {
        let mut inboxes = vec![Inbox::new(); cast.keys.len()];
        for (sender, letters) in (0u8..).zip(outbox) {
            for (to, wire) in letters {
                let key = &cast.keys[usize::from(sender)];
                let mut letter = Letter {
                    setup,
                    round,
                    sender,
                    to,
                    wire,
                    key,
                };
                lie(&mut letter);
                inboxes[usize::from(to)].insert(party(sender), letter.wire);
            }
        }
        inboxes
    };
    let to_all = |wire: Vec<u8>| (0..count).map(|to| (to, wire.clone())).collect();

    let (mut rounds, mut outbox) = (Vec::new(), Vec::new());
    for me in 0..count {
        let participant =
            Participant::new(setup, party(me), &cast.keys[usize::from(me)], &seed(me)).unwrap();
        let (round, wire) = participant.start(old.get(&party(me))).unwrap();
        rounds.push(round);
        outbox.push(to_all(wire));
    }
    let deals = deliver(DEAL, outbox);
    let (mut next, mut outbox) = (Vec::new(), Vec::new());
    for (round, inbox) in rounds.into_iter().zip(&deals) {
        let result = round.receive(inbox);
        outbox.push(match &result {
            Ok((_, out)) => out
                .iter()
                .map(|(to, wire)| (to.value(), wire.to_vec()))
                .collect(),
            Err(_) => BTreeMap::new(),
        });
        next.push(result.map(|(round, _)| round));
    }
    // Who aborted sends nothing any more; as all honest parties abort together, so do the others.
    if next.iter().any(Result::is_err) {
        return next
            .into_iter()
            .map(|result| Err(result.err().unwrap_or(RunError::Degenerate)))
            .collect();
    }
    let inboxes = deliver(SHARE, outbox);
    let (mut last, mut outbox, mut said) = (Vec::new(), Vec::new(), Vec::new());
    for (round, inbox) in next.into_iter().zip(&inboxes) {
        let (mut round, wire) = round.unwrap().receive(inbox).unwrap();
        last.push((round.take_pending(), round));
        said.push(wire.clone());
        outbox.push(to_all(wire));
    }
    let inboxes = deliver(CONFIRM, outbox);
    let ends = last.into_iter().zip(&said).zip(deals.iter().zip(&inboxes));
    ends.zip(0..)
        .map(|((((pending, round), said), (deals, inbox)), me)| {
            let certificate = round.receive(inbox);
            let Some(pending) = pending else {
                return Err(certificate.unwrap_err()); // it complained
            };
            let pending = Pending::decode(&pending.encode()).unwrap();
            let key = &cast.keys[usize::from(me)];
            let again = Participant::new(setup, party(me), key, &[0; 32]).unwrap();
            let (again, wire) = again.resume(&pending, deals).unwrap();
            assert_eq!(&wire, said);
            assert_eq!(again.receive(inbox), certificate);
            let certificate = certificate?;
            Ok((pending.activate(&certificate).unwrap(), certificate))
        })
        .collect()
}

pub(crate) fn seed(party: u8) -> [u8; 32] {
    sha256(&[b'r', party])
}

pub(crate) fn honest(_: &mut Letter<'_>) {}

/// Runs without a lie and returns everybody's share.
pub(crate) fn succeed(
    cast: &Cast,
    setup: &Setup,
    old: &BTreeMap<PartyIndex, KeyShare>,
) -> BTreeMap<PartyIndex, KeyShare> {
    let outcomes = run(cast, setup, old, honest);
    outcomes
        .into_iter()
        .zip(setup.parties())
        .filter_map(|(outcome, party)| Some((party, outcome.unwrap().0.share?)))
        .collect()
}

/// Shares of a fresh key.
pub(crate) fn keygen(cast: &Cast, required: u8) -> BTreeMap<PartyIndex, KeyShare> {
    succeed(cast, &cast.keygen(required), &BTreeMap::new())
}

pub(crate) fn refresh_setup(cast: &Cast, shares: &BTreeMap<PartyIndex, KeyShare>) -> Setup {
    let holders = shares
        .iter()
        .map(|(party, share)| (*party, share.index()))
        .collect();
    let key = shares.values().next().unwrap().public().clone();
    Setup::refresh(&cast.occasion(b"refresh"), key, holders).unwrap()
}

/// Reshare from `dealers` to `holders`, both by party.
pub(crate) fn reshare_setup(
    cast: &Cast,
    shares: &BTreeMap<PartyIndex, KeyShare>,
    dealers: &[u8],
    holders: &[u8],
    required: u8,
) -> Setup {
    let key = shares.values().next().unwrap().public().clone();
    let dealers = dealers
        .iter()
        .map(|d| (party(*d), shares[&party(*d)].index()))
        .collect();
    let holders = holders.iter().map(|h| party(*h)).collect();
    Setup::reshare(&cast.occasion(b"reshare"), key, dealers, holders, required).unwrap()
}

/// The shares of some parties only.
pub(crate) fn only(
    shares: BTreeMap<PartyIndex, KeyShare>,
    parties: &[u8],
) -> BTreeMap<PartyIndex, KeyShare> {
    shares
        .into_iter()
        .filter(|(party, _)| parties.contains(&party.value()))
        .collect()
}
