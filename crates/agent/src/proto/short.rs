//! Short links: where data is kept that says how to connect, and the key that opens and proves it.
//!
//! `simplex:/i#ID/KEY?h=…&p=…&c=…` for one peer, `simplex:/a#KEY?…` for anybody (`g`, `c` and `r` in place of
//! `a` say what kind of contact it is); `https://HOST/i#…` names the first host in front. `h` lists hosts, `p` is
//! the port, `c` the fingerprint of the relay. Without `c` only somebody who knows the relay can use the link.

use core::fmt;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use junto_smp::address::{DEFAULT_PORT, Fingerprint, HOSTS_MAX, Host, ServerAddress};
use junto_smp::id::LinkId;

use super::link::LinkError;
use super::query::Query;
use super::wire::Malformed;

/// The longest short link that is read, in bytes: eight hosts of 253 bytes, escaped commas, two identifiers.
pub(crate) const SHORT_LINK_MAX: usize = 4 * 1024;

/// Written without padding, read with and without; unused bits must be zero.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// SHA3-256 of the part of a link's data that never changes. Whoever has it can read the data, and check it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LinkKey(pub(super) [u8; 32]);

impl fmt::Debug for LinkKey {
    /// Nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(…)")
    }
}

/// What kind of contact a link for anybody leads to. On this level all are used alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactKind {
    /// `a`: somebody's address.
    Address,
    /// `c`: a channel.
    Channel,
    /// `g`: a group.
    Group,
    /// `r`: a relay of a channel.
    Relay,
}

/// What a short link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortKind {
    /// An invitation for one peer, under the name that the relay gave it.
    Invitation(LinkId),
    /// A contact, whose name follows from the key.
    Contact(ContactKind),
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortLink {
    kind: ShortKind,
    key: LinkKey,
    /// At least one, at most [`HOSTS_MAX`].
    hosts: Vec<Host>,
    port: Option<u16>,
    fingerprint: Option<Fingerprint>,
}

impl ShortLink {
    /// The link to data on this relay.
    #[must_use]
    pub(super) fn new(kind: ShortKind, key: LinkKey, relay: &ServerAddress) -> Self {
        Self {
            kind,
            key,
            hosts: relay.hosts().to_vec(),
            port: Some(relay.port()),
            fingerprint: Some(relay.fingerprint()),
        }
    }

    /// What it leads to.
    #[must_use]
    pub fn kind(&self) -> ShortKind {
        self.kind
    }

    pub(super) fn key(&self) -> &LinkKey {
        &self.key
    }

    /// The relay with the data. A link that names it by host only means one of the `known` relays.
    ///
    /// # Errors
    /// [`LinkError::UnknownRelay`] if none of them is meant.
    pub fn relay(&self, known: &[ServerAddress]) -> Result<ServerAddress, LinkError> {
        let Some(fingerprint) = self.fingerprint else {
            let is_meant = |relay: &&ServerAddress| {
                let hosts = self.hosts.iter().all(|host| relay.hosts().contains(host));
                hosts && self.port.is_none_or(|port| port == relay.port())
            };
            let relay = known.iter().find(is_meant);
            return relay.cloned().ok_or(LinkError::UnknownRelay);
        };
        let port = self.port.unwrap_or(DEFAULT_PORT);
        let relay = ServerAddress::new(fingerprint, self.hosts.clone(), port);
        relay.map_err(|_| Malformed::Relay.into())
    }

    /// The form for web pages: `https://HOST/…`.
    #[must_use]
    pub fn web(&self) -> String {
        match self.hosts.split_first() {
            Some((host, others)) => self.text(&format!("https://{host}"), others),
            None => self.to_string(),
        }
    }

    fn text(&self, scheme: &str, hosts: &[Host]) -> String {
        let letter = match self.kind {
            ShortKind::Invitation(_) => 'i',
            ShortKind::Contact(ContactKind::Address) => 'a',
            ShortKind::Contact(ContactKind::Channel) => 'c',
            ShortKind::Contact(ContactKind::Group) => 'g',
            ShortKind::Contact(ContactKind::Relay) => 'r',
        };
        let mut text = format!("{scheme}/{letter}#");
        if let ShortKind::Invitation(id) = &self.kind {
            BASE64URL.encode_string(id.as_bytes(), &mut text);
            text.push('/');
        }
        BASE64URL.encode_string(self.key.0, &mut text);
        let mut query = Query::default();
        if !hosts.is_empty() {
            let hosts: Vec<_> = hosts.iter().map(Host::as_str).collect();
            query.push("h", hosts.join(","));
        }
        if let Some(port) = self.port {
            query.push("p", port.to_string());
        }
        if let Some(fingerprint) = &self.fingerprint {
            query.push("c", BASE64URL.encode(fingerprint.0));
        }
        let query = query.escaped();
        if !query.is_empty() {
            text.push('?');
            text.push_str(&query);
        }
        text
    }
}

