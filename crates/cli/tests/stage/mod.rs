//! Real processes for the end-to-end tests: relays and parties, each with a folder of its own, ended by their own id.
//!
//! Nothing here sleeps for luck: a test waits for a line or for an end, and [`DEADLINE`] only turns a hang into a failure.
#![allow(dead_code)] // each test file uses a part of it
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

#[cfg(unix)]
pub(crate) mod daemon;
pub(crate) mod gate;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Whatever takes longer hangs: far more than anything here needs on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A folder for one test, and the processes in it. `JUNTO_KEEP=1` keeps it when the test fails.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
}

/// A running `junto`.
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    /// What it has said on stderr so far.
    logged: Arc<Mutex<String>>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) code: Option<i32>,
    pub(crate) lines: Vec<Value>,
    pub(crate) stderr: String,
}

impl Ended {
    /// The last JSON object; the process must have succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> &Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.lines.last().expect("a result on stdout")
    }

    /// The error; the process must have failed with this exit code, and have said the same as JSON.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32) -> &Value {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let error = &self.lines.last().expect("an error on stdout")["error"];
        assert_eq!(error["exit_code"], code, "{self:#?}");
        let message = error["message"].as_str().expect("a message");
        assert!(
            self.stderr.contains(message),
            "people see less than programs: {self:#?}"
        );
        error
    }

    /// A text of the result.
    #[track_caller]
    pub(crate) fn text(&self, field: &str) -> String {
        let value = self.ok()[field].as_str();
        value
            .unwrap_or_else(|| panic!("no {field}: {self:#?}"))
            .to_owned()
    }
}

