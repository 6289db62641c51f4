//! Sessions of real processes: forming, safety code, names, policies, closing.

mod stage;
use std::collections::BTreeSet;

use stage::{Process, Stage, agreed, wait_all};

/// How often what takes the relay's and the parties' time is tried, a few seconds each.
const TRIES: usize = 60;

#[test]
fn all_parties_see_the_same_session() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 3);
    let first = &formed[0];
    assert_eq!(first["state"], "formed");
    assert_eq!(first["connected"], 3);
    for other in &formed {
        for field in [
            "session",
            "id",
            "safety_code",
            "roster",
            "parties",
            "policy",
        ] {
            assert_eq!(other[field], first[field], "{field}");
        }
    }
    let places: BTreeSet<u64> = formed.iter().map(|p| p["me"].as_u64().unwrap()).collect();
    assert_eq!(places, BTreeSet::from([0, 1, 2]));
    assert_eq!(first["roster"].as_array().unwrap().len(), 3);
    assert_eq!(first["verified"], false);

    // Each profile remembers it.
    for profile in ["p1", "p2", "p3"] {
        let shown = stage.run(profile, &["session", "show", "s"]);
        assert_eq!(shown.text("safety_code"), first["safety_code"]);
        let listed = stage.run(profile, &["session", "list"]);
        let sessions = listed.ok()["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0]["id"], first["id"]);
    }
    // An identifier serves as well as the name.
    let id = first["id"].as_str().unwrap();
    stage.run("p2", &["session", "show", &id[..8]]).ok();
    stage.run("p2", &["session", "show", "other"]).failed(2);
}

#[test]
fn the_safety_code_is_compared_and_remembered() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    let code = formed[0]["safety_code"].as_str().unwrap();

    let wrong: String = code
        .chars()
        .map(|c| {
            if c == '1' {
                '2'
            } else if c.is_ascii_digit() {
                '1'
            } else {
                c
            }
        })
        .collect();
    for not_it in [wrong.as_str(), "", &code[..code.len() - 1]] {
        let refused = stage.run("p2", &["session", "verify", "s", "--code", not_it]);
        assert!(
            refused.failed(5)["message"]
                .as_str()
                .unwrap()
                .contains("NOT")
        );
    }
    assert_eq!(
        stage.run("p2", &["session", "show", "s"]).ok()["verified"],
        false
    );

    // As a person types it: without spaces.
    let typed: String = code.chars().filter(char::is_ascii_digit).collect();
    stage
        .run("p2", &["session", "verify", "s", "--code", &typed])
        .ok();
    assert_eq!(
        stage.run("p2", &["session", "show", "s"]).ok()["verified"],
        true
    );
    assert_eq!(
        stage.run("p1", &["session", "show", "s"]).ok()["verified"],
        false
    );
}

#[test]
fn who_comes_too_late_is_told_so() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    let [second, third] = ["p2", "p3"].map(|party| stage.start(party, &["session", "join", &link]));
    agreed(&wait_all(vec![host, second, third]), "safety_code");
    let late = stage.run("p4", &["session", "join", &link]);
    late.failed(5);
    // The session is none the worse for it.
    stage
        .run("p1", &["send", "--session", "s", "still here"])
        .ok();
    assert_eq!(
        stage.run("p3", &["recv", "--session", "s"]).text("text"),
        "still here"
    );
}

#[test]
fn one_too_many_at_the_same_time_gets_no_place() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    let joiners =
        ["p2", "p3", "p4", "p5"].map(|party| stage.start(party, &["session", "join", &link]));
    let host = host.wait();
    let (formed, out): (Vec<_>, Vec<_>) = wait_all(Vec::from(joiners))
        .into_iter()
        .partition(|joiner| joiner.code == Some(0));
    assert_eq!((formed.len(), out.len()), (2, 2), "{formed:#?} {out:#?}");
    for joiner in formed {
        assert_eq!(joiner.text("safety_code"), host.text("safety_code"));
    }
    // The host answers whoever asked before it ended; whoever asks later finds nobody.
    for joiner in out {
        joiner.failed(5);
    }
}

