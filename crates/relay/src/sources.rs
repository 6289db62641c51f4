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

/// Places for rates: 4,096 × 48 bytes.
const PLACES: usize = 4_096;

/// What remains of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// In millionths, so that slow rates lose nothing.
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
        let gained = self.since.map_or(0, |since| {
            let micros = now.saturating_duration_since(since).as_micros();
            u64::try_from(micros)
                .unwrap_or(u64::MAX)
                .saturating_mul(u64::from(rate.per_second))
        });
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        // One is a million, a second a million microseconds: the rate is the gain per microsecond.
        let most = u64::from(rate.burst) * Self::ONE;
        self.left = self.left.saturating_add(gained).min(most);
        if let Some(left) = self.left.checked_sub(Self::ONE) {
            self.left = left;
            return Ok(());
        }
        let missing = Self::ONE - self.left;
        Err(match missing.checked_div(u64::from(rate.per_second)) {
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
}

/// All sources that have a connection open, and rates.
pub(crate) struct Sources {
    open: Mutex<HashMap<Prefix, usize>>,
    hash: RandomState,
    rates: Vec<Mutex<[Bucket; 2]>>,
}

/// An IPv4 address, or the network of 64 bits of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4([u8; 4]),
    V6([u8; 8]),
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

/// One connection's share of its source. Dropping it gives it back.
pub(crate) struct Source {
    sources: Arc<Sources>,
    /// None if limits by source do not hold for it.
    prefix: Option<Prefix>,
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
                .map(|_| Mutex::new([Bucket::full(); 2]))
                .collect(),
        })
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
        let place = sources.hash.hash_one(prefix) % (PLACES as u64);
        let Some(buckets) = usize::try_from(place)
            .ok()
            .and_then(|place| sources.rates.get(place))
        else {
            return true;
        };
        lock(buckets)[act as usize].take(rate, now).is_ok()
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
