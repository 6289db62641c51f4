//! TLS of the QUIC over which a relay tells its clients their addresses as it sees them, for direct paths
//! (`docs/decisions/0018-direct-paths.md`).
//!
//! The relay shows the chain that it shows to SMP's clients, and they pin it alike. All else is apart: a protocol name of
//! its own, so that neither is taken for the other; no certificates of clients; and no agreement but the hybrid one, since
//! both ends are ours.

use std::sync::{Arc, LazyLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use crate::config::PinVerifier;
use crate::{Fingerprint, ServerIdentity};

/// The protocol name in ALPN. Without it there is no handshake.
pub const ALPN_OBSERVE: &[u8] = b"junto observe 1";

/// Settings of a relay with that identity.
///
/// # Errors
/// As [`crate::ServerTls::new`].
pub fn server(identity: &ServerIdentity) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            identity.chain().to_vec(),
            PrivateKeyDer::Pkcs8(identity.leaf_pkcs8()),
        )?;
    config.alpn_protocols = vec![ALPN_OBSERVE.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Settings of a client that takes no other relay than the one with the identity `pin`.
///
/// # Errors
/// Never with the providers of this version; the type is rustls's.
pub fn client(pin: Fingerprint) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier(pin)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_OBSERVE.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // What the first packets of QUIC are sealed with, whatever else is agreed on.
        provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
        provider.kx_groups = vec![kx_group::X25519MLKEM768];
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}
