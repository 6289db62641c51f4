//! Fuzz targets: every decoder of the workspace, and the machines behind them.
//!
//! A target is a function of bytes that returns unless something is wrong. Decoders are held to one
//! rule: what decodes encodes to the bytes it came from ("one encoding per value"). Formats that
//! by design ignore something (trailing bytes of a hello, the spelling of a link) are held to the
//! weaker one, that what they decode to survives encoding and decoding.
//!
//! Machines are fed through the places where a hostile peer would feed them. Where that place is
//! behind encryption or a signature, the target holds the keys and seals what the fuzzer invents,
//! so that the fuzzer spends its time on what lies behind.
//!
//! `tests/corpus.rs` replays the corpus through [`TARGETS`]; `README.md` tells how to search on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target reports"
)]

mod agent;
mod backup;
mod bls;
mod code;
mod crypto;
mod daemon;
mod devices;
mod evidence;
mod files;
mod input;
mod ratchet;
mod relay;
pub mod seeds;
mod session;
mod smp;
mod tls;
mod vault;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target with its name: that of its corpus, and of its binary.
pub const TARGETS: &[(&str, Target)] = &[
    ("agent_envelope", agent::envelope),
    ("agent_link", agent::link),
    ("agent_link_data", agent::link_data),
    ("agent_machine", agent::machine),
    ("agent_message", agent::message),
    ("agent_queue_layer", agent::queue_layer),
    ("agent_rows", agent::rows),
    ("backup_file", backup::file),
    ("bls_certificate", bls::certificate),
    ("bls_evidence", bls::evidence),
    ("bls_holding", bls::holding),
    ("bls_keys", bls::keys),
    ("bls_pending", bls::pending),
    ("bls_round", bls::round),
    ("bls_setup", bls::setup),
    ("code_exchange", code::exchange),
    ("code_frame", code::frame),
    ("code_nearby", code::nearby),
    ("crypto_boxes", crypto::boxes),
    ("crypto_kem", crypto::kem),
    ("crypto_keys", crypto::keys),
    ("daemon_request", daemon::line),
    ("devices_frame", devices::frame),
    ("devices_words", devices::words),
    ("evidence_shown", evidence::shown),
    ("files_frame", files::frame),
    ("files_transfer", files::transfer),
    ("ratchet_conversation", ratchet::conversation),
    ("ratchet_message", ratchet::message),
    ("ratchet_params", ratchet::params),
    ("ratchet_state", ratchet::state),
    ("relay_config", relay::config),
    ("relay_export", relay::export),
    ("relay_journal", relay::journal),
    ("relay_store_log", relay::store_log),
    ("session_evidence", session::evidence),
    ("session_link", session::link),
    ("session_node", session::node),
    ("session_records", session::records),
    ("session_rows", session::rows),
    ("session_streams", session::streams),
    ("smp_address", smp::address),
    ("smp_block", smp::block),
    ("smp_client", smp::client),
    ("smp_client_hello", smp::client_hello),
    ("smp_command", smp::command),
    ("smp_forward", smp::forward),
    ("smp_keys", smp::keys),
    ("smp_message", smp::message),
    ("smp_queue", smp::queue),
    ("smp_response", smp::response),
    ("smp_server", smp::server),
    ("smp_server_hello", smp::server_hello),
    ("smp_transmission", smp::transmission),
    ("tls_chain", tls::chain),
    ("vault_channels", vault::channels),
    ("vault_messages", vault::messages),
    ("vault_realm", vault::realm_messages),
];

/// The target of that name, for the binaries.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> Target {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
}
