//! Whom a channel leads to: TLS 1.3 by raw Ed25519 keys ([`junto_tls::raw`]), made anew at every start.

use std::sync::{Arc, LazyLock};

use junto_crypto::ed25519::SigningKey;
use junto_tls::raw::{Admits, RawIdentity, RawKey, RawTls, key_of};
use junto_vault::ReplicaId;
use rand_core::CryptoRng;
use rustls::{
    ClientConfig, CommonState, Error, ServerConfig, crypto::aws_lc_rs::cipher_suite,
    pki_types::ServerName,
};

use crate::Name;

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
}

/// The settings of a member of a group, and those with which clients are served.
#[derive(Clone)]
pub(crate) struct MemberTls {
    identity: RawIdentity,
    pub(crate) peers: Arc<ServerConfig>,
    pub(crate) clients: Arc<ServerConfig>,
}

impl MemberTls {
    pub(crate) fn new(key: &BootKey, members: &[Name]) -> Result<Self, Error> {
        let identity = RawIdentity::new(&key.0)?;
        let members = members.to_vec();
        let admits = Arc::new(move |key: &RawKey| members.contains(&Name(*key)));
        Ok(Self {
            peers: Arc::new(tls().server(&identity, Some(admits))?),
            clients: Arc::new(tls().server(&identity, None)?),
            identity,
        })
    }

    /// To reach one member.
    pub(crate) fn to(&self, member: Name) -> Result<Arc<ClientConfig>, Error> {
        let admits: Admits = Arc::new(move |key| member == Name(*key));
        Ok(Arc::new(tls().client(Some(&self.identity), admits)?))
    }
}

/// For clients: whoever answers, since only what it says then tells whether its key counts ([`crate::Card`]).
pub(crate) fn anybody() -> Result<Arc<ClientConfig>, Error> {
    Ok(Arc::new(tls().client(None, Arc::new(|_| true))?))
}

/// No host name is sent or checked.
pub(crate) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(core::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Who is at the other end of a channel whose handshake is done.
pub(crate) fn peer(connection: &CommonState) -> Option<Name> {
    key_of(connection.peer_certificates()?).map(Name)
}

fn tls() -> &'static RawTls {
    static TLS: LazyLock<RawTls> = LazyLock::new(|| {
        RawTls::new(vec![
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ])
    });
    &TLS
}
