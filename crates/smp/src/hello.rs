//! Hellos: the one plain block each way that opens a connection (reference §3.2).
//!
//! The server offers versions, the id of the TLS session, its certificate chain and a fresh X25519
//! key signed by the leaf certificate's key. The client answers with the version it chose, the
//! identity it expects, and usually an X25519 key of its own, which turns on block encryption
//! (trap 3). Both ignore bytes behind what they know: that is how the protocol grows.
//!
//! A client that is a service also shows its certificates and a key for this connection, signed by
//! the leaf among them, and waits for a third block ([`crate::service`]).

use junto_crypto::{ed448, ed25519, x25519};

use crate::{
    address::Fingerprint,
    block::{Block, SessionId, plain_block},
    encoding::{DecodeError, NoRoom, Reader, Writer},
    key::{decode_x25519, encode_x25519},
    service::ServiceHello,
    version::{Version, VersionRange},
};

/// Certificates in a chain, at least and at most: leaf, identity, and up to two above.
pub const CHAIN_LENGTH: core::ops::RangeInclusive<usize> = 2..=4;
/// DER bytes of a key inside the sequence that the leaf key signs (trap 5).
const SIGNED_BYTES: usize = 46;
const SIGNED_HEAD: [u8; 2] = [0x30, 0x2c];
const ED25519_ALGORITHM: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
const ED448_ALGORITHM: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x71];

/// The key of a server's leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafKey {
    /// What servers make today.
    Ed25519(ed25519::VerifyingKey),
    /// What older servers have.
    Ed448(Box<ed448::VerifyingKey>),
}

impl LeafKey {
    /// Reads DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for every other kind of key.
    pub fn from_spki(bytes: &[u8]) -> Result<Self, DecodeError> {
        ed25519::VerifyingKey::from_spki(bytes)
            .map(Self::Ed25519)
            .or_else(|_| ed448::VerifyingKey::from_spki(bytes).map(|k| Self::Ed448(Box::new(k))))
            .map_err(|_| DecodeError::Invalid("leaf key"))
    }
}

/// Signature of a leaf key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafSignature {
    /// By an Ed25519 leaf.
    Ed25519(ed25519::Signature),
    /// By an Ed448 leaf.
    Ed448(ed448::Signature),
}

/// A key for one connection, which a leaf certificate's key may sign.
pub trait HelloKey: Copy {
    /// DER `SubjectPublicKeyInfo`; both kinds of keys take 44 bytes.
    fn to_spki(&self) -> [u8; x25519::SPKI_BYTES];

    /// Reads what [`HelloKey::to_spki`] writes; `None` for anything else, and for weak keys.
    fn from_spki(bytes: &[u8]) -> Option<Self>;
}

/// Of a server.
impl HelloKey for x25519::PublicKey {
    fn to_spki(&self) -> [u8; x25519::SPKI_BYTES] {
        Self::to_spki(self)
    }

    fn from_spki(bytes: &[u8]) -> Option<Self> {
        Self::from_spki(bytes).ok()
    }
}

/// Of a service.
impl HelloKey for ed25519::VerifyingKey {
    fn to_spki(&self) -> [u8; ed25519::SPKI_BYTES] {
        Self::to_spki(self)
    }

    fn from_spki(bytes: &[u8]) -> Option<Self> {
        Self::from_spki(bytes).ok()
    }
}

/// A key signed by a leaf certificate's key, as DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedKey<K = x25519::PublicKey> {
    key: K,
    signature: LeafSignature,
}

impl<K: HelloKey> SignedKey<K> {
    /// Signs `key` with an Ed25519 leaf.
    #[must_use]
    pub fn sign(key: K, leaf: &ed25519::SigningKey) -> Self {
        let signature = LeafSignature::Ed25519(leaf.sign(&signed_bytes(&key)));
        Self { key, signature }
    }

    /// A key with a signature made elsewhere, over [`signed_bytes`].
    #[must_use]
    pub fn from_parts(key: K, signature: LeafSignature) -> Self {
        Self { key, signature }
    }

