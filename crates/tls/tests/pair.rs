//! Our client with our server: over rustls alone, and over tokio.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not `#[test]` functions

use std::os::unix::net::UnixStream;
use std::thread;

use junto_tls::handshake::{self, HandshakeError};
use junto_tls::{
    Alpn, ChainError, ClientTls, Fingerprint, ServerIdentity, ServerTls, ServiceIdentity,
    SessionIdError, Watch,
};
use rustls::client::ClientConfig;
use rustls::pki_types::UnixTime;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const BUFFER: usize = 64 * 1024;

fn generator() -> rand_chacha::ChaCha20Rng {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed(seed)
}

fn identity() -> ServerIdentity {
    ServerIdentity::ephemeral("localhost", &mut generator(), UnixTime::now()).unwrap()
}

#[tokio::test]
async fn a_service_shows_its_certificates_and_others_show_none() {
    let identity_of_server = identity();
    let server_tls = ServerTls::new(&identity_of_server).unwrap();
    let pin = *identity_of_server.fingerprint();
    let alone = ServiceIdentity::generate(&mut generator(), UnixTime::now()).unwrap();
    assert_eq!(
        alone.fingerprint(),
        Some(Fingerprint::of(&alone.chain()[0]))
    );
    let server = ServiceIdentity::from(identity());
    assert_eq!(
        server.fingerprint(),
        Some(Fingerprint::of(&server.chain()[1]))
    );
    for (tls, shown) in [
        (ClientTls::new().unwrap(), None),
        (
            ClientTls::with_certificates(&alone).unwrap(),
            Some(alone.chain()),
        ),
        (
            ClientTls::with_certificates(&server).unwrap(),
            Some(server.chain()),
        ),
    ] {
        let (a, b) = tokio::io::duplex(BUFFER);
        let (accepted, connected) = tokio::join!(
            handshake::accept(&server_tls, a, BUFFER),
            handshake::connect(&tls, pin, b),
        );
        let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
        assert_eq!(accepted.session_id, connected.session_id);
        let client = accepted.client.as_ref();
        assert_eq!(client.map(|client| client.certificates()), shown);
    }
}

#[tokio::test]
async fn a_service_without_the_key_or_with_a_stolen_identity_gets_no_session() {
    let identity_of_server = identity();
    let server_tls = ServerTls::new(&identity_of_server).unwrap();
    let pin = *identity_of_server.fingerprint();
    let (own, stolen) = (ServiceIdentity::from(identity()), identity());
    let tls = ClientTls::with_certificates(&own).unwrap();
    let config = tls.pinned(pin);
    let key = config
        .client_auth_cert_resolver
        .resolve(&[], &[rustls::SignatureScheme::ED25519]);
    let key = key.unwrap().key.clone();
    // The leaf is its own and the identity another's; then both are another's.
    for chain in [
        vec![own.chain()[0].clone(), stolen.chain()[1].clone()],
        stolen.chain().to_vec(),
    ] {
        let mut config = ClientConfig::clone(&config);
        let shown = CertifiedKey::new(chain, key.clone());
        config.client_auth_cert_resolver = std::sync::Arc::new(SingleCertAndKey::from(shown));
        let (a, b) = tokio::io::duplex(BUFFER);
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let (accepted, _) = tokio::join!(
            handshake::accept(&server_tls, a, BUFFER),
            connector.connect(ClientTls::server_name(), b),
        );
        let refused = accepted.unwrap_err();
        let expected = match refused {
            HandshakeError::Chain(error) => error == ChainError::Unsigned,
            HandshakeError::Tls(_) => true,
            _ => false,
        };
        assert!(expected, "{refused:?}");
    }
}

#[test]
fn an_unwatched_or_unfinished_handshake_has_no_session_id() {
    let identity = identity();
    let server_tls = ServerTls::new(&identity).unwrap();
    let (a, b) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let mut io = a;
        let mut connection = ServerConnection::new(server_tls.config().clone()).unwrap();
        assert_eq!(
            Watch::new().session_id(&connection),
            Err(SessionIdError::Unfinished)
        );
        // Watched too late: the server's Finished was computed unseen.
        connection.read_tls(&mut io).unwrap();
        connection.process_new_packets().unwrap();
        let mut watch = Watch::new();
        while connection.is_handshaking() {
            watch.during(|| connection.complete_io(&mut io)).unwrap();
        }
        assert_eq!(
            watch.session_id(&connection),
            Err(SessionIdError::Unobserved)
        );
    });
    let tls = ClientTls::new().unwrap();
    let mut connection = ClientConnection::new(
        tls.pinned(*identity.fingerprint()),
        ClientTls::server_name(),
    )
    .unwrap();
    let mut io = b;
    while connection.is_handshaking() {
        connection.complete_io(&mut io).unwrap();
    }
    assert_eq!(
        Watch::new().session_id(&connection),
        Err(SessionIdError::Unobserved)
    );
    server.join().unwrap();
}

#[tokio::test]
async fn many_at_once_agree_on_their_own_session_id() {
    let identity = identity();
    let server_tls = ServerTls::new(&identity).unwrap();
    let client_tls = ClientTls::new().unwrap();
    let pin = *identity.fingerprint();
    let pairs = (0..32).map(|_| {
        let (server_tls, client_tls) = (server_tls.clone(), client_tls.clone());
        async move {
            // A pipe of 100 bytes: handshakes interleave in many small steps.
            let (a, b) = tokio::io::duplex(100);
            let (accepted, connected) = tokio::join!(
                handshake::accept(&server_tls, a, BUFFER),
                handshake::connect(&client_tls, pin, b),
            );
            let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
            assert_eq!(accepted.session_id, connected.session_id);
            assert_eq!((accepted.alpn, connected.alpn), (Alpn::Smp1, Alpn::Smp1));
            let (sent, received) = tokio::join!(
                async {
                    connected.stream.write_all(&[7; 16_384]).await.unwrap();
                    connected.stream.flush().await
                },
                async {
                    let mut block = vec![0; 16_384];
                    accepted.stream.read_exact(&mut block).await.unwrap();
                    block
                }
            );
            sent.unwrap();
            assert!(received.iter().all(|byte| *byte == 7));
            *connected.session_id.as_bytes()
        }
    });
    let mut ids = futures_join(pairs).await;
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 32);
}

/// Runs all futures concurrently on this thread.
async fn futures_join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *output = Some(value);
            }
        }
        match pending.iter().all(|(_, output)| output.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

#[tokio::test]
async fn a_wrong_server_is_told_apart_from_a_broken_one() {
    let server_tls = ServerTls::new(&identity()).unwrap();
    let client_tls = ClientTls::new().unwrap();
    let pin = Fingerprint::from_bytes([1; 32]);
    let (a, b) = tokio::io::duplex(BUFFER);
    let (accepted, connected) = tokio::join!(
        handshake::accept(&server_tls, a, BUFFER),
        handshake::connect(&client_tls, pin, b),
    );
    assert!(
        matches!(accepted, Err(HandshakeError::Tls(_))),
        "{accepted:?}"
    );
    assert!(matches!(
        connected,
        Err(HandshakeError::Chain(ChainError::WrongIdentity))
    ));

    let (mut a, b) = tokio::io::duplex(BUFFER);
    a.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    assert!(matches!(
        handshake::connect(&client_tls, pin, b).await,
        Err(HandshakeError::Tls(_))
    ));

    let (a, b) = tokio::io::duplex(BUFFER);
    drop(a);
    assert!(matches!(
        handshake::connect(&client_tls, pin, b).await,
        Err(HandshakeError::Io(_))
    ));
}
