//! Reliable broadcast: what its sender signs every other member echoes, and it is delivered once all
//! echoed the same (`docs/spec/session.md` §7.2).

use std::collections::BTreeMap;

use bytes::Bytes;
use junto_crypto::{
    ed25519::{Signature, SigningKey},
    hash,
};

use super::{
    super::{
        error::Misuse,
        evidence::{Court, Evidence},
        fault::{Blame, Fault},
        limits::EARLY_CLAIM_BYTES,
        party::{Members, PartyIndex},
        record::{EchoEntry, Header, Record},
        statement::{self, PayloadHash, Round, Slot},
    },
    Execution, Kind, Mode, SENT_BROADCAST, SENT_ECHO, SENT_ECHO_OF, Said, verify,
};

#[derive(Default)]
pub(super) struct Broadcast {
    pub(super) value: Option<(PayloadHash, Signature, Bytes)>,
    /// What each echoer says the sender signed.
    pub(super) claims: BTreeMap<PartyIndex, (PayloadHash, Signature)>,
    pub(super) delivered: bool,
}

impl Execution {
    /// A broadcast; the records are empty if it was made before.
    pub(crate) fn broadcast(
        &mut self,
        round: Round,
        payload: &Bytes,
        key: &SigningKey,
    ) -> Result<Option<Said>, Misuse> {
        let said = self.may_say(round, SENT_BROADCAST, payload)?;
        let digest = said.unwrap_or_else(|| statement::payload(payload));
        let signature = key.sign(&self.slot(round, self.me).broadcast(&digest));
        let mine = self
            .broadcasts
            .entry(round)
            .or_default()
            .entry(self.me)
            .or_default();
        let is_new = mine.value.is_none();
        mine.value = Some((digest, signature, payload.clone()));
        mine.delivered = true;
        if is_new {
            self.note_no_longer_early(round, self.me);
        }
        if said.is_none() {
            return Ok(None);
        }
        self.sent.insert((round, SENT_BROADCAST), digest);
        let records = self
            .others()
            .iter()
            .map(|to| {
                let record = Record::Broadcast {
                    header: self.header(round, to),
                    signature,
                    payload: payload.clone(),
                };
                (to, record)
            })
            .collect();
        Ok(Some(Said {
            log: (round, SENT_BROADCAST, digest),
            records,
        }))
    }

    pub(super) fn receive_broadcast(
        &mut self,
        header: &Header,
        signature: Signature,
        payload: Bytes,
        court: &Court<'_>,
    ) -> Result<(), Blame> {
        let digest = statement::payload(&payload);
        let slot = self.slot(header.round, header.from);
        if !verify(
            court.roster,
            header.from,
            &slot.broadcast(&digest),
            &signature,
        ) {
            return Err(Blame::party(header.from, Fault::BadSignature("broadcast")));
        }
        let broadcast = self
            .broadcasts
            .entry(header.round)
            .or_default()
            .entry(header.from)
            .or_default();
        let mine = (digest, signature);
        let conflict = broadcast
            .value
            .as_ref()
            .map(|(digest, signature, _)| (*digest, *signature))
            .into_iter()
            .chain(broadcast.claims.values().copied())
            .find(|(other, _)| *other != digest);
        if let Some(other) = conflict {
            return Err(equivocation(slot, mine, other));
        }
        if broadcast.value.is_some() {
            return Ok(()); // the same again
        }
        let bytes = payload.len();
        broadcast.value = Some((digest, signature, payload));
        self.note_unread(header.from, Kind::Broadcast, header.round, bytes);
        self.note_no_longer_early(header.round, header.from);
        self.deliver(header.round, header.from);
        Ok(())
    }

    /// Marks a broadcast as delivered once everybody else confirmed it.
    fn deliver(&mut self, round: Round, sender: PartyIndex) {
        let echoers = self.others().without(sender);
        let Some(broadcast) = self
            .broadcasts
            .get_mut(&round)
            .and_then(|round| round.get_mut(&sender))
        else {
            return;
        };
        if broadcast.delivered || broadcast.value.is_none() {
            return;
        }
        // Claims that differ from the value never get here: they end the execution.
        if echoers
            .iter()
            .all(|echoer| broadcast.claims.contains_key(&echoer))
        {
            broadcast.delivered = true;
            self.ready.push_back((sender, Kind::Broadcast, round));
        }
    }

