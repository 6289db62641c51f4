//! The program that `junto run` runs: how it begins, what becomes of its output, and that it never outlives its run.
//!
//! Where it has to speak TCP, it is this test binary, started again with only [`flood`] to do.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

mod stage;
use stage::{Process, Stage, wait_all};

/// Says where the program's process, and one that it has started, are to be found, and stays.
const STAYS: &str =
    "sleep 1000 & echo $! >> \"$OUT/pids\"; echo $$ >> \"$OUT/pids\"; echo here; wait";

fn start(stage: &Stage, party: usize, rest: &[&str], program: &[&str]) -> Process {
    let arguments = [
        &["run", "--session", "s", "--adapter", "mpyc"],
        rest,
        &["--"],
        program,
    ]
    .concat();
    let mut command = stage.command(&format!("p{party}"), &arguments);
    command.env("OUT", stage.dir.path());
    Process::spawn(command, format!("p{party}: run"))
}

/// Two parties in a session.
fn pair(stage: &Stage) -> Process {
    let (relay, address) = stage.relay();
    stage.session(&address, 2);
    relay
}

/// Waits until none of the processes in the file `pids` is left.
#[track_caller]
fn all_gone(stage: &Stage) {
    let end = Instant::now() + Duration::from_secs(60);
    let pids = fs::read_to_string(stage.path("pids")).unwrap();
    assert!(pids.lines().count() >= 4, "{pids}");
    for pid in pids.lines() {
        // One that nobody waits for keeps its number, and has nothing to run any more.
        let status = Path::new("/proc").join(pid).join("status");
        while fs::read_to_string(&status).is_ok_and(|status| !status.contains("State:\tZ")) {
            assert!(Instant::now() < end, "process {pid} goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_a_program_has_started_ends_with_a_run_that_is_stopped() {
    for signal in ["TERM", "HUP"] {
        let stage = Stage::new();
        let _relay = pair(&stage);
        let mut both = [1, 2].map(|party| start(&stage, party, &[], &["sh", "-c", STAYS]));
        for process in &mut both {
            assert_eq!(process.line()["state"], "formed");
            assert_eq!(process.word(), "here");
        }
        let [first, second] = both;
        first.signal(signal);
        assert_eq!(first.wait().failed(1)["message"], "stopped");
        // It hears of it, and its program gets its time to end by itself.
        assert!(
            second.wait().failed(1)["message"]
                .as_str()
                .unwrap()
                .contains("was stopped")
        );
        all_gone(&stage);
    }
}

#[test]
fn a_program_does_not_outlive_a_run_that_is_killed() {
    let stage = Stage::new();
    let _relay = pair(&stage);
    let alone = "echo $$ >> \"$OUT/pids\"; echo here; exec sleep 1000";
    let mut both = [1, 2].map(|party| start(&stage, party, &[], &["sh", "-c", alone]));
    for process in &mut both {
        assert_eq!(process.line()["state"], "formed");
        assert_eq!(process.word(), "here");
    }
    for process in both {
        process.signal("KILL");
        assert_eq!(process.wait().code, None);
    }
    let pids = fs::read_to_string(stage.path("pids")).unwrap();
    fs::write(stage.path("pids"), pids.repeat(2)).unwrap();
    all_gone(&stage);
}

#[test]
fn what_we_say_has_lines_of_its_own() {
    let stage = Stage::new();
    let _relay = pair(&stage);
    let both = [1, 2].map(|party| start(&stage, party, &[], &["sh", "-c", "printf abc"]));
    for ended in wait_all(both.into()) {
        assert_eq!(ended.ok()["program"]["exit_code"], 0);
        assert_eq!(ended.lines.len(), 3, "{ended:#?}");
        assert_eq!(ended.lines[0]["state"], "formed");
        assert_eq!(ended.lines[1], "abc");
    }
}

#[test]
fn a_program_that_is_not_there_is_told_before_anybody_is_met() {
    let stage = Stage::new();
    // There is no such session either: that would be told later.
    let ended = start(&stage, 1, &[], &["no-such-program", "x.py"]).wait();
    let error = ended.failed(2);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("no-such-program"),
        "{error}"
    );
}

/// Party 0 writes to party 1 for as long as somebody takes it, and ends; party 1 takes nothing.
#[test]
fn flood() {
    let Ok(peers) = std::env::var("FLOOD_PEERS") else {
        return; // nobody runs it
    };
    let peers: Vec<&str> = peers.split(' ').collect();
    let out = std::env::var("OUT").unwrap();
    if std::env::var("FLOOD_ME").unwrap() == "1" {
        let listener = TcpListener::bind(peers[1]).unwrap();
        std::thread::sleep(Duration::from_secs(1_000));
        drop(listener);
        return;
    }
    let mut call = TcpStream::connect(peers[1]).unwrap();
    call.set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    while call.write_all(&[7; 65_536]).is_ok() {}
    fs::write(format!("{out}/written"), "").unwrap();
}

#[test]
fn a_run_that_waits_for_a_party_to_read_can_be_stopped_and_names_it() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    let description =
        "separator = \" \"\n[environment]\nFLOOD_PEERS = \"{peers}\"\nFLOOD_ME = \"{id}\"\n";
    let program = std::env::current_exe().unwrap();
    let program = [program.to_str().unwrap(), "flood", "--exact", "--nocapture"];
    let mut both = [1, 2].map(|party| {
        let adapter = stage.file(&format!("flood{party}.toml"), description.as_bytes());
        let arguments = ["run", "--session", "s", "--adapter", adapter.as_str(), "--"];
        let mut command = stage.command(&format!("p{party}"), &[&arguments[..], &program].concat());
        command.env("OUT", stage.dir.path());
        Process::spawn(command, format!("p{party}: run"))
    });
    if formed[0]["me"] == 1 {
        both.reverse();
    }
    let end = Instant::now() + Duration::from_secs(120);
    while !stage.path("written").exists() {
        assert!(Instant::now() < end, "it is never full");
        std::thread::sleep(Duration::from_millis(20));
    }
    let [writer, reader] = both;
    // Its program has ended or is about to: either way, the signal ends the run.
    std::thread::sleep(Duration::from_secs(1));
    writer.signal("INT");
    let ended = writer.wait();
    let error = ended.failed(1);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("had taken what the program wrote"),
        "{error}"
    );
    assert_eq!(error["party"], "1");
    assert!(
        reader.wait().failed(1)["message"]
            .as_str()
            .unwrap()
            .contains("was stopped")
    );
}
