//! Who is not heard of, and what the word of others about it counts.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::mesh::{ALIVE_EVERY, Hub};
use crate::Members;

/// Nobody whose network and machine work is silent for so long.
pub(super) const OVERDUE: Duration = Duration::from_secs(15);
const _: () = assert!(OVERDUE.as_secs() > ALIVE_EVERY.as_secs());
/// How long it takes to see what is true of a claim: whoever is silent from its beginning is overdue then.
const WEIGHED: Duration = Duration::from_secs(OVERDUE.as_secs() + 1);
/// How often the silent are looked for.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a party was last heard of.
#[derive(Clone, Copy)]
pub(super) struct Heard(Instant);

/// A party gave up and names others.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub(super) named: Members,
    made: Heard,
}

impl Claim {
    pub(super) fn new(named: Members, now: Instant) -> Self {
        let made = Heard::at(now);
        Self { named, made }
    }

    /// Whether what is true of it has shown.
    pub(super) fn is_weighed(&self, now: Instant) -> bool {
        self.made.silence(now) > WEIGHED
    }

    /// As of those whom it names, time in which they could not be heard does not count.
    pub(super) fn forgive(&mut self, lost: Duration, now: Instant) {
        self.made.forgive(lost, now);
    }
}

impl Heard {
    pub(super) fn at(now: Instant) -> Self {
        Self(now)
    }

    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0)
    }

    /// For `lost` until now, this process could not hear anybody.
    pub(super) fn forgive(&mut self, lost: Duration, now: Instant) {
        self.0 = (self.0 + lost).min(now);
    }
}

/// The time up to `now` in which this process did not run: it looks each `every`, and did not since `looked`. It was
/// stopped, or its machine slept.
fn lost(looked: Instant, every: Duration, now: Instant) -> Duration {
    now.saturating_duration_since(looked).saturating_sub(every)
}

/// Ends the mesh in the name of those who are not heard of for as long as `limit`. Only time in which this process
/// ran counts: what was said while it slept is still to come in.
pub(super) async fn look(hub: Arc<Hub>, limit: Duration) {
    let every = LOOK_EVERY.min(limit);
    let mut looked = Instant::now();
    // Who went along with the first, as all do if it is our own network.
    let along = limit.saturating_sub(OVERDUE).max(OVERDUE).min(limit);
    loop {
        sleep(every).await;
        let now = Instant::now();
        let lost = lost(looked, every, now);
        hub.forgive(lost, now);
        looked = now;
        let late = || hub.stuck(limit).or_else(|| hub.unreached(limit));
        if let Some(error) = hub.weigh(now).or_else(late) {
            return hub.fail(error);
        }
        if hub.silent(hub.others(), limit).is_some()
            && let Some(error) = hub.silent(hub.others(), along)
        {
            return hub.fail(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_we_slept_is_nobodys_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::at(start);
        assert_eq!(lost(start, LOOK_EVERY, at(1)), Duration::ZERO);
        heard.forgive(Duration::ZERO, at(1));
        assert_eq!(heard.silence(at(1)).as_secs(), 1);
        // An hour in which nothing of this process runs.
        let slept = lost(at(1), LOOK_EVERY, at(3602));
        assert_eq!(slept.as_secs(), 3600);
        heard.forgive(slept, at(3602));
        assert_eq!(heard.silence(at(3602)).as_secs(), 2);
        // Nobody is heard of later than now.
        heard.forgive(slept, at(3603));
        assert_eq!(heard.silence(at(3603)), Duration::ZERO);
    }
}
