//! `junto run`: a program of which each party runs its part, over a session.

mod adapter;
mod direct;
mod port;
mod program;

use std::io::{self, Write};
use std::process::ExitStatus;
use std::time::Duration;

use junto_session::adapters::tcp::{Mesh, MeshError, Outcome};
use junto_session::{LocalId, Members, PartyIndex, Session, Stage, Summary};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::args::{Global, Paths, Run, Seat};
use crate::failure::{Context, Exit, Failure};
use crate::lobby;
use crate::open::{Junto, SETTLE, failure_of, session_failure};
use crate::output::Output;
use crate::session::{self, WayIn, relays};
use adapter::{Adapter, Places};
use direct::Direct;
use port::Port;
use program::Program;
pub(crate) use program::tethered;

/// How long a program may take to end once the run cannot go on, before it is told to.
const NOTICE: Duration = Duration::from_secs(10);
/// After so long, what the end of a run waits for is told.
const WAITS: Duration = Duration::from_secs(3);
/// After so long in which one program has ended and ours runs on, the user hears of it.
const ALONE: Duration = Duration::from_secs(5);
/// After so long without a direct path where there was one, the user hears of it.
const BACK: Duration = Duration::from_secs(3);
/// After so long without a sign of life, the user hears of it.
const QUIET: Duration = Duration::from_secs(30);

