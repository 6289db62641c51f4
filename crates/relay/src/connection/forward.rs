//! Requests of one client to the proxy: they take as long as another relay takes, so they are
//! answered out of order, and only so many are under way.

use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;

use junto_smp::address::ServerAddress;
use junto_smp::id::{CorrelationId, Entity};
use junto_smp::proxy::Forward;
use tokio::task::JoinSet;

use super::outbox::{Reply, What, Whose};
use crate::proxy::{Parcel, Proxy};

/// What a client asks of the proxy.
enum Asked {
    Connect {
        correlation: CorrelationId,
        server: ServerAddress,
    },
    Forward {
        session: Box<[u8]>,
        parcel: Parcel,
    },
}

/// What was asked, with its answer.
struct Answered {
    connecting: bool,
    reply: Reply,
}

/// The requests of one client. Dropping it gives up all of them.
pub(super) struct Forwards {
    proxy: Arc<Proxy>,
    running: JoinSet<Answered>,
    /// Those among them that may have to connect first.
    connecting: usize,
    /// What has no place among those under way: at most what one block holds, since no further
    /// block is read while something waits here.
    waiting: VecDeque<Asked>,
}

/// A task broke. A defect of ours.
pub(super) struct Broken;

impl Forwards {
    pub(super) fn new(proxy: Arc<Proxy>) -> Self {
        Self {
            proxy,
            running: JoinSet::new(),
            connecting: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Whether no more should be asked for now.
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty() || self.running.len() >= self.proxy.limits.forwards_per_client
    }

    pub(super) fn connect(&mut self, correlation: CorrelationId, server: ServerAddress) {
        self.waiting.push_back(Asked::Connect {
            correlation,
            server,
        });
        self.start();
    }

    pub(super) fn forward(
        &mut self,
        correlation: CorrelationId,
        session: Entity<'_>,
        forward: &Forward<'_>,
    ) {
        self.waiting.push_back(Asked::Forward {
            session: session.as_bytes().into(),
            parcel: Parcel {
                correlation,
                version: forward.version,
                key: forward.key,
                sealed: forward.sealed.into(),
            },
        });
        self.start();
    }

    /// Starts what has a place, in order; commands do not wait for connections being made.
    fn start(&mut self) {
        let limits = self.proxy.limits;
        let mut next = 0;
        while self.running.len() < limits.forwards_per_client {
            let full = self.connecting >= limits.connecting_per_client;
            match self.waiting.get(next) {
                None => break,
                Some(Asked::Connect { .. }) if full => next += 1,
                Some(_) => {
                    if let Some(asked) = self.waiting.remove(next) {
                        self.connecting += usize::from(matches!(asked, Asked::Connect { .. }));
                        self.begin(asked);
                    }
                }
            }
        }
    }

    /// Commands are passed on here, in the order in which they came; only their answers are waited
    /// for side by side.
    fn begin(&mut self, asked: Asked) {
        let proxy = Arc::clone(&self.proxy);
        match asked {
            Asked::Connect {
                correlation,
                server,
            } => self.running.spawn(async move {
                let what = match proxy.connect(&server).await {
                    Ok(link) => What::ProxyKey(link),
                    Err(code) => What::Refused(code),
                };
                answered(true, correlation, Whose::None, what)
            }),
            Asked::Forward { session, parcel } => {
                let correlation = parcel.correlation;
                let passed = proxy.forward(&session, parcel);
                self.running.spawn(async move {
                    let answer = match passed {
                        Ok(passed) => proxy.answer(passed).await,
                        Err(code) => Err(code),
                    };
                    let what = match answer {
                        Ok(sealed) => What::ProxyAnswer(sealed),
                        Err(code) => What::Refused(code),
                    };
                    answered(false, correlation, Whose::Other(session), what)
                })
            }
        };
    }

    /// The next answer. `None` while nothing is under way.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Reply, Broken>>> {
        self.running.poll_join_next(cx).map(|done| match done {
            None => None,
            Some(Ok(answered)) => {
                self.connecting -= usize::from(answered.connecting);
                self.start();
                Some(Ok(answered.reply))
            }
            Some(Err(_)) => Some(Err(Broken)),
        })
    }
}

fn answered(connecting: bool, correlation: CorrelationId, whose: Whose, what: What) -> Answered {
    Answered {
        connecting,
        reply: Reply {
            correlation: Some(correlation),
            whose,
            what,
            position: Default::default(),
        },
    }
}
