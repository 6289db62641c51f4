//! Cross-check with an implementation that we did not write: OpenSSL knows the Finished messages
//! (`SSL_get_finished`, `SSL_get_peer_finished`) and makes the certificates that we verify.
//!
//! This is the gate for updates of rustls: if its handshake changes under our hook, these fail.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod chains;

use std::os::unix::net::UnixStream;
use std::thread;

use chains::{Chain, Shape};
use junto_tls::config::{self, ALPN_SMP};
use junto_tls::{ChainError, ClientTls, Fingerprint, ServerIdentity, ServerTls, Watch};
use openssl::ssl::{
    AlpnError, SslConnector, SslContextBuilder, SslMethod, SslOptions, SslRef, SslVerifyMode,
    SslVersion,
};
use rustls::pki_types::UnixTime;
use rustls::{ClientConnection, HandshakeKind, ServerConnection};

const CHACHA: &str = "TLS_CHACHA20_POLY1305_SHA256";

fn finished(ssl: &SslRef) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = ssl.finished(&mut buffer);
    buffer[..len].to_vec()
}

fn peer_finished(ssl: &SslRef) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = ssl.peer_finished(&mut buffer);
    buffer[..len].to_vec()
}

fn identity() -> ServerIdentity {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let mut rng =
        <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed(seed);
    ServerIdentity::ephemeral("localhost", &mut rng, UnixTime::now()).unwrap()
}

/// An OpenSSL client of our server; gives the kind of handshake.
fn our_server_with_openssl_client(groups: &str) -> HandshakeKind {
    let identity = identity();
    let leaf_and_identity: Vec<Vec<u8>> = identity.chain().iter().map(|c| c.to_vec()).collect();
    let tls = ServerTls::new(&identity).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let mut io = ours;
        let mut connection = ServerConnection::new(tls.config().clone()).unwrap();
        let mut watch = Watch::new();
        while connection.is_handshaking() {
            watch.during(|| connection.complete_io(&mut io)).unwrap();
        }
        assert_eq!(connection.alpn_protocol(), Some(ALPN_SMP));
        let kind = connection.handshake_kind().unwrap();
        let id = watch.session_id(&connection).unwrap();
        // The client reads until we are done, so that a ticket of ours would have reached it.
        connection.send_close_notify();
        connection.write_tls(&mut io).unwrap();
        (id, kind)
    });
    let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
    builder.set_verify(SslVerifyMode::NONE);
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_3))
        .unwrap();
    builder.set_ciphersuites(CHACHA).unwrap();
    builder.set_groups_list(groups).unwrap();
    builder.set_sigalgs_list("ed448:ed25519").unwrap();
    builder.set_alpn_protos(b"\x05smp/1").unwrap();
    let mut configuration = builder.build().configure().unwrap();
    configuration.set_verify_hostname(false);
    configuration.set_use_server_name_indication(false);
    let mut stream = configuration.connect("ignored", theirs).unwrap();
    assert_eq!(
        stream.ssl_read(&mut [0; 1]).unwrap_err().code(),
        openssl::ssl::ErrorCode::ZERO_RETURN
    );
    assert!(!stream.ssl().session_reused());
    let presented: Vec<Vec<u8>> = stream
        .ssl()
        .peer_cert_chain()
        .unwrap()
        .iter()
        .map(|c| c.to_der().unwrap())
        .collect();
    assert_eq!(presented, leaf_and_identity);
    let (id, kind) = server.join().unwrap();
    assert_eq!(id.as_bytes()[..], finished(stream.ssl()));
    kind
}