impl fmt::Display for ShortLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text("simplex:", &self.hosts))
    }
}

/// Whether the part of a link between scheme and `#` is that of a short one.
pub(super) fn is_short(kind: &str) -> bool {
    matches!(kind, "i" | "a" | "c" | "g" | "r")
}

impl FromStr for ShortLink {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if text.len() > SHORT_LINK_MAX {
            return Err(Malformed::Long.into());
        }
        let (first, path) = match text.strip_prefix("simplex:/") {
            Some(path) => (None, path),
            None => {
                let rest = text.strip_prefix("https://").ok_or(Malformed::Text)?;
                let (host, path) = rest.split_once('/').ok_or(Malformed::Text)?;
                (Some(read_host(host)?), path)
            }
        };
        let (kind, secret) = path.split_once('#').ok_or(Malformed::Text)?;
        let (secret, query) = match secret.split_once('?') {
            Some((secret, query)) => (secret, Query::parse_escaped(query)?),
            None => (secret, Query::default()),
        };
        let (kind, key) = match kind.strip_suffix('/').unwrap_or(kind) {
            "i" => {
                let (id, key) = secret.split_once('/').ok_or(Malformed::Text)?;
                (ShortKind::Invitation(LinkId(bytes(id)?)), key)
            }
            "a" => (ShortKind::Contact(ContactKind::Address), secret),
            "c" => (ShortKind::Contact(ContactKind::Channel), secret),
            "g" => (ShortKind::Contact(ContactKind::Group), secret),
            "r" => (ShortKind::Contact(ContactKind::Relay), secret),
            _ => return Err(Malformed::Text.into()),
        };
        let listed = query.optional("h").map(|list| list.split(','));
        let listed = listed.into_iter().flatten().map(read_host);
        let hosts: Vec<_> = first
            .map(Ok)
            .into_iter()
            .chain(listed)
            .take(HOSTS_MAX + 1)
            .collect::<Result<_, _>>()?;
        if hosts.is_empty() || hosts.len() > HOSTS_MAX {
            return Err(Malformed::Relay.into());
        }
        let fingerprint = query.optional("c").map(bytes).transpose()?;
        Ok(Self {
            kind,
            key: LinkKey(bytes(key)?),
            hosts,
            port: query.optional("p").map(read_port).transpose()?,
            fingerprint: fingerprint.map(Fingerprint),
        })
    }
}

fn read_host(text: &str) -> Result<Host, Malformed> {
    text.parse().map_err(|_| Malformed::Relay)
}

/// Digits only and no leading zero, so that a port has one spelling.
fn read_port(text: &str) -> Result<u16, Malformed> {
    let port: u16 = text.parse().map_err(|_| Malformed::Relay)?;
    if port == 0 || port.to_string() != text {
        return Err(Malformed::Relay);
    }
    Ok(port)
}

