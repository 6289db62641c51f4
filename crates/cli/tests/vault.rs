//! The vault of real processes: realms, backups under a PIN, lost devices, wrong PINs, and processes that die at the wrong moment.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::{Ended, Process, Stage, agreed};

/// It only turns what hangs into a failure.
const DEADLINE: Duration = Duration::from_secs(120);

/// Three realms for trying, and their set file.
struct Trial {
    realms: Process,
    set: String,
    replicas: Vec<Vec<String>>,
}

fn pids(realm: &Value) -> Vec<String> {
    let pids = realm["replicas"].as_array().unwrap();
    pids.iter().map(Value::to_string).collect()
}

fn trial(stage: &Stage) -> Trial {
    let dir = stage.path("trial");
    let arguments = ["vault", "realm", "try", "--dir", dir.to_str().unwrap()];
    let mut realms = stage.start("operator", &arguments);
    let line = realms.line();
    assert_eq!(line["trial"], true);
    let set = line["set"].as_str().unwrap().to_owned();
    let replicas = line["realms"].as_array().unwrap().iter().map(pids);
    let replicas = replicas.collect();
    Trial {
        realms,
        set,
        replicas,
    }
}

fn signal(name: &str, pid: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), pid])
        .status();
    assert!(sent.unwrap().success());
}

/// One vault command with the set, and a PIN from a file where there is one.
fn command<'a>(what: &'a str, file: &'a str, set: &'a str, pin: &'a str) -> Vec<&'a str> {
    let mut all = vec!["vault", what, "--set", set, "--accept-simulated"];
    if !pin.is_empty() {
        all.extend(["--pin-file", pin, file]);
    }
    all
}

fn status(stage: &Stage, set: &str) -> Value {
    stage.run("p", &command("status", "", set, "")).ok().clone()
}

fn message(ended: &Ended, code: i32) -> String {
    ended.failed(code)["message"].as_str().unwrap().to_owned()
}

/// 2-of-3 shares; a device is lost, a realm is gone; with the PIN the share comes back and signs with another party.
#[test]
fn a_lost_share_comes_back_with_the_pin_from_any_two_realms_and_signs() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 3);
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
    let key = agreed(&stage.all(&["p1", "p2", "p3"], &keygen), "public_key");
    let trial = trial(&stage);
    let pin = stage.file("pin", b"2841\n");
    let file = stage.path("p1.vault");
    let file = file.to_str().unwrap();
    let made = stage.run("p1", &command("backup", file, &trial.set, &pin));
    assert_eq!(made.ok()["realms"], 3);
    let bytes = std::fs::read(file).unwrap();
    for telling in [&b"agent.db"[..], b"SQLite", address.as_bytes(), b"2841\n"] {
        assert!(!bytes.windows(telling.len()).any(|window| window == telling));
    }

    std::fs::remove_dir_all(stage.path("p1")).unwrap();
    signal("KILL", &trial.replicas[1][0]);
    let restored = stage.run("back", &command("restore", file, &trial.set, &pin));
    assert_eq!(restored.ok()["sessions"], 1);
    assert_eq!(restored.ok()["absent"].as_array().unwrap().len(), 1);

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
    let forming = vec![host, stage.start("back", &join), stage.start("p3", &join)];
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
    let reshared = stage.all(&["p2", "p3", "back"], &reshare);
    assert_eq!(agreed(&reshared, "public_key"), key);
    let text = stage.file("message", b"m");
    let sign = ["bls", "sign", "--key", "k", "--message-file", &text];
    let signature = agreed(&stage.all(&["p2", "back"], &sign), "signature");
    let verify = [
        "bls",
        "verify",
        "--public-key",
        &key,
        "--signature",
        &signature,
        "--message-file",
        &text,
    ];
    stage.run("nobody", &verify).ok();

    // The end: replicas end with who started them.
    trial.realms.signal("TERM");
    assert_eq!(trial.realms.wait().code, Some(0));
    stage
        .run("p", &command("status", "", &trial.set, ""))
        .failed(3);
}

