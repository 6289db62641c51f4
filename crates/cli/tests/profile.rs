//! Profiles of real processes: passphrases, backup and restore, check.

#![allow(clippy::unwrap_used)]

mod stage;
use stage::{Stage, agreed};

#[cfg(unix)]
#[test]
fn a_passphrase_comes_goes_and_changes_without_touching_the_rest() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let one = stage.file("one", b"correct horse\n");
    let two = stage.file("two", b"battery staple\n");
    let database = stage.path("p1").join("agent.db");
    let records = std::fs::read(&database).unwrap();
    let list = ["session", "list"];

    let protect = ["profile", "passphrase", "--new-passphrase-file"];
    let done = stage.run("p1", &[&protect[..], &[&one]].concat());
    assert_eq!(done.ok()["protected"], true);
    assert!(!stage.path("p1").join("key").exists());
    // Nobody is there to be asked.
    let locked = stage.run("p1", &list);
    let message = locked.failed(5)["message"].as_str().unwrap();
    assert!(message.contains("protected by a passphrase"), "{message}");

    let change = [&["--passphrase-file", &one][..], &protect, &[&two]].concat();
    stage.run("p1", &change).ok();
    stage
        .run("p1", &[&["--passphrase-file", &one], &list[..]].concat())
        .failed(5);
    assert_eq!(
        std::fs::read(&database).unwrap(),
        records,
        "it was written again"
    );
    stage
        .run("p1", &[&["--passphrase-file", &two], &list[..]].concat())
        .ok();

    // The same through an open file descriptor.
    let by_descriptor = std::process::Command::new("sh")
        .args([
            "-c",
            "exec \"$0\" --profile \"$1\" --json --passphrase-fd 3 session list 3<\"$2\"",
        ])
        .arg(env!("CARGO_BIN_EXE_junto"))
        .arg(stage.path("p1"))
        .arg(&two)
        .output()
        .unwrap();
    assert!(by_descriptor.status.success(), "{by_descriptor:?}");

    let remove = [
        "--passphrase-file",
        &two,
        "profile",
        "passphrase",
        "--remove",
    ];
    assert_eq!(stage.run("p1", &remove).ok()["protected"], false);
    stage.run("p1", &list).ok();
    // One too many is a mistake, not silently ignored.
    stage
        .run("p1", &[&["--passphrase-file", &two], &list[..]].concat())
        .failed(2);
}

fn both<'a>(first: &[&'a str], second: &[&'a str]) -> Vec<&'a str> {
    [first, second].concat()
}

#[test]
fn what_comes_back_repeats_nothing_and_takes_its_keys_to_a_new_session() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let all = ["p1", "p2", "p3"];
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
    let key = agreed(&stage.all(&all, &keygen), "public_key");
    stage.run("p1", &["send", "--session", "s", "before"]).ok();

    let passphrase = stage.file("passphrase", b"a long one\n");
    let file = stage.path("p1.backup");
    let backup = [
        "profile",
        "backup",
        file.to_str().unwrap(),
        "--backup-passphrase-file",
        &passphrase,
    ];
    let made = stage.run("p1", &backup);
    assert!(made.ok()["files"].as_u64().unwrap() >= 5, "{made:#?}");
    stage.run("p1", &backup).failed(1);
    let bytes = std::fs::read(&file).unwrap();
    for telling in [&b"relays"[..], b"agent.db", b"SQLite", address.as_bytes()] {
        assert!(!bytes.windows(telling.len()).any(|window| window == telling));
    }
    // The original goes on.
    stage.run("p1", &["send", "--session", "s", "after"]).ok();

    let wrong = stage.file("wrong", b"another\n");
    let restore = |from: &str| {
        let restore = [
            "profile",
            "restore",
            file.to_str().unwrap(),
            "--backup-passphrase-file",
        ];
        stage.run("back", &[&restore[..], &[from]].concat())
    };
    restore(&wrong).failed(5);
    assert!(!stage.path("back").exists());
    let restored = restore(&passphrase);
    assert_eq!(restored.ok()["sessions"], 1);
    assert_eq!(restored.ok()["connections"], 2);
    restore(&passphrase).failed(5);

    let open = ["--passphrase-file", passphrase.as_str()];
    let back = |arguments| both(&open, arguments);
    stage.run("back", &["session", "list"]).failed(5);
    assert_eq!(
        stage.run("back", &back(&["profile", "check"])).ok()["keys"],
        1
    );
    // Nothing is said in the old session, neither by hand nor by a run.
    let message = stage.file("message", b"m");
    let sign = ["bls", "sign", "--key", "k", "--message-file", &message];
    for old in [&["send", "--session", "s", "again"][..], &sign] {
        let refused = stage.run("back", &back(old));
        let error = refused.failed(5);
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("restored from a backup"), "{error}");
    }
    let mut received = stage.start("p2", &["recv", "--session", "s", "--count", "2"]);
    assert_eq!(received.line()["text"], "before");
    assert_eq!(received.line()["text"], "after");
    assert_eq!(received.wait().code, Some(0));

    // A new session takes the key: the share from the backup counts as the party's.
    let new = [
        "session",
        "new",
        "--name",
        "new",
        "--parties",
        "3",
        "--relay",
        &address,
    ];
    let mut host = stage.start("p2", &new);
    let link = host.link();
    let join = ["session", "join", link.as_str()];
    let forming = vec![
        host,
        stage.start("back", &back(&join)),
        stage.start("p3", &join),
    ];
    agreed(&stage::wait_all(forming), "safety_code");
    let reshare = [
        "bls",
        "reshare",
        "--key",
        "k",
        "--session",
        "new",
        "--threshold",
        "2",
    ];
    let run = |arguments: &[&str], parties: &[&str]| {
        let start = |party: &&str| match *party {
            "back" => stage.start("back", &both(&open, arguments)),
            party => stage.start(party, arguments),
        };
        stage::wait_all(parties.iter().map(start).collect())
    };
    let reshared = run(&reshare, &["p2", "p3", "back"]);
    assert_eq!(agreed(&reshared, "public_key"), key);
    let signed = run(&sign, &["p2", "back"]);
    let signature = agreed(&signed, "signature");
    let verify = [
        "bls",
        "verify",
        "--public-key",
        &key,
        "--signature",
        &signature,
        "--message-file",
        &message,
    ];
    stage.run("p3", &verify).ok();
    // The old one can only be forgotten. Who is told so has to agree on new keys with what came back, so they listen.
    let listen = ["recv", "--session", "new", "--count", "1"];
    let listening = ["p2", "p3"].map(|party| stage.start(party, &listen));
    stage.run("back", &back(&["session", "close", "s"])).ok();
    stage
        .run("back", &back(&["send", "--session", "new", "closed"]))
        .ok();
    for listener in listening {
        assert_eq!(listener.wait().ok()["text"], "closed");
    }
}

