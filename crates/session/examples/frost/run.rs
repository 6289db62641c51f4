//! FROST over a session, in as many lines as it takes.

use std::time::Duration;

use givre::{
    ciphersuite::{Ciphersuite, Ed25519},
    generic_ec::curves,
    keygen::{self, ExecutionId, security_level::SecurityLevel128},
    signing::full_signing,
};
use junto_session::{Session, adapters::round_based::round_based::MpcParty};
use rand_chacha_03::{ChaCha20Rng, rand_core::SeedableRng};

type KeygenMessage =
    keygen::msg::threshold::Msg<curves::Ed25519, SecurityLevel128, sha2_010::Sha256>;
type SigningMessage = full_signing::Msg<curves::Ed25519>;

/// What every party ends with.
pub(crate) struct FrostOutcome {
    /// Ed25519 public key, 32 bytes.
    pub(crate) public_key: Vec<u8>,
    /// Ed25519 signature, 64 bytes.
    pub(crate) signature: Vec<u8>,
}

impl FrostOutcome {
    /// As text.
    pub(crate) fn public_key_hex(&self) -> String {
        hex(&self.public_key)
    }

    /// As text.
    pub(crate) fn signature_hex(&self) -> String {
        hex(&self.signature)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Any failure of session or protocol.
pub(crate) type FrostError = Box<dyn std::error::Error + Send + Sync>;

/// Generates a key shared among all parties of `session`, any `threshold` of which can sign, and
/// signs `message` with the first `threshold` parties. The others return the key and an empty
/// signature.
pub(crate) async fn run_frost_example(
    session: &Session,
    threshold: u16,
    message: &[u8],
    patience: Duration,
) -> Result<FrostOutcome, FrostError> {
    let keygen = session
        .round_based::<KeygenMessage>("frost keygen", patience)
        .await?;
    // Randomness from the seed: a party that crashes runs the protocol again to the same end.
    let mut rng = ChaCha20Rng::from_seed(*keygen.execution.seed());
    let execution = keygen.execution.id().0;
    let share = givre::keygen::<curves::Ed25519>(
        ExecutionId::new(&execution),
        keygen.index,
        keygen.parties,
    )
    .set_threshold(threshold)
    .start(&mut rng, MpcParty::connected(keygen.delivery))
    .await?;
    keygen.execution.finish_confirmed(patience).await?;
    let public_key = Ed25519::serialize_point(&share.shared_public_key).to_vec();

    let signers: junto_session::Members = session
        .everybody()
        .iter()
        .take(usize::from(threshold))
        .collect();
    if !signers.contains(session.me()) {
        return Ok(FrostOutcome {
            public_key,
            signature: Vec::new(),
        });
    }
    let signing = session
        .round_based_among::<SigningMessage>("frost signing", signers, patience)
        .await?;
    let mut rng = ChaCha20Rng::from_seed(*signing.execution.seed());
    let indices: Vec<u16> = signers.iter().map(|party| party.as_u16()).collect();
    let signature = givre::signing::<Ed25519>(signing.index, &share, &indices, message)
        .sign(&mut rng, MpcParty::connected(signing.delivery))
        .await?;
    signing.execution.finish().await?;
    let mut bytes = vec![0; givre::signing::aggregate::Signature::<Ed25519>::serialized_len()];
    signature.write_to_slice(&mut bytes);
    Ok(FrostOutcome {
        public_key,
        signature: bytes,
    })
}
