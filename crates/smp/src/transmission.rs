//! Transmissions: one command or answer with its authorisation, correlation id and entity
//! (reference §3.4).

use junto_crypto::{
    authenticator::{self, AUTHENTICATOR_BYTES},
    ed448, ed25519,
    secretbox::BoxKey,
    x25519,
};
use std::sync::LazyLock;

use crate::{
    address::Fingerprint,
    block::SessionId,
    encoding::{DecodeError, Reader, Writer},
    id::{CorrelationId, Entity},
    key::AuthKey,
    version::Version,
};

/// Bytes of the session id as short string: what precedes a transmission in the authorised bytes.
const PREFIX_BYTES: usize = 1 + 32;
/// Bytes of the fingerprint of a service, which precedes them for the key of the queue.
const FINGERPRINT_BYTES: usize = 32;

/// Proof that the sender of a command holds a key, as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// None.
    None,
    /// Ed25519 signature.
    Ed25519(ed25519::Signature),
    /// Ed448 signature.
    Ed448(ed448::Signature),
    /// Deniable authenticator under X25519.
    Authenticator([u8; AUTHENTICATOR_BYTES]),
}

impl Authorization {
    /// The kind follows from the length alone. `None` for any other length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            0 => Some(Self::None),
            ed25519::SIGNATURE_BYTES => bytes.try_into().ok().map(Self::Ed25519),
            ed448::SIGNATURE_BYTES => bytes.try_into().ok().map(Self::Ed448),
            AUTHENTICATOR_BYTES => bytes.try_into().ok().map(Self::Authenticator),
            _ => None,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

/// A received transmission, parsed up to its command or answer.
#[derive(Clone, Debug)]
pub struct Transmission<'b> {
    /// Authorisation of the command; always none in answers.
    pub authorization: Authorization,
    /// The signature of a service that follows the authorisation.
    pub service_signature: Option<ed25519::Signature>,
    /// Absent in server events.
    pub correlation: Option<CorrelationId>,
    /// The entity.
    pub entity: Entity<'b>,
    /// The command or answer, unparsed.
    pub content: &'b [u8],
    /// What a service signs, and an authorisation covers: session id and the transmission after the
    /// authorisation.
    authorised: &'b [u8],
    /// What an authorisation covers beside the signature of a service: its fingerprint in front.
    with_service: Option<&'b [u8]>,
}

/// A transmission that does not parse: the answer is `ERR BLOCK`, with the correlation id if that
/// much could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transmission does not parse")]
pub struct TransmissionFault {
    /// Correlation id for the answer.
    pub correlation: Option<CorrelationId>,
}

const NO_CORRELATION: TransmissionFault = TransmissionFault { correlation: None };

impl From<DecodeError> for TransmissionFault {
    fn from(_: DecodeError) -> Self {
        NO_CORRELATION
    }
}

impl<'b> Transmission<'b> {
    /// Parses the bytes of one transmission.
    ///
    /// The authorised bytes begin with the session id, which is not sent. It is written over the
    /// end of the authorisation, which lies in front of them and is at least 64 bytes long, so the
    /// up to 16 KiB that follow need no copy.
    ///
    /// # Errors
    /// [`TransmissionFault`].
    pub fn decode(
        bytes: &'b mut [u8],
        version: Version,
        session: &SessionId,
    ) -> Result<Self, TransmissionFault> {
        Self::decode_of(bytes, version, session, None)
    }

