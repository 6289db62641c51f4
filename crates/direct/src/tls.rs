//! Who is at the other end: a raw public key that it has told inside the session, checked within the handshake
//! ([`junto_tls::raw`]).

use std::{io, sync::Arc};

use junto_tls::raw::{self, Admits, RawIdentity, RawTls};
use rustls::{
    ClientConfig, ServerConfig, crypto::aws_lc_rs::DEFAULT_CIPHER_SUITES, pki_types::CertificateDer,
};

pub(crate) use junto_tls::raw::RawKey as Key;

/// This end, for one run, as it shows itself.
pub(crate) struct Own {
    tls: RawTls,
    identity: RawIdentity,
}

impl Own {
    /// A new key.
    ///
    /// # Errors
    /// None that an input can cause.
    pub(crate) fn generate() -> io::Result<Self> {
        let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
        Ok(Self {
            // QUIC seals its first packets with one of these, whatever is agreed on.
            tls: RawTls::new(DEFAULT_CIPHER_SUITES.to_vec()),
            identity: RawIdentity::generate(&mut rng).map_err(io::Error::other)?,
        })
    }

    pub(crate) const fn key(&self) -> &Key {
        self.identity.key()
    }

    /// For those who come: they say one of `words` first, and have one of the keys that are admitted.
    ///
    /// # Errors
    /// None that an input can cause.
    pub(crate) fn hears(&self, words: Vec<Vec<u8>>, admits: Admits) -> io::Result<ServerConfig> {
        let config = self.tls.server(&self.identity, Some(admits));
        let mut config = config.map_err(io::Error::other)?;
        config.alpn_protocols = words;
        Ok(config)
    }

    /// For a call to whoever has `key`, which begins with `word`.
    ///
    /// # Errors
    /// None that an input can cause.
    pub(crate) fn calls(&self, key: Key, word: Vec<u8>) -> io::Result<ClientConfig> {
        let admits = Arc::new(move |other: &Key| *other == key);
        let config = self.tls.client(Some(&self.identity), admits);
        let mut config = config.map_err(io::Error::other)?;
        config.alpn_protocols = vec![word];
        Ok(config)
    }
}

/// The key that the other end of a connection has shown and proved to have.
pub(crate) fn key_of(connection: &noq::Connection) -> Option<Key> {
    let shown = connection.peer_identity()?;
    let shown = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    raw::key_of(&shown)
}
