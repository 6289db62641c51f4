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
fn a_slip_of_the_command_line_is_told_to_people_and_programs_alike() {
    let stage = Stage::new();
    for (arguments, helps) in [
        (&["rnu"][..], "'run'"),
        (&["sesion", "list"], "'session'"),
        (&["session", "shwo", "s"], "'show'"),
        (&["session", "show"], "Usage: "),
        (&["session"], "--help"),
        (&["frobnicate"], "Usage: "),
        (&["run", "--new", "3", "python3", "x.py"], "-- python3 …"),
    ] {
        let ended = stage.run("p", arguments);
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        let error = &ended.lines.last().unwrap()["error"];
        assert_eq!(error["exit_code"], 2, "{ended:#?}");
        let help = error["help"].as_str().unwrap();
        assert!(help.contains(helps), "{arguments:?}: {help}");
        if arguments != ["session"] {
            ended.failed(2);
            assert!(ended.stderr.contains(helps), "{ended:#?}");
        }
    }
    stage
        .run("p", &["run", "--new", "1", "--", "true"])
        .failed(2);
    let ended = stage.run_for_people("p", &["rnu"]);
    assert!(
        ended.code == Some(2) && ended.lines.is_empty(),
        "{ended:#?}"
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
fn a_folder_without_a_relay_says_how_to_make_one() {
    let stage = Stage::new();
    let nothing = stage.path("nothing");
    let start = ["relay", "start", "--dir", nothing.to_str().unwrap()];
    let ended = stage.run("operator", &start);
    let help = ended.failed(1)["help"].as_str().unwrap().to_owned();
    assert!(help.contains("junto relay init"), "{help}");
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
    let status = stage.run("p", &["relay", "status", &wrong]);
    let status = status.failed(5);
    // Nobody waits for it.
    for (command, end) in [("session", &[][..]), ("run", &["--", "true"])] {
        let new = match command {
            "run" => ["run", "--new", "2"],
            _ => ["session", "new", "--parties=2"],
        };
        let arguments = [&new[..], &["--relay", &wrong], end].concat();
        let ended = stage.run("p", &arguments);
        let error = ended.failed(5);
        assert_eq!(error["message"], status["message"], "{ended:#?}");
        assert_eq!(error["help"], status["help"], "{ended:#?}");
    }
    let left = stage.run("p", &["session", "list"]);
    assert!(!left.ok().to_string().contains("preparing"), "{left:#?}");
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
