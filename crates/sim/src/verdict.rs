//! How a run ends.

use core::fmt;
use std::collections::BTreeMap;

/// Something that must not happen has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant: the name of its file.
    pub invariant: &'static str,
    /// What exactly.
    pub text: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &'static str, text: impl Into<String>) -> Self {
        Self {
            invariant,
            text: text.into(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.text)
    }
}

/// What a run went through: how often each kind of thing happened. Tests use it to see that the
/// faults they mean to test did occur.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// How often it happened.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }

    /// Adds another run's numbers.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (what, times) in &self.0 {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            write!(f, "{times} {what}")?;
        }
        Ok(())
    }
}

/// A run that is over.
#[derive(Debug)]
pub struct Run {
    /// What it went through.
    pub tally: Tally,
    /// Equal for equal runs.
    pub digest: [u8; 32],
    /// Last events, if they were asked for.
    pub lines: Vec<String>,
    /// How it ended.
    pub result: Result<(), Violation>,
}
