//! Direct paths of a run, as its user wants them.

use std::collections::BTreeSet;
use std::sync::Arc;

use junto_session::adapters::tcp::{Policy, Ways};
use junto_session::{LocalId, Session};
use junto_smp::address::ServerAddress;

use crate::args::Paths;
use crate::failure::Failure;
use crate::open::Junto;
use crate::session::relays;

/// The relays on which this party receives in the session: they see its address anyway. No other is asked for it.
async fn own_relays(junto: &Junto, local: LocalId) -> Result<Vec<ServerAddress>, Failure> {
    let routes = relays::routes(junto, local).await?;
    let own = routes.into_iter().filter(|route| route.receives);
    let direct = own.filter(|route| route.path.is_direct());
    let relays: BTreeSet<_> = direct.map(|route| route.path.relay).collect();
    Ok(relays.into_iter().collect())
}

/// The ways of one run beside the queues.
pub(super) struct Direct {
    policy: Policy,
    #[cfg(feature = "direct")]
    ways: Option<Arc<junto_direct::Direct>>,
}

impl Direct {
    /// Opens a port if the user wants direct paths.
    ///
    /// # Errors
    /// If they cannot be had together with what else the user wants.
    pub(super) async fn open(
        junto: &Junto,
        (session, local): (&Session, LocalId),
        paths: Paths,
    ) -> Result<Self, Failure> {
        let policy = match paths {
            Paths::RelayOnly => Policy::RelayOnly,
            Paths::PreferDirect => Policy::PreferDirect,
            Paths::DirectOnly => Policy::DirectOnly,
        };
        if policy != Policy::RelayOnly && junto.socks.is_some() {
            return Err(Failure::usage(
                "`--paths`: a direct path would go past the SOCKS server that this profile uses, and show where you are",
            )
            .help("leave out `--paths`, or use another profile"));
        }
        let relays = match policy {
            Policy::RelayOnly => Vec::new(),
            Policy::PreferDirect | Policy::DirectOnly => own_relays(junto, local).await?,
        };
        Self::bind(session, policy, relays).await
    }

    #[cfg(feature = "direct")]
    async fn bind(
        session: &Session,
        policy: Policy,
        relays: Vec<ServerAddress>,
    ) -> Result<Self, Failure> {
        use crate::failure::Context;
        use junto_direct::{Observer, Reach};

        let observer = |relay: ServerAddress| {
            let hosts = relay.hosts().iter().filter(|host| !host.is_onion());
            Observer {
                hosts: hosts.map(|host| host.for_resolver().to_owned()).collect(),
                port: relay.port(),
                fingerprint: relay.fingerprint().0,
            }
        };

        let ways = match policy {
            Policy::RelayOnly => None,
            Policy::PreferDirect | Policy::DirectOnly => {
                let relays = relays.into_iter().map(observer).collect();
                let opened =
                    junto_direct::Direct::open_seen(session.me(), Reach::Network, relays).await;
                Some(Arc::new(opened.context("no port for direct paths")?))
            }
        };
        Ok(Self { policy, ways })
    }

    #[cfg(not(feature = "direct"))]
    async fn bind(
        _session: &Session,
        policy: Policy,
        _relays: Vec<ServerAddress>,
    ) -> Result<Self, Failure> {
        match policy {
            Policy::RelayOnly => Ok(Self { policy }),
            Policy::PreferDirect | Policy::DirectOnly => Err(Failure::usage(
                "`--paths`: this junto was built without direct paths",
            )),
        }
    }

    /// For the streams.
    pub(super) fn ways(&self) -> Option<(Policy, Arc<dyn Ways>)> {
        #[cfg(feature = "direct")]
        let ways = self.ways.clone().map(|ways| -> Arc<dyn Ways> { ways });
        #[cfg(not(feature = "direct"))]
        let ways: Option<Arc<dyn Ways>> = None;
        Some((self.policy, ways?))
    }

    /// The run has ended. Returns soon, whatever other parties do.
    pub(super) async fn close(self) {
        #[cfg(feature = "direct")]
        if let Some(ways) = self.ways {
            ways.close().await;
        }
    }
}
