//! When the faults are over, everything comes to its end within a bounded time.

use crate::verdict::Violation;

/// The longest time that anything takes after the last fault: several times the longest timer.
pub const PATIENCE_MS: u64 = 600_000;

/// To be asked with the time since the faults ended.
///
/// # Errors
/// The violation, with what still waits.
pub fn check(healed_for_ms: u64, waiting: impl FnOnce() -> String) -> Result<(), Violation> {
    if healed_for_ms < PATIENCE_MS {
        return Ok(());
    }
    Err(Violation::new("nobody_hangs", waiting()))
}
