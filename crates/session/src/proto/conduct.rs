//! A formed session at work: executions and channels (`docs/spec/session.md` §7, §8).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    channel::{ChannelMessage, Receipt},
    error::{Misuse, SessionError},
    evidence::Culprit,
    execution::{Ending, Execution, Incoming, Kind, Purpose, Said, Seed, State},
    fault::{Blame, Fault, Reason},
    limits::{
        EXECUTIONS_OPEN_MAX, LABEL_BYTES_MAX, MESSAGE_BYTES_MAX, OUTBOX_BYTES,
        OUTBOX_RESERVE_BYTES, SMALL_BYTES_MAX, UNOPENED_MAX,
    },
    machine::{Agreed, Machine, Peer, Phase, Work},
    party::{Members, PartyIndex, check_text},
    pipe::Arrived,
    record::{Header, Record},
    statement::{self, InstanceId, Round},
    step::{Delta, Key, PeerSlot},
};

/// Distinguishes the identifiers of channels from those of executions.
const CHANNEL_CODE: u8 = 2;

/// The room that a message needs.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In whose outboxes.
    of: Members,
    /// How much may wait there already.
    bytes_max: usize,
}

impl Room {
    /// For any message.
    #[must_use]
    pub fn ordinary(of: Members) -> Self {
        Self {
            of,
            bytes_max: OUTBOX_BYTES,
        }
    }

    /// For a message of an execution of so many bytes.
    #[must_use]
    pub fn in_execution(of: Members, bytes: usize) -> Self {
        let mut room = Self::ordinary(of);
        if bytes <= SMALL_BYTES_MAX {
            room.bytes_max += OUTBOX_RESERVE_BYTES;
        }
        room
    }
}

impl Machine {
    /// The agreed roster of a formed session.
    pub(crate) fn formed(&self) -> Result<&Agreed, SessionError> {
        match (&self.phase, &self.agreed) {
            (Phase::Formed, Some(agreed)) => Ok(agreed),
            (Phase::Failed(failure), _) => Err(failure.error()),
            (Phase::Closing, _) => Err(Misuse::Closed.into()),
            (Phase::Meeting | Phase::Binding | Phase::Formed, _) => Err(Misuse::NotFormed.into()),
        }
    }

    /// Opens an execution, or takes it up again after a restart.
    pub(crate) fn open_execution(
        &mut self,
        purpose: Purpose,
        work: &mut Work<'_>,
    ) -> Result<InstanceId, SessionError> {
        let agreed = self.formed()?;
        let me = agreed.me;
        let session = agreed.id;
        purpose.check(me, Members::all(agreed.roster.count()))?;
        let id = purpose.instance(&session);
        if self.executions.contains_key(&id) {
            return Ok(id);
        }
        if let Some(ended) = self.ended.get(&id) {
            return Err(match &ended.state {
                State::Aborted(blame) => SessionError::Peer(blame.clone()),
                State::Finished { .. } | State::Running => Misuse::Finished.into(),
            });
        }
        let in_use = |execution: &Execution| execution.purpose.label == purpose.label;
        if self.executions.values().any(in_use) {
            return Err(Misuse::LabelInUse.into());
        }
        if self.executions.len() >= EXECUTIONS_OPEN_MAX {
            return Err(Misuse::TooMany("open executions").into());
        }
        let execution = Execution::new(session, purpose, me, work.rng);
        work.step
            .delta
            .put(Key::Execution(self.local, id), execution.encode());
        let members = execution.others();
        self.executions.insert(id, execution);
        self.catch_up_execution(id, work);
        // A member that is out already will never take part.
        let out = members
            .iter()
            .filter_map(|party| self.slot_of(party))
            .find_map(|slot| {
                let fault = self.peers.get(&slot)?.broken.clone()?;
                Some((slot, fault))
            });
        if let Some((slot, fault)) = out
            && let Some(culprit) = self.culprit(slot)
        {
            self.abort(&id, Blame { culprit, fault }.into(), work);
        }
        Ok(id)
    }