/// Our client at an OpenSSL server with the given chain and pin.
fn our_client_with_openssl_server(chain: &Chain, pin: Fingerprint) -> Result<(), ChainError> {
    let mut builder = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_3))
        .unwrap();
    builder.set_ciphersuites(CHACHA).unwrap();
    builder.set_certificate(&chain.certificates[0]).unwrap();
    builder.set_private_key(&chain.leaf_key).unwrap();
    for certificate in &chain.certificates[1..] {
        builder.add_extra_chain_cert(certificate.clone()).unwrap();
    }
    // As the genuine server: asks for a client certificate, lives without.
    builder.set_verify(SslVerifyMode::PEER);
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_alpn_select_callback(|_, offered| {
        openssl::ssl::select_next_proto(b"\x05smp/1", offered).ok_or(AlpnError::ALERT_FATAL)
    });
    let context = builder.build();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let ssl = openssl::ssl::Ssl::new(&context).unwrap();
        assert!(ssl.servername(openssl::ssl::NameType::HOST_NAME).is_none());
        ssl.accept(theirs)
            .ok()
            .map(|stream| peer_finished(stream.ssl()))
    });
    let tls = ClientTls::new().unwrap();
    let mut connection = ClientConnection::new(tls.pinned(pin), ClientTls::server_name()).unwrap();
    let mut watch = Watch::new();
    let mut io = ours;
    let mut result = Ok(());
    while connection.is_handshaking() && result.is_ok() {
        result = watch.during(|| connection.complete_io(&mut io)).map(drop);
    }
    drop(io);
    let theirs = server.join().unwrap();
    if let Err(error) = result {
        assert!(
            theirs.is_none(),
            "a refused server saw a finished handshake"
        );
        let tls = error
            .get_ref()
            .unwrap()
            .downcast_ref::<rustls::Error>()
            .unwrap();
        return Err(config::chain_error(tls).unwrap_or_else(|| panic!("{tls:?}")));
    }
    let id = watch.session_id(&connection).unwrap();
    assert_eq!(id.as_bytes()[..], theirs.unwrap());
    let peer = config::peer_chain(&connection, UnixTime::now()).unwrap();
    assert!(peer.identity().matches(&pin));
    assert_eq!(peer.certificates().len(), chain.certificates.len());
    Ok(())
}

#[test]
fn session_id_as_server_with_x25519() {
    assert_eq!(
        our_server_with_openssl_client("X25519"),
        HandshakeKind::Full
    );
}

#[test]
fn session_id_as_server_with_mlkem() {
    assert_eq!(
        our_server_with_openssl_client("X25519MLKEM768"),
        HandshakeKind::Full
    );
}

#[test]
fn session_id_as_server_after_hello_retry_request() {
    // SimpleX clients offer X448 first, with a share for it only.
    assert_eq!(
        our_server_with_openssl_client("X448:X25519"),
        HandshakeKind::FullWithHelloRetryRequest
    );
}

#[test]
fn session_id_as_client_with_every_chain() {
    for leaf in ["ed25519", "ed448"] {
        for authority in ["ed25519", "ed448"] {
            for extra in 0..=2 {
                let chain = Chain::make(&Shape {
                    leaf,
                    authority,
                    extra,
                    ..Shape::default()
                });
                our_client_with_openssl_server(&chain, chain.pin()).unwrap();
            }
        }
    }
}

#[test]
fn wrong_fingerprint_is_refused_within_the_handshake() {
    let chain = Chain::make(&Shape {
        extra: 1,
        ..Shape::default()
    });
    // Neither the leaf nor what stands above the identity is the identity.
    for other in [0, 2] {
        let pin = Fingerprint::of(&chain.certificates[other].to_der().unwrap());
        assert_eq!(
            our_client_with_openssl_server(&chain, pin),
            Err(ChainError::WrongIdentity)
        );
    }
}

#[test]
fn bad_chains_are_refused_within_the_handshake() {
    let good = Shape::default();
    for (shape, error) in [
        (
            Shape {
                foreign_leaf: true,
                ..good
            },
            ChainError::Unsigned,
        ),
        (
            Shape {
                authority_is_ca: false,
                ..good
            },
            ChainError::NotAuthority,
        ),
        (
            Shape {
                leaf_is_ca: true,
                ..good
            },
            ChainError::Purpose,
        ),
        (
            Shape {
                usage: "clientAuth",
                ..good
            },
            ChainError::Purpose,
        ),
        (
            Shape {
                expired: true,
                ..good
            },
            ChainError::Time,
        ),
        (
            Shape {
                unknown_critical: true,
                ..good
            },
            ChainError::Encoding,
        ),
        (Shape { extra: 3, ..good }, ChainError::Length(5)),
    ] {
        let chain = Chain::make(&shape);
        assert_eq!(
            our_client_with_openssl_server(&chain, chain.pin()),
            Err(error),
            "{shape:?}"
        );
    }
    let mut alone = Chain::make(&good);
    let pin = alone.pin();
    alone.certificates.truncate(1);
    assert_eq!(
        our_client_with_openssl_server(&alone, pin),
        Err(ChainError::Length(1))
    );
}
