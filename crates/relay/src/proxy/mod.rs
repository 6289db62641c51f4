//! The proxy: carries commands of its clients to other relays.
//!
//! One connection per destination, shared by all clients: the destination sees this relay, and how
//! many commands come, but not from how many clients. Which destination a client asks for is known
//! here for as long as it waits, and written nowhere.
//!
//! # Rules
//! * Everything is bounded: destinations, connections being made, commands on their way (each
//!   16 KiB), in all, per client and per destination.
//! * A destination that is silent, slow, false or gone costs those who send to it, nobody else.
//! * What a client says where to connect is only followed to public addresses (`reach`).

mod dial;
mod link;
mod reach;
mod settings;

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use junto_smp::address::ServerAddress;
use junto_smp::error::{BrokerFault, ErrorCode, ProxyFault};
use junto_tls::ClientTls;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::dial::Dialer;
pub(crate) use self::dial::Own;
use self::link::{Given, LinkEnd, LinkTask};
pub(crate) use self::link::{Link, Parcel};
pub use self::settings::{Endpoint, ProxyConfig, ProxyLimits, ProxyTimeouts, SocksMode};
use crate::metrics::ProxyMetrics;

/// `ERR PROXY BROKER …`.
fn broker(fault: BrokerFault) -> ErrorCode {
    ErrorCode::Proxy(ProxyFault::Broker(fault))
}

/// `ERR PROXY NO_SESSION`.
const NO_SESSION: ErrorCode = ErrorCode::Proxy(ProxyFault::NoSession);

/// How an attempt to connect ended; `None` while it goes on.
type Outcome = Option<Result<Arc<Link>, BrokerFault>>;

/// What is known of a destination.
enum State {
    Connecting(watch::Receiver<Outcome>),
    Connected(Arc<Link>),
    Failed(Failure),
}

/// A destination that could not be reached.
#[derive(Clone, Copy)]
struct Failure {
    fault: BrokerFault,
    until: Instant,
    /// The pause that ends then.
    pause: Duration,
}

#[derive(Default)]
struct Table {
    destinations: HashMap<ServerAddress, State>,
    /// Open links by the session that clients name.
    sessions: HashMap<[u8; 32], Arc<Link>>,
    tasks: JoinSet<()>,
}

/// All destinations of this relay.
pub(crate) struct Proxy {
    pub(crate) limits: ProxyLimits,
    timeouts: ProxyTimeouts,
    dialer: Dialer,
    table: Mutex<Table>,
    connecting: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
    metrics: ProxyMetrics,
}

