//! Which network addresses the proxy may connect to.
//!
//! A proxy connects where its users say. What stands in the network of its operator must stay out
//! of their reach, so everything that is not publicly routed is refused, this machine under all of its
//! addresses, what the operator lists, and everything that only wraps such an address. Checked is the
//! address that is dialled, not the name: a name that resolves to something else the second time
//! gains nothing.
//!
//! Source: the special-purpose address registries of IANA (RFC 6890 and its updates).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io;

use ipnet::IpNet;

use super::place::Door;
use super::settings::ProxyConfig;

/// Where the operator lets the proxy go.
#[derive(PartialEq, Eq)]
pub(super) struct Reach {
    allow_private: bool,
    allow_own: bool,
    refuse: Vec<IpNet>,
}

impl Reach {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        Self {
            allow_private: config.allow_private,
            allow_own: config.allow_own,
            refuse: config.refuse.clone(),
        }
    }

    /// Whether a connection through `door` may be made, or stay: to `address`, or, without one, to
    /// where a SOCKS server finds its name. To that no name may be given that only this network may
    /// know. Without `own`, because this machine's addresses cannot be told, to no address.
    pub(super) fn allows_at(
        &self,
        door: &Door,
        address: Option<IpAddr>,
        own: Option<&[IpAddr]>,
    ) -> bool {
        match address.or(door.address()) {
            Some(address) => own.is_some_and(|own| self.allows(address, own)),
            None => self.allow_private || !looks_local(&door.host),
        }
    }

    /// Whether `address` may be dialled by the machine whose interfaces have the addresses `own`.
    pub(super) fn allows(&self, address: IpAddr, own: &[IpAddr]) -> bool {
        let refused = |form: IpAddr| self.refuse.iter().any(|network| network.contains(&form));
        let here =
            |form: IpAddr| form.is_loopback() || form.is_unspecified() || own.contains(&form);
        (self.allow_private || is_public(address))
            && !forms(address).any(|form| refused(form) || (!self.allow_own && here(form)))
    }

    /// What [`Self::allows`] needs to know of this machine now: interfaces come and go.
    pub(super) fn own(&self) -> io::Result<Vec<IpAddr>> {
        if self.allow_own {
            return Ok(Vec::new());
        }
        let interfaces = if_addrs::get_if_addrs()?;
        Ok(interfaces.iter().map(if_addrs::Interface::ip).collect())
    }
}

/// `address`, and the IPv4 address that it wraps, if it does.
fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let wrapped = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => wrapped(address).map(IpAddr::V4),
    };
    core::iter::once(address).chain(wrapped)
}

/// Whether `address` is publicly routed.
fn is_public(address: IpAddr) -> bool {
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

fn within(address: Ipv6Addr, network: Ipv6Addr, prefix: u32) -> bool {
    (address.to_bits() ^ network.to_bits()) >> (128 - prefix) == 0
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(wrapped) = wrapped(address) {
        return is_public_v4(wrapped);
    }
    // All global unicast addresses; loopback, local, multicast and whatever comes are outside, the
    // prefix for translation within a network (64:ff9b:1::/48) too.
    within(address, Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)
        && !NOT_PUBLIC_V6
            .iter()
            .any(|(network, prefix)| within(address, *network, *prefix))
}

/// The IPv4 address that `address` leads to: by a translator in our network (the well-known prefix of
/// NAT64), by our system (IPv4-mapped), or by 6to4.
fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    const TRANSLATED: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);
    const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);
    let lowest = |bits: u128| {
        #[allow(clippy::cast_possible_truncation)] // Meant.
        Ipv4Addr::from_bits(bits as u32)
    };
    let bits = address.to_bits();
    if within(address, TRANSLATED, 96) || within(address, MAPPED, 96) {
        Some(lowest(bits))
    } else if within(address, SIX_TO_FOUR, 16) {
        Some(lowest(bits >> 80))
    } else {
        None
    }
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
fn looks_local(name: &str) -> bool {
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
    use junto_smp::address::{Fingerprint, ServerAddress};

    use super::*;
    use crate::proxy::place::places;

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

    fn reach(allow_private: bool, allow_own: bool, refuse: &[&str]) -> Reach {
        Reach {
            allow_private,
            allow_own,
            refuse: refuse.iter().map(|net| net.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn own_addresses_in_every_form_and_only_if_told_so() {
        let own: [IpAddr; 2] = ["8.8.4.4".parse().unwrap(), "2606::1".parse().unwrap()];
        let forms = ["8.8.4.4", "::ffff:8.8.4.4", "64:ff9b::8.8.4.4", "2606::1"];
        for text in forms.into_iter().chain(["2002:808:404::1"]) {
            let address = text.parse().unwrap();
            assert!(!reach(false, false, &[]).allows(address, &own), "{text}");
            assert!(!reach(true, false, &[]).allows(address, &own), "{text}");
            assert!(reach(false, true, &[]).allows(address, &own), "{text}");
            assert!(reach(false, false, &[]).allows(address, &[]), "{text}");
        }
        // In a closed network this machine stays closed, on the addresses that all have as well.
        for text in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::"] {
            let address = text.parse().unwrap();
            assert!(!reach(true, false, &[]).allows(address, &[]), "{text}");
            assert!(!reach(false, true, &[]).allows(address, &[]), "{text}");
            assert!(reach(true, true, &[]).allows(address, &[]), "{text}");
        }
        let neighbour = "10.1.2.3".parse().unwrap();
        assert!(reach(true, false, &[]).allows(neighbour, &own));
    }

    #[test]
    fn what_the_operator_refuses_is_refused_in_every_form_whatever_else_is_allowed() {
        let refuse = ["198.41.0.0/24", "2a00:1098:2b::/96"];
        let open = reach(true, true, &refuse);
        for text in [
            "198.41.0.0",
            "198.41.0.255",
            "::ffff:198.41.0.4",
            "64:ff9b::198.41.0.4",
            "2002:c629:4::1",
            "2a00:1098:2b::",
            "2a00:1098:2b::ffff:ffff",
        ] {
            assert!(!open.allows(text.parse().unwrap(), &[]), "{text}");
        }
        for text in ["198.40.255.255", "198.41.1.0", "2a00:1098:2b::1:0:0"] {
            assert!(open.allows(text.parse().unwrap(), &[]), "{text}");
        }
    }

    /// What a SOCKS server finds needs no list of this machine's addresses.
    #[test]
    fn a_machine_that_cannot_tell_its_addresses_reaches_none_and_keeps_names() {
        let server: ServerAddress = format!("smp://{}@one.example", Fingerprint([1; 32]))
            .parse()
            .unwrap();
        let places = places(&server);
        let door = &places[0].door;
        let public = Some("8.8.4.4".parse().unwrap());
        let closed = reach(false, false, &[]);
        assert!(closed.allows_at(door, None, None));
        assert!(!closed.allows_at(door, public, None));
        assert!(closed.allows_at(door, public, Some(&[])));
    }

    #[test]
    fn this_machine_has_addresses() {
        let own = reach(false, false, &[]).own().unwrap();
        assert!(own.iter().any(IpAddr::is_loopback), "{own:?}");
        assert!(reach(false, true, &[]).own().unwrap().is_empty());
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
