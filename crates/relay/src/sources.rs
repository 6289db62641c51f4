//! Where connections come from, as far as limits need it.
//!
//! While a connection is open, the relay knows that its source has one more; nothing else is kept by
//! source. Rates are kept in a table of fixed size, in a place chosen by a keyed hash: bounded memory,
//! no address in it, and the key is gone with the process. Two sources that fall on the same place
//! share a rate. Nothing here can be printed.

use core::hash::BuildHasher as _;
use core::net::IpAddr;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;

use crate::config::Rate;

/// Places for rates: 4,096 × 80 bytes.
const PLACES: usize = 4_096;
/// Places for budgets of a day, which sources that share one share for longer: 16,384 × 32 bytes.
const DAY_PLACES: usize = 16_384;
/// Seconds of a day.
const DAY_S: u64 = 86_400;
/// How much more than one source an IPv6 network of 48 bits has in a day: it is what one customer can
/// be given, but also what many may share.
const SITE_SOURCES: u32 = 16;

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
}

/// What is limited by rate and source.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    Handshake = 0,
    NewQueue = 1,
    NewService = 2,
}

/// All sources that have a connection open, and rates.
pub(crate) struct Sources {
    open: Mutex<HashMap<Prefix, usize>>,
    hash: RandomState,
    rates: Vec<Mutex<[Bucket; 3]>>,
    days: Vec<Mutex<Bucket>>,
    /// Of networks of 48 bits: apart, because they have more.
    site_days: Vec<Mutex<Bucket>>,
}

/// An IPv4 address, or the network of 64 bits of an IPv6 address, or that of 48.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
    Site([u8; 6]),
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
}

impl Prefix {
    /// The network of 48 bits around one of 64.
    fn site(self) -> Option<Self> {
        match self {
            Self::V6([a, b, c, d, e, f, ..]) => Some(Self::Site([a, b, c, d, e, f])),
            Self::V4(_) | Self::Site(_) => None,
        }
    }
}

/// One connection's share of its source. Dropping it gives it back.
pub(crate) struct Source {
    sources: Arc<Sources>,
    /// None if limits by source do not hold for it.
    prefix: Option<Prefix>,
}

fn day_places() -> Vec<Mutex<Bucket>> {
    (0..DAY_PLACES)
        .map(|_| Mutex::new(Bucket::full()))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sources {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            hash: RandomState::new(),
            rates: (0..PLACES)
                .map(|_| Mutex::new([Bucket::full(); 3]))
                .collect(),
            days: day_places(),
            site_days: day_places(),
        })
    }

    /// Where `prefix` has its place.
    fn place<'a, T>(&self, places: &'a [T], prefix: Prefix) -> Option<&'a T> {
        let place = self.hash.hash_one(prefix) % (places.len() as u64).max(1);
        places.get(usize::try_from(place).ok()?)
    }

    /// One more connection from `address`; `None` if it has `limit` already.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        exempt: &[IpNet],
        limit: usize,
    ) -> Option<Source> {
        let address = address.to_canonical();
        let prefix = if exempt.iter().any(|network| network.contains(&address)) {
            None
        } else {
            let prefix = Prefix::of(address);
            let mut open = lock(&self.open);
            let count = open.entry(prefix).or_default();
            if *count >= limit {
                return None;
            }
            *count += 1;
            Some(prefix)
        };
        Some(Source {
            sources: Arc::clone(self),
            prefix,
        })
    }
}

impl Source {
    /// Whether its source may do this once more now.
    pub(crate) fn may(&self, act: Act, rate: Rate, now: Instant) -> bool {
        let Some(prefix) = self.prefix else {
            return true;
        };
        let sources = &self.sources;
        match sources.place(&sources.rates, prefix) {
            Some(buckets) => lock(buckets)[act as usize].take(rate, now).is_ok(),
            None => true,
        }
    }

    /// Whether its source may have one more of what there are `budget` of in a day: all of them at once
    /// after a day of rest, and then one whenever its part of a day has passed.
    pub(crate) fn may_today(&self, budget: u32, now: Instant) -> bool {
        let Some(prefix) = self.prefix else {
            return true;
        };
        let sources = &self.sources;
        let take = |places, prefix, budget| {
            let bucket = sources.place(places, prefix);
            let times = u64::from(budget);
            bucket
                .is_none_or(|b: &Mutex<Bucket>| lock(b).take_of(times, DAY_S, budget, now).is_ok())
        };
        // The wider network last: who is turned away by the first takes nothing of the others'.
        take(&sources.days, prefix, budget)
            && prefix.site().is_none_or(|site| {
                take(
                    &sources.site_days,
                    site,
                    budget.saturating_mul(SITE_SOURCES),
                )
            })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let Some(prefix) = self.prefix else { return };
        let mut open = lock(&self.sources.open);
        if let Some(count) = open.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                open.remove(&prefix);
                if open.is_empty() && open.capacity() > 1_024 {
                    open.shrink_to_fit();
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
        let enter = |address: &str| sources.enter(address.parse().unwrap(), &[], 1);
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
        assert!(lock(&sources.open).is_empty(), "nothing is kept");
    }

    #[test]
    fn exempt_networks_have_no_limit() {
        let sources = Sources::new();
        let exempt = ["127.0.0.0/8".parse().unwrap()];
        let address = "127.9.9.9".parse().unwrap();
        let kept: Vec<_> = (0..10)
            .map(|_| sources.enter(address, &exempt, 1).unwrap())
            .collect();
        let never = Rate {
            per_second: 0,
            burst: 0,
        };
        assert!(
            kept.iter()
                .all(|source| source.may(Act::Handshake, never, Instant::now()))
        );
        assert!(lock(&sources.open).is_empty());
    }

    #[test]
    fn a_budget_of_a_day_is_there_at_once_and_comes_back_in_a_day() {
        const BUDGET: u32 = 1_000;
        let sources = Sources::new();
        let source = sources.enter("192.0.2.1".parse().unwrap(), &[], 9).unwrap();
        let start = Instant::now();
        let given = |now| {
            (0..2 * BUDGET)
                .filter(|_| source.may_today(BUDGET, now))
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
        let again = sources.enter("192.0.2.1".parse().unwrap(), &[], 9).unwrap();
        assert!(!again.may_today(BUDGET, start + 3 * part));
        assert_eq!(given(start + 1_003 * part - instant), 999);
        assert_eq!(given(start + 10_000 * part), 1_000);
        // A budget that was made larger or smaller holds from then on.
        assert_eq!(given(start + 10_001 * part), 1);
        assert!(!source.may_today(1, start + 10_001 * part));
    }

    #[test]
    fn a_network_of_48_bits_has_the_budget_of_16_sources() {
        let sources = Sources::new();
        let now = Instant::now();
        let may = |address: String| {
            let source = sources.enter(address.parse().unwrap(), &[], 9).unwrap();
            source.may_today(2, now)
        };
        let given = (0..40_u16)
            .flat_map(|network| [1, 2, 3].map(|host| format!("2001:db8:1:{network:x}::{host}")))
            .filter(|address| may(address.clone()))
            .count();
        // Some may share a place, but then others take what is there for all.
        assert_eq!(given, 2 * 16);
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
            let source = sources.enter(address.parse().unwrap(), &[], 9).unwrap();
            source.may(act, rate, now)
        };
        assert!(may("192.0.2.1", Act::Handshake));
        assert!(!may("192.0.2.1", Act::Handshake));
        assert!(may("192.0.2.1", Act::NewQueue));
        // Some others may share the place, but not all.
        assert!((2..20).any(|n| may(&format!("192.0.2.{n}"), Act::Handshake)));
    }
}
