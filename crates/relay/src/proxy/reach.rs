//! Which network addresses the proxy may connect to.
//!
//! A proxy connects where its users say. What stands in the network of its operator must stay out
//! of their reach, so everything that is not publicly routed is refused, and everything that only
//! wraps such an address. Checked is the address that is dialled, not the name: a name that
//! resolves to something else the second time gains nothing.
//!
//! Source: the special-purpose address registries of IANA (RFC 6890 and its updates).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` is publicly routed.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Networks that are not public: address and prefix length.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network, unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared by carriers (CGNAT)
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, and clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

fn is_public_v4(address: Ipv4Addr) -> bool {
    let bits = address.to_bits();
    !NOT_PUBLIC_V4
        .iter()
        .any(|(network, prefix)| (bits ^ network.to_bits()) >> (32 - prefix) == 0)
}

/// Within the public range, networks that are not public.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 3] = [
    // Protocol assignments; Teredo among them, which wraps IPv4 addresses.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    // Documentation.
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    let within = |network: Ipv6Addr, prefix: u32| (bits ^ network.to_bits()) >> (128 - prefix) == 0;
    // Reached through a translator in our network, or as IPv4 by our system.
    const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    if within(TRANSLATED, 96) || within(MAPPED, 96) {
        return is_public_v4(wrapped(bits));
    }
    if within(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16) {
        return is_public_v4(wrapped(bits >> 80));
    }
    // All global unicast addresses; loopback, local, multicast and whatever comes are outside.
    within(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
        && !NOT_PUBLIC_V6
            .iter()
            .any(|(network, prefix)| within(*network, *prefix))
}

/// The IPv4 address in the lowest 32 bits.
fn wrapped(bits: u128) -> Ipv4Addr {
    #[allow(clippy::cast_possible_truncation)] // Meant.
    Ipv4Addr::from_bits(bits as u32)
}

/// Whether a resolver may take `name` for an address, though it is not written as one:
/// `2130706433`, `0x7f.1` and the like. No public name ends so.
pub(super) fn looks_numeric(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether a name that somebody else will resolve may be one that only its machine or network knows: it
/// has no dot, is an address in disguise, or ends as such names do (RFC 6761, RFC 6762).
pub(super) fn looks_local(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let (_, last) = name.rsplit_once('.').unwrap_or(("", "localhost"));
    let local = [
        "localhost",
        "local",
        "internal",
        "lan",
        "home",
        "localdomain",
    ];
    looks_numeric(name) || local.iter().any(|it| last.eq_ignore_ascii_case(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_address_of_every_range() {
        for (refused, neighbours) in [
            (["0.0.0.0", "0.255.255.255"], ["1.0.0.0", "1.0.0.0"]),
            (
                ["10.0.0.0", "10.255.255.255"],
                ["9.255.255.255", "11.0.0.0"],
            ),
            (
                ["100.64.0.0", "100.127.255.255"],
                ["100.63.255.255", "100.128.0.0"],
            ),
            (
                ["127.0.0.0", "127.255.255.255"],
                ["126.255.255.255", "128.0.0.0"],
            ),
            (
                ["169.254.0.0", "169.254.255.255"],
                ["169.253.255.255", "169.255.0.0"],
            ),
            (
                ["172.16.0.0", "172.31.255.255"],
                ["172.15.255.255", "172.32.0.0"],
            ),
            (
                ["192.0.0.0", "192.0.0.255"],
                ["191.255.255.255", "192.0.1.0"],
            ),
            (["192.0.2.0", "192.0.2.255"], ["192.0.1.255", "192.0.3.0"]),
            (
                ["192.88.99.0", "192.88.99.255"],
                ["192.88.98.255", "192.88.100.0"],
            ),
            (
                ["192.168.0.0", "192.168.255.255"],
                ["192.167.255.255", "192.169.0.0"],
            ),
            (
                ["198.18.0.0", "198.19.255.255"],
                ["198.17.255.255", "198.20.0.0"],
            ),
            (
                ["198.51.100.0", "198.51.100.255"],
                ["198.51.99.255", "198.51.101.0"],
            ),
            (
                ["203.0.113.0", "203.0.113.255"],
                ["203.0.112.255", "203.0.114.0"],
            ),
            (
                ["224.0.0.0", "255.255.255.255"],
                ["223.255.255.255", "8.8.8.8"],
            ),
        ] {
            for text in refused {
                let address: Ipv4Addr = text.parse().unwrap();
                assert!(!is_public(address.into()), "{address}");
                for wrapping in wrappings(address) {
                    assert!(!is_public(wrapping.into()), "{wrapping}");
                }
            }
            for text in neighbours {
                let address: Ipv4Addr = text.parse().unwrap();
                assert!(is_public(address.into()), "{address}");
                for wrapping in wrappings(address) {
                    assert!(is_public(wrapping.into()), "{wrapping}");
                }
            }
        }
    }

    /// IPv4-mapped, NAT64, 6to4.
    fn wrappings(address: Ipv4Addr) -> [Ipv6Addr; 3] {
        let bits = u128::from(address.to_bits());
        [
            address.to_ipv6_mapped(),
            Ipv6Addr::from_bits((0x0064_ff9b << 96) | bits),
            Ipv6Addr::from_bits((0x2002 << 112) | (bits << 80) | 1),
        ]
    }

    #[test]
    fn ipv6_ranges() {
        for text in [
            "::",
            "::1",
            "::7f00:1",         // IPv4-compatible
            "64:ff9b:1::1",     // translation within a network
            "100::1",           // discard
            "2001::1",          // Teredo
            "2001:1ff:ffff::1", // protocol assignments
            "2001:db8::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "2000::1",
            "2001:200::1",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2606:4700:4700::1111",
            "3ffe:ffff::1",
            "3fff:1000::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_that_are_addresses_in_disguise() {
        for name in [
            "2130706433",
            "127.1",
            "0x7f000001",
            "0x7f.0.0.0x1",
            "1.2.3.4.",
            "0X7F.1",
            "",
        ] {
            assert!(looks_numeric(name), "{name}");
        }
        for name in [
            "localhost",
            "localhost.",
            "a.LocalHost.",
            "nas.local",
            "relay",
            "db.internal",
            "127.1",
            "",
            ".",
        ] {
            assert!(looks_local(name), "{name}");
        }
        for name in [
            "relay.example",
            "relay.example.",
            "local.example",
            "x.onion",
        ] {
            assert!(!looks_local(name), "{name}");
        }
        for name in [
            "relay.example",
            "1.relay.example",
            "0xrelay",
            "relay.x1",
            "a",
        ] {
            assert!(!looks_numeric(name), "{name}");
        }
    }
}
