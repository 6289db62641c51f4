//! The one error of this crate.

/// Why a cryptographic operation was refused.
///
/// Variants tell a caller what it may log, never more than an attacker may learn: a box that does
/// not open gives [`CryptoError::Forged`] whatever the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// The input is not the one valid encoding of a value of this type (wrong length, wrong
    /// algorithm, or not canonical).
    #[error("not a valid encoding")]
    Encoding,
    /// The key is a point of small order, or a Diffie-Hellman result is all zero: the peer's key
    /// contributes no secrecy.
    #[error("key of small order")]
    SmallOrder,
    /// A tag, signature or authenticator does not match.
    #[error("authentication failed")]
    Forged,
    /// A message does not fit into the padded length asked for.
    #[error("message does not fit")]
    TooLong,
    /// Padded bytes declare a message longer than themselves.
    #[error("bad padding")]
    Padding,
}
