//! What the proxy knows of destinations: links, connections being made, and failures.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

use junto_smp::error::BrokerFault;
use junto_smp::proxy::Introduction;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dial::Unreached;
use super::link::Link;
use super::place::{Door, Place};
use super::settings::ProxyTimeouts;
use crate::metrics::Beyond;
use crate::sources::Mark;

/// How an attempt to connect ended; `None` while it goes on.
pub(super) type Outcome = Option<Result<Arc<Introduction>, Unreached>>;

enum State {
    Connecting(watch::Receiver<Outcome>),
    Connected(Arc<Link>),
}

struct Slot {
    state: State,
    /// For whom it was made.
    maker: Mark,
}

/// What is there for who asks for a destination.
pub(super) enum Found {
    Link(Arc<Introduction>),
    Wait(watch::Receiver<Outcome>),
}

/// Links by their places and sessions. Nothing else keeps one.
#[derive(Default)]
pub(super) struct Table {
    slots: HashMap<Place, Slot>,
    sessions: HashMap<[u8; 32], Arc<Link>>,
}

impl Table {
    /// The open link to `place`, or the attempt to make one.
    pub(super) fn find(&self, place: &Place) -> Option<Found> {
        match &self.slots.get(place)?.state {
            State::Connected(link) if link.is_open() => {
                link.touch();
                Some(Found::Link(Arc::clone(&link.introduction)))
            }
            // Whoever makes it tells how it ends, unless it broke.
            State::Connecting(outcome) if outcome.has_changed().is_ok() => {
                Some(Found::Wait(outcome.clone()))
            }
            State::Connected(_) | State::Connecting(_) => None,
        }
    }

    /// The open link of a session, as clients name it.
    pub(super) fn session(&self, session: &[u8]) -> Option<Arc<Link>> {
        let link = self.sessions.get(session)?;
        link.is_open().then(|| Arc::clone(link))
    }

    pub(super) fn connecting(&mut self, place: &Place, maker: Mark) -> watch::Sender<Outcome> {
        let (tell, outcome) = watch::channel(None);
        let state = State::Connecting(outcome);
        self.slots.insert(place.clone(), Slot { state, maker });
        tell
    }

    pub(super) fn connected(&mut self, place: &Place, maker: Mark, link: &Arc<Link>) {
        let state = State::Connected(Arc::clone(link));
        self.slots.insert(place.clone(), Slot { state, maker });
        let session = link.introduction.session().0;
        self.sessions.insert(session, Arc::clone(link));
    }

    /// The attempt to connect to `place` failed.
    pub(super) fn unreached(&mut self, place: &Place) {
        self.slots.remove(place);
    }

    /// A link has ended; tells whether it had not been given up before.
    pub(super) fn ended(&mut self, place: &Place, session: &[u8; 32]) -> bool {
        self.sessions.remove(session);
        let current = matches!(
            self.slots.get(place),
            Some(Slot { state: State::Connected(link), .. })
                if link.introduction.session().0 == *session
        );
        if current {
            self.slots.remove(place);
        }
        current
    }

    /// Makes room for one more link made for `maker`, of which it may have `limit`; if not `free`,
    /// in all, too. What was not asked for for longest, and has nothing on its way, goes.
    pub(super) fn make_room(
        &mut self,
        maker: Mark,
        limit: usize,
        free: bool,
    ) -> Result<(), Beyond> {
        let own = |slot: &Slot| slot.maker == maker;
        let count = self.slots.values().filter(|slot| own(slot)).count();
        let oldest = match (count < limit, free) {
            (true, true) => return Ok(()),
            (false, _) => self.oldest_idle(own).ok_or(Beyond::Source)?,
            (true, false) => self.oldest_idle(|_| true).ok_or(Beyond::Total)?,
        };
        if let Some(Slot {
            state: State::Connected(link),
            ..
        }) = self.slots.remove(&oldest)
        {
            // With the last handle its task ends.
            self.sessions.remove(&link.introduction.session().0);
        }
        Ok(())
    }

    /// Cuts the links that `may_stay` refuses, with whatever is on its way over them; tells how many.
    pub(super) fn cut(&mut self, may_stay: impl Fn(&Place, &Link) -> bool) -> usize {
        let before = self.slots.len();
        let sessions = &mut self.sessions;
        self.slots.retain(|place, slot| match &slot.state {
            State::Connected(link) if !may_stay(place, link) => {
                link.cut();
                sessions.remove(&link.introduction.session().0);
                false
            }
            State::Connected(_) | State::Connecting(_) => true,
        });
        before - self.slots.len()
    }

    fn oldest_idle(&self, which: impl Fn(&Slot) -> bool) -> Option<Place> {
        let slots = self.slots.iter().filter(|(_, slot)| which(slot));
        let idle = slots.filter_map(|(place, slot)| match &slot.state {
            State::Connected(link) => link.is_idle().then(|| (link.used(), place)),
            State::Connecting(_) => None,
        });
        let (_, place) = idle.min_by_key(|(used, _)| *used)?;
        Some(place.clone())
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.sessions.clear();
    }
}

