//! The program that is run: found before anybody is met, and ended with us, as is what it has started.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use junto_session::Session;
use rustix::fs::Access;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::adapter::Told;
use crate::failure::{Context, Failure};

/// How long it may take once it is told to end, before it is killed.
const TERMINATION: Duration = Duration::from_secs(5);
/// How long its last words may take once it has ended: something that it has started may hold on to its output.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// First argument of this program where it is to become another one.
const TETHERED: &str = "tethered-program";

/// Whether there is such a program on this machine.
///
/// # Errors
/// A usage error if there is none, or it cannot be executed.
pub(super) fn find(program: &str) -> Result<(), Failure> {
    let is_program =
        |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    let found = if program.contains('/') {
        is_program(Path::new(program))
    } else {
        let folders = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&folders).any(|folder| is_program(&folder.join(program)))
    };
    if found {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "cannot run {program}: there is no such program"
    ))
    .help("what follows `--` is a program on this machine, with its arguments"))
}

/// A program under way.
pub(super) struct Program {
    child: Child,
    /// It and what it starts, where they are a group of their own. With a terminal to read from they are not: only one
    /// group may read, and Ctrl-C reaches all of ours.
    group: Option<Pid>,
    /// Copies its output to ours, where ours is for other programs; tells whether it ends within a line.
    copy: Option<JoinHandle<bool>>,
}

impl Program {
    /// Starts it. With `json`, what it writes goes through our hands, so that our own lines stay lines.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(told: &Told, session: &Session, json: bool) -> Result<Self, Failure> {
        let [name, arguments @ ..] = told.command.as_slice() else {
            return Err(Failure::usage("there is no program to run"));
        };
        let mut command = tethered_to_us(name);
        command
            .args(arguments)
            .envs(&told.environment)
            .env("JUNTO_PARTY", session.me().to_string())
            .env("JUNTO_PARTIES", session.parties().to_string())
            .env_remove("JUNTO_PASSPHRASE_FILE")
            .kill_on_drop(true);
        let alone = !io::stdin().is_terminal();
        if alone {
            command.process_group(0);
        }
        if json {
            command.stdout(Stdio::piped());
        }
        let mut child = command
            .spawn()
            .map_err(|error| Failure::usage(format_args!("cannot run {name}: {error}")))?;
        let copy = child.stdout.take().map(|from| tokio::spawn(copy(from)));
        let group = alone.then(|| id(&child)).flatten();
        Ok(Self { child, group, copy })
    }

    /// Waits until it has ended. What it has started goes on.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus, Failure> {
        let status = self.child.wait().await;
        self.end_line().await;
        status.context("cannot wait for the program")
    }

    /// Asks it to end, and makes it, with what it has started.
    pub(super) async fn terminate(&mut self) {
        self.signal(Signal::TERM);
        if timeout(TERMINATION, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        self.end_line().await;
    }

    fn signal(&self, signal: Signal) {
        // It may have ended this moment.
        let _ = match self.group {
            Some(group) => rustix::process::kill_process_group(group, signal),
            None => id(&self.child).map_or(Ok(()), |id| rustix::process::kill_process(id, signal)),
        };
    }

    /// What we say next begins a line.
    async fn end_line(&mut self) {
        let Some(mut copy) = self.copy.take() else {
            return;
        };
        let ended = timeout(LAST_WORDS, &mut copy).await;
        copy.abort();
        if !matches!(ended, Ok(Ok(false))) {
            let _ = writeln!(io::stdout().lock());
        }
    }
}

fn id(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
}

async fn copy(mut from: ChildStdout) -> bool {
    let (mut piece, mut within) = (vec![0; 1 << 16], false);
    let mut out = tokio::io::stdout();
    while let Ok(count @ 1..) = from.read(&mut piece).await {
        let read = &piece[..count];
        if out.write_all(read).await.is_err() || out.flush().await.is_err() {
            break;
        }
        within = !read.ends_with(b"\n");
    }
    within
}

/// A command that runs `program`, and ends when this process does, however it does.
#[cfg(target_os = "linux")]
fn tethered_to_us(program: &str) -> Command {
    // This file, also after another version has been put in its place.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("junto")
        .args([TETHERED, &std::process::id().to_string(), program]);
    command
}

#[cfg(not(target_os = "linux"))]
fn tethered_to_us(program: &str) -> Command {
    Command::new(program)
}

/// If this process was started to become a program that ends with its parent, it does. Returns otherwise.
pub(crate) fn tethered() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;

        let mut arguments = env::args_os().skip(1);
        if arguments.next().is_none_or(|first| first != TETHERED) {
            return;
        }
        let parent = arguments
            .next()
            .and_then(|parent| parent.to_str()?.parse().ok());
        let tethered = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
        // It may have ended before that.
        let lives = rustix::process::getppid().map(Pid::as_raw_nonzero) == parent;
        let failed = match arguments.next() {
            Some(program) if lives && tethered.is_ok() => {
                std::process::Command::new(&program).args(arguments).exec()
            }
            Some(_) | None => io::ErrorKind::BrokenPipe.into(),
        };
        let _ = writeln!(io::stderr(), "error: cannot run the program: {failed}");
        std::process::exit(127);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_before_anybody_is_met() {
        let here = env::current_exe().unwrap();
        for (program, is) in [
            ("sh", true),
            ("/bin/sh", true),
            (here.to_str().unwrap(), true),
            ("no-such-program-anywhere", false),
            ("./no-such-program", false),
            ("/etc/passwd", false),
            ("/bin", false),
            ("", false),
        ] {
            assert_eq!(find(program).is_ok(), is, "{program}");
        }
    }
}
