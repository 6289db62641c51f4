//! How a connection ends, so that what was said last is heard.
//!
//! | who | does |
//! |---|---|
//! | leaves with a last word | says nothing else any more, and gives up what waited; the word goes when the peer's relay takes it, however often the process ends before, for [`LEAVING_MAX`] at most; then our queues are deleted |
//! | whose peer has gone | lets nobody put anything into its queues any more (`OFF`), hears what is there, and only then has failed |
//!
//! Who leaves hears nothing any more. Who hears out says nothing. Whoever misses a message for a second tells the peer that
//! there is room for it (`QC`), and so finds out whether there is a peer: what was given up for a last word is missing
//! before it.

use std::time::Duration;

use junto_crypto::CryptoRng;

use super::command::{CallError, Misuse};
use super::connection::{Connection, INBOX_MAX, Stage, Suspension};
use super::effects::{Effects, Owner, RETRY_DELAY, Timer};
use super::event::ConnectionFault;
use super::message::Body;
use super::newcomer::Newcomer;
use super::queue::Subscription;
use super::relay::{Answer, Refusal};
use super::resync::Resync;
use super::rotation::Place;

/// How long a last word waits for the peer's relay: longer than a relay keeps what nobody fetches (21 days by the
/// protocol's default), so that a queue that is full of it has room again before.
pub const LEAVING_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a message that others overtook may be on its way before the peer is asked for it.
pub(super) const PROBE_DELAY: Duration = Duration::from_secs(1);

/// How often a peer is asked so at most: it, and relays, can bring about that messages are missing.
const PROBE_PAUSE: Duration = Duration::from_secs(60);

impl Connection {
    /// Says a last word, and nothing else from now on: not even what waits.
    pub(super) fn leave(
        &mut self,
        last: &[u8],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        if self.may_speak() && !self.can_send() && effects.resync == Resync::Automatic {
            // The profile came back from a backup.
            self.resynchronise(effects, rng)?;
        }
        if !self.may_speak() {
            return Err(Misuse::Renewing.into());
        }
        if !self.can_send() {
            return Err(Misuse::Restored.into());
        }
        let number = self.sent.next_id();
        self.enqueue(&Body::Message(last), effects, rng)?;
        // New keys that are on their way are what the word can be read with.
        let barriers = self.resync.barriers.clone();
        let waiting: Vec<_> = self.outbox.range(..number).map(|(row, _)| *row).collect();
        for row in waiting.into_iter().filter(|row| !barriers.contains(row)) {
            self.drop_row(row, effects);
        }
        self.receipts.clear();
        let until = effects.unix_seconds().saturating_add(LEAVING_MAX.as_secs());
        self.stage = Stage::Leaving(until);
        self.answer_waiting(&Misuse::NoConnection.into(), effects);
        self.drop_incoming(effects);
        self.time_leaving(effects);
        effects.changed(self.owner());
        Ok(())
    }

    /// Wakes the machine when the last word has had its time. The clock may have been set back since.
    pub(super) fn time_leaving(&self, effects: &mut Effects) {
        if let Stage::Leaving(until) = self.stage {
            let left = Duration::from_secs(until.saturating_sub(effects.unix_seconds()));
            effects.wake_after(left.min(LEAVING_MAX), Timer::Parting(self.id));
        }
    }

    /// Issues what is due for the last word; with it gone, the connection goes.
    pub(super) fn pump_leaving(&mut self, effects: &mut Effects) {
        if !self.has_untaken(u64::MAX) {
            self.delete(effects);
            return self.pump_deletion(effects);
        }
        let owner = self.owner();
        if let Some(send) = &mut self.send {
            send.pump_secure(owner, effects);
        }
        self.pump_outbox(effects);
    }

    /// The peer takes nothing any more: its queues are no more.
    pub(super) fn lose_peer(&mut self, effects: &mut Effects) {
        match self.stage {
            Stage::Active => self.hear_out(effects),
            Stage::Leaving(_) => {
                self.delete(effects);
            }
            Stage::Hearing | Stage::Failed(_) | Stage::Deleting => {}
            Stage::Inviting | Stage::Joining | Stage::Confirming => {
                self.fail(ConnectionFault::PeerGone, effects)
            }
        }
    }

