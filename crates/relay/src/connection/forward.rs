//! Both ends of private routing at one connection.
//!
//! Requests of a client to the proxy take as long as another relay takes, so they are answered out
//! of order, and only so many are under way. Commands that come from a proxy are answered like
//! direct ones.

use core::task::{Context, Poll};
use std::collections::VecDeque;
use std::sync::Arc;

use junto_smp::address::ServerAddress;
use junto_smp::command::Command;
use junto_smp::error::{ErrorCode, ProxyFault};
use junto_smp::id::{CorrelationId, Entity};
use junto_smp::message::Timestamp;
use junto_smp::proxy::Forward;
use junto_smp::server::{Authorised, Forwarded};
use tokio::task::JoinSet;

use super::outbox::{Reply, What, Whose};
use super::{Connection, Ended};
use crate::proxy::{Client, Parcel, Proxy};
use crate::sources::Source;

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
    /// Of the client.
    source: Source,
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
    pub(super) fn new(proxy: Arc<Proxy>, source: Source) -> Self {
        Self {
            proxy,
            source,
            running: JoinSet::new(),
            connecting: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Whether no more should be asked for now.
    pub(super) fn is_full(&self) -> bool {
        !self.waiting.is_empty() || self.running.len() >= self.proxy.limits().forwards_per_client
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
        let limits = self.proxy.limits();
        let mut next = 0;
        while self.running.len() < limits.forwards_per_client {
            let full = self.connecting >= limits.connecting_per_client;
            match self.waiting.get(next) {
                None => break,
                Some(Asked::Connect { .. }) if full => next += 1,
                Some(_) => {
                    if let Some(asked) = self.waiting.remove(next) {
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
        let client = |own| Client {
            source: self.source.clone(),
            own,
        };
        match asked {
            Asked::Connect {
                correlation,
                server,
            } => {
                let client = client(self.connecting);
                self.connecting += 1;
                self.running.spawn(async move {
                    let what = match proxy.connect(&server, &client).await {
                        Ok(introduction) => What::ProxyKey(introduction),
                        Err(code) => What::Refused(code),
                    };
                    answered(true, correlation, Whose::None, what)
                })
            }
            Asked::Forward { session, parcel } => {
                let correlation = parcel.correlation;
                let own = self.running.len() - self.connecting;
                let passed = proxy.forward(&session, parcel, &client(own));
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

impl Connection {
    /// Hands a request to the proxy, whose answer comes later.
    pub(super) fn ask_proxy(&mut self, command: &Authorised<'_>) {
        let proxy = self.shared.proxy.as_ref();
        let refused = match (proxy, command.command()) {
            (Some(_), Command::Proxy(request)) if self.may_use_proxy(request.password) => None,
            (Some(_), Command::ProxyForward(_)) => None,
            (None, Command::ProxyForward(_)) => Some(ProxyFault::NoSession),
            _ => Some(ProxyFault::BasicAuth),
        };
        if let Some(fault) = refused {
            return self.reply(command, What::Refused(ErrorCode::Proxy(fault)));
        }
        let Some(proxy) = proxy else { return };
        let forwards = self.forwards.get_or_insert_with(|| {
            let source = self.seat.source().clone();
            Box::new(Forwards::new(Arc::clone(proxy), source))
        });
        let correlation = command.correlation();
        match command.command() {
            Command::Proxy(request) => forwards.connect(correlation, request.server.clone()),
            Command::ProxyForward(forward) => {
                forwards.forward(correlation, command.entity(), forward);
            }
            _ => {}
        }
    }

    fn may_use_proxy(&self, given: Option<&[u8]>) -> bool {
        let settings = &self.settings;
        let demanded = settings.proxy_password.as_ref();
        match demanded.or(settings.password.as_ref()) {
            Some(password) => password.matches(given.unwrap_or_default()),
            None => true,
        }
    }

    /// Carries out a command that a proxy passes on, with the same work as a direct one.
    pub(super) fn answer_forwarded(
        &mut self,
        command: &Authorised<'_>,
        sealed: &[u8],
        now: Timestamp,
    ) {
        let mut room = self.shared.blocks.take();
        let opened = self
            .requests
            .open_forwarded(command.correlation(), sealed, &mut room);
        match opened {
            Err(code) => self.reply(command, What::Refused(code)),
            Ok(Forwarded { request, back }) => {
                let index = self.outbox.len();
                match request {
                    Ok(request) => self.answer(request, now),
                    Err(refusal) => self.refuse(&refusal),
                }
                self.outbox.answer_through(index, back);
                self.shared.metrics.forwarded.inc();
            }
        }
        self.shared.blocks.give_back(room);
    }

    /// Moves answers of other relays into the outbox.
    pub(super) fn take_forwarded(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut moved = false;
        if let Some(forwards) = &mut self.forwards {
            while self.outbox.room() > 0
                && let Poll::Ready(Some(reply)) = forwards.poll_next(cx)
            {
                self.outbox.push(reply.map_err(|_| Ended::Relay)?);
                moved = true;
            }
        }
        Ok(moved)
    }
}
