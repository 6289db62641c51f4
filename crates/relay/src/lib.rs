//! The relay: an SMP server.
//!
//! It takes encrypted messages from senders and hands them to recipients, one 16 KiB block at a
//! time, and knows about its users as little as the protocol allows: two unlinkable names for each
//! queue, public keys, and ciphertext.
//!
//! The protocol itself is `junto-smp`, which is pure; TLS and identity are `junto-tls`. This crate
//! owns the sockets, the memory and the clock:
//!
//! | module | owns |
//! |---|---|
//! | [`config`], [`folder`] | what an operator writes, and where |
//! | `check`, [`backup`] | a look before the start; copies of a running relay |
//! | [`simplex`] | moving from the reference server |
//! | [`relay`](Relay), `admission` | start, settings and shutdown; the listener and the limits on connections |
//! | `settings`, `sources` | what may change while it runs; what limits by source need to know |
//! | `metrics`, `monitor`, `statistics` | what it counts, and how an operator sees it |
//! | `connection` | one task per connection, from handshake to goodbye |
//! | `proxy` | connections to other relays, for clients that hide their address from those |
//! | `observer` | telling clients their own address, over QUIC, for direct paths between them |
//! | [`store`] | all queues: in memory, with a journal for restarts |
//! | [`mod@bench`] | what a message costs, against the floor |
//!
//! # Rules
//! * Nothing leaves the relay before what it rests on is durable (if there is a journal).
//! * Everything is bounded: connections, handshakes, queues, messages, bytes, what waits for a slow
//!   reader. What a client does costs that client, nobody else.
//! * Unknown queues cost the same work and get the same answer as wrong keys.
//! * Logs and statistics count; they never name a queue, key or address.

mod admission;
pub mod backup;
pub mod bench;
mod check;
pub mod config;
mod connection;
pub mod folder;
mod metrics;
mod monitor;
mod observer;
mod proxy;
mod relay;
mod settings;
pub mod simplex;
mod sources;
mod statistics;
pub mod store;

pub use check::{Checked, check};
pub use config::{ConfigError, Limits, RelayConfig, Storage, Timeouts};
pub use folder::{FolderError, address, init_dir, load_dir, rotate_certificate};
pub use metrics::Stats;
pub use proxy::{Endpoint, ProxyConfig, ProxyLimits, ProxyTimeouts, SocksMode};
pub use relay::{Relay, RelayError, RunningRelay};
pub use settings::Reloaded;
