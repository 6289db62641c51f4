//! What a connection sends: numbered messages into the outbox, the outbox to the relay until it says
//! OK, in order.

use std::time::Duration;

use bytes::Bytes;
use junto_crypto::{CryptoRng, Zeroizing};

use super::address::QueueName;
use super::command::{CallError, Misuse, Reply, Ticket};
use super::connection::{AWAITING_MAX, Connection, Keys, OUTBOX_MAX, Role, Stage, WINDOW};
use super::effects::{Effects, Purpose, Timer};
use super::envelope::Envelope;
use super::event::ConnectionFault;
use super::id::MessageId;
use super::layer;
use super::message::{AgentMessage, Body, RECEIPTS_MAX, Receipt, message_padding};
use super::relay::{Answer, Operation, Refusal};
use super::step::Row;

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

impl Connection {
    /// Issues the commands that are due now, for both queues.
    pub(super) fn pump(&mut self, effects: &mut Effects) {
        let owner = self.owner();
        match self.stage {
            Stage::Failed(_) => {}
            Stage::Deleting => self.pump_deletion(effects),
            Stage::Inviting | Stage::Joining | Stage::Confirming | Stage::Active => {
                // What our queue has comes after the rest of the one before.
                if !self.rotation.draining {
                    self.receive.pump(owner, effects);
                }
                self.pump_rotation(effects);
                if let Some(send) = &mut self.send {
                    send.pump_secure(owner, effects);
                }
                self.pump_outbox(effects);
            }
        }
    }

    /// Sends what the window has room for. A message that must go again waits until everything
    /// behind it is answered, so that the order stays.
    fn pump_outbox(&mut self, effects: &mut Effects) {
        let owner = self.owner();
        let Some(send) = &mut self.send else { return };
        if !send.may_send(effects) || self.rotation.is_leaving() {
            return;
        }
        // A message that was refused goes alone: another one behind it could get in first again.
        let window = if send.refused.is_some() { 1 } else { WINDOW };
        for (&number, body) in &self.outbox {
            if send.in_flight.contains(&number) {
                continue;
            }
            let overtaken = send.in_flight.last().is_some_and(|&last| last > number);
            // Nothing passes new keys, in either direction.
            let barred = self.resync.barriers.iter().any(|&barrier| {
                number > barrier || (number == barrier && !send.in_flight.is_empty())
            });
            if overtaken || barred || send.in_flight.len() >= window {
                break;
            }
            send.in_flight.insert(number);
            let operation = Operation::Send {
                queue: send.address.sender_id,
                auth: send.send_auth(),
                body: body.clone(),
            };
            effects.command(send.relay, owner, Purpose::Send(number), operation);
        }
    }

    /// Takes the relay's answer to `SKEY`.
    pub(super) fn secured(&mut self, answer: &Answer, effects: &mut Effects) {
        let Some(send) = &mut self.send else { return };
        send.securing = false;
        match answer {
            Answer::Done => {
                send.secured = true;
                effects.changed(self.owner());
            }
            Answer::Refused(Refusal::Auth) => {
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
        number: u64,
        answer: &Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(send) = &mut self.send else { return };
        send.in_flight.remove(&number);
        match answer {
            Answer::Done => {
                send.blocked = false;
                if send.refused.is_none_or(|refused| refused == number) {
                    send.refused = None;
                    send.refusals = 0;
                }
                self.outbox.remove(&number);
                effects.delta.delete(self.outbox_key(number));
                self.passed(number, effects);
                self.confirmed_by_relay(number, effects);
                self.admit_waiting(effects, rng);
                self.time_receipts(effects);
                effects.ready(self.owner());
            }
            Answer::Refused(refusal @ (Refusal::Quota | Refusal::Busy)) => {
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
            // Before our right to the queue is confirmed, the answer to `SKEY` decides.
            Answer::Refused(Refusal::Auth) if !send.secured && !send.is_open() => {}
            Answer::Refused(Refusal::Auth) => self.fail(ConnectionFault::PeerGone, effects),
            Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                effects.wake_after(super::effects::RETRY_DELAY, Timer::Retry(send.relay));
            }
        }
    }

    /// The peer's queue may have room again.
    pub(super) fn unblock(&mut self, effects: &mut Effects) {
        if let Some(send) = &mut self.send {
            send.blocked = false;
            effects.ready(self.owner());
        }
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
                if self.outbox.len() >= OUTBOX_MAX
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
            Stage::Deleting => effects.answer(ticket, Err(Misuse::NoConnection.into())),
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
        let mut envelope = Vec::with_capacity(ratcheted.len() + 3);
        Envelope::Message {
            ratcheted: &ratcheted,
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
        let may_send = self.may_speak() && self.can_send();
        if self.stage != Stage::Active || self.receipts.is_empty() || !may_send {
            return;
        }
        if self.outbox.len() >= OUTBOX_MAX {
            // The peer takes nothing: they wait where they are small, until something has left.
            return;
        }
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
        self.time_receipts(effects);
    }

    /// Starts the timer for receipts if some are due.
    pub(super) fn time_receipts(&mut self, effects: &mut Effects) {
        if !self.receipts.is_empty() && !self.receipts_timed {
            self.receipts_timed = true;
            effects.wake_after(RECEIPTS_DELAY, Timer::Receipts(self.id));
        }
    }

    /// Tells the peer that our queue has room again.
    pub(super) fn send_queue_continues(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let Some(address) = self.receive.address() else {
            return;
        };
        let mut name = Vec::new();
        if self.stage == Stage::Active
            && self.may_speak()
            && self.outbox.len() < OUTBOX_MAX
            && QueueName::of(&address).put(&mut name).is_ok()
        {
            // Without it the peer tries again after a while.
            let _ = self.enqueue(&Body::QueueContinues(&name), effects, rng);
        }
    }

    /// Lets calls that wait for room go on.
    pub(super) fn admit_waiting(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        while self.outbox.len() < OUTBOX_MAX && self.may_speak() {
            let Some((ticket, body)) = self.waiting.pop_front() else {
                return;
            };
            let answer = self.enqueue(&Body::Message(&body), effects, rng);
            effects.answer(ticket, answer.map(Reply::Message));
        }
    }
}
