//! The state of a connection, in processes: queues and keys that are replaced, and what is said about losses.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::{Ended, Process, Stage};

/// How often something that other processes bring about is looked for.
const TRIES: usize = 60;

/// The relays that a contact's connection uses, by whether we receive there.
fn relays(shown: &Ended, receives: bool) -> Vec<&str> {
    let relays = shown.ok()["relays"].as_array().unwrap().iter();
    let field = if receives { "receives" } else { "sends" };
    let used = relays.filter(|relay| relay[field] == true);
    used.map(|relay| relay["relay"].as_str().unwrap()).collect()
}

#[test]
fn a_queue_moves_to_another_relay_and_its_owner_sees_where_it_is() {
    let stage = Stage::new();
    let (_first, first) = stage.relay();
    let (_second, second) = stage.relay_in("second");
    stage.contacts(&first);
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(shown.text("keys"), "in-step");
    assert_eq!(shown.ok()["post_quantum"], true);
    assert_eq!(shown.ok()["rotating"], false);
    assert_eq!(shown.ok()["verdicts"], serde_json::json!([]));
    assert_eq!(
        (relays(&shown, true), relays(&shown, false)),
        (vec![&first[..]], vec![&first[..]])
    );

    // Before the other side is there, the intention is stored and shown.
    let rotate = ["contact", "rotate", "bob", "--relay", &second];
    let early = stage.run("alice", &[&rotate[..], &["--timeout", "1"]].concat());
    assert!(
        early.failed(3)["help"]
            .as_str()
            .unwrap()
            .contains("contact show bob")
    );
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(shown.ok()["rotating"], true);

    let listener = stage.start("bob", &["recv", "--contact", "alice"]);
    let rotated = stage.run("alice", &rotate);
    assert_eq!(rotated.text("relay"), second);
    stage
        .run("alice", &["send", "--contact", "bob", "moved"])
        .ok();
    assert_eq!(listener.wait().text("text"), "moved");
    stage
        .run("bob", &["send", "--contact", "alice", "seen"])
        .ok();
    assert_eq!(
        stage
            .run("alice", &["recv", "--contact", "bob"])
            .text("text"),
        "seen"
    );
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(
        (relays(&shown, true), relays(&shown, false)),
        (vec![&second[..]], vec![&first[..]])
    );
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    assert_eq!(relays(&shown, false), [&second[..]]);

    for command in [
        &["contact", "show", "nobody"][..],
        &["contact", "rotate", "nobody"],
        &["contact", "resync", "nobody"],
        &["contact", "rotate", "bob", "--relay", "smp://x"],
    ] {
        stage.run("alice", command).failed(2);
    }
}

#[test]
fn with_two_queues_messages_survive_a_relay_that_dies_with_what_it_has() {
    let stage = Stage::new();
    let (dying, first) = stage.relay();
    let (_second, second) = stage.relay_in("second");
    stage.contacts(&first);
    let present = stage.start("bob", &["contact", "requests", "--timeout", "90"]);
    let add = [
        "contact",
        "queue",
        "add",
        "bob",
        "--relay",
        &second,
        "--timeout",
        "90",
    ];
    let added = stage.run("alice", &add);
    let queues = added.ok()["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 2);
    assert!(
        queues.iter().all(|queue| queue["open"] == true),
        "{queues:?}"
    );
    present.kill();
    // Bob's command takes what alice's has just said, so that it knows of both.
    stage
        .run("alice", &["send", "--contact", "bob", "use both"])
        .ok();
    assert_eq!(
        stage
            .run("bob", &["recv", "--contact", "alice"])
            .text("text"),
        "use both"
    );
    stage
        .run("bob", &["send", "--contact", "alice", "twice on its way"])
        .ok();
    dying.kill();
    // Bob's command may have ended when one relay had it: its copy for the other one goes out now.
    let present = stage.start("bob", &["contact", "requests", "--timeout", "90"]);
    let received = stage.run("alice", &["recv", "--contact", "bob"]);
    present.kill();
    assert_eq!(received.text("text"), "twice on its way");
    assert_eq!(received.ok()["intact"], true);
    // What is left of two relays is told, as soon as it is known.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = stage.run("alice", &["contact", "show", "bob"]);
        let relays = shown.ok()["relays"].as_array().unwrap();
        let trouble = |relay: &str| {
            let view = relays.iter().find(|it| it["relay"] == relay);
            view.unwrap()["trouble"].as_str().map(str::to_owned)
        };
        assert_eq!(trouble(&second), None);
        if trouble(&first).is_some_and(|it| it.contains("out of reach")) {
            break;
        }
        assert!(Instant::now() < end, "{shown:#?}");
    }
    let remove = ["contact", "queue", "remove", "bob", "--relay"];
    let left = stage.run("alice", &[&remove[..], &[&first]].concat());
    assert_eq!(
        left.ok()["queues"],
        serde_json::json!([{ "relay": second, "open": true }])
    );
    stage
        .run("alice", &[&remove[..], &[&second]].concat())
        .failed(2);
    let spread = ["contact", "queue", "spread", "bob", "stripes"];
    assert_eq!(stage.run("alice", &spread).text("spread"), "stripes");
}

