//! `kill -9`, SIGSTOP and absence: whoever comes back goes on, whoever does not is named, nobody hangs.
//!
//! The pauses before a kill only choose where it strikes; what must hold afterwards does not depend on it.
#![cfg(unix)]

mod stage;
use std::time::Duration;

use stage::{Ended, Process, Stage, agreed, wait_all};

const KEYGEN: [&str; 8] = [
    "bls",
    "keygen",
    "--session",
    "s",
    "--threshold",
    "2",
    "--name",
    "k",
];
const ALL: [&str; 3] = ["p1", "p2", "p3"];

fn milliseconds(all: &[u64]) -> impl Iterator<Item = Duration> {
    all.iter().copied().map(Duration::from_millis)
}

/// The parties sign with the key; the signature verifies.
fn signs(stage: &Stage, parties: &[&str], key: &str) {
    let message = stage.file("message", b"after all that");
    let sign = ["bls", "sign", "--key", "k", "--message-file", &message];
    let signature = agreed(&stage.all(parties, &sign), "signature");
    let verify = [
        "bls",
        "verify",
        "--public-key",
        key,
        "--signature",
        &signature,
        "--message-file",
        &message,
    ];
    stage.run("outsider", &verify).ok();
}

/// A joiner is killed at several points while the session forms, and runs its command again.
fn joiner_killed(points: &[u64]) {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    let join = ["session", "join", &link];
    let other = stage.start("p2", &join);
    for pause in milliseconds(points) {
        stage.start("p3", &join).kill_after(pause);
    }
    let last = stage.start("p3", &join);
    agreed(&wait_all(vec![host, other, last]), "safety_code");
}

#[test]
fn a_joiner_killed_early_joins_all_the_same() {
    joiner_killed(&[5, 20, 40, 60]);
}

#[test]
fn a_joiner_killed_late_joins_all_the_same() {
    joiner_killed(&[90, 150, 250, 400]);
}

#[test]
fn a_host_killed_while_its_session_forms_goes_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    let join = ["session", "join", &link];
    let joiners = ["p2", "p3"].map(|party| stage.start(party, &join));
    host.kill_after(Duration::from_millis(100));
    let wait = ["session", "wait", "s"];
    for pause in milliseconds(&[50, 100, 200]) {
        stage.start("p1", &wait).kill_after(pause);
    }
    let mut all = vec![stage.start("p1", &wait)];
    all.extend(joiners);
    agreed(&wait_all(all), "safety_code");
}

/// One party is killed at several points of the key generation, and runs its command again.
fn killed_in_keygen(points: &[u64]) {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let others = ["p1", "p2"].map(|party| stage.start(party, &KEYGEN));
    for pause in milliseconds(points) {
        stage.start("p3", &KEYGEN).kill_after(pause);
    }
    let mut all = Vec::from(others);
    all.push(stage.start("p3", &KEYGEN));
    let key = agreed(&wait_all(all), "public_key");
    signs(&stage, &["p1", "p3"], &key);
}

#[test]
fn a_party_killed_early_in_keygen_continues() {
    killed_in_keygen(&[10, 30, 50]);
}

#[test]
fn a_party_killed_later_in_keygen_continues() {
    killed_in_keygen(&[80, 120, 200, 350]);
}

#[test]
fn everybody_killed_in_keygen_continues() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    for pause in milliseconds(&[60, 150, 300]) {
        let all = ALL.map(|party| stage.start(party, &KEYGEN));
        std::thread::sleep(pause);
        for ended in all.map(Process::kill) {
            assert!(ended.code.is_none_or(|code| code == 0), "{ended:#?}");
        }
    }
    let key = agreed(&stage.all(&ALL, &KEYGEN), "public_key");
    signs(&stage, &["p2", "p3"], &key);
}

