//! No message is given to the application twice as if it were new.

use crate::{stream::Stream, verdict::Violation};

/// To be asked before message `number` is recorded.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream, number: u64) -> Result<(), Violation> {
    if stream.received.contains(&number) {
        let text = format!("message {number} again; {stream}");
        return Err(Violation::new("nothing_twice", text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_seen() {
        let mut stream = Stream::new(0, 1);
        stream.received = vec![0, 2];
        assert_eq!(check(&stream, 1), Ok(()));
        assert!(check(&stream, 2).is_err());
    }
}