    /// Feeds an execution what came for it before it was open.
    pub(crate) fn catch_up_execution(&mut self, id: InstanceId, work: &mut Work<'_>) {
        for (slot, _, arrived) in self.unopened.remove(&id).unwrap_or_default() {
            if let Ok(record) = Record::decode(&arrived.record) {
                self.payload_record(slot, record, arrived, work);
            }
        }
    }

    /// A message of an execution or channel whose header is in order.
    pub(crate) fn payload_record(
        &mut self,
        slot: PeerSlot,
        record: Record,
        arrived: Arrived,
        work: &mut Work<'_>,
    ) {
        let (Record::P2p { header, .. }
        | Record::Broadcast { header, .. }
        | Record::Echo { header, .. }
        | Record::Abort { header, .. }
        | Record::Channel { header, .. }) = &record
        else {
            return;
        };
        let header = *header;
        if let Record::Channel { payload, .. } = record {
            self.channel_record(slot, &header, payload, &arrived, work);
            return;
        }
        if self.ended.contains_key(&header.instance) {
            // Late: everybody ends at its own time.
            self.drop_rows(slot, &arrived, &mut work.step.delta);
            return;
        }
        if !self.executions.contains_key(&header.instance) {
            self.keep_unopened(slot, &header, arrived, work);
            return;
        }
        self.execution_record(slot, record, &header, &arrived, work);
    }

    fn execution_record(
        &mut self,
        slot: PeerSlot,
        record: Record,
        header: &Header,
        arrived: &Arrived,
        work: &mut Work<'_>,
    ) {
        let formation = self.link.formation();
        let Some(mut execution) = self.executions.remove(&header.instance) else {
            return;
        };
        if !execution.purpose.members.contains(header.from) {
            // The members are part of the instance's hash, so an outsider cannot mean it. It must not
            // end what it has no part in.
            self.executions.insert(header.instance, execution);
            self.drop_rows(slot, arrived, &mut work.step.delta);
            self.fault(slot, Fault::OutOfPlace("message"), work);
            return;
        }
        let known = execution.knows(&record);
        let outcome = execution.receive(
            header.from,
            record,
            &self.court(&formation),
            &self.keys.signing,
        );
        if known && outcome.is_ok() {
            self.drop_rows(slot, arrived, &mut work.step.delta);
        } else {
            execution.rows.push((slot, arrived.first, arrived.last));
        }
        self.executions.insert(header.instance, execution);
        match outcome {
            Ok(said) => {
                for said in said {
                    self.put_out(&header.instance, said, work);
                }
            }
            Err(ending) => self.abort(&header.instance, ending, work),
        }
    }

    fn keep_unopened(
        &mut self,
        slot: PeerSlot,
        header: &Header,
        arrived: Arrived,
        work: &mut Work<'_>,
    ) {
        let from_sender = |messages: &Vec<(PeerSlot, PartyIndex, Arrived)>| {
            let first = messages.iter().find(|(_, from, _)| *from == header.from);
            first.map(|(_, _, arrived)| arrived.first)
        };
        let known = self.unopened.get(&header.instance).and_then(from_sender);
        if known.is_none() {
            let begun: Vec<_> = self
                .unopened
                .iter()
                .filter_map(|(id, messages)| Some((from_sender(messages)?, *id)))
                .collect();
            // Who takes part in more than we do breaks no rule: a holder of a key need not sign
            // everything. Only what it said first is forgotten.
            if begun.len() >= UNOPENED_MAX
                && let Some((_, oldest)) = begun.into_iter().min()
            {
                self.forget_unopened(&oldest, header.from, work);
            }
        }
        self.unopened
            .entry(header.instance)
            .or_default()
            .push((slot, header.from, arrived));
    }

    fn forget_unopened(&mut self, id: &InstanceId, sender: PartyIndex, work: &mut Work<'_>) {
        let Some(messages) = self.unopened.remove(id) else {
            return;
        };
        let (gone, kept): (Vec<_>, Vec<_>) = messages
            .into_iter()
            .partition(|(_, from, _)| *from == sender);
        for (slot, _, arrived) in gone {
            self.drop_rows(slot, &arrived, &mut work.step.delta);
        }
        if !kept.is_empty() {
            self.unopened.insert(*id, kept);
        }
    }