#[test]
fn everybody_killed_in_a_refresh_continues() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let key = agreed(&stage.all(&ALL, &KEYGEN), "public_key");
    let refresh = ["bls", "refresh", "--key", "k"];
    for pause in milliseconds(&[100, 200, 300]) {
        let all = ALL.map(|party| stage.start(party, &refresh));
        std::thread::sleep(pause);
        // Whoever was faster has the new epoch; the others get it by the same command.
        for ended in all.map(Process::kill) {
            assert!(ended.code.is_none_or(|code| code == 0), "{ended:#?}");
        }
    }
    let behind = |stage: &Stage| -> Vec<&str> {
        let epochs = ALL.map(|party| {
            let listed = stage.run(party, &["bls", "list"]);
            listed.ok()["keys"][0]["epoch"].as_u64().unwrap()
        });
        let newest = *epochs.iter().max().unwrap();
        let late = ALL.iter().zip(epochs).filter(|(_, epoch)| *epoch < newest);
        late.map(|(party, _)| *party).collect()
    };
    loop {
        let late = behind(&stage);
        if late.is_empty() {
            break;
        }
        // The others are not here: what they said before is all that it takes.
        for ended in stage.all(&late, &[&refresh[..], &["--timeout", "60"]].concat()) {
            assert_eq!(ended.text("public_key"), key);
        }
    }
    signs(&stage, &["p1", "p2"], &key);
}

#[test]
fn whoever_was_killed_when_the_first_had_the_new_share_signs_with_it() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let key = agreed(&stage.all(&ALL, &KEYGEN), "public_key");
    let refresh = ["bls", "refresh", "--key", "k"];
    let mut first = stage.start("p1", &refresh);
    let others = ["p2", "p3"].map(|party| stage.start(party, &refresh));
    assert_eq!(first.line()["epoch"], 1);
    for other in others {
        other.kill();
    }
    first.wait();
    // The others may be at the old epoch still; they do not run the refresh again.
    signs(&stage, &ALL, &key);
    for party in ALL {
        let listed = stage.run(party, &["bls", "list"]);
        let listed = &listed.ok()["keys"][0];
        assert_eq!(
            (&listed["epoch"], &listed["undecided"]),
            (&1.into(), &0.into())
        );
    }
}

/// The error names the party with this number in the session.
#[track_caller]
fn names(ended: &Ended, party: &serde_json::Value) {
    let error = ended.failed(3);
    assert_eq!(error["party"], party.to_string(), "{ended:#?}");
}

#[test]
fn a_party_that_never_comes_is_named_and_may_come_later() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 3);
    let hurried = [&KEYGEN[..], &["--timeout", "15"]].concat();
    for ended in stage.all(&["p1", "p2"], &hurried) {
        names(&ended, &formed[2]["me"]);
    }
    // All try again, and it works.
    let key = agreed(&stage.all(&ALL, &KEYGEN), "public_key");
    signs(&stage, &["p1", "p2"], &key);
}

#[test]
fn a_party_killed_for_good_is_named() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 3);
    let hurried = [&KEYGEN[..], &["--timeout", "6"]].concat();
    let others = ["p1", "p2"].map(|party| stage.start(party, &hurried));
    stage
        .start("p3", &hurried)
        .kill_after(Duration::from_millis(120));
    for ended in wait_all(Vec::from(others)) {
        // It may have said all that the others need.
        if ended.code != Some(0) {
            // Whoever heard it while another one did not can only name both.
            let named = ended.failed(3)["party"].as_str().unwrap_or_default();
            let missing = formed[2]["me"].to_string();
            assert!(
                named.split(", ").any(|party| party == missing),
                "{ended:#?}"
            );
        }
    }
}

#[test]
fn a_party_that_sleeps_for_a_while_holds_up_nobody_for_good() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let all = ALL.map(|party| stage.start(party, &KEYGEN));
    std::thread::sleep(Duration::from_millis(100));
    all[2].signal("STOP");
    std::thread::sleep(Duration::from_secs(3));
    all[2].signal("CONT");
    let key = agreed(&wait_all(Vec::from(all)), "public_key");
    signs(&stage, &["p2", "p3"], &key);
}