/// The value of `field` in all results, which must be the same.
#[track_caller]
pub(crate) fn agreed(all: &[Ended], field: &str) -> String {
    let values: Vec<String> = all.iter().map(|ended| ended.text(field)).collect();
    assert!(
        values.iter().all(|value| *value == values[0]),
        "{field}: {values:?}"
    );
    values[0].clone()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("JUNTO_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept {}", self.dir.path().display());
        }
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Stage {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file of this stage and its path as text.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        file(self.dir.path(), name, content)
    }

    pub(crate) fn command(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_junto"));
        self.dress(&mut command, profile, arguments);
        command
    }

    fn dress(&self, command: &mut Command, profile: &str, arguments: &[&str]) {
        command.arg("--json");
        self.dress_for_people(command, profile, arguments);
    }

    fn dress_for_people(&self, command: &mut Command, profile: &str, arguments: &[&str]) {
        command
            .arg("--profile")
            .arg(self.path(profile))
            .args(arguments)
            .env_remove("JUNTO_PROFILE")
            .env_remove("JUNTO_PASSPHRASE_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
    }

    /// Starts a process.
    pub(crate) fn start(&self, profile: &str, arguments: &[&str]) -> Process {
        Process::spawn(self.command(profile, arguments), title(profile, arguments))
    }

    /// Starts a process whose standard input stays open until [`Process::end_input`].
    pub(crate) fn start_with_input(&self, profile: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(profile, arguments);
        command.stdin(Stdio::piped());
        Process::spawn(command, title(profile, arguments))
    }

    /// Starts a process for which a file ends after so many KiB: the write fails, as on a full disk.
    #[cfg(unix)]
    pub(crate) fn start_with_small_files(
        &self,
        kib: u64,
        profile: &str,
        arguments: &[&str],
    ) -> Process {
        let mut command = Command::new("sh");
        // The units of `ulimit -f` are 512 bytes. Without the trap the first write beyond is a death by SIGXFSZ.
        command
            .arg("-c")
            .arg(format!(
                "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
                kib * 2
            ))
            .arg(env!("CARGO_BIN_EXE_junto"));
        self.dress(&mut command, profile, arguments);
        Process::spawn(command, title(profile, arguments))
    }

    /// Runs a process to its end.
    pub(crate) fn run(&self, profile: &str, arguments: &[&str]) -> Ended {
        self.start(profile, arguments).wait()
    }

    /// Runs a process that prints for people: what it says on stdout, as texts, and on stderr.
    pub(crate) fn run_for_people(&self, profile: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_junto"));
        self.dress_for_people(&mut command, profile, arguments);
        Process::spawn(command, title(profile, arguments)).wait()
    }

    /// Runs a process with this on its standard input.
    pub(crate) fn run_with_input(&self, profile: &str, arguments: &[&str], input: &[u8]) -> Ended {
        let mut process = self.start_with_input(profile, arguments);
        process.say(input);
        process.end_input();
        process.wait()
    }

    /// Makes a relay's folder and starts it; gives its process and address.
    pub(crate) fn relay(&self) -> (Process, String) {
        self.relay_in("relay")
    }

    /// The same in another folder, for tests with several relays.
    pub(crate) fn relay_in(&self, folder: &str) -> (Process, String) {
        // Another process may take a port that was free a moment ago: choose again.
        for _ in 0..5 {
            let port = free_port().to_string();
            let dir = self.path(folder);
            let arguments = ["--dir", dir.to_str().unwrap(), "--host", "127.0.0.1"];
            let init = [&["relay", "init"], &arguments[..], &["--port", &port]].concat();
            self.run("operator", &init).ok();
            let mut relay = self.start(
                "operator",
                &["relay", "start", "--dir", dir.to_str().unwrap()],
            );
            if let Some(address) = relay.line()["address"].as_str() {
                return (relay, address.to_owned());
            }
            std::fs::remove_dir_all(dir).unwrap();
        }
        panic!("no free port");
    }

    /// A relay that may connect to others on this machine, and its address by a name: an address of loopback
    /// counts as private and is reached directly.
    pub(crate) fn open_relay(&self, folder: &str) -> (Process, String) {
        let (relay, address) = self.relay_in(folder);
        relay.kill();
        let dir = self.path(folder);
        let toml = dir.join("relay.toml");
        let settings = std::fs::read_to_string(&toml).unwrap();
        let mut open = settings;
        for refusal in ["allow_private", "allow_own"] {
            let closed = format!("# {refusal} = false");
            assert!(open.contains(&closed), "no {closed}");
            open = open.replace(&closed, &format!("{refusal} = true"));
        }
        std::fs::write(&toml, open).unwrap();
        let start = ["relay", "start", "--dir", dir.to_str().unwrap()];
        let mut relay = self.start("operator", &start);
        assert!(relay.line()["address"].is_string());
        (relay, address.replace("127.0.0.1", "localhost"))
    }

    /// Starts the relay again on its old folder and port.
    pub(crate) fn restart_relay(&self) -> Process {
        self.restart_relay_in("relay")
    }

    /// The same of one in another folder.
    pub(crate) fn restart_relay_in(&self, folder: &str) -> Process {
        let dir = self.path(folder);
        let mut relay = self.start(
            "operator",
            &["relay", "start", "--dir", dir.to_str().unwrap()],
        );
        let line = relay.line();
        assert!(line["address"].is_string(), "{line}");
        relay
    }

    /// Makes `alice` and `bob` contacts of each other, under these names.
    pub(crate) fn contacts(&self, relay: &str) {
        let invite = ["contact", "invite", "--name", "bob", "--relay", relay];
        let mut alice = self.start("alice", &invite);
        let link = alice.link();
        let connect = ["connect", &link, "--name", "alice", "--relay", relay];
        self.run("bob", &connect).ok();
        alice.wait().ok();
    }

    /// Copies a profile that no process uses, over whatever is there.
    pub(crate) fn copy_profile(&self, from: &str, to: &str) {
        let (from, to) = (self.path(from), self.path(to));
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    }

    /// The host `p1` of a session `s`, and its link.
    pub(crate) fn host(&self, relay: &str, parties: usize) -> (Process, String) {
        let parties = parties.to_string();
        let mut host = self.start(
            "p1",
            &[
                "session",
                "new",
                "--name",
                "s",
                "--parties",
                &parties,
                "--relay",
                relay,
            ],
        );
        let link = host.link();
        (host, link)
    }

    /// Forms a session `s` of the parties p1 … pn; gives each one's last line.
    pub(crate) fn session(&self, relay: &str, parties: usize) -> Vec<Value> {
        let (host, link) = self.host(relay, parties);
        let mut all = vec![host];
        for party in 2..=parties {
            all.push(self.start(&format!("p{party}"), &["session", "join", &link]));
        }
        wait_all(all)
            .iter()
            .map(|ended| ended.ok().clone())
            .collect()
    }

    /// The same command by several parties at the same time.
    pub(crate) fn all(&self, profiles: &[&str], arguments: &[&str]) -> Vec<Ended> {
        let all = profiles
            .iter()
            .map(|profile| self.start(profile, arguments));
        wait_all(all.collect())
    }
}

