//! A connection's queue gives place to another one, on the same relay or elsewhere.
//!
//! | recipient of the queue | sender |
//! |---|---|
//! | `NEW`; `QA`: the new queue, and which one it replaces | |
//! | | `QK`: its keys for the new queue |
//! | `KEY`; `QU`: the new queue may be used | |
//! | | what the old relay has not taken, then `QT`, into the new queue; the old one is forgotten |
//! | with the first message there: `OFF` on the old queue, its rest, `DEL`; then what is in the new one | |
//!
//! Everything but the commands travels as messages of the connection. Each step is stored before it is said,
//! and said or commanded again after a crash. What the sender sends twice, because it does not know whether
//! the old relay has taken it, the recipient recognises.

use std::time::Duration;

use junto_crypto::{CryptoRng, Zeroizing};
use junto_smp::address::ServerAddress;
use junto_smp::command::QueueMode;
use junto_smp::id::RecipientId;
use junto_smp::key::AuthKey;

use super::address::{QueueAddress, QueueInfo, QueueName, QueueUri};
use super::again::{Heard, Repeated};
use super::command::CallError;
use super::connection::{Connection, OUTBOX_MAX, Stage, Suspension};
use super::effects::{Effects, Owner, Purpose, RETRY_DELAY, Timer};
use super::envelope::Envelope;
use super::event::{ConnectionFault, Event};
use super::layer::SealedBody;
use super::message::Body;
use super::newcomer::{Newcomer, Offered, Progress, Step};
use super::parallel::{QUEUES_MAX, Slot};
use super::queue::{Held, ReceiveQueue, Sender, Subscription};
use super::relay::{Answer, Refusal, RelayId};
use super::wire::{Malformed, Reader};

/// Queues that wait to be deleted, at most: a relay that is away for that many rotations is left to drop
/// its queue itself.
const RETIRED_MAX: usize = 4;

/// How long nothing is sent before a queue is left for another one: a recipient that reads both at once, and
/// deletes the old one with the first message in the new one, as SimpleX's agent does, takes what is there.
const SWITCH_PAUSE: Duration = Duration::from_secs(2);

/// How often that time begins again because the peer has said something meanwhile: it may be behind with what it reads,
/// and takes from both queues at once then.
const SWITCH_TRIES: u8 = 5;

/// How long the new queue waits for the rest of the old one while the old one's relay is away.
const DRAIN_DELAY: Duration = Duration::from_secs(30);

/// How often it goes on waiting because that relay is there.
const DRAIN_TRIES: u32 = 20;

/// When the queues that a profile's connections receive on are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// After that much use, and up to a quarter more; never if none.
    pub every: Option<Duration>,
    /// The time since 1970 when the machine's [`Instant`](super::Instant) is 0.
    pub epoch: Duration,
}

/// A queue that we do not receive on any more, until it is empty and deleted.
struct Retired {
    queue: ReceiveQueue,
    /// Not stored.
    suspension: Suspension,
}

/// What is kept of it, beside the connection's row.
#[derive(Default)]
pub(super) struct Rotation {
    pub(super) next: Option<Box<Newcomer>>,
    retired: Vec<Retired>,
    /// The last one of these may have messages that come before those of our queue.
    pub(super) draining: bool,
    /// How often the wait for it was prolonged. Not stored.
    drain_tries: u32,
    /// What comes first on our queue may have come on the one before.
    pub(super) copies: bool,
    /// A queue that the peer wants us to use in place of the one that we do.
    offered: Option<Box<Offered>>,
    /// Whether the peer has said anything since the time before leaving its queue began. Not stored.
    heard: bool,
    /// How often that time has begun again. Not stored.
    switch_tries: u8,
    /// Since when our queue is used, in seconds since 1970; 0 if we did not count.
    since: u64,
}

/// One of the queues that a connection receives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Main,
    Next,
    Retired(RecipientId),
    /// Beside the others.
    Parallel(Slot),
}

/// `0`, or what `read` reads.
fn none_or<T>(
    reader: &mut Reader<'_>,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if reader.peek() != Some(b'0') {
        return read(reader).map(Some);
    }
    reader.u8()?;
    Ok(None)
}

impl Rotation {
    pub(super) fn put(&self, out: &mut Zeroizing<Vec<u8>>) -> Result<(), Malformed> {
        match &self.next {
            None => out.push(b'0'),
            Some(next) => next.put(out)?,
        }
        out.push(u8::try_from(self.retired.len()).map_err(|_| Malformed::Long)?);
        for retired in &self.retired {
            retired.queue.put(out)?;
        }
        out.push(u8::from(self.draining) | u8::from(self.copies) << 1);
        match &self.offered {
            None => out.push(b'0'),
            Some(offered) => offered.put(out)?,
        }
        out.extend_from_slice(&self.since.to_be_bytes());
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>, effects: &mut Effects) -> Result<Self, Malformed> {
        let next = none_or(reader, |reader| Newcomer::read(reader, effects))?;
        let count = usize::from(reader.u8()?);
        if count > RETIRED_MAX + QUEUES_MAX {
            return Err(Malformed::Long);
        }
        let mut retired = Vec::new();
        for _ in 0..count {
            retired.push(Retired {
                queue: ReceiveQueue::read(reader, effects)?,
                suspension: Suspension::Not,
            });
        }
        let flags = reader.u8()?;
        if flags > 3 {
            return Err(Malformed::Tag);
        }
        let offered = none_or(reader, Offered::read)?;
        Ok(Self {
            next: next.map(Box::new),
            retired,
            draining: flags & 1 != 0,
            drain_tries: 0,
            copies: flags & 2 != 0,
            offered: offered.map(Box::new),
            heard: false,
            switch_tries: 0,
            since: reader.u64()?,
        })
    }