    /// The key, if the leaf signed it.
    ///
    /// # Errors
    /// [`HelloFault::Signature`].
    pub fn verify(&self, leaf: &LeafKey) -> Result<K, HelloFault> {
        let bytes = signed_bytes(&self.key);
        let valid = match (leaf, &self.signature) {
            (LeafKey::Ed25519(leaf), LeafSignature::Ed25519(signature)) => {
                leaf.verify(&bytes, signature).is_ok()
            }
            (LeafKey::Ed448(leaf), LeafSignature::Ed448(signature)) => {
                leaf.verify(&bytes, signature).is_ok()
            }
            _ => false,
        };
        if valid {
            Ok(self.key)
        } else {
            Err(HelloFault::Signature)
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer<'_>) {
        let (algorithm, signature) = match &self.signature {
            LeafSignature::Ed25519(s) => (ED25519_ALGORITHM, s.as_bytes().as_slice()),
            LeafSignature::Ed448(s) => (ED448_ALGORITHM, s.as_bytes().as_slice()),
        };
        // BIT STRING: tag, length, and a byte counting unused bits.
        let bits = u8::try_from(signature.len() + 1).unwrap_or(0);
        let length = SIGNED_BYTES + algorithm.len() + 2 + usize::from(bits);
        let body = u8::try_from(length).unwrap_or(0);
        // DER: lengths from 128 take a second byte.
        let head: &[u8] = if length < 128 {
            &[0x30, body]
        } else {
            &[0x30, 0x81, body]
        };
        writer.u16(u16::try_from(head.len() + length).unwrap_or(0));
        writer.bytes(head);
        writer.bytes(&signed_bytes(&self.key));
        writer.bytes(&algorithm);
        writer.bytes(&[0x03, bits, 0]);
        writer.bytes(signature);
    }

    /// Parses DER; there is one encoding per value.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn from_der(der: &[u8]) -> Result<Self, DecodeError> {
        const FIELD: &str = "signed key";
        let mut reader = Reader::new(der);
        reader.expect(0x30, FIELD)?;
        // Short form below 128, long form above: nothing else is DER.
        let first = reader.u8()?;
        let long = first == 0x81;
        let length = if long { reader.u8()? } else { first };
        if long == (length < 0x80) || reader.rest().len() != usize::from(length) {
            return Err(DecodeError::Invalid(FIELD));
        }
        if reader.array()? != SIGNED_HEAD {
            return Err(DecodeError::Invalid(FIELD));
        }
        let key =
            K::from_spki(reader.take(x25519::SPKI_BYTES)?).ok_or(DecodeError::Invalid(FIELD))?;
        let algorithm = reader.array()?;
        reader.expect(0x03, FIELD)?;
        let bits = usize::from(reader.u8()?);
        reader.expect(0, FIELD)?;
        let signature = reader.tail();
        if signature.len() + 1 != bits {
            return Err(DecodeError::Invalid(FIELD));
        }
        let signature = match algorithm {
            ED25519_ALGORITHM => signature.try_into().map(LeafSignature::Ed25519),
            ED448_ALGORITHM => signature.try_into().map(LeafSignature::Ed448),
            _ => return Err(DecodeError::Invalid(FIELD)),
        };
        let signature = signature.map_err(|_| DecodeError::Invalid(FIELD))?;
        Ok(Self { key, signature })
    }

    /// Its DER.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer);
        self.encode(&mut writer);
        let used = writer.finish().unwrap_or(0);
        // Without the 2-byte length in front, which belongs to the hello.
        buffer.get(2..used).unwrap_or_default().to_vec()
    }
}

/// The 46 bytes that a leaf key signs: a sequence around the key's `SubjectPublicKeyInfo`.
#[must_use]
pub fn signed_bytes(key: &impl HelloKey) -> [u8; SIGNED_BYTES] {
    let mut bytes = [0; SIGNED_BYTES];
    bytes[..2].copy_from_slice(&SIGNED_HEAD);
    bytes[2..].copy_from_slice(&key.to_spki());
    bytes
}

