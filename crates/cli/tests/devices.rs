//! Several devices of one profile, as processes: linking by code, messages to all, revocation.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

mod stage;
use stage::{Process, Stage};

/// What a device that is being linked shows; typed on the other one.
#[track_caller]
fn code(device: &mut Process) -> String {
    let line = device.line();
    let code = line["code"].as_str();
    code.unwrap_or_else(|| panic!("no code: {line}")).to_owned()
}

/// Makes `new` a device of `old`'s profile.
#[track_caller]
fn link(stage: &Stage, relay: &str, (old, new): (&str, &str)) {
    link_on(stage, (old, relay), (new, relay));
}

/// The same, with a relay for each.
#[track_caller]
fn link_on(stage: &Stage, (old, relay): (&str, &str), (new, its_relay): (&str, &str)) {
    let link = ["device", "link", "--name", new, "--relay", its_relay];
    let mut newcomer = stage.start_with_input(new, &link);
    let link = newcomer.link();
    assert!(link.starts_with("junto:device/i#"), "{link}");
    let add = ["device", "add", &link, "--name", old, "--relay", relay];
    let mut host = stage.start_with_input(old, &add);
    let (shown, here) = (code(&mut newcomer), code(&mut host));
    assert_eq!(shown, here);
    host.say(format!("{shown}\n").as_bytes());
    newcomer.say(format!("{here}\n").as_bytes());
    let host = host.wait();
    assert_eq!(host.text("linked"), new);
    assert_eq!(host.ok()["asked"], host.ok()["told"]);
    assert_eq!(newcomer.wait().text("linked"), old);
}

#[track_caller]
fn recv(stage: &Stage, profile: &str, contact: &str) -> String {
    let received = stage.run(profile, &["recv", "--contact", contact, "--timeout", "60"]);
    received.text("text")
}

#[track_caller]
fn nothing(stage: &Stage, profile: &str, contact: &str) {
    let received = stage.run(profile, &["recv", "--contact", contact, "--timeout", "2"]);
    assert_ne!(received.code, Some(0), "{received:#?}");
    assert!(
        received.lines.iter().all(|it| it["text"].is_null()),
        "{received:#?}"
    );
}

/// Both run commands until the contact reaches so many devices.
#[track_caller]
fn reaches(stage: &Stage, (from, contact): (&str, &str), others: &[&str], devices: u64) {
    // What failed is tried again after a pause that grows.
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let shown = stage.run(from, &["contact", "show", contact]);
        if shown.ok()["devices"] == devices {
            return;
        }
        for other in others {
            stage.run(other, &["contact", "list"]);
        }
        assert!(
            Instant::now() < end,
            "{from} does not reach {devices} devices: {shown:#?}"
        );
    }
}

