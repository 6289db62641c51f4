//! What happened in a run, for whoever has to understand a failure.

use std::collections::VecDeque;

use junto_crypto::hash::sha256_of;

/// Lines kept: the end of a run is what explains its failure.
const LINES_MAX: usize = 4_000;

/// A record of events. Its digest is always kept; its lines only on request, for they cost more
/// than the run.
#[derive(Default)]
pub struct Trace {
    keep: bool,
    lines: VecDeque<String>,
    pending: Vec<u8>,
    digest: [u8; 32],
}

impl Trace {
    /// A record that keeps its lines or not.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self {
            keep,
            ..Self::default()
        }
    }

    /// Notes an event. `mark` identifies it in the digest; `line` is for people.
    pub fn note(&mut self, now_ms: u64, mark: &[u8], line: impl FnOnce() -> String) {
        self.pending.extend_from_slice(&now_ms.to_be_bytes());
        self.pending.extend_from_slice(mark);
        if self.pending.len() > 4_096 {
            self.fold();
        }
        if self.keep {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{now_ms:>7} ms  {}", line()));
        }
    }

    fn fold(&mut self) {
        self.digest = sha256_of(&[&self.digest, &self.pending]);
        self.pending.clear();
    }

    /// A hash of everything noted: equal if two runs did the same.
    pub fn digest(&mut self) -> [u8; 32] {
        self.fold();
        self.digest
    }

    /// The last lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
