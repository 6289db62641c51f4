//! What may change while the relay runs, and what may not.

use std::sync::{Arc, PoisonError, RwLock};

use ipnet::IpNet;
use junto_crypto::ed25519::SigningKey;
use junto_smp::error::ErrorCode;
use junto_smp::id::LinkId;
use junto_smp::queue;
use junto_smp::server;
use junto_smp::version::VersionRange;
use junto_tls::{ServerIdentity, ServerTls};

use crate::config::{Blocked, Limits, Monitor, Observe, Password, RelayConfig, Storage, Timeouts};
use crate::proxy::ProxyConfig;
use crate::relay::RelayError;

/// What may change. A connection looks at it anew with every block that it receives.
pub(crate) struct Settings {
    pub(crate) tls: ServerTls,
    pub(crate) identity: server::Identity,
    pub(crate) password: Option<Password>,
    /// Of the proxy; without one, `password` holds for it too.
    pub(crate) proxy_password: Option<Password>,
    pub(crate) limits: Limits,
    pub(crate) queue_limits: queue::Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) observe: Observe,
    pub(crate) exempt_sources: Vec<IpNet>,
    blocked: Vec<Blocked>,
}

impl Settings {
    pub(crate) fn new(
        config: RelayConfig,
        identity: &ServerIdentity,
        versions: VersionRange,
    ) -> Result<Self, RelayError> {
        let chain = identity.chain().iter().map(|c| c.to_vec()).collect();
        let leaf = SigningKey::from_seed(identity.leaf_key().seed());
        Ok(Self {
            tls: ServerTls::new(identity)?,
            identity: server::Identity::new(chain, leaf)?.with_versions(versions),
            password: config.password,
            proxy_password: config.proxy_password,
            limits: config.limits,
            queue_limits: queue::Limits {
                messages: config.limits.messages_per_queue,
                retention_seconds: config.timeouts.message.as_secs(),
                unused_days: config.timeouts.unused_queue_days,
            },
            timeouts: config.timeouts,
            observe: config.observe,
            exempt_sources: config.exempt_sources,
            blocked: config.blocked,
        })
    }

    /// Why nobody may use this link: otherwise a blocked address came back under its old link.
    pub(crate) fn blocked(&self, link: LinkId) -> Option<ErrorCode> {
        let mut blocked = self.blocked.iter();
        blocked
            .find(|blocked| blocked.queue.0 == link.0)
            .and_then(|blocked| blocked.blocking)
            .map(ErrorCode::Blocked)
    }
}

/// The settings of now.
pub(crate) struct Current(RwLock<Arc<Settings>>);

impl Current {
    pub(crate) fn new(settings: Settings) -> Self {
        Self(RwLock::new(Arc::new(settings)))
    }

    pub(crate) fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, settings: Settings) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(settings);
    }
}

/// What a running relay keeps until its next start.
#[derive(PartialEq, Eq)]
pub(crate) struct Fixed {
    hosts: Vec<String>,
    bind: core::net::SocketAddr,
    storage: Storage,
    monitor: Monitor,
    proxy: ProxyConfig,
    observe: bool,
    sweep: core::time::Duration,
}

impl Fixed {
    pub(crate) fn of(config: &RelayConfig) -> Self {
        Self {
            hosts: config
                .hosts
                .iter()
                .map(|host| host.as_str().to_owned())
                .collect(),
            bind: config.bind,
            storage: config.storage.clone(),
            monitor: config.monitor.clone(),
            proxy: config.proxy.fixed(),
            observe: config.observe.enabled,
            sweep: config.timeouts.sweep,
        }
    }

    /// The settings that `other` has differently.
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("hosts", self.hosts != other.hosts),
            ("port", self.bind.port() != other.bind.port()),
            ("bind", self.bind.ip() != other.bind.ip()),
            ("storage", self.storage != other.storage),
            ("monitor", self.monitor != other.monitor),
            ("proxy", self.proxy != other.proxy),
            ("observe.enabled", self.observe != other.observe),
            ("timeouts.sweep_s", self.sweep != other.sweep),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// A new certificate is shown from now on.
    pub certificate: bool,
    /// Settings that have changed in the file and wait for the next start.
    pub waiting: Vec<&'static str>,
}
