//! A threshold signature checked by BLS libraries that are not ours
//! (`tests/bls-verifiers/verify.sh`).

#![allow(clippy::unwrap_used)]

mod stage;

use std::{path::Path, process::Command};

use junto_bls::{combine, partial_sign};
use stage::{Cast, keygen, party};

#[test]
#[ignore = "installs packages from PyPI and npm; CI verifies the demo's signature the same way"]
fn other_libraries_accept_the_signature() {
    let message = "Grüße an alle, 3 von 5";
    let shares = keygen(&Cast::new(5), 3);
    let key = shares[&party(0)].public();
    let parts = [4, 1, 2]
        .map(|i| &shares[&party(i)])
        .map(|share| (share.index(), partial_sign(share, message.as_bytes())));
    let signature = combine(key, message.as_bytes(), &parts.into())
        .unwrap()
        .signature;
    let result = serde_json::json!({
        "public_key": hex::encode(key.public_key().to_bytes()),
        "message": message,
        "signature": hex::encode(signature.to_bytes()),
    });
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("signature.json");
    std::fs::write(&file, result.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/bls-verifiers/verify.sh");
    assert!(Command::new(script).arg(file).status().unwrap().success());
}