#[test]
fn noise_begins_when_the_other_side_agrees_and_messages_go_among_it() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    let noise = |arguments: &[&str]| {
        let command = [&["contact", "noise", "bob"], arguments].concat();
        stage.run("alice", &command)
    };
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    let off = json!({ "kind": "off", "interval_ms": null, "running": false, "peer": false });
    assert_eq!(shown.ok()["noise"], off);
    // Bob is not there: it is told to him, and what is sent goes at once.
    let chosen = noise(&["constant", "--every", "250ms"]);
    assert_eq!(chosen.ok()["noise"]["kind"], "constant");
    assert_eq!(chosen.ok()["noise"]["interval_ms"], 250);
    assert_eq!(chosen.ok()["noise"]["running"], false);
    let send = ["send", "--contact", "bob", "before"];
    stage.run("alice", &send).ok();
    let receive = ["recv", "--contact", "alice"];
    assert_eq!(stage.run("bob", &receive).text("text"), "before");

    // He has not agreed to it, and does not answer.
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    assert_eq!(shown.ok()["noise"]["peer"], true);
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(shown.ok()["noise"]["running"], false);
    let answer = ["contact", "noise", "alice", "answer"];
    assert_eq!(stage.run("bob", &answer).ok()["noise"]["kind"], "answer");

    let present = stage.start("bob", &["contact", "requests", "--timeout", "90"]);
    let running = (0..TRIES).any(|_| {
        let shown = stage.run("alice", &["contact", "show", "bob"]);
        shown.ok()["noise"]["running"] == true
    });
    assert!(running, "bob has not answered");
    present.kill();
    stage
        .run("alice", &["send", "--contact", "bob", "among noise"])
        .ok();
    let received = stage.run("bob", &receive);
    assert_eq!(received.text("text"), "among noise");
    assert_eq!(received.ok()["intact"], true);
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    assert_eq!(shown.ok()["noise"]["peer"], true);

    assert_eq!(noise(&["off"]).ok()["noise"]["running"], false);
    for wrong in [
        &["constant", "--every", "2"][..],
        &["random", "--mean", "1ms"],
        &["loud"],
        &[],
    ] {
        assert_eq!(noise(wrong).code, Some(2));
    }
    stage
        .run("alice", &["contact", "noise", "nobody", "off"])
        .failed(2);
}

/// Receives until a warning is given, and gives it.
fn warning(stage: &Stage) -> Value {
    for _ in 0..TRIES {
        let receive = ["recv", "--contact", "bob", "--timeout", "2"];
        let ended = stage.run("alice", &receive);
        ended.failed(3);
        if let Some(line) = ended.lines.iter().find(|line| !line["warning"].is_null()) {
            assert!(ended.stderr.contains("warning: bob: "), "{ended:#?}");
            return line.clone();
        }
    }
    panic!("nobody said that something was lost");
}