    /// The queues besides the one that is used.
    pub(super) fn queues(&self) -> impl Iterator<Item = (Place, &ReceiveQueue)> {
        let next = self.next.iter().map(|next| (Place::Next, &next.queue));
        let retired = self.retired.iter().filter_map(|retired| {
            let created = retired.queue.created.as_ref()?;
            Some((Place::Retired(created.recipient_id), &retired.queue))
        });
        next.chain(retired)
    }

    fn queues_mut(&mut self) -> impl Iterator<Item = &mut ReceiveQueue> {
        let next = self.next.iter_mut().map(|next| &mut next.queue);
        let retired = self.retired.iter_mut().map(|retired| &mut retired.queue);
        next.chain(retired)
    }

    /// Whether a queue of ours is about to be replaced, or was just now.
    pub(super) fn is_under_way(&self) -> bool {
        self.next.is_some() || self.expects_copies()
    }

    /// What was said about queues may be lost: it is said again.
    pub(super) fn say_again(&mut self) {
        if let Some(next) = &mut self.next {
            next.say_again();
        }
        if let Some(offered) = &mut self.offered {
            offered.say_again();
        }
    }

    /// What the peer was told of a queue of ours and has not acted on is said again.
    pub(super) fn say_ours_again(&mut self) {
        if let Some(next) = &mut self.next {
            next.say_again();
        }
    }

    /// The queue that the peer offers in place of another one.
    pub(super) fn offered(&self) -> Option<&Offered> {
        self.offered.as_deref()
    }

    /// Forgets it if the peer does not name it any more. Whether that changes anything.
    pub(super) fn keep_offered(&mut self, is_named: impl Fn(&QueueAddress) -> bool) -> bool {
        let gone = self.offered.take_if(|it| !is_named(&it.address));
        gone.is_some()
    }

    /// The queue that the peer offers in place of ours; it replaces none any more.
    pub(super) fn take_offered(&mut self) -> Option<Offered> {
        self.offered.take().map(|offered| *offered)
    }

    /// The same if it has this name and is not to be used yet.
    pub(super) fn take_back(&mut self, name: &QueueName) -> Option<Offered> {
        let is_it = |it: &mut Box<Offered>| !it.usable && name.names(&it.address);
        self.offered.take_if(is_it).map(|offered| *offered)
    }

    /// Whether the peer's queue is about to be left: nothing more goes there.
    pub(super) fn is_leaving(&self) -> bool {
        self.offered.as_ref().is_some_and(|offered| offered.usable)
    }

    /// Whether what comes may have come on another queue.
    pub(super) fn expects_copies(&self) -> bool {
        self.copies || !self.retired.is_empty()
    }

    /// Whether there are queues that we do not receive on any more.
    pub(super) fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Whether the relay of one of them waits until we go on.
    pub(super) fn is_held(&self) -> bool {
        let mut retired = self.retired.iter();
        retired.any(|retired| retired.queue.held.is_some())
    }

    fn retired_at(&self, queue: RecipientId) -> Option<usize> {
        let is_it = |retired: &Retired| {
            let created = retired.queue.created.as_ref();
            created.is_some_and(|created| created.recipient_id == queue)
        };
        self.retired.iter().position(is_it)
    }

    /// The connection to a relay died.
    pub(super) fn disconnected(&mut self, relay: RelayId) {
        if let Some(next) = self.next.as_mut().filter(|it| it.queue.relay == relay) {
            next.disconnected();
        }
        let retired = self.retired.iter_mut();
        for retired in retired.filter(|retired| retired.queue.relay == relay) {
            retired.queue.disconnected();
            retired.suspension = Suspension::Not;
        }
    }
}

impl Connection {
    fn owner_of(&self, place: Place) -> Owner {
        match place {
            Place::Main => Owner::Connection(self.id),
            Place::Next => Owner::Next(self.id),
            Place::Retired(queue) => Owner::Retired(self.id, queue),
            Place::Parallel(slot) => Owner::Parallel(self.id, slot),
        }
    }

    /// One of the queues that we receive on.
    pub(super) fn queue(&self, place: Place) -> Option<&ReceiveQueue> {
        match place {
            Place::Main => Some(&self.receive),
            Place::Next => self.rotation.next.as_ref().map(|next| &next.queue),
            Place::Retired(queue) => {
                let at = self.rotation.retired_at(queue)?;
                self.rotation.retired.get(at).map(|it| &it.queue)
            }
            Place::Parallel(slot) => self.parallel.ours(slot).map(|ours| &ours.queue),
        }
    }

    /// All of them.
    pub(super) fn queues_mut(&mut self) -> impl Iterator<Item = &mut ReceiveQueue> {
        let parallel = self.parallel.ours.iter_mut();
        core::iter::once(&mut self.receive)
            .chain(self.rotation.queues_mut())
            .chain(parallel.map(|(_, ours)| &mut ours.queue))
    }

    pub(super) fn queue_mut(&mut self, place: Place) -> Option<&mut ReceiveQueue> {
        match place {
            Place::Main => Some(&mut self.receive),
            Place::Next => self.rotation.next.as_mut().map(|next| &mut next.queue),
            Place::Retired(queue) => {
                let at = self.rotation.retired_at(queue)?;
                self.rotation.retired.get_mut(at).map(|it| &mut it.queue)
            }
            Place::Parallel(slot) => self.parallel.ours_mut(slot).map(|ours| &mut ours.queue),
        }
    }

