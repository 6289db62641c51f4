//! Where connections come from, as far as limits need it.
//!
//! A source is known by a hash under a key that is gone with the process; no address is kept. What it
//! holds is counted while it holds it. Rates are kept in a table of fixed size, in a place chosen by
//! that hash: bounded memory. Two sources that fall on the same place share a rate. Nothing here can
//! be printed.

use core::hash::BuildHasher as _;
use core::net::IpAddr;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;

use crate::config::Rate;

/// Places for rates: 4,096 × 128 bytes.
const PLACES: usize = 4_096;
/// Places for budgets of a day, which sources that share one share for longer: 16,384 × 56 bytes.
const DAY_PLACES: usize = 16_384;
/// Seconds of a day.
const DAY_S: u64 = 86_400;
/// What remains of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// In small parts, so that slow rates lose nothing: millionths, for rates by the second.
    left: u64,
    since: Option<Instant>,
}

impl Bucket {
    const ONE: u64 = 1_000_000;

    pub(crate) const fn full() -> Self {
        Self {
            left: u64::MAX,
            since: None,
        }
    }

    /// Takes one at the time `now`, or tells how long to wait for it. Zero rates have no such time:
    /// they give an hour, after which the answer is the same.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), core::time::Duration> {
        self.take_of(u64::from(rate.per_second), 1, rate.burst, now)
    }

    /// As above, of `times` in `seconds`. The two must not change their relation: what is left is kept
    /// in parts of one that depend on `seconds`.
    fn take_of(
        &mut self,
        times: u64,
        seconds: u64,
        burst: u32,
        now: Instant,
    ) -> Result<(), core::time::Duration> {
        // So many parts that each microsecond gains `times` of them.
        let one = Self::ONE * seconds;
        let gained = self.since.map_or(0, |since| {
            let micros = now.saturating_duration_since(since).as_micros();
            u64::try_from(micros)
                .unwrap_or(u64::MAX)
                .saturating_mul(times)
        });
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        let most = u64::from(burst).saturating_mul(one);
        self.left = self.left.saturating_add(gained).min(most);
        if let Some(left) = self.left.checked_sub(one) {
            self.left = left;
            return Ok(());
        }
        let missing = one - self.left;
        Err(match missing.checked_div(times) {
            Some(micros) => core::time::Duration::from_micros(micros + 1),
            None => core::time::Duration::from_secs(3_600),
        })
    }

    /// Gives one back of what was taken by so many `seconds`; those of [`Bucket::take`] are one.
    fn give_back(&mut self, seconds: u64) {
        // What is beyond the burst goes when the next one is taken.
        self.left = self.left.saturating_add(Self::ONE * seconds);
    }
}

/// What is limited by rate and source.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    Handshake = 0,
    NewQueue = 1,
    NewService = 2,
    /// Having the proxy connect to another relay in vain.
    FailedConnect = 3,
    /// Asking for its address as it is seen here.
    Observe = 4,
}

const ACTS: usize = 5;

/// What a source may have made a number of in a day.
#[derive(Clone, Copy)]
pub(crate) enum Made {
    Queue = 0,
    Service = 1,
}

const MADE: usize = 2;

impl Made {
    /// How much more than one source an IPv6 network of 48 bits has in a day: it is what one customer
    /// can be given, but also what many may share. Of services there are few, and seldom new ones.
    pub(crate) const fn site_sources(self) -> u32 {
        match self {
            Self::Queue => 16,
            Self::Service => 1,
        }
    }
}

/// What a source may hold a number of at a time.
#[derive(Clone, Copy)]
pub(crate) enum Held {
    /// Connections to this relay.
    Connection = 0,
    /// Connections to other relays that are being made for it.
    Connecting = 1,
    /// Commands on their way to other relays.
    Forward = 2,
    /// Connections that tell it its address.
    Observed = 3,
}

const HELD: usize = 4;

/// All sources that hold something, and rates.
pub(crate) struct Sources {
    held: Mutex<HashMap<Mark, [usize; HELD]>>,
    hash: RandomState,
    rates: Vec<Mutex<[Bucket; ACTS]>>,
    days: Vec<Mutex<Budgets>>,
    /// Of networks of 48 bits: apart, because they have more.
    site_days: Vec<Mutex<Budgets>>,
}

/// What is left of the day, of everything that is [`Made`].
type Budgets = [Bucket; MADE];

/// Which source something belongs to, and nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark(u64);