/// Waits for processes that run at the same time.
pub(crate) fn wait_all(processes: Vec<Process>) -> Vec<Ended> {
    // One after the other will do: each has threads that read what it prints.
    processes.into_iter().map(Process::wait).collect()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

impl Process {
    pub(crate) fn spawn(mut command: Command, name: String) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut pipe = BufReader::new(child.stderr.take().unwrap());
        let logged = Arc::new(Mutex::new(String::new()));
        let log = Arc::clone(&logged);
        let stderr = std::thread::spawn(move || {
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                log.lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
            log.lock().unwrap().clone()
        });
        Process {
            name,
            stdin: child.stdin.take(),
            child,
            lines,
            stderr: Some(stderr),
            logged,
        }
    }

    /// The next line of stdout; `None` at its end.
    #[track_caller]
    pub(crate) fn next_line(&mut self) -> Option<Value> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(self.parse(&line)),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.child.kill().unwrap();
                let stderr = self.stderr.take().unwrap().join().unwrap();
                panic!(
                    "{} said nothing for {DEADLINE:?}; stderr: {stderr}",
                    self.name
                );
            }
        }
    }

    #[track_caller]
    fn parse(&self, line: &str) -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name))
    }

    /// The next line of stdout; there must be one.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Value {
        match self.next_line() {
            Some(line) => line,
            None => {
                let stderr = self.stderr.take().unwrap().join().unwrap();
                panic!("{} ended its output; stderr: {stderr}", self.name);
            }
        }
    }

    /// The next line of stdout, which is no JSON: a program's own.
    #[track_caller]
    pub(crate) fn word(&mut self) -> String {
        self.lines
            .recv_timeout(DEADLINE)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The next line, which must hold a session's link.
    #[track_caller]
    pub(crate) fn link(&mut self) -> String {
        let line = self.line();
        line["link"]
            .as_str()
            .unwrap_or_else(|| panic!("no link: {line}"))
            .to_owned()
    }

    /// Writes to standard input.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("started with input");
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
    }

    /// Closes standard input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// SIGKILL: no chance to tidy up. Gives what it had said.
    pub(crate) fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.end()
    }

    /// SIGKILL after so long, wherever that is; a process that was faster has ended by itself.
    pub(crate) fn kill_after(self, pause: Duration) -> Ended {
        std::thread::sleep(pause);
        self.kill()
    }

    /// Whether it has said so on stderr by now.
    pub(crate) fn has_logged(&self, text: &str) -> bool {
        self.logged.lock().unwrap().contains(text)
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, to this process alone.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let end = Instant::now() + DEADLINE;
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                self.child.kill().unwrap();
                panic!("it hangs: {:#?}", self.end());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end()
    }

    fn end(&mut self) -> Ended {
        let code = self.child.wait().unwrap().code();
        Ended {
            name: self.name.clone(),
            code,
            lines: self
                .lines
                .iter()
                .map(|line| serde_json::from_str(&line).unwrap_or(Value::String(line)))
                .collect(),
            stderr: self
                .stderr
                .take()
                .map_or_else(String::new, |stderr| stderr.join().unwrap()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of a failed test stays behind; an ended process has been waited for.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a failed test calls a process.
fn title(profile: &str, arguments: &[&str]) -> String {
    let short = |argument: &&str| argument.chars().take(60).collect::<String>();
    let arguments: Vec<String> = arguments.iter().map(short).collect();
    format!("{profile}: {}", arguments.join(" "))
}

/// Writes a file below `dir` and gives its path as text.
pub(crate) fn file(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
