//! Contacts between processes: invitations, an address with requests that wait for its owner, messages.

#![allow(clippy::unwrap_used)]

mod stage;
use stage::Stage;

#[test]
fn an_invitation_makes_one_contact() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let mut alice = stage.start(
        "alice",
        &[
            "contact", "invite", "--relay", &address, "--name", "bob", "--as", "Alice",
        ],
    );
    let link = alice.link();
    assert!(link.starts_with("simplex:/i#"), "{link}");
    let connect = [
        "connect", &link, "--relay", &address, "--name", "alice", "--as", "Bob",
    ];
    let bob = stage.run("bob", &connect);
    assert_eq!(bob.text("state"), "connected");
    assert_eq!(bob.text("says"), "Alice");
    let alice = alice.wait();
    assert_eq!(alice.text("state"), "connected");
    assert_eq!(alice.text("says"), "Bob");
    // Again: the same contact.
    let again = stage.run("bob", &connect);
    assert_eq!(again.text("contact"), "alice");
    stage
        .run("bob", &["send", "--contact", "alice", "one"])
        .ok();
    stage
        .run("bob", &["send", "--contact", "alice", "two\u{1b}[2J"])
        .ok();
    let listed = stage.run("alice", &["contact", "list"]);
    assert_eq!(listed.text("contact"), "bob");
    // Alone, too.
    for alone in ["contact", "contacts"] {
        assert_eq!(stage.run("alice", &[alone]).text("contact"), "bob");
    }
    assert_eq!(stage.run("alice", &["devices"]).code, Some(0));
    let received = stage.run("alice", &["recv", "--contact", "bob", "--count", "2"]);
    received.ok();
    let texts: Vec<_> = received
        .lines
        .iter()
        .map(|it| it["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["one", "two\u{1b}[2J"]);
    assert!(received.lines.iter().all(|it| it["intact"] == true));
    stage
        .run("alice", &["recv", "--contact", "bob", "--timeout", "1"])
        .failed(3);
    // Somebody else with the same link.
    let carol = stage.run("carol", &["connect", &link, "--relay", &address]);
    assert!(
        carol.failed(1)["message"]
            .as_str()
            .unwrap()
            .contains("link")
    );
    // The end, which the other side hears of when it sends.
    stage.run("alice", &["contact", "close", "bob"]).ok();
    stage.run("alice", &["contact", "close", "bob"]).failed(2);
    assert!(stage.run("alice", &["contacts", "list"]).lines.is_empty());
}

#[test]
fn who_asks_at_an_address_waits_for_its_owner() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let relay = ["--relay", &address];
    stage
        .run("alice", &["contact", "address", "show"])
        .failed(2);
    let new = ["contact", "address", "new", "--about", "Alice of the relay"];
    let made = stage.run("alice", &[&new[..], &relay].concat());
    let link = made.text("link");
    assert!(link.starts_with("simplex:/a#"), "{link}");
    // As it is spelt with `new`, and without.
    let describe = ["contact", "address", "describe", "--about", "Ann"];
    assert_eq!(stage.run("alice", &describe).text("about"), "Ann");
    let describe = ["contact", "address", "describe", "Alice"];
    assert_eq!(stage.run("alice", &describe).text("link"), link);
    let shown = stage.run("alice", &["contact", "address", "show"]);
    assert_eq!(
        (shown.text("link"), shown.text("about")),
        (link.clone(), "Alice".to_owned())
    );
    let shown = stage.run_for_people("alice", &["contact", "address", "show"]);
    assert_eq!(
        shown.lines,
        [link.as_str()],
        "a script takes the link from it"
    );
    assert!(shown.stderr.contains("It says: Alice"), "{}", shown.stderr);

    for name in ["bob", "mallory"] {
        let connect = ["connect", &link, "--name", "alice", "--as", name];
        let asked = stage.run(name, &[&connect[..], &relay].concat());
        assert_eq!(asked.text("state"), "waiting");
        assert_eq!(asked.text("address_says"), "Alice");
        assert_eq!(asked.ok()["asked"], true);
    }
    // Not as a link for one peer that does not work.
    let connect = [
        &["connect", &link, "--name", "alice", "--as", "bob"][..],
        &relay,
    ]
    .concat();
    let asked = stage.run_for_people("bob", &connect);
    let told = asked.lines[0].as_str().unwrap();
    assert!(told.contains("the owner of the address has to accept"));
    assert!(
        asked.stderr.contains("`junto recv --contact alice` waits"),
        "{}",
        asked.stderr
    );
    let waiting = stage.run("alice", &["contact", "requests", "--timeout", "60"]);
    let mut ids = std::collections::BTreeMap::new();
    // The second may arrive after the first was shown.
    let second = stage.run("alice", &["contact", "requests", "--timeout", "60"]);
    for line in waiting.lines.iter().chain(&second.lines) {
        let id = line["request"].as_str().unwrap().to_owned();
        ids.insert(line["says"].as_str().unwrap().to_owned(), id);
    }
    let names: Vec<_> = ids.keys().map(String::as_str).collect();
    assert_eq!(names, ["bob", "mallory"]);
    stage
        .run("alice", &["contact", "reject", &ids["mallory"]])
        .ok();
    stage
        .run("alice", &["contact", "reject", &ids["mallory"]])
        .failed(2);
    let accept = ["contact", "accept", &ids["bob"], "--as", "Alice"];
    let accepted = stage.run("alice", &[&accept[..], &relay].concat());
    assert_eq!(accepted.text("contact"), "bob");
    assert_eq!(accepted.ok()["accepted"], true);
    let receiving = stage.start("bob", &["recv", "--contact", "alice"]);
    stage
        .run("alice", &["send", "--contact", "bob", "welcome"])
        .ok();
    assert_eq!(receiving.wait().text("text"), "welcome");
    let listed = stage.run("bob", &["contact", "list"]);
    assert_eq!(
        (listed.text("state"), listed.text("says")),
        ("connected".into(), "Alice".into())
    );

    stage.run("alice", &["contact", "address", "close"]).ok();
    stage
        .run("alice", &["contact", "address", "close"])
        .failed(2);
    let late = stage.run("late", &[&["connect", &link][..], &relay].concat());
    late.failed(1);
    // Contacts stay.
    stage
        .run("bob", &["send", "--contact", "alice", "thanks"])
        .ok();
    let thanks = stage.run("alice", &["recv", "--contact", "bob"]);
    assert_eq!(thanks.text("text"), "thanks");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let stage = Stage::new();
    for arguments in [
        &["connect", "junto:abc"][..],
        &["connect", "https://host/a#abc"],
        &["send", "--contact", "nobody", "text"],
        &["recv", "--contact", "nobody"],
        &["contact", "close", "nobody"],
        &["contact", "accept", "00"],
        &["contact", "reject", "00"],
        &["contact", "invite"],
        &["contact", "invite", "--name", "a\nb", "--relay", "smp://x"],
    ] {
        stage.run("alice", arguments).failed(2);
    }
    // Neither or both of session and contact: the command line itself is wrong.
    for arguments in [
        &["send", "text"][..],
        &["send", "--session", "s", "--contact", "c", "text"],
        &["recv"],
    ] {
        assert_eq!(stage.run("alice", arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn what_only_junto_has_is_refused_to_a_contact_of_simplexs_apps() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let relay = ["--relay", &address];
    let invite = ["contact", "invite", "--name", "gina", "--as", "Alice"];
    let mut alice = stage.start("alice", &[&invite[..], &relay].concat());
    let link = alice.link();
    // What SimpleX's apps say about themselves; the rest of an app is not needed for this.
    let says = r#"{"v":"1-16","event":"x.info","params":{"profile":{"displayName":"gina","fullName":""}}}"#;
    let connect = ["connect", &link, "--name", "alice", "--as", says];
    stage.run("gina", &[&connect[..], &relay].concat()).ok();
    assert_eq!(alice.wait().text("says"), says);
    let file = stage.file("a file", b"text");
    let queue = ["contact", "queue", "add", "gina"];
    let (queue, file) = (
        [&queue[..], &relay].concat(),
        ["file", "send", "--contact", "gina", &file],
    );
    let noise = ["contact", "noise", "gina", "constant", "--every", "2s"];
    for refused in [&queue[..], &noise, &file] {
        let error = stage.run("alice", refused);
        let text = error.failed(5)["message"].as_str().unwrap();
        assert!(text.contains("SimpleX"), "{text}");
    }
    stage
        .run("alice", &["contact", "noise", "gina", "off"])
        .ok();
    let shown = stage.run("alice", &["contact", "show", "gina"]);
    let shown = shown.ok();
    assert_eq!(shown["queues"].as_array().unwrap().len(), 1);
    assert_eq!(shown["noise"]["kind"], "off");
    // What it gets is what was said to it.
    stage
        .run("alice", &["send", "--contact", "gina", "hello"])
        .ok();
    let heard = stage.run("gina", &["recv", "--contact", "alice"]);
    assert_eq!(heard.text("text"), "hello");
    let rest = ["recv", "--contact", "alice", "--timeout", "3"];
    stage.run("gina", &rest).failed(3);
}