#[test]
fn wrong_pins_are_counted_and_after_the_last_one_nothing_is_left() {
    let stage = Stage::new();
    let trial = trial(&stage);
    stage.run("p", &["session", "list"]).ok();
    let (right, wrong) = (
        stage.file("right", b"2841\n"),
        stage.file("wrong", b"2842\n"),
    );
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    let few = [
        &command("backup", file, &trial.set, &right)[..],
        &["--guesses", "3"],
    ]
    .concat();
    // There is no file, and nobody is there to be asked.
    stage
        .run("back", &command("restore", file, &trial.set, &right))
        .failed(2);
    let silent = [
        "vault",
        "backup",
        file,
        "--set",
        &trial.set,
        "--accept-simulated",
    ];
    stage.run("p", &silent).failed(2);
    let obvious = stage.file("obvious", b"1234\n");
    stage
        .run("p", &command("backup", file, &trial.set, &obvious))
        .failed(2);
    // Simulated evidence is for who says so.
    let careful = ["vault", "status", "--set", &trial.set];
    stage
        .run("p", &["vault", "delete", "--set", &trial.set])
        .failed(5);
    let refused = message(&stage.run("p", &careful), 5);
    assert!(refused.contains("simulated"), "{refused}");

    stage.run("p", &few).ok();
    assert_eq!(status(&stage, &trial.set)["guesses_left"], 3);
    let guess = |pin: &str| stage.run("back", &command("restore", file, &trial.set, pin));
    let said = message(&guess(&wrong), 6);
    assert!(said.contains("2 guesses are left"), "{said}");
    assert_eq!(status(&stage, &trial.set)["guesses_left"], 2);
    // The right one gives all of them back.
    guess(&right).ok();
    std::fs::remove_dir_all(stage.path("back")).unwrap();
    for left in ["2 guesses are", "1 guess is"] {
        let said = message(&guess(&wrong), 6);
        assert!(said.contains(left), "{said}");
    }
    assert!(message(&guess(&wrong), 7).contains("no guess is left"));
    assert!(!stage.path("back").exists());
    let told = status(&stage, &trial.set);
    assert_eq!(told["recoverable"], false);
    let states = told["realms"].as_array().unwrap().iter();
    assert!(
        states.clone().all(|realm| realm["state"] == "erased"),
        "{told}"
    );
    guess(&right).failed(7);

    // The profile is still there: it is stored again, and then deleted for good.
    stage.run("p", &few).ok();
    guess(&right).ok();
    std::fs::remove_dir_all(stage.path("back")).unwrap();
    let delete = command("delete", "", &trial.set, "");
    assert_eq!(stage.run("p", &delete).ok()["erased"], 3);
    guess(&right).failed(1);
    assert_eq!(status(&stage, &trial.set)["recoverable"], false);
    stage.run("p", &delete).ok();
    drop(trial.realms.kill());
}

