//! The two ends of a connection see the same channel binding, and the peer's own words about
//! itself; and it stays the same connection under the same tag.

use crate::verdict::Violation;

/// Compares what should be equal.
///
/// # Errors
/// The violation.
pub fn check<T: PartialEq + core::fmt::Debug>(
    what: &str,
    ours: &T,
    theirs: &T,
) -> Result<(), Violation> {
    if ours == theirs {
        return Ok(());
    }
    let text = format!("{what}: {ours:?} here, {theirs:?} there");
    Err(Violation::new("both_ends_agree", text))
}
