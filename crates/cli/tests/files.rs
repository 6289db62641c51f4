//! Files between processes, each of which may be killed, and the relay as well.
//!
//! The places of the kills are chosen by what the processes have said; what must hold afterwards does not depend on them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use serde_json::Value;
use stage::{Ended, Process, Stage};

/// Alice and Bob, as contacts of each other.
fn contacts(stage: &Stage, relay: &str) {
    let invite = ["contact", "invite", "--relay", relay, "--name", "bob"];
    let mut alice = stage.start("alice", &invite);
    let link = alice.link();
    let connect = ["connect", &link, "--relay", relay, "--name", "alice"];
    stage.run("bob", &connect).ok();
    alice.wait().ok();
}

/// Bytes that no two places share.
fn content(length: usize) -> Vec<u8> {
    let words = (0..).flat_map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words.take(length).collect()
}

/// Reads until so many bytes are reported as moved; the file must not be through yet.
#[track_caller]
fn moved(process: &mut Process, least: u64) {
    loop {
        let line = process.line();
        assert!(
            line["event"] != "sent" && line["event"] != "received",
            "{line}"
        );
        if line["event"] == "progress" && line["bytes"].as_u64().unwrap() >= least {
            return;
        }
    }
}

fn of_kind<'a>(ended: &'a Ended, event: &'a str) -> impl Iterator<Item = &'a Value> {
    ended
        .lines
        .iter()
        .filter(move |line| line["event"] == event)
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_file_survives_the_death_of_both_sides_and_of_the_relay() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    contacts(&stage, &address);
    const SIZE: u64 = 20_000_000;
    let bytes = content(SIZE as usize);
    let file = stage.file("large.bin", &bytes);
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let sending = ["file", "send", "--contact", "bob", &file];
    let receiving = ["file", "recv", "--contact", "alice", "--into", &into];

    // The receiver.
    let mut sender = stage.start("alice", &sending);
    let mut receiver = stage.start("bob", &receiving);
    moved(&mut receiver, SIZE / 10);
    receiver.kill();
    let mut receiver = stage.start("bob", &receiving);
    moved(&mut receiver, SIZE / 5);
    // The sender.
    moved(&mut sender, SIZE / 5);
    sender.kill();
    let mut sender = stage.start("alice", &sending);
    moved(&mut receiver, SIZE * 2 / 5);
    // The relay.
    relay.kill();
    let relay = stage.restart_relay();
    moved(&mut receiver, SIZE * 3 / 5);
    moved(&mut sender, SIZE / 2);
    // All of them.
    receiver.kill();
    sender.kill();
    relay.kill();
    let _relay = stage.restart_relay();
    // Meanwhile both can talk.
    stage
        .run("alice", &["send", "--contact", "bob", "patience"])
        .ok();
    let listed = stage.run("bob", &["file", "list", "--contact", "alice"]);
    let listed = listed.ok();
    assert_eq!(
        (&listed["direction"], &listed["size"]),
        (&"incoming".into(), &SIZE.into())
    );
    let known = listed["bytes"].as_u64().unwrap();
    assert!((SIZE * 3 / 5..SIZE).contains(&known), "{listed}");
    let shown = stage.run("bob", &["recv", "--contact", "alice"]);
    assert_eq!(shown.text("text"), "patience");

    let sender = stage.start("alice", &sending);
    let received = stage.start("bob", &receiving).wait();
    // It goes on from what it has.
    let first = of_kind(&received, "accepted").next().unwrap();
    assert_eq!(first["bytes"], known, "{received:#?}");
    let path = received.text("path");
    assert_eq!(received.text("sha256"), sender.wait().text("sha256"));
    assert!(std::fs::read(path).unwrap() == bytes);
    assert_eq!(names(&into), ["large.bin"]);
    for (profile, contact) in [("alice", "bob"), ("bob", "alice")] {
        let listed = stage.run(profile, &["file", "list", "--contact", contact]);
        assert!(listed.lines.is_empty(), "{listed:#?}");
        stage.run(profile, &["profile", "check"]).ok();
    }
}

