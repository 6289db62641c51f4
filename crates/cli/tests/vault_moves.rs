//! Records of real processes move between groups of a realm while clients go on, whatever is killed on the way.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::{Ended, Process, Stage};

/// It only turns what hangs into a failure.
const DEADLINE: Duration = Duration::from_secs(120);

/// For a group that is away for ever.
const SHORTLY: [&str; 2] = ["--timeout", "5"];

const WHOLE: [&str; 2] = ["0000000000000000", "ffffffffffffffff"];

fn kill(pid: &str) {
    let sent = Command::new("kill").args(["-KILL", pid]).status();
    assert!(sent.unwrap().success());
}

/// A group that runs: of a realm of its own, or of that of another folder.
struct Group {
    process: Process,
    dir: String,
    replicas: Vec<String>,
    /// What clients are told of it.
    file: String,
}

impl Group {
    fn new(stage: &Stage, name: &str, replicas: &str, of: &[&str]) -> Self {
        // Another process may take ports that were free a moment ago: choose again.
        for number in 0..5 {
            let dir = stage.path(&format!("{name}{number}"));
            let dir = dir.to_str().unwrap().to_owned();
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port().min(65_000).to_string();
            drop(free);
            let init = [
                &["vault", "realm", "init", "--dir", &dir, "--port", &port][..],
                &["--host", "127.0.0.1", "--replicas", replicas],
                of,
            ];
            let file = stage.run("operator", &init.concat()).text("file");
            let (process, replicas) = Self::start(stage, &dir);
            if let Some(replicas) = replicas {
                return Self {
                    process,
                    dir,
                    replicas,
                    file,
                };
            }
        }
        panic!("no free ports")
    }

    fn start(stage: &Stage, dir: &str) -> (Process, Option<Vec<String>>) {
        let mut process = stage.start("operator", &["vault", "realm", "start", "--dir", dir]);
        let line = process.line();
        let pids = line["replicas"].as_array();
        let pids = pids.map(|pids| pids.iter().map(Value::to_string).collect());
        (process, pids)
    }

    fn end(self) {
        self.process.signal("TERM");
        assert_eq!(self.process.wait().code, Some(0));
    }
}

/// A realm of one group, and the set file of a user of it.
fn realm(stage: &Stage, replicas: &str) -> (Group, String) {
    let tenant = stage.path("tenant.json");
    let tenant = tenant.to_str().unwrap();
    let made = ["vault", "tenant", "--out", tenant];
    let public = stage.run("operator", &made).text("tenant");
    let group = Group::new(stage, "old", replicas, &["--tenant", &public]);
    let set = set(stage, "set.json", &group);
    (group, set)
}

fn set(stage: &Stage, name: &str, group: &Group) -> String {
    let (set, tenant) = (stage.path(name), stage.path("tenant.json"));
    let (set, tenant) = (set.to_str().unwrap(), tenant.to_str().unwrap());
    let make = ["vault", "set", "--out", set, "--threshold", "1", "--tenant"];
    let make = [&make[..], &[tenant, &group.file]].concat();
    stage.run("operator", &make).ok();
    set.to_owned()
}

fn command<'a>(what: &'a str, file: &'a str, set: &'a str, pin: &'a str) -> Vec<&'a str> {
    let mut all = vec![
        "vault",
        what,
        "--set",
        set,
        "--accept-simulated",
        "--timeout",
        "60",
    ];
    if !pin.is_empty() {
        all.extend(["--pin-file", pin, file]);
    }
    all
}

fn status(stage: &Stage, set: &str) -> Value {
    let command = command("status", "", set, "");
    stage.run("watcher", &command).ok().clone()
}

fn moving<'a>(from: &'a Group, to: &'a Group) -> Vec<&'a str> {
    let (from, to) = (from.dir.as_str(), to.dir.as_str());
    vec!["vault", "realm", "move", "--from", from, "--to", to]
}

const STEPS: [&str; 5] = [
    "preparing the destination",
    "departing from the source",
    "arriving at the destination",
    "taking a parcel in",
    "accepting at the destination",
];

