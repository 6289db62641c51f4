//! Which way a profile's commands go, and what it is told about that.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are not `#[test]` functions

mod stage;
use std::fs;

use serde_json::{Value, json};
use stage::{Stage, wait_all};

/// Gives a profile a relay of its own.
fn own(stage: &Stage, profile: &str, relay: &str) {
    stage.run(profile, &["session", "list"]).ok();
    let toml = stage.path(profile).join("profile.toml");
    let settings = fs::read_to_string(&toml).unwrap();
    let with = settings.replace("relays = []", &format!("relays = [\"{relay}\"]"));
    assert_ne!(with, settings);
    fs::write(&toml, with).unwrap();
}

fn relays(stage: &Stage, profile: &str, flags: &[&str]) -> Vec<Value> {
    let shown = stage.run(profile, &[flags, &["session", "show", "s"]].concat());
    shown.ok()["relays"].as_array().unwrap().clone()
}

fn of<'a>(all: &'a [Value], relay: &str) -> &'a Value {
    let found = all.iter().find(|view| view["relay"] == relay);
    found.unwrap_or_else(|| panic!("{relay} is not among {all:#?}"))
}

#[test]
fn parties_send_through_their_own_relays_and_are_told_what_each_relay_sees() {
    let stage = Stage::new();
    let (_first, ada) = stage.open_relay("first");
    let (_second, bea) = stage.open_relay("second");
    own(&stage, "p1", &ada);
    own(&stage, "p2", &bea);
    let (host, link) = stage.host(&ada, 2);
    let join = stage.start("p2", &["session", "join", &link]);
    for ended in wait_all(vec![host, join]) {
        ended.ok();
    }

    let hear = stage.start("p1", &["recv", "--session", "s"]);
    stage.run("p2", &["send", "--session", "s", "hello"]).ok();
    assert_eq!(hear.wait().text("text"), "hello");

    let seen = relays(&stage, "p2", &[]);
    assert_eq!(seen.len(), 2, "{seen:#?}");
    let theirs = of(&seen, &ada);
    assert_eq!(theirs["sees_address"], false, "{theirs:#}");
    assert_eq!(theirs["through"], json!([bea]));
    assert_eq!(theirs["receives"], false);
    let ours = of(&seen, &bea);
    assert_eq!(ours["sees_address"], true, "{ours:#}");
    assert_eq!(
        (&ours["receives"], &ours["sends"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(ours["passes_on_to"], json!([ada]));

    // The command line wins over the profile.
    let seen = relays(&stage, "p2", &["--routing", "never"]);
    assert_eq!(of(&seen, &ada)["sees_address"], true);
    assert_eq!(of(&seen, &ada)["through"], json!([]));
}

#[test]
fn a_relay_that_only_tor_knows_needs_a_socks_server() {
    let stage = Stage::new();
    let onion = "smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@twoqvtgzx.onion";
    let new = ["session", "new", "--parties", "2", "--relay", onion];
    for command in [&["relay", "status", onion][..], &new] {
        let ended = stage.run("p", command);
        ended.failed(5);
        assert!(ended.stderr.contains("--socks"), "{}", ended.stderr);
    }
    // Nobody listens there.
    let ended = stage.run("p", &["--socks", "127.0.0.1:1", "relay", "status", onion]);
    let error = ended.failed(3)["message"].as_str().unwrap().to_owned();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn wrong_settings_of_the_way_are_named() {
    let stage = Stage::new();
    let list = ["session", "list"];
    for flags in [["--routing", "sometimes"], ["--socks", "9050"]] {
        let ended = stage.run("p", &[&flags[..], &list].concat());
        assert_eq!(ended.code, Some(2), "{ended:?}");
    }
    stage.run("p", &list).ok();
    let toml = stage.path("p").join("profile.toml");
    let settings = fs::read_to_string(&toml).unwrap();
    for (from, to) in [
        ("socks = \"\"", "socks = \"9050\""),
        ("routing = \"unknown\"", "routing = \"sometimes\""),
        ("relays = []", "relays = [\"relay.example\"]"),
    ] {
        let wrong = settings.replace(&format!("\n{from}"), &format!("\n{to}"));
        assert_ne!(wrong, settings);
        fs::write(&toml, wrong).unwrap();
        stage.run("p", &list).failed(2);
    }
}
