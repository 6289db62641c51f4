//! `junto daemon`: clients of a Unix socket, honest, dying and hostile ones.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod stage;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use stage::daemon::{Client, daemon};
use stage::{Process, Stage};

/// Two daemons whose profiles are contacts of each other, `alice` and `bob`.
fn pair(stage: &Stage, address: &str) -> [Process; 2] {
    stage.contacts(address);
    ["alice", "bob"].map(|profile| daemon(stage, profile))
}

fn send(client: &mut Client, contact: &str, text: &str) {
    client.call("send", &json!({ "contact": contact, "text": text }));
}

#[test]
fn two_programs_meet_and_talk_through_their_daemons() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let daemons = ["alice", "bob"].map(|profile| daemon(&stage, profile));
    let mut alice = Client::of(&stage, "alice");
    let mut bob = Client::of(&stage, "bob");
    assert_eq!(alice.call("version", &json!({}))["protocol"], 1);
    alice.call("subscribe", &json!({}));
    bob.call("subscribe", &json!({}));
    let invited = alice.call(
        "contact.invite",
        &json!({ "name": "bob", "relay": address, "as": "Alice" }),
    );
    let early = alice.refused("send", &json!({ "contact": "bob", "text": "x" }));
    assert_eq!(early["data"]["exit_code"], 2);
    let joined = json!({ "link": invited["link"], "name": "alice", "relay": address, "as": "Bob" });
    assert_eq!(bob.call("contact.connect", &joined)["contact"], "alice");
    assert_eq!(bob.next("connected")["says"], "Alice");
    assert_eq!(alice.next("connected")["says"], "Bob");
    send(&mut alice, "bob", "hello");
    let hello = bob.next("message");
    assert_eq!(
        (&hello["text"], &hello["intact"]),
        (&json!("hello"), &json!(true))
    );
    bob.ack(&hello);
    // What was acknowledged is delivered, which the sender hears of.
    assert_eq!(alice.next("delivered")["contact"], "bob");
    let hex = json!({ "contact": "alice", "hex": "00ff" });
    bob.call("send", &hex);
    assert_eq!(alice.next("message")["hex"], "00ff");
    let listed = bob.call("contact.list", &json!({}));
    assert_eq!(listed["contacts"][0]["state"], "connected");
    let shown = bob.call("contact.show", &json!({ "contact": "alice" }));
    assert_eq!(
        (&shown["keys"], &shown["post_quantum"]),
        (&json!("in-step"), &json!(true))
    );
    assert_eq!(
        bob.call("session.list", &json!({})),
        json!({ "sessions": [] })
    );
    // The exit codes of the command line.
    let nobody = bob.refused("contact.show", &json!({ "contact": "nobody" }));
    assert_eq!(
        (&nobody["code"], &nobody["data"]["exit_code"]),
        (&json!(-32002), &json!(2))
    );
    // Other commands cannot use the profile meanwhile.
    stage.run("bob", &["contact", "list"]).failed(5);
    for daemon in daemons {
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code, Some(0));
    }
    assert!(!stage.path("bob").join("daemon/socket").exists());
    // What was not acknowledged is there still.
    let received = stage.run("alice", &["recv", "--contact", "bob"]);
    assert_eq!(received.ok()["hex"], "00ff");
}

#[test]
fn a_message_comes_until_it_is_acknowledged_whoever_dies() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let [_alice, daemon_of_bob] = pair(&stage, &address);
    let mut alice = Client::of(&stage, "alice");
    for number in 0..40 {
        alice.begin(
            "send",
            &json!({ "contact": "bob", "text": number.to_string() }),
        );
    }
    let texts = |client: &mut Client, count: usize| -> Vec<Value> {
        (0..count).map(|_| client.next("message")).collect()
    };
    let in_order = |messages: &[Value], from: usize| {
        for (at, message) in messages.iter().enumerate() {
            assert_eq!(message["text"], (from + at).to_string());
        }
    };
    // A client that dies has lost nothing for the next one.
    let mut first = Client::of(&stage, "bob");
    first.call("subscribe", &json!({ "contact": "alice" }));
    let seen = texts(&mut first, 10);
    in_order(&seen, 0);
    for message in &seen[..4] {
        first.ack(message);
    }
    drop(first);
    let mut second = Client::of(&stage, "bob");
    second.call("subscribe", &json!({}));
    let seen = texts(&mut second, 20);
    in_order(&seen, 4);
    for message in &seen[..6] {
        second.ack(message);
    }
    // The daemon dies: what it said is acknowledged stays acknowledged.
    daemon_of_bob.kill();
    let _again = daemon(&stage, "bob");
    let mut third = Client::of(&stage, "bob");
    third.call("subscribe", &json!({}));
    let seen = texts(&mut third, 30);
    in_order(&seen, 10);
    // Acknowledging again, or what there is not, does nothing.
    third.ack(&seen[0]);
    third.ack(&seen[0]);
    third.call("ack", &json!({ "contact": "alice", "message": u64::MAX }));
    // Who asks for the messages later gets them, and who had them is told.
    let mut fourth = Client::of(&stage, "bob");
    fourth.call("subscribe", &json!({ "contact": "alice" }));
    assert_eq!(third.next("unsubscribed")["contact"], "alice");
    in_order(&texts(&mut fourth, 29), 11);
}

