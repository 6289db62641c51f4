//! Words about queues that brought nothing about are said again: a relay may have lost them, or they came after they
//! had been given up, or lay with a relay until it dropped them.
//!
//! | who | waits for | says again |
//! |---|---|---|
//! | recipient of a queue | the sender's keys (`QK`) | `QA`, which the sender answers again |
//! | | the first message there | `QU`, which the sender answers with `QT`, there as well, if it uses the queue |
//! | | the list of the peer's queues | `QT`: the list of ours |
//! | | word that a queue is not used any more | the list, which leaves it out; who knew ours answers with its own, and with what it sends to |
//!
//! What is said is what is so by then, and not what was so before: of a queue that is gone nothing is said. The sender
//! of messages says nothing by itself.
//!
//! SimpleX's agent takes a second `QA`, `QK` or `QU` for an error, which its user sees, and does nothing on a `QT`. So
//! nobody hears the first three again who is not known to be of our kind; in their place the list is said, which
//! whoever is of our kind answers with its own, and is known for what it is.

use std::time::Duration;

use junto_crypto::CryptoRng;

use super::address::QueueName;
use super::connection::{Connection, OUTBOX_MAX, Stage};
use super::effects::{Effects, Timer};
use super::instant::Instant;
use super::message::{Body, REPLY_QUEUES_MAX};
use super::newcomer::{Newcomer, Step};
use super::rotation::Place;
use super::wire::{Malformed, Reader};

/// How long the answer to a word is waited for at first.
const PAUSE: u64 = 60;

/// How much longer each next time.
const GROWTH: u64 = 6;

/// How often a word is said again: with the pauses growing, for more than a month. A relay drops what nobody fetches
/// after 21 days by the protocol's default.
pub(super) const TRIES_MAX: u8 = 7;

/// How often at most a peer that says again what we have done is told so.
const ANSWER_PAUSE: Duration = Duration::from_secs(30);

/// How long a process that has just started listens first: the answer may lie with a relay.
const START_PAUSE: u64 = 10;

/// What is answered if a peer says it again, each in its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeated {
    /// Which queues it has.
    List,
    /// That a queue may be used.
    Use,
    /// That there is a queue.
    Offer,
}

/// The wait after that many times, in seconds.
const fn pause(tries: u8) -> u64 {
    PAUSE * GROWTH.pow(if tries < TRIES_MAX { tries } else { TRIES_MAX } as u32)
}

/// Whether the peer has heard that our first queue may be used: it may have been beside the first one, or was to
/// replace it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Heard {
    #[default]
    Yes,
    /// It is yet to be told.
    Untold,
    /// It has been told.
    Told,
}

impl Heard {
    /// Of a queue that becomes the first one.
    pub(super) fn of(step: &Step) -> Self {
        match step {
            Step::Live => Self::Yes,
            Step::Used => Self::Told,
            Step::Making | Step::Added | Step::Keyed(_) | Step::Allowed => Self::Untold,
        }
    }

    /// Of the first queue when it becomes one of several.
    pub(super) fn step(self) -> Step {
        match self {
            Self::Yes => Step::Live,
            Self::Untold => Step::Allowed,
            Self::Told => Step::Used,
        }
    }

    pub(super) fn say_again(&mut self) {
        if *self == Self::Told {
            *self = Self::Untold;
        }
    }

    /// Whether the peer is to be told now; it counts as told.
    pub(super) fn speak(&mut self) -> bool {
        let is_due = *self == Self::Untold;
        if is_due {
            *self = Self::Told;
        }
        is_due
    }
}

/// What is kept of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Again {
    /// How often the last words were said again.
    tries: u8,
    /// When they are due to be, in seconds since 1970; 0 if nothing is.
    due: u64,
    /// The outbox row of the last one.
    last: u64,
    /// The last list left a queue out.
    left_out: bool,
    /// What the peer knows of our first queue.
    pub(super) first: Heard,
    /// Until when no repetition is answered, by [`Repeated`]. Not stored.
    quiet_until: [Instant; 3],
    /// How often the peer's last queue was refused while another one waits to be opened. Not stored.
    refusals: u8,
    /// Until when further ones count for nothing. Not stored.
    refused_until: Instant,
    /// When the machine is woken for it. Not stored.
    wakes: Option<Instant>,
}

impl Again {
    /// Whether there is anything to keep.
    pub(super) fn is_used(&self) -> bool {
        self.due > 0 || self.last > 0 || self.first != Heard::Yes
    }

    /// Whether the peer is to know of a queue that is no more.
    pub(super) fn left_out(&self) -> bool {
        self.left_out
    }

    /// A queue of ours is not used any more, and the list that says so is on its way.
    pub(super) fn leave_out(&mut self) {
        self.left_out = true;
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.tries);
        let first = match self.first {
            Heard::Yes => 0,
            Heard::Untold => 2,
            Heard::Told => 4,
        };
        out.push(u8::from(self.left_out) | first);
        out.extend_from_slice(&self.due.to_be_bytes());
        out.extend_from_slice(&self.last.to_be_bytes());
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (tries, flags) = (reader.u8()?, reader.u8()?);
        Ok(Self {
            tries,
            left_out: flags & 1 != 0,
            first: match flags >> 1 {
                0 => Heard::Yes,
                1 => Heard::Untold,
                2 => Heard::Told,
                _ => return Err(Malformed::Tag),
            },
            due: reader.u64()?,
            last: reader.u64()?,
            quiet_until: <[Instant; 3]>::default(),
            refusals: 0,
            refused_until: Instant::default(),
            wakes: None,
        })
    }
}

