//! A relay in a process of its own.
//!
//! The process is the test program again. Each test file that uses it has an ignored test with the
//! name `relay_process`, which calls [`serve`].

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use junto_smp::address::ServerAddress;

use super::lasting::open;

const CHILD_DIR: &str = "JUNTO_TEST_RELAY_DIR";

/// A relay in a process of its own, which `kill -9` ends.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: ServerAddress,
    /// Kept open: after a minute the test program says that it runs long, and would die of it if
    /// nobody could hear.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn spawn(dir: &Path) -> Child {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay_process", "--ignored", "--nocapture"])
            .env(CHILD_DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn start(dir: &Path) -> Self {
        let mut child = Self::spawn(dir);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line[line.find("smp://")?..].parse().unwrap()))
            .expect("the relay process did not start");
        Self {
            child,
            address,
            _output: lines,
        }
    }

    /// Starts one, and kills it after `delay`, wherever it is then.
    pub(crate) fn start_and_kill(dir: &Path, delay: Duration) {
        let mut child = Self::spawn(dir);
        std::thread::sleep(delay);
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
    runtime.block_on(async {
        let mut relay = open(&dir).await.unwrap();
        let mut out = std::io::stdout();
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