#[test]
fn a_closed_session_is_gone_for_all() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
    stage.run("p1", &["session", "close", "s"]).ok();
    let listed = stage.run("p1", &["session", "list"]);
    assert_eq!(listed.ok()["sessions"].as_array().unwrap().len(), 0);
    stage.run("p1", &["session", "show", "s"]).failed(2);
    // The others learn it when they wait for something, and nobody hangs.
    let left = stage.run(
        "p2",
        &[
            "bls",
            "keygen",
            "--session",
            "s",
            "--threshold",
            "2",
            "--timeout",
            "30",
        ],
    );
    left.failed(3);
    // The name is free again.
    let (host, link) = stage.host(&address, 2);
    let joiner = stage.start("p4", &["session", "join", &link]);
    agreed(&wait_all(vec![host, joiner]), "safety_code");
}

#[test]
fn a_name_is_taken_once() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let again = stage.run(
        "p1",
        &[
            "session",
            "new",
            "--name",
            "s",
            "--parties",
            "2",
            "--relay",
            &address,
        ],
    );
    assert!(again.failed(2)["message"].as_str().unwrap().contains("`s`"));
}

#[test]
fn the_link_may_come_through_stdin() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 2);
    let joined = stage.run_with_input(
        "p2",
        &["session", "join", "-"],
        format!("{link}\n").as_bytes(),
    );
    agreed(&[host.wait(), joined], "safety_code");
}

#[test]
fn a_link_is_joined_once_per_profile() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 2);
    stage.run("p2", &["session", "join", &link]).ok();
    host.wait().ok();
    // The same command again goes on with the same session instead of asking for another place.
    let again = stage.run("p2", &["session", "join", &link, "--timeout", "30"]);
    again.ok();
    let listed = stage.run("p2", &["session", "list"]);
    assert_eq!(listed.ok()["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn who_gives_up_waiting_can_go_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 2);
    host.kill();
    let gave_up = stage.run("p1", &["session", "wait", "s", "--timeout", "1"]);
    let error = gave_up.failed(3);
    assert!(error["help"].as_str().unwrap().contains("session wait"));
    assert_eq!(
        stage.run("p1", &["session", "show", "s"]).text("link"),
        link
    );
    let joiner = stage.start("p2", &["session", "join", &link]);
    let host = stage.start("p1", &["session", "wait", "s"]);
    agreed(&wait_all(vec![host, joiner]), "safety_code");
    // A formed one is there at once.
    stage.run("p1", &["session", "wait", "s"]).ok();
}

#[test]
fn each_party_receives_on_a_relay_of_its_choice() {
    let stage = Stage::new();
    let (first, address) = stage.relay();
    let (_second, other) = stage.relay_in("second");
    let (host, link) = stage.host(&address, 2);
    let joiner = stage.start("p2", &["session", "join", &link, "--relay", &other]);
    agreed(&wait_all(vec![host, joiner]), "safety_code");
    stage
        .run("p1", &["send", "--session", "s", "over the second relay"])
        .ok();
    // What p2 receives comes over its own relay alone.
    first.kill();
    let received = stage.run("p2", &["recv", "--session", "s", "--timeout", "60"]);
    assert_eq!(received.text("text"), "over the second relay");
}

#[test]
fn a_dead_relay_of_another_session_holds_up_nobody() {
    let stage = Stage::new();
    let (dying, address) = stage.relay();
    let (_relay, other) = stage.relay_in("second");
    // The message that p2 has not taken yet is on the relay that dies; p1 has one for it as well.
    stage.session(&address, 2);
    dying.kill();
    stage
        .run("p1", &["send", "--session", "s", "--timeout", "1", "stays"])
        .failed(3);
    let new = ["session", "new", "--name", "t", "--parties", "2"];
    let mut host = stage.start("p1", &[&new[..], &["--relay", &other]].concat());
    let link = host.link();
    let joiner = stage.start("p3", &["session", "join", &link]);
    agreed(&wait_all(vec![host, joiner]), "safety_code");
    stage.run("p1", &["send", "--session", "t", "works"]).ok();
    assert_eq!(
        stage.run("p3", &["recv", "--session", "t"]).text("text"),
        "works"
    );
    stage.run("p1", &["session", "close", "t"]).ok();
}

#[test]
fn a_relay_in_the_profile_serves_without_a_flag() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.run("p1", &["session", "list"]).ok();
    std::fs::write(
        stage.path("p1").join("profile.toml"),
        format!("relays = [\"{address}\"]\n"),
    )
    .unwrap();
    let mut host = stage.start("p1", &["session", "new", "--name", "s", "--parties", "2"]);
    let link = host.link();
    let joiner = stage.start("p2", &["session", "join", &link]);
    agreed(&wait_all(vec![host, joiner]), "safety_code");
}