impl Mark {
    /// Its place among `places`.
    fn place<T>(self, places: &[T]) -> Option<&T> {
        let place = self.0 % (places.len() as u64).max(1);
        places.get(usize::try_from(place).ok()?)
    }
}

/// An IPv4 address, or the network of 64 bits of an IPv6 address, or that of 48.
#[derive(Clone, Copy, Hash)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
    Site([u8; 6]),
    /// Of addresses that many clients share: all of them.
    Crowd,
}

impl Prefix {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }

    /// The network of 48 bits around one of 64.
    fn site(self) -> Option<Self> {
        match self {
            Self::V6([a, b, c, d, e, f, ..]) => Some(Self::Site([a, b, c, d, e, f])),
            Self::V4(_) | Self::Site(_) | Self::Crowd => None,
        }
    }
}

/// A source, as far as its limits go.
#[derive(Clone)]
pub(crate) struct Source {
    sources: Arc<Sources>,
    mark: Mark,
    /// Limits by source do not hold for it: it is one of the crowd, which all such sources are together.
    exempt: bool,
    /// The network of 48 bits around it, if it is one of 64.
    site: Option<Mark>,
}

/// How many of something a source may hold at a time.
#[derive(Clone, Copy)]
pub(crate) struct Most {
    /// One source.
    pub(crate) each: usize,
    /// The crowd.
    pub(crate) crowd: usize,
    /// What the client who asks has of them already. In a crowd it leaves as many free as it has, so
    /// that it takes not one client but some to keep out the others, whom nothing else tells apart:
    /// by default 9 connections for all places to connect, 101 for all commands.
    pub(crate) own: usize,
}

impl Most {
    /// Of what there are `all` of: the crowd leaves a quarter of them to the sources that limits hold
    /// for.
    pub(crate) fn of(all: usize, each: usize, own: usize) -> Self {
        let crowd = all - all / 4;
        Self { each, crowd, own }
    }
}

/// One of what a source holds. Dropping it gives it back.
pub(crate) struct Share {
    source: Source,
    of: Held,
}

/// One of what a source may have made in a day. Dropping it gives it back, unless it was made.
pub(crate) struct Portion {
    source: Source,
    of: Made,
    made: bool,
}

fn day_places() -> Vec<Mutex<Budgets>> {
    (0..DAY_PLACES)
        .map(|_| Mutex::new([Bucket::full(); MADE]))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            hash: RandomState::new(),
            rates: (0..PLACES)
                .map(|_| Mutex::new([Bucket::full(); ACTS]))
                .collect(),
            days: day_places(),
            site_days: day_places(),
        })
    }

    /// The source of a connection from `address`, which is forgotten here.
    pub(crate) fn source(self: &Arc<Self>, address: IpAddr, exempt: &[IpNet]) -> Source {
        let address = address.to_canonical();
        let exempt = exempt.iter().any(|network| network.contains(&address));
        let prefix = match exempt {
            true => Prefix::Crowd,
            false => Prefix::of(address),
        };
        let mark = |prefix| Mark(self.hash.hash_one(prefix));
        Source {
            sources: Arc::clone(self),
            mark: mark(prefix),
            exempt,
            site: prefix.site().map(mark),
        }
    }
}

impl Source {
    /// What tells it from others; the crowd has one.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// How many it may hold, whoever of a crowd asks.
    pub(crate) fn limit(&self, most: Most) -> usize {
        match self.exempt {
            true => most.crowd.saturating_sub(most.own),
            false => most.each,
        }
    }

    /// One more of `of`; `None` if it holds as many as it may.
    pub(crate) fn take(&self, of: Held, most: Most) -> Option<Share> {
        let mut held = lock(&self.sources.held);
        let count = held.get(&self.mark).map_or(0, |held| held[of as usize]);
        if count >= self.limit(most) {
            return None;
        }
        held.entry(self.mark).or_default()[of as usize] += 1;
        drop(held);
        Some(Share {
            source: self.clone(),
            of,
        })
    }

    fn bucket(&self) -> Option<&Mutex<[Bucket; ACTS]>> {
        let rates = &self.sources.rates;
        (!self.exempt).then(|| self.mark.place(rates)).flatten()
    }

    /// Whether it may do this once more now.
    pub(crate) fn may(&self, act: Act, rate: Rate, now: Instant) -> bool {
        self.bucket()
            .is_none_or(|buckets| lock(buckets)[act as usize].take(rate, now).is_ok())
    }

