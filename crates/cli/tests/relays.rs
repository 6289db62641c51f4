//! A session over several relays, of which one dies for good with all that it has.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod stage;

use serde_json::Value;
use stage::{Process, Stage, agreed};

const ALL: [&str; 3] = ["p1", "p2", "p3"];

/// Everybody receives on the second relay as well. The others are there meanwhile: they are to learn of it.
fn receive_on(stage: &Stage, relay: &str) {
    for party in ALL {
        let others = ALL.iter().filter(|it| **it != party);
        let present: Vec<Process> = others
            .map(|it| stage.start(it, &["recv", "--session", "s", "--count", "9"]))
            .collect();
        let add = [
            "session",
            "add-relay",
            "s",
            "--relay",
            relay,
            "--timeout",
            "90",
        ];
        let added = stage.run(party, &add);
        let receives = added.ok()["receives"].as_array().unwrap();
        assert_eq!(receives.len(), 2, "{added:#?}");
        assert!(receives.iter().all(|it| it["parties"] == 2), "{added:#?}");
        for process in present {
            process.kill();
        }
    }
}

fn keygen(name: &str) -> [&str; 8] {
    [
        "bls",
        "keygen",
        "--session",
        "s",
        "--threshold",
        "2",
        "--name",
        name,
    ]
}

#[test]
fn a_session_goes_on_when_one_of_its_relays_dies_for_good_in_the_middle_of_a_run() {
    let stage = Stage::new();
    let (first, address) = stage.relay_in("first");
    let (_second, other) = stage.relay_in("second");
    stage.session(&address, 3);
    receive_on(&stage, &other);

    // Two have begun; the third comes when the relay is dead already.
    let begun = ["p1", "p2"].map(|party| stage.start(party, &keygen("k")));
    std::thread::sleep(std::time::Duration::from_millis(700));
    first.kill();
    let mut all = Vec::from(begun);
    all.push(stage.start("p3", &keygen("k")));
    let key = agreed(&stage::wait_all(all), "public_key");

    // Commands that begin without it go as well.
    let message = stage.file("message", b"m");
    let sign = ["bls", "sign", "--key", "k", "--message-file", &message];
    let signature = agreed(&stage.all(&["p2", "p3"], &sign), "signature");
    let verify = [
        "bls",
        "verify",
        "--public-key",
        &key,
        "--signature",
        &signature,
    ];
    let verify = [&verify[..], &["--message-file", &message]].concat();
    stage.run("p1", &verify).ok();
    stage
        .run("p1", &["send", "--session", "s", "still here"])
        .ok();
    let received = stage.run("p2", &["recv", "--session", "s", "--count", "1"]);
    assert_eq!(received.ok()["text"], "still here");
}

#[test]
fn a_session_forms_with_several_relays_for_each_party() {
    let stage = Stage::new();
    let (_first, address) = stage.relay_in("first");
    let (_second, other) = stage.relay_in("second");
    let relays = ["--relay", address.as_str(), "--relay", other.as_str()];
    let new = ["session", "new", "--name", "s", "--parties", "2"];
    let mut host = stage.start("p1", &[&new[..], &relays].concat());
    let link = host.link();
    let join = ["session", "join", link.as_str()];
    let joiner = stage.start("p2", &[&join[..], &relays].concat());
    agreed(&stage::wait_all(vec![host, joiner]), "safety_code");
    // The forming has added it, though perhaps nobody was told yet.
    for party in ["p1", "p2"] {
        let shown = stage.run(party, &["session", "show", "s"]).ok()["relays"].to_string();
        assert!(shown.contains(&other), "{party}: {shown}");
    }
    // What it left is finished here, by the same words as always.
    for (party, peer) in [("p1", "p2"), ("p2", "p1")] {
        let present = stage.start(peer, &["recv", "--session", "s", "--count", "9"]);
        let add = [
            "session",
            "add-relay",
            "s",
            "--relay",
            &other,
            "--timeout",
            "90",
        ];
        let receives: Value = stage.run(party, &add).ok()["receives"].clone();
        let receives = receives.as_array().unwrap();
        assert_eq!(receives.len(), 2, "{receives:?}");
        for relay in receives {
            assert_eq!(relay["queues"], 1, "one queue on each, not two: {relay}");
        }
        present.kill();
    }

    // One that is to go frees its place, and goes alone.
    let remove = ["session", "remove-relay", "s", "--relay"];
    let removed = stage.run("p1", &[&remove[..], &[&address]].concat());
    let left = removed.ok()["receives"].clone();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["relay"], other.as_str());
    stage
        .run("p1", &[&remove[..], &[&address]].concat())
        .failed(2);
    // Not the last one.
    stage
        .run("p1", &[&remove[..], &[&other]].concat())
        .failed(2);
    stage
        .run("p2", &["send", "--session", "s", "still here"])
        .ok();
    let received = stage.run("p1", &["recv", "--session", "s", "--count", "1"]);
    assert_eq!(received.ok()["text"], "still here");
    // A relay is named once.
    let twice = ["--relay", address.as_str(), "--relay", address.as_str()];
    let new = ["session", "new", "--name", "t", "--parties", "2"];
    stage.run("p1", &[&new[..], &twice].concat()).failed(2);
}