#[test]
fn several_files_come_one_after_the_other_and_take_no_name_twice() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    contacts(&stage, &address);
    let files = [("a.txt", 10), ("b.txt", 100_000), ("empty", 0)];
    let files = files.map(|(name, length)| stage.file(name, &content(length)));
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    stage.file("into/a.txt", b"it was here before");
    let send = [
        "file",
        "send",
        "--contact",
        "bob",
        &files[0],
        &files[1],
        &files[2],
    ];
    let sender = stage.start("alice", &send);
    let receive = [
        "file",
        "recv",
        "--contact",
        "alice",
        "--into",
        &into,
        "--count",
        "3",
    ];
    let received = stage.run("bob", &receive);
    received.ok();
    let paths: Vec<_> = of_kind(&received, "received")
        .map(|line| line["path"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(paths, ["a-2.txt", "b.txt", "empty"]);
    assert_eq!(of_kind(&sender.wait(), "sent").count(), 3);
    let kept = std::fs::read(stage.path("into/a.txt")).unwrap();
    assert_eq!(kept, b"it was here before");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(stage.path("into/b.txt"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn a_file_can_be_refused_and_cancelled() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    contacts(&stage, &address);
    let file = stage.file("large.bin", &content(3_000_000));
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let send = ["file", "send", "--contact", "bob", &file];
    let receive = ["file", "recv", "--contact", "alice", "--into", &into];
    let sender = stage.start("alice", &send);
    let small = [&receive[..], &["--max-size", "2M"]].concat();
    let mut receiver = stage.start("bob", &small);
    assert_eq!(receiver.line()["event"], "refused");
    sender.wait().failed(5);
    receiver.kill();

    // Cancelled by who receives, while nobody else is there.
    let mut sender = stage.start("alice", &send);
    let mut receiver = stage.start("bob", &receive);
    let offered = sender.line();
    assert_eq!(offered["event"], "offered");
    moved(&mut receiver, 1);
    receiver.kill();
    let transfer = offered["transfer"].as_str().unwrap();
    let cancel = ["file", "cancel", "--contact", "alice", &transfer[..8]];
    stage.run("bob", &cancel).ok();
    stage.run("bob", &cancel).failed(2);
    sender.wait().failed(5);
    assert!(names(&into).is_empty());

    // And by who sends.
    let sender = stage.start("alice", &send);
    let mut receiver = stage.start("bob", &receive);
    moved(&mut receiver, 1);
    sender.kill();
    let listed = stage.run("alice", &["file", "list", "--contact", "bob"]);
    let transfer = listed.text("transfer");
    stage
        .run("alice", &["file", "cancel", "--contact", "bob", &transfer])
        .ok();
    let ended = receiver.wait();
    assert!(
        ended.failed(1)["message"]
            .as_str()
            .unwrap()
            .contains("cancelled")
    );
    assert!(names(&into).is_empty());
}

#[test]
fn a_full_disk_stops_a_file_and_room_lets_it_go_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    contacts(&stage, &address);
    let bytes = content(14_000_000);
    let file = stage.file("large.bin", &bytes);
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let sender = stage.start("alice", &["file", "send", "--contact", "bob", &file]);
    let receive = ["file", "recv", "--contact", "alice", "--into", &into];
    // The database with its log, of 4 MiB, stays below that.
    let full = stage.start_with_small_files(10_000, "bob", &receive).wait();
    assert!(
        full.failed(1)["message"]
            .as_str()
            .unwrap()
            .contains("write"),
        "{full:#?}"
    );
    let path = stage.run("bob", &receive).text("path");
    assert!(std::fs::read(path).unwrap() == bytes);
    sender.wait().ok();
}

#[test]
fn messages_about_files_are_told_from_texts() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    contacts(&stage, &address);
    let file = stage.file("a", b"something");
    let sending = stage.start("alice", &["file", "send", "--contact", "bob", &file]);
    // Who waits for a text is not shown what is about files, and does not take it away.
    let mut sending = sending;
    assert_eq!(sending.line()["event"], "offered");
    let waiting = ["recv", "--contact", "alice", "--timeout", "3"];
    let ended = stage.run("bob", &waiting);
    ended.failed(3);
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let receive = ["file", "recv", "--contact", "alice", "--into", &into];
    stage.run("bob", &receive).ok();
    sending.wait().ok();
    // And nobody can have a text sent that is taken for one about files.
    let forged = b"\0junto file\0\x01\x01and so on";
    let send = ["send", "--contact", "alice"];
    stage.run_with_input("bob", &send, forged).failed(2);
    // The rest is a wrong command line.
    for arguments in [
        &["file", "send", "--contact", "nobody", &file][..],
        &[
            "file",
            "recv",
            "--contact",
            "alice",
            "--into",
            "/nowhere/at/all",
        ],
        &["file", "cancel", "--contact", "alice", "00"],
        &["file", "cancel", "--contact", "alice", ""],
    ] {
        stage.run("bob", arguments).failed(2);
    }
}

/// An agent says once that it cannot read something, to whichever command runs.
#[test]
fn what_another_contact_loses_while_files_are_waited_for_is_told_and_kept() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    let invite = ["contact", "invite", "--relay", &address, "--name", "carol"];
    let mut alice = stage.start("alice", &invite);
    let link = alice.link();
    let connect = ["connect", &link, "--relay", &address, "--name", "alice"];
    stage.run("carol", &connect).ok();
    alice.wait().ok();
    // Carol goes back in time: what she sends is lost.
    stage.copy_profile("carol", "carol of before");
    let send = ["send", "--contact", "alice", "one"];
    stage.run("carol", &send).ok();
    stage.run("alice", &["recv", "--contact", "carol"]).ok();
    stage.copy_profile("carol of before", "carol");
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let receive = ["file", "recv", "--contact", "bob", "--into", &into];
    let mut receiver = stage.start("alice", &receive);
    stage.run("carol", &send).ok();
    let line = receiver.line();
    assert_eq!(line["contact"], "carol", "{line}");
    assert_eq!(line["warning"]["what"], "unreadable", "{line}");
    receiver.kill();
    let shown = stage.run("alice", &["contact", "show", "carol"]);
    assert_eq!(shown.ok()["verdicts"][0]["what"], "unreadable");
}
