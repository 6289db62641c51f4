//! The demo, whole: real relay, real TLS, one process per party.

#![allow(clippy::unwrap_used)]

mod stage;
use stage::Stage;

fn demo(parties: u16, threshold: u16, message: &str) {
    let stage = Stage::new();
    let report = stage.run(
        "unused",
        &[
            "demo",
            "--parties",
            &parties.to_string(),
            "--threshold",
            &threshold.to_string(),
            "--message",
            message,
        ],
    );
    let report = report.ok();
    assert_eq!(
        report["scheme"],
        "BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_POP_"
    );
    assert_eq!(report["parties"], parties);
    assert_eq!(report["threshold"], threshold);
    assert_eq!(report["message"], message);
    assert_eq!(report["public_key"].as_str().unwrap().len(), 96);
    assert_eq!(report["signature"].as_str().unwrap().len(), 192);
    assert!(report["relay"].as_str().unwrap().starts_with("smp://"));
    assert!(!report["safety_code"].as_str().unwrap().is_empty());
    for step in ["connect", "keygen", "sign"] {
        assert!(report["timings_ms"][step].is_u64());
    }
    let message = stage::file(stage.dir.path(), "message", message.as_bytes());
    let (key, signature) = (
        report["public_key"].as_str().unwrap(),
        report["signature"].as_str().unwrap(),
    );
    let verify = [
        "bls",
        "verify",
        "--public-key",
        key,
        "--signature",
        signature,
        "--message-file",
    ];
    stage.run("v", &[&verify[..], &[&message]].concat()).ok();
    let other = stage::file(stage.dir.path(), "other", b"another message");
    assert_eq!(
        stage.run("v", &[&verify[..], &[&other]].concat()).code,
        Some(5)
    );
}

#[test]
fn three_strangers_sign_together() {
    demo(3, 2, "three strangers");
}

#[test]
fn four_of_seven_sign() {
    demo(7, 4, "\u{e4}\u{df}\u{1f512} any text");
}
