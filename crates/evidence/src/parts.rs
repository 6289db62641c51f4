//! Evidence is a row of parts, each behind its length.

use crate::Refusal;

/// Splits into exactly `N` parts.
pub(crate) fn split<const N: usize>(mut bytes: &[u8]) -> Result<[&[u8]; N], Refusal> {
    let mut parts = [&[][..]; N];
    for part in &mut parts {
        let (length, rest) = bytes.split_first_chunk().ok_or(Refusal::Malformed)?;
        let length =
            usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Refusal::Malformed)?;
        (*part, bytes) = rest.split_at_checked(length).ok_or(Refusal::Malformed)?;
    }
    bytes.is_empty().then_some(parts).ok_or(Refusal::Malformed)
}

/// Puts parts together.
pub(crate) fn join(parts: &[&[u8]]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).map_err(|_| Refusal::Malformed)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(part);
    }
    (out.len() <= crate::EVIDENCE_BYTES_MAX)
        .then_some(out)
        .ok_or(Refusal::Malformed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_was_put_together_and_nothing_else_is() {
        let bytes = join(&[b"one", b"", b"three"]).unwrap();
        assert_eq!(split::<3>(&bytes).unwrap(), [&b"one"[..], b"", b"three"]);
        for at in 0..bytes.len() {
            assert_eq!(split::<3>(&bytes[..at]), Err(Refusal::Malformed), "{at}");
        }
        assert_eq!(split::<2>(&bytes), Err(Refusal::Malformed));
        assert_eq!(split::<4>(&bytes), Err(Refusal::Malformed));
        assert_eq!(split::<1>(&[0xff; 9]), Err(Refusal::Malformed));
        let most = vec![0; crate::EVIDENCE_BYTES_MAX - 4];
        assert!(join(&[&most]).is_ok() && join(&[&most, b""]).is_err());
    }
}
