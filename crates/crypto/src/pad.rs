//! SMP padding: a 2-byte big-endian length, the message, then `#` up to a fixed size.

use crate::CryptoError;

/// Bytes that padding adds at least: the length prefix.
pub const OVERHEAD_BYTES: usize = 2;
/// The longest message that padding can carry.
pub const MESSAGE_MAX_BYTES: usize = u16::MAX as usize;
const FILL: u8 = b'#';

/// Appends `message` padded to exactly `padded_bytes` to `out`.
///
/// # Errors
/// [`CryptoError::TooLong`] if `message` exceeds `padded_bytes` - 2 or [`MESSAGE_MAX_BYTES`]; `out`
/// is then unchanged.
pub fn pad(message: &[u8], out: &mut Vec<u8>, padded_bytes: usize) -> Result<(), CryptoError> {
    let length = u16::try_from(message.len()).map_err(|_| CryptoError::TooLong)?;
    let fill = padded_bytes
        .checked_sub(OVERHEAD_BYTES + message.len())
        .ok_or(CryptoError::TooLong)?;
    out.reserve(padded_bytes);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    out.resize(out.len() + fill, FILL);
    Ok(())
}

/// The message inside `padded`. The fill is not inspected: padding is always inside an
/// authenticated box, and other implementations do not define its content.
///
/// # Errors
/// [`CryptoError::Padding`] if `padded` is shorter than the length it declares.
pub fn unpad(padded: &[u8]) -> Result<&[u8], CryptoError> {
    let (length, rest) = padded
        .split_first_chunk::<OVERHEAD_BYTES>()
        .ok_or(CryptoError::Padding)?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
        .ok_or(CryptoError::Padding)
}
