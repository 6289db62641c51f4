//! Frontends of a realm: processes in front of its groups. Each says its key and where it listens, is told of the realm by who started
//! it, which alone reads the realm's key, and serves until its standard input ends. One that has ended is started anew: it kept nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_all};
use junto_evidence::{Floor, Policy};
use junto_realm::{Accepted, BootKey, ClientError, Frontend, Judge, Pass, Simulated, Verifier};
use junto_vault::{RealmId, ReplicaId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::process::{Running, asked_to_end};
use super::realm::{Settings, id_of, place, read_key};
use super::replica::{Born, LINES, key, listen_to_starter};
use crate::failure::{Context, Failure};
use crate::output::Output;
use crate::random;

/// Between two tries to start one.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest look at the replicas when it starts.
const LOOK: Duration = Duration::from_secs(5);

/// What a frontend is told.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    realm: String,
    pass: String,
    addresses: Vec<String>,
    /// What replicas have to show.
    policy: Option<Policy>,
}

/// What it says then.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Ready {
    /// Why it passes nothing on so far.
    trouble: Option<String>,
}

/// `junto vault realm door`.
pub(super) async fn run(listen: &str) -> Result<(), Failure> {
    let short = super::keep_in_memory();
    let own = BootKey::generate(&mut random());
    let listening = format!("cannot listen on {listen}");
    let outer = TcpListener::bind(listen).await.context(&listening)?;
    let address = outer.local_addr().context(&listening)?.to_string();
    let born = Born {
        id: hex::encode(own.id().0),
        peers: String::new(),
        address,
        short,
    };
    LINES.result(&born, String::new)?;
    let (mut told, mut ended) = listen_to_starter();
    let Some(line) = told.recv().await else {
        return Ok(());
    };
    let begin: Begin = serde_json::from_str(&line).context("the realm cannot be read")?;
    let mut pass = [0; Pass::BYTES];
    hex::decode_to_slice(&begin.pass, &mut pass).context("the pass cannot be read")?;
    let verifier: Arc<dyn Verifier> = match begin.policy {
        Some(policy) => Arc::new(Judge::new(policy, Floor::default(), Box::new(Ok))),
        None => Arc::new(Accepted { simulated: true }),
    };
    let front = Frontend {
        key: own,
        realm: RealmId(key(&begin.realm)?),
        pass: Pass::from_bytes(pass),
        addresses: begin.addresses,
        attestation: Arc::new(Simulated),
        verifier,
    };
    let trouble = front.check(LOOK).await.err();
    let trouble = trouble.map(|error: ClientError| error.to_string());
    LINES.result(&Ready { trouble }, String::new)?;
    tokio::select! {
        served = front.serve(outer) => served.context("the frontend cannot serve any more"),
        _ = ended.recv() => Ok(()),
    }
}

/// A frontend's process, and where it is.
struct Door {
    listen: String,
    address: String,
    running: Running,
}

/// The frontends that run here.
pub(super) struct Doors {
    dir: PathBuf,
    /// Where the replicas are.
    addresses: Vec<String>,
    policy: Option<Policy>,
    doors: Vec<Door>,
}

impl Doors {
    /// Starts one for each address: to listen on, and as clients know it, if that is fixed.
    pub(super) async fn start(
        dir: &Path,
        settings: &Settings,
        addresses: Vec<String>,
        places: Vec<(String, Option<String>)>,
        output: Output,
    ) -> Result<Self, Failure> {
        let mut all = Self {
            dir: dir.to_owned(),
            addresses,
            policy: settings.policy(dir)?,
            doors: Vec::new(),
        };
        for (listen, known) in places {
            let (running, address) = all.open(&listen, output).await?;
            // The same one, should it have to be started again.
            let listen = if known.is_some() {
                listen
            } else {
                address.clone()
            };
            all.doors.push(Door {
                listen,
                address: known.unwrap_or(address),
                running,
            });
        }
        Ok(all)
    }

    /// A process with a pass of its own. The realm's key is read for that, and in no process that clients reach.
    async fn open(&self, listen: &str, output: Output) -> Result<(Running, String), Failure> {
        let mut running = Running::start("door", listen)?;
        let born: Born = running.line().await?;
        for advice in &born.short {
            output.say(format_args!("not as it should be: {advice}"));
        }
        let realm = read_key(&self.dir)?;
        let pass = Pass::sign(&realm, &ReplicaId(key(&born.id)?));
        let begin = Begin {
            realm: hex::encode(id_of(&realm).0),
            pass: hex::encode(pass.to_bytes()),
            addresses: self.addresses.clone(),
            policy: self.policy.clone(),
        };
        drop(realm);
        let mut line = serde_json::to_vec(&begin).context("cannot write JSON")?;
        line.push(b'\n');
        running.tell(&line).await?;
        if let Ready {
            trouble: Some(trouble),
        } = running.line().await?
        {
            output.say(format_args!(
                "the frontend at {} passes nothing on so far: {trouble}",
                born.address
            ));
        }
        Ok((running, born.address))
    }

    /// Where clients reach them.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.doors.iter().map(|door| door.address.clone()).collect()
    }

    pub(super) fn report(&self) -> Value {
        let each = self.doors.iter();
        let each = each.map(|door| json!({ "address": door.address, "pid": door.running.pid }));
        each.collect()
    }

    /// Starts those anew that end. Does not come back.
    pub(super) async fn keep(&mut self, output: Output) -> std::convert::Infallible {
        loop {
            if self.doors.is_empty() {
                return std::future::pending().await;
            }
            let waits = self.doors.iter_mut();
            let waits = waits.map(|door| Box::pin(door.running.child.wait()));
            let (_, at, _) = select_all(waits).await;
            let (listen, address) = (
                self.doors[at].listen.clone(),
                self.doors[at].address.clone(),
            );
            output.say(format_args!(
                "the frontend at {address} has ended; nothing is lost by that"
            ));
            self.doors[at].running = loop {
                match self.open(&listen, output).await {
                    Ok((running, _)) => break running,
                    Err(failure) => output.say(format_args!("frontend: {}", failure.message)),
                }
                tokio::time::sleep(PAUSE).await;
            };
            let pid = self.doors[at].running.pid;
            output.say(format_args!(
                "process {pid} is the frontend at {address} now"
            ));
        }
    }

    pub(super) async fn end(self) {
        join_all(self.doors.into_iter().map(|door| door.running.end())).await;
    }
}

/// `junto vault realm frontend`.
pub(super) async fn alone(dir: &Path, port: u16, output: Output) -> Result<(), Failure> {
    let settings = Settings::read(dir)?;
    if settings.addresses().iter().any(|it| it.ends_with(":0")) {
        return Err(Failure::usage("that realm has no ports of its own")
            .help("set `port` in realm.toml and start the realm anew"));
    }
    let known = place(settings.host(), port);
    let places = vec![(place(&settings.bind().to_string(), port), Some(known))];
    let progress = output.progress("starting the frontend");
    let replicas = settings.addresses();
    let mut doors = Doors::start(dir, &settings, replicas, places, output).await?;
    progress.done();
    let asked = asked_to_end()?;
    output.result(&json!({ "frontends": doors.report() }), || {
        doors.addresses().join("\n")
    })?;
    output.say("It keeps nothing: end it with Ctrl-C, and start it again, as you like. Clients find it by its address in their set files");
    let ended = tokio::select! {
        never = doors.keep(output) => match never {},
        () = asked => Ok(()),
    };
    doors.end().await;
    ended
}
