use super::*;
use crate::{Account, Cost, GuessLimit, Part, Pin, RealmId, RealmSet, enrol};
use proptest::prelude::*;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use std::sync::LazyLock;

const EACH: u16 = 3;
const LIFETIME: u16 = 7;
const REALM: RealmId = RealmId([1; 32]);

/// Deposits of four versions, and the keys that prove their PINs.
static DEPOSITS: LazyLock<Vec<(Vec<u8>, [u8; 32])>> = LazyLock::new(|| {
    let set = RealmSet::new(vec![REALM], 1).unwrap();
    (0..4)
        .map(|i| {
            let (_, mut deposits) = enrol(
                &Pin::new("2841").unwrap(),
                &Account::new("junto", "ada").unwrap(),
                &set,
                Cost::new(16 * 1024, 12, 1).unwrap(),
                GuessLimit::new(EACH, LIFETIME).unwrap(),
                &mut ChaCha20Rng::from_seed([i; 32]),
            )
            .unwrap();
            let Part { deposit, auth, .. } = deposits.remove(0);
            (deposit.to_bytes().to_vec(), *auth.as_bytes())
        })
        .collect()
});

fn deposit(i: usize) -> Deposit {
    Deposit::from_bytes(&DEPOSITS[i].0, &REALM).unwrap()
}

fn auth(i: usize) -> AuthKey {
    AuthKey::from_bytes(&DEPOSITS[i].1)
}

#[derive(Clone, Debug)]
enum Step {
    Stage(usize),
    Activate(usize, Option<usize>),
    Settle(usize),
    Charge(usize, u8),
    Claim(usize, bool),
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_usize).prop_map(Step::Stage),
        2 => (0..4_usize, prop::option::of(0..4_usize)).prop_map(|(i, former)| Step::Activate(i, former)),
        1 => (0..4_usize).prop_map(Step::Settle),
        8 => (0..4_usize, 0..40_u8).prop_map(|(i, element)| Step::Charge(i, element)),
        2 => (0..4_usize, any::<bool>()).prop_map(|(i, right)| Step::Claim(i, right)),
        1 => Just(Step::Delete),
    ]
}

/// What an adversary has guessed, counted apart from the record.
#[derive(Default)]
struct Guessed {
    /// For each version: guesses since a proof, and the last element, which is free.
    of: [(u16, Option<u8>); 4],
    /// Guesses at versions that are gone.
    gone: u16,
}

impl Guessed {
    fn dropped(&mut self, before: &[Version], after: &[Version]) {
        for i in (0..4).filter(|i| {
            let version = deposit(*i).version();
            before.contains(&version) && !after.contains(&version)
        }) {
            self.gone += core::mem::take(&mut self.of[i]).0;
        }
    }
}

fn versions(record: &Record) -> Vec<Version> {
    record
        .kept
        .iter()
        .map(|kept| kept.deposit.version())
        .collect()
}

proptest! {
    /// G1: at any version there are no more guesses between two proofs than it grants, whatever happens.
    /// G3: over all versions there are no more without a proof than a lifetime's.
    #[test]
    fn guesses_are_bounded(steps in prop::collection::vec(step(), 1..80)) {
        let mut record = Record::default();
        let mut guessed = Guessed::default();
        for step in steps {
            let before = versions(&record);
            match step {
                Step::Stage(i) => drop(record.stage(deposit(i))),
                Step::Activate(i, former) => {
                    let proof = former.map(|i| (deposit(i).version(), auth(i)));
                    let proof = proof.as_ref().map(|(version, auth)| (version, auth));
                    let held = before.contains(&deposit(i).version());
                    if record.activate(&deposit(i).version(), &auth(i), proof).is_ok()
                        && !held
                        && let Some(former) = former
                    {
                        guessed.of[former].0 = 0;
                    }
                }
                Step::Settle(i) => drop(record.settle(&deposit(i).version(), &auth(i))),
                Step::Charge(i, element) => {
                    let charged = record.charge(&deposit(i).version(), [element; 32]);
                    if charged.is_ok() && guessed.of[i].1 != Some(element) {
                        guessed.of[i].0 += 1;
                        guessed.of[i].1 = Some(element);
                        prop_assert!(guessed.of[i].0 <= EACH);
                    }
                }
                Step::Claim(i, right) => {
                    let key = if right { auth(i) } else { AuthKey::from_bytes(&[0; 32]) };
                    let outcome = record.claim(&deposit(i).version(), &key);
                    prop_assert!(right || outcome.is_err());
                    if outcome.is_ok() {
                        guessed.of[i].0 = 0;
                    }
                }
                Step::Delete => record.delete(),
            }
            guessed.dropped(&before, &versions(&record));
            let all = guessed.gone + guessed.of.iter().map(|(count, _)| count).sum::<u16>();
            prop_assert!(all <= LIFETIME);
        }
    }
}

#[test]
fn the_same_element_is_charged_once() {
    let mut record = Record::default();
    record.stage(deposit(0)).unwrap();
    record
        .activate(&deposit(0).version(), &auth(0), None)
        .unwrap();
    let left = |record: &Record| record.view().versions[0].1;
    for _ in 0..5 {
        record.charge(&deposit(0).version(), [1; 32]).unwrap();
        assert_eq!(left(&record), EACH - 1);
    }
    record.charge(&deposit(0).version(), [2; 32]).unwrap();
    // The first once more is a guess: only the last answer can have been lost.
    record.charge(&deposit(0).version(), [1; 32]).unwrap();
    assert_eq!(left(&record), 0);
    // The last guess may still be right.
    let given = record.claim(&deposit(0).version(), &auth(0));
    assert!(given.is_ok());
    assert_eq!(left(&record), EACH);
}

