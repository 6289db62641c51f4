//! `junto run`: programs as processes of their own, which know nothing of Junto.
//!
//! The program is this test binary, started again with only [`program`] to do.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

mod stage;
use stage::{Ended, Process, Stage, wait_all};

/// How [`program`] is told where its peers are.
const ADAPTER: &str = r#"
separator = " "
[environment]
CENSUS_PEERS = "{peers}"
CENSUS_ME = "{id}"
"#;

/// Each party dials each other one, says who it is and whom it wants, and lists whom it hears, whom it knows by the
/// address as well. `CENSUS_OUT` names the
/// folder for its result; `CENSUS_STAY` is the number of one that only stays until a connection breaks, `CENSUS_FAIL`
/// of one that fails; with `CENSUS_PAUSE`, all stop in the middle until `go` is in the folder.
#[test]
fn program() {
    let Ok(me) = std::env::var("CENSUS_ME") else {
        return; // nobody runs it
    };
    let out = std::env::var("CENSUS_OUT").unwrap();
    let me: usize = me.parse().unwrap();
    assert_eq!(std::env::var("JUNTO_PARTY").unwrap(), me.to_string());
    let is_me = |name: &str| std::env::var(name).is_ok_and(|party| party == me.to_string());
    fs::write(format!("{out}/begun{me}"), "").unwrap();
    if is_me("CENSUS_FAIL") {
        std::process::exit(7);
    }
    let peers = std::env::var("CENSUS_PEERS").unwrap();
    let peers: Vec<&str> = peers.split(' ').collect();
    if is_me("CENSUS_STAY") {
        let mut call = TcpStream::connect(peers[(me + 1) % peers.len()]).unwrap();
        let _ = call.read_to_end(&mut Vec::new());
        std::process::exit(1);
    }
    let listener = TcpListener::bind(peers[me]).unwrap();
    let mut calls = Vec::new();
    for (party, peer) in peers.iter().enumerate().filter(|(party, _)| *party != me) {
        let mut call = TcpStream::connect(peer).unwrap();
        call.write_all(&[me as u8, party as u8]).unwrap();
        calls.push((party, call));
    }
    let mut heard = vec![me];
    let mut answers = Vec::new();
    for _ in &calls {
        let (mut answer, from) = listener.accept().unwrap();
        let mut said = [0; 2];
        answer.read_exact(&mut said).unwrap();
        assert_eq!(usize::from(said[1]), me, "meant for another party");
        if cfg!(target_os = "linux") {
            let (host, _) = peers[usize::from(said[0])].split_once(':').unwrap();
            assert_eq!(from.ip().to_string(), host, "called from its own place");
        }
        heard.push(usize::from(said[0]));
        answers.push(answer);
    }
    if std::env::var("CENSUS_PAUSE").is_ok() {
        fs::write(format!("{out}/middle{me}"), "").unwrap();
        while !fs::exists(format!("{out}/go")).unwrap() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for (party, call) in &mut calls {
        call.write_all(&vec![*party as u8; 100_000]).unwrap();
        call.shutdown(std::net::Shutdown::Write).unwrap();
    }
    for mut answer in answers {
        let mut said = Vec::new();
        answer.read_to_end(&mut said).unwrap();
        assert!(said.len() == 100_000 && said.iter().all(|byte| *byte == me as u8));
        answer.write_all(&[me as u8]).unwrap();
    }
    for (party, mut call) in calls {
        let mut answer = Vec::new();
        call.read_to_end(&mut answer)
            .unwrap_or_else(|error| panic!("party {party}: {error}"));
        assert_eq!(answer, [party as u8]);
    }
    heard.sort_unstable();
    fs::write(format!("{out}/result{me}"), format!("{heard:?}")).unwrap();
}

/// Starts a party that runs [`program`]; `place` is `--session NAME` or the like.
fn start(stage: &Stage, party: usize, place: &[&str], environment: &[(&str, &str)]) -> Process {
    // Each has a file of its own: another party may be reading it now.
    let adapter = stage.file(&format!("census{party}.toml"), ADAPTER.as_bytes());
    let program = std::env::current_exe().unwrap();
    let mut arguments = vec!["run"];
    arguments.extend_from_slice(place);
    let program = [
        program.to_str().unwrap(),
        "program",
        "--exact",
        "--nocapture",
    ];
    arguments.extend_from_slice(&["--adapter", &adapter, "--"]);
    arguments.extend_from_slice(&program);
    let mut command = stage.command(&format!("p{party}"), &arguments);
    command.env("CENSUS_OUT", stage.dir.path());
    command.envs(environment.iter().copied());
    Process::spawn(command, format!("p{party}: run"))
}

fn results(stage: &Stage, parties: usize) -> Vec<String> {
    let result = |party: usize| stage.path(&format!("result{party}"));
    (0..parties)
        .filter_map(|party| fs::read_to_string(result(party)).ok())
        .collect()
}

fn ran_well(ended: &[Ended]) {
    for party in ended {
        assert_eq!(party.ok()["program"]["exit_code"], 0, "{party:#?}");
    }
}

/// Waits until a program has come so far.
fn wait_for(stage: &Stage, file: &str) {
    let end = std::time::Instant::now() + Duration::from_secs(120);
    while !stage.path(file).exists() {
        assert!(std::time::Instant::now() < end, "no {file}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_party_asks_for_several_queues_and_all_heed_it() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let new = ["--new", "3", "--stripes", "4", "--relay", &address];
    let mut host = start(&stage, 1, &new, &[]);
    let link = host.link();
    let mut all = vec![host];
    all.extend([2, 3].map(|party| start(&stage, party, &["--join", &link], &[])));
    ran_well(&wait_all(all));
    assert_eq!(results(&stage, 3), ["[0, 1, 2]"; 3]);

    let queues = |party: &str| stage.run(party, &["session", "show", "run"]).ok()["queues"].clone();
    let count =
        |queues: &serde_json::Value| (queues[0]["parties"].clone(), queues[0]["queues"].clone());
    let host = queues("p1");
    assert_eq!(count(&host["receives"]), (2.into(), 8.into()));
    assert_eq!(count(&host["sends"]), (2.into(), 2.into()));
    let other = queues("p2");
    assert_eq!(count(&other["receives"]), (2.into(), 2.into()));
    assert_eq!(count(&other["sends"]), (2.into(), 5.into()));

    // They stay, another run finds them, and another relay beside them would save nothing.
    let again: Vec<Process> = (1..=3)
        .map(|party| start(&stage, party, &["--session", "run", "--stripes", "2"], &[]))
        .collect();
    ran_well(&wait_all(again));
    let receives = queues("p1")["receives"].clone();
    assert_eq!(count(&receives), (2.into(), 8.into()));
    let add = ["session", "add-relay", "run", "--relay", &address];
    stage.run("p1", &add).failed(5);
    // What is sent to all relays goes no faster by more queues.
    let both = ["run", "--new", "2", "--stripes", "2", "--relay", &address];
    let both = [&both[..], &["--relay", &address, "--", "true"]].concat();
    stage.run("p4", &both).failed(2);
}

#[test]
fn one_command_each_from_a_link_to_the_result() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let mut host = start(&stage, 1, &["--new", "3", "--relay", &address], &[]);
    let link = host.link();
    let second = start(&stage, 2, &["--join", &link], &[]);
    let third = start(&stage, 3, &["--join", &link], &[]);
    let all = wait_all(vec![host, second, third]);
    ran_well(&all);
    assert_eq!(results(&stage, 3), ["[0, 1, 2]"; 3]);
    // Programs hear what people do: who is in it, and the safety code.
    let formed = |party: &Ended| {
        let is_formed = |line: &&serde_json::Value| line["state"] == "formed";
        let line = party.lines.iter().find(is_formed).unwrap();
        assert_eq!(line["roster"].as_array().unwrap().len(), 3, "{line}");
        line["safety_code"].as_str().unwrap().to_owned()
    };
    let codes: Vec<String> = all.iter().map(formed).collect();
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");
    // Once more, with the same parties, in another order.
    for party in 0..3 {
        fs::remove_file(stage.path(&format!("result{party}"))).unwrap();
    }
    let again = [3, 1, 2].map(|party| start(&stage, party, &["--session", "run"], &[]));
    ran_well(&wait_all(again.into()));
    assert_eq!(results(&stage, 3), ["[0, 1, 2]"; 3]);
}

#[test]
fn a_relay_that_restarts_is_not_noticed() {
    let stage = Stage::new();
    let (relay, address) = stage.relay();
    stage.session(&address, 2);
    let pause = [("CENSUS_PAUSE", "")];
    let both = [1, 2].map(|party| start(&stage, party, &["--session", "s"], &pause));
    for middle in ["middle0", "middle1"] {
        wait_for(&stage, middle);
    }
    relay.kill();
    // What they say now waits for it.
    fs::write(stage.path("go"), "").unwrap();
    let _relay = stage.restart_relay();
    ran_well(&wait_all(both.into()));
    assert_eq!(results(&stage, 2), ["[0, 1]"; 2]);
}

#[test]
fn whose_program_fails_is_named_to_all() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 3);
    let ranks: BTreeMap<u64, usize> = (1..=3)
        .map(|party| (formed[party - 1]["me"].as_u64().unwrap(), party))
        .collect();
    let fail = [("CENSUS_FAIL", "2")];
    let all = (1..=3).map(|party| start(&stage, party, &["--session", "s"], &fail));
    for ended in wait_all(all.collect()) {
        let error = ended.failed(1);
        if ended.name.starts_with(&format!("p{}", ranks[&2])) {
            assert!(
                error["message"]
                    .as_str()
                    .unwrap()
                    .contains("exit status: 7"),
                "{error}"
            );
        } else {
            assert_eq!(error["party"], "2", "{ended:#?}");
        }
    }
}