#[test]
fn a_second_device_gets_what_contacts_send_goes_on_alone_and_revokes_the_first() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    link(&stage, &relay, ("alice", "phone"));
    assert_eq!(
        stage.run("phone", &["contact", "list"]).text("contact"),
        "bob"
    );
    reaches(&stage, ("bob", "alice"), &["phone"], 2);

    // A message of the contact reaches both.
    let sent = stage.run("bob", &["send", "--contact", "alice", "to both"]);
    assert_eq!(sent.ok()["devices"], 2);
    assert_eq!(recv(&stage, "alice", "bob"), "to both");
    assert_eq!(recv(&stage, "phone", "bob"), "to both");
    // What one sends, the other one shows as sent.
    stage
        .run("phone", &["send", "--contact", "bob", "from the phone"])
        .ok();
    assert_eq!(recv(&stage, "bob", "alice"), "from the phone");
    // The copy and what the contact sends come by two connections, in whichever order.
    let mut sent = false;
    for round in 0..20 {
        let text = format!("answer {round}");
        stage
            .run("bob", &["send", "--contact", "alice", &text])
            .ok();
        let shown = stage.run("alice", &["recv", "--contact", "bob", "--timeout", "60"]);
        assert_eq!(shown.text("text"), text);
        assert_eq!(recv(&stage, "phone", "bob"), text);
        let is_copy = |it: &serde_json::Value| it["sent"] == true && it["text"] == "from the phone";
        sent = shown.lines.iter().any(is_copy);
        if sent {
            break;
        }
    }
    assert!(sent, "no copy of what the phone has sent");

    // One of them only, and both again.
    stage.run("phone", &["device", "prefer", "phone"]).ok();
    stage.run("bob", &["contact", "list"]).ok();
    let sent = stage.run("bob", &["send", "--contact", "alice", "to the phone"]);
    assert_eq!(sent.ok()["devices"].as_u64().unwrap_or(1), 1);
    assert_eq!(recv(&stage, "phone", "bob"), "to the phone");
    nothing(&stage, "alice", "bob");
    stage.run("phone", &["device", "prefer", "all"]).ok();
    stage.run("bob", &["contact", "list"]).ok();

    // The first device is lost; the second one goes on, and revokes it. A copy of it comes back later.
    stage.copy_profile("alice", "thief");
    let listed = stage.run("phone", &["device", "list"]);
    listed.ok();
    assert_eq!(listed.lines.len(), 2, "{listed:#?}");
    stage.run("phone", &["device", "revoke", "phone"]).failed(2);
    stage.run("phone", &["device", "revoke", "alice"]).ok();
    stage.run("phone", &["device", "revoke", "alice"]).failed(2);
    reaches(&stage, ("bob", "alice"), &[], 1);
    stage
        .run("bob", &["send", "--contact", "alice", "secret"])
        .ok();
    assert_eq!(recv(&stage, "phone", "bob"), "secret");
    for profile in ["thief", "alice"] {
        nothing(&stage, profile, "bob");
        stage.run(profile, &["send", "--contact", "bob", "it is me"]);
        nothing(&stage, profile, "bob");
    }
    nothing(&stage, "bob", "alice");
    stage
        .run("bob", &["send", "--contact", "alice", "once more"])
        .ok();
    assert_eq!(recv(&stage, "phone", "bob"), "once more");
    let listed = stage.run("phone", &["device", "list"]);
    assert_eq!(listed.text("device"), "phone");
    let revoked = stage.run("thief", &["device", "list"]);
    assert!(revoked.ok()["revoked_by"] == "phone", "{revoked:#?}");
    // With each command, whatever it is about.
    for (arguments, code) in [
        (&["contact", "list"][..], 0),
        (&["recv", "--contact", "bob"], 5),
        (&["contact", "show", "bob"], 5),
        (&["contact", "address", "show"], 2),
    ] {
        let ended = stage.run("thief", arguments);
        assert_eq!(ended.code, Some(code), "{ended:#?}");
        let told = "this device was revoked by your device phone";
        assert!(ended.stderr.contains(told), "{ended:#?}");
    }
}

/// The word reaches it in a later command of the other device, though the first thing that it does itself is to send.
#[test]
fn a_device_whose_relay_is_away_when_it_is_revoked_gets_the_word_and_nothing_else() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    let (other, away) = stage.relay_in("other");
    stage.contacts(&relay);
    link_on(&stage, ("alice", &relay), ("phone", &away));
    reaches(&stage, ("bob", "alice"), &["phone", "alice"], 2);
    other.kill();
    // The phone's copy of this waits for its relay.
    let before = ["send", "--contact", "bob", "before"];
    stage.run("alice", &before).ok();
    stage.run("alice", &["device", "revoke", "phone"]).ok();
    stage
        .run("alice", &["send", "--contact", "bob", "secret"])
        .ok();
    stage.run("alice", &["contact", "list"]).ok();
    for text in ["before", "secret"] {
        assert_eq!(recv(&stage, "bob", "alice"), text);
    }
    let _other = stage.restart_relay_in("other");
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        stage.run("alice", &["contact", "list"]).ok();
        let sent = stage.run("phone", &["send", "--contact", "bob", "it is me"]);
        if sent
            .stderr
            .contains("THIS device was revoked by your device alice")
        {
            sent.failed(5);
            break;
        }
        assert!(Instant::now() < end, "it never hears of it: {sent:#?}");
    }
    nothing(&stage, "phone", "bob");
    nothing(&stage, "bob", "alice");
    let listed = stage.run("phone", &["device", "list"]);
    assert!(listed.ok()["revoked_by"] == "alice", "{listed:#?}");
    // Nothing of it is left with who has said it, once a process lives until its relay has said so.
    loop {
        let well = stage.run("alice", &["profile", "check"]);
        if well.ok()["connections"] == 1 {
            break;
        }
        assert!(Instant::now() < end, "{well:#?}");
        stage.run("alice", &["contact", "list"]).ok();
    }
}

