//! A message that does not arrive is named to the receiver, by the next one that does.

use crate::{stream::Stream, verdict::Violation};

/// To be asked when everything has come to rest.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream) -> Result<(), Violation> {
    let Some(number) = stream.lost_untold().next() else {
        return Ok(());
    };
    let text = format!("message {number} is lost and nobody was told; {stream}");
    Err(Violation::new("losses_are_told", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_before_something_that_came_is_to_be_named() {
        let mut stream = Stream::new(0, 1);
        stream.issued = 3;
        stream.confirmed.extend([0, 1, 2]);
        stream.ids.extend([(0, 3), (1, 4), (2, 6)]);
        stream.received = vec![0];
        assert_eq!(check(&stream), Ok(()), "what follows may still come");
        stream.received.push(2);
        assert!(check(&stream).is_err());
        stream.missing.push((5, 5));
        assert!(check(&stream).is_err());
        stream.missing.push((4, 4));
        assert_eq!(check(&stream), Ok(()));
    }
}
