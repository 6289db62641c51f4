//! Groups over real TCP: members by their keys, clients by card and evidence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_realm::{
    Accepted, Access, BootKey, Card, ClientError, EvidenceError, Member, Membership, Peer,
    RealmClient, Replica, Simulated, now, serve,
};
use junto_vault::{
    Account, Answer, Attempt, Cost, Deposit, Evaluation, Genesis, Given, GuessLimit, Operation,
    Part, Pin, Quorum, Realm, RealmId, RealmSet, Roster, Stretched, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

const OPTED_IN: Accepted = Accepted { simulated: true };
/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// As long as something is watched that is not to happen.
const WATCH: Duration = Duration::from_secs(4);

fn tenant() -> SigningKey {
    SigningKey::from_seed(&[5; 32])
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn id() -> RealmId {
    RealmId(*key().verifying_key().as_bytes())
}

fn account() -> Account {
    Account::new("junto", "ada").unwrap()
}

fn realm() -> Realm {
    Realm::new(Genesis {
        realm: id(),
        secret: Zeroizing::new([6; 32]),
        tenants: BTreeMap::from([("junto".to_owned(), tenant().verifying_key())]),
        records_max: 100,
        time: now(),
    })
    .unwrap()
}

/// A running replica. Ends when it is dropped, as a process does that is killed.
struct Running {
    replica: Arc<Replica>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Group {
    running: Vec<Running>,
    addresses: Vec<String>,
}

impl Group {
    /// With keys of its own; `vouched` says who its card names.
    async fn of(n: u8, vouched: impl Fn(&BootKey) -> [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed([n; 32]);
        let quorum = Quorum::new(n, 0).unwrap();
        let began = realm();
        let (mut starting, mut peers, mut members) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let key = BootKey::generate(&mut rng);
            let bind = || TcpListener::bind("127.0.0.1:0");
            let (inner, outer) = (bind().await.unwrap(), bind().await.unwrap());
            let address = |it: &TcpListener| it.local_addr().unwrap().to_string();
            peers.push(Peer {
                id: key.id(),
                address: address(&inner),
            });
            members.push(Member {
                id: junto_vault::ReplicaId(vouched(&key)),
                address: address(&outer),
            });
            starting.push((key, inner, outer));
        }
        members.sort_by_key(|member| member.id);
        let addresses = members.iter().map(|it| it.address.clone()).collect();
        let card = Card::sign(&self::key(), began.time(), quorum, members).unwrap();
        let ids: Vec<_> = peers.iter().map(|peer| peer.id).collect();
        let mut running = Vec::new();
        for (key, inner, outer) in starting {
            let membership = Membership {
                key,
                members: peers.clone(),
                attestation: Arc::new(Simulated),
                verifier: Arc::new(OPTED_IN),
                successors: None,
            };
            let realm = Realm::restore(&began.snapshot()).unwrap();
            let replica = Replica::join(realm, quorum, membership).await.unwrap();
            let replica = Arc::new(replica);
            let serving = serve(replica.clone(), card.clone(), inner, outer);
            let task = tokio::spawn(async { serving.await.unwrap() });
            replica.begin(&ids).await.unwrap();
            running.push(Running { replica, task });
        }
        Self { running, addresses }
    }

    async fn honest(n: u8) -> Self {
        Self::of(n, |key| key.id().0).await
    }

    fn client(&self, accepted: Accepted) -> RealmClient {
        client(id(), self.addresses.clone(), accepted)
    }

    /// Ends one replica, as a crash does.
    async fn kill(&mut self, at: usize) {
        let killed = self.running.remove(at);
        killed.task.abort();
        killed.replica.stop().await;
    }

    async fn leader(&self) -> usize {
        loop {
            let leads = |it: &Running| it.replica.leader() == Some(it.replica.id());
            if let Some(at) = self.running.iter().position(leads) {
                return at;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn client(realm: RealmId, addresses: Vec<String>, accepted: Accepted) -> RealmClient {
    let access = Access {
        account: account(),
        tenant: tenant(),
    };
    RealmClient::new(realm, addresses, accepted, Arc::new(access)).unwrap()
}

fn set() -> RealmSet {
    RealmSet::new(vec![id()], 1).unwrap()
}

fn cost() -> Cost {
    Cost::new(16 * 1024, 12, 1).unwrap()
}

async fn store(client: &RealmClient) {
    let pin = Pin::new("2841").unwrap();
    let limit = GuessLimit::new(3, 9).unwrap();
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let (_, mut parts) = enrol(&pin, &account(), &set(), cost(), limit, &mut rng).unwrap();
    let Part { deposit, auth, .. } = parts.remove(0);
    let version = deposit.version();
    let deposit = Deposit::from_bytes(&deposit.to_bytes(), &id()).unwrap();
    let stage = Operation::Stage(Box::new(deposit));
    let activate = Operation::Activate {
        version,
        auth,
        former: None,
    };
    for operation in [stage, activate] {
        let answer = client.ask(&operation, PATIENCE).await.unwrap();
        assert!(matches!(answer, Answer::Done));
    }
}

async fn view(client: &RealmClient) -> (Roster, u16) {
    match client.ask(&Operation::View, PATIENCE).await.unwrap() {
        Answer::View(mut view) => view.versions.remove(0),
        _ => panic!("not a view"),
    }
}

async fn evaluated(client: &RealmClient, attempt: &Attempt, roster: &Roster) -> Evaluation {
    let operation = Operation::Evaluate {
        version: roster.version(),
        element: attempt.element(),
    };
    match client.ask(&operation, PATIENCE).await.unwrap() {
        Answer::Evaluation(evaluation) => evaluation,
        _ => panic!("not evaluated"),
    }
}

fn attempt(typed: &str, roster: &Roster, seed: u8) -> Attempt {
    let pin = Pin::again(typed).unwrap();
    let stretched = Stretched::new(&pin, &account(), &set(), &roster.version(), cost());
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    Attempt::new(stretched.unwrap(), roster.clone(), &mut rng)
}

/// Of three replicas one may be gone, whichever; two of them gone, and nothing is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_tcp_outlives_its_leader_and_no_more() {
    let mut group = Group::honest(3).await;
    let client = group.client(OPTED_IN);
    store(&client).await;
    let (roster, left) = view(&client).await;
    assert_eq!(left, 3);
    let right = attempt("2841", &roster, 1);
    let first = evaluated(&client, &right, &roster).await;
    group.kill(group.leader().await).await;
    // The same guess again: another leader says the same, and charges nothing.
    let again = evaluated(&client, &right, &roster).await;
    assert_eq!(first.to_bytes()[..32], again.to_bytes()[..32]);
    assert_eq!(view(&client).await.1, 2);
    let claims = right.claims(&BTreeMap::from([(id(), again)])).unwrap();
    let claim = Operation::Claim {
        version: roster.version(),
        auth: claims.auth_key(&id()),
    };
    let given: Given = match client.ask(&claim, PATIENCE).await.unwrap() {
        Answer::Given(given) => given,
        _ => panic!("not given"),
    };
    assert!(claims.open(&BTreeMap::from([(id(), given)])).is_ok());
    group.kill(0).await;
    let alone = client.ask(&Operation::View, WATCH).await;
    assert!(matches!(alone, Err(ClientError::Absent(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_talks_to_nobody_but_the_realm() {
    let group = Group::honest(1).await;
    // Its evidence proves nothing, and the client did not say that this will do.
    let careful = group.client(Accepted::default());
    let refused = careful.ask(&Operation::View, PATIENCE).await;
    let simulated = EvidenceError::Simulated;
    assert!(matches!(refused, Err(ClientError::Evidence(it)) if it == simulated));
    // Another realm's replica.
    let other = RealmId(*tenant().verifying_key().as_bytes());
    let refused = client(other, group.addresses.clone(), OPTED_IN);
    let refused = refused.ask(&Operation::View, PATIENCE).await;
    assert!(matches!(refused, Err(ClientError::Stranger)));
    // Somebody who shows a card of the realm, but has none of the keys on it.
    let between = Group::of(1, |_| [7; 32]).await;
    let refused = between.client(OPTED_IN);
    let refused = refused.ask(&Operation::View, PATIENCE).await;
    assert!(matches!(refused, Err(ClientError::Stranger)));
    // Somebody who is no tenant's user.
    let access = Access {
        account: account(),
        tenant: key(),
    };
    let refused = RealmClient::new(id(), group.addresses.clone(), OPTED_IN, Arc::new(access));
    let refused = refused.unwrap().ask(&Operation::View, PATIENCE).await;
    assert!(matches!(refused, Err(ClientError::Unauthorised)));
    assert!(
        group
            .client(OPTED_IN)
            .ask(&Operation::View, PATIENCE)
            .await
            .is_ok()
    );
}

/// Connections that say nothing are ended, and those above the limit at once; then clients are served again.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_keep_a_door_shut() {
    let group = Group::honest(1).await;
    let client = group.client(OPTED_IN);
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(&group.addresses[0]).await.unwrap());
    }
    // The last one is shut out while the first one still has its place.
    let mut byte = [0];
    let last = silent.last_mut().unwrap().read(&mut byte);
    let last = tokio::time::timeout(PATIENCE, last).await.unwrap();
    assert!(!matches!(last, Ok(1..)), "{last:?}");
    let first = silent[0].try_read(&mut byte).unwrap_err();
    assert_eq!(first.kind(), std::io::ErrorKind::WouldBlock);
    store(&client).await;
    assert_eq!(view(&client).await.1, 3);
    drop(silent);
}

/// An address of several at which somebody else answers, or something that is no realm, does not hide the realm; nor is
/// anybody blamed for what was said before it was known who says it.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_address_does_not_hide_a_realm() {
    let group = Group::honest(1).await;
    let between = Group::of(1, |_| [7; 32]).await;
    let junk = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at_junk = junk.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = junk.accept().await.unwrap();
            let said = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            kept.push((stream, said));
        }
    });
    for bad in [at_junk, between.addresses[0].clone()] {
        let addresses = vec![bad.clone(), group.addresses[0].clone()];
        let among = client(id(), addresses, OPTED_IN);
        assert!(among.ask(&Operation::View, PATIENCE).await.is_ok());
        assert!(among.card(PATIENCE).await.is_ok());
        let alone = client(id(), vec![bad], OPTED_IN);
        let refused = alone.ask(&Operation::View, PATIENCE).await;
        assert!(matches!(refused, Err(ClientError::Stranger)));
    }
}
