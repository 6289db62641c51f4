//! A full disk and damaged files: a clear error, nothing overwritten, and it goes on when there is room.

#![allow(clippy::unwrap_used)]

mod stage;
use std::path::Path;

use stage::{Stage, agreed};

#[cfg(unix)]
#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    stage.run("p1", &["send", "--session", "s", "before"]).ok();
    // Files may not grow beyond what the databases have already.
    let text = "y".repeat(100_000);
    let send = ["send", "--session", "s", "--timeout", "5", &text];
    let largest = ["agent.db", "session.db", "agent.db-wal", "session.db-wal"]
        .iter()
        .filter_map(|name| std::fs::metadata(stage.path("p1").join(name)).ok())
        .map(|data| data.len().div_ceil(1024))
        .max()
        .unwrap();
    let full = stage.start_with_small_files(largest, "p1", &send).wait();
    // Which database hits the end first is not for this test to say: the message may be stored
    // already, and on its way as soon as there is room. No relay is at fault.
    let error = full.failed(1);
    assert!(
        error["message"].as_str().unwrap().contains("disk"),
        "{error}"
    );

    // With room again everything is there, and goes on.
    stage.run("p1", &["send", "--session", "s", "after"]).ok();
    let mut receiver = stage.start("p2", &["recv", "--session", "s", "--count", "3"]);
    let mut next = || receiver.line()["text"].as_str().unwrap().to_owned();
    assert_eq!(next(), "before");
    let second = next();
    let last = if second == text { next() } else { second };
    assert_eq!(last, "after");
}

#[cfg(unix)]
#[test]
fn a_key_does_not_get_lost_on_a_full_disk() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
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
    let other = stage.start("p2", &keygen);
    // Too small for any database: opening it fails already.
    let full = stage.start_with_small_files(1, "p1", &keygen).wait();
    assert_eq!(full.code, Some(1), "{full:#?}");
    let again = stage.run("p1", &keygen);
    agreed(&[again, other.wait()], "public_key");
}

/// What is in a profile's key and in one of its databases.
fn content(profile: &Path, database: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(profile)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .filter(|(name, _)| name == database || name.starts_with("key"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_damaged_database_is_reported_and_left_alone() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    stage.run("p1", &["send", "--session", "s", "hello"]).ok();
    let profile = stage.path("p1");
    for name in ["agent.db", "session.db"] {
        let path = profile.join(name);
        let good = std::fs::read(&path).unwrap();
        let half = good.len() / 2;
        let mut garbled = good.clone();
        // Every page of SQLite's has 4 KiB; this hits headers and content of all but the first.
        for page in garbled.chunks_mut(4096).skip(1) {
            for byte in page.iter_mut().step_by(7) {
                *byte ^= 0x55;
            }
        }
        let mut no_header = good.clone();
        no_header[..16].fill(0);
        let damages = [
            ("cut short", good[..half - half % 4096].to_vec()),
            ("garbled", garbled),
            ("without header", no_header),
        ];
        for (what, damaged) in damages {
            std::fs::write(&path, &damaged).unwrap();
            let before = content(&profile, name);
            for command in [
                &["session", "list"][..],
                &["send", "--session", "s", "x", "--timeout", "5"],
                &["recv", "--session", "s", "--timeout", "5"],
            ] {
                let ended = stage.run("p1", command);
                let error = ended.failed(1);
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(name), "{name} {what}: {error}");
            }
            assert!(
                content(&profile, name) == before,
                "{name} {what}: files were changed"
            );
        }
        std::fs::write(&path, &good).unwrap();
        stage.run("p1", &["session", "show", "s"]).ok();
    }
    // None of it harmed the session.
    assert_eq!(
        stage.run("p2", &["recv", "--session", "s"]).text("text"),
        "hello"
    );
}

#[test]
fn a_database_of_another_profile_is_refused_and_left_alone() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    for name in ["agent.db", "session.db"] {
        let path = stage.path("p1").join(name);
        let own = std::fs::read(&path).unwrap();
        let foreign = std::fs::read(stage.path("p2").join(name)).unwrap();
        std::fs::write(&path, &foreign).unwrap();
        stage.run("p1", &["session", "list"]).failed(1);
        assert!(
            std::fs::read(&path).unwrap() == foreign,
            "{name} was changed"
        );
        std::fs::write(&path, own).unwrap();
        stage.run("p1", &["session", "list"]).ok();
    }
}

#[test]
fn an_older_copy_of_a_database_is_refused_and_left_alone() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    for name in ["agent.db", "session.db"] {
        let path = stage.path("p1").join(name);
        let old = std::fs::read(&path).unwrap();
        stage.run("p1", &["send", "--session", "s", "newer"]).ok();
        let newest = std::fs::read(&path).unwrap();
        std::fs::write(&path, &old).unwrap();
        // However often one tries.
        for _ in 0..3 {
            let refused = stage.run("p1", &["send", "--session", "s", "again"]);
            let error = refused.failed(5);
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains(name) && message.contains("older"),
                "{error}"
            );
            assert!(std::fs::read(&path).unwrap() == old, "{name} was changed");
        }
        std::fs::write(&path, newest).unwrap();
        stage.run("p1", &["session", "show", "s"]).ok();
    }
    // Whoever has no newer copy says so by taking the mark away.
    let path = stage.path("p1").join("session.db");
    let old = std::fs::read(&path).unwrap();
    stage.run("p1", &["session", "list"]).ok();
    std::fs::write(&path, &old).unwrap();
    stage.run("p1", &["session", "list"]).failed(5);
    std::fs::remove_file(stage.path("p1").join("mark")).unwrap();
    stage.run("p1", &["session", "list"]).ok();
    stage.run("p1", &["session", "list"]).ok();
}

#[test]
fn a_damaged_configuration_is_a_usage_error() {
    let stage = Stage::new();
    stage.run("p", &["session", "list"]).ok();
    let path = stage.path("p").join("profile.toml");
    for wrong in [
        "relays = ",
        "policy = \"open\"",
        "unknown = 1",
        "relays = 7",
    ] {
        std::fs::write(&path, wrong).unwrap();
        let ended = stage.run("p", &["session", "list"]);
        assert!(
            ended.failed(2)["message"]
                .as_str()
                .unwrap()
                .contains("profile.toml")
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong);
    }
}
