//! What stands in the way of a contact is told as what it is: a relay that passes nothing on, one that is gone, keys that are being
//! agreed, a contact that has left. And what was begun is taken up by the same command.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;
use stage::{Ended, Process, Stage, wait_all};

/// The help of a failure.
#[track_caller]
fn help(ended: &Ended, code: i32) -> String {
    let error = ended.failed(code);
    error["help"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn message(ended: &Ended, code: i32) -> String {
    ended.failed(code)["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

/// A relay by a name: one by an address of this machine counts as private, and is reached directly.
fn named_relay(stage: &Stage, folder: &str) -> (Process, String) {
    let (relay, address) = stage.relay_in(folder);
    (relay, address.replace("127.0.0.1", "localhost"))
}

#[test]
fn relays_that_refuse_to_reach_each_other_are_named_at_once_and_can_be_gone_around() {
    const WAYS_OUT: [&str; 3] = ["--routing never", "routing_fallback", "allow_private"];
    let stage = Stage::new();
    let (_first, first) = named_relay(&stage, "first");
    let (_second, second) = named_relay(&stage, "second");
    let invite = ["contact", "invite", "--name", "bob", "--relay", &first];
    let mut inviting = stage.start("alice", &invite);
    let link = inviting.link();
    let connect = ["connect", &link, "--name", "alice", "--relay", &second];
    // Long before the ten minutes that it would wait for the other side.
    let refused = stage.run("bob", &connect);
    assert_has(&message(&refused, 3), &[&first, &second, "refuses"]);
    assert_has(&help(&refused, 3), &WAYS_OUT);
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    let relays = shown.ok()["relays"].as_array().unwrap();
    let trouble = relays.iter().find(|it| it["relay"] == first.as_str());
    assert_has(trouble.unwrap()["trouble"].as_str().unwrap(), &["refuses"]);
    let shown = stage.run_for_people("bob", &["contact", "show", "alice"]);
    let shown = shown.lines.iter().map(|it| it.as_str().unwrap());
    assert_has(
        &shown.collect::<Vec<_>>().join("\n"),
        &["NOT THERE", &second],
    );

    // The way around it, on the same link. Who has invited has to answer, and is refused the same.
    let never = |arguments: &[&str]| -> Vec<String> {
        let all = ["--routing", "never"].iter().chain(arguments);
        all.map(|it| (*it).to_owned()).collect()
    };
    let start = |profile: &str, arguments: &[&str]| {
        let arguments = never(arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        stage.start(profile, &arguments)
    };
    let connecting = start("bob", &connect);
    let refused = inviting.wait();
    assert_has(&message(&refused, 3), &[&first, &second, "refuses"]);
    assert_has(&help(&refused, 3), &WAYS_OUT);
    let again = start("alice", &invite).wait();
    assert_eq!(again.text("state"), "connected");
    assert_eq!(connecting.wait().text("state"), "connected");
    // Also what a contact that stands is sent.
    let sent = stage.run("bob", &["send", "--contact", "alice", "hello"]);
    assert_has(&message(&sent, 3), &["refuses"]);
    assert_has(&help(&sent, 3), &WAYS_OUT);
    start("bob", &["contact", "list"]).wait().ok();
    let heard = stage.run("alice", &["recv", "--contact", "bob"]);
    assert_eq!(heard.text("text"), "hello");
}

#[test]
fn an_invitation_that_still_waits_gives_its_link_again_and_what_failed_leaves_its_name() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let place = ["--relay", &address];
    let invite = |name: &'static str| ["contact", "invite", "--name", name, "--timeout", "1"];
    let first = stage.run("alice", &[&invite("bob")[..], &place].concat());
    assert_has(&help(&first, 3), &["run this again"]);
    let link = first.lines[0]["link"].clone();
    let again = stage.run("alice", &invite("bob"));
    again.failed(3);
    assert_eq!(again.lines[0]["link"], link);
    assert_eq!(again.lines[0]["again"], true);
    // By a code, too: one for the same link, and a new one each time.
    let mut codes = Vec::new();
    for _ in 0..2 {
        let coded = stage.run("alice", &[&invite("bob")[..], &["--code"]].concat());
        assert_eq!(coded.lines[0]["link"], link);
        codes.push(coded.lines[0]["code"].clone());
    }
    assert!(codes[0].is_string() && codes[0] != codes[1], "{codes:?}");

    // Without its relay there is no link yet. Later there is.
    relay.kill();
    let none = stage.run("alice", &[&invite("eve")[..], &place].concat());
    assert_has(&message(&none, 3), &[&address, "out of reach"]);
    assert_eq!(none.lines.len(), 1, "{none:#?}");
    let _relay = stage.restart_relay();
    let mut later = stage.start("alice", &["contact", "invite", "--name", "eve"]);
    let eves = later.link();
    let connect = ["connect", &eves, "--name", "alice"];
    stage.run("eve", &[&connect[..], &place].concat()).ok();
    later.wait().ok();
    // Who is there is not invited again, and another relay is another link.
    stage.run("alice", &invite("eve")).failed(2);
    let elsewhere = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@localhost";
    let moved = [&invite("bob")[..], &["--relay", elsewhere]].concat();
    assert_has(
        &help(&stage.run("alice", &moved), 2),
        &["leave out `--relay`"],
    );

    // A link that was used already makes no contact, and its name is free for the next one.
    let used = ["connect", &eves, "--name", "ann"];
    let used = stage.run("bob", &[&used[..], &place].concat());
    assert_has(&help(&used, 1), &["nothing is kept", "another link"]);
    assert!(stage.run("bob", &["contact", "list"]).lines.is_empty());
    let bobs = link.as_str().unwrap();
    let connect = ["connect", bobs, "--name", "ann"];
    let connecting = stage.start("bob", &[&connect[..], &place].concat());
    let waiting = ["contact", "invite", "--name", "bob"];
    assert_eq!(stage.run("alice", &waiting).text("state"), "connected");
    assert_eq!(connecting.wait().text("state"), "connected");
}

#[test]
fn a_wrong_code_for_a_contact_says_how_to_go_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", &address];
    let invite = ["contact", "invite", "--name", "eve", "--code"];
    let mut inviting = stage.start("alice", &[&invite[..], &place].concat());
    let code = inviting.line()["code"].as_str().unwrap().to_owned();
    let (number, _) = code.split_once('-').unwrap();
    let others = ["crossover-clockwork", "chambermaid-choking"];
    let mut others = others.map(|words| format!("{number}-{words}")).into_iter();
    let wrong = others.find(|it| *it != code).unwrap();
    stage
        .run("eve", &[&["connect", &wrong][..], &place].concat())
        .failed(5);
    let ended = inviting.wait();
    let help = help(&ended, 5);
    assert_has(&help, &["junto contact invite --name eve", "--code"]);
    assert!(!help.contains("session"), "{help}");
    // As it says.
    let mut inviting = stage.start("alice", &invite);
    let code = inviting.line()["code"].as_str().unwrap().to_owned();
    let connect = ["connect", &code, "--name", "alice"];
    stage.run("eve", &[&connect[..], &place].concat()).ok();
    inviting.wait().ok();
}

#[test]
fn a_relay_that_is_gone_is_named_instead_of_the_contacts_silence() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    stage.contacts(&address);
    relay.kill();
    let file = stage.file("a file", b"text");
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let commands = [
        &["recv", "--contact", "bob"][..],
        &["send", "--contact", "bob", "text"],
        &["contact", "rotate", "bob"],
        &["contact", "resync", "bob"],
        &["file", "send", "--contact", "bob", &file],
        &["file", "recv", "--contact", "bob", "--into", &into],
        &["contact", "address", "new", "--relay", &address],
    ];
    for command in commands {
        let begun = std::time::Instant::now();
        let ended = stage.run("alice", &[command, &["--timeout", "2"]].concat());
        assert_has(&message(&ended, 3), &[&address, "out of reach"]);
        // Each says so soon and ends in time, with what an ending takes on a machine with much to do.
        assert!(begun.elapsed().as_secs() < 20, "{ended:#?}");
    }
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    let relays = shown.ok()["relays"].as_array().unwrap();
    assert_has(relays[0]["trouble"].as_str().unwrap(), &["out of reach"]);

    // What was sent meanwhile goes out with the next command.
    let _relay = stage.restart_relay();
    let listening = stage.start("bob", &["recv", "--contact", "alice"]);
    stage.run("alice", &["contact", "list"]).ok();
    assert_eq!(listening.wait().text("text"), "text");
    let shown = stage.run("alice", &["contact", "show", "bob"]);
    assert!(shown.ok()["relays"][0]["trouble"].is_null(), "{shown:#?}");
}

#[test]
fn who_has_left_is_told_by_the_command_that_sends() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    stage
        .run("alice", &["send", "--contact", "bob", ""])
        .failed(2);
    let sent = stage.run_for_people("alice", &["send", "--contact", "bob", "hi"]);
    assert_has(sent.lines[0].as_str().unwrap(), &["a relay keeps them"]);
    stage.run("bob", &["contact", "close", "alice"]).ok();
    let sent = stage.run("alice", &["send", "--contact", "bob", "still there?"]);
    assert_has(&message(&sent, 1), &["queue is gone"]);
}

#[test]
fn a_profile_that_came_back_says_that_it_cannot_send_yet_and_keeps_nothing() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    let passphrase = stage.file("passphrase", b"a long one\n");
    let file = stage.path("alice.backup");
    let file = file.to_str().unwrap();
    let with = ["--backup-passphrase-file", passphrase.as_str()];
    let backup = ["profile", "backup", file];
    stage.run("alice", &[&backup[..], &with].concat()).ok();
    let restore = ["profile", "restore", file];
    stage.run("back", &[&restore[..], &with].concat()).ok();
    let open = ["--passphrase-file", passphrase.as_str()];
    let lost = ["send", "--contact", "bob", "lost", "--timeout", "4"];
    let ended = stage.run("back", &[&open[..], &lost].concat());
    assert_has(&message(&ended, 3), &["nothing is sent", "keys"]);
    assert_has(&help(&ended, 3), &["not stored", "recv"]);
    // As it says: while bob runs something it goes, and what was not sent stays so.
    let listening = stage.start("bob", &["recv", "--contact", "alice"]);
    let sent = ["send", "--contact", "bob", "here again"];
    stage.run("back", &[&open[..], &sent].concat()).ok();
    assert_eq!(listening.wait().text("text"), "here again");
    let rest = ["recv", "--contact", "alice", "--timeout", "3"];
    stage.run("bob", &rest).failed(3);
}

