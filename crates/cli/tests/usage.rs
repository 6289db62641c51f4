//! What happens on wrong input: the exit code, and a message that says what to do.

mod stage;
use stage::{Stage, file};

#[test]
fn unknown_words_are_a_usage_error() {
    let stage = Stage::new();
    assert_eq!(stage.run("p", &["frobnicate"]).code, Some(2));
    assert_eq!(stage.run("p", &["demo", "--parties", "1"]).code, Some(2));
    assert_eq!(
        stage
            .run("p", &["demo", "--parties", "3", "--threshold", "4"])
            .code,
        Some(2)
    );
}

#[test]
fn help_teaches_every_command() {
    for command in [
        "demo", "relay", "session", "bls", "run", "connect", "contact", "send", "recv", "chat",
        "bench", "vault",
    ] {
        let stage = Stage::new();
        let mut process = stage.command("p", &["help", command]);
        let output = process.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}");
        assert!(
            output.stdout.len() > 200,
            "{command}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[test]
fn a_session_without_a_relay_says_how_to_get_one() {
    let stage = Stage::new();
    let ended = stage.run("p", &["session", "new", "--parties", "3"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(
        ended.stderr.contains("junto relay init"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_relay_that_is_not_there_is_unreachable() {
    let stage = Stage::new();
    let address = format!(
        "smp://{}@127.0.0.1:1",
        "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI="
    );
    let ended = stage.run("p", &["relay", "status", &address]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(ended.lines.last().unwrap()["error"]["exit_code"], 3);
    let ended = stage.run(
        "p",
        &[
            "session",
            "new",
            "--parties",
            "2",
            "--relay",
            &address,
            "--timeout",
            "2",
        ],
    );
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[test]
fn a_relay_with_another_fingerprint_is_refused() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    assert_eq!(stage.run("p", &["relay", "status", &address]).code, Some(0));
    let (_, place) = address.split_once('@').unwrap();
    let wrong = format!(
        "smp://{}@{place}",
        "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI="
    );
    let ended = stage.run("p", &["relay", "status", &wrong]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
}

#[test]
fn a_malformed_link_is_a_usage_error() {
    let stage = Stage::new();
    for link in [
        "",
        "junto:",
        "junto:AAAA",
        "https://example.org",
        "simplex:/invitation#/?v=2-7",
    ] {
        let ended = stage.run("p", &["session", "join", link]);
        assert_eq!(ended.code, Some(2), "{link}: {ended:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new();
    stage.run("p", &["session", "list"]).ok();
    let key = stage.path("p").join("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ended = stage.run("p", &["session", "list"]);
    assert_eq!(ended.code, Some(5));
    assert!(ended.stderr.contains("chmod 600"), "{}", ended.stderr);
}

#[cfg(unix)]
#[test]
fn other_users_can_read_nothing_of_a_profile() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    // While it runs the databases have files beside them; the folder above is made too.
    let mut host = stage.start(
        "new/p",
        &["session", "new", "--parties", "2", "--relay", &address],
    );
    host.link();
    let dir = stage.path("new/p");
    for made in [&stage.path("new"), &dir] {
        let mode = std::fs::metadata(made).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", made.display());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    for name in ["session.db", "session.db-wal", "agent.db", "lock"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    host.kill();
}

#[test]
fn a_damaged_key_or_database_is_reported_and_left_alone() {
    for (name, garbage) in [
        ("key", &b"short"[..]),
        ("agent.db", &[0x5a; 4096][..]),
        ("session.db", &[0x5a; 4096][..]),
    ] {
        let stage = Stage::new();
        stage.run("p", &["session", "list"]).ok();
        let path = stage.path("p").join(name);
        for extra in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(stage.path("p").join(format!("{name}{extra}")));
        }
        std::fs::write(&path, garbage).unwrap();
        let ended = stage.run("p", &["session", "list"]);
        assert_eq!(ended.code, Some(1), "{name}: {ended:?}");
        assert_eq!(
            std::fs::read(&path).unwrap(),
            garbage,
            "{name} was overwritten"
        );
    }
}

#[test]
fn a_passphrase_protects_the_profile() {
    let stage = Stage::new();
    let right = file(stage.dir.path(), "right", b"correct horse\n");
    let wrong = file(stage.dir.path(), "wrong", b"battery staple\n");
    stage
        .run("p", &["--passphrase-file", &right, "session", "list"])
        .ok();
    assert!(!stage.path("p").join("key").exists());
    stage
        .run("p", &["--passphrase-file", &right, "session", "list"])
        .ok();
    assert_eq!(
        stage
            .run("p", &["--passphrase-file", &wrong, "session", "list"])
            .code,
        Some(5)
    );
    let ended = stage.run("p", &["session", "list"]);
    assert_eq!(ended.code, Some(5));
    assert!(
        ended.stderr.contains("--passphrase-file"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_profile_serves_one_process_at_a_time() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let mut host = stage.start(
        "p",
        &["session", "new", "--parties", "2", "--relay", &address],
    );
    host.line();
    let ended = stage.run("p", &["session", "list"]);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    assert!(ended.stderr.contains("another process"), "{}", ended.stderr);
    host.kill();
    stage.run("p", &["session", "list"]).ok();
}
