//! `junto run`: a program of which each party runs its part, over a session.

mod adapter;
mod port;

use std::io::{self, Write};
use std::process::ExitStatus;
use std::time::Duration;

use junto_session::adapters::tcp::{Mesh, MeshError, Outcome};
use junto_session::{Members, PartyIndex, Session, Summary};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::args::{Global, Run};
use crate::failure::{Context, Exit, Failure};
use crate::open::{Junto, SETTLE, failure_of, session_failure};
use crate::output::Output;
use crate::session;
use adapter::{Adapter, Places};
use port::Port;

/// How long a program may take to end once the run cannot go on, before it is told to.
const NOTICE: Duration = Duration::from_secs(10);
/// How long it may take then, before it is killed.
const TERMINATION: Duration = Duration::from_secs(5);
/// After so long without a sign of life, the user hears of it.
const QUIET: Duration = Duration::from_secs(30);

pub(crate) async fn run(arguments: Run, global: &Global, output: Output) -> Result<(), Failure> {
    let adapter = Adapter::of(arguments.adapter.as_deref(), &arguments.command)?;
    Junto::with(global, async |junto| {
        let (session, summary) = meet(junto, &arguments, output).await?;
        output.say(introduction(&summary));
        play(junto, &session, &arguments, &adapter, output).await
    })
    .await
}

/// The session that the command line names, opens or joins.
async fn meet(
    junto: &Junto,
    arguments: &Run,
    output: Output,
) -> Result<(Session, Summary), Failure> {
    let patience = arguments.wait.patience();
    let seat = &arguments.seat;
    let forming = if let Some(link) = &arguments.join {
        session::join(junto, session::read_link(link)?, seat, output).await?
    } else if let Some(parties) = arguments.new {
        let name = match &arguments.name {
            Some(name) => name.clone(),
            None => free_name(junto).await?,
        };
        let opened = session::open(
            junto,
            parties,
            name,
            arguments.policy,
            seat,
            patience,
            output,
        );
        let (forming, link) = opened.await?;
        if output.json {
            output.result(&link.json(), String::new)?;
        } else {
            // Standard output is the program's own.
            let _ = writeln!(io::stderr().lock(), "{}", link.text());
            link.show("They run: junto run --join 'LINK' -- COMMAND", output);
        }
        forming
    } else {
        let name = arguments.session.as_deref().unwrap_or_default();
        let session = junto.session(name, patience).await?;
        let summary = junto.sessions.find(name).await.map_err(session_failure)?;
        return Ok((session, summary));
    };
    let local = forming.local().to_string();
    session::formed(junto, forming, patience, output).await?;
    // Names of the parties come with the session by its name.
    let session = junto.session(&local, patience).await?;
    let summary = junto.sessions.find(&local).await.map_err(session_failure)?;
    Ok((session, summary))
}

/// `run`, or the first of `run-2` and so on that no session has.
async fn free_name(junto: &Junto) -> Result<String, Failure> {
    let taken = junto.sessions.list().await.map_err(session_failure)?;
    let is_free = |name: &String| taken.iter().all(|summary| summary.name != *name);
    let numbered = (2..).map(|number: u32| format!("run-{number}"));
    let mut names = std::iter::once("run".to_owned()).chain(numbered);
    names
        .find(is_free)
        .ok_or_else(|| Failure::failed("this profile has too many sessions"))
}

fn introduction(summary: &Summary) -> String {
    let me = summary.me.map_or(0, PartyIndex::as_usize);
    let code = summary.safety_code.map(|code| code.to_string());
    let code = code.unwrap_or_default();
    let checked = if summary.verified {
        "verified".to_owned()
    } else {
        format!(
            "not verified: compare it with the others, then `junto session verify {} --code '…'`",
            summary.name
        )
    };
    format!(
        "Session {}: you are party {me} of {}. Safety code {code} ({checked}).",
        summary.name, summary.parties
    )
}

/// How a run ended.
enum End {
    /// The program, by itself.
    Program(ExitStatus),
    /// The streams, before the program.
    Streams(MeshError),
    /// The user.
    Stop,
}

async fn play(
    junto: &Junto,
    session: &Session,
    arguments: &Run,
    adapter: &Adapter,
    output: Output,
) -> Result<(), Failure> {
    // Before anything else, so that no signal is missed.
    let mut stop = Stop::listen()?;
    let mut port = Port::reserve().context("no free port on this machine")?;
    let own = port.place();
    let failed = |error| mesh_failure(session, error);
    let mesh = Mesh::open(session, own).await.map_err(failed)?;
    let places = Places {
        me: session.me().as_usize(),
        all: (0..session.parties().as_usize())
            .filter_map(PartyIndex::new)
            .map(|party| mesh.ways().get(&party).copied().unwrap_or(own))
            .collect(),
    };
    let told = adapter.tell(&arguments.command, &places)?;
    tokio::select! {
        begun = begin(&mesh, session, arguments.wait.patience(), output) => begun?,
        () = stop.wait() => {
            let _ = mesh.finish(Outcome::Stopped).await;
            return Err(Failure::failed("stopped before everybody began"));
        }
    }
    let silence = Duration::from_secs(arguments.silence);
    mesh.run(silence);
    port.hand_over();
    let mut program = match start(&told, session) {
        Ok(program) => program,
        Err(failure) => {
            let _ = mesh.finish(Outcome::Failed).await;
            return Err(failure);
        }
    };
    let end = tokio::select! {
        status = program.wait() => End::Program(status.context("cannot wait for the program")?),
        error = mesh.failed() => End::Streams(error),
        () = stop.wait() => End::Stop,
        () = tell_of_silence(&mesh, session, silence, output) => End::Stop,
    };
    finish(junto, session, mesh, program, end, output).await
}

