//! One replica in a process of its own. It says its key and where it listens, is told of its group by who started it, and
//! serves until its standard input ends: so none outlives who vouched for it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _};
use std::sync::Arc;
use std::time::Duration;

use junto_crypto::ed25519::VerifyingKey;
use junto_evidence::{Floor, Policy};
use junto_realm::{
    Accepted, BootKey, Card, Judge, Membership, Peer, Replica, Simulated, Verifier, serve,
};
use junto_vault::{Genesis, Realm, ReplicaId};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, channel};
use zeroize::Zeroizing;

use crate::failure::{Context, Failure};
use crate::output::Output;
use crate::random;

/// Longest line that it is told: a thousand tenants with long names.
const LINE_MAX: u64 = 1024 * 1024;
/// Room for that line: more only with thousands of tenants.
const BEGIN_BYTES: usize = 256 * 1024;
/// Longest wait for a leader of its group.
const LEADER_MAX: Duration = Duration::from_secs(60);

/// What a replica says first.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Born {
    /// The public half of its key of this start, in hex.
    pub(super) id: String,
    /// Where other members reach it.
    pub(super) peers: String,
    /// Where clients do.
    pub(super) address: String,
    /// What could not be done to keep its memory off disks.
    pub(super) short: Vec<String>,
}

/// What it is told then: by pipe, since the secret is for the members alone.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Begin {
    pub(super) secret: Zeroizing<String>,
    /// Names and public keys.
    pub(super) tenants: BTreeMap<String, String>,
    pub(super) records_max: u32,
    /// It begins with all records of the realm.
    pub(super) everything: bool,
    /// What members of a group have to show before a range goes there.
    pub(super) policy: Option<Policy>,
    /// Keys, and where members reach each other.
    pub(super) members: Vec<(String, String)>,
    pub(super) card: String,
}

impl Begin {
    /// In a buffer that does not grow: one that does leaves copies of the secret.
    pub(super) fn line(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut line = Zeroizing::new(Vec::with_capacity(BEGIN_BYTES));
        serde_json::to_writer(&mut *line, self).context("cannot write JSON")?;
        line.push(b'\n');
        Ok(line)
    }
}

/// What it says when its group has a leader.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ready {
    pub(super) ready: bool,
}

pub(super) fn key(text: &str) -> Result<[u8; 32], Failure> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).context("the group cannot be read")?;
    Ok(key)
}

pub(super) const LINES: Output = Output {
    json: true,
    quiet: true,
};

/// `junto vault realm replica`.
pub(super) async fn run(listen: &str) -> Result<(), Failure> {
    let short = super::keep_in_memory();
    let key = BootKey::generate(&mut random());
    let inner = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen")?;
    let outer = TcpListener::bind(listen)
        .await
        .context(format_args!("cannot listen on {listen}"))?;
    let born = Born {
        id: hex::encode(key.id().0),
        peers: inner.local_addr().context("cannot listen")?.to_string(),
        address: outer.local_addr().context("cannot listen")?.to_string(),
        short,
    };
    LINES.result(&born, String::new)?;
    let (mut told, mut ended) = listen_to_starter();
    let Some(line) = told.recv().await else {
        return Ok(());
    };
    let begin: Begin = serde_json::from_str(&line).context("the group cannot be read")?;
    drop(line);
    let (replica, card, ids) = join(begin, key).await?;
    let serving = serve(replica.clone(), card, inner, outer);
    let ready = async {
        replica
            .begin(&ids)
            .await
            .context("the group does not begin")?;
        let led = async {
            while replica.leader().is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let led = tokio::time::timeout(LEADER_MAX, led).await;
        led.context("the group found no leader")?;
        LINES.result(&Ready { ready: true }, String::new)
    };
    let result = tokio::select! {
        served = serving => served.context("the replica cannot serve any more"),
        failed = async {
            match ready.await {
                Ok(()) => std::future::pending().await,
                Err(failure) => failure,
            }
        } => Err(failed),
        _ = ended.recv() => Ok(()),
    };
    // Before anything is let go of that consensus talks to.
    replica.stop().await;
    result
}

/// The first line on standard input, and its end. A thread of its own reads: one of the runtime's would keep the process from ending.
pub(super) fn listen_to_starter() -> (Receiver<Zeroizing<String>>, Receiver<()>) {
    let (tell, told) = channel(1);
    let (end, ended) = channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut line = Zeroizing::new(String::with_capacity(64 * 1024));
        let read = (&mut stdin).take(LINE_MAX).read_line(&mut line);
        if read.is_ok_and(|read| read > 0) {
            let _ = tell.blocking_send(line);
            let mut rest = [0; 64];
            while stdin.read(&mut rest).is_ok_and(|read| read > 0) {}
        }
        drop((tell, end));
    });
    (told, ended)
}

/// By that policy, and nothing simulated. What was learnt of the days is kept in memory, as everything is.
fn successors(policy: Policy) -> Arc<dyn Verifier> {
    Arc::new(Judge::new(policy, Floor::default(), Box::new(Ok)))
}

async fn join(begin: Begin, own: BootKey) -> Result<(Arc<Replica>, Card, Vec<ReplicaId>), Failure> {
    let card = hex::decode(&begin.card).context("the group cannot be read")?;
    let card = Card::from_bytes(&card).context("the group cannot be read")?;
    let tenants = begin.tenants.iter().map(|(name, public)| {
        let public = VerifyingKey::from_bytes(&key(public)?);
        Ok((name.clone(), public.context("the group cannot be read")?))
    });
    let genesis = Genesis {
        realm: *card.realm(),
        secret: Zeroizing::new(key(&begin.secret)?),
        tenants: tenants.collect::<Result<_, Failure>>()?,
        records_max: begin.records_max,
        time: card.began(),
    };
    let members = begin.members.into_iter().map(|(id, address)| {
        let id = ReplicaId(key(&id)?);
        Ok(Peer { id, address })
    });
    let members = members.collect::<Result<Vec<_>, Failure>>()?;
    let ids = members.iter().map(|member| member.id).collect();
    let realm = Realm::of_group(genesis, card.group(), begin.everything);
    let realm = realm.context("the realm does not begin")?;
    let membership = Membership {
        key: own,
        members,
        attestation: Arc::new(Simulated),
        // Members of one machine that one operator started: there is nothing to be shown yet.
        verifier: Arc::new(Accepted { simulated: true }),
        successors: begin.policy.map(successors),
    };
    let replica = Replica::join(realm, card.quorum(), membership).await;
    Ok((
        Arc::new(replica.context("the replica does not start")?),
        card,
        ids,
    ))
}
