//! The vault of real processes: realms, backups under a PIN, lost devices, wrong PINs, and processes that die at the wrong moment.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use stage::gate::{Cut, Gate};
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
    assert_eq!(status(&stage, &trial.set)["guesses_left"], 1);
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
        let is_early = number < 5;
        assert!(!is_early || stored == 0, "{step}: {stored}");
        assert!(step != "settling" || stored == number, "{step}: {stored}");
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

/// Three realms for trying, each behind a gate.
struct Gated {
    trial: Trial,
    /// In the order of the set file.
    gates: Vec<Gate>,
    ids: Vec<String>,
    set: String,
}

impl Gated {
    fn new(stage: &Stage) -> Self {
        let trial = trial(stage);
        let mut set: Value = serde_json::from_slice(&std::fs::read(&trial.set).unwrap()).unwrap();
        let (mut gates, mut ids) = (Vec::new(), Vec::new());
        for realm in set["realms"].as_array_mut().unwrap() {
            let gate = Gate::new(realm["addresses"][0].as_str().unwrap());
            realm["addresses"] = Value::from(vec![gate.address.clone()]);
            ids.push(realm["realm"].as_str().unwrap()[..8].to_owned());
            gates.push(gate);
        }
        let set = stage.file("gated.json", set.to_string().as_bytes());
        Self {
            trial,
            gates,
            ids,
            set,
        }
    }

    fn run(&self, stage: &Stage, profile: &str, what: &str, pin: &str, more: &[&str]) -> Ended {
        let file = stage.path("p.vault");
        let command = command(what, file.to_str().unwrap(), &self.set, pin);
        // Only where a realm is to go is anybody waited for in vain.
        let timeout = match self.gates.iter().any(Gate::is_cut) {
            true => "5",
            false => "60",
        };
        stage.run(
            profile,
            &[&command[..], &["--timeout", timeout], more].concat(),
        )
    }

    fn restore(&self, stage: &Stage, pin: &str) -> Ended {
        let said = self.run(stage, "back", "restore", pin, &[]);
        let _ = std::fs::remove_dir_all(stage.path("back"));
        said
    }

    fn open(&self) -> Vec<bool> {
        self.gates.iter().map(Gate::open).collect()
    }
}

fn names(value: &Value) -> Vec<&str> {
    let names = value.as_array().unwrap().iter();
    names.map(|name| &name.as_str().unwrap()[..8]).collect()
}

/// Names beside the sealed file, itself among them.
fn files(stage: &Stage) -> Vec<String> {
    let found = std::fs::read_dir(stage.dir.path()).unwrap();
    let names = found.map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("p.vault")).collect()
}

