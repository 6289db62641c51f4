//! The processes of a realm, as who started them sees them: they end with it.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::failure::{Context, Failure};

/// Longest wait for one of them to say something.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for one of them to end.
const ENDING: Duration = Duration::from_secs(5);
/// Longest line that one of them says.
const LINE_MAX: u64 = 64 * 1024;

/// A replica's or a frontend's process.
pub(super) struct Running {
    pub(super) child: Child,
    stdin: ChildStdin,
    lines: BufReader<ChildStdout>,
    pub(super) pid: u32,
}

impl Running {
    pub(super) fn start(role: &str, listen: &str) -> Result<Self, Failure> {
        const DOING: &str = "cannot start a process";
        let program = std::env::current_exe().context(DOING)?;
        let mut command = Command::new(program);
        command
            .args(["vault", "realm", role, "--listen", listen])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        // Ctrl-C is for who started them: it ends them in its turn.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().context(DOING)?;
        let (Some(stdin), Some(stdout), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.id())
        else {
            return Err(Failure::failed(DOING));
        };
        Ok(Self {
            child,
            stdin,
            lines: BufReader::new(stdout),
            pid,
        })
    }

    pub(super) async fn tell(&mut self, line: &[u8]) -> Result<(), Failure> {
        const DOING: &str = "a process cannot be told what it is for";
        self.stdin.write_all(line).await.context(DOING)?;
        self.stdin.flush().await.context(DOING)
    }

    pub(super) async fn line<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T, Failure> {
        let mut line = String::new();
        let mut lines = (&mut self.lines).take(LINE_MAX);
        let read = timeout(PATIENCE, lines.read_line(&mut line)).await;
        read.context("a process says nothing")?
            .context("a process cannot be heard")?;
        serde_json::from_str(&line).map_err(|_| {
            Failure::failed("a process has ended; what it said before stands above")
                .help("is another realm running? otherwise choose another port in realm.toml")
        })
    }

    pub(super) async fn end(mut self) {
        drop(self.stdin);
        if timeout(ENDING, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// Ctrl-C or SIGTERM, from now on: who has been told that the realm runs may end it at once, and it ends as it should.
pub(super) fn asked_to_end() -> Result<impl Future<Output = ()>, Failure> {
    const DOING: &str = "cannot wait for signals";
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).context(DOING)?;
        let mut interrupt = signal(SignalKind::interrupt()).context(DOING)?;
        Ok(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
    }
    #[cfg(windows)]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c().context(DOING)?;
        Ok(async move {
            let _ = interrupt.recv().await;
        })
    }
}
