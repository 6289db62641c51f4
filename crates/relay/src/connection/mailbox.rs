//! News for a connection from other connections' tasks.

use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Waker};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use junto_smp::id::{ID_BYTES, NotifierId};
use junto_smp::queue::{ConnectionId, Event, NotifierEvent, NotifierNews};
use junto_smp::service::ServiceQueues;

use crate::store::{Body, Position, Queue, Store};

/// Something that happened to a queue of this connection.
pub(crate) struct News {
    /// The connection's name for the queue: its recipient's, or its notification server's; or the id
    /// of a service.
    pub(crate) queue: [u8; ID_BYTES],
    pub(crate) event: Happened,
    /// What it rests on.
    pub(crate) position: Position,
}

/// What happened.
pub(crate) enum Happened {
    /// To a queue that the connection reads.
    Queue(Event<Body>),
    /// To a queue whose notifications it gets.
    Notifier(NotifierNews),
    /// Another connection reads for its service, which has these queues. The service is named in
    /// place of a queue.
    ServiceEnd(ServiceQueues),
}

impl Happened {
    /// The queue that it is a notification of, if it is one.
    pub(crate) fn notification(&self) -> Option<NotifierId> {
        match self {
            Self::Notifier(NotifierNews {
                notifier,
                event: NotifierEvent::Notification(_),
            }) => Some(*notifier),
            Self::Notifier(_) | Self::Queue(_) | Self::ServiceEnd(_) => None,
        }
    }

    /// Whether the connection hears no more of the queue.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Queue(event) => matches!(event, Event::End | Event::Deleted),
            Self::Notifier(news) => {
                matches!(news.event, NotifierEvent::End | NotifierEvent::Deleted)
            }
            Self::ServiceEnd(_) => false,
        }
    }
}

/// Where other tasks leave news for one connection.
pub(crate) struct Mailbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    news: VecDeque<News>,
    /// Most news that may wait. A connection gets at most one message and one end for each of its
    /// queues before it answers, and one notification before it takes that, so only somebody who plays
    /// with subscriptions reaches it.
    limit: usize,
    waker: Option<Waker>,
    overflow: bool,
    closing: bool,
}

/// What a connection finds in its mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Everything that there was, or as much as was wanted.
    News,
    /// Too much: close at once.
    Overflow,
    /// The relay shuts down: finish sending and close.
    Closing,
}

impl Mailbox {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let state = State {
            limit,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// Changes how much may wait from now on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.state().limit = limit;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, news: News) {
        let waker = {
            let mut state = self.state();
            if state.news.len() < state.limit {
                state.news.push_back(news);
            } else {
                state.overflow = true;
            }
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let waker = {
            let mut state = self.state();
            state.closing = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Hands up to `room` news to `take`, and wakes the task when more come.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        mut take: impl FnMut(News),
    ) -> Found {
        let mut state = self.state();
        let count = state.news.len().min(room);
        state.news.drain(..count).for_each(&mut take);
        if state.news.is_empty() && state.news.capacity() > 64 {
            state.news.shrink_to(0);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            empty => *empty = Some(cx.waker().clone()),
        }
        match (state.overflow, state.closing) {
            (true, _) => Found::Overflow,
            (false, true) => Found::Closing,
            (false, false) => Found::News,
        }
    }
}

/// Parts of the registry.
const SHARDS: usize = 16;

type Shard = RwLock<HashMap<ConnectionId, Arc<Mailbox>>>;

/// All open connections.
#[derive(Default)]
pub(crate) struct Registry {
    shards: [Shard; SHARDS],
    closed: AtomicBool,
}

impl Registry {
    fn shard(&self, id: ConnectionId) -> &Shard {
        // Numbers are consecutive, so this spreads them evenly.
        &self.shards[usize::try_from(id.0 % SHARDS as u64).unwrap_or(0)]
    }

    pub(crate) fn enter(&self, id: ConnectionId, mailbox: Arc<Mailbox>) {
        let mut shard = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Relaxed) {
            mailbox.close();
        }
        shard.insert(id, mailbox);
    }

    pub(crate) fn leave(&self, id: ConnectionId) {
        let mut shard = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        shard.remove(&id);
    }

    /// Leaves `news` for `id`. If that connection is gone it does not matter: whoever subscribes
    /// next gets the message anew.
    pub(crate) fn post(&self, id: ConnectionId, news: News) {
        let shard = self
            .shard(id)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mailbox) = shard.get(&id) {
            mailbox.post(news);
        }
    }

    /// Tells the reader of `queue` what happened to it; under its lock, so that news of one queue keep
    /// their order.
    pub(crate) fn tell_reader(
        &self,
        store: &dyn Store,
        queue: &Queue,
        (reader, event): (ConnectionId, Event<Body>),
    ) {
        let news = News {
            queue: queue.recipient().0,
            event: Happened::Queue(event),
            position: store.position(),
        };
        self.post(reader, news);
    }

    /// Tells a notification server; under the lock of the queue as well.
    pub(crate) fn tell_notifier(
        &self,
        store: &dyn Store,
        (server, news): (ConnectionId, NotifierNews),
    ) {
        let news = News {
            queue: news.notifier.0,
            event: Happened::Notifier(news),
            position: store.position(),
        };
        self.post(server, news);
    }

    /// Asks every connection to finish, also those that enter from now on.
    pub(crate) fn close_all(&self) {
        // Whoever enters a shard before it is visited below is found there, and whoever enters
        // after has seen this, because the shard's lock was passed on in between.
        self.closed.store(true, Ordering::Relaxed);
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.values().for_each(|mailbox| mailbox.close());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(n: u8) -> News {
        News {
            queue: [n; ID_BYTES],
            event: Happened::Queue(Event::End),
            position: Position::default(),
        }
    }

    #[test]
    fn keeps_order_bounds_and_tells() {
        let registry = Registry::default();
        let mailbox = Mailbox::new(3);
        let id = ConnectionId(77);
        registry.enter(id, Arc::clone(&mailbox));
        for n in 0..3 {
            registry.post(id, news(n));
        }
        registry.post(ConnectionId(78), news(9));
        let mut seen = Vec::new();
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(
            mailbox.poll_take(cx, 2, |n| seen.push(n.queue[0])),
            Found::News
        );
        assert_eq!(
            mailbox.poll_take(cx, 2, |n| seen.push(n.queue[0])),
            Found::News
        );
        assert_eq!(seen, [0, 1, 2]);
        registry.close_all();
        assert_eq!(mailbox.poll_take(cx, 2, |_| {}), Found::Closing);
        (0..4).for_each(|n| registry.post(id, news(n)));
        assert_eq!(mailbox.poll_take(cx, 9, |_| {}), Found::Overflow);
        let roomy = Mailbox::new(1);
        let id = ConnectionId(80);
        registry.enter(id, Arc::clone(&roomy));
        registry.post(id, news(1));
        roomy.set_limit(2);
        registry.post(id, news(2));
        assert_eq!(roomy.poll_take(cx, 9, |_| {}), Found::Closing);
        registry.leave(id);
        registry.post(id, news(1));
        let late = Mailbox::new(3);
        registry.enter(ConnectionId(79), Arc::clone(&late));
        assert_eq!(late.poll_take(cx, 2, |_| {}), Found::Closing);
    }
}