    /// Its budgets of the day, and those of the network around it.
    fn budgets(&self) -> [Option<&Mutex<Budgets>>; 2] {
        let sources = &self.sources;
        let own = || self.mark.place(&sources.days);
        [
            (!self.exempt).then(own).flatten(),
            self.site.and_then(|site| site.place(&sources.site_days)),
        ]
    }

    /// One more of what it may have made `budget` times in a day: all of them at once after a day of
    /// rest, and then one whenever its part of a day has passed.
    pub(crate) fn today(&self, of: Made, budget: u32, now: Instant) -> Option<Portion> {
        let take = |budgets: Option<&Mutex<Budgets>>, most: u32| {
            let take = |bucket: &mut Bucket| bucket.take_of(most.into(), DAY_S, most, now).is_ok();
            budgets.is_none_or(|budgets| take(&mut lock(budgets)[of as usize]))
        };
        let [own, site] = self.budgets();
        if !take(own, budget) {
            return None;
        }
        // The wider network last: who is turned away by the first takes nothing of the others'.
        if !take(site, budget.saturating_mul(of.site_sources())) {
            give_back(own, of);
            return None;
        }
        Some(Portion {
            source: self.clone(),
            of,
            made: false,
        })
    }

    /// What [`Source::may`] allowed did not happen.
    pub(crate) fn did_not(&self, act: Act) {
        if let Some(buckets) = self.bucket() {
            lock(buckets)[act as usize].give_back(1);
        }
    }
}

fn give_back(budgets: Option<&Mutex<Budgets>>, of: Made) {
    if let Some(budgets) = budgets {
        lock(budgets)[of as usize].give_back(DAY_S);
    }
}

impl Portion {
    /// It was used.
    pub(crate) fn made(mut self) {
        self.made = true;
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        if !self.made {
            for budgets in self.source.budgets() {
                give_back(budgets, self.of);
            }
        }
    }
}

