//! Threshold keys of real processes: every pair signs, refresh, reshare, wrong use.

mod stage;
use stage::{Ended, Stage, agreed};

const KEYGEN: [&str; 5] = ["bls", "keygen", "--session", "s", "--threshold"];

/// Makes the key `k`, of which `threshold` of the parties sign; gives its public key.
fn keygen(stage: &Stage, parties: &[&str], threshold: &str) -> String {
    let made = stage.all(
        parties,
        &[&KEYGEN[..], &[threshold, "--name", "k"]].concat(),
    );
    agreed(&made, "public_key")
}

fn sign(stage: &Stage, parties: &[&str], message: &str) -> Vec<Ended> {
    stage.all(
        parties,
        &[
            "bls",
            "sign",
            "--key",
            "k",
            "--message-file",
            message,
            "--timeout",
            "60",
        ],
    )
}

/// The parties sign; all get one signature, and it verifies. Gives it.
fn signs(stage: &Stage, parties: &[&str], key: &str, message: &str) -> String {
    let signature = agreed(&sign(stage, parties, message), "signature");
    let verify = [
        "bls",
        "verify",
        "--public-key",
        key,
        "--signature",
        &signature,
        "--message-file",
        message,
    ];
    stage.run("outsider", &verify).ok();
    signature
}

#[test]
fn every_pair_signs() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let key = keygen(&stage, &["p1", "p2", "p3"], "2");
    let pairs = [["p1", "p2"], ["p2", "p3"], ["p1", "p3"]];
    for (n, pair) in pairs.iter().enumerate() {
        let message = stage.file(&format!("m{n}"), format!("payment {n}").as_bytes());
        signs(&stage, pair, &key, &message);
    }
    // A signature is unique: all three together get the one that two of them got.
    let message = stage.path("m0").to_str().unwrap().to_owned();
    let before = signs(&stage, &["p1", "p2"], &key, &message);
    assert_eq!(signs(&stage, &["p1", "p2", "p3"], &key, &message), before);
    let other = stage.path("m1").to_str().unwrap().to_owned();
    let verify = [
        "bls",
        "verify",
        "--public-key",
        &key,
        "--signature",
        &before,
        "--message-file",
        &other,
    ];
    stage.run("outsider", &verify).failed(5);
    // A profile that has signed is backed up like any other, with its signatures.
    let passphrase = stage.file("passphrase", b"a long one\n");
    let backup = stage.path("p1.backup").to_str().unwrap().to_owned();
    let with = ["--backup-passphrase-file", passphrase.as_str()];
    stage
        .run("p1", &[&["profile", "backup", &backup], &with[..]].concat())
        .ok();
    stage
        .run(
            "back",
            &[&["profile", "restore", &backup], &with[..]].concat(),
        )
        .ok();
    let signatures = |profile: &str| {
        let kept = stage.path(profile).join("bls/k.signatures");
        let kept = std::fs::read_dir(kept).unwrap();
        let mut names: Vec<_> = kept.map(|it| it.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(signatures("back"), signatures("p1"));
    assert!(signatures("back").len() >= 2);
}

#[test]
fn one_alone_signs_nothing() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let key = keygen(&stage, &["p1", "p2", "p3"], "2");
    let [first, second] = ["first", "second"].map(|name| stage.file(name, name.as_bytes()));
    let alone = [
        "bls",
        "sign",
        "--key",
        "k",
        "--timeout",
        "3",
        "--message-file",
    ];
    let too_few = stage.run("p1", &[&alone[..], &[&first]].concat());
    assert!(
        too_few.failed(3)["message"]
            .as_str()
            .unwrap()
            .contains("1 of 2")
    );
    // Two who sign different messages are still one alone, twice.
    let other = stage.run("p2", &[&alone[..], &[&second]].concat());
    other.failed(3);
    // The part that went out counts when the others come: p1 is not here, and is needed no more.
    signs(&stage, &["p3"], &key, &first);
    signs(&stage, &["p1", "p2"], &key, &second);
}