/// Kills a command that carries where it says on stderr that it begins the first of these steps. On a busy machine it gets further before
/// it dies: then the next one may begin behind a step, or find nothing to do. So any later step will do, and its end.
fn kill_at(mut process: Process, steps: &[&str]) -> Ended {
    let end = Instant::now() + DEADLINE;
    while !steps.iter().any(|step| process.has_logged(step)) && !process.has_ended() {
        if Instant::now() > end {
            panic!("it never came to {steps:?}: {:#?}", process.kill());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let killed = process.kill();
    // What fails by itself is not interrupted.
    assert!(matches!(killed.code, None | Some(0)), "{killed:#?}");
    killed
}

/// A command that was broken off before the records may leave: gives the file that says what it was about.
fn broken_off(stage: &Stage, from: &Group, to: &Group) -> std::path::PathBuf {
    let (job, kept) = (format!("{}/move.json", from.dir), stage.path("kept"));
    // Nothing leaves before the mark is written, and there is no room for it.
    let mark = format!("{}/records-have-left.txt", from.dir);
    std::fs::create_dir(&mark).unwrap();
    stage.run("operator", &moving(from, to)).failed(1);
    std::fs::remove_dir(&mark).unwrap();
    std::fs::copy(&job, &kept).unwrap();
    kept
}

/// Says so to who watches, also when what is watched fails: he would not end otherwise.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A record moves to another group while its user asks on, whichever process is killed at whichever step and the command given
/// again: nobody notices, the guesses that were spent stay spent, and the first group is needed no more.
#[test]
fn a_record_moves_while_processes_are_killed_and_comes_back_from_the_other_group() {
    let stage = Stage::new();
    let (old, user) = realm(&stage, "3");
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let wrong = stage.file("wrong", b"2842\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    stage.run("p", &command("backup", file, &user, &pin)).ok();
    let guess = |pin: &str, set: &str| stage.run("back", &command("restore", file, set, pin));
    guess(&wrong, &user).failed(6);
    let new = Group::new(&stage, "new", "3", &["--group-of", &old.dir]);

    let (job, kept) = (
        format!("{}/move.json", old.dir),
        broken_off(&stage, &old, &new),
    );
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) {
                let told = status(&stage, &user);
                assert_eq!(told["guesses_left"], 4, "{told}");
                seen += 1;
            }
            seen
        });
        let over = Over(&is_over);
        for number in 0..STEPS.len() {
            let carrying = stage.start("operator", &moving(&old, &new));
            kill_at(carrying, &STEPS[number..]);
            match number {
                0 => kill(&new.replicas[0]),
                1 => kill(&old.replicas[0]),
                _ => {}
            }
        }
        let last = stage.run("operator", &moving(&old, &new));
        drop(over);
        assert!(watching.join().unwrap() > 1);
        last
    });
    assert_eq!(last.ok()["from_serves"], json!([]), "{last:?}");
    assert_eq!(last.ok()["to_serves"], json!([WHOLE]), "{last:?}");
    assert!(!std::path::Path::new(&old.dir).join("move.json").exists());
    // Once more is no error, and moves nothing.
    let again = stage.run("operator", &moving(&old, &new));
    assert_eq!(again.ok()["moved"], json!([]));
    // A command that was killed before it had struck the order off says what has become of it, whatever it is asked for then.
    for more in [&[][..], &["--take-back"]] {
        std::fs::copy(&kept, &job).unwrap();
        let late = stage.run("operator", &[&moving(&old, &new)[..], more].concat());
        assert_eq!(late.ok()["moved"], json!([WHOLE]), "{more:?}");
    }

    guess(&wrong, &user).failed(6);
    assert_eq!(status(&stage, &user)["guesses_left"], 3);
    guess(&pin, &user).ok();
    std::fs::remove_dir_all(stage.path("back")).unwrap();
    // A set file that knows of the new group; the first one ends.
    let told: Value = serde_json::from_slice(&std::fs::read(&new.file).unwrap()).unwrap();
    let mut known: Value = serde_json::from_slice(&std::fs::read(&user).unwrap()).unwrap();
    known["realms"][0]["addresses"] = told["addresses"].clone();
    let known = stage.file("known.json", known.to_string().as_bytes());
    old.end();
    assert_eq!(status(&stage, &known)["guesses_left"], 5);
    guess(&pin, &known).ok();
    let hasty = [
        "vault",
        "status",
        "--set",
        &user,
        "--accept-simulated",
        "--timeout",
        "3",
    ];
    stage.run("watcher", &hasty).failed(3);
    new.end();
}

