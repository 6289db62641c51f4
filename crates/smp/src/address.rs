//! Server addresses: `smp://fingerprint@host[,host…][:port]`.
//!
//! The fingerprint is the identity of the server: SHA-256 of the whole DER of its offline
//! certificate, as padded base64url (trap 4). Host names only say where to connect; they are never
//! compared with the certificate.

use core::{fmt, str::FromStr};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use junto_crypto::hash;

/// Port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 5223;
/// Hosts that one address may list.
pub const HOSTS_MAX: usize = 8;
/// Bytes of the longest address accepted: 8 host names of 253 bytes and some room.
pub const ADDRESS_BYTES_MAX: usize = 2_304;
/// Bytes of a host name, from DNS.
const HOST_BYTES_MAX: usize = 253;
const SCHEME: &str = "smp://";

/// Padding is written always and read in both ways; unused bits must be zero.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Identity of a server: SHA-256 of the DER of the second certificate of its chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate given as DER.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Self {
        Self(hash::sha256(der))
    }
}

impl fmt::Display for Fingerprint {
    /// Padded base64url, 44 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = AddressError;

    /// Padded or not.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut bytes = [0; 33];
        match BASE64URL.decode_slice(text, &mut bytes) {
            Ok(32) => {
                let mut fingerprint = [0; 32];
                fingerprint.copy_from_slice(&bytes[..32]);
                Ok(Self(fingerprint))
            }
            _ => Err(AddressError::Fingerprint),
        }
    }
}

/// A host name, IPv4 address or bracketed IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Box<str>);

impl Host {
    /// As written in an address: IPv6 in brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a resolver takes it: IPv6 without brackets.
    #[must_use]
    pub fn for_resolver(&self) -> &str {
        self.0
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(&self.0)
    }
}

impl Host {
    /// Whether only Tor knows the name (RFC 7686).
    #[must_use]
    pub fn is_onion(&self) -> bool {
        let name = self.0.strip_suffix('.').unwrap_or(&self.0);
        let (_, last) = name.rsplit_once('.').unwrap_or_default();
        last.eq_ignore_ascii_case("onion")
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let valid = match bracketed {
            Some(inner) => inner.parse::<core::net::Ipv6Addr>().is_ok(),
            None => {
                (1..=HOST_BYTES_MAX).contains(&text.len())
                    && text
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
            }
        };
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(AddressError::Host)
        }
    }
}

/// Where a server is and which identity it must prove.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerAddress {
    fingerprint: Fingerprint,
    hosts: Vec<Host>,
    port: u16,
}

impl ServerAddress {
    /// An address of one to [`HOSTS_MAX`] hosts, in order of preference.
    ///
    /// # Errors
    /// [`AddressError::Host`] for no host or too many, [`AddressError::Port`] for port 0.
    pub fn new(
        fingerprint: Fingerprint,
        hosts: Vec<Host>,
        port: u16,
    ) -> Result<Self, AddressError> {
        if hosts.is_empty() || hosts.len() > HOSTS_MAX {
            return Err(AddressError::Host);
        }
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self {
            fingerprint,
            hosts,
            port,
        })
    }

    /// The identity to verify.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The hosts, at least one.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerAddress {
    /// Always with padded fingerprint and with the port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}@", self.fingerprint)?;
        for (index, host) in self.hosts.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{host}")?;
        }
        write!(f, ":{}", self.port)
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_BYTES_MAX {
            return Err(AddressError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(AddressError::Scheme)?;
        let (fingerprint, location) = rest.split_once('@').ok_or(AddressError::Fingerprint)?;
        if fingerprint.contains(':') {
            return Err(AddressError::Password);
        }
        // A colon inside brackets belongs to an IPv6 address.
        let (hosts, port) = match location.rsplit_once(':') {
            Some((hosts, port)) if !port.contains(']') => (hosts, parse_port(port)?),
            _ => (location, DEFAULT_PORT),
        };
        let hosts = hosts
            .split(',')
            .map(str::parse)
            .collect::<Result<Vec<Host>, _>>()?;
        Self::new(fingerprint.parse()?, hosts, port)
    }
}

/// Digits only and no leading zero, so that a port has one spelling.
fn parse_port(text: &str) -> Result<u16, AddressError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits && !text.starts_with('0') {
        text.parse().map_err(|_| AddressError::Port)
    } else {
        Err(AddressError::Port)
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not start with `smp://`.
    #[error("a server address starts with smp://")]
    Scheme,
    /// The part before `@` is not 32 bytes of base64url.
    #[error("the fingerprint before @ must be 32 bytes of base64url")]
    Fingerprint,
    /// It carries a password, which this version does not use.
    #[error("server passwords are not supported in an address")]
    Password,
    /// No host, too many, or not a host name or IP address.
    #[error("invalid host name")]
    Host,
    /// Not a port between 1 and 65535.
    #[error("invalid port")]
    Port,
    /// Longer than [`ADDRESS_BYTES_MAX`].
    #[error("address is too long")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=";

    #[test]
    fn prints_padded_and_with_port() {
        let text = format!("smp://{PIN}@relay.example");
        let address: ServerAddress = text.parse().unwrap();
        assert_eq!(address.port(), DEFAULT_PORT);
        assert_eq!(address.to_string(), format!("{text}:5223"));
        let unpadded = format!("smp://{}@relay.example:5223", PIN.trim_end_matches('='));
        assert_eq!(unpadded.parse::<ServerAddress>().unwrap(), address);
    }

    #[test]
    fn several_hosts_and_ipv6() {
        let text = format!("smp://{PIN}@relay.example,abc.onion,[::1]:443");
        let address: ServerAddress = text.parse().unwrap();
        assert_eq!(address.hosts().len(), 3);
        assert_eq!(address.hosts()[2].for_resolver(), "::1");
        assert_eq!(address.port(), 443);
        assert_eq!(address.to_string(), text);
        let default_port = format!("smp://{PIN}@[::1]");
        assert_eq!(
            default_port.parse::<ServerAddress>().unwrap().port(),
            DEFAULT_PORT
        );
    }

    #[test]
    fn names_that_only_tor_knows() {
        for (name, onion) in [
            ("abc.onion", true),
            ("www.abc.ONION.", true),
            ("onion", false),
            ("abc.onion.example", false),
            ("abconion", false),
            ("[::1]", false),
        ] {
            assert_eq!(name.parse::<Host>().unwrap().is_onion(), onion, "{name}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        let many = ["h"; HOSTS_MAX + 1].join(",");
        let cases = [
            (format!("https://{PIN}@h"), AddressError::Scheme),
            (format!("smp://{PIN}"), AddressError::Fingerprint),
            ("smp://abc@h".into(), AddressError::Fingerprint),
            (format!("smp://{PIN}:pw@h"), AddressError::Password),
            (format!("smp://{PIN}@"), AddressError::Host),
            (format!("smp://{PIN}@h,,g"), AddressError::Host),
            (format!("smp://{PIN}@a b"), AddressError::Host),
            (format!("smp://{PIN}@{many}"), AddressError::Host),
            (format!("smp://{PIN}@h:0"), AddressError::Port),
            (format!("smp://{PIN}@h:+1"), AddressError::Port),
            (format!("smp://{PIN}@h:05223"), AddressError::Port),
            (format!("smp://{PIN}@h:65536"), AddressError::Port),
            (format!("smp://{PIN}@h:"), AddressError::Port),
            ("s".repeat(ADDRESS_BYTES_MAX + 1), AddressError::TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<ServerAddress>(), Err(error), "{text}");
        }
    }
}