pub(crate) async fn run(arguments: Run, global: &Global, output: Output) -> Result<(), Failure> {
    let adapter = Adapter::of(arguments.adapter.as_deref(), &arguments.command)?;
    if let Some(program) = arguments.command.first().filter(|word| !word.contains('{')) {
        program::find(program)?;
    }
    Junto::with(global, async |junto| {
        let (session, summary) = meet(junto, &arguments, output).await?;
        output.say(introduction(&summary));
        if output.json {
            output.result(&session::describe(&summary), String::new)?;
        }
        let stripes = usize::from(arguments.stripes);
        if stripes > 1 {
            let patience = arguments.wait.patience();
            relays::stripe(junto, summary.local, stripes, patience, output).await?;
        }
        let session = (&session, summary.local);
        let direct = Direct::open(junto, session, arguments.paths).await?;
        let ended = play(junto, session, &arguments, &adapter, &direct, output).await;
        direct.close().await;
        ended
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
    if arguments.code.code && arguments.new.is_none() {
        return Err(Failure::usage("`--code` goes with `--new`"));
    }
    if arguments.join.is_none() {
        arguments.code.check()?;
    }
    if arguments.stripes > 1 && seat.relays.len() > 1 {
        return Err(Failure::usage(
            "`--stripes` goes with one `--relay`: to several, everything is sent",
        ));
    }
    if arguments.session.is_some() && *seat != Seat::default() {
        return Err(Failure::usage(
            "`--relay`, `--as` and `--parties-file` go with `--new` and `--join`: the session that is named stands already",
        )
        .help("`junto session show` tells who is in it; `junto session add-relay` lets it receive on another relay"));
    }
    let mut offer = None;
    let forming = if let Some(link) = &arguments.join {
        let way_in = WayIn::read(link)?;
        let link = way_in.link(junto, &arguments.code.relay, seat, output);
        session::join(junto, link.await?, seat, output).await?
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
        offer = link.offer(junto, &arguments.code, output).await;
        if output.json {
            output.result(&link.json(offer.as_ref()), String::new)?;
        } else {
            // Standard output is the program's own.
            let _ = writeln!(io::stderr().lock(), "{}", link.shown(offer.as_ref()));
            link.show(offer.as_ref(), "junto run --join {} -- COMMAND", output);
        }
        forming
    } else {
        let name = arguments.session.as_deref().unwrap_or_default();
        let forming = junto.sessions.resume(name).await.map_err(session_failure)?;
        let summary = forming.summary().await.map_err(session_failure)?;
        if summary.stage == Stage::Formed {
            let session = junto.session(name, patience).await?;
            return Ok((session, summary));
        }
        if let Some(link) = &summary.link {
            output.say(format_args!(
                "Others join with: junto run --join '{link}' -- COMMAND"
            ));
        }
        forming
    };
    let local = forming.local().to_string();
    let again = |name: &str| format!("junto run --session {name} -- COMMAND");
    lobby::formed(junto, forming, patience, offer, again, output).await?;
    // Names of the parties come with the session by its name.
    let session = junto.session(&local, patience).await?;
    let summary = junto.sessions.find(&local).await.map_err(session_failure)?;
    session::add_relays(junto, summary.local, seat, output).await?;
    Ok((session, summary))
}

/// `run`, or the first of `run-2` and so on that no session has.
pub(crate) async fn free_name(junto: &Junto) -> Result<String, Failure> {
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
    (session, local): (&Session, LocalId),
    arguments: &Run,
    adapter: &Adapter,
    direct: &Direct,
    output: Output,
) -> Result<(), Failure> {
    // Before anything else, so that no signal is missed.
    let mut stop = Stop::listen()?;
    let mut port = Port::reserve().context("no free port on this machine")?;
    let own = port.place();
    let failed = |error| mesh_failure(session, error);
    let mesh = Mesh::open_with(session, own, adapter.greeting(), direct.ways()).await;
    let mesh = mesh.map_err(failed)?;
    if adapter.hides_greeting(&arguments.command) {
        output.say(
            "With --ssl, MPyC believes every party that has a certificate of the same authority to be whichever it says. \
             Without it, none can pose as another: the session has seen to it.",
        );
    }
    let places = Places {
        me: session.me().as_usize(),
        all: (0..session.parties().as_usize())
            .filter_map(PartyIndex::new)
            .map(|party| mesh.ways().get(&party).copied().unwrap_or(own))
            .collect(),
    };
    let ready = async {
        let told = adapter.tell(&arguments.command, &places)?;
        begin(&mesh, session, arguments.wait.patience(), output).await?;
        // Who makes further queues has done so before it began.
        relays::follow(junto, local).await?;
        Ok(told)
    };
    let ready = tokio::select! {
        ready = ready => ready,
        () = stop.wait() => Err(Failure::failed("stopped before everybody began")),
    };
    let told = match ready {
        Ok(told) => told,
        Err(failure) => {
            // The others are not to begin without us.
            let _ = mesh.finish(Outcome::Stopped).await;
            junto.part().await;
            return Err(failure);
        }
    };
    let silence = Duration::from_secs(arguments.silence);
    mesh.run(silence);
    port.hand_over();
    let mut program = match Program::start(&told, session, output.json) {
        Ok(program) => program,
        Err(failure) => {
            let _ = mesh.finish(Outcome::Failed).await;
            return Err(failure);
        }
    };
    let end = tokio::select! {
        status = program.wait() => End::Program(status?),
        error = mesh.failed() => End::Streams(error),
        () = stop.wait() => End::Stop,
        () = tell_of_silence(&mesh, session, silence, output) => End::Stop,
        () = tell_of_paths(&mesh, session, arguments.paths, output) => End::Stop,
        () = tell_of_ends(&mesh, session, output) => End::Stop,
    };
    let mut ending = Ending {
        junto,
        session,
        silence,
        stop,
        output,
    };
    ending.end(mesh, program, end).await
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
    loop {
        let more = mesh.more(present, deadline).await;
        present = more.map_err(|error| mesh_failure(session, error))?;
        let missing = mesh.others().minus(present);
        if missing.is_empty() {
            progress.done();
            return Ok(());
        }
        progress.step(format!("waiting for {} to begin", names(session, missing)));
    }
}

/// What the end of a run needs.
struct Ending<'a> {
    junto: &'a Junto,
    session: &'a Session,
    /// Without a sign of life for so long, a party is not waited for.
    silence: Duration,
    stop: Stop,
    output: Output,
}

impl Ending<'_> {
    async fn end(&mut self, mesh: Mesh, mut program: Program, end: End) -> Result<(), Failure> {
        let status = match end {
            End::Program(status) => status,
            End::Streams(error) => {
                // The others hear of it first.
                let _ = mesh.finish(Outcome::Stopped).await;
                self.output
                    .say("The run cannot go on; waiting for the program to end.");
                // It has barely begun.
                let apart = matches!(error, MeshError::Apart { .. });
                let notice = if apart { Duration::ZERO } else { NOTICE };
                if timeout(notice, program.wait()).await.is_err() {
                    program.terminate().await;
                }
                return Err(mesh_failure(self.session, error));
            }
            End::Stop => {
                program.terminate().await;
                let _ = mesh.finish(Outcome::Stopped).await;
                return Err(Failure::failed("stopped"));
            }
        };
        let outcome = if status.success() {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        // What broke the streams broke the program as well.
        self.carry(mesh, outcome).await?;
        if !status.success() {
            self.junto.part().await;
            return Err(Failure::failed(format_args!(
                "the program failed: {status}"
            )));
        }
        self.settle().await?;
        if self.output.json {
            let result = json!({ "session": self.session.name(), "program": { "exit_code": 0 } });
            self.output.result(&result, String::new)?;
        }
        Ok(())
    }

    /// Carries what the program wrote to its end.
    async fn carry(&mut self, mut mesh: Mesh, outcome: Outcome) -> Result<(), Failure> {
        let began = Instant::now();
        let mut told = false;
        loop {
            tokio::select! {
                // Whatever ended it is said once more below.
                _ = mesh.drain(outcome) => break,
                () = tokio::time::sleep_until(began + WAITS), if !told => told = true,
                () = self.stop.wait() => {
                    let behind = mesh.behind();
                    let _ = mesh.finish(Outcome::Stopped).await;
                    return Err(Failure::failed(format_args!(
                        "stopped before {} had taken what the program wrote",
                        names(self.session, behind)
                    ))
                    .party(behind.to_string()));
                }
            }
            self.output.say(format_args!(
                "The program has ended; waiting for {} to take what it wrote.",
                names(self.session, mesh.behind())
            ));
        }
        let carried = mesh.finish(outcome).await;
        carried.map_err(|error| mesh_failure(self.session, error))
    }

    /// Hands to the relays what was said last. They may be away for as long as a party may.
    async fn settle(&mut self) -> Result<(), Failure> {
        let patience = self.silence.max(SETTLE);
        let settled = self.junto.settle(patience);
        tokio::pin!(settled);
        tokio::select! {
            settled = &mut settled => return settled,
            () = tokio::time::sleep(WAITS) => {}
            () = self.stop.wait() => return Err(unsettled()),
        }
        self.output
            .say("The program has ended; waiting for the relays to take its last words.");
        tokio::select! {
            settled = settled => settled,
            () = self.stop.wait() => Err(unsettled()),
        }
    }
}

fn unsettled() -> Failure {
    Failure::failed("stopped before the relays had taken the program's last words")
        .help("they are stored and go out with the next command on this profile")
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

/// Says whose program has ended while ours runs on: it may wait for that one in vain. Never returns.
async fn tell_of_ends(mesh: &Mesh, session: &Session, output: Output) {
    let mut told = Members::NONE;
    loop {
        let done = mesh.other_done(told).await;
        tokio::time::sleep(ALONE).await;
        output.say(format_args!(
            "The program of {} has ended, without an error; yours still runs.",
            names(session, done.minus(told))
        ));
        told = done;
    }
}

/// Says to whom there is a direct path, and to whom no more, unless it is back soon, or that party is done. Never returns.
async fn tell_of_paths(mesh: &Mesh, session: &Session, paths: Paths, output: Output) {
    let mut known = Members::NONE;
    let without = match paths {
        Paths::DirectOnly => "what the program writes waits for the next one",
        Paths::RelayOnly | Paths::PreferDirect => "going on over the relays",
    };
    loop {
        let direct = mesh.other_direct(known).await;
        let more = direct.minus(known);
        if !more.is_empty() {
            output.say(format_args!("Direct path to {}.", names(session, more)));
            known = more.iter().fold(known, Members::with);
            continue;
        }
        // Who is done ends it, and that it is done is heard a moment later.
        tokio::time::sleep(BACK).await;
        let fewer = known.minus(mesh.direct());
        let missed = fewer.minus(mesh.done());
        if !missed.is_empty() {
            output.say(format_args!(
                "The direct path to {} has ended; {without}.",
                names(session, missed)
            ));
        }
        known = known.minus(fewer);
    }
}

/// SIGINT, SIGTERM, and SIGHUP: the terminal is gone.
struct Stop([tokio::signal::unix::Signal; 3]);

impl Stop {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn wait(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
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
            format_args!(
                "{} {missing} did not begin in time",
                if missing.len() == 1 { "party" } else { "parties" }
            ),
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
        MeshError::Left { .. } => {
            Failure::failed(message).help(format_args!("ask them what happened there; {again}"))
        }
        MeshError::Over { .. } => Failure::failed(message)
            .help("ask that party what its program said, then all run it once more"),
        MeshError::Apart { .. } => Failure::refused(message).help(format_args!(
            "agree on `--paths`: with `prefer-direct` on both sides, or `relay-only` on all, each reaches each; then all run `junto run --session {} -- …` once more",
            session.name()
        )),
        MeshError::Lied { .. } => Failure::new(Exit::Misbehaved, message),
        MeshError::Session(error) => return failure_of(&error),
        MeshError::Stuck { .. } => Failure::new(Exit::Unreachable, message).help(format_args!(
            "its program may hang, or what it reads may wait for something else; {again}"
        )),
        MeshError::Unreached { .. } => Failure::new(Exit::Unreachable, message).help(format_args!(
            "no direct path came about, because of a NAT or firewall between you, say: `--paths prefer-direct` goes over the relays then; {again}"
        )),
        MeshError::Stranger { .. } => Failure::failed(message)
            .help("somebody else on this machine took the port; run it once more"),
        MeshError::Listen(_) => Failure::failed(message),
    };
    if parties.is_empty() {
        failure
    } else {
        failure.party(parties)
    }
}