#[test]
fn a_contact_that_goes_back_in_time_is_told_and_new_keys_mend_it() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    stage.copy_profile("bob", "bob of before");
    stage
        .run("bob", &["send", "--contact", "alice", "one"])
        .ok();
    assert_eq!(
        stage
            .run("alice", &["recv", "--contact", "bob"])
            .text("text"),
        "one"
    );
    stage.copy_profile("bob of before", "bob");
    // Its keys were used before: what is sealed with them is lost, and alice hears of it.
    stage
        .run("bob", &["send", "--contact", "alice", "two"])
        .ok();
    let said = warning(&stage);
    assert_eq!(said["warning"]["what"], "unreadable");
    assert!(said["advice"].as_str().unwrap().contains("resync bob"));
    // It is kept for later.
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(shown.ok()["verdicts"][0]["what"], "unreadable");

    let listener = stage.start("bob", &["recv", "--contact", "alice"]);
    let mended = stage.run("alice", &["contact", "resync", "bob"]);
    assert_eq!(mended.ok()["resynchronised"], true);
    stage
        .run("alice", &["send", "--contact", "bob", "again?"])
        .ok();
    assert_eq!(listener.wait().text("text"), "again?");
    stage
        .run("bob", &["send", "--contact", "alice", "two, again"])
        .ok();
    let received = stage.run("alice", &["recv", "--contact", "bob"]);
    assert_eq!(received.text("text"), "two, again");
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert_eq!(shown.text("keys"), "in-step");
    assert_eq!(shown.ok()["post_quantum"], true);
}

#[test]
fn a_party_of_a_session_that_goes_back_in_time_is_told() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    stage.copy_profile("p1", "p1 of before");
    stage.run("p1", &["send", "--session", "s", "one"]).ok();
    assert_eq!(
        stage.run("p2", &["recv", "--session", "s"]).text("text"),
        "one"
    );
    stage.copy_profile("p1 of before", "p1");
    let liar = ["send", "--session", "s", "two", "--timeout", "2"];
    let expected = format!("warning: session s: party {}", formed[0]["me"]);
    for _ in 0..TRIES {
        // It may or may not notice itself that it is behind: that is not what this is about.
        let behind: Process = stage.start("p1", &liar);
        let ended = stage.run("p2", &["recv", "--session", "s", "--timeout", "2"]);
        behind.wait();
        if ended.stderr.contains(&expected) {
            return;
        }
    }
    panic!("nobody said that something was lost");
}

/// A contact of alice's that goes back in time, and has sent something that she cannot read.
fn liar(stage: &Stage, address: &str, name: &str) {
    let invite = ["contact", "invite", "--name", name, "--relay", address];
    let mut alice = stage.start("alice", &invite);
    let link = alice.link();
    let connect = ["connect", &link, "--name", "alice", "--relay", address];
    stage.run(name, &connect).ok();
    alice.wait().ok();
    let before = format!("{name} of before");
    stage.copy_profile(name, &before);
    let say = |text| stage.run(name, &["send", "--contact", "alice", text]);
    say("one").ok();
    let received = stage.run("alice", &["recv", "--contact", name]);
    assert_eq!(received.text("text"), "one");
    stage.copy_profile(&before, name);
    say("two").ok();
}

#[test]
fn a_command_about_one_contact_tells_what_is_lost_of_another() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    for (name, command) in [("carol", "show"), ("dave", "resync")] {
        liar(&stage, &address, name);
        // For new keys bob has to be there.
        let present = stage.start("bob", &["recv", "--contact", "alice", "--timeout", "100"]);
        let told = (0..TRIES).any(|_| {
            let ended = stage.run("alice", &["contact", command, "bob"]);
            ended.ok();
            ended.stderr.contains(&format!("warning: {name}: "))
        });
        assert!(told, "{command} says nothing of {name}");
        present.kill();
        let shown = stage.run("alice", &["contact", "show", name]);
        assert_eq!(shown.ok()["verdicts"][0]["what"], "unreadable");
    }
}