#[test]
fn no_more_is_handed_out_than_a_client_may_leave_unacknowledged() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let _daemons = pair(&stage, &address);
    let mut alice = Client::of(&stage, "alice");
    for number in 0..40 {
        send(&mut alice, "bob", &number.to_string());
    }
    let mut bob = Client::of(&stage, "bob");
    bob.call("subscribe", &json!({}));
    let first = bob.next("message");
    let mut last = first.clone();
    for _ in 1..32 {
        last = bob.next("message");
    }
    assert_eq!(last["text"], "31");
    // All are here, so the next line would be another message; it is the answer.
    while bob.call("contact.list", &json!({}))["contacts"][0]["unread"] != 40 {}
    assert!(
        bob.told.iter().all(|line| line["method"] != "message"),
        "{:?}",
        bob.told
    );
    bob.ack(&first);
    assert_eq!(bob.next("message")["text"], "32");
}

/// More than one client may have unread, from more contacts than share one window.
#[test]
fn who_reads_is_not_cut_off_however_many_contacts_it_has() {
    const CONTACTS: usize = 11;
    const EACH: usize = 32;
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let _daemons = ["alice", "bob"].map(|profile| daemon(&stage, profile));
    let mut alice = Client::of(&stage, "alice");
    alice.call("subscribe", &json!({}));
    let mut bob = Client::of(&stage, "bob");
    for contact in 0..CONTACTS {
        let name = format!("c{contact}");
        let invited = bob.call("contact.invite", &json!({ "name": name, "relay": address }));
        let join = json!({ "link": invited["link"], "name": name, "relay": address });
        alice.call("contact.connect", &join);
        assert_eq!(alice.next("connected")["contact"], name);
        for number in 0..EACH {
            send(
                &mut alice,
                &name,
                &format!("{number} {}", "x".repeat(4_000)),
            );
        }
    }
    let all_are_here = |listed: &Value| {
        let listed = listed["contacts"].as_array().unwrap();
        listed.iter().all(|it| it["unread"] == EACH)
    };
    bob.wait_until("contact.list", &json!({}), all_are_here);
    bob.call("subscribe", &json!({}));
    // All that it may have is put into its queue before it reads on.
    Client::of(&stage, "bob").call("version", &json!({}));
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..CONTACTS * EACH {
        let message = bob.next("message");
        let count: &mut usize = seen.entry(message["contact"].to_string()).or_default();
        let text = message["text"].as_str().unwrap();
        assert!(text.starts_with(&format!("{count} ")), "{text:.8}");
        *count += 1;
        bob.ack(&message);
    }
    assert!(seen.len() == CONTACTS && seen.values().all(|count| *count == EACH));
}

#[test]
fn a_send_that_would_wait_is_refused_and_other_calls_go_on() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    stage.contacts(&address);
    // Bob is away, and new keys are asked for: Alice may say nothing until he answers.
    let asked = ["contact", "resync", "bob", "--timeout", "1"];
    stage.run("alice", &asked).failed(3);
    let running = daemon(&stage, "alice");
    let mut alice = Client::of(&stage, "alice");
    let message = json!({ "contact": "bob", "text": "x" });
    for _ in 0..20 {
        assert_eq!(alice.refused("send", &message)["code"], -32003);
    }
    alice.subscribe_to("bob");
    let _bob = daemon(&stage, "bob");
    let bob = json!({ "contact": "bob" });
    alice.wait_until("contact.show", &bob, |shown| shown["keys"] == "in-step");
    alice.call("send", &message);
    // The relay is gone for good.
    drop(relay);
    let mut stored = 0;
    let refusal = loop {
        let id = alice.begin("send", &message);
        let answer = alice.answer(id);
        if !answer["error"].is_null() {
            break answer["error"].clone();
        }
        stored += 1;
        assert!(stored <= 256, "there is no end to it");
    };
    assert_eq!(refusal["code"], -32003);
    alice.call("ack", &json!({ "contact": "bob", "message": 1 }));
    running.signal("TERM");
    assert_eq!(running.wait().code, Some(0));
}