#[test]
fn shares_are_refreshed_under_the_same_key() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let all = ["p1", "p2", "p3"];
    let key = keygen(&stage, &all, "2");
    let share = stage.path("p1").join("bls").join("k.key");
    let old = std::fs::read(&share).unwrap();
    for epoch in 1..=2 {
        let refreshed = stage.all(&all, &["bls", "refresh", "--key", "k"]);
        assert_eq!(agreed(&refreshed, "public_key"), key);
        assert_eq!(refreshed[0].ok()["epoch"], epoch);
    }
    let message = stage.file("message", b"after the refresh");
    signs(&stage, &["p1", "p3"], &key, &message);

    // Whoever comes with a share of before signs with nobody.
    let new = std::fs::read(&share).unwrap();
    assert_ne!(old, new);
    std::fs::write(&share, &old).unwrap();
    let message = stage.file("another", b"with an old share");
    let sign = [
        "bls",
        "sign",
        "--key",
        "k",
        "--message-file",
        &message,
        "--timeout",
        "3",
    ];
    for ended in stage.all(&["p1", "p2"], &sign) {
        ended.failed(3);
    }
    std::fs::write(&share, &new).unwrap();
    signs(&stage, &["p1", "p2"], &key, &message);
}

#[test]
fn a_newcomer_gets_a_share_of_the_same_key() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    let key = keygen(&stage, &["p1", "p2", "p3"], "2");
    let message = stage.file("before", b"before");
    let before = signs(&stage, &["p1", "p2"], &key, &message);

    // A new session of four, hosted by another party; p4 has never seen the key.
    let new = [
        "session",
        "new",
        "--name",
        "larger",
        "--parties",
        "4",
        "--relay",
        &address,
    ];
    let mut host = stage.start("p2", &new);
    let link = host.link();
    let mut forming = vec![host];
    for party in ["p1", "p3", "p4"] {
        forming.push(stage.start(party, &["session", "join", &link]));
    }
    agreed(&stage::wait_all(forming), "safety_code");
    let all = ["p1", "p2", "p3", "p4"];
    let reshare = [
        "bls",
        "reshare",
        "--key",
        "k",
        "--session",
        "larger",
        "--threshold",
        "3",
    ];
    // Who holds no share yet is not to take just any key from the others.
    let unsaid = stage.run("p4", &reshare);
    let message = unsaid.failed(2)["message"].as_str().unwrap();
    assert!(message.contains("--public-key"), "{message}");
    let reshare = [&reshare[..], &["--public-key", &key]].concat();
    let reshared = stage.all(&all, &reshare);
    assert_eq!(agreed(&reshared, "public_key"), key);
    for ended in &reshared {
        assert_eq!(ended.ok()["threshold"], 3);
        assert_eq!(ended.ok()["parties"], 4);
    }
    // Three of the new holders sign, and it is the same key as ever.
    let message = stage.file("after", b"after");
    signs(&stage, &["p4", "p3", "p1"], &key, &message);
    let message = stage.file("again", b"before");
    assert_eq!(signs(&stage, &["p4", "p2", "p3"], &key, &message), before);
    // Two do not suffice any more.
    let message = stage.file("two", b"two");
    let two = [
        "bls",
        "sign",
        "--key",
        "k",
        "--message-file",
        &message,
        "--timeout",
        "3",
    ];
    for ended in stage.all(&["p1", "p2"], &two) {
        ended.failed(3);
    }
}

