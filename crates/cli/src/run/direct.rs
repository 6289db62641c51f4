//! Direct paths of a run, as its user wants them.

use std::sync::Arc;

use junto_session::Session;
use junto_session::adapters::tcp::{Policy, Ways};

use crate::args::Paths;
use crate::failure::Failure;
use crate::open::Junto;

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
        session: &Session,
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
        Self::bind(session, policy).await
    }

    #[cfg(feature = "direct")]
    async fn bind(session: &Session, policy: Policy) -> Result<Self, Failure> {
        use crate::failure::Context;
        use junto_direct::Reach;

        let ways = match policy {
            Policy::RelayOnly => None,
            Policy::PreferDirect | Policy::DirectOnly => {
                let opened = junto_direct::Direct::open(session.me(), Reach::Network).await;
                Some(Arc::new(opened.context("no port for direct paths")?))
            }
        };
        Ok(Self { policy, ways })
    }

    #[cfg(not(feature = "direct"))]
    async fn bind(_session: &Session, policy: Policy) -> Result<Self, Failure> {
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
