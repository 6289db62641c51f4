//! A relay in a process of its own.
//!
//! The process is the test program again. Each test file that uses it has an ignored test with the
//! name `relay_process`, which calls [`serve`].

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use junto_smp::address::ServerAddress;

use super::lasting::{open, segments};

const CHILD_DIR: &str = "JUNTO_TEST_RELAY_DIR";
/// What the process says before it opens its folder.
const BEGUN: &str = "opens its folder";
/// Generous: only a process that hangs reaches it.
const HANGS: Duration = Duration::from_secs(120);

/// A relay in a process of its own, which `kill -9` ends.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: ServerAddress,
}

/// What a process has got to.
#[derive(Clone, Copy)]
pub(crate) enum Moment {
    /// It is about to read its journal.
    Begun,
    /// It writes the journal anew.
    Writing,
}

impl Process {
    /// The process, and what it says; all of it is taken, also when nobody wants it any more: after a
    /// minute the test program says that it runs long, and would die of it if nobody could hear.
    fn spawn(dir: &Path) -> (Child, Receiver<String>) {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay_process", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (said, heard) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        (child, heard)
    }

    pub(crate) fn start(dir: &Path) -> Self {
        let (child, heard) = Self::spawn(dir);
        let until = Instant::now() + HANGS;
        let address = loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = heard.recv_timeout(left);
            let line = line.expect("the relay process did not start");
            if let Some(at) = line.find("smp://") {
                break line[at..].parse().unwrap();
            }
        };
        Self { child, address }
    }

    /// Starts one, and kills it as soon as it has got to `moment`, or beyond.
    pub(crate) fn start_and_kill(dir: &Path, moment: Moment) {
        let before = segments(dir);
        let (mut child, heard) = Self::spawn(dir);
        let until = Instant::now() + HANGS;
        let mut begun = false;
        while !begun || (matches!(moment, Moment::Writing) && segments(dir) == before) {
            assert!(Instant::now() < until, "the relay process hangs");
            let line = heard.recv_timeout(Duration::from_micros(100));
            begun |= line.is_ok_and(|line| line.contains(BEGUN));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL: nothing of the process gets to run any more.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its resident memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Its open sockets.
    pub(crate) fn sockets(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// Serves the folder that [`Process`] named, until its parent is gone.
pub(crate) fn serve() {
    let dir = PathBuf::from(std::env::var_os(CHILD_DIR).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\n{BEGUN}").unwrap();
    runtime.block_on(async {
        let mut relay = open(&dir).await.unwrap();
        writeln!(out, "\n{}", relay.address()).unwrap();
        out.flush().unwrap();
        // Ends with its parent.
        tokio::task::spawn_blocking(|| {
            let _ = std::io::stdin().lines().count();
            std::process::exit(0);
        });
        relay.ended().await.unwrap();
    });
}