/// Where notes are written there is something else: the daemon goes on, and writes them when it can.
#[test]
fn a_disk_that_takes_no_notes_does_not_end_the_daemon() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    stage.copy_profile("alice", "alice of before");
    let running = daemon(&stage, "bob");
    let mut bob = Client::of(&stage, "bob");
    bob.call("subscribe", &json!({}));
    let say = |text| stage.run("alice", &["send", "--contact", "bob", text]);
    say("one").ok();
    let first = bob.next("message");
    bob.ack(&first);
    let obstacle = stage.path("bob").join("contacts.new");
    std::fs::create_dir(&obstacle).unwrap();
    stage.copy_profile("alice of before", "alice");
    say("two").ok();
    assert_eq!(bob.next("warning")["warning"]["what"], "unreadable");
    // It is told, and tried again and again; all else goes on.
    let begun = std::time::Instant::now();
    while !running.has_logged("not noted, tried again") {
        bob.call("contact.list", &json!({}));
        assert!(begun.elapsed() < std::time::Duration::from_secs(120));
    }
    bob.call("send", &json!({ "contact": "alice", "text": "still here" }));
    std::fs::remove_dir(&obstacle).unwrap();
    let book = stage.path("bob").join("contacts");
    let before = std::fs::read(&book).unwrap();
    while std::fs::read(&book).unwrap() == before {
        bob.call("contact.list", &json!({}));
        assert!(begun.elapsed() < std::time::Duration::from_secs(240));
    }
    running.kill();
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    assert_eq!(shown.ok()["verdicts"][0]["what"], "unreadable");
}

#[test]
fn who_subscribes_hears_of_a_connection_that_cannot_go_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let invite = ["contact", "invite", "--name", "bob", "--relay", &address];
    let mut alice = stage.start("alice", &invite);
    let link = alice.link();
    let connect = ["connect", &link, "--name", "alice", "--relay", &address];
    stage.run("bob", &connect).ok();
    alice.wait().ok();
    // The link has been used.
    let running = daemon(&stage, "carol");
    let mut carol = Client::of(&stage, "carol");
    carol.call("subscribe", &json!({}));
    let join = json!({ "link": link, "name": "alice", "relay": address });
    carol.call("contact.connect", &join);
    let failed = carol.next("failed");
    assert_eq!(failed["contact"], "alice");
    let shown = carol.call("contact.show", &json!({ "contact": "alice" }));
    assert_eq!(
        (&shown["state"], &shown["fault"]),
        (&json!("failed"), &failed["fault"])
    );
    // So does who comes later, and after a restart.
    let mut later = Client::of(&stage, "carol");
    later.subscribe_to("alice");
    assert_eq!(later.next("failed"), failed);
    running.kill();
    let _again = daemon(&stage, "carol");
    let mut carol = Client::of(&stage, "carol");
    carol.call("subscribe", &json!({}));
    assert_eq!(carol.next("failed"), failed);
}

