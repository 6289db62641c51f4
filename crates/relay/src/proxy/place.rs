//! What destinations are told apart by.

use core::net::IpAddr;

use junto_smp::address::{Fingerprint, Host, ServerAddress};

use super::reach::looks_numeric;

const ONION: &str = ".onion";

/// Host and port in one spelling, so that another one gains nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Door {
    /// An address as the system writes it, or a name in lower case without the dot at its end.
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

impl Door {
    /// `None` for a name that a resolver may take for an address: that has a spelling of its own.
    pub(super) fn new(host: &Host, port: u16) -> Option<Self> {
        let text = host.for_resolver();
        let host = match text.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().to_string(),
            Err(_) if looks_numeric(text) => return None,
            Err(_) => text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase(),
        };
        Some(Self {
            host: host.into(),
            port,
        })
    }

    /// The address, unless it is a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    pub(super) fn is_onion(&self) -> bool {
        self.host.ends_with(ONION)
    }
}

/// A relay at a door. What a link proves: who asks for the same relay at the same door may share it,
/// who asks for it at another may not, because what stands there could be in between.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) identity: Fingerprint,
    pub(super) door: Door,
}

/// The places that `server` may be at, each once, in order: public names before `.onion` names.
pub(super) fn places(server: &ServerAddress) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for door in (server.hosts().iter()).filter_map(|host| Door::new(host, server.port())) {
        let place = Place {
            identity: server.fingerprint(),
            door,
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places.sort_by_key(|place| place.door.is_onion());
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &str) -> Vec<String> {
        let pin = Fingerprint([1; 32]);
        let server: ServerAddress = format!("smp://{pin}@{list}").parse().unwrap();
        let places = places(&server);
        assert!(places.iter().all(|place| place.identity == pin));
        let text = |place: &Place| format!("{} {}", place.door.host, place.door.port);
        places.iter().map(text).collect()
    }

    #[test]
    fn one_spelling_for_each_door() {
        for (list, expected) in [
            ("Relay.Example", "relay.example 5223"),
            ("relay.example.:5223", "relay.example 5223"),
            ("relay.example,RELAY.example.:443", "relay.example 443"),
            ("[::1]", "::1 5223"),
            ("[0:0::0001]", "::1 5223"),
            ("[2001:DB8:0:0::A]", "2001:db8::a 5223"),
            ("[::ffff:192.0.2.1],192.0.2.1", "192.0.2.1 5223"),
            ("[::ffff:c000:201]:443", "192.0.2.1 443"),
        ] {
            assert_eq!(hosts(list), [expected], "{list}");
        }
    }

    #[test]
    fn addresses_in_disguise_are_no_door() {
        for list in ["127.1", "2130706433", "0x7f000001", "192.0.2.1.", "1.2.3"] {
            assert!(hosts(list).is_empty(), "{list}");
        }
        assert_eq!(hosts("127.1,relay.example"), ["relay.example 5223"]);
    }

    #[test]
    fn public_names_come_first() {
        assert_eq!(
            hosts("abc.onion,b.example,Def.ONION.,a.example"),
            [
                "b.example 5223",
                "a.example 5223",
                "abc.onion 5223",
                "def.onion 5223"
            ]
        );
    }
}