    /// Lets the relay of one of our queues send the next message: now, or once nothing makes it wait any more.
    pub(super) fn acknowledge(
        &mut self,
        place: Place,
        message: junto_smp::id::MessageId,
        effects: &mut Effects,
    ) {
        let until = effects.now.after(self.slots.acknowledged_after());
        let is_later = until > effects.now;
        let waits = is_later || self.is_to_wait(place);
        if is_later {
            effects.wake_at(until, Timer::Acknowledge(self.id));
        }
        let owner = self.owner_of(place);
        let Some(queue) = self.queue_mut(place) else {
            return;
        };
        if waits {
            queue.held = Some(Held { message, until });
        } else {
            queue.held = None;
            queue.acknowledge(message, owner, effects);
        }
    }

    /// Whether relays that are there have given us all that our queues hold: no subscription is under way, no message about
    /// to be acknowledged, no acknowledgement unanswered. What the application leaves unread may hold it up.
    pub(super) fn is_read_out(&self, effects: &Effects) -> bool {
        let is_there = |(_, queue): &(_, &ReceiveQueue)| effects.is_up(queue.relay);
        let mut there = self.receives().filter(is_there).peekable();
        let is_read = |(place, queue): (_, &ReceiveQueue)| {
            let is_open = matches!(queue.subscription, Subscription::Live | Subscription::Taken);
            let is_due = queue.held.is_some_and(|held| held.until > effects.now);
            is_open && !is_due && !effects.awaits_message(self.owner_of(place))
        };
        there.peek().is_some() && there.all(is_read)
    }

    /// Acknowledges what was held back, on the queues that need not wait any more.
    pub(super) fn acknowledge_held(&mut self, effects: &mut Effects) {
        let places: Vec<_> = self.receives().map(|(place, _)| place).collect();
        for place in places {
            if self.is_to_wait(place) {
                continue;
            }
            let owner = self.owner_of(place);
            let queue = self.queue_mut(place);
            let due = queue.filter(|it| it.held.is_some_and(|held| held.until <= effects.now));
            if let Some(queue) = due
                && let Some(held) = queue.held.take()
            {
                queue.acknowledge(held.message, owner, effects);
            }
        }
    }

