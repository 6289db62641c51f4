//! Adapters for protocols of other ecosystems.

#[cfg(feature = "round-based-04")]
pub mod round_based;
pub mod tcp;
