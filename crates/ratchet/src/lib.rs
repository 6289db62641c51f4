//! Core: X448 key agreement and the post-quantum double ratchet of the agent protocol.
