//! Crashes, lost answers and restarts of relays end no connection between honest parties.

use crate::verdict::Violation;

/// A connection reports its end, or a message that it cannot read.
///
/// # Errors
/// Always.
pub fn check(party: usize, fault: impl core::fmt::Debug) -> Result<(), Violation> {
    Err(Violation::new(
        "no_connection_fails",
        format!("party {party}: {fault:?}"),
    ))
}
