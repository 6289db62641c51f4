//! `junto bls verify`: check a signature; no profile, no session.

use std::path::Path;

use junto_bls::{CIPHERSUITE, PublicKey, Signature};
use serde_json::json;

use crate::failure::Failure;
use crate::input;
use crate::output::Output;

pub(crate) fn run(
    public_key: &str,
    signature: &str,
    message_file: &Path,
    output: Output,
) -> Result<(), Failure> {
    let key = PublicKey::from_bytes(&input::hex_argument("public key", public_key)?)
        .map_err(|_| Failure::refused("the public key is not one: 48 bytes, a point of G1"))?;
    let signature = Signature::from_bytes(&input::hex_argument("signature", signature)?)
        .map_err(|_| Failure::refused("the signature is not one: 96 bytes, a point of G2"))?;
    let message = input::read_message(message_file)?;
    if !junto_bls::verify(&key, &message, &signature) {
        return Err(Failure::refused(
            "the signature is NOT of this message under this key",
        ));
    }
    let report =
        json!({ "valid": true, "scheme": CIPHERSUITE, "public_key": hex::encode(key.to_bytes()) });
    output.result(&report, || "The signature is valid.".to_owned())
}
