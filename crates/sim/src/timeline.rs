//! The virtual clock: what happens next, and when.

use std::collections::BTreeMap;

use crate::dice::Dice;

/// Events in order of their time. Those of the same millisecond happen in random order.
pub struct Timeline<E> {
    now_ms: u64,
    dice: Dice,
    due: BTreeMap<(u64, u64, u64), E>,
    scheduled: u64,
}

impl<E> Timeline<E> {
    /// Starts at zero; `dice` decides ties.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self {
            now_ms: 0,
            dice,
            due: BTreeMap::new(),
            scheduled: 0,
        }
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Lets `event` happen `delay_ms` from now.
    pub fn after(&mut self, delay_ms: u64, event: E) {
        self.at(self.now_ms.saturating_add(delay_ms), event);
    }

    /// Lets `event` happen at a time, or now if that is over.
    pub fn at(&mut self, time_ms: u64, event: E) {
        let tie = self.dice.below(u64::MAX);
        self.scheduled += 1;
        let time_ms = time_ms.max(self.now_ms);
        self.due.insert((time_ms, tie, self.scheduled), event);
    }

    /// The next event, at its time.
    pub fn take_next(&mut self) -> Option<E> {
        let ((time_ms, _, _), event) = self.due.pop_first()?;
        self.now_ms = time_ms;
        Some(event)
    }

    /// Lets time pass without an event, at most until the next one.
    pub fn wait_until(&mut self, now_ms: u64) {
        let limit = self.next_ms().unwrap_or(u64::MAX);
        self.now_ms = self.now_ms.max(now_ms.min(limit));
    }

    /// When the next event happens.
    #[must_use]
    pub fn next_ms(&self) -> Option<u64> {
        self.due.keys().next().map(|(time_ms, _, _)| *time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Seed;

    #[test]
    fn events_come_in_order_of_time() {
        let mut timeline = Timeline::new(Seed(1).dice("ties"));
        for delay in [5, 1, 3, 3, 0] {
            timeline.after(delay, delay);
        }
        let mut seen = Vec::new();
        while let Some(delay) = timeline.take_next() {
            assert_eq!(timeline.now_ms(), delay);
            seen.push(delay);
        }
        assert_eq!(seen, [0, 1, 3, 3, 5]);
        timeline.at(2, 9);
        assert_eq!(
            (timeline.take_next(), timeline.now_ms()),
            (Some(9), 5),
            "never backwards"
        );
    }
}
