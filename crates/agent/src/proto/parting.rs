//! How a connection ends, so that what was said last is heard.
//!
//! | who | does |
//! |---|---|
//! | leaves with a last word | says nothing else any more, and gives up what waited; the word goes when the peer's relay takes it, however often the process ends before, for [`LEAVING_MAX`] at most; then our queues are deleted. Without keys to say it with they are deleted at once |
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
use super::event::{ConnectionFault, Event};
use super::id::ConnectionId;
use super::message::Body;
use super::newcomer::Newcomer;
use super::queue::Subscription;
use super::relay::{Answer, Refusal};
use super::rotation::Place;

/// How long a last word waits for the peer's relay: longer than a relay keeps what nobody fetches (21 days by the
/// protocol's default), so that a queue that is full of it has room again before.
pub const LEAVING_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long a message that others overtook may be on its way before the peer is asked for it.
pub(super) const PROBE_DELAY: Duration = Duration::from_secs(1);

/// How often a peer is asked so at most: it, and relays, can bring about that messages are missing.
const PROBE_PAUSE: Duration = Duration::from_secs(60);

/// When it is tried again if nothing can be said now.
const PROBE_RETRY: Duration = Duration::from_secs(10);

/// How long one process waits for the other relays of a connection that ends: whose peer has gone, for more from queues
/// beside the first one; who leaves, for those that do not take a word that one has taken.
const OTHERS_DELAY: Duration = Duration::from_secs(30);