/// Forms a session of two with that policy; `host` is p1, who calls itself Ada.
fn pair(stage: &Stage, relay: &str, policy: &str, joiner: &str, name: &str) -> [stage::Ended; 2] {
    let mut host = stage.start(
        "p1",
        &[
            "session",
            "new",
            "--name",
            name,
            "--parties",
            "2",
            "--relay",
            relay,
            "--policy",
            policy,
            "--as",
            "Ada",
            "--timeout",
            "60",
        ],
    );
    let link = host.link();
    let join = ["session", "join", &link, "--as", "Bob", "--timeout", "60"];
    let joiner = stage.start(joiner, &join);
    let [host, joiner] = [host, joiner].map(Process::wait);
    [host, joiner]
}

#[test]
fn a_key_that_changed_is_refused_loudly() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let first = pair(&stage, &address, "tofu", "bob", "first");
    agreed(&first, "safety_code");
    assert!(first[0].ok()["roster"][0]["profile_key"].is_string());
    // The same profile is welcome again.
    agreed(
        &pair(&stage, &address, "tofu", "bob", "second"),
        "safety_code",
    );
    // Another one under his name is not.
    let [host, _] = pair(&stage, &address, "tofu", "mallory", "third");
    let error = host.failed(5);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("`Bob` had another key"),
        "{error}"
    );
    assert!(error["party"].is_string(), "{error}");
    // Without the policy nothing links one session to another.
    let anonymous = pair(&stage, &address, "anonymous", "mallory", "fourth");
    assert!(anonymous[0].ok()["roster"][0]["profile_key"].is_null());
}

