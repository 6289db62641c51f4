//! What arrives was sent, by this sender, to this receiver, with these bytes.

use crate::{stream::Stream, verdict::Violation};

/// The number of the message with these bytes.
///
/// # Errors
/// The violation.
pub fn check(stream: &Stream, body: &[u8]) -> Result<u64, Violation> {
    match stream.read(body) {
        Some(number) if number < stream.issued => Ok(number),
        Some(number) => {
            let text = format!("message {number} was never sent; {stream}");
            Err(Violation::new("nothing_invented", text))
        }
        None => {
            let text = format!("{} strange bytes; {stream}", body.len());
            Err(Violation::new("nothing_invented", text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_another_message_are_seen() {
        let mut stream = Stream::new(0, 1);
        stream.issued = 2;
        let body = stream.body(1, 40);
        assert_eq!(check(&stream, &body), Ok(1));
        assert!(check(&stream, &body[1..]).is_err());
        assert!(check(&stream, &stream.body(2, 40)).is_err());
        assert!(check(&Stream::new(1, 0), &body).is_err());
    }
}
