//! A clock that a test moves by hand, so that no load of the machine can make anything late.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// While it lives, the time of the runtime stands still, though bytes move: for runtimes of one thread.
pub(crate) struct Clock(Option<Sender<()>>);

/// A test that hangs is told by the wall: then the clock runs on, and what waits in vain gives up.
const HANGS: Duration = Duration::from_secs(120);

impl Clock {
    pub(crate) fn stop() -> Self {
        tokio::time::pause();
        let mut clock = Self(None);
        clock.hold();
        clock
    }

    /// By itself, a clock that stands still jumps to the next timer when all tasks wait; but not while
    /// a thread is at work.
    fn hold(&mut self) {
        let (held, holding) = channel::<()>();
        tokio::task::spawn_blocking(move || _ = holding.recv_timeout(HANGS));
        self.0 = Some(held);
    }

    /// Lets time pass, and a little more: timers go by whole milliseconds.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::advance(time + Duration::from_millis(1)).await;
    }

    /// Waits until everybody waits.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..3 {
            self.0 = None;
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.hold();
        }
    }
}

/// Waits until `condition` holds. By the wall, so that it may be asked while a test's clock is stopped.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came");
        let pause = || std::thread::sleep(Duration::from_millis(2));
        tokio::task::spawn_blocking(pause).await.unwrap();
    }
}
