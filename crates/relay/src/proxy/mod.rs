//! The proxy: carries commands of its clients to other relays.
//!
//! One connection per destination, shared by all clients: the destination sees this relay, and how
//! many commands come, but not from how many clients. Which destination a client asks for is known
//! here for as long as it waits, and written nowhere; for which source a link was made is known, as a
//! hash, while there is the link.
//!
//! # Rules
//! * Everything is bounded: destinations, connections being made, commands on their way (each
//!   16 KiB), in all, per client, per source and per destination.
//! * A destination that is silent, slow, false or gone costs those who send to it, nobody else.
//! * What a client says where to connect is only followed to public addresses (`reach`).

mod dial;
mod link;
mod place;
mod reach;
mod settings;
mod table;

use core::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use junto_smp::address::ServerAddress;
use junto_smp::error::{BrokerFault, ErrorCode, ProxyFault};
use junto_smp::proxy::Introduction;
use junto_tls::ClientTls;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub(crate) use self::dial::Own;
use self::dial::{Dialer, Hold, Opened, Unreached};
pub(crate) use self::link::{FORWARDS_MAX, Parcel};
use self::link::{Given, Link, LinkEnd, LinkTask, Ticket};
use self::place::{Place, places};
use self::reach::Reach;
pub use self::settings::{Endpoint, ProxyConfig, ProxyLimits, ProxyTimeouts, SocksMode};
use self::table::{Failures, Found, Outcome, Table};
use crate::metrics::{Beyond, ProxyMetrics};
use crate::sources::{Act, Held, Most, Share, Source};

/// `ERR PROXY BROKER …`.
fn broker(fault: BrokerFault) -> ErrorCode {
    ErrorCode::Proxy(ProxyFault::Broker(fault))
}

/// `ERR PROXY NO_SESSION`.
const NO_SESSION: ErrorCode = ErrorCode::Proxy(ProxyFault::NoSession);

/// What may change while the relay runs.
struct Live {
    limits: ProxyLimits,
    /// Another one as soon as anything in it changes.
    reach: Arc<Reach>,
}

/// Who asks for something.
pub(crate) struct Client {
    pub(crate) source: Source,
    /// How much of the same it has under way.
    pub(crate) own: usize,
}

struct Destinations {
    table: Table,
    failures: Failures,
    tasks: JoinSet<()>,
}

