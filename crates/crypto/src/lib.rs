//! Core: key newtypes, key agreement, KDFs, AEADs and secret types shared by every Junto protocol.
//!
//! The algorithms are those of published crates; this crate narrows them. It gives each key its own
//! type, exactly one encoding per value, one error type that never says *why* an authentication
//! failed, and secrets that are silent (no `Debug`, no `Clone`) and wiped when dropped.
//!
//! # Randomness
//!
//! Nothing here owns a random source: whatever needs one takes `&mut impl CryptoRng`
//! ([`rand_core::CryptoRng`], version 0.10, infallible). A shell makes one from the operating
//! system's generator with the `getrandom` crate (feature `sys_rng`):
//!
//! ```
//! use rand_core::UnwrapErr;
//! let mut rng = UnwrapErr(getrandom::SysRng);
//! let key = junto_crypto::x25519::SecretKey::generate(&mut rng);
//! # let _ = key.public_key();
//! ```
//!
//! # Which module for what
//!
//! | module | used for |
//! |---|---|
//! | [`x25519`], [`ed25519`] | queue keys, block keys, session identities |
//! | [`x448`], [`kem`], [`aead::GcmKey`] | the agent's double ratchet |
//! | [`ed448`] | certificates of older SimpleX servers (verification only) |
//! | [`secretbox`], [`pad`], [`authenticator`] | SMP blocks, queue messages, command authorisation |
//! | [`aead::StoreKey`] | sealing records at rest |
//! | [`kdf`], [`hash`] | derivations of the reference formats |

pub mod aead;
pub mod authenticator;
pub mod ed25519;
pub mod ed448;
mod error;
pub mod hash;
pub mod kdf;
pub mod kem;
pub mod pad;
pub mod secretbox;
mod spki;
pub mod x25519;
pub mod x448;

pub use error::CryptoError;
pub use rand_core::CryptoRng;
pub use zeroize::Zeroizing;