#[test]
fn a_wrong_code_ends_it_on_both_and_nothing_is_kept() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    let mut newcomer = stage.start_with_input("phone", &["device", "link", "--relay", &relay]);
    let link = newcomer.link();
    let add = ["device", "add", &link, "--relay", &relay];
    let mut host = stage.start_with_input("alice", &add);
    let shown = code(&mut newcomer);
    code(&mut host);
    // Any other one.
    let last = shown.chars().next_back().unwrap();
    let wrong = format!("{}{}", &shown[..6], if last == '0' { '1' } else { '0' });
    host.say(format!("{wrong}\n").as_bytes());
    host.wait().failed(5);
    newcomer.wait().failed(5);
    for profile in ["alice", "phone"] {
        let listed = stage.run(profile, &["device", "list"]);
        assert!(listed.lines.len() < 2, "{listed:#?}");
    }
    assert!(stage.run("phone", &["contact", "list"]).lines.is_empty());
    // The link was for one attempt.
    stage.run("alice", &add).failed(1);
}

#[test]
fn who_opens_the_link_first_has_another_code_and_gets_nothing() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    let mut newcomer = stage.start_with_input("phone", &["device", "link", "--relay", &relay]);
    let link = newcomer.link();
    let add = ["device", "add", &link, "--relay", &relay];
    let mut mallory = stage.start_with_input("mallory", &add);
    code(&mut mallory);
    // The owner finds the link used, and has no code to type.
    stage.run("alice", &add).failed(1);
    newcomer.say(b"none\n");
    newcomer.wait().failed(5);
    mallory.wait().failed(5);
    assert!(stage.run("mallory", &["contact", "list"]).lines.is_empty());
}

