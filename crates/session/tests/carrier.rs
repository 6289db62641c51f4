//! What every carrier must do, as one suite for all of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

#[macro_use]
mod conformance;

use std::time::Duration;

use conformance::World;
use junto_session::carrier::{
    Carriage,
    memory::{Hub, Unkindness},
};

struct Memory(Hub);

impl World for Memory {
    async fn open(&self, name: &str) -> Carriage {
        self.0.open(name)
    }

    fn relay(&self) -> String {
        String::new()
    }
}

carrier_conformance!(memory, Memory(Hub::new()));
carrier_conformance!(
    slow_memory,
    Memory(Hub::with(
        2000,
        Unkindness {
            repeat_every: 0,
            delay_max: Duration::from_millis(2),
        }
    ))
);
