//! A receipt comes only for a message that the receiver's application has recorded.

use crate::{stream::Stream, verdict::Violation};

/// To be asked for every receipt for message `number`.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream, number: u64) -> Result<(), Violation> {
    if stream.received.contains(&number) {
        return Ok(());
    }
    let text = format!("receipt for message {number}; {stream}");
    Err(Violation::new("delivered_means_received", text))
}
