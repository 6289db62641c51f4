//! Messages of one sender arrive in the order in which they were sent.

use crate::{stream::Stream, verdict::Violation};

/// To be asked before message `number` is recorded.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream, number: u64) -> Result<(), Violation> {
    if stream
        .received
        .iter()
        .max()
        .is_some_and(|last| *last > number)
    {
        let text = format!("message {number} too late; {stream}");
        return Err(Violation::new("in_order", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_message_is_seen() {
        let mut stream = Stream::new(0, 1);
        stream.received = vec![0, 2];
        assert_eq!(check(&stream, 3), Ok(()));
        assert!(check(&stream, 1).is_err());
    }
}
