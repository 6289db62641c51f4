//! Seeded simulation: network, clock, disk, faults, and the invariants that must hold.