#[test]
fn a_profile_in_use_is_not_backed_up() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let passphrase = stage.file("passphrase", b"p\n");
    let mut busy = stage.start("p1", &["recv", "--session", "s"]);
    let file = stage.path("b");
    let backup = [
        "profile",
        "backup",
        file.to_str().unwrap(),
        "--backup-passphrase-file",
        &passphrase,
    ];
    // It holds its lock once its database is there to be read; until then a try may come first.
    let lock = stage.path("p1").join("lock");
    let held = || std::fs::File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
    for _ in 0..6_000 {
        if held() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    stage.run("p1", &backup).failed(5);
    assert!(!file.exists());
    stage.run("p2", &["send", "--session", "s", "now"]).ok();
    assert_eq!(busy.line()["text"], "now");
    assert_eq!(busy.wait().code, Some(0));
    stage.run("p1", &backup).ok();
}

#[test]
fn a_check_names_what_is_damaged_and_says_what_to_do() {
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
    stage.all(&["p1", "p2"], &keygen);
    let well = stage.run("p1", &["profile", "check"]);
    assert_eq!(well.ok()["sessions"], 1);
    assert_eq!(well.ok()["keys"], 1);
    assert_eq!(well.ok()["connections"], 1);
    // A slip in the name of the folder makes no profile that is well.
    let slip = stage.path("p11");
    let passphrase = stage.file("passphrase", b"p\n");
    let file = stage.path("b");
    let backup = [
        "profile",
        "backup",
        file.to_str().unwrap(),
        "--backup-passphrase-file",
        &passphrase,
    ];
    for command in [&["profile", "check"][..], &backup] {
        let none = stage.run("p11", command);
        assert!(none.failed(2)["message"].as_str().unwrap().contains("p11"));
        assert!(!slip.exists());
    }
    for name in ["agent.db", "session.db", "bls/k.key", "mark"] {
        let path = stage.path("p1").join(name);
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        if good.starts_with(b"SQLite") {
            // Content begins at the end of a page. SQLite itself does not look into it; the seals tell.
            let page = usize::from(u16::from_be_bytes([good[16], good[17]]));
            bad.chunks_mut(page)
                .for_each(|page| page[page.len() - 40] ^= 1);
        } else {
            bad[30] ^= 1;
        }
        std::fs::write(&path, &bad).unwrap();
        let found = stage.run("p1", &["profile", "check"]);
        let error = found.failed(1);
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
        assert!(!error["help"].as_str().unwrap().is_empty());
        // Programs get all of it, with what to do about each.
        let problem = &found.lines[0]["problems"][0];
        assert_eq!(problem["file"], name, "{found:#?}");
        assert_eq!(problem["advice"], error["help"]);
        // What is damaged does not become a backup.
        stage.run("p1", &backup).failed(1);
        assert!(!file.exists());
        std::fs::write(&path, &good).unwrap();
        stage.run("p1", &["profile", "check"]).ok();
    }
}

