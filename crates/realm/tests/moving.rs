//! A range moves between two groups over TCP, while replicas die and the courier forgets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_realm::{
    Accepted, Access, AskError, BootKey, Card, Member, Membership, Peer, RealmClient, Replica,
    Simulated, now, serve,
};
use junto_vault::{
    Account, Answer, Attempt, Cost, Deposit, Ending, Errand, Genesis, GuessLimit, Operation, Order,
    Part, Pin, Quorum, Realm, RealmId, RealmSet, Refusal, ReplicaId, Roster, Side, Span, Step,
    Stretched, Todo, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{net::TcpListener, task::JoinHandle};

const OPTED_IN: Accepted = Accepted { simulated: true };
/// It only turns what hangs into a failure.
const PATIENCE: Duration = Duration::from_secs(60);

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

struct Group {
    card: Card,
    running: Vec<(Arc<Replica>, JoinHandle<()>)>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.running.iter().for_each(|(_, task)| task.abort());
    }
}

impl Group {
    async fn new(number: u8, everything: bool) -> Self {
        let mut rng = ChaCha20Rng::from_seed([number; 32]);
        let quorum = Quorum::new(4, 1).unwrap();
        let (mut starting, mut peers, mut members) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..4 {
            let key = BootKey::generate(&mut rng);
            let bind = || TcpListener::bind("127.0.0.1:0");
            let (inner, outer) = (bind().await.unwrap(), bind().await.unwrap());
            let address = |it: &TcpListener| it.local_addr().unwrap().to_string();
            let (id, address) = (key.id(), (address(&inner), address(&outer)));
            peers.push(Peer {
                id,
                address: address.0,
            });
            members.push(Member {
                id,
                address: address.1,
            });
            starting.push((key, inner, outer));
        }
        members.sort_by_key(|member| member.id);
        let time = now();
        let card = Card::sign(&self::key(), time, quorum, members).unwrap();
        let ids: Vec<ReplicaId> = peers.iter().map(|peer| peer.id).collect();
        let mut running = Vec::new();
        for (key, inner, outer) in starting {
            let membership = Membership {
                key,
                members: peers.clone(),
                attestation: Arc::new(Simulated),
                verifier: Arc::new(OPTED_IN),
            };
            let genesis = Genesis {
                realm: id(),
                secret: Zeroizing::new([6; 32]),
                tenants: BTreeMap::from([("junto".to_owned(), tenant().verifying_key())]),
                records_max: 100,
                time,
            };
            let realm = Realm::of_group(genesis, card.group(), everything).unwrap();
            let replica = Replica::join(realm, quorum, membership).await.unwrap();
            let replica = Arc::new(replica);
            let serving = serve(replica.clone(), card.clone(), inner, outer);
            let task = tokio::spawn(async { serving.await.unwrap() });
            replica.begin(&ids).await.unwrap();
            running.push((replica, task));
        }
        Self { card, running }
    }

    fn client(&self) -> RealmClient {
        let access = Access {
            account: account(),
            tenant: tenant(),
        };
        let there = self.running.iter().map(|(replica, _)| replica.id());
        let there: Vec<_> = there.collect();
        let members = self.card.members().iter();
        let members = members.filter(|member| there.contains(&member.id));
        let addresses = members.map(|member| member.address.clone()).collect();
        RealmClient::new(id(), addresses, OPTED_IN, Arc::new(access)).unwrap()
    }