#[test]
fn a_relay_killed_while_a_session_forms_loses_nothing() {
    let stage = Stage::new();
    let (mut relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    let join = ["session", "join", &link];
    let joiners = ["p2", "p3"].map(|party| stage.start(party, &join));
    for pause in milliseconds(&[50, 150, 250]) {
        relay.kill_after(pause);
        relay = stage.restart_relay();
    }
    let mut all = vec![host];
    all.extend(joiners);
    agreed(&wait_all(all), "safety_code");
    drop(relay);
}

#[test]
fn a_relay_killed_in_keygen_loses_nothing() {
    let stage = Stage::new();
    let (mut relay, address) = stage.relay();
    stage.session(&address, 3);
    let all = ALL.map(|party| stage.start(party, &KEYGEN));
    for pause in milliseconds(&[80, 150, 250]) {
        relay.kill_after(pause);
        relay = stage.restart_relay();
    }
    let key = agreed(&wait_all(Vec::from(all)), "public_key");
    signs(&stage, &["p1", "p2"], &key);
    drop(relay);
}

#[test]
fn a_relay_killed_under_two_hundred_messages_loses_none_and_repeats_none() {
    let stage = Stage::new();
    let (mut relay, address) = stage.relay();
    stage.session(&address, 2);
    let mut speaker = stage.start_with_input("p1", &["chat", "--session", "s"]);
    let listener = stage.start("p2", &["recv", "--session", "s", "--count", "200"]);
    for n in 0..200 {
        speaker.say(format!("message {n}\n").as_bytes());
        if n % 60 == 59 {
            relay.kill();
            relay = stage.restart_relay();
        }
    }
    let received = listener.wait();
    assert_eq!(received.code, Some(0), "{received:#?}");
    for (n, line) in received.lines.iter().enumerate() {
        assert_eq!(line["text"], format!("message {n}"));
    }
    speaker.end_input();
    speaker.wait();
    // And none of them comes once more.
    stage
        .run("p2", &["recv", "--session", "s", "--timeout", "1"])
        .failed(3);
    drop(relay);
}

#[test]
fn a_receiver_killed_between_messages_misses_none() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    let mut speaker = stage.start_with_input("p1", &["chat", "--session", "s"]);
    speaker.say(lines.as_bytes());
    // What a killed receiver showed may come again, as it cannot know whether anybody saw it.
    let mut next = 0;
    let mut shown = Vec::new();
    for patience in [3, 10, 30] {
        let mut listener = stage.start("p2", &["recv", "--session", "s", "--count", "100"]);
        for _ in 0..patience {
            shown.push(
                listener.line()["text"]
                    .as_str()
                    .unwrap()
                    .parse::<u32>()
                    .unwrap(),
            );
        }
        for line in listener.kill().lines {
            shown.extend(
                line["text"]
                    .as_str()
                    .and_then(|text| text.parse::<u32>().ok()),
            );
        }
        next = next.max(shown.last().copied().unwrap() + 1);
    }
    while next < 100 {
        let received = stage.run("p2", &["recv", "--session", "s"]);
        let text = received.text("text").parse::<u32>().unwrap();
        shown.push(text);
        next = next.max(text + 1);
    }
    // In order, without a gap; repeated only where a receiver was killed.
    let mut highest = None;
    for number in shown {
        let expected = highest.map_or(0, |highest: u32| highest + 1);
        assert!(number <= expected, "{number} came before {expected}");
        highest = Some(highest.map_or(number, |highest| highest.max(number)));
    }
    speaker.end_input();
    assert_eq!(speaker.wait().code, Some(0));
}

#[test]
fn a_profile_whose_first_process_was_killed_is_usable() {
    let stage = Stage::new();
    for pause in milliseconds(&[1, 3, 5, 8, 11, 14, 17, 20, 25, 30, 40]) {
        let profile = format!("p{}", pause.as_millis());
        stage
            .start(&profile, &["session", "list"])
            .kill_after(pause);
        stage.run(&profile, &["session", "list"]).ok();
    }
}