    /// Begins to replace the queue that we receive on, by one on this relay. If that is under way already, it
    /// begins anew on another relay unless the peer has answered; if the peer was told to use the new queue, it is
    /// told again, if it is of our kind.
    pub(super) fn rotate(
        &mut self,
        relay: ServerAddress,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> Result<(), CallError> {
        self.check_active()?;
        match self.rotation.next.take() {
            Some(next)
                if matches!(next.step, Step::Making | Step::Added)
                    && next.queue.relay_address() == &relay =>
            {
                self.rotation.next = Some(next);
            }
            Some(mut next) if !matches!(next.step, Step::Making | Step::Added) => {
                // Who may be SimpleX's agent takes a second word for an error.
                if matches!(next.step, Step::Used) && self.is_of_our_kind() {
                    next.step = Step::Allowed;
                }
                self.rotation.next = Some(next);
                self.speak_of_queues(effects, rng);
            }
            before => {
                if let Some(before) = before {
                    // What its relay says to `NEW` is not about the next one.
                    effects.forget_receives(Owner::Next(self.id));
                    self.retire(before.queue, effects);
                }
                self.rotation.next = Some(Box::new(Newcomer::new(relay, effects, rng)));
            }
        }
        self.store_renewal(effects);
        effects.ready(self.owner());
        Ok(())
    }

    /// The queue that another one has replaced is to be emptied and deleted.
    fn retire(&mut self, queue: ReceiveQueue, effects: &mut Effects) {
        let last = self.rotation.retired.len();
        self.retire_at(last, queue, effects);
    }

    /// A queue that is not used any more is to be emptied and deleted; nothing waits for that.
    pub(super) fn retire_unread(&mut self, queue: ReceiveQueue, effects: &mut Effects) {
        self.retire_at(0, queue, effects);
    }

    fn retire_at(&mut self, at: usize, mut queue: ReceiveQueue, effects: &mut Effects) {
        if queue.created.is_none() {
            return;
        }
        queue.disconnected();
        let retired = &mut self.rotation.retired;
        // All of them go when the connection does.
        if !matches!(self.stage, Stage::Hearing | Stage::Deleting) && retired.len() >= RETIRED_MAX {
            retired.remove(0);
            effects.queues_changed();
        }
        let suspension = Suspension::Not;
        retired.insert(at.min(retired.len()), Retired { queue, suspension });
    }

    /// Issues what is due for the queues besides ours.
    pub(super) fn pump_rotation(&mut self, effects: &mut Effects) {
        let id = self.id;
        if let Some(next) = &mut self.rotation.next {
            next.pump(Owner::Next(id), effects);
        }
        self.pump_retired(effects);
    }

    /// Issues what is due to empty and delete the queues that we do not receive on any more.
    pub(super) fn pump_retired(&mut self, effects: &mut Effects) {
        let id = self.id;
        for retired in &mut self.rotation.retired {
            if let Some(created) = &retired.queue.created {
                let owner = Owner::Retired(id, created.recipient_id);
                retired
                    .queue
                    .pump_close(&mut retired.suspension, owner, effects);
            }
        }
    }

    /// Issues what is due to delete all queues. A relay that is away is left to drop its queue itself.
    pub(super) fn pump_deletion(&mut self, effects: &mut Effects) {
        let id = self.id;
        let next = self.rotation.next.iter().map(|next| &next.queue);
        let ours = self.parallel.ours.iter().map(|(_, ours)| &ours.queue);
        if next.chain(ours).any(ReceiveQueue::is_being_made) {
            // The answer says what to delete.
            return;
        }
        if let Some(next) = self.rotation.next.take() {
            self.retire(next.queue, effects);
        }
        for (_, ours) in core::mem::take(&mut self.parallel.ours) {
            self.retire(ours.queue, effects);
            effects.queues_changed();
        }
        let mut are_gone = true;
        for retired in &mut self.rotation.retired {
            if let Some(created) = &retired.queue.created
                && effects.is_up(retired.queue.relay)
            {
                are_gone = false;
                let owner = Owner::Retired(id, created.recipient_id);
                retired.queue.pump_delete(owner, effects);
            }
        }
        if are_gone {
            self.receive.pump_delete(Owner::Connection(id), effects);
        }
    }

    /// Takes the answer to a command about the next queue.
    pub(super) fn next_answered(
        &mut self,
        purpose: Purpose,
        answer: Answer,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(next) = &mut self.rotation.next else {
            return;
        };
        match next.answered(purpose, answer, effects) {
            Progress::None => {}
            Progress::Speaks => {
                self.speak_of_queues(effects, rng);
                self.store_renewal(effects);
            }
            Progress::Lost => self.give_up_next(effects, rng),
        }
    }

    /// A relay refused something for a reason that may have passed.
    pub(super) fn retry_next(&mut self, relay: RelayId) {
        let next = self.rotation.next.iter_mut().map(|next| &mut **next);
        let ours = self.parallel.ours.iter_mut().map(|(_, ours)| ours);
        next.chain(ours).for_each(|it| it.retry(relay));
    }

    /// The next queue comes to nothing; the one that is used stays.
    pub(super) fn give_up_next(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if let Some(next) = self.rotation.next.take() {
            let relay = next.queue.relay_address().clone();
            self.tell(effects, |connection| Event::RotationFailed {
                connection,
                relay,
            });
            effects.forget_receives(Owner::Next(self.id));
            effects.queues_changed();
            self.store_renewal(effects);
            // The peer may be about to leave the old one.
            if !matches!(next.step, Step::Making) {
                self.say_what_is_left(effects, rng);
            }
        }
    }

    /// Takes the answer to a command about a retired queue.
    pub(super) fn retired_answered(
        &mut self,
        queue: RecipientId,
        purpose: Purpose,
        answer: &Answer,
        effects: &mut Effects,
    ) {
        let Some(at) = self.rotation.retired_at(queue) else {
            return;
        };
        let retired = &mut self.rotation.retired[at];
        match (purpose, answer) {
            (Purpose::Delete, Answer::Done) | (_, Answer::Refused(Refusal::Auth)) => {
                self.retired_gone(queue, effects);
            }
            (Purpose::Subscribe, Answer::Done) => {
                retired.queue.subscription = Subscription::Live;
                // The connection may be about to be deleted.
                effects.ready(Owner::Connection(self.id));
            }
            (Purpose::Suspend, Answer::Done) => retired.suspension = Suspension::Done,
            (Purpose::Acknowledge, _) => {}
            (_, Answer::Refused(_)) => {
                if purpose == Purpose::Suspend {
                    retired.suspension = Suspension::Not;
                }
                effects.wake_after(RETRY_DELAY, Timer::Retry(retired.queue.relay));
            }
            (_, Answer::Done | Answer::Created { .. } | Answer::Link(_)) => {}
        }
        effects.ready(self.owner());
    }

    /// A retired queue is no more.
    pub(super) fn retired_gone(&mut self, queue: RecipientId, effects: &mut Effects) {
        let Some(at) = self.rotation.retired_at(queue) else {
            return;
        };
        let was_last = at + 1 == self.rotation.retired.len();
        self.rotation.retired.remove(at);
        if was_last {
            self.end_drain(effects);
        }
        effects.queues_changed();
        self.store_renewal(effects);
        effects.ready(self.owner());
    }

    /// Nothing comes before what our queue has.
    pub(super) fn end_drain(&mut self, effects: &mut Effects) {
        if self.rotation.draining {
            self.rotation.draining = false;
            self.rotation.drain_tries = 0;
            // Subscribing brings what was left there.
            self.receive.disconnected();
            effects.ready(self.owner());
        }
    }

    /// The wait for the rest of the old queue may be over.
    pub(super) fn drain_timed(&mut self, effects: &mut Effects) {
        if !self.rotation.draining {
            return;
        }
        let last = self.rotation.retired.last();
        let is_up = last.is_some_and(|retired| effects.is_up(retired.queue.relay));
        if is_up && self.rotation.drain_tries < DRAIN_TRIES {
            self.rotation.drain_tries += 1;
            effects.wake_after(DRAIN_DELAY, Timer::Drain(self.id));
        } else {
            self.end_drain(effects);
            self.store_renewal(effects);
        }
    }

    /// Something lies in the next queue. If it is of the peer, that queue is ours from now on, and the one
    /// before is emptied first: what lies in the new one comes when that is done.
    pub(super) fn next_delivers(
        &mut self,
        message: junto_smp::id::MessageId,
        sealed: &[u8],
        effects: &mut Effects,
    ) {
        let Some(next) = &self.rotation.next else {
            return;
        };
        let Some(created) = &next.queue.created else {
            return;
        };
        let sender = next.queue.sender.as_ref();
        let is_of = |sender: &Sender| {
            created.delivery.open(&message, sealed).is_ok_and(|opened| {
                let junto_smp::message::Delivered::Message { body, .. } = opened.content() else {
                    return false;
                };
                let opened = SealedBody::read(body).map(|sealed| sealed.open(&sender.key));
                let Ok(Ok(opened)) = opened else { return false };
                let envelope = Envelope::read(opened.envelope());
                matches!(
                    envelope,
                    Ok(Envelope::Message { .. }
                        | Envelope::Numbered { .. }
                        | Envelope::RatchetKey { .. })
                )
            })
        };
        if !sender.is_some_and(is_of) || !next.is_open() {
            // Not of anybody whom we know, or before the peer has given its keys: it must not keep the queue from going on.
            return next
                .queue
                .acknowledge(message, Owner::Next(self.id), effects);
        }
        self.promote(effects);
    }

    /// The next queue is ours from now on.
    fn promote(&mut self, effects: &mut Effects) {
        let Some(next) = self.rotation.next.take() else {
            return;
        };
        let mut queue = next.queue;
        queue.disconnected();
        effects.forget_receives(Owner::Next(self.id));
        let relay = queue.relay_address().clone();
        let old = core::mem::replace(&mut self.receive, queue);
        self.retire(old, effects);
        if core::mem::take(&mut self.parallel.again.first) != Heard::Yes {
            self.store_parallel(effects);
        }
        self.rotation.draining = true;
        self.rotation.copies = true;
        self.rotation.since = effects.unix_seconds();
        self.time_drain(effects);
        self.time_rotation(effects);
        self.tell(effects, |connection| Event::Rotated {
            connection,
            receives: true,
            relay,
        });
        effects.queues_changed();
        effects.changed(self.owner());
        self.store_renewal(effects);
    }

    /// The relay no longer has our first queue: the end of the connection, unless the peer was told of another one.
    pub(super) fn queue_lost(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        match self.stage {
            Stage::Hearing => return self.first_is_over(effects),
            // It is not read any more; nor is what was asked of its relay under way.
            Stage::Leaving(_) => {
                self.receive.subscription = Subscription::Idle;
                return;
            }
            _ => {}
        }
        let next = self.rotation.next.as_ref();
        let is_open = next.is_some_and(|next| next.is_open());
        let lost = self.receive.created.as_ref().map(|it| it.recipient_id);
        match lost {
            Some(lost) if is_open && self.stage == Stage::Active => {
                let heard = next.map(|next| Heard::of(&next.step));
                self.promote(effects);
                self.parallel.again.first = heard.unwrap_or_default();
                self.retired_gone(lost, effects);
            }
            _ if self.outlives(lost, effects) => {}
            _ => return self.fail(ConnectionFault::QueueGone, effects),
        }
        self.say_what_is_left(effects, rng);
        self.store_parallel(effects);
    }

    /// Starts the timer for the old queue's rest, if it is waited for.
    pub(super) fn time_drain(&mut self, effects: &mut Effects) {
        if self.rotation.draining {
            effects.wake_after(DRAIN_DELAY, Timer::Drain(self.id));
        }
    }

    /// Says what is due about queues, if the peer can hear it. It stays due while the peer takes nothing: its words
    /// alone fill no store.
    pub(super) fn speak_of_queues(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if !self.may_speak() || self.stage != Stage::Active || self.untaken() >= OUTBOX_MAX {
            return;
        }
        let mut bodies = self.words_of_queues();
        let awaits_answer = |body: &Body<'_>| !matches!(body, Body::QueueKey(_));
        let are_words = bodies.iter().any(awaits_answer);
        bodies.extend(self.speak_of_noise());
        if bodies.is_empty() {
            return;
        }
        for body in bodies {
            // Sizes are constants: whatever fails here fails for good.
            let _ = self.enqueue(&body, effects, rng);
        }
        self.store_renewal(effects);
        if are_words {
            self.said_of_queues(effects);
        } else if self.parallel.is_used() {
            self.store_parallel(effects);
        }
        if self.slots.is_used() {
            self.store_slots(effects);
        }
    }

    /// What is due to be said about queues; it counts as said.
    pub(super) fn words_of_queues(&mut self) -> Vec<Body<'static>> {
        let ours = self.receive.address().map(|ours| QueueName::of(&ours));
        let next = self.rotation.next.as_mut().zip(ours.as_ref());
        let offered = self.rotation.offered.as_mut();
        let first = ours.as_ref().filter(|_| self.parallel.again.first.speak());
        let mut bodies: Vec<_> = first
            .map(|first| Body::QueueUse(vec![(first.clone(), true)]))
            .into_iter()
            .collect();
        let words = next
            .and_then(|(next, ours)| next.speak(Some(ours)))
            .into_iter()
            .chain(offered.and_then(|offered| offered.speak()));
        bodies.extend(words);
        bodies.extend(self.speak_of_parallel());
        bodies
    }

