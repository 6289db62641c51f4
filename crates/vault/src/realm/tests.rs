use super::*;
use crate::{
    AuthKey, Holders, Quorum, ReplicaId, State,
    fixture::{EACH, REALM, auth, deposit, version},
};
use junto_crypto::ed25519::SigningKey;
use proptest::prelude::*;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

const BEGAN: Seconds = Seconds(1_700_000_000);

fn tenant(i: u8) -> SigningKey {
    SigningKey::from_seed(&[i; 32])
}

fn account(tenant: u8, user: &str) -> Account {
    Account::new(&format!("tenant{tenant}"), user).unwrap()
}

fn genesis(secret: u8) -> Genesis {
    Genesis {
        realm: REALM,
        secret: Zeroizing::new([secret; 32]),
        tenants: (1..=2)
            .map(|i| (format!("tenant{i}"), tenant(i).verifying_key()))
            .collect(),
        records_max: 3,
        time: BEGAN,
    }
}

fn realm() -> Realm {
    Realm::new(genesis(7)).unwrap()
}

fn token(realm: &Realm, user: &str) -> Token {
    let expires = Seconds(realm.time().0 + 300);
    Token::issue(account(1, user), &REALM, expires, &tenant(1))
}

/// One realm of one replica: what it applies is released at once.
struct Alone {
    realm: Realm,
    rng: ChaCha20Rng,
}

impl Alone {
    fn new() -> Self {
        Self {
            realm: realm(),
            rng: ChaCha20Rng::from_seed([3; 32]),
        }
    }

    fn ask_of(&mut self, user: &str, operation: Operation) -> Answer {
        let token = token(&self.realm, user);
        let entry = self.realm.admit(&token, operation, BEGAN).unwrap();
        let start = self.realm.position();
        let pending = self.realm.apply(entry);
        let me = ReplicaId([0; 32]);
        let mut holders = Holders::new(Quorum::new(1, 0).unwrap(), &[me], me, start).unwrap();
        holders.applied(pending.position());
        let released = holders.released(&pending.position()).unwrap();
        let class = pending.class();
        let answer = self
            .realm
            .answer(pending, &released, &mut self.rng)
            .unwrap();
        Answer::from_bytes(&answer.to_bytes(class), class).unwrap()
    }

    fn ask(&mut self, operation: Operation) -> Answer {
        self.ask_of("ada", operation)
    }

    fn store(&mut self, i: usize) {
        assert!(matches!(
            self.ask(Operation::Stage(deposit(i))),
            Answer::Done
        ));
        assert!(matches!(self.ask(activate(i)), Answer::Done));
    }

    fn left(&mut self) -> u16 {
        match self.ask(Operation::View) {
            Answer::View(view) => view.versions[0].1,
            _ => panic!("not a view"),
        }
    }
}

fn activate(i: usize) -> Operation {
    Operation::Activate {
        version: version(i),
        auth: auth(i),
        former: None,
    }
}

fn element(i: u8) -> BlindedElement {
    let point = curve25519_dalek::RistrettoPoint::mul_base(&(u64::from(i) + 1).into());
    BlindedElement::from_bytes(&point.compress().to_bytes()).unwrap()
}

fn guess(i: usize, element_of: u8) -> Operation {
    Operation::Evaluate {
        version: version(i),
        element: element(element_of),
    }
}

fn claim(i: usize, right: bool) -> Operation {
    let wrong = || AuthKey::from_bytes(&[0; 32]);
    Operation::Claim {
        version: version(i),
        auth: if right { auth(i) } else { wrong() },
    }
}