/// Waits until a process says on stderr that it begins this, and kills it.
fn kill_at(process: Process, step: &str) {
    let end = Instant::now() + DEADLINE;
    while !process.has_logged(step) {
        assert!(Instant::now() < end, "it never came to `{step}`");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(process.kill());
}

/// A client that is killed at any step of storing or of getting back loses nothing, and a guess at the most.
#[test]
fn a_client_killed_at_any_step_loses_nothing() {
    let stage = Stage::new();
    let trial = trial(&stage);
    stage.run("p", &["session", "list"]).ok();
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    let pin =
        |number: usize| stage.file(&format!("pin{number}"), format!("28{number}1\n").as_bytes());
    let back_up = |number| stage.start("p", &command("backup", file, &trial.set, &pin(number)));
    let restore = |number| stage.start("back", &command("restore", file, &trial.set, &pin(number)));
    back_up(0).wait().ok();
    let mut stored = 0;
    let steps = [
        "asking the realms",
        "stretching",
        "handing each realm",
        "writing the sealed",
        "activating",
        "settling",
    ];
    for (number, step) in (1..).zip(steps) {
        kill_at(back_up(number), step);
        let said = restore(number).wait();
        match said.code {
            Some(0) => stored = number,
            _ => {
                said.failed(6);
                restore(stored).wait().ok();
            }
        }
        std::fs::remove_dir_all(stage.path("back")).unwrap();
    }
    // And the next one goes through, and leaves nothing else beside it.
    back_up(7).wait().ok();
    let beside = std::fs::read_dir(stage.dir.path()).unwrap();
    let beside = beside.filter(|it| {
        it.as_ref()
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("p.vault")
    });
    assert_eq!(beside.count(), 1);
    let mut left = 5;
    for step in [
        "asking the realms",
        "stretching",
        "guessing",
        "claiming",
        "restoring",
    ] {
        kill_at(restore(7), step);
        let now = status(&stage, &trial.set)["guesses_left"].as_u64().unwrap();
        assert!(now >= left - 1, "{step}: {now} of {left}");
        left = now;
        let _ = std::fs::remove_dir_all(stage.path("back"));
    }
    restore(7).wait().ok();
    assert_eq!(status(&stage, &trial.set)["guesses_left"], 5);
    drop(trial.realms.kill());
}

/// A realm of three replicas, by the commands of an operator.
fn realm(stage: &Stage) -> (Process, Vec<String>, String) {
    let tenant = stage.path("tenant.json");
    let tenant = tenant.to_str().unwrap();
    let public = stage
        .run("operator", &["vault", "tenant", "--out", tenant])
        .text("tenant");
    // Another process may take ports that were free a moment ago: choose again.
    for number in 0..5 {
        let dir = stage.path(&format!("realm{number}"));
        let dir = dir.to_str().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let port = port.min(65_000).to_string();
        let init = [
            "vault",
            "realm",
            "init",
            "--dir",
            dir,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--tenant",
            &public,
        ];
        let public = stage.run("operator", &init).text("file");
        let mut realm = stage.start("operator", &["vault", "realm", "start", "--dir", dir]);
        let line = realm.line();
        if line["realm"].is_string() {
            assert_eq!(line["needed"], 2);
            let set = stage.path("set.json");
            let set = set.to_str().unwrap();
            let make = [
                "vault",
                "set",
                "--out",
                set,
                "--threshold",
                "1",
                "--tenant",
                tenant,
                &public,
            ];
            stage.run("operator", &make).ok();
            return (realm, pids(&line), set.to_owned());
        }
    }
    panic!("no free ports")
}

#[test]
fn a_realm_goes_on_without_one_replica_and_answers_nothing_with_one() {
    let stage = Stage::new();
    let (realm, replicas, set) = realm(&stage);
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    stage.run("p", &command("backup", file, &set, &pin)).ok();
    let hasty = [&command("status", "", &set, "")[..], &["--timeout", "4"]].concat();
    // One that stands still is as good as gone; two, and there is no answer until they are back.
    signal("STOP", &replicas[0]);
    stage
        .run("back", &command("restore", file, &set, &pin))
        .ok();
    signal("STOP", &replicas[1]);
    stage.run("p", &hasty).failed(3);
    signal("CONT", &replicas[0]);
    signal("CONT", &replicas[1]);
    assert_eq!(status(&stage, &set)["guesses_left"], 5);
    // One that is killed is gone for good, and so is the realm with the second one.
    signal("KILL", &replicas[2]);
    assert_eq!(status(&stage, &set)["recoverable"], true);
    signal("KILL", &replicas[0]);
    let said = realm.wait();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("the realm is lost"), "{said:?}");
    stage.run("p", &hasty).failed(3);
}

/// Whoever answers at a realm's address and is not the realm is named, and gets nothing.
#[test]
fn a_realm_that_is_not_who_it_should_be_is_named() {
    let stage = Stage::new();
    let trial = trial(&stage);
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    stage
        .run("p", &command("backup", file, &trial.set, &pin))
        .ok();
    let mut set: Value = serde_json::from_slice(&std::fs::read(&trial.set).unwrap()).unwrap();
    // One realm's addresses lead to another: two of three are enough, and the third is named.
    set["realms"][0]["addresses"] = set["realms"][1]["addresses"].clone();
    let one = stage.file("one.json", set.to_string().as_bytes());
    let id = set["realms"][0]["realm"].as_str().unwrap()[..8].to_owned();
    let back = stage.run("back", &command("restore", file, &one, &pin));
    let absent = back.ok()["absent"].to_string();
    assert!(absent.contains(&id), "{absent}");
    set["realms"][2]["addresses"] = set["realms"][1]["addresses"].clone();
    let two = stage.file("two.json", set.to_string().as_bytes());
    let said = message(
        &stage.run("other", &command("restore", file, &two, &pin)),
        5,
    );
    assert!(
        said.contains(&id) && said.contains("is not that realm"),
        "{said}"
    );
    assert_eq!(status(&stage, &trial.set)["guesses_left"], 5);
    drop(trial.realms.kill());
}
