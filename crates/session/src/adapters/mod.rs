//! Adapters for protocols of other ecosystems.