impl Connection {
    /// Says a last word, and nothing else from now on: not even what waits. While new keys are agreed, or if there are none
    /// after a backup, it ends without: the peer decides how long that takes, and what waits would go meanwhile.
    pub(super) fn leave(
        &mut self,
        last: &[u8],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        if !self.may_speak() || !self.can_send() {
            // Our queue is at its relay: that is deleted first.
            self.delete(effects);
            return Ok(());
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

    /// Tells the application something about the connection, unless that has ended it.
    pub(super) fn tell(&self, effects: &mut Effects, event: impl FnOnce(ConnectionId) -> Event) {
        if !matches!(self.stage, Stage::Leaving(_)) {
            effects.event(event(self.id));
        }
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
            if self.outbox.is_empty() || self.others_are_over(effects) {
                self.delete(effects);
                return self.pump_deletion(effects);
            }
            // A relay that took it may lose it.
            self.wait_for_others(effects);
        }
        let owner = self.owner();
        if let Some(send) = &mut self.send {
            send.pump_secure(owner, effects);
        }
        self.pump_outbox(effects);
    }

    fn wait_for_others(&mut self, effects: &mut Effects) {
        if self.parting_since.is_none() {
            self.wait_anew(effects);
        }
    }

    fn wait_anew(&mut self, effects: &mut Effects) {
        self.parting_since = Some(effects.now);
        effects.wake_after(OTHERS_DELAY, Timer::Parting(self.id));
    }

    fn others_are_over(&self, effects: &Effects) -> bool {
        let since = self.parting_since;
        since.is_some_and(|since| since.after(OTHERS_DELAY) <= effects.now)
    }

    /// The relay of our first queue is away: it has its time again when it is back.
    pub(super) fn wait_anew_if_hearing(&mut self) {
        if self.stage == Stage::Hearing {
            self.parting_since = None;
        }
    }

    /// Our first queue is no more, or so its relay says: what lies in the others is heard all the same.
    pub(super) fn first_is_over(&mut self, effects: &mut Effects) {
        self.receive.subscription = Subscription::Taken;
        self.wait_for_others(effects);
        effects.ready(self.owner());
    }

    /// Something of the peer has come, or may come now: more may be behind it.
    pub(super) fn hear_more(&mut self, effects: &mut Effects) {
        if self.stage == Stage::Hearing {
            self.wait_anew(effects);
        }
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
        // What waited for a queue that is no more.
        self.acknowledge_held(effects);
        self.pump_retired(effects);
        if self.rotation.draining {
            return;
        }
        if effects.is_up(self.receive.relay) {
            self.wait_for_others(effects);
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

    /// Whether nothing can come any more, or what may has had its time. Of a queue that somebody else reads with our keys,
    /// or that its relay has lost, nothing is awaited; of a relay that is there and says nothing, no more than of others.
    fn is_heard_out(&self, effects: &Effects) -> bool {
        let first = &self.receive;
        let is_read = first.held.is_none() && !effects.awaits_message(self.owner());
        let is_closed = self.suspension == Suspension::Done;
        let is_late = effects.is_up(first.relay) && self.others_are_over(effects);
        let is_empty = match first.subscription {
            Subscription::Live => is_read && (is_closed || is_late),
            Subscription::Taken => true,
            Subscription::Idle | Subscription::InFlight => is_late,
        };
        is_empty && !self.rotation.draining && !self.others_may_bring(effects)
    }

    /// Whether something may come from a queue beside the first one. What the application holds up is not late.
    fn others_may_bring(&self, effects: &Effects) -> bool {
        let is_over = self.others_are_over(effects);
        self.rotation.is_held() || (self.rotation.has_retired() && !is_over)
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
            Stage::Leaving(_) if !self.has_untaken(u64::MAX) && self.others_are_over(effects) => {
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
        let before = self.probe_at.filter(|at| *at > effects.now);
        let later = before.unwrap_or_else(|| {
            let is_said =
                self.owes_probe(effects) && self.send_queue_continues(Place::Main, effects, rng);
            effects
                .now
                .after(if is_said { PROBE_PAUSE } else { PROBE_RETRY })
        });
        self.probe_at = Some(later);
        effects.wake_at(later, Timer::Parting(self.id));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::connection::Gap;
    use crate::proto::parallel::tests::active;

    #[test]
    fn who_asks_again_for_a_queue_that_is_gone_has_lost_its_peer() {
        let refused = Answer::Refused(Refusal::Auth);
        let (mut connection, mut effects, mut rng) = active();
        connection.secured(&refused, &mut effects, &mut rng);
        assert_eq!(connection.stage, Stage::Hearing);
        let (mut connection, mut effects, mut rng) = active();
        connection.stage = Stage::Leaving(u64::MAX);
        connection.secured(&refused, &mut effects, &mut rng);
        assert_eq!(connection.stage, Stage::Deleting);
    }

    #[test]
    fn a_queue_that_is_refused_while_a_last_word_waits_can_be_deleted_after_it() {
        let (mut connection, mut effects, mut rng) = active();
        connection.stage = Stage::Leaving(u64::MAX);
        connection.receive.subscription = Subscription::InFlight;
        connection.queue_lost(&mut effects, &mut rng);
        assert_eq!(connection.receive.subscription, Subscription::Idle);
    }

    #[test]
    fn a_peer_that_could_not_be_asked_for_a_message_is_asked_later() {
        let (mut connection, mut effects, mut rng) = active();
        let at = effects.now.after(Duration::from_secs(7));
        connection.probe_at = Some(at);
        connection.gap = Some(Gap {
            missing: 3,
            began: effects.now,
            until: effects.now.after(LEAVING_MAX),
        });
        let rows = connection.outbox.len();
        connection.parting_due(&mut effects, &mut rng);
        assert_eq!(connection.outbox.len(), rows, "it was asked before");
        let wakes = (at, Timer::Parting(connection.id));
        while effects.next_timeout().is_some_and(|it| it != wakes) {
            effects.now = effects.next_timeout().unwrap().0;
            effects.take_due();
        }
        assert_eq!(effects.next_timeout(), Some(wakes));
        effects.now = at;
        connection.parting_due(&mut effects, &mut rng);
        assert_eq!(connection.outbox.len(), rows + 1);
        assert_eq!(connection.probe_at, Some(at.after(PROBE_PAUSE)));
    }
}
