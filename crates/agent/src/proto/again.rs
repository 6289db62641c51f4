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
const _: () = assert!(pause(TRIES_MAX - 1) > 21 * 24 * 60 * 60 / 4);

/// How often at most a peer that says again what we have done is told so.
const ANSWER_PAUSE: Duration = Duration::from_secs(30);

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
    /// Until when no repetition is answered. Not stored.
    quiet_until: Instant,
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
            quiet_until: Instant::default(),
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
    pub(super) fn answer_list(&mut self, effects: &mut Effects, rng: &mut impl CryptoRng) {
        let Body::QueueTest(mut names) = self.list_of_queues() else {
            return;
        };
        names.extend(self.sends().map(|send| QueueName::of(&send.address)));
        names.truncate(REPLY_QUEUES_MAX);
        if self.may_answer(effects) {
            // The size is a constant.
            let _ = self.enqueue(&Body::QueueTest(names), effects, rng);
        }
    }

    /// Whether a list is such an answer. If it names only what is there, the peer knows what is not.
    pub(super) fn is_answer(&mut self, names: &[QueueName]) -> bool {
        let ours = self
            .receives()
            .filter(|(place, _)| !matches!(place, Place::Retired(_)));
        let ours: Vec<_> = ours.filter_map(|(_, queue)| queue.address()).collect();
        let is_ours = |name: &QueueName| ours.iter().any(|ours| name.names(ours));
        let is_theirs = |name: &QueueName| self.sends().any(|send| name.names(&send.address));
        let is_answer = names.iter().any(is_ours);
        if is_answer && names.iter().all(|name| is_ours(name) || is_theirs(name)) {
            self.parallel.again.left_out = false;
        }
        is_answer
    }

    /// Whether what the peer says again is answered now, and not again for a while.
    fn may_answer(&mut self, effects: &Effects) -> bool {
        let again = &self.parallel.again;
        let is_quiet = effects.now < again.quiet_until;
        let may_say = self.may_speak() && self.can_send() && self.untaken() < OUTBOX_MAX;
        if may_say && !is_quiet {
            self.parallel.again.quiet_until = effects.now.after(ANSWER_PAUSE);
        }
        may_say && !is_quiet
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
        if (is_news && may_say) || self.may_answer(effects) {
            // The size is a constant.
            let _ = self.enqueue(&Body::QueueTest(vec![name.clone()]), effects, rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::parallel::tests::{active, created, relay, used};

    fn is_list(body: &Body<'_>) -> bool {
        matches!(body, Body::QueueTest(_))
    }

    #[test]
    fn who_may_be_an_agent_of_another_kind_hears_nothing_again_but_lists() {
        let (mut connection, mut effects, mut rng) = active();
        connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        assert!(!connection.is_of_our_kind());
        for step in [Step::Added, Step::Used] {
            connection.rotation.next.as_mut().unwrap().step = step;
            assert!(connection.awaits_words());
            let words = connection.words_again();
            assert!(words.len() == 1 && is_list(&words[0]), "{words:?}");
            let next = connection.rotation.next.as_ref().unwrap();
            assert!(awaits(next), "what was said counts as said");
        }
        // Nor when it says something that theirs says, too: which queue it uses.
        let ours = QueueName::of(&connection.receive.address().unwrap());
        connection.take_list(&[ours], &mut effects, &mut rng);
        assert!(!connection.is_of_our_kind());
        assert!(connection.words_again().iter().all(is_list));
        // By its list of queues it is one of ours.
        let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
        connection.take_list(&[theirs], &mut effects, &mut rng);
        let words = connection.words_again();
        assert!(
            words.iter().any(|it| matches!(it, Body::QueueUse(_))),
            "{words:?}"
        );
    }

    #[test]
    fn a_peer_that_says_the_same_for_ever_is_answered_now_and_then() {
        // Lists, that a queue may be used, and both.
        for (lists, uses) in [(true, false), (false, true), (true, true)] {
            let (mut connection, mut effects, mut rng) = active();
            let second = used(&mut connection, 1, (&mut effects, &mut rng));
            let second = QueueName::of(&second);
            let first = QueueName::of(&connection.send.as_ref().unwrap().address);
            let list = [first, second.clone()];
            connection.take_list(&list, &mut effects, &mut rng);
            let before = connection.outbox.len();
            let began = effects.now;
            for second_later in 0..300 {
                effects.now = began.after(Duration::from_secs(second_later));
                for _ in 0..10 {
                    if lists {
                        connection.take_list(&list, &mut effects, &mut rng);
                    }
                    if uses {
                        let words = [(second.clone(), false)];
                        connection.use_queue(&words, &mut effects, &mut rng);
                    }
                }
            }
            let said = connection.outbox.len() - before;
            assert!((9..=11).contains(&said), "{said} in 300 s: {lists} {uses}");
        }
    }

    /// Lets that much time pass; the number of timers for words that went off.
    fn pass(
        seconds: u64,
        connection: &mut Connection,
        (effects, rng): (&mut Effects, &mut impl CryptoRng),
    ) -> usize {
        effects.now = effects.now.after(Duration::from_secs(seconds));
        let mut count = 0;
        while let Some(timer) = effects.take_due() {
            if timer == Timer::Words(connection.id) {
                count += 1;
                connection.words_due(effects, rng);
            }
        }
        count
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_word_waiting() {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.understood = true;
        connection.parallel.again.leave_out();
        connection.parallel.again.due = effects.unix_seconds() + 100 * 365 * 24 * 60 * 60;
        connection.resume_words(&mut effects);
        let before = connection.outbox.len();
        pass(PAUSE - 1, &mut connection, (&mut effects, &mut rng));
        assert_eq!(connection.outbox.len(), before);
        pass(1, &mut connection, (&mut effects, &mut rng));
        assert!(connection.outbox.len() > before);
    }

    #[test]
    fn words_from_before_they_were_said_again_are_said_again() {
        let (mut connection, mut effects, mut rng) = active();
        connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        next.step = Step::Used;
        assert_eq!(connection.parallel.again, Again::default());
        connection.resume_words(&mut effects);
        let before = connection.outbox.len();
        pass(PAUSE, &mut connection, (&mut effects, &mut rng));
        assert!(connection.outbox.len() > before);
        // Nothing is awaited: nothing is said.
        let (mut connection, mut effects, _) = active();
        connection.resume_words(&mut effects);
        assert!(!connection.parallel.again.is_used());
    }

    #[test]
    fn many_words_have_one_timer() {
        let (mut connection, mut effects, mut rng) = active();
        connection.parallel.again.leave_out();
        for _ in 0..50 {
            pass(1, &mut connection, (&mut effects, &mut rng));
            connection.said_of_queues(&mut effects);
        }
        let mut count = 0;
        for _ in 0..PAUSE * GROWTH {
            count += pass(1, &mut connection, (&mut effects, &mut rng));
        }
        assert!((1..=4).contains(&count), "{count}");
    }

    #[test]
    fn a_peer_that_shows_its_kind_late_hears_all_of_it() {
        let (mut connection, mut effects, mut rng) = active();
        connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
        let next = connection.rotation.next.as_mut().unwrap();
        created(&mut next.queue, &mut rng);
        next.step = Step::Used;
        connection.parallel.again.tries = TRIES_MAX;
        connection.parallel.said = true;
        let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
        connection.take_list(&[theirs], &mut effects, &mut rng);
        let before = connection.outbox.len();
        pass(1, &mut connection, (&mut effects, &mut rng));
        assert_eq!(connection.outbox.len(), before + 2, "the list and QU");
    }

    #[test]
    fn who_may_be_of_another_kind_is_not_told_twice_to_use_a_queue() {
        for is_known in [false, true] {
            let (mut connection, mut effects, mut rng) = active();
            connection.parallel.understood = is_known;
            connection.parallel.said = true;
            connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
            let next = connection.rotation.next.as_mut().unwrap();
            created(&mut next.queue, &mut rng);
            next.step = Step::Used;
            let before = connection.outbox.len();
            connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
            assert_eq!(connection.outbox.len() - before, usize::from(is_known));
        }
    }

    #[test]
    fn of_a_queue_that_is_gone_nothing_is_said() {
        let uses = |body: &Body<'_>| matches!(body, Body::QueueUse(_) | Body::QueueAdd(_));
        for (is_removed, step) in [(true, Step::Used), (true, Step::Added), (false, Step::Used)] {
            let (mut connection, mut effects, mut rng) = active();
            connection.parallel.understood = true;
            let added = connection.add_queue(relay(1), &mut effects, &mut rng);
            added.unwrap();
            let (slot, ours) = &mut connection.parallel.ours[0];
            created(&mut ours.queue, &mut rng);
            ours.step = step;
            let slot = *slot;
            assert!(
                connection.words_again().iter().any(uses),
                "this would see it"
            );
            let before = connection.outbox.len();
            if is_removed {
                let removed = connection.remove_queue(&relay(1), &mut effects, &mut rng);
                removed.unwrap();
            } else {
                connection.parallel_lost(slot, &mut effects, &mut rng);
            }
            assert_eq!(connection.outbox.len(), before + 1, "the list says so");
            let words = connection.words_again();
            assert!(words.len() == 1 && is_list(&words[0]), "{words:?}");
        }
    }

    #[test]
    fn a_first_queue_that_the_peer_has_not_heard_of_is_spoken_of() {
        for (step, is_next) in [
            (Step::Allowed, false),
            (Step::Used, false),
            (Step::Allowed, true),
            (Step::Used, true),
        ] {
            let (mut connection, mut effects, mut rng) = active();
            connection.parallel.understood = true;
            connection.parallel.said = true;
            let ours = if is_next {
                connection.rotate(relay(1), &mut effects, &mut rng).unwrap();
                &mut **connection.rotation.next.as_mut().unwrap()
            } else {
                let added = connection.add_queue(relay(1), &mut effects, &mut rng);
                added.unwrap();
                &mut connection.parallel.ours[0].1
            };
            created(&mut ours.queue, &mut rng);
            ours.step = step;
            let address = ours.queue.address().unwrap();
            let sent = |connection: &Connection| connection.outbox.len();
            let before = sent(&connection);
            connection.queue_lost(&mut effects, &mut rng);
            assert_eq!(connection.stage, Stage::Active);
            assert_eq!(connection.receive.address().unwrap(), address);
            assert!(sent(&connection) > before, "the list at least");
            assert!(connection.awaits_words());
            // A process that starts anew knows it, too.
            let mut row = Vec::new();
            connection.parallel.again.put(&mut row);
            connection.parallel.again = Again::read(&mut Reader::new(&row)).unwrap();
            let name = QueueName::of(&address);
            let said = |words: Vec<Body<'_>>| {
                let is_it = |(used, _): &(QueueName, bool)| *used == name;
                let mut words = words.into_iter();
                words.any(|body| matches!(body, Body::QueueUse(used) if used.iter().any(is_it)))
            };
            assert!(said(connection.words_again()));
            // What comes there says that it was heard.
            connection.heard_on(Place::Main, 1, &mut effects);
            assert!(!said(connection.words_again()));
        }
    }

    #[test]
    fn answers_are_not_answered() {
        let (mut connection, mut effects, mut rng) = active();
        let theirs = QueueName::of(&connection.send.as_ref().unwrap().address);
        let ours = QueueName::of(&connection.receive.address().unwrap());
        connection.take_list(std::slice::from_ref(&theirs), &mut effects, &mut rng);
        let before = connection.outbox.len();
        effects.now = effects.now.after(ANSWER_PAUSE);
        connection.take_list(&[theirs, ours], &mut effects, &mut rng);
        assert_eq!(connection.outbox.len(), before);
    }

    #[test]
    fn pauses_grow_and_end() {
        let all: Vec<_> = (0..TRIES_MAX).map(pause).collect();
        assert!(all.is_sorted_by(|a, b| a < b));
        let days = all.iter().sum::<u64>() / (24 * 60 * 60);
        assert!((21..60).contains(&days), "{days}");
    }
}
