//! TLS settings of both roles: TLS 1.3, one suite, two groups, no resumption.
//!
//! | what | value | why |
//! |---|---|---|
//! | version | 1.3 only | 1.2 is allowed by SMP, used by nobody of today |
//! | suite | `TLS_CHACHA20_POLY1305_SHA256` | the only TLS 1.3 suite of SMP servers and clients |
//! | groups | X25519MLKEM768, X25519 | hybrid where the peer can; SimpleX clients offer a share for X448 only and list X25519, so they are answered with a HelloRetryRequest |
//! | signatures | Ed25519, Ed448 (verified only) | as the reference implementation |
//! | ALPN | `smp/1` | a connection without ALPN is accepted; one with only other protocols is not |
//! | tickets, resumption, early data | off | a resumed session would repeat an identifier's role |
//! | client certificate | asked for, and checked if shown | services show theirs; everybody else has none |
//! | SNI | not sent | with SNI a genuine server shows its *web* certificate |

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, ServerConfig, SignatureScheme,
};

use crate::chain::{self, ChainError, ClientChain, PeerChain, PeerKey};
use crate::session_id::{self, ClientSecret};
use crate::{Fingerprint, ServerIdentity, ServiceIdentity};

/// The protocol name of SMP in ALPN.
pub const ALPN_SMP: &[u8] = b"smp/1";

/// What the two ends agreed to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `smp/1`.
    Smp1,
    /// The client offered nothing. Genuine software then speaks SMP version 6 only.
    Absent,
}

impl Alpn {
    /// What `connection` negotiated.
    #[must_use]
    pub fn of(connection: &CommonState) -> Self {
        match connection.alpn_protocol() {
            Some(_) => Self::Smp1, // The only one that we configure.
            None => Self::Absent,
        }
    }
}

/// The TLS side of a server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Settings that present `identity`.
    ///
    /// # Errors
    /// What rustls says about an unusable key or certificate; not for a [`ServerIdentity`] that
    /// this crate made or loaded.
    pub fn new(identity: &ServerIdentity) -> Result<Self, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(ServiceVerifier))
            .with_single_cert(
                identity.chain().to_vec(),
                PrivateKeyDer::Pkcs8(identity.leaf_pkcs8()),
            )?;
        config.alpn_protocols = vec![ALPN_SMP.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.key_log = Arc::new(ClientSecret);
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The settings for rustls. Wrap the handshake in a [`crate::Watch`].
    #[must_use]
    pub const fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

/// The TLS side of a client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    base: Arc<ClientConfig>,
}

impl ClientTls {
    /// Settings without a pin; [`ClientTls::pinned`] adds one.
    ///
    /// # Errors
    /// Never with the providers of this version; the type is rustls's.
    pub fn new() -> Result<Self, Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(NOBODY.clone())
            .with_no_client_auth();
        Ok(Self::with(config))
    }

    /// As [`ClientTls::new`], showing the certificates of a service.
    ///
    /// # Errors
    /// What rustls says about an unusable key or certificate; not for a [`ServiceIdentity`].
    pub fn with_certificates(identity: &ServiceIdentity) -> Result<Self, Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(NOBODY.clone())
            .with_client_auth_cert(
                identity.chain().to_vec(),
                PrivateKeyDer::Pkcs8(identity.leaf_pkcs8()),
            )?;
        Ok(Self::with(config))
    }

    fn with(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![ALPN_SMP.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.key_log = Arc::new(ClientSecret);
        Self {
            base: Arc::new(config),
        }
    }

    /// Settings that accept only the server with the identity `pin`. The check happens inside the
    /// handshake: a wrong server learns nothing but a ClientHello.
    #[must_use]
    pub fn pinned(&self, pin: Fingerprint) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.base);
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(PinVerifier(pin)));
        Arc::new(config)
    }

    /// The name to give to rustls: no host name is sent or checked.
    #[must_use]
    pub fn server_name() -> ServerName<'static> {
        ServerName::IpAddress(core::net::Ipv4Addr::UNSPECIFIED.into())
    }
}

/// The chain that the server of `connection` presented; its handshake is complete.
///
/// # Errors
/// [`ChainError::Length`] if the handshake is not complete; otherwise as
/// [`PeerChain::verify`], which already passed during the handshake.
pub fn peer_chain(connection: &CommonState, now: UnixTime) -> Result<PeerChain, ChainError> {
    PeerChain::verify(connection.peer_certificates().unwrap_or_default(), now)
}

/// The provider of both roles: aws-lc-rs, narrowed.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![session_id::suite()];
        provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// The chain that the client of `connection` presented; its handshake is complete. `None` if it
/// presented none.
///
/// # Errors
/// As [`ClientChain::verify`], which already passed during the handshake.
pub fn client_chain(
    connection: &CommonState,
    now: UnixTime,
) -> Result<Option<ClientChain>, ChainError> {
    match connection.peer_certificates().unwrap_or_default() {
        [] => Ok(None),
        certificates => ClientChain::verify(certificates, now).map(Some),
    }
}

/// Accepts nothing that a server could have; replaced by [`ClientTls::pinned`].
static NOBODY: LazyLock<Arc<PinVerifier>> =
    LazyLock::new(|| Arc::new(PinVerifier(Fingerprint::from_bytes([0; 32]))));

/// Accepts one identity.
#[derive(Debug)]
pub(crate) struct PinVerifier(pub(crate) Fingerprint);

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificates = presented(end_entity, intermediates);
        PeerChain::verify(&certificates, now)
            .and_then(|chain| chain.expect(&self.0))
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused(ChainError::Algorithm))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// Accepts any service, and clients without certificates.
#[derive(Debug)]
struct ServiceVerifier;

impl ClientCertVerifier for ServiceVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ClientChain::verify(&presented(end_entity, intermediates), now).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(refused(ChainError::Algorithm))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

const SCHEMES: [SignatureScheme; 2] = [SignatureScheme::ED25519, SignatureScheme::ED448];

/// What the peer presented, as far as it matters: one more than the limit suffices to be refused.
fn presented(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
) -> Vec<CertificateDer<'static>> {
    core::iter::once(end_entity)
        .chain(intermediates)
        .take(chain::CHAIN_MAX + 1)
        .map(|certificate| certificate.clone().into_owned())
        .collect()
}

/// The peer's signature over the handshake.
fn check_signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let key = chain::leaf_key(cert).map_err(refused)?;
    // RFC 8446 §4.2.3: the scheme must fit the certificate's key.
    let scheme = match key {
        PeerKey::Ed25519(_) => SignatureScheme::ED25519,
        PeerKey::Ed448(_) => SignatureScheme::ED448,
    };
    if dss.scheme == scheme && key.verifies(message, dss.signature()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(Error::InvalidCertificate(CertificateError::BadSignature))
    }
}

/// Carries our reason through rustls, which answers with the alert `certificate_unknown`.
fn refused(error: ChainError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Our reason, if a handshake failed by it.
#[must_use]
pub fn chain_error(error: &Error) -> Option<ChainError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref().copied()
        }
        _ => None,
    }
}