/// Half of the records move, and none is served twice; what a policy does not let go stays, and can be taken back.
#[test]
fn a_part_moves_and_what_no_evidence_is_shown_for_stays() {
    let stage = Stage::new();
    let (old, user) = realm(&stage, "1");
    let new = Group::new(&stage, "new", "1", &["--group-of", &old.dir]);
    let nothing = [&moving(&old, &new)[..], &["--take-back"]].concat();
    stage.run("operator", &nothing).failed(2);
    let half = [&moving(&old, &new)[..], &["--percent", "50"]].concat();
    let moved = stage.run("operator", &half).ok().clone();
    let upper = ["8000000000000000", WHOLE[1]];
    assert_eq!(moved["moved"], json!([upper]));
    assert_eq!(
        moved["from_serves"],
        json!([[WHOLE[0], "7fffffffffffffff"]])
    );
    assert_eq!(moved["to_serves"], json!([upper]));
    // Wherever the user's record falls: the group that has it stores it.
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    stage.run("p", &command("backup", file, &user, &pin)).ok();
    stage
        .run("back", &command("restore", file, &user, &pin))
        .ok();
    // Back again, to where it came from.
    let back = stage.run("operator", &moving(&new, &old)).ok().clone();
    assert_eq!(back["to_serves"], json!([WHOLE]));
    assert_eq!(status(&stage, &user)["guesses_left"], 5);
    // Of two realms' groups nothing moves.
    let tenant = stage.run(
        "operator",
        &[
            "vault",
            "tenant",
            "--out",
            &stage.path("t2").to_string_lossy(),
        ],
    );
    let other = Group::new(&stage, "other", "1", &["--tenant", &tenant.text("tenant")]);
    stage.run("operator", &moving(&old, &other)).failed(2);
    other.end();
    old.end();

    // A realm whose group lets records go only to machines that prove what they run.
    let public = tenant.text("tenant");
    let policy = json!({
        "measurements": [format!("snp:{}", "07".repeat(48))], "nodes": ["0b".repeat(32)],
    });
    let careful = Group::new(&stage, "careful", "1", &["--tenant", &public]);
    let dir = careful.dir.clone();
    careful.end();
    let settings = std::path::Path::new(&dir).join("realm.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let text = text.replace("# policy = ", "policy = ");
    std::fs::write(&settings, text).unwrap();
    std::fs::write(settings.with_file_name("policy.json"), policy.to_string()).unwrap();
    let (process, replicas) = Group::start(&stage, &dir);
    let file = settings
        .with_file_name("realm.json")
        .to_string_lossy()
        .into_owned();
    let replicas = replicas.unwrap();
    let careful = Group {
        process,
        dir,
        replicas,
        file,
    };
    let next = Group::new(&stage, "next", "1", &["--group-of", &careful.dir]);
    // It is as careful with what it gets.
    let inherited = std::fs::read_to_string(format!("{}/realm.toml", next.dir)).unwrap();
    assert!(inherited.contains("\npolicy = \"policy.json\""));
    let inherited = std::fs::read_to_string(format!("{}/policy.json", next.dir)).unwrap();
    assert_eq!(inherited, policy.to_string());
    let refused = stage.run("operator", &moving(&careful, &next));
    let said = refused.failed(5)["message"].as_str().unwrap();
    assert!(said.contains("do not all show the evidence"), "{said}");
    let back = [&moving(&careful, &next)[..], &["--take-back"]].concat();
    let (job, kept) = (format!("{}/move.json", careful.dir), stage.path("kept"));
    std::fs::copy(&job, &kept).unwrap();
    let taken = stage.run("operator", &back).ok().clone();
    assert_eq!(taken["from_serves"], json!([WHOLE]));
    assert_eq!(
        (&taken["moved"], &taken["to_serves"]),
        (&json!([]), &json!([]))
    );
    // An order that is over already is made anew, and not taken for one that was carried out.
    std::fs::copy(&kept, &job).unwrap();
    stage.run("operator", &moving(&careful, &next)).failed(5);
    // A destination that is there is told, whichever other folder is named.
    let third = Group::new(&stage, "third", "1", &["--group-of", &careful.dir]);
    for (wrong, code) in [(&careful, 2), (&third, 1)] {
        let wrong = [&moving(&careful, wrong)[..], &["--take-back"]].concat();
        stage.run("operator", &wrong).failed(code);
        assert!(std::path::Path::new(&job).exists());
    }
    third.end();
    // Without the destination, too, as long as nothing has left.
    next.end();
    let alone = [&moving(&careful, &careful)[..], &["--take-back"], &SHORTLY].concat();
    let taken = stage.run("operator", &alone).ok().clone();
    assert_eq!(taken["from_serves"], json!([WHOLE]));
    careful.end();
    new.end();
}

/// A group whose records have left begins with none when it is started again: another one counts their guesses. What has arrived is
/// accepted without the group that it comes from.
#[test]
fn a_source_that_is_started_again_serves_nothing_and_is_not_needed_for_what_has_arrived() {
    let stage = Stage::new();
    let (old, _) = realm(&stage, "1");
    let new = Group::new(&stage, "new", "1", &["--group-of", &old.dir]);
    let kept = broken_off(&stage, &old, &new);
    let job = format!("{}/move.json", old.dir);
    let carrying = stage.start("operator", &moving(&old, &new));
    kill_at(carrying, &STEPS[4..]);
    // However far it was when it was killed.
    std::fs::copy(&kept, &job).unwrap();
    let (dir, file) = (old.dir.clone(), old.file.clone());
    old.end();
    // It is away: whether it was killed before the destination accepted or after, that is what the command comes to.
    let alone = ["vault", "realm", "move", "--from", &dir, "--to", &new.dir];
    let said = stage.run("operator", &[&alone[..], &SHORTLY].concat());
    let help = said.failed(3)["help"].as_str().unwrap().to_owned();
    assert!(help.contains("served by the other group"), "{help}");
    let (process, replicas) = Group::start(&stage, &dir);
    let replicas = replicas.unwrap();
    let again = Group {
        process,
        dir,
        replicas,
        file,
    };
    let moved = stage.run("operator", &moving(&again, &new)).ok().clone();
    assert_eq!(moved["moved"], json!([WHOLE]));
    assert_eq!(moved["from_serves"], json!([]));
    assert_eq!(moved["to_serves"], json!([WHOLE]));
    again.end();
    new.end();
}