/// What does not have to be tried again.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Failing {
    /// Whoever is looked for behind it.
    Door(Door),
    Relay(Place),
}

#[derive(Clone, Copy)]
struct Failure {
    fault: BrokerFault,
    until: Instant,
    /// The pause that ends then.
    pause: Duration,
}

/// Destinations that could not be reached.
pub(super) struct Failures {
    failures: HashMap<Failing, Failure>,
    /// Of those that are remembered.
    limit: usize,
    retry: Duration,
    retry_max: Duration,
}

impl Failures {
    pub(super) fn new(limit: usize, timeouts: &ProxyTimeouts) -> Self {
        Self {
            failures: HashMap::new(),
            limit,
            retry: timeouts.retry,
            retry_max: timeouts.retry_max,
        }
    }

    /// Why `place` is not tried now.
    pub(super) fn fault(&self, place: &Place, now: Instant) -> Option<BrokerFault> {
        let door = Failing::Door(place.door.clone());
        [door, Failing::Relay(place.clone())]
            .iter()
            .filter_map(|failing| self.failures.get(failing))
            .find(|failure| now < failure.until)
            .map(|failure| failure.fault)
    }

    /// `place` could not be reached.
    pub(super) fn failed(&mut self, place: &Place, why: Unreached, now: Instant) {
        let failing = match why {
            Unreached::Here(_) => return,
            Unreached::Door(_) => Failing::Door(place.door.clone()),
            Unreached::Relay(_) => Failing::Relay(place.clone()),
        };
        if !self.failures.contains_key(&failing) && self.failures.len() >= self.limit {
            let first = self.failures.iter().min_by_key(|(_, it)| it.until);
            if let Some(first) = first.map(|(failing, _)| failing.clone()) {
                self.failures.remove(&first);
            }
        }
        let before = self.failures.get(&failing);
        let pause = before.map_or(self.retry, |before| before.pause * 2);
        let pause = pause.min(self.retry_max);
        let failure = Failure {
            fault: why.fault(),
            until: now + pause,
            pause,
        };
        self.failures.insert(failing, failure);
    }

    /// The door of `place` opens.
    pub(super) fn opened(&mut self, place: &Place) {
        self.failures.remove(&Failing::Door(place.door.clone()));
    }

    /// `place` was of use.
    pub(super) fn served(&mut self, place: &Place) {
        self.failures.remove(&Failing::Relay(place.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::place::places;
    use super::*;

    fn place(pin: u8, host: &str) -> Place {
        let pin = junto_smp::address::Fingerprint([pin; 32]);
        places(&format!("smp://{pin}@{host}").parse().unwrap()).remove(0)
    }

    fn failures(limit: usize) -> Failures {
        let timeouts = ProxyTimeouts {
            retry: Duration::from_secs(1),
            retry_max: Duration::from_secs(3),
            ..ProxyTimeouts::default()
        };
        Failures::new(limit, &timeouts)
    }

    const NETWORK: BrokerFault = BrokerFault::Network;

    #[test]
    fn pauses_double_up_to_the_longest_and_end_with_success() {
        let mut failures = failures(9);
        let place = place(1, "a.example");
        let mut now = Instant::now();
        for pause in [1, 2, 3, 3] {
            failures.failed(&place, Unreached::Door(NETWORK), now);
            now += Duration::from_secs(pause) - Duration::from_millis(1);
            assert_eq!(failures.fault(&place, now), Some(NETWORK));
            now += Duration::from_millis(1);
            assert_eq!(failures.fault(&place, now), None);
        }
        failures.opened(&place);
        failures.failed(&place, Unreached::Door(NETWORK), now);
        assert_eq!(failures.fault(&place, now + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_closed_door_is_closed_for_all_and_a_wrong_relay_for_itself() {
        let mut failures = failures(9);
        let now = Instant::now();
        let (one, other) = (place(1, "a.example"), place(2, "A.example.:5223"));
        failures.failed(&one, Unreached::Relay(NETWORK), now);
        assert_eq!(failures.fault(&one, now), Some(NETWORK));
        assert_eq!(failures.fault(&other, now), None);
        failures.failed(&one, Unreached::Door(NETWORK), now);
        assert_eq!(failures.fault(&other, now), Some(NETWORK));
        assert_eq!(failures.fault(&place(2, "a.example:443"), now), None);
        // Our own trouble is nobody's failure.
        let third = place(3, "c.example");
        failures.failed(&third, Unreached::Here(NETWORK), now);
        assert_eq!(failures.fault(&third, now), None);
    }

    #[test]
    fn no_more_are_remembered_than_may_be() {
        let mut failures = failures(2);
        let now = Instant::now();
        let place = |n: u64| place(1, &format!("h{n}.example"));
        for n in 0..5 {
            let at = now + Duration::from_millis(n);
            failures.failed(&place(n), Unreached::Door(NETWORK), at);
        }
        assert_eq!(failures.failures.len(), 2);
        assert_eq!(failures.fault(&place(2), now), None);
        assert_eq!(failures.fault(&place(3), now), Some(NETWORK));
        assert_eq!(failures.fault(&place(4), now), Some(NETWORK));
    }
}
