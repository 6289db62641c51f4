//! Private message routing (reference §4, PRXY to RRES): a sender reaches a *destination* through
//! a *proxy*, so that the proxy sees the sender's address and not the queue, and the destination
//! the queue and not the address.
//!
//! ```text
//! sender                     proxy                        destination
//!   PRXY address  ─────────►   connects, shared by all  ───────►  hello
//!   PKEY session, chain, key ◄─
//!   PFWD key, box ─────────►   RFWD box(id, key, box)   ───────►  opens both, carries out
//!   PRES box      ◄─────────   RRES box(id, box)        ◄───────
//! ```
//!
//! The inner box is between sender and destination: an ephemeral key of the sender, agreed with the
//! destination's hello key, which came through the proxy and is therefore verified against the
//! pinned identity ([`Destination::verify`]). It is padded, so all commands look alike to the proxy.
//! The outer box is between proxy and destination, who have no block encryption: without it
//! somebody inside TLS could match what goes in and out of the proxy. Each answer uses the nonce of
//! its command reversed (trap 1).
//!
//! This module holds what all three parties share; the sender and the proxy's outgoing half are in
//! [`crate::client`], the destination is in [`crate::server`].

use junto_crypto::{
    secretbox::{BoxKey, Nonce, TAG_BYTES},
    x25519,
};

use crate::{
    address::{DEFAULT_PORT, Fingerprint, HOSTS_MAX, Host, ServerAddress},
    block::{Batch, SessionId, unpad},
    encoding::{DecodeError, NoRoom, Reader, Writer},
    hello::{CHAIN_LENGTH, HelloFault, LeafKey, ServerHello, SignedKey},
    id::CorrelationId,
    key::{decode_x25519, encode_x25519},
    version::{Version, VersionRange},
};

/// Bytes of the padded text in the box between sender and destination, both ways. What the longest
/// `SEND` with the longest authorisation takes.
pub const FORWARDED_BYTES: usize = 16_226;
/// Bytes of that box.
pub const FORWARDED_BOX_BYTES: usize = TAG_BYTES + FORWARDED_BYTES;
/// Bytes of the longest encoded certificate chain that a proxy passes on. Genuine ones have 1,000
/// to 2,000; with 8 KiB, `PKEY` fits into a block whatever the destination sent.
pub const CHAIN_BYTES_MAX: usize = 8 * 1024;
/// The newest version that a proxy offers for forwarded commands. Below the newest that we speak,
/// as in the reference implementation, so that a destination cannot tell new senders from others.
pub const FORWARDED_VERSION_MAX: u16 = 17;

/// Bytes in front of the transmission in a forwarded text: padding's length, count, length.
const HEAD_BYTES: usize = 2 + 1 + 2;
const FILL: u8 = b'#';

/// `PRXY`: a request to connect to another relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRequest<'a> {
    /// The destination.
    pub server: ServerAddress,
    /// Password of the proxy.
    pub password: Option<&'a [u8]>,
}

impl<'a> ProxyRequest<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        let hosts = self.server.hosts();
        writer.u8(u8::try_from(hosts.len()).unwrap_or(0));
        for host in hosts {
            writer.short(host.as_str().as_bytes());
        }
        writer.short(self.server.port().to_string().as_bytes());
        writer.short(&self.server.fingerprint().0);
        writer.maybe(self.password, Writer::short);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = usize::from(reader.u8()?);
        if !(1..=HOSTS_MAX).contains(&count) {
            return Err(DecodeError::Invalid("hosts"));
        }
        let hosts = (0..count)
            .map(|_| decode_host(reader.short()?))
            .collect::<Result<Vec<_>, _>>()?;
        let port = decode_port(reader.short()?)?;
        let pin = reader
            .short()?
            .try_into()
            .map_err(|_| DecodeError::Invalid("fingerprint"))?;
        let server = ServerAddress::new(Fingerprint(pin), hosts, port)
            .map_err(|_| DecodeError::Invalid("server address"))?;
        let password = reader.maybe("password", Reader::short)?;
        Ok(Self { server, password })
    }
}

