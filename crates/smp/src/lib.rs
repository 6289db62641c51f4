//! Core: the SMP queue protocol, both halves, with no input or output.
//!
//! Versions 15 to 20 of the SimpleX Messaging Protocol, compatible on the wire with the servers
//! and clients that run today. Bytes, time and randomness go in; bytes, answers and events come
//! out. Nothing here opens a socket, reads a clock or starts a task.
//!
//! | module | holds |
//! |---|---|
//! | [`address`] | `smp://fingerprint@host:port` |
//! | [`encoding`], [`version`], [`id`], [`key`] | primitives of the encoding |
//! | [`hello`] | the block each side opens a connection with |
//! | [`block`] | 16 KiB blocks, their encryption, batches in them |
//! | [`transmission`] | authorisation of commands, correlation with answers |
//! | [`command`], [`response`], [`error`], [`blocking`] | what is said |
//! | [`message`], [`notification`], [`link`], [`service`], [`name`] | what it is about |
//! | [`proxy`] | commands through another relay, for those who must not see the sender's address |
//! | [`queue`] | the state machine of one queue |
//! | [`server`] | the server half of a connection |
//! | [`client`] | the client half of a connection |

pub mod address;
pub mod block;
pub mod blocking;
pub mod client;
pub mod command;
pub mod encoding;
pub mod error;
pub mod hello;
pub mod id;
pub mod key;
pub mod link;
pub mod message;
pub mod name;
pub mod notification;
pub mod proxy;
pub mod queue;
pub mod response;
pub mod server;
pub mod service;
pub mod transmission;
pub mod version;