#[test]
fn a_party_that_is_killed_is_named() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    let killed = formed[1]["me"].as_u64().unwrap().to_string();
    let place = ["--session", "s", "--silence", "15"];
    let stay = [("CENSUS_STAY", killed.as_str())];
    let first = start(&stage, 1, &place, &stay);
    let second = start(&stage, 2, &place, &stay);
    for party in formed {
        wait_for(&stage, &format!("begun{}", party["me"]));
    }
    second.kill();
    assert_eq!(first.wait().failed(3)["party"], *killed);
}

#[test]
fn who_does_not_come_is_named_and_nothing_is_lost() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let formed = stage.session(&address, 2);
    let early = start(&stage, 1, &["--session", "s", "--timeout", "1"], &[]);
    let error = early.wait();
    assert_eq!(
        error.failed(3)["party"],
        formed[1]["me"].as_u64().unwrap().to_string()
    );
    assert!(!stage.path("begun0").exists() && !stage.path("begun1").exists());
    let both = [2, 1].map(|party| start(&stage, party, &["--session", "s"], &[]));
    ran_well(&wait_all(both.into()));
}

#[test]
fn who_takes_direct_paths_alone_and_who_takes_none_hear_of_each_other_before_they_begin() {
    for parties in [2, 3] {
        let stage = Stage::new();
        let (_relay, address) = stage.relay();
        let formed = stage.session(&address, parties);
        let wishes = ["direct-only", "relay-only", "prefer-direct"];
        let all = (1..=parties).map(|party| {
            let place = ["--session", "s", "--paths", wishes[party - 1]];
            start(&stage, party, &place, &[])
        });
        let mut apart = [&formed[0], &formed[1]].map(|party| party["me"].as_u64().unwrap());
        for ended in wait_all(all.collect()) {
            let error = ended.failed(5);
            let message = error["message"].as_str().unwrap();
            let [direct, relays] = apart;
            let said = format!("party {direct} takes direct paths alone, and party {relays} none");
            assert!(message.contains(&said), "{ended:#?}");
            assert!(
                error["help"].as_str().unwrap().contains("prefer-direct"),
                "{error}"
            );
        }
        // Those two know before all have met.
        for party in apart {
            assert!(!stage.path(&format!("begun{party}")).exists(), "{party}");
        }
        // Nothing of it is left in the session.
        let again: Vec<Process> = (1..=parties)
            .map(|party| start(&stage, party, &["--session", "s"], &[]))
            .collect();
        ran_well(&wait_all(again));
        apart.sort_unstable();
        for ended in (1..=2).map(|party| stage.run(&format!("p{party}"), &["session", "show", "s"]))
        {
            assert_eq!(ended.ok()["state"], "formed", "{apart:?}");
        }
    }
}