    /// `QA`: the peer wants us to send elsewhere.
    pub(super) fn take_queue(
        &mut self,
        queues: &[(QueueUri, Option<QueueName>)],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some(offer @ (uri, replaced)) = queues.first() else {
            return;
        };
        let Some(replaced) = replaced else {
            return self.take_addition(offer, effects, rng);
        };
        let Some(address) = uri.negotiated() else {
            return;
        };
        let name = QueueName::of(address);
        let replaces = self.sends().position(|it| replaced.names(&it.address));
        let is_known = self.sends().any(|it| name.names(&it.address));
        let (Some(replaces), false, true) =
            (replaces, is_known, address.mode != Some(QueueMode::Contact))
        else {
            return;
        };
        let offered = self.rotation.offered();
        if offered.is_some_and(|offered| name.names(&offered.address)) {
            // It did not hear the answer.
            if self.may_answer(Repeated::Offer, effects) {
                if let Some(offered) = &mut self.rotation.offered {
                    offered.answered = false;
                }
                self.speak_of_queues(effects, rng);
                self.store_renewal(effects);
            }
            return;
        }
        let is_taken = self.rotation.is_leaving() || self.parallel.is_offered(&name);
        if is_taken || !self.admits_offer(offer, effects) {
            return;
        }
        if let Some(at) = replaces.checked_sub(1) {
            self.send_first_to(at, effects, rng);
        }
        // One at a time: a peer that goes on offering takes back what it offered before.
        self.rotation.offered = Some(Box::new(Offered::new(address, rng)));
        self.speak_of_queues(effects, rng);
        self.store_renewal(effects);
    }