    /// As [`Transmission::decode`], on the connection of a service. What the queue's key covers then
    /// begins with the fingerprint of the service, for which the signature of the service leaves
    /// room.
    ///
    /// # Errors
    /// [`TransmissionFault`].
    pub fn decode_of(
        bytes: &'b mut [u8],
        version: Version,
        session: &SessionId,
        service: Option<&Fingerprint>,
    ) -> Result<Self, TransmissionFault> {
        let mut reader = Reader::new(bytes);
        let authorization = reader.short()?;
        let service_signature = if version.has_services() && !authorization.is_empty() {
            reader.maybe("service signature", service_signature)?
        } else {
            None
        };
        let authorization = Authorization::from_bytes(authorization);
        let start = bytes.len() - reader.rest().len();
        // Authorisations of impossible length still tell whom to answer.
        let Some(authorization) = authorization else {
            let correlation = decode_correlation(&mut reader)?;
            return Err(TransmissionFault { correlation });
        };
        if !authorization.is_none() {
            let prefix = start.checked_sub(PREFIX_BYTES).ok_or(NO_CORRELATION)?;
            write_prefix(&mut bytes[prefix..start], session);
        }
        let whole = start.checked_sub(PREFIX_BYTES + FINGERPRINT_BYTES);
        let with_service = match (service, whole.filter(|_| service_signature.is_some())) {
            (Some(service), Some(whole)) => {
                bytes[whole..whole + FINGERPRINT_BYTES].copy_from_slice(&service.0);
                Some(whole)
            }
            _ => None,
        };
        let bytes: &'b [u8] = bytes;
        let mut reader = Reader::new(&bytes[start..]);
        Ok(Self {
            service_signature,
            with_service: with_service.map(|whole| &bytes[whole..]),
            correlation: decode_correlation(&mut reader)?,
            entity: Entity::from_bytes(reader.short()?),
            content: reader.rest(),
            authorised: if authorization.is_none() {
                &[]
            } else {
                &bytes[start - PREFIX_BYTES..]
            },
            authorization,
        })
    }

    /// The bytes that the authorisation covers; empty if there is none.
    #[must_use]
    pub fn authorised(&self) -> &'b [u8] {
        self.authorised
    }
}

fn service_signature(reader: &mut Reader<'_>) -> Result<ed25519::Signature, DecodeError> {
    ed25519::Signature::try_from(reader.short()?)
        .map_err(|_| DecodeError::Invalid("service signature"))
}

fn write_prefix(room: &mut [u8], session: &SessionId) {
    if let Some((length, rest)) = room.split_first_mut() {
        *length = 32;
        rest.copy_from_slice(&session.0);
    }
}

fn decode_correlation(reader: &mut Reader<'_>) -> Result<Option<CorrelationId>, DecodeError> {
    match reader.short()? {
        [] => Ok(None),
        bytes => CorrelationId::try_from(bytes).map(Some),
    }
}

/// Writes correlation id and entity, which precede every command and answer.
pub(crate) fn encode_header(
    writer: &mut Writer<'_>,
    correlation: Option<&CorrelationId>,
    entity: Entity<'_>,
) {
    match correlation {
        Some(id) => id.encode(writer),
        None => writer.u8(0),
    }
    writer.short(entity.as_bytes());
}

/// Where a client's authorisation comes from.
pub(crate) enum Authoriser<'k> {
    /// No authorisation.
    None,
    /// An Ed25519 signature.
    Ed25519(&'k ed25519::SigningKey),
    /// A deniable authenticator: the key agreed between the queue's key and the server's hello key.
    Authenticator(BoxKey),
}

/// What a service signs its commands with, on one connection.
pub(crate) struct ServiceSigner {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) key: ed25519::SigningKey,
}

/// Marker, length and signature of a service.
const SERVICE_SIGNATURE_BYTES: usize = 2 + ed25519::SIGNATURE_BYTES;