fn decode_host(bytes: &[u8]) -> Result<Host, DecodeError> {
    const INVALID: DecodeError = DecodeError::Invalid("host");
    let text = core::str::from_utf8(bytes).map_err(|_| INVALID)?;
    // Others write IPv6 addresses without brackets here.
    if text.contains(':') && !text.starts_with('[') {
        format!("[{text}]").parse().map_err(|_| INVALID)
    } else {
        text.parse().map_err(|_| INVALID)
    }
}

/// Digits without leading zero; or nothing, for the default.
fn decode_port(bytes: &[u8]) -> Result<u16, DecodeError> {
    const INVALID: DecodeError = DecodeError::Invalid("port");
    match bytes {
        [] => Ok(DEFAULT_PORT),
        [b'1'..=b'9', ..] if bytes.iter().all(u8::is_ascii_digit) => core::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(INVALID),
        _ => Err(INVALID),
    }
}

/// Certificates as in a hello: a count, and each with a 2-byte length. Checked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificates<'a>(&'a [u8]);

impl<'a> Certificates<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let all = reader.rest();
        let count = usize::from(reader.u8()?);
        if !CHAIN_LENGTH.contains(&count) {
            return Err(DecodeError::Invalid("certificate chain"));
        }
        for _ in 0..count {
            reader.large()?;
        }
        let length = all.len() - reader.rest().len();
        all.get(..length).map(Self).ok_or(DecodeError::Truncated)
    }

    /// The certificates as DER: leaf, identity, and up to two more.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.0);
        let _ = reader.u8();
        core::iter::from_fn(move || reader.large().ok())
    }
}

/// `PKEY`: the proxy is connected to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyKey<'a> {
    /// The TLS session between proxy and destination. Names it in `PFWD`, and binds authorisations.
    pub session: SessionId,
    /// What the destination speaks, as far as the proxy lets on.
    pub versions: VersionRange,
    /// The destination's certificates.
    pub chain: Certificates<'a>,
    /// The destination's hello key for that session, signed by its leaf.
    pub signed_key: SignedKey,
}

impl<'a> ProxyKey<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.short(&self.session.0);
        self.versions.encode(writer);
        writer.bytes(self.chain.0);
        writer.large(&self.signed_key.to_der());
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            session: reader
                .short()?
                .try_into()
                .map(SessionId)
                .map_err(|_| DecodeError::Invalid("session id"))?,
            versions: VersionRange::decode(reader)?,
            chain: Certificates::decode(reader)?,
            signed_key: SignedKey::from_der(reader.large()?)?,
        })
    }
}

/// What a proxy keeps of a destination's hello, to introduce it to senders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    session: SessionId,
    versions: VersionRange,
    chain: Box<[u8]>,
    signed_key: SignedKey,
}

impl Introduction {
    /// Takes from `hello`, which [`crate::client::Client::open`] has accepted, what senders need.
    ///
    /// # Errors
    /// [`HelloFault::Version`] if the destination speaks no version that can be forwarded,
    /// [`HelloFault::Syntax`] if its chain exceeds [`CHAIN_BYTES_MAX`].
    pub fn new(hello: &ServerHello<'_>) -> Result<Self, HelloFault> {
        let max = hello.versions.max().min(FORWARDED_VERSION_MAX);
        let min = hello.versions.min().max(Version::MIN.number());
        let versions = VersionRange::new(min, max).ok_or(HelloFault::Version)?;
        let mut chain = vec![u8::try_from(hello.chain.len()).map_err(|_| HelloFault::Syntax)?];
        for certificate in &hello.chain {
            let length = u16::try_from(certificate.len()).map_err(|_| HelloFault::Syntax)?;
            chain.extend_from_slice(&length.to_be_bytes());
            chain.extend_from_slice(certificate);
        }
        if chain.len() > CHAIN_BYTES_MAX {
            return Err(HelloFault::Syntax);
        }
        Ok(Self {
            session: hello.session,
            versions,
            chain: chain.into(),
            signed_key: hello.signed_key,
        })
    }

    /// The session that it is about.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The answer to `PRXY`.
    #[must_use]
    pub fn answer(&self) -> ProxyKey<'_> {
        ProxyKey {
            session: self.session,
            versions: self.versions,
            chain: Certificates(&self.chain),
            signed_key: self.signed_key,
        }
    }
}

