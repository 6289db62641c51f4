//! `junto demo`: the main job of Junto on one machine, through the same commands that people use on three.
//!
//! A relay process on loopback and one process per party, each with a profile of its own. Nothing is
//! shared between them but the link, which this process carries from the host to the others as a
//! friend would in a chat window.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::args;
use crate::failure::{Context, Exit, Failure};
use crate::output::Output;

/// Longest line that a child process may print, in bytes; anything longer is a defect.
const LINE_MAX: usize = 64 * 1024;

#[derive(Serialize)]
struct Report {
    scheme: String,
    public_key: String,
    message: String,
    signature: String,
    parties: u16,
    threshold: u16,
    relay: String,
    safety_code: String,
    timings_ms: Timings,
}

#[derive(Serialize)]
struct Timings {
    connect: u64,
    keygen: u64,
    sign: u64,
}

/// Runs the demo and prints its result.
pub(crate) async fn run(arguments: args::Demo, output: Output) -> Result<(), Failure> {
    if arguments.threshold > arguments.parties {
        return Err(Failure::usage(format_args!(
            "a threshold of {} is more than {} parties",
            arguments.threshold, arguments.parties
        ))
        .help("choose `--threshold` from 2 to the number of parties"));
    }
    let folder = Folder::new(arguments.keep.as_deref())?;
    let stage = Stage {
        dir: folder.path().to_path_buf(),
        timeout: Duration::from_secs(arguments.timeout),
        output,
    };
    let report = play(&stage, &arguments).await?;
    output.result(&report, || {
        format!(
            "public key  {}\nmessage     {}\nsignature   {}\nscheme      {}\n\n{} of {} parties signed; the signature verifies.",
            report.public_key, report.message, report.signature, report.scheme, report.threshold, report.parties
        )
    })
}

async fn play(stage: &Stage, arguments: &args::Demo) -> Result<Report, Failure> {
    let output = stage.output;
    let (n, t) = (arguments.parties, arguments.threshold);

    let (_relay, address) = stage.relay().await?;
    output.say(format_args!("relay       {address}"));

    let started = Instant::now();
    let mut host = stage.party(
        1,
        &[
            "session",
            "new",
            "--name",
            "demo",
            "--parties",
            &n.to_string(),
            "--relay",
            &address,
        ],
    )?;
    let link = text(&host.line().await?, "link")?;
    output.say(format_args!(
        "process 1   opened a session for {n} and passes its link on"
    ));
    let mut joiners = Vec::new();
    for party in 2..=n {
        joiners.push(stage.party(party, &["session", "join", &link])?);
    }
    joiners.insert(0, host);
    let formed = stage.all(joiners, "safety_code").await?;
    let connect = milliseconds(started);
    output.say(format_args!("session     formed in {connect} ms"));
    output.say(format_args!(
        "safety code {}   (the same for all {n}; read it aloud)",
        formed
    ));

    let started = Instant::now();
    let mut signers = Vec::new();
    for party in 1..=n {
        let arguments = [
            "bls",
            "keygen",
            "--session",
            "demo",
            "--name",
            "demo",
            "--threshold",
            &t.to_string(),
        ];
        signers.push(stage.party(party, &arguments)?);
    }
    let public_key = stage.all(signers, "public_key").await?;
    let keygen = milliseconds(started);
    output.say(format_args!(
        "keygen      {t} of {n}, in {keygen} ms: nobody holds the whole key"
    ));

    let message_file = stage.dir.join("message");
    std::fs::write(&message_file, &arguments.message).context("cannot write the message file")?;
    let message_file = message_file.to_string_lossy();
    let started = Instant::now();
    let mut signers = Vec::new();
    // The last ones sign, so that it shows that the host is not needed.
    for party in (n - t + 1)..=n {
        signers.push(stage.party(
            party,
            &[
                "bls",
                "sign",
                "--key",
                "demo",
                "--message-file",
                &message_file,
            ],
        )?);
    }
    let signature = stage.all(signers, "signature").await?;
    let sign = milliseconds(started);
    output.say(format_args!(
        "signature   by processes {} to {n}, in {sign} ms",
        n - t + 1
    ));

    let checked = stage
        .spawn(
            "verify",
            &[
                "bls",
                "verify",
                "--public-key",
                &public_key,
                "--signature",
                &signature,
                "--message-file",
                &message_file,
            ],
            &stage.dir.join("verifier"),
        )?
        .last()
        .await?;
    Ok(Report {
        scheme: text(&checked, "scheme")?,
        public_key,
        message: arguments.message.clone(),
        signature,
        parties: n,
        threshold: t,
        relay: address,
        safety_code: formed,
        timings_ms: Timings {
            connect,
            keygen,
            sign,
        },
    })
}

