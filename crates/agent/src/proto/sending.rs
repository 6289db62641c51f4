//! What a connection sends: numbered messages into the outbox, the outbox to the relay until it says
//! OK, in order; with several queues, to each relay, or to one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use junto_crypto::secretbox::BoxKey;
use junto_crypto::{CryptoRng, Zeroizing};

use super::address::QueueName;
use super::command::{CallError, Misuse, Reply, Ticket};
use super::connection::{
    AWAITING_MAX, Connection, Keys, OUTBOX_MAX, Role, STRIPES_AHEAD_MAX, Stage, WINDOW,
};
use super::effects::{Effects, Owner, Purpose, Timer};
use super::envelope::Envelope;
use super::event::ConnectionFault;
use super::id::MessageId;
use super::layer::{self, Confirmed, SealedBody};
use super::message::{AgentMessage, Body, RECEIPTS_MAX, Receipt, message_padding};
use super::parallel::Spread;
use super::queue::SendQueue;
use super::relay::{Answer, Operation, Refusal};
use super::rotation::Place;
use super::step::{Row, RowKey};

/// How long receipts are gathered before they are sent.
pub(super) const RECEIPTS_DELAY: Duration = Duration::from_millis(250);

/// The first wait for a full queue; doubles up to [`QUOTA_DELAY_MAX`]. The peer's word that it has
/// room again ends it early.
const QUOTA_DELAY: Duration = Duration::from_secs(1);
const QUOTA_DELAY_MAX: Duration = Duration::from_secs(60);

/// The first wait for an overloaded way to the relay; doubles up to 64 times this. Those that came through
/// behind the one that did not wait for it with the receiver, ten seconds at most.
const BUSY_DELAY: Duration = Duration::from_millis(50);

/// Why nothing can be sent: a bug of ours, since sizes are checked before.
const TOO_LONG: CallError = CallError::Defect("a message does not fit its envelope");

/// Messages kept for a relay that does not take them while another one has, 16 KiB each, 4 MiB a connection; the
/// oldest is forgotten beyond that. A relay stores 128 messages of a queue: of what went to the same queue before
/// that many others, its recipient has all.
pub(super) const KEPT_MAX: usize = 256;
const _: () = assert!(KEPT_MAX >= 2 * 128);

/// Which outbox rows a queue is given.
struct Share<'a> {
    outbox: &'a BTreeMap<u64, Bytes>,
    barriers: &'a [u64],
    /// The last one whose time to go has come.
    open: u64,
    /// If each row goes to one queue only.
    stripe: Option<Stripe>,
}

struct Stripe {
    /// Which queue's turn it is, of how many.
    turn: u64,
    of: u64,
    /// The first row that no relay has.
    first: u64,
    /// Rows in flight to any.
    in_flight: BTreeSet<u64>,
}

impl Share<'_> {
    /// Whether this row is for the queue whose turn it is.
    fn has(&self, number: u64) -> bool {
        if number > self.open {
            return false;
        }
        let Some(stripe) = &self.stripe else {
            return true;
        };
        let is_near = number.saturating_sub(stripe.first) <= STRIPES_AHEAD_MAX;
        let is_its = number % stripe.of.max(1) == stripe.turn;
        self.barriers.contains(&number)
            || (is_near && is_its && !stripe.in_flight.contains(&number))
    }
}

