//! Which addresses are told, and which are dialled.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use junto_session::adapters::tcp::PLACES_MAX;

use tokio::time::Instant;

use super::Reach;

/// What others see of us: one address of each kind.
pub(crate) const SEEN_MAX: usize = 2;
/// No machine and no NAT gives a lower port to a program that takes any: what listens there is another service.
const PORT_MIN: u16 = 1024;

/// Where this machine is reached at the ports that it has bound.
pub(crate) fn own(bound: &[SocketAddr], reach: Reach) -> io::Result<Vec<SocketAddr>> {
    if reach == Reach::Loopback {
        return Ok(bound.to_vec());
    }
    let mut places = Vec::new();
    for interface in if_addrs::get_if_addrs()? {
        let ip = interface.ip();
        if ip.is_loopback() || interface.is_link_local() {
            continue;
        }
        let own = bound.iter().find(|own| own.is_ipv4() == ip.is_ipv4());
        if let Some(own) = own {
            places.push(SocketAddr::new(ip, own.port()));
        }
    }
    places.sort_unstable_by_key(|place| (rank(place.ip()), *place));
    places.dedup();
    places.truncate(PLACES_MAX - SEEN_MAX);
    Ok(places)
}

/// What is likely to be reached comes first, since there is not room for all: networks of containers come last.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => match ip.octets() {
            [172, 16..=31, ..] => 2,
            [10, ..] | [192, 168, ..] | [100, 64..=127, ..] => 1,
            _ => 0,
        },
        IpAddr::V6(ip) => u8::from(ip.is_unique_local()),
    }
}

/// Places that are dialled because one party says that it is there: so many at once, and one more in each such time. Its
/// honest ones are few and change seldom; another's, which it may name to have us knock there, are knocked at so rarely.
const DIALS: usize = 2 * PLACES_MAX;
const DIAL_EVERY: Duration = Duration::from_secs(4);
/// Ports of one address in one call: a machine's own, and its NAT's.
pub(crate) const PORTS_MAX: usize = 2;

/// How many places of one party may still be dialled.
pub(crate) struct Budget {
    left: usize,
    since: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        let left = DIALS;
        Self { left, since: now }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs() / DIAL_EVERY.as_secs();
        self.since += DIAL_EVERY * u32::try_from(passed).unwrap_or(u32::MAX);
        let gained = usize::try_from(passed).unwrap_or(usize::MAX);
        self.left = self.left.saturating_add(gained).min(DIALS);
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// Whether a packet may go there because somebody says that a party, or we, are there.
pub(crate) fn may_be_dialled(place: SocketAddr, reach: Reach) -> bool {
    let ip = place.ip();
    let special = match ip {
        IpAddr::V4(ip) => {
            let [first, ..] = ip.octets();
            // "This network", what is reserved, and broadcast.
            first == 0 || first >= 240 || ip.is_multicast() || ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let [first, second, ..] = ip.segments();
            // Addresses of IPv4 in other words: mapped and compatible, of translators (RFC 6052, RFC 8215), 6to4; and
            // site-local ones, which nobody has any more.
            let of_ipv4 = ip.segments()[..5] == [0; 5] || (first, second) == (0x64, 0xff9b);
            let old = first == 0x2002 || first & 0xffc0 == 0xfec0;
            let near = ip.is_unicast_link_local() || (of_ipv4 && !ip.is_loopback());
            ip.is_unspecified() || ip.is_multicast() || near || old
        }
    };
    let near = reach == Reach::Loopback;
    !special && ip.is_loopback() == near && place.port() >= PORT_MIN
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_party_has_few_places_dialled_however_many_it_names() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut dialled = |seconds: u64, count: usize| {
            let now = start + Duration::from_secs(seconds);
            (0..count).filter(|_| budget.take(now)).count()
        };
        assert_eq!(dialled(0, 1000), DIALS);
        assert_eq!(dialled(3, 1000), 0);
        assert_eq!(dialled(9, 1000), 2);
        assert_eq!(dialled(69, 1000), 15);
        // Rest is not saved up.
        assert_eq!(dialled(100_000, 1000), DIALS);
    }

    #[test]
    fn a_machine_with_many_bridges_tells_where_it_is_reached() {
        let ranks = |places: &[&str]| -> Vec<u8> {
            places.iter().map(|ip| rank(ip.parse().unwrap())).collect()
        };
        assert_eq!(ranks(&["192.0.2.1", "172.32.0.1", "2001:db8::1"]), [0; 3]);
        assert_eq!(
            ranks(&["192.168.1.2", "10.1.2.3", "100.64.0.1", "fd00::1"]),
            [1; 4]
        );
        assert_eq!(ranks(&["172.17.0.1", "172.31.255.1"]), [2; 2]);
    }

    #[test]
    fn nothing_is_sent_where_no_party_can_be() {
        let may = |place: &str, reach| may_be_dialled(place.parse().unwrap(), reach);
        for place in [
            "192.0.2.1:1024",
            "10.0.0.1:65535",
            "[2001:db8::1]:5000",
            "[fd00::1]:5000",
        ] {
            assert!(may(place, Reach::Network), "{place}");
            assert!(!may(place, Reach::Loopback), "{place}");
        }
        for place in [
            "192.0.2.1:1023",
            "192.0.2.1:53",
            "0.0.0.0:5000",
            "0.1.2.3:5000",
            "127.0.0.1:5000",
            "127.9.9.9:5000",
            "169.254.1.1:5000",
            "224.0.0.251:5353",
            "240.0.0.1:5000",
            "255.255.255.255:5000",
            "[::]:5000",
            "[::1]:5000",
            "[fe80::1]:5000",
            "[ff02::1]:5000",
            "[::ffff:192.0.2.1]:5000",
            "[::192.0.2.1]:5000",
            "[64:ff9b::192.0.2.1]:5000",
            "[64:ff9b:1::7f00:1]:5000",
            "[2002:7f00:1::]:5000",
            "[fec0::1]:5000",
            "[2001:db8::1]:443",
        ] {
            assert!(!may(place, Reach::Network), "{place}");
        }
        for place in ["127.0.0.1:5000", "[::1]:5000"] {
            assert!(may(place, Reach::Loopback), "{place}");
        }
    }
}
