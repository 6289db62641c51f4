//! TLS 1.3 between two ends of ours that name each other by raw Ed25519 keys (RFC 7250), made anew for each run or start.
//!
//! | what | value | why |
//! |---|---|---|
//! | groups | X25519MLKEM768 only | what is recorded today stays secret from a quantum computer; both ends are ours |
//! | certificates | none: the key itself is the name | nothing to parse, nothing that outlives the process |
//! | tickets, resumption, early data | off | nothing of a connection outlives it |
//! | SNI | not sent | keys are told beforehand, or judged afterwards |

use core::fmt;
use std::sync::Arc;

use junto_crypto::ed25519::{KEY_BYTES, Signature, SigningKey, VerifyingKey};
use junto_crypto::{CryptoRng, Zeroizing};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme, SupportedCipherSuite,
};

/// PKCS #8 version 1 of an Ed25519 key, up to its seed.
const PKCS8: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";

/// A public key: the name of one end.
pub type RawKey = [u8; KEY_BYTES];

/// Whether the other end may be the one with that key.
pub type Admits = Arc<dyn Fn(&RawKey) -> bool + Send + Sync>;

/// One end, as it shows itself. Cheap to clone.
#[derive(Clone)]
pub struct RawIdentity {
    key: RawKey,
    certified: Arc<CertifiedKey>,
}

impl RawIdentity {
    /// With this key.
    ///
    /// # Errors
    /// None that an input can cause; the type is rustls's.
    pub fn new(key: &SigningKey) -> Result<Self, Error> {
        let mut der = Zeroizing::new([0; PKCS8.len() + KEY_BYTES]);
        der[..PKCS8.len()].copy_from_slice(&PKCS8);
        der[PKCS8.len()..].copy_from_slice(key.seed());
        let public = key.verifying_key();
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))?;
        let spki = public.to_spki().to_vec();
        Ok(Self {
            key: *public.as_bytes(),
            certified: Arc::new(CertifiedKey::new(vec![spki.into()], signing)),
        })
    }

    /// With a new key, which nobody else ever sees.
    ///
    /// # Errors
    /// As [`RawIdentity::new`].
    pub fn generate(rng: &mut impl CryptoRng) -> Result<Self, Error> {
        Self::new(&SigningKey::generate(rng))
    }

    /// By which others know it.
    #[must_use]
    pub const fn key(&self) -> &RawKey {
        &self.key
    }
}

/// Settings of both roles, with the cipher suites of one protocol.
#[derive(Clone)]
pub struct RawTls {
    provider: Arc<CryptoProvider>,
}

impl RawTls {
    /// The best suite first.
    #[must_use]
    pub fn new(suites: Vec<SupportedCipherSuite>) -> Self {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: suites,
            kx_groups: vec![kx_group::X25519MLKEM768],
            ..aws_lc_rs::default_provider()
        });
        Self { provider }
    }

    /// For those who come: who has one of the keys that `clients` admits. With `None` they show none.
    ///
    /// # Errors
    /// None that an input can cause; the type is rustls's.
    pub fn server(
        &self,
        own: &RawIdentity,
        clients: Option<Admits>,
    ) -> Result<ServerConfig, Error> {
        let config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?;
        let config = match clients {
            Some(admits) => config.with_client_cert_verifier(Arc::new(Verifier(admits))),
            None => config.with_no_client_auth(),
        };
        let shown = AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&own.certified));
        let mut config = config.with_cert_resolver(Arc::new(shown));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// To reach who has one of the keys that `server` admits. With `own` of `None` no key is shown.
    ///
    /// # Errors
    /// None that an input can cause; the type is rustls's.
    pub fn client(&self, own: Option<&RawIdentity>, server: Admits) -> Result<ClientConfig, Error> {
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier(server)));
        let mut config = match own {
            Some(own) => {
                let shown = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&own.certified));
                config.with_client_cert_resolver(Arc::new(shown))
            }
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

/// The key that the other end of a connection has shown and proved to have, by its "certificates" there.
#[must_use]
pub fn key_of(shown: &[CertificateDer<'_>]) -> Option<RawKey> {
    match shown {
        [one] => decoded(one).ok().map(|key| *key.as_bytes()),
        _ => None,
    }
}

fn decoded(spki: &[u8]) -> Result<VerifyingKey, Error> {
    VerifyingKey::from_spki(spki).map_err(|_| CertificateError::BadEncoding.into())
}

struct Verifier(Admits);

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Verifier")
    }
}

impl Verifier {
    fn check(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let admitted = (self.0)(decoded(shown)?.as_bytes());
        let unknown = CertificateError::UnknownIssuer.into();
        (admitted && more.is_empty()).then_some(()).ok_or(unknown)
    }
}

fn check_signature(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let bad = || Error::from(CertificateError::BadSignature);
    let bytes = signed.signature().try_into().map_err(|_| bad())?;
    let is_right = signed.scheme == SignatureScheme::ED25519
        && decoded(shown)?.verify(message, &Signature(bytes)).is_ok();
    is_right
        .then(HandshakeSignatureValid::assertion)
        .ok_or_else(bad)
}

/// TLS 1.2 is not offered: rustls never asks.
const TOO_OLD: Error = Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown, more)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown, more)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
