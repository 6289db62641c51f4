//! `kill -9` of clients and relays while queues are replaced and keys renewed, again and again: nothing is lost, nothing
//! comes twice, and in the end the change is made.
//!
//! The moments of the kills come from a seed, `JUNTO_STORM_SEED` adds another one; what must hold afterwards depends
//! on none of them.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod stage;
use std::mem::take;
use std::time::Duration;

use serde_json::{Value, json};
use stage::{Process, Stage};

/// Kills of each storm.
const ROUNDS: u64 = 7;
/// Every command is over before this unless it is killed: a change that does not end fails the test.
const PATIENCE: [&str; 2] = ["--timeout", "90"];
const FOLDERS: [&str; 2] = ["relay", "second"];

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Long enough for a command to be done on an idle machine, now and then.
    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.below(900))
    }
}

struct Storm {
    stage: Stage,
    dice: Dice,
    relays: Vec<Option<Process>>,
    addresses: Vec<String>,
    /// What each side said, in order, and whether the command that said it was done.
    by_bob: Vec<(String, bool)>,
    by_alice: Vec<(String, bool)>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let stage = Stage::new();
        let (relays, addresses): (Vec<_>, Vec<_>) =
            FOLDERS.iter().map(|folder| stage.relay_in(folder)).unzip();
        stage.contacts(&addresses[0]);
        Self {
            stage,
            dice: Dice(seed),
            relays: relays.into_iter().map(Some).collect(),
            addresses,
            by_bob: Vec::new(),
            by_alice: Vec::new(),
        }
    }

    fn start(&self, who: &str, command: &[&str]) -> Process {
        self.stage.start(who, &[command, &PATIENCE].concat())
    }

    /// Somebody who is there and answers, and reads no messages.
    fn present(&self, who: &str) -> Process {
        self.start(who, &["contact", "requests"])
    }

    /// Kills a relay in the middle of whatever it does, and starts it again on what its disk has.
    fn strike_relay(&mut self) {
        let which = usize::try_from(self.dice.below(2)).unwrap();
        if let Some(relay) = self.relays[which].take() {
            relay.kill();
        }
        self.relays[which] = Some(self.stage.restart_relay_in(FOLDERS[which]));
    }

    /// A change by alice and a message by bob at the same time, then one by alice, struck at some moments.
    fn round(&mut self, number: u64, change: &[&str]) {
        let changing = self.start("alice", change);
        let text = format!("bob {number}");
        let sending = self.start("bob", &["send", "--contact", "alice", &text]);
        std::thread::sleep(self.dice.pause());
        if self.dice.below(3) == 0 {
            self.strike_relay();
            std::thread::sleep(self.dice.pause());
        }
        changing.kill();
        let is_struck = self.dice.below(3) == 0;
        let done = self.finish(sending, "alice", is_struck);
        self.by_bob.push((text, done));
        let text = format!("alice {number}");
        let sending = self.start("alice", &["send", "--contact", "bob", &text]);
        let is_struck = self.dice.below(3) == 0;
        let done = self.finish(sending, "bob", is_struck);
        self.by_alice.push((text, done));
    }

    /// Lets a sender end, with the other side there: keys that are being renewed need it. Or kills it. Whether it had
    /// done its work.
    fn finish(&mut self, sending: Process, other: &str, is_struck: bool) -> bool {
        let present = self.present(other);
        let done = if is_struck {
            let pause = self.dice.pause();
            sending.kill_after(pause).code == Some(0)
        } else {
            sending.wait().ok();
            true
        };
        present.kill();
        done
    }

    /// The change that was begun so often comes to its end, and everything that was said is there.
    fn end(&mut self, change: &[&str]) -> Value {
        let present = self.present("bob");
        let changed = self.start("alice", change).wait().ok().clone();
        present.kill();
        for (from, to) in [("bob", "alice"), ("alice", "bob")] {
            let send = self.start(from, &["send", "--contact", to, "the end"]);
            assert!(self.finish(send, to, false));
        }
        let (by_bob, by_alice) = (take(&mut self.by_bob), take(&mut self.by_alice));
        self.check("alice", "bob", &by_bob);
        self.check("bob", "alice", &by_alice);
        changed
    }

    /// Everything comes in order and once: certainly what a command was done with, perhaps what one was killed over.
    fn check(&self, who: &str, from: &str, said: &[(String, bool)]) {
        let mut said = said.iter();
        loop {
            let received = self.start(who, &["recv", "--contact", from]).wait();
            let text = received.text("text");
            assert_eq!(received.ok()["intact"], true, "{received:#?}");
            if text == "the end" {
                break;
            }
            let passed_over = said.by_ref().take_while(|(it, _)| *it != text);
            let lost: Vec<_> = passed_over.filter(|(_, done)| *done).collect();
            assert!(lost.is_empty(), "before `{text}` there is no {lost:?}");
        }
        let lost: Vec<_> = said.filter(|(_, done)| *done).collect();
        assert!(
            lost.is_empty(),
            "{lost:?} did not come, or something came twice"
        );
        let nothing = ["recv", "--contact", from, "--timeout", "1"];
        self.stage.run(who, &nothing).failed(3);
        let shown = self.stage.run(who, &["contact", "show", from]);
        assert_eq!(shown.text("keys"), "in-step", "{shown:#?}");
        assert_eq!(shown.ok()["rotating"], false, "{shown:#?}");
        assert_eq!(shown.ok()["verdicts"], json!([]), "{shown:#?}");
    }
}

/// The seeds of a storm.
fn seeds(fixed: u64) -> Vec<u64> {
    let more = std::env::var("JUNTO_STORM_SEED").ok();
    let more = more.map(|seed| seed.parse().unwrap());
    std::iter::once(fixed).chain(more).collect()
}

fn rotations(fixed: u64) {
    for seed in seeds(fixed) {
        let mut storm = Storm::new(seed);
        let addresses = storm.addresses.clone();
        let rotate = |to: usize| ["contact", "rotate", "bob", "--relay", &addresses[to]];
        for number in 0..ROUNDS {
            let to = usize::from(number % 2 == 0);
            storm.round(number, &rotate(to));
        }
        // One that bob has answered is finished first, wherever it leads.
        let first = storm.end(&rotate(1))["relay"].clone();
        if first != addresses[1] {
            let again = storm.end(&rotate(1));
            assert_eq!(again["relay"], addresses[1], "seed {seed}");
        }
    }
}

fn renewals(fixed: u64) {
    for seed in seeds(fixed) {
        let mut storm = Storm::new(seed);
        for number in 0..ROUNDS {
            storm.round(number, &["contact", "resync", "bob"]);
        }
        let changed = storm.end(&["contact", "resync", "bob"]);
        assert_eq!(changed["missing"], 0, "seed {seed}");
    }
}

#[test]
fn a_rotation_that_is_killed_again_and_again_ends_and_loses_nothing() {
    rotations(1);
}

#[test]
fn another_rotation_that_is_killed_again_and_again_ends_and_loses_nothing() {
    rotations(2);
}

#[test]
fn new_keys_that_are_killed_again_and_again_are_agreed_and_lose_nothing() {
    renewals(3);
}

#[test]
fn other_new_keys_that_are_killed_again_and_again_are_agreed_and_lose_nothing() {
    renewals(4);
}