#[test]
fn only_a_live_token_of_a_tenant_for_this_realm_admits() {
    let realm = realm();
    let admits = |token: &Token| realm.admit(token, Operation::View, BEGAN).is_ok();
    let issue = |realm, expires, key: u8| {
        Token::issue(
            account(1, "ada"),
            realm,
            Seconds(BEGAN.0 + expires),
            &tenant(key),
        )
    };
    assert!(admits(&issue(&REALM, 1, 1)) && admits(&issue(&REALM, 600, 1)));
    // Over; longer than a token may live; of another tenant; for another realm; of no tenant.
    assert!(!admits(&issue(&REALM, 0, 1)) && !admits(&issue(&REALM, 601, 1)));
    assert!(!admits(&issue(&REALM, 300, 2)) && !admits(&issue(&RealmId([2; 32]), 300, 1)));
    let stranger = Token::issue(account(3, "ada"), &REALM, Seconds(BEGAN.0 + 9), &tenant(1));
    assert!(!admits(&stranger));
    // A user cannot make itself another one, nor its token longer.
    let bytes = issue(&REALM, 300, 1).to_bytes();
    for i in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[i] ^= 1;
        assert!(!Token::from_bytes(&altered).is_ok_and(|token| admits(&token)));
    }
    assert!(admits(&Token::from_bytes(&bytes).unwrap()));
}

#[test]
fn a_token_that_ends_in_the_log_is_late() {
    let mut alone = Alone::new();
    alone.store(0);
    let before = alone.left();
    let late = alone
        .realm
        .admit(&token(&alone.realm, "ada"), guess(0, 1), BEGAN)
        .unwrap();
    for minute in 1..=5 {
        let _ = alone
            .realm
            .apply(Entry::tick(Seconds(BEGAN.0 + 60 * minute)));
    }
    let pending = alone.realm.apply(late);
    assert!(matches!(pending.outcome, Outcome::Refused(Refusal::Late)));
    assert_eq!(alone.left(), before);
}

/// Whoever has a token of one tenant reaches nothing of another, and realms do not name a user alike.
#[test]
fn records_belong_to_one_user_of_one_tenant() {
    let one = realm();
    let other = Realm::new(genesis(8)).unwrap();
    let names = [
        one.record_of(&account(1, "ada")),
        one.record_of(&account(2, "ada")),
        one.record_of(&account(1, "bob")),
        other.record_of(&account(1, "ada")),
    ];
    for (i, name) in names.iter().enumerate() {
        assert!(name.is_some() && !names[..i].contains(name));
    }
    assert!(one.record_of(&account(3, "ada")).is_none());
    let mut alone = Alone::new();
    alone.store(0);
    assert!(matches!(
        alone.ask_of("bob", claim(0, true)),
        Answer::Refused(Refusal::Absent)
    ));
}

#[test]
fn a_full_realm_takes_no_new_record_and_keeps_the_others() {
    let mut alone = Alone::new();
    alone.store(0);
    for user in ["bob", "eve"] {
        assert!(matches!(
            alone.ask_of(user, Operation::Stage(deposit(1))),
            Answer::Done
        ));
    }
    // Asking makes no record.
    assert!(matches!(
        alone.ask_of("joe", claim(0, true)),
        Answer::Refused(Refusal::Absent)
    ));
    assert!(matches!(
        alone.ask_of("joe", Operation::Stage(deposit(1))),
        Answer::Refused(Refusal::Full)
    ));
    alone.store(2);
    assert_eq!(alone.realm.records(), 3);
    // Another tenant has places of its own, and a replica that got a snapshot counts as the others do.
    for mut realm in [
        Realm::restore(&alone.realm.snapshot()).unwrap(),
        alone.realm,
    ] {
        let mut stage = |of: u8| {
            let expires = Seconds(BEGAN.0 + 300);
            let token = Token::issue(account(of, "joe"), &REALM, expires, &tenant(of));
            let operation = Operation::Stage(deposit(1));
            let entry = realm.admit(&token, operation, BEGAN).unwrap();
            realm.apply(entry).outcome
        };
        assert!(matches!(stage(2), Outcome::Done));
        assert!(matches!(stage(1), Outcome::Refused(Refusal::Full)));
    }
}