    fn put_out(&mut self, instance: &InstanceId, said: Said, work: &mut Work<'_>) {
        let (round, position, digest) = said.log;
        work.step.delta.put(
            Key::Sent(self.local, *instance, round, position),
            digest.to_vec(),
        );
        for (party, record) in said.records {
            self.push_to(party, &record, work.step);
        }
    }

    fn running(&mut self, id: &InstanceId) -> Result<&mut Execution, SessionError> {
        if let Some(ended) = self.ended.get(id) {
            return Err(match &ended.state {
                State::Aborted(blame) => SessionError::Peer(blame.clone()),
                State::Finished { .. } | State::Running => Misuse::Finished.into(),
            });
        }
        if self.phase == Phase::Closing {
            return Err(Misuse::Closed.into());
        }
        self.executions
            .get_mut(id)
            .ok_or(SessionError::Misuse(Misuse::NotOpen))
    }

    pub(crate) fn seed(&mut self, id: &InstanceId) -> Result<Seed, SessionError> {
        self.running(id).map(|execution| Seed(execution.seed.0))
    }

    /// How much has come of each other party; nothing is known of those who are not read for now.
    pub(crate) fn heard(&self) -> Vec<(PartyIndex, Option<u64>)> {
        let heard = |(&slot, peer): (&PeerSlot, &Peer)| {
            let heard = (!self.is_behind(slot)).then(|| peer.pipe.received());
            Some((self.party_of(slot)?, heard))
        };
        self.peers.iter().filter_map(heard).collect()
    }

    /// For whom so much waits already that there is no room for a message.
    pub(crate) fn without_room(&self, room: Room) -> Members {
        let full = |party: &PartyIndex| {
            let peer = self.slot_of(*party).and_then(|slot| self.peers.get(&slot));
            peer.is_some_and(|peer| {
                peer.broken.is_none() && peer.pipe.outbox_bytes() >= room.bytes_max
            })
        };
        room.of.iter().filter(full).collect()
    }

    pub(crate) fn say(
        &mut self,
        id: &InstanceId,
        round: Round,
        to: PartyIndex,
        payload: &Bytes,
        work: &mut Work<'_>,
    ) -> Result<(), SessionError> {
        if let Some(said) = self.running(id)?.say(round, to, payload)? {
            self.put_out(id, said, work);
        }
        Ok(())
    }

    pub(crate) fn broadcast(
        &mut self,
        id: &InstanceId,
        round: Round,
        payload: &Bytes,
        work: &mut Work<'_>,
    ) -> Result<(), SessionError> {
        self.running(id)?;
        let Some(execution) = self.executions.get_mut(id) else {
            return Err(Misuse::NotOpen.into());
        };
        if let Some(said) = execution.broadcast(round, payload, &self.keys.signing)? {
            self.put_out(id, said, work);
        }
        Ok(())
    }

    /// `None`: not all there yet.
    pub(crate) fn gather(
        &mut self,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        work: &mut Work<'_>,
    ) -> Result<Option<BTreeMap<PartyIndex, Bytes>>, SessionError> {
        let execution = self.running(id)?;
        if let Some(stranger) = from.minus(execution.purpose.members).iter().next() {
            return Err(Misuse::NotMember(stranger).into());
        }
        let gathered = execution.gather(round, kind, from);
        if gathered.is_some() {
            self.catch_up(work);
        } else if let Some(ending) = execution.deserted(round, kind, from) {
            let blame = ending.blame.clone();
            self.abort(id, ending, work);
            return Err(SessionError::Peer(blame));
        }
        Ok(gathered)
    }

    /// `None`: none there yet.
    pub(crate) fn next_message(
        &mut self,
        id: &InstanceId,
        work: &mut Work<'_>,
    ) -> Result<Option<Incoming>, SessionError> {
        let next = self.running(id)?.next_message();
        if next.is_some() {
            self.catch_up(work);
        }
        Ok(next)
    }

