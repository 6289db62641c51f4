//! The ways with one other party: what is said next, and which way.

use std::time::Duration;

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::{mesh::ALIVE_EVERY, path::Policy, silence::Heard};
use crate::proto::{
    paths::{Contact, Offer, Sequence, Wish},
    streams::{Life, Link},
};

/// What has come over a path is acknowledged after this at the latest.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(10);
/// Paths are given up on which for so long nothing of what is under way is acknowledged. What has no network is seen much
/// sooner: an honest end is that late only behind much that goes the other way on a slow path, or behind a slow relay.
pub(super) const STALLED: Duration = Duration::from_secs(30);
/// Once our program has ended, what is under way for so long goes over the queues, if it may, however it trickles.
const ENDING: Duration = Duration::from_secs(60);
/// For so long there is no path then: at first, doubled each time, and at most.
const SHUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A path that has carried something so long after that begins anew.
const FORGIVEN: Duration = Duration::from_secs(60);
/// A party may come up with another path so often, while there is one.
const COMES_EVERY: Duration = Duration::from_secs(10);
/// Where there is none, so soon after the last: what waited goes over the queues meanwhile.
const COMES_AFTER: Duration = Duration::from_millis(500);
/// Paths with one party: one that each has made.
const LINES_MAX: usize = 2;

/// The ways with one other party.
pub(super) struct Pair {
    pub(super) sequence: Sequence,
    /// What we say is numbered from now on.
    numbered: bool,
    /// The last that it made.
    pub(super) offer: Option<Offer>,
    /// It is to be told how to reach us.
    pub(super) owed: bool,
    lines: Vec<(LineId, mpsc::Sender<Bytes>)>,
    /// What is under way from this number on did not go over the first line yet.
    again: u64,
    /// Since when it is not told of all that has come.
    owes: Option<Instant>,
    /// When it last came up with a path.
    came: Option<Instant>,
    /// When the last path ended.
    ended: Option<Instant>,
    /// When there was last nothing under way, or more of it acknowledged. Time without a path does not count: it makes nobody
    /// wait who may use the queues, and is not to be had by leaving for a moment.
    moved: Heard,
    /// When that was looked at.
    looked: Instant,
    /// The same, whether there was a path or not, and with nothing to say.
    reached: Heard,
    /// What was acknowledged when these were looked at.
    acknowledged: [u64; 2],
    /// No path is wanted until then, and for how long that was.
    shut: Option<Instant>,
    was_shut: Option<Instant>,
    shut_for: Duration,
    /// Our program has ended.
    ending: Option<Heard>,
}

pub(super) type LineId = u64;

/// What is next to be said, and which way.
pub(super) enum Word {
    Queue(Bytes),
    /// Which ways we want.
    Wish(Wish),
    /// A queue is to take what was under way.
    Again(u64, Bytes),
    /// It has room.
    Line(mpsc::Sender<Bytes>, Bytes),
}

/// The two lives between which something holds, ours first.
pub(super) type Lives = (Life, Life);

impl Pair {
    pub(super) fn new() -> Self {
        Self {
            sequence: Sequence::default(),
            numbered: false,
            offer: None,
            owed: false,
            lines: Vec::new(),
            again: 0,
            owes: None,
            came: None,
            ended: None,
            moved: Heard::at(Instant::now()),
            looked: Instant::now(),
            reached: Heard::at(Instant::now()),
            acknowledged: [0; 2],
            shut: None,
            was_shut: None,
            shut_for: Duration::ZERO,
            ending: None,
        }
    }