#[test]
fn a_run_that_is_stopped_stops_its_program_and_says_so_to_the_others() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    stage.session(&address, 2);
    let sleep = |party: &str| {
        let arguments = [
            "run",
            "--session",
            "s",
            "--adapter",
            "mpyc",
            "--",
            "sh",
            "-c",
            "echo here; exec sleep 1000",
        ];
        stage.start(party, &arguments)
    };
    let (mut first, mut second) = (sleep("p1"), sleep("p2"));
    for process in [&mut first, &mut second] {
        assert_eq!(process.line()["state"], "formed");
        assert_eq!(process.word(), "here");
    }
    first.signal("TERM");
    first.wait().failed(1);
    let ended = second.wait();
    assert!(
        ended.failed(1)["message"]
            .as_str()
            .unwrap()
            .contains("was stopped"),
        "{ended:#?}"
    );
}

#[test]
fn what_cannot_be_run_is_a_usage_error() {
    let stage = Stage::new();
    for arguments in [
        &["run", "--", "true"][..],
        &["run", "--session", "s", "--new", "2", "--", "true"],
        &["run", "--session", "s", "--adapter", "tcp", "--", "true"],
        &[
            "run",
            "--session",
            "s",
            "--adapter",
            "nowhere.toml",
            "--",
            "true",
        ],
        &["run", "--session", "nowhere", "--", "true"],
    ] {
        assert_eq!(stage.run("p", arguments).code, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_connection_is_measured_beside_tcp() {
    let stage = Stage::new();
    let small = ["bench", "run", "--messages", "200", "--bulk", "1"];
    let figures = stage.run("p", &small).ok().clone();
    for path in ["memory", "direct", "queues"] {
        for ratio in ["hop_over_tcp", "bulk_over_tcp"] {
            assert!(figures[path][ratio].as_f64().unwrap() > 0.0, "{figures}");
        }
    }
    assert!(figures["tcp"]["small_per_second"].as_f64().unwrap() > 0.0);
}