    /// Asks the parties that keep a round waiting what they have.
    pub(crate) fn probe_round(&mut self, id: &InstanceId, round: Round, kind: Kind, from: Members) {
        if let Ok(execution) = self.running(id) {
            let missing = execution.missing(round, kind, from);
            self.probe(missing);
        }
    }

    /// Who keeps `round` from being complete, for a caller whose patience is over but who ends nothing by
    /// that; unless it is over anyway, because somebody who is missing has stopped.
    pub(crate) fn lapse(
        &mut self,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        work: &mut Work<'_>,
    ) -> Result<Members, SessionError> {
        let execution = self.running(id)?;
        if execution.is_lost(round, kind, from) {
            self.expire(id, round, kind, from, work)?;
        }
        Ok(self.running(id)?.missing(round, kind, from))
    }

    /// Whether `round` lacks nothing but echoes.
    pub(crate) fn lacks_echoes_only(
        &mut self,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
    ) -> Result<bool, SessionError> {
        Ok(self.running(id)?.lacks_echoes_only(round, kind, from))
    }

    /// The deadline of a round has passed: ends the execution in the name of the silent.
    pub(crate) fn expire(
        &mut self,
        id: &InstanceId,
        round: Round,
        kind: Kind,
        from: Members,
        work: &mut Work<'_>,
    ) -> Result<(), SessionError> {
        if let Some(ending) = self.running(id)?.expired(round, kind, from) {
            self.abort(id, ending, work);
        }
        Ok(())
    }

    /// The protocol above gives up.
    pub(crate) fn give_up(
        &mut self,
        id: &InstanceId,
        text: &str,
        accused: Members,
        work: &mut Work<'_>,
    ) -> Result<(), SessionError> {
        self.running(id)?;
        let Some(execution) = self.executions.get(id) else {
            return Err(Misuse::NotOpen.into());
        };
        let reason = Reason::gave_up(text, accused);
        let fault = Fault::GaveUp(Box::new(reason.clone()));
        let ending = Ending {
            blame: Blame::party(execution.me, fault),
            cause: Some(execution.abort(reason, &self.keys.signing)),
        };
        self.abort(id, ending, work);
        Ok(())
    }

    pub(crate) fn transcript(&mut self, id: &InstanceId) -> Result<[u8; 32], SessionError> {
        if let Some(ended) = self.ended.get(id) {
            return Ok(ended.transcript());
        }
        self.running(id).map(|execution| execution.transcript())
    }

    /// The protocol succeeded: forgets all of it but its label and transcript.
    pub(crate) fn finish(
        &mut self,
        id: &InstanceId,
        work: &mut Work<'_>,
    ) -> Result<[u8; 32], SessionError> {
        let transcript = self.running(id)?.transcript();
        self.end(id, State::Finished { transcript }, &mut work.step.delta);
        self.catch_up(work);
        Ok(transcript)
    }

    /// Ends an execution in failure, and tells the other members why: each member does so, once.
    fn abort(&mut self, id: &InstanceId, ending: Ending, work: &mut Work<'_>) {
        let Some(execution) = self.executions.get(id) else {
            return;
        };
        let Ending { blame, cause } = ending;
        let abort = cause.unwrap_or_else(|| execution.abort(blame.reason(), &self.keys.signing));
        for (party, record) in execution.passed_on(&abort) {
            self.push_to(party, &record, work.step);
        }
        self.end(id, State::Aborted(blame), &mut work.step.delta);
        self.catch_up(work);
    }

    fn end(&mut self, id: &InstanceId, state: State, delta: &mut Delta) {
        let Some(mut execution) = self.executions.remove(id) else {
            return;
        };
        let ended = execution.end(state);
        for (round, position) in ended.sent {
            delta.delete(Key::Sent(self.local, *id, round, position));
        }
        for (slot, first, last) in ended.rows {
            for seq in first..=last {
                delta.delete(Key::In(self.local, slot, seq));
            }
        }
        delta.put(Key::Execution(self.local, *id), execution.encode());
        self.ended.insert(*id, execution);
    }