/// What a server says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello<'a> {
    /// Versions it speaks.
    pub versions: VersionRange,
    /// The TLS session as the server sees it.
    pub session: SessionId,
    /// Certificates as DER: leaf, identity, and up to two more.
    pub chain: Vec<&'a [u8]>,
    /// The server's key for this connection.
    pub signed_key: SignedKey,
}

impl<'a> ServerHello<'a> {
    /// Writes the block.
    ///
    /// # Errors
    /// [`NoRoom`] if the chain does not fit into a block.
    pub fn encode(&self, block: &mut Block) -> Result<(), NoRoom> {
        plain_block(block, |writer| {
            self.versions.encode(writer);
            writer.short(&self.session.0);
            encode_chain(&self.chain, writer);
            self.signed_key.encode(writer);
        })
    }

    /// Parses the text of the block.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(text: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(text);
        let versions = VersionRange::decode(&mut reader)?;
        let session = reader
            .short()?
            .try_into()
            .map(SessionId)
            .map_err(|_| DecodeError::Invalid("session id"))?;
        let chain = decode_chain(&mut reader, &CHAIN_LENGTH)?;
        let signed_key = SignedKey::from_der(reader.large()?)?;
        Ok(Self {
            versions,
            session,
            chain,
            signed_key,
        })
    }

    /// Checks the identity (always the second certificate, trap 4), the TLS session and the
    /// signature of the hello key.
    ///
    /// # Errors
    /// [`HelloFault::Identity`], [`HelloFault::Session`] or [`HelloFault::Signature`].
    pub fn verify(
        &self,
        session: &SessionId,
        identity: Fingerprint,
        leaf: &LeafKey,
    ) -> Result<x25519::PublicKey, HelloFault> {
        if self.session != *session {
            return Err(HelloFault::Session);
        }
        match self.chain.get(1) {
            Some(der) if Fingerprint::of_certificate(der) == identity => {}
            _ => return Err(HelloFault::Identity),
        }
        self.signed_key.verify(leaf)
    }
}

pub(crate) fn encode_chain(chain: &[&[u8]], writer: &mut Writer<'_>) {
    writer.u8(u8::try_from(chain.len()).unwrap_or(0));
    for certificate in chain {
        writer.large(certificate);
    }
}

pub(crate) fn decode_chain<'a>(
    reader: &mut Reader<'a>,
    length: &core::ops::RangeInclusive<usize>,
) -> Result<Vec<&'a [u8]>, DecodeError> {
    let count = usize::from(reader.u8()?);
    if !length.contains(&count) {
        return Err(DecodeError::Invalid("certificate chain"));
    }
    (0..count).map(|_| reader.large()).collect()
}

/// What a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The version to speak. Versions that we do not know are refused while parsing.
    pub version: Version,
    /// The identity that the client expects.
    pub identity: Fingerprint,
    /// The client's key for this connection; without it blocks are not encrypted.
    pub key: Option<x25519::PublicKey>,
    /// The client is a proxy: no block encryption either.
    pub proxy: bool,
    /// The client asks to act as a service (16 and later).
    pub service: Option<ServiceHello<'a>>,
}

impl<'a> ClientHello<'a> {
    /// Writes the block. What the version has no place for is left out.
    ///
    /// # Errors
    /// [`NoRoom`] if the certificates of a service do not fit into a block.
    pub fn encode(&self, block: &mut Block) -> Result<(), NoRoom> {
        plain_block(block, |writer| {
            writer.u16(self.version.number());
            writer.short(&self.identity.0);
            if let Some(key) = &self.key {
                encode_x25519(key, writer);
            }
            writer.bool(self.proxy);
            if self.version.has_services() {
                writer.maybe(self.service.as_ref(), |writer, service| {
                    service.encode(writer);
                });
            }
        })
    }

