//! Which way commands go to the relay of a queue that we send to, and so which relay sees where we are.
//!
//! The relay of a peer's queue is the peer's choice, or that of whoever wrote the link. Sent to directly, it sees
//! our network address beside the queue. Through another relay it sees the queue and that relay; the other
//! relay sees us, and neither the queue nor what we do there. Only the two together know both.
//!
//! A relay that we receive on sees us anyway, so what we send there needs no detour, unless it shall not learn that
//! who receives on one of its queues sends to another.

use core::net::{IpAddr, Ipv6Addr};

use junto_smp::address::{Host, ServerAddress};

use super::relay::RelayTrouble;

/// When what we send goes through another relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Never: the relays of all peers see our address.
    Never,
    /// As [`Routing::WhenUnknown`], but not if connections go through a SOCKS server, which hides our address
    /// already.
    WhenUnprotected,
    /// To relays that we did not choose: neither one of our own, nor the one that the connection receives on,
    /// nor one that is named by an address of a private network, where no proxy would reach it.
    #[default]
    WhenUnknown,
    /// To all, as long as there is a second relay to go through.
    Always,
}

/// How a profile's commands find their way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// When to make a detour.
    pub routing: Routing,
    /// The profile's own relays, in order of preference: those that it trusts with its address. Without any,
    /// each connection takes the relay that it receives on.
    pub own: Vec<ServerAddress>,
    /// Whether all connections go through a SOCKS server.
    pub hidden: bool,
}

/// A way to a relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayPath {
    /// The relay whose queues it is about.
    pub relay: ServerAddress,
    /// Relays that pass commands on to it: the first one that can, in this order. None: directly.
    pub through: Vec<ServerAddress>,
}

/// What a relay is used for, and which way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Whether we receive on it; else a peer does, to whom we send.
    pub receives: bool,
    /// How it is reached.
    pub path: RelayPath,
    /// Whether it is.
    pub reach: Reach,
}

/// Whether a relay is there for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Nobody has asked it for anything, or it has neither answered so far nor failed to.
    Unknown,
    /// It is.
    Up,
    /// It is not; the agent keeps trying.
    Down(RelayTrouble),
}

impl RelayPath {
    /// Straight to the relay.
    #[must_use]
    pub fn direct(relay: ServerAddress) -> Self {
        let through = Vec::new();
        Self { relay, through }
    }

    /// Whether the relay itself sees where we are.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.through.is_empty()
    }
}

impl RoutePolicy {
    /// The path from a connection that receives on `receiving` to its peer's queue on `relay`.
    pub(super) fn path(&self, relay: &ServerAddress, receiving: &ServerAddress) -> RelayPath {
        let is_same = |known: &&ServerAddress| known.fingerprint() == relay.fingerprint();
        // Reached where we know it, whatever the link says: the place in it may be a trap.
        let known = self.own.iter().chain([receiving]).find(is_same);
        let detour = match self.routing {
            Routing::Never => false,
            Routing::WhenUnprotected => known.is_none() && !self.hidden && !is_private(relay),
            Routing::WhenUnknown => known.is_none() && !is_private(relay),
            Routing::Always => true,
        };
        let relay = known.unwrap_or(relay).clone();
        let mut through = Vec::new();
        if detour {
            let others = |it: &&ServerAddress| it.fingerprint() != relay.fingerprint();
            through.extend(self.own.iter().filter(others).cloned());
            if through.is_empty() {
                through.extend(Some(receiving).filter(others).cloned());
            }
            // Rather one that does not also see what we receive in return.
            through.sort_by_key(|it| it.fingerprint() == receiving.fingerprint());
        }
        RelayPath { relay, through }
    }
}