/// All destinations of this relay.
pub(crate) struct Proxy {
    live: RwLock<Live>,
    /// As at the start: how many there are in all does not change.
    fixed: ProxyLimits,
    timeouts: ProxyTimeouts,
    dialer: Dialer,
    destinations: Mutex<Destinations>,
    connecting: Arc<Semaphore>,
    /// Places for links. Each keeps its own until its connection is closed.
    room: Arc<Semaphore>,
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
        let reach = Arc::new(Reach::new(config));
        own_addresses(&reach);
        let limits = &config.limits;
        Self {
            live: RwLock::new(Live {
                limits: *limits,
                reach,
            }),
            fixed: *limits,
            dialer: Dialer::new(config, own, tls),
            timeouts: config.timeouts,
            destinations: Mutex::new(Destinations {
                table: Table::default(),
                failures: Failures::new(limits.destinations, &config.timeouts),
                tasks: JoinSet::new(),
            }),
            connecting: Arc::new(Semaphore::new(limits.connecting)),
            room: Arc::new(Semaphore::new(limits.destinations)),
            forwards: Arc::new(Semaphore::new(limits.forwards)),
            metrics,
        }
    }

    /// Takes from `config` what may change while the relay runs. Links that lead where the proxy may
    /// not go any more are cut.
    pub(crate) fn reload(&self, config: &ProxyConfig) {
        let reach = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.limits = config.limits;
            let reach = Reach::new(config);
            // What is being connected to under other rules does not become a link.
            if *live.reach != reach {
                live.reach = Arc::new(reach);
            }
            Arc::clone(&live.reach)
        };
        let own = own_addresses(&reach);
        let may_stay =
            |place: &Place, link: &Link| reach.allows_at(&place.door, link.address, own.as_deref());
        let cut = self.destinations().table.cut(may_stay);
        if cut > 0 {
            tracing::info!(cut, "links to destinations that are refused now");
        }
    }

    pub(crate) fn limits(&self) -> ProxyLimits {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.limits
    }

    fn reach(&self) -> Arc<Reach> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&live.reach)
    }

    fn destinations(&self) -> MutexGuard<'_, Destinations> {
        let destinations = self.destinations.lock();
        destinations.unwrap_or_else(PoisonError::into_inner)
    }

    /// A link to `server`, made for `client` if there is none. Goes on if the caller gives up.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        server: &ServerAddress,
        client: &Client,
    ) -> Result<Arc<Introduction>, ErrorCode> {
        let places = places(server);
        if places.iter().any(|place| self.dialer.is_own(place)) {
            return Err(broker(BrokerFault::Host));
        }
        let connected = |place| match self.destinations().table.find(place) {
            Some(Found::Link(introduction)) => Some(introduction),
            Some(Found::Wait(_)) | None => None,
        };
        if let Some(introduction) = places.iter().find_map(connected) {
            return Ok(introduction);
        }
        let deadline = Instant::now() + self.timeouts.connect;
        let mut fault = BrokerFault::Host;
        for place in &places {
            match self.connect_to(place, client).await {
                Ok(introduction) => return Ok(introduction),
                Err(Unreached::Here(fault)) => return Err(broker(fault)),
                Err(why) => fault = why.fault(),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(broker(fault))
    }

    async fn connect_to(
        self: &Arc<Self>,
        place: &Place,
        client: &Client,
    ) -> Result<Arc<Introduction>, Unreached> {
        let mut outcome = match self.find_or_start(place, client)? {
            Found::Link(introduction) => return Ok(introduction),
            Found::Wait(outcome) => outcome,
        };
        // Fails only if the attempt was aborted.
        let done = outcome.wait_for(Option::is_some).await;
        let result = done.ok().and_then(|outcome| outcome.clone());
        result.unwrap_or(Err(Unreached::Here(BrokerFault::Network)))
    }

    fn find_or_start(self: &Arc<Self>, place: &Place, client: &Client) -> Result<Found, Unreached> {
        let mut destinations = self.destinations();
        if let Some(found) = destinations.table.find(place) {
            return Ok(found);
        }
        if let Some(fault) = destinations.failures.fault(place, Instant::now()) {
            return Err(Unreached::Door(fault));
        }
        let started = self.start(&mut destinations, place, client);
        started.map(Found::Wait).map_err(|beyond| {
            self.metrics.beyond(beyond);
            Unreached::Here(BrokerFault::Network)
        })
    }

    /// Starts to connect, within all limits.
    fn start(
        self: &Arc<Self>,
        destinations: &mut Destinations,
        place: &Place,
        Client { source, own }: &Client,
    ) -> Result<watch::Receiver<Outcome>, Beyond> {
        let limits = self.limits();
        let most = Most::of(self.fixed.connecting, limits.connecting_per_source, *own);
        let share = source.take(Held::Connecting, most);
        let share = share.ok_or(Beyond::Source)?;
        let permit = Arc::clone(&self.connecting).try_acquire_owned();
        let permit = permit.map_err(|_| Beyond::Total)?;
        let rate = limits.failures_per_second_per_source;
        if !source.may(Act::FailedConnect, rate, std::time::Instant::now()) {
            return Err(Beyond::Rate);
        }
        let room = Arc::clone(&self.room).try_acquire_owned().ok();
        let most = Most::of(self.fixed.destinations, limits.destinations_per_source, 0);
        let (maker, limit) = (source.mark(), source.limit(most));
        let made = destinations.table.make_room(maker, limit, room.is_some());
        made.inspect_err(|_| source.did_not(Act::FailedConnect))?;
        let tell = destinations.table.connecting(place, maker);
        let outcome = tell.subscribe();
        let attempt = Attempt {
            place: place.clone(),
            source: source.clone(),
            hold: Arc::new((permit, share)),
            room,
            tell,
        };
        while destinations.tasks.try_join_next().is_some() {}
        let proxy = Arc::clone(self);
        destinations.tasks.spawn(async move {
            let place = attempt.place.clone();
            let made = Box::pin(proxy.attempt(attempt)).await;
            // The proxy owns this task, not the other way round.
            let proxy = Arc::downgrade(&{ proxy });
            if let Some(Made {
                session,
                task,
                _room,
            }) = made
            {
                let end = Box::pin(task.run()).await;
                if let Some(proxy) = proxy.upgrade() {
                    proxy.leave(&place, &session, end);
                }
            }
        });
        Ok(outcome)
    }

    /// Connects, and tells those who wait.
    async fn attempt(&self, attempt: Attempt) -> Option<Made> {
        let Attempt {
            place,
            source,
            hold,
            room,
            tell,
        } = attempt;
        let opened = self.open(&place, room, &hold).await;
        drop(hold);
        let linked = opened.and_then(|(opened, room, reach)| {
            source.did_not(Act::FailedConnect);
            let (link, task) = Link::new(opened, &self.timeouts);
            self.enter(&place, &source, &link, &reach)?;
            let made = Made {
                session: link.introduction.session().0,
                task,
                _room: room,
            };
            Ok((Arc::clone(&link.introduction), made))
        });
        let (outcome, made) = match linked {
            Ok((introduction, made)) => (Ok(introduction), Some(made)),
            Err(why) => {
                self.metrics.failed.inc();
                let mut destinations = self.destinations();
                destinations.table.unreached(&place);
                destinations.failures.failed(&place, why, Instant::now());
                (Err(why), None)
            }
        };
        tell.send_replace(Some(outcome));
        made
    }

    async fn open(
        &self,
        place: &Place,
        room: Option<OwnedSemaphorePermit>,
        hold: &Hold,
    ) -> Result<(Opened<Ticket>, OwnedSemaphorePermit, Arc<Reach>), Unreached> {
        let room = match room {
            Some(room) => room,
            // The link that was given up for this one is being closed.
            None => timeout(
                self.timeouts.connect,
                Arc::clone(&self.room).acquire_owned(),
            )
            .await
            .map_err(|_| Unreached::Here(BrokerFault::Timeout))?
            .map_err(|_| Unreached::Here(BrokerFault::Network))?,
        };
        let reach = self.reach();
        let opened = Box::pin(self.dialer.open(place, Arc::clone(&reach), hold)).await?;
        Ok((opened, room, reach))
    }

    /// Lets a link be found that was made under the rules of `reach`, unless there are others now: what
    /// they refuse has been cut before.
    fn enter(
        &self,
        place: &Place,
        source: &Source,
        link: &Arc<Link>,
        reach: &Arc<Reach>,
    ) -> Result<(), Unreached> {
        let mut destinations = self.destinations();
        if !Arc::ptr_eq(reach, &self.reach()) {
            return Err(Unreached::Here(BrokerFault::Network));
        }
        self.metrics.connected.inc();
        self.metrics.destinations.inc();
        destinations.failures.opened(place);
        destinations.table.connected(place, source.mark(), link);
        Ok(())
    }

    fn leave(&self, place: &Place, session: &[u8; 32], end: LinkEnd) {
        tracing::debug!(?end, "link to a destination ended");
        let mut destinations = self.destinations();
        self.metrics.destinations.dec();
        // Unless it was given up for another, or made anew since.
        if destinations.table.ended(place, session) {
            match end.fault {
                // It greets and then fails: not to be greeted again at once.
                Some(fault) if !end.answered => {
                    let why = Unreached::Relay(fault);
                    destinations.failures.failed(place, why, Instant::now());
                }
                Some(_) | None => destinations.failures.served(place),
            }
        }
    }

    /// Passes a command on to the destination of `session`, behind all that were passed on before.
    pub(crate) fn forward(
        &self,
        session: &[u8],
        parcel: Parcel,
        client: &Client,
    ) -> Result<Passed, ErrorCode> {
        let link = self.destinations().table.session(session);
        let passed = link
            .ok_or(NO_SESSION)
            .and_then(|link| self.pass(&link, parcel, client));
        if passed.is_err() {
            self.metrics.refused.inc();
        }
        passed
    }

    fn pass(
        &self,
        link: &Link,
        parcel: Parcel,
        Client { source, own }: &Client,
    ) -> Result<Passed, ErrorCode> {
        let limits = self.limits();
        let full = |beyond| {
            self.metrics.beyond(beyond);
            broker(BrokerFault::Timeout)
        };
        let most = Most::of(self.fixed.forwards, limits.forwards_per_source, *own);
        let share = source.take(Held::Forward, most);
        let share = share.ok_or_else(|| full(Beyond::Source))?;
        let permit = Arc::clone(&self.forwards).try_acquire_owned();
        let permit = permit.map_err(|_| full(Beyond::Total))?;
        let all = limits.forwards_per_destination;
        let room = link.room(source.limit(Most::of(all, all, *own)));
        let room = room.ok_or_else(|| full(Beyond::Destination))?;
        Ok(Passed {
            given: link.give(parcel, room)?,
            _permit: permit,
            _share: share,
        })
    }

    /// The destination's answer to a command that was passed on.
    pub(crate) async fn answer(&self, passed: Passed) -> Result<Box<[u8]>, ErrorCode> {
        let answer = passed.given.answer(self.timeouts.answer).await;
        match &answer {
            Ok(_) => self.metrics.passed_on.inc(),
            Err(_) => self.metrics.refused.inc(),
        };
        answer
    }

    /// Ends all links at once.
    pub(crate) fn close(&self) {
        let mut destinations = self.destinations();
        destinations.tasks.abort_all();
        self.metrics.destinations.set(0);
        destinations.table.clear();
    }
}

/// The addresses of this machine that the proxy must not go to; `None` if it may go nowhere, because
/// they cannot be told.
fn own_addresses(reach: &Reach) -> Option<Vec<IpAddr>> {
    reach
        .own()
        .inspect_err(|error| {
            tracing::error!(%error, "cannot tell this machine's addresses, so the proxy connects nowhere");
        })
        .ok()
}

/// A command on its way.
pub(crate) struct Passed {
    given: Given,
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

/// A connection being made.
struct Attempt {
    place: Place,
    /// Who asked first.
    source: Source,
    hold: Hold,
    /// A place for the link, if one was free.
    room: Option<OwnedSemaphorePermit>,
    tell: watch::Sender<Outcome>,
}

/// A connection that was made.
struct Made {
    session: [u8; 32],
    task: LinkTask,
    _room: OwnedSemaphorePermit,
}