/// Whether something is awaited of the peer for a queue.
fn awaits(ours: &Newcomer) -> bool {
    matches!(ours.step, Step::Added | Step::Used)
}

impl Connection {
    /// Whether the peer has said what only an agent of our kind says.
    pub(super) fn is_of_our_kind(&self) -> bool {
        self.parallel.is_understood() || self.slots.is_understood()
    }

    /// Our queues, as the peer is told of them: one that replaces another one may be what it knows already.
    pub(super) fn list_of_queues(&self) -> Body<'static> {
        let names = self.receives().filter_map(|(place, queue)| match place {
            Place::Main | Place::Next | Place::Parallel(_) => {
                Some(QueueName::of(&queue.address()?))
            }
            Place::Retired(_) => None,
        });
        Body::QueueTest(names.collect())
    }

    /// Something was said about queues for the first time.
    pub(super) fn said_of_queues(&mut self, effects: &mut Effects) {
        self.parallel.again.tries = 0;
        self.wait_for_answer(0, effects);
    }

    fn wait_for_answer(&mut self, tries: u8, effects: &mut Effects) {
        let again = &mut self.parallel.again;
        again.last = self.sent.next_id() - 1;
        again.due = effects.unix_seconds().saturating_add(pause(tries));
        self.time_words(effects);
        self.store_parallel(effects);
    }

    /// Wakes the machine when words are due to be said again.
    fn time_words(&mut self, effects: &mut Effects) {
        let again = &mut self.parallel.again;
        if again.due == 0 || self.stage != Stage::Active {
            return;
        }
        let left = again.due.saturating_sub(effects.unix_seconds());
        let at = effects.now.after(Duration::from_secs(left));
        // One timer goes round; one that comes too early begins anew.
        if again.wakes.is_none_or(|wakes| at < wakes) {
            again.wakes = Some(at);
            effects.wake_at(at, Timer::Words(self.id));
        }
    }

    /// The process has started: words wait on.
    pub(super) fn resume_words(&mut self, effects: &mut Effects) {
        if self.stage != Stage::Active {
            return;
        }
        let (now, is_awaited) = (effects.unix_seconds(), self.awaits_words());
        let again = &mut self.parallel.again;
        // The clock may have been set back since.
        let latest = now.saturating_add(pause(again.tries));
        let due = match again.due {
            // From before words were said again.
            0 if is_awaited && again.last == 0 => now.saturating_add(PAUSE),
            due => due.min(latest),
        };
        if core::mem::replace(&mut again.due, due) != due {
            self.store_parallel(effects);
        }
        let again = &mut self.parallel.again;
        if again.due > 0 {
            again.due = again.due.max(now.saturating_add(START_PAUSE));
        }
        self.time_words(effects);
    }

    /// Whether the peer is to answer something that was said about queues.
    fn awaits_words(&self) -> bool {
        let next = self.rotation.next.as_deref();
        let parallel = &self.parallel;
        next.is_some_and(awaits)
            || parallel.ours.iter().any(|(_, ours)| awaits(ours))
            || (!parallel.is_understood() && !parallel.ours.is_empty())
            || parallel.again.left_out
            || parallel.again.first != Heard::Yes
    }

    /// A queue of ours is no more: the peer is told so, if it knows what that means, and what else is due.
    pub(super) fn say_what_is_left(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        if self.is_of_our_kind() {
            self.parallel.said = false;
            self.parallel.again.leave_out();
        }
        self.speak_of_queues(effects, rng);
    }

    /// What is said again, by what the peer is known to be.
    fn words_again(&mut self) -> Vec<Body<'static>> {
        if self.is_of_our_kind() {
            self.rotation.say_ours_again();
            self.parallel.say_ours_again();
            self.words_of_queues()
        } else {
            self.parallel.said = true;
            vec![self.list_of_queues()]
        }
    }

    /// The time for an answer is over: what is awaited still is said again.
    pub(super) fn words_due(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let now = effects.now;
        self.parallel.again.wakes.take_if(|wakes| *wakes <= now);
        let Again {
            tries, due, last, ..
        } = self.parallel.again;
        if self.stage != Stage::Active || due == 0 {
            return;
        }
        if effects.unix_seconds() < due {
            return self.time_words(effects);
        }
        if !self.awaits_words() || tries >= TRIES_MAX {
            self.parallel.again.due = 0;
            return self.store_parallel(effects);
        }
        let may_say = self.may_speak() && self.can_send() && self.untaken() < OUTBOX_MAX;
        if !may_say || self.has_untaken(last) {
            // It is not lost, it has not left.
            self.parallel.again.due = effects.unix_seconds().saturating_add(PAUSE);
            return self.time_words(effects);
        }
        for body in self.words_again() {
            // Sizes are constants.
            let _ = self.enqueue(&body, effects, rng);
        }
        self.store_renewal(effects);
        self.parallel.again.tries = tries + 1;
        self.wait_for_answer(tries + 1, effects);
    }

    /// The peer's last queue is no more, and it is yet to open another one: what waits is kept as long as words about
    /// that are said again.
    pub(super) fn await_opening(&mut self, number: u64, effects: &mut Effects) {
        let Some(send) = &mut self.send else { return };
        send.refused = Some(send.refused.map_or(number, |first| first.min(number)));
        if core::mem::replace(&mut send.blocked, true) {
            return;
        }
        let again = &mut self.parallel.again;
        // A relay that comes and goes is asked each time: that does not bring the end nearer.
        if effects.now >= again.refused_until {
            if again.refusals >= TRIES_MAX {
                return self.lose_peer(effects);
            }
            let delay = Duration::from_secs(pause(again.refusals));
            again.refusals += 1;
            again.refused_until = effects.now.after(delay);
        }
        effects.wake_at(again.refused_until, Timer::Quota(self.id));
    }

    /// The peer has opened one: whether the one before is no more shows at once.
    pub(super) fn opened(&mut self) {
        let again = &mut self.parallel.again;
        again.refused_until = Instant::default();
        if core::mem::take(&mut again.refusals) > 0
            && let Some(send) = &mut self.send
        {
            send.blocked = false;
        }
    }

    /// The peer is known to be of our kind from now on: what it was not to hear again it may hear now.
    pub(super) fn hasten_words(&mut self, effects: &mut Effects) {
        let again = &mut self.parallel.again;
        if again.tries > 0 {
            again.tries = 0;
            again.due = effects.unix_seconds().max(1);
            self.time_words(effects);
        }
    }

    /// A list of the peer that brings nothing new: it did not hear ours, or wants to know that we heard its own. The
    /// answer says both, and is never answered.
    pub(super) fn answer_list(
        &mut self,
        heard: &[QueueName],
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        if self.may_answer(Repeated::List, effects) {
            let names = self.list_and_sends(heard);
            // The size is a constant.
            let _ = self.enqueue(&Body::QueueTest(names), effects, rng);
        }
    }

    /// Our queues, and those that we send to. If there are too many, some of the latter are left out that the peer has
    /// just named: the others are what it waits to hear of.
    fn list_and_sends(&self, heard: &[QueueName]) -> Vec<QueueName> {
        let Body::QueueTest(mut names) = self.list_of_queues() else {
            return Vec::new();
        };
        let sends = self.sends().map(|send| &send.address);
        let (known, others): (Vec<_>, Vec<_>) =
            sends.partition(|it| heard.iter().any(|name| name.names(it)));
        names.extend(others.into_iter().chain(known).map(QueueName::of));
        names.truncate(REPLY_QUEUES_MAX);
        names
    }

    /// Whether a list is such an answer. If it names only what is there, the peer knows what is not: its own queues are
    /// those that we send to, or that it offers.
    pub(super) fn is_answer(&mut self, names: &[QueueName]) -> bool {
        let ours = self
            .receives()
            .filter(|(place, _)| !matches!(place, Place::Retired(_)));
        let ours: Vec<_> = ours.filter_map(|(_, queue)| queue.address()).collect();
        let is_ours = |name: &QueueName| ours.iter().any(|ours| name.names(ours));
        let is_theirs = |name: &QueueName| {
            let is_used = self.sends().any(|send| name.names(&send.address));
            is_used || self.all_offers().any(|address| name.names(address))
        };
        let is_answer = names.iter().any(is_ours);
        if is_answer && names.iter().all(|name| is_ours(name) || is_theirs(name)) {
            self.parallel.again.left_out = false;
        }
        is_answer
    }

    /// Whether what the peer says again is answered now, and not again for a while.
    pub(super) fn may_answer(&mut self, word: Repeated, effects: &Effects) -> bool {
        let may_say = self.may_speak() && self.can_send() && self.untaken() < OUTBOX_MAX;
        let quiet_until = &mut self.parallel.again.quiet_until[word as usize];
        let is_answered = may_say && effects.now >= *quiet_until;
        if is_answered {
            *quiet_until = effects.now.after(ANSWER_PAUSE);
        }
        is_answered
    }

    /// The peer says that its queue may be used, and it is: says so there, if the peer can make something of it.
    pub(super) fn answer_use(
        &mut self,
        name: &QueueName,
        is_news: bool,
        effects: &mut Effects,
        rng: &mut impl CryptoRng,
    ) {
        let is_used = self.sends().any(|send| name.names(&send.address));
        let may_say = self.may_speak() && self.can_send() && self.untaken() < OUTBOX_MAX;
        if !is_used || !self.is_of_our_kind() {
            return;
        }
        if (is_news && may_say) || self.may_answer(Repeated::Use, effects) {
            // The size is a constant.
            let _ = self.enqueue(&Body::QueueTest(vec![name.clone()]), effects, rng);
        }
    }
}

#[cfg(test)]
mod tests;