#[test]
fn who_was_refused_may_ask_again() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let new = ["session", "new", "--name", "s", "--parties", "3"];
    let how = ["--policy", "tofu", "--as", "Ada", "--relay", &address];
    let mut host = stage.start("p1", &[&new[..], &how].concat());
    let link = host.link();
    let join = ["session", "join", &link, "--as"];
    // The same command goes on with what it began, until the host has let him in.
    let bob = [&join[..], &["Bob", "--timeout", "2"]].concat();
    let is_in = |_| {
        stage.run("p2", &bob).failed(3)["message"]
            .to_string()
            .contains("2 of 3")
    };
    assert!((0..TRIES).any(is_in), "Bob never gets in");
    // The keys of two Bobs could not be told apart afterwards.
    let refused = stage.run("p3", &[&join[..], &["Bob"]].concat());
    let why = refused.failed(5)["message"].as_str().unwrap().to_owned();
    assert!(why.contains("that name"), "{why}");
    let shown = stage.run("p3", &["session", "show", "s"]);
    assert!(shown.text("failure").contains("that name"));
    // The same link under another name, without a word to clear the failure away.
    let second = stage.start("p3", &[&join[..], &["Eve"]].concat());
    let first = stage.start("p2", &["session", "wait", "s"]);
    let all = wait_all(vec![host, first, second]);
    agreed(&all, "safety_code");
    assert!(all[2].stderr.contains("that name"), "{}", all[2].stderr);
    let listed = stage.run("p3", &["session", "list"]);
    assert_eq!(listed.ok()["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn the_host_may_turn_a_joiner_away() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (host, link) = stage.host(&address, 3);
    host.kill();
    // Somebody comes, and goes for good: as soon as both have seen each other.
    let join = ["session", "join", &link, "--as", "Ghost", "--timeout", "2"];
    let wait = ["session", "wait", "s", "--timeout", "2"];
    let shown = (0..TRIES).find_map(|_| {
        let ghost = stage.start("p2", &join);
        stage.run("p1", &wait).failed(3);
        ghost.wait().failed(3);
        let shown = stage.run("p1", &["session", "show", "s"]);
        let is_here = shown.ok()["joiners"][0]["connected"] == true;
        is_here.then_some(shown)
    });
    let shown = shown.expect("the ghost never comes");
    let joiners = shown.ok()["joiners"].as_array().unwrap().clone();
    assert_eq!(joiners.len(), 1, "{joiners:?}");
    assert_eq!(joiners[0]["name"], "Ghost");
    assert_eq!(joiners[0]["connected"], true);
    let number = joiners[0]["number"].to_string();
    let drop = ["session", "drop", "s", "--joiner", &number];
    stage.run("p1", &drop).ok();
    stage.run("p1", &drop).failed(2);
    // The place is for somebody else now.
    let host = stage.start("p1", &["session", "wait", "s"]);
    let others = ["p3", "p4"].map(|party| stage.start(party, &["session", "join", &link]));
    let [third, fourth] = others;
    agreed(&wait_all(vec![host, third, fourth]), "safety_code");
    // Who was turned away learns that nobody waits for it.
    let ghost = stage.run("p2", &["session", "wait", "s", "--timeout", "60"]);
    assert!(matches!(ghost.code, Some(3 | 5)), "{ghost:#?}");
    assert!(!ghost.stderr.contains("only 2 of 3"), "{}", ghost.stderr);
    stage.run("p1", &drop).failed(2);
}

#[test]
fn only_pinned_keys_are_let_in() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let met = pair(&stage, &address, "tofu", "bob", "met");
    let roster = met[0].ok()["roster"].as_array().unwrap().clone();
    let key_of = |name: &str| {
        let entry = roster.iter().find(|entry| entry["name"] == name).unwrap();
        entry["profile_key"].as_str().unwrap().to_owned()
    };
    for (profile, pinned) in [
        ("p1", key_of("Bob")),
        ("bob", key_of("Ada")),
        ("eve", key_of("Ada")),
    ] {
        stage.run(profile, &["session", "list"]).ok();
        let config = format!("pinned = [\"{pinned}\"]\n");
        std::fs::write(stage.path(profile).join("profile.toml"), config).unwrap();
    }
    agreed(
        &pair(&stage, &address, "pinned", "bob", "friends"),
        "safety_code",
    );
    // Who is not listed hears why, and the host who it was; the place stays free for who is.
    let new = ["session", "new", "--name", "again", "--parties", "2"];
    let as_ada = ["--relay", &address, "--policy", "pinned", "--as", "Ada"];
    let mut host = stage.start("p1", &[&new[..], &as_ada].concat());
    let link = host.link();
    let eve = stage.run("eve", &["session", "join", &link, "--as", "Bob"]);
    let refused = eve.failed(5);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("not on its list")
    );
    let key = stage.run("eve", &["profile", "key"]).text("key");
    let bob = stage.run("bob", &["session", "join", &link, "--as", "Bob"]);
    let host = host.wait();
    assert!(host.stderr.contains(&key), "{host:#?}");
    agreed(&[host, bob], "safety_code");
}

#[test]
fn parties_of_a_file_meet_and_nobody_else() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let listed = |profile: &str| {
        let key = stage.run(profile, &["profile", "key"]).text("key");
        format!("[[party]]\nname = \"{profile}\"\nkey = \"{key}\"\n")
    };
    // The same file for both.
    let parties = stage.file("parties.toml", (listed("ada") + &listed("bob")).as_bytes());
    let others = stage.file("others.toml", (listed("bob") + &listed("carol")).as_bytes());
    let new = |name: &str, parties: &str, count: &str| {
        [
            "session",
            "new",
            "--name",
            name,
            "--parties",
            count,
            "--relay",
            &address,
            "--parties-file",
            parties,
        ]
        .map(str::to_owned)
    };
    let start = |name: &str| {
        let arguments = new(name, &parties, "2");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut host = stage.start("ada", &arguments);
        let link = host.link();
        (host, link)
    };
    let (host, link) = start("friends");
    let pinned = ["--parties-file", parties.as_str()];
    let bob = stage.start("bob", &[&["session", "join", &link][..], &pinned].concat());
    let met = wait_all(vec![host, bob]);
    agreed(&met, "safety_code");
    assert_eq!(met[0].ok()["policy"], "pinned");

    // Whoever names a file when the link was joined already is not told that all is well with another one.
    let again = ["session", "join", link.as_str()];
    stage.run("bob", &[&again[..], &pinned].concat()).ok();
    let others_now = ["--parties-file", others.as_str()];
    let refused = stage.run("bob", &[&again[..], &others_now].concat());
    assert!(
        refused.failed(5)["message"]
            .to_string()
            .contains("joined before")
    );
    let run = ["run", "--session", "friends"];
    let command = ["--", "true", "{peers}"];
    stage
        .run("bob", &[&run[..], &pinned, &command].concat())
        .failed(2);

    // A joiner whose file has somebody else in the host's place does not go on.
    let (host, link) = start("strangers");
    let wary = ["session", "join", &link, "--parties-file", &others];
    let wary = stage.run("bob", &wary);
    let error = wary.failed(5);
    assert!(
        error["message"].as_str().unwrap().contains("not pinned"),
        "{error}"
    );
    // The host hears that it was this party who stopped.
    let stopped = host.wait();
    let message = stopped.failed(4)["message"].to_string();
    assert!(message.contains("gave up"), "{message}");
    // What it was shown meanwhile did not say otherwise.
    assert!(!wary.stderr.contains("(pinned)"), "{}", wary.stderr);

    // Too few for so many parties, and a session that shows no keys.
    let many = new("many", &parties, "3");
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    stage.run("ada", &many).failed(2);
    let (host, link) = stage.host(&address, 2);
    let unpinned = ["session", "join", &link, "--parties-file", &parties];
    stage.run("bob", &unpinned).failed(5);
    host.kill();
}