    pub(super) fn echo(&mut self, round: Round, sender: PartyIndex, key: &SigningKey) -> Vec<Said> {
        if self.purpose.members.len() == 2 {
            return Vec::new(); // there is nobody to tell
        }
        let (position, senders) = match self.purpose.mode {
            Mode::Rounds => (SENT_ECHO, self.others()),
            Mode::Messages => (SENT_ECHO_OF + sender.as_u8(), Members::NONE.with(sender)),
        };
        if self.sent.contains_key(&(round, position)) {
            return Vec::new();
        }
        let received = self.broadcasts.get(&round);
        let entries: Vec<_> = senders
            .iter()
            .filter_map(|sender| {
                let (payload, signature, _) = received?.get(&sender)?.value.as_ref()?;
                Some(EchoEntry {
                    sender,
                    payload: *payload,
                    signature: *signature,
                })
            })
            .collect();
        if entries.len() < senders.len() {
            return Vec::new();
        }
        let bytes = EchoEntry::encode_all(&entries);
        let signature = key.sign(&self.slot(round, self.me).echo(&bytes));
        let digest = hash::sha256(&bytes);
        self.sent.insert((round, position), digest);
        let records = self
            .others()
            .iter()
            .map(|to| {
                let record = Record::Echo {
                    header: self.header(round, to),
                    signature,
                    entries: entries.clone(),
                };
                (to, record)
            })
            .collect();
        vec![Said {
            log: (round, position, digest),
            records,
        }]
    }

    pub(super) fn receive_echo(
        &mut self,
        header: &Header,
        signature: Signature,
        entries: &[EchoEntry],
        court: &Court<'_>,
    ) -> Result<(), Blame> {
        let slot = self.slot(header.round, header.from);
        let bytes = EchoEntry::encode_all(entries);
        if !verify(court.roster, header.from, &slot.echo(&bytes), &signature) {
            return Err(Blame::party(header.from, Fault::BadSignature("echo")));
        }
        let senders: Members = entries.iter().map(|entry| entry.sender).collect();
        let echoable = self.purpose.members.without(header.from);
        let complete = match self.purpose.mode {
            Mode::Rounds => senders == echoable,
            Mode::Messages => senders.len() == 1 && echoable.covers(senders),
        };
        if !complete {
            return Err(Blame::party(header.from, Fault::Malformed("echo")));
        }
        for (position, entry) in (0u8..).zip(entries) {
            let false_echo = || {
                Blame::party(
                    header.from,
                    Fault::Proven(Box::new(Evidence::FalseEcho {
                        slot,
                        entries: entries.to_vec(),
                        signature,
                        entry: position,
                    })),
                )
            };
            self.receive_claim(header, entry, court, false_echo)?;
        }
        Ok(())
    }

    fn receive_claim(
        &mut self,
        header: &Header,
        entry: &EchoEntry,
        court: &Court<'_>,
        false_echo: impl Fn() -> Blame,
    ) -> Result<(), Blame> {
        let slot = self.slot(header.round, entry.sender);
        let claim = (entry.payload, entry.signature);
        let broadcast = self
            .broadcasts
            .entry(header.round)
            .or_default()
            .entry(entry.sender)
            .or_default();
        let known = broadcast
            .value
            .as_ref()
            .map(|(digest, signature, _)| (*digest, *signature))
            .into_iter()
            .chain(broadcast.claims.values().copied());
        let mut conflict = None;
        let mut verified = false;
        for other in known {
            verified |= other == claim;
            if other.0 != claim.0 {
                conflict = Some(other);
            }
        }
        if !verified
            && !verify(
                court.roster,
                entry.sender,
                &slot.broadcast(&entry.payload),
                &entry.signature,
            )
        {
            return Err(false_echo());
        }
        if entry.sender == self.me && broadcast.value.is_none() {
            // Signed by us, yet not said in this run: only a restarted protocol that has not
            // spoken yet gets here, and its sent log says what it will say.
            let said = self.sent.get(&(header.round, SENT_BROADCAST));
            if said != Some(&entry.payload) {
                return Err(false_echo());
            }
        }
        if let Some(other) = conflict {
            return Err(equivocation(slot, claim, other));
        }
        let is_early = broadcast.value.is_none();
        let is_new = broadcast.claims.insert(header.from, claim).is_none();
        if is_early && is_new {
            self.unread_sums
                .entry(header.from)
                .or_default()
                .add(EARLY_CLAIM_BYTES);
        }
        self.deliver(header.round, entry.sender);
        Ok(())
    }

    /// A broadcast is here: what was claimed about it before is not early any more.
    fn note_no_longer_early(&mut self, round: Round, sender: PartyIndex) {
        let claims = self
            .broadcasts
            .get(&round)
            .and_then(|round| round.get(&sender))
            .map(|broadcast| &broadcast.claims);
        for echoer in claims.into_iter().flat_map(BTreeMap::keys) {
            if let Some(sum) = self.unread_sums.get_mut(echoer) {
                sum.remove(EARLY_CLAIM_BYTES);
            }
        }
    }

    pub(super) fn broadcast_of(&self, round: Round, sender: PartyIndex) -> Option<&Broadcast> {
        self.broadcasts.get(&round)?.get(&sender)
    }

    /// Whether the payload is here.
    pub(super) fn has_value(&self, round: Round, sender: PartyIndex) -> bool {
        self.broadcast_of(round, sender)
            .is_some_and(|broadcast| broadcast.value.is_some())
    }
}

fn equivocation(
    slot: Slot,
    first: (PayloadHash, Signature),
    second: (PayloadHash, Signature),
) -> Blame {
    Blame::party(
        slot.sender,
        Fault::Proven(Box::new(Evidence::Equivocation {
            slot,
            first,
            second,
        })),
    )
}