#[test]
fn whose_program_ends_while_ours_runs_on_is_told() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let other = stage.start("p2", &["run", "--session", "s", "--", "true"]);
    let ours = ["run", "--session", "s", "--", "sh", "-c", "sleep 16"];
    let ended = stage.run_for_people("p1", &ours);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_has(
        &ended.stderr,
        &["The program of party", "has ended, without an error"],
    );
    other.wait().ok();
}

#[test]
fn a_direct_path_that_ends_with_its_party_is_nothing_to_tell() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let run = |party: &str, seconds: &str| {
        let place = ["run", "--session", "s", "--paths", "prefer-direct"];
        let program = ["--adapter", "mpyc", "--", "sh", "-c", seconds];
        stage.start(party, &[&place[..], &program].concat())
    };
    for ended in wait_all(vec![run("p1", "sleep 2"), run("p2", "sleep 9")]) {
        ended.ok();
        assert!(!ended.stderr.contains("has ended; going"), "{ended:#?}");
    }
}

#[test]
fn a_run_that_waits_says_how_others_join_what_goes_on_and_which_relay_is_away() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    let wait = ["--timeout", "2", "--", "true"];
    let new = [
        "run",
        "--new",
        "2",
        "--name",
        "s",
        "--relay",
        &address,
        "--timeout",
        "2",
        "--",
        "true",
    ];
    let ended = stage.run("p1", &new);
    assert_has(&help(&ended, 3), &["junto run --session s -- COMMAND"]);
    let resume = [&["run", "--session", "s"], &wait[..]].concat();
    let ended = stage.run_for_people("p1", &resume);
    assert_has(
        &ended.stderr,
        &["junto run --join 'junto:session/", "1 of 2"],
    );
    relay.kill();
    // It is looked at once a second, and has to be away three times.
    let resume = ["run", "--session", "s", "--timeout", "20", "--", "true"];
    let ended = stage.run_for_people("p1", &resume);
    assert_has(
        &ended.stderr,
        &[&address, "is out of reach; it is tried again"],
    );
}