    /// The other end began anew. What it has offered since is kept.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            offer: self.offer.take(),
            owed: self.owed,
            came: self.came,
            ended: self.ended,
            shut: self.shut,
            was_shut: self.was_shut,
            shut_for: self.shut_for,
            ..Self::new()
        };
    }

    pub(super) fn has_line(&self) -> bool {
        !self.lines.is_empty()
    }

    pub(super) fn has(&self, id: LineId) -> bool {
        self.lines.iter().any(|(line, _)| *line == id)
    }

    /// How the other end is reached, if it has said so in the present lives.
    pub(super) fn agreed(&self, link: &Link) -> Option<&Contact> {
        let (here, there) = link.lives()?;
        let offer = self.offer.as_ref()?;
        (offer.life == there && offer.named == here).then_some(&offer.contact)
    }

    /// Whether a path may be used now, and between which lives.
    pub(super) fn may(&self, link: &Link) -> Option<Lives> {
        let open = self.shut.is_none() && self.agreed(link).is_some();
        link.lives().filter(|_| open)
    }

    /// Whether one is to be made.
    pub(super) fn wants(&self, link: &Link) -> Option<Lives> {
        let wanted = !self.has_line() && link.over().is_none();
        self.may(link).filter(|_| wanted)
    }

    /// What is next to be said.
    pub(super) fn word(
        &mut self,
        link: &mut Link,
        policy: Policy,
        closing: bool,
        now: Instant,
    ) -> Option<Word> {
        if let Some(hello) = link.hello_next() {
            return Some(Word::Queue(hello));
        }
        if closing {
            self.owes = None;
            // All that it has to come after is acknowledged, or of no use any more.
            return link.last_words().map(Word::Queue);
        }
        let queues = policy != Policy::DirectOnly;
        if !self.numbered {
            if self.agreed(link).is_some() {
                self.numbered = true;
                // What went before it without a number is heard before it.
                return Some(Word::Queue(self.sequence.send(Bytes::new(), false)));
            }
            return queues.then(|| link.message()).flatten().map(Word::Queue);
        }
        let Some((_, line)) = self.lines.first() else {
            if !queues {
                return None;
            }
            if let Some((number, packet)) = self.sequence.again(0) {
                return Some(Word::Again(number, packet));
            }
            return self.over_queues(link);
        };
        // Nobody waits for a path that takes nothing: it wakes us when it has room, and others are told meanwhile.
        if line.capacity() == 0 {
            return None;
        }
        let line = line.clone();
        if let Some((number, packet)) = self.sequence.again(self.again) {
            self.again = number + 1;
            return Some(Word::Line(line, packet));
        }
        if self.sequence.has_room() {
            if let Some(message) = link.message() {
                let packet = self.sequence.send(message, true);
                self.again = self.sequence.next();
                return Some(Word::Line(line, packet));
            }
        } else if queues
            && self.sequence.is_settled()
            // What went over the queues is not acknowledged yet.
            && let Some(word) = self.over_queues(link)
        {
            return Some(word);
        }
        self.is_due(now)
            .then(|| Word::Line(line, self.sequence.acknowledgement()))
    }

    fn over_queues(&mut self, link: &mut Link) -> Option<Word> {
        let message = link.message()?;
        Some(Word::Queue(self.sequence.send(message, false)))
    }

    fn is_due(&mut self, now: Instant) -> bool {
        if !self.sequence.owes() {
            self.owes = None;
            return false;
        }
        let since = *self.owes.get_or_insert(now);
        let due = self.sequence.owes_much() || now >= since + ACKNOWLEDGE_AFTER;
        if due {
            self.owes = None;
        }
        due
    }

    /// When the other end is to hear of what has come.
    pub(super) fn due(&self) -> Option<Instant> {
        let (_, line) = self.lines.first()?;
        // Without room, it is told when there is some.
        let since = self.owes.filter(|_| line.capacity() > 0)?;
        Some(since + ACKNOWLEDGE_AFTER)
    }

    /// Begins to use a path that was made between those lives, unless they or the path's time are over.
    pub(super) fn attach(
        &mut self,
        link: &Link,
        lives: Lives,
        id: LineId,
        line: mpsc::Sender<Bytes>,
    ) -> bool {
        if self.may(link) != Some(lives) {
            return false;
        }
        let first = self.first();
        if self.lines.len() == LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push((id, line));
        self.begin_again(first);
        true
    }

    pub(super) fn detach(&mut self, id: LineId, now: Instant) {
        let first = self.first();
        let before = self.lines.len();
        self.lines.retain(|(line, _)| *line != id);
        if self.lines.len() < before {
            self.ended = Some(now);
        }
        self.begin_again(first);
    }

    fn first(&self) -> Option<LineId> {
        self.lines.first().map(|(id, _)| *id)
    }

    /// What was under way on the first line goes over the next one as well.
    fn begin_again(&mut self, first: Option<LineId>) {
        if self.first() != first {
            self.again = 0;
        }
        if self.lines.is_empty() {
            self.owes = None;
        }
    }

    /// No path is used for a while: what waits goes over the queues, if it may.
    fn shut(&mut self, policy: Policy, now: Instant) {
        let (first, most) = match policy {
            Policy::DirectOnly => (SHUT.0, SHUT.0),
            Policy::RelayOnly | Policy::PreferDirect => SHUT,
        };
        self.shut_for = (self.shut_for * 2).clamp(first, most);
        self.shut = Some(now + self.shut_for);
        self.was_shut = self.shut;
        let was = self.first();
        self.lines.clear();
        self.ended = Some(now);
        self.begin_again(was);
    }

    /// As [`Pair::look`], after this process did not run for that long.
    pub(super) fn look_after(&mut self, slept: Duration, policy: Policy, now: Instant) -> bool {
        self.moved.forgive(slept, now);
        self.look(policy, now)
    }

    /// Looks whether paths carry something; whether that has changed what is said or called. However many paths come, and
    /// in whatever turn, nothing waits for them longer than for one.
    pub(super) fn look(&mut self, policy: Policy, now: Instant) -> bool {
        let opens = self.shut.is_some_and(|until| now >= until);
        if opens {
            self.shut = None;
        }
        let acknowledged = self.sequence.acknowledged();
        let carried = self.acknowledged[0] != acknowledged;
        self.acknowledged[0] = acknowledged;
        if carried || self.sequence.is_settled() {
            self.moved = Heard::at(now);
        } else if self.lines.is_empty() {
            self.moved
                .forgive(now.saturating_duration_since(self.looked), now);
        }
        self.looked = now;
        let long = |shut: Instant| now >= shut + FORGIVEN;
        if carried && self.was_shut.is_some_and(long) {
            self.shut_for = Duration::ZERO;
        }
        let ends = |ending: Heard| ending.silence(now) >= ENDING && policy != Policy::DirectOnly;
        let trickles = self.ending.is_some_and(ends) && !self.sequence.is_settled();
        let shuts = self.has_line() && (trickles || self.moved.silence(now) >= STALLED);
        if shuts {
            self.shut(policy, now);
        }
        opens || shuts
    }

    /// Whether words that go their way may not come through for now.
    pub(super) fn is_mute(&self, policy: Policy, now: Instant) -> bool {
        match self.has_line() {
            true => self.moved.silence(now) >= ALIVE_EVERY,
            false => policy == Policy::DirectOnly,
        }
    }

    /// Our program has ended.
    pub(super) fn end(&mut self, now: Instant) {
        self.ending = Some(Heard::at(now));
    }

    /// Programs run from now on.
    pub(super) fn run(&mut self, now: Instant) {
        self.reached = Heard::at(now);
    }

    /// Whether a path that the party has made is wanted now.
    pub(super) fn comes(&mut self, now: Instant) -> bool {
        let since = |last: Option<Instant>, pause| last.is_none_or(|last| now >= last + pause);
        let timely = match self.has_line() {
            true => since(self.came, COMES_EVERY),
            // It may have seen before us that one has ended, and we it.
            false => since(self.ended, COMES_AFTER),
        };
        if timely {
            self.came = Some(now);
        }
        timely
    }

    /// For how long something was to be said, or under way, and nothing of it came through.
    pub(super) fn unreached(&mut self, link: &Link, now: Instant) -> Duration {
        let acknowledged = self.sequence.acknowledged();
        let carried = self.acknowledged[1] != acknowledged;
        self.acknowledged[1] = acknowledged;
        let waits = !self.sequence.is_settled() || !(link.is_said() || self.has_line());
        if carried || !waits {
            self.reached = Heard::at(now);
        }
        self.reached.silence(now)
    }

    pub(super) fn forgive(&mut self, lost: Duration, now: Instant) {
        self.reached.forgive(lost, now);
        self.moved.forgive(lost, now);
        if let Some(ending) = &mut self.ending {
            ending.forgive(lost, now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::{Members, PartyIndex, proto::streams::MESSAGE_MAX};

    const ONLY: Policy = Policy::DirectOnly;
    const PREFER: Policy = Policy::PreferDirect;

    struct World {
        pair: Pair,
        link: Link,
        lives: Lives,
        start: Instant,
        lines: Vec<mpsc::Receiver<Bytes>>,
    }

    /// The two have met, and told each other how they are reached.
    fn world() -> World {
        let own = PartyIndex::new(1).unwrap();
        let lives = (Life([1; 16]), Life([2; 16]));
        let mut link = Link::new(Life([1; 16]), true, Members::NONE.with(own));
        let hello = [&[0][..], &[2; 16], &[1; 16]].concat();
        link.receive(&hello.into()).unwrap();
        while link.message().is_some() {}
        let mut pair = Pair::new();
        pair.offer = Some(Offer {
            life: Life([2; 16]),
            named: Life([1; 16]),
            contact: Contact {
                key: [3; 32],
                word: [4; 32],
                places: Vec::new(),
            },
        });
        let start = Instant::now();
        pair.run(start);
        World {
            pair,
            link,
            lives,
            start,
            lines: Vec::new(),
        }
    }

    impl World {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn attach(&mut self, id: LineId) -> bool {
            let (sender, line) = mpsc::channel(64);
            self.lines.push(line);
            self.pair.attach(&self.link, self.lives, id, sender)
        }

        fn word(&mut self, policy: Policy) -> Option<Word> {
            self.pair.word(&mut self.link, policy, false, self.start)
        }

        /// The number of what is next to go over a line.
        fn over_line(&mut self, policy: Policy) -> u64 {
            match self.word(policy) {
                Some(Word::Line(_, packet)) => u64::from_be_bytes(packet[1..9].try_into().unwrap()),
                _ => panic!("it does not go over a line"),
            }
        }

        /// So many messages are under way on a line.
        fn send(&mut self, policy: Policy, count: u64) {
            assert!(
                matches!(self.word(policy), Some(Word::Queue(_))),
                "the first"
            );
            for number in 1..=count {
                self.link.alive();
                assert_eq!(self.over_line(policy), number);
            }
        }
    }

    #[test]
    fn what_is_under_way_and_has_no_path_is_not_reached() {
        let mut world = world();
        world.attach(1);
        world.send(ONLY, 3);
        assert!(world.link.is_said());
        world.pair.detach(1, world.at(1));
        let now = world.at(400);
        let unreached = world.pair.unreached(&world.link, now);
        assert_eq!(unreached.as_secs(), 400);
    }

    #[test]
    fn paths_that_come_and_carry_nothing_reach_nobody() {
        let mut world = world();
        world.attach(1);
        world.send(ONLY, 1);
        let mut last = Duration::ZERO;
        for second in 1..300 {
            if second % 15 == 0 {
                world.pair.detach(second / 15, world.at(second));
                world.attach(second / 15 + 1);
            }
            let now = world.at(second);
            world.pair.look(ONLY, now);
            last = world.pair.unreached(&world.link, now);
        }
        assert_eq!(last.as_secs(), 299);
    }

    #[test]
    fn who_waited_long_for_others_to_begin_waits_for_a_path_from_then_on() {
        let mut world = world();
        world.link.alive();
        let began = world.at(1000);
        world.pair.run(began);
        let now = world.at(1001);
        assert_eq!(world.pair.unreached(&world.link, now).as_secs(), 1);
    }

    #[test]
    fn whatever_paths_come_what_is_not_acknowledged_goes_over_the_queues() {
        let mut world = world();
        world.attach(1);
        world.send(PREFER, 3);
        // It comes up with another path every 10 s, and acknowledges nothing.
        for second in 1..=STALLED.as_secs() {
            if second % 10 == 0 {
                world.attach(1 + second);
            }
            let now = world.at(second);
            world.pair.look(PREFER, now);
        }
        assert!(!world.pair.has_line());
        for number in 1..=3 {
            assert!(!world.attach(100 + number), "no path is wanted for a while");
            match world.word(PREFER) {
                Some(Word::Again(again, _)) => assert_eq!(again, number),
                _ => panic!("{number} does not go over the queues"),
            }
            world.pair.sequence.is_queued(number);
        }
        assert!(world.pair.sequence.is_settled());
        // Later, there may be one again. The second time, the pause is longer.
        let opens = world.start + STALLED + SHUT.0;
        assert!(world.pair.look(PREFER, opens) && world.attach(200));
        world.link.alive();
        world.over_line(PREFER);
        let stalls = opens + STALLED;
        assert!(world.pair.look(PREFER, stalls) && !world.pair.has_line());
        assert!(!world.pair.look(PREFER, stalls + SHUT.0));
        assert!(world.pair.look(PREFER, stalls + 2 * SHUT.0) && world.attach(201));
        // One that carries something for long is as good as the first.
        world.link.alive();
        world.over_line(PREFER);
        let taken = [&[0x81][..], &4_u64.to_be_bytes()].concat();
        world.pair.sequence.receive(&taken.into()).unwrap();
        world.pair.look(PREFER, stalls + 2 * SHUT.0 + FORGIVEN);
        assert_eq!(world.pair.shut_for, Duration::ZERO);
    }

    #[test]
    fn who_leaves_for_a_moment_again_and_again_holds_up_no_more() {
        for policy in [PREFER, ONLY] {
            let mut world = world();
            world.attach(1);
            world.send(policy, 3);
            let (mut held, mut is_there) = (0, true);
            // Nine seconds there, two away, and nothing is acknowledged.
            for second in 1..=60 {
                let now = world.at(second);
                world.pair.look(policy, now);
                if is_there && !world.pair.has_line() {
                    break;
                }
                match second % 11 {
                    9 => world.pair.detach(1, now),
                    0 => assert!(world.attach(1)),
                    _ => {}
                }
                is_there = world.pair.has_line();
                held = second;
            }
            assert!((30..45).contains(&held), "{held} s");
        }
    }

    #[test]
    fn a_path_is_not_given_up_because_our_machine_slept() {
        let mut world = world();
        world.attach(1);
        world.send(PREFER, 3);
        let woken = world.at(3600);
        assert!(
            !world
                .pair
                .look_after(Duration::from_secs(3599), PREFER, woken)
        );
        assert!(world.pair.has_line());
        assert!(world.pair.look(PREFER, woken + STALLED));
    }

    #[test]
    fn where_nothing_else_may_carry_it_a_path_is_had_again_soon() {
        let mut world = world();
        let mut now = world.start;
        world.attach(1);
        world.send(ONLY, 1);
        for id in 2..10 {
            now += STALLED;
            assert!(world.pair.look(ONLY, now) && !world.pair.has_line());
            now += SHUT.0;
            assert!(world.pair.look(ONLY, now) && world.attach(id));
        }
    }

    #[test]
    fn over_a_path_that_carries_nothing_nobody_shows_that_it_is_there() {
        let mut world = world();
        world.attach(1);
        world.send(PREFER, 1);
        let later = world.start + ALIVE_EVERY;
        assert!(!world.pair.is_mute(PREFER, world.start) && world.pair.is_mute(PREFER, later));
        let taken = [&[0x81][..], &2_u64.to_be_bytes()].concat();
        world.pair.sequence.receive(&taken.into()).unwrap();
        world.pair.look(PREFER, later);
        assert!(!world.pair.is_mute(PREFER, later + ALIVE_EVERY / 2));
        world.pair.detach(1, later);
        assert!(!world.pair.is_mute(PREFER, later) && world.pair.is_mute(ONLY, later));
    }

    #[test]
    fn once_our_program_has_ended_a_path_that_trickles_holds_it_up_for_a_minute() {
        let mut world = world();
        world.attach(1);
        world.send(PREFER, 100);
        let began = world.start;
        world.pair.end(began);
        for second in 1..=ENDING.as_secs() {
            // One message every second is acknowledged.
            let taken = [&[0x81][..], &second.to_be_bytes()].concat();
            world.pair.sequence.receive(&taken.into()).unwrap();
            let now = world.at(second);
            world.pair.look(PREFER, now);
        }
        assert!(!world.pair.has_line());
        assert!(matches!(world.word(PREFER), Some(Word::Again(..))));
    }

    #[test]
    fn what_was_on_the_first_line_goes_over_the_next_when_a_third_takes_its_place() {
        let mut world = world();
        world.attach(1);
        world.attach(2);
        world.send(ONLY, 3);
        world.attach(3);
        assert_eq!(world.over_line(ONLY), 1, "said again");
        assert_eq!(world.over_line(ONLY), 2);
        // The second ends as well.
        world.pair.detach(2, world.at(1));
        assert_eq!(world.over_line(ONLY), 1);
    }

    #[test]
    fn what_comes_is_acknowledged_while_there_is_no_room_for_more() {
        let mut world = world();
        assert!(matches!(world.word(PREFER), Some(Word::Queue(_))));
        while world.pair.sequence.has_room() {
            world.link.alive();
            assert!(matches!(world.word(PREFER), Some(Word::Queue(_))));
        }
        world.attach(1);
        let packet = [&[0x80][..], &[0; 16], &[6]].concat();
        world.pair.sequence.receive(&packet.into()).unwrap();
        assert!(world.word(PREFER).is_none(), "not at once");
        assert!(world.pair.due().is_some());
        world.start += ACKNOWLEDGE_AFTER;
        assert!(matches!(world.word(PREFER), Some(Word::Line(..))));
        assert!(world.pair.due().is_none());
        // Nor is anything due on a line that has ended.
        let packet = [&[0x80][..], &1_u64.to_be_bytes(), &[0; 8], &[6]].concat();
        world.pair.sequence.receive(&packet.into()).unwrap();
        assert!(world.word(PREFER).is_none() && world.pair.due().is_some());
        world.pair.detach(1, world.at(1));
        world.attach(2);
        assert!(world.pair.due().is_none());
    }

    #[test]
    fn nobody_waits_for_a_line_that_takes_nothing() {
        let mut world = world();
        let (sender, mut line) = mpsc::channel(1);
        assert!(world.pair.attach(&world.link, world.lives, 1, sender));
        assert!(matches!(world.word(PREFER), Some(Word::Queue(_))));
        world.link.alive();
        let Some(Word::Line(to, packet)) = world.word(PREFER) else {
            panic!("it does not go over the line");
        };
        to.try_send(packet).unwrap();
        // Something is to be acknowledged, and nobody looks for room for it again and again.
        let packet = [&[0x80][..], &[0; 16], &[6]].concat();
        world.pair.sequence.receive(&packet.into()).unwrap();
        world.pair.owes = Some(world.start);
        world.link.alive();
        assert!(world.word(PREFER).is_none() && world.pair.due().is_none());
        // The last words do not care.
        world.link.finish(crate::proto::streams::Outcome::Stopped);
        let closing = world.pair.word(&mut world.link, PREFER, true, world.start);
        assert!(matches!(closing, Some(Word::Queue(_))));
        assert!(line.try_recv().unwrap().len() < MESSAGE_MAX);
        // And nothing is due any more, now that there is room.
        assert!(world.pair.due().is_none());
    }

    #[test]
    fn who_has_no_line_here_may_come_at_once_and_who_has_one_rarely() {
        let mut world = world();
        assert!(world.pair.comes(world.at(0)));
        world.attach(1);
        assert!(!world.pair.comes(world.at(9)));
        assert!(world.pair.comes(world.at(10)));
        let ended = world.at(11);
        world.pair.detach(1, ended);
        assert!(!world.pair.comes(ended), "the queues have their turn");
        assert!(world.pair.comes(ended + COMES_AFTER));
    }

    #[test]
    fn a_path_of_an_earlier_life_is_none_of_this_one() {
        let mut world = world();
        world.lives.1 = Life([9; 16]);
        assert!(!world.attach(1) && !world.pair.has_line());
    }
}