    /// Parses the text of the block. The key is optional and told from the boolean that follows
    /// by its length byte, 44.
    ///
    /// # Errors
    /// [`HelloFault::Version`] for a version outside `offered`, or [`HelloFault::Syntax`].
    pub fn decode(text: &'a [u8], offered: VersionRange) -> Result<Self, HelloFault> {
        let mut reader = Reader::new(text);
        let number = reader.u16()?;
        let version = Version::new(number)
            .filter(|_| offered.contains(number))
            .ok_or(HelloFault::Version)?;
        let identity = reader
            .short()?
            .try_into()
            .map(Fingerprint)
            .map_err(|_| HelloFault::Syntax)?;
        let key = match reader.rest().first() {
            Some(&44) => Some(decode_x25519(&mut reader)?),
            _ => None,
        };
        let proxy = reader.bool("proxy")?;
        let service = if version.has_services() {
            reader.maybe("service", ServiceHello::decode)?
        } else {
            None
        };
        Ok(Self {
            version,
            identity,
            key,
            proxy,
            service,
        })
    }
}

/// Why a hello is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloFault {
    /// It does not parse.
    #[error("hello does not parse")]
    Syntax,
    /// No common version.
    #[error("no common protocol version")]
    Version,
    /// The client expects another server, or the server is another one.
    #[error("server identity does not match")]
    Identity,
    /// The two sides are not in the same TLS session.
    #[error("hello belongs to another TLS session")]
    Session,
    /// The hello key is not signed by the leaf certificate, or is weak.
    #[error("hello key is not authentic")]
    Signature,
    /// What a service shows in its hello is not what it shows in TLS, or its key is not signed by
    /// that. A block with the refusal ([`crate::service::ServiceFault::Unauthentic`]) must be sent
    /// before closing.
    #[error("service is not authentic")]
    Service,
    /// The server does not let us be a service.
    #[error("refused as a service: {0}")]
    NoService(crate::service::ServiceFault),
}

