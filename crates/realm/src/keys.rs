//! Whom a channel leads to: TLS 1.3 by raw Ed25519 keys (RFC 7250), made anew at every start.
//!
//! | what | value | why |
//! |---|---|---|
//! | groups | X25519MLKEM768 only | what is recorded today stays secret from a quantum computer; both ends are ours |
//! | certificates | none: the key itself is the name | nothing to parse, nothing that outlives the process |
//! | tickets, resumption, early data | off | nothing of a channel outlives it |

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use junto_crypto::{
    Zeroizing,
    ed25519::{KEY_BYTES, Signature, SigningKey, VerifyingKey},
};
use junto_vault::ReplicaId;
use rand_core::CryptoRng;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    ServerConfig, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite, kx_group, sign::any_eddsa_type},
    },
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};

use crate::Name;

/// PKCS #8 version 1 of an Ed25519 key, up to its seed.
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// The key with which a replica was born. Its public half is the replica's name; it is never stored.
pub struct BootKey(pub(crate) SigningKey);

impl BootKey {
    /// For one start of one replica.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(SigningKey::generate(rng))
    }

    /// The name of who has it.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        ReplicaId(*self.0.verifying_key().as_bytes())
    }

    fn certified(&self) -> Result<Arc<CertifiedKey>, Error> {
        let mut der = Zeroizing::new([0; PKCS8.len() + KEY_BYTES]);
        der[..PKCS8.len()].copy_from_slice(&PKCS8);
        der[PKCS8.len()..].copy_from_slice(self.0.seed());
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))?;
        let spki = self.0.verifying_key().to_spki().to_vec();
        Ok(Arc::new(CertifiedKey::new(vec![spki.into()], key)))
    }
}

/// The settings of a member of a group, and those with which clients are served.
#[derive(Clone)]
pub(crate) struct MemberTls {
    key: Arc<CertifiedKey>,
    pub(crate) peers: Arc<ServerConfig>,
    pub(crate) clients: Arc<ServerConfig>,
}

impl MemberTls {
    pub(crate) fn new(key: &BootKey, members: &[Name]) -> Result<Self, Error> {
        let key = key.certified()?;
        let server =
            || ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let shown = || Arc::new(AlwaysResolvesServerRawPublicKeys::new(key.clone()));
        let wanted = Arc::new(Known(Some(members.to_vec())));
        let peers = server()?.with_client_cert_verifier(wanted);
        Ok(Self {
            peers: Arc::new(narrow(peers.with_cert_resolver(shown()))),
            clients: Arc::new(narrow(
                server()?.with_no_client_auth().with_cert_resolver(shown()),
            )),
            key,
        })
    }

    /// To reach one member.
    pub(crate) fn to(&self, member: Name) -> Result<Arc<ClientConfig>, Error> {
        let shown = AlwaysResolvesClientRawPublicKeys::new(self.key.clone());
        client(Known(Some(vec![member])), Some(Arc::new(shown)))
    }
}

fn narrow(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

/// For clients: whoever answers, since only what it says then tells whether its key counts ([`crate::Card`]).
pub(crate) fn anybody() -> Result<Arc<ClientConfig>, Error> {
    client(Known(None), None)
}

fn client(
    known: Known,
    shown: Option<Arc<AlwaysResolvesClientRawPublicKeys>>,
) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(known));
    let mut config = match shown {
        Some(shown) => config.with_client_cert_resolver(shown),
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// No host name is sent or checked.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(core::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Who is at the other end of a channel whose handshake is done.
pub(crate) fn peer(connection: &CommonState) -> Option<Name> {
    match connection.peer_certificates()? {
        [key] => name(key).ok(),
        _ => None,
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
        provider.kx_groups = vec![kx_group::X25519MLKEM768];
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

fn key(spki: &[u8]) -> Result<VerifyingKey, Error> {
    let unusable = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
    VerifyingKey::from_spki(spki).map_err(unusable)
}

fn name(spki: &[u8]) -> Result<Name, Error> {
    key(spki).map(|key| Name(*key.as_bytes()))
}

/// Accepts these keys; all, if none are named.
struct Known(Option<Vec<Name>>);

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    fn check(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let name = name(key)?;
        let known = self.0.as_ref().is_none_or(|known| known.contains(&name));
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        (known && more.is_empty()).then_some(()).ok_or(unknown)
    }
}

fn signed(
    message: &[u8],
    spki: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadSignature);
    let bytes = signature.signature().try_into().map_err(|_| bad())?;
    let right = signature.scheme == SignatureScheme::ED25519
        && key(spki)?.verify(message, &Signature(bytes)).is_ok();
    right
        .then(HandshakeSignatureValid::assertion)
        .ok_or_else(bad)
}

fn never_12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(key, more)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(key, more)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        never_12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