impl Share {
    /// Whose it is.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mark = self.source.mark;
        let mut held = lock(&self.source.sources.held);
        if let Some(counts) = held.get_mut(&mark) {
            counts[self.of as usize] -= 1;
            if *counts == [0; HELD] {
                held.remove(&mark);
                if held.is_empty() && held.capacity() > 1_024 {
                    held.shrink_to_fit();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate {
            per_second: 2,
            burst: 3,
        };
        let start = Instant::now();
        let mut bucket = Bucket::full();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, start), Ok(()));
        }
        let wait = bucket.take(rate, start).unwrap_err();
        assert!(wait > Duration::from_millis(499) && wait < Duration::from_millis(501));
        assert!(bucket.take(rate, start + wait / 2).is_err());
        assert_eq!(bucket.take(rate, start + wait), Ok(()));
        assert!(bucket.take(rate, start + wait).is_err());
        // A long rest gives the burst and no more.
        let late = start + Duration::from_secs(1_000);
        assert_eq!(
            (0..9).filter(|_| bucket.take(rate, late).is_ok()).count(),
            3
        );
    }

    #[test]
    fn a_rate_of_zero_never_gives_more() {
        let rate = Rate {
            per_second: 0,
            burst: 1,
        };
        let mut bucket = Bucket::full();
        let now = Instant::now();
        assert_eq!(bucket.take(rate, now), Ok(()));
        assert!(
            bucket
                .take(rate, now + Duration::from_secs(1 << 30))
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_more_than_the_rate_in_any_order_of_times(
            per_second in 0_u32..50,
            burst in 1_u32..20,
            steps in prop::collection::vec(0_u64..200_000, 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let start = Instant::now();
            let (mut now, mut given) = (start, 0_u64);
            let mut bucket = Bucket::full();
            for step in steps {
                now += Duration::from_micros(step);
                given += u64::from(bucket.take(rate, now).is_ok());
            }
            let micros = u64::try_from((now - start).as_micros()).unwrap();
            prop_assert!(given <= u64::from(burst) + micros * u64::from(per_second) / 1_000_000);
        }
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        let sources = Sources::new();
        let enter = |address: &str| {
            let source = sources.source(address.parse().unwrap(), &[]);
            source.take(Held::Connection, each(1))
        };
        let kept = [enter("192.0.2.1").unwrap(), enter("2001:db8::1").unwrap()];
        assert!(enter("192.0.2.1").is_none());
        assert!(
            enter("::ffff:192.0.2.1").is_none(),
            "the same in another notation"
        );
        assert!(enter("2001:db8::ffff:2").is_none());
        assert!(enter("192.0.2.2").is_some());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(kept);
        assert!(enter("192.0.2.1").is_some());
        assert!(lock(&sources.held).is_empty(), "nothing is kept");
    }

    #[test]
    fn what_is_held_is_counted_by_kind_and_given_back() {
        let sources = Sources::new();
        let source = sources.source("192.0.2.1".parse().unwrap(), &[]);
        let mut kept: Vec<_> = (0..2)
            .map(|_| source.take(Held::Forward, each(2)).unwrap())
            .collect();
        assert!(source.take(Held::Forward, each(2)).is_none());
        assert!(source.take(Held::Connecting, each(1)).is_some());
        kept.pop();
        assert!(source.take(Held::Forward, each(2)).is_some());
        // A limit may have been lowered meanwhile.
        assert!(source.take(Held::Forward, each(1)).is_none());
        assert!(source.take(Held::Connecting, each(0)).is_none());
        kept.clear();
        assert!(lock(&sources.held).is_empty(), "nothing is kept");
    }

    #[test]
    fn exempt_networks_have_no_limit() {
        let sources = Sources::new();
        let exempt = ["127.0.0.0/8".parse().unwrap()];
        let source = sources.source("127.9.9.9".parse().unwrap(), &exempt);
        let any = Most {
            crowd: usize::MAX,
            ..each(1)
        };
        let mut kept: Vec<_> = (0..10)
            .map(|_| source.take(Held::Connection, any).unwrap())
            .collect();
        let never = Rate {
            per_second: 0,
            burst: 0,
        };
        assert!(
            kept.iter()
                .all(|share| share.source().may(Act::Handshake, never, Instant::now()))
        );
        assert!(source.today(Made::Queue, 0, Instant::now()).is_some());
        kept.clear();
        assert!(lock(&sources.held).is_empty(), "nothing is kept");
    }

    /// Those whom no address tells apart leave a quarter to the others, and each of them as much as it has
    /// to the rest.
    #[test]
    fn a_crowd_leaves_room_for_others_and_within_itself() {
        const ALL: usize = 64;
        let sources = Sources::new();
        let exempt = ["127.0.0.0/8".parse().unwrap()];
        let at = |address: &str| sources.source(address.parse().unwrap(), &exempt);
        let mut held = Vec::new();
        let mut take = |address: &str, own| {
            let share = at(address).take(Held::Forward, Most::of(ALL, 9, own));
            share.map(|share| held.push(share)).is_some()
        };
        // Clients that each take what they get, one after the other.
        let mut got = Vec::new();
        for client in 0..6 {
            let address = format!("127.0.0.{client}");
            let mut own = 0;
            while take(&address, own) {
                own += 1;
            }
            got.push(own);
        }
        assert_eq!(got, [24, 12, 6, 3, 2, 1]);
        // One that has something gets no more, and one that has nothing does not find that all is gone
        // before there is nothing left for the crowd.
        assert!(!take("127.0.0.1", 1));
        assert_eq!(got.iter().sum::<usize>(), ALL - ALL / 4);
        assert!(!take("127.0.0.9", 0));
        // Others have their own limit.
        assert_eq!((0..20).filter(|own| take("192.0.2.1", *own)).count(), 9);
        drop(held);
        assert!(lock(&sources.held).is_empty(), "nothing is kept");
    }

    fn each(each: usize) -> Most {
        Most {
            each,
            crowd: 0,
            own: 0,
        }
    }

    /// Whether it could make one more queue, which it then has.
    fn make(source: &Source, budget: u32, now: Instant) -> bool {
        let portion = source.today(Made::Queue, budget, now);
        portion.map(Portion::made).is_some()
    }

    #[test]
    fn a_budget_of_a_day_is_there_at_once_and_comes_back_in_a_day() {
        const BUDGET: u32 = 1_000;
        let sources = Sources::new();
        let source = sources.source("192.0.2.1".parse().unwrap(), &[]);
        let start = Instant::now();
        let given = |now| {
            (0..2 * BUDGET)
                .filter(|_| make(&source, BUDGET, now))
                .count()
        };
        assert_eq!(given(start), 1_000);
        // One every 86.4 seconds, and not before.
        let part = Duration::from_millis(86_400);
        let instant = Duration::from_micros(1);
        assert_eq!(given(start + part - instant), 0);
        assert_eq!(given(start + part), 1);
        assert_eq!(given(start + 3 * part), 2);
        // Another connection does not help.
        let again = sources.source("192.0.2.1".parse().unwrap(), &[]);
        assert!(!make(&again, BUDGET, start + 3 * part));
        assert_eq!(given(start + 1_003 * part - instant), 999);
        assert_eq!(given(start + 10_000 * part), 1_000);
        // A budget that was made larger or smaller holds from then on.
        assert_eq!(given(start + 10_001 * part), 1);
        assert!(!make(&source, 1, start + 10_001 * part));
        // What else is made has its own.
        assert!(source.today(Made::Service, 1, start).is_some());
    }

    #[test]
    fn what_was_not_made_costs_nothing_of_the_day() {
        let sources = Sources::new();
        let source = sources.source("2001:db8:1::1".parse().unwrap(), &[]);
        let now = Instant::now();
        for _ in 0..10 {
            drop(source.today(Made::Queue, 2, now).unwrap());
        }
        // Whoever has one in hand keeps it from others meanwhile.
        let held = source.today(Made::Queue, 2, now).unwrap();
        assert!(make(&source, 2, now));
        assert!(!make(&source, 2, now));
        drop(held);
        // And gives no more than there was.
        assert!(make(&source, 2, now));
        assert!(!make(&source, 2, now));
    }

    #[test]
    fn a_network_that_has_used_up_its_budget_costs_none_of_its_sources_theirs() {
        let sources = Sources::new();
        let start = Instant::now();
        let at = |network: u16| {
            let address = format!("2001:db8:1:{network:x}::1").parse().unwrap();
            sources.source(address, &[])
        };
        // More than the network has, of many.
        let given = (100..140).filter(|n| make(&at(*n), 1, start)).count();
        assert_eq!(given, 16);
        // Some of those that were turned away share a place with others; not all.
        let late: Vec<_> = (0..4).map(at).collect();
        for source in &late {
            assert!(!make(source, 1, start));
        }
        // A sixteenth of a day later the network has one more.
        let later = start + Duration::from_secs(DAY_S / 16);
        assert!(late.iter().any(|source| make(source, 1, later)));
    }

    #[test]
    fn a_network_of_48_bits_has_the_budget_of_16_sources() {
        let sources = Sources::new();
        let now = Instant::now();
        let may = |address: String| {
            let source = sources.source(address.parse().unwrap(), &[]);
            make(&source, 2, now)
        };
        let given = (0..40_u16)
            .flat_map(|network| [1, 2, 3].map(|host| format!("2001:db8:1:{network:x}::{host}")))
            .filter(|address| may(address.clone()))
            .count();
        // Some may share a place, but then others take what is there for all.
        assert_eq!(given, 2 * 16);
        // Of services it has no more than one of its sources.
        let serve = |network: u16| {
            let address = format!("2001:db8:1:{network:x}::1").parse().unwrap();
            let portion = sources.source(address, &[]).today(Made::Service, 4, now);
            portion.map(Portion::made).is_some()
        };
        assert_eq!((0..40).filter(|network| serve(*network)).count(), 4);
        // Others have their own; one may share the place.
        assert!((2..6).any(|site| may(format!("2001:db8:{site}::1"))));
        assert!((1..4).any(|last| may(format!("192.0.2.{last}"))));
    }

    #[test]
    fn rates_outlive_connections_and_are_by_act() {
        let sources = Sources::new();
        let rate = Rate {
            per_second: 0,
            burst: 1,
        };
        let now = Instant::now();
        let may = |address: &str, act| {
            let source = sources.source(address.parse().unwrap(), &[]);
            source.may(act, rate, now)
        };
        assert!(may("192.0.2.1", Act::Handshake));
        assert!(!may("192.0.2.1", Act::Handshake));
        assert!(may("192.0.2.1", Act::NewQueue));
        // Some others may share the place, but not all.
        assert!((2..20).any(|n| may(&format!("192.0.2.{n}"), Act::Handshake)));
    }

    #[test]
    fn what_did_not_happen_costs_nothing() {
        let sources = Sources::new();
        let source = sources.source("192.0.2.1".parse().unwrap(), &[]);
        let rate = Rate {
            per_second: 0,
            burst: 2,
        };
        let now = Instant::now();
        for _ in 0..10 {
            assert!(source.may(Act::FailedConnect, rate, now));
            source.did_not(Act::FailedConnect);
        }
        // And gives no more than the burst.
        let taken = (0..9).filter(|_| source.may(Act::FailedConnect, rate, now));
        assert_eq!(taken.count(), 2);
    }
}