#[test]
fn only_what_was_charged_is_evaluated() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let mut record = Record::default();
    record.stage(deposit(0)).unwrap();
    record
        .activate(&deposit(0).version(), &auth(0), None)
        .unwrap();
    let element = |scalar: u64| {
        let point = curve25519_dalek::RistrettoPoint::mul_base(&Scalar::from(scalar));
        BlindedElement::from_bytes(&point.compress().to_bytes()).unwrap()
    };
    let version = deposit(0).version();
    let first = record.charge(&version, element(1).digest()).unwrap();
    assert!(record.evaluate(&first, &element(1), &mut rng).is_some());
    assert!(record.evaluate(&first, &element(2), &mut rng).is_none());
    record.charge(&version, element(2).digest()).unwrap();
    assert!(record.evaluate(&first, &element(1), &mut rng).is_none());
    record.delete();
    assert!(record.evaluate(&first, &element(1), &mut rng).is_none());
}

/// G1: the version before the newest, stored once more, has no more guesses than it had.
#[test]
fn a_version_that_is_kept_gets_no_guesses_back() {
    let mut record = Record::default();
    let put = |record: &mut Record, i: usize| {
        record.stage(deposit(i)).unwrap();
        record.activate(&deposit(i).version(), &auth(i), None)
    };
    put(&mut record, 0).unwrap();
    put(&mut record, 3).unwrap();
    for element in 0..EACH {
        record
            .charge(&deposit(0).version(), [element as u8; 32])
            .unwrap();
    }
    assert_eq!(put(&mut record, 0), Err(Refusal::Absent));
    assert_eq!(
        record.charge(&deposit(0).version(), [9; 32]),
        Err(Refusal::Exhausted)
    );
}

/// G3: storing the same again and again gives no new guesses, unless the PIN is proven.
#[test]
fn a_lifetime_survives_storing_again() {
    let mut record = Record::default();
    let mut guesses = 0;
    for i in (0..4).cycle().take(40) {
        if record.stage(deposit(i)).is_err() {
            break;
        }
        if record
            .activate(&deposit(i).version(), &auth(i), None)
            .is_err()
        {
            break;
        }
        for element in 0..2 {
            if record.charge(&deposit(i).version(), [element; 32]).is_ok() {
                guesses += 1;
            }
        }
        if i == 3 {
            record.delete();
        }
    }
    assert_eq!(guesses, LIFETIME);
    assert_eq!(record.stage(deposit(0)), Err(Refusal::Spent));
}

#[test]
fn who_shows_the_former_pin_is_forgiven() {
    let mut record = Record::default();
    for i in 0..4 {
        record.stage(deposit(i)).unwrap();
        let former = i.checked_sub(1).map(|i| (deposit(i).version(), auth(i)));
        let former = former.as_ref().map(|(version, auth)| (version, auth));
        record
            .activate(&deposit(i).version(), &auth(i), former)
            .unwrap();
        for element in 0..EACH {
            record
                .charge(&deposit(i).version(), [element as u8; 32])
                .unwrap();
        }
    }
    assert_eq!(record.spent(), EACH);
    // And who shows the PIN itself is forgiven all guesses at it.
    record.claim(&deposit(3).version(), &auth(3)).unwrap();
    assert_eq!(record.spent(), 0);
    assert_eq!(record.view().versions[0].1, EACH);
}

#[test]
fn activation_needs_the_keys_and_may_be_repeated() {
    let mut record = Record::default();
    record.stage(deposit(0)).unwrap();
    let version = deposit(0).version();
    assert_eq!(
        record.activate(&version, &auth(1), None),
        Err(Refusal::Absent)
    );
    assert_eq!(
        record.activate(&deposit(1).version(), &auth(1), None),
        Err(Refusal::Absent)
    );
    assert_eq!(record.view().state, State::Absent);
    record.activate(&version, &auth(0), None).unwrap();
    record.charge(&version, [1; 32]).unwrap();
    // A repetition gives no guesses back.
    record.activate(&version, &auth(0), None).unwrap();
    assert_eq!(
        record.activate(&version, &auth(1), None),
        Err(Refusal::Absent)
    );
    assert_eq!(record.view().versions[0].1, EACH - 1);
}

#[test]
fn receipts_are_a_chain() {
    let mut record = Record::default();
    record.stage(deposit(0)).unwrap();
    record
        .activate(&deposit(0).version(), &auth(0), None)
        .unwrap();
    for element in 0..=EACH {
        let _ = record.charge(&deposit(0).version(), [element as u8; 32]);
    }
    let events: Vec<_> = record
        .receipts()
        .iter()
        .map(|receipt| (receipt.event, receipt.left))
        .collect();
    let charged = |left| (Event::Charged, left);
    assert_eq!(
        events,
        [
            (Event::Activated, 3),
            charged(2),
            charged(1),
            charged(0),
            (Event::Erased, 0)
        ]
    );
    let mut head = [0; 32];
    for receipt in record.receipts() {
        head = sha256_of(&[
            b"junto vault receipt",
            &head,
            &receipt.sequence.to_be_bytes(),
            &[receipt.event as u8],
            &receipt.left.to_be_bytes(),
        ]);
        assert_eq!(receipt.head, head);
    }
    assert_eq!(record.view().head, head);
    assert_eq!(
        record.charge(&deposit(0).version(), [9; 32]),
        Err(Refusal::Exhausted)
    );
}
