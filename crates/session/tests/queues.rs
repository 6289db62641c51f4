//! Sessions over queues: real agents with their databases, a real relay, TLS on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

#[macro_use]
mod conformance;
#[path = "../examples/frost/run.rs"]
mod run;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use conformance::World;
use junto_agent::{Agent, AgentConfig};
use junto_crypto::{
    aead::StoreKey,
    ed25519::{Signature, VerifyingKey},
};
use junto_relay::{Relay, RelayConfig, RunningRelay};
use junto_session::{
    DisplayName, Kind, Params, PartyCount, Persona, Policy, Session, Sessions,
    carrier::{Carriage, agent},
};
use junto_tls::ServerIdentity;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rustls::pki_types::UnixTime;

const PATIENCE: Duration = Duration::from_secs(120);

struct Queues {
    relay: RunningRelay,
    folder: tempfile::TempDir,
}

impl Queues {
    async fn new() -> Self {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap();
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
        Self {
            relay: Relay::start(config, identity).await.unwrap(),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn home(&self, name: &str) -> PathBuf {
        let home = self.folder.path().join(name);
        std::fs::create_dir_all(&home).unwrap();
        home
    }

    /// The sessions of a name; waits for those opened before to let go of their files.
    async fn sessions(&self, name: &str) -> Sessions {
        let carriage = self.open(name).await;
        Sessions::open(&self.home(name), StoreKey::from_bytes(&[2; 32]), carriage).unwrap()
    }
}

impl World for Queues {
    async fn open(&self, name: &str) -> Carriage {
        let path = self.home(name).join("agent.db");
        let opened = async {
            loop {
                let config = AgentConfig::new(&path, StoreKey::from_bytes(&[1; 32]));
                match Agent::open(config).await {
                    Ok((agent, events)) => return agent::carriage(agent, events),
                    // The agent dropped just now has not let go of its file yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, opened).await.unwrap()
    }

    fn relay(&self) -> String {
        self.relay.address().to_string()
    }
}

carrier_conformance!(queues, Queues::new().await);

async fn meet(queues: &Queues, parties: usize) -> (Vec<Sessions>, Vec<Session>) {
    let mut profiles = Vec::new();
    for index in 0..parties {
        profiles.push(queues.sessions(&format!("party {index}")).await);
    }
    let persona = |name: &str| Persona {
        display_name: DisplayName::new(name).unwrap(),
        profile: None,
        relay: String::new(),
        pinned: Vec::new(),
    };
    let params = Params {
        name: "queues".to_owned(),
        parties: PartyCount::new(parties).unwrap(),
        policy: Policy::Anonymous,
    };
    let host = Persona {
        relay: queues.relay(),
        ..persona("host")
    };
    let (hosting, link) = profiles[0]
        .new_session(params, host, PATIENCE)
        .await
        .unwrap();
    // Strangers: all they get is text.
    let link = link.to_string();
    let mut forming = vec![hosting];
    for profile in &profiles[1..] {
        let joining = profile.join(link.parse().unwrap(), persona("joiner")).await;
        forming.push(joining.unwrap());
    }
    let formed = futures::future::join_all(forming.iter().map(|f| f.formed(PATIENCE))).await;
    (profiles, formed.into_iter().map(Result::unwrap).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn frost_over_queues() {
    let queues = Queues::new().await;
    let (_profiles, sessions) = meet(&queues, 3).await;
    assert!(
        sessions
            .iter()
            .all(|session| session.safety_code() == sessions[0].safety_code())
    );
    let runs = sessions
        .iter()
        .map(|session| run::run_frost_example(session, 2, b"over queues", PATIENCE));
    let mut signed = 0;
    for outcome in futures::future::join_all(runs).await {
        let outcome = outcome.unwrap();
        let key = VerifyingKey::from_bytes(&outcome.public_key[..].try_into().unwrap()).unwrap();
        if !outcome.signature_hex().is_empty() {
            let signature = Signature::try_from(&outcome.signature[..]).unwrap();
            key.verify(b"over queues", &signature).unwrap();
            assert_eq!(outcome.public_key_hex().len(), 64);
            signed += 1;
        }
    }
    assert_eq!(signed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_that_restarts_amid_a_run_goes_on() {
    let queues = Queues::new().await;
    let (mut profiles, mut sessions) = meet(&queues, 3).await;
    let label = "interrupted";
    let run = sessions[1].execution(label).await.unwrap();
    let seed = *run.seed();
    run.broadcast(0, seed.to_vec()).await.unwrap();
    drop(run);
    // One dies after its broadcast; the others go on without noticing.
    drop((profiles.remove(1), sessions.remove(1)));
    let others = sessions.into_iter().map(|session| {
        tokio::spawn(async move {
            let run = session.execution(label).await.unwrap();
            run.broadcast(0, vec![1; 20_000]).await.unwrap();
            let all = run.gather(0, Kind::Broadcast, PATIENCE).await.unwrap();
            run.finish_confirmed(PATIENCE).await.unwrap();
            all
        })
    });
    let others: Vec<_> = others.collect();
    let opened = async {
        loop {
            let carriage = queues.open("party 1").await;
            let home = queues.home("party 1");
            match Sessions::open(&home, StoreKey::from_bytes(&[2; 32]), carriage) {
                Ok(sessions) => return sessions,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let again = tokio::time::timeout(PATIENCE, opened).await.unwrap();
    let session = again.resume("queues").await.unwrap();
    let session = session.formed(PATIENCE).await.unwrap();
    let run = session.execution(label).await.unwrap();
    assert_eq!(*run.seed(), seed);
    run.broadcast(0, seed.to_vec()).await.unwrap();
    let mine = run.gather(0, Kind::Broadcast, PATIENCE).await.unwrap();
    run.finish_confirmed(PATIENCE).await.unwrap();
    for other in others {
        assert_eq!(other.await.unwrap(), mine);
    }
}
