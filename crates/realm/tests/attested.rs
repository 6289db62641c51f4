//! A realm on machines that show real evidence, made under roots of our own, and who talks to it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

#[path = "../../evidence/tests/mint/mod.rs"]
mod mint;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_evidence::{Floor, Kind, Measurement, Policy, Refusal, Standing, report_data, verify};
use junto_realm::{
    Accepted, Access, Attestation, BootKey, Bound, Card, ClientError, Evidence, EvidenceError,
    Judge, Member, Membership, Peer, RealmClient, Replica, Simulated, Verifier, now, serve,
};
use junto_vault::{Account, Genesis, Operation, Quorum, Realm, RealmId, ReplicaId};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{net::TcpListener, task::JoinSet};

/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(60);
const OPTED_IN: Accepted = Accepted { simulated: true };

/// A machine of the mint's.
struct Machine(Kind);

impl Attestation for Machine {
    fn prove(&self, bound: &Bound) -> io::Result<Evidence> {
        let data = report_data(&bound.0);
        let bytes = match self.0 {
            Kind::Snp => mint::AMD.evidence(data),
            _ => mint::INTEL.evidence(data),
        };
        Ok(Evidence::of(self.0, bytes))
    }
}

/// Shows what another machine showed on another channel.
struct Replays(Machine);

impl Attestation for Replays {
    fn prove(&self, _: &Bound) -> io::Result<Evidence> {
        self.0.prove(&Bound([0x77; 32]))
    }
}

struct Broken;

impl Attestation for Broken {
    fn prove(&self, _: &Bound) -> io::Result<Evidence> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn policy() -> Policy {
    let mut policy = Policy::default();
    for kind in [Kind::Snp, Kind::Sgx] {
        let shown = Machine(kind).prove(&Bound([0; 32])).unwrap().to_bytes();
        let held = verify(kind, &shown[1..], &mint::roots(), mint::NOW).unwrap();
        policy.measurements.insert(held.measurement().clone());
        policy.nodes.extend(held.node());
        if let Standing::Amd { product, tcb } = *held.standing() {
            policy.amd.least.insert(product, tcb);
        }
    }
    policy
}

/// With what it kept.
fn judging(policy: Policy) -> (Judge, Arc<Mutex<Floor>>) {
    let kept = Arc::new(Mutex::new(Floor::default()));
    let there = kept.clone();
    let keep = move |floor: Floor| {
        let mut there = there.lock().unwrap();
        *there = there.joined(floor);
        Ok(*there)
    };
    let judge = Judge::new(policy, Floor::default(), Box::new(keep));
    (judge.for_tests(mint::roots(), || mint::NOW), kept)
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[3; 32])
}

fn tenant() -> SigningKey {
    SigningKey::from_seed(&[5; 32])
}

fn id() -> RealmId {
    RealmId(*key().verifying_key().as_bytes())
}

struct Group {
    addresses: Vec<String>,
    _serving: JoinSet<()>,
}