#[test]
fn a_check_finds_what_the_next_command_would_stumble_over() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    let settings = stage.path("alice").join("profile.toml");
    let good = std::fs::read_to_string(&settings).unwrap();
    for (line, slip, word) in [
        (
            "relays = []",
            "relays = [\"smp://relay.example\"]",
            "no relay address",
        ),
        ("socks = \"\"", "socks = \"9050\"", "socks"),
        ("pinned = []", "pinned = [\"abc\"]", "not a profile key"),
    ] {
        assert!(good.contains(line), "{good}");
        std::fs::write(&settings, good.replace(line, slip)).unwrap();
        let found = stage.run("alice", &["profile", "check"]);
        found.failed(1);
        let problem = &found.lines[0]["problems"][0];
        assert_eq!(problem["file"], "profile.toml");
        assert!(
            problem["what"].as_str().unwrap().contains(word),
            "{problem}"
        );
    }
    std::fs::write(&settings, &good).unwrap();
    stage.run("alice", &["profile", "check"]).ok();
    // A database that somebody brought back, alone, from a copy of the folder.
    let path = stage.path("alice").join("contacts.db");
    let before = std::fs::read(&path).unwrap();
    stage.run("alice", &["contact", "list"]).ok();
    let newest = std::fs::read(&path).unwrap();
    std::fs::write(&path, &before).unwrap();
    let found = stage.run("alice", &["profile", "check"]);
    let message = found.failed(1)["message"].as_str().unwrap();
    assert!(message.contains("older copy"), "{message}");
    std::fs::write(&path, &newest).unwrap();
    stage.run("alice", &["profile", "check"]).ok();
}

#[test]
fn a_profile_of_a_newer_version_is_refused_and_left_alone() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    for name in ["agent.db", "session.db"] {
        let path = stage.path("p1").join(name);
        let good = std::fs::read(&path).unwrap();
        // The version of the tables is in the file's header, at byte 60.
        let mut newer = good.clone();
        newer[60..64].copy_from_slice(&99u32.to_be_bytes());
        std::fs::write(&path, &newer).unwrap();
        for command in [&["session", "list"][..], &["profile", "check"]] {
            let refused = stage.run("p1", command);
            let error = refused.failed(1);
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("newer version"), "{error}");
        }
        assert!(std::fs::read(&path).unwrap() == newer, "{name} was changed");
        std::fs::write(&path, &good).unwrap();
        stage.run("p1", &["session", "list"]).ok();
    }
}

/// Kills the command at moments that come later each time, until it ends by itself; after each, looks at what is there.
#[cfg(unix)]
fn killed_ever_later(start: impl Fn() -> stage::Process, mut look: impl FnMut(bool)) {
    let mut pause = std::time::Duration::from_millis(2);
    for _ in 0..60 {
        let ended = start().kill_after(pause);
        let whole = ended.code == Some(0);
        assert!(whole || ended.code.is_none(), "{ended:#?}");
        look(whole);
        if whole {
            return;
        }
        pause = pause * 13 / 10 + std::time::Duration::from_millis(1);
    }
    start().wait().ok();
    look(true);
}

#[cfg(unix)]
#[test]
fn killed_at_any_moment_a_backup_is_whole_or_none_and_so_is_what_it_restores() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.contacts(&address);
    // Something that takes its time.
    let large = vec![7; 4_000_000];
    stage.file("alice/large", &large);
    let passphrase = stage.file("passphrase", b"a long one\n");
    let given = ["--backup-passphrase-file", passphrase.as_str()];
    let file = stage.path("alice.backup");
    let name = file.to_str().unwrap();
    let backup = both(&["profile", "backup", name], &given);
    killed_ever_later(
        || stage.start("alice", &backup),
        |is_done| {
            // What is there under its name is whole.
            if file.exists() {
                let restore = both(&["profile", "restore", name], &given);
                stage.run("tried", &restore).ok();
                std::fs::remove_dir_all(stage.path("tried")).unwrap();
            }
            assert!(file.exists() || !is_done);
            stage.run("alice", &["profile", "check"]).ok();
            if !is_done {
                let _ = std::fs::remove_file(&file);
            }
        },
    );

    let restore = both(&["profile", "restore", name], &given);
    let open = ["--passphrase-file", passphrase.as_str()];
    let list = ["contact", "list"];
    let (back, staging) = (stage.path("back"), stage.path("back.restoring"));
    killed_ever_later(
        || stage.start("back", &restore),
        |is_done| {
            assert!(back.exists() || !is_done);
            if back.exists() {
                let check = both(&open, &["profile", "check"]);
                assert_eq!(stage.run("back", &check).ok()["connections"], 1);
                assert!(!staging.exists());
                if !is_done {
                    std::fs::remove_dir_all(&back).unwrap();
                }
            }
            // What is half made does not pass for a profile.
            if staging.join("contacts.db").exists() && !staging.join("key.sealed").exists() {
                for arguments in [list.to_vec(), both(&open, &list)] {
                    let refused = stage.run("back.restoring", &arguments);
                    let message = refused.failed(1)["message"].as_str().unwrap();
                    assert!(message.contains("no key"), "{message}");
                }
            }
            // Ended in its last moment: it is a whole one, and no restore removes it.
            if staging.join("key.sealed").exists() {
                stage.run("back", &restore).failed(1);
                let check = both(&open, &["profile", "check"]);
                assert_eq!(stage.run("back.restoring", &check).ok()["connections"], 1);
                std::fs::remove_dir_all(&staging).unwrap();
            }
        },
    );
    assert_eq!(std::fs::read(back.join("large")).unwrap(), large);
    let bob = stage.start("bob", &["recv", "--contact", "alice"]);
    let say = ["contact", "resync", "bob"];
    stage.run("back", &both(&open, &say)).ok();
    let say = ["send", "--contact", "bob", "I am back"];
    stage.run("back", &both(&open, &say)).ok();
    assert_eq!(bob.wait().text("text"), "I am back");
}