#[test]
fn killed_at_any_moment_linking_is_done_or_begins_anew() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    // Killed before its user has typed anything: nothing is left of it.
    let mut newcomer = stage.start_with_input("phone", &["device", "link", "--relay", &relay]);
    let text = newcomer.link();
    let add = ["device", "add", &text, "--relay", &relay];
    let mut host = stage.start_with_input("alice", &add);
    code(&mut newcomer);
    code(&mut host);
    newcomer.kill();
    host.kill();
    for profile in ["alice", "phone"] {
        let listed = stage.run(profile, &["device", "list"]);
        assert!(listed.lines.len() < 2, "{listed:#?}");
    }
    link(&stage, &relay, ("alice", "phone"));
    // Killed while contacts are told: the next commands go on.
    let mut newcomer = stage.start_with_input(
        "tablet",
        &["device", "link", "--name", "tablet", "--relay", &relay],
    );
    let text = newcomer.link();
    let add = ["device", "add", &text];
    let mut host = stage.start_with_input("alice", &add);
    let (shown, here) = (code(&mut newcomer), code(&mut host));
    newcomer.say(format!("{here}\n").as_bytes());
    host.say(format!("{shown}\n").as_bytes());
    host.kill_after(std::time::Duration::from_millis(20));
    newcomer.kill_after(std::time::Duration::from_millis(20));
    for _ in 0..2 {
        for profile in ["tablet", "alice", "tablet", "phone"] {
            assert_eq!(stage.run(profile, &["contact", "list"]).code, Some(0));
        }
    }
    let knows = |profile, other| {
        let listed = stage.run(profile, &["device", "list"]);
        listed.lines.iter().any(|it| it["device"] == other)
    };
    // Both come to the same end: linked, or nothing of it.
    let mut linked = knows("alice", "tablet");
    for round in 0..20 {
        if knows("tablet", "alice") == linked {
            break;
        }
        assert!(round < 19, "linked on one side only; alice: {linked}");
        linked = knows("alice", "tablet");
    }
    if !linked {
        link(&stage, &relay, ("alice", "tablet"));
    }
    reaches(&stage, ("bob", "alice"), &["tablet", "phone", "alice"], 3);
    stage
        .run("bob", &["send", "--contact", "alice", "to three"])
        .ok();
    for profile in ["alice", "phone", "tablet"] {
        assert_eq!(recv(&stage, profile, "bob"), "to three");
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let stage = Stage::new();
    for arguments in [
        &["device", "add", "simplex:/i#abc", "--relay", "smp://x"][..],
        &["device", "add", "junto:device/i#abc"],
        &["device", "link"],
        &["device", "link", "--relay", "smp://x"],
        &["device", "revoke", "nobody"],
        &["device", "prefer", "nobody"],
        &["connect", "junto:device/i#abc"],
    ] {
        stage.run("alice", arguments).failed(2);
    }
    assert!(stage.run("alice", &["device", "list"]).lines.is_empty());
}

#[test]
fn texts_that_begin_as_words_about_devices_are_refused() {
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    stage.contacts(&relay);
    let send = ["send", "--contact", "bob"];
    let refused = stage.run_with_input("alice", &send, b"\0junto device\0\x01\x0b0123456789abcdef");
    refused.failed(2);
    stage
        .run("alice", &["send", "--contact", "bob", "junto device"])
        .ok();
    assert_eq!(recv(&stage, "bob", "alice"), "junto device");
}

/// Three profiles: alice and her phone, and their contact bob.
#[cfg(unix)]
fn with_phone(stage: &Stage, relay: &str) {
    stage.contacts(relay);
    link(stage, relay, ("alice", "phone"));
    reaches(stage, ("bob", "alice"), &["phone", "alice"], 2);
}