    /// What the peer said before it went may lie in our queues.
    fn hear_out(&mut self, effects: &mut Effects) {
        self.stage = Stage::Hearing;
        self.suspension = Suspension::Not;
        self.answer_waiting(&ConnectionFault::PeerGone.into(), effects);
        self.drop_outbox(effects);
        // Of one that is being made its relay's answer says what is to be deleted with the connection.
        let is_made = |it: &Newcomer| it.queue.created.is_some();
        if let Some(next) = self.rotation.next.take_if(|next| is_made(next)) {
            effects.forget_receives(Owner::Next(self.id));
            self.retire_unread(next.queue, effects);
        }
        let ours = core::mem::take(&mut self.parallel.ours);
        let (made, unmade) = ours.into_iter().partition(|(_, ours)| is_made(ours));
        self.parallel.ours = unmade;
        for (slot, ours) in made {
            effects.forget_receives(Owner::Parallel(self.id, slot));
            self.retire_unread(ours.queue, effects);
        }
        effects.queues_changed();
        self.store_renewal(effects);
        self.store_parallel(effects);
        effects.changed(self.owner());
    }

    /// Issues what is due to hear what our queues have.
    pub(super) fn pump_hearing(&mut self, effects: &mut Effects) {
        self.pump_rotation(effects);
        if self.rotation.draining {
            return;
        }
        let owner = self.owner();
        if self.receive.subscription == Subscription::Idle {
            self.receive.pump(owner, effects);
        }
        let is_live = self.receive.subscription == Subscription::Live;
        let is_open = is_live && self.suspension == Suspension::Not;
        if is_open && self.receive.suspend(owner, effects) {
            self.suspension = Suspension::InFlight;
        }
        if self.is_heard_out(effects) {
            effects.wake_after(Duration::ZERO, Timer::Parting(self.id));
        }
    }

    /// Whether nothing can come any more. A relay that is away has had its time, unless it is the one of our first queue.
    fn is_heard_out(&self, effects: &Effects) -> bool {
        let first = &self.receive;
        let is_empty = match first.subscription {
            Subscription::Live => {
                let is_closed = self.suspension == Suspension::Done;
                is_closed && first.held.is_none() && !effects.awaits_message(self.owner())
            }
            Subscription::Taken => true,
            Subscription::Idle | Subscription::InFlight => false,
        };
        is_empty && !self.rotation.draining && !self.rotation.may_bring(effects)
    }

    /// Whether what is there waits until the application has acknowledged some of it.
    pub(super) fn is_held_up(&self) -> bool {
        let is_full = self.stage == Stage::Hearing && self.inbox.len() >= INBOX_MAX;
        is_full && self.receives().any(|(_, queue)| queue.held.is_some())
    }

    /// Takes the answer to `OFF`.
    pub(super) fn suspended(
        &mut self,
        answer: &Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        match answer {
            Answer::Done => self.suspension = Suspension::Done,
            Answer::Refused(Refusal::Auth) => return self.queue_lost(effects, rng),
            Answer::Refused(_) | Answer::Created { .. } | Answer::Link(_) => {
                self.suspension = Suspension::Not;
                return effects.wake_after(RETRY_DELAY, Timer::Retry(self.receive.relay));
            }
        }
        effects.ready(self.owner());
    }

    /// Everything is heard, or the last word has had its time.
    pub(super) fn parting_due(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        match self.stage {
            Stage::Hearing if self.is_heard_out(effects) => self.end_hearing(effects, rng),
            Stage::Leaving(until) if until <= effects.unix_seconds() => {
                self.delete(effects);
            }
            Stage::Leaving(_) => self.time_leaving(effects),
            Stage::Active if self.gap.is_some() => self.probe(effects, rng),
            _ => {}
        }
    }

    /// A message is missing: the peer may wait with it until there is room, or it has given it up and gone, which shows
    /// by its queue. What it said last is heard then, also by a process that does not run for as long as the missing one
    /// is waited for.
    fn probe(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if self.owes_probe(effects) {
            self.probe_at = Some(effects.now.after(PROBE_PAUSE));
            self.send_queue_continues(Place::Main, effects, rng);
        }
    }

    /// Whether the peer is to be asked for a message that is missing.
    pub(super) fn owes_probe(&self, effects: &Effects) -> bool {
        let is_due = self.probe_at.is_none_or(|at| at <= effects.now);
        let is_missing = self.stage == Stage::Active && self.gap.is_some();
        is_missing && is_due && !self.rotation.is_under_way()
    }

    /// Nothing comes any more: what waits for something else waits in vain.
    pub(super) fn end_hearing(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        self.release_all(effects, rng);
        self.fail(ConnectionFault::PeerGone, effects);
    }
}
