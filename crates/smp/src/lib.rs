//! Core: the SMP queue protocol, both halves, with no input or output.
