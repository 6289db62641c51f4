//! A range moves between two groups over TCP, while replicas die and the courier forgets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_realm::{
    Accepted, Access, BootKey, Card, ClientError, GroupClient, Member, Membership, Peer,
    RealmClient, Replica, Simulated, Verifier, now, serve,
};
use junto_vault::{
    Account, Answer, Attempt, Cost, Deposit, Ending, Errand, Genesis, GuessLimit, Hindrance,
    Operation, Order, Part, Pin, Progress, Quorum, Realm, RealmId, RealmSet, ReplicaId, Revocation,
    Roster, Side, Span, Step, Stretched, Todo, Word, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

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
        Self::wanting(number, everything, None).await
    }

    /// It lets ranges go only to members that show this.
    async fn wanting(number: u8, everything: bool, wanted: Option<Accepted>) -> Self {
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
                successors: wanted.map(|wanted| Arc::new(wanted) as Arc<dyn Verifier>),
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

    fn reached(&self) -> GroupClient {
        let members = self.card.members().iter();
        let addresses = members.map(|member| member.address.clone()).collect();
        GroupClient::new(id(), addresses).unwrap()
    }

    /// As long as it takes: a leader may have been lost.
    async fn take(&self, errand: &mut Errand, side: Side, step: &Step) {
        let (moved, proof) = self.reached().take(step, PATIENCE).await.unwrap();
        errand.heard(side, moved, proof);
    }

    async fn turn(&self) -> u64 {
        self.reached().ground(PATIENCE).await.unwrap().0
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
    view(client).await.0
}

async fn view(client: &RealmClient) -> (Roster, u16) {
    match client.ask(&Operation::View, PATIENCE).await.unwrap() {
        Answer::View(mut view) => view.versions.remove(0),
        _ => panic!("not a view"),
    }
}

/// Whether nobody answers who serves the record.
async fn is_unserved(client: &RealmClient) -> bool {
    let asked = client.ask(&Operation::View, Duration::from_secs(2)).await;
    matches!(asked, Err(ClientError::Absent(_)))
}

async fn order(source: &Group, destination: &Group) -> Order {
    let from = (source.card.group(), source.turn().await);
    let to = (destination.card.group(), destination.turn().await);
    Order::sign(&key(), from, to, Span::WHOLE).unwrap()
}

/// Carries for so many steps, and says how it ended if it did.
async fn carry(errand: &mut Errand, groups: [&Group; 2], steps: usize) -> Option<Ending> {
    for _ in 0..steps {
        match errand.todo() {
            Todo::Take(Side::Source, step) => groups[0].take(errand, Side::Source, &step).await,
            Todo::Take(side, step) => groups[1].take(errand, side, &step).await,
            Todo::Fetch(number) => {
                let id = errand.order().id();
                let parcel = groups[0].reached().parcel(&id, number, PATIENCE).await;
                errand.fetched(parcel.unwrap());
            }
            Todo::Done(ending) => return Some(ending),
        }
    }
    None
}

/// With a leader lost on either side, and a courier that forgets everything after every step, the record comes over with the
/// guesses that it had; the guess that was made there is free here; and the source sends its clients on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_moves_whoever_is_lost_on_the_way() {
    tokio::time::timeout(4 * PATIENCE, Box::pin(moves()))
        .await
        .unwrap();
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
    assert_eq!(view(&before).await.1, 2);
    assert!(is_unserved(&destination.client()).await);

    // Somebody asks all the while, and is never told anything but what is so.
    let (watched, watching) = (source.client(), Arc::new(Notify::new()));
    let ended = watching.clone();
    let watching = tokio::spawn(async move {
        let mut seen = 0_usize;
        loop {
            assert_eq!(view(&watched).await.1, 2);
            seen += 1;
            tokio::select! {
                () = watching.notified() => return seen,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    });
    let order = order(&source, &destination).await;
    // Further each time, and then anew.
    for steps in 1.. {
        let (from, to) = (source.card.clone(), destination.card.clone());
        let mut errand = Errand::new(order.clone(), from, to);
        let ending = carry(&mut errand, [&source, &destination], steps).await;
        match steps {
            1 => destination.kill_the_leader().await,
            2 => source.kill_the_leader().await,
            _ => {}
        }
        if let Some(ending) = ending {
            assert_eq!(ending, Ending::Moved);
            break;
        }
    }
    ended.notify_one();
    assert!(watching.await.unwrap() > 0);
    assert_eq!(source.reached().ground(PATIENCE).await.unwrap().1, []);
    // Who knows the source alone is sent on; who knows the other one as well needs the source no more.
    let (sent, after) = (source.client(), destination.client());
    for client in [&sent, &after] {
        assert_eq!(view(client).await, (roster.clone(), 2));
        let answer = client.ask(&guess, PATIENCE).await.unwrap();
        assert!(matches!(answer, Answer::Evaluation(_)));
        assert_eq!(view(client).await.1, 2);
    }
    drop(source);
    for client in [&sent, &after] {
        assert_eq!(view(client).await.1, 2);
    }
    destination.kill_the_leader().await;
}

/// A group that wants evidence of where its records go lets nothing go to members that show none, whoever ordered it; and what was
/// ordered can be taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_departs_to_members_that_do_not_show_what_is_wanted() {
    tokio::time::timeout(4 * PATIENCE, Box::pin(departs()))
        .await
        .unwrap();
}

/// Who knows an order cannot have its source dial whom he likes.
async fn leads_to_nobody_else(source: &Group, destination: &Group, order: &Order) {
    let prepare = Step::prepare(order.clone(), source.card.clone());
    let (said, proof) = destination
        .reached()
        .take(&prepare, PATIENCE)
        .await
        .unwrap();
    let Ok(Progress::Said(word)) = said else {
        panic!("not prepared")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let member = Member {
        id: ReplicaId([7; 32]),
        address: listener.local_addr().unwrap().to_string(),
    };
    let card = Card::sign(&key(), now(), Quorum::new(1, 0).unwrap(), vec![member]).unwrap();
    let depart = Step::depart(order.clone(), card, (word, proof.unwrap()));
    let (said, _) = source.reached().take(&depart, PATIENCE).await.unwrap();
    assert_eq!(said, Err(Hindrance::Foreign));
    let dialled = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(dialled.is_err());
}

async fn departs() {
    let careful = Some(Accepted::default());
    let source = Group::wanting(3, true, careful).await;
    let destination = Group::new(4, false).await;
    let client = source.client();
    let roster = store(&client).await;
    let order = order(&source, &destination).await;
    let cards = || (source.card.clone(), destination.card.clone());
    let mut errand = Errand::new(order.clone(), cards().0, cards().1);
    assert!(
        carry(&mut errand, [&source, &destination], 1)
            .await
            .is_none()
    );
    let Todo::Take(Side::Source, depart) = errand.todo() else {
        panic!("not to depart")
    };
    assert!(depart.lets_go_to().is_some());
    let refused = source
        .reached()
        .take(&depart, Duration::from_secs(20))
        .await;
    assert!(matches!(refused, Err(ClientError::Unproven)), "{refused:?}");
    assert_eq!(view(&client).await, (roster.clone(), 3));
    leads_to_nobody_else(&source, &destination, &order).await;
    let revocation = Revocation::sign(&key(), &order);
    let mut errand = Errand::revoke(order, cards().0, cards().1, revocation);
    let ending = carry(&mut errand, [&source, &destination], 10).await;
    assert_eq!(ending, Some(Ending::Never));
    assert_eq!(view(&client).await, (roster, 3));
    // Of what is over nobody needs to show anything: nothing leaves by it.
    let (said, _) = source.reached().take(&depart, PATIENCE).await.unwrap();
    assert!(matches!(said, Ok(Progress::Said(Word::Over { .. }))));

    // All of them have to show it: one that is away may have the records as well.
    let simulated = Some(OPTED_IN);
    let (source, mut destination) = (Group::wanting(5, true, simulated).await, destination);
    let order = self::order(&source, &destination).await;
    let cards = (source.card.clone(), destination.card.clone());
    let mut errand = Errand::new(order, cards.0, cards.1);
    assert!(
        carry(&mut errand, [&source, &destination], 1)
            .await
            .is_none()
    );
    destination.kill_the_leader().await;
    let Todo::Take(Side::Source, depart) = errand.todo() else {
        panic!("not to depart")
    };
    let refused = source
        .reached()
        .take(&depart, Duration::from_secs(20))
        .await;
    assert!(matches!(refused, Err(ClientError::Unproven)), "{refused:?}");
}

/// Nobody gets a step into a group's log with an order that is not its own realm's, or not of that group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_takes_steps_of_its_own_orders_alone() {
    let group = Group::new(6, true).await;
    let before = group.reached().ground(PATIENCE).await.unwrap();
    let other = SigningKey::from_seed(&[4; 32]);
    let (here, there) = (group.card.group(), junto_vault::GroupId([7; 32]));
    for order in [
        Order::sign(&other, (here, 0), (there, 0), Span::WHOLE).unwrap(),
        Order::sign(
            &key(),
            (there, 0),
            (junto_vault::GroupId([8; 32]), 0),
            Span::WHOLE,
        )
        .unwrap(),
    ] {
        let taken = group.reached().take(&Step::accept(order), PATIENCE).await;
        assert!(matches!(taken, Err(ClientError::Nonsense)), "{taken:?}");
    }
    assert_eq!(group.reached().ground(PATIENCE).await.unwrap(), before);
    let (reached, never) = (group.reached(), junto_vault::OrderId([1; 32]));
    let parcel = reached.parcel(&never, 0, PATIENCE);
    assert_eq!(parcel.await.unwrap(), None);
}