    /// `QK`: the peer's keys for our new queue.
    pub(super) fn take_queue_key(&mut self, keys: &[(QueueInfo, AuthKey)], effects: &mut Effects) {
        let Some((info, key)) = keys.first() else {
            return;
        };
        self.take_parallel_key(info, key, effects);
        let next = self.rotation.next.as_mut();
        if next.is_some_and(|next| next.take_key(info, key)) {
            self.store_renewal(effects);
            effects.ready(self.owner());
        }
    }

    /// `QU`: the peer's new queue may be used, in a moment.
    pub(super) fn use_queue(
        &mut self,
        queues: &[(QueueName, bool)],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let Some((name, _)) = queues.first() else {
            return;
        };
        let is_news = self.use_addition(name, effects, rng);
        self.answer_use(name, is_news, effects, rng);
        let offered = self.rotation.offered.as_mut();
        if offered.is_some_and(|offered| offered.take_use(name)) {
            self.time_switch(effects);
            self.store_renewal(effects);
        }
    }

    /// Starts the timer for leaving the peer's queue, if that is due.
    pub(super) fn time_switch(&mut self, effects: &mut Effects) {
        if self.rotation.is_leaving() {
            self.rotation.heard = false;
            effects.wake_after(SWITCH_PAUSE, Timer::Switch(self.id));
        }
    }

    /// The peer has said something: what we leave its queue for may have to wait for what it has still to read there.
    pub(super) fn heard_before_switch(&mut self) {
        // Who takes part in noise or in several queues is of our kind, and reads the old queue first.
        self.rotation.heard = !self.slots.is_understood() && !self.parallel.is_understood();
    }

    /// Leaves the peer's queue for the new one, unless an answer from there is awaited still. What the old
    /// relay has not taken for certain goes first.
    pub(super) fn switch(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let Some(old) = &self.send else { return };
        if !old.in_flight.is_empty() && effects.is_up(old.relay) {
            return self.time_switch(effects);
        }
        if self.rotation.heard && self.rotation.switch_tries < SWITCH_TRIES {
            self.rotation.switch_tries += 1;
            return self.time_switch(effects);
        }
        self.leave_for_offered(effects, rng);
    }

    /// Goes over to the peer's new queue. `false` if there is none, or its key is no key.
    pub(super) fn leave_for_offered(
        &mut self,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) -> bool {
        self.rotation.switch_tries = 0;
        let offered = self.rotation.offered.take_if(|offered| offered.usable);
        let is_used = matches!(self.stage, Stage::Active | Stage::Leaving(_));
        let Some(offered) = offered.filter(|_| is_used) else {
            return false;
        };
        let (name, relay) = (
            QueueName::of(&offered.address),
            offered.address.relay.clone(),
        );
        let Some(send) = offered.into_queue(&self.receive, effects) else {
            self.store_renewal(effects);
            return false;
        };
        self.opened();
        if let Some(old) = self.send.replace(send) {
            self.seal_outbox_anew(Some(&old.layer_key), effects, rng);
        }
        effects.forget_sends(self.owner());
        // Tells the peer to look there, if nothing else does.
        if self.may_speak() {
            let _ = self.enqueue(&Body::QueueTest(vec![name]), effects, rng);
        }
        self.tell(effects, |connection| Event::Rotated {
            connection,
            receives: false,
            relay,
        });
        effects.queues_changed();
        effects.changed(self.owner());
        self.store_renewal(effects);
        true
    }

    /// Starts to count the use of our queue, if that was not done before.
    pub(super) fn count_use(&mut self, effects: &mut Effects) {
        if effects.schedule.every.is_some() && self.stage == Stage::Active {
            if self.rotation.since == 0 {
                self.rotation.since = effects.unix_seconds();
                self.store_renewal(effects);
            }
            self.time_rotation(effects);
        }
    }

    /// How often one of our queues is to be replaced: each in its turn.
    fn share_of_schedule(&self, effects: &Effects) -> Option<Duration> {
        let queues = 1 + u32::try_from(self.parallel.ours.len()).unwrap_or(0);
        effects.schedule.every.map(|every| every / queues)
    }

    /// Wakes the machine when the queue is to be replaced.
    fn time_rotation(&mut self, effects: &mut Effects) {
        let Some(every) = self.share_of_schedule(effects) else {
            return;
        };
        // Spread over time, so that nobody sees which ones belong together.
        let spread = every.as_secs() / 4 * u64::from(self.id.as_bytes()[0]) / 256;
        let due = self.rotation.since.saturating_add(every.as_secs() + spread);
        let left = Duration::from_secs(due.saturating_sub(effects.unix_seconds()));
        effects.wake_after(left, Timer::Rotation(self.id));
    }

    /// It is time to replace the queue.
    pub(super) fn rotation_due(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let Some(every) = self.share_of_schedule(effects) else {
            return;
        };
        let due = self.rotation.since.saturating_add(every.as_secs());
        if self.stage != Stage::Active || effects.unix_seconds() < due {
            return;
        }
        if self.rotation.next.is_none() {
            // In turn, if there are several.
            self.put_another_first(true, effects);
        }
        let relay = self.place_for_next(effects, rng);
        // Whatever comes of it, the next time is that much later.
        let _ = self.rotate(relay, effects, rng);
        effects.wake_after(every.max(Duration::from_secs(1)), Timer::Rotation(self.id));
    }