#[test]
fn hostile_clients_cost_the_others_nothing() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let _daemons = pair(&stage, &address);
    let mut alice = Client::of(&stage, "alice");
    let mut bob = Client::of(&stage, "bob");

    // Garbage is answered and has no consequence.
    let mut babbler = Client::of(&stage, "bob");
    babbler.say("{\"jsonrpc\":\u{7f}");
    assert_eq!(babbler.line().unwrap()["error"]["code"], -32700);
    babbler.say("[]");
    assert_eq!(babbler.line().unwrap()["error"]["code"], -32600);
    babbler.to.write_all(&[0xff, 0, b'\n']).unwrap();
    assert_eq!(babbler.line().unwrap()["error"]["code"], -32700);
    assert_eq!(babbler.refused("contact.erase", &json!({}))["code"], -32601);
    assert_eq!(babbler.refused("send", &json!({}))["code"], -32602);
    // Notifications get no answer: the next line answers the next call.
    babbler.say(r#"{"jsonrpc":"2.0","method":"contact.erase"}"#);
    babbler.say(r#"{"jsonrpc":"2.0","method":"send","params":{}}"#);
    babbler.call("version", &json!({}));
    assert!(babbler.told.is_empty(), "{:?}", babbler.told);
    // A line without an end is the last one.
    let endless = vec![b' '; 128 * 1024 + 1];
    babbler.to.write_all(&endless).unwrap();
    assert_eq!(babbler.line().unwrap()["error"]["code"], -32600);
    assert!(babbler.line().is_none());

    // One takes over the messages and never reads; it asks until nobody takes anything from it any more.
    let mut deaf = Client::of(&stage, "bob");
    deaf.call("subscribe", &json!({}));
    deaf.to.set_nonblocking(true).unwrap();
    let ask = format!(
        "{}\n",
        json!({ "jsonrpc": "2.0", "id": 1, "method": "contact.list" })
    );
    let asks = ask.repeat(1_000);
    while deaf.to.write(asks.as_bytes()).is_ok() {}
    for number in 0..100 {
        send(
            &mut alice,
            "bob",
            &format!("{number} {}", "x".repeat(10_000)),
        );
    }
    bob.call("subscribe", &json!({}));
    for number in 0..100 {
        let message = bob.next("message");
        assert!(
            message["text"]
                .as_str()
                .unwrap()
                .starts_with(&format!("{number} "))
        );
        bob.ack(&message);
    }
    drop(deaf);

    // More clients than there are places.
    let mut crowd: Vec<Client> = (0..16).map(|_| Client::of(&stage, "bob")).collect();
    let turned_away = crowd.last_mut().unwrap().line().unwrap();
    let message = turned_away["error"]["message"].as_str().unwrap();
    assert!(message.contains("16 clients"), "{message}");
    bob.call("version", &json!({}));
}

#[test]
fn nobody_else_reaches_the_socket() {
    let stage = Stage::new();
    let mode = |name: &str| {
        let path = stage.path("alice").join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    let running = daemon(&stage, "alice");
    assert_eq!((mode("daemon"), mode("daemon/socket")), (0o700, 0o600));
    // A socket that a killed daemon left over is no obstacle; something else is left alone.
    running.kill();
    let running = daemon(&stage, "alice");
    running.kill();
    let dir = stage.path("alice").join("daemon");
    std::fs::remove_file(dir.join("socket")).unwrap();
    std::fs::write(dir.join("socket"), b"mine").unwrap();
    stage.run("alice", &["daemon"]).failed(5);
    assert_eq!(std::fs::read(dir.join("socket")).unwrap(), b"mine");
    std::fs::remove_file(dir.join("socket")).unwrap();
    // Whoever may write into the folder could listen there in our place.
    for wide in ["daemon", "."] {
        let path = stage.path("alice").join(wide);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let refused = stage.run("alice", &["daemon"]);
        assert!(
            refused.failed(5)["message"]
                .as_str()
                .unwrap()
                .contains("other users")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    daemon(&stage, "alice").kill();
}

/// What is between these fences in the guide.
fn block<'a>(guide: &'a str, fence: &str) -> &'a str {
    let start = guide.find(fence).expect("a block") + fence.len();
    let length = guide[start..].find("\n```").expect("its end");
    &guide[start..start + length]
}

/// The client of `docs/guides/daemon.md`, as it is there: one side sends, the other one answers.
#[test]
fn the_client_of_the_guide_works() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let _daemons = ["alice", "bob"].map(|profile| daemon(&stage, profile));
    let guide = include_str!("../../../docs/guides/daemon.md");
    let script = stage.file("client.py", block(guide, "```python\n").as_bytes());
    let python = |profile: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("python3");
        command
            .arg(&script)
            .arg(stage.path(profile).join("daemon/socket"))
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        Process::spawn(command, format!("client of {profile}"))
    };
    let mut alice = python("alice", &["invite", "bob", &address]);
    let link = alice.word();
    assert!(link.starts_with("simplex:/i#"), "{link}");
    let mut bob = python("bob", &["connect", "alice", &address, &link]);
    assert_eq!(bob.word(), r#"alice: "hello from the other side""#);
    assert_eq!(alice.word(), r#"bob: "hello from the other side""#);
    for client in [alice, bob] {
        let ended = client.wait();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
    }
}

/// The lines of the guide that are not Python: what they show is what comes.
#[test]
fn the_lines_of_the_guide_are_answered_as_it_says() {
    let stage = Stage::new();
    let _daemon = daemon(&stage, "alice");
    let guide = include_str!("../../../docs/guides/daemon.md");
    let mut client = Client::of(&stage, "alice");
    let mut lines = block(guide, "```json\n").lines();
    while let (Some(asked), Some(answered)) = (lines.next(), lines.next()) {
        client.say(asked.strip_prefix("--> ").expect("what is asked"));
        let expected: Value = serde_json::from_str(answered.strip_prefix("<-- ").unwrap()).unwrap();
        assert_eq!(client.line().unwrap(), expected);
    }
    // The input ends; nothing more is said.
    client.to.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.from.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}