/// Whichever realm goes at whichever question of a backup, before it or before its answer: what the command says is so, and
/// what it stored comes back, also if that realm lags for ever. Questions: what is kept, hold, count, forget.
#[test]
fn a_realm_that_goes_at_any_question_of_a_backup_loses_nothing_and_is_named() {
    let stage = Stage::new();
    let gated = Gated::new(&stage);
    stage.run("p", &["session", "list"]).ok();
    let pin = |number: usize| {
        stage.file(
            &format!("pin{number}"),
            format!("28{number:02}1\n").as_bytes(),
        )
    };
    gated.run(&stage, "p", "backup", &pin(0), &[]).ok();
    let mut stored = 0;
    let mut number = 0;
    for realm in 0..3 {
        for cut in [
            Cut::Question(0),
            Cut::Question(1),
            Cut::Answer(1),
            Cut::Question(2),
            Cut::Answer(2),
            Cut::Question(3),
            Cut::Answer(3),
        ] {
            // Each realm is the one that lags; for the rest one of them will do.
            let lags = matches!(cut, Cut::Question(2) | Cut::Answer(2));
            if realm > 0 && !lags {
                continue;
            }
            number += 1;
            gated.gates[realm].cut(cut);
            let said = gated.run(&stage, "p", "backup", &pin(number), &[]);
            let what = format!("realm {realm}, {cut:?}: {said:?}");
            assert!(gated.open()[realm], "{what}");
            let id = &gated.ids[realm];
            match cut {
                Cut::Question(0 | 1) | Cut::Answer(0 | 1) => {
                    // It never came to counting: what was stored before counts still.
                    said.failed(3);
                    assert_eq!(said.lines.len(), 1, "{what}");
                }
                Cut::Question(2) | Cut::Answer(2) => {
                    said.failed(3);
                    let report = &said.lines[0];
                    assert_eq!(names(&report["absent"]), [id], "{what}");
                    assert_eq!(report["realms"], 2, "{what}");
                    // Who hears all three sees what two of them say first, whatever their ids are.
                    assert_eq!(status(&stage, &gated.set)["version"], report["version"]);
                    assert!(files(&stage).len() >= 2, "{what}");
                    stored = number;
                }
                Cut::Question(_) | Cut::Answer(_) => {
                    assert_eq!(names(&said.ok()["unsettled"]), [id], "{what}");
                    assert_eq!(said.ok()["absent"].as_array().unwrap().len(), 0, "{what}");
                    stored = number;
                }
            }
            let back = gated.restore(&stage, &pin(stored));
            assert_eq!(back.ok()["guesses_left"], 5, "{what}");
        }
        // All are there: nothing of before is left.
        number += 1;
        stored = number;
        gated.run(&stage, "p", "backup", &pin(number), &[]).ok();
        assert_eq!(files(&stage), ["p.vault"]);
    }
    // Two go before they count it: which of both counts is not known, and both files are there for it.
    for (cut, counts) in [(Cut::Question(2), stored), (Cut::Answer(2), number + 2)] {
        number += 1;
        for gate in &gated.gates[1..] {
            gate.cut(cut);
        }
        let said = gated.run(&stage, "p", "backup", &pin(number), &[]);
        let help = said.failed(3)["help"].to_string();
        assert!(help.contains("is not known: keep"), "{help}");
        gated.open();
        gated.restore(&stage, &pin(counts)).ok();
    }
    drop(gated.trial.realms.kill());
}

/// With one guess in all: the right PIN never costs the secret, whichever realms go while it is asked, and a wrong one is not
/// called the end while realms have guesses. Questions: what is kept, evaluate, claim, and then for the record.
#[test]
fn the_last_guess_is_not_lost_with_a_realm_that_goes() {
    let stage = Stage::new();
    let gated = Gated::new(&stage);
    stage.run("p", &["session", "list"]).ok();
    let (right, wrong) = (
        stage.file("right", b"2841\n"),
        stage.file("wrong", b"2842\n"),
    );
    let backup = |guesses| {
        let one = ["--guesses", guesses];
        gated.run(&stage, "p", "backup", &right, &one).ok();
    };
    backup("1");
    for (at, cut) in [
        Cut::Question(1),
        Cut::Answer(1),
        Cut::Question(2),
        Cut::Answer(2),
    ]
    .into_iter()
    .enumerate()
    {
        // One goes: two are enough. What it has charged is given back the next time, if not now.
        gated.gates[at % 3].cut(cut);
        let said = gated.restore(&stage, &right);
        assert_eq!(
            names(&said.ok()["unproven"]),
            [&gated.ids[at % 3]],
            "{cut:?}"
        );
        assert!(gated.open()[at % 3]);
        assert_eq!(gated.restore(&stage, &right).ok()["guesses_left"], 1);
        let each = status(&stage, &gated.set);
        let each = each["realms"].as_array().unwrap();
        assert!(each.iter().all(|realm| realm["left"] == 1), "{each:?}");
        if matches!(cut, Cut::Question(1) | Cut::Answer(2)) {
            continue;
        }
        // Two go: it is not known. With the same PIN it is the same guess.
        for gate in &gated.gates[..2] {
            gate.cut(cut);
        }
        let said = gated.restore(&stage, &right);
        let help = said.failed(3)["help"].to_string();
        assert!(help.contains("the same guess"), "{cut:?}: {help}");
        assert_eq!(gated.open(), [true, true, false]);
        assert_eq!(gated.restore(&stage, &right).ok()["guesses_left"], 1);
        assert_eq!(files(&stage), ["p.vault"]);
    }
    // Nobody is asked for a new guess at 0: such as from another machine.
    for gate in &gated.gates {
        gate.cut(Cut::Answer(1));
    }
    gated.restore(&stage, &right).failed(3);
    gated.open();
    let file = std::fs::read(stage.path("p.vault")).unwrap();
    let elsewhere = stage.file("elsewhere", &file);
    let there = command("restore", &elsewhere, &gated.set, &right);
    assert!(message(&stage.run("back", &there), 5).contains("no guess is left"));
    assert_eq!(status(&stage, &gated.set)["recoverable"], false);
    gated.restore(&stage, &right).ok();
    // A typo while two realms are away by the time of the claim.
    backup("5");
    for gate in &gated.gates[..2] {
        gate.cut(Cut::Question(2));
    }
    let said = message(&gated.restore(&stage, &wrong), 6);
    assert!(said.contains("4 guesses are left"), "{said}");
    gated.open();
    gated.restore(&stage, &right).ok();
    drop(gated.trial.realms.kill());
}

