use super::*;
use crate::fixture::{EACH, LIFETIME, auth, deposit, version};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

#[derive(Clone, Debug)]
enum Step {
    Stage(usize),
    /// Which, and whose PIN is shown besides, rightly or not.
    Activate(usize, Option<(usize, bool)>),
    Settle(usize),
    Charge(usize, u8),
    Claim(usize, bool),
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let former = prop::option::of((0..4_usize, any::<bool>()));
    prop_oneof![
        2 => (0..4_usize).prop_map(Step::Stage),
        2 => (0..4_usize, former).prop_map(|(i, former)| Step::Activate(i, former)),
        1 => (0..4_usize).prop_map(Step::Settle),
        8 => (0..4_usize, 0..40_u8).prop_map(|(i, element)| Step::Charge(i, element)),
        2 => (0..4_usize, any::<bool>()).prop_map(|(i, right)| Step::Claim(i, right)),
        1 => Just(Step::Delete),
    ]
}

/// A rule of the record that a test breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Staging what is kept gives its guesses back.
    RestagingResets,
    /// Activating the newest once more gives its guesses back.
    ActivatingResets,
    /// Not only the last element is free, but every one that was charged for.
    EveryElementAgain,
    /// A guess goes on when none is left.
    NoLimit,
    /// A wrong claim counts as a right one.
    WrongClaimForgives,
    /// Any key counts as proof of a former PIN.
    AnyFormer,
    /// Settling forgets what was guessed at the version that it drops.
    SettlingForgets,
    /// Deleting forgets what was guessed.
    DeletingForgets,
}

/// A record, with one rule broken or none.
struct Subject {
    record: Record,
    broken: Option<Broken>,
    charged: Vec<(usize, u8)>,
}

impl Subject {
    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    fn refill(&mut self, i: usize) {
        for kept in self
            .record
            .kept
            .iter_mut()
            .filter(|kept| kept.is(&version(i)))
        {
            kept.left = EACH;
            kept.unproven = 0;
        }
    }

    /// Whether the record did it.
    fn perform(&mut self, step: &Step) -> bool {
        match *step {
            Step::Stage(i) => {
                if self.is(Broken::RestagingResets) {
                    self.refill(i);
                }
                self.record.stage(deposit(i)).is_ok()
            }
            Step::Activate(i, former) => {
                let any = self.is(Broken::AnyFormer);
                let former = former.map(|(i, right)| (version(i), key(i, right || any)));
                let former = former.as_ref().map(|(version, auth)| (version, auth));
                let done = self.record.activate(&version(i), &auth(i), former).is_ok();
                if done && self.is(Broken::ActivatingResets) {
                    self.refill(i);
                }
                done
            }
            Step::Settle(i) => {
                let debt = self.record.debt;
                let done = self.record.settle(&version(i), &auth(i)).is_ok();
                if self.is(Broken::SettlingForgets) {
                    self.record.debt = debt;
                }
                done
            }
            Step::Charge(i, element) => {
                let held = versions(&self.record).contains(&version(i));
                if held
                    && self.is(Broken::EveryElementAgain)
                    && self.charged.contains(&(i, element))
                {
                    return true;
                }
                if held && self.is(Broken::NoLimit) {
                    self.refill(i);
                }
                self.charged.push((i, element));
                self.record.charge(&version(i), [element; 32]).is_ok()
            }
            Step::Claim(i, right) => {
                if self.is(Broken::WrongClaimForgives) {
                    self.refill(i);
                }
                self.record.claim(&version(i), &key(i, right)).is_ok()
            }
            Step::Delete => {
                self.record.delete();
                if self.is(Broken::DeletingForgets) {
                    self.record = Record::default();
                }
                true
            }
        }
    }
}

fn key(i: usize, right: bool) -> AuthKey {
    if right {
        auth(i)
    } else {
        AuthKey::from_bytes(&[0; 32])
    }
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
        for i in 0..4 {
            if before.contains(&version(i)) && !after.contains(&version(i)) {
                self.gone += core::mem::take(&mut self.of[i]).0;
            }
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

/// Counts what comes of the steps, and says when that is a guess too many.
fn count(steps: &[Step], broken: Option<Broken>) -> Result<(), TestCaseError> {
    let mut subject = Subject {
        record: Record::default(),
        broken,
        charged: Vec::new(),
    };
    let mut guessed = Guessed::default();
    for step in steps {
        let before = versions(&subject.record);
        let done = subject.perform(step);
        match *step {
            Step::Activate(i, Some((former, true))) if done && !before.contains(&version(i)) => {
                guessed.of[former].0 = 0;
            }
            Step::Charge(i, element) if done && guessed.of[i].1 != Some(element) => {
                guessed.of[i].0 += 1;
                guessed.of[i].1 = Some(element);
                prop_assert!(guessed.of[i].0 <= EACH);
            }
            Step::Claim(i, right) => {
                prop_assert!(right || !done);
                if done {
                    guessed.of[i].0 = 0;
                }
            }
            Step::Stage(_)
            | Step::Activate(..)
            | Step::Settle(_)
            | Step::Charge(..)
            | Step::Delete => {}
        }
        guessed.dropped(&before, &versions(&subject.record));
        let all = guessed.gone + guessed.of.iter().map(|(count, _)| count).sum::<u16>();
        prop_assert!(all <= LIFETIME);
    }
    Ok(())
}

proptest! {
    /// G1: at any version there are no more guesses between two proofs than it grants, whatever happens.
    /// G3: over all versions there are no more without a proof than a lifetime's.
    #[test]
    fn guesses_are_bounded(steps in prop::collection::vec(step(), 1..80)) {
        count(&steps, None)?;
    }

    /// What a replica gives another is all there is.
    #[test]
    fn a_record_survives_being_written(steps in prop::collection::vec(step(), 1..60)) {
        let mut subject = Subject { record: Record::default(), broken: None, charged: Vec::new() };
        for step in &steps {
            subject.perform(step);
        }
        let mut bytes = Vec::new();
        subject.record.write(&mut bytes);
        prop_assert!(bytes.len() <= Record::BYTES_MAX);
        let mut reader = Reader::new(&bytes);
        let read = Record::read(&mut reader, &crate::fixture::REALM).unwrap();
        reader.finish().unwrap();
        let mut again = Vec::new();
        read.write(&mut again);
        prop_assert_eq!(bytes, again);
    }
}

/// The count above finds each rule that is broken, so it would find that rule missing.
#[test]
fn every_broken_rule_is_noticed() {
    for broken in [
        Broken::RestagingResets,
        Broken::ActivatingResets,
        Broken::EveryElementAgain,
        Broken::NoLimit,
        Broken::WrongClaimForgives,
        Broken::AnyFormer,
        Broken::SettlingForgets,
        Broken::DeletingForgets,
    ] {
        let config = Config {
            cases: 20_000,
            failure_persistence: None,
            max_shrink_iters: 0,
            ..Config::default()
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let steps = prop::collection::vec(step(), 1..80);
        let outcome =
            TestRunner::new_with_rng(config, rng).run(&steps, |steps| count(&steps, Some(broken)));
        assert!(matches!(outcome, Err(TestError::Fail(..))), "{broken:?}");
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
