//! Who is at the other end: a raw public key that it has told inside the session, checked within the handshake.

use std::{fmt, io, sync::Arc};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs as provider, verify_tls13_signature_with_raw_key},
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
        UnixTime, alg_id,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, public_key_to_spki},
    version::TLS13,
};

/// A public key of one end, for one run.
pub(crate) type Key = [u8; 32];

/// Whether the other end may be the one with that key.
pub(crate) type Admits = Arc<dyn Fn(&Key) -> bool + Send + Sync>;

/// This end, as it shows itself.
pub(crate) struct Own {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    pub(crate) key: Key,
}

impl Own {
    /// A new key.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub(crate) fn generate() -> io::Result<Self> {
        let provider = Arc::new(CryptoProvider {
            // Hybrid and nothing else: both ends are ours.
            kx_groups: vec![provider::kx_group::X25519MLKEM768],
            ..provider::default_provider()
        });
        let pair = Ed25519KeyPair::generate().map_err(io::Error::other)?;
        let public = pair.public_key().as_ref();
        let key = public.try_into().map_err(io::Error::other)?;
        let secret = pair.to_pkcs8v1().map_err(io::Error::other)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret.as_ref().to_vec()));
        let loaded = provider.key_provider.load_private_key(secret);
        let shown = CertificateDer::from(encoded(&key).to_vec());
        let certified = CertifiedKey::new(vec![shown], loaded.map_err(io::Error::other)?);
        Ok(Self {
            provider,
            certified: Arc::new(certified),
            key,
        })
    }

    /// For those who come: they say one of `words` first, and have one of the keys that are admitted.
    ///
    /// # Errors
    /// None that an input can cause.
    pub(crate) fn hears(&self, words: Vec<Vec<u8>>, admits: Admits) -> io::Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(self.verifier(admits))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = words;
        // Nothing of one connection serves for another.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For a call to whoever has `key`, which begins with `word`.
    ///
    /// # Errors
    /// None that an input can cause.
    pub(crate) fn calls(&self, key: Key, word: Vec<u8>) -> io::Result<ClientConfig> {
        let verifier = self.verifier(Arc::new(move |other| *other == key));
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![word];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn verifier(&self, admits: Admits) -> Arc<Verifier> {
        let provider = self.provider.clone();
        Arc::new(Verifier { provider, admits })
    }
}

/// The key that the other end of a connection has shown and proved to have.
pub(crate) fn key_of(connection: &noq::Connection) -> Option<Key> {
    let shown = connection.peer_identity()?;
    let shown = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match shown.as_slice() {
        [one] => decoded(one),
        _ => None,
    }
}

fn encoded(key: &Key) -> SubjectPublicKeyInfoDer<'static> {
    public_key_to_spki(&alg_id::ED25519, key)
}

fn decoded(shown: &[u8]) -> Option<Key> {
    let key = *shown.last_chunk::<32>()?;
    (encoded(&key).as_ref() == shown).then_some(key)
}

struct Verifier {
    provider: Arc<CryptoProvider>,
    admits: Admits,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    fn check(&self, shown: &[u8], more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let known = decoded(shown).is_some_and(|key| (self.admits)(&key));
        match known && more.is_empty() {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(shown.as_ref()),
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }
}

const TOO_OLD: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
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
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TOO_OLD)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