/// What a person reads on stdout.
fn text(stage: &Stage, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_junto"));
    let said = command
        .arg("--profile")
        .arg(stage.path("p"))
        .args(arguments)
        .env_remove("JUNTO_PROFILE")
        .env_remove("JUNTO_PASSPHRASE_FILE")
        .output()
        .unwrap();
    String::from_utf8(said.stdout).unwrap()
}

/// Whoever reads results alone learns that it was a trial, that a passphrase is gone, what is left; and nobody's file is replaced.
#[test]
fn results_say_what_they_are_worth_and_nobodys_file_is_replaced() {
    let stage = Stage::new();
    let trial = trial(&stage);
    stage.run("p", &["session", "list"]).ok();
    let secret = stage.file("passphrase", b"correct horse\n");
    let protect = ["profile", "passphrase", "--new-passphrase-file", &secret];
    assert_eq!(stage.run("p", &protect).ok()["protected"], true);
    let pin = stage.file("pin", b"2841\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    let backup = |file: &str, more: &[&str]| {
        let backup = command("backup", file, &trial.set, &pin);
        let with = ["--passphrase-file", &secret];
        stage.run("p", &[&backup[..], &with, more].concat())
    };
    // A backup under a passphrase is somebody's, too.
    let own = [
        "profile",
        "backup",
        file,
        "--passphrase-file",
        &secret,
        "--backup-passphrase-file",
        &secret,
    ];
    stage.run("p", &own).ok();
    let before = std::fs::read(file).unwrap();
    let refused = message(&backup(file, &[]), 1);
    assert!(refused.contains("is no sealed file"), "{refused}");
    assert_eq!(std::fs::read(file).unwrap(), before);
    let made = backup(file, &["--replace"]);
    assert_eq!(made.ok()["trial"], true);
    assert_eq!(made.ok()["evidence"], "simulated");
    backup(file, &[]).ok();

    let told = status(&stage, &trial.set);
    assert_eq!(
        (&told["trial"], &told["evidence"]),
        (&true.into(), &"simulated".into())
    );
    assert_eq!(
        (&told["holders"], &told["recoverable"]),
        (&3.into(), &true.into())
    );
    let restored = stage.run("back", &command("restore", file, &trial.set, &pin));
    let flags = ["was_protected", "protected", "trial"].map(|name| restored.ok()[name].clone());
    assert_eq!(flags, [true, false, true]);
    std::fs::remove_dir_all(stage.path("back")).unwrap();
    // What makes the file somebody's is bound to it.
    let mut bytes = std::fs::read(file).unwrap();
    bytes[19 + 16 + 32] = 0;
    let changed = stage.file("changed", &bytes);
    let said = message(
        &stage.run("back", &command("restore", &changed, &trial.set, &pin)),
        1,
    );
    assert!(said.contains("it was changed"), "{said}");

    // People are told the same as programs: also that no further realm may be lost.
    signal("KILL", &trial.replicas[0][0]);
    let command = command("status", "", &trial.set, "");
    let read = text(&stage, &[&command[..], &["--timeout", "4"]].concat());
    for part in [
        "5 guesses are left",
        "began empty",
        "Only 2 realms are known",
        "TRIAL",
        "it does not answer",
    ] {
        assert!(read.contains(part), "{part}: {read}");
    }
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
    // No crash writes a realm's memory to a disk.
    for replica in &replicas {
        let limits = std::fs::read_to_string(format!("/proc/{replica}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(core[4..6], ["0", "0"], "{core:?}");
    }
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