/// A record is forgotten when it is deleted, and not before what was guessed at it is proven.
#[test]
fn a_deleted_record_gives_its_place_back_unless_it_owes() {
    let mut alone = Alone::new();
    for _ in 0..5 {
        for user in ["ada", "bob", "eve"] {
            assert!(matches!(
                alone.ask_of(user, Operation::Stage(deposit(0))),
                Answer::Done
            ));
        }
        assert_eq!(alone.realm.records(), 3);
        for user in ["ada", "bob", "eve"] {
            alone.ask_of(user, Operation::Delete);
        }
        assert_eq!(alone.realm.records(), 0);
    }
    alone.store(0);
    let whole = alone.left();
    alone.ask(guess(0, 1));
    alone.ask(Operation::Delete);
    assert_eq!(alone.realm.records(), 1);
    // Storing again counts what was guessed before: the id's account is what is left, not the version's.
    alone.store(0);
    alone.ask(guess(0, 2));
    alone.ask(claim(0, true));
    assert_eq!(alone.left(), whole);
    alone.ask(Operation::Delete);
    assert_eq!(alone.realm.records(), 1);
}

/// C2: what is asked shows nothing of the PIN by its size, and what is answered nothing of what came of it.
#[test]
fn sizes_tell_nothing() {
    let mut alone = Alone::new();
    let mut sizes = |store: bool| {
        if store {
            alone.store(0);
        }
        let asked = [
            Operation::View,
            Operation::Receipts,
            guess(0, 1),
            claim(0, false),
            claim(0, true),
            guess(1, 1),
            Operation::Delete,
        ];
        asked.map(|operation| {
            let token = token(&alone.realm, "ada");
            let class = operation.class();
            let entry = alone.realm.admit(&token, operation, BEGAN).unwrap();
            let size = entry.to_bytes().len();
            let Asked::Request(user) = entry.asked else {
                panic!("not of a client")
            };
            let answer = alone.ask(user.operation).to_bytes(class).len();
            (size, answer)
        })
    };
    let (absent, present) = (sizes(false), sizes(true));
    assert_eq!(absent, present);
    assert!(present[2..].iter().all(|size| *size == present[2]));
    assert_eq!(present[0].0, present[2].0);
}

/// A guess whose answer was lost is repeated for nothing, also at another replica after a change of leaders.
#[test]
fn the_same_guess_again_costs_nothing() {
    let mut alone = Alone::new();
    alone.store(0);
    let evaluated = |answer: Answer| match answer {
        Answer::Evaluation(evaluation) => evaluation.to_bytes()[..32].to_vec(),
        _ => panic!("not evaluated"),
    };
    let first = evaluated(alone.ask(guess(0, 1)));
    assert_eq!(alone.left(), EACH - 1);
    alone.realm = Realm::restore(&alone.realm.snapshot()).unwrap();
    assert_eq!(evaluated(alone.ask(guess(0, 1))), first);
    assert_eq!(alone.left(), EACH - 1);
    assert_ne!(evaluated(alone.ask(guess(0, 2))), first);
    assert_eq!(alone.left(), EACH - 2);
}

/// A guess that another one overtakes between its charge and its answer is not evaluated for nothing.
#[test]
fn a_guess_that_is_overtaken_is_not_evaluated() {
    let mut alone = Alone::new();
    alone.store(0);
    let mut pend = |element| {
        let token = token(&alone.realm, "ada");
        let entry = alone.realm.admit(&token, guess(0, element), BEGAN).unwrap();
        alone.realm.apply(entry)
    };
    let (first, second) = (pend(1), pend(2));
    let me = ReplicaId([0; 32]);
    let start = alone.realm.position();
    let mut holders = Holders::new(Quorum::new(1, 0).unwrap(), &[me], me, start).unwrap();
    holders.applied(first.position());
    holders.applied(second.position());
    let mut answer = |pending: Pending| {
        let released = holders.released(&pending.position()).unwrap();
        alone
            .realm
            .answer(pending, &released, &mut alone.rng)
            .unwrap()
    };
    assert!(matches!(answer(first), Answer::Refused(Refusal::Overtaken)));
    assert!(matches!(answer(second), Answer::Evaluation(_)));
}