/// A command for a destination as the proxy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The version that the sender chose for the inner transmission. Not the proxy's business.
    pub version: u16,
    /// The sender's ephemeral key.
    pub key: x25519::PublicKey,
    /// The box for the destination.
    pub sealed: &'a [u8],
}

impl<'a> Forward<'a> {
    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(self.version);
        encode_x25519(&self.key, writer);
        writer.bytes(self.sealed);
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: reader.u16()?,
            key: decode_x25519(reader)?,
            sealed: reader.tail(),
        })
    }
}

/// The text of `RFWD`'s box: the sender's correlation id, which is the inner nonce, and the rest of
/// its `PFWD`.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_relayed(text: &[u8]) -> Result<(CorrelationId, Forward<'_>), DecodeError> {
    let mut reader = Reader::new(text);
    Ok((
        CorrelationId::decode(&mut reader)?,
        Forward::decode(&mut reader)?,
    ))
}

/// A destination that a proxy is connected to, verified by the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub(crate) session: SessionId,
    pub(crate) version: Version,
    pub(crate) key: x25519::PublicKey,
}

impl Destination {
    /// Accepts the proxy's `answer` for the server whose identity is `identity`.
    ///
    /// `leaf` is the key of the first certificate in `answer`; the caller has verified that the
    /// second one signed it, that both are valid now and meant for this (`junto_tls::PeerChain`).
    /// That the second one is the pinned identity, and that the leaf signed the key, is checked
    /// here: a proxy can refuse to connect, but not pose as the destination.
    ///
    /// # Errors
    /// [`HelloFault::Version`], [`HelloFault::Identity`] or [`HelloFault::Signature`].
    pub fn verify(
        answer: &ProxyKey<'_>,
        identity: Fingerprint,
        leaf: &LeafKey,
        versions: VersionRange,
    ) -> Result<Self, HelloFault> {
        match answer.chain.iter().nth(1) {
            Some(der) if Fingerprint::of_certificate(der) == identity => {}
            _ => return Err(HelloFault::Identity),
        }
        Ok(Self {
            key: answer.signed_key.verify(leaf)?,
            session: answer.session,
            version: versions
                .highest_common(answer.versions)
                .ok_or(HelloFault::Version)?,
        })
    }

    /// The version of commands to it.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The session between proxy and destination.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }
}

/// Fills `room` ([`FORWARDED_BOX_BYTES`]) with the box of one transmission written by `encode`.
pub(crate) fn seal_one(
    key: &BoxKey,
    nonce: &Nonce,
    room: &mut [u8],
    encode: impl FnOnce(&mut [u8]) -> Result<usize, NoRoom>,
) -> Result<(), NoRoom> {
    let (tag, text) = room
        .split_first_chunk_mut::<TAG_BYTES>()
        .filter(|(_, text)| text.len() == FORWARDED_BYTES)
        .ok_or(NoRoom)?;
    let (head, rest) = text.split_first_chunk_mut::<HEAD_BYTES>().ok_or(NoRoom)?;
    let used = encode(rest)?;
    let length = u16::try_from(used).map_err(|_| NoRoom)?;
    let padded = length.checked_add(3).ok_or(NoRoom)?;
    head[..2].copy_from_slice(&padded.to_be_bytes());
    head[2] = 1;
    head[3..].copy_from_slice(&length.to_be_bytes());
    rest[used..].fill(FILL);
    *tag = key.seal_in_place(nonce, text);
    Ok(())
}

/// Why a forwarded box cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardFault {
    /// It does not open.
    #[error("forwarded box does not open")]
    Sealed,
    /// It does not hold exactly one transmission.
    #[error("forwarded box holds no single transmission")]
    Single,
}

/// Opens a box in place: its text, without padding if there is any.
pub(crate) fn open_box<'b>(
    key: &BoxKey,
    nonce: &Nonce,
    sealed: &'b mut [u8],
) -> Result<&'b mut [u8], ForwardFault> {
    let (tag, text) = sealed
        .split_first_chunk_mut::<TAG_BYTES>()
        .ok_or(ForwardFault::Sealed)?;
    key.open_in_place(nonce, text, tag)
        .map_err(|_| ForwardFault::Sealed)?;
    Ok(text)
}