    /// A relay of the profile that no queue of the connection is on, if it has one.
    pub(super) fn place_for_next(
        &self,
        effects: &Effects,
        rng: &mut impl CryptoRng,
    ) -> ServerAddress {
        let current = self.receive.relay_address();
        let is_other = |it: &&ServerAddress| {
            let parallel = self.parallel.queues().map(|(_, queue)| queue);
            let mut used = parallel.chain([&self.receive]);
            !used.any(|queue| queue.relay_address().fingerprint() == it.fingerprint())
        };
        let others: Vec<_> = effects.routes.own.iter().filter(is_other).collect();
        let mut bytes = [0; 8];
        rng.fill_bytes(&mut bytes);
        let count = others.len().max(1) as u64;
        let at = usize::try_from(u64::from_be_bytes(bytes) % count).unwrap_or(0);
        others.get(at).map_or(current, |it| *it).clone()
    }
}

#[cfg(test)]
mod tests {
    use junto_crypto::x25519;
    use junto_smp::id::SenderId;
    use junto_smp::key::AuthSecret;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::proto::connection::Keys;
    use crate::proto::link::InvitationLink;
    use crate::proto::{ConnectionId, Tag, version};

    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example:5223";

    fn queue(effects: &mut Effects, rng: &mut impl CryptoRng) -> ReceiveQueue {
        let relay = RELAY.parse().unwrap();
        let mut queue = ReceiveQueue::new(relay, QueueMode::Messaging, effects, rng);
        created(&mut queue, rng);
        queue
    }

    fn created(queue: &mut ReceiveQueue, rng: &mut impl CryptoRng) {
        let key = x25519::SecretKey::generate(rng).public_key();
        let (recipient, sender) = (RecipientId::random(rng), SenderId::random(rng));
        queue.set_created(recipient, sender, key).unwrap();
    }

    /// A connection in use that may send.
    fn active() -> (Connection, Effects, ChaCha20Rng) {
        let mut rng = ChaCha20Rng::from_seed([4; 32]);
        let mut effects = Effects::default();
        let (id, tag) = (ConnectionId::new([1; 16]), Tag::new([2; 32]));
        let receive = queue(&mut effects, &mut rng);
        let maker = Connection::invite(id, tag, vec![], receive, &mut rng);
        let Keys::Offered(keys) = &maker.keys else {
            panic!()
        };
        let offer = keys.offer(junto_ratchet::VersionRange::OURS);
        let link = InvitationLink::new(maker.receive.address().unwrap(), offer);
        let receive = queue(&mut effects, &mut rng);
        let parts = (&mut effects, &mut rng);
        let mut joiner = Connection::join(id, tag, &link, vec![], receive, parts).unwrap();
        joiner.stage = Stage::Active;
        (joiner, effects, rng)
    }

    fn offer(
        connection: &Connection,
        number: u8,
        rng: &mut impl CryptoRng,
    ) -> (QueueUri, Option<QueueName>) {
        let current = &connection.send.as_ref().unwrap().address;
        let host = format!("relay{number}.example").parse().unwrap();
        let pin = junto_smp::address::Fingerprint([number; 32]);
        let address = QueueAddress {
            relay: ServerAddress::new(pin, vec![host], 5223).unwrap(),
            sender_id: SenderId::random(rng),
            ..current.clone()
        };
        let uri = QueueUri {
            versions: version::QUEUE_RANGE,
            address,
        };
        (uri, Some(QueueName::of(current)))
    }

    #[test]
    fn a_peer_that_names_wrong_queues_changes_nothing() {
        let (mut connection, mut effects, mut rng) = active();
        let (uri, replaced) = offer(&connection, 7, &mut rng);
        let current = connection.send.as_ref().unwrap().address.clone();
        let wrong = QueueName {
            sender_id: SenderId::random(&mut rng),
            ..QueueName::of(&current)
        };
        let mut contact = uri.clone();
        contact.address.mode = Some(QueueMode::Contact);
        let mut newer = uri.clone();
        newer.versions = super::super::VersionRange::new(5, 9).unwrap();
        let same = QueueUri {
            address: current.clone(),
            ..uri.clone()
        };
        for lie in [
            (uri.clone(), Some(wrong.clone())),
            (contact, replaced.clone()),
            (newer, replaced.clone()),
            (same, replaced.clone()),
        ] {
            connection.take_queue(&[lie], &mut effects, &mut rng);
            assert!(connection.rotation.offered.is_none());
        }
        assert!(connection.outbox.is_empty());
        // Told to use what was not offered, before and after an offer.
        connection.use_queue(&[(wrong.clone(), true)], &mut effects, &mut rng);
        connection.switch(&mut effects, &mut rng);
        connection.take_queue(&[(uri.clone(), replaced)], &mut effects, &mut rng);
        connection.use_queue(&[(wrong, true)], &mut effects, &mut rng);
        connection.switch(&mut effects, &mut rng);
        assert_eq!(connection.send.as_ref().unwrap().address, current);
        // Told so twice: once is what counts.
        let name = QueueName::of(&uri.address);
        for _ in 0..2 {
            connection.use_queue(&[(name.clone(), true)], &mut effects, &mut rng);
            connection.switch(&mut effects, &mut rng);
            let used = &connection.send.as_ref().unwrap().address;
            assert!(name.names(used));
            assert_eq!(connection.outbox.len(), 2, "QK and QT");
        }
    }