/// M2, in this layer: after the guesses ran out, or a deletion, nothing of what was stored is in the state.
#[test]
fn what_is_erased_is_gone_from_the_state() {
    for exhaust in [false, true] {
        let mut alone = Alone::new();
        alone.store(0);
        // Staged too.
        alone.ask(Operation::Stage(deposit(1)));
        let canaries: Vec<_> = [deposit(0), deposit(1)]
            .iter()
            .flat_map(|deposit| {
                let share = |scalar: &curve25519_dalek::Scalar| scalar.to_bytes();
                [
                    share(&deposit.key_share),
                    share(&deposit.share),
                    deposit.verifier,
                    deposit.wrapped,
                ]
            })
            .collect();
        let holds = |alone: &Alone, canary: &[u8; 32]| {
            let state = alone.realm.snapshot();
            state.windows(32).any(|window| window == canary)
        };
        assert!(canaries.iter().all(|canary| holds(&alone, canary)));
        if exhaust {
            for i in 0..EACH {
                alone.ask(guess(0, u8::try_from(i).unwrap()));
            }
            assert!(matches!(
                alone.ask(claim(0, false)),
                Answer::Refused(Refusal::Exhausted)
            ));
            let Answer::View(view) = alone.ask(Operation::View) else {
                panic!("not a view")
            };
            assert_eq!(view.state, State::Exhausted);
        } else {
            alone.ask(Operation::Delete);
        }
        assert!(!canaries.iter().any(|canary| holds(&alone, canary)));
        assert!(matches!(alone.ask(claim(0, true)), Answer::Refused(_)));
    }
}

/// G4 and Q1, with a leader and three followers of which one may be turned back: nothing is said before three hold it.
#[test]
fn nothing_is_answered_before_enough_replicas_hold_it() {
    let names: Vec<_> = (0..4).map(|i| ReplicaId([i; 32])).collect();
    let mut replicas: Vec<_> = (0..4).map(|_| realm()).collect();
    let quorum = Quorum::new(4, 1).unwrap();
    let mut rng = ChaCha20Rng::from_seed([4; 32]);
    let start = replicas[0].position();
    let mut holders = Holders::new(quorum, &names, names[0], start).unwrap();
    for operation in [
        Operation::Stage(deposit(0)),
        activate(0),
        guess(0, 1),
        claim(0, true),
    ] {
        let token = token(&replicas[0], "ada");
        let entry = replicas[0].admit(&token, operation, BEGAN).unwrap();
        let bytes = entry.to_bytes();
        let mut pending = replicas[0].apply(entry);
        let here = pending.position();
        holders.applied(here);
        for follower in 1..4 {
            let ready = holders.released(&here).is_some();
            assert_eq!(ready, follower > 2);
            let entry = Entry::from_bytes(&bytes, &REALM).unwrap();
            let _ = replicas[follower].apply(entry);
            holders
                .acknowledged(names[follower], replicas[follower].position())
                .unwrap();
        }
        // The proof for another entry is not the proof for this one.
        let sound = core::mem::replace(&mut pending.position.head, [9; 32]);
        let released = holders.released(&here).unwrap();
        assert!(replicas[0].answer(pending, &released, &mut rng).is_none());
        assert_eq!(sound, here.head);
    }
}

/// G1 where one of four is turned back, and it is the leader: it can charge again, and gets no answer out.
#[test]
fn a_leader_that_was_turned_back_answers_no_second_guess() {
    let names: Vec<_> = (0..4).map(|i| ReplicaId([i; 32])).collect();
    let quorum = Quorum::new(4, 1).unwrap();
    let mut alone = Alone::new();
    alone.store(0);
    let before = alone.realm.snapshot();
    let mut replicas: Vec<_> = (0..4).map(|_| Realm::restore(&before).unwrap()).collect();
    let start = replicas[0].position();
    let reign = |start| Holders::new(quorum, &names, names[0], start).unwrap();
    let mut evaluated = 0;
    for guessed in 0..20 {
        // Each time with the memory of before any guess, its leadership with it.
        let mut leader = Realm::restore(&before).unwrap();
        let mut holders = reign(start);
        let token = token(&leader, "ada");
        let entry = leader.admit(&token, guess(0, guessed), BEGAN).unwrap();
        let bytes = entry.to_bytes();
        let pending = leader.apply(entry);
        holders.applied(pending.position());
        for (i, replica) in replicas.iter_mut().enumerate().skip(1) {
            // Consensus takes what they have at this place for the same entry.
            if replica.position() == start {
                let _ = replica.apply(Entry::from_bytes(&bytes, &REALM).unwrap());
            }
            let _ = holders.acknowledged(names[i], replica.position());
        }
        if let Some(released) = holders.released(&pending.position()) {
            evaluated += usize::from(leader.answer(pending, &released, &mut alone.rng).is_some());
        }
    }
    assert_eq!(evaluated, 1);
}