fn bytes<const N: usize>(text: &str) -> Result<[u8; N], Malformed> {
    let bytes = BASE64URL.decode(text).map_err(|_| Malformed::Text)?;
    bytes.try_into().map_err(|_| Malformed::Text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts of the reference's own tests and of links that genuine agents made.
    const VECTORS: &str = include_str!("../../../../vectors/agent/short-links.txt");

    fn vectors() -> impl Iterator<Item = (&'static str, &'static str)> {
        let lines = VECTORS.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(' '))
    }

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    const ID: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    const PIN: &str = "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI";

    #[test]
    fn genuine_texts_return() {
        let mut read = 0;
        for (name, text) in vectors() {
            let link: ShortLink = text.parse().unwrap();
            let printed = if text.starts_with("https:") {
                link.web()
            } else {
                link.to_string()
            };
            assert_eq!(printed, text, "{name}");
            assert_eq!(link.to_string().parse(), Ok(link.clone()), "{name}");
            assert_eq!(link.web().parse(), Ok(link), "{name}");
            read += 1;
        }
        assert!(read >= 3);
    }

    #[test]
    fn every_part_is_read() {
        let text =
            format!("https://a.example/i#{ID}/{KEY}?h=b.onion%2C%5B%3A%3A1%5D&p=443&c={PIN}");
        let link: ShortLink = text.parse().unwrap();
        let id = core::array::from_fn(|at| at as u8);
        assert_eq!(link.kind(), ShortKind::Invitation(LinkId(id)));
        let relay = link.relay(&[]).unwrap();
        let expected = format!("smp://{PIN}=@a.example,b.onion,[::1]:443");
        assert_eq!(relay.to_string(), expected);
        assert_eq!(link.web(), text);
        let inside =
            format!("simplex:/i#{ID}/{KEY}?h=a.example%2Cb.onion%2C%5B%3A%3A1%5D&p=443&c={PIN}");
        assert_eq!(link.to_string(), inside);
        // Padded, with a slash before the fragment, with unknown parameters: the same link.
        let loose = format!("simplex:/i/#{ID}/{KEY}=?x=1&c={PIN}=&p=443&h=a.example,b.onion,[::1]");
        assert_eq!(loose.parse(), Ok(link));
    }

    #[test]
    fn a_link_without_a_fingerprint_means_a_relay_that_we_know() {
        let link: ShortLink = format!("https://a.example/a#{KEY}").parse().unwrap();
        assert_eq!(link.relay(&[]), Err(LinkError::UnknownRelay));
        let ours: ServerAddress = format!("smp://{PIN}=@a.example,b.onion:443")
            .parse()
            .unwrap();
        let others: ServerAddress = format!("smp://{PIN}=@b.example").parse().unwrap();
        assert_eq!(
            link.relay(core::slice::from_ref(&others)),
            Err(LinkError::UnknownRelay)
        );
        assert_eq!(link.relay(&[others, ours.clone()]), Ok(ours.clone()));
        let port = format!("https://a.example/a#{KEY}?p=5223");
        let link: ShortLink = port.parse().unwrap();
        assert_eq!(link.relay(&[ours]), Err(LinkError::UnknownRelay));
    }

    #[test]
    fn everything_else_is_refused() {
        let many = ["h"; HOSTS_MAX + 1].join(",");
        for text in [
            String::new(),
            format!("simplex:/a#{KEY}"),
            format!("http://h/a#{KEY}"),
            format!("https:///a#{KEY}"),
            format!("https://h/b#{KEY}"),
            format!("https://h/a#{}", &KEY[1..]),
            format!("https://h/a#{KEY}A"),
            format!("https://h/i#{KEY}"),
            format!("https://h/i#{KEY}/{ID}"),
            format!("https://h/a#{ID}/{KEY}"),
            format!("https://h/a#{KEY}?"),
            format!("https://h/a#{KEY}?p=0"),
            format!("https://h/a#{KEY}?p=05223"),
            format!("https://h/a#{KEY}?p=65536"),
            format!("https://h/a#{KEY}?c={ID}"),
            format!("https://h/a#{KEY}?h="),
            format!("https://h/a#{KEY}?h=a%20b"),
            format!("simplex:/a#{KEY}?h={many}"),
            format!("https://h/a#{KEY}?p=1&p=1"),
            format!("https://h:1/a#{KEY}"),
            format!("https://h/a#{KEY}?x={}", "x".repeat(SHORT_LINK_MAX)),
        ] {
            assert!(text.parse::<ShortLink>().is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_has_no_key() {
        let link: ShortLink = format!("https://h/a#{KEY}").parse().unwrap();
        assert!(!format!("{link:?}").contains("48, 49"));
        assert!(!format!("{link:?}").contains(KEY));
    }

    proptest! {
        #[test]
        fn damaged_texts_are_refused_or_return(at in 0..200_usize, byte in 0x20..0x7f_u8) {
            let text = format!("https://a.example/i#{ID}/{KEY}?h=b.onion&p=443&c={PIN}");
            let mut text = text.into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            if let Ok(link) = text.parse::<ShortLink>() {
                prop_assert_eq!(link.to_string().parse::<ShortLink>(), Ok(link.clone()));
                prop_assert_eq!(link.web().parse::<ShortLink>(), Ok(link));
            }
        }
    }
}
