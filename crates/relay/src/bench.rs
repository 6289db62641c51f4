//! What a message costs.
