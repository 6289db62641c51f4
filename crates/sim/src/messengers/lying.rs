//! Relays that lie to messengers.

use super::{AFTERMATH_MS, Checked, FAULTS_MS, Terms, World};
use crate::{
    dice::{Dice, Seed},
    faults::Faults,
    invariants::losses_are_told,
    malice::Malice,
    mutation::Mutation,
    stream::Stream,
    verdict::{Run, Violation},
};

/// How long relays lie.
const LIES_MS: u64 = 9_000;
/// How long it takes at most until what works goes on, once they are honest again.
const RECOVERY_MS: u64 = 300_000;

/// Runs one seed in which both parties come to receive on two relays each, of which one each lies from then on, for good.
#[must_use]
pub fn run_with_a_liar_of_two(seed: Seed, keep: bool, mutation: Mutation) -> Run {
    let faults = Faults::draw(&mut seed.dice("faults"));
    let mut world = World::new(seed, keep, (2, 4), (mutation, faults));
    world.homes = vec![0, 1];
    world.doubles = true;
    world.terms = Terms::Copies;
    let result = world.play_with_a_liar_of_two(seed, faults);
    world.end(result)
}

/// Runs one seed in which the only relays lie for a while: all that they can do is to lose messages, and that is told.
#[must_use]
pub fn run_with_lying_relays(seed: Seed, keep: bool, mutation: Mutation) -> Run {
    let mut dice = seed.dice("lying relays");
    let faults = Faults::draw(&mut seed.dice("faults"));
    let faults = if dice.chance(500) {
        faults
    } else {
        Faults::NONE
    };
    let relays = if dice.chance(500) { 1 } else { 2 };
    let mut world = World::new(seed, keep, (2, relays), (mutation, faults));
    world.terms = Terms::Told;
    world.may_rotate(seed);
    let result = world.play_with_lying_relays(seed, &mut dice, relays);
    world.end(result)
}

impl World {
    fn play_with_a_liar_of_two(&mut self, seed: Seed, faults: Faults) -> Checked {
        self.double_all(faults)?;
        self.doubles = false;
        let honest: Vec<_> = (0..self.parties)
            .map(|it| it + 2 * self.dice.index(2))
            .collect();
        for relay in 0..2 * self.parties {
            if !honest.contains(&relay) || self.mutation == Mutation::AllRelaysLie {
                let malice = Malice::draw(seed.dice(&format!("malice {relay}")));
                self.agents.corrupt_relay(relay, Some(malice));
            }
        }
        let end = self.now_ms() + 3 * FAULTS_MS;
        self.until(|_, now_ms| now_ms >= end)?;
        self.come_to_rest()
    }

    fn play_with_lying_relays(&mut self, seed: Seed, dice: &mut Dice, relays: usize) -> Checked {
        // Some lie while connections are made, some only later.
        let begin = if dice.chance(300) { 0 } else { FAULTS_MS };
        self.until(|_, now_ms| now_ms >= begin)?;
        self.quota += dice.between(0, 40);
        let first = dice.index(relays);
        for relay in 0..relays {
            if relay == first || dice.chance(500) {
                let malice = Malice::draw(seed.dice(&format!("malice {relay}")));
                self.agents.corrupt_relay(relay, Some(malice));
            }
        }
        let end = begin + LIES_MS;
        self.until(|_, now_ms| now_ms >= end)?;
        self.recover(relays)
    }

    /// The relays are honest again. What works then works on, and what was lost is told by what comes then.
    fn recover(&mut self, relays: usize) -> Checked {
        self.agents.faults = Faults::NONE;
        for relay in 0..relays {
            self.agents.corrupt_relay(relay, None);
        }
        for party in 0..self.parties {
            self.agents.crash(party);
        }
        let before = self.quota;
        self.quota += 4;
        let end = self.now_ms() + RECOVERY_MS;
        self.until(|world, now_ms| now_ms >= end || world.failed || world.has_all_since(before))?;
        let quiet = self.now_ms() + AFTERMATH_MS;
        self.until(|_, now_ms| now_ms >= quiet)?;
        self.judge(before)
    }

    /// Whether everything from a number on has arrived, in both directions. A queue that a relay has said to have deleted,
    /// and has not, takes what is sent there before its sender hears of the next one: that is told.
    fn has_all_since(&self, number: u64) -> bool {
        let may_miss = self.rotation.is_some();
        let is_there = |stream: &Stream, it: u64| {
            let is_told = || stream.ids.get(&it).is_some_and(|id| stream.is_told(*id));
            stream.received.contains(&it) || (may_miss && is_told())
        };
        self.streams.values().all(|stream| {
            (number..self.quota).all(|it| stream.confirmed.contains(&it) && is_there(stream, it))
        })
    }

    fn judge(&mut self, before: u64) -> Checked {
        self.streams.values().try_for_each(losses_are_told::check)?;
        let is_connected = (0..self.parties).all(|party| !self.notebooks[party].peers.is_empty());
        let end = match (is_connected, self.failed) {
            _ if self.has_all_since(before) => "connections that go on",
            (_, true) => "connections that end",
            (false, false) => "connections that never came about",
            // The peer may have been told to use it, and the relay takes what it sends there (G34).
            (true, false) if self.gave_up => "connections cut by a false word about a new queue",
            (true, false) => {
                let streams: Vec<_> = self.streams.values().map(ToString::to_string).collect();
                return Err(Violation::new("nobody_hangs", streams.join("; ")));
            }
        };
        self.agents.tally.count(end);
        Ok(())
    }
}