/// Whether all hosts of a relay are addresses of this machine or of a private network. A name is
/// none: who resolves it decides where it leads.
fn is_private(relay: &ServerAddress) -> bool {
    let is_private = |host: &Host| match host.for_resolver().parse() {
        Ok(IpAddr::V4(it)) => it.is_private() || it.is_loopback() || it.is_link_local(),
        Ok(IpAddr::V6(it)) => is_private_v6(it),
        Err(_) => false,
    };
    relay.hosts().iter().all(is_private)
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The relay with this identity at this host.
    fn at(identity: u8, host: &str) -> ServerAddress {
        let fingerprint = junto_smp::address::Fingerprint([identity; 32]);
        ServerAddress::new(fingerprint, vec![host.parse().unwrap()], 5223).unwrap()
    }

    fn policy(routing: Routing, own: &[&ServerAddress]) -> RoutePolicy {
        RoutePolicy {
            routing,
            own: own.iter().map(|&relay| relay.clone()).collect(),
            hidden: false,
        }
    }

    const ALL: [Routing; 4] = [
        Routing::Never,
        Routing::WhenUnprotected,
        Routing::WhenUnknown,
        Routing::Always,
    ];

    #[test]
    fn relays_that_we_did_not_choose_are_reached_through_ours() {
        let (ours, theirs) = (at(1, "ours.example"), at(2, "theirs.example"));
        for routing in ALL {
            let path = policy(routing, &[&ours]).path(&theirs, &ours);
            assert_eq!(path.is_direct(), routing == Routing::Never, "{routing:?}");
            assert_eq!(path.relay, theirs);
            if !path.is_direct() {
                assert_eq!(path.through[..], *core::slice::from_ref(&ours));
            }
        }
    }

    #[test]
    fn relays_that_see_us_anyway_are_reached_directly_unless_all_are_to_be_kept_apart() {
        let (first, second) = (at(1, "first.example"), at(2, "second.example"));
        let own = [&first, &second];
        for routing in ALL {
            let path = policy(routing, &own).path(&first, &second);
            let detour = routing == Routing::Always;
            let through = core::slice::from_ref(&second);
            let through = if detour { through } else { &[] };
            assert_eq!((&path.relay, &path.through[..]), (&first, through));
        }
    }

    #[test]
    fn with_one_relay_there_is_no_other_to_go_through() {
        let only = at(1, "only.example");
        for routing in ALL {
            assert!(policy(routing, &[&only]).path(&only, &only).is_direct());
            assert!(policy(routing, &[]).path(&only, &only).is_direct());
        }
    }

    #[test]
    fn without_relays_of_its_own_a_connection_uses_the_one_that_it_receives_on() {
        let (given, theirs) = (at(1, "given.example"), at(2, "theirs.example"));
        for routing in [Routing::WhenUnknown, Routing::Always] {
            let policy = policy(routing, &[]);
            assert_eq!(
                policy.path(&theirs, &given).through[..],
                *core::slice::from_ref(&given)
            );
            assert!(policy.path(&given, &given).is_direct());
        }
    }

    #[test]
    fn a_proxy_that_does_not_see_what_we_receive_is_preferred() {
        let [one, two, three] = [1, 2, 3].map(|it| at(it, "relay.example"));
        let own = [&one, &two, &three];
        let path = policy(Routing::WhenUnknown, &own).path(&at(4, "theirs.example"), &one);
        assert_eq!(path.through, [two, three, one]);
    }

    #[test]
    fn a_link_cannot_pose_as_our_relay_at_another_place() {
        let (ours, other) = (at(1, "ours.example"), at(2, "other.example"));
        let trap = at(1, "trap.example");
        for routing in ALL {
            for own in [&[&ours][..], &[&ours, &other], &[]] {
                let path = policy(routing, own).path(&trap, &ours);
                assert_eq!(path.relay, ours, "{routing:?}");
                assert!(!path.through.contains(&trap));
            }
        }
    }

    #[test]
    fn who_is_hidden_needs_no_detour_if_he_says_so() {
        let (ours, theirs) = (at(1, "ours.example"), at(2, "theirs.example"));
        for routing in ALL {
            let mut policy = policy(routing, &[&ours]);
            policy.hidden = true;
            let direct = matches!(routing, Routing::Never | Routing::WhenUnprotected);
            assert_eq!(policy.path(&theirs, &ours).is_direct(), direct);
        }
    }

    #[test]
    fn only_addresses_are_private_and_only_if_all_are() {
        let ours = at(1, "ours.example");
        let unknown = policy(Routing::WhenUnknown, &[&ours]);
        let always = policy(Routing::Always, &[&ours]);
        for (host, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("192.168.0.7", true),
            ("172.31.0.1", true),
            ("169.254.1.1", true),
            ("[::1]", true),
            ("[fd00::1]", true),
            ("[fe80::1]", true),
            ("172.32.0.1", false),
            ("8.8.8.8", false),
            ("[2001:4860::1]", false),
            ("[::ffff:10.0.0.1]", false),
            ("localhost", false),
            ("router.lan", false),
        ] {
            let relay = at(2, host);
            assert_eq!(unknown.path(&relay, &ours).is_direct(), private, "{host}");
            assert!(!always.path(&relay, &ours).is_direct(), "{host}");
        }
        let hosts = vec!["10.0.0.1".parse().unwrap(), "trap.example".parse().unwrap()];
        let mixed = ServerAddress::new(at(2, "x").fingerprint(), hosts, 5223).unwrap();
        assert!(!unknown.path(&mixed, &ours).is_direct());
    }
}
