//! Somebody who is no party: takes any key for good, and shows one of its own.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use junto_session::adapters::tcp::Contact;
use noq::{
    ClientConfig, Connecting, Connection, ConnectionError, Endpoint, TransportConfig,
    crypto::rustls::QuicClientConfig,
};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, alg_id},
    sign::{CertifiedKey, public_key_to_spki},
    version::TLS13,
};
use tokio::{net::UdpSocket, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without an answer it gives up.
const IDLE: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct TakesAny(Arc<AtomicBool>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.store(true, Ordering::Relaxed);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

pub(crate) struct Stranger {
    endpoint: Endpoint,
    config: ClientConfig,
    key: [u8; 32],
    seen: Arc<AtomicBool>,
}

impl Stranger {
    pub(crate) fn new(word: Option<Vec<u8>>) -> Self {
        let provider = Arc::new(provider::default_provider());
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = pair.public_key().as_ref().try_into().unwrap();
        let secret = pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(secret));
        let shown = public_key_to_spki(&alg_id::ED25519, pair.public_key().as_ref());
        let shown = CertificateDer::from(shown.to_vec());
        let loaded = provider.key_provider.load_private_key(secret).unwrap();
        let certified = Arc::new(CertifiedKey::new(vec![shown], loaded));
        let seen = Arc::new(AtomicBool::new(false));
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAny(seen.clone())))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
        config.alpn_protocols = word.into_iter().collect();
        let config = QuicClientConfig::try_from(config).unwrap();
        let mut config = ClientConfig::new(Arc::new(config));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(IDLE.try_into().unwrap()));
        config.transport_config(Arc::new(transport));
        Self {
            endpoint: Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
            config,
            key,
            seen,
        }
    }

    /// How it would be reached, if anybody took it for a party.
    pub(crate) fn contact(&self) -> Contact {
        Contact {
            key: self.key,
            word: [0; 32],
            places: Vec::new(),
        }
    }

    pub(crate) fn has_seen_a_key(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    fn connecting(&self, place: SocketAddr) -> Connecting {
        let config = self.config.clone();
        self.endpoint
            .connect_with(config, place, "junto.invalid")
            .unwrap()
    }

    pub(crate) async fn call(&self, place: SocketAddr) -> Result<Connection, ConnectionError> {
        timeout(PATIENCE, self.connecting(place)).await.unwrap()
    }

    /// Waits for the other end to say anything.
    pub(crate) async fn call_and_listen(&self, place: SocketAddr) -> Result<(), ConnectionError> {
        let connection = self.call(place).await?;
        let heard = timeout(PATIENCE, connection.accept_bi()).await.unwrap();
        heard.map(drop)
    }

    /// Sends a first packet from a place where nobody answers, and goes on holding it.
    pub(crate) async fn begin(&self, place: SocketAddr) -> UdpSocket {
        let ear = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let connecting = self.connecting(ear.local_addr().unwrap());
        let mut packet = [0; 1500];
        let (length, _) = timeout(PATIENCE, ear.recv_from(&mut packet))
            .await
            .unwrap()
            .unwrap();
        drop(connecting);
        ear.send_to(&packet[..length], place).await.unwrap();
        ear
    }
}
