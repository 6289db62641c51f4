//! What sessions run over, as the simulation drives it.

use std::collections::VecDeque;

use junto_session::proto::{
    endpoint::Event,
    step::{Effect, Outcome},
};

use crate::{faults::Faults, trace::Trace, verdict::Tally};

/// What a party's process learns.
pub enum News {
    /// From the carrier.
    Event(Event),
    /// How an effect ended.
    Outcome(Outcome),
    /// The process died, and with it everything in memory. It comes back by itself.
    Crashed,
    /// The process runs (again).
    Started,
}

/// A carrier for all parties of a run, with a clock of its own. It also owns the life of the
/// parties' processes, as a process dies with everything in it.
pub trait Carrier {
    /// Longest body of one message.
    fn body_bytes(&self) -> usize;
    /// From now on, this goes wrong.
    fn set_faults(&mut self, faults: Faults);
    /// The virtual time.
    fn now_ms(&self) -> u64;
    /// When something happens next.
    fn next_ms(&self) -> Option<u64>;
    /// Lets time pass, at most until the next happening.
    fn wait_until(&mut self, now_ms: u64);
    /// Lets the next thing happen.
    fn run_one(&mut self);
    /// What processes have learnt since the last call.
    fn take_news(&mut self) -> VecDeque<(usize, News)>;
    /// Does what a session's step released. With `at_once`, before anything else happens.
    fn perform(&mut self, party: usize, effect: Effect, at_once: bool);
    /// Where a party receives, in the carrier's terms.
    fn home(&self, party: usize) -> String;
    /// Kills a process; it comes back unless `for_good`.
    fn crash(&mut self, party: usize, for_good: bool);
    /// How often what happened.
    fn tally(&mut self) -> &mut Tally;
    /// What happened.
    fn trace(&mut self) -> &mut Trace;
}
