//! How fast a connection may send blocks: whoever sends faster is read later, and loses nothing.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

use crate::config::Rate;
use crate::sources::Bucket;

/// What one connection may still send.
pub(super) struct Pace {
    bucket: Bucket,
    /// The next block is paid for.
    paid: bool,
    /// It is not, before this.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            bucket: Bucket::full(),
            paid: false,
            pause: None,
        }
    }
}

impl Pace {
    /// Whether another block may be read already; otherwise the task is woken when it may. Calls
    /// `delayed` when a wait begins.
    pub(super) fn poll(
        &mut self,
        rate: Rate,
        cx: &mut Context<'_>,
        mut delayed: impl FnMut(),
    ) -> Poll<()> {
        while !self.paid {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.bucket.take(rate, Instant::now()) {
                Ok(()) => self.paid = true,
                Err(wait) => {
                    delayed();
                    self.pause = Some(Box::pin(tokio::time::sleep(wait)));
                }
            }
        }
        Poll::Ready(())
    }

    /// A block was read.
    pub(super) fn spend(&mut self) {
        self.paid = false;
    }
}