    /// A peer is out: so is every execution that needs it.
    pub(crate) fn abort_all_with(&mut self, slot: PeerSlot, blame: &Blame, work: &mut Work<'_>) {
        let Some(Culprit::Party(party)) = self.culprit(slot) else {
            return;
        };
        let affected: Vec<_> = self
            .executions
            .iter()
            .filter(|(_, execution)| execution.purpose.members.contains(party))
            .map(|(id, _)| *id)
            .collect();
        for id in affected {
            self.abort(&id, blame.clone().into(), work);
        }
    }

    pub(crate) fn erase_executions(&mut self, delta: &mut Delta) {
        let running: Vec<_> = self.executions.keys().copied().collect();
        for id in running {
            self.end(
                &id,
                State::Finished {
                    transcript: [0; 32],
                },
                delta,
            );
        }
        for id in core::mem::take(&mut self.ended).into_keys() {
            delta.delete(Key::Execution(self.local, id));
        }
    }

    pub(crate) fn erase_unread(&mut self, delta: &mut Delta) {
        for (slot, _, arrived) in core::mem::take(&mut self.unopened).into_values().flatten() {
            self.drop_rows(slot, &arrived, delta);
        }
        for receipt in self.channels.clear() {
            self.drop_receipt(&receipt, delta);
        }
    }

    /// A channel's identifier.
    pub(crate) fn channel(&self, label: &str) -> Result<InstanceId, SessionError> {
        let agreed = self.formed()?;
        check_text(label, LABEL_BYTES_MAX, "label").map_err(Misuse::from)?;
        if label.is_empty() {
            return Err(Misuse::Argument("label").into());
        }
        let all = Members::all(agreed.roster.count());
        Ok(statement::instance(&agreed.id, all, CHANNEL_CODE, label))
    }

    pub(crate) fn channel_say(
        &mut self,
        channel: &InstanceId,
        to: PartyIndex,
        payload: Bytes,
        work: &mut Work<'_>,
    ) -> Result<(), SessionError> {
        let me = self.formed()?.me;
        if !self.others().contains(to) {
            return Err(Misuse::NotMember(to).into());
        }
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(Misuse::TooLong.into());
        }
        if let Some(fault) = self
            .slot_of(to)
            .and_then(|slot| self.peers.get(&slot))
            .and_then(|peer| peer.broken.clone())
        {
            return Err(SessionError::Peer(Blame::party(to, fault)));
        }
        let header = Header {
            instance: *channel,
            round: Round(0),
            from: me,
            to,
        };
        self.push_to(to, &Record::Channel { header, payload }, work.step);
        Ok(())
    }

    fn channel_record(
        &mut self,
        slot: PeerSlot,
        header: &Header,
        payload: Bytes,
        arrived: &Arrived,
        work: &mut Work<'_>,
    ) {
        if header.round != Round(0) {
            self.drop_rows(slot, arrived, &mut work.step.delta);
            self.fault(slot, Fault::Malformed("channel message"), work);
            return;
        }
        self.channels.push(
            header.instance,
            ChannelMessage {
                from: header.from,
                payload,
                receipt: Receipt {
                    slot,
                    first: arrived.first,
                    last: arrived.last,
                },
            },
        );
    }

    pub(crate) fn channel_next(
        &mut self,
        channel: &InstanceId,
        work: &mut Work<'_>,
    ) -> Result<Option<ChannelMessage>, SessionError> {
        let next = self.channels.next(channel);
        match next {
            Some(message) => {
                self.catch_up(work);
                Ok(Some(message))
            }
            None => {
                // What arrived is still given out after a party or the session is gone.
                self.formed()?;
                Ok(None)
            }
        }
    }

    pub(crate) fn channel_done(&mut self, receipt: &Receipt, work: &mut Work<'_>) {
        self.drop_receipt(receipt, &mut work.step.delta);
    }

    fn drop_receipt(&self, receipt: &Receipt, delta: &mut Delta) {
        for seq in receipt.first..=receipt.last {
            delta.delete(Key::In(self.local, receipt.slot, seq));
        }
    }
}
