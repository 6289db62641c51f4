//! Where a code can be used, as it is told in a local network (`docs/spec/code.md` §6).

use junto_smp::address::ServerAddress;

use crate::code::Number;

/// Service under which announcements are found (RFC 6763), without the domain.
pub const SERVICE: &str = "_junto-code._udp";
/// Longest value of an attribute that fits one string of a TXT record with its name, in bytes.
const VALUE_MAX: usize = 255 - 6;
const VERSION: &str = "1";

/// All of a code but its words, and the relay that it is used on. Whoever reads it cannot use the code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nearby {
    number: Number,
    relay: ServerAddress,
}

/// Why an announcement is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no announcement of a code")]
pub struct NotNearby;

impl Nearby {
    /// An announcement of the code with this number.
    ///
    /// # Errors
    /// [`NotNearby`] if the relay's address does not fit: one with many hosts.
    pub fn new(number: Number, relay: ServerAddress) -> Result<Self, NotNearby> {
        (relay.to_string().len() <= VALUE_MAX)
            .then_some(Self { number, relay })
            .ok_or(NotNearby)
    }

    /// What a code begins with that can be used there.
    #[must_use]
    pub fn number(&self) -> Number {
        self.number
    }

    /// The relay of its mailbox, as the announcement has it: nobody vouches for that.
    #[must_use]
    pub fn relay(&self) -> &ServerAddress {
        &self.relay
    }

    /// The attributes of the announcement, by name.
    #[must_use]
    pub fn attributes(&self) -> [(&'static str, String); 3] {
        [
            ("v", VERSION.to_owned()),
            ("n", self.number.to_string()),
            ("relay", self.relay.to_string()),
        ]
    }

    /// Reads an announcement; `attribute` gives the value of one by its name. Others may be there as well.
    ///
    /// # Errors
    /// [`NotNearby`] if one is missing, or is not what an honest host says.
    pub fn read<'a>(attribute: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Self, NotNearby> {
        let text = |name| {
            let value = attribute(name).filter(|value| value.len() <= VALUE_MAX);
            value
                .and_then(|value| core::str::from_utf8(value).ok())
                .ok_or(NotNearby)
        };
        if text("v")? != VERSION {
            return Err(NotNearby);
        }
        let number = text("n")?.parse().map_err(|_| NotNearby)?;
        let relay = text("relay")?.parse().map_err(|_| NotNearby)?;
        Self::new(number, relay)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const RELAY: &str = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@relay.example.org:5223";

    fn read(attributes: &[(&str, &[u8])]) -> Result<Nearby, NotNearby> {
        Nearby::read(|name| {
            let found = attributes.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| *value)
        })
    }

    #[test]
    fn an_announcement_is_read_as_it_was_made() {
        let made = Nearby::new("7".parse().unwrap(), RELAY.parse().unwrap()).unwrap();
        let attributes = made.attributes();
        let said = attributes.iter();
        let said: Vec<(&str, &[u8])> = said.map(|(name, it)| (*name, it.as_bytes())).collect();
        assert_eq!(read(&said).unwrap(), made);
        // Its strings fit a TXT record, and none holds the words.
        let fits = |(name, it): &(&str, String)| name.len() + 1 + it.len() <= 255;
        assert!(attributes.iter().all(fits));
        let text: String = attributes.iter().map(|(_, it)| it.as_str()).collect();
        assert_eq!(text, format!("17{RELAY}"));
    }

    #[test]
    fn what_no_host_says_is_no_announcement() {
        let good = [("v", "1"), ("n", "7"), ("relay", RELAY)];
        let with = |name: &str, value: &str| {
            let changed = good.map(|(known, it)| (known, if known == name { value } else { it }));
            read(&changed.map(|(known, it)| (known, it.as_bytes())))
        };
        assert!(with("", "").is_ok());
        let long = format!("{RELAY}{}", "0".repeat(300));
        let hosts = ["long-name-of-a-host.example.org"; 8].join(",");
        let hosts = RELAY.replace("relay.example.org", &hosts);
        for (name, value) in [
            ("v", "2"),
            ("n", "0"),
            ("n", "10000"),
            ("n", "07"),
            ("n", "7-crossover-clockwork"),
            ("relay", "relay.example.org"),
            ("relay", "smp://x@y"),
            ("relay", &long),
            ("relay", &hosts),
        ] {
            assert_eq!(with(name, value), Err(NotNearby), "{name} {value}");
        }
        assert_eq!(read(&[]), Err(NotNearby));
        assert_eq!(
            read(&[("v", b"1"), ("n", b"\xff"), ("relay", b"")]),
            Err(NotNearby)
        );
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_shown(n in ".{0,6}", relay in ".{0,300}", host in "[ -~]{0,40}") {
            let near = RELAY.replace("relay.example.org", &host);
            for relay in [&relay, &near] {
                let read = read(&[("v", b"1"), ("n", n.as_bytes()), ("relay", relay.as_bytes())]);
                let Ok(read) = read else { continue };
                // No control characters, no spaces: what is shown is what it is.
                for (_, it) in read.attributes() {
                    prop_assert!(it.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
