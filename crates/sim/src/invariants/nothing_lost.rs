//! A message that was taken from its sender arrives.

use crate::{stream::Stream, verdict::Violation};

/// To be asked when everything has healed and come to rest.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream) -> Result<(), Violation> {
    if stream.is_complete() {
        return Ok(());
    }
    Err(Violation::new("nothing_lost", stream.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_a_loss_only_if_the_message_was_taken() {
        let mut stream = Stream::new(0, 1);
        stream.issued = 3;
        stream.confirmed.extend([0, 2]);
        stream.received = vec![0, 2];
        assert_eq!(check(&stream), Ok(()));
        stream.confirmed.insert(1);
        assert!(check(&stream).is_err());
    }
}
