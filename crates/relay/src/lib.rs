//! Shell: the SMP server: connections, queue store, limits, expiry.