impl SendQueue {
    /// Sends what the window has room for, as `seal` makes it. A message that must go again waits until everything
    /// behind it is answered, so that the order stays. Gives the rows of which `seal` makes nothing.
    fn send_share(
        &mut self,
        owner: Owner,
        share: &mut Share<'_>,
        seal: impl Fn(&Self, u64, &Bytes) -> Option<Bytes>,
        effects: &mut Effects,
    ) -> Vec<u64> {
        let mut unfit = Vec::new();
        if self
            .refused
            .is_some_and(|it| !share.outbox.contains_key(&it))
        {
            // Another queue's relay took it.
            self.refused = None;
            self.refusals = 0;
        }
        // A message that was refused goes alone: another one behind it could get in first again.
        let window = if self.refused.is_some() { 1 } else { WINDOW };
        for (&number, row) in share.outbox {
            let is_done = self.in_flight.contains(&number) || self.taken.contains(&number);
            if is_done || !share.has(number) {
                continue;
            }
            let overtaken = self.in_flight.last().is_some_and(|&last| last > number);
            // Nothing passes new keys, in either direction: nor by another queue that has a part of what comes before.
            let is_early = share.stripe.as_ref().is_some_and(|it| it.first < number);
            let barred = share.barriers.iter().any(|&barrier| {
                let is_next = number == barrier && (is_early || !self.in_flight.is_empty());
                !self.taken.contains(&barrier) && (number > barrier || is_next)
            });
            if overtaken || barred || self.in_flight.len() >= window {
                break;
            }
            let Some(body) = seal(self, number, row) else {
                self.taken.insert(number);
                unfit.push(number);
                continue;
            };
            self.in_flight.insert(number);
            if let Some(stripe) = &mut share.stripe {
                stripe.in_flight.insert(number);
            }
            let operation = Operation::Send {
                queue: self.address.sender_id,
                auth: self.send_auth(),
                body,
            };
            effects.command(self.relay, owner, Purpose::Send(number), operation);
        }
        if let Some(stripe) = &mut share.stripe {
            stripe.turn += 1;
        }
        unfit
    }
}

/// What is in an outbox row; `None` for one with our key for the queue, which goes to the first queue only.
fn opened(key: &BoxKey, row: &[u8]) -> Option<Confirmed> {
    let sealed = SealedBody::read(row).ok()?;
    let is_plain = sealed.sender_key.is_none();
    is_plain.then(|| sealed.open(key).ok()).flatten()
}

/// The envelope of an outbox row, with its number if it is a message.
fn numbered(key: &BoxKey, number: u64, row: &[u8]) -> Option<Vec<u8>> {
    let opened = opened(key, row)?;
    let envelope = opened.envelope();
    let Ok(Envelope::Message { ratcheted }) = Envelope::read(envelope) else {
        return Some(envelope.to_vec());
    };
    let mut out = Vec::with_capacity(envelope.len() + 8);
    Envelope::Numbered { number, ratcheted }
        .put(&mut out)
        .ok()?;
    Some(out)
}

impl Connection {
    /// Issues the commands that are due now, for all queues.
    pub(super) fn pump(&mut self, effects: &mut Effects) {
        let owner = self.owner();
        match self.stage {
            Stage::Failed(_) => {}
            Stage::Deleting => self.pump_deletion(effects),
            Stage::Hearing => self.pump_hearing(effects),
            Stage::Leaving(_) => self.pump_leaving(effects),
            Stage::Inviting | Stage::Joining | Stage::Confirming | Stage::Active => {
                // What our queue has comes after the rest of the one before.
                if !self.rotation.draining {
                    self.receive.pump(owner, effects);
                }
                self.pump_rotation(effects);
                self.pump_parallel(effects);
                if let Some(send) = &mut self.send {
                    send.pump_secure(owner, effects);
                }
                self.pump_outbox(effects);
            }
        }
    }

    /// Gives each queue what is due there.
    pub(super) fn pump_outbox(&mut self, effects: &mut Effects) {
        let owner = self.owner();
        let is_leaving = self.rotation.is_leaving();
        let Some(first) = &mut self.send else { return };
        let theirs = &mut self.parallel.theirs;
        let may_send = |send: &SendQueue| send.may_send(effects);
        let first_may = may_send(first) && !is_leaving;
        let of = u64::from(first_may) + theirs.iter().filter(|it| may_send(&it.1)).count() as u64;
        let is_last = matches!(self.stage, Stage::Leaving(_));
        let is_striped = !theirs.is_empty() && self.parallel.spread == Spread::Stripes && !is_last;
        let in_flight = theirs.iter().flat_map(|(_, send)| &send.in_flight);
        let mut share = Share {
            outbox: &self.outbox,
            barriers: &self.resync.barriers,
            open: self.slots.open(),
            stripe: is_striped.then(|| Stripe {
                turn: 0,
                of,
                first: self
                    .outbox
                    .keys()
                    .find(|it| !self.kept.contains(it))
                    .copied()
                    .unwrap_or(0),
                in_flight: in_flight.chain(&first.in_flight).copied().collect(),
            }),
        };
        if first_may {
            first.send_share(owner, &mut share, |_, _, row| Some(row.clone()), effects);
        }
        let mut unfit = Vec::new();
        for (slot, send) in theirs {
            if !send.may_send(effects) {
                continue;
            }
            let copy = |send: &SendQueue, number, row: &Bytes| {
                let envelope = numbered(&first.layer_key, number, row)?;
                let name = &send.address.sender_id;
                let sealed = layer::seal_copy(&send.layer_key, name, &envelope);
                sealed.ok().map(Bytes::from)
            };
            unfit.extend(send.send_share(
                Owner::Parallel(self.id, *slot),
                &mut share,
                copy,
                effects,
            ));
        }
        for number in unfit {
            if self.kept.contains(&number) {
                self.taken(number, effects);
            }
        }
    }

