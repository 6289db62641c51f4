//! The guides in `docs/guides/`, followed to the letter: each block of commands runs as it stands there, by the parties that its first line
//! names. Only what a reader replaces is replaced: the relay's address, the link, the safety code, the public key and the signature.

#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use stage::Stage;

/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(120);

const ADDRESS: &str = "smp://FINGERPRINT@relay.example.org";
const OTHER_ADDRESS: &str = "smp://FINGERPRINT@relay.example.net";
const LINK: &str = "junto:…";
const CONTACT_LINK: &str = "simplex:/i#…";
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
    /// What programs wrote on their standard outputs.
    outputs: Mutex<Vec<String>>,
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
        } else if line.starts_with("simplex:/i#") {
            self.tell(CONTACT_LINK, line);
        } else if let Some(code) = line.strip_prefix("safety code  ") {
            let code = code.split("  ").next().unwrap();
            self.tell(CODE, code);
        } else if let Some((_, code)) = line.split_once(". Safety code ") {
            let (code, _) = code.split_once(" (").unwrap();
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
        for what in [
            ADDRESS,
            OTHER_ADDRESS,
            LINK,
            CONTACT_LINK,
            CODE,
            PUBLIC_KEY,
            SIGNATURE,
        ] {
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

/// Lets the parties read what comes, and keeps it.
fn read(from: impl Read, told: &Told) -> String {
    let mut all = String::new();
    for line in BufReader::new(from).lines() {
        let line = line.unwrap();
        told.read(&line);
        all.push_str(&line);
        all.push('\n');
    }
    all
}

/// One party does what the guide tells it, block after block.
fn follow(home: &Path, blocks: &[&Block], told: &Told) {
    for block in blocks {
        let commands = told.replace(&block.commands);
        let mut shell = shell(home, &commands);
        let stdout = shell.0.stdout.take().unwrap();
        let stderr = shell.0.stderr.take().unwrap();
        let errors = std::thread::scope(|scope| {
            let errors = scope.spawn(|| read(stderr, told));
            let output = read(stdout, told);
            told.outputs.lock().unwrap().push(output);
            errors.join().unwrap()
        });
        let ended = shell.0.wait().unwrap();
        assert!(ended.success(), "{commands}\n{errors}");
    }
}

/// The parties do what the guide tells them, at the same time, after a relay was made as it says. `prepare` gives each party what it has.
fn follow_all(blocks: &[Block], parties: &[&str], prepare: impl Fn(&Path)) -> Told {
    let stage = Stage::new();
    assert_relay(blocks);
    let (_relay, address) = stage.relay();
    let told = Told::default();
    told.tell(ADDRESS, &address);
    follow_on(&stage, blocks, parties, &told, prepare);
    told
}

/// A relay is made as the guide says, but for a host and a port that this machine has.
fn assert_relay(blocks: &[Block]) {
    let expected = "junto relay init --dir my-relay --host relay.example.org\n\
                    junto relay start --dir my-relay";
    let relay = blocks.iter().find(|block| block.parties == ["relay"]);
    assert_eq!(relay.unwrap().commands, expected);
}

/// The same with relays that are there.
fn follow_on(
    stage: &Stage,
    blocks: &[Block],
    parties: &[&str],
    told: &Told,
    prepare: impl Fn(&Path),
) {
    std::thread::scope(|scope| {
        for party in parties {
            let home = stage.path(party);
            std::fs::create_dir(&home).unwrap();
            prepare(&home);
            let mine = |block: &&Block| block.parties.iter().any(|it| it == *party);
            let mine: Vec<_> = blocks.iter().filter(mine).collect();
            assert!(mine.len() >= 2, "{party}");
            scope.spawn(move || follow(&home, &mine, told));
        }
    });
}

#[test]
fn sign_with_two_of_three() {
    let blocks = blocks(include_str!("../../../docs/guides/sign.md"));
    let told = follow_all(&blocks, &["alice", "bob", "carol"], |home| {
        std::fs::write(home.join("payment.txt"), "42 for Dave").unwrap();
    });
    let facts = told.facts.lock().unwrap();
    assert_eq!(facts.len(), 5, "{facts:?}");
}

/// The environment with MPyC that the tests of `junto run` use as well; none where it cannot be had.
fn mpyc() -> Option<PathBuf> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/run/environment.sh"
    );
    let made = Command::new(script).arg("mpyc").output();
    let trouble = match made {
        Ok(made) if made.status.success() => {
            return Some(PathBuf::from(
                String::from_utf8(made.stdout).unwrap().trim(),
            ));
        }
        Ok(made) => String::from_utf8_lossy(&made.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    assert!(std::env::var_os("JUNTO_CI").is_none(), "{trouble}");
    let _ = writeln!(
        std::io::stderr(),
        "skipped, as MPyC cannot be installed here: {trouble}"
    );
    None
}

#[test]
fn run_an_mpyc_program_with_friends() {
    const GUIDE: &str = include_str!("../../../docs/guides/mpyc.md");
    let Some(venv) = mpyc() else {
        return;
    };
    let mut blocks = blocks(GUIDE);
    // It is made once for all tests, by the same commands.
    let install = blocks.remove(0);
    let expected = "python3 -m venv venv\nvenv/bin/pip install mpyc";
    assert_eq!(install.commands, expected);
    let (_, program) = GUIDE.split_once("```python santa.py\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let told = follow_all(&blocks, &["alice", "bob", "carol"], |home| {
        std::fs::write(home.join("santa.py"), program).unwrap();
        std::os::unix::fs::symlink(&venv, home.join("venv")).unwrap();
    });
    let facts = told.facts.lock().unwrap();
    assert_eq!(facts.len(), 3, "{facts:?}");
    // Twice, each gives to another one, and each gets from one.
    let outputs = told.outputs.lock().unwrap().concat();
    let mut gifts = Vec::new();
    for line in outputs.lines().filter(|line| line.starts_with("You are")) {
        let numbers = line.split(|it: char| !it.is_ascii_digit());
        let numbers: Vec<u8> = numbers.filter_map(|it| it.parse().ok()).collect();
        assert!(numbers.len() == 2 && numbers[0] != numbers[1], "{line}");
        gifts.push(numbers);
    }
    for of in [0, 1] {
        let mut parties: Vec<_> = gifts.iter().map(|gift| gift[of]).collect();
        parties.sort_unstable();
        assert_eq!(parties, [0, 0, 1, 1, 2, 2], "{outputs}");
    }
}

#[test]
fn talk_over_a_simplex_server() {
    let blocks = blocks(include_str!("../../../docs/guides/simplex.md"));
    let told = follow_all(&blocks, &["alice", "bob"], |_| {});
    let facts = told.facts.lock().unwrap();
    assert_eq!(facts.len(), 2, "{facts:?}");
    let outputs = told.outputs.lock().unwrap().concat();
    for said in [
        "alice: hello\n",
        "bob: hello yourself\n",
        "you receive on another queue now",
        "alice: moved\n",
    ] {
        assert!(outputs.contains(said), "{said}: {outputs}");
    }
}

#[test]
fn relays_of_others_do_not_see_where_one_is() {
    const GUIDE: &str = include_str!("../../../docs/guides/routing.md");
    let blocks = blocks(GUIDE);
    assert_relay(&blocks);
    let stage = Stage::new();
    let told = Told::default();
    let relays = [(ADDRESS, "first"), (OTHER_ADDRESS, "second")].map(|(what, folder)| {
        let (relay, address) = stage.open_relay(folder);
        told.tell(what, &address);
        relay
    });
    follow_on(&stage, &blocks, &["alice", "bob"], &told, |_| {});
    let outputs = told.outputs.lock().unwrap().concat();
    let facts = told.facts.lock().unwrap();
    for said in ["alice: hello\n", "bob: hello yourself\n"] {
        assert!(outputs.contains(said), "{said}: {outputs}");
    }
    // Each relay: for who receives there, and for the other one.
    for relay in [&facts[ADDRESS], &facts[OTHER_ADDRESS]] {
        let shown = outputs.split_once(&format!("relay        {relay}\n"));
        assert!(shown.is_some(), "{outputs}");
    }
    let hidden = "sees queues that you send to; your relay's network address, not yours\n";
    assert_eq!(outputs.matches(hidden).count(), 2, "{outputs}");
    let seen = "sees queues that you send to; your network address\n";
    assert_eq!(outputs.matches(seen).count(), 1, "{outputs}");
    drop(relays);

    // The settings: those of a new profile, and others that one takes.
    let settings: Vec<_> = GUIDE.split("```toml\n").skip(1).collect();
    let toml = stage.path("alice").join("profile").join("profile.toml");
    let made = std::fs::read_to_string(&toml).unwrap();
    for line in settings[0].lines().take_while(|line| *line != "```") {
        assert!(made.lines().any(|it| it == line), "{line}");
    }
    let (others, _) = settings[1].split_once("```").unwrap();
    std::fs::write(&toml, others).unwrap();
    stage.run("alice/profile", &["session", "list"]).ok();
    // What the guide quotes is what is said.
    assert!(GUIDE.contains("which refuses to pass anything on to it"));
}

#[test]
fn a_profile_comes_back_with_its_pin() {
    let blocks = blocks(include_str!("../../../docs/guides/vault.md"));
    let of = |party: &str| -> Vec<&Block> {
        let is = |block: &&Block| block.parties == [party];
        blocks.iter().filter(is).collect()
    };
    let stage = Stage::new();
    let home = stage.path("carol");
    std::fs::create_dir(&home).unwrap();
    let realms: Vec<_> = of("realms")[0].commands.split(' ').collect();
    assert_eq!(realms[0], "junto");
    let mut command = stage.command("operator", &realms[1..]);
    command.current_dir(&home);
    let mut realms = stage::Process::spawn(command, "realms".to_owned());
    assert_eq!(realms.line()["trial"], true);
    let told = Told::default();
    follow(&home, &of("carol"), &told);
    let outputs = told.outputs.lock().unwrap().concat();
    for said in [
        "5 guesses are left",
        "sessions. 5 guesses are left",
        "TRIAL",
        "3 realms erased",
    ] {
        assert!(outputs.contains(said), "{said}: {outputs}");
    }
    drop(realms.kill());
}