#[test]
fn who_verified_is_told_to_the_others() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    let code = formed[0]["safety_code"].as_str().unwrap();
    let verify = ["session", "verify", "s", "--code", code];
    let party_of = |position: usize| formed[position]["me"].as_u64().unwrap();
    let verified_at = |profile: &str, party: u64| {
        let shown = stage.run(profile, &["session", "show", "s"]);
        let roster = shown.ok()["roster"].as_array().unwrap().clone();
        let entry = roster.iter().find(|entry| entry["index"] == party).unwrap();
        entry["says_verified"] == true
    };
    assert!(!verified_at("p1", party_of(0)) && !verified_at("p2", party_of(0)));
    stage.run("p1", &verify).ok();
    assert!(verified_at("p1", party_of(0)) && !verified_at("p1", party_of(1)));
    stage.run("p2", &verify).ok();
    for (profile, other) in [("p1", 1), ("p2", 0)] {
        let told = (0..TRIES).any(|_| verified_at(profile, party_of(other)));
        assert!(told, "{profile} never hears of it");
    }
}

#[test]
fn a_relay_with_a_password_serves_who_knows_it() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    relay.kill();
    let settings = stage.path("relay").join("relay.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let asked = text.replace("# password = \"...\"", "password = \"s3cret\"");
    assert_ne!(asked, text);
    std::fs::write(&settings, asked).unwrap();
    let _relay = stage.restart_relay();
    // It is refused at once: the harness would not wait as long as the command may.
    let new = [
        "session",
        "new",
        "--parties",
        "2",
        "--timeout",
        "3600",
        "--relay",
        &address,
    ];
    let refused = stage.run("p1", &new);
    let message = refused.failed(3)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("refused to make a queue"), "{message}");
    let help = refused.failed(3)["help"].as_str().unwrap().to_owned();
    assert!(help.contains("junto relay login"), "{help}");
    let login = ["relay", "login", &address];
    for (profile, password) in [("p1", "wrong\n"), ("p1", "s3cret\n"), ("p2", "s3cret")] {
        let said = stage.run_with_input(profile, &login, password.as_bytes());
        assert_eq!(said.ok()["password"], true);
        assert!(!format!("{said:?}").contains("s3cret"));
        if password == "wrong\n" {
            stage.run("p1", &new).failed(3);
        }
    }
    stage.session(&address, 2);
    let names = std::fs::read_dir(stage.path("p1")).unwrap();
    for entry in names
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
    {
        let bytes = std::fs::read(&entry).unwrap();
        assert!(!bytes.windows(6).any(|it| it == b"s3cret"), "{entry:?}");
    }
    let forgotten = stage.run("p1", &["relay", "login", &address, "--forget"]);
    assert_eq!(forgotten.ok()["password"], false);
    let another = [&new[..], &["--name", "another"]].concat();
    stage.run("p1", &another).failed(3);
}
