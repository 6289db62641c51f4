//! The junto binary: everything a person types.
fn main() {}
