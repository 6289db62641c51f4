//! Groups of replicas over a fabric, with a clock that stands still while anything can go on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers")]

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use junto_crypto::{Zeroizing, ed25519::SigningKey};
use junto_realm::{AskError, Fabric, Replica};
use junto_vault::{
    Account, Answer, AuthKey, BlindedElement, Cost, Deposit, Genesis, GuessLimit, Operation, Part,
    Pin, Quorum, Realm, RealmId, RealmSet, Refusal, ReplicaId, Seconds, Token, Version, enrol,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::time::sleep;

const REALM: RealmId = RealmId([1; 32]);
const BEGAN: Seconds = Seconds(1_700_000_000);
const GUESSES: u16 = 3;

struct Stored {
    deposit: Vec<u8>,
    version: Version,
    auth: [u8; 32],
}

static STORED: LazyLock<Stored> = LazyLock::new(|| {
    let set = RealmSet::new(vec![REALM], 1).unwrap();
    let (_, mut parts) = enrol(
        &Pin::new("2841").unwrap(),
        &Account::new("junto", "ada").unwrap(),
        &set,
        Cost::new(16 * 1024, 12, 1).unwrap(),
        GuessLimit::new(GUESSES, 9).unwrap(),
        &mut ChaCha20Rng::from_seed([1; 32]),
    )
    .unwrap();
    let Part { deposit, auth, .. } = parts.remove(0);
    Stored {
        deposit: deposit.to_bytes().to_vec(),
        version: deposit.version(),
        auth: *auth.as_bytes(),
    }
});

fn tenant() -> SigningKey {
    SigningKey::from_seed(&[5; 32])
}

fn realm() -> Realm {
    Realm::new(Genesis {
        realm: REALM,
        secret: Zeroizing::new([6; 32]),
        tenants: BTreeMap::from([("junto".to_owned(), tenant().verifying_key())]),
        records_max: 1000,
        time: BEGAN,
    })
    .unwrap()
}

fn stage() -> Operation {
    Operation::Stage(Box::new(
        Deposit::from_bytes(&STORED.deposit, &REALM).unwrap(),
    ))
}

fn activate() -> Operation {
    Operation::Activate {
        version: STORED.version,
        auth: AuthKey::from_bytes(&STORED.auth),
        former: None,
    }
}

/// Guesses with an element of their own.
fn guess(number: u8) -> Operation {
    let mut seed = [0; 32];
    seed[0] = number;
    // Any valid point is as good as a blinded PIN: take public keys of a throwaway set.
    let set = RealmSet::new(vec![RealmId(seed)], 1).unwrap();
    let (_, parts) = enrol(
        &Pin::new("2841").unwrap(),
        &Account::new("junto", "ada").unwrap(),
        &set,
        Cost::new(16 * 1024, 12, 1).unwrap(),
        GuessLimit::new(1, 1).unwrap(),
        &mut ChaCha20Rng::from_seed(seed),
    )
    .unwrap();
    let bytes = parts[0].deposit.to_bytes();
    // Behind four fields, two limits, version, cost, two counts and the realm's id: its public share.
    let point = bytes[132 + 16 + 12 + 2 + 32..][..32].try_into().unwrap();
    Operation::Evaluate {
        version: STORED.version,
        element: BlindedElement::from_bytes(point).unwrap(),
    }
}

fn claim(right: bool) -> Operation {
    let auth = if right { STORED.auth } else { [0; 32] };
    Operation::Claim {
        version: STORED.version,
        auth: AuthKey::from_bytes(&auth),
    }
}

struct Group {
    fabric: Fabric,
    quorum: Quorum,
    replicas: Vec<Replica>,
    rng: ChaCha20Rng,
}

impl Group {
    async fn of(n: u8, rollbacks: u8) -> Self {
        let mut group = Self {
            fabric: Fabric::default(),
            quorum: Quorum::new(n, rollbacks).unwrap(),
            replicas: Vec::new(),
            rng: ChaCha20Rng::from_seed([n; 32]),
        };
        for _ in 0..n {
            group.boot().await;
        }
        let members: Vec<_> = group.replicas.iter().map(Replica::id).collect();
        group.replicas[0].begin(&members).await.unwrap();
        group
    }

    async fn boot(&mut self) {
        let replica = Replica::start(realm(), self.quorum, &self.fabric, &mut self.rng);
        self.replicas.push(replica.await.unwrap());
    }

    fn at(&self, id: ReplicaId) -> usize {
        self.replicas
            .iter()
            .position(|replica| replica.id() == id)
            .unwrap()
    }

    /// One try at each replica.
    async fn ask_once(&mut self, operation: impl Fn() -> Operation) -> Result<Answer, AskError> {
        let mut last = AskError::Elsewhere(None);
        for replica in &self.replicas {
            let account = Account::new("junto", "ada").unwrap();
            let token = Token::issue(account, &REALM, Seconds(BEGAN.0 + 500), &tenant());
            let class = operation().class();
            match replica.ask(&token, operation(), BEGAN, &mut self.rng).await {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), class.bytes());
                    return Ok(Answer::from_bytes(&bytes, class).unwrap());
                }
                Err(AskError::Elsewhere(_)) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Until there is an answer, as a client does: with what repeats without harm.
    async fn ask(&mut self, operation: impl Fn() -> Operation) -> Answer {
        for _ in 0..100 {
            if let Ok(answer) = self.ask_once(&operation).await {
                return answer;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("no answer")
    }

    async fn store(&mut self) {
        assert!(matches!(self.ask(stage).await, Answer::Done));
        assert!(matches!(self.ask(activate).await, Answer::Done));
    }

    async fn left(&mut self) -> u16 {
        match self.ask(|| Operation::View).await {
            Answer::View(view) => view.versions[0].1,
            _ => panic!("not a view"),
        }
    }

    async fn leader(&self) -> usize {
        for _ in 0..100 {
            let leads = |replica: &&Replica| replica.leader() == Some(replica.id());
            if let Some(replica) = self.replicas.iter().find(leads) {
                return self.at(replica.id());
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("no leader")
    }

    async fn kill(&mut self, at: usize) {
        self.replicas.remove(at).stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_charged_outlives_its_leader() {
    let mut group = Group::of(4, 1).await;
    group.store().await;
    let (first, second) = (guess(1), guess(2));
    let [
        Operation::Evaluate { element: first, .. },
        Operation::Evaluate {
            element: second, ..
        },
    ] = [first, second]
    else {
        panic!("not guesses")
    };
    let version = STORED.version;
    let ask = |element| move || Operation::Evaluate { version, element };
    let evaluated = |answer: Answer| match answer {
        Answer::Evaluation(evaluation) => evaluation.to_bytes()[..32].to_vec(),
        _ => panic!("not evaluated"),
    };
    let answer = evaluated(group.ask(ask(first)).await);
    assert_eq!(group.left().await, GUESSES - 1);
    let leader = group.leader().await;
    group.kill(leader).await;
    // Three of four are as many as must hold what is answered. The same guess again is free, at any leader.
    assert_eq!(evaluated(group.ask(ask(first)).await), answer);
    assert_eq!(group.left().await, GUESSES - 1);
    group.ask(ask(second)).await;
    assert_eq!(group.left().await, GUESSES - 2);
    assert!(matches!(
        group.ask(|| claim(false)).await,
        Answer::Refused(Refusal::Wrong { left: 1 })
    ));
    assert!(matches!(group.ask(|| claim(true)).await, Answer::Given(_)));
    assert_eq!(group.left().await, GUESSES);
}

/// A group of five that two replicas are cut off from, and what its leader says to a guess and to a claim.
async fn with_two_away(rollbacks: u8) -> (Group, [Result<Answer, AskError>; 2]) {
    let mut group = Group::of(5, rollbacks).await;
    group.store().await;
    let leader = group.leader().await;
    let ids: Vec<_> = group.replicas.iter().map(Replica::id).collect();
    let away: Vec<_> = (0..5).filter(|i| *i != leader).take(2).collect();
    for i in &away {
        for other in (0..5).filter(|other| !away.contains(other)) {
            group.fabric.cut(ids[*i], ids[other]);
            group.fabric.cut(ids[other], ids[*i]);
        }
    }
    let before = group.replicas[leader].position().sequence;
    let guessed = group.ask_once(|| guess(3)).await;
    let claimed = group.ask_once(|| claim(true)).await;
    // Both were committed and applied, by a majority.
    assert!(group.replicas[leader].position().sequence > before);
    (group, [guessed, claimed])
}

/// Q1. Three of five commit; when one may be turned back, four must hold what is answered. So two that are away silence
/// the realm, though consensus goes on, and what was asked meanwhile is charged when they are back. Were a majority
/// enough, as it is when none may be turned back, the same leader would have answered.
#[tokio::test(start_paused = true)]
async fn what_only_a_majority_holds_is_not_answered() {
    let (mut group, [guessed, claimed]) = with_two_away(1).await;
    assert_eq!(guessed.err(), Some(AskError::Unheld));
    assert_eq!(claimed.err(), Some(AskError::Unheld));
    group.fabric.heal();
    assert!(matches!(
        group.ask(|| guess(3)).await,
        Answer::Evaluation(_)
    ));
    let (_, [guessed, claimed]) = with_two_away(0).await;
    assert!(matches!(guessed, Ok(Answer::Evaluation(_))));
    assert!(matches!(claimed, Ok(Answer::Given(_))));
}

#[tokio::test(start_paused = true)]
async fn a_minority_answers_nothing() {
    let mut group = Group::of(4, 1).await;
    group.store().await;
    let leader = group.leader().await;
    group.kill(leader).await;
    let leader = group.leader().await;
    group.kill(leader).await;
    for _ in 0..5 {
        assert!(group.ask_once(|| Operation::View).await.is_err());
        sleep(Duration::from_secs(1)).await;
    }
}

/// A replica that comes back has another name: it is no member, hears nothing and does not count.
#[tokio::test(start_paused = true)]
async fn who_starts_again_is_a_stranger() {
    let mut group = Group::of(4, 1).await;
    group.store().await;
    for _ in 0..2 {
        let leader = group.leader().await;
        group.kill(leader).await;
        group.boot().await;
        sleep(Duration::from_secs(1)).await;
    }
    let empty = realm().position();
    assert!(
        group.replicas[2..]
            .iter()
            .all(|replica| replica.position() == empty)
    );
    assert!(group.ask_once(|| Operation::View).await.is_err());
}

/// Who was away for long gets the realm instead of the log, since the log is given up again and again: it is what
/// would be left of what was erased.
#[tokio::test(start_paused = true)]
async fn who_was_away_for_long_gets_the_realm() {
    let mut group = Group::of(4, 1).await;
    group.store().await;
    let leader = group.leader().await;
    let ids: Vec<_> = group.replicas.iter().map(Replica::id).collect();
    let away = (leader + 1) % 4;
    for i in (0..4).filter(|i| *i != away) {
        group.fabric.cut(ids[i], ids[away]);
        group.fabric.cut(ids[away], ids[i]);
    }
    for _ in 0..300 {
        group.left().await;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(group.replicas[leader].log_entries() < 200);
    group.fabric.heal();
    for _ in 0..100 {
        if group.replicas[away].position() == group.replicas[leader].position() {
            // And it counts again.
            let other = (leader + 2) % 4;
            group.kill(other).await;
            assert_eq!(group.left().await, GUESSES);
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it never caught up")
}

/// A realm of one replica, for trying: everything is held as soon as it is written.
#[tokio::test(start_paused = true)]
async fn one_replica_is_a_realm_for_trying() {
    let mut group = Group::of(1, 0).await;
    group.store().await;
    assert!(matches!(
        group.ask(|| guess(1)).await,
        Answer::Evaluation(_)
    ));
    assert_eq!(group.left().await, GUESSES - 1);
}

/// A deposit that another realm should get is refused before any replica has it in its log.
#[tokio::test(start_paused = true)]
async fn a_deposit_for_another_realm_is_refused_and_stops_nobody() {
    let other = RealmId([2; 32]);
    let set = RealmSet::new(vec![REALM, other], 2).unwrap();
    let (_, parts) = enrol(
        &Pin::new("2841").unwrap(),
        &Account::new("junto", "ada").unwrap(),
        &set,
        Cost::new(16 * 1024, 12, 1).unwrap(),
        GuessLimit::new(GUESSES, 9).unwrap(),
        &mut ChaCha20Rng::from_seed([2; 32]),
    )
    .unwrap();
    let foreign = parts[1].deposit.to_bytes();
    let foreign = || {
        let deposit = Deposit::from_bytes(&foreign, &other).unwrap();
        Operation::Stage(Box::new(deposit))
    };
    let mut group = Group::of(4, 1).await;
    group.store().await;
    let leader = group.leader().await;
    let before = group.replicas[leader].position();
    assert_eq!(group.ask_once(foreign).await.err(), Some(AskError::Foreign));
    assert_eq!(group.replicas[leader].position(), before);
    assert_eq!(group.left().await, GUESSES);
}
