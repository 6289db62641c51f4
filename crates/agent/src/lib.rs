//! Duplex connections over SMP queues: pure protocol, SQLite store, relay connections.
