//! No holder has a veto: any T parties sign, whatever the others do.

mod stage;
use stage::{Stage, agreed};

#[test]
fn a_party_that_leaves_the_session_keeps_nobody_from_signing() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let keygen = [
        "bls",
        "keygen",
        "--session",
        "s",
        "--threshold",
        "2",
        "--name",
        "k",
    ];
    let key = agreed(&stage.all(&["p1", "p2", "p3"], &keygen), "public_key");
    stage.run("p3", &["session", "close", "s"]).failed(5);
    stage.run("p3", &["session", "close", "s", "--force"]).ok();

    // The others hear of it, and sign two messages: one before, one after they know.
    for message in ["first", "second"] {
        let file = stage.file(message, message.as_bytes());
        let sign = [
            "bls",
            "sign",
            "--key",
            "k",
            "--timeout",
            "60",
            "--message-file",
            &file,
        ];
        let signature = agreed(&stage.all(&["p1", "p2"], &sign), "signature");
        let verify = [
            "bls",
            "verify",
            "--public-key",
            &key,
            "--signature",
            &signature,
            "--message-file",
            &file,
        ];
        stage.run("outsider", &verify).ok();
    }
}