    /// A relay has an outbox row. It goes, unless another relay is to have it, too.
    fn taken(&mut self, number: u64, effects: &mut Effects) {
        let is_for_all = self.parallel.spread == Spread::Copies
            || self.resync.barriers.contains(&number)
            || matches!(self.stage, Stage::Leaving(_));
        if is_for_all && self.sends().any(|send| !send.taken.contains(&number)) {
            self.kept.insert(number);
            if self.kept.len() <= KEPT_MAX {
                return;
            }
            if let Some(&oldest) = self.kept.first() {
                self.drop_row(oldest, effects);
            }
        } else {
            self.drop_row(number, effects);
        }
    }

    /// Forgets the rows that no queue waits for any more.
    pub(super) fn drop_taken(&mut self, effects: &mut Effects) {
        for number in self.kept.clone() {
            self.taken(number, effects);
        }
    }

    pub(super) fn drop_row(&mut self, number: u64, effects: &mut Effects) {
        self.kept.remove(&number);
        if self.outbox.remove(&number).is_some() {
            effects.delta.delete(self.outbox_key(number));
            self.passed(number, effects);
        }
        for send in self.sends_mut() {
            send.taken.remove(&number);
        }
    }

    /// Whether an outbox row up to this one is at no relay.
    pub(super) fn has_untaken(&self, last: u64) -> bool {
        let mut rows = self.outbox.range(..=last);
        rows.any(|(row, _)| !self.kept.contains(row))
    }

    /// Outbox rows that no relay has.
    pub(super) fn untaken(&self) -> usize {
        self.outbox.len().saturating_sub(self.kept.len())
    }

    /// Seals all rows for the queue that is the first one now; they were sealed with `old`, if that was another one.
    /// With several queues they get their numbers.
    pub(super) fn seal_outbox_anew(
        &mut self,
        old: Option<&BoxKey>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(send) = &self.send else { return };
        let is_several = !self.parallel.theirs.is_empty();
        for (number, row) in core::mem::take(&mut self.outbox) {
            let old = old.unwrap_or(&send.layer_key);
            let envelope = if is_several {
                numbered(old, number, &row)
            } else {
                opened(old, &row).map(|it| it.envelope().to_vec())
            };
            let sealed = envelope.and_then(|it| layer::seal(&send.layer_key, None, &it, rng).ok());
            let key = RowKey::Outbox(self.id, number);
            match sealed {
                Some(sealed) => {
                    effects.delta.put(key, Row::new(sealed.clone()));
                    self.outbox.insert(number, sealed.into());
                }
                // Our confirmation, which the peer has, or it would not have said anything.
                None => {
                    self.kept.remove(&number);
                    effects.delta.delete(key);
                }
            }
        }
    }

