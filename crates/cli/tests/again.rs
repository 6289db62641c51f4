//! A run that came to nothing is over: the same command begins another one.

mod stage;
use stage::{Stage, agreed, wait_all};

fn keygen(threshold: &str) -> [&str; 9] {
    [
        "bls",
        "keygen",
        "--session",
        "s",
        "--threshold",
        threshold,
        "--name",
        "k",
        "--timeout=60",
    ]
}

#[test]
fn a_key_generation_that_failed_does_not_use_up_its_name() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    // One of them means another key.
    let meant = [("p1", "2"), ("p2", "2"), ("p3", "3")];
    let all = meant.map(|(party, threshold)| stage.start(party, &keygen(threshold)));
    for ended in wait_all(all.into()) {
        // A misunderstanding, and nobody is called a cheat.
        assert_eq!(ended.code, Some(5), "{ended:#?}");
        assert!(ended.stderr.contains("--threshold"), "{ended:#?}");
    }
    let made = stage.all(&["p1", "p2", "p3"], &keygen("2"));
    agreed(&made, "public_key");
}