    /// As long as it takes: a leader may have been lost.
    async fn take(&self, errand: &mut Errand, side: Side, step: &Step) {
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        loop {
            for (replica, _) in &self.running {
                let step = Step::from_bytes(&step.to_bytes()).unwrap();
                match replica.take(step, &self.card, now(), &mut rng).await {
                    Ok((moved, proof)) => return errand.heard(side, moved, proof),
                    Err(AskError::Elsewhere(_) | AskError::Unheld) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn turn(&self) -> u64 {
        let turns = self.running.iter().map(|(replica, _)| replica.turn());
        turns.max().unwrap().unwrap()
    }

    async fn kill_the_leader(&mut self) {
        let leads = |(it, _): &(Arc<Replica>, JoinHandle<()>)| it.leader() == Some(it.id());
        let at = loop {
            match self.running.iter().position(leads) {
                Some(at) => break at,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let (replica, task) = self.running.remove(at);
        task.abort();
        replica.stop().await;
    }
}

async fn store(client: &RealmClient) -> Roster {
    let (pin, limit) = (Pin::new("2841").unwrap(), GuessLimit::new(3, 9).unwrap());
    let set = RealmSet::new(vec![id()], 1).unwrap();
    let cost = Cost::new(16 * 1024, 12, 1).unwrap();
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let (_, mut parts) = enrol(&pin, &account(), &set, cost, limit, &mut rng).unwrap();
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
    view(client).await.unwrap().0
}

async fn view(client: &RealmClient) -> Result<(Roster, u16), Refusal> {
    match client.ask(&Operation::View, PATIENCE).await.unwrap() {
        Answer::View(mut view) => Ok(view.versions.remove(0)),
        Answer::Refused(refusal) => Err(refusal),
        _ => panic!("not a view"),
    }
}

/// With a leader lost on either side, and a courier that forgets everything after every step, the record comes over with the
/// guesses that it had; the guess that was made there is free here; and the source sends its clients on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_moves_whoever_is_lost_on_the_way() {
    tokio::time::timeout(4 * PATIENCE, moves()).await.unwrap();
}

async fn moves() {
    let (mut source, mut destination) = (Group::new(1, true).await, Group::new(2, false).await);
    let before = source.client();
    let roster = store(&before).await;
    let set = RealmSet::new(vec![id()], 1).unwrap();
    let pin = Pin::again("1111").unwrap();
    let stretched = Stretched::new(&pin, &account(), &set, &roster.version(), roster.cost());
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let attempt = Attempt::new(stretched.unwrap(), roster.clone(), &mut rng);
    let guess = Operation::Evaluate {
        version: roster.version(),
        element: attempt.element(),
    };
    let answer = before.ask(&guess, PATIENCE).await.unwrap();
    assert!(matches!(answer, Answer::Evaluation(_)));
    assert_eq!(view(&before).await.unwrap().1, 2);
    let nobody = view(&destination.client()).await;
    assert_eq!(nobody.unwrap_err(), Refusal::Elsewhere(None));

    let sides = [&source, &destination].map(|it| (it.card.group(), it.turn()));
    let order = Order::sign(&key(), sides[0], sides[1], Span::WHOLE).unwrap();
    let anew = |source: &Group, destination: &Group| {
        let (from, to) = (source.card.clone(), destination.card.clone());
        Errand::new(order.clone(), from, to)
    };
    // Further each time, and then anew.
    for steps in 1.. {
        let mut errand = anew(&source, &destination);
        for _ in 0..steps {
            match errand.todo() {
                Todo::Take(Side::Source, step) => {
                    source.take(&mut errand, Side::Source, &step).await;
                }
                Todo::Take(Side::Destination, step) => {
                    destination
                        .take(&mut errand, Side::Destination, &step)
                        .await;
                }
                Todo::Fetch(number) => {
                    let parcel = |(it, _): &(Arc<Replica>, _)| it.parcel(&order.id(), number);
                    errand.fetched(source.running.iter().find_map(parcel));
                }
                Todo::Done(_) => break,
            }
        }
        match steps {
            1 => destination.kill_the_leader().await,
            2 => source.kill_the_leader().await,
            _ => {}
        }
        if let Todo::Done(ending) = errand.todo() {
            assert_eq!(ending, Ending::Moved);
            break;
        }
    }
    let gone = view(&source.client()).await;
    let there = Some(destination.card.group());
    assert_eq!(gone.unwrap_err(), Refusal::Elsewhere(there));
    let after = destination.client();
    assert_eq!(view(&after).await.unwrap(), (roster, 2));
    let answer = after.ask(&guess, PATIENCE).await.unwrap();
    assert!(matches!(answer, Answer::Evaluation(_)));
    assert_eq!(view(&after).await.unwrap().1, 2);
}
