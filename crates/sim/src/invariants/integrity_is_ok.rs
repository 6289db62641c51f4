//! The hash chain of a connection never breaks: no crash, no lost answer, no repetition makes an
//! honest peer look like a bad one.

use junto_agent::proto::Integrity;

use crate::{stream::Stream, verdict::Violation};

/// To be asked for every message.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream, integrity: Integrity) -> Result<(), Violation> {
    if integrity == Integrity::Ok {
        return Ok(());
    }
    Err(Violation::new(
        "integrity_is_ok",
        format!("{integrity:?}; {stream}"),
    ))
}
