//! Judges evidence of real hardware by a policy, and remembers how far the days have gone.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use junto_evidence::{Floor, Policy, Roots, Seconds, judge};

use crate::{Accepted, Bound, Evidence, EvidenceError, Kind, Verifier, serve::now};

/// Stores a floor, never one below that which is stored, and says what is stored then.
pub type Keep = Box<dyn Fn(Floor) -> io::Result<Floor> + Send + Sync>;

/// A verifier with a policy.
pub struct Judge {
    simulated: Accepted,
    policy: Policy,
    roots: Roots,
    floor: Mutex<Floor>,
    keep: Keep,
    clock: fn() -> Seconds,
}

impl Judge {
    /// By that policy, and under the vendors' own roots. `floor` is what `keep` has stored.
    #[must_use]
    pub fn new(policy: Policy, floor: Floor, keep: Keep) -> Self {
        Self {
            simulated: Accepted::default(),
            policy,
            roots: Roots::vendors(),
            floor: Mutex::new(floor),
            keep,
            clock: || Seconds(now().0),
        }
    }

    /// What besides is done with evidence that proves nothing.
    #[must_use]
    pub fn or(mut self, simulated: Accepted) -> Self {
        self.simulated = simulated;
        self
    }

    /// Under other roots, on another day.
    #[must_use]
    pub fn for_tests(mut self, roots: Roots, clock: fn() -> Seconds) -> Self {
        (self.roots, self.clock) = (roots, clock);
        self
    }
}

impl Verifier for Judge {
    fn verify(&self, evidence: &Evidence, bound: &Bound) -> Result<(), EvidenceError> {
        let Kind::Of(kind) = evidence.kind() else {
            return self.simulated.verify(evidence, bound);
        };
        // Nothing under this lock panics.
        let mut floor = self.floor.lock().unwrap_or_else(PoisonError::into_inner);
        let by = (&self.policy, &self.roots);
        let (_, raised) = judge(kind, evidence.bytes(), &bound.0, by, &floor, (self.clock)())?;
        if raised != *floor {
            // Stored before anything rests on it.
            let kept =
                (self.keep)(raised).map_err(|error| EvidenceError::Floor(error.to_string()))?;
            *floor = raised.joined(kept);
        }
        Ok(())
    }
}
