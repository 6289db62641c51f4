//! The guides in `docs/guides/`, followed to the letter: each block of commands runs as it stands there, by the parties that its first line
//! names. Only what a reader replaces is replaced: the relay's address, the link, the safety code, the public key and the signature.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use stage::Stage;

/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

const ADDRESS: &str = "smp://FINGERPRINT@relay.example.org";
const LINK: &str = "junto:…";
const CODE: &str = "12345 67890 …";
const PUBLIC_KEY: &str = "PUBLIC_KEY";
const SIGNATURE: &str = "SIGNATURE";

/// What a guide says to type, and who does.
struct Block {
    parties: Vec<String>,
    commands: String,
}

fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(parties) = line.strip_prefix("```sh ") else {
            continue;
        };
        let commands: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block {
            parties: parties.split(' ').map(str::to_owned).collect(),
            commands: commands.join("\n"),
        });
    }
    blocks
}

/// What the parties read on their screens and tell each other.
#[derive(Default)]
struct Told {
    facts: Mutex<BTreeMap<&'static str, String>>,
    news: Condvar,
}

impl Told {
    fn tell(&self, what: &'static str, value: &str) {
        let mut facts = self.facts.lock().unwrap();
        let known = facts.entry(what).or_insert_with(|| value.to_owned());
        assert_eq!(known, value, "two parties see a different {what}");
        self.news.notify_all();
    }

    fn read(&self, line: &str) {
        let hex = |text: &&str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if line.starts_with("junto:") {
            self.tell(LINK, line);
        } else if let Some(code) = line.strip_prefix("safety code  ") {
            let code = code.split("  ").next().unwrap();
            self.tell(CODE, code);
        } else if let Some(key) = line.strip_prefix("public key  ") {
            self.tell(PUBLIC_KEY, key);
        } else if line.len() == 192 && hex(&line) {
            self.tell(SIGNATURE, line);
        }
    }

    /// The commands, with what the reader replaces.
    fn replace(&self, commands: &str) -> String {
        let mut commands = commands.to_owned();
        for what in [ADDRESS, LINK, CODE, PUBLIC_KEY, SIGNATURE] {
            if !commands.contains(what) {
                continue;
            }
            let facts = self.facts.lock().unwrap();
            let lacks = |facts: &mut BTreeMap<_, _>| !facts.contains_key(what);
            let (facts, _) = self
                .news
                .wait_timeout_while(facts, PATIENCE, lacks)
                .unwrap();
            let fact = facts.get(what);
            let fact = fact.unwrap_or_else(|| panic!("nobody was told: {what}"));
            commands = commands.replace(what, fact);
        }
        commands
    }
}

/// Ends with the test, however that ends.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn shell(home: &Path, commands: &str) -> Shell {
    let junto = Path::new(env!("CARGO_BIN_EXE_junto")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let child = Command::new("sh")
        .args(["-e", "-c", commands])
        .current_dir(home)
        .env("PATH", format!("{}:{path}", junto.display()))
        .env("JUNTO_PROFILE", home.join("profile"))
        .env_remove("JUNTO_PASSPHRASE_FILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    Shell(child.unwrap())
}

/// One party does what the guide tells it, block after block.
fn follow(home: &Path, blocks: &[&Block], told: &Told) {
    for block in blocks {
        let commands = told.replace(&block.commands);
        let mut shell = shell(home, &commands);
        let mut errors = shell.0.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text)
        });
        for line in BufReader::new(shell.0.stdout.take().unwrap()).lines() {
            told.read(&line.unwrap());
        }
        let ended = shell.0.wait().unwrap();
        let errors = errors.join().unwrap().unwrap();
        assert!(ended.success(), "{commands}\n{errors}");
    }
}

#[test]
fn sign_with_two_of_three() {
    let guide = include_str!("../../../docs/guides/sign.md");
    let blocks = blocks(guide);
    let stage = Stage::new();
    // As the guide says, but for a host and a port that this machine has.
    let expected = "junto relay init --dir my-relay --host relay.example.org\n\
                    junto relay start --dir my-relay";
    assert_eq!(blocks[0].parties, ["relay"]);
    assert_eq!(blocks[0].commands, expected);
    let (_relay, address) = stage.relay();
    let told = Told::default();
    told.tell(ADDRESS, &address);
    std::thread::scope(|scope| {
        for party in ["alice", "bob", "carol"] {
            let home = stage.path(party);
            std::fs::create_dir(&home).unwrap();
            std::fs::write(home.join("payment.txt"), "42 for Dave").unwrap();
            let mine = |block: &&Block| block.parties.iter().any(|it| it == party);
            let mine: Vec<_> = blocks.iter().filter(mine).collect();
            assert!(mine.len() >= 4, "{party}");
            let told = &told;
            scope.spawn(move || follow(&home, &mine, told));
        }
    });
    let facts = told.facts.lock().unwrap();
    assert_eq!(facts.len(), 5, "{facts:?}");
}