/// The folder of a demo: removed at its end unless the user keeps it.
enum Folder {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        match keep {
            None => Ok(Folder::Temporary(
                tempfile::Builder::new()
                    .prefix("junto-demo-")
                    .tempdir()
                    .context("cannot make a temporary folder")?,
            )),
            Some(dir) => {
                let occupied =
                    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
                if occupied {
                    return Err(
                        Failure::usage(format_args!("{} is not empty", dir.display()))
                            .help("name an empty or new folder with `--keep`"),
                    );
                }
                std::fs::create_dir_all(dir)
                    .context(format_args!("cannot make {}", dir.display()))?;
                Ok(Folder::Kept(dir.to_path_buf()))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Temporary(dir) => dir.path(),
            Folder::Kept(dir) => dir,
        }
    }
}

/// Where the processes run.
struct Stage {
    dir: PathBuf,
    timeout: Duration,
    output: Output,
}

impl Stage {
    /// Makes and starts the relay; its process ends when the handle is dropped.
    async fn relay(&self) -> Result<(Actor, String), Failure> {
        let dir = self.dir.join("relay");
        let dir = dir.to_string_lossy();
        let profile = self.dir.join("operator");
        let port = free_port()?.to_string();
        let init = [
            "relay",
            "init",
            "--dir",
            &dir,
            "--host",
            "127.0.0.1",
            "--port",
            &port,
        ];
        self.spawn("relay", &init, &profile)?.last().await?;
        let mut relay = self.spawn("relay", &["relay", "start", "--dir", &dir], &profile)?;
        let address = text(&relay.line().await?, "address")?;
        Ok((relay, address))
    }

    fn party(&self, number: u16, arguments: &[&str]) -> Result<Actor, Failure> {
        self.spawn(
            &format!("process {number}"),
            arguments,
            &self.dir.join(format!("party-{number}")),
        )
    }

    /// Where a process writes what it has to say: read it with `--keep`.
    fn log(&self, name: &str) -> Result<Stdio, Failure> {
        let path = self.dir.join(format!("{}.log", name.replace(' ', "-")));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        Ok(file
            .context(format_args!("cannot write {}", path.display()))?
            .into())
    }

    fn spawn(&self, name: &str, arguments: &[&str], profile: &Path) -> Result<Actor, Failure> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            // Nothing here leaves this machine, whatever the environment says.
            .args(["--json", "--quiet", "--socks", "none", "--profile"])
            .arg(profile)
            .args(arguments)
            .env_remove("JUNTO_PROFILE")
            .env_remove("JUNTO_PASSPHRASE_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log(name)?)
            .kill_on_drop(true)
            .spawn()
            .context(format_args!("cannot start {name}"))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| Failure::failed("a child process without stdout"))?;
        Ok(Actor {
            name: name.to_owned(),
            child,
            lines: BufReader::new(stdout).lines(),
            timeout: self.timeout,
        })
    }

    /// Waits for all of them, and gives the value of `field`, on which they must agree.
    async fn all(&self, actors: Vec<Actor>, field: &str) -> Result<String, Failure> {
        let mut tasks = tokio::task::JoinSet::new();
        for actor in actors {
            tasks.spawn(actor.last());
        }
        let mut agreed: Option<String> = None;
        while let Some(finished) = tasks.join_next().await {
            let value = text(&finished.context("a task of the demo")??, field)?;
            match &agreed {
                Some(first) if *first != value => {
                    return Err(Failure::new(
                        Exit::Misbehaved,
                        format_args!("the parties disagree on {field}: {first} and {value}"),
                    ));
                }
                _ => agreed = Some(value),
            }
        }
        agreed.ok_or_else(|| Failure::failed("no party"))
    }
}