fn operation() -> impl Strategy<Value = (bool, u64, u8, usize, u8)> {
    (any::<bool>(), 0..200_u64, 0..9_u8, 0..3_usize, 0..9_u8)
}

fn made((_, _, kind, i, element): (bool, u64, u8, usize, u8)) -> Operation {
    match kind {
        0 => Operation::View,
        1 => Operation::Receipts,
        2 => Operation::Stage(deposit(i)),
        3 => Operation::Activate {
            version: version(i),
            auth: auth(i),
            former: (element > 4).then(|| (version(0), auth(0))),
        },
        4 => Operation::Settle {
            version: version(i),
            auth: auth(i),
        },
        5 => claim(i, element > 2),
        6 if element > 6 => Operation::Delete,
        _ => guess(i, element),
    }
}

proptest! {
    /// Replicas that apply the same, as bytes from a log and over a snapshot, are alike to the last byte.
    /// T1: their time never goes back, and goes no faster than it may.
    #[test]
    fn replicas_agree(asked in prop::collection::vec(operation(), 1..40), turn in 0..40_usize) {
        let (mut leader, mut follower) = (realm(), realm());
        for (step, what) in asked.into_iter().enumerate() {
            let user = if what.0 { "ada" } else { "bob" };
            let reading = Seconds((BEGAN.0 + what.1).saturating_sub(100));
            let token = token(&leader, user);
            let entry = leader.admit(&token, made(what), reading).unwrap();
            let bytes = entry.to_bytes();
            prop_assert!(bytes.len() <= Entry::BYTES_MAX);
            let read = Entry::from_bytes(&bytes, &REALM).unwrap();
            prop_assert_eq!(&*read.to_bytes(), &*bytes);
            let before = leader.time();
            let _ = leader.apply(entry);
            prop_assert!(leader.time() >= before && leader.time().0 <= before.0 + Realm::STEP_MAX);
            let _ = follower.apply(read);
            if step == turn {
                follower = Realm::restore(&follower.snapshot()).unwrap();
            }
            prop_assert_eq!(leader.position(), follower.position());
            prop_assert_eq!(leader.time(), follower.time());
        }
        prop_assert_eq!(&*leader.snapshot(), &*follower.snapshot());
    }

    #[test]
    fn decoders_take_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..8_u8) {
        let _ = Token::from_bytes(&bytes);
        let _ = Realm::restore(&bytes);
        bytes.resize(Operation::BYTES, 0);
        bytes[0] = kind;
        if let Ok(operation) = Operation::from_bytes(&bytes, &REALM) {
            prop_assert_eq!(&*operation.to_bytes(), &bytes);
        }
    }

    /// A snapshot that was cut or grew is refused.
    #[test]
    fn a_cut_snapshot_is_refused(cut in 1..200_usize) {
        let mut alone = Alone::new();
        alone.store(0);
        let whole = alone.realm.snapshot();
        prop_assert!(Realm::restore(&whole[..whole.len().saturating_sub(cut)]).is_err());
        let longer = [&whole[..], &[0]].concat();
        prop_assert!(Realm::restore(&longer).is_err());
    }
}

#[test]
fn what_does_not_fit_is_no_genesis() {
    let mut many = genesis(1);
    many.tenants = (0..=Realm::TENANTS_MAX)
        .map(|i| (i.to_string(), tenant(1).verifying_key()))
        .collect();
    assert!(Realm::new(many).is_err());
    let mut unnamed = genesis(1);
    unnamed
        .tenants
        .insert(String::new(), tenant(1).verifying_key());
    assert!(Realm::new(unnamed).is_err());
    // Replicas that began otherwise never acknowledge each other.
    let mut other = genesis(7);
    other.records_max = 4;
    assert_ne!(Realm::new(other).unwrap().position(), realm().position());
}
