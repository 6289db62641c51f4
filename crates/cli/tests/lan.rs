//! Codes that are announced in a local network: two machines, made of network namespaces, that know nothing of each other.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod stage;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use stage::{Process, Stage, agreed, wait_all};

const HOST: &str = "10.77.0.1";

/// Two machines on one cable.
struct Lan([String; 2]);

impl Lan {
    /// `None`, and a word about it, where nobody may make one.
    fn lay() -> Option<Self> {
        static LAID: AtomicU32 = AtomicU32::new(0);
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("junto-lan-{}-{number}{side}", std::process::id());
        let lan = Self(["a", "b"].map(name));
        let [near, far] = &lan.0;
        let mut commands = vec![
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("link add cable netns {near} type veth peer name cable netns {far}"),
        ];
        for (space, address) in [(near, HOST), (far, "10.77.0.2")] {
            commands.push(format!("-n {space} address add {address}/24 dev cable"));
            commands.push(format!("-n {space} link set cable up"));
            commands.push(format!("-n {space} link set lo up"));
        }
        for command in commands {
            let made = Command::new("ip").args(command.split(' ')).output();
            let done = made.as_ref().is_ok_and(|made| made.status.success());
            if !done {
                // Where it must hold, no permission is a failure.
                assert!(std::env::var_os("JUNTO_CI").is_none(), "{made:?}");
                eprintln!("skipped: no network namespaces here (they need root and iproute2)");
                return None;
            }
        }
        Some(lan)
    }

    fn start(&self, machine: usize, stage: &Stage, profile: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.0[machine],
                env!("CARGO_BIN_EXE_junto"),
            ])
            .arg("--profile")
            .arg(stage.path(profile))
            .arg("--json")
            .args(arguments)
            .env_remove("JUNTO_PROFILE")
            .env_remove("JUNTO_PASSPHRASE_FILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Process::spawn(command, format!("{profile}: {}", arguments.join(" ")))
    }

    /// A relay on the first machine.
    fn relay(&self, stage: &Stage) -> (Process, String) {
        let dir = stage.path("relay");
        let dir = dir.to_str().unwrap();
        let init = ["relay", "init", "--dir", dir, "--host", HOST];
        let init = [&init[..], &["--port", "5223"]].concat();
        self.start(0, stage, "operator", &init).wait().ok();
        let mut relay = self.start(0, stage, "operator", &["relay", "start", "--dir", dir]);
        let address = relay.line()["address"].as_str().unwrap().to_owned();
        (relay, address)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for space in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", space]).output();
        }
    }
}

#[test]
fn a_session_is_found_in_the_local_network_and_joined_by_the_words() {
    let Some(lan) = Lan::lay() else { return };
    let stage = Stage::new();
    let (_relay, address) = lan.relay(&stage);
    let near = |machine| {
        lan.start(machine, &stage, "anybody", &["session", "near"])
            .wait()
    };
    assert_eq!(near(1).ok()["near"].as_array().unwrap().len(), 0);

    let new = ["session", "new", "--name", "s", "--parties", "3", "--code"];
    let new = [&new[..], &["--lan", "--relay", &address]].concat();
    let mut host = lan.start(0, &stage, "p1", &new);
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let (number, words) = code.split_once('-').unwrap();
    let number: u16 = number.parse().unwrap();

    // Both machines see what can be used, and nothing of the words or the session.
    for machine in [0, 1] {
        let seen = near(machine);
        let all = seen.ok()["near"].as_array().unwrap();
        assert_eq!(all.len(), 1, "{seen:#?}");
        assert_eq!(
            (&all[0]["number"], &all[0]["relay"]),
            (&number.into(), &address.as_str().into())
        );
        assert_eq!(all[0].as_object().unwrap().len(), 2);
        let words: Vec<&str> = words.split('-').collect();
        assert!(words.iter().all(|word| !format!("{seen:?}").contains(word)));
    }

    // One gives the code and finds the relay; the other is shown what there is and is asked.
    let second = lan.start(1, &stage, "p2", &["session", "join", &code, "--lan"]);
    let mut third = lan.start(1, &stage, "p3", &["session", "join", "--lan"]);
    assert_eq!(third.line()["near"][0]["number"], number);
    third.say(format!("{code}\n").as_bytes());
    third.end_input();
    let formed = wait_all(vec![host, second, third]);
    agreed(&formed, "safety_code");

    // It is taken back.
    assert_eq!(near(1).ok()["near"].as_array().unwrap().len(), 0);
    let late = lan.start(1, &stage, "p4", &["session", "join", &code, "--lan"]);
    let error = late.wait();
    let error = error.failed(3);
    assert!(error["message"].as_str().unwrap().contains("announces"));
}

#[test]
fn nothing_is_announced_unless_it_is_asked_for() {
    let Some(lan) = Lan::lay() else { return };
    let stage = Stage::new();
    let (_relay, address) = lan.relay(&stage);
    let new = [
        "session",
        "new",
        "--parties",
        "2",
        "--code",
        "--relay",
        &address,
    ];
    let mut host = lan.start(0, &stage, "p1", &new);
    host.line();
    let near = lan.start(1, &stage, "anybody", &["session", "near"]).wait();
    assert_eq!(near.ok()["near"].as_array().unwrap().len(), 0);
    let join = lan
        .start(1, &stage, "p2", &["session", "join", "--lan"])
        .wait();
    join.failed(3);
    host.kill();
    // An announcement without a code would be of nothing.
    let new = [
        "session",
        "new",
        "--parties",
        "2",
        "--lan",
        "--relay",
        &address,
    ];
    lan.start(0, &stage, "p1", &new).wait().failed(2);
}