#[test]
fn keys_are_listed_and_their_names_are_taken_once() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let none = stage.run("p1", &["bls", "list"]);
    assert_eq!(none.ok()["keys"].as_array().unwrap().len(), 0);
    let both = ["p1", "p2"];
    let key = keygen(&stage, &both, "2");
    let second = stage.all(&both, &[&KEYGEN[..], &["2", "--name", "another"]].concat());
    let other = agreed(&second, "public_key");
    assert_ne!(key, other);
    let listed = stage.run("p2", &["bls", "list"]);
    let listed = listed.ok()["keys"].as_array().unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|k| (k["key"].as_str(), k["public_key"].as_str()))
        .collect();
    let expected = [(Some("another"), Some(&*other)), (Some("k"), Some(&*key))];
    assert_eq!(listed, expected);

    // The same command again tells the key that there is, as after a crash; it makes no other.
    let again = stage.run("p1", &[&KEYGEN[..], &["2", "--name", "k"]].concat());
    assert_eq!(again.text("public_key"), key);
    // In another session the name is taken.
    let new = [
        "session",
        "new",
        "--name",
        "t",
        "--parties",
        "2",
        "--relay",
        &address,
    ];
    let mut host = stage.start("p1", &new);
    let link = host.link();
    let joiner = stage.start("p3", &["session", "join", &link]);
    agreed(&stage::wait_all(vec![host, joiner]), "safety_code");
    let taken = [
        "bls",
        "keygen",
        "--session",
        "t",
        "--threshold",
        "2",
        "--name",
        "k",
    ];
    assert!(
        stage.run("p1", &taken).failed(2)["message"]
            .as_str()
            .unwrap()
            .contains("`k`")
    );
}

#[test]
fn wrong_use_is_told_at_once() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let message = stage.file("message", b"m");
    // None of these waits for the other party.
    for wrong in [
        &[&KEYGEN[..], &["3"]].concat()[..],
        &[&KEYGEN[..], &["1"]].concat(),
        &[&KEYGEN[..], &["300"]].concat(),
        &[&KEYGEN[..], &["2", "--name", "../x"]].concat(),
        &[&KEYGEN[..], &["2", "--name", ""]].concat(),
        &["bls", "keygen", "--session", "nowhere", "--threshold", "2"],
        &["bls", "sign", "--key", "none", "--message-file", &message],
        &[
            "bls",
            "sign",
            "--key",
            "none",
            "--message-file",
            "/nonexistent",
        ],
        &["bls", "refresh", "--key", "none"],
        &["bls", "reshare", "--key", "none", "--threshold", "2"],
        &[
            "bls",
            "reshare",
            "--key",
            "none",
            "--threshold",
            "2",
            "--public-key",
            "00",
        ],
        &["bls", "judge", &message],
    ] {
        stage.run("p1", wrong).failed(2);
    }
    // The session did not suffer.
    keygen(&stage, &["p1", "p2"], "2");
}

#[test]
fn a_damaged_share_is_reported_and_left_alone() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let both = ["p1", "p2"];
    let key = keygen(&stage, &both, "2");
    let share = stage.path("p1").join("bls").join("k.key");
    let good = std::fs::read(&share).unwrap();
    let message = stage.file("message", b"m");
    for (what, damaged) in [
        ("cut short", good[..good.len() / 2].to_vec()),
        ("empty", Vec::new()),
        (
            "flipped",
            good.iter()
                .enumerate()
                .map(|(n, b)| b ^ u8::from(n == good.len() / 2))
                .collect(),
        ),
        (
            "of another profile",
            std::fs::read(stage.path("p2").join("bls").join("k.key")).unwrap(),
        ),
    ] {
        std::fs::write(&share, &damaged).unwrap();
        let sign = ["bls", "sign", "--key", "k", "--message-file", &message];
        let error = stage.run("p1", &sign);
        let error = error.failed(1)["message"].as_str().unwrap().to_owned();
        assert!(error.contains("damaged"), "{what}: {error}");
        stage.run("p1", &["bls", "refresh", "--key", "k"]).failed(1);
        stage
            .run("p1", &[&KEYGEN[..], &["2", "--name", "k"]].concat())
            .failed(1);
        assert_eq!(std::fs::read(&share).unwrap(), damaged, "{what}");
    }
    std::fs::write(&share, good).unwrap();
    signs(&stage, &both, &key, &message);
}
