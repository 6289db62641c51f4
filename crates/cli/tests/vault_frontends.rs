//! Clients that reach realms by way of frontends, real processes all of them, which are killed and started again.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::{Process, Stage};

/// It only turns what hangs into a failure.
const DEADLINE: Duration = Duration::from_secs(120);

fn signal(name: &str, pid: &str) {
    let arguments = [format!("-{name}"), pid.to_owned()];
    assert!(
        Command::new("kill")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    );
}

/// Kills the frontend that listens there, if one does just now.
fn kill_at(address: &str) -> bool {
    let listens = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.any(|word| word == b"door") && words.any(|word| word == address.as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let found = all.map(|it| it.file_name().to_string_lossy().into_owned());
    match found
        .filter(|name| name.parse::<u32>().is_ok())
        .find(|pid| listens(pid))
    {
        // It may end by itself first.
        Some(pid) => Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .unwrap()
            .success(),
        None => false,
    }
}

fn command<'a>(what: &'a str, file: &'a str, set: &'a str, pin: &'a str) -> Vec<&'a str> {
    let mut all = vec!["vault", what, "--set", set, "--accept-simulated"];
    all.extend(["--timeout", "60"]);
    if !pin.is_empty() {
        all.extend(["--pin-file", pin, file]);
    }
    all
}

fn status(stage: &Stage, set: &str) -> Value {
    stage
        .run("watcher", &command("status", "", set, ""))
        .ok()
        .clone()
}

fn wait_for(process: &Process, step: &str) {
    let end = Instant::now() + DEADLINE;
    while !process.has_logged(step) {
        assert!(Instant::now() < end, "it never came to `{step}`");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Frontends are killed at every step of storing, of a wrong guess, and of getting back: each is started again, nobody notices, no guess
/// is counted twice, and none is lost.
#[test]
fn frontends_that_are_killed_at_every_step_change_nothing() {
    let stage = Stage::new();
    let dir = stage.path("trial");
    let arguments = ["vault", "realm", "try", "--frontends", "1", "--dir"];
    let arguments = [&arguments[..], &[dir.to_str().unwrap()]].concat();
    let mut realms = stage.start("operator", &arguments);
    let line = realms.line();
    let set = line["set"].as_str().unwrap().to_owned();
    let each = line["realms"].as_array().unwrap();
    let doors = each
        .iter()
        .map(|realm| realm["frontends"][0]["address"].clone());
    let doors: Vec<Value> = doors.collect();
    // The set file names no replica.
    let known = read(&set)["realms"].as_array().unwrap().clone();
    let known: Vec<&Value> = known.iter().map(|realm| &realm["addresses"]).collect();
    for door in &doors {
        assert!(known.contains(&&json!([door])), "{known:?} {door}");
    }
    // From now on they listen where they did, by name.
    for realm in each {
        signal("KILL", &realm["frontends"][0]["pid"].to_string());
    }
    status(&stage, &set);
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let wrong = stage.file("wrong", b"2842\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    let under_fire = |who: &str, arguments: &[&str], steps: &[&str]| {
        let running = stage.start(who, arguments);
        for step in steps {
            wait_for(&running, step);
            let killed = doors.iter().filter(|door| kill_at(door.as_str().unwrap()));
            assert!(killed.count() > 0 || *step != steps[0], "{step}");
        }
        running.wait()
    };
    let storing = [
        "asking the realms",
        "handing each realm",
        "activating",
        "settling",
    ];
    under_fire("p", &command("backup", file, &set, &pin), &storing).ok();
    assert_eq!(status(&stage, &set)["guesses_left"], 5);
    let guessing = ["asking the realms", "guessing", "claiming"];
    let guess = command("restore", file, &set, &wrong);
    under_fire("back", &guess, &guessing).failed(6);
    assert_eq!(status(&stage, &set)["guesses_left"], 4);
    let back = command("restore", file, &set, &pin);
    under_fire("back", &back, &guessing).ok();
    let told = status(&stage, &set);
    assert_eq!(told["guesses_left"], 5, "{told}");
    assert!(told["realms"][0]["began"].is_u64(), "{told}");
    realms.signal("TERM");
    assert_eq!(realms.wait().code, Some(0));
    stage
        .run(
            "watcher",
            &["vault", "status", "--set", &set, "--accept-simulated"],
        )
        .failed(3);
}

fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port().min(65_000)
}

/// A group that runs.
struct Group {
    process: Process,
    dir: String,
    report: Value,
}

impl Group {
    fn new(stage: &Stage, name: &str, more: &[&str]) -> Self {
        // Another process may take ports that were free a moment ago: choose again.
        for number in 0..5 {
            let dir = stage.path(&format!("{name}{number}"));
            let dir = dir.to_str().unwrap().to_owned();
            let port = free_port().to_string();
            let init = [
                &["vault", "realm", "init", "--dir", &dir, "--port", &port][..],
                &["--host", "127.0.0.1", "--replicas", "3"],
                more,
            ];
            stage.run("operator", &init.concat()).ok();
            if let Some(group) = Self::start(stage, &dir) {
                return group;
            }
        }
        panic!("no free ports")
    }

    fn start(stage: &Stage, dir: &str) -> Option<Self> {
        let mut process = stage.start("operator", &["vault", "realm", "start", "--dir", dir]);
        let report = process.line();
        let runs = report["replicas"].is_array();
        runs.then(|| Self {
            process,
            dir: dir.to_owned(),
            report,
        })
    }

    fn end(self) {
        self.process.signal("TERM");
        assert_eq!(self.process.wait().code, Some(0));
    }
}

/// A frontend on its own, at that port or at a free one.
fn frontend(stage: &Stage, dir: &str, port: Option<u16>) -> (Process, u16, Value) {
    for _ in 0..5 {
        let port = port.unwrap_or_else(free_port);
        let text = port.to_string();
        let start = ["vault", "realm", "frontend", "--dir", dir, "--port", &text];
        let mut process = stage.start("operator", &start);
        let line = process.line();
        if line["frontends"].is_array() {
            return (process, port, line["frontends"][0]["pid"].clone());
        }
    }
    panic!("no free port")
}

/// A tenant, and its set file for one realm that is reached at these addresses.
fn set(stage: &Stage, name: &str, realm: &Value, ports: &[u16]) -> String {
    let addresses = ports.iter().map(|port| format!("127.0.0.1:{port}"));
    let addresses: Vec<String> = addresses.collect();
    let told = json!({ "realm": realm, "addresses": addresses });
    let told = stage.file(&format!("{name}.realm.json"), told.to_string().as_bytes());
    let (out, tenant) = (stage.path(name), stage.path("tenant.json"));
    let (out, tenant) = (out.to_str().unwrap(), tenant.to_str().unwrap());
    let make = ["vault", "set", "--out", out, "--threshold", "1", "--tenant"];
    stage
        .run("operator", &[&make[..], &[tenant, &told]].concat())
        .ok();
    out.to_owned()
}

fn tenant(stage: &Stage) -> String {
    let out = stage.path("tenant.json");
    let made = ["vault", "tenant", "--out", out.to_str().unwrap()];
    stage.run("operator", &made).text("tenant")
}

/// Frontends that are no part of the realm's own processes: one of two is enough, dead or hung as the other may be; a record that moves
/// is found by one that knows an older way; and the guesses stay what they were.
#[test]
fn one_of_two_frontends_is_enough_and_follows_a_record_that_moves() {
    let stage = Stage::new();
    let old = Group::new(&stage, "old", &["--tenant", &tenant(&stage)]);
    let realm = &old.report["realm"];
    let (one, first, pid) = frontend(&stage, &old.dir, None);
    let (other, second, _) = frontend(&stage, &old.dir, None);
    let user = set(&stage, "set.json", realm, &[first, second]);
    let by_second = set(&stage, "second.json", realm, &[second]);
    // Not the same user: it is about the way there.
    let mut known = read(&by_second);
    known["user"] = read(&user)["user"].clone();
    let by_second = stage.file("by_second.json", known.to_string().as_bytes());
    stage.run("p", &["session", "list"]).ok();
    let pin = stage.file("pin", b"2841\n");
    let wrong = stage.file("wrong", b"2842\n");
    let file = stage.path("p.vault");
    let file = file.to_str().unwrap();
    stage.run("p", &command("backup", file, &user, &pin)).ok();
    let guess = |pin: &str, set: &str| stage.run("back", &command("restore", file, set, pin));
    guess(&wrong, &user).failed(6);

    // The first one hangs; it goes on; it dies; the second one does.
    signal("STOP", &pid.to_string());
    assert_eq!(status(&stage, &user)["guesses_left"], 4);
    signal("CONT", &pid.to_string());
    one.signal("TERM");
    assert_eq!(one.wait().code, Some(0));
    guess(&wrong, &user).failed(6);
    assert_eq!(status(&stage, &by_second)["guesses_left"], 3);

    // The second one has the old way in mind, and goes the new one.
    let new = Group::new(&stage, "new", &["--group-of", &old.dir]);
    let moving = [
        "vault", "realm", "move", "--from", &old.dir, "--to", &new.dir,
    ];
    let moved = stage.run("operator", &moving).ok().clone();
    assert_eq!(moved["from_serves"], json!([]));
    guess(&wrong, &by_second).failed(6);
    assert_eq!(status(&stage, &by_second)["guesses_left"], 2);
    // It remembers that: the group that it came from is not needed.
    old.process.signal("STOP");
    for pid in old.report["replicas"].as_array().unwrap() {
        signal("STOP", &pid.to_string());
    }
    assert_eq!(status(&stage, &by_second)["guesses_left"], 2);
    for pid in old.report["replicas"].as_array().unwrap() {
        signal("CONT", &pid.to_string());
    }
    old.process.signal("CONT");
    other.signal("TERM");
    assert_eq!(other.wait().code, Some(0));
    // One that is new knows no way but that of its folder.
    let (again, _, _) = frontend(&stage, &old.dir, Some(first));
    guess(&pin, &user).ok();
    assert_eq!(status(&stage, &user)["guesses_left"], 5);
    again.signal("TERM");
    assert_eq!(again.wait().code, Some(0));
    new.end();
    old.end();
}

/// `start` runs the frontends that its folder names; they pass nothing on to replicas that do not show what the realm's policy wants; and
/// a client goes by none that another realm signed.
#[test]
fn frontends_judge_replicas_and_clients_judge_frontends() {
    let stage = Stage::new();
    let public = tenant(&stage);
    let group = Group::new(&stage, "realm", &["--tenant", &public, "--frontends", "2"]);
    let realm = group.report["realm"].clone();
    let doors = group.report["frontends"].as_array().unwrap();
    let doors: Vec<&Value> = doors.iter().map(|door| &door["address"]).collect();
    let told = read(&format!("{}/realm.json", group.dir));
    assert_eq!(told["addresses"], json!(doors));
    let ports = doors
        .iter()
        .map(|it| it.as_str().unwrap().rsplit(':').next().unwrap());
    let ports: Vec<u16> = ports.map(|port| port.parse().unwrap()).collect();
    let user = set(&stage, "set.json", &realm, &ports);
    let asked = [
        "vault",
        "status",
        "--set",
        &user,
        "--accept-simulated",
        "--timeout",
        "5",
    ];
    assert_eq!(status(&stage, &user)["realms"][0]["state"], "absent");
    // Simulated evidence of a frontend is for who says so, too.
    stage.run("watcher", &asked[..4]).failed(5);
    // The realm of another key: its frontend is not this realm's.
    let other = Group::new(&stage, "other", &["--tenant", &public, "--frontends", "1"]);
    let door = other.report["frontends"][0]["address"].as_str().unwrap();
    let port = door.rsplit(':').next().unwrap().parse().unwrap();
    let astray = set(&stage, "astray.json", &realm, &[port]);
    let asked_there = [&asked[..3], &[&astray], &asked[4..]].concat();
    let refused = stage.run("watcher", &asked_there);
    let said = refused.failed(5)["message"].as_str().unwrap();
    assert!(said.contains("not that realm"), "{said}");
    other.end();

    let dir = group.dir.clone();
    group.end();
    let settings = Path::new(&dir).join("realm.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert!(text.contains("\nfrontends = 2\n"), "{text}");
    std::fs::write(&settings, text.replace("# policy = ", "policy = ")).unwrap();
    let policy = json!({
        "measurements": [format!("snp:{}", "07".repeat(48))], "nodes": ["0b".repeat(32)],
    });
    std::fs::write(settings.with_file_name("policy.json"), policy.to_string()).unwrap();
    let careful = Group::start(&stage, &dir).unwrap();
    wait_for(&careful.process, "passes nothing on so far");
    stage.run("watcher", &asked).failed(3);
    careful.end();
}