impl Proxy {
    pub(crate) fn new(
        config: &ProxyConfig,
        own: Own,
        tls: ClientTls,
        metrics: ProxyMetrics,
    ) -> Self {
        Self {
            dialer: Dialer::new(config, own, tls),
            limits: config.limits,
            timeouts: config.timeouts,
            table: Mutex::default(),
            connecting: Arc::new(Semaphore::new(config.limits.connecting)),
            forwards: Arc::new(Semaphore::new(config.limits.forwards)),
            metrics,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link to `server`, made if there is none. Goes on if the caller gives up.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        server: &ServerAddress,
    ) -> Result<Arc<Link>, ErrorCode> {
        let mut outcome = match self.find_or_start(server) {
            Ok(Found::Link(link)) => return Ok(link),
            Ok(Found::Wait(outcome)) => outcome,
            Err(fault) => return Err(broker(fault)),
        };
        // Fails only if the attempt was aborted.
        let done = outcome.wait_for(Option::is_some).await;
        let result = done.ok().and_then(|outcome| outcome.clone());
        result.unwrap_or(Err(BrokerFault::Network)).map_err(broker)
    }

    fn find_or_start(self: &Arc<Self>, server: &ServerAddress) -> Result<Found, BrokerFault> {
        let mut table = self.table();
        let mut pause = None;
        match table.destinations.get(server) {
            Some(State::Connected(link)) if link.is_open() => {
                link.touch();
                return Ok(Found::Link(Arc::clone(link)));
            }
            Some(State::Connecting(outcome)) => return Ok(Found::Wait(outcome.clone())),
            Some(State::Failed(failure)) if Instant::now() < failure.until => {
                return Err(failure.fault);
            }
            Some(State::Failed(failure)) => pause = Some(failure.pause),
            Some(State::Connected(_)) | None => {}
        }
        let permit = Arc::clone(&self.connecting)
            .try_acquire_owned()
            .map_err(|_| BrokerFault::Network)?;
        if !table.destinations.contains_key(server) && !table.make_room(self.limits.destinations) {
            return Err(BrokerFault::Network);
        }
        let (tell, outcome) = watch::channel(None);
        let waiting = State::Connecting(outcome.clone());
        table.destinations.insert(server.clone(), waiting);
        while table.tasks.try_join_next().is_some() {}
        let attempt = Attempt {
            server: server.clone(),
            before: pause,
            tell,
        };
        let proxy = Arc::clone(self);
        table.tasks.spawn(async move {
            let task = proxy.attempt(&attempt).await;
            drop(permit);
            // The proxy owns this task, not the other way round.
            let proxy = Arc::downgrade(&{ proxy });
            let Attempt {
                server,
                before,
                tell,
            } = attempt;
            drop(tell);
            if let Some((session, task)) = task {
                let end = Box::pin(task.run()).await;
                if let Some(proxy) = proxy.upgrade() {
                    proxy.leave(&server, &session, end, before);
                }
            }
        });
        Ok(Found::Wait(outcome))
    }

    /// Connects, and tells those who wait.
    async fn attempt(&self, attempt: &Attempt) -> Option<([u8; 32], LinkTask)> {
        let server = &attempt.server;
        match Box::pin(self.dialer.open(server)).await {
            Ok(opened) => {
                let (link, task) = Link::new(opened, &self.limits, &self.timeouts);
                self.enter(server, &link);
                let session = link.introduction.session().0;
                attempt.tell.send_replace(Some(Ok(link)));
                Some((session, task))
            }
            Err(fault) => {
                self.metrics.failed.inc();
                let failed = self.failed(fault, attempt.before);
                self.table().destinations.insert(server.clone(), failed);
                attempt.tell.send_replace(Some(Err(fault)));
                None
            }
        }
    }

    fn enter(&self, server: &ServerAddress, link: &Arc<Link>) {
        self.metrics.connected.inc();
        self.metrics.destinations.inc();
        let mut table = self.table();
        let state = State::Connected(Arc::clone(link));
        table.destinations.insert(server.clone(), state);
        let session = link.introduction.session().0;
        table.sessions.insert(session, Arc::clone(link));
    }

    fn leave(
        &self,
        server: &ServerAddress,
        session: &[u8; 32],
        end: LinkEnd,
        before: Option<Duration>,
    ) {
        tracing::debug!(?end, "link to a destination ended");
        let mut table = self.table();
        self.metrics.destinations.dec();
        table.sessions.remove(session);
        // Unless it was given up for another, or made anew since.
        if let Some(State::Connected(link)) = table.destinations.get(server)
            && link.introduction.session().0 == *session
        {
            match end.fault {
                // It greets and then fails: not to be greeted again at once.
                Some(fault) if !end.answered => {
                    let failed = self.failed(fault, before);
                    table.destinations.insert(server.clone(), failed);
                }
                Some(_) | None => {
                    table.destinations.remove(server);
                }
            }
        }
    }

    fn failed(&self, fault: BrokerFault, before: Option<Duration>) -> State {
        let timeouts = &self.timeouts;
        let pause = before.map_or(timeouts.retry, |pause| pause * 2);
        let pause = pause.min(timeouts.retry_max);
        State::Failed(Failure {
            fault,
            until: Instant::now() + pause,
            pause,
        })
    }

    /// Passes a command on to the destination of `session`, behind all that were passed on before.
    pub(crate) fn forward(&self, session: &[u8], parcel: Parcel) -> Result<Passed, ErrorCode> {
        let link = self.table().sessions.get(session).cloned();
        let given = link
            .filter(|link| link.is_open())
            .ok_or(NO_SESSION)
            .and_then(|link| {
                let permit = Arc::clone(&self.forwards)
                    .try_acquire_owned()
                    .map_err(|_| broker(BrokerFault::Timeout))?;
                let given = link.give(parcel)?;
                Ok(Passed { given, permit })
            });
        if given.is_err() {
            self.metrics.refused.inc();
        }
        given
    }

    /// The destination's answer to a command that was passed on.
    pub(crate) async fn answer(&self, passed: Passed) -> Result<Box<[u8]>, ErrorCode> {
        let Passed { given, permit } = passed;
        let answer = given.answer(self.timeouts.answer).await;
        drop(permit);
        match &answer {
            Ok(_) => self.metrics.passed_on.inc(),
            Err(_) => self.metrics.refused.inc(),
        };
        answer
    }

    /// Ends all links at once.
    pub(crate) fn close(&self) {
        let mut table = self.table();
        table.tasks.abort_all();
        self.metrics.destinations.set(0);
        table.sessions.clear();
        table.destinations.clear();
    }
}

/// A command on its way.
pub(crate) struct Passed {
    given: Given,
    permit: OwnedSemaphorePermit,
}

/// A connection being made.
struct Attempt {
    server: ServerAddress,
    /// The pause after the last failure, if the last attempt failed.
    before: Option<Duration>,
    tell: watch::Sender<Outcome>,
}

/// What [`Proxy::connect`] finds.
enum Found {
    Link(Arc<Link>),
    Wait(watch::Receiver<Outcome>),
}

impl Table {
    /// Makes room for one more destination among `limit`: the failed one whose pause ends first
    /// goes, else the idle link that was not asked for for longest.
    fn make_room(&mut self, limit: usize) -> bool {
        if self.destinations.len() < limit {
            return true;
        }
        let failed = self.destinations.iter().filter_map(|(server, state)| {
            let State::Failed(failure) = state else {
                return None;
            };
            Some((failure.until, server))
        });
        let idle = self.destinations.iter().filter_map(|(server, state)| {
            let State::Connected(link) = state else {
                return None;
            };
            link.is_idle().then(|| (link.used(), server))
        });
        let oldest = failed
            .min_by_key(|(until, _)| *until)
            .or_else(|| idle.min_by_key(|(used, _)| *used));
        let Some(server) = oldest.map(|(_, server)| server.clone()) else {
            return false;
        };
        if let Some(State::Connected(link)) = self.destinations.remove(&server) {
            // With the last handle its task ends.
            self.sessions.remove(&link.introduction.session().0);
        }
        true
    }
}