    #[test]
    fn a_peer_that_offers_queues_for_ever_takes_no_room_and_has_nobody_called() {
        let (mut connection, mut effects, mut rng) = active();
        let dialled = effects.dialled().count();
        let (mut longest, mut most) = (0, 0);
        // No relay takes the answers.
        for number in (0..200_u8).chain(0..200) {
            // Each is taken up.
            effects.now = effects.now.after(Duration::from_secs(600));
            let queue = offer(&connection, number, &mut rng);
            connection.take_queue(&[queue], &mut effects, &mut rng);
            most = most.max(connection.outbox.len());
            let offered = connection.rotation.offered().unwrap();
            assert_eq!(offered.address.relay.fingerprint().0[0], number);
            let mut row = Zeroizing::new(Vec::new());
            connection.rotation.put(&mut row).unwrap();
            longest = longest.max(row.len());
        }
        assert!(longest < 300, "{longest}");
        assert!(
            (OUTBOX_MAX..=OUTBOX_MAX + QUEUES_MAX).contains(&most),
            "{most}"
        );
        assert_eq!(effects.dialled().count(), dialled);
    }

    #[test]
    fn keys_for_another_queue_or_a_second_time_are_not_taken() {
        let (mut connection, mut effects, mut rng) = active();
        let relay: ServerAddress = RELAY.parse().unwrap();
        connection.rotate(relay, &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        connection.speak_of_queues(&mut effects, &mut rng);
        let ours = connection.rotation.next.as_ref().unwrap();
        let ours = ours.queue.address().unwrap();
        let key = |rng: &mut ChaCha20Rng| AuthSecret::generate(rng).public_key();
        let wrong = QueueAddress {
            sender_id: SenderId::random(&mut rng),
            ..ours.clone()
        };
        let keyed = |connection: &Connection| match &connection.rotation.next {
            Some(next) => match &next.step {
                Step::Keyed(key) => Some(key.clone()),
                _ => None,
            },
            None => panic!(),
        };
        let lie = (QueueInfo::new(wrong), key(&mut rng));
        connection.take_queue_key(&[lie], &mut effects);
        assert_eq!(keyed(&connection), None);
        let first = key(&mut rng);
        let word = (QueueInfo::new(ours.clone()), first.clone());
        connection.take_queue_key(&[word], &mut effects);
        let again = (QueueInfo::new(ours), key(&mut rng));
        connection.take_queue_key(&[again], &mut effects);
        assert_eq!(keyed(&connection), Some(first));
    }

    #[test]
    fn a_relay_that_makes_no_queue_leaves_the_old_one_in_use() {
        let (mut connection, mut effects, mut rng) = active();
        let before = connection.receive.address();
        let relay: ServerAddress = RELAY.parse().unwrap();
        connection.rotate(relay, &mut effects, &mut rng).unwrap();
        let refused = Answer::Refused(Refusal::Auth);
        connection.next_answered(Purpose::Create, refused, &mut effects, &mut rng);
        assert!(connection.rotation.next.is_none());
        assert_eq!(connection.receive.address(), before);
    }

    #[test]
    fn a_peer_that_may_be_on_its_way_to_a_queue_hears_that_there_is_none() {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        let relay: ServerAddress = RELAY.parse().unwrap();
        connection.rotate(relay, &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        next.step = Step::Used;
        connection.parallel.said = true;
        let gone = Answer::Refused(Refusal::Auth);
        connection.next_answered(Purpose::Subscribe, gone, &mut effects, &mut rng);
        assert!(connection.rotation.next.is_none());
        assert_eq!(connection.outbox.len(), 1, "the list");
        assert!(connection.parallel.again.left_out());
    }

    #[test]
    fn what_lies_in_a_new_queue_before_it_has_a_sender_does_not_hold_it_up() {
        let (mut connection, mut effects, mut rng) = active();
        let relay: ServerAddress = RELAY.parse().unwrap();
        connection.rotate(relay, &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        assert!(next.queue.sender.is_none());
        let relay = next.queue.relay;
        effects.relay_up(relay);
        let message = junto_smp::id::MessageId::random(&mut rng);
        connection.next_delivers(message, &[7; 100], &mut effects);
        assert!(effects.awaits_message(Owner::Next(connection.id)));
        assert!(connection.rotation.next.is_some());
    }

    #[test]
    fn rows_return() {
        let (mut connection, mut effects, mut rng) = active();
        let relay: ServerAddress = RELAY.parse().unwrap();
        for step in 0..5 {
            match step {
                1 => connection
                    .rotate(relay.clone(), &mut effects, &mut rng)
                    .unwrap(),
                2 => {
                    let queue = offer(&connection, 9, &mut rng);
                    connection.take_queue(&[queue], &mut effects, &mut rng);
                }
                3 => {
                    let next = connection.rotation.next.as_mut().unwrap();
                    created(&mut next.queue, &mut rng);
                    next.step = Step::Keyed(AuthSecret::generate(&mut rng).public_key());
                }
                4 => connection.promote(&mut effects),
                _ => {}
            }
            let mut row = Zeroizing::new(Vec::new());
            connection.rotation.put(&mut row).unwrap();
            let mut reader = Reader::new(&row);
            let back = Rotation::read(&mut reader, &mut effects).unwrap();
            reader.end().unwrap();
            let mut again = Zeroizing::new(Vec::new());
            back.put(&mut again).unwrap();
            assert_eq!(*row, *again, "step {step}");
            for len in 0..row.len() {
                assert!(Rotation::read(&mut Reader::new(&row[..len]), &mut effects).is_err());
            }
        }
    }
}