#[test]
fn contacts_come_back_with_fresh_keys_their_queues_and_a_file_in_progress() {
    const SIZE: usize = 6_000_000;
    let stage = Stage::new();
    let (_relay, first) = stage.relay();
    let (_second, second) = stage.relay_in("second");
    stage.contacts(&first);
    let present = stage.start("bob", &["contact", "requests", "--timeout", "90"]);
    let add = ["contact", "queue", "add", "bob", "--relay", &second];
    let added = stage.run("alice", &[&add[..], &["--timeout", "90"]].concat());
    assert_eq!(added.ok()["queues"].as_array().unwrap().len(), 2);
    present.kill();

    // A file is on its way when the backup is made.
    let large: Vec<u8> = (0..SIZE).map(|at| (at / 7 + at) as u8).collect();
    let large = stage.file("large.bin", &large);
    let into = stage.path("into").to_str().unwrap().to_owned();
    std::fs::create_dir(&into).unwrap();
    let sending = ["file", "send", "--contact", "alice", &large];
    let receiving = ["file", "recv", "--contact", "bob", "--into", &into];
    let sender = stage.start("bob", &sending);
    let mut receiver = stage.start("alice", &receiving);
    while receiver.line()["event"] != "progress" {}
    receiver.kill();
    sender.kill();

    let passphrase = stage.file("passphrase", b"a long one\n");
    let file = stage.path("alice.backup");
    let file = file.to_str().unwrap();
    let with = ["--backup-passphrase-file", passphrase.as_str()];
    let backup = ["profile", "backup", file];
    stage.run("alice", &[&backup[..], &with].concat()).ok();
    // The original says one thing more, with the key that would come next in the copy.
    let say = |text| ["send", "--contact", "bob", text];
    stage.run("alice", &say("by the original")).ok();
    let hear = ["recv", "--contact", "alice"];
    assert_eq!(stage.run("bob", &hear).text("text"), "by the original");

    let restore = ["profile", "restore", file];
    stage.run("back", &[&restore[..], &with].concat()).ok();
    let open = ["--passphrase-file", passphrase.as_str()];
    let back = |arguments: &[&str]| stage.run("back", &both(&open, arguments));
    // It has no keys to speak with before bob has answered with his.
    let resync = ["contact", "resync", "bob", "--timeout", "90"];
    let listener = stage.start("bob", &["recv", "--contact", "alice", "--timeout", "90"]);
    back(&resync).ok();
    back(&say("by the copy")).ok();
    let heard = listener.wait();
    assert_eq!(heard.text("text"), "by the copy");
    stage
        .run("bob", &["send", "--contact", "alice", "welcome"])
        .ok();
    let heard = back(&["recv", "--contact", "bob"]);
    assert_eq!(heard.text("text"), "welcome");
    let shown = stage.run("bob", &["contact", "show", "alice"]);
    assert_eq!(shown.text("keys"), "in-step");
    let shown = back(&["contact", "show", "bob"]);
    assert_eq!(shown.text("keys"), "in-step");
    assert_eq!(shown.ok()["queues"].as_array().unwrap().len(), 2);

    // The file goes on.
    let sender = stage.start("bob", &sending);
    let receiver = stage.start("back", &both(&open, &receiving));
    sender.wait().ok();
    receiver.wait().ok();
    let arrived = std::fs::read(std::path::Path::new(&into).join("large.bin")).unwrap();
    assert_eq!(arrived, std::fs::read(&large).unwrap());
}