impl Group {
    async fn of(
        n: u8,
        attestation: impl Fn() -> Arc<dyn Attestation>,
        verifier: impl Fn() -> Arc<dyn Verifier>,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed([n; 32]);
        let quorum = Quorum::new(n, 0).unwrap();
        let began = Realm::new(Genesis {
            realm: id(),
            secret: Zeroizing::new([6; 32]),
            tenants: BTreeMap::from([("junto".to_owned(), tenant().verifying_key())]),
            records_max: 10,
            time: now(),
        })
        .unwrap();
        let (mut starting, mut peers, mut members) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            let key = BootKey::generate(&mut rng);
            let bind = || TcpListener::bind("127.0.0.1:0");
            let (inner, outer) = (bind().await.unwrap(), bind().await.unwrap());
            let address = |it: &TcpListener| it.local_addr().unwrap().to_string();
            let id = key.id();
            peers.push(Peer {
                id,
                address: address(&inner),
            });
            members.push(Member {
                id,
                address: address(&outer),
            });
            starting.push((key, inner, outer));
        }
        members.sort_by_key(|member| member.id);
        let addresses = members.iter().map(|it| it.address.clone()).collect();
        let card = Card::sign(&self::key(), began.time(), quorum, members).unwrap();
        let ids: Vec<ReplicaId> = peers.iter().map(|peer| peer.id).collect();
        let mut serving = JoinSet::new();
        for (key, inner, outer) in starting {
            let membership = Membership {
                key,
                members: peers.clone(),
                attestation: attestation(),
                verifier: verifier(),
                successors: None,
            };
            let realm = Realm::restore(&began.snapshot()).unwrap();
            let replica = Replica::join(realm, quorum, membership).await.unwrap();
            let replica = Arc::new(replica);
            let doors = serve(replica.clone(), card.clone(), inner, outer);
            serving.spawn(async { doors.await.unwrap() });
            replica.begin(&ids).await.unwrap();
        }
        Self {
            addresses,
            _serving: serving,
        }
    }

    /// One replica, which shows that.
    async fn showing(attestation: impl Attestation + 'static) -> Self {
        let attestation: Arc<dyn Attestation> = Arc::new(attestation);
        Self::of(1, || attestation.clone(), || Arc::new(OPTED_IN)).await
    }

    fn client(&self, judge: Judge) -> RealmClient {
        let access = Access {
            account: Account::new("junto", "ada").unwrap(),
            tenant: tenant(),
        };
        let addresses = self.addresses.clone();
        RealmClient::new(id(), addresses, Accepted::default(), Arc::new(access))
            .unwrap()
            .judged_by(Arc::new(judge))
    }

    async fn refuses(&self, judge: Judge) -> EvidenceError {
        let asked = self.client(judge).ask(&Operation::View, PATIENCE).await;
        match asked {
            Err(ClientError::Evidence(error)) => error,
            Ok(_) => panic!("answered"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Members judge each other, and a client judges the one that answers it.
#[tokio::test(flavor = "multi_thread")]
async fn a_realm_on_real_machines_is_verified_by_its_members_and_clients() {
    let group = Group::of(
        3,
        || Arc::new(Machine(Kind::Snp)),
        || Arc::new(judging(policy()).0),
    )
    .await;
    let (judge, kept) = judging(policy());
    let client = group.client(judge);
    assert!(client.ask(&Operation::View, PATIENCE).await.is_ok());
    // What was learnt of the day is kept.
    assert_ne!(*kept.lock().unwrap(), Floor::default());
    let quotes = Group::showing(Machine(Kind::Sgx)).await;
    let client = quotes.client(judging(policy()).0);
    assert!(client.ask(&Operation::View, PATIENCE).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_refuses_a_realm_whose_evidence_does_not_do() {
    let good = Group::showing(Machine(Kind::Snp)).await;
    // Another program; another chip.
    let measured = Measurement::Snp(mint::amd::MEASUREMENT);
    let mut other = policy();
    other.measurements.remove(&measured);
    let refused = good.refuses(judging(other).0).await;
    assert_eq!(refused, Refusal::Measurement(measured).into());
    let mut other = policy();
    other.nodes.clear();
    let refused = good.refuses(judging(other).0).await;
    assert!(matches!(
        refused,
        EvidenceError::Refused(Refusal::Node(Some(_)))
    ));
    // The roots of the mint are no vendor's.
    let (judge, kept) = judging(policy());
    let refused = good.refuses(judge.for_tests(junto_evidence::Roots::vendors(), || mint::NOW));
    assert!(matches!(
        refused.await,
        EvidenceError::Refused(Refusal::Amd(_))
    ));
    assert_eq!(*kept.lock().unwrap(), Floor::default());
    // Good evidence that was made for another channel.
    let replays = Group::showing(Replays(Machine(Kind::Snp))).await;
    let refused = replays.refuses(judging(policy()).0).await;
    assert_eq!(refused, Refusal::Unbound.into());
    // What cannot be kept is not relied on.
    let keep = Box::new(|_| Err(io::ErrorKind::PermissionDenied.into()));
    let judge = Judge::new(policy(), Floor::default(), keep);
    let refused = good.refuses(judge.for_tests(mint::roots(), || mint::NOW));
    assert!(matches!(refused.await, EvidenceError::Floor(_)));
}

/// A policy for real machines lets in what is simulated only if that was said, too; and who said only that gets nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn simulated_and_real_evidence_do_not_stand_for_each_other() {
    let simulated = Group::showing(Simulated).await;
    let refused = simulated.refuses(judging(policy()).0).await;
    assert_eq!(refused, EvidenceError::Simulated);
    let opted = simulated.client(judging(policy()).0.or(OPTED_IN));
    assert!(opted.ask(&Operation::View, PATIENCE).await.is_ok());
    let real = Machine(Kind::Snp).prove(&Bound([1; 32])).unwrap();
    let refused = OPTED_IN.verify(&real, &Bound([1; 32]));
    assert_eq!(refused, Err(EvidenceError::NoPolicy(Kind::Snp)));
}

/// A machine that cannot show anything says nothing at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_evidence_answers_nobody() {
    let broken = Group::showing(Broken).await;
    let client = broken.client(judging(policy()).0);
    let asked = client.ask(&Operation::View, Duration::from_secs(2)).await;
    assert!(matches!(asked, Err(ClientError::Absent(_))));
}

/// The kernel's folder, as a test can make it: what goes in is bound to the channel, and what comes out is judged.
#[cfg(target_os = "linux")]
#[test]
fn the_kernels_folder_gives_evidence() {
    use std::fs;

    use junto_realm::Tsm;
    use mint::{ISSUED, UNTIL, VALID, amd::Key, der::authority};

    let dir = tempfile::tempdir().unwrap();
    let (folder, collateral) = (dir.path().join("report"), dir.path().join("collateral"));
    let tsm = Tsm::new(folder, collateral.clone());
    let entry = tsm.entry();
    let bound = Bound([0x42; 32]);
    // No such kernel.
    assert!(tsm.prove(&bound).is_err());
    fs::create_dir_all(&entry).unwrap();
    fs::create_dir_all(&collateral).unwrap();
    let put = |name: &str, bytes: &[u8]| fs::write(entry.join(name), bytes).unwrap();
    put("provider", b"sev_guest\n");
    put("inblob", b"");
    put("generation", b"1\n");
    put("outblob", &mint::AMD.report(report_data(&bound.0), |_| ()));
    // What its owner has to fetch is not there.
    assert!(tsm.prove(&bound).is_err());
    let beside = |name: &str, bytes: &[u8]| fs::write(collateral.join(name), bytes).unwrap();
    beside("key.der", &mint::AMD.key(&Key::vcek()));
    beside("ask.der", &mint::AMD.ask(VALID, &authority()));
    beside("crl.der", &mint::AMD.crl(&[], [ISSUED, UNTIL], &[]));
    let shown = tsm.prove(&bound).unwrap();
    assert_eq!(
        fs::read(entry.join("inblob")).unwrap(),
        report_data(&bound.0)
    );
    assert_eq!(judging(policy()).0.verify(&shown, &bound), Ok(()));
    let other = judging(policy()).0.verify(&shown, &Bound([0x43; 32]));
    assert_eq!(other, Err(Refusal::Unbound.into()));
    // A machine under TDX, with a quote of the mint's.
    let good = mint::intel::Collateral::good(true);
    put("provider", b"tdx_guest\n");
    put("outblob", &mint::INTEL.tdx(report_data(&bound.0), |_| ()));
    beside("intel.json", mint::INTEL.collateral(&good).as_bytes());
    let shown = tsm.prove(&bound).unwrap();
    let mut with = policy();
    let machine = Measurement::Tdx(Box::new(mint::intel::MACHINE));
    with.measurements.insert(machine);
    assert_eq!(judging(with).0.verify(&shown, &bound), Ok(()));
    put("provider", b"arm_cca_guest\n");
    assert_eq!(
        tsm.prove(&bound).err().unwrap().kind(),
        io::ErrorKind::Unsupported
    );
}