#[cfg(unix)]
#[test]
fn a_daemon_sends_to_all_devices_of_a_contact_tells_what_all_say_and_hears_a_revocation() {
    use serde_json::{Value, json};
    use stage::daemon::{Client, daemon};
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    with_phone(&stage, &relay);
    let say = |from: &str, text: &str| {
        stage.run(from, &["send", "--contact", "bob", text]).ok();
    };
    let running = daemon(&stage, "bob");
    let mut bob = Client::of(&stage, "bob");
    bob.call("subscribe", &json!({}));
    assert_eq!(
        bob.call("contact.show", &json!({ "contact": "alice" }))["devices"],
        2
    );

    // What it sends goes to both.
    let to_both = json!({ "contact": "alice", "text": "to both" });
    assert_eq!(bob.call("send", &to_both)["devices"], 2);
    for profile in ["alice", "phone"] {
        assert_eq!(recv(&stage, profile, "bob"), "to both");
    }
    // What either says is told, each under a number of its own, and comes again until it is acknowledged.
    say("alice", "from alice");
    let first = bob.next("message");
    say("phone", "from the phone");
    let second = bob.next("message");
    for (message, text) in [(&first, "from alice"), (&second, "from the phone")] {
        assert_eq!(
            (&message["contact"], &message["text"]),
            (&json!("alice"), &json!(text))
        );
    }
    assert_ne!(first["message"], second["message"]);
    bob.ack(&second);
    running.kill();
    let running = daemon(&stage, "bob");
    let mut bob = Client::of(&stage, "bob");
    bob.call("subscribe", &json!({ "contact": "alice" }));
    assert_eq!(bob.next("message"), first);
    bob.ack(&first);
    say("phone", "one more");
    let third = bob.next("message");
    assert_eq!(
        third["text"], "one more",
        "what is acknowledged does not come again"
    );
    let numbers = [&first, &second, &third].map(|it: &Value| it["message"].as_u64().unwrap());
    assert_ne!(numbers[0], numbers[2]);
    assert!(numbers[1] < numbers[2], "those of one device grow");
    assert!(numbers.iter().all(|it| *it < 1 << 53), "{numbers:?}");
    // One that there is not, of no device.
    bob.call(
        "ack",
        &json!({ "contact": "alice", "message": 7_u64 << 40 }),
    );

    // The first device is lost. The daemon hears it, whoever reads what it tells: nothing goes there any more.
    stage.copy_profile("alice", "thief");
    stage.run("phone", &["device", "revoke", "alice"]).ok();
    let shown = json!({ "contact": "alice" });
    bob.wait_until("contact.show", &shown, |shown| shown["devices"] == 1);
    let secret = bob.call("send", &json!({ "contact": "alice", "text": "secret" }));
    assert!(
        secret["message"].is_u64(),
        "to one device, it is an ordinary one: {secret}"
    );
    assert_eq!(recv(&stage, "phone", "bob"), "secret");
    // The thief has copies of what was sent before.
    let stolen = stage.run("thief", &["recv", "--contact", "bob", "--timeout", "2"]);
    assert!(
        stolen.stderr.contains("THIS device was revoked"),
        "{stolen:#?}"
    );
    assert!(
        stolen.lines.iter().all(|it| it["text"] != "secret"),
        "{stolen:#?}"
    );
    bob.ack(&third);
    // Of a device that is gone nothing can be acknowledged any more, which is no error.
    bob.ack(&first);
    running.signal("TERM");
    assert_eq!(running.wait().code, Some(0));
    nothing(&stage, "bob", "alice");
}

/// Word of a revocation could wait behind what nobody reads: nothing is sent past it.
#[cfg(unix)]
#[test]
fn a_daemon_sends_nothing_to_several_devices_while_one_cannot_be_heard() {
    use serde_json::json;
    use stage::daemon::{Client, daemon};
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    with_phone(&stage, &relay);
    let _daemons = ["phone", "bob"].map(|profile| daemon(&stage, profile));
    let mut phone = Client::of(&stage, "phone");
    let mut bob = Client::of(&stage, "bob");
    bob.call("subscribe", &json!({}));
    let text = json!({ "contact": "alice", "text": "x" });
    assert_eq!(bob.call("send", &text)["devices"], 2);
    // More than an agent holds; the daemon tells 32 of them, and nobody acknowledges.
    let mut sent = 0;
    while sent < 256 {
        let id = phone.begin(
            "send",
            &json!({ "contact": "bob", "text": sent.to_string() }),
        );
        match phone.answer(id)["error"].is_null() {
            true => sent += 1,
            // So many wait for the relay, or for the copy to the other device.
            false => std::thread::sleep(std::time::Duration::from_millis(100)),
        }
    }
    let begun = Instant::now();
    let refusal = loop {
        let id = bob.begin("send", &text);
        let answer = bob.answer(id);
        if !answer["error"].is_null() {
            break answer["error"].clone();
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it is never refused"
        );
        // Each goes to two devices that take nothing: not too many of them.
        std::thread::sleep(std::time::Duration::from_secs(1));
    };
    let message = refusal["message"].as_str().unwrap();
    assert!(message.contains("revoked"), "{message}");
    // What is read makes room.
    for number in 0..32 {
        let message = bob.next("message");
        assert_eq!(message["text"], number.to_string());
        bob.ack(&message);
    }
    bob.call("send", &text);
}

