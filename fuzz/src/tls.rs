//! Certificate chains.

use core::time::Duration;

use junto_tls::PeerChain;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::input::Input;

/// 2026-11-21, when the seeds are valid.
pub(crate) fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_795_219_200))
}

/// Pieces are certificates, leaf first.
pub(crate) fn chain(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut certificates = Vec::new();
    while !input.is_empty() && certificates.len() < 6 {
        certificates.push(CertificateDer::from(input.piece()));
    }
    for now in [now(), UnixTime::since_unix_epoch(Duration::MAX)] {
        let Ok(chain) = PeerChain::verify(&certificates, now) else {
            continue;
        };
        assert_eq!(chain.certificates(), certificates);
        let identity = junto_tls::Fingerprint::of(&certificates[1]);
        assert!(!chain.leaf_key().verifies(b"message", &[0; 64]));
        assert!(chain.clone().expect(&identity).is_ok());
        let other = junto_tls::Fingerprint::of(&certificates[0]);
        assert_eq!(chain.expect(&other).is_ok(), identity == other);
    }
}
