//! Real processes for the end-to-end tests: relays and parties, each with a folder of its own, ended by their own id.
#![allow(dead_code)] // each test file uses a part of it

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A folder for one test, and the processes in it.
pub struct Stage {
    pub dir: tempfile::TempDir,
}

/// A running `junto`.
pub struct Process {
    name: String,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub lines: Vec<Value>,
    pub stderr: String,
}

impl Ended {
    /// The last JSON object; the process must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> &Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.lines.last().expect("a result on stdout")
    }
}

impl Stage {
    pub fn new() -> Self {
        Stage {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn command(&self, profile: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_junto"));
        command
            .arg("--profile")
            .arg(self.path(profile))
            .arg("--json")
            .args(arguments)
            .env_remove("JUNTO_PROFILE")
            .env_remove("JUNTO_PASSPHRASE_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a process.
    pub fn start(&self, profile: &str, arguments: &[&str]) -> Process {
        let mut child = self.command(profile, arguments).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Process {
            name: format!("{profile}: {arguments:?}"),
            child,
            stdout,
        }
    }

    /// Runs a process to its end.
    pub fn run(&self, profile: &str, arguments: &[&str]) -> Ended {
        self.start(profile, arguments).wait()
    }

    /// Makes a relay's folder and starts it; gives its process and address.
    pub fn relay(&self) -> (Process, String) {
        let dir = self.path("relay");
        let dir = dir.to_str().unwrap();
        self.run(
            "operator",
            &[
                "relay",
                "init",
                "--dir",
                dir,
                "--host",
                "127.0.0.1",
                "--port",
                &free_port().to_string(),
            ],
        )
        .ok();
        self.restart_relay()
    }

    /// Starts the relay again on its old folder and port.
    pub fn restart_relay(&self) -> (Process, String) {
        let dir = self.path("relay");
        let mut relay = self.start(
            "operator",
            &["relay", "start", "--dir", dir.to_str().unwrap()],
        );
        let line = relay.line();
        let address = line["address"]
            .as_str()
            .unwrap_or_else(|| panic!("no address: {line}"))
            .to_owned();
        (relay, address)
    }

    /// Forms a session of the parties p1 … pn; gives each one's last line.
    pub fn session(&self, relay: &str, parties: usize) -> Vec<Value> {
        let mut host = self.start(
            "p1",
            &[
                "session",
                "new",
                "--name",
                "s",
                "--parties",
                &parties.to_string(),
                "--relay",
                relay,
            ],
        );
        let link = host.line()["link"].as_str().unwrap().to_owned();
        let mut all = vec![host];
        for party in 2..=parties {
            all.push(self.start(&format!("p{party}"), &["session", "join", &link]));
        }
        wait_all(all)
            .iter()
            .map(|ended| ended.ok().clone())
            .collect()
    }
}

/// Waits for processes that run at the same time.
pub fn wait_all(processes: Vec<Process>) -> Vec<Ended> {
    let threads: Vec<_> = processes
        .into_iter()
        .map(|process| std::thread::spawn(move || process.wait()))
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect()
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
    /// The next line of stdout.
    #[track_caller]
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut stderr = String::new();
            self.child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut stderr)
                .unwrap();
            panic!("{} printed nothing; stderr: {stderr}", self.name);
        }
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name))
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, to this process alone.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.id().to_string())
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end.
    pub fn wait(mut self) -> Ended {
        let mut pipe = self.child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut stderr = String::new();
            let _ = pipe.read_to_string(&mut stderr);
            stderr
        });
        let lines = (&mut self.stdout)
            .lines()
            .map(|line| line.unwrap())
            .map(|line| serde_json::from_str(&line).unwrap_or(Value::String(line)))
            .collect();
        let code = self.child.wait().unwrap().code();
        Ended {
            code,
            lines,
            stderr: errors.join().unwrap(),
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

/// Writes a file below the stage and gives its path as text.
pub fn file(dir: &Path, name: &str, content: &[u8]) -> String {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}