/// More copies than an agent holds of one connection: its device goes on hearing, and shows the latest.
#[cfg(unix)]
#[test]
fn a_device_that_shows_no_copies_keeps_128_and_goes_on_hearing() {
    use serde_json::json;
    use stage::daemon::{Client, daemon};
    const COPIES: usize = 300;
    let stage = Stage::new();
    let (_relay, relay) = stage.relay();
    with_phone(&stage, &relay);
    let daemons = ["phone", "alice"].map(|profile| daemon(&stage, profile));
    let mut phone = Client::of(&stage, "phone");
    let mut alice = Client::of(&stage, "alice");
    for number in 0..COPIES {
        // A device that is away for long goes without; this one is to have them all.
        let text = json!({ "contact": "bob", "text": number.to_string() });
        loop {
            let id = phone.begin("send", &text);
            if phone.answer(id)["error"].is_null() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        if number % 32 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    }
    // Said after them: it is heard after them.
    let invited = phone.call(
        "contact.invite",
        &json!({ "name": "carol", "relay": relay }),
    );
    let connect = [
        "connect",
        invited["link"].as_str().unwrap(),
        "--name",
        "alice",
        "--relay",
        &relay,
    ];
    stage.run("carol", &connect).ok();
    alice.wait_until("contact.list", &json!({}), |listed| {
        listed["contacts"]
            .as_array()
            .unwrap()
            .iter()
            .any(|it| it["contact"] == "carol")
    });
    for daemon in daemons {
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code, Some(0));
    }
    let show = || {
        let ended = stage.run("alice", &["recv", "--contact", "bob", "--timeout", "3"]);
        let copies = ended.lines.into_iter().filter(|it| it["sent"] == true);
        let numbers = copies.map(|it| it["text"].as_str().unwrap().parse::<usize>().unwrap());
        numbers.collect::<Vec<_>>()
    };
    let mut shown = Vec::new();
    for _ in 0..30 {
        if shown.len() < 128 {
            shown.extend(show());
        }
    }
    assert_eq!(shown.len(), 128, "{shown:?}");
    assert!(shown.is_sorted_by(|a, b| a < b), "{shown:?}");
    assert!(shown[0] > 100, "the oldest are given up: {shown:?}");
    assert!(show().is_empty());
}

/// The relay of a device makes no queue for a while: what fails then is done in the same process later.
#[cfg(unix)]
#[test]
fn what_cannot_be_done_for_a_device_now_is_tried_again_without_a_new_start() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let (_other, other) = stage.relay_in("other");
    with_phone(&stage, &address);
    // From now on it takes a password to make queues there; those that there are go on.
    let settings = stage.path("relay").join("relay.toml");
    let open = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(
        &settings,
        format!("password = \"{}\"\n{open}", "p".repeat(32)),
    )
    .unwrap();
    relay.kill();
    let relay = stage.restart_relay();
    let mut phone = stage.start("phone", &["-vv", "daemon"]);
    assert!(phone.line()["socket"].is_string());
    let invite = ["contact", "invite", "--name", "carol", "--relay", &other];
    let mut host = stage.start("alice", &invite);
    let connect = [
        "connect",
        &host.link(),
        "--name",
        "alice",
        "--relay",
        &other,
    ];
    stage.run("carol", &connect).ok();
    host.wait().ok();
    // Alice asks the phone for an invitation, for carol; the phone's relay refuses a queue for it.
    let begun = Instant::now();
    while !phone.has_logged("no invitation for a device") {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "it never failed"
        );
        stage.run("alice", &["contact", "list"]).ok();
    }
    std::fs::write(&settings, open).unwrap();
    relay.kill();
    let _relay = stage.restart_relay();
    reaches(&stage, ("carol", "alice"), &["alice"], 2);
    phone.signal("TERM");
    assert_eq!(phone.wait().code, Some(0));
}