impl From<DecodeError> for HelloFault {
    fn from(_: DecodeError) -> Self {
        Self::Syntax
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{new_block, unpad};

    fn key() -> x25519::PublicKey {
        x25519::SecretKey::from_bytes(&[5; 32]).public_key()
    }

    #[test]
    fn signed_keys_are_der_of_the_known_shape() {
        let leaf = ed25519::SigningKey::from_seed(&[1; 32]);
        let signed = SignedKey::sign(key(), &leaf);
        let der = signed.to_der();
        assert_eq!(der.len(), 122);
        assert_eq!(der[..4], [0x30, 0x78, 0x30, 0x2c]);
        assert_eq!(SignedKey::from_der(&der), Ok(signed));
        let public = LeafKey::Ed25519(leaf.verifying_key());
        assert_eq!(signed.verify(&public), Ok(key()));
        for position in 0..der.len() {
            let mut changed = der.clone();
            changed[position] ^= 1;
            let verified = SignedKey::<x25519::PublicKey>::from_der(&changed)
                .map(|signed| signed.verify(&public));
            assert!(!matches!(verified, Ok(Ok(_))), "byte {position}");
        }
        let other = ed25519::SigningKey::from_seed(&[2; 32]).verifying_key();
        assert_eq!(
            signed.verify(&LeafKey::Ed25519(other)),
            Err(HelloFault::Signature)
        );
    }

    #[test]
    fn ed448_leaves_are_accepted() {
        let leaf =
            ed448_goldilocks::SigningKey::from(ed448_goldilocks::EdwardsScalarBytes::from([3; 57]));
        let signature = leaf.sign_raw(&signed_bytes(&key())).to_bytes();
        let signature = LeafSignature::Ed448(ed448::Signature(signature));
        let signed = SignedKey::from_parts(key(), signature);
        let der = signed.to_der();
        assert_eq!(der[..6], [0x30, 0x81, 0xaa, 0x30, 0x2c, 0x30]);
        assert_eq!(SignedKey::from_der(&der), Ok(signed));
        let public = leaf.verifying_key().to_bytes();
        let public = ed448::VerifyingKey::from_bytes(&public).unwrap();
        let public = LeafKey::Ed448(Box::new(public));
        assert_eq!(signed.verify(&public), Ok(key()));
    }

    #[test]
    fn long_form_of_a_short_length_is_not_der() {
        let leaf = ed25519::SigningKey::from_seed(&[1; 32]);
        let der = SignedKey::sign(key(), &leaf).to_der();
        let mut long = vec![0x30, 0x81, 0x78];
        long.extend_from_slice(&der[2..]);
        assert!(SignedKey::<x25519::PublicKey>::from_der(&long).is_err());
    }

    #[test]
    fn client_hello_of_version_18_matches_the_observed_form() {
        let hello = ClientHello {
            version: Version::new(18).unwrap(),
            identity: Fingerprint([9; 32]),
            key: Some(key()),
            proxy: false,
            service: None,
        };
        let mut block = new_block();
        hello.encode(&mut block).unwrap();
        let text = unpad(block.as_mut_slice()).unwrap();
        // Seen from a genuine client: version, pin, 44-byte key, then `F0`.
        assert_eq!(text[..3], [0, 18, 32]);
        assert_eq!(text[35], 44);
        assert_eq!(text[80..], *b"F0");
    }

    #[test]
    fn hellos_survive_a_round_trip_and_ignore_what_follows() {
        for version in Version::ALL {
            for (hello_key, proxy) in [(Some(key()), false), (None, false), (Some(key()), true)] {
                let hello = ClientHello {
                    version,
                    identity: Fingerprint([9; 32]),
                    key: hello_key,
                    proxy,
                    service: None,
                };
                let mut block = new_block();
                hello.encode(&mut block).unwrap();
                let mut text = unpad(block.as_mut_slice()).unwrap().to_vec();
                let offered = VersionRange::SUPPORTED;
                assert_eq!(ClientHello::decode(&text, offered), Ok(hello.clone()));
                text.extend_from_slice(b"later versions");
                assert_eq!(ClientHello::decode(&text, offered), Ok(hello));
                let none = VersionRange::new(21, 22).unwrap();
                assert_eq!(ClientHello::decode(&text, none), Err(HelloFault::Version));
            }
        }
    }

    #[test]
    fn server_hello_is_verified() {
        let leaf = ed25519::SigningKey::from_seed(&[1; 32]);
        let public = LeafKey::Ed25519(leaf.verifying_key());
        let (session, chain) = (SessionId([4; 32]), vec![b"leaf".as_slice(), b"identity"]);
        let hello = ServerHello {
            versions: VersionRange::SUPPORTED,
            session,
            chain,
            signed_key: SignedKey::sign(key(), &leaf),
        };
        let mut block = new_block();
        hello.encode(&mut block).unwrap();
        let mut text = unpad(block.as_mut_slice()).unwrap().to_vec();
        text.push(0);
        let decoded = ServerHello::decode(&text).unwrap();
        assert_eq!(decoded, hello);
        let identity = Fingerprint::of_certificate(b"identity");
        assert_eq!(decoded.verify(&session, identity, &public), Ok(key()));
        assert_eq!(
            decoded.verify(&SessionId([5; 32]), identity, &public),
            Err(HelloFault::Session)
        );
        let leaf_pin = Fingerprint::of_certificate(b"leaf");
        assert_eq!(
            decoded.verify(&session, leaf_pin, &public),
            Err(HelloFault::Identity)
        );
    }

    #[test]
    fn chains_have_two_to_four_certificates() {
        let leaf = ed25519::SigningKey::from_seed(&[1; 32]);
        for count in [0, 1, 2, 4, 5] {
            let hello = ServerHello {
                versions: VersionRange::SUPPORTED,
                session: SessionId([4; 32]),
                chain: vec![b"certificate".as_slice(); count],
                signed_key: SignedKey::sign(key(), &leaf),
            };
            let mut block = new_block();
            hello.encode(&mut block).unwrap();
            let text = unpad(block.as_mut_slice()).unwrap();
            assert_eq!(
                ServerHello::decode(text).is_ok(),
                CHAIN_LENGTH.contains(&count)
            );
        }
    }
}