/// Waits until everybody has begun.
async fn begin(
    mesh: &Mesh,
    session: &Session,
    patience: Duration,
    output: Output,
) -> Result<(), Failure> {
    let deadline = Instant::now() + patience;
    let progress = output.progress("waiting for the others to begin");
    let mut present = mesh.present();
    while present != mesh.others() {
        let more = mesh.more(present, deadline).await;
        present = more.map_err(|error| mesh_failure(session, error))?;
        let missing = mesh.others().minus(present);
        if !missing.is_empty() {
            progress.step(format!("waiting for {} to begin", names(session, missing)));
        }
    }
    progress.done();
    Ok(())
}

fn start(told: &adapter::Told, session: &Session) -> Result<Child, Failure> {
    let [program, arguments @ ..] = told.command.as_slice() else {
        return Err(Failure::usage("there is no program to run"));
    };
    Command::new(program)
        .args(arguments)
        .envs(&told.environment)
        .env("JUNTO_PARTY", session.me().to_string())
        .env("JUNTO_PARTIES", session.parties().to_string())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| {
            Failure::usage(format_args!("cannot run {program}: {error}"))
                .help("what follows `--` is a program on this machine, with its arguments")
        })
}

async fn finish(
    junto: &Junto,
    session: &Session,
    mesh: Mesh,
    mut program: Child,
    end: End,
    output: Output,
) -> Result<(), Failure> {
    let status = match end {
        End::Program(status) => status,
        End::Streams(error) => {
            // The others hear of it first.
            let _ = mesh.finish(Outcome::Stopped).await;
            output.say("The run cannot go on; waiting for the program to end.");
            if timeout(NOTICE, program.wait()).await.is_err() {
                terminate(&mut program).await;
            }
            return Err(mesh_failure(session, error));
        }
        End::Stop => {
            terminate(&mut program).await;
            let _ = mesh.finish(Outcome::Stopped).await;
            return Err(Failure::failed("stopped"));
        }
    };
    let outcome = if status.success() {
        Outcome::Done
    } else {
        Outcome::Failed
    };
    let carried = mesh.finish(outcome).await;
    // What broke the streams broke the program as well.
    carried.map_err(|error| mesh_failure(session, error))?;
    junto.settle(SETTLE).await?;
    if !status.success() {
        return Err(Failure::failed(format_args!(
            "the program failed: {status}"
        )));
    }
    if output.json {
        output.result(
            &json!({ "session": session.name(), "program": { "exit_code": 0 } }),
            String::new,
        )?;
    }
    Ok(())
}

/// Asks the program to end, and makes it.
async fn terminate(program: &mut Child) {
    let id = program.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id.and_then(rustix::process::Pid::from_raw) {
        // It may have ended this moment.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    if timeout(TERMINATION, program.wait()).await.is_err() {
        let _ = program.kill().await;
    }
}

/// Says who is not heard of, and who is again. Never returns.
async fn tell_of_silence(mesh: &Mesh, session: &Session, limit: Duration, output: Output) {
    let mut quiet = Members::NONE;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for (party, silence) in mesh.silence() {
            let name = names(session, Members::NONE.with(party));
            if silence > QUIET && !quiet.contains(party) {
                quiet = quiet.with(party);
                output.say(format_args!(
                    "Not heard of {name} for {} s; the run ends after {} s. If it is back, all goes on.",
                    silence.as_secs(),
                    limit.as_secs()
                ));
            } else if silence < QUIET && quiet.contains(party) {
                quiet = quiet.without(party);
                output.say(format_args!("Heard of {name} again."));
            }
        }
    }
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Parties with what they call themselves.
fn names(session: &Session, members: Members) -> String {
    let name = |party: PartyIndex| {
        let entry = session.roster().iter().find(|(found, _)| *found == party);
        match entry.map(|(_, entry)| entry.name.as_str()) {
            Some(name) if !name.is_empty() => format!("party {party} ({name})"),
            _ => format!("party {party}"),
        }
    };
    members.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn mesh_failure(session: &Session, error: MeshError) -> Failure {
    let parties = error.parties().to_string();
    let message = error.to_string();
    let others = session.everybody().without(session.me());
    let again = format!(
        "the programs have to begin again: all run `junto run --session {} -- …` once more",
        session.name()
    );
    let failure = match error {
        MeshError::Absent { missing } => Failure::new(
            Exit::Unreachable,
            format_args!("party {missing} did not begin in time"),
        )
        .help(format_args!(
            "ask whether their `junto run` runs, then run yours again with `--session {}`",
            session.name()
        )),
        MeshError::Silent { parties, .. } if parties == others && others.len() > 1 => {
            Failure::new(Exit::Unreachable, message).help(format_args!(
                "nobody was heard of: look at this machine's own network first; {again}"
            ))
        }
        MeshError::Silent { .. } | MeshError::Restarted { .. } => {
            Failure::new(Exit::Unreachable, message).help(again)
        }
        MeshError::Over {
            party,
            outcome: Outcome::GaveUp(named),
        } => {
            let help = if named.contains(session.me()) {
                format!("it did not hear of this party in time, or says so; {again}")
            } else {
                format!(
                    "ask party {party} why: here, nothing was amiss with whom it names; {again}"
                )
            };
            Failure::new(Exit::Unreachable, message).help(help)
        }
        MeshError::Over { .. } => Failure::failed(message)
            .help("ask that party what its program said, then all run it once more"),
        MeshError::Lied { .. } => Failure::new(Exit::Misbehaved, message),
        MeshError::Session(error) => return failure_of(&error),
        MeshError::Listen(_) => Failure::failed(message),
    };
    if parties.is_empty() {
        failure
    } else {
        failure.party(parties)
    }
}
