//! TLS 1.3 as the queue protocol needs it.
//!
//! SMP uses TLS in three ways that ordinary clients do not, and this crate is where they live:
//!
//! * **Identity is a certificate, not a name.** A server has an *offline* certificate authority
//!   (its identity) and an online leaf under it. Clients pin the SHA-256 of the whole identity
//!   certificate; host names mean nothing ([`identity`], [`chain`]).
//! * **Authorisations are bound to the connection** by the client's Finished message, the
//!   [`SessionId`]. rustls has no API for it; [`session_id`] explains how we read it and why a
//!   wrong value cannot come out.
//! * **No resumption**, one suite, Ed25519 and Ed448 only ([`config`]).
//!
//! Beside it stands what needs no certificates: ends that know each other's keys ([`raw`]: direct paths, a vault's
//! replicas), and the QUIC by which a relay tells an address ([`observe`]).
//!
//! The core opens no socket. With the feature `tokio`, [`handshake`] runs the handshakes over any
//! tokio stream. Only [`identity`] touches files, by [`files`], and only when told where.
//!
//! Sources: RFC 8446 (TLS 1.3), RFC 5280 and RFC 8410 (certificates and their Ed25519/Ed448 keys),
//! and the transport section of the SMP specification as deployed (versions 15 to 20).

pub mod chain;
pub mod config;
pub mod files;
pub mod fingerprint;
#[cfg(feature = "tokio")]
pub mod handshake;
pub mod identity;
pub mod observe;
pub mod raw;
pub mod session_id;

pub use chain::{ChainError, ClientChain, PeerChain, PeerKey};
pub use config::{Alpn, ClientTls, ServerTls};
pub use fingerprint::Fingerprint;
pub use identity::{IdentityError, OfflineIdentity, ServerIdentity, ServiceIdentity};
pub use session_id::{SessionId, SessionIdError, Watch};
