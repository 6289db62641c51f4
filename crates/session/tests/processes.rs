//! A published protocol between separate processes: key generation and FROST signing of `givre`, which
//! knows nothing of Junto, among three operating system processes with a profile each, over a relay
//! that none of them runs. The processes are this test, started again with variables in their
//! environment.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

#[path = "../examples/frost/run.rs"]
mod run;

use core::time::Duration;
use std::time::Instant;
use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
};

use junto_agent::{Agent, AgentConfig};
use junto_crypto::{
    aead::StoreKey,
    ed25519::{Signature, VerifyingKey},
};
use junto_relay::{Relay, RelayConfig};
use junto_session::{
    DisplayName, Params, PartyCount, Persona, Policy, Sessions, Used, carrier::agent,
};
use junto_tls::ServerIdentity;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rustls::pki_types::UnixTime;

const TEST: &str = "strangers_in_processes_of_their_own_sign_with_frost";
/// The folder of the party that a process plays.
const HOME: &str = "JUNTO_TEST_FROST_HOME";
/// What it starts from: `host RELAY`, `join LINK` or `resume`.
const ROLE: &str = "JUNTO_TEST_FROST_ROLE";
const MESSAGE: &[u8] = b"signed by processes";
const PATIENCE: Duration = Duration::from_secs(120);
/// Whatever takes longer hangs: a process gives up by itself before.
const DEADLINE: Duration = Duration::from_secs(400);

/// One party: says `link …`, `formed CODE` and `signed KEY SIGNATURE`, each on a line.
async fn party(home: PathBuf, role: String) -> Result<(), run::FrostError> {
    let config = AgentConfig::new(home.join("agent.db"), StoreKey::from_bytes(&[1; 32]));
    let (agent, events) = Agent::open(config).await?;
    let carriage = agent::carriage(agent, events);
    let sessions = Sessions::open(&home, StoreKey::from_bytes(&[2; 32]), carriage)?;
    let persona = |relay: &str| -> Result<Persona, run::FrostError> {
        Ok(Persona {
            display_name: DisplayName::new("somebody")?,
            profile: None,
            relay: relay.to_owned(),
            pinned: Vec::new(),
        })
    };
    let forming = match role.split_once(' ') {
        Some(("host", relay)) => {
            let params = Params {
                name: "frost".to_owned(),
                parties: PartyCount::new(3)?,
                policy: Policy::Anonymous,
            };
            let made = sessions.new_session(params, persona(relay)?, PATIENCE);
            let (forming, link) = made.await?;
            println!("link {link}");
            forming
        }
        Some(("join", link)) => sessions.join(link.parse()?, persona("")?).await?,
        _ => sessions.resume("frost").await?,
    };
    let mut used = Used::default();
    sessions.note(forming.local(), &mut used).await?;
    let session = forming.formed(PATIENCE).await?;
    println!("formed {}", session.safety_code());
    let outcome = run::run_frost_example(&session, 2, MESSAGE, PATIENCE).await?;
    assert!(sessions.settle(&used, PATIENCE).await?);
    println!(
        "signed {} {}",
        outcome.public_key_hex(),
        outcome.signature_hex()
    );
    Ok(())
}

/// A process of a party, and what it says. It does not outlive the test.
struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(home: &Path, role: &str) -> Self {
        std::fs::create_dir_all(home).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(HOME, home)
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = stdout.lines().map_while(Result::ok);
            lines
                .take_while(|line| sender.send(line.clone()).is_ok())
                .count()
        });
        Self { child, lines }
    }

    /// The rest of the next line that has this word.
    fn says(&mut self, word: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no `{word}` of the process: {error}"));
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N);
    core::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}

#[test]
fn strangers_in_processes_of_their_own_sign_with_frost() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let (Some(home), Ok(role)) = (std::env::var_os(HOME), std::env::var(ROLE)) {
        return runtime.block_on(party(home.into(), role)).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let home = |name: &str| folder.path().join(name);
    let relay = runtime.block_on(async {
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let identity = ServerIdentity::ephemeral("127.0.0.1", &mut rng, UnixTime::now()).unwrap();
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = RelayConfig::in_memory("127.0.0.1", bind).unwrap();
        Relay::start(config, identity).await.unwrap()
    });
    let mut host = Process::start(&home("host"), &format!("host {}", relay.address()));
    let join = format!("join {}", host.says("link "));
    let mut parties = vec![
        host,
        Process::start(&home("first"), &join),
        Process::start(&home("second"), &join),
    ];
    let codes: Vec<_> = parties.iter_mut().map(|it| it.says("formed ")).collect();
    assert!(codes.iter().all(|code| *code == codes[0]), "{codes:?}");

    // One dies somewhere in the protocol and comes back: a foreign protocol goes on like ours.
    let mut last = parties.pop().unwrap();
    last.kill();
    let mut again = Process::start(&home("second"), "resume");
    assert_eq!(again.says("formed "), codes[0]);
    parties.push(again);

    let signed: Vec<_> = parties.iter_mut().map(|it| it.says("signed ")).collect();
    let mut signatures = 0;
    for said in &signed {
        let (key, signature) = said.split_once(' ').unwrap_or((said, ""));
        assert!(signed[0].starts_with(key), "one key for all");
        if !signature.is_empty() {
            let key = VerifyingKey::from_bytes(&bytes(key)).unwrap();
            let signature = Signature::try_from(&bytes::<64>(signature)[..]).unwrap();
            key.verify(MESSAGE, &signature).unwrap();
            assert!(key.verify(b"another message", &signature).is_err());
            signatures += 1;
        }
    }
    assert_eq!(signatures, 2, "two of three sign");
}