    /// Takes the relay's answer to `SKEY`.
    pub(super) fn secured(
        &mut self,
        answer: &Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(send) = &mut self.send else { return };
        send.securing = false;
        match answer {
            Answer::Done => {
                send.secured = true;
                effects.changed(self.owner());
            }
            Answer::Refused(Refusal::Auth) => {
                if matches!(self.stage, Stage::Active | Stage::Leaving(_)) {
                    // It was ours before: said again, because the relay's word for it was lost.
                    return self.leave_send(self.owner(), effects, rng);
                }
                let fault = match self.role {
                    Role::Joiner => ConnectionFault::LinkUsed,
                    Role::Maker | Role::Requester => ConnectionFault::PeerGone,
                };
                self.fail(fault, effects);
            }
            Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                effects.wake_after(super::effects::RETRY_DELAY, Timer::Retry(send.relay));
            }
        }
    }

    /// Takes the relay's answer to the `SEND` of an outbox row.
    pub(super) fn sent(
        &mut self,
        owner: Owner,
        number: u64,
        answer: &Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let is_awaited = self.waits_for_another(owner);
        let Some(send) = self.send_queue(owner) else {
            return;
        };
        send.in_flight.remove(&number);
        match answer {
            Answer::Done => {
                send.blocked = false;
                if send.refused.is_none_or(|refused| refused == number) {
                    send.refused = None;
                    send.refusals = 0;
                }
                if self.outbox.contains_key(&number) {
                    if let Some(send) = self.send_queue(owner) {
                        send.taken.insert(number);
                    }
                    self.taken(number, effects);
                }
                self.confirmed_by_relay(number, effects);
                // What waited for room.
                self.speak_of_queues(effects, rng);
                self.admit_waiting(effects, rng);
                self.time_receipts(effects);
                effects.ready(self.owner());
            }
            // Before our right to the queue is confirmed, the answer to `SKEY` decides.
            Answer::Refused(Refusal::Auth) if !send.secured && !send.is_open() => {}
            Answer::Refused(Refusal::Auth) if is_awaited => self.await_opening(number, effects),
            Answer::Refused(Refusal::Auth) => self.leave_send(owner, effects, rng),
            Answer::Refused(refusal) => {
                send.refused = Some(send.refused.map_or(number, |first| first.min(number)));
                if !send.blocked {
                    send.blocked = true;
                    let first = match refusal {
                        Refusal::Busy => BUSY_DELAY,
                        _ => QUOTA_DELAY,
                    };
                    let delay = first.saturating_mul(1 << send.refusals.min(6));
                    send.refusals += 1;
                    effects.wake_after(delay.min(QUOTA_DELAY_MAX), Timer::Quota(self.id));
                }
            }
            // Nothing that a relay may say to it.
            Answer::Created { .. } | Answer::Link(_) => {}
        }
    }

    /// The peer's queue may have room again.
    pub(super) fn unblock(&mut self, effects: &mut Effects) {
        for send in self.sends_mut() {
            send.blocked = false;
        }
        effects.ready(self.owner());
    }

    /// Sends a message of the application, now or when there is room.
    pub(super) fn send_message(
        &mut self,
        ticket: Ticket,
        body: Vec<u8>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        match self.stage {
            Stage::Active
                if self.untaken() >= OUTBOX_MAX
                    || !self.waiting.is_empty()
                    || !self.may_speak() =>
            {
                self.waiting.push_back((ticket, body));
            }
            Stage::Active if !self.can_send() => self.send_renewed((ticket, body), effects, rng),
            Stage::Active => {
                let answer = self.enqueue(&Body::Message(&body), effects, rng);
                effects.answer(ticket, answer.map(Reply::Message));
            }
            Stage::Failed(fault) => effects.answer(ticket, Err(fault.into())),
            Stage::Hearing => effects.answer(ticket, Err(ConnectionFault::PeerGone.into())),
            Stage::Leaving(_) | Stage::Deleting => {
                effects.answer(ticket, Err(Misuse::NoConnection.into()));
            }
            Stage::Inviting | Stage::Joining | Stage::Confirming => {
                effects.answer(ticket, Err(Misuse::NotConnected.into()));
            }
        }
    }

    /// Encrypts a numbered message into the outbox.
    pub(super) fn enqueue(
        &mut self,
        body: &Body<'_>,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<MessageId, CallError> {
        match self.stage {
            Stage::Hearing => return Err(ConnectionFault::PeerGone.into()),
            Stage::Leaving(_) => return Err(Misuse::NoConnection.into()),
            _ => {}
        }
        self.heal_if_due(effects);
        let (Keys::Agreed(ratchet), Some(send)) = (&mut self.keys, &self.send) else {
            return Err(Misuse::NotConnected.into());
        };
        let number = self.sent.next_id();
        let mut plain = Zeroizing::new(Vec::with_capacity(16 * 1024));
        let message = AgentMessage::Numbered {
            id: number,
            previous_hash: self.sent.previous_hash(),
            body: body.clone(),
        };
        message.put(&mut plain).map_err(|_| TOO_LONG)?;
        let ratcheted = ratchet
            .encrypt(&plain, message_padding(ratchet))
            .map_err(|_| TOO_LONG)?;
        let mut envelope = Vec::with_capacity(ratcheted.len() + 11);
        let ratcheted = &ratcheted[..];
        let of_several = !self.parallel.theirs.is_empty();
        if of_several {
            Envelope::Numbered { number, ratcheted }
        } else {
            Envelope::Message { ratcheted }
        }
        .put(&mut envelope)
        .map_err(|_| TOO_LONG)?;
        let sealed = layer::seal(&send.layer_key, None, &envelope, rng).map_err(|_| TOO_LONG)?;
        let hash = self.sent.push(&plain);
        if matches!(body, Body::Message(_)) {
            if self.awaiting.len() == AWAITING_MAX {
                self.awaiting.pop_first();
            }
            self.awaiting.insert(number, hash);
        }
        self.put_outbox(number, sealed, effects);
        Ok(MessageId::new(number))
    }

    /// Stores an encrypted queue message until the relay has it.
    pub(super) fn put_outbox(&mut self, number: u64, sealed: Vec<u8>, effects: &mut Effects) {
        let sealed = Bytes::from(sealed);
        effects
            .delta
            .put(self.outbox_key(number), Row::new(sealed.to_vec()));
        self.outbox.insert(number, sealed);
        effects.changed(self.owner());
    }

    /// Tells the peer which of its messages our application has.
    pub(super) fn send_receipts(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        self.receipts_timed = false;
        let are_wanted = self.slots.wants_receipts(!self.receipts.is_empty());
        let owes_answer = self.slots.take_answer();
        // While the peer takes nothing, they wait where they are small, until something has left; an answer is no
        // more than a sign that we are there.
        let most = if owes_answer { WINDOW } else { OUTBOX_MAX };
        let may_send = self.may_speak() && self.can_send() && self.untaken() < most;
        if self.stage != Stage::Active || !are_wanted || !may_send {
            return;
        }
        if self.receipts.is_empty() {
            self.answer_with_noise(effects, rng);
        } else {
            self.enqueue_receipts(effects, rng);
        }
        self.time_receipts(effects);
    }

    /// Encrypts receipts that are due into the outbox.
    pub(super) fn enqueue_receipts(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let count = self.receipts.len().min(RECEIPTS_MAX);
        let due: Vec<_> = self.receipts.drain(..count).collect();
        let receipts = due
            .into_iter()
            .map(|due| Receipt {
                id: due.id,
                hash: due.hash,
                info: &[],
            })
            .collect();
        // Sizes are constants; if this failed, receipts would be lost, not messages.
        let _ = self.enqueue(&Body::Receipts(receipts), effects, rng);
    }

    /// Starts the timer for receipts if some are due.
    pub(super) fn time_receipts(&mut self, effects: &mut Effects) {
        if self.slots.wants_receipts(!self.receipts.is_empty()) && !self.receipts_timed {
            self.receipts_timed = true;
            effects.wake_after(RECEIPTS_DELAY, Timer::Receipts(self.id));
        }
    }

    /// Tells the peer that a queue of ours has room again, unless nothing can be said now.
    pub(super) fn send_queue_continues(
        &mut self,
        place: Place,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> bool {
        let Some(address) = self.queue(place).and_then(|queue| queue.address()) else {
            return false;
        };
        let mut name = Vec::new();
        // Without it the peer tries again after a while.
        self.stage == Stage::Active
            && self.may_speak()
            && self.untaken() < OUTBOX_MAX
            && QueueName::of(&address).put(&mut name).is_ok()
            && self
                .enqueue(&Body::QueueContinues(&name), effects, rng)
                .is_ok()
    }

    /// Lets calls that wait for room go on.
    pub(super) fn admit_waiting(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        while self.untaken() < OUTBOX_MAX && self.may_speak() {
            let Some((ticket, body)) = self.waiting.pop_front() else {
                return;
            };
            let answer = self.enqueue(&Body::Message(&body), effects, rng);
            effects.answer(ticket, answer.map(Reply::Message));
        }
    }
}
