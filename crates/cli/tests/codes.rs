//! Short codes between real processes.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

mod stage;
use stage::{Process, Stage, agreed, wait_all};

/// The same number with other words.
fn guess(code: &str) -> String {
    let number = code.split('-').next().unwrap();
    let wrong = ["crossover-clockwork", "chambermaid-choking"];
    let wrong = wrong.map(|words| format!("{number}-{words}"));
    wrong.into_iter().find(|wrong| wrong != code).unwrap()
}

fn join<'a>(code: &'a str, relay: &'a str) -> [&'a str; 5] {
    ["session", "join", code, "--relay", relay]
}

#[test]
fn parties_meet_by_a_code_that_is_worth_nothing_afterwards() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let new = ["session", "new", "--name", "s", "--parties", "3", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place].concat());
    let made = host.line();
    let code = made["code"].as_str().unwrap().to_owned();
    assert!(made["link"].as_str().unwrap().starts_with("junto:"));

    // What is no code at all costs nothing, and neither does one for a relay that is not named.
    let (number, _) = code.split_once('-').unwrap();
    for (no_code, place) in [
        (format!("{number}-crossover-clockwerk"), &place[..]),
        (format!("{number}-clockwork-crossover"), &place[..]),
        (code.clone(), &[]),
    ] {
        let refused = stage.run("p2", &[&["session", "join", &no_code], place].concat());
        refused.failed(2);
    }

    let join = join(&code, &address);
    let [second, third] = ["p2", "p3"].map(|profile| stage.start(profile, &join));
    let formed = wait_all(vec![host, second, third]);
    agreed(&formed, "safety_code");

    let late = stage.run("p4", &join);
    late.failed(5);
}

#[test]
fn a_wrong_code_ends_the_code_on_both_sides_and_a_new_one_can_be_had() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let new = ["session", "new", "--name", "s", "--parties", "2", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();

    // A guesser with three guesses.
    let wrong = guess(&code);
    for _ in 0..3 {
        let guessed = stage.run("p3", &join(&wrong, &address));
        guessed.failed(5);
    }
    let ended = host.wait();
    let error = ended.failed(5);
    assert!(error["message"].as_str().unwrap().contains("wrong code"));
    // The right code is dead as well.
    stage.run("p2", &join(&code, &address)).failed(5);
    let listed = stage.run("p2", &["session", "list"]);
    assert_eq!(listed.ok()["sessions"].as_array().unwrap().len(), 0);

    let mut host = stage.start("p1", &["session", "wait", "s", "--code"]);
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let joiner = stage.start("p2", &join(&code, &address));
    agreed(&wait_all(vec![host, joiner]), "safety_code");
    // Nobody is missing, and only the host could give one.
    stage
        .run("p1", &["session", "wait", "s", "--code"])
        .failed(2);
    stage
        .run("p2", &["session", "wait", "s", "--code"])
        .failed(2);
}

#[test]
fn a_program_runs_between_parties_that_met_by_a_code() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let program = ["--", "sh", "-c", "test {n} = 2"];
    let new = ["run", "--new", "2", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place, &program].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let join = ["run", "--join", &code];
    let joiner = stage.start("p2", &[&join[..], &place, &program].concat());
    for ended in wait_all(vec![host, joiner]) {
        assert_eq!(ended.ok()["program"]["exit_code"], 0);
    }
    let session = ["run", "--session", "run", "--code"];
    stage
        .run("p1", &[&session[..], &program].concat())
        .failed(2);
}

/// Waits until a profile has been given the link, and kills its process there and then.
fn killed_with_the_link(stage: &Stage, profile: &str, process: Process) {
    let kept = stage.path(profile).join("codes");
    let end = Instant::now() + Duration::from_secs(60);
    while !kept.exists() {
        assert!(Instant::now() < end, "no link");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(process.kill());
}

#[test]
fn a_joiner_killed_with_the_link_in_its_hands_goes_on_by_the_same_code() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let new = ["session", "new", "--name", "s", "--parties", "3", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let join = join(&code, &address);
    killed_with_the_link(&stage, "p2", stage.start("p2", &join));
    // The code is for two: whoever came twice took one place of it.
    let second = stage.start("p2", &join);
    let third = stage.start("p3", &join);
    agreed(&wait_all(vec![host, second, third]), "safety_code");
    // Again, when all is over: it is the session that it was. For whoever was not there the code is dead.
    let again = stage.run("p2", &join);
    assert_eq!(again.ok()["state"], "formed");
    assert!(again.stderr.contains("used this code already"));
    stage.run("p4", &join).failed(5);
    let listed = stage.run("p2", &["session", "list"]);
    assert_eq!(listed.ok()["sessions"].as_array().unwrap().len(), 1);
}

#[test]
fn a_run_killed_with_the_link_in_its_hands_goes_on_by_the_same_code() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let program = ["--", "sh", "-c", "test {n} = 2"];
    let new = ["run", "--new", "2", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place, &program].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let join = [&["run", "--join", &code], &place[..], &program].concat();
    killed_with_the_link(&stage, "p2", stage.start("p2", &join));
    let joiner = stage.start("p2", &join);
    for ended in wait_all(vec![host, joiner]) {
        assert_eq!(ended.ok()["program"]["exit_code"], 0);
    }
}

#[test]
fn a_code_on_another_relay_than_the_one_to_receive_on() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let (_meeting, meeting) = stage.relay_in("meeting");
    let place = [
        "--relay",
        address.as_str(),
        "--code-relay",
        meeting.as_str(),
    ];
    let new = ["session", "new", "--parties", "2", "--code"];
    let mut host = stage.start("p1", &[&new[..], &place].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let join = ["session", "join", &code];
    // There is no such code on the other one.
    let elsewhere = [&join[..], &["--relay", &address]].concat();
    stage.run("p2", &elsewhere).failed(5);
    let joiner = stage.start("p2", &[&join[..], &place].concat());
    agreed(&wait_all(vec![host, joiner]), "safety_code");
}

#[test]
fn contacts_connect_by_a_code() {
    let stage = Stage::new();
    let (_relay, address) = stage.relay();
    let place = ["--relay", address.as_str()];
    let invite = ["contact", "invite", "--name", "bob", "--code"];
    let mut host = stage.start("ada", &[&invite[..], &place].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let connect = ["connect", &code, "--name", "ada"];
    let joiner = stage.start("bob", &[&connect[..], &place].concat());
    for ended in wait_all(vec![host, joiner]) {
        assert_eq!(ended.ok()["state"], "connected");
    }

    // The same command again takes no other's place.
    let again = stage.run("bob", &[&connect[..], &place].concat());
    assert_eq!(again.ok()["state"], "connected");

    // A code for one thing is not taken for another, and says so.
    let invite = ["contact", "invite", "--name", "carol", "--code"];
    let mut host = stage.start("ada", &[&invite[..], &place].concat());
    let code = host.line()["code"].as_str().unwrap().to_owned();
    let error = stage.run("carol", &join(&code, &address));
    let error = error.failed(2);
    assert!(error["help"].as_str().unwrap().contains("junto connect"));
    host.kill();
}
