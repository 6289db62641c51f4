//! A published protocol over sessions: its result satisfies an independent verifier.

#[path = "../examples/frost/run.rs"]
mod run;
mod table;

use std::time::Duration;

use junto_crypto::ed25519::{Signature, VerifyingKey};
use junto_session::carrier::memory::{Hub, Unkindness};
use run::run_frost_example;
use table::{PATIENCE, Table};

#[tokio::test]
async fn frost_of_others_runs_over_our_sessions() {
    let unkind = Unkindness {
        repeat_every: 5,
        delay_max: Duration::from_millis(1),
    };
    let table = Table::of(3, &Hub::with(13_400, unkind)).await;
    let runs = table
        .sessions
        .iter()
        .map(|session| run_frost_example(session, 2, b"a message", PATIENCE));
    let outcomes: Vec<_> = futures::future::join_all(runs)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let key = VerifyingKey::from_bytes(&outcomes[0].public_key[..].try_into().unwrap()).unwrap();
    let mut signed = 0;
    for outcome in &outcomes {
        assert_eq!(outcome.public_key_hex(), outcomes[0].public_key_hex());
        if outcome.signature_hex().is_empty() {
            continue;
        }
        let signature = Signature::try_from(&outcome.signature[..]).unwrap();
        key.verify(b"a message", &signature).unwrap();
        key.verify(b"another message", &signature).unwrap_err();
        signed += 1;
    }
    assert_eq!(signed, 2);
}