/// A TCP port of loopback that was free a moment ago.
fn free_port() -> Result<u16, Failure> {
    let listener =
        std::net::TcpListener::bind(("127.0.0.1", 0)).context("cannot listen on loopback")?;
    Ok(listener
        .local_addr()
        .context("cannot listen on loopback")?
        .port())
}

/// A process of the demo and what it prints.
struct Actor {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    timeout: Duration,
}

impl Actor {
    /// The next line, as JSON.
    async fn line(&mut self) -> Result<Value, Failure> {
        let line = tokio::time::timeout(self.timeout, self.lines.next_line())
            .await
            .map_err(|_| self.late())?
            .context(format_args!("cannot read what {} prints", self.name))?;
        match line {
            Some(line) if line.len() <= LINE_MAX => parse(&self.name, &line),
            Some(_) => Err(Failure::failed(format_args!(
                "{} printed an endless line",
                self.name
            ))),
            None => Err(Failure::failed(format_args!(
                "{} ended without a result",
                self.name
            ))),
        }
    }

    /// Reads to the end and gives the last line.
    async fn last(mut self) -> Result<Value, Failure> {
        let mut last = self.line().await?;
        loop {
            let next = tokio::time::timeout(self.timeout, self.lines.next_line())
                .await
                .map_err(|_| self.late())?
                .context(format_args!("cannot read what {} prints", self.name))?;
            match next {
                Some(line) => last = parse(&self.name, &line)?,
                None => break,
            }
        }
        let status = tokio::time::timeout(self.timeout, self.child.wait())
            .await
            .map_err(|_| self.late())?
            .context(format_args!("cannot wait for {}", self.name))?;
        if status.success() {
            Ok(last)
        } else {
            Err(Failure::failed(format_args!(
                "{} failed: {status}",
                self.name
            )))
        }
    }

    fn late(&self) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format_args!(
                "{} did not finish within {} s",
                self.name,
                self.timeout.as_secs()
            ),
        )
        .help("on a slow machine, give more time with `--timeout SECONDS`")
    }
}

/// Reads a line of a child; its error becomes ours.
fn parse(name: &str, line: &str) -> Result<Value, Failure> {
    let value: Value = serde_json::from_str(line)
        .context(format_args!("{name} printed something that is not JSON"))?;
    let Some(error) = value.get("error") else {
        return Ok(value);
    };
    let exit = match error.get("exit_code").and_then(Value::as_u64) {
        Some(2) => Exit::Usage,
        Some(3) => Exit::Unreachable,
        Some(4) => Exit::Misbehaved,
        Some(5) => Exit::Refused,
        _ => Exit::Failed,
    };
    let message = error
        .get("message")
        .and_then(Value::as_str)
        .unwrap_or("failed");
    let mut failure = Failure::new(exit, format_args!("{name}: {message}"));
    if let Some(help) = error.get("help").and_then(Value::as_str) {
        failure = failure.help(help);
    }
    Err(failure)
}

fn text(value: &Value, field: &str) -> Result<String, Failure> {
    value
        .get(field)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Failure::failed(format_args!("a child process printed no `{field}`")))
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_child_keeps_its_exit_code_and_help() {
        let line =
            r#"{"error":{"exit_code":4,"message":"party 2 equivocated","help":"ask","party":"2"}}"#;
        let failure = parse("party 1", line).unwrap_err();
        assert_eq!(failure.exit, Exit::Misbehaved);
        assert_eq!(failure.message, "party 1: party 2 equivocated");
        assert_eq!(failure.help.as_deref(), Some("ask"));
    }

    #[test]
    fn a_line_that_is_not_json_is_an_error() {
        assert!(parse("party 1", "thread panicked").is_err());
    }
}
