//! The one error of this crate.

use junto_crypto::CryptoError;

/// Why the ratchet refused something. The state is unchanged whenever one of these is returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RatchetError {
    /// The peer's bytes are no message, header or parameters of the protocol.
    #[error("malformed")]
    Malformed,
    /// No key of this ratchet opens the message's header: forged, damaged, of another conversation, or so
    /// old that its key was dropped. From an authenticated peer it says that the two ratchets have parted.
    #[error("its header cannot be decrypted with any key of this conversation")]
    UnknownHeader,
    /// The header is of this conversation, the message does not open.
    #[error("cannot be decrypted")]
    Forged,
    /// The message was decrypted before.
    #[error("decrypted before")]
    Duplicate,
    /// The message is more than [`crate::SKIPPED_MAX`] ahead of the last one.
    #[error("too many messages are missing before this one")]
    TooManySkipped,
    /// The plaintext does not fit into the padded length asked for.
    #[error("plaintext does not fit")]
    TooLong,
    /// Misuse by our caller: the maker of the connection cannot send before it received.
    #[error("nothing received yet, so nothing can be sent")]
    NotReady,
    /// The peer's versions and ours do not overlap.
    #[error("no common version")]
    Version,
    /// The peer's key is of small order.
    #[error("peer sent a key of small order")]
    WeakKey,
    /// The peer answers a key encapsulation that was not offered.
    #[error("key encapsulation was not offered")]
    KemNotOffered,
    /// 2^32 - 1 messages were sent or received in one chain.
    #[error("chain exhausted")]
    Exhausted,
    /// Stored bytes are not a state of this crate (wrong version, or damaged storage).
    #[error("not a stored ratchet state")]
    BadState,
}

impl From<CryptoError> for RatchetError {
    fn from(error: CryptoError) -> Self {
        match error {
            CryptoError::SmallOrder => Self::WeakKey,
            CryptoError::Forged => Self::Forged,
            CryptoError::TooLong => Self::TooLong,
            _ => Self::Malformed,
        }
    }
}