/// The one transmission in the padded `text` of an opened box.
///
/// # Errors
/// [`ForwardFault::Single`].
pub fn single(text: &mut [u8]) -> Result<&mut [u8], ForwardFault> {
    let text = unpad(text).map_err(|_| ForwardFault::Single)?;
    let mut batch = Batch::parse(text).map_err(|_| ForwardFault::Single)?;
    let first = batch.next().ok_or(ForwardFault::Single)?;
    match batch.next() {
        None => Ok(first),
        Some(_) => Err(ForwardFault::Single),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::Entity, transmission::encode_header};

    const VECTORS: &str = include_str!("../../../vectors/simplex-primitives.txt");

    fn vector<const N: usize>(name: &str) -> [u8; N] {
        let mut lines = VECTORS.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(key, _)| *key == name).unwrap();
        hex::decode(value).unwrap().try_into().unwrap()
    }

    fn key() -> BoxKey {
        BoxKey::from_symmetric(&vector("x25519_shared"))
    }

    fn correlation() -> CorrelationId {
        CorrelationId(vector("authenticator_nonce"))
    }

    /// The box of `content`, as command or answer.
    fn sealed(nonce: &Nonce, content: &[u8]) -> Vec<u8> {
        let mut room = vec![0; FORWARDED_BOX_BYTES];
        seal_one(&key(), nonce, &mut room, |room| {
            let mut writer = Writer::new(room);
            writer.u8(0);
            let entity = vector("forward_entity");
            encode_header(&mut writer, Some(&correlation()), Entity::Queue(&entity));
            writer.bytes(content);
            writer.finish()
        })
        .unwrap();
        room
    }

    fn is(bytes: &[u8], tag: &str, digest: &str) {
        assert_eq!(bytes[..TAG_BYTES], vector::<TAG_BYTES>(tag));
        let found = junto_crypto::hash::sha256(bytes);
        assert_eq!(found, vector::<32>(digest));
    }

    #[test]
    fn boxes_match_the_vectors() {
        let nonce = correlation().nonce();
        let command = sealed(&nonce, b"SEND T hi");
        is(&command, "forward_command_tag", "forward_command_sha256");
        // Trap 1.
        assert_eq!(nonce.reversed().0, vector("forward_answer_nonce"));
        let mut answer = sealed(&nonce.reversed(), b"OK");
        is(&answer, "forward_answer_tag", "forward_answer_sha256");

        let relayed = CorrelationId(vector("relay_corr_id")).nonce();
        let forward = Forward {
            version: 17,
            key: x25519::PublicKey::from_bytes(&vector("relay_sender_key")),
            sealed: &command,
        };
        let mut text = vec![0; 17_000];
        let mut writer = Writer::new(&mut text);
        correlation().encode(&mut writer);
        forward.encode(&mut writer);
        let used = writer.finish().unwrap();
        assert_eq!(decode_relayed(&text[..used]), Ok((correlation(), forward)));
        let mut outer = Vec::new();
        key().seal(&relayed, &text[..used], &mut outer);
        is(&outer, "relay_command_tag", "relay_command_sha256");
        let envelope = [&[24][..], &correlation().0, &answer].concat();
        let mut outer = Vec::new();
        key().seal(&relayed.reversed(), &envelope, &mut outer);
        is(&outer, "relay_answer_tag", "relay_answer_sha256");

        let text = open_box(&key(), &nonce.reversed(), &mut answer).unwrap();
        assert!(single(text).unwrap().ends_with(b"OK"));
    }

    #[test]
    fn the_largest_command_of_all_just_fits() {
        // Ed448 is the longest authorisation; from version 16 a marker follows it.
        let authorization = 1 + junto_crypto::ed448::SIGNATURE_BYTES + 1;
        let header = 25 + 25;
        let command = b"SEND T ".len() + crate::message::BODY_BYTES_MAX;
        assert_eq!(
            HEAD_BYTES + authorization + header + command,
            FORWARDED_BYTES
        );
    }
}