impl Authoriser<'_> {
    fn bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Ed25519(_) => ed25519::SIGNATURE_BYTES,
            Self::Authenticator(_) => AUTHENTICATOR_BYTES,
        }
    }

    /// Writes a whole command transmission into `room` and returns its length. The mirror image of
    /// [`Transmission::decode`]: the session id stands in the place of the authorisation while that
    /// is computed.
    pub(crate) fn encode(
        &self,
        room: &mut [u8],
        version: Version,
        session: &SessionId,
        correlation: &CorrelationId,
        entity: Entity<'_>,
        content: impl FnOnce(&mut Writer<'_>),
    ) -> Result<usize, crate::encoding::NoRoom> {
        self.encode_of(room, version, session, correlation, entity, None, content)
    }

    /// As [`Authoriser::encode`], with the signature of a service as well.
    #[allow(clippy::too_many_arguments)] // Each of them is a part of the transmission.
    pub(crate) fn encode_of(
        &self,
        room: &mut [u8],
        version: Version,
        session: &SessionId,
        correlation: &CorrelationId,
        entity: Entity<'_>,
        service: Option<&ServiceSigner>,
        content: impl FnOnce(&mut Writer<'_>),
    ) -> Result<usize, crate::encoding::NoRoom> {
        let length = self.bytes();
        let service = service.filter(|_| length > 0 && version.has_services());
        let marker = match service {
            Some(_) => SERVICE_SIGNATURE_BYTES,
            None => usize::from(length > 0 && version.has_services()),
        };
        let start = 1 + length + marker;
        let (head, body) = room
            .split_at_mut_checked(start)
            .ok_or(crate::encoding::NoRoom)?;
        let mut writer = Writer::new(body);
        encode_header(&mut writer, Some(correlation), entity);
        content(&mut writer);
        let end = start + writer.finish()?;
        if length > 0 {
            write_prefix(&mut head[start - PREFIX_BYTES..], session);
            let mut covered = start - PREFIX_BYTES;
            let signed = service.map(|service| service.key.sign(&room[covered..end]));
            if let Some(service) = service {
                covered -= FINGERPRINT_BYTES;
                room[covered..][..FINGERPRINT_BYTES].copy_from_slice(&service.fingerprint.0);
            }
            let authorised = &room[covered..end];
            let nonce = correlation.nonce();
            match self {
                Self::None => {}
                Self::Ed25519(key) => {
                    let signature = key.sign(authorised);
                    room[1..=length].copy_from_slice(signature.as_bytes());
                }
                Self::Authenticator(key) => {
                    let made = authenticator::make(key, &nonce, authorised);
                    room[1..=length].copy_from_slice(&made);
                }
            }
            match (signed, room.get_mut(1 + length..start)) {
                (Some(signature), Some([marker, bytes, rest @ ..])) => {
                    (*marker, *bytes) = (b'1', 64);
                    rest.copy_from_slice(signature.as_bytes());
                }
                (None, Some([marker])) => *marker = b'0',
                _ => {}
            }
        }
        room[0] = u8::try_from(length).unwrap_or(0);
        Ok(end)
    }
}

/// Keys nobody holds, for verifying commands to queues that do not exist.
struct DummyKeys {
    ed25519: ed25519::VerifyingKey,
    ed448: Option<ed448::VerifyingKey>,
    x25519: x25519::PublicKey,
}

/// Any point on the curve will do: the public key of RFC 8032 §7.4, first test.
const DUMMY_ED448: [u8; 57] = [
    0x5f, 0xd7, 0x44, 0x9b, 0x59, 0xb4, 0x61, 0xfd, 0x2c, 0xe7, 0x87, 0xec, 0x61, 0x6a, 0xd4, 0x6a,
    0x1d, 0xa1, 0x34, 0x24, 0x85, 0xa7, 0x0e, 0x1f, 0x8a, 0x0e, 0xa7, 0x5d, 0x80, 0xe9, 0x67, 0x78,
    0xed, 0xf1, 0x24, 0x76, 0x9b, 0x46, 0xc7, 0x06, 0x1b, 0xd6, 0x78, 0x3d, 0xf1, 0xe5, 0x0f, 0x6c,
    0xd1, 0xfa, 0x1a, 0xbe, 0xaf, 0xe8, 0x25, 0x61, 0x80,
];

static DUMMY_KEYS: LazyLock<DummyKeys> = LazyLock::new(|| DummyKeys {
    ed25519: ed25519::SigningKey::from_seed(&[0x4a; 32]).verifying_key(),
    ed448: ed448::VerifyingKey::from_bytes(&DUMMY_ED448).ok(),
    x25519: x25519::SecretKey::from_bytes(&[0x4a; 32]).public_key(),
});

/// Verifies the authorisation of `transmission` under `key`, or, with `None`, does the same work
/// against a key nobody holds and says no.
///
/// The work depends on the *kind of authorisation received* only, never on whether the queue
/// exists or which kind of key it has (reference §3.4): a key of another kind is replaced by a
/// dummy of the received kind.
///
/// `hello` is the server's hello key of this connection.
#[must_use]
pub fn verify(
    transmission: &Transmission<'_>,
    key: Option<&AuthKey>,
    hello: &x25519::SecretKey,
) -> bool {
    let authorised = transmission.with_service.unwrap_or(transmission.authorised);
    match &transmission.authorization {
        Authorization::None => false,
        Authorization::Ed25519(signature) => {
            let (key, real) = match key {
                Some(AuthKey::Ed25519(key)) => (key, true),
                _ => (&DUMMY_KEYS.ed25519, false),
            };
            key.verify(authorised, signature).is_ok() && real
        }
        Authorization::Ed448(signature) => {
            let (key, real) = match key {
                Some(AuthKey::Ed448(key)) => (Some(&**key), true),
                _ => (DUMMY_KEYS.ed448.as_ref(), false),
            };
            key.is_some_and(|key| key.verify(authorised, signature).is_ok()) && real
        }
        Authorization::Authenticator(bytes) => {
            let (key, real) = match key {
                Some(AuthKey::X25519(key)) => (key, true),
                _ => (&DUMMY_KEYS.x25519, false),
            };
            let (Ok(shared), Some(correlation)) =
                (hello.diffie_hellman(key), transmission.correlation)
            else {
                return false;
            };
            let key = BoxKey::from_shared(&shared);
            authenticator::verify(&key, &correlation.nonce(), authorised, bytes).is_ok() && real
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../../vectors/simplex-primitives.txt");

    fn vector<const N: usize>(name: &str) -> [u8; N] {
        let mut lines = VECTORS.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(key, _)| *key == name).unwrap();
        hex::decode(value).unwrap().try_into().unwrap()
    }

    fn version(number: u16) -> Version {
        Version::new(number).unwrap()
    }

    /// The transmission of the authenticator vector, at a version.
    fn encoded(authoriser: &Authoriser<'_>, version: Version) -> Vec<u8> {
        let mut entity = [0; 24];
        for (byte, value) in entity.iter_mut().zip(0x64..) {
            *byte = value;
        }
        let mut room = [0; 256];
        let used = authoriser
            .encode(
                &mut room,
                version,
                &SessionId(vector("chain_salt")),
                &CorrelationId(vector("sender_corr_id")),
                Entity::Queue(&entity),
                |writer| writer.bytes(b"SEND T hi"),
            )
            .unwrap();
        room[..used].to_vec()
    }

    #[test]
    fn authenticator_matches_the_vector() {
        let queue_key = x25519::SecretKey::from_bytes(&vector("x25519_secret_a"));
        let hello_key = x25519::SecretKey::from_bytes(&vector("x25519_secret_b"));
        let shared = queue_key.diffie_hellman(&hello_key.public_key()).unwrap();
        let authoriser = Authoriser::Authenticator(BoxKey::from_shared(&shared));
        for number in 15..=20 {
            let mut bytes = encoded(&authoriser, version(number));
            assert_eq!(bytes[0], 80);
            assert_eq!(bytes[1..81], vector::<80>("authenticator"));
            // Trap 2: a marker follows every authorisation from version 16 on.
            assert_eq!(bytes[81], if number < 16 { 24 } else { b'0' });
            let session = SessionId(vector("chain_salt"));
            let parsed = Transmission::decode(&mut bytes, version(number), &session).unwrap();
            assert_eq!(
                parsed.authorised(),
                hex::decode(
                    VECTORS
                        .lines()
                        .find_map(|line| line.strip_prefix("authenticator_bytes "))
                        .unwrap()
                )
                .unwrap()
            );
            assert_eq!(parsed.content, b"SEND T hi");
            let key = AuthKey::X25519(queue_key.public_key());
            assert!(verify(&parsed, Some(&key), &hello_key));
            let wrong = AuthKey::X25519(hello_key.public_key());
            assert!(!verify(&parsed, Some(&wrong), &hello_key));
            assert!(!verify(&parsed, None, &hello_key));
        }
    }

    #[test]
    fn signatures_are_bound_to_the_session() {
        let key = ed25519::SigningKey::from_seed(&[1; 32]);
        let public = AuthKey::Ed25519(key.verifying_key());
        let hello_key = x25519::SecretKey::from_bytes(&[2; 32]);
        let mut bytes = encoded(&Authoriser::Ed25519(&key), version(18));
        let session = SessionId(vector("chain_salt"));
        let mut again = bytes.clone();
        let parsed = Transmission::decode(&mut bytes, version(18), &session).unwrap();
        assert!(verify(&parsed, Some(&public), &hello_key));
        let other = SessionId([9; 32]);
        let parsed = Transmission::decode(&mut again, version(18), &other).unwrap();
        assert!(!verify(&parsed, Some(&public), &hello_key));
    }

    #[test]
    fn without_authorisation_there_is_no_marker() {
        let mut bytes = encoded(&Authoriser::None, version(20));
        assert_eq!(bytes[..2], [0, 24]);
        let parsed = Transmission::decode(&mut bytes, version(20), &SessionId([0; 32])).unwrap();
        assert!(parsed.authorization.is_none());
        assert!(parsed.authorised().is_empty());
        assert!(!verify(
            &parsed,
            None,
            &x25519::SecretKey::from_bytes(&[2; 32])
        ));
    }

    #[test]
    fn odd_transmissions_are_refused() {
        let session = SessionId([0; 32]);
        let decode = |mut bytes: Vec<u8>| {
            Transmission::decode(&mut bytes, version(18), &session)
                .map(|t| (t.service_signature.is_some(), t.correlation.is_some()))
                .map_err(|fault| fault.correlation)
        };
        let corr = CorrelationId([7; 24]);
        let header = |auth: usize, marker: &[u8]| {
            let mut bytes = vec![u8::try_from(auth).unwrap()];
            bytes.resize(1 + auth, 1);
            bytes.extend_from_slice(marker);
            bytes.push(24);
            bytes.extend_from_slice(&corr.0);
            bytes.push(0);
            bytes.extend_from_slice(b"PING");
            bytes
        };
        assert_eq!(decode(header(64, b"0")), Ok((false, true)));
        assert_eq!(decode(header(0, b"")), Ok((false, true)));
        // A length that no authorisation has: the answer can still name the command.
        assert_eq!(decode(header(63, b"0")), Err(Some(corr)));
        assert_eq!(decode(header(64, b"2")), Err(None));
        assert_eq!(decode(header(64, b"")), Err(None));
        let mut service = vec![b'1', 64];
        service.resize(66, 0);
        assert_eq!(decode(header(64, &service)), Ok((true, true)));
        assert_eq!(decode(vec![]), Err(None));
        assert_eq!(decode(vec![0, 23]), Err(None));
    }

    #[test]
    fn a_service_signs_the_usual_bytes_and_the_queue_its_fingerprint_too() {
        let signer = ServiceSigner {
            fingerprint: Fingerprint([3; 32]),
            key: ed25519::SigningKey::from_seed(&[4; 32]),
        };
        let hello_key = x25519::SecretKey::from_bytes(&[2; 32]);
        let session = SessionId([5; 32]);
        let signing = ed25519::SigningKey::from_seed(&[1; 32]);
        let agreed = x25519::SecretKey::from_bytes(&[6; 32]);
        let shared = agreed.diffie_hellman(&hello_key.public_key()).unwrap();
        for (authoriser, key) in [
            (
                Authoriser::Ed25519(&signing),
                AuthKey::Ed25519(signing.verifying_key()),
            ),
            (
                Authoriser::Authenticator(BoxKey::from_shared(&shared)),
                AuthKey::X25519(agreed.public_key()),
            ),
        ] {
            let mut room = [0; 512];
            let used = authoriser
                .encode_of(
                    &mut room,
                    version(19),
                    &session,
                    &CorrelationId([7; 24]),
                    Entity::Queue(&[8; 24]),
                    Some(&signer),
                    |writer| writer.bytes(b"SUB"),
                )
                .unwrap();
            let sent = &room[..used];
            let decode = |bytes: &mut [u8], service: Option<Fingerprint>| {
                let t = Transmission::decode_of(bytes, version(19), &session, service.as_ref());
                let t = t.unwrap();
                assert_eq!(t.content, b"SUB");
                let signature = t.service_signature.unwrap();
                let signed = signer
                    .key
                    .verifying_key()
                    .verify(t.authorised(), &signature);
                (signed.is_ok(), verify(&t, Some(&key), &hello_key))
            };
            let right = decode(&mut sent.to_vec(), Some(signer.fingerprint));
            assert_eq!(right, (true, true));
            let other = decode(&mut sent.to_vec(), Some(Fingerprint([9; 32])));
            assert_eq!(other, (true, false), "another service in its place");
            let none = decode(&mut sent.to_vec(), None);
            assert_eq!(none, (true, false), "no service in its place");
        }
    }

    #[test]
    fn dummy_keys_exist() {
        assert!(DUMMY_KEYS.ed448.is_some());
    }
}
